//! The record: format version, lineage, serial, the host and the outcome of each step. No secrets.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::plan::{Digest, Fingerprint, StepId};
use crate::provider::{ClientToken, HostId, Label, Lineage, Region, Sku};

/// What was last known of a lane.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Version of this form; a newer one is refused, an older one migrated.
    pub format_version: u32,
    /// The lane's name.
    pub lane: String,
    /// Random id, fixed at birth.
    pub lineage: Lineage,
    /// One more at every change.
    pub serial: u64,
    /// Absolute path of the spec that was applied last.
    pub spec_path: Option<String>,
    /// The host, once its creation was started.
    pub host: Option<HostRecord>,
    /// Steps that were done or failed, by id.
    pub steps: BTreeMap<StepId, StepRecord>,
    /// Steps that were started and whose outcome is unknown, by id.
    pub in_doubt: BTreeMap<StepId, InDoubt>,
}

impl Record {
    /// The version that this build writes.
    pub const FORMAT_VERSION: u32 = 2;

    /// Returns the record of a lane that was never applied.
    pub fn new(lane: &str, lineage: Lineage) -> Self {
        Self {
            format_version: Self::FORMAT_VERSION,
            lane: lane.to_owned(),
            lineage,
            serial: 0,
            spec_path: None,
            host: None,
            steps: BTreeMap::new(),
            in_doubt: BTreeMap::new(),
        }
    }

    /// Tells whether nothing but a look was ever done in this lane: then no host carries its lineage.
    pub fn is_unused(&self) -> bool {
        self.serial == 0
    }

    /// Returns the label that the lane's host carries.
    pub fn label(&self) -> Label {
        Label { lane: self.lane.clone(), lineage: self.lineage.clone() }
    }
}

/// The host as recorded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostRecord {
    /// The provider's id; `None` while a create is in doubt.
    pub id: Option<HostId>,
    /// Provider's name.
    pub provider: String,
    /// What the provider's listings covered when it was made; `None` where there is one scope only, or an older lane
    /// recorded it.
    pub scope: Option<String>,
    /// The provider's own keys, so that `destroy` needs no spec.
    pub provider_config: serde_json::Value,
    /// Instance type.
    pub sku: Sku,
    /// Place.
    pub region: Region,
    /// Image.
    pub image: String,
    /// Login user.
    pub user: String,
    /// Where it is reached, once known.
    pub address: Option<IpAddr>,
    /// SSH port.
    pub ssh_port: u16,
    /// When the create was started.
    pub created_at: Timestamp,
    /// When its lease ends.
    pub expires_at: Timestamp,
    /// Fingerprint of the provision step that it was made for.
    pub fingerprint: Fingerprint,
    /// Digest of the shown form of its user-data in `content/`.
    pub user_data: Digest,
    /// Why it must be replaced, if so.
    pub tainted: Option<String>,
}

/// How a step ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Outcome {
    /// It did what it should.
    Done,
    /// It failed.
    Failed {
        /// What it said.
        error: String,
    },
}

/// A transient unit's run on the host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RunId(pub String);

/// A step's last outcome.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepRecord {
    /// How it ended.
    pub outcome: Outcome,
    /// What it was done for.
    pub fingerprint: Fingerprint,
    /// Its inputs then, by name.
    pub inputs: BTreeMap<String, String>,
    /// When it ended.
    pub at: Timestamp,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
    /// What it found out: digests of binaries, levels of KVM, counts.
    pub facts: BTreeMap<String, String>,
}

/// A step that was started and whose outcome is unknown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InDoubt {
    /// What it was started for.
    pub fingerprint: Fingerprint,
    /// When.
    pub at: Timestamp,
    /// Of a long step: its run on the host.
    pub run: Option<RunId>,
    /// Of a create: the token that was sent.
    pub token: Option<ClientToken>,
}
