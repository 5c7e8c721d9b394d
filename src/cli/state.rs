//! `lane state`: care for what is recorded, when something went wrong that no run mends by itself.

use clap::{Args, Subcommand};

use super::Context;
use super::inventory::Place;
use super::lane::{agree, connect, find_lane, is_path, load_spec, recorded_spec};
use super::show::{self, ShowArgs};
use crate::apply::cloud::check_scope;
use crate::error::{Failure, Kind, of_step};
use crate::plan::{Digest, Fingerprint, StepId, Work};
use crate::provider::{ClientToken, Host, Lineage};
use crate::spec::{ProviderSpec, Spec};
use crate::state::{HostRecord, JournalEvent, LaneDir, Record, SharedSession, StateError};
use crate::transport::LaneKeys;

/// Care for a lane's recorded state.
#[derive(Debug, Args)]
pub(super) struct StateArgs {
    #[command(subcommand)]
    verb: StateVerb,
}

#[derive(Debug, Subcommand)]
enum StateVerb {
    /// Show the record; the same as `lane show`.
    Show(ShowArgs),
    /// List what is recorded: the host and every step, one a line.
    List(TargetArgs),
    /// Say who holds the lane's lock, and clear away what a dead holder left.
    Unlock(UnlockArgs),
    /// Forget outcomes of steps, so that they run again, or the host, without destroying it.
    Forget(ForgetArgs),
    /// Record the host that carries the lane's label, when no record knows it.
    Adopt(AdoptArgs),
    /// Make a damaged or lost record again, from its backups, its journals and the cloud.
    Repair(RepairArgs),
}

#[derive(Debug, Args)]
struct TargetArgs {
    /// A spec file or a lane's name; with none, the only lane that has a host.
    #[arg(value_name = "LANE")]
    target: Option<String>,
}

#[derive(Debug, Args)]
struct UnlockArgs {
    /// A spec file or a lane's name.
    #[arg(value_name = "LANE")]
    target: String,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("what").required(true).args(["steps", "host"]))]
struct ForgetArgs {
    /// A spec file or a lane's name.
    #[arg(value_name = "LANE")]
    target: String,
    /// Steps whose outcome is forgotten.
    #[arg(value_name = "STEP")]
    steps: Vec<String>,
    /// Forget the host; it stays where it is, and goes on costing money until somebody takes it down.
    #[arg(long)]
    host: bool,
    /// Do not ask.
    #[arg(long, short = 'y')]
    yes: bool,
    /// Say what would be forgotten, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
struct AdoptArgs {
    /// The lane's spec file.
    #[arg(value_name = "SPEC")]
    spec: String,
    /// Which host, where several carry the label.
    #[arg(value_name = "HOST_ID")]
    id: Option<String>,
    /// Say what would be recorded, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, Args)]
struct RepairArgs {
    /// A spec file or a lane's name.
    #[arg(value_name = "LANE")]
    target: String,
    /// The lineage, where no file names it any more; `lane list --cloud --format json` shows it.
    #[arg(long, value_name = "LINEAGE", value_parser = whole_lineage)]
    lineage: Option<Lineage>,
    /// Say what could be made again, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

/// A shortened lineage would name a host that no listing could ever be asked for.
fn whole_lineage(text: &str) -> Result<Lineage, String> {
    let text = text.to_ascii_lowercase();
    match ulid::Ulid::from_string(&text) {
        Ok(_) => Ok(Lineage::new(text)),
        Err(_) => Err("it has 26 characters; `lane list --cloud --format json` shows it whole".to_owned()),
    }
}

pub(super) async fn run(context: &Context, args: &StateArgs) -> Result<u8, Failure> {
    match &args.verb {
        StateVerb::Show(args) => show::run(context, args),
        StateVerb::List(args) => list(context, args),
        StateVerb::Unlock(args) => unlock(context, args),
        StateVerb::Forget(args) => forget(context, args),
        StateVerb::Adopt(args) => adopt(context, args).await,
        StateVerb::Repair(args) => repair(context, args).await,
    }
}

/// Finds a lane's folder without reading what is in it: that may be what is to be mended.
fn folder(context: &Context, target: &str) -> Result<LaneDir, Failure> {
    if is_path(target) {
        let spec = load_spec(context, std::path::Path::new(target))?;
        return Ok(LaneDir::new(&context.state_root, spec.name.as_str()));
    }
    let dir = LaneDir::new(&context.state_root, target);
    if crate::spec::Name::new(target).is_ok() && crate::world::fs::exists(dir.path()) {
        return Ok(dir);
    }
    find_lane(context, Some(target))?.ok_or_else(|| Failure::new(Kind::Usage, format!("no lane `{target}`")))
}

fn list(context: &Context, args: &TargetArgs) -> Result<u8, Failure> {
    let Some(dir) = find_lane(context, args.target.as_deref())? else { return Ok(0) };
    let Some(record) = dir.load()? else { return Ok(0) };
    if let Some(host) = &record.host {
        let id = host.id.as_ref().map_or("in doubt", |id| id.as_str());
        context.ui.line(&format!("host {id}"));
    }
    let mut steps: Vec<&StepId> = record.steps.keys().chain(record.in_doubt.keys()).collect();
    steps.sort();
    steps.dedup();
    for step in steps {
        context.ui.line(step.as_str());
    }
    Ok(0)
}

/// The kernel gives a lock back when its process ends, so a held one has a living holder and is never broken.
fn unlock(context: &Context, args: &UnlockArgs) -> Result<u8, Failure> {
    let dir = folder(context, &args.target)?;
    let stale = dir.holder_path();
    match dir.probe_lock() {
        Ok(()) if !crate::world::fs::exists(&stale) => {
            context.ui.line(&format!("Lane `{}` is not locked.", dir.lane()));
        }
        Ok(()) if args.dry_run => {
            context.ui.line(&format!("Would remove {}: its process is dead.", stale.display()));
        }
        Ok(()) => {
            crate::world::fs::remove_file(&stale).map_err(|error| {
                Failure::new(Kind::Unexpected, format!("{} cannot be removed: {error}", stale.display()))
            })?;
            context
                .ui
                .line(&format!("Lane `{}` is not locked; removed what its dead holder left.", dir.lane()));
        }
        Err(error @ StateError::Locked { .. }) => {
            return Err(Failure::from(error)
                .hint("a lock goes with its process: end that one (Ctrl-C saves its state) and nothing is left to unlock"));
        }
        Err(error) => return Err(error.into()),
    }
    Ok(0)
}

fn forget(context: &Context, args: &ForgetArgs) -> Result<u8, Failure> {
    let dir = folder(context, &args.target)?;
    let session = dir.open(&context.world, "state forget")?;
    let record = session.record();
    if args.host {
        let host = record.host.as_ref().ok_or_else(|| {
            Failure::new(Kind::Usage, format!("lane `{}` has no host to forget", record.lane))
        })?;
        let Some(id) = &host.id else {
            return Err(Failure::new(
                Kind::Usage,
                "its create is in doubt, and nobody could find that host again",
            )
            .hint("`lane apply` or `lane destroy` settles it first"));
        };
        if record.in_doubt.contains_key(&Work::Destroy.id()) {
            return Err(Failure::new(Kind::Usage, format!("the destroy of host {id} was begun"))
                .hint("`lane destroy` finishes it and looks for what is left; nobody else would"));
        }
        let what = format!("host {id} ({}) at {}", record.label(), host.provider);
        if args.dry_run {
            context.ui.line(&format!("Would forget {what} and all that was done on it."));
            return Ok(0);
        }
        context
            .ui
            .warn(&format!("{what} is not destroyed: it goes on costing money until somebody takes it down"));
        agree(context, args.yes, "Forget it all the same?")?;
        session.append(JournalEvent::HostForgotten {})?;
        session.checkpoint()?;
        context
            .ui
            .line(&format!("Forgot {what}. `lane list --cloud` still shows it, `lane sweep` takes it down."));
        return Ok(0);
    }
    let mut steps = Vec::new();
    for name in &args.steps {
        let step = StepId::from_text(name);
        if !record.steps.contains_key(&step) && !record.in_doubt.contains_key(&step) {
            let known = record.steps.keys().chain(record.in_doubt.keys()).map(StepId::as_str);
            let failure = Failure::new(Kind::Usage, format!("nothing is recorded of a step `{name}`"));
            return Err(match crate::spec::closest(name, known) {
                Some(close) => failure.hint(format!("did you mean `{close}`?")),
                None => failure.hint(format!("`lane state list {}` shows what is", record.lane)),
            });
        }
        steps.push(step);
    }
    let names = args.steps.join(", ");
    if args.dry_run {
        context.ui.line(&format!("Would forget {names}; the next `lane apply` runs them again."));
        return Ok(0);
    }
    session.append(JournalEvent::Forgotten { steps })?;
    session.checkpoint()?;
    context.ui.line(&format!("Forgot {names}; the next `lane apply` runs them again."));
    Ok(0)
}

async fn adopt(context: &Context, args: &AdoptArgs) -> Result<u8, Failure> {
    let spec = load_spec(context, std::path::Path::new(&args.spec))?;
    let dir = LaneDir::new(&context.state_root, spec.name.as_str());
    // Nothing is opened yet: a look must leave no folder behind.
    let recorded = dir.load()?;
    if let Some(record) = &recorded
        && let Some(id) = record.host.as_ref().and_then(|host| host.id.as_ref())
    {
        return Err(Failure::new(Kind::Usage, format!("lane `{}` has host {id} already", record.lane))
            .hint(format!("`lane state forget {} --host` first, if that one is not meant", record.lane)));
    }
    let recorded = recorded.filter(|record| !record.is_unused());
    let by_name = recorded.is_none();
    let (hosts, carried) = match recorded {
        Some(record) => {
            (hosts_of(context, &spec.provider, &record).await?, format!("the label {}", record.label()))
        }
        // No host carries a lineage that was never used: the name is all there is to go by.
        None => (hosts_named(context, &spec).await?, format!("the name of lane `{}`", spec.name)),
    };
    let host = choose(&hosts, args.id.as_deref(), &carried)?;
    // Somebody else's lane may have the same name, and `apply` could replace their host.
    if by_name && args.id.is_none() {
        let made = host.created_at.map_or_else(String::new, |at| format!(", made {at}"));
        let what =
            format!("host {} carries {carried}{made}, but nothing here says that it is yours", host.id);
        return Err(Failure::new(Kind::Usage, what)
            .hint(format!("if it is: `lane state adopt {} {}`", args.spec, host.id)));
    }
    context.ui.note(&format!("Host {} carries {carried}; its lineage is {}.", host.id, host.label.lineage));
    if args.dry_run {
        context.ui.line(&format!("Would record host {} as that of lane `{}`.", host.id, spec.name));
        return Ok(0);
    }
    let session = dir.open_as(&context.world, "state adopt", Some(&host.label.lineage))?;
    let record = session.record();
    if record.label() != host.label || record.host.as_ref().is_some_and(|host| host.id.is_some()) {
        return Err(Failure::new(Kind::Locked, format!("the state of lane `{}` moved meanwhile", spec.name))
            .hint("run it again"));
    }
    record_host(context, &session, &spec, host).await?;
    session.set_spec_path(spec.source_map.path());
    session.checkpoint()?;
    context.ui.line(&format!("Recorded host {}. `lane plan {}` shows what it lacks.", host.id, args.spec));
    Ok(0)
}

/// Picks the one host that is meant.
fn choose<'a>(hosts: &'a [Host], id: Option<&str>, carried: &str) -> Result<&'a Host, Failure> {
    let ids: Vec<&str> = hosts.iter().map(|host| host.id.as_str()).collect();
    match (id, hosts) {
        (_, []) => Err(Failure::new(Kind::Usage, format!("no host carries {carried}")).hint(
            "`lane list --cloud` shows what is there; a lost lineage comes back with `lane state repair --lineage`",
        )),
        (Some(id), hosts) => hosts.iter().find(|host| host.id.as_str() == id).ok_or_else(|| {
            Failure::new(Kind::Usage, format!("host {id} does not carry {carried}"))
                .hint(format!("these do: {}", ids.join(", ")))
        }),
        (None, [host]) => Ok(host),
        (None, _) => Err(Failure::new(Kind::Usage, format!("several hosts carry {carried}: {}", ids.join(", ")))
            .hint("name the one to keep; the others have to go before `lane apply` goes on")),
    }
}

/// Finds the hosts of every lane of this name, whatever its lineage.
async fn hosts_named(context: &Context, spec: &Spec) -> Result<Vec<Host>, Failure> {
    let (provider, entry) = connect(context, &spec.provider)?;
    let (place, abort) = (Place { entry, provider }, tokio_util::sync::CancellationToken::new());
    let found = place.cloud(context, &abort).find_owned().await;
    let mut hosts = found.map_err(|error| of_step(&error, error.to_string()))?;
    hosts.retain(|host| host.label.lane == spec.name.as_str());
    Ok(hosts)
}

async fn hosts_of(context: &Context, provider: &ProviderSpec, record: &Record) -> Result<Vec<Host>, Failure> {
    let (provider, entry) = connect(context, provider)?;
    check_scope(provider.as_ref(), record.host.as_ref(), &record.lane).await?;
    let (place, abort) = (Place { entry, provider }, tokio_util::sync::CancellationToken::new());
    let found = place.cloud(context, &abort).find(&record.label()).await;
    found.map_err(|error| of_step(&error, error.to_string()))
}

/// Journals a found host as a create would have; what is not known of it makes the next plan look closer.
async fn record_host(
    context: &Context,
    session: &SharedSession,
    spec: &Spec,
    host: &Host,
) -> Result<(), Failure> {
    let scope = connect(context, &spec.provider)?.0.scope().await?;
    let created_at = host.created_at.unwrap_or_else(|| context.world.now());
    let record = HostRecord {
        id: None,
        provider: spec.provider.name.clone(),
        scope,
        provider_config: spec.provider.config.clone(),
        sku: host.sku.clone(),
        region: host.region.clone(),
        image: spec.image.clone(),
        user: spec.access.user.clone(),
        address: None,
        ssh_port: host.ssh_port,
        created_at,
        expires_at: host.expires_at.unwrap_or(created_at),
        fingerprint: host.fingerprint.clone().unwrap_or_else(|| Fingerprint(Digest::of(b"unknown"))),
        user_data: Digest::of(b""),
        tainted: None,
    };
    session.append(JournalEvent::CreateIntended { host: record, token: ClientToken::new("") })?;
    session.append(JournalEvent::HostNamed { id: host.id.clone() })?;
    if let Some(address) = host.address {
        session.append(JournalEvent::HostAddressed { address, ssh_port: host.ssh_port })?;
    }
    if !LaneKeys::are_there(&session.dir().keys()) {
        let why = "its SSH keys are lost, so nobody can get in as lane did".to_owned();
        context.ui.warn(&format!(
            "host {}: {why}; `lane apply` replaces it, `lane destroy` takes it down",
            host.id
        ));
        session.append(JournalEvent::HostTainted { why })?;
    }
    Ok(())
}

async fn repair(context: &Context, args: &RepairArgs) -> Result<u8, Failure> {
    let dir = match &args.lineage {
        // With it a record can be made where there is not even a folder.
        Some(_) if crate::spec::Name::new(&args.target).is_ok() && !is_path(&args.target) => {
            LaneDir::new(&context.state_root, &args.target)
        }
        _ => folder(context, &args.target)?,
    };
    let lineage = args.lineage.as_ref();
    let findings = if args.dry_run { dir.examine(lineage)? } else { dir.repair(&context.world, lineage)? };
    for note in &findings.notes {
        context.ui.line(note);
    }
    let Some(record) = findings.record else {
        return Err(Failure::new(Kind::Unexpected, format!("no file of lane `{}` names its lineage any more", dir.lane()))
            .hint("`lane list --cloud SPEC --format json` shows lineages; then `lane state repair --lineage LINEAGE`")
            .hint("with no host there, remove the folder: the next plan begins anew"));
    };
    if let Some(lineage) = lineage.filter(|lineage| **lineage != record.lineage) {
        context.ui.warn(&format!("{lineage} does not count: the files name lineage {}", record.lineage));
    }
    if findings.is_intact {
        context.ui.line("Nothing to repair.");
        return Ok(0);
    }
    if args.dry_run {
        let host = record
            .host
            .as_ref()
            .map_or("no host", |host| host.id.as_ref().map_or("a host in doubt", |id| id.as_str()));
        context.ui.line(&format!(
            "Would record lineage {}, serial {}, with {host}.",
            record.lineage,
            record.serial + 1
        ));
        return Ok(0);
    }
    context.ui.line(&format!("Repaired: lane `{}` is at serial {}.", record.lane, record.serial));
    // What the files have lost, the cloud may still know.
    let known = record.host.as_ref().and_then(|host| host.id.as_ref());
    let spec = recorded_spec(context, &record).or_else(|| {
        is_path(&args.target).then(|| load_spec(context, std::path::Path::new(&args.target)).ok()).flatten()
    });
    let Some(spec) = spec else {
        context.ui.note("No spec is known, so no cloud was asked: `lane plan SPEC` looks there.");
        return Ok(0);
    };
    match hosts_of(context, &spec.provider, &record).await {
        Err(failure) => context.ui.warn(&format!("the cloud could not be asked: {failure}")),
        Ok(hosts) => match hosts.as_slice() {
            [] => context.ui.line("The cloud lists no host of this lane."),
            [host] if known.is_none() => {
                let session = dir.open(&context.world, "state repair")?;
                record_host(context, &session, &spec, host).await?;
                session.checkpoint()?;
                context.ui.line(&format!("Recorded host {}, which carries the lane's label.", host.id));
            }
            [host] => context.ui.line(&format!("The cloud lists host {}.", host.id)),
            several => {
                let ids: Vec<&str> = several.iter().map(|host| host.id.as_str()).collect();
                context.ui.warn(&format!("several hosts carry the lane's label: {}", ids.join(", ")));
            }
        },
    }
    Ok(0)
}
