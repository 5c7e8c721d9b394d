//! What is asked of a cloud in more than one place: patient questions, and the take-down that ends in a proof.
//!
//! Knows no state and no plan: a lane's destroy and a sweep of hosts that nobody recorded go through here alike.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::receipt::{EmptyListing, Object, Receipt};
use super::steps::StepError;
use super::steps::host::{Backoff, RETRIES};
use crate::provider::{
    Entry, Host, HostId, Label, Price, Provider, ProviderError, Region, Residue, Selector, Sku,
};
use crate::world::World;

/// A cloud, and whom to tell what goes on.
pub struct Cloud<'a> {
    /// The cloud.
    pub provider: &'a dyn Provider,
    /// Its entry.
    pub entry: &'static Entry,
    /// Clock.
    pub world: &'a World,
    /// Set: stop waiting at once.
    pub abort: &'a CancellationToken,
    /// Takes a line for people.
    pub note: Box<dyn Fn(String) + Send + Sync + 'a>,
}

impl std::fmt::Debug for Cloud<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cloud").field("provider", &self.entry.name).finish_non_exhaustive()
    }
}

/// Tells whether a host is to be left alone.
pub type Spare<'a> = dyn Fn(&Host) -> bool + Send + Sync + 'a;

/// What is known of a host that is to go.
#[derive(Debug, Clone)]
pub struct Known {
    /// The provider's id; `None` while its create is in doubt.
    pub id: Option<HostId>,
    /// For its price.
    pub sku: Sku,
    /// For its price.
    pub region: Region,
    /// Since when it is paid for.
    pub created_at: Timestamp,
}

impl Cloud<'_> {
    /// Lists the hosts that carry exactly this label; asks again when the cloud has a moment's trouble.
    pub async fn find(&self, label: &Label) -> Result<Vec<Host>, StepError> {
        let selector = Selector::Label(label.clone());
        let mut hosts = self.patiently(|| self.provider.find(&selector)).await?;
        hosts.retain(|host| host.label == *label);
        Ok(hosts)
    }

    /// Lists every host that carries our labels, of any lane.
    pub async fn find_owned(&self) -> Result<Vec<Host>, StepError> {
        self.patiently(|| self.provider.find(&Selector::Owned)).await
    }

    /// Lists what else is left of what the selector means.
    pub async fn residue(&self, selector: &Selector) -> Result<Vec<Residue>, StepError> {
        self.patiently(|| self.provider.residue(selector)).await
    }

    /// Repeats a question, never a create.
    async fn patiently<T, F>(&self, mut ask: impl FnMut() -> F) -> Result<T, StepError>
    where
        F: Future<Output = Result<T, ProviderError>>,
    {
        let mut backoff = Backoff::new();
        loop {
            match ask().await {
                Err(error @ (ProviderError::Transient { .. } | ProviderError::Ambiguous { .. }))
                    if backoff.tries < RETRIES =>
                {
                    (self.note)(format!("{error}; asks again"));
                    self.pause(backoff.next()).await?;
                }
                other => return Ok(other?),
            }
        }
    }

    /// Waits, unless the run is aborted: a first Ctrl-C must not leave a take-down half done.
    async fn pause(&self, time: Duration) -> Result<(), StepError> {
        tokio::select! {
            biased;
            () = self.abort.cancelled() => Err(StepError::Stopped),
            () = tokio::time::sleep(time) => Ok(()),
        }
    }

    /// Destroys every host with exactly this label, and the known one, until find and residue are empty twice, the
    /// listing lag apart. An error means that something may still cost money, and names it.
    pub async fn take_down(
        &self,
        label: &Label,
        known: Option<&Known>,
        limit: Duration,
    ) -> Result<Receipt, StepError> {
        self.take_down_unless(label, known, limit, &|_| false).await
    }

    /// Does the same, but stops before it touches anything more as soon as a host shows up that is to be spared.
    pub async fn take_down_unless(
        &self,
        label: &Label,
        known: Option<&Known>,
        limit: Duration,
        spare: &Spare<'_>,
    ) -> Result<Receipt, StepError> {
        match self.until_gone(label, known, limit, spare).await {
            Err(StepError::Provider(error)) => {
                let remedy = match &error {
                    ProviderError::Unavailable { remedy, .. } => format!(" ({remedy})"),
                    _ => String::new(),
                };
                Err(may_cost(&format!("{error}{remedy}")))
            }
            other => other,
        }
    }

    async fn until_gone(
        &self,
        label: &Label,
        known: Option<&Known>,
        limit: Duration,
        spare: &Spare<'_>,
    ) -> Result<Receipt, StepError> {
        let selector = Selector::Label(label.clone());
        let lag = self.entry.listing_lag;
        let deadline = Instant::now() + limit;
        // A host that a lost create made may show up as late as this; until then an empty listing proves nothing.
        let in_doubt = known.is_some_and(|host| host.id.is_none());
        let earliest = Instant::now() + if in_doubt { lag } else { Duration::ZERO };
        let mut first_empty: Option<(Instant, EmptyListing)> = None;
        let mut bill: BTreeMap<HostId, Known> = BTreeMap::new();
        let mut seen: BTreeSet<Object> = BTreeSet::new();
        let mut destroyed: BTreeSet<HostId> = BTreeSet::new();
        let mut asked: BTreeSet<HostId> = BTreeSet::new();
        let mut last_error: Option<ProviderError> = None;
        let mut pending: BTreeSet<HostId> = known.and_then(|host| host.id.clone()).into_iter().collect();
        bill.extend(known.and_then(|host| Some((host.id.clone()?, host.clone()))));
        let empty_listings = loop {
            for host in self.find(label).await? {
                if spare(&host) {
                    return Err(StepError::Failed(format!(
                        "host {} of {label} is not to go; stopped",
                        host.id
                    )));
                }
                pending.insert(host.id.clone());
                let created_at = host.created_at.unwrap_or_else(|| self.world.now());
                let found =
                    Known { id: Some(host.id.clone()), sku: host.sku, region: host.region, created_at };
                bill.entry(host.id).or_insert(found);
            }
            for id in &pending {
                if asked.insert(id.clone()) {
                    (self.note)(format!("destroys {id}"));
                }
                match self.provider.destroy(id).await {
                    Ok(()) => {
                        destroyed.insert(id.clone());
                    }
                    Err(error @ (ProviderError::Auth { .. } | ProviderError::Unavailable { .. })) => {
                        return Err(error.into());
                    }
                    // Deleting again is safe, so anything else is asked again until the time is over.
                    Err(error) => {
                        (self.note)(format!("{error}; asks again"));
                        last_error = Some(error);
                    }
                }
            }
            pending.retain(|id| !destroyed.contains(id));
            let (hosts, rest) = (self.find(label).await?, self.residue(&selector).await?);
            seen.extend(rest.iter().map(Object::of_residue));
            let now = Instant::now();
            let wait = if hosts.is_empty() && rest.is_empty() && pending.is_empty() {
                let listing = EmptyListing { at: self.world.now(), hosts: 0, residue: 0 };
                match first_empty.take() {
                    Some((at, first)) if now.saturating_duration_since(at) >= lag => {
                        break vec![first, listing];
                    }
                    Some(first) => first_empty.insert(first).0 + lag,
                    None if now >= earliest => first_empty.insert((now, listing)).0 + lag,
                    None => earliest,
                }
            } else if now >= deadline {
                let mut left: Vec<String> = hosts.iter().map(|host| format!("host {}", host.id)).collect();
                left.extend(pending.iter().map(|id| format!("host {id} (not confirmed)")));
                left.extend(rest.iter().map(ToString::to_string));
                let why = last_error.map(|error| format!("; {error}")).unwrap_or_default();
                return Err(may_cost(&format!("after {limit:?} there is still {}{why}", left.join(", "))));
            } else {
                first_empty = None;
                now + (lag / 10).clamp(Duration::from_millis(200), Duration::from_secs(5))
            };
            self.pause(wait.saturating_duration_since(now)).await?;
        };
        let gone_at = self.world.now();
        seen.extend(destroyed.iter().map(Object::of_host));
        Ok(Receipt {
            format_version: 1,
            lane: label.lane.clone(),
            lineage: label.lineage.to_string(),
            label: label.to_string(),
            provider: self.entry.name.to_owned(),
            destroyed: seen.into_iter().collect(),
            empty_listings,
            listing_lag_seconds: lag.as_secs_f64(),
            created_at: bill.values().map(|host| host.created_at).min(),
            gone_at,
            spend_estimate: self.spend(bill.values(), gone_at),
        })
    }

    /// Removes what is left of a host that is gone, until nothing of it is listed twice, the listing lag apart.
    pub async fn clear(&self, id: &HostId, limit: Duration) -> Result<Receipt, StepError> {
        let (lag, deadline) = (self.entry.listing_lag, Instant::now() + limit);
        let (mut seen, mut listings): (BTreeSet<Object>, Vec<(Instant, EmptyListing)>) = Default::default();
        loop {
            if let Err(error) = self.provider.destroy(id).await {
                (self.note)(error.to_string());
            }
            let mut rest = self.residue(&Selector::Owned).await?;
            rest.retain(|part| part.host == *id);
            seen.extend(rest.iter().map(Object::of_residue));
            let now = Instant::now();
            if !rest.is_empty() {
                listings.clear();
                if now >= deadline {
                    let left: Vec<String> = rest.iter().map(ToString::to_string).collect();
                    return Err(may_cost(&format!("after {limit:?} there is still {}", left.join(", "))));
                }
            } else if listings.first().is_none_or(|(first, _)| now.saturating_duration_since(*first) >= lag) {
                listings.push((now, EmptyListing { at: self.world.now(), hosts: 0, residue: 0 }));
            }
            if listings.len() == 2 {
                break;
            }
            self.pause((lag / 10).clamp(Duration::from_millis(200), Duration::from_secs(5))).await?;
        }
        Ok(Receipt {
            format_version: 1,
            lane: String::new(),
            lineage: String::new(),
            label: id.to_string(),
            provider: self.entry.name.to_owned(),
            destroyed: seen.into_iter().collect(),
            empty_listings: listings.into_iter().map(|(_, listing)| listing).collect(),
            listing_lag_seconds: lag.as_secs_f64(),
            created_at: None,
            gone_at: self.world.now(),
            spend_estimate: None,
        })
    }

    /// Sums up what hosts cost from their making until now, by the dated price table; `None` where a price is missing.
    fn spend<'k>(&self, hosts: impl Iterator<Item = &'k Known>, gone_at: Timestamp) -> Option<String> {
        let mut total: Option<crate::provider::Money> = None;
        for host in hosts {
            let Price { per_hour, .. } = (self.entry.price)(&host.sku, &host.region)?;
            let alive = Duration::try_from(gone_at.duration_since(host.created_at)).unwrap_or_default();
            let cost = per_hour.for_duration(alive);
            match &mut total {
                Some(total) => total.micros = total.micros.saturating_add(cost.micros),
                None => total = Some(cost),
            }
        }
        total.map(|total| total.to_string())
    }
}

fn may_cost(what: &str) -> StepError {
    StepError::MayCost(format!("something may still cost money: {what}"))
}
