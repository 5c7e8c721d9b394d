//! Whole lanes in clouds that stand in for the real ones: the program speaks the vendor's API over HTTP to an emulator,
//! which boots a host on this machine with the user-data that it was given.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use lane::plan::{Digest, Fingerprint};
use lane::provider::http::{Link, Request, Response, Wire, WireError};
use lane::provider::{
    ClientToken, CreateRequest, Host, HostId, Label, Lineage, Provider, ProviderError, Region, Residue,
    Selector, Sku,
};
use lane::world::{SystemClock, World};

use crate::emulators::{self, Emulator, Refusal};
use crate::support::{Lab, can_boot_hosts, copy_tree, root, small};

/// An emulator behind a port of this machine, for as long as it is kept.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    pub(crate) emulator: Arc<dyn Emulator>,
    /// How many hosts were ever made.
    made: Arc<AtomicUsize>,
    _runtime: tokio::runtime::Runtime,
}

/// Containers that say they are what was asked for, listed some time after they were made.
#[derive(Debug)]
struct Containers {
    nspawn: Box<dyn Provider>,
    lag: Duration,
    asked: Mutex<BTreeMap<Label, (Sku, Region)>>,
    seen_from: Mutex<BTreeMap<HostId, Instant>>,
    made: Arc<AtomicUsize>,
}

#[async_trait]
impl Provider for Containers {
    async fn create(&self, request: &CreateRequest) -> Result<HostId, ProviderError> {
        let asked = (request.sku.clone(), request.region.clone());
        self.asked.lock().unwrap().insert(request.label.clone(), asked);
        let (sku, region) = (Sku::fixed("container"), Region::fixed("local"));
        let id = self.nspawn.create(&CreateRequest { sku, region, ..request.clone() }).await?;
        self.seen_from.lock().unwrap().entry(id.clone()).or_insert_with(|| Instant::now() + self.lag);
        self.made.fetch_add(1, Ordering::Relaxed);
        Ok(id)
    }

    async fn find(&self, selector: &Selector) -> Result<Vec<Host>, ProviderError> {
        let mut hosts = self.nspawn.find(selector).await?;
        let seen_from = self.seen_from.lock().unwrap();
        hosts.retain(|host| seen_from.get(&host.id).is_none_or(|from| *from <= Instant::now()));
        drop(seen_from);
        let asked = self.asked.lock().unwrap();
        for host in &mut hosts {
            if let Some((sku, region)) = asked.get(&host.label) {
                (host.sku, host.region) = (sku.clone(), region.clone());
            }
        }
        Ok(hosts)
    }

    async fn destroy(&self, id: &HostId) -> Result<(), ProviderError> {
        self.nspawn.destroy(id).await
    }

    async fn residue(&self, selector: &Selector) -> Result<Vec<Residue>, ProviderError> {
        self.nspawn.residue(selector).await
    }

    async fn set_expiry(&self, id: &HostId, expires_at: jiff::Timestamp) -> Result<(), ProviderError> {
        self.nspawn.set_expiry(id, expires_at).await
    }

    async fn console_log(&self, id: &HostId) -> Result<Option<String>, ProviderError> {
        self.nspawn.console_log(id).await
    }
}

/// Connects to containers in a folder of their own, so that hosts of other tests are not in its listings.
fn containers(folder: &Path, net: u8) -> Box<dyn Provider> {
    let vars = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .chain([("LANE_NSPAWN_DIR".to_owned(), folder.join("hosts").to_str().unwrap().to_owned())])
        .collect();
    let world = World::fixed(Arc::new(SystemClock), vars, folder.to_owned());
    let keys = serde_json::json!({
        "packages": ["cargo", "rustc", "gcc", "libc6-dev", "pkg-config", "python3", "curl"],
        "subnet": format!("10.{net}.0.0/16"),
    });
    let connect = lane::provider::by_name("nspawn").unwrap().connect;
    connect(&world, &keys, Link::Network).unwrap()
}

/// The way to a cloud on a bad day: the first host is made and the answer lost, every seventh request is to come later.
#[derive(Debug)]
struct Stormy {
    emulator: Arc<dyn Emulator>,
    provider: &'static str,
    made: Arc<AtomicUsize>,
    asked: AtomicU32,
    lost: AtomicBool,
}

#[async_trait]
impl Wire for Stormy {
    async fn send(&self, request: &Request) -> Result<Response, WireError> {
        if (self.asked.fetch_add(1, Ordering::Relaxed) + 1).is_multiple_of(7) {
            let mut later = emulators::refusal(self.provider, Refusal::Busy)?;
            later.headers.push(("retry-after".to_owned(), "1".to_owned()));
            return Ok(later);
        }
        let before = self.made.load(Ordering::Relaxed);
        let answer = self.emulator.send(request).await;
        if self.made.load(Ordering::Relaxed) > before && !self.lost.swap(true, Ordering::Relaxed) {
            return Err(WireError::Lost("by the test".to_owned()));
        }
        answer
    }
}

/// The way to a cloud that does as it is told and then says nothing, while it is `silent`, of a host made or deleted.
#[derive(Debug)]
struct Silent {
    emulator: Arc<dyn Emulator>,
    silent: Arc<AtomicBool>,
}

#[async_trait]
impl Wire for Silent {
    async fn send(&self, request: &Request) -> Result<Response, WireError> {
        let answer = self.emulator.send(request).await;
        let is_change = request.url.contains("/instances") && request.method != "GET";
        if is_change && self.silent.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        answer
    }
}

/// What is between the program and the emulator.
enum Way {
    Good,
    Stormy,
    Silent(Arc<AtomicBool>),
}

/// Serves an emulator of a provider over containers.
fn serve(provider: &'static str, folder: &Path, net: u8, way: Way) -> Served {
    let made = Arc::<AtomicUsize>::default();
    let hosts = Containers {
        nspawn: containers(folder, net),
        lag: Duration::from_secs(if matches!(way, Way::Stormy) { 10 } else { 0 }),
        asked: Mutex::default(),
        seen_from: Mutex::default(),
        made: Arc::clone(&made),
    };
    let emulator = emulators::over(provider, Arc::new(hosts)).unwrap();
    let wire: Arc<dyn Wire> = match way {
        Way::Good => Arc::<dyn Emulator>::clone(&emulator),
        Way::Stormy => Arc::new(Stormy {
            emulator: Arc::clone(&emulator),
            provider,
            made: Arc::clone(&made),
            asked: AtomicU32::new(0),
            lost: AtomicBool::new(false),
        }),
        Way::Silent(silent) => Arc::new(Silent { emulator: Arc::clone(&emulator), silent }),
    };
    let (address, runtime) = listen(wire);
    Served { address, emulator, made, _runtime: runtime }
}

/// Answers HTTP on a port of this machine, as long as the runtime is kept.
pub(crate) fn listen(wire: Arc<dyn Wire>) -> (SocketAddr, tokio::runtime::Runtime) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap();
    runtime.spawn(async move {
        loop {
            let Ok((stream, _)) = listener.accept().await else { return };
            let wire = Arc::clone(&wire);
            tokio::spawn(async move {
                let service = service_fn(move |request| answer(Arc::clone(&wire), request));
                drop(
                    hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await,
                );
            });
        }
    });
    (address, runtime)
}

/// Turns what came over the network into what an emulator reads; a lost answer closes the connection.
async fn answer(
    wire: Arc<dyn Wire>,
    request: hyper::Request<Incoming>,
) -> Result<hyper::Response<Full<Bytes>>, std::io::Error> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    if parts.uri.path() == "/my-address" {
        return Ok(hyper::Response::new(Full::from("127.0.0.1\n")));
    }
    let header =
        |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let pairs = |text: &[u8]| form_urlencoded::parse(text).into_owned().collect::<Vec<_>>();
    let mut asked =
        Request::new(parts.method.clone(), format!("http://{}{}", header("host"), parts.uri.path()));
    asked.query = pairs(parts.uri.query().unwrap_or_default().as_bytes());
    for (name, value) in &parts.headers {
        asked = asked.header(name.as_str(), value.to_str().unwrap_or_default());
    }
    if ["application/json", "application/x-amz-json"].iter().any(|of| header("content-type").starts_with(of))
    {
        asked = asked.json(serde_json::from_slice(&body).map_err(std::io::Error::other)?);
    } else if !body.is_empty() {
        asked = asked.form(pairs(&body));
    }
    let response = wire.send(&asked).await.map_err(|lost| match lost {
        WireError::NotSent(why) | WireError::Untrusted(why) | WireError::Lost(why) => {
            std::io::Error::other(why)
        }
    })?;
    let mut answered = hyper::Response::builder().status(response.status);
    for (name, value) in &response.headers {
        answered = answered.header(name, value);
    }
    answered.body(Full::from(response.body)).map_err(|error| std::io::Error::other(error.to_string()))
}

/// The spec of a cloud in `specs/`, whole but for what would come from the Internet or needs 64-bit guests: cloud-init
/// is the local lane's, whose toolchain is in the image.
fn lab(provider: &str) -> Lab {
    let name = format!("in-{provider}");
    let text = std::fs::read_to_string(root().join(format!("specs/{provider}.yaml"))).unwrap();
    let replaced = |text: String, from: &str, to: &str| {
        assert!(text.contains(from), "specs/{provider}.yaml holds no {from:?}");
        text.replacen(from, to, 1)
    };
    let mut text = replaced(text, &format!("\nname: {provider}\n"), "\nname: NAME\n");
    for (from, to) in [
        ("../cloud-init/kvm-host.yaml", "cloud-init/local.yaml"),
        ("  firecracker: {kind: command, run: firecracker --version}\n", ""),
        ("  # This lane exists for KVM: a test that finds none fails instead of being skipped.\n", ""),
        ("  env: {MVM_REQUIRE_KVM: \"1\"}\n", ""),
    ] {
        text = replaced(text, from, to);
    }
    // Where there is KVM, the probe in the container runs a guest.
    if !has_kvm() {
        text = replaced(text, "kvm: required", "kvm: optional");
    }
    let lab = Lab::new(&name, &text);
    for part in ["tests/fixtures/mvm", "tests/fixtures/mvmd"] {
        copy_tree(&root().join(part), &lab.path().join("home").join(part.rsplit('/').next().unwrap()));
    }
    copy_tree(&root().join("cloud-init"), &lab.path().join("cloud-init"));
    lab
}

fn has_kvm() -> bool {
    std::fs::File::options().read(true).write(true).open("/dev/kvm").is_ok()
}

fn in_cloud(lab: &mut Lab, provider: &str, served: &Served) {
    let variable = format!("LANE_{}_ENDPOINT", provider.to_ascii_uppercase());
    lab.set(&variable, &emulators::endpoint(provider, &served.address.to_string()));
    lab.set("LANE_ADDRESS_SERVICE", &format!("http://{}/my-address", served.address));
    lab.set("HOME", lab.path().join("home").to_str().unwrap());
    lab.set("GOOGLE_CLOUD_PROJECT", "my-project");
    lab.set("AZURE_SUBSCRIPTION_ID", "00000000-0000-0000-0000-000000000000");
}

fn whole_lane(provider: &'static str, net: u8) {
    if !can_boot_hosts() {
        return;
    }
    let mut lab = lab(provider);
    let served = serve(provider, lab.path(), net, Way::Good);
    in_cloud(&mut lab, provider, &served);
    // Dropped before the cloud is, so that a test that fails can still take its host down.
    let lab = lab;
    lab.run(&["run", lab.spec_arg()]).exits(0);
    nothing_is_left(&lab, &served);
    let sealed = sealed_journals(&lab);
    for step in ["smoke", "tests"] {
        let is_done = |line: &&str| line.contains("\"finished\"") && line.contains(&format!("\"{step}\""));
        assert!(sealed.lines().any(|line| is_done(&line)), "{step} did not run:\n{sealed}");
    }
    let junit = std::fs::read_to_string(lab.state().join("junit.xml")).unwrap();
    assert!(junit.contains("<testcase"), "{junit}");
}

/// One host was made, nothing of it is listed any more, and the cloud understood every request.
fn nothing_is_left(lab: &Lab, served: &Served) {
    let listed = lab.run(&["list", "--cloud", lab.spec_arg(), "--format", "json"]).exits(0).json();
    assert_eq!(listed["found"].as_array().unwrap().len(), 0, "{listed}");
    assert_eq!(served.emulator.leftovers(), Vec::<String>::new());
    assert_eq!(served.emulator.complaints(), Vec::<String>::new());
    assert_eq!(served.made.load(Ordering::Relaxed), 1, "hosts were made");
}

/// Reads what the journals of all runs so far were sealed as.
fn sealed_journals(lab: &Lab) -> String {
    let mut files: Vec<_> = std::fs::read_dir(lab.state().join("logs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
        .collect();
    files.sort();
    files.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect()
}

/// A small lane in a cloud.
fn small_in(name: &str, provider: &str, keys: &str) -> Lab {
    let lab = small(name, 0);
    let spec = format!("{name}.yaml");
    let text = lab.read(&spec);
    let (start, end) = (text.find("provider:").unwrap(), text.find("kvm:").unwrap());
    lab.write(&spec, &format!("{}provider: {{name: {provider}, {keys}}}\n{}", &text[..start], &text[end..]));
    lab
}

/// A small lane in a cloud whose first create answer is lost, whose listing lags and that throttles; `killed`: also the
/// process dies between the host's birth and the journal's word of it.
fn survives_a_storm(provider: &'static str, keys: &str, net: u8, killed: bool) {
    if !can_boot_hosts() {
        return;
    }
    let mut lab = small_in(&format!("storm-{provider}"), provider, keys);
    let served = serve(provider, lab.path(), net, Way::Stormy);
    in_cloud(&mut lab, provider, &served);
    let lab = lab;
    if killed {
        assert!(lab.kill_apply_when(|journal| {
            journal.contains("create_intended") && served.made.load(Ordering::Relaxed) > 0
        }));
        let journal = lab.journal();
        assert!(!journal.contains("host_named"), "it was killed too late:\n{journal}");
    }
    lab.apply().exits(0);
    assert_eq!(lab.changed_ids(), Vec::<String>::new());
    assert_eq!(lab.on_host("curl -s http://127.0.0.1:8000/"), "hello");
    lab.run(&["destroy", &lab.lane, "-y"]).exits(0);
    nothing_is_left(&lab, &served);
}

#[test]
fn real_host_lane_in_gcp_survives_lost_answers_and_lag() {
    survives_a_storm("gcp", "project: my-project, zone: us-central1-a", 95, false);
}

#[test]
fn real_host_lane_in_aws_survives_lost_answers_and_lag_and_a_kill() {
    survives_a_storm("aws", "region: us-east-1", 96, true);
}

#[test]
fn real_host_lane_in_azure_survives_lost_answers_and_lag() {
    survives_a_storm("azure", "subscription: 00000000-0000-0000-0000-000000000000", 97, false);
}

/// Starts a verb, waits until it waits for the cloud, and asks it twice to stop.
fn stop_twice(lab: &Lab, args: &[&str], is_waiting: impl Fn() -> bool) -> String {
    let said = lab.path().join("stopped.log");
    let log = std::fs::File::create(&said).unwrap();
    let mut child = lab.command(args).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_mins(2);
    let mut until = |is_so: &dyn Fn() -> bool| {
        while !is_so() {
            assert!(Instant::now() < deadline, "{args:?}: {}", lab.read("stopped.log"));
            assert_eq!(child.try_wait().unwrap(), None, "{args:?}: {}", lab.read("stopped.log"));
            std::thread::sleep(Duration::from_millis(10));
        }
        let signal = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
        assert!(signal.unwrap().success());
    };
    until(&is_waiting);
    until(&|| lab.read("stopped.log").contains("Ctrl-C again returns at once"));
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(7), "{args:?}: {}", lab.read("stopped.log"));
    lab.read("stopped.log")
}

#[test]
fn real_host_ctrl_c_twice_while_the_cloud_is_silent_says_that_it_may_cost_and_the_next_run_looks() {
    if !can_boot_hosts() {
        return;
    }
    let mut lab = small_in("hasty", "gcp", "project: my-project, zone: us-central1-a");
    let silent = Arc::new(AtomicBool::new(true));
    let served = serve("gcp", lab.path(), 90, Way::Silent(Arc::clone(&silent)));
    in_cloud(&mut lab, "gcp", &served);
    let lab = lab;
    let is_made = || served.made.load(Ordering::Relaxed) == 1;
    let said = stop_twice(&lab, &["apply", lab.spec_arg(), "-y"], is_made);
    assert!(said.contains("may still cost money"), "{said}");
    silent.store(false, Ordering::Relaxed);
    lab.apply().exits(0);
    assert_eq!(lab.on_host("curl -s http://127.0.0.1:8000/"), "hello");
    silent.store(true, Ordering::Relaxed);
    let is_asked = || served.emulator.requests().iter().any(|request| request.method == "DELETE");
    let said = stop_twice(&lab, &["destroy", &lab.lane, "-y"], is_asked);
    assert!(said.contains("may still cost money"), "{said}");
    silent.store(false, Ordering::Relaxed);
    lab.run(&["destroy", &lab.lane, "-y"]).exits(0);
    nothing_is_left(&lab, &served);
}

#[test]
fn real_host_nspawn_keeps_its_promises() {
    if !can_boot_hosts() {
        return;
    }
    let folder = tempfile::Builder::new().prefix("lane-test-").tempdir().unwrap();
    let nspawn = containers(folder.path(), 94);
    let entry = lane::provider::by_name("nspawn").unwrap();
    let request = |lineage: &'static str, token: &'static str| CreateRequest {
        label: Label { lane: "promises".to_owned(), lineage: Lineage::fixed(lineage) },
        sku: entry.default_sku.clone(),
        region: entry.default_region.clone(),
        image: entry.default_image.to_owned(),
        disk_bytes: 2_000_000_000,
        kvm: false,
        user_data: "#cloud-config\n{}\n".to_owned(),
        expires_at: "2126-05-06T12:00:00Z".parse().unwrap(),
        fingerprint: Fingerprint(Digest::of(token.as_bytes())),
        token: ClientToken::fixed(token),
        allow_from: vec![],
    };
    let mine = request("01j0000000000000000promise1", "01j0000000000000000000aaaa");
    let other = request("01j0000000000000000promise2", "01j0000000000000000000bbbb");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let nobody = HostId::new("lane-nobody-00000000");
    runtime.block_on(emulators::promises::keep("nspawn", nspawn.as_ref(), &mine, &other, &nobody));
}

#[test]
fn real_host_whole_lane_in_gcp() {
    whole_lane("gcp", 91);
}

#[test]
fn real_host_whole_lane_in_aws() {
    whole_lane("aws", 92);
}

#[test]
fn real_host_whole_lane_in_azure() {
    whole_lane("azure", 93);
}
