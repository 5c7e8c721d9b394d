//! How long a whole offline plan takes, as a user waits for it.

use std::process::Command;

fn main() {
    divan::main();
}

#[divan::bench(sample_count = 20)]
fn plan_offline() {
    let root = env!("CARGO_MANIFEST_DIR");
    let status = Command::new(env!("CARGO_BIN_EXE_lane"))
        .args(["plan", "--offline", "specs/local.yaml"])
        .current_dir(root)
        .stdout(std::process::Stdio::null())
        .status();
    assert!(status.is_ok_and(|status| status.success()), "the plan failed");
}

#[divan::bench(sample_count = 20)]
fn validate() {
    let root = env!("CARGO_MANIFEST_DIR");
    let status = Command::new(env!("CARGO_BIN_EXE_lane"))
        .args(["validate", "specs/local.yaml"])
        .current_dir(root)
        .stdout(std::process::Stdio::null())
        .status();
    assert!(status.is_ok_and(|status| status.success()), "validation failed");
}
