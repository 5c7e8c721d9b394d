//! The one place that ties a lane's keys and its recorded host to an SSH connection.

use std::sync::Arc;

use crate::apply::steps::Connector;
use crate::provider::Label;
use crate::state::{HostRecord, LaneDir};
use crate::transport::{LaneKeys, OpenSsh, Remote, SshTarget, TransportError};
use crate::world::World;

/// Makes OpenSSH connections with a lane's own keys and pinned host key.
#[derive(Debug)]
pub(super) struct SshConnector {
    keys: std::path::PathBuf,
    label: Label,
    world: World,
}

impl SshConnector {
    /// Ties to a lane; opens nothing.
    pub(super) fn new(dir: &LaneDir, label: Label, world: &World) -> Self {
        Self { keys: dir.keys(), label, world: world.clone() }
    }
}
