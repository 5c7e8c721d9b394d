//! Desired against recorded and observed: what happens to each step, and why. No wording, no effect.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use similar::TextDiff;

use super::desired::input_dependencies;
use super::{
    Action, Cost, Desired, Digest, Digester, FileDiff, Fingerprint, HostView, Observed, ObservedHost, Plan,
    PlannedStep, Reason, Rings, SpecRef, StepId, StepSpec, Verb, Work,
};
use crate::inputs::{Inputs, Tree};
use crate::provider::{Host, HostStatus, KvmSupport, Price};
use crate::spec::{KvmNeed, LocalFile, Name, Spec};
use crate::state::{HostRecord, Outcome, Record, StepRecord};

/// How many lines of one text's diff a plan keeps.
const DIFF_LINES: usize = 400;

/// How long a host is usually needed: apply, test, destroy.
const CYCLE: Duration = Duration::from_mins(30);

/// How many files of a changed source a plan names.
const FILES_NAMED: usize = 5;

/// Why no plan can be made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DiffError {
    /// A person must decide which one is meant.
    #[error("{} hosts carry this lane's label: {}", .0.len(), names(.0))]
    SeveralHosts(Vec<Host>),
    /// Looking where the spec now points proves nothing about a host that was made elsewhere.
    #[error(
        "host {host} was made by {recorded}, but the spec now says {wanted}: from there nobody sees whether it still runs"
    )]
    Elsewhere {
        /// The provider's id of it, or that its create is in doubt.
        host: String,
        /// Provider and keys that it was made with.
        recorded: String,
        /// Provider and keys of the spec.
        wanted: String,
    },
}

fn names(hosts: &[Host]) -> String {
    let name = |host: &Host| format!("{} ({} in {})", host.id, host.sku, host.region);
    hosts.iter().map(name).collect::<Vec<_>>().join(", ")
}

/// Everything that a plan is made of.
#[derive(Debug, Clone)]
pub struct DiffInput<'a> {
    /// What is wanted.
    pub spec: &'a Spec,
    /// Its steps.
    pub desired: &'a Desired,
    /// What the spec names on this machine.
    pub inputs: &'a Inputs,
    /// What was last known.
    pub record: &'a Record,
    /// What really is.
    pub observed: &'a Observed,
    /// Trees as they were last synced.
    pub recorded_trees: &'a BTreeMap<Name, Tree>,
    /// Texts that the record names by digest.
    pub old_texts: &'a BTreeMap<Digest, String>,
    /// Shown form of the user-data that a new host would get.
    pub user_data: Option<(&'a Digest, &'a str)>,
    /// Of the spec's SKU.
    pub price: Option<Price>,
    /// The present moment.
    pub now: Timestamp,
    /// Steps that the operator wants to run again.
    pub rerun: &'a [StepId],
}

/// Compares; the same input gives the same plan.
pub fn diff(input: &DiffInput<'_>) -> Result<Plan, DiffError> {
    let host = HostFate::decide(input)?;
    let mut spreads: BTreeSet<&StepId> = BTreeSet::new();
    let ids: Vec<StepId> = input.desired.steps.iter().map(|step| step.work.id()).collect();
    let mut steps = Vec::with_capacity(ids.len());
    for (id, step) in ids.iter().zip(&input.desired.steps) {
        let (action, reasons) = match &step.work {
            Work::Provision => (host.action, host.reasons.clone()),
            _ => Candidate { input, id, step, host: &host, spreads: &spreads }.decide(),
        };
        // A login proves something and changes nothing: only a host that changes makes the rest run again.
        if action.is_change() && (step.work != Work::AwaitSsh || host.action.is_change()) {
            spreads.insert(id);
        }
        steps.push(PlannedStep {
            id: id.clone(),
            work: step.work.clone(),
            action,
            reasons,
            depends_on: step.depends_on.clone(),
            fingerprint: step.fingerprint.clone(),
            inputs: step.inputs.clone(),
            timeout: step.timeout,
        });
    }
    if host.lost_because.is_none() {
        steps.extend(forgotten(input, &ids));
    }
    let record_host = input.record.host.as_ref().filter(|host| host.id.is_some());
    let kept = record_host.filter(|_| host.lost_because.is_none());
    let lost = match (host.action, &input.observed.host, record_host) {
        (Action::Replace, ObservedHost::Present(seen), None) => {
            vec![format!("the host {}, and all that is on it", seen.id)]
        }
        (Action::Replace, _, Some(_)) => lost(input.record),
        _ => vec![],
    };
    let rings = Rings::of(&input.spec.provider.name);
    let cost = cost(Verb::Apply, input.price.as_ref(), input.now, kept, input.spec.lease.ttl, rings);
    Ok(Plan {
        format_version: Plan::FORMAT_VERSION,
        lane: input.spec.name.to_string(),
        verb: Verb::Apply,
        lineage: input.record.lineage.to_string(),
        serial: input.record.serial,
        spec: SpecRef {
            path: input.spec.source_map.path().display().to_string(),
            digest: input.spec.digest.clone(),
        },
        provider: input.spec.provider.name.clone(),
        sku: input.spec.sku.to_string(),
        region: input.spec.region.to_string(),
        image: input.spec.image.clone(),
        image_id: None,
        created_at: input.now,
        offline: input.observed.host == ObservedHost::NotAsked,
        diffs: diffs(input, &steps),
        steps,
        lost,
        notes: notes(input, &host, kept),
        cost,
    })
}

/// What becomes of the host, and so of everything that was done on it.
#[derive(Debug)]
struct HostFate {
    action: Action,
    reasons: Vec<Reason>,
    /// Set when nothing that was done on the recorded host counts any more.
    lost_because: Option<Reason>,
}

impl HostFate {
    fn decide(input: &DiffInput<'_>) -> Result<Self, DiffError> {
        let id = Work::Provision.id();
        let record = input.record;
        let step = input.desired.get(&id);
        let wanted = step.map(|step| &step.fingerprint);
        let in_doubt = record.in_doubt.contains_key(&id);
        let named = record.host.as_ref().and_then(|host| host.id.as_ref());
        if let Some(host) = &record.host {
            let provider = &input.spec.provider;
            let same_keys = host.provider_config == provider.config;
            let unseen = matches!(input.observed.host, ObservedHost::Absent);
            if host.provider != provider.name || (unseen && !same_keys) {
                let with_keys = |name: &str, keys: &Value| {
                    if host.provider == provider.name {
                        format!("{name} with {keys}")
                    } else {
                        name.to_owned()
                    }
                };
                return Err(DiffError::Elsewhere {
                    host: named.map_or_else(|| "whose create is in doubt".to_owned(), ToString::to_string),
                    recorded: with_keys(&host.provider, &host.provider_config),
                    wanted: with_keys(&provider.name, &provider.config),
                });
            }
        }
        let gone = Some(Reason::HostGone);
        Ok(match (&input.observed.host, &record.host, named) {
            (ObservedHost::Several(hosts), ..) => return Err(DiffError::SeveralHosts(hosts.clone())),
            (ObservedHost::NotAsked, Some(host), Some(_)) => Self::of_recorded(input, step, host, None),
            (ObservedHost::Present(seen), Some(host), Some(id)) if seen.id == *id => {
                Self::of_recorded(input, step, host, Some(seen))
            }
            (ObservedHost::Present(seen), _, named) => {
                let mut reasons = Vec::new();
                reasons.extend(named.map(|_| Reason::HostGone));
                let same =
                    matches!((&seen.fingerprint, wanted), (Some(seen), Some(wanted)) if seen.is_of(wanted));
                let destroying = record.in_doubt.contains_key(&Work::Destroy.id());
                let fits = same && !destroying && seen.status != HostStatus::Stopped;
                let action = match (fits, in_doubt && named.is_none()) {
                    (true, true) => Action::Resume,
                    (true, false) => Action::Adopt,
                    (false, _) => Action::Replace,
                };
                reasons.push(match action {
                    Action::Resume => Reason::InDoubt,
                    _ => Reason::HostUnrecorded { id: seen.id.to_string() },
                });
                if !same {
                    reasons.push(fingerprint_changed(seen.fingerprint.as_ref(), wanted));
                }
                if destroying {
                    reasons.push(Reason::HostTainted { why: "its destroy was begun".to_owned() });
                }
                reasons.extend(stopped(seen));
                let lost_because = match action {
                    Action::Replace => Some(Reason::HostReplaced),
                    _ => named.and(gone),
                };
                Self { action, reasons, lost_because }
            }
            (ObservedHost::Absent, _, Some(_)) => {
                Self { action: Action::Create, reasons: vec![Reason::HostGone], lost_because: gone }
            }
            (_, host, _) => {
                let failed = record.steps.get(&id).and_then(failure);
                let reasons = vec![match failed {
                    _ if in_doubt || (failed.is_none() && host.is_some()) => Reason::InDoubt,
                    Some(failed) => failed,
                    None => Reason::NeverDone,
                }];
                let action = if reasons == [Reason::InDoubt] { Action::Resume } else { Action::Create };
                Self { action, reasons, lost_because: None }
            }
        })
    }

    /// The recorded host is there, as far as anybody knows.
    fn of_recorded(
        input: &DiffInput<'_>,
        step: Option<&StepSpec>,
        host: &HostRecord,
        seen: Option<&Host>,
    ) -> Self {
        let (record, id) = (input.record, Work::Provision.id());
        let done = record.steps.get(&id);
        let mut reasons = Vec::new();
        if let Some(why) = &host.tainted {
            reasons.push(Reason::HostTainted { why: why.clone() });
        }
        if record.in_doubt.contains_key(&Work::Destroy.id()) {
            reasons.push(Reason::HostTainted { why: "its destroy was begun".to_owned() });
        }
        // That of an adopted host is what the cloud's label holds of it.
        if let Some(step) = step.filter(|step| !host.fingerprint.is_of(&step.fingerprint)) {
            let changed = done.map(|done| changed_inputs(&done.inputs, &step.inputs)).unwrap_or_default();
            if changed.is_empty() {
                reasons.push(fingerprint_changed(Some(&host.fingerprint), Some(&step.fingerprint)));
            }
            reasons.extend(changed);
        }
        reasons.extend(seen.and_then(stopped));
        let lineage = input.observed.view.as_ref().and_then(|view| view.lineage.as_deref());
        if let Some(other) = lineage.filter(|lineage| *lineage != record.lineage.as_str()) {
            reasons.push(drift("the host's own marker", record.lineage.as_str(), other));
        }
        if input.rerun.contains(&id) {
            reasons.push(Reason::Requested);
        }
        if !reasons.is_empty() {
            return Self { action: Action::Replace, reasons, lost_because: Some(Reason::HostReplaced) };
        }
        let address = |address: Option<std::net::IpAddr>| address.map(|address| address.to_string());
        let addresses = address(host.address).zip(address(seen.and_then(|seen| seen.address)));
        if let Some((old, new)) = addresses.filter(|(old, new)| old != new) {
            // It was stopped and started again.
            reasons.push(drift("the host's address", &old, &new));
            return Self { action: Action::Rerun, reasons, lost_because: None };
        }
        let (action, reason) = match done {
            _ if record.in_doubt.contains_key(&id) => (Action::Resume, Reason::InDoubt),
            None => (Action::Adopt, Reason::NeverDone),
            Some(done) => match failure(done) {
                Some(failed) => (Action::Rerun, failed),
                None => return Self { action: Action::NoOp, reasons, lost_because: None },
            },
        };
        Self { action, reasons: vec![reason], lost_because: None }
    }
}

/// A step of the host, about to be judged.
struct Candidate<'a> {
    input: &'a DiffInput<'a>,
    id: &'a StepId,
    step: &'a StepSpec,
    host: &'a HostFate,
    /// Steps before it whose running makes those that take them as input run.
    spreads: &'a BTreeSet<&'a StepId>,
}

impl Candidate<'_> {
    fn decide(&self) -> (Action, Vec<Reason>) {
        let record = self.input.record;
        let done = record.steps.get(self.id);
        let in_doubt = record.in_doubt.get(self.id);
        if let Some(why) = &self.host.lost_because {
            return match (done, in_doubt) {
                (None, None) => (Action::Create, vec![Reason::NeverDone]),
                _ => (Action::Rerun, vec![why.clone()]),
            };
        }
        let mut reasons = Vec::new();
        let mut action = Action::NoOp;
        let mut because = |wanted: Action, more: Vec<Reason>| {
            if !more.is_empty() {
                reasons.extend(more);
                // The first that has a say is the strongest.
                action = if action == Action::NoOp { wanted } else { action };
            }
        };
        if let Some(in_doubt) = in_doubt {
            // What runs on the host was started for other inputs: it is of no use.
            let same = in_doubt.fingerprint == self.step.fingerprint;
            because(if same { Action::Resume } else { Action::Rerun }, vec![Reason::InDoubt]);
        }
        let Some(done) = done else {
            because(Action::Create, if in_doubt.is_none() { vec![Reason::NeverDone] } else { vec![] });
            return (action, reasons);
        };
        let missing = matches!(self.step.work, Work::Secret(_));
        because(if missing { Action::Create } else { Action::Rerun }, self.drift(done));
        because(Action::Rerun, failure(done).into_iter().collect());
        because(Action::Rerun, self.unreachable());
        let requested = self.input.rerun.contains(self.id);
        because(Action::Rerun, if requested { vec![Reason::Requested] } else { vec![] });
        because(self.in_place(), self.changed(done));
        let needs = input_dependencies(&self.step.depends_on);
        let running = needs.iter().filter(|on| self.spreads.contains(*on));
        because(self.looks_again(), running.map(|&on| Reason::DependencyRuns { on: on.clone() }).collect());
        if action == Action::NoOp && done.fingerprint != self.step.fingerprint {
            // An earlier run came only so far, or the set of dependencies itself is another one.
            let since = |on: &&StepId| record.steps.get(*on).is_some_and(|before| before.at > done.at);
            let mut ran: Vec<Reason> = needs
                .iter()
                .copied()
                .filter(since)
                .map(|on| Reason::DependencyRan { on: on.clone() })
                .collect();
            if ran.is_empty() {
                let now = needs.iter().map(|on| on.as_str()).collect::<Vec<_>>().join(", ");
                ran.push(Reason::InputChanged {
                    input: "dependencies".to_owned(),
                    old: None,
                    new: Some(now),
                });
            }
            return (self.looks_again(), ran);
        }
        (action, reasons)
    }

    /// A host that did not answer has to before anything else is known of it.
    fn unreachable(&self) -> Vec<Reason> {
        let why = self.input.observed.unreachable.clone().filter(|_| self.step.work == Work::AwaitSsh);
        why.map(|why| Reason::Unreachable { why }).into_iter().collect()
    }

    /// What a change of the step's own inputs does.
    fn in_place(&self) -> Action {
        match self.step.work {
            Work::Service(_) | Work::File(_) | Work::Sync(_) | Work::Install(_) => Action::Update,
            _ => Action::Rerun,
        }
    }

    /// What a change of what it depends on does: some steps can tell by looking whether it concerns them.
    fn looks_again(&self) -> Action {
        match self.step.work {
            Work::Service(_) | Work::File(_) | Work::Sync(_) | Work::Install(_) | Work::Secret(_) => {
                Action::Check
            }
            _ => Action::Rerun,
        }
    }

    fn changed(&self, done: &StepRecord) -> Vec<Reason> {
        let mut changed = changed_inputs(&done.inputs, &self.step.inputs);
        if let Work::Sync(name) = &self.step.work
            && let (Some(old), Some(new)) =
                (self.input.recorded_trees.get(name), self.input.inputs.trees.get(name))
        {
            let mut files = new.changed(old);
            files.extend(new.removed(old));
            files.sort();
            let is_tree =
                |reason: &Reason| matches!(reason, Reason::InputChanged { input, .. } if input == "tree");
            if let Some(reason) =
                changed.iter_mut().find(|reason| is_tree(reason)).filter(|_| !files.is_empty())
            {
                let count = files.len();
                files.truncate(FILES_NAMED);
                *reason = Reason::SourceChanged { count, files };
            }
        }
        changed
    }

    /// Where the host is not what the record says; nobody asked means that nobody knows of any.
    fn drift(&self, done: &StepRecord) -> Vec<Reason> {
        let Some(view) = &self.input.observed.view else { return vec![] };
        match &self.step.work {
            Work::Service(name) => service_drift(view, name, done),
            Work::File(_) | Work::Install(_) => file_drift(view, done),
            Work::Build(name) => self.build_drift(view, name),
            Work::Secret(name) if !view.secrets.iter().any(|there| there == name.as_str()) => {
                vec![drift(&format!("secret {name}"), "there", "missing")]
            }
            Work::Sync(name) => match self.input.spec.sources.get(name) {
                Some(source) if !view.sources.contains(&source.to) => {
                    vec![drift(&source.to, "there", "missing")]
                }
                _ => vec![],
            },
            _ => vec![],
        }
    }

    /// A missing output matters only when it has to be installed again.
    fn build_drift(&self, view: &HostView, name: &Name) -> Vec<Reason> {
        let install = Work::Install(name.clone()).id();
        let (Some(done), Some(wanted)) =
            (self.input.record.steps.get(&install), self.input.desired.get(&install))
        else {
            return vec![];
        };
        if file_drift(view, done).is_empty() && done.inputs == wanted.inputs && failure(done).is_none() {
            return vec![];
        }
        let outputs = done.facts.iter().filter_map(|(key, stat)| Some((key.strip_prefix("output:")?, stat)));
        outputs
            .filter(|(path, _)| view.files.get(*path) == Some(&None))
            .map(|(path, stat)| drift(path, stat, "missing"))
            .collect()
    }
}

fn failure(done: &StepRecord) -> Option<Reason> {
    match &done.outcome {
        Outcome::Done => None,
        Outcome::Failed { error } => Some(Reason::FailedBefore { error: error.clone() }),
    }
}

fn drift(what: &str, recorded: &str, observed: &str) -> Reason {
    Reason::Drift { what: what.to_owned(), recorded: recorded.to_owned(), observed: observed.to_owned() }
}

fn stopped(seen: &Host) -> Option<Reason> {
    (seen.status == HostStatus::Stopped).then(|| drift("the host", "running", "stopped"))
}

fn fingerprint_changed(old: Option<&Fingerprint>, new: Option<&Fingerprint>) -> Reason {
    let text = |fingerprint: &Fingerprint| fingerprint.0.as_str().to_owned();
    Reason::InputChanged { input: "fingerprint".to_owned(), old: old.map(text), new: new.map(text) }
}

fn changed_inputs(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Vec<Reason> {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    names
        .into_iter()
        .filter(|name| old.get(*name) != new.get(*name))
        .map(|name| Reason::InputChanged {
            input: name.clone(),
            old: old.get(name).cloned(),
            new: new.get(name).cloned(),
        })
        .collect()
}

fn service_drift(view: &HostView, name: &Name, done: &StepRecord) -> Vec<Reason> {
    let Some(seen) = view.services.get(name.as_str()) else { return vec![] };
    let unit = format!("{name}.service");
    let mut reasons = Vec::new();
    let end = format!("/{unit}");
    let recorded = done.facts.iter().find(|(key, _)| key.starts_with("stat:") && key.ends_with(&end));
    match (&seen.unit_file, recorded) {
        (None, _) => reasons.push(drift(&format!("unit file of {unit}"), "there", "missing")),
        (Some(now), Some((_, then))) if now != then => {
            reasons.push(drift(&format!("unit file of {unit}"), then, now));
        }
        _ => {}
    }
    if !matches!(seen.active.as_str(), "active" | "reloading" | "refreshing") {
        reasons.push(drift(&unit, "active", &seen.active));
    }
    // A unit without an [Install] section is `static` and cannot be enabled.
    if matches!(seen.enabled.as_str(), "disabled" | "masked" | "masked-runtime" | "bad") {
        reasons.push(drift(&unit, "enabled", &seen.enabled));
    }
    reasons
}

fn file_drift(view: &HostView, done: &StepRecord) -> Vec<Reason> {
    let files = done.facts.iter().filter_map(|(key, stat)| Some((key.strip_prefix("stat:")?, stat)));
    files
        .filter_map(|(path, then)| match view.files.get(path)? {
            None => Some(drift(path, then, "missing")),
            Some(now) => (now != then).then(|| drift(path, then, now)),
        })
        .collect()
}

/// Steps that the record has and the spec has not; tests are in no apply's plan and stay while the spec has some.
fn forgotten(input: &DiffInput<'_>, wanted: &[StepId]) -> Vec<PlannedStep> {
    let wanted: BTreeSet<&StepId> = wanted.iter().collect();
    let known: BTreeMap<&StepId, (&Fingerprint, Option<&StepRecord>)> = input
        .record
        .in_doubt
        .iter()
        .map(|(id, doubt)| (id, (&doubt.fingerprint, None)))
        .chain(input.record.steps.iter().map(|(id, done)| (id, (&done.fingerprint, Some(done)))))
        .collect();
    let dropped = known.into_iter().filter(|(id, _)| !wanted.contains(id));
    dropped
        .filter_map(|(id, (fingerprint, done))| {
            let work = Work::from_id(id)?;
            if work == Work::Destroy || (work == Work::Tests && input.spec.tests.is_some()) {
                return None;
            }
            Some(PlannedStep {
                id: id.clone(),
                work,
                action: Action::Forget,
                reasons: vec![Reason::NotInSpec],
                depends_on: vec![],
                fingerprint: fingerprint.clone(),
                inputs: done.map(|done| done.inputs.clone()).unwrap_or_default(),
                timeout: input.spec.timeouts.service,
            })
        })
        .collect()
}

/// Names what a host takes with it.
fn lost(record: &Record) -> Vec<String> {
    let Some(host) = &record.host else { return vec![] };
    let mut lost = Vec::new();
    let id = host.id.as_ref().map_or("whose create is in doubt", |id| id.as_str());
    lost.push(match host.address {
        Some(address) => format!("the host {id} with its address {address}"),
        None => format!("the host {id}"),
    });
    let mut of = |what: &str, named: fn(Work) -> Option<String>| {
        let names: Vec<String> = record.steps.keys().filter_map(Work::from_id).filter_map(named).collect();
        if !names.is_empty() {
            lost.push(format!("{what}: {}", names.join(", ")));
        }
    };
    of("what was built", |work| if let Work::Build(name) = work { Some(name.to_string()) } else { None });
    of("secrets", |work| if let Work::Secret(name) = work { Some(name.to_string()) } else { None });
    of(
        "installed services",
        |work| if let Work::Service(name) = work { Some(name.to_string()) } else { None },
    );
    lost.push("everything else on its disk".to_owned());
    lost
}

fn cost(
    verb: Verb,
    price: Option<&Price>,
    now: Timestamp,
    kept: Option<&HostRecord>,
    ttl: Duration,
    rings: Rings,
) -> Cost {
    let expires_at = kept.map(|host| host.expires_at);
    let left = expires_at.map_or(ttl, |end| Duration::try_from(end.duration_since(now)).unwrap_or_default());
    let cycle = left.min(CYCLE);
    Cost {
        per_hour: price.map(|price| price.per_hour.to_string()),
        expected: price
            .filter(|_| verb == Verb::Apply && !cycle.is_zero())
            .map(|price| price.per_hour.for_duration(cycle).to_string()),
        cycle,
        worst_case: price.map(|price| price.per_hour.for_duration(left).to_string()),
        expires_at,
        ttl,
        rings,
    }
}

fn notes(input: &DiffInput<'_>, host: &HostFate, kept: Option<&HostRecord>) -> Vec<String> {
    let (spec, observed) = (input.spec, input.observed);
    let mut notes = Vec::new();
    if observed.host == ObservedHost::NotAsked {
        notes.push("offline: neither provider nor host was asked, the record is taken for true".to_owned());
    }
    let logged_in =
        input.record.steps.get(&Work::AwaitSsh.id()).is_some_and(|done| done.outcome == Outcome::Done);
    let there = matches!(&observed.host, ObservedHost::Present(seen) if seen.status == HostStatus::Running);
    if there && observed.view.is_none() && (logged_in || observed.unreachable.is_some()) && kept.is_some() {
        let why = observed.unreachable.as_deref().unwrap_or("it was not asked");
        notes.push(format!("the host does not answer ({why}); what the record says of it is taken for true"));
    }
    if spec.kvm == KvmNeed::None {
        notes.push("kvm is none: this lane does without /dev/kvm".to_owned());
    } else if host.action.is_change()
        && let Some(entry) = crate::provider::by_name(&spec.provider.name)
    {
        let (sku, provider) = (&spec.sku, entry.name);
        notes.push(match (entry.kvm)(sku) {
            KvmSupport::Yes => format!("{sku} of {provider} has /dev/kvm, by the vendor's word"),
            KvmSupport::No => format!("{sku} of {provider} has no /dev/kvm, by the vendor's word"),
            KvmSupport::Unknown => {
                format!("whether {sku} of {provider} has /dev/kvm is known only once it runs")
            }
        });
    }
    if let Some(ended) = kept.map(|host| host.expires_at).filter(|end| *end <= input.now) {
        notes.push(format!("the lease ended at {ended}: anybody may take the host down"));
    }
    if let (None, Some(limit)) = (kept, &spec.lease.max_spend) {
        let worst = input.price.as_ref().map(|price| price.per_hour.for_duration(spec.lease.ttl));
        notes.extend(match worst {
            None => {
                Some(format!("no price is known, so nobody can keep max_spend {limit}: apply will refuse"))
            }
            Some(worst) if worst.currency != limit.currency => {
                Some(format!("the lease may cost {worst}, max_spend is {limit}: apply will refuse"))
            }
            Some(worst) if worst.micros > limit.micros => {
                Some(format!("the lease may cost {worst}, more than max_spend {limit}: apply will refuse"))
            }
            Some(_) => None,
        });
    }
    notes
}

fn diffs(input: &DiffInput<'_>, steps: &[PlannedStep]) -> Vec<FileDiff> {
    let old_text = |digest: &str| {
        input.old_texts.iter().find(|(known, _)| known.as_str() == digest).map(|(_, text)| text.as_str())
    };
    let mut diffs = Vec::new();
    for step in steps.iter().filter(|step| !matches!(step.action, Action::NoOp | Action::Forget)) {
        let Some(done) = input.record.steps.get(&step.id) else { continue };
        if let (Work::Provision, Some((new, text)), Some(host)) =
            (&step.work, input.user_data, &input.record.host)
        {
            if host.user_data != *new
                && let Some(old) = old_text(host.user_data.as_str())
            {
                diffs.extend(unified("user-data", &step.id, old, text));
            }
            continue;
        }
        let (key, file): (&str, Option<&LocalFile>) = match &step.work {
            Work::Provision => ("cloud_init", input.spec.cloud_init.as_ref()),
            Work::Service(name) => ("unit", input.spec.services.get(name).map(|service| &service.unit)),
            Work::File(path) => ("template", input.spec.files.get(path).map(|file| &file.template)),
            _ => continue,
        };
        if let Some(file) = file
            && let Some(old) = done.inputs.get(key).and_then(|digest| old_text(digest))
            && let Some(new) = input.inputs.texts.get(&file.path)
        {
            diffs.extend(unified(&file.written, &step.id, old, new));
        }
    }
    diffs
}

fn unified(name: &str, step: &StepId, old: &str, new: &str) -> Option<FileDiff> {
    if old == new {
        return None;
    }
    let text = TextDiff::from_lines(old, new)
        .unified_diff()
        .header(&format!("{name} (on the host)"), &format!("{name} (here)"))
        .to_string();
    let lines: Vec<&str> = text.lines().collect();
    let mut unified = lines[..lines.len().min(DIFF_LINES)].join("\n");
    unified.push('\n');
    if lines.len() > DIFF_LINES {
        let _ = writeln!(unified, "({} more lines are left out)", lines.len() - DIFF_LINES);
    }
    Some(FileDiff { name: name.to_owned(), step: step.clone(), unified })
}

/// Plans the end of a lane: one step, or none when there is no host, no record of one and no create in doubt.
pub fn diff_destroy(
    record: &Record,
    observed: &Observed,
    price: Option<&Price>,
    timeout: Duration,
    now: Timestamp,
) -> Plan {
    let seen: &[Host] = match &observed.host {
        ObservedHost::Present(host) => std::slice::from_ref(host),
        ObservedHost::Several(hosts) => hosts,
        ObservedHost::NotAsked | ObservedHost::Absent => &[],
    };
    let host = record.host.as_ref();
    let named = host.and_then(|host| host.id.as_ref());
    let in_doubt = host.is_some_and(|host| host.id.is_none())
        || [Work::Provision, Work::Destroy].iter().any(|work| record.in_doubt.contains_key(&work.id()));
    let mut reasons = vec![Reason::Requested];
    let mut lost = lost(record);
    for other in seen.iter().filter(|other| Some(&other.id) != named) {
        reasons.push(Reason::HostUnrecorded { id: other.id.to_string() });
        lost.push(format!("the host {}, and all that is on it", other.id));
    }
    if in_doubt {
        reasons.push(Reason::InDoubt);
    }
    if observed.host == ObservedHost::Absent && named.is_some() {
        reasons.push(Reason::HostGone);
        lost.clear();
    }
    let id = Work::Destroy.id();
    let mut digester = Digester::new("destroy");
    digester.field(record.label().to_string().as_bytes());
    let step = PlannedStep {
        id,
        work: Work::Destroy,
        action: Action::Destroy,
        reasons,
        depends_on: vec![],
        fingerprint: Fingerprint(digester.finish()),
        inputs: BTreeMap::new(),
        timeout,
    };
    let is_something = host.is_some() || !seen.is_empty() || in_doubt;
    let mut notes = Vec::new();
    if let ObservedHost::Several(hosts) = &observed.host {
        notes.push(format!(
            "{} hosts carry this lane's label, and all of them go: {}",
            hosts.len(),
            names(hosts)
        ));
    }
    let ttl = host
        .and_then(|host| Duration::try_from(host.expires_at.duration_since(host.created_at)).ok())
        .unwrap_or_default();
    let first = seen.first();
    let text = |recorded: Option<&str>, seen: Option<&str>| recorded.or(seen).unwrap_or_default().to_owned();
    Plan {
        format_version: Plan::FORMAT_VERSION,
        lane: record.lane.clone(),
        verb: Verb::Destroy,
        lineage: record.lineage.to_string(),
        serial: record.serial,
        spec: SpecRef { path: record.spec_path.clone().unwrap_or_default(), digest: Digest::of(b"") },
        provider: text(host.map(|host| host.provider.as_str()), None),
        sku: text(host.map(|host| host.sku.as_str()), first.map(|seen| seen.sku.as_str())),
        region: text(host.map(|host| host.region.as_str()), first.map(|seen| seen.region.as_str())),
        image: text(host.map(|host| host.image.as_str()), None),
        image_id: None,
        created_at: now,
        offline: observed.host == ObservedHost::NotAsked,
        steps: if is_something { vec![step] } else { vec![] },
        diffs: vec![],
        lost,
        notes,
        cost: {
            let rings = host.map(|host| Rings::of(&host.provider)).unwrap_or_default();
            cost(Verb::Destroy, price, now, host, ttl, rings)
        },
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::plan::testing::{AGENT_UNIT, Scene, changes, name};
    use crate::plan::{StepGraph, testing};
    use crate::provider::{HostId, Sku};
    use crate::state::InDoubt;

    fn id(text: &str) -> StepId {
        StepId::from_text(text)
    }

    fn reasons(plan: &Plan, step: &str) -> Vec<Reason> {
        plan.steps.iter().find(|planned| planned.id == id(step)).unwrap().reasons.clone()
    }

    fn action(plan: &Plan, step: &str) -> Action {
        plan.steps.iter().find(|planned| planned.id == id(step)).unwrap().action
    }

    fn runs(on: &str) -> Reason {
        Reason::DependencyRuns { on: id(on) }
    }

    fn in_doubt(fingerprint: &Fingerprint) -> InDoubt {
        InDoubt {
            fingerprint: fingerprint.clone(),
            at: testing::at("2026-05-06T10:00:00Z"),
            run: None,
            token: None,
        }
    }

    fn present(scene: &mut Scene) -> &mut Host {
        match &mut scene.observed.host {
            ObservedHost::Present(host) => host,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_first_plan_creates_everything_and_a_second_nothing() {
        let mut scene = Scene::fresh();
        let plan = scene.plan();
        assert!(plan.steps.iter().all(|step| step.action == Action::Create));
        assert_eq!(plan.cost.worst_case.as_deref(), Some("0.38 USD"));
        assert_eq!(plan.cost.expires_at, None);
        scene.apply(&plan);
        let plan = scene.plan();
        assert_eq!(changes(&plan), Vec::<String>::new());
        assert!(plan.cost.expires_at.is_some());
    }

    #[test]
    fn editing_a_unit_restarts_that_service_and_what_checks_it() {
        let mut scene = Scene::applied();
        scene.edit_text("deploy/agent.service", &AGENT_UNIT.replace("on-failure", "always"));
        let plan = scene.plan();
        assert_eq!(
            changes(&plan),
            ["service/agent update", "probe/agent rerun", "probe/port rerun", "smoke rerun"]
        );
        assert!(
            matches!(&reasons(&plan, "service/agent")[..], [Reason::InputChanged { input, .. }] if input == "unit")
        );
        assert_eq!(reasons(&plan, "probe/port"), [runs("service/agent")]);
        assert_eq!(plan.diffs.len(), 1);
        assert!(
            plan.diffs[0].unified.contains("-Restart=on-failure\n+Restart=always\n"),
            "{}",
            plan.diffs[0].unified
        );
    }

    #[test]
    fn editing_a_source_names_its_files_and_what_follows() {
        let mut scene = Scene::applied();
        scene.edit_tree("lib", &[("lib.rs", "pub fn f() {}"), ("new.rs", "")]);
        let plan = scene.plan();
        assert_eq!(
            changes(&plan),
            [
                "sync/lib update",
                "build/agent rerun",
                "install/agent check",
                "service/agent check",
                "probe/agent rerun",
                "probe/port rerun",
                "smoke rerun"
            ]
        );
        let files = vec!["lib.rs".to_owned(), "new.rs".to_owned()];
        assert_eq!(reasons(&plan, "sync/lib"), [Reason::SourceChanged { count: 2, files }]);
        assert_eq!(reasons(&plan, "build/agent"), [runs("sync/lib")]);
        assert_eq!(reasons(&plan, "smoke"), [runs("install/agent"), runs("service/agent"), runs("sync/lib")]);
    }

    #[test]
    fn a_changed_template_is_shown_and_restarts_who_needs_it() {
        let mut scene = Scene::applied();
        scene.edit_text("deploy/agent.toml.j2", "key = \"{{ secrets.hmac }}\"\nport = 1\n");
        let plan = scene.plan();
        assert_eq!(action(&plan, "file/etc/app/agent.toml"), Action::Update);
        assert_eq!(action(&plan, "service/agent"), Action::Check);
        assert_eq!(action(&plan, "service/store"), Action::NoOp);
        assert_eq!(plan.diffs[0].name, "deploy/agent.toml.j2");
    }

    #[test]
    fn a_changed_sku_or_cloud_init_replaces_the_host_and_says_what_is_lost() {
        let mut scene = Scene::applied();
        scene.spec.sku = Sku::fixed("large");
        let plan = scene.plan();
        assert_eq!(action(&plan, "provision/host"), Action::Replace);
        let changed = Reason::InputChanged {
            input: "sku".to_owned(),
            old: Some("small".to_owned()),
            new: Some("large".to_owned()),
        };
        assert_eq!(reasons(&plan, "provision/host"), [changed]);
        assert!(plan.steps.iter().skip(1).all(|step| step.reasons == [Reason::HostReplaced]));
        assert!(plan.lost.iter().any(|lost| lost == "secrets: hmac"), "{:?}", plan.lost);
        assert_eq!(plan.cost.expires_at, None, "the old host's lease is not the new one's");
        scene.apply(&plan);
        assert!(scene.plan().is_empty());

        scene.edit_text("cloud-init.yaml", "#cloud-config\n");
        let plan = scene.plan();
        assert_eq!(action(&plan, "provision/host"), Action::Replace);
        assert!(
            plan.diffs.iter().any(|diff| diff.name == "cloud-init.yaml" && diff.step == id("provision/host"))
        );
    }

    #[test]
    fn a_host_that_is_gone_is_made_again() {
        let mut scene = Scene::applied();
        scene.observed = Observed { host: ObservedHost::Absent, view: None, unreachable: None };
        let plan = scene.plan();
        assert_eq!(action(&plan, "provision/host"), Action::Create);
        assert!(plan.steps.iter().all(|step| step.reasons == [Reason::HostGone]), "{:#?}", plan.steps);
        scene.apply(&plan);
        assert!(scene.plan().is_empty());
    }

    #[test]
    fn a_host_that_nobody_recorded_is_adopted_only_if_it_fits() {
        let mut scene = Scene::applied();
        scene.record = Scene::fresh().record;
        let plan = scene.plan();
        assert_eq!(action(&plan, "provision/host"), Action::Adopt);
        assert_eq!(action(&plan, "sync/app"), Action::Create);
        scene.spec.sku = Sku::fixed("large");
        let plan = scene.plan();
        assert_eq!(action(&plan, "provision/host"), Action::Replace);
        assert_eq!(plan.lost.len(), 1);
    }

    #[test]
    fn another_host_than_the_recorded_one_means_that_all_is_to_be_done_again() {
        let mut scene = Scene::applied();
        present(&mut scene).id = HostId::fixed("other");
        let plan = scene.plan();
        assert_eq!(action(&plan, "provision/host"), Action::Adopt);
        assert_eq!(
            reasons(&plan, "provision/host"),
            [Reason::HostGone, Reason::HostUnrecorded { id: "other".to_owned() }]
        );
        assert_eq!(reasons(&plan, "sync/app"), [Reason::HostGone]);
    }

    #[test]
    fn several_hosts_are_for_a_person_to_decide() {
        let mut scene = Scene::applied();
        let one = present(&mut scene).clone();
        let two = Host { id: HostId::fixed("two"), ..one.clone() };
        scene.observed.host = ObservedHost::Several(vec![one.clone(), two.clone()]);
        let error = scene.try_plan().unwrap_err();
        assert!(error.to_string().contains(one.id.as_str()) && error.to_string().contains("two"), "{error}");
        assert_eq!(error, DiffError::SeveralHosts(vec![one, two]));
    }

    #[test]
    fn a_host_made_elsewhere_is_never_taken_for_gone() {
        let mut scene = Scene::applied();
        scene.observed = Observed { host: ObservedHost::Absent, view: None, unreachable: None };
        scene.spec.provider.config = serde_json::json!({"zone": "b"});
        assert!(matches!(scene.try_plan(), Err(DiffError::Elsewhere { .. })));
        scene.spec.provider = Scene::fresh().spec.provider;
        scene.spec.provider.name = "other".to_owned();
        assert!(matches!(scene.try_plan(), Err(DiffError::Elsewhere { .. })));
    }

    #[test]
    fn a_create_in_doubt_is_resumed_never_sent_afresh() {
        let mut scene = Scene::applied();
        let fingerprint = scene.record.host.as_ref().unwrap().fingerprint.clone();
        scene.record.steps.clear();
        scene.record.host.as_mut().unwrap().id = None;
        scene.record.in_doubt.insert(id("provision/host"), in_doubt(&fingerprint));
        for host in [scene.observed.host.clone(), ObservedHost::Absent, ObservedHost::NotAsked] {
            scene.observed = Observed { host, view: None, unreachable: None };
            let plan = scene.plan();
            assert_eq!(action(&plan, "provision/host"), Action::Resume, "{:?}", scene.observed);
            assert_eq!(reasons(&plan, "provision/host"), [Reason::InDoubt]);
            assert_eq!(action(&plan, "sync/app"), Action::Create);
        }
    }

    #[test]
    fn a_host_that_is_at_another_address_is_asked_where_it_is_and_kept() {
        let mut scene = Scene::applied();
        let seen = present(&mut scene);
        seen.address = Some("192.0.2.8".parse().unwrap());
        let plan = scene.plan();
        assert_eq!(action(&plan, "provision/host"), Action::Rerun);
        let [Reason::Drift { observed, .. }] = &reasons(&plan, "provision/host")[..] else {
            panic!("{plan:?}")
        };
        assert_eq!(observed, "192.0.2.8");
        assert_eq!(plan.lost, Vec::<String>::new());
        // No address yet is no other address.
        present(&mut scene).address = None;
        assert_eq!(action(&scene.plan(), "provision/host"), Action::NoOp);
    }

    #[test]
    fn a_recorded_fingerprint_may_be_as_short_as_the_label_that_it_was_read_from() {
        let mut scene = Scene::applied();
        let host = scene.record.host.as_mut().unwrap();
        host.fingerprint = Fingerprint(crate::plan::Digest::from_text(&host.fingerprint.0.as_str()[..32]));
        assert_eq!(action(&scene.plan(), "provision/host"), Action::NoOp);
        scene.spec.sku = crate::provider::Sku::fixed("large");
        assert_eq!(action(&scene.plan(), "provision/host"), Action::Replace);
    }

    #[test]
    fn a_tainted_a_stopped_and_a_foreign_host_are_replaced() {
        let mut scene = Scene::applied();
        scene.record.host.as_mut().unwrap().tainted = Some("half-made".to_owned());
        assert_eq!(
            reasons(&scene.plan(), "provision/host"),
            [Reason::HostTainted { why: "half-made".to_owned() }]
        );

        let mut scene = Scene::applied();
        present(&mut scene).status = HostStatus::Stopped;
        scene.observed.view = None;
        let plan = scene.plan();
        assert_eq!(action(&plan, "provision/host"), Action::Replace);
        assert!(
            matches!(&reasons(&plan, "provision/host")[..], [Reason::Drift { observed, .. }] if observed == "stopped")
        );

        let mut scene = Scene::applied();
        scene.view().lineage = Some("another".to_owned());
        assert_eq!(action(&scene.plan(), "provision/host"), Action::Replace);

        let mut scene = Scene::applied();
        let fingerprint = scene.record.host.as_ref().unwrap().fingerprint.clone();
        scene.record.in_doubt.insert(id("destroy/host"), in_doubt(&fingerprint));
        assert_eq!(action(&scene.plan(), "provision/host"), Action::Replace);
        assert!(!scene.plan().steps.iter().any(|step| step.work == Work::Destroy));
    }

    #[test]
    fn a_reboot_is_no_drift() {
        let mut scene = Scene::applied();
        scene.view().boot_id = "another".to_owned();
        assert!(scene.plan().is_empty());
    }

    #[test]
    fn failed_and_unfinished_steps_go_on() {
        let mut scene = Scene::fresh();
        let plan = scene.plan();
        for step in plan.changes() {
            match step.id.as_str() {
                "build/agent" => {
                    drop(scene.record.in_doubt.insert(step.id.clone(), in_doubt(&step.fingerprint)));
                }
                "build/agent-helper" => scene.run(step, Outcome::Failed { error: "exit 101".to_owned() }),
                "provision/host" | "await/ssh" => scene.run(step, Outcome::Done),
                text if text.starts_with("sync/") => scene.run(step, Outcome::Done),
                _ => {}
            }
        }
        let plan = scene.plan();
        assert_eq!(action(&plan, "build/agent"), Action::Resume);
        assert_eq!(action(&plan, "build/agent-helper"), Action::Rerun);
        let failed = Reason::FailedBefore { error: "exit 101".to_owned() };
        assert_eq!(reasons(&plan, "build/agent-helper"), [failed]);
        assert_eq!(action(&plan, "sync/app"), Action::NoOp);
        // A source that moved on meanwhile: the job on the host was started for other inputs.
        scene.edit_tree("app", &[("src/main.rs", "")]);
        let plan = scene.plan();
        assert_eq!(action(&plan, "build/agent"), Action::Rerun);
        assert_eq!(reasons(&plan, "build/agent"), [Reason::InDoubt]);
    }

    #[test]
    fn a_run_that_stopped_half_way_is_gone_on_with_from_there() {
        let mut scene = Scene::applied();
        scene.edit_tree("lib", &[("lib.rs", "x")]);
        let plan = scene.plan();
        for step in plan.changes().filter(|step| matches!(step.work, Work::Sync(_) | Work::Build(_))) {
            scene.run(step, Outcome::Done);
        }
        let plan = scene.plan();
        assert_eq!(
            changes(&plan),
            [
                "install/agent check",
                "service/agent check",
                "probe/agent rerun",
                "probe/port rerun",
                "smoke rerun"
            ]
        );
        assert_eq!(reasons(&plan, "install/agent"), [Reason::DependencyRan { on: id("build/agent") }]);
    }

    #[test]
    fn services_that_stopped_are_started_and_nothing_is_rebuilt() {
        let mut scene = Scene::applied();
        let agent = scene.view().services.get_mut("agent").unwrap();
        agent.active = "failed".to_owned();
        agent.enabled = "disabled".to_owned();
        agent.unit_file = None;
        let plan = scene.plan();
        assert_eq!(
            changes(&plan),
            ["service/agent rerun", "probe/agent rerun", "probe/port rerun", "smoke rerun"]
        );
        assert_eq!(
            reasons(&plan, "service/agent"),
            [
                drift("unit file of agent.service", "there", "missing"),
                drift("agent.service", "active", "failed"),
                drift("agent.service", "enabled", "disabled"),
            ]
        );
        scene.apply(&plan);
        assert!(scene.plan().is_empty());
        scene.view().services.get_mut("agent").unwrap().enabled = "static".to_owned();
        assert!(scene.plan().is_empty(), "a unit without [Install] cannot be enabled");
    }

    #[test]
    fn a_deleted_binary_is_installed_again_and_rebuilt_only_if_its_output_is_gone() {
        let mut scene = Scene::applied();
        scene.view().files.insert("/usr/local/bin/agent".to_owned(), None);
        let plan = scene.plan();
        assert_eq!(
            changes(&plan),
            [
                "install/agent rerun",
                "service/agent check",
                "probe/agent rerun",
                "probe/port rerun",
                "smoke rerun"
            ]
        );
        scene.view().files.insert("target/release/agent".to_owned(), None);
        let plan = scene.plan();
        assert_eq!(action(&plan, "build/agent"), Action::Rerun);
        assert_eq!(reasons(&plan, "install/agent").last(), Some(&runs("build/agent")));
        let mut clean = Scene::applied();
        clean.view().files.insert("target/release/agent".to_owned(), None);
        assert!(clean.plan().is_empty(), "an output that nobody needs may be cleaned away");
    }

    #[test]
    fn secrets_and_sources_that_are_gone_come_back() {
        let mut scene = Scene::applied();
        scene.view().secrets.clear();
        let plan = scene.plan();
        assert_eq!(action(&plan, "secret/hmac"), Action::Create);
        assert_eq!(action(&plan, "file/etc/app/agent.toml"), Action::Check);
        assert_eq!(action(&plan, "service/agent"), Action::Check);
        assert_eq!(action(&plan, "file/etc/app/plain.conf"), Action::NoOp);

        let mut scene = Scene::applied();
        scene.view().sources.retain(|path| path != "/home/mvm/lib");
        let plan = scene.plan();
        assert_eq!(action(&plan, "sync/lib"), Action::Rerun);
        assert_eq!(action(&plan, "build/agent"), Action::Rerun);
        assert_eq!(action(&plan, "build/agent-helper"), Action::NoOp);
    }

    #[test]
    fn what_the_spec_drops_is_forgotten_and_tests_are_kept() {
        let mut scene = Scene::applied();
        let with_tests = desired_with_tests(&scene);
        let tests = with_tests.steps.iter().find(|step| step.work == Work::Tests).unwrap().clone();
        let done = scene.record.steps[&id("smoke")].clone();
        scene.record.steps.insert(tests.work.id(), done);
        assert!(scene.plan().is_empty());
        scene.spec.services.remove(&name("agent"));
        scene.spec.probes.remove(&name("agent"));
        let plan = scene.plan();
        assert_eq!(
            changes(&plan),
            ["probe/port rerun", "smoke rerun", "probe/agent forget", "service/agent forget"]
        );
        assert!(
            matches!(&reasons(&plan, "smoke")[..], [Reason::InputChanged { input, .. }] if input == "dependencies")
        );
        scene.apply(&plan);
        assert!(scene.plan().is_empty());
        scene.spec.tests = None;
        assert_eq!(changes(&scene.plan()), ["tests forget"]);
        // A new host has nothing to be taken off.
        scene.spec.sku = Sku::fixed("large");
        assert!(!scene.plan().steps.iter().any(|step| step.action == Action::Forget));
    }

    fn desired_with_tests(scene: &Scene) -> Desired {
        super::super::desired(&scene.spec, &scene.inputs, true).unwrap()
    }

    #[test]
    fn what_is_asked_for_runs_again_and_what_follows_with_it() {
        let mut scene = Scene::applied();
        scene.rerun = vec![id("build/agent-helper")];
        let plan = scene.plan();
        assert_eq!(reasons(&plan, "build/agent-helper"), [Reason::Requested]);
        assert_eq!(reasons(&plan, "install/agent-helper"), [runs("build/agent-helper")]);
        scene.rerun = vec![id("await/ssh")];
        assert_eq!(changes(&scene.plan()), ["await/ssh rerun"], "a login changes nothing");
    }

    #[test]
    fn a_host_that_does_not_answer_is_waited_for_and_taken_from_the_record_meanwhile() {
        let mut scene = Scene::applied();
        scene.observed.view = None;
        scene.observed.unreachable = Some("no connection".to_owned());
        let plan = scene.plan();
        assert_eq!(changes(&plan), ["await/ssh rerun"]);
        assert!(plan.is_blind());
        assert!(plan.notes.iter().any(|note| note.contains("no connection")), "{:?}", plan.notes);
        scene.observed = Observed { host: ObservedHost::NotAsked, view: None, unreachable: None };
        let plan = scene.plan();
        assert!(plan.is_empty() && plan.offline && plan.notes[0].starts_with("offline"));
    }

    #[test]
    fn the_same_input_gives_the_same_bytes() {
        let bytes = |scene: &Scene| serde_json::to_vec(&scene.plan()).unwrap();
        let mut scene = Scene::applied();
        scene.edit_tree("app", &[("src/main.rs", "fn main() { }"), ("Cargo.toml", "[workspace]")]);
        let mut other = Scene::applied();
        other.edit_tree("app", &[("Cargo.toml", "[workspace]"), ("src/main.rs", "fn main() { }")]);
        assert_eq!(bytes(&scene), bytes(&other));
    }

    #[test]
    fn costs_are_for_what_is_left_of_the_lease() {
        let mut scene = Scene::applied();
        let end = scene.record.host.as_ref().unwrap().expires_at;
        scene.now = end.checked_sub(Duration::from_hours(1)).unwrap();
        assert_eq!(scene.plan().cost.worst_case.as_deref(), Some("0.19 USD"));
        scene.now = end.checked_add(Duration::from_hours(1)).unwrap();
        let plan = scene.plan();
        assert_eq!(plan.cost.worst_case.as_deref(), Some("0.00 USD"));
        assert!(plan.notes.iter().any(|note| note.starts_with("the lease ended")));
        let mut fresh = Scene::fresh();
        fresh.spec.lease.max_spend =
            Some(crate::provider::Money { micros: 300_000, currency: "USD".to_owned() });
        assert!(fresh.plan().notes.iter().any(|note| note.contains("apply will refuse")));
    }

    #[test]
    fn a_long_diff_is_cut_and_says_so() {
        let new: String = "line\n".repeat(1000);
        let diff = unified("unit", &id("x"), "", &new).unwrap().unified;
        assert_eq!(diff.lines().count(), DIFF_LINES + 1);
        assert!(diff.ends_with("(603 more lines are left out)\n"), "{diff}");
    }

    #[test]
    fn destroy_is_planned_whenever_anything_may_be_there() {
        let destroy = |record: &Record, host: ObservedHost| {
            let observed = Observed { host, view: None, unreachable: None };
            diff_destroy(
                record,
                &observed,
                None,
                Duration::from_mins(15),
                testing::at("2026-05-06T12:00:00Z"),
            )
        };
        let (mut fresh, mut applied) = (Scene::fresh(), Scene::applied());
        assert!(destroy(&fresh.record, ObservedHost::Absent).is_empty());
        let seen = present(&mut applied).clone();
        let orphan = destroy(&fresh.record, ObservedHost::Present(seen.clone()));
        assert_eq!(
            orphan.steps[0].reasons,
            [Reason::Requested, Reason::HostUnrecorded { id: seen.id.to_string() }]
        );
        assert_eq!(orphan.lost.len(), 1);
        let known = destroy(&applied.record, ObservedHost::Present(seen.clone()));
        assert_eq!(known.steps[0].reasons, [Reason::Requested]);
        assert!(known.lost.len() > 2);
        let gone = destroy(&applied.record, ObservedHost::Absent);
        assert_eq!(gone.steps[0].reasons, [Reason::Requested, Reason::HostGone]);
        let other = Host { id: HostId::fixed("two"), ..seen.clone() };
        let several = destroy(&applied.record, ObservedHost::Several(vec![seen, other]));
        assert!(several.notes[0].contains("two") && several.steps.len() == 1);
        let fingerprint = applied.record.host.as_ref().unwrap().fingerprint.clone();
        fresh.record.in_doubt.insert(id("provision/host"), in_doubt(&fingerprint));
        assert!(
            !destroy(&fresh.record, ObservedHost::Absent).is_empty(),
            "a create in doubt may have made a host"
        );
    }

    /// One thing that happens to a lane between two plans.
    #[derive(Debug, Clone)]
    enum Change {
        Unit(u8),
        Template(u8),
        CloudInit(u8),
        Source(usize, u8),
        Sku(u8),
        BuildCommand(u8),
        DropService,
        DropBuild,
        StopService,
        LoseFile,
        LoseHost,
        Rerun(usize),
    }

    fn change() -> impl Strategy<Value = Change> {
        prop_oneof![
            (0u8..3).prop_map(Change::Unit),
            (0u8..3).prop_map(Change::Template),
            (0u8..3).prop_map(Change::CloudInit),
            (0usize..3, 0u8..3).prop_map(|(source, to)| Change::Source(source, to)),
            (0u8..3).prop_map(Change::Sku),
            (0u8..3).prop_map(Change::BuildCommand),
            Just(Change::DropService),
            Just(Change::DropBuild),
            Just(Change::StopService),
            Just(Change::LoseFile),
            Just(Change::LoseHost),
            (0usize..20).prop_map(Change::Rerun),
        ]
    }

    fn happen(scene: &mut Scene, change: &Change) {
        match change {
            Change::Unit(to) => scene.edit_text("deploy/agent.service", &format!("{AGENT_UNIT}# {to}\n")),
            Change::Template(to) => {
                scene.edit_text("deploy/agent.toml.j2", &format!("{{{{ secrets.hmac }}}} {to}"));
            }
            Change::CloudInit(to) => scene.edit_text("cloud-init.yaml", &format!("#cloud-config\n# {to}\n")),
            Change::Source(source, to) => {
                scene.edit_tree(["app", "lib", "suite"][*source], &[("file", &to.to_string())]);
            }
            Change::Sku(to) => scene.spec.sku = Sku::new(format!("sku-{to}")),
            Change::BuildCommand(to) => {
                if let Some(build) = scene.spec.build.get_mut(&name("agent")) {
                    build.command.run = format!("make {to}");
                }
            }
            Change::DropService => {
                scene.spec.services.remove(&name("agent"));
                scene.spec.probes.remove(&name("agent"));
            }
            Change::DropBuild => drop(scene.spec.build.remove(&name("agent-helper"))),
            Change::StopService => {
                if let Some(view) = &mut scene.observed.view {
                    view.services.values_mut().for_each(|service| service.active = "inactive".to_owned());
                }
            }
            Change::LoseFile => {
                if let Some(view) = &mut scene.observed.view {
                    view.files.values_mut().for_each(|stat| *stat = None);
                }
            }
            Change::LoseHost => {
                scene.observed = Observed { host: ObservedHost::Absent, view: None, unreachable: None };
            }
            Change::Rerun(step) => {
                let steps = scene.desired().steps;
                scene.rerun.push(steps[step % steps.len()].work.id());
            }
        }
    }

    proptest! {
        #[test]
        fn a_plan_carried_out_leaves_nothing_to_do(
            changes in prop::collection::vec(change(), 1..6),
            applied in any::<bool>(),
            stop_after in 0usize..25,
        ) {
            let mut scene = if applied { Scene::applied() } else { Scene::fresh() };
            for change in &changes {
                happen(&mut scene, change);
            }
            let plan = scene.plan();
            let again = scene.clone().plan();
            prop_assert_eq!(serde_json::to_string(&plan).unwrap(), serde_json::to_string(&again).unwrap());
            let edges = plan.steps.iter().map(|step| (&step.id, step.depends_on.as_slice()));
            prop_assert!(StepGraph::new(edges).is_ok());
            for step in &plan.steps {
                prop_assert_eq!(step.action.is_change(), !step.reasons.is_empty(), "{:?}", step);
            }
            // A run that is cut short anywhere is gone on with, and then there is nothing left.
            for step in plan.changes().take(stop_after) {
                scene.run(step, Outcome::Done);
            }
            scene.rerun.clear();
            let plan = scene.plan();
            scene.apply(&plan);
            let plan = scene.plan();
            prop_assert!(plan.is_empty(), "{:?}", testing::changes(&plan));
        }
    }
}
