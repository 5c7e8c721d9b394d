//! Reads what a spec names on this machine: unit files, templates, cloud-init, source trees.
//!
//! Decides nothing: a missing file is a [`Complaint`] here and the verb says whether that matters.

mod cache;
mod tree;

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::plan::Digest;
use crate::spec::{Complaint, LocalFile, Name, Source, Spec};
use crate::world::{World, fs};

pub use tree::{Scan, Tree, TreeEntry, TreeError, TreeKind, scan};

/// Largest unit file, template or cloud-init file that is read.
const TEXT_LIMIT: u64 = 1 << 20;

/// Everything that a spec names on this machine, as it is now.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// Texts of unit files, templates and the cloud-init file, by absolute path; a missing one is not in here.
    pub texts: BTreeMap<PathBuf, String>,
    /// Source trees by name; a missing one is not in here.
    pub trees: BTreeMap<Name, Tree>,
    /// What is missing or cannot be read, at its place in the spec.
    pub missing: Vec<Complaint>,
}

impl Inputs {
    /// Returns a text's digest, or `None` for 'unknown until apply'.
    pub fn text_digest(&self, path: &Path) -> Option<Digest> {
        self.texts.get(path).map(|text| Digest::of(text.as_bytes()))
    }
}

/// Reads all inputs; trees are digested with the cache in `cache_dir` (by path, size, mtime and inode).
pub fn read(world: &World, spec: &Spec, cache_dir: &Path) -> Inputs {
    let mut inputs = Inputs::default();
    let mut problems = Vec::new();
    for (what, file) in texts(spec) {
        match read_text(what, file) {
            Ok(text) => drop(inputs.texts.insert(file.path.clone(), text)),
            Err(problem) => problems.push(problem),
        }
    }
    for (name, source) in &spec.sources {
        match read_source(world, name, source, cache_dir) {
            Ok(tree) => drop(inputs.trees.insert(name.clone(), tree)),
            Err(problem) => problems.push(problem),
        }
    }
    let complain =
        |problem: Problem| spec.source_map.complaint(&problem.key, problem.message, problem.help.as_deref());
    inputs.missing = problems.into_iter().map(complain).collect();
    inputs
}

/// Says what of a spec's files and folders is not there, without digesting anything.
pub fn missing(spec: &Spec) -> Vec<Complaint> {
    let files = texts(spec).filter_map(|(what, file)| read_text(what, file).err());
    let folders = spec.sources.values().filter_map(|source| folder_there(source).err());
    let complain =
        |problem: Problem| spec.source_map.complaint(&problem.key, problem.message, problem.help.as_deref());
    files.chain(folders).map(complain).collect()
}

fn texts(spec: &Spec) -> impl Iterator<Item = (&'static str, &LocalFile)> {
    let cloud_init = spec.cloud_init.iter().map(|file| ("cloud-init file", file));
    let templates = spec.files.values().map(|file| ("template", &file.template));
    let units = spec.services.values().map(|service| ("unit file", &service.unit));
    cloud_init.chain(templates).chain(units)
}

fn folder_there(source: &Source) -> Result<(), Problem> {
    let folder = &source.folder;
    let metadata = fs::stat(&folder.path).map_err(|error| Problem::unreadable("folder", folder, &error))?;
    if metadata.is_dir() {
        return Ok(());
    }
    Err(Problem::new(folder, format!("{} is not a folder", folder.path.display())))
}

/// What is wrong with something that the spec names, before it has its place in the spec's text.
#[derive(Debug, PartialEq, Eq)]
struct Problem {
    key: String,
    message: String,
    help: Option<String>,
}

impl Problem {
    fn new(file: &LocalFile, message: String) -> Self {
        Self { key: file.key.clone(), message, help: None }
    }

    /// Words a failure to get at a path; one that is not there gets the name that was meant.
    fn unreadable(what: &str, file: &LocalFile, error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::NotFound {
            let message = format!("the {what} {} is not there", file.path.display());
            return Self { help: meant(&file.path), ..Self::new(file, message) };
        }
        Self::new(file, format!("the {what} {} cannot be read: {error}", file.path.display()))
    }
}

/// Suggests an existing neighbour with nearly the same name.
fn meant(path: &Path) -> Option<String> {
    let name = path.file_name()?.to_str()?;
    let names = fs::list(path.parent()?).ok()?;
    let scored = names.iter().map(|other| (strsim::jaro_winkler(name, other), other));
    let (score, best) = scored.max_by(|(a, _), (b, _)| a.total_cmp(b))?;
    (score > 0.85).then(|| format!("did you mean `{best}`?"))
}

fn read_text(what: &str, file: &LocalFile) -> Result<String, Problem> {
    let unreadable = |error: io::Error| Problem::unreadable(what, file, &error);
    let shown = file.path.display();
    // A pipe or a device is not even opened: that alone may block or have an effect.
    if !fs::stat(&file.path).map_err(unreadable)?.is_file() {
        return Err(Problem::new(file, format!("the {what} {shown} is not a regular file")));
    }
    let mut bytes = Vec::new();
    let read = fs::open(&file.path).and_then(|opened| opened.take(TEXT_LIMIT + 1).read_to_end(&mut bytes));
    read.map_err(unreadable)?;
    if bytes.len() as u64 > TEXT_LIMIT {
        return Err(Problem::new(file, format!("the {what} {shown} is larger than 1 MiB")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Problem::new(file, format!("the {what} {shown} is not UTF-8 text (byte {at})"))
    })
}

fn read_source(world: &World, name: &Name, source: &Source, cache_dir: &Path) -> Result<Tree, Problem> {
    folder_there(source)?;
    let folder = &source.folder;
    let cache_file = cache_dir.join(format!("{name}.files"));
    match scan(world, &folder.path, &source.exclude, &cache_file) {
        Ok(scan) => Ok(scan.tree),
        Err(error @ TreeError::Pattern { .. }) => {
            Err(Problem { key: format!("sources.{name}.exclude"), message: error.to_string(), help: None })
        }
        Err(error) => Err(Problem::new(folder, format!("the source {name}: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::SystemClock;

    fn file(path: &Path) -> LocalFile {
        let written = path.display().to_string();
        LocalFile { path: path.to_owned(), written, key: "services.mvmd.unit".to_owned() }
    }

    #[test]
    fn a_text_is_read_or_said_to_be_missing_at_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = dir.path().join(name);
            fs::write_atomic(&path, bytes, fs::Mode::Public).unwrap();
            path
        };
        let read = |path: &Path| read_text("unit file", &file(path));
        let good = write("mvmd.service", "[Unit]\nDescription=\u{e4}\n".as_bytes());
        assert_eq!(read(&good).unwrap(), "[Unit]\nDescription=\u{e4}\n");

        let missing = read(&dir.path().join("mvdm.service")).unwrap_err();
        assert_eq!(missing.key, "services.mvmd.unit");
        assert!(missing.message.ends_with("mvdm.service is not there"), "{missing:?}");
        assert_eq!(missing.help.as_deref(), Some("did you mean `mvmd.service`?"));
        assert_eq!(read(&dir.path().join("quite/other")).unwrap_err().help, None);

        let message = |path: &Path| read(path).unwrap_err().message;
        assert!(message(dir.path()).ends_with("is not a regular file"));
        assert!(message(Path::new("/dev/zero")).ends_with("is not a regular file"));
        assert!(message(&good.join("below")).contains("cannot be read"));
        assert!(message(&write("latin1", b"ab\xe4c")).ends_with("is not UTF-8 text (byte 2)"));
        let limit = usize::try_from(TEXT_LIMIT).unwrap();
        assert!(message(&write("large", &vec![b' '; limit + 1])).ends_with("is larger than 1 MiB"));
        assert_eq!(read(&write("just", &vec![b' '; limit])).unwrap().len(), limit);
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&good, &link).unwrap();
        assert!(read(&link).is_ok());
    }

    #[test]
    fn a_source_is_a_folder_with_patterns_that_read() {
        let dir = tempfile::tempdir().unwrap();
        let world = World::fixed(std::sync::Arc::new(SystemClock), BTreeMap::new(), "/".into());
        fs::write_atomic(&dir.path().join("a"), b"1", fs::Mode::Public).unwrap();
        let read = |path: &Path, exclude: &[&str]| {
            let folder = LocalFile { key: "sources.mvm.path".to_owned(), ..file(path) };
            let exclude = exclude.iter().map(|&pattern| pattern.to_owned()).collect();
            let source = Source { folder, to: "/home/mvm/mvm".to_owned(), exclude };
            read_source(&world, &Name::new("mvm").unwrap(), &source, &dir.path().join("cache"))
        };
        assert_eq!(read(dir.path(), &["cache"]).unwrap().entries.len(), 1);
        let problem = |path: &Path, exclude: &[&str]| read(path, exclude).unwrap_err();
        assert!(problem(&dir.path().join("a"), &[]).message.ends_with("a is not a folder"));
        let missing = problem(&dir.path().join("none"), &[]);
        assert!(missing.message.starts_with("the folder ") && missing.message.ends_with("none is not there"));
        assert_eq!(missing.key, "sources.mvm.path");
        assert_eq!(problem(dir.path(), &["ok", "[z-a]"]).key, "sources.mvm.exclude");
    }
}
