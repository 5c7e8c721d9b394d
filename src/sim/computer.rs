//! What is inside a machine: it answers the scripts that `lane` sends as a real host would, without running them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use fastrand::Rng;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::cloud::Cloud;
use crate::apply::steps::Connector;
use crate::state::HostRecord;
use crate::transport::{Output, Remote, Script, Sink, SyncRequest, SyncStats, TransportError};

/// Lines that every job writes, spread over its time.
const LINES: u32 = 20;

/// A command that outlives the connection.
#[derive(Debug)]
struct Job {
    unit: String,
    began: Instant,
    takes: Duration,
    code: i32,
    /// The machine went down, or another run of the unit took its place.
    killed: Option<Instant>,
}

impl Job {
    fn ended(&self) -> bool {
        self.killed.is_some() || self.began.elapsed() >= self.takes
    }

    fn exited(&self) -> Option<i32> {
        (self.killed.is_none() && self.began.elapsed() >= self.takes).then_some(self.code)
    }

    /// Returns what it has written by now.
    fn output(&self, run: &str) -> String {
        let until = self.killed.unwrap_or_else(Instant::now);
        let passed = until.duration_since(self.began).min(self.takes).as_millis();
        let lines = u128::from(LINES) * passed / self.takes.as_millis();
        output(run, u32::try_from(lines).expect("few lines"))
    }
}

/// Returns all that a run writes when it ends by itself.
pub(super) fn whole_output(run: &str) -> String {
    output(run, LINES)
}

fn output(run: &str, lines: u32) -> String {
    (0..lines).map(|line| format!("{run} {line}\n")).collect::<Vec<_>>().concat()
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Service {
    pub(super) unit: String,
    pub(super) active: bool,
    /// What its process was started with.
    with: BTreeMap<String, Option<String>>,
    pub(super) starts: u32,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Computer {
    lineage: String,
    boot: u64,
    address_from: Instant,
    ssh_from: Instant,
    ready_from: Instant,
    pub(super) sources: BTreeMap<String, BTreeSet<String>>,
    pub(super) files: BTreeMap<String, String>,
    secrets: BTreeSet<String>,
    /// The second for which its own timer was moved.
    pub(super) powers_off_at: Option<i64>,
    pub(super) services: BTreeMap<String, Service>,
    jobs: BTreeMap<String, Job>,
    /// How often each unit of a job was started.
    pub(super) job_starts: BTreeMap<String, u32>,
    /// How often a job did not end well, or had no chance to.
    pub(super) job_failures: BTreeMap<String, u32>,
    /// Chance in percent that a job fails.
    pub(super) bad_jobs: u8,
    rng: Rng,
}

impl Computer {
    pub(super) fn new(lineage: &str, rng: &mut Rng) -> Self {
        let mut rng = rng.fork();
        let now = Instant::now();
        let address_from = now + Duration::from_millis(rng.u64(..15_000));
        let ssh_from = address_from + Duration::from_millis(rng.u64(..40_000));
        Self {
            lineage: lineage.to_owned(),
            boot: rng.u64(..),
            address_from,
            ssh_from,
            ready_from: ssh_from + Duration::from_millis(rng.u64(..60_000)),
            sources: BTreeMap::new(),
            files: BTreeMap::new(),
            secrets: BTreeSet::new(),
            powers_off_at: None,
            services: BTreeMap::new(),
            jobs: BTreeMap::new(),
            job_starts: BTreeMap::new(),
            job_failures: BTreeMap::new(),
            bad_jobs: 0,
            rng,
        }
    }

    pub(super) fn has_address(&self) -> bool {
        self.address_from <= Instant::now()
    }

    fn answers(&self) -> bool {
        self.ssh_from <= Instant::now()
    }

    /// Ends what runs; services that are enabled come back.
    pub(super) fn reboot(&mut self) {
        self.boot = self.rng.u64(..);
        self.ssh_from = Instant::now() + Duration::from_millis(self.rng.u64(1_000..30_000));
        for job in self.jobs.values_mut().filter(|job| !job.ended()) {
            job.killed = Some(Instant::now());
            *self.job_failures.entry(job.unit.clone()).or_default() += 1;
        }
    }

    /// Stops a service, as a person would.
    pub(super) fn stop_service(&mut self, name: &str) {
        if let Some(service) = self.services.get_mut(name) {
            service.active = false;
        }
    }

    fn stat(&self, path: &str) -> Option<String> {
        self.files.get(path).map(|text| format!("10 1 {text}"))
    }

    fn answer(&mut self, script: &Script) -> Output {
        let arg = |index: usize| script.args.get(index).map_or("", String::as_str);
        let said = |text: String| Output { code: 0, stdout: text.into_bytes(), stderr: vec![] };
        let request: Value = serde_json::from_slice(&script.stdin).unwrap_or(Value::Null);
        match script.name {
            "login" => said(format!("{} mvm\n", arg(0))),
            "cloud-init look" => {
                let done = self.ready_from <= Instant::now();
                said(
                    json!({
                        "installed": true, "disabled": false, "done": done, "stuck": false, "stage": "final",
                        "errors": [], "warnings": [], "modules": [], "log": [], "tail": [], "chunk": "", "offset": 0,
                    })
                    .to_string(),
                )
            }
            "observe" => said(self.observe(&request).to_string()),
            "secret" => {
                let made = self.secrets.insert(text(&request, "name"));
                said(json!({"state": if made { "made" } else { "same" }}).to_string())
            }
            "file" => {
                let (path, token) = (text(&request, "path"), request["tokens"].to_string());
                // Tokens are drawn anew each time; what they stand for stays.
                let mut body = text(&request, "text");
                if token != "{}" {
                    body = body.split('@').next().unwrap_or_default().to_owned();
                }
                let same = self.files.get(&path) == Some(&body);
                self.files.insert(path.clone(), body);
                said(json!({"state": if same { "same" } else { "changed" }, "stat": self.stat(&path)}).to_string())
            }
            "remove" => {
                let paths = request["paths"].as_array().cloned().unwrap_or_default();
                let removed: Vec<&str> = paths.iter().filter_map(Value::as_str).collect();
                let removed: Vec<&str> =
                    removed.into_iter().filter(|path| self.files.remove(*path).is_some()).collect();
                said(json!({"removed": removed}).to_string())
            }
            "lease" => {
                self.powers_off_at = arg(0).parse().ok();
                said(String::new())
            }
            "install" => said(self.install(&request).to_string()),
            "service" => said(self.service(&request).to_string()),
            "kvm probe" => said(
                json!({"levels": [], "level": "guest ran", "machine": "x86_64", "denied": false, "why": null})
                    .to_string(),
            ),
            "probe" => said(json!({"ok": true, "said": "fine"}).to_string()),
            "job-start" => said(self.start(arg(0), arg(1), arg(4)).to_owned()),
            "job-outcome" => said(match self.jobs.get(arg(0)) {
                Some(job) => match job.exited() {
                    Some(code) => format!("exited {code}"),
                    None if job.ended() => "killed gone".to_owned(),
                    None => "running".to_owned(),
                },
                None => "killed gone".to_owned(),
            }),
            other => panic!("the simulated host knows no script {other}"),
        }
    }

    fn observe(&self, request: &Value) -> Value {
        let list = |key: &str| -> Vec<String> {
            let items = request[key].as_array().cloned().unwrap_or_default();
            items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
        };
        let services: BTreeMap<String, Value> = list("services")
            .into_iter()
            .map(|name| {
                let service = self.services.get(&name);
                let active = service.is_some_and(|service| service.active);
                let view = json!({
                    "active": if active { "active" } else { "inactive" },
                    "sub": if active { "running" } else { "dead" },
                    "enabled": if service.is_some() { "enabled" } else { "" },
                    "unit_file": self.stat(&format!("/etc/systemd/system/{name}.service")),
                });
                (name, view)
            })
            .collect();
        let files: BTreeMap<String, Option<String>> =
            list("files").into_iter().map(|path| (path.clone(), self.stat(&path))).collect();
        let sources: Vec<String> =
            list("sources").into_iter().filter(|to| self.sources.contains_key(to)).collect();
        json!({
            "lineage": self.lineage, "boot_id": self.boot.to_string(), "services": services, "files": files,
            "secrets": self.secrets, "sources": sources,
        })
    }

    /// Finds the last run of a build that ended well.
    fn built(&self, unit: &str) -> Option<&String> {
        let well = self.jobs.iter().filter(|(_, job)| job.unit == unit && job.exited() == Some(0));
        well.max_by_key(|(_, job)| job.began).map(|(run, _)| run)
    }

    fn install(&mut self, request: &Value) -> Value {
        let build = text(request, "build");
        let Some(run) = self.built(&format!("lane-build-{build}.service")).cloned() else {
            return json!({"failed": format!("build {build} left nothing")});
        };
        let mut results = vec![];
        for (from, to) in request["install"].as_object().cloned().unwrap_or_default() {
            let (source, to) =
                (format!("{}/{from}", text(request, "folder")), to.as_str().unwrap_or("").to_owned());
            self.files.insert(source.clone(), run.clone());
            let before = self.files.insert(to.clone(), run.clone());
            results.push(json!({
                "dst": to, "state": if before.as_ref() == Some(&run) { "same" } else { "changed" },
                "sha256": run, "stat": self.stat(&to), "source": source, "source_stat": self.stat(&source),
            }));
        }
        json!({"results": results})
    }

    fn service(&mut self, request: &Value) -> Value {
        let (name, unit) = (text(request, "name"), text(request, "unit"));
        let path = format!("/etc/systemd/system/{name}.service");
        if request["remove"] == true {
            self.files.remove(&path);
            let was = self.services.remove(&name).is_some();
            return json!({"state": if was { "removed" } else { "was not there" }, "reasons": [], "stat": ""});
        }
        let named = request["files"].as_array().cloned().unwrap_or_default();
        let named = named.iter().filter_map(|path| path.as_str().map(str::to_owned));
        let words =
            unit.split_whitespace().map(|word| word.rsplit('=').next().unwrap_or_default().to_owned());
        let with: BTreeMap<String, Option<String>> = named
            .chain(words.filter(|word| word.starts_with('/')))
            .map(|path| (path.clone(), self.stat(&path)))
            .collect();
        let before = self.services.get(&name);
        let same =
            before.is_some_and(|service| service.active && service.unit == unit && service.with == with);
        let starts = before.map_or(0, |service| service.starts) + u32::from(!same);
        self.files.insert(path.clone(), unit.clone());
        self.services.insert(name, Service { unit, active: true, with, starts });
        json!({"state": if same { "unchanged" } else { "restarted" }, "reasons": ["test"], "stat": self.stat(&path)})
    }

    /// The contract of `job_start.sh`.
    fn start(&mut self, run: &str, unit: &str, how: &str) -> &'static str {
        if let Some(job) = self.jobs.get(run) {
            return match (job.exited(), job.ended(), how) {
                (Some(_), ..) => "exited",
                (None, false, _) => "running",
                (None, true, "fresh") => "gone",
                (None, true, _) => "lost",
            };
        }
        if how != "fresh" {
            return "lost";
        }
        for job in self.jobs.values_mut().filter(|job| job.unit == unit && !job.ended()) {
            job.killed = Some(Instant::now());
            *self.job_failures.entry(unit.to_owned()).or_default() += 1;
        }
        let code = i32::from(self.rng.u8(..100) < self.bad_jobs);
        *self.job_failures.entry(unit.to_owned()).or_default() += u32::from(code != 0);
        *self.job_starts.entry(unit.to_owned()).or_default() += 1;
        let takes = Duration::from_millis(self.rng.u64(200..60_000));
        let job = Job { unit: unit.to_owned(), began: Instant::now(), takes, code, killed: None };
        self.jobs.insert(run.to_owned(), job);
        "started"
    }
}

fn text(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

/// The way to a machine, through a network that fails as often as the weather says.
#[derive(Debug, Clone)]
pub(super) struct SimRemote {
    cloud: Cloud,
    address: String,
}

impl Connector for Cloud {
    fn connect(&self, host: &HostRecord) -> Result<Arc<dyn Remote>, TransportError> {
        let address = host.address.map(|address| address.to_string()).unwrap_or_default();
        Ok(Arc::new(SimRemote { cloud: self.clone(), address }))
    }
}

impl SimRemote {
    fn lost(&self) -> TransportError {
        TransportError::Connection { address: self.address.clone(), message: "lost".to_owned() }
    }

    fn with<T>(&self, what: impl FnOnce(&mut Computer) -> T) -> Result<T, TransportError> {
        let mut ledger = self.cloud.ledger();
        let machine = ledger.machines.iter_mut().find(|machine| {
            machine.is_up() && machine.address.to_string() == self.address && machine.computer.answers()
        });
        machine.map(|machine| what(&mut machine.computer)).ok_or_else(|| self.lost())
    }

    fn drops(&self) -> bool {
        let mut ledger = self.cloud.ledger();
        let percent = ledger.weather.network;
        ledger.happens(percent)
    }

    async fn travel(&self) {
        let millis = self.cloud.ledger().rng.u64(1..300);
        sleep(Duration::from_millis(millis)).await;
    }

    /// Has an effect on the host between two points, each side of which may be cut off.
    async fn act<T>(
        &self,
        what: String,
        effect: impl FnOnce(&mut Computer) -> T + Send,
    ) -> Result<T, TransportError> {
        self.travel().await;
        self.cloud.fate.reach(|| what.clone()).map_err(|_| self.lost())?;
        if self.drops() {
            return Err(self.lost());
        }
        let done = self.with(effect)?;
        self.travel().await;
        self.cloud.fate.reach(|| format!("{what}, done")).map_err(|_| self.lost())?;
        if self.drops() { Err(self.lost()) } else { Ok(done) }
    }
}

#[async_trait]
impl Remote for SimRemote {
    async fn exec(&self, script: Script) -> Result<Output, TransportError> {
        if matches!(
            script.name,
            "login" | "cloud-init look" | "observe" | "job-outcome" | "probe" | "kvm probe"
        ) {
            self.travel().await;
            return if self.drops() {
                Err(self.lost())
            } else {
                self.with(|computer| computer.answer(&script))
            };
        }
        self.act(format!("ssh {}", script.name), |computer| computer.answer(&script)).await
    }

    async fn stream(&self, script: Script, sink: &mut Sink<'_>) -> Result<i32, TransportError> {
        assert_eq!(script.name, "job-follow");
        let run = script.args[0].clone();
        let mut offset: usize = script.args[2].parse().expect("an offset");
        loop {
            self.travel().await;
            if self.drops() {
                return Err(self.lost());
            }
            let (ended, output) = self.with(|computer| {
                computer.jobs.get(&run).map_or((true, String::new()), |job| (job.ended(), job.output(&run)))
            })?;
            let rest = output.as_bytes().get(offset..).unwrap_or_default().to_vec();
            // A connection is cut in the middle of a line as well as between two.
            let cut = !rest.is_empty() && self.drops();
            let sent = if cut { self.cloud.ledger().rng.usize(..rest.len()) } else { rest.len() };
            sink(&rest[..sent]);
            offset += sent;
            match (cut, ended) {
                (true, _) => return Err(self.lost()),
                (false, true) => return Ok(0),
                (false, false) => sleep(Duration::from_secs(1)).await,
            }
        }
    }

    async fn sync(&self, request: &SyncRequest) -> Result<SyncStats, TransportError> {
        self.travel().await;
        self.cloud.fate.reach(|| format!("sync {}", request.name)).map_err(|_| self.lost())?;
        // A copy that is cut short has brought any part of the files.
        let part =
            if self.drops() { self.cloud.ledger().rng.usize(..=request.files.len()) } else { usize::MAX };
        self.with(|computer| {
            let there = computer.sources.entry(request.to.clone()).or_default();
            if part == usize::MAX {
                there.retain(|path| !request.remove.contains(path));
            }
            there.extend(request.files.iter().take(part).cloned());
        })?;
        self.travel().await;
        self.cloud.fate.reach(|| format!("sync {}, done", request.name)).map_err(|_| self.lost())?;
        if part != usize::MAX || self.drops() {
            return Err(self.lost());
        }
        Ok(SyncStats { transferred: 1, bytes: 1, deleted: request.remove.len() as u64 })
    }

    async fn close(&self) {}
}
