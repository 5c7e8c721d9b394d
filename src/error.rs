//! Turns every cause into a kind, hints and an exit code; the only place that gives advice.

use std::fmt;

/// What kind of failure it is; each has its exit code (README, 'Exit codes').
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A defect or something unforeseen: 1.
    Unexpected,
    /// The spec: 3.
    Spec,
    /// Credentials or the provider: 4.
    Provider,
    /// A step failed, the host is up: 5.
    Step,
    /// Locked or stale: 6.
    Locked,
    /// Something may still cost money: 7.
    MayCost,
    /// Wrong use of the command line: 64.
    Usage,
}

impl Kind {
    /// Returns the process's exit code.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Unexpected => 1,
            Self::Spec => 3,
            Self::Provider => 4,
            Self::Step => 5,
            Self::Locked => 6,
            Self::MayCost => 7,
            Self::Usage => 64,
        }
    }
}

/// A failure as the user meets it.
#[derive(Debug)]
pub struct Failure {
    /// Which kind.
    pub kind: Kind,
    /// What happened and where; already printed when empty.
    pub message: String,
    /// What to do next, one line each.
    pub hints: Vec<String>,
}

impl Failure {
    /// Makes a failure without hints.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), hints: vec![] }
    }

    /// Adds what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hints.push(hint.into());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
