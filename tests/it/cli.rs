//! The program without a host: validation, offline plans, help, exit codes, damaged state.

use crate::support::{Lab, SMALL, root, small};

#[test]
fn every_example_spec_is_valid_and_passes_the_published_schema() {
    let lab = Lab::new("unused", SMALL);
    let schema: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(root().join("schemas/lane.schema.json")).unwrap())
            .unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let mut count = 0;
    for entry in std::fs::read_dir(root().join("specs")).unwrap() {
        let path = entry.unwrap().path();
        lab.run(&["validate", path.to_str().unwrap()]).exits(0);
        let value: serde_json::Value =
            serde_yaml::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        let errors: Vec<String> = validator.iter_errors(&value).map(|error| error.to_string()).collect();
        assert!(errors.is_empty(), "{}: {errors:?}", path.display());
        count += 1;
    }
    assert!(count >= 9, "{count} specs");
}

#[test]
fn the_committed_schema_is_current() {
    let lab = Lab::new("unused", SMALL);
    let committed = std::fs::read_to_string(root().join("schemas/lane.schema.json")).unwrap();
    let current = lab.run(&["schema"]).exits(0).stdout;
    assert!(committed == current, "schemas/lane.schema.json is out of date: run `make schema`");
}

#[test]
fn an_offline_plan_needs_no_files_leaves_no_trace_and_says_what_is_unknown() {
    let lab = Lab::new("offline", SMALL);
    let ran = lab.run(&["plan", lab.spec_arg(), "--offline"]).exits(0);
    assert!(ran.stdout.contains("unknown until apply"), "{}", ran.stdout);
    assert!(!lab.state().exists(), "an offline plan wrote state");
    let coded = lab.run(&["plan", lab.spec_arg(), "--offline", "--detailed-exitcode"]);
    coded.exits(2);
}

#[test]
fn an_offline_plan_runs_no_command_and_opens_no_socket() {
    let lab = small("quiet", 1);
    let trace = lab.path().join("trace");
    let Ok(output) = std::process::Command::new("strace")
        .args(["-f", "-e", "trace=execve,socket,connect", "-o"])
        .arg(&trace)
        .arg(env!("CARGO_BIN_EXE_lane"))
        .args(["plan", lab.spec_arg(), "--offline"])
        .current_dir(lab.path())
        .output()
    else {
        assert!(std::env::var_os("CI").is_none(), "CI has to have strace");
        println!("left out: strace is not installed");
        return;
    };
    assert!(output.status.success(), "{output:?}");
    let trace = std::fs::read_to_string(&trace).unwrap();
    let calls: Vec<&str> = trace
        .lines()
        .filter(|line| line.contains("execve(") || line.contains("socket(") || line.contains("connect("))
        .collect();
    assert_eq!(calls.len(), 1, "only the program itself is executed: {calls:#?}");
}

#[test]
fn a_missing_file_is_an_error_for_plan_with_its_place_in_the_spec() {
    let lab = Lab::new("missing", SMALL);
    let ran = lab.run(&["plan", lab.spec_arg()]).exits(3);
    assert!(ran.stderr.contains("missing.yaml:"), "{}", ran.stderr);
    assert!(ran.stderr.contains("web/web.service"), "{}", ran.stderr);
    lab.run(&["validate", lab.spec_arg()]).exits(0);
}

#[test]
fn complaints_come_all_at_once_with_place_and_guess() {
    let text =
        SMALL.replace("name: nspawn", "name: nspwan").replace("lease:", "leese:").replace("after", "aftr");
    let lab = Lab::new("typos", &text);
    let ran = lab.run(&["validate", lab.spec_arg()]).exits(3);
    assert!(ran.stderr.contains("nspawn"), "{}", ran.stderr);
    assert!(ran.stderr.contains("did you mean"), "{}", ran.stderr);
    assert!(ran.stderr.contains("leese"), "{}", ran.stderr);
}

#[test]
fn wrong_usage_exits_with_64_and_help_with_0() {
    let lab = Lab::new("usage", SMALL);
    lab.run(&["aply"]).exits(64);
    lab.run(&["plan"]).exits(64);
    lab.run(&["--help"]).exits(0);
    lab.run(&["apply"]).exits(64);
}

#[test]
fn destroying_nothing_says_so_and_exits_0() {
    let lab = Lab::new("nothing", SMALL);
    let ran = lab.run(&["destroy", "-y"]).exits(0);
    assert!(ran.stdout.contains("Nothing to destroy"), "{}", ran.stdout);
    let ran = lab.run(&["destroy", lab.spec_arg(), "-y"]).exits(0);
    assert!(ran.stdout.contains("Nothing to destroy"), "{}", ran.stdout);
}

#[test]
fn without_a_terminal_apply_asks_for_the_flag() {
    if !crate::support::can_boot_hosts() {
        return;
    }
    let lab = small("unasked", 1);
    let ran = lab.run(&["apply", lab.spec_arg()]).exits(64);
    assert!(ran.stderr.contains("-y"), "{}", ran.stderr);
}

#[test]
fn init_writes_a_spec_that_validates_and_never_overwrites() {
    let lab = Lab::new("unused", SMALL);
    for provider in ["nspawn", "gcp", "aws"] {
        let file = format!("fresh-{provider}.yaml");
        lab.run(&["init", &file, "--provider", provider]).exits(0);
        lab.run(&["validate", &file]).exits(0);
        lab.run(&["init", &file]).exits(64);
    }
}

#[test]
fn damaged_state_is_an_error_that_names_the_file_and_is_kept() {
    let lab = small("damaged", 1);
    for bad in ["", "{", "{\"format_version\": 99}", "not json at all"] {
        lab.write("state/damaged/state.json", bad);
        let ran = lab.run(&["show", "damaged"]);
        assert_ne!(ran.code, 0, "{bad:?} passed");
        assert!(ran.stderr.contains("state.json"), "{bad:?}: {}", ran.stderr);
        let ran = lab.run(&["destroy", "damaged", "-y"]);
        assert_ne!(ran.code, 0, "a destroy must not take damaged state for 'no host'");
        assert_eq!(lab.read("state/damaged/state.json"), bad, "the damaged file was touched");
    }
    std::fs::remove_file(lab.state().join("state.json")).unwrap();
}

/// Every verb that goes to a lane, on whichever fault: a code of its own, what is wrong, and a way out.
#[test]
fn every_verb_says_what_is_wrong_with_its_code_and_a_way_out() {
    let of_lane = |target: &'static str| {
        vec![
            vec!["show", target],
            vec!["status", target],
            vec!["test", target],
            vec!["destroy", target, "-y"],
            vec!["ssh", target],
            vec!["exec", target, "--", "true"],
            vec!["lease", "show", target],
            vec!["lease", "extend", target, "--by", "1h"],
            vec!["state", "list", target],
            vec!["state", "forget", target, "smoke"],
        ]
    };
    let of_spec = |target: &'static str| {
        vec![
            vec!["validate", target],
            vec!["plan", target],
            vec!["plan", target, "--offline"],
            vec!["graph", target],
            vec!["apply", target, "-y"],
            vec!["run", target],
            vec!["destroy", target, "-y"],
            vec!["state", "adopt", target],
            vec!["sweep", target, "--expired", "--dry-run"],
            vec!["list", "--cloud", target],
        ]
    };
    let lab = small("wrong", 1).hostless();
    lab.write("broken.yaml", "version: 1\nname: broken\nprovider: {name: nspwan}\n");
    let mut wrong = vec![];
    let mut fault = |name: &str, verbs: Vec<Vec<&str>>, code: &dyn Fn(&str) -> i32, says: &str| {
        for verb in verbs {
            let ran = lab.run(&verb);
            let has_way_out = ran.stderr.contains("hint: ")
                || ran.stderr.contains("help: ")
                || ran.stderr.contains("did you mean");
            if ran.code != code(verb[0]) || !ran.stderr.contains(says) || !has_way_out {
                wrong.push(format!("{name}: {verb:?}: exit {}\n{}", ran.code, ran.stderr));
            }
        }
    };
    fault("no such lane", of_lane("nobody"), &|_| 64, "nobody");
    fault("no such file", of_spec("nowhere.yaml"), &|_| 3, "nowhere.yaml");
    fault("a wrong spec", of_spec("broken.yaml"), &|_| 3, "nspwan");
    fault("no saved plan", vec![vec!["apply", "-y"]], &|_| 64, "plan");
    let may_cost = |verb: &str| if verb == "destroy" { 7 } else { 1 };
    lab.write("state/wrong/state.json", "{");
    fault("damaged", of_lane("wrong"), &may_cost, "state.json");
    std::fs::remove_file(lab.state().join("state.json")).unwrap();
    lab.run(&["plan", lab.spec_arg()]).exits(0);
    let held = std::fs::File::open(lab.state().join("lock")).unwrap();
    held.lock().unwrap();
    let writing = vec![
        vec!["apply", lab.spec_arg(), "-y"],
        vec!["run", lab.spec_arg()],
        vec!["destroy", "wrong", "-y"],
        vec!["state", "forget", "wrong", "smoke"],
        vec!["state", "unlock", "wrong"],
    ];
    fault("locked", writing, &|_| 6, "locked");
    drop(held);
    lab.write("a-file", "");
    let elsewhere = |verb: &[&'static str]| [&["--state-dir", "a-file"], verb].concat();
    let verbs = [&["list"][..], &["show", "wrong"], &["apply", "wrong.yaml", "-y"], &["plan", "wrong.yaml"]];
    fault("no folder for state", verbs.into_iter().map(elsewhere).collect(), &|_| 1, "a-file");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Gives a lane a record with a host that is not there, four minutes before its lease of an hour ends.
fn record_host(lab: &Lab) -> serde_json::Value {
    lab.run(&["plan", lab.spec_arg()]).exits(0);
    let file = format!("state/{}/state.json", lab.lane);
    let mut record: serde_json::Value = serde_json::from_str(&lab.read(&file)).unwrap();
    let at = |minutes: i64| (jiff::Timestamp::now() + jiff::SignedDuration::from_mins(minutes)).to_string();
    record["host"] = serde_json::json!({
        "id": "lane-near-00000000", "provider": "nspawn", "scope": null, "provider_config": {}, "sku": "container",
        "region": "local", "image": "debian-13", "user": "mvm", "address": null, "ssh_port": 22,
        "created_at": at(-55), "expires_at": at(4), "fingerprint": "00", "user_data": "00", "tainted": null,
    });
    lab.write(&file, &record.to_string());
    record
}

#[test]
fn a_host_whose_destroy_was_begun_is_not_forgotten() {
    let lab = small("begun", 1).hostless();
    let mut record = record_host(&lab);
    let forget = ["state", "forget", "begun", "--host", "--dry-run"];
    lab.run(&forget).exits(0);
    record["in_doubt"]["destroy/host"] = serde_json::json!(
        {"fingerprint": "00", "at": jiff::Timestamp::now().to_string(), "run": null, "token": null}
    );
    lab.write("state/begun/state.json", &record.to_string());
    let said = lab.run(&forget).exits(64).stderr;
    assert!(said.contains("`lane destroy` finishes it"), "{said}");
}

#[test]
fn a_lease_that_is_nearly_over_is_told_by_every_verb() {
    let lab = small("near", 1).hostless();
    record_host(&lab);
    let verbs: Vec<Vec<&str>> = vec![
        vec!["validate", lab.spec_arg()],
        vec!["plan", lab.spec_arg(), "--offline"],
        vec!["plan", lab.spec_arg()],
        vec!["graph", lab.spec_arg()],
        vec!["apply", lab.spec_arg()],
        vec!["status", "near"],
        vec!["show", "near"],
        vec!["list"],
        vec!["list", "--cloud"],
        vec!["test", "near"],
        vec!["exec", "near", "--", "true"],
        vec!["ssh", "near"],
        vec!["logs", "smoke"],
        vec!["lease", "show", "near"],
        vec!["state", "list", "near"],
        vec!["state", "show", "near"],
        vec!["state", "forget", "near", "--host", "--dry-run"],
        vec!["sweep", "--expired", "--dry-run"],
        vec!["destroy", "near"],
        vec!["run", lab.spec_arg()],
    ];
    for verb in verbs {
        let said = lab.run(&verb).stderr;
        assert!(said.contains("the lease of lane `near` ends in "), "{verb:?}: {said}");
        assert!(said.contains("lane lease extend near"), "{verb:?}: {said}");
    }
}

#[test]
fn required_kvm_is_probed_though_no_probe_is_written() {
    let lab = Lab::new("gated", &SMALL.replace("kvm: none", "kvm: required"));
    let plan = lab.run(&["plan", lab.spec_arg(), "--offline"]).exits(0).stdout;
    assert!(plan.contains("probe/kvm"), "{plan}");
    let lab = Lab::new("free", SMALL);
    let plan = lab.run(&["plan", lab.spec_arg(), "--offline"]).exits(0).stdout;
    assert!(!plan.contains("probe/kvm") && plan.contains("does without /dev/kvm"), "{plan}");
}

#[test]
fn the_disk_is_part_of_the_plan_and_roomy_by_default() {
    let disk = |text: &str| {
        let lab = Lab::new("roomy", text);
        let plan = lab.run(&["plan", lab.spec_arg(), "--offline", "--format", "json"]).exits(0).json();
        let provision =
            plan["steps"].as_array().unwrap().iter().find(|step| step["id"] == "provision/host").unwrap();
        (provision["inputs"]["disk"].to_string(), provision["fingerprint"].to_string())
    };
    let (default, before) = disk(SMALL);
    assert!(default.contains("50000000000") || default.contains("50 GB"), "{default}");
    let (_, after) = disk(&SMALL.replace("kvm: none", "kvm: none\ndisk: 60 GB"));
    assert_ne!(before, after, "another disk must be another host");
}

#[test]
fn graph_draws_every_step() {
    let lab = small("drawn", 1);
    for format in ["text", "dot", "mermaid"] {
        let drawn = lab.run(&["graph", lab.spec_arg(), "--format", format]).exits(0).stdout;
        for step in
            ["provision/host", "await/cloud-init", "sync/web", "build/web", "service/web", "smoke", "tests"]
        {
            assert!(drawn.contains(step), "{format} lacks {step}:\n{drawn}");
        }
    }
}

#[test]
fn completions_are_made_for_every_shell() {
    let lab = Lab::new("unused", SMALL);
    for shell in ["bash", "zsh", "fish"] {
        assert!(lab.run(&["completions", shell]).exits(0).stdout.contains("lane"));
    }
}

#[test]
fn prices_are_listed_with_source_and_date_and_the_cheapest_first() {
    let lab = Lab::new("unused", SMALL);
    let shown = lab.run(&["prices"]).exits(0).stdout;
    for words in ["PER HOUR", "c5.metal", "4.08 USD", "hetzner", "0.50 EUR", "your own machine"] {
        assert!(shown.contains(words), "no {words}:\n{shown}");
    }
    let with_kvm = lab.run(&["prices", "--kvm", "--format", "json"]).exits(0).json();
    let rows = with_kvm["prices"].as_array().unwrap();
    let micros: Vec<u64> = rows.iter().map(|row| row["per_hour"]["micros"].as_u64().unwrap()).collect();
    assert!(micros.is_sorted() && rows.iter().all(|row| row["kvm"] != "no"), "{with_kvm}");
    let one = lab.run(&["prices", "gcp", "--format", "json"]).exits(0).json();
    assert!(one["prices"].as_array().unwrap().iter().all(|row| row["provider"] == "gcp"), "{one}");
    let ran = lab.run(&["prices", "hetzner", "--kvm"]).exits(0);
    assert!(ran.stdout.contains("No price"), "{}", ran.stdout);
    let ran = lab.run(&["prices", "gpc"]).exits(64);
    assert!(ran.stderr.contains("did you mean `gcp`?"), "{}", ran.stderr);
}

#[test]
fn the_price_of_the_spec_counts_before_the_table() {
    let cost = |price: &str, ttl: &str| {
        let text = SMALL.replace("kvm: none", &format!("kvm: none\n{price}"));
        let (before, after) = text.split_once("lease:").unwrap();
        let rest = after.split_once('\n').unwrap().1;
        let lab = Lab::new("priced", &format!("{before}lease: {{ttl: {ttl}, max_spend: 0.10 USD}}\n{rest}"));
        let plan = lab.run(&["plan", lab.spec_arg(), "--offline"]).exits(0).stdout;
        let line = plan.lines().find(|line| line.starts_with("Cost:")).unwrap().to_owned();
        (line, plan.contains("more than max_spend"))
    };
    let (line, refused) = cost("", "1h");
    assert!(line.contains("0.00 USD per hour") && !refused, "{line}");
    let (line, refused) = cost("price: 0.25 USD", "1h");
    assert!(line.contains("0.25 USD per hour; about 0.125 USD for a cycle of 30m; "), "{line}");
    assert!(line.contains("at most 0.25 USD until the lease ends") && refused, "{line}");
    let (line, refused) = cost("price: 0.25 USD", "12m");
    assert!(line.contains("about 0.05 USD for a cycle of 12m; ") && !refused, "{line}");
}

#[test]
fn without_a_keyring_login_names_the_variables_to_set() {
    let lab = Lab::new("unused", SMALL);
    let login = |args: &[&str], text: &str| {
        use std::io::Write;
        let mut command = lab.command(args);
        let mut child = command
            .env("LANE_KEYRING", "none")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdin.take().unwrap().write_all(text.as_bytes()));
        let output = child.wait_with_output().unwrap();
        let said =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(!said.contains("hunter2"), "{said}");
        (output.status.code(), said)
    };
    let (code, said) = login(&["login", "hetzner", "--stdin", "HCLOUD_TOKEN"], "hunter2\n");
    assert!(code == Some(4) && said.contains("no keyring") && said.contains("set HCLOUD_TOKEN"), "{said}");
    let (code, said) = login(&["login", "hetzner"], "hunter2\n");
    assert!(code == Some(64) && said.contains("--stdin HCLOUD_TOKEN"), "{said}");
    let (code, said) = login(&["login", "hetzner", "--stdin", "AWS_SECRET_ACCESS_KEY"], "hunter2\n");
    assert!(code == Some(64) && said.contains("it keeps HCLOUD_TOKEN"), "{said}");
    let (code, said) = login(&["login", "nspawn"], "");
    assert!(code == Some(64) && said.contains("needs no credentials"), "{said}");
    let (code, said) = login(&["logout", "hetzner"], "");
    assert!(code == Some(4) && said.contains("no keyring"), "{said}");
    lab.run(&["login", "hetzner", "hunter2"]).exits(64);
}

#[test]
fn whoami_of_a_provider_that_cannot_be_asked_says_so() {
    let lab = Lab::new("unused", SMALL);
    let ran = lab.run(&["whoami", "hetzner"]).exits(4);
    assert!(ran.stderr.contains("hint:"), "{}", ran.stderr);
    let ran = lab.run(&["whoami", "gpc"]).exits(64);
    assert!(ran.stderr.contains("did you mean `gcp`?"), "{}", ran.stderr);
}

#[test]
fn doctor_says_what_is_not_right_and_how_to_mend_it_and_shows_no_secret() {
    let lab = Lab::new("unused", SMALL);
    let doctor = |args: &[&str]| {
        let mut command = lab.command(args);
        let credentials = crate::secrets::credential_variables();
        let proxies = ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"].map(str::to_owned);
        for variable in credentials.iter().chain(&proxies) {
            command.env_remove(variable);
        }
        let output = command
            .env("LANE_KEYRING", "none")
            .env("HCLOUD_TOKEN", "hunter2")
            // Nobody listens there.
            .env("LANE_HETZNER_ENDPOINT", "http://127.0.0.1:1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!text.contains("hunter2"), "{text}");
        (output.status.code(), text)
    };
    let (code, text) = doctor(&["doctor", "hetzner", "--format", "json"]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let check = |name: &str| {
        let checks = json["checks"].as_array().unwrap();
        checks
            .iter()
            .find(|check| check["name"] == name)
            .unwrap_or_else(|| panic!("no {name}: {text}"))
            .clone()
    };
    assert_eq!(code, Some(4));
    assert_eq!(
        (&check("rsync")["state"], &check("rsync")["provider"]),
        (&"ok".into(), &serde_json::Value::Null)
    );
    assert!(check("OpenSSH client")["detail"].as_str().unwrap().starts_with("OpenSSH"), "{text}");
    assert_eq!(check("keyring")["state"], "warning");
    assert_eq!(check("credentials")["detail"], "HCLOUD_TOKEN is set");
    let reach = check("reachability");
    assert!(
        reach["state"] == "failed" && reach["provider"] == "hetzner" && reach["mend"].is_string(),
        "{text}"
    );
    // Without a name, each provider that has credentials is looked at, and no other.
    let (code, text) = doctor(&["doctor"]);
    assert_eq!(code, Some(4), "{text}");
    assert!(text.contains("this machine\n") && text.contains("\nhetzner\n"), "{text}");
    assert!(text.contains("failed   reachability") && !text.contains("nspawn"), "{text}");
    lab.run(&["doctor", "--set", "project=x"]).exits(64);
}
