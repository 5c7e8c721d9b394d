//! Runs this folder's scripts on the host, and waits so that a stop is heard. Knows no step of its own.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::{StepContext, StepError};
use crate::transport::Script;

/// Where the host keeps its secrets, for root alone.
pub(in crate::apply) const SECRETS: &str = "/var/lib/lane/secrets";

/// Where units of the administrator go (systemd.unit(5)).
pub(in crate::apply) const UNITS: &str = "/etc/systemd/system";

/// How often an attempt is made again that is safe to repeat.
pub(in crate::apply) const RETRIES: u32 = 3;

// UTF-8 whatever the host's locale: its files are named by a spec that is UTF-8.
const PLAIN: &str = r#"exec python3 -I -S -X utf8 -c "$@""#;

/// The lock's descriptor is inherited by python alone (its children get no descriptors), so it ends with the script.
const LOCKED: &str = r#"mkdir -p /run/lane/locks || exit 74
exec 9>>"/run/lane/locks/$1" || exit 74
flock -w "$2" 9 || { echo "an earlier run of $1 still works on the host" >&2; exit 75; }
shift 2
exec python3 -I -S -X utf8 -c "$@"
"#;

/// A python script of this folder: reads one JSON request on standard input, writes one JSON reply.
///
/// A reply with the key `failed` is the script's word that the step failed.
#[derive(Debug, Clone, Copy)]
pub(in crate::apply) struct Python {
    /// For messages.
    pub(in crate::apply) name: &'static str,
    /// The program.
    pub(in crate::apply) code: &'static str,
    /// Through sudo.
    pub(in crate::apply) as_root: bool,
}

impl Python {
    /// Makes the script that carries this request; with a lock's name it waits for an earlier run to end.
    pub(in crate::apply) fn script(
        self,
        lock: Option<&str>,
        request: &impl Serialize,
        limit: Duration,
    ) -> Result<Script, StepError> {
        let stdin = serde_json::to_vec(request)
            .map_err(|error| StepError::Failed(format!("{}: {error}", self.name)))?;
        let script = match lock {
            Some(lock) => Script::root(self.name, LOCKED)
                .arg(lock)
                .arg(limit.as_secs().max(1).to_string())
                .arg(self.code),
            None if self.as_root => Script::root(self.name, PLAIN).arg(self.code),
            None => Script::user(self.name, PLAIN).arg(self.code),
        };
        // The script keeps its own time; the transport's limit is for a connection that went silent.
        Ok(script.stdin(stdin).timeout(limit + Duration::from_secs(15)))
    }
}

/// Reads a script's reply.
pub(in crate::apply) fn reply<T: DeserializeOwned>(name: &str, stdout: &[u8]) -> Result<T, StepError> {
    let bad = |error: serde_json::Error| {
        StepError::Failed(format!(
            "{name} answered something else than JSON ({error}): {}",
            String::from_utf8_lossy(stdout)
        ))
    };
    let value: serde_json::Value = serde_json::from_slice(stdout).map_err(bad)?;
    if let Some(failed) = value.get("failed").and_then(serde_json::Value::as_str) {
        // An error without a word would be shown as nothing at all.
        let why =
            if failed.is_empty() { format!("{name} failed and did not say why") } else { failed.to_owned() };
        return Err(StepError::Failed(why));
    }
    serde_json::from_value(value).map_err(bad)
}

impl StepContext {
    /// Runs a script that may be repeated, under this step's lock, again after a lost connection; returns its reply.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        python: Python,
        request: &impl Serialize,
    ) -> Result<T, StepError> {
        let lock = self.step.id.file_name();
        let lock = python.as_root.then_some(lock.as_str());
        let script = python.script(lock, request, self.step.timeout)?;
        let output = self.exec(&script).await?.success(python.name)?;
        reply(python.name, &output.stdout)
    }

    /// Runs a script that may be repeated, again after a lost connection.
    pub(super) async fn exec(&self, script: &Script) -> Result<crate::transport::Output, StepError> {
        let remote = self.remote()?;
        let mut backoff = Backoff::new();
        loop {
            match remote.exec(script.clone()).await {
                Err(error) if error.is_connection() && backoff.tries < RETRIES => {
                    self.note(format!("{error}; tries again"));
                    self.pause(backoff.next()).await?;
                }
                other => return Ok(other?),
            }
        }
    }

    /// Waits, unless the run is stopped.
    pub(super) async fn pause(&self, time: Duration) -> Result<(), StepError> {
        tokio::select! {
            biased;
            () = self.run.abort.cancelled() => Err(StepError::Stopped),
            () = self.run.stopping.cancelled() => Err(StepError::Stopped),
            () = tokio::time::sleep(time) => Ok(()),
        }
    }

    /// Returns the moment at which this step's time is over.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.step.timeout
    }

    /// Returns the last lines of the host's serial console as a paragraph for an error, or nothing.
    pub(super) async fn console_tail(&self) -> String {
        let Some(id) = self.run.session.record().host.and_then(|host| host.id) else { return String::new() };
        match self.run.provider.console_log(&id).await {
            Ok(Some(text)) if !text.trim().is_empty() => {
                format!("\nthe console's last lines:\n{}", last_lines(&text, 20))
            }
            Ok(_) => String::new(),
            Err(error) => format!("\nthe console could not be read: {error}"),
        }
    }
}

/// Waiting times that grow from 0.2 s to 3 s.
#[derive(Debug)]
pub(in crate::apply) struct Backoff {
    /// How many waits were given out.
    pub(in crate::apply) tries: u32,
    next: Duration,
}

impl Backoff {
    pub(in crate::apply) fn new() -> Self {
        Self { tries: 0, next: Duration::from_millis(200) }
    }

    pub(in crate::apply) fn next(&mut self) -> Duration {
        let now = self.next;
        self.tries += 1;
        self.next = (now * 8 / 5).min(Duration::from_secs(3));
        now
    }
}

/// Returns the last `count` lines, each indented by two.
pub(super) fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.trim_end().lines().collect();
    let tail: Vec<String> = lines[lines.len().saturating_sub(count)..]
        .iter()
        .map(|line| format!("  {}", line.trim_end()))
        .collect();
    tail.join("\n")
}
