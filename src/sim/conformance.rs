//! What every adapter promises, tested on each one that has an emulator, and on the simulation's own cloud.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::cloud::{Cloud, LAG, Weather};
use super::fate::Fate;
use crate::emulators::{self, ADAPTERS, ADDRESS, Emulator, promises};
use crate::error::Failure;
use crate::plan::{Digest, Fingerprint};
use crate::provider::http::{Body, Request, Response, Wire, WireError};
use crate::provider::{
    self, ClientToken, CreateRequest, HostId, HostStatus, Label, Lineage, Link, Provider, ProviderError,
    Region, Selector, Sku,
};
use crate::world::{Clock, SystemClock, World, fs};

/// One provider under test.
struct Subject {
    name: &'static str,
    provider: Box<dyn Provider>,
    emulator: Option<Arc<dyn Emulator>>,
    cloud: Cloud,
}

/// Two hours before the leases of these tests end: some clouds take no longer ones.
#[derive(Debug)]
struct Soon;

impl Clock for Soon {
    fn now(&self) -> jiff::Timestamp {
        "2126-05-06T10:00:00Z".parse().unwrap()
    }
}

fn world(adapter: &str) -> World {
    let variable = format!("LANE_{}_ENDPOINT", adapter.to_ascii_uppercase());
    let vars = [(variable, emulators::endpoint(adapter, "emulator"))].into();
    World::fixed(Arc::new(Soon), vars, "/".into())
}

fn connect(adapter: &str, wire: Arc<dyn Wire>) -> Box<dyn Provider> {
    let connect = provider::by_name(adapter).unwrap().connect;
    connect(&world(adapter), &emulators::keys(adapter), Link::Wire(wire)).unwrap()
}

fn subjects() -> Vec<Subject> {
    let fake = Cloud::new(Fate::default(), 1, LAG);
    let mut subjects =
        vec![Subject { name: "fake", provider: Box::new(fake.clone()), emulator: None, cloud: fake }];
    for name in ADAPTERS {
        let cloud = Cloud::new(Fate::default(), 1, LAG);
        let emulator = emulators::over(name, Arc::new(cloud.clone())).unwrap();
        let wire: Arc<dyn Wire> = Arc::<dyn Emulator>::clone(&emulator);
        subjects.push(Subject { name, provider: connect(name, wire), emulator: Some(emulator), cloud });
    }
    subjects
}

fn request(lane: &str, lineage: &'static str) -> CreateRequest {
    CreateRequest {
        label: Label { lane: lane.to_owned(), lineage: Lineage::fixed(lineage) },
        sku: Sku::fixed("small"),
        region: Region::fixed("here"),
        image: "debian-13".to_owned(),
        disk_bytes: 50_000_000_000,
        kvm: true,
        user_data: "#cloud-config\n# lane\n".to_owned(),
        expires_at: "2126-05-06T12:00:00Z".parse().unwrap(),
        fingerprint: Fingerprint(Digest::of(b"wanted")),
        token: ClientToken::fixed("01j0000000000000000000aaaa"),
        allow_from: vec![],
    }
}

const MINE: &str = "01j00000000000000000000mine";
const OTHER: &str = "01j0000000000000000000other";
const SECOND: &str = "01j0000000000000000000bbbb";

#[tokio::test(start_paused = true)]
async fn what_was_made_is_found_by_its_label_alone_with_all_that_it_was_made_for() {
    for subject in subjects() {
        let (name, provider) = (subject.name, subject.provider.as_ref());
        // A name that holds what not every cloud's names may.
        let asked = request("a.b_c-1", MINE);
        subject.cloud.add_by_hand(&Label { lane: "other".to_owned(), ..asked.label.clone() }, None);
        let id = provider.create(&asked).await.unwrap();
        sleep(LAG * 6).await;
        let mut found = provider.find(&Selector::Label(asked.label.clone())).await.unwrap();
        found.retain(|host| host.label == asked.label);
        assert_eq!(found.len(), 1, "{name}");
        let host = &found[0];
        assert_eq!((&host.id, host.status), (&id, HostStatus::Running), "{name}");
        assert!(host.fingerprint.as_ref().unwrap().is_of(&asked.fingerprint), "{name}");
        assert_eq!(host.expires_at, Some(asked.expires_at), "{name}");
        assert!(host.created_at.is_some() && host.address.is_some(), "{name}");
        assert_eq!(provider.find(&Selector::Owned).await.unwrap().len(), 2, "{name}");
        assert_eq!(provider.find(&Selector::Label(request("a", OTHER).label)).await.unwrap(), [], "{name}");
        assert!(provider.console_log(&id).await.is_ok(), "{name}");
        if let Some(emulator) = &subject.emulator {
            assert_eq!(emulator.complaints(), Vec::<String>::new(), "{name}");
        }
    }
}

/// The same request again, as after a lost answer: whatever it is told, there is one host.
#[tokio::test(start_paused = true)]
async fn a_create_sent_again_makes_no_second_host() {
    // The simulation's own cloud knows no tokens, to catch whoever sends a create twice.
    for subject in subjects().into_iter().filter(|subject| subject.emulator.is_some()) {
        let (name, asked) = (subject.name, request("demo", MINE));
        let id = subject.provider.create(&asked).await.unwrap();
        sleep(LAG).await;
        if let Ok(again) = subject.provider.create(&asked).await {
            assert_eq!(again, id, "{name}");
        }
        sleep(LAG).await;
        let found = subject.provider.find(&Selector::Label(asked.label.clone())).await.unwrap();
        assert_eq!(found.iter().map(|host| &host.id).collect::<Vec<_>>(), [&id], "{name}");
        assert_eq!(subject.cloud.ledger().machines.len(), 1, "{name}");
    }
}

/// Only a person can decide which of them is right, so both are shown.
#[tokio::test(start_paused = true)]
async fn two_hosts_of_one_label_are_both_listed() {
    for subject in subjects() {
        let (name, asked) = (subject.name, request("demo", MINE));
        subject.provider.create(&asked).await.unwrap();
        subject.cloud.add_by_hand(&asked.label, None);
        sleep(LAG).await;
        let found = subject.provider.find(&Selector::Label(asked.label.clone())).await.unwrap();
        assert_eq!(found.iter().filter(|host| host.label == asked.label).count(), 2, "{name}: {found:?}");
    }
}

/// A host that powered itself off may still cost money.
#[tokio::test(start_paused = true)]
async fn a_stopped_host_is_listed_as_stopped() {
    for subject in subjects() {
        let (name, asked) = (subject.name, request("demo", MINE));
        subject.provider.create(&asked).await.unwrap();
        sleep(LAG).await;
        subject.cloud.ledger().machines[0].on = false;
        let found = subject.provider.find(&Selector::Label(asked.label.clone())).await.unwrap();
        assert_eq!(found.iter().map(|host| host.status).collect::<Vec<_>>(), [HostStatus::Stopped], "{name}");
    }
}

fn token(request: CreateRequest, token: &'static str) -> CreateRequest {
    CreateRequest { token: ClientToken::fixed(token), ..request }
}

#[tokio::test(start_paused = true)]
async fn every_adapter_keeps_its_promises() {
    for subject in subjects() {
        let name = subject.name;
        let (mine, other) = (request("demo", MINE), token(request("demo", OTHER), SECOND));
        let region = mine.region.as_str();
        let nobody = if name == "azure" { "nobody".to_owned() } else { format!("{region}/nobody") };
        promises::keep(name, subject.provider.as_ref(), &mine, &other, &HostId::new(nobody)).await;
        if let Some(emulator) = &subject.emulator {
            assert_eq!(emulator.leftovers(), Vec::<String>::new(), "{name}");
            assert_eq!(emulator.complaints(), Vec::<String>::new(), "{name}");
        }
    }
}

/// Over the whole table, so that a new file is tested without being named anywhere.
#[tokio::test(start_paused = true)]
async fn adapters_without_an_emulator_keep_their_promises_or_say_that_they_make_no_hosts() {
    for entry in provider::entries().iter().filter(|entry| !ADAPTERS.contains(&entry.name)) {
        let name = entry.name;
        if !entry.tools.is_empty() {
            println!("left out: {name} boots hosts, in `real_host_{name}_keeps_its_promises`");
            continue;
        }
        let folder = tempfile::tempdir().unwrap();
        let world = World::fixed(Arc::new(SystemClock), BTreeMap::default(), folder.path().to_owned());
        let keys = serde_yaml::from_str(&(entry.init_keys)()).unwrap_or_else(|_| serde_json::json!({}));
        let connected = (entry.connect)(&world, &keys, Link::Network);
        if !(entry.endpoint)(&world, &keys).is_empty() {
            match connected {
                Ok(_) => println!("left out: {name} has an API and no emulator in tests/emulators"),
                Err(error) => {
                    assert!(matches!(error, ProviderError::Unavailable { .. }), "{name}: {error}");
                    println!("left out: {name} makes no hosts in this build");
                }
            }
            continue;
        }
        let of_entry = |request: CreateRequest| CreateRequest {
            sku: entry.default_sku.clone(),
            region: entry.default_region.clone(),
            image: entry.default_image.to_owned(),
            ..request
        };
        let (mine, other) = (request("demo", MINE), token(request("demo", OTHER), SECOND));
        let provider = connected.unwrap();
        let nobody = HostId::new("nobody");
        promises::keep(name, provider.as_ref(), &of_entry(mine), &of_entry(other), &nobody).await;
        println!("{name} keeps its promises");
    }
}

#[tokio::test(start_paused = true)]
async fn only_the_operator_is_admitted_unless_the_spec_says_whom() {
    for subject in subjects() {
        let Some(emulator) = subject.emulator else { continue };
        let mut asked = request("demo", MINE);
        subject.provider.create(&asked).await.unwrap();
        let text = |request: &Request| match &request.body {
            Some(Body::Json(body)) => body.to_string(),
            Some(Body::Form(form)) => format!("{form:?}"),
            None => String::new(),
        };
        let all = || emulator.requests().iter().map(text).collect::<Vec<_>>().join("\n");
        assert!(all().contains(&format!("{ADDRESS}/32")), "{}", subject.name);
        asked.label = request("demo", OTHER).label;
        asked.token = ClientToken::fixed(SECOND);
        asked.allow_from = vec!["203.0.113.0/24".to_owned()];
        subject.provider.create(&asked).await.unwrap();
        assert!(all().contains("203.0.113.0/24"), "{}", subject.name);
    }
}

/// Answers everything with the same.
#[derive(Debug)]
struct Always(Result<Response, WireError>);

#[async_trait::async_trait]
impl Wire for Always {
    async fn send(&self, _request: &Request) -> Result<Response, WireError> {
        self.0.clone()
    }
}

async fn listing_where(adapter: &str, always: Result<Response, WireError>) -> (ProviderError, u8) {
    let provider = connect(adapter, Arc::new(Always(always.clone())));
    let error = provider.find(&Selector::Owned).await.expect_err("no answer is no empty listing");
    let again = connect(adapter, Arc::new(Always(always.clone()))).find(&Selector::Owned).await.unwrap_err();
    let left = connect(adapter, Arc::new(Always(always))).residue(&Selector::Owned).await;
    left.expect_err("no answer does not mean that nothing is left");
    (error, Failure::from(again).kind.exit_code())
}

#[tokio::test(start_paused = true)]
async fn no_answer_and_no_sense_are_no_empty_listing() {
    let page = |status, text: &str| Ok(Response { status, headers: vec![], body: text.as_bytes().to_vec() });
    for adapter in ADAPTERS {
        let (error, code) = listing_where(adapter, Err(WireError::NotSent("dns error".to_owned()))).await;
        assert!(
            matches!(&error, ProviderError::Unavailable { remedy, .. } if remedy.contains("network")),
            "{error}"
        );
        assert!(error.to_string().contains("dns error") && error.to_string().starts_with(adapter), "{error}");
        assert_eq!(code, 4);
        let (error, _) = listing_where(adapter, Err(WireError::Untrusted("certificate".to_owned()))).await;
        assert!(matches!(error, ProviderError::Unavailable { .. }), "{adapter}: {error}");
        let (error, _) = listing_where(adapter, Err(WireError::Lost("reset".to_owned()))).await;
        assert!(matches!(error, ProviderError::Ambiguous { .. }), "{adapter}: {error}");
        let closed =
            "<?xml version=\"1.0\"?><html xmlns=\"http://www.w3.org/1999/xhtml\"><body>log in</body></html>";
        for (status, text) in [
            (200, "<html>please log in"),
            (200, closed),
            (200, ""),
            (200, "{}"),
            (200, "[]"),
            (502, "<html>bad gateway"),
            (500, ""),
        ] {
            let (error, _) = listing_where(adapter, page(status, text)).await;
            assert!(matches!(error, ProviderError::Ambiguous { .. }), "{adapter} {status} {text}: {error}");
        }
        let (error, _) = listing_where(adapter, page(429, "{}")).await;
        assert!(matches!(error, ProviderError::Transient { .. }), "{adapter}: {error}");
    }
}

/// Each refusal by its vendor's own answer, as the emulator words it: a kind of its own, with a way out.
#[tokio::test(start_paused = true)]
async fn each_refusal_has_its_kind_and_a_way_out() {
    use emulators::Refusal;
    let refusals = [
        (Refusal::Unauthorised, "not authorised", "run|keys"),
        (Refusal::Expired, "not authorised", "run|keys"),
        (Refusal::Forbidden, "not authorised", "roles/|policy|role "),
        (Refusal::Full, "no capacity", "try another"),
        (Refusal::OverQuota, "over quota", "ask for more"),
        (Refusal::Busy, "for now", ""),
        (Refusal::Wrong("no such field".to_owned()), "refused", "no such field"),
    ];
    for adapter in ADAPTERS {
        for (refusal, says, way_out) in &refusals {
            let answer = emulators::refusal(adapter, refusal.clone());
            let (error, code) = listing_where(adapter, answer).await;
            let text = error.to_string();
            assert!(text.starts_with(adapter) && text.contains(says), "{adapter} {refusal:?}: {text}");
            assert!(way_out.split('|').any(|word| text.contains(word)), "{adapter} {refusal:?}: {text}");
            assert_eq!(code, 4, "{adapter} {refusal:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_create_whose_answer_is_lost_is_open_and_found() {
    for subject in subjects().into_iter().filter(|subject| subject.emulator.is_some()) {
        subject.cloud.ledger().weather = Weather { cloud: 20, ..Weather::default() };
        let (mut open, mut tries) = (false, 0);
        // In this weather every step fails now and then.
        while (!open || subject.cloud.ledger().machines.is_empty()) && tries < 300 {
            tries += 1;
            let asked = request("demo", MINE);
            match subject.provider.create(&asked).await {
                Err(ProviderError::Ambiguous { .. }) => open = true,
                Err(ProviderError::Transient { .. }) | Ok(_) => {}
                other => panic!("{}: {other:?}", subject.name),
            }
        }
        assert!(open && !subject.cloud.ledger().machines.is_empty(), "{}", subject.name);
        subject.cloud.ledger().weather = Weather::default();
        sleep(LAG).await;
        let found = subject.provider.find(&Selector::Label(request("demo", MINE).label)).await.unwrap();
        assert_eq!(found.len(), subject.cloud.ledger().machines.len(), "{}", subject.name);
    }
}

#[tokio::test(start_paused = true)]
async fn who_asks_is_shown_and_the_secret_is_not() {
    for subject in subjects().into_iter().filter(|subject| subject.emulator.is_some()) {
        let account = subject.provider.whoami().await.unwrap();
        assert!(!account.account.is_empty() && account.project.is_some(), "{}: {account:?}", subject.name);
        assert!(!account.credentials.is_empty(), "{}: {account:?}", subject.name);
        assert_eq!(subject.emulator.unwrap().complaints(), Vec::<String>::new());
    }
}

/// The emulators' accounts have room for one small host, and some for none of the default SKU.
#[tokio::test(start_paused = true)]
async fn limits_are_told_in_the_vendors_words() {
    let mut told = Vec::new();
    for subject in subjects().into_iter().filter(|subject| subject.emulator.is_some()) {
        let entry = provider::by_name(subject.name).unwrap();
        let quotas = subject.provider.quotas(&entry.default_sku, &entry.default_region).await.unwrap();
        let line = |quota: &provider::Quota| {
            let used = quota.used.map_or("?".to_owned(), |used| used.to_string());
            format!("{}: {used} + {} of {}: {}", quota.name, quota.takes, quota.limit, quota.admits())
        };
        told.extend(quotas.iter().map(line));
        assert_eq!(subject.emulator.unwrap().complaints(), Vec::<String>::new());
    }
    insta::assert_snapshot!(told.join("\n"));
}

#[tokio::test(start_paused = true)]
async fn a_plain_name_becomes_the_vendors_own_and_that_stays_as_it_is() {
    for subject in subjects().into_iter().filter(|subject| subject.emulator.is_some()) {
        let (name, entry) = (subject.name, provider::by_name(subject.name).unwrap());
        let (sku, region) = (&entry.default_sku, &entry.default_region);
        for plain in ["ubuntu-24.04", "ubuntu-22.04", "debian-12", "debian-13"] {
            let id = subject.provider.resolve_image(plain, sku, region).await.unwrap().unwrap();
            assert_ne!(id, plain, "{name}");
            let again = subject.provider.resolve_image(&id, sku, region).await.unwrap();
            assert_eq!(again.as_deref(), Some(id.as_str()), "{name}");
        }
        assert_eq!(subject.emulator.unwrap().complaints(), Vec::<String>::new());
    }
}

/// Those that say something about a request; the others prove who asks.
const HEADERS: [&str; 4] = ["if-none-match", "metadata", "x-amz-target", "x-ms-client-request-id"];

/// Names the service and the region that a request of Amazon's is signed for.
fn signed_for(request: &Request) -> String {
    let proof = request.headers.iter().find(|(name, _)| name == "authorization");
    let scope = proof.and_then(|(_, proof)| proof.reveal().split("Credential=").nth(1)?.split(',').next());
    match scope.map(|scope| scope.split('/').collect::<Vec<_>>()).as_deref() {
        Some([_, _, region, service, _]) => format!(" to {service} in {region}"),
        _ => String::new(),
    }
}

/// Returns the places in an adapter's source that make a request, of which none of these was made there; a function
/// that is marked as handing on its caller's place counts where it is called.
fn places(adapter: &str, requests: &[Request]) -> Vec<String> {
    const MARK: &str = "#[track_caller]";
    let path = format!("src/provider/adapters/{adapter}.rs");
    let source = fs::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join(&path)).unwrap();
    let source = String::from_utf8(source).unwrap();
    let lines: Vec<&str> = source.lines().take_while(|line| *line != "#[cfg(test)]").collect();
    let mut makers = ["get", "post", "delete", "new"].map(|verb| format!(" Request::{verb}(")).to_vec();
    for pair in lines.windows(2).filter(|pair| pair[0].trim() == MARK) {
        let name = pair[1].split("fn ").nth(1).unwrap().split('(').next().unwrap();
        makers.push(format!(" self.{name}("));
    }
    let (mut hands_on, mut unseen) = (false, Vec::new());
    for (at, line) in lines.iter().enumerate() {
        if line.contains("fn ") {
            hands_on = lines[at - 1].trim() == MARK;
        }
        // What opens a call is no part of its name.
        let words = line.replace(['(', '&', '{'], "( ");
        let makes = makers.iter().any(|maker| format!(" {words}").contains(&maker.replace('(', "( ")));
        let number = u32::try_from(at + 1).unwrap();
        let is_seen = |sent: &Request| sent.made_at.file().ends_with(&path) && sent.made_at.line() == number;
        if makes && !hands_on && !requests.iter().any(is_seen) {
            unseen.push(format!("{path}:{number}: {}", line.trim()));
        }
    }
    unseen
}

/// All that an adapter sends in a lane's life, for people who know the vendor's API; each form once.
#[tokio::test(start_paused = true)]
async fn every_request_is_in_a_snapshot() {
    for subject in subjects() {
        let Some(emulator) = &subject.emulator else { continue };
        let (name, provider) = (subject.name, subject.provider.as_ref());
        let entry = provider::by_name(name).unwrap();
        let mut asked = request("demo", MINE);
        (asked.sku, asked.image) = (entry.default_sku.clone(), entry.default_image.to_owned());
        let id = provider.create(&asked).await.unwrap();
        sleep(LAG * 6).await;
        // A second time everything is there already.
        assert!(provider.create(&asked).await.is_ok_and(|again| again == id) || name != "aws");
        let selector = Selector::Label(asked.label.clone());
        provider.find(&selector).await.unwrap();
        provider.find(&Selector::Owned).await.unwrap();
        provider.residue(&selector).await.unwrap();
        provider.residue(&Selector::Owned).await.unwrap();
        provider.console_log(&id).await.unwrap();
        provider.whoami().await.unwrap();
        provider.resolve_image(&asked.image, &asked.sku, &asked.region).await.unwrap();
        provider.quotas(&asked.sku, &entry.default_region).await.unwrap();
        match provider.set_expiry(&id, asked.expires_at).await {
            Ok(()) => {}
            // Where the cloud's own clock cannot be moved.
            Err(error) => assert!(matches!(error, ProviderError::Unavailable { .. }), "{name}: {error}"),
        }
        for _ in 0..60 {
            drop(provider.destroy(&id).await);
            for left in provider.residue(&selector).await.unwrap() {
                drop(provider.destroy(&left.host).await);
            }
            sleep(Duration::from_secs(1)).await;
        }
        if let Some(sku) = emulators::nesting_sku(name) {
            asked.sku = Sku::fixed(sku);
            asked.token = ClientToken::fixed("01j0000000000000000000cccc");
            provider.create(&asked).await.unwrap();
            asked.sku = entry.default_sku.clone();
        }
        // What the keys and the credentials of a spec may change.
        let mut keys = emulators::keys(name);
        keys.as_object_mut().unwrap().extend(emulators::other_keys(name).as_object().unwrap().clone());
        let identity = ["AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"];
        let other = world(name).with(identity.map(|name| (name, "mine".to_owned())));
        let wire: Arc<dyn Wire> = Arc::<dyn Emulator>::clone(emulator);
        let provider = (entry.connect)(&other, &keys, Link::Wire(wire)).unwrap();
        asked.label = request("demo", OTHER).label;
        asked.token = ClientToken::fixed(SECOND);
        asked.image = emulators::raw_image(name).to_owned();
        asked.allow_from = vec!["203.0.113.0/24".to_owned(), "198.51.100.7/32".to_owned()];
        drop(provider.resolve_image(&asked.image, &asked.sku, &asked.region).await.unwrap());
        let spot = provider.create(&asked).await.unwrap();
        provider.fate(&spot).await.unwrap();
        if name == "azure" {
            // A create that is cut off before its machine, and another one elsewhere.
            asked.label.lane = "moved".to_owned();
            let there = CreateRequest { region: Region::fixed("there"), ..asked.clone() };
            let cut_off = tokio::time::timeout(Duration::from_secs(5), provider.create(&there)).await;
            assert!(cut_off.is_err(), "{cut_off:?}");
            provider.create(&asked).await.unwrap();
        }
        for variables in emulators::credentials(name) {
            let set = variables.iter().map(|(name, value)| (*name, (*value).to_owned()));
            let wire: Arc<dyn Wire> = Arc::<dyn Emulator>::clone(emulator);
            let provider = (entry.connect)(&world(name).with(set), &emulators::keys(name), Link::Wire(wire));
            provider.unwrap().whoami().await.unwrap();
        }
        // Of a create for which there is no room, be it that it was accepted, what was not sent before.
        let mut sent = emulator.requests();
        subject.cloud.ledger().weather.is_full = true;
        asked.label.lane = "full".to_owned();
        asked.token = ClientToken::fixed("01j0000000000000000000dddd");
        let refused = provider.create(&asked).await.unwrap_err();
        assert!(matches!(refused, ProviderError::Capacity { .. }), "{refused}");
        let late = emulator.requests().split_off(sent.len());
        for request in late {
            if sent.iter().all(|known| known.made_at != request.made_at) {
                sent.push(request);
            }
        }
        assert_eq!(places(name, &sent), Vec::<String>::new(), "no request made there is shown");
        assert_eq!(emulator.complaints(), Vec::<String>::new(), "{name}");
        let (mut shown, mut seen) = (Vec::new(), Vec::new());
        for request in sent {
            let path = request.url.split_once("emulator").map_or(request.url.as_str(), |(_, path)| path);
            let headers = request.headers.iter().filter(|(name, _)| HEADERS.contains(&name.as_str()));
            let headers: Vec<String> =
                headers.map(|(name, value)| format!("\n  {name}: {}", value.reveal())).collect();
            let query: Vec<String> =
                request.query.iter().map(|(name, value)| format!("\n  ?{name}={value}")).collect();
            let body = match &request.body {
                Some(Body::Json(body)) => format!("\n{}", serde_json::to_string_pretty(body).unwrap()),
                Some(Body::Form(form)) => form
                    .iter()
                    .map(|(name, value)| format!("\n  {name}={value}"))
                    .collect::<Vec<_>>()
                    .concat(),
                None => String::new(),
            };
            let text = format!("{}{}{body}", headers.concat(), query.concat());
            // One form is asked of many regions.
            let form = format!("{} {path}{text}", request.method);
            if !seen.contains(&form) {
                seen.push(form);
                shown.push(format!("{} {path}{}{text}", request.method, signed_for(&request)));
            }
        }
        // Operations and pages are many of one form.
        shown.dedup_by_key(|text| text.split("operation-").next().unwrap_or_default().to_owned());
        // A key that is made anew each time, and that nobody has the other half of.
        let filters = vec![
            ("ssh-ed25519 [A-Za-z0-9+/=]+", "ssh-ed25519 …"),
            (r#""created": "[0-9TZ:-]+""#, "\"created\": \"…\""),
        ];
        insta::with_settings!({prepend_module_to_snapshot => false, omit_expression => true, filters => filters}, {
            insta::assert_snapshot!(format!("requests_{name}"), shown.join("\n\n"));
        });
    }
}
