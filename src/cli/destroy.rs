//! `lane destroy`: takes the host down, and proves that nothing is left.

use std::path::Path;
use std::sync::Arc;

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::inventory::Place;
use super::lane::{
    ExecuteArgs, Run, agree, connect, execute_with, find_lane, is_path, judge, look, recorded_spec,
};
use super::{Context, Format};
use crate::error::{Failure, Kind, of_step};
use crate::inputs::Inputs;
use crate::plan::{self, Observed, ObservedHost};
use crate::provider::{Label, Selector};
use crate::report;
use crate::spec::{self, ProviderSpec, Spec};
use crate::state::{LaneDir, SharedSession, StateError};

/// Take a lane's host down and verify that nothing of it is left.
#[derive(Debug, Args)]
pub(super) struct DestroyArgs {
    /// A spec file or a lane's name; with none, the only lane that has a host.
    #[arg(value_name = "LANE")]
    target: Option<String>,
    /// Do not ask.
    #[arg(long, short = 'y')]
    yes: bool,
    #[command(flatten)]
    execute: ExecuteArgs,
}

pub(super) async fn run(context: &Context, args: &DestroyArgs) -> Result<u8, Failure> {
    let spec = match &args.target {
        Some(target) if is_path(target) => Some(super::lane::load_spec(context, Path::new(target))?),
        _ => None,
    };
    let dir = match &spec {
        Some(spec) => Some(LaneDir::new(&context.state_root, spec.name.as_str())),
        None => find_lane(context, args.target.as_deref())?,
    };
    let Some(dir) = dir else {
        return Ok(nothing(context, args.execute.format, "no lane has a host"));
    };
    if dir.load().map_err(unread)?.is_none() {
        if let Some(spec) = &spec {
            unrecorded(context, spec).await?;
        }
        return Ok(nothing(
            context,
            args.execute.format,
            &format!("lane `{}` has no state here", dir.lane()),
        ));
    }
    let session = dir.open(&context.world, "destroy").map_err(unread)?;
    destroy(context, &session, spec, args.yes, &args.execute).await
}

/// Words state that cannot be read: nobody knows whether it holds a host.
fn unread(error: StateError) -> Failure {
    match error {
        StateError::Locked { .. } => error.into(),
        other => Failure { kind: Kind::MayCost, ..other.into() },
    }
}

/// Without state nobody can say which host is this lane's; where something carries its name, a person has to.
async fn unrecorded(context: &Context, spec: &Spec) -> Result<(), Failure> {
    let (provider, entry) = connect(context, &spec.provider)?;
    let (place, abort) = (Place { entry, provider }, CancellationToken::new());
    let cloud = place.cloud(context, &abort);
    let failed = |error| of_step(&error, error.to_string());
    // In this order: a host that is made in between is listed as a host.
    let residue = cloud.residue(&Selector::Owned).await.map_err(failed)?;
    let hosts = cloud.find_owned().await.map_err(failed)?;
    let is_named = |label: &Label| label.lane == spec.name.as_str();
    let hosts = hosts.iter().filter(|host| is_named(&host.label)).map(|host| format!("host {}", host.id));
    let parts = residue.iter().filter(|part| part.label.as_ref().is_some_and(is_named));
    let found: Vec<String> = hosts.chain(parts.map(ToString::to_string)).collect();
    if found.is_empty() {
        return Ok(());
    }
    let message = format!(
        "lane `{}` has no state here, and what carries its name may still cost money: {}",
        spec.name,
        found.join(", ")
    );
    Err(Failure::new(Kind::MayCost, message)
        .hint(format!("`lane sweep {} --lane {}` takes it down", spec.source_map.path().display(), spec.name))
        .hint("`lane state adopt` and `lane state repair` give a host its record back"))
}

fn nothing(context: &Context, format: Format, why: &str) -> u8 {
    match format {
        Format::Text => context.ui.line(&format!("Nothing to destroy: {why}.")),
        Format::Json => {
            context.ui.line(
                &serde_json::json!({"format_version": 1, "event": "nothing_to_destroy", "why": why})
                    .to_string(),
            );
        }
    }
    0
}

/// Destroys the lane of a held lock; what fails while a host is recorded may still cost money.
pub(super) async fn destroy(
    context: &Context,
    session: &SharedSession,
    spec: Option<Spec>,
    yes: bool,
    execute_args: &ExecuteArgs,
) -> Result<u8, Failure> {
    let ended = attempt(context, session, spec, yes, execute_args).await;
    ended.map_err(|failure| {
        if failure.kind == Kind::Usage || session.record().host.is_none() {
            return failure;
        }
        Failure { kind: Kind::MayCost, ..failure }
            .hint(format!("the host may still run: run `lane destroy {}` again", session.dir().lane()))
    })
}

async fn attempt(
    context: &Context,
    session: &SharedSession,
    spec: Option<Spec>,
    yes: bool,
    execute_args: &ExecuteArgs,
) -> Result<u8, Failure> {
    // After a failed write the record may not show all that was begun.
    session.check()?;
    let record = session.record();
    let spec = spec.or_else(|| recorded_spec(context, &record));
    // What was really made counts; the spec may have moved to another provider since.
    let provider = match (&record.host, &spec) {
        (Some(host), _) => {
            Some(ProviderSpec { name: host.provider.clone(), config: host.provider_config.clone() })
        }
        (None, Some(spec)) => Some(spec.provider.clone()),
        (None, None) => None,
    };
    let Some(provider) = provider else {
        return Ok(nothing(context, execute_args.format, &format!("lane `{}` has no host", record.lane)));
    };
    let (connected, entry) = connect(context, &provider)?;
    // The host itself need not be asked: it goes down whatever it says.
    let looked = look(
        context,
        session.dir(),
        &crate::state::Record { steps: std::collections::BTreeMap::new(), ..record.clone() },
        None,
        connected.as_ref(),
    )
    .await;
    let observed = match looked {
        Ok(observed) => observed,
        // The step asks with more patience, and knows the host's name.
        Err(failure) if record.host.is_some() => {
            context.ui.warn(&format!("nobody knows yet what is there: {failure}"));
            Observed { host: ObservedHost::NotAsked, view: None, unreachable: None }
        }
        Err(failure) => return Err(failure),
    };
    let timeout = spec.as_ref().map_or(std::time::Duration::from_mins(15), |spec| spec.timeouts.destroy);
    let price =
        record.host.as_ref().and_then(|host| spec::price(spec.as_ref(), entry, &host.sku, &host.region));
    let plan = plan::diff_destroy(&record, &observed, price.as_ref(), timeout, context.world.now());
    if plan.is_empty() {
        return Ok(nothing(context, execute_args.format, &format!("lane `{}` has no host", record.lane)));
    }
    if execute_args.format == Format::Text {
        context.ui.out(&report::plan_text::render(&plan, context.ui.colour, context.ui.verbose));
    }
    agree(context, yes, &format!("Destroy the host of lane `{}`?", record.lane))?;
    let run =
        Run { spec: spec.map(Arc::new), inputs: Arc::new(Inputs::default()), provider: connected, entry };
    let summary = execute_with(context, session, run, &plan, execute_args).await?;
    judge(session, &summary)?;
    session.dir().remove_plan()?;
    if execute_args.format == Format::Text {
        context.ui.note(&format!(
            "Lane `{}` is gone, verified, in {:.1} s.",
            record.lane,
            summary.duration.as_secs_f64()
        ));
    }
    Ok(0)
}
