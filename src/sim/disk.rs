//! A disk that tears writes, fills up, fails, and forgets at a power loss what was never synced.
#![expect(clippy::disallowed_methods, reason = "stands in for the disk itself")]

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use fastrand::Rng;

use super::fate::{Dead, Fate};
use crate::world::fs::faults::{Change, Disk};

/// How to undo what is not durable yet.
#[derive(Debug)]
enum Undo {
    /// A name in a folder held this before.
    Entry { path: PathBuf, before: Option<Vec<u8>> },
    /// A file was this long before.
    Length { path: PathBuf, before: u64 },
}

/// What the disk refuses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Writes fail from this change on: no space left.
    Full { from: u64 },
    /// One sync fails; nobody can say what of it is on the disk.
    SyncFails { at: u64 },
}

/// See the module.
#[derive(Debug)]
pub(super) struct SimDisk {
    fate: Fate,
    rng: Rng,
    trouble: Option<Trouble>,
    changes: u64,
    undo: Vec<Undo>,
}

impl SimDisk {
    pub(super) fn new(fate: Fate, seed: u64) -> Self {
        Self { fate, rng: Rng::with_seed(seed), trouble: None, changes: 0, undo: vec![] }
    }

    pub(super) fn begin(&mut self, trouble: Option<Trouble>) {
        (self.trouble, self.changes) = (trouble, 0);
    }

    /// Loses any part of what was not synced, as a machine that loses its power may.
    pub(super) fn lose_power(&mut self) {
        while let Some(undo) = self.undo.pop() {
            if self.rng.bool() {
                continue;
            }
            match undo {
                Undo::Entry { path, before: Some(bytes) } => fs::write(path, bytes).unwrap(),
                Undo::Entry { path, before: None } => drop(fs::remove_file(path)),
                Undo::Length { path, before } => {
                    if let Ok(file) = fs::OpenOptions::new().write(true).open(&path) {
                        let now = file.metadata().unwrap().len();
                        file.set_len(self.rng.u64(before.min(now)..=now)).unwrap();
                    }
                }
            }
        }
    }

    /// A process that was killed leaves what it wrote to the system, which goes on.
    pub(super) fn settle(&mut self) {
        self.undo.clear();
    }

    fn remember(&mut self, path: &Path) {
        self.undo.push(Undo::Entry { path: path.to_owned(), before: fs::read(path).ok() });
    }
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

impl Disk for SimDisk {
    fn change(&mut self, change: Change<'_>) -> io::Result<()> {
        if let Err(dead) = self.fate.reach(|| describe(change)) {
            // Of the write during which it died, any part may be there.
            if let (Dead::Now, Change::Append(path, bytes)) = (dead, change) {
                self.undo.push(Undo::Length { path: path.to_owned(), before: length(path) });
                let mut file = fs::OpenOptions::new().append(true).open(path)?;
                file.write_all(&bytes[..self.rng.usize(..=bytes.len())])?;
            }
            return Err(io::Error::other("the process is dead"));
        }
        let at = self.changes;
        self.changes += 1;
        match (self.trouble, change) {
            (Some(Trouble::Full { from }), Change::Append(path, bytes)) if at >= from => {
                let mut file = fs::OpenOptions::new().append(true).open(path)?;
                file.write_all(&bytes[..self.rng.usize(..bytes.len())])?;
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
            Change::Create(path) if !path.exists() => self.remember(path),
            Change::Append(path, _) | Change::Cut(path) => {
                self.undo.push(Undo::Length { path: path.to_owned(), before: length(path) });
            }
            Change::Sync(path) => {
                self.undo.retain(|undo| !matches!(undo, Undo::Length { path: other, .. } if other == path));
            }
            Change::Replace(path) | Change::Remove(path) => self.remember(path),
            Change::Rename(from, to) => {
                self.remember(to);
                self.remember(from);
            }
            Change::SyncDir(folder) => self
                .undo
                .retain(|undo| !matches!(undo, Undo::Entry { path, .. } if path.parent() == Some(folder))),
            Change::Create(_) => {}
        }
        Ok(())
    }
}

fn describe(change: Change<'_>) -> String {
    let name =
        |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    match change {
        Change::Create(path) => format!("create {}", name(path)),
        Change::Append(path, bytes) => {
            let text = String::from_utf8_lossy(bytes);
            let event =
                text.split("\"kind\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
            let step =
                text.split("\"step\":\"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
            format!("append {} {event} {step}", name(path))
        }
        Change::Cut(path) => format!("cut {}", name(path)),
        Change::Sync(path) if name(path).starts_with(".lane-") => "sync temp".to_owned(),
        Change::Sync(path) => format!("sync {}", name(path)),
        Change::Replace(path) => format!("replace {}", name(path)),
        Change::Rename(from, to) => format!("rename {} {}", name(from), name(to)),
        Change::Remove(path) => format!("remove {}", name(path)),
        Change::SyncDir(path) => format!("sync folder {}", name(path)),
    }
}
