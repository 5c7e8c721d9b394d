//! What can be wrong with state, and how to get it right again.

use std::io;
use std::path::{Path, PathBuf};

use super::lock::Holder;

/// Why state could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// Another process writes this lane.
    #[error("the lane is locked: {}", .holder.as_ref().map_or_else(
        || format!("{} is held, and {} does not say by whom", .path.display(), .path.with_file_name("holder.json").display()),
        ToString::to_string,
    ))]
    Locked {
        /// The lock.
        path: PathBuf,
        /// Who holds it, if that can be read.
        holder: Option<Box<Holder>>,
    },
    /// A file does not hold what `lane` wrote.
    #[error("{}{} is damaged: {why}", .file.display(), .line.map_or_else(String::new, |line| format!(", line {line},")))]
    Damaged {
        /// Which file.
        file: PathBuf,
        /// Which line of it, counted from 1.
        line: Option<usize>,
        /// What is wrong with it.
        why: String,
    },
    /// A later `lane` wrote this file.
    #[error("{} has format version {found}; this lane knows up to {known}", .file.display())]
    NewerFormat {
        /// Which file.
        file: PathBuf,
        /// Its version.
        found: u32,
        /// The version that this build writes.
        known: u32,
    },
    /// The system refused.
    #[error("cannot {what} {}: {source}", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// An earlier write of this run failed, so nothing more may happen in it.
    #[error("nothing more can be recorded in {}: {why}", .path.display())]
    Poisoned {
        /// The journal.
        path: PathBuf,
        /// The earlier failure.
        why: String,
    },
}

impl StateError {
    pub(super) fn damaged(file: &Path, line: Option<usize>, why: impl Into<String>) -> Self {
        Self::Damaged { file: file.to_owned(), line, why: why.into() }
    }

    pub(super) fn newer(file: &Path, found: u32, known: u32) -> Self {
        Self::NewerFormat { file: file.to_owned(), found, known }
    }

    pub(super) fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { what, path: path.to_owned(), source }
    }

    /// Says how to get out of it, for the message of the program.
    pub fn way_out(&self) -> Option<String> {
        match self {
            Self::Locked { holder: Some(holder), .. } => {
                Some(format!("wait for it, or end process {} on {}", holder.pid, holder.host))
            }
            Self::Locked { path, holder: None } => {
                Some(format!("wait for it; `fuser {}` names the process", path.display()))
            }
            Self::NewerFormat { .. } => {
                Some("use the version of lane that wrote it, or a later one".to_owned())
            }
            Self::Poisoned { .. } => {
                Some("no step was started after the failed write: mend the disk and run it again".to_owned())
            }
            Self::Io { .. } => Some(
                "see that the folder is there, is yours and has room, or name another: `--state-dir`, LANE_STATE_DIR"
                    .to_owned(),
            ),
            Self::Damaged { file, line, .. } => Some(way_out_of_damage(file, *line)),
        }
    }
}

fn way_out_of_damage(file: &Path, line: Option<usize>) -> String {
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let dir = file.parent().unwrap_or_else(|| Path::new("."));
    let shown = file.display();
    match (name, line) {
        ("state.json", _) | ("journal.jsonl", Some(_)) => {
            let lane = dir.file_name().unwrap_or_default().to_string_lossy();
            format!(
                "`lane state repair {lane} --dry-run` says what can be made again of it from its backups and journals, \
                 and without `--dry-run` that is done"
            )
        }
        ("plan.json", _) => "run `lane plan` again".to_owned(),
        _ if file.extension().is_some_and(|extension| extension == "tree") => {
            format!("remove {shown}: the next sync copies that source whole, and deletes nothing on the host")
        }
        _ => format!("remove {shown}: only a diff is lost"),
    }
}
