//! A disk that tears writes, fills up, fails, and keeps at a power loss any part of what was never synced.
//!
//! Names and contents are durable apart from each other, as on a real file system: a rename says nothing of the bytes
//! behind it, and a file's sync nothing of its name. Of what is pending, any choice may have arrived, in any order.
#![expect(clippy::disallowed_methods, reason = "stands in for the disk itself")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use fastrand::Rng;

use super::fate::{Dead, Fate};
use crate::world::fs::faults::{Change, Disk};

/// What the disk refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Writes fail from this change on: no space left.
    Full { from: u64 },
    /// One sync fails; nobody can say what of it is on the disk.
    SyncFails { at: u64 },
}

/// What is left of a power loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keeps {
    /// Any part of what was pending.
    Drawn,
    /// One of the ways to keep part of it, by its number.
    Way(u64),
}

/// A file's bytes, whatever name it has.
#[derive(Debug)]
struct Content {
    durable: Vec<u8>,
    now: Vec<u8>,
}

impl Content {
    fn is_pending(&self) -> bool {
        self.durable != self.now
    }

    /// What may be there: as it was, as it should be, and a part of what was under way.
    fn versions(&self) -> [Vec<u8>; 3] {
        let (durable, now) = (&self.durable, &self.now);
        let torn =
            if now.starts_with(durable) { usize::midpoint(durable.len(), now.len()) } else { now.len() };
        [durable.clone(), now.clone(), now[..torn].to_vec()]
    }
}

/// Which file a name leads to, if any.
type Target = Option<usize>;

/// See the module.
#[derive(Debug)]
pub(super) struct SimDisk {
    fate: Fate,
    rng: Rng,
    trouble: Option<Trouble>,
    changes: u64,
    contents: Vec<Content>,
    /// Names that were touched, as they are on the disk.
    durable: BTreeMap<PathBuf, Target>,
    /// The same as the system shows them.
    shown: BTreeMap<PathBuf, Target>,
    /// Changes of names that are not on the disk, in order; those of one rename go together.
    pending: Vec<Vec<(PathBuf, Target)>>,
}

impl SimDisk {
    pub(super) fn new(fate: Fate, seed: u64) -> Self {
        Self {
            fate,
            rng: Rng::with_seed(seed),
            trouble: None,
            changes: 0,
            contents: vec![],
            durable: BTreeMap::new(),
            shown: BTreeMap::new(),
            pending: vec![],
        }
    }

    pub(super) fn begin(&mut self, trouble: Option<Trouble>) {
        (self.trouble, self.changes) = (trouble, 0);
    }

    /// Returns how many ways there are to keep a part of what is pending.
    pub(super) fn ways(&self) -> u64 {
        let contents = self.contents.iter().filter(|content| content.is_pending()).count();
        let names = u32::try_from(self.pending.len()).expect("few names");
        let contents = u32::try_from(contents).expect("few files");
        2_u64.saturating_pow(names).saturating_mul(3_u64.saturating_pow(contents))
    }

    /// Loses what was not synced, but for what it keeps.
    pub(super) fn lose_power(&mut self, keeps: Keeps) {
        let mut way = match keeps {
            Keeps::Way(way) => way,
            Keeps::Drawn => self.rng.u64(..self.ways()),
        };
        let mut next = |ways: u64| {
            let chosen = way % ways;
            way /= ways;
            usize::try_from(chosen).expect("a small number")
        };
        for change in std::mem::take(&mut self.pending) {
            if next(2) == 1 {
                self.durable.extend(change);
            }
        }
        let mut torn = BTreeSet::new();
        for (at, content) in self.contents.iter_mut().enumerate() {
            if content.is_pending() {
                let mut versions = content.versions();
                content.durable = std::mem::take(&mut versions[next(3)]);
                torn.insert(at);
            }
        }
        for (path, target) in &self.durable {
            match target {
                // What is written past this disk, as the logs of steps are, stays.
                Some(at) if self.shown.get(path) == Some(target) && !torn.contains(at) => {}
                Some(at) => fs::write(path, &self.contents[*at].durable).unwrap(),
                None => drop(fs::remove_file(path)),
            }
        }
    }

    /// A process that was killed leaves what it wrote to the system, which goes on.
    pub(super) fn settle(&mut self) {
        self.contents.clear();
        self.durable.clear();
        self.shown.clear();
        self.pending.clear();
    }

    /// Returns the file that a name leads to; one that was not touched before is durable.
    fn target(&mut self, path: &Path) -> Target {
        if let Some(target) = self.shown.get(path) {
            return *target;
        }
        let target = fs::read(path).ok().map(|bytes| self.add(bytes));
        self.durable.insert(path.to_owned(), target);
        self.shown.insert(path.to_owned(), target);
        target
    }

    fn add(&mut self, bytes: Vec<u8>) -> usize {
        self.contents.push(Content { durable: bytes.clone(), now: bytes });
        self.contents.len() - 1
    }

    fn name(&mut self, changes: Vec<(PathBuf, Target)>) {
        self.shown.extend(changes.iter().cloned());
        self.pending.push(changes);
    }

    fn content(&mut self, path: &Path) -> Option<&mut Content> {
        let at = self.target(path)?;
        self.contents.get_mut(at)
    }

    /// Writes the first part of some bytes, as a write that is cut off does.
    fn write_part(&mut self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let part = &bytes[..self.rng.usize(..=bytes.len())];
        if let Some(content) = self.content(path) {
            content.now.extend(part);
        }
        fs::OpenOptions::new().append(true).open(path)?.write_all(part)
    }

    /// A process that is killed takes no temporary file away.
    fn leave_behind(&mut self, path: &Path) {
        if name(path).starts_with(".lane-")
            && let Ok(bytes) = fs::read(path)
        {
            let left = path.with_file_name(format!(".lane-{:06}", self.rng.u32(..1_000_000)));
            fs::write(left, bytes).unwrap();
        }
    }
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

impl Disk for SimDisk {
    fn change(&mut self, change: Change<'_>) -> io::Result<()> {
        if let Err(dead) = self.fate.reach(|| describe(change)) {
            // Of the write during which it died, any part may be there.
            if dead == Dead::Now {
                match change {
                    Change::Append(path, bytes) => {
                        self.write_part(path, bytes)?;
                        self.leave_behind(path);
                    }
                    Change::Sync(path) | Change::Rename(path, _) => self.leave_behind(path),
                    _ => {}
                }
            }
            return Err(io::Error::other("the process is dead"));
        }
        let at = self.changes;
        self.changes += 1;
        match (self.trouble, change) {
            (Some(Trouble::Full { from }), Change::Append(path, bytes)) if at >= from => {
                self.write_part(path, &bytes[..bytes.len().saturating_sub(1)])?;
                return Err(io::ErrorKind::StorageFull.into());
            }
            (Some(Trouble::Full { from }), Change::Create(path)) if at >= from && !path.exists() => {
                return Err(io::ErrorKind::StorageFull.into());
            }
            (Some(Trouble::SyncFails { at: when }), Change::Sync(_) | Change::SyncDir(_)) if at >= when => {
                self.trouble = None;
                return Err(io::Error::other("Input/output error (os error 5)"));
            }
            _ => {}
        }
        match change {
            Change::Create(path) => {
                if self.target(path).is_none() {
                    let file = self.add(vec![]);
                    self.name(vec![(path.to_owned(), Some(file))]);
                }
            }
            Change::Append(path, bytes) => {
                if let Some(content) = self.content(path) {
                    content.now.extend(bytes);
                }
            }
            Change::Cut(path, len) => {
                if let Some(content) = self.content(path) {
                    content.now.truncate(usize::try_from(len).expect("a small file"));
                }
            }
            Change::Sync(path) => {
                if let Some(content) = self.content(path) {
                    content.durable.clone_from(&content.now);
                }
            }
            Change::Rename(from, to) => {
                let file = self.target(from);
                self.target(to);
                self.name(vec![(to.to_owned(), file), (from.to_owned(), None)]);
            }
            Change::Remove(path) => {
                if self.target(path).is_some() {
                    self.name(vec![(path.to_owned(), None)]);
                }
            }
            Change::SyncDir(folder) => {
                let (arrived, rest) = std::mem::take(&mut self.pending)
                    .into_iter()
                    .partition(|change| change.iter().any(|(path, _)| path.parent() == Some(folder)));
                self.pending = rest;
                self.durable.extend(Vec::<Vec<_>>::into_iter(arrived).flatten());
            }
        }
        Ok(())
    }
}

fn describe(change: Change<'_>) -> String {
    let name = |path: &Path| {
        let name = name(path);
        // Temporary names are drawn.
        if name.starts_with(".lane-") { "temp".to_owned() } else { name }
    };
    match change {
        Change::Create(path) => format!("create {}", name(path)),
        Change::Append(path, bytes) => {
            let text = String::from_utf8_lossy(bytes);
            let member = |key: &str| {
                let rest = text.split(&format!("\"{key}\":\"")).nth(1);
                rest.and_then(|rest| rest.split('"').next()).unwrap_or_default().to_owned()
            };
            match name(path).as_str() {
                "journal.jsonl" => format!("append journal.jsonl {} {}", member("kind"), member("step")),
                other => format!("append {other}"),
            }
        }
        Change::Cut(path, _) => format!("cut {}", name(path)),
        Change::Sync(path) => format!("sync {}", name(path)),
        Change::Rename(from, to) => format!("rename {} {}", name(from), name(to)),
        Change::Remove(path) => format!("remove {}", name(path)),
        Change::SyncDir(path) => format!("sync folder {}", name(path)),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;
    use crate::world::fs as durable;
    use crate::world::fs::faults;

    /// One thing that is done to a folder, with what it may leave of a file when it is cut off, and when it is through.
    struct Case {
        name: &'static str,
        act: fn(&Path) -> io::Result<()>,
        look: fn(&Path) -> Option<String>,
        half_way: &'static [Option<&'static str>],
        done: Option<&'static str>,
    }

    fn text(path: &Path) -> Option<String> {
        durable::read_optional(path).unwrap().map(|bytes| String::from_utf8(bytes).unwrap())
    }

    const CASES: [Case; 5] = [
        Case {
            name: "replace",
            act: |dir| durable::write_atomic(&dir.join("old"), b"after", durable::Mode::Private),
            look: |dir| text(&dir.join("old")),
            half_way: &[Some("before"), Some("after")],
            done: Some("after"),
        },
        Case {
            name: "make",
            act: |dir| durable::write_atomic(&dir.join("new"), b"after", durable::Mode::Private),
            look: |dir| text(&dir.join("new")),
            half_way: &[None, Some("after")],
            done: Some("after"),
        },
        Case {
            name: "append",
            act: |dir| {
                let path = dir.join("new");
                durable::append(&mut durable::open_append(&path)?, &path, b"12")
            },
            look: |dir| text(&dir.join("new")),
            half_way: &[None, Some(""), Some("1"), Some("12")],
            done: Some("12"),
        },
        Case {
            name: "cut",
            act: |dir| durable::truncate(&dir.join("old"), 3),
            look: |dir| text(&dir.join("old")),
            half_way: &[Some("before"), Some("bef")],
            done: Some("bef"),
        },
        Case {
            name: "rename",
            act: |dir| durable::rename(&dir.join("old"), &dir.join("new")),
            look: |dir| {
                let (old, new) = (text(&dir.join("old")), text(&dir.join("new")));
                assert!(old.is_some() || new.is_some(), "it has no name any more");
                new
            },
            half_way: &[None, Some("before")],
            done: Some("before"),
        },
    ];

    /// Cuts it off at a point, loses the power in one way; returns how many ways there were, and whether it was through.
    fn cut_off(case: &Case, at: Option<u64>, way: u64) -> (u64, bool) {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path();
        fs::write(dir.join("old"), "before").unwrap();
        let fate = Fate::default();
        fate.begin(at, None);
        let disk = Rc::new(RefCell::new(SimDisk::new(fate, way)));
        let through = {
            let _guard = faults::set(Rc::<RefCell<SimDisk>>::clone(&disk));
            (case.act)(dir).is_ok()
        };
        let ways = disk.borrow().ways();
        disk.borrow_mut().lose_power(Keeps::Way(way));
        let left = (case.look)(dir);
        let allowed = if through { vec![case.done] } else { case.half_way.to_vec() };
        assert!(
            allowed.contains(&left.as_deref()),
            "{}, cut off at {at:?}, way {way} of {ways}: {left:?}",
            case.name
        );
        (ways, through)
    }

    #[test]
    fn i8_a_file_is_old_or_new_wherever_the_power_goes_and_whatever_had_arrived() {
        let mut tried = 0;
        for case in &CASES {
            for at in (0..).map(Some).take_while(|at| !cut_off(case, *at, 0).1).chain([None]) {
                let (ways, _) = cut_off(case, at, 0);
                for way in 1..ways {
                    cut_off(case, at, way);
                }
                tried += ways;
            }
        }
        println!("every write of a file: {tried} ways to lose the power");
        assert!(tried > 30, "{tried}");
    }
}
