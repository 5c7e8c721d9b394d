//! Events as one JSON object per line, for machines; durations in milliseconds. Decides nothing about the run.

use std::fmt::Write as _;
use std::io::{self, Write};

use serde_json::{Map, Value};

use super::{Reporter, Timeline};
use crate::apply::event::Event;
use crate::plan::turns_direction;

/// Version of this form; the first line has it.
const FORMAT_VERSION: u32 = 1;

pub(super) struct Json {
    out: Box<dyn Write + Send>,
    is_first: bool,
}

impl Json {
    pub(super) fn new(out: Box<dyn Write + Send>) -> Self {
        Self { out, is_first: true }
    }
}

impl Reporter for Json {
    fn event(&mut self, event: &Event, _timeline: &Timeline) -> io::Result<()> {
        let mut object = Map::new();
        if std::mem::take(&mut self.is_first) {
            object.insert("format_version".to_owned(), FORMAT_VERSION.into());
        }
        let Value::Object(fields) = serde_json::to_value(event)? else {
            return Err(io::Error::other("an event is no JSON object"));
        };
        for (name, value) in fields {
            match (name.as_str(), duration_of(event)) {
                ("duration", Some(duration)) => object.insert("duration_ms".to_owned(), duration),
                _ => object.insert(name, value),
            };
        }
        writeln!(self.out, "{}", escape(&Value::Object(object).to_string()))?;
        self.out.flush()
    }
}

fn duration_of(event: &Event) -> Option<Value> {
    match event {
        Event::StepFinished { duration, .. }
        | Event::StepFailed { duration, .. }
        | Event::StepLeft { duration, .. }
        | Event::RunFinished { duration, .. } => {
            Some(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).into())
        }
        _ => None,
    }
}

/// JSON may hold DEL, C1 and bidirectional controls as they are, and terminals obey them; all are within strings.
fn escape(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            c if matches!(c, '\u{7f}'..='\u{9f}') || turns_direction(c) => {
                _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            _ => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::Style;
    use super::super::tests::{events, page_of};

    #[tokio::test]
    async fn a_line_is_an_object() {
        insta::assert_snapshot!(page_of(events(), Style::Json, true).await, @r#"
        {"format_version":1,"event":"run_started","at":"2027-01-15T08:00:00Z","lane":"local","verb":"apply","steps":6}
        {"event":"step_started","at":"2027-01-15T08:00:00Z","step":"provision/host","action":"create"}
        {"event":"step_finished","at":"2027-01-15T08:00:04Z","step":"provision/host","duration_ms":4200,"summary":"created lane-local-1a2b3c4d"}
        {"event":"step_started","at":"2027-01-15T08:00:04Z","step":"sync/mvmd","action":"rerun"}
        {"event":"step_started","at":"2027-01-15T08:00:04Z","step":"await/cloud-init","action":"create"}
        {"event":"step_noted","at":"2027-01-15T08:00:05Z","step":"sync/mvmd","note":"trying again in 1 s"}
        {"event":"step_finished","at":"2027-01-15T08:00:06Z","step":"sync/mvmd","duration_ms":2040,"summary":""}
        {"event":"step_started","at":"2027-01-15T08:01:10Z","step":"build/mvmd","action":"resume"}
        {"event":"step_output","at":"2027-01-15T08:01:11Z","step":"build/mvmd","line":"\u001b[32mCompiling\u001b[0m mvmd\tv0.1.0"}
        {"event":"step_output","at":"2027-01-15T08:01:12Z","step":"build/mvmd","line":"\u001b]0;owned\u0007\u001b[2J 50%\r100% \u202eevil\u009b31m\b"}
        {"event":"stop_requested","at":"2027-01-15T08:01:13Z","finishing":["await/cloud-init","build/mvmd"]}
        {"event":"step_failed","at":"2027-01-15T08:01:15Z","step":"build/mvmd","duration_ms":5000,"error":"exited with 101\nerror[E0308]: \u001b[1mmismatched types\n","log":"state/local/logs/build-mvmd.log"}
        {"event":"step_left","at":"2027-01-15T08:02:00Z","step":"await/cloud-init","duration_ms":116000,"why":"goes on on the host"}
        {"event":"step_not_run","at":"2027-01-15T08:02:00Z","step":"smoke","why":"build/mvmd failed"}
        {"event":"run_finished","at":"2027-01-15T08:02:00Z","duration_ms":120000,"done":2,"failed":1,"not_run":1}
        "#);
    }

    #[tokio::test]
    async fn every_line_parses_and_output_arrives_whole() {
        let page = page_of(events(), Style::Json, false).await;
        let lines: Vec<serde_json::Value> =
            page.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), events().len());
        assert_eq!(lines[0]["format_version"], 1);
        assert!(lines[1..].iter().all(|line| line.get("format_version").is_none()));
        assert_eq!(lines[9]["line"], "\u{1b}]0;owned\u{7}\u{1b}[2J 50%\r100% \u{202e}evil\u{9b}31m\u{8}");
        assert!(!page.chars().any(|c| c.is_control() && c != '\n'), "{page:?}");
    }
}
