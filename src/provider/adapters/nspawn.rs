//! `nspawn`: systemd-nspawn containers on this machine that boot real systemd, cloud-init and sshd.
//!
//! The image is built once by mmdebstrap; a host is an overlay over it, a veth pair with its own /30 and one nft
//! table. What exists is what the kernel shows (processes, mounts, links, tables) and a folder per host.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::plan::{Digester, Fingerprint};
use crate::provider::{
    CreateRequest, Entry, Host, HostId, HostStatus, KvmSupport, Label, Money, Price, Provider, ProviderError,
    Region, Residue, Selector, Sku,
};
use crate::world::{World, fs};

/// Keys of provider `nspawn`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Config {
    /// Debian packages that the image gets on top of lane's base set.
    packages: Vec<String>,
    /// Debian mirror to build the image from; else the one that mmdebstrap takes by itself.
    mirror: Option<String>,
    /// Folder that keeps the built images; else `nspawn` in lane's cache.
    cache: Option<String>,
}

pub(crate) static ENTRY: Entry = Entry {
    name: "nspawn",
    about: "systemd-nspawn containers on this machine; real systemd, cloud-init and sshd in seconds (needs root)",
    credentials: &[],
    default_sku: Sku::fixed("container"),
    default_region: Region::fixed("local"),
    default_image: "debian-13",
    listing_lag: Duration::ZERO,
    provision_timeout: Duration::from_mins(15),
    user_data_limit: 1 << 20,
    timer_stops_bill: true,
    region_key: "region",
    init_keys: || "  packages: [curl]        # Debian packages in the image\n".to_owned(),
    schema: |generator| generator.subschema_for::<Config>(),
    kvm: |_| KvmSupport::Unknown,
    price: |_, _| {
        Some(Price {
            per_hour: Money { micros: 0, currency: "USD".to_owned() },
            source: "your own machine".to_owned(),
        })
    },
    connect,
};

/// What every image holds: an init, cloud-init, sshd, and what lane's own scripts run.
const BASE_PACKAGES: &[&str] = &[
    "ca-certificates",
    "cloud-init",
    "dbus",
    "iproute2",
    "netplan.io",
    "openssh-server",
    "procps",
    "python3",
    "rsync",
    "sudo",
    "systemd",
    "systemd-resolved",
    "systemd-sysv",
    "udev",
    "util-linux",
];

/// Part of the image's key: one more whenever the recipe changes.
const RECIPE: &str = "1";

const TOOLS: &[(&str, &str)] = &[
    ("systemd-nspawn", "systemd-container"),
    ("mmdebstrap", "mmdebstrap"),
    ("ip", "iproute2"),
    ("nft", "nftables"),
    ("setsid", "util-linux"),
];

fn connect(world: &World, config: &serde_json::Value) -> Result<Box<dyn Provider>, ProviderError> {
    let config: Config =
        serde_json::from_value(config.clone()).map_err(|error| rejected("reading its keys", error))?;
    let images = match &config.cache {
        Some(folder) => world.absolute(folder, world.cwd()),
        None => world.cache_dir().join("nspawn"),
    };
    let hosts = PathBuf::from(world.var("LANE_NSPAWN_DIR").unwrap_or("/var/lib/lane/nspawn"));
    Ok(Box::new(Nspawn { config, images, hosts, world: world.clone() }))
}

#[derive(Debug)]
struct Nspawn {
    config: Config,
    images: PathBuf,
    hosts: PathBuf,
    world: World,
}

/// What a host's folder says of it, written before anything else is made.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Card {
    label: Label,
    sku: Sku,
    region: Region,
    fingerprint: Fingerprint,
    created_at: Timestamp,
    expires_at: Timestamp,
    /// Which /30 of the pool.
    index: u16,
}

impl Card {
    /// The host's side of the veth pair is .1 and the container's .2 of a /30 in 10.87.0.0/16.
    fn address(&self, last: u16) -> Ipv4Addr {
        let [high, low] = (self.index * 4 + last).to_be_bytes();
        Ipv4Addr::new(10, 87, high, low)
    }
}

/// How many /30s the pool has.
const POOL: u16 = 0x4000;

fn machine(lineage8: &str) -> String {
    format!("ln-{lineage8}")
}

fn veth(lineage8: &str) -> String {
    format!("ve-ln-{lineage8}")
}

fn table(lineage8: &str) -> String {
    format!("lane_{lineage8}")
}

fn rejected(operation: &'static str, message: impl std::fmt::Display) -> ProviderError {
    ProviderError::Rejected { provider: "nspawn", operation, message: format!("{message}") }
}

fn transient(operation: &'static str, message: impl std::fmt::Display) -> ProviderError {
    ProviderError::Transient { provider: "nspawn", operation, message: format!("{message}") }
}

/// Returns the last 8 characters of `lane-<name>-<lineage8>`, if this is a name of ours.
fn lineage8_of(name: &str) -> Option<&str> {
    let (lane, lineage8) = name.strip_prefix("lane-")?.rsplit_once('-')?;
    let ours = lineage8.len() == 8
        && lineage8.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    (ours && !lane.is_empty()).then_some(lineage8)
}

/// Builds the image unless it is there; the lock is held by this shell, so that a killed lane frees nothing early.
const BUILD_IMAGE: &str = r#"set -eu
image=$1 release=$2 include=$3 mirror=$4
exec 9>"$image.lock"; flock 9
[ ! -e "$image/.lane-complete" ] || exit 0
for dead in "$image".tmp.*; do [ ! -e "$dead" ] || rm -rf --one-file-system "$dead"; done
rm -rf --one-file-system "$image"
new=$image.tmp.$$
mmdebstrap --variant=minbase --include="$include" \
  --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
  --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
  "$release" "$new" ${mirror:+"$mirror"}
# Each host makes its own identity.
rm -f "$new"/etc/ssh/ssh_host_*
: >"$new/etc/machine-id"
mkdir -p "$new/etc/cloud/cloud.cfg.d"
printf 'datasource_list: [NoCloud]\n' >"$new/etc/cloud/cloud.cfg.d/90-lane.cfg"
# What a short-lived host needs not wait for.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
  fstrim.timer man-db.timer systemd-networkd-wait-online.service systemd-firstboot.service; do
  ln -sf /dev/null "$new/etc/systemd/system/$unit"
done
touch "$new/.lane-complete"
mv -T "$new" "$image"
"#;

/// Mounts, wires and boots one host; every part of it may be there already.
const START: &str = r#"set -eu
dir=$1 image=$2 machine=$3 veth=$4 table=$5 gateway=$6 guest=$7 kvm=$8
root=$dir/root
mkdir -p "$dir/upper" "$dir/work" "$root"
mountpoint -q "$root" || mount -t overlay "$machine" -o "lowerdir=$image,upperdir=$dir/upper,workdir=$dir/work" "$root"
seed=$root/var/lib/cloud/seed/nocloud
mkdir -p "$seed"
cp "$dir/user-data" "$dir/meta-data" "$dir/network-config" "$seed/"
chmod 0600 "$seed"/*
# It holds the host's private key; the host has it now.
rm -f "$dir/user-data"
bind=
if [ "$kvm" = yes ] && [ -c /dev/kvm ]; then
  # A node of its own: the udev inside gives it to group kvm, and by a bind of this machine's node would do so here too.
  # shellcheck disable=SC2046
  [ -e "$dir/kvm" ] || mknod -m 0600 "$dir/kvm" c $(stat -c '0x%t 0x%T' /dev/kvm)
  bind=--bind=$dir/kvm:/dev/kvm
fi
echo 1 >/proc/sys/net/ipv4/ip_forward
nft -f - <<NFT
table ip $table
delete table ip $table
table ip $table {
  chain postrouting {
    type nat hook postrouting priority srcnat;
    ip saddr $guest/30 oifname != "$veth" masquerade
  }
}
NFT
# With systemd as process 1 the container gets a scope of its own; without it there is nobody to register with.
if [ -d /run/systemd/system ]; then unit='--property=KillMode=mixed'; else unit='--register=no --keep-unit'; fi
# shellcheck disable=SC2086
setsid --fork systemd-nspawn --quiet --boot $unit --network-veth --resolv-conf=off --link-journal=no --timezone=off \
  $bind -D "$root" --machine="$machine" --console=read-only </dev/null >>"$dir/console.log" 2>&1
for _ in $(seq 100); do
  if ip link show "$veth" >/dev/null 2>&1; then
    ip address replace "$gateway/30" dev "$veth"
    ip link set "$veth" up
    exit 0
  fi
  sleep 0.05
done
tail -n 5 "$dir/console.log" >&2
echo "the container did not come up within 5 s" >&2
exit 1
"#;

/// Takes one host apart; what is gone already is passed over.
const STOP: &str = r#"set -u
dir=$1 machine=$2 veth=$3 table=$4
processes() {
  for file in /proc/[0-9]*/cmdline; do
    case $(tr '\0' ' ' <"$file" 2>/dev/null) in
      *systemd-nspawn\ *"--machine=$machine "*) pid=${file#/proc/}; echo "${pid%/cmdline}" ;;
    esac
  done
}
for _ in $(seq 50); do
  pids=$(processes)
  [ -n "$pids" ] || break
  for pid in $pids; do
    # The container's init first: with it goes everything inside, and nspawn then tidies up after itself.
    for child in $(cat "/proc/$pid/task/$pid/children" 2>/dev/null); do kill -KILL "$child" 2>/dev/null; done
  done
  sleep 0.1
  [ "$_" -lt 20 ] || for pid in $(processes); do kill -KILL "$pid" 2>/dev/null; done
done
for _ in $(seq 50); do
  mounts=$(awk -v dir="$dir/" 'index($2, dir) == 1 {print $2}' /proc/self/mounts | sort -r)
  [ -n "$mounts" ] || break
  for mount in $mounts; do umount "$mount" 2>/dev/null; done
  sleep 0.05
done
ip link delete "$veth" 2>/dev/null
nft delete table ip "$table" 2>/dev/null
rm -rf "/run/systemd/nspawn/propagate/$machine"
if awk -v dir="$dir/" 'index($2, dir) == 1 {found = 1} END {exit !found}' /proc/self/mounts; then
  echo "$dir is still mounted" >&2
  exit 1
fi
rm -rf --one-file-system "$dir"
"#;

impl Nspawn {
    fn folder(&self, id: &str) -> PathBuf {
        self.hosts.join(id)
    }

    async fn ready(&self) -> Result<(), ProviderError> {
        let mut missing = Vec::new();
        for (tool, package) in TOOLS {
            let found = sh("command -v \"$1\"", &[tool]).await?;
            if !found.status.success() {
                missing.push(*package);
            }
        }
        let unavailable = |message: String, remedy: String| {
            Err(ProviderError::Unavailable { provider: "nspawn", message, remedy })
        };
        if !missing.is_empty() {
            return unavailable(
                format!("this machine lacks {}", missing.join(", ")),
                format!("sudo apt-get install {} debian-archive-keyring", missing.join(" ")),
            );
        }
        let uid = sh("id -u", &[]).await?;
        if uid.stdout.trim_ascii() != b"0" {
            return unavailable("containers need root".to_owned(), "run it again with sudo".to_owned());
        }
        Ok(())
    }

    /// Returns the image for a name, built if need be.
    async fn image(&self, name: &str) -> Result<PathBuf, ProviderError> {
        let release = match name {
            "debian-12" => "bookworm",
            "debian-13" => "trixie",
            other => {
                return Err(rejected(
                    "choosing an image",
                    format!("no image `{other}`; there are `debian-12` and `debian-13`"),
                ));
            }
        };
        let mut packages: Vec<&str> = BASE_PACKAGES.to_vec();
        packages.extend(self.config.packages.iter().map(String::as_str));
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '+' | '-' | ':');
        if let Some(bad) = packages.iter().find(|name| name.is_empty() || !name.chars().all(plain)) {
            return Err(rejected("choosing packages", format!("{bad:?} is no name of a Debian package")));
        }
        packages.sort_unstable();
        packages.dedup();
        let mirror = self.config.mirror.clone().unwrap_or_default();
        let mut digester = Digester::new("nspawn-image");
        for part in [RECIPE, release, &packages.join(","), &mirror, BUILD_IMAGE] {
            digester.field(part.as_bytes());
        }
        let image = self.images.join(format!("{release}-{}", digester.finish().short()));
        let text = image.display().to_string();
        if text.contains([',', ':', '\\', '\n']) {
            return Err(rejected(
                "choosing a cache",
                format!("an overlay cannot be made of {text:?}: it holds , : or \\"),
            ));
        }
        if fs::exists(&image.join(".lane-complete")) {
            return Ok(image);
        }
        fs::create_dir_all(&self.images)
            .map_err(|error| rejected("making the cache", format!("{}: {error}", self.images.display())))?;
        let built = sh(BUILD_IMAGE, &[&text, release, &packages.join(","), &mirror]).await?;
        if !built.status.success() {
            let said = String::from_utf8_lossy(&built.stderr);
            let lines: Vec<&str> = said.trim_end().lines().collect();
            let tail = lines[lines.len().saturating_sub(10)..].join("\n");
            return Err(rejected("building the image", format!("mmdebstrap failed:\n{tail}")));
        }
        Ok(image)
    }

    fn card(&self, id: &str) -> Result<Option<Card>, ProviderError> {
        let path = self.folder(id).join("host.json");
        let read = fs::read_optional(&path)
            .map_err(|error| transient("reading a host", format!("{}: {error}", path.display())))?;
        let Some(bytes) = read else { return Ok(None) };
        serde_json::from_slice(&bytes).map(Some).map_err(|error| {
            rejected(
                "reading a host",
                format!("{} is damaged: {error}; destroy that host by its lane's name", path.display()),
            )
        })
    }

    fn ids(&self) -> Result<Vec<String>, ProviderError> {
        let names = fs::list(&self.hosts)
            .map_err(|error| transient("listing hosts", format!("{}: {error}", self.hosts.display())))?;
        Ok(names.into_iter().filter(|name| lineage8_of(name).is_some()).collect())
    }

    /// Takes the first /30 that no other host has; the lock keeps two creates apart.
    fn register(&self, request: &CreateRequest) -> Result<Card, ProviderError> {
        let io = |error: std::io::Error| {
            transient("registering a host", format!("{}: {error}", self.hosts.display()))
        };
        fs::create_dir_all(&self.hosts).map_err(io)?;
        let lock = fs::open_lock(&self.hosts.join(".lock")).map_err(io)?;
        lock.lock().map_err(io)?;
        let id = request.label.to_string();
        if self.card(&id)?.is_some() {
            return Err(rejected("creating a host", format!("{id} is there already")));
        }
        let mut taken = BTreeSet::new();
        for other in self.ids()? {
            if let Some(card) = self.card(&other)? {
                taken.insert(card.index);
            }
        }
        // Begin at a place that depends on the lineage: two state folders of one machine seldom meet.
        let start = request
            .label
            .lineage8()
            .bytes()
            .fold(0_u16, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()));
        let index = (0..POOL)
            .map(|step| (start.wrapping_add(step)) % POOL)
            .find(|index| !taken.contains(index))
            .ok_or_else(|| ProviderError::Capacity {
                provider: "nspawn",
                message: "no /30 is left in 10.87.0.0/16".to_owned(),
            })?;
        let card = Card {
            label: request.label.clone(),
            sku: request.sku.clone(),
            region: request.region.clone(),
            fingerprint: request.fingerprint.clone(),
            created_at: self.world.now(),
            expires_at: request.expires_at,
            index,
        };
        let folder = self.folder(&id);
        fs::create_dir_all(&folder).map_err(io)?;
        let text = serde_json::to_vec_pretty(&card).map_err(|error| rejected("registering a host", error))?;
        fs::write_atomic(&folder.join("host.json"), &text, fs::Mode::Public).map_err(io)?;
        Ok(card)
    }

    fn write_seed(&self, card: &Card, user_data: &str) -> Result<(), ProviderError> {
        let folder = self.folder(&card.label.to_string());
        let nameservers = nameservers();
        let network = serde_json::json!({
            "version": 2,
            "ethernets": {"host0": {
                "addresses": [format!("{}/30", card.address(2))],
                "routes": [{"to": "0.0.0.0/0", "via": card.address(1)}],
                "nameservers": {"addresses": nameservers},
            }},
        });
        let meta = serde_json::json!({
            "instance-id": format!("{}-{}", card.label, card.created_at.as_second()),
            "local-hostname": format!("lane-{}", card.label.lane).chars().take(63).map(|c| if c == '.' || c == '_' { '-' } else { c }).collect::<String>(),
        });
        for (name, text) in [
            ("user-data", user_data.to_owned()),
            ("meta-data", meta.to_string()),
            ("network-config", network.to_string()),
        ] {
            fs::write_atomic(&folder.join(name), text.as_bytes(), fs::Mode::Private)
                .map_err(|error| transient("writing the seed", format!("{}: {error}", folder.display())))?;
        }
        Ok(())
    }
}

/// Names of machines whose systemd-nspawn runs, as proc(5) shows them; recorded process ids could have been reused.
fn running() -> BTreeSet<String> {
    let pids = fs::list(Path::new("/proc"))
        .unwrap_or_default()
        .into_iter()
        .filter(|name| name.parse::<u32>().is_ok());
    let machine = |pid: String| {
        // A process that ended meanwhile, or that is not ours to look at, is none of ours.
        let line = fs::read(&Path::new("/proc").join(pid).join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).into_owned();
        let mut words = line.split('\0');
        let nspawn = words.next().is_some_and(|program| program.rsplit('/').next() == Some("systemd-nspawn"));
        let name = words.find_map(|word| word.strip_prefix("--machine="))?;
        nspawn.then(|| name.to_owned())
    };
    pids.filter_map(machine).collect()
}

/// Names of network interfaces, as sysfs(5) shows them.
fn links() -> BTreeSet<String> {
    fs::list(Path::new("/sys/class/net")).unwrap_or_default().into_iter().collect()
}

/// Mount points, as `proc_pid_mounts(5)` shows them.
fn mounts() -> BTreeSet<String> {
    let text = fs::read(Path::new("/proc/self/mounts")).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    text.lines().filter_map(|line| line.split(' ').nth(1)).map(str::to_owned).collect()
}

/// Names of nft tables; empty where nft is missing or this user may not look.
async fn tables() -> BTreeSet<String> {
    let listed = sh("nft list tables ip 2>/dev/null", &[]).await;
    let text = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.lines().filter_map(|line| line.split(' ').nth(2)).map(str::to_owned).collect()
}

/// Name servers for the container: this machine's, unless they answer only here.
fn nameservers() -> Vec<String> {
    let read = |path: &str| -> Vec<String> {
        let text = fs::read_optional(Path::new(path)).ok().flatten().unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let named = text.lines().filter_map(|line| line.strip_prefix("nameserver"));
        named
            .map(|rest| rest.trim().to_owned())
            .filter(|server| server.parse::<IpAddr>().is_ok_and(|address| !address.is_loopback()))
            .collect()
    };
    let own = read("/etc/resolv.conf");
    if own.is_empty() { read("/run/systemd/resolve/resolv.conf") } else { own }
}

/// Runs a constant script in a session of its own, so that it outlives a killed lane and gets no Ctrl-C.
async fn sh(script: &str, args: &[&str]) -> Result<std::process::Output, ProviderError> {
    Command::new("setsid")
        .args(["--wait", "sh", "-c", script, "lane"])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|error| ProviderError::Unavailable {
            provider: "nspawn",
            message: format!("a shell cannot be started: {error}"),
            remedy: "sudo apt-get install util-linux".to_owned(),
        })
}

#[async_trait]
impl Provider for Nspawn {
    async fn create(&self, request: &CreateRequest) -> Result<HostId, ProviderError> {
        self.ready().await?;
        let image = self.image(&request.image).await?;
        let card = self.register(request)?;
        self.write_seed(&card, &request.user_data)?;
        let id = card.label.to_string();
        let lineage8 = card.label.lineage8().to_owned();
        let started = sh(
            START,
            &[
                &self.folder(&id).display().to_string(),
                &image.display().to_string(),
                &machine(&lineage8),
                &veth(&lineage8),
                &table(&lineage8),
                &card.address(1).to_string(),
                &card.address(2).to_string(),
                if request.kvm { "yes" } else { "no" },
            ],
        )
        .await?;
        if !started.status.success() {
            // Something of it may be there: the caller looks, and takes it down.
            return Err(ProviderError::Ambiguous {
                provider: "nspawn",
                operation: "starting the container",
                message: String::from_utf8_lossy(&started.stderr).trim_end().to_owned(),
            });
        }
        Ok(HostId::new(id))
    }

    async fn find(&self, selector: &Selector) -> Result<Vec<Host>, ProviderError> {
        let ids = match selector {
            Selector::Label(label) => vec![label.to_string()],
            Selector::Owned => self.ids()?,
        };
        let mut cards = Vec::new();
        for id in ids {
            if let Some(card) = self.card(&id)? {
                cards.push((id, card));
            }
        }
        if cards.is_empty() {
            return Ok(vec![]);
        }
        let (running, links) = (running(), links());
        let host = |(id, card): (String, Card)| {
            let lineage8 = card.label.lineage8();
            let up = running.contains(&machine(lineage8));
            Host {
                id: HostId::new(id),
                status: match (up, links.contains(&veth(lineage8))) {
                    (true, true) => HostStatus::Running,
                    (true, false) => HostStatus::Starting,
                    (false, _) => HostStatus::Stopped,
                },
                address: Some(IpAddr::V4(card.address(2))),
                ssh_port: 22,
                sku: card.sku,
                region: card.region,
                fingerprint: Some(card.fingerprint),
                created_at: Some(card.created_at),
                expires_at: Some(card.expires_at),
                label: card.label,
            }
        };
        Ok(cards.into_iter().map(host).collect())
    }

    async fn destroy(&self, id: &HostId) -> Result<(), ProviderError> {
        self.ready().await?;
        let lineage8 = lineage8_of(id.as_str())
            .ok_or_else(|| rejected("destroying a host", format!("{id} is no host of lane's")))?;
        let stopped = sh(
            STOP,
            &[
                &self.folder(id.as_str()).display().to_string(),
                &machine(lineage8),
                &veth(lineage8),
                &table(lineage8),
            ],
        )
        .await?;
        if stopped.status.success() {
            return Ok(());
        }
        Err(transient("destroying a host", String::from_utf8_lossy(&stopped.stderr).trim_end()))
    }

    async fn residue(&self, selector: &Selector) -> Result<Vec<Residue>, ProviderError> {
        let wanted = |lineage8: &str| match selector {
            Selector::Label(label) => label.lineage8() == lineage8,
            Selector::Owned => true,
        };
        let of_mount = |path: &str| -> Option<String> {
            let inside = Path::new(path).strip_prefix(&self.hosts).ok()?;
            lineage8_of(inside.iter().next()?.to_str()?).map(str::to_owned)
        };
        let prefixed = |prefix: &'static str| move |name: &str| name.strip_prefix(prefix).map(str::to_owned);
        let mut residue = Vec::new();
        let mut collect = |kind: &str, names: BTreeSet<String>, lineage8: &dyn Fn(&str) -> Option<String>| {
            let ours = |name: &String| {
                lineage8(name).is_some_and(|lineage8| lineage8.len() == 8 && wanted(&lineage8))
            };
            residue.extend(names.into_iter().filter(ours).map(|id| Residue {
                kind: kind.to_owned(),
                detail: format!("{kind} {id} on this machine"),
                id,
            }));
        };
        collect("folder", self.ids()?.into_iter().collect(), &|name| lineage8_of(name).map(str::to_owned));
        collect("container", running(), &prefixed("ln-"));
        collect("mount", mounts(), &of_mount);
        collect("veth", links(), &prefixed("ve-ln-"));
        collect("nft table", tables().await, &prefixed("lane_"));
        residue.sort();
        Ok(residue)
    }

    async fn console_log(&self, id: &HostId) -> Result<Option<String>, ProviderError> {
        let path = self.folder(id.as_str()).join("console.log");
        let read = fs::read_optional(&path)
            .map_err(|error| transient("reading the console", format!("{}: {error}", path.display())))?;
        Ok(read.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::Lineage;

    #[test]
    fn only_names_of_ours_have_a_lineage() {
        assert_eq!(lineage8_of("lane-demo-1a2b3c4d"), Some("1a2b3c4d"));
        assert_eq!(lineage8_of("lane-my-demo-1a2b3c4d"), Some("1a2b3c4d"));
        for foreign in [
            "demo-1a2b3c4d",
            "lane-1a2b3c4d",
            "lane-demo-1A2B3C4D",
            "lane-demo-..",
            "lane--1a2b3c4d",
            "lane-demo-1a2b3c4d/..",
        ] {
            assert_eq!(lineage8_of(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn addresses_are_those_of_one_slash_30() {
        let card = |index| Card {
            label: Label { lane: "demo".to_owned(), lineage: Lineage::fixed("01jd0000000000001a2b3c4d") },
            sku: Sku::fixed("container"),
            region: Region::fixed("local"),
            fingerprint: Fingerprint(crate::plan::Digest::of(b"x")),
            created_at: Timestamp::UNIX_EPOCH,
            expires_at: Timestamp::UNIX_EPOCH,
            index,
        };
        assert_eq!(card(0).address(1), Ipv4Addr::new(10, 87, 0, 1));
        assert_eq!(card(64).address(2), Ipv4Addr::new(10, 87, 1, 2));
        assert_eq!(card(POOL - 1).address(2), Ipv4Addr::new(10, 87, 255, 254));
    }
}
