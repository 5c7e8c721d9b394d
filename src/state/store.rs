//! A lane's folder: the record's file, the journal beside it, and the session that alone may write them.
//!
//! During a run the journal is the truth; `state.json` changes at its end, in one rename. Knows no cloud.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::error::StateError;
use super::journal::{self, Entry, JournalEvent, replay};
use super::lock::LockGuard;
use super::record::Record;
use crate::inputs::Tree;
use crate::plan::{Digest, Plan};
use crate::provider::Lineage;
use crate::spec::Name;
use crate::world::{World, fs};

/// The version of a source's manifest that this build writes.
const TREE_VERSION: u32 = 1;
/// How many sealed journals stay in `logs/`.
const KEPT_JOURNALS: usize = 20;
/// How many copies of earlier records stay beside `state.json`.
const KEPT_BACKUPS: usize = 5;
/// After this long a temporary file has no writer any more.
const LEFTOVER_AGE: Duration = Duration::from_hours(1);

/// Turns a record of one version into one of the next.
type Migration = fn(Value) -> Result<Value, String>;

/// The step from version `n` to `n + 1` stands at index `n - 1`.
const MIGRATIONS: &[Migration] = &[with_scope];

/// Version 2 says in which account or project a host was made.
fn with_scope(mut value: Value) -> Result<Value, String> {
    let record = value.as_object_mut().ok_or("it is no record")?;
    record.insert("format_version".to_owned(), 2.into());
    if let Some(host) = record.get_mut("host").and_then(Value::as_object_mut) {
        host.insert("scope".to_owned(), Value::Null);
    }
    Ok(value)
}

fn migrate(mut value: Value, from: u32, table: &[Migration]) -> Result<Value, String> {
    let steps = (from as usize).checked_sub(1).and_then(|first| table.get(first..));
    let steps = steps.ok_or_else(|| format!("there is no such format version as {from}"))?;
    for step in steps {
        value = step(value)?;
    }
    Ok(value)
}

/// A file's version, read before the rest so that a newer form is told from a damaged one.
#[derive(Deserialize)]
struct Version {
    format_version: u32,
}

/// Reads a JSON text that says its version; the table brings older ones up to `known`.
fn parse<T: DeserializeOwned>(
    file: &Path,
    bytes: &[u8],
    known: u32,
    table: &[Migration],
) -> Result<T, StateError> {
    let damaged = |error: serde_json::Error| {
        let why = if bytes.trim_ascii().is_empty() { "it is empty".to_owned() } else { error.to_string() };
        StateError::damaged(file, None, why)
    };
    let Version { format_version: found } = serde_json::from_slice(bytes).map_err(damaged)?;
    if found > known {
        return Err(StateError::newer(file, found, known));
    }
    if found == known {
        return serde_json::from_slice(bytes).map_err(damaged);
    }
    let value = serde_json::from_slice(bytes).map_err(damaged)?;
    let value = migrate(value, found, table).map_err(|why| StateError::damaged(file, None, why))?;
    serde_json::from_value(value).map_err(damaged)
}

/// Reads the bytes of a `state.json`; `file` is for messages.
pub fn read_record(file: &Path, bytes: &[u8]) -> Result<Record, StateError> {
    parse(file, bytes, Record::FORMAT_VERSION, MIGRATIONS)
}

/// Reads the bytes of a saved plan; `file` is for messages.
pub fn read_plan(file: &Path, bytes: &[u8]) -> Result<Plan, StateError> {
    parse(file, bytes, Plan::FORMAT_VERSION, &[])
}

/// Names of the form `<prefix><number><suffix>` in a folder, by number.
pub(super) fn numbered(dir: &Path, prefix: &str, suffix: &str) -> Vec<(u64, String)> {
    let number = |name: &str| name.strip_prefix(prefix)?.strip_suffix(suffix)?.parse().ok();
    let names = fs::list(dir).unwrap_or_default();
    let mut found: Vec<(u64, String)> =
        names.into_iter().filter_map(|name| Some((number(&name)?, name))).collect();
    found.sort();
    found
}

/// Removes all but the newest; one that stays behind does no harm.
fn prune(dir: &Path, prefix: &str, suffix: &str, keep: usize) {
    let mut found = numbered(dir, prefix, suffix);
    found.truncate(found.len().saturating_sub(keep));
    for (_, name) in found {
        drop(fs::remove_file(&dir.join(name)));
    }
}

/// What is in a lane's folder, before anything is changed in it.
struct Loaded {
    record: Record,
    /// Serial of the record in `state.json`, which the journal continues.
    base_serial: u64,
    journal: OnDisk,
}

/// The journal's file as found.
enum OnDisk {
    /// There is none.
    Missing,
    /// A checkpoint took it in and was killed before it moved it away.
    Swallowed,
    /// It goes on; whatever follows its `whole` bytes was cut short by a crash.
    Live { next_seq: u64, whole: u64 },
}

/// A manifest as written to `trees/`.
#[derive(Serialize, Deserialize)]
struct Manifest<T> {
    format_version: u32,
    tree: T,
}

/// The folder of one lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneDir {
    root: PathBuf,
    path: PathBuf,
    lane: String,
}

impl LaneDir {
    /// Names the folder of a lane; touches nothing.
    pub fn new(state_root: &Path, lane: &str) -> Self {
        Self { root: state_root.to_owned(), path: state_root.join(lane), lane: lane.to_owned() }
    }

    /// Returns the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the lane's name.
    pub fn lane(&self) -> &str {
        &self.lane
    }

    /// Returns the folder of step logs and sealed journals.
    pub fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// Returns the folder of the lane's SSH keys.
    pub fn keys(&self) -> PathBuf {
        self.path.join("keys")
    }

    /// Returns the folder of what can be made again: digests of source files.
    pub fn cache(&self) -> PathBuf {
        self.path.join("cache")
    }

    /// Returns the saved plan's file.
    pub fn plan_path(&self) -> PathBuf {
        self.path.join("plan.json")
    }

    /// Returns the file that says who holds the lock.
    pub fn holder_path(&self) -> PathBuf {
        self.path.join("holder.json")
    }

    /// Tells whether the lock could be taken; an error says by whom it is held. Leaves a dead holder's file as it is.
    pub fn probe_lock(&self) -> Result<(), StateError> {
        LockGuard::probe(&self.path)
    }

    fn record_path(&self) -> PathBuf {
        self.path.join("state.json")
    }

    fn journal_path(&self) -> PathBuf {
        self.path.join("journal.jsonl")
    }

    /// Returns the record with its journal replayed, or `None` for a lane that was never planned. Changes nothing,
    /// needs no lock, and sees the lane as it was at one moment even while another process writes it.
    pub fn load(&self) -> Result<Option<Record>, StateError> {
        Ok(self.read()?.map(|loaded| loaded.record))
    }

    /// Returns the record; a lane that has none gets its lineage here, with its first plan.
    pub fn load_or_init(&self, world: &World) -> Result<Record, StateError> {
        if let Some(record) = self.load()? {
            return Ok(record);
        }
        let _lock = self.lock(world, "plan")?;
        self.init(world, None).map(|loaded| loaded.record)
    }

    /// Takes the lock and makes the lane ready for writing; a new lane gets its lineage.
    pub fn open(&self, world: &World, verb: &str) -> Result<SharedSession, StateError> {
        self.open_as(world, verb, None)
    }

    /// Does the same, but a lane that nothing was done in yet gets this lineage, which a host carries already.
    pub fn open_as(
        &self,
        world: &World,
        verb: &str,
        lineage: Option<&Lineage>,
    ) -> Result<SharedSession, StateError> {
        let lock = self.lock(world, verb)?;
        make_folder(&self.logs())?;
        self.clean(world);
        let loaded = self.init(world, lineage)?;
        let mut session = Session {
            dir: self.clone(),
            world: world.clone(),
            spec_path: loaded.record.spec_path.clone(),
            record: loaded.record,
            base_serial: loaded.base_serial,
            next_seq: 0,
            file: None,
            poison: None,
            _lock: lock,
        };
        match loaded.journal {
            OnDisk::Missing => {}
            OnDisk::Swallowed => session.seal(session.base_serial)?,
            OnDisk::Live { next_seq, whole } => {
                session.next_seq = next_seq;
                self.cut(whole)?;
            }
        }
        Ok(SharedSession { dir: Arc::new(self.clone()), inner: Arc::new(Mutex::new(session)) })
    }

    /// Saves a plan for a later `apply`.
    pub fn save_plan(&self, plan: &Plan) -> Result<(), StateError> {
        make_folder(&self.path)?;
        write_json(&self.plan_path(), plan)
    }

    /// Returns the saved plan.
    pub fn load_plan(&self) -> Result<Option<Plan>, StateError> {
        let path = self.plan_path();
        let Some(bytes) = read(&path)? else { return Ok(None) };
        read_plan(&path, &bytes).map(Some)
    }

    /// Drops the saved plan: it was applied, or it no longer counts.
    pub fn remove_plan(&self) -> Result<(), StateError> {
        let path = self.plan_path();
        fs::remove_file(&path).map_err(|error| StateError::io("remove", &path, error))
    }

    /// Names every lane that has a folder of state, sorted.
    pub fn all(state_root: &Path) -> Result<Vec<Self>, StateError> {
        let names = fs::list(state_root).map_err(|error| StateError::io("list", state_root, error))?;
        let lanes =
            names.iter().filter(|name| Name::new(name).is_ok()).map(|name| Self::new(state_root, name));
        Ok(lanes.filter(|dir| fs::exists(&dir.record_path()) || fs::exists(&dir.journal_path())).collect())
    }

    /// Returns the manifest of a source as it was last synced.
    pub fn tree(&self, source: &Name) -> Result<Option<Tree>, StateError> {
        let path = self.tree_path(source);
        let Some(bytes) = read(&path)? else { return Ok(None) };
        let manifest: Manifest<Tree> = parse(&path, &bytes, TREE_VERSION, &[])?;
        Ok(Some(manifest.tree))
    }

    fn tree_path(&self, source: &Name) -> PathBuf {
        self.path.join("trees").join(format!("{source}.tree"))
    }

    /// Returns a text that was put here, by its digest.
    pub fn content(&self, digest: &Digest) -> Result<Option<String>, StateError> {
        // A digest comes out of a file, and only 64 hexadecimal characters are safe as a file name.
        if digest.raw().is_none() {
            return Ok(None);
        }
        let path = self.path.join("content").join(digest.as_str());
        let Some(bytes) = read(&path)? else { return Ok(None) };
        if Digest::of(&bytes) != *digest {
            return Err(StateError::damaged(&path, None, "its text is not the one that its name says"));
        }
        let text =
            String::from_utf8(bytes).map_err(|error| StateError::damaged(&path, None, error.to_string()))?;
        Ok(Some(text))
    }

    pub(super) fn lock(&self, world: &World, verb: &str) -> Result<LockGuard, StateError> {
        make_folder(&self.path)?;
        LockGuard::acquire(&self.path, world, verb)
    }

    /// Reads the folder, or makes a lane in it; needs the lock.
    fn init(&self, world: &World, lineage: Option<&Lineage>) -> Result<Loaded, StateError> {
        let lineage = match (self.read()?, lineage) {
            (Some(loaded), Some(_)) if !loaded.record.is_unused() => return Ok(loaded),
            (Some(loaded), None) => return Ok(loaded),
            (_, Some(lineage)) => lineage.clone(),
            (None, None) => Lineage::new(world.fresh_ulid()),
        };
        let ignore = self.root.join(".gitignore");
        if !fs::exists(&ignore) {
            fs::write_atomic(&ignore, b"*\n", fs::Mode::Public)
                .map_err(|error| StateError::io("write", &ignore, error))?;
        }
        let record = Record::new(&self.lane, lineage);
        write_json(&self.record_path(), &record)?;
        let journal = if fs::exists(&self.journal_path()) {
            OnDisk::Live { next_seq: 0, whole: 0 }
        } else {
            OnDisk::Missing
        };
        Ok(Loaded { record, base_serial: 0, journal })
    }

    /// Reads the folder; `None` for a lane without a record.
    fn read(&self) -> Result<Option<Loaded>, StateError> {
        // The journal first: were it read second, a checkpoint in between would take it away from the older record.
        let path = self.journal_path();
        let journal = match read(&path)? {
            Some(bytes) => Some(journal::parse(&path, &bytes)?),
            None => None,
        };
        let file = self.record_path();
        let mut record = match (read(&file)?, &journal) {
            (Some(bytes), _) => read_record(&file, &bytes)?,
            (None, Some(Some(journal))) if journal.base_serial == 0 => {
                Record::new(&self.lane, journal.lineage.clone())
            }
            (None, Some(Some(journal))) => {
                let why =
                    format!("it is missing, and the journal continues its serial {}", journal.base_serial);
                return Err(StateError::damaged(&file, None, why));
            }
            (None, _) if !numbered(&self.path, "state.json.", ".bak").is_empty() => {
                return Err(StateError::damaged(&file, None, "it is missing, and its backups are there"));
            }
            (None, _) => return Ok(None),
        };
        if record.lane != self.lane {
            let why =
                format!("it is the record of lane {:?}, in the folder of lane {:?}", record.lane, self.lane);
            return Err(StateError::damaged(&file, None, why));
        }
        let base_serial = record.serial;
        let journal = match journal {
            None => OnDisk::Missing,
            Some(None) => OnDisk::Live { next_seq: 0, whole: 0 },
            Some(Some(journal)) if journal.lineage != record.lineage => {
                let why =
                    format!("it belongs to lineage {}, the record to {}", journal.lineage, record.lineage);
                return Err(StateError::damaged(&path, Some(1), why));
            }
            Some(Some(journal)) if journal.base_serial < record.serial => OnDisk::Swallowed,
            Some(Some(journal)) if journal.base_serial > record.serial => {
                let why = format!(
                    "its serial {} is older than its journal, which continues {} (an old copy?)",
                    record.serial, journal.base_serial
                );
                return Err(StateError::damaged(&file, None, why));
            }
            Some(Some(journal)) => {
                replay(&mut record, &journal.entries);
                OnDisk::Live { next_seq: journal.entries.len() as u64, whole: journal.whole }
            }
        };
        Ok(Some(Loaded { record, base_serial, journal }))
    }

    /// Cuts off what a crash left of the journal's last line.
    fn cut(&self, whole: u64) -> Result<(), StateError> {
        let path = self.journal_path();
        fs::truncate(&path, whole).map_err(|error| StateError::io("cut the torn end off", &path, error))
    }

    /// Removes temporary files of writers that were killed.
    fn clean(&self, world: &World) {
        for dir in [self.path.clone(), self.cache(), self.path.join("content"), self.path.join("trees")] {
            for name in fs::list(&dir).unwrap_or_default() {
                let path = dir.join(&name);
                let age = || {
                    let modified = fs::metadata(&path).ok()?.modified().ok()?;
                    system_time(world).duration_since(modified).ok()
                };
                // A younger one may belong to a `plan` that runs beside us: it writes without the lock.
                if name.starts_with(".lane-") && age().is_some_and(|age| age > LEFTOVER_AGE) {
                    drop(fs::remove_file(&path));
                }
            }
        }
    }
}

/// Returns the world's present moment in the form of file times.
fn system_time(world: &World) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(world.now().as_millisecond()).unwrap_or(0))
}

fn make_folder(dir: &Path) -> Result<(), StateError> {
    fs::create_dir_private(dir).map_err(|error| StateError::io("make the folder", dir, error))
}

pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, StateError> {
    fs::read_optional(path).map_err(|error| StateError::io("read", path, error))
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    fs::write_atomic(path, bytes, fs::Mode::Private).map_err(|error| StateError::io("write", path, error))
}

pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<(), StateError> {
    let mut bytes =
        serde_json::to_vec_pretty(value).map_err(|error| StateError::io("write", path, error.into()))?;
    bytes.push(b'\n');
    write(path, &bytes)
}

/// The one writer of a lane.
#[derive(Debug)]
struct Session {
    dir: LaneDir,
    world: World,
    record: Record,
    /// Path of the spec that this run is for.
    spec_path: Option<String>,
    /// Serial of the record in `state.json`.
    base_serial: u64,
    /// Number of the journal's next entry.
    next_seq: u64,
    /// The journal, once this run has written to it.
    file: Option<File>,
    /// The failure after which nothing more may be written.
    poison: Option<String>,
    _lock: LockGuard,
}

impl Session {
    fn check(&self) -> Result<(), StateError> {
        match &self.poison {
            Some(why) => Err(StateError::Poisoned { path: self.dir.journal_path(), why: why.clone() }),
            None => Ok(()),
        }
    }

    fn poison_on_error<T>(&mut self, result: Result<T, StateError>) -> Result<T, StateError> {
        if let Err(error) = &result {
            self.poison = Some(error.to_string());
        }
        result
    }

    fn append(&mut self, event: JournalEvent) -> Result<(), StateError> {
        self.check()?;
        let result = self.begin().and_then(|()| match event {
            JournalEvent::Opened { .. } => Ok(()),
            event => self.write(event),
        });
        self.poison_on_error(result)
    }

    /// Opens the journal with the first thing that a run has to say, so that a plan leaves none.
    fn begin(&mut self) -> Result<(), StateError> {
        if self.file.is_some() {
            return Ok(());
        }
        let path = self.dir.journal_path();
        self.file = Some(fs::open_append(&path).map_err(|error| StateError::io("open", &path, error))?);
        self.write(JournalEvent::Opened {
            format_version: Record::FORMAT_VERSION,
            lineage: self.record.lineage.clone(),
            base_serial: self.base_serial,
            spec_path: self.spec_path.clone(),
        })
    }

    fn write(&mut self, event: JournalEvent) -> Result<(), StateError> {
        let path = self.dir.journal_path();
        let entry = Entry { seq: self.next_seq, at: self.world.now(), event };
        let written = match &mut self.file {
            Some(file) => journal::write_line(file, &path, &entry),
            None => Err(io::Error::from(io::ErrorKind::NotFound)),
        };
        written.map_err(|error| StateError::io("append to", &path, error))?;
        self.next_seq += 1;
        replay(&mut self.record, &[entry]);
        Ok(())
    }

    fn checkpoint(&mut self) -> Result<(), StateError> {
        self.check()?;
        if self.next_seq == 0 {
            return Ok(());
        }
        let next = Record { serial: self.record.serial.saturating_add(1), ..self.record.clone() };
        // A journal that may have been swallowed must not grow: what came after would be lost with it.
        let result = self.swallow(&next);
        self.poison_on_error(result)?;
        self.base_serial = next.serial;
        self.next_seq = 0;
        self.file = None;
        self.record = next;
        Ok(())
    }

    fn swallow(&self, next: &Record) -> Result<(), StateError> {
        let dir = self.dir.path();
        // The backup is a second copy of the new record, so that it takes the place of a damaged one without loss.
        write_json(&dir.join(format!("state.json.{}.bak", next.serial)), next)?;
        write_json(&self.dir.record_path(), next)?;
        self.seal(next.serial)?;
        prune(dir, "state.json.", ".bak", KEPT_BACKUPS);
        Ok(())
    }

    /// Moves the journal to the logs, under the serial of the record that took it in.
    fn seal(&self, serial: u64) -> Result<(), StateError> {
        let (from, logs) = (self.dir.journal_path(), self.dir.logs());
        let sealed = fs::rename(&from, &logs.join(format!("journal-{serial}.jsonl")));
        sealed
            .and_then(|()| fs::sync_dir(self.dir.path()))
            .map_err(|error| StateError::io("seal", &from, error))?;
        prune(&logs, "journal-", ".jsonl", KEPT_JOURNALS);
        Ok(())
    }
}

/// The right to write a lane, shared by all steps of a run; the last clone gives the lock back.
#[derive(Debug, Clone)]
pub struct SharedSession {
    dir: Arc<LaneDir>,
    inner: Arc<Mutex<Session>>,
}

impl SharedSession {
    fn inner(&self) -> MutexGuard<'_, Session> {
        // A panic elsewhere leaves the record whole: it changes only after its entry is on the disk.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the lane's folder.
    pub fn dir(&self) -> &LaneDir {
        &self.dir
    }

    /// Returns the record as it is now.
    pub fn record(&self) -> Record {
        self.inner().record.clone()
    }

    /// Fails after a write of this run failed: the disk may hold an intent that the record does not show.
    pub fn check(&self) -> Result<(), StateError> {
        self.inner().check()
    }

    /// Says which spec this run is for; the journal names it before the run's first event.
    pub fn set_spec_path(&self, path: &Path) {
        self.inner().spec_path = Some(path.display().to_string());
    }

    /// Writes an event to the disk, then brings it over the record. After a failure every later call fails too, and
    /// the caller must not go on to the event's effect. `Opened` is the session's own to write.
    pub fn append(&self, event: JournalEvent) -> Result<(), StateError> {
        self.inner().append(event)
    }

    /// Writes the record with the next serial to `state.json` and moves the journal to the logs. For the end of a run.
    pub fn checkpoint(&self) -> Result<(), StateError> {
        self.inner().checkpoint()
    }

    /// Keeps a text under its digest, for later diffs; the same text is written once.
    pub fn put_content(&self, text: &str) -> Result<Digest, StateError> {
        let digest = Digest::of(text.as_bytes());
        let dir = self.dir.path().join("content");
        make_folder(&dir)?;
        let path = dir.join(digest.as_str());
        if read(&path)?.is_none_or(|bytes| bytes != text.as_bytes()) {
            write(&path, text.as_bytes())?;
        }
        Ok(digest)
    }

    /// Keeps a source's manifest as it was synced.
    pub fn put_tree(&self, source: &Name, tree: &Tree) -> Result<(), StateError> {
        let path = self.dir.tree_path(source);
        make_folder(&self.dir.path().join("trees"))?;
        let manifest = Manifest { format_version: TREE_VERSION, tree };
        let bytes =
            serde_json::to_vec(&manifest).map_err(|error| StateError::io("write", &path, error.into()))?;
        write(&path, &bytes)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use jiff::Timestamp;
    use tempfile::TempDir;

    use super::*;
    use crate::plan::{Cost, SpecRef, StepId, Verb};
    use crate::provider::HostId;
    use crate::state::Outcome;
    use crate::state::journal::tests::{create, finished, started};
    use crate::world::Clock;

    #[derive(Debug)]
    struct Stopped;

    impl Clock for Stopped {
        fn now(&self) -> Timestamp {
            Timestamp::from_second(1_000_000_000).unwrap()
        }
    }

    pub(in crate::state) fn world() -> World {
        let env = BTreeMap::from([("USER".to_owned(), "tester".to_owned())]);
        World::fixed(Arc::new(Stopped), env, PathBuf::from("/"))
    }

    pub(in crate::state) fn lane() -> (TempDir, LaneDir) {
        let temp = tempfile::tempdir().unwrap();
        let lane = LaneDir::new(&temp.path().join("state"), "demo");
        (temp, lane)
    }

    #[test]
    fn a_found_lineage_is_taken_over_until_something_was_done_under_another() {
        let (_temp, lane) = lane();
        let found = Lineage::fixed("01j00000000000000000000000");
        let fresh = lane.load_or_init(&world()).unwrap().lineage;
        assert_ne!(fresh, found);
        let session = lane.open_as(&world(), "state adopt", Some(&found)).unwrap();
        assert_eq!(session.record().lineage, found);
        session.append(create("a")).unwrap();
        drop(session);
        let other = lane.open_as(&world(), "state adopt", Some(&fresh)).unwrap();
        assert_eq!(other.record().lineage, found, "a host of that lineage may be there");
    }

    fn events() -> Vec<JournalEvent> {
        let id = HostId::new("i-1");
        vec![
            started("provision/host", None),
            create("a"),
            JournalEvent::HostNamed { id },
            finished("provision/host", Outcome::Done),
            started("build/mvmd", Some("run")),
            finished("build/mvmd", Outcome::Failed { error: "no cargo\n\"there\"".to_owned() }),
        ]
    }

    fn put(path: &Path, bytes: &[u8]) {
        fs::write_atomic(path, bytes, fs::Mode::Private).unwrap();
    }

    fn damage<T: std::fmt::Debug>(result: Result<T, StateError>) -> (String, String) {
        let error = result.unwrap_err();
        assert!(matches!(error, StateError::Damaged { .. } | StateError::NewerFormat { .. }), "{error:?}");
        (error.to_string(), error.way_out().unwrap())
    }

    /// A lane with one checkpoint behind it and a journal after that.
    fn lived() -> (TempDir, LaneDir, Record) {
        let (temp, lane) = lane();
        let session = lane.open(&world(), "apply").unwrap();
        session.append(create("a")).unwrap();
        session.checkpoint().unwrap();
        for event in &events()[2..] {
            session.append(event.clone()).unwrap();
        }
        let record = session.record();
        (temp, lane, record)
    }

    #[test]
    fn a_lineage_is_born_with_the_first_plan_and_stays() {
        let (_temp, lane) = lane();
        assert_eq!(lane.load().unwrap(), None);
        assert!(!fs::exists(lane.path()), "looking makes nothing");
        let born = lane.load_or_init(&world()).unwrap();
        assert_eq!(born.lineage.as_str().len(), 26);
        assert_eq!(born.lineage.as_str(), born.lineage.as_str().to_lowercase());
        assert_eq!(lane.load_or_init(&world()).unwrap(), born);
        assert_eq!(lane.open(&world(), "apply").unwrap().record(), born);
        assert!(!fs::exists(&lane.journal_path()), "a run that does nothing journals nothing");
        assert_eq!(fs::read(&lane.root.join(".gitignore")).unwrap(), b"*\n");
        for dir in [&lane.root, &lane.path, &lane.logs()] {
            assert_eq!(fs::metadata(dir).unwrap().permissions().mode() & 0o777, 0o700, "{dir:?}");
        }
        assert_ne!(LaneDir::new(&lane.root, "other").load_or_init(&world()).unwrap().lineage, born.lineage);
    }

    #[test]
    fn what_was_appended_is_there_for_the_next_process() {
        let (_temp, lane) = lane();
        let session = lane.open(&world(), "apply").unwrap();
        session.set_spec_path(Path::new("/specs/demo.yaml"));
        for event in events() {
            session.append(event).unwrap();
            assert_eq!(lane.load().unwrap().unwrap(), session.record());
        }
        let record = session.record();
        drop(session);
        let session = lane.open(&world(), "apply").unwrap();
        assert_eq!(session.record(), record);
        assert_eq!(record.spec_path.as_deref(), Some("/specs/demo.yaml"));
        session.append(JournalEvent::HostGone {}).unwrap();
        session.checkpoint().unwrap();
        let end = session.record();
        assert_eq!((end.host.clone(), end.serial), (None, record.serial + 2));
        assert_eq!(lane.load().unwrap().unwrap(), end);
        assert!(!fs::exists(&lane.journal_path()));
        assert!(fs::exists(&lane.logs().join(format!("journal-{}.jsonl", end.serial))));
        session.checkpoint().unwrap();
        assert_eq!(session.record(), end, "a run that did nothing leaves saved plans valid");
    }

    #[test]
    fn two_sessions_at_once_are_refused_and_readers_are_not() {
        let (_temp, lane) = lane();
        let session = lane.open(&world(), "apply").unwrap();
        let clone = session.clone();
        drop(session);
        let error = lane.open(&world(), "destroy").unwrap_err();
        let StateError::Locked { holder: Some(holder), .. } = &error else { panic!("{error:?}") };
        assert_eq!((&*holder.verb, holder.pid), ("apply", std::process::id()));
        assert!(error.way_out().unwrap().contains(&std::process::id().to_string()));
        assert!(lane.load_or_init(&world()).is_ok());
        drop(clone);
        assert!(lane.open(&world(), "destroy").is_ok());
    }

    #[test]
    fn a_journal_cut_anywhere_gives_the_state_before_or_after_a_line() {
        let (_temp, lane, last) = lived();
        let journal = fs::read(&lane.journal_path()).unwrap();
        // What each number of whole lines stands for, by a fold that reads no file.
        let base: Record = serde_json::from_slice(&fs::read(&lane.record_path()).unwrap()).unwrap();
        let entries: Vec<Entry> = journal
            .split_inclusive(|&byte| byte == b'\n')
            .map(|line| serde_json::from_slice(line).unwrap())
            .collect();
        let expected: Vec<Record> = (0..=entries.len())
            .map(|end| {
                let mut record = base.clone();
                replay(&mut record, &entries[..end]);
                record
            })
            .collect();
        assert_eq!(expected.last(), Some(&last));
        for cut in 0..=journal.len() {
            put(&lane.journal_path(), &journal[..cut]);
            let lines = journal[..cut].split(|&byte| byte == b'\n').count() - 1;
            assert_eq!(lane.load().unwrap().as_ref(), Some(&expected[lines]), "cut at byte {cut}");
            let session = lane.open(&world(), "apply").unwrap();
            assert_eq!(session.record(), expected[lines], "cut at byte {cut}");
            session.append(started("smoke", None)).unwrap();
            let record = session.record();
            drop(session);
            assert_eq!(lane.load().unwrap(), Some(record), "went on after a cut at byte {cut}");
        }
    }

    #[test]
    fn a_record_cut_anywhere_is_an_error_and_never_an_empty_lane() {
        let (_temp, lane, last) = lived();
        let whole = fs::read(&lane.record_path()).unwrap();
        for cut in 0..whole.len() - 1 {
            put(&lane.record_path(), &whole[..cut]);
            let (what, out) = damage(lane.load());
            assert!(what.contains("state.json is damaged"), "{what}");
            assert!(out.contains("lane state repair demo"), "{out}");
            assert!(lane.open(&world(), "apply").is_err() && lane.load_or_init(&world()).is_err());
        }
        assert_eq!(fs::read(&lane.record_path()).unwrap(), whole[..whole.len() - 2], "nobody reset it");
        // The way out is a way out: nothing is lost by it.
        lane.repair(&world(), None).unwrap();
        let mended = lane.load().unwrap().unwrap();
        assert_eq!(Record { serial: last.serial, ..mended }, last);
    }

    #[test]
    fn damage_says_what_is_wrong() {
        let (_temp, lane, _) = lived();
        let good = String::from_utf8(fs::read(&lane.record_path()).unwrap()).unwrap();
        let with = |text: &str| {
            put(&lane.record_path(), text.as_bytes());
            damage(lane.load())
        };
        assert!(with("").0.contains("it is empty"));
        assert!(with(" \n").0.contains("it is empty"));
        assert!(with("hosts: []\n").0.contains("line 1 column 1"));
        assert!(with(&good.replace("\"demo\"", "\"prod\"")).0.contains("record of lane \"prod\""));
        let version =
            |number: u32| good.replacen("\"format_version\": 2", &format!("\"format_version\": {number}"), 1);
        assert!(with(&version(0)).0.contains("no such format version as 0"));
        let (newer, out) = with(&version(3).replacen('{', "{\"novelty\": 1,", 1));
        assert!(newer.ends_with("state.json has format version 3; this lane knows up to 2"), "{newer}");
        assert!(out.contains("version of lane that wrote it"));
        let (old, _) = with(&good.replacen("\"serial\": 2", "\"serial\": 1", 1));
        assert!(old.contains("its serial 1 is older than its journal, which continues 2"), "{old}");
        let record: Record = serde_json::from_str(&good).unwrap();
        let (other, _) = with(&good.replace(record.lineage.as_str(), "01other"));
        assert!(other.contains("journal.jsonl, line 1, is damaged: it belongs to lineage"), "{other}");
    }

    #[test]
    fn a_record_that_is_gone_is_made_again_from_a_whole_journal_only() {
        let (_temp, lane, _) = lived();
        fs::remove_file(&lane.record_path()).unwrap();
        assert!(damage(lane.load()).0.contains("it is missing, and the journal continues its serial 2"));
        fs::remove_file(&lane.journal_path()).unwrap();
        assert!(damage(lane.open(&world(), "apply")).0.contains("its backups are there"));

        let (_temp, lane) = self::lane();
        let session = lane.open(&world(), "apply").unwrap();
        session.append(create("a")).unwrap();
        let record = session.record();
        drop(session);
        fs::remove_file(&lane.record_path()).unwrap();
        assert_eq!(lane.load().unwrap(), Some(record.clone()));
        let session = lane.open(&world(), "apply").unwrap();
        assert_eq!(session.record(), record);
        session.checkpoint().unwrap();
        assert_eq!(lane.load().unwrap(), Some(session.record()));
    }

    #[test]
    fn a_checkpoint_killed_anywhere_is_finished_by_the_next_run() {
        let (_temp, lane, before) = lived();
        let old = fs::read(&lane.record_path()).unwrap();
        let journal = fs::read(&lane.journal_path()).unwrap();
        let session = lane.open(&world(), "apply").unwrap();
        session.checkpoint().unwrap();
        let after = session.record();
        assert_eq!(Record { serial: before.serial, ..after.clone() }, before);
        drop(session);
        let new = fs::read(&lane.record_path()).unwrap();
        let backup = lane.path.join(format!("state.json.{}.bak", after.serial));
        let sealed = lane.logs().join(format!("journal-{}.jsonl", after.serial));
        assert_eq!(fs::read(&sealed).unwrap(), journal);
        // Each row: which of its writes came through: backup, record, journal in the logs, journal out of the folder.
        for (n, [backed, renamed, copied, moved]) in [
            [false, false, false, false],
            [true, false, false, false],
            [true, true, false, false],
            [true, true, true, false],
            [true, true, true, true],
        ]
        .into_iter()
        .enumerate()
        {
            put(&lane.record_path(), if renamed { &new } else { &old });
            put(&lane.journal_path(), &journal);
            for (there, path, bytes) in [(backed, &backup, &new), (copied, &sealed, &journal)] {
                if there { put(path, bytes) } else { fs::remove_file(path).unwrap() }
            }
            if moved {
                fs::remove_file(&lane.journal_path()).unwrap();
            }
            let expected = if renamed { &after } else { &before };
            assert_eq!(lane.load().unwrap().as_ref(), Some(expected), "row {n}");
            let session = lane.open(&world(), "apply").unwrap();
            assert_eq!(&session.record(), expected, "row {n}");
            assert_eq!(fs::exists(&lane.journal_path()), !renamed, "row {n}");
            session.append(JournalEvent::HostGone {}).unwrap();
            session.checkpoint().unwrap();
            let end = lane.load().unwrap().unwrap();
            assert_eq!((end.host, end.serial), (None, expected.serial + 2), "row {n}");
        }
    }

    #[test]
    fn a_failed_write_stops_the_run_before_the_effect() {
        // Real refusals of the kernel: no space for the line, and a line that cannot be made durable.
        for (device, errno) in [("/dev/full", "os error 28"), ("/dev/null", "os error 22")] {
            let (_temp, lane) = lane();
            let session = lane.open(&world(), "apply").unwrap();
            let before = session.record();
            symlink(device, lane.journal_path()).unwrap();
            let error = session.append(create("a")).unwrap_err();
            assert!(matches!(error, StateError::Io { what: "append to", .. }), "{error:?}");
            assert!(error.to_string().contains(errno), "{error}");
            assert_eq!(session.record(), before, "nothing is claimed that is not on the disk");
            fs::remove_file(&lane.journal_path()).unwrap();
            for result in
                [session.append(create("a")), session.clone().append(create("b")), session.checkpoint()]
            {
                let error = result.unwrap_err();
                assert!(
                    matches!(&error, StateError::Poisoned { why, .. } if why.contains(errno)),
                    "{error:?}"
                );
            }
            assert_eq!(lane.load().unwrap(), Some(before.clone()));
            drop(session);
            assert_eq!(lane.open(&world(), "apply").unwrap().record(), before);
        }
    }

    #[test]
    fn a_checkpoint_that_fails_loses_nothing_and_ends_the_run() {
        let (_temp, lane) = lane();
        let session = lane.open(&world(), "apply").unwrap();
        session.append(create("a")).unwrap();
        let record = session.record();
        let serial = record.serial + 1;
        // A folder in the way stops it before the record is replaced, and then after.
        let block = |path: PathBuf| fs::create_dir_all(&path.join("x")).map(|()| path).unwrap();
        let blocked = block(lane.path.join(format!("state.json.{serial}.bak")));
        assert!(session.checkpoint().is_err());
        assert!(matches!(session.append(create("b")), Err(StateError::Poisoned { .. })));
        drop(session);
        assert_eq!(lane.load().unwrap(), Some(record.clone()));
        fs::remove_dir_all(&blocked).unwrap();

        let blocked = block(lane.logs().join(format!("journal-{serial}.jsonl")));
        let session = lane.open(&world(), "apply").unwrap();
        assert!(session.checkpoint().is_err());
        assert!(matches!(session.append(create("b")), Err(StateError::Poisoned { .. })));
        drop(session);
        fs::remove_dir_all(&blocked).unwrap();
        let after = Record { serial, ..record };
        assert_eq!(lane.load().unwrap(), Some(after.clone()));
        assert_eq!(lane.open(&world(), "apply").unwrap().record(), after);
        assert!(!fs::exists(&lane.journal_path()));
    }

    #[test]
    fn a_plan_made_between_two_runs_is_bound_to_what_it_saw() {
        let (_temp, lane) = lane();
        let mut serials = vec![lane.load_or_init(&world()).unwrap().serial];
        let session = lane.open(&world(), "apply").unwrap();
        for event in events() {
            session.append(event).unwrap();
            serials.push(lane.load().unwrap().unwrap().serial);
        }
        session.checkpoint().unwrap();
        serials.push(session.record().serial);
        assert!(serials.is_sorted_by(|a, b| a < b), "{serials:?}");
    }

    #[test]
    fn old_journals_and_backups_are_bounded() {
        let (_temp, lane) = lane();
        let session = lane.open(&world(), "apply").unwrap();
        for _ in 0..KEPT_JOURNALS + 3 {
            session.append(JournalEvent::HostGone {}).unwrap();
            session.checkpoint().unwrap();
        }
        let newest = session.record().serial;
        let journals = numbered(&lane.logs(), "journal-", ".jsonl");
        assert_eq!((journals.len(), journals.last().unwrap().0), (KEPT_JOURNALS, newest));
        let backups = numbered(&lane.path, "state.json.", ".bak");
        assert_eq!((backups.len(), backups.last().unwrap().0), (KEPT_BACKUPS, newest));
    }

    #[test]
    fn temporary_files_of_the_killed_go_and_those_of_the_living_stay() {
        let (_temp, lane) = lane();
        drop(lane.open(&world(), "apply").unwrap());
        let leftover = lane.path.join(".lane-abc123");
        put(&leftover, b"half");
        let at = |seconds: u64| {
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            File::options().write(true).open(&leftover).unwrap().set_modified(time).unwrap();
            drop(lane.open(&world(), "apply").unwrap());
            fs::exists(&leftover)
        };
        assert!(at(1_000_000_000 - 60));
        assert!(!at(1_000_000_000 - 2 * 60 * 60));
    }

    #[test]
    fn older_versions_pass_through_every_migration() {
        fn with(mut value: Value, key: &str) -> Value {
            value[key] = Value::Bool(true);
            value
        }
        let table: [Migration; 2] = [|value| Ok(with(value, "one")), |value| Ok(with(value, "two"))];
        assert_eq!(
            migrate(serde_json::json!({}), 1, &table),
            Ok(serde_json::json!({"one": true, "two": true}))
        );
        assert_eq!(migrate(serde_json::json!({}), 2, &table), Ok(serde_json::json!({"two": true})));
        assert_eq!(
            migrate(serde_json::json!({}), 0, &table).unwrap_err(),
            "there is no such format version as 0"
        );
    }

    #[test]
    fn a_record_of_version_1_keeps_its_host_and_knows_no_scope() {
        let mut record = Record::new("demo", Lineage::fixed("01j00000000000000000000000"));
        record.host = Some(crate::state::journal::tests::host("a"));
        let mut old = serde_json::to_value(&record).unwrap();
        old["format_version"] = 1.into();
        old["host"].as_object_mut().unwrap().remove("scope");
        let read = read_record(Path::new("state.json"), old.to_string().as_bytes()).unwrap();
        assert_eq!(read, record);
        assert_eq!((read.format_version, read.host.unwrap().scope), (2, None));
    }

    fn plan(version: u32) -> Plan {
        let digest = Digest::of(b"spec");
        Plan {
            format_version: version,
            lane: "demo".to_owned(),
            verb: Verb::Apply,
            lineage: "l".to_owned(),
            serial: 3,
            spec: SpecRef { path: "/s.yaml".to_owned(), digest },
            provider: "nspawn".to_owned(),
            sku: "local".to_owned(),
            region: "local".to_owned(),
            image: "ubuntu-24.04".to_owned(),
            image_id: None,
            created_at: Timestamp::UNIX_EPOCH,
            offline: true,
            steps: vec![],
            diffs: vec![],
            lost: vec![],
            notes: vec![],
            cost: Cost {
                per_hour: None,
                expected: None,
                cycle: Duration::ZERO,
                worst_case: None,
                expires_at: None,
                ttl: Duration::from_secs(1),
                rings: crate::plan::Rings::default(),
            },
        }
    }

    #[test]
    fn plans_are_kept_and_newer_or_torn_ones_refused() {
        let (_temp, lane) = lane();
        assert_eq!(lane.load_plan().unwrap(), None);
        lane.save_plan(&plan(1)).unwrap();
        assert_eq!(lane.load_plan().unwrap(), Some(plan(1)));
        lane.save_plan(&plan(2)).unwrap();
        assert!(matches!(lane.load_plan(), Err(StateError::NewerFormat { found: 2, .. })));
        put(&lane.plan_path(), b"{\"format_version\": 1, ");
        assert_eq!(damage(lane.load_plan()).1, "run `lane plan` again");
    }

    #[test]
    fn contents_are_kept_by_digest_and_checked() {
        let (_temp, lane) = lane();
        let session = lane.open(&world(), "apply").unwrap();
        let digest = session.put_content("[Unit]\n").unwrap();
        assert_eq!(session.put_content("[Unit]\n").unwrap(), digest);
        assert_eq!(lane.content(&digest).unwrap().as_deref(), Some("[Unit]\n"));
        assert_eq!(lane.content(&Digest::of(b"other")).unwrap(), None);
        let path = lane.path.join("content").join(digest.as_str());
        put(&path, b"[Un");
        damage(lane.content(&digest));
        session.put_content("[Unit]\n").unwrap();
        assert_eq!(lane.content(&digest).unwrap().as_deref(), Some("[Unit]\n"));
        let hostile: Digest = serde_json::from_str("\"../state.json\"").unwrap();
        assert_eq!(lane.content(&hostile).unwrap(), None);
    }

    #[test]
    fn manifests_are_kept_by_source() {
        let (_temp, lane) = lane();
        let session = lane.open(&world(), "apply").unwrap();
        let source = Name::new("mvmd").unwrap();
        assert!(lane.tree(&source).unwrap().is_none());
        let tree = Tree::new(vec![]);
        session.put_tree(&source, &tree).unwrap();
        assert_eq!(lane.tree(&source).unwrap(), Some(tree));
        put(&lane.tree_path(&source), b"");
        assert!(damage(lane.tree(&source)).1.contains("deletes nothing on the host"));
    }

    #[test]
    fn steps_may_write_side_by_side() {
        let (_temp, lane) = lane();
        let session = lane.open(&world(), "apply").unwrap();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let session = session.clone();
                scope.spawn(move || {
                    for n in 0..10 {
                        session.append(started(&format!("sync/{thread}-{n}"), None)).unwrap();
                    }
                });
            }
        });
        let record = lane.load().unwrap().unwrap();
        assert_eq!(record.in_doubt.len(), 40);
        assert!(record.in_doubt.contains_key(&StepId::from_text("sync/3-9")));
        assert_eq!(record, session.record());
    }
}
