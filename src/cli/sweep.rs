//! `lane sweep`: takes down what carries our labels, recorded here or not.

use std::time::Duration;

use clap::Args;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::inventory::{self, Found, PlaceArgs, What};
use super::lane::agree;
use super::{Context, Format};
use crate::apply::cloud::Cloud;
use crate::apply::receipt::Receipt;
use crate::apply::steps::StepError;
use crate::error::{Failure, Kind};
use crate::provider::HostId;
use crate::state::StateError;

/// How long taking down one host may take.
const LIMIT: Duration = Duration::from_mins(15);

/// From this age on, what is left of a host that is gone was not left by a create that is under way.
const ORPHAN_AGE: SignedDuration = SignedDuration::from_hours(24);

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
    fn selects(&self, found: &Found, now: Timestamp) -> bool {
        if let Some(lane) = &self.lane {
            return found.lane() == Some(lane);
        }
        self.all || is_expired(found, now)
    }
}

/// Without an end that the cloud shows, nothing is taken for ended.
fn is_expired(found: &Found, now: Timestamp) -> bool {
    match &found.what {
        What::Lane { .. } => found.expires_at().is_some_and(|end| end <= now),
        What::Orphan { parts, .. } => parts
            .iter()
            .all(|part| part.created_at.is_some_and(|made| now.duration_since(made) >= ORPHAN_AGE)),
    }
}

/// Why something is still there.
enum Left {
    /// A `lane` works on it.
    Locked(String),
    /// It may still cost money.
    MayCost(String),
}

pub(super) async fn run(context: &Context, args: &SweepArgs) -> Result<u8, Failure> {
    let inventory = inventory::take(context, &args.places.places(context)?).await?;
    let now = context.world.now();
    let chosen: Vec<&Found> = inventory.found.iter().filter(|found| args.selects(found, now)).collect();
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
        for found in &chosen {
            match take_down(context, args, found).await {
                Ok(Some(receipt)) => {
                    if text {
                        context.ui.line(&format!("{} is gone, verified twice", found.name()));
                    }
                    gone.push(receipt);
                }
                Ok(None) => context.ui.note(&format!("{} was gone already, or may stay", found.name())),
                Err(why) => left.push((found.name(), why)),
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

/// Takes one thing down; `None` when it has gone by itself, or its lease was extended in the meantime.
async fn take_down(context: &Context, args: &SweepArgs, found: &Found) -> Result<Option<Receipt>, Left> {
    let abort = CancellationToken::new();
    let cloud = Cloud { spec: found.spec.as_deref(), ..found.place.cloud(context, &abort) };
    let may_cost = |error: StepError| Left::MayCost(error.to_string());
    let label = match &found.what {
        What::Orphan { host, .. } => return cloud.clear(host, LIMIT).await.map(Some).map_err(may_cost),
        What::Lane { label, .. } => label,
    };
    // Time has passed since the listing, and other sweeps and applies do not wait for this one.
    let hosts = cloud.find(label).await.map_err(may_cost)?;
    let fresh = |host: &crate::provider::Host| {
        args.expired && host.expires_at.is_none_or(|end| end > context.world.now())
    };
    if hosts.iter().all(fresh) {
        return Ok(None);
    }
    let folder = match &found.recorded {
        Some((dir, _)) => dir.logs(),
        None => context.state_root.join("sweeps"),
    };
    // State that knows this lineage hears of it, and its lock keeps a running `lane` out of the way.
    let session = match &found.recorded {
        None => None,
        Some((dir, _)) => Some(dir.open(&context.world, "sweep").map_err(|error| match error {
            StateError::Locked { .. } => Left::Locked(error.to_string()),
            other => Left::MayCost(other.to_string()),
        })?),
    };
    // What is recorded of a host made elsewhere, or of one that stays, does not end with this one.
    let goes = |id: &HostId| hosts.iter().any(|host| host.id == *id && !fresh(host));
    let journal = session.as_ref().filter(|session| {
        session
            .record()
            .host
            .is_none_or(|host| host.provider == found.place.entry.name && host.id.as_ref().is_none_or(goes))
    });
    if let Some(session) = journal {
        let record = session.record();
        if args.expired && record.host.as_ref().is_some_and(|host| host.expires_at > context.world.now()) {
            return Ok(None);
        }
        let id = record.host.and_then(|host| host.id);
        let journaled = session.append(crate::state::JournalEvent::DestroyIntended { id });
        journaled.map_err(|error| Left::MayCost(error.to_string()))?;
    }
    let (receipt, spared) = cloud.take_down_unless(label, None, LIMIT, &fresh).await.map_err(may_cost)?;
    if let Some(session) = journal.filter(|_| !spared) {
        let journaled =
            session.append(crate::state::JournalEvent::HostGone {}).and_then(|()| session.checkpoint());
        journaled.map_err(|error| Left::MayCost(format!("it is gone, but not recorded as such: {error}")))?;
    }
    match receipt.file(&folder) {
        Ok(filed) => {
            context.ui.note(&format!("  receipt: {}, sha256 {}", filed.path.display(), filed.sha256));
        }
        Err(error) => context.ui.warn(&format!("no receipt in {}: {error}", folder.display())),
    }
    Ok(Some(receipt))
}
