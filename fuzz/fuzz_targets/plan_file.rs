//! Any bytes are a plan or an error; what a plan shows cannot move the cursor.
#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bodies::plan_file(bytes));
