//! Compute Engine v1: instances, their disks, firewall rules, operations.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use lane::plan::{Digest, Fingerprint};
use lane::provider::http::{Body, Request, Response, Wire, WireError};
use lane::provider::{
    ClientToken, CreateRequest, Host, HostId, HostStatus, Label, Lineage, Provider, Region, Residue,
    Selector, Sku,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{ADDRESS, Emulator, Refusal, description};

const ROOT: &str = "https://www.googleapis.com/compute/v1/projects/my-project";
const ZONE: &str = "us-central1-a";
/// How long a fresh instance may not be listed; asked for by its name it is there at once.
const LAG: Duration = Duration::from_secs(15);

#[derive(Debug, Default)]
struct Memory {
    /// Where a host is, in Google's words.
    places: BTreeMap<HostId, (String, String)>,
    /// Whose a host is, also when it is gone and its disk is not.
    labels: BTreeMap<HostId, Label>,
    rules: BTreeMap<String, Value>,
    operations: BTreeMap<String, Value>,
    requests: Vec<Request>,
    complaints: Vec<String>,
    /// Zones and names of what was made and not deleted, unless a person did so, and when it was made.
    taken: BTreeMap<(String, String), Instant>,
    by_request_id: BTreeMap<String, Value>,
    /// Instances, disks and rules that are none of ours.
    strangers: Vec<(&'static str, Value)>,
}

#[derive(Debug)]
pub(crate) struct Gcp {
    hosts: Arc<dyn Provider>,
    memory: Mutex<Memory>,
    description: Option<Value>,
}

type Answer = Result<Response, WireError>;

fn error(status: u16, reason: &str, message: &str) -> Response {
    Response::json(
        status,
        &json!({"error": {"code": status, "message": message, "errors": [{"domain": "global", "reason": reason, "message": message}]}}),
    )
}

pub(super) fn refuse(refusal: Refusal) -> Answer {
    Ok(match refusal {
        Refusal::Lost => return Err(WireError::Lost("by the emulator".to_owned())),
        Refusal::Unauthorised => error(401, "authError", "Invalid Credentials"),
        Refusal::Expired => error(401, "UNAUTHENTICATED", "Request had invalid authentication credentials."),
        Refusal::Forbidden => {
            error(403, "forbidden", "Required 'compute.instances.list' permission for 'projects/my-project'")
        }
        Refusal::Wrong(why) => error(400, "invalid", &why),
        Refusal::Full => {
            error(503, "ZONE_RESOURCE_POOL_EXHAUSTED", "The zone does not have enough resources")
        }
        Refusal::OverQuota => error(403, "quotaExceeded", "Quota 'N2_CPUS' exceeded. Limit: 8.0"),
        Refusal::Busy => error(403, "rateLimitExceeded", "Rate Limit Exceeded"),
    })
}

fn not_found(what: &str) -> Response {
    error(404, "notFound", &format!("The resource '{what}' was not found"))
}

fn leaf(value: &Value) -> &str {
    value.as_str().and_then(|text| text.rsplit('/').next()).unwrap_or_default()
}

impl Gcp {
    pub(crate) fn over(hosts: Arc<dyn Provider>) -> Self {
        Self { hosts, memory: Mutex::default(), description: description::read("gcp-compute.json") }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes an operation; it is looked at once before it is done.
    fn operation(
        &self,
        zone: Option<&str>,
        kind: &str,
        target: &str,
        failure: Option<(&str, u16, &str)>,
    ) -> Value {
        let mut memory = self.memory();
        let name = format!("operation-{}", memory.operations.len() + 1);
        let mut done = json!({"kind": "compute#operation", "name": name, "operationType": kind, "status": "DONE", "progress": 100, "user": "operator@example.com"});
        let scope = zone.map_or_else(|| "global".to_owned(), |zone| format!("zones/{zone}"));
        done["targetLink"] = format!("{ROOT}/{scope}/{target}").into();
        if let Some(zone) = zone {
            done["zone"] = format!("{ROOT}/zones/{zone}").into();
        }
        if let Some((code, status, message)) = failure {
            done["error"] = json!({"errors": [{"code": code, "message": message}]});
            done["httpErrorStatusCode"] = status.into();
        }
        let mut running = done.clone();
        running["status"] = "RUNNING".into();
        running["progress"] = 0.into();
        if let Some(running) = running.as_object_mut() {
            running.remove("error");
            running.remove("httpErrorStatusCode");
        }
        memory.operations.insert(name, done);
        running
    }

    /// Says where a host is: where it was put, or, for one that somebody else made, in the first free place.
    fn place(&self, id: &HostId, label: &Label) -> (String, String) {
        let mut memory = self.memory();
        memory.labels.entry(id.clone()).or_insert_with(|| label.clone());
        if let Some(place) = memory.places.get(id) {
            return place.clone();
        }
        let name = label.to_string().replace(['.', '_'], "-");
        let taken: BTreeSet<String> = memory
            .places
            .values()
            .filter(|(_, known)| *known == name)
            .map(|(zone, _)| zone.clone())
            .collect();
        let zones = [ZONE, "us-central1-b", "us-central1-c"].map(str::to_owned);
        let zone = zones.iter().find(|zone| !taken.contains(*zone)).unwrap_or(&zones[2]).clone();
        memory.places.insert(id.clone(), (zone.clone(), name.clone()));
        (zone, name)
    }

    fn placed(&self, zone: &str, name: &str) -> Option<HostId> {
        let memory = self.memory();
        memory.places.iter().find(|(_, place)| place.0 == zone && place.1 == name).map(|(id, _)| id.clone())
    }

    async fn insert(&self, zone: &str, request: &Request, body: &Value) -> Answer {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let labels = &body["labels"];
        let user_data = body["metadata"]["items"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|item| item["key"] == "user-data");
        let request_id = request.parameter("requestId").unwrap_or_default().to_owned();
        if let Some(first) = self.memory().by_request_id.get(&request_id) {
            return Ok(Response::json(200, first));
        }
        let bits = u128::from_str_radix(&request_id.replace('-', ""), 16).unwrap_or_default();
        let lane = text(&body["description"]).trim_start_matches("lane ").to_owned();
        let seconds = text(&labels["expires"]).parse().unwrap_or_default();
        let create = CreateRequest {
            label: Label { lane, lineage: Lineage::new(text(&labels["lineage"])) },
            sku: Sku::new(leaf(&body["machineType"])),
            region: Region::new(zone),
            image: "debian-13".to_owned(),
            disk_bytes: text(&body["disks"][0]["initializeParams"]["diskSizeGb"])
                .parse::<u64>()
                .unwrap_or_default()
                * 1_000_000_000,
            kvm: body["advancedMachineFeatures"]["enableNestedVirtualization"] == true,
            user_data: text(&user_data.unwrap_or(&Value::Null)["value"]),
            expires_at: Timestamp::from_second(seconds).unwrap_or_default(),
            fingerprint: Fingerprint(Digest::from_text(&text(&labels["fingerprint"]))),
            token: ClientToken::new(ulid::Ulid(bits).to_string().to_ascii_lowercase()),
            allow_from: vec![],
        };
        let name = text(&body["name"]);
        let seconds = body["scheduling"]["maxRunDuration"]["seconds"].as_str().unwrap_or_default();
        if !(30..=10_368_000).contains(&seconds.parse::<u64>().unwrap_or_default()) {
            self.memory().complaints.push(format!("{name} has no deadline"));
        }
        // A name is unique in its zone.
        let taken = self.memory().taken.contains_key(&(zone.to_owned(), name.clone()));
        let is_it = |host: &Host| self.place(&host.id, &host.label) == (zone.to_owned(), name.clone());
        if taken && self.hosts.find(&Selector::Owned).await.is_ok_and(|hosts| hosts.iter().any(is_it)) {
            let message = format!("The resource 'instances/{name}' already exists");
            return Ok(error(409, "alreadyExists", &message));
        }
        let answer = match self.hosts.create(&create).await {
            Ok(id) => {
                let mut memory = self.memory();
                // Whatever had the name before is gone, else the create would have been refused.
                memory.places.retain(|_, place| place.1 != name || place.0 != zone);
                memory.labels.insert(id.clone(), create.label.clone());
                memory.places.insert(id, (zone.to_owned(), name.clone()));
                let target = format!("instances/{name}");
                memory.taken.insert((zone.to_owned(), name), Instant::now());
                drop(memory);
                self.operation(Some(zone), "insert", &target, None)
            }
            Err(failed) => match Refusal::of(&failed) {
                Refusal::Full => self.operation(
                    Some(zone),
                    "insert",
                    &format!("instances/{name}"),
                    Some((
                        "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS",
                        503,
                        "does not have enough resources",
                    )),
                ),
                other => return refuse(other),
            },
        };
        self.memory().by_request_id.insert(request_id, answer.clone());
        Ok(Response::json(200, &answer))
    }

    /// Everything of one kind, by zone, one thing a page.
    async fn aggregated(&self, kind: &str, request: &Request) -> Answer {
        let things: Result<Vec<(String, Value)>, _> = if kind == "instances" {
            self.hosts
                .find(&Selector::Owned)
                .await
                .map(|hosts| hosts.iter().map(|host| self.show(host)).collect())
        } else {
            self.hosts.residue(&Selector::Owned).await.map(|left| self.disks(&left))
        };
        let things = match things {
            Ok(things) => things,
            Err(failed) => return refuse(Refusal::of(&failed)),
        };
        let filter = request.parameter("filter").unwrap_or_default();
        let strangers = self.memory().strangers.clone().into_iter().filter(|(known, _)| *known == kind);
        let things: Vec<(String, Value)> =
            things.into_iter().chain(strangers.map(|(_, thing)| (ZONE.to_owned(), thing))).collect();
        let things: Vec<&(String, Value)> = things.iter().filter(|(_, thing)| meets(thing, filter)).collect();
        let at: usize = request.parameter("pageToken").and_then(|token| token.parse().ok()).unwrap_or(0);
        let mut items = json!({"zones/us-east1-b": {"warning": {"code": "NO_RESULTS_ON_PAGE"}}});
        if let Some((zone, thing)) = things.get(at) {
            items[format!("zones/{zone}")] = json!({kind: [thing]});
        }
        let mut page = json!({"kind": "compute#aggregatedList", "items": items});
        if at + 1 < things.len() {
            page["nextPageToken"] = (at + 1).to_string().into();
        }
        Ok(Response::json(200, &page))
    }

    /// One instance or disk by its name.
    async fn one(&self, kind: &str, zone: &str, name: &str) -> Answer {
        let place = (zone.to_owned(), name.to_owned());
        let is_fresh = self.memory().taken.get(&place).is_some_and(|made| made.elapsed() < LAG);
        if is_fresh && kind == "instances" {
            let labels = json!({"managed-by": "lane"});
            return Ok(Response::json(
                200,
                &json!({"kind": "compute#instance", "name": name, "labels": labels}),
            ));
        }
        let things = if kind == "instances" {
            let hosts = self.hosts.find(&Selector::Owned).await;
            hosts.map(|hosts| hosts.iter().map(|host| self.show(host)).collect::<Vec<_>>())
        } else {
            self.hosts.residue(&Selector::Owned).await.map(|left| self.disks(&left))
        };
        match things {
            Ok(things) => Ok(things
                .iter()
                .find(|(known, thing)| known == zone && thing["name"] == name)
                .map_or_else(|| not_found(name), |(_, thing)| Response::json(200, thing))),
            Err(failed) => refuse(Refusal::of(&failed)),
        }
    }

    fn show(&self, host: &Host) -> (String, Value) {
        let (zone, name) = self.place(&host.id, &host.label);
        let status = match host.status {
            HostStatus::Starting => "STAGING",
            HostStatus::Running => "RUNNING",
            HostStatus::Stopped => "TERMINATED",
        };
        let mut interface = json!({"networkIP": "10.128.0.2", "accessConfigs": [{"type": "ONE_TO_ONE_NAT"}]});
        if let Some(address) = host.address {
            interface["accessConfigs"][0]["natIP"] = address.to_string().into();
        }
        let mut labels = json!({"managed-by": "lane", "lane": host.label.lane.replace('.', "_"), "lineage": host.label.lineage.as_str()});
        if let Some(fingerprint) = &host.fingerprint {
            let text = fingerprint.0.as_str();
            labels["fingerprint"] = text.get(..32).unwrap_or(text).into();
        }
        if let Some(expires_at) = host.expires_at {
            labels["expires"] = expires_at.as_second().to_string().into();
        }
        let mut shown = json!({
            "kind": "compute#instance", "name": name, "description": format!("lane {}", host.label.lane), "labels": labels,
            "status": status, "zone": format!("{ROOT}/zones/{zone}"),
            "machineType": format!("{ROOT}/zones/{zone}/machineTypes/{}", host.sku),
            "networkInterfaces": [interface],
        });
        if let Some(created_at) = host.created_at {
            shown["creationTimestamp"] = created_at.to_string().into();
        }
        (zone, shown)
    }

    fn disks(&self, left: &[Residue]) -> Vec<(String, Value)> {
        let hosts: BTreeSet<&HostId> = left.iter().map(|left| &left.host).collect();
        let memory = self.memory();
        let disk = |id: &HostId| {
            let (zone, name) =
                memory.places.get(id).cloned().unwrap_or_else(|| (ZONE.to_owned(), id.to_string()));
            let lineage = memory.labels.get(id).map(|label| label.lineage.as_str());
            let disk = json!({
                "kind": "compute#disk", "name": name, "sizeGb": "50", "zone": format!("{ROOT}/zones/{zone}"),
                "labels": {"managed-by": "lane", "lineage": lineage},
                "description": memory.labels.get(id).map(|label| format!("lane {}", label.lane)),
            });
            (zone, disk)
        };
        hosts.into_iter().map(disk).collect()
    }

    async fn delete(&self, kind: &str, zone: &str, name: &str) -> Answer {
        let Some(id) = self.placed(zone, name) else { return Ok(not_found(name)) };
        let left = self.hosts.residue(&Selector::Owned).await;
        let listed = self.hosts.find(&Selector::Owned).await;
        let is_left = left.is_ok_and(|left| left.iter().any(|left| left.host == id));
        let is_listed = listed.is_ok_and(|listed| listed.iter().any(|host| host.id == id));
        if !is_left && !is_listed {
            // Gone, or not to be seen yet: the cloud behind knows.
            return match self.hosts.destroy(&id).await {
                Ok(()) => Ok(not_found(name)),
                Err(failed) => refuse(Refusal::of(&failed)),
            };
        }
        self.memory().taken.remove(&(zone.to_owned(), name.to_owned()));
        match self.hosts.destroy(&id).await {
            Ok(()) => Ok(Response::json(
                200,
                &self.operation(Some(zone), "delete", &format!("{kind}/{name}"), None),
            )),
            Err(failed) => refuse(Refusal::of(&failed)),
        }
    }

    /// Answers as the service that each machine of Google's has.
    fn metadata(request: &Request, path: &str) -> Response {
        let text = |text: &str| Response { status: 200, headers: vec![], body: text.as_bytes().to_vec() };
        match path.rsplit('/').next() {
            _ if !request.headers.iter().any(|(name, _)| name == "metadata-flavor") => Response {
                status: 403,
                headers: vec![],
                body: b"Missing Metadata-Flavor:Google header.".to_vec(),
            },
            Some("token") => Response::json(200, &json!({"access_token": "a-token", "expires_in": 3599})),
            Some("email") => text("1234-compute@developer.gserviceaccount.com"),
            Some("project-id") => text("my-project"),
            _ => Response { status: 404, headers: vec![], body: vec![] },
        }
    }

    fn rules(&self, method: &str, name: Option<&str>, request: &Request, body: Option<&Value>) -> Response {
        let mut memory = self.memory();
        match (method, name, body) {
            ("GET", None, _) => {
                let filter = request.parameter("filter").unwrap_or_default();
                let prefix = filter.trim_start_matches("name eq ").trim_end_matches(".*");
                let items: Vec<&Value> = memory
                    .rules
                    .iter()
                    .filter(|(name, _)| name.starts_with(prefix))
                    .map(|(_, rule)| rule)
                    .collect();
                Response::json(200, &json!({"kind": "compute#firewallList", "items": items}))
            }
            ("POST", None, Some(body)) => {
                let name = body["name"].as_str().unwrap_or_default().to_owned();
                if memory.rules.contains_key(&name) {
                    let message = format!("The resource 'firewalls/{name}' already exists");
                    return error(409, "alreadyExists", &message);
                }
                let target = format!("firewalls/{name}");
                memory.rules.insert(name, body.clone());
                drop(memory);
                Response::json(200, &self.operation(None, "insert", &target, None))
            }
            ("GET", Some(name), _) => {
                memory.rules.get(name).map_or_else(|| not_found(name), |rule| Response::json(200, rule))
            }
            ("DELETE", Some(name), _) if memory.rules.remove(name).is_some() => {
                drop(memory);
                Response::json(200, &self.operation(None, "delete", &format!("firewalls/{name}"), None))
            }
            _ => not_found(name.unwrap_or_default()),
        }
    }
}

/// Tells whether a thing has what a filter (AIP-160) names: `(labels.a=b) (name=c)`.
fn meets(thing: &Value, filter: &str) -> bool {
    filter.split(' ').map(|term| term.trim_matches(['(', ')'])).filter(|term| !term.is_empty()).all(|term| {
        let (path, wanted) = term.split_once('=').unwrap_or_default();
        path.split('.').fold(thing, |value, part| &value[part]) == wanted
    })
}

#[async_trait]
impl Wire for Gcp {
    async fn send(&self, request: &Request) -> Answer {
        if request.url.ends_with("/tokeninfo") {
            self.memory().requests.push(request.clone());
            return Ok(Response::json(200, &json!({"email": "operator@example.com"})));
        }
        if let Some((_, path)) = request.url.split_once("/computeMetadata/v1/") {
            self.memory().requests.push(request.clone());
            return Ok(Self::metadata(request, path));
        }
        let Some((_, path)) = request.url.split_once("/compute/v1/") else {
            self.memory().requests.push(request.clone());
            return Ok(Response { status: 200, headers: vec![], body: format!("{ADDRESS}\n").into_bytes() });
        };
        let body = match &request.body {
            Some(Body::Json(body)) => Some(body),
            Some(Body::Form(_)) => return refuse(Refusal::Wrong("not as described".to_owned())),
            None => None,
        };
        let method = request.method.as_str();
        self.memory().requests.push(request.clone());
        if !request
            .headers
            .iter()
            .any(|(name, value)| name == "authorization" && value.reveal().starts_with("Bearer "))
        {
            return refuse(Refusal::Unauthorised);
        }
        if let Some(description) = &self.description {
            let complaints = description::discovery(description, method, path, &request.query, body);
            if !complaints.is_empty() {
                self.memory().complaints.extend(complaints.clone());
                return refuse(Refusal::Wrong(complaints.join("; ")));
            }
        }
        let parts: Vec<&str> = path.split('/').skip(2).collect();
        match (method, parts.as_slice(), body) {
            ("GET", [], _) => Ok(Response::json(
                200,
                &json!({
                    "kind": "compute#project", "name": "my-project",
                    "quotas": [{"metric": "CPUS_ALL_REGIONS", "limit": 12.0, "usage": 4.0}],
                }),
            )),
            ("GET", ["regions", name], _) => Ok(Response::json(
                200,
                &json!({
                    "kind": "compute#region", "name": name,
                    "quotas": [
                        {"metric": "N2_CPUS", "limit": 8.0, "usage": 4.0},
                        {"metric": "PREEMPTIBLE_CPUS", "limit": 16.0, "usage": 0.0},
                        {"metric": "IN_USE_ADDRESSES", "limit": 8.0, "usage": 1.0},
                        {"metric": "SSD_TOTAL_GB", "limit": 500.0, "usage": 100.0},
                    ],
                }),
            )),
            ("GET", ["global", "images", "family", family], _) => Ok(Response::json(
                200,
                &json!({"kind": "compute#image", "name": format!("{family}-v20260501")}),
            )),
            ("GET", ["aggregated", kind], _) => self.aggregated(kind, request).await,
            ("POST", ["zones", zone, "instances"], Some(body)) => self.insert(zone, request, body).await,
            ("DELETE", ["zones", zone, kind @ ("instances" | "disks"), name], _) => {
                self.delete(kind, zone, name).await
            }
            ("GET", ["zones", zone, kind @ ("instances" | "disks"), name], _) => {
                self.one(kind, zone, name).await
            }
            ("GET", ["zones", zone, "operations"], _) => {
                let wanted = request.parameter("filter").unwrap_or_default();
                let wanted = wanted.trim_start_matches("targetLink eq .*");
                let of = |one: &&Value| {
                    leaf(&one["zone"]) == *zone
                        && one["targetLink"].as_str().is_some_and(|link| link.ends_with(wanted))
                };
                let memory = self.memory();
                let items: Vec<&Value> = memory.operations.values().filter(of).collect();
                Ok(Response::json(200, &json!({"kind": "compute#operationList", "items": items})))
            }
            ("GET", ["zones", zone, "instances", name, "serialPort"], _) => match self.placed(zone, name) {
                Some(id) => match self.hosts.console_log(&id).await {
                    Ok(text) => {
                        Ok(Response::json(200, &json!({"contents": text.unwrap_or_default(), "start": "0"})))
                    }
                    Err(failed) => refuse(Refusal::of(&failed)),
                },
                None => Ok(not_found(name)),
            },
            ("GET", ["zones", _, "operations", name] | ["global", "operations", name], _) => {
                match self.memory().operations.get(*name) {
                    Some(operation) => Ok(Response::json(200, operation)),
                    None => Ok(not_found(name)),
                }
            }
            (method, ["global", "firewalls"], body) => Ok(self.rules(method, None, request, body)),
            (method, ["global", "firewalls", name], body) => {
                Ok(self.rules(method, Some(name), request, body))
            }
            _ => Ok(not_found(path)),
        }
    }
}

impl Emulator for Gcp {
    fn complaints(&self) -> Vec<String> {
        self.memory().complaints.clone()
    }

    fn leftovers(&self) -> Vec<String> {
        let memory = self.memory();
        let is_made = |name: &&String| !memory.strangers.iter().any(|(_, thing)| thing["name"] == **name);
        memory.rules.keys().filter(is_made).map(|name| format!("firewall rule {name}")).collect()
    }

    fn add_strangers(&self, ours: &Label) -> Vec<String> {
        let mut memory = self.memory();
        let name = format!("{ours}-3").replace(['.', '_'], "-");
        let labels = json!({"managed-by": "somebody", "lane": ours.lane, "lineage": ours.lineage.as_str()});
        for kind in ["instances", "disks"] {
            let zone = format!("{ROOT}/zones/{ZONE}");
            let thing = json!({"name": name, "zone": zone, "status": "RUNNING", "labels": labels});
            memory.strangers.push((kind, thing));
        }
        // A rule can have no label; the last is of a lane whose name begins as the name of our host does.
        let other = format!(
            "managed-by=lane lane={}-{} lineage=01j00000000000000000000003 expires=2000000000",
            ours.lane,
            ours.lineage8()
        );
        let rules = [("default-allow-ssh".to_owned(), String::new()), (format!("{name}-in"), other)];
        for (name, description) in rules {
            let rule = json!({"name": name, "description": description});
            memory.rules.insert(name, rule.clone());
            memory.strangers.push(("firewalls", rule));
        }
        memory.strangers.iter().filter_map(|(_, thing)| thing["name"].as_str().map(str::to_owned)).collect()
    }

    fn id_of(&self, host: &HostId) -> HostId {
        let place = self.memory().places.get(host).cloned();
        place.map_or_else(|| host.clone(), |(zone, name)| HostId::new(format!("{zone}/{name}")))
    }

    fn requests(&self) -> Vec<Request> {
        self.memory().requests.clone()
    }
}
