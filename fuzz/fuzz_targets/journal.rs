//! Any bytes are a journal or an error that names the line; whatever a journal says can be replayed.
#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bodies::journal(bytes));
