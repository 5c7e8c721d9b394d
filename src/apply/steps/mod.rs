//! What each kind of step does. Prints nothing; speaks through its [`StepContext`] alone.
//!
//! Every step is idempotent: it looks first and does only what is missing, so running it twice is harmless.

mod build;
mod cloud_init;
mod destroy;
mod files;
pub(in crate::apply) mod host;
#[cfg(test)]
mod hostile;
mod probe;
mod provision;
mod service;
mod ssh;
mod sync;
#[cfg(test)]
pub(in crate::apply) mod testing;

pub use cloud_init::judge as judge_cloud_init;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::apply::cloud::Cloud;
use crate::apply::event::{Event, EventSink};
use crate::inputs::Inputs;
use crate::plan::{Action, PlannedStep, Work};
use crate::provider::{Provider, ProviderError};
use crate::spec::Spec;
use crate::state::{HostRecord, InDoubt, RunId, SharedSession, StateError, StepRecord};
use crate::transport::{Remote, TransportError};
use crate::world::World;

/// Makes the way to a host; OpenSSH in the program, something else in a simulation.
pub trait Connector: std::fmt::Debug + Send + Sync {
    /// Returns the way to this host; opens nothing yet.
    fn connect(&self, host: &HostRecord) -> Result<Arc<dyn Remote>, TransportError>;
}

/// What all steps of one run share.
#[derive(Debug, Clone)]
pub struct RunContext {
    /// Clock, environment, folders.
    pub world: World,
    /// The spec; `None` for a destroy without one.
    pub spec: Option<Arc<Spec>>,
    /// The vendor's own id of the image for a new host, as the plan has it.
    pub image_id: Option<String>,
    /// What the spec names on this machine.
    pub inputs: Arc<Inputs>,
    /// The record and its journal.
    pub session: SharedSession,
    /// The cloud.
    pub provider: Arc<dyn Provider>,
    /// Its entry.
    pub entry: &'static crate::provider::Entry,
    /// The way to the host.
    pub connector: Arc<dyn Connector>,
    /// Where events go.
    pub events: EventSink,
    /// Set at the first Ctrl-C: start nothing new; a job that outlives us on the host may be left to itself.
    pub stopping: CancellationToken,
    /// Set at the second Ctrl-C: return at once.
    pub abort: CancellationToken,
}

/// What one step gets.
#[derive(Debug, Clone)]
pub struct StepContext {
    /// What all steps share.
    pub run: RunContext,
    /// The step, with its action and reasons.
    pub step: PlannedStep,
    /// Its last outcome, if any.
    pub previous: Option<StepRecord>,
    /// What an earlier run left unfinished of it.
    pub in_doubt: Option<InDoubt>,
    /// Of a long step: the run to use on the host, journaled before this step is called.
    pub run_id: Option<RunId>,
    /// Of a long step: an earlier lane started this very run for the same fingerprint, so it may still go on.
    pub resume: bool,
    /// Its log file.
    pub log: crate::apply::step_log::StepLog,
}

/// What a step came to.
#[derive(Debug, Clone, Default)]
pub struct StepOutcome {
    /// One line for people: `unchanged`, `3 files`.
    pub summary: String,
    /// What the record keeps of it.
    pub facts: BTreeMap<String, String>,
}

/// Why a step did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum StepError {
    /// It failed; the message says what happened and shows what is known (journal, console, log tail).
    #[error("{0}")]
    Failed(String),
    /// The run was stopped while its job goes on on the host; the journal knows the job.
    #[error("goes on on the host; the next apply takes it up")]
    Detached,
    /// The run was stopped.
    #[error("stopped")]
    Stopped,
    /// Something of the lane is left in the cloud, or nobody can tell; the message starts by saying so.
    #[error("{0}")]
    MayCost(String),
    /// The provider failed.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// The way to the host failed.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// State could not be written: the run must stop.
    #[error(transparent)]
    State(#[from] StateError),
}

impl StepContext {
    /// Shows people a line about this step.
    pub fn note(&self, note: impl Into<String>) {
        self.run.events.send(Event::StepNoted {
            at: self.run.world.now(),
            step: self.step.id.clone(),
            note: note.into(),
        });
    }

    /// Writes a line of output to the step's log and to the reporters.
    pub fn output(&self, line: &str) {
        self.log.line(line);
        self.show(line);
    }

    /// Shows a line of output that the log has already.
    fn show(&self, line: &str) {
        self.run.events.send(Event::StepOutput {
            at: self.run.world.now(),
            step: self.step.id.clone(),
            line: line.to_owned(),
        });
    }

    /// Returns the cloud, telling of itself as this step.
    pub fn cloud(&self) -> Cloud<'_> {
        Cloud {
            provider: self.run.provider.as_ref(),
            entry: self.run.entry,
            world: &self.run.world,
            spec: self.run.spec.as_deref(),
            abort: &self.run.abort,
            note: Box::new(|note| self.note(note)),
        }
    }

    /// Returns the way to the recorded host.
    pub fn remote(&self) -> Result<Arc<dyn Remote>, StepError> {
        let host = self.run.session.record().host;
        let host = host.ok_or_else(|| StepError::Failed("there is no host yet".to_owned()))?;
        Ok(self.run.connector.connect(&host)?)
    }

    /// Returns the spec; steps that have one in their work can rely on it.
    pub fn spec(&self) -> Result<Arc<Spec>, StepError> {
        self.run.spec.clone().ok_or_else(|| StepError::Failed("this step needs the lane's spec".to_owned()))
    }
}

/// Takes off the host what a step that the spec dropped had put there; the executor then forgets its record.
///
/// Sources, build folders and secrets stay: they hold what cannot be made again, and the host goes sooner or later.
pub async fn forget(context: &StepContext) -> Result<StepOutcome, StepError> {
    match &context.step.work {
        Work::Service(name) => service::forget(context, name).await,
        Work::File(_) | Work::Install(_) => files::forget(context).await,
        _ => Ok(StepOutcome { summary: "forgotten".to_owned(), facts: BTreeMap::new() }),
    }
}

/// Does a step's work. The executor journals around it.
pub async fn run(context: &StepContext) -> Result<StepOutcome, StepError> {
    if context.step.action == Action::Forget {
        return forget(context).await;
    }
    match &context.step.work {
        Work::Provision => provision::run(context).await,
        Work::AwaitSsh => ssh::run(context).await,
        Work::AwaitCloudInit => cloud_init::run(context).await,
        Work::Sync(name) => sync::run(context, name).await,
        Work::Secret(name) => files::run_secret(context, name).await,
        Work::File(path) => files::run_file(context, path).await,
        Work::Build(name) => build::run_build(context, name).await,
        Work::Install(name) => build::run_install(context, name).await,
        Work::Service(name) => service::run(context, name).await,
        Work::Probe(name) => probe::run(context, name).await,
        Work::Smoke => build::run_smoke(context).await,
        Work::Tests => build::run_tests(context).await,
        Work::Destroy => destroy::run(context).await,
    }
}
