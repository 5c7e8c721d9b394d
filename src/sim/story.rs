//! What happens to a lane: runs that are cut off, edits, a person who meddles, time.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use fastrand::Rng;

use super::check;
use super::cloud::Weather;
use super::disk::{Keeps, Trouble};
use super::lane::{Ended, Lane, Last, Trial, Verb};
use crate::plan::Work;
use crate::plan::testing::{name, tree};
use crate::provider::{Label, Lineage, Sku};

/// How many calm runs may pass before a lane must be where its spec wants it.
const PATIENCE: usize = 6;

/// What is done to a lane now and then.
pub(super) const RARE: &[Verb] =
    &[Verb::Sweep, Verb::SweepElsewhere, Verb::Run, Verb::Extend, Verb::Forget, Verb::Adopt, Verb::Repair];

/// A change of the spec or of what it names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Edit {
    Unit,
    Source,
    SourceShrinks,
    Template,
    Sku,
    DropService,
}

impl Edit {
    pub(super) const ALL: &[Self] =
        &[Self::Unit, Self::Source, Self::SourceShrinks, Self::Template, Self::Sku, Self::DropService];

    fn make(self, lane: &mut Lane, edition: usize) {
        let path = |written: &str| std::path::Path::new("/here").join(written);
        match self {
            Self::Unit => {
                let text = format!("[Service]\nExecStart=/usr/local/bin/agent\n# edition {edition}\n");
                lane.inputs.texts.insert(path("deploy/agent.service"), text);
            }
            Self::Source | Self::SourceShrinks => {
                let text = format!("edition {edition}");
                let mut files = vec![("Cargo.toml", "[workspace]"), ("src/main.rs", text.as_str())];
                if self == Self::Source {
                    files.push(("src/more.rs", "more"));
                }
                lane.inputs.trees.insert(name("app"), tree(&files));
            }
            Self::Template => {
                let text = format!("lane = {{{{ lane.name }}}}\nedition = {edition}\n");
                lane.inputs.texts.insert(path("deploy/plain.conf.j2"), text);
            }
            Self::Sku => lane.spec.sku = Sku::new(format!("size-{edition}")),
            Self::DropService => {
                lane.spec.services.retain(|service, _| *service != name("agent"));
                lane.spec.probes.remove(&name("agent"));
            }
        }
    }
}

/// What a person does behind `lane`'s back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Act {
    DeleteHost,
    PowerOff,
    Reboot,
    StopService,
    DeleteBinary,
    /// Stops and starts the host, which is then at another address.
    Move,
    /// Makes a second host with the lane's own label.
    Duplicate,
}

impl Act {
    pub(super) const ALL: &[Self] = &[
        Self::DeleteHost,
        Self::PowerOff,
        Self::Reboot,
        Self::StopService,
        Self::DeleteBinary,
        Self::Move,
        Self::Duplicate,
    ];

    fn take_place(self, lane: &Lane) {
        let label = lane.dir.load().expect("state").expect("a record").label();
        if self == Self::Duplicate {
            lane.cloud.add_by_hand(&label, None);
            return;
        }
        let mut ledger = lane.cloud.ledger();
        let Some(machine) =
            ledger.machines.iter_mut().find(|machine| machine.label == label && machine.is_up())
        else {
            return;
        };
        match self {
            Self::DeleteHost => machine.delete_by_hand(),
            Self::PowerOff => machine.on = false,
            Self::Reboot => machine.computer.reboot(),
            Self::StopService => machine.computer.stop_service("store"),
            Self::DeleteBinary => drop(machine.computer.files.remove("/usr/local/bin/agent")),
            Self::Move => {
                let IpAddr::V4(address) = machine.address else { return };
                let [a, b, c, d] = address.octets();
                machine.address = Ipv4Addr::new(a, b, c.wrapping_add(1), d).into();
                machine.computer.reboot();
            }
            Self::Duplicate => {}
        }
    }
}

#[derive(Debug, Clone)]
pub(super) enum Op {
    Run(Verb, Trial),
    Edit(Edit),
    Act(Act),
    Wait(u64),
}

/// What stories came to, for people.
#[derive(Debug, Default)]
pub(super) struct Totals {
    pub(super) stories: u64,
    pub(super) runs: u64,
    pub(super) deaths: u64,
    pub(super) power_losses: u64,
    pub(super) edits: u64,
    pub(super) acts: u64,
    pub(super) machines: u64,
    /// Where processes died, by what they were about to do.
    pub(super) points: BTreeSet<String>,
    /// The last run of the story's own.
    pub(super) last_run: Last,
    /// What happened, line by line.
    pub(super) told: String,
}

impl Totals {
    pub(super) fn add(&mut self, other: Self) {
        self.stories += other.stories;
        self.runs += other.runs;
        self.deaths += other.deaths;
        self.power_losses += other.power_losses;
        self.edits += other.edits;
        self.acts += other.acts;
        self.machines += other.machines;
        self.points.extend(other.points);
    }
}

#[derive(Debug, Clone)]
pub(super) struct Story {
    /// The adapter that stands between the lane and the cloud, if any.
    pub(super) adapter: Option<&'static str>,
    pub(super) seed: u64,
    pub(super) ops: Vec<Op>,
    /// Whether the lane must come up in the end before it goes.
    pub(super) ends_with_apply: bool,
}

impl Story {
    pub(super) fn of_seed(seed: u64, adapter: Option<&'static str>) -> Self {
        let mut rng = Rng::with_seed(seed);
        // An adapter's requests are many more points than the calls that they carry out.
        let points = if adapter.is_some() { 450 } else { 220 };
        let ops = (0..rng.usize(1..7)).map(|_| any_op(&mut rng, points)).collect();
        Self { adapter, seed, ops, ends_with_apply: rng.u8(..4) != 0 }
    }

    /// Tells it; an error is what was found, with all that happened until then.
    pub(super) async fn tell(&self) -> Result<Totals, String> {
        let mut lane = Lane::new(self.seed, self.adapter);
        match self.tell_on(&mut lane).await {
            Ok(totals) => Ok(Totals { told: lane.fate.story(), ..totals }),
            Err(why) => Err(format!("{why}\n{:#?}\nwhat happened:\n{}", self.ops, lane.fate.story())),
        }
    }

    async fn tell_on(&self, lane: &mut Lane) -> Result<Totals, String> {
        let mut totals = Totals { stories: 1, ..Totals::default() };
        // Neighbours that no run may touch: another lane, one of the same name, one whose name is longer.
        let ours = lane.dir.load().expect("state").expect("a record").label();
        for label in [
            Label { lane: "other".to_owned(), ..ours.clone() },
            Label { lineage: Lineage::fixed("01j00000000000000000000000"), ..ours.clone() },
            Label { lane: format!("{}-2", ours.lane), ..ours.clone() },
        ] {
            lane.cloud.add_by_hand(&label, None);
            lane.cloud.add_leftover(&label);
        }
        let strangers = lane.emulator.as_ref().map_or(vec![], |emulator| emulator.add_strangers(&ours));
        for (edition, op) in self.ops.iter().enumerate() {
            match op {
                Op::Run(verb, trial) => step(lane, *verb, *trial, &mut totals).await?,
                Op::Edit(edit) => {
                    lane.fate.tell(format!("-- {edit:?}"));
                    totals.edits += 1;
                    lane.disturbances.set(lane.disturbances.get() + 1);
                    edit.make(lane, edition);
                }
                Op::Act(act) => {
                    lane.fate.tell(format!("-- {act:?}"));
                    totals.acts += 1;
                    lane.disturbances.set(lane.disturbances.get() + 1);
                    act.take_place(lane);
                }
                Op::Wait(seconds) => tokio::time::sleep(Duration::from_secs(*seconds)).await,
            }
        }
        // The weather clears: from any state, a lane whose spec stays the same gets there and stays there.
        if self.ends_with_apply {
            calm(lane, Verb::Apply, &mut totals).await?;
            check::is_up(lane)?;
            match run(lane, Verb::Plan, Trial::default(), &mut totals).await? {
                Ended::NoChanges => {}
                other => return Err(format!("I10: a plan after apply is not empty: {other}")),
            }
        }
        calm(lane, Verb::Destroy, &mut totals).await?;
        check::is_gone(lane)?;
        match run(lane, Verb::Destroy, Trial::default(), &mut totals).await? {
            Ended::NoChanges => {}
            other => return Err(format!("I5: a second destroy found something to do: {other}")),
        }
        check::strangers_are_untouched(lane, &strangers)?;
        totals.machines =
            lane.cloud.ledger().machines.iter().filter(|machine| !machine.by_hand).count() as u64;
        Ok(totals)
    }
}

/// Runs a verb as a person would, who looks before it and mends what it left half done.
async fn step(lane: &Lane, verb: Verb, trial: Trial, totals: &mut Totals) -> Result<(), String> {
    let calm = Trial::default();
    if matches!(verb, Verb::Forget | Verb::Adopt) {
        // Only a host that is up, and that the listing has shown by now.
        tokio::time::sleep(lane.entry.listing_lag).await;
        let record = lane.dir.load().map_err(|error| error.to_string())?;
        let record = record.filter(|record| !record.in_doubt.contains_key(&Work::Destroy.id()));
        let known = record.and_then(|record| record.host).and_then(|host| host.id);
        let is_up =
            lane.cloud.ledger().machines.iter().any(|machine| {
                !machine.by_hand && machine.is_up() && Some(lane.known_as(&machine.id)) == known
            });
        if !is_up {
            return Ok(());
        }
        lane.forgotten.set(true);
        lane.has_forgotten.set(true);
        lane.disturbances.set(lane.disturbances.get() + 1);
    }
    let before = lane.dir.load().map_err(|error| error.to_string())?;
    match verb {
        Verb::Adopt => drop(run(lane, Verb::Forget, calm, totals).await?),
        Verb::Repair => lane.damage(),
        _ => {}
    }
    run(lane, verb, trial, totals).await?;
    totals.last_run = lane.last();
    if matches!(verb, Verb::Forget | Verb::Adopt) && lane.forgotten.get() {
        let ended = run(lane, Verb::Adopt, calm, totals).await?;
        // Which of several hosts is meant, a person says with its id.
        // A sweep beside it may have taken the host, if its lease was over.
        let is_up = lane.cloud.ledger().machines.iter().any(|machine| !machine.by_hand && machine.is_up());
        if is_up && lane.forgotten.get() && !ended.to_string().contains("carry the label") {
            return Err(format!("a host that was forgotten cannot be adopted: {ended}"));
        }
    }
    if verb == Verb::Repair {
        let ended = run(lane, Verb::Repair, calm, totals).await?;
        if !matches!(ended, Ended::Done) {
            return Err(format!("I8: a damaged record cannot be repaired: {ended}"));
        }
        check::is_mended(lane, before.as_ref())?;
    }
    Ok(())
}

/// Runs a verb and checks what must hold at every moment, and what its outcome claims.
async fn run(lane: &Lane, verb: Verb, trial: Trial, totals: &mut Totals) -> Result<Ended, String> {
    lane.cloud.ledger().set_bad_jobs(if trial.weather == Weather::default() { 0 } else { 10 });
    let ended = Box::pin(lane.run(verb, trial)).await;
    totals.runs += 1;
    if matches!(ended, Ended::Died) {
        totals.deaths += 1;
        totals.power_losses += u64::from(trial.power.is_some());
        totals.points.extend(lane.last().words);
    }
    // Half repaired, it may not be there to be read.
    if verb != Verb::Repair || ended.is_well() {
        check::always(lane)?;
        check::shows_what_costs(lane).await?;
    }
    match (verb, &ended) {
        // A sweep may have taken what had an ended lease.
        (Verb::Apply, Ended::Done) if trial.beside.is_none() => check::is_up(lane)?,
        (Verb::Destroy, Ended::Done) | (Verb::Run, Ended::Done | Ended::TakenDown(_)) => {
            check::is_gone(lane)?;
        }
        (Verb::Extend, Ended::Done) => check::is_extended(lane)?,
        _ => {}
    }
    Ok(ended)
}

/// Repeats a verb in good weather until it has nothing to do any more.
async fn calm(lane: &Lane, verb: Verb, totals: &mut Totals) -> Result<(), String> {
    let mut last = String::new();
    for _ in 0..PATIENCE {
        let ended = run(lane, verb, Trial::default(), totals).await?;
        match ended {
            Ended::Done | Ended::NoChanges => return Ok(()),
            // Which of several hosts is meant, a person says by destroying them.
            Ended::Several => {
                let ended = run(lane, Verb::Destroy, Trial::default(), totals).await?;
                if !matches!(ended, Ended::Done) {
                    return Err(format!("several hosts could not be destroyed: {ended}"));
                }
            }
            Ended::TakenDown(_) | Ended::Failed(_) | Ended::Died => last = ended.to_string(),
        }
    }
    Err(format!("{verb:?} does not get there in good weather: {last}"))
}

fn any_op(rng: &mut Rng, points: u64) -> Op {
    match rng.u8(..20) {
        0..8 => Op::Run(Verb::Apply, any_trial(rng, points)),
        8..11 => Op::Run(Verb::Destroy, any_trial(rng, points)),
        11..13 => Op::Edit(Edit::ALL[rng.usize(..Edit::ALL.len())]),
        13..15 => Op::Act(Act::ALL[rng.usize(..Act::ALL.len())]),
        15..18 => {
            let verb = RARE[rng.usize(..RARE.len())];
            // Most of these pass few points.
            Op::Run(verb, any_trial(rng, if verb == Verb::Run { points } else { 40 }))
        }
        // Some last longer than a lease.
        _ => Op::Wait(if rng.bool() { rng.u64(..60) } else { rng.u64(..6 * 3600) }),
    }
}

fn any_trial(rng: &mut Rng, points: u64) -> Trial {
    let weather = match rng.u8(..3) {
        0 => Weather::default(),
        _ => Weather { cloud: rng.u8(..35), network: rng.u8(..25), refusals: rng.u8(..6), is_full: false },
    };
    Trial {
        dies_at: (rng.u8(..3) != 0).then(|| rng.u64(..points)),
        dies_after: None,
        power: rng.bool().then_some(Keeps::Drawn),
        disk: match rng.u8(..12) {
            0 => Some(Trouble::Full { from: rng.u64(..200) }),
            1 => Some(Trouble::SyncFails { at: rng.u64(..200) }),
            _ => None,
        },
        weather,
        stopped_after: (rng.u8(..8) == 0).then(|| rng.u64(..120)),
        beside: (rng.u8(..8) == 0).then(|| [rng.u64(..120_000), rng.u64(..120_000)]),
    }
}
