//! The nouns of a step: its id, its work, what it depends on and its fingerprint.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Digest;
use crate::spec::Name;

/// What a step does, naming the part of the spec that says how.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Work {
    /// Finds, adopts or creates the host: `provision/host`.
    Provision,
    /// Waits for a real login over SSH: `await/ssh`.
    AwaitSsh,
    /// Waits until cloud-init is through: `await/cloud-init`.
    AwaitCloudInit,
    /// Copies a source: `sync/<source>`.
    Sync(Name),
    /// Makes a secret on the host: `secret/<name>`.
    Secret(Name),
    /// Runs a build: `build/<name>`.
    Build(Name),
    /// Copies a build's outputs to where they belong: `install/<name>`.
    Install(Name),
    /// Renders a file to the host: `file/<absolute path>`.
    File(String),
    /// Installs, enables and starts a unit, or restarts it: `service/<name>`.
    Service(Name),
    /// Checks readiness: `probe/<name>`.
    Probe(Name),
    /// Runs the smoke command: `smoke`.
    Smoke,
    /// Runs the test suite: `tests`.
    Tests,
    /// Takes the host down and proves that nothing of it is left: `destroy/host`.
    Destroy,
}

impl Work {
    /// Returns the stable id of this work.
    pub fn id(&self) -> StepId {
        StepId(match self {
            Self::Provision => "provision/host".to_owned(),
            Self::AwaitSsh => "await/ssh".to_owned(),
            Self::AwaitCloudInit => "await/cloud-init".to_owned(),
            Self::Sync(name) => format!("sync/{name}"),
            Self::Secret(name) => format!("secret/{name}"),
            Self::Build(name) => format!("build/{name}"),
            Self::Install(name) => format!("install/{name}"),
            Self::File(path) => format!("file{path}"),
            Self::Service(name) => format!("service/{name}"),
            Self::Probe(name) => format!("probe/{name}"),
            Self::Smoke => "smoke".to_owned(),
            Self::Tests => "tests".to_owned(),
            Self::Destroy => "destroy/host".to_owned(),
        })
    }

    /// Returns the work behind an id, as a record keeps it when the spec names it no more; `None` for no id of ours.
    pub fn from_id(id: &StepId) -> Option<Self> {
        let fixed =
            [Self::Provision, Self::AwaitSsh, Self::AwaitCloudInit, Self::Smoke, Self::Tests, Self::Destroy];
        if let Some(work) = fixed.into_iter().find(|work| work.id() == *id) {
            return Some(work);
        }
        let (kind, rest) = id.0.split_once('/')?;
        if kind == "file" {
            return Some(Self::File(format!("/{rest}")));
        }
        let name = Name::new(rest).ok()?;
        Some(match kind {
            "sync" => Self::Sync(name),
            "secret" => Self::Secret(name),
            "build" => Self::Build(name),
            "install" => Self::Install(name),
            "service" => Self::Service(name),
            "probe" => Self::Probe(name),
            _ => return None,
        })
    }

    /// Tells whether it runs on the host under a transient unit and outlives the connection.
    pub fn is_long(&self) -> bool {
        matches!(self, Self::Build(_) | Self::Smoke | Self::Tests)
    }
}

/// A step's name, the same from run to run: `sync/mvmd`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StepId(pub(super) String);

impl StepId {
    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Wraps an id read from a file.
    pub fn from_text(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Returns a form that is safe as a file name and as a part of a unit's name, and no other step's.
    pub fn file_name(&self) -> String {
        const LONGEST: usize = 150;
        let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
        let name: String = self.0.chars().map(safe).collect();
        // `/etc/a-b`, `/etc/a/b` and `/etc/a b` would be one name.
        let plain = |path: &str| path.chars().all(|c| c == '/' || c != '-' && safe(c) == c);
        if name.len() <= LONGEST && self.0.strip_prefix("file/").is_none_or(plain) {
            return name;
        }
        let start = name.get(..LONGEST.min(name.len())).unwrap_or_default();
        format!("{start}-{}", Digest::of(self.0.as_bytes()).short())
    }
}

impl fmt::Display for StepId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Fewer characters than this of a digest prove nothing.
const SHORTEST: usize = 12;

impl Fingerprint {
    /// Tells whether this, which may have been cut to what a cloud's label takes, is of the same inputs as `whole`.
    pub fn is_of(&self, whole: &Self) -> bool {
        self.0.as_str().len() >= SHORTEST && whole.0.as_str().starts_with(self.0.as_str())
    }
}

/// Digest of a step's own inputs and of the fingerprints that it depends on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Fingerprint(pub Digest);

/// Whether a dependency's fingerprint flows into the dependent's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DependencyKind {
    /// Must be done before; its change re-runs the dependent.
    Input,
    /// Must be done before, nothing more.
    Order,
}

/// An edge of the graph, seen from its later end.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Dependency {
    /// What has to be done before.
    pub on: StepId,
    /// Whether it also is an input.
    pub kind: DependencyKind,
}

/// A step as the spec wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepSpec {
    /// What it does.
    pub work: Work,
    /// Its own inputs by name, short texts or digests, kept in the record so that a change can be named.
    pub inputs: BTreeMap<String, String>,
    /// What it waits for, sorted by id.
    pub depends_on: Vec<Dependency>,
    /// Digest of `inputs` and of the fingerprints behind the `Input` dependencies.
    pub fingerprint: Fingerprint,
    /// How long it may take.
    pub timeout: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_leads_back_to_its_work() {
        let name = || Name::new("a.b-c").unwrap();
        for work in [
            Work::Provision,
            Work::AwaitSsh,
            Work::AwaitCloudInit,
            Work::Sync(name()),
            Work::Secret(name()),
            Work::Build(name()),
            Work::Install(name()),
            Work::File("/etc/a/b.toml".to_owned()),
            Work::Service(name()),
            Work::Probe(name()),
            Work::Smoke,
            Work::Tests,
            Work::Destroy,
        ] {
            assert_eq!(Work::from_id(&work.id()), Some(work));
        }
        let files: std::collections::BTreeSet<String> = [
            "/etc/a-b",
            "/etc/a/b",
            "/etc/a b",
            "/etc/a\u{e9}b",
            "/etc/a.b",
            &format!("/etc/{}", "x".repeat(999)),
        ]
        .map(|path| Work::File(path.to_owned()).id().file_name())
        .into();
        assert!(files.len() == 6 && files.iter().all(|name| name.len() < 200), "{files:?}");
        assert!(files.contains("file-etc-a-b") && files.contains("file-etc-a.b"), "{files:?}");
        for foreign in ["", "sync", "sync/", "sync/A", "other/a", "await/other"] {
            assert_eq!(Work::from_id(&StepId::from_text(foreign)), None, "{foreign}");
        }
    }
}
