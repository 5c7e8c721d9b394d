//! Holds a tree against the schema and collects every complaint: unknown, missing and repeated keys, wrong values.
//!
//! Knows the schema's words only, no key of a spec (see `cross`).

use std::ops::Range;

use serde_json::Value as Schema;

use super::schema::{HELP, tagged};
use super::source_map::{Complaint, SourceMap};
use super::text::{CHECK, check};
use super::tree::{Node, Value};

/// Returns everything in which the tree is not as the schema wants it.
pub(super) fn walk(map: &SourceMap, schema: &Schema, tree: &Node) -> Vec<Complaint> {
    let mut walk = Walk { map, root: schema, complaints: Vec::new() };
    let first = tree.entries().first().map_or_else(|| tree.span.clone(), |entry| entry.key_span.clone());
    walk.node(schema, tree, &Place { name: ROOT, key: &first });
    walk.complaints
}

/// Returns the candidate that was probably meant.
pub fn closest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let length = word.chars().count();
    let limit = (length / 3).max(1);
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|&(distance, _)| distance <= limit && distance < length)
        .min_by_key(|&(distance, candidate)| {
            // Of equals, a swap of letters is likelier than a lost one, and a wrong first letter the least likely.
            let same_start = candidate.chars().next() == word.chars().next();
            (distance, !same_start, candidate.chars().count().abs_diff(length))
        })
        .map(|(_, candidate)| candidate)
}

/// Says what was meant, or what there is.
pub(super) fn meant<'a>(word: &str, candidates: impl Iterator<Item = &'a str> + Clone) -> Option<String> {
    if let Some(closest) = closest(word, candidates.clone()) {
        return Some(format!("did you mean `{closest}`?"));
    }
    let all: Vec<String> = candidates.map(|candidate| format!("`{candidate}`")).collect();
    if all.is_empty() { None } else { Some(format!("there are: {}", all.join(", "))) }
}

const ROOT: &str = "the spec";

struct Place<'a> {
    name: &'a str,
    key: &'a Range<usize>,
}

struct Walk<'a> {
    map: &'a SourceMap,
    root: &'a Schema,
    complaints: Vec<Complaint>,
}

impl Walk<'_> {
    fn complain(&mut self, span: &Range<usize>, message: impl Into<String>, help: Option<String>) {
        self.complaints.push(self.map.at(span, message, help));
    }

    fn node(&mut self, schema: &Schema, node: &Node, place: &Place<'_>) {
        let Some(keywords) = schema.as_object() else { return };
        if let Some((tag, arms)) = tagged(keywords) {
            return self.tagged(tag, arms, node, place);
        }
        if let Some(choices) = choices(schema) {
            return self.choice(&choices, schema, node, place);
        }
        if let Some(arms) = schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Schema::as_array) {
            return match arms.iter().find(|arm| fits(arm, node)) {
                Some(arm) => self.node(arm, node, place),
                None => self.mismatch(schema, node, place),
            };
        }
        if !fits(schema, node) {
            return self.mismatch(schema, node, place);
        }
        match &node.value {
            Value::Map(_) => self.mapping(schema, node, place),
            Value::List(items) => {
                let least = schema.get("minItems").and_then(Schema::as_u64).unwrap_or(0);
                if (items.len() as u64) < least {
                    self.complain(&node.span, format!("`{}` is an empty list", place.name), help(schema));
                }
                if let Some(wanted) = schema.get("items") {
                    for item in items {
                        self.node(wanted, item, &Place { name: place.name, key: &item.span });
                    }
                }
            }
            Value::Number(number) => self.number(schema, number, node, place),
            Value::Text(text) => self.text(schema, text, &node.span, place.name),
            Value::Null | Value::Bool(_) => {}
        }
    }

    fn tagged(&mut self, tag: &str, arms: &[Schema], node: &Node, place: &Place<'_>) {
        if !matches!(node.value, Value::Map(_)) {
            let help = node.text().map(|text| format!("write `{{{tag}: {text}}}`"));
            let found = kind(node);
            return self.complain(
                place.at(node),
                format!("`{}` is a mapping, not {found}", place.name),
                help,
            );
        }
        let names =
            || arms.iter().filter_map(|arm| arm.pointer(&format!("/properties/{tag}/const"))?.as_str());
        let Some(chosen) = node.get(tag) else {
            let all: Vec<_> = names().map(|name| format!("`{name}`")).collect();
            let help = Some(format!("`{tag}` is one of {}", all.join(", ")));
            return self.complain(place.key, format!("`{}` has no `{tag}`", place.name), help);
        };
        let arm = chosen.text().and_then(|text| {
            arms.iter()
                .find(|arm| arm.pointer(&format!("/properties/{tag}/const")).is_some_and(|name| name == text))
        });
        match (arm, chosen.text()) {
            (Some(arm), _) => self.node(arm, node, place),
            (None, Some(text)) => {
                let noun = if tag == "name" { place.name } else { tag };
                let message = format!("no {noun} is called `{text}`");
                self.complain(&chosen.span, message, meant(text, names()));
            }
            (None, None) => {
                let span = node
                    .entries()
                    .iter()
                    .find(|entry| entry.key == tag)
                    .map_or(place.key, |entry| &entry.key_span);
                self.mismatch(
                    &serde_json::json!({"type": "string"}),
                    chosen,
                    &Place { name: tag, key: span },
                );
            }
        }
        if arm.is_none() {
            self.repeated(node);
        }
    }

    fn repeated(&mut self, node: &Node) {
        for (index, entry) in node.entries().iter().enumerate() {
            let earlier = node.entries().iter().take(index).find(|other| other.key == entry.key);
            if let Some(earlier) = earlier {
                let line = self.map.at(&earlier.key_span, "", None).line;
                let message = format!("the key `{}` is here twice", entry.key);
                self.complain(&entry.key_span, message, Some(format!("it is on line {line} already")));
            }
        }
    }

    fn mapping(&mut self, schema: &Schema, node: &Node, place: &Place<'_>) {
        self.repeated(node);
        let empty = serde_json::Map::new();
        let properties = schema.get("properties").and_then(Schema::as_object).unwrap_or(&empty);
        for entry in node.entries() {
            let below = Place { name: &entry.key, key: &entry.key_span };
            if let Some(property) = properties.get(&entry.key) {
                self.node(property, &entry.node, &below);
                continue;
            }
            match schema.get("additionalProperties") {
                Some(Schema::Object(_)) => {
                    if let Some(names) = schema.get("propertyNames") {
                        self.text(names, &entry.key, &entry.key_span, &entry.key);
                    }
                    if let Some(values) = schema.get("additionalProperties") {
                        self.node(values, &entry.node, &below);
                    }
                }
                Some(Schema::Bool(false)) => {
                    let message = format!("{} has no key `{}`", place.shown(), entry.key);
                    let known =
                        || properties.keys().map(String::as_str).filter(|key| node.get(key).is_none());
                    let help = closest(&entry.key, known())
                        .map(|key| format!("did you mean `{key}`?"))
                        .or_else(|| self.elsewhere(schema, &entry.key))
                        .or_else(|| meant(&entry.key, known()));
                    self.complain(&entry.key_span, message, help);
                }
                _ => {}
            }
        }
        for key in
            schema.get("required").and_then(Schema::as_array).into_iter().flatten().filter_map(Schema::as_str)
        {
            if node.get(key).is_none() {
                let text = properties
                    .get(key)
                    .and_then(|property| property.get("description"))
                    .and_then(Schema::as_str);
                let help = text.map(|text| format!("`{key}`: {}", text.lines().next().unwrap_or("")));
                self.complain(place.key, format!("`{key}` is missing in {}", place.shown()), help);
            }
        }
    }

    /// A key that is known one level below the root, but not where it was written.
    fn elsewhere(&self, schema: &Schema, key: &str) -> Option<String> {
        if !std::ptr::eq(schema, self.root) {
            let root = self.root.get("properties")?.get(key)?;
            return root.is_object().then(|| format!("`{key}` belongs to the top level"));
        }
        let sections = self.root.get("properties")?.as_object()?;
        let (section, _) =
            sections.iter().find(|(_, section)| section.pointer(&format!("/properties/{key}")).is_some())?;
        Some(format!("it belongs under `{section}`"))
    }

    fn choice(&mut self, choices: &[&Schema], schema: &Schema, node: &Node, place: &Place<'_>) {
        let json = node.to_json();
        if choices.contains(&&json) {
            return;
        }
        let wanted: Vec<String> = choices.iter().map(|choice| format!("`{}`", plain(choice))).collect();
        let message = format!("`{}` is {}, not {}", place.name, wanted.join(" or "), self.found(node));
        let texts = choices.iter().filter_map(|choice| choice.as_str());
        let guess =
            node.text().and_then(|text| closest(text, texts)).map(|guess| format!("did you mean `{guess}`?"));
        self.complain(place.at(node), message, guess.or_else(|| help(schema)));
    }

    fn number(&mut self, schema: &Schema, number: &serde_json::Number, node: &Node, place: &Place<'_>) {
        let (Some(value), least, most) = (
            number.as_f64(),
            schema.get("minimum").and_then(Schema::as_f64),
            schema.get("maximum").and_then(Schema::as_f64),
        ) else {
            return;
        };
        if least.is_some_and(|least| value < least) || most.is_some_and(|most| value > most) {
            let range = match (least, most) {
                (Some(least), Some(most)) => format!("from {least} to {most}"),
                (Some(least), None) => format!("at least {least}"),
                (None, most) => format!("at most {}", most.unwrap_or(value)),
            };
            self.complain(&node.span, format!("`{}` is {range}, not {number}", place.name), None);
        }
    }

    fn text(&mut self, schema: &Schema, text: &str, span: &Range<usize>, name: &str) {
        let form = schema.get(CHECK).and_then(Schema::as_str).unwrap_or("plain");
        if let Err(wrong) = check(form, text) {
            let message = if wrong.message.starts_with('`') || name == text {
                wrong.message
            } else {
                format!("`{name}`: {}", wrong.message)
            };
            self.complain(span, message, wrong.help);
        }
    }

    fn found(&self, node: &Node) -> String {
        match &node.value {
            Value::Text(text) if !text.is_empty() && text.len() <= 60 => format!("`{text}`"),
            Value::Bool(_) | Value::Number(_) => format!("`{}`", self.written(node)),
            _ => kind(node).to_owned(),
        }
    }

    fn written(&self, node: &Node) -> String {
        self.map
            .text()
            .get(node.span.clone())
            .map_or_else(|| plain(&node.to_json()), |text| text.trim().to_owned())
    }

    fn mismatch(&mut self, schema: &Schema, node: &Node, place: &Place<'_>) {
        if matches!(node.value, Value::Null) {
            let help = "give it a value, or take the key away".to_owned();
            return self.complain(place.key, format!("`{}` has no value", place.name), Some(help));
        }
        let arms = schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Schema::as_array);
        let wanted: Vec<&str> = match arms {
            Some(arms) => arms.iter().flat_map(types).map(article).collect(),
            None => types(schema).map(article).collect(),
        };
        let message = format!("{} is {}, not {}", place.shown(), wanted.join(" or "), kind(node));
        let required = schema.get("required").and_then(Schema::as_array).map(Vec::as_slice);
        let example = schema.get("examples").and_then(|examples| examples.get(0)).map(plain);
        let quotable = matches!(node.value, Value::Number(_) | Value::Bool(_)) && wanted.contains(&"a text");
        let help = match example {
            Some(example) if schema.get(CHECK).is_some_and(|check| check != "var-value") => {
                Some(format!("for example `{example}`"))
            }
            _ if quotable => Some(format!("put it in quotes: \"{}\"", self.written(node))),
            _ if wanted.contains(&"a list") && node.text().is_some() => {
                Some(format!("write `[{}]`", self.written(node)))
            }
            _ => match (required, node.text()) {
                (Some([Schema::String(only)]), Some(text)) => Some(format!("write `{{{only}: {text}}}`")),
                _ => help(schema),
            },
        };
        self.complain(place.at(node), message, help);
    }
}

impl Place<'_> {
    fn shown(&self) -> String {
        if self.name == ROOT { ROOT.to_owned() } else { format!("`{}`", self.name) }
    }

    /// A scalar is shown itself, anything longer by its key.
    fn at<'b>(&'b self, node: &'b Node) -> &'b Range<usize> {
        if matches!(node.value, Value::Map(_) | Value::List(_) | Value::Null) { self.key } else { &node.span }
    }
}

fn help(schema: &Schema) -> Option<String> {
    schema.get(HELP).and_then(Schema::as_str).map(str::to_owned)
}

fn plain(value: &Schema) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The values of an enum in any of the forms that schemars gives it.
fn choices(schema: &Schema) -> Option<Vec<&Schema>> {
    if let Some(only) = schema.get("const") {
        return Some(vec![only]);
    }
    if let Some(values) = schema.get("enum").and_then(Schema::as_array) {
        return Some(values.iter().collect());
    }
    let arms = schema.get("oneOf")?.as_array()?;
    let nested: Option<Vec<Vec<&Schema>>> = arms.iter().map(choices).collect();
    Some(nested?.concat())
}

fn types(schema: &Schema) -> impl Iterator<Item = &str> {
    let (one, many) = match schema.get("type") {
        Some(Schema::String(one)) => (Some(one.as_str()), None),
        Some(Schema::Array(many)) => (None, Some(many)),
        _ => (None, None),
    };
    one.into_iter().chain(many.into_iter().flatten().filter_map(Schema::as_str))
}

fn fits(schema: &Schema, node: &Node) -> bool {
    let mut untyped = true;
    for kind in types(schema) {
        untyped = false;
        let fits = match (kind, &node.value) {
            ("object", Value::Map(_))
            | ("array", Value::List(_))
            | ("string", Value::Text(_))
            | ("boolean", Value::Bool(_))
            | ("number", Value::Number(_)) => true,
            ("integer", Value::Number(number)) => !number.is_f64(),
            _ => false,
        };
        if fits {
            return true;
        }
    }
    untyped
}

fn article(kind: &str) -> &str {
    match kind {
        "object" => "a mapping",
        "array" => "a list",
        "string" => "a text",
        "boolean" => "`true` or `false`",
        "integer" => "a whole number",
        "number" => "a number",
        other => other,
    }
}

fn kind(node: &Node) -> &'static str {
    match node.value {
        Value::Null => "nothing",
        Value::Bool(_) => "`true` or `false`",
        Value::Number(_) => "a number",
        Value::Text(_) => "a text",
        Value::List(_) => "a list",
        Value::Map(_) => "a mapping",
    }
}
