//! A provider is one file: written into a copy of this tree, it is in the help, the schema, the doctor's list, the prices
//! and the conformance suite, and nothing else was touched.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{copy_tree, root};

/// Runs and returns all that was printed.
#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = [String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)].join("\n");
    assert!(output.status.success() || output.status.code() == Some(4), "{command:?}: {said}");
    said
}

/// Lends the copy what is built already, so that only this package is built again.
fn lend_dependencies(to: &Path) {
    let profile = Path::new(env!("CARGO_BIN_EXE_lane")).parent().unwrap();
    std::fs::create_dir_all(to).unwrap();
    for part in [".fingerprint", "build", "deps"] {
        let mut copy = Command::new("cp");
        // Links need one file system, copies some room.
        let linked = copy.arg("-al").arg(profile.join(part)).arg(to).output().unwrap();
        if !linked.status.success() {
            copy_tree(&profile.join(part), &to.join(part));
        }
    }
}

#[test]
fn a_provider_is_one_file() {
    let folder = tempfile::Builder::new().prefix("lane-one-file-").tempdir_in(target()).unwrap();
    let tree = folder.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    for part in ["src", "tests", "schemas", "specs", "cloud-init", "benches"] {
        copy_tree(&root().join(part), &tree.join(part));
    }
    for part in ["Cargo.toml", "Cargo.lock", "build.rs", "README.md", "ARCHITECTURE.md", "CONTRIBUTING.md"] {
        std::fs::copy(root().join(part), tree.join(part)).unwrap();
    }
    let file = root().join("tests/fixtures/one-file/shelf.rs");
    std::fs::copy(file, tree.join("src/provider/adapters/shelf.rs")).unwrap();

    let target = folder.path().join("target");
    lend_dependencies(&target.join("debug"));
    let cargo = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO"));
        command.args(args).args(["--locked", "--offline"]).current_dir(&tree);
        // The copy is a package of its own, whatever the run around it told cargo.
        for (name, _) in
            std::env::vars().filter(|(name, _)| name.starts_with("CARGO_") || name == "RUSTFLAGS")
        {
            if name != "CARGO_HOME" {
                command.env_remove(name);
            }
        }
        command.env("CARGO_TARGET_DIR", &target).env("CARGO_INCREMENTAL", "0");
        command
    };
    run(&mut cargo(&["build"]));
    let lane = |args: &[&str]| {
        let mut command = Command::new(target.join("debug/lane"));
        command.args(args).current_dir(folder.path()).env("LANE_KEYRING", "none").env("SHELF_TOKEN", "x");
        run(&mut command)
    };
    assert!(lane(&["init", "--help"]).contains("shelf"));
    assert!(lane(&["schema"]).contains("Hosts on a shelf"));
    assert!(lane(&["prices", "shelf"]).contains("price tag, 2026-05"));
    let doctor = lane(&["doctor", "shelf", "--set", "folder=boxes"]);
    assert!(doctor.contains("SHELF_TOKEN") && doctor.contains("boxes"), "{doctor}");
    let suite = run(cargo(&["test", "--lib"]).args(["conformance::adapters_without", "--", "--nocapture"]));
    assert!(suite.contains("shelf keeps its promises"), "{suite}");
}

/// The target folder, on whose file system there is room and links work.
fn target() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_lane")).ancestors().nth(2).unwrap().to_owned()
}
