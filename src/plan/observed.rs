//! What the provider and the host really look like, as `apply::refresh` brings it back.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::provider::Host;

/// What was seen of a lane; the planner gets it as plain data.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// The host, as far as the provider knows.
    pub host: ObservedHost,
    /// What the host says of itself; `None` when nobody asked (offline) or it does not answer.
    pub view: Option<HostView>,
    /// Why the host was not asked or did not answer, for people.
    pub unreachable: Option<String>,
}

/// The host, as far as the provider knows.
#[derive(Debug, Clone, PartialEq)]
pub enum ObservedHost {
    /// Nobody asked: the plan takes the record for true (offline).
    NotAsked,
    /// The provider knows no host with our label.
    Absent,
    /// Exactly one.
    Present(Host),
    /// More than one: a person must decide.
    Several(Vec<Host>),
}

/// What the host says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HostView {
    /// Lineage in the marker that `lane` left there.
    pub lineage: Option<String>,
    /// Kernel's boot id: changes with each boot.
    pub boot_id: String,
    /// Services by unit name.
    pub services: BTreeMap<String, ServiceView>,
    /// Installed and rendered files by path: `size mtime inode`, `None` if missing.
    pub files: BTreeMap<String, Option<String>>,
    /// Secrets that are there.
    pub secrets: Vec<String>,
    /// Synced source folders that are there.
    pub sources: Vec<String>,
}

/// A unit's properties (`systemctl show`, org.freedesktop.systemd1(5)).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ServiceView {
    /// `active`, `failed`, `inactive`, …
    pub active: String,
    /// `running`, `exited`, `dead`, …
    pub sub: String,
    /// `enabled`, `disabled`, …
    pub enabled: String,
    /// Its unit file: `size mtime inode`, `None` if missing.
    pub unit_file: Option<String>,
}
