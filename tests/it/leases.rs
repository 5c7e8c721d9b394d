//! Leases and sweeps: what takes a host down when nobody remembers it, on hosts that really boot.

use std::time::Duration;

use crate::support::{Lab, can_boot_hosts, small};

fn found(lab: &Lab) -> Vec<serde_json::Value> {
    let listed = lab.run(&["list", "--cloud", "nspawn", "--format", "json"]).exits(0).json();
    listed["found"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|found| found["lane"] == lab.lane.as_str())
        .cloned()
        .collect()
}

#[test]
fn real_host_without_state_is_seen_and_swept_by_its_labels_alone() {
    if !can_boot_hosts() {
        return;
    }
    let lab = small("sweep-me", 0);
    let neighbour = small("sweep-me-not", 0);
    for lab in [&lab, &neighbour] {
        lab.apply().exits(0);
    }
    let (lineage8, other8) = (lab.lineage8(), neighbour.lineage8());
    assert_eq!(found(&lab)[0]["recorded"], true);

    // Everything that knew of the host is lost.
    std::fs::remove_dir_all(lab.path().join("state")).unwrap();
    let seen = found(&lab);
    assert_eq!((seen.len(), &seen[0]["recorded"], &seen[0]["expired"]), (1, &false.into(), &false.into()));
    assert!(lab.run(&["list", "--cloud", lab.spec_arg()]).exits(0).stdout.contains(&lineage8));

    // Nobody can say whose it is any more, so that it costs money is said, and nothing goes.
    let ran = lab.run(&["destroy", lab.spec_arg(), "-y"]).exits(7);
    assert!(ran.stderr.contains("no state here") && ran.stderr.contains("lane sweep"), "{}", ran.stderr);
    assert_eq!(Lab::containers(&lineage8), 1);

    // Nothing goes without a choice, without a yes, by a dry run, or before its lease is over.
    assert!(lab.run(&["sweep", "nspawn", "-y"]).exits(64).stderr.contains("--expired"));
    lab.run(&["sweep", "nspawn", "--lane", &lab.lane]).exits(64);
    assert!(
        lab.run(&["sweep", "nspawn", "--lane", &lab.lane, "--dry-run"]).exits(0).stdout.contains(&lineage8)
    );
    lab.run(&["sweep", "nspawn", "--lane", "sweep", "-y"]).exits(0);
    lab.run(&["sweep", "nspawn", "--expired", "-y"]).exits(0);
    assert_eq!(Lab::containers(&lineage8), 1);

    let swept = lab.run(&["sweep", "nspawn", "--lane", &lab.lane, "-y", "--format", "json"]).exits(0).json();
    assert_eq!(swept["gone"][0]["destroyed"][0]["kind"], "host");
    assert_eq!(Lab::traces(&lineage8), Vec::<String>::new());
    assert_eq!(Lab::containers(&other8), 1, "the neighbour's host went too");
    let receipts = std::fs::read_dir(lab.path().join("state/sweeps")).unwrap().count();
    assert_eq!(receipts, 2, "a receipt and its digest");
    assert!(
        lab.run(&["sweep", "nspawn", "--lane", &lab.lane, "-y"]).exits(0).stdout.contains("Nothing to sweep")
    );
    neighbour.destroy();
}

#[test]
fn real_host_whose_lease_is_over_is_swept_and_its_state_hears_of_it() {
    if !can_boot_hosts() {
        return;
    }
    let lab = small("sweep-over", 0);
    lab.edit("sweep-over.yaml", "ttl: 1h", "ttl: 1m");
    lab.apply().exits(0);
    let lineage8 = lab.lineage8();
    // The host's own timer powers it off; what it leaves on this machine is for a sweep.
    let deadline = std::time::Instant::now() + Duration::from_mins(3);
    while found(&lab)[0]["expired"] != true || Lab::containers(&lineage8) > 0 {
        assert!(
            std::time::Instant::now() < deadline,
            "the lease of a minute does not end: {:?}",
            found(&lab)
        );
        std::thread::sleep(Duration::from_secs(1));
    }
    assert!(!Lab::traces(&lineage8).is_empty());
    lab.run(&["sweep", "nspawn", "--expired", "-y"]).exits(0);
    assert_eq!(Lab::traces(&lineage8), Vec::<String>::new());
    let record = lab.run(&["show", &lab.lane, "--format", "json"]).exits(0).json();
    assert_eq!(record["host"], serde_json::Value::Null, "the state still knows a host");
    assert!(lab.run(&["destroy", &lab.lane, "-y"]).exits(0).stdout.contains("Nothing to destroy"));
}

#[test]
fn real_host_remains_of_a_host_that_is_gone_are_shown_and_swept() {
    if !can_boot_hosts() {
        return;
    }
    let lab = small("sweep-rest", 0);
    lab.apply().exits(0);
    let lineage8 = lab.lineage8();
    let card = format!("/var/lib/lane/nspawn/lane-sweep-rest-{lineage8}.json");
    std::fs::remove_file(&card).unwrap();
    let seen = found(&lab);
    assert!(seen.iter().all(|found| found["hosts"].is_null()), "{seen:?}");
    assert!(seen[0]["residue"].as_array().unwrap().len() > 3, "{seen:?}");
    // It may be a host that is just being made.
    lab.run(&["sweep", "nspawn", "--expired", "-y"]).exits(0);
    assert!(!Lab::traces(&lineage8).is_empty());
    lab.run(&["sweep", "nspawn", "--lane", &lab.lane, "-y"]).exits(0);
    assert_eq!(Lab::traces(&lineage8), Vec::<String>::new());
}

/// Runs a line of shell; whether it went well, and what it wrote.
fn sh(line: &str, args: &[&str]) -> (bool, String) {
    let output = std::process::Command::new("sh").args(["-c", line, "sh"]).args(args).output().unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn real_host_link_and_table_are_known_by_what_they_say_and_look_alikes_are_nobodys() {
    if !can_boot_hosts() {
        return;
    }
    let lab = small("sweep-said", 0);
    lab.kill_apply_when(|journal| journal.contains("await/cloud-init"));
    let lineage8 = lab.lineage8();
    let (_, link) = sh("cat \"/sys/class/net/ln-$1/ifalias\"", &[&lineage8]);
    let (_, table) =
        sh("nft list table ip \"lane_$1\" | sed -n 's/.*comment \"\\(.*\\)\".*/\\1/p'", &[&lineage8]);
    let said = link.trim();
    assert!(said.ends_with(&lineage8) && table.trim() == said, "{link:?} {table:?}");
    // Seen from another folder of hosts, a running host is another's.
    let elsewhere = lab.path().join("hosts");
    let listed = |all: &[&str]| {
        let output = lab.command(all).env("LANE_NSPAWN_DIR", &elsewhere).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let all = ["sweep", "nspawn", "--all", "--dry-run", "--format", "json"];
    assert!(listed(&all).contains("\"found\": []"), "{}", listed(&all));
    lab.destroy();

    let make = "ip link add \"ln-$1\" type bridge && ip link set dev \"ln-$1\" alias \"$2\" &&
                nft add table ip \"lane_$1\" \"{ comment \\\"$2\\\"; }\"";
    assert!(sh(make, &[&lineage8, said]).0);
    let residue = found(&lab)[0]["residue"].as_array().unwrap().len();
    assert_eq!(residue, 2, "the link and the table still say whose they are");
    lab.run(&["sweep", "nspawn", "--lane", &lab.lane, "-y"]).exits(0);
    assert_eq!(Lab::traces(&lineage8), Vec::<String>::new());
    // In somebody else's name, and in nobody's; `gateways` could be the end of a lineage.
    for (name, says) in [("gateways", ""), (&lineage8, "/srv/other/lane-x-12345678")] {
        assert!(sh(make, &[name, says]).0);
        let shown = lab.run(&["sweep", "nspawn", "--all", "--dry-run", "--format", "json"]).exits(0).stdout;
        let gone = sh("ip link delete \"ln-$1\" && nft delete table ip \"lane_$1\"", &[name]).0;
        assert!(gone && !shown.contains(&format!("ln-{name}")), "{shown}");
        assert!(!shown.contains(&format!("lane_{name}")), "{shown}");
    }
}

fn until(lab: &Lab) -> serde_json::Value {
    lab.run(&["lease", "show", &lab.lane, "--format", "json"]).exits(0).json()
}

/// Reboots the host and waits until one can log in again.
fn reboot(lab: &Lab) {
    const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
    let before = lab.on_host(&format!("cat {BOOT_ID}"));
    lab.run(&["exec", &lab.lane, "--", "sudo", "systemctl", "reboot"]);
    let deadline = std::time::Instant::now() + Duration::from_mins(1);
    loop {
        let ran = lab.run(&["exec", &lab.lane, "--", "cat", BOOT_ID]);
        if ran.code == 0 && ran.stdout.trim() != before {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "the host does not come back");
        std::thread::sleep(Duration::from_millis(500));
    }
}

#[test]
fn real_host_lease_is_moved_in_record_cloud_and_host_and_a_reboot_keeps_it() {
    if !can_boot_hosts() {
        return;
    }
    let lab = small("extended", 0);
    lab.apply().exits(0);
    let second = |value: &serde_json::Value| value.as_str().unwrap()[..19].to_owned();
    let before = until(&lab);
    for place in ["in_cloud", "on_host"] {
        assert_eq!(second(&before[place]), second(&before["expires_at"]), "{place}");
    }
    lab.run(&["lease", "extend", &lab.lane, "--by", "1h"]).exits(0);
    let after = until(&lab);
    assert!(after["seconds_left"].as_i64().unwrap() > before["seconds_left"].as_i64().unwrap() + 3_500);
    for place in ["in_cloud", "on_host"] {
        assert_eq!(second(&after[place]), second(&after["expires_at"]), "{place}");
    }
    // At each boot cloud-init sets the timer anew.
    reboot(&lab);
    lab.on_host("cloud-init status --wait");
    assert_eq!(until(&lab)["on_host"], after["on_host"]);
    assert_eq!(lab.changed_ids(), Vec::<String>::new());

    // Refused, and nothing moved: into the past, beyond what may be spent, of no host.
    lab.run(&["lease", "extend", &lab.lane, "--until", "2020-01-01T00:00:00Z"]).exits(64);
    lab.run(&["lease", "extend", "nobody", "--by", "1h"]).exits(64);
    assert_eq!(until(&lab)["expires_at"], after["expires_at"]);

    // Shortened, it is warned of in every verb, and the host really stops.
    let soon = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(12);
    lab.run(&["lease", "extend", &lab.lane, "--until", &soon.to_string()]).exits(0);
    let said = lab.run(&["list"]).exits(0).stderr;
    assert!(said.contains("the lease of lane `extended` ends in"), "{said}");
    let lineage8 = lab.lineage8();
    let deadline = std::time::Instant::now() + Duration::from_mins(1);
    while Lab::containers(&lineage8) > 0 {
        assert!(std::time::Instant::now() < deadline, "the host outlived its lease");
        std::thread::sleep(Duration::from_millis(500));
    }
    assert!(lab.run(&["plan", lab.spec_arg()]).stderr.contains("ended"));
    lab.destroy();
}
