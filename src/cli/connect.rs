//! The one place that ties a lane's keys and its recorded host to an SSH connection.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::apply::steps::Connector;
use crate::provider::Label;
use crate::state::{HostRecord, LaneDir};
use crate::transport::{LaneKeys, OpenSsh, Remote, SshTarget, TransportError};
use crate::world::World;

/// How long one attempt to connect may take; waiting longer is the caller's business.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Makes OpenSSH connections with a lane's own keys and pinned host key.
#[derive(Debug)]
pub(super) struct SshConnector {
    dir: LaneDir,
    label: Label,
    world: World,
    // One connection object per address, so that steps that start at once open one shared connection.
    open: Mutex<BTreeMap<String, Arc<OpenSsh>>>,
}

impl SshConnector {
    /// Ties to a lane; opens nothing.
    pub(super) fn new(dir: &LaneDir, label: Label, world: &World) -> Self {
        Self { dir: dir.clone(), label, world: world.clone(), open: Mutex::default() }
    }

    /// Returns the way to a host; writes the lane's `ssh_config`, opens no connection.
    pub(super) fn open(&self, host: &HostRecord) -> Result<Arc<OpenSsh>, TransportError> {
        let alias = self.label.to_string();
        let Some(address) = host.address else {
            return Err(TransportError::Connection {
                address: alias,
                message: "the provider has not given the host an address yet".to_owned(),
            });
        };
        let key = format!("{}@{address}:{}", host.user, host.ssh_port);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ssh) = open.get(&key) {
            return Ok(Arc::clone(ssh));
        }
        let keys = LaneKeys::load_or_create(&self.dir.keys(), &alias)?;
        let target = SshTarget {
            alias,
            address: address.to_string(),
            port: host.ssh_port,
            user: host.user.clone(),
            identity: keys.identity,
            host_public_key: keys.host.public,
            connect_timeout: CONNECT_TIMEOUT,
        };
        let ssh = Arc::new(OpenSsh::new(&self.world, target, &self.dir.path().join("ssh"))?);
        open.insert(key, Arc::clone(&ssh));
        Ok(ssh)
    }
}

impl Connector for SshConnector {
    fn connect(&self, host: &HostRecord) -> Result<Arc<dyn Remote>, TransportError> {
        Ok(self.open(host)?)
    }
}
