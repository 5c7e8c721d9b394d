//! Microsoft Azure, by its Resource Manager: compute 2025-04-01, network 2024-05-01, resources 2021-04-01.
//!
//! A lane is one resource group with all that the host needs in it, so that one deletion takes everything. Nothing in the
//! cloud ends a host by itself: one that powers itself off is billed on, so the sweep is the only ring of the lease.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
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
/// The last one with which a new machine is no Trusted Launch machine unless it asks for that.
const COMPUTE: &str = "2025-04-01";
const NETWORK: &str = "2024-05-01";
const RESOURCES: &str = "2021-04-01";
const SUBSCRIPTIONS: &str = "2020-01-01";
/// How often an object that is being made is looked at.
const POLL: Duration = Duration::from_secs(3);
/// For one object; the provision step's own deadline comes first.
const PATIENCE: Duration = Duration::from_mins(20);
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
    /// Base address of the API, for an emulator.
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
    listing_lag: Duration::from_mins(1),
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
    let entra = Entra {
        world: world.clone(),
        wire: Arc::clone(&wire),
        stands_in: base != VENDOR,
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
    let known = meaning(code, response.status);
    let advice = known.map_or("", |(_, advice)| advice);
    let message = [error["message"].as_str().unwrap_or("no message"), advice].join(" ").trim_end().to_owned();
    Some(VendorError { meaning: known.map(|(meaning, _)| meaning), code: code.to_owned(), message })
}

/// What a code means, and what to do then; `None` leaves it to the status.
fn meaning(code: &str, status: u16) -> Option<(Meaning, &'static str)> {
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
        "QuotaExceeded" | "OperationNotAllowed" | "PublicIPCountLimitReached" => (
            Meaning::Quota,
            "(ask for more on the portal's Quotas page, or take another `location` or `sku`)",
        ),
        "ResourceGroupNotFound" | "ResourceNotFound" | "NotFound" => (Meaning::NotFound, ""),
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
    stands_in: bool,
    kept: Mutex<Option<(Secret, Timestamp)>>,
}

impl Entra {
    /// A variable of the Azure tools, or Terraform's.
    fn var(&self, name: &str) -> Option<&str> {
        self.world.var(&format!("AZURE_{name}")).or_else(|| self.world.var(&format!("ARM_{name}")))
    }

    /// Says where credentials come from, in the order in which they are looked for.
    fn origin(&self) -> &'static str {
        match (self.var("TENANT_ID").zip(self.var("CLIENT_ID")), self.var("CLIENT_SECRET")) {
            (Some(_), Some(_)) => "AZURE_CLIENT_SECRET",
            (Some(_), None) => "a federated token",
            (None, _) if self.stands_in => "none, for an emulator",
            (None, _) => "`az login`, or the identity of this machine",
        }
    }

    /// Returns a token and the moment from which it is not to be used any more.
    async fn token(&self) -> Result<(Secret, Timestamp), ProviderError> {
        let identity = self.var("TENANT_ID").zip(self.var("CLIENT_ID"));
        let proof = match (identity, self.var("CLIENT_SECRET")) {
            (None, _) => None,
            (Some(identity), Some(secret)) => Some((identity, ("client_secret", secret.to_owned()))),
            (Some(identity), None) => {
                self.federated().await?.map(|token| (identity, ("client_assertion", token)))
            }
        };
        if let Some(((tenant, client), proof)) = proof {
            return self.exchange(tenant, client, proof).await;
        }
        if self.stands_in {
            return Ok((Secret::new("test"), Timestamp::MAX));
        }
        if let Some(token) = self.tool().await {
            return Ok(token);
        }
        match self.managed().await {
            Some(token) => Ok(token),
            None => Err(denied(
                "no credentials were found: run `az login`, or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET",
            )),
        }
    }

    /// Returns a token of another issuer: a file's, a variable's, or GitHub's own.
    async fn federated(&self) -> Result<Option<String>, ProviderError> {
        if let Some(path) = self.world.var("AZURE_FEDERATED_TOKEN_FILE") {
            let path = self.world.absolute(path, self.world.cwd());
            let text = crate::world::fs::read(&path).map_err(|error| {
                denied(&format!("AZURE_FEDERATED_TOKEN_FILE, {}: {error}", path.display()))
            })?;
            return Ok(Some(String::from_utf8_lossy(&text).trim().to_owned()));
        }
        if let Some(token) = self.world.var("ARM_OIDC_TOKEN") {
            return Ok(Some(token.to_owned()));
        }
        let github = self
            .world
            .var("ACTIONS_ID_TOKEN_REQUEST_URL")
            .zip(self.world.var("ACTIONS_ID_TOKEN_REQUEST_TOKEN"));
        let Some((url, token)) = github else { return Ok(None) };
        let request = Request::get(format!("{url}&audience=api://AzureADTokenExchange"))
            .header("authorization", format!("Bearer {token}"));
        let answer = self.ask(&request).await?;
        Ok(answer["value"].as_str().map(str::to_owned))
    }

    async fn exchange(
        &self,
        tenant: &str,
        client: &str,
        proof: (&str, String),
    ) -> Result<(Secret, Timestamp), ProviderError> {
        let authority = self.world.var("AZURE_AUTHORITY_HOST").unwrap_or("https://login.microsoftonline.com");
        let url = format!("{}/{tenant}/oauth2/v2.0/token", authority.trim_end_matches('/'));
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut form = vec![
            pair("grant_type", "client_credentials"),
            pair("client_id", client),
            pair("scope", &format!("{VENDOR}/.default")),
            pair(proof.0, &proof.1),
        ];
        if proof.0 == "client_assertion" {
            form.push(pair(
                "client_assertion_type",
                "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
            ));
        }
        let answer = self.ask(&Request::post(url).form(form)).await?;
        self.read(&answer, "access_token").ok_or_else(|| denied("the sign-in service gave no token"))
    }

    /// Asks the `az` tool, as most people's laptops have it; nothing if it is not there or not signed in.
    async fn tool(&self) -> Option<(Secret, Timestamp)> {
        let arguments = ["account", "get-access-token", "--resource", VENDOR, "--output", "json"];
        let mut command = self.world.command("az");
        let output = command.args(arguments).stdin(std::process::Stdio::null()).output().await.ok()?;
        self.read(&serde_json::from_slice(&output.stdout).ok()?, "accessToken")
    }

    /// Asks the machine's own identity; there is none on a laptop, so it gets a second.
    async fn managed(&self) -> Option<(Secret, Timestamp)> {
        let host = self.world.var("AZURE_POD_IDENTITY_AUTHORITY_HOST").unwrap_or("http://169.254.169.254");
        let request = Request::get(format!("{host}/metadata/identity/oauth2/token"))
            .query("api-version", "2018-02-01")
            .query("resource", format!("{VENDOR}/"))
            .header("metadata", "true");
        let answer =
            tokio::time::timeout(Duration::from_secs(1), self.wire.send(&request)).await.ok()?.ok()?;
        self.read(&serde_json::from_slice(&answer.body).ok()?, "access_token")
    }

    /// Asks for a token; a refusal says why.
    async fn ask(&self, request: &Request) -> Result<Value, ProviderError> {
        let answer = self.wire.send(request).await.map_err(|error| match error {
            http::WireError::NotSent(why) | http::WireError::Untrusted(why) | http::WireError::Lost(why) => {
                denied(&format!("the sign-in service cannot be reached: {why}"))
            }
        })?;
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        if answer.status == 200 {
            return Ok(body);
        }
        let said =
            body["error_description"].as_str().and_then(|text| text.lines().next()).unwrap_or("no message");
        Err(denied(&format!("the sign-in service refuses: HTTP {}: {said}", answer.status)))
    }

    fn read(&self, answer: &Value, key: &str) -> Option<(Secret, Timestamp)> {
        let token = Secret::new(answer[key].as_str()?);
        let number = |value: &Value| value.as_i64().or_else(|| value.as_str()?.parse().ok());
        let now = self.world.now().as_second();
        let ends = number(&answer["expires_on"]).or_else(|| Some(now + number(&answer["expires_in"])?));
        let until = Timestamp::from_second(ends.unwrap_or(now + 600) - 300).ok()?;
        Some((token, until))
    }
}

fn denied(message: &str) -> ProviderError {
    ProviderError::Auth { provider: NAME, message: message.to_owned() }
}

#[async_trait]
impl Credentials for Entra {
    async fn sign(&self, request: &mut Request) -> Result<(), ProviderError> {
        let mut kept = self.kept.lock().await;
        let token = match &*kept {
            Some((token, until)) if self.world.now() < *until => token.clone(),
            _ => kept.insert(self.token().await?).0.clone(),
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
        "fingerprint": request.fingerprint.0.as_str(),
    })
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
    fn group(&self, group: &str) -> Request {
        Request::get(format!("{}/resourcegroups/{group}", self.root)).query("api-version", RESOURCES)
    }

    /// The path of an object in a group, as ids have it.
    fn id(&self, group: &str, kind: &str, name: &str) -> String {
        format!("/subscriptions/{}/resourceGroups/{group}/providers/{kind}/{name}", self.subscription)
    }

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

    /// Makes an object of the network, or makes it so, and waits until it is.
    async fn put(&self, group: &str, kind: &str, name: &str, body: Value) -> Result<(), ProviderError> {
        let what = "making the network";
        let request = self.object(group, kind, name);
        let refused = |error: CallError| error.refused(NAME, what);
        let put = request.clone().method(Method::PUT).json(body);
        let mut seen = self.http.call(what, put).await.map_err(refused)?;
        let began = tokio::time::Instant::now();
        loop {
            match seen["properties"]["provisioningState"].as_str().unwrap_or("Succeeded") {
                "Succeeded" => return Ok(()),
                "Failed" | "Canceled" => {
                    let message = format!("{kind} {name} could not be made");
                    return Err(ProviderError::Rejected { provider: NAME, operation: what, message });
                }
                _ if began.elapsed() > PATIENCE => {
                    let message = format!("{kind} {name} is not ready yet");
                    return Err(ProviderError::Transient { provider: NAME, operation: what, message });
                }
                _ => tokio::time::sleep(POLL).await,
            }
            seen = self.http.call(what, request.clone()).await.map_err(refused)?;
        }
    }

    /// Makes the group, or takes the one that an earlier try made.
    async fn open_group(&self, request: &CreateRequest, group: &str) -> Result<(), ProviderError> {
        let what = "making the resource group";
        if let Some(found) = self.read(what, self.group(group)).await? {
            if found["properties"]["provisioningState"] == "Deleting" {
                let message = format!("the group {group} of before is still being deleted");
                return Err(ProviderError::Transient { provider: NAME, operation: what, message });
            }
            if label(&found["tags"]).as_ref() != Some(&request.label) {
                let message = format!("a resource group {group} that is not this lane's stands in the way");
                return Err(ProviderError::Rejected { provider: NAME, operation: what, message });
            }
        }
        let body = json!({"location": request.region.as_str(), "tags": tags(request)});
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
        Ok(json!({"location": request.region.as_str(), "tags": tags(request), "properties": properties}))
    }

    fn host(&self, group: &str) -> Request {
        self.object(group, "Microsoft.Compute/virtualMachines", "host")
    }

    /// Waits until a machine whose create was accepted has room, or has none.
    async fn allocated(&self, what: &'static str, group: &str) -> Result<(), ProviderError> {
        let began = tokio::time::Instant::now();
        loop {
            let seen = match self.http.call(what, self.host(group).query("$expand", "instanceView")).await {
                Ok(seen) => seen,
                Err(CallError::NotFound(_)) => Value::Null,
                Err(error) => return Err(error.into()),
            };
            let state = seen["properties"]["provisioningState"].as_str().unwrap_or("Creating");
            if state == "Failed" {
                let statuses =
                    seen["properties"]["instanceView"]["statuses"].as_array().cloned().unwrap_or_default();
                let failed = statuses.iter().find(|status| status["level"] == "Error");
                let code =
                    failed.and_then(|status| status["code"].as_str()?.rsplit('/').next()).unwrap_or("Failed");
                let said = failed
                    .and_then(|status| status["message"].as_str())
                    .unwrap_or("the machine could not be made");
                let (meaning, advice) = meaning(code, 409).unwrap_or((Meaning::Rejected, ""));
                return Err(self.http.error(what, meaning, format!("{code}: {said} {advice}")).into());
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

    /// Reads all pages of something; a page may be empty and have a successor all the same.
    async fn pages(&self, operation: &'static str, first: Request) -> Result<Vec<Value>, ProviderError> {
        let next = |page: &Value| {
            let link =
                page["nextLink"].as_str().filter(|link| link.starts_with(&format!("{}/", self.base)))?;
            Some(Request::get(link))
        };
        let pages = self.http.pages(operation, first, "value", next).await?;
        // Our token goes nowhere else, and a listing that is not whole proves nothing.
        let rest = pages.last().and_then(|page| page["nextLink"].as_str()).filter(|link| !link.is_empty());
        if let Some(link) = rest {
            let message = format!("its next page is not at {}: {link}", self.base);
            return Err(ProviderError::Rejected { provider: NAME, operation, message });
        }
        Ok(pages)
    }

    /// Lists the groups that are ours, whatever is in them.
    async fn groups(&self, selector: &Selector) -> Result<Vec<Value>, ProviderError> {
        // A filter takes one tag; which lineage, is refined here.
        let first = Request::get(format!("{}/resourcegroups", self.root))
            .query("api-version", RESOURCES)
            .query("$filter", "tagName eq 'managed-by' and tagValue eq 'lane'");
        let pages = self.pages("listing", first).await?;
        let mut groups: Vec<Value> =
            pages.iter().flat_map(|page| page["value"].as_array().cloned().unwrap_or_default()).collect();
        groups.retain(|group| match (selector, label(&group["tags"])) {
            (Selector::Owned, Some(_)) => true,
            (Selector::Label(wanted), Some(found)) => found == *wanted,
            (_, None) => false,
        });
        Ok(groups)
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
                (Some("Deleting" | "Failed"), _) => HostStatus::Stopped,
                (_, Some("running")) => HostStatus::Running,
                (_, None | Some("starting")) => HostStatus::Starting,
                // Deallocated too: the disk and the address are billed.
                _ => HostStatus::Stopped,
            },
            address: address.and_then(|address| address.parse().ok()),
            ssh_port: 22,
            sku: Sku::new(properties["hardwareProfile"]["vmSize"].as_str().unwrap_or_default()),
            region: Region::new(seen["location"].as_str().unwrap_or_default()),
            fingerprint: group["tags"]["fingerprint"]
                .as_str()
                .map(|text| Fingerprint(Digest::from_text(text))),
            created_at: properties["timeCreated"].as_str().and_then(|text| text.parse().ok()),
            expires_at: group["tags"]["expires"].as_str().and_then(|text| text.parse().ok()),
        }))
    }
}

/// Reads whose a thing is; `None` for one that carries half of our tags and so belongs to no lane.
fn label(tags: &Value) -> Option<Label> {
    let lineage = Lineage::new(tags["lineage"].as_str()?);
    (tags["managed-by"] == "lane").then_some(Label { lane: tags["lane"].as_str()?.to_owned(), lineage })
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
        match self.http.call(what, put).await {
            Ok(_) => {}
            Err(CallError::Conflict(message)) => {
                return Err(ProviderError::Ambiguous { provider: NAME, operation: what, message });
            }
            Err(error) => return Err(error.refused(NAME, what)),
        }
        match self.allocated(what, &group).await {
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
        if label(&found["tags"]).is_none() {
            let message = format!("{id} does not carry lane's tags");
            return Err(ProviderError::Rejected { provider: NAME, operation: what, message });
        }
        if found["properties"]["provisioningState"] == "Deleting" {
            return Ok(());
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
        let left = |group: &Value| {
            let name = group["name"].as_str().unwrap_or_default().to_owned();
            let place = group["location"].as_str().unwrap_or("?");
            Residue {
                kind: "resource group".to_owned(),
                detail: format!("in {place}, with all that is in it"),
                host: HostId::new(name.clone()),
                id: name,
                label: None,
                created_at: None,
                expires_at: None,
            }
        };
        Ok(self.groups(selector).await?.iter().map(left).collect())
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
        let name = found["displayName"].as_str().unwrap_or_default();
        let state = found["state"].as_str().filter(|state| *state != "Enabled");
        Ok(Account {
            account: state.map_or_else(|| name.to_owned(), |state| format!("{name} ({state})")),
            project: Some(self.subscription.clone()),
            credentials: self.entra.origin().to_owned(),
        })
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
        Ok(pages
            .iter()
            .flat_map(|page| page["value"].as_array().into_iter().flatten())
            .filter_map(quota)
            .collect())
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
        Some(("D" | "E", _, _, "v3" | "v4" | "v5")) => KvmSupport::Yes,
        Some(("A" | "B", ..)) => KvmSupport::No,
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
