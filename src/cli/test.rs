//! `lane test`: runs the test suite on a lane that is up.

use clap::Args;

use super::Context;
use super::lane::{
    ExecuteArgs, PlanOptions, execute, find_host, is_path, judge, load_spec, make_plan, recorded_spec,
    spec_path,
};
use crate::error::{Failure, Kind};
use crate::plan::{Action, Verb, Work};
use crate::spec::Spec;
use crate::state::{LaneDir, SharedSession};

/// Run the spec's tests on the lane's host and bring their `JUnit` file back.
#[derive(Debug, Args)]
pub(super) struct TestArgs {
    /// A spec file or a lane's name; with none, the only lane that has a host.
    #[arg(value_name = "LANE")]
    target: Option<String>,
    #[command(flatten)]
    execute: ExecuteArgs,
}

pub(super) async fn run(context: &Context, args: &TestArgs) -> Result<u8, Failure> {
    let spec = match &args.target {
        Some(target) if is_path(target) => load_spec(context, &spec_path(context, target))?,
        target => {
            let (_, record) = find_host(context, target.as_deref())?;
            recorded_spec(context, &record).ok_or_else(|| {
                Failure::new(
                    Kind::Spec,
                    format!("the spec of lane `{}` cannot be read any more", record.lane),
                )
                .hint("name the spec's file: `lane test SPEC`")
            })?
        }
    };
    let dir = LaneDir::new(&context.state_root, spec.name.as_str());
    let session = dir.open(&context.world, "test")?;
    run_tests(context, &session, spec, &args.execute).await
}

/// Runs the tests of the lane of a held lock.
pub(super) async fn run_tests(
    context: &Context,
    session: &SharedSession,
    spec: Spec,
    execute_args: &ExecuteArgs,
) -> Result<u8, Failure> {
    if spec.tests.is_none() {
        return Err(Failure::new(Kind::Spec, format!("lane `{}` has no `tests` in its spec", spec.name))
            .hint("add `tests: {run: …}`"));
    }
    let dir = session.dir().clone();
    let options = PlanOptions { with_tests: true, rerun: vec!["tests".to_owned()], ..PlanOptions::default() };
    let mut planned = make_plan(context, spec, &dir, &session.record(), &options).await?;
    let behind: Vec<String> = planned
        .plan
        .changes()
        .filter(|step| step.work != Work::Tests)
        .map(|step| step.id.to_string())
        .collect();
    if !behind.is_empty() {
        return Err(Failure::new(
            Kind::Locked,
            format!("lane `{}` is not what its spec says: {}", planned.spec.name, behind.join(", ")),
        )
        .hint("`lane apply` first"));
    }
    planned.plan.verb = Verb::Test;
    for step in &mut planned.plan.steps {
        if step.work == Work::Tests && step.action == Action::NoOp {
            step.action = Action::Rerun;
        }
    }
    let summary = execute(context, session, &planned, execute_args).await?;
    judge(session, &summary)?;
    Ok(0)
}
