//! `lane status`: what is recorded against what is really there.

use std::time::Duration;

use clap::Args;

use super::lane::{connect, find_lane, look, recorded_spec};
use super::{Context, Format, lease};
use crate::error::{Failure, Kind};
use crate::plan::{ObservedHost, Rings};
use crate::report::{self, lease::Ring};
use crate::spec::{self, ProviderSpec};

/// Look at a lane's host and services now.
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    /// A spec file or a lane's name; with none, the only lane that has a host.
    #[arg(value_name = "LANE")]
    target: Option<String>,
    /// What to write.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

pub(super) async fn run(context: &Context, args: &StatusArgs) -> Result<u8, Failure> {
    let Some(dir) = find_lane(context, args.target.as_deref())? else {
        context.ui.line("No lane has a host.");
        return Ok(0);
    };
    let Some(record) = dir.load()? else {
        context.ui.line(&format!("Lane `{}` has no state here.", dir.lane()));
        return Ok(0);
    };
    let Some(host) = record.host.clone() else {
        context.ui.line(&format!("Lane `{}` has no host.", record.lane));
        return Ok(0);
    };
    let spec = recorded_spec(context, &record);
    let provider = ProviderSpec { name: host.provider.clone(), config: host.provider_config.clone() };
    let (provider, entry) = connect(context, &provider)?;
    let observed = look(context, &dir, &record, spec.as_ref(), provider.as_ref()).await?;
    let (state, several) = match &observed.host {
        ObservedHost::NotAsked => ("not asked".to_owned(), false),
        ObservedHost::Absent => ("gone: the provider knows no host with this lane's label".to_owned(), false),
        ObservedHost::Present(seen) => (format!("{:?}", seen.status).to_lowercase(), false),
        ObservedHost::Several(hosts) => {
            let ids: Vec<&str> = hosts.iter().map(|host| host.id.as_str()).collect();
            (format!("{} hosts carry this lane's label: {}", hosts.len(), ids.join(", ")), true)
        }
    };
    if args.format == Format::Json {
        let json = serde_json::json!({
            "format_version": 1, "lane": record.lane, "host": host, "state": state, "unreachable": observed.unreachable,
            "view": observed.view, "in_doubt": record.in_doubt.keys().collect::<Vec<_>>(),
        });
        context.ui.line(&serde_json::to_string_pretty(&json).unwrap_or_default());
    } else {
        let mut text = format!(
            "Lane `{}`: {} on {}\n  host     {} ({state})\n  address  {}\n",
            record.lane,
            host.sku,
            host.provider,
            host.id.as_ref().map_or("in doubt", |id| id.as_str()),
            host.address.map_or_else(|| "not known yet".to_owned(), |address| address.to_string()),
        );
        let left = host.expires_at.duration_since(context.world.now());
        let lease = if left.is_negative() {
            "has ended".to_owned()
        } else {
            format!("ends in {} min", left.as_secs() / 60)
        };
        text.extend([format!("  lease    {lease} ({})\n", host.expires_at)]);
        let mut rings = Ring::recorded(Rings::of(&host.provider), true);
        if let ObservedHost::Present(seen) = &observed.host {
            let on_host = match &observed.unreachable {
                Some(why) => Some(Err(why.clone())),
                None => lease::on_host(context, &dir, record.label(), &host, entry).await,
            };
            rings = lease::rings_seen(entry, seen.expires_at, on_host.as_ref());
            text.extend([format!("  ends by  {}\n", report::lease::rings(rings))]);
        }
        if let Some(price) = spec::price(spec.as_ref(), entry, &host.sku, &host.region) {
            text.extend([format!("  price    {} per hour ({})\n", price.per_hour, price.source)]);
            let worst = price.per_hour.for_duration(Duration::try_from(left).unwrap_or_default()).to_string();
            let until = host.expires_at.to_string();
            text.extend([format!(
                "  cost     {}\n",
                report::lease::if_you_vanish(&worst, &until, true, rings)
            )]);
        }
        text.extend([format!("  steps    {}\n", super::list::steps_in_words(&record))]);
        if let Some(why) = &observed.unreachable {
            text.extend([format!("  host does not answer: {why}\n")]);
        }
        if let Some(view) = &observed.view {
            for (name, service) in &view.services {
                text.extend([format!(
                    "  service  {name}: {} ({}), {}\n",
                    service.active, service.sub, service.enabled
                )]);
            }
        }
        context.ui.out(&text);
    }
    if several {
        return Err(Failure::new(Kind::MayCost, "more than one host carries this lane's label")
            .hint(format!("`lane destroy {}` takes all of them down", record.lane)));
    }
    Ok(0)
}
