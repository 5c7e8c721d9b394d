//! `lane schema`: the JSON schema of a spec.

use clap::Args;

use super::Context;

/// Print the JSON schema of specs, for editors.
#[derive(Debug, Args)]
pub(super) struct SchemaArgs {}

pub(super) fn run(context: &Context, _args: &SchemaArgs) -> u8 {
    let text = serde_json::to_string_pretty(&crate::spec::json_schema()).unwrap_or_default();
    context.ui.line(&text);
    0
}
