//! The vendors' own descriptions of their APIs, where this machine has them: `LANE_API_DESCRIPTIONS` names the folder.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use serde_json::{Map, Value, json};

/// Reads a description, or says that it was left out; a folder that is named has to hold it.
pub(crate) fn read(file: &str) -> Option<Value> {
    static SAID: OnceLock<()> = OnceLock::new();
    let Some(folder) = std::env::var_os("LANE_API_DESCRIPTIONS") else {
        SAID.get_or_init(|| {
            println!("left out: LANE_API_DESCRIPTIONS is not set, so no request is checked against the vendors' descriptions");
        });
        return None;
    };
    let path = PathBuf::from(folder).join(file);
    let text = lane::world::fs::read(&path)
        .unwrap_or_else(|error| panic!("LANE_API_DESCRIPTIONS: {}: {error}", path.display()));
    Some(serde_json::from_slice(&text).expect("a description in JSON"))
}

/// Tells whether a text is what a pattern describes as a whole.
fn matches(pattern: &str, text: &str) -> bool {
    let schema = json!({"type": "string", "pattern": format!("^(?:{pattern})$")});
    validator(pattern, || schema).is_valid(&text.into())
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
    let template = found["path"].as_str().unwrap_or_default().split('/');
    let in_path = template.zip(path.split('/')).filter_map(|(name, value)| {
        Some((name.strip_prefix('{')?.trim_start_matches('+').strip_suffix('}')?, value))
    });
    let in_query = query.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    for (name, value) in in_query.clone() {
        let known = &found["parameters"][name];
        if known["location"] != "query" && document["parameters"][name].is_null() {
            complaints.push(format!("{method} {path} has no parameter {name}"));
        } else {
            complaints.extend(unfit(known, value).map(|why| format!("{method} {path}: {name} {why}")));
        }
    }
    for (name, value) in in_path {
        let known = &found["parameters"][name];
        complaints.extend(unfit(known, value).map(|why| format!("{method} {path}: {name} {why}")));
    }
    for (name, known) in found["parameters"].as_object().into_iter().flatten() {
        let is_there = || in_query.clone().any(|(there, _)| there == name);
        if known["location"] == "query" && known["required"] == true && !is_there() {
            complaints.push(format!("{method} {path} lacks {name}"));
        }
    }
    let id = found["id"].as_str().unwrap_or_default();
    match (&found["request"]["$ref"], body) {
        (Value::String(schema), Some(body)) => object(document, id, schema, body, schema, &mut complaints),
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
        let (template, found) =
            paths.filter(|(_, found)| found[&lower].is_object()).find(|(template, _)| fits(template))?;
        Some((document, &document["x-lane-api-versions"][template], &found[&lower]))
    });
    let Some((document, version, found)) = found else { return vec![format!("there is no {method} {path}")] };
    let mut complaints = Vec::new();
    let parameters: Vec<&Value> = found["parameters"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|known| {
            match known["$ref"].as_str().and_then(|at| document.pointer(at.trim_start_matches('#'))) {
                Some(shared) => shared,
                None => known,
            }
        })
        .collect();
    for (name, _) in query.iter().filter(|(name, _)| name != "$skiptoken") {
        if !parameters.iter().any(|known| known["in"] == "query" && known["name"] == name.as_str()) {
            complaints.push(format!("{method} {path} has no parameter {name}"));
        }
    }
    let takes = parameters.iter().find(|known| known["in"] == "body");
    if takes.is_some() != body.is_some() {
        let what = if takes.is_some() { "missing" } else { "not taken" };
        complaints.push(format!("{method} {path}: a body is {what}"));
    }

    // Of the newest bodies a kind, with its version; the addresses are described by older documents.
    let of_provider = path.split("/providers/").nth(1);
    let kind = of_provider.and_then(|rest| rest.rsplit_once('/')).map(|(kind, _)| kind);
    let all = || bodies["resources"].as_object().into_iter().flatten();
    let newest = kind.and_then(|kind| all().find(|(known, _)| known.starts_with(&format!("{kind}@"))));
    let newest = newest.filter(|_| method == "PUT");
    let namespace = of_provider.and_then(|rest| rest.split('/').next()).map(|name| format!("{name}/"));
    let known = all().filter(|(known, _)| namespace.as_ref().is_some_and(|name| known.starts_with(name)));
    let mut versions: Vec<&str> = known.filter_map(|(known, _)| Some(known.split_once('@')?.1)).collect();
    match newest {
        Some((name, _)) => versions.retain(|version| name.ends_with(&format!("@{version}"))),
        None => versions.extend(version.as_str()),
    }
    match query.iter().find(|(name, _)| name == "api-version") {
        None => complaints.push(format!("{method} {path} lacks api-version")),
        Some((_, asked)) if !versions.contains(&asked.as_str()) => {
            complaints.push(format!("{method} {path}: api-version {asked} is none of {versions:?}"));
        }
        Some(_) => {}
    }

    let Some(body) = body else { return complaints };
    let mut body = body.clone();
    let (name, schema, definitions) = match (newest, takes.map(|known| &known["schema"])) {
        (Some((name, schema)), _) => {
            // These are the schemas of templates, where the name is in the body and not in the address.
            body["name"] = path.rsplit('/').next().unwrap_or_default().into();
            (name.clone(), schema, &bodies["definitions"])
        }
        (None, Some(schema)) if schema.is_object() => {
            (format!("{method} {version} {schema}"), schema, &document["definitions"])
        }
        _ => {
            complaints.push(format!("{method} {path}: nothing describes its body"));
            return complaints;
        }
    };
    let validator = validator(&name, || {
        let mut schema = strict(schema, definitions);
        let all = definitions.as_object().into_iter().flatten();
        schema["definitions"] = all
            .map(|(name, schema)| (name.clone(), strict(schema, definitions)))
            .collect::<Map<_, _>>()
            .into();
        schema
    });
    complaints.extend(
        validator.iter_errors(&body).map(|error| format!("{name}: {error} at {}", error.instance_path())),
    );
    complaints
}

/// Makes a schema refuse members that it does not list, and those that only the vendor sets.
fn strict(schema: &Value, definitions: &Value) -> Value {
    let Some(parts) = schema.as_object() else {
        return schema.as_array().map_or_else(
            || schema.clone(),
            |items| items.iter().map(|item| strict(item, definitions)).collect(),
        );
    };
    let mut parts = parts.clone();
    // What is inherited is listed too, else it would count as unknown.
    for parent in parts.remove("allOf").as_ref().and_then(Value::as_array).into_iter().flatten() {
        let name = parent["$ref"].as_str().and_then(|at| at.rsplit('/').next()).unwrap_or_default();
        let own = parts.entry("properties").or_insert_with(|| json!({}));
        for (name, member) in definitions[name]["properties"].as_object().into_iter().flatten() {
            own[name] = member.clone();
        }
    }
    let mut only_read = Vec::new();
    if let Some(Value::Object(members)) = parts.get_mut("properties") {
        members.retain(|name, member| {
            let keeps = member["readOnly"] != true;
            if !keeps {
                only_read.push(name.clone());
            }
            keeps
        });
        for member in members.values_mut() {
            *member = strict(member, definitions);
        }
        parts.entry("additionalProperties").or_insert(false.into());
    }
    if let Some(Value::Array(required)) = parts.get_mut("required") {
        required.retain(|name| !only_read.iter().any(|read| name == read.as_str()));
    }
    if let Some(items) = parts.get_mut("items") {
        *items = strict(items, definitions);
    }
    parts.into()
}

/// Makes a validator once; that takes longer than all that is done with it.
fn validator(name: &str, schema: impl FnOnce() -> Value) -> Arc<jsonschema::Validator> {
    static MADE: Mutex<BTreeMap<String, Arc<jsonschema::Validator>>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let make = || Arc::new(jsonschema::validator_for(&schema()).expect("a JSON Schema"));
    Arc::clone(made.entry(name.to_owned()).or_insert_with(make))
}

/// A form against a service model (Amazon's form, protocols `ec2` and `query`); the version says which service.
pub(crate) fn query(document: &Value, form: &[(String, String)]) -> Vec<String> {
    let text =
        |name: &str| form.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value.as_str());
    let (action, version) = (text("Action"), text("Version"));
    let mut services = document["services"].as_object().into_iter().flatten();
    let service = services.find(|(_, service)| {
        service["metadata"]["apiVersion"] == version && service["operations"][action].is_object()
    });
    let Some((_, service)) = service else {
        return vec![format!("there is no operation {action} of version {version}")];
    };
    let input = service["operations"][action]["input"]["shape"].as_str().unwrap_or_default();
    let mut complaints = Vec::new();
    missing(service, input, "", form, &mut |name| complaints.push(format!("{action} lacks {name}")));
    for (name, value) in form.iter().filter(|(name, _)| name != "Action" && name != "Version") {
        let parts: Vec<&str> = name.split('.').collect();
        if let Err(why) = member(service, input, &parts, value) {
            complaints.push(format!("{action}: {name} {why}"));
        }
    }
    complaints
}

/// Names what a shape and all that is there of it require and lack.
fn missing(
    service: &Value,
    shape: &str,
    prefix: &str,
    form: &[(String, String)],
    lacks: &mut dyn FnMut(&str),
) {
    let kind = &service["shapes"][shape];
    let is_there = |name: &str| {
        form.iter().any(|(known, _)| {
            known.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    };
    let of = |reference: &Value| reference["shape"].as_str().unwrap_or_default().to_owned();
    for (own, member) in kind["members"].as_object().into_iter().flatten() {
        let name = format!("{prefix}{}", wire_name(member, &own.as_str().into()));
        let mut required = kind["required"].as_array().into_iter().flatten();
        if is_there(&name) {
            missing(service, &of(member), &format!("{name}."), form, lacks);
        } else if required.any(|required| required == own.as_str()) {
            lacks(&name);
        }
    }
    if kind["type"] == "list" {
        let numbers = (1..).map(|number| format!("{prefix}{number}")).take_while(|name| is_there(name));
        for name in numbers {
            missing(service, &of(&kind["member"]), &format!("{name}."), form, lacks);
        }
    }
}

/// A body against a service model (Amazon's form, protocol `json`); `target` names the operation.
pub(crate) fn target(service: &Value, target: &str, body: &Value) -> Vec<String> {
    let prefix = service["metadata"]["targetPrefix"].as_str().unwrap_or_default();
    let action = target.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('.')).unwrap_or_default();
    let Some(shape) = service["operations"][action]["input"]["shape"].as_str() else {
        return vec![format!("there is no operation {target}")];
    };
    let mut complaints = Vec::new();
    shaped(service, shape, body, action, &mut complaints);
    complaints
}

fn shaped(service: &Value, shape: &str, value: &Value, at: &str, complaints: &mut Vec<String>) {
    let kind = &service["shapes"][shape];
    let of = |reference: &Value| reference["shape"].as_str().unwrap_or_default().to_owned();
    match (kind["type"].as_str().unwrap_or_default(), value) {
        ("structure", Value::Object(members)) => {
            for (name, value) in members {
                let at = format!("{at}.{name}");
                match &kind["members"][name] {
                    Value::Null => complaints.push(format!("{at} is unknown")),
                    known => shaped(service, &of(known), value, &at, complaints),
                }
            }
            let required = kind["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let lacking = required.filter(|name| !members.contains_key(*name));
            complaints.extend(lacking.map(|name| format!("{at} lacks {name}")));
        }
        ("list", Value::Array(items)) => {
            for (number, item) in items.iter().enumerate() {
                shaped(service, &of(&kind["member"]), item, &format!("{at}[{number}]"), complaints);
            }
        }
        ("string", Value::String(text)) => {
            let listed =
                kind["enum"].as_array().is_none_or(|all| all.iter().any(|known| known == text.as_str()));
            if !listed {
                complaints.push(format!("{at} cannot be {text}"));
            }
        }
        ("integer" | "long" | "double", Value::Number(_)) | ("boolean", Value::Bool(_)) => {}
        (expected, _) => complaints.push(format!("{at} is no {expected}")),
    }
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

/// Says what is wrong with a text by the type, pattern and values that a discovery document gives it.
fn unfit(kind: &Value, text: &str) -> Option<String> {
    let of_type = match kind["type"].as_str().unwrap_or_default() {
        "boolean" => ["true", "false"].contains(&text),
        "integer" => text.parse::<i64>().is_ok(),
        _ => true,
    };
    let listed = kind["enum"].as_array().is_none_or(|all| all.iter().any(|allowed| allowed == text));
    let pattern = kind["pattern"].as_str().filter(|pattern| !matches(pattern, text));
    pattern
        .map(|pattern| format!("{text:?} does not match {pattern}"))
        .or_else(|| (!listed || !of_type).then(|| format!("cannot be {text}")))
}

/// An object against a schema, as the body of a method or a part of it.
fn object(document: &Value, id: &str, schema: &str, value: &Value, at: &str, complaints: &mut Vec<String>) {
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
            typed(document, id, &known[name], value, &at, complaints);
        }
    }
    for (name, known) in known.as_object().into_iter().flatten() {
        let required = known["annotations"]["required"].as_array().into_iter().flatten();
        if required.into_iter().any(|method| method == id) && !members.contains_key(name) {
            complaints.push(format!("{at} lacks {name}"));
        }
    }
}

fn typed(document: &Value, id: &str, kind: &Value, value: &Value, at: &str, complaints: &mut Vec<String>) {
    if let Some(schema) = kind["$ref"].as_str() {
        return object(document, id, schema, value, at, complaints);
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
    if let Some(text) = value.as_str() {
        complaints.extend(unfit(kind, text).map(|why| format!("{at} {why}")));
    }
    for (number, item) in value.as_array().into_iter().flatten().enumerate() {
        typed(document, id, &kind["items"], item, &format!("{at}[{number}]"), complaints);
    }
    for (name, item) in value.as_object().into_iter().flatten() {
        typed(document, id, &kind["additionalProperties"], item, &format!("{at}.{name}"), complaints);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    /// What is right passes, and each change of it is one complaint that names what is wrong.
    fn complains(check: impl Fn(&Value) -> Vec<String>, right: &Value, wrong: &[(&str, Value, &str)]) {
        assert_eq!(check(right), Vec::<String>::new());
        for (at, value, says) in wrong {
            let mut changed = right.clone();
            let (parent, name) = at.rsplit_once('/').unwrap();
            let parent = changed.pointer_mut(parent).unwrap().as_object_mut().unwrap();
            if value.is_null() {
                assert!(parent.remove(name).is_some(), "{at}");
            } else {
                parent.insert(name.to_owned(), value.clone());
            }
            let said = check(&changed).join("\n");
            assert!(said.contains(says), "{at}: {said:?} does not say {says}");
        }
    }

    #[test]
    fn requests_that_google_does_not_describe_are_complaints() {
        let Some(document) = read("gcp-compute.json") else { return };
        let insert = |body: &Value| {
            discovery(&document, "POST", "projects/my-project/zones/us-central1-a/instances", &[], Some(body))
        };
        let right = json!({
            "name": "host", "labels": {"lane": "demo"}, "scheduling": {"maxRunDuration": {"seconds": "60"}},
        });
        complains(
            insert,
            &right,
            &[
                ("/scheduling/maxRunDurations", json!({}), "maxRunDurations is unknown"),
                ("/invented", json!(1), "invented is unknown"),
                ("/name", Value::Null, "lacks name"),
                ("/name", json!("UPPER"), "does not match"),
                ("/scheduling", json!("soon"), "is no object"),
            ],
        );
        let list = |path: &str, query: &[(&str, &str)]| {
            discovery(&document, "GET", path, &pairs(query), None).join("\n")
        };
        let path = "projects/my-project/zones/us-central1-a/instances";
        assert_eq!(list(path, &[("maxResults", "5")]), "");
        assert!(list(path, &[("maxResults", "many")]).contains("cannot be many"));
        assert!(list(path, &[("filters", "x")]).contains("no parameter filters"));
        assert!(list("projects/my-project/zones/Here/instances", &[]).contains("does not match"));
        assert!(list("projects/my-project/zones/here/instancess", &[]).contains("there is no"));
    }

    #[test]
    fn requests_that_amazon_does_not_describe_are_complaints() {
        let (Some(document), Some(quotas)) = (read("aws-ec2.json"), read("aws-service-quotas.json")) else {
            return;
        };
        let right = [
            ("Action", "RunInstances"),
            ("Version", "2016-11-15"),
            ("MaxCount", "1"),
            ("MinCount", "1"),
            ("Monitoring.Enabled", "true"),
        ];
        let said = |form: &[(&str, &str)]| query(&document, &pairs(form)).join("\n");
        assert_eq!(said(&right), "");
        for (name, value, says) in [
            ("MaxCounts", "1", "MaxCounts is unknown"),
            ("NetworkInterface.1.Invented", "x", "Invented is unknown"),
            ("MetadataOptions.HttpTokens", "maybe", "cannot be maybe"),
        ] {
            assert!(said(&[&right[..], &[(name, value)]].concat()).contains(says), "{name}");
        }
        assert!(said(&right[..3]).contains("lacks MinCount"));
        let nested = [&right[..4], &[("Monitoring.Other", "x")]].concat();
        assert!(said(&nested).contains("lacks Monitoring.Enabled"), "{}", said(&nested));
        assert_eq!(said(&[("Action", "GetCallerIdentity"), ("Version", "2011-06-15")]), "");
        assert!(said(&[("Action", "GetCallerIdentity"), ("Version", "2016-11-15")]).contains("no operation"));

        let quota = |body: &Value| target(&quotas, "ServiceQuotasV20190624.GetServiceQuota", body);
        complains(
            quota,
            &json!({"ServiceCode": "ec2", "QuotaCode": "L-1"}),
            &[
                ("/QuotaCodes", json!("L-1"), "QuotaCodes is unknown"),
                ("/QuotaCode", Value::Null, "lacks QuotaCode"),
                ("/QuotaCode", json!(1), "is no string"),
            ],
        );
        assert!(target(&quotas, "ServiceQuotasV20190624.Invented", &json!({}))[0].contains("no operation"));
    }

    #[test]
    fn requests_that_microsoft_does_not_describe_are_complaints() {
        let files = ["azure-resources.json", "azure-compute.json", "azure-network.json"];
        let documents: Vec<Value> = files.into_iter().filter_map(read).collect();
        let Some(bodies) = read("azure-bodies.json") else { return };
        let send = |method: &'static str, path: &'static str, version: &'static str| {
            let (documents, bodies) = (documents.clone(), bodies.clone());
            move |body: &Value| {
                let path = format!("/subscriptions/s/resourcegroups/demo{path}");
                openapi(&documents, &bodies, method, &path, &pairs(&[("api-version", version)]), Some(body))
            }
        };
        let machine = "/providers/Microsoft.Compute/virtualMachines/host";
        complains(
            send("PUT", machine, "2025-04-01"),
            &json!({"location": "eastus", "properties": {"hardwareProfile": {"vmSize": "Standard_D4s_v3"}}}),
            &[
                ("/properties/hardwareProfile/vmSizes", json!("x"), "vmSizes"),
                ("/invented", json!(1), "invented"),
                ("/location", Value::Null, "location"),
                ("/properties/provisioningState", json!("Succeeded"), "provisioningState"),
            ],
        );
        complains(
            send("PUT", "", "2021-04-01"),
            &json!({"location": "eastus", "tags": {"lane": "demo"}}),
            &[
                ("/tag", json!({}), "tag"),
                ("/invented", json!(1), "invented"),
                ("/location", Value::Null, "location"),
                ("/tags/lane", json!(1), "string"),
            ],
        );
        complains(
            send("PATCH", "", "2021-04-01"),
            &json!({"tags": {"lane": "demo"}}),
            &[("/location", json!("eastus"), "location"), ("/tag", json!({}), "tag")],
        );
        let body = json!({"location": "eastus"});
        for (method, path, version) in
            [("PUT", machine, "2021-03-01"), ("PUT", "", "2019-01-01"), ("PATCH", "", "2024-05-01")]
        {
            let said = send(method, path, version)(&body).join("\n");
            assert!(said.contains("is none of"), "{method} {path} {version}: {said}");
        }
        let unknown = send("PUT", "/providers/Microsoft.Compute/invented/host", "2025-04-01")(&body);
        assert!(unknown[0].contains("there is no"), "{unknown:?}");
    }
}
