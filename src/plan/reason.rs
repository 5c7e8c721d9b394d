//! Why a step is planned: typed, with old and new, so that every reporter can word it.

use serde::{Deserialize, Serialize};

use super::StepId;

/// Why a step gets its action.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Reason {
    /// No record of it: it was never done.
    NeverDone,
    /// An earlier run failed here.
    FailedBefore {
        /// What it said.
        error: String,
    },
    /// An earlier run started it and its outcome is unknown.
    InDoubt,
    /// An input is not what it was.
    InputChanged {
        /// Which input.
        input: String,
        /// As recorded; `None` if it is new.
        old: Option<String>,
        /// As wanted; `None` if it is gone.
        new: Option<String>,
    },
    /// Files of a source are not what they were.
    SourceChanged {
        /// How many differ.
        count: usize,
        /// The first few, sorted.
        files: Vec<String>,
    },
    /// Something that it depends on runs again.
    DependencyRuns {
        /// What runs.
        on: StepId,
    },
    /// Something that it depends on ran since, in a run that did not come this far.
    DependencyRan {
        /// What ran.
        on: StepId,
    },
    /// The host is made new, so nothing on it remains.
    HostReplaced,
    /// The recorded host is not there any more.
    HostGone,
    /// A host that carries our label is there, and no record knows it.
    HostUnrecorded {
        /// The provider's id of it.
        id: String,
    },
    /// The host was left half-made.
    HostTainted {
        /// Why.
        why: String,
    },
    /// Reality on the host is not what was recorded.
    Drift {
        /// What drifted: `/usr/local/bin/mvmd`, `mvmd-agent.service`.
        what: String,
        /// As recorded.
        recorded: String,
        /// As observed.
        observed: String,
    },
    /// The host did not answer, so nobody knows what drifted on it.
    Unreachable {
        /// What was said.
        why: String,
    },
    /// No longer in the spec.
    NotInSpec,
    /// Asked for by the operator.
    Requested,
}
