//! The table of adapters, made by `build.rs` from the files in `adapters/`: a new provider is one new file.

use super::Entry;

include!(concat!(env!("OUT_DIR"), "/adapters.rs"));

/// Returns every adapter's entry, sorted by name.
pub fn entries() -> &'static [&'static Entry] {
    ENTRIES
}

/// Returns the entry of this name.
pub fn by_name(name: &str) -> Option<&'static Entry> {
    ENTRIES.iter().copied().find(|entry| entry.name == name)
}
