//! The schema of a spec: with our own keywords for the walk, without them and made for editors as `lane schema` prints it.
//!
//! Reads no spec.

use std::sync::OnceLock;

use schemars::generate::SchemaSettings;
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::raw::RawSpec;
use super::text::CHECK;
use crate::provider;

/// Name of the schema keyword that says what to write instead; it is not in the published schema.
pub(super) const HELP: &str = "x-lane-help";

fn generator() -> SchemaGenerator {
    // Inlined, so that neither the walk nor an editor has to follow references.
    SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true).into_generator()
}

/// Returns the schema that the walk goes by.
pub(super) fn walk_schema() -> &'static Value {
    static SCHEMA: OnceLock<Value> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let mut schema = Value::from(generator().into_root_schema_for::<RawSpec>());
        refuse_null(&mut schema);
        describe_tags(&mut schema);
        schema
    })
}

/// Returns the published schema, which editors read: the same bytes each time.
pub fn json_schema() -> Value {
    let mut schema = walk_schema().clone();
    for_editors(&mut schema);
    // Readers of the file want to know first what it is.
    let mut ordered = Map::new();
    if let Value::Object(map) = &mut schema {
        for key in ["$schema", "title", "description"] {
            ordered.extend(map.shift_remove_entry(key));
        }
        ordered.append(map);
    }
    ordered.into()
}

/// Joins every provider's own keys under its name.
pub(super) fn provider_schema() -> Schema {
    let arms: Vec<Value> = provider::entries()
        .iter()
        .map(|entry| {
            let mut arm = Value::from((entry.schema)(&mut generator()));
            let mut properties = Map::new();
            properties.insert("name".to_owned(), json!({"type": "string", "const": entry.name}));
            if let Some(Value::Object(own)) = arm.get("properties") {
                properties.extend(own.clone());
            }
            let mut required = vec![Value::from("name")];
            if let Some(Value::Array(own)) = arm.get("required") {
                required.extend(own.iter().cloned());
            }
            json!({
                "type": "object",
                "description": entry.about,
                "properties": properties,
                "required": required,
                "additionalProperties": arm.get_mut("additionalProperties").map_or(Value::Bool(false), Value::take),
            })
        })
        .collect();
    Schema::from(Map::from_iter([("oneOf".to_owned(), Value::from(arms))]))
}

/// Applies a change to each schema inside a schema, the innermost first.
fn each(value: &mut Value, change: &mut impl FnMut(&mut Map<String, Value>)) {
    match value {
        Value::Object(map) => {
            for (key, inner) in map.iter_mut() {
                match key.as_str() {
                    // Under these, keys are names of the user's keys and not of the schema's.
                    "properties" | "patternProperties" | "$defs" => {
                        if let Value::Object(named) = inner {
                            named.values_mut().for_each(|schema| each(schema, change));
                        }
                    }
                    "enum" | "const" | "default" | "examples" | "required" => {}
                    _ => each(inner, change),
                }
            }
            change(map);
        }
        Value::Array(items) => items.iter_mut().for_each(|item| each(item, change)),
        _ => {}
    }
}

/// Takes out `null`, which serde's `Option` lets in: a key without a value is a slip.
fn refuse_null(schema: &mut Value) {
    each(schema, &mut |map| {
        if let Some(Value::Array(types)) = map.get_mut("type") {
            types.retain(|kind| kind != "null");
            if let [only] = types.as_slice() {
                let only = only.clone();
                map.insert("type".to_owned(), only);
            }
        }
        if let Some(Value::Array(values)) = map.get_mut("enum") {
            values.retain(|value| !value.is_null());
        }
        if let Some(Value::Array(arms)) = map.get_mut("anyOf") {
            arms.retain(|arm| arm.get("type").is_none_or(|kind| kind != "null"));
            if let [Value::Object(only)] = arms.as_slice() {
                let only = only.clone();
                map.remove("anyOf");
                for (key, value) in only {
                    map.entry(key).or_insert(value);
                }
            }
        }
        if map.get("default").is_some_and(Value::is_null) {
            map.remove("default");
        }
    });
}

/// Gives the key that chooses between mappings a text of its own: serde has no place for one.
fn describe_tags(schema: &mut Value) {
    each(schema, &mut |map| {
        let Some((tag, _)) = tagged(map) else { return };
        let (tag, own) = (tag.to_owned(), map.get("description").cloned());
        for arm in map.get_mut("oneOf").and_then(Value::as_array_mut).into_iter().flatten() {
            let text = arm.get("description").cloned().or_else(|| own.clone());
            if let (Some(text), Some(Value::Object(property))) =
                (text, arm.pointer_mut(&format!("/properties/{tag}")))
            {
                property.entry("description").or_insert(text);
            }
        }
    });
}

/// Returns the tag and the arms of a `oneOf` whose arms are told apart by a constant key.
pub(super) fn tagged(map: &Map<String, Value>) -> Option<(&str, &Vec<Value>)> {
    let arms = map.get("oneOf")?.as_array()?;
    let properties = arms.first()?.get("properties")?.as_object()?;
    let (tag, _) = properties.iter().find(|(_, property)| property.get("const").is_some())?;
    let all = arms.iter().all(|arm| arm.pointer(&format!("/properties/{tag}/const")).is_some());
    all.then_some((tag, arms))
}

/// Takes our keywords out and mends two faults of editors: escaped backticks, and hidden texts of documented values.
fn for_editors(schema: &mut Value) {
    each(schema, &mut |map| {
        map.remove(CHECK);
        map.remove(HELP);
        let constants: Option<Vec<(Value, Value)>> =
            map.get("oneOf").and_then(Value::as_array).and_then(|arms| {
                let pair = |arm: &Value| Some((arm.get("const")?.clone(), arm.get("description")?.clone()));
                arms.iter().map(pair).collect()
            });
        if let Some(constants) = constants {
            let (values, texts): (Vec<Value>, Vec<Value>) = constants.into_iter().unzip();
            map.remove("oneOf");
            map.insert("type".to_owned(), "string".into());
            map.insert("enum".to_owned(), values.into());
            map.insert("markdownEnumDescriptions".to_owned(), texts.into());
        }
        if let Some(description) = map.get("description").filter(|text| text.is_string()).cloned() {
            map.insert("markdownDescription".to_owned(), description);
        }
    });
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test reads the committed schema")]
mod tests {
    use super::*;

    /// The committed file names every adapter of the build, so it is read at run time and compared as a whole.
    #[test]
    fn the_committed_schema_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/lane.schema.json");
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        let current = serde_json::to_string_pretty(&json_schema()).unwrap() + "\n";
        if committed != current {
            let diff = similar::TextDiff::from_lines(committed.as_str(), current.as_str());
            let diff = diff.unified_diff().header("committed", "current").to_string();
            let shown = diff.lines().take(60).collect::<Vec<_>>().join("\n");
            panic!(
                "schemas/lane.schema.json is not current; run `lane schema > schemas/lane.schema.json`\n{shown}"
            );
        }
    }

    #[test]
    fn the_published_schema_is_valid_and_holds_no_keyword_of_ours() {
        let schema = json_schema();
        jsonschema::meta::validate(&schema).unwrap();
        let text = schema.to_string();
        assert!(!text.contains("x-lane") && !text.contains("\"null\"") && !text.contains("$ref"), "{text}");
        assert_eq!(text, json_schema().to_string());
    }

    #[test]
    fn each_provider_has_an_arm_that_refuses_other_keys() {
        let schema = walk_schema();
        let arms = schema["properties"]["provider"]["oneOf"].as_array().unwrap();
        let names: Vec<_> =
            arms.iter().map(|arm| arm["properties"]["name"]["const"].as_str().unwrap()).collect();
        assert_eq!(names, provider::entries().iter().map(|entry| entry.name).collect::<Vec<_>>());
        for arm in arms {
            assert_eq!(arm["additionalProperties"], false, "{arm}");
            for (key, property) in arm["properties"].as_object().unwrap() {
                assert!(
                    property["description"].is_string(),
                    "{} has no text for `{key}`",
                    arm["properties"]["name"]
                );
            }
        }
    }

    #[test]
    fn every_key_has_a_text_for_the_hover() {
        let mut bare = Vec::new();
        let mut schema = json_schema();
        each(&mut schema, &mut |map| {
            for (key, property) in map.get("properties").and_then(Value::as_object).into_iter().flatten() {
                if !property["markdownDescription"].is_string() {
                    bare.push(key.clone());
                }
            }
        });
        assert!(bare.is_empty(), "{bare:?}");
        assert_eq!(schema["properties"]["kvm"]["enum"], json!(["required", "optional", "none"]));
        assert_eq!(schema["properties"]["kvm"]["markdownEnumDescriptions"].as_array().map(Vec::len), Some(3));
    }
}
