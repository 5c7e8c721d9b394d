//! Turns Ctrl-C and its kin into the run's two tokens: the first asks to stop, the second to return at once.
//!
//! Ends no process and prints nothing; the executor says what it is still waiting for.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Listens until it is dropped.
#[derive(Debug)]
pub struct Watch {
    _tasks: JoinSet<()>,
}

/// Listens for SIGINT, SIGTERM and SIGHUP (a closed terminal) for as long as the result is kept.
pub fn watch(stopping: CancellationToken, abort: CancellationToken) -> io::Result<Watch> {
    let (sender, receiver) = mpsc::channel(2);
    let mut tasks = JoinSet::new();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        let mut signals = signal(kind)?;
        let sender = sender.clone();
        tasks.spawn(async move { while signals.recv().await.is_some() && sender.send(()).await.is_ok() {} });
    }
    tasks.spawn(escalate(receiver, stopping, abort));
    Ok(Watch { _tasks: tasks })
}

async fn escalate(mut asked: mpsc::Receiver<()>, stopping: CancellationToken, abort: CancellationToken) {
    for token in [stopping, abort] {
        if asked.recv().await.is_none() {
            return;
        }
        token.cancel();
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn send(signal: &str) {
        let status = Command::new("kill").arg(signal).arg(std::process::id().to_string()).status().unwrap();
        assert!(status.success());
    }

    #[tokio::test]
    async fn first_signal_stops_and_second_aborts() {
        let (stopping, abort) = (CancellationToken::new(), CancellationToken::new());
        let _watch = watch(stopping.clone(), abort.clone()).unwrap();
        send("-INT");
        stopping.cancelled().await;
        assert!(!abort.is_cancelled(), "one signal must not abort");
        send("-TERM");
        abort.cancelled().await;
    }

    #[tokio::test]
    async fn dropped_listener_cancels_nothing() {
        let (sender, receiver) = mpsc::channel(1);
        let (stopping, abort) = (CancellationToken::new(), CancellationToken::new());
        drop(sender);
        escalate(receiver, stopping.clone(), abort.clone()).await;
        assert!(!stopping.is_cancelled() && !abort.is_cancelled());
    }
}
