//! A small lane for tests, built by hand: no YAML, no file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;

use super::{
    Action, Desired, DiffInput, HostView, Observed, ObservedHost, Plan, ServiceView, StepId, Work, desired,
    diff,
};
use crate::inputs::{Inputs, Tree, TreeEntry, TreeKind};
use crate::plan::Digest;
use crate::provider::{Host, HostId, HostStatus, Lineage, Money, Price, Region, Sku};
use crate::spec::{
    Access, AllowFrom, Build, FileTemplate, GenerateAs, KvmNeed, Lease, LocalFile, Name, Probe, ProbeKind,
    ProviderSpec, Run, Secret, Service, Source, SourceMap, Spec, Timeouts,
};
use crate::state::{HostRecord, Outcome, Record, StepRecord};

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn file(written: &str, key: &str) -> LocalFile {
    LocalFile { path: PathBuf::from("/here").join(written), written: written.to_owned(), key: key.to_owned() }
}

fn run(run: &str, in_source: Option<&str>) -> Run {
    Run {
        in_source: in_source.map(name),
        run: run.to_owned(),
        env: BTreeMap::new(),
        junit: None,
        timeout: None,
    }
}

fn probe(kind: ProbeKind, needs: &[&str]) -> Probe {
    Probe { kind, needs: needs.iter().map(|needed| name(needed)).collect(), timeout: None }
}

pub(crate) fn tree(files: &[(&str, &str)]) -> Tree {
    Tree::new(
        files
            .iter()
            .map(|(path, text)| TreeEntry {
                path: (*path).to_owned(),
                kind: TreeKind::File {
                    executable: false,
                    size: text.len() as u64,
                    digest: Digest::of(text.as_bytes()),
                },
            })
            .collect(),
    )
}

pub(crate) const AGENT_UNIT: &str = "[Unit]\nDescription=Agent\n\n[Service]\nExecStart=/usr/local/bin/agent\n\
    Restart=on-failure\n\n[Install]\nWantedBy=multi-user.target\n";

/// A spec with one of everything, and what it names on this machine.
pub(crate) fn lane() -> (Spec, Inputs) {
    let minutes = |minutes: u64| Duration::from_secs(60 * minutes);
    let service = |unit: &str, after: &[&str], needs: &[&str]| Service {
        unit: file(&format!("deploy/{unit}.service"), &format!("services.{unit}.unit")),
        after: after.iter().map(|other| name(other)).collect(),
        needs: needs.iter().map(|&path| path.to_owned()).collect(),
        env: BTreeMap::new(),
        stable_for: Duration::from_secs(2),
    };
    let template = |written: &str| FileTemplate {
        template: file(written, "files.template"),
        mode: 0o640,
        owner: "root:root".to_owned(),
    };
    let source = |folder: &str| Source {
        folder: file(folder, &format!("sources.{folder}.path")),
        to: format!("/home/mvm/{folder}"),
        exclude: vec![],
    };
    let build = |package: &str, needs: &[&str]| Build {
        command: run(&format!("cargo build --release --package {package}"), Some("app")),
        install: [(format!("target/release/{package}"), format!("/usr/local/bin/{package}"))].into(),
        needs: needs.iter().map(|other| name(other)).collect(),
    };
    let spec = Spec {
        source_map: SourceMap::default(),
        digest: Digest::of(b"spec"),
        name: name("demo"),
        provider: ProviderSpec { name: "example".to_owned(), config: serde_json::json!({"zone": "a"}) },
        sku: Sku::fixed("small"),
        region: Region::fixed("here"),
        image: "debian-13".to_owned(),
        disk_bytes: 50_000_000_000,
        kvm: KvmNeed::Optional,
        lease: Lease { ttl: minutes(120), max_spend: None },
        price: None,
        access: Access { user: "mvm".to_owned(), allow_from: AllowFrom::Auto, authorized_keys: vec![] },
        cloud_init: Some(file("cloud-init.yaml", "cloud_init")),
        sources: ["app", "lib", "suite"].map(|folder| (name(folder), source(folder))).into(),
        build: [
            (name("agent"), build("agent", &["lib"])),
            (name("agent-helper"), build("agent-helper", &[])),
        ]
        .into(),
        secrets: [(name("hmac"), Secret { generate: GenerateAs::Hex, bytes: 32 })].into(),
        files: [
            ("/etc/app/agent.toml".to_owned(), template("deploy/agent.toml.j2")),
            ("/etc/app/plain.conf".to_owned(), template("deploy/plain.conf.j2")),
        ]
        .into(),
        services: [
            (name("agent"), service("agent", &["store"], &["/etc/app/agent.toml"])),
            (name("store"), service("store", &[], &[])),
        ]
        .into(),
        probes: [
            (name("kvm"), probe(ProbeKind::Kvm, &[])),
            (name("port"), probe(ProbeKind::Tcp { address: "127.0.0.1:80".to_owned() }, &[])),
            (name("agent"), probe(ProbeKind::Systemd { unit: "agent".to_owned() }, &["agent"])),
        ]
        .into(),
        smoke: Some(run("bash smoke.sh", Some("app"))),
        tests: Some(run("bash run-tests.sh", Some("suite"))),
        timeouts: Timeouts {
            provision: minutes(10),
            ssh: minutes(5),
            cloud_init: minutes(15),
            sync: minutes(10),
            build: minutes(60),
            service: minutes(2),
            probe: minutes(1),
            smoke: minutes(10),
            tests: minutes(60),
            destroy: minutes(15),
        },
    };
    let texts = [
        ("cloud-init.yaml", "#cloud-config\npackages: [gcc]\n"),
        ("deploy/agent.service", AGENT_UNIT),
        (
            "deploy/store.service",
            "[Service]\nExecStart=/usr/local/bin/agent-helper --config=/etc/app/plain.conf\n",
        ),
        ("deploy/agent.toml.j2", "key = \"{{ secrets.hmac }}\"\n"),
        ("deploy/plain.conf.j2", "lane = {{ lane.name }}\n"),
    ];
    let inputs = Inputs {
        texts: texts.map(|(path, text)| (PathBuf::from("/here").join(path), text.to_owned())).into(),
        trees: [
            (name("app"), tree(&[("Cargo.toml", "[workspace]"), ("src/main.rs", "fn main() {}")])),
            (name("lib"), tree(&[("lib.rs", "")])),
            (name("suite"), tree(&[("run-tests.sh", "exit 0")])),
        ]
        .into(),
        missing: vec![],
    };
    (spec, inputs)
}

pub(crate) fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// A lane with its record and what is seen of it: enough to plan, edit, apply in mind and plan again.
#[derive(Debug, Clone)]
pub(crate) struct Scene {
    pub(crate) spec: Spec,
    pub(crate) inputs: Inputs,
    pub(crate) record: Record,
    pub(crate) observed: Observed,
    pub(crate) trees: BTreeMap<Name, Tree>,
    pub(crate) texts: BTreeMap<Digest, String>,
    pub(crate) rerun: Vec<StepId>,
    pub(crate) now: Timestamp,
}

impl Scene {
    /// A lane that was never applied.
    pub(crate) fn fresh() -> Self {
        let (spec, inputs) = lane();
        Self {
            spec,
            inputs,
            record: Record::new("demo", Lineage::fixed("01j00000000000000012345678")),
            observed: Observed { host: ObservedHost::Absent, view: None, unreachable: None },
            trees: BTreeMap::new(),
            texts: BTreeMap::new(),
            rerun: vec![],
            now: at("2026-05-06T10:00:00Z"),
        }
    }

    /// A lane whose apply went through.
    pub(crate) fn applied() -> Self {
        let mut scene = Self::fresh();
        let plan = scene.plan();
        scene.apply(&plan);
        scene
    }

    pub(crate) fn desired(&self) -> Desired {
        desired(&self.spec, &self.inputs, false).unwrap()
    }

    pub(crate) fn try_plan(&self) -> Result<Plan, super::DiffError> {
        diff(&DiffInput {
            spec: &self.spec,
            desired: &self.desired(),
            inputs: &self.inputs,
            record: &self.record,
            observed: &self.observed,
            recorded_trees: &self.trees,
            old_texts: &self.texts,
            user_data: None,
            price: Some(Price {
                per_hour: Money { micros: 190_000, currency: "USD".to_owned() },
                source: "a table, 2026-05-06".to_owned(),
            }),
            now: self.now,
            rerun: &self.rerun,
        })
    }

    pub(crate) fn plan(&self) -> Plan {
        self.try_plan().unwrap()
    }

    /// Does in mind what a run without a failure does: in the record, and on the host.
    pub(crate) fn apply(&mut self, plan: &Plan) {
        for step in plan.changes() {
            self.run(step, Outcome::Done);
        }
        self.rerun.clear();
    }

    pub(crate) fn run(&mut self, step: &super::PlannedStep, outcome: Outcome) {
        let view = || self.observed.view.clone().unwrap_or_default();
        let stat = |what: &str| format!("10 1 {}", what.len());
        self.record.serial += 1;
        self.now = self.now.checked_add(Duration::from_secs(1)).unwrap();
        if step.action == Action::Forget {
            self.record.steps.remove(&step.id);
            self.record.in_doubt.remove(&step.id);
            return;
        }
        let mut facts = BTreeMap::new();
        match &step.work {
            Work::Provision => {
                self.provision(step);
            }
            Work::Sync(source) => {
                self.trees.insert(source.clone(), self.inputs.trees[source].clone());
                let mut view = view();
                view.sources.push(self.spec.sources[source].to.clone());
                self.observed.view = Some(view);
            }
            Work::Secret(secret) => {
                let mut view = view();
                view.secrets.push(secret.to_string());
                self.observed.view = Some(view);
            }
            Work::File(path) => {
                let mut view = view();
                facts.insert(format!("stat:{path}"), stat(path));
                view.files.insert(path.clone(), Some(stat(path)));
                self.observed.view = Some(view);
            }
            Work::Install(build) => {
                let mut view = view();
                for (output, path) in &self.spec.build[build].install {
                    facts.insert(format!("stat:{path}"), stat(path));
                    facts.insert(format!("output:{output}"), stat(output));
                    view.files.insert(path.clone(), Some(stat(path)));
                    view.files.insert(output.clone(), Some(stat(output)));
                }
                self.observed.view = Some(view);
            }
            Work::Service(service) => {
                let mut view = view();
                facts.insert(format!("stat:/etc/systemd/system/{service}.service"), stat(service.as_str()));
                let running = ServiceView {
                    active: "active".to_owned(),
                    sub: "running".to_owned(),
                    enabled: "enabled".to_owned(),
                    unit_file: Some(stat(service.as_str())),
                };
                view.services.insert(service.to_string(), running);
                self.observed.view = Some(view);
            }
            _ => {}
        }
        for text in self.inputs.texts.values() {
            self.texts.insert(Digest::of(text.as_bytes()), text.clone());
        }
        let record = StepRecord {
            outcome,
            fingerprint: step.fingerprint.clone(),
            inputs: step.inputs.clone(),
            at: self.now,
            duration_ms: 1000,
            facts,
        };
        self.record.in_doubt.remove(&step.id);
        self.record.steps.insert(step.id.clone(), record);
    }

    fn provision(&mut self, step: &super::PlannedStep) {
        self.record.steps.clear();
        self.record.in_doubt.clear();
        let id = HostId::new(format!("host-{}", self.record.serial));
        let expires_at = self.now.checked_add(self.spec.lease.ttl).unwrap();
        self.record.host = Some(HostRecord {
            id: Some(id.clone()),
            provider: self.spec.provider.name.clone(),
            scope: None,
            provider_config: self.spec.provider.config.clone(),
            sku: self.spec.sku.clone(),
            region: self.spec.region.clone(),
            image: self.spec.image.clone(),
            user: self.spec.access.user.clone(),
            address: Some("192.0.2.7".parse().unwrap()),
            ssh_port: 22,
            created_at: self.now,
            expires_at,
            fingerprint: step.fingerprint.clone(),
            user_data: Digest::of(b"user-data"),
            tainted: None,
        });
        self.observed = Observed {
            host: ObservedHost::Present(Host {
                id,
                label: self.record.label(),
                status: HostStatus::Running,
                address: Some("192.0.2.7".parse().unwrap()),
                ssh_port: 22,
                sku: self.spec.sku.clone(),
                region: self.spec.region.clone(),
                fingerprint: Some(step.fingerprint.clone()),
                created_at: Some(self.now),
                expires_at: Some(expires_at),
            }),
            view: Some(HostView { lineage: Some(self.record.lineage.to_string()), ..HostView::default() }),
            unreachable: None,
        };
    }

    pub(crate) fn view(&mut self) -> &mut HostView {
        self.observed.view.as_mut().unwrap()
    }

    pub(crate) fn edit_text(&mut self, path: &str, text: &str) {
        self.inputs.texts.insert(PathBuf::from("/here").join(path), text.to_owned());
    }

    pub(crate) fn edit_tree(&mut self, source: &str, files: &[(&str, &str)]) {
        self.inputs.trees.insert(name(source), tree(files));
    }
}

/// The steps that do something, as `id action`.
pub(crate) fn changes(plan: &Plan) -> Vec<String> {
    plan.changes().map(|step| format!("{} {}", step.id, action_name(step.action))).collect()
}

fn action_name(action: Action) -> String {
    serde_json::to_value(action).unwrap().as_str().unwrap().to_owned()
}
