//! `lane completions`: shell completions.

use clap::{Args, CommandFactory};

use super::{Cli, Context};

/// Print completions for a shell.
#[derive(Debug, Args)]
pub(super) struct CompletionsArgs {
    /// Which shell.
    shell: clap_complete::Shell,
}

pub(super) fn run(context: &Context, args: &CompletionsArgs) -> u8 {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "lane", &mut script);
    context.ui.out(&String::from_utf8_lossy(&script));
    0
}
