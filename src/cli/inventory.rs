//! What carries our labels in the clouds, recorded here or not: for `lane list --cloud` and `lane sweep`. Changes nothing.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::Context;
use super::lane::{connect, entry_of, is_path, known_lanes, load_spec, recorded_spec};
use super::list::columns;
use crate::apply::cloud::Cloud;
use crate::apply::sweep::{self, Lanes, What};
use crate::error::{Failure, Kind, of_step};
use crate::provider::{self, Entry, Money, Provider};
use crate::spec::{self, ProviderSpec, Spec};

/// Which clouds are asked.
#[derive(Debug, Clone, Args)]
pub(super) struct PlaceArgs {
    /// Spec files or provider names; with none, every provider that the lanes recorded here use.
    #[arg(value_name = "SPEC|PROVIDER")]
    targets: Vec<String>,
    #[command(flatten)]
    keys: KeyArgs,
}

/// What a spec would say of a provider.
#[derive(Debug, Clone, Args)]
pub(super) struct KeyArgs {
    /// A key of a provider given by its name, as `project=my-project` (may be given several times).
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = key_value)]
    keys: Vec<(String, String)>,
}

impl KeyArgs {
    /// Tells whether nothing was given.
    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Returns the provider's own keys as a spec would hold them.
    pub(super) fn config(&self) -> Value {
        self.keys.iter().map(|(key, value)| (key.clone(), Value::String(value.clone()))).collect()
    }
}

fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("it has the form KEY=VALUE".to_owned()),
    }
}

impl PlaceArgs {
    /// Tells whether nothing was named.
    pub(super) fn is_empty(&self) -> bool {
        self.targets.is_empty() && self.keys.is_empty()
    }

    /// Returns the providers to ask, each configuration once.
    pub(super) fn places(&self, context: &Context) -> Result<Vec<ProviderSpec>, Failure> {
        let mut places: Vec<ProviderSpec> = Vec::new();
        let mut add = |place: ProviderSpec| {
            if !places.iter().any(|known| known.name == place.name && known.config == place.config) {
                places.push(place);
            }
        };
        for target in &self.targets {
            if is_path(target) {
                add(load_spec(context, Path::new(target))?.provider);
            } else {
                add(self.by_name(target)?);
            }
        }
        if self.targets.is_empty() {
            for dir in known_lanes(context)? {
                // Whoever takes the inventory says what is wrong with a damaged one.
                let Ok(Some(record)) = dir.load() else { continue };
                if let Some(host) = &record.host {
                    add(ProviderSpec { name: host.provider.clone(), config: host.provider_config.clone() });
                } else if let Some(spec) = recorded_spec(context, &record) {
                    add(spec.provider);
                }
            }
        }
        if places.is_empty() {
            let names: Vec<&str> = provider::entries().iter().map(|entry| entry.name).collect();
            return Err(Failure::new(Kind::Usage, "no lane recorded here says which provider to ask")
                .hint(format!("name a spec, or a provider: {}", names.join(", "))));
        }
        Ok(places)
    }

    fn by_name(&self, name: &str) -> Result<ProviderSpec, Failure> {
        entry_of(name).map_err(|failure| failure.hint("a spec is given by its path"))?;
        Ok(ProviderSpec { name: name.to_owned(), config: self.keys.config() })
    }
}

/// A provider that answers.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) entry: &'static Entry,
    pub(super) provider: Arc<dyn Provider>,
}

impl Place {
    /// Returns the way to ask it, its notes going to the terminal.
    pub(super) fn cloud<'a>(&'a self, context: &'a Context, abort: &'a CancellationToken) -> Cloud<'a> {
        Cloud {
            provider: self.provider.as_ref(),
            entry: self.entry,
            world: &context.world,
            spec: None,
            abort,
            note: Box::new(|note| context.ui.note(&format!("  {note}"))),
        }
    }
}

/// Something of ours in a cloud.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) place: Place,
    pub(super) thing: sweep::Found,
    /// What its lane was applied with last, if that can still be read.
    pub(super) spec: Option<Arc<Spec>>,
}

/// What was found, and which providers could not be asked.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    pub(super) found: Vec<Found>,
    pub(super) unasked: Vec<Failure>,
}

/// Asks every place for all that carries our labels.
pub(super) async fn take(context: &Context, places: &[ProviderSpec]) -> Result<Inventory, Failure> {
    let (lanes, damaged) = sweep::lanes(known_lanes(context)?);
    // One damaged lane must not keep its neighbours' hosts out of sight.
    damaged.into_iter().for_each(|error| context.ui.failure(&error.into()));
    let mut inventory = Inventory::default();
    for place in places {
        match ask(context, place, &lanes).await {
            Err(failure) => inventory.unasked.push(failure),
            Ok((place, things)) => inventory.found.extend(things.into_iter().map(|thing| {
                let record = thing.recorded.as_ref().map(|(_, record)| record);
                let spec = record.and_then(|record| recorded_spec(context, record)).map(Arc::new);
                Found { place: place.clone(), thing, spec }
            })),
        }
    }
    Ok(inventory)
}

async fn ask(
    context: &Context,
    place: &ProviderSpec,
    lanes: &Lanes,
) -> Result<(Place, Vec<sweep::Found>), Failure> {
    let (provider, entry) = connect(context, place)?;
    let (place, abort) = (Place { entry, provider }, CancellationToken::new());
    let found = sweep::look(&place.cloud(context, &abort), lanes).await;
    let found = found.map_err(|error| of_step(&error, error.to_string()))?;
    Ok((place, found))
}

impl Found {
    /// Returns the price of an hour and what it came to, by the spec or the dated price table.
    fn cost(&self, now: Timestamp) -> Option<(Money, Money)> {
        let What::Lane { hosts, .. } = &self.thing.what else { return None };
        let mut sum: Option<(Money, Money)> = None;
        for host in hosts {
            let price =
                spec::price(self.spec.as_deref(), self.place.entry, &host.sku, &host.region)?.per_hour;
            let alive = Duration::try_from(now.duration_since(host.created_at?)).unwrap_or_default();
            let cost = price.for_duration(alive);
            sum = Some(match sum {
                None => (price, cost),
                Some((mut hour, mut total)) => {
                    hour.micros = hour.micros.saturating_add(price.micros);
                    total.micros = total.micros.saturating_add(cost.micros);
                    (hour, total)
                }
            });
        }
        sum
    }

    /// Names it for people.
    pub(super) fn name(&self) -> String {
        format!("{} at {}", self.thing.name(), self.place.entry.name)
    }

    fn row(&self, now: Timestamp) -> [String; 9] {
        let dash = || "-".to_owned();
        let (what, sku) = match &self.thing.what {
            What::Lane { hosts, .. } => {
                let ids: Vec<&str> = hosts.iter().map(|host| host.id.as_str()).collect();
                let sku = hosts.first().map(|host| format!("{} in {}", host.sku, host.region));
                (ids.join(", "), sku.unwrap_or_else(dash))
            }
            What::Orphan { parts, .. } => {
                let parts: Vec<String> =
                    parts.iter().map(|part| format!("{} {}", part.kind, part.id)).collect();
                (parts.join(", "), dash())
            }
        };
        let lineage = match &self.thing.what {
            What::Lane { label, .. } => label.lineage8().to_owned(),
            What::Orphan { .. } => dash(),
        };
        let cost = self.cost(now);
        let lease = match self.thing.expires_at() {
            Some(end) if end <= now => format!("over since {}", span(now, end)),
            Some(end) => format!("{} left", span(now, end)),
            None => "unknown".to_owned(),
        };
        [
            self.thing.lane().unwrap_or("-").to_owned(),
            lineage,
            self.place.entry.name.to_owned(),
            what,
            sku,
            self.thing.created_at().map_or_else(dash, |made| span(now, made)),
            lease,
            cost.map_or_else(dash, |(hour, total)| format!("{hour}/h, {total}")),
            if self.thing.recorded.is_some() { "yes".to_owned() } else { "no".to_owned() },
        ]
    }

    /// Returns it for machines.
    pub(super) fn json(&self, now: Timestamp) -> Value {
        let cost = self.cost(now);
        let mut value = json!({
            "provider": self.place.entry.name, "lane": self.thing.lane(), "created_at": self.thing.created_at(),
            "expires_at": self.thing.expires_at(), "expired": self.thing.expires_at().map(|end| end <= now),
            "per_hour": cost.as_ref().map(|(hour, _)| hour), "so_far": cost.as_ref().map(|(_, total)| total),
            "recorded": self.thing.recorded.is_some(),
        });
        match &self.thing.what {
            What::Lane { label, hosts } => {
                value["lineage"] = json!(label.lineage);
                value["hosts"] = json!(hosts);
            }
            What::Orphan { parts, .. } => value["residue"] = json!(parts),
        }
        value
    }
}

/// Shows what was found as a table.
pub(super) fn table(found: &[&Found], now: Timestamp) -> String {
    let head =
        ["LANE", "LINEAGE", "PROVIDER", "WHAT", "SKU", "AGE", "LEASE", "COST", "RECORDED"].map(str::to_owned);
    let rows: Vec<_> = std::iter::once(head).chain(found.iter().map(|found| found.row(now))).collect();
    crate::report::reason::printable_lines(&columns(&rows))
}

/// Words the time between two moments in its two largest units.
fn span(one: Timestamp, other: Timestamp) -> String {
    let seconds = one.duration_since(other).unsigned_abs().as_secs();
    match (seconds / 86_400, seconds % 86_400 / 3_600, seconds % 3_600 / 60, seconds % 60) {
        (0, 0, 0, seconds) => format!("{seconds} s"),
        (0, 0, minutes, _) => format!("{minutes} min"),
        (0, hours, minutes, _) => format!("{hours} h {minutes} min"),
        (days, hours, ..) => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_like_speech() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let shown = [5, 119, 3_700, 90_000].map(|seconds| span(at(0), at(seconds)));
        assert_eq!(shown, ["5 s", "1 min", "1 h 1 min", "1 d 1 h"]);
    }

    #[test]
    fn keys_are_pairs() {
        assert_eq!(key_value("project=a=b"), Ok(("project".to_owned(), "a=b".to_owned())));
        assert!(key_value("project").is_err() && key_value("=x").is_err());
    }
}
