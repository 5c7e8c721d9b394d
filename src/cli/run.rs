//! `lane run`: apply, test, destroy whatever happens; the verb for CI.

use clap::Args;

use super::Context;
use super::lane::{ExecuteArgs, load_spec, spec_path};
use crate::error::Failure;
use crate::state::LaneDir;

/// Apply, test, then destroy whatever happened before; fails with the first failure.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// The spec file.
    #[arg(value_name = "SPEC")]
    spec: String,
    /// Leave the host up when something failed, with its lease running.
    #[arg(long)]
    keep_on_failure: bool,
    #[command(flatten)]
    execute: ExecuteArgs,
}

pub(super) async fn run(context: &Context, args: &RunArgs) -> Result<u8, Failure> {
    let spec = load_spec(context, &spec_path(context, &args.spec))?;
    let dir = LaneDir::new(&context.state_root, spec.name.as_str());
    let session = dir.open(&context.world, "run")?;
    let mut outcome = super::apply::apply_unasked(context, &session, spec.clone(), &args.execute).await;
    if outcome.is_ok() && spec.tests.is_some() {
        outcome = super::test::run_tests(context, &session, spec.clone(), &args.execute).await.map(drop);
    }
    if let Err(failure) = &outcome {
        context.ui.failure(failure);
        if args.keep_on_failure {
            context.ui.note("The host is left up, as asked.");
            return Ok(failure.kind.exit_code());
        }
    }
    let destroyed = super::destroy::destroy(context, &session, Some(spec), true, &args.execute).await;
    match (outcome, destroyed) {
        // A host that may still cost money outranks whatever failed before.
        (_, Err(failure)) => Err(failure),
        (Err(failure), Ok(_)) => Ok(failure.kind.exit_code()),
        (Ok(()), Ok(code)) => Ok(code),
    }
}
