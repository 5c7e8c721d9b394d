//! The adapter of EC2 against moto, an emulator of AWS that nobody here wrote.
//!
//! moto knows no idempotency and lets a group go that is in use; what those are for is tested on our own emulator.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use lane::plan::{Digest, Fingerprint};
use lane::provider::http::{Link, Request, Reqwest, Response, Wire, WireError};
use lane::provider::{
    ClientToken, CreateRequest, HostStatus, Label, Lineage, Provider, ProviderError, Region, Selector, Sku,
    by_name,
};
use lane::world::{SystemClock, World};

use crate::support::{Lab, SMALL};

struct Moto {
    server: Child,
    endpoint: String,
}

impl Moto {
    /// Starts a server of its own on a free port; says so when moto is not there.
    fn start() -> Option<Self> {
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| crate::support::root().join("target"), PathBuf::from);
        let program = target.join("moto/bin/moto_server");
        if !program.exists() {
            assert!(
                std::env::var_os("CI").is_none(),
                "CI has to run the tests against moto: {}",
                program.display()
            );
            println!("left out: moto is not installed (tests/install-moto.sh)");
            return None;
        }
        let mut server = Command::new(program)
            .args(["-H", "127.0.0.1", "-p", "0"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(server.stderr.take().unwrap()).lines();
        let endpoint = lines
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| Some(line.split_once("Running on ")?.1.trim().to_owned()))
            .expect("moto says where it listens");
        // What it logs on must not fill its pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Some(Self { server, endpoint })
    }

    fn world(&self) -> World {
        let vars = [
            ("LANE_AWS_ENDPOINT", self.endpoint.as_str()),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
        ];
        let vars = vars.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        World::fixed(Arc::new(SystemClock), vars, PathBuf::from("/"))
    }

    fn provider(&self, loses: &'static str) -> Box<dyn Provider> {
        let world = self.world();
        let inner = Reqwest::new(&world, "aws").unwrap();
        let wire = Lossy { inner, loses, lost: AtomicBool::new(false) };
        (by_name("aws").unwrap().connect)(
            &world,
            &serde_json::json!({"region": "us-east-1"}),
            Link::Wire(Arc::new(wire)),
        )
        .unwrap()
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        drop(self.server.kill());
        drop(self.server.wait());
    }
}

/// Loses the first answer to an action, after it had its effect.
#[derive(Debug)]
struct Lossy {
    inner: Reqwest,
    loses: &'static str,
    lost: AtomicBool,
}

#[async_trait]
impl Wire for Lossy {
    async fn send(&self, request: &Request) -> Result<Response, WireError> {
        let answer = self.inner.send(request).await;
        if request.parameter("Action") == Some(self.loses) && !self.lost.swap(true, Ordering::Relaxed) {
            return Err(WireError::Lost("by the test".to_owned()));
        }
        answer
    }
}

fn request(lane: &str) -> CreateRequest {
    CreateRequest {
        label: Label {
            lane: lane.to_owned(),
            lineage: Lineage::new(ulid::Ulid::generate().to_string().to_ascii_lowercase()),
        },
        sku: Sku::fixed("m8i.xlarge"),
        region: Region::fixed("us-east-1"),
        image: "ami-12c6146b".to_owned(),
        disk_bytes: 50 << 30,
        kvm: true,
        user_data: "#cloud-config\n".to_owned(),
        expires_at: jiff::Timestamp::now() + jiff::SignedDuration::from_hours(1),
        fingerprint: Fingerprint(Digest::of(b"wanted")),
        token: ClientToken::new(ulid::Ulid::generate().to_string()),
        allow_from: vec!["203.0.113.7/32".to_owned()],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn moto_sees_a_whole_life() {
    let Some(moto) = Moto::start() else { return };
    let aws = moto.provider("");
    let (request, other) = (request("demo"), request("other"));
    let id = aws.create(&request).await.unwrap();
    let neighbour = aws.create(&other).await.unwrap();

    let mine = Selector::Label(request.label.clone());
    let found = aws.find(&mine).await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((&found[0].id, &found[0].label, found[0].status), (&id, &request.label, HostStatus::Running));
    assert_eq!(found[0].fingerprint.as_ref(), Some(&request.fingerprint));
    assert_eq!((&found[0].sku, &found[0].region), (&request.sku, &request.region));
    assert_eq!(found[0].expires_at, Some(request.expires_at));
    assert!(found[0].address.is_some());
    assert_eq!(aws.find(&Selector::Owned).await.unwrap().len(), 2);
    let kinds =
        |left: &[lane::provider::Residue]| left.iter().map(|left| left.kind.clone()).collect::<Vec<_>>();
    assert!(kinds(&aws.residue(&mine).await.unwrap()).contains(&"security group".to_owned()));

    let later = request.expires_at + jiff::SignedDuration::from_hours(1);
    aws.set_expiry(&id, later).await.unwrap();
    assert_eq!(aws.find(&mine).await.unwrap()[0].expires_at, Some(later));

    for _ in 0..2 {
        aws.destroy(&id).await.unwrap();
    }
    assert_eq!(aws.find(&mine).await.unwrap(), []);
    for left in aws.residue(&mine).await.unwrap() {
        aws.destroy(&left.host).await.unwrap();
    }
    assert_eq!(aws.residue(&mine).await.unwrap(), []);
    assert_eq!(aws.find(&Selector::Owned).await.unwrap()[0].id, neighbour);
}

#[tokio::test(flavor = "multi_thread")]
async fn moto_has_the_instance_whose_answer_was_lost() {
    let Some(moto) = Moto::start() else { return };
    let aws = moto.provider("RunInstances");
    let request = request("lost");
    let lost = aws.create(&request).await.unwrap_err();
    assert!(matches!(lost, ProviderError::Ambiguous { .. }), "{lost}");
    let found = aws.find(&Selector::Label(request.label.clone())).await.unwrap();
    assert_eq!(found.len(), 1, "it is there, once, to be adopted");
    assert_eq!(found[0].fingerprint.as_ref(), Some(&request.fingerprint));
}

/// Stands before moto, under another address.
#[derive(Debug)]
struct Proxy {
    lossy: Lossy,
    endpoint: String,
}

#[async_trait]
impl Wire for Proxy {
    async fn send(&self, request: &Request) -> Result<Response, WireError> {
        let mut passed = request.clone();
        passed.url = format!("{}/", self.endpoint);
        // The others are about a connection that ends here.
        passed.headers.retain(|(name, _)| name == "authorization" || name.starts_with("x-amz-"));
        let mut answer = self.lossy.send(&passed).await?;
        answer.headers.retain(|(name, _)| name == "content-type");
        Ok(answer)
    }
}

#[test]
fn moto_has_one_instance_after_lane_lost_the_answer_and_none_after_destroy() {
    let Some(moto) = Moto::start() else { return };
    let inner = Reqwest::new(&moto.world(), "aws").unwrap();
    let lossy = Lossy { inner, loses: "RunInstances", lost: AtomicBool::new(false) };
    let proxy = Arc::new(Proxy { lossy, endpoint: moto.endpoint.trim_end_matches('/').to_owned() });
    let (address, runtime) = crate::clouds::listen(Arc::<Proxy>::clone(&proxy));
    let aws = moto.provider("");
    let alive = || runtime.block_on(aws.find(&Selector::Owned)).unwrap();

    // Nobody answers at an instance of moto's, so each apply ends at the login.
    let mut lab = Lab::new(
        "lost",
        "version: 1\nname: NAME\nprovider: {name: aws, region: us-east-1}\nsku: m8i.xlarge\n\
         image: ami-12c6146b\nkvm: none\naccess: {allow_from: [203.0.113.7/32]}\ntimeouts: {ssh: 3s}\n",
    );
    lab.set("LANE_AWS_ENDPOINT", &format!("http://{address}"));
    lab.set("AWS_ACCESS_KEY_ID", "test");
    lab.set("AWS_SECRET_ACCESS_KEY", "test");
    let first = lab.run(&["apply", lab.spec_arg(), "-y"]);
    assert!(proxy.lossy.lost.load(Ordering::Relaxed), "no instance was asked for: {}", first.stderr);
    assert!(first.code != 0 && first.stderr.contains("ssh"), "{}", first.stderr);
    let found = alive();
    assert_eq!(found.len(), 1, "{}", first.stderr);
    let recorded = lab.run(&["status", "lost", "--format", "json"]).json()["host"]["id"].clone();
    assert_eq!(recorded, found[0].id.as_str(), "{}", first.stderr);

    let again = lab.run(&["apply", lab.spec_arg(), "-y"]);
    assert_ne!(again.code, 0, "{}", again.stderr);
    assert_eq!(alive().iter().map(|host| &host.id).collect::<Vec<_>>(), [&found[0].id], "{}", again.stderr);

    lab.run(&["destroy", "lost", "-y"]).exits(0);
    assert_eq!(alive(), []);
    assert_eq!(runtime.block_on(aws.residue(&Selector::Owned)).unwrap(), []);
}

#[test]
fn moto_is_swept_empty() {
    let Some(moto) = Moto::start() else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let aws = moto.provider("");
    runtime.block_on(async {
        for lane in ["one", "two"] {
            aws.create(&request(lane)).await.unwrap();
        }
    });
    let mut lab = Lab::new("sweeper", SMALL);
    lab.set("LANE_AWS_ENDPOINT", &moto.endpoint);
    lab.set("AWS_ACCESS_KEY_ID", "test");
    lab.set("AWS_SECRET_ACCESS_KEY", "test");
    let listed = lab.run(&["list", "--cloud", "aws", "--format", "json"]).exits(0).json();
    assert_eq!(listed["found"].as_array().unwrap().len(), 2, "{listed}");
    lab.run(&["sweep", "aws", "--all", "-y"]).exits(0);
    let listed = lab.run(&["list", "--cloud", "aws", "--format", "json"]).exits(0).json();
    assert_eq!(listed["found"].as_array().unwrap().len(), 0, "{listed}");
    assert_eq!(runtime.block_on(aws.residue(&Selector::Owned)).unwrap(), []);
}
