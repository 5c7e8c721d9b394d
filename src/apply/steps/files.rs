//! `secret/*` and `file/*`: what is made or rendered to the host. A secret's value never comes to this side.

use std::collections::BTreeMap;

use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Environment, UndefinedBehavior, context as values};
use serde::Deserialize;
use serde_json::json;

use super::host::{Python, SECRETS};
use super::{StepContext, StepError, StepOutcome};
use crate::plan::Work;
use crate::spec::Name;

pub(super) const SECRET: Python =
    Python { name: "secret", code: include_str!("scripts/secret.py"), as_root: true };
pub(super) const FILE: Python = Python { name: "file", code: include_str!("scripts/file.py"), as_root: true };
pub(super) const REMOVE: Python =
    Python { name: "remove", code: include_str!("scripts/remove.py"), as_root: true };

#[derive(Debug, Deserialize)]
struct Made {
    state: String,
}

#[derive(Debug, Deserialize)]
struct Written {
    state: String,
    stat: String,
}

#[derive(Debug, Deserialize)]
struct Removed {
    removed: Vec<String>,
}

/// Makes a secret on the host unless it is there.
pub(super) async fn run_secret(context: &StepContext, name: &Name) -> Result<StepOutcome, StepError> {
    let spec = context.spec()?;
    let secret = spec
        .secrets
        .get(name)
        .ok_or_else(|| StepError::Failed(format!("secret {name} is not in the spec")))?;
    let request =
        json!({"folder": SECRETS, "name": name.as_str(), "bytes": secret.bytes, "generate": secret.generate});
    let made: Made = context.ask(SECRET, &request).await?;
    let summary = if made.state == "made" { "made on the host" } else { "unchanged" };
    Ok(StepOutcome { summary: summary.to_owned(), ..StepOutcome::default() })
}

/// Renders a template here, with tokens where its secrets go, and lets the host put those in and write the file.
pub(super) async fn run_file(context: &StepContext, path: &str) -> Result<StepOutcome, StepError> {
    let spec = context.spec()?;
    let file =
        spec.files.get(path).ok_or_else(|| StepError::Failed(format!("file {path} is not in the spec")))?;
    let here = &file.template.path;
    let template = context.run.inputs.texts.get(here);
    let template = template
        .ok_or_else(|| StepError::Failed(format!("template {} is not on this machine", here.display())))?;
    let record = context.run.session.record();
    let host = record.host.as_ref().ok_or_else(|| StepError::Failed("there is no host yet".to_owned()))?;
    let tokens: BTreeMap<&str, String> =
        spec.secrets.keys().map(|name| (name.as_str(), token(name))).collect();
    let facts = values! {
        lane => values! { name => record.lane, lineage => record.lineage.as_str() },
        host => values! {
            address => host.address.map(|address| address.to_string()),
            user => host.user.as_str(),
            sku => host.sku.as_str(),
            region => host.region.as_str(),
            provider => host.provider.as_str(),
        },
        secrets => tokens.clone(),
    };
    let text = render(&file.template.written, template, &facts, &tokens).map_err(StepError::Failed)?;
    context.run.session.put_content(template)?;
    let used: BTreeMap<&str, &String> = tokens
        .iter()
        .filter(|(_, token)| text.contains(token.as_str()))
        .map(|(name, token)| (*name, token))
        .collect();
    let request = json!({
        "path": path, "text": text, "mode": file.mode, "owner": file.owner, "secrets": SECRETS, "tokens": used,
    });
    let written: Written = context.ask(FILE, &request).await?;
    let summary = if written.state == "same" { "unchanged" } else { "written" };
    // No digest of the content: a short secret could be guessed from it.
    Ok(StepOutcome { summary: summary.to_owned(), facts: [(format!("stat:{path}"), written.stat)].into() })
}

/// Removes a file or a build's installed outputs that the spec dropped.
pub(super) async fn forget(context: &StepContext) -> Result<StepOutcome, StepError> {
    let facts = context.previous.as_ref().map(|previous| &previous.facts);
    let paths: Vec<&str> = if let Work::File(path) = &context.step.work {
        vec![path]
    } else {
        facts.into_iter().flatten().filter_map(|(key, _)| key.strip_prefix("stat:")).collect()
    };
    let removed: Removed = context.ask(REMOVE, &json!({"paths": paths})).await?;
    let summary = match removed.removed.len() {
        0 => "was not there".to_owned(),
        _ => format!("removed {}", removed.removed.join(", ")),
    };
    Ok(StepOutcome { summary, ..StepOutcome::default() })
}

/// Stands for a secret in a rendered text; nobody can have written it into a template.
fn token(name: &Name) -> String {
    format!("@lane-secret:{name}:{}{}@", ulid::Ulid::generate(), ulid::Ulid::generate())
}

/// Renders strictly: an unknown name, or a filter over a secret that this side cannot apply, is an error.
fn render(
    name: &str,
    template: &str,
    facts: &minijinja::Value,
    tokens: &BTreeMap<&str, String>,
) -> Result<String, String> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    let syntax = SyntaxConfig::builder().keep_trailing_newline(true).build();
    environment.set_syntax(syntax.map_err(|error| error.to_string())?);
    let text = environment.render_named_str(name, template, facts).map_err(|error| {
        let line = error.line().map(|line| format!(":{line}")).unwrap_or_default();
        format!(
            "template {name}{line}: {}",
            error.detail().map_or_else(|| error.kind().to_string(), str::to_owned)
        )
    })?;
    let mut rest = text.clone();
    for token in tokens.values() {
        rest = rest.replace(token.as_str(), "");
    }
    if rest.to_ascii_lowercase().contains("lane-secret") {
        return Err(format!("template {name}: a secret can only be put in as it is, not through a filter"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Bench, name, python_here};
    use super::*;
    use crate::plan::Action;
    use crate::spec::{FileTemplate, GenerateAs, LocalFile, Secret};
    use crate::world::fs;

    fn bench(template: &str) -> Bench {
        let mut bench = Bench::new().with_host();
        let here = std::path::PathBuf::from("/here/c.j2");
        bench.inputs.texts.insert(here.clone(), template.to_owned());
        let template = LocalFile { path: here, written: "c.j2".to_owned(), key: String::new() };
        let file = FileTemplate { template, mode: 0o640, owner: "root".to_owned() };
        bench.spec.files.insert("/etc/c.toml".to_owned(), file);
        bench.spec.secrets.insert(name("hmac"), Secret { generate: GenerateAs::Hex, bytes: 32 });
        bench
    }

    async fn render_it(bench: &Bench) -> Result<StepOutcome, StepError> {
        bench.host.answer(0, r#"{"state": "changed", "stat": "1 2 3"}"#);
        run_file(&bench.context(Work::File("/etc/c.toml".to_owned()), Action::Create), "/etc/c.toml").await
    }

    #[tokio::test]
    async fn facts_are_rendered_and_a_secret_goes_over_as_a_token() {
        let bench =
            bench("at {{ host.address }} for {{ host.user }} in {{ lane.name }}: {{ secrets.hmac }}\n");
        let outcome = render_it(&bench).await.unwrap();
        assert_eq!(outcome.facts["stat:/etc/c.toml"], "1 2 3");
        let request = &bench.host.requests()[0];
        let token = request["tokens"]["hmac"].as_str().unwrap();
        assert_eq!(request["text"], format!("at 10.0.0.1 for mvm in t: {token}\n"));
    }

    #[tokio::test]
    async fn unknown_names_and_filtered_secrets_are_errors() {
        let error = render_it(&bench("a\n{{ host.adress }}")).await.unwrap_err().to_string();
        assert!(error.starts_with("template c.j2:2: "), "{error}");
        let error = render_it(&bench("{{ secrets.hmac | upper }}")).await.unwrap_err().to_string();
        assert!(error.contains("through a filter"), "{error}");
    }

    #[test]
    fn a_secret_is_made_once_and_put_into_a_file_on_the_host() {
        use std::os::unix::fs::MetadataExt;
        let folder = tempfile::tempdir().unwrap();
        let at = |part: &str| folder.path().join(part).display().to_string();
        let make = json!({"folder": at("secrets"), "name": "hmac", "bytes": 32, "generate": "hex"});
        assert_eq!(python_here(SECRET.code, &make, None), json!({"state": "made"}));
        let value = String::from_utf8(fs::read(&folder.path().join("secrets/hmac")).unwrap()).unwrap();
        assert_eq!(value.len(), 64);
        assert_eq!(fs::metadata(&folder.path().join("secrets/hmac")).unwrap().mode() & 0o777, 0o600);
        assert_eq!(python_here(SECRET.code, &make, None), json!({"state": "same"}));

        let owner = fs::metadata(folder.path()).unwrap();
        let owner = format!("{}:{}", owner.uid(), owner.gid());
        let mut write = json!({
            "path": at("etc/c"), "text": "key=@t@\n", "mode": 0o640, "owner": owner, "secrets": at("secrets"),
            "tokens": {"hmac": "@t@"},
        });
        let first = python_here(FILE.code, &write, None);
        assert_eq!(first["state"], "changed");
        assert_eq!(fs::read(&folder.path().join("etc/c")).unwrap(), format!("key={value}\n").as_bytes());
        assert_eq!(fs::metadata(&folder.path().join("etc/c")).unwrap().mode() & 0o777, 0o640);
        let second = python_here(FILE.code, &write, None);
        assert_eq!((&second["state"], &second["stat"]), (&json!("same"), &first["stat"]));

        write["owner"] = json!("nobody-of-this-name");
        let refused = python_here(FILE.code, &write, None);
        assert!(refused["failed"].as_str().unwrap().contains("user nobody-of-this-name"), "{refused}");
        let gone = python_here(REMOVE.code, &json!({"paths": [at("etc/c"), at("etc"), at("none")]}), None);
        assert_eq!(gone, json!({"removed": [at("etc/c")]}));
    }
}
