//! `lane lease`: when a lane's host goes by itself, and how to move that.

use std::time::Duration;

use clap::{Args, Subcommand};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

use super::lane::{connect, connector, find_host, known_lanes, recorded_spec};
use super::{Context, Format};
use crate::apply::cloud::check_scope;
use crate::apply::lease::{arm_host, armed_on_host};
use crate::error::{Failure, Kind};
use crate::plan::Rings;
use crate::provider::{Entry, Label, ProviderError, Selector};
use crate::report::{self, lease::Ring};
use crate::spec::{self, ProviderSpec};
use crate::state::{HostRecord, JournalEvent, LaneDir};

/// Show or move the end of a lane's lease.
#[derive(Debug, Args)]
pub(super) struct LeaseArgs {
    #[command(subcommand)]
    verb: LeaseVerb,
}

#[derive(Debug, Subcommand)]
enum LeaseVerb {
    /// Show when the lease ends, by the record, the cloud and the host, and what it costs until then.
    Show(ShowArgs),
    /// Move the end of the lease, in the record, in the cloud and on the host.
    Extend(ExtendArgs),
}

#[derive(Debug, Args)]
struct ShowArgs {
    /// A spec file or a lane's name; with none, the only lane that has a host.
    #[arg(value_name = "LANE")]
    target: Option<String>,
    /// What to write.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("end").required(true).args(["by", "until"]))]
struct ExtendArgs {
    /// A spec file or a lane's name; with none, the only lane that has a host.
    #[arg(value_name = "LANE")]
    target: Option<String>,
    /// By how much, from its present end: `1h`, `90m`.
    #[arg(long, value_name = "TIME")]
    by: Option<SignedDuration>,
    /// To this moment, later or earlier than now planned: `2026-05-06T18:00:00Z`.
    #[arg(long, value_name = "MOMENT")]
    until: Option<Timestamp>,
}

pub(super) async fn run(context: &Context, args: &LeaseArgs) -> Result<u8, Failure> {
    match &args.verb {
        LeaseVerb::Show(args) => show(context, args).await,
        LeaseVerb::Extend(args) => extend(context, args).await,
    }
}

fn provider_of(host: &HostRecord) -> ProviderSpec {
    ProviderSpec { name: host.provider.clone(), config: host.provider_config.clone() }
}

/// Asks a host for when its timer is set; `None` where that stops no bill, or before it has an address.
pub(super) async fn on_host(
    context: &Context,
    dir: &LaneDir,
    label: Label,
    host: &HostRecord,
    entry: &Entry,
) -> Option<Result<Option<Timestamp>, String>> {
    host.address.filter(|_| entry.timer_stops_bill)?;
    Some(match connector(context, dir, label).connect(host) {
        Ok(remote) => armed_on_host(&*remote).await.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    })
}

/// Tells how the rings stand, by what cloud and host say.
pub(super) fn rings_seen(
    entry: &Entry,
    in_cloud: Option<Timestamp>,
    on_host: Option<&Result<Option<Timestamp>, String>>,
) -> [Ring; 2] {
    let host = on_host.map_or(Err(()), |seen| seen.as_ref().map(Option::is_some).map_err(|_| ()));
    [Ring::seen(entry.cloud_clock, Ok(in_cloud.is_some())), Ring::seen(entry.timer_stops_bill, host)]
}

async fn show(context: &Context, args: &ShowArgs) -> Result<u8, Failure> {
    let (dir, record) = find_host(context, args.target.as_deref())?;
    let Some(host) = &record.host else { return Ok(0) };
    let (provider, entry) = connect(context, &provider_of(host))?;
    check_scope(provider.as_ref(), Some(host), &record.lane).await?;
    let label = record.label();
    let seen = provider.find(&Selector::Label(label.clone())).await?;
    let in_cloud = seen.into_iter().find(|seen| seen.label == label).and_then(|seen| seen.expires_at);
    let on_host = on_host(context, &dir, label, host, entry).await;
    let (rings, now) = (Rings::of(&host.provider), context.world.now());
    let left = host.expires_at.duration_since(now);
    let spec = recorded_spec(context, &record);
    let price = spec::price(spec.as_ref(), entry, &host.sku, &host.region);
    let worst = price.map(|price| price.per_hour.for_duration(Duration::try_from(left).unwrap_or_default()));
    if args.format == Format::Json {
        let json = json!({
            "format_version": 1, "lane": record.lane, "expires_at": host.expires_at, "seconds_left": left.as_secs(),
            "in_cloud": in_cloud, "on_host": on_host.as_ref().and_then(|seen| seen.as_ref().ok()),
            "rings": rings, "worst_case": worst,
        });
        context.ui.line(&serde_json::to_string_pretty(&json).unwrap_or_default());
        return Ok(0);
    }
    let mut text = format!("The lease of lane `{}` {} ({})\n", record.lane, words(left), host.expires_at);
    let same = |seen: Timestamp| seen.as_second() == host.expires_at.as_second();
    let mut lags = false;
    let mut line = |what: &str, seen: Option<Timestamp>| {
        lags |= !seen.is_some_and(same);
        let seen = seen.map_or_else(|| "not armed".to_owned(), |seen| seen.to_string());
        text.extend([format!("  {what:<9}{seen}\n")]);
    };
    line("in cloud", in_cloud);
    match &on_host {
        None => {}
        Some(Ok(seen)) => line("on host", *seen),
        Some(Err(why)) => text.extend([format!("  on host  cannot be asked: {why}\n")]),
    }
    let stand = rings_seen(entry, in_cloud, on_host.as_ref());
    text.extend([format!("  ends by  {}\n", report::lease::rings(stand))]);
    if let Some(worst) = worst {
        let until = host.expires_at.to_string();
        let vanish = report::lease::if_you_vanish(&worst.to_string(), &until, true, stand);
        text.extend([format!("  cost     {vanish}\n")]);
    }
    context.ui.out(&text);
    if lags {
        context.ui.warn(&format!(
            "cloud, host and record differ; `lane lease extend {} --until {}` sets them all",
            record.lane, host.expires_at
        ));
    }
    Ok(0)
}

async fn extend(context: &Context, args: &ExtendArgs) -> Result<u8, Failure> {
    let (dir, _) = find_host(context, args.target.as_deref())?;
    let session = dir.open(&context.world, "lease")?;
    let record = session.record();
    let gone = || Failure::new(Kind::Usage, format!("lane `{}` has no host with a lease", record.lane));
    let host = record.host.clone().ok_or_else(gone)?;
    let id = host.id.clone().ok_or_else(|| gone().hint("its create is in doubt: `lane apply` settles it"))?;
    let (old, now) = (host.expires_at, context.world.now());
    let new = match (args.by, args.until) {
        (Some(by), _) => old.checked_add(by).map_err(|error| Failure::new(Kind::Usage, error.to_string()))?,
        (None, until) => until.unwrap_or(old),
    };
    if new <= now {
        return Err(Failure::new(Kind::Usage, format!("{new} is over already"))
            .hint("`lane destroy` ends a lease now"));
    }
    let (provider, entry) = connect(context, &provider_of(&host))?;
    let spec = recorded_spec(context, &record);
    if let Some(limit) = spec.as_ref().and_then(|spec| spec.lease.max_spend.as_ref())
        && let Some(price) = spec::price(spec.as_ref(), entry, &host.sku, &host.region)
        && let Ok(alive) = Duration::try_from(new.duration_since(host.created_at))
    {
        let worst = price.per_hour.for_duration(alive);
        if worst.currency != limit.currency || worst.micros > limit.micros {
            return Err(Failure::new(
                Kind::Usage,
                format!("until {new} it costs up to {worst}; max_spend is {limit}"),
            )
            .hint("raise `lease.max_spend` in the spec, or extend by less"));
        }
    }
    let note = |expires_at| session.append(JournalEvent::LeaseExtended { expires_at });
    // The record never names an end before the one that is armed, so what it says of costs stays true when this is cut off.
    if new >= old {
        note(new)?;
    }
    check_scope(provider.as_ref(), record.host.as_ref(), &record.lane).await?;
    match provider.set_expiry(&id, new).await {
        Ok(()) => {}
        Err(error @ (ProviderError::Unavailable { .. } | ProviderError::Rejected { .. })) => {
            // Surely nothing moved.
            note(old)?;
            session.checkpoint()?;
            return Err(error.into());
        }
        Err(error) => {
            session.checkpoint()?;
            return Err(Failure::from(error).hint("run it again: it may have moved in part"));
        }
    }
    if entry.timer_stops_bill {
        let connector = connector(context, &dir, record.label());
        let armed = match connector.connect(&host) {
            Ok(remote) => arm_host(&*remote, new).await,
            Err(error) => Err(error),
        };
        if let Err(error) = armed {
            session.checkpoint()?;
            return Err(Failure::from(error).hint(format!(
                "cloud and record say {new}, the host's own timer still {old}: run `lane lease extend {} --until {new}`",
                record.lane
            )));
        }
    }
    note(new)?;
    session.checkpoint()?;
    context.ui.line(&format!(
        "The lease of lane `{}` {} ({new}).",
        record.lane,
        words(new.duration_since(now))
    ));
    Ok(0)
}

/// However long a lease is, this much before its end is near it.
const NEAR: SignedDuration = SignedDuration::from_mins(5);

/// Warns of each lane whose lease is nearly over: when less than a tenth of it is left.
pub(super) fn warn(context: &Context) {
    let now = context.world.now();
    for dir in known_lanes(context).unwrap_or_default() {
        // Whoever needs the record says what is wrong with it.
        let Ok(Some(host)) = dir.load().map(|record| record.and_then(|record| record.host)) else { continue };
        let left = host.expires_at.duration_since(now);
        if left <= NEAR.max(host.expires_at.duration_since(host.created_at) / 10) {
            let lane = dir.lane();
            let way = if left.is_positive() && Rings::of(&host.provider).cloud_clock {
                format!(
                    "`lane lease extend {lane} --by 1h` moves it, where the cloud's own clock can be moved"
                )
            } else if left.is_positive() {
                format!("`lane lease extend {lane} --by 1h` moves it")
            } else {
                format!("`lane destroy {lane}` takes the host down if it is still there")
            };
            context.ui.warn(&format!("the lease of lane `{lane}` {}; {way}", words(left)));
        }
    }
}

fn words(left: SignedDuration) -> String {
    let text = |time: SignedDuration| match time.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds => format!("{} min", seconds / 60),
    };
    if left.is_positive() { format!("ends in {}", text(left)) } else { format!("ended {} ago", text(-left)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_left_is_in_words() {
        assert_eq!(words(SignedDuration::from_secs(59)), "ends in 59 s");
        assert_eq!(words(SignedDuration::from_secs(7_199)), "ends in 119 min");
        assert_eq!(words(SignedDuration::from_secs(-300)), "ended 5 min ago");
    }
}
