//! Turns every cause into a kind, hints and an exit code; the only place that gives advice.

use std::fmt;

use crate::apply::executor::RunError;
use crate::apply::steps::StepError;
use crate::plan::DiffError;
use crate::provider::ProviderError;
use crate::spec::MissingVar;
use crate::state::StateError;
use crate::transport::TransportError;

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

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        let kind = match &error {
            StateError::Locked { .. } => Kind::Locked,
            _ => Kind::Unexpected,
        };
        let failure = Self::new(kind, error.to_string());
        match error.way_out() {
            Some(way_out) => failure.hint(way_out),
            None => failure,
        }
    }
}

impl From<ProviderError> for Failure {
    fn from(error: ProviderError) -> Self {
        let message = error.to_string();
        let failure = Self::new(Kind::Provider, message);
        match error {
            ProviderError::Auth { provider, .. } => {
                failure.hint(format!("`lane doctor {provider}` shows what it finds and how to mend it"))
            }
            ProviderError::Rejected { .. } => failure.hint("change what the message names, then plan again"),
            ProviderError::Capacity { .. } => failure.hint("try another region or SKU, or try later"),
            ProviderError::Quota { .. } => {
                failure.hint("ask the provider for more, or destroy what is not needed")
            }
            ProviderError::Transient { .. } => failure.hint("try again in a while"),
            ProviderError::Ambiguous { .. } => {
                failure.hint("run it again: lane looks first and repeats nothing blindly")
            }
            ProviderError::Unavailable { remedy, .. } => failure.hint(remedy),
        }
    }
}

impl From<TransportError> for Failure {
    fn from(error: TransportError) -> Self {
        let failure = Self::new(Kind::Step, error.to_string());
        match error {
            TransportError::HostKey { .. } => {
                failure.hint("do not go on: `lane destroy` and `lane apply` make a host that can be trusted")
            }
            TransportError::Connection { .. } => failure
                .hint("`lane status` tells whether the host is there, `lane logs --console` what it says"),
            TransportError::Local { .. } => {
                failure.hint("install `openssh-client` and `rsync`, or mend what is named")
            }
            _ => failure,
        }
    }
}

impl From<MissingVar> for Failure {
    fn from(error: MissingVar) -> Self {
        Self::new(Kind::Spec, error.to_string()).hint("set it, or write the value into the spec")
    }
}

impl From<DiffError> for Failure {
    fn from(error: DiffError) -> Self {
        let message = error.to_string();
        match error {
            DiffError::SeveralHosts(_) => Self::new(Kind::MayCost, message)
                .hint("`lane destroy` takes all of them down; `lane apply` then makes one"),
            _ => Self::new(Kind::Provider, message)
                .hint("`lane destroy` first: it goes by the record; or set the spec's provider back"),
        }
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        Self::new(Kind::Unexpected, error.to_string())
            .hint("mend what is named and run `lane apply` again; what was done is in the journal")
    }
}

/// Words the failure of a run by the first step that failed.
pub fn of_step(error: &StepError, message: String) -> Failure {
    let kind = match error {
        StepError::Provider(_) => Kind::Provider,
        StepError::MayCost(_) => Kind::MayCost,
        StepError::State(_) => Kind::Unexpected,
        _ => Kind::Step,
    };
    let failure = Failure::new(kind, message);
    match error {
        StepError::Provider(ProviderError::Unavailable { remedy, .. }) => failure.hint(remedy.clone()),
        StepError::Provider(ProviderError::Capacity { .. }) => {
            failure.hint("try another region or SKU, or try later")
        }
        _ => failure,
    }
}
