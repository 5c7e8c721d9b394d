//! What a spec's hostile texts become: for each place that takes any, the real scripts run with them in a folder here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::testing::{Bench, name, python_each_here, python_here, run_here};
use super::{build, files, probe, service};
use crate::inputs::scan;
use crate::plan::{Action, Work};
use crate::spec::positions::{Position, positions, strangers};
use crate::spec::{FileTemplate, LocalFile, Run, Source};
use crate::transport::testing::{LocalRemote, job, run_here as run_job_here};
use crate::transport::{JobOutcome, JobStart, Remote, Script};
use crate::user_data::{TimerAction, UserDataInput, render};
use crate::world::{SystemClock, World, fs};

/// What becomes of a text; each of them is a test below.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Nothing in it means anything to anybody: letters, digits and a few signs.
    Harmless,
    /// It names a file of this machine, or is a provider's own word, which its adapter checks.
    Here,
    Command,
    Variable,
    Folder,
    Installed,
    File,
    Junit,
    Pattern,
    UserData,
    Probe,
}

/// By the end of a place's label; the first that fits counts.
const WAYS: [(&str, Way); 25] = [
    ("(http).url", Way::Probe),
    ("(http).contains", Way::Probe),
    ("(unix).path", Way::Probe),
    ("(systemd).unit", Way::Probe),
    (".path", Way::Here),
    (".template", Way::Here),
    (".unit", Way::Here),
    ("cloud_init", Way::Here),
    ("sku", Way::Here),
    ("image", Way::Here),
    (".run", Way::Command),
    (".env.*", Way::Variable),
    (".env.{}", Way::Variable),
    ("sources.*.to", Way::Folder),
    (".install.*", Way::Installed),
    (".install.{}", Way::Installed),
    ("files.{}", Way::File),
    ("tests.junit", Way::Junit),
    (".exclude[]", Way::Pattern),
    ("access.authorized_keys[]", Way::UserData),
    ("access.user", Way::UserData),
    ("files.*.owner", Way::Harmless),
    ("(tcp).address", Way::Harmless),
    ("name", Way::Harmless),
    (".{}", Way::Harmless),
];

impl Way {
    fn of(position: &Position) -> Option<Self> {
        let label = position.label.as_str();
        if label.starts_with("provider(") {
            return Some(Self::Here);
        }
        let ends = |(end, _): &&(&str, Self)| {
            label
                .strip_suffix(end)
                .is_some_and(|rest| rest.is_empty() || !end.starts_with(char::is_alphabetic))
        };
        WAYS.iter().find(ends).map(|(_, way)| *way)
    }

    /// Returns the places that go this way, each with the hostile texts that it takes.
    fn travellers(self) -> Vec<(String, Vec<String>)> {
        let mut all: Vec<_> = positions()
            .into_iter()
            .filter(|position| Self::of(position) == Some(self))
            .map(|position| (position.label.clone(), position.taken()))
            .collect();
        all.retain(|(_, texts)| !texts.is_empty());
        assert!(!all.is_empty(), "nothing goes by {self:?}");
        all
    }

    /// Returns all texts that go this way, each once.
    fn texts(self, label_end: &str) -> Vec<String> {
        let mut all: Vec<String> = self
            .travellers()
            .into_iter()
            .filter(|(label, _)| label.ends_with(label_end))
            .flat_map(|(_, texts)| texts)
            .collect();
        all.sort();
        all.dedup();
        assert!(all.len() > 4, "{label_end}: {all:?}");
        all
    }
}

#[test]
fn every_place_that_takes_a_hostile_text_is_followed() {
    let lost: Vec<String> = positions()
        .into_iter()
        .filter(|position| Way::of(position).is_none() && !position.taken().is_empty())
        .map(|position| position.label)
        .collect();
    assert!(lost.is_empty(), "nobody looks what becomes of texts at {lost:?}: name their way here");
}

#[test]
fn harmless_texts_are() {
    for (label, texts) in Way::Harmless.travellers() {
        let safe = |c: char| c.is_ascii_alphanumeric() || "._-:".contains(c);
        let bad: Vec<_> = texts.iter().filter(|text| !text.chars().all(safe)).collect();
        assert!(bad.is_empty(), "{label}: {bad:?}");
    }
}

/// A program that keeps what it is given: its words and its environment.
const GIVEN: &str =
    "#!/bin/sh\nprintf '%s\\0' \"$@\" >\"${0%/*}/words\"; cat /proc/self/environ >\"${0%/*}/environ\"; pwd\n";

fn put_program(folder: &Path, name: &str, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::create_dir_all(folder).unwrap();
    fs::write_atomic(&folder.join(name), text.as_bytes(), fs::Mode::Public).unwrap();
    std::fs::set_permissions(folder.join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Reads what such a program was given last: its words and its variables.
fn given(folder: &Path) -> (Vec<String>, BTreeMap<String, String>) {
    let read = |name: &str| {
        let bytes = fs::read(&folder.join(name)).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        text.split_terminator('\0').map(str::to_owned).collect::<Vec<_>>()
    };
    let pair = |text: String| text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    (read("words"), read("environ").into_iter().filter_map(pair).collect())
}

#[tokio::test]
async fn commands_arrive_whole() {
    let remote = LocalRemote::new();
    let bin = remote.path("bin");
    put_program(&bin, "bash", GIVEN);
    let commands = Way::Command.texts(".run");
    for (number, command) in commands.iter().enumerate() {
        let job = job(&format!("{number:04}"), command);
        let (outcome, _) = run_job_here(&remote, &job, JobStart::Fresh).await;
        assert_eq!(
            (outcome, given(&bin).0),
            (JobOutcome::Exited { code: 0 }, vec!["-lc".to_owned(), command.clone()])
        );
    }
    let bin = remote.path("probe");
    put_program(&bin, "bash", "#!/bin/sh\nprintf '%s\\0' \"$@\" >>\"${0%/*}/words\"\n");
    let request =
        |run: &String| json!({"kind": "command", "run": run, "env": {}, "folder": "/", "limit": 10});
    let requests: Vec<_> = commands.iter().map(request).collect();
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let replies = python_each_here(probe::CHECK.code, &requests, Some(&path));
    assert!(replies.iter().all(|reply| reply["ok"] == true), "{replies:?}");
    let words = commands.iter().fold(String::new(), |words, command| words + "-lc\0" + command + "\0");
    assert_eq!(String::from_utf8(fs::read(&bin.join("words")).unwrap()).unwrap(), words);
}

#[tokio::test]
async fn variables_arrive_whole() {
    let remote = LocalRemote::new();
    let bin = remote.path("bin");
    put_program(&bin, "bash", GIVEN);
    let world = Bench::new().run.world;
    let mut env: BTreeMap<String, String> =
        Way::Variable.texts(".env.{}").into_iter().map(|name| (name.clone(), name)).collect();
    for (number, value) in Way::Variable.texts(".env.*").iter().enumerate() {
        // Variables of this machine stand for others' values; what is not one of them is to stay as it is.
        let value = crate::spec::resolve_env(&world, value).unwrap_or_else(|_| value.clone());
        env.insert(format!("V{number}"), value);
    }
    let arrived = |all: &BTreeMap<String, String>| {
        for (name, value) in &env {
            assert_eq!(all.get(name), Some(value), "{name}");
        }
    };
    // As many at once as fit into one environment.
    let mut job = job("01a", "true");
    job.env.clone_from(&env);
    assert_eq!(run_job_here(&remote, &job, JobStart::Fresh).await.0, JobOutcome::Exited { code: 0 });
    arrived(&given(&bin).1);
    let request = json!({"kind": "command", "run": "true", "env": env, "folder": "/", "limit": 10});
    let path = format!("{}:/usr/bin:/bin", bin.display());
    assert_eq!(python_here(probe::CHECK.code, &request, Some(&path))["ok"], true);
    arrived(&given(&bin).1);

    // A service's file is read by systemd, whose rules inside double quotes are those of a shell.
    let at = |part: &str| remote.path(part).display().to_string();
    put_program(&bin, "systemctl", "#!/bin/sh\necho ActiveState=active\n");
    let request = json!({
        "name": "web", "units": at("units"), "env_folder": at("env"), "notes": at("notes"), "timeout": 5,
        "unit": "[Service]\n", "env": env, "files": [], "stable_for": 0,
    });
    assert_eq!(python_here(service::SERVICE.code, &request, Some(&path))["state"], "restarted");
    let script = Script::user("env", "set -a; . \"$1\"; exec cat /proc/self/environ").arg(at("env/web"));
    let output = run_here(&script).text();
    let pair = |text: &str| text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    arrived(&output.split('\0').filter_map(pair).collect());
}

#[tokio::test]
async fn folders_are_made_and_entered() {
    let remote = LocalRemote::new();
    put_program(&remote.path("bin"), "bash", GIVEN);
    for (number, to) in Way::Folder.texts("").iter().enumerate() {
        let folder = format!("{}{to}", remote.path("to").display());
        let mut job = job(&format!("{number:04}"), "true");
        let prepare = Script::root("sync-prepare", include_str!("../../transport/scripts/sync_prepare.sh"));
        let prepare = prepare.arg("sync-x").arg(&folder).arg(&job.user);
        let output = remote.exec(prepare).await.unwrap();
        // A path that is only just short enough is not, behind the folder of this test.
        if to.len() > 3_800 {
            continue;
        }
        assert_eq!((output.code, output.text().as_str()), (0, "0\n"), "{folder:?}: {}", output.tail());
        job.folder = Some(folder.clone());
        let (outcome, said) = run_job_here(&remote, &job, JobStart::Fresh).await;
        assert_eq!((outcome, said), (JobOutcome::Exited { code: 0 }, format!("{folder}\n")));
    }
}

/// Looks at files as a refresh does, then removes them as a plan without them does.
fn seen_and_removed(paths: &[String]) {
    let request = json!({"marker": "/none", "user": "root", "services": [], "files": paths, "sources": [], "units": "/none", "secrets": "/none"});
    let seen = python_here(crate::apply::refresh::OBSERVE.code, &request, None);
    let files = seen["files"].as_object().unwrap();
    assert!(paths.iter().all(|path| files[path].is_string()), "{seen}");
    assert_eq!(python_here(files::REMOVE.code, &json!({"paths": paths}), None), json!({"removed": paths}));
}

#[test]
fn outputs_are_installed_where_they_should() {
    let folder = tempfile::tempdir().unwrap();
    let at = |part: &str| folder.path().join(part).display().to_string();
    let short = |text: &String| text.len() < 3_800;
    let outputs = Way::Installed.texts(".install.{}").into_iter().filter(short);
    let targets = Way::Installed.texts(".install.*").into_iter().filter(short);
    let mut install = BTreeMap::new();
    // Each name in a folder of its own, as one may be another's folder.
    for (number, output) in
        outputs.chain(targets.clone().map(|target| target.trim_start_matches('/').to_owned())).enumerate()
    {
        let output = format!("{number}/{output}");
        let path = folder.path().join("in").join(&output);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write_atomic(&path, output.as_bytes(), fs::Mode::Public).unwrap();
        install.insert(output.clone(), format!("{}/{output}", at("to")));
    }
    let request = json!({"build": "b", "user": "root", "folder": at("in"), "install": install});
    let reply = python_here(build::INSTALL.code, &request, None);
    assert_eq!(reply["results"].as_array().map(Vec::len), Some(install.len()), "{reply}");
    for (output, target) in &install {
        assert_eq!(fs::read(Path::new(target)).unwrap(), output.as_bytes(), "{target}");
    }
    seen_and_removed(&install.into_values().collect::<Vec<_>>());
}

#[tokio::test]
async fn files_hold_what_their_templates_say() {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().unwrap();
    let owner = fs::metadata(folder.path()).unwrap();
    let owner = format!("{}:{}", owner.uid(), owner.gid());
    let here = PathBuf::from("/here/c.j2");
    let paths = Way::File.texts("").into_iter().filter(|path| path.len() < 3_800);
    // The one ends what keeps it a text, the other looks like a secret that went astray.
    let texts =
        strangers().into_iter().filter(|text| !text.contains("{% raw") && !text.contains("lane-secret"));
    let wanted: Vec<(String, String)> = paths
        .map(|path| (path, "x".to_owned()))
        .chain(texts.map(|text| ("/text".to_owned(), text)))
        .enumerate()
        .map(|(number, (path, text))| (format!("{}/{number}{path}", folder.path().display()), text))
        .collect();
    let mut bench = Bench::new().with_host();
    for (path, text) in &wanted {
        bench
            .inputs
            .texts
            .insert(here.clone(), format!("{{% raw %}}{text}{{% endraw %}}|{{{{ host.user }}}}\n"));
        let template = LocalFile { path: here.clone(), written: text.clone(), key: String::new() };
        bench.spec.files.insert(path.clone(), FileTemplate { template, mode: 0o604, owner: owner.clone() });
        bench.host.answer(0, r#"{"state": "changed", "stat": "1 2 3"}"#);
        let context = bench.context(Work::File(path.clone()), Action::Create);
        files::run_file(&context, path).await.unwrap_or_else(|error| panic!("{text:?}: {error}"));
    }
    let replies = python_each_here(files::FILE.code, &bench.host.requests(), None);
    for ((path, text), reply) in wanted.iter().zip(replies) {
        assert_eq!(reply["state"], "changed", "{path:?}: {reply}");
        assert_eq!(fs::read(Path::new(path)).unwrap(), format!("{text}|mvm\n").as_bytes());
        assert_eq!(fs::metadata(Path::new(path)).unwrap().mode() & 0o7777, 0o604);
    }
    seen_and_removed(&wanted.into_iter().map(|(path, _)| path).collect::<Vec<_>>());
}

#[test]
fn a_path_that_cannot_be_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    fs::write_atomic(&file, b"", fs::Mode::Public).unwrap();
    let below = format!("{}/below", file.display());
    let write =
        json!({"path": below, "text": "", "mode": 0o644, "owner": "0:0", "secrets": "/none", "tokens": {}});
    let install = json!({"build": "b", "user": "root", "folder": folder.path(), "install": {"file": below}});
    for (code, request) in [(files::FILE.code, write), (build::INSTALL.code, install)] {
        let said = python_here(code, &request, None)["failed"].as_str().unwrap().to_owned();
        assert!(
            said.contains(&below) && said.ends_with("Not a directory") || said.ends_with("File exists"),
            "{said}"
        );
    }
}

#[test]
fn scripts_read_and_write_utf8_whatever_the_locale() {
    let python =
        super::host::Python { name: "x", code: "import sys; print(sys.flags.utf8_mode)", as_root: false };
    let mut script = python.script(None, &json!({}), std::time::Duration::from_secs(5)).unwrap();
    // Set in no environment here: python's own rule for the C locale would say the same.
    script.text = Box::leak(format!("export LC_ALL=C.UTF-8\n{}", script.text).into_boxed_str());
    assert_eq!(run_here(&script).text(), "1\n");
}

#[tokio::test(start_paused = true)]
async fn results_are_brought_back_from_where_they_are() {
    let folder = tempfile::tempdir().unwrap();
    for junit in Way::Junit.texts("").into_iter().filter(|junit| junit.len() < 3_800) {
        let mut bench = Bench::new().with_host();
        let local = LocalFile { path: "/src".into(), written: String::new(), key: String::new() };
        let to = folder.path().display().to_string();
        bench.spec.sources.insert(name("s"), Source { folder: local, to, exclude: vec![] });
        let run = |in_source| Run {
            in_source,
            run: "true".to_owned(),
            env: BTreeMap::new(),
            junit: Some(junit.clone()),
            timeout: None,
        };
        for in_source in [Some(name("s")), None] {
            bench.spec.tests = Some(run(in_source.clone()));
            for (code, text) in
                [(0, ""), (0, "started\n"), (0, ""), (0, "exited 0"), (0, "<testsuite tests=\"1\"/>")]
            {
                bench.host.answer(code, text);
            }
            build::run_tests(&bench.context(Work::Tests, Action::Create)).await.unwrap();
            let scripts = std::mem::take(&mut *bench.host.scripts.lock().unwrap());
            let (remove, bring) = (&scripts[0], scripts.last().unwrap());
            if in_source.is_none() {
                assert_eq!(bring.args, [format!("./{junit}")], "`cat -` would wait for its input");
                continue;
            }
            let path = folder.path().join(&junit);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write_atomic(&path, junit.as_bytes(), fs::Mode::Public).unwrap();
            assert_eq!(run_here(bring).text(), junit);
            assert_eq!(run_here(remove).code, 0);
            assert!(!fs::exists(&path), "{junit:?}");
        }
    }
}

/// A pattern leaves out what it says or is refused in words; what it does not speak of stays.
#[test]
fn patterns_leave_out_what_they_say() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::fixed(std::sync::Arc::new(SystemClock), BTreeMap::new(), "/".into());
    let names: Vec<String> = strangers()
        .into_iter()
        .filter(|name| {
            !name.is_empty() && name.len() < 250 && !name.contains(['/', '\0']) && !name.starts_with('.')
        })
        .collect();
    assert!(names.len() > 40);
    fs::create_dir_all(&folder.path().join("in")).unwrap();
    for name in &names {
        fs::write_atomic(&folder.path().join("in").join(name), b"", fs::Mode::Public).unwrap();
    }
    let list = |pattern: &str| {
        let found =
            scan(&world, &folder.path().join("in"), &[pattern.to_owned()], &folder.path().join("cache"));
        found.map(|scan| scan.tree.entries.into_iter().map(|entry| entry.path).collect::<Vec<_>>())
    };
    let all = list("no-such-name").unwrap();
    assert_eq!(all.len(), names.len());
    for pattern in Way::Pattern.texts("") {
        match list(&pattern) {
            Ok(kept) => assert!(kept.iter().all(|name| all.contains(name))),
            Err(error) => assert!(error.to_string().contains("does not read"), "{pattern:?}: {error}"),
        }
    }
    // As a pattern that means itself, each leaves out itself alone.
    let sayable = |name: &&String| {
        !name.chars().any(char::is_control) && !name.ends_with(|c: char| c.is_whitespace() && c != ' ')
    };
    for name in names.iter().filter(sayable) {
        let mut pattern = String::from("/");
        for c in name.chars() {
            pattern.extend(("\\*?[]{}!# ".contains(c)).then_some('\\'));
            pattern.push(c);
        }
        let kept = list(&pattern).unwrap_or_else(|error| panic!("{pattern:?}: {error}"));
        assert!(
            kept.len() + 1 == all.len() && !kept.contains(name),
            "{pattern:?} leaves out other than {name:?}"
        );
    }
}

/// Reads YAML as cloud-init does, where its reader is installed; else as this program does.
fn read_yaml(text: &str) -> Value {
    let code = "import json, sys, yaml; json.dump(yaml.safe_load(sys.stdin.buffer), sys.stdout)";
    let mut child = std::process::Command::new("python3")
        .args(["-c", code])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    if output.status.success() {
        return serde_json::from_slice(&output.stdout).unwrap();
    }
    serde_yaml::from_str(text).unwrap()
}

#[test]
fn keys_and_users_arrive_in_the_user_data() {
    let keys = Way::UserData.texts("keys[]");
    for user in Way::UserData.texts("access.user") {
        let input = UserDataInput {
            label: "lane-x-00000000",
            lineage: "x",
            lane: "x",
            user: &user,
            lane_public_key: "ssh-ed25519 AAAA",
            authorized_keys: &keys,
            host_private_key: "x",
            host_public_key: "x",
            expires_at: jiff::Timestamp::UNIX_EPOCH,
            timer_action: TimerAction::None,
            user_file: None,
        };
        // The shown form is plain text.
        let shown = render(&input).unwrap().shown;
        let start = shown.find("#cloud-config").unwrap();
        let end = shown.rfind("\n--lane").unwrap();
        let config = read_yaml(&shown[start..end]);
        assert_eq!(config["users"][0]["name"], user);
        let arrived: Vec<&str> = config["users"][0]["ssh_authorized_keys"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(Value::as_str)
            .collect();
        assert_eq!(arrived[1..], keys);
    }
}

#[test]
fn probes_ask_for_what_they_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let bin = folder.path().join("bin");
    put_program(&bin, "systemctl", "#!/bin/sh\nprintf '%s\\n' \"$@\" >>\"${0%/*}/words\"\n");
    let path = format!("{}:/usr/bin:/bin", bin.display());
    let check = |requests: &[Value]| {
        let replies = python_each_here(probe::CHECK.code, requests, Some(&path));
        replies.into_iter().map(|reply| (reply["ok"] == true, reply.to_string())).collect::<Vec<_>>()
    };
    let units = Way::Probe.texts("(systemd).unit");
    let requests: Vec<_> =
        units.iter().map(|unit| json!({"kind": "systemd", "unit": unit, "limit": 5})).collect();
    assert!(check(&requests).iter().all(|(ok, _)| *ok));
    let words = units.iter().fold(String::new(), |words, unit| words + "is-active\n--\n" + unit + "\n");
    assert_eq!(String::from_utf8(fs::read(&bin.join("words")).unwrap()).unwrap(), words);

    let paths: Vec<_> = Way::Probe
        .texts("(unix).path")
        .iter()
        .map(|path| format!("{}{path}", folder.path().display()))
        .collect();
    let listeners: Vec<_> = paths
        .iter()
        .map(|path| {
            drop(fs::create_dir_all(Path::new(path).parent().unwrap()));
            std::os::unix::net::UnixListener::bind(path).ok()
        })
        .collect();
    assert!(listeners.iter().filter(|listener| listener.is_some()).count() > 20);
    let requests: Vec<_> =
        paths.iter().map(|path| json!({"kind": "unix", "path": path, "limit": 5})).collect();
    for ((ok, said), listener) in check(&requests).iter().zip(&listeners) {
        // A path that is too long for a socket is none for the service either.
        assert_eq!(*ok, listener.is_some(), "{said}");
    }
}

/// Answers one request after another with these bodies; returns the paths that were asked for.
fn serve(server: &std::net::TcpListener, bodies: &[String]) -> Vec<String> {
    use std::io::{BufRead, BufReader, Write};
    let answer = |body: &String| {
        let (mut stream, _) = server.accept().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let mut lines = std::iter::from_fn(|| {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            (line.len() > 2).then_some(line)
        });
        let asked = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
        lines.for_each(drop);
        write!(stream, "HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).unwrap();
        asked
    };
    bodies.iter().map(answer).collect()
}

#[test]
fn web_probes_ask_and_compare_to_the_letter() {
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let site = format!("http://127.0.0.1:{}", server.local_addr().unwrap().port());
    let ask = |requests: &[Value], bodies: &[String]| {
        std::thread::scope(|scope| {
            let asked = scope.spawn(|| serve(&server, bodies));
            let replies = python_each_here(probe::CHECK.code, requests, None);
            assert!(replies.iter().all(|reply| reply["ok"] == true), "{replies:?}");
            asked.join().unwrap()
        })
    };
    let sample = "http://127.0.0.1:8080/healthz";
    let ends: Vec<String> = Way::Probe
        .texts("(http).url")
        .iter()
        .filter_map(|url| url.strip_prefix(sample))
        .map(str::to_owned)
        .collect();
    assert!(ends.len() > 20);
    let request = |end: &String| json!({"kind": "http", "url": format!("{site}/{end}"), "expect": 200, "contains": null, "limit": 5});
    let asked = ask(&ends.iter().map(request).collect::<Vec<_>>(), &vec![String::new(); ends.len()]);
    for (asked, end) in asked.iter().zip(&ends) {
        let encoded = |c: char| {
            let mut bytes = [0; 4];
            c.encode_utf8(&mut bytes).bytes().fold(String::new(), |text, byte| text + &format!("%{byte:02X}"))
        };
        let sent = end.split('#').next().unwrap();
        let wanted = sent
            .chars()
            .fold("/".to_owned(), |path, c| path + &if c.is_ascii() { c.to_string() } else { encoded(c) });
        assert_eq!(*asked, wanted);
    }
    let texts = Way::Probe.texts("(http).contains");
    let request =
        |text: &String| json!({"kind": "http", "url": site, "expect": 200, "contains": text, "limit": 5});
    let bodies: Vec<String> = texts.iter().map(|text| format!("<{text}>")).collect();
    ask(&texts.iter().map(request).collect::<Vec<_>>(), &bodies);
}
