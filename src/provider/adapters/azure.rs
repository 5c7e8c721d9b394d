//! Microsoft Azure, by its Resource Manager: compute 2025-04-01, network 2024-05-01, resources 2021-04-01.
//!
//! A lane is one resource group with all that the host needs in it, so that one deletion takes everything. Nothing in the
//! cloud ends a host by itself: one that powers itself off is billed on, so the sweep is the only ring of the lease.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD};
use jiff::Timestamp;
use reqwest::Method;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Mutex;

use crate::plan::{Digest, Fingerprint};
use crate::provider::http::{
    self, CallError, Credentials, Dialect, Http, Link, Meaning, Request, Response, Secret, VendorError, Wire,
};
use crate::provider::{
    Account, CreateRequest, Entry, Host, HostId, HostStatus, KvmSupport, Label, Lineage, Listed, Provider,
    ProviderError, Quota, Region, Residue, Selector, Sku, config, operator_network, token_uuid,
};
use crate::world::World;

const NAME: &str = "azure";
const VENDOR: &str = "https://management.azure.com";
/// Microsoft's clouds: the API, which is also whom a token is for, and the sign-in service.
const CLOUDS: [(&str, &str); 3] = [
    (VENDOR, "https://login.microsoftonline.com"),
    ("https://management.usgovcloudapi.net", "https://login.microsoftonline.us"),
    ("https://management.chinacloudapi.cn", "https://login.chinacloudapi.cn"),
];
/// The last one with which a new machine is no Trusted Launch machine unless it asks for that.
const COMPUTE: &str = "2025-04-01";
const NETWORK: &str = "2024-05-01";
const RESOURCES: &str = "2021-04-01";
const SUBSCRIPTIONS: &str = "2020-01-01";
/// How often an object that is being made is looked at.
const POLL: Duration = Duration::from_secs(3);
/// For one object; the provision step's own deadline comes first.
const PATIENCE: Duration = Duration::from_mins(20);
/// How long an object may be unknown to some part of Azure after another part made it.
const REPLICATION: Duration = Duration::from_mins(2);
/// What a lane's group holds, by kind and name, beside the extensions that a policy puts on the machine.
const OBJECTS: [(&str, &str); 6] = [
    ("Microsoft.Network/networkSecurityGroups", "nsg"),
    ("Microsoft.Network/virtualNetworks", "net"),
    ("Microsoft.Network/publicIPAddresses", "ip"),
    ("Microsoft.Network/networkInterfaces", "nic"),
    ("Microsoft.Compute/virtualMachines", "host"),
    ("Microsoft.Compute/disks", "os"),
];
const EXTENSION: &str = "Microsoft.Compute/virtualMachines/extensions";
/// How long `az` may take: it is slow to begin, and may ask the sign-in service.
const TOOL: Duration = Duration::from_secs(30);
/// What `az` needs beside what any program does: where its sign-in is, and the way to the network.
const TOOL_VARIABLES: [&str; 10] = [
    "AZURE_CONFIG_DIR",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "REQUESTS_CA_BUNDLE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
];
/// The machine's own user, whom nobody uses: cloud-init makes the lane's. Azure refuses `root`, `admin` and their like.
const ADMIN: &str = "lane-admin";
/// Publisher, offer and SKU by plain name. All of generation 1: those of generation 2 come up as Trusted Launch in more
/// and more places, which hides VT-x from the host.
const IMAGES: [(&str, [&str; 3]); 4] = [
    ("ubuntu-24.04", ["Canonical", "ubuntu-24_04-lts", "server-gen1"]),
    ("ubuntu-22.04", ["Canonical", "0001-com-ubuntu-server-jammy", "22_04-lts"]),
    ("debian-12", ["Debian", "debian-12", "12"]),
    ("debian-13", ["Debian", "debian-13", "13"]),
];

/// Keys of provider `azure`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Location, `eastus`.
    #[expect(dead_code, reason = "is the spec's region by then")]
    location: Option<String>,
    /// Subscription that pays; else `AZURE_SUBSCRIPTION_ID` or `ARM_SUBSCRIPTION_ID`.
    subscription: Option<String>,
    /// Whether to take a spot machine: cheaper, and Microsoft may take it back at 30 seconds' notice.
    #[serde(default)]
    spot: bool,
    /// Base address of the API, for an emulator, or `https://management.usgovcloudapi.net`,
    /// `https://management.chinacloudapi.cn`.
    endpoint: Option<String>,
}

pub(crate) static ENTRY: Entry = Entry {
    name: NAME,
    about: "Microsoft Azure; KVM by nested virtualisation",
    credentials: &[
        "AZURE_CLIENT_SECRET",
        "ARM_CLIENT_SECRET",
        "ARM_OIDC_TOKEN",
        "ACTIONS_ID_TOKEN_REQUEST_TOKEN",
        "IDENTITY_HEADER",
    ],
    kept: &["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"],
    kept_beside: &[],
    stands_for_itself: &[
        "AZURE_FEDERATED_TOKEN_FILE",
        "AZURE_TENANT_ID",
        "AZURE_CLIENT_ID",
        "ARM_TENANT_ID",
        "ARM_CLIENT_ID",
    ],
    sign_in: "az login",
    files: |world| {
        let folder = world.var("AZURE_CONFIG_DIR").map_or_else(|| world.home().join(".azure"), PathBuf::from);
        ["msal_token_cache.json", "msal_token_cache.bin", "azureProfile.json"]
            .map(|name| folder.join(name))
            .to_vec()
    },
    tools: &[],
    endpoint: |world, keys| http::endpoint(world, NAME, keys["endpoint"].as_str(), VENDOR),
    default_sku: Sku::fixed("Standard_D4s_v3"),
    default_region: Region::fixed("eastus"),
    default_image: "ubuntu-24.04",
    listing_lag: Duration::from_mins(2),
    provision_timeout: Duration::from_mins(20),
    user_data_limit: 65535,
    cloud_clock: false,
    // A machine that powers itself off is billed on.
    timer_stops_bill: false,
    region_key: "location",
    init_keys: || "  subscription: 00000000-0000-0000-0000-000000000000\n".to_owned(),
    schema: |generator| generator.subschema_for::<Config>(),
    kvm,
    prices: PRICES,
    connect,
};

fn connect(world: &World, keys: &Value, link: Link) -> Result<Box<dyn Provider>, ProviderError> {
    let config: Config = config(NAME, keys)?;
    let variable =
        || ["AZURE_SUBSCRIPTION_ID", "ARM_SUBSCRIPTION_ID"].iter().find_map(|name| world.var(name));
    let subscription =
        config.subscription.as_deref().or_else(variable).ok_or_else(|| ProviderError::Unavailable {
            provider: NAME,
            message: "no subscription is named".to_owned(),
            remedy: "write `provider: {subscription: …}` into the spec, or set AZURE_SUBSCRIPTION_ID"
                .to_owned(),
        })?;
    let base = http::endpoint(world, NAME, config.endpoint.as_deref(), VENDOR);
    let wire = link.open(world, NAME)?;
    let cloud = CLOUDS.into_iter().find(|(api, _)| *api == base);
    let (audience, authority) = cloud.unwrap_or(CLOUDS[0]);
    let entra = Entra {
        world: world.clone(),
        wire: Arc::clone(&wire),
        subscription: subscription.to_owned(),
        audience,
        authority,
        stands_in: cloud.is_none(),
        kept: Mutex::new(None),
    };
    let entra = Arc::new(entra);
    let http = Http::new(Arc::clone(&wire), &DIALECT, Arc::<Entra>::clone(&entra));
    let root = format!("{base}/subscriptions/{subscription}");
    let world = world.clone();
    Ok(Box::new(Azure {
        root,
        base,
        subscription: subscription.to_owned(),
        config,
        entra,
        http,
        wire,
        world,
    }))
}

static DIALECT: Dialect = Dialect {
    provider: NAME,
    request_id: "x-ms-correlation-request-id",
    parse: http::json,
    read: read_error,
};

/// Reads `{"error": {"code": …, "message": …, "details": […]}}`; older parts of Azure leave out the outer `error`.
fn read_error(response: &Response) -> Option<VendorError> {
    let body: Value = serde_json::from_slice(&response.body).ok()?;
    let mut error = if body["error"].is_object() { &body["error"] } else { &body };
    // The innermost says it best.
    while let Some(inner) =
        error["details"].as_array().and_then(|all| all.iter().find(|one| one["code"].is_string()))
    {
        error = inner;
    }
    let code = error["code"].as_str()?;
    let said = error["message"].as_str().unwrap_or("no message");
    let known = meaning(code, said, response.status);
    let advice = known.map_or("", |(_, advice)| advice);
    let message = [said, advice].join(" ").trim_end().to_owned();
    Some(VendorError { meaning: known.map(|(meaning, _)| meaning), code: code.to_owned(), message })
}

/// What a code means, and what to do then; `None` leaves it to the status.
fn meaning(code: &str, said: &str, status: u16) -> Option<(Meaning, &'static str)> {
    Some(match code {
        _ if status == 429 => (Meaning::Later, ""),
        "ExpiredAuthenticationToken" | "AuthenticationFailed" => (Meaning::Auth, "(run `az login`)"),
        "InvalidAuthenticationToken" | "InvalidAuthenticationTokenTenant" => {
            (Meaning::Auth, "(run `az login`, with `--tenant` if there are several)")
        }
        "AuthorizationFailed" | "LinkedAuthorizationFailed" => {
            (Meaning::Auth, "(the role Contributor on the subscription has what lane needs)")
        }
        "SubscriptionNotFound" => (Meaning::Auth, "(`az account list` shows the subscriptions)"),
        "ReadOnlyDisabledSubscription" => (Meaning::Auth, "(the subscription is switched off, or unpaid)"),
        "MissingSubscriptionRegistration" => (
            Meaning::Rejected,
            "(run `az provider register --namespace Microsoft.Compute`, the same for Microsoft.Network, and wait some minutes)",
        ),
        "RequestDisallowedByPolicy" => {
            (Meaning::Rejected, "(a policy of the company forbids it; the message names it)")
        }
        "SkuNotAvailable"
        | "AllocationFailed"
        | "ZonalAllocationFailed"
        | "OverconstrainedAllocationRequest"
        | "OverconstrainedZonalAllocationRequest" => {
            (Meaning::Capacity, "(try another `location`, or another `sku`: `lane prices azure --kvm`)")
        }
        // The code of all that is not allowed, quotas among it.
        "OperationNotAllowed" if !said.to_ascii_lowercase().contains("quota") => (Meaning::Rejected, ""),
        "QuotaExceeded" | "OperationNotAllowed" | "PublicIPCountLimitReached" => (
            Meaning::Quota,
            "(ask for more on the portal's Quotas page, or take another `location` or `sku`)",
        ),
        "PlatformImageNotFound" | "GalleryImageNotFound" => {
            (Meaning::Rejected, "(`az vm image list --all --publisher …` shows the images there are)")
        }
        // The last one is what an object says whose part is not known everywhere yet.
        "ResourceGroupNotFound" | "ResourceNotFound" | "NotFound" | "InvalidResourceReference" => {
            (Meaning::NotFound, "")
        }
        // Another deletion or change goes on.
        "ResourceGroupBeingDeleted"
        | "AnotherOperationInProgress"
        | "RetryableError"
        | "NicReservedForAnotherVm" => (Meaning::Later, ""),
        "PreconditionFailed" | "ConditionNotMet" | "PropertyChangeNotAllowed" => (Meaning::Conflict, ""),
        "ScopeLocked" => (Meaning::Rejected, "(a lock is on it, which a person has to take off)"),
        _ => return None,
    })
}

/// Where an Azure user keeps credentials: a service principal in variables, a federated token, the `az` tool, the
/// managed identity of the machine.
#[derive(Debug)]
struct Entra {
    world: World,
    wire: Arc<dyn Wire>,
    subscription: String,
    /// Whom a token is for.
    audience: &'static str,
    /// The sign-in service of that cloud.
    authority: &'static str,
    stands_in: bool,
    kept: Mutex<Option<Kept>>,
}

/// A token, the moment from which it is not to be used any more, and where it is from.
#[derive(Debug)]
struct Kept {
    token: Secret,
    until: Timestamp,
    origin: &'static str,
}

/// Who asks, by what the variables say.
#[derive(Debug)]
enum Source<'a> {
    /// A service principal.
    Principal { tenant: &'a str, client: &'a str, proof: Proof<'a> },
    /// One of the identities of this machine, by its client id.
    Machine(&'a str),
    /// Nobody, for an emulator.
    Nobody,
    /// Whoever signed in with `az`, else the identity of this machine.
    Around,
}

/// How a service principal shows that it is the one; with the variable that has it.
#[derive(Debug)]
enum Proof<'a> {
    Secret(&'static str, &'a str),
    Token(&'static str, &'a str),
    TokenFile(&'static str, &'a str),
    GitHub { url: &'a str, token: &'a str },
}

/// Variables of one tool that say who asks.
#[derive(Debug)]
struct Variables {
    tenant: &'static str,
    client: &'static str,
    secret: &'static str,
    token: Option<&'static str>,
    token_file: &'static str,
    certificates: &'static [&'static str],
}

/// Those of the Azure tools, and Terraform's.
const VARIABLES: [Variables; 2] = [
    Variables {
        tenant: "AZURE_TENANT_ID",
        client: "AZURE_CLIENT_ID",
        secret: "AZURE_CLIENT_SECRET",
        token: None,
        token_file: "AZURE_FEDERATED_TOKEN_FILE",
        certificates: &["AZURE_CLIENT_CERTIFICATE_PATH"],
    },
    Variables {
        tenant: "ARM_TENANT_ID",
        client: "ARM_CLIENT_ID",
        secret: "ARM_CLIENT_SECRET",
        token: Some("ARM_OIDC_TOKEN"),
        token_file: "ARM_OIDC_TOKEN_FILE_PATH",
        certificates: &["ARM_CLIENT_CERTIFICATE", "ARM_CLIENT_CERTIFICATE_PATH"],
    },
];

impl Variables {
    /// Reads a whole set; `None` where nothing of it names a service principal, an error where a part is missing.
    fn principal<'a>(&self, world: &'a World) -> Result<Option<Source<'a>>, ProviderError> {
        let var = |name: &str| world.var(name);
        let (tenant, client) = (var(self.tenant), var(self.client));
        let secret = var(self.secret).map(|text| Proof::Secret(self.secret, text));
        let token = self.token.and_then(|name| Some(Proof::Token(name, var(name)?)));
        let file = var(self.token_file).map(|path| Proof::TokenFile(self.token_file, path));
        let own = secret.or(token).or(file);
        let certificate = self.certificates.iter().find(|name| var(name).is_some());
        // A tenant alone is a hint, and a client alone an identity of this machine.
        if own.is_none() && certificate.is_none() && tenant.and(client).is_none() {
            return Ok(None);
        }
        let (secret, token_file) = (self.secret, self.token_file);
        if let (None, Some(certificate)) = (&own, certificate) {
            return Err(denied(&format!(
                "{certificate} is set, and lane cannot sign in with a certificate: set {secret} or {token_file} instead"
            )));
        }
        let github = || {
            let (url, token) = (var("ACTIONS_ID_TOKEN_REQUEST_URL")?, var("ACTIONS_ID_TOKEN_REQUEST_TOKEN")?);
            Some(Proof::GitHub { url, token })
        };
        match (tenant, client, own.or_else(github)) {
            (Some(tenant), Some(client), Some(proof)) => {
                Ok(Some(Source::Principal { tenant, client, proof }))
            }
            (Some(_), Some(_), None) => Err(denied(&format!(
                "{} is set, and its proof is not: set {secret} or {token_file} too, or unset it",
                self.client
            ))),
            _ => {
                let parts = [(self.tenant, tenant), (self.client, client)];
                let missing: Vec<&str> =
                    parts.iter().filter(|(_, value)| value.is_none()).map(|(name, _)| *name).collect();
                Err(denied(&format!(
                    "a secret or token of a service principal is set without {}: set that too, or unset {secret} and {token_file}",
                    missing.join(" and ")
                )))
            }
        }
    }
}

impl Entra {
    /// Returns what the variables say of who asks: those of one tool, never some of each.
    fn source(&self) -> Result<Source<'_>, ProviderError> {
        for variables in &VARIABLES {
            if let Some(principal) = variables.principal(&self.world)? {
                return Ok(principal);
            }
        }
        let var = |name: &str| self.world.var(name);
        Ok(match VARIABLES.iter().find_map(|variables| var(variables.client)) {
            _ if self.stands_in => Source::Nobody,
            Some(client) => Source::Machine(client),
            None => Source::Around,
        })
    }

    /// Gets a token from where the variables say.
    async fn token(&self) -> Result<Kept, ProviderError> {
        let (tool, machine) = match self.source()? {
            Source::Principal { tenant, client, proof } => return self.exchange(tenant, client, proof).await,
            Source::Nobody => {
                let (token, origin) = (Secret::new("test"), "none, for an emulator");
                return Ok(Kept { token, until: Timestamp::MAX, origin });
            }
            Source::Machine(client) => {
                return self.machine(Some(client)).await?.ok_or_else(|| {
                    denied(&format!(
                        "the client {client} is named without AZURE_TENANT_ID and a secret, so it is an identity of this machine, which has none"
                    ))
                });
            }
            Source::Around => match self.tool().await {
                Ok(Some(token)) => return Ok(token),
                tool => (tool, self.machine(None).await),
            },
        };
        match (tool, machine) {
            (_, Ok(Some(token))) => Ok(token),
            (Ok(_), Ok(None)) => Err(denied(
                "no credentials were found: run `az login`, or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET",
            )),
            (
                Err(ProviderError::Auth { message: tool, .. }),
                Err(ProviderError::Auth { message: machine, .. }),
            ) => Err(denied(&format!("{tool}; {machine}"))),
            // What may pass counts more than what does not.
            (Err(error), Ok(None) | Err(ProviderError::Auth { .. })) | (_, Err(error)) => Err(error),
        }
    }

    /// Returns who asks, as the token says, and where the token is from.
    async fn holder(&self) -> (String, String) {
        let kept = self.kept.lock().await;
        let who = kept.as_ref().and_then(|kept| holder(&kept.token));
        let origin = kept.as_ref().map_or("none", |kept| kept.origin);
        (who.unwrap_or_else(|| "nobody that the token names".to_owned()), origin.to_owned())
    }

    async fn exchange(&self, tenant: &str, client: &str, proof: Proof<'_>) -> Result<Kept, ProviderError> {
        let (origin, kind, text) = match proof {
            Proof::Secret(name, text) => (name, "client_secret", text.to_owned()),
            Proof::Token(name, text) => (name, "client_assertion", text.to_owned()),
            Proof::TokenFile(name, path) => {
                let path = self.world.absolute(path, self.world.cwd());
                let text = crate::world::fs::read(&path)
                    .map_err(|error| denied(&format!("{name}, {}: {error}", path.display())))?;
                (name, "client_assertion", String::from_utf8_lossy(&text).trim().to_owned())
            }
            Proof::GitHub { url, token } => {
                let request = Request::get(format!("{url}&audience=api://AzureADTokenExchange"))
                    .header("authorization", format!("Bearer {token}"));
                let answer = self.ask("GitHub", &request).await?;
                let text = answer["value"].as_str().ok_or_else(|| denied("GitHub gave no token"))?;
                ("GitHub Actions' token", "client_assertion", text.to_owned())
            }
        };
        let authority = self.world.var("AZURE_AUTHORITY_HOST").unwrap_or(self.authority);
        let url = format!("{}/{tenant}/oauth2/v2.0/token", authority.trim_end_matches('/'));
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut form = vec![
            pair("grant_type", "client_credentials"),
            pair("client_id", client),
            pair("scope", &format!("{}/.default", self.audience)),
            pair(kind, &text),
        ];
        if kind == "client_assertion" {
            form.push(pair(
                "client_assertion_type",
                "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            ));
        }
        let answer = self.ask("the sign-in service", &Request::post(url).form(form)).await?;
        self.read(&answer, "access_token", origin).ok_or_else(|| denied("the sign-in service gave no token"))
    }

    /// Asks the `az` tool, as most people's laptops have it; `None` where there is none.
    async fn tool(&self) -> Result<Option<Kept>, ProviderError> {
        let arguments = ["account", "get-access-token", "--subscription", &self.subscription, "--resource"];
        let mut command = self.world.command("az");
        command.args(arguments).args([self.audience, "--output", "json"]);
        command.envs(TOOL_VARIABLES.iter().filter_map(|name| Some((name, self.world.var(name)?))));
        command.stdin(std::process::Stdio::null()).kill_on_drop(true);
        let output = match tokio::time::timeout(TOOL, command.output()).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Ok(Err(error)) => return Err(denied(&format!("`az` does not run: {error}"))),
            Err(_) => return Err(passing(format!("`az` does not answer within {} s", TOOL.as_secs()))),
        };
        if output.status.success() {
            let answer = serde_json::from_slice(&output.stdout).unwrap_or_default();
            let token = self.read(&answer, "accessToken", "`az login`");
            return token.map(Some).ok_or_else(|| denied("`az account get-access-token` gave no token"));
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        let said: String = said.chars().take(500).collect();
        let message = format!("`az account get-access-token` failed: {said}");
        // What `az` says of a network that is not there.
        let passes = ["Max retries exceeded", "Connection aborted", "timed out"];
        Err(if passes.iter().any(|words| said.contains(words)) { passing(message) } else { denied(&message) })
    }

    /// Asks the machine's own identity; `None` on a machine that has no such service.
    async fn machine(&self, client: Option<&str>) -> Result<Option<Kept>, ProviderError> {
        let service = self.world.var("IDENTITY_ENDPOINT").zip(self.world.var("IDENTITY_HEADER"));
        let mut request = if let Some((url, proof)) = service {
            Request::get(url).query("api-version", "2019-08-01").header("x-identity-header", proof)
        } else {
            let host =
                self.world.var("AZURE_POD_IDENTITY_AUTHORITY_HOST").unwrap_or("http://169.254.169.254");
            let url = format!("{host}/metadata/identity/oauth2/token");
            // Without its header the service refuses at once, which shows that it is there: a laptop has none.
            let probe = Request::get(&url).query("api-version", "2018-02-01");
            match tokio::time::timeout(Duration::from_secs(1), self.wire.send(&probe)).await {
                Ok(Ok(_)) => probe.header("metadata", "true"),
                Ok(Err(_)) | Err(_) => return Ok(None),
            }
        };
        request = request.query("resource", format!("{}/", self.audience));
        if let Some(client) = client {
            request = request.query("client_id", client);
        }
        let who = "the identity of this machine";
        let answer = tokio::time::timeout(Duration::from_secs(10), self.ask(who, &request))
            .await
            .map_err(|_| passing(format!("{who} is not told within 10 s")))??;
        let token = self.read(&answer, "access_token", who);
        token.map(Some).ok_or_else(|| denied("the identity service of this machine gave no token"))
    }

    /// Asks for a token; a refusal says why.
    async fn ask(&self, whom: &str, request: &Request) -> Result<Value, ProviderError> {
        let answer = self.wire.send(request).await.map_err(|error| match error {
            http::WireError::NotSent(why) | http::WireError::Lost(why) => {
                passing(format!("{whom} cannot be reached: {why}"))
            }
            http::WireError::Untrusted(why) => denied(&format!("{whom} cannot be trusted: {why}")),
        })?;
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        if answer.status == 200 {
            return Ok(body);
        }
        let said = body["error_description"].as_str().or_else(|| body["message"].as_str());
        let said = said.and_then(|text| text.lines().next()).unwrap_or("no message");
        let message = format!("{whom} refuses: HTTP {}: {said}", answer.status);
        Err(match answer.status {
            408 | 410 | 429 | 500.. => passing(message),
            _ if body["error"] == "temporarily_unavailable" => passing(message),
            _ => denied(&message),
        })
    }

    fn read(&self, answer: &Value, key: &str, origin: &'static str) -> Option<Kept> {
        let token = Secret::new(answer[key].as_str()?);
        let number = |value: &Value| value.as_i64().or_else(|| value.as_str()?.parse().ok());
        let now = self.world.now().as_second();
        let ends = number(&answer["expires_on"]).or_else(|| Some(now + number(&answer["expires_in"])?));
        let until = Timestamp::from_second(ends.unwrap_or(now + 600) - 300).ok()?;
        Some(Kept { token, until, origin })
    }
}

/// Reads who holds a token, which nobody has verified: a person's name, an application's or an object's id.
fn holder(token: &Secret) -> Option<String> {
    let claims = URL_SAFE_NO_PAD.decode(token.reveal().split('.').nth(1)?.trim_end_matches('=')).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    ["upn", "unique_name", "appid", "oid"].iter().find_map(|name| claims[name].as_str()).map(str::to_owned)
}

fn denied(message: &str) -> ProviderError {
    ProviderError::Auth { provider: NAME, message: message.to_owned() }
}

/// Trouble that may be over in a moment.
fn passing(message: String) -> ProviderError {
    ProviderError::Transient { provider: NAME, operation: "signing in", message }
}

#[async_trait]
impl Credentials for Entra {
    async fn sign(&self, request: &mut Request) -> Result<(), ProviderError> {
        let mut kept = self.kept.lock().await;
        let token = match &*kept {
            Some(kept) if self.world.now() < kept.until => kept.token.clone(),
            _ => kept.insert(self.token().await?).token.clone(),
        };
        http::Bearer(token).sign(request).await
    }
}

#[derive(Debug)]
struct Azure {
    /// `…/subscriptions/<id>`.
    root: String,
    base: String,
    subscription: String,
    config: Config,
    entra: Arc<Entra>,
    http: Http,
    wire: Arc<dyn Wire>,
    world: World,
}

fn tags(request: &CreateRequest) -> Value {
    json!({
        "managed-by": "lane",
        "lane": request.label.lane,
        "lineage": request.label.lineage.as_str(),
        "expires": request.expires_at.to_string(),
    })
}

/// Compares locations, which are written `East US` as well as `eastus`.
fn same_place(one: &str, other: &str) -> bool {
    let letters = |text: &str| text.replace(' ', "").to_ascii_lowercase();
    letters(one) == letters(other)
}

fn is_deleting(thing: &Value) -> bool {
    thing["properties"]["provisioningState"] == "Deleting"
}

fn image(image: &str) -> Value {
    if image.starts_with('/') {
        return json!({"id": image});
    }
    let known = IMAGES.iter().find(|(name, _)| *name == image);
    let mut parts =
        known.map_or_else(|| image.split(':').collect::<Vec<_>>(), |(_, parts)| parts.to_vec()).into_iter();
    let mut next = |otherwise: &'static str| parts.next().unwrap_or(otherwise).to_owned();
    json!({"publisher": next(""), "offer": next(""), "sku": next(""), "version": next("latest")})
}

/// A key whose private half is thrown away: Azure wants one for a machine without a password.
fn unused_key() -> Result<String, ProviderError> {
    let failed = |error: ssh_key::Error| ProviderError::Unavailable {
        provider: NAME,
        message: format!("a key cannot be made: {error}"),
        remedy: "this machine's source of randomness has to work".to_owned(),
    };
    let key = ssh_key::PrivateKey::random(&mut ssh_key::rand_core::OsRng, ssh_key::Algorithm::Ed25519)
        .map_err(failed)?;
    key.public_key().to_openssh().map_err(failed)
}

impl Azure {
    #[track_caller]
    fn group(&self, group: &str) -> Request {
        Request::get(format!("{}/resourcegroups/{group}", self.root)).query("api-version", RESOURCES)
    }

    /// The path of an object in a group, as ids have it.
    fn id(&self, group: &str, kind: &str, name: &str) -> String {
        format!("/subscriptions/{}/resourceGroups/{group}/providers/{kind}/{name}", self.subscription)
    }

    #[track_caller]
    fn object(&self, group: &str, kind: &str, name: &str) -> Request {
        let version = if kind.starts_with("Microsoft.Compute") { COMPUTE } else { NETWORK };
        Request::get(format!("{}{}", self.base, self.id(group, kind, name))).query("api-version", version)
    }

    /// Reads something; `None` for what is not there.
    async fn read(&self, what: &'static str, request: Request) -> Result<Option<Value>, ProviderError> {
        match self.http.call(what, request).await {
            Ok(found) => Ok(Some(found)),
            Err(CallError::NotFound(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends a request about what was made just now, which some part of Azure may not know yet.
    async fn call_replicated(
        &self,
        what: &'static str,
        request: Request,
    ) -> Result<(Value, Vec<(String, String)>), ProviderError> {
        let began = tokio::time::Instant::now();
        loop {
            match self.http.answer(what, request.clone()).await {
                Err(CallError::NotFound(_)) if began.elapsed() < REPLICATION => {
                    tokio::time::sleep(POLL).await;
                }
                called => return called.map_err(|error| error.refused(NAME, what)),
            }
        }
    }

    /// Asks the operation that carries a request out why it failed; `None` where it does not say, or did not fail.
    async fn reason(&self, what: &'static str, operation: Option<&str>) -> Option<CallError> {
        // Our token goes nowhere else.
        let address = operation.filter(|address| address.starts_with(&format!("{}/", self.base)))?;
        let seen = self.http.call(what, Request::get(address)).await.ok()?;
        if !["Failed", "Canceled"].iter().any(|end| seen["status"] == *end) {
            return None;
        }
        let error = read_error(&Response::json(409, &seen))?;
        let meaning = error.meaning.unwrap_or(Meaning::Rejected);
        Some(self.http.error(what, meaning, format!("{}: {}", error.code, error.message)))
    }

    /// Makes an object of the network, or makes it so, and waits until it is.
    async fn put(&self, group: &str, kind: &str, name: &str, body: Value) -> Result<(), ProviderError> {
        let what = "making the network";
        let request = self.object(group, kind, name);
        let put = request.clone().method(Method::PUT).json(body);
        let (mut seen, headers) = self.call_replicated(what, put).await?;
        let began = tokio::time::Instant::now();
        loop {
            match seen["properties"]["provisioningState"].as_str().unwrap_or("Succeeded") {
                "Succeeded" => return Ok(()),
                state @ ("Failed" | "Canceled") => {
                    if let Some(error) = self.reason(what, operation(&headers)).await {
                        return Err(error.refused(NAME, what));
                    }
                    let message = format!(
                        "{kind} {name} is {state} (the activity log of the group {group}, in the portal, says why)"
                    );
                    return Err(ProviderError::Rejected { provider: NAME, operation: what, message });
                }
                _ if began.elapsed() > PATIENCE => {
                    let message = format!("{kind} {name} is not ready yet");
                    return Err(ProviderError::Transient { provider: NAME, operation: what, message });
                }
                _ => tokio::time::sleep(POLL).await,
            }
            seen = self.call_replicated(what, request.clone()).await?.0;
        }
    }

    /// Reads a group once no deletion of it goes on any more.
    async fn settled(&self, what: &'static str, group: &str) -> Result<Option<Value>, ProviderError> {
        let began = tokio::time::Instant::now();
        loop {
            let found = self.read(what, self.group(group)).await?;
            if !found.as_ref().is_some_and(is_deleting) {
                return Ok(found);
            }
            if began.elapsed() > PATIENCE {
                let message = format!("the group {group} of before is still being deleted");
                return Err(ProviderError::Transient { provider: NAME, operation: what, message });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Makes the group, or takes the one that an earlier try made.
    async fn open_group(&self, request: &CreateRequest, group: &str) -> Result<(), ProviderError> {
        let what = "making the resource group";
        let mut found = self.settled(what, group).await?;
        if let Some(there) = &found {
            if label(&there["tags"]).as_ref() != Some(&request.label) {
                let message = format!("a resource group {group} that is not this lane's stands in the way");
                return Err(ProviderError::Rejected { provider: NAME, operation: what, message });
            }
            let place = there["location"].as_str().unwrap_or_default().to_owned();
            // A group stays where it was made.
            if !same_place(&place, request.region.as_str()) {
                if self.read(what, self.host(group)).await?.is_some() {
                    let message = format!("there is a machine of this lane in {place}");
                    return Err(ProviderError::Ambiguous { provider: NAME, operation: what, message });
                }
                self.destroy(&HostId::new(group)).await?;
                tokio::time::sleep(POLL).await;
                found = self.settled(what, group).await?;
                if found.is_some() {
                    let message = format!("the group {group} of before is still in {place}");
                    return Err(ProviderError::Transient { provider: NAME, operation: what, message });
                }
            }
        }
        let mut tags = tags(request);
        let before = found.as_ref().and_then(|found| moment(&found["tags"]["created"]));
        tags["created"] = before.unwrap_or_else(|| self.world.now()).strftime("%FT%TZ").to_string().into();
        let body = json!({"location": request.region.as_str(), "tags": tags});
        let put = self.group(group).method(Method::PUT).json(body);
        self.http.call(what, put).await.map_err(|error| error.refused(NAME, what))?;
        Ok(())
    }

    async fn open_network(&self, request: &CreateRequest, group: &str) -> Result<(), ProviderError> {
        let admitted = match request.allow_from.as_slice() {
            [] => vec![operator_network(&self.world, NAME, self.wire.as_ref()).await?],
            networks => networks.to_vec(),
        };
        // What is not allowed is denied by the rules that every group has, of priority 65000 and more.
        let rule = |(at, network): (usize, &String)| {
            json!({"name": format!("ssh-{at}"), "properties": {
                "priority": 100 + at, "direction": "Inbound", "access": "Allow", "protocol": "Tcp",
                "sourceAddressPrefix": network, "sourcePortRange": "*",
                "destinationAddressPrefix": "*", "destinationPortRange": "22",
            }})
        };
        let rules: Vec<Value> = admitted.iter().enumerate().map(rule).collect();
        let of = |properties: Value| json!({"location": request.region.as_str(), "tags": tags(request), "properties": properties});
        let (guard, net) = ("Microsoft.Network/networkSecurityGroups", "Microsoft.Network/virtualNetworks");
        let (card, address) = ("Microsoft.Network/networkInterfaces", "Microsoft.Network/publicIPAddresses");
        self.put(group, guard, "nsg", of(json!({"securityRules": rules}))).await?;
        let subnet = json!({"name": "main", "properties": {
            "addressPrefix": "10.71.0.0/24", "networkSecurityGroup": {"id": self.id(group, guard, "nsg")},
        }});
        self.put(
            group,
            net,
            "net",
            of(json!({"addressSpace": {"addressPrefixes": ["10.71.0.0/24"]}, "subnets": [subnet]})),
        )
        .await?;
        let mut public = of(json!({"publicIPAllocationMethod": "Static", "publicIPAddressVersion": "IPv4"}));
        public["sku"] = json!({"name": "Standard"});
        self.put(group, address, "ip", public).await?;
        let inner = json!({"name": "ip", "properties": {
            "primary": true,
            "subnet": {"id": format!("{}/subnets/main", self.id(group, net, "net"))},
            "publicIPAddress": {"id": self.id(group, address, "ip")},
        }});
        self.put(group, card, "nic", of(json!({"ipConfigurations": [inner]}))).await
    }

    fn machine(&self, request: &CreateRequest, group: &str) -> Result<Value, ProviderError> {
        let mut properties = json!({
            "hardwareProfile": {"vmSize": request.sku.as_str()},
            "storageProfile": {
                "imageReference": image(&request.image),
                "osDisk": {
                    "name": "os", "createOption": "FromImage", "deleteOption": "Delete", "caching": "ReadWrite",
                    "diskSizeGB": request.disk_bytes.div_ceil(1 << 30),
                    "managedDisk": {"storageAccountType": "StandardSSD_LRS"},
                },
            },
            "osProfile": {
                "computerName": "lane", "adminUsername": ADMIN, "customData": BASE64.encode(&request.user_data),
                "linuxConfiguration": {
                    "disablePasswordAuthentication": true,
                    "ssh": {"publicKeys": [{
                        "path": format!("/home/{ADMIN}/.ssh/authorized_keys"), "keyData": unused_key()?,
                    }]},
                },
            },
            "networkProfile": {"networkInterfaces": [{
                "id": self.id(group, "Microsoft.Network/networkInterfaces", "nic"),
                "properties": {"primary": true, "deleteOption": "Delete"},
            }]},
            "diagnosticsProfile": {"bootDiagnostics": {"enabled": true}},
        });
        if self.config.spot {
            properties["priority"] = "Spot".into();
            properties["evictionPolicy"] = "Delete".into();
            properties["billingProfile"] = json!({"maxPrice": -1});
        }
        let mut tags = tags(request);
        // On the machine and not on the group, which a later try writes anew.
        tags["fingerprint"] = request.fingerprint.0.as_str().into();
        Ok(json!({"location": request.region.as_str(), "tags": tags, "properties": properties}))
    }

    #[track_caller]
    fn host(&self, group: &str) -> Request {
        self.object(group, "Microsoft.Compute/virtualMachines", "host")
    }

    /// Waits until a machine whose create was accepted has room, or has none.
    async fn allocated(
        &self,
        what: &'static str,
        group: &str,
        kvm: bool,
        operation: Option<&str>,
    ) -> Result<(), ProviderError> {
        let began = tokio::time::Instant::now();
        loop {
            let seen = match self.http.call(what, self.host(group).query("$expand", "instanceView")).await {
                Ok(seen) => seen,
                // It may have been given up before anybody saw it.
                Err(CallError::NotFound(_)) => match self.reason(what, operation).await {
                    Some(error) => return Err(error.refused(NAME, what)),
                    None => Value::Null,
                },
                Err(error) => return Err(error.into()),
            };
            let properties = &seen["properties"];
            let kind =
                properties["securityProfile"]["securityType"].as_str().filter(|kind| *kind != "Standard");
            if let Some(kind) = kind.filter(|_| kvm) {
                let message = format!(
                    "the machine came up as {kind}, which has no /dev/kvm (take an image of generation 1, `server-gen1` say, and a size of v3 to v5)"
                );
                return Err(ProviderError::Rejected { provider: NAME, operation: what, message });
            }
            let state = properties["provisioningState"].as_str().unwrap_or("Creating");
            // It may run although something beside it failed.
            if power(&seen) == Some("running") {
                return Ok(());
            }
            if let "Failed" | "Canceled" = state {
                let said = failure(&seen);
                if said.is_none()
                    && let Some(error) = self.reason(what, operation).await
                {
                    return Err(error.refused(NAME, what));
                }
                let (code, said) = said.unwrap_or((state, "the machine could not be made"));
                let (meaning, advice) = meaning(code, said, 409).unwrap_or((Meaning::Rejected, ""));
                return Err(self
                    .http
                    .error(what, meaning, format!("{code}: {said} {advice}"))
                    .refused(NAME, what));
            }
            if state == "Succeeded" || power(&seen).is_some() {
                return Ok(());
            }
            if began.elapsed() > PATIENCE {
                let message = format!(
                    "the machine of {group} is {state} for more than {} minutes",
                    PATIENCE.as_secs() / 60
                );
                return Err(ProviderError::Ambiguous { provider: NAME, operation: what, message });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Reads the address of the next page, which has to be at the same place: our token goes nowhere else.
    fn next(&self, page: &Value) -> Result<Option<Request>, String> {
        match page["nextLink"].as_str().filter(|link| !link.is_empty()) {
            None => Ok(None),
            Some(link) if link.starts_with(&format!("{}/", self.base)) => Ok(Some(Request::get(link))),
            Some(link) => Err(format!("its next page is not at {}: {link}", self.base)),
        }
    }

    /// Reads all pages of something; a page may be empty and have a successor all the same.
    async fn pages(&self, operation: &'static str, first: Request) -> Result<Vec<Value>, ProviderError> {
        let next = |page: &Value| self.next(page).ok().flatten();
        let pages = self.http.pages(operation, first, "value", next).await?;
        // A listing that is not whole proves nothing.
        if let Some(Err(message)) = pages.last().map(|page| self.next(page)) {
            return Err(ProviderError::Rejected { provider: NAME, operation, message });
        }
        Ok(pages)
    }

    /// Lists the groups that are ours, whatever is in them.
    async fn groups(&self, selector: &Selector) -> Result<Vec<Value>, ProviderError> {
        let what = "listing";
        // A filter takes one tag; which lineage, is refined here.
        let first = Request::get(format!("{}/resourcegroups", self.root))
            .query("api-version", RESOURCES)
            .query("$filter", "tagName eq 'managed-by' and tagValue eq 'lane'");
        let mut groups = values(&self.pages(what, first).await?);
        // The listing lags; asked for by its name, a group is there or is not.
        if let Selector::Label(wanted) = selector
            && let Some(found) = self.read(what, self.group(&wanted.to_string())).await?
        {
            let name = |group: &Value| group["name"].as_str().unwrap_or_default().to_ascii_lowercase();
            groups.retain(|group| name(group) != name(&found));
            groups.push(found);
        }
        groups.retain(|group| match (selector, label(&group["tags"])) {
            (Selector::Owned, Some(_)) => true,
            (Selector::Label(wanted), Some(found)) => found == *wanted,
            (_, None) => false,
        });
        Ok(groups)
    }

    /// Lists what is in a group; `None` where there is no group.
    async fn contents(&self, what: &'static str, group: &str) -> Result<Option<Vec<Value>>, ProviderError> {
        let first = Request::get(format!("{}/resourceGroups/{group}/resources", self.root))
            .query("api-version", RESOURCES);
        let Some(page) = self.read(what, first).await? else { return Ok(None) };
        if !page["value"].is_array() {
            let message = "the answer is no listing: it has no `value`".to_owned();
            return Err(ProviderError::Ambiguous { provider: NAME, operation: what, message });
        }
        let rest = self.next(&page).map_err(|message| ProviderError::Rejected {
            provider: NAME,
            operation: what,
            message,
        })?;
        let mut pages = vec![page];
        if let Some(next) = rest {
            pages.extend(self.pages(what, next).await?);
        }
        Ok(Some(values(&pages)))
    }

    async fn read_host(&self, group: &Value) -> Result<Option<Host>, ProviderError> {
        let (what, name) = ("reading a machine", group["name"].as_str().unwrap_or_default());
        let Some(seen) = self.read(what, self.host(name).query("$expand", "instanceView")).await? else {
            return Ok(None);
        };
        let Some(label) = label(&group["tags"]) else { return Ok(None) };
        let address = self.read(what, self.object(name, "Microsoft.Network/publicIPAddresses", "ip")).await?;
        let address = address.as_ref().and_then(|ip| ip["properties"]["ipAddress"].as_str());
        let properties = &seen["properties"];
        Ok(Some(Host {
            id: HostId::new(name),
            label,
            status: match (properties["provisioningState"].as_str(), power(&seen)) {
                // A group begins to die before what is in it does.
                _ if is_deleting(group) || is_deleting(&seen) => HostStatus::Stopped,
                // Also where something beside the machine failed: an extension, say, that a policy put on it.
                (_, Some("running")) => HostStatus::Running,
                (Some("Failed" | "Canceled"), _) => HostStatus::Stopped,
                (_, None | Some("starting")) => HostStatus::Starting,
                // Deallocated too: the disk and the address are billed.
                _ => HostStatus::Stopped,
            },
            address: address.and_then(|address| address.parse().ok()),
            ssh_port: 22,
            sku: Sku::new(properties["hardwareProfile"]["vmSize"].as_str().unwrap_or_default()),
            region: Region::new(seen["location"].as_str().unwrap_or_default()),
            fingerprint: seen["tags"]["fingerprint"]
                .as_str()
                .map(|text| Fingerprint(Digest::from_text(text))),
            created_at: moment(&properties["timeCreated"]),
            expires_at: moment(&group["tags"]["expires"]),
        }))
    }
}

/// Reads whose a thing is; `None` for one that carries half of our tags and so belongs to no lane.
fn label(tags: &Value) -> Option<Label> {
    let lineage = Lineage::new(tags["lineage"].as_str()?);
    (tags["managed-by"] == "lane").then_some(Label { lane: tags["lane"].as_str()?.to_owned(), lineage })
}

fn moment(written: &Value) -> Option<Timestamp> {
    written.as_str()?.parse().ok()
}

/// Gathers what the pages of a listing list.
fn values(pages: &[Value]) -> Vec<Value> {
    pages.iter().flat_map(|page| page["value"].as_array().cloned().unwrap_or_default()).collect()
}

/// Tells whether a message that misses something is about a group or the network in it, and not about an image, say.
fn is_about(message: &str, group: &str) -> bool {
    let (message, group) = (message.to_ascii_lowercase(), group.to_ascii_lowercase());
    let network = format!("/{group}/providers/microsoft.network/");
    message.contains(&format!("group '{group}'")) || message.contains(&network)
}

/// Names a thing of a group, `Microsoft.Network/publicIPAddresses/ip`.
fn shown(thing: &Value) -> String {
    [&thing["type"], &thing["name"]].map(|part| part.as_str().unwrap_or("?")).join("/")
}

/// Tells whether a thing of a group is the lane's: one that lane makes, one on its machine, or one with its tags.
fn is_of_lane(thing: &Value, whose: &Label) -> bool {
    let part = |key: &str| thing[key].as_str().unwrap_or_default().to_ascii_lowercase();
    let (kind, name) = (part("type"), part("name"));
    OBJECTS.iter().any(|(known, own)| known.eq_ignore_ascii_case(&kind) && *own == name)
        || (kind.eq_ignore_ascii_case(EXTENSION) && name.starts_with("host/"))
        || label(&thing["tags"]).as_ref() == Some(whose)
}

/// Finds what went wrong with a machine in all that its view says.
fn failure(machine: &Value) -> Option<(&str, &str)> {
    let view = &machine["properties"]["instanceView"];
    let parts =
        ["disks", "extensions"].into_iter().flat_map(|part| view[part].as_array().into_iter().flatten());
    let mut statuses =
        std::iter::once(view).chain(parts).flat_map(|part| part["statuses"].as_array().into_iter().flatten());
    let failed = statuses.find(|status| status["level"] == "Error")?;
    let code = failed["code"].as_str()?.rsplit('/').next()?;
    Some((code, failed["message"].as_str().unwrap_or("the machine could not be made")))
}

/// Returns the address of the operation that carries a request out.
fn operation(headers: &[(String, String)]) -> Option<&str> {
    headers.iter().find(|(name, _)| name == "azure-asyncoperation").map(|(_, address)| address.as_str())
}

/// Reads `PowerState/running` out of a machine's view.
fn power(machine: &Value) -> Option<&str> {
    let statuses = machine["properties"]["instanceView"]["statuses"].as_array()?;
    statuses.iter().find_map(|status| status["code"].as_str()?.strip_prefix("PowerState/"))
}

#[async_trait]
impl Provider for Azure {
    async fn create(&self, request: &CreateRequest) -> Result<HostId, ProviderError> {
        let (what, group) = ("creating a machine", request.label.to_string());
        self.open_group(request, &group).await?;
        self.open_network(request, &group).await?;
        let put = self
            .host(&group)
            .method(Method::PUT)
            .json(self.machine(request, &group)?)
            // Without it, a second request would be a change of the first machine.
            .header("if-none-match", "*")
            .header("x-ms-client-request-id", token_uuid(&request.token))
            .once();
        let headers = match self.http.answer(what, put).await {
            Ok((_, headers)) => headers,
            Err(CallError::Conflict(message)) => {
                return Err(ProviderError::Ambiguous { provider: NAME, operation: what, message });
            }
            // What was made just now is not known everywhere yet.
            Err(CallError::NotFound(message)) if is_about(&message, &group) => {
                return Err(ProviderError::Transient { provider: NAME, operation: what, message });
            }
            Err(error) => return Err(error.refused(NAME, what)),
        };
        match self.allocated(what, &group, request.kvm, operation(&headers)).await {
            Ok(()) => Ok(HostId::new(group)),
            // It was accepted: whatever keeps us from seeing its end, it may have had its effect.
            Err(
                error @ (ProviderError::Transient { .. }
                | ProviderError::Auth { .. }
                | ProviderError::Unavailable { .. }),
            ) => {
                Err(ProviderError::Ambiguous { provider: NAME, operation: what, message: error.to_string() })
            }
            Err(error) => Err(error),
        }
    }

    async fn find(&self, selector: &Selector) -> Result<Vec<Host>, ProviderError> {
        let mut hosts = Vec::new();
        for group in self.groups(selector).await? {
            hosts.extend(self.read_host(&group).await?);
        }
        Ok(hosts)
    }

    async fn destroy(&self, id: &HostId) -> Result<(), ProviderError> {
        let what = "deleting a resource group";
        let Some(found) = self.read(what, self.group(id.as_str())).await? else { return Ok(()) };
        let rejected = |message| ProviderError::Rejected { provider: NAME, operation: what, message };
        let whose =
            label(&found["tags"]).ok_or_else(|| rejected(format!("{id} does not carry lane's tags")))?;
        if is_deleting(&found) {
            return Ok(());
        }
        let Some(contents) = self.contents(what, id.as_str()).await? else { return Ok(()) };
        let foreign: Vec<String> =
            contents.iter().filter(|thing| !is_of_lane(thing, &whose)).map(shown).collect();
        if !foreign.is_empty() {
            return Err(rejected(format!(
                "the group {id} holds what lane did not make, and it would go too: {}; move or delete it, then ask again",
                foreign.join(", ")
            )));
        }
        let delete = self
            .group(id.as_str())
            .method(Method::DELETE)
            .query("forceDeletionTypes", "Microsoft.Compute/virtualMachines");
        match self.http.call(what, delete).await {
            Ok(_) | Err(CallError::NotFound(_)) => Ok(()),
            Err(error) => Err(error.refused(NAME, what)),
        }
    }

    async fn residue(&self, selector: &Selector) -> Result<Vec<Residue>, ProviderError> {
        let what = "listing what is left";
        let mut left = Vec::new();
        for group in self.groups(selector).await? {
            let (name, tags) = (group["name"].as_str().unwrap_or_default(), &group["tags"]);
            let contents = self.contents(what, name).await?.unwrap_or_default();
            let contents: Vec<String> = contents.iter().map(shown).collect();
            let inside = if contents.is_empty() { "empty".to_owned() } else { contents.join(", ") };
            left.push(Residue {
                kind: "resource group".to_owned(),
                id: name.to_owned(),
                detail: format!("in {}: {inside}", group["location"].as_str().unwrap_or("?")),
                host: HostId::new(name),
                label: label(tags),
                created_at: moment(&tags["created"]),
                expires_at: moment(&tags["expires"]),
            });
        }
        Ok(left)
    }

    async fn set_expiry(&self, id: &HostId, expires_at: Timestamp) -> Result<(), ProviderError> {
        let what = "moving the lease";
        let refused = |error: CallError| error.refused(NAME, what);
        let group = self.http.call(what, self.group(id.as_str())).await.map_err(refused)?;
        let mut tags = group["tags"].clone();
        tags["expires"] = expires_at.to_string().into();
        let patch = self.group(id.as_str()).method(Method::PATCH).json(json!({"tags": tags}));
        self.http.call(what, patch).await.map_err(refused)?;
        Ok(())
    }

    async fn scope(&self) -> Result<Option<String>, ProviderError> {
        let place = if self.base == VENDOR { String::new() } else { format!(" at {}", self.base) };
        Ok(Some(format!("subscription {}{place}", self.subscription)))
    }

    async fn fate(&self, id: &HostId) -> Result<Option<String>, ProviderError> {
        let what = "reading a machine";
        let group = self.read(what, self.group(id.as_str())).await?;
        // What is being deleted, somebody asked to be deleted.
        if !self.config.spot || group.as_ref().is_none_or(is_deleting) {
            return Ok(None);
        }
        let gone = self.read(what, self.host(id.as_str())).await?.is_none();
        Ok(gone.then(|| {
            format!("its machine is gone and its group {id} is not: Microsoft takes spot machines back")
        }))
    }

    async fn whoami(&self) -> Result<Account, ProviderError> {
        let what = "reading the subscription";
        let request = Request::get(&self.root).query("api-version", SUBSCRIPTIONS);
        let found = self.read(what, request).await?.ok_or_else(|| ProviderError::Auth {
            provider: NAME,
            message: format!(
                "there is no subscription {} for these credentials (`az account list` shows those there are)",
                self.subscription
            ),
        })?;
        let told = |key: &str| found[key].as_str().filter(|text| !text.is_empty() && *text != "Enabled");
        let about: Vec<&str> = [told("displayName"), told("state")].into_iter().flatten().collect();
        let about = if about.is_empty() { String::new() } else { format!(" ({})", about.join(", ")) };
        let (account, credentials) = self.entra.holder().await;
        Ok(Account { account, project: Some(format!("{}{about}", self.subscription)), credentials })
    }

    async fn resolve_image(
        &self,
        written: &str,
        _sku: &Sku,
        region: &Region,
    ) -> Result<Option<String>, ProviderError> {
        let what = "choosing an image";
        let wanted = image(written);
        let part = |key: &str| wanted[key].as_str().filter(|part| !part.is_empty());
        if let Some(id) = part("id") {
            return Ok(Some(id.to_owned()));
        }
        let none = || ProviderError::Rejected {
            provider: NAME,
            operation: what,
            message: format!("there is no image {written} in {region}"),
        };
        let (Some(publisher), Some(offer), Some(sku), Some(version)) =
            (part("publisher"), part("offer"), part("sku"), part("version"))
        else {
            return Err(none());
        };
        if version != "latest" {
            return Ok(Some([publisher, offer, sku, version].join(":")));
        }
        let url = format!(
            "{}/providers/Microsoft.Compute/locations/{region}/publishers/{publisher}/artifacttypes/vmimage/offers/{offer}/skus/{sku}/versions",
            self.root
        );
        let newest =
            Request::get(url).query("api-version", COMPUTE).query("$orderby", "name desc").query("$top", "1");
        let found = self.read(what, newest).await?.ok_or_else(none)?;
        let version = found[0]["name"].as_str().ok_or_else(none)?;
        Ok(Some([publisher, offer, sku, version].join(":")))
    }

    async fn quotas(&self, sku: &Sku, region: &Region) -> Result<Vec<Quota>, ProviderError> {
        let url = format!("{}/providers/Microsoft.Compute/locations/{region}/usages", self.root);
        let request = Request::get(url).query("api-version", COMPUTE);
        let pages = self.pages("reading the quotas", request).await?;
        let (Some(family), Some(takes)) = (family(sku), cores(sku)) else { return Ok(vec![]) };
        let quota = |usage: &Value| {
            let name = usage["name"]["value"].as_str()?;
            let counts = if self.config.spot {
                name == "lowPriorityCores"
            } else {
                name.eq_ignore_ascii_case(&family) || name == "cores"
            };
            let shown = usage["name"]["localizedValue"].as_str().unwrap_or(name);
            counts.then_some(Quota {
                name: format!("{shown} in {region}"),
                limit: usage["limit"].as_u64()?,
                used: usage["currentValue"].as_u64(),
                takes,
            })
        };
        Ok(values(&pages).iter().filter_map(quota).collect())
    }

    async fn console_log(&self, id: &HostId) -> Result<Option<String>, ProviderError> {
        let mut request = self.host(id.as_str());
        request.url.push_str("/retrieveBootDiagnosticsData");
        let request = request.method(Method::POST);
        let Some(found) = self.read("reading the console", request).await? else { return Ok(None) };
        let Some(link) = found["serialConsoleLogBlobUri"].as_str() else { return Ok(None) };
        // The link itself is the proof, and a secret; in the first minute there is nothing behind it.
        match self.wire.send(&Request::get(link)).await {
            Ok(answer) if answer.status == 200 => {
                Ok(Some(String::from_utf8_lossy(&answer.body).into_owned()))
            }
            _ => Ok(None),
        }
    }
}

/// A size's name, read: `Standard_D4as_v5` is series `D`, 4 cores, features `as`, version `v5` (Azure, 'VM size naming
/// conventions').
fn size(sku: &Sku) -> Option<(&str, u64, &str, &str)> {
    let name = sku.as_str().strip_prefix("Standard_")?;
    let (front, version) = name.split_once('_').unwrap_or((name, ""));
    let digits = front.find(|c: char| c.is_ascii_digit())?;
    let (series, rest) = front.split_at(digits);
    let features = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    let cores = rest.strip_suffix(features)?.parse().ok()?;
    Some((series, cores, features, version))
}

fn cores(sku: &Sku) -> Option<u64> {
    size(sku).map(|(_, cores, ..)| cores)
}

/// The name of a size's quota: `standardDASv5Family`.
fn family(sku: &Sku) -> Option<String> {
    size(sku).map(|(series, _, features, version)| {
        format!("standard{series}{}{version}Family", features.to_ascii_uppercase())
    })
}

fn kvm(sku: &Sku) -> KvmSupport {
    // By family: Azure's API has no field for it (Azure size pages, 'Nested Virtualization: Supported'). From v6 on only
    // images of generation 2 boot, which come up as Trusted Launch in more and more places, and that hides VT-x.
    match size(sku) {
        // ARM.
        Some((_, _, features, _)) if features.contains('p') => KvmSupport::No,
        // AMD's of that generation.
        Some(("D" | "E", _, features, "v4")) if features.contains('a') => KvmSupport::No,
        Some(("D" | "E", _, _, "v3" | "v4" | "v5")) => KvmSupport::Yes,
        Some(("A" | "B", ..) | ("D" | "DS", _, _, "v2") | ("F", _, _, "")) => KvmSupport::No,
        // Those for confidential computing, and those with a graphics card.
        Some((series, ..)) if series.starts_with("DC") || series.starts_with('N') => KvmSupport::No,
        _ => KvmSupport::Unknown,
    }
}

static PRICES: &[Listed] = &[
    Listed::new("Standard_D4s_v3", "eastus", 192_000, "USD", "list price, 2026-08"),
    Listed::new("Standard_D4s_v3", "westeurope", 240_000, "USD", "list price, 2025-03"),
    Listed::new("Standard_D4s_v5", "eastus", 192_000, "USD", "list price, 2026-09"),
    Listed::new(
        "Standard_D8s_v3",
        "eastus",
        384_000,
        "USD",
        "twice the list price of Standard_D4s_v3, 2026-08",
    ),
    Listed::new(
        "Standard_D8s_v3",
        "westeurope",
        480_000,
        "USD",
        "twice the list price of Standard_D4s_v3, 2025-03",
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_has_kvm_by_its_family() {
        for (expected, sizes) in [
            (
                KvmSupport::Yes,
                "D4s_v3 D4_v3 E8ds_v4 D4d_v4 D4as_v5 D8s_v5 E4ads_v5".split(' ').collect::<Vec<_>>(),
            ),
            (
                KvmSupport::No,
                "A4_v2 B2s D4a_v4 D4as_v4 E4a_v4 DS3_v2 D3_v2 DC4s_v3 DC4as_v5 NC6s_v3 NV12s_v3 F4 F4s D4ps_v5"
                    .split(' ')
                    .collect(),
            ),
            (KvmSupport::Unknown, "D4s_v6 F4s_v2 M8ms".split(' ').collect()),
        ] {
            for size in sizes {
                assert_eq!(kvm(&Sku::new(format!("Standard_{size}"))), expected, "{size}");
            }
        }
    }
}
