//! Which steps a spec asks for, what each depends on, and its fingerprint. Knows no record and no host.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Value, json};

use super::{
    CycleError, Dependency, DependencyKind, Digester, Fingerprint, StepGraph, StepId, StepSpec, Work,
};
use crate::inputs::Inputs;
use crate::spec::{AllowFrom, KvmNeed, LocalFile, Name, Probe, ProbeKind, Run, Spec};

/// What stands for the digest of a file that is not on this machine.
const UNKNOWN: &str = "unknown";

/// The lane as its spec wants it.
#[derive(Debug, Clone)]
pub struct Desired {
    /// All steps, each after what it depends on, ties by id.
    pub steps: Vec<StepSpec>,
}

impl Desired {
    /// Returns the step of this id.
    pub fn get(&self, id: &StepId) -> Option<&StepSpec> {
        self.steps.iter().find(|step| step.work.id() == *id)
    }
}

/// Derives the steps of a spec; the test suite is one of them only if asked for.
pub fn desired(spec: &Spec, inputs: &Inputs, with_tests: bool) -> Result<Desired, CycleError> {
    let mut steps = Steps { spec, inputs, all: BTreeMap::new() };
    steps.host();
    steps.contents();
    steps.services();
    steps.checks(with_tests);
    steps.finish()
}

struct Steps<'a> {
    spec: &'a Spec,
    inputs: &'a Inputs,
    all: BTreeMap<StepId, Draft>,
}

/// A step before its fingerprint is known.
struct Draft {
    work: Work,
    inputs: BTreeMap<String, String>,
    depends_on: BTreeMap<StepId, DependencyKind>,
    timeout: Duration,
}

impl Draft {
    fn input(&mut self, name: &str, value: impl Into<String>) -> &mut Self {
        self.inputs.insert(name.to_owned(), value.into());
        self
    }

    fn run(&mut self, run: &Run) -> &mut Self {
        self.input("run", &run.run)
            .input("env", text_of(&json!(run.env)))
            .input("in", run.in_source.as_ref().map_or("", Name::as_str))
    }

    fn needs(&mut self, works: impl IntoIterator<Item = Work>) -> &mut Self {
        self.depends_on.extend(works.into_iter().map(|work| (work.id(), DependencyKind::Input)));
        self
    }

    /// Orders after these; what is an input already stays one.
    fn after(&mut self, works: impl IntoIterator<Item = Work>) -> &mut Self {
        for work in works {
            self.depends_on.entry(work.id()).or_insert(DependencyKind::Order);
        }
        self
    }
}

impl Steps<'_> {
    fn add(&mut self, work: Work, timeout: Duration) -> &mut Draft {
        let draft = Draft { work, inputs: BTreeMap::new(), depends_on: BTreeMap::new(), timeout };
        self.all.entry(draft.work.id()).insert_entry(draft).into_mut()
    }

    fn digest(&self, file: &LocalFile) -> String {
        self.inputs
            .text_digest(&file.path)
            .map_or_else(|| UNKNOWN.to_owned(), |digest| digest.as_str().to_owned())
    }

    fn text(&self, file: &LocalFile) -> &str {
        self.inputs.texts.get(&file.path).map_or("", String::as_str)
    }

    fn host(&mut self) {
        let spec = self.spec;
        let cloud_init = spec.cloud_init.as_ref().map_or_else(String::new, |file| self.digest(file));
        let mut keys = Digester::new("authorized_keys");
        for key in &spec.access.authorized_keys {
            keys.field(key.as_bytes());
        }
        let allow_from = match &spec.access.allow_from {
            AllowFrom::Auto => "auto".to_owned(),
            AllowFrom::Cidrs(cidrs) => cidrs.join(", "),
        };
        self.add(Work::Provision, spec.timeouts.provision)
            .input("provider", &spec.provider.name)
            .input("provider_config", text_of(&spec.provider.config))
            .input("sku", spec.sku.as_str())
            .input("region", spec.region.as_str())
            .input("image", &spec.image)
            .input("disk", spec.disk_bytes.to_string())
            // Whether a missing KVM is fatal is the probe's affair; the host is made the same.
            .input("kvm", (spec.kvm != KvmNeed::None).to_string())
            .input("user", &spec.access.user)
            .input("cloud_init", cloud_init)
            .input("authorized_keys", keys.finish().as_str())
            .input("allow_from", allow_from);
        self.add(Work::AwaitSsh, spec.timeouts.ssh).needs([Work::Provision]);
        self.add(Work::AwaitCloudInit, spec.timeouts.cloud_init).needs([Work::AwaitSsh]);
    }

    fn contents(&mut self) {
        let spec = self.spec;
        for (name, source) in &spec.sources {
            let tree = self.inputs.trees.get(name).map_or(UNKNOWN, |tree| tree.digest.as_str());
            self.add(Work::Sync(name.clone()), spec.timeouts.sync)
                .input("tree", tree)
                .input("to", &source.to);
        }
        for (name, secret) in &spec.secrets {
            self.add(Work::Secret(name.clone()), spec.timeouts.sync)
                .input("generate", format!("{:?}", secret.generate).to_lowercase())
                .input("bytes", secret.bytes.to_string());
        }
        for (name, build) in &spec.build {
            let sources = build.command.in_source.iter().chain(&build.needs).cloned().map(Work::Sync);
            self.add(Work::Build(name.clone()), build.command.timeout.unwrap_or(spec.timeouts.build))
                .run(&build.command)
                .needs(sources)
                .after([Work::AwaitCloudInit]);
            if !build.install.is_empty() {
                self.add(Work::Install(name.clone()), spec.timeouts.sync)
                    .input("paths", text_of(&json!(build.install)))
                    .needs([Work::Build(name.clone())])
                    .after([Work::AwaitCloudInit]);
            }
        }
        for (path, file) in &spec.files {
            let (template, text) = (self.digest(&file.template), self.text(&file.template));
            let secrets = spec.secrets.keys().filter(|name| mentions_secret(text, name));
            let secrets: Vec<Work> = secrets.cloned().map(Work::Secret).collect();
            self.add(Work::File(path.clone()), spec.timeouts.sync)
                .input("template", template)
                .input("mode", format!("{:04o}", file.mode))
                .input("owner", &file.owner)
                .needs(secrets)
                .after([Work::AwaitCloudInit]);
        }
    }

    fn services(&mut self) {
        let spec = self.spec;
        for (name, service) in &spec.services {
            let (unit, text) = (self.digest(&service.unit), self.text(&service.unit));
            let installs = installs(spec)
                .filter(|(_, build)| build.install.values().any(|path| mentions_path(text, path)))
                .map(|(name, _)| Work::Install(name.clone()));
            let files =
                spec.files.keys().filter(|path| service.needs.contains(path) || mentions_path(text, path));
            let needed: Vec<Work> = installs.chain(files.cloned().map(Work::File)).collect();
            self.add(Work::Service(name.clone()), spec.timeouts.service.saturating_add(service.stable_for))
                .input("unit", unit)
                .input("env", text_of(&json!(service.env)))
                .input("stable_for", format!("{:?}", service.stable_for))
                .needs(needed)
                .after(service.after.iter().cloned().map(Work::Service))
                .after([Work::AwaitCloudInit])
                // A unit may need what it does not name: a script that reads a file, a binary that starts another.
                .after(installs_and_files(spec));
        }
    }

    fn checks(&mut self, with_tests: bool) {
        let spec = self.spec;
        let services = || spec.services.keys().cloned().map(Work::Service);
        let syncs = || spec.sources.keys().cloned().map(Work::Sync);
        for (name, probe) in &spec.probes {
            let of_the_host = matches!(probe.kind, ProbeKind::Kvm | ProbeKind::Seccomp);
            let draft = self.add(Work::Probe(name.clone()), probe.timeout.unwrap_or(spec.timeouts.probe));
            draft.input("kind", text_of(&kind_of(spec, probe)));
            if !of_the_host {
                draft.after([Work::AwaitCloudInit]);
            }
            match (probe.needs.is_empty(), of_the_host) {
                (false, _) => drop(draft.needs(probe.needs.iter().cloned().map(Work::Service))),
                (true, false) => drop(draft.needs(services())),
                (true, true) => {}
            }
        }
        if let Some(smoke) = &spec.smoke {
            self.add(Work::Smoke, smoke.timeout.unwrap_or(spec.timeouts.smoke))
                .run(smoke)
                .needs(syncs())
                .needs(installs_and_files(spec))
                .needs(services())
                .after(spec.probes.keys().cloned().map(Work::Probe))
                .after([Work::AwaitCloudInit]);
        }
        if let Some(tests) = spec.tests.as_ref().filter(|_| with_tests) {
            self.add(Work::Tests, tests.timeout.unwrap_or(spec.timeouts.tests))
                .run(tests)
                .needs(syncs())
                .after(spec.smoke.iter().map(|_| Work::Smoke))
                .after([Work::AwaitCloudInit]);
        }
    }

    /// Ties what has no input yet to the host, sorts, and computes fingerprints on the way.
    fn finish(mut self) -> Result<Desired, CycleError> {
        for draft in self.all.values_mut() {
            let has_input = draft.depends_on.values().any(|kind| *kind == DependencyKind::Input);
            if !has_input && draft.work != Work::Provision {
                draft.needs([Work::AwaitSsh]);
            }
        }
        let depends_on: BTreeMap<StepId, Vec<Dependency>> = self
            .all
            .iter()
            .map(|(id, draft)| {
                let on = draft.depends_on.iter().map(|(on, kind)| Dependency { on: on.clone(), kind: *kind });
                (id.clone(), on.collect())
            })
            .collect();
        let graph = StepGraph::new(depends_on.iter().map(|(id, on)| (id, on.as_slice())))?;
        let mut fingerprints: BTreeMap<StepId, Fingerprint> = BTreeMap::new();
        let mut steps = Vec::with_capacity(depends_on.len());
        for id in graph.order() {
            let (Some(draft), Some(depends_on)) = (self.all.remove(&id), depends_on.get(&id)) else {
                continue;
            };
            let fingerprint = fingerprint(&id, &draft.inputs, depends_on, &fingerprints);
            fingerprints.insert(id, fingerprint.clone());
            let Draft { work, inputs, timeout, .. } = draft;
            steps.push(StepSpec { work, inputs, depends_on: depends_on.clone(), fingerprint, timeout });
        }
        Ok(Desired { steps })
    }
}

fn installs(spec: &Spec) -> impl Iterator<Item = (&Name, &crate::spec::Build)> {
    spec.build.iter().filter(|(_, build)| !build.install.is_empty())
}

fn installs_and_files(spec: &Spec) -> impl Iterator<Item = Work> {
    let installs = installs(spec).map(|(name, _)| Work::Install(name.clone()));
    installs.chain(spec.files.keys().cloned().map(Work::File))
}

fn fingerprint(
    id: &StepId,
    inputs: &BTreeMap<String, String>,
    depends_on: &[Dependency],
    known: &BTreeMap<StepId, Fingerprint>,
) -> Fingerprint {
    let mut digester = Digester::new("step");
    digester.field(id.as_str().as_bytes()).field(inputs.len().to_string().as_bytes());
    for (name, value) in inputs {
        digester.field(name.as_bytes()).field(value.as_bytes());
    }
    for dependency in depends_on.iter().filter(|dependency| dependency.kind == DependencyKind::Input) {
        if let Some(fingerprint) = known.get(&dependency.on) {
            digester.field(dependency.on.as_str().as_bytes()).field(fingerprint.0.as_str().as_bytes());
        }
    }
    Fingerprint(digester.finish())
}

fn kind_of(spec: &Spec, probe: &Probe) -> Value {
    match &probe.kind {
        ProbeKind::Kvm => json!({"kvm": spec.kvm}),
        ProbeKind::Seccomp => json!("seccomp"),
        ProbeKind::Http { url, expect, contains } => {
            json!({"http": {"url": url, "expect": expect, "contains": contains}})
        }
        ProbeKind::Tcp { address } => json!({"tcp": address}),
        ProbeKind::Unix { path } => json!({"unix": path}),
        ProbeKind::Command { command } => {
            json!({"command": {"run": command.run, "env": command.env, "in": command.in_source}})
        }
        ProbeKind::Systemd { unit } => json!({"systemd": unit}),
    }
}

/// Writes JSON with sorted keys, so that the order in a spec does not matter.
fn text_of(value: &Value) -> String {
    fn sorted(value: &Value) -> Value {
        match value {
            Value::Object(map) => {
                let map: BTreeMap<&String, Value> =
                    map.iter().map(|(key, value)| (key, sorted(value))).collect();
                json!(map)
            }
            Value::Array(items) => items.iter().map(sorted).collect(),
            other => other.clone(),
        }
    }
    sorted(value).to_string()
}

/// Tells whether a unit file names this path, and not only one that begins or ends like it.
fn mentions_path(text: &str, path: &str) -> bool {
    mentions(text, path, |before| before.is_alphanumeric() || matches!(before, '/' | '.' | '_'))
}

/// Tells whether a template reads this secret: `secrets.hmac`, or `secrets["hmac"]` for names that need it.
fn mentions_secret(text: &str, name: &Name) -> bool {
    mentions(text, &format!("secrets.{name}"), |before| {
        before.is_alphanumeric() || matches!(before, '_' | '.')
    }) || ['"', '\''].iter().any(|quote| text.contains(&format!("secrets[{quote}{name}{quote}]")))
}

fn mentions(text: &str, wanted: &str, goes_on_before: impl Fn(char) -> bool) -> bool {
    let goes_on_after = |after: char| after.is_alphanumeric() || matches!(after, '/' | '_' | '-');
    let mut found = text.match_indices(wanted);
    found.any(|(at, _)| {
        let mut after = text[at + wanted.len()..].chars();
        // A dot goes on with a name only if more of a name follows it.
        let goes_on = match after.next() {
            Some('.') => after.next().is_some_and(goes_on_after),
            Some(after) => goes_on_after(after),
            None => false,
        };
        !goes_on && !text[..at].chars().next_back().is_some_and(&goes_on_before)
    })
}

/// Returns the ids of the steps behind the `Input` dependencies.
pub(super) fn input_dependencies(depends_on: &[Dependency]) -> BTreeSet<&StepId> {
    depends_on
        .iter()
        .filter(|dependency| dependency.kind == DependencyKind::Input)
        .map(|dependency| &dependency.on)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing;

    fn on(desired: &Desired, id: &str, kind: DependencyKind) -> Vec<String> {
        let step = desired.get(&StepId::from_text(id)).unwrap();
        let on = step.depends_on.iter().filter(|dependency| dependency.kind == kind);
        on.map(|dependency| dependency.on.to_string()).collect()
    }

    #[test]
    fn steps_depend_on_what_the_rules_say() {
        let (spec, inputs) = testing::lane();
        let desired = desired(&spec, &inputs, true).unwrap();
        let ids: Vec<String> = desired.steps.iter().map(|step| step.work.id().to_string()).collect();
        insta::assert_snapshot!(ids.join("\n"));
        let needs = |id: &str| on(&desired, id, DependencyKind::Input);
        let after = |id: &str| on(&desired, id, DependencyKind::Order);
        assert_eq!(needs("provision/host"), Vec::<String>::new());
        assert_eq!(needs("probe/kvm"), ["await/ssh"]);
        assert_eq!(
            after("probe/kvm"),
            Vec::<String>::new(),
            "a wrong box is found before cloud-init is through"
        );
        assert_eq!(needs("sync/app"), ["await/ssh"]);
        assert_eq!(needs("build/agent"), ["sync/app", "sync/lib"]);
        assert_eq!(after("build/agent"), ["await/cloud-init"]);
        assert_eq!(needs("file/etc/app/agent.toml"), ["secret/hmac"]);
        assert_eq!(needs("file/etc/app/plain.conf"), ["await/ssh"]);
        assert_eq!(needs("service/agent"), ["file/etc/app/agent.toml", "install/agent"]);
        assert!(after("service/agent").contains(&"install/agent-helper".to_owned()));
        assert!(after("service/agent").contains(&"service/store".to_owned()));
        assert_eq!(needs("service/store"), ["file/etc/app/plain.conf", "install/agent-helper"]);
        assert_eq!(needs("probe/agent"), ["service/agent"]);
        assert_eq!(needs("probe/port"), ["service/agent", "service/store"]);
        assert!(
            needs("smoke").contains(&"sync/suite".to_owned())
                && after("smoke").contains(&"probe/kvm".to_owned())
        );
        assert_eq!(needs("tests"), ["sync/app", "sync/lib", "sync/suite"]);
        assert!(after("tests").contains(&"smoke".to_owned()));
    }

    #[test]
    fn every_step_hangs_on_the_host() {
        let (mut spec, inputs) = testing::lane();
        let before = desired(&spec, &inputs, true).unwrap();
        spec.sku = crate::provider::Sku::fixed("large");
        let after = desired(&spec, &inputs, true).unwrap();
        for (old, new) in before.steps.iter().zip(&after.steps) {
            assert_ne!(old.fingerprint, new.fingerprint, "{}", old.work.id());
        }
    }

    #[test]
    fn a_missing_file_is_unknown_and_still_gives_one_fingerprint() {
        let (spec, _) = testing::lane();
        let [one, two] = [(); 2].map(|()| desired(&spec, &Inputs::default(), false).unwrap());
        let step = one.get(&StepId::from_text("service/agent")).unwrap();
        assert_eq!(step.inputs["unit"], UNKNOWN);
        assert_eq!(one.steps, two.steps);
    }

    #[test]
    fn a_cycle_among_services_is_named() {
        let (mut spec, inputs) = testing::lane();
        let agent = testing::name("agent");
        spec.services.get_mut(&testing::name("store")).unwrap().after = vec![agent];
        let cycle = desired(&spec, &inputs, false).unwrap_err();
        assert_eq!(
            cycle.to_string(),
            "steps wait for each other: service/agent -> service/store -> service/agent"
        );
    }

    #[test]
    fn a_path_is_mentioned_only_as_a_whole() {
        for (text, is) in [
            ("ExecStart=/usr/bin/mvm serve", true),
            ("ExecStart=-/usr/bin/mvm", true),
            ("see /usr/bin/mvm.", true),
            ("ExecStart=/usr/bin/mvm-hostd", false),
            ("ExecStart=/opt/usr/bin/mvm", false),
            ("ExecStart=/usr/bin/mvm.old", false),
            ("ExecStart=/usr/bin/mvm-hostd /usr/bin/mvm", true),
        ] {
            assert_eq!(mentions_path(text, "/usr/bin/mvm"), is, "{text}");
        }
        let name = testing::name("a.b-c");
        assert!(mentions_secret("key = {{ secrets['a.b-c'] }}", &name));
        assert!(!mentions_secret("key = {{ secrets.a }}", &name));
        assert!(mentions_secret("{{ secrets.hmac|upper }}", &testing::name("hmac")));
    }

    #[test]
    fn the_order_of_keys_in_a_spec_does_not_matter() {
        let [one, two] = [r#"{"a": 1, "b": {"c": 2, "d": 3}}"#, r#"{"b": {"d": 3, "c": 2}, "a": 1}"#];
        let text = |json: &str| text_of(&serde_json::from_str(json).unwrap());
        assert_eq!(text(one), text(two));
    }
}
