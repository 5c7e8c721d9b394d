//! The fuzz targets' seeds, and changes of them, through the same functions that are fuzzed: what was found stays mended,
//! and the targets go on compiling.

use proptest::prelude::*;

use crate::support::root;

#[path = "../../fuzz/bodies.rs"]
mod bodies;

fn seeds(folder: &str) -> Vec<Vec<u8>> {
    let files = std::fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
    let seeds: Vec<Vec<u8>> =
        files.filter(|path| path.is_file()).map(|path| std::fs::read(path).unwrap()).collect();
    assert!(!seeds.is_empty(), "{folder} is empty");
    seeds
}

/// Feeds every seed as it is, and then changed here and there, cut short, or with a part of it twice.
fn feed(folder: &str, body: fn(&[u8])) {
    let seeds = seeds(folder);
    for seed in &seeds {
        body(seed);
    }
    let changed = (
        prop::sample::select(seeds),
        prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        any::<prop::sample::Index>(),
        any::<prop::sample::Index>(),
    )
        .prop_map(|(mut seed, bytes, one, other)| {
            for (at, byte) in bytes {
                if !seed.is_empty() {
                    let at = at.index(seed.len());
                    seed[at] = byte;
                }
            }
            let (one, other) = (one.index(seed.len() + 1), other.index(seed.len() + 1));
            let again = seed[one.min(other)..].to_vec();
            seed.truncate(one.max(other));
            seed.extend(again);
            seed
        });
    let config = ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(input in changed)| body(&input));
}

fn as_text(bytes: &[u8]) {
    bodies::spec_load(&String::from_utf8_lossy(bytes));
}

#[test]
fn seeds_of_every_fuzz_target_and_changes_of_them_do_no_harm() {
    feed("fuzz/seeds/cloud_init_status", bodies::cloud_init_status);
    feed("fuzz/seeds/journal", bodies::journal);
    feed("fuzz/seeds/plan_file", bodies::plan_file);
    feed("fuzz/seeds/state_record", bodies::state_record);
    feed("tests/fixtures/specs/good", as_text);
    feed("tests/fixtures/specs/bad", as_text);
}
