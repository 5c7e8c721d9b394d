//! I13: no secret in any output, log, state, plan, receipt, argument list, or in the environment of a program that
//! `lane` starts. Markers stand in every credential and secret; then everything is searched for them.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use std::sync::Arc;

use crate::clouds::listen;
use crate::emulators::{self, Emulator, Refusal};
use crate::refusals::NoRoom;
use crate::support::{Lab, can_boot_hosts, root, small};

/// Words that no file or output may hold, beside the keys and the generated secret.
const CREDENTIAL: &str = "marked-credential-5aa1";
const VALUE: &str = "marked-value-77c3";

/// Every variable that some provider takes credentials from, by the published sources.
pub(crate) fn credential_variables() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in std::fs::read_dir(root().join("src/provider/adapters")).unwrap() {
        let path = file.unwrap().path();
        let Ok(text) = std::fs::read_to_string(path) else { continue };
        let listed =
            text.split("credentials: &[").nth(1).and_then(|rest| rest.split(']').next()).unwrap_or_default();
        names.extend(listed.split('"').skip(1).step_by(2).map(str::to_owned));
    }
    assert!(names.len() > 5, "{names:?}");
    names
}

/// Looks at every process of this machine until told to stop; returns where a marker stood in an argument list, and
/// where a credential stood in the environment of a program that is not `lane` itself.
fn watch_processes(stop: &AtomicBool) -> BTreeSet<String> {
    let mut leaks = BTreeSet::new();
    while !stop.load(Ordering::Relaxed) {
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let process = entry.path();
            let text = |file: &str| {
                String::from_utf8_lossy(&std::fs::read(process.join(file)).unwrap_or_default())
                    .replace('\0', " ")
            };
            let command = text("cmdline");
            if command.contains(CREDENTIAL) || command.contains(VALUE) {
                leaks.insert(format!("arguments: {command}"));
            }
            let program = command.split(' ').next().unwrap_or_default();
            let name = Path::new(program).file_name().unwrap_or_default();
            let watched = ["ssh", "rsync", "systemd-nspawn", "setsid", "mmdebstrap", "ip", "nft", "ssh:"];
            if watched.iter().any(|watched| name == *watched) && text("environ").contains(CREDENTIAL) {
                leaks.insert(format!("environment: {command}"));
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    leaks
}

/// Also when an assertion fails: the scope waits for its threads.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Names the files below a folder that hold one of the words.
fn search(folder: &Path, words: &[String], into: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            search(&path, words, into);
        } else if let Ok(bytes) = std::fs::read(&path) {
            let text = String::from_utf8_lossy(&bytes);
            let found = words.iter().filter(|word| text.contains(word.as_str()));
            into.extend(found.map(|word| format!("{} holds {word}", path.display())));
        }
    }
}

#[test]
fn i13_real_host_no_secret_is_in_any_output_file_or_process_list() {
    if !can_boot_hosts() {
        return;
    }
    let lab = small("secretive", 1);
    lab.edit(
        "secretive.yaml",
        "    run: bash build.sh\n",
        "    run: bash build.sh\n    env: {KEY: \"${env:VALUE}\"}\n",
    );
    lab.edit("secretive.yaml", "env: {GREETING:", "env: {KEY: \"${env:VALUE}\", GREETING:");
    lab.edit(
        "secretive.yaml",
        "smoke: {in: web, run: \"",
        "smoke: {in: web, env: {KEY: \"${env:VALUE}\"}, run: \"test -e /tmp/ready && ",
    );
    let stop = AtomicBool::new(false);
    let (mut said, mut generated, mut keys) = (String::new(), String::new(), Vec::<String>::new());
    let mut run = |args: &[&str], code: i32| {
        let mut command = lab.command(args);
        for name in credential_variables() {
            command.env(name, CREDENTIAL);
        }
        let output = command.env("VALUE", VALUE).output().unwrap();
        let text =
            format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{args:?}: {text}");
        said.push_str(&text);
    };
    let spec = lab.spec_arg();
    let leaks = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch_processes(&stop));
        let stopping = StopOnDrop(&stop);
        run(&["-vv", "plan", spec], 0);
        run(&["plan", spec, "--format", "json"], 0);
        run(&["graph", spec], 0);
        // The smoke command fails at first.
        run(&["-vv", "apply", spec, "-y", "--format", "json"], 5);
        lab.on_host("touch /tmp/ready");
        run(&["-vv", "apply", spec, "-y"], 0);
        for args in [
            vec!["-vv", "status", "secretive"],
            vec!["status", "secretive", "--format", "json"],
            vec!["show", "secretive", "--format", "json"],
            vec!["list", "--cloud", "nspawn", "--format", "json"],
            vec!["lease", "show", "secretive"],
            vec!["logs", "build/web"],
        ] {
            run(&args, 0);
        }
        // What they are for did arrive.
        assert!(lab.on_host("sudo cat /etc/lane/env/web").contains(VALUE));
        generated = lab.on_host("sudo cat /var/lib/lane/secrets/token");
        keys = ["id_ed25519", "host_ed25519"]
            .map(|key| std::fs::read_to_string(lab.state().join("keys").join(key)).unwrap())
            .iter()
            .map(|key| key.lines().nth(2).unwrap().to_owned())
            .collect();
        run(&["-vv", "destroy", "secretive", "-y", "--format", "json"], 0);
        drop(stopping);
        watcher.join().unwrap()
    });
    assert_eq!(generated.len(), 32);

    assert_eq!(leaks, BTreeSet::new());
    std::fs::remove_dir_all(lab.state().join("keys")).unwrap();
    std::fs::write(lab.path().join("all-output"), &said).unwrap();
    let words = [vec![CREDENTIAL.to_owned(), VALUE.to_owned(), generated], keys].concat();
    let mut found = vec![];
    search(lab.path(), &words, &mut found);
    assert_eq!(found, Vec::<String>::new());
    // The search can find what is there.
    std::fs::write(lab.path().join("planted"), VALUE).unwrap();
    search(lab.path(), &words, &mut found);
    assert_eq!(found.len(), 1);
}

/// A cloud's own credentials, in use: they go to the cloud and nowhere else.
fn credentials_stay_secret(provider: &'static str, names: &[&str]) {
    let emulator = emulators::over(provider, Arc::new(NoRoom(Refusal::OverQuota))).unwrap();
    let (address, _running) = listen(Arc::<dyn Emulator>::clone(&emulator));
    let spec = format!("version: 1\nname: NAME\nprovider: {{name: {provider}}}\n");
    let mut lab = Lab::new("marked", &spec).hostless();
    let endpoint = emulators::endpoint(provider, &address.to_string());
    for (name, value) in [
        (format!("LANE_{}_ENDPOINT", provider.to_ascii_uppercase()).as_str(), endpoint.as_str()),
        ("LANE_ADDRESS_SERVICE", &format!("http://{address}/my-address")),
        ("AZURE_AUTHORITY_HOST", &format!("http://{address}")),
        ("AZURE_TENANT_ID", "mine"),
        ("AZURE_CLIENT_ID", "mine"),
        ("AZURE_SUBSCRIPTION_ID", "00000000-0000-0000-0000-000000000000"),
        ("GOOGLE_CLOUD_PROJECT", "my-project"),
        ("AWS_ACCESS_KEY_ID", "AKIAMINE"),
        ("LANE_KEYRING", "none"),
    ] {
        lab.set(name, value);
    }
    lab.set("HOME", lab.path().join("home").to_str().unwrap());
    for name in names {
        lab.set(name, CREDENTIAL);
    }
    let stop = AtomicBool::new(false);
    let mut said = String::new();
    let leaks = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| watch_processes(&stop));
        let stopping = StopOnDrop(&stop);
        let spec = lab.spec_arg();
        for (args, code) in [
            (vec!["-vv", "plan", spec], 0),
            (vec!["-vv", "plan", spec, "--format", "json"], 0),
            (vec!["-vv", "apply", spec, "-y", "--format", "json"], 4),
            (vec!["-vv", "whoami", provider, "--format", "json"], 0),
            (vec!["-vv", "list", "--cloud", spec, "--format", "json"], 0),
            (vec!["show", "marked", "--format", "json"], 0),
            (vec!["-vv", "destroy", spec, "-y", "--format", "json"], 0),
        ] {
            let ran = lab.run(&args).exits(code);
            said.push_str(&ran.stdout);
            said.push_str(&ran.stderr);
        }
        drop(stopping);
        watcher.join().unwrap()
    });
    assert_eq!(leaks, BTreeSet::new(), "{provider}");
    // It did go where it belongs: as a bearer, as a session, to the token service.
    let sent = emulator.requests().iter().any(|request| {
        let in_headers = request.headers.iter().any(|(_, value)| value.reveal().contains(CREDENTIAL));
        in_headers || request.parameter("client_secret") == Some(CREDENTIAL)
    });
    assert!(sent, "{provider}: the credential was never used");
    std::fs::write(lab.path().join("all-output"), &said).unwrap();
    let mut found = vec![];
    search(lab.path(), &[CREDENTIAL.to_owned()], &mut found);
    assert_eq!(found, Vec::<String>::new(), "{provider}");
}

#[test]
fn i13_no_credential_of_gcp_is_in_any_output_file_or_process_list() {
    credentials_stay_secret("gcp", &["CLOUDSDK_AUTH_ACCESS_TOKEN", "GOOGLE_OAUTH_ACCESS_TOKEN"]);
}

#[test]
fn i13_no_credential_of_aws_is_in_any_output_file_or_process_list() {
    credentials_stay_secret("aws", &["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"]);
}

#[test]
fn i13_no_credential_of_azure_is_in_any_output_file_or_process_list() {
    credentials_stay_secret("azure", &["AZURE_CLIENT_SECRET"]);
}
