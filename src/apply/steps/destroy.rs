//! `destroy/host`: takes the host down and proves that nothing of it is left. Decides nothing about what comes after.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::provision::{cost, find, residue};
use super::{StepContext, StepError, StepOutcome};
use crate::provider::{HostId, ProviderError};
use crate::state::{HostRecord, JournalEvent};
use crate::world::fs;

/// The proof, as it is kept in the lane's logs.
#[derive(Debug, Serialize)]
struct Receipt {
    lane: String,
    lineage: String,
    label: String,
    provider: String,
    destroyed: Vec<String>,
    /// Twice nothing, the listing lag apart.
    empty_listings: Vec<EmptyListing>,
    listing_lag_seconds: f64,
    created_at: Option<String>,
    gone_at: String,
    /// By the dated price table; `None` where there is no price.
    spend_estimate: Option<String>,
}

#[derive(Debug, Serialize)]
struct EmptyListing {
    at: String,
    hosts: usize,
    residue: usize,
}

/// Takes the host down; with nothing to take down it says so.
pub(super) async fn run(context: &StepContext) -> Result<StepOutcome, StepError> {
    let destroyed = take_down(context).await?;
    let summary = match destroyed.len() {
        0 => "nothing was there".to_owned(),
        _ => format!("{} gone, verified twice", destroyed.join(", ")),
    };
    Ok(StepOutcome { summary, ..StepOutcome::default() })
}

/// Destroys every host with exactly our label, and the recorded one, until find and residue are empty twice.
pub(super) async fn take_down(context: &StepContext) -> Result<Vec<String>, StepError> {
    let recorded = context.run.session.record().host;
    context
        .run
        .session
        .append(JournalEvent::DestroyIntended { id: recorded.as_ref().and_then(|host| host.id.clone()) })?;
    if let Some(host) = recorded.as_ref().filter(|host| host.address.is_some())
        && let Ok(remote) = context.run.connector.connect(host)
    {
        remote.close().await;
    }
    let receipt = match gone(context, recorded.as_ref()).await {
        Err(StepError::Provider(error)) => {
            let remedy = match &error {
                ProviderError::Unavailable { remedy, .. } => format!(" ({remedy})"),
                _ => String::new(),
            };
            return Err(may_cost(&format!("{error}{remedy}")));
        }
        other => other?,
    };
    context.run.session.append(JournalEvent::HostGone {})?;
    if !receipt.destroyed.is_empty() {
        write_receipt(context, &receipt);
    }
    Ok(receipt.destroyed)
}

fn may_cost(what: &str) -> StepError {
    StepError::MayCost(format!("something may still cost money: {what}"))
}

async fn gone(context: &StepContext, recorded: Option<&HostRecord>) -> Result<Receipt, StepError> {
    let run = &context.run;
    let label = run.session.record().label();
    let lag = run.entry.listing_lag;
    let deadline = context.deadline();
    // A host that a lost create made may show up as late as this; until then an empty listing proves nothing.
    let in_doubt = recorded.is_some_and(|host| host.id.is_none());
    let earliest = Instant::now() + if in_doubt { lag } else { Duration::ZERO };
    let mut first_empty: Option<(Instant, EmptyListing)> = None;
    let mut destroyed: BTreeSet<HostId> = BTreeSet::new();
    let mut asked: BTreeSet<HostId> = BTreeSet::new();
    let mut last_error: Option<ProviderError> = None;
    let mut pending: BTreeSet<HostId> = recorded.and_then(|host| host.id.clone()).into_iter().collect();
    let empty_listings = loop {
        let hosts = find(context, &label).await?;
        pending.extend(hosts.iter().map(|host| host.id.clone()));
        for id in &pending {
            if asked.insert(id.clone()) {
                context.note(format!("destroys {id}"));
            }
            match run.provider.destroy(id).await {
                Ok(()) => {
                    destroyed.insert(id.clone());
                }
                Err(error @ (ProviderError::Auth { .. } | ProviderError::Unavailable { .. })) => {
                    return Err(error.into());
                }
                // Deleting again is safe, so anything else is asked again until the time is over.
                Err(error) => {
                    context.log.line(&error.to_string());
                    last_error = Some(error);
                }
            }
        }
        pending.retain(|id| !destroyed.contains(id));
        let (hosts, rest) = (find(context, &label).await?, residue(context, &label).await?);
        let now = Instant::now();
        let wait = if hosts.is_empty() && rest.is_empty() && pending.is_empty() {
            let listing = EmptyListing { at: run.world.now().to_string(), hosts: 0, residue: 0 };
            match first_empty.take() {
                Some((at, first)) if now.saturating_duration_since(at) >= lag => break vec![first, listing],
                Some(first) => first_empty.insert(first).0 + lag,
                None if now >= earliest => first_empty.insert((now, listing)).0 + lag,
                None => earliest,
            }
        } else if now >= deadline {
            let mut left: Vec<String> = hosts.iter().map(|host| format!("host {}", host.id)).collect();
            left.extend(pending.iter().map(|id| format!("host {id} (not confirmed)")));
            left.extend(rest.iter().map(|rest| format!("{} {} ({})", rest.kind, rest.id, rest.detail)));
            let why = last_error.map(|error| format!("; {error}")).unwrap_or_default();
            let limit = context.step.timeout;
            return Err(may_cost(&format!("after {limit:?} there is still {}{why}", left.join(", "))));
        } else {
            first_empty = None;
            now + (lag / 10).clamp(Duration::from_millis(200), Duration::from_secs(5))
        };
        context.pause_through_stop(wait.saturating_duration_since(now)).await?;
    };
    let gone_at = run.world.now();
    let spend = recorded.and_then(|host| {
        let price = (run.entry.price)(&host.sku, &host.region)?;
        let alive = Duration::try_from(gone_at.duration_since(host.created_at)).ok()?;
        Some(cost(&price.per_hour, alive).to_string())
    });
    Ok(Receipt {
        lane: label.lane.clone(),
        lineage: label.lineage.to_string(),
        label: label.to_string(),
        provider: run.entry.name.to_owned(),
        destroyed: destroyed.iter().map(ToString::to_string).collect(),
        empty_listings,
        listing_lag_seconds: lag.as_secs_f64(),
        created_at: recorded.map(|host| host.created_at.to_string()),
        gone_at: gone_at.to_string(),
        spend_estimate: spend,
    })
}

/// Keeps the proof beside the logs; the host is gone whether or not that works.
fn write_receipt(context: &StepContext, receipt: &Receipt) {
    let stamp = context.run.world.now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let logs = context.run.session.dir().logs();
    let path = logs.join(format!("receipt-{stamp}.json"));
    let written = fs::create_dir_private(&logs)
        .and_then(|()| serde_json::to_vec_pretty(receipt).map_err(std::io::Error::other))
        .and_then(|bytes| fs::write_atomic(&path, &bytes, fs::Mode::Private));
    match written {
        Ok(()) => context.note(format!("receipt: {}", path.display())),
        Err(error) => context.note(format!("no receipt at {}: {error}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Bench, LAG, fingerprint};
    use super::*;
    use crate::plan::{Action, Work};
    use crate::provider::Residue;

    async fn destroy(bench: &Bench) -> Result<StepOutcome, StepError> {
        run(&bench.context(Work::Destroy, Action::Destroy)).await
    }

    #[tokio::test(start_paused = true)]
    async fn gone_means_twice_empty_the_lag_apart_and_leaves_a_receipt() {
        let bench = Bench::new().with_host();
        bench.cloud.with(|state| {
            state.linger = Duration::from_secs(5);
            state.failing_finds = 2;
        });
        let before = Instant::now();
        assert_eq!(destroy(&bench).await.unwrap().summary, "h1 gone, verified twice");
        assert!(before.elapsed() >= Duration::from_secs(5) + LAG);
        assert!(bench.cloud.alive().is_empty());
        assert!(bench.run.session.record().host.is_none());
        let logs = bench.run.session.dir().logs();
        let receipt = logs.join("receipt-20260506T120000Z.json");
        let receipt: serde_json::Value = serde_json::from_slice(&fs::read(&receipt).unwrap()).unwrap();
        assert_eq!(receipt["destroyed"], serde_json::json!(["h1"]));
        assert_eq!(receipt["empty_listings"].as_array().unwrap().len(), 2);
        assert_eq!(receipt["spend_estimate"], "0.50 EUR");
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_a_lost_create_made_is_waited_for_and_destroyed() {
        let bench = Bench::new();
        bench.record_host(None, "wanted");
        let late = bench.cloud.put(&bench.label(), Some(&fingerprint("wanted")), LAG.mul_f32(0.9));
        destroy(&bench).await.unwrap();
        assert_eq!(bench.cloud.with(|state| state.destroyed.clone()), [late]);
        assert!(bench.cloud.alive().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn only_our_exact_label_is_destroyed() {
        let bench = Bench::new().with_host();
        let foreign = crate::provider::Label { lane: "t2".to_owned(), ..bench.label() };
        let foreign = bench.cloud.put(&foreign, None, Duration::ZERO);
        destroy(&bench).await.unwrap();
        assert_eq!(bench.cloud.alive(), [foreign]);
    }

    #[tokio::test(start_paused = true)]
    async fn several_hosts_of_ours_all_go() {
        let bench = Bench::new().with_host();
        bench.cloud.put(&bench.label(), None, Duration::ZERO);
        destroy(&bench).await.unwrap();
        assert!(bench.cloud.alive().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_may_cost_and_the_host_stays_recorded() {
        let bench = Bench::new().with_host();
        let disk = Residue { kind: "disk".to_owned(), id: "d7".to_owned(), detail: "50 GB".to_owned() };
        bench.cloud.with(|state| state.residue.push(disk));
        let error = destroy(&bench).await.unwrap_err();
        assert!(matches!(error, StepError::MayCost(_)));
        let error = error.to_string();
        assert!(
            error.starts_with("something may still cost money") && error.contains("disk d7 (50 GB)"),
            "{error}"
        );
        assert!(bench.run.session.record().host.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_cloud_that_cannot_be_asked_may_cost() {
        let bench = Bench::new().with_host();
        bench.cloud.with(|state| state.failing_finds = 99);
        assert!(matches!(destroy(&bench).await.unwrap_err(), StepError::MayCost(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_to_destroy_is_said() {
        let bench = Bench::new();
        assert_eq!(destroy(&bench).await.unwrap().summary, "nothing was there");
    }
}
