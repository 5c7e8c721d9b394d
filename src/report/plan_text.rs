//! A plan for people at a terminal. Words reasons nowhere: `super::reason` does.

use std::fmt::Write as _;
use std::time::Duration;

use anstyle::{AnsiColor, Style};

use super::lease::Ring;
use super::reason;
use crate::plan::{Action, Plan, PlannedStep, Verb, printable};

/// Renders a plan; ends with a line end, holds no trailing space, and only ASCII beside what spec and host say.
pub fn render(plan: &Plan, colour: bool, verbose: bool) -> String {
    let mut page = Page { text: String::new(), colour };
    if plan.is_empty() {
        page.nothing(plan);
    } else {
        page.head(plan);
    }
    page.steps(plan, verbose);
    page.lost(plan);
    page.diffs(plan);
    page.cost(plan);
    page.notes(plan);
    if !plan.is_empty() {
        page.section();
        page.line(&summary(plan), None);
    }
    page.text
}

/// Counts what a plan does: `Plan: 3 to create, 12 unchanged.`
pub fn summary(plan: &Plan) -> String {
    let mut parts = Vec::new();
    for (action, words) in [
        (Action::Replace, "to replace"),
        (Action::Destroy, "to destroy"),
        (Action::Create, "to create"),
        (Action::Adopt, "to adopt"),
        (Action::Resume, "to resume"),
        (Action::Update, "to update"),
        (Action::Rerun, "to re-run"),
        (Action::Check, "to check"),
        (Action::Forget, "to forget"),
        (Action::NoOp, "unchanged"),
    ] {
        let count = plan.steps.iter().filter(|step| step.action == action).count();
        if count > 0 {
            parts.push(format!("{count} {words}"));
        }
    }
    format!("Plan: {}.", parts.join(", "))
}

const RED: Style = AnsiColor::Red.on_default();
const GREEN: Style = AnsiColor::Green.on_default();
const YELLOW: Style = AnsiColor::Yellow.on_default();
const CYAN: Style = AnsiColor::Cyan.on_default();

fn glyph(action: Action) -> (&'static str, Style) {
    match action {
        Action::Create => ("+", GREEN),
        Action::Adopt => ("<", GREEN),
        Action::Update => ("~", YELLOW),
        Action::Rerun => ("->", YELLOW),
        Action::Resume => ("=", CYAN),
        Action::Check => ("?", CYAN),
        Action::Replace => ("-/+", RED.bold()),
        Action::Destroy => ("-", RED.bold()),
        Action::Forget => ("x", YELLOW),
        Action::NoOp => ("", Style::new()),
    }
}

struct Page {
    text: String,
    colour: bool,
}

impl Page {
    fn paint(&self, style: Style, text: &str) -> String {
        if self.colour && !text.is_empty() { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }

    fn line(&mut self, line: &str, style: Option<Style>) {
        let line = line.trim_end();
        let line = style.map_or_else(|| line.to_owned(), |style| self.paint(style, line));
        self.text.push_str(&line);
        self.text.push('\n');
    }

    /// Sets what follows apart.
    fn section(&mut self) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
    }

    fn nothing(&mut self, plan: &Plan) {
        let text = match plan.verb {
            Verb::Destroy => format!("No changes. Lane `{}` has no host.", plan.lane),
            Verb::Apply | Verb::Test => format!("No changes. Lane `{}` matches its spec.", plan.lane),
        };
        self.line(&text, Some(GREEN.bold()));
    }

    fn head(&mut self, plan: &Plan) {
        let mut head = format!("Lane `{}`", plan.lane);
        let id = plan.image_id.as_ref().filter(|id| **id != plan.image);
        let image = id.map_or_else(|| plan.image.clone(), |id| format!("{} ({id})", plan.image));
        for (before, word) in
            [(" on ", &plan.provider), (": ", &plan.sku), (" in ", &plan.region), (", ", &image)]
        {
            if !word.is_empty() {
                head.push_str(before);
                head.push_str(word);
            }
        }
        self.line(&printable(&head), Some(Style::new().bold()));
    }

    fn steps(&mut self, plan: &Plan, verbose: bool) {
        let shown: Vec<&PlannedStep> =
            plan.steps.iter().filter(|step| verbose || step.action.is_change()).collect();
        let width =
            shown.iter().map(|step| printable(step.id.as_str()).chars().count()).max().unwrap_or_default();
        if !shown.is_empty() {
            self.section();
        }
        for step in shown {
            let (glyph, style) = glyph(step.action);
            let reasons = match step.action {
                Action::NoOp => vec!["unchanged".to_owned()],
                _ => reason::lines(&step.reasons),
            };
            // Padding comes before colour: escape codes have no width.
            let padded = format!("{glyph:>5}");
            let (space, glyph) = padded.split_at(padded.len() - glyph.len());
            let id = format!("{:width$}", printable(step.id.as_str()));
            let first = reasons.first().map_or("", String::as_str);
            let (id, gap) = (id.trim_end(), id.len() - id.trim_end().len());
            let id_style =
                if matches!(step.action, Action::Replace | Action::Destroy) { style } else { Style::new() };
            let dim = if step.action == Action::NoOp { Style::new().dimmed() } else { Style::new() };
            let text = format!(
                "{space}{} {}{:gap$}  {}",
                self.paint(style, glyph),
                self.paint(id_style, id),
                "",
                self.paint(dim, first)
            );
            self.line(&text, None);
            for more in reasons.iter().skip(1) {
                self.line(&format!("{:1$}{more}", "", width + 8), None);
            }
        }
    }

    fn lost(&mut self, plan: &Plan) {
        if plan.lost.is_empty() {
            return;
        }
        self.section();
        let replaced = plan.steps.iter().any(|step| step.action == Action::Replace);
        let head = if replaced {
            "The host is replaced. This is lost:"
        } else {
            "The host goes down. This is lost:"
        };
        self.line(head, Some(RED.bold()));
        for what in &plan.lost {
            self.line(&printable(&format!("  - {what}")), Some(RED));
        }
    }

    fn diffs(&mut self, plan: &Plan) {
        for diff in &plan.diffs {
            self.section();
            for line in diff.unified.lines() {
                let style = match line.as_bytes().first() {
                    _ if line.starts_with("+++") || line.starts_with("---") => Some(Style::new().bold()),
                    Some(b'+') => Some(GREEN),
                    Some(b'-') => Some(RED),
                    Some(b'@') => Some(CYAN),
                    _ => None,
                };
                self.line(&printable(line), style);
            }
        }
    }

    fn cost(&mut self, plan: &Plan) {
        let cost = &plan.cost;
        let until = cost.expires_at.map(|end| end.strftime("%Y-%m-%d %H:%M:%S UTC").to_string());
        let lease = match &until {
            Some(end) => format!("until {end}"),
            None => format!("{} from the creation of the host", span(cost.ttl)),
        };
        // A host that is not there costs nothing and holds no lease.
        if plan.verb == Verb::Destroy && until.is_none() {
            return;
        }
        self.section();
        self.line(&format!("Lease: {lease}"), None);
        let rings = Ring::recorded(cost.rings, until.is_some());
        self.line(&format!("Ends:  by {}", super::lease::rings(rings)), None);
        if let (Some(per_hour), Some(worst)) = (&cost.per_hour, &cost.worst_case) {
            let now = until.is_some();
            let end = until.unwrap_or_else(|| "the lease ends".to_owned());
            let vanish = super::lease::if_you_vanish(worst, &end, now, rings);
            let expected = cost.expected.as_ref().map_or_else(String::new, |expected| {
                format!("about {expected} for a cycle of {}; ", span(cost.cycle))
            });
            self.line(&format!("Cost:  {per_hour} per hour; {expected}{vanish}"), None);
        } else if plan.verb != Verb::Destroy {
            let unknown = format!("Cost:  unknown: no price is known for {} in {}", plan.sku, plan.region);
            self.line(&format!("{unknown} (the spec's `price` can say it)"), Some(YELLOW));
        }
    }

    fn notes(&mut self, plan: &Plan) {
        if !plan.notes.is_empty() {
            self.section();
        }
        for note in &plan.notes {
            let head = self.paint(YELLOW, "Note:");
            for (number, line) in note.lines().enumerate() {
                let head = if number == 0 { head.as_str() } else { "     " };
                self.line(&format!("{head} {}", printable(line)), None);
            }
        }
    }
}

/// Writes a duration in whole units: `2h`, `1h 30m`, `45s`.
fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let mut text = String::new();
    for (value, unit) in [(seconds / 3600, 'h'), (seconds / 60 % 60, 'm'), (seconds % 60, 's')] {
        if value > 0 {
            let gap = if text.is_empty() { "" } else { " " };
            let _ = write!(text, "{gap}{value}{unit}");
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::testing::{AGENT_UNIT, Scene};
    use crate::plan::{Observed, ObservedHost, StepId, diff_destroy};
    use crate::provider::Sku;

    fn plain(plan: &Plan) -> String {
        let text = render(plan, false, false);
        for line in text.lines() {
            assert_eq!(line, line.trim_end(), "a trailing space");
            assert!(line.is_ascii(), "{line}");
        }
        text
    }

    #[test]
    fn first_plan() {
        insta::assert_snapshot!(plain(&Scene::fresh().plan()));
    }

    #[test]
    fn no_changes() {
        let plan = Scene::applied().plan();
        insta::assert_snapshot!(plain(&plan));
        insta::assert_snapshot!("no_changes_verbose", render(&plan, false, true));
    }

    #[test]
    fn unit_edit() {
        let mut scene = Scene::applied();
        scene.edit_text("deploy/agent.service", &AGENT_UNIT.replace("[Service]\n", "[Service]\nNice=1\n"));
        insta::assert_snapshot!(plain(&scene.plan()));
    }

    #[test]
    fn source_edit() {
        let mut scene = Scene::applied();
        scene.edit_tree("lib", &[("a.rs", ""), ("b.rs", ""), ("c.rs", ""), ("d.rs", ""), ("e.rs", "")]);
        insta::assert_snapshot!(plain(&scene.plan()));
    }

    #[test]
    fn sku_change() {
        let mut scene = Scene::applied();
        scene.spec.sku = Sku::fixed("large");
        scene.edit_text("cloud-init.yaml", "#cloud-config\npackages: [gcc, git]\n");
        let plan = scene.plan();
        insta::assert_snapshot!(plain(&plan));
        let coloured = render(&plan, true, false);
        insta::assert_snapshot!("sku_change_coloured", coloured.replace('\u{1b}', "^"));
        assert_eq!(anstream::adapter::strip_str(&coloured).to_string(), plain(&plan), "colour moves nothing");
    }

    #[test]
    fn drift() {
        let mut scene = Scene::applied();
        scene.view().services.get_mut("agent").unwrap().active = "inactive".to_owned();
        scene.view().files.insert("/usr/local/bin/agent-helper".to_owned(), None);
        scene.view().files.insert("/etc/app/plain.conf".to_owned(), Some("11 1 1".to_owned()));
        insta::assert_snapshot!(plain(&scene.plan()));
    }

    #[test]
    fn destroy() {
        let scene = Scene::applied();
        let plan = diff_destroy(&scene.record, &scene.observed, None, Duration::from_mins(15), scene.now);
        insta::assert_snapshot!(plain(&plan));
        let nothing = diff_destroy(
            &Scene::fresh().record,
            &Observed { host: ObservedHost::Absent, view: None, unreachable: None },
            None,
            Duration::from_mins(15),
            scene.now,
        );
        assert_eq!(plain(&nothing), "No changes. Lane `demo` has no host.\n");
    }

    #[test]
    fn offline_and_requested() {
        let mut scene = Scene::applied();
        scene.observed = Observed { host: ObservedHost::NotAsked, view: None, unreachable: None };
        scene.rerun = vec![StepId::from_text("build/agent")];
        insta::assert_snapshot!(plain(&scene.plan()));
    }

    #[test]
    fn nothing_in_a_plan_moves_the_cursor() {
        let mut scene = Scene::applied();
        scene.edit_text("deploy/agent.service", "\u{1b}[2J\n");
        scene.edit_tree("lib", &[("a\u{1b}]0;b", "")]);
        let mut plan = scene.plan();
        plan.notes.push("first\u{7}\nsecond".to_owned());
        plan.lost.push("\u{9b}".to_owned());
        plan.steps[0].id = StepId::from_text("file/\u{1b}c");
        let text = render(&plan, false, true);
        assert!(text.chars().all(|character| character == '\n' || !character.is_control()), "{text:?}");
        assert!(text.contains("Note: first\\u{7}\n      second\n"), "{text}");
    }

    #[test]
    fn spans_are_in_whole_units() {
        let text = |seconds| span(Duration::from_secs(seconds));
        assert_eq!([text(7200), text(5400), text(45), text(0)], ["2h", "1h 30m", "45s", "0s"]);
    }
}
