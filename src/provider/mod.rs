//! One cloud behind one trait. No vendor's word here; those stay in `adapters/<provider>.rs`.
//!
//! A provider keeps no memory: what happened is in the journal, what exists is in the cloud.

pub mod http;
#[cfg(test)]
mod recorded;
mod registry;

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::plan::Fingerprint;
use crate::world::World;

pub use http::Link;
pub use registry::{by_name, entries};

macro_rules! text_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(Cow<'static, str>);

        impl $name {
            /// Wraps a text known at compile time.
            pub const fn fixed(text: &'static str) -> Self {
                Self(Cow::Borrowed(text))
            }

            /// Wraps a text.
            pub fn new(text: impl Into<String>) -> Self {
                Self(Cow::Owned(text.into()))
            }

            /// Returns the text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_newtype! {
    /// A provider's word for an instance type.
    Sku
}
text_newtype! {
    /// A provider's word for a place.
    Region
}
text_newtype! {
    /// A provider's own id of a host.
    HostId
}
text_newtype! {
    /// Sent with a create so that a cloud that knows idempotency can see a repeat.
    ClientToken
}
text_newtype! {
    /// A lane's random id, fixed at birth: 26 lowercase ULID characters.
    Lineage
}

/// The name under which a lane's host is known to a cloud: `lane-<name>-<last 8 of the lineage>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Label {
    /// The lane's name.
    pub lane: String,
    /// The lane's lineage.
    pub lineage: Lineage,
}

impl Label {
    /// Returns the last 8 characters of the lineage, its random part.
    pub fn lineage8(&self) -> &str {
        let text = self.lineage.as_str();
        text.get(text.len().saturating_sub(8)..).unwrap_or(text)
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "lane-{}-{}", self.lane, self.lineage8())
    }
}

/// Bytes of a boot disk whose size no spec says.
pub const DEFAULT_DISK: u64 = 50_000_000_000;

/// Money in millionths of a currency's unit; never a float.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Money {
    /// Millionths of the unit.
    pub micros: u64,
    /// ISO 4217 code.
    pub currency: String,
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fraction = format!("{:06}", self.micros % 1_000_000);
        let fraction = fraction.trim_end_matches('0');
        write!(f, "{}.{fraction:0<2} {}", self.micros / 1_000_000, self.currency)
    }
}

impl Money {
    /// Returns what this price per hour comes to over a time, rounded up to a millionth.
    #[must_use]
    pub fn for_duration(&self, time: Duration) -> Self {
        let micros = (u128::from(self.micros) * time.as_millis()).div_ceil(3_600_000);
        Self { micros: u64::try_from(micros).unwrap_or(u64::MAX), currency: self.currency.clone() }
    }
}

/// What one hour of a host costs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Price {
    /// Per hour.
    pub per_hour: Money,
    /// Where the number comes from, with its date.
    pub source: String,
}

/// A row of a price table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed {
    /// Instance type.
    pub sku: &'static str,
    /// Place, or what a place's name begins with before a `-` (a region and its zones); empty means every place.
    pub region: &'static str,
    /// Per hour, in millionths of the currency's unit.
    pub micros: u64,
    /// ISO 4217 code.
    pub currency: &'static str,
    /// Where the number comes from, with its date.
    pub source: &'static str,
}

impl Listed {
    /// Writes a row.
    pub const fn new(
        sku: &'static str,
        region: &'static str,
        micros: u64,
        currency: &'static str,
        source: &'static str,
    ) -> Self {
        Self { sku, region, micros, currency, source }
    }

    /// Returns the price that it names.
    pub fn price(&self) -> Price {
        Price {
            per_hour: Money { micros: self.micros, currency: self.currency.to_owned() },
            source: self.source.to_owned(),
        }
    }

    fn covers(&self, region: &Region) -> bool {
        self.region.is_empty()
            || region
                .as_str()
                .strip_prefix(self.region)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }
}

/// All that is needed to make a host; every field is in the first request, the expiry too.
#[derive(Debug, Clone)]
pub struct CreateRequest {
    /// Who it belongs to.
    pub label: Label,
    /// Instance type.
    pub sku: Sku,
    /// Place.
    pub region: Region,
    /// Plain image name or a raw id.
    pub image: String,
    /// Root disk.
    pub disk_bytes: u64,
    /// Whether `/dev/kvm` is wanted.
    pub kvm: bool,
    /// MIME multipart user-data.
    pub user_data: String,
    /// The moment from which anybody may take it down.
    pub expires_at: Timestamp,
    /// Of the provision step, kept on the host's labels so that a found host can be told from an outdated one.
    pub fingerprint: Fingerprint,
    /// For clouds that know idempotency.
    pub token: ClientToken,
    /// Networks admitted to port 22; empty means: the operator's own address, where the provider has a firewall.
    pub allow_from: Vec<String>,
}

/// Which hosts are meant; there is no way to say 'everything there is'.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// The host of one lane.
    Label(Label),
    /// Every host that carries our labels, of any lane.
    Owned,
}

/// What a host is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HostStatus {
    /// Being made or booting.
    Starting,
    /// Up, as far as the provider knows.
    Running,
    /// There, but off.
    Stopped,
}

/// A host, as its provider describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Host {
    /// The provider's id.
    pub id: HostId,
    /// From its labels.
    pub label: Label,
    /// What it is doing.
    pub status: HostStatus,
    /// Where it can be reached, once known.
    pub address: Option<IpAddr>,
    /// SSH port.
    pub ssh_port: u16,
    /// Instance type.
    pub sku: Sku,
    /// Place.
    pub region: Region,
    /// From its labels: the provision step that it was made for.
    pub fingerprint: Option<Fingerprint>,
    /// When it was made.
    pub created_at: Option<Timestamp>,
    /// From its labels: when its lease ends.
    pub expires_at: Option<Timestamp>,
}

/// Something that still costs money or takes room: hosts, disks, addresses, mounts, rules.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Residue {
    /// `host`, `disk`, `veth`, `nft table`, …
    pub kind: String,
    /// The provider's id of it.
    pub id: String,
    /// Where it was found, for people.
    pub detail: String,
    /// What to give to [`Provider::destroy`] to be rid of it: its host's id, also when that host is gone.
    pub host: HostId,
    /// Whose it is, where its labels or its name say so.
    pub label: Option<Label>,
    /// When it was made, where the provider says.
    pub created_at: Option<Timestamp>,
    /// From its labels: when the lease of its host ends.
    pub expires_at: Option<Timestamp>,
}

impl fmt::Display for Residue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ({})", self.kind, self.id, self.detail)
    }
}

/// Who asks a provider, as it sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Account {
    /// The account's, user's or project's name.
    pub account: String,
    /// The project, subscription or tenant that pays, where there is one.
    pub project: Option<String>,
    /// Where the credentials were found: a variable's name, a file, a service; never what they are.
    pub credentials: String,
}

/// A limit of an account, in the vendor's own unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quota {
    /// The vendor's name of it, with its place.
    pub name: String,
    /// How much there may be.
    pub limit: u64,
    /// How much there is, where the API tells.
    pub used: Option<u64>,
    /// How much one more host takes.
    pub takes: u64,
}

impl Quota {
    /// Tells whether one more host fits, as far as is known.
    pub fn admits(&self) -> bool {
        self.used.unwrap_or(0).saturating_add(self.takes) <= self.limit
    }
}

/// Why a provider did not do what it was asked; each kind is something that a caller can act on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProviderError {
    /// Credentials are missing, wrong or expired.
    #[error("{provider}: not authorised: {message}")]
    Auth {
        /// Provider's name.
        provider: &'static str,
        /// What it said.
        message: String,
    },
    /// The request is refused and will be refused again.
    #[error("{provider}: {operation} was refused: {message}")]
    Rejected {
        /// Provider's name.
        provider: &'static str,
        /// What was asked.
        operation: &'static str,
        /// What it said.
        message: String,
    },
    /// No room for this SKU in this place now.
    #[error("{provider}: no capacity: {message}")]
    Capacity {
        /// Provider's name.
        provider: &'static str,
        /// What it said.
        message: String,
    },
    /// The account may not have more.
    #[error("{provider}: over quota: {message}")]
    Quota {
        /// Provider's name.
        provider: &'static str,
        /// What it said.
        message: String,
    },
    /// Surely nothing happened, and asking again later may work.
    #[error("{provider}: {operation} failed for now: {message}")]
    Transient {
        /// Provider's name.
        provider: &'static str,
        /// What was asked.
        operation: &'static str,
        /// What went wrong.
        message: String,
    },
    /// The request may or may not have had its effect; settled by [`Provider::find`], never by sending it again.
    #[error("{provider}: the outcome of {operation} is unknown: {message}")]
    Ambiguous {
        /// Provider's name.
        provider: &'static str,
        /// What was asked.
        operation: &'static str,
        /// What went wrong.
        message: String,
    },
    /// This machine lacks something that the provider needs.
    #[error("{provider}: {message}")]
    Unavailable {
        /// Provider's name.
        provider: &'static str,
        /// What is missing.
        message: String,
        /// The command or setting that mends it.
        remedy: String,
    },
}

/// One cloud. Keeps no memory: what happened is in the journal, what exists is in the cloud.
#[async_trait]
pub trait Provider: fmt::Debug + Send + Sync + 'static {
    /// Sends at most one creating request, carrying label, lineage and lease; returns once the cloud names the host.
    ///
    /// A lost reply is [`ProviderError::Ambiguous`]; the caller settles it with [`find`](Self::find), never by resending.
    async fn create(&self, request: &CreateRequest) -> Result<HostId, ProviderError>;

    /// Lists matching hosts in every region and every state but gone; none is `Ok(vec![])`, two for one label is both.
    async fn find(&self, selector: &Selector) -> Result<Vec<Host>, ProviderError>;

    /// Asks for deletion of the host and of all that was made with it, also when the host itself is gone already; with
    /// nothing left it is `Ok(())`.
    async fn destroy(&self, id: &HostId) -> Result<(), ProviderError>;

    /// Lists what still costs money or takes room; verify-gone needs this empty.
    async fn residue(&self, selector: &Selector) -> Result<Vec<Residue>, ProviderError>;

    /// Moves the end of a host's lease on its labels, and on the cloud's own clock where it has one; may be repeated.
    async fn set_expiry(&self, id: &HostId, _expires_at: Timestamp) -> Result<(), ProviderError> {
        Err(ProviderError::Unavailable {
            provider: "this provider",
            message: format!("the lease of {id} cannot be moved there"),
            remedy: "`lane destroy` and `lane apply` with another `lease.ttl` make a host with a new lease"
                .to_owned(),
        })
    }

    /// Names what its listings cover: the account, project or subscription, and the endpoint where it is not the vendor's.
    ///
    /// A host that was made in one scope is neither seen nor destroyed in another, so the record keeps it. `None` where
    /// there is one only.
    async fn scope(&self) -> Result<Option<String>, ProviderError> {
        Ok(None)
    }

    /// Says why a host that was named is not listed any more, where the cloud still knows.
    async fn fate(&self, _id: &HostId) -> Result<Option<String>, ProviderError> {
        Ok(None)
    }

    /// Says who asks, by one cheap request; a proof that the credentials work. Holds no secret.
    async fn whoami(&self) -> Result<Account, ProviderError> {
        Err(ProviderError::Unavailable {
            provider: "this provider",
            message: "lane cannot ask it who you are".to_owned(),
            remedy: "`lane list --cloud` with the provider's name asks it something too".to_owned(),
        })
    }

    /// Returns the vendor's own id of an image, for a plain name the newest one; `None` where a name is all there is.
    async fn resolve_image(
        &self,
        _image: &str,
        _sku: &Sku,
        _region: &Region,
    ) -> Result<Option<String>, ProviderError> {
        Ok(None)
    }

    /// Returns the limits of the account that one more host counts against, as far as the API tells them.
    async fn quotas(&self, _sku: &Sku, _region: &Region) -> Result<Vec<Quota>, ProviderError> {
        Ok(vec![])
    }

    /// Returns the serial console, or `None` where there is none.
    async fn console_log(&self, _id: &HostId) -> Result<Option<String>, ProviderError> {
        Ok(None)
    }
}

/// How a SKU is known to have a working `/dev/kvm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KvmSupport {
    /// It has it, by the vendor's word.
    Yes,
    /// It has none, by the vendor's word.
    No,
    /// Nobody says; the probe will tell.
    Unknown,
}

/// Makes a provider out of its own keys.
pub type Connect = fn(&World, &serde_json::Value, Link) -> Result<Box<dyn Provider>, ProviderError>;

/// Reads a provider's own keys.
pub(crate) fn config<Config: serde::de::DeserializeOwned>(
    provider: &'static str,
    keys: &serde_json::Value,
) -> Result<Config, ProviderError> {
    serde_json::from_value(keys.clone()).map_err(|error| ProviderError::Rejected {
        provider,
        operation: "reading its keys",
        message: error.to_string(),
    })
}

/// A client token as a UUID (RFC 9562), for clouds that want one; a ULID and a UUID both have 128 bits.
pub fn token_uuid(token: &ClientToken) -> String {
    let bits = ulid::Ulid::from_string(token.as_str()).map_or_else(
        |_| {
            let digest = blake3::hash(token.as_str().as_bytes());
            digest.as_bytes().iter().take(16).fold(0, |bits, byte| bits << 8 | u128::from(*byte))
        },
        |ulid| ulid.0,
    );
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

/// Asks a service that says from which address it is asked; `LANE_ADDRESS_SERVICE` names another one.
const ADDRESS_SERVICE: &str = "https://checkip.amazonaws.com/";

/// Returns the network that a firewall has to admit so that the operator gets in: the one address it is seen from.
pub(crate) async fn operator_network(
    world: &World,
    provider: &'static str,
    wire: &dyn http::Wire,
) -> Result<String, ProviderError> {
    let service = world.var("LANE_ADDRESS_SERVICE").unwrap_or(ADDRESS_SERVICE);
    let unknown = |why: String| ProviderError::Unavailable {
        provider,
        message: format!("{service} does not say from which address you come: {why}"),
        remedy: "write `access: {allow_from: [<your network>]}` into the spec".to_owned(),
    };
    let answer = wire.send(&http::Request::get(service)).await.map_err(|error| match error {
        http::WireError::NotSent(why) | http::WireError::Untrusted(why) | http::WireError::Lost(why) => {
            unknown(why)
        }
    })?;
    let text = String::from_utf8_lossy(&answer.body).trim().to_owned();
    match text.parse() {
        Ok(IpAddr::V4(address)) if answer.status == 200 => Ok(format!("{address}/32")),
        Ok(IpAddr::V6(address)) if answer.status == 200 => Ok(format!("{address}/128")),
        _ => Err(unknown(format!("HTTP {}", answer.status))),
    }
}

/// The `connect` of an adapter whose API calls are not part of this build: its keys are checked, then it says so.
pub(crate) fn without_api<Config: serde::de::DeserializeOwned>(
    provider: &'static str,
    config: &serde_json::Value,
) -> Result<Box<dyn Provider>, ProviderError> {
    let read: Result<Config, _> = serde_json::from_value(config.clone());
    Err(match read {
        Ok(_) => ProviderError::Unavailable {
            provider,
            message: "this build of lane cannot make hosts there yet".to_owned(),
            remedy: "`lane validate` and `lane plan --offline` work; provider `nspawn` makes hosts on this machine"
                .to_owned(),
        },
        Err(error) => {
            ProviderError::Rejected { provider, operation: "reading its keys", message: error.to_string() }
        }
    })
}

/// What makes an adapter: each file in `adapters/` exports one as `ENTRY`.
#[derive(Debug)]
pub struct Entry {
    /// Name in specs.
    pub name: &'static str,
    /// One line for help and docs.
    pub about: &'static str,
    /// Variables whose values are secret, in the order in which they are tried; they are redacted everywhere.
    pub credentials: &'static [&'static str],
    /// Variables that `lane login` asks for; only all of them together are credentials.
    pub kept: &'static [&'static str],
    /// Variables that `lane login` keeps beside those, where the user has them.
    pub kept_beside: &'static [&'static str],
    /// Variables, and keys of its own in a spec, that say by which other way credentials come: the keyring is not asked then.
    pub stands_for_itself: &'static [&'static str],
    /// The vendor's own way to sign in, as a command; empty where there is none.
    pub sign_in: &'static str,
    /// Files in which the vendor's own tools keep credentials; any of them marks a user of this provider.
    pub files: fn(&World) -> Vec<PathBuf>,
    /// Programs that making hosts takes on this machine.
    pub tools: &'static [&'static str],
    /// Base address of the API by the environment and the provider's own keys; empty where there is none.
    pub endpoint: fn(&World, &serde_json::Value) -> String,
    /// Taken when the spec names none.
    pub default_sku: Sku,
    /// Taken when the spec names none.
    pub default_region: Region,
    /// Taken when the spec names none.
    pub default_image: &'static str,
    /// How long `find` may not see a fresh host.
    pub listing_lag: Duration,
    /// Default limit for the provision step.
    pub provision_timeout: Duration,
    /// Largest user-data that the provider takes, in bytes as given to [`Provider::create`].
    pub user_data_limit: usize,
    /// Whether the cloud itself deletes a host when its lease ends.
    pub cloud_clock: bool,
    /// Whether a host that powers itself off is not billed any more; only then it gets a lease timer.
    pub timer_stops_bill: bool,
    /// The region in the provider's own keys (`zone`, `location`), if it is given there.
    pub region_key: &'static str,
    /// The provider's own keys for `lane init`, as indented YAML lines; what has no default stands there with a value.
    pub init_keys: fn() -> String,
    /// Schema of the provider's own keys.
    pub schema: fn(&mut schemars::SchemaGenerator) -> schemars::Schema,
    /// Whether a SKU has KVM.
    pub kvm: fn(&Sku) -> KvmSupport,
    /// What an hour costs, by a dated table.
    pub prices: &'static [Listed],
    /// Makes the provider out of its own keys; reads no file and opens no socket.
    pub connect: Connect,
}

impl Entry {
    /// Returns what an hour costs, by the dated table; `None` where the table does not say.
    pub fn price(&self, sku: &Sku, region: &Region) -> Option<Price> {
        let row = self.prices.iter().find(|row| row.sku == sku.as_str() && row.covers(region));
        row.map(Listed::price)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_shows_at_least_two_decimals_and_no_needless_zero() {
        let usd = |micros| Money { micros, currency: "USD".to_owned() }.to_string();
        assert_eq!(usd(0), "0.00 USD");
        assert_eq!(usd(4_080_000), "4.08 USD");
        assert_eq!(usd(194_236), "0.194236 USD");
        assert_eq!(usd(3_500_000), "3.50 USD");
    }

    #[test]
    fn money_over_time_rounds_up() {
        let hour = Money { micros: 1, currency: "USD".to_owned() };
        assert_eq!(hour.for_duration(Duration::from_secs(1)).micros, 1);
        let metal = Money { micros: 4_080_000, currency: "USD".to_owned() };
        assert_eq!(metal.for_duration(Duration::from_mins(90)).micros, 6_120_000);
    }

    #[test]
    fn a_row_covers_its_place_and_the_places_in_it() {
        let covers = |row: &'static str, place: &str| {
            Listed::new("s", row, 1, "EUR", "a test, 2026-05").covers(&Region::new(place))
        };
        assert!(covers("here", "here") && covers("here", "here-a") && covers("", "anywhere"));
        assert!(!covers("here", "hereabouts") && !covers("here", "there") && !covers("here-a", "here"));
    }

    #[test]
    fn every_default_host_but_one_has_a_price_and_every_price_a_date() {
        for entry in entries() {
            for (number, row) in entry.prices.iter().enumerate() {
                let same = |other: &&Listed| other.sku == row.sku && other.region == row.region;
                assert_eq!(entry.prices.iter().position(|other| same(&other)), Some(number), "{row:?}");
                let dated = row.source.contains("20") || row.micros == 0;
                assert!(dated && row.currency.len() == 3, "{}: {row:?}", entry.name);
            }
        }
        // No list of Latitude's tells its price: `max_spend` needs `price` in the spec there.
        let unpriced =
            entries().iter().filter(|entry| entry.price(&entry.default_sku, &entry.default_region).is_none());
        assert_eq!(unpriced.map(|entry| entry.name).collect::<Vec<_>>(), ["latitude"]);
        let zone = Region::new("us-central1-f");
        let price = by_name("gcp").and_then(|entry| entry.price(&Sku::new("n2-standard-4"), &zone));
        assert_eq!(price.map(|price| price.per_hour.micros), Some(194_236));
    }

    #[test]
    fn every_entry_is_consistent() {
        for entry in entries() {
            assert_eq!(by_name(entry.name).map(|found| found.name), Some(entry.name));
            assert!(!entry.about.is_empty() && entry.user_data_limit >= 16_384, "{}", entry.name);
            let secret = |variable: &&&str| entry.credentials.contains(*variable);
            assert_eq!(entry.kept.is_empty(), !entry.kept.iter().any(|kept| secret(&kept)), "{}", entry.name);
            let keys = entry.init_keys;
            assert!(
                keys().is_empty() || keys().ends_with('\n'),
                "{}: init keys end with a line end",
                entry.name
            );
        }
    }
}
