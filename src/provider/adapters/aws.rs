//! Amazon EC2, by its Query API of version 2016-11-15.
//!
//! A lane is an instance with its disk and network interface, and one security group that admits the operator alone.
//! The instance terminates when it powers itself off, so the host's own lease timer stops the bill.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_credential_types::Credentials as Keys;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::{Mutex, OnceCell};

use crate::plan::{Digest, Fingerprint};
use crate::provider::http::{
    self, Body, CallError, Credentials, Dialect, Http, Link, Meaning, Request, Response, VendorError, Wire,
};
use crate::provider::{
    Account, CreateRequest, Entry, Host, HostId, HostStatus, KvmSupport, Label, Lineage, Listed, Provider,
    ProviderError, Quota, Region, Residue, Selector, Sku, config, operator_network,
};
use crate::world::World;

const NAME: &str = "aws";
const VERSION: &str = "2016-11-15";
/// Regions asked side by side.
const AT_ONCE: usize = 8;
/// Publisher of an image and its name there; anyone may publish an image called ubuntu, so the publisher is part of it.
const IMAGES: [(&str, &str, &str); 4] = [
    ("ubuntu-24.04", "099720109477", "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-ARCH-server-*"),
    ("ubuntu-22.04", "099720109477", "ubuntu/images/hvm-ssd/ubuntu-jammy-22.04-ARCH-server-*"),
    ("debian-12", "136693071363", "debian-12-ARCH-*"),
    ("debian-13", "136693071363", "debian-13-ARCH-*"),
];
/// Limits on vCPUs of instances of families A, C, D, H, I, M, R, T and Z, on demand and spot (Service Quotas, `ec2`).
const QUOTAS: [&str; 2] = ["L-1216C47A", "L-34B43A08"];
/// Families whose virtual types nest (`DescribeInstanceTypes`, feature `nested-virtualization`).
const NESTING: [&str; 18] = [
    "c8i", "c8i-flex", "c8id", "m8i", "m8i-flex", "m8id", "r8i", "r8i-flex", "r8id", "x8i", "c7i",
    "c7i-flex", "m7i", "m7i-flex", "r7i", "r7iz", "i7i", "i7ie",
];

/// Keys of provider `aws`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Region, `us-east-1`.
    region: Option<String>,
    /// Profile of the shared configuration file; else `AWS_PROFILE`.
    profile: Option<String>,
    /// Subnet, where there is no default VPC.
    subnet: Option<String>,
    /// Whether to take a spot instance: cheaper, and Amazon may take it back at two minutes' notice. Metal only, since
    /// nested virtualisation and spot exclude each other.
    #[serde(default)]
    spot: bool,
    /// Regions that are listed, where an organisation's policy refuses the others; hosts are made in these alone. What is
    /// in a region outside of them is neither seen nor taken down.
    regions: Option<Vec<String>>,
    /// Base address of the API, for an emulator.
    endpoint: Option<String>,
}

pub(crate) static ENTRY: Entry = Entry {
    name: NAME,
    about: "Amazon EC2; KVM on metal types, and nested on some virtual ones",
    credentials: &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"],
    kept: &["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"],
    kept_beside: &["AWS_SESSION_TOKEN"],
    stands_for_itself: &[
        "AWS_PROFILE",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "profile",
    ],
    sign_in: "aws sso login",
    files: |world| {
        let named =
            |variable, file| world.var(variable).map_or_else(|| world.home().join(file), PathBuf::from);
        vec![
            named("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials"),
            named("AWS_CONFIG_FILE", ".aws/config"),
        ]
    },
    tools: &[],
    endpoint: |world, keys| {
        let region = keys["region"].as_str().unwrap_or(ENTRY.default_region.as_str());
        Some(elsewhere(world, keys["endpoint"].as_str()))
            .filter(|address| !address.is_empty())
            .unwrap_or_else(|| vendor("ec2", region))
    },
    default_sku: Sku::fixed("c5.metal"),
    default_region: Region::fixed("us-east-1"),
    default_image: "ubuntu-24.04",
    listing_lag: Duration::from_mins(1),
    provision_timeout: Duration::from_mins(40),
    user_data_limit: 16384,
    cloud_clock: false,
    timer_stops_bill: true,
    region_key: "region",
    init_keys: || "  region: us-east-1\n".to_owned(),
    schema: |generator| generator.subschema_for::<Config>(),
    kvm,
    prices: PRICES,
    connect,
};

/// Returns what stands in for Amazon's own address, by the environment or a spec's `endpoint`; empty where nothing does.
fn elsewhere(world: &World, written: Option<&str>) -> String {
    http::endpoint(world, NAME, configured(world, "EC2").or(written), "")
}

fn family(sku: &Sku) -> &str {
    sku.as_str().split('.').next().unwrap_or_default()
}

fn is_metal(sku: &Sku) -> bool {
    sku.as_str().split('.').nth(1).is_some_and(|size| size.starts_with("metal"))
}

/// Whether a type is one of Amazon's own ARM processors: a `g` right behind the generation's number, or the first of them.
fn is_arm(sku: &Sku) -> bool {
    family(sku) == "a1"
        || family(sku).trim_start_matches(|c: char| c.is_ascii_alphabetic()).chars().nth(1) == Some('g')
}

/// Whether the virtual type has to be asked for KVM.
fn is_nested(request: &CreateRequest) -> bool {
    request.kvm && !is_metal(&request.sku) && NESTING.contains(&family(&request.sku))
}

fn kvm(sku: &Sku) -> KvmSupport {
    let generation = family(sku).trim_start_matches(|c: char| c.is_ascii_alphabetic());
    let is_amd = generation.chars().nth(1) == Some('a');
    let is_old = ["1", "2", "3", "4", "5", "6"].iter().any(|old| generation.starts_with(old));
    if family(sku).starts_with("mac") {
        KvmSupport::No
    } else if is_metal(sku) || NESTING.contains(&family(sku)) {
        KvmSupport::Yes
    } else if is_old || is_amd || is_arm(sku) {
        KvmSupport::No
    } else {
        KvmSupport::Unknown
    }
}

/// The list of 2025-03 for metal has not changed for years.
const METAL: &str = "list price, 2025-03";
static PRICES: &[Listed] = &[
    Listed::new("m8i.xlarge", "us-east-1", 212_000, "USD", "list price, 2026-04"),
    Listed::new("c5n.metal", "us-east-1", 3_888_000, "USD", METAL),
    Listed::new("c5.metal", "us-east-1", 4_080_000, "USD", METAL),
    Listed::new("c5.metal", "eu-central-1", 4_656_000, "USD", METAL),
    Listed::new("m5.metal", "us-east-1", 4_608_000, "USD", METAL),
    Listed::new("m5.metal", "eu-central-1", 5_520_000, "USD", METAL),
];

/// Returns the address of a service that the user's own variables name, unless they are switched off.
fn configured<'a>(world: &'a World, service: &str) -> Option<&'a str> {
    let ignored = world.var("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS");
    if ignored.is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return None;
    }
    world.var(&format!("AWS_ENDPOINT_URL_{service}")).or_else(|| world.var("AWS_ENDPOINT_URL"))
}

/// Whether an address is Amazon's own, a private one of a VPC say, and no stand-in.
fn is_vendors(endpoint: &str) -> bool {
    let host = endpoint.split("://").last().unwrap_or_default().split(['/', ':']).next().unwrap_or_default();
    host.ends_with(".amazonaws.com") || host.ends_with(".amazonaws.com.cn")
}

fn connect(world: &World, keys: &Value, link: Link) -> Result<Box<dyn Provider>, ProviderError> {
    let config: Config = config(NAME, keys)?;
    let endpoint = elsewhere(world, config.endpoint.as_deref());
    let wire = link.open(world, NAME)?;
    let home = || ["AWS_REGION", "AWS_DEFAULT_REGION"].iter().find_map(|name| world.var(name));
    let region = config.region.as_deref().or_else(home).unwrap_or(ENTRY.default_region.as_str()).to_owned();
    let chain = Chain {
        world: world.clone(),
        profile: config.profile.clone(),
        region: region.clone(),
        stands_in: !endpoint.is_empty() && !is_vendors(&endpoint),
        found: OnceCell::new(),
        kept: Mutex::default(),
    };
    let (endpoint, chain) = ((!endpoint.is_empty()).then_some(endpoint), Arc::new(chain));
    Ok(Box::new(Aws {
        region,
        endpoint,
        config,
        chain,
        wire,
        world: world.clone(),
        regions: OnceCell::new(),
        identity: OnceCell::new(),
    }))
}

/// Where an AWS user keeps credentials: variables, the shared files with SSO and processes, web identity, containers,
/// the metadata service.
#[derive(Debug)]
struct Chain {
    world: World,
    profile: Option<String>,
    region: String,
    stands_in: bool,
    found: OnceCell<SharedCredentialsProvider>,
    /// Until when they are taken as they are.
    kept: Mutex<Option<(Keys, Timestamp)>>,
}

impl Chain {
    fn profile(&self) -> Option<&str> {
        self.profile.as_deref().or_else(|| self.world.var("AWS_PROFILE"))
    }

    /// Says where credentials come from, in the order in which they are looked for.
    fn origin(&self) -> String {
        match (self.in_variables(), self.profile()) {
            (Some(_), _) => "AWS_ACCESS_KEY_ID".to_owned(),
            (None, Some(profile)) => format!("profile {profile} of the shared configuration files"),
            (None, None) if self.stands_in => "none, for an emulator".to_owned(),
            (None, None) => "the default profile, SSO, or the role of this machine".to_owned(),
        }
    }

    /// A profile that the spec names counts more than the variables, as it does for Amazon's own tools.
    fn in_variables(&self) -> Option<Keys> {
        let var = |name: &str| self.world.var(name).map(str::to_owned).filter(|_| self.profile.is_none());
        let (id, secret) = (var("AWS_ACCESS_KEY_ID")?, var("AWS_SECRET_ACCESS_KEY")?);
        Some(Keys::new(id, secret, var("AWS_SESSION_TOKEN"), None, "environment"))
    }

    async fn keys(&self) -> Result<Keys, ProviderError> {
        if let Some(keys) = self.in_variables() {
            return Ok(keys);
        }
        if self.stands_in && self.profile().is_none() {
            return Ok(Keys::new("test", "test", None, None, "an emulator's"));
        }
        // Each look may ask a service or start a program.
        let (mut kept, now) = (self.kept.lock().await, self.world.now());
        if let Some((keys, _)) = kept.as_ref().filter(|(_, until)| now < *until) {
            return Ok(keys.clone());
        }
        let keys = self.look().await?;
        let expiry = keys.expiry().and_then(|at| Timestamp::try_from(at).ok());
        let until = match expiry {
            Some(at) => at - jiff::SignedDuration::from_mins(5),
            None => now + jiff::SignedDuration::from_mins(15),
        };
        *kept = Some((keys.clone(), until));
        Ok(keys)
    }

    async fn look(&self) -> Result<Keys, ProviderError> {
        let none = |why: &str| ProviderError::Auth {
            provider: NAME,
            message: format!(
                "no credentials work: {why} (run `aws sso login` or `aws configure`, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY)"
            ),
        };
        let provider = self
            .found
            .get_or_try_init(|| async { self.provider().await.ok_or_else(|| none("none were found")) })
            .await?;
        provider.provide_credentials().await.map_err(|error| match (error, &self.profile()) {
            (CredentialsError::CredentialsNotLoaded(_), Some(profile)) => {
                none(&format!("profile {profile} gives none"))
            }
            (CredentialsError::CredentialsNotLoaded(_), None) => none("none were found"),
            (error, profile) if needs_sign_in(&error) => {
                let profile = profile.map(|name| format!(" --profile {name}")).unwrap_or_default();
                ProviderError::Auth {
                    provider: NAME,
                    message: format!(
                        "the SSO session has ended: run `aws sso login{profile}` ({})",
                        http::chain(&error)
                    ),
                }
            }
            // A service that fails for now must not end a take-down.
            (error @ (CredentialsError::ProviderTimedOut(_) | CredentialsError::ProviderError(_)), _) => {
                ProviderError::Transient {
                    provider: NAME,
                    operation: "getting credentials",
                    message: match none(&http::chain(&error)) {
                        ProviderError::Auth { message, .. } => message,
                        other => other.to_string(),
                    },
                }
            }
            (error, _) => none(&http::chain(&error)),
        })
    }

    async fn provider(&self) -> Option<SharedCredentialsProvider> {
        use aws_smithy_http_client::{Builder, Connector, proxy, tls};
        let client = Builder::new().build_with_connector_fn(|settings, _| {
            let ring = tls::Provider::Rustls(tls::rustls_provider::CryptoMode::Ring);
            let connector = Connector::builder().proxy_config(proxy::ProxyConfig::from_env());
            connector.connector_settings(settings.cloned().unwrap_or_default()).tls_provider(ring).build()
        });
        let region = aws_config::Region::new(self.region.clone());
        if let Some(profile) = &self.profile {
            let config = aws_config::provider_config::ProviderConfig::default()
                .with_http_client(client)
                .with_region(Some(region));
            let files = aws_config::profile::ProfileFileCredentialsProvider::builder();
            let found = files.configure(&config).profile_name(profile).build();
            return Some(SharedCredentialsProvider::new(found));
        }
        let loader = aws_config::defaults(aws_config::BehaviorVersion::latest());
        loader.http_client(client).region(region).load().await.credentials_provider()
    }
}

/// Tells whether a person has to sign in again. The types behind it are private, so its words have to do.
fn needs_sign_in(error: &CredentialsError) -> bool {
    let said = http::chain(error);
    // An ended session, none at all, and what the service says of one that it does not know any more.
    ["the SSO token has expired", "cached SSO token", "/.aws/sso/cache/", "UnauthorizedException"]
        .iter()
        .any(|words| said.contains(words))
}

/// Signs for one service in one region.
#[derive(Debug)]
struct Signer {
    chain: Arc<Chain>,
    service: &'static str,
    region: String,
}

#[async_trait]
impl Credentials for Signer {
    async fn sign(&self, request: &mut Request) -> Result<(), ProviderError> {
        let wrong = |why: &dyn std::fmt::Display| ProviderError::Auth {
            provider: NAME,
            message: format!("the request cannot be signed: {why}"),
        };
        let identity = self.chain.keys().await?.into();
        let now = self.chain.world.now();
        let params = v4::SigningParams::builder()
            .identity(&identity)
            .region(&self.region)
            .name(self.service)
            .time(
                SystemTime::UNIX_EPOCH
                    + Duration::from_secs(u64::try_from(now.as_second()).unwrap_or_default()),
            )
            .settings(SigningSettings::default())
            .build()
            .map_err(|error| wrong(&error))?
            .into();
        let (content_type, body) = request.body.as_ref().map(Body::encode).unwrap_or_default();
        let own = request.headers.iter().map(|(name, value)| (name.as_str(), value.reveal()));
        // A content type of the request's own stands for the body's.
        let of_body = [("content-type", content_type)].into_iter();
        let of_body = of_body.filter(|(name, _)| !request.headers.iter().any(|(own, _)| own == name));
        let headers = of_body.chain(own).collect::<Vec<_>>().into_iter();
        let signable =
            SignableRequest::new(request.method.as_str(), &request.url, headers, SignableBody::Bytes(&body))
                .map_err(|error| wrong(&error))?;
        let (instructions, _) = sign(signable, &params).map_err(|error| wrong(&error))?.into_parts();
        for (name, value) in instructions.headers() {
            *request = request.clone().header(name, value);
        }
        Ok(())
    }
}

static DIALECT: Dialect =
    Dialect { provider: NAME, request_id: "x-amzn-requestid", parse: read_xml, read: read_error };

/// Service Quotas speaks JSON.
static QUOTA_DIALECT: Dialect = Dialect {
    provider: NAME,
    request_id: "x-amzn-requestid",
    parse: http::json,
    read: |response| {
        let body: Value = serde_json::from_slice(&response.body).ok()?;
        let code = body["__type"].as_str()?.rsplit('#').next()?.to_owned();
        let message =
            body["Message"].as_str().or(body["message"].as_str()).unwrap_or("no message").to_owned();
        let (meaning, advice) = match code.trim_end_matches("Exception") {
            "TooManyRequests" => (Some(Meaning::Later), ""),
            "NoSuchResource" => (Some(Meaning::NotFound), ""),
            other => meaning(other).map_or((None, ""), |(meaning, advice)| (Some(meaning), advice)),
        };
        Some(VendorError { meaning, code, message: advised(message, advice) })
    },
};

/// An element that is open while XML is read.
#[derive(Default)]
struct Element {
    name: String,
    members: Map<String, Value>,
    items: Vec<Value>,
    text: String,
}

impl Element {
    /// A list is an element of `item`s; an empty element is the same as none.
    fn value(self) -> Value {
        if !self.items.is_empty() {
            Value::Array(self.items)
        } else if !self.members.is_empty() {
            Value::Object(self.members)
        } else if self.text.trim().is_empty() {
            Value::Null
        } else {
            Value::String(self.text.trim().to_owned())
        }
    }
}

/// Reads EC2's XML into the value that its JSON would be.
fn read_xml(body: &[u8]) -> Result<Value, String> {
    use quick_xml::events::Event;
    let text = std::str::from_utf8(body).map_err(|error| format!("the answer is no UTF-8: {error}"))?;
    let mut reader = quick_xml::Reader::from_str(text);
    reader.config_mut().expand_empty_elements = true;
    let broken = |why: &dyn std::fmt::Display| format!("the answer is no whole XML: {why}");
    let mut open: Vec<Element> = vec![];
    loop {
        match (reader.read_event().map_err(|error| broken(&error))?, open.last_mut()) {
            (Event::Start(start), _) => {
                open.push(Element { name: start.local_name().as_ref().to_owned(), ..Element::default() });
            }
            (Event::Text(part), Some(element)) => element.text.push_str(&part),
            (Event::GeneralRef(reference), Some(element)) => {
                let known = reference.resolve_char_ref().map_err(|error| broken(&error))?;
                let named = quick_xml::escape::resolve_predefined_entity(&reference).map(str::to_owned);
                element
                    .text
                    .push_str(&known.map(String::from).or(named).ok_or_else(|| broken(&"an entity"))?);
            }
            (Event::End(_), _) => {
                let Some(element) = open.pop() else { return Err(broken(&"an end")) };
                match (open.last_mut(), element.name.clone()) {
                    (None, name) if name.ends_with("Response") => return Ok(element.value()),
                    (None, name) => return Err(format!("the answer is `{name}`, and none of Amazon's")),
                    (Some(parent), name) if name == "item" => parent.items.push(element.value()),
                    (Some(parent), name) => drop(parent.members.insert(name, element.value())),
                }
            }
            (Event::Eof, _) => return Err(broken(&"it ends too early")),
            _ => {}
        }
    }
}

/// Reads `<Response><Errors><Error><Code/><Message/></Error></Errors></Response>`.
fn read_error(response: &Response) -> Option<VendorError> {
    let body = read_xml(&response.body).ok()?;
    let error = if body["Errors"]["Error"].is_object() { &body["Errors"]["Error"] } else { &body["Error"] };
    let code = error["Code"].as_str()?;
    let text = error["Message"].as_str().unwrap_or("no message");
    let known = match code {
        // So it words an interface that cannot be deleted yet.
        "InvalidParameterValue" if text.contains("is currently in use") => Some((Meaning::Later, "")),
        code => meaning(code),
    };
    let advice = known.map_or("", |(_, advice)| advice);
    let mut message = advised(text.to_owned(), advice);
    if let Some(id) = body["RequestID"].as_str().filter(|_| response.header(DIALECT.request_id).is_none()) {
        let _ = write!(message, " (request {id})");
    }
    Some(VendorError { meaning: known.map(|(meaning, _)| meaning), code: code.to_owned(), message })
}

fn advised(message: String, advice: &str) -> String {
    if advice.is_empty() { message } else { format!("{message} ({advice})") }
}

/// What a code means, and what to do then; `None` leaves it to the status.
fn meaning(code: &str) -> Option<(Meaning, &'static str)> {
    Some(match code {
        "AuthFailure"
        | "InvalidClientTokenId"
        | "SignatureDoesNotMatch"
        | "InvalidSignature"
        | "MissingAuthenticationToken" => (
            Meaning::Auth,
            "the keys are wrong, which `aws sts get-caller-identity` tells, or this machine's clock is off: `lane doctor aws`",
        ),
        "ExpiredToken" | "ExpiredTokenException" => (Meaning::Auth, "run `aws sso login`, or get new keys"),
        // EC2's word for old session keys too.
        "RequestExpired" => (
            Meaning::Auth,
            "run `aws sso login`, or get new keys; with new ones, this machine's clock is off",
        ),
        "UnauthorizedOperation" | "AccessDenied" => {
            (Meaning::Auth, "the message names the action that a policy has to allow")
        }
        "OptInRequired" => (Meaning::Auth, "enable the region, or EC2, in this account"),
        "PendingVerification" => (Meaning::Auth, "Amazon is checking the account, for up to four hours"),
        "InsufficientInstanceCapacity" | "InsufficientHostCapacity" => {
            (Meaning::Capacity, "try another region or `sku`: `lane prices aws --kvm`")
        }
        "Unsupported" => (Meaning::Capacity, "the type is not in this zone: try another region or `sku`"),
        "VcpuLimitExceeded" => (
            Meaning::Quota,
            "ask for more of `Running On-Demand Standard instances`, L-1216C47A, in Service Quotas; c5.metal needs 96",
        ),
        "InstanceLimitExceeded"
        | "MaxSpotInstanceCountExceeded"
        | "AddressLimitExceeded"
        | "VolumeLimitExceeded"
        | "SecurityGroupLimitExceeded" => (Meaning::Quota, "ask for more in Service Quotas"),
        // Too many requests, or something still uses it.
        "RequestLimitExceeded"
        | "Throttling"
        | "ThrottlingException"
        | "EC2ThrottledException"
        | "DependencyViolation"
        | "IncorrectInstanceState"
        | "IncorrectState"
        | "InvalidNetworkInterface.InUse"
        | "VolumeInUse" => (Meaning::Later, ""),
        "InvalidGroup.Duplicate" | "InvalidPermission.Duplicate" | "IdempotentParameterMismatch" => {
            (Meaning::Conflict, "")
        }
        "InvalidInstanceID.NotFound"
        | "InvalidGroup.NotFound"
        | "InvalidGroupId.NotFound"
        | "InvalidVolume.NotFound"
        | "InvalidNetworkInterfaceID.NotFound" => (Meaning::NotFound, ""),
        "InvalidAMIID.NotFound" => (Meaning::Rejected, "an image's id is of one region"),
        "InvalidSubnetID.NotFound" => (Meaning::Rejected, "a subnet is of one region"),
        "OperationNotPermitted" => {
            (Meaning::Rejected, "termination protection is on: a person has to switch it off")
        }
        _ => return None,
    })
}

#[derive(Debug)]
struct Aws {
    region: String,
    endpoint: Option<String>,
    config: Config,
    chain: Arc<Chain>,
    wire: Arc<dyn Wire>,
    world: World,
    regions: OnceCell<Vec<String>>,
    identity: OnceCell<Value>,
}

/// A call's parameters, in the order in which they are written.
struct Call(Vec<(String, String)>);

impl Call {
    fn new(action: &str) -> Self {
        Self(vec![]).with("Action", action).with("Version", VERSION)
    }

    fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.0.push((name.to_owned(), value.into()));
        self
    }

    fn filter(self, name: &str, values: &[&str]) -> Self {
        let number = 1 + self
            .0
            .iter()
            .filter(|(known, _)| known.starts_with("Filter.") && known.ends_with(".Name"))
            .count();
        let call = self.with(&format!("Filter.{number}.Name"), name);
        values
            .iter()
            .enumerate()
            .fold(call, |call, (at, value)| call.with(&format!("Filter.{number}.Value.{}", at + 1), *value))
    }

    fn ours(self, selector: &Selector) -> Self {
        let call = self.filter("tag:managed-by", &["lane"]);
        match selector {
            Selector::Owned => call,
            Selector::Label(label) => {
                call.filter("tag:lane", &[&label.lane]).filter("tag:lineage", &[label.lineage.as_str()])
            }
        }
    }

    /// Tags what is being made, from its first moment on.
    fn tagged(self, number: usize, kind: &str, tags: &[(&str, String)]) -> Self {
        let prefix = format!("TagSpecification.{number}");
        let call = self.with(&format!("{prefix}.ResourceType"), kind);
        tags.iter().enumerate().fold(call, |call, (at, (key, value))| {
            let prefix = format!("{prefix}.Tag.{}", at + 1);
            call.with(&format!("{prefix}.Key"), *key).with(&format!("{prefix}.Value"), value)
        })
    }
}

fn tags(request: &CreateRequest) -> Vec<(&'static str, String)> {
    vec![
        ("Name", request.label.to_string()),
        ("managed-by", "lane".to_owned()),
        ("lane", request.label.lane.clone()),
        ("lineage", request.label.lineage.to_string()),
        ("expires", request.expires_at.to_string()),
        ("fingerprint", request.fingerprint.0.as_str().to_owned()),
    ]
}

/// Returns the members of a list.
fn items(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn tag<'a>(thing: &'a Value, key: &str) -> Option<&'a str> {
    items(&thing["tagSet"]).iter().find(|tag| tag["key"] == key).and_then(|tag| tag["value"].as_str())
}

fn time(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

/// Returns the region and the thing's own id out of a host's id.
fn parts(id: &HostId) -> (&str, &str) {
    id.as_str().split_once('/').unwrap_or(("", id.as_str()))
}

/// Reads whose a thing is; a lineage alone does not say it.
fn label(thing: &Value) -> Option<Label> {
    Some(Label { lane: tag(thing, "lane")?.to_owned(), lineage: Lineage::new(tag(thing, "lineage")?) })
}

/// Reads an instance; `None` for one that carries half of our tags and so belongs to no lane.
fn host(region: &str, instance: &Value) -> Option<Host> {
    Some(Host {
        id: HostId::new(format!("{region}/{}", instance["instanceId"].as_str()?)),
        label: label(instance)?,
        status: match instance["instanceState"]["name"].as_str().unwrap_or_default() {
            "pending" => HostStatus::Starting,
            "running" => HostStatus::Running,
            _ => HostStatus::Stopped,
        },
        address: instance["ipAddress"].as_str().and_then(|address| address.parse().ok()),
        ssh_port: 22,
        sku: Sku::new(instance["instanceType"].as_str().unwrap_or_default()),
        region: Region::new(region),
        fingerprint: tag(instance, "fingerprint").map(|text| Fingerprint(Digest::from_text(text))),
        created_at: time(&instance["launchTime"]),
        expires_at: tag(instance, "expires").and_then(|text| text.parse().ok()),
    })
}

/// Lists the networks that a group admits to port 22.
fn rules(group: &Value) -> Vec<String> {
    let of_ssh = items(&group["ipPermissions"])
        .iter()
        .filter(|rule| rule["ipProtocol"] == "tcp" && rule["fromPort"] == "22" && rule["toPort"] == "22");
    let networks = of_ssh.flat_map(|rule| {
        let four = items(&rule["ipRanges"]).iter().map(|range| &range["cidrIp"]);
        four.chain(items(&rule["ipv6Ranges"]).iter().map(|range| &range["cidrIpv6"]))
    });
    networks.filter_map(|network| network.as_str().map(str::to_owned)).collect()
}

/// What was just made may be unknown for seconds to the next who asks; nothing was done then.
fn fresh(operation: &'static str, message: String) -> ProviderError {
    ProviderError::Transient { provider: NAME, operation, message }
}

fn vendor(service: &str, region: &str) -> String {
    let suffix = if region.starts_with("cn-") { ".cn" } else { "" };
    format!("https://{service}.{region}.amazonaws.com{suffix}")
}

impl Aws {
    #[track_caller]
    fn request(&self, region: &str, call: Call) -> Request {
        let base = self.endpoint.clone().unwrap_or_else(|| vendor("ec2", region));
        Request::post(format!("{base}/")).form(call.0)
    }

    fn http(&self, region: &str) -> Http {
        self.http_of("ec2", region, &DIALECT)
    }

    fn http_of(&self, service: &'static str, region: &str, dialect: &'static Dialect) -> Http {
        let signer = Signer { chain: Arc::clone(&self.chain), service, region: region.to_owned() };
        Http::new(Arc::clone(&self.wire), dialect, Arc::new(signer))
    }

    /// Returns the address of a service beside EC2: one of its own, unless what stands in for EC2 stands in for all.
    fn beside(&self, name: &str, service: &str, region: &str) -> String {
        let written = configured(&self.world, name).map(|url| url.trim_end_matches('/').to_owned());
        let of_all = || {
            let of_ec2_alone = self.world.var("AWS_ENDPOINT_URL_EC2").is_some();
            self.endpoint.clone().filter(|endpoint| !of_ec2_alone && !is_vendors(endpoint))
        };
        format!("{}/", written.or_else(of_all).unwrap_or_else(|| vendor(service, region)))
    }

    async fn call(&self, what: &'static str, region: &str, call: Call) -> Result<Value, CallError> {
        self.http(region).call(what, self.request(region, call)).await
    }

    /// Lists all pages of something.
    async fn list(&self, region: &str, call: Call, set: &str) -> Result<Vec<Value>, ProviderError> {
        let parameters = call.0;
        let request = |token: Option<&str>| {
            let call = Call(parameters.clone());
            self.request(region, token.into_iter().fold(call, |call, token| call.with("NextToken", token)))
        };
        let next = |page: &Value| page["nextToken"].as_str().map(|token| request(Some(token)));
        let pages = self.http(region).pages("listing", request(None), set, next).await?;
        Ok(pages.iter().flat_map(|page| items(&page[set]).to_vec()).collect())
    }

    /// Returns the regions that the account uses. One that does not answer later makes a listing an error, not empty.
    async fn regions(&self) -> Result<&[String], ProviderError> {
        let regions = self
            .regions
            .get_or_try_init(|| async {
                if let Some(regions) = &self.config.regions {
                    return Ok(regions.clone());
                }
                let found = self.list(&self.region, Call::new("DescribeRegions"), "regionInfo").await?;
                let enabled = found.iter().filter(|region| region["optInStatus"] != "not-opted-in");
                let mut names: Vec<String> =
                    enabled.filter_map(|region| region["regionName"].as_str().map(str::to_owned)).collect();
                if !names.contains(&self.region) {
                    names.push(self.region.clone());
                }
                Ok::<_, ProviderError>(names)
            })
            .await?;
        Ok(regions)
    }

    /// Asks every region, several at once.
    async fn everywhere<T, F>(&self, ask: impl Fn(String) -> F) -> Result<Vec<T>, ProviderError>
    where
        F: Future<Output = Result<Vec<T>, ProviderError>>,
    {
        let regions = self.regions().await?.to_vec();
        let mut answers = stream::iter(regions.into_iter().map(ask)).buffer_unordered(AT_ONCE);
        let mut all = Vec::new();
        while let Some(answer) = answers.next().await {
            all.extend(answer?);
        }
        Ok(all)
    }

    /// Asks once who we are, which needs no permission at all.
    async fn identity(&self) -> Result<&Value, ProviderError> {
        let ask = || async {
            let call = Call(vec![]).with("Action", "GetCallerIdentity").with("Version", "2011-06-15");
            let request = Request::post(self.beside("STS", "sts", &self.region)).form(call.0);
            let answer =
                self.http_of("sts", &self.region, &DIALECT).call("asking who we are", request).await?;
            Ok::<_, ProviderError>(answer["GetCallerIdentityResult"].clone())
        };
        self.identity.get_or_try_init(ask).await
    }

    async fn instances(&self, region: &str, call: Call) -> Result<Vec<Value>, ProviderError> {
        let reservations = self.list(region, call, "reservationSet").await?;
        Ok(reservations.iter().flat_map(|reservation| items(&reservation["instancesSet"]).to_vec()).collect())
    }

    /// Returns the VPC for the host: the subnet's, or the default one.
    async fn vpc(&self, region: &str) -> Result<String, ProviderError> {
        let (call, set, lacks) = match &self.config.subnet {
            Some(subnet) => (
                Call::new("DescribeSubnets").with("SubnetId.1", subnet),
                "subnetSet",
                format!("subnet {subnet} is not in {region}"),
            ),
            None => (
                Call::new("DescribeVpcs").filter("is-default", &["true"]),
                "vpcSet",
                format!(
                    "{region} has no default VPC: run `aws ec2 create-default-vpc --region {region}`, or name a `subnet` in the spec"
                ),
            ),
        };
        let found = self.list(region, call, set).await?;
        let vpc = found.first().and_then(|found| found["vpcId"].as_str());
        vpc.map(str::to_owned).ok_or(ProviderError::Rejected {
            provider: NAME,
            operation: "choosing a network",
            message: lacks,
        })
    }

    /// Says how a spec asks for each zone of a region; nothing where that is not to be had.
    async fn zones(&self, region: &str) -> String {
        let call = Call::new("DescribeSubnets").filter("default-for-az", &["true"]);
        let found = self.list(region, call, "subnetSet").await.unwrap_or_default();
        let zone = |subnet: &Value| {
            Some(format!("{} is {}", subnet["availabilityZone"].as_str()?, subnet["subnetId"].as_str()?))
        };
        let mut zones: Vec<String> = found.iter().filter_map(zone).collect();
        zones.sort();
        if zones.is_empty() {
            return String::new();
        }
        format!("; a `subnet` in the spec asks for its zone: {}", zones.join(", "))
    }

    /// Returns the id and the root device of the newest image of a name, or of the image of this id.
    async fn image(&self, region: &str, image: &str, sku: &Sku) -> Result<(String, String), ProviderError> {
        let call = Call::new("DescribeImages");
        // Publishers write it in another way than the API.
        let (arch, architecture) = if is_arm(sku) { ("arm64", "arm64") } else { ("amd64", "x86_64") };
        let call = match IMAGES.iter().find(|(name, ..)| *name == image) {
            Some((_, owner, pattern)) => call
                .with("Owner.1", *owner)
                .filter("name", &[&pattern.replace("ARCH", arch)])
                .filter("architecture", &[architecture])
                .filter("state", &["available"]),
            None => call.with("ImageId.1", image),
        };
        let found = self.list(region, call, "imagesSet").await?;
        let newest = found.iter().max_by_key(|image| image["creationDate"].as_str().unwrap_or_default());
        let read = |image: &Value| {
            Some((
                image["imageId"].as_str()?.to_owned(),
                image["rootDeviceName"].as_str().unwrap_or("/dev/sda1").to_owned(),
            ))
        };
        newest.and_then(read).ok_or_else(|| ProviderError::Rejected {
            provider: NAME,
            operation: "choosing an image",
            message: format!("there is no image {image} in {region}"),
        })
    }

    /// Makes the lane's security group, or takes the one that an earlier try made.
    async fn security_group(&self, request: &CreateRequest, vpc: &str) -> Result<String, ProviderError> {
        let (what, region, name) =
            ("making a security group", request.region.as_str(), request.label.to_string());
        let admitted = match request.allow_from.as_slice() {
            [] => vec![operator_network(&self.world, NAME, self.wire.as_ref()).await?],
            networks => networks.to_vec(),
        };
        let call = Call::new("CreateSecurityGroup")
            .with("GroupName", &name)
            .with("GroupDescription", format!("lane {}", request.label.lane))
            .with("VpcId", vpc)
            .tagged(1, "security-group", &tags(request));
        let group = match self.call(what, region, call).await {
            Ok(made) => Some(made),
            Err(CallError::Conflict(_)) => {
                let call = Call::new("DescribeSecurityGroups")
                    .filter("group-name", &[&name])
                    .filter("vpc-id", &[vpc]);
                let found = self.list(region, call, "securityGroupInfo").await?;
                if found.is_empty() {
                    return Err(fresh(what, format!("{name} is there already and is not listed yet")));
                }
                let of_us = |group: &Value| tag(group, "lineage") == Some(request.label.lineage.as_str());
                found.into_iter().find(of_us)
            }
            Err(error) => return Err(error.refused(NAME, what)),
        };
        let own = group.as_ref().and_then(|group| group["groupId"].as_str()).map(str::to_owned);
        let own = own.ok_or_else(|| ProviderError::Rejected {
            provider: NAME,
            operation: what,
            message: format!("a security group {name} that is not this lane's stands in the way in {vpc}"),
        })?;
        let there = group.map(|group| rules(&group)).unwrap_or_default();
        // A call is carried out as a whole or not at all, so each network has one of its own.
        let (added, dropped) = (
            admitted.iter().filter(|network| !there.contains(*network)),
            there.iter().filter(|network| !admitted.contains(*network)),
        );
        let changes = added
            .map(|network| ("AuthorizeSecurityGroupIngress", network))
            .chain(dropped.map(|network| ("RevokeSecurityGroupIngress", network)));
        for (action, network) in changes {
            let (list, key) =
                if network.contains(':') { ("Ipv6Ranges", "CidrIpv6") } else { ("IpRanges", "CidrIp") };
            let call = Call::new(action)
                .with("GroupId", &own)
                .with("IpPermissions.1.IpProtocol", "tcp")
                .with("IpPermissions.1.FromPort", "22")
                .with("IpPermissions.1.ToPort", "22")
                .with(&format!("IpPermissions.1.{list}.1.{key}"), network);
            match self.call(what, region, call).await {
                Ok(_) | Err(CallError::Conflict(_)) => {}
                Err(CallError::NotFound(message)) => return Err(fresh(what, message)),
                Err(error) => return Err(error.refused(NAME, what)),
            }
        }
        Ok(own)
    }

    fn run(&self, request: &CreateRequest, group: &str, image: &(String, String)) -> Call {
        let mut call = Call::new("RunInstances")
            .with("MinCount", "1")
            .with("MaxCount", "1")
            .with("ImageId", &image.0)
            .with("InstanceType", request.sku.as_str())
            .with("ClientToken", request.token.as_str())
            .with("InstanceInitiatedShutdownBehavior", "terminate")
            .with("UserData", BASE64.encode(&request.user_data))
            // Every process on the host could read the keys in the user-data by the old way.
            .with("MetadataOptions.HttpTokens", "required")
            .with("MetadataOptions.HttpEndpoint", "enabled")
            .with("MetadataOptions.HttpPutResponseHopLimit", "1")
            .with("BlockDeviceMapping.1.DeviceName", &image.1)
            .with("BlockDeviceMapping.1.Ebs.VolumeSize", request.disk_bytes.div_ceil(1 << 30).to_string())
            .with("BlockDeviceMapping.1.Ebs.VolumeType", "gp3")
            .with("BlockDeviceMapping.1.Ebs.DeleteOnTermination", "true")
            .with("NetworkInterface.1.DeviceIndex", "0")
            .with("NetworkInterface.1.AssociatePublicIpAddress", "true")
            .with("NetworkInterface.1.DeleteOnTermination", "true")
            .with("NetworkInterface.1.SecurityGroupId.1", group);
        if let Some(subnet) = &self.config.subnet {
            call = call.with("NetworkInterface.1.SubnetId", subnet);
        }
        if is_nested(request) {
            call = call.with("CpuOptions.NestedVirtualization", "enabled");
        }
        let tags = tags(request);
        let mut kinds = vec!["instance", "volume", "network-interface"];
        if self.config.spot {
            call = call
                .with("InstanceMarketOptions.MarketType", "spot")
                .with("InstanceMarketOptions.SpotOptions.SpotInstanceType", "one-time")
                .with("InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior", "terminate");
            kinds.push("spot-instances-request");
        }
        kinds.iter().enumerate().fold(call, |call, (at, kind)| call.tagged(at + 1, kind, &tags))
    }

    /// Deletes one thing; what is not there is deleted.
    async fn delete(&self, region: &str, action: &str, key: &str, id: &str) -> Result<(), ProviderError> {
        match self.call("deleting", region, Call::new(action).with(key, id)).await {
            Ok(_) | Err(CallError::NotFound(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Reads one instance; `None` where there is none, or none any more.
    async fn described(&self, region: &str, own: &str) -> Result<Option<Value>, ProviderError> {
        let call = Call::new("DescribeInstances").with("InstanceId.1", own);
        match self.call("reading an instance", region, call).await {
            Ok(seen) => Ok(Some(seen["reservationSet"][0]["instancesSet"][0].clone())),
            Err(CallError::NotFound(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn residue_in(&self, region: &str, selector: &Selector) -> Result<Vec<Residue>, ProviderError> {
        let mut found = Vec::new();
        let instances = self.instances(region, alive(Call::new("DescribeInstances").ours(selector))).await?;
        let known = |id: &&str| instances.iter().any(|one| one["instanceId"] == **id);
        let mut add = |kind: &str, key: &str, thing: &Value, detail: String, owner: Option<&str>| {
            let id = thing[key].as_str().unwrap_or_default().to_owned();
            found.push(Residue {
                kind: kind.to_owned(),
                // A disk of ours may hang on an instance that is not ours, which must not go with it.
                host: HostId::new(format!("{region}/{}", owner.unwrap_or(&id))),
                id,
                detail,
                label: label(thing),
                created_at: time(&thing["createTime"]),
                expires_at: tag(thing, "expires").and_then(|text| text.parse().ok()),
            });
        };
        for volume in self.list(region, Call::new("DescribeVolumes").ours(selector), "volumeSet").await? {
            let owner = volume["attachmentSet"][0]["instanceId"].as_str().filter(known);
            let detail = format!("{} GB in {region}", volume["size"].as_str().unwrap_or("?"));
            add("volume", "volumeId", &volume, detail, owner);
        }
        let call = Call::new("DescribeNetworkInterfaces").ours(selector);
        for interface in self.list(region, call, "networkInterfaceSet").await? {
            let owner = interface["attachment"]["instanceId"].as_str().filter(known);
            add("network interface", "networkInterfaceId", &interface, region.to_owned(), owner);
        }
        let call = Call::new("DescribeSecurityGroups").ours(selector);
        for group in self.list(region, call, "securityGroupInfo").await? {
            let owner = instances.iter().find(|instance| label(instance) == label(&group));
            let owner = owner.and_then(|instance| instance["instanceId"].as_str());
            add("security group", "groupId", &group, format!("free of charge, in {region}"), owner);
        }
        Ok(found)
    }
}

/// A terminated instance is listed for an hour more and costs nothing.
fn alive(call: Call) -> Call {
    call.filter("instance-state-name", &["pending", "running", "shutting-down", "stopping", "stopped"])
}

#[async_trait]
impl Provider for Aws {
    async fn create(&self, request: &CreateRequest) -> Result<HostId, ProviderError> {
        let (what, region) = ("starting an instance", request.region.as_str());
        if self.config.regions.as_ref().is_some_and(|regions| !regions.iter().any(|known| known == region)) {
            let message =
                format!("{region} is not among the spec's `regions`, so nobody would find it there");
            return Err(ProviderError::Rejected { provider: NAME, operation: what, message });
        }
        if self.config.spot && is_nested(request) {
            let message =
                "nested virtualisation and spot exclude each other: take a metal type, or no spot".to_owned();
            return Err(ProviderError::Rejected { provider: NAME, operation: what, message });
        }
        let image = self.image(region, &request.image, &request.sku).await?;
        let vpc = self.vpc(region).await?;
        let group = self.security_group(request, &vpc).await?;
        let run = self.request(region, self.run(request, &group, &image)).once();
        match self.http(region).call(what, run).await {
            Ok(made) => {
                match items(&made["instancesSet"]).first().and_then(|made| made["instanceId"].as_str()) {
                    Some(id) => Ok(HostId::new(format!("{region}/{id}"))),
                    None => Err(ProviderError::Ambiguous {
                        provider: NAME,
                        operation: what,
                        message: "the answer names no instance".to_owned(),
                    }),
                }
            }
            // The token was used by a request that differed in a key or a time: there is, or was, an instance of it.
            Err(CallError::Conflict(message)) => {
                Err(ProviderError::Ambiguous { provider: NAME, operation: what, message })
            }
            Err(CallError::NotFound(message)) => Err(fresh(what, message)),
            Err(CallError::Provider(ProviderError::Capacity { message, .. })) => {
                let hint = match &self.config.subnet {
                    Some(subnet) => format!("; {subnet} is in one zone, so another `subnet` may do"),
                    None => self.zones(region).await,
                };
                let message = message + &hint;
                Err(ProviderError::Capacity { provider: NAME, message })
            }
            Err(error) => Err(error.refused(NAME, what)),
        }
    }

    async fn find(&self, selector: &Selector) -> Result<Vec<Host>, ProviderError> {
        self.everywhere(|region| async move {
            let found = self.instances(&region, alive(Call::new("DescribeInstances").ours(selector))).await?;
            Ok(found.iter().filter_map(|instance| host(&region, instance)).collect())
        })
        .await
    }

    async fn destroy(&self, id: &HostId) -> Result<(), ProviderError> {
        let (region, own) = parts(id);
        if own.starts_with("sg-") {
            return self.delete(region, "DeleteSecurityGroup", "GroupId", own).await;
        }
        if own.starts_with("vol-") {
            return self.delete(region, "DeleteVolume", "VolumeId", own).await;
        }
        if own.starts_with("eni-") {
            return self.delete(region, "DeleteNetworkInterface", "NetworkInterfaceId", own).await;
        }
        let Some(instance) = self.described(region, own).await? else { return Ok(()) };
        // A terminated one loses its tags after a while.
        if instance["instanceState"]["name"] != "terminated" {
            if tag(&instance, "managed-by") != Some("lane") {
                return Err(ProviderError::Rejected {
                    provider: NAME,
                    operation: "terminating an instance",
                    message: format!(
                        "{own} in {region} has no tag managed-by=lane, so lane did not make it: look at it with `aws ec2 describe-instances --instance-ids {own} --region {region}`"
                    ),
                });
            }
            self.delete(region, "TerminateInstances", "InstanceId.1", own).await?;
        }
        // Its group goes when its interface is gone, which takes minutes; until then it is residue of its own.
        let Some(label) = label(&instance) else { return Ok(()) };
        let call = Call::new("DescribeSecurityGroups").ours(&Selector::Label(label));
        for group in self.list(region, call, "securityGroupInfo").await? {
            let group = group["groupId"].as_str().unwrap_or_default();
            let request =
                self.request(region, Call::new("DeleteSecurityGroup").with("GroupId", group)).once();
            match self.http(region).call("deleting", request).await {
                Ok(_)
                | Err(CallError::NotFound(_) | CallError::Provider(ProviderError::Transient { .. })) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    async fn residue(&self, selector: &Selector) -> Result<Vec<Residue>, ProviderError> {
        self.everywhere(|region| async move { self.residue_in(&region, selector).await }).await
    }

    async fn set_expiry(&self, id: &HostId, expires_at: Timestamp) -> Result<(), ProviderError> {
        let what = "moving the lease";
        let (region, own) = parts(id);
        let call = Call::new("CreateTags")
            .with("ResourceId.1", own)
            .with("Tag.1.Key", "expires")
            .with("Tag.1.Value", expires_at.to_string());
        self.call(what, region, call).await.map_err(|error| error.refused(NAME, what))?;
        Ok(())
    }

    async fn whoami(&self) -> Result<Account, ProviderError> {
        let identity = self.identity().await?;
        let text = |key: &str| identity[key].as_str().map(str::to_owned);
        Ok(Account {
            account: text("Arn").unwrap_or_default(),
            project: text("Account"),
            credentials: self.chain.origin(),
        })
    }

    async fn scope(&self) -> Result<Option<String>, ProviderError> {
        let Some(account) = self.identity().await?["Account"].as_str() else {
            return Err(ProviderError::Ambiguous {
                provider: NAME,
                operation: "asking who we are",
                message: "the answer names no account".to_owned(),
            });
        };
        let mut scope = format!("account {account}");
        if let Some(regions) = &self.config.regions {
            let _ = write!(scope, " in {}", regions.join(", "));
        }
        if let Some(endpoint) = self.endpoint.as_ref().filter(|endpoint| !is_vendors(endpoint)) {
            let _ = write!(scope, " at {endpoint}");
        }
        Ok(Some(scope))
    }

    async fn fate(&self, id: &HostId) -> Result<Option<String>, ProviderError> {
        let (region, own) = parts(id);
        let Some(instance) = self.described(region, own).await? else { return Ok(None) };
        let state = instance["instanceState"]["name"].as_str().unwrap_or_default();
        if !["terminated", "shutting-down"].contains(&state) {
            return Ok(None);
        }
        let reason = &instance["stateReason"];
        let code = reason["code"].as_str().unwrap_or("no reason given");
        // The message often begins with the code.
        let message = reason["message"].as_str().unwrap_or_default();
        let message = message.trim_start_matches(code).trim_start_matches(':').trim_start();
        let message = if message.is_empty() { String::new() } else { format!(": {message}") };
        Ok(Some(format!("{own} is {state}: {code}{message}")))
    }

    async fn resolve_image(
        &self,
        image: &str,
        sku: &Sku,
        region: &Region,
    ) -> Result<Option<String>, ProviderError> {
        Ok(Some(self.image(region.as_str(), image, sku).await?.0))
    }

    async fn quotas(&self, sku: &Sku, region: &Region) -> Result<Vec<Quota>, ProviderError> {
        let (what, region) = ("reading a quota", region.as_str());
        let call = Call::new("DescribeInstanceTypes").with("InstanceType.1", sku.as_str());
        let types = self.call(what, region, call).await?;
        let cpus = &types["instanceTypeSet"][0]["vCpuInfo"]["defaultVCpus"];
        let Some(takes) = cpus.as_str().and_then(|text| text.parse().ok()) else { return Ok(vec![]) };
        // The other families have limits of their own.
        let series = family(sku).split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
        if !["a", "c", "d", "h", "i", "m", "r", "t", "z"].contains(&series) {
            return Ok(vec![]);
        }
        let code = QUOTAS[usize::from(self.config.spot)];
        let request = Request::post(self.beside("SERVICE_QUOTAS", "servicequotas", region))
            .header("content-type", "application/x-amz-json-1.1")
            .header("x-amz-target", "ServiceQuotasV20190624.GetServiceQuota")
            .json(json!({"ServiceCode": "ec2", "QuotaCode": code}));
        let quota = self.http_of("servicequotas", region, &QUOTA_DIALECT).call(what, request).await?;
        let (name, limit) = (quota["Quota"]["QuotaName"].as_str(), quota["Quota"]["Value"].as_f64());
        let (Some(name), Some(limit)) = (name, limit) else { return Ok(vec![]) };
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a number of vCPUs")]
        let limit = limit as u64;
        Ok(vec![Quota { name: format!("{name} ({code}) in {region}, vCPUs"), limit, used: None, takes }])
    }

    async fn console_log(&self, id: &HostId) -> Result<Option<String>, ProviderError> {
        let (region, own) = parts(id);
        let call = || Call::new("GetConsoleOutput").with("InstanceId", own);
        // Only instances of the newer kind show what came after their start.
        let answer = match self.call("reading the console", region, call().with("Latest", "true")).await {
            Err(CallError::Provider(ProviderError::Rejected { .. })) => {
                self.call("reading the console", region, call()).await
            }
            other => other,
        };
        let answer = match answer {
            Ok(answer) => answer,
            Err(CallError::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let text = answer["output"].as_str().map(|text| text.split_whitespace().collect::<String>());
        let bytes = text.and_then(|text| BASE64.decode(text).ok());
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use super::*;
    use crate::world::SystemClock;

    #[test]
    fn types_have_kvm_as_amazon_says() {
        let rows = [
            ("m8i.xlarge", KvmSupport::Yes),
            ("c8id.large", KvmSupport::Yes),
            ("r7iz.2xlarge", KvmSupport::Yes),
            ("c5.metal", KvmSupport::Yes),
            ("c7a.metal-48xl", KvmSupport::Yes),
            ("mac2.metal", KvmSupport::No),
            ("c5.large", KvmSupport::No),
            ("m6i.large", KvmSupport::No),
            ("c7a.large", KvmSupport::No),
            ("t3.micro", KvmSupport::No),
            ("m7g.large", KvmSupport::No),
            ("x9i.large", KvmSupport::Unknown),
        ];
        for (sku, support) in rows {
            assert_eq!(kvm(&Sku::fixed(sku)), support, "{sku}");
        }
        for (sku, arm) in
            [("a1.metal", true), ("m7gd.large", true), ("g4dn.metal", false), ("c5.metal", false)]
        {
            assert_eq!(is_arm(&Sku::fixed(sku)), arm, "{sku}");
        }
        let Some(table) = crate::emulators::description::read("aws-kvm-skus.json") else { return };
        for (sku, row) in table["types"].as_object().unwrap() {
            let sku = Sku::new(sku.as_str());
            assert_eq!(kvm(&sku), KvmSupport::Yes, "{sku}");
            assert_eq!(NESTING.contains(&family(&sku)) && !is_metal(&sku), row["kvm"] == "nested", "{sku}");
            assert_eq!(is_arm(&sku), row["arch"] == "arm64", "{sku}");
        }
    }

    fn world(vars: &[(&str, &str)]) -> World {
        let vars: BTreeMap<String, String> =
            vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        World::fixed(Arc::new(SystemClock), vars, PathBuf::from("/"))
    }

    fn chain(vars: &[(&str, &str)], profile: Option<&str>) -> Chain {
        Chain {
            world: world(vars),
            profile: profile.map(str::to_owned),
            region: "us-east-1".to_owned(),
            stands_in: false,
            found: OnceCell::new(),
            kept: Mutex::default(),
        }
    }

    const VARIABLES: [(&str, &str); 2] =
        [("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"), ("AWS_SECRET_ACCESS_KEY", "secret")];

    #[test]
    fn a_profile_of_the_spec_counts_more_than_the_variables() {
        assert_eq!(chain(&VARIABLES, None).origin(), "AWS_ACCESS_KEY_ID");
        assert!(chain(&VARIABLES, Some("mine")).in_variables().is_none());
        assert!(chain(&VARIABLES, Some("mine")).origin().contains("profile mine"));
    }

    /// Gives keys, and counts how often.
    #[derive(Debug, Default)]
    struct Counted {
        asked: Arc<std::sync::atomic::AtomicUsize>,
        lives: Option<Duration>,
        fails: bool,
    }

    impl ProvideCredentials for Counted {
        fn provide_credentials<'a>(&'a self) -> aws_credential_types::provider::future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            self.asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let now = u64::try_from(Timestamp::now().as_second()).unwrap();
            let expiry = self.lives.map(|lives| SystemTime::UNIX_EPOCH + Duration::from_secs(now) + lives);
            aws_credential_types::provider::future::ProvideCredentials::ready(if self.fails {
                Err(CredentialsError::provider_error("reset"))
            } else {
                Ok(Keys::new("id", "secret", None, expiry, "a test"))
            })
        }
    }

    #[tokio::test]
    async fn keys_are_looked_for_once_until_shortly_before_they_end() {
        for (minutes, looks) in [(None, 1), (Some(60), 1), (Some(4), 3)] {
            let chain = chain(&[], None);
            let counted = Counted { lives: minutes.map(Duration::from_mins), ..Counted::default() };
            let asked = Arc::clone(&counted.asked);
            chain.found.set(SharedCredentialsProvider::new(counted)).unwrap();
            for _ in 0..3 {
                chain.keys().await.unwrap();
            }
            assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), looks, "{minutes:?}");
        }
    }

    #[tokio::test]
    async fn a_source_of_keys_that_fails_for_now_is_asked_again() {
        let chain = chain(&[], None);
        let counted = Counted { fails: true, ..Counted::default() };
        chain.found.set(SharedCredentialsProvider::new(counted)).unwrap();
        let error = chain.keys().await.unwrap_err();
        assert!(matches!(error, ProviderError::Transient { .. }), "{error}");
        assert!(
            error.to_string().contains("reset") && error.to_string().contains("aws sso login"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn what_says_how_a_body_is_read_is_signed() {
        let signer = Signer {
            chain: Arc::new(chain(&VARIABLES, None)),
            service: "servicequotas",
            region: "us-east-1".to_owned(),
        };
        let mut request = Request::post("https://servicequotas.us-east-1.amazonaws.com/")
            .header("content-type", "application/x-amz-json-1.1")
            .header("x-amz-target", "ServiceQuotasV20190624.GetServiceQuota")
            .json(json!({}));
        signer.sign(&mut request).await.unwrap();
        let proof = request.headers.iter().find(|(name, _)| name == "authorization").unwrap().1.reveal();
        assert!(proof.contains("SignedHeaders=content-type;host;x-amz-date;x-amz-target,"), "{proof}");
    }

    #[test]
    fn endpoints_of_services_are_their_own() {
        let beside = |vars: &[(&str, &str)], name: &str, service: &'static str| {
            let vars: Vec<_> = VARIABLES.iter().chain(vars).copied().collect();
            let world = world(&vars);
            let endpoint = elsewhere(&world, None);
            let aws = Aws {
                region: "us-east-1".to_owned(),
                endpoint: (!endpoint.is_empty()).then_some(endpoint),
                config: config(NAME, &json!({})).unwrap(),
                chain: Arc::new(chain(&vars, None)),
                wire: Link::Network.open(&world, NAME).unwrap(),
                world,
                regions: OnceCell::new(),
                identity: OnceCell::new(),
            };
            aws.beside(name, service, "us-east-1")
        };
        let (own, all) = (("AWS_ENDPOINT_URL_EC2", "http://ec2"), ("AWS_ENDPOINT_URL", "http://all"));
        let vendors = "https://sts.us-east-1.amazonaws.com/";
        assert_eq!(beside(&[own], "STS", "sts"), vendors);
        assert_eq!(beside(&[own, all], "STS", "sts"), "http://all/");
        assert_eq!(beside(&[("LANE_AWS_ENDPOINT", "http://one")], "STS", "sts"), "http://one/");
        assert_eq!(beside(&[("LANE_AWS_ENDPOINT", "https://vpce-1.amazonaws.com")], "STS", "sts"), vendors);
        let quotas = ("AWS_ENDPOINT_URL_SERVICE_QUOTAS", "http://quotas");
        assert_eq!(beside(&[quotas], "SERVICE_QUOTAS", "servicequotas"), "http://quotas/");
        let ignored = ("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", "true");
        assert_eq!(beside(&[all, ("AWS_ENDPOINT_URL_STS", "http://sts"), ignored], "STS", "sts"), vendors);
    }
}
