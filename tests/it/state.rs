//! `lane state`: what to do when the record itself is wrong, on a lane whose host really boots.

use crate::support::{Lab, can_boot_hosts, small};

fn host_id(lab: &Lab) -> serde_json::Value {
    lab.run(&["state", "show", &lab.lane, "--format", "json"]).exits(0).json()["host"]["id"].clone()
}

#[test]
fn real_host_state_can_be_damaged_lost_forgotten_and_adopted_and_the_host_is_never_lost() {
    if !can_boot_hosts() {
        return;
    }
    let lab = small("state-care", 0);
    lab.apply().exits(0);
    let id = host_id(&lab);
    let lineage8 = lab.lineage8();
    let listed = lab.run(&["state", "list", &lab.lane]).exits(0).stdout;
    assert!(listed.contains("build/web\n") && listed.starts_with("host lane-state-care-"), "{listed}");

    // A torn record: every verb says how to mend it, a dry run mends nothing, the repair loses nothing.
    let file = lab.state().join("state.json");
    let whole = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let said = lab.apply().exits(1).stderr;
    assert!(said.contains("lane state repair state-care"), "{said}");
    lab.run(&["state", "repair", &lab.lane, "--dry-run"]).exits(0);
    lab.apply().exits(1);
    lab.run(&["state", "repair", &lab.lane]).exits(0);
    assert_eq!(host_id(&lab), id);
    assert_eq!(lab.changed_ids(), Vec::<String>::new(), "something was lost");
    assert!(lab.run(&["state", "repair", &lab.lane]).exits(0).stdout.contains("Nothing to repair"));

    // One step forgotten runs again; a name that is none is refused.
    assert!(lab.run(&["state", "forget", &lab.lane, "build/wev"]).exits(64).stderr.contains("build/web"));
    lab.run(&["state", "forget", &lab.lane, "smoke", "--dry-run"]).exits(0);
    assert_eq!(lab.changed_ids(), Vec::<String>::new());
    lab.run(&["state", "forget", &lab.lane, "smoke"]).exits(0);
    assert_eq!(lab.changed_ids(), ["smoke"]);
    lab.apply().exits(0);

    // The host forgotten: asked first, it stays up, a destroy still finds it, adopting brings it back.
    lab.run(&["state", "forget", &lab.lane, "--host"]).exits(64);
    let said = lab.run(&["state", "forget", &lab.lane, "--host", "-y"]).exits(0).stderr;
    assert!(said.contains("goes on costing money"), "{said}");
    assert_eq!((host_id(&lab), Lab::containers(&lineage8)), (serde_json::Value::Null, 1));
    lab.run(&["state", "adopt", lab.spec_arg(), "h-other"]).exits(64);
    lab.run(&["state", "adopt", lab.spec_arg(), "--dry-run"]).exits(0);
    assert_eq!(host_id(&lab), serde_json::Value::Null);
    lab.run(&["state", "adopt", lab.spec_arg()]).exits(0);
    assert_eq!(host_id(&lab), id);
    lab.run(&["state", "adopt", lab.spec_arg()]).exits(64);
    lab.apply().exits(0);
    assert_eq!(lab.changed_ids(), Vec::<String>::new());

    // Every file that names the lineage is gone: the cloud still knows it.
    let lineage = lab.run(&["show", &lab.lane, "--format", "json"]).json()["lineage"].clone();
    for entry in std::fs::read_dir(lab.state()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("state.json") {
            std::fs::write(path, "").unwrap();
        }
    }
    std::fs::remove_dir_all(lab.state().join("logs")).unwrap();
    let said = lab.run(&["state", "repair", lab.spec_arg()]).exits(1).stderr;
    assert!(said.contains("--lineage"), "{said}");
    lab.run(&["state", "repair", lab.spec_arg(), "--lineage", lineage.as_str().unwrap()]).exits(0);
    assert_eq!(host_id(&lab), id);

    // The whole folder is gone, and a plan gave birth to another lineage: the host is found by the lane's name.
    std::fs::remove_dir_all(lab.state()).unwrap();
    let name = id.as_str().unwrap();
    lab.run(&["state", "adopt", lab.spec_arg(), name, "--dry-run"]).exits(0);
    assert!(!lab.state().exists(), "a look left a folder");
    lab.run(&["plan", lab.spec_arg()]).exits(0);
    // The same name may be somebody else's.
    let said = lab.run(&["state", "adopt", lab.spec_arg()]).exits(64).stderr;
    assert!(said.contains(name) && said.contains("is yours"), "{said}");
    let said = lab.run(&["state", "adopt", lab.spec_arg(), name]).exits(0).stderr;
    assert!(said.contains("SSH keys are lost"), "{said}");
    assert_eq!((host_id(&lab), lab.lineage8()), (id, lineage8));
    lab.destroy();
}

#[test]
fn a_record_is_made_anew_for_a_lineage_where_there_is_no_folder() {
    let lab = small("lost", 0).hostless();
    let lineage = "01j00000000000000000000000";
    let repair = |more: &[&str]| lab.run(&[&["state", "repair", "lost"], more].concat());
    repair(&[]).exits(64);
    assert!(repair(&["--lineage", "00000000"]).exits(64).stderr.contains("26 characters"));
    let said = repair(&["--lineage", lineage, "--dry-run"]).exits(0).stdout;
    assert!(said.contains(&format!("Would record lineage {lineage}")), "{said}");
    assert!(!lab.state().exists(), "a dry run left a folder");
    repair(&["--lineage", lineage]).exits(0);
    assert_eq!(lab.run(&["show", "lost", "--format", "json"]).exits(0).json()["lineage"], lineage);
    let said = repair(&["--lineage", "01j00000000000000000000001"]).exits(0);
    assert!(said.stdout.contains("Nothing to repair") && said.stderr.contains("does not count"), "{said:?}");
}

#[test]
fn a_lock_is_never_broken_and_what_a_dead_holder_left_is_cleared() {
    let lab = small("locked", 0);
    std::fs::create_dir_all(lab.state()).unwrap();
    assert!(lab.run(&["state", "unlock", "locked"]).exits(0).stdout.contains("is not locked"));
    let stale = lab.state().join("holder.json");
    std::fs::write(&stale, "{}").unwrap();
    lab.run(&["state", "unlock", "locked", "--dry-run"]).exits(0);
    assert!(stale.exists());
    lab.run(&["state", "unlock", "locked"]).exits(0);
    assert!(!stale.exists());
    let held = std::fs::File::open(lab.state().join("lock")).unwrap();
    held.lock().unwrap();
    let said = lab.run(&["state", "unlock", "locked"]).exits(6).stderr;
    assert!(said.contains("is locked") && said.contains("goes with its process"), "{said}");
}
