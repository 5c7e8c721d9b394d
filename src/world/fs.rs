//! Durable file operations: what is written is on the disk, or the caller hears of it.
//!
//! A file is old or new, never torn (temp file, fsync, rename, fsync of the folder: rename(2), fsync(2)).
#![expect(clippy::disallowed_methods, reason = "the one module that touches files")]

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

#[cfg(test)]
pub(crate) mod faults;
#[cfg(test)]
use faults::{Change, ask};

/// Permission bits of a file that `lane` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// 0644: anyone may read it.
    Public,
    /// 0600: it may hold a secret.
    Private,
}

impl Mode {
    fn bits(self) -> u32 {
        match self {
            Self::Public => 0o644,
            Self::Private => 0o600,
        }
    }
}

/// Replaces `path` as a whole; after a crash it holds the old bytes or the new ones.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: Mode) -> io::Result<()> {
    let dir = path.parent().unwrap_or_else(|| Path::new("."));
    #[cfg(test)]
    ask(Change::Create(&dir.join(".lane-new")))?;
    let mut temp = tempfile::Builder::new().prefix(".lane-").tempfile_in(dir)?;
    #[cfg(test)]
    ask(Change::Append(temp.path(), bytes))?;
    temp.write_all(bytes)?;
    temp.as_file().set_permissions(std::fs::Permissions::from_mode(mode.bits()))?;
    sync(temp.as_file(), temp.path())?;
    #[cfg(test)]
    ask(Change::Rename(temp.path(), path))?;
    temp.persist(path).map_err(|refused| refused.error)?;
    sync_dir(dir)
}

/// Makes a file's bytes durable.
pub fn sync(
    file: &File,
    #[cfg_attr(not(test), expect(unused_variables, reason = "names the file to a test's disk"))] path: &Path,
) -> io::Result<()> {
    #[cfg(test)]
    ask(Change::Sync(path))?;
    file.sync_all()
}

/// Makes a folder's entries durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    #[cfg(test)]
    ask(Change::SyncDir(dir))?;
    File::open(dir)?.sync_all()
}

/// Opens (and makes, 0600) a file for appending; the caller writes whole lines and syncs.
pub fn open_append(path: &Path) -> io::Result<File> {
    #[cfg(test)]
    ask(Change::Create(path))?;
    let file = OpenOptions::new().create(true).append(true).read(true).mode(0o600).open(path)?;
    if let Some(dir) = path.parent() {
        sync_dir(dir)?;
    }
    Ok(file)
}

/// Appends bytes in one write and returns once they are on the disk.
pub fn append(file: &mut File, path: &Path, bytes: &[u8]) -> io::Result<()> {
    #[cfg(test)]
    ask(Change::Append(path, bytes))?;
    file.write_all(bytes)?;
    sync(file, path)
}

/// Cuts a file that is longer than `len`, durably.
pub fn truncate(path: &Path, len: u64) -> io::Result<()> {
    let file = open_append(path)?;
    if file.metadata()?.len() > len {
        #[cfg(test)]
        ask(Change::Cut(path, len))?;
        file.set_len(len)?;
        sync(&file, path)?;
    }
    Ok(())
}

/// Opens (and makes) a file to be locked with `File::try_lock`; never truncates it.
pub fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).read(true).write(true).mode(0o644).open(path)
}

/// Reads a whole file; a missing one is `None`.
pub fn read_optional(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads a whole file.
pub fn read(path: &Path) -> io::Result<Vec<u8>> {
    std::fs::read(path)
}

/// Reads a file's metadata, not following a symlink.
pub fn metadata(path: &Path) -> io::Result<std::fs::Metadata> {
    std::fs::symlink_metadata(path)
}

/// Tells whether something is there, following symlinks.
pub fn exists(path: &Path) -> bool {
    path.exists()
}

/// Tells whether a file is there that somebody may run.
pub fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|data| data.is_file() && data.permissions().mode() & 0o111 != 0)
}

/// Makes a folder and its parents, readable by the owner alone.
pub fn create_dir_private(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Makes a folder and its parents.
pub fn create_dir_all(path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(path)
}

/// Removes a file; a missing one is fine.
pub fn remove_file(path: &Path) -> io::Result<()> {
    #[cfg(test)]
    ask(Change::Remove(path))?;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes a folder and what it holds, without crossing into other file systems' roots; a missing one is fine.
pub fn remove_dir_all(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Renames within one file system and makes it durable.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    #[cfg(test)]
    ask(Change::Rename(from, to))?;
    std::fs::rename(from, to)?;
    sync_dir(to.parent().unwrap_or_else(|| Path::new(".")))
}

/// Lists a folder's entry names, sorted; a missing folder is empty.
pub fn list(path: &Path) -> io::Result<Vec<String>> {
    let entries = match std::fs::read_dir(path) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        if let Ok(name) = entry?.file_name().into_string() {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

/// Opens a file for reading.
pub fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}

/// Reads metadata of what a path leads to, following symlinks.
pub fn stat(path: &Path) -> io::Result<std::fs::Metadata> {
    std::fs::metadata(path)
}

/// Returns what a symlink says.
pub fn read_link(path: &Path) -> io::Result<std::path::PathBuf> {
    std::fs::read_link(path)
}

/// Resolves symlinks, `.` and `..`; the path has to exist.
pub fn canonicalize(path: &Path) -> io::Result<std::path::PathBuf> {
    std::fs::canonicalize(path)
}
