//! Every place of a spec that holds a text, found in the published schema, and strangers' texts to put there.
//!
//! A key that is new in the schema is here by itself. For tests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::{LoadError, SourceMap, Spec, load_text};
use crate::world::{SystemClock, World};

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl name@example.com";

/// What breaks shells, units, templates, YAML, terminals and file systems.
pub(crate) fn strangers() -> Vec<String> {
    let mut all: Vec<String> = [
        "",
        " ",
        " x ",
        "-",
        "-rf",
        "--",
        "--help",
        "~",
        "~/x",
        "~root",
        ".",
        "..",
        "../x",
        "a/../b",
        "x/",
        "//x",
        "/",
        "'",
        "it's",
        "\"",
        "\"x\"",
        "\\",
        "x\\",
        "\\n",
        "a b",
        "\n",
        "a\nb",
        "\r",
        "a\r\nb",
        "\t",
        "\0",
        "a\0b",
        "\u{1b}[2J",
        "\u{7f}",
        "\u{85}",
        "$(touch lane-was-here)",
        "`touch lane-was-here`",
        "$HOME",
        "${HOME}",
        "${env:HOME}",
        "$${env:HOME}",
        "${env:",
        "${env:a b}",
        ";true",
        "a;b",
        "a|b&c",
        "&&",
        "a>b<c",
        "%",
        "%n%h%%",
        "{{ }}",
        "{{ lane.name }}",
        "{% raw %}",
        "{# x #}",
        "@lane-secret:x@",
        "*",
        "?[a-z]{x,y}",
        "[z-a]",
        "!",
        "!x",
        "#",
        "# x",
        "a #b",
        "a: b",
        ": ",
        "- a",
        "&a",
        "*a",
        "null",
        "true",
        "1e3",
        "0640",
        "=",
        "a=b",
        "x.lane-new",
        "ünï",
        "e\u{301}",
        "\u{202e}gnp.exe",
        "\u{200b}",
        "a\u{200b}b",
        "\u{feff}",
        "\u{2028}",
        "\u{fffe}",
        "🦀👩‍👩‍👧",
        "\u{10ffff}",
        "[::1",
        "h:99999",
        "http://[::1/",
        "http://h:99999/",
        "http://u:p@h/",
    ]
    .map(str::to_owned)
    .to_vec();
    all.extend([250, 300, 5_000, 10_000].map(|length| "x".repeat(length)));
    all.extend([100, 3_000].map(|length| "é/".repeat(length) + "x"));
    all
}

/// Values that are kept as what they mean and not as they are written.
fn is_parsed(label: &str) -> bool {
    let (start, end) = (label.split('.').next(), label.rsplit('.').next());
    matches!(start, Some("timeouts" | "lease" | "price" | "disk" | "kvm"))
        || matches!(end, Some("timeout" | "stable_for" | "mode" | "generate" | "kind" | "allow_from"))
}

/// One step on the way from the root of the schema to a text.
#[derive(Debug, Clone, PartialEq)]
enum Way {
    Property(String),
    /// One of several forms.
    Arm(usize),
    Item,
    /// The value behind some key of a mapping.
    Entry,
    /// That key itself.
    Key,
}

/// A place that holds a text.
#[derive(Debug, Clone)]
pub(crate) struct Position {
    /// `build.*.env.*`; a key itself is `build.{}`, a form is `probes.*(http).url`.
    pub(crate) label: String,
    way: Vec<Way>,
    /// A text that is right there.
    pub(crate) sample: String,
}

fn schema() -> &'static Value {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/lane.schema.json");
        serde_json::from_slice(&crate::world::fs::read(&path).unwrap()).unwrap()
    })
}

/// Returns every place of the published schema that holds a text.
pub(crate) fn positions() -> Vec<Position> {
    let mut found = Vec::new();
    collect(schema(), "", &mut vec![], &mut found);
    found
}

fn arms(schema: &Value) -> Option<&Vec<Value>> {
    schema.get("oneOf").or_else(|| schema.get("anyOf"))?.as_array()
}

fn is_text(schema: &Value) -> bool {
    let texts = |values: &Value| values.as_array().is_some_and(|values| values.iter().all(Value::is_string));
    match &schema["type"] {
        Value::String(kind) => kind == "string",
        Value::Array(kinds) => kinds.iter().any(|kind| kind == "string"),
        _ => schema["const"].is_string() || texts(&schema["enum"]),
    }
}

fn collect(schema: &Value, label: &str, way: &mut Vec<Way>, found: &mut Vec<Position>) {
    let mut go = |next: Way, schema: &Value, label: String| {
        way.push(next);
        collect(schema, &label, way, found);
        way.pop();
    };
    if let Some(arms) = arms(schema) {
        for (number, arm) in arms.iter().enumerate() {
            let mut tags = arm["properties"].as_object().into_iter().flatten();
            let tag = tags.find_map(|(_, property)| property["const"].as_str());
            go(Way::Arm(number), arm, tag.map_or_else(|| label.to_owned(), |tag| format!("{label}({tag})")));
        }
        return;
    }
    if is_text(schema) {
        let sample = sample(schema).as_str().unwrap().to_owned();
        return found.push(Position { label: label.to_owned(), way: way.clone(), sample });
    }
    for (key, property) in schema["properties"].as_object().into_iter().flatten() {
        let label = if label.is_empty() { key.clone() } else { format!("{label}.{key}") };
        go(Way::Property(key.clone()), property, label);
    }
    if schema["items"].is_object() {
        go(Way::Item, &schema["items"], format!("{label}[]"));
    }
    if schema["additionalProperties"].is_object() {
        go(Way::Entry, &schema["additionalProperties"], format!("{label}.*"));
        go(Way::Key, &schema["propertyNames"], format!("{label}.{{}}"));
    }
}

/// Makes the smallest value that a schema takes.
fn sample(schema: &Value) -> Value {
    if let Some(arms) = arms(schema) {
        return sample(&arms[0]);
    }
    for only in [&schema["const"], &schema["enum"][0], &schema["examples"][0]] {
        if !only.is_null() {
            return only.clone();
        }
    }
    let kind = schema["type"].as_str().or_else(|| schema["type"][0].as_str());
    match kind {
        Some("object") => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            required
                .map(|key| (key.to_owned(), sample(&schema["properties"][key])))
                .collect::<Map<_, _>>()
                .into()
        }
        Some("array") => json!([sample(&schema["items"])]),
        Some("integer" | "number") => schema["minimum"].as_u64().unwrap_or(1).into(),
        Some("boolean") => true.into(),
        _ if schema["pattern"].as_str().is_some_and(|pattern| pattern.starts_with("^(ssh")) => KEY.into(),
        _ => "x".into(),
    }
}

fn put(schema: &Value, slot: &mut Value, way: &[Way], text: &str) {
    let Some((next, rest)) = way.split_first() else {
        *slot = text.into();
        return;
    };
    let object = |slot: &mut Value| {
        if !slot.is_object() {
            *slot = sample(schema);
        }
    };
    match next {
        Way::Arm(number) => {
            let arm = &arms(schema).unwrap()[*number];
            *slot = sample(arm);
            put(arm, slot, rest, text);
        }
        Way::Property(key) => {
            object(slot);
            let (schema, map) = (&schema["properties"][key], slot.as_object_mut().unwrap());
            put(schema, map.entry(key.clone()).or_insert_with(|| sample(schema)), rest, text);
        }
        Way::Item => {
            *slot = json!([sample(&schema["items"])]);
            put(&schema["items"], &mut slot[0], rest, text);
        }
        Way::Entry | Way::Key => {
            object(slot);
            let map = slot.as_object_mut().unwrap();
            let known = map.keys().next().cloned();
            let known =
                known.unwrap_or_else(|| sample(&schema["propertyNames"]).as_str().unwrap().to_owned());
            let schema = &schema["additionalProperties"];
            let value = map.entry(known.clone()).or_insert_with(|| sample(schema));
            if *next == Way::Entry {
                return put(schema, value, rest, text);
            }
            let value = map.remove(&known).unwrap();
            map.insert(text.to_owned(), value);
        }
    }
}

fn load(written: &str) -> Result<Spec, LoadError> {
    let env = BTreeMap::from([("HOME".to_owned(), "/home/me".to_owned())]);
    let world = World::fixed(Arc::new(SystemClock), env, PathBuf::from("/srv/repo"));
    load_text(&world, Path::new("lane.yaml"), written)
}

impl Position {
    /// Writes a whole spec that is right but for this text, maybe: one key or value a line.
    pub(crate) fn spec_with(&self, text: &str) -> String {
        let mut spec = json!({
            "version": 1, "name": "mvmd", "provider": {"name": "nspawn"}, "kvm": "optional",
            "sources": {"mvmd": {"path": "x", "to": "/home/mvm/mvmd"}},
            "services": {"a": {"unit": "x"}, "mvmd-agent": {"unit": "x"}},
        });
        if self.label.starts_with("services") {
            spec["files"] = json!({"/usr/local/bin/mvmd": {"template": "x"}});
        }
        put(schema(), &mut spec, &self.way, text);
        serde_json::to_string_pretty(&spec).unwrap()
    }

    /// Reads such a spec.
    pub(crate) fn load(&self, text: &str) -> Result<Spec, LoadError> {
        load(&self.spec_with(text))
    }

    /// Makes texts of the form that this place takes, as far as that goes, around a stranger's.
    pub(crate) fn around(&self, stranger: &str) -> Vec<String> {
        let sample = &self.sample;
        let mut all = vec![stranger.to_owned(), format!("{sample}{stranger}")];
        all.extend(
            [' ', '/'].iter().filter(|c| sample.contains(**c)).map(|c| format!("{sample}{c}{stranger}")),
        );
        all.extend(sample.rsplit_once(':').map(|(_, end)| format!("{stranger}:{end}")));
        all
    }

    /// Returns the strangers' texts that this place takes, each in the plainest form that it takes.
    pub(crate) fn taken(&self) -> Vec<String> {
        let taken = |stranger: &String| {
            self.around(stranger).into_iter().find(|text| *text != self.sample && self.load(text).is_ok())
        };
        strangers().iter().filter_map(taken).collect()
    }

    /// Insists that a text is taken as it is, or refused at its own place in words that any terminal can show.
    fn judge(&self, text: &str) {
        let (label, written) = (&self.label, self.spec_with(text));
        match load(&written) {
            Ok(_) if is_parsed(label) => {}
            Ok(spec) => {
                // The map holds the whole text and would prove nothing.
                let shown = format!("{:?}", Spec { source_map: SourceMap::default(), ..spec });
                assert!(shown.contains(&format!("{text:?}")), "{label} lost {text:?}: {shown}");
            }
            Err(LoadError::Complaints(complaints)) => {
                let token = serde_json::to_string(text).unwrap();
                let lines: Vec<_> =
                    written.split('\n').enumerate().filter(|(_, line)| line.contains(&token)).collect();
                assert!(!lines.is_empty());
                for complaint in complaints {
                    let there = lines.iter().any(|(number, line)| {
                        let end = line.chars().count() + 1;
                        complaint.line == number + 1 && (1..=end).contains(&complaint.column)
                    });
                    assert!(there, "{label}: {text:?} is refused elsewhere: {complaint}\n{written}");
                    let said = format!("{complaint} {}", complaint.help.as_deref().unwrap_or_default());
                    let harmless = |c: char| c == '\t' || !c.is_control() && !crate::plan::turns_direction(c);
                    assert!(said.chars().all(harmless), "{label}: {said:?}");
                    assert!(said.len() < 2_000, "{label}: a complaint of {} bytes", said.len());
                }
            }
            Err(other) => panic!("{label}: {text:?}: {other}"),
        }
    }
}

#[test]
fn every_place_takes_its_sample() {
    let all = positions();
    assert!(all.len() > 80, "{}", all.len());
    for position in all {
        if let Err(error) = position.load(&position.sample) {
            panic!("{}: {error}\n{}", position.label, position.spec_with(&position.sample));
        }
    }
}

#[test]
fn every_stranger_is_refused_at_its_place_or_taken_as_it_is() {
    let strangers = strangers();
    for position in positions() {
        for text in strangers.iter().flat_map(|stranger| position.around(stranger)) {
            position.judge(&text);
        }
    }
}

fn any_stranger() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        proptest::sample::select(strangers()),
        any::<char>().prop_map(String::from),
        "\\PC{1,4}",
        "[-~./:@$`'\"\\\\{}%#*!&|;<>=, \n\r\t\u{0}]{1,4}",
    ];
    proptest::collection::vec(part, 1..5).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn any_stranger_is_refused_at_its_place_or_taken_as_it_is(
        position in proptest::sample::select(positions()), stranger in any_stranger(),
    ) {
        position.around(&stranger).iter().for_each(|text| position.judge(text));
    }
}
