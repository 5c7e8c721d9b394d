//! `lane login`, `lane logout`: a provider's credentials in the keyring of this machine.

use std::io::{self, Read};

use clap::Args;

use super::Context;
use super::lane::entry_of;
use crate::error::{Failure, Kind};
use crate::provider::Entry;
use crate::world::World;
use crate::world::keyring::{Keyring, KeyringError};

/// No token comes near this size.
const LONGEST: u64 = 64 << 10;

/// Keep a provider's credentials in this machine's keyring; they are asked for, without echo, never given as an argument.
///
/// The environment counts before the keyring: where it, or the spec, says how a provider's credentials come, its keyring is not asked.
#[derive(Debug, Args)]
pub(super) struct LoginArgs {
    /// The provider's name.
    #[arg(value_name = "PROVIDER")]
    provider: String,
    /// Read the value of this variable from standard input, as from a pipe, and ask for nothing.
    #[arg(long, value_name = "VAR")]
    stdin: Option<String>,
}

/// Forget what `login` kept for a provider.
#[derive(Debug, Args)]
pub(super) struct LogoutArgs {
    /// The provider's name.
    #[arg(value_name = "PROVIDER")]
    provider: String,
}

pub(super) fn run(context: &Context, args: &LoginArgs) -> Result<u8, Failure> {
    let entry = with_credentials(&args.provider)?;
    if entry.kept.is_empty() {
        return Err(Failure::new(Kind::Usage, format!("lane keeps no credentials of {}", entry.name))
            .hint(format!("run `{}`, or set {}", entry.sign_in, variables(entry))));
    }
    let given = match &args.stdin {
        Some(variable) => Some(known(entry, variable)?),
        None if context.ui.can_ask => None,
        None => {
            return Err(Failure::new(Kind::Usage, "nobody is there to ask: this is no terminal").hint(
                format!(
                    "`lane login {} --stdin {}` reads a value from a pipe",
                    entry.name,
                    entry.kept.first().unwrap_or(&"VAR")
                ),
            ));
        }
    };
    let keyring = Keyring::open(&context.world).map_err(|error| no_keyring(entry, &error))?;
    let unread =
        |error: io::Error| Failure::new(Kind::Unexpected, format!("the value cannot be read: {error}"));
    let mut values = Vec::new();
    if let Some(variable) = given {
        let mut text = String::new();
        io::stdin().lock().take(LONGEST).read_to_string(&mut text).map_err(unread)?;
        values.push((variable, text));
    } else {
        context.ui.note(&format!(
            "The credentials of {}; what is left empty is left as it is. Nothing is shown as you type.",
            entry.name
        ));
        for variable in asked(entry) {
            values.push((variable, rpassword::prompt_password(format!("{variable}: ")).map_err(unread)?));
        }
    }
    let kept = keep(entry, &keyring, &values)?;
    context.ui.line(&format!("{} is kept in {}.", kept.join(", "), keyring.about()));
    let missing = missing(entry, &keyring).map_err(|error| no_keyring(entry, &error))?;
    if !missing.is_empty() {
        context.ui.warn(&format!(
            "{} is not kept yet, and without it the rest is not used: `lane login {} --stdin {}`",
            missing.join(", "),
            entry.name,
            missing.first().unwrap_or(&"VAR")
        ));
    }
    if let Some(variable) = set_in(&context.world, entry) {
        context.ui.warn(&format!(
            "{variable} is set in the environment, so the keyring is not asked for {}",
            entry.name
        ));
    }
    Ok(0)
}

pub(super) fn run_logout(context: &Context, args: &LogoutArgs) -> Result<u8, Failure> {
    let entry = with_credentials(&args.provider)?;
    let keyring = Keyring::open(&context.world).map_err(|error| no_keyring(entry, &error))?;
    let gone = forget(entry, &keyring)?;
    context.ui.line(&if gone.is_empty() {
        format!("Nothing is kept for {}.", entry.name)
    } else {
        format!("{} is forgotten.", gone.join(", "))
    });
    if let Some(variable) = set_in(&context.world, entry) {
        context.ui.note(&format!("{variable} is still set in the environment."));
    }
    Ok(0)
}

fn with_credentials(provider: &str) -> Result<&'static Entry, Failure> {
    let entry = entry_of(provider)?;
    if entry.credentials.is_empty() {
        return Err(Failure::new(Kind::Usage, format!("{} needs no credentials", entry.name))
            .hint(format!("`lane doctor {}` says what it needs", entry.name)));
    }
    Ok(entry)
}

fn known(entry: &'static Entry, variable: &str) -> Result<&'static str, Failure> {
    asked(entry).find(|known| *known == variable).ok_or_else(|| {
        Failure::new(Kind::Usage, format!("`lane login {}` keeps no {variable}", entry.name))
            .hint(format!("it keeps {}", asked(entry).collect::<Vec<_>>().join(", ")))
    })
}

/// Returns the variables that `login` asks for.
fn asked(entry: &Entry) -> impl Iterator<Item = &'static str> {
    entry.kept.iter().chain(entry.kept_beside).copied()
}

/// Names the variables that give credentials, for advice.
pub(super) fn variables(entry: &Entry) -> String {
    let (kept, given) = (entry.kept, [entry.credentials, entry.stands_for_itself].concat());
    if kept.is_empty() { given.join(" or ") } else { kept.join(" and ") }
}

fn no_keyring(entry: &Entry, error: &KeyringError) -> Failure {
    Failure::new(Kind::Provider, format!("no keyring works on this machine: {error}")).hint(format!(
        "set {} in the environment instead; lane writes credentials to no file",
        variables(entry)
    ))
}

/// Keeps what is not empty, all of it or, where one value cannot be right, none.
fn keep(
    entry: &Entry,
    keyring: &Keyring,
    values: &[(&'static str, String)],
) -> Result<Vec<&'static str>, Failure> {
    let values: Vec<_> = values.iter().map(|(variable, value)| (*variable, value.trim())).collect();
    let written: Vec<_> = values.into_iter().filter(|(_, value)| !value.is_empty()).collect();
    if let Some((variable, _)) = written.iter().find(|(_, value)| value.chars().any(char::is_control)) {
        return Err(Failure::new(Kind::Usage, format!("{variable} holds a line end or a control character"))
            .hint("nothing was kept; give it as one line"));
    }
    if written.is_empty() {
        return Err(Failure::new(Kind::Usage, "no value was given; nothing was kept"));
    }
    // What came beside the old ones is not of the new ones.
    if written.iter().any(|(variable, _)| entry.kept.contains(variable)) {
        for variable in entry.kept_beside {
            keyring.remove(variable).map_err(|error| no_keyring(entry, &error))?;
        }
    }
    for (variable, value) in &written {
        keyring.set(variable, value).map_err(|error| no_keyring(entry, &error))?;
    }
    Ok(written.into_iter().map(|(variable, _)| variable).collect())
}

/// Names what is not kept though the rest is of no use without it.
fn missing(entry: &Entry, keyring: &Keyring) -> Result<Vec<&'static str>, KeyringError> {
    let mut missing = Vec::new();
    for variable in entry.kept {
        if keyring.get(variable)?.is_none() {
            missing.push(*variable);
        }
    }
    Ok(missing)
}

fn forget(entry: &Entry, keyring: &Keyring) -> Result<Vec<&'static str>, Failure> {
    let mut gone = Vec::new();
    // All that an earlier lane may have kept, too.
    for variable in asked(entry).chain(entry.credentials.iter().copied()) {
        if keyring.remove(variable).map_err(|error| no_keyring(entry, &error))? {
            gone.push(variable);
        }
    }
    Ok(gone)
}

/// Returns the first variable of the environment by which a provider's credentials come.
pub(super) fn set_in(world: &World, entry: &Entry) -> Option<&'static str> {
    let all = entry.credentials.iter().chain(entry.kept).chain(entry.stands_for_itself);
    all.copied().find(|variable| world.var(variable).is_some())
}

/// Where a provider's credentials were found, never what they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    Environment(&'static str),
    /// A key of the provider in the spec.
    Spec(&'static str),
    Keyring(&'static str),
}

/// Fills a provider's credential variables in from the keyring, if neither environment nor spec says how they come: half
/// of one set and half of another are no credentials. A keyring that is missing, fails, or has a part alone holds none.
pub(super) fn fill(
    world: &World,
    entry: &Entry,
    config: &serde_json::Value,
    open: impl FnOnce(&World) -> Result<Keyring, KeyringError>,
) -> (World, Option<Found>) {
    let written = || entry.stands_for_itself.iter().copied().find(|key| config[key].is_string());
    let said = set_in(world, entry).map(Found::Environment).or_else(|| written().map(Found::Spec));
    let Some(first) = entry.kept.first().filter(|_| said.is_none()) else { return (world.clone(), said) };
    let Ok(keyring) = open(world) else { return (world.clone(), None) };
    let kept: Vec<_> =
        asked(entry).filter_map(|variable| Some((variable, keyring.get(variable).ok()??))).collect();
    if entry.kept.iter().any(|needed| kept.iter().all(|(variable, _)| variable != needed)) {
        return (world.clone(), None);
    }
    (world.with(kept), Some(Found::Keyring(first)))
}

/// Says what to do when credentials out of the keyring are refused.
pub(super) fn start_over(entry: &Entry) -> String {
    format!(
        "the credentials are from the keyring: `lane logout {0}` forgets them, `lane login {0}` takes new ones",
        entry.name
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::provider;
    use crate::world::SystemClock;
    use crate::world::keyring::testing::in_memory;

    fn world(variables: &[(&str, &str)]) -> World {
        let variables: BTreeMap<_, _> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        World::fixed(Arc::new(SystemClock), variables, PathBuf::from("/"))
    }

    fn values(values: &[(&'static str, &str)]) -> Vec<(&'static str, String)> {
        values.iter().map(|(variable, value)| (*variable, (*value).to_owned())).collect()
    }

    #[test]
    fn what_was_kept_is_there_when_the_environment_has_nothing() {
        let (aws, keyring) = (provider::by_name("aws").unwrap(), in_memory());
        let given = values(&[
            ("AWS_ACCESS_KEY_ID", "id\n"),
            ("AWS_SECRET_ACCESS_KEY", "kept"),
            ("AWS_SESSION_TOKEN", ""),
        ]);
        let kept = keep(aws, &keyring, &given).unwrap();
        assert_eq!(kept, ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"]);
        let (filled, found) = fill(&world(&[("HOME", "/root")]), aws, &json!({}), |_| Ok(keyring.clone()));
        assert_eq!(found, Some(Found::Keyring("AWS_ACCESS_KEY_ID")));
        assert_eq!((filled.var("AWS_ACCESS_KEY_ID"), filled.var("HOME")), (Some("id"), Some("/root")));
        // Another provider gets none of them.
        let (other, found) =
            fill(&world(&[]), provider::by_name("hetzner").unwrap(), &json!({}), |_| Ok(keyring.clone()));
        assert_eq!((other.var("AWS_SECRET_ACCESS_KEY"), found), (None, None));
        assert_eq!(forget(aws, &keyring).unwrap(), kept);
        assert!(forget(aws, &keyring).unwrap().is_empty());
    }

    #[test]
    fn two_sets_of_credentials_are_never_mixed() {
        let (aws, keyring) = (provider::by_name("aws").unwrap(), in_memory());
        keep(aws, &keyring, &values(&[("AWS_SESSION_TOKEN", "old")])).unwrap();
        let set = world(&[("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "new")]);
        let (filled, found) = fill(&set, aws, &json!({}), |_| panic!("the keyring is not asked"));
        assert_eq!(found, Some(Found::Environment("AWS_ACCESS_KEY_ID")));
        assert_eq!(filled.var("AWS_SESSION_TOKEN"), None);
        // What the environment or the spec says in another way counts too.
        let azure = provider::by_name("azure").unwrap();
        let speaking = [
            (aws, "AWS_PROFILE"),
            (aws, "AWS_WEB_IDENTITY_TOKEN_FILE"),
            (aws, "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
            (azure, "AZURE_FEDERATED_TOKEN_FILE"),
            (azure, "AZURE_TENANT_ID"),
            (azure, "ARM_OIDC_TOKEN"),
        ];
        for (entry, variable) in speaking {
            let set = world(&[(variable, "x")]);
            let (_, found) =
                fill(&set, entry, &json!({}), |_| panic!("the keyring is not asked: {variable}"));
            assert_eq!(found, Some(Found::Environment(variable)));
        }
        let written = json!({"profile": "work"});
        let (_, found) = fill(&world(&[]), aws, &written, |_| panic!("the keyring is not asked"));
        assert_eq!(found, Some(Found::Spec("profile")));
        // New keys end the session of the old ones.
        keep(aws, &keyring, &values(&[("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "new")]))
            .unwrap();
        assert_eq!(keyring.get("AWS_SESSION_TOKEN").unwrap(), None);
    }

    #[test]
    fn a_part_alone_is_not_used_and_what_is_missing_is_named() {
        let (azure, keyring) = (provider::by_name("azure").unwrap(), in_memory());
        keep(azure, &keyring, &values(&[("AZURE_CLIENT_SECRET", "hunter2")])).unwrap();
        assert_eq!(missing(azure, &keyring).unwrap(), ["AZURE_TENANT_ID", "AZURE_CLIENT_ID"]);
        let look = || fill(&world(&[]), azure, &json!({}), |_| Ok(keyring.clone()));
        let (filled, found) = look();
        assert_eq!((filled.var("AZURE_CLIENT_SECRET"), found), (None, None));
        keep(azure, &keyring, &values(&[("AZURE_TENANT_ID", "t"), ("AZURE_CLIENT_ID", "c")])).unwrap();
        let (filled, found) = look();
        assert_eq!(filled.var("AZURE_TENANT_ID"), Some("t"));
        assert!(matches!(found, Some(Found::Keyring(_))), "{found:?}");
    }

    #[test]
    fn a_keyring_that_fails_holds_no_credentials() {
        let aws = provider::by_name("aws").unwrap();
        let closed = world(&[("LANE_KEYRING", "none")]);
        let (filled, found) = fill(&closed, aws, &json!({}), Keyring::open);
        assert_eq!((filled.var("AWS_ACCESS_KEY_ID"), found), (None, None));
        let failure = no_keyring(aws, &Keyring::open(&closed).unwrap_err());
        assert!(failure.hints[0].contains("AWS_SECRET_ACCESS_KEY"), "{failure:?}");
    }

    #[test]
    fn a_value_of_several_lines_is_refused_and_nothing_is_kept() {
        let (ovh, keyring) = (provider::by_name("ovh").unwrap(), in_memory());
        let given = values(&[("OVH_APPLICATION_KEY", "good"), ("OVH_CONSUMER_KEY", "hunter2\nHost: x")]);
        let failure = keep(ovh, &keyring, &given).unwrap_err();
        assert!(failure.message.contains("OVH_CONSUMER_KEY") && !failure.message.contains("hunter2"));
        assert_eq!(keyring.get("OVH_APPLICATION_KEY").unwrap(), None);
        assert!(keep(ovh, &keyring, &values(&[("OVH_CONSUMER_KEY", " \n")])).is_err());
    }
}
