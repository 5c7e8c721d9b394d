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
        Ok::<_, TransportError>(
            Script::root("job-start", include_str!("scripts/job_start.sh"))
                .arg(&request.run)
                .arg(&unit)
                .arg(&request.user)
                .arg(request.timeout.as_secs().max(1).to_string())
                .arg(how)
                .stdin(job_text(request)?)
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
        let mut count = |chunk: &[u8]| {
            offset += chunk.len() as u64;
            sink(chunk);
        };
        let before = Instant::now();
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
        // A connection that held for a while was a good one: patience starts anew.
        if before.elapsed() > Duration::from_secs(30) {
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
            () = tokio::time::sleep(pause) => true,
            () = stopping.cancelled() => false,
            () = abort.cancelled() => false,
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
