//! What a user reads when a cloud says no or cannot be asked: each case by the vendor's own answer over HTTP, with a message
//! of its own, a way out, and exit code 4.

use std::fmt::Write as _;
use std::sync::Arc;

use async_trait::async_trait;
use lane::provider::http::{Request, Response, Wire, WireError};
use lane::provider::{CreateRequest, Host, HostId, Provider, ProviderError, Residue, Selector};

use crate::clouds::listen;
use crate::emulators::{self, Emulator, Refusal};
use crate::support::Lab;

/// Refuses whatever it is asked.
#[derive(Debug)]
struct Always(Result<Response, WireError>);

#[async_trait]
impl Wire for Always {
    async fn send(&self, _request: &Request) -> Result<Response, WireError> {
        self.0.clone()
    }
}

/// A cloud in which nothing is and nothing can be made.
#[derive(Debug)]
struct NoRoom(Refusal);

#[async_trait]
impl Provider for NoRoom {
    async fn create(&self, _request: &CreateRequest) -> Result<HostId, ProviderError> {
        let (provider, message) = ("emulator", String::new());
        Err(match self.0 {
            Refusal::Full => ProviderError::Capacity { provider, message },
            _ => ProviderError::Quota { provider, message },
        })
    }

    async fn find(&self, _selector: &Selector) -> Result<Vec<Host>, ProviderError> {
        Ok(vec![])
    }

    async fn destroy(&self, _id: &HostId) -> Result<(), ProviderError> {
        Ok(())
    }

    async fn residue(&self, _selector: &Selector) -> Result<Vec<Residue>, ProviderError> {
        Ok(vec![])
    }
}

fn lab(provider: &str) -> Lab {
    let mut lab = Lab::new("no", &format!("version: 1\nname: NAME\nprovider: {{name: {provider}}}\n"));
    lab.set("GOOGLE_CLOUD_PROJECT", "my-project");
    lab.set("AZURE_SUBSCRIPTION_ID", "00000000-0000-0000-0000-000000000000");
    lab.set("HOME", lab.path().join("home").to_str().unwrap());
    lab.set("LANE_KEYRING", "none");
    lab
}

/// Runs it and keeps what standard error says, without what changes from run to run.
fn said(lab: &Lab, args: &[&str], address: &str) -> String {
    let ran = lab.run(args).exits(4);
    let error =
        ran.stderr.lines().skip_while(|line| !line.starts_with("error:")).collect::<Vec<_>>().join("\n");
    assert!(!error.is_empty(), "{}", ran.stderr);
    error.replace(address, "ADDRESS").replace(lab.path().to_str().unwrap(), "FOLDER")
}

fn endpoint_at(lab: &mut Lab, provider: &str, endpoint: &str) {
    lab.set(&format!("LANE_{}_ENDPOINT", provider.to_ascii_uppercase()), endpoint);
}

fn refusals(provider: &str) {
    let mut all = String::new();
    let always = [Refusal::Unauthorised, Refusal::Expired, Refusal::Forbidden, Refusal::Busy];
    for refusal in always {
        let (address, _running) = listen(Arc::new(Always(emulators::refusal(provider, refusal.clone()))));
        let mut lab = lab(provider);
        endpoint_at(&mut lab, provider, &emulators::endpoint(provider, &address.to_string()));
        let text = said(&lab, &["plan", lab.spec_arg()], &address.to_string());
        writeln!(all, "# {refusal:?}\n{text}\n").unwrap();
    }
    for refusal in [Refusal::OverQuota, Refusal::Full] {
        let name = format!("{refusal:?}, at the create");
        let emulator = emulators::over(provider, Arc::new(NoRoom(refusal))).unwrap();
        let (address, _running) = listen(Arc::<dyn Emulator>::clone(&emulator));
        let mut lab = lab(provider);
        endpoint_at(&mut lab, provider, &emulators::endpoint(provider, &address.to_string()));
        lab.set("LANE_ADDRESS_SERVICE", &format!("http://{address}/my-address"));
        let text = said(&lab, &["apply", lab.spec_arg(), "-y"], &address.to_string());
        writeln!(all, "# {name}\n{text}\n").unwrap();
        assert_eq!(emulator.complaints(), Vec::<String>::new());
        lab.run(&["destroy", "no", "-y"]).exits(0);
        assert_eq!(emulator.leftovers(), Vec::<String>::new());
    }
    let (address, _running) = listen(Arc::new(Always(emulators::refusal(provider, Refusal::Busy))));
    let unreachable = [
        ("no such name", "http://nowhere.invalid".to_owned()),
        ("nobody listens", "http://127.0.0.1:9".to_owned()),
        ("no TLS", format!("https://{address}")),
    ];
    for (name, endpoint) in unreachable {
        let mut lab = lab(provider);
        endpoint_at(&mut lab, provider, &endpoint);
        let text = said(&lab, &["plan", lab.spec_arg()], &address.to_string());
        writeln!(all, "# {name}\n{text}\n").unwrap();
    }
    let mut lab = lab(provider);
    // A machine in a cloud would have an identity of its own.
    lab.set("AWS_EC2_METADATA_DISABLED", "true");
    lab.set("GCE_METADATA_HOST", "127.0.0.1:9");
    lab.set("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://127.0.0.1:9");
    let text = said(&lab, &["plan", lab.spec_arg()], "nowhere");
    writeln!(all, "# no credentials\n{text}\n").unwrap();
    for (name, value) in emulators::wrong_credentials(provider) {
        lab.set(name, value);
        writeln!(all, "# {name}={value}").unwrap();
    }
    all.push_str(&said(&lab, &["plan", lab.spec_arg()], "nowhere at all"));
    insta::with_settings!({filters => vec![
        (r"\(operation operation-[0-9]+\)", "(operation …)"),
        (r"\d+(\.\d+)? ?(ms|s)\b", "… s"),
    ]}, {
        insta::assert_snapshot!(format!("refusals_{provider}"), all);
    });
}

#[test]
fn every_refusal_of_gcp_has_its_own_message() {
    refusals("gcp");
}

#[test]
fn every_refusal_of_aws_has_its_own_message() {
    refusals("aws");
}

#[test]
fn every_refusal_of_azure_has_its_own_message() {
    refusals("azure");
}
