//! `lane graph`: a spec's steps as a drawing.

use clap::{Args, ValueEnum};

use super::Context;
use super::lane::{PlanOptions, load_spec, make_plan, spec_path};
use crate::error::Failure;
use crate::provider::Lineage;
use crate::report;
use crate::state::{LaneDir, Record};

/// How a graph is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum GraphFormat {
    /// Layers of text.
    Text,
    /// Graphviz.
    Dot,
    /// Mermaid, as GitHub draws it.
    Mermaid,
}

/// Draw a spec's steps and what waits for what; opens no socket.
#[derive(Debug, Args)]
pub(super) struct GraphArgs {
    /// The spec file.
    #[arg(value_name = "SPEC")]
    spec: String,
    /// What to write.
    #[arg(long, value_enum, default_value = "text")]
    format: GraphFormat,
}

pub(super) async fn run(context: &Context, args: &GraphArgs) -> Result<u8, Failure> {
    let spec = load_spec(context, &spec_path(context, &args.spec))?;
    let dir = LaneDir::new(&context.state_root, spec.name.as_str());
    let record =
        dir.load()?.unwrap_or_else(|| Record::new(spec.name.as_str(), Lineage::fixed("not-born-yet")));
    let options = PlanOptions { offline: true, with_tests: spec.tests.is_some(), ..PlanOptions::default() };
    let planned = make_plan(context, spec, &dir, &record, &options).await?;
    context.ui.out(&match args.format {
        GraphFormat::Text => report::graph::text(&planned.plan),
        GraphFormat::Dot => report::graph::dot(&planned.plan),
        GraphFormat::Mermaid => report::graph::mermaid(&planned.plan),
    });
    Ok(0)
}
