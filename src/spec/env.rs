//! `${env:NAME}`: a variable of the operator's machine, looked up at the last moment.
//!
//! Never called while reading or planning, so that no value reaches a plan, the state or a log.

use crate::world::World;

/// A variable that a spec names is not set, or is empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the variable `{name}` is not set")]
pub struct MissingVar {
    /// Its name.
    pub name: String,
}

enum Part<'a> {
    Literal(&'a str),
    Variable(&'a str),
}

/// Replaces each `${env:NAME}`; `$${env:NAME}` stands for the text itself.
pub fn resolve_env(world: &World, text: &str) -> Result<String, MissingVar> {
    let mut out = String::with_capacity(text.len());
    // A fault of form was a complaint when the spec was read; here the text then stays as it is.
    for part in parts(text).unwrap_or_else(|_| vec![Part::Literal(text)]) {
        match part {
            Part::Literal(literal) => out.push_str(literal),
            Part::Variable(name) => {
                out.push_str(world.var(name).ok_or_else(|| MissingVar { name: name.to_owned() })?);
            }
        }
    }
    Ok(out)
}

/// Resolves every text inside a JSON value; keys stay as they are.
pub fn resolve_env_json(world: &World, value: &serde_json::Value) -> Result<serde_json::Value, MissingVar> {
    use serde_json::Value;
    Ok(match value {
        Value::String(text) => Value::String(resolve_env(world, text)?),
        Value::Array(items) => {
            Value::Array(items.iter().map(|item| resolve_env_json(world, item)).collect::<Result<_, _>>()?)
        }
        Value::Object(map) => Value::Object(
            map.iter()
                .map(|(key, item)| Ok((key.clone(), resolve_env_json(world, item)?)))
                .collect::<Result<_, _>>()?,
        ),
        other => other.clone(),
    })
}

/// Checks the form of every `${env:…}` in a text; returns whether there is one.
pub(super) fn check_env(text: &str) -> Result<bool, String> {
    Ok(parts(text)?.iter().any(|part| matches!(part, Part::Variable(_))))
}

/// Tells whether a text can be the name of a variable.
pub(super) fn is_variable(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn parts(text: &str) -> Result<Vec<Part<'_>>, String> {
    const OPEN: &str = "${env:";
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(OPEN) {
        let (before, after) = (rest.get(..at).unwrap_or(""), rest.get(at + OPEN.len()..).unwrap_or(""));
        if let Some(before) = before.strip_suffix('$') {
            parts.extend([Part::Literal(before), Part::Literal(OPEN)]);
            rest = after;
            continue;
        }
        let Some((name, tail)) = after.split_once('}') else {
            return Err("`${env:` is not closed by `}`".to_owned());
        };
        if !is_variable(name) {
            return Err(format!("`${{env:{name}}}` names no variable"));
        }
        parts.extend([Part::Literal(before), Part::Variable(name)]);
        rest = tail;
    }
    parts.push(Part::Literal(rest));
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::world::SystemClock;

    fn world() -> World {
        let env = [("TOKEN", "t0p"), ("EMPTY", ""), ("NEST", "${env:TOKEN}")];
        let env: BTreeMap<_, _> = env.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        World::fixed(Arc::new(SystemClock), env, PathBuf::from("/"))
    }

    #[test]
    fn variables_are_replaced_once_and_escapes_are_kept() {
        let resolve = |text| resolve_env(&world(), text);
        assert_eq!(resolve("a${env:TOKEN}b${env:TOKEN}").unwrap(), "at0pbt0p");
        assert_eq!(resolve("$${env:TOKEN} ${HOME} $").unwrap(), "${env:TOKEN} ${HOME} $");
        assert_eq!(resolve("${env:NEST}").unwrap(), "${env:TOKEN}", "a value is not read again");
        assert_eq!(resolve("${env:EMPTY}").unwrap_err().to_string(), "the variable `EMPTY` is not set");
    }

    #[test]
    fn json_is_resolved_in_depth() {
        let value = json!({"endpoint": "http://${env:TOKEN}/", "n": [1, {"x": "${env:TOKEN}"}]});
        assert_eq!(
            resolve_env_json(&world(), &value).unwrap(),
            json!({"endpoint": "http://t0p/", "n": [1, {"x": "t0p"}]})
        );
        let missing = resolve_env_json(&world(), &json!(["${env:NOPE}"])).unwrap_err();
        assert_eq!(missing.name, "NOPE");
    }

    #[test]
    fn bad_forms_are_told() {
        assert!(check_env("${env:A}").unwrap());
        assert!(!check_env("$${env:A}").unwrap());
        for bad in ["${env:}", "${env:1A}", "${env:A B}", "${env:A", "x ${env:é}"] {
            assert!(check_env(bad).is_err(), "{bad}");
        }
    }
}
