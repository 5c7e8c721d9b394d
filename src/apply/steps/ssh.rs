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

#[cfg(test)]
mod tests {
    use super::super::testing::Bench;
    use super::*;
    use crate::plan::{Action, Work};

    async fn login(bench: &Bench) -> Result<StepOutcome, StepError> {
        run(&bench.context(Work::AwaitSsh, Action::Create)).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_login_that_only_prints_advice_is_no_login() {
        let bench = Bench::new().with_host();
        bench.cloud.with(|state| state.console = Some("cloud-init: boot\n".to_owned()));
        for _ in 0..99 {
            bench.host.answer(142, "Please login as the user \"ubuntu\"");
        }
        let error = login(&bench).await.unwrap_err().to_string();
        assert!(
            error.contains("ran no command; it said: Please login as")
                && error.contains("  cloud-init: boot"),
            "{error}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_are_waited_out_but_another_host_key_is_not() {
        let bench = Bench::new().with_host();
        let refused = || TransportError::Refused {
            address: String::new(),
            user: String::new(),
            message: String::new(),
        };
        bench.host.drop_connection();
        bench.host.answers.lock().unwrap().push_back(Err(refused()));
        bench
            .host
            .answers
            .lock()
            .unwrap()
            .push_back(Err(TransportError::HostKey { address: "10.0.0.1".to_owned() }));
        let error = login(&bench).await.unwrap_err();
        assert!(matches!(error, StepError::Transport(TransportError::HostKey { .. })), "{error}");
        assert_eq!(bench.host.scripts.lock().unwrap().len(), 3);
    }
}
