//! Whole lanes in clouds that stand in for the real ones: the program speaks the vendor's API over HTTP to an emulator,
//! which boots a host on this machine with the user-data that it was given.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use lane::plan::{Digest, Fingerprint};
use lane::provider::http::{Link, Request, Wire, WireError};
use lane::provider::{
    ClientToken, CreateRequest, Host, HostId, Label, Lineage, Provider, ProviderError, Region, Residue,
    Selector, Sku,
};
use lane::world::{SystemClock, World};

use crate::emulators::{self, Emulator};
use crate::support::{Lab, can_boot_hosts, copy_tree, root};

/// An emulator behind a port of this machine, for as long as it is kept.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    pub(crate) emulator: Arc<dyn Emulator>,
    _runtime: tokio::runtime::Runtime,
}

/// Containers that say they are what was asked for.
#[derive(Debug)]
struct Containers {
    nspawn: Box<dyn Provider>,
    asked: Mutex<BTreeMap<Label, (Sku, Region)>>,
}

#[async_trait]
impl Provider for Containers {
    async fn create(&self, request: &CreateRequest) -> Result<HostId, ProviderError> {
        let asked = (request.sku.clone(), request.region.clone());
        self.asked.lock().unwrap().insert(request.label.clone(), asked);
        let (sku, region) = (Sku::fixed("container"), Region::fixed("local"));
        self.nspawn.create(&CreateRequest { sku, region, ..request.clone() }).await
    }

    async fn find(&self, selector: &Selector) -> Result<Vec<Host>, ProviderError> {
        let mut hosts = self.nspawn.find(selector).await?;
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

/// Serves an emulator of a provider over containers.
pub(crate) fn serve(provider: &str, folder: &Path, net: u8) -> Served {
    let hosts = Containers { nspawn: containers(folder, net), asked: Mutex::default() };
    let emulator = emulators::over(provider, Arc::new(hosts)).unwrap();
    let (address, runtime) = listen(Arc::<dyn Emulator>::clone(&emulator));
    Served { address, emulator, _runtime: runtime }
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
    if header("content-type").starts_with("application/json") {
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
    let text = text
        .replace(&format!("\nname: {provider}\n"), "\nname: NAME\n")
        .replace("../cloud-init/kvm-host.yaml", "cloud-init/local.yaml")
        .replace("  firecracker: {kind: command, run: firecracker --version}\n", "")
        .replace("kvm: required", "kvm: optional")
        .replace("  # This lane exists for KVM: a test that finds none fails instead of being skipped.\n", "")
        .replace("  env: {MVM_REQUIRE_KVM: \"1\"}\n", "");
    let lab = Lab::new(&name, &text);
    for part in ["tests/fixtures/mvm", "tests/fixtures/mvmd"] {
        copy_tree(&root().join(part), &lab.path().join("home").join(part.rsplit('/').next().unwrap()));
    }
    copy_tree(&root().join("cloud-init"), &lab.path().join("cloud-init"));
    lab
}

fn in_cloud(lab: &mut Lab, provider: &str, served: &Served) {
    let variable = format!("LANE_{}_ENDPOINT", provider.to_ascii_uppercase());
    lab.set(&variable, &emulators::endpoint(provider, &served.address.to_string()));
    lab.set("LANE_ADDRESS_SERVICE", &format!("http://{}/my-address", served.address));
    lab.set("HOME", lab.path().join("home").to_str().unwrap());
    lab.set("GOOGLE_CLOUD_PROJECT", "my-project");
    lab.set("AZURE_SUBSCRIPTION_ID", "00000000-0000-0000-0000-000000000000");
}

fn whole_lane(provider: &str, net: u8) {
    if !can_boot_hosts() {
        return;
    }
    let mut lab = lab(provider);
    let served = serve(provider, lab.path(), net);
    in_cloud(&mut lab, provider, &served);
    let ran = lab.run(&["run", lab.spec_arg()]).exits(0);
    let listed = lab.run(&["list", "--cloud", lab.spec_arg(), "--format", "json"]).exits(0).json();
    assert_eq!(listed["found"].as_array().unwrap().len(), 0, "{listed}");
    assert_eq!(served.emulator.leftovers(), Vec::<String>::new());
    assert_eq!(served.emulator.complaints(), Vec::<String>::new());
    assert!(ran.stdout.contains("smoke") || ran.stderr.contains("smoke"), "{}{}", ran.stdout, ran.stderr);
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
