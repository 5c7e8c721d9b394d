//! What a plan does with a step.

use serde::{Deserialize, Serialize};

/// What a plan does with a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Makes what is not there.
    Create,
    /// Takes over a host that carries our label but is in no record.
    Adopt,
    /// Changes what is there, in place.
    Update,
    /// Runs a step again whose outcome is out of date.
    Rerun,
    /// Goes on with a step that an earlier run left unfinished.
    Resume,
    /// Looks again, and acts only if what it depends on really came out different.
    Check,
    /// Destroys the host and makes a new one.
    Replace,
    /// Takes the host down.
    Destroy,
    /// Drops from the record what is no longer in the spec.
    Forget,
    /// Leaves it alone.
    NoOp,
}

impl Action {
    /// Tells whether the executor has anything to do.
    pub fn is_change(self) -> bool {
        self != Self::NoOp
    }
}
