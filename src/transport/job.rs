//! Long jobs on the host that outlive the connection and `lane` itself. Knows no step: a run is an id and a command.
//!
//! A run is a folder on the host, `runs/<run>/`: `wrapper`, `output`, and `exit` once its command has ended. The unit
//! only carries it; what a run came to is read from its folder.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Remote, Script, Sink, TransportError, quote};

/// How long a host may stay out of reach while its job is followed.
const PATIENCE: Duration = Duration::from_mins(30);

/// What runs on the host.
#[derive(Clone)]
pub struct JobRequest {
    /// Id of the run, never used before unless for this very run: a lowercase ULID, so that names sort by age.
    pub run: String,
    /// systemd unit that carries it, with or without `.service`; one run at a time.
    pub unit: String,
    /// User that it runs as.
    pub user: String,
    /// Folder that it runs in; else the user's home.
    pub folder: Option<String>,
    /// Command line for `bash -lc`.
    pub command: String,
    /// Variables; their values are seen in no argument list and in no unit property.
    pub env: BTreeMap<String, String>,
    /// Limit, kept by systemd on the host.
    pub timeout: Duration,
    /// How much of the output the caller has already.
    pub offset: u64,
}

impl std::fmt::Debug for JobRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Values may be secrets.
        let names: Vec<&String> = self.env.keys().collect();
        f.debug_struct("JobRequest")
            .field("run", &self.run)
            .field("unit", &self.unit)
            .field("env", &names)
            .finish_non_exhaustive()
    }
}

/// How to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobStart {
    /// Start it, unless this run has been started already; an earlier run of the unit is stopped first.
    Fresh,
    /// Take up a run that an earlier `lane` started; start nothing.
    Resume,
}

/// How it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JobOutcome {
    /// The command ended.
    Exited {
        /// Its exit code; 128 + n for a signal.
        code: i32,
    },
    /// It was ended by something else.
    Killed {
        /// By what, for people.
        why: String,
    },
    /// The run to resume is neither running nor ended, so it may be started afresh under a new id.
    Lost,
    /// The caller stopped following; the job goes on.
    Detached,
}

/// Starts or takes up a job and hands over its output, whole and in order, until it ends or `stopping` or `abort` is set.
///
/// Lost connections are made again and the output is taken up where it stopped. With `stopping` a start that is under
/// way is finished first, so that the caller knows that the job is there; with `abort` nothing is waited for.
pub async fn run_job(
    remote: &dyn Remote,
    request: &JobRequest,
    start: JobStart,
    sink: &mut Sink<'_>,
    stopping: &CancellationToken,
    abort: &CancellationToken,
) -> Result<JobOutcome, TransportError> {
    let unit = format!("{}.service", request.unit.trim_end_matches(".service"));
    let mut line = Line::default();

    let begin = || {
        let how = if start == JobStart::Fresh { "fresh" } else { "resume" };
        let text = job_text(request)?;
        Ok::<_, TransportError>(
            Script::root("job-start", include_str!("scripts/job_start.sh"))
                .arg(&request.run)
                .arg(&unit)
                .arg(&request.user)
                .arg(request.timeout.as_secs().max(1).to_string())
                .arg(how)
                .arg(text.len().to_string())
                .stdin(text)
                .timeout(Duration::from_secs(150)),
        )
    };
    let said = loop {
        let answer = tokio::select! {
            biased;
            () = abort.cancelled() => return Ok(JobOutcome::Detached),
            answer = remote.exec(begin()?) => answer,
        };
        match answer {
            Ok(output) => break output.success("job-start")?.text().trim().to_owned(),
            Err(error) => {
                if !line.again(error, stopping, abort).await? {
                    return Ok(JobOutcome::Detached);
                }
            }
        }
    };
    line = Line::default();
    if said == "lost" {
        return Ok(JobOutcome::Lost);
    }

    let mut offset = request.offset;
    loop {
        let follow = Script::root("job-follow", include_str!("scripts/job_follow.sh"))
            .arg(&request.run)
            .arg(&unit)
            .arg(offset.to_string())
            .timeout(request.timeout + Duration::from_mins(5));
        let (before, begun) = (Instant::now(), offset);
        let mut count = |chunk: &[u8]| {
            offset += chunk.len() as u64;
            sink(chunk);
        };
        let followed = tokio::select! {
            biased;
            () = abort.cancelled() => return Ok(JobOutcome::Detached),
            () = stopping.cancelled() => return Ok(JobOutcome::Detached),
            code = remote.stream(follow, &mut count) => code,
        };
        let asked = match followed {
            Ok(0) => {
                let outcome = Script::root("job-outcome", include_str!("scripts/job_outcome.sh"));
                remote.exec(outcome.arg(&request.run).arg(&unit)).await
            }
            // A signal: its session was ended from the other side.
            Ok(code) if code >= 128 => Err(TransportError::Connection {
                address: request.unit.clone(),
                message: format!("following the job ended with {code}"),
            }),
            Ok(code) => {
                return Err(TransportError::Script { script: "job-follow", code, tail: String::new() });
            }
            Err(error) => Err(error),
        };
        // A connection that brought something, or held for a while, was a good one: patience starts anew.
        if offset > begun || before.elapsed() > Duration::from_secs(30) {
            line = Line::default();
        }
        match asked {
            Ok(output) => {
                if let Some(outcome) = outcome(&output.success("job-outcome")?.text(), request.timeout)? {
                    return Ok(outcome);
                }
            }
            Err(error) => {
                if !line.again(error, stopping, abort).await? {
                    return Ok(JobOutcome::Detached);
                }
            }
        }
    }
}

/// The line to the host: how often it failed in a row, and since when.
#[derive(Default)]
struct Line {
    failures: u32,
    since: Option<Instant>,
}

impl Line {
    /// Waits before another attempt; `false` when the caller stopped meanwhile, the error when it is of no use.
    async fn again(
        &mut self,
        error: TransportError,
        stopping: &CancellationToken,
        abort: &CancellationToken,
    ) -> Result<bool, TransportError> {
        let since = *self.since.get_or_insert_with(Instant::now);
        if !error.is_connection() || since.elapsed() > PATIENCE {
            return Err(error);
        }
        let pause = Duration::from_secs(1 << self.failures.min(4)).min(Duration::from_secs(15));
        self.failures += 1;
        Ok(tokio::select! {
            biased;
            () = stopping.cancelled() => false,
            () = abort.cancelled() => false,
            () = tokio::time::sleep(pause) => true,
        })
    }
}

/// Writes the job as a shell script; it removes itself first, as it may hold secrets.
fn job_text(request: &JobRequest) -> Result<String, TransportError> {
    let mut lines = vec!["rm -f -- \"$run/job\"".to_owned()];
    lines.push(match &request.folder {
        Some(folder) => format!("cd -- {} || exit 126", quote(folder)?),
        None => "cd || exit 126".to_owned(),
    });
    // As one word each, so that a name that is none makes an error and not a command.
    for (name, value) in &request.env {
        lines.push(format!("export {}", quote(&format!("{name}={value}"))?));
    }
    lines.push(format!("exec bash -lc {}\n", quote(&request.command)?));
    Ok(lines.join("\n"))
}

/// Reads what `job_outcome.sh` said; `None` while it runs.
fn outcome(said: &str, timeout: Duration) -> Result<Option<JobOutcome>, TransportError> {
    let killed = |why: String| Ok(Some(JobOutcome::Killed { why }));
    match said.trim().split_once(' ') {
        Some(("exited", code)) if code.parse::<i32>().is_ok() => {
            Ok(code.parse().ok().map(|code| JobOutcome::Exited { code }))
        }
        Some(("killed", "timeout")) => killed(format!("its time of {timeout:?} is up")),
        Some(("killed", "oom-kill")) => killed("the host ran out of memory".to_owned()),
        Some(("killed", "signal" | "core-dump")) => killed("it was ended by a signal".to_owned()),
        Some(("killed", "gone")) => {
            killed("its unit is gone: the host rebooted or the unit was stopped".to_owned())
        }
        Some(("killed", result)) => killed(format!("systemd ended its unit: {result}")),
        _ if said.trim() == "running" => Ok(None),
        _ => Err(TransportError::Script { script: "job-outcome", code: 0, tail: said.to_owned() }),
    }
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "scripts run here as on a host")]
pub(super) mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::{Path, PathBuf};
    use std::process::Stdio;
    use std::sync::Mutex;

    use async_trait::async_trait;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::transport::{Output, SyncRequest, SyncStats};
    use crate::world::fs::{self, Mode};

    /// Keeps units as folders of files, and runs what they carry as a process group.
    const SYSTEMD_RUN: &str = r#"#!/bin/sh
echo "$@" >>"$LANE_HOST_ROOT/arguments"
for a; do case $a in
    --unit=*) unit=${a#*=} ;;
    --description=*) description=${a#*=} ;;
    --property=StandardOutput=append:*) out=${a#*append:} ;;
    --property=RuntimeMaxSec=*) limit=${a##*=} ;;
    --*) ;;
    *) program=$a ;;
esac; done
u=$LANE_HOST_ROOT/units/$unit
[ ! -e "$u/ActiveState" ] || { echo "Unit $unit was already loaded" >&2; exit 1; }
mkdir -p "$u"
echo "$description" >"$u/Description"
echo active >"$u/ActiveState"
setsid sh -c '
    echo $$ >"$1/pid"
    timeout --foreground -s TERM "$2" "$3" >>"$4" 2>&1
    case $? in 0) rm -rf "$1" ;; 124) echo timeout >"$1/Result"; echo failed >"$1/ActiveState" ;;
    *) echo signal >"$1/Result"; echo failed >"$1/ActiveState" ;; esac
' unit "$u" "$limit" "$program" "$out" </dev/null >/dev/null 2>&1 &
while [ -d "$u" ] && [ ! -s "$u/pid" ]; do sleep 0.01; done
"#;

    const SYSTEMCTL: &str = r#"#!/bin/sh
verb=$1; for unit; do :; done
u=$LANE_HOST_ROOT/units/$unit
case $verb in
show)
    case $2 in
    --property=ActiveState) cat "$u/ActiveState" 2>/dev/null || echo inactive ;;
    --property=LoadState) if [ -e "$u" ]; then echo loaded; else echo not-found; fi ;;
    --property=Description) cat "$u/Description" 2>/dev/null || echo "$unit" ;;
    --property=Result) cat "$u/Result" 2>/dev/null || echo success ;;
    esac ;;
stop) [ -e "$u/pid" ] || exit 5; kill -s KILL -- "-$(cat "$u/pid")" || exit 1; rm -rf "$u" ;;
reset-failed) rm -rf "$u" ;;
is-active) [ "$(cat "$u/ActiveState" 2>/dev/null)" = active ] ;;
esac
"#;

    /// What goes wrong with a call.
    #[derive(Debug, Clone, Copy)]
    enum Fault {
        /// The script runs, but its answer is lost.
        LostAnswer,
        /// The connection is lost after this many bytes.
        Cut(usize),
    }

    /// This machine as a host: real scripts under a real `sh`, below a folder of their own.
    #[derive(Debug)]
    pub(crate) struct LocalRemote {
        root: tempfile::TempDir,
        faults: Mutex<Vec<(&'static str, Fault)>>,
    }

    impl LocalRemote {
        pub(crate) fn new() -> Self {
            let root = tempfile::tempdir().unwrap();
            for (name, text) in [("systemd-run", SYSTEMD_RUN), ("systemctl", SYSTEMCTL)] {
                let path = root.path().join("bin").join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write_atomic(&path, text.as_bytes(), Mode::Private).unwrap();
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            }
            Self { root, faults: Mutex::default() }
        }

        fn fault(self, script: &'static str, fault: Fault) -> Self {
            self.faults.lock().unwrap().push((script, fault));
            self
        }

        pub(crate) fn path(&self, path: &str) -> PathBuf {
            self.root.path().join(path)
        }

        fn text(&self, path: &str) -> String {
            String::from_utf8_lossy(&fs::read(&self.path(path)).unwrap_or_default()).into_owned()
        }

        async fn call(&self, program: &str, args: &[&str]) {
            let path = format!("{}:/usr/bin:/bin", self.path("bin").display());
            let mut command = tokio::process::Command::new(self.path("bin").join(program));
            command.args(args).env("LANE_HOST_ROOT", self.root.path()).env("PATH", path);
            assert!(command.status().await.unwrap().success());
        }

        async fn run(&self, script: Script, sink: &mut Sink<'_>) -> Result<(i32, Vec<u8>), TransportError> {
            let lost =
                || TransportError::Connection { address: "local".to_owned(), message: "cut".to_owned() };
            let fault = {
                let mut faults = self.faults.lock().unwrap();
                let at = faults.iter().position(|(name, _)| *name == script.name);
                at.map(|at| faults.remove(at).1)
            };
            let path = format!("{}:/usr/bin:/bin", self.path("bin").display());
            let mut child = tokio::process::Command::new("sh")
                .args(["-c", script.text, "lane"])
                .args(&script.args)
                .env("LANE_HOST_ROOT", self.root.path())
                .env("PATH", path)
                .kill_on_drop(true)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            child.stdin.take().unwrap().write_all(&script.stdin).await.unwrap();
            let mut stdout = child.stdout.take().unwrap();
            let mut left = if let Some(Fault::Cut(bytes)) = fault { bytes } else { usize::MAX };
            let mut buffer = [0; 7];
            loop {
                let n = stdout.read(&mut buffer).await.unwrap();
                sink(&buffer[..n.min(left)]);
                left -= n.min(left);
                if left == 0 {
                    return Err(lost());
                }
                if n == 0 {
                    break;
                }
            }
            let output = child.wait_with_output().await.unwrap();
            if matches!(fault, Some(Fault::LostAnswer)) {
                return Err(lost());
            }
            Ok((output.status.code().unwrap_or(255), output.stderr))
        }
    }

    #[async_trait]
    impl Remote for LocalRemote {
        async fn exec(&self, script: Script) -> Result<Output, TransportError> {
            let mut stdout = Vec::new();
            let (code, stderr) =
                self.run(script, &mut |chunk: &[u8]| stdout.extend_from_slice(chunk)).await?;
            Ok(Output { code, stdout, stderr })
        }

        async fn stream(&self, script: Script, sink: &mut Sink<'_>) -> Result<i32, TransportError> {
            Ok(self.run(script, sink).await?.0)
        }

        async fn sync(&self, _request: &SyncRequest) -> Result<SyncStats, TransportError> {
            Ok(SyncStats::default())
        }

        async fn close(&self) {}
    }

    pub(crate) fn request(run: &str, command: &str) -> JobRequest {
        let user = std::process::Command::new("id").arg("-un").output().unwrap().stdout;
        JobRequest {
            run: run.to_owned(),
            unit: "lane-build.mvmd".to_owned(),
            user: String::from_utf8(user).unwrap().trim().to_owned(),
            folder: Some("/".to_owned()),
            command: command.to_owned(),
            env: BTreeMap::new(),
            timeout: Duration::from_mins(1),
            offset: 0,
        }
    }

    pub(crate) async fn run(
        remote: &LocalRemote,
        request: &JobRequest,
        start: JobStart,
    ) -> (JobOutcome, String) {
        let (stopping, abort) = (CancellationToken::new(), CancellationToken::new());
        let mut output = Vec::new();
        let mut sink = |chunk: &[u8]| output.extend_from_slice(chunk);
        let outcome = run_job(remote, request, start, &mut sink, &stopping, &abort).await.unwrap();
        (outcome, String::from_utf8(output).unwrap())
    }

    /// Follows until the output holds this, then detaches as at the first Ctrl-C.
    async fn run_until(remote: &LocalRemote, request: &JobRequest, sign: &str) -> String {
        let (stopping, abort) = (CancellationToken::new(), CancellationToken::new());
        let mut output = Vec::new();
        let mut sink = |chunk: &[u8]| {
            output.extend_from_slice(chunk);
            if String::from_utf8_lossy(&output).contains(sign) {
                stopping.cancel();
            }
        };
        let outcome = run_job(remote, request, JobStart::Fresh, &mut sink, &stopping, &abort).await.unwrap();
        assert_eq!(outcome, JobOutcome::Detached);
        String::from_utf8(output).unwrap()
    }

    #[tokio::test]
    async fn a_job_gives_its_output_and_its_code() {
        let remote = LocalRemote::new();
        let mut request = request("01a", "pwd; echo \"$KEY|$EMPTY|$run\"; echo err >&2; exit 42");
        let value = "s3cret 'q' \"d\" $HOME `id` \\ %n\nline2 ☃";
        request.env =
            [("KEY", value), ("EMPTY", ""), ("run", "/nowhere")].map(|(k, v)| (k.into(), v.into())).into();
        request.folder = Some(remote.path("it's here").display().to_string());
        fs::create_dir_all(&remote.path("it's here")).unwrap();
        let (outcome, output) = run(&remote, &request, JobStart::Fresh).await;
        assert_eq!(outcome, JobOutcome::Exited { code: 42 });
        assert_eq!(output, format!("{}\n{value}||/nowhere\nerr\n", remote.path("it's here").display()));
        assert!(
            remote.text("arguments").contains("--unit=lane-build.mvmd.service"),
            "{}",
            remote.text("arguments")
        );
        assert!(!remote.text("arguments").contains("s3cret"));
        assert!(!format!("{request:?}").contains("s3cret"));
        assert!(!remote.path("var/lib/lane/runs/01a/job").exists(), "what may hold secrets is gone");
    }

    #[tokio::test]
    async fn a_lost_answer_starts_nothing_twice_and_lost_connections_lose_nothing() {
        let remote = LocalRemote::new()
            .fault("job-start", Fault::LostAnswer)
            .fault("job-follow", Fault::Cut(10))
            .fault("job-follow", Fault::Cut(20))
            .fault("job-outcome", Fault::LostAnswer);
        let count = remote.path("count");
        let command =
            format!("echo x >>{}; for n in $(seq 1 40); do echo line $n; sleep 0.02; done", count.display());
        let (outcome, output) = run(&remote, &request("01a", &command), JobStart::Fresh).await;
        assert_eq!(outcome, JobOutcome::Exited { code: 0 });
        let wanted = (1..=40).fold(String::new(), |text, n| text + "line " + &n.to_string() + "\n");
        assert_eq!(output, wanted);
        assert_eq!(remote.text("count"), "x\n");
        assert!(remote.faults.lock().unwrap().is_empty(), "each fault was met");
    }

    #[tokio::test]
    async fn a_job_goes_on_alone_and_is_taken_up_where_it_was_left() {
        let remote = LocalRemote::new();
        let mut request = request("01a", "echo one; sleep 1; echo two; exit 3");
        let seen = run_until(&remote, &request, "one\n").await;
        request.offset = seen.len() as u64;
        let (outcome, rest) = run(&remote, &request, JobStart::Resume).await;
        assert_eq!((outcome, rest.as_str()), (JobOutcome::Exited { code: 3 }, "two\n"));
        request.offset = 0;
        for start in [JobStart::Resume, JobStart::Fresh] {
            let (outcome, all) = run(&remote, &request, start).await;
            assert_eq!((outcome, all.as_str()), (JobOutcome::Exited { code: 3 }, "one\ntwo\n"));
        }
    }

    #[tokio::test]
    async fn a_run_that_is_neither_running_nor_ended_is_lost() {
        let remote = LocalRemote::new();
        let (outcome, _) = run(&remote, &request("01x", "true"), JobStart::Resume).await;
        assert_eq!(outcome, JobOutcome::Lost);
        assert!(!remote.path("arguments").exists(), "a resume starts nothing");

        let request = request("01a", "echo one; sleep 60");
        run_until(&remote, &request, "one\n").await;
        remote.call("systemctl", &["stop", "lane-build.mvmd.service"]).await;
        assert_eq!(run(&remote, &request, JobStart::Resume).await.0, JobOutcome::Lost);
        let (outcome, output) = run(&remote, &request, JobStart::Fresh).await;
        assert!(matches!(outcome, JobOutcome::Killed { ref why } if why.contains("gone")), "{outcome:?}");
        assert_eq!(output, "one\n", "the same run is never started a second time");
    }

    #[tokio::test]
    async fn half_a_job_does_not_run() {
        let remote = LocalRemote::new();
        let mark = remote.path("mark");
        let whole = format!("touch {}\ntrue\n", mark.display());
        let script = |size: usize| {
            Script::root("job-start", include_str!("scripts/job_start.sh"))
                .arg("01a")
                .arg("lane-build.mvmd.service")
                .arg(request("01a", "").user)
                .arg("60")
                .arg("fresh")
                .arg(size.to_string())
                .stdin(whole.clone())
        };
        let cut = remote.exec(script(whole.len() + 1)).await.unwrap();
        assert_eq!(cut.code, 1, "{cut:?}");
        assert!(cut.tail().contains("did not arrive whole"), "{cut:?}");
        assert!(!remote.path("arguments").exists() && !mark.exists(), "half a job was started");
        assert_eq!(run(&remote, &request("01a", "echo one"), JobStart::Fresh).await.1, "one\n");
    }

    #[tokio::test]
    async fn another_run_of_the_unit_is_stopped_first() {
        let remote = LocalRemote::new();
        let mark = remote.path("mark");
        run_until(&remote, &request("01a", &format!("echo one; sleep 2; touch {}", mark.display())), "one")
            .await;
        let (outcome, output) = run(&remote, &request("01b", "echo two; sleep 2"), JobStart::Fresh).await;
        assert_eq!((outcome, output.as_str()), (JobOutcome::Exited { code: 0 }, "two\n"));
        assert!(!mark.exists());
        assert_eq!(run(&remote, &request("01a", ""), JobStart::Resume).await.0, JobOutcome::Lost);
    }

    #[tokio::test]
    async fn a_limit_and_a_vanished_unit_are_told_apart() {
        let remote = LocalRemote::new();
        let mut slow = request("01a", "echo one; exec sleep 60");
        slow.timeout = Duration::from_secs(3);
        let (outcome, output) = run(&remote, &slow, JobStart::Fresh).await;
        assert_eq!(outcome, JobOutcome::Killed { why: "its time of 3s is up".to_owned() });
        assert_eq!(output, "one\n");

        let remote = LocalRemote::new();
        let long = request("01b", "echo one; sleep 60");
        let pid = remote.path("units/lane-build.mvmd.service/pid");
        let stop = async {
            while std::fs::read(&pid).unwrap_or_default().is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            remote.call("systemctl", &["stop", "lane-build.mvmd.service"]).await;
        };
        let ((outcome, _), ()) = tokio::join!(run(&remote, &long, JobStart::Fresh), stop);
        assert!(matches!(outcome, JobOutcome::Killed { ref why } if why.contains("gone")), "{outcome:?}");
    }

    #[tokio::test]
    async fn a_folder_that_is_not_there_and_a_name_that_is_none_fail_the_job() {
        let remote = LocalRemote::new();
        let mut bad = request("01a", "echo no");
        bad.folder = Some("/not there".to_owned());
        let (outcome, output) = run(&remote, &bad, JobStart::Fresh).await;
        assert_eq!(outcome, JobOutcome::Exited { code: 126 });
        assert!(output.contains("/not there"), "{output}");
        let mut bad = request("01b", "echo no");
        bad.env = [("A B; touch x".to_owned(), "v".to_owned())].into();
        let (outcome, output) = run(&remote, &bad, JobStart::Fresh).await;
        assert!(
            matches!(outcome, JobOutcome::Exited { code } if code != 0) && !output.contains("no\n"),
            "{output}"
        );
    }

    #[tokio::test]
    async fn of_old_runs_the_last_twenty_stay() {
        let remote = LocalRemote::new();
        for n in 0..25 {
            fs::create_dir_all(&remote.path(&format!("var/lib/lane/runs/00{n:02}"))).unwrap();
        }
        run(&remote, &request("01a", "true"), JobStart::Fresh).await;
        let left = fs::list(&remote.path("var/lib/lane/runs")).unwrap();
        assert_eq!((left.len(), left[0].as_str(), left[20].as_str()), (21, "0005", "01a"));
    }

    #[tokio::test(start_paused = true)]
    async fn patience_ends_and_an_error_of_another_kind_ends_it_at_once() {
        let (stopping, abort) = (CancellationToken::new(), CancellationToken::new());
        let lost = || TransportError::Connection { address: "a".to_owned(), message: "b".to_owned() };
        let mut line = Line::default();
        let began = Instant::now();
        let mut attempts = 0;
        while line.again(lost(), &stopping, &abort).await.is_ok() {
            attempts += 1;
        }
        assert!((120..130).contains(&attempts), "{attempts}");
        assert!(began.elapsed() >= PATIENCE);
        let refused = TransportError::HostKey { address: "a".to_owned() };
        assert!(Line::default().again(refused, &stopping, &abort).await.is_err());
        stopping.cancel();
        assert!(!Line::default().again(lost(), &stopping, &abort).await.unwrap());
    }

    #[test]
    fn scripts_are_valid_shell() {
        for script in ["job_start", "job_follow", "job_outcome", "sync_prepare"] {
            let path =
                Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("src/transport/scripts/{script}.sh"));
            assert!(
                std::process::Command::new("sh").arg("-n").arg(&path).status().unwrap().success(),
                "{script}"
            );
        }
    }
}
