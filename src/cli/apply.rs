//! `lane apply`: makes it so; run it again after any failure and it goes on.

use clap::Args;

use super::lane::{
    self, ExecuteArgs, PlanOptions, agree, execute, judge, known_lanes, load_spec, make_plan, spec_path,
};
use super::{Context, Format};
use crate::error::{Failure, Kind};
use crate::plan::{Action, Plan};
use crate::report;
use crate::state::{LaneDir, SharedSession};

/// Make the lane what its spec says; goes on where an earlier run stopped.
#[derive(Debug, Args)]
pub(super) struct ApplyArgs {
    /// The spec file; with none, the plan that `lane plan` saved last.
    #[arg(value_name = "SPEC")]
    spec: Option<String>,
    /// Do not ask.
    #[arg(long, short = 'y')]
    yes: bool,
    /// Run this step again, and what depends on it (may be given several times).
    #[arg(long, value_name = "STEP", requires = "spec")]
    rerun: Vec<String>,
    #[command(flatten)]
    execute: ExecuteArgs,
}

pub(super) async fn run(context: &Context, args: &ApplyArgs) -> Result<u8, Failure> {
    let (spec_file, saved) = if let Some(path) = &args.spec {
        (path.clone(), None)
    } else {
        let plan = newest_plan(context)?;
        (plan.spec.path.clone(), Some(plan))
    };
    let spec = load_spec(context, &spec_path(context, &spec_file))?;
    let dir = LaneDir::new(&context.state_root, spec.name.as_str());
    let session = dir.open(&context.world, "apply")?;
    if let Some(saved) = &saved {
        refuse_stale(saved, &spec, &session)?;
    }
    let options = PlanOptions { rerun: args.rerun.clone(), ..PlanOptions::default() };
    let planned = make_plan(context, spec, &dir, &session.record(), &options).await?;
    if let Some(saved) = &saved
        && let Some(moved) = first_difference(saved, &planned.plan)
    {
        return Err(stale(
            saved,
            &format!("`{moved}` is planned otherwise now: a source, a file or the host has moved"),
        ));
    }
    let text = args.execute.format == Format::Text;
    if text && (saved.is_none() || planned.plan.is_empty()) {
        context.ui.out(&report::plan_text::render(&planned.plan, context.ui.colour, context.ui.verbose));
    }
    if planned.plan.is_empty() {
        if !text {
            context.ui.line(&serde_json::json!({"format_version": 1, "event": "no_changes"}).to_string());
        }
        dir.remove_plan()?;
        return Ok(0);
    }
    let replaces = planned.plan.changes().any(|step| step.action == Action::Replace);
    let question =
        if replaces { "Replace the host, losing what is on it?" } else { "Carry out these steps?" };
    agree(context, args.yes || saved.is_some(), question)?;
    // A plan is applied once, also when it fails half way.
    dir.remove_plan()?;
    session.set_spec_path(planned.spec.source_map.path());
    let summary = execute(context, &session, &planned, &args.execute).await?;
    judge(&session, &summary)?;
    if planned.plan.is_blind() {
        // Now that the host answers, what drifted on it shows.
        let spec = load_spec(context, &spec_path(context, &spec_file))?;
        apply_unasked(context, &session, spec, &args.execute).await?;
    }
    if text {
        context.ui.note(&format!(
            "Lane `{lane}` is up: {} steps done in {:.1} s. `lane ssh {lane}` goes there, `lane destroy {lane}` takes it down.",
            summary.done.len(),
            summary.duration.as_secs_f64(),
            lane = session.dir().lane(),
        ));
    }
    Ok(0)
}

fn newest_plan(context: &Context) -> Result<Plan, Failure> {
    let mut newest: Option<Plan> = None;
    for dir in known_lanes(context)? {
        if let Some(plan) = dir.load_plan()?
            && newest.as_ref().is_none_or(|other| plan.created_at > other.created_at)
        {
            newest = Some(plan);
        }
    }
    newest.ok_or_else(|| {
        Failure::new(Kind::Usage, format!("no plan is saved in {}", context.state_root.display()))
            .hint("`lane plan SPEC` saves one, `lane apply SPEC` plans and applies at once")
    })
}

fn refuse_stale(saved: &Plan, spec: &crate::spec::Spec, session: &SharedSession) -> Result<(), Failure> {
    let record = session.record();
    if saved.lineage != record.lineage.as_str() {
        return Err(stale(saved, "the lane's state was made anew since"));
    }
    if saved.serial != record.serial || !record.in_doubt.is_empty() && saved.serial == 0 {
        return Err(stale(
            saved,
            &format!("it was made on state {}, which is at {} now", saved.serial, record.serial),
        ));
    }
    if saved.spec.digest != spec.digest {
        return Err(stale(saved, "the spec was edited since"));
    }
    Ok(())
}

fn first_difference(saved: &Plan, now: &Plan) -> Option<String> {
    let key = |plan: &Plan| -> Vec<(String, Action, crate::plan::Fingerprint)> {
        plan.steps.iter().map(|step| (step.id.to_string(), step.action, step.fingerprint.clone())).collect()
    };
    let (old, new) = (key(saved), key(now));
    old.iter()
        .find(|step| !new.contains(step))
        .or_else(|| new.iter().find(|step| !old.contains(step)))
        .map(|step| step.0.clone())
}

fn stale(saved: &Plan, why: &str) -> Failure {
    Failure::new(Kind::Locked, format!("the saved plan of lane `{}` is stale: {why}", saved.lane))
        .hint(format!("make a new one: `lane plan {}`", saved.spec.path))
}

/// Applies a spec without asking.
pub(super) async fn apply_unasked(
    context: &Context,
    session: &SharedSession,
    spec: crate::spec::Spec,
    execute_args: &ExecuteArgs,
) -> Result<(), Failure> {
    let dir = session.dir().clone();
    let planned = make_plan(context, spec, &dir, &session.record(), &lane::PlanOptions::default()).await?;
    if execute_args.format == Format::Text {
        context.ui.out(&report::plan_text::render(&planned.plan, context.ui.colour, context.ui.verbose));
    }
    if planned.plan.is_empty() {
        return Ok(());
    }
    session.set_spec_path(planned.spec.source_map.path());
    let summary = execute(context, session, &planned, execute_args).await?;
    judge(session, &summary)
}
