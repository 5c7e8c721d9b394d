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
use reqwest::Method;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::plan::{Digest, Fingerprint};
use crate::provider::http::{
    self, CallError, Credentials, Dialect, Http, Link, Meaning, Request, Response, Secret, VendorError, Wire,
};
use crate::provider::{
    Account, CreateRequest, Entry, Host, HostId, HostStatus, KvmSupport, Label, Lineage, Listed, Provider,
    ProviderError, Quota, Region, Residue, Selector, Sku, config, operator_network, token_uuid,
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
const RUN_SECONDS: (i64, i64) = (30, 120 * 24 * 3600);
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
    /// Project that pays; else `GOOGLE_CLOUD_PROJECT`.
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
            "e2" | "n2d" | "c2d" | "c3d" | "t2d" | "c4d" | "n4d" | "t2a" | "c4a" | "m1" | "m2" | "m3" | "h3",
        ) => KvmSupport::No,
        _ => KvmSupport::Unknown,
    }
}

const LIST: &str = "list price, 2025-03";
static PRICES: &[Listed] = &[
    Listed::new("n2-standard-4", "us-central1", 194_236, "USD", "list price, 2026-09"),
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
    let project = config
        .project
        .clone()
        .or_else(|| world.var("GOOGLE_CLOUD_PROJECT").map(str::to_owned))
        .ok_or_else(|| ProviderError::Unavailable {
            provider: NAME,
            message: "no project is named".to_owned(),
            remedy: "write `provider: {project: …}` into the spec, or set GOOGLE_CLOUD_PROJECT".to_owned(),
        })?;
    let base = http::endpoint(world, NAME, config.endpoint.as_deref(), VENDOR);
    let credentials = Arc::new(Google::new(world, base != VENDOR));
    let wire = link.open(world, NAME)?;
    let http = Http::new(Arc::clone(&wire), &DIALECT, Arc::<Google>::clone(&credentials));
    Ok(Box::new(Gcp {
        root: format!("{base}/projects/{project}"),
        project,
        config,
        http,
        wire,
        world: world.clone(),
        credentials,
    }))
}

static DIALECT: Dialect =
    Dialect { provider: NAME, request_id: "x-goog-request-id", parse: http::json, read: read_error };

/// Reads `{"error": {"message": …, "errors": [{"reason": …}], "details": [{"reason": …}]}}`.
fn read_error(response: &Response) -> Option<VendorError> {
    let body: Value = serde_json::from_slice(&response.body).ok()?;
    let error = &body["error"];
    let message = error["message"].as_str().unwrap_or("no message").to_owned();
    let details = error["details"].as_array().map(Vec::as_slice).unwrap_or_default();
    let detail = details.iter().find(|detail| detail["reason"].is_string());
    let code = detail
        .and_then(|detail| detail["reason"].as_str())
        .or_else(|| error["errors"][0]["reason"].as_str())
        .or_else(|| error["status"].as_str())?;
    let link = detail.and_then(|detail| detail["metadata"]["activationUrl"].as_str()).unwrap_or_default();
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

/// Where a Google user keeps credentials: variables, the application default credentials, the metadata service.
#[derive(Debug)]
struct Google {
    token: Option<(&'static str, Secret)>,
    stands_in: bool,
    /// What `GOOGLE_APPLICATION_CREDENTIALS` names.
    file: Option<PathBuf>,
    /// Where `gcloud auth application-default login` writes.
    default_file: PathBuf,
    found: tokio::sync::OnceCell<google_cloud_auth::credentials::AccessTokenCredentials>,
}

impl Google {
    fn new(world: &World, stands_in: bool) -> Self {
        let token = ["CLOUDSDK_AUTH_ACCESS_TOKEN", "GOOGLE_OAUTH_ACCESS_TOKEN"]
            .iter()
            .find_map(|name| Some((*name, Secret::new(world.var(name)?))));
        let file = world.var("GOOGLE_APPLICATION_CREDENTIALS").map(|path| world.absolute(path, world.cwd()));
        Self {
            token,
            stands_in: stands_in && file.is_none(),
            file,
            default_file: world.home().join(".config/gcloud/application_default_credentials.json"),
            found: tokio::sync::OnceCell::new(),
        }
    }

    /// Says where the credentials come from, in the order in which they are tried.
    fn origin(&self) -> String {
        match (&self.token, &self.file) {
            (Some((variable, _)), _) => (*variable).to_owned(),
            (None, Some(file)) => format!("GOOGLE_APPLICATION_CREDENTIALS ({})", file.display()),
            (None, None) if self.stands_in => "none, as an emulator needs none".to_owned(),
            (None, None) if fs::exists(&self.default_file) => self.default_file.display().to_string(),
            (None, None) => "the metadata service".to_owned(),
        }
    }

    async fn token(&self) -> Result<Secret, ProviderError> {
        if let Some((_, token)) = &self.token {
            return Ok(token.clone());
        }
        if self.stands_in {
            return Ok(Secret::new("test"));
        }
        let wrong = |error: &dyn std::error::Error| ProviderError::Auth {
            provider: NAME,
            message: format!(
                "no credentials work: {} (run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS)",
                http::chain(error)
            ),
        };
        let credentials = self
            .found
            .get_or_try_init(|| async {
                match &self.file {
                    Some(file) => from_file(file),
                    None => google_cloud_auth::credentials::Builder::default()
                        .with_scopes(SCOPES)
                        .build_access_token_credentials()
                        .map_err(|error| wrong(&error)),
                }
            })
            .await?;
        let token = credentials.access_token().await.map_err(|error| {
            if self.file.is_some() || fs::exists(&self.default_file) {
                return wrong(&error);
            }
            let file = self.default_file.display();
            ProviderError::Auth {
                provider: NAME,
                message: format!(
                    "no credentials were found: there is no {file}, and no metadata service answers (run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS)"
                ),
            }
        })?;
        Ok(Secret::new(token.token))
    }
}

/// Reads a file of credentials of any kind, as the application default credentials do.
fn from_file(file: &Path) -> Result<google_cloud_auth::credentials::AccessTokenCredentials, ProviderError> {
    use google_cloud_auth::credentials::{external_account, impersonated, service_account, user_account};
    let wrong = |why: String| ProviderError::Auth {
        provider: NAME,
        message: format!("GOOGLE_APPLICATION_CREDENTIALS names {}: {why}", file.display()),
    };
    let bytes = fs::read(file).map_err(|error| wrong(error.to_string()))?;
    let json: Value = serde_json::from_slice(&bytes).map_err(|_| wrong("it is no JSON".to_owned()))?;
    let made = match json["type"].as_str() {
        Some("service_account") => service_account::Builder::new(json)
            .with_access_specifier(service_account::AccessSpecifier::from_scopes(SCOPES))
            .build_access_token_credentials(),
        Some("authorized_user") => {
            user_account::Builder::new(json).with_scopes(SCOPES).build_access_token_credentials()
        }
        Some("external_account") => {
            external_account::Builder::new(json).with_scopes(SCOPES).build_access_token_credentials()
        }
        Some("impersonated_service_account") => {
            impersonated::Builder::new(json).with_scopes(SCOPES).build_access_token_credentials()
        }
        _ => return Err(wrong("lane knows no such kind of credentials".to_owned())),
    };
    made.map_err(|error| wrong(http::chain(&error)))
}

#[async_trait]
impl Credentials for Google {
    async fn sign(&self, request: &mut Request) -> Result<(), ProviderError> {
        http::Bearer(self.token().await?).sign(request).await
    }
}

#[derive(Debug)]
struct Gcp {
    /// `…/projects/<project>`.
    root: String,
    project: String,
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

/// Refuses a page that warns of what is not on it.
fn whole(operation: &'static str, page: &Value) -> Result<(), ProviderError> {
    match page["warning"]["code"].as_str() {
        None | Some("NO_RESULTS_ON_PAGE") => Ok(()),
        Some(code) => {
            let said = page["warning"]["message"].as_str().unwrap_or("no message");
            let message = format!("{code}: {said}, so nobody knows what is there");
            Err(ProviderError::Transient { provider: NAME, operation, message })
        }
    }
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
    /// Lists one kind of thing in every zone. A zone that does not answer makes the whole an error: what it hides may
    /// still cost money.
    async fn everywhere(&self, kind: &'static str, filter: &str) -> Result<Vec<Value>, ProviderError> {
        let operation = "listing";
        let request = |token: Option<&str>| {
            let request = Request::get(format!("{}/aggregated/{kind}", self.root))
                .query("filter", filter)
                .query("maxResults", "500");
            token.into_iter().fold(request, |request, token| request.query("pageToken", token))
        };
        let next = |page: &Value| page["nextPageToken"].as_str().map(|token| request(Some(token)));
        let mut found = Vec::new();
        for page in self.http.pages(operation, request(None), "kind", next).await? {
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
            whole(operation, &page)?;
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
            operation = self
                .http
                .call(what, Request::get(format!("{}/{place}/operations/{name}", self.root)))
                .await?;
        }
        Ok(operation)
    }

    /// Says what became of an operation that is done.
    fn verdict(&self, what: &'static str, operation: &Value) -> Result<(), CallError> {
        let error = &operation["error"]["errors"][0];
        let Some(code) = error["code"].as_str() else { return Ok(()) };
        let status = operation["httpErrorStatusCode"]
            .as_u64()
            .and_then(|status| u16::try_from(status).ok())
            .unwrap_or(400);
        let (meaning, advice) = meaning(code, status).unwrap_or((Meaning::Rejected, ""));
        let details = error["errorDetails"].as_array().map(Vec::as_slice).unwrap_or_default();
        let said = details.iter().find_map(|detail| detail["localizedMessage"]["message"].as_str());
        let said = said.or(error["message"].as_str()).unwrap_or("no message");
        let name = operation["name"].as_str().unwrap_or_default();
        Err(self.http.error(what, meaning, format!("{code}: {said} {advice} (operation {name})")))
    }

    /// Makes a firewall rule, or puts one of that name right.
    async fn admit(&self, rule: Value) -> Result<(), ProviderError> {
        let what = "making a firewall rule";
        let address = format!("{}/global/firewalls", self.root);
        let name = rule["name"].as_str().unwrap_or_default().to_owned();
        let made = match self.http.call(what, Request::post(&address).json(rule.clone())).await {
            Ok(operation) => self.finish(what, operation).await,
            Err(error) => Err(error),
        };
        let made = match made {
            Err(CallError::Conflict(_)) => {
                let patch = Request::new(Method::PATCH, format!("{address}/{name}")).json(rule);
                match self.http.call(what, patch).await {
                    Ok(operation) => self.finish(what, operation).await,
                    Err(error) => Err(error),
                }
            }
            other => other,
        };
        made.map_err(|error| error.refused(NAME, what))
    }

    fn network(&self) -> String {
        let name = self.config.network.as_deref().unwrap_or("default");
        format!("projects/{}/global/networks/{name}", self.project)
    }

    fn instance(&self, request: &CreateRequest) -> Value {
        let (zone, name, labels) = (request.region.as_str(), name_of(&request.label), labels(request));
        let lasts = request.expires_at.as_second() - self.world.now().as_second();
        let mut network = json!({
            "network": self.network(),
            "accessConfigs": [{"type": "ONE_TO_ONE_NAT", "name": "External NAT", "networkTier": "PREMIUM"}],
        });
        if let Some(subnetwork) = &self.config.subnetwork {
            let region = zone.rsplit_once('-').map_or(zone, |(region, _)| region);
            network["subnetwork"] = format!("regions/{region}/subnetworks/{subnetwork}").into();
        }
        let metal = request.sku.as_str().ends_with("-metal");
        let mut instance = json!({
            "name": name,
            "description": format!("lane {}", request.label.lane),
            "machineType": format!("zones/{zone}/machineTypes/{}", request.sku),
            "labels": labels,
            "tags": {"items": [name]},
            "scheduling": {
                "provisioningModel": if self.config.spot { "SPOT" } else { "STANDARD" },
                "automaticRestart": false,
                "onHostMaintenance": if self.config.spot || metal { "TERMINATE" } else { "MIGRATE" },
                "instanceTerminationAction": "DELETE",
                "maxRunDuration": {"seconds": lasts.clamp(RUN_SECONDS.0, RUN_SECONDS.1).to_string()},
            },
            "disks": [{
                "boot": true,
                "autoDelete": true,
                "initializeParams": {
                    "sourceImage": image(&request.image, &request.sku),
                    "diskSizeGb": request.disk_bytes.div_ceil(1_000_000_000).to_string(),
                    "diskType": format!("zones/{zone}/diskTypes/pd-balanced"),
                    "labels": labels,
                },
            }],
            "networkInterfaces": [network],
            "metadata": {"items": [
                {"key": "user-data", "value": request.user_data},
                {"key": "block-project-ssh-keys", "value": "TRUE"},
                {"key": "enable-oslogin", "value": "FALSE"},
            ]},
        });
        if request.kvm && !metal {
            instance["advancedMachineFeatures"] = json!({"enableNestedVirtualization": true});
        }
        instance
    }

    /// Deletes by address; what is not there is deleted.
    async fn delete(&self, path: &str) -> Result<(), ProviderError> {
        let what = "deleting";
        let deleted = match self.http.call(what, Request::delete(format!("{}/{path}", self.root))).await {
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
    let lane = instance["description"]
        .as_str()
        .and_then(|text| text.strip_prefix("lane "))
        .or(labels["lane"].as_str())?;
    let zone = leaf(&instance["zone"]);
    let fingerprint = labels["fingerprint"].as_str().map(|text| Fingerprint(Digest::from_text(text)));
    let expires = labels["expires"].as_str().and_then(|seconds| seconds.parse().ok());
    Some(Host {
        id: HostId::new(format!("{zone}/{}", instance["name"].as_str()?)),
        label: Label { lane: lane.to_owned(), lineage: Lineage::new(labels["lineage"].as_str()?) },
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
        expires_at: expires.and_then(|seconds| Timestamp::from_second(seconds).ok()),
    })
}

#[async_trait]
impl Provider for Gcp {
    async fn create(&self, request: &CreateRequest) -> Result<HostId, ProviderError> {
        let what = "creating an instance";
        let name = name_of(&request.label);
        if name.len() > 59 {
            let message = format!("the name {name} is longer than Google takes: give the lane a shorter one");
            return Err(ProviderError::Rejected { provider: NAME, operation: what, message });
        }
        let admitted = match request.allow_from.as_slice() {
            [] => vec![operator_network(&self.world, NAME, self.wire.as_ref()).await?],
            networks => networks.to_vec(),
        };
        let rule = |suffix: &str, priority: u32, sources: Value| {
            json!({
                "name": format!("{name}-{suffix}"), "network": self.network(), "direction": "INGRESS",
                "priority": priority, "sourceRanges": sources, "targetTags": [name],
                "description": format!("managed-by=lane lane={} lineage={}", request.label.lane, request.label.lineage),
            })
        };
        let mut allow = rule("in", 900, json!(admitted));
        allow["allowed"] = json!([{"IPProtocol": "tcp", "ports": ["22"]}]);
        // The default network admits everybody to port 22 (`default-allow-ssh`), so an allow alone restricts nothing.
        let mut deny = rule("no", 901, json!(["0.0.0.0/0"]));
        deny["denied"] = json!([{"IPProtocol": "all"}]);
        self.admit(allow).await?;
        self.admit(deny).await?;

        let zone = request.region.as_str();
        let insert = Request::post(format!("{}/zones/{zone}/instances", self.root))
            .query("requestId", token_uuid(&request.token))
            .json(self.instance(request))
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
            Ok(()) => Ok(HostId::new(format!("{zone}/{name}"))),
            // Whose it is, and whether it fits, is for the one who looks.
            Err(CallError::Conflict(message)) => {
                Err(ProviderError::Ambiguous { provider: NAME, operation: what, message })
            }
            Err(CallError::NotFound(message)) => Err(ProviderError::Rejected {
                provider: NAME,
                operation: what,
                message: format!(
                    "{message} (is the machine type in zone {zone}, and the network in the project?)"
                ),
            }),
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
        for rule in ["in", "no"] {
            self.delete(&format!("global/firewalls/{name}-{rule}")).await?;
        }
        Ok(())
    }

    async fn residue(&self, selector: &Selector) -> Result<Vec<Residue>, ProviderError> {
        let (disks, instances) =
            (self.everywhere("disks", &filter(selector)).await?, self.instances(selector).await?);
        let zone_of = |name: &str| {
            let one = disks.iter().chain(&instances).find(|thing| thing["name"] == name);
            one.map_or_else(String::new, |thing| leaf(&thing["zone"]).to_owned())
        };
        let residue = |kind: &str, thing: &Value, owner: &str, detail: String| Residue {
            kind: kind.to_owned(),
            id: thing["name"].as_str().unwrap_or_default().to_owned(),
            detail,
            host: HostId::new(format!("{}/{owner}", zone_of(owner))),
            label: None,
            expires_at: None,
            created_at: time(&thing["creationTimestamp"]),
        };
        let mut found: Vec<Residue> = disks
            .iter()
            .map(|disk| {
                let size = disk["sizeGb"].as_str().unwrap_or("?");
                residue(
                    "disk",
                    disk,
                    disk["name"].as_str().unwrap_or_default(),
                    format!("{size} GB in {}", leaf(&disk["zone"])),
                )
            })
            .collect();
        let pattern = match selector {
            Selector::Owned => "name eq lane-.*".to_owned(),
            Selector::Label(label) => format!("name eq {}-.*", name_of(label)),
        };
        let address = format!("{}/global/firewalls", self.root);
        let request = |token: Option<&str>| {
            let request = Request::get(&address).query("filter", &pattern).query("maxResults", "500");
            token.into_iter().fold(request, |request, token| request.query("pageToken", token))
        };
        let next = |page: &Value| page["nextPageToken"].as_str().map(|token| request(Some(token)));
        let operation = "listing firewall rules";
        for page in self.http.pages(operation, request(None), "kind", next).await? {
            whole(operation, &page)?;
            for rule in page["items"].as_array().into_iter().flatten() {
                let ours =
                    rule["description"].as_str().is_some_and(|text| text.starts_with("managed-by=lane "));
                let name = rule["name"].as_str().unwrap_or_default();
                if let Some((owner, "in" | "no")) = name.rsplit_once('-').filter(|_| ours) {
                    found.push(residue("firewall rule", rule, owner, "free of charge".to_owned()));
                }
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

    async fn whoami(&self) -> Result<Account, ProviderError> {
        let fields = "name,defaultServiceAccount";
        let request = Request::get(&self.root).query("fields", fields);
        let project = match self.http.call("reading the project", request).await {
            Ok(project) => project,
            Err(CallError::NotFound(message)) => {
                let message = format!("there is no project {}: {message}", self.project);
                return Err(ProviderError::Rejected {
                    provider: NAME,
                    operation: "reading the project",
                    message,
                });
            }
            Err(error) => return Err(error.into()),
        };
        let name = project["defaultServiceAccount"].as_str().or(project["name"].as_str());
        Ok(Account {
            account: name.unwrap_or(&self.project).to_owned(),
            project: Some(self.project.clone()),
            credentials: self.credentials.origin(),
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
        let compute = self.root.strip_suffix(&format!("/projects/{}", self.project)).unwrap_or(&self.root);
        let request = Request::get(format!("{compute}/{root}/family/{family}"));
        match self.http.call(what, request).await {
            Ok(found) => Ok(found["name"].as_str().map(|name| format!("{root}/{name}"))),
            Err(CallError::NotFound(message)) => Err(ProviderError::Rejected {
                provider: NAME,
                operation: what,
                message: format!("there is no image {written}: {message}"),
            }),
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
        let of_region = [(family.as_str(), cpus), ("IN_USE_ADDRESSES", 1)];
        let places = [
            (format!("{}/regions/{region}", self.root), region, of_region.as_slice()),
            (self.root.clone(), "all regions", &[("CPUS_ALL_REGIONS", cpus)]),
        ];
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "numbers of CPUs")]
        let number = |value: &Value| value.as_f64().map(|number| number as u64);
        let mut found = Vec::new();
        for (address, place, wanted) in places {
            let answer = self.http.call(what, Request::get(address).query("fields", "quotas")).await?;
            for quota in answer["quotas"].as_array().into_iter().flatten() {
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
        let address = format!("{}/zones/{zone}/instances/{name}/serialPort", self.root);
        match self.http.call("reading the serial console", Request::get(address).query("port", "1")).await {
            Ok(answer) => Ok(answer["contents"].as_str().map(str::to_owned)),
            Err(CallError::NotFound(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
