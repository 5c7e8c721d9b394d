//! The `lane` program: arguments in, exit code out. Decides nothing.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(lane::cli::main())
}
