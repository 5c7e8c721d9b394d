//! `lane sweep`: takes down what carries our labels, recorded here or not.

use std::time::Duration;

use clap::Args;
use futures_util::{StreamExt as _, stream};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::inventory::{self, Found, PlaceArgs};
use super::lane::agree;
use super::{Context, Format};
use crate::apply::cloud::Cloud;
use crate::apply::sweep::{Choice, Left, Sweep};
use crate::error::{Failure, Kind};

/// How long taking down one host may take.
const LIMIT: Duration = Duration::from_mins(15);
/// Lanes taken down side by side: most of the time goes into waits for listings to catch up.
const AT_ONCE: usize = 4;

/// Take down what carries lane's labels, with or without state here; verifies that it is gone.
///
/// Nothing is swept without one of --expired, --lane and --all.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("selection").required(true).args(["expired", "lane", "all"]))]
pub(super) struct SweepArgs {
    #[command(flatten)]
    places: PlaceArgs,
    /// What has an ended lease, and what was left a day ago by a host that is gone.
    #[arg(long)]
    expired: bool,
    /// Everything of the lanes of this name, whoever made them.
    #[arg(long, value_name = "NAME")]
    lane: Option<String>,
    /// Everything that carries lane's labels, of any lane.
    #[arg(long)]
    all: bool,
    /// Show what would go, and touch nothing.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(long, short = 'y')]
    yes: bool,
    /// What to write.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

impl SweepArgs {
    fn choice(&self) -> Choice {
        match &self.lane {
            Some(lane) => Choice::Lane(lane.clone()),
            None if self.all => Choice::All,
            None => Choice::Expired,
        }
    }
}

pub(super) async fn run(context: &Context, args: &SweepArgs) -> Result<u8, Failure> {
    let began = context.world.now();
    let inventory = inventory::take(context, &args.places.places(context)?).await?;
    let (choice, now) = (args.choice(), context.world.now());
    let chosen: Vec<&Found> =
        inventory.found.iter().filter(|found| choice.selects(&found.thing, now)).collect();
    let text = args.format == Format::Text;
    if text {
        let rest = inventory.found.len() - chosen.len();
        let rest = if rest == 0 {
            String::new()
        } else {
            format!(" {rest} more stay; `lane list --cloud` shows them.")
        };
        if chosen.is_empty() {
            context.ui.line(&format!("Nothing to sweep.{rest}"));
        } else {
            context.ui.out(&inventory::table(&chosen, now));
            context.ui.note(rest.trim_start());
        }
    }
    let (mut gone, mut left) = (Vec::new(), Vec::new());
    if !args.dry_run && !chosen.is_empty() {
        agree(context, args.yes, &format!("Take down all {} of these for good?", chosen.len()))?;
        let receipts = context.state_root.join("sweeps");
        let take = async |found: &Found| {
            let abort = CancellationToken::new();
            let sweep = Sweep {
                cloud: Cloud { spec: found.spec.as_deref(), ..found.place.cloud(context, &abort) },
                choice: &choice,
                began,
                receipts: &receipts,
                limit: LIMIT,
            };
            let taken = sweep.take_down(&found.thing).await;
            match &taken {
                Ok(Some(_)) if text => {
                    context.ui.line(&format!("{} is gone, verified twice", found.name()));
                }
                Ok(None) => context.ui.note(&format!("{} was gone already, or may stay", found.name())),
                _ => {}
            }
            (found.name(), taken)
        };
        let take_all = async |of_lane: Vec<&Found>| {
            let mut taken = Vec::new();
            for found in of_lane {
                taken.push(take(found).await);
            }
            taken
        };
        let all: Vec<_> = by_lane(&chosen).into_iter().map(take_all).collect();
        let all: Vec<_> = stream::iter(all).buffered(AT_ONCE).collect().await;
        for (name, taken) in all.into_iter().flatten() {
            match taken {
                Ok(receipt) => gone.extend(receipt),
                Err(why) => left.push((name, why)),
            }
        }
    }
    if !text {
        let left: Vec<_> = left
            .iter()
            .map(|(name, Left::Locked(why) | Left::MayCost(why))| json!({"name": name, "why": why}))
            .collect();
        let json = json!({
            "format_version": 1, "dry_run": args.dry_run,
            "found": chosen.iter().map(|found| found.json(now)).collect::<Vec<_>>(),
            "gone": gone, "left": left,
            "unasked": inventory.unasked.iter().map(ToString::to_string).collect::<Vec<_>>(),
        });
        context.ui.line(&serde_json::to_string_pretty(&json).unwrap_or_default());
    }
    verdict(context, &left, inventory.unasked, args.dry_run)
}

/// Groups what belongs to one lane of this machine: its lock lets one in at a time.
fn by_lane<'f>(chosen: &[&'f Found]) -> Vec<Vec<&'f Found>> {
    let mut groups: Vec<Vec<&Found>> = Vec::new();
    let lane = |found: &Found| found.thing.recorded.as_ref().map(|(dir, _)| dir.lane().to_owned());
    for found in chosen {
        let same = |group: &&mut Vec<&Found>| lane(found).is_some() && lane(group[0]) == lane(found);
        match groups.iter_mut().find(same) {
            Some(group) => group.push(found),
            None => groups.push(vec![found]),
        }
    }
    groups
}

fn verdict(
    context: &Context,
    left: &[(String, Left)],
    unasked: Vec<Failure>,
    dry_run: bool,
) -> Result<u8, Failure> {
    let mut worst: Option<Kind> = None;
    for (name, why) in left {
        let (kind, why) = match why {
            Left::Locked(why) => (Kind::Locked, why),
            Left::MayCost(why) => (Kind::MayCost, why),
        };
        context.ui.failure(&Failure::new(kind, format!("{name}: {why}")));
        worst = Some(if kind == Kind::MayCost { kind } else { worst.unwrap_or(kind) });
    }
    for failure in unasked {
        context.ui.failure(&failure);
        // Nobody looked, so nobody knows what runs there.
        worst = Some(if dry_run { failure.kind } else { Kind::MayCost });
    }
    match worst {
        None => Ok(0),
        Some(Kind::Locked) => {
            Err(Failure::new(Kind::Locked, "not everything could be swept: a lane is at work")
                .hint("run it again when that one has ended"))
        }
        Some(kind) => Err(Failure::new(kind, "not everything could be swept")
            .hint("mend what is named above and run it again: what is gone already is no obstacle")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    use super::*;
    use crate::apply::sweep::{self, What};
    use crate::cli::inventory::Place;
    use crate::provider::{HostId, Lineage, Link, by_name};
    use crate::state::{LaneDir, Record};
    use crate::world::{SystemClock, World};

    #[test]
    fn what_one_lock_guards_goes_one_after_the_other_and_the_rest_side_by_side() {
        let world = World::fixed(Arc::new(SystemClock), BTreeMap::new(), PathBuf::from("/"));
        let entry = by_name("nspawn").unwrap();
        let provider: Arc<_> = (entry.connect)(&world, &json!({}), Link::Network).unwrap().into();
        let found = |lane: Option<&str>| Found {
            place: Place { entry, provider: Arc::clone(&provider) },
            thing: sweep::Found {
                what: What::Orphan { host: HostId::fixed("h"), parts: vec![] },
                recorded: lane.map(|lane| {
                    let record = Record::new(lane, Lineage::fixed("01j00000000000000000000000"));
                    (LaneDir::new(Path::new("state"), lane), Box::new(record))
                }),
            },
            spec: None,
        };
        let all = [Some("a"), None, Some("b"), Some("a"), None].map(found);
        let chosen: Vec<&Found> = all.iter().collect();
        let sizes: Vec<usize> = by_lane(&chosen).iter().map(Vec::len).collect();
        assert_eq!(sizes, [2, 1, 1, 1]);
    }
}
