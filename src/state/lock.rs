//! One writer per lane: a lock of the kernel that dies with its process, and a file that says who holds it.
//!
//! Knows nothing of records and journals.

use std::fmt;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::error::StateError;
use crate::world::{World, fs};

/// Who holds a lane's lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// Machine that it runs on.
    pub host: String,
    /// Who started it.
    pub user: String,
    /// What it does: `apply`, `destroy`.
    pub verb: String,
    /// Since when.
    pub since: Timestamp,
    /// Its command line.
    pub command: String,
}

impl Holder {
    fn current(world: &World, verb: &str) -> Self {
        let text = |path: &str| {
            let bytes = fs::read_optional(Path::new(path)).ok().flatten().unwrap_or_default();
            String::from_utf8_lossy(&bytes).replace('\0', " ").trim().to_owned()
        };
        let or = |text: String, other: &str| if text.is_empty() { other.to_owned() } else { text };
        Self {
            pid: std::process::id(),
            host: or(text("/proc/sys/kernel/hostname"), world.var("HOSTNAME").unwrap_or("this machine")),
            user: world.var("USER").or_else(|| world.var("LOGNAME")).unwrap_or("unknown user").to_owned(),
            verb: verb.to_owned(),
            since: world.now(),
            command: or(text("/proc/self/cmdline"), &format!("lane {verb}")),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} on {}, pid {}, since {}", self.verb, self.user, self.host, self.pid, self.since)
    }
}

/// A held lock; given back on drop, by the kernel if the process dies.
#[derive(Debug)]
pub struct LockGuard {
    holder: PathBuf,
    file: File,
}

impl LockGuard {
    /// Takes the lock of a lane's folder, or says who holds it. Never waits.
    pub fn acquire(dir: &Path, world: &World, verb: &str) -> Result<Self, StateError> {
        let file = lock(dir)?;
        let holder = dir.join("holder.json");
        let text = serde_json::to_vec(&Holder::current(world, verb)).map_err(std::io::Error::other);
        let written = text.and_then(|text| fs::write_atomic(&holder, &text, fs::Mode::Public));
        written.map_err(|error| StateError::io("write who holds the lock to", &holder, error))?;
        Ok(Self { holder, file })
    }

    /// Tells whether the lock is free now.
    pub fn probe(dir: &Path) -> Result<(), StateError> {
        lock(dir).map(|file| drop(file.unlock()))
    }
}

/// Locks the file itself; the lock goes with the file.
fn lock(dir: &Path) -> Result<File, StateError> {
    // The file is never renamed or deleted: two processes must always mean the same inode.
    let path = dir.join("lock");
    let file = fs::open_lock(&path).map_err(|error| StateError::io("open the lock", &path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let holder = read_holder(&dir.join("holder.json")).map(Box::new);
            Err(StateError::Locked { path, holder })
        }
        Err(TryLockError::Error(error)) => Err(StateError::io("lock", &path, error)),
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        // Before the lock itself goes; a holder file that stays behind is replaced by the next holder.
        drop(fs::remove_file(&self.holder));
        // Closing the file would leave the lock to a child that another thread is just starting.
        drop(self.file.unlock());
    }
}

/// Returns who holds the lock; `None` when the file is missing or does not read (it is written after the lock is taken).
fn read_holder(path: &Path) -> Option<Holder> {
    serde_json::from_slice(&fs::read_optional(path).ok()??).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::store::tests::world;

    fn refused(dir: &Path) -> Option<Holder> {
        match LockGuard::acquire(dir, &world(), "plan") {
            Err(StateError::Locked { holder, .. }) => holder.map(|holder| *holder),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_second_hears_who_holds_it_and_gets_it_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let guard = LockGuard::acquire(dir.path(), &world(), "apply").unwrap();
        let holder = refused(dir.path()).unwrap();
        assert_eq!((holder.pid, &*holder.verb, &*holder.user), (std::process::id(), "apply", "tester"));
        assert_eq!(holder.since, world().now());
        assert!(!holder.command.is_empty() && !holder.host.is_empty());
        let shown = StateError::Locked { path: "lock".into(), holder: Some(Box::new(holder)) }.to_string();
        assert!(shown.contains("apply of tester") && shown.contains("since 2001-09-09T01:46:40Z"), "{shown}");
        drop(guard);
        assert!(!fs::exists(&dir.path().join("holder.json")));
        drop(LockGuard::acquire(dir.path(), &world(), "plan").unwrap());
    }

    #[test]
    fn a_holder_that_cannot_be_read_is_still_a_holder() {
        let dir = tempfile::tempdir().unwrap();
        let _guard = LockGuard::acquire(dir.path(), &world(), "apply").unwrap();
        let file = dir.path().join("holder.json");
        for garbled in [&b"{\"pid\": 1"[..], b"", b"\xff\0"] {
            fs::write_atomic(&file, garbled, fs::Mode::Public).unwrap();
            assert_eq!(refused(dir.path()), None);
        }
        fs::remove_file(&file).unwrap();
        assert_eq!(refused(dir.path()), None);
    }

    /// As a child has it between its fork and its exec.
    #[test]
    fn a_copy_of_the_open_file_does_not_keep_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let guard = LockGuard::acquire(dir.path(), &world(), "apply").unwrap();
        let _copy = guard.file.try_clone().unwrap();
        drop(guard);
        LockGuard::probe(dir.path()).unwrap();
        drop(LockGuard::acquire(dir.path(), &world(), "plan").unwrap());
    }

    #[test]
    fn what_a_dead_holder_left_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        fs::write_atomic(&dir.path().join("holder.json"), b"{\"pid\": 1", fs::Mode::Public).unwrap();
        let _guard = LockGuard::acquire(dir.path(), &world(), "destroy").unwrap();
        assert_eq!(refused(dir.path()).unwrap().verb, "destroy");
    }
}
