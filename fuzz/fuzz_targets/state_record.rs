//! Any bytes are a record or an error that says what to do, and a record is written as it was read.
#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bodies::state_record(bytes));
