//! The spec as the rest of `lane` sees it: defaults filled in, paths absolute, names checked.
//!
//! No serde of user input here (see `raw`), no file access (see `crate::inputs`).

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::SourceMap;
use crate::plan::Digest;
use crate::provider::{Entry, Money, Price, Region, Sku};

/// How names of files end that are being written.
pub(super) const TEMPORARY: &str = ".lane-new";

/// A lane's, source's, build's, service's, probe's or secret's name: `[a-z0-9]([a-z0-9._-]*[a-z0-9])?`, at most 63 bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(String);

impl Name {
    /// Checks and wraps a name; the error says what is wrong with it.
    pub fn new(text: &str) -> Result<Self, String> {
        let ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if text.is_empty() || text.len() > 63 {
            return Err(format!("a name has 1 to 63 characters, this one has {}", text.len()));
        }
        if let Some(bad) = text.chars().find(|&c| !(ends(c) || matches!(c, '.' | '_' | '-'))) {
            return Err(format!("a name holds only a-z, 0-9, `.`, `_` and `-`, not {bad:?}"));
        }
        if !text.starts_with(ends) || !text.ends_with(ends) {
            return Err("a name starts and ends with a letter or a digit".to_owned());
        }
        if text.ends_with(TEMPORARY) {
            return Err(format!("names that end with `{TEMPORARY}` are lane's own"));
        }
        Ok(Self(text.to_owned()))
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for Name {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::new(&text)
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

/// One lane, as asked for.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Where the spec stands, with the place of each key, for later complaints.
    pub source_map: SourceMap,
    /// Digest of the spec's text.
    pub digest: Digest,
    /// The lane's name.
    pub name: Name,
    /// Which provider, with its own keys.
    pub provider: ProviderSpec,
    /// Instance type, in the provider's own word.
    pub sku: Sku,
    /// Place, in the provider's own word.
    pub region: Region,
    /// Plain image name (`ubuntu-24.04`) or a provider's raw id.
    pub image: String,
    /// Size of the root disk in bytes.
    pub disk_bytes: u64,
    /// Whether `/dev/kvm` has to work.
    pub kvm: KvmNeed,
    /// How long the host may live and what it may cost.
    pub lease: Lease,
    /// What an hour costs, by the user's word.
    pub price: Option<Money>,
    /// Who gets in, from where.
    pub access: Access,
    /// The user's own cloud-init file.
    pub cloud_init: Option<LocalFile>,
    /// Folders of this machine that are copied to the host.
    pub sources: BTreeMap<Name, Source>,
    /// Commands that build them there.
    pub build: BTreeMap<Name, Build>,
    /// Secrets that are made on the host.
    pub secrets: BTreeMap<Name, Secret>,
    /// Files that are rendered to the host, by absolute path there.
    pub files: BTreeMap<String, FileTemplate>,
    /// systemd services, by unit name without `.service`.
    pub services: BTreeMap<Name, Service>,
    /// Readiness checks.
    pub probes: BTreeMap<Name, Probe>,
    /// One-shot proof that the host does its job.
    pub smoke: Option<Run>,
    /// The test suite that `lane test` and `lane run` run.
    pub tests: Option<Run>,
    /// How long each kind of step may take.
    pub timeouts: Timeouts,
}

/// Returns what an hour of a host costs: by the spec, where it says so of such a host, else by the provider's table.
pub fn price(spec: Option<&Spec>, entry: &Entry, sku: &Sku, region: &Region) -> Option<Price> {
    // A spec that has moved on to another host says nothing of the old one.
    let same = |spec: &&Spec| spec.provider.name == entry.name && spec.sku == *sku && spec.region == *region;
    match spec.filter(same).and_then(|spec| spec.price.clone()) {
        Some(per_hour) => Some(Price { per_hour, source: "the spec".to_owned() }),
        None => entry.price(sku, region),
    }
}

/// The provider's name and its own keys, already checked against its schema.
#[derive(Debug, Clone, PartialEq)]
pub struct ProviderSpec {
    /// Name in the registry.
    pub name: String,
    /// The keys beside `name`, as JSON; the adapter reads them into its own struct.
    pub config: serde_json::Value,
}

/// A file of the operator's machine that the spec names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalFile {
    /// Absolute path.
    pub path: PathBuf,
    /// The text in the spec, for messages.
    pub written: String,
    /// Path of the key in the spec (`services.mvmd.unit`), for complaints by [`SourceMap`].
    pub key: String,
}

/// Whether the lane needs a working `/dev/kvm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KvmNeed {
    /// Without it the lane fails, in the first seconds after SSH.
    Required,
    /// Its level is reported; the lane goes on without it.
    Optional,
    /// The lane runs without it and says so.
    None,
}

/// How long the host may live and what it may cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Lease {
    /// From creation to the moment at which the host may be taken down by anyone.
    pub ttl: Duration,
    /// Refuse to create a host whose worst case until the lease ends costs more.
    pub max_spend: Option<Money>,
}

/// Who gets in, from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// Login user that `lane` makes on the host.
    pub user: String,
    /// Which addresses the firewall admits to port 22.
    pub allow_from: AllowFrom,
    /// More public keys for that user, in `authorized_keys` form.
    pub authorized_keys: Vec<String>,
}

/// Which addresses the firewall admits to port 22.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AllowFrom {
    /// The operator's own address, as seen from outside.
    Auto,
    /// These networks, in CIDR form.
    Cidrs(Vec<String>),
}

/// A folder of this machine, copied to the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Where it is here.
    pub folder: LocalFile,
    /// Where it goes there: an absolute path.
    pub to: String,
    /// Patterns in `.gitignore` form that stay here (and are kept there), beside those of `.gitignore` itself.
    pub exclude: Vec<String>,
}

/// A command run on the host in a source, or elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// A source's name to run in; else the user's home.
    pub in_source: Option<Name>,
    /// Shell command line, run by `bash -lc` as the login user.
    pub run: String,
    /// Variables; values may hold `${env:NAME}` of the operator's machine, resolved at the last moment.
    pub env: BTreeMap<String, String>,
    /// `JUnit` file that it leaves, relative to where it runs; brought back by `lane test`.
    pub junit: Option<String>,
    /// Own limit, else the one of [`Timeouts`].
    pub timeout: Option<Duration>,
}

/// A build: a command, and what of its outputs goes where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Build {
    /// What runs, and in which source.
    pub command: Run,
    /// Output (relative to where it runs) → absolute path on the host.
    pub install: BTreeMap<String, String>,
    /// More sources whose change re-runs this build.
    pub needs: Vec<Name>,
}

/// How a secret is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GenerateAs {
    /// Lowercase hexadecimal.
    Hex,
    /// Standard base64.
    Base64,
}

/// A secret made on the host at first use, which never leaves it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secret {
    /// How it is written.
    pub generate: GenerateAs,
    /// How many random bytes it holds.
    pub bytes: u32,
}

/// A file rendered to the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileTemplate {
    /// The minijinja template here.
    pub template: LocalFile,
    /// Octal permission bits.
    pub mode: u32,
    /// `user` or `user:group`.
    pub owner: String,
}

/// A systemd service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// The unit file here.
    pub unit: LocalFile,
    /// Services that are started before this one.
    pub after: Vec<Name>,
    /// Paths of `files` whose change restarts it (those that the unit names are found by themselves).
    pub needs: Vec<String>,
    /// Variables, given through a 0600 `EnvironmentFile`.
    pub env: BTreeMap<String, String>,
    /// How long it has to stay active before it counts as started.
    pub stable_for: Duration,
}

/// A cheap, repeatable readiness check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// What is checked.
    pub kind: ProbeKind,
    /// Services it waits for and re-runs with; with none named: all services (none for `kvm` and `seccomp`).
    pub needs: Vec<Name>,
    /// How long it may go on failing before that counts.
    pub timeout: Option<Duration>,
}

/// What a probe checks, from the host's own point of view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProbeKind {
    /// A guest runs under `/dev/kvm`.
    Kvm,
    /// A seccomp filter denies what it should, and nothing else.
    Seccomp,
    /// An HTTP GET answers with this status, and with this text in its body.
    Http {
        /// What is asked.
        url: String,
        /// Wanted status.
        expect: u16,
        /// Text that the body has to hold.
        contains: Option<String>,
    },
    /// A TCP connection opens.
    Tcp {
        /// `host:port`.
        address: String,
    },
    /// A unix socket accepts a connection.
    Unix {
        /// Its path.
        path: String,
    },
    /// A command exits with 0.
    Command {
        /// What runs, as for `smoke`.
        command: Run,
    },
    /// A unit is active.
    Systemd {
        /// Its name, with or without `.service`.
        unit: String,
    },
}

/// How long each kind of step may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "each is the limit of the step kind of its name")]
pub struct Timeouts {
    pub provision: Duration,
    pub ssh: Duration,
    pub cloud_init: Duration,
    pub sync: Duration,
    pub build: Duration,
    pub service: Duration,
    pub probe: Duration,
    pub smoke: Duration,
    pub tests: Duration,
    pub destroy: Duration,
}
