//! `await/cloud-init`: waits until cloud-init is through, by its own files and unit states. Changes nothing on the host.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::host::{Backoff, Python, reply};
use super::{StepContext, StepError, StepOutcome};
use std::time::Duration;

const LOOK: Python =
    Python { name: "cloud-init look", code: include_str!("scripts/cloud_init.py"), as_root: true };

/// One look; see the script.
#[derive(Debug, Deserialize)]
struct Look {
    installed: bool,
    disabled: bool,
    done: bool,
    stuck: bool,
    stage: Option<String>,
    errors: Vec<String>,
    warnings: Vec<String>,
    modules: Vec<String>,
    log: Vec<String>,
    tail: Vec<String>,
    chunk: String,
    offset: u64,
}

/// Waits through dropped connections; fails with the module's name and log, or when nothing moves any more.
pub(super) async fn run(context: &StepContext) -> Result<StepOutcome, StepError> {
    let remote = context.remote()?;
    let deadline = context.deadline();
    let mut backoff = Backoff::new();
    let (mut offset, mut stage, mut stuck, mut lost) = (0, None, 0, false);
    let mut warned = BTreeSet::new();
    let mut waiting_for;
    loop {
        let request = json!({
            "run": "/run/cloud-init", "data": "/var/lib/cloud/data", "log": "/var/log/cloud-init.log",
            "output": "/var/log/cloud-init-output.log", "offset": offset,
        });
        let script = LOOK.script(None, &request, Duration::from_secs(15))?;
        match remote.exec(script).await {
            Err(error @ crate::transport::TransportError::HostKey { .. }) => return Err(error.into()),
            Err(error) => {
                // A host that reboots or a path that drops idle connections; the wait goes on.
                waiting_for = error.to_string();
                if !lost {
                    context.note(format!("{error}; goes on waiting"));
                }
                lost = true;
            }
            // Python or sudo may still be on their way; only the deadline decides.
            Ok(output) if output.code != 0 => waiting_for = output.tail(),
            Ok(output) => {
                let look: Look = reply(LOOK.name, &output.stdout)?;
                lost = false;
                if look.disabled {
                    return Err(StepError::Failed(
                        "cloud-init is disabled on this host, so nothing was set up".to_owned(),
                    ));
                }
                offset = look.offset;
                let progress = !look.chunk.is_empty() || look.stage != stage;
                if let Some(new) = look.stage.as_ref().filter(|_| look.stage != stage) {
                    context.note(format!("stage {new}"));
                }
                stage.clone_from(&look.stage);
                look.chunk.lines().for_each(|line| context.output(line.trim_end()));
                for warning in &look.warnings {
                    if warned.insert(warning.clone()) {
                        context.note(format!("warning: {warning}"));
                    }
                }
                // Between two units nothing may be running for a moment.
                stuck = if look.stuck { stuck + 1 } else { 0 };
                if look.done || stuck > 5 {
                    return outcome(&look, warned.len());
                }
                waiting_for = match (&stage, look.installed) {
                    (_, false) => "cloud-init, which is not installed".to_owned(),
                    (Some(stage), _) => format!("stage {stage}"),
                    (None, _) => "its next stage".to_owned(),
                };
                if progress {
                    backoff = Backoff::new();
                }
            }
        }
        if Instant::now() >= deadline {
            return Err(StepError::Failed(format!(
                "cloud-init was not through within {:?}; still waits for {waiting_for}",
                context.step.timeout
            )));
        }
        context.pause(backoff.next()).await?;
    }
}

fn outcome(look: &Look, warnings: usize) -> Result<StepOutcome, StepError> {
    if look.errors.is_empty() {
        let summary = match warnings {
            0 => "done".to_owned(),
            1 => "done with 1 warning".to_owned(),
            more => format!("done with {more} warnings"),
        };
        return Ok(StepOutcome { summary, facts: [("warnings".to_owned(), warnings.to_string())].into() });
    }
    let what = match look.modules.as_slice() {
        [] => "cloud-init failed".to_owned(),
        [module] => format!("cloud-init's module {module} failed"),
        modules => format!("cloud-init's modules {} failed", modules.join(", ")),
    };
    let mut message = format!("{what}:\n  {}", look.errors.join("\n  "));
    for (title, lines) in [("cloud-init.log", &look.log), ("cloud-init-output.log", &look.tail)] {
        if !lines.is_empty() {
            message = format!("{message}\n{title}:\n  {}", lines.join("\n  "));
        }
    }
    Err(StepError::Failed(message))
}
