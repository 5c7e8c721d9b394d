//! Whole lanes in one process and in virtual time: the real planner, executor, steps and state code on a disk, a cloud
//! and hosts that fail on purpose. Everything follows from a seed; `make crash` runs many and replays one.
//!
//! A story is a list of things that happen: runs that are cut off somewhere, edits of the spec, a person who meddles.
//! What must hold is checked after every run, and in the end the weather clears: then `apply` and `destroy` must end well.

mod check;
mod cloud;
mod computer;
mod conformance;
mod disk;
mod fate;
mod lane;
mod story;
mod wire;

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;

use cloud::Weather;
use disk::{Keeps, Trouble};
use lane::{Trial, Verb};
use story::{Op, Story, Totals};

use crate::world::World;

/// Stories of the plain test; `make crash` asks for more.
const SEEDS: u64 = 100;

/// Of the points at which a run may die, the plain test tries one in so many; `make crash` tries each.
const STRIDE: usize = 23;

/// How many of the ways in which a disk may keep what was pending are tried, where there are more.
const WAYS: u64 = 36;

fn variable(name: &str) -> Option<String> {
    Some(World::capture().ok()?.var(name)?.to_owned()).filter(|value| !value.is_empty())
}

fn number(name: &str) -> Option<u64> {
    variable(name)?.parse().ok()
}

/// Tells whether everything is to be tried, however long it takes.
fn is_thorough() -> bool {
    number("LANE_CRASH_SEEDS").is_some()
}

/// Returns what is asked: the fake cloud itself, and each adapter over it.
fn subjects() -> Vec<Option<&'static str>> {
    let asked = variable("LANE_CRASH_ADAPTER");
    let all = std::iter::once(None).chain(crate::emulators::ADAPTERS.map(Some));
    let all: Vec<_> =
        all.filter(|adapter| asked.as_ref().is_none_or(|asked| asked == adapter.unwrap_or("fake"))).collect();
    assert!(
        !all.is_empty(),
        "LANE_CRASH_ADAPTER is {asked:?}: it takes fake, or an adapter with an emulator"
    );
    all
}

/// Tells every story in its own virtual time.
fn tell(story: &Story) -> Result<Totals, String> {
    // The pauses between repeated requests are drawn.
    fastrand::seed(story.seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(story.tell())
}

/// Tells stories on all cores, until a few have failed; returns what they came to, and what was found.
fn each<T: Sync>(
    items: &[T],
    work: impl Fn(&T) -> Result<Totals, String> + Sync,
) -> (Totals, Vec<(usize, String)>) {
    let (next, totals, found) = (AtomicUsize::new(0), Mutex::new(Totals::default()), Mutex::new(vec![]));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while found.lock().unwrap().len() < 5 {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(at) else { return };
                    match work(item) {
                        Ok(told) => totals.lock().unwrap().add(told),
                        Err(why) => found.lock().unwrap().push((at, why)),
                    }
                }
            });
        }
    });
    let mut found = found.into_inner().unwrap();
    found.sort();
    (totals.into_inner().unwrap(), found)
}

fn report(what: &str, adapter: Option<&str>, totals: &Totals, began: std::time::Instant) {
    println!(
        "{}, {what}: {} schedules, {} processes, {} killed ({} by a power loss) at {} different points, {} edits, \
         {} acts of a person, {} hosts made: no orphan, no duplicate, no lost step; {:.1} s",
        adapter.unwrap_or("fake"),
        totals.stories,
        totals.runs,
        totals.deaths,
        totals.power_losses,
        totals.points.len(),
        totals.edits,
        totals.acts,
        totals.machines,
        began.elapsed().as_secs_f64()
    );
}

#[test]
fn i1_to_i20_any_story_ends_well() {
    if subjects().contains(&None) {
        many(None, SEEDS);
    }
}

/// The same through each adapter that has an emulator: its requests, its reading of answers, its order of deletes.
#[test]
fn i1_to_i20_any_story_through_an_adapter_ends_well() {
    for adapter in subjects().into_iter().flatten() {
        many(Some(adapter), SEEDS / 5);
    }
}

fn many(adapter: Option<&'static str>, seeds: u64) {
    let what = adapter.unwrap_or("fake");
    if let Some(seed) = number("LANE_CRASH_SEED") {
        match tell(&Story::of_seed(seed, adapter)) {
            Ok(_) => println!("{what}, seed {seed}: nothing found"),
            Err(found) => panic!("{what}, seed {seed}:\n{found}"),
        }
        return;
    }
    let count = number("LANE_CRASH_SEEDS").map_or(seeds, |asked| asked * seeds / SEEDS);
    let began = std::time::Instant::now();
    let all: Vec<u64> = (0..count).collect();
    let (totals, found) = each(&all, |seed| tell(&Story::of_seed(*seed, adapter)));
    if let Some((seed, why)) = found.first() {
        let seeds: Vec<usize> = found.iter().map(|(seed, _)| *seed).collect();
        panic!(
            "{what}: seeds {seeds:?} fail; replay one with `make crash SEED={seed} ADAPTER={what}`. Seed {seed}:\n{why}"
        );
    }
    report(&format!("{count} seeds"), adapter, &totals, began);
}

/// Else a seed that fails could not be replayed; only the digests of keys, which are always new, may differ.
#[test]
fn a_seed_tells_the_same_story_again() {
    let is_digest = |word: &&str| word.len() == 64 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    for adapter in subjects() {
        for seed in 0..12 {
            let told = || tell(&Story::of_seed(seed, adapter)).unwrap().told;
            let (one, two) = (told(), told());
            let words = |told: &str| -> Vec<String> {
                told.split_whitespace().filter(|word| !is_digest(word)).map(str::to_owned).collect()
            };
            assert!(words(&one) == words(&two), "{adapter:?}, seed {seed}:\n{one}\n\nand then:\n{two}");
        }
    }
}

/// Dies at each point of a run in turn, in each way, and goes on with a new process.
fn every_point(adapter: Option<&'static str>) {
    let apply = Op::Run(Verb::Apply, Trial::default());
    let lost_create = Trial { dies_after: Some("create lane-"), ..Trial::default() };
    // What was before the run that dies: nothing, a lane that is up, one that needs a new host, one half destroyed.
    let before: [(&str, Vec<Op>, Verb); 12] = [
        ("first apply", vec![], Verb::Apply),
        (
            "apply after an edit",
            vec![apply.clone(), Op::Edit(story::Edit::Unit), Op::Edit(story::Edit::Source)],
            Verb::Apply,
        ),
        (
            "apply that removes a file",
            vec![Op::Edit(story::Edit::Source), apply.clone(), Op::Edit(story::Edit::SourceShrinks)],
            Verb::Apply,
        ),
        ("apply that replaces", vec![apply.clone(), Op::Edit(story::Edit::Sku)], Verb::Apply),
        (
            "apply after the host was deleted",
            vec![apply.clone(), Op::Act(story::Act::DeleteHost)],
            Verb::Apply,
        ),
        ("lease extend", vec![apply.clone()], Verb::Extend),
        ("run", vec![], Verb::Run),
        ("state forget", vec![apply.clone()], Verb::Forget),
        ("state adopt", vec![apply.clone()], Verb::Adopt),
        ("state repair", vec![apply.clone()], Verb::Repair),
        ("destroy", vec![apply], Verb::Destroy),
        ("destroy after a create without an answer", vec![Op::Run(Verb::Apply, lost_create)], Verb::Destroy),
    ];
    let began = std::time::Instant::now();
    let story =
        |verb: Verb, ops: Vec<Op>| Story { adapter, seed: 7, ops, ends_with_apply: verb != Verb::Destroy };
    let mut all = Vec::new();
    for (name, ops, verb) in &before {
        // What an adapter adds to an apply is all in the first one.
        if adapter.is_some() && name.starts_with("apply after an edit") | name.contains("removes") {
            continue;
        }
        let whole = story(*verb, [ops.clone(), vec![Op::Run(*verb, Trial::default())]].concat());
        let points =
            tell(&whole).unwrap_or_else(|why| panic!("{adapter:?}, {name}:\n{why}")).last_run.reached;
        assert!(points > 5, "{name} passes {points} points");
        all.extend((0..points).map(|at| (*name, ops, *verb, at)));
    }
    let points = all.len();
    let stride = match adapter {
        _ if is_thorough() => 1,
        None => STRIDE,
        Some(_) => STRIDE * 4,
    };
    let tried: Vec<_> = all.into_iter().step_by(stride).collect();
    let (totals, found) = each(&tried, |(name, ops, verb, at)| {
        let dies = |power| {
            let trial = Trial { dies_at: Some(*at), power, ..Trial::default() };
            [(*ops).clone(), vec![Op::Run(*verb, trial)]].concat()
        };
        let tell = |power, ops| {
            let told = tell(&story(*verb, ops)).and_then(|told| match (*verb, told.machines) {
                (Verb::Extend | Verb::Forget | Verb::Adopt | Verb::Repair, made @ 2..) => {
                    Err(format!("{made} hosts were made where nothing asked for another"))
                }
                _ => Ok(told),
            });
            told.map_err(|why| format!("{name}, dies at {at}, power {power:?}:\n{why}"))
        };
        let mut totals = tell(None, dies(None))?;
        // A second death right after is as likely as the first.
        let drawn = Some(Keeps::Drawn);
        let again = Trial { dies_at: Some(at % 5), power: drawn, ..Trial::default() };
        totals.add(tell(drawn, [dies(drawn), vec![Op::Run(*verb, again)]].concat())?);
        // What the disk keeps is no affair of an adapter.
        let mut ways = u64::from(adapter.is_none());
        let mut way = 0;
        while way < ways {
            let power = Some(Keeps::Way(way));
            let told = tell(power, dies(power))?;
            ways = told.last_run.ways.min(if is_thorough() { WAYS } else { 4 });
            totals.add(told);
            way += 1;
        }
        Ok(totals)
    });
    if let Some((_, why)) = found.first() {
        panic!("{}: {} of {} points fail. {why}", adapter.unwrap_or("fake"), found.len(), tried.len());
    }
    report(&format!("{} of {points} crash points", tried.len()), adapter, &totals, began);
}

#[test]
fn i1_a_run_may_die_at_every_point() {
    if number("LANE_CRASH_SEED").is_none() && subjects().contains(&None) {
        every_point(None);
    }
}

/// The same before and after every request that an adapter sends.
#[test]
fn i1_a_run_through_an_adapter_may_die_at_every_request() {
    for adapter in subjects().into_iter().flatten().filter(|_| number("LANE_CRASH_SEED").is_none()) {
        every_point(Some(adapter));
    }
}

/// Every write of a run meets a full disk or a failing sync in turn.
#[test]
fn i8_i9_a_disk_may_refuse_every_write() {
    if number("LANE_CRASH_SEED").is_some() || !subjects().contains(&None) {
        return;
    }
    let began = std::time::Instant::now();
    let story = |verb: Verb, ops: Vec<Op>| Story {
        adapter: None,
        seed: 11,
        ops,
        ends_with_apply: verb != Verb::Destroy,
    };
    let mut all = Vec::new();
    for verb in [Verb::Apply, Verb::Run, Verb::Destroy] {
        let apply = Op::Run(Verb::Apply, Trial::default());
        let before = if verb == Verb::Destroy { vec![apply] } else { vec![] };
        let points = tell(&story(verb, [before.clone(), vec![Op::Run(verb, Trial::default())]].concat()))
            .unwrap_or_else(|why| panic!("{why}"))
            .last_run
            .reached;
        all.extend((0..points).flat_map(|at| {
            let troubles = [Trouble::Full { from: at }, Trouble::SyncFails { at }];
            troubles.map(|trouble| (before.clone(), verb, trouble))
        }));
    }
    let tried: Vec<_> = all.into_iter().step_by(if is_thorough() { 1 } else { 3 }).collect();
    let (totals, found) = each(&tried, |(before, verb, trouble)| {
        let trial = Trial { disk: Some(*trouble), ..Trial::default() };
        tell(&story(*verb, [before.clone(), vec![Op::Run(*verb, trial)]].concat()))
            .map_err(|why| format!("{verb:?}, {trouble:?}:\n{why}"))
    });
    if let Some((_, why)) = found.first() {
        panic!("{} writes fail. {why}", found.len());
    }
    report(&format!("{} refused writes", tried.len()), None, &totals, began);
}

fn any_trial() -> impl Strategy<Value = Trial> {
    let weather = (0_u8..30, 0_u8..20, 0_u8..6).prop_map(|(cloud, network, refusals)| Weather {
        cloud,
        network,
        refusals,
        is_full: false,
    });
    let disk = proptest::option::weighted(
        0.1,
        prop_oneof![
            (0_u64..200).prop_map(|from| Trouble::Full { from }),
            (0_u64..200).prop_map(|at| Trouble::SyncFails { at })
        ],
    );
    let death = proptest::option::weighted(0.7, 0_u64..200);
    (weather, disk, death, any::<bool>()).prop_map(|(weather, disk, dies_at, power)| Trial {
        dies_at,
        power: power.then_some(Keeps::Drawn),
        disk,
        weather,
        ..Trial::default()
    })
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => any_trial().prop_map(|trial| Op::Run(Verb::Apply, trial)),
        2 => any_trial().prop_map(|trial| Op::Run(Verb::Destroy, trial)),
        2 => (proptest::sample::select(story::RARE), any_trial()).prop_map(|(verb, trial)| Op::Run(verb, trial)),
        1 => any_trial().prop_map(|trial| Op::Run(Verb::Plan, trial)),
        3 => proptest::sample::select(story::Edit::ALL).prop_map(Op::Edit),
        3 => proptest::sample::select(story::Act::ALL).prop_map(Op::Act),
        1 => (0_u64..100).prop_map(Op::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    /// The same as the seeds, but a failing story is cut down to what matters.
    #[test]
    fn any_sequence_of_edit_plan_apply_crash_drift_and_destroy(
        seed in any::<u64>(),
        ops in proptest::collection::vec(any_op(), 1..8),
        ends_with_apply in any::<bool>(),
    ) {
        let story = Story { adapter: None, seed, ops, ends_with_apply };
        let told = tell(&story);
        prop_assert!(told.is_ok(), "{}", told.err().unwrap_or_default());
    }
}

#[test]
fn the_makefile_can_replay_a_seed() {
    let text = crate::world::fs::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("Makefile")).unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("LANE_CRASH_SEED=$(SEED) ") && text.contains("LANE_CRASH_ADAPTER=$(ADAPTER) "));
}
