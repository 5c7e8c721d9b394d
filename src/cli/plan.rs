//! `lane plan`: what would happen, why, and what it would cost.

use clap::Args;

use super::lane::{PlanOptions, load_spec, make_plan, spec_path};
use super::{Context, Format};
use crate::error::Failure;
use crate::provider::Lineage;
use crate::report;
use crate::state::{LaneDir, Record};

/// Show what `apply` would do, why, and what it would cost; saves the plan for `lane apply`.
#[derive(Debug, Args)]
pub(super) struct PlanArgs {
    /// The spec file.
    #[arg(value_name = "SPEC")]
    spec: String,
    /// Open no socket and run nothing: compare with the record alone, and save nothing.
    #[arg(long)]
    offline: bool,
    /// Exit with 2 when there are changes.
    #[arg(long)]
    detailed_exitcode: bool,
    /// Run this step again, and what depends on it (may be given several times).
    #[arg(long, value_name = "STEP")]
    rerun: Vec<String>,
    /// What to write.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

pub(super) async fn run(context: &Context, args: &PlanArgs) -> Result<u8, Failure> {
    let spec = load_spec(context, &spec_path(context, &args.spec))?;
    let dir = LaneDir::new(&context.state_root, spec.name.as_str());
    let record = match dir.load()? {
        Some(record) => record,
        // Offline leaves no trace: a lineage that was never saved binds nothing.
        None if args.offline => Record::new(spec.name.as_str(), Lineage::fixed("not-born-yet")),
        None => dir.load_or_init(&context.world)?,
    };
    let options = PlanOptions { offline: args.offline, rerun: args.rerun.clone(), with_tests: false };
    let planned = make_plan(context, spec, &dir, &record, &options).await?;
    if !args.offline {
        dir.save_plan(&planned.plan)?;
    }
    match args.format {
        Format::Text => {
            context.ui.out(&report::plan_text::render(&planned.plan, context.ui.colour, context.ui.verbose));
            if !args.offline && !planned.plan.is_empty() {
                context.ui.note("\nSaved. `lane apply` carries it out.");
            }
        }
        Format::Json => {
            let json = report::plan_json::to_json(&planned.plan);
            context.ui.line(&serde_json::to_string_pretty(&json).unwrap_or_default());
        }
    }
    Ok(if args.detailed_exitcode && !planned.plan.is_empty() { 2 } else { 0 })
}
