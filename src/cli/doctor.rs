//! `lane doctor`: what a lane needs on this machine and from its provider, and how to mend what is not right.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use clap::Args;
use jiff::fmt::rfc2822::DateTimeParser;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::inventory::KeyArgs;
use super::lane::{connect_over, entry_of, known_lanes};
use super::login::{self, Found};
use super::{Context, Format};
use crate::error::{Failure, Kind};
use crate::provider::http::{Request, WireError};
use crate::provider::{self, Entry, Link, Provider, ProviderError, Quota, Region};
use crate::report::reason::printable_lines;
use crate::spec::resolve_env_json;
use crate::world::keyring::Keyring;
use crate::world::{World, fs};

/// How long the provider's API may take to answer at all.
const REACH: Duration = Duration::from_secs(5);
/// How long a request that proves the credentials may take, with what it repeats.
const ASK: Duration = Duration::from_secs(20);
/// How long a program may take to tell its version.
const VERSION: Duration = Duration::from_secs(5);
/// A signature by a clock that is off by more is refused by some clouds.
const SKEW: SignedDuration = SignedDuration::from_secs(60);

/// Check this machine and the way to a provider, and say how to mend what is not right; changes nothing.
///
/// Exits with 4 if something failed. With no provider: this machine, and each provider that has credentials, be it in a file
/// of the vendor's own tools.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// A provider's name.
    #[arg(value_name = "PROVIDER")]
    provider: Option<String>,
    #[command(flatten)]
    keys: KeyArgs,
    /// What to write.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    Ok,
    Warning,
    Failed,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Check {
    /// `None`: this machine.
    provider: Option<&'static str>,
    name: String,
    state: State,
    detail: String,
    mend: Option<String>,
}

impl Check {
    fn new(name: &str, state: State, detail: impl Into<String>, mend: Option<String>) -> Self {
        Self { provider: None, name: name.to_owned(), state, detail: detail.into(), mend }
    }

    fn ok(check: &str, detail: impl Into<String>) -> Self {
        Self::new(check, State::Ok, detail, None)
    }

    fn warning(check: &str, detail: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::new(check, State::Warning, detail, Some(mend.into()))
    }

    fn failed(check: &str, detail: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::new(check, State::Failed, detail, Some(mend.into()))
    }
}

pub(super) async fn run(context: &Context, args: &DoctorArgs) -> Result<u8, Failure> {
    let world = &context.world;
    let entries = match &args.provider {
        Some(name) => vec![entry_of(name)?],
        None if args.keys.is_empty() => {
            let has = |entry: &&&'static Entry| {
                login::fill(world, entry, &json!({}), Keyring::open).1.is_some()
                    || file_of(world, entry).is_some()
            };
            provider::entries().iter().filter(has).copied().collect()
        }
        None => {
            return Err(Failure::new(Kind::Usage, "a key is of one provider")
                .hint("`lane doctor PROVIDER --set KEY=VALUE`"));
        }
    };
    let mut checks = machine(world).await;
    for entry in entries {
        let config = if args.keys.is_empty() { recorded_keys(context, entry)? } else { args.keys.config() };
        let of_provider = examine(world, entry, &config, Link::Network).await;
        checks.extend(of_provider.into_iter().map(|check| Check { provider: Some(entry.name), ..check }));
    }
    match args.format {
        Format::Json => {
            let json = json!({"format_version": 1, "checks": checks});
            context.ui.line(&serde_json::to_string_pretty(&json).unwrap_or_default());
        }
        Format::Text => context.ui.out(&text(&checks, context.ui.colour)),
    }
    let failed = checks.iter().filter(|check| check.state == State::Failed).count();
    if failed > 0 {
        return Err(Failure::new(Kind::Provider, format!("{failed} of {} checks failed", checks.len())));
    }
    Ok(0)
}

/// Returns the keys with which a lane recorded here uses a provider, if one does.
fn recorded_keys(context: &Context, entry: &Entry) -> Result<Value, Failure> {
    for dir in known_lanes(context)? {
        // A damaged lane is for `lane state repair`.
        if let Ok(Some(record)) = dir.load()
            && let Some(host) = record.host.filter(|host| host.provider == entry.name)
        {
            return Ok(host.provider_config);
        }
    }
    Ok(json!({}))
}

/// Looks at what every lane needs here.
async fn machine(world: &World) -> Vec<Check> {
    let mut checks = vec![
        version(world, "OpenSSH client", "ssh", "-V", "openssh-client").await,
        version(world, "rsync", "rsync", "--version", "rsync").await,
    ];
    checks.push(match Keyring::open(world) {
        Ok(keyring) => Check::ok("keyring", keyring.about()),
        Err(error) => Check::warning(
            "keyring",
            format!("none works: {error}"),
            "`lane login` cannot keep credentials here: set each provider's variables in the environment",
        ),
    });
    checks
}

async fn version(world: &World, check: &str, program: &str, flag: &str, package: &str) -> Check {
    match told_version(world, program, flag).await {
        Ok(version) => Check::ok(check, version),
        Err(why) => Check::failed(check, why, format!("install the package {package}")),
    }
}

/// Returns the first line that a program says of its version.
async fn told_version(world: &World, program: &str, flag: &str) -> Result<String, String> {
    let asked =
        world.command(program).arg(flag).stdin(std::process::Stdio::null()).kill_on_drop(true).output();
    match timeout(VERSION, asked).await {
        Ok(Ok(output)) if output.status.success() => {
            // OpenSSH tells its version on standard error.
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said).into_owned();
            Ok(said.lines().next().unwrap_or("no version is told").trim().to_owned())
        }
        Ok(Ok(output)) => Err(format!("`{program} {flag}` ended with {}", output.status)),
        Ok(Err(error)) => Err(format!("`{program}` cannot be run: {error}")),
        Err(_) => Err(format!("`{program} {flag}` does not end")),
    }
}

/// Looks at one provider: tools, reachability, clock, credentials, whether they work, and what they may make.
async fn examine(world: &World, entry: &'static Entry, config: &Value, link: Link) -> Vec<Check> {
    let mut checks = Vec::new();
    for tool in entry.tools {
        checks.push(installed(world, tool).await);
    }
    let config = &match resolve_env_json(world, config) {
        Ok(config) => config,
        Err(missing) => {
            let mend = "set it, or give the key by `--set KEY=VALUE`";
            checks.push(Check::failed("keys", missing.to_string(), mend));
            return checks;
        }
    };
    let mut reached = true;
    let address = (entry.endpoint)(world, config);
    if !address.is_empty() {
        let api = reach(world, entry, &address, link.clone()).await;
        reached = api.first().is_some_and(|check| check.state == State::Ok);
        checks.extend(api);
    }
    let (_, found) = login::fill(world, entry, config, Keyring::open);
    let named = credentials(world, entry, found.as_ref());
    if !reached {
        checks.extend(named);
        checks.push(Check::warning("whoami", "not asked, since the API is not reached", "mend that first"));
        return checks;
    }
    let provider = match connect_over(world, entry, config, link) {
        Ok((provider, _)) => provider,
        Err(failure) => {
            let mend = failure.hints.first().cloned();
            let mend = mend.map(|mend| format!("{mend}; a key is given by `--set KEY=VALUE`"));
            checks.extend(named);
            checks.push(Check::new("whoami", State::Failed, failure.message, mend));
            return checks;
        }
    };
    match whoami(entry, provider.as_ref(), found.as_ref()).await {
        Ok((check, origin)) => {
            // The provider knows best which of several were taken; a variable's value may be no credential by itself.
            let origin = match &found {
                Some(Found::Keyring(_)) => format!("{origin}, from the keyring"),
                _ => origin,
            };
            checks.extend(named.map(|_| Check::ok("credentials", origin)));
            checks.push(check);
            checks.extend(quotas(entry, config, provider.as_ref()).await);
        }
        Err(check) => {
            checks.extend(named);
            checks.push(check);
        }
    }
    checks
}

/// Looks for a program that may be run, and asks for its version; not each tells one.
async fn installed(world: &World, tool: &str) -> Check {
    let path = world.var("PATH").unwrap_or_default();
    let found = path.split(':').map(|folder| Path::new(folder).join(tool)).find(|file| fs::is_program(file));
    let Some(file) = found else {
        return Check::failed(
            tool,
            "no folder of PATH has such a program",
            "install it (README, 'Providers', names the packages), or add its folder to PATH",
        );
    };
    for flag in ["--version", "-V"] {
        if let Ok(version) = told_version(world, &file.display().to_string(), flag).await {
            return Check::ok(tool, format!("{version} ({})", file.display()));
        }
    }
    Check::ok(tool, format!("{}, which tells no version", file.display()))
}

/// Asks the API for anything at all, and compares the clocks.
async fn reach(world: &World, entry: &'static Entry, address: &str, link: Link) -> Vec<Check> {
    let wire = match link.open(world, entry.name) {
        Ok(wire) => wire,
        Err(error) => return vec![of_error("reachability", error)],
    };
    let began = Instant::now();
    let answer = timeout(REACH, wire.send(&Request::get(address))).await;
    let mend = "check name resolution, the proxy variables, the certificates and the provider's status page";
    match answer {
        Err(_) => {
            let why = format!("{address} does not answer within {} s", REACH.as_secs());
            vec![Check::failed("reachability", why, mend)]
        }
        Ok(Err(WireError::NotSent(why) | WireError::Lost(why) | WireError::Untrusted(why))) => {
            vec![Check::failed("reachability", format!("{address}: {why}"), mend)]
        }
        // Whatever it says to a stranger, it is there.
        Ok(Ok(answer)) => {
            let detail = format!("{address} answers after {} ms", began.elapsed().as_millis());
            let date =
                answer.header("date").and_then(|date| DateTimeParser::new().parse_timestamp(date).ok());
            vec![Check::ok("reachability", detail), clock(world.now(), date)]
        }
    }
}

fn clock(here: Timestamp, there: Option<Timestamp>) -> Check {
    let Some(there) = there else {
        return Check::warning("clock", "the API tells no time to compare with", "nothing needs mending");
    };
    let skew = here.duration_since(there);
    let seconds = skew.unsigned_abs().as_secs();
    if skew.abs() <= SKEW {
        return Check::ok("clock", format!("within {} s of the provider's", seconds.max(1)));
    }
    let way = if skew.is_negative() { "behind" } else { "ahead of" };
    Check::warning(
        "clock",
        format!(
            "{seconds} s {way} the provider's; signatures may be refused, and leases end at another time"
        ),
        "set this machine's clock, or let it be set: `timedatectl set-ntp true`",
    )
}

/// Returns a file in which the vendor's own tools keep credentials, if there is one.
fn file_of(world: &World, entry: &Entry) -> Option<PathBuf> {
    (entry.files)(world).into_iter().find(|file| fs::exists(file))
}

/// Says where credentials are found, never what they are; `None` where a provider needs none.
fn credentials(world: &World, entry: &Entry, found: Option<&Found>) -> Option<Check> {
    entry.credentials.first()?;
    Some(match found {
        Some(Found::Environment(variable)) => Check::ok("credentials", format!("{variable} is set")),
        Some(Found::Spec(key)) => Check::ok("credentials", format!("the spec's `{key}` names them")),
        Some(Found::Keyring(variable)) => Check::ok("credentials", format!("{variable} is in the keyring")),
        None => file_of(world, entry).map_or_else(
            || {
                let mut ways = vec![format!("set {}", login::variables(entry))];
                ways.extend((!entry.sign_in.is_empty()).then(|| format!("run `{}`", entry.sign_in)));
                ways.extend((!entry.kept.is_empty()).then(|| format!("run `lane login {}`", entry.name)));
                let nothing = "nothing is set in the environment, kept in the keyring, or in a file of the vendor's tools";
                Check::warning("credentials", nothing, ways.join(", or "))
            },
            |file| Check::ok("credentials", format!("{} is there", file.display())),
        ),
    })
}

/// Proves the credentials by asking who they belong to; returns too where they were found.
async fn whoami(
    entry: &'static Entry,
    provider: &dyn Provider,
    found: Option<&Found>,
) -> Result<(Check, String), Check> {
    match timeout(ASK, provider.whoami()).await {
        Ok(Ok(account)) => {
            let project = account.project.map(|project| format!(" in {project}")).unwrap_or_default();
            Ok((Check::ok("whoami", format!("{}{project}", account.account)), account.credentials))
        }
        // The trait's own answer, not this provider's: nobody has taught lane to ask.
        Ok(Err(ProviderError::Unavailable { provider, message, remedy })) if provider != entry.name => {
            Err(Check::warning("whoami", message, remedy))
        }
        Ok(Err(error @ ProviderError::Auth { .. })) => {
            let mend = match found {
                Some(Found::Keyring(_)) => login::start_over(entry),
                _ if entry.sign_in.is_empty() => format!("set {} anew", login::variables(entry)),
                _ => format!("run `{}`, or set {} anew", entry.sign_in, login::variables(entry)),
            };
            Err(Check::failed("whoami", error.to_string(), mend))
        }
        Ok(Err(error)) => Err(of_error("whoami", error)),
        Err(_) => {
            let why = format!("no answer within {} s", ASK.as_secs());
            Err(Check::failed("whoami", why, "try again in a while"))
        }
    }
}

/// Compares the account's limits with what a host of the default SKU takes.
async fn quotas(entry: &'static Entry, config: &Value, provider: &dyn Provider) -> Vec<Check> {
    let region = config[entry.region_key].as_str().map_or_else(|| entry.default_region.clone(), Region::new);
    let sku = &entry.default_sku;
    let found = match timeout(ASK, provider.quotas(sku, &region)).await {
        Ok(Ok(found)) => found,
        // Not everybody who may make hosts may read the limits.
        Ok(Err(error)) => {
            let mend = "a create tells it too: look at the quotas in the provider's console";
            return vec![Check::warning("quota", error.to_string(), mend)];
        }
        Err(_) => return vec![Check::warning("quota", "no answer", "try again in a while")],
    };
    let check = |quota: &Quota| {
        let used = quota.used.map(|used| format!(", {used} in use")).unwrap_or_default();
        let detail = format!("{}: {}{used}; {sku} takes {}", quota.name, quota.limit, quota.takes);
        if quota.admits() {
            Check::ok("quota", detail)
        } else {
            Check::failed("quota", detail, "ask the provider for more, or take another region or `sku`")
        }
    };
    found.iter().map(check).collect()
}

fn of_error(check: &str, error: ProviderError) -> Check {
    let failure = Failure::from(error);
    Check::new(check, State::Failed, failure.message, failure.hints.into_iter().next())
}

fn text(checks: &[Check], colour: bool) -> String {
    let paint = |style: Style, text: &str| {
        if colour { format!("{style}{text}{style:#}") } else { text.to_owned() }
    };
    let width = checks.iter().map(|check| check.name.chars().count()).max().unwrap_or_default();
    let (mut text, mut section) = (String::new(), None);
    for check in checks {
        if section != Some(check.provider) {
            section = Some(check.provider);
            text.extend([check.provider.unwrap_or("this machine"), "\n"]);
        }
        let (word, style) = match check.state {
            State::Ok => ("ok", AnsiColor::Green.on_default()),
            State::Warning => ("warning", AnsiColor::Yellow.on_default()),
            State::Failed => ("failed", AnsiColor::Red.on_default()),
        };
        let detail = printable_lines(&check.detail).replace('\n', " ");
        let word = paint(style, &format!("{word:<7}"));
        text.extend([format!("  {word}  {:width$}  {}\n", check.name, detail.trim_end())]);
        if let Some(mend) = &check.mend {
            text.extend([format!("  {:7}  {:width$}  -> {}\n", "", "", printable_lines(mend).trim_end())]);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use async_trait::async_trait;

    use super::*;
    use crate::provider::http::{Response, Wire};
    use crate::world::SystemClock;

    /// Answers every request in the same way, or never.
    #[derive(Debug)]
    struct Says(Option<Result<Response, WireError>>);

    #[async_trait]
    impl Wire for Says {
        async fn send(&self, _: &Request) -> Result<Response, WireError> {
            match &self.0 {
                Some(answer) => answer.clone(),
                None => std::future::pending().await,
            }
        }
    }

    fn says(answer: Option<Result<Response, WireError>>) -> Link {
        Link::Wire(Arc::new(Says(answer)))
    }

    fn world(variables: &[(&str, &str)]) -> World {
        let mut variables: BTreeMap<_, _> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        variables.insert("LANE_KEYRING".to_owned(), "none".to_owned());
        World::fixed(Arc::new(SystemClock), variables, PathBuf::from("/"))
    }

    fn states(checks: &[Check]) -> Vec<(&str, State)> {
        checks.iter().map(|check| (check.name.as_str(), check.state)).collect()
    }

    /// An account of each vendor that has room for nothing more.
    #[derive(Debug)]
    struct UsedUp;

    #[async_trait]
    impl Wire for UsedUp {
        async fn send(&self, request: &Request) -> Result<Response, WireError> {
            let types = "<DescribeInstanceTypesResponse><instanceTypeSet><item><vCpuInfo><defaultVCpus>96\
                </defaultVCpus></vCpuInfo></item></instanceTypeSet></DescribeInstanceTypesResponse>";
            if request.parameter("Action") == Some("DescribeInstanceTypes") {
                return Ok(Response { status: 200, headers: vec![], body: types.into() });
            }
            let body = if request.headers.iter().any(|(name, _)| name == "x-amz-target") {
                serde_json::json!({"Quota": {"QuotaName": "Running On-Demand instances", "Value": 32.0}})
            } else if request.url.contains("/usages") {
                let usage = |name: &str, used: u32| serde_json::json!({"name": {"value": name}, "limit": 10, "currentValue": used});
                serde_json::json!({"value": [usage("cores", 4), usage("standardDSv3Family", 7)]})
            } else {
                let quota = |metric: &str, limit: f64, usage: f64| serde_json::json!({"metric": metric, "limit": limit, "usage": usage});
                serde_json::json!({"quotas": [
                    quota("N2_CPUS", 24.0, 21.0), quota("SSD_TOTAL_GB", 500.0, 451.0),
                    quota("IN_USE_ADDRESSES", 8.0, 7.0),
                ]})
            };
            Ok(Response::json(200, &body))
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_account_without_room_fails_and_is_told_what_is_full() {
        for (name, keys, full, fits) in [
            ("aws", serde_json::json!({}), &["Running On-Demand instances"][..], &[][..]),
            ("azure", serde_json::json!({"subscription": "mine"}), &["standardDSv3Family"], &["cores"]),
            (
                "gcp",
                serde_json::json!({"project": "mine"}),
                &["N2_CPUS", "SSD_TOTAL_GB"],
                &["IN_USE_ADDRESSES"],
            ),
        ] {
            let entry = provider::by_name(name).unwrap();
            let variable = format!("LANE_{}_ENDPOINT", name.to_ascii_uppercase());
            let world = world(&[(&variable, "http://emulator")]);
            let provider = (entry.connect)(&world, &keys, Link::Wire(Arc::new(UsedUp))).unwrap();
            let checks = quotas(entry, &keys, provider.as_ref()).await;
            let of = |state: State, names: &[&str]| {
                let found: Vec<_> = checks.iter().filter(|check| check.state == state).collect();
                found.len() == names.len()
                    && found.iter().zip(names).all(|(check, name)| check.detail.starts_with(name))
            };
            assert!(
                of(State::Failed, full),
                "{name}: {:?}",
                checks.iter().map(|c| &c.detail).collect::<Vec<_>>()
            );
            assert!(
                of(State::Ok, fits),
                "{name}: {:?}",
                checks.iter().map(|c| &c.detail).collect::<Vec<_>>()
            );
        }
    }

    #[test]
    fn a_clock_may_be_a_minute_off() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        assert_eq!(clock(at(1_000), Some(at(1_060))).state, State::Ok);
        let behind = clock(at(1_000), Some(at(1_061)));
        assert!(behind.state == State::Warning && behind.detail.starts_with("61 s behind"), "{behind:?}");
        let ahead = clock(at(9_000), Some(at(1_000)));
        assert!(ahead.detail.starts_with("8000 s ahead of"), "{ahead:?}");
        assert_eq!(clock(at(1_000), None).state, State::Warning);
    }

    #[tokio::test]
    async fn an_api_that_answers_is_reached_whatever_it_says() {
        let gcp = provider::by_name("gcp").unwrap();
        let date = "Wed, 06 May 2026 12:00:00 GMT".to_owned();
        let answer = Response {
            status: 200,
            headers: vec![("date".to_owned(), date)],
            body: br#"{"name": "p", "email": "a@b"}"#.to_vec(),
        };
        let set = world(&[("CLOUDSDK_AUTH_ACCESS_TOKEN", "hunter2")]);
        let checks = examine(&set, gcp, &json!({"project": "p"}), says(Some(Ok(answer.clone())))).await;
        assert_eq!(
            states(&checks),
            [
                ("reachability", State::Ok),
                ("clock", State::Warning),
                ("credentials", State::Ok),
                ("whoami", State::Ok)
            ]
        );
        let shown = text(&checks, false);
        assert!(shown.contains("CLOUDSDK_AUTH_ACCESS_TOKEN\n") && shown.contains("a@b in p"), "{shown}");
        assert!(!shown.contains("hunter2"), "{shown}");
        let refused = Response { status: 401, body: b"{}".to_vec(), ..answer };
        let checks = examine(&set, gcp, &json!({"project": "p"}), says(Some(Ok(refused)))).await;
        assert_eq!(checks[0].state, State::Ok);
        let last = checks.last().unwrap();
        assert!(last.state == State::Failed && last.mend.is_some(), "{last:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_api_that_is_not_reached_fails_within_five_seconds() {
        let gcp = provider::by_name("gcp").unwrap();
        let began = Instant::now();
        let checks = examine(&world(&[]), gcp, &json!({"project": "p"}), says(None)).await;
        assert_eq!(began.elapsed(), REACH);
        assert_eq!(
            states(&checks),
            [("reachability", State::Failed), ("credentials", State::Warning), ("whoami", State::Warning)]
        );
        let lost = says(Some(Err(WireError::NotSent("dns error".to_owned()))));
        let checks = examine(&world(&[]), gcp, &json!({}), lost).await;
        assert!(checks[0].detail.ends_with("dns error") && checks[0].mend.is_some(), "{checks:?}");
    }

    #[tokio::test]
    async fn a_tool_is_looked_for_in_path_and_may_be_run_and_tells_its_version() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = format!("/nowhere:{}:/usr/bin:/bin", folder.path().display());
        let (set, file) = (world(&[("PATH", &path)]), folder.path().join("lane-test-tool"));
        fs::write_atomic(&file, b"#!/bin/sh\n[ \"$1\" = -V ] && echo tool 7.1\n", fs::Mode::Public).unwrap();
        let check = installed(&set, "lane-test-tool").await;
        assert_eq!(check.state, State::Failed, "nobody may run it: {check:?}");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
        let check = installed(&set, "lane-test-tool").await;
        assert!(check.state == State::Ok && check.detail.starts_with("tool 7.1 ("), "{check:?}");
    }

    #[tokio::test]
    async fn the_address_of_another_endpoint_or_region_is_the_one_that_is_asked() {
        let aws = provider::by_name("aws").unwrap();
        let asked = async |variables: &[(&str, &str)], config: Value| {
            let lost = says(Some(Err(WireError::NotSent("refused".to_owned()))));
            examine(&world(variables), aws, &config, lost).await[0].detail.clone()
        };
        let here = [("AWS_ENDPOINT_URL_EC2", "http://127.0.0.1:1"), ("THERE", "eu-west-1")];
        assert_eq!(asked(&here, json!({})).await, "http://127.0.0.1:1: refused");
        let region = asked(&here[1..], json!({"region": "${env:THERE}"})).await;
        assert_eq!(region, "https://ec2.eu-west-1.amazonaws.com: refused");
        let missing = asked(&[], json!({"region": "${env:THERE}"})).await;
        assert!(missing.contains("`THERE` is not set"), "{missing}");
    }

    #[test]
    fn whoever_signed_in_with_the_vendors_tools_is_a_user_too() {
        let home = tempfile::tempdir().unwrap();
        let at = home.path().display().to_string();
        let files = [
            ("aws", ".aws/config", ("HOME", at.clone())),
            ("azure", ".azure/msal_token_cache.json", ("HOME", at.clone())),
            ("gcp", "sdk/application_default_credentials.json", ("CLOUDSDK_CONFIG", format!("{at}/sdk"))),
        ];
        for (name, file, (variable, value)) in files {
            let (entry, set) = (provider::by_name(name).unwrap(), world(&[(variable, &value)]));
            assert_eq!(file_of(&set, entry), None, "{name}");
            let file = home.path().join(file);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write_atomic(&file, b"{}", fs::Mode::Private).unwrap();
            assert_eq!(file_of(&set, entry), Some(file), "{name}");
            assert_eq!(credentials(&set, entry, None).unwrap().state, State::Ok, "{name}");
        }
    }

    #[test]
    fn what_is_shown_says_how_to_mend_it() {
        let checks = [
            Check::ok("rsync", "rsync  version 3.2.7"),
            Check::warning("keyring", "none works", "set variables"),
            Check { provider: Some("gcp"), ..Check::failed("whoami", "no\u{1b}[31m", "log in") },
        ];
        insta::assert_snapshot!(text(&checks, false));
    }
}
