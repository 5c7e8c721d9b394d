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

/// Judges one answer of the host as the step does: `None` while cloud-init goes on.
pub fn judge(stdout: &[u8]) -> Result<Option<StepOutcome>, StepError> {
    let look: Look = reply(LOOK.name, stdout)?;
    if look.done { outcome(&look, look.warnings.len()).map(Some) } else { Ok(None) }
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

#[cfg(test)]
mod tests {
    use super::super::testing::{Bench, python_here};
    use super::*;
    use crate::plan::{Action, Work};
    use crate::world::fs;

    /// Runs the look over files in a folder, with a `systemctl` that shows every unit in one state.
    fn look(files: &[(&str, &str)], state: &str) -> Look {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let shown =
            format!("LoadState=loaded\\nActiveState={state}\\nSubState=x\\nResult=exit-code\\n\\n").repeat(6);
        let systemctl = format!("#!/bin/sh\nif [ $1 = show ]; then printf '{shown}'; fi\n");
        let at = |part: &str| folder.path().join(part);
        fs::write_atomic(&at("systemctl"), systemctl.as_bytes(), fs::Mode::Public).unwrap();
        std::fs::set_permissions(at("systemctl"), std::fs::Permissions::from_mode(0o755)).unwrap();
        for (name, text) in files {
            fs::write_atomic(&at(name), text.as_bytes(), fs::Mode::Public).unwrap();
        }
        let request = json!({
            "run": at(""), "data": at("data"), "log": at("log"), "output": at("output"), "offset": 0,
        });
        let path = format!("{}:/usr/bin:/bin", folder.path().display());
        reply("look", python_here(LOOK.code, &request, Some(&path)).to_string().as_bytes()).unwrap()
    }

    const CLEAN: &str = r#"{"v1": {"datasource": "x", "errors": []}}"#;

    #[test]
    fn a_result_alone_is_not_the_end_and_warnings_are_no_failure() {
        assert!(!look(&[("result.json", CLEAN)], "activating").done);
        let status = r#"{"v1": {"stage": null, "init": {"errors": [], "recoverable_errors": {"WARNING": ["old key"]}}}}"#;
        let found = look(&[("result.json", CLEAN), ("status.json", status), ("output", "a\nb")], "active");
        assert!(found.done && found.errors.is_empty());
        assert_eq!(
            (found.warnings.as_slice(), found.chunk.as_str()),
            (["init: warning: old key".to_owned()].as_slice(), "a\nb")
        );
        assert_eq!(outcome(&found, 1).unwrap().summary, "done with 1 warning");
    }

    #[test]
    fn a_failed_module_is_named_with_its_log() {
        let result = r#"{"v1": {"errors": ["('scripts_user', RuntimeError('Runparts: 1 failures'))"]}}"#;
        let log = "DEBUG x\nWARNING: Running module scripts_user (<module>) failed\n";
        let found =
            look(&[("result.json", result), ("log", log), ("output", "apt: no such package\n")], "active");
        let error = outcome(&found, 0).unwrap_err().to_string();
        assert!(error.starts_with("cloud-init's module scripts_user failed:"), "{error}");
        assert!(
            error.contains("Running module scripts_user") && error.contains("  apt: no such package"),
            "{error}"
        );
    }

    #[test]
    fn failed_units_with_nothing_going_on_are_not_waited_for() {
        let found = look(&[], "failed");
        assert!(found.stuck && !found.done);
        assert!(outcome(&found, 0).unwrap_err().to_string().contains("cloud-init.service: exit-code"));
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_survives_lost_connections() {
        let mut bench = Bench::new().with_host();
        let look = |done: bool, chunk: &str, offset: u64| {
            json!({"installed": true, "disabled": false, "done": done, "stuck": false, "stage": "modules-final",
                "errors": [], "warnings": [], "modules": [], "log": [], "tail": [], "chunk": chunk, "offset": offset})
            .to_string()
        };
        bench.host.answer(0, &look(false, "one\n", 4));
        (0..5).for_each(|_| bench.host.drop_connection());
        bench.host.answer(0, &look(true, "two\n", 8));
        assert_eq!(run(&bench.context(Work::AwaitCloudInit, Action::Create)).await.unwrap().summary, "done");
        assert_eq!(bench.host.requests()[1]["offset"], 4);
        let shown = bench.shown();
        assert!(shown.contains(&"one".to_owned()) && shown.contains(&"two".to_owned()), "{shown:?}");
    }
}
