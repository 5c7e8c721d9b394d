//! What most verbs begin with: which lane is meant, its spec, its state, its provider, its plan.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;

use super::Context;
use crate::apply::event::EventSink;
use crate::apply::executor::{self, RunOptions, RunSummary};
use crate::apply::refresh::{self, RefreshInput};
use crate::apply::steps::{Connector, RunContext};
use crate::error::{Failure, Kind};
use crate::inputs::{self, Inputs};
use crate::plan::{self, DiffInput, Observed, ObservedHost, Plan, StepId};
use crate::provider::{self, Entry, Label, Link, Provider};
use crate::report::progress::{self, Look, Style};
use crate::spec::{self, ProviderSpec, Spec};
use crate::state::{LaneDir, Record, SharedSession};
use crate::world::World;
use crate::world::keyring::Keyring;

use super::connect::SshConnector;
use super::login::{self, Found};
use super::signals;

/// How long a look at a host may take before the plan takes the record for true.
const LOOK_DEADLINE: Duration = Duration::from_secs(10);

/// How many steps run side by side, and how their progress is written.
#[derive(Debug, Clone, Args)]
pub(super) struct ExecuteArgs {
    /// How many steps may run side by side.
    #[arg(long, default_value_t = 8, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(super) parallelism: u16,
    /// How progress is written: live lines on a terminal, plain lines elsewhere, or JSON events.
    #[arg(long, value_enum, default_value = "text")]
    pub(super) format: super::Format,
}

/// Reads and checks a spec.
pub(super) fn load_spec(context: &Context, path: &Path) -> Result<Spec, Failure> {
    #[cfg(test)]
    if let Some(stage) = &context.stage {
        return Ok(stage.spec.clone());
    }
    spec::load(&context.world, &context.world.cwd().join(path)).map_err(|error| {
        let complaints = error.render(context.ui.colour_err);
        let failure =
            Failure::new(Kind::Spec, format!("{} is not a valid spec\n{complaints}", path.display()));
        match error {
            spec::LoadError::NotThere(_) => {
                failure.hint("`lane init` writes one; a lane that has state is also known by its name")
            }
            _ => failure,
        }
    })
}

/// Whether a target is meant as a file rather than as a lane's name.
pub(super) fn is_path(target: &str) -> bool {
    target.contains('/') || [".yaml", ".yml", ".json"].iter().any(|end| target.ends_with(end))
}

/// Lists the lanes that have state here.
pub(super) fn known_lanes(context: &Context) -> Result<Vec<LaneDir>, Failure> {
    Ok(LaneDir::all(&context.state_root)?)
}

/// Finds the lane that is meant: by spec path, by name, or, with no target, the only one that has a host.
pub(super) fn find_lane(context: &Context, target: Option<&str>) -> Result<Option<LaneDir>, Failure> {
    match target {
        Some(target) if is_path(target) => {
            let spec = load_spec(context, Path::new(target))?;
            Ok(Some(LaneDir::new(&context.state_root, spec.name.as_str())))
        }
        Some(name) => {
            let known = known_lanes(context)?;
            if let Some(dir) = known.iter().find(|dir| dir.lane() == name) {
                return Ok(Some(dir.clone()));
            }
            let names: Vec<&str> = known.iter().map(LaneDir::lane).collect();
            let failure = Failure::new(
                Kind::Usage,
                format!("no lane `{name}` has state in {}", context.state_root.display()),
            );
            Err(match crate::spec::closest(name, names.iter().copied()) {
                Some(close) => failure.hint(format!("did you mean `{close}`?")),
                None => failure.hint("`lane list` shows the lanes; a spec is given by its path"),
            })
        }
        None => {
            let mut alive = Vec::new();
            for dir in known_lanes(context)? {
                if dir.load()?.is_some_and(|record| record.host.is_some() || !record.in_doubt.is_empty()) {
                    alive.push(dir);
                }
            }
            match alive.len() {
                0 => Ok(None),
                1 => Ok(alive.pop()),
                _ => {
                    let names: Vec<&str> = alive.iter().map(LaneDir::lane).collect();
                    Err(Failure::new(Kind::Usage, format!("several lanes have a host: {}", names.join(", ")))
                        .hint("name the one you mean"))
                }
            }
        }
    }
}

/// Finds the lane that is meant and its host's record, for verbs that talk to a host.
pub(super) fn find_host(context: &Context, target: Option<&str>) -> Result<(LaneDir, Record), Failure> {
    let none =
        || Failure::new(Kind::Usage, "there is no host to talk to").hint("`lane apply SPEC` makes one");
    let dir = find_lane(context, target)?.ok_or_else(none)?;
    let record = dir.load()?.filter(|record| record.host.is_some()).ok_or_else(none)?;
    Ok((dir, record))
}

/// Returns the spec that a lane was applied with last, if it can still be read.
pub(super) fn recorded_spec(context: &Context, record: &Record) -> Option<Spec> {
    let path = record.spec_path.as_deref()?;
    spec::load(&context.world, Path::new(path)).ok().filter(|spec| spec.name.as_str() == record.lane)
}

/// Finds a provider by its name.
pub(super) fn entry_of(name: &str) -> Result<&'static Entry, Failure> {
    let names = || provider::entries().iter().map(|entry| entry.name);
    provider::by_name(name).ok_or_else(|| {
        let failure = Failure::new(Kind::Usage, format!("there is no provider `{name}`"));
        match spec::closest(name, names()) {
            Some(close) => failure.hint(format!("did you mean `{close}`?")),
            None => failure.hint(format!("the providers are {}", names().collect::<Vec<_>>().join(", "))),
        }
    })
}

/// Connects to the provider that a spec or a record names.
pub(super) fn connect(
    context: &Context,
    provider: &ProviderSpec,
) -> Result<(Arc<dyn Provider>, &'static Entry), Failure> {
    #[cfg(test)]
    if let Some(stage) = &context.stage {
        return Ok((Arc::clone(&stage.provider), stage.entry));
    }
    let entry = provider::by_name(&provider.name).ok_or_else(|| {
        Failure::new(Kind::Provider, format!("this build of lane has no provider `{}`", provider.name))
            .hint("use the version of lane that made the host, or a later one")
    })?;
    let (connected, _) = connect_over(&context.world, entry, &provider.config, Link::Network)?;
    Ok((connected, entry))
}

/// Connects to a provider over any link; says too where the credentials were found.
pub(super) fn connect_over(
    world: &World,
    entry: &Entry,
    config: &serde_json::Value,
    link: Link,
) -> Result<(Arc<dyn Provider>, Option<Found>), Failure> {
    let config = spec::resolve_env_json(world, config)?;
    let (world, found) = login::fill(world, entry, &config, Keyring::open);
    let connected = (entry.connect)(&world, &config, link)?;
    Ok((Arc::from(connected), found))
}

/// Returns the way to a lane's host; opens no connection.
pub(super) fn connector(context: &Context, dir: &LaneDir, label: Label) -> Arc<dyn Connector> {
    #[cfg(test)]
    if let Some(stage) = &context.stage {
        return Arc::clone(&stage.connector);
    }
    Arc::new(SshConnector::new(dir, label, &context.world))
}

/// What a plan is made with.
#[derive(Debug, Clone, Default)]
pub(super) struct PlanOptions {
    /// Look at nothing but files.
    pub(super) offline: bool,
    /// Steps to run again whatever their fingerprint.
    pub(super) rerun: Vec<String>,
    /// Include the test suite.
    pub(super) with_tests: bool,
}

/// A plan and what it was made from.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) spec: Arc<Spec>,
    pub(super) inputs: Arc<Inputs>,
    pub(super) plan: Plan,
    pub(super) provider: Option<(Arc<dyn Provider>, &'static Entry)>,
}

/// Makes a plan; looks at provider and host unless offline, changes nothing.
pub(super) async fn make_plan(
    context: &Context,
    spec: Spec,
    dir: &LaneDir,
    record: &Record,
    options: &PlanOptions,
) -> Result<Planned, Failure> {
    let spec = Arc::new(spec);
    // A lane without state gets none from a look alone; its digests go where things can be made again.
    let cache = match dir.load()? {
        Some(_) => dir.cache(),
        None => context.world.cache_dir().join("sources").join(dir.lane()),
    };
    let reading = tokio::task::spawn_blocking({
        let (world, spec) = (context.world.clone(), Arc::clone(&spec));
        move || inputs::read(&world, &spec, &cache)
    });
    let entry = provider::by_name(&spec.provider.name);
    let connected = if options.offline { None } else { Some(connect(context, &spec.provider)?) };
    let observed = match &connected {
        None => Observed { host: ObservedHost::NotAsked, view: None, unreachable: None },
        Some((provider, _)) => look(context, dir, record, Some(&spec), provider.as_ref()).await?,
    };
    let inputs = reading.await.map_err(|error| {
        Failure::new(Kind::Unexpected, format!("reading the spec's files failed: {error}"))
    })?;
    if !options.offline && !inputs.missing.is_empty() {
        let complaints: Vec<String> =
            inputs.missing.iter().map(|complaint| complaint.render(context.ui.colour_err)).collect();
        return Err(Failure::new(
            Kind::Spec,
            format!("lane `{}` cannot be planned\n{}", spec.name, complaints.join("\n")),
        )
        .hint("`lane plan --offline` plans without these files, `lane validate` checks the spec alone"));
    }
    let desired = plan::desired(&spec, &inputs, options.with_tests)
        .map_err(|cycle| Failure::new(Kind::Spec, cycle.to_string()))?;
    let rerun = requested(&options.rerun, &desired)?;
    let (recorded_trees, old_texts) = recorded_texts(dir, record, &spec)?;
    let mut plan = plan::diff(&DiffInput {
        spec: &spec,
        desired: &desired,
        inputs: &inputs,
        record,
        observed: &observed,
        recorded_trees: &recorded_trees,
        old_texts: &old_texts,
        user_data: None,
        price: entry.and_then(|entry| spec::price(Some(&spec), entry, &spec.sku, &spec.region)),
        now: context.world.now(),
        rerun: &rerun,
    })?;
    if let Some((provider, _)) = &connected
        && plan.makes_host()
    {
        plan.image_id = provider.resolve_image(&spec.image, &spec.sku, &spec.region).await?;
    }
    plan.notes
        .extend(inputs.missing.iter().map(|missing| format!("unknown until apply: {}", missing.message)));
    Ok(Planned { spec, inputs: Arc::new(inputs), plan, provider: connected })
}

/// Looks at the provider and the host.
pub(super) async fn look(
    context: &Context,
    dir: &LaneDir,
    record: &Record,
    spec: Option<&Spec>,
    provider: &dyn Provider,
) -> Result<Observed, Failure> {
    let connector = connector(context, dir, record.label());
    Ok(refresh::refresh(&RefreshInput {
        world: &context.world,
        record,
        spec,
        provider,
        connector: connector.as_ref(),
        deadline: LOOK_DEADLINE,
    })
    .await?)
}

fn requested(names: &[String], desired: &plan::Desired) -> Result<Vec<StepId>, Failure> {
    let known: Vec<StepId> = desired.steps.iter().map(|step| step.work.id()).collect();
    names
        .iter()
        .map(|name| {
            if known.iter().any(|id| id.as_str() == name) {
                return Ok(StepId::from_text(name));
            }
            let failure = Failure::new(Kind::Usage, format!("the spec has no step `{name}`"));
            Err(match crate::spec::closest(name, known.iter().map(StepId::as_str)) {
                Some(close) => failure.hint(format!("did you mean `{close}`?")),
                None => failure.hint("`lane plan -v` lists the steps"),
            })
        })
        .collect()
}

type RecordedTexts = (BTreeMap<spec::Name, inputs::Tree>, BTreeMap<plan::Digest, String>);

fn recorded_texts(dir: &LaneDir, record: &Record, spec: &Spec) -> Result<RecordedTexts, Failure> {
    let mut trees = BTreeMap::new();
    for name in spec.sources.keys() {
        if let Some(tree) = dir.tree(name)? {
            trees.insert(name.clone(), tree);
        }
    }
    let mut texts = BTreeMap::new();
    for step in record.steps.values() {
        for key in ["unit", "template", "cloud_init"] {
            let Some(digest) = step.inputs.get(key).map(|text| plan::Digest::from_text(text)) else {
                continue;
            };
            if let Some(text) = dir.content(&digest)? {
                texts.insert(digest, text);
            }
        }
    }
    Ok((trees, texts))
}

/// Carries out a plan under a held lock, telling of its progress, and returns what came of it.
pub(super) async fn execute(
    context: &Context,
    session: &SharedSession,
    planned: &Planned,
    args: &ExecuteArgs,
) -> Result<RunSummary, Failure> {
    let (provider, entry) = match &planned.provider {
        Some((provider, entry)) => (Arc::clone(provider), *entry),
        None => connect(context, &planned.spec.provider)?,
    };
    let run =
        Run { spec: Some(Arc::clone(&planned.spec)), inputs: Arc::clone(&planned.inputs), provider, entry };
    execute_with(context, session, run, &planned.plan, args).await
}

/// What a run works with, beside the plan.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) spec: Option<Arc<Spec>>,
    pub(super) inputs: Arc<Inputs>,
    pub(super) provider: Arc<dyn Provider>,
    pub(super) entry: &'static Entry,
}

/// Carries out a plan with given parts; the spec may be gone (a destroy needs none).
pub(super) async fn execute_with(
    context: &Context,
    session: &SharedSession,
    run: Run,
    plan: &Plan,
    args: &ExecuteArgs,
) -> Result<RunSummary, Failure> {
    let (events, receiver) = EventSink::channel();
    let style = match args.format {
        super::Format::Json => Style::Json,
        super::Format::Text if context.ui.quiet => Style::Quiet,
        super::Format::Text if context.ui.live => Style::Live,
        super::Format::Text => Style::Lines,
    };
    // What happens goes to standard error; only machines get it as the result.
    let out: Box<dyn std::io::Write + Send> = match style {
        Style::Json => Box::new(std::io::stdout()),
        _ => Box::new(std::io::stderr()),
    };
    let look = Look { color: context.ui.colour_err, zone: jiff::tz::TimeZone::system() };
    let reporter = tokio::spawn(progress::report(receiver, style, out, look));
    let connector = connector(context, session.dir(), session.record().label());
    let run_context = RunContext {
        world: context.world.clone(),
        spec: run.spec,
        image_id: plan.image_id.clone(),
        inputs: run.inputs,
        session: session.clone(),
        provider: run.provider,
        entry: run.entry,
        connector,
        events,
        stopping: tokio_util::sync::CancellationToken::new(),
        abort: tokio_util::sync::CancellationToken::new(),
    };
    let watch = signals::watch(run_context.stopping.clone(), run_context.abort.clone())
        .map_err(|error| Failure::new(Kind::Unexpected, format!("signals cannot be caught: {error}")))?;
    let options = RunOptions { parallelism: usize::from(args.parallelism), keep_going: true };
    let summary = executor::run(run_context, plan, options).await;
    drop(watch);
    // A reporter whose reader went away has nothing more to say.
    drop(reporter.await);
    Ok(summary?)
}

/// Turns what came of a run into the verb's outcome.
pub(super) fn judge(session: &SharedSession, summary: &RunSummary) -> Result<(), Failure> {
    verdict(&session.record(), summary)
}

/// Says what a run that was cut off left in doubt and may be paid for, if anything.
fn unsettled(record: &Record) -> Option<&'static str> {
    if record.in_doubt.contains_key(&plan::Work::Destroy.id()) {
        return Some("nobody knows whether its host is gone");
    }
    let is_in_doubt = record.host.as_ref().is_some_and(|host| host.id.is_none());
    is_in_doubt.then_some("nobody knows whether its host was made")
}

fn verdict(record: &Record, summary: &RunSummary) -> Result<(), Failure> {
    let lane = &record.lane;
    if summary.failed.iter().any(|failed| failed.may_cost) {
        return Err(Failure::new(Kind::MayCost, format!("lane `{lane}`: something may still cost money"))
            .hint(format!("run `lane destroy {lane}` again")));
    }
    if summary.stopped || !summary.detached.is_empty() {
        let going_on: Vec<&str> = summary.detached.iter().map(StepId::as_str).collect();
        let message = if going_on.is_empty() {
            format!("lane `{lane}` was stopped; its state is saved")
        } else {
            format!("lane `{lane}` was stopped; {} goes on on the host", going_on.join(", "))
        };
        if let Some(why) = unsettled(record) {
            return Err(Failure::new(
                Kind::MayCost,
                format!("{message}; {why}, so something may still cost money"),
            )
            .hint(format!(
                "`lane destroy {lane}` settles it and leaves nothing, `lane apply` settles it and goes on"
            )));
        }
        return Err(Failure::new(Kind::Step, message)
            .hint("`lane apply` goes on from here, `lane destroy` takes the host down"));
    }
    if let Some(first) = summary.failed.first() {
        let names: Vec<&str> = summary.failed.iter().map(|failed| failed.step.as_str()).collect();
        let mut message = format!("lane `{lane}`: {} failed", names.join(", "));
        if !summary.not_run.is_empty() {
            message.extend([format!(", {} steps not run", summary.not_run.len())]);
        }
        let failure = crate::error::of_step(&first.error, message);
        return Err(match &record.host {
            Some(host) if host.address.is_some() => failure
                .hint(format!("the host is up for a look until {}: `lane ssh {lane}`", host.expires_at))
                .hint(format!("mend it and run `lane apply` again, or `lane destroy {lane}`")),
            _ => failure.hint("mend it and run `lane apply` again"),
        });
    }
    if !summary.is_success() {
        return Err(Failure::new(Kind::Step, format!("lane `{lane}`: not every step was done"))
            .hint("`lane apply` goes on from here"));
    }
    Ok(())
}

/// Asks before a change, unless told not to.
pub(super) fn agree(context: &Context, yes: bool, question: &str) -> Result<(), Failure> {
    if yes {
        return Ok(());
    }
    if !context.ui.can_ask {
        return Err(Failure::new(Kind::Usage, "nobody is there to say yes: this is no terminal")
            .hint("pass `-y` to go on without a question"));
    }
    match context.ui.confirm(question) {
        Ok(true) => Ok(()),
        Ok(false) => Err(Failure::new(Kind::Usage, "not agreed; nothing was changed")),
        Err(error) => Err(Failure::new(Kind::Usage, format!("the answer cannot be read: {error}"))),
    }
}

/// Returns the absolute form of a spec's path as given.
pub(super) fn spec_path(context: &Context, target: &str) -> PathBuf {
    context.world.cwd().join(target)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Digest, Fingerprint, Work};
    use crate::provider::{HostId, Lineage, Region, Sku};
    use crate::state::{HostRecord, InDoubt};

    #[test]
    fn a_stopped_run_that_leaves_a_create_or_destroy_in_doubt_may_cost() {
        let mut record = Record::new("demo", Lineage::fixed("01j00000000000000000000000"));
        let stopped = RunSummary { stopped: true, ..RunSummary::default() };
        let code = |record: &Record| {
            let failure = verdict(record, &stopped).unwrap_err();
            assert!(!failure.hints.is_empty(), "{failure}");
            failure.kind.exit_code()
        };
        assert_eq!(code(&record), 5, "nothing was made");
        record.host = Some(HostRecord {
            id: Some(HostId::fixed("h1")),
            provider: "nspawn".to_owned(),
            scope: None,
            provider_config: serde_json::Value::Null,
            sku: Sku::fixed("container"),
            region: Region::fixed("local"),
            image: "debian-13".to_owned(),
            user: "mvm".to_owned(),
            address: None,
            ssh_port: 22,
            created_at: jiff::Timestamp::UNIX_EPOCH,
            expires_at: jiff::Timestamp::UNIX_EPOCH,
            fingerprint: Fingerprint(Digest::of(b"")),
            user_data: Digest::of(b""),
            tainted: None,
        });
        assert_eq!(code(&record), 5, "the host is up");
        record.host.as_mut().unwrap().id = None;
        assert_eq!(code(&record), 7, "a create is in doubt");
        record.host.as_mut().unwrap().id = Some(HostId::fixed("h1"));
        let fingerprint = Fingerprint(Digest::of(b""));
        let doubt = InDoubt { fingerprint, at: jiff::Timestamp::UNIX_EPOCH, run: None, token: None };
        record.in_doubt.insert(Work::Destroy.id(), doubt);
        assert_eq!(code(&record), 7, "a destroy is in doubt");
    }
}
