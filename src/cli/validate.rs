//! `lane validate`: every complaint about a spec, touching nothing.

use std::path::PathBuf;

use clap::Args;

use super::lane::load_spec;
use super::{Context, Format};
use crate::error::{Failure, Kind};

/// Check specs and show every complaint at once; touches nothing and opens no socket.
#[derive(Debug, Args)]
pub(super) struct ValidateArgs {
    /// Spec files.
    #[arg(required = true, value_name = "SPEC")]
    specs: Vec<PathBuf>,
    /// What to write.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

pub(super) fn run(context: &Context, args: &ValidateArgs) -> Result<u8, Failure> {
    let mut bad = 0;
    let mut rows = Vec::new();
    for path in &args.specs {
        let loaded = load_spec(context, path);
        let (name, error, unknown) = match &loaded {
            Ok(spec) => {
                let unknown: Vec<String> =
                    crate::inputs::missing(spec).iter().map(|complaint| complaint.message.clone()).collect();
                (Some(spec.name.to_string()), None, unknown)
            }
            Err(failure) => (None, Some(failure.message.clone()), vec![]),
        };
        if let Err(failure) = loaded {
            bad += 1;
            if args.format == Format::Text {
                context.ui.failure(&failure);
            }
        } else if args.format == Format::Text {
            context.ui.line(&format!("{}: valid", path.display()));
            for message in &unknown {
                context.ui.note(&format!("  unknown until apply: {message}"));
            }
        }
        rows.push(serde_json::json!({
            "spec": path.display().to_string(), "lane": name, "valid": error.is_none(), "error": error, "unknown_until_apply": unknown,
        }));
    }
    if args.format == Format::Json {
        let text = serde_json::json!({"format_version": 1, "specs": rows});
        context.ui.line(&serde_json::to_string_pretty(&text).unwrap_or_default());
    }
    if bad > 0 { Err(Failure::new(Kind::Spec, "")) } else { Ok(0) }
}
