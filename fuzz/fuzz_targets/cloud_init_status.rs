//! Whatever a host answers about cloud-init is an outcome or an error.
#![no_main]

#[path = "../bodies.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bodies::cloud_init_status(bytes));
