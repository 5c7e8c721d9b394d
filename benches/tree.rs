//! How long a look at an unchanged tree of 100,000 files takes, and a look that has to read them all.
#![expect(clippy::disallowed_methods, reason = "makes its own tree")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use lane::inputs::{Scan, scan};
use lane::world::{Clock, SystemClock, World};

const FOLDERS: usize = 100;
const FILES: usize = 1000;

fn main() {
    divan::main();
}

/// A minute ahead, so that the files made just now count as settled.
#[derive(Debug)]
struct Ahead;

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        SystemClock.now() + SignedDuration::from_secs(60)
    }
}

fn make(root: &Path) -> std::io::Result<()> {
    for folder in 0..FOLDERS {
        let folder = root.join(format!("folder-{folder:03}"));
        fs::create_dir_all(&folder)?;
        for file in 0..FILES {
            fs::File::create(folder.join(format!("file-{file:04}.rs"))).and_then(|mut opened| {
                std::io::Write::write_all(&mut opened, format!("{file}").as_bytes())
            })?;
        }
    }
    Ok(())
}

fn look(root: &Path, cache: &Path) -> Scan {
    let world = World::fixed(Arc::new(Ahead), BTreeMap::new(), PathBuf::from("/"));
    scan(&world, root, &[], cache).expect("a tree of plain files")
}

#[divan::bench(sample_count = 10, sample_size = 1)]
fn unchanged(bencher: divan::Bencher<'_, '_>) {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let (root, cache) = (temp.path().join("tree"), temp.path().join("cache"));
    make(&root).expect("100,000 files");
    assert_eq!(look(&root, &cache).content_reads, FOLDERS * FILES);
    bencher.bench_local(|| assert_eq!(look(&root, &cache).content_reads, 0));
}

#[divan::bench(sample_count = 3, sample_size = 1)]
fn first(bencher: divan::Bencher<'_, '_>) {
    let temp = tempfile::tempdir().expect("a temporary folder");
    let (root, cache) = (temp.path().join("tree"), temp.path().join("cache"));
    make(&root).expect("100,000 files");
    bencher.bench_local(|| {
        drop(fs::File::create(&cache));
        assert_eq!(look(&root, &cache).content_reads, FOLDERS * FILES);
    });
}
