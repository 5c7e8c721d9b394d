//! EC2's Query API: instances, their volumes, security groups, tags. Regions by the signature's scope.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use lane::plan::{Digest, Fingerprint};
use lane::provider::http::{Body, Request, Response, Wire, WireError};
use lane::provider::{
    ClientToken, CreateRequest, Host, HostId, HostStatus, Label, Lineage, Provider, ProviderError, Region,
    Selector, Sku,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{ADDRESS, Emulator, HIDDEN, Refusal, description};

#[derive(Debug, Clone)]
struct Group {
    region: String,
    name: String,
    tags: BTreeMap<String, String>,
    rules: BTreeSet<String>,
}

/// Of an instance; about every other one outlives it, and keeps its security group from being deleted.
#[derive(Debug)]
struct Interface {
    region: String,
    instance: String,
    label: Label,
    outlives: bool,
    made: Instant,
    /// Its instance is there.
    is_used: bool,
}

#[derive(Debug, Default)]
struct Memory {
    /// Region and instance of a host.
    places: BTreeMap<HostId, (String, String)>,
    /// Where hosts were asked for: they may be listed before their create is answered.
    asked_in: BTreeMap<Label, String>,
    /// Of instances, by their id; terminated ones keep theirs.
    labels: BTreeMap<String, Label>,
    /// Asked to go.
    terminating: BTreeSet<String>,
    groups: BTreeMap<String, Group>,
    interfaces: BTreeMap<String, Interface>,
    tokens: BTreeMap<String, (Vec<(String, String)>, String)>,
    requests: Vec<Request>,
    complaints: Vec<String>,
    numbers: u32,
    /// Ids and tags of what is none of ours; the kind is the start of the id.
    strangers: Vec<(String, BTreeMap<String, String>)>,
}

impl Memory {
    fn number(&mut self) -> u32 {
        self.numbers += 1;
        self.numbers
    }
}

#[derive(Debug)]
pub(crate) struct Aws {
    hosts: Arc<dyn Provider>,
    memory: Mutex<Memory>,
    description: Option<Value>,
    quotas: Option<Value>,
}

type Answer = Result<Response, WireError>;

/// A request as it was read.
struct Asked<'a> {
    region: String,
    action: String,
    form: &'a [(String, String)],
}

impl Asked<'_> {
    fn get(&self, name: &str) -> &str {
        self.form.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
    }

    fn values(&self, prefix: &str) -> Vec<&str> {
        self.form
            .iter()
            .filter(|(name, _)| name.starts_with(prefix))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// The values that a filter allows, if it is there.
    fn filter(&self, name: &str) -> Option<Vec<&str>> {
        let (key, _) = self.form.iter().find(|(key, value)| key.starts_with("Filter.") && value == name)?;
        Some(self.values(&format!("{}.Value.", key.trim_end_matches(".Name"))))
    }

    fn allows(&self, tags: &BTreeMap<String, String>) -> bool {
        ["managed-by", "lane", "lineage"].into_iter().all(|name| {
            let allowed = self.filter(&format!("tag:{name}"));
            allowed
                .is_none_or(|allowed| tags.get(name).is_some_and(|value| allowed.contains(&value.as_str())))
        })
    }

    fn tags(&self) -> BTreeMap<String, String> {
        let prefix = "TagSpecification.1.Tag.";
        self.values_of(prefix)
    }

    fn values_of(&self, prefix: &str) -> BTreeMap<String, String> {
        let keys = self.form.iter().filter(|(name, _)| name.starts_with(prefix) && name.ends_with(".Key"));
        keys.map(|(name, key)| (key.clone(), self.get(&name.replace(".Key", ".Value")).to_owned())).collect()
    }
}

fn xml(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => quick_xml::escape::escape(text.as_str()).into_owned(),
        Value::Array(items) => items.iter().map(|item| ["<item>", &xml(item), "</item>"].concat()).collect(),
        Value::Object(members) => {
            let element = |(name, member)| ["<", name, ">", &xml(member), "</", name, ">"].concat();
            members.iter().map(|(name, member)| element((name.as_str(), member))).collect()
        }
        other => other.to_string(),
    }
}

fn answer(action: &str, value: &Value) -> Response {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{action}Response xmlns=\"http://ec2.amazonaws.com/doc/2016-11-15/\"><requestId>r-1</requestId>{}</{action}Response>",
        xml(value)
    );
    Response { status: 200, headers: vec![], body: body.into_bytes() }
}

fn error(status: u16, code: &str, message: &str) -> Response {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>{code}</Code><Message>{message}</Message></Error></Errors><RequestID>r-1</RequestID></Response>"
    );
    Response { status, headers: vec![], body: body.into_bytes() }
}

pub(super) fn refuse(refusal: Refusal) -> Answer {
    Ok(match refusal {
        Refusal::Lost => return Err(WireError::Lost("by the emulator".to_owned())),
        Refusal::Unauthorised => {
            error(401, "AuthFailure", "AWS was not able to validate the provided access credentials")
        }
        Refusal::Expired => error(400, "RequestExpired", "Request has expired."),
        Refusal::Forbidden => {
            error(403, "UnauthorizedOperation", "You are not authorized to perform: ec2:DescribeRegions")
        }
        Refusal::Wrong(why) => error(400, "InvalidParameterValue", &quick_xml::escape::escape(&why)),
        Refusal::Full => {
            error(500, "InsufficientInstanceCapacity", "We currently do not have sufficient capacity")
        }
        Refusal::OverQuota => {
            error(400, "VcpuLimitExceeded", "You have requested more vCPU capacity than your current limit")
        }
        Refusal::Busy => error(503, "RequestLimitExceeded", "Request limit exceeded."),
    })
}

fn tag_set(tags: &BTreeMap<String, String>) -> Value {
    tags.iter().map(|(key, value)| json!({"key": key, "value": value})).collect()
}

fn tags_of_label(label: &Label) -> BTreeMap<String, String> {
    BTreeMap::from([
        ("managed-by".to_owned(), "lane".to_owned()),
        ("lane".to_owned(), label.lane.clone()),
        ("lineage".to_owned(), label.lineage.to_string()),
    ])
}

fn tags_of(host: &Host) -> BTreeMap<String, String> {
    let mut tags = tags_of_label(&host.label);
    tags.extend(
        host.fingerprint.as_ref().map(|print| ("fingerprint".to_owned(), print.0.as_str().to_owned())),
    );
    tags.extend(host.expires_at.map(|at| ("expires".to_owned(), at.to_string())));
    tags
}

impl Aws {
    pub(crate) fn over(hosts: Arc<dyn Provider>) -> Self {
        let (description, quotas) =
            (description::read("aws-ec2.json"), description::read("aws-service-quotas.json"));
        Self { hosts, memory: Mutex::default(), description, quotas }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says which instance a host is; one that somebody else made gets its number here.
    fn place(&self, id: &HostId, label: &Label, region: &str) -> (String, String) {
        let mut memory = self.memory();
        if let Some(place) = memory.places.get(id) {
            return place.clone();
        }
        let region = memory.asked_in.get(label).map_or(region, String::as_str).to_owned();
        let number = memory.number();
        let place = (region.clone(), format!("i-{number:017x}"));
        let interface = Interface {
            region,
            instance: place.1.clone(),
            label: label.clone(),
            outlives: memory.requests.len().is_multiple_of(2),
            made: Instant::now(),
            is_used: true,
        };
        memory.interfaces.insert(format!("eni-{number:017x}"), interface);
        memory.places.insert(id.clone(), place.clone());
        memory.labels.insert(place.1.clone(), label.clone());
        place
    }

    /// Shows what is none of ours and passes the filters, beside what is.
    fn strangers(&self, asked: &Asked<'_>, kind: &str, show: impl Fn(&str, Value) -> Value) -> Vec<Value> {
        let memory = self.memory();
        let of_kind = memory.strangers.iter().filter(|(id, _)| id.starts_with(kind));
        of_kind.filter(|(_, tags)| asked.allows(tags)).map(|(id, tags)| show(id, tag_set(tags))).collect()
    }

    fn placed(&self, instance: &str) -> Option<HostId> {
        self.memory().places.iter().find(|(_, place)| place.1 == instance).map(|(id, _)| id.clone())
    }

    async fn run(&self, asked: &Asked<'_>) -> Answer {
        let tags = asked.tags();
        let tag = |name: &str| tags.get(name).cloned().unwrap_or_default();
        let token = asked.get("ClientToken").to_owned();
        let earlier = self.memory().tokens.get(&token).cloned();
        if let Some((form, instance)) = earlier {
            return Ok(if form == asked.form {
                answer("RunInstances", &json!({"instancesSet": [{"instanceId": instance}]}))
            } else {
                error(400, "IdempotentParameterMismatch", "The client token is used with other parameters")
            });
        }
        let group = asked.get("NetworkInterface.1.SecurityGroupId.1");
        if !self.memory().groups.contains_key(group) {
            return Ok(error(400, "InvalidGroup.NotFound", "The security group does not exist"));
        }
        let user_data = BASE64.decode(asked.get("UserData")).unwrap_or_default();
        if user_data.len() > 16_384 {
            return Ok(error(400, "InvalidParameterValue", "User data is limited to 16384 bytes"));
        }
        let label = Label { lane: tag("lane"), lineage: Lineage::new(tag("lineage")) };
        let gib: u64 = asked.get("BlockDeviceMapping.1.Ebs.VolumeSize").parse().unwrap_or_default();
        let request = CreateRequest {
            label: label.clone(),
            sku: Sku::new(asked.get("InstanceType")),
            region: Region::new(asked.region.clone()),
            image: "debian-13".to_owned(),
            disk_bytes: gib << 30,
            kvm: true,
            user_data: String::from_utf8_lossy(&user_data).into_owned(),
            expires_at: tag("expires").parse().unwrap_or_default(),
            fingerprint: Fingerprint(Digest::from_text(&tag("fingerprint"))),
            token: ClientToken::new(token.clone()),
            allow_from: vec![],
        };
        self.memory().asked_in.insert(label.clone(), asked.region.clone());
        match self.hosts.create(&request).await {
            Ok(id) => {
                let (_, instance) = self.place(&id, &label, &asked.region);
                self.memory().tokens.insert(token, (asked.form.to_vec(), instance.clone()));
                let state = json!({"code": 0, "name": "pending"});
                let made = json!({"instancesSet": [{"instanceId": instance, "instanceState": state}]});
                Ok(answer("RunInstances", &made))
            }
            Err(failed) => refuse(Refusal::of(&failed)),
        }
    }

    async fn instances(&self, asked: &Asked<'_>) -> Answer {
        let wanted = asked.values("InstanceId.");
        let hosts = match self.hosts.find(&Selector::Owned).await {
            Ok(hosts) => hosts,
            Err(failed) => return refuse(Refusal::of(&failed)),
        };
        let mut shown: Vec<Value> = Vec::new();
        let mut seen = BTreeSet::new();
        for host in &hosts {
            let (region, instance) = self.place(&host.id, &host.label, &asked.region);
            seen.insert(instance.clone());
            if region != asked.region || (!wanted.is_empty() && !wanted.contains(&instance.as_str())) {
                continue;
            }
            let state = match host.status {
                _ if self.memory().terminating.contains(&instance) => "shutting-down",
                HostStatus::Starting => "pending",
                HostStatus::Running => "running",
                HostStatus::Stopped => "stopped",
            };
            let tags = tags_of(host);
            if !asked.allows(&tags)
                || asked.filter("instance-state-name").is_some_and(|states| !states.contains(&state))
            {
                continue;
            }
            shown.push(json!({
                "instanceId": instance, "instanceState": {"name": state}, "instanceType": host.sku.as_str(),
                "ipAddress": host.address.map(|address| address.to_string()),
                "launchTime": host.created_at.map(|at| at.to_string()), "tagSet": tag_set(&tags),
            }));
        }
        if wanted.is_empty() {
            let state = json!({"name": "running"});
            shown.extend(self.strangers(
                asked,
                "i-",
                |id, tags| json!({"instanceId": id, "instanceState": state, "instanceType": "m5.large", "tagSet": tags}),
            ));
        }
        let memory = self.memory();
        for instance in &wanted {
            let Some(label) = memory.labels.get(*instance) else {
                let message = format!("The instance ID '{instance}' does not exist");
                return Ok(error(400, "InvalidInstanceID.NotFound", &message));
            };
            if !seen.contains(*instance) {
                let tags =
                    [("managed-by", "lane"), ("lane", &label.lane), ("lineage", label.lineage.as_str())];
                let tags = tags.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
                shown.push(json!({
                    "instanceId": instance, "instanceState": {"name": "terminated"}, "tagSet": tag_set(&tags),
                }));
            }
        }
        drop(memory);
        // One instance a page.
        let at: usize = asked.get("NextToken").parse().unwrap_or(0);
        let next = (at + 1 < shown.len()).then(|| (at + 1).to_string());
        let page: Vec<Value> = shown.get(at).map(|one| json!({"instancesSet": [one]})).into_iter().collect();
        Ok(answer(&asked.action, &json!({"reservationSet": page, "nextToken": next})))
    }

    async fn terminate(&self, asked: &Asked<'_>) -> Answer {
        let instance = asked.get("InstanceId.1");
        let Some(id) = self.placed(instance) else {
            return Ok(error(400, "InvalidInstanceID.NotFound", "The instance does not exist"));
        };
        match self.hosts.destroy(&id).await {
            Ok(()) => {
                self.memory().terminating.insert(instance.to_owned());
                let set = json!([{"instanceId": instance, "currentState": {"name": "shutting-down"}}]);
                Ok(answer(&asked.action, &json!({"instancesSet": set})))
            }
            Err(failed) => refuse(Refusal::of(&failed)),
        }
    }

    async fn volumes(&self, asked: &Asked<'_>) -> Answer {
        let left = match self.hosts.residue(&Selector::Owned).await {
            Ok(left) => left,
            Err(failed) => return refuse(Refusal::of(&failed)),
        };
        let owners: BTreeSet<HostId> = left.into_iter().map(|left| left.host).collect();
        let memory = self.memory();
        let mut shown = Vec::new();
        for owner in owners {
            let Some((region, instance)) = memory.places.get(&owner) else { continue };
            let Some(label) = memory.labels.get(instance) else { continue };
            let tags = tags_of_label(label);
            if *region == asked.region && asked.allows(&tags) {
                shown.push(json!({
                    "volumeId": instance.replacen("i-", "vol-", 1), "size": "50", "status": "in-use",
                    "attachmentSet": [{"instanceId": instance}], "tagSet": tag_set(&tags),
                }));
            }
        }
        drop(memory);
        shown.extend(self.strangers(asked, "vol-", |id, tags| {
            json!({"volumeId": id, "size": "8", "status": "available", "attachmentSet": [], "tagSet": tags})
        }));
        Ok(answer(&asked.action, &json!({"volumeSet": shown})))
    }

    async fn delete_volume(&self, asked: &Asked<'_>) -> Answer {
        let instance = asked.get("VolumeId").replacen("vol-", "i-", 1);
        let hosts = match self.hosts.find(&Selector::Owned).await {
            Ok(hosts) => hosts,
            Err(failed) => return refuse(Refusal::of(&failed)),
        };
        let Some(id) = self.placed(&instance) else {
            return Ok(error(400, "InvalidVolume.NotFound", "The volume does not exist"));
        };
        if hosts.iter().any(|host| host.id == id) {
            return Ok(error(400, "VolumeInUse", "The volume is attached to an instance"));
        }
        match self.hosts.destroy(&id).await {
            Ok(()) => Ok(answer(&asked.action, &json!({"return": "true"}))),
            Err(failed) => refuse(Refusal::of(&failed)),
        }
    }

    /// Brings the interfaces up to date with the cloud behind.
    async fn refresh_interfaces(&self) -> Result<(), ProviderError> {
        let hosts = self.hosts.find(&Selector::Owned).await?;
        let left = self.hosts.residue(&Selector::Owned).await?;
        for host in &hosts {
            self.place(&host.id, &host.label, host.region.as_str());
        }
        let mut memory = self.memory();
        let there: BTreeSet<String> = hosts
            .iter()
            .map(|host| &host.id)
            .chain(left.iter().map(|left| &left.host))
            .filter_map(|id| Some(memory.places.get(id)?.1.clone()))
            .collect();
        let Memory { interfaces, terminating, .. } = &mut *memory;
        interfaces.retain(|_, interface| {
            let is_there = there.contains(&interface.instance);
            // What is not listed may be hidden still.
            let is_hidden = interface.made.elapsed() < HIDDEN && !terminating.contains(&interface.instance);
            interface.is_used = is_there || is_hidden;
            interface.is_used || interface.outlives
        });
        Ok(())
    }

    async fn interfaces(&self, asked: &Asked<'_>) -> Answer {
        if let Err(failed) = self.refresh_interfaces().await {
            return refuse(Refusal::of(&failed));
        }
        let memory = self.memory();
        let ours = memory.interfaces.iter().filter(|(_, interface)| interface.region == asked.region);
        let mut shown: Vec<Value> = ours
            .map(|(id, interface)| (id, interface, tags_of_label(&interface.label)))
            .filter(|(_, _, tags)| asked.allows(tags))
            .map(|(id, interface, tags)| {
                let mut shown = json!({
                    "networkInterfaceId": id, "status": "available", "tagSet": tag_set(&tags),
                });
                if interface.is_used {
                    shown["status"] = "in-use".into();
                    shown["attachment"] = json!({"instanceId": interface.instance, "status": "attached"});
                }
                shown
            })
            .collect();
        drop(memory);
        shown.extend(self.strangers(
            asked,
            "eni-",
            |id, tags| json!({"networkInterfaceId": id, "status": "available", "tagSet": tags}),
        ));
        Ok(answer(&asked.action, &json!({"networkInterfaceSet": shown})))
    }

    async fn delete_interface(&self, asked: &Asked<'_>) -> Answer {
        if let Err(failed) = self.refresh_interfaces().await {
            return refuse(Refusal::of(&failed));
        }
        let id = asked.get("NetworkInterfaceId");
        let mut memory = self.memory();
        Ok(match memory.interfaces.get(id) {
            None => error(400, "InvalidNetworkInterfaceID.NotFound", "The interface does not exist"),
            Some(interface) if interface.is_used => {
                error(400, "InvalidParameterValue", &format!("Network interface '{id}' is currently in use."))
            }
            Some(_) => {
                memory.interfaces.remove(id);
                answer(&asked.action, &json!({"return": "true"}))
            }
        })
    }

    fn make_group(&self, asked: &Asked<'_>) -> Response {
        let (name, tags) = (asked.get("GroupName").to_owned(), asked.tags());
        let mut memory = self.memory();
        if memory
            .groups
            .values()
            .any(|group| group.name.eq_ignore_ascii_case(&name) && group.region == asked.region)
        {
            return error(
                400,
                "InvalidGroup.Duplicate",
                &format!("The security group '{name}' already exists"),
            );
        }
        let id = format!("sg-{:017x}", memory.number());
        memory
            .groups
            .insert(id.clone(), Group { region: asked.region.clone(), name, tags, rules: BTreeSet::new() });
        answer(&asked.action, &json!({"return": "true", "groupId": id}))
    }

    fn admit(&self, asked: &Asked<'_>) -> Response {
        let mut memory = self.memory();
        let Some(group) = memory.groups.get_mut(asked.get("GroupId")) else {
            return error(400, "InvalidGroup.NotFound", "The security group does not exist");
        };
        let networks =
            ["IpRanges", "Ipv6Ranges"].map(|list| asked.values(&format!("IpPermissions.1.{list}."))).concat();
        if asked.action == "RevokeSecurityGroupIngress" {
            group.rules.retain(|rule| !networks.contains(&rule.as_str()));
            return answer(&asked.action, &json!({"return": "true"}));
        }
        if networks.iter().any(|network| group.rules.contains(*network)) {
            return error(400, "InvalidPermission.Duplicate", "the specified rule already exists");
        }
        group.rules.extend(networks.into_iter().map(str::to_owned));
        answer(&asked.action, &json!({"return": "true"}))
    }

    fn groups(&self, asked: &Asked<'_>) -> Response {
        let memory = self.memory();
        let named = asked.filter("group-name");
        let fits = |group: &Group| {
            let is_named = named.as_ref().is_none_or(|names| names.contains(&group.name.as_str()));
            group.region == asked.region && is_named && asked.allows(&group.tags)
        };
        let found = memory.groups.iter().filter(|(_, group)| fits(group));
        let ranges = |group: &Group, of_six: bool| -> Vec<Value> {
            let key = if of_six { "cidrIpv6" } else { "cidrIp" };
            let rules = group.rules.iter().filter(|rule| rule.contains(':') == of_six);
            rules.map(|rule| json!({key: rule})).collect()
        };
        let found = found.map(|(id, group)| {
            json!({
                "groupId": id, "groupName": group.name, "tagSet": tag_set(&group.tags),
                "ipPermissions": [{
                    "ipProtocol": "tcp", "fromPort": "22", "toPort": "22",
                    "ipRanges": ranges(group, false), "ipv6Ranges": ranges(group, true),
                }],
            })
        });
        answer(&asked.action, &json!({"securityGroupInfo": found.collect::<Vec<_>>()}))
    }

    async fn delete_group(&self, asked: &Asked<'_>) -> Answer {
        let id = asked.get("GroupId");
        let Some(group) = self.memory().groups.get(id).cloned() else {
            return Ok(error(400, "InvalidGroup.NotFound", "The security group does not exist"));
        };
        if self.refresh_interfaces().await.is_err() {
            return refuse(Refusal::Busy);
        }
        let uses = |label: &Label| {
            let tag = |name: &str| group.tags.get(name).map(String::as_str);
            tag("lane") == Some(&label.lane) && tag("lineage") == Some(label.lineage.as_str())
        };
        if self.memory().interfaces.values().any(|interface| uses(&interface.label)) {
            return Ok(error(400, "DependencyViolation", "resource has a dependent object"));
        }
        self.memory().groups.remove(id);
        Ok(answer(&asked.action, &json!({"return": "true"})))
    }
}

/// Service Quotas, which speaks JSON.
fn quota(request: &Request, body: &Value) -> Answer {
    let target = request.headers.iter().find(|(name, _)| name == "x-amz-target");
    if region(request, "servicequotas").is_none() {
        return refuse(Refusal::Unauthorised);
    }
    if target.is_none_or(|(_, target)| target.reveal() != "ServiceQuotasV20190624.GetServiceQuota") {
        return Ok(Response::json(400, &json!({"__type": "UnknownOperationException"})));
    }
    let quota = json!({
        "ServiceCode": body["ServiceCode"], "QuotaCode": body["QuotaCode"],
        "QuotaName": "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances", "Value": 64.0,
    });
    Ok(Response::json(200, &json!({"Quota": quota})))
}

/// Takes the region out of `Credential=KEY/20261123/us-east-1/ec2/aws4_request`.
fn region(request: &Request, service: &str) -> Option<String> {
    let authorization = request.headers.iter().find(|(name, _)| name == "authorization")?.1.reveal();
    let scope = authorization.split("Credential=").nth(1)?.split(',').next()?;
    let signed = authorization.starts_with("AWS4-HMAC-SHA256 ")
        && scope.ends_with(&format!("/{service}/aws4_request"));
    scope.split('/').nth(2).filter(|_| signed).map(str::to_owned)
}

#[async_trait]
impl Wire for Aws {
    async fn send(&self, request: &Request) -> Answer {
        let form = match &request.body {
            Some(Body::Form(form)) => form,
            Some(Body::Json(body)) => {
                self.memory().requests.push(request.clone());
                let mut headers = request.headers.iter();
                let target = headers.find(|(name, _)| name == "x-amz-target");
                let target = target.map_or("", |(_, target)| target.reveal());
                let model = self.quotas.as_ref();
                let complaints = model.map_or(vec![], |model| description::target(model, target, body));
                self.memory().complaints.extend(complaints);
                return quota(request, body);
            }
            None => {
                self.memory().requests.push(request.clone());
                return Ok(Response {
                    status: 200,
                    headers: vec![],
                    body: format!("{ADDRESS}\n").into_bytes(),
                });
            }
        };
        self.memory().requests.push(request.clone());
        if let Some(description) = &self.description {
            let complaints = description::query(description, form);
            if !complaints.is_empty() {
                self.memory().complaints.extend(complaints.clone());
                return refuse(Refusal::Wrong(complaints.join("; ")));
            }
        }
        if request.parameter("Action") == Some("GetCallerIdentity") {
            let who = json!({
                "Arn": "arn:aws:iam::123456789012:user/name", "UserId": "AIDAEXAMPLE", "Account": "123456789012",
            });
            return Ok(match region(request, "sts") {
                Some(_) => answer("GetCallerIdentity", &json!({"GetCallerIdentityResult": who})),
                None => error(403, "MissingAuthenticationToken", "Request is missing Authentication Token"),
            });
        }
        let Some(region) = region(request, "ec2") else { return refuse(Refusal::Unauthorised) };
        let asked =
            Asked { region, action: request.parameter("Action").unwrap_or_default().to_owned(), form };
        let one = |set: &str, thing: Value| Ok(answer(&asked.action, &json!({set: [thing]})));
        match asked.action.as_str() {
            "DescribeRegions" => {
                let regions = ["eu-west-1", "us-east-1"]
                    .map(|name| json!({"regionName": name, "optInStatus": "opt-in-not-required"}));
                Ok(answer(&asked.action, &json!({"regionInfo": regions})))
            }
            "DescribeVpcs" => one("vpcSet", json!({"vpcId": "vpc-1", "isDefault": "true"})),
            "DescribeSubnets" => {
                let named = Some(asked.get("SubnetId.1")).filter(|id| !id.is_empty());
                let zone = format!("{}a", asked.region);
                let subnet = json!({"subnetId": named.unwrap_or("subnet-1"), "vpcId": "vpc-1", "availabilityZone": zone});
                one("subnetSet", subnet)
            }
            "DescribeInstanceTypes" => {
                let kind = asked.get("InstanceType.1");
                let cpus = if kind.contains("metal") { "96" } else { "4" };
                one("instanceTypeSet", json!({"instanceType": kind, "vCpuInfo": {"defaultVCpus": cpus}}))
            }
            "DescribeImages" => one("imagesSet", json!({"imageId": "ami-1", "rootDeviceName": "/dev/sda1"})),
            "DescribeNetworkInterfaces" => self.interfaces(&asked).await,
            "DeleteNetworkInterface" => self.delete_interface(&asked).await,
            "RunInstances" => self.run(&asked).await,
            "DescribeInstances" => self.instances(&asked).await,
            "TerminateInstances" => self.terminate(&asked).await,
            "DescribeVolumes" => self.volumes(&asked).await,
            "DeleteVolume" => self.delete_volume(&asked).await,
            "CreateSecurityGroup" => Ok(self.make_group(&asked)),
            "AuthorizeSecurityGroupIngress" | "RevokeSecurityGroupIngress" => Ok(self.admit(&asked)),
            "DescribeSecurityGroups" => Ok(self.groups(&asked)),
            "DeleteSecurityGroup" => self.delete_group(&asked).await,
            "GetConsoleOutput" => match self.placed(asked.get("InstanceId")) {
                Some(id) => match self.hosts.console_log(&id).await {
                    Ok(text) => {
                        let output = BASE64.encode(text.unwrap_or_default());
                        Ok(answer(
                            &asked.action,
                            &json!({"instanceId": asked.get("InstanceId"), "output": output}),
                        ))
                    }
                    Err(failed) => refuse(Refusal::of(&failed)),
                },
                None => Ok(error(400, "InvalidInstanceID.NotFound", "The instance does not exist")),
            },
            "CreateTags" => {
                match (self.placed(asked.get("ResourceId.1")), asked.values_of("Tag.").get("expires")) {
                    (Some(id), Some(expires)) => {
                        match self.hosts.set_expiry(&id, expires.parse().unwrap_or_default()).await {
                            Ok(()) => Ok(answer(&asked.action, &json!({"return": "true"}))),
                            Err(failed) => refuse(Refusal::of(&failed)),
                        }
                    }
                    _ => refuse(Refusal::Wrong("not as described".to_owned())),
                }
            }
            _ => Ok(error(400, "InvalidAction", "The action is not valid")),
        }
    }
}

impl Emulator for Aws {
    fn complaints(&self) -> Vec<String> {
        self.memory().complaints.clone()
    }

    fn leftovers(&self) -> Vec<String> {
        let memory = self.memory();
        let made =
            memory.groups.iter().filter(|(id, _)| !memory.strangers.iter().any(|known| known.0 == **id));
        let groups = made.map(|(id, group)| format!("security group {} {id}", group.name));
        let free = memory.interfaces.iter().filter(|(_, interface)| !interface.is_used);
        groups.chain(free.map(|(id, _)| format!("network interface {id}"))).collect()
    }

    fn add_strangers(&self, ours: &Label) -> Vec<String> {
        let mut memory = self.memory();
        let tags = |by: &str, lane: &str| {
            let tags = [("managed-by", by), ("lane", lane), ("lineage", ours.lineage.as_str())];
            tags.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
        };
        let owners =
            [BTreeMap::new(), tags("somebody", &ours.lane), tags("lane", &format!("{}-3", ours.lane))];
        for (number, tags) in owners.into_iter().enumerate() {
            // An instance of another lane is a host, which the cloud behind would have to know.
            let is_lanes = tags.get("managed-by").is_some_and(|by| by == "lane");
            for kind in ["i-", "vol-", "eni-", "sg-"].into_iter().filter(|kind| !is_lanes || *kind != "i-") {
                let id = format!("{kind}0fffffffffffffff{number}");
                if kind == "sg-" {
                    let (region, name) = ("here".to_owned(), format!("{ours}-{number}"));
                    let group = Group { region, name, tags: tags.clone(), rules: BTreeSet::new() };
                    memory.groups.insert(id.clone(), group);
                }
                memory.strangers.push((id, tags.clone()));
            }
        }
        memory.strangers.iter().map(|(id, _)| id.clone()).collect()
    }

    fn id_of(&self, host: &HostId) -> HostId {
        let place = self.memory().places.get(host).cloned();
        place.map_or_else(|| host.clone(), |(region, instance)| HostId::new(format!("{region}/{instance}")))
    }

    fn requests(&self) -> Vec<Request> {
        self.memory().requests.clone()
    }
}
