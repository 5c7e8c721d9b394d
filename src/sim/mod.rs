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
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;

use cloud::Weather;
use disk::Trouble;
use lane::{Trial, Verb};
use story::{Op, Story, Totals};

use crate::world::World;

/// Stories of the plain test; `make crash` asks for more.
const SEEDS: u64 = 400;

fn variable(name: &str) -> Option<u64> {
    World::capture().ok()?.var(name)?.parse().ok()
}

/// Tells every story in its own virtual time.
fn tell(story: &Story) -> Result<Totals, String> {
    // The pauses between repeated requests are drawn.
    fastrand::seed(story.seed);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(story.tell())
}

fn report(what: &str, stories: u64, totals: &Totals, took: Duration) {
    println!(
        "{what}: {stories} stories, {} processes, {} killed ({} by a power loss) at {} different points, {} edits, \
         {} acts of a person, {} hosts made: no orphan, no duplicate, no lost step; {:.1} s",
        totals.runs,
        totals.deaths,
        totals.power_losses,
        totals.points.len(),
        totals.edits,
        totals.acts,
        totals.machines,
        took.as_secs_f64()
    );
}

#[test]
fn i1_to_i20_any_story_ends_well() {
    many(None, SEEDS);
}

/// The same through each adapter that has an emulator: its requests, its reading of answers, its order of deletes.
#[test]
fn i1_to_i20_any_story_through_an_adapter_ends_well() {
    for adapter in crate::emulators::ADAPTERS {
        many(Some(adapter), SEEDS / 4);
    }
}

fn many(adapter: Option<&'static str>, seeds: u64) {
    let what = adapter.unwrap_or("seeds");
    if let Some(seed) = variable("LANE_CRASH_SEED") {
        match tell(&Story::of_seed(seed, adapter)) {
            Ok(_) => println!("{what}, seed {seed}: nothing found"),
            Err(found) => panic!("{what}, seed {seed}:\n{found}"),
        }
        return;
    }
    let count = variable("LANE_CRASH_SEEDS").map_or(seeds, |asked| asked * seeds / SEEDS);
    let began = std::time::Instant::now();
    let (next, totals, found) = (AtomicU64::new(0), Mutex::new(Totals::default()), Mutex::new(vec![]));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= count || found.lock().unwrap().len() >= 5 {
                        return;
                    }
                    match tell(&Story::of_seed(seed, adapter)) {
                        Ok(told) => totals.lock().unwrap().add(told),
                        Err(why) => found.lock().unwrap().push((seed, why)),
                    }
                }
            });
        }
    });
    let mut found = found.into_inner().unwrap();
    found.sort();
    if let Some((seed, why)) = found.first() {
        let seeds: Vec<u64> = found.iter().map(|(seed, _)| *seed).collect();
        panic!("{what}: seeds {seeds:?} fail; replay one with `make crash SEED={seed}`. Seed {seed}:\n{why}");
    }
    report(what, count, &totals.into_inner().unwrap(), began.elapsed());
}

/// Dies at each point of a run in turn, in each way, and goes on with a new process.
#[test]
fn i1_a_run_may_die_at_every_point() {
    let apply = Op::Run(Verb::Apply, Trial::default());
    let lost_create = Trial { dies_after: Some("create lane-"), ..Trial::default() };
    // What was before the run that dies: nothing, a lane that is up, one that needs a new host, one half destroyed.
    let before: [(&str, Vec<Op>, Verb); 7] = [
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
        ("destroy", vec![apply.clone()], Verb::Destroy),
        ("destroy after a create without an answer", vec![Op::Run(Verb::Apply, lost_create)], Verb::Destroy),
    ];
    let began = std::time::Instant::now();
    let (mut stories, mut totals) = (0, Totals::default());
    for (name, ops, verb) in before {
        let story =
            |ops: Vec<Op>| Story { adapter: None, seed: 7, ops, ends_with_apply: verb == Verb::Apply };
        let whole = story([ops.clone(), vec![Op::Run(verb, Trial::default())]].concat());
        let points = tell(&whole).unwrap_or_else(|why| panic!("{name}:\n{why}")).last_run;
        assert!(points > 5, "{name} passes {points} points");
        for at in 0..points {
            for power in [false, true] {
                let trial = Trial { dies_at: Some(at), power, ..Trial::default() };
                let mut all = [ops.clone(), vec![Op::Run(verb, trial)]].concat();
                // A second death right after is as likely as the first.
                if power {
                    all.push(Op::Run(verb, Trial { dies_at: Some(at % 5), ..trial }));
                }
                let told = tell(&story(all))
                    .unwrap_or_else(|why| panic!("{name}, dies at {at}, power {power}:\n{why}"));
                totals.add(told);
                stories += 1;
            }
        }
    }
    report("every point", stories, &totals, began.elapsed());
}

/// Every write of a run meets a full disk or a failing sync in turn.
#[test]
fn i8_i9_a_disk_may_refuse_every_write() {
    let (mut stories, mut totals) = (0, Totals::default());
    let began = std::time::Instant::now();
    for verb in [Verb::Apply, Verb::Destroy] {
        let before = if verb == Verb::Apply { vec![] } else { vec![Op::Run(Verb::Apply, Trial::default())] };
        let story =
            |ops: Vec<Op>| Story { adapter: None, seed: 11, ops, ends_with_apply: verb == Verb::Apply };
        let points = tell(&story([before.clone(), vec![Op::Run(verb, Trial::default())]].concat()))
            .unwrap_or_else(|why| panic!("{why}"))
            .last_run;
        for at in 0..points {
            for trouble in [Trouble::Full { from: at }, Trouble::SyncFails { at }] {
                let trial = Trial { disk: Some(trouble), ..Trial::default() };
                let ops = [before.clone(), vec![Op::Run(verb, trial)]].concat();
                let told = tell(&story(ops)).unwrap_or_else(|why| panic!("{verb:?}, {trouble:?}:\n{why}"));
                totals.add(told);
                stories += 1;
            }
        }
    }
    report("every write", stories, &totals, began.elapsed());
}

fn any_trial() -> impl Strategy<Value = Trial> {
    let weather = (0_u8..30, 0_u8..20, 0_u8..6).prop_map(|(cloud, network, refusals)| Weather {
        cloud,
        network,
        refusals,
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
        power,
        disk,
        weather,
        ..Trial::default()
    })
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => any_trial().prop_map(|trial| Op::Run(Verb::Apply, trial)),
        2 => any_trial().prop_map(|trial| Op::Run(Verb::Destroy, trial)),
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
    assert!(String::from_utf8(text).unwrap().contains("LANE_CRASH_SEED=$(SEED)"));
}
