//! Where each key of a spec stands in its text, and how a complaint about it is shown.
//!
//! Knows nothing of what a key means; whoever finds a fault gives its key path and the words.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};

use super::tree::{Node, Value};
use crate::plan::printable;

/// A spec's text, and the place of each key in it.
#[derive(Debug, Clone)]
pub struct SourceMap {
    path: Arc<Path>,
    shown: Arc<Path>,
    text: Arc<str>,
    spans: Arc<BTreeMap<String, Range<usize>>>,
}

/// One fault of a spec, at its place.
#[derive(Debug, Clone)]
pub struct Complaint {
    /// The spec's file, as it was given.
    pub path: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What was meant, or what would be right.
    pub help: Option<String>,
    text: Arc<str>,
    span: Range<usize>,
}

impl SourceMap {
    /// Wraps a text in which no key has been found yet; `shown` is the path as it was given.
    pub(super) fn bare(path: &Path, shown: &Path, text: &str) -> Self {
        Self { path: Arc::from(path), shown: Arc::from(shown), text: Arc::from(text), spans: Arc::default() }
    }

    /// Notes where each key of the tree stands.
    pub(super) fn with_tree(mut self, tree: &Node) -> Self {
        let mut spans = BTreeMap::new();
        collect(tree, "", &mut spans);
        self.spans = Arc::new(spans);
        self
    }

    /// Returns the spec's file as an absolute path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the spec's text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Makes a complaint about a key, `services.mvmd.unit`; one that is not written is shown at its nearest parent.
    pub fn complaint(&self, key_path: &str, message: impl Into<String>, help: Option<&str>) -> Complaint {
        let mut key = key_path;
        let span = loop {
            if let Some(span) = self.spans.get(key) {
                break span.clone();
            }
            match key.rfind('.') {
                Some(dot) => key = key.get(..dot).unwrap_or(""),
                None => break 0..0,
            }
        };
        self.at(&span, message, help.map(str::to_owned))
    }

    /// Makes a complaint about a range of the text.
    pub(super) fn at(
        &self,
        span: &Range<usize>,
        message: impl Into<String>,
        help: Option<String>,
    ) -> Complaint {
        let span = one_line(&self.text, span);
        let before = self.text.get(..span.start).unwrap_or("");
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        Complaint {
            path: self.shown.to_path_buf(),
            line: before.matches('\n').count() + 1,
            column: before.get(line_start..).unwrap_or("").chars().count() + 1,
            message: worded(&message.into()),
            help: help.map(|help| worded(&help)),
            text: Arc::clone(&self.text),
            span,
        }
    }
}

impl Complaint {
    /// Shows the complaint as rustc would: message, `file:line:column`, the line with a caret, and the help.
    pub fn render(&self, colour: bool) -> String {
        let path = self.path.display().to_string();
        let snippet = Snippet::source(&*self.text)
            .path(printable(&path))
            .annotation(AnnotationKind::Primary.span(self.span.clone()));
        let mut group = Level::ERROR.primary_title(&*self.message).element(snippet);
        if let Some(help) = &self.help {
            group = group.element(Level::HELP.message(&**help));
        }
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        renderer.render(&[group])
    }

    /// Orders complaints as a reader meets their places.
    pub(super) fn order(&self) -> (usize, usize) {
        (self.span.start, self.span.end)
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.path.display(), self.line, self.column, self.message)
    }
}

/// Appends a key to a key path.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

fn collect(node: &Node, path: &str, spans: &mut BTreeMap<String, Range<usize>>) {
    match &node.value {
        Value::Map(entries) => {
            for entry in entries {
                let path = join(path, &entry.key);
                let scalar = !matches!(entry.node.value, Value::Map(_) | Value::List(_) | Value::Null);
                let span = if scalar { &entry.node.span } else { &entry.key_span };
                spans.entry(path.clone()).or_insert_with(|| span.clone());
                collect(&entry.node, &path, spans);
            }
        }
        Value::List(items) => {
            for (index, item) in items.iter().enumerate() {
                let path = join(path, &index.to_string());
                spans.entry(path.clone()).or_insert_with(|| item.span.clone());
                collect(item, &path, spans);
            }
        }
        _ => {}
    }
}

/// Cuts a span to its first line and to whole characters, since a bad one must not stop a complaint.
fn one_line(text: &str, span: &Range<usize>) -> Range<usize> {
    let floor = |mut at: usize| {
        at = at.min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        at
    };
    let start = floor(span.start);
    let end = floor(span.end).max(start);
    let line = text.get(start..end).unwrap_or("").lines().next().unwrap_or("").trim_end().len();
    let rest = text.get(start..).and_then(|rest| rest.chars().next()).filter(|&c| c != '\n' && c != '\r');
    start..start + if line == 0 { rest.map_or(0, char::len_utf8) } else { line }
}

/// Shows a message that may quote a stranger's text, however long that is.
fn worded(text: &str) -> String {
    const SHOWN: usize = 400;
    let text = printable(text);
    match text.char_indices().nth(SHOWN) {
        None => text,
        Some((cut, _)) => {
            let end = text.char_indices().rev().nth(SHOWN / 4).map_or(cut, |(at, _)| at.max(cut));
            format!("{} … {}", text.get(..cut).unwrap_or(""), text.get(end..).unwrap_or(""))
        }
    }
}

#[cfg(test)]
impl Default for SourceMap {
    fn default() -> Self {
        Self::bare(Path::new("/lane.yaml"), Path::new("lane.yaml"), "")
    }
}
