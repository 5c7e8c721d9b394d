//! What must hold, judged by the cloud's own ledger and the files on the disk; never by what `lane` says.

use std::collections::BTreeSet;

use super::cloud::{Machine, Weather};
use super::computer::whole_output;
use super::lane::Lane;
use crate::emulators;
use crate::plan::Work;
use crate::provider::{Label, ProviderError, Selector};
use crate::state::Record;
use crate::world::fs;

fn record(lane: &Lane) -> Result<Record, String> {
    match lane.dir.load() {
        Ok(Some(record)) => Ok(record),
        Ok(None) => Err("I8: the lane's state is gone".to_owned()),
        Err(error) => Err(format!("I8: the lane's state cannot be read: {error}")),
    }
}

/// Holds after every run, whatever became of it.
pub(super) fn always(lane: &Lane) -> Result<(), String> {
    let record = record(lane)?;
    let label = record.label();
    let ledger = lane.cloud.ledger();
    if let Some(broken) = ledger.broken.first() {
        return Err(broken.clone());
    }
    let ours: Vec<_> =
        ledger.of(&label).filter(|machine| !machine.by_hand && !machine.is_deleted()).collect();
    if ours.len() > 1 {
        return Err(format!("I1: {} hosts carry the label {label}", ours.len()));
    }
    // Whatever costs money is known to the state, or the state knows that it does not know.
    if record.host.is_some() {
        lane.forgotten.set(false);
    }
    if let Some(machine) = ours.first().filter(|_| !lane.forgotten.get()) {
        let known = record
            .host
            .as_ref()
            .is_some_and(|host| host.id.is_none() || host.id.as_ref() == Some(&lane.known_as(&machine.id)));
        if !known {
            return Err(format!("I3: {} is billed and no record knows it: {:?}", machine.id, record.host));
        }
    }
    let armed = ours.first().map(|machine| (lane.known_as(&machine.id), machine.expires_at));
    if let (Some((id, end)), Some(host)) = (armed, &record.host)
        && host.id == Some(id)
        && end.as_second() > host.expires_at.as_second()
    {
        return Err(format!("I7: the record names {} and the cloud a later end, {end}", host.expires_at));
    }
    if let Some(complaint) = lane.emulator.as_ref().and_then(|emulator| emulator.complaints().pop()) {
        return Err(format!("the vendor would not understand: {complaint}"));
    }
    Ok(())
}

/// Holds when `apply` said that it is through.
pub(super) fn is_up(lane: &Lane) -> Result<(), String> {
    let record = record(lane)?;
    let (label, ledger) = (record.label(), lane.cloud.ledger());
    let alive: Vec<_> = ledger.of(&label).filter(|machine| !machine.is_deleted()).collect();
    let [machine] = alive[..] else {
        return Err(format!("I1: {} hosts after apply", alive.len()));
    };
    if record.host.as_ref().and_then(|host| host.id.as_ref()) != Some(&lane.known_as(&machine.id)) {
        return Err(format!("I1: {} is up and {:?} is recorded", machine.id, record.host));
    }
    // Tests that were cut off are taken up by the next tests.
    if record.in_doubt.keys().any(|step| *step != Work::Tests.id()) {
        return Err(format!("in doubt after apply: {:?}", record.in_doubt));
    }
    let host = &machine.computer;
    for (name, source) in &lane.spec.sources {
        if !record.steps.contains_key(&Work::Sync(name.clone()).id()) {
            continue;
        }
        let wanted = lane.inputs.trees[name].entries.iter().map(|entry| entry.path.clone()).collect();
        if host.sources.get(&source.to) != Some(&wanted) {
            return Err(format!(
                "source {name} on the host is {:?}, not {wanted:?}",
                host.sources.get(&source.to)
            ));
        }
    }
    for (name, service) in &lane.spec.services {
        let seen = host.services.get(name.as_str());
        let unit = &lane.inputs.texts[&service.unit.path];
        if !seen.is_some_and(|seen| seen.active && seen.unit == *unit) {
            return Err(format!("service {name} is {seen:?}"));
        }
    }
    if !lane.has_forgotten.get()
        && let Some(name) = host
            .services
            .keys()
            .find(|name| !lane.spec.services.keys().any(|wanted| wanted.as_str() == *name))
    {
        return Err(format!("service {name} was dropped and still runs"));
    }
    // A run that was begun is not begun again: each start beyond the first has a failure, an edit or drift behind it.
    for (unit, starts) in &host.job_starts {
        let allowed = 1 + host.job_failures.get(unit).copied().unwrap_or(0) + lane.disturbances.get();
        if *starts > allowed {
            return Err(format!(
                "I16: {unit} was started {starts} times, {allowed} at most can be explained"
            ));
        }
    }
    outputs_are_whole(lane, &record)
}

/// I16: what a command wrote is in its log, complete and in order, however often it was cut off.
fn outputs_are_whole(lane: &Lane, record: &Record) -> Result<(), String> {
    for id in record.steps.keys().filter(|id| Work::from_id(id).is_some_and(|work| work.is_long())) {
        let path = lane.dir.logs().join(format!("{}.log", id.file_name()));
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned();
        let Some((run, rest)) = text.rsplit("== run ").next().and_then(|last| last.split_once('\n')) else {
            return Err(format!("I16: {} has no run", path.display()));
        };
        if rest != whole_output(run) {
            return Err(format!("I16: the log of {id} is not whole:\n{rest}"));
        }
    }
    Ok(())
}

/// Holds when `lease extend` said that it is through.
pub(super) fn is_extended(lane: &Lane) -> Result<(), String> {
    let record = record(lane)?;
    let Some(host) = &record.host else {
        return Err("a lease was extended and no host is recorded".to_owned());
    };
    let ledger = lane.cloud.ledger();
    let known = |machine: &&Machine| host.id == Some(lane.known_as(&machine.id)) && !machine.is_deleted();
    // A host that somebody deleted has no end.
    let Some(machine) = ledger.machines.iter().find(known) else { return Ok(()) };
    let on_host = machine.computer.powers_off_at;
    let end = host.expires_at.as_second();
    if machine.expires_at.as_second() != end || lane.entry.timer_stops_bill && on_host != Some(end) {
        return Err(format!(
            "I7: extended to {} in the record, {} in the cloud, {on_host:?} on the host",
            host.expires_at, machine.expires_at
        ));
    }
    Ok(())
}

/// Holds when a damaged record was repaired: nothing that it said before is lost.
pub(super) fn is_mended(lane: &Lane, before: Option<&Record>) -> Result<(), String> {
    let (after, Some(before)) = (record(lane)?, before) else { return Err("there was no record".to_owned()) };
    let known = |record: &Record| record.host.as_ref().is_some_and(|host| host.id.is_some());
    let is_same = if known(before) {
        (&before.host, &before.in_doubt) == (&after.host, &after.in_doubt)
    } else {
        before.host.is_none() || after.host.is_some()
    };
    if !is_same || before.steps != after.steps || before.lineage != after.lineage {
        return Err(format!("I8: repair lost something:\n{before:#?}\n{after:#?}"));
    }
    Ok(())
}

/// Whatever costs money is in what the provider lists by the lane's label, once the listing has caught up.
pub(super) async fn shows_what_costs(lane: &Lane) -> Result<(), String> {
    let label = record(lane)?.label();
    lane.cloud.ledger().weather = Weather::default();
    let mut unseen = vec![];
    for _ in 0..2 {
        let selector = Selector::Label(label.clone());
        let lost = |error: ProviderError| format!("a cloud in good weather cannot be asked: {error}");
        let rest = lane.provider.residue(&selector).await.map_err(lost)?;
        let hosts = lane.provider.find(&selector).await.map_err(lost)?;
        let shown = hosts.iter().filter(|host| host.label == label).map(|host| host.id.to_string());
        let shown = shown.chain(rest.iter().flat_map(|part| [part.host.to_string(), part.id.clone()]));
        let shown: BTreeSet<String> = shown.collect();
        let machines: Vec<_> = lane.cloud.ledger().of(&label).map(|machine| machine.id.clone()).collect();
        let billed = machines.iter().map(|id| lane.known_as(id).to_string());
        let parts = lane.emulator.as_ref().map_or(vec![], |emulator| emulator.leftovers());
        unseen = billed.filter(|id| !shown.contains(id)).collect();
        unseen.extend(
            parts.into_iter().filter(|part| !shown.iter().any(|shown| part.ends_with(shown.as_str()))),
        );
        if unseen.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(lane.entry.listing_lag).await;
    }
    Err(format!("I4: no listing by the label shows {unseen:?}"))
}

/// Holds when `destroy` said that it is through.
pub(super) fn is_gone(lane: &Lane) -> Result<(), String> {
    let record = record(lane)?;
    let label: Label = record.label();
    let ledger = lane.cloud.ledger();
    if let Some(machine) = ledger.of(&label).next() {
        return Err(format!("I4: {} is still billed after destroy", machine.id));
    }
    if let Some(left) = lane.emulator.as_ref().and_then(|emulator| emulator.leftovers().pop()) {
        return Err(format!("I4: {left} is left after destroy"));
    }
    if record.host.is_some() || !record.in_doubt.is_empty() {
        return Err(format!(
            "I4: after destroy the record still has {:?}, {:?}",
            record.host, record.in_doubt
        ));
    }
    Ok(())
}

/// I6: of what is none of ours, no request that changes something has named anything.
pub(super) fn strangers_are_untouched(lane: &Lane, strangers: &[String]) -> Result<(), String> {
    let requests = lane.emulator.as_ref().map_or(vec![], |emulator| emulator.requests());
    for request in requests.iter().filter(|request| !emulators::reads(request)) {
        if let Some(stranger) = strangers.iter().find(|stranger| emulators::names(request, stranger)) {
            return Err(format!(
                "I6: {} {} names {stranger}, which is none of ours",
                request.method, request.url
            ));
        }
    }
    Ok(())
}
