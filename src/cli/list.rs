//! `lane list`: the lanes that have state here.

use clap::Args;

use super::inventory::{self, PlaceArgs};
use super::lane::known_lanes;
use super::{Context, Format};
use crate::error::{Failure, Kind};

/// List the lanes that have state here, or what the clouds hold of ours, recorded or not.
#[derive(Debug, Args)]
pub(super) struct ListArgs {
    /// Ask the providers for everything that carries lane's labels, recorded here or not.
    #[arg(long)]
    cloud: bool,
    #[command(flatten)]
    places: PlaceArgs,
    /// What to write.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

impl ListArgs {
    /// Tells whether more than the state is looked at.
    pub(super) fn asks_clouds(&self) -> bool {
        self.cloud
    }
}

/// Lists what the clouds hold of ours.
pub(super) async fn run_cloud(context: &Context, args: &ListArgs) -> Result<u8, Failure> {
    let inventory = inventory::take(context, &args.places.places(context)?).await?;
    let now = context.world.now();
    let found: Vec<_> = inventory.found.iter().collect();
    match args.format {
        Format::Json => {
            let json = serde_json::json!({
                "format_version": 1, "found": found.iter().map(|found| found.json(now)).collect::<Vec<_>>(),
                "unasked": inventory.unasked.iter().map(ToString::to_string).collect::<Vec<_>>(),
            });
            context.ui.line(&serde_json::to_string_pretty(&json).unwrap_or_default());
        }
        Format::Text if found.is_empty() => context.ui.line("Nothing of ours is there."),
        Format::Text => context.ui.out(&inventory::table(&found, now)),
    }
    let mut unasked = inventory.unasked.into_iter();
    let last = unasked.next_back();
    unasked.for_each(|failure| context.ui.failure(&failure));
    last.map_or(Ok(0), Err)
}

pub(super) fn run(context: &Context, args: &ListArgs) -> Result<u8, Failure> {
    if !args.places.is_empty() {
        return Err(Failure::new(Kind::Usage, "a spec or a provider is only asked with --cloud")
            .hint("`lane list --cloud …`, or `lane list` for the lanes that have state here"));
    }
    let mut rows = Vec::new();
    let mut damaged = None;
    for dir in known_lanes(context)? {
        match dir.load() {
            Ok(Some(record)) => rows.push(record),
            Ok(None) => {}
            // One damaged lane must not hide the others.
            Err(error) => damaged = Some(Failure::from(error)),
        }
    }
    match args.format {
        Format::Json => {
            let lanes: Vec<_> = rows
                .iter()
                .map(|record| {
                    serde_json::json!({
                        "lane": record.lane, "lineage": record.lineage, "serial": record.serial, "host": record.host,
                        "in_doubt": record.in_doubt.keys().collect::<Vec<_>>(),
                    })
                })
                .collect();
            let json = serde_json::json!({"format_version": 1, "lanes": lanes});
            context.ui.line(&serde_json::to_string_pretty(&json).unwrap_or_default());
        }
        Format::Text if rows.is_empty() => {
            context.ui.line(&format!("No lanes in {}.", context.state_root.display()));
        }
        Format::Text => {
            let mut table =
                vec![["LANE", "PROVIDER", "SKU", "ADDRESS", "LEASE ENDS", "STEPS"].map(str::to_owned)];
            for record in &rows {
                let dash = || "-".to_owned();
                let host = record.host.as_ref();
                table.push([
                    record.lane.clone(),
                    host.map_or_else(dash, |host| host.provider.clone()),
                    host.map_or_else(dash, |host| host.sku.to_string()),
                    host.and_then(|host| host.address).map_or_else(dash, |address| address.to_string()),
                    host.map_or_else(dash, |host| host.expires_at.to_string()),
                    steps_in_words(record),
                ]);
            }
            context.ui.out(&columns(&table));
        }
    }
    damaged.map_or(Ok(0), Err)
}

/// Sums up a record's steps in a few words.
pub(super) fn steps_in_words(record: &crate::state::Record) -> String {
    let failed = record
        .steps
        .values()
        .filter(|step| matches!(step.outcome, crate::state::Outcome::Failed { .. }))
        .count();
    let mut words = format!("{} done", record.steps.len() - failed);
    if failed > 0 {
        words.push_str(", ");
        words.extend([format!("{failed} failed")]);
    }
    if !record.in_doubt.is_empty() {
        words.extend([format!(", {} in doubt", record.in_doubt.len())]);
    }
    words
}

/// Aligns rows into columns.
pub(super) fn columns<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let mut text = String::new();
    for row in rows {
        let line: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(line.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::columns;

    #[test]
    fn columns_are_aligned_without_trailing_blanks() {
        let rows = [["a".to_owned(), "b".to_owned()], ["long".to_owned(), "c".to_owned()]];
        assert_eq!(columns(&rows), "a     b\nlong  c\n");
    }
}
