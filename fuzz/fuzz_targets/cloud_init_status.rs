//! Whatever a host answers about cloud-init is an outcome or an error.
#![no_main]

use lane::apply::steps::judge_cloud_init;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match judge_cloud_init(bytes) {
        Ok(outcome) => drop(outcome),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
