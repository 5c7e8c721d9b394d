//! Events as plain lines, for logs and pipes; or their failures only. Decides nothing about the run.

use std::io::{self, Write};

use super::{BAD, DIM, GOOD, Look, Reporter, Timeline, UNSURE};
use super::{action_word, clean, clean_lines, human, stop_text, tally};
use crate::apply::event::Event;
use crate::plan::StepId;

pub(super) struct Lines {
    out: Box<dyn Write + Send>,
    look: Look,
    failures_only: bool,
}

impl Lines {
    pub(super) fn new(out: Box<dyn Write + Send>, look: Look, failures_only: bool) -> Self {
        Self { out, look, failures_only }
    }

    fn line(&mut self, at: jiff::Timestamp, step: &StepId, text: &str) -> io::Result<()> {
        let time = self.look.time(at);
        writeln!(self.out, "{time} {}: {text}", clean(step.as_str()))
    }
}

impl Reporter for Lines {
    fn event(&mut self, event: &Event, timeline: &Timeline) -> io::Result<()> {
        if self.failures_only && !matches!(event, Event::StepFailed { .. }) {
            return Ok(());
        }
        match event {
            Event::RunStarted { at, lane, verb, steps } => {
                let time = self.look.time(*at);
                writeln!(self.out, "{time} {verb} of lane {}: {steps} steps", clean(lane))?;
            }
            Event::StepStarted { at, step, action } => {
                self.line(*at, step, &format!("started ({})", action_word(*action)))?;
            }
            Event::StepNoted { at, step, note } => self.line(*at, step, &clean(note))?,
            Event::StepOutput { step, line, .. } => {
                let prefix = self.look.paint(DIM, &format!("{} |", clean(step.as_str())));
                writeln!(self.out, "{prefix} {}", clean(line))?;
            }
            Event::StepFinished { at, step, duration, summary } => {
                let done = self.look.paint(GOOD, "done");
                let summary =
                    if summary.is_empty() { String::new() } else { format!(": {}", clean(summary)) };
                self.line(*at, step, &format!("{done} in {}{summary}", human(*duration)))?;
            }
            Event::StepFailed { at, step, duration, error, log } => {
                let failed = self.look.paint(BAD, "failed");
                self.line(*at, step, &format!("{failed} after {}", human(*duration)))?;
                for line in clean_lines(error) {
                    writeln!(self.out, "    {line}")?;
                }
                if let Some(log) = log {
                    writeln!(self.out, "    log: {}", clean(log))?;
                }
            }
            Event::StepLeft { at, step, duration, why } => {
                let left = self.look.paint(UNSURE, "left");
                self.line(*at, step, &format!("{left} after {}: {}", human(*duration), clean(why)))?;
            }
            Event::StepNotRun { at, step, why } => {
                let not_run = self.look.paint(UNSURE, "not run");
                self.line(*at, step, &format!("{not_run}: {}", clean(why)))?;
            }
            Event::StopRequested { at, finishing } => {
                writeln!(self.out, "{} {}", self.look.time(*at), stop_text(finishing))?;
            }
            Event::RunFinished { at, duration, done, failed, not_run } => {
                let tally = tally(*done, *failed, *not_run);
                writeln!(self.out, "{} ended after {}: {tally}", self.look.time(*at), human(*duration))?;
                let table = timeline.table();
                if !table.is_empty() {
                    write!(self.out, "\n{table}")?;
                }
            }
        }
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Style;
    use super::super::tests::{events, page_of};

    #[tokio::test]
    async fn a_line_tells_each_event() {
        insta::assert_snapshot!(page_of(events(), Style::Lines, false).await, @r"
        09:00:00 apply of lane local: 6 steps
        09:00:00 provision/host: started (create)
        09:00:04 provision/host: done in 4.2s: created lane-local-1a2b3c4d
        09:00:04 sync/mvmd: started (re-run)
        09:00:04 await/cloud-init: started (create)
        09:00:05 sync/mvmd: trying again in 1 s
        09:00:06 sync/mvmd: done in 2.0s
        09:01:10 build/mvmd: started (resume)
        build/mvmd | Compiling mvmd v0.1.0
        build/mvmd | 100% evil31m
        09:01:13 stopping; waiting for await/cloud-init, build/mvmd (Ctrl-C again returns at once)
        09:01:15 build/mvmd: failed after 5.0s
            exited with 101
            error[E0308]: mismatched types
            log: state/local/logs/build-mvmd.log
        09:02:00 await/cloud-init: left after 1m 56s: goes on on the host
        09:02:00 smoke: not run: build/mvmd failed
        09:02:00 ended after 2m 00s: 2 done, 1 failed, 1 not run

        step                 start      time
        provision/host        0.0s      4.2s
        await/cloud-init      4.0s    1m 56s  unfinished
        sync/mvmd             4.0s      2.0s
        build/mvmd          1m 10s      5.0s  failed
        total                         2m 00s
        ");
    }

    #[tokio::test]
    async fn colour_changes_no_word() {
        let colored = page_of(events(), Style::Lines, true).await;
        assert!(colored.contains("\u{1b}[1m\u{1b}[31mfailed\u{1b}[0m"), "{colored:?}");
        let plain = anstream::adapter::strip_str(&colored).to_string();
        assert_eq!(plain, page_of(events(), Style::Lines, false).await);
    }

    #[tokio::test]
    async fn an_event_that_comes_twice_is_told_once() {
        let twice = events().into_iter().flat_map(|event| {
            // Two equal lines of output may well be two lines.
            let times =
                if serde_json::to_value(&event).unwrap()["event"].as_str().unwrap().starts_with("step_") {
                    2
                } else {
                    1
                };
            let said = matches!(event, super::Event::StepNoted { .. } | super::Event::StepOutput { .. });
            vec![event; if said { 1 } else { times }]
        });
        assert_eq!(
            page_of(twice.collect(), Style::Lines, false).await,
            page_of(events(), Style::Lines, false).await
        );
    }
}
