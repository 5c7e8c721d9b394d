//! `await/ssh`: waits for a real login. Opens nothing by itself and knows no vendor's boot.

use super::host::Backoff;
use super::{StepContext, StepError, StepOutcome};
use crate::transport::{Script, TransportError};
use std::time::Duration;

const LOGIN: &str = r#"printf '%s %s\n' "$1" "$(id -un)""#;

/// Logs in until a nonce comes back: an image that connects us and prints advice instead is not a login.
pub(super) async fn run(context: &StepContext) -> Result<StepOutcome, StepError> {
    let host = context
        .run
        .session
        .record()
        .host
        .ok_or_else(|| StepError::Failed("there is no host yet".to_owned()))?;
    let remote = context.remote()?;
    let deadline = context.deadline();
    let mut backoff = Backoff::new();
    let mut last = String::new();
    loop {
        let nonce = ulid::Ulid::generate().to_string();
        let script = Script::user("login", LOGIN).arg(&nonce).timeout(Duration::from_secs(10));
        let said = match remote.exec(script).await {
            Ok(output) if output.text().trim_end() == format!("{nonce} {}", host.user) => {
                let summary = match backoff.tries {
                    0 => "logged in".to_owned(),
                    tries => format!("logged in after {tries} refused attempts"),
                };
                return Ok(StepOutcome { summary, ..StepOutcome::default() });
            }
            Ok(output) => {
                let text = if output.stdout.trim_ascii().is_empty() { output.tail() } else { output.text() };
                format!("connected, but the login as {} ran no command; it said: {}", host.user, text.trim())
            }
            // Waiting would not help: somebody else answers at this address.
            Err(error @ (TransportError::HostKey { .. } | TransportError::Local { .. })) => {
                return Err(error.into());
            }
            Err(error) => error.to_string(),
        };
        if said != last {
            context.log.line(&said);
            last = said;
        }
        if tokio::time::Instant::now() >= deadline {
            let console = context.console_tail().await;
            return Err(StepError::Failed(format!(
                "no login within {:?}: {last}{console}",
                context.step.timeout
            )));
        }
        context.pause(backoff.next()).await?;
    }
}
