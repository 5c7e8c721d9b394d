//! Whole lanes on hosts that really boot: systemd, cloud-init, sshd, rsync, services, crashes.

use std::time::Duration;

use crate::support::{Lab, can_boot_hosts, small};

/// Returns each unit's invocation: it changes exactly when the unit is (re)started.
fn invocations(lab: &Lab, units: &[&str]) -> Vec<String> {
    units
        .iter()
        .map(|unit| lab.on_host(&format!("systemctl show --value -p InvocationID {unit}.service")))
        .collect()
}

const HOSTD: &str = "tests/fixtures/mvmd/mvmd-runtime/src/main.rs";

const MVMD: [&str; 4] = ["mvm-hostd", "mvmd-coordinator", "mvmd-agent", "mvmd-gateway"];

#[test]
fn real_host_full_lane_goes_through_its_whole_life() {
    if !can_boot_hosts() {
        return;
    }
    let lab = Lab::local("full");
    lab.apply().exits(0);
    assert_eq!(lab.changed_ids(), Vec::<String>::new(), "a second plan is not empty");
    let again = lab.apply().exits(0);
    assert!(again.stdout.contains("No changes"), "{}", again.stdout);
    for unit in MVMD {
        assert_eq!(
            lab.on_host(&format!("systemctl is-active {unit}; systemctl is-enabled {unit}")),
            "active\nenabled"
        );
    }

    // Editing one source file of one binary: the plan names what follows, and only its services restart.
    let before = invocations(&lab, &MVMD);
    lab.edit(
        HOSTD,
        "fn main() -> ExitCode {\n",
        "fn main() -> ExitCode {\n    eprintln!(\"a new build\");\n",
    );
    let changed = lab.changed_ids();
    for step in ["sync/mvmd", "build/mvm-hostd", "build/mvmd", "smoke", "service/mvm-hostd"] {
        assert!(changed.contains(&step.to_owned()), "{step} is not planned: {changed:?}");
    }
    for step in
        ["sync/mvm", "probe/kvm", "probe/seccomp", "await/cloud-init", "provision/host", "secret/hmac"]
    {
        assert!(!changed.contains(&step.to_owned()), "{step} is planned without need: {changed:?}");
    }
    let text = lab.run(&["plan", lab.spec_arg()]).exits(0).stdout;
    assert!(text.contains("mvmd-runtime/src/main.rs"), "the plan does not name the file:\n{text}");
    lab.apply().exits(0);
    let after = invocations(&lab, &MVMD);
    assert_ne!(before[0], after[0], "mvm-hostd's binary changed, so it restarts");
    assert_eq!(before[1..], after[1..], "services whose binary did not change must go on running");

    // Drift: a stopped service and a deleted binary.
    lab.on_host("sudo systemctl stop mvmd-gateway; sudo rm /usr/local/bin/mvmd");
    let changed = lab.changed_ids();
    assert!(changed.contains(&"service/mvmd-gateway".to_owned()), "{changed:?}");
    assert!(changed.contains(&"install/mvmd".to_owned()), "{changed:?}");
    let plan = lab.run(&["plan", lab.spec_arg()]).exits(0).stdout;
    assert!(plan.contains("inactive") && plan.contains("/usr/local/bin/mvmd"), "{plan}");
    lab.apply().exits(0);
    assert_eq!(
        lab.on_host("systemctl is-active mvmd-gateway; test -x /usr/local/bin/mvmd && echo there"),
        "active\nthere"
    );

    // One unit file: that service and what checks it, nothing else; the diff shows it.
    lab.edit("tests/fixtures/mvmd/deploy/mvmd-gateway.service", "[Service]\n", "[Service]\nNice=1\n");
    let before = invocations(&lab, &MVMD);
    assert_eq!(lab.changed_ids(), ["probe/gateway", "service/mvmd-gateway", "smoke"]);
    let plan = lab.run(&["plan", lab.spec_arg()]).exits(0).stdout;
    assert!(plan.contains("+Nice=1"), "{plan}");
    lab.run(&["apply"]).exits(0);
    let after = invocations(&lab, &MVMD);
    assert_eq!(before[..3], after[..3]);
    assert_ne!(before[3], after[3]);

    // Nothing relies on root, and root does not get in; an idle connection is kept open through NAT.
    let config = lab.state().join("ssh/ssh_config");
    let alias = format!("lane-full-{}", lab.lineage8());
    let root = std::process::Command::new("ssh")
        .arg("-F")
        .arg(&config)
        .args(["-o", "User=root", "-o", "ControlPath=none", &alias, "true"])
        .output()
        .unwrap();
    assert!(!root.status.success(), "root can log in");
    let config = std::fs::read_to_string(config).unwrap();
    assert!(
        config.contains("ServerAliveInterval 15") && config.contains("StrictHostKeyChecking yes"),
        "{config}"
    );

    // cloud-init itself finds nothing wrong with what lane gave it.
    let schema = lab.on_host("sudo cloud-init schema --system 2>&1");
    assert!(schema.contains("Valid schema") && !schema.contains("Invalid"), "{schema}");

    // The secret is shared on the host and is nowhere here.
    let secret = lab.on_host("sudo cat /var/lib/lane/secrets/hmac");
    assert_eq!(secret.len(), 64);
    let grep = std::process::Command::new("grep").args(["-rl", &secret]).arg(lab.path()).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&grep.stdout), "", "the secret left the host");
    assert_eq!(lab.on_host("sudo grep -c $(sudo cat /var/lib/lane/secrets/hmac) /etc/mvmd/coordinator.toml /etc/mvmd/gateway.toml"), "/etc/mvmd/coordinator.toml:1\n/etc/mvmd/gateway.toml:1");

    // The test suite, with its results brought back.
    lab.run(&["test", "full"]).exits(0);
    let junit =
        std::fs::read_dir(lab.state()).unwrap().any(|entry| entry.unwrap().file_name() == "junit.xml");
    assert!(junit, "no junit.xml in {}", lab.state().display());

    lab.destroy();
    let ran = lab.run(&["destroy", "full", "-y"]).exits(0);
    assert!(ran.stdout.contains("Nothing to destroy"), "{}", ran.stdout);
}

#[test]
fn real_host_kill9_at_every_stage_still_ends_with_one_host_and_one_build() {
    if !can_boot_hosts() {
        return;
    }
    let lab = small("killed", 3);
    // cloud-init that goes on for a while, and a source that takes a moment to copy.
    lab.write("slow.yaml", "#cloud-config\nruncmd:\n  - [sleep, '6']\n");
    lab.edit("killed.yaml", "access: {user: mvm}", "access: {user: mvm}\ncloud_init: slow.yaml");
    let noise =
        std::process::Command::new("head").args(["-c", "60000000", "/dev/urandom"]).output().unwrap().stdout;
    std::fs::write(lab.path().join("web/noise"), noise).unwrap();
    let started = |step: &'static str| {
        move |journal: &str| {
            journal.lines().any(|line| line.contains("\"started\"") && line.contains(&format!("\"{step}\"")))
        }
    };
    // During create: the intent is on the disk, the answer may not be.
    assert!(lab.kill_apply_when(|journal| journal.contains("create_intended")));
    assert!(lab.kill_apply_when(started("await/ssh")));
    let lineage8 = lab.lineage8();
    assert!(Lab::containers(&lineage8) <= 1);
    assert!(lab.kill_apply_when(started("sync/web")));
    assert!(lab.kill_apply_when(started("await/cloud-init")));
    assert!(lab.kill_apply_when(started("build/web")));
    std::thread::sleep(Duration::from_millis(500));
    // The build goes on by itself on the host.
    let state = lab.run(&["exec", "killed", "--", "systemctl", "is-active", "lane-build-web.service"]);
    assert!(["active\n", "activating\n", "inactive\n"].contains(&state.stdout.as_str()), "{state:?}");
    assert!(lab.kill_apply_when(started("service/web")));
    lab.apply().exits(0);
    assert_eq!(Lab::containers(&lineage8), 1);
    assert_eq!(lab.on_host("cat ~/builds"), "run", "the build was started a second time");
    assert_eq!(lab.changed_ids(), Vec::<String>::new());
    // What the build wrote is whole and in order, though three programs followed it.
    let log = std::fs::read_to_string(lab.state().join("logs/build-web.log")).unwrap();
    for tick in 1..=30 {
        assert!(log.contains(&format!("tick {tick}\n")), "tick {tick} is missing:\n{log}");
    }
    lab.destroy();
}

#[test]
fn real_host_kill9_during_destroy_still_leaves_nothing() {
    if !can_boot_hosts() {
        return;
    }
    let lab = small("undone", 1);
    lab.apply().exits(0);
    let lineage8 = lab.lineage8();
    for _ in 0..3 {
        let mut child = lab.command(&["destroy", "undone", "-y"]).spawn().unwrap();
        while !lab.journal().contains("destroy_intended") && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    lab.run(&["destroy", lab.spec_arg(), "-y"]).exits(0);
    assert_eq!(Lab::traces(&lineage8), Vec::<String>::new());
}

#[test]
fn real_host_gone_by_itself_is_made_anew() {
    if !can_boot_hosts() {
        return;
    }
    let lab = small("vanished", 1);
    lab.apply().exits(0);
    let lineage8 = lab.lineage8();
    let killed = std::process::Command::new("sh")
        .arg("-c")
        .arg(
            "for file in /proc/[0-9]*/cmdline; do
               if tr '\\0' ' ' <$file 2>/dev/null | grep -q -- \"systemd-nspawn .*--machine=ln-$1\"; then
                 pid=${file#/proc/}; kill -9 ${pid%/cmdline}
               fi
             done",
        )
        .arg("kill")
        .arg(&lineage8)
        .status()
        .unwrap();
    assert!(killed.success());
    while Lab::containers(&lineage8) > 0 {
        std::thread::sleep(Duration::from_millis(20));
    }
    let plan = lab.run(&["plan", lab.spec_arg()]).exits(0).stdout;
    assert!(plan.contains("provision/host"), "{plan}");
    lab.apply().exits(0);
    assert_eq!(Lab::containers(&lineage8), 1);
    assert_eq!(lab.on_host("curl -s http://127.0.0.1:8000/"), "hello");
    lab.destroy();
}

#[test]
fn real_host_failing_service_is_shown_with_its_journal_and_mended() {
    if !can_boot_hosts() {
        return;
    }
    let lab = small("dying", 1);
    lab.edit(
        "web/web.py",
        "#!/usr/bin/python3\n",
        "#!/usr/bin/python3\nimport sys\nsys.exit('port must be a number, not banana')\n",
    );
    let ran = lab.apply().exits(5);
    assert!(ran.stderr.contains("port must be a number, not banana"), "{}", ran.stderr);
    assert!(ran.stderr.contains("lane ssh dying"), "the way to the host is not named: {}", ran.stderr);
    assert_eq!(lab.on_host("echo up"), "up", "a failed step leaves the host up");
    lab.edit("web/web.py", "import sys\nsys.exit('port must be a number, not banana')\n", "");
    lab.apply().exits(0);
    // Environment values arrive whole, whatever they hold.
    let environ = lab.on_host(
        "sudo cat /proc/$(systemctl show --value -p MainPID web)/environ | tr '\\0' '\\n' | grep ^GREETING",
    );
    assert_eq!(environ, "GREETING=it's $HOME \"quoted\" %n");
    // Dropped from the spec: stopped and removed.
    let spec = std::fs::read_to_string(&lab.spec).unwrap();
    let start = spec.find("services:").unwrap();
    let end = spec.find("probes:").unwrap();
    let without = format!("{}{}", &spec[..start], &spec[end..]);
    let without = without.lines().filter(|line| !line.contains("kind: http")).collect::<Vec<_>>().join("\n");
    std::fs::write(&lab.spec, without).unwrap();
    lab.apply().exits(0);
    assert_eq!(
        lab.on_host("systemctl is-active web; test -e /etc/systemd/system/web.service || echo removed"),
        "inactive\nremoved"
    );
    assert_eq!(lab.changed_ids(), Vec::<String>::new());
    lab.destroy();
}

#[test]
fn real_host_ctrl_c_leaves_a_build_to_the_host_and_the_next_apply_takes_it_up() {
    if !can_boot_hosts() {
        return;
    }
    let lab = small("stopped", 6);
    let child = lab.spawn_apply();
    let deadline = std::time::Instant::now() + Duration::from_mins(2);
    while !lab.journal().lines().any(|line| line.contains("\"started\"") && line.contains("build/web")) {
        assert!(std::time::Instant::now() < deadline, "{}", lab.journal());
        std::thread::sleep(Duration::from_millis(10));
    }
    std::thread::sleep(Duration::from_secs(1));
    let status = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(5));
    let log = std::fs::read_to_string(lab.path().join("apply.log")).unwrap();
    assert!(log.contains("goes on on the host"), "{log}");
    lab.apply().exits(0);
    assert_eq!(lab.on_host("cat ~/builds"), "run");
    lab.destroy();
}

#[test]
fn real_host_two_applies_at_once_the_second_names_the_holder() {
    if !can_boot_hosts() {
        return;
    }
    let lab = small("busy", 2);
    let mut first = lab.spawn_apply();
    while !lab.journal().contains("create_intended") {
        std::thread::sleep(Duration::from_millis(10));
    }
    let second = lab.apply().exits(6);
    assert!(second.stderr.contains(&first.id().to_string()), "the holder is not named: {}", second.stderr);
    assert!(second.stderr.contains("since"), "{}", second.stderr);
    assert_eq!(first.wait().unwrap().code(), Some(0));
    lab.destroy();
}

#[test]
fn real_host_saved_plan_is_applied_once_and_refused_when_anything_moved() {
    if !can_boot_hosts() {
        return;
    }
    let lab = small("planned", 1);
    lab.run(&["plan", lab.spec_arg()]).exits(0);
    lab.edit("web/web.conf.j2", "lane=", "name=");
    let stale = lab.run(&["apply"]).exits(6);
    assert!(stale.stderr.contains("stale"), "{}", stale.stderr);
    lab.run(&["plan", lab.spec_arg()]).exits(0);
    lab.edit("planned.yaml", "lease: {ttl: 1h}", "lease: {ttl: 2h}");
    lab.run(&["apply"]).exits(6);
    lab.run(&["plan", lab.spec_arg()]).exits(0);
    lab.run(&["apply"]).exits(0);
    lab.run(&["apply"]).exits(64);
    // A changed cloud-init replaces the host and says what is lost.
    lab.write("extra.yaml", "#cloud-config\nruncmd:\n  - [touch, /var/tmp/extra]\n");
    lab.edit("planned.yaml", "access: {user: mvm}", "access: {user: mvm}\ncloud_init: extra.yaml");
    let before =
        lab.on_host("cat /proc/sys/kernel/random/boot_id; stat -c %i /etc/hostname; cat /etc/machine-id");
    let plan = lab.run(&["plan", lab.spec_arg()]).exits(0).stdout;
    assert!(plan.to_lowercase().contains("replace") && plan.contains("lost"), "{plan}");
    lab.run(&["apply"]).exits(0);
    let after =
        lab.on_host("cat /proc/sys/kernel/random/boot_id; stat -c %i /etc/hostname; cat /etc/machine-id");
    assert_ne!(before, after, "the host was not replaced");
    assert_eq!(lab.on_host("test -e /var/tmp/extra && echo ran"), "ran");
    assert_eq!(Lab::containers(&lab.lineage8()), 1);
    lab.destroy();
}

/// I11: a plan is bound to the record that it was made against, by lineage and serial.
#[test]
fn i11_real_host_saved_plan_of_another_record_is_refused() {
    if !can_boot_hosts() {
        return;
    }
    let lab = small("other-record", 0);
    lab.run(&["plan", lab.spec_arg()]).exits(0);
    let (plan, record) = (lab.state().join("plan.json"), lab.state().join("state.json"));
    let (planned, recorded) = (std::fs::read(&plan).unwrap(), std::fs::read_to_string(&record).unwrap());
    let mut moved: serde_json::Value = serde_json::from_str(&recorded).unwrap();
    moved["serial"] = (moved["serial"].as_u64().unwrap() + 1).into();
    std::fs::write(&record, serde_json::to_string_pretty(&moved).unwrap()).unwrap();
    lab.run(&["apply"]).exits(6);

    // Another life of the same spec: the state was deleted, and its folder has the old plan.
    std::fs::remove_dir_all(lab.state()).unwrap();
    lab.run(&["plan", lab.spec_arg()]).exits(0);
    std::fs::write(&plan, planned).unwrap();
    lab.run(&["apply"]).exits(6);
    assert!(!lab.journal().contains("create_intended"), "{}", lab.journal());
}

/// I10, I19: neither the folder, nor the user, nor the language, nor how often it was asked is in a plan.
#[test]
fn i10_i19_plans_are_the_same_bytes_wherever_they_are_made() {
    let plan = |lab: &Lab, home: &str, locale: &str| {
        let arguments = ["plan", lab.spec_arg(), "--offline", "--format", "json"];
        let output = lab.command(&arguments).env("HOME", home).env("LC_ALL", locale).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut plan: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        // When it was made and of which file is said on purpose.
        plan.as_object_mut().unwrap().remove("created_at").unwrap();
        plan["spec"].as_object_mut().unwrap().remove("path").unwrap();
        plan.to_string()
    };
    let labs = [Lab::local("anywhere").hostless(), Lab::local("anywhere").hostless()];
    let first = plan(&labs[0], "/root", "C");
    assert!(first.contains("provision/host"), "{first}");
    for lab in &labs {
        for (home, locale) in [("/root", "C"), ("/nonexistent", "tr_TR.UTF-8"), ("/home/other", "de_DE")] {
            assert_eq!(plan(lab, home, locale), first, "{} {home} {locale}", lab.path().display());
        }
    }
}

#[test]
fn real_host_run_destroys_whatever_happens_and_tells_the_first_failure() {
    if !can_boot_hosts() {
        return;
    }
    let lab = small("ran", 1);
    lab.run(&["run", lab.spec_arg()]).exits(0);
    assert_eq!(Lab::traces(&lab.lineage8()), Vec::<String>::new());
    assert!(lab.state().join("junit.xml").exists());
    lab.edit("web/test.sh", "echo tested\n", "echo tested\nexit 3\n");
    lab.run(&["run", lab.spec_arg()]).exits(5);
    assert_eq!(Lab::traces(&lab.lineage8()), Vec::<String>::new());
}

#[test]
fn real_host_failed_cloud_init_names_the_module_and_does_not_hang() {
    if !can_boot_hosts() {
        return;
    }
    let lab = small("broken", 1);
    lab.write(
        "broken-init.yaml",
        "#cloud-config\nruncmd:\n  - [sh, -c, 'echo no such mirror >&2; exit 7']\n",
    );
    lab.edit("broken.yaml", "access: {user: mvm}", "access: {user: mvm}\ncloud_init: broken-init.yaml");
    let ran = lab.apply().exits(5);
    assert!(ran.stderr.contains("scripts"), "the failed module is not named: {}", ran.stderr);
    assert!(ran.stderr.contains("no such mirror"), "its log is not shown: {}", ran.stderr);
    lab.destroy();
}

#[test]
fn real_host_with_a_lapsed_lease_powers_itself_off() {
    if !can_boot_hosts() {
        return;
    }
    let lab = small("leased", 1);
    lab.edit("leased.yaml", "lease: {ttl: 1h}", "lease: {ttl: 45s}");
    // Too short for the whole lane, long enough for the host: it must stop by itself, with nobody there.
    assert!(lab.kill_apply_when(|journal| {
        journal.lines().any(|line| line.contains("\"started\"") && line.contains("await/cloud-init"))
    }));
    let lineage8 = lab.lineage8();
    let deadline = std::time::Instant::now() + Duration::from_mins(2);
    while Lab::containers(&lineage8) > 0 {
        assert!(std::time::Instant::now() < deadline, "the host outlived its lease");
        std::thread::sleep(Duration::from_secs(1));
    }
    lab.destroy();
}

#[test]
fn real_host_lookalike_is_refused_by_its_host_key() {
    if !can_boot_hosts() {
        return;
    }
    let lab = small("pinned", 1);
    lab.apply().exits(0);
    // Another machine at the same address: same user, same login key, another host key.
    lab.on_host(
        "sudo sh -c 'rm -f /etc/ssh/lane_host_ed25519_key* && ssh-keygen -q -t ed25519 -N \"\" -f /etc/ssh/lane_host_ed25519_key && systemctl restart ssh'",
    );
    // The shared connection was made before; end it, as a reboot or another day would.
    let config = lab.state().join("ssh/ssh_config");
    let alias = format!("lane-pinned-{}", lab.lineage8());
    let ended = std::process::Command::new("ssh")
        .arg("-F")
        .arg(&config)
        .args(["-O", "exit", &alias])
        .status()
        .unwrap();
    assert!(ended.success(), "there was no shared connection to end");
    let plan = lab.run(&["plan", lab.spec_arg()]);
    assert!(format!("{}{}", plan.stdout, plan.stderr).contains("host key"), "{plan:?}");
    let ran = lab.run(&["exec", "pinned", "--", "true"]);
    assert_ne!(ran.code, 0, "a host with another key was trusted");
    lab.destroy();
}
