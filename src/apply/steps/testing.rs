//! A cloud and a host in memory, with scripted faults, for the tests of this folder. Not compiled into the program.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Connector, RunContext, StepContext};
use crate::apply::event::{Event, EventSink};
use crate::apply::step_log::StepLog;
use crate::inputs::Inputs;
use crate::plan::{Action, Digest, Fingerprint, PlannedStep, Work};
use crate::provider::{
    CreateRequest, Entry, Host, HostId, HostStatus, KvmSupport, Label, Provider, ProviderError, Region,
    Residue, Selector, Sku,
};
use crate::spec::{Access, AllowFrom, KvmNeed, Lease, Name, ProviderSpec, SourceMap, Spec, Timeouts};
use crate::state::{HostRecord, LaneDir, RunId};
use crate::transport::{Output, Remote, Script, Sink, SyncRequest, SyncStats, TransportError};
use crate::world::{Clock, World};

pub(in crate::apply) const LAG: Duration = Duration::from_secs(10);

pub(in crate::apply) static ENTRY: Entry = Entry {
    name: "fake",
    about: "a cloud in memory",
    credentials: &[],
    tools: &[],
    endpoint: "",
    default_sku: Sku::fixed("small"),
    default_region: Region::fixed("here"),
    default_image: "image",
    listing_lag: LAG,
    provision_timeout: Duration::from_mins(1),
    user_data_limit: 16_384,
    cloud_clock: false,
    timer_stops_bill: false,
    region_key: "region",
    init_keys: String::new,
    schema: |_| schemars::Schema::default(),
    kvm: |_| KvmSupport::Unknown,
    prices: &[crate::provider::Listed::new("small", "", 250_000, "EUR", "test")],
    connect: |_, _, _| Ok(Box::new(FakeCloud::default())),
};

/// What happens to one create.
#[derive(Debug, Clone, Copy)]
pub(in crate::apply) enum CreateFault {
    /// The request is lost: no host, no answer.
    LostBefore,
    /// The answer is lost: a host, no answer.
    LostAfter,
    /// The cloud says: later.
    Later,
}

#[derive(Debug)]
struct Listed {
    host: Host,
    from: Instant,
    until: Option<Instant>,
}

#[derive(Debug, Default)]
pub(in crate::apply) struct CloudState {
    listed: Vec<Listed>,
    pub(in crate::apply) faults: VecDeque<CreateFault>,
    pub(in crate::apply) creates: Vec<CreateRequest>,
    pub(in crate::apply) destroyed: Vec<HostId>,
    /// How long a fresh host is not listed.
    pub(in crate::apply) lag: Duration,
    /// How long a destroyed host stays listed.
    pub(in crate::apply) linger: Duration,
    pub(in crate::apply) residue: Vec<Residue>,
    pub(in crate::apply) finds: usize,
    pub(in crate::apply) failing_finds: usize,
    /// How long each call takes before it has its effect.
    pub(in crate::apply) latency: Duration,
    pub(in crate::apply) no_address: bool,
    pub(in crate::apply) console: Option<String>,
    pub(in crate::apply) scope: Option<String>,
    /// Ids are our own names, and a host's parts are there this long before the host is.
    pub(in crate::apply) parts_first: Option<Duration>,
    /// Its `find` answers that the credentials are wrong.
    pub(in crate::apply) locked_out: bool,
}

/// A cloud with a memory, whose listing lags and whose answers get lost.
#[derive(Debug, Clone, Default)]
pub(in crate::apply) struct FakeCloud(pub(in crate::apply) Arc<Mutex<CloudState>>);

impl FakeCloud {
    pub(in crate::apply) fn with<T>(&self, change: impl FnOnce(&mut CloudState) -> T) -> T {
        change(&mut self.0.lock().unwrap())
    }

    /// Puts a host there, as an earlier run would have left it.
    pub(in crate::apply) fn put(
        &self,
        label: &Label,
        fingerprint: Option<&Fingerprint>,
        visible_in: Duration,
    ) -> HostId {
        self.with(|state| {
            let id = match state.parts_first {
                Some(_) => HostId::new(label.to_string()),
                None => HostId::new(format!("h{}", state.listed.len() + 1)),
            };
            let address = (!state.no_address).then_some(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)));
            let host = Host {
                id: id.clone(),
                label: label.clone(),
                status: HostStatus::Running,
                address,
                ssh_port: 22,
                sku: Sku::fixed("small"),
                region: Region::fixed("here"),
                fingerprint: fingerprint.cloned(),
                created_at: None,
                expires_at: None,
            };
            state.listed.push(Listed { host, from: Instant::now() + visible_in, until: None });
            id
        })
    }

    fn make(&self, request: &CreateRequest, visible_in: Duration) -> HostId {
        let id = self.put(&request.label, Some(&request.fingerprint), visible_in);
        self.change_host(&id, |host| host.expires_at = Some(request.expires_at));
        id
    }

    async fn take_time(&self) {
        tokio::time::sleep(self.with(|state| state.latency)).await;
    }

    pub(in crate::apply) fn change_host(&self, id: &HostId, change: impl FnOnce(&mut Host)) {
        self.with(|state| {
            change(&mut state.listed.iter_mut().rfind(|listed| listed.host.id == *id).unwrap().host);
        });
    }

    /// Returns the hosts that exist, listed or not.
    pub(in crate::apply) fn alive(&self) -> Vec<HostId> {
        self.with(|state| {
            state
                .listed
                .iter()
                .filter(|listed| listed.until.is_none())
                .map(|listed| listed.host.id.clone())
                .collect()
        })
    }
}

#[async_trait]
impl Provider for FakeCloud {
    async fn create(&self, request: &CreateRequest) -> Result<HostId, ProviderError> {
        self.take_time().await;
        let (fault, lag) = self.with(|state| {
            state.creates.push(request.clone());
            (state.faults.pop_front(), state.lag)
        });
        let lost =
            || ProviderError::Ambiguous { provider: "fake", operation: "create", message: "cut".to_owned() };
        match fault {
            Some(CreateFault::LostBefore) => Err(lost()),
            Some(CreateFault::Later) => Err(ProviderError::Transient {
                provider: "fake",
                operation: "create",
                message: "busy".to_owned(),
            }),
            Some(CreateFault::LostAfter) => {
                self.make(request, lag);
                Err(lost())
            }
            None => {
                if let Some(time) = self.with(|state| state.parts_first) {
                    let part = Residue {
                        kind: "address".to_owned(),
                        id: "a1".to_owned(),
                        detail: "of a host".to_owned(),
                        host: HostId::new(request.label.to_string()),
                        label: Some(request.label.clone()),
                        created_at: None,
                        expires_at: Some(request.expires_at),
                    };
                    self.with(|state| state.residue.push(part));
                    tokio::time::sleep(time).await;
                }
                Ok(self.make(request, lag))
            }
        }
    }

    async fn find(&self, _selector: &Selector) -> Result<Vec<Host>, ProviderError> {
        self.take_time().await;
        let now = Instant::now();
        self.with(|state| {
            state.finds += 1;
            if state.locked_out {
                return Err(ProviderError::Auth { provider: "fake", message: "expired".to_owned() });
            }
            if state.failing_finds > 0 {
                state.failing_finds -= 1;
                let message = "busy".to_owned();
                return Err(ProviderError::Transient { provider: "fake", operation: "find", message });
            }
            // Foreign hosts too: a cloud's filter may be coarser than a label.
            let seen = |listed: &&Listed| listed.from <= now && listed.until.is_none_or(|until| until > now);
            Ok(state.listed.iter().filter(seen).map(|listed| listed.host.clone()).collect())
        })
    }

    async fn destroy(&self, id: &HostId) -> Result<(), ProviderError> {
        self.take_time().await;
        self.with(|state| {
            let until = Instant::now() + state.linger;
            for listed in state.listed.iter_mut().filter(|listed| listed.host.id == *id) {
                listed.until.get_or_insert(until);
            }
            if state.parts_first.is_some() {
                state.residue.retain(|part| part.host != *id);
            }
            if !state.destroyed.contains(id) {
                state.destroyed.push(id.clone());
            }
            Ok(())
        })
    }

    async fn residue(&self, _selector: &Selector) -> Result<Vec<Residue>, ProviderError> {
        Ok(self.with(|state| state.residue.clone()))
    }

    async fn scope(&self) -> Result<Option<String>, ProviderError> {
        Ok(self.with(|state| state.scope.clone()))
    }

    async fn console_log(&self, _id: &HostId) -> Result<Option<String>, ProviderError> {
        Ok(self.with(|state| state.console.clone()))
    }
}

/// A host whose answers are scripted; with none left it runs the script on this machine where that is allowed.
#[derive(Debug, Clone, Default)]
pub(in crate::apply) struct FakeHost {
    pub(in crate::apply) answers: Arc<Mutex<VecDeque<Result<Output, TransportError>>>>,
    pub(in crate::apply) scripts: Arc<Mutex<Vec<Script>>>,
    pub(in crate::apply) syncs: Arc<Mutex<Vec<SyncRequest>>>,
    /// Unscripted calls run here, for scripts that change nothing.
    pub(in crate::apply) run_here: bool,
    /// How long each answer takes.
    pub(in crate::apply) slow: Duration,
}

impl FakeHost {
    pub(in crate::apply) fn answer(&self, code: i32, stdout: &str) {
        let output = Output { code, stdout: stdout.into(), stderr: vec![] };
        self.answers.lock().unwrap().push_back(Ok(output));
    }

    pub(in crate::apply) fn drop_connection(&self) {
        self.answers.lock().unwrap().push_back(Err(Self::lost()));
    }

    fn lost() -> TransportError {
        TransportError::Connection { address: "10.0.0.1".to_owned(), message: "reset".to_owned() }
    }

    /// Returns the JSON requests that scripts were sent.
    pub(in crate::apply) fn requests(&self) -> Vec<serde_json::Value> {
        self.scripts
            .lock()
            .unwrap()
            .iter()
            .filter_map(|script| serde_json::from_slice(&script.stdin).ok())
            .collect()
    }
}

#[async_trait]
impl Remote for FakeHost {
    async fn exec(&self, script: Script) -> Result<Output, TransportError> {
        tokio::time::sleep(self.slow).await;
        self.scripts.lock().unwrap().push(script.clone());
        let answer = self.answers.lock().unwrap().pop_front();
        match answer {
            Some(answer) => answer,
            None if self.run_here => Ok(run_here(&script)),
            None => Err(Self::lost()),
        }
    }

    async fn stream(&self, script: Script, sink: &mut Sink<'_>) -> Result<i32, TransportError> {
        let output = self.exec(script).await?;
        sink(&output.stdout);
        Ok(output.code)
    }

    async fn sync(&self, request: &SyncRequest) -> Result<SyncStats, TransportError> {
        self.syncs.lock().unwrap().push(request.clone());
        match self.answers.lock().unwrap().pop_front() {
            Some(Err(error)) => Err(error),
            _ => Ok(SyncStats { transferred: 2, bytes: 10, deleted: request.remove.len() as u64 }),
        }
    }

    async fn close(&self) {}
}

#[async_trait]
impl Connector for FakeHost {
    fn connect(&self, _host: &HostRecord) -> Result<Arc<dyn Remote>, TransportError> {
        Ok(Arc::new(self.clone()))
    }
}

/// Runs a script with this machine's own shell.
pub(in crate::apply) fn run_here(script: &Script) -> Output {
    let mut child = Command::new("sh")
        .args(["-c", script.text, script.name])
        .args(&script.args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(std::io::Write::write_all(&mut child.stdin.take().unwrap(), &script.stdin));
    let output = child.wait_with_output().unwrap();
    Output { code: output.status.code().unwrap_or(255), stdout: output.stdout, stderr: output.stderr }
}

/// Runs a python script of this folder here with a request, and returns its reply.
pub(in crate::apply) fn python_here(
    code: &str,
    request: &serde_json::Value,
    path: Option<&str>,
) -> serde_json::Value {
    let mut command = Command::new("python3");
    command
        .args(["-I", "-S", "-c", code])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if let Some(path) = path {
        command.env("PATH", path);
    }
    let mut child = command.spawn().unwrap();
    drop(std::io::Write::write_all(&mut child.stdin.take().unwrap(), request.to_string().as_bytes()));
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Runs a python script of this folder once for each request, in one process to be quick, and returns its replies.
pub(in crate::apply) fn python_each_here(
    code: &str,
    requests: &[serde_json::Value],
    path: Option<&str>,
) -> Vec<serde_json::Value> {
    const EACH: &str = "import io, json, sys
code, requests = json.load(sys.stdin)
replies, stdout = [], sys.stdout
for request in requests:
    sys.stdin, sys.stdout = io.StringIO(json.dumps(request)), io.StringIO()
    try:
        exec(compile(code, 'script', 'exec'), {'__name__': '__main__'})
    except SystemExit:
        pass
    replies.append(json.loads(sys.stdout.getvalue()))
json.dump(replies, stdout)";
    let replies = python_here(EACH, &serde_json::json!([code, requests]), path);
    let replies: Vec<serde_json::Value> = serde_json::from_value(replies).unwrap();
    assert_eq!(replies.len(), requests.len());
    replies
}

#[derive(Debug)]
struct Stopped(Timestamp);

impl Clock for Stopped {
    fn now(&self) -> Timestamp {
        self.0
    }
}

/// Everything that a step needs, around a fake cloud and a fake host.
#[derive(Debug)]
pub(in crate::apply) struct Bench {
    pub(in crate::apply) cloud: FakeCloud,
    pub(in crate::apply) host: FakeHost,
    pub(in crate::apply) spec: Spec,
    pub(in crate::apply) inputs: Inputs,
    pub(in crate::apply) run: RunContext,
    pub(in crate::apply) events: UnboundedReceiver<Event>,
    /// Holds the lane's state; goes with the bench.
    _folder: tempfile::TempDir,
}

impl Bench {
    pub(in crate::apply) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let now = "2026-05-06T12:00:00Z".parse().unwrap();
        let env = BTreeMap::from([("TOKEN".to_owned(), "from-env".to_owned())]);
        let world = World::fixed(Arc::new(Stopped(now)), env, folder.path().to_owned());
        let session = LaneDir::new(folder.path(), "t").open(&world, "apply").unwrap();
        let (cloud, host) = (FakeCloud::default(), FakeHost::default());
        let (sink, events) = EventSink::channel();
        let run = RunContext {
            world,
            spec: None,
            image_id: None,
            inputs: Arc::default(),
            session,
            provider: Arc::new(cloud.clone()),
            entry: &ENTRY,
            connector: Arc::new(host.clone()),
            events: sink,
            stopping: CancellationToken::new(),
            abort: CancellationToken::new(),
        };
        Self { cloud, host, spec: spec(), inputs: Inputs::default(), run, events, _folder: folder }
    }

    pub(in crate::apply) fn label(&self) -> Label {
        self.run.session.record().label()
    }

    /// Makes the context of a step whose plan says `action`.
    pub(in crate::apply) fn context(&self, work: Work, action: Action) -> StepContext {
        let run = RunContext {
            spec: Some(Arc::new(self.spec.clone())),
            inputs: Arc::new(self.inputs.clone()),
            connector: Arc::new(self.host.clone()),
            ..self.run.clone()
        };
        let id = work.id();
        let log = StepLog::new(&run.session.dir().logs(), &id);
        let record = run.session.record();
        let step = PlannedStep {
            id: id.clone(),
            work,
            action,
            reasons: vec![],
            depends_on: vec![],
            fingerprint: fingerprint("wanted"),
            inputs: BTreeMap::new(),
            timeout: Duration::from_mins(1),
        };
        StepContext {
            run,
            step,
            previous: record.steps.get(&id).cloned(),
            in_doubt: record.in_doubt.get(&id).cloned(),
            run_id: Some(RunId("01run".to_owned())),
            resume: false,
            log,
        }
    }

    /// Puts a host with an address into record and cloud.
    pub(in crate::apply) fn with_host(self) -> Self {
        let id = self.cloud.put(&self.label(), Some(&fingerprint("wanted")), Duration::ZERO);
        self.record_host(Some(id.clone()), "wanted");
        let address = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
        self.run.session.append(crate::state::JournalEvent::HostAddressed { address, ssh_port: 22 }).unwrap();
        self
    }

    /// Journals a create as an earlier run would have.
    pub(in crate::apply) fn record_host(&self, id: Option<HostId>, made_for: &str) {
        use crate::state::JournalEvent::{CreateIntended, HostNamed};
        let host = HostRecord {
            id: None,
            provider: "fake".to_owned(),
            scope: self.cloud.with(|state| state.scope.clone()),
            provider_config: serde_json::Value::Null,
            sku: Sku::fixed("small"),
            region: Region::fixed("here"),
            image: "image".to_owned(),
            user: "mvm".to_owned(),
            address: None,
            ssh_port: 22,
            created_at: "2026-05-06T10:00:00Z".parse().unwrap(),
            expires_at: "2026-05-06T14:00:00Z".parse().unwrap(),
            fingerprint: fingerprint(made_for),
            user_data: Digest::of(b""),
            tainted: None,
        };
        let token = crate::provider::ClientToken::fixed("token");
        self.run.session.append(CreateIntended { host, token }).unwrap();
        if let Some(id) = id {
            self.run.session.append(HostNamed { id }).unwrap();
        }
    }

    /// Returns what was shown so far, one line each.
    pub(in crate::apply) fn shown(&mut self) -> Vec<String> {
        let mut lines = vec![];
        while let Ok(event) = self.events.try_recv() {
            match event {
                Event::StepNoted { note, .. } => lines.push(note),
                Event::StepOutput { line, .. } => lines.push(line),
                _ => {}
            }
        }
        lines
    }
}

pub(in crate::apply) fn fingerprint(text: &str) -> Fingerprint {
    Fingerprint(Digest::of(text.as_bytes()))
}

pub(in crate::apply) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn spec() -> Spec {
    let minute = Duration::from_mins(1);
    Spec {
        source_map: SourceMap::default(),
        digest: Digest::of(b"spec"),
        name: name("t"),
        provider: ProviderSpec { name: "fake".to_owned(), config: serde_json::Value::Null },
        sku: Sku::fixed("small"),
        region: Region::fixed("here"),
        image: "image".to_owned(),
        disk_bytes: 1 << 30,
        kvm: KvmNeed::Required,
        lease: Lease { ttl: Duration::from_hours(2), max_spend: None },
        price: None,
        access: Access { user: "mvm".to_owned(), allow_from: AllowFrom::Auto, authorized_keys: vec![] },
        cloud_init: None,
        sources: BTreeMap::new(),
        build: BTreeMap::new(),
        secrets: BTreeMap::new(),
        files: BTreeMap::new(),
        services: BTreeMap::new(),
        probes: BTreeMap::new(),
        smoke: None,
        tests: None,
        timeouts: Timeouts {
            provision: minute,
            ssh: minute,
            cloud_init: minute,
            sync: minute,
            build: minute,
            service: minute,
            probe: minute,
            smoke: minute,
            tests: minute,
            destroy: minute,
        },
    }
}
