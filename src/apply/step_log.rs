//! One log file per step: what its command wrote, whole and in order.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::plan::StepId;

/// A step's log file; clones write to the same file.
#[derive(Debug, Clone)]
pub struct StepLog {
    path: PathBuf,
    open: Arc<Mutex<Open>>,
}

#[derive(Debug, Default)]
struct Open {
    file: Option<File>,
    /// What could not be written yet: the file is always a beginning of the output, never one with a gap.
    rest: Vec<u8>,
}

impl StepLog {
    /// Names the log of a step in a lane's log folder; the file is made at the first write.
    pub fn new(folder: &Path, step: &StepId) -> Self {
        Self { path: folder.join(format!("{}.log", step.file_name())), open: Arc::default() }
    }

    /// Returns where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends bytes as they are; a log that cannot be written must not fail the step.
    pub fn bytes(&self, bytes: &[u8]) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.rest.extend_from_slice(bytes);
        drop(open.write(&self.path));
    }

    /// Makes what was written durable; a log that cannot be synced must not fail the step.
    pub fn sync(&self) {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &open.file {
            drop(crate::world::fs::sync(file, &self.path));
        }
    }

    /// Appends a line.
    pub fn line(&self, line: &str) {
        self.bytes(format!("{line}\n").as_bytes());
    }
}

impl Open {
    fn write(&mut self, path: &Path) -> io::Result<()> {
        while !self.rest.is_empty() {
            let file = match &mut self.file {
                Some(file) => file,
                None => self.file.insert(crate::world::fs::open_append(path)?),
            };
            match file.write(&self.rest)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                written => drop(self.rest.drain(..written)),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;
    use crate::world::fs::faults::{self, Change, Disk};

    /// Remembers which files were made durable.
    #[derive(Debug, Default)]
    struct Synced(Vec<PathBuf>);

    impl Disk for Synced {
        fn change(&mut self, change: Change<'_>) -> io::Result<()> {
            if let Change::Sync(path) = change {
                self.0.push(path.to_owned());
            }
            Ok(())
        }
    }

    #[test]
    fn a_log_is_synced_once_and_one_that_was_never_written_is_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let log = |step| StepLog::new(folder.path(), &StepId::from_text(step));
        let (written, silent) = (log("build/a"), log("build/b"));
        let synced = Rc::new(RefCell::new(Synced::default()));
        let disk: Rc<RefCell<dyn Disk>> = Rc::<RefCell<Synced>>::clone(&synced);
        let _guard = faults::set(disk);
        written.line("one");
        written.line("two");
        written.sync();
        silent.sync();
        assert_eq!(synced.borrow().0, [written.path()]);
        assert!(!crate::world::fs::exists(silent.path()));
    }
}
