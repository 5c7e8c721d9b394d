//! Pure: desired, recorded and observed in, a DAG of steps with actions and typed reasons out.
//!
//! No clock, no file, no random number, no async: the same inputs give the same bytes.

mod action;
mod desired;
mod diff;
mod digest;
mod graph;
mod observed;
mod printable;
mod reason;
mod saved;
mod step;
#[cfg(test)]
pub(crate) mod testing;

pub use action::Action;
pub use desired::{Desired, desired};
pub use diff::{DiffError, DiffInput, diff, diff_destroy};
pub use digest::{Digest, Digester};
pub use graph::{CycleError, StepGraph};
pub use observed::{HostView, Observed, ObservedHost, ServiceView};
pub use printable::{printable, turns_direction};
pub use reason::Reason;
pub use saved::{Cost, FileDiff, Plan, PlannedStep, Rings, SpecRef, Verb};
pub use step::{Dependency, DependencyKind, Fingerprint, StepId, StepSpec, Work};
