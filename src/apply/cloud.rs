//! What is asked of a cloud in more than one place: patient questions, and the take-down that ends in a proof.
//!
//! Writes no state and knows no plan: a lane's destroy and a sweep of hosts that nobody recorded go through here alike.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::receipt::{EmptyListing, Object, Receipt};
use super::steps::StepError;
use super::steps::host::{Backoff, RETRIES};
use crate::provider::{
    Entry, Host, HostId, Label, Price, Provider, ProviderError, Region, Residue, Selector, Sku,
};
use crate::spec::{self, Spec};
use crate::state::HostRecord;
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
    /// Whose price counts before the table's.
    pub spec: Option<&'a Spec>,
    /// Takes a line for people.
    pub note: Box<dyn Fn(String) + Send + Sync + 'a>,
}

impl std::fmt::Debug for Cloud<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cloud").field("provider", &self.entry.name).finish_non_exhaustive()
    }
}

/// Refuses to look for a recorded host where it was not made: an empty listing there proves nothing.
pub async fn check_scope(
    provider: &dyn Provider,
    recorded: Option<&HostRecord>,
    lane: &str,
) -> Result<(), ProviderError> {
    let Some((host, made_in)) = recorded.and_then(|host| Some((host, host.scope.as_ref()?))) else {
        return Ok(());
    };
    let here = provider.scope().await?;
    if here.as_ref() == Some(made_in) {
        return Ok(());
    }
    let here = here.as_deref().unwrap_or("no such place");
    let (name, forget) = match &host.id {
        Some(id) => (
            format!("host {id}"),
            format!("; if that host is surely gone, `lane state forget {lane} --host`"),
        ),
        None => ("a host whose create is in doubt".to_owned(), String::new()),
    };
    Err(ProviderError::Unavailable {
        provider: crate::provider::by_name(&host.provider).map_or("the provider", |entry| entry.name),
        message: format!(
            "{name} was made in {made_in}, and {here} is asked now: from there nobody sees whether it still runs"
        ),
        remedy: format!("set the variables or the profile back to {made_in}{forget}"),
    })
}

/// Takes only what has an ended lease, and nothing of a host that is being made at the same time.
#[derive(Debug, Clone)]
pub struct EndedOnly {
    /// When the sweep began: what was made later is none of its business.
    pub began: Timestamp,
    /// The recorded host and its end: an extension may have been cut off between the record and the label.
    pub recorded: Option<(HostId, Timestamp)>,
}

impl EndedOnly {
    /// From this age on, what is left of a host that is gone was not left by a create that is under way.
    const ORPHAN_AGE: SignedDuration = SignedDuration::from_hours(24);

    /// Tells whether a host is to be left alone: without an end that the cloud shows, none is taken for ended.
    pub fn spares(&self, host: &Host, now: Timestamp) -> bool {
        host.expires_at.is_none_or(|end| end > now) || self.still_recorded(&host.id, now)
    }

    /// Tells whether what is left of a host that is gone is to be left alone.
    pub fn spares_rest(&self, host: &HostId, parts: &[Residue], now: Timestamp) -> bool {
        let old =
            |part: &Residue| part.created_at.is_some_and(|made| now.duration_since(made) >= Self::ORPHAN_AGE);
        let over = match parts.iter().filter_map(|part| part.expires_at).max() {
            // What was made after that end belongs to something newer.
            Some(end) => {
                end <= now && parts.iter().all(|part| part.created_at.is_none_or(|made| made <= end))
            }
            None => parts.iter().all(old),
        };
        !over || self.still_recorded(host, now)
    }

    fn still_recorded(&self, id: &HostId, now: Timestamp) -> bool {
        self.recorded.as_ref().is_some_and(|(recorded, end)| recorded == id && *end > now)
    }

    /// Tells whether a part surely belongs to a host that lives or is being made.
    fn is_fresh(&self, part: &Residue, now: Timestamp) -> bool {
        part.expires_at.is_some_and(|end| end > now) || part.created_at.is_some_and(|made| made >= self.began)
    }

    /// Tells whether a part is left of a host whose lease is over; `ended` are the hosts that this sweep saw so.
    fn is_over(&self, part: &Residue, ended: &BTreeSet<HostId>, now: Timestamp) -> bool {
        !self.is_fresh(part, now)
            && (part.expires_at.is_some() || (ended.contains(&part.host) && part.created_at.is_some()))
    }
}

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

impl Known {
    /// Takes over what a record says.
    pub fn of(host: &HostRecord) -> Self {
        Self {
            id: host.id.clone(),
            sku: host.sku.clone(),
            region: host.region.clone(),
            created_at: host.created_at,
        }
    }
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

    /// Names what the listings cover.
    pub async fn scope(&self) -> Result<Option<String>, StepError> {
        self.patiently(|| self.provider.scope()).await
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
        self.take_down_unless(label, known, limit, None).await.map(|(receipt, _)| receipt)
    }

    /// Does the same, but touches nothing that is to be spared; says too whether there is something.
    pub async fn take_down_unless(
        &self,
        label: &Label,
        known: Option<&Known>,
        limit: Duration,
        spare: Option<&EndedOnly>,
    ) -> Result<(Receipt, bool), StepError> {
        match self.until_gone(label, known, limit, spare).await {
            Err(StepError::Provider(error)) => {
                // Nobody sees whether it goes, but a host that is asked to go often does.
                if spare.is_none()
                    && let Some(id) = known.and_then(|host| host.id.as_ref())
                {
                    (self.note)(match self.provider.destroy(id).await {
                        Ok(()) => format!("asked for the deletion of {id} all the same"),
                        Err(error) => error.to_string(),
                    });
                }
                Err(may_cost_of(&error))
            }
            other => other,
        }
    }

    async fn until_gone(
        &self,
        label: &Label,
        known: Option<&Known>,
        limit: Duration,
        spare: Option<&EndedOnly>,
    ) -> Result<(Receipt, bool), StepError> {
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
        let mut ended: BTreeSet<HostId> = BTreeSet::new();
        let mut pending: BTreeSet<HostId> = known.and_then(|host| host.id.clone()).into_iter().collect();
        bill.extend(known.and_then(|host| Some((host.id.clone()?, host.clone()))));
        let (empty_listings, spared) = loop {
            let mut round: BTreeSet<HostId> = BTreeSet::new();
            // A look before each single destroy: none is sent on the strength of an old answer.
            let (hosts, rest, spared, asked_at) = loop {
                // An answer that took long tells of the moment in which it was asked for.
                let asked_at = Instant::now();
                let now = self.world.now();
                // Before the hosts: one that is made in between is listed as a host.
                let mut rest = match spare {
                    Some(_) => self.residue(&selector).await?,
                    None => vec![],
                };
                let (fresh, hosts): (Vec<Host>, Vec<Host>) = self
                    .find(label)
                    .await?
                    .into_iter()
                    .partition(|host| spare.is_some_and(|spare| spare.spares(host, now)));
                let mut spared: BTreeSet<HostId> = fresh.into_iter().map(|host| host.id).collect();
                if let Some(spare) = spare {
                    ended.extend(hosts.iter().map(|host| host.id.clone()));
                    // Where ids are our own names, the next host has the id of the last: its parts come first.
                    spared.extend(
                        rest.iter().filter(|part| spare.is_fresh(part, now)).map(|part| part.host.clone()),
                    );
                    let is_over =
                        |part: &Residue| !spared.contains(&part.host) && spare.is_over(part, &ended, now);
                    let (over, stays): (Vec<Residue>, Vec<Residue>) = rest.into_iter().partition(is_over);
                    // What cannot be told from a fresh host's stays too, but keeps no ended host alive.
                    let unknown = stays.into_iter().map(|part| part.host);
                    spared.extend(unknown.filter(|id| hosts.iter().all(|host| host.id != *id)));
                    rest = over;
                    pending = rest.iter().map(|part| part.host.clone()).collect();
                    seen.extend(rest.iter().map(Object::of_residue));
                }
                for host in hosts.iter().filter(|host| !spared.contains(&host.id)) {
                    if spare.is_some() || !round.contains(&host.id) {
                        pending.insert(host.id.clone());
                    }
                    let created_at = host.created_at.unwrap_or(now);
                    let (sku, region) = (host.sku.clone(), host.region.clone());
                    let found = Known { id: Some(host.id.clone()), sku, region, created_at };
                    bill.entry(host.id.clone()).or_insert(found);
                }
                let next = pending.iter().find(|id| !round.contains(*id)).cloned();
                let Some(id) = next else { break (hosts, rest, spared, asked_at) };
                if asked.insert(id.clone()) {
                    (self.note)(format!("destroys {id}"));
                }
                match self.provider.destroy(&id).await {
                    Ok(()) => {
                        pending.remove(&id);
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
                round.insert(id);
            };
            let rest = if spare.is_some() { rest } else { self.residue(&selector).await? };
            let hosts: Vec<Host> = hosts.into_iter().filter(|host| !spared.contains(&host.id)).collect();
            seen.extend(rest.iter().map(Object::of_residue));
            if spare.is_none() {
                // What was left of a host that never came to be, or is gone, goes by that host's id.
                pending.extend(rest.iter().map(|part| part.host.clone()));
            }
            let now = Instant::now();
            let wait = if hosts.is_empty() && rest.is_empty() && pending.is_empty() {
                let listing = EmptyListing { at: self.world.now(), hosts: 0, residue: 0 };
                match first_empty.take() {
                    Some((at, first)) if asked_at.saturating_duration_since(at) >= lag => {
                        break (vec![first, listing], !spared.is_empty());
                    }
                    Some(first) => first_empty.insert(first).0 + lag,
                    None if asked_at >= earliest => first_empty.insert((asked_at, listing)).0 + lag,
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
        bill.retain(|id, _| destroyed.contains(id));
        let receipt = Receipt {
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
        };
        Ok((receipt, spared))
    }

    /// Removes what is left of a host that is gone, until nothing of it is listed twice, the listing lag apart; `None`
    /// when nothing was left, or when there is a host of that id, or when it is to be spared.
    pub async fn clear(
        &self,
        id: &HostId,
        limit: Duration,
        spare: Option<&EndedOnly>,
    ) -> Result<Option<Receipt>, StepError> {
        let (lag, deadline) = (self.entry.listing_lag, Instant::now() + limit);
        let (mut seen, mut listings): (BTreeSet<Object>, Vec<(Instant, EmptyListing)>) = Default::default();
        let mut label = None;
        let mut last_error: Option<ProviderError> = None;
        loop {
            let asked_at = Instant::now();
            let mut rest = self.residue(&Selector::Owned).await?;
            rest.retain(|part| part.host == *id);
            // In this order: a host that is made in between is listed as a host, and its parts are no remains.
            if self.find_owned().await?.iter().any(|host| host.id == *id) {
                return Ok(None);
            }
            let now = Instant::now();
            if rest.is_empty() {
                if seen.is_empty() {
                    return Ok(None);
                }
                if listings.first().is_none_or(|(first, _)| asked_at.saturating_duration_since(*first) >= lag)
                {
                    listings.push((asked_at, EmptyListing { at: self.world.now(), hosts: 0, residue: 0 }));
                }
                if listings.len() == 2 {
                    break;
                }
            } else {
                if spare.is_some_and(|spare| spare.spares_rest(id, &rest, self.world.now())) {
                    return Ok(None);
                }
                listings.clear();
                if now >= deadline {
                    let left: Vec<String> = rest.iter().map(ToString::to_string).collect();
                    let why = last_error.map(|error| format!("; {error}")).unwrap_or_default();
                    return Err(may_cost(&format!(
                        "after {limit:?} there is still {}{why}",
                        left.join(", ")
                    )));
                }
                seen.extend(rest.iter().map(Object::of_residue));
                label = label.or_else(|| rest.into_iter().find_map(|part| part.label));
                if let Err(error) = self.provider.destroy(id).await {
                    (self.note)(format!("{error}; asks again"));
                    last_error = Some(error);
                }
            }
            self.pause((lag / 10).clamp(Duration::from_millis(200), Duration::from_secs(5))).await?;
        }
        Ok(Some(Receipt {
            format_version: 1,
            lane: label.as_ref().map(|label| label.lane.clone()).unwrap_or_default(),
            lineage: label.map(|label| label.lineage.to_string()).unwrap_or_default(),
            label: id.to_string(),
            provider: self.entry.name.to_owned(),
            destroyed: seen.into_iter().collect(),
            empty_listings: listings.into_iter().map(|(_, listing)| listing).collect(),
            listing_lag_seconds: lag.as_secs_f64(),
            created_at: None,
            gone_at: self.world.now(),
            spend_estimate: None,
        }))
    }

    /// Sums up what hosts cost from their making until now, by the spec or the dated price table; `None` where a price is missing.
    fn spend<'k>(&self, hosts: impl Iterator<Item = &'k Known>, gone_at: Timestamp) -> Option<String> {
        let mut total: Option<crate::provider::Money> = None;
        for host in hosts {
            let Price { per_hour, .. } = spec::price(self.spec, self.entry, &host.sku, &host.region)?;
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

/// Words a provider's failure after which something may be left.
pub(super) fn may_cost_of(error: &ProviderError) -> StepError {
    may_cost(&match error {
        ProviderError::Unavailable { remedy, .. } => format!("{error} ({remedy})"),
        _ => error.to_string(),
    })
}

fn may_cost(what: &str) -> StepError {
    StepError::MayCost(format!("something may still cost money: {what}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::apply::steps;
    use crate::apply::steps::testing::{Bench, CreateFault, ENTRY, FakeCloud, fingerprint};
    use crate::apply::sweep::{self, Choice, Left, Sweep};
    use crate::plan::{Action, Work};
    use crate::provider::Lineage;

    const PAST: &str = "2026-05-06T11:59:59Z";
    const FUTURE: &str = "2026-05-06T12:00:01Z";
    const LIMIT: Duration = Duration::from_mins(1);

    fn put(cloud: &FakeCloud, label: &Label, expires_at: Option<&str>) -> HostId {
        let id = cloud.put(label, None, Duration::ZERO);
        cloud.change_host(&id, |host| host.expires_at = expires_at.map(|at| at.parse().unwrap()));
        id
    }

    /// Takes down what a sweep of what is expired does.
    async fn sweep(bench: &Bench, label: &Label) -> Result<(Receipt, bool), StepError> {
        let abort = CancellationToken::new();
        let world = &bench.run.world;
        let cloud = Cloud {
            provider: &bench.cloud,
            entry: &ENTRY,
            world,
            spec: None,
            abort: &abort,
            note: Box::new(|_| {}),
        };
        let ended = EndedOnly { began: world.now(), recorded: None };
        cloud.take_down_unless(label, None, LIMIT, Some(&ended)).await
    }

    /// Looks for what is expired and takes it down, from a machine without state.
    async fn really_sweep(bench: &Bench) -> Result<(), Left> {
        let (abort, world) = (CancellationToken::new(), &bench.run.world);
        let cloud = || Cloud {
            provider: &bench.cloud,
            entry: &ENTRY,
            world,
            spec: None,
            abort: &abort,
            note: Box::new(|_| {}),
        };
        let lost = |error: StepError| Left::MayCost(error.to_string());
        let found = sweep::look(&cloud(), &sweep::Lanes::new()).await.map_err(lost)?;
        let receipts = bench.run.session.dir().path().join("sweeps");
        for thing in found.iter().filter(|thing| Choice::Expired.selects(thing, world.now())) {
            let sweep = Sweep {
                cloud: cloud(),
                choice: &Choice::Expired,
                began: world.now(),
                receipts: &receipts,
                limit: LIMIT * 5,
            };
            sweep.take_down(thing).await?;
        }
        Ok(())
    }

    fn part(host: &str, created_at: Option<&str>, expires_at: Option<&str>) -> Residue {
        Residue {
            kind: "disk".to_owned(),
            id: "d1".to_owned(),
            detail: "50 GB".to_owned(),
            host: HostId::new(host),
            label: None,
            created_at: created_at.map(|at| at.parse().unwrap()),
            expires_at: expires_at.map(|at| at.parse().unwrap()),
        }
    }

    #[test]
    fn remains_are_over_with_their_lease_or_a_day_after_they_were_made() {
        let now: Timestamp = "2026-05-06T12:00:00Z".parse().unwrap();
        let ended = EndedOnly { began: now, recorded: None };
        let goes = |parts: &[Residue]| !ended.spares_rest(&HostId::fixed("h"), parts, now);
        let (old, young) = ("2026-05-05T12:00:00Z", "2026-05-05T12:00:01Z");
        assert!(goes(&[part("h", None, Some(PAST))]) && !goes(&[part("h", Some(old), Some(FUTURE))]));
        assert!(goes(&[part("h", Some(old), None)]) && !goes(&[part("h", Some(young), None)]));
        assert!(!goes(&[part("h", None, None)]));
        let over = part("h", Some(old), Some(young));
        assert!(goes(&[over.clone(), part("h", None, None)]));
        assert!(!goes(&[over, part("h", Some(PAST), None)]), "it is of a host that is being made");
        let recorded = Some((HostId::fixed("h"), FUTURE.parse().unwrap()));
        let ended = EndedOnly { began: now, recorded };
        assert!(ended.spares_rest(&HostId::fixed("h"), &[part("h", None, Some(PAST))], now));
    }

    #[tokio::test(start_paused = true)]
    async fn remains_of_a_host_that_is_back_are_left_alone() {
        let bench = Bench::new();
        let id = put(&bench.cloud, &bench.label(), Some(FUTURE));
        bench.cloud.with(|state| state.residue.push(part(id.as_str(), None, Some(PAST))));
        let abort = CancellationToken::new();
        let world = &bench.run.world;
        let note = Box::new(|_| {});
        let cloud = Cloud { provider: &bench.cloud, entry: &ENTRY, world, spec: None, abort: &abort, note };
        assert!(cloud.clear(&id, LIMIT, None).await.unwrap().is_none());
        assert!(bench.cloud.with(|state| state.destroyed.is_empty()));
    }

    fn paused() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
    }

    /// Names beside each other, and lineages that end alike.
    fn labels() -> impl Strategy<Value = Label> {
        let lanes = prop::sample::select(vec!["t", "t2", "t-x", "x-t", "tt", "t.t", ""]);
        let lineages = prop::sample::select(vec![
            "01jd0000000000001a2b3c4d",
            "01jd0000000000011a2b3c4d",
            "1a2b3c4d",
            "",
        ]);
        (lanes, lineages)
            .prop_map(|(lane, lineage)| Label { lane: lane.to_owned(), lineage: Lineage::fixed(lineage) })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn only_expired_hosts_of_exactly_this_label_go(
            hosts in prop::collection::vec((labels(), prop::sample::select(vec![None, Some(PAST), Some(FUTURE)])), 0..8),
            label in labels(),
        ) {
            paused().block_on(async {
                let bench = Bench::new();
                let ids: Vec<HostId> = hosts.iter().map(|(label, at)| put(&bench.cloud, label, *at)).collect();
                let (receipt, spared) = sweep(&bench, &label).await.unwrap();
                let (gone, stay): (Vec<_>, Vec<_>) =
                    hosts.iter().zip(ids).partition(|(host, _)| host.0 == label && host.1 == Some(PAST));
                prop_assert_eq!(bench.cloud.alive(), stay.iter().map(|(_, id)| id.clone()).collect::<Vec<_>>());
                prop_assert_eq!(receipt.destroyed.len(), gone.len());
                prop_assert_eq!(spared, stay.iter().any(|(host, _)| host.0 == label));
                Ok(())
            })?;
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn two_sweeps_and_an_apply_interleaved_leave_the_fresh_host_alone(
            starts in prop::array::uniform3(0_u64..20_000),
            latency in 0_u64..3_000,
            linger in 0_u64..15_000,
            lag in 0_u64..10_000,
            lost in any::<bool>(),
            parts_first in prop::option::of(0_u64..40_000),
        ) {
            paused().block_on(async {
                let millis = Duration::from_millis;
                let bench = Bench::new();
                bench.cloud.with(|state| state.parts_first = parts_first.map(millis));
                let old = put(&bench.cloud, &bench.label(), Some(PAST));
                bench.cloud.change_host(&old, |host| host.fingerprint = Some(fingerprint("older")));
                bench.cloud.with(|state| {
                    (state.latency, state.linger, state.lag) = (millis(latency), millis(linger), millis(lag));
                    state.faults.extend(lost.then_some(CreateFault::LostAfter));
                });
                let one = async |start: u64| {
                    tokio::time::sleep(millis(start)).await;
                    really_sweep(&bench).await
                };
                let apply = async {
                    tokio::time::sleep(millis(starts[2])).await;
                    steps::run(&bench.context(Work::Provision, Action::Create)).await
                };
                let (first, second, applied) = tokio::join!(one(starts[0]), one(starts[1]), apply);
                prop_assert!(applied.is_ok(), "{:?}", applied);
                prop_assert!(first.is_ok() && second.is_ok(), "{:?} {:?}", first, second);
                let parts = bench.cloud.with(|state| state.residue.len());
                let made = usize::from(parts_first.is_some() && !lost);
                prop_assert_eq!(parts, made, "the fresh host lost a part");
                prop_assert_eq!(bench.cloud.with(|state| state.destroyed.clone()), [old]);
                prop_assert_eq!(bench.cloud.alive().len(), 1);
                Ok(())
            })?;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_is_extended_while_its_neighbour_goes_spares_its_host() {
        let bench = Bench::new();
        let label = bench.label();
        let (first, second) = (put(&bench.cloud, &label, Some(PAST)), put(&bench.cloud, &label, Some(PAST)));
        bench.cloud.with(|state| state.latency = Duration::from_secs(1));
        let extend = async {
            // After the first look, which saw both expired, and before the second destroy.
            tokio::time::sleep(Duration::from_millis(1500)).await;
            bench.cloud.change_host(&second, |host| host.expires_at = Some(FUTURE.parse().unwrap()));
        };
        let (swept, ()) = tokio::join!(sweep(&bench, &label), extend);
        assert!(swept.unwrap().1);
        assert_eq!(
            (bench.cloud.with(|state| state.destroyed.clone()), bench.cloud.alive()),
            (vec![first], vec![second])
        );
    }
}
