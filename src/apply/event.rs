//! What a run tells its reporters; never read back for correctness.

use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::mpsc;

use crate::plan::{Action, StepId};

/// One thing that happened in a run, in past tense.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The run began.
    RunStarted {
        /// When.
        at: Timestamp,
        /// The lane.
        lane: String,
        /// `apply`, `destroy`, `test`.
        verb: &'static str,
        /// How many steps do something.
        steps: usize,
    },
    /// A step began.
    StepStarted {
        /// When.
        at: Timestamp,
        /// Which.
        step: StepId,
        /// What is done with it.
        action: Action,
    },
    /// A step said something that people may want to see.
    StepNoted {
        /// When.
        at: Timestamp,
        /// Which.
        step: StepId,
        /// One line.
        note: String,
    },
    /// A step's command wrote a line.
    StepOutput {
        /// When.
        at: Timestamp,
        /// Which.
        step: StepId,
        /// The line, without its end.
        line: String,
    },
    /// A step ended well.
    StepFinished {
        /// When.
        at: Timestamp,
        /// Which.
        step: StepId,
        /// How long it took.
        duration: Duration,
        /// One line on what came out: `unchanged`, `3 files`, `guest ran`.
        summary: String,
    },
    /// A step failed.
    StepFailed {
        /// When.
        at: Timestamp,
        /// Which.
        step: StepId,
        /// How long it took.
        duration: Duration,
        /// What happened and what is known about why.
        error: String,
        /// Where its whole output is.
        log: Option<String>,
    },
    /// A step was not run because something before it failed or the run was stopped.
    StepNotRun {
        /// When.
        at: Timestamp,
        /// Which.
        step: StepId,
        /// Why.
        why: String,
    },
    /// A step was left unfinished because the run was stopped; the next run settles it.
    StepLeft {
        /// When.
        at: Timestamp,
        /// Which.
        step: StepId,
        /// How long it was watched.
        duration: Duration,
        /// What becomes of it.
        why: String,
    },
    /// The operator asked the run to stop.
    StopRequested {
        /// When.
        at: Timestamp,
        /// What goes on until it ends.
        finishing: Vec<StepId>,
    },
    /// The run ended.
    RunFinished {
        /// When.
        at: Timestamp,
        /// How long it took.
        duration: Duration,
        /// Steps that ended well.
        done: usize,
        /// Steps that failed.
        failed: usize,
        /// Steps that were not run.
        not_run: usize,
    },
}

/// Where a run sends its events; a closed receiver is no error.
#[derive(Debug, Clone)]
pub struct EventSink(mpsc::UnboundedSender<Event>);

impl EventSink {
    /// Makes a sink and the stream that a reporter reads.
    pub fn channel() -> (Self, mpsc::UnboundedReceiver<Event>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self(sender), receiver)
    }

    /// Sends an event.
    pub fn send(&self, event: Event) {
        drop(self.0.send(event));
    }
}
