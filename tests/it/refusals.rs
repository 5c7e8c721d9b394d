//! What a user reads when a cloud says no or cannot be asked: each case by the vendor's own answer over HTTP, with a message
//! of its own, a way out, and exit code 4.

use std::fmt::Write as _;
use std::process::{Command, Stdio};
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
pub(crate) struct NoRoom(pub(crate) Refusal);

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
    let mut lab =
        Lab::new("no", &format!("version: 1\nname: NAME\nprovider: {{name: {provider}}}\n")).hostless();
    lab.set("GOOGLE_CLOUD_PROJECT", "my-project");
    lab.set("AZURE_SUBSCRIPTION_ID", "00000000-0000-0000-0000-000000000000");
    lab.set("HOME", lab.path().join("home").to_str().unwrap());
    lab.set("LANE_KEYRING", "none");
    lab
}

/// Runs it and keeps what standard error says, without what changes from run to run.
fn said(lab: &Lab, args: &[&str], address: &str) -> String {
    let ran = lab.run(args).exits(4);
    // What failed in a step stands before the end, indented.
    let at = ran.stderr.find("error: ").unwrap_or_else(|| panic!("{}", ran.stderr));
    let (before, end) = ran.stderr.split_at(at);
    let steps = before.lines().filter(|line| line.starts_with("    ")).map(|line| format!("{line}\n"));
    let error = steps.collect::<String>() + end.trim_end();
    error.replace(address, "ADDRESS").replace(lab.path().to_str().unwrap(), "FOLDER")
}

fn endpoint_at(lab: &mut Lab, provider: &str, endpoint: &str) {
    lab.set(&format!("LANE_{}_ENDPOINT", provider.to_ascii_uppercase()), endpoint);
}

/// What is run, and what comes of it.
type Case<'a> = Box<dyn FnOnce() -> String + Send + 'a>;

fn refused_always(provider: &str, refusal: &Refusal) -> String {
    let (address, _running) = listen(Arc::new(Always(emulators::refusal(provider, refusal.clone()))));
    let mut lab = lab(provider);
    endpoint_at(&mut lab, provider, &emulators::endpoint(provider, &address.to_string()));
    let text = said(&lab, &["plan", lab.spec_arg()], &address.to_string());
    format!("# {refusal:?}\n{text}\n\n")
}

fn refused_at_the_create(provider: &str, refusal: Refusal) -> String {
    let name = format!("{refusal:?}, at the create");
    let emulator = emulators::over(provider, Arc::new(NoRoom(refusal))).unwrap();
    let (address, _running) = listen(Arc::<dyn Emulator>::clone(&emulator));
    let mut lab = lab(provider);
    endpoint_at(&mut lab, provider, &emulators::endpoint(provider, &address.to_string()));
    lab.set("LANE_ADDRESS_SERVICE", &format!("http://{address}/my-address"));
    let text = said(&lab, &["apply", lab.spec_arg(), "-y"], &address.to_string());
    assert_eq!(emulator.complaints(), Vec::<String>::new());
    assert_eq!(emulator.leftovers(), Vec::<String>::new(), "what was made before the refusal is still there");
    format!("# {name}\n{text}\n\n")
}

fn unreachable(provider: &str, name: &str, endpoint: &str) -> String {
    let (address, _running) = listen(Arc::new(Always(emulators::refusal(provider, Refusal::Busy))));
    let mut lab = lab(provider);
    endpoint_at(&mut lab, provider, &endpoint.replace("ADDRESS", &address.to_string()));
    let text = said(&lab, &["plan", lab.spec_arg()], &address.to_string());
    format!("# {name}\n{text}\n\n")
}

fn without_credentials(provider: &str) -> String {
    let mut all = String::new();
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
    all + &said(&lab, &["plan", lab.spec_arg()], "nowhere at all")
}

fn refusals(provider: &str) {
    let mut cases: Vec<Case<'_>> = vec![];
    for refusal in [Refusal::Unauthorised, Refusal::Expired, Refusal::Forbidden, Refusal::Busy] {
        cases.push(Box::new(move || refused_always(provider, &refusal)));
    }
    for refusal in [Refusal::OverQuota, Refusal::Full] {
        cases.push(Box::new(move || refused_at_the_create(provider, refusal)));
    }
    for (name, endpoint) in [
        ("no such name", "http://nowhere.invalid"),
        ("nobody listens", "http://127.0.0.1:9"),
        ("no TLS", "https://ADDRESS"),
    ] {
        cases.push(Box::new(move || unreachable(provider, name, endpoint)));
    }
    cases.push(Box::new(move || without_credentials(provider)));
    // Side by side: most of the time goes into the waits between tries, and for listings to catch up.
    let all: String = std::thread::scope(|scope| {
        let running: Vec<_> = cases.into_iter().map(|case| scope.spawn(case)).collect();
        running.into_iter().map(|case| case.join().unwrap()).collect()
    });
    insta::with_settings!({filters => vec![
        (r"\(operation operation-[0-9]+\)", "(operation …)"),
        // With and without that program.
        (r"`gcloud auth print-access-token`.* \(run", "`gcloud auth print-access-token` … (run"),
        // With and without a name server.
        (r"failed to lookup address information: .*", "failed to lookup address information: …"),
    ]}, {
        insta::assert_snapshot!(format!("refusals_{provider}"), all);
    });
}

/// The endpoint's name leads nowhere: only the proxy can have been asked.
#[test]
fn a_plan_is_made_through_a_proxy() {
    for provider in emulators::ADAPTERS {
        let emulator = emulators::over(provider, Arc::new(NoRoom(Refusal::Full))).unwrap();
        let (address, _running) = listen(Arc::<dyn Emulator>::clone(&emulator));
        let mut lab = lab(provider);
        endpoint_at(&mut lab, provider, &emulators::endpoint(provider, "cloud.invalid"));
        lab.set("NO_PROXY", "");
        lab.set("HTTP_PROXY", &format!("http://{address}"));
        lab.run(&["plan", lab.spec_arg()]).exits(0);
        assert!(!emulator.requests().is_empty(), "{provider}");
        lab.set("NO_PROXY", "cloud.invalid");
        lab.run(&["plan", lab.spec_arg()]).exits(4);
    }
}

/// A company's proxy has a certificate of the company's own authority.
#[test]
fn a_certificate_is_trusted_with_its_authority_alone() {
    let mut lab = lab("aws");
    let openssl = |line: &str| {
        let mut command = Command::new("openssl");
        command.args(line.split(' ')).current_dir(lab.path()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    lab.write("names", "subjectAltName=IP:127.0.0.1");
    for line in [
        format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=Authority"),
        format!("req {key} -keyout key.pem -out request.pem -subj /CN=localhost"),
        "x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out cert.pem"
            .to_owned(),
    ] {
        let Ok(status) = openssl(&line).status() else {
            println!("left out: openssl is not installed");
            return;
        };
        assert!(status.success(), "openssl {line}");
    }
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let serve = format!("s_server -accept 127.0.0.1:{port} -cert cert.pem -key key.pem -quiet -www");
    let mut server = openssl(&serve).spawn().unwrap();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(server.try_wait().unwrap().is_none(), "openssl s_server ended");
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    endpoint_at(&mut lab, "aws", &format!("https://127.0.0.1:{port}"));
    // It ends there: these credentials lead nowhere.
    lab.set("AWS_PROFILE", "nobody");
    lab.set("AWS_EC2_METADATA_DISABLED", "true");
    let reachability = |lab: &Lab| {
        let checks = lab.run(&["doctor", "aws", "--format", "json"]).exits(4).json()["checks"].clone();
        checks.as_array().unwrap().iter().find(|check| check["name"] == "reachability").unwrap().clone()
    };
    let stranger = reachability(&lab);
    lab.set("SSL_CERT_FILE", lab.path().join("ca.pem").to_str().unwrap());
    let known = reachability(&lab);
    server.kill().unwrap();
    server.wait().unwrap();
    let why = stranger["detail"].as_str().unwrap();
    assert!(why.contains("TLS fails") && why.contains("UnknownIssuer"), "{stranger}");
    assert_eq!((&stranger["state"], &known["state"]), (&"failed".into(), &"ok".into()), "{known}");
}

/// It does not get better by asking again, and only a person can sign in.
#[test]
fn an_ended_sso_session_is_told_at_once_with_the_way_back_in() {
    let lab = |signed_in: bool| {
        let mut lab = lab("aws");
        endpoint_at(&mut lab, "aws", "https://127.0.0.1:9");
        lab.set("AWS_PROFILE", "work");
        lab.set("AWS_EC2_METADATA_DISABLED", "true");
        let account = "sso_account_id = 123456789012\nsso_role_name = Admin\nregion = us-east-1";
        let session = "sso_region = us-east-1\nsso_start_url = https://company.awsapps.com/start";
        let profiles =
            format!("[profile work]\nsso_session = company\n{account}\n[sso-session company]\n{session}\n");
        lab.write("home/.aws/config", &profiles);
        if signed_in {
            // The name is the SHA-1 of the session's.
            lab.write(
                "home/.aws/sso/cache/71b21161ffa1e6516bcc072aaf5ef38cbe85b511.json",
                r#"{"accessToken": "old", "expiresAt": "2020-01-01T00:00:00Z"}"#,
            );
        }
        lab
    };
    for (signed_in, why) in [(true, "the SSO token has expired"), (false, "the cached SSO token")] {
        let lab = lab(signed_in);
        let began = std::time::Instant::now();
        let text = said(&lab, &["plan", lab.spec_arg()], "nowhere");
        assert!(began.elapsed() < std::time::Duration::from_secs(25), "{:?}: {text}", began.elapsed());
        assert!(text.contains("not authorised: the SSO session has ended"), "{text}");
        assert!(text.contains("`aws sso login --profile work`") && text.contains(why), "{text}");
    }
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
