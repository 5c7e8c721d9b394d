//! `lane schema`: the JSON schema of a spec.

use clap::Args;

use super::Context;
use crate::error::Failure;

/// Print the JSON schema of specs, for editors.
#[derive(Debug, Args)]
pub(super) struct SchemaArgs {}

pub(super) fn run(context: &Context, _args: &SchemaArgs) -> Result<u8, Failure> {
    let text = serde_json::to_string_pretty(&crate::spec::json_schema()).unwrap_or_default();
    context.ui.line(&text);
    Ok(0)
}
