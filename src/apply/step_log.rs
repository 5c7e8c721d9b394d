//! One log file per step: what its command wrote, whole and in order.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use crate::plan::StepId;

/// A step's log file; clones write to the same file.
#[derive(Debug, Clone)]
pub struct StepLog {
    path: PathBuf,
    file: Arc<Mutex<Option<File>>>,
}

impl StepLog {
    /// Names the log of a step in a lane's log folder; the file is made at the first write.
    pub fn new(folder: &Path, step: &StepId) -> Self {
        Self { path: folder.join(format!("{}.log", step.file_name())), file: Arc::default() }
    }

    /// Returns where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends bytes as they are; a log that cannot be written must not fail the step.
    pub fn bytes(&self, bytes: &[u8]) {
        let Ok(mut slot) = self.file.lock() else { return };
        if slot.is_none() {
            *slot = crate::world::fs::open_append(&self.path).ok();
        }
        if let Some(file) = slot.as_mut() {
            drop(file.write_all(bytes));
        }
    }

    /// Appends a line.
    pub fn line(&self, line: &str) {
        self.bytes(format!("{line}\n").as_bytes());
    }
}
