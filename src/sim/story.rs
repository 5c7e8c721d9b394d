//! What happens to a lane: runs that are cut off, edits, a person who meddles, time.

use std::collections::BTreeSet;
use std::time::Duration;

use fastrand::Rng;

use super::check;
use super::cloud::Weather;
use super::disk::{Keeps, Trouble};
use super::lane::{Ended, Lane, Last, Trial, Verb};
use crate::plan::testing::{name, tree};
use crate::provider::{Label, Lineage, Sku};

/// How many calm runs may pass before a lane must be where its spec wants it.
const PATIENCE: usize = 6;

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
        let told = self.tell_on(&mut lane).await;
        told.map_err(|why| format!("{why}\n{:#?}\nwhat happened:\n{}", self.ops, lane.fate.story()))
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
        for (edition, op) in self.ops.iter().enumerate() {
            match op {
                Op::Run(verb, trial) => run(lane, *verb, *trial, &mut totals).await.map(drop)?,
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
        totals.last_run = lane.last();
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
        totals.machines =
            lane.cloud.ledger().machines.iter().filter(|machine| !machine.by_hand).count() as u64;
        Ok(totals)
    }
}

/// Runs a verb and checks what must hold at every moment, and what its outcome claims.
async fn run(lane: &Lane, verb: Verb, trial: Trial, totals: &mut Totals) -> Result<Ended, String> {
    lane.cloud.ledger().set_bad_jobs(if trial.weather == Weather::default() { 0 } else { 10 });
    let ended = lane.run(verb, trial).await;
    totals.runs += 1;
    if matches!(ended, Ended::Died) {
        totals.deaths += 1;
        totals.power_losses += u64::from(trial.power.is_some());
        totals.points.extend(lane.last().words);
    }
    check::always(lane)?;
    match (verb, &ended) {
        (Verb::Apply, Ended::Done) => check::is_up(lane)?,
        (Verb::Destroy, Ended::Done) => check::is_gone(lane)?,
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
            Ended::Failed(_) | Ended::Died => last = ended.to_string(),
        }
    }
    Err(format!("{verb:?} does not get there in good weather: {last}"))
}

fn any_op(rng: &mut Rng, points: u64) -> Op {
    match rng.u8(..18) {
        0..8 => Op::Run(Verb::Apply, any_trial(rng, points)),
        8..11 => Op::Run(Verb::Destroy, any_trial(rng, points)),
        11..13 => Op::Edit(Edit::ALL[rng.usize(..Edit::ALL.len())]),
        13..15 => Op::Act(Act::ALL[rng.usize(..Act::ALL.len())]),
        15 => match rng.u8(..2) {
            0 => Op::Run(Verb::Sweep, any_trial(rng, points)),
            _ => Op::Run(Verb::SweepElsewhere, any_trial(rng, points)),
        },
        // Some last longer than a lease.
        _ => Op::Wait(if rng.bool() { rng.u64(..60) } else { rng.u64(..6 * 3600) }),
    }
}

fn any_trial(rng: &mut Rng, points: u64) -> Trial {
    let weather = match rng.u8(..3) {
        0 => Weather::default(),
        _ => Weather { cloud: rng.u8(..35), network: rng.u8(..25), refusals: rng.u8(..6) },
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
    }
}
