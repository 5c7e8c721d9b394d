//! The adapters on what their vendors really answered, kept in `tests/fixtures/recorded`.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use serde_json::{Value, json};

use super::http::{Body, Link, Request, Response, Wire, WireError};
use super::{
    ClientToken, CreateRequest, Host, HostId, HostStatus, Label, Lineage, Provider, ProviderError, Region,
    Selector, Sku,
};
use crate::plan::{Digest, Fingerprint};
use crate::world::{Clock, World};

macro_rules! kept {
    ($path:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/recorded/", $path))
    };
}

/// Answers a request by the first rule all of whose words are in it; the last answer of a rule is given again.
#[derive(Debug)]
struct Recorded {
    rules: Mutex<Vec<(&'static str, VecDeque<Response>)>>,
    asked: Mutex<Vec<String>>,
}

impl Recorded {
    fn new<const N: usize>(rules: [(&'static str, Vec<Response>); N]) -> Arc<Self> {
        let rules = rules.into_iter().map(|(words, answers)| (words, answers.into())).collect();
        Arc::new(Self { rules: Mutex::new(rules), asked: Mutex::default() })
    }

    /// Answers by this rule before all others.
    fn first(&self, words: &'static str, answer: Response) {
        self.rules.lock().unwrap().insert(0, (words, [answer].into()));
    }

    /// Returns the requests in which all these words are.
    fn asked(&self, words: &str) -> Vec<String> {
        self.asked.lock().unwrap().iter().filter(|text| has(text, words)).cloned().collect()
    }
}

fn has(text: &str, words: &str) -> bool {
    words.split_whitespace().all(|word| text.contains(word))
}

/// What a reviewer who knows the vendor's API reads.
const SHOWN: [&str; 5] = [
    include_str!("../sim/snapshots/requests_gcp.snap"),
    include_str!("../sim/snapshots/lookups_gcp.snap"),
    include_str!("../sim/snapshots/inserts_gcp.snap"),
    include_str!("../sim/snapshots/requests_azure.snap"),
    include_str!("../sim/snapshots/lookups_azure.snap"),
];

/// Returns the method and path of a request, without names; `None` for one that is not to Google's or Azure's API.
fn form(text: &str) -> Option<String> {
    let (method, rest) = text.split_once(' ')?;
    let address = rest.split(['?', ' ']).next()?.to_ascii_lowercase();
    let path = &address[address.find("/subscriptions/").or_else(|| address.find("/projects/"))?..];
    let named = [
        "disks",
        "family",
        "firewalls",
        "images",
        "instances",
        "locations",
        "offers",
        "operations",
        "projects",
        "publishers",
        "regions",
        "resourcegroups",
        "skus",
        "subscriptions",
        "zones",
    ];
    let mut before = "";
    let segments = path.split('/').map(|segment| {
        let shown = if named.contains(&before) { "*" } else { segment };
        before = segment;
        shown
    });
    Some(format!("{method} {}", segments.collect::<Vec<_>>().join("/")))
}

/// Writes a request as `POST https://…/? &Action=…&Version=…`.
fn text(request: &Request) -> String {
    let pairs = |pairs: &[(String, String)]| {
        pairs.iter().map(|(name, value)| format!("&{name}={value}")).collect::<Vec<_>>().concat()
    };
    let body = match &request.body {
        Some(Body::Form(form)) => pairs(form),
        Some(Body::Json(body)) => body.to_string(),
        None => String::new(),
    };
    format!("{} {}? {} {body}", request.method, request.url, pairs(&request.query))
}

#[async_trait]
impl Wire for Recorded {
    async fn send(&self, request: &Request) -> Result<Response, WireError> {
        let text = text(request);
        let form = form(&text);
        let shown = SHOWN.iter().flat_map(|shown| shown.lines()).any(|line| self::form(line) == form);
        assert!(shown || form.is_none(), "no snapshot shows a request like {form:?}: {text}");
        self.asked.lock().unwrap().push(text.clone());
        let mut rules = self.rules.lock().unwrap();
        let rule = rules.iter_mut().find(|(words, _)| has(&text, words));
        let (_, answers) = rule.unwrap_or_else(|| panic!("nobody recorded an answer to {text}"));
        let next = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        Ok(next.unwrap())
    }
}

fn answer(status: u16, body: impl Into<String>) -> Response {
    Response { status, headers: vec![], body: body.into().into_bytes() }
}

fn ok(body: impl Into<String>) -> Response {
    answer(200, body)
}

/// Two hours before the leases of these tests end: some clouds take no longer ones.
#[derive(Debug)]
struct Soon;

impl Clock for Soon {
    fn now(&self) -> jiff::Timestamp {
        "2126-05-06T10:00:00Z".parse().unwrap()
    }
}

/// Connects an adapter at its vendor's own address, as a user would.
fn connect(adapter: &str, wire: &Arc<Recorded>) -> Box<dyn Provider> {
    connect_with(adapter, wire, &Value::Null)
}

/// Connects with keys of a spec; `null` for the usual ones.
fn connect_with(adapter: &str, wire: &Arc<Recorded>, given: &Value) -> Box<dyn Provider> {
    let (vars, keys): (&[&str], _) = match adapter {
        "aws" => (&["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"], json!({"region": "us-east-1"})),
        "azure" => (
            &["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"],
            json!({"subscription": "00000000-0000-0000-0000-000000000000"}),
        ),
        _ => (&["CLOUDSDK_AUTH_ACCESS_TOKEN"], json!({"project": "my-project"})),
    };
    let vars: BTreeMap<String, String> =
        vars.iter().map(|name| ((*name).to_owned(), "test".to_owned())).collect();
    let world = World::fixed(Arc::new(Soon), vars, "/".into());
    let wire: Arc<dyn Wire> = Arc::<Recorded>::clone(wire);
    let keys = if given.is_null() { &keys } else { given };
    (super::by_name(adapter).unwrap().connect)(&world, keys, Link::Wire(wire)).unwrap()
}

/// The label that the recorded lane has.
fn label() -> Label {
    Label { lane: "demo".to_owned(), lineage: Lineage::fixed("0f3c9a") }
}

fn request(sku: &'static str, region: &'static str) -> CreateRequest {
    CreateRequest {
        label: label(),
        sku: Sku::fixed(sku),
        region: Region::fixed(region),
        image: "debian-13".to_owned(),
        disk_bytes: 50_000_000_000,
        kvm: true,
        user_data: "#cloud-config\n".to_owned(),
        expires_at: "2126-05-06T12:00:00Z".parse().unwrap(),
        fingerprint: Fingerprint(Digest::of(b"wanted")),
        token: ClientToken::fixed("01j0000000000000000000aaaa"),
        allow_from: vec!["203.0.113.7/32".to_owned()],
    }
}

fn kind(error: &ProviderError) -> &'static str {
    match error {
        ProviderError::Auth { .. } => "auth",
        ProviderError::Rejected { .. } => "rejected",
        ProviderError::Capacity { .. } => "capacity",
        ProviderError::Quota { .. } => "quota",
        ProviderError::Transient { .. } => "transient",
        ProviderError::Ambiguous { .. } => "ambiguous",
        ProviderError::Unavailable { .. } => "unavailable",
    }
}

/// What an error has to be, and the words that it has to hold.
#[track_caller]
fn expect<T: std::fmt::Debug>(result: Result<T, ProviderError>, wanted: &str, words: &str) {
    let error = result.unwrap_err();
    let shown = error.to_string();
    assert_eq!(kind(&error), wanted, "{shown}");
    for word in words.split('|') {
        assert!(shown.contains(word), "{word:?} is not in {shown:?}");
    }
}

/// Reads the lines of a file of errors.
fn reported(text: &str) -> Vec<(u16, Value)> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .map(|line: Value| (u16::try_from(line["status"].as_u64().unwrap()).unwrap(), line))
        .collect()
}

/// What each error means, by its code: of what kind it is, and what its message holds.
type Meanings = [(&'static str, &'static str, &'static str)];

#[track_caller]
fn meaning<'a>(meanings: &'a Meanings, line: &str) -> &'a (&'static str, &'static str, &'static str) {
    meanings.iter().find(|(code, ..)| line.contains(code)).unwrap_or_else(|| panic!("what is {line}?"))
}

mod aws {
    use super::*;

    const TAGS: [(&str, &str); 4] = [
        ("managed-by", "lane"),
        ("lane", "demo"),
        ("lineage", "0f3c9a"),
        ("expires", "2026-11-23T17:00:00Z"),
    ];

    fn rules_of_one_region(instances: impl Into<String>) -> [(&'static str, Vec<Response>); 3] {
        [
            ("&Action=DescribeRegions", vec![ok(kept!("aws/regions.xml"))]),
            ("us-east-1 &Action=DescribeInstances", vec![ok(instances)]),
            ("eu-central-1 &Action=DescribeInstances", vec![ok(kept!("aws/instances_none.xml"))]),
        ]
    }

    /// Puts a lane's tags beside those that a thing was recorded with.
    fn tagged(xml: &str) -> String {
        let item = |(key, value)| format!("<item><key>{key}</key><value>{value}</value></item>");
        let ours = TAGS.map(item).concat();
        xml.replace("<tagSet>", &format!("<tagSet>{ours}"))
    }

    /// The recorded groups have no tags at all.
    fn groups_of_a_lane() -> String {
        let end = "</ipPermissionsEgress>";
        tagged(&kept!("aws/groups.xml").replace(end, &format!("{end}<tagSet></tagSet>")))
    }

    /// Writes the text of a document in character references; it means the same.
    fn referenced(xml: &str) -> String {
        let (mut out, mut inside) = (String::new(), false);
        for (at, letter) in xml.chars().enumerate() {
            inside = (inside || letter == '<') && letter != '>';
            match u32::from(letter) {
                code if !inside && letter.is_alphanumeric() && at % 2 == 0 => {
                    let _ = write!(out, "&#{code};");
                }
                code if !inside && letter.is_alphanumeric() => {
                    let _ = write!(out, "&#x{code:X};");
                }
                _ => out.push(letter),
            }
        }
        out
    }

    async fn found(instances: impl Into<String>) -> Vec<Host> {
        let wire = Recorded::new(rules_of_one_region(instances));
        let found = connect("aws", &wire).find(&Selector::Owned).await.unwrap();
        // Two of the four regions are not opted in, and would answer with an error.
        assert_eq!(wire.asked("&Action=DescribeInstances").len(), 2);
        found
    }

    #[tokio::test(start_paused = true)]
    async fn a_lanes_instance_is_read_in_every_field() {
        let expected = Host {
            id: HostId::fixed("us-east-1/i-b6b5ff55c5546191e"),
            label: label(),
            status: HostStatus::Running,
            address: Some("54.214.75.239".parse().unwrap()),
            ssh_port: 22,
            sku: Sku::fixed("m8i.xlarge"),
            region: Region::fixed("us-east-1"),
            fingerprint: None,
            created_at: Some("2026-11-23T15:16:03Z".parse().unwrap()),
            expires_at: Some("2026-11-23T17:00:00Z".parse().unwrap()),
        };
        let recorded = kept!("aws/instance_of_a_lane.xml");
        let expected = [expected];
        assert_eq!(found(recorded).await, expected);
        assert_eq!(found(referenced(recorded)).await, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn an_instance_without_our_tags_is_no_host() {
        let (running, stopped) = (kept!("aws/instance_running.xml"), kept!("aws/instances_stopped.xml"));
        assert_eq!(found(running).await, []);
        assert_eq!(found(stopped).await, []);

        let host = &found(tagged(running)).await[0];
        assert_eq!((host.id.as_str(), host.status), ("us-east-1/i-c72af2f6", HostStatus::Running));
        assert_eq!((host.sku.as_str(), host.address), ("t2.micro", "3.87.216.170".parse().ok()));
        assert_eq!(host.created_at, "2020-08-12T14:11:40Z".parse().ok());
        // The other one's list of tags is empty.
        let hosts = found(tagged(stopped)).await;
        assert_eq!(hosts.len(), 1);
        assert_eq!((hosts[0].id.as_str(), hosts[0].status), ("us-east-1/i-8474834a", HostStatus::Stopped));
        let expires_at = "2026-11-23T17:00:00Z".parse().ok();
        assert_eq!((hosts[0].address, hosts[0].expires_at), ("1.2.3.5".parse().ok(), expires_at));
    }

    #[tokio::test(start_paused = true)]
    async fn a_terminated_instance_is_asked_not_to_be_listed() {
        let wire = Recorded::new([
            ("&Action=DescribeRegions", vec![ok(kept!("aws/regions.xml"))]),
            ("&Action=DescribeInstances =terminated", vec![ok(kept!("aws/instance_terminated.xml"))]),
            ("&Action=DescribeInstances =instance-state-name", vec![ok(kept!("aws/instances_none.xml"))]),
            ("&Action=DescribeInstances", vec![ok(kept!("aws/instance_terminated.xml"))]),
        ]);
        assert_eq!(connect("aws", &wire).find(&Selector::Label(label())).await.unwrap(), []);
    }

    /// What `requests_aws` does not show, as its emulator has one page, one kind of image, and takes every request.
    #[tokio::test(start_paused = true)]
    async fn every_other_request_is_in_a_snapshot() {
        let (image, none) = (
            || {
                ok(
                    "<DescribeImagesResponse><imagesSet><item><imageId>ami-1</imageId></item></imagesSet></DescribeImagesResponse>",
                )
            },
            |set: &str| ok(format!("<Response><{set}/></Response>")),
        );
        let page = |set: &str| ok(format!("<Response><{set}/><nextToken>more</nextToken></Response>"));
        let refused = answer(
            400,
            "<Response><Errors><Error><Code>InvalidParameterCombination</Code></Error></Errors></Response>",
        );
        let quota = r#"{"Quota": {"QuotaName": "All Standard Spot Instance Requests", "Value": 64.0}}"#;
        let types = "<Response><instanceTypeSet><item><vCpuInfo><defaultVCpus>64</defaultVCpus></vCpuInfo></item></instanceTypeSet></Response>";
        let wire = Recorded::new([
            ("&Action=DescribeImages", vec![image()]),
            ("&Action=DescribeInstances &NextToken=more", vec![none("reservationSet")]),
            ("&Action=DescribeInstances", vec![page("reservationSet")]),
            ("&Action=DescribeVolumes &NextToken=more", vec![none("volumeSet")]),
            ("&Action=DescribeVolumes", vec![page("volumeSet")]),
            ("&Action=DescribeNetworkInterfaces &NextToken=more", vec![none("networkInterfaceSet")]),
            ("&Action=DescribeNetworkInterfaces", vec![page("networkInterfaceSet")]),
            ("&Action=DescribeSecurityGroups &NextToken=more", vec![none("securityGroupInfo")]),
            ("&Action=DescribeSecurityGroups", vec![page("securityGroupInfo")]),
            ("&Action=DeleteNetworkInterface", vec![ok("<Response><return>true</return></Response>")]),
            ("&Action=GetConsoleOutput &Latest=true", vec![refused]),
            ("&Action=GetConsoleOutput", vec![ok("<Response><output>aGVsbG8=</output></Response>")]),
            ("&Action=DescribeInstanceTypes", vec![ok(types)]),
            ("QuotaCode", vec![ok(quota)]),
        ]);
        let keys = json!({"region": "eu-central-1", "regions": ["eu-central-1"], "spot": true});
        let provider = connect_with("aws", &wire, &keys);
        let (metal, region) = (Sku::fixed("m7g.metal"), Region::fixed("eu-central-1"));
        for plain in ["ubuntu-24.04", "ubuntu-22.04", "debian-12", "debian-13"] {
            provider.resolve_image(plain, &metal, &region).await.unwrap();
        }
        let host = HostId::fixed("eu-central-1/i-1");
        assert_eq!(provider.console_log(&host).await.unwrap().as_deref(), Some("hello"));
        assert_eq!(provider.residue(&Selector::Owned).await.unwrap(), []);
        provider.destroy(&HostId::fixed("eu-central-1/eni-1")).await.unwrap();
        assert_eq!(provider.quotas(&metal, &region).await.unwrap().len(), 1);
        let group =
            making(answer(400, kept!("aws/group_duplicate.xml")), ok(kept!("aws/instance_started.xml")));
        let elsewhere = CreateRequest {
            allow_from: vec!["2001:db8::/64".to_owned()],
            ..request("m8i.xlarge", "us-east-1")
        };
        connect("aws", &group).create(&elsewhere).await.unwrap();
        let changes = group.asked("SecurityGroupIngress&");
        let full = making(ok(kept!("aws/group_made.xml")), no_room());
        expect(create(&full).await, "capacity", "");
        let all = [wire.asked(""), changes, full.asked("DescribeSubnets")].concat();
        let shown = all.join("\n\n").replace('&', "\n  ");
        let shown = shown.lines().map(str::trim_end).collect::<Vec<_>>().join("\n");
        insta::with_settings!({snapshot_path => "../sim/snapshots", prepend_module_to_snapshot => false, omit_expression => true}, {
            insta::assert_snapshot!("lookups_aws", shown);
        });
    }

    /// Each action that the adapter names, so that a new one cannot be sent unseen.
    #[test]
    fn every_action_is_in_a_snapshot() {
        let source = include_str!("adapters/aws.rs").split("#[cfg(test)]").next().unwrap();
        let shown = [
            include_str!("../sim/snapshots/requests_aws.snap"),
            include_str!("../sim/snapshots/lookups_aws.snap"),
        ]
        .concat();
        let verbs =
            ["Authorize", "Create", "Delete", "Describe", "Get", "Modify", "Revoke", "Run", "Terminate"];
        let actions: Vec<&str> = source
            .split('"')
            .filter(|text| text.chars().all(char::is_alphabetic))
            .filter(|text| verbs.iter().any(|verb| text.starts_with(verb) && text.len() > verb.len()))
            .filter(|text| !text.ends_with("Result"))
            .collect();
        assert!(actions.len() > 15, "{actions:?}");
        for action in actions {
            assert!(shown.contains(&format!("Action={action}\n")), "{action} is in no snapshot");
        }
    }

    const SUBNETS: &str = "<Response><subnetSet>\
        <item><subnetId>subnet-2</subnetId><availabilityZone>us-east-1b</availabilityZone></item>\
        <item><subnetId>subnet-1</subnetId><availabilityZone>us-east-1a</availabilityZone></item>\
        </subnetSet></Response>";

    fn no_room() -> Response {
        let error = "<Error><Code>InsufficientInstanceCapacity</Code><Message>No room.</Message></Error>";
        answer(500, format!("<Response><Errors>{error}</Errors></Response>"))
    }

    #[tokio::test(start_paused = true)]
    async fn where_a_zone_has_no_room_the_spec_may_name_another_one() {
        let wire = making(ok(kept!("aws/group_made.xml")), no_room());
        expect(create(&wire).await, "capacity", "`subnet`|: us-east-1a is subnet-1, us-east-1b is subnet-2");
        assert_eq!(wire.asked("&Action=RunInstances").len(), 1);
        // Nobody may look, and the refusal stands all the same.
        let wire = making(ok(kept!("aws/group_made.xml")), no_room());
        wire.first("&Action=DescribeSubnets", answer(403, ""));
        expect(create(&wire).await, "capacity", "InsufficientInstanceCapacity: No room.");
    }

    const REVOKED: &str =
        "<RevokeSecurityGroupIngressResponse><return>true</return></RevokeSecurityGroupIngressResponse>";

    fn making(group: Response, started: Response) -> Arc<Recorded> {
        Recorded::new([
            ("&Action=DescribeImages", vec![ok(kept!("aws/images.xml"))]),
            ("&Action=DescribeVpcs", vec![ok(kept!("aws/vpc_default.xml"))]),
            ("&Action=CreateSecurityGroup &VpcId=vpc-33a6f38d11d033fa0", vec![group]),
            ("&Action=DescribeSecurityGroups", vec![ok(groups_of_a_lane())]),
            ("&Action=AuthorizeSecurityGroupIngress", vec![ok(kept!("aws/group_admits.xml"))]),
            ("&Action=RevokeSecurityGroupIngress", vec![ok(REVOKED)]),
            ("&Action=RunInstances", vec![started]),
            ("&Action=DescribeSubnets", vec![ok(SUBNETS)]),
        ])
    }

    async fn create(wire: &Arc<Recorded>) -> Result<HostId, ProviderError> {
        connect("aws", wire).create(&request("m8i.xlarge", "us-east-1")).await
    }

    #[tokio::test(start_paused = true)]
    async fn an_instance_is_started_from_the_newest_image_behind_its_group() {
        let wire = making(ok(kept!("aws/group_made.xml")), ok(kept!("aws/instance_started.xml")));
        assert_eq!(create(&wire).await.unwrap().as_str(), "us-east-1/i-2ba64342");
        let run = "&Action=RunInstances &ImageId=ami-57ba933a& &BlockDeviceMapping.1.DeviceName=/dev/sda1&";
        let run = format!("{run} &NetworkInterface.1.SecurityGroupId.1=sg-390205f4c0e77ff57&");
        assert_eq!(wire.asked(&run).len(), 1, "{:?}", wire.asked("&Action=RunInstances"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_of_an_earlier_try_is_taken_and_one_of_others_is_not() {
        let duplicate = || answer(400, kept!("aws/group_duplicate.xml"));
        let wire = making(duplicate(), ok(kept!("aws/instance_started.xml")));
        create(&wire).await.unwrap();
        assert_eq!(
            wire.asked("&Action=RunInstances &NetworkInterface.1.SecurityGroupId.1=sg-80f755ef&").len(),
            1
        );
        // It admitted everybody; the rules beside those of SSH are nobody's of ours.
        let admits = |action: &str, network: &str| {
            let words = format!("&Action={action} &GroupId=sg-80f755ef& .IpRanges.1.CidrIp={network}");
            (wire.asked(&words).len(), wire.asked(&format!("&Action={action}")).len())
        };
        assert_eq!(admits("AuthorizeSecurityGroupIngress", "203.0.113.7/32"), (1, 1));
        assert_eq!(admits("RevokeSecurityGroupIngress", "0.0.0.0/0"), (1, 1));

        let wire = making(duplicate(), ok(kept!("aws/instance_started.xml")));
        let others = VecDeque::from([ok(kept!("aws/groups.xml"))]);
        wire.rules.lock().unwrap()[3].1 = others;
        expect(create(&wire).await, "rejected", "aws|lane-demo-0f3c9a|stands in the way");
        assert_eq!(wire.asked("&Action=RunInstances"), Vec::<String>::new());
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_that_is_not_known_everywhere_yet_is_waited_for() {
        let unknown = || vec![answer(400, kept!("aws/group_not_found.xml"))];
        for (rule, runs) in [(4, 0), (6, 1)] {
            let wire = making(ok(kept!("aws/group_made.xml")), ok(kept!("aws/instance_started.xml")));
            wire.rules.lock().unwrap()[rule].1 = unknown().into();
            expect(create(&wire).await, "transient", "aws|InvalidGroup.NotFound");
            assert_eq!(wire.asked("&Action=RunInstances").len(), runs);
        }
        let duplicate = answer(400, kept!("aws/group_duplicate.xml"));
        let wire = making(duplicate, ok(kept!("aws/instance_started.xml")));
        let none =
            ok("<DescribeSecurityGroupsResponse><securityGroupInfo/></DescribeSecurityGroupsResponse>");
        wire.rules.lock().unwrap()[3].1 = vec![none].into();
        expect(create(&wire).await, "transient", "aws|lane-demo-0f3c9a is there already");
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_was_used_otherwise_leaves_it_open_what_there_is() {
        let wire =
            making(ok(kept!("aws/group_made.xml")), answer(400, kept!("aws/token_used_otherwise.xml")));
        let words = "IdempotentParameterMismatch: Arguments on this|5dabd361-d2e0-4f79-937d-4b2852a3b719";
        expect(create(&wire).await, "ambiguous", words);
        assert_eq!(wire.asked("&Action=RunInstances").len(), 1);
    }

    fn reported_code(code: &str) -> Response {
        let lines = reported(kept!("aws/reported.jsonl"));
        let (status, line) =
            lines.iter().find(|(_, line)| line["body"].as_str().unwrap().contains(code)).unwrap();
        answer(*status, line["body"].as_str().unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn destroy_takes_the_group_too_and_waits_for_nobody() {
        let wire = Recorded::new([
            ("&Action=TerminateInstances", vec![ok(kept!("aws/instance_terminates.xml"))]),
            ("&Action=DescribeInstances", vec![ok(kept!("aws/instance_of_a_lane.xml"))]),
            ("&Action=DescribeSecurityGroups =tag:lineage =0f3c9a", vec![ok(groups_of_a_lane())]),
            ("&Action=DeleteSecurityGroup", vec![reported_code("DependencyViolation")]),
        ]);
        let id = HostId::fixed("us-east-1/i-b6b5ff55c5546191e");
        connect("aws", &wire).destroy(&id).await.unwrap();
        assert_eq!(wire.asked("&Action=TerminateInstances &InstanceId.1=i-b6b5ff55c5546191e").len(), 1);
        assert_eq!(wire.asked("&Action=DeleteSecurityGroup &GroupId=sg-80f755ef").len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn an_instance_that_lane_did_not_make_is_never_terminated() {
        let wire = Recorded::new([
            ("&Action=TerminateInstances", vec![ok(kept!("aws/instance_terminates.xml"))]),
            ("&Action=DescribeInstances", vec![ok(kept!("aws/instance_running.xml"))]),
        ]);
        let ended = connect("aws", &wire).destroy(&HostId::fixed("us-east-1/i-c72af2f6")).await;
        expect(ended, "rejected", "aws|i-c72af2f6 in us-east-1|managed-by=lane");
        assert_eq!(wire.asked("&Action=TerminateInstances"), Vec::<String>::new());
    }

    #[tokio::test(start_paused = true)]
    async fn an_instance_that_ended_by_itself_says_why() {
        let id = HostId::fixed("us-east-1/i-b6b5ff55c5546191e");
        let terminated = kept!("aws/instance_terminated.xml");
        let full = terminated
            .replace("Client.UserInitiatedShutdown: User initiated shutdown", "No room")
            .replace("Client.UserInitiatedShutdown", "Server.InsufficientInstanceCapacity");
        for (answered, fate) in [
            (ok(terminated), Some("Client.UserInitiatedShutdown: User initiated shutdown")),
            (ok(full), Some("Server.InsufficientInstanceCapacity: No room")),
            (ok(kept!("aws/instance_of_a_lane.xml")), None),
            (answer(400, kept!("aws/instance_not_found.xml")), None),
        ] {
            let wire = Recorded::new([("&Action=DescribeInstances", vec![answered])]);
            let told = connect("aws", &wire).fate(&id).await.unwrap();
            assert_eq!(told, fate.map(|fate| format!("i-b6b5ff55c5546191e is terminated: {fate}")));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_scope_is_the_account_and_is_asked_for_once() {
        let who = "<GetCallerIdentityResponse><GetCallerIdentityResult><Account>123456789012</Account></GetCallerIdentityResult></GetCallerIdentityResponse>";
        let wire = Recorded::new([("https://sts.us-east-1.amazonaws.com/ GetCallerIdentity", vec![ok(who)])]);
        let provider = connect("aws", &wire);
        for _ in 0..2 {
            assert_eq!(provider.scope().await.unwrap().as_deref(), Some("account 123456789012"));
        }
        assert_eq!(wire.asked("").len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_of_somebody_else_is_no_listing() {
        let page = "<html xmlns=\"http://www.w3.org/1999/xhtml\"><body>log in<reservationSet/><regionInfo/></body><regionInfo/><reservationSet/></html>";
        for body in ["", "{}", page, "<DescribeInstancesResponse/>"] {
            let wire = Recorded::new([("&Action=Describe", vec![ok(body)])]);
            expect(connect("aws", &wire).find(&Selector::Owned).await, "ambiguous", "aws|listing");
            let wire = Recorded::new(rules_of_one_region(body));
            expect(connect("aws", &wire).find(&Selector::Owned).await, "ambiguous", "aws|listing");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_specs_regions_alone_are_listed_and_nothing_is_made_elsewhere() {
        let wire = Recorded::new([(
            "us-east-1 &Action=DescribeInstances",
            vec![ok(kept!("aws/instance_of_a_lane.xml"))],
        )]);
        let keys = json!({"region": "eu-central-1", "regions": ["us-east-1"]});
        let provider = connect_with("aws", &wire, &keys);
        assert_eq!(provider.find(&Selector::Owned).await.unwrap().len(), 1);
        let made = provider.create(&request("m8i.xlarge", "eu-central-1")).await;
        expect(made, "rejected", "eu-central-1 is not among the spec's `regions`");
        assert_eq!(wire.asked("").len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_there_is_destroyed() {
        let wire = Recorded::new([
            ("Instances", vec![answer(400, kept!("aws/instance_not_found.xml"))]),
            (
                "&Action=DeleteSecurityGroup &GroupId=sg-390205f4c0e77ff57",
                vec![answer(400, kept!("aws/group_not_found.xml"))],
            ),
            ("&Action=DeleteSecurityGroup", vec![ok(kept!("aws/group_deleted.xml"))]),
            ("&Action=GetConsoleOutput", vec![answer(400, kept!("aws/instance_not_found.xml"))]),
        ]);
        let provider = connect("aws", &wire);
        for own in ["i-0123456789abcdef0", "sg-390205f4c0e77ff57", "sg-80f755ef"] {
            provider.destroy(&HostId::new(format!("us-east-1/{own}"))).await.unwrap();
        }
        let id = HostId::fixed("us-east-1/i-0123456789abcdef0");
        assert_eq!(provider.console_log(&id).await.unwrap(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn the_lease_of_what_is_not_there_cannot_be_moved() {
        let wire =
            Recorded::new([("&Action=CreateTags", vec![answer(400, kept!("aws/instance_not_found.xml"))])]);
        let id = HostId::fixed("us-east-1/i-0123456789abcdef0");
        let moved = connect("aws", &wire).set_expiry(&id, "2126-05-06T12:00:00Z".parse().unwrap()).await;
        expect(moved, "rejected", "aws: moving the lease was refused: InvalidInstanceID.NotFound");
    }

    #[tokio::test(start_paused = true)]
    async fn a_console_is_decoded() {
        let id = HostId::fixed("us-east-1/i-b6b5ff55c5546191e");
        // Base64 may come in lines.
        let broken = kept!("aws/console.xml").replace("TGludXgg", "TGlu\n  dXgg");
        for (xml, begins) in [
            (kept!("aws/console_short.xml"), "Test String"),
            (kept!("aws/console.xml"), "Linux version 2.6.16-xenU"),
            (broken.as_str(), "Linux version 2.6.16-xenU"),
        ] {
            let wire = Recorded::new([("&Action=GetConsoleOutput", vec![ok(xml)])]);
            let text = connect("aws", &wire).console_log(&id).await.unwrap().unwrap();
            assert!(text.starts_with(begins), "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_names_the_host_that_it_belongs_to() {
        // They hang on instances that are not among ours: those must not go with them.
        let others = left_beside(kept!("aws/instances_none.xml")).await;
        let shown: Vec<String> = others.iter().map(|left| format!("{left} of {}", left.host)).collect();
        assert_eq!(
            shown,
            [
                "volume vol-eb1ba383e7c0b3db6 (60 GB in us-east-1) of us-east-1/vol-eb1ba383e7c0b3db6",
                "network interface eni-2b986f38 (us-east-1) of us-east-1/eni-2b986f38",
                "security group sg-80f755ef (free of charge, in us-east-1) of us-east-1/sg-80f755ef",
            ]
        );
        let ours = left_beside(kept!("aws/instance_of_a_lane.xml")).await;
        let hosts: Vec<&str> = ours.iter().map(|left| left.host.as_str()).collect();
        let own = "us-east-1/i-b6b5ff55c5546191e";
        assert_eq!(hosts, [own, "us-east-1/eni-2b986f38", own]);
        for left in &ours {
            assert_eq!(left.label, Some(label()), "{left}");
            assert_eq!(left.expires_at, "2026-11-23T17:00:00Z".parse().ok(), "{left}");
        }
        assert_eq!(ours[0].created_at, "2026-11-23T15:16:03Z".parse().ok());
    }

    async fn left_beside(instances: &str) -> Vec<crate::provider::Residue> {
        let [regions, instances, elsewhere] = rules_of_one_region(instances);
        let nothing =
            ok("<DescribeResponse><volumeSet/><networkInterfaceSet/><securityGroupInfo/></DescribeResponse>");
        let wire = Recorded::new([
            regions,
            instances,
            elsewhere,
            ("us-east-1 &Action=DescribeVolumes", vec![ok(kept!("aws/volumes.xml"))]),
            (
                "us-east-1 &Action=DescribeNetworkInterfaces",
                vec![ok(tagged(&kept!("aws/interfaces.xml").replace("<tagSet/>", "<tagSet></tagSet>")))],
            ),
            ("us-east-1 &Action=DescribeSecurityGroups", vec![ok(groups_of_a_lane())]),
            ("eu-central-1", vec![nothing]),
        ]);
        connect("aws", &wire).residue(&Selector::Label(label())).await.unwrap()
    }

    const MEANINGS: &Meanings = &[
        (
            "AuthFailure",
            "auth",
            "AuthFailure: the access credentials|aws sts get-caller-identity|request 0000",
        ),
        ("UnauthorizedOperation", "auth", "UnauthorizedOperation: |a policy has to allow"),
        // Amazon answers with 500, which says of others that nobody knows what was done.
        ("InsufficientInstanceCapacity", "capacity", "us-east-1d and us-east-1e|try another region or `sku`"),
        ("VcpuLimitExceeded", "quota", "the limit of 16|L-1216C47A"),
        ("RequestLimitExceeded", "transient", "RequestLimitExceeded: "),
        ("DependencyViolation", "transient", "DependencyViolation: |sg-80f755ef"),
    ];

    #[tokio::test(start_paused = true)]
    async fn each_error_has_its_kind_when_listing_and_when_creating() {
        for (status, line) in reported(kept!("aws/reported.jsonl")) {
            let body = line["body"].as_str().unwrap();
            let (_, kind, words) = meaning(MEANINGS, body);
            let words = &format!("aws: |{words}");
            let refused = || answer(status, body);
            let [regions, ..] = rules_of_one_region("");
            let wire = Recorded::new([regions, ("&Action=DescribeInstances", vec![refused()])]);
            expect(connect("aws", &wire).find(&Selector::Owned).await, kind, words);
            let wire = making(ok(kept!("aws/group_made.xml")), refused());
            expect(create(&wire).await, kind, words);
            assert_eq!(wire.asked("&Action=RunInstances").len(), 1, "{body}");
        }
        // A code that the adapter does not know.
        let wire = making(ok(kept!("aws/group_made.xml")), answer(400, kept!("aws/key_pair_not_found.xml")));
        expect(create(&wire).await, "rejected", "InvalidKeyPair.NotFound: The key pair 'test-key-pair'");
    }

    #[tokio::test(start_paused = true)]
    async fn an_interface_in_use_is_for_later_and_other_wrong_values_are_refused() {
        let said = |code: &str, message: &str| {
            let error = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
            answer(400, format!("<Response><Errors>{error}</Errors></Response>"))
        };
        let in_use = "Network interface 'eni-1' is currently in use.";
        for (code, message, kind) in [
            ("InvalidParameterValue", in_use, "transient"),
            ("InvalidNetworkInterface.InUse", "Interface: [eni-1] in use.", "transient"),
            ("InvalidParameterValue", "Value (eni-1) for parameter is invalid.", "rejected"),
        ] {
            let wire = Recorded::new([("&Action=DeleteNetworkInterface", vec![said(code, message)])]);
            let refused = connect("aws", &wire).destroy(&HostId::fixed("us-east-1/eni-1")).await;
            expect(refused, kind, message);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_region_that_refuses_leaves_no_listing() {
        let wire = Recorded::new([
            ("&Action=DescribeRegions", vec![ok(kept!("aws/regions.xml"))]),
            ("us-east-1 &Action=DescribeInstances", vec![ok(kept!("aws/instance_of_a_lane.xml"))]),
            ("eu-central-1", vec![reported_code("UnauthorizedOperation")]),
        ]);
        expect(connect("aws", &wire).find(&Selector::Owned).await, "auth", "UnauthorizedOperation");
    }
}

mod azure {
    use super::*;
    use crate::world::SystemClock;

    const LOGIN: &str = "https://login.microsoftonline.com/test/oauth2/v2.0/token";

    fn token() -> (&'static str, Vec<Response>) {
        (LOGIN, vec![ok("{\"access_token\": \"test\", \"expires_in\": 3599}")])
    }

    /// Returns the answers of a conversation.
    fn told(text: &str) -> Vec<Response> {
        let one = |line: &str| {
            let told: Value = serde_json::from_str(line).unwrap();
            let told = &told["response"];
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            let headers = told["headers"].as_object().unwrap();
            Response {
                status: u16::try_from(told["status"].as_u64().unwrap()).unwrap(),
                headers: headers.iter().map(|(name, value)| (name.clone(), text(value))).collect(),
                body: if told["body"].is_null() { vec![] } else { told["body"].to_string().into_bytes() },
            }
        };
        text.lines().map(one).collect()
    }

    fn part(text: &str, at: usize) -> Vec<Response> {
        vec![told(text)[at].clone()]
    }

    fn our_tags() -> Value {
        let ours = [("managed-by", "lane"), ("lane", "demo"), ("lineage", "0f3c9a")];
        let mut tags: BTreeMap<&str, &str> = ours.into();
        tags.insert("expires", "2026-11-23T17:00:00Z");
        json!(tags)
    }

    fn groups(ours: bool) -> Value {
        let mut groups: Value = serde_json::from_str(kept!("azure/groups.json")).unwrap();
        if ours {
            groups["value"][0]["tags"] = our_tags();
        }
        groups
    }

    fn said(body: &Value) -> Vec<Response> {
        vec![ok(body.to_string())]
    }

    #[tokio::test(start_paused = true)]
    async fn an_empty_page_may_have_a_successor() {
        let pages = told(kept!("azure/groups_by_tag.jsonl"));
        let listing = |last: Vec<Response>| {
            Recorded::new([
                token(),
                ("skiptoken= IjEhMTA0", vec![pages[1].clone()]),
                ("skiptoken= IjEhNjgh", last),
                ("GET /resources?", said(&json!({"value": []}))),
                ("GET /resourcegroups managed-by", vec![pages[0].clone()]),
            ])
        };
        let wire = listing(vec![pages[2].clone()]);
        assert_eq!(connect("azure", &wire).residue(&Selector::Owned).await.unwrap(), []);
        assert_eq!(wire.asked("/resourcegroups").len(), 3);
        let wire = listing(said(&groups(true)));
        let left = connect("azure", &wire).residue(&Selector::Owned).await.unwrap();
        assert_eq!(
            left.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["resource group miq-misc-eastus (in eastus: empty)"]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_next_page_that_cannot_be_asked_for_is_no_end() {
        let mut page = groups(true);
        page["nextLink"] = "https://elsewhere.example/subscriptions/x/resourcegroups".into();
        let wire = Recorded::new([token(), ("/resourcegroups", said(&page))]);
        let found = connect("azure", &wire).residue(&Selector::Owned).await;
        expect(found, "rejected", "azure|https://elsewhere.example/");
        assert_eq!(wire.asked("elsewhere.example"), Vec::<String>::new());
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_is_read_with_its_view_and_its_address() {
        let mut machine: Value = serde_json::from_str(kept!("azure/machine.json")).unwrap();
        machine["properties"]["instanceView"] =
            serde_json::from_str(kept!("azure/machine_view.json")).unwrap();
        let found = async |ours: bool, machine: &Value| {
            let wire = Recorded::new([
                token(),
                (
                    "/resourceGroups/miq-misc-eastus/ /virtualMachines/host &$expand=instanceView",
                    said(machine),
                ),
                (
                    "/resourceGroups/miq-misc-eastus/ /publicIPAddresses/ip",
                    vec![ok(kept!("azure/address.json"))],
                ),
                ("GET /resourcegroups", said(&groups(ours))),
            ]);
            connect("azure", &wire).find(&Selector::Owned).await.unwrap()
        };
        assert_eq!(found(false, &machine).await, []);
        let hosts = found(true, &machine).await;
        assert_eq!(hosts.len(), 1);
        let host = &hosts[0];
        assert_eq!((host.id.as_str(), &host.label), ("miq-misc-eastus", &label()));
        assert_eq!((host.status, host.address), (HostStatus::Running, "40.78.54.4".parse().ok()));
        assert_eq!((host.sku.as_str(), host.region.as_str()), ("Basic_A0", "eastus"));
        assert_eq!(host.expires_at, "2026-11-23T17:00:00Z".parse().ok());
        // Off and billed.
        let off = machine.to_string().replace("PowerState/running", "PowerState/stopped");
        let off = found(true, &serde_json::from_str(&off).unwrap()).await;
        assert_eq!(off[0].status, HostStatus::Stopped);
    }

    const GROUP: &str = "lane-demo-0f3c9a";

    fn group(place: &str, state: &str) -> Value {
        let mut tags = our_tags();
        tags["created"] = "2026-11-23T15:00:00Z".into();
        json!({"name": GROUP, "location": place, "tags": tags, "properties": {"provisioningState": state}})
    }

    fn machine(state: &str, power: &str) -> Value {
        let mut machine: Value = serde_json::from_str(kept!("azure/machine.json")).unwrap();
        machine["properties"]["provisioningState"] = state.into();
        machine["properties"]["instanceView"] =
            json!({"statuses": [{"code": format!("PowerState/{power}")}]});
        machine["tags"]["fingerprint"] = "of-the-machine".into();
        machine
    }

    fn empty() -> Value {
        json!({"value": []})
    }

    fn not_found() -> Vec<Response> {
        let body = json!({"error": {"code": "ResourceGroupNotFound", "message": format!("Resource group '{GROUP}' could not be found.")}});
        vec![answer(404, body.to_string())]
    }

    /// A lane whose group the listing does not show yet.
    fn hidden(group: &Value, machine: &Value) -> Arc<Recorded> {
        let address = json!({"type": "Microsoft.Network/publicIPAddresses", "name": "ip"});
        Recorded::new([
            token(),
            ("GET /virtualMachines/host", said(machine)),
            ("GET /publicIPAddresses/ip", vec![ok(kept!("azure/address.json"))]),
            ("GET /resources?", said(&json!({"value": [address]}))),
            ("GET /resourcegroups/lane-demo-0f3c9a?", said(group)),
            ("GET /resourcegroups?", said(&empty())),
        ])
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_that_the_listing_hides_is_found_by_its_name() {
        let mut group = group("westus", "Succeeded");
        group["tags"]["fingerprint"] = "of-a-later-try".into();
        let wire = hidden(&group, &machine("Succeeded", "running"));
        let provider = connect("azure", &wire);
        let selector = Selector::Label(label());
        let hosts = provider.find(&selector).await.unwrap();
        assert_eq!((hosts.len(), hosts[0].id.as_str()), (1, GROUP));
        // Of the machine that is there, and not of one that is going to be.
        assert_eq!(hosts[0].fingerprint, Some(Fingerprint(Digest::from_text("of-the-machine"))));
        assert_eq!(hosts[0].expires_at, "2026-11-23T17:00:00Z".parse().ok());

        let left = &provider.residue(&selector).await.unwrap()[0];
        let shown = "resource group lane-demo-0f3c9a (in westus: Microsoft.Network/publicIPAddresses/ip)";
        assert_eq!((left.to_string().as_str(), left.label.as_ref()), (shown, Some(&label())));
        assert_eq!(left.created_at, "2026-11-23T15:00:00Z".parse().ok());
        assert_eq!(left.expires_at, "2026-11-23T17:00:00Z".parse().ok());
        // Others' are not asked for one by one.
        assert!(provider.find(&Selector::Owned).await.unwrap().is_empty());

        let forbidden = answer(403, "{\"error\": {\"code\": \"AuthorizationFailed\", \"message\": \"no\"}}");
        wire.rules.lock().unwrap()[4].1 = [forbidden].into();
        expect(provider.find(&selector).await, "auth", "the role Contributor");
        expect(provider.residue(&selector).await, "auth", "the role Contributor");
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_that_runs_runs_unless_it_is_being_deleted() {
        for (of_group, state, power, expected) in [
            ("Succeeded", "Succeeded", "running", HostStatus::Running),
            // An extension that a policy put on it failed.
            ("Succeeded", "Failed", "running", HostStatus::Running),
            ("Succeeded", "Updating", "running", HostStatus::Running),
            ("Deleting", "Succeeded", "running", HostStatus::Stopped),
            ("Succeeded", "Deleting", "running", HostStatus::Stopped),
            ("Succeeded", "Failed", "starting", HostStatus::Stopped),
            ("Succeeded", "Canceled", "starting", HostStatus::Stopped),
            ("Succeeded", "Creating", "starting", HostStatus::Starting),
            ("Succeeded", "Succeeded", "deallocated", HostStatus::Stopped),
        ] {
            let wire = hidden(&group("westus", of_group), &machine(state, power));
            let hosts = connect("azure", &wire).find(&Selector::Label(label())).await.unwrap();
            assert_eq!(hosts[0].status, expected, "{of_group} {state} {power}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_became_of_an_accepted_machine_is_told_at_once() {
        let made = || vec![told(kept!("azure/machine_made.jsonl"))[0].clone()];
        let seen = |machine: &Value| making(made(), said(machine));
        create(&seen(&machine("Failed", "running"))).await.unwrap();
        let began = tokio::time::Instant::now();
        expect(create(&seen(&machine("Canceled", "starting"))).await, "rejected", "azure|Canceled");
        let mut failed = machine("Failed", "starting");
        let status = json!({"code": "ProvisioningState/failed/TargetDiskBlobAlreadyExists", "level": "Error", "message": "Blob is there."});
        failed["properties"]["instanceView"]["disks"] = json!([{"name": "os", "statuses": [status]}]);
        let words = "TargetDiskBlobAlreadyExists: Blob is there.";
        expect(create(&seen(&failed)).await, "rejected", words);
        let mut trusted = machine("Succeeded", "running");
        trusted["properties"]["securityProfile"]["securityType"] = "TrustedLaunch".into();
        expect(create(&seen(&trusted)).await, "rejected", "TrustedLaunch, which has no /dev/kvm|server-gen1");
        assert!(began.elapsed() < std::time::Duration::from_mins(1), "{:?}", began.elapsed());
        let without = CreateRequest { kvm: false, ..request("Standard_D4s_v3", "westus") };
        connect("azure", &seen(&trusted)).create(&without).await.unwrap();
    }

    /// What a request came to after it was accepted stands in its operation alone, at times.
    #[tokio::test(start_paused = true)]
    async fn what_failed_after_it_was_accepted_is_told_as_its_operation_words_it() {
        let made = || vec![told(kept!("azure/machine_made.jsonl"))[0].clone()];
        let ended = |code: &str, message: &str| {
            let error = json!({"code": code, "message": message});
            ok(json!({"status": "Failed", "error": error}).to_string())
        };
        let failed = |seen: Response, operation: Response| {
            let wire = making(made(), vec![seen]);
            wire.first("GET Microsoft.Compute/locations", operation);
            wire
        };
        let mut silent = machine("Failed", "starting");
        silent["properties"]["instanceView"] = json!({});
        let silent = || ok(silent.to_string());
        for (code, message, kind) in [
            ("AllocationFailed", "We do not have sufficient capacity for the requested VM size.", "capacity"),
            (
                "SkuNotAvailable",
                "The requested size is currently not available in location 'westus'.",
                "capacity",
            ),
            ("QuotaExceeded", "Operation results in exceeding quota limits of Core.", "quota"),
            ("OperationNotAllowed", "This exceeds the approved standardDSv3Family Cores quota.", "quota"),
            ("OSProvisioningClientError", "The user-data is broken.", "rejected"),
        ] {
            let words = &format!("azure: |{code}: {message}");
            expect(create(&failed(silent(), ended(code, message))).await, kind, words);
            let none = not_found().remove(0);
            expect(create(&failed(none, ended(code, message))).await, kind, words);
        }
        // Of an operation that says nothing, and of one at another address, nothing is told but the state.
        let wire = failed(silent(), ok(json!({"status": "Succeeded"}).to_string()));
        expect(create(&wire).await, "rejected", "Failed: the machine could not be made");
        let mut elsewhere = made();
        for (name, value) in &mut elsewhere[0].headers {
            if name == "azure-asyncoperation" {
                *value = "https://management.azure.com.example/operations/1".to_owned();
            }
        }
        let wire = making(elsewhere, vec![silent()]);
        expect(create(&wire).await, "rejected", "Failed: the machine could not be made");
        assert!(wire.asked("example").is_empty(), "a token went elsewhere");

        let network = making(made(), vec![]);
        let refused = ended("PublicIPCountLimitReached", "Cannot create more than 10 public IP addresses.");
        network.first("GET Microsoft.Network/locations", refused);
        let gone = ok(json!({"properties": {"provisioningState": "Failed"}}).to_string());
        network.first("GET /publicIPAddresses/ip?", gone);
        expect(
            create(&network).await,
            "quota",
            "PublicIPCountLimitReached: Cannot create more than 10|Quotas page",
        );
        // What `requests_azure` does not show, as its emulator's operations never fail so late.
        let wire = failed(silent(), ended("AllocationFailed", "No room."));
        expect(create(&wire).await, "capacity", "No room.");
        let all = [wire.asked("/operations/"), network.asked("/operations/")].concat();
        let shown = all.iter().map(|text| text.trim_end_matches(['?', ' '])).collect::<Vec<_>>().join("\n");
        insta::with_settings!({snapshot_path => "../sim/snapshots", prepend_module_to_snapshot => false, omit_expression => true}, {
            insta::assert_snapshot!("lookups_azure", shown);
        });
    }

    /// A create where there is a group already, of which these are the answers, and a machine or none.
    fn making_again(groups: Vec<Response>, seen: Vec<Response>) -> Arc<Recorded> {
        let wire = making(told(kept!("azure/machine_made.jsonl")), seen);
        let mut rules = wire.rules.lock().unwrap();
        rules.insert(0, ("GET /resources?", said(&empty()).into()));
        rules.insert(0, ("DELETE /resourcegroups/", vec![answer(202, "")].into()));
        rules.insert(0, ("GET /resourcegroups/lane-demo-0f3c9a?", groups.into()));
        drop(rules);
        wire
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_that_is_being_deleted_is_waited_for() {
        let deleting = || ok(group("westus", "Deleting").to_string());
        let groups = vec![deleting(), deleting(), not_found().remove(0)];
        let wire = making_again(groups, said(&machine("Succeeded", "running")));
        create(&wire).await.unwrap();
        assert_eq!(wire.asked("PUT /resourcegroups/lane-demo-0f3c9a?").len(), 1);
        let stuck = making_again(vec![deleting()], vec![]);
        expect(create(&stuck).await, "transient", "still being deleted");
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_that_is_elsewhere_goes_first_unless_there_is_a_machine_in_it() {
        let there = || ok(group("East US", "Succeeded").to_string());
        let none = || not_found().remove(0);
        let groups = vec![there(), there(), ok(group("eastus", "Deleting").to_string()), none()];
        let wire = making_again(groups, vec![none(), ok(machine("Succeeded", "running").to_string())]);
        create(&wire).await.unwrap();
        let deleted = wire.asked("/resourcegroups/lane-demo-0f3c9a?");
        let methods: Vec<&str> = deleted.iter().map(|text| text.split(' ').next().unwrap()).collect();
        assert_eq!(methods, ["GET", "GET", "DELETE", "GET", "GET", "PUT"]);

        let wire = making_again(vec![there()], said(&machine("Succeeded", "running")));
        expect(create(&wire).await, "ambiguous", "there is a machine of this lane in East US");
        assert_eq!(wire.asked("DELETE").len() + wire.asked("PUT").len(), 0);

        // The same place, in other words.
        let wire = making_again(
            vec![ok(group("West US", "Succeeded").to_string())],
            said(&machine("Succeeded", "running")),
        );
        create(&wire).await.unwrap();
        let put = wire.asked("PUT /resourcegroups/ \"created\":\"2026-11-23T15:00:00Z\"");
        assert_eq!(
            (put.len(), wire.asked("DELETE").len()),
            (1, 0),
            "{:?}",
            wire.asked("PUT /resourcegroups/")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_not_known_everywhere_yet_is_asked_for_again() {
        let running = said(&machine("Succeeded", "running"));
        let wire = making(told(kept!("azure/machine_made.jsonl")), running);
        let late = [not_found(), not_found(), part(kept!("azure/security_group_made.jsonl"), 0)].concat();
        wire.rules.lock().unwrap()[1].1 = late.into();
        create(&wire).await.unwrap();
        assert_eq!(wire.asked("PUT /networkSecurityGroups/nsg?").len(), 3);
        let wire = making(vec![], vec![]);
        wire.rules.lock().unwrap()[1].1 = not_found().into();
        expect(create(&wire).await, "rejected", "ResourceGroupNotFound");

        expect(create(&making(not_found(), vec![])).await, "transient", "ResourceGroupNotFound");
        let missing = |code: &str, message: &str| {
            let body = json!({"error": {"code": code, "message": message}});
            making(vec![answer(404, body.to_string())], vec![])
        };
        let wire = missing("PlatformImageNotFound", "The platform image is not available.");
        expect(create(&wire).await, "rejected", "PlatformImageNotFound|az vm image list");
        let wire = missing("ResourceNotFound", "The Resource 'Microsoft.Compute/images/mine' was not found.");
        expect(create(&wire).await, "rejected", "images/mine");
    }

    #[tokio::test(start_paused = true)]
    async fn not_everything_that_is_not_allowed_is_a_quota() {
        let body =
            json!({"error": {"code": "OperationNotAllowed", "message": "The VM is marked for deletion."}});
        let wire = making(vec![answer(409, body.to_string())], vec![]);
        expect(create(&wire).await, "rejected", "OperationNotAllowed: The VM is marked for deletion.");
    }

    fn connect_with(
        vars: &[(&str, &str)],
        endpoint: Option<&str>,
        wire: &Arc<Recorded>,
    ) -> Box<dyn Provider> {
        connect_keys(vars, &json!({"endpoint": endpoint}), wire)
    }

    fn connect_keys(vars: &[(&str, &str)], more: &Value, wire: &Arc<Recorded>) -> Box<dyn Provider> {
        let vars = vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let world = World::fixed(Arc::new(SystemClock), vars, "/".into());
        let mut keys = json!({"subscription": "00000000-0000-0000-0000-000000000000"});
        keys.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let wire: Arc<dyn Wire> = Arc::<Recorded>::clone(wire);
        (super::super::by_name("azure").unwrap().connect)(&world, &keys, Link::Wire(wire)).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_spot_machine_that_is_gone_without_its_group_was_taken_back() {
        let fate = async |spot: bool, state: &str, machine: Vec<Response>| {
            let wire = Recorded::new([
                token(),
                ("GET /virtualMachines/host", machine),
                ("GET /resourcegroups/", said(&group("westus", state))),
            ]);
            let provider = connect_keys(&PRINCIPAL, &json!({"spot": spot}), &wire);
            provider.fate(&HostId::fixed(GROUP)).await.unwrap()
        };
        let told = fate(true, "Succeeded", not_found()).await.unwrap();
        assert!(told.contains(GROUP) && told.contains("takes spot machines back"), "{told}");
        assert_eq!(fate(false, "Succeeded", not_found()).await, None);
        assert_eq!(fate(true, "Deleting", not_found()).await, None);
        assert_eq!(fate(true, "Succeeded", said(&machine("Succeeded", "running"))).await, None);
    }

    /// A token with claims, as the sign-in service gives it.
    fn token_of(claims: &Value) -> Vec<Response> {
        use base64::Engine as _;
        let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(claims.to_string());
        let body = json!({"access_token": format!("e30.{claims}.e30"), "expires_in": "3599"});
        vec![ok(body.to_string())]
    }

    const SUBSCRIPTION: &str = "{\"displayName\": \"Pay-As-You-Go\", \"state\": \"Enabled\"}";
    const PRINCIPAL: [(&str, &str); 3] =
        [("AZURE_TENANT_ID", "test"), ("AZURE_CLIENT_ID", "c"), ("AZURE_CLIENT_SECRET", "s")];

    #[tokio::test(start_paused = true)]
    async fn trouble_with_signing_in_passes_and_a_refusal_does_not() {
        let with = |answers: Vec<Response>| {
            let wire = Recorded::new([(LOGIN, answers), ("GET", vec![ok(SUBSCRIPTION)])]);
            (connect_with(&PRINCIPAL, None, &wire), wire)
        };
        let token = || token_of(&json!({})).remove(0);
        let (provider, wire) = with(vec![answer(503, "<html>"), answer(429, "{}"), token()]);
        provider.whoami().await.unwrap();
        assert_eq!(wire.asked(LOGIN).len(), 3);
        let (provider, _) = with(vec![answer(502, "")]);
        expect(provider.whoami().await, "transient", "the sign-in service refuses: HTTP 502");
        let refusal = "{\"error\": \"invalid_client\", \"error_description\": \"AADSTS7000215: wrong\"}";
        let (provider, wire) = with(vec![answer(401, refusal)]);
        expect(provider.whoami().await, "auth", "HTTP 401: AADSTS7000215: wrong");
        assert_eq!(wire.asked(LOGIN).len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_is_whom_the_token_names_and_each_source_has_its_request() {
        let federated = [("ARM_TENANT_ID", "test"), ("ARM_CLIENT_ID", "c"), ("ARM_OIDC_TOKEN", "jwt")];
        let github = [
            ("AZURE_TENANT_ID", "test"),
            ("AZURE_CLIENT_ID", "c"),
            ("ACTIONS_ID_TOKEN_REQUEST_URL", "https://github.example/token?v=1"),
            ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "t"),
        ];
        let service = [
            ("IDENTITY_ENDPOINT", "http://169.254.255.2/msi"),
            ("IDENTITY_HEADER", "h"),
            ("AZURE_CLIENT_ID", "c"),
        ];
        for (vars, claims, expected, asks) in [
            (
                &PRINCIPAL[..],
                json!({"appid": "app", "oid": "o"}),
                ("app", "AZURE_CLIENT_SECRET"),
                "&client_secret=s",
            ),
            (&federated, json!({"oid": "object"}), ("object", "ARM_OIDC_TOKEN"), "&client_assertion=jwt&"),
            (
                &github,
                json!({"appid": "app"}),
                ("app", "GitHub Actions' token"),
                "&client_assertion=of-github&",
            ),
            (
                &[("AZURE_CLIENT_ID", "c")],
                json!({"unique_name": "me"}),
                ("me", "the identity of this machine"),
                "169.254.169.254 &resource=https://management.azure.com/&client_id=c",
            ),
            (
                &service,
                json!({"upn": "a@b"}),
                ("a@b", "the identity of this machine"),
                "/msi? 2019-08-01 &client_id=c",
            ),
        ] {
            let wire = Recorded::new([
                (LOGIN, token_of(&claims)),
                ("GET github.example/token?v=1&audience=", vec![ok("{\"value\": \"of-github\"}")]),
                ("GET /metadata/identity/oauth2/token", token_of(&claims)),
                ("GET /msi?", token_of(&claims)),
                ("GET /subscriptions/", vec![ok(SUBSCRIPTION)]),
            ]);
            let account = connect_with(vars, None, &wire).whoami().await.unwrap();
            assert_eq!((account.account.as_str(), account.credentials.as_str()), expected);
            let project = "00000000-0000-0000-0000-000000000000 (Pay-As-You-Go)";
            assert_eq!(account.project.as_deref(), Some(project));
            assert_eq!(wire.asked(asks).len(), 1, "{asks}: {:?}", wire.asked("GET"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_without_an_identity_says_why() {
        let refusal = "{\"error\": \"invalid_request\", \"error_description\": \"Identity not found\"}";
        let wire = Recorded::new([("/metadata/identity/", vec![answer(400, refusal)])]);
        let refused = connect_with(&[("AZURE_CLIENT_ID", "c")], None, &wire).whoami().await;
        expect(refused, "auth", "the identity of this machine refuses: HTTP 400: Identity not found");
    }

    #[tokio::test(start_paused = true)]
    async fn half_of_a_service_principal_is_nobody() {
        for (vars, words) in [
            (&[("AZURE_CLIENT_SECRET", "s")][..], "without AZURE_TENANT_ID and AZURE_CLIENT_ID"),
            (&[("ARM_CLIENT_SECRET", "s"), ("ARM_CLIENT_ID", "c")], "without ARM_TENANT_ID"),
            (
                &[("ARM_TENANT_ID", "t"), ("ARM_CLIENT_ID", "c")],
                "ARM_CLIENT_SECRET or ARM_OIDC_TOKEN_FILE_PATH too",
            ),
            // Some of each is not one of them.
            (
                &[("AZURE_CLIENT_SECRET", "s"), ("ARM_TENANT_ID", "t"), ("ARM_CLIENT_ID", "c")],
                "without AZURE_TENANT_ID and AZURE_CLIENT_ID",
            ),
            (
                &[
                    ("AZURE_TENANT_ID", "t"),
                    ("AZURE_CLIENT_ID", "c"),
                    ("AZURE_CLIENT_CERTIFICATE_PATH", "/c.pem"),
                ],
                "AZURE_CLIENT_CERTIFICATE_PATH is set, and lane cannot sign in with a certificate",
            ),
        ] {
            let wire = Recorded::new([]);
            expect(connect_with(vars, None, &wire).whoami().await, "auth", words);
        }
        // A whole one beside half of the other.
        let terraform = [("ARM_TENANT_ID", "test"), ("ARM_CLIENT_ID", "c"), ("ARM_CLIENT_SECRET", "s")];
        let vars = [&terraform[..], &[("AZURE_TENANT_ID", "other"), ("AZURE_CLIENT_SECRET", "")]].concat();
        let wire = Recorded::new([(LOGIN, token_of(&json!({}))), ("GET", vec![ok(SUBSCRIPTION)])]);
        connect_with(&vars, None, &wire).whoami().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn each_of_microsofts_clouds_has_its_own_sign_in_service() {
        for (api, login) in [
            ("https://management.usgovcloudapi.net", "https://login.microsoftonline.us/test/"),
            ("https://management.chinacloudapi.cn", "https://login.chinacloudapi.cn/test/"),
        ] {
            let wire = Recorded::new([(login, token_of(&json!({}))), (api, vec![ok(SUBSCRIPTION)])]);
            let provider = connect_with(&PRINCIPAL, Some(api), &wire);
            provider.whoami().await.unwrap();
            assert_eq!(wire.asked(&format!("{login} scope={api}/.default")).len(), 1);
            let scope = format!("subscription 00000000-0000-0000-0000-000000000000 at {api}");
            assert_eq!(provider.scope().await.unwrap(), Some(scope));
            // It is no emulator, to which anybody may talk.
            let half = connect_with(
                &[("AZURE_CLIENT_ID", "c")],
                Some(api),
                &Recorded::new([("/metadata/identity/", vec![answer(400, "{}")])]),
            );
            expect(half.whoami().await, "auth", "the identity of this machine refuses");
        }
        let scope = connect("azure", &Recorded::new([])).scope().await.unwrap();
        assert_eq!(scope.as_deref(), Some("subscription 00000000-0000-0000-0000-000000000000"));
    }

    /// Puts something in the place of `az`, which keeps its arguments and its variables beside it.
    fn tool(script: &str) -> tempfile::TempDir {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let (path, kept) = (folder.path().join("az"), folder.path().join("kept"));
        let text = format!("#!/bin/sh\n{{ echo \"$@\"; /usr/bin/env; }} > {}\n{script}\n", kept.display());
        crate::world::fs::write_atomic(&path, text.as_bytes(), crate::world::fs::Mode::Private).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        folder
    }

    #[tokio::test]
    async fn the_tool_is_asked_about_the_subscription_and_heard() {
        let ask = async |folder: &tempfile::TempDir| {
            let wire = Recorded::new([
                ("/metadata/identity/", vec![answer(400, "{\"error_description\": \"Identity not found\"}")]),
                ("GET /subscriptions/", vec![ok(SUBSCRIPTION)]),
            ]);
            let vars = [
                ("PATH", folder.path().to_str().unwrap()),
                ("AZURE_CONFIG_DIR", "/config"),
                ("HTTPS_PROXY", "http://proxy"),
                ("REQUESTS_CA_BUNDLE", "/ca.pem"),
                ("AWS_SECRET_ACCESS_KEY", "another's"),
            ];
            connect_with(&vars, None, &wire).whoami().await
        };
        let folder = tool("echo '{\"accessToken\": \"t\", \"expires_on\": 4102444800}'");
        assert_eq!(ask(&folder).await.unwrap().credentials, "`az login`");
        let kept = crate::world::fs::read(&folder.path().join("kept")).unwrap();
        let kept = String::from_utf8(kept).unwrap();
        for words in [
            "account get-access-token --subscription 00000000-0000-0000-0000-000000000000 --resource https://management.azure.com --output json",
            "AZURE_CONFIG_DIR=/config",
            "HTTPS_PROXY=http://proxy",
            "REQUESTS_CA_BUNDLE=/ca.pem",
        ] {
            assert!(kept.contains(words), "{words} is not in {kept}");
        }
        assert!(!kept.contains("another's"), "{kept}");
        let folder = tool("echo \"ERROR: Please run 'az login' to setup account.\" >&2; exit 1");
        expect(
            ask(&folder).await,
            "auth",
            "`az account get-access-token` failed: ERROR: Please run 'az login'|Identity not found",
        );
    }

    /// All that a create asks for; each object of the network is `Updating` at first.
    fn making(machine: Vec<Response>, seen: Vec<Response>) -> Arc<Recorded> {
        let (guard, net) = (kept!("azure/security_group_made.jsonl"), kept!("azure/network_made.jsonl"));
        let address = kept!("azure/address_made.jsonl");
        Recorded::new([
            token(),
            ("PUT /networkSecurityGroups/nsg?", part(guard, 0)),
            ("GET /networkSecurityGroups/nsg?", part(guard, 1)),
            ("PUT /virtualNetworks/net?", part(net, 0)),
            ("GET /virtualNetworks/net?", part(net, 1)),
            ("PUT /publicIPAddresses/ip?", part(address, 0)),
            ("GET /publicIPAddresses/ip?", part(address, 1)),
            ("PUT /networkInterfaces/nic?", told(kept!("azure/interface_made.jsonl"))),
            ("PUT /virtualMachines/host?", machine),
            ("GET /virtualMachines/host?", seen),
            ("GET /locations/westus/operations/", vec![ok(r#"{"status": "Canceled"}"#)]),
            ("GET /resourcegroups/lane-demo-0f3c9a?", part(kept!("azure/refused.jsonl"), 1)),
            ("PUT /resourcegroups/lane-demo-0f3c9a?", part(kept!("azure/group_made_and_deleted.jsonl"), 0)),
        ])
    }

    async fn create(wire: &Arc<Recorded>) -> Result<HostId, ProviderError> {
        connect("azure", wire).create(&request("Standard_D4s_v3", "westus")).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_machine_is_made_once_its_network_is_there() {
        let machine = told(kept!("azure/machine_made.jsonl"));
        let creating = machine[0].clone();
        let wire = making(vec![machine[0].clone()], vec![creating.clone(), creating, machine[1].clone()]);
        assert_eq!(create(&wire).await.unwrap().as_str(), "lane-demo-0f3c9a");
        let order: Vec<String> = wire
            .asked("/resource")
            .iter()
            .map(|text| {
                let mut words = text.split(' ');
                let (method, url) = (words.next().unwrap(), words.next().unwrap());
                format!("{method} {}", url.rsplit('/').next().unwrap().trim_end_matches('?'))
            })
            .collect();
        let (group, network) = (["GET lane-demo-0f3c9a", "PUT lane-demo-0f3c9a"], ["nsg", "net", "ip"]);
        let network = network.iter().flat_map(|name| [format!("PUT {name}"), format!("GET {name}")]);
        let rest = ["PUT nic", "PUT host", "GET host", "GET host", "GET host"];
        let expected: Vec<String> = group
            .iter()
            .map(|text| (*text).to_owned())
            .chain(network)
            .chain(rest.iter().map(|text| (*text).to_owned()))
            .collect();
        assert_eq!(order, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_group_is_deleted_if_it_is_ours_and_there() {
        let told = told(kept!("azure/group_made_and_deleted.jsonl"));
        let tagged = json!({"type": "Microsoft.Storage/storageAccounts", "name": "logs", "tags": our_tags()});
        let foreign = json!({"type": "Microsoft.Compute/snapshots", "name": "mine"});
        let lanes = json!({"value": [
            {"type": "microsoft.network/networkinterfaces", "name": "NIC"},
            {"type": "Microsoft.Compute/virtualMachines", "name": "host"},
            {"type": "Microsoft.Compute/virtualMachines/extensions", "name": "host/AzureMonitorLinuxAgent"},
            tagged,
        ]});
        let mut with_foreign = lanes.clone();
        with_foreign["value"].as_array_mut().unwrap().push(foreign);
        let wire = |ours: bool, contents: &Value| {
            let mut group: Value = serde_json::from_slice(&told[0].body).unwrap();
            if ours {
                group["tags"] = our_tags();
            }
            Recorded::new([
                token(),
                ("GET /resourcegroups/", said(&group)),
                ("GET /resources?", said(contents)),
                ("DELETE", vec![told[1].clone()]),
            ])
        };
        let id = HostId::fixed("lane-demo-0f3c9a");
        let ours = wire(true, &lanes);
        connect("azure", &ours).destroy(&id).await.unwrap();
        assert_eq!(ours.asked("DELETE /resourcegroups/lane-demo-0f3c9a?").len(), 1);
        for (contents, kind, words) in [
            (&with_foreign, "rejected", "Microsoft.Compute/snapshots/mine; move or delete it"),
            (&json!({}), "ambiguous", "the answer is no listing"),
        ] {
            let wire = wire(true, contents);
            expect(connect("azure", &wire).destroy(&id).await, kind, words);
            assert_eq!(wire.asked("DELETE"), Vec::<String>::new());
        }
        let others = wire(false, &lanes);
        expect(connect("azure", &others).destroy(&id).await, "rejected", "does not carry lane's tags");
        assert_eq!(others.asked("DELETE"), Vec::<String>::new());
        let gone = Recorded::new([token(), ("GET", part(kept!("azure/refused.jsonl"), 1))]);
        connect("azure", &gone).destroy(&id).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_moved_lease_keeps_the_other_tags() {
        let made = told(kept!("azure/group_made_and_deleted.jsonl"))[0].clone();
        let wire = Recorded::new([token(), ("/resourcegroups/lane-demo-0f3c9a?", vec![made])]);
        let until = "2126-05-06T12:00:00Z".parse().unwrap();
        let id = HostId::fixed("lane-demo-0f3c9a");
        connect("azure", &wire).set_expiry(&id, until).await.unwrap();
        let patched = wire.asked(r#"PATCH "tag1":"val1" "tag2":"val2" "expires":"2126-05-06T12:00:00Z""#);
        assert_eq!(patched.len(), 1, "{:?}", wire.asked("PATCH"));
        let gone = Recorded::new([token(), ("GET", part(kept!("azure/refused.jsonl"), 1))]);
        let moved = connect("azure", &gone).set_expiry(&id, until).await;
        expect(moved, "rejected", "azure: moving the lease was refused: HTTP 404");
    }

    const MEANINGS: &Meanings = &[
        ("ExpiredAuthenticationToken", "auth", "ExpiredAuthenticationToken: |az login"),
        ("AuthorizationFailed", "auth", "AuthorizationFailed: |resourcegroups/read|the role Contributor"),
        ("SkuNotAvailable", "capacity", "SkuNotAvailable: Standard_B2s|try another `location`"),
        ("OperationNotAllowed", "quota", "OperationNotAllowed: |limit 50|Quotas page"),
        // The inner error counts; this one also lacks the outer `error`.
        ("InvalidTemplateDeployment", "quota", "QuotaExceeded: |limit 4|Quotas page"),
        ("ResourceGroupBeingDeleted", "transient", "ResourceGroupBeingDeleted: "),
        ("ResourceGroupNotFound", "rejected", "ResourceGroupNotFound: "),
        ("InvalidResourceGroup", "rejected", "InvalidResourceGroup: The provided resource group name"),
        ("EnableQueryAttribute", "rejected", "HTTP 400: |Query option 'Filter' is not allowed"),
    ];

    #[tokio::test(start_paused = true)]
    async fn each_error_has_its_kind_when_listing_and_when_creating() {
        let mut refusals = told(kept!("azure/refused.jsonl"));
        // The answer to a HEAD has no words.
        refusals.retain(|refusal| !refusal.body.is_empty());
        refusals.extend(reported(kept!("azure/reported.jsonl")).into_iter().map(|(status, line)| Response {
            headers: vec![("x-ms-correlation-request-id".to_owned(), "r-1".to_owned())],
            ..answer(status, line["body"].to_string())
        }));
        assert_eq!(refusals.len(), MEANINGS.len());
        for refused in refusals {
            let (code, kind, words) = meaning(MEANINGS, std::str::from_utf8(&refused.body).unwrap());
            let words = &format!("azure: |{words}");
            let wire = Recorded::new([token(), ("GET", vec![refused.clone()])]);
            expect(connect("azure", &wire).find(&Selector::Owned).await, kind, words);
            let wire = making(vec![refused.clone()], vec![]);
            expect(create(&wire).await, kind, words);
            assert_eq!(wire.asked("PUT /virtualMachines/host?").len(), 1, "{code}");
        }
    }
}

mod gcp {
    use super::*;

    const LABELS: &str =
        r#"{"managed-by": "lane", "lane": "demo", "lineage": "0f3c9a", "expires": "1795453200"}"#;

    fn instances() -> Value {
        serde_json::from_str(kept!("gcp/instances.json")).unwrap()
    }

    /// The recorded instances, one of which is a lane's.
    fn with_a_lane() -> Value {
        let mut instances = instances();
        instances["items"]["zones/us-central1-b"]["instances"][0]["labels"] =
            serde_json::from_str(LABELS).unwrap();
        instances
    }

    async fn found(instances: &Value) -> Result<Vec<Host>, ProviderError> {
        let wire = Recorded::new([(
            "GET /projects/my-project/aggregated/instances",
            vec![ok(instances.to_string())],
        )]);
        connect("gcp", &wire).find(&Selector::Owned).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_lanes_instance_is_read_in_every_field() {
        assert_eq!(found(&instances()).await.unwrap(), []);
        let expected = Host {
            id: HostId::fixed("us-central1-b/instance-group-2-797c"),
            label: label(),
            status: HostStatus::Running,
            address: Some("35.192.138.23".parse().unwrap()),
            ssh_port: 22,
            sku: Sku::fixed("n1-standard-1"),
            region: Region::fixed("us-central1-b"),
            fingerprint: None,
            created_at: instances()["items"]["zones/us-central1-b"]["instances"][0]["creationTimestamp"]
                .as_str()
                .and_then(|text| text.parse().ok()),
            expires_at: Some("2026-11-23T17:00:00Z".parse().unwrap()),
        };
        assert!(expected.created_at.is_some());
        assert_eq!(found(&with_a_lane()).await.unwrap(), [expected]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_zone_that_does_not_answer_is_no_empty_zone() {
        // The recorded zones with nothing in them say `NO_RESULTS_ON_PAGE`, and are not taken for silent ones.
        let (mut silent, mut left_out, mut warned) = (with_a_lane(), with_a_lane(), with_a_lane());
        silent["items"]["zones/europe-west1-b"]["warning"]["code"] = "UNREACHABLE".into();
        left_out["unreachables"] =
            json!(["https://www.googleapis.com/compute/v1/projects/my-project/zones/us-east1-b"]);
        warned["warning"] = json!({"code": "UNREACHABLE", "message": "zones/us-east1-b is unreachable"});
        for (page, zone) in [(silent, "europe-west1-b"), (left_out, "us-east1-b"), (warned, "us-east1-b")] {
            let words = format!("gcp: |{zone}|nobody knows what is there");
            expect(found(&page).await, "transient", &words);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_listing_of_rules_that_is_not_whole_is_an_error() {
        let residue = async |rules: Value| {
            let wire = Recorded::new([
                ("/aggregated/instances", vec![ok(with_a_lane().to_string())]),
                ("/aggregated/disks", vec![ok(kept!("gcp/disks.json"))]),
                ("/global/firewalls", vec![ok(rules.to_string())]),
            ]);
            connect("gcp", &wire).residue(&Selector::Owned).await
        };
        let left = residue(json!({"kind": "compute#firewallList"})).await.unwrap();
        let shown: Vec<String> = left.iter().map(|left| format!("{left} of {}", left.host)).collect();
        assert_eq!(shown, ["disk test1 (10 GB in us-central1-b) of us-central1-b/test1"]);
        let partial = json!({"kind": "compute#firewallList", "warning": {"code": "PARTIAL_SUCCESS", "message": "some are missing"}});
        expect(residue(partial).await, "transient", "gcp|some are missing");
        // Somebody else's answer has a kind too.
        expect(residue(json!({"kind": "youtube#searchListResponse"})).await, "transient", "no listing");
        expect(residue(json!({"kind": "compute#operation"})).await, "transient", "no listing");
    }

    fn running(operation: &str) -> Response {
        ok(operation.replace("PENDING", "RUNNING"))
    }

    const INSERT: &str = "POST /zones/us-central1-a/instances?";
    const INSERTION: &str =
        "GET /zones/us-central1-a/operations/operation-zones_us-central1-a_instances_post?";

    fn making(inserted: Vec<Response>, insertion: Vec<Response>) -> Arc<Recorded> {
        let rule = kept!("gcp/rule_pending.json");
        Recorded::new([
            ("POST /global/firewalls?", vec![ok(rule)]),
            (
                "GET /global/operations/operation-global_firewalls_post?",
                vec![running(rule), ok(kept!("gcp/rule_done.json"))],
            ),
            (INSERT, inserted),
            (INSERTION, insertion),
            ("GET /instances/lane-demo-0f3c9a?", vec![ok(r#"{"name": "lane-demo-0f3c9a"}"#)]),
        ])
    }

    async fn create(wire: &Arc<Recorded>) -> Result<HostId, ProviderError> {
        connect("gcp", wire).create(&request("n2-standard-4", "us-central1-a")).await
    }

    #[tokio::test(start_paused = true)]
    async fn an_instance_is_there_when_its_operation_is_done() {
        let pending = kept!("gcp/insert_pending.json");
        let insertion = vec![ok(pending), running(pending), ok(kept!("gcp/insert_done.json"))];
        let wire = making(vec![ok(pending)], insertion);
        assert_eq!(create(&wire).await.unwrap().as_str(), "us-central1-a/lane-demo-0f3c9a");
        assert_eq!((wire.asked(INSERT).len(), wire.asked(INSERTION).len()), (1, 3));
        assert_eq!(wire.asked("GET /global/operations/").len(), 3);
    }

    /// An operation that went wrong, put together from the recorded one and what was reported.
    fn failed(status: u16, error: &Value) -> String {
        let mut operation: Value = serde_json::from_str(kept!("gcp/insert_done.json")).unwrap();
        operation["error"] = json!({"errors": [error]});
        operation["httpErrorStatusCode"] = status.into();
        operation.to_string()
    }

    const OPERATIONS: &Meanings = &[
        (
            "POOL_EXHAUSTED_WITH_DETAILS",
            "capacity",
            "ZONE_RESOURCE_POOL_EXHAUSTED_WITH_DETAILS: |us-central1-a, us-central1-f zone(s)|another `zone`|operation-1",
        ),
        ("POOL_EXHAUSTED", "capacity", "ZONE_RESOURCE_POOL_EXHAUSTED: the zone|another `zone`"),
        ("QUOTA_EXCEEDED", "quota", "QUOTA_EXCEEDED: quota 'C2_CPUS' is 50.0|Quotas page"),
        // Whose it is shows by looking.
        ("RESOURCE_ALREADY_EXISTS", "ambiguous", "RESOURCE_ALREADY_EXISTS: |already exists"),
        ("RESOURCE_NOT_READY", "transient", "RESOURCE_NOT_READY: |is not ready"),
    ];

    #[tokio::test(start_paused = true)]
    async fn an_operation_that_failed_says_why() {
        let mut operations: Vec<String> =
            [kept!("gcp/zone_exhausted.json"), kept!("gcp/already_exists.json"), kept!("gcp/not_ready.json")]
                .map(str::to_owned)
                .into();
        let lines = reported(kept!("gcp/reported.jsonl"));
        let lines = lines.iter().filter(|(_, line)| line["operation"].is_object());
        operations.extend(lines.map(|(status, line)| failed(*status, &line["operation"])));
        assert_eq!(operations.len(), OPERATIONS.len());
        for operation in operations {
            let (_, kind, words) = meaning(OPERATIONS, &operation);
            let wire = making(vec![ok(kept!("gcp/insert_pending.json"))], vec![ok(operation)]);
            expect(create(&wire).await, kind, &format!("gcp|{words}"));
            assert_eq!(wire.asked(INSERT).len(), 1);
        }
    }

    const OURS: &str = r#"{"labels": {"managed-by": "lane"}}"#;
    const RULE: &str = r#"{"description": "managed-by=lane lane=demo lineage=0f3c9a expires=1795453200"}"#;

    #[tokio::test(start_paused = true)]
    async fn destroy_sees_the_deletion_through_and_takes_gone_for_gone() {
        let destroy = async |deletion: Response| {
            let wire = Recorded::new([
                (
                    "DELETE /zones/us-central1-a/instances/node-name?",
                    vec![ok(kept!("gcp/delete_pending.json"))],
                ),
                ("GET /operations/operation-zones_us-central1-a_instances_node-name_delete?", vec![deletion]),
                ("GET /instances/node-name?", vec![ok(OURS)]),
                ("GET /disks/node-name?", vec![ok(OURS)]),
                ("GET /firewalls/", vec![ok(RULE)]),
                ("GET /aggregated/instances?", vec![ok(kept!("gcp/instances.json"))]),
                ("DELETE /disks/", vec![answer(404, kept!("gcp/instance_not_found.json"))]),
                ("DELETE /firewalls/", vec![answer(404, kept!("gcp/instance_not_found.json"))]),
            ]);
            let id = HostId::fixed("us-central1-a/node-name");
            let destroyed = connect("gcp", &wire).destroy(&id).await;
            (destroyed, wire.asked("DELETE").len())
        };
        let (destroyed, asked) = destroy(ok(kept!("gcp/delete_done.json"))).await;
        destroyed.unwrap();
        assert_eq!(asked, 4);
        let (destroyed, asked) = destroy(ok(kept!("gcp/not_ready.json"))).await;
        expect(destroyed, "transient", "RESOURCE_NOT_READY");
        assert_eq!(asked, 1);
    }

    const MEANINGS: &Meanings = &[
        (
            "accessNotConfigured",
            "auth",
            "accessNotConfigured: |enable the Compute Engine API|compute.googleapis.com/overview",
        ),
        ("rateLimitExceeded", "transient", "rateLimitExceeded: |Read requests"),
        ("<!DOCTYPE html>", "rejected", "HTTP 404: |Error 404 (Not Found)"),
        ("image/family", "rejected", "notFound: |coreos-stable"),
    ];

    #[tokio::test(start_paused = true)]
    async fn each_error_has_its_kind_when_listing_and_when_creating() {
        let mut refusals = vec![answer(404, kept!("gcp/image_not_found.json"))];
        for (status, line) in reported(kept!("gcp/reported.jsonl")) {
            match &line["body"] {
                Value::Null => {}
                Value::String(text) => refusals.push(answer(status, text)),
                body => refusals.push(answer(status, body.to_string())),
            }
        }
        for refused in refusals {
            let text =
                String::from_utf8(refused.body.clone()).unwrap().replace("images/family", "image/family");
            let (_, kind, words) = meaning(MEANINGS, &text);
            let words = format!("gcp: |{words}");
            let wire = Recorded::new([("/aggregated/instances", vec![refused.clone()])]);
            expect(connect("gcp", &wire).find(&Selector::Owned).await, kind, &words);
            let wire = making(vec![refused.clone()], vec![]);
            expect(create(&wire).await, kind, &words);
            assert_eq!(wire.asked(INSERT).len(), 1, "{text}");
        }
    }

    /// Connects with variables and keys of its own.
    fn with(vars: &[(&str, &str)], keys: &Value, wire: &Arc<Recorded>) -> Box<dyn Provider> {
        let vars: BTreeMap<String, String> =
            vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let world = World::fixed(Arc::new(Soon), vars, "/".into());
        let wire: Arc<dyn Wire> = Arc::<Recorded>::clone(wire);
        (super::super::by_name("gcp").unwrap().connect)(&world, keys, Link::Wire(wire)).unwrap()
    }

    const TOKEN: (&str, &str) = ("CLOUDSDK_AUTH_ACCESS_TOKEN", "test");

    fn made() -> Arc<Recorded> {
        making(vec![ok(kept!("gcp/insert_pending.json"))], vec![ok(kept!("gcp/insert_done.json"))])
    }

    /// The body of the request in which these words are.
    fn body(wire: &Recorded, words: &str) -> Value {
        let asked = wire.asked(words);
        serde_json::from_str(asked[0].split_once("? ").unwrap().1.split_once(' ').unwrap().1).unwrap()
    }

    /// Writes every value with the way to it.
    fn lines(value: &Value, at: &str, into: &mut Vec<String>) {
        match value {
            Value::Object(members) => {
                members.iter().for_each(|(name, value)| lines(value, &format!("{at}.{name}"), into));
            }
            Value::Array(items) => {
                items.iter().enumerate().for_each(|(n, value)| lines(value, &format!("{at}[{n}]"), into));
            }
            value => into.push(format!("{} {value}", at.trim_start_matches('.'))),
        }
    }

    /// What another spec changes in the requests of the default one, and that the vendor's description has it.
    #[tokio::test(start_paused = true)]
    async fn what_a_spec_changes_in_an_insert_is_in_a_snapshot() {
        type Change = fn(&mut CreateRequest);
        let (none, spot, other) =
            (json!({}), json!({"spot": true}), json!({"network": "other", "subnetwork": "part"}));
        let variants: [(&str, &Value, Change); 11] = [
            ("as it is", &none, |_| {}),
            ("image debian-13", &none, |asked| asked.image = "debian-13".to_owned()),
            ("image debian-13, resolved", &none, |asked| {
                asked.image = "projects/debian-cloud/global/images/debian-13-trixie-v20260501".to_owned();
            }),
            ("kvm none", &none, |asked| asked.kvm = false),
            ("n1-standard-4", &none, |asked| asked.sku = Sku::fixed("n1-standard-4")),
            ("e2-standard-4, which has no KVM", &none, |asked| asked.sku = Sku::fixed("e2-standard-4")),
            ("n4-standard-4", &none, |asked| asked.sku = Sku::fixed("n4-standard-4")),
            ("c3-standard-192-metal", &none, |asked| asked.sku = Sku::fixed("c3-standard-192-metal")),
            ("t2a-standard-4, of ARM", &none, |asked| asked.sku = Sku::fixed("t2a-standard-4")),
            ("spot", &spot, |_| {}),
            ("subnetwork", &other, |_| {}),
        ];
        let description = crate::emulators::description::read("gcp-compute.json");
        let (mut shown, mut plain) = (Vec::new(), Vec::new());
        for (name, extra, change) in variants {
            let mut keys = json!({"project": "my-project"});
            keys.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
            let wire = made();
            let mut asked = request("n2-standard-4", "us-central1-a");
            asked.image = "ubuntu-24.04".to_owned();
            change(&mut asked);
            with(&[TOKEN], &keys, &wire).create(&asked).await.unwrap();
            let mut all = Vec::new();
            lines(&body(&wire, INSERT), "", &mut all);
            lines(&body(&wire, "POST /global/firewalls? -in"), "rule", &mut all);
            let path = "projects/my-project/zones/us-central1-a/instances";
            if let Some(description) = &description {
                let complaints = crate::emulators::description::discovery(
                    description,
                    "POST",
                    path,
                    &[],
                    Some(&body(&wire, INSERT)),
                );
                assert_eq!(complaints, Vec::<String>::new(), "{name}");
            }
            let gone = plain.iter().filter(|line| !all.contains(line)).map(|line| format!("- {line}"));
            let new = all.iter().filter(|line| !plain.contains(*line)).map(|line| format!("+ {line}"));
            shown.push(format!("# {name}\n{}", gone.chain(new).collect::<Vec<_>>().join("\n")));
            if plain.is_empty() {
                plain = all;
            }
        }
        insta::with_settings!({snapshot_path => "../sim/snapshots", prepend_module_to_snapshot => false, omit_expression => true}, {
            insta::assert_snapshot!("inserts_gcp", shown.join("\n\n"));
        });
    }

    #[tokio::test(start_paused = true)]
    async fn what_google_would_refuse_or_cut_short_is_refused_before_anything_is_made() {
        let nothing = || Recorded::new([("checkip", vec![ok("2001:db8::7\n")])]);
        let refused = async |change: fn(&mut CreateRequest), words: &str| {
            let (wire, mut asked) = (nothing(), request("n2-standard-4", "us-central1-a"));
            change(&mut asked);
            expect(connect("gcp", &wire).create(&asked).await, "rejected", words);
            assert_eq!(wire.asked("POST").len(), 0);
        };
        refused(|asked| asked.allow_from.push("2001:db8::/32".to_owned()), "2001:db8::/32|IPv4|allow_from")
            .await;
        refused(|asked| asked.allow_from.clear(), "2001:db8::7/128|IPv4|allow_from").await;
        refused(|asked| asked.expires_at = "2126-09-05T10:00:00Z".parse().unwrap(), "120 days|lease.ttl")
            .await;
        refused(|asked| asked.label.lane = "x".repeat(60), "shorter").await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_rule_of_an_earlier_create_is_made_anew_and_a_strangers_is_left() {
        let exists = || {
            answer(
                409,
                r#"{"error": {"code": 409, "message": "exists", "errors": [{"reason": "alreadyExists"}]}}"#,
            )
        };
        let create = async |there: &str| {
            let rule = kept!("gcp/rule_done.json");
            let wire = Recorded::new([
                ("POST /global/firewalls? -in", vec![exists(), ok(rule)]),
                ("POST /global/firewalls?", vec![ok(rule)]),
                ("GET /global/firewalls/lane-demo-0f3c9a-in?", vec![ok(there)]),
                ("DELETE /global/firewalls/lane-demo-0f3c9a-in?", vec![ok(rule)]),
                (INSERT, vec![ok(kept!("gcp/insert_done.json"))]),
                ("GET /instances/lane-demo-0f3c9a?", vec![ok("{}")]),
            ]);
            (create(&wire).await, wire)
        };
        let (done, wire) = create(RULE).await;
        done.unwrap();
        assert_eq!(
            (wire.asked("DELETE /firewalls/").len(), wire.asked("POST /firewalls? -in").len()),
            (1, 2)
        );
        let (refused, wire) = create(r#"{"description": "for the web"}"#).await;
        expect(refused, "rejected", "lane-demo-0f3c9a-in|by hand");
        assert_eq!(wire.asked("DELETE /firewalls/").len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_answer_to_a_new_insert_is_no_instance() {
        let done = kept!("gcp/insert_done.json");
        let gone = kept!("gcp/instance_not_found.json");
        let wire = Recorded::new([
            ("POST /global/firewalls?", vec![ok(kept!("gcp/rule_done.json"))]),
            (INSERT, vec![ok(done)]),
            ("GET /instances/lane-demo-0f3c9a?", vec![answer(404, gone)]),
        ]);
        expect(create(&wire).await, "ambiguous", "not there");
    }

    #[tokio::test(start_paused = true)]
    async fn an_operation_that_is_not_found_says_nothing_about_its_instance() {
        let missing = answer(404, kept!("gcp/instance_not_found.json"));
        let wire = Recorded::new([
            ("GET /instances/node-name?", vec![ok(OURS)]),
            ("DELETE /instances/node-name?", vec![ok(kept!("gcp/delete_pending.json"))]),
            ("GET /operations/", vec![missing]),
        ]);
        let destroyed = connect("gcp", &wire).destroy(&HostId::fixed("us-central1-a/node-name")).await;
        expect(destroyed, "transient", "notFound");
    }

    #[tokio::test(start_paused = true)]
    async fn an_operation_without_a_known_code_goes_by_its_status() {
        let codes = json!({"code": "SOMETHING_NEW", "message": "said so"});
        for (status, kind) in [(500, "ambiguous"), (503, "ambiguous"), (400, "rejected"), (409, "ambiguous")]
        {
            let wire = making(vec![ok(failed(status, &codes))], vec![]);
            expect(create(&wire).await, kind, "SOMETHING_NEW: said so");
            let mut silent: Value = serde_json::from_str(kept!("gcp/insert_done.json")).unwrap();
            silent["httpErrorStatusCode"] = status.into();
            silent["httpErrorMessage"] = "SAID SO".into();
            let wire = making(vec![ok(silent.to_string())], vec![]);
            expect(create(&wire).await, kind, &format!("HTTP {status}: SAID SO"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn of_several_reasons_the_one_that_is_known_counts() {
        let error = json!({"error": {
            "code": 403, "message": "no", "status": "PERMISSION_DENIED",
            "errors": [{"reason": "quotaExceeded"}], "details": [{"reason": "SOMETHING_NEW"}, {"@type": "help"}],
        }});
        let wire = Recorded::new([("/aggregated/instances", vec![answer(403, error.to_string())])]);
        expect(connect("gcp", &wire).find(&Selector::Owned).await, "quota", "quotaExceeded");
    }

    /// Answers to all that a destroy asks, for an instance, a disk and rules of that look.
    async fn destroyed(thing: &str, namesakes: &Value) -> (Result<(), ProviderError>, Vec<String>) {
        let done = ok(kept!("gcp/delete_done.json"));
        let wire = Recorded::new([
            ("GET /firewalls/", vec![ok(RULE)]),
            ("GET /aggregated/instances? &filter=name=node-name", vec![ok(namesakes.to_string())]),
            ("GET /zones/", vec![ok(thing)]),
            ("DELETE", vec![done]),
        ]);
        let destroyed = connect("gcp", &wire).destroy(&HostId::fixed("us-central1-a/node-name")).await;
        (destroyed, wire.asked("DELETE"))
    }

    fn in_zone(zone: &str) -> Value {
        let zone = format!("https://www.googleapis.com/compute/v1/projects/my-project/zones/{zone}");
        let items = json!({"zones/somewhere": {"instances": [{"name": "node-name", "zone": zone}]}});
        json!({"kind": "compute#instanceAggregatedList", "items": items})
    }

    #[tokio::test(start_paused = true)]
    async fn rules_stay_as_long_as_another_zone_has_an_instance_of_that_name() {
        let (done, asked) = destroyed(OURS, &in_zone("us-central1-b")).await;
        done.unwrap();
        assert_eq!(asked.len(), 2, "{asked:?}");
        // Its own may be listed for a while.
        let (done, asked) = destroyed(OURS, &in_zone("us-central1-a")).await;
        done.unwrap();
        assert_eq!(asked.len(), 4, "{asked:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_our_name_alone_is_not_deleted() {
        for thing in ["{}", r#"{"labels": {"managed-by": "somebody"}, "description": "lane demo"}"#] {
            let (refused, asked) = destroyed(thing, &in_zone("us-central1-a")).await;
            expect(refused, "rejected", "zones/us-central1-a/instances/node-name|by hand");
            assert_eq!(asked.len(), 0, "{asked:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_says_whose_it_is_where_and_until_when() {
        let thing = |zone: &str| {
            json!({
                "name": "lane-a-b-0f3c9a", "zone": format!("projects/p/zones/{zone}"), "sizeGb": "50",
                "description": "lane a.b", "labels": {"managed-by": "lane", "lineage": "0f3c9a", "expires": "1795453200"},
            })
        };
        let rule = json!({
            "name": "lane-a-b-0f3c9a-in", "creationTimestamp": "2026-11-23T15:00:00.123-07:00",
            "description": "managed-by=lane lane=a.b lineage=0f3c9a expires=1795453200",
        });
        let page = |kind: &str, zone: &str| {
            let items = json!({"zones/z": {kind: [thing(zone)]}});
            ok(json!({"kind": "compute#someAggregatedList", "items": items}).to_string())
        };
        let wire = Recorded::new([
            ("/aggregated/instances", vec![page("instances", "zone-b")]),
            ("/aggregated/disks", vec![page("disks", "zone-a")]),
            (
                "/global/firewalls? pageToken=more",
                vec![ok(json!({"kind": "compute#firewallList", "items": [rule]}).to_string())],
            ),
            (
                "/global/firewalls",
                vec![ok(json!({"kind": "compute#firewallList", "nextPageToken": "more"}).to_string())],
            ),
        ]);
        let left = connect("gcp", &wire).residue(&Selector::Owned).await.unwrap();
        assert_eq!(wire.asked("firewalls pageToken").len(), 1);
        let whose = Label { lane: "a.b".to_owned(), lineage: Lineage::fixed("0f3c9a") };
        for left in &left {
            assert_eq!(left.label.as_ref(), Some(&whose), "{left:?}");
            assert_eq!(left.expires_at.map(jiff::Timestamp::as_second), Some(1_795_453_200), "{left:?}");
        }
        let hosts: Vec<_> = left.iter().map(|left| (left.kind.as_str(), left.host.as_str())).collect();
        let expected = [("disk", "zone-a/lane-a-b-0f3c9a"), ("firewall rule", "zone-b/lane-a-b-0f3c9a")];
        assert_eq!(hosts, expected);
        assert!(left[1].created_at.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_of_an_instance_is_told_by_its_last_incarnation() {
        let operation = |id: &str, kind: &str, user: &str, hour: u32| {
            json!({
                "operationType": kind, "user": user, "targetId": id, "status": "DONE",
                "insertTime": format!("2026-11-25T{hour:02}:00:00Z"),
                "targetLink": "https://www.googleapis.com/compute/v1/projects/p/zones/us-central1-a/instances/host",
            })
        };
        let (me, google) = ("me@example.com", "system");
        let mut refused = operation("2", "delete", me, 12);
        refused["error"] = json!({"errors": [{"code": "RESOURCE_NOT_READY"}]});
        let fate = async |operations: Value| {
            let page = json!({"kind": "compute#operationList", "items": operations});
            let filter =
                "/zones/us-central1-a/operations? &filter=targetLink .*/zones/us-central1-a/instances/host";
            let wire = Recorded::new([(filter, vec![ok(page.to_string())])]);
            connect("gcp", &wire).fate(&HostId::fixed("us-central1-a/host")).await.unwrap()
        };
        let told = fate(json!([
            operation("2", "delete", google, 14),
            operation("2", "compute.instances.preempted", google, 13),
            refused,
            operation("2", "compute.instances.migrateOnHostMaintenance", google, 11),
            operation("2", "insert", me, 10),
            operation("1", "delete", me, 9),
        ]));
        assert_eq!(
            told.await.unwrap(),
            "compute.instances.preempted by system at 2026-11-25T13:00:00Z, then delete by system at 2026-11-25T14:00:00Z"
        );
        assert_eq!(
            fate(json!([operation("2", "insert", me, 10), operation("1", "delete", me, 9)])).await,
            None
        );
        assert_eq!(fate(json!([])).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn its_scope_is_the_project_and_the_endpoint_where_that_is_another() {
        let wire = Recorded::new([]);
        let scope =
            async |vars: &[(&str, &str)], keys: Value| with(vars, &keys, &wire).scope().await.unwrap();
        let mine = json!({"project": "my-project"});
        assert_eq!(scope(&[], mine.clone()).await.unwrap(), "project my-project");
        let at = [("LANE_GCP_ENDPOINT", "http://127.0.0.1:9/v1/")];
        assert_eq!(scope(&at, mine).await.unwrap(), "project my-project at http://127.0.0.1:9/v1");
    }

    /// A folder of credentials, with the files that a user of `gcloud` has.
    fn folder(files: &[(&str, &str)]) -> (tempfile::TempDir, String) {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            crate::world::fs::create_dir_all(path.parent().unwrap()).unwrap();
            crate::world::fs::write_atomic(&path, text.as_bytes(), crate::world::fs::Mode::Public).unwrap();
        }
        let path = folder.path().to_str().unwrap().to_owned();
        (folder, path)
    }

    #[tokio::test(start_paused = true)]
    async fn the_project_is_the_one_that_gcloud_would_take() {
        let (_kept, path) = folder(&[
            ("active_config", "work\n"),
            (
                "configurations/config_work",
                "[compute]\nproject = no\n[core]\naccount = me\nproject = of-work\n",
            ),
            ("configurations/config_home", "[core]\nproject=of-home\n"),
        ]);
        let silent = Recorded::new([("metadata", vec![answer(404, "")])]);
        let scope = async |vars: &[(&str, &str)]| with(vars, &json!({}), &silent).scope().await;
        let config = ("CLOUDSDK_CONFIG", path.as_str());
        let found = async |vars: &[(&str, &str)]| scope(vars).await.unwrap().unwrap();
        let home = ("CLOUDSDK_ACTIVE_CONFIG_NAME", "home");
        let core = ("CLOUDSDK_CORE_PROJECT", "of-core");
        assert_eq!(found(&[config]).await, "project of-work");
        assert_eq!(found(&[config, home]).await, "project of-home");
        assert_eq!(found(&[config, home, core]).await, "project of-core");
        let set = ("GOOGLE_CLOUD_PROJECT", "of-variable");
        assert_eq!(found(&[config, home, core, set]).await, "project of-variable");
        expect(scope(&[("CLOUDSDK_CONFIG", "/nowhere"), TOKEN]).await, "unavailable", "no project is named");
        let service = Recorded::new([
            ("http://here/computeMetadata/v1/instance/service-accounts/default/token", vec![ok(ISSUED)]),
            ("http://here/computeMetadata/v1/project/project-id", vec![ok("of-the-machine\n")]),
        ]);
        let vars = [("CLOUDSDK_CONFIG", "/nowhere"), ("GCE_METADATA_HOST", "here")];
        let scope = with(&vars, &json!({}), &service).scope().await.unwrap();
        assert_eq!(scope.unwrap(), "project of-the-machine");
    }

    const ISSUED: &str = r#"{"access_token": "of-the-machine", "expires_in": 3600, "token_type": "Bearer"}"#;
    const TOKENINFO: &str = "POST oauth2.googleapis.com/tokeninfo";

    #[tokio::test(start_paused = true)]
    async fn who_asks_is_told_by_the_source_of_the_credentials() {
        let keys = json!({"project": "my-project"});
        let project = || ("GET /projects/my-project?", vec![ok("{}")]);
        let who = async |vars: &[(&str, &str)], wire: &Arc<Recorded>| {
            let account = with(vars, &keys, wire).whoami().await.unwrap();
            (account.account, account.credentials)
        };
        let wire = Recorded::new([(TOKENINFO, vec![ok(r#"{"email": "me@example.com"}"#)]), project()]);
        assert_eq!(who(&[TOKEN], &wire).await, ("me@example.com".to_owned(), TOKEN.0.to_owned()));
        assert_eq!(
            wire.asked(TOKENINFO),
            ["POST https://oauth2.googleapis.com/tokeninfo?  &access_token=test"]
        );
        let wire =
            Recorded::new([(TOKENINFO, vec![answer(400, r#"{"error": "invalid_token"}"#)]), project()]);
        assert_eq!(who(&[TOKEN], &wire).await.0, "unknown");

        let machine = Recorded::new([
            ("default/token", vec![ok(ISSUED)]),
            ("default/email", vec![ok("1234-compute@developer.gserviceaccount.com\n")]),
            project(),
        ]);
        let (account, source) = who(&[("CLOUDSDK_CONFIG", "/nowhere")], &machine).await;
        assert_eq!(
            (account.as_str(), source.as_str()),
            ("1234-compute@developer.gserviceaccount.com", "the metadata service")
        );
        assert_eq!(machine.asked("default/token").len(), 1, "a token is kept");

        // An emulator is shown no credentials that nobody named; Google's other addresses are.
        let wire = Recorded::new([project()]);
        let at = ("LANE_GCP_ENDPOINT", "http://127.0.0.1:9");
        assert_eq!(who(&[at], &wire).await.0, "unknown");
        let at = ("LANE_GCP_ENDPOINT", "https://compute.us-central1.rep.googleapis.com");
        let (account, _) = who(&[at, ("CLOUDSDK_CONFIG", "/nowhere")], &machine).await;
        assert_eq!(account, "1234-compute@developer.gserviceaccount.com");
    }

    #[tokio::test(start_paused = true)]
    async fn spot_machines_count_against_a_limit_of_their_own_where_there_is_one() {
        let names = async |spot: bool, preemptible: f64| {
            let quotas = json!({"quotas": [
                {"metric": "N2_CPUS", "limit": 8.0, "usage": 4.0},
                {"metric": "PREEMPTIBLE_CPUS", "limit": preemptible, "usage": 1.0},
                {"metric": "CPUS_ALL_REGIONS", "limit": 12.0, "usage": 4.0},
            ]});
            let wire = Recorded::new([("quotas", vec![ok(quotas.to_string())])]);
            let provider = with(&[TOKEN], &json!({"project": "my-project", "spot": spot}), &wire);
            let (sku, zone) = (Sku::fixed("n2-standard-4"), Region::fixed("us-central1-a"));
            let quotas = provider.quotas(&sku, &zone).await.unwrap();
            quotas.into_iter().map(|quota| quota.name).collect::<Vec<_>>().join(", ")
        };
        assert_eq!(
            names(true, 16.0).await,
            "PREEMPTIBLE_CPUS in us-central1, CPUS_ALL_REGIONS in all regions"
        );
        let normal = "N2_CPUS in us-central1, CPUS_ALL_REGIONS in all regions";
        assert_eq!(
            (names(false, 16.0).await, names(true, 0.0).await),
            (normal.to_owned(), normal.to_owned())
        );
    }

    /// What `requests_gcp` does not show, as its emulator has one page and asks for no proof.
    #[tokio::test(start_paused = true)]
    async fn every_other_request_is_in_a_snapshot() {
        let page = |kind: &str| ok(json!({"kind": kind, "nextPageToken": "more"}).to_string());
        let last = |kind: &str| ok(json!({"kind": kind}).to_string());
        let wire = Recorded::new([
            ("aggregated pageToken=more", vec![last("compute#diskAggregatedList")]),
            ("aggregated", vec![page("compute#diskAggregatedList")]),
            ("firewalls pageToken=more", vec![last("compute#firewallList")]),
            ("firewalls", vec![page("compute#firewallList")]),
            ("operations", vec![last("compute#operationList")]),
            ("default/token", vec![ok(ISSUED)]),
            ("project/project-id", vec![ok("of-the-machine")]),
            ("", vec![ok("{}")]),
        ]);
        let keys = json!({"project": "my-project"});
        let provider = with(&[TOKEN], &keys, &wire);
        provider.residue(&Selector::Label(label())).await.unwrap();
        provider.fate(&HostId::fixed("us-central1-a/lane-demo-0f3c9a")).await.unwrap();
        provider.whoami().await.unwrap();
        let machine = with(&[("CLOUDSDK_CONFIG", "/nowhere")], &json!({}), &wire);
        machine.whoami().await.unwrap();
        let description = crate::emulators::description::read("gcp-compute.json");
        let asked = wire.asked("");
        for text in asked.iter().filter(|_| description.is_some()) {
            let Some((_, rest)) = text.split_once("/compute/v1/") else { continue };
            let (path, query) = rest.split_once('?').unwrap();
            let query: Vec<(String, String)> =
                form_urlencoded::parse(query.trim().as_bytes()).into_owned().collect();
            let query: Vec<_> = query.into_iter().filter(|(name, _)| !name.is_empty()).collect();
            let complaints = crate::emulators::description::discovery(
                description.as_ref().unwrap(),
                text.split(' ').next().unwrap(),
                path,
                &query,
                None,
            );
            assert_eq!(complaints, Vec::<String>::new(), "{text}");
        }
        let shown = asked.iter().map(|text| text.trim_end()).collect::<Vec<_>>().join("\n");
        insta::with_settings!({snapshot_path => "../sim/snapshots", prepend_module_to_snapshot => false, omit_expression => true}, {
            insta::assert_snapshot!("lookups_gcp", shown);
        });
    }
}
