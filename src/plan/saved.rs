//! The plan itself: serializable, bound to a lineage, a serial and a spec.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Action, Dependency, Digest, Fingerprint, Reason, StepId, Work};

/// What a plan is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    /// Make the lane what its spec says.
    Apply,
    /// Take it down.
    Destroy,
    /// Run its tests.
    Test,
}

/// Which spec a plan was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecRef {
    /// Absolute path.
    pub path: String,
    /// Digest of its text.
    pub digest: Digest,
}

/// A step with what happens to it and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedStep {
    /// Its id.
    pub id: StepId,
    /// What it does.
    pub work: Work,
    /// What the plan does with it.
    pub action: Action,
    /// Why; empty for [`Action::NoOp`].
    pub reasons: Vec<Reason>,
    /// What it waits for.
    pub depends_on: Vec<Dependency>,
    /// What it will have when done.
    pub fingerprint: Fingerprint,
    /// Input names and values that the record keeps when it is done.
    pub inputs: std::collections::BTreeMap<String, String>,
    /// How long it may take.
    pub timeout: Duration,
}

/// A unified diff of a text that the plan changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileDiff {
    /// What differs: a unit file's or template's path, or `user-data`.
    pub name: String,
    /// The step that brings it to the host.
    pub step: StepId,
    /// Unified diff, without colour.
    pub unified: String,
}

/// What the host costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cost {
    /// Per hour, as `0.194 USD`; `None` where the provider has no price.
    pub per_hour: Option<String>,
    /// For one cycle; `None` for a host that is to go.
    #[serde(default)]
    pub expected: Option<String>,
    /// How long apply, test and destroy usually take together, or what is left of the lease if that is shorter.
    #[serde(default)]
    pub cycle: Duration,
    /// At most, until the lease ends.
    pub worst_case: Option<String>,
    /// When the lease ends, if the host exists.
    pub expires_at: Option<Timestamp>,
    /// From creation to expiry.
    pub ttl: Duration,
    /// What takes the host down then, with nobody there.
    #[serde(default)]
    pub rings: Rings,
}

/// What ends a lease when nobody is there; a third ring, `lane sweep --expired`, is wherever somebody runs it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rings {
    /// The cloud itself deletes the host.
    pub cloud_clock: bool,
    /// The host powers itself off, and that stops the bill.
    pub host_timer: bool,
}

impl Rings {
    /// Returns the rings that a provider offers.
    pub fn of(provider: &str) -> Self {
        crate::provider::by_name(provider).map_or_else(Self::default, |entry| Self {
            cloud_clock: entry.cloud_clock,
            host_timer: entry.timer_stops_bill,
        })
    }
}

/// What would happen, why, and what it would cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Version of this form; a reader refuses a newer one.
    pub format_version: u32,
    /// The lane's name.
    pub lane: String,
    /// What it is for.
    pub verb: Verb,
    /// The lane's lineage; it is born with the first plan.
    pub lineage: String,
    /// The record's serial that it was made on.
    pub serial: u64,
    /// The spec that it was made from.
    pub spec: SpecRef,
    /// Provider's name.
    pub provider: String,
    /// Instance type.
    pub sku: String,
    /// Place.
    pub region: String,
    /// Image.
    pub image: String,
    /// The vendor's own id of the image that a new host would be made from, as far as it was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_id: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Made without looking at the provider and the host.
    pub offline: bool,
    /// Every step of the lane in dependency order, those left alone too.
    pub steps: Vec<PlannedStep>,
    /// Texts that change.
    pub diffs: Vec<FileDiff>,
    /// What is lost when the host is replaced or destroyed.
    pub lost: Vec<String>,
    /// Things to know: unreachable host, files unknown until apply, KVM of this SKU.
    pub notes: Vec<String>,
    /// Price and lease.
    pub cost: Cost,
}

impl Plan {
    /// The version that this build writes.
    pub const FORMAT_VERSION: u32 = 1;

    /// Returns the steps that do something.
    pub fn changes(&self) -> impl Iterator<Item = &PlannedStep> {
        self.steps.iter().filter(|step| step.action.is_change())
    }

    /// Tells whether a new host would be made.
    pub fn makes_host(&self) -> bool {
        self.changes().any(|step| {
            step.work == super::Work::Provision
                && matches!(step.action, super::Action::Create | super::Action::Replace)
        })
    }

    /// Tells whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.changes().next().is_none()
    }

    /// Tells whether the host is there and did not answer: what drifted on it shows only in the next plan.
    pub fn is_blind(&self) -> bool {
        self.changes()
            .any(|step| step.reasons.iter().any(|reason| matches!(reason, super::Reason::Unreachable { .. })))
    }
}
