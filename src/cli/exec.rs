//! `lane ssh` and `lane exec`: the operator's own hands on the host.

use std::process::Stdio;

use clap::Args;

use super::Context;
use super::connect::SshConnector;
use super::lane::find_host;
use crate::error::{Failure, Kind};
use crate::transport::quote;

/// Open a shell on the lane's host, over the lane's own keys.
#[derive(Debug, Args)]
pub(super) struct SshArgs {
    /// A spec file or a lane's name; with none, the only lane that has a host.
    #[arg(value_name = "LANE")]
    target: Option<String>,
    /// More words for ssh, before the host's name (`-L 8080:127.0.0.1:8080`).
    #[arg(last = true, value_name = "SSH ARGUMENT")]
    ssh_args: Vec<String>,
}

/// Run a command on the lane's host; each word arrives as it was given.
#[derive(Debug, Args)]
pub(super) struct ExecArgs {
    /// A spec file or a lane's name; with none, the only lane that has a host.
    #[arg(value_name = "LANE")]
    target: Option<String>,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(super) async fn run_ssh(context: &Context, args: &SshArgs) -> Result<u8, Failure> {
    run(context, args.target.as_deref(), &args.ssh_args, None).await
}

pub(super) async fn run_exec(context: &Context, args: &ExecArgs) -> Result<u8, Failure> {
    let words: Result<Vec<String>, _> = args.command.iter().map(|word| quote(word)).collect();
    run(context, args.target.as_deref(), &[], Some(words?.join(" "))).await
}

async fn run(
    context: &Context,
    target: Option<&str>,
    ssh_args: &[String],
    command: Option<String>,
) -> Result<u8, Failure> {
    let (dir, record) = find_host(context, target)?;
    let connector = SshConnector::new(&dir, record.label(), &context.world);
    let Some(host) = &record.host else { return Ok(0) };
    let ssh = connector.open(host)?;
    let mut child = context.world.command("ssh");
    child.arg("-F").arg(ssh.config_path()).args(ssh_args).arg(ssh.host_alias());
    if let Some(command) = command {
        child.arg("--").arg(command);
    }
    let status = child
        .stdin(Stdio::inherit())
        .stdout(Stdio::inherit())
        .stderr(Stdio::inherit())
        .status()
        .await
        .map_err(|error| {
            Failure::new(Kind::Unexpected, format!("ssh cannot be started: {error}"))
                .hint("install an OpenSSH client")
        })?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(255))
}
