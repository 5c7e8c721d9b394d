//! Walks a plan's graph: journals a step's intent, lets a [`StepRunner`] have the effect, journals the outcome.
//!
//! Decides order, side-by-side running, retries and when to stop. Knows no provider, no host and no step's content.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::event::{Event, EventSink};
use super::step_log::StepLog;
use super::steps::{self, RunContext, StepContext, StepError, StepOutcome};
use crate::plan::{Action, CycleError, Plan, PlannedStep, StepGraph, StepId, Verb, Work};
use crate::provider::ProviderError;
use crate::spec::{ProbeKind, Spec};
use crate::state::{InDoubt, JournalEvent, Outcome, Record, RunId, SharedSession, StateError, StepRecord};
use crate::world::World;

/// Steps keep their own limit and explain themselves; the executor cuts only what overruns by this much.
const GRACE: Duration = Duration::from_secs(30);

/// Waits between tries of a step that is safe to repeat.
const BACKOFF: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];

/// How long an aborted step may take to let go.
const LET_GO: Duration = Duration::from_secs(1);

/// How a run goes about its steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunOptions {
    /// How many steps run side by side; at least one.
    pub parallelism: usize,
    /// Whether steps that do not depend on a failed one are still started.
    pub keep_going: bool,
}

impl Default for RunOptions {
    fn default() -> Self {
        Self { parallelism: 10, keep_going: true }
    }
}

/// Where intents and outcomes are written before anything else happens.
pub trait Journal: std::fmt::Debug + Send + Sync {
    /// Returns the record as it is now.
    fn record(&self) -> Record;

    /// Makes an event durable and brings it over the record; an error means that nothing more may be done.
    fn append(&self, event: JournalEvent) -> Result<(), StateError>;

    /// Writes the record as a whole.
    fn checkpoint(&self) -> Result<(), StateError>;
}

impl Journal for SharedSession {
    fn record(&self) -> Record {
        Self::record(self)
    }

    fn append(&self, event: JournalEvent) -> Result<(), StateError> {
        Self::append(self, event)
    }

    fn checkpoint(&self) -> Result<(), StateError> {
        Self::checkpoint(self)
    }
}

/// A step that is about to run, with what is known of it from before.
#[derive(Debug, Clone)]
pub struct Task {
    /// The step.
    pub step: PlannedStep,
    /// Its last outcome, if any.
    pub previous: Option<StepRecord>,
    /// What an earlier run left unfinished of it.
    pub in_doubt: Option<InDoubt>,
    /// Of a long step: its run on the host.
    pub run_id: Option<RunId>,
    /// Whether an earlier run of `lane` started `run_id` already.
    pub resume: bool,
}

/// Has the effect of a step; the real one is `steps::run`.
#[async_trait]
pub trait StepRunner: std::fmt::Debug + Send + Sync {
    /// Does the step's work; may be called again for a step that is safe to repeat.
    async fn run(&self, task: &Task) -> Result<StepOutcome, StepError>;
}

/// A step that did not do what it should.
#[derive(Debug)]
pub struct FailedStep {
    /// Which.
    pub step: StepId,
    /// Why.
    pub error: StepError,
    /// Whether something that nobody watches may cost money because of it.
    pub may_cost: bool,
}

/// What a run came to; every step that does something is in exactly one of the lists.
#[derive(Debug, Default)]
pub struct RunSummary {
    /// Steps that ended well, in the order in which they ended.
    pub done: Vec<StepId>,
    /// Steps that failed.
    pub failed: Vec<FailedStep>,
    /// Steps that were never started, with why.
    pub not_run: Vec<(StepId, String)>,
    /// Long steps that go on on the host.
    pub detached: Vec<StepId>,
    /// Steps that were started and whose outcome the next run has to settle.
    pub in_doubt: Vec<StepId>,
    /// Whether the operator stopped the run.
    pub stopped: bool,
    /// How long it took.
    pub duration: Duration,
}

impl RunSummary {
    /// Tells whether every step ended well.
    pub fn is_success(&self) -> bool {
        self.failed.is_empty()
            && self.not_run.is_empty()
            && self.detached.is_empty()
            && self.in_doubt.is_empty()
    }
}

/// Why a run broke off.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The plan's steps wait for each other.
    #[error(transparent)]
    Cycle(#[from] CycleError),
    /// State could not be written; nothing was started after that.
    #[error("{source}")]
    State {
        /// Why not.
        source: StateError,
        /// What had happened by then.
        summary: Box<RunSummary>,
    },
}

/// All that walking a plan needs.
#[derive(Debug, Clone)]
pub struct Engine {
    /// Clock.
    pub world: World,
    /// Where intents and outcomes go.
    pub journal: Arc<dyn Journal>,
    /// What has the effects.
    pub runner: Arc<dyn StepRunner>,
    /// Where events go.
    pub events: EventSink,
    /// Set: start nothing new, wait for what runs.
    pub stopping: CancellationToken,
    /// Set: return at once.
    pub abort: CancellationToken,
    /// Folder of the steps' logs.
    pub logs: PathBuf,
    /// Steps that tell whether the host is any good: they go first, and nothing is started after one of them failed.
    pub decisive: BTreeSet<StepId>,
}

#[derive(Debug)]
struct RealSteps {
    context: RunContext,
    logs: PathBuf,
}

#[async_trait]
impl StepRunner for RealSteps {
    async fn run(&self, task: &Task) -> Result<StepOutcome, StepError> {
        let context = StepContext {
            run: self.context.clone(),
            step: task.step.clone(),
            previous: task.previous.clone(),
            in_doubt: task.in_doubt.clone(),
            run_id: task.run_id.clone(),
            resume: task.resume,
            log: StepLog::new(&self.logs, &task.step.id),
        };
        let result = match task.step.action {
            Action::Forget => steps::forget(&context).await,
            _ => steps::run(&context).await,
        };
        // Before the outcome is journaled: a recorded failure has its log.
        context.log.sync();
        result
    }
}

/// Runs a plan's steps; returns when all ended, or when the run was stopped and what was in flight has ended.
///
/// A failed step is no error of the run; [`RunSummary::failed`] has it.
pub async fn run(context: RunContext, plan: &Plan, options: RunOptions) -> Result<RunSummary, RunError> {
    let logs = context.session.dir().logs();
    let engine = Engine {
        world: context.world.clone(),
        journal: Arc::new(context.session.clone()),
        events: context.events.clone(),
        stopping: context.stopping.clone(),
        abort: context.abort.clone(),
        decisive: context.spec.as_deref().map(decisive).unwrap_or_default(),
        logs: logs.clone(),
        runner: Arc::new(RealSteps { context, logs }),
    };
    engine.walk(plan, options).await
}

/// A wrong box costs money with every minute: these probes say so before anything is built.
fn decisive(spec: &Spec) -> BTreeSet<StepId> {
    let early =
        spec.probes.iter().filter(|(_, probe)| matches!(probe.kind, ProbeKind::Kvm | ProbeKind::Seccomp));
    early.map(|(name, _)| Work::Probe(name.clone()).id()).collect()
}

/// Tells whether a step may run again after its connection broke, without knowing how far it came.
fn is_repeatable(work: &Work) -> bool {
    match work {
        Work::AwaitSsh
        | Work::Sync(_)
        | Work::Install(_)
        | Work::File(_)
        | Work::Secret(_)
        | Work::Service(_)
        | Work::Probe(_) => true,
        // The host's making and end settle themselves by looking; long jobs reconnect to their run.
        Work::Provision
        | Work::Destroy
        | Work::AwaitCloudInit
        | Work::Build(_)
        | Work::Smoke
        | Work::Tests => false,
    }
}

/// How a step's task came back.
enum Ended {
    Returned(Result<StepOutcome, StepError>),
    Overran,
}

impl Engine {
    /// Walks a plan; see [`run`].
    pub async fn walk(&self, plan: &Plan, options: RunOptions) -> Result<RunSummary, RunError> {
        let graph = StepGraph::new(plan.steps.iter().map(|step| (&step.id, step.depends_on.as_slice())))?;
        let mut walk = Walk {
            engine: self,
            plan,
            options,
            graph,
            began: Instant::now(),
            done: BTreeSet::new(),
            taken: BTreeSet::new(),
            tasks: JoinSet::new(),
            running: BTreeMap::new(),
            halted: None,
            broken: None,
            summary: RunSummary::default(),
        };
        walk.run().await;
        walk.finish()
    }

    async fn attempt(self, task: Task) -> Ended {
        let limit = task.step.timeout.saturating_add(GRACE);
        match tokio::time::timeout(limit, self.with_retries(&task)).await {
            Ok(result) => Ended::Returned(result),
            Err(_) => Ended::Overran,
        }
    }

    async fn with_retries(&self, task: &Task) -> Result<StepOutcome, StepError> {
        for pause in BACKOFF {
            match self.runner.run(task).await {
                Err(StepError::Transport(error))
                    if error.is_connection() && is_repeatable(&task.step.work) =>
                {
                    self.events.send(Event::StepNoted {
                        at: self.world.now(),
                        step: task.step.id.clone(),
                        note: format!("{error}; trying again in {} s", pause.as_secs()),
                    });
                }
                result => return result,
            }
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => return Err(StepError::Stopped),
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.runner.run(task).await
    }

    /// Takes up the run that an earlier `lane` started for the same inputs, else names a new one.
    fn run_of(&self, step: &PlannedStep, in_doubt: Option<&InDoubt>) -> (Option<RunId>, bool) {
        if !step.work.is_long() || step.action == Action::Forget {
            return (None, false);
        }
        match in_doubt {
            Some(InDoubt { fingerprint, run: Some(run), .. }) if *fingerprint == step.fingerprint => {
                (Some(run.clone()), true)
            }
            _ => (Some(RunId(self.world.fresh_ulid())), false),
        }
    }

    fn log_of(&self, step: &StepId) -> Option<String> {
        let log = StepLog::new(&self.logs, step);
        crate::world::fs::exists(log.path()).then(|| log.path().display().to_string())
    }
}

struct Running<'a> {
    step: &'a PlannedStep,
    previous: Option<StepRecord>,
    has_run: bool,
    began: Instant,
}

struct Walk<'a> {
    engine: &'a Engine,
    plan: &'a Plan,
    options: RunOptions,
    graph: StepGraph,
    began: Instant,
    /// Steps whose dependents may start.
    done: BTreeSet<StepId>,
    /// Steps that were started or passed over, whatever came of them.
    taken: BTreeSet<StepId>,
    tasks: JoinSet<Ended>,
    running: BTreeMap<Id, Running<'a>>,
    /// Why nothing new is started.
    halted: Option<String>,
    /// The write that failed; nothing is written after it.
    broken: Option<StateError>,
    summary: RunSummary,
}

impl<'a> Walk<'a> {
    async fn run(&mut self) {
        self.engine.events.send(Event::RunStarted {
            at: self.engine.world.now(),
            lane: self.plan.lane.clone(),
            verb: match self.plan.verb {
                Verb::Apply => "apply",
                Verb::Destroy => "destroy",
                Verb::Test => "test",
            },
            steps: self.plan.changes().count(),
        });
        let engine = self.engine;
        loop {
            if engine.stopping.is_cancelled() && !self.summary.stopped {
                self.stop();
            }
            self.start_ready();
            if self.running.is_empty() {
                return;
            }
            tokio::select! {
                biased;
                () = engine.abort.cancelled() => return self.abandon().await,
                () = engine.stopping.cancelled(), if !self.summary.stopped => {}
                Some(joined) = self.tasks.join_next_with_id() => self.ended(joined),
            }
        }
    }

    fn stop(&mut self) {
        self.summary.stopped = true;
        self.halted.get_or_insert_with(|| "the run was stopped".to_owned());
        let finishing = self.running.values().map(|running| running.step.id.clone()).collect();
        self.engine.events.send(Event::StopRequested { at: self.engine.world.now(), finishing });
    }

    fn start_ready(&mut self) {
        while self.halted.is_none()
            && self.broken.is_none()
            && self.running.len() < self.options.parallelism.max(1)
            && let Some(step) = self.next_ready()
        {
            self.start(step);
        }
    }

    /// Returns what to start next: things to forget, then what tells whether the host is any good, then plan order.
    fn next_ready(&mut self) -> Option<&'a PlannedStep> {
        let mut forgets = self.plan.steps.iter().filter(|step| step.action == Action::Forget).peekable();
        if forgets.peek().is_some() {
            let fresh = forgets.clone().find(|step| !self.taken.contains(&step.id));
            let unsettled = self.running.values().any(|running| running.step.action == Action::Forget);
            if fresh.is_some() || unsettled {
                return fresh;
            }
        }
        loop {
            let ready: BTreeSet<StepId> = self.graph.ready(&self.done, &self.taken).into_iter().collect();
            let mut fresh =
                self.plan.steps.iter().filter(|s| ready.contains(&s.id) && !self.taken.contains(&s.id));
            // A step left alone still holds back what comes after it until all before it is done.
            let Some(idle) = fresh.clone().find(|step| !step.action.is_change()) else {
                let decisive = fresh.clone().find(|step| self.engine.decisive.contains(&step.id));
                return decisive.or_else(|| fresh.next());
            };
            self.taken.insert(idle.id.clone());
            self.done.insert(idle.id.clone());
        }
    }

    /// Intent before effect: a step whose intent is not on the disk is not started.
    fn start(&mut self, step: &'a PlannedStep) {
        let record = self.engine.journal.record();
        let in_doubt = record.in_doubt.get(&step.id).cloned();
        let previous = record.steps.get(&step.id).cloned();
        let (run_id, resume) = self.engine.run_of(step, in_doubt.as_ref());
        let intent = JournalEvent::Started {
            step: step.id.clone(),
            fingerprint: step.fingerprint.clone(),
            run: run_id.clone(),
        };
        if !self.append(intent) {
            return;
        }
        self.engine.events.send(Event::StepStarted {
            at: self.engine.world.now(),
            step: step.id.clone(),
            action: step.action,
        });
        self.taken.insert(step.id.clone());
        let has_run = run_id.is_some();
        let task = Task { step: step.clone(), previous: previous.clone(), in_doubt, run_id, resume };
        let handle = self.tasks.spawn(self.engine.clone().attempt(task));
        self.running.insert(handle.id(), Running { step, previous, has_run, began: Instant::now() });
    }

    /// Writes to the journal unless an earlier write failed; tells whether it is on the disk.
    fn append(&mut self, event: JournalEvent) -> bool {
        if self.broken.is_none() {
            self.broken = self.engine.journal.append(event).err();
        }
        self.broken.is_none()
    }

    fn ended(&mut self, joined: Result<(Id, Ended), JoinError>) {
        let (id, ended) = match joined {
            Ok((id, ended)) => (id, Ok(ended)),
            Err(error) => (error.id(), Err(error)),
        };
        let Some(running) = self.running.remove(&id) else { return };
        let is_host = matches!(running.step.work, Work::Provision | Work::Destroy);
        match ended {
            Ok(Ended::Returned(Ok(outcome))) => self.succeeded(&running, outcome),
            Ok(Ended::Returned(Err(StepError::Detached))) => self.left(&running, true),
            Ok(Ended::Returned(Err(StepError::Stopped))) => self.left(&running, false),
            Ok(Ended::Returned(Err(StepError::State(error)))) => {
                self.broken.get_or_insert(error);
                self.left(&running, false);
            }
            Ok(Ended::Returned(Err(error))) => {
                let ambiguous = matches!(
                    error,
                    StepError::MayCost(_) | StepError::Provider(ProviderError::Ambiguous { .. })
                );
                self.failed(&running, error, is_host && ambiguous);
            }
            Ok(Ended::Overran) => {
                let error = format!("took longer than {} s and was cut off", running.step.timeout.as_secs());
                self.failed(&running, StepError::Failed(error), is_host);
            }
            // Cancelled tasks are only seen while the run is abandoned.
            Err(error) if error.is_cancelled() => self.left(&running, running.has_run),
            Err(error) => {
                self.failed(&running, StepError::Failed(format!("a defect in lane: {error}")), true);
            }
        }
    }

    fn succeeded(&mut self, running: &Running<'_>, outcome: StepOutcome) {
        let step = running.step;
        let duration = running.began.elapsed();
        let event = if step.action == Action::Forget {
            JournalEvent::Forgotten { steps: vec![step.id.clone()] }
        } else {
            let record = self.record_of(step, Outcome::Done, duration, outcome.facts);
            JournalEvent::Finished { step: step.id.clone(), record }
        };
        if !self.append(event) {
            return self.left(running, false);
        }
        self.engine.events.send(Event::StepFinished {
            at: self.engine.world.now(),
            step: step.id.clone(),
            duration,
            summary: outcome.summary,
        });
        self.done.insert(step.id.clone());
        self.summary.done.push(step.id.clone());
    }

    /// Journals a failure, unless its effect is `unknown`: then the step stays in doubt, with all that is known of it.
    fn failed(&mut self, running: &Running<'_>, error: StepError, unknown: bool) {
        let step = running.step;
        let duration = running.began.elapsed();
        if !unknown && step.work != Work::Destroy {
            let failure = Outcome::Failed { error: error.to_string() };
            let record = match &running.previous {
                // What is to be forgotten is found by what the record knows of it.
                Some(previous) if step.action == Action::Forget => {
                    StepRecord { outcome: failure, at: self.engine.world.now(), ..previous.clone() }
                }
                _ => self.record_of(step, failure, duration, BTreeMap::new()),
            };
            self.append(JournalEvent::Finished { step: step.id.clone(), record });
        }
        if !self.options.keep_going || self.engine.decisive.contains(&step.id) {
            self.halted.get_or_insert_with(|| format!("{} failed", step.id));
        }
        self.engine.events.send(Event::StepFailed {
            at: self.engine.world.now(),
            step: step.id.clone(),
            duration,
            error: error.to_string(),
            log: self.engine.log_of(&step.id),
        });
        let may_cost = match step.work {
            Work::Destroy => true,
            Work::Provision => unknown,
            _ => matches!(error, StepError::MayCost(_)),
        };
        self.summary.failed.push(FailedStep { step: step.id.clone(), error, may_cost });
    }

    /// Notes a step that was started and has no outcome: the journal keeps it in doubt.
    fn left(&mut self, running: &Running<'_>, goes_on: bool) {
        let step = running.step.id.clone();
        let why = if goes_on {
            "goes on on the host; `lane apply` takes it up"
        } else {
            "its outcome is unknown; `lane apply` settles it"
        };
        self.engine.events.send(Event::StepLeft {
            at: self.engine.world.now(),
            step: step.clone(),
            duration: running.began.elapsed(),
            why: why.to_owned(),
        });
        if goes_on { &mut self.summary.detached } else { &mut self.summary.in_doubt }.push(step);
    }

    fn record_of(
        &self,
        step: &PlannedStep,
        outcome: Outcome,
        duration: Duration,
        facts: BTreeMap<String, String>,
    ) -> StepRecord {
        StepRecord {
            outcome,
            fingerprint: step.fingerprint.clone(),
            inputs: step.inputs.clone(),
            at: self.engine.world.now(),
            duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            facts,
        }
    }

    /// Lets go of everything in flight; what ended in the meantime still counts.
    async fn abandon(&mut self) {
        if !self.summary.stopped {
            self.stop();
        }
        self.tasks.abort_all();
        let drained = tokio::time::timeout(LET_GO, async {
            while let Some(joined) = self.tasks.join_next_with_id().await {
                self.ended(joined);
            }
        });
        if drained.await.is_err() {
            // A task that does not let go is one that sits in a system call; the journal has it in doubt.
            for running in std::mem::take(&mut self.running).into_values() {
                self.left(&running, running.has_run);
            }
        }
    }

    fn finish(mut self) -> Result<RunSummary, RunError> {
        self.explain_not_run();
        if self.broken.is_none() {
            self.broken = self.engine.journal.checkpoint().err();
        }
        self.summary.duration = self.began.elapsed();
        self.engine.events.send(Event::RunFinished {
            at: self.engine.world.now(),
            duration: self.summary.duration,
            done: self.summary.done.len(),
            failed: self.summary.failed.len(),
            not_run: self.summary.not_run.len(),
        });
        match self.broken {
            Some(source) => Err(RunError::State { source, summary: Box::new(self.summary) }),
            None => Ok(self.summary),
        }
    }

    /// Says of each step that was not started which step, or what else, was in its way.
    fn explain_not_run(&mut self) {
        let failed = self.summary.failed.iter().map(|failed| (&failed.step, "failed"));
        let left =
            self.summary.detached.iter().chain(&self.summary.in_doubt).map(|step| (step, "is not finished"));
        let mut blocked: BTreeMap<StepId, String> =
            failed.chain(left).map(|(step, how)| (step.clone(), format!("{step} {how}"))).collect();
        let general = match (&self.broken, &self.halted) {
            (Some(_), _) => "state could not be written",
            (None, Some(why)) => why,
            (None, None) => "what it waits for was not done",
        };
        for step in self.plan.steps.iter().filter(|step| !self.taken.contains(&step.id)) {
            let cause = step.depends_on.iter().find_map(|dependency| blocked.get(&dependency.on)).cloned();
            if let Some(cause) = &cause {
                blocked.insert(step.id.clone(), cause.clone());
            }
            if step.action.is_change() {
                let why = cause.unwrap_or_else(|| general.to_owned());
                self.engine.events.send(Event::StepNotRun {
                    at: self.engine.world.now(),
                    step: step.id.clone(),
                    why: why.clone(),
                });
                self.summary.not_run.push((step.id.clone(), why));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

    use tokio::sync::mpsc::UnboundedReceiver;

    use super::*;
    use crate::plan::{Cost, Dependency, DependencyKind, Digest, Fingerprint, SpecRef};
    use crate::spec::Name;
    use crate::state::LaneDir;
    use crate::transport::TransportError;

    /// What a scripted step does, after it has waited; a step without a script takes a second and is done.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Act {
        Done,
        Fail,
        Disconnect,
        MayCost,
        Ambiguous,
        Detach,
        StopWhenAsked,
        Hang,
        Panic,
        BreakState,
    }

    #[derive(Debug, Default)]
    struct Script {
        acts: Mutex<BTreeMap<String, VecDeque<(u64, Act)>>>,
        /// What happened, with the second at which it did.
        story: Mutex<Vec<String>>,
        tasks: Mutex<Vec<Task>>,
        born: Mutex<Option<Instant>>,
        stopping: CancellationToken,
        side_by_side: AtomicUsize,
        most: AtomicUsize,
    }

    impl Script {
        fn tell(&self, what: &str, step: &StepId) {
            let born = *self.born.lock().unwrap().get_or_insert_with(Instant::now);
            self.story.lock().unwrap().push(format!("{} {what} {step}", born.elapsed().as_secs()));
        }

        fn story(&self) -> Vec<String> {
            self.story.lock().unwrap().clone()
        }

        fn task(&self, step: &str) -> Task {
            self.tasks.lock().unwrap().iter().rfind(|task| task.step.id.as_str() == step).unwrap().clone()
        }

        fn starts_of(&self, step: &str) -> usize {
            self.tasks.lock().unwrap().iter().filter(|task| task.step.id.as_str() == step).count()
        }
    }

    #[async_trait]
    impl StepRunner for Script {
        async fn run(&self, task: &Task) -> Result<StepOutcome, StepError> {
            let id = &task.step.id;
            let next = self.acts.lock().unwrap().get_mut(id.as_str()).and_then(VecDeque::pop_front);
            let (seconds, act) = next.unwrap_or((1, Act::Done));
            self.tasks.lock().unwrap().push(task.clone());
            self.tell("+", id);
            let now = self.side_by_side.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            let result = match act {
                Act::Done => Ok(StepOutcome { summary: "fine".to_owned(), ..StepOutcome::default() }),
                Act::Fail => Err(StepError::Failed("exit code 3".to_owned())),
                Act::MayCost => Err(StepError::MayCost("host 17 is still listed".to_owned())),
                Act::Disconnect => {
                    let (address, message) = ("192.0.2.1".to_owned(), "broken pipe".to_owned());
                    Err(TransportError::Connection { address, message }.into())
                }
                Act::Ambiguous => {
                    let message = "connection reset".to_owned();
                    Err(ProviderError::Ambiguous { provider: "cloud", operation: "create", message }.into())
                }
                Act::Detach => {
                    self.stopping.cancelled().await;
                    Err(StepError::Detached)
                }
                Act::StopWhenAsked => {
                    self.stopping.cancelled().await;
                    Err(StepError::Stopped)
                }
                Act::Hang => std::future::pending().await,
                Act::Panic => panic!("index out of bounds"),
                Act::BreakState => Err(StepError::State(broken_state())),
            };
            self.side_by_side.fetch_sub(1, Ordering::SeqCst);
            self.tell("-", id);
            result
        }
    }

    /// A real journal whose `fail_at`-th write fails.
    #[derive(Debug)]
    struct Failing {
        session: SharedSession,
        writes: AtomicUsize,
        fail_at: usize,
        failed: AtomicBool,
    }

    impl Failing {
        fn write(&self) -> Result<(), StateError> {
            assert!(!self.failed.load(Ordering::SeqCst), "wrote to the journal after a write had failed");
            if self.writes.fetch_add(1, Ordering::SeqCst) == self.fail_at {
                self.failed.store(true, Ordering::SeqCst);
                return Err(broken_state());
            }
            Ok(())
        }
    }

    impl Journal for Failing {
        fn record(&self) -> Record {
            self.session.record()
        }

        fn append(&self, event: JournalEvent) -> Result<(), StateError> {
            self.write()?;
            self.session.append(event)
        }

        fn checkpoint(&self) -> Result<(), StateError> {
            self.write()?;
            self.session.checkpoint()
        }
    }

    fn broken_state() -> StateError {
        let folder = tempfile::tempdir().unwrap();
        let lane = LaneDir::new(folder.path(), "broken");
        crate::world::fs::create_dir_all(&folder.path().join("broken")).unwrap();
        let file = folder.path().join("broken/state.json");
        crate::world::fs::write_atomic(&file, b"{torn", crate::world::fs::Mode::Public).unwrap();
        lane.load().unwrap_err()
    }

    #[derive(Debug)]
    struct StoppedClock;

    impl crate::world::Clock for StoppedClock {
        fn now(&self) -> jiff::Timestamp {
            jiff::Timestamp::from_second(1_800_000_000).unwrap()
        }
    }

    fn world() -> World {
        World::fixed(Arc::new(StoppedClock), BTreeMap::new(), PathBuf::from("/"))
    }

    struct Bench {
        folder: tempfile::TempDir,
        script: Arc<Script>,
        engine: Engine,
        session: SharedSession,
        events: UnboundedReceiver<Event>,
    }

    impl Bench {
        fn new(acts: &[(&str, u64, Act)]) -> Self {
            let folder = tempfile::tempdir().unwrap();
            Self::again(folder, acts)
        }

        /// A new `lane` process on the state that an earlier one left.
        fn again(folder: tempfile::TempDir, acts: &[(&str, u64, Act)]) -> Self {
            let session = LaneDir::new(folder.path(), "demo").open(&world(), "apply").unwrap();
            let mut script = Script::default();
            for (step, seconds, act) in acts {
                let acts = script.acts.get_mut().unwrap();
                acts.entry((*step).to_owned()).or_default().push_back((*seconds, *act));
            }
            let script = Arc::new(script);
            let (sink, events) = EventSink::channel();
            let runner: Arc<dyn StepRunner> = Arc::clone(&script) as _;
            let engine = Engine {
                world: world(),
                journal: Arc::new(session.clone()),
                runner,
                events: sink,
                stopping: script.stopping.clone(),
                abort: CancellationToken::new(),
                logs: folder.path().join("demo/logs"),
                decisive: BTreeSet::from([StepId::from_text("probe/kvm")]),
            };
            Self { folder, script, engine, session, events }
        }

        async fn walk(&self, steps: Vec<PlannedStep>) -> RunSummary {
            self.engine.walk(&plan(steps), RunOptions::default()).await.unwrap()
        }

        /// Ends the process: what is in flight is dropped, the state stays as it is on the disk.
        async fn die(self) -> tempfile::TempDir {
            let Self { folder, engine, session, script, events } = self;
            drop((engine, session, script, events));
            // Aborted tasks hold the lock until the runtime has dropped them.
            tokio::time::sleep(Duration::from_millis(1)).await;
            folder
        }

        fn event_names(&mut self) -> Vec<String> {
            let mut names = vec![];
            while let Ok(event) = self.events.try_recv() {
                let value = serde_json::to_value(&event).unwrap();
                let step = value.get("step").and_then(|step| step.as_str()).unwrap_or_default();
                names.push(format!("{} {step}", value["event"].as_str().unwrap()).trim_end().to_owned());
            }
            names
        }
    }

    fn work(id: &str) -> Work {
        let name = |text: &str| Name::new(text).unwrap();
        match id.split_once('/') {
            None if id == "smoke" => Work::Smoke,
            Some(("provision", _)) => Work::Provision,
            Some(("destroy", _)) => Work::Destroy,
            Some(("await", "ssh")) => Work::AwaitSsh,
            Some(("await", "cloud-init")) => Work::AwaitCloudInit,
            Some(("sync", of)) => Work::Sync(name(of)),
            Some(("build", of)) => Work::Build(name(of)),
            Some(("service", of)) => Work::Service(name(of)),
            Some(("probe", of)) => Work::Probe(name(of)),
            _ => panic!("no such step: {id}"),
        }
    }

    fn step(id: &str, after: &[&str]) -> PlannedStep {
        let depends_on =
            after.iter().map(|on| Dependency { on: StepId::from_text(on), kind: DependencyKind::Order });
        PlannedStep {
            id: StepId::from_text(id),
            work: work(id),
            action: Action::Create,
            reasons: vec![],
            depends_on: depends_on.collect(),
            fingerprint: Fingerprint(Digest::of(id.as_bytes())),
            inputs: BTreeMap::from([("in".to_owned(), id.to_owned())]),
            timeout: Duration::from_mins(10),
        }
    }

    fn with(action: Action, step: PlannedStep) -> PlannedStep {
        PlannedStep { action, ..step }
    }

    fn plan(steps: Vec<PlannedStep>) -> Plan {
        Plan {
            format_version: Plan::FORMAT_VERSION,
            lane: "demo".to_owned(),
            verb: Verb::Apply,
            lineage: "l".to_owned(),
            serial: 0,
            spec: SpecRef { path: "/demo.yaml".to_owned(), digest: Digest::of(b"") },
            provider: "cloud".to_owned(),
            sku: "small".to_owned(),
            region: "here".to_owned(),
            image: "debian".to_owned(),
            image_id: None,
            created_at: world().now(),
            offline: false,
            steps,
            diffs: vec![],
            lost: vec![],
            notes: vec![],
            cost: Cost {
                per_hour: None,
                expected: None,
                cycle: Duration::ZERO,
                worst_case: None,
                expires_at: None,
                ttl: Duration::from_hours(1),
                rings: crate::plan::Rings::default(),
            },
        }
    }

    /// The shape of a whole lane.
    fn lane() -> Vec<PlannedStep> {
        vec![
            step("provision/host", &[]),
            step("await/ssh", &["provision/host"]),
            step("await/cloud-init", &["await/ssh"]),
            step("sync/mvmd", &["await/ssh"]),
            step("build/mvmd", &["sync/mvmd", "await/cloud-init"]),
            step("service/mvmd", &["build/mvmd"]),
            step("probe/kvm", &["await/ssh"]),
            step("smoke", &["service/mvmd", "probe/kvm"]),
        ]
    }

    fn ids(steps: &[StepId]) -> Vec<&str> {
        steps.iter().map(StepId::as_str).collect()
    }

    fn failed(summary: &RunSummary) -> Vec<&str> {
        summary.failed.iter().map(|failed| failed.step.as_str()).collect()
    }

    fn not_run(summary: &RunSummary) -> Vec<(&str, &str)> {
        summary.not_run.iter().map(|(step, why)| (step.as_str(), why.as_str())).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn steps_overlap_where_their_dependencies_allow() {
        let bench = Bench::new(&[("await/cloud-init", 30, Act::Done), ("sync/mvmd", 5, Act::Done)]);
        let summary = bench.walk(lane()).await;
        assert!(summary.is_success(), "{summary:?}");
        assert_eq!(
            bench.script.story(),
            [
                "0 + provision/host",
                "1 - provision/host",
                "1 + await/ssh",
                "2 - await/ssh",
                "2 + probe/kvm",
                "2 + await/cloud-init",
                "2 + sync/mvmd",
                "3 - probe/kvm",
                "7 - sync/mvmd",
                "32 - await/cloud-init",
                "32 + build/mvmd",
                "33 - build/mvmd",
                "33 + service/mvmd",
                "34 - service/mvmd",
                "34 + smoke",
                "35 - smoke",
            ]
        );
        assert_eq!(summary.duration, Duration::from_secs(35));
        let record = bench.session.record();
        assert!(record.in_doubt.is_empty());
        assert_eq!(record.steps.len(), 8);
        let build = &record.steps[&StepId::from_text("build/mvmd")];
        assert_eq!(
            (&build.outcome, build.duration_ms, build.inputs["in"].as_str()),
            (&Outcome::Done, 1000, "build/mvmd")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_steps_run_side_by_side_than_allowed() {
        for (parallelism, seconds) in [(0, 6), (1, 6), (2, 3), (4, 2), (9, 1)] {
            let bench = Bench::new(&[]);
            let steps = (0..6).map(|n| step(&format!("sync/s{n}"), &[])).collect();
            let options = RunOptions { parallelism, keep_going: true };
            let summary = bench.engine.walk(&plan(steps), options).await.unwrap();
            assert_eq!(summary.duration, Duration::from_secs(seconds), "parallelism {parallelism}");
            assert!(bench.script.most.load(Ordering::SeqCst) <= parallelism.max(1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn steps_left_alone_pass_at_once_but_keep_the_order() {
        let mut bench = Bench::new(&[]);
        let mut steps = lane();
        for idle in [0, 2, 3, 4] {
            steps[idle].action = Action::NoOp;
        }
        let summary = bench.walk(steps).await;
        assert_eq!(ids(&summary.done), ["await/ssh", "probe/kvm", "service/mvmd", "smoke"]);
        // The service depends on the login only through steps that are left alone.
        assert_eq!(bench.script.story()[..3], ["0 + await/ssh", "1 - await/ssh", "1 + probe/kvm"]);
        assert!(!bench.event_names().iter().any(|name| name.ends_with("build/mvmd")));
        assert_eq!(bench.session.record().steps.len(), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn only_what_depends_on_a_failed_step_is_not_run() {
        let mut bench = Bench::new(&[("build/mvmd", 1, Act::Fail)]);
        crate::world::fs::create_dir_all(&bench.engine.logs).unwrap();
        StepLog::new(&bench.engine.logs, &StepId::from_text("build/mvmd")).line("error[E0308]");
        let mut steps = lane();
        steps.push(step("sync/late", &["probe/kvm"]));
        steps.push(step("sync/later", &["sync/late"]));
        let summary = bench.walk(steps).await;
        assert_eq!(failed(&summary), ["build/mvmd"]);
        assert!(!summary.failed[0].may_cost);
        assert_eq!(
            not_run(&summary),
            [("service/mvmd", "build/mvmd failed"), ("smoke", "build/mvmd failed")]
        );
        assert!(ids(&summary.done).contains(&"sync/later"), "{summary:?}");
        let record = bench.session.record();
        let build = &record.steps[&StepId::from_text("build/mvmd")];
        assert_eq!(build.outcome, Outcome::Failed { error: "exit code 3".to_owned() });
        assert!(record.in_doubt.is_empty());
        let mut logs = vec![];
        while let Ok(event) = bench.events.try_recv() {
            if let Event::StepFailed { log, .. } = event {
                logs.push(log.unwrap());
            }
        }
        assert!(logs.len() == 1 && logs[0].ends_with("logs/build-mvmd.log"), "{logs:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn without_keep_going_nothing_starts_after_a_failure() {
        let bench = Bench::new(&[("sync/a", 1, Act::Fail), ("sync/b", 5, Act::Done)]);
        let steps = vec![step("sync/a", &[]), step("sync/b", &[]), step("sync/c", &["sync/b"])];
        let options = RunOptions { parallelism: 10, keep_going: false };
        let summary = bench.engine.walk(&plan(steps), options).await.unwrap();
        assert_eq!((ids(&summary.done), failed(&summary)), (vec!["sync/b"], vec!["sync/a"]));
        assert_eq!(not_run(&summary), [("sync/c", "sync/a failed")]);
        assert!(!summary.stopped);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wrong_box_is_not_built_on() {
        let bench = Bench::new(&[("probe/kvm", 3, Act::Fail), ("await/cloud-init", 60, Act::Done)]);
        let summary = bench.walk(lane()).await;
        let started = |id| bench.script.starts_of(id);
        assert_eq!((started("await/cloud-init"), started("build/mvmd"), started("service/mvmd")), (1, 0, 0));
        assert_eq!(
            not_run(&summary),
            [
                ("build/mvmd", "probe/kvm failed"),
                ("service/mvmd", "probe/kvm failed"),
                ("smoke", "probe/kvm failed")
            ]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_tells_a_wrong_box_goes_first_when_there_is_room_for_one() {
        let bench = Bench::new(&[]);
        let options = RunOptions { parallelism: 1, keep_going: true };
        let steps = vec![step("sync/a", &[]), step("sync/b", &[]), step("probe/kvm", &[])];
        bench.engine.walk(&plan(steps), options).await.unwrap();
        assert_eq!(bench.script.story()[0], "0 + probe/kvm");
    }

    #[tokio::test(start_paused = true)]
    async fn forgetting_comes_first_and_leaves_no_record() {
        let mut bench = Bench::new(&[("service/old", 2, Act::Done), ("service/stuck", 3, Act::Fail)]);
        let first = vec![step("service/old", &[]), step("service/stuck", &[])];
        bench.script.acts.lock().unwrap().clear();
        assert!(bench.walk(first).await.is_success());
        bench = Bench::again(
            bench.die().await,
            &[("service/old", 2, Act::Done), ("service/stuck", 3, Act::Fail)],
        );
        let before = bench.session.record().steps[&StepId::from_text("service/stuck")].clone();
        let steps = vec![
            step("sync/mvmd", &[]),
            with(Action::Forget, step("service/old", &["sync/gone"])),
            with(Action::Forget, PlannedStep { inputs: BTreeMap::new(), ..step("service/stuck", &[]) }),
        ];
        let summary = bench.walk(steps).await;
        assert_eq!(bench.script.story()[..2], ["0 + service/old", "0 + service/stuck"]);
        assert_eq!(bench.script.story()[4], "3 + sync/mvmd");
        assert_eq!(
            (ids(&summary.done), failed(&summary)),
            (vec!["service/old", "sync/mvmd"], vec!["service/stuck"])
        );
        let record = bench.session.record();
        assert!(!record.steps.contains_key(&StepId::from_text("service/old")));
        let after = &record.steps[&StepId::from_text("service/stuck")];
        assert!(matches!(after.outcome, Outcome::Failed { .. }));
        assert_eq!(after.inputs, before.inputs, "what was known of it is needed to try again");
    }

    #[tokio::test(start_paused = true)]
    async fn lost_connections_are_retried_only_where_that_is_safe() {
        let lost = |id, times| vec![(id, 1, Act::Disconnect); times];
        // Tries at 0, 1+1, 3+2 and 6+4 seconds, each a second long.
        let bench = Bench::new(&lost("sync/a", 3));
        assert!(bench.walk(vec![step("sync/a", &[])]).await.is_success());
        let starts: Vec<_> = bench.script.story().into_iter().filter(|line| line.contains('+')).collect();
        assert_eq!(starts, ["0 + sync/a", "2 + sync/a", "5 + sync/a", "10 + sync/a"]);

        let bench = Bench::new(&lost("sync/a", 4));
        assert_eq!(failed(&bench.walk(vec![step("sync/a", &[])]).await), ["sync/a"]);

        for id in ["provision/host", "destroy/host", "build/mvmd", "smoke", "await/cloud-init"] {
            let bench = Bench::new(&lost(id, 1));
            assert_eq!(failed(&bench.walk(vec![step(id, &[])]).await), [id]);
            assert_eq!(bench.script.starts_of(id), 1, "{id}");
        }
        let bench = Bench::new(&[("sync/a", 1, Act::Fail)]);
        assert_eq!(failed(&bench.walk(vec![step("sync/a", &[])]).await), ["sync/a"]);
        assert_eq!(bench.script.starts_of("sync/a"), 1, "a failure that is no lost connection is final");
    }

    #[tokio::test(start_paused = true)]
    async fn stopping_does_not_wait_for_the_next_try() {
        let bench = Bench::new(&[("sync/a", 1, Act::Disconnect)]);
        let stopping = bench.engine.stopping.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(1500)).await;
            stopping.cancel();
        });
        let summary = bench.walk(vec![step("sync/a", &[])]).await;
        assert_eq!((ids(&summary.in_doubt), summary.duration), (vec!["sync/a"], Duration::from_millis(1500)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_that_overruns_is_cut_off() {
        let bench = Bench::new(&[("sync/a", 0, Act::Hang), ("provision/host", 0, Act::Hang)]);
        let summary = bench.walk(vec![step("sync/a", &[]), step("provision/host", &[])]).await;
        assert_eq!(summary.duration, Duration::from_secs(630));
        for failed in &summary.failed {
            assert_eq!(failed.error.to_string(), "took longer than 600 s and was cut off");
            assert_eq!(failed.may_cost, failed.step.as_str() == "provision/host");
        }
        let record = bench.session.record();
        assert!(record.steps.contains_key(&StepId::from_text("sync/a")));
        assert!(record.in_doubt.contains_key(&StepId::from_text("provision/host")), "a host may exist");
    }

    #[tokio::test(start_paused = true)]
    async fn an_unknown_outcome_stays_in_doubt() {
        for (id, act) in [
            ("provision/host", Act::Ambiguous),
            ("provision/host", Act::MayCost),
            ("destroy/host", Act::MayCost),
            ("destroy/host", Act::Fail),
            ("provision/host", Act::Panic),
        ] {
            let bench = Bench::new(&[(id, 1, act)]);
            let summary = bench.walk(vec![step(id, &[])]).await;
            assert!(summary.failed.len() == 1 && summary.failed[0].may_cost, "{id} {act:?}: {summary:?}");
            let record = bench.session.record();
            assert!(record.steps.is_empty() && record.in_doubt.len() == 1, "{id} {act:?}: {record:?}");
        }
        let bench = Bench::new(&[("provision/host", 1, Act::Fail), ("sync/a", 1, Act::Panic)]);
        let summary = bench.walk(vec![step("provision/host", &[]), step("sync/a", &[])]).await;
        assert!(summary.failed.iter().all(|failed| !failed.may_cost));
        assert!(summary.failed.iter().any(|failed| failed.error.to_string().contains("index out of bounds")));
        let record = bench.session.record();
        assert!(record.steps.contains_key(&StepId::from_text("provision/host")), "it failed for sure");
        assert!(record.in_doubt.contains_key(&StepId::from_text("sync/a")));
    }

    #[tokio::test(start_paused = true)]
    async fn first_stop_waits_for_what_runs() {
        let acts = [("await/cloud-init", 30, Act::StopWhenAsked), ("sync/mvmd", 20, Act::Done)];
        let mut bench = Bench::new(&acts);
        let stopping = bench.engine.stopping.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(10_500)).await;
            stopping.cancel();
        });
        let serial = bench.session.record().serial;
        let summary = bench.walk(lane()).await;
        assert!(summary.stopped && ids(&summary.done).contains(&"sync/mvmd"));
        assert_eq!(ids(&summary.in_doubt), ["await/cloud-init"]);
        assert_eq!(summary.duration, Duration::from_secs(32));
        assert_eq!(
            not_run(&summary),
            [
                ("build/mvmd", "await/cloud-init is not finished"),
                ("service/mvmd", "await/cloud-init is not finished"),
                ("smoke", "await/cloud-init is not finished"),
            ]
        );
        let record = bench.session.record();
        assert!(record.serial > serial, "the record is written");
        assert!(record.in_doubt.contains_key(&StepId::from_text("await/cloud-init")));
        let mut finishing = vec![];
        while let Ok(event) = bench.events.try_recv() {
            if let Event::StopRequested { finishing: steps, .. } = event {
                finishing.push(ids(&steps).join(" "));
            }
        }
        assert_eq!(finishing, ["await/cloud-init sync/mvmd"]);
    }

    #[tokio::test(start_paused = true)]
    async fn second_stop_returns_at_once_and_the_run_is_taken_up_later() {
        let bench = Bench::new(&[("build/mvmd", 500, Act::Done), ("sync/b", 500, Act::Done)]);
        let (stopping, abort) = (bench.engine.stopping.clone(), bench.engine.abort.clone());
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(10)).await;
            stopping.cancel();
            tokio::time::sleep(Duration::from_secs(10)).await;
            abort.cancel();
        });
        let steps = || vec![step("sync/a", &[]), step("build/mvmd", &["sync/a"]), step("sync/b", &[])];
        let summary = bench.walk(steps()).await;
        assert_eq!(summary.duration, Duration::from_secs(20));
        assert_eq!((ids(&summary.detached), ids(&summary.in_doubt)), (vec!["build/mvmd"], vec!["sync/b"]));
        let first = bench.script.task("build/mvmd");
        assert!(!first.resume);

        let bench = Bench::again(bench.die().await, &[]);
        let mut steps = steps();
        steps[0].action = Action::NoOp;
        assert!(bench.walk(steps).await.is_success());
        let second = bench.script.task("build/mvmd");
        assert!(second.resume);
        assert_eq!(second.run_id, first.run_id);
        assert!(bench.session.record().in_doubt.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_detached_job_is_taken_up_only_for_the_same_inputs() {
        let bench = Bench::new(&[("build/mvmd", 1, Act::Detach)]);
        let stopping = bench.engine.stopping.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(3)).await;
            stopping.cancel();
        });
        let summary = bench.walk(vec![step("build/mvmd", &[])]).await;
        assert_eq!(ids(&summary.detached), ["build/mvmd"]);
        let first = bench.script.task("build/mvmd").run_id.unwrap();
        assert!(first.0.len() == 26 && first.0.chars().all(|c| c.is_ascii_digit() || c.is_ascii_lowercase()));

        let bench = Bench::again(bench.die().await, &[]);
        let changed = Fingerprint(Digest::of(b"edited"));
        let summary = bench.walk(vec![PlannedStep { fingerprint: changed, ..step("build/mvmd", &[]) }]).await;
        assert!(summary.is_success());
        let second = bench.script.task("build/mvmd");
        assert!(!second.resume && second.run_id.unwrap() != first);
        assert_eq!(second.in_doubt.unwrap().run, Some(first), "the old run has to be found and stopped");
    }

    #[tokio::test(start_paused = true)]
    async fn a_run_that_is_stopped_before_it_starts_does_nothing() {
        let bench = Bench::new(&[]);
        bench.engine.stopping.cancel();
        let summary = bench.walk(vec![step("sync/a", &[])]).await;
        assert!(bench.script.story().is_empty());
        assert_eq!(not_run(&summary), [("sync/a", "the run was stopped")]);
    }

    /// Every write of a run fails once; whatever was not journaled had no effect, and nothing starts after it.
    #[tokio::test(start_paused = true)]
    async fn a_failed_journal_write_stops_the_run_before_the_effect() {
        // 8 intents, 8 outcomes and the checkpoint.
        for fail_at in 0..17 {
            let bench = Bench::new(&[("await/cloud-init", 30, Act::Done), ("sync/mvmd", 5, Act::Done)]);
            let (session, writes) = (bench.session.clone(), AtomicUsize::new(0));
            let journal = Failing { session, writes, fail_at, failed: AtomicBool::new(false) };
            let engine = Engine { journal: Arc::new(journal), ..bench.engine.clone() };
            let error = engine.walk(&plan(lane()), RunOptions::default()).await.unwrap_err();
            let RunError::State { summary, .. } = error else { panic!("write {fail_at}: {error}") };
            let record = bench.session.record();
            let mut effects: Vec<_> =
                bench.script.tasks.lock().unwrap().iter().map(|t| t.step.id.clone()).collect();
            effects.sort();
            let mut journaled: Vec<_> = record.steps.keys().chain(record.in_doubt.keys()).cloned().collect();
            journaled.sort();
            assert_eq!(effects, journaled, "write {fail_at}");
            let listed = summary.done.len() + summary.in_doubt.len() + summary.not_run.len();
            assert_eq!(listed, 8, "write {fail_at}: {summary:?}");
            assert_eq!(summary.done.len(), record.steps.len(), "write {fail_at}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_step_that_cannot_write_state_stops_the_run_too() {
        let bench = Bench::new(&[("provision/host", 1, Act::BreakState)]);
        let error = bench.engine.walk(&plan(lane()), RunOptions::default()).await.unwrap_err();
        let RunError::State { summary, .. } = error else { panic!("{error}") };
        assert_eq!(ids(&summary.in_doubt), ["provision/host"]);
        assert_eq!(bench.script.story().len(), 2);
        assert!(bench.session.record().in_doubt.contains_key(&StepId::from_text("provision/host")));
    }

    /// `lane` dies at every second of a run; the next run does what is missing and takes up the same build.
    #[tokio::test(start_paused = true)]
    async fn whatever_second_it_dies_the_next_run_finishes() {
        let acts =
            [("await/cloud-init", 6, Act::Done), ("sync/mvmd", 3, Act::Done), ("build/mvmd", 5, Act::Done)];
        for second in 0..16 {
            let bench = Bench::new(&acts);
            let limit = Duration::from_millis(second * 1000 + 500);
            let died = tokio::time::timeout(limit, bench.walk(lane())).await.is_err();
            assert_eq!(died, second < 15, "a whole run takes 15 seconds");
            let build = bench.session.record().in_doubt.remove(&StepId::from_text("build/mvmd"));
            let bench = Bench::again(bench.die().await, &acts);
            let before = bench.session.record();
            let mut steps = lane();
            for step in &mut steps {
                if before.steps.contains_key(&step.id) && !before.in_doubt.contains_key(&step.id) {
                    step.action = Action::NoOp;
                }
            }
            let missing = steps.iter().filter(|step| step.action.is_change()).count();
            let summary = bench.walk(steps).await;
            assert!(summary.is_success() && summary.done.len() == missing, "second {second}: {summary:?}");
            let record = bench.session.record();
            assert!(record.in_doubt.is_empty() && record.steps.len() == 8, "second {second}");
            if let Some(build) = build {
                let task = bench.script.task("build/mvmd");
                assert!(task.resume && task.run_id == build.run && build.run.is_some(), "second {second}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn events_tell_the_whole_run_in_order() {
        let mut bench = Bench::new(&[("sync/a", 1, Act::Fail)]);
        bench.walk(vec![step("sync/a", &[]), step("build/mvmd", &["sync/a"]), step("sync/b", &[])]).await;
        assert_eq!(
            bench.event_names(),
            [
                "run_started",
                "step_started sync/a",
                "step_started sync/b",
                "step_failed sync/a",
                "step_finished sync/b",
                "step_not_run build/mvmd",
                "run_finished",
            ]
        );
    }
}
