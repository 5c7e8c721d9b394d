//! `provision/host`: the crash-safe create, once for all clouds. No vendor's word, no SSH.
//!
//! Intent in the journal → ask the cloud for the label → create at most once → name in the journal → address.
//! A create whose answer was lost is settled by looking for the label, never by sending it again blindly.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use tokio::time::Instant;

use super::destroy::{take_down, take_down_with};
use super::host::{Backoff, RETRIES};
use super::{StepContext, StepError, StepOutcome};
use crate::apply::cloud::{check_scope, may_cost_of};
use crate::plan::{Action, Digest, Fingerprint, Work};
use crate::provider::{ClientToken, CreateRequest, Host, HostId, HostStatus, ProviderError, Selector};
use crate::spec::{self, AllowFrom, Spec};
use crate::state::{HostRecord, JournalEvent, Record};
use crate::transport::LaneKeys;
use crate::user_data::{TimerAction, UserDataInput, render};

/// Makes sure that there is exactly one host of this lane, made for this step's fingerprint, with a known address.
pub(super) async fn run(context: &StepContext) -> Result<StepOutcome, StepError> {
    let spec = context.spec()?;
    check_spend(context, &spec)?;
    let record = context.run.session.record();
    check_scope(context.run.provider.as_ref(), record.host.as_ref(), &record.lane).await?;
    let scope = context.cloud().scope().await?;
    // A recorded host that is not listed may be a fresh one that the listing still hides.
    let mut in_doubt =
        record.host.is_some() || context.in_doubt.as_ref().is_some_and(|doubt| doubt.token.is_some());
    let mut how = "created";
    let tainted = record.host.as_ref().and_then(|host| host.tainted.clone());
    // What a take-down that was cut off has not seen gone, may be billed still, also where no host is recorded.
    let half_gone = record.in_doubt.contains_key(&Work::Destroy.id());
    if context.step.action == Action::Replace || tainted.is_some() || half_gone {
        if let Some(why) = tainted {
            context.note(format!("the host is tainted ({why}); it goes first"));
        }
        take_down(context).await?;
        (in_doubt, how) = (false, "replaced");
    }

    let mut wish: Option<Wish> = None;
    let mut ambiguous = 0;
    let mut backoff = Backoff::new();
    loop {
        let found = settle(context, in_doubt).await.map_err(|error| match error {
            // An unanswered create that nobody could look for stays in doubt.
            StepError::Provider(error)
                if context.run.session.record().host.is_some_and(|host| host.id.is_none()) =>
            {
                may_cost_of(&error)
            }
            other => other,
        })?;
        if let Some(host) = found {
            match unfit(&host, &context.run.session.record(), &context.step.fingerprint) {
                None => {
                    if how == "created" && ambiguous == 0 {
                        how = "adopted";
                    }
                    adopt(context, &spec, &host, scope)?;
                    break;
                }
                Some(why) => {
                    context.note(format!("{} carries our label, but {why}; it goes first", host.id));
                    if context.run.session.record().host.is_none() {
                        adopt(context, &spec, &host, scope.clone())?;
                    }
                    context.run.session.append(JournalEvent::HostTainted { why })?;
                    take_down(context).await?;
                    (in_doubt, how, wish) = (false, "replaced", None);
                    continue;
                }
            }
        }
        match context.run.session.record().host {
            // A host that a person deleted often leaves a disk or an address behind, and that is billed.
            Some(HostRecord { id: Some(id), .. }) => {
                context.note(format!("host {id} is not listed any more; what is left of it goes first"));
                take_down(context).await?;
            }
            // So does a create that was cut short; what it made for another spec would stand in the way.
            Some(host) if !host.fingerprint.is_of(&context.step.fingerprint) => {
                context
                    .note("an earlier create was for another spec; what is left of it goes first".to_owned());
                take_down(context).await?;
            }
            _ => {}
        }
        if context.run.stopping.is_cancelled() {
            return Err(StepError::Stopped);
        }
        let wish = match wish {
            Some(ref mut wish) => wish,
            None => wish.insert(Wish::new(context, &spec, scope.clone())?),
        };
        context.run.session.append(JournalEvent::CreateIntended {
            host: wish.record.clone(),
            token: wish.request.token.clone(),
        })?;
        match context.run.provider.create(&wish.request).await {
            Ok(id) => {
                context.run.session.append(JournalEvent::HostNamed { id })?;
                break;
            }
            Err(error @ ProviderError::Ambiguous { .. }) if ambiguous < RETRIES => {
                context.note(format!("{error}; looks for the label"));
                ambiguous += 1;
                in_doubt = true;
            }
            Err(error @ ProviderError::Transient { .. }) if backoff.tries < RETRIES => {
                context.note(format!("{error}; tries again"));
                // What an unanswered create left in doubt stays in doubt, under the token that was sent.
                if !in_doubt {
                    wish.request.token = ClientToken::new(context.run.world.fresh_ulid());
                }
                context.pause(backoff.next()).await?;
            }
            Err(error @ (ProviderError::Ambiguous { .. } | ProviderError::Transient { .. })) => {
                return Err(error.into());
            }
            Err(error) => return Err(refused(context, error, in_doubt).await),
        }
    }
    let host = wait_for_address(context).await?;
    let summary = format!("{how} {} at {}", host.0, host.1);
    let mut facts = BTreeMap::from([("host_id".to_owned(), host.0.to_string())]);
    if let Some(id) = context.run.image_id.clone().filter(|_| wish.is_some()) {
        facts.insert("image_id".to_owned(), id);
    }
    Ok(StepOutcome { summary, facts })
}

/// Takes away what a create made before it was refused: an address, say, which is billed.
async fn refused(context: &StepContext, error: ProviderError, in_doubt: bool) -> StepError {
    let label = context.run.session.record().label();
    let left = match context.cloud().residue(&Selector::Label(label)).await {
        Ok(left) if left.is_empty() => return error.into(),
        Ok(left) => left.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        Err(_) => "nobody could say what".to_owned(),
    };
    context.note(format!("{error}; what was made before that goes again: {left}"));
    // Where no create before was in doubt, none made a host that a listing may hide: the proof need not wait for one.
    let taken = if in_doubt { take_down(context).await } else { take_down_with(context, None).await };
    match taken {
        Ok(_) => error.into(),
        Err(StepError::MayCost(left)) => StepError::MayCost(format!("{left}; before that: {error}")),
        Err(other) => other,
    }
}

/// What a create is going to ask for, and what the record says of it.
struct Wish {
    request: CreateRequest,
    record: HostRecord,
}

impl Wish {
    fn new(context: &StepContext, spec: &Spec, scope: Option<String>) -> Result<Self, StepError> {
        let run = &context.run;
        let record = host_record(context, spec, scope, run.world.now(), None)?;
        let request = CreateRequest {
            label: run.session.record().label(),
            sku: spec.sku.clone(),
            region: spec.region.clone(),
            image: run.image_id.clone().unwrap_or_else(|| spec.image.clone()),
            disk_bytes: spec.disk_bytes,
            kvm: spec.kvm != crate::spec::KvmNeed::None,
            user_data: record.1,
            expires_at: record.0.expires_at,
            fingerprint: context.step.fingerprint.clone(),
            token: ClientToken::new(context.run.world.fresh_ulid()),
            allow_from: match &spec.access.allow_from {
                AllowFrom::Auto => vec![],
                AllowFrom::Cidrs(cidrs) => cidrs.clone(),
            },
        };
        Ok(Self { request, record: record.0 })
    }
}

/// Makes the record of a host that begins its life now, and its user-data.
fn host_record(
    context: &StepContext,
    spec: &Spec,
    scope: Option<String>,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
) -> Result<(HostRecord, String), StepError> {
    let run = &context.run;
    let failed = |error: &dyn std::fmt::Display| StepError::Failed(format!("user-data: {error}"));
    let lease = SignedDuration::try_from(spec.lease.ttl).map_err(|error| failed(&error))?;
    let expires_at = match expires_at {
        Some(at) => at,
        None => created_at.checked_add(lease).map_err(|error| failed(&error))?,
    };
    let label = run.session.record().label();
    let keys = LaneKeys::load_or_create(&run.session.dir().keys(), &label.to_string())?;
    let user_file = match &spec.cloud_init {
        None => None,
        Some(file) => Some((
            file.written.as_str(),
            run.inputs
                .texts
                .get(&file.path)
                .map(String::as_str)
                .ok_or_else(|| failed(&format!("{} is not on this machine", file.path.display())))?,
        )),
    };
    let user_data = render(&UserDataInput {
        label: &label.to_string(),
        lineage: label.lineage.as_str(),
        lane: &label.lane,
        user: &spec.access.user,
        lane_public_key: &keys.user_public,
        authorized_keys: &spec.access.authorized_keys,
        host_private_key: &keys.host.private_pem,
        host_public_key: &keys.host.public,
        expires_at,
        timer_action: if run.entry.timer_stops_bill { TimerAction::PowerOff } else { TimerAction::None },
        user_file,
    })
    .map_err(|error| failed(&error))?;
    let (size, limit) = (user_data.full.len(), run.entry.user_data_limit);
    if size > limit {
        return Err(StepError::Failed(format!(
            "user-data has {size} bytes and {} takes {limit}: the cloud_init file is too large",
            run.entry.name
        )));
    }
    let shown: Digest = run.session.put_content(&user_data.shown)?;
    let record = HostRecord {
        id: None,
        provider: spec.provider.name.clone(),
        scope,
        provider_config: spec.provider.config.clone(),
        sku: spec.sku.clone(),
        region: spec.region.clone(),
        image: spec.image.clone(),
        user: spec.access.user.clone(),
        address: None,
        ssh_port: 22,
        created_at,
        expires_at,
        fingerprint: context.step.fingerprint.clone(),
        user_data: shown,
        tainted: None,
    };
    Ok((record, user_data.full))
}

/// Looks for the lane's host; in doubt, goes on looking for as long as the cloud may hide a fresh one.
async fn settle(context: &StepContext, in_doubt: bool) -> Result<Option<Host>, StepError> {
    let label = context.run.session.record().label();
    let lag = context.run.entry.listing_lag;
    let until = Instant::now() + lag;
    if in_doubt && !lag.is_zero() {
        let seconds = lag.as_secs();
        context.note(format!("an earlier host may still be hidden; looks for {label} for up to {seconds} s"));
    }
    loop {
        // An answer that took long tells of the moment in which it was asked for.
        let asked = Instant::now();
        let mut hosts = context.cloud().find(&label).await?;
        match hosts.len() {
            0 if in_doubt && asked < until => {
                let left = until.saturating_duration_since(Instant::now());
                context
                    .pause((lag / 10).clamp(Duration::from_millis(200), Duration::from_secs(5)).min(left))
                    .await?;
            }
            0 | 1 => return Ok(hosts.pop()),
            _ => {
                let all: Vec<String> = hosts
                    .iter()
                    .map(|host| format!("{} ({} in {}, {:?})", host.id, host.sku, host.region, host.status))
                    .collect();
                return Err(StepError::Failed(format!(
                    "{} hosts carry the label {label}, and only a person can say which one is meant: {}",
                    all.len(),
                    all.join(", ")
                )));
            }
        }
    }
}

/// Says why a found host cannot be taken, if so.
fn unfit(found: &Host, record: &Record, wanted: &Fingerprint) -> Option<String> {
    if record.in_doubt.contains_key(&Work::Destroy.id()) {
        return Some("its destroy was begun".to_owned());
    }
    if found.status == HostStatus::Stopped {
        return Some("it is switched off".to_owned());
    }
    let fits = match (&found.fingerprint, &record.host) {
        // A cloud's label may be shorter than a digest.
        (Some(found), _) => found.is_of(wanted),
        // A cloud that labels after the create may have been cut short; then our own intent says what it is.
        (None, Some(recorded)) => recorded.fingerprint.is_of(wanted),
        (None, None) => false,
    };
    (!fits).then(|| "it was made for another spec".to_owned())
}

/// Puts a found host into the record.
fn adopt(context: &StepContext, spec: &Spec, host: &Host, scope: Option<String>) -> Result<(), StepError> {
    let session = &context.run.session;
    match session.record().host {
        Some(recorded) if recorded.id.as_ref() == Some(&host.id) => return Ok(()),
        Some(recorded) if recorded.id.is_none() => {}
        _ => {
            let created_at = host.created_at.unwrap_or_else(|| context.run.world.now());
            let (mut record, _) = host_record(context, spec, scope, created_at, host.expires_at)?;
            (record.sku, record.region) = (host.sku.clone(), host.region.clone());
            let token = ClientToken::new(String::new());
            session.append(JournalEvent::CreateIntended { host: record, token })?;
        }
    }
    Ok(session.append(JournalEvent::HostNamed { id: host.id.clone() })?)
}

/// Waits until the cloud says where the host is reached.
async fn wait_for_address(context: &StepContext) -> Result<(HostId, std::net::IpAddr), StepError> {
    let session = &context.run.session;
    let nobody = || StepError::Failed("the host's name is not in the record".to_owned());
    let id = session.record().host.and_then(|host| host.id).ok_or_else(nobody)?;
    let label = session.record().label();
    let deadline = context.deadline();
    let mut backoff = Backoff::new();
    let mut absent_since: Option<Instant> = None;
    loop {
        let asked = Instant::now();
        let found = context.cloud().find(&label).await?.into_iter().find(|host| host.id == id);
        let seen = match &found {
            Some(Host {
                address: Some(address),
                status: HostStatus::Running | HostStatus::Starting,
                ssh_port,
                ..
            }) => {
                let known = session
                    .record()
                    .host
                    .is_some_and(|host| host.address == Some(*address) && host.ssh_port == *ssh_port);
                if !known {
                    session.append(JournalEvent::HostAddressed { address: *address, ssh_port: *ssh_port })?;
                }
                return Ok((id, *address));
            }
            Some(host) if host.status == HostStatus::Stopped => "it went down".to_owned(),
            Some(_) => "it has no address yet".to_owned(),
            None => "it is not in the listing".to_owned(),
        };
        match &found {
            Some(_) => absent_since = None,
            // No listing hides a host for longer than this: it was there, and is not any more.
            None if asked - *absent_since.get_or_insert(asked) > context.run.entry.listing_lag => {
                let fate = context.run.provider.fate(&id).await.ok().flatten();
                let why =
                    fate.unwrap_or_else(|| "the cloud lists it no more and does not say why".to_owned());
                return Err(StepError::Failed(format!("host {id} is gone: {why}; run `lane apply` again")));
            }
            None => {}
        }
        let down = found.is_some_and(|host| host.status == HostStatus::Stopped);
        if down || Instant::now() >= deadline {
            let console = context.console_tail().await;
            let when = if down { String::new() } else { format!(" within {:?}", context.step.timeout) };
            return Err(StepError::Failed(format!("host {id} did not come up{when}: {seen}{console}")));
        }
        context.pause(backoff.next()).await?;
    }
}

/// Refuses a host whose worst case costs more than the spec allows.
fn check_spend(context: &StepContext, spec: &Spec) -> Result<(), StepError> {
    let Some(limit) = &spec.lease.max_spend else { return Ok(()) };
    let Some(price) = spec::price(Some(spec), context.run.entry, &spec.sku, &spec.region) else {
        return Err(StepError::Failed(format!(
            "max_spend is {limit}, and no price is known for {} in {}: write what an hour costs into the spec, as `price: 0.25 USD`",
            spec.sku, spec.region
        )));
    };
    let worst = price.per_hour.for_duration(spec.lease.ttl);
    if worst.currency != limit.currency {
        return Err(StepError::Failed(format!(
            "max_spend is {limit}, and {} is priced in {}: they cannot be compared",
            spec.sku, worst.currency
        )));
    }
    if worst.micros > limit.micros {
        return Err(StepError::Failed(format!(
            "{} costs {} an hour, so up to {worst} until its lease ends; max_spend is {limit}",
            spec.sku, price.per_hour
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Bench, CreateFault, LAG, fingerprint};
    use super::*;
    use crate::plan::Work;
    use crate::provider::Label;
    use crate::provider::Money;

    async fn provision(bench: &Bench) -> Result<StepOutcome, StepError> {
        run(&bench.context(Work::Provision, Action::Create)).await
    }

    fn recorded(bench: &Bench) -> HostRecord {
        bench.run.session.record().host.unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_plain_create_asks_once_and_records_name_and_address() {
        let bench = Bench::new();
        let outcome = provision(&bench).await.unwrap();
        assert_eq!(outcome.summary, "created h1 at 10.0.0.1");
        let (host, sent) = (recorded(&bench), bench.cloud.with(|state| state.creates.clone()));
        assert_eq!((host.id, sent.len()), (Some(HostId::fixed("h1")), 1));
        assert_eq!(sent[0].expires_at.to_string(), "2026-05-06T14:00:00Z");
        assert_eq!(host.expires_at, sent[0].expires_at);
        // A second time it only looks.
        assert!(provision(&bench).await.unwrap().summary.starts_with("adopted"));
        assert_eq!(bench.cloud.with(|state| state.creates.len()), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reply_lost_after_the_effect_is_settled_by_looking_although_the_listing_lags() {
        let bench = Bench::new();
        bench.cloud.with(|state| {
            state.faults.push_back(CreateFault::LostAfter);
            state.lag = LAG.mul_f32(0.9);
        });
        provision(&bench).await.unwrap();
        assert_eq!(bench.cloud.with(|state| state.creates.len()), 1);
        assert_eq!(recorded(&bench).id, Some(HostId::fixed("h1")));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_lost_before_the_effect_is_sent_again_only_after_the_whole_lag() {
        let bench = Bench::new();
        bench.cloud.with(|state| state.faults.push_back(CreateFault::LostBefore));
        let before = Instant::now();
        provision(&bench).await.unwrap();
        assert!(before.elapsed() >= LAG);
        let sent = bench.cloud.with(|state| state.creates.clone());
        assert_eq!(sent.len(), 2);
        assert_eq!(sent[0].token, sent[1].token, "an idempotent cloud must see the repeat");
        assert_eq!(bench.cloud.alive().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_create_that_an_earlier_run_left_in_doubt_is_found_late_and_not_repeated() {
        let bench = Bench::new();
        bench.record_host(None, "wanted");
        bench.cloud.put(&bench.label(), Some(&fingerprint("wanted")), LAG / 2);
        provision(&bench).await.unwrap();
        assert_eq!(bench.cloud.with(|state| state.creates.len()), 0);
        assert_eq!(recorded(&bench).id, Some(HostId::fixed("h1")));
        assert_eq!(recorded(&bench).created_at.to_string(), "2026-05-06T10:00:00Z");
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_cloud_is_asked_again_and_then_given_up() {
        let bench = Bench::new();
        bench.cloud.with(|state| state.faults.extend([CreateFault::Later, CreateFault::Later]));
        provision(&bench).await.unwrap();
        assert_eq!(bench.cloud.with(|state| state.creates.len()), 3);

        let bench = Bench::new();
        bench.cloud.with(|state| state.faults.extend([CreateFault::Later; 9]));
        let error = provision(&bench).await.unwrap_err();
        assert!(matches!(error, StepError::Provider(ProviderError::Transient { .. })), "{error}");
        assert_eq!(bench.cloud.with(|state| state.creates.len()), 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_with_our_label_is_adopted_and_one_of_a_foreign_lane_is_not_touched() {
        let bench = Bench::new();
        let foreign = Label { lane: "other".to_owned(), ..bench.label() };
        let foreign = bench.cloud.put(&foreign, Some(&fingerprint("wanted")), Duration::ZERO);
        let ours = bench.cloud.put(&bench.label(), Some(&fingerprint("wanted")), Duration::ZERO);
        assert!(provision(&bench).await.unwrap().summary.starts_with("adopted h2"));
        assert_eq!(recorded(&bench).id, Some(ours));
        assert!(bench.cloud.alive().contains(&foreign));
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_made_for_another_spec_goes_before_a_new_one_comes() {
        let bench = Bench::new();
        let old = bench.cloud.put(&bench.label(), Some(&fingerprint("older")), Duration::ZERO);
        bench.cloud.with(|state| state.linger = Duration::from_secs(4));
        assert!(provision(&bench).await.unwrap().summary.starts_with("replaced"));
        assert_eq!(bench.cloud.with(|state| state.destroyed.clone()), [old]);
        assert_eq!(bench.cloud.alive(), [HostId::fixed("h2")]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_was_cut_short_and_is_off_goes_first() {
        let bench = Bench::new();
        bench.record_host(None, "wanted");
        let half = bench.cloud.put(&bench.label(), None, Duration::ZERO);
        bench.cloud.change_host(&half, |host| host.status = HostStatus::Stopped);
        provision(&bench).await.unwrap();
        assert_eq!(bench.cloud.with(|state| state.destroyed.clone()), [half]);
        assert_eq!(bench.cloud.alive().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn several_hosts_are_all_named_and_none_is_touched() {
        let bench = Bench::new();
        for _ in 0..2 {
            bench.cloud.put(&bench.label(), Some(&fingerprint("wanted")), Duration::ZERO);
        }
        let error = provision(&bench).await.unwrap_err().to_string();
        assert!(error.contains("h1 (") && error.contains("h2 (") && error.starts_with("2 hosts"), "{error}");
        assert_eq!(bench.cloud.alive().len(), 2);
        assert_eq!(bench.cloud.with(|state| state.creates.len()), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn replace_takes_the_old_host_down_first() {
        let bench = Bench::new().with_host();
        let outcome = run(&bench.context(Work::Provision, Action::Replace)).await.unwrap();
        assert_eq!(outcome.summary, "replaced h2 at 10.0.0.1");
        assert_eq!(bench.cloud.alive(), [HostId::fixed("h2")]);
    }

    #[tokio::test(start_paused = true)]
    async fn no_address_in_time_shows_the_console() {
        let bench = Bench::new();
        bench.cloud.with(|state| {
            state.no_address = true;
            state.console = Some("first\nkernel panic\n".to_owned());
        });
        let error = provision(&bench).await.unwrap_err().to_string();
        assert!(
            error.contains("within 60s") && error.contains("no address") && error.contains("  kernel panic"),
            "{error}"
        );
        assert_eq!(recorded(&bench).id, Some(HostId::fixed("h1")), "the journal knows what to destroy");
    }

    #[tokio::test(start_paused = true)]
    async fn a_lost_create_that_nobody_can_look_for_stays_in_doubt() {
        let bench = Bench::new();
        bench.record_host(None, "wanted");
        bench.cloud.with(|state| state.locked_out = true);
        let error = provision(&bench).await.unwrap_err();
        assert!(matches!(error, StepError::MayCost(_)), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_whose_destroy_was_begun_is_not_adopted() {
        let bench = Bench::new().with_host();
        bench.run.session.append(JournalEvent::DestroyIntended { id: recorded(&bench).id }).unwrap();
        assert!(provision(&bench).await.unwrap().summary.starts_with("replaced"));
        assert_eq!(bench.cloud.alive(), [HostId::fixed("h2")]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_named_host_that_is_gone_is_not_waited_for() {
        let bench = Bench::new();
        bench.cloud.with(|state| state.lag = Duration::from_hours(1));
        let before = Instant::now();
        let error = provision(&bench).await.unwrap_err().to_string();
        assert!(
            error.starts_with("host h1 is gone:") && error.ends_with("run `lane apply` again"),
            "{error}"
        );
        assert!(before.elapsed() < LAG * 2, "{:?}", before.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn the_scope_is_recorded_and_another_one_makes_nothing() {
        let bench = Bench::new();
        bench.cloud.with(|state| state.scope = Some("one".to_owned()));
        provision(&bench).await.unwrap();
        assert_eq!(recorded(&bench).scope.as_deref(), Some("one"));
        bench.cloud.with(|state| state.scope = Some("two".to_owned()));
        let error = provision(&bench).await.unwrap_err();
        assert!(matches!(error, StepError::Provider(ProviderError::Unavailable { .. })), "{error}");
        assert_eq!(bench.cloud.with(|state| (state.creates.len(), state.destroyed.len())), (1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_that_is_too_dear_is_not_asked_for() {
        let mut bench = Bench::new();
        bench.spec.lease.max_spend = Some(Money { micros: 499_999, currency: "EUR".to_owned() });
        let error = provision(&bench).await.unwrap_err().to_string();
        assert!(error.contains("up to 0.50 EUR") && error.contains("max_spend is 0.499999 EUR"), "{error}");
        bench.spec.lease.max_spend = Some(Money { micros: 500_000, currency: "EUR".to_owned() });
        provision(&bench).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_whose_price_nobody_knows_is_not_asked_for_under_a_limit() {
        let mut bench = Bench::new();
        bench.spec.sku = crate::provider::Sku::fixed("unlisted");
        bench.spec.lease.max_spend = Some(Money { micros: 900_000_000, currency: "EUR".to_owned() });
        let error = provision(&bench).await.unwrap_err().to_string();
        assert!(error.contains("no price is known for unlisted") && error.contains("price: "), "{error}");
        assert_eq!(bench.cloud.with(|state| state.creates.len()), 0);
        bench.spec.lease.max_spend = None;
        provision(&bench).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_create_made_before_it_was_refused_goes_again() {
        let bench = Bench::new();
        bench.cloud.with(|state| {
            state.faults.push_back(CreateFault::Full);
            state.parts_first = Some(Duration::ZERO);
        });
        let before = Instant::now();
        let error = provision(&bench).await.unwrap_err();
        assert!(matches!(error, StepError::Provider(ProviderError::Capacity { .. })), "{error}");
        // Empty twice, the lag apart; a host that no create made is not waited for before that.
        let took = before.elapsed();
        assert!(took >= LAG && took < LAG * 2, "{took:?}");
        assert_eq!(bench.cloud.with(|state| state.residue.clone()), []);
        assert!(bench.run.session.record().host.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_of_an_unanswered_create_is_found_although_the_next_create_is_refused() {
        let bench = Bench::new();
        bench.cloud.with(|state| {
            state.faults.extend([CreateFault::LostBefore, CreateFault::Full]);
            state.parts_first = Some(Duration::ZERO);
        });
        let before = Instant::now();
        let error = provision(&bench).await.unwrap_err();
        assert!(matches!(error, StepError::Provider(ProviderError::Capacity { .. })), "{error}");
        // The lag before the second create, the one before the first look after it, and that between two looks.
        assert!(before.elapsed() >= LAG * 3, "{:?}", before.elapsed());
        assert!(bench.run.session.record().host.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_taken_away_after_a_refused_create_may_cost() {
        let bench = Bench::new();
        // Here it stays whatever is asked.
        bench.cloud.with(|state| state.faults.push_back(CreateFault::Full));
        let error = provision(&bench).await.unwrap_err();
        assert!(matches!(&error, StepError::MayCost(why) if why.contains("address a1")), "{error}");
        assert!(error.to_string().contains("try elsewhere"), "{error}");
        assert!(bench.run.session.record().host.is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn what_a_create_for_another_spec_left_goes_before_the_next() {
        let bench = Bench::new();
        bench.record_host(None, "older");
        provision(&bench).await.unwrap();
        let label = crate::provider::HostId::new(bench.label().to_string());
        bench.cloud.with(|state| assert!(!state.destroyed.contains(&label)));
        let bench = Bench::new();
        bench.record_host(None, "older");
        bench.cloud.with(|state| {
            state.parts_first = Some(Duration::ZERO);
            state.residue.push(crate::provider::Residue {
                kind: "address".to_owned(),
                id: "a0".to_owned(),
                detail: "of an older create".to_owned(),
                host: label.clone(),
                label: None,
                created_at: None,
                expires_at: None,
            });
        });
        provision(&bench).await.unwrap();
        bench.cloud.with(|state| {
            assert_eq!(state.destroyed, [label]);
            assert_eq!(state.residue.iter().map(|part| part.id.as_str()).collect::<Vec<_>>(), ["a1"]);
        });
    }
}
