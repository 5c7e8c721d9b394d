//! `nspawn`: systemd-nspawn containers on this machine that boot real systemd, cloud-init and sshd.
//!
//! mmdebstrap builds an image once; a host is an overlay over it, a network namespace with a veth pair, and one nft
//! table. What exists is what the kernel and the folder show; every name of it follows from the host's id, and a
//! host's record is the first thing written and the last removed, so a `lane` killed at any instant leaves nothing
//! that `find` does not show and `destroy` does not take down.
//!
//! What it does to the machine beside that: `net.ipv4.ip_forward` is switched on and stays on.
//! The disk size and the firewall of a spec mean nothing here: the disk is this machine's, and only it sees the host.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::plan::{Digester, Fingerprint};
use crate::provider::{
    Account, CreateRequest, Entry, Host, HostId, HostStatus, KvmSupport, Label, Lineage, Link, Listed,
    Provider, ProviderError, Region, Residue, Selector, Sku,
};
use crate::world::{World, fs};

/// Keys of provider `nspawn`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// Packages that the image gets on top of lane's base set. Much faster than `packages:` in cloud-init: the image
    /// is built once.
    packages: Vec<String>,
    /// Release to build the image from (`trixie`, `bookworm`); else the one of the spec's `image`.
    release: Option<String>,
    /// Mirror to build the image from, `http://…` or `https://…`; it stays the host's mirror too. Else the
    /// distribution's own, with its security updates.
    mirror: Option<String>,
    /// Folder that keeps the built images; else `nspawn` in lane's cache.
    cache: Option<String>,
    /// Pool of addresses: each host takes a /30 of it that this machine does not use yet. Else `10.87.0.0/16`.
    subnet: Option<String>,
}

pub(crate) static ENTRY: Entry = Entry {
    name: NAME,
    about: "systemd-nspawn containers on this machine; real systemd, cloud-init and sshd in seconds (needs root)",
    credentials: &[],
    kept: &[],
    kept_beside: &[],
    stands_for_itself: &[],
    sign_in: "",
    files: |_| vec![],
    tools: &["systemd-nspawn", "mmdebstrap", "nft", "ip"],
    endpoint: |_, _| String::new(),
    default_sku: Sku::fixed("container"),
    default_region: Region::fixed("local"),
    default_image: "debian-13",
    listing_lag: Duration::ZERO,
    // The first host of a kind waits for its image.
    provision_timeout: Duration::from_mins(15),
    user_data_limit: 1 << 20,
    cloud_clock: false,
    timer_stops_bill: true,
    region_key: "region",
    init_keys: || "  packages: [curl]        # Debian packages in the image\n".to_owned(),
    schema: |generator| generator.subschema_for::<Config>(),
    kvm: |_| KvmSupport::Unknown,
    prices: &[Listed::new("container", "", 0, "USD", "your own machine")],
    connect,
};

const NAME: &str = "nspawn";

/// What every image holds: an init, cloud-init, sshd, and what runs over SSH.
const BASE_PACKAGES: &[&str] = &[
    "ca-certificates",
    "cloud-init",
    "curl",
    "dbus",
    "iproute2",
    "openssh-server",
    "procps",
    "python3",
    "rsync",
    "sudo",
    "systemd",
    "systemd-sysv",
    // Does not run in a container, but brings the groups of devices: `kvm`.
    "udev",
    "util-linux",
];

/// Plain image name and release.
const RELEASES: &[(&str, &str)] = &[("debian-13", "trixie"), ("debian-12", "bookworm")];

const BUILD: &str = include_str!("nspawn/build.sh");
const START: &str = include_str!("nspawn/start.sh");

/// Tools by package: for making a host, and the fewer for taking one down.
const CREATE_TOOLS: &[(&str, &str)] = &[
    ("systemd-nspawn", "systemd-container"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("unshare", "util-linux"),
    ("setsid", "util-linux"),
    ("flock", "util-linux"),
    ("mount", "mount"),
];
const DESTROY_TOOLS: &[(&str, &str)] = &[("ip", "iproute2"), ("nft", "nftables"), ("umount", "mount")];

/// Asked where this machine names no server that answers a container too.
const PUBLIC_NAMESERVERS: [Ipv4Addr; 2] = [Ipv4Addr::new(9, 9, 9, 9), Ipv4Addr::new(1, 1, 1, 1)];

const PROXIES: [&str; 6] = ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];

/// One lock for all folders of hosts: they share this machine's addresses.
const LOCK: &str = "/run/lane-nspawn.lock";

/// Where cgroup v2, v1 with systemd's own hierarchy, and both at once are mounted.
const CGROUPS: [&str; 3] = ["/sys/fs/cgroup", "/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"];

/// Where systemd-nspawn keeps a folder per machine, which it leaves when it is killed.
const RUNTIME: [&str; 2] = ["/run/systemd/nspawn/propagate", "/run/systemd/nspawn/unix-export"];

fn rejected(operation: &'static str, message: impl Into<String>) -> ProviderError {
    ProviderError::Rejected { provider: NAME, operation, message: message.into() }
}

fn transient(operation: &'static str, message: impl Into<String>) -> ProviderError {
    ProviderError::Transient { provider: NAME, operation, message: message.into() }
}

fn unavailable(message: impl Into<String>, remedy: impl Into<String>) -> ProviderError {
    ProviderError::Unavailable { provider: NAME, message: message.into(), remedy: remedy.into() }
}

fn connect(
    world: &World,
    config: &serde_json::Value,
    _link: Link,
) -> Result<Box<dyn Provider>, ProviderError> {
    Ok(Box::new(Nspawn::new(world, config)?))
}

/// Where hosts are, unless `LANE_NSPAWN_DIR` names another folder.
const HOSTS: &str = "/var/lib/lane/nspawn";

#[derive(Debug)]
struct Nspawn {
    config: Config,
    pool: Pool,
    images: String,
    hosts: String,
    path: String,
    world: World,
}

/// A host's record, written before anything of it exists.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Card {
    label: Label,
    sku: Sku,
    region: Region,
    image: String,
    fingerprint: Fingerprint,
    created_at: Timestamp,
    expires_at: Timestamp,
    /// First address of its /30: the machine has the next one, the host the one after that.
    subnet: Ipv4Addr,
    creator: Creator,
}

impl Card {
    fn address(&self, last: u32) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.subnet.to_bits() + last)
    }
}

/// The process that makes a host; with its start time, since process ids are used again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Creator {
    pid: u32,
    started: u64,
}

/// All names of one host; they follow from its id, so nothing has to be remembered to take it down.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Site {
    id: String,
    /// Name of the machine, of its veth on this side and of its control group. Not `ve-…`: systemd-networkd has a
    /// default rule that takes those links over.
    machine: String,
    table: String,
    card: PathBuf,
    folder: String,
}

impl Site {
    /// Returns the host of this id, if it is one of ours: `lane-<name>-<lineage8>`.
    fn new(hosts: &str, id: &str) -> Option<Self> {
        let (_, lineage8) = words_of(id)?;
        Some(Self {
            id: id.to_owned(),
            machine: format!("ln-{lineage8}"),
            table: format!("lane_{lineage8}"),
            card: PathBuf::from(format!("{hosts}/{id}.json")),
            folder: format!("{hosts}/{id}"),
        })
    }

    fn kvm_node(&self) -> String {
        format!("/dev/{}-kvm", self.machine)
    }

    fn root(&self) -> String {
        format!("{}/fs/root", self.folder)
    }

    fn netns(&self) -> String {
        format!("{}/netns", self.folder)
    }

    fn console(&self) -> PathBuf {
        Path::new(&self.folder).join("console.log")
    }
}

fn is_lineage8(text: &str) -> bool {
    text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// Reads a host's id as a lane's name and the end of its lineage.
fn words_of(id: &str) -> Option<(&str, &str)> {
    let words @ (lane, lineage8) = id.strip_prefix("lane-")?.rsplit_once('-')?;
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    (!lane.is_empty() && lane.bytes().all(plain) && is_lineage8(lineage8)).then_some(words)
}

/// Returns the part of a name of ours that is random.
fn last8(name: &str) -> &str {
    name.get(name.len().saturating_sub(8)..).unwrap_or(name)
}

/// Something that a host is made of, in the order in which it is taken away.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    /// Runs inside the container.
    Inner(u32),
    /// systemd-nspawn itself.
    Supervisor(u32),
    Mount(String),
    Link(String),
    Table(String),
    Cgroup(String),
    Node(String),
    Folder(String),
    Card(String),
}

impl Part {
    fn residue(&self, owner: &str) -> Residue {
        let (kind, id) = match self {
            Self::Inner(pid) => ("process", pid.to_string()),
            Self::Supervisor(pid) => ("container", pid.to_string()),
            Self::Mount(path) => ("mount", path.clone()),
            Self::Link(name) => ("veth", name.clone()),
            Self::Table(name) => ("nft table", name.clone()),
            Self::Cgroup(path) => ("control group", path.clone()),
            Self::Node(path) => ("device node", path.clone()),
            Self::Folder(path) => ("folder", path.clone()),
            Self::Card(path) => ("record", path.clone()),
        };
        let detail = format!("of {owner}, on this machine");
        let (label, created_at, expires_at) = (None, None, None);
        Residue { kind: kind.to_owned(), id, detail, host: HostId::new(owner), label, created_at, expires_at }
    }
}

/// Whose parts are looked for.
#[derive(Debug, Clone, Copy)]
enum Scope<'a> {
    One(&'a Site),
    All,
}

impl Scope<'_> {
    fn id(self, id: &str) -> bool {
        match self {
            Self::One(site) => site.id == id,
            Self::All => words_of(id).is_some(),
        }
    }

    fn lineage8(self, lineage8: &str) -> bool {
        match self {
            Self::One(site) => site.machine.strip_prefix("ln-") == Some(lineage8),
            Self::All => is_lineage8(lineage8),
        }
    }

    /// Whether this is a machine's name (`ln-<lineage8>`) that is looked for.
    fn machine(self, name: &str) -> bool {
        name.strip_prefix("ln-").is_some_and(|lineage8| self.lineage8(lineage8))
    }
}

/// Addresses that hosts are given, as /30s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pool {
    first: u32,
    prefix: u32,
}

impl Pool {
    fn parse(text: &str) -> Option<Self> {
        let (first, prefix) = parse_network(text)?;
        ((8..=30).contains(&prefix) && first.trailing_zeros() >= 32 - prefix)
            .then_some(Self { first, prefix })
    }

    /// Returns the first /30 that overlaps none of these networks.
    ///
    /// Networks wider than the pool do not count: the /30 is the more specific route, and a pool inside of, say, a
    /// company's 10.0.0.0/8 is chosen on purpose.
    fn free(self, taken: &[(u32, u32)]) -> Option<Ipv4Addr> {
        let last = |(first, prefix): (u32, u32)| u64::from(first) + (1 << (32 - prefix));
        let taken: Vec<_> = taken.iter().copied().filter(|(_, prefix)| *prefix >= self.prefix).collect();
        let overlaps = |subnet: u32| {
            let end = u64::from(subnet) + 4;
            taken.iter().any(|network| u64::from(subnet) < last(*network) && u64::from(network.0) < end)
        };
        (0..1_u32 << (30 - self.prefix))
            .map(|index| self.first + index * 4)
            .find(|subnet| !overlaps(*subnet))
            .map(Ipv4Addr::from_bits)
    }
}

/// Reads `a.b.c.d` or `a.b.c.d/n`.
fn parse_network(text: &str) -> Option<(u32, u32)> {
    let (address, prefix) = text.split_once('/').unwrap_or((text, "32"));
    let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
    Some((address.parse::<Ipv4Addr>().ok()?.to_bits(), prefix))
}

/// What an image is built from; its name says it all.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Recipe {
    release: &'static str,
    packages: String,
    mirror: Option<String>,
}

impl Recipe {
    fn name(&self) -> String {
        let mut digester = Digester::new("nspawn-image");
        // The script is the recipe's version: another script, another image.
        for part in [BUILD, self.release, &self.packages] {
            digester.field(part.as_bytes());
        }
        digester.field(self.mirror.as_deref().unwrap_or_default().as_bytes());
        format!("{}-{}", self.release, digester.finish().short())
    }
}

impl Nspawn {
    fn new(world: &World, config: &serde_json::Value) -> Result<Self, ProviderError> {
        let wrong = |message: String| rejected("reading its keys", message);
        let config: Config =
            serde_json::from_value(config.clone()).map_err(|error| wrong(error.to_string()))?;
        let images = match &config.cache {
            Some(folder) => world.absolute(folder, world.cwd()),
            None => world.cwd().join(world.cache_dir()).join("nspawn"),
        };
        let hosts = world.absolute(world.var("LANE_NSPAWN_DIR").unwrap_or(HOSTS), world.cwd());
        let subnet = config.subnet.as_deref().unwrap_or("10.87.0.0/16");
        let pool = Pool::parse(subnet).ok_or_else(|| {
            wrong(format!("subnet {subnet:?} is no network of /8 to /30, as in 10.87.0.0/16"))
        })?;
        // mount(8) and systemd-nspawn split their options at these.
        let plain = |path: PathBuf| match path.into_os_string().into_string() {
            Ok(text)
                if !text.contains([',', ':', '\\', '"', '\'', '%'])
                    && !text.contains(char::is_whitespace) =>
            {
                Ok(text)
            }
            other => Err(wrong(format!(
                "{other:?} cannot hold hosts: its path has a blank or one of , : \\ \" ' %"
            ))),
        };
        let path = world.var("PATH").unwrap_or("/usr/bin:/bin");
        // `su` without `-` leaves the folders of system tools out.
        let path = format!("{path}:/usr/local/sbin:/usr/sbin:/sbin");
        Ok(Self { pool, images: plain(images)?, hosts: plain(hosts)?, path, world: world.clone(), config })
    }

    fn site(&self, id: &str, operation: &'static str) -> Result<Site, ProviderError> {
        Site::new(&self.hosts, id).ok_or_else(|| rejected(operation, format!("{id:?} is no host of lane's")))
    }

    fn has_tool(&self, tool: &str) -> bool {
        self.path.split(':').any(|folder| fs::exists(&Path::new(folder).join(tool)))
    }

    /// Checks for root and tools; whoever only looks needs neither.
    fn ready(&self, tools: &[(&str, &str)]) -> Result<(), ProviderError> {
        let missing: BTreeSet<&str> =
            tools.iter().filter(|(tool, _)| !self.has_tool(tool)).map(|(_, package)| *package).collect();
        if !missing.is_empty() {
            let packages = missing.into_iter().collect::<Vec<_>>().join(" ");
            return Err(unavailable(
                format!("this machine lacks {packages}"),
                format!("sudo apt-get install -y {packages}"),
            ));
        }
        if is_root() { Ok(()) } else { Err(unavailable("containers need root", "run lane with sudo")) }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = self.world.command(program);
        // Packages may come through a proxy.
        let proxies = PROXIES.iter().filter_map(|name| Some((name, self.world.var(name)?)));
        command.envs(proxies);
        // Its own process group: Ctrl-C in the terminal is for lane, which decides what to finish.
        command.env("PATH", &self.path).env("LC_ALL", "C.UTF-8").process_group(0).stdin(Stdio::null());
        command
    }

    /// Runs a tool to its end, without a shell; an error holds what it said.
    async fn run(&self, words: &[&str]) -> Result<String, String> {
        self.feed(words, "").await
    }

    async fn feed(&self, words: &[&str], input: &str) -> Result<String, String> {
        let Some((program, args)) = words.split_first() else { return Ok(String::new()) };
        let mut command = self.command(program);
        command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let said = |error: std::io::Error| format!("{program}: {error}");
        let mut child = command.spawn().map_err(said)?;
        if let Some(mut pipe) = child.stdin.take() {
            // A tool that does not read what it is given says itself what is wrong.
            let _unread = tokio::io::AsyncWriteExt::write_all(&mut pipe, input.as_bytes()).await;
        }
        let output = child.wait_with_output().await.map_err(said)?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            let error = String::from_utf8_lossy(&output.stderr);
            Err(format!("`{}`: {} ({})", words.join(" "), error.trim_end(), output.status))
        }
    }

    fn recipe(&self, image: &str) -> Result<Recipe, ProviderError> {
        let choose = |message: String| rejected("choosing an image", message);
        let wanted = self.config.release.as_deref().unwrap_or(image);
        let found = RELEASES.iter().find(|(image, release)| wanted == *image || wanted == *release);
        let Some((_, release)) = found else {
            let known: Vec<_> =
                RELEASES.iter().map(|(image, release)| format!("{image} ({release})")).collect();
            return Err(choose(format!("no image {wanted:?}; there are {}", known.join(", "))));
        };
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '+' | '-');
        let own = &self.config.packages;
        if let Some(bad) =
            own.iter().find(|name| !name.starts_with(char::is_alphanumeric) || !name.chars().all(plain))
        {
            return Err(choose(format!("{bad:?} is no name of a Debian package")));
        }
        let mirror = self.config.mirror.clone();
        let http = |url: &String| {
            (url.starts_with("http://") || url.starts_with("https://")) && !url.contains(char::is_whitespace)
        };
        if let Some(bad) = mirror.as_ref().filter(|url| !http(url)) {
            return Err(choose(format!("mirror {bad:?} is no http:// or https:// address")));
        }
        let packages: BTreeSet<&str> =
            BASE_PACKAGES.iter().copied().chain(own.iter().map(String::as_str)).collect();
        let packages = packages.into_iter().collect::<Vec<_>>().join(",");
        Ok(Recipe { release, packages, mirror })
    }

    /// Returns the image's folder, built if need be.
    async fn image(&self, recipe: &Recipe) -> Result<String, ProviderError> {
        const BUILDING: &str = "building the image";
        let image = format!("{}/{}", self.images, recipe.name());
        if fs::exists(Path::new(&image)) {
            return Ok(image);
        }
        self.ready(&[("mmdebstrap", "mmdebstrap")])?;
        let keyring =
            |end| fs::exists(&Path::new("/usr/share/keyrings/debian-archive-keyring").with_extension(end));
        if !keyring("gpg") && !keyring("pgp") {
            return Err(unavailable(
                format!("this machine lacks the keys that {} is signed with", recipe.release),
                "sudo apt-get install -y debian-archive-keyring",
            ));
        }
        let broken = |error: std::io::Error| rejected(BUILDING, format!("{}: {error}", self.images));
        // Only root: an image holds setuid programs that no security update ever reaches.
        fs::create_dir_private(Path::new(&self.images)).map_err(broken)?;
        let lock = format!("{image}.lock");
        let mut words = vec!["setsid", "--wait", "flock", &lock, "sh", "-c", BUILD, "lane-image", &image];
        words.extend([recipe.release, &recipe.packages]);
        words.extend(recipe.mirror.as_deref());
        let built = self.run(&words).await;
        if built.is_ok() && fs::exists(Path::new(&image)) {
            return Ok(image);
        }
        let log = format!("{image}.log");
        let text = fs::read_optional(Path::new(&log)).ok().flatten().unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let message = format!("mmdebstrap failed; its log is {log}, which ends with\n{}", tail(&text, 12));
        // These stay wrong however often they are asked for; what the network does may pass.
        if ["Unable to locate package", "has no installation candidate", "NO_PUBKEY"]
            .iter()
            .any(|sign| text.contains(sign))
        {
            Err(rejected(BUILDING, message))
        } else {
            Err(transient(BUILDING, message))
        }
    }

    fn ids(&self) -> Result<Vec<String>, ProviderError> {
        let names = fs::list(Path::new(&self.hosts))
            .map_err(|error| transient("listing hosts", format!("{}: {error}", self.hosts)))?;
        let ids = names.iter().filter_map(|name| name.strip_suffix(".json"));
        Ok(ids.filter(|id| words_of(id).is_some()).map(str::to_owned).collect())
    }

    fn card(site: &Site) -> Result<Option<Card>, ProviderError> {
        let file = site.card.display();
        let read = fs::read_optional(&site.card)
            .map_err(|error| transient("reading a host's record", format!("{file}: {error}")))?;
        let Some(bytes) = read else { return Ok(None) };
        let card = serde_json::from_slice(&bytes)
            .map_err(|error| rejected("reading a host's record", format!("{file} is damaged: {error}")))?;
        Ok(Some(card))
    }

    /// Lists networks that are in use here, hosts without a link included.
    async fn taken(&self) -> Result<Vec<(u32, u32)>, String> {
        let mut taken = Vec::new();
        for id in self.ids().map_err(|error| error.to_string())? {
            if let Some(Ok(Some(card))) = Site::new(&self.hosts, &id).map(|site| Self::card(&site)) {
                taken.push((card.subnet.to_bits(), 30));
            }
        }
        let json = |text: String| {
            serde_json::from_str::<Vec<serde_json::Value>>(&text).map_err(|error| error.to_string())
        };
        for link in json(self.run(&["ip", "-j", "-4", "address", "show"]).await?)? {
            for address in link["addr_info"].as_array().into_iter().flatten() {
                let text =
                    format!("{}/{}", address["local"].as_str().unwrap_or_default(), address["prefixlen"]);
                taken.extend(parse_network(&text).map(|(first, prefix)| (first & mask(prefix), prefix)));
            }
        }
        for route in json(self.run(&["ip", "-j", "-4", "route", "show", "table", "all"]).await?)? {
            taken.extend(route["dst"].as_str().and_then(parse_network));
        }
        Ok(taken)
    }

    /// Makes a host of a request: its record first, then what the record stands for.
    async fn make(&self, site: &Site, request: &CreateRequest, image: &str) -> Result<(), Failed> {
        const MAKING: &str = "making the host";
        let before = |message: String| Failed { error: transient(MAKING, message), begun: false };
        let after = |message: String| Failed { error: transient(MAKING, message), begun: true };
        let lock = tokio::task::spawn_blocking(|| {
            let lock = fs::open_lock(Path::new(LOCK))?;
            lock.lock().map(|()| lock)
        });
        let lock = lock
            .await
            .map_err(std::io::Error::other)
            .flatten()
            .map_err(|error| before(format!("{LOCK}: {error}")))?;
        let io = |error: std::io::Error| format!("{}: {error}", self.hosts);
        fs::create_dir_all(Path::new(&self.hosts)).map_err(|error| before(io(error)))?;
        self.sweep_torn();
        if fs::exists(&site.card) {
            let error = rejected(MAKING, format!("there is a host {} already", site.id));
            return Err(Failed { error, begun: false });
        }
        let taken = self.taken().await.map_err(before)?;
        let subnet = self.pool.free(&taken).ok_or_else(|| Failed {
            error: ProviderError::Capacity {
                provider: NAME,
                message:
                    "this machine uses every /30 of the pool; `provider.subnet` in the spec names another"
                        .to_owned(),
            },
            begun: false,
        })?;
        let pid = std::process::id();
        let card = Card {
            label: request.label.clone(),
            sku: request.sku.clone(),
            region: request.region.clone(),
            image: image.to_owned(),
            fingerprint: request.fingerprint.clone(),
            created_at: self.world.now(),
            expires_at: request.expires_at,
            subnet,
            creator: Creator { pid, started: started(pid).unwrap_or_default() },
        };
        let text = serde_json::to_vec_pretty(&card).map_err(|error| before(error.to_string()))?;
        fs::write_atomic(&site.card, &text, fs::Mode::Public).map_err(|error| before(io(error)))?;

        self.make_network(site, &card).await.map_err(after)?;
        // The addresses are to be seen from here on.
        drop(lock);
        self.make_root(site, &card, request).await.map_err(after)?;
        let kvm = if request.kvm { self.make_kvm_node(site, image).await.map_err(after)? } else { None };
        self.start(site, kvm).await.map_err(after)
    }

    async fn make_network(&self, site: &Site, card: &Card) -> Result<(), String> {
        let io = |error: std::io::Error| format!("{}: {error}", site.folder);
        self.run(&["mkdir", "--mode=0755", &site.folder]).await?;
        let netns = site.netns();
        fs::write_atomic(Path::new(&netns), b"", fs::Mode::Private).map_err(io)?;
        // In a folder, not by `ip netns`, which would leave a mount of its own on the machine. Both ends of the link
        // are there before the container: a host whose container runs is complete, and may be adopted.
        self.run(&["unshare", &format!("--net={netns}"), "true"]).await?;
        let (machine, own) = (site.machine.as_str(), std::process::id().to_string());
        let inside = format!("--net={netns}");
        let pair = ["ip", "link", "add", "host0", "type", "veth", "peer", "name", machine, "netns", &own];
        self.run(&[&["nsenter", inside.as_str()], &pair[..]].concat()).await?;
        let gateway = format!("{}/30", card.address(1));
        self.run(&["ip", "address", "add", &gateway, "dev", machine]).await?;
        // What links and tables are called does not tell whose they are once the rest is gone; this does.
        self.run(&["ip", "link", "set", "dev", machine, "alias", &site.folder, "up"]).await?;
        let (table, subnet) = (&site.table, card.subnet);
        // nft takes no longer one.
        let fits = site.folder.len() < 128;
        let comment = if fits { format!("comment \"{}\"; ", site.folder) } else { String::new() };
        let rules = format!(
            "table ip {table} {{ {comment}chain postrouting {{ type nat hook postrouting priority 100; \
             ip saddr {subnet}/30 oifname != \"{machine}\" masquerade; }}; }}\n"
        );
        self.feed(&["nft", "-f", "-"], &rules).await?;
        let forward = "/proc/sys/net/ipv4/ip_forward";
        if fs::read(Path::new(forward)).map_err(|error| format!("{forward}: {error}"))?.starts_with(b"0") {
            self.run(&["sh", "-c", &format!("echo 1 >{forward}")]).await?;
        }
        Ok(())
    }

    async fn make_root(&self, site: &Site, card: &Card, request: &CreateRequest) -> Result<(), String> {
        let io = |error: std::io::Error| format!("{}: {error}", site.folder);
        let (folder, root) = (format!("{}/fs", site.folder), site.root());
        // Closed to others: below are setuid programs and, in the user-data, the host's private key.
        self.run(&["mkdir", "--mode=0700", &folder]).await?;
        let (upper, work) = (format!("{folder}/upper"), format!("{folder}/work"));
        self.run(&["mkdir", "--mode=0755", &upper, &work, &root]).await?;
        let layers = format!("lowerdir={},upperdir={upper},workdir={work}", card.image);
        self.run(&["mount", "-t", "overlay", &site.machine, "-o", &layers, &root]).await.map_err(|error| {
            format!("{error}; an overlay cannot lie on an overlay: LANE_NSPAWN_DIR names another folder for hosts")
        })?;
        let servers = nameservers();
        let host = host_name(&card.label);
        let seed = Path::new(&root).join("var/lib/cloud/seed/nocloud");
        fs::create_dir_all(&seed).map_err(io)?;
        let network = serde_json::json!({"version": 2, "ethernets": {"host0": {
            "addresses": [format!("{}/30", card.address(2))],
            "routes": [{"to": "0.0.0.0/0", "via": card.address(1)}],
            "nameservers": {"addresses": servers},
        }}});
        let meta = serde_json::json!({
            "instance-id": format!("{}-{}", site.id, card.created_at.as_second()),
            "local-hostname": host,
        });
        let resolv =
            servers.iter().fold(String::new(), |text, server| text + &format!("nameserver {server}\n"));
        let known =
            format!("127.0.0.1 localhost\n127.0.1.1 {host}\n::1 localhost ip6-localhost ip6-loopback\n");
        for (name, text, mode) in [
            ("var/lib/cloud/seed/nocloud/user-data", request.user_data.as_str(), fs::Mode::Private),
            ("var/lib/cloud/seed/nocloud/meta-data", &meta.to_string(), fs::Mode::Private),
            ("var/lib/cloud/seed/nocloud/network-config", &network.to_string(), fs::Mode::Private),
            ("etc/resolv.conf", &resolv, fs::Mode::Public),
            // Or sudo asks the name servers for its own host's name, each time.
            ("etc/hosts", &known, fs::Mode::Public),
        ] {
            fs::write_atomic(&Path::new(&root).join(name), text.as_bytes(), mode).map_err(io)?;
        }
        Ok(())
    }

    /// Gives the container a node of its own for `/dev/kvm`, if there is one here.
    ///
    /// Bound in directly, the node would be this machine's inode: systemd-tmpfiles inside sets its group and mode,
    /// and so would change them out here. Its own node belongs to the group `kvm` of the image, so membership of
    /// that is enough inside, whatever the mode is out here. It lies in /dev since systemd allows no device elsewhere.
    async fn make_kvm_node(&self, site: &Site, image: &str) -> Result<Option<String>, String> {
        let there = fs::metadata(Path::new("/dev/kvm")).is_ok_and(|node| node.file_type().is_char_device());
        if !there {
            return Ok(None);
        }
        let node = site.kvm_node();
        self.run(&["mknod", "--mode=0660", &node, "c", "10", "232"]).await?;
        let groups = fs::read(&Path::new(image).join("etc/group")).unwrap_or_default();
        if let Some(gid) = gid_of(&String::from_utf8_lossy(&groups), "kvm") {
            self.run(&["chown", &format!("0:{gid}"), &node]).await?;
        }
        Ok(Some(format!("--bind={node}:/dev/kvm")))
    }

    /// Boots the container and returns once its init runs.
    async fn start(&self, site: &Site, kvm: Option<String>) -> Result<(), String> {
        let path = site.console();
        let io = |error: std::io::Error| format!("{}: {error}", path.display());
        let console = fs::open_append(&path).map_err(io)?;
        // Not by `command`: setsid turns this very process into the session only if it leads no group yet.
        let mut command = self.world.command("setsid");
        command.env("PATH", &self.path).stdin(Stdio::null());
        command.args(["sh", "-c", START, "lane-start", &site.machine]);
        command.args(["systemd-nspawn", "--boot", "--settings=no", "--link-journal=no", "--timezone=off"]);
        command.args(["--resolv-conf=off", "--console=read-only", "--capability=CAP_NET_ADMIN"]);
        command.arg(format!("--network-namespace-path={}", site.netns()));
        command.arg(format!("--directory={}", site.root()));
        command.args(kvm);
        if !fs::exists(Path::new("/run/systemd/system")) {
            // Nobody is there to register with, or to make a scope.
            command.args(["--register=no", "--keep-unit"]);
        }
        command.arg(format!("--machine={}", site.machine));
        command.stdout(console.try_clone().map_err(io)?).stderr(console);
        let mut child = command.spawn().map_err(|error| format!("setsid: {error}"))?;
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let ended = child.try_wait().map_err(|error| format!("systemd-nspawn: {error}"))?;
            if ended.is_none() && !self.inner(Scope::One(site)).is_empty() {
                return Ok(());
            }
            if ended.is_some() || Instant::now() >= deadline {
                let text = fs::read(&path).unwrap_or_default();
                let how = ended.map_or_else(
                    || "does not boot within 20 s".to_owned(),
                    |status| format!("ended at once ({status})"),
                );
                return Err(format!(
                    "the container {how}; it said\n{}",
                    tail(&String::from_utf8_lossy(&text), 8)
                ));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Lists processes inside containers: those whose root folder is a host's overlay.
    fn inner(&self, scope: Scope<'_>) -> Vec<(String, Part)> {
        let id = |pid| root_of(&self.hosts, &of_process(pid, "mountinfo")).filter(|id| scope.id(id));
        pids().into_iter().filter_map(|pid| Some((id(pid)?, Part::Inner(pid)))).collect()
    }

    /// Lists whatever exists of one host, or of all, in the order of its removal.
    ///
    /// Tables are seen by root alone; for anybody else there seem to be none.
    async fn parts(&self, scope: Scope<'_>) -> Result<Vec<(String, Part)>, ProviderError> {
        let mut found = self.inner(scope);
        found.extend(supervisors(scope));
        let hosts = format!("{}/", self.hosts);
        let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
        let of_nspawn = |path: &str| {
            RUNTIME
                .iter()
                .any(|folder| path.strip_prefix(folder).is_some_and(|rest| rest.starts_with("/ln-")))
        };
        let mounts = fs::read(Path::new("/proc/self/mountinfo"))
            .map_err(|error| transient("listing mounts", format!("/proc/self/mountinfo: {error}")))?;
        for path in String::from_utf8_lossy(&mounts).lines().filter_map(|line| line.split(' ').nth(4)) {
            let id = path.strip_prefix(&hosts).map(|rest| rest.split('/').next().unwrap_or_default());
            if let Some(id) = id.filter(|id| scope.id(id)) {
                found.push((id.to_owned(), Part::Mount(path.to_owned())));
            } else if of_nspawn(path) && scope.machine(&last(path)) {
                found.push((last(path), Part::Mount(path.to_owned())));
            }
        }
        let named = |folder: &str| fs::list(Path::new(folder)).unwrap_or_default();
        let machines = |folder: &str| named(folder).into_iter().filter(|name| scope.machine(name));
        found.extend(machines("/sys/class/net").map(|name| (name.clone(), Part::Link(name))));
        for folder in CGROUPS {
            found.extend(
                machines(folder).map(|name| (name.clone(), Part::Cgroup(format!("{folder}/{name}")))),
            );
        }
        for folder in RUNTIME {
            found.extend(
                machines(folder).map(|name| (name.clone(), Part::Folder(format!("{folder}/{name}")))),
            );
        }
        for name in named("/dev") {
            if let Some(machine) = name.strip_suffix("-kvm").filter(|machine| scope.machine(machine)) {
                found.push((machine.to_owned(), Part::Node(format!("/dev/{name}"))));
            }
        }
        if is_root() && self.has_tool("nft") {
            let tables = self.run(&["nft", "list", "tables", "ip"]).await;
            for name in tables.map_err(|error| transient("listing nft tables", error))?.lines() {
                let Some(name) = name.strip_prefix("table ip ") else { continue };
                if name.strip_prefix("lane_").is_some_and(|lineage8| scope.lineage8(lineage8)) {
                    found.push((name.to_owned(), Part::Table(name.to_owned())));
                }
            }
        }
        let names = fs::list(Path::new(&self.hosts))
            .map_err(|error| transient("listing hosts", format!("{}: {error}", self.hosts)))?;
        for name in names {
            let path = format!("{hosts}{name}");
            match name.strip_suffix(".json") {
                Some(id) if scope.id(id) => found.push((id.to_owned(), Part::Card(path))),
                None if scope.id(&name) => found.push((name, Part::Folder(path))),
                _ => {}
            }
        }
        found.sort_by(|(_, one), (_, other)| one.cmp(other));
        Ok(found)
    }

    /// Returns the hosts of these parts by the last 8 characters of their ids: what lies in the folder of hosts, or says
    /// that it belongs there. A name alone proves nothing: `ln-gateways` may be anybody's, and another folder's hosts
    /// are another's.
    async fn owners(&self, parts: &[(String, Part)]) -> BTreeMap<String, String> {
        let mut owners = BTreeMap::new();
        for (name, part) in parts {
            let id = match part {
                Part::Link(link) => self.host_in(&read_text(&format!("/sys/class/net/{link}/ifalias"))),
                Part::Table(table) => {
                    let text = self.run(&["nft", "list", "table", "ip", table]).await.unwrap_or_default();
                    let comment = text.lines().find_map(|line| line.trim().strip_prefix("comment \""));
                    comment.and_then(|comment| self.host_in(comment.trim_end_matches('"')))
                }
                _ => Some(name.clone()),
            };
            if let Some(id) =
                id.filter(|id| words_of(id).is_some_and(|(_, lineage8)| lineage8 == last8(name)))
            {
                owners.entry(last8(name).to_owned()).or_insert(id);
            }
        }
        owners
    }

    /// Returns the id of the host that this is the folder of, if it lies among ours.
    fn host_in(&self, folder: &str) -> Option<String> {
        folder.trim().strip_prefix(&self.hosts)?.strip_prefix('/').map(str::to_owned)
    }

    /// Removes what records torn by a kill left; records are written under the lock, so this runs under it too.
    fn sweep_torn(&self) {
        let hosts = Path::new(&self.hosts);
        for name in fs::list(hosts).unwrap_or_default().iter().filter(|name| name.starts_with(".lane-")) {
            // A few bytes that nothing reads: the next one tries again.
            let _kept = fs::remove_file(&hosts.join(name));
        }
    }

    /// Takes away what exists of a host until a look at the machine finds nothing more of it.
    async fn remove(&self, site: &Site) -> Result<(), ProviderError> {
        let begun = Instant::now();
        let mut said = String::new();
        loop {
            let parts: Vec<Part> =
                self.parts(Scope::One(site)).await?.into_iter().map(|(_, part)| part).collect();
            if parts.is_empty() {
                if let Ok(lock) = fs::open_lock(Path::new(LOCK))
                    && lock.try_lock().is_ok()
                {
                    self.sweep_torn();
                }
                return Ok(());
            }
            let elapsed = begun.elapsed();
            if elapsed > Duration::from_secs(20) {
                let left: Vec<String> = parts
                    .iter()
                    .map(|part| part.residue(&site.id))
                    .map(|left| format!("{} {}", left.kind, left.id))
                    .collect();
                return Err(transient(
                    "destroying the host",
                    format!("{} is still there: {said}", left.join(", ")),
                ));
            }
            if let Err(error) = self.remove_once(&parts, elapsed).await {
                said = error;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Takes away the parts of the first kind there is; a later kind may still be in use by an earlier one.
    async fn remove_once(&self, parts: &[Part], elapsed: Duration) -> Result<(), String> {
        // The container's own processes first: systemd-nspawn then tidies up after itself, and is killed only if it
        // does not. No orderly shutdown: nothing in there is meant to outlive it.
        let patient = elapsed < Duration::from_secs(2);
        let inner = parts.iter().any(|part| matches!(part, Part::Inner(_)));
        let pids: Vec<String> = parts
            .iter()
            .filter_map(|part| match part {
                Part::Inner(pid) => Some(pid.to_string()),
                Part::Supervisor(pid) if !patient && !inner => Some(pid.to_string()),
                _ => None,
            })
            .collect();
        if parts.iter().any(|part| matches!(part, Part::Inner(_) | Part::Supervisor(_))) {
            let mut words = vec!["sh", "-c", "[ $# = 0 ] || kill -KILL \"$@\"", "kill"];
            words.extend(pids.iter().map(String::as_str));
            return self.run(&words).await.map(drop);
        }
        let mounts: Vec<&str> = parts
            .iter()
            .rev()
            .filter_map(|part| if let Part::Mount(path) = part { Some(path.as_str()) } else { None })
            .collect();
        if !mounts.is_empty() {
            // Deepest first. A mount that stays busy for seconds is somebody's shell in there.
            let lazy: &[&str] =
                if elapsed < Duration::from_secs(5) { &["umount"] } else { &["umount", "--lazy"] };
            return self.run(&[lazy, &mounts].concat()).await.map(drop);
        }
        for part in parts {
            match part {
                Part::Link(name) => self.run(&["ip", "link", "delete", name]).await.map(drop)?,
                Part::Table(name) => self.run(&["nft", "delete", "table", "ip", name]).await.map(drop)?,
                Part::Cgroup(path) => {
                    self.run(&["find", path, "-depth", "-type", "d", "-delete"]).await.map(drop)?;
                }
                Part::Folder(path) => {
                    // A container may leave files that cannot be changed (chattr +i): let that tool say so.
                    self.run(&["rm", "-rf", "--one-file-system", path]).await.map(drop)?;
                }
                Part::Node(path) | Part::Card(path) => {
                    fs::remove_file(Path::new(path)).map_err(|error| format!("{path}: {error}"))?;
                }
                Part::Inner(_) | Part::Supervisor(_) | Part::Mount(_) => {}
            }
        }
        Ok(())
    }

    fn host(site: &Site, card: Card) -> Host {
        let runs = !supervisors(Scope::One(site)).is_empty();
        // Between the record and the container, as long as its maker lives.
        let maker = started(card.creator.pid) == Some(card.creator.started);
        let status = match (runs, maker && !fs::exists(&site.console())) {
            (true, _) => HostStatus::Running,
            (false, true) => HostStatus::Starting,
            (false, false) => HostStatus::Stopped,
        };
        Host {
            id: HostId::new(site.id.clone()),
            status,
            address: Some(IpAddr::V4(card.address(2))),
            ssh_port: 22,
            sku: card.sku,
            region: card.region,
            fingerprint: Some(card.fingerprint),
            created_at: Some(card.created_at),
            expires_at: Some(card.expires_at),
            label: card.label,
        }
    }
}

/// A create that failed, and whether there may be anything of the host.
#[derive(Debug)]
struct Failed {
    error: ProviderError,
    begun: bool,
}

/// Whether this process may do what only root may, by its effective user.
fn is_root() -> bool {
    let status = fs::read(Path::new("/proc/self/status")).unwrap_or_default();
    let status = String::from_utf8_lossy(&status).into_owned();
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    ids.and_then(|ids| ids.split_whitespace().nth(1)) == Some("0")
}

fn read_text(path: &str) -> String {
    String::from_utf8_lossy(&fs::read(Path::new(path)).unwrap_or_default()).into_owned()
}

fn pids() -> Vec<u32> {
    fs::list(Path::new("/proc")).unwrap_or_default().iter().filter_map(|name| name.parse().ok()).collect()
}

/// Reads a file of proc(5); a process that ended meanwhile, or that is not ours to look at, has nothing in it.
fn of_process(pid: u32, file: &str) -> String {
    let bytes = fs::read(Path::new(&format!("/proc/{pid}/{file}"))).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Lists running systemd-nspawns by their command lines; recorded process ids could have been used again.
fn supervisors(scope: Scope<'_>) -> Vec<(String, Part)> {
    let machine = |pid| supervised(&of_process(pid, "cmdline")).filter(|machine| scope.machine(machine));
    pids().into_iter().filter_map(|pid| Some((machine(pid)?, Part::Supervisor(pid)))).collect()
}

/// Returns when a process began, in clock ticks since boot (`proc_pid_stat(5)`, field 22).
fn started(pid: u32) -> Option<u64> {
    let stat = of_process(pid, "stat");
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

/// Returns the machine that a command line runs or is about to run, through `setsid` and `sh` too.
fn supervised(cmdline: &str) -> Option<String> {
    let words: Vec<&str> = cmdline.split('\0').collect();
    let nspawn = words.iter().position(|word| word.rsplit('/').next() == Some("systemd-nspawn"))?;
    words[nspawn..].iter().find_map(|word| word.strip_prefix("--machine=")).map(str::to_owned)
}

/// Returns the id of the host whose overlay is the root folder of a process, by its `mountinfo`.
fn root_of(hosts: &str, mountinfo: &str) -> Option<String> {
    let upper = format!("upperdir={hosts}/");
    let roots = mountinfo.lines().filter(|line| line.split(' ').nth(4) == Some("/"));
    let mut options = roots.filter_map(|line| line.rsplit(' ').next()).flat_map(|options| options.split(','));
    let id = options.find_map(|option| option.strip_prefix(&upper)?.strip_suffix("/fs/upper"))?;
    Some(id.to_owned())
}

fn mask(prefix: u32) -> u32 {
    u32::MAX.checked_shl(32 - prefix).unwrap_or(0)
}

fn gid_of(groups: &str, name: &str) -> Option<u32> {
    let fields = groups.lines().map(|line| line.split(':').collect::<Vec<_>>());
    fields.into_iter().find(|fields| fields.first() == Some(&name))?.get(2)?.parse().ok()
}

/// A lane's name as a host's name: both have letters, digits and `-`, a lane's may have `.` and `_` too.
fn host_name(label: &Label) -> String {
    label.lane.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect()
}

/// Name servers for a host: this machine's, unless they answer only here; then those behind them; then public ones.
fn nameservers() -> Vec<Ipv4Addr> {
    let read = |path: &str| {
        let text = fs::read_optional(Path::new(path)).ok().flatten().unwrap_or_default();
        reachable_nameservers(&String::from_utf8_lossy(&text))
    };
    ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"]
        .into_iter()
        .map(read)
        .find(|servers| !servers.is_empty())
        .unwrap_or_else(|| PUBLIC_NAMESERVERS.to_vec())
}

fn reachable_nameservers(resolv_conf: &str) -> Vec<Ipv4Addr> {
    let named = resolv_conf.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    named
        .filter_map(|rest| rest.trim().parse().ok())
        .filter(|server: &Ipv4Addr| !server.is_loopback())
        .collect()
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.trim_end().lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[async_trait]
impl Provider for Nspawn {
    async fn whoami(&self) -> Result<Account, ProviderError> {
        self.ready(CREATE_TOOLS)?;
        Ok(Account { account: "root".to_owned(), project: None, credentials: "none are needed".to_owned() })
    }

    async fn create(&self, request: &CreateRequest) -> Result<HostId, ProviderError> {
        for (what, given, only) in [
            ("sku", request.sku.as_str(), &ENTRY.default_sku.to_string()),
            ("region", request.region.as_str(), &ENTRY.default_region.to_string()),
        ] {
            if given != only {
                return Err(rejected(
                    "making the host",
                    format!("no {what} {given:?}; there is only `{only}`"),
                ));
            }
        }
        let site = self.site(&request.label.to_string(), "making the host")?;
        let recipe = self.recipe(&request.image)?;
        self.ready(CREATE_TOOLS)?;
        let image = self.image(&recipe).await?;
        let Err(failed) = self.make(&site, request, &image).await else { return Ok(HostId::new(site.id)) };
        if failed.begun
            && let Err(left) = self.remove(&site).await
        {
            return Err(ProviderError::Ambiguous {
                provider: NAME,
                operation: "making the host",
                message: format!("{}; {left}", failed.error),
            });
        }
        Err(failed.error)
    }

    async fn find(&self, selector: &Selector) -> Result<Vec<Host>, ProviderError> {
        let ids = match selector {
            Selector::Label(label) => vec![label.to_string()],
            Selector::Owned => self.ids()?,
        };
        let mut hosts = Vec::new();
        for id in ids {
            let site = self.site(&id, "finding a host")?;
            let Some(card) = Self::card(&site)? else { continue };
            if matches!(selector, Selector::Label(label) if *label != card.label) {
                continue;
            }
            hosts.push(Self::host(&site, card));
        }
        Ok(hosts)
    }

    async fn destroy(&self, id: &HostId) -> Result<(), ProviderError> {
        let site = self.site(id.as_str(), "destroying the host")?;
        self.ready(DESTROY_TOOLS)?;
        self.remove(&site).await
    }

    async fn residue(&self, selector: &Selector) -> Result<Vec<Residue>, ProviderError> {
        let (parts, owners) = match selector {
            Selector::Label(label) => {
                let site = self.site(&label.to_string(), "listing what is left")?;
                let owners = BTreeMap::from([(label.lineage8().to_owned(), site.id.clone())]);
                (self.parts(Scope::One(&site)).await?, owners)
            }
            Selector::Owned => {
                let parts = self.parts(Scope::All).await?;
                let owners = self.owners(&parts).await;
                (parts, owners)
            }
        };
        let mut cards = BTreeMap::new();
        for owner in owners.values() {
            // A record that is gone or damaged leaves open whose they are; they are left all the same.
            if let Some(card) =
                Site::new(&self.hosts, owner).and_then(|site| Self::card(&site).ok().flatten())
            {
                cards.insert(owner, card);
            }
        }
        let owned = |(name, part): &(String, Part)| {
            let owner = owners.get(last8(name))?;
            let card = cards.get(owner);
            // Without its record a host's name still says whose it is, but only the end of the lineage.
            let named = || {
                words_of(owner).map(|(lane, end)| Label { lane: lane.to_owned(), lineage: Lineage::new(end) })
            };
            let known = match selector {
                Selector::Label(label) => Some(label),
                Selector::Owned => card.map(|card| &card.label),
            };
            Some(Residue {
                label: known.cloned().or_else(named),
                created_at: card.map(|card| card.created_at),
                expires_at: card.map(|card| card.expires_at),
                ..part.residue(owner)
            })
        };
        Ok(parts.iter().filter_map(owned).collect())
    }

    async fn scope(&self) -> Result<Option<String>, ProviderError> {
        Ok((self.hosts != HOSTS).then(|| format!("hosts in {}", self.hosts)))
    }

    async fn set_expiry(&self, id: &HostId, expires_at: Timestamp) -> Result<(), ProviderError> {
        const MOVING: &str = "moving the end of a lease";
        let site = self.site(id.as_str(), MOVING)?;
        self.ready(DESTROY_TOOLS)?;
        let io = |error: std::io::Error| transient(MOVING, error.to_string());
        let lock = fs::open_lock(Path::new(LOCK)).map_err(io)?;
        lock.lock().map_err(io)?;
        let Some(card) = Self::card(&site)? else {
            return Err(rejected(MOVING, format!("there is no host {id}")));
        };
        let text = serde_json::to_vec_pretty(&Card { expires_at, ..card });
        let text = text.map_err(|error| rejected(MOVING, error.to_string()))?;
        fs::write_atomic(&site.card, &text, fs::Mode::Public).map_err(io)
    }

    async fn console_log(&self, id: &HostId) -> Result<Option<String>, ProviderError> {
        let path = self.site(id.as_str(), "reading the console")?.console();
        let read = fs::read_optional(&path)
            .map_err(|error| transient("reading the console", format!("{}: {error}", path.display())))?;
        Ok(read.map(|bytes| {
            String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(64 << 10)..]).into_owned()
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::plan::Digest;
    use crate::provider::ClientToken;
    use crate::world::SystemClock;

    /// Set for the process that is to be killed while it makes a host: its lane's lineage.
    const CREATE_IN: &str = "LANE_TEST_NSPAWN_CREATE";

    fn world(vars: &[(&str, &str)]) -> World {
        let vars = vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        World::fixed(Arc::new(SystemClock), vars, PathBuf::from("/"))
    }

    fn provider(config: &serde_json::Value) -> Result<Nspawn, ProviderError> {
        Nspawn::new(&world(&[("HOME", "/root")]), config)
    }

    fn label() -> Label {
        Label { lane: "demo".to_owned(), lineage: Lineage::fixed("01jd0000000000001a2b3c4d") }
    }

    fn site() -> Site {
        Site::new("/var/lib/lane/nspawn", "lane-demo-1a2b3c4d").unwrap()
    }

    #[test]
    fn only_ids_of_ours_have_a_site() {
        assert_eq!(site().machine, "ln-1a2b3c4d");
        assert_eq!(words_of("lane-my-demo.x_y-1a2b3c4d"), Some(("my-demo.x_y", "1a2b3c4d")));
        for foreign in [
            "",
            "demo-1a2b3c4d",
            "lane-1a2b3c4d",
            "lane-demo-1A2B3C4D",
            "lane-demo-1a2b3c4",
            "lane-demo-..",
            "lane--1a2b3c4d",
            "lane-demo-1a2b3c4d/..",
            "lane-/../x-1a2b3c4d",
            "lane-a b-1a2b3c4d",
        ] {
            assert_eq!(words_of(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn a_scope_takes_in_its_own_host_or_every_host_of_lane() {
        let (site, other) = (site(), Site::new("/x", "lane-demo-zzzzzzzz").unwrap());
        assert!(Scope::One(&site).machine(&site.machine) && !Scope::One(&site).machine(&other.machine));
        assert!(Scope::One(&site).id(&site.id) && !Scope::One(&site).id("lane-other-1a2b3c4d"));
        assert!(Scope::All.machine(&site.machine) && Scope::All.id(&other.id));
        for foreign in ["ln-", "ln-short", "eth0", "ln-1A2B3C4D", "ve-ln-1a2b3c4d"] {
            assert!(!Scope::All.machine(foreign), "{foreign}");
        }
    }

    #[test]
    fn the_pool_gives_the_first_subnet_that_overlaps_nothing() {
        let pool = Pool::parse("10.87.0.0/28").unwrap();
        let network = |text| parse_network(text).unwrap();
        assert_eq!(pool.free(&[]), Some(Ipv4Addr::new(10, 87, 0, 0)));
        let wide = [network("0.0.0.0/0"), network("10.0.0.0/8")];
        assert_eq!(pool.free(&wide), Some(Ipv4Addr::new(10, 87, 0, 0)));
        assert_eq!(
            pool.free(&[network("10.87.0.2"), network("10.87.0.4/30")]),
            Some(Ipv4Addr::new(10, 87, 0, 8))
        );
        assert_eq!(pool.free(&[network("10.87.0.0/29")]), Some(Ipv4Addr::new(10, 87, 0, 8)));
        assert_eq!(pool.free(&[network("10.87.0.0/29"), network("10.87.0.8/29")]), None);
        let top = Pool::parse("255.255.255.248/29").unwrap();
        assert_eq!(top.free(&[network("255.255.255.251")]), Some(Ipv4Addr::new(255, 255, 255, 252)));
        for wrong in
            ["10.87.0.0", "10.87.0.0/31", "10.87.0.0/7", "10.87.0.1/16", "10.87/16", "x/16", "fd00::/64", ""]
        {
            assert_eq!(Pool::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn keys_that_cannot_work_are_refused_before_anything_is_made() {
        let refused = |config: serde_json::Value| provider(&config).unwrap_err().to_string();
        assert!(refused(serde_json::json!({"packges": []})).contains("packges"));
        assert!(refused(serde_json::json!({"subnet": "10.0.0.0/31"})).contains("10.0.0.0/31"));
        assert!(refused(serde_json::json!({"cache": "/tmp/a:b"})).contains("a:b"));
        let recipe = |config: serde_json::Value, image: &str| {
            provider(&config).unwrap().recipe(image).map_err(|error| error.to_string())
        };
        for bad in ["a b", "a,b", "-o", "$(id)", "", "A"] {
            let error = recipe(serde_json::json!({"packages": [bad]}), "debian-13").unwrap_err();
            assert!(error.contains("package"), "{error}");
        }
        for bad in ["ftp://x/", "http://x/ y", "deb http://x trixie main"] {
            assert!(recipe(serde_json::json!({"mirror": bad}), "debian-13").unwrap_err().contains("mirror"));
        }
        assert!(recipe(serde_json::json!({}), "ami-1").unwrap_err().contains("debian-13 (trixie)"));
    }

    #[tokio::test]
    async fn a_missing_tool_is_named_with_the_command_that_mends_it() {
        let nowhere = tempfile::tempdir().unwrap();
        let mut bare = Nspawn::new(&world(&[]), &serde_json::json!({})).unwrap();
        bare.path = nowhere.path().to_str().unwrap().to_owned();
        for (error, package) in [
            (
                bare.create(&request(label(), "debian-13", String::new())).await.unwrap_err(),
                "systemd-container",
            ),
            (bare.destroy(&HostId::new(site().id)).await.unwrap_err(), "nftables"),
        ] {
            let ProviderError::Unavailable { remedy, .. } = error else { panic!("{error:?}") };
            assert!(remedy.starts_with("sudo apt-get install -y ") && remedy.contains(package), "{remedy}");
        }
        // To look, nothing is needed.
        assert_eq!(bare.find(&Selector::Label(label())).await.unwrap(), []);
        assert_eq!(bare.residue(&Selector::Label(label())).await.unwrap(), []);
    }

    #[tokio::test]
    async fn what_is_left_says_whose_it_is_and_until_when_and_where_it_was_looked_for() {
        let folder = tempfile::tempdir().unwrap();
        let hosts = folder.path().to_str().unwrap();
        let elsewhere = Nspawn::new(&world(&[("LANE_NSPAWN_DIR", hosts)]), &serde_json::json!({})).unwrap();
        assert_eq!(elsewhere.scope().await.unwrap(), Some(format!("hosts in {hosts}")));
        assert_eq!(provider(&serde_json::json!({})).unwrap().scope().await.unwrap(), None);
        let (label, at) = (label(), "2026-05-06T12:00:00Z".parse().unwrap());
        let card = Card {
            label: label.clone(),
            sku: ENTRY.default_sku.clone(),
            region: ENTRY.default_region.clone(),
            image: "debian-13".to_owned(),
            fingerprint: Fingerprint(Digest::of(b"wanted")),
            created_at: at,
            expires_at: at,
            subnet: Ipv4Addr::new(10, 87, 0, 0),
            creator: Creator { pid: 0, started: 0 },
        };
        let file = Site::new(hosts, &label.to_string()).unwrap().card;
        fs::write_atomic(&file, &serde_json::to_vec(&card).unwrap(), fs::Mode::Public).unwrap();
        for selector in [Selector::Owned, Selector::Label(label.clone())] {
            let left = elsewhere.residue(&selector).await.unwrap();
            let record = left.iter().find(|left| left.id == file.display().to_string()).unwrap();
            let facts = (record.label.as_ref(), record.created_at, record.expires_at);
            assert_eq!(facts, (Some(&label), Some(at), Some(at)), "{record:?}");
        }
    }

    #[tokio::test]
    async fn what_is_not_there_to_be_had_is_refused() {
        let provider = provider(&serde_json::json!({})).unwrap();
        let mut other = request(label(), "debian-13", String::new());
        other.sku = Sku::fixed("metal");
        assert!(provider.create(&other).await.unwrap_err().to_string().contains("`container`"));
        let mut other = request(label(), "debian-13", String::new());
        other.region = Region::fixed("moon");
        assert!(provider.create(&other).await.unwrap_err().to_string().contains("`local`"));
        for id in ["", "..", "lane-x", "lane-a/../b-1a2b3c4d"] {
            let refused = provider.destroy(&HostId::new(id)).await.unwrap_err();
            assert!(matches!(refused, ProviderError::Rejected { .. }), "{id}: {refused}");
        }
    }

    #[test]
    fn an_image_is_named_by_all_that_goes_into_it_and_nothing_else() {
        let name =
            |config: serde_json::Value, image: &str| provider(&config).unwrap().recipe(image).unwrap().name();
        let plain = name(serde_json::json!({}), "debian-13");
        assert!(plain.starts_with("trixie-"), "{plain}");
        assert_eq!(
            plain,
            name(serde_json::json!({"release": "trixie", "subnet": "10.9.0.0/24"}), "debian-12")
        );
        assert_eq!(plain, name(serde_json::json!({"packages": ["curl", "sudo"]}), "debian-13"));
        let two = name(serde_json::json!({"packages": ["gcc", "cargo"]}), "debian-13");
        assert_eq!(two, name(serde_json::json!({"packages": ["cargo", "gcc", "gcc"]}), "debian-13"));
        assert!(name(serde_json::json!({}), "debian-12").starts_with("bookworm-"));
        let mirrored = name(serde_json::json!({"mirror": "http://example.com/debian"}), "debian-13");
        assert_eq!(BTreeSet::from([plain, two, mirrored]).len(), 3);
    }

    #[test]
    fn a_supervisor_is_known_by_its_command_line() {
        let line = |words: &[&str]| words.join("\0") + "\0";
        let machine = Some("ln-1a2b3c4d".to_owned());
        assert_eq!(
            supervised(&line(&["/usr/bin/systemd-nspawn", "--boot", "--machine=ln-1a2b3c4d"])),
            machine
        );
        let starting =
            ["setsid", "sh", "-c", START, "x", "ln-1a2b3c4d", "systemd-nspawn", "--machine=ln-1a2b3c4d"];
        assert_eq!(supervised(&line(&starting)), machine);
        assert_eq!(supervised(&line(&["pgrep", "-f", "systemd-nspawn.*--machine=ln-1a2b3c4d"])), None);
        assert_eq!(supervised(&line(&["systemd-nspawn", "--boot"])), None);
        assert_eq!(supervised(""), None);
    }

    #[test]
    fn an_inner_process_is_known_by_its_root() {
        let line = "106 84 0:39 / / rw,relatime shared:3 - overlay ln-1a2b3c4d rw,lowerdir=/c/i,upperdir=/h/lane-demo-1a2b3c4d/fs/upper,workdir=/h/lane-demo-1a2b3c4d/fs/work,uuid=on\n";
        assert_eq!(root_of("/h", line).as_deref(), Some("lane-demo-1a2b3c4d"));
        assert_eq!(root_of("/other", line), None);
        assert_eq!(root_of("/h", &line.replacen(" / / ", " / /h/lane-demo-1a2b3c4d/fs/root ", 1)), None);
        assert_eq!(root_of("/h", "20 1 254:0 / / rw - ext4 /dev/vda rw\n"), None);
    }

    #[test]
    fn only_name_servers_that_a_container_reaches_are_taken() {
        let text = "# x\nsearch example.com\nnameserver 127.0.0.53\nnameserver fe80::1%eth0\nnameserver\t192.0.2.1\n nameserver 192.0.2.2 \n";
        assert_eq!(reachable_nameservers(text), [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(192, 0, 2, 2)]);
        assert_eq!(reachable_nameservers("nameserver 127.0.0.1"), [] as [Ipv4Addr; 0]);
    }

    #[test]
    fn small_readers_read_what_linux_writes() {
        assert_eq!(gid_of("root:x:0:\nkvm:x:993:mvm\n", "kvm"), Some(993));
        assert_eq!(gid_of("root:x:0:\n", "kvm"), None);
        assert_eq!(mask(0), 0);
        assert_eq!(Ipv4Addr::from_bits(mask(30)), Ipv4Addr::new(255, 255, 255, 252));
        assert!(started(std::process::id()).is_some_and(|ticks| ticks > 0));
        assert_eq!(started(u32::MAX), None);
        assert_eq!(tail("a\nb\nc\n\n", 2), "b\nc");
        let label = Label { lane: "a.b_c-d".to_owned(), lineage: Lineage::fixed("01jd0000000000001a2b3c4d") };
        assert_eq!(host_name(&label), "a-b-c-d");
    }

    /// A folder for hosts of this test's own, with the image cache that everybody shares.
    struct Bench {
        folder: tempfile::TempDir,
        provider: Nspawn,
        label: Label,
    }

    impl Bench {
        fn new(lane: &str) -> Option<Self> {
            if !is_root() {
                eprintln!("left out: containers need root");
                return None;
            }
            let folder = tempfile::Builder::new().prefix("lane-nspawn-").tempdir_in("/var/tmp").unwrap();
            let lineage = ulid::Ulid::generate().to_string().to_lowercase();
            let label = Label { lane: lane.to_owned(), lineage: Lineage::new(lineage) };
            let provider = Self::provider(folder.path(), &serde_json::json!({}));
            Some(Self { folder, provider, label })
        }

        fn provider(folder: &Path, config: &serde_json::Value) -> Nspawn {
            let real = World::capture().unwrap();
            let mut vars: BTreeMap<String, String> = ["HOME", "PATH", "LANE_CACHE_DIR", "XDG_CACHE_HOME"]
                .into_iter()
                .filter_map(|name| Some((name.to_owned(), real.var(name)?.to_owned())))
                .collect();
            vars.insert("LANE_NSPAWN_DIR".to_owned(), folder.to_str().unwrap().to_owned());
            Nspawn::new(&World::fixed(Arc::new(SystemClock), vars, PathBuf::from("/")), config).unwrap()
        }

        fn request(&self, user_data: String) -> CreateRequest {
            request(self.label.clone(), ENTRY.default_image, user_data)
        }

        fn selector(&self) -> Selector {
            Selector::Label(self.label.clone())
        }

        async fn only_host(&self) -> Host {
            let hosts = self.provider.find(&self.selector()).await.unwrap();
            assert_eq!(hosts.len(), 1, "{hosts:?}");
            hosts.into_iter().next().unwrap()
        }

        async fn kinds(&self) -> BTreeSet<String> {
            self.provider.residue(&self.selector()).await.unwrap().into_iter().map(|left| left.kind).collect()
        }

        /// Looks at the machine without the adapter's own eyes.
        #[track_caller]
        fn assert_nothing_is_left(&self) {
            let script = "ls /sys/class/net /dev /var/tmp/lane-nspawn-*/ /run/systemd/nspawn/* /sys/fs/cgroup/* 2>/dev/null
                nft list tables; cat /proc/self/mountinfo; for f in /proc/[0-9]*/cmdline; do tr '\\0' ' ' <$f; echo; done 2>/dev/null";
            // A command of a destroy that was cut short may still be on its way out; that is nothing left.
            let mut left = Vec::new();
            for _ in 0..300 {
                let seen = std::process::Command::new("sh").args(["-c", script]).output().unwrap().stdout;
                let seen = String::from_utf8_lossy(&seen).into_owned();
                let ours = |line: &&str| line.contains(self.label.lineage8());
                left = seen.lines().filter(ours).map(str::to_owned).collect();
                if left.is_empty() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            assert_eq!(left, [] as [String; 0]);
        }
    }

    /// A test that fails leaves no host behind either.
    impl Drop for Bench {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                return;
            }
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    let site = self.provider.site(&self.label.to_string(), "test").unwrap();
                    if let Ok(Some(text)) = fs::read_optional(&site.console()) {
                        println!("{}", tail(&String::from_utf8_lossy(&text), 40));
                    }
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                    println!("cleaned up: {:?}", runtime.block_on(self.provider.remove(&site)));
                });
            });
        }
    }

    fn request(label: Label, image: &str, user_data: String) -> CreateRequest {
        CreateRequest {
            label,
            sku: ENTRY.default_sku.clone(),
            region: ENTRY.default_region.clone(),
            image: image.to_owned(),
            disk_bytes: 1 << 30,
            kvm: true,
            user_data,
            expires_at: Timestamp::from_second(4_000_000_000).unwrap(),
            fingerprint: Fingerprint(Digest::of(b"x")),
            token: ClientToken::fixed("x"),
            allow_from: vec![],
        }
    }

    fn ssh(key: &Path, address: IpAddr, command: &str) -> Result<String, String> {
        let output = std::process::Command::new("ssh")
            .args([
                "-F",
                "/dev/null",
                "-o",
                "BatchMode=yes",
                "-o",
                "ConnectTimeout=2",
                "-o",
                "LogLevel=ERROR",
            ])
            .args(["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-i"])
            .arg(key)
            .args([&format!("mvm@{address}"), command])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    #[tokio::test]
    async fn real_host_boots_serves_ssh_and_goes_without_a_trace() {
        boots_serves_and_goes("debian-13").await;
    }

    #[tokio::test]
    async fn real_host_of_the_older_release_does_so_too() {
        boots_serves_and_goes("debian-12").await;
    }

    async fn boots_serves_and_goes(image: &str) {
        let Some(bench) = Bench::new("boot") else { return };
        let keys = tempfile::tempdir().unwrap();
        let key = keys.path().join("key");
        let keygen = ["-q", "-t", "ed25519", "-N", "", "-f"];
        assert!(std::process::Command::new("ssh-keygen").args(keygen).arg(&key).status().unwrap().success());
        let public = String::from_utf8(fs::read(&key.with_extension("pub")).unwrap()).unwrap();
        let user_data = format!(
            "#cloud-config\nusers:\n- name: mvm\n  shell: /bin/bash\n  groups: [kvm]\n  sudo: ALL=(ALL) NOPASSWD:ALL\n  ssh_authorized_keys: ['{}']\n",
            public.trim()
        );
        let recipe = bench.provider.recipe(image).unwrap();
        let begun = Instant::now();
        bench.provider.image(&recipe).await.unwrap();
        println!("image: {:.1?}", begun.elapsed());
        let outside = || {
            std::process::Command::new("stat").args(["-c", "%u:%g %a", "/dev/kvm"]).output().unwrap().stdout
        };
        let kvm_before = outside();

        let begun = Instant::now();
        let id =
            bench.provider.create(&request(bench.label.clone(), image, user_data.clone())).await.unwrap();
        println!("create: {:.1?}", begun.elapsed());
        let host = bench.only_host().await;
        assert_eq!((host.status, &host.id, &host.label), (HostStatus::Running, &id, &bench.label));
        assert_eq!(host.fingerprint, Some(Fingerprint(Digest::of(b"x"))));
        let address = host.address.unwrap();
        while let Err(error) = ssh(&key, address, "true") {
            assert!(begun.elapsed() < Duration::from_mins(2), "{error}");
            sleep(Duration::from_millis(50)).await;
        }
        println!("to ssh: {:.1?}", begun.elapsed());
        let on_host =
            |command: &str| ssh(&key, address, command).unwrap_or_else(|error| panic!("{command}: {error}"));
        let status = on_host(
            "cloud-init status --wait --long || :; sudo grep -A20 Traceback /var/log/cloud-init.log || :",
        );
        assert!(status.contains("status: done") && !status.contains("Traceback"), "{status}");
        println!("to cloud-init done: {:.1?}", begun.elapsed());
        assert_eq!(on_host("systemctl is-system-running --wait"), "running");
        assert_eq!(on_host("sudo hostname 2>&1"), "boot");
        assert!(on_host("sudo apt-get update 2>&1 && echo fetched").ends_with("fetched"));
        if fs::exists(Path::new("/dev/kvm")) {
            // Read and write access for the login user; what the device can do is the probe's matter.
            assert_eq!(
                on_host("test -c /dev/kvm && test -r /dev/kvm && test -w /dev/kvm && echo usable"),
                "usable"
            );
            assert_eq!(kvm_before, outside(), "the container changed this machine's own /dev/kvm");
        }
        assert!(bench.provider.console_log(&id).await.unwrap().unwrap().contains("Cloud-init"));
        let expected = [
            "container",
            "control group",
            "device node",
            "folder",
            "mount",
            "nft table",
            "process",
            "record",
            "veth",
        ];
        let kinds = bench.kinds().await;
        assert!(kinds.is_subset(&expected.map(str::to_owned).into()), "{kinds:?}");
        for kind in ["container", "folder", "mount", "nft table", "process", "record", "veth"] {
            assert!(kinds.contains(kind), "{kind} is not seen: {kinds:?}");
        }
        // A second create for the same label is refused and harms nothing.
        let again = bench.provider.create(&bench.request(user_data)).await.unwrap_err();
        assert!(matches!(again, ProviderError::Rejected { .. }), "{again}");
        assert_eq!(on_host("echo alive"), "alive");

        // Switched off from inside, as the lease's timer does: still there, stopped.
        let _cut = ssh(&key, address, "sudo systemctl poweroff");
        let begun = Instant::now();
        while bench.only_host().await.status != HostStatus::Stopped {
            assert!(begun.elapsed() < Duration::from_mins(2));
            sleep(Duration::from_millis(100)).await;
        }
        let begun = Instant::now();
        bench.provider.destroy(&id).await.unwrap();
        println!("destroy: {:.1?}", begun.elapsed());
        bench.provider.destroy(&id).await.unwrap();
        assert_eq!(bench.provider.find(&bench.selector()).await.unwrap(), []);
        assert_eq!(bench.kinds().await, BTreeSet::new());
        bench.assert_nothing_is_left();
    }

    #[tokio::test]
    async fn real_host_two_side_by_side_keep_out_of_each_others_way() {
        let (Some(one), Some(other)) = (Bench::new("one"), Bench::new("other")) else { return };
        let data = || "#cloud-config\n{}\n".to_owned();
        let (requests, providers) =
            ((one.request(data()), other.request(data())), (&one.provider, &other.provider));
        let (first, second) = tokio::join!(providers.0.create(&requests.0), providers.1.create(&requests.1));
        let (first, second) = (first.unwrap(), second.unwrap());
        let (seen, other_seen) = (one.only_host().await, other.only_host().await);
        assert_ne!(seen.address, other_seen.address);
        // A busy one, killed in the middle of its boot.
        one.provider.destroy(&first).await.unwrap();
        one.assert_nothing_is_left();
        sleep(Duration::from_secs(2)).await;
        assert_eq!(other.only_host().await.status, HostStatus::Running);
        // Its supervisor killed from outside leaves everything else behind: still found, still taken down.
        let site = other.provider.site(second.as_str(), "test").unwrap();
        for (_, part) in supervisors(Scope::One(&site)) {
            let Part::Supervisor(pid) = part else { panic!("{part:?}") };
            assert!(
                std::process::Command::new("kill")
                    .args(["-KILL", &pid.to_string()])
                    .status()
                    .unwrap()
                    .success()
            );
        }
        let begun = Instant::now();
        while other.only_host().await.status != HostStatus::Stopped {
            assert!(begun.elapsed() < Duration::from_mins(1));
            sleep(Duration::from_millis(20)).await;
        }
        other.provider.destroy(&second).await.unwrap();
        other.assert_nothing_is_left();
    }

    #[tokio::test]
    async fn real_host_that_cannot_start_is_an_error_with_its_words_and_leaves_nothing() {
        let Some(bench) = Bench::new("broken") else { return };
        // systemd-nspawn refuses a folder that is no system.
        let empty = tempfile::tempdir_in("/var/tmp").unwrap();
        let site = bench.provider.site(&bench.label.to_string(), "test").unwrap();
        let request = bench.request(String::new());
        fs::create_dir_all(&empty.path().join("etc")).unwrap();
        let failed = bench.provider.make(&site, &request, empty.path().to_str().unwrap()).await.unwrap_err();
        assert!(
            failed.begun && failed.error.to_string().contains("the container ended at once"),
            "{failed:?}"
        );
        assert_eq!(bench.only_host().await.status, HostStatus::Stopped);
        bench.provider.remove(&site).await.unwrap();
        bench.assert_nothing_is_left();
    }

    #[tokio::test]
    async fn real_host_whose_maker_is_killed_anywhere_is_found_whole_or_stopped_and_leaves_nothing() {
        let world = World::capture().unwrap();
        if let Some(told) = world.var(CREATE_IN) {
            // This process is the one to be killed.
            let (folder, lineage) = told.split_once(' ').unwrap();
            let label = Label { lane: "killed".to_owned(), lineage: Lineage::new(lineage) };
            let provider = Bench::provider(Path::new(folder), &serde_json::json!({}));
            provider.create(&request(label, "debian-13", "#cloud-config\n{}\n".to_owned())).await.unwrap();
            return;
        }
        let Some(bench) = Bench::new("killed") else { return };
        let recipe = bench.provider.recipe("debian-13").unwrap();
        bench.provider.image(&recipe).await.unwrap();
        let test = std::thread::current().name().unwrap().to_owned();
        let told = format!("{} {}", bench.folder.path().display(), bench.label.lineage);
        let mut seen = BTreeSet::new();
        // As long as a machine needs to see both a half-made host and a whole one, be it slow.
        let all = |seen: &BTreeSet<&str>| seen.contains("half-made") && seen.contains("running");
        for milliseconds in (4..6_000).step_by(9) {
            if milliseconds > 300 && all(&seen) {
                break;
            }
            let mut maker = std::process::Command::new(std::env::current_exe().unwrap())
                .args(["--exact", &test])
                .env(CREATE_IN, &told)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            sleep(Duration::from_millis(milliseconds)).await;
            maker.kill().unwrap();
            maker.wait().unwrap();
            let residue = bench.kinds().await;
            let hosts = bench.provider.find(&bench.selector()).await.unwrap();
            let Some(host) = hosts.first() else {
                assert_eq!(
                    residue,
                    BTreeSet::new(),
                    "after {milliseconds} ms something is there that is not found"
                );
                seen.insert("nothing");
                continue;
            };
            match host.status {
                HostStatus::Starting => panic!("after {milliseconds} ms a dead maker counts as alive"),
                HostStatus::Running => {
                    // May be adopted, so its network has to be whole.
                    for kind in ["veth", "nft table", "mount"] {
                        assert!(residue.contains(kind), "after {milliseconds} ms: {residue:?}");
                    }
                    seen.insert("running");
                }
                HostStatus::Stopped => drop(seen.insert("half-made")),
            }
            bench.provider.destroy(&host.id).await.unwrap();
            assert_eq!(bench.provider.find(&bench.selector()).await.unwrap(), []);
            bench.assert_nothing_is_left();
        }
        // What a record torn by a kill left goes with the next host.
        let id = bench.provider.create(&bench.request("#cloud-config\n{}\n".to_owned())).await.unwrap();
        bench.provider.destroy(&id).await.unwrap();
        bench.assert_nothing_is_left();
        assert_eq!(fs::list(bench.folder.path()).unwrap(), [] as [&str; 0]);
        println!("seen: {seen:?}");
        assert!(all(&seen), "the kills came at one stage only: {seen:?}");
    }

    #[tokio::test]
    async fn real_host_destroy_that_is_stopped_anywhere_goes_on_where_it_was() {
        let Some(bench) = Bench::new("undone") else { return };
        let id = bench.provider.create(&bench.request("#cloud-config\n{}\n".to_owned())).await.unwrap();
        for milliseconds in [1, 3, 10, 30, 60, 90] {
            let _cut =
                tokio::time::timeout(Duration::from_millis(milliseconds), bench.provider.destroy(&id)).await;
            let gone = bench.provider.find(&bench.selector()).await.unwrap().is_empty();
            assert_eq!(
                gone,
                bench.kinds().await.is_empty(),
                "what is left is found, and the other way round"
            );
        }
        bench.provider.destroy(&id).await.unwrap();
        bench.assert_nothing_is_left();
    }

    #[tokio::test]
    async fn real_host_image_is_built_once_though_its_first_builder_is_gone() {
        let Some(bench) = Bench::new("image") else { return };
        let cache = tempfile::tempdir_in("/var/tmp").unwrap();
        let config = serde_json::json!({"cache": cache.path()});
        let provider = Bench::provider(bench.folder.path(), &config);
        let recipe = provider.recipe("debian-13").unwrap();
        let image = cache.path().join(recipe.name());
        let begun = image.with_extension("tmp").join("usr");
        // The first one gives up as soon as something is there, as a killed lane does; the build goes on by itself.
        let under_way = async {
            while !fs::exists(&begun) {
                sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::select! {
            built = provider.image(&recipe) => panic!("it was not seen to be built: {built:?}"),
            () = under_way => assert!(!fs::exists(&image)),
        }
        let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
        let first = inode(&begun);
        let (one, two) = tokio::join!(provider.image(&recipe), provider.image(&recipe));
        assert_eq!(one.unwrap(), two.unwrap());
        assert_eq!(inode(&image.join("usr")), first, "it was built a second time");
        assert!(!fs::exists(&image.with_extension("tmp")));
        assert_eq!(fs::read(&image.join("etc/machine-id")).unwrap(), b"");
        let keys = fs::list(&image.join("etc/ssh")).unwrap();
        assert!(
            !keys.iter().any(|name| name.starts_with("ssh_host_")),
            "every host would have the same key: {keys:?}"
        );
    }

    #[tokio::test]
    async fn real_host_image_that_cannot_be_built_says_why_and_dead_builds_go_away() {
        let Some(bench) = Bench::new("image") else { return };
        let cache = tempfile::tempdir_in("/var/tmp").unwrap();
        let config = serde_json::json!({"cache": cache.path(), "packages": ["no-such-package-in-debian"]});
        let provider = Bench::provider(bench.folder.path(), &config);
        let recipe = provider.recipe("debian-13").unwrap();
        let dead = cache.path().join("trixie-0123456789ab.tmp");
        fs::create_dir_all(&dead.join("usr")).unwrap();
        let error = provider.image(&recipe).await.unwrap_err();
        assert!(matches!(error, ProviderError::Rejected { .. }), "{error}");
        let error = error.to_string();
        assert!(error.contains("no-such-package-in-debian") && error.contains(".log"), "{error}");
        assert!(!fs::exists(&dead));
        assert!(!fs::exists(&cache.path().join(recipe.name())));
    }
}
