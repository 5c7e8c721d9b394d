//! `lane logs`: what a step wrote, or a service's journal, or the console.

use std::process::Stdio;

use clap::Args;

use super::Context;
use super::connect::SshConnector;
use super::lane::{connect, find_host, find_lane};
use crate::error::{Failure, Kind};
use crate::plan::StepId;
use crate::spec::{Name, ProviderSpec};
use crate::world::fs;

/// Show the log of a step, the journal of a service, or the host's serial console.
#[derive(Debug, Args)]
pub(super) struct LogsArgs {
    /// A step (`build/mvmd`); with none, the steps that have a log are listed.
    #[arg(value_name = "STEP")]
    step: Option<String>,
    /// A spec file or a lane's name; with none, the only lane that has a host.
    #[arg(long, value_name = "LANE")]
    lane: Option<String>,
    /// The journal of this service on the host.
    #[arg(long, value_name = "NAME", conflicts_with = "step")]
    service: Option<String>,
    /// With `--service`: go on as lines come.
    #[arg(long, short, requires = "service")]
    follow: bool,
    /// The serial console.
    #[arg(long, conflicts_with_all = ["step", "service"])]
    console: bool,
}

pub(super) async fn run(context: &Context, args: &LogsArgs) -> Result<u8, Failure> {
    if args.console {
        return console(context, args).await;
    }
    if let Some(service) = &args.service {
        return journal(context, args, service).await;
    }
    let dir = find_lane(context, args.lane.as_deref())?.ok_or_else(|| {
        Failure::new(Kind::Usage, "no lane has a host")
            .hint("name one: `lane logs --lane NAME`; `lane list` shows them")
    })?;
    let unreadable = |error: std::io::Error| {
        Failure::new(Kind::Unexpected, format!("{} cannot be read: {error}", dir.logs().display()))
    };
    let names: Vec<String> = fs::list(&dir.logs())
        .map_err(unreadable)?
        .into_iter()
        .filter_map(|name| name.strip_suffix(".log").map(str::to_owned))
        .collect();
    let Some(step) = &args.step else {
        for name in names {
            context.ui.line(&name);
        }
        return Ok(0);
    };
    let file = StepId::from_text(step).file_name();
    let path = dir.logs().join(format!("{file}.log"));
    if let Some(bytes) = fs::read_optional(&path).map_err(unreadable)? {
        context.ui.out(&String::from_utf8_lossy(&bytes));
        Ok(0)
    } else {
        let failure = Failure::new(Kind::Usage, format!("step `{step}` of lane `{}` has no log", dir.lane()));
        Err(match crate::spec::closest(&file, names.iter().map(String::as_str)) {
            Some(close) => failure.hint(format!("did you mean `{close}`?")),
            None => failure.hint("`lane logs` lists the steps that have one"),
        })
    }
}

async fn journal(context: &Context, args: &LogsArgs, service: &str) -> Result<u8, Failure> {
    let name = Name::new(service.trim_end_matches(".service"))
        .map_err(|why| Failure::new(Kind::Usage, format!("`{service}` is no service: {why}")))?;
    let (dir, record) = find_host(context, args.lane.as_deref())?;
    let Some(host) = &record.host else { return Ok(0) };
    let ssh = SshConnector::new(&dir, record.label(), &context.world).open(host)?;
    let follow = if args.follow { " --follow" } else { "" };
    let command = format!("sudo -n journalctl --no-pager --output=short-iso --unit={name}.service{follow}");
    let status = context
        .world
        .command("ssh")
        .arg("-F")
        .arg(ssh.config_path())
        .arg(ssh.host_alias())
        .arg("--")
        .arg(command)
        .stdin(Stdio::null())
        .status()
        .await
        .map_err(|error| Failure::new(Kind::Unexpected, format!("ssh cannot be started: {error}")))?;
    Ok(u8::try_from(status.code().unwrap_or(255)).unwrap_or(255))
}

async fn console(context: &Context, args: &LogsArgs) -> Result<u8, Failure> {
    let (_, record) = find_host(context, args.lane.as_deref())?;
    let Some(host) = &record.host else { return Ok(0) };
    let (provider, _) = connect(
        context,
        &ProviderSpec { name: host.provider.clone(), config: host.provider_config.clone() },
    )?;
    let log = match &host.id {
        Some(id) => provider.console_log(id).await?,
        None => None,
    };
    match log {
        Some(log) => context.ui.out(&log),
        None => context.ui.note(&format!("{} keeps no console of this host", host.provider)),
    }
    Ok(0)
}
