//! Resource Manager: resource groups, the objects in them, one machine a group. Deletions go on for a while.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD as BASE64, URL_SAFE_NO_PAD};
use lane::plan::{Digest, Fingerprint};
use lane::provider::http::{Body, Request, Response, Wire, WireError};
use lane::provider::{
    ClientToken, CreateRequest, Host, HostId, HostStatus, Label, Lineage, Provider, ProviderError, Region,
    Selector, Sku,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{ADDRESS, Emulator, HIDDEN, Refusal, description};

/// A deletion that has not come through by then has failed half-way: the group is there as before.
const DELETION: Duration = Duration::from_mins(2);

/// How long the listing of groups hides a new one; asked for by its name, it is there at once.
const LISTING_LAG: Duration = Duration::from_secs(45);

/// How long after its group's making other parts of Azure do not know it.
const REPLICATION: Duration = Duration::from_secs(2);

/// How long a machine may be up after the deletion of its group has begun.
const DYING: Duration = Duration::from_secs(4);

#[derive(Debug, Default)]
struct Group {
    location: String,
    tags: Value,
    made: Option<Instant>,
    deleting: Option<Instant>,
    /// Somebody made it without this API.
    by_hand: bool,
    /// Its machine could not be allocated.
    failed: bool,
}

#[derive(Debug, Default)]
struct Memory {
    groups: BTreeMap<String, Group>,
    /// Of the network, by their path.
    objects: BTreeMap<String, Value>,
    places: BTreeMap<HostId, String>,
    /// Machines that the cloud behind does not list yet, as they were asked for.
    fresh: BTreeMap<HostId, (Instant, Value)>,
    requests: Vec<Request>,
    complaints: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct Azure {
    hosts: Arc<dyn Provider>,
    memory: Mutex<Memory>,
    descriptions: Option<(Vec<Value>, Value)>,
}

type Answer = Result<Response, WireError>;

fn error(status: u16, code: &str, message: &str) -> Response {
    Response::json(status, &json!({"error": {"code": code, "message": message}}))
}

pub(super) fn refuse(refusal: Refusal) -> Answer {
    Ok(match refusal {
        Refusal::Lost => return Err(WireError::Lost("by the emulator".to_owned())),
        Refusal::Unauthorised => error(401, "InvalidAuthenticationToken", "The access token is invalid."),
        Refusal::Forbidden => error(
            403,
            "AuthorizationFailed",
            "The client does not have authorization to perform action 'Microsoft.Resources/subscriptions/resourcegroups/read'",
        ),
        Refusal::Expired => {
            error(401, "ExpiredAuthenticationToken", "The access token expiry UTC time is in the past.")
        }
        Refusal::Wrong(why) => error(400, "InvalidParameter", &why),
        Refusal::Full => {
            error(409, "SkuNotAvailable", "The requested VM size is currently not available in location.")
        }
        Refusal::OverQuota => error(
            409,
            "QuotaExceeded",
            "Operation could not be completed as it results in exceeding approved cores quota.",
        ),
        Refusal::Busy => error(429, "TooManyRequests", "The request is being throttled."),
    })
}

fn not_found(what: &str) -> Response {
    error(404, "ResourceNotFound", &format!("{what} was not found"))
}

fn label(tags: &Value) -> Label {
    let text = |name: &str| tags[name].as_str().unwrap_or_default().to_owned();
    Label { lane: text("lane"), lineage: Lineage::new(text("lineage")) }
}

fn tags_of(host: &Host) -> Value {
    let mut tags =
        json!({"managed-by": "lane", "lane": host.label.lane, "lineage": host.label.lineage.as_str()});
    if let Some(fingerprint) = &host.fingerprint {
        tags["fingerprint"] = fingerprint.0.as_str().into();
    }
    if let Some(expires_at) = host.expires_at {
        tags["expires"] = expires_at.to_string().into();
    }
    tags
}

impl Azure {
    pub(crate) fn over(hosts: Arc<dyn Provider>) -> Self {
        let documents =
            ["azure-resources.json", "azure-compute.json", "azure-network.json"].map(description::read);
        let documents: Option<Vec<Value>> = documents.into_iter().collect();
        let descriptions = documents.zip(description::read("azure-bodies.json"));
        Self { hosts, memory: Mutex::default(), descriptions }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Brings the groups up to date with the cloud behind; returns its hosts.
    async fn refresh(&self) -> Result<Vec<Host>, ProviderError> {
        let hosts = self.hosts.find(&Selector::Owned).await?;
        let left = self.hosts.residue(&Selector::Owned).await?;
        let mut memory = self.memory();
        for host in &hosts {
            if memory.places.contains_key(&host.id) {
                continue;
            }
            let plain = host.label.to_string();
            let names = [plain.clone(), format!("{plain}-2"), format!("{plain}-3")];
            let listed = |id: &HostId| hosts.iter().any(|host| host.id == *id);
            let taken = |name: &String| memory.places.iter().any(|(id, place)| place == name && listed(id));
            let name = names.into_iter().find(|name| !taken(name)).unwrap_or(plain);
            let tags = tags_of(host);
            let group = memory.groups.entry(name.clone()).or_insert_with(|| Group {
                location: host.region.to_string(),
                tags: tags.clone(),
                by_hand: true,
                ..Group::default()
            });
            // Whoever adds a machine to a group moves its lease, which is written on the group alone.
            if group.tags["expires"].as_str() < tags["expires"].as_str() {
                group.tags["expires"] = tags["expires"].clone();
            }
            memory.places.insert(host.id.clone(), name);
        }
        let Memory { groups, objects, places, fresh, .. } = &mut *memory;
        fresh.retain(|id, (made, _)| made.elapsed() < HIDDEN && !hosts.iter().any(|host| host.id == *id));
        groups.retain(|name, group| {
            let Some(since) = group.deleting else { return true };
            let is_there = |id: &HostId| {
                hosts.iter().any(|host| host.id == *id)
                    || left.iter().any(|left| left.host == *id)
                    || fresh.contains_key(id)
            };
            if places.iter().any(|(id, place)| place == name && is_there(id)) {
                if since.elapsed() > DELETION {
                    group.deleting = None;
                }
                return true;
            }
            places.retain(|_, place| place != name);
            objects.retain(|path, _| !path.contains(&format!("/{name}/")));
            false
        });
        Ok(hosts)
    }

    fn show(name: &str, group: &Group) -> Value {
        let state = if group.deleting.is_some() { "Deleting" } else { "Succeeded" };
        json!({
            "name": name, "location": group.location, "tags": group.tags,
            "properties": {"provisioningState": state},
        })
    }

    /// Groups with a tag, two a page; the first page is empty, as Azure's may be.
    fn list(&self, request: &Request) -> Response {
        // `tagName eq '<name>' and tagValue eq '<value>'`.
        let filter = request.parameter("$filter").unwrap_or_default();
        let [_, name, between, value, _] = filter.split('\'').collect::<Vec<_>>()[..] else {
            return error(400, "InvalidFilterInQueryString", &format!("Invalid $filter '{filter}'."));
        };
        if !filter.starts_with("tagName eq '") || between != " and tagValue eq " {
            return error(400, "InvalidFilterInQueryString", &format!("Invalid $filter '{filter}'."));
        }
        let memory = self.memory();
        let shown = |group: &&Group| {
            group.tags[name] == value && group.made.is_none_or(|made| made.elapsed() >= LISTING_LAG)
        };
        let all: Vec<Value> = memory
            .groups
            .iter()
            .filter(|(_, group)| shown(group))
            .map(|(name, group)| Self::show(name, group))
            .collect();
        let at: Option<usize> = request.parameter("$skiptoken").and_then(|token| token.parse().ok());
        let page = at.map_or(vec![], |at| all.iter().skip(at).take(2).cloned().collect());
        let next = at.map_or(0, |at| at + 2);
        let mut answer = json!({"value": page});
        if next < all.len() {
            let query = form_urlencoded::Serializer::new(String::new())
                .append_pair("api-version", "2021-04-01")
                .append_pair("$filter", filter)
                .append_pair("$skiptoken", &next.to_string())
                .finish();
            let url = request.url.split('?').next().unwrap_or_default();
            answer["nextLink"] = format!("{url}?{query}").into();
        }
        Response::json(200, &answer)
    }

    fn put_group(&self, name: &str, body: &Value) -> Response {
        let mut memory = self.memory();
        let group = memory.groups.entry(name.to_owned()).or_default();
        if group.deleting.is_some() {
            return error(409, "ResourceGroupBeingDeleted", "The resource group is in deprovisioning state");
        }
        let location = body["location"].as_str().unwrap_or_default();
        if !group.location.is_empty() && group.location != location {
            let message = format!(
                "Invalid resource group location '{location}'. The Resource group already exists in location '{}'.",
                group.location
            );
            return error(409, "InvalidResourceGroupLocation", &message);
        }
        location.clone_into(&mut group.location);
        group.made.get_or_insert_with(Instant::now);
        group.tags = body["tags"].clone();
        Response::json(200, &Self::show(name, group))
    }

    async fn patch_group(&self, name: &str, body: &Value) -> Answer {
        let expires = body["tags"]["expires"].as_str().and_then(|text| text.parse().ok());
        let ids: Vec<HostId> = self.placed(name);
        for id in ids {
            if let Some(expires) = expires
                && let Err(failed) = self.hosts.set_expiry(&id, expires).await
            {
                return refuse(Refusal::of(&failed));
            }
        }
        let mut memory = self.memory();
        let Some(group) = memory.groups.get_mut(name) else { return Ok(not_found(name)) };
        group.tags = body["tags"].clone();
        Ok(Response::json(200, &Self::show(name, group)))
    }

    fn placed(&self, group: &str) -> Vec<HostId> {
        self.memory().places.iter().filter(|(_, place)| *place == group).map(|(id, _)| id.clone()).collect()
    }

    async fn delete_group(&self, name: &str) -> Answer {
        for id in self.placed(name) {
            if let Err(failed) = self.hosts.destroy(&id).await {
                return refuse(Refusal::of(&failed));
            }
        }
        if let Some(group) = self.memory().groups.get_mut(name) {
            group.deleting.get_or_insert_with(Instant::now);
        }
        Ok(Response { status: 202, headers: vec![], body: vec![] })
    }

    async fn put_machine(&self, group: &str, request: &Request, body: &Value) -> Answer {
        let header = |name: &str| {
            request.headers.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value.reveal())
        };
        if header("if-none-match") == "*" {
            let there = match self.refresh().await {
                Ok(hosts) => {
                    let memory = self.memory();
                    let here = |id: &HostId| memory.places.get(id).is_some_and(|place| place == group);
                    hosts.iter().any(|host| here(&host.id)) || memory.fresh.keys().any(here)
                }
                Err(failed) => return refuse(Refusal::of(&failed)),
            };
            if there {
                return Ok(error(412, "PreconditionFailed", "The resource exists already"));
            }
        }
        let (properties, tags) = (&body["properties"], &body["tags"]);
        let nic = properties["networkProfile"]["networkInterfaces"][0]["id"].as_str().unwrap_or_default();
        if !self.memory().objects.contains_key(nic) {
            return Ok(error(404, "NotFound", "The network interface does not exist"));
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let user_data = BASE64.decode(text(&properties["osProfile"]["customData"])).unwrap_or_default();
        let bits =
            u128::from_str_radix(&header("x-ms-client-request-id").replace('-', ""), 16).unwrap_or_default();
        let gib = properties["storageProfile"]["osDisk"]["diskSizeGB"].as_u64().unwrap_or_default();
        let create = CreateRequest {
            label: label(tags),
            sku: Sku::new(text(&properties["hardwareProfile"]["vmSize"])),
            region: Region::new(text(&body["location"])),
            image: "debian-13".to_owned(),
            disk_bytes: gib << 30,
            kvm: true,
            user_data: String::from_utf8_lossy(&user_data).into_owned(),
            expires_at: text(&tags["expires"]).parse().unwrap_or_default(),
            fingerprint: Fingerprint(Digest::from_text(&text(&tags["fingerprint"]))),
            token: ClientToken::new(ulid::Ulid(bits).to_string().to_ascii_lowercase()),
            allow_from: vec![],
        };
        let failed = match self.hosts.create(&create).await {
            Ok(id) => {
                let mut memory = self.memory();
                memory.places.insert(id.clone(), group.to_owned());
                memory.fresh.insert(id, (Instant::now(), body.clone()));
                false
            }
            // The request is accepted; that there is no room, the machine itself says later.
            Err(ProviderError::Capacity { .. }) => true,
            Err(failed) => return refuse(Refusal::of(&failed)),
        };
        if let Some(group) = self.memory().groups.get_mut(group) {
            group.failed = failed;
        }
        let creating = json!({"name": "host", "properties": {"provisioningState": "Creating"}});
        let mut answer = Response::json(201, &creating);
        if let Some(subscription) = request.url.split("/resourceGroups/").next() {
            let operation = format!(
                "{subscription}/providers/Microsoft.Compute/locations/here/operations/{group}?api-version=2021-04-01"
            );
            answer.headers.push(("azure-asyncoperation".to_owned(), operation));
        }
        Ok(answer)
    }

    /// Shows how the making of a group's machine ended; alone it knows why there is none.
    fn operation(&self, group: &str) -> Response {
        let failed = self.memory().groups.get(group).is_some_and(|group| group.failed);
        Response::json(
            200,
            &if failed {
                let why = json!({"code": "AllocationFailed", "message": "There is no room for this size."});
                json!({"name": group, "status": "Failed", "error": why})
            } else {
                json!({"name": group, "status": "Succeeded"})
            },
        )
    }

    async fn machine(&self, group: &str) -> Answer {
        let hosts = match self.refresh().await {
            Ok(hosts) => hosts,
            Err(failed) => return refuse(Refusal::of(&failed)),
        };
        let memory = self.memory();
        let Some(found) = memory.groups.get(group) else { return Ok(not_found(group)) };
        let host = hosts.iter().find(|host| memory.places.get(&host.id).is_some_and(|place| place == group));
        let Some(host) = host else {
            let fresh = memory
                .fresh
                .iter()
                .find(|(id, _)| memory.places.get(*id).is_some_and(|place| place == group));
            if let Some((_, (_, asked))) = fresh {
                let mut machine = asked.clone();
                machine["name"] = "host".into();
                machine["properties"]["provisioningState"] = "Creating".into();
                return Ok(Response::json(200, &machine));
            }
            if !found.failed {
                return Ok(not_found(group));
            }
            let properties = json!({"provisioningState": "Failed"});
            return Ok(Response::json(
                200,
                &json!({"name": "host", "location": found.location, "properties": properties}),
            ));
        };
        let (state, power) = match host.status {
            _ if found.deleting.is_some_and(|since| since.elapsed() > DYING) => ("Deleting", "stopping"),
            HostStatus::Starting => ("Creating", "starting"),
            HostStatus::Running => ("Succeeded", "running"),
            HostStatus::Stopped => ("Succeeded", "stopped"),
        };
        let mut properties = json!({
            "provisioningState": state, "hardwareProfile": {"vmSize": host.sku.as_str()},
            "instanceView": {"statuses": [{"code": format!("PowerState/{power}"), "level": "Info"}]},
        });
        if let Some(created_at) = host.created_at {
            properties["timeCreated"] = created_at.to_string().into();
        }
        Ok(Response::json(
            200,
            &json!({"name": "host", "location": host.region.as_str(), "tags": tags_of(host), "properties": properties}),
        ))
    }

    /// Lists what is in a group.
    async fn contents(&self, group: &str) -> Answer {
        let hosts = match self.refresh().await {
            Ok(hosts) => hosts,
            Err(failed) => return refuse(Refusal::of(&failed)),
        };
        let memory = self.memory();
        if !memory.groups.contains_key(group) {
            return Ok(error(
                404,
                "ResourceGroupNotFound",
                &format!("Resource group '{group}' could not be found."),
            ));
        }
        let mut all: Vec<Value> = memory
            .objects
            .iter()
            .filter(|(path, _)| path.contains(&format!("/resourceGroups/{group}/")))
            .filter_map(|(path, body)| {
                let (kind, name) = path.split_once("/providers/")?.1.rsplit_once('/')?;
                Some(json!({"type": kind, "name": name, "tags": body["tags"]}))
            })
            .collect();
        if hosts.iter().any(|host| memory.places.get(&host.id).is_some_and(|place| place == group)) {
            all.push(json!({"type": "Microsoft.Compute/virtualMachines", "name": "host"}));
            // Kinds and names come back in any case.
            all.push(json!({"type": "Microsoft.Compute/disks", "name": "OS"}));
        }
        Ok(Response::json(200, &json!({"value": all})))
    }

    /// Answers whoever gives tokens: the sign-in service, the machine's own service, GitHub.
    fn sign_in(request: &Request) -> Option<Response> {
        let has = |name: &str| request.headers.iter().any(|(known, _)| known == name);
        let claims =
            URL_SAFE_NO_PAD.encode(json!({"appid": "an-application", "oid": "an-object"}).to_string());
        let token = json!({"access_token": format!("e30.{claims}.e30"), "expires_in": 3599});
        let refused = json!({"error": "invalid_request", "error_description": "Required metadata header not specified"});
        Some(match request.url.split('?').next()?.rsplit_once('/')?.1 {
            "token" if request.url.contains("/oauth2/v2.0/") => Response::json(200, &token),
            "token" if request.url.contains("/metadata/identity/") && !has("metadata") => {
                Response::json(400, &refused)
            }
            "token" if request.url.contains("/metadata/identity/") || has("x-identity-header") => {
                Response::json(200, &token)
            }
            "id-token" => Response::json(200, &json!({"value": "a-token-of-github"})),
            _ => return None,
        })
    }

    /// Reads an object of the network; an address is the machine's.
    async fn object(&self, group: &str, path: &str) -> Answer {
        let hosts = match self.refresh().await {
            Ok(hosts) => hosts,
            Err(failed) => return refuse(Refusal::of(&failed)),
        };
        let memory = self.memory();
        let by_hand = memory.groups.get(group).is_some_and(|group| group.by_hand);
        let Some(mut found) =
            memory.objects.get(path).cloned().or_else(|| by_hand.then(|| json!({"properties": {}})))
        else {
            return Ok(not_found(path));
        };
        found["properties"]["provisioningState"] = "Succeeded".into();
        if path.contains("/publicIPAddresses/") {
            let host =
                hosts.iter().find(|host| memory.places.get(&host.id).is_some_and(|place| place == group));
            if let Some(address) = host.and_then(|host| host.address) {
                found["properties"]["ipAddress"] = address.to_string().into();
            }
        }
        Ok(Response::json(200, &found))
    }
}

#[async_trait]
impl Wire for Azure {
    async fn send(&self, request: &Request) -> Answer {
        self.memory().requests.push(request.clone());
        if let Some(answer) = Self::sign_in(request) {
            return Ok(answer);
        }
        let Some(at) = request.url.find("/subscriptions/") else {
            let text = match request.url.split_once("/console/") {
                Some((_, group)) => match self.placed(group).first() {
                    Some(id) => self.hosts.console_log(id).await.ok().flatten().unwrap_or_default(),
                    None => String::new(),
                },
                None => format!("{ADDRESS}\n"),
            };
            return Ok(Response { status: 200, headers: vec![], body: text.into_bytes() });
        };
        // A link to a next page comes back with its query in the address.
        let mut request = request.clone();
        if let Some((url, query)) = request.url.clone().split_once('?') {
            url.clone_into(&mut request.url);
            request.query.extend(form_urlencoded::parse(query.as_bytes()).into_owned());
        }
        let path = &request.url[at..];
        let body = match &request.body {
            Some(Body::Json(body)) => Some(body),
            Some(Body::Form(_)) => return refuse(Refusal::Wrong("a form".to_owned())),
            None => None,
        };
        if !request
            .headers
            .iter()
            .any(|(name, value)| name == "authorization" && value.reveal().starts_with("Bearer "))
        {
            return refuse(Refusal::Unauthorised);
        }
        let method = request.method.as_str();
        // The address is the service's own affair, and in no description.
        if let Some((_, group)) = path.split_once("/locations/here/operations/") {
            return Ok(self.operation(group));
        }
        if let Some((documents, bodies)) = &self.descriptions {
            let complaints = description::openapi(documents, bodies, method, path, &request.query, body);
            if !complaints.is_empty() {
                self.memory().complaints.extend(complaints.clone());
                return refuse(Refusal::Wrong(complaints.join("; ")));
            }
        }
        let parts: Vec<&str> = path.split('/').skip(3).collect();
        if let Err(failed) = self.refresh().await {
            return refuse(Refusal::of(&failed));
        }
        let group = parts.get(1).copied().unwrap_or_default();
        if parts.len() > 1
            && parts[0] == "resourcegroups"
            && method != "PUT"
            && !self.memory().groups.contains_key(group)
        {
            return Ok(error(
                404,
                "ResourceGroupNotFound",
                &format!("Resource group '{group}' could not be found."),
            ));
        }
        match (method, parts.as_slice(), body) {
            ("GET", [], _) => Ok(Response::json(
                200,
                &json!({"displayName": "Pay-As-You-Go", "subscriptionId": "00000000-0000-0000-0000-000000000000", "state": "Enabled"}),
            )),
            ("GET", ["providers", "Microsoft.Compute", "locations", _, "usages"], _) => {
                let usage = |name: &str, used: u32| json!({"name": {"value": name}, "limit": 10, "currentValue": used});
                let all = [usage("cores", 4), usage("standardDSv3Family", 8), usage("standardDv3Family", 0)];
                Ok(Response::json(200, &json!({"value": all})))
            }
            ("GET", ["providers", "Microsoft.Compute", "locations", _, "publishers", .., "versions"], _) => {
                Ok(Response::json(200, &json!([{"name": "24.04.202605010", "location": "eastus"}])))
            }
            ("GET", ["resourcegroups"], _) => Ok(self.list(&request)),
            ("GET", ["resourcegroups", name], _) => {
                let memory = self.memory();
                Ok(memory
                    .groups
                    .get(*name)
                    .map_or_else(|| not_found(name), |group| Response::json(200, &Self::show(name, group))))
            }
            ("PUT", ["resourcegroups", name], Some(body)) => Ok(self.put_group(name, body)),
            ("PATCH", ["resourcegroups", name], Some(body)) => self.patch_group(name, body).await,
            ("DELETE", ["resourcegroups", name], _) => self.delete_group(name).await,
            ("PUT", [_, _, "providers", "Microsoft.Compute", _, _], Some(body)) => {
                self.put_machine(group, &request, body).await
            }
            ("GET", [_, _, "providers", "Microsoft.Compute", _, _], _) => self.machine(group).await,
            ("POST", [_, _, "providers", "Microsoft.Compute", _, _, "retrieveBootDiagnosticsData"], _) => {
                let host = &request.url[..at];
                Ok(Response::json(
                    200,
                    &json!({"serialConsoleLogBlobUri": format!("{host}/console/{group}")}),
                ))
            }
            ("GET", [_, _, "resources"], _) => self.contents(group).await,
            ("PUT", [_, _, "providers", ..], Some(body)) => {
                let known = |group: &Group| group.made.is_none_or(|made| made.elapsed() >= REPLICATION);
                if !self.memory().groups.get(group).is_some_and(known) {
                    let message = format!("Resource group '{group}' could not be found.");
                    return Ok(error(404, "ResourceGroupNotFound", &message));
                }
                self.memory().objects.insert(path.to_owned(), body.clone());
                let mut made = body.clone();
                made["properties"]["provisioningState"] = "Updating".into();
                Ok(Response::json(201, &made))
            }
            ("GET", [_, _, "providers", ..], _) => self.object(group, path).await,
            _ => Ok(not_found(path)),
        }
    }
}

impl Emulator for Azure {
    fn complaints(&self) -> Vec<String> {
        self.memory().complaints.clone()
    }

    fn leftovers(&self) -> Vec<String> {
        let memory = self.memory();
        memory
            .groups
            .iter()
            .filter(|(_, group)| !group.by_hand)
            .map(|(name, _)| format!("resource group {name}"))
            .collect()
    }

    fn add_strangers(&self, ours: &Label) -> Vec<String> {
        let tags = |by: &str| json!({"managed-by": by, "lane": ours.lane, "lineage": ours.lineage.as_str()});
        let mut memory = self.memory();
        let strangers = [(format!("{ours}-disks"), json!({})), (format!("{ours}-net"), tags("somebody"))];
        for (name, tags) in &strangers {
            let nic = format!(
                "/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/{name}/providers/Microsoft.Network/networkInterfaces/nic"
            );
            memory.objects.insert(nic, json!({"tags": tags}));
            let location = "here".to_owned();
            let group = Group { location, tags: tags.clone(), by_hand: true, ..Group::default() };
            memory.groups.insert(name.clone(), group);
        }
        strangers.map(|(name, _)| name).into()
    }

    fn id_of(&self, host: &HostId) -> HostId {
        self.memory().places.get(host).map_or_else(|| host.clone(), |group| HostId::new(group.clone()))
    }

    fn requests(&self) -> Vec<Request> {
        self.memory().requests.clone()
    }
}
