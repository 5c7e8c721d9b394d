//! Makes a lane's record anew out of what is left of its files. Asks no cloud; never deletes what it cannot read.

use std::path::{Path, PathBuf};

use super::error::StateError;
use super::journal::{self, Entry, JournalEvent, replay};
use super::record::Record;
use super::store::{LaneDir, numbered, read, read_record, write_json};
use crate::provider::Lineage;
use crate::world::{World, fs};

/// What is left of a lane's files, and the record that follows from it.
#[derive(Debug)]
pub struct Findings {
    /// The record, as far as it can be made again; `None` when no file names even the lineage.
    pub record: Option<Record>,
    /// What was found, for people.
    pub notes: Vec<String>,
    /// Whether everything is as `lane` wrote it, so that there is nothing to repair.
    pub is_intact: bool,
    /// Files that get out of the way, under a new name.
    aside: Vec<PathBuf>,
}

/// A journal as far as it can be read.
struct Readable {
    lineage: Option<Lineage>,
    base_serial: u64,
    entries: Vec<Entry>,
    damage: Option<String>,
}

impl LaneDir {
    /// Reads what is left of the lane's files, and begins anew with the lineage where they name none; changes nothing.
    ///
    /// An error means that a newer `lane` wrote them, or that they cannot be read at all.
    pub fn examine(&self, lineage: Option<&Lineage>) -> Result<Findings, StateError> {
        let mut findings = Findings { record: None, notes: vec![], is_intact: false, aside: vec![] };
        match self.load() {
            Ok(Some(record)) => {
                findings.notes.push(format!("record and journal are whole, at serial {}", record.serial));
                (findings.record, findings.is_intact) = (Some(record), true);
                return Ok(findings);
            }
            Ok(None) => findings.notes.push("there is no record and no journal".to_owned()),
            Err(error @ StateError::Damaged { .. }) => findings.notes.push(error.to_string()),
            Err(error) => return Err(error),
        }
        let mut base = self.base(&mut findings)?;
        let journal = self.live(&mut findings)?;
        if base.is_none()
            && let Some(lineage) = journal.as_ref().and_then(|journal| journal.lineage.clone())
        {
            findings.notes.push("no record is left: it is made again from the journal".to_owned());
            base = Some(Record::new(self.lane(), lineage));
        }
        let Some(mut record) = base else {
            if let Some(lineage) = lineage {
                findings.notes.push(format!("the record begins anew, with lineage {lineage}"));
                findings.record = Some(Record::new(self.lane(), lineage.clone()));
            }
            return Ok(findings);
        };
        self.catch_up(&mut record, &mut findings)?;
        if let Some(journal) = journal {
            if journal.lineage.as_ref() != Some(&record.lineage) {
                findings.notes.push("the journal belongs to another lineage and is left out".to_owned());
            } else if journal.base_serial < record.serial {
                findings.notes.push("the journal is part of the record already".to_owned());
            } else {
                if journal.base_serial > record.serial {
                    findings.notes.push(format!(
                        "between serial {} and the journal's {} something is lost; the journal still counts",
                        record.serial, journal.base_serial
                    ));
                    record.serial = journal.base_serial;
                }
                replay(&mut record, &journal.entries);
                findings.notes.push(format!("{} journal entries brought over it", journal.entries.len()));
            }
        }
        findings.record = Some(record);
        Ok(findings)
    }

    /// Makes the record anew and moves what is damaged aside; with nothing readable it needs the lineage.
    pub fn repair(&self, world: &World, lineage: Option<&Lineage>) -> Result<Findings, StateError> {
        // Without a lineage, what is not there cannot be repaired, and a look leaves no folder.
        if lineage.is_none() && !fs::exists(self.path()) {
            return self.examine(None);
        }
        let _lock = self.lock(world, "state repair")?;
        let mut findings = self.examine(lineage)?;
        if findings.is_intact {
            return Ok(findings);
        }
        let Some(record) = &mut findings.record else { return Ok(findings) };
        // A plan that was made on the damaged state must not pass for one of this.
        record.serial += 1;
        let stamp = world.now().strftime("%Y%m%dT%H%M%SZ").to_string();
        fs::create_dir_private(&self.logs()).map_err(|error| StateError::io("make", &self.logs(), error))?;
        // The record last: a repair that is cut off finds everything again.
        let backup = self.path().join(format!("state.json.{}.bak", record.serial));
        write_json(&backup, record)?;
        for path in &findings.aside {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let to = path.with_file_name(format!("{name}.damaged-{stamp}"));
            fs::rename(path, &to).map_err(|error| StateError::io("move aside", path, error))?;
            findings.notes.push(format!("{} is kept as {}", path.display(), to.display()));
        }
        write_json(&self.path().join("state.json"), record)?;
        Ok(findings)
    }

    /// Reads the record's file, or else its newest backup that can be read.
    fn base(&self, findings: &mut Findings) -> Result<Option<Record>, StateError> {
        let file = self.path().join("state.json");
        let mut candidates = vec![file.clone()];
        let backups = numbered(self.path(), "state.json.", ".bak");
        candidates.extend(backups.iter().rev().map(|(_, name)| self.path().join(name)));
        // A lineage that none of the backups has is damage that still reads well.
        let mut known = Vec::new();
        for path in candidates.iter().filter(|path| **path != file) {
            let bytes = read(path)?;
            known.extend(bytes.and_then(|bytes| read_record(path, &bytes).ok()).map(|record| record.lineage));
        }
        for path in candidates {
            let Some(bytes) = read(&path)? else { continue };
            match read_record(&path, &bytes) {
                Ok(record) if path == file && !known.is_empty() && !known.contains(&record.lineage) => {
                    findings.notes.push(format!("{} names a lineage that no backup knows", path.display()));
                    findings.aside.push(path);
                }
                Ok(record) if record.lane == self.lane() => {
                    findings.notes.push(format!("{} is whole, at serial {}", path.display(), record.serial));
                    if path == file {
                        // Written anew all the same: with it goes the journal.
                        findings.aside.push(path);
                    }
                    return Ok(Some(record));
                }
                Err(error @ StateError::NewerFormat { .. }) => return Err(error),
                Ok(record) => {
                    findings.notes.push(format!("{} is of lane {}", path.display(), record.lane));
                    findings.aside.push(path);
                }
                Err(error) => {
                    findings.notes.push(error.to_string());
                    findings.aside.push(path);
                }
            }
        }
        Ok(None)
    }

    fn live(&self, findings: &mut Findings) -> Result<Option<Readable>, StateError> {
        let path = self.path().join("journal.jsonl");
        let Some(bytes) = read(&path)? else { return Ok(None) };
        let readable = as_far_as_it_goes(&path, &bytes)?;
        if let Some(damage) = &readable.damage {
            findings
                .notes
                .push(format!("{damage}; the {} entries before it are good", readable.entries.len()));
        }
        findings.aside.push(path);
        Ok(Some(readable))
    }

    /// Brings the journals that later checkpoints took in over an older record.
    fn catch_up(&self, record: &mut Record, findings: &mut Findings) -> Result<(), StateError> {
        for (serial, name) in numbered(&self.logs(), "journal-", ".jsonl") {
            if serial <= record.serial {
                continue;
            }
            let path = self.logs().join(name);
            let Some(bytes) = read(&path)? else { continue };
            let sealed = as_far_as_it_goes(&path, &bytes)?;
            if sealed.lineage.as_ref() != Some(&record.lineage) || sealed.base_serial != record.serial {
                continue;
            }
            replay(record, &sealed.entries);
            record.serial = serial;
            findings.notes.push(format!("{} brought over it", path.display()));
        }
        Ok(())
    }
}

/// Reads a journal up to its first damaged line.
fn as_far_as_it_goes(path: &Path, bytes: &[u8]) -> Result<Readable, StateError> {
    let (mut whole, mut damage) = (bytes, None);
    let entries = loop {
        match journal::read_journal(path, whole) {
            Ok(entries) => break entries,
            Err(StateError::Damaged { line: Some(1), .. }) => break vec![],
            Err(error @ StateError::Damaged { line: Some(_), .. }) => {
                let StateError::Damaged { line: Some(line), .. } = &error else { break vec![] };
                let end = bytes.split_inclusive(|&byte| byte == b'\n').take(line - 1).map(<[u8]>::len).sum();
                whole = &bytes[..end];
                damage = Some(error.to_string());
            }
            Err(error) => return Err(error),
        }
    };
    if entries.is_empty() && !bytes.is_empty() && damage.is_none() {
        damage = Some(format!("{} holds no entry that can be read", path.display()));
    }
    let (lineage, base_serial) = match entries.first().map(|entry| &entry.event) {
        Some(JournalEvent::Opened { lineage, base_serial, .. }) => (Some(lineage.clone()), *base_serial),
        _ => (None, 0),
    };
    Ok(Readable { lineage, base_serial, entries, damage })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::provider::HostId;
    use crate::state::journal::tests::{create, finished};
    use crate::state::store::tests::{lane, world};
    use crate::state::{Outcome, StepRecord};

    /// A lane with two runs behind it and a third that was killed.
    fn lived() -> (tempfile::TempDir, LaneDir, Record) {
        let (temp, lane) = lane();
        let session = lane.open(&world(), "apply").unwrap();
        session.append(create("a")).unwrap();
        session.append(JournalEvent::HostNamed { id: HostId::new("i-1") }).unwrap();
        session.checkpoint().unwrap();
        session.append(finished("provision/host", Outcome::Done)).unwrap();
        session.checkpoint().unwrap();
        session.append(finished("sync/a", Outcome::Done)).unwrap();
        session.append(finished("sync/b", Outcome::Done)).unwrap();
        let record = session.record();
        (temp, lane, record)
    }

    fn put(lane: &LaneDir, name: &str, bytes: &[u8]) {
        fs::write_atomic(&lane.path().join(name), bytes, fs::Mode::Private).unwrap();
    }

    fn steps(record: &Record) -> Vec<(&str, &StepRecord)> {
        record.steps.iter().map(|(id, step)| (id.as_str(), step)).collect()
    }

    #[test]
    fn what_is_whole_is_left_alone() {
        let (_temp, lane, record) = lived();
        let before = fs::list(lane.path()).unwrap();
        let findings = lane.repair(&world(), None).unwrap();
        assert!(findings.is_intact);
        assert_eq!(findings.record, Some(record));
        assert_eq!(fs::list(lane.path()).unwrap(), before);
    }

    #[test]
    fn each_kind_of_damage_is_mended_with_nothing_lost_and_the_files_kept() {
        let torn = b"{\"format_version\":1,\"lane\":\"de";
        let cases: [(&str, &[u8]); 3] = [("empty", b""), ("torn", torn), ("garbage", b"\xff\0[]")];
        for (name, bytes) in cases {
            let (_temp, lane, record) = lived();
            put(&lane, "state.json", bytes);
            assert!(lane.load().is_err(), "{name}");
            let dry = lane.examine(None).unwrap();
            assert_eq!(steps(&dry.record.unwrap()), steps(&record), "{name}");
            assert!(lane.load().is_err(), "{name}: a look changed something");
            lane.repair(&world(), None).unwrap();
            let mended = lane.load().unwrap().unwrap();
            assert_eq!((steps(&mended), &mended.host), (steps(&record), &record.host), "{name}");
            assert!(mended.serial > record.serial, "{name}: an old plan would pass");
            let kept = lane.path().join("state.json.damaged-20010909T014640Z");
            assert_eq!(fs::read(&kept).unwrap(), bytes, "{name}");
            lane.open(&world(), "apply").unwrap().append(finished("sync/c", Outcome::Done)).unwrap();
        }
    }

    #[test]
    fn an_old_copy_of_the_record_is_brought_up_to_date_by_the_journals() {
        let (_temp, lane, record) = lived();
        let (_, first) = numbered(lane.path(), "state.json.", ".bak").remove(0);
        let old = fs::read(&lane.path().join(first)).unwrap();
        for (_, name) in numbered(lane.path(), "state.json.", ".bak") {
            fs::remove_file(&lane.path().join(name)).unwrap();
        }
        put(&lane, "state.json", &old);
        assert!(lane.load().is_err());
        lane.repair(&world(), None).unwrap();
        assert_eq!(steps(&lane.load().unwrap().unwrap()), steps(&record));
    }

    #[test]
    fn a_damaged_journal_counts_up_to_the_damage() {
        let (_temp, lane, record) = lived();
        let path = lane.path().join("journal.jsonl");
        let text = String::from_utf8(fs::read(&path).unwrap()).unwrap();
        let mut lines: Vec<&str> = text.lines().collect();
        let last = lines.len() - 2;
        lines[last] = "{\"seq\":1,";
        put(&lane, "journal.jsonl", format!("{}\n", lines.join("\n")).as_bytes());
        let findings = lane.repair(&world(), None).unwrap();
        let mended = lane.load().unwrap().unwrap();
        assert_eq!(mended.host, record.host);
        assert!(!mended.steps.contains_key(&crate::plan::StepId::from_text("sync/a")));
        assert!(findings.notes.iter().any(|note| note.contains("line 2")), "{:?}", findings.notes);
    }

    #[test]
    fn with_nothing_left_it_needs_the_lineage_and_says_so() {
        let (_temp, lane, _) = lived();
        for name in fs::list(lane.path()).unwrap() {
            if name.starts_with("state.json") || name == "journal.jsonl" {
                put(&lane, &name, b"");
            }
        }
        let findings = lane.repair(&world(), None).unwrap();
        assert!(findings.record.is_none() && !findings.is_intact);
        lane.repair(&world(), Some(&Lineage::fixed("01j00000000000000000000000"))).unwrap();
        assert_eq!(lane.load().unwrap().unwrap().lineage.as_str(), "01j00000000000000000000000");
    }

    #[test]
    fn a_lost_folder_is_made_again_for_a_lineage_and_not_by_a_look() {
        let (_temp, lane) = lane();
        let lineage = Lineage::fixed("01j00000000000000000000000");
        assert_eq!(lane.examine(Some(&lineage)).unwrap().record.unwrap().lineage, lineage);
        assert!(lane.repair(&world(), None).unwrap().record.is_none());
        assert!(!fs::exists(lane.path()));
        lane.repair(&world(), Some(&lineage)).unwrap();
        assert_eq!(lane.load().unwrap().unwrap().lineage, lineage);
    }

    #[test]
    fn what_a_newer_lane_wrote_is_refused_and_stays() {
        let (_temp, lane, _) = lived();
        put(&lane, "state.json", b"{\"format_version\":99}");
        assert!(matches!(lane.repair(&world(), None), Err(StateError::NewerFormat { .. })));
        assert_eq!(fs::read(&lane.path().join("state.json")).unwrap(), b"{\"format_version\":99}");
    }

    proptest! {
        /// One file, any bytes of it changed: the host is still known, and so are the bytes.
        #[test]
        fn any_damage_to_one_file_keeps_the_host(
            which in 0..2_usize,
            at in any::<prop::sample::Index>(),
            with in proptest::collection::vec(any::<u8>(), 0..40),
            cut in any::<bool>(),
        ) {
            let (_temp, lane, record) = lived();
            let name = ["state.json", "journal.jsonl"][which];
            let mut bytes = fs::read(&lane.path().join(name)).unwrap();
            let at = at.index(bytes.len());
            if cut {
                bytes.truncate(at);
            }
            let end = (at + with.len()).min(bytes.len());
            bytes.splice(at.min(end)..end, with);
            put(&lane, name, &bytes);
            let was = lane.load();
            let repaired = lane.repair(&world(), None);
            if let Err(error) = repaired {
                // A changed version number reads as one of a newer lane.
                prop_assert!(matches!(error, StateError::NewerFormat { .. }), "{}", error);
                return Ok(());
            }
            let mended = lane.load().unwrap().unwrap();
            if let Ok(Some(before)) = was {
                prop_assert_eq!(mended, before);
            } else {
                prop_assert!(mended.host.is_some(), "{:?}", mended);
                prop_assert_eq!(mended.lineage, record.lineage);
                let kept = fs::list(lane.path()).unwrap().into_iter().filter(|kept| kept.contains(".damaged-"));
                let held: Vec<Vec<u8>> = kept.map(|kept| fs::read(&lane.path().join(kept)).unwrap()).collect();
                prop_assert!(held.contains(&bytes));
            }
        }
    }
}
