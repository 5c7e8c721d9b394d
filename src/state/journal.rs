//! The journal: intent before effect, outcome after, each fsynced; a pure fold brings it over the record.
//!
//! One JSON object a line. Opens no file by itself (`store` says where it is) and decides nothing about a run.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::error::StateError;
use super::record::{HostRecord, InDoubt, Outcome, Record, RunId, StepRecord};
use crate::plan::{Digest, Fingerprint, StepId, Work};
use crate::provider::{ClientToken, HostId, Lineage};
use crate::world::fs;

/// One line of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Counts from 0 without a gap.
    pub seq: u64,
    /// When it was written.
    pub at: Timestamp,
    /// What happened.
    pub event: JournalEvent,
}

/// What the journal knows to say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[expect(clippy::large_enum_variant, reason = "a run holds few of them at a time")]
pub enum JournalEvent {
    /// First line of each run that writes: which record this journal continues.
    Opened {
        /// Version of this form.
        format_version: u32,
        /// The lane's lineage.
        lineage: Lineage,
        /// Serial of the record that it continues; a record with a higher one has swallowed this journal already.
        base_serial: u64,
        /// Absolute path of the spec, if there is one.
        spec_path: Option<String>,
    },
    /// A create is about to be sent; written before the request.
    CreateIntended {
        /// The host as it is going to be; its id is not known yet.
        host: HostRecord,
        /// The token that goes with it.
        token: ClientToken,
    },
    /// The cloud named the host, or it was found by its label.
    HostNamed {
        /// The provider's id.
        id: HostId,
    },
    /// The host's address is known.
    HostAddressed {
        /// Where it is reached.
        address: IpAddr,
        /// SSH port.
        ssh_port: u16,
    },
    /// The host was found half-made or wrong and must be replaced.
    HostTainted {
        /// Why.
        why: String,
    },
    /// A step is about to have its effect.
    Started {
        /// Which.
        step: StepId,
        /// What it is done for.
        fingerprint: Fingerprint,
        /// Of a long step: its run on the host.
        run: Option<RunId>,
    },
    /// A step did what it should.
    Finished {
        /// Which.
        step: StepId,
        /// Its outcome.
        record: StepRecord,
    },
    /// Steps whose recorded outcome no longer counts (the host lost them, or the spec dropped them).
    Forgotten {
        /// Which.
        steps: Vec<StepId>,
    },
    /// A destroy is about to be sent.
    DestroyIntended {
        /// Which host; `None` while its create is in doubt.
        id: Option<HostId>,
    },
    /// Verified: nothing with the label is left.
    HostGone {},
    /// A person said that the host is none of this lane's business any more; it may still be there.
    HostForgotten {},
    /// The lease was extended.
    LeaseExtended {
        /// The new end.
        expires_at: Timestamp,
    },
}

/// Brings journal entries over a record; the only place that says what an entry means. Pure and total.
///
/// Any sequence can be replayed, and replaying an entry a second time changes nothing but the serial.
pub fn replay(record: &mut Record, entries: &[Entry]) {
    for entry in entries {
        apply(record, entry);
    }
}

fn apply(record: &mut Record, Entry { at, event, .. }: &Entry) {
    // A plan is bound to a serial, so whatever changes the record has to move it, a run that was killed too.
    if !matches!(event, JournalEvent::Opened { .. }) {
        record.serial = record.serial.saturating_add(1);
    }
    match event {
        // A run says which spec it is for; nothing else follows from it.
        JournalEvent::Opened { spec_path, .. } => {
            if spec_path.is_some() {
                record.spec_path.clone_from(spec_path);
            }
        }
        // The host may exist from here on. What was done on an earlier host does not count on this one.
        JournalEvent::CreateIntended { host, token } => {
            let provision = Work::Provision.id();
            record.steps.clear();
            record.in_doubt.retain(|step, _| *step == provision);
            let run = record.in_doubt.remove(&provision).and_then(|doubt| doubt.run);
            let fingerprint = host.fingerprint.clone();
            record
                .in_doubt
                .insert(provision, InDoubt { fingerprint, at: *at, run, token: Some(token.clone()) });
            record.host = Some(HostRecord { id: None, ..host.clone() });
        }
        // The create did happen. The step stays in doubt until it says itself that it is through.
        JournalEvent::HostNamed { id } => {
            if let Some(host) = &mut record.host {
                host.id = Some(id.clone());
            }
        }
        JournalEvent::HostAddressed { address, ssh_port } => {
            if let Some(host) = &mut record.host {
                host.address = Some(*address);
                host.ssh_port = *ssh_port;
            }
        }
        JournalEvent::HostTainted { why } => {
            if let Some(host) = &mut record.host {
                host.tainted = Some(why.clone());
            }
        }
        // The effect may have happened. A token that was sent stays known; a run only while it is for the same thing.
        JournalEvent::Started { step, fingerprint, run } => {
            let before = record.in_doubt.remove(step);
            let (old_run, token) = match before {
                Some(before) => {
                    ((before.fingerprint == *fingerprint).then_some(before.run).flatten(), before.token)
                }
                None => (None, None),
            };
            let run = run.clone().or(old_run);
            record
                .in_doubt
                .insert(step.clone(), InDoubt { fingerprint: fingerprint.clone(), at: *at, run, token });
        }
        // The outcome is known. A destroy that is done leaves nothing to remember.
        JournalEvent::Finished { step, record: outcome } => {
            record.in_doubt.remove(step);
            if *step == Work::Destroy.id() && outcome.outcome == Outcome::Done {
                record.steps.remove(step);
            } else {
                record.steps.insert(step.clone(), outcome.clone());
            }
        }
        // The outcome no longer counts. A create that may have happened is never forgotten, only settled.
        JournalEvent::Forgotten { steps } => {
            for step in steps {
                record.steps.remove(step);
                if record.in_doubt.get(step).is_some_and(|doubt| doubt.token.is_none()) {
                    record.in_doubt.remove(step);
                }
            }
        }
        // The host may be half gone from here on.
        JournalEvent::DestroyIntended { .. } => {
            let fingerprint = match &record.host {
                Some(host) => host.fingerprint.clone(),
                None => Fingerprint(Digest::of(b"")),
            };
            let doubt = InDoubt { fingerprint, at: *at, run: None, token: None };
            record.in_doubt.entry(Work::Destroy.id()).or_insert(doubt);
        }
        // Nothing is left, so nothing that was done on it counts and nothing is in doubt.
        JournalEvent::HostGone {} | JournalEvent::HostForgotten {} => {
            record.host = None;
            record.steps.clear();
            record.in_doubt.clear();
        }
        JournalEvent::LeaseExtended { expires_at } => {
            if let Some(host) = &mut record.host {
                host.expires_at = *expires_at;
            }
        }
    }
}

/// What a journal file holds.
#[derive(Debug)]
pub(super) struct Journal {
    /// The lineage that its first line names.
    pub(super) lineage: Lineage,
    /// The serial of the record that it continues.
    pub(super) base_serial: u64,
    /// Its entries, the first one included.
    pub(super) entries: Vec<Entry>,
    /// How many of the file's bytes are whole lines; what follows was cut short by a crash.
    pub(super) whole: u64,
}

/// The first line, read loosely so that a newer form is told from a damaged one.
#[derive(Deserialize)]
struct Opening {
    event: OpeningEvent,
}

#[derive(Deserialize)]
struct OpeningEvent {
    format_version: u32,
}

/// Reads a journal's bytes; `None` when not even its first line was written to the end.
///
/// The last line is dropped when a crash cut it short: nothing was done on the strength of it, because its fsync had
/// not returned. Anything else that does not read is damage.
pub(super) fn parse(file: &Path, bytes: &[u8]) -> Result<Option<Journal>, StateError> {
    let damaged = |line: usize, why: String| StateError::damaged(file, Some(line + 1), why);
    let mut entries: Vec<Entry> = Vec::new();
    let mut opened: Option<(Lineage, u64)> = None;
    let mut whole = 0;
    for (number, line) in bytes.split_inclusive(|&byte| byte == b'\n').enumerate() {
        let last = whole + line.len() == bytes.len();
        // A page that was allocated and never written reads as NUL bytes; JSON holds none.
        if last && (!line.ends_with(b"\n") || line.contains(&0)) {
            break;
        }
        let entry: Entry =
            serde_json::from_slice(line).map_err(|error| match serde_json::from_slice::<Opening>(line) {
                Ok(Opening { event }) if event.format_version > Record::FORMAT_VERSION => {
                    StateError::newer(file, event.format_version, Record::FORMAT_VERSION)
                }
                _ => damaged(number, format!("not a journal entry: {error}")),
            })?;
        if entry.seq != number as u64 {
            return Err(damaged(number, format!("entry {} stands where entry {number} belongs", entry.seq)));
        }
        match (&entry.event, &opened) {
            (JournalEvent::Opened { format_version, .. }, _) if *format_version > Record::FORMAT_VERSION => {
                return Err(StateError::newer(file, *format_version, Record::FORMAT_VERSION));
            }
            (JournalEvent::Opened { format_version, .. }, _) if *format_version == 0 => {
                return Err(damaged(number, format!("no lane ever wrote format version {format_version}")));
            }
            (JournalEvent::Opened { lineage, base_serial, .. }, None) => {
                opened = Some((lineage.clone(), *base_serial));
            }
            (JournalEvent::Opened { lineage, base_serial, .. }, Some(first)) => {
                if (lineage, base_serial) != (&first.0, &first.1) {
                    return Err(damaged(number, "it goes on as the journal of another record".to_owned()));
                }
            }
            (_, None) => {
                return Err(damaged(
                    number,
                    "the first entry does not say which record it continues".to_owned(),
                ));
            }
            (_, Some(_)) => {}
        }
        entries.push(entry);
        whole += line.len();
    }
    Ok(opened.map(|(lineage, base_serial)| Journal { lineage, base_serial, entries, whole: whole as u64 }))
}

/// Reads the bytes of a journal, without a last line that a crash cut short; `file` is for messages.
pub fn read_journal(file: &Path, bytes: &[u8]) -> Result<Vec<Entry>, StateError> {
    Ok(parse(file, bytes)?.map(|journal| journal.entries).unwrap_or_default())
}

/// Writes one entry in one write and returns once it is on the disk.
pub(super) fn write_line(file: &mut File, path: &Path, entry: &Entry) -> io::Result<()> {
    let mut line = serde_json::to_vec(entry).map_err(io::Error::other)?;
    line.push(b'\n');
    fs::append(file, path, &line)
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::provider::{Region, Sku};

    pub(in crate::state) fn fingerprint(text: &str) -> Fingerprint {
        Fingerprint(Digest::of(text.as_bytes()))
    }

    pub(in crate::state) fn host(text: &str) -> HostRecord {
        HostRecord {
            id: None,
            provider: "nspawn".to_owned(),
            scope: None,
            provider_config: serde_json::json!({"name": "nspawn", "z": 1, "a": [1.5, null, {"b": text}]}),
            sku: Sku::new(text),
            region: Region::fixed("local"),
            image: "ubuntu-24.04".to_owned(),
            user: "mvm".to_owned(),
            address: None,
            ssh_port: 22,
            created_at: Timestamp::UNIX_EPOCH,
            expires_at: Timestamp::UNIX_EPOCH,
            fingerprint: fingerprint(text),
            user_data: Digest::of(b"user-data"),
            tainted: None,
        }
    }

    pub(in crate::state) fn outcome(outcome: Outcome) -> StepRecord {
        StepRecord {
            outcome,
            fingerprint: fingerprint("step"),
            inputs: BTreeMap::from([("unit".to_owned(), "ab".to_owned())]),
            at: Timestamp::UNIX_EPOCH,
            duration_ms: 7,
            facts: BTreeMap::new(),
        }
    }

    pub(in crate::state) fn create(text: &str) -> JournalEvent {
        JournalEvent::CreateIntended { host: host(text), token: ClientToken::new(format!("token-{text}")) }
    }

    pub(in crate::state) fn started(step: &str, run: Option<&str>) -> JournalEvent {
        let run = run.map(|run| RunId(run.to_owned()));
        JournalEvent::Started { step: StepId::from_text(step), fingerprint: fingerprint("step"), run }
    }

    pub(in crate::state) fn finished(step: &str, how: Outcome) -> JournalEvent {
        JournalEvent::Finished { step: StepId::from_text(step), record: outcome(how) }
    }

    fn named(id: &str) -> JournalEvent {
        JournalEvent::HostNamed { id: HostId::new(id) }
    }

    fn fold(events: &[JournalEvent]) -> Record {
        let mut record = Record::new("demo", Lineage::fixed("lineage"));
        replay(&mut record, &number(events));
        record
    }

    fn number(events: &[JournalEvent]) -> Vec<Entry> {
        let entry = |(seq, event): (usize, &JournalEvent)| Entry {
            seq: seq as u64,
            at: Timestamp::from_second(i64::try_from(seq).unwrap()).unwrap(),
            event: event.clone(),
        };
        events.iter().enumerate().map(entry).collect()
    }

    fn opened(base_serial: u64) -> JournalEvent {
        let lineage = Lineage::fixed("lineage");
        JournalEvent::Opened {
            format_version: 1,
            lineage,
            base_serial,
            spec_path: Some("/s.yaml".to_owned()),
        }
    }

    fn doubts(record: &Record) -> Vec<&str> {
        record.in_doubt.keys().map(StepId::as_str).collect()
    }

    #[test]
    fn a_create_is_in_doubt_with_its_token_until_it_is_finished() {
        let events =
            [started("provision/host", None), create("a"), named("i-1"), started("provision/host", None)];
        for end in 2..=events.len() {
            let record = fold(&events[..end]);
            let doubt = &record.in_doubt[&Work::Provision.id()];
            assert_eq!(doubt.token.as_ref().map(ClientToken::as_str), Some("token-a"), "after {end} events");
            assert_eq!(record.host.unwrap().id, (end > 2).then(|| HostId::new("i-1")));
        }
        let record = fold(&[&events[..], &[finished("provision/host", Outcome::Done)]].concat());
        assert_eq!(doubts(&record), [""; 0]);
        assert!(record.steps.contains_key(&Work::Provision.id()));
    }

    #[test]
    fn a_create_that_may_have_happened_is_not_forgotten() {
        let forget =
            JournalEvent::Forgotten { steps: vec![Work::Provision.id(), StepId::from_text("sync/a")] };
        let record = fold(&[create("a"), started("sync/a", None), forget]);
        assert_eq!(doubts(&record), ["provision/host"]);
    }

    #[test]
    fn a_new_host_inherits_no_outcome() {
        let events =
            [create("a"), finished("sync/x", Outcome::Done), started("build/x", Some("r")), create("b")];
        let record = fold(&events);
        assert!(record.steps.is_empty());
        assert_eq!(doubts(&record), ["provision/host"]);
        assert_eq!(record.host.unwrap().sku.as_str(), "b");
    }

    #[test]
    fn a_run_is_kept_while_it_is_for_the_same_thing() {
        let run = |events: &[JournalEvent]| fold(events).in_doubt[&StepId::from_text("build/x")].run.clone();
        let first = started("build/x", Some("r1"));
        assert_eq!(run(&[first.clone(), started("build/x", None)]), Some(RunId("r1".to_owned())));
        assert_eq!(run(&[first.clone(), started("build/x", Some("r2"))]), Some(RunId("r2".to_owned())));
        let step = StepId::from_text("build/x");
        let other = JournalEvent::Started { step, fingerprint: fingerprint("other"), run: None };
        assert_eq!(run(&[first, other]), None);
    }

    #[test]
    fn destroy_leaves_nothing_whatever_the_order() {
        let before =
            [create("a"), named("i-1"), finished("provision/host", Outcome::Done), started("smoke", None)];
        let destroy = JournalEvent::DestroyIntended { id: Some(HostId::new("i-1")) };
        let half = fold(&[&before[..], &[started("destroy/host", None), destroy.clone()]].concat());
        assert!(half.in_doubt.contains_key(&Work::Destroy.id()) && half.host.is_some());
        let (gone, done) = (JournalEvent::HostGone {}, finished("destroy/host", Outcome::Done));
        for end in [[gone.clone(), done.clone()], [done, gone]] {
            let record = fold(&[&before[..], std::slice::from_ref(&destroy), &end].concat());
            assert_eq!((record.host, record.steps.len(), record.in_doubt.len()), (None, 0, 0));
        }
        let failed = finished("destroy/host", Outcome::Failed { error: "quota".to_owned() });
        let record = fold(&[&before[..], &[destroy, failed]].concat());
        assert!(record.host.is_some() && record.steps.contains_key(&Work::Destroy.id()));
    }

    #[test]
    fn every_change_moves_the_serial_and_opening_does_not() {
        assert_eq!(fold(&[opened(0), opened(0)]).serial, 0);
        assert_eq!(fold(&[opened(0), create("a"), named("i")]).serial, 2);
        assert_eq!(fold(&[opened(0)]).spec_path.as_deref(), Some("/s.yaml"));
    }

    fn lines(entries: &[Entry]) -> Vec<String> {
        entries.iter().map(|entry| serde_json::to_string(entry).unwrap() + "\n").collect()
    }

    fn read(text: &str) -> Result<Option<Journal>, StateError> {
        parse(Path::new("journal.jsonl"), text.as_bytes())
    }

    #[test]
    fn damage_is_named_with_its_line_and_a_torn_end_is_not_damage() {
        let good = lines(&number(&[opened(3), create("a"), named("i-1")]));
        let why = |text: String| match read(&text) {
            Err(StateError::Damaged { line, why, .. }) => format!("{}: {why}", line.unwrap()),
            other => panic!("{other:?}"),
        };
        assert!(why([&good[0], "{}\n", &good[2]].concat()).starts_with("2: not a journal entry"));
        assert!(why([&good[0], "{}\n"].concat()).starts_with("2: not a journal entry"));
        assert!(why([&good[0], "\n", &good[1]].concat()).starts_with("2: not a journal entry"));
        assert_eq!(why([&*good[0], &good[2]].concat()), "2: entry 2 stands where entry 1 belongs");
        assert!(why(lines(&number(&[create("a")])).concat()).starts_with("1: the first entry"));
        assert!(why(lines(&number(&[opened(3), opened(4)])).concat()).starts_with("2: it goes on"));
        assert!(why(good[0].replace("\"format_version\":1", "\"format_version\":0")).contains("version 0"));
        let torn = [&*good[0], &good[1], "{\"seq\":2,\0\0\0\n"].concat();
        let journal = read(&torn).unwrap().unwrap();
        assert_eq!((journal.entries.len(), journal.whole), (2, (good[0].len() + good[1].len()) as u64));
    }

    #[test]
    fn a_newer_form_is_refused_as_such_even_with_keys_that_nobody_knows() {
        let good = lines(&number(&[opened(3)])).concat();
        for newer in ["\"format_version\":3", "\"format_version\":3,\"novelty\":[]"] {
            let text = good.replace("\"format_version\":1", newer);
            assert!(matches!(read(&text), Err(StateError::NewerFormat { found: 3, known: 2, .. })), "{text}");
        }
    }

    fn any_time() -> impl Strategy<Value = Timestamp> {
        (0..4_000_000_000_i64, 0..1_000_000_000_i32).prop_map(|(s, n)| Timestamp::new(s, n).unwrap())
    }

    fn any_step() -> impl Strategy<Value = StepId> {
        prop_oneof![
            Just(Work::Provision.id()),
            Just(Work::Destroy.id()),
            ".{0,6}".prop_map(|text| StepId::from_text(&format!("sync/{text}"))),
        ]
    }

    fn any_event() -> impl Strategy<Value = JournalEvent> {
        let text = || "\\PC{0,8}";
        prop_oneof![
            (any::<u64>(), proptest::option::of(text())).prop_map(|(base_serial, spec_path)| {
                JournalEvent::Opened {
                    format_version: 1,
                    lineage: Lineage::fixed("lineage"),
                    base_serial,
                    spec_path,
                }
            }),
            (text(), any::<i32>().prop_map(|number| f64::from(number) / 4.0), any::<i64>()).prop_map(
                |(text, float, whole)| {
                    let mut host = host(&text);
                    host.provider_config = serde_json::json!({"float": float, "whole": whole, "text": text});
                    JournalEvent::CreateIntended { host, token: ClientToken::new(text) }
                }
            ),
            text().prop_map(|id| named(&id)),
            (any::<IpAddr>(), any::<u16>())
                .prop_map(|(address, ssh_port)| JournalEvent::HostAddressed { address, ssh_port }),
            "(?s).{0,20}".prop_map(|why| JournalEvent::HostTainted { why }),
            (any_step(), text(), proptest::option::of(text())).prop_map(|(step, print, run)| {
                JournalEvent::Started { step, fingerprint: fingerprint(&print), run: run.map(RunId) }
            }),
            (any_step(), proptest::option::of("(?s).{0,20}"), any::<u64>()).prop_map(
                |(step, error, duration_ms)| {
                    let how = error.map_or(Outcome::Done, |error| Outcome::Failed { error });
                    JournalEvent::Finished { step, record: StepRecord { duration_ms, ..outcome(how) } }
                }
            ),
            proptest::collection::vec(any_step(), 0..3).prop_map(|steps| JournalEvent::Forgotten { steps }),
            proptest::option::of(text())
                .prop_map(|id| JournalEvent::DestroyIntended { id: id.map(HostId::new) }),
            Just(JournalEvent::HostGone {}),
            Just(JournalEvent::HostForgotten {}),
            any_time().prop_map(|expires_at| JournalEvent::LeaseExtended { expires_at }),
        ]
    }

    proptest! {
        #[test]
        fn events_round_trip_on_one_line_each(event in any_event(), at in any_time(), seq in any::<u64>()) {
            let entry = Entry { seq, at, event };
            let line = serde_json::to_string(&entry).unwrap();
            prop_assert!(!line.contains('\n'));
            prop_assert_eq!(serde_json::from_str::<Entry>(&line).unwrap(), entry);
        }

        #[test]
        fn a_record_that_saw_anything_round_trips(events in proptest::collection::vec(any_event(), 0..12)) {
            let record = fold(&events);
            let text = serde_json::to_string_pretty(&record).unwrap();
            prop_assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
        }

        #[test]
        fn an_entry_replayed_twice_changes_the_serial_alone(events in proptest::collection::vec(any_event(), 1..12)) {
            let mut once = fold(&events);
            let twice = &number(&events)[events.len() - 1..];
            let mut again = once.clone();
            replay(&mut again, twice);
            once.serial = 0;
            again.serial = 0;
            prop_assert_eq!(again, once);
        }

        #[test]
        fn a_create_in_doubt_ends_by_an_outcome_or_a_proof_alone(events in proptest::collection::vec(any_event(), 0..12)) {
            let settles = |event: &JournalEvent| match event {
                JournalEvent::HostGone {} | JournalEvent::HostForgotten {} => true,
                JournalEvent::Finished { step, .. } => *step == Work::Provision.id(),
                _ => false,
            };
            let mut all = vec![create("a")];
            all.extend(events.into_iter().filter(|event| !settles(event)));
            let record = fold(&all);
            prop_assert!(record.host.is_some());
            prop_assert!(record.in_doubt[&Work::Provision.id()].token.is_some());
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(parse(Path::new("j"), &bytes));
        }
    }
}
