//! The lease timer on a host. Decides no end of a lease.

use jiff::Timestamp;

use crate::transport::{Remote, Script, TransportError};
use crate::user_data::{LEASE_SCRIPT, calendar};

/// Moves the timer, for this boot and all later ones.
pub async fn arm_host(remote: &dyn Remote, expires_at: Timestamp) -> Result<(), TransportError> {
    let script = Script::root("lease", LEASE_SCRIPT)
        .arg(expires_at.as_second().to_string())
        .arg(calendar(expires_at))
        .arg("move");
    remote.exec(script).await?.success("lease").map(drop)
}

/// Returns for when the timer is set; `None` when it is not.
pub async fn armed_on_host(remote: &dyn Remote) -> Result<Option<Timestamp>, TransportError> {
    // A timer that shows no next time has fired, or is not there (systemctl(1), org.freedesktop.systemd1(5)).
    let look = r#"next=$(systemctl show --property=NextElapseUSecRealtime --value lane-lease.timer)
[ -z "$next" ] || date --date "$next" +%s"#;
    let said = remote.exec(Script::root("lease look", look)).await?.success("lease look")?.text();
    Ok(said.trim().parse().ok().and_then(|seconds| Timestamp::from_second(seconds).ok()))
}
