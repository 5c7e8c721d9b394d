//! Any bytes are a record or an error that says what to do, and a record is written as it was read.
#![no_main]

use std::path::Path;

use lane::state::read_record;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let file = Path::new("state.json");
    match read_record(file, bytes) {
        Ok(record) => {
            let written = serde_json::to_vec_pretty(&record).expect("a record can be written");
            assert_eq!(read_record(file, &written).expect("what was written can be read"), record);
            let _ = record.label().to_string();
        }
        Err(error) => assert!(error.way_out().is_some(), "{error}"),
    }
});
