//! Everything that can happen to a run, done to hosts that really boot: whatever it was, the next `lane apply` finishes
//! by itself or says what a person has to do; there is one host or none, and `destroy` leaves nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::support::{Lab, can_boot_hosts, small};

/// Where processes were killed: what each had written last, and how many tenths of a second before.
type Points = BTreeMap<String, BTreeSet<u64>>;

fn different(points: &Points) -> usize {
    points.values().map(BTreeSet::len).sum()
}

/// Adds the point at which a process was just killed.
fn note(points: &mut Points, lab: &Lab, verb: &str) {
    let written = std::fs::metadata(lab.state().join("journal.jsonl")).and_then(|meta| meta.modified());
    let since = written.ok().and_then(|written| written.elapsed().ok()).unwrap_or_default();
    let tenths = u64::try_from(since.as_millis() / 100).unwrap();
    points.entry(format!("{verb}: {}", last_words(lab))).or_default().insert(tenths);
}

/// Says what the killed process wrote last.
fn last_words(lab: &Lab) -> String {
    let journal = lab.journal();
    let Some(line) =
        journal.lines().rev().find_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
    else {
        return "no journal".to_owned();
    };
    let text = |key: &str| line["event"][key].as_str().unwrap_or_default().to_owned();
    format!("{} {}", text("kind"), text("step")).trim_end().to_owned()
}

/// Starts a verb and kills it with signal 9 after a while; `false` if it ended before that.
fn kill_after(lab: &Lab, verb: &str, after: Duration) -> bool {
    let log = std::fs::File::options().create(true).append(true).open(lab.path().join("apply.log")).unwrap();
    let target = if verb == "apply" { lab.spec_arg() } else { &lab.lane };
    let mut child =
        lab.command(&[verb, target, "-y"]).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    let end = Instant::now() + after;
    while Instant::now() < end {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    true
}

/// Returns the hosts of a lane, by the files that its provider keeps of them.
fn hosts(lane: &str) -> Vec<String> {
    let names = std::fs::read_dir("/var/lib/lane/nspawn").into_iter().flatten();
    let names = names.map(|name| name.unwrap().file_name().into_string().unwrap());
    names
        .filter_map(|name| name.strip_suffix(".json").map(str::to_owned))
        .filter(|id| id.rsplit_once('-').is_some_and(|(start, _)| start == format!("lane-{lane}")))
        .collect()
}

/// Points that have to differ, however many kills there are.
const DIFFERENT: usize = 40;
/// Parts of a cycle, each of which has to have a kill, by what may have been written last in it.
const PARTS: [&[&str]; 4] = [
    &["apply: started provision", "apply: create_intended", "apply: host_named"],
    &["apply: started await"],
    &["apply: started service"],
    &["destroy: "],
];

/// Kills applies and destroys of a lane until it had enough, at enough different points and in each part, checking after
/// each; `span` is about what an apply takes. `make chaos` asks for more kills than `least`.
fn survives(lab: &Lab, least: usize, span: Duration, is_well: impl Fn()) {
    let wanted = std::env::var("LANE_CHAOS_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(least);
    let lane = lab.lane.as_str();
    let wanted_points = wanted.min(DIFFERENT);
    let (mut kills, mut points, mut cycle) = (0, Points::new(), 0);
    let missing = |points: &Points| {
        let has = |words: &&str| points.keys().any(|entry| entry.starts_with(words));
        PARTS.into_iter().find(|part| !part.iter().any(has))
    };
    let is_enough = |kills: usize, points: &Points| {
        let is_spread = different(points) >= wanted_points && missing(points).is_none();
        kills >= wanted && (is_spread || kills >= 3 * wanted)
    };
    while !is_enough(kills, &points) {
        cycle += 1;
        let mut mine = 0;
        loop {
            // Every other kill falls right after the next few journal entries or as a service starts, the rest at any
            // moment; the steps of the golden ratio cover a span evenly, whatever the number of kills.
            let killed = if mine % 6 == 4 {
                let starts = |line: &str| line.contains("\"started\"") && line.contains("service/");
                lab.kill_apply_when(|journal| journal.lines().any(starts))
            } else if mine % 2 == 0 {
                let entries = 2 + (mine / 2 + cycle) % 5;
                lab.kill_apply_when(|journal| journal.lines().count() >= entries)
            } else {
                let part = (f64::from(u32::try_from(kills).unwrap()) * 0.618_034).fract();
                kill_after(lab, "apply", Duration::from_millis(30) + span.mul_f64(part))
            };
            assert!(hosts(lane).len() <= 1, "cycle {cycle}, kill {mine}: {:?}", hosts(lane));
            if !killed {
                break;
            }
            (kills, mine) = (kills + 1, mine + 1);
            note(&mut points, lab, "apply");
            if mine >= 16 || is_enough(kills, &points) {
                break;
            }
        }
        lab.apply().exits(0);
        let lineage8 = lab.lineage8();
        assert_eq!((Lab::containers(&lineage8), hosts(lane).len()), (1, 1), "cycle {cycle}");
        assert_eq!(lab.changed_ids(), Vec::<String>::new(), "cycle {cycle}: a plan after apply is not empty");
        is_well();
        for after in [15, 120, 400, 900] {
            if !kill_after(lab, "destroy", Duration::from_millis(after + 40 * cycle as u64)) {
                break;
            }
            kills += 1;
            note(&mut points, lab, "destroy");
            assert!(hosts(lane).len() <= 1);
        }
        lab.run(&["destroy", lane, "-y"]).exits(0);
        assert_eq!(Lab::traces(&lineage8), Vec::<String>::new(), "cycle {cycle}: something is left");
    }
    println!("{kills} kills in {cycle} cycles at {} different points, nothing left:", different(&points));
    for (entry, tenths) in &points {
        println!("  {entry}, after {tenths:?} tenths of a second");
    }
    assert!(different(&points) >= wanted_points, "{kills} kills were at {} points", different(&points));
    assert_eq!(missing(&points), None, "no kill there: {points:#?}");
}

#[test]
fn real_host_survives_kills_all_over_the_cycle_with_one_host_and_nothing_left() {
    if !can_boot_hosts() {
        return;
    }
    let lab = small("killed", 1);
    survives(&lab, 40, Duration::from_secs(3), || {
        assert_eq!(lab.on_host("systemctl is-active web; curl -s http://127.0.0.1:8000/"), "active\nhello");
    });
}

#[test]
fn real_host_of_the_local_spec_survives_kills_with_its_four_services_up() {
    if !can_boot_hosts() {
        return;
    }
    let lab = Lab::local("killed-four");
    survives(&lab, 24, Duration::from_secs(8), || {
        let units = ["mvm-hostd", "mvmd-agent", "mvmd-coordinator", "mvmd-gateway"];
        assert_eq!(
            lab.on_host(&format!("systemctl is-active {}", units.join(" "))),
            ["active"; 4].join("\n")
        );
    });
}

fn link(lineage8: &str, state: &str) {
    let status = Command::new("ip").args(["link", "set", &format!("ln-{lineage8}"), state]).status().unwrap();
    assert!(status.success());
}

/// Waits until the running apply has written something to the journal.
fn wait_for(lab: &Lab, child: &mut Child, what: &str) {
    let deadline = Instant::now() + Duration::from_mins(2);
    while !lab.journal().lines().any(|line| line.contains("\"started\"") && line.contains(what)) {
        assert!(child.try_wait().unwrap().is_none(), "apply ended before {what} began");
        assert!(Instant::now() < deadline, "{what} never began");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn finish(lab: &Lab, child: &mut Child) {
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}:\n{}", lab.read("apply.log"));
}

/// The build's output is in the log once, complete and in order, and the build ran once.
fn built_once(lab: &Lab, ticks: usize) {
    let log = std::fs::read_to_string(lab.state().join("logs/build-web.log")).unwrap();
    let ran: Vec<&str> = log.lines().filter(|line| line.starts_with("tick ")).collect();
    let all: Vec<String> = (1..=ticks).map(|tick| format!("tick {tick}")).collect();
    assert_eq!(ran, all, "the output is not whole");
    assert_eq!(lab.on_host("wc -l <~/builds"), "1", "the build ran more than once");
}

#[test]
fn real_host_network_may_go_away_and_come_back_at_any_step() {
    if !can_boot_hosts() {
        return;
    }
    let lab = small("cut-off", 8);
    let mut child = lab.spawn_apply();
    for (step, seconds) in [("await/ssh", 3), ("sync/web", 3), ("build/web", 2), ("build/web", 25)] {
        wait_for(&lab, &mut child, step);
        let lineage8 = lab.lineage8();
        std::thread::sleep(Duration::from_millis(400));
        link(&lineage8, "down");
        std::thread::sleep(Duration::from_secs(seconds));
        link(&lineage8, "up");
    }
    finish(&lab, &mut child);
    built_once(&lab, 80);
    lab.destroy();
}

#[test]
fn real_host_sshd_may_stop_for_a_while_and_the_build_goes_on() {
    if !can_boot_hosts() {
        return;
    }
    let lab = small("no-sshd", 6);
    let mut child = lab.spawn_apply();
    wait_for(&lab, &mut child, "build/web");
    std::thread::sleep(Duration::from_millis(500));
    lab.on_host(
        "sudo systemd-run --quiet sh -c 'systemctl stop ssh; pkill -f ^sshd; sleep 8; systemctl start ssh'",
    );
    finish(&lab, &mut child);
    built_once(&lab, 60);
    lab.destroy();
}

#[test]
fn real_host_killed_build_or_reboot_fails_the_step_with_its_log_and_the_next_apply_goes_on() {
    if !can_boot_hosts() {
        return;
    }
    let lab = small("cut-short", 15);
    for how in ["sudo pkill -9 -f '[b]uild.sh'", "sudo systemctl reboot"] {
        // A word in the source makes the build run anew.
        lab.write("web/word", how);
        let log = || std::fs::read_to_string(lab.state().join("logs/build-web.log")).unwrap_or_default();
        let before = log();
        let mut child = lab.spawn_apply();
        wait_for(&lab, &mut child, "build/web");
        let deadline = Instant::now() + Duration::from_mins(1);
        while !log()[before.len()..].contains("tick 5\n") {
            assert!(Instant::now() < deadline, "{}", lab.read("apply.log"));
            std::thread::sleep(Duration::from_millis(20));
        }
        lab.run(&["exec", &lab.lane, "--", "sh", "-c", how]);
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(5), "{how}: {status}\n{}", lab.read("apply.log"));
        let said = lab.read("apply.log");
        assert!(said.contains("tick 5"), "{how}: the output is not shown\n{said}");
        lab.apply().exits(0);
        assert_eq!(lab.changed_ids(), Vec::<String>::new(), "{how}");
        std::fs::remove_file(lab.path().join("apply.log")).unwrap();
    }
    lab.destroy();
}

/// The places that lane itself writes to on a host: files of the spec and what it keeps of jobs.
#[test]
fn real_host_whose_system_folders_are_full_says_so_and_goes_on_when_there_is_room() {
    if !can_boot_hosts() {
        return;
    }
    let lab = small("no-room-in-system", 0);
    lab.apply().exits(0);
    for (round, folder) in ["/etc", "/var/lib/lane"].into_iter().enumerate() {
        lab.on_host(&format!(
            "sudo sh -ec 'rm -rf /tmp/copy; cp -a {folder} /tmp/copy; mount -t tmpfs -o size=40m,mode=755 tmpfs {folder}; cp -a /tmp/copy/. {folder}; cat /dev/zero >{folder}/filler || true'"
        ));
        lab.edit("web/web.conf.j2", "lane=", &format!("# {round} {}\nlane=", "x".repeat(20_000)));
        lab.write("web/word", folder);
        let said = lab.apply().exits(5).stderr;
        assert!(said.contains("No space left on device"), "{folder}: {said}");
        lab.on_host(&format!("sudo umount --lazy {folder}"));
        lab.apply().exits(0);
        assert_eq!(lab.changed_ids(), Vec::<String>::new(), "{folder}");
    }
    lab.destroy();
}

/// The laptop and its state are gone: whoever has the account takes the host down when its lease is over, and not before.
#[test]
fn real_host_without_any_state_is_swept_when_its_lease_is_over() {
    if !can_boot_hosts() {
        return;
    }
    let mut lab = small("stateless", 0);
    // A folder of its own, so that this sweep meets no host of another test.
    let folder = lab.path().join("hosts");
    lab.set("LANE_NSPAWN_DIR", folder.to_str().unwrap());
    lab.edit("stateless.yaml", "  name: nspawn\n", "  name: nspawn\n  subnet: 10.98.0.0/16\n");
    lab.edit("stateless.yaml", "ttl: 1h", "ttl: 40s");
    assert!(lab.kill_apply_when(|journal| {
        journal.lines().any(|line| line.contains("\"started\"") && line.contains("await/cloud-init"))
    }));
    let lineage8 = lab.lineage8();
    std::fs::remove_dir_all(lab.path().join("state")).unwrap();
    lab.run(&["sweep", "nspawn", "--expired", "-y"]).exits(0);
    assert!(!Lab::traces(&lineage8).is_empty(), "it was taken before its lease was over");
    let deadline = Instant::now() + Duration::from_mins(2);
    while !Lab::traces(&lineage8).is_empty() {
        assert!(Instant::now() < deadline, "not swept: {:?}", Lab::traces(&lineage8));
        std::thread::sleep(Duration::from_secs(2));
        lab.run(&["sweep", "nspawn", "--expired", "-y"]).exits(0);
    }
    let files = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name());
    let left: Vec<_> = files.filter(|name| name.to_string_lossy().contains(&lineage8)).collect();
    assert_eq!(left, Vec::<std::ffi::OsString>::new());
}

#[test]
fn real_host_with_a_full_disk_says_so_and_goes_on_when_there_is_room() {
    if !can_boot_hosts() {
        return;
    }
    let lab = small("no-room", 0);
    lab.apply().exits(0);
    lab.on_host("cp -r ~/web /tmp/web && sudo mount -t tmpfs -o size=256k,uid=$(id -u) tmpfs ~/web && cp -r /tmp/web/. ~/web");
    lab.write("web/big", &"x".repeat(1 << 20));
    let said = lab.apply().exits(5).stderr;
    assert!(said.contains("No space left on device") && said.contains("sync/web"), "{said}");
    lab.on_host("sudo umount ~/web");
    lab.apply().exits(0);
    assert_eq!(lab.on_host("wc -c <~/web/big"), (1 << 20).to_string());
    lab.destroy();
}

/// A file system of its own under the lane's state, taken away on drop.
struct Mounted(std::path::PathBuf);

impl Mounted {
    fn new(path: &std::path::Path, options: &str) -> Self {
        std::fs::create_dir_all(path).unwrap();
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(path).status().unwrap();
        assert!(mounted.success());
        Self(path.to_owned())
    }

    fn remount(&self, options: &str) {
        let status =
            Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(&self.0).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(&self.0).status());
    }
}

#[test]
fn real_host_state_on_a_full_or_read_only_disk_stops_the_run_before_the_next_effect() {
    if !can_boot_hosts() {
        return;
    }
    let lab = small("full-state", 1);
    let mounted = Mounted::new(&lab.path().join("state"), "size=400k");
    lab.run(&["plan", lab.spec_arg()]).exits(0);
    let filler = lab.path().join("state/filler");
    let fill = |kilobytes: usize| {
        drop(std::fs::remove_file(&filler));
        let room = std::fs::File::create(&filler).unwrap();
        drop(std::io::Write::write_all(&mut &room, &vec![0; kilobytes << 10]));
    };
    // What could not be written down is not said to be done.
    let is_told = (80..100).rev().any(|pages| {
        fill(pages * 4);
        let ran = lab.run(&["run", lab.spec_arg()]);
        assert!(ran.code != 0 && !ran.stdout.contains("Nothing to destroy"), "{}{}", ran.stdout, ran.stderr);
        ran.stderr.contains("nothing more can be recorded")
    });
    assert!(is_told, "no run ended at its journal");
    // More room with every try: the run stops at ever other places, and never leaves a host that it does not know.
    for kilobytes in [396, 380, 364, 348, 332] {
        fill(kilobytes);
        let ran = lab.apply();
        if ran.code == 0 {
            break;
        }
        assert!(ran.stderr.contains("No space left on device"), "{}", ran.stderr);
        let known = std::fs::read_to_string(lab.state().join("journal.jsonl")).unwrap_or_default();
        assert!(hosts("full-state").is_empty() || known.contains("create_intended"), "{known}");
    }
    mounted.remount("size=400k,ro");
    let before = hosts("full-state");
    let said = lab.apply();
    assert_ne!(said.code, 0, "{}", said.stderr);
    assert!(said.stderr.contains("Read-only file system"), "{}", said.stderr);
    assert_eq!(hosts("full-state"), before);

    mounted.remount("size=40m,rw");
    lab.apply().exits(0);
    assert_eq!(hosts("full-state").len(), 1);
    assert_eq!(lab.changed_ids(), Vec::<String>::new());
    lab.destroy();
}
