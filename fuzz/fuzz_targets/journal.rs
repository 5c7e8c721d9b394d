//! Any bytes are a journal or an error that names the line; whatever a journal says can be replayed.
#![no_main]

use std::path::Path;

use lane::provider::Lineage;
use lane::state::{Record, read_journal, replay};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let file = Path::new("journal.jsonl");
    match read_journal(file, bytes) {
        Ok(entries) => {
            let mut record = Record::new("demo", Lineage::fixed("lineage"));
            replay(&mut record, &entries);
            let lines: Vec<String> =
                entries.iter().map(|entry| serde_json::to_string(entry).expect("an entry can be written") + "\n").collect();
            let again = read_journal(file, lines.concat().as_bytes()).expect("what was written can be read");
            assert_eq!(again, entries);
            // A line that is cut short takes nothing of what stands before it.
            let cut = lines.concat();
            if let Some(cut) = cut.len().checked_sub(2).and_then(|end| cut.as_bytes().get(..end)) {
                let before = read_journal(file, cut).expect("a torn end is no damage");
                assert_eq!(before, entries[..entries.len() - 1]);
            }
        }
        Err(error) => assert!(error.way_out().is_some(), "{error}"),
    }
});
