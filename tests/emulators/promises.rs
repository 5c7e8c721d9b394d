//! What every adapter promises, whoever is behind it: a cloud in memory, an emulator, containers of this machine.

use std::time::Duration;

use jiff::SignedDuration;
use lane::provider::{CreateRequest, Host, HostId, HostStatus, Label, Provider, ProviderError, Selector};
use tokio::time::sleep;

/// How often a host or its end is looked for, and how many times.
const PACE: Duration = Duration::from_secs(1);
const LOOKS: u32 = 300;

async fn find(provider: &dyn Provider, label: &Label) -> Vec<Host> {
    let mut hosts = provider.find(&Selector::Label(label.clone())).await.unwrap();
    hosts.retain(|host| host.label == *label);
    hosts
}

async fn running(name: &str, provider: &dyn Provider, label: &Label) -> Host {
    for _ in 0..LOOKS {
        let mut hosts = find(provider, label).await;
        assert!(hosts.len() < 2, "{name}: {hosts:?}");
        if let Some(host) = hosts.pop()
            && host.status == HostStatus::Running
            && host.address.is_some()
        {
            return host;
        }
        sleep(PACE).await;
    }
    panic!("{name}: {label} does not run");
}

/// Destroys a host and whatever is left of its lane, until nothing is listed.
async fn take_down(name: &str, provider: &dyn Provider, id: &HostId, label: &Label) {
    let selector = Selector::Label(label.clone());
    for look in 0..LOOKS {
        let hosts = find(provider, label).await;
        let left = provider.residue(&selector).await.unwrap();
        if look > 0 && hosts.is_empty() && left.is_empty() {
            return;
        }
        for id in left.iter().map(|left| &left.host).chain([id]) {
            // What is in use still goes later.
            if let Err(error) = provider.destroy(id).await {
                assert!(matches!(error, ProviderError::Transient { .. }), "{name}: {error}");
            }
        }
        sleep(PACE).await;
    }
    panic!("{name}: {label} does not go");
}

/// Takes two hosts of two lanes through their lives. `nobody` is an id as the provider has them, of no host.
pub(crate) async fn keep(
    name: &str,
    provider: &dyn Provider,
    mine: &CreateRequest,
    other: &CreateRequest,
    nobody: &HostId,
) {
    assert_eq!(find(provider, &mine.label).await, [], "{name}: there is something already");
    provider.destroy(nobody).await.unwrap();

    let id = provider.create(mine).await.unwrap();
    let host = running(name, provider, &mine.label).await;
    assert_eq!(host.id, id, "{name}");
    assert!(host.fingerprint.as_ref().unwrap().is_of(&mine.fingerprint), "{name}: {host:?}");
    assert_eq!(host.expires_at, Some(mine.expires_at), "{name}");
    assert_eq!((&host.sku, &host.region), (&mine.sku, &mine.region), "{name}");
    assert!(host.created_at.is_some(), "{name}: {host:?}");
    assert_eq!(find(provider, &other.label).await, [], "{name}: another lane's label finds it");
    provider.console_log(&id).await.unwrap();
    match provider.whoami().await {
        Ok(account) => assert!(!account.account.is_empty() && !account.credentials.is_empty(), "{name}"),
        Err(error) => assert!(matches!(error, ProviderError::Unavailable { .. }), "{name}: {error}"),
    }

    let later = mine.expires_at + SignedDuration::from_hours(1);
    match provider.set_expiry(&id, later).await {
        Ok(()) => {
            provider.set_expiry(&id, later).await.unwrap();
            assert_eq!(running(name, provider, &mine.label).await.expires_at, Some(later), "{name}");
        }
        Err(error) => assert!(matches!(error, ProviderError::Unavailable { .. }), "{name}: {error}"),
    }

    let neighbour = provider.create(other).await.unwrap();
    running(name, provider, &other.label).await;
    take_down(name, provider, &id, &mine.label).await;
    provider.destroy(&id).await.unwrap();
    assert_eq!(
        running(name, provider, &other.label).await.id,
        neighbour,
        "{name}: it took the neighbour too"
    );
    take_down(name, provider, &neighbour, &other.label).await;
    let owned = provider.find(&Selector::Owned).await.unwrap();
    assert!(owned.iter().all(|host| host.id != id && host.id != neighbour), "{name}: {owned:?}");
}
