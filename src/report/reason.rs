//! The one place that words a reason. Knows no colour and no layout.

use crate::plan::{Reason, printable};

/// How much of a value is shown.
const SHOWN: usize = 48;

/// Words one reason.
pub fn word(reason: &Reason) -> String {
    match reason {
        Reason::NeverDone => "not done yet".to_owned(),
        Reason::FailedBefore { error } => format!("failed before: {}", short(error)),
        Reason::InDoubt => "an earlier run left it unfinished".to_owned(),
        Reason::InputChanged { input, old, new } => changed(input, old.as_deref(), new.as_deref()),
        Reason::SourceChanged { count, files } => {
            let mut text = format!("{count} {} changed: {}", plural(*count, "file"), files.join(", "));
            if files.len() < *count {
                text.push_str(", ...");
            }
            text
        }
        Reason::DependencyRuns { on } => format!("{on} runs"),
        Reason::DependencyRan { on } => format!("{on} ran since"),
        Reason::HostReplaced => "the host is made new".to_owned(),
        Reason::HostGone => "the recorded host is gone".to_owned(),
        Reason::HostUnrecorded { id } => format!("host {id} carries this lane's label, but is in no record"),
        Reason::HostTainted { why } => format!("the host is tainted: {}", short(why)),
        Reason::Drift { what, observed, .. } if observed == "missing" || observed.is_empty() => {
            format!("drift: {what} is missing")
        }
        Reason::Drift { what, recorded, observed } if is_stat(recorded) && is_stat(observed) => {
            format!("drift: {what} was changed on the host")
        }
        Reason::Drift { what, recorded, observed } => {
            format!("drift: {what} is {}, was {}", short(observed), short(recorded))
        }
        Reason::Unreachable { why } => format!("the host did not answer: {}", short(why)),
        Reason::NotInSpec => "not in the spec any more".to_owned(),
        Reason::Requested => "asked for".to_owned(),
    }
}

/// Words a step's reasons, one a line; dependencies that run share one.
pub fn lines(reasons: &[Reason]) -> Vec<String> {
    let mut lines = Vec::new();
    let (mut run, mut ran) = (Vec::new(), Vec::new());
    for reason in reasons {
        match reason {
            Reason::DependencyRuns { on } => run.push(on.as_str()),
            Reason::DependencyRan { on } => ran.push(on.as_str()),
            other => lines.push(word(other)),
        }
    }
    for (ids, one, many) in [(run, "runs", "run"), (ran, "ran since", "ran since")] {
        if let [id] = ids.as_slice() {
            lines.push(format!("{id} {one}"));
        } else if !ids.is_empty() {
            lines.push(format!("{} {many}", ids.join(", ")));
        }
    }
    lines.iter().map(|line| printable(line)).collect()
}

/// Shows a text's control characters but for its line ends.
pub fn printable_lines(text: &str) -> String {
    text.lines().map(|line| format!("{}\n", printable(line))).collect::<Vec<_>>().concat()
}

/// Returns the word for one or for many.
pub(super) fn plural(count: usize, one: &str) -> String {
    if count == 1 { one.to_owned() } else { format!("{one}s") }
}

fn changed(input: &str, old: Option<&str>, new: Option<&str>) -> String {
    match (old, new) {
        (_, Some("unknown")) => format!("{input} is unknown until apply"),
        (None, Some(new)) if input == "dependencies" => format!("depends on other steps than before: {new}"),
        (Some(old), Some(new)) => {
            let (old, new) = (short(old), short(new));
            // What differs may stand behind what is shown.
            if old == new {
                format!("{input} changed: {new}")
            } else {
                format!("{input} changed: {old} -> {new}")
            }
        }
        (None, Some(new)) => format!("{input} is new: {}", short(new)),
        (Some(old), None) => format!("{input} is gone, was {}", short(old)),
        (None, None) => format!("{input} changed"),
    }
}

/// Shortens digests to 12 characters and other texts to the start of their first line.
fn short(text: &str) -> String {
    if text.is_empty() {
        return "none".to_owned();
    }
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return text.chars().take(12).collect();
    }
    let line = text.lines().next().unwrap_or_default();
    let shown: String = line.chars().take(SHOWN).collect();
    if shown.trim_end().len() < text.trim_end().len() { format!("{}...", shown.trim_end()) } else { shown }
}

/// Tells whether a text is `size mtime inode`, which means nothing to people.
fn is_stat(text: &str) -> bool {
    text.split(' ').count() == 3 && text.split(' ').all(|part| part.parse::<i128>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Digest, StepId};

    fn input(old: &str, new: &str) -> Reason {
        Reason::InputChanged {
            input: "authorized_keys".to_owned(),
            old: Some(old.to_owned()),
            new: Some(new.to_owned()),
        }
    }

    #[test]
    fn values_are_short_and_harmless() {
        let digest = Digest::of(b"x").as_str().to_owned();
        assert_eq!(word(&input("a", &digest)), format!("authorized_keys changed: a -> {}", &digest[..12]));
        assert_eq!(lines(&[input("", "\u{1b}[2Jb")]), ["authorized_keys changed: none -> \\u{1b}[2Jb"]);
        let (one, two) = (format!("{}1", "a".repeat(60)), format!("{}2", "a".repeat(60)));
        assert_eq!(word(&input(&one, &two)), format!("authorized_keys changed: {}...", "a".repeat(48)));
        assert_eq!(word(&input("first\nsecond", "other")), "authorized_keys changed: first... -> other");
    }

    #[test]
    fn drift_is_said_in_the_words_of_the_host() {
        let drift = |recorded: &str, observed: &str| {
            word(&Reason::Drift {
                what: "/x".to_owned(),
                recorded: recorded.to_owned(),
                observed: observed.to_owned(),
            })
        };
        assert_eq!(drift("10 20 30", "missing"), "drift: /x is missing");
        assert_eq!(drift("10 20 30", "10 21 30"), "drift: /x was changed on the host");
        assert_eq!(drift("active", "inactive"), "drift: /x is inactive, was active");
    }

    #[test]
    fn dependencies_share_a_line() {
        let runs = |id: &str| Reason::DependencyRuns { on: StepId::from_text(id) };
        let reasons = [runs("a"), Reason::Requested, runs("b")];
        assert_eq!(lines(&reasons), ["asked for", "a, b run"]);
        assert_eq!(lines(&reasons[..1]), ["a runs"]);
    }

    #[test]
    fn more_files_than_are_named_are_hinted_at() {
        let reason = Reason::SourceChanged { count: 3, files: vec!["a".to_owned(), "b".to_owned()] };
        assert_eq!(word(&reason), "3 files changed: a, b, ...");
    }
}
