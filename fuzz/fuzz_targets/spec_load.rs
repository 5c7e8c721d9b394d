//! Any text is a spec or a list of complaints, never a panic.
#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|text: &str| bodies::spec_load(text));
