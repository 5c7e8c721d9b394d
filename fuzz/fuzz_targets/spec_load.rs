//! Any text is a spec or a list of complaints, never a panic.
#![no_main]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lane::spec::load_text;
use lane::world::{SystemClock, World};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let world = World::fixed(Arc::new(SystemClock), BTreeMap::new(), PathBuf::from("/"));
    match load_text(&world, Path::new("fuzz.yaml"), text) {
        Ok(spec) => {
            // A complaint may be made about any file that the spec names.
            for source in spec.sources.values() {
                let _ = spec.source_map.complaint(&source.folder.key, "not there", None).render(false);
            }
        }
        Err(error) => {
            let plain = error.render(false);
            assert!(!plain.is_empty() && !plain.contains('\u{1b}'));
            let _ = error.render(true);
        }
    }
});
