//! Events on a terminal: a moving line per running step, a lasting one per ended step. Decides nothing about the run.

use std::collections::BTreeMap;
use std::io;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::{BAD, DIM, GOOD, Look, Reporter, Timeline, UNSURE};
use super::{action_word, clean, clean_lines, human, stop_text, tally};
use crate::apply::event::Event;
use crate::plan::StepId;

/// Names are padded to this, so that times stand in a column for most steps.
const NAME: usize = 20;

pub(super) struct Live {
    screen: MultiProgress,
    running: BTreeMap<StepId, ProgressBar>,
    bar: ProgressStyle,
    look: Look,
}

impl Live {
    pub(super) fn new(target: ProgressDrawTarget, look: Look) -> Self {
        let template = if look.color {
            "{spinner:.cyan} {prefix:20} {elapsed:>8.dim}  {wide_msg:.dim}"
        } else {
            "{spinner} {prefix:20} {elapsed:>8}  {wide_msg}"
        };
        let bar = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner());
        Self { screen: MultiProgress::with_draw_target(target), running: BTreeMap::new(), bar, look }
    }

    /// Replaces a step's moving line by a lasting one.
    fn settle(&mut self, step: &StepId, mark: &str, time: &str, text: &str) -> io::Result<()> {
        if let Some(bar) = self.running.remove(step) {
            bar.finish_and_clear();
            self.screen.remove(&bar);
        }
        let line = format!("{mark} {:NAME$} {time:>8}  {text}", clean(step.as_str()));
        self.screen.println(line.trim_end())
    }

    fn mark(&self, paint: anstyle::Style, mark: &str) -> String {
        self.look.paint(paint, mark)
    }
}

impl Reporter for Live {
    fn event(&mut self, event: &Event, _timeline: &Timeline) -> io::Result<()> {
        match event {
            Event::RunStarted { lane, verb, steps, .. } => {
                self.screen.println(format!("{verb} of lane {}: {steps} steps", clean(lane)))
            }
            Event::StepStarted { step, action, .. } => {
                let bar = self.screen.add(ProgressBar::new_spinner().with_style(self.bar.clone()));
                bar.set_prefix(clean(step.as_str()));
                bar.set_message(action_word(*action));
                self.running.insert(step.clone(), bar);
                Ok(())
            }
            Event::StepOutput { step, line, .. } => {
                let line = clean(line);
                if let Some(bar) = self.running.get(step).filter(|_| !line.trim().is_empty()) {
                    bar.set_message(line);
                }
                Ok(())
            }
            Event::StepNoted { step, note, .. } => {
                let mark = self.mark(DIM, "·");
                self.screen.println(format!(
                    "{mark} {:NAME$} {:8}  {}",
                    clean(step.as_str()),
                    "",
                    clean(note)
                ))
            }
            Event::StepFinished { step, duration, summary, .. } => {
                self.settle(step, &self.mark(GOOD, "✓"), &human(*duration), &clean(summary))
            }
            Event::StepFailed { step, duration, error, log, .. } => {
                let failed = self.look.paint(BAD, "failed");
                self.settle(step, &self.mark(BAD, "✗"), &human(*duration), &failed)?;
                for line in clean_lines(error) {
                    self.screen.println(format!("    {line}"))?;
                }
                log.as_ref().map_or(Ok(()), |log| self.screen.println(format!("    log: {}", clean(log))))
            }
            Event::StepLeft { step, duration, why, .. } => {
                self.settle(step, &self.mark(UNSURE, "…"), &human(*duration), &clean(why))
            }
            Event::StepNotRun { step, why, .. } => {
                let text = format!("not run: {}", clean(why));
                self.settle(step, &self.mark(UNSURE, "-"), "", &text)
            }
            Event::StopRequested { finishing, .. } => self.screen.println(stop_text(finishing)),
            Event::RunFinished { duration, done, failed, not_run, .. } => {
                self.screen.println(format!("{} in {}", tally(*done, *failed, *not_run), human(*duration)))
            }
        }
    }

    fn tick(&mut self) {
        for bar in self.running.values() {
            bar.tick();
        }
    }

    fn close(&mut self) {
        for bar in std::mem::take(&mut self.running).into_values() {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use indicatif::TermLike;

    use super::super::tests::{Page, events, look};
    use super::*;

    /// A terminal of 60 columns that keeps all that was ever written to it, each write on its own line.
    #[derive(Debug, Clone, Default)]
    struct Terminal(Page);

    impl TermLike for Terminal {
        fn width(&self) -> u16 {
            60
        }

        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }

        fn write_line(&self, text: &str) -> io::Result<()> {
            writeln!(self.0.clone(), "{text}")
        }

        fn write_str(&self, text: &str) -> io::Result<()> {
            self.write_line(text)
        }

        fn clear_line(&self) -> io::Result<()> {
            Ok(())
        }

        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    fn live() -> (Live, Page) {
        let terminal = Terminal::default();
        let target = ProgressDrawTarget::term_like(Box::new(terminal.clone()));
        (Live::new(target, look(false)), terminal.0)
    }

    fn show(live: &mut Live, events: &[Event]) {
        let mut timeline = Timeline::default();
        for event in events {
            if timeline.learn(event) {
                live.event(event, &timeline).unwrap();
            }
        }
    }

    #[test]
    fn running_steps_show_their_last_line_within_the_terminal() {
        let (mut live, page) = live();
        show(&mut live, &events()[..9]);
        let (step, line) = (StepId::from_text("build/mvmd"), "long ".repeat(40));
        live.event(&Event::StepOutput { at: super::super::tests::at(72), step, line }, &Timeline::default())
            .unwrap();
        live.tick();
        let text = page.text();
        assert!(text.contains("Compiling mvmd v0.1.0"), "{text}");
        assert!(text.contains("long long") && !text.contains(&"long ".repeat(10)), "{text}");
        let running: Vec<_> = live.running.keys().map(StepId::as_str).collect();
        assert_eq!(running, ["await/cloud-init", "build/mvmd"]);
        live.close();
        assert!(live.running.is_empty());
    }

    #[test]
    fn ended_steps_leave_a_lasting_line() {
        let (mut live, page) = live();
        let twice: Vec<Event> = events().into_iter().flat_map(|event| [event.clone(), event]).collect();
        show(&mut live, &twice);
        assert!(live.running.is_empty());
        let text = page.text();
        for line in [
            "✓ provision/host           4.2s  created lane-local-1a2b3c4d",
            "✗ build/mvmd               5.0s  failed",
            "    error[E0308]: mismatched types",
            "    log: state/local/logs/build-mvmd.log",
            "… await/cloud-init       1m 56s  goes on on the host",
            "- smoke                          not run: build/mvmd failed",
            "2 done, 1 failed, 1 not run in 2m 00s",
        ] {
            assert!(text.lines().any(|shown| shown.trim_end() == line), "no {line:?} in\n{text}");
        }
        assert!(!text.contains("owned") && !text.contains("\u{202e}"), "{text:?}");
    }
}
