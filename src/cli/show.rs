//! `lane show`: a lane's record, or its saved plan.

use clap::Args;

use super::lane::find_lane;
use super::{Context, Format};
use crate::error::{Failure, Kind};
use crate::report;
use crate::state::Outcome;

/// Show what is recorded of a lane: its host and the outcome of each step.
#[derive(Debug, Args)]
pub(super) struct ShowArgs {
    /// A spec file or a lane's name; with none, the only lane that has a host.
    #[arg(value_name = "LANE")]
    target: Option<String>,
    /// Show the saved plan instead.
    #[arg(long)]
    plan: bool,
    /// What to write.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

pub(super) fn run(context: &Context, args: &ShowArgs) -> Result<u8, Failure> {
    let none = |what: &str| Failure::new(Kind::Usage, format!("there is no {what} to show"));
    let dir = find_lane(context, args.target.as_deref())?
        .ok_or_else(|| none("lane with a host").hint("`lane list` shows all lanes; name one"))?;
    if args.plan {
        let plan = dir.load_plan()?.ok_or_else(|| none("saved plan").hint("`lane plan SPEC` saves one"))?;
        match args.format {
            Format::Text => {
                context.ui.out(&report::plan_text::render(&plan, context.ui.colour, context.ui.verbose));
            }
            Format::Json => context
                .ui
                .line(&serde_json::to_string_pretty(&report::plan_json::to_json(&plan)).unwrap_or_default()),
        }
        return Ok(0);
    }
    let record = dir.load()?.ok_or_else(|| none("state"))?;
    if args.format == Format::Json {
        context.ui.line(&serde_json::to_string_pretty(&record).unwrap_or_default());
        return Ok(0);
    }
    let mut text =
        format!("lane      {}\nlineage   {}\nserial    {}\n", record.lane, record.lineage, record.serial);
    if let Some(path) = &record.spec_path {
        text.extend([format!("spec      {path}\n")]);
    }
    match &record.host {
        None => text.push_str("host      none\n"),
        Some(host) => {
            let id = host.id.as_ref().map_or("in doubt", |id| id.as_str());
            let address =
                host.address.map_or_else(|| "not known yet".to_owned(), |address| address.to_string());
            text.extend([format!("host      {id} ({} {} in {}, {})\naddress   {address} port {}\ncreated   {}\nlease     until {}\n",
                host.provider,
                host.sku,
                host.region,
                host.image,
                host.ssh_port,
                host.created_at,
                host.expires_at)]);
            if let Some(why) = &host.tainted {
                text.extend([format!("tainted   {why}\n")]);
            }
        }
    }
    let mut rows = vec![["STEP", "OUTCOME", "SECONDS", "AT"].map(str::to_owned)];
    for (id, step) in &record.steps {
        let outcome = match &step.outcome {
            Outcome::Done => "done".to_owned(),
            Outcome::Failed { error } => format!("failed: {}", error.lines().next().unwrap_or_default()),
        };
        let seconds = std::time::Duration::from_millis(step.duration_ms).as_secs_f64();
        rows.push([id.to_string(), outcome, format!("{seconds:.1}"), step.at.to_string()]);
    }
    for (id, doubt) in &record.in_doubt {
        rows.push([id.to_string(), "in doubt".to_owned(), "-".to_owned(), doubt.at.to_string()]);
    }
    if rows.len() > 1 {
        text.push('\n');
        text.push_str(&super::list::columns(&rows));
    }
    context.ui.out(&text);
    Ok(0)
}
