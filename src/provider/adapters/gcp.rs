//! Google Compute Engine, by its REST API v1 (discovery document of revision 20261106).
//!
//! A lane is an instance with its boot disk, and two firewall rules that admit the operator alone. All have the lane's
//! label as their name, which Google keeps unique in project and zone; the instance carries a deletion deadline of its
//! own (`maxRunDuration`), so nothing but the rules, which are free, outlives its lease.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::plan::{Digest, Fingerprint};
use crate::provider::http::{
    self, CallError, Credentials, Dialect, Http, Link, Meaning, Request, Response, Secret, VendorError, Wire,
};
use crate::provider::{
    Account, CreateRequest, DEFAULT_DISK, Entry, Host, HostId, HostStatus, KvmSupport, Label, Lineage,
    Listed, Provider, ProviderError, Quota, Region, Residue, Selector, Sku, config, operator_network,
    token_uuid,
};
use crate::world::{World, fs};

const NAME: &str = "gcp";
const SCOPES: [&str; 1] = ["https://www.googleapis.com/auth/compute"];
const VENDOR: &str = "https://compute.googleapis.com/compute/v1";
/// How often an operation is looked at.
const POLL: Duration = Duration::from_secs(2);
/// Of one instance or rule; the provision step's own deadline comes first.
const OPERATION: Duration = Duration::from_mins(15);
/// Compute Engine takes nothing below or above (API, `Scheduling.maxRunDuration`).
const RUN_SECONDS: std::ops::RangeInclusive<i64> = 30..=120 * 24 * 3600;
/// How long the metadata service may take to show that this machine is one of Google's.
const PROBE: Duration = Duration::from_secs(2);
/// How long `gcloud` may take to hand out a token.
const GCLOUD: Duration = Duration::from_secs(30);
/// How long such a token is kept; `gcloud` renews it in time.
const GCLOUD_TOKEN: Duration = Duration::from_mins(4);
/// The way out for whoever has no credentials that work.
const LOGIN: &str = "run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS";
/// Says whose a token is.
const TOKENINFO: &str = "https://oauth2.googleapis.com/tokeninfo";
/// How each of our firewall rules is described, which has no labels.
const OURS: &str = "managed-by=lane ";
/// Debian's own images have no cloud-init. A reboot from inside keeps the instance running, so its deadline stays.
const CLOUD_INIT: &str = "#!/bin/sh
command -v cloud-init >/dev/null && exit 0
export DEBIAN_FRONTEND=noninteractive
until apt-get update && apt-get install -y cloud-init; do sleep 5; done
cloud-init clean --logs
reboot
";
/// What a label takes (Compute Engine, 'Requirements for labels'), of 64.
const FINGERPRINT: usize = 32;
/// Project and image families by plain name, of x86-64 and of ARM.
const IMAGES: [(&str, &str, [&str; 2]); 4] = [
    ("ubuntu-24.04", "ubuntu-os-cloud", ["ubuntu-2404-lts-amd64", "ubuntu-2404-lts-arm64"]),
    ("ubuntu-22.04", "ubuntu-os-cloud", ["ubuntu-2204-lts", "ubuntu-2204-lts-arm64"]),
    ("debian-12", "debian-cloud", ["debian-12", "debian-12-arm64"]),
    ("debian-13", "debian-cloud", ["debian-13", "debian-13-arm64"]),
];

/// Keys of provider `gcp`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Project that pays; else `GOOGLE_CLOUD_PROJECT`, or the project of gcloud's configuration.
    project: Option<String>,
    /// Zone, `us-central1-a`.
    #[expect(dead_code, reason = "is the spec's region by then")]
    zone: Option<String>,
    /// Network, if not `default`.
    network: Option<String>,
    /// Subnetwork of the zone's region, where the network has no automatic ones.
    subnetwork: Option<String>,
    /// Whether to take a spot machine: cheaper, and Google may take it back at 30 seconds' notice.
    #[serde(default)]
    spot: bool,
    /// Base address of the API, for an emulator.
    endpoint: Option<String>,
}

pub(crate) static ENTRY: Entry = Entry {
    name: NAME,
    about: "Google Compute Engine; KVM by nested virtualisation",
    credentials: &["CLOUDSDK_AUTH_ACCESS_TOKEN", "GOOGLE_OAUTH_ACCESS_TOKEN"],
    kept: &[],
    kept_beside: &[],
    stands_for_itself: &["GOOGLE_APPLICATION_CREDENTIALS"],
    sign_in: "gcloud auth application-default login",
    files: |world| {
        let folder =
            world.var("CLOUDSDK_CONFIG").map_or_else(|| world.home().join(".config/gcloud"), PathBuf::from);
        vec![folder.join("application_default_credentials.json")]
    },
    tools: &[],
    endpoint: |world, keys| http::endpoint(world, NAME, keys["endpoint"].as_str(), VENDOR),
    default_sku: Sku::fixed("n2-standard-4"),
    default_region: Region::fixed("us-central1-a"),
    default_image: "ubuntu-24.04",
    listing_lag: Duration::from_secs(30),
    provision_timeout: Duration::from_mins(10),
    user_data_limit: 262_144,
    cloud_clock: true,
    // A stop clears Google's own deadline, and a stopped machine's disk is billed on.
    timer_stops_bill: false,
    region_key: "zone",
    init_keys: || "  project: my-project\n".to_owned(),
    schema: |generator| generator.subschema_for::<Config>(),
    kvm,
    prices: PRICES,
    connect,
};

fn kvm(sku: &Sku) -> KvmSupport {
    if sku.as_str().ends_with("-metal") {
        return KvmSupport::Yes;
    }
    // Nested virtualisation wants an Intel host (Compute Engine documentation, 'Nested virtualization overview').
    match sku.as_str().split('-').next() {
        Some("n1" | "n2" | "c2") => KvmSupport::Yes,
        Some(
            "e2" | "n2d" | "c2d" | "c3d" | "t2d" | "c4d" | "n4d" | "h4d" | "t2a" | "c4a" | "n4a" | "a4x"
            | "m1" | "m2" | "m3" | "m4" | "h3",
        ) => KvmSupport::No,
        _ => KvmSupport::Unknown,
    }
}

/// Returns a size in the unit of Google's disks and quotas.
fn gigabytes(bytes: u64) -> u64 {
    bytes.div_ceil(1_000_000_000)
}

/// Returns the type of a SKU's boot disk: the newest families and bare metal take Hyperdisk alone.
fn disk_type(sku: &Sku) -> &'static str {
    let family = sku.as_str().split('-').next().unwrap_or_default();
    let new = ["n4", "n4a", "n4d", "c4", "c4a", "c4d", "h4d", "m4", "a4", "a4x", "x4"];
    let hyperdisk = new.contains(&family) || sku.as_str().ends_with("-metal");
    if hyperdisk { "hyperdisk-balanced" } else { "pd-balanced" }
}

const LIST: &str = "list price, 2025-03, without disk and address";
static PRICES: &[Listed] = &[
    Listed::new(
        "n2-standard-4",
        "us-central1",
        194_236,
        "USD",
        "list price, 2026-09, without disk and address",
    ),
    Listed::new("n2-standard-8", "us-central1", 388_500, "USD", LIST),
    Listed::new("n1-standard-4", "us-central1", 190_000, "USD", LIST),
    Listed::new("c2-standard-4", "us-central1", 208_800, "USD", LIST),
    Listed::new("n2-standard-4", "europe-west1", 213_700, "USD", LIST),
    Listed::new("n2-standard-8", "europe-west1", 427_300, "USD", LIST),
    Listed::new("n1-standard-4", "europe-west1", 209_000, "USD", LIST),
    Listed::new("c2-standard-4", "europe-west1", 229_700, "USD", LIST),
];

fn connect(world: &World, keys: &Value, link: Link) -> Result<Box<dyn Provider>, ProviderError> {
    let config: Config = config(NAME, keys)?;
    let base = http::endpoint(world, NAME, config.endpoint.as_deref(), VENDOR);
    let wire = link.open(world, NAME)?;
    let credentials = Arc::new(Google::new(world, &base, Arc::clone(&wire)));
    let http = Http::new(Arc::clone(&wire), &DIALECT, Arc::<Google>::clone(&credentials));
    let project = tokio::sync::OnceCell::new();
    Ok(Box::new(Gcp { base, project, config, http, wire, world: world.clone(), credentials }))
}

static DIALECT: Dialect =
    Dialect { provider: NAME, request_id: "x-goog-request-id", parse: http::json, read: read_error };

/// Reads `{"error": {"message": …, "errors": [{"reason": …}], "details": [{"reason": …}]}}`.
fn read_error(response: &Response) -> Option<VendorError> {
    let body: Value = serde_json::from_slice(&response.body).ok()?;
    let error = &body["error"];
    let message = error["message"].as_str().unwrap_or("no message").to_owned();
    let details = error["details"].as_array().map(Vec::as_slice).unwrap_or_default();
    let codes = details.iter().map(|detail| &detail["reason"]);
    let codes = codes.chain([&error["errors"][0]["reason"], &error["status"]]).filter_map(Value::as_str);
    // Not every reason is one that is known here, and the next one says the same in other words.
    let known = |code: &&str| meaning(code, response.status).is_some();
    let code = codes.clone().find(known).or_else(|| codes.clone().next())?;
    let link =
        details.iter().find_map(|detail| detail["metadata"]["activationUrl"].as_str()).unwrap_or_default();
    let known = meaning(code, response.status);
    let advice = known.map_or("", |(_, advice)| advice);
    let message = [message.as_str(), advice, link].join(" ").trim_end().to_owned();
    Some(VendorError { meaning: known.map(|(meaning, _)| meaning), code: code.to_owned(), message })
}

/// What a code of an answer or of an operation means, and what to do then; `None` leaves it to the status.
fn meaning(code: &str, status: u16) -> Option<(Meaning, &'static str)> {
    Some(match code {
        "ZONE_RESOURCE_POOL_EXHAUSTED"
        | "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS"
        | "resourcePoolExhausted" => {
            (Meaning::Capacity, "(try another `zone`, or another `sku`: `lane prices gcp --kvm`)")
        }
        "quotaExceeded" | "QUOTA_EXCEEDED" | "LIMIT_EXCEEDED" => {
            (Meaning::Quota, "(ask for more on the console's Quotas page, or take another region or `sku`)")
        }
        "accessNotConfigured" | "SERVICE_DISABLED" => {
            (Meaning::Auth, "(enable the Compute Engine API in this project, wait some minutes)")
        }
        "BILLING_DISABLED" | "billingNotEnabled" => {
            (Meaning::Auth, "(link a billing account to the project)")
        }
        "authError" | "UNAUTHENTICATED" | "ACCESS_TOKEN_EXPIRED" | "CREDENTIALS_MISSING" | "required"
            if status == 401 =>
        {
            (Meaning::Auth, "(run `gcloud auth application-default login`)")
        }
        "forbidden" | "PERMISSION_DENIED" | "IAM_PERMISSION_DENIED" => (
            Meaning::Auth,
            "(roles/compute.instanceAdmin.v1 and roles/compute.securityAdmin have what lane needs)",
        ),
        "alreadyExists" | "RESOURCE_ALREADY_EXISTS" | "CONFLICT" => (Meaning::Conflict, ""),
        "notFound" | "RESOURCE_NOT_FOUND" => (Meaning::NotFound, ""),
        // Too many requests, or another operation is going on.
        "rateLimitExceeded"
        | "userRateLimitExceeded"
        | "RATE_LIMIT_EXCEEDED"
        | "resourceNotReady"
        | "RESOURCE_NOT_READY"
        | "resourceInUseByAnotherResource"
        | "RESOURCE_IN_USE_BY_ANOTHER_RESOURCE" => (Meaning::Later, ""),
        "conditionNotMet" | "CONDITION_NOT_MET" => {
            (Meaning::Rejected, "(a policy of the organisation forbids it; its administrator can say which)")
        }
        _ => return None,
    })
}

/// Where a Google user keeps credentials, in the order of the vendor's own tools.
#[derive(Debug)]
struct Google {
    token: Option<(&'static str, Secret)>,
    /// Whether the API is at an address of Google's own; what nobody named is shown to no other.
    is_googles: bool,
    /// What `GOOGLE_APPLICATION_CREDENTIALS` names.
    file: Option<PathBuf>,
    /// Where `gcloud` keeps what it knows.
    folder: PathBuf,
    wire: Arc<dyn Wire>,
    world: World,
    source: tokio::sync::OnceCell<Source>,
    /// A token of the metadata service or of `gcloud`, and when to ask for another one.
    kept: tokio::sync::Mutex<Option<(Secret, tokio::time::Instant)>>,
}

/// Where the credentials were found.
#[derive(Debug)]
enum Source {
    Variable(&'static str, Secret),
    /// Emulators ask for no proof.
    StandIn,
    File(String, Box<CredentialFile>),
    Metadata,
    Gcloud,
}

/// A file of credentials of any kind.
#[derive(Debug)]
struct CredentialFile {
    credentials: google_cloud_auth::credentials::AccessTokenCredentials,
    /// A service account's address, where the file says it.
    account: Option<String>,
    project: Option<String>,
    quota_project: Option<String>,
}

fn unauthorised(message: String) -> ProviderError {
    ProviderError::Auth { provider: NAME, message }
}

fn signing(message: String) -> ProviderError {
    ProviderError::Transient { provider: NAME, operation: "asking for a token", message }
}

/// Tells whether an address is one of Google's own.
fn is_googles(base: &str) -> bool {
    let host = base.split("://").nth(1).unwrap_or_default().split(['/', ':']).next().unwrap_or_default();
    host == "googleapis.com" || host.ends_with(".googleapis.com")
}

impl Google {
    fn new(world: &World, base: &str, wire: Arc<dyn Wire>) -> Self {
        let token = ["CLOUDSDK_AUTH_ACCESS_TOKEN", "GOOGLE_OAUTH_ACCESS_TOKEN"]
            .iter()
            .find_map(|name| Some((*name, Secret::new(world.var(name)?))));
        let absolute = |path: &str| world.absolute(path, world.cwd());
        let file = world.var("GOOGLE_APPLICATION_CREDENTIALS").map(absolute);
        Self {
            is_googles: is_googles(base),
            token,
            file,
            folder: world
                .var("CLOUDSDK_CONFIG")
                .map_or_else(|| world.home().join(".config/gcloud"), absolute),
            wire,
            world: world.clone(),
            source: tokio::sync::OnceCell::new(),
            kept: tokio::sync::Mutex::new(None),
        }
    }

    async fn source(&self) -> Result<&Source, ProviderError> {
        self.source.get_or_try_init(|| self.look()).await
    }

    async fn look(&self) -> Result<Source, ProviderError> {
        if let Some((variable, token)) = &self.token {
            return Ok(Source::Variable(variable, token.clone()));
        }
        if !self.is_googles && self.file.is_none() {
            return Ok(Source::StandIn);
        }
        let default_file = self.folder.join("application_default_credentials.json");
        if let Some(file) = &self.file {
            let origin = format!("GOOGLE_APPLICATION_CREDENTIALS ({})", file.display());
            return Ok(Source::File(origin.clone(), Box::new(from_file(file, &origin)?)));
        }
        let origin = default_file.display().to_string();
        if fs::exists(&default_file) {
            return Ok(Source::File(origin.clone(), Box::new(from_file(&default_file, &origin)?)));
        }
        // A laptop has no such service, and some networks swallow the question.
        if let Ok(Ok(found)) = tokio::time::timeout(PROBE, self.metadata_token()).await {
            self.keep(found).await;
            return Ok(Source::Metadata);
        }
        let found = self.gcloud_token().await.map_err(|why| {
            unauthorised(format!(
                "no credentials were found: there is no {origin}, no metadata service answers, and {why} ({LOGIN})"
            ))
        })?;
        self.keep(found).await;
        Ok(Source::Gcloud)
    }

    async fn keep(&self, (token, lasts): (Secret, Duration)) -> Secret {
        *self.kept.lock().await = Some((token.clone(), tokio::time::Instant::now() + lasts));
        token
    }

    /// Asks the service that every machine of Google's has; `GCE_METADATA_HOST` names another host of it.
    async fn metadata(&self, path: &str) -> Result<Vec<u8>, String> {
        let host = self.world.var("GCE_METADATA_HOST").unwrap_or("metadata.google.internal");
        let request = Request::get(format!("http://{host}/computeMetadata/v1/{path}"));
        let response = self.wire.send(&request.header("metadata-flavor", "Google")).await;
        match response.map_err(|error| format!("{error:?}"))? {
            Response { status: 200, body, .. } => Ok(body),
            other => Err(format!("HTTP {}", other.status)),
        }
    }

    async fn metadata_token(&self) -> Result<(Secret, Duration), String> {
        let body = self.metadata("instance/service-accounts/default/token").await?;
        let answer: Value = serde_json::from_slice(&body).map_err(|error| error.to_string())?;
        let token = answer["access_token"].as_str().ok_or("there is no token in the answer")?;
        let lasts = Duration::from_secs(answer["expires_in"].as_u64().unwrap_or_default());
        Ok((Secret::new(token), lasts.saturating_sub(Duration::from_mins(1))))
    }

    /// Asks `gcloud`, which has credentials of its own.
    async fn gcloud_token(&self) -> Result<(Secret, Duration), String> {
        let mut command = self.world.command("gcloud");
        command.args(["auth", "print-access-token"]).stdin(std::process::Stdio::null()).kill_on_drop(true);
        for name in ["CLOUDSDK_CONFIG", "CLOUDSDK_ACTIVE_CONFIG_NAME", "CLOUDSDK_CORE_ACCOUNT"] {
            command.envs(self.world.var(name).map(|value| (name, value)));
        }
        let why = match tokio::time::timeout(GCLOUD, command.output()).await {
            Err(_) => format!("it takes more than {} s", GCLOUD.as_secs()),
            Ok(Err(error)) => error.to_string(),
            Ok(Ok(done)) => match String::from_utf8_lossy(&done.stdout).trim() {
                token if done.status.success() && !token.is_empty() => {
                    return Ok((Secret::new(token), GCLOUD_TOKEN));
                }
                _ => String::from_utf8_lossy(&done.stderr).split_whitespace().collect::<Vec<_>>().join(" "),
            },
        };
        Err(format!("`gcloud auth print-access-token` fails: {why}"))
    }

    async fn token(&self) -> Result<Secret, ProviderError> {
        let source = self.source().await?;
        match source {
            Source::Variable(_, token) => return Ok(token.clone()),
            Source::StandIn => return Ok(Secret::new("test")),
            Source::File(origin, file) => {
                let token = file.credentials.access_token().await.map_err(|error| {
                    let why = format!("{origin}: {}", http::chain(&error));
                    if error.is_transient() {
                        return signing(why);
                    }
                    unauthorised(format!("{why} ({LOGIN})"))
                })?;
                return Ok(Secret::new(token.token));
            }
            Source::Metadata | Source::Gcloud => {}
        }
        let kept = self.kept.lock().await.clone();
        if let Some((token, until)) = kept
            && tokio::time::Instant::now() < until
        {
            return Ok(token);
        }
        let found = match source {
            Source::Gcloud => {
                self.gcloud_token().await.map_err(|why| unauthorised(format!("{why} ({LOGIN})")))?
            }
            _ => self
                .metadata_token()
                .await
                .map_err(|why| signing(format!("the metadata service gives no token: {why}")))?,
        };
        Ok(self.keep(found).await)
    }

    /// Says where the credentials come from.
    async fn origin(&self) -> Result<String, ProviderError> {
        Ok(match self.source().await? {
            Source::Variable(variable, _) => (*variable).to_owned(),
            Source::StandIn => "none, as an emulator needs none".to_owned(),
            Source::File(origin, _) => origin.clone(),
            Source::Metadata => "the metadata service".to_owned(),
            Source::Gcloud => "`gcloud auth print-access-token`".to_owned(),
        })
    }

    /// Says who asks, where that can be known.
    async fn identity(&self) -> Result<Option<String>, ProviderError> {
        match self.source().await? {
            Source::StandIn => return Ok(None),
            // A token for an emulator says nothing to Google.
            Source::Variable(..) if !self.is_googles => return Ok(None),
            Source::File(_, file) if file.account.is_some() => return Ok(file.account.clone()),
            Source::Metadata => {
                let email = self.metadata("instance/service-accounts/default/email").await;
                return Ok(email.ok().map(|email| String::from_utf8_lossy(&email).trim().to_owned()));
            }
            _ => {}
        }
        // In the body, as addresses are logged.
        let token = vec![("access_token".to_owned(), self.token().await?.reveal().to_owned())];
        let Ok(answer) = self.wire.send(&Request::post(TOKENINFO).form(token).once()).await else {
            return Ok(None);
        };
        let answer: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        Ok(answer["email"].as_str().map(str::to_owned))
    }

    /// Returns the project of the variables, of `gcloud`'s configuration, of the credentials or of this machine.
    async fn project(&self) -> Option<String> {
        let variable = |name: &str| self.world.var(name).map(str::to_owned);
        let named = variable("GOOGLE_CLOUD_PROJECT").or_else(|| variable("CLOUDSDK_CORE_PROJECT"));
        if let Some(project) = named.or_else(|| self.configured_project()) {
            return Some(project);
        }
        match self.source().await.ok()? {
            Source::File(_, file) => file.project.clone(),
            Source::Metadata => {
                let project = self.metadata("project/project-id").await.ok()?;
                Some(String::from_utf8_lossy(&project).trim().to_owned())
            }
            _ => None,
        }
    }

    /// Reads `project` of section `core` in `gcloud`'s active configuration.
    fn configured_project(&self) -> Option<String> {
        let read = |path: &Path| Some(String::from_utf8_lossy(&fs::read(path).ok()?).into_owned());
        let active = self.world.var("CLOUDSDK_ACTIVE_CONFIG_NAME").map(str::to_owned);
        let active = active.or_else(|| read(&self.folder.join("active_config")));
        let active = active.as_deref().map_or("default", str::trim);
        let text = read(&self.folder.join(format!("configurations/config_{active}")))?;
        let core = text.lines().map(str::trim).skip_while(|line| *line != "[core]").skip(1);
        let mut pairs =
            core.take_while(|line| !line.starts_with('[')).filter_map(|line| line.split_once('='));
        pairs.find(|(key, _)| key.trim() == "project").map(|(_, project)| project.trim().to_owned())
    }
}

/// Reads a file of credentials of any kind, as the application default credentials do.
fn from_file(file: &Path, origin: &str) -> Result<CredentialFile, ProviderError> {
    use google_cloud_auth::credentials::{external_account, impersonated, service_account, user_account};
    let wrong = |why: String| unauthorised(format!("{origin}: {why}"));
    let bytes = fs::read(file).map_err(|error| wrong(error.to_string()))?;
    let json: Value = serde_json::from_slice(&bytes).map_err(|_| wrong("it is no JSON".to_owned()))?;
    let text = |name: &str| json[name].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    // `…/serviceAccounts/<address>:generateAccessToken`
    let impersonated = json["service_account_impersonation_url"].as_str().and_then(|url| {
        let account = url.rsplit('/').next()?.split(':').next()?;
        Some(account.to_owned())
    });
    let account = text("client_email").or(impersonated).or_else(|| text("account"));
    let (project, quota_project) = (text("project_id"), text("quota_project_id"));
    let made = match json["type"].as_str() {
        Some("service_account") => service_account::Builder::new(json)
            .with_access_specifier(service_account::AccessSpecifier::from_scopes(SCOPES))
            .build_access_token_credentials(),
        // With what the login granted: less would say nothing of who it is.
        Some("authorized_user") => user_account::Builder::new(json).build_access_token_credentials(),
        Some("external_account") => {
            external_account::Builder::new(json).with_scopes(SCOPES).build_access_token_credentials()
        }
        Some("impersonated_service_account") => {
            impersonated::Builder::new(json).with_scopes(SCOPES).build_access_token_credentials()
        }
        _ => return Err(wrong("lane knows no such kind of credentials".to_owned())),
    };
    let credentials = made.map_err(|error| wrong(http::chain(&error)))?;
    Ok(CredentialFile { credentials, account, project, quota_project })
}

#[async_trait]
impl Credentials for Google {
    async fn sign(&self, request: &mut Request) -> Result<(), ProviderError> {
        http::Bearer(self.token().await?).sign(request).await?;
        if let Source::File(_, file) = self.source().await?
            && let Some(project) = &file.quota_project
        {
            request.headers.push(("x-goog-user-project".to_owned(), Secret::new(project)));
        }
        Ok(())
    }
}

#[derive(Debug)]
struct Gcp {
    base: String,
    project: tokio::sync::OnceCell<String>,
    config: Config,
    http: Http,
    wire: Arc<dyn Wire>,
    world: World,
    credentials: Arc<Google>,
}

/// Returns the zone and the name out of a host's id.
fn parts(id: &HostId) -> (&str, &str) {
    id.as_str().split_once('/').unwrap_or(("", id.as_str()))
}

/// Returns the last part of a full address.
fn leaf(value: &Value) -> &str {
    value.as_str().and_then(|address| address.rsplit('/').next()).unwrap_or_default()
}

fn time(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

/// Refuses a page that is no listing of Compute Engine's, or that warns of what is not on it.
fn whole(operation: &'static str, page: &Value) -> Result<(), ProviderError> {
    let kind = page["kind"].as_str().unwrap_or_default();
    let message = match page["warning"]["code"].as_str() {
        None | Some("NO_RESULTS_ON_PAGE") if kind.starts_with("compute#") && kind.ends_with("List") => {
            return Ok(());
        }
        None | Some("NO_RESULTS_ON_PAGE") => format!("the answer is no listing but {kind:?}"),
        Some(code) => {
            let said = page["warning"]["message"].as_str().unwrap_or("no message");
            format!("{code}: {said}, so nobody knows what is there")
        }
    };
    Err(ProviderError::Transient { provider: NAME, operation, message })
}

fn rejected(operation: &'static str, message: String) -> ProviderError {
    ProviderError::Rejected { provider: NAME, operation, message }
}

/// Tells whether a thing carries our label, or, where it can have none, our description.
fn is_ours(thing: &Value) -> bool {
    let described = thing["description"].as_str().is_some_and(|text| text.starts_with(OURS));
    described || thing["labels"]["managed-by"] == "lane"
}

/// Reads whose an instance or a disk is.
fn label_of(thing: &Value) -> Option<Label> {
    let labels = &thing["labels"];
    let described = thing["description"].as_str().and_then(|text| text.strip_prefix("lane "));
    let lane = described.or(labels["lane"].as_str())?.to_owned();
    Some(Label { lane, lineage: Lineage::new(labels["lineage"].as_str()?) })
}

fn seconds(text: &str) -> Option<Timestamp> {
    Timestamp::from_second(text.parse().ok()?).ok()
}

/// Reads whose a rule is, and until when, from its description.
fn described(rule: &Value) -> (Option<Label>, Option<Timestamp>) {
    let words = rule["description"].as_str().unwrap_or_default().split(' ');
    let word = |name: &str| words.clone().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    let label = || Some(Label { lane: word("lane")?.to_owned(), lineage: Lineage::new(word("lineage")?) });
    (label(), word("expires").and_then(seconds))
}

/// A name and a network tag: RFC 1035, so of a lane's name only letters, digits and hyphens stay.
fn name_of(label: &Label) -> String {
    label.to_string().replace(['.', '_'], "-")
}

/// The labels; all lower case. A lane's name may hold a `.`, which a label may not, so it stands in the description.
fn labels(request: &CreateRequest) -> Value {
    let digest = request.fingerprint.0.as_str();
    json!({
        "managed-by": "lane",
        "lane": request.label.lane.replace('.', "_"),
        "lineage": request.label.lineage.as_str(),
        "expires": request.expires_at.as_second().to_string(),
        "fingerprint": digest.get(..FINGERPRINT).unwrap_or(digest),
    })
}

impl Gcp {
    /// Returns the project that pays: the spec's, or the one that the vendor's own tools would take.
    async fn project(&self) -> Result<&str, ProviderError> {
        let find = || async {
            if let Some(project) = &self.config.project {
                return Ok(project.clone());
            }
            self.credentials.project().await.ok_or_else(|| ProviderError::Unavailable {
                provider: NAME,
                message: "no project is named".to_owned(),
                remedy: "write `provider: {project: …}` into the spec, set GOOGLE_CLOUD_PROJECT, or run `gcloud config set project …`"
                    .to_owned(),
            })
        };
        Ok(self.project.get_or_try_init(find).await?)
    }

    /// Returns `…/projects/<project>`.
    async fn root(&self) -> Result<String, ProviderError> {
        Ok(format!("{}/projects/{}", self.base, self.project().await?))
    }

    /// Lists what is under a path, by pages that are whole.
    async fn list(
        &self,
        operation: &'static str,
        path: &str,
        filter: &str,
    ) -> Result<Vec<Value>, ProviderError> {
        let address = format!("{}/{path}", self.root().await?);
        let request = |token: Option<&str>| {
            let request = Request::get(&address).query("filter", filter).query("maxResults", "500");
            token.into_iter().fold(request, |request, token| request.query("pageToken", token))
        };
        let next = |page: &Value| page["nextPageToken"].as_str().map(|token| request(Some(token)));
        let pages = self.http.pages(operation, request(None), "kind", next).await?;
        pages.iter().try_for_each(|page| whole(operation, page))?;
        Ok(pages)
    }

    /// Lists one kind of thing in every zone. A zone that does not answer makes the whole an error: what it hides may
    /// still cost money.
    async fn everywhere(&self, kind: &'static str, filter: &str) -> Result<Vec<Value>, ProviderError> {
        let operation = "listing";
        let mut found = Vec::new();
        for page in self.list(operation, &format!("aggregated/{kind}"), filter).await? {
            let unreachable = page["unreachables"].as_array().filter(|zones| !zones.is_empty());
            let scopes = page["items"].as_object().into_iter().flatten();
            let silent = scopes.clone().find(|(_, scope)| {
                scope["warning"]["code"].as_str().is_some_and(|code| code != "NO_RESULTS_ON_PAGE")
            });
            if unreachable.is_some() || silent.is_some() {
                let zones = unreachable.map_or_else(
                    || silent.map(|(zone, _)| zone.clone()).unwrap_or_default(),
                    |zones| zones.iter().map(leaf).collect::<Vec<_>>().join(", "),
                );
                let message = format!("{zones} did not answer, so nobody knows what is there");
                return Err(ProviderError::Transient { provider: NAME, operation, message });
            }
            found.extend(scopes.flat_map(|(_, scope)| scope[kind].as_array().cloned().unwrap_or_default()));
        }
        Ok(found)
    }

    async fn instances(&self, selector: &Selector) -> Result<Vec<Value>, ProviderError> {
        self.everywhere("instances", &filter(selector)).await
    }

    /// Waits until an operation is done, and says what became of it.
    async fn finish(&self, what: &'static str, operation: Value) -> Result<(), CallError> {
        let done = self.watch(what, operation).await?;
        self.verdict(what, &done)
    }

    /// Waits until an operation is done; an error says nothing about what it did.
    async fn watch(&self, what: &'static str, operation: Value) -> Result<Value, CallError> {
        let began = tokio::time::Instant::now();
        let root = self.root().await.map_err(CallError::Provider)?;
        let mut operation = operation;
        while operation["status"] != "DONE" {
            let name = operation["name"].as_str().unwrap_or_default();
            let place = match leaf(&operation["zone"]) {
                "" => "global".to_owned(),
                zone => format!("zones/{zone}"),
            };
            if began.elapsed() > OPERATION {
                let message =
                    format!("operation {name} goes on for more than {} minutes", OPERATION.as_secs() / 60);
                return Err(self.http.error(what, Meaning::Trouble, message));
            }
            tokio::time::sleep(POLL).await;
            let asked = self.http.call(what, Request::get(format!("{root}/{place}/operations/{name}"))).await;
            operation = asked.map_err(|error| match error {
                // That is said of the operation, and not of what it is about.
                CallError::NotFound(message) | CallError::Conflict(message) => {
                    self.http.error(what, Meaning::Later, message)
                }
                error @ CallError::Provider(_) => error,
            })?;
        }
        Ok(operation)
    }

    /// Says what became of an operation that is done.
    fn verdict(&self, what: &'static str, operation: &Value) -> Result<(), CallError> {
        let error = &operation["error"]["errors"][0];
        let status = operation["httpErrorStatusCode"].as_u64().and_then(|status| u16::try_from(status).ok());
        let failed = status.filter(|status| *status >= 400).map(|status| format!("HTTP {status}"));
        let Some(code) = error["code"].as_str().or(failed.as_deref()) else { return Ok(()) };
        let status = status.unwrap_or(400);
        let (meaning, advice) = meaning(code, status).unwrap_or_else(|| {
            let by_status = match status {
                404 => Meaning::NotFound,
                409 => Meaning::Conflict,
                500.. => Meaning::Trouble,
                _ => Meaning::Rejected,
            };
            (by_status, "")
        });
        let details = error["errorDetails"].as_array().map(Vec::as_slice).unwrap_or_default();
        let said = details.iter().find_map(|detail| detail["localizedMessage"]["message"].as_str());
        let said = said.or(error["message"].as_str()).or(operation["httpErrorMessage"].as_str());
        let (said, name) = (said.unwrap_or("no message"), operation["name"].as_str().unwrap_or_default());
        Err(self.http.error(what, meaning, format!("{code}: {said} {advice} (operation {name})")))
    }

    /// Makes a firewall rule. One of that name that is ours is made anew: its age and its network are of another create.
    async fn admit(&self, rule: &Value) -> Result<(), ProviderError> {
        let what = "making a firewall rule";
        match self.insert_rule(what, rule).await {
            Err(CallError::Conflict(_)) => {
                self.delete(&format!("global/firewalls/{}", rule["name"].as_str().unwrap_or_default()))
                    .await?;
                self.insert_rule(what, rule).await
            }
            made => made,
        }
        .map_err(|error| error.refused(NAME, what))
    }

    async fn insert_rule(&self, what: &'static str, rule: &Value) -> Result<(), CallError> {
        let address = format!("{}/global/firewalls", self.root().await.map_err(CallError::Provider)?);
        let operation = self.http.call(what, Request::post(address).json(rule.clone())).await?;
        self.finish(what, operation).await
    }

    async fn network(&self) -> Result<String, ProviderError> {
        let name = self.config.network.as_deref().unwrap_or("default");
        Ok(format!("projects/{}/global/networks/{name}", self.project().await?))
    }

    /// Refuses what Google would refuse or cut short, before anything is made; returns whom the rule admits.
    async fn admitted(
        &self,
        what: &'static str,
        request: &CreateRequest,
    ) -> Result<Vec<String>, ProviderError> {
        let name = name_of(&request.label);
        if name.len() > 59 {
            let message = format!("the name {name} is longer than Google takes: give the lane a shorter one");
            return Err(rejected(what, message));
        }
        if self.lasts(request) > *RUN_SECONDS.end() {
            let days = RUN_SECONDS.end() / (24 * 3600);
            let message = format!(
                "Google deletes a host {days} days after its start at the latest: write a shorter `lease.ttl`"
            );
            return Err(rejected(what, message));
        }
        let networks = match request.allow_from.as_slice() {
            [] => vec![operator_network(&self.world, NAME, self.wire.as_ref()).await?],
            networks => networks.to_vec(),
        };
        if let Some(network) = networks.iter().find(|network| network.contains(':')) {
            return Err(rejected(
                what,
                format!(
                    "{network} would be admitted, and the host has an IPv4 address alone: write IPv4 networks into `access: {{allow_from: […]}}`"
                ),
            ));
        }
        Ok(networks)
    }

    fn lasts(&self, request: &CreateRequest) -> i64 {
        request.expires_at.as_second() - self.world.now().as_second()
    }

    fn instance(&self, request: &CreateRequest, network: &str) -> Value {
        let (zone, name, labels) = (request.region.as_str(), name_of(&request.label), labels(request));
        let description = format!("lane {}", request.label.lane);
        let mut network = json!({
            "network": network,
            "accessConfigs": [{"type": "ONE_TO_ONE_NAT", "name": "External NAT", "networkTier": "PREMIUM"}],
        });
        if let Some(subnetwork) = &self.config.subnetwork {
            let region = zone.rsplit_once('-').map_or(zone, |(region, _)| region);
            network["subnetwork"] = format!("regions/{region}/subnetworks/{subnetwork}").into();
        }
        let metal = request.sku.as_str().ends_with("-metal");
        let image = image(&request.image, &request.sku);
        let mut metadata = vec![
            json!({"key": "user-data", "value": request.user_data}),
            json!({"key": "block-project-ssh-keys", "value": "TRUE"}),
            json!({"key": "enable-oslogin", "value": "FALSE"}),
        ];
        if image.contains("debian-cloud/") {
            metadata.push(json!({"key": "startup-script", "value": CLOUD_INIT}));
        }
        let mut instance = json!({
            "name": name,
            "description": description,
            "machineType": format!("zones/{zone}/machineTypes/{}", request.sku),
            "labels": labels,
            "tags": {"items": [name]},
            "scheduling": {
                "provisioningModel": if self.config.spot { "SPOT" } else { "STANDARD" },
                // A machine that stays off after a fault has lost its deadline; one that comes back has a new one.
                "automaticRestart": !self.config.spot,
                "onHostMaintenance": if self.config.spot || metal { "TERMINATE" } else { "MIGRATE" },
                "instanceTerminationAction": "DELETE",
                "maxRunDuration": {"seconds": self.lasts(request).max(*RUN_SECONDS.start()).to_string()},
            },
            "disks": [{
                "boot": true,
                "autoDelete": true,
                "initializeParams": {
                    "sourceImage": image,
                    "description": description,
                    "diskSizeGb": gigabytes(request.disk_bytes).to_string(),
                    "diskType": format!("zones/{zone}/diskTypes/{}", disk_type(&request.sku)),
                    "labels": labels,
                },
            }],
            "networkInterfaces": [network],
            "metadata": {"items": metadata},
        });
        if request.kvm && !metal && kvm(&request.sku) != KvmSupport::No {
            instance["advancedMachineFeatures"] = json!({"enableNestedVirtualization": true});
            // The first generation runs on older machines too, which cannot.
            if request.sku.as_str().starts_with("n1-") {
                instance["minCpuPlatform"] = "Intel Haswell".into();
            }
        }
        instance
    }

    /// Deletes by address what is ours; what is not there is deleted.
    async fn delete(&self, path: &str) -> Result<(), ProviderError> {
        let what = "deleting";
        let address = format!("{}/{path}", self.root().await?);
        match self.http.call(what, Request::get(&address).query("fields", "labels,description")).await {
            Ok(thing) if is_ours(&thing) => {}
            Ok(_) => {
                let message =
                    format!("{path} has a lane's name and not its label: delete or rename it by hand");
                return Err(rejected(what, message));
            }
            Err(CallError::NotFound(_)) => return Ok(()),
            Err(error) => return Err(error.refused(NAME, what)),
        }
        let deleted = match self.http.call(what, Request::delete(address)).await {
            Ok(operation) => self.finish(what, operation).await,
            Err(error) => Err(error),
        };
        match deleted {
            Ok(()) | Err(CallError::NotFound(_)) => Ok(()),
            // An earlier deletion, or the create itself, still goes on.
            Err(CallError::Conflict(message)) => {
                Err(ProviderError::Transient { provider: NAME, operation: what, message })
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// A filter (AIP-160) for what carries our labels; a lane's name is compared by the caller.
fn filter(selector: &Selector) -> String {
    match selector {
        Selector::Owned => "labels.managed-by=lane".to_owned(),
        Selector::Label(label) => format!("(labels.managed-by=lane) (labels.lineage={})", label.lineage),
    }
}

/// Returns the path of an image, or of the family whose newest one is meant.
fn image(image: &str, sku: &Sku) -> String {
    let is_arm = ["t2a-", "c4a-", "n4a-", "a4x-"].iter().any(|family| sku.as_str().starts_with(family));
    match IMAGES.iter().find(|(name, ..)| *name == image) {
        Some((_, project, families)) => {
            format!("projects/{project}/global/images/family/{}", families[usize::from(is_arm)])
        }
        // Anything with a slash is an image's own address.
        None if image.contains('/') => image.to_owned(),
        None => format!("global/images/{image}"),
    }
}

/// Reads an instance; `None` for one that carries half of our labels and so belongs to no lane.
fn host(instance: &Value) -> Option<Host> {
    let labels = &instance["labels"];
    let label = label_of(instance)?;
    let zone = leaf(&instance["zone"]);
    let fingerprint = labels["fingerprint"].as_str().map(|text| Fingerprint(Digest::from_text(text)));
    Some(Host {
        id: HostId::new(format!("{zone}/{}", instance["name"].as_str()?)),
        label,
        status: match instance["status"].as_str().unwrap_or_default() {
            "PENDING" | "PROVISIONING" | "STAGING" | "REPAIRING" => HostStatus::Starting,
            "RUNNING" => HostStatus::Running,
            // TERMINATED too: the word for a stopped machine, whose disk is billed.
            _ => HostStatus::Stopped,
        },
        address: instance["networkInterfaces"][0]["accessConfigs"][0]["natIP"]
            .as_str()
            .and_then(|address| address.parse().ok()),
        ssh_port: 22,
        sku: Sku::new(leaf(&instance["machineType"])),
        region: Region::new(zone),
        fingerprint,
        created_at: time(&instance["creationTimestamp"]),
        expires_at: labels["expires"].as_str().and_then(seconds),
    })
}

#[async_trait]
impl Provider for Gcp {
    async fn create(&self, request: &CreateRequest) -> Result<HostId, ProviderError> {
        let what = "creating an instance";
        let admitted = self.admitted(what, request).await?;
        let (name, network) = (name_of(&request.label), self.network().await?);
        let rule = |suffix: &str, priority: u32, sources: Value| {
            let (lane, lineage) = (&request.label.lane, &request.label.lineage);
            let expires = request.expires_at.as_second();
            json!({
                "name": format!("{name}-{suffix}"), "network": network, "direction": "INGRESS",
                "priority": priority, "sourceRanges": sources, "targetTags": [name],
                "description": format!("{OURS}lane={lane} lineage={lineage} expires={expires}"),
            })
        };
        let mut allow = rule("in", 900, json!(admitted));
        allow["allowed"] = json!([{"IPProtocol": "tcp", "ports": ["22"]}]);
        // The default network admits everybody to port 22 (`default-allow-ssh`), so an allow alone restricts nothing.
        let mut deny = rule("no", 901, json!(["0.0.0.0/0"]));
        deny["denied"] = json!([{"IPProtocol": "all"}]);
        self.admit(&allow).await?;
        self.admit(&deny).await?;

        let zone = request.region.as_str();
        let instances = format!("{}/zones/{zone}/instances", self.root().await?);
        let insert = Request::post(&instances)
            .query("requestId", token_uuid(&request.token))
            .json(self.instance(request, &network))
            .once();
        let made = match self.http.call(what, insert).await {
            // It was accepted: whatever keeps us from seeing its end, it may have had its effect.
            Ok(operation) => match self.watch(what, operation).await {
                Ok(done) => self.verdict(what, &done),
                Err(error) => {
                    let message = ProviderError::from(error).to_string();
                    return Err(ProviderError::Ambiguous { provider: NAME, operation: what, message });
                }
            },
            Err(error) => Err(error),
        };
        match made {
            // A request id that was used before gets that operation's answer, also when its instance is gone since.
            Ok(()) => {
                let look = Request::get(format!("{instances}/{name}")).query("fields", "name");
                match self.http.call(what, look).await {
                    Ok(_) => Ok(HostId::new(format!("{zone}/{name}"))),
                    Err(CallError::NotFound(message)) => {
                        let message = format!("its operation is done and it is not there: {message}");
                        Err(ProviderError::Ambiguous { provider: NAME, operation: what, message })
                    }
                    Err(error) => {
                        let message = ProviderError::from(error).to_string();
                        Err(ProviderError::Ambiguous { provider: NAME, operation: what, message })
                    }
                }
            }
            // Whose it is, and whether it fits, is for the one who looks.
            Err(CallError::Conflict(message)) => {
                Err(ProviderError::Ambiguous { provider: NAME, operation: what, message })
            }
            Err(CallError::NotFound(message)) => Err(rejected(
                what,
                format!("{message} (is the machine type in zone {zone}, and the network in the project?)"),
            )),
            Err(error) => Err(error.into()),
        }
    }

    async fn find(&self, selector: &Selector) -> Result<Vec<Host>, ProviderError> {
        Ok(self.instances(selector).await?.iter().filter_map(host).collect())
    }

    async fn destroy(&self, id: &HostId) -> Result<(), ProviderError> {
        let (zone, name) = parts(id);
        // Rules have no zone, and may be all that there ever was.
        if !zone.is_empty() {
            self.delete(&format!("zones/{zone}/instances/{name}")).await?;
            // Goes with its instance, unless somebody took that off it.
            self.delete(&format!("zones/{zone}/disks/{name}")).await?;
        }
        // Rules have no zone either: they are of every instance of that name.
        let namesakes = self.everywhere("instances", &format!("name={name}")).await?;
        if namesakes.iter().any(|one| one["name"] == name && leaf(&one["zone"]) != zone) {
            return Ok(());
        }
        for rule in ["in", "no"] {
            self.delete(&format!("global/firewalls/{name}-{rule}")).await?;
        }
        Ok(())
    }

    async fn residue(&self, selector: &Selector) -> Result<Vec<Residue>, ProviderError> {
        let (disks, instances) =
            (self.everywhere("disks", &filter(selector)).await?, self.instances(selector).await?);
        let mut found: Vec<Residue> = disks
            .iter()
            .map(|disk| {
                let (zone, name) = (leaf(&disk["zone"]), disk["name"].as_str().unwrap_or_default());
                Residue {
                    kind: "disk".to_owned(),
                    id: name.to_owned(),
                    detail: format!("{} GB in {zone}", disk["sizeGb"].as_str().unwrap_or("?")),
                    host: HostId::new(format!("{zone}/{name}")),
                    label: label_of(disk),
                    created_at: time(&disk["creationTimestamp"]),
                    expires_at: disk["labels"]["expires"].as_str().and_then(seconds),
                }
            })
            .collect();
        let pattern = match selector {
            Selector::Owned => "name eq lane-.*".to_owned(),
            Selector::Label(label) => format!("name eq {}-.*", name_of(label)),
        };
        for page in self.list("listing firewall rules", "global/firewalls", &pattern).await? {
            for rule in page["items"].as_array().into_iter().flatten().filter(|rule| is_ours(rule)) {
                let name = rule["name"].as_str().unwrap_or_default();
                let Some((owner, "in" | "no")) = name.rsplit_once('-') else { continue };
                // The pattern fits a lane, too, whose name begins as this one's host is called.
                if matches!(selector, Selector::Label(label) if owner != name_of(label)) {
                    continue;
                }
                let mut things = instances.iter().chain(&disks);
                let zone =
                    things.find(|thing| thing["name"] == owner).map_or("", |thing| leaf(&thing["zone"]));
                let (label, expires_at) = described(rule);
                found.push(Residue {
                    kind: "firewall rule".to_owned(),
                    id: name.to_owned(),
                    detail: "free of charge".to_owned(),
                    host: HostId::new(format!("{zone}/{owner}")),
                    label,
                    created_at: time(&rule["creationTimestamp"]),
                    expires_at,
                });
            }
        }
        Ok(found)
    }

    async fn set_expiry(&self, id: &HostId, _expires_at: Timestamp) -> Result<(), ProviderError> {
        Err(ProviderError::Unavailable {
            provider: NAME,
            message: format!(
                "Google deletes {id} at the deadline that it was made with, and moves none while it runs"
            ),
            remedy: "`lane destroy` and `lane apply` with another `lease.ttl` make a host with a new lease"
                .to_owned(),
        })
    }

    async fn scope(&self) -> Result<Option<String>, ProviderError> {
        let at = if self.base == VENDOR { String::new() } else { format!(" at {}", self.base) };
        Ok(Some(format!("project {}{at}", self.project().await?)))
    }

    /// Tells what ended an instance, by the operations on its last incarnation; Google keeps them for some days.
    async fn fate(&self, id: &HostId) -> Result<Option<String>, ProviderError> {
        let (zone, name) = parts(id);
        let target = format!("/zones/{zone}/instances/{name}");
        let (path, filter) = (format!("zones/{zone}/operations"), format!("targetLink eq .*{target}"));
        let pages = self.list("listing operations", &path, &filter).await?;
        let mut operations: Vec<&Value> = pages
            .iter()
            .flat_map(|page| page["items"].as_array().into_iter().flatten())
            .filter(|one| one["targetLink"].as_str().is_some_and(|link| link.ends_with(&target)))
            .collect();
        operations.sort_by_key(|one| time(&one["insertTime"]));
        let Some(incarnation) = operations.last().map(|one| &one["targetId"]) else { return Ok(None) };
        let ends = |one: &&&Value| {
            let kind = one["operationType"].as_str().unwrap_or_default();
            let own = kind.strip_prefix("compute.instances.");
            let goes_on = |kind: &str| kind.starts_with("migrate") || kind.starts_with("automaticRestart");
            one["targetId"] == *incarnation
                && one["error"].is_null()
                && (["delete", "stop", "suspend"].contains(&kind) || own.is_some_and(|kind| !goes_on(kind)))
        };
        let told = operations.iter().filter(ends).map(|one| {
            let text = |name: &str| one[name].as_str().unwrap_or("?");
            format!("{} by {} at {}", text("operationType"), text("user"), text("insertTime"))
        });
        let told: Vec<String> = told.collect();
        Ok((!told.is_empty()).then(|| told.join(", then ")))
    }

    async fn whoami(&self) -> Result<Account, ProviderError> {
        let (what, project) = ("reading the project", self.project().await?);
        let request = Request::get(self.root().await?).query("fields", "name");
        match self.http.call(what, request).await {
            Ok(_) => {}
            Err(CallError::NotFound(message)) => {
                return Err(rejected(what, format!("there is no project {project}: {message}")));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(Account {
            account: self.credentials.identity().await?.unwrap_or_else(|| "unknown".to_owned()),
            project: Some(project.to_owned()),
            credentials: self.credentials.origin().await?,
        })
    }

    async fn resolve_image(
        &self,
        written: &str,
        sku: &Sku,
        _region: &Region,
    ) -> Result<Option<String>, ProviderError> {
        let what = "choosing an image";
        let path = image(written, sku);
        let Some((root, family)) = path.split_once("/family/").filter(|_| path.starts_with("projects/"))
        else {
            return Ok(Some(path));
        };
        let request = Request::get(format!("{}/{root}/family/{family}", self.base));
        match self.http.call(what, request).await {
            Ok(found) => Ok(found["name"].as_str().map(|name| format!("{root}/{name}"))),
            Err(CallError::NotFound(message)) => {
                Err(rejected(what, format!("there is no image {written}: {message}")))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn quotas(&self, sku: &Sku, region: &Region) -> Result<Vec<Quota>, ProviderError> {
        let what = "reading the quotas";
        let (zone, sku) = (region.as_str(), sku.as_str());
        let region = zone.rsplit_once('-').map_or(zone, |(region, _)| region);
        // Types of the first generation share one limit.
        let family = match sku.split('-').next().unwrap_or_default() {
            "e2" | "f1" | "g1" | "n1" => "CPUS".to_owned(),
            family => format!("{}_CPUS", family.to_ascii_uppercase()),
        };
        let Some(cpus) = sku.split('-').find_map(|part| part.parse().ok()) else { return Ok(vec![]) };
        let root = self.root().await?;
        let of_region = [
            ("PREEMPTIBLE_CPUS", cpus),
            (family.as_str(), cpus),
            ("IN_USE_ADDRESSES", 1),
            // Limits on all disks of a kind: `pd-balanced` and `pd-ssd` share one.
            (
                if disk_type(&Sku::new(sku)).starts_with("pd-") { "SSD_TOTAL_GB" } else { "HDB_TOTAL_GB" },
                gigabytes(DEFAULT_DISK),
            ),
        ];
        let places = [
            (format!("{root}/regions/{region}"), region, of_region.as_slice()),
            (root, "all regions", &[("CPUS_ALL_REGIONS", cpus)]),
        ];
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "numbers of CPUs")]
        let number = |value: &Value| value.as_f64().map(|number| number as u64);
        let mut found = Vec::new();
        for (address, place, wanted) in places {
            let answer = self.http.call(what, Request::get(address).query("fields", "quotas")).await?;
            let quotas = answer["quotas"].as_array().map(Vec::as_slice).unwrap_or_default();
            // Spot machines count against a limit of their own, in projects that have it.
            let own =
                |quota: &Value| quota["metric"] == "PREEMPTIBLE_CPUS" && number(&quota["limit"]) > Some(0);
            let spot = self.config.spot && quotas.iter().any(own);
            let other = if spot { family.as_str() } else { "PREEMPTIBLE_CPUS" };
            for quota in quotas.iter().filter(|quota| quota["metric"] != other) {
                let one = wanted.iter().find(|(metric, _)| quota["metric"] == *metric);
                if let (Some((metric, takes)), Some(limit)) = (one, number(&quota["limit"])) {
                    let name = format!("{metric} in {place}");
                    found.push(Quota { name, limit, used: number(&quota["usage"]), takes: *takes });
                }
            }
        }
        Ok(found)
    }

    async fn console_log(&self, id: &HostId) -> Result<Option<String>, ProviderError> {
        let (zone, name) = parts(id);
        let address = format!("{}/zones/{zone}/instances/{name}/serialPort", self.root().await?);
        match self.http.call("reading the serial console", Request::get(address).query("port", "1")).await {
            Ok(answer) => Ok(answer["contents"].as_str().map(str::to_owned)),
            Err(CallError::NotFound(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::io::{Read, Write};
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::provider::http::WireError;
    use crate::world::SystemClock;

    /// Answers all with the same, or never.
    #[derive(Debug)]
    struct Always(Option<WireError>);

    #[async_trait]
    impl Wire for Always {
        async fn send(&self, _request: &Request) -> Result<Response, WireError> {
            match &self.0 {
                Some(error) => Err(error.clone()),
                None => std::future::pending().await,
            }
        }
    }

    fn google(vars: &[(&str, &str)], wire: Always) -> Google {
        let vars: BTreeMap<String, String> =
            vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Google::new(&World::fixed(Arc::new(SystemClock), vars, "/".into()), VENDOR, Arc::new(wire))
    }

    fn no_service() -> Always {
        Always(Some(WireError::NotSent("no such name".to_owned())))
    }

    /// Answers every request over a port of this machine.
    fn server(status: &'static str, body: &'static str) -> String {
        // Elsewhere the real wire has done that by then.
        drop(rustls::crypto::ring::default_provider().install_default());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _read = stream.read(&mut [0; 8192]).unwrap();
                let length = body.len();
                let head = format!(
                    "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
                );
                stream.write_all((head + body).as_bytes()).unwrap();
            }
        });
        address
    }

    /// A file of application default credentials, whose tokens come from `address`.
    fn user(address: &str) -> (tempfile::TempDir, String) {
        let file = json!({
            "type": "authorized_user", "client_id": "a", "client_secret": "b", "refresh_token": "c",
            "account": "me@example.com", "quota_project_id": "payer", "token_uri": format!("{address}/token"),
        });
        in_folder("application_default_credentials.json", &file)
    }

    fn in_folder(name: &str, file: &Value) -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().unwrap();
        let text = file.to_string();
        fs::write_atomic(&folder.path().join(name), text.as_bytes(), fs::Mode::Public).unwrap();
        let path = folder.path().to_str().unwrap().to_owned();
        (folder, path)
    }

    const ISSUED: &str = r#"{"access_token": "issued", "expires_in": 3600, "token_type": "Bearer",
        "issued_token_type": "urn:ietf:params:oauth:token-type:access_token",
        "accessToken": "issued", "expireTime": "2126-05-06T12:00:00Z"}"#;

    async fn signed(google: &Google) -> Vec<(String, String)> {
        let mut request = Request::get("x");
        google.sign(&mut request).await.unwrap();
        request.headers.into_iter().map(|(name, value)| (name, value.reveal().to_owned())).collect()
    }

    #[tokio::test]
    async fn a_users_own_file_says_who_asks_and_who_pays_wherever_gcloud_keeps_it() {
        let (_kept, folder) = user(&server("200 OK", ISSUED));
        let google = google(&[("CLOUDSDK_CONFIG", &folder)], no_service());
        let headers = [("authorization", "Bearer issued"), ("x-goog-user-project", "payer")];
        assert_eq!(signed(&google).await, headers.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(google.identity().await.unwrap().as_deref(), Some("me@example.com"));
        assert_eq!(google.origin().await.unwrap(), format!("{folder}/application_default_credentials.json"));
    }

    #[tokio::test]
    async fn a_file_that_a_variable_names_counts_first_and_says_its_account_and_project() {
        let address = server("200 OK", ISSUED);
        let (_kept, token) = in_folder("token", &json!("of the workload"));
        let file = json!({
            "type": "external_account", "audience": "a", "project_id": "of-the-file",
            "subject_token_type": "urn:ietf:params:oauth:token-type:jwt", "token_url": format!("{address}/token"),
            "credential_source": {"file": format!("{token}/token")},
            "service_account_impersonation_url":
                format!("{address}/v1/projects/-/serviceAccounts/robot@p.example:generateAccessToken"),
        });
        let (_kept, folder) = in_folder("key.json", &file);
        let (_kept, other) = user("http://127.0.0.1:9");
        let named = format!("{folder}/key.json");
        let vars = [("CLOUDSDK_CONFIG", other.as_str()), ("GOOGLE_APPLICATION_CREDENTIALS", &named)];
        let google = google(&vars, no_service());
        assert_eq!(signed(&google).await, [("authorization".to_owned(), "Bearer issued".to_owned())]);
        assert_eq!(google.identity().await.unwrap().as_deref(), Some("robot@p.example"));
        assert_eq!(google.project().await.as_deref(), Some("of-the-file"));
    }

    #[tokio::test]
    async fn a_moments_trouble_with_a_token_is_told_from_a_refusal() {
        let refused =
            r#"{"error": "invalid_grant", "error_description": "Token has been expired or revoked."}"#;
        let (_busy, busy) = user(&server("503 Service Unavailable", "{}"));
        let (_expired, expired) = user(&server("400 Bad Request", refused));
        let token = async |folder: &str| google(&[("CLOUDSDK_CONFIG", folder)], no_service()).token().await;
        let error = token(&busy).await.unwrap_err();
        assert!(matches!(error, ProviderError::Transient { .. }), "{error}");
        let error = token(&expired).await.unwrap_err();
        assert!(matches!(error, ProviderError::Auth { .. }), "{error}");
        let shown = error.to_string();
        assert!(shown.contains("invalid_grant") && shown.contains("application-default login"), "{shown}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_metadata_service_that_does_not_answer_is_not_waited_for() {
        let began = tokio::time::Instant::now();
        let nothing = google(&[("CLOUDSDK_CONFIG", "/nowhere"), ("PATH", "/nowhere")], Always(None));
        let error = nothing.token().await.unwrap_err();
        assert!(matches!(error, ProviderError::Auth { .. }) && began.elapsed() <= PROBE, "{error}");
        assert!(error.to_string().contains("no /nowhere/application_default_credentials.json"), "{error}");
    }

    #[tokio::test]
    async fn gcloud_is_asked_last_and_its_own_words_are_shown() {
        let gcloud = |script: &str| {
            let (kept, folder) = in_folder("unused", &json!({}));
            let path = kept.path().join("gcloud");
            fs::write_atomic(&path, format!("#!/bin/sh\n{script}\n").as_bytes(), fs::Mode::Public).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            (kept, google(&[("CLOUDSDK_CONFIG", "/nowhere"), ("PATH", &folder)], no_service()))
        };
        let (_kept, works) = gcloud("echo \"$1-$2-$CLOUDSDK_CONFIG\"");
        assert_eq!(works.token().await.unwrap().reveal(), "auth-print-access-token-/nowhere");
        assert_eq!(works.origin().await.unwrap(), "`gcloud auth print-access-token`");
        let (_kept, fails) =
            gcloud("echo 'You do not currently have an active account selected.' >&2; exit 1");
        let error = fails.token().await.unwrap_err();
        assert!(matches!(error, ProviderError::Auth { .. }), "{error}");
        let shown = error.to_string();
        assert!(shown.contains("active account") && shown.contains("application-default login"), "{shown}");
    }

    #[test]
    fn families_without_an_intel_host_have_no_kvm() {
        let kvm = |sku: &'static str| kvm(&Sku::fixed(sku));
        for sku in ["h4d-standard-192", "m4-megamem-28", "n4a-standard-4", "a4x-highgpu-4g", "e2-standard-4"]
        {
            assert_eq!(kvm(sku), KvmSupport::No, "{sku}");
        }
        for sku in ["n1-standard-4", "n2-standard-4", "c3-standard-192-metal"] {
            assert_eq!(kvm(sku), KvmSupport::Yes, "{sku}");
        }
        assert_eq!(kvm("c4-standard-4"), KvmSupport::Unknown);
    }
}
