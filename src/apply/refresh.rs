//! Looks at the cloud and, in one round trip, at the host. Decides nothing about what drift means.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::json;

use super::cloud::check_scope;
use super::steps::Connector;
use super::steps::host::{Python, SECRETS, UNITS, reply};
use crate::plan::{HostView, Observed, ObservedHost, Work};
use crate::provider::{HostStatus, Provider, ProviderError, Selector};
use crate::spec::Spec;
use crate::state::{HostRecord, Outcome, Record};
use crate::world::World;

pub(super) const OBSERVE: Python =
    Python { name: "observe", code: include_str!("steps/scripts/observe.py"), as_root: true };

/// What a refresh needs.
#[derive(Debug, Clone, Copy)]
pub struct RefreshInput<'a> {
    /// Clock, environment, folders.
    pub world: &'a World,
    /// What was last known.
    pub record: &'a Record,
    /// What is wanted; without it only the record says what to look at.
    pub spec: Option<&'a Spec>,
    /// The cloud.
    pub provider: &'a dyn Provider,
    /// The way to the host.
    pub connector: &'a dyn Connector,
    /// How long the host may take to answer.
    pub deadline: Duration,
}

/// Asks the cloud for the lane's host and, at the same time, the recorded host for what is on it.
///
/// A host that does not answer is no error; the view says so.
pub async fn refresh(run: &RefreshInput<'_>) -> Result<Observed, ProviderError> {
    check_scope(run.provider, run.record.host.as_ref(), &run.record.lane).await?;
    let label = run.record.label();
    let selector = Selector::Label(label.clone());
    let find = run.provider.find(&selector);
    let reachable = run.record.host.as_ref().filter(|host| host.address.is_some() && logged_in(run.record));
    let observe = async {
        match reachable {
            Some(host) => Some(observe(run, host).await),
            None => None,
        }
    };
    tokio::pin!(find, observe);
    let mut view = None;
    let mut hosts = loop {
        tokio::select! {
            biased;
            hosts = &mut find => break hosts?,
            seen = &mut observe, if view.is_none() => view = Some(seen),
        }
    };
    hosts.retain(|host| host.label == label);
    let host = match (hosts.pop(), hosts.is_empty()) {
        (None, _) => ObservedHost::Absent,
        (Some(host), true) => ObservedHost::Present(host),
        (Some(last), false) => {
            hosts.push(last);
            ObservedHost::Several(hosts)
        }
    };
    let recorded = run.record.host.as_ref().and_then(|host| host.id.as_ref());
    let ours = matches!(&host, ObservedHost::Present(host) if host.status == HostStatus::Running && Some(&host.id) == recorded);
    if !ours {
        // What answers at the old address is not the lane's host; nobody waits for it.
        return Ok(Observed { host, view: None, unreachable: None });
    }
    let seen = match view {
        Some(seen) => seen,
        None => observe.await,
    };
    Ok(match seen {
        Some(Ok(view)) => Observed { host, view: Some(view), unreachable: None },
        Some(Err(why)) => Observed { host, view: None, unreachable: Some(why) },
        None => Observed { host, view: None, unreachable: None },
    })
}

fn logged_in(record: &Record) -> bool {
    record.steps.get(&Work::AwaitSsh.id()).is_some_and(|step| step.outcome == Outcome::Done)
}

async fn observe(run: &RefreshInput<'_>, host: &HostRecord) -> Result<HostView, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let remote = run.connector.connect(host).map_err(|error| text(&error))?;
    let script = OBSERVE.script(None, &request(run, host), run.deadline).map_err(|error| text(&error))?;
    match tokio::time::timeout(run.deadline, remote.exec(script)).await {
        Err(_) => Err(format!("the host did not answer within {:?}", run.deadline)),
        Ok(Err(error)) => Err(text(&error)),
        Ok(Ok(output)) if output.code != 0 => Err(format!("the host could not be asked: {}", output.tail())),
        Ok(Ok(output)) => reply(OBSERVE.name, &output.stdout).map_err(|error| text(&error)),
    }
}

/// Names all that the spec wants on the host, and all that the record says was put there.
fn request(run: &RefreshInput<'_>, host: &HostRecord) -> serde_json::Value {
    let (mut services, mut files, mut sources) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    if let Some(spec) = run.spec {
        services.extend(spec.services.keys().map(ToString::to_string));
        files.extend(spec.files.keys().cloned());
        files.extend(spec.build.values().flat_map(|build| build.install.values().cloned()));
        sources.extend(spec.sources.values().map(|source| source.to.clone()));
    }
    for (id, step) in &run.record.steps {
        services.extend(id.as_str().strip_prefix("service/").map(str::to_owned));
        let paths = step
            .facts
            .keys()
            .filter_map(|key| key.strip_prefix("stat:").or_else(|| key.strip_prefix("output:")));
        files.extend(paths.map(str::to_owned));
    }
    json!({
        "marker": "/var/lib/lane/host.json", "user": host.user, "services": services, "files": files,
        "sources": sources, "units": UNITS, "secrets": SECRETS,
    })
}

#[cfg(test)]
mod tests {
    use super::super::steps::testing::{Bench, fingerprint, python_here};
    use super::*;
    use crate::state::StepRecord;

    async fn look(bench: &Bench, record: &Record) -> Result<Observed, ProviderError> {
        refresh(&RefreshInput {
            world: &bench.run.world,
            record,
            spec: Some(&bench.spec),
            provider: &bench.cloud,
            connector: &bench.host,
            deadline: Duration::from_secs(5),
        })
        .await
    }

    fn logged_in(bench: &Bench) -> Record {
        let mut record = bench.run.session.record();
        let done = StepRecord {
            outcome: Outcome::Done,
            fingerprint: fingerprint("x"),
            inputs: std::collections::BTreeMap::default(),
            at: bench.run.world.now(),
            duration_ms: 1,
            facts: [("stat:/etc/old".to_owned(), "1 2 3".to_owned())].into(),
        };
        record.steps.insert(Work::AwaitSsh.id(), done);
        record
    }

    const VIEW: &str =
        r#"{"lineage":"l","boot_id":"b","services":{},"files":{"/etc/old":null},"secrets":[],"sources":[]}"#;

    #[tokio::test(start_paused = true)]
    async fn the_host_is_asked_only_after_a_login_and_only_while_it_is_there() {
        let bench = Bench::new().with_host();
        let seen = look(&bench, &bench.run.session.record()).await.unwrap();
        assert!(
            matches!(seen.host, ObservedHost::Present(_))
                && seen.view.is_none()
                && seen.unreachable.is_none()
        );

        bench.host.answer(0, VIEW);
        let seen = look(&bench, &logged_in(&bench)).await.unwrap();
        assert_eq!(seen.view.unwrap().lineage.as_deref(), Some("l"));
        assert_eq!(bench.host.requests()[0]["files"], json!(["/etc/old"]));

        let why = look(&bench, &logged_in(&bench)).await.unwrap().unreachable.unwrap();
        assert!(why.contains("no connection"), "{why}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_host_costs_no_more_than_the_deadline_and_an_absent_one_nothing() {
        let mut bench = Bench::new().with_host();
        bench.host.slow = Duration::from_mins(1);
        let before = tokio::time::Instant::now();
        let seen = look(&bench, &logged_in(&bench)).await.unwrap();
        assert_eq!(seen.unreachable.as_deref(), Some("the host did not answer within 5s"));
        assert_eq!(before.elapsed(), Duration::from_secs(5));

        let record = logged_in(&bench);
        bench.cloud.destroy(record.host.as_ref().unwrap().id.as_ref().unwrap()).await.unwrap();
        let before = tokio::time::Instant::now();
        assert_eq!(look(&bench, &record).await.unwrap().host, ObservedHost::Absent);
        assert_eq!(before.elapsed(), Duration::ZERO);
    }

    #[test]
    fn the_observe_script_tells_what_is_there() {
        let folder = tempfile::tempdir().unwrap();
        let marker = folder.path().join("host.json");
        let text = br#"{"lineage": "abc", "lane": "t"}"#;
        crate::world::fs::write_atomic(&marker, text, crate::world::fs::Mode::Public).unwrap();
        let view = python_here(
            OBSERVE.code,
            &json!({"marker": marker, "user": "root", "services": [], "files": [marker, "/nonexistent"],
                "sources": [folder.path(), "/nonexistent"], "units": "/none", "secrets": folder.path()}),
            None,
        );
        let view: HostView = serde_json::from_value(view).unwrap();
        assert_eq!((view.lineage.as_deref(), view.boot_id.len()), (Some("abc"), 36));
        assert!(view.files[&marker.display().to_string()].is_some() && view.files["/nonexistent"].is_none());
        assert_eq!((view.secrets, view.sources.len()), (vec!["host.json".to_owned()], 1));
    }
}
