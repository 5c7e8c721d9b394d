//! `probe/*`: cheap, repeatable checks, made on the host. Starts and mends nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::host::{Python, reply};
use super::{StepContext, StepError, StepOutcome};
use crate::spec::{KvmNeed, Name, ProbeKind, Spec};

const KVM: Python = Python { name: "kvm probe", code: include_str!("scripts/kvm.py"), as_root: true };
const SECCOMP: Python =
    Python { name: "seccomp probe", code: include_str!("scripts/seccomp.py"), as_root: false };
pub(super) const CHECK: Python =
    Python { name: "probe", code: include_str!("scripts/check.py"), as_root: true };

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(10);

/// How far `/dev/kvm` works.
#[derive(Debug, Deserialize)]
struct KvmReply {
    levels: Vec<KvmLevel>,
    level: String,
    machine: String,
    denied: bool,
    why: Option<String>,
}

#[derive(Debug, Deserialize)]
struct KvmLevel {
    level: String,
    evidence: String,
}

#[derive(Debug, Deserialize)]
struct Seccomp {
    evidence: String,
}

#[derive(Debug, Deserialize)]
struct Checked {
    ok: bool,
    said: String,
}

/// Runs the probe that the spec names.
pub(super) async fn run(context: &StepContext, name: &Name) -> Result<StepOutcome, StepError> {
    let spec = context.spec()?;
    let probe =
        spec.probes.get(name).ok_or_else(|| StepError::Failed(format!("probe {name} is not in the spec")))?;
    match &probe.kind {
        ProbeKind::Kvm => kvm(context, spec.kvm).await,
        ProbeKind::Seccomp => {
            let output =
                context.exec(&SECCOMP.script(None, &json!({}), ATTEMPT)?).await?.success(SECCOMP.name)?;
            let found: Seccomp = reply(SECCOMP.name, &output.stdout)?;
            Ok(StepOutcome { summary: found.evidence, ..StepOutcome::default() })
        }
        kind => check(context, &spec, kind).await,
    }
}

/// Runs a guest as the login user, and as root where that one may not open the device.
async fn kvm(context: &StepContext, need: KvmNeed) -> Result<StepOutcome, StepError> {
    let user = Python { as_root: false, ..KVM };
    let mut found = ask_kvm(context, user).await?;
    let mut who = "as the login user";
    if found.denied {
        context.note("the login user may not open /dev/kvm; tries as root");
        found = ask_kvm(context, KVM).await?;
        who = "as root only";
    }
    for level in &found.levels {
        context.output(&format!("{}: {}", level.level, level.evidence));
    }
    kvm_outcome(&found, need, who)
}

async fn ask_kvm(context: &StepContext, python: Python) -> Result<KvmReply, StepError> {
    let output = context.exec(&python.script(None, &json!({}), ATTEMPT)?).await?.success(python.name)?;
    reply(python.name, &output.stdout)
}

fn kvm_outcome(found: &KvmReply, need: KvmNeed, who: &str) -> Result<StepOutcome, StepError> {
    // On other machines than x86-64 no guest is run, so a vCPU is the best that can be shown.
    let best = if found.machine == "x86_64" { "guest ran" } else { "vm made" };
    let why = found.why.as_deref().unwrap_or("nothing says why");
    let facts = [("kvm_level".to_owned(), found.level.clone())].into();
    let summary = match (found.why.is_none() && found.level == best, found.level.as_str(), need) {
        (true, level, _) => format!("{level} ({who})"),
        (false, "none", KvmNeed::Required) => return Err(StepError::Failed(format!("no KVM: {why}"))),
        (false, level, KvmNeed::Required) => {
            return Err(StepError::Failed(format!("KVM works only up to `{level}`, not `{best}`: {why}")));
        }
        (false, "none", _) => format!("no KVM: {why}"),
        (false, level, _) => format!("KVM works only up to `{level}`: {why}"),
    };
    Ok(StepOutcome { summary, facts })
}

/// Asks once a second until the answer is right or the time is over.
async fn check(context: &StepContext, spec: &Spec, kind: &ProbeKind) -> Result<StepOutcome, StepError> {
    let mut request = request(context, spec, kind)?;
    let python = Python { as_root: !matches!(kind, ProbeKind::Command { .. }), ..CHECK };
    let deadline = context.deadline();
    let remote = context.remote()?;
    let mut tries = 0_u32;
    loop {
        tries += 1;
        let left = deadline.saturating_duration_since(Instant::now());
        // A command may need all the time there is; the others are quick or wrong.
        let limit = if python.as_root { left.min(ATTEMPT) } else { left }.max(Duration::from_secs(1));
        request["limit"] = json!(limit.as_secs_f64());
        let said = match remote.exec(python.script(None, &request, limit)?).await {
            Ok(output) => {
                let checked: Checked = reply(python.name, &output.success(python.name)?.stdout)?;
                if checked.ok {
                    let after = if tries > 1 { format!(" after {tries} tries") } else { String::new() };
                    return Ok(StepOutcome {
                        summary: format!("{}{after}", checked.said),
                        ..StepOutcome::default()
                    });
                }
                checked.said
            }
            Err(error) if error.is_connection() => error.to_string(),
            Err(error) => return Err(error.into()),
        };
        context.log.line(&said);
        if Instant::now() + Duration::from_secs(1) >= deadline {
            let tried = if tries == 1 { "once".to_owned() } else { format!("{tries} times") };
            return Err(StepError::Failed(format!(
                "{}: tried {tried} in {:?}, the last answer was: {said}",
                subject(kind),
                context.step.timeout
            )));
        }
        context.pause(Duration::from_secs(1)).await?;
    }
}

fn request(context: &StepContext, spec: &Spec, kind: &ProbeKind) -> Result<Value, StepError> {
    Ok(match kind {
        ProbeKind::Kvm | ProbeKind::Seccomp => Value::Null,
        ProbeKind::Http { url, expect, contains } => {
            json!({"kind": "http", "url": url, "expect": expect, "contains": contains})
        }
        ProbeKind::Tcp { address } => json!({"kind": "tcp", "address": address}),
        ProbeKind::Unix { path } => json!({"kind": "unix", "path": path}),
        ProbeKind::Systemd { unit } => json!({"kind": "systemd", "unit": unit}),
        ProbeKind::Command { command } => {
            let env: BTreeMap<String, String> = super::build::environment(context, command)?;
            let folder = super::build::folder(spec, command)?;
            json!({"kind": "command", "run": command.run, "env": env, "folder": folder})
        }
    })
}

fn subject(kind: &ProbeKind) -> String {
    match kind {
        ProbeKind::Kvm => "kvm".to_owned(),
        ProbeKind::Seccomp => "seccomp".to_owned(),
        ProbeKind::Http { url, .. } => format!("GET {url}"),
        ProbeKind::Tcp { address } => format!("tcp {address}"),
        ProbeKind::Unix { path } => format!("unix socket {path}"),
        ProbeKind::Command { command } => format!("`{}`", command.run),
        ProbeKind::Systemd { unit } => format!("unit {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Bench, name, python_here, run_here};
    use super::*;
    use crate::plan::{Action, Work};
    use crate::spec::Probe;

    fn bench(kind: ProbeKind) -> Bench {
        let mut bench = Bench::new().with_host();
        bench.spec.probes.insert(name("p"), Probe { kind, needs: vec![], timeout: None });
        bench
    }

    async fn probe(bench: &Bench) -> Result<StepOutcome, StepError> {
        run(&bench.context(Work::Probe(name("p")), Action::Create), &name("p")).await
    }

    #[test]
    fn the_kvm_levels_are_told_apart_on_this_machine() {
        let output = run_here(&Python { as_root: false, ..KVM }.script(None, &json!({}), ATTEMPT).unwrap());
        let found: KvmReply = reply("kvm", &output.stdout).unwrap();
        // What the levels say has to hang together, whatever this machine can do.
        let order = ["node", "opens", "api version", "vm made", "guest ran"];
        let levels: Vec<&str> = found.levels.iter().map(|level| level.level.as_str()).collect();
        assert_eq!(levels, order[..levels.len()]);
        assert_eq!(found.why.is_none(), levels.last() == Some(&"guest ran"), "{found:?}");
    }

    #[test]
    fn a_node_that_is_no_kvm_is_not_taken_for_one() {
        for (device, level) in [("/dev/null", "opens"), ("/nothing", "none"), ("/etc/passwd", "none")] {
            let script = crate::transport::Script::user("kvm", r#"exec python3 -I -S -c "$@""#)
                .arg(KVM.code)
                .arg(device);
            let found: KvmReply = reply("kvm", &run_here(&script).stdout).unwrap();
            assert_eq!(found.level, level, "{device}");
            assert!(found.why.is_some());
            let failed = kvm_outcome(&found, KvmNeed::Required, "").unwrap_err().to_string();
            assert!(failed.contains("KVM"), "{failed}");
            assert!(kvm_outcome(&found, KvmNeed::Optional, "").unwrap().summary.contains("KVM"));
        }
    }

    #[tokio::test]
    async fn a_denied_login_user_is_said_and_root_tries() {
        let mut bench = bench(ProbeKind::Kvm);
        let denied = r#"{"levels":[],"level":"node","machine":"x86_64","denied":true,"why":"open: EACCES"}"#;
        bench.host.answer(0, denied);
        bench.host.answer(0, r#"{"levels":[{"level":"guest ran","evidence":"42"}],"level":"guest ran","machine":"x86_64","denied":false,"why":null}"#);
        let outcome = probe(&bench).await.unwrap();
        assert_eq!(
            (outcome.summary.as_str(), outcome.facts["kvm_level"].as_str()),
            ("guest ran (as root only)", "guest ran")
        );
        assert!(bench.shown().iter().any(|line| line.contains("may not open /dev/kvm")));
        let users: Vec<bool> =
            bench.host.scripts.lock().unwrap().iter().map(|script| script.as_root).collect();
        assert_eq!(users, [false, true]);
    }

    #[test]
    fn a_seccomp_filter_denies_one_call_and_allows_the_others_here() {
        let found = python_here(SECCOMP.code, &json!({}), None);
        assert_eq!(found["evidence"], "uname denied with EPERM, other calls allowed");
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_goes_on_asking_and_ends_with_the_last_answer() {
        let bench = bench(ProbeKind::Tcp { address: "127.0.0.1:1".to_owned() });
        bench.host.answer(0, r#"{"ok": false, "said": "refused"}"#);
        bench.host.drop_connection();
        bench.host.answer(0, r#"{"ok": true, "said": "connected"}"#);
        assert_eq!(probe(&bench).await.unwrap().summary, "connected after 3 tries");
        for _ in 0..70 {
            bench.host.answer(0, r#"{"ok": false, "said": "refused"}"#);
        }
        let error = probe(&bench).await.unwrap_err().to_string();
        assert!(
            error.starts_with("tcp 127.0.0.1:1: tried 60 times") && error.ends_with("was: refused"),
            "{error}"
        );
    }

    #[test]
    fn http_tcp_unix_and_command_look_for_real() {
        use std::io::{Read, Write};
        let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let serving = std::thread::spawn(move || {
            for _ in 0..3 {
                let (mut client, _) = server.accept().unwrap();
                let mut asked = [0; 1024];
                if client.read(&mut asked).unwrap() > 0 {
                    client.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nall up\n").unwrap();
                }
            }
        });
        let check = |request: Value| {
            let mut request = request;
            request["limit"] = json!(5);
            let found: Checked = serde_json::from_value(python_here(CHECK.code, &request, None)).unwrap();
            (found.ok, found.said)
        };
        let url = format!("http://{address}/healthz");
        assert_eq!(
            check(json!({"kind": "http", "url": url, "expect": 200, "contains": "all up"})),
            (true, "200".to_owned())
        );
        let wrong = check(json!({"kind": "http", "url": url, "expect": 204, "contains": null}));
        assert_eq!(wrong, (false, "200 OK: all up, not 204".to_owned()));
        assert!(check(json!({"kind": "tcp", "address": address.to_string()})).0);
        serving.join().unwrap();
        assert!(!check(json!({"kind": "tcp", "address": address.to_string()})).0);

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s").display().to_string();
        assert!(!check(json!({"kind": "unix", "path": path})).0);
        let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(check(json!({"kind": "unix", "path": path})).0);

        let command =
            |run: &str| check(json!({"kind": "command", "run": run, "env": {"A": "b"}, "folder": "/"}));
        assert_eq!(command("echo $A in $PWD"), (true, "b in /".to_owned()));
        assert_eq!(command("echo no; exit 3"), (false, "exit 3: no".to_owned()));
    }
}
