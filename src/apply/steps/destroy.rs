//! `destroy/host`: takes the host down and proves that nothing of it is left. Decides nothing about what comes after.

use super::{StepContext, StepError, StepOutcome};
use crate::apply::cloud::{Known, check_scope, may_cost_of};
use crate::apply::receipt::Receipt;
use crate::state::JournalEvent;

/// Takes the host down; with nothing to take down it says so.
pub(super) async fn run(context: &StepContext) -> Result<StepOutcome, StepError> {
    let receipt = take_down(context).await?;
    let hosts = receipt.destroyed.iter().filter(|object| object.kind == "host");
    let hosts: Vec<&str> = hosts.map(|object| object.id.as_str()).collect();
    let summary = match hosts.as_slice() {
        [] => "nothing was there".to_owned(),
        hosts => format!("{} gone, verified twice", hosts.join(", ")),
    };
    Ok(StepOutcome { summary, ..StepOutcome::default() })
}

/// Destroys every host with exactly our label, and the recorded one, and leaves the receipt in the lane's logs.
pub(super) async fn take_down(context: &StepContext) -> Result<Receipt, StepError> {
    let known = context.run.session.record().host.as_ref().map(Known::of);
    take_down_with(context, known).await
}

/// Does the same with another word on what is known than the record's.
pub(super) async fn take_down_with(
    context: &StepContext,
    known: Option<Known>,
) -> Result<Receipt, StepError> {
    let session = &context.run.session;
    let recorded = session.record().host;
    check_scope(context.run.provider.as_ref(), recorded.as_ref(), session.dir().lane())
        .await
        .map_err(|error| may_cost_of(&error))?;
    session.append(JournalEvent::DestroyIntended { id: known.as_ref().and_then(|host| host.id.clone()) })?;
    if let Some(host) = recorded.as_ref().filter(|host| host.address.is_some())
        && let Ok(remote) = context.run.connector.connect(host)
    {
        remote.close().await;
    }
    let label = session.record().label();
    let receipt = context.cloud().take_down(&label, known.as_ref(), context.step.timeout).await?;
    if !receipt.destroyed.is_empty() {
        // The host is gone whether or not its receipt can be kept.
        context.note(match receipt.file(&session.dir().logs()) {
            Ok(filed) => format!("receipt: {}, sha256 {}", filed.path.display(), filed.sha256),
            Err(error) => format!("no receipt in {}: {error}", session.dir().logs().display()),
        });
    }
    // The receipt first: after this nobody takes anything down again, and none would ever be written.
    session.append(JournalEvent::HostGone {})?;
    Ok(receipt)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::super::testing::{Bench, LAG, fingerprint};
    use super::*;
    use crate::plan::{Action, Work};
    use crate::provider::Residue;
    use crate::world::fs;

    async fn destroy(bench: &Bench) -> Result<StepOutcome, StepError> {
        run(&bench.context(Work::Destroy, Action::Destroy)).await
    }

    #[tokio::test(start_paused = true)]
    async fn gone_means_twice_empty_the_lag_apart_and_leaves_a_receipt() {
        let bench = Bench::new().with_host();
        bench.cloud.with(|state| {
            state.linger = Duration::from_secs(5);
            state.failing_finds = 2;
        });
        let before = Instant::now();
        assert_eq!(destroy(&bench).await.unwrap().summary, "h1 gone, verified twice");
        assert!(before.elapsed() >= Duration::from_secs(5) + LAG);
        assert!(bench.cloud.alive().is_empty());
        assert!(bench.run.session.record().host.is_none());
        let logs = bench.run.session.dir().logs();
        let name = format!("receipt-{}-20260506T120000Z.json", bench.label());
        let bytes = fs::read(&logs.join(&name)).unwrap();
        let checked = std::process::Command::new("sha256sum")
            .args(["--check", &format!("{name}.sha256")])
            .current_dir(&logs)
            .output()
            .unwrap();
        assert!(checked.status.success(), "{checked:?}");
        let receipt: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!(receipt["destroyed"], serde_json::json!([{"kind": "host", "id": "h1"}]));
        assert_eq!(receipt["empty_listings"].as_array().unwrap().len(), 2);
        assert_eq!(receipt["spend_estimate"], "0.50 EUR");
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_a_lost_create_made_is_waited_for_and_destroyed() {
        let bench = Bench::new();
        bench.record_host(None, "wanted");
        let late = bench.cloud.put(&bench.label(), Some(&fingerprint("wanted")), LAG.mul_f32(0.9));
        destroy(&bench).await.unwrap();
        assert_eq!(bench.cloud.with(|state| state.destroyed.clone()), [late]);
        assert!(bench.cloud.alive().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn only_our_exact_label_is_destroyed() {
        let bench = Bench::new().with_host();
        let foreign = crate::provider::Label { lane: "t2".to_owned(), ..bench.label() };
        let foreign = bench.cloud.put(&foreign, None, Duration::ZERO);
        destroy(&bench).await.unwrap();
        assert_eq!(bench.cloud.alive(), [foreign]);
    }

    #[tokio::test(start_paused = true)]
    async fn several_hosts_of_ours_all_go() {
        let bench = Bench::new().with_host();
        bench.cloud.put(&bench.label(), None, Duration::ZERO);
        destroy(&bench).await.unwrap();
        assert!(bench.cloud.alive().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_may_cost_and_the_host_stays_recorded() {
        let bench = Bench::new().with_host();
        let disk = Residue {
            kind: "disk".to_owned(),
            id: "d7".to_owned(),
            detail: "50 GB".to_owned(),
            host: crate::provider::HostId::fixed("h1"),
            label: None,
            created_at: None,
            expires_at: None,
        };
        bench.cloud.with(|state| state.residue.push(disk));
        let error = destroy(&bench).await.unwrap_err();
        assert!(matches!(error, StepError::MayCost(_)));
        let error = error.to_string();
        assert!(
            error.starts_with("something may still cost money") && error.contains("disk d7 (50 GB)"),
            "{error}"
        );
        assert!(bench.run.session.record().host.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_cloud_that_cannot_be_asked_may_cost() {
        let bench = Bench::new().with_host();
        bench.cloud.with(|state| state.failing_finds = 99);
        assert!(matches!(destroy(&bench).await.unwrap_err(), StepError::MayCost(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_cannot_be_looked_for_is_still_asked_to_go() {
        let bench = Bench::new().with_host();
        bench.cloud.with(|state| state.locked_out = true);
        assert!(matches!(destroy(&bench).await.unwrap_err(), StepError::MayCost(_)));
        assert!(bench.cloud.alive().is_empty());
        assert!(bench.run.session.record().host.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_of_another_account_is_neither_destroyed_nor_forgotten() {
        let bench = Bench::new();
        bench.cloud.with(|state| state.scope = Some("account one".to_owned()));
        let bench = bench.with_host();
        bench.cloud.with(|state| state.scope = Some("account two".to_owned()));
        let error = destroy(&bench).await.unwrap_err();
        assert!(matches!(error, StepError::MayCost(_)), "{error}");
        let error = error.to_string();
        assert!(error.contains("account one") && error.contains("account two"), "{error}");
        assert!(error.contains("lane state forget t --host"), "{error}");
        assert!(bench.cloud.with(|state| state.destroyed.is_empty()));
        let record = bench.run.session.record();
        assert!(record.host.is_some() && !record.in_doubt.contains_key(&Work::Destroy.id()));
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_to_destroy_is_said() {
        let bench = Bench::new();
        assert_eq!(destroy(&bench).await.unwrap().summary, "nothing was there");
    }
}
