//! A source folder as a sorted list of files with digests: what a sync brings over, and what a plan compares.
//!
//! What `.gitignore` files inside the folder leave out stays out; nothing outside of it (a parent's `.gitignore`, the
//! user's global one, `.git/info/exclude`) has a say, so that every machine sees the same tree. Knows no spec.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering as Atomic};
use std::sync::{Mutex, PoisonError};

use ignore::gitignore::{Gitignore, GitignoreBuilder};
use ignore::{DirEntry, ParallelVisitor, ParallelVisitorBuilder, WalkBuilder, WalkState};
use serde::{Deserialize, Serialize};

use super::cache::{self, Cached, Stamp};
use crate::plan::{Digest, Digester};
use crate::world::{World, fs};

/// How many entries that cannot be copied are named.
const SHOWN: usize = 5;

/// A folder's files, sorted by the bytes of their paths.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tree {
    /// Digest of all entries.
    pub digest: Digest,
    /// Files and symlinks; an empty folder is not in here.
    pub entries: Vec<TreeEntry>,
}

/// One file or symlink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TreeEntry {
    /// Path relative to the folder.
    pub path: String,
    /// What it is.
    pub kind: TreeKind,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum TreeKind {
    /// A regular file.
    File {
        /// Whether its owner may run it.
        executable: bool,
        /// In bytes.
        size: u64,
        /// Of its content.
        digest: Digest,
    },
    /// A symlink, kept as one.
    Symlink {
        /// What it says.
        target: String,
    },
}

impl Tree {
    /// Sorts entries and digests them.
    pub fn new(mut entries: Vec<TreeEntry>) -> Self {
        entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let mut digester = Digester::new("tree");
        for TreeEntry { path, kind } in &entries {
            let (tag, value): (&[u8], &str) = match kind {
                TreeKind::File { executable: false, digest, .. } => (b"file", digest.as_str()),
                TreeKind::File { executable: true, digest, .. } => (b"executable", digest.as_str()),
                TreeKind::Symlink { target } => (b"symlink", target),
            };
            digester.field(path.as_bytes()).field(tag).field(value.as_bytes());
        }
        Self { digest: digester.finish(), entries }
    }

    /// Returns the paths that are new or different here, sorted; see [`removed`](Self::removed) for the others.
    pub fn changed(&self, older: &Self) -> Vec<String> {
        let known: BTreeMap<&str, &TreeKind> =
            older.entries.iter().map(|entry| (entry.path.as_str(), &entry.kind)).collect();
        let changed =
            self.entries.iter().filter(|entry| known.get(entry.path.as_str()) != Some(&&entry.kind));
        changed.map(|entry| entry.path.clone()).collect()
    }

    /// Returns the paths that `older` has and this tree has not, sorted.
    pub fn removed(&self, older: &Self) -> Vec<String> {
        let kept: std::collections::BTreeSet<&str> =
            self.entries.iter().map(|entry| entry.path.as_str()).collect();
        let removed = older.entries.iter().filter(|entry| !kept.contains(entry.path.as_str()));
        removed.map(|entry| entry.path.clone()).collect()
    }
}

/// Why a folder could not be listed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TreeError {
    /// An `exclude` pattern is not one.
    #[error("the pattern {pattern:?} does not read: {message}")]
    Pattern {
        /// As written.
        pattern: String,
        /// What is wrong with it.
        message: String,
    },
    /// The folder itself cannot be read.
    #[error("the folder {} cannot be read: {source}", .path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Some of its entries cannot be copied.
    #[error("{count} of its entries cannot be copied: {}", .shown.join("; "))]
    Entries {
        /// How many.
        count: usize,
        /// The first few, each with its reason.
        shown: Vec<String>,
    },
}

/// A tree, and what it took to digest it.
#[derive(Debug, Clone)]
pub struct Scan {
    /// The tree.
    pub tree: Tree,
    /// How many files' contents were read; the others were known by their metadata.
    pub content_reads: usize,
}

/// Lists and digests a folder; the digests of unchanged files come from `cache_file`.
pub fn scan(world: &World, folder: &Path, exclude: &[String], cache_file: &Path) -> Result<Scan, TreeError> {
    let before = i64::try_from(world.now().as_nanosecond()).unwrap_or(i64::MAX);
    // The walker does not descend into a root that is a symlink.
    let root = fs::canonicalize(folder);
    let root = root.map_err(|source| TreeError::Folder { path: folder.to_owned(), source })?;
    let Walked { mut found, mut problems } = walk(&root, excludes(&root, exclude)?);
    found.sort_unstable_by(|a, b| a.path.cmp(&b.path));

    let bytes = fs::read_optional(cache_file).ok().flatten().unwrap_or_default();
    let cached = cache::parse(&bytes);
    let mut digests = look_up(&found, &cached);
    let unknown: Vec<usize> =
        (0..found.len()).filter(|&at| digests[at].is_none() && found[at].is_file()).collect();
    let content_reads = unknown.len();
    for (at, digest) in read_contents(&root, &found, &unknown) {
        match digest {
            Ok(digest) => digests[at] = digest.raw(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => problems.push(format!("{}: {error}", found[at].path)),
        }
    }
    if !problems.is_empty() {
        problems.sort();
        let count = problems.len();
        problems.truncate(SHOWN);
        return Err(TreeError::Entries { count, shown: problems });
    }

    save(cache_file, &found, &digests, &cached, &unknown, before);
    let entry = |(found, digest): (Found, Option<[u8; 32]>)| {
        let kind = match found.kind {
            FoundKind::Symlink { target } => TreeKind::Symlink { target },
            // A file that was deleted under our eyes has no digest and is no entry.
            FoundKind::File { executable, stamp } => {
                TreeKind::File { executable, size: stamp.size, digest: Digest::from_raw(digest?) }
            }
        };
        Some(TreeEntry { path: found.path, kind })
    };
    let tree = Tree::new(found.into_iter().zip(digests).filter_map(entry).collect());
    Ok(Scan { tree, content_reads })
}

fn excludes(root: &Path, patterns: &[String]) -> Result<Gitignore, TreeError> {
    let mut builder = GitignoreBuilder::new(root);
    for pattern in patterns {
        let wrong = |error: ignore::Error| TreeError::Pattern {
            pattern: pattern.clone(),
            message: error.to_string(),
        };
        builder.add_line(None, pattern).map_err(wrong)?;
    }
    builder
        .build()
        .map_err(|error| TreeError::Pattern { pattern: patterns.join(" "), message: error.to_string() })
}

/// An entry with its metadata, before its content is known.
#[derive(Debug)]
struct Found {
    path: String,
    kind: FoundKind,
}

#[derive(Debug)]
enum FoundKind {
    File { executable: bool, stamp: Stamp },
    Symlink { target: String },
}

impl Found {
    fn is_file(&self) -> bool {
        matches!(self.kind, FoundKind::File { .. })
    }
}

/// What a walk, or one of its threads, came across.
#[derive(Debug, Default)]
struct Walked {
    found: Vec<Found>,
    /// Entries that cannot be copied, with the reason.
    problems: Vec<String>,
}

/// Lists a folder with as many threads as there are cores, in no order.
fn walk(root: &Path, excludes: Gitignore) -> Walked {
    let base = root.to_owned();
    let walk = WalkBuilder::new(root)
        .standard_filters(false)
        .git_ignore(true)
        .require_git(false)
        .filter_entry(move |entry| {
            let is_dir = entry.file_type().is_some_and(|kind| kind.is_dir());
            let inside = entry.path().strip_prefix(&base).unwrap_or(entry.path());
            // In a submodule or a worktree `.git` is a file that names a path of this machine.
            entry.file_name() != ".git" && !excludes.matched(inside, is_dir).is_ignore()
        })
        .build_parallel();
    let all = Mutex::new(Walked::default());
    walk.visit(&mut Visitors { root, all: &all });
    all.into_inner().unwrap_or_else(PoisonError::into_inner)
}

struct Visitors<'s> {
    root: &'s Path,
    all: &'s Mutex<Walked>,
}

impl<'s> ParallelVisitorBuilder<'s> for Visitors<'s> {
    fn build(&mut self) -> Box<dyn ParallelVisitor + 's> {
        Box::new(Visitor { root: self.root, all: self.all, mine: Walked::default() })
    }
}

/// Collects without a lock; hands over when its thread is through.
struct Visitor<'s> {
    root: &'s Path,
    all: &'s Mutex<Walked>,
    mine: Walked,
}

impl ParallelVisitor for Visitor<'_> {
    fn visit(&mut self, entry: Result<DirEntry, ignore::Error>) -> WalkState {
        let looked = match entry {
            Ok(entry) => look(self.root, &entry),
            Err(error) => Err((error.to_string(), error.into_io_error())),
        };
        match looked {
            Ok(found) => self.mine.found.extend(found),
            // Deleted between the listing and the look.
            Err((_, Some(error))) if error.kind() == io::ErrorKind::NotFound => {}
            Err((message, _)) => self.mine.problems.push(message),
        }
        WalkState::Continue
    }
}

impl Drop for Visitor<'_> {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.found.append(&mut self.mine.found);
        all.problems.append(&mut self.mine.problems);
    }
}

/// Reads an entry's metadata; `None` for folders, sockets, pipes and devices.
fn look(root: &Path, entry: &DirEntry) -> Result<Option<Found>, (String, Option<io::Error>)> {
    let Some(kind) = entry.file_type() else { return Ok(None) };
    if !kind.is_file() && !kind.is_symlink() {
        return Ok(None);
    }
    let inside = entry.path().strip_prefix(root).unwrap_or(entry.path());
    let Some(path) = inside.to_str().map(str::to_owned) else {
        return Err((format!("{}: its name is not UTF-8", inside.display()), None));
    };
    let failed = |error: io::Error| (format!("{path}: {error}"), Some(error));
    let kind = if kind.is_symlink() {
        let target = fs::read_link(entry.path()).map_err(failed)?;
        let Ok(target) = target.into_os_string().into_string() else {
            return Err((format!("{path}: its target is not UTF-8"), None));
        };
        FoundKind::Symlink { target }
    } else {
        let metadata = fs::metadata(entry.path()).map_err(failed)?;
        let ns = |seconds: i64, ns: i64| seconds.saturating_mul(1_000_000_000).saturating_add(ns);
        let stamp = Stamp {
            size: metadata.size(),
            inode: metadata.ino(),
            mtime: ns(metadata.mtime(), metadata.mtime_nsec()),
            ctime: ns(metadata.ctime(), metadata.ctime_nsec()),
        };
        FoundKind::File { executable: metadata.mode() & 0o100 != 0, stamp }
    };
    Ok(Some(Found { path, kind }))
}

/// Takes the digests of unchanged files out of the cache; both lists are sorted by path.
fn look_up(found: &[Found], cached: &[Cached<'_>]) -> Vec<Option<[u8; 32]>> {
    let mut cached = cached.iter().peekable();
    let mut digest_of = |found: &Found| {
        let FoundKind::File { stamp, .. } = &found.kind else { return None };
        loop {
            match cached.peek()?.path.cmp(found.path.as_str()) {
                Ordering::Less => drop(cached.next()),
                Ordering::Equal => {
                    return cached.next().filter(|old| old.stamp == *stamp).map(|old| old.digest);
                }
                Ordering::Greater => return None,
            }
        }
    };
    found.iter().map(&mut digest_of).collect()
}

/// Digests contents with as many threads as there are cores.
fn read_contents(root: &Path, found: &[Found], which: &[usize]) -> Vec<(usize, io::Result<Digest>)> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(which.len());
    let next = AtomicUsize::new(0);
    let all = Mutex::new(Vec::with_capacity(which.len()));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let mut mine = Vec::new();
                while let Some(&at) = which.get(next.fetch_add(1, Atomic::Relaxed)) {
                    mine.push((at, fs::open(&root.join(&found[at].path)).and_then(Digest::of_reader)));
                }
                all.lock().unwrap_or_else(PoisonError::into_inner).append(&mut mine);
            });
        }
    });
    all.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Writes the cache if it would be another one. What may still change without a trace is left out, and read again.
fn save(
    file: &Path,
    found: &[Found],
    digests: &[Option<[u8; 32]>],
    old: &[Cached<'_>],
    read: &[usize],
    before: i64,
) {
    let settled = |at: usize| match &found[at].kind {
        // What came out of the cache was settled when it went in.
        FoundKind::File { stamp, .. } if read.binary_search(&at).is_err() || stamp.is_settled(before) => {
            Some(Cached { path: &found[at].path, stamp: *stamp, digest: digests[at]? })
        }
        _ => None,
    };
    let fresh: Vec<Cached<'_>> = (0..found.len()).filter_map(settled).collect();
    if fresh.len() != old.len() || read.iter().any(|&at| settled(at).is_some()) {
        cache::save(file, &fresh);
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::fs::File;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::os::unix::net::UnixListener;
    use std::sync::Arc;
    use std::time::Duration;

    use jiff::Timestamp;
    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;
    use crate::world::{Clock, SystemClock};

    /// The machine's clock, this many seconds ahead: a file made just now is an old one.
    #[derive(Debug)]
    struct Ahead(i64);

    impl Clock for Ahead {
        fn now(&self) -> Timestamp {
            SystemClock.now() + jiff::SignedDuration::from_secs(self.0)
        }
    }

    struct Folder {
        temp: TempDir,
        exclude: Vec<String>,
    }

    impl Folder {
        fn new(files: &[(&str, &str)]) -> Self {
            let folder = Self { temp: tempfile::tempdir().unwrap(), exclude: vec![] };
            for (path, text) in files {
                folder.write(path, text);
            }
            folder
        }

        fn path(&self, path: &str) -> PathBuf {
            self.temp.path().join("tree").join(path)
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.path(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write_atomic(&path, text.as_bytes(), fs::Mode::Public).unwrap();
        }

        fn cache(&self) -> PathBuf {
            self.temp.path().join("cache/tree.files")
        }

        fn scan_at(&self, ahead: i64) -> Result<Scan, TreeError> {
            let world = World::fixed(Arc::new(Ahead(ahead)), BTreeMap::new(), PathBuf::from("/"));
            scan(&world, &self.path(""), &self.exclude, &self.cache())
        }

        fn scan(&self) -> Scan {
            self.scan_at(60).unwrap()
        }

        fn paths(&self) -> Vec<String> {
            self.scan().tree.entries.into_iter().map(|entry| entry.path).collect()
        }
    }

    #[test]
    fn only_the_trees_own_gitignore_and_the_excludes_leave_anything_out() {
        let mut folder = Folder::new(&[
            (".gitignore", "target/\n*.log\n!keep.log\n/only-here\n"),
            (".hidden/x", ""),
            (".git/config", ""),
            (".git/info/exclude", "from-exclude\n"),
            ("from-exclude", ""),
            ("a.log", ""),
            ("keep.log", ""),
            ("only-here", ""),
            ("sub/only-here", ""),
            ("sub/target/bin", ""),
            ("sub/.gitignore", "y\n"),
            ("sub/y", ""),
            ("sub/.ignore", "z\n"),
            ("sub/z", ""),
            ("module/.git", "gitdir: /somewhere\n"),
            ("module/src", ""),
            ("../.gitignore", "z\nsub\n"),
        ]);
        let all = [
            ".gitignore",
            ".hidden/x",
            "from-exclude",
            "keep.log",
            "module/src",
            "sub/.gitignore",
            "sub/.ignore",
            "sub/only-here",
            "sub/z",
        ];
        assert_eq!(folder.paths(), all);
        folder.exclude =
            ["/sub/*", "!/sub/z", "module/", "# a comment", ".hidden"].map(str::to_owned).to_vec();
        assert_eq!(folder.paths(), [".gitignore", "from-exclude", "keep.log", "sub/z"]);
        folder.exclude = vec!["[z-a]".to_owned()];
        let error = folder.scan_at(0).unwrap_err();
        assert!(matches!(&error, TreeError::Pattern { pattern, .. } if pattern == "[z-a]"), "{error}");
    }

    #[test]
    fn the_digest_is_of_what_a_sync_would_bring_and_nothing_else() {
        let folder = Folder::new(&[("a", "1"), ("sub/b", "2"), ("ab", "3"), ("a-b", "4")]);
        let first = folder.scan().tree;
        let paths: Vec<&str> = first.entries.iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(paths, ["a", "a-b", "ab", "sub/b"], "in order of bytes");
        let copy = Folder::new(&[("sub/b", "2"), ("a-b", "4"), ("ab", "3"), ("a", "1")]);
        assert_eq!(copy.scan().tree, first, "the same at another place and time");
        fs::create_dir_all(&copy.path("empty/folder")).unwrap();
        let _socket = UnixListener::bind(copy.path("socket")).unwrap();
        assert_eq!(copy.scan().tree, first);

        let changes: [(&str, &dyn Fn()); 4] = [
            ("content", &|| copy.write("a", "x")),
            ("mode", &|| {
                File::open(copy.path("a"))
                    .unwrap()
                    .set_permissions(PermissionsExt::from_mode(0o755))
                    .unwrap();
            }),
            ("new file", &|| copy.write("c", "")),
            ("gone", &|| fs::remove_file(&copy.path("a")).unwrap()),
        ];
        let mut seen = vec![first.digest];
        for (what, change) in changes {
            change();
            let digest = copy.scan().tree.digest;
            assert!(!seen.contains(&digest), "{what}");
            seen.push(digest);
        }
    }

    #[test]
    fn symlinks_stay_symlinks_and_lead_nowhere() {
        let folder = Folder::new(&[("dir/a", "1")]);
        symlink("dir", folder.path("to-dir")).unwrap();
        symlink("..", folder.path("dir/loop")).unwrap();
        symlink("/nowhere", folder.path("broken")).unwrap();
        let tree = folder.scan().tree;
        let link = |path: &str, target: &str| TreeEntry {
            path: path.to_owned(),
            kind: TreeKind::Symlink { target: target.to_owned() },
        };
        assert_eq!(tree.entries.len(), 4);
        for wanted in [link("to-dir", "dir"), link("dir/loop", ".."), link("broken", "/nowhere")] {
            assert!(tree.entries.contains(&wanted), "{wanted:?}");
        }
        let other = folder.temp.path().join("link");
        symlink(folder.path(""), &other).unwrap();
        let world = World::fixed(Arc::new(SystemClock), BTreeMap::new(), PathBuf::from("/"));
        assert_eq!(
            scan(&world, &other, &[], &folder.cache()).unwrap().tree,
            tree,
            "a folder may be a symlink itself"
        );
    }

    #[test]
    fn the_second_look_reads_no_content() {
        let folder = Folder::new(&[("a", "1"), ("b", "2"), ("sub/c", "3")]);
        let first = folder.scan();
        let second = folder.scan();
        assert_eq!((first.content_reads, second.content_reads), (3, 0));
        assert_eq!(first.tree, second.tree);
        folder.write("b", "4");
        let third = folder.scan();
        assert_eq!(third.content_reads, 1);
        assert_eq!(third.tree.changed(&second.tree), ["b"]);
        fs::remove_file(&folder.path("a")).unwrap();
        assert_eq!((folder.scan().content_reads, folder.scan().content_reads), (0, 0));
        for damaged in [&b""[..], b"lane-files 1\n", b"nonsense"] {
            fs::write_atomic(&folder.cache(), damaged, fs::Mode::Private).unwrap();
            assert_eq!((folder.scan().content_reads, folder.scan().content_reads), (2, 0));
        }
    }

    #[test]
    fn a_file_dated_back_after_a_change_is_seen() {
        let folder = Folder::new(&[("a", "old")]);
        let old = folder.scan().tree;
        let file = File::options().write(true).open(folder.path("a")).unwrap();
        let date = file.metadata().unwrap().modified().unwrap();
        io::Write::write_all(&mut &file, b"new").unwrap();
        file.set_modified(date).unwrap();
        assert_eq!(folder.scan().tree.changed(&old), ["a"]);
    }

    #[test]
    fn a_file_changed_within_the_clocks_step_is_read_again_until_it_is_settled() {
        let folder = Folder::new(&[("fresh", "1"), ("old", "2")]);
        let reads = |ahead: i64| folder.scan_at(ahead).unwrap().content_reads;
        assert_eq!([reads(0), reads(0), reads(0)], [2, 2, 2], "just made");
        assert_eq!([reads(60), reads(60)], [2, 0]);
        folder.write("fresh", "3");
        assert_eq!([reads(0), reads(0), reads(60), reads(0)], [1, 1, 1, 0]);
        let old = File::open(folder.path("old")).unwrap();
        old.set_modified(old.metadata().unwrap().modified().unwrap() + Duration::from_hours(1)).unwrap();
        assert_eq!([reads(60), reads(60)], [1, 1], "a date to come never settles");
    }

    #[test]
    fn what_cannot_be_copied_is_named() {
        let folder = Folder::new(&[("ok", "")]);
        for n in 0..7_u8 {
            let path = folder.path("").join(OsStr::from_bytes(&[b'f', b'0' + n, 0xff]));
            fs::write_atomic(&path, b"", fs::Mode::Public).unwrap();
        }
        let error = folder.scan_at(60).unwrap_err().to_string();
        assert!(
            error.starts_with("7 of its entries cannot be copied: f0\u{fffd}: its name is not UTF-8; f1"),
            "{error}"
        );
        assert_eq!(error.matches("UTF-8").count(), SHOWN);
        assert!(matches!(
            scan(&World::capture().unwrap(), &folder.path("none"), &[], &folder.cache()),
            Err(TreeError::Folder { .. })
        ));
    }

    fn any_tree() -> impl Strategy<Value = Tree> {
        let kind = prop_oneof![
            (any::<bool>(), 0..3_u8).prop_map(|(executable, n)| {
                TreeKind::File { executable, size: 1, digest: Digest::of(&[n]) }
            }),
            "[ab]".prop_map(|target| TreeKind::Symlink { target }),
        ];
        proptest::collection::btree_map("[a-c]{1,2}", kind, 0..6).prop_map(|entries| {
            Tree::new(entries.into_iter().rev().map(|(path, kind)| TreeEntry { path, kind }).collect())
        })
    }

    proptest! {
        #[test]
        fn changed_and_removed_are_the_whole_difference(old in any_tree(), new in any_tree()) {
            let (changed, removed) = (new.changed(&old), new.removed(&old));
            let mut merged: BTreeMap<String, TreeKind> =
                old.entries.iter().map(|entry| (entry.path.clone(), entry.kind.clone())).collect();
            for path in &removed {
                prop_assert!(merged.remove(path).is_some());
            }
            for entry in new.entries.iter().filter(|entry| changed.contains(&entry.path)) {
                merged.insert(entry.path.clone(), entry.kind.clone());
            }
            let merged = Tree::new(merged.into_iter().map(|(path, kind)| TreeEntry { path, kind }).collect());
            prop_assert_eq!(&merged, &new);
            prop_assert_eq!(changed.is_empty() && removed.is_empty(), old.digest == new.digest);
            prop_assert!(changed.is_sorted() && removed.is_sorted());
        }

        #[test]
        fn trees_round_trip(tree in any_tree()) {
            prop_assert_eq!(serde_json::from_slice::<Tree>(&serde_json::to_vec(&tree).unwrap()).unwrap(), tree);
        }
    }
}
