//! Shows a run's events while they come: live on a terminal, as plain lines, as JSON, or failures only.
//!
//! Reads events and nothing else; tolerates events that come twice or not at all, and never fails the run.

mod json;
mod lines;
mod live;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

use anstyle::{AnsiColor, Style as Paint};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use tokio::sync::mpsc;

use crate::apply::event::Event;
use crate::plan::{Action, StepId, turns_direction};

const BAD: Paint = AnsiColor::Red.on_default().bold();
const GOOD: Paint = AnsiColor::Green.on_default();
const UNSURE: Paint = AnsiColor::Yellow.on_default();
const DIM: Paint = Paint::new().dimmed();

/// How often a live display moves.
const TICK: Duration = Duration::from_millis(100);

/// How a run is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// One moving line per running step, on the terminal behind standard error.
    Live,
    /// A line per event, with a table of times at the end.
    Lines,
    /// A JSON object per line.
    Json,
    /// Failures only.
    Quiet,
}

/// What a reporter has to know of its reader.
#[derive(Debug, Clone)]
pub struct Look {
    /// Whether ANSI colours are wanted (`anstream::AutoStream::choice`).
    pub color: bool,
    /// Where the reader's clock stands.
    pub zone: TimeZone,
}

impl Look {
    fn paint(&self, paint: Paint, text: &str) -> String {
        if self.color { format!("{paint}{text}{paint:#}") } else { text.to_owned() }
    }

    fn time(&self, at: Timestamp) -> String {
        self.paint(DIM, &self.zone.to_datetime(at).strftime("%H:%M:%S").to_string())
    }
}

trait Reporter: Send {
    /// Shows one event that is news; the timeline has it already.
    fn event(&mut self, event: &Event, timeline: &Timeline) -> io::Result<()>;

    /// Moves what moves.
    fn tick(&mut self) {}

    /// Tidies up when no more events can come.
    fn close(&mut self) {}
}

/// Shows events until the last sender is gone; `out` is where lines and JSON go.
///
/// The first write error ends the showing, not the reading, and is returned at the end.
pub async fn report(
    mut events: mpsc::UnboundedReceiver<Event>,
    style: Style,
    out: Box<dyn Write + Send>,
    look: Look,
) -> io::Result<()> {
    let mut reporter: Box<dyn Reporter> = match style {
        Style::Live => Box::new(live::Live::new(indicatif::ProgressDrawTarget::stderr(), look)),
        Style::Lines => Box::new(lines::Lines::new(out, look, false)),
        Style::Quiet => Box::new(lines::Lines::new(out, look, true)),
        Style::Json => Box::new(json::Json::new(out)),
    };
    let mut timeline = Timeline::default();
    let mut shown = Ok(());
    let mut clock = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => {
                    if timeline.learn(&event) && shown.is_ok() {
                        shown = reporter.event(&event, &timeline);
                    }
                }
                None => break,
            },
            _ = clock.tick(), if style == Style::Live => reporter.tick(),
        }
    }
    reporter.close();
    shown
}

/// Returns a table of how long each step of the last run took, in the order in which they started.
pub fn timings(events: &[Event]) -> String {
    let mut timeline = Timeline::default();
    for event in events {
        timeline.learn(event);
    }
    timeline.table()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Running,
    Done,
    Failed,
    Left,
    NotRun,
}

#[derive(Debug)]
struct Row {
    phase: Phase,
    started: Timestamp,
    took: Option<Duration>,
}

/// What became of each step so far, from whatever events came.
#[derive(Debug, Default)]
struct Timeline {
    began: Option<Timestamp>,
    took: Option<Duration>,
    rows: BTreeMap<StepId, Row>,
}

impl Timeline {
    /// Takes an event in; tells whether it says anything new.
    fn learn(&mut self, event: &Event) -> bool {
        match event {
            Event::RunStarted { at, .. } => {
                let news = self.began != Some(*at);
                if news {
                    *self = Self { began: Some(*at), ..Self::default() };
                }
                news
            }
            Event::StepStarted { at, step, .. } => self.enter(step, Phase::Running, *at, None),
            Event::StepFinished { at, step, duration, .. } => {
                self.enter(step, Phase::Done, *at, Some(*duration))
            }
            Event::StepFailed { at, step, duration, .. } => {
                self.enter(step, Phase::Failed, *at, Some(*duration))
            }
            Event::StepLeft { at, step, duration, .. } => self.enter(step, Phase::Left, *at, Some(*duration)),
            Event::StepNotRun { at, step, .. } => self.enter(step, Phase::NotRun, *at, None),
            Event::RunFinished { duration, .. } => self.took.replace(*duration).is_none(),
            Event::StepNoted { .. } | Event::StepOutput { .. } | Event::StopRequested { .. } => true,
        }
    }

    fn enter(&mut self, step: &StepId, phase: Phase, at: Timestamp, took: Option<Duration>) -> bool {
        let known = self.rows.get(step);
        if known.is_some_and(|row| row.phase != Phase::Running || phase == Phase::Running) {
            return false;
        }
        // Without its start, a step started as long before its end as it took.
        let before = took.and_then(|took| at.checked_sub(took).ok()).unwrap_or(at);
        let started = known.map_or(before, |row| row.started);
        self.rows.insert(step.clone(), Row { phase, started, took });
        true
    }

    fn table(&self) -> String {
        let mut rows: Vec<_> = self.rows.iter().filter(|(_, row)| row.took.is_some()).collect();
        rows.sort_by_key(|(step, row)| (row.started, *step));
        let Some(first) = rows.first().map(|(_, row)| row.started) else { return String::new() };
        let began = self.began.unwrap_or(first);
        let wide = rows.iter().map(|(step, _)| step.as_str().chars().count()).max().unwrap_or(0).max(5);
        let mut out = format!("{:wide$}  {:>8}  {:>8}\n", "step", "start", "time");
        for (step, row) in rows {
            let start = Duration::try_from(row.started.duration_since(began)).unwrap_or_default();
            let how = match row.phase {
                Phase::Failed => "  failed",
                Phase::Left => "  unfinished",
                Phase::Running | Phase::Done | Phase::NotRun => "",
            };
            let (start, took) = (human(start), human(row.took.unwrap_or_default()));
            _ = writeln!(out, "{:wide$}  {start:>8}  {took:>8}{how}", clean(step.as_str()));
        }
        if let Some(took) = self.took {
            _ = writeln!(out, "{:wide$}  {:>8}  {:>8}", "total", "", human(took));
        }
        out
    }
}

/// Returns a duration as people say it: `0.4s`, `1m 56s`, `2h 05m`.
fn human(duration: Duration) -> String {
    let seconds = duration.as_secs();
    // 59.95 s would be shown as 60.0 s.
    if duration < Duration::from_millis(59_950) {
        return format!("{:.1}s", duration.as_secs_f64());
    }
    if seconds < 3600 {
        let seconds = seconds.max(60);
        return format!("{}m {:02}s", seconds / 60, seconds % 60);
    }
    format!("{}h {:02}m", seconds / 3600, seconds % 3600 / 60)
}

/// Makes one harmless line of what a host wrote: no escape sequence, no control character, no change of direction.
fn clean(line: &str) -> String {
    let plain = anstream::adapter::strip_str(line).to_string();
    // Of a line that overwrites itself, the last part is what a terminal would show.
    let shown = plain.rsplit('\r').find(|part| !part.trim().is_empty()).unwrap_or_default();
    let spaced = shown.chars().map(|c| if matches!(c, '\t' | '\n') { ' ' } else { c });
    spaced.filter(|&c| !c.is_control() && !turns_direction(c)).collect()
}

/// Returns the lines of a longer text, each clean.
fn clean_lines(text: &str) -> impl Iterator<Item = String> + '_ {
    text.trim_end().lines().map(clean)
}

fn action_word(action: Action) -> &'static str {
    match action {
        Action::Create => "create",
        Action::Adopt => "adopt",
        Action::Update => "update",
        Action::Rerun => "re-run",
        Action::Resume => "resume",
        Action::Check => "check",
        Action::Replace => "replace",
        Action::Destroy => "destroy",
        Action::Forget => "forget",
        Action::NoOp => "no-op",
    }
}

/// Returns `14 done`, with what else there was.
fn tally(done: usize, failed: usize, not_run: usize) -> String {
    let mut out = format!("{done} done");
    for (count, word) in [(failed, "failed"), (not_run, "not run")] {
        if count > 0 {
            _ = write!(out, ", {count} {word}");
        }
    }
    out
}

fn stop_text(finishing: &[StepId]) -> String {
    if finishing.is_empty() {
        return "stopping".to_owned();
    }
    let names: Vec<String> = finishing.iter().map(|step| clean(step.as_str())).collect();
    format!("stopping; waiting for {} (Ctrl-C again returns at once)", names.join(", "))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Debug, Clone, Default)]
    pub(super) struct Page(Arc<Mutex<Vec<u8>>>);

    impl Page {
        pub(super) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    pub(super) fn look(color: bool) -> Look {
        Look { color, zone: TimeZone::fixed(jiff::tz::offset(1)) }
    }

    pub(super) fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap()
    }

    fn id(step: &str) -> StepId {
        StepId::from_text(step)
    }

    /// A run in which most things that can happen do happen.
    pub(super) fn events() -> Vec<Event> {
        let started =
            |second, step: &str, action| Event::StepStarted { at: at(second), step: id(step), action };
        let finished = |second, step: &str, seconds, summary: &str| Event::StepFinished {
            at: at(second),
            step: id(step),
            duration: Duration::from_secs_f64(seconds),
            summary: summary.to_owned(),
        };
        let output = |second, step: &str, line: &str| Event::StepOutput {
            at: at(second),
            step: id(step),
            line: line.to_owned(),
        };
        vec![
            Event::RunStarted { at: at(0), lane: "local".to_owned(), verb: "apply", steps: 6 },
            started(0, "provision/host", Action::Create),
            finished(4, "provision/host", 4.2, "created lane-local-1a2b3c4d"),
            started(4, "sync/mvmd", Action::Rerun),
            started(4, "await/cloud-init", Action::Create),
            Event::StepNoted { at: at(5), step: id("sync/mvmd"), note: "trying again in 1 s".to_owned() },
            finished(6, "sync/mvmd", 2.04, ""),
            started(70, "build/mvmd", Action::Resume),
            output(71, "build/mvmd", "\u{1b}[32mCompiling\u{1b}[0m mvmd\tv0.1.0"),
            output(72, "build/mvmd", "\u{1b}]0;owned\u{7}\u{1b}[2J 50%\r100% \u{202e}evil\u{9b}31m\u{8}"),
            Event::StopRequested { at: at(73), finishing: vec![id("await/cloud-init"), id("build/mvmd")] },
            Event::StepFailed {
                at: at(75),
                step: id("build/mvmd"),
                duration: Duration::from_secs(5),
                error: "exited with 101\nerror[E0308]: \u{1b}[1mmismatched types\n".to_owned(),
                log: Some("state/local/logs/build-mvmd.log".to_owned()),
            },
            Event::StepLeft {
                at: at(120),
                step: id("await/cloud-init"),
                duration: Duration::from_secs(116),
                why: "goes on on the host".to_owned(),
            },
            Event::StepNotRun { at: at(120), step: id("smoke"), why: "build/mvmd failed".to_owned() },
            Event::RunFinished {
                at: at(120),
                duration: Duration::from_mins(2),
                done: 2,
                failed: 1,
                not_run: 1,
            },
        ]
    }

    pub(super) async fn page_of(events: Vec<Event>, style: Style, color: bool) -> String {
        let (sender, receiver) = mpsc::unbounded_channel();
        for event in events {
            sender.send(event).unwrap();
        }
        drop(sender);
        let page = Page::default();
        report(receiver, style, Box::new(page.clone()), look(color)).await.unwrap();
        page.text()
    }

    #[test]
    fn times_stand_in_the_order_of_starts() {
        insta::assert_snapshot!(timings(&events()), @r"
        step                 start      time
        provision/host        0.0s      4.2s
        await/cloud-init      4.0s    1m 56s  unfinished
        sync/mvmd             4.0s      2.0s
        build/mvmd          1m 10s      5.0s  failed
        total                         2m 00s
        ");
    }

    #[test]
    fn times_are_right_when_events_are_lost_or_come_twice() {
        let twice: Vec<Event> = events().into_iter().flat_map(|event| [event.clone(), event]).collect();
        assert_eq!(timings(&twice), timings(&events()));
        let ends: Vec<Event> =
            events().into_iter().filter(|event| !matches!(event, Event::StepStarted { .. })).collect();
        let row = |table: &str| table.lines().find(|line| line.starts_with("build/mvmd")).map(str::to_owned);
        assert_eq!(row(&timings(&ends)), row(&timings(&events())));
        assert_eq!(timings(&events()[1..]).lines().count(), timings(&events()).lines().count());
        assert_eq!(timings(&events()[..2]), "", "nothing ended yet");
        assert_eq!(timings(&[]), "");
    }

    #[test]
    fn the_next_run_of_a_stream_starts_afresh() {
        let mut both = events();
        let later = at(500);
        both.push(Event::RunStarted { at: later, lane: "local".to_owned(), verb: "destroy", steps: 1 });
        let (step, duration) = (id("destroy/host"), Duration::from_secs(1));
        both.push(Event::StepFinished { at: at(502), step, duration, summary: String::new() });
        let table = timings(&both);
        assert!(
            table.contains("destroy/host      1.0s      1.0s") && !table.contains("build/mvmd"),
            "{table}"
        );
    }

    #[test]
    fn a_host_cannot_write_to_the_terminal() {
        for (line, shown) in [
            ("\u{1b}[31mred\u{1b}[0m", "red"),
            ("\u{1b}]0;title\u{7}text", "text"),
            ("a\tb", "a b"),
            ("10%\r 55%\r100%", "100%"),
            ("100%\r", "100%"),
            ("\u{8}\u{7f}\u{0}x", "x"),
            ("\u{9b}2Jx", "2Jx"),
            ("safe\u{202e}\u{2066}", "safe"),
            ("grüße ✓ 東京", "grüße ✓ 東京"),
            ("", ""),
        ] {
            assert_eq!(clean(line), shown, "{line:?}");
        }
    }

    #[test]
    fn durations_read_like_speech() {
        for (millis, text) in [
            (0, "0.0s"),
            (12_340, "12.3s"),
            (59_949, "59.9s"),
            (59_950, "1m 00s"),
            (116_000, "1m 56s"),
            (3_599_999, "59m 59s"),
            (7_500_000, "2h 05m"),
        ] {
            assert_eq!(human(Duration::from_millis(millis)), text);
        }
    }

    #[tokio::test]
    async fn quiet_shows_failures_only() {
        insta::assert_snapshot!(page_of(events(), Style::Quiet, false).await, @r"
        09:01:15 build/mvmd: failed after 5.0s
            exited with 101
            error[E0308]: mismatched types
            log: state/local/logs/build-mvmd.log
        ");
    }

    #[derive(Debug)]
    struct FullDisk;

    impl Write for FullDisk {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_reader_that_goes_away_does_not_hold_the_run_up() {
        let (sender, receiver) = mpsc::unbounded_channel();
        let showing = tokio::spawn(report(receiver, Style::Lines, Box::new(FullDisk), look(false)));
        for event in events() {
            sender.send(event).unwrap();
            tokio::task::yield_now().await;
        }
        assert!(!sender.is_closed(), "the run's events must still be read");
        drop(sender);
        assert_eq!(showing.await.unwrap().unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
}
