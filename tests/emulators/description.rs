//! The vendors' own descriptions of their APIs, where this machine has them: `LANE_API_DESCRIPTIONS` names the folder.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde_json::Value;

/// Reads a description, or says that it was left out.
pub(crate) fn read(file: &str) -> Option<Value> {
    static SAID: OnceLock<()> = OnceLock::new();
    let folder = std::env::var_os("LANE_API_DESCRIPTIONS").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/providers/spec"),
        PathBuf::from,
    );
    let text = lane::world::fs::read(&folder.join(file)).ok();
    if text.is_none() {
        SAID.get_or_init(|| println!("left out: requests are not checked against {file}, which is not here"));
    }
    text.map(|text| serde_json::from_slice(&text).expect("a description in JSON"))
}

/// A request against a discovery document (Google's form).
pub(crate) fn discovery(
    document: &Value,
    method: &str,
    path: &str,
    query: &[(String, String)],
    body: Option<&Value>,
) -> Vec<String> {
    let methods = document["resources"]
        .as_object()
        .into_iter()
        .flatten()
        .flat_map(|(_, resource)| resource["methods"].as_object().into_iter().flatten());
    let fits = |template: &str| {
        let (template, path): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
        template.len() == path.len()
            && template.iter().zip(&path).all(|(t, p)| t == p || (t.starts_with('{') && !p.is_empty()))
    };
    let found: Vec<&Value> = methods
        .map(|(_, found)| found)
        .filter(|found| found["httpMethod"] == method && fits(found["path"].as_str().unwrap_or_default()))
        .collect();
    // `operations/wait` fits `operations/{name}` too: the one with fewer holes counts.
    let Some(found) =
        found.into_iter().min_by_key(|found| found["path"].as_str().unwrap_or_default().matches('{').count())
    else {
        return vec![format!("there is no {method} {path}")];
    };
    let mut complaints = Vec::new();
    for (name, _) in query {
        if found["parameters"][name]["location"] != "query" && document["parameters"][name].is_null() {
            complaints.push(format!("{method} {path} has no parameter {name}"));
        }
    }
    match (&found["request"]["$ref"], body) {
        (Value::String(schema), Some(body)) => object(document, schema, body, schema, &mut complaints),
        (Value::Null, None) => {}
        (_, body) => complaints.push(format!(
            "{method} {path}: a body is {}",
            if body.is_some() { "not taken" } else { "missing" }
        )),
    }
    complaints
}

/// A request against `OpenAPI` descriptions, and its body against a JSON Schema by the kind of thing (Microsoft's form).
pub(crate) fn openapi(
    documents: &[Value],
    bodies: &Value,
    method: &str,
    path: &str,
    query: &[(String, String)],
    body: Option<&Value>,
) -> Vec<String> {
    let fits = |template: &str| {
        let (template, path): (Vec<_>, Vec<_>) = (template.split('/').collect(), path.split('/').collect());
        let same =
            |(t, p): (&&str, &&str)| t.eq_ignore_ascii_case(p) || (t.starts_with('{') && !p.is_empty());
        template.len() == path.len() && template.iter().zip(&path).all(same)
    };
    let lower = method.to_ascii_lowercase();
    let found = documents.iter().find_map(|document| {
        let paths = document["paths"].as_object().into_iter().flatten();
        let (_, found) =
            paths.filter(|(_, found)| found[&lower].is_object()).find(|(template, _)| fits(template))?;
        Some(&found[&lower])
    });
    let Some(found) = found else { return vec![format!("there is no {method} {path}")] };
    let mut complaints = Vec::new();
    let parameters = found["parameters"].as_array().cloned().unwrap_or_default();
    if !query.iter().any(|(name, _)| name == "api-version") {
        complaints.push(format!("{method} {path} lacks api-version"));
    }
    for (name, _) in query.iter().filter(|(name, _)| name != "api-version" && name != "$skiptoken") {
        if !parameters.iter().any(|known| known["in"] == "query" && known["name"] == name.as_str()) {
            complaints.push(format!("{method} {path} has no parameter {name}"));
        }
    }
    let takes = parameters.iter().any(|known| known["in"] == "body");
    if takes != body.is_some() {
        complaints
            .push(format!("{method} {path}: a body is {}", if takes { "missing" } else { "not taken" }));
    }
    let kind = path.split("/providers/").nth(1).and_then(|rest| rest.rsplit_once('/')).map(|(kind, _)| kind);
    let schemas = bodies["resources"].as_object().into_iter().flatten();
    let schema =
        kind.and_then(|kind| schemas.into_iter().find(|(known, _)| known.starts_with(&format!("{kind}@"))));
    if let (Some((name, schema)), Some(body), "PUT") = (schema, body, method) {
        // The schemas are those of templates, where the name is in the body and not in the address.
        let mut body = body.clone();
        body["name"] = path.rsplit('/').next().unwrap_or_default().into();
        let validator = validator(name, schema, &bodies["definitions"]);
        complaints.extend(
            validator.iter_errors(&body).map(|error| format!("{name}: {error} at {}", error.instance_path())),
        );
    }
    complaints
}

/// Makes a validator once; that takes longer than all that is done with it.
fn validator(name: &str, schema: &Value, definitions: &Value) -> Arc<jsonschema::Validator> {
    static MADE: Mutex<BTreeMap<String, Arc<jsonschema::Validator>>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let make = || {
        let mut schema = schema.clone();
        schema["definitions"] = definitions.clone();
        Arc::new(jsonschema::validator_for(&schema).expect("a JSON Schema"))
    };
    Arc::clone(made.entry(name.to_owned()).or_insert_with(make))
}

/// A form against a service model (Amazon's form, protocol `ec2`).
pub(crate) fn query(document: &Value, form: &[(String, String)]) -> Vec<String> {
    let service = &document["services"]["ec2"];
    let text =
        |name: &str| form.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value.as_str());
    let action = text("Action");
    let operation = &service["operations"][action];
    if operation.is_null() || text("Version") != service["metadata"]["apiVersion"] {
        return vec![format!("there is no operation {action} of version {}", text("Version"))];
    }
    let input = operation["input"]["shape"].as_str().unwrap_or_default();
    let mut complaints = Vec::new();
    for required in service["shapes"][input]["required"].as_array().into_iter().flatten() {
        let name =
            wire_name(&service["shapes"][input]["members"][required.as_str().unwrap_or_default()], required);
        if !form.iter().any(|(known, _)| *known == name || known.starts_with(&format!("{name}."))) {
            complaints.push(format!("{action} lacks {name}"));
        }
    }
    for (name, value) in form.iter().filter(|(name, _)| name != "Action" && name != "Version") {
        let parts: Vec<&str> = name.split('.').collect();
        if let Err(why) = member(service, input, &parts, value) {
            complaints.push(format!("{action}: {name} {why}"));
        }
    }
    complaints
}

/// A member's name in a form: `queryName`, or `locationName` with a capital, or its own.
fn wire_name(member: &Value, own: &Value) -> String {
    let text = member["queryName"].as_str().map(str::to_owned).or_else(|| {
        let name = member["locationName"].as_str()?;
        Some(name[..1].to_ascii_uppercase() + &name[1..])
    });
    text.unwrap_or_else(|| own.as_str().unwrap_or_default().to_owned())
}

fn member(service: &Value, shape: &str, parts: &[&str], value: &str) -> Result<(), String> {
    let kind = &service["shapes"][shape];
    let next = |reference: &Value, rest: &[&str]| {
        member(service, reference["shape"].as_str().unwrap_or_default(), rest, value)
    };
    match (kind["type"].as_str().unwrap_or_default(), parts) {
        ("structure", [name, rest @ ..]) => {
            let members = kind["members"].as_object().into_iter().flatten();
            let found = members
                .into_iter()
                .find(|(own, member)| wire_name(member, &Value::from(own.as_str())) == *name);
            next(found.ok_or("is unknown")?.1, rest)
        }
        ("list", [number, rest @ ..]) if number.parse::<u32>().is_ok_and(|number| number > 0) => {
            next(&kind["member"], rest)
        }
        ("structure" | "list", _) => Err("is not written as a list or a structure is".to_owned()),
        (_, [_, ..]) => Err("goes too deep".to_owned()),
        ("integer" | "long", []) if value.parse::<i64>().is_err() => Err(format!("cannot be {value}")),
        ("boolean", []) if !["true", "false"].contains(&value) => Err(format!("cannot be {value}")),
        // There are new ones all the time.
        (_, []) if shape == "InstanceType" => Ok(()),
        (_, []) => match kind["enum"].as_array() {
            Some(allowed) if !allowed.iter().any(|allowed| allowed == value) => {
                Err(format!("cannot be {value}"))
            }
            _ => Ok(()),
        },
    }
}

fn object(document: &Value, schema: &str, value: &Value, at: &str, complaints: &mut Vec<String>) {
    let Some(members) = value.as_object() else {
        complaints.push(format!("{at} is no object"));
        return;
    };
    let known = &document["schemas"][schema]["properties"];
    for (name, value) in members {
        let at = format!("{at}.{name}");
        if known[name].is_null() {
            complaints.push(format!("{at} is unknown"));
        } else {
            typed(document, &known[name], value, &at, complaints);
        }
    }
}

fn typed(document: &Value, kind: &Value, value: &Value, at: &str, complaints: &mut Vec<String>) {
    if let Some(schema) = kind["$ref"].as_str() {
        return object(document, schema, value, at, complaints);
    }
    let fits = match kind["type"].as_str().unwrap_or_default() {
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" | "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => true,
    };
    if !fits {
        complaints.push(format!("{at} is no {}", kind["type"]));
    }
    if let (Some(allowed), Some(text)) = (kind["enum"].as_array(), value.as_str())
        && !allowed.iter().any(|allowed| allowed == text)
    {
        complaints.push(format!("{at} cannot be {text}"));
    }
    if let Some(pattern) = kind["pattern"].as_str().filter(|_| at.rsplit('.').next() == Some("name")) {
        let text = value.as_str().unwrap_or_default();
        let plain =
            text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        if !plain
            || text.len() > 63
            || !text.starts_with(|c: char| c.is_ascii_lowercase())
            || text.ends_with('-')
        {
            complaints.push(format!("{at} {text:?} does not match {pattern}"));
        }
    }
    for (number, item) in value.as_array().into_iter().flatten().enumerate() {
        typed(document, &kind["items"], item, &format!("{at}[{number}]"), complaints);
    }
    for (name, item) in value.as_object().into_iter().flatten() {
        typed(document, &kind["additionalProperties"], item, &format!("{at}.{name}"), complaints);
    }
}
