//! One lane in the simulation: runs verbs as the command line does, on a disk, a cloud and a host that can be told to fail.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::cloud::{Cloud, ENDED_ONLY, ENTRY, Weather};
use super::disk::{Keeps, SimDisk, Trouble};
use super::fate::Fate;
use super::wire::Perilous;
use crate::apply::event::EventSink;
use crate::apply::executor::{self, RunOptions, RunSummary};
use crate::apply::refresh::{RefreshInput, refresh};
use crate::apply::steps::RunContext;
use crate::apply::sweep::{self, Choice, Sweep};
use crate::cli::{self, Stage};
use crate::emulators::{self, Emulator};
use crate::inputs::Inputs;
use crate::plan::{self, Action, DiffError, DiffInput, Observed, Plan, Work};
use crate::provider::{self, Entry, HostId, Lineage, Link, Provider};
use crate::spec::Spec;
use crate::state::{LaneDir, Record, SharedSession, StateError};
use crate::world::fs::{self, faults};
use crate::world::{Clock, World};

/// The time of the simulation, on tokio's paused clock.
#[derive(Debug)]
struct Virtual {
    began: Instant,
}

impl Clock for Virtual {
    fn now(&self) -> Timestamp {
        let epoch: Timestamp = "2026-05-06T12:00:00Z".parse().expect("a time");
        epoch + SignedDuration::try_from(self.began.elapsed()).expect("a short time")
    }
}

/// What is told to fail during one run.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Trial {
    /// The process dies at this point.
    pub(super) dies_at: Option<u64>,
    /// The process dies right after the point whose name holds this.
    pub(super) dies_after: Option<&'static str>,
    /// And the machine under it loses its power.
    pub(super) power: Option<Keeps>,
    pub(super) disk: Option<Trouble>,
    pub(super) weather: Weather,
    /// Seconds after which the operator presses Ctrl-C.
    pub(super) stopped_after: Option<u64>,
    /// Milliseconds after which two sweeps begin on machines that know no lane.
    pub(super) beside: Option<[u64; 2]>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verb {
    Plan,
    Apply,
    /// The test suite of a lane that is up.
    Test,
    Destroy,
    /// Apply, test, and destroy whatever happened.
    Run,
    /// `lease extend`.
    Extend,
    /// `state forget --host`.
    Forget,
    /// `state adopt`.
    Adopt,
    /// `state repair`.
    Repair,
    /// `sweep --expired`, where the lane has its state.
    Sweep,
    /// `sweep --expired`, on a machine that knows no lane.
    SweepElsewhere,
}

/// How a run ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// Nothing was to do.
    NoChanges,
    /// Every step ended well: exit 0.
    Done,
    /// Something failed, and the host was taken down as it is after a success.
    TakenDown(String),
    /// Several hosts carry the label; a person must say which is meant.
    Several,
    /// Anything else that a run can say.
    Failed(String),
    /// The process is dead.
    Died,
}

impl Ended {
    /// Tells whether everything is as it was wanted.
    pub(super) fn is_well(&self) -> bool {
        matches!(self, Self::Done | Self::NoChanges)
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoChanges => f.write_str("no changes"),
            Self::Done => f.write_str("done"),
            Self::TakenDown(why) => write!(f, "taken down after: {why}"),
            Self::Several => f.write_str("several hosts"),
            Self::Failed(why) => write!(f, "failed: {why}"),
            Self::Died => f.write_str("died"),
        }
    }
}

/// What is known of the process before.
#[derive(Debug, Clone, Default)]
pub(super) struct Last {
    /// How many points it passed.
    pub(super) reached: u64,
    /// What it was about to do when it died.
    pub(super) words: Vec<String>,
    /// In how many ways the disk could have kept what was pending then.
    pub(super) ways: u64,
}

pub(super) struct Lane {
    pub(super) spec: Spec,
    pub(super) inputs: Inputs,
    pub(super) cloud: Cloud,
    pub(super) entry: &'static Entry,
    /// What the lane asks: the cloud itself, or an adapter that speaks to an emulator of its API over it.
    pub(super) provider: Arc<dyn Provider>,
    pub(super) emulator: Option<Arc<dyn Emulator>>,
    pub(super) fate: Fate,
    pub(super) dir: LaneDir,
    pub(super) world: World,
    /// The lane's, whatever becomes of its record.
    lineage: Lineage,
    /// A person made the lane forget its host, and no record knows it again yet.
    pub(super) forgotten: std::cell::Cell<bool>,
    /// That happened once: nobody knows any more what earlier specs had put on the host.
    pub(super) has_forgotten: std::cell::Cell<bool>,
    /// How many edits and acts there were that can make a step run again.
    pub(super) disturbances: std::cell::Cell<u32>,
    disk: Rc<RefCell<SimDisk>>,
    last: RefCell<Last>,
    _guard: faults::Guard,
    folder: tempfile::TempDir,
}

impl Lane {
    pub(super) fn new(seed: u64, adapter: Option<&'static str>) -> Self {
        // In memory where there is such a place: a sync then costs nothing.
        let memory = PathBuf::from("/dev/shm");
        let folder = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        let folder = folder.expect("a temporary folder");
        let endpoint = |name: &str| {
            let variable = format!("LANE_{}_ENDPOINT", name.to_ascii_uppercase());
            (variable, emulators::endpoint(name, "emulator"))
        };
        let world = World::fixed(
            Arc::new(Virtual { began: Instant::now() }),
            adapter.map(endpoint).into_iter().collect(),
            folder.path().to_owned(),
        );
        let (mut spec, inputs) = plan::testing::lane();
        let entry = adapter.map_or(&ENTRY, |name| provider::by_name(name).expect("an adapter"));
        if let Some(name) = adapter {
            (spec.provider.name, spec.provider.config) = (name.to_owned(), emulators::keys(name));
        }
        let dir = LaneDir::new(&folder.path().join("state"), spec.name.as_str());
        let record = dir.load_or_init(&world).expect("a record");
        let fate = Fate::default();
        let cloud = Cloud::new(fate.clone(), seed, entry.listing_lag);
        let witness = {
            let dir = dir.clone();
            move |token: &_| {
                let doubt = dir
                    .load()
                    .ok()
                    .flatten()
                    .and_then(|record| record.in_doubt.get(&Work::Provision.id()).cloned());
                doubt.and_then(|doubt| doubt.token).as_ref() == Some(token)
            }
        };
        cloud.watch(world.clone(), record.label(), Box::new(witness));
        let emulator =
            adapter.map(|name| emulators::over(name, Arc::new(cloud.clone())).expect("an emulator"));
        let provider: Arc<dyn Provider> = match (adapter, &emulator) {
            (Some(name), Some(emulator)) => {
                let wire = Perilous { adapter: name, emulator: Arc::clone(emulator), cloud: cloud.clone() };
                (entry.connect)(&world, &emulators::keys(name), Link::Wire(Arc::new(wire)))
                    .expect("a provider")
                    .into()
            }
            _ => Arc::new(cloud.clone()),
        };
        let disk = Rc::new(RefCell::new(SimDisk::new(fate.clone(), seed)));
        let guard = faults::set(Rc::<RefCell<SimDisk>>::clone(&disk));
        Self {
            spec,
            inputs,
            cloud,
            entry,
            provider,
            emulator,
            fate,
            dir,
            world,
            lineage: record.lineage,
            forgotten: false.into(),
            has_forgotten: false.into(),
            disturbances: 0.into(),
            disk,
            last: RefCell::default(),
            _guard: guard,
            folder,
        }
    }

    /// Runs a verb in a new process, with all that this trial makes fail.
    pub(super) async fn run(&self, verb: Verb, trial: Trial) -> Ended {
        self.fate.tell(format!("-- {verb:?} {trial:?}"));
        self.fate.begin(trial.dies_at, trial.dies_after);
        self.disk.borrow_mut().begin(trial.disk);
        self.cloud.ledger().weather = trial.weather;
        let died = self.fate.died();
        let ended = tokio::select! {
            biased;
            ended = self.among_sweeps(verb, trial) => ended,
            () = died.cancelled() => Ended::Died,
        };
        // What the process had in flight goes with it, and its lock.
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        let ended = if self.fate.is_dead() { Ended::Died } else { ended };
        let mut disk = self.disk.borrow_mut();
        *self.last.borrow_mut() =
            Last { reached: self.fate.reached(), words: self.fate.last_words(), ways: disk.ways() };
        self.fate.begin(None, None);
        disk.begin(None);
        if let (Some(keeps), Ended::Died) = (trial.power, &ended) {
            disk.lose_power(keeps);
        }
        disk.settle();
        self.fate.tell(format!("-- {ended}"));
        ended
    }

    /// Returns the id by which the lane's provider knows a machine.
    pub(super) fn known_as(&self, machine: &HostId) -> HostId {
        self.emulator.as_ref().map_or_else(|| machine.clone(), |emulator| emulator.id_of(machine))
    }

    /// Tells of the last process.
    pub(super) fn last(&self) -> Last {
        self.last.borrow().clone()
    }

    /// Damages the record's file: emptied, torn or removed.
    pub(super) fn damage(&self) {
        let path = self.dir.path().join("state.json");
        // All may still be in the journal.
        let Ok(bytes) = fs::read(&path) else { return };
        let (kind, at) = {
            let rng = &mut self.cloud.ledger().rng;
            (rng.u8(..3), rng.usize(1..bytes.len() - 1))
        };
        let kept = match kind {
            0 => Some(0),
            1 => Some(at),
            _ => None,
        };
        self.fate.tell(format!("-- of state.json {kept:?} bytes stay"));
        match kept {
            Some(kept) => fs::write_atomic(&path, &bytes[..kept], fs::Mode::Private),
            None => fs::remove_file(&path),
        }
        .expect("a disk that works");
        self.disk.borrow_mut().settle();
    }

    /// Runs a verb, while others sweep what has ended.
    async fn among_sweeps(&self, verb: Verb, trial: Trial) -> Ended {
        let Some(starts) = trial.beside else { return self.process(verb, trial).await };
        let sweep = async |millis: u64| {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            self.sweep(vec![]).await
        };
        tokio::join!(self.process(verb, trial), sweep(starts[0]), sweep(starts[1])).0
    }

    /// Runs a command line of the program itself.
    async fn command(&self, line: &[&str]) -> Ended {
        let stage = Stage {
            spec: self.spec.clone(),
            provider: Arc::clone(&self.provider),
            entry: self.entry,
            connector: Arc::new(self.cloud.clone()),
        };
        match cli::on_stage(self.world.clone(), self.folder.path().join("state"), stage, line).await {
            Ok(0) => Ended::Done,
            Ok(code) => Ended::Failed(format!("exit {code}")),
            Err(failure) => Ended::Failed(failure.message),
        }
    }

    /// Takes down what has an ended lease, as `lane sweep --expired` does.
    async fn sweep(&self, dirs: Vec<LaneDir>) -> Ended {
        ENDED_ONLY.scope((), self.sweep_ended(dirs)).await
    }

    async fn sweep_ended(&self, dirs: Vec<LaneDir>) -> Ended {
        let abort = CancellationToken::new();
        let cloud = || crate::apply::cloud::Cloud {
            provider: self.provider.as_ref(),
            entry: self.entry,
            world: &self.world,
            abort: &abort,
            spec: None,
            note: Box::new(|_| {}),
        };
        let began = self.world.now();
        let (lanes, errors) = sweep::lanes(dirs);
        if let Some(error) = errors.first() {
            return Ended::Failed(error.to_string());
        }
        let found = match sweep::look(&cloud(), &lanes).await {
            Ok(found) => found,
            Err(error) => return Ended::Failed(error.to_string()),
        };
        let (mut ended, receipts) = (Ended::NoChanges, self.folder.path().join("sweeps"));
        let chosen = found.iter().filter(|found| Choice::Expired.selects(found, began));
        for found in chosen {
            let limit = Duration::from_mins(15);
            let sweep = Sweep { cloud: cloud(), choice: &Choice::Expired, began, receipts: &receipts, limit };
            match sweep.take_down(found).await {
                Ok(Some(_)) => ended = Ended::Done,
                Ok(None) => {}
                Err(left) => return Ended::Failed(format!("{left:?}")),
            }
        }
        ended
    }

    async fn process(&self, verb: Verb, trial: Trial) -> Ended {
        let lineage = self.lineage.as_str();
        match verb {
            Verb::Sweep => return self.sweep(vec![self.dir.clone()]).await,
            Verb::SweepElsewhere => return self.sweep(vec![]).await,
            Verb::Extend => return self.command(&["lease", "extend", "demo", "--by", "1h"]).await,
            Verb::Forget => return self.command(&["state", "forget", "demo", "--host", "-y"]).await,
            Verb::Adopt => return self.command(&["state", "adopt", "demo.yaml"]).await,
            Verb::Repair => {
                return self.command(&["state", "repair", "demo.yaml", "--lineage", lineage]).await;
            }
            Verb::Plan | Verb::Apply | Verb::Test | Verb::Destroy | Verb::Run => {}
        }
        let session = match self.dir.open(&self.world, "test") {
            Ok(session) => session,
            Err(error) => return Ended::Failed(error.to_string()),
        };
        if verb != Verb::Run {
            return self.carry_out(&session, verb, trial).await;
        }
        let mut ended = self.carry_out(&session, Verb::Apply, trial).await;
        if ended.is_well() {
            ended = self.carry_out(&session, Verb::Test, trial).await;
        }
        match self.carry_out(&session, Verb::Destroy, trial).await {
            gone if gone.is_well() && ended.is_well() => Ended::Done,
            gone if gone.is_well() => Ended::TakenDown(ended.to_string()),
            left => left,
        }
    }

    async fn carry_out(&self, session: &SharedSession, verb: Verb, trial: Trial) -> Ended {
        let failed = |error: &dyn std::fmt::Display| Ended::Failed(error.to_string());
        if let Err(error) = session.check() {
            return failed(&error);
        }
        let record = session.record();
        let spec = (verb != Verb::Destroy).then_some(&self.spec);
        let seen = match self.look(&record, spec).await {
            Ok(seen) => seen,
            Err(error) => return failed(&error),
        };
        let plan = if verb == Verb::Destroy {
            Ok(plan::diff_destroy(&record, &seen, None, self.spec.timeouts.destroy, self.world.now()))
        } else {
            match self.plan(&record, &seen, verb == Verb::Test) {
                Ok(plan) => plan,
                Err(error) => return failed(&error),
            }
        };
        let plan = match plan {
            Ok(plan) => plan,
            Err(DiffError::SeveralHosts(_)) => return Ended::Several,
            Err(error) => return failed(&error),
        };
        if plan.is_empty() {
            return Ended::NoChanges;
        }
        let behind = verb == Verb::Test && plan.changes().any(|step| step.work != Work::Tests);
        if verb == Verb::Plan || behind {
            return failed(&changes(&plan));
        }
        let blind = plan.is_blind();
        match self.execute(session.clone(), &plan, trial).await {
            // As `lane apply` does: now that the host answers, what drifted on it shows.
            Ok(summary) if summary.is_success() && blind => {
                Box::pin(self.carry_out(session, verb, trial)).await
            }
            Ok(summary) if summary.is_success() => Ended::Done,
            Ok(summary) => {
                let text = summary.failed.iter().map(|step| format!("{}: {}", step.step, step.error));
                let text: Vec<String> = text.collect();
                if text.iter().any(|text| text.contains("only a person")) {
                    return Ended::Several;
                }
                Ended::Failed(format!(
                    "{}; not run {}; in doubt {:?}",
                    text.join("; "),
                    summary.not_run.len(),
                    summary.in_doubt
                ))
            }
            Err(error) => failed(&error),
        }
    }

    async fn look(
        &self,
        record: &Record,
        spec: Option<&Spec>,
    ) -> Result<Observed, crate::provider::ProviderError> {
        refresh(&RefreshInput {
            world: &self.world,
            record,
            spec,
            provider: self.provider.as_ref(),
            connector: &self.cloud,
            deadline: Duration::from_secs(10),
        })
        .await
    }

    fn plan(
        &self,
        record: &Record,
        seen: &Observed,
        with_tests: bool,
    ) -> Result<Result<Plan, DiffError>, StateError> {
        let (mut trees, tests) = (BTreeMap::new(), [Work::Tests.id()]);
        for name in self.spec.sources.keys() {
            if let Some(tree) = self.dir.tree(name)? {
                trees.insert(name.clone(), tree);
            }
        }
        Ok(plan::diff(&DiffInput {
            spec: &self.spec,
            desired: &plan::desired(&self.spec, &self.inputs, with_tests).expect("no cycle"),
            inputs: &self.inputs,
            record,
            observed: seen,
            recorded_trees: &trees,
            old_texts: &BTreeMap::new(),
            user_data: None,
            price: None,
            now: self.world.now(),
            rerun: if with_tests { &tests } else { &[] },
        }))
    }

    async fn execute(
        &self,
        session: SharedSession,
        plan: &Plan,
        trial: Trial,
    ) -> Result<RunSummary, executor::RunError> {
        let stopping = CancellationToken::new();
        let context = RunContext {
            world: self.world.clone(),
            spec: Some(Arc::new(self.spec.clone())),
            image_id: plan.image_id.clone(),
            inputs: Arc::new(self.inputs.clone()),
            session,
            provider: Arc::clone(&self.provider),
            entry: self.entry,
            connector: Arc::new(self.cloud.clone()),
            events: EventSink::channel().0,
            stopping: stopping.clone(),
            abort: CancellationToken::new(),
        };
        let run = executor::run(context, plan, RunOptions { parallelism: 8, keep_going: true });
        tokio::pin!(run);
        if let Some(seconds) = trial.stopped_after {
            tokio::select! {
                biased;
                ended = &mut run => return ended,
                () = tokio::time::sleep(Duration::from_secs(seconds)) => stopping.cancel(),
            }
        }
        run.await
    }
}

fn changes(plan: &Plan) -> String {
    let step = |step: &plan::PlannedStep| format!("{} {:?} {:?}", step.id, step.action, step.reasons);
    plan.steps.iter().filter(|s| s.action != Action::NoOp).map(step).collect::<Vec<_>>().join("; ")
}
