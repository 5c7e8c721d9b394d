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
/// Variables of the environment count before the keyring: where one of a provider's is set, its keyring is not asked.
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
    let given = match &args.stdin {
        Some(variable) => Some(known(entry, variable)?),
        None if context.ui.can_ask => None,
        None => {
            return Err(Failure::new(Kind::Usage, "nobody is there to ask: this is no terminal").hint(
                format!(
                    "`lane login {} --stdin {}` reads a value from a pipe",
                    entry.name,
                    entry.credentials.first().unwrap_or(&"VAR")
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
        for variable in entry.credentials {
            values.push((*variable, rpassword::prompt_password(format!("{variable}: ")).map_err(unread)?));
        }
    }
    let kept = keep(entry, &keyring, &values)?;
    context.ui.line(&format!("{} is kept in {}.", kept.join(", "), keyring.about()));
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
    entry.credentials.iter().copied().find(|known| *known == variable).ok_or_else(|| {
        Failure::new(Kind::Usage, format!("{} has no credential {variable}", entry.name))
            .hint(format!("it has {}", entry.credentials.join(", ")))
    })
}

fn no_keyring(entry: &Entry, error: &KeyringError) -> Failure {
    Failure::new(Kind::Provider, format!("no keyring works on this machine: {error}")).hint(format!(
        "set {} in the environment instead; lane writes credentials to no file",
        entry.credentials.join(" or ")
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
    for (variable, value) in &written {
        keyring.set(variable, value).map_err(|error| no_keyring(entry, &error))?;
    }
    Ok(written.into_iter().map(|(variable, _)| variable).collect())
}

fn forget(entry: &Entry, keyring: &Keyring) -> Result<Vec<&'static str>, Failure> {
    let mut gone = Vec::new();
    for variable in entry.credentials {
        if keyring.remove(variable).map_err(|error| no_keyring(entry, &error))? {
            gone.push(*variable);
        }
    }
    Ok(gone)
}

/// Returns the first of a provider's credential variables that the environment has.
pub(super) fn set_in(world: &World, entry: &Entry) -> Option<&'static str> {
    entry.credentials.iter().copied().find(|variable| world.var(variable).is_some())
}

/// Where a provider's credentials were found, never what they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    Environment(&'static str),
    Keyring(&'static str),
}

/// Fills a provider's credential variables in from the keyring, if the environment has none of them: half of one set and
/// half of another are no credentials. A keyring that is missing or fails holds none.
pub(super) fn fill(
    world: &World,
    entry: &Entry,
    open: impl FnOnce(&World) -> Result<Keyring, KeyringError>,
) -> (World, Option<Found>) {
    if let Some(variable) = set_in(world, entry) {
        return (world.clone(), Some(Found::Environment(variable)));
    }
    if entry.credentials.is_empty() {
        return (world.clone(), None);
    }
    let Ok(keyring) = open(world) else { return (world.clone(), None) };
    let kept = |variable: &&'static str| Some((*variable, keyring.get(variable).ok()??));
    let kept: Vec<_> = entry.credentials.iter().filter_map(kept).collect();
    let found = kept.first().map(|(variable, _)| Found::Keyring(variable));
    (world.with(kept), found)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;
    use std::sync::Arc;

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
        let (filled, found) = fill(&world(&[("HOME", "/root")]), aws, |_| Ok(keyring.clone()));
        assert_eq!(found, Some(Found::Keyring("AWS_ACCESS_KEY_ID")));
        assert_eq!((filled.var("AWS_ACCESS_KEY_ID"), filled.var("HOME")), (Some("id"), Some("/root")));
        // Another provider gets none of them.
        let (other, found) = fill(&world(&[]), provider::by_name("gcp").unwrap(), |_| Ok(keyring.clone()));
        assert_eq!((other.var("AWS_SECRET_ACCESS_KEY"), found), (None, None));
        assert_eq!(forget(aws, &keyring).unwrap(), kept);
        assert!(forget(aws, &keyring).unwrap().is_empty());
    }

    #[test]
    fn two_sets_of_credentials_are_never_mixed() {
        let (aws, keyring) = (provider::by_name("aws").unwrap(), in_memory());
        keep(aws, &keyring, &values(&[("AWS_SESSION_TOKEN", "old")])).unwrap();
        let set = world(&[("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "new")]);
        let (filled, found) = fill(&set, aws, |_| panic!("the keyring is not asked"));
        assert_eq!(found, Some(Found::Environment("AWS_ACCESS_KEY_ID")));
        assert_eq!(filled.var("AWS_SESSION_TOKEN"), None);
    }

    #[test]
    fn a_keyring_that_fails_holds_no_credentials() {
        let aws = provider::by_name("aws").unwrap();
        let closed = world(&[("LANE_KEYRING", "none")]);
        let (filled, found) = fill(&closed, aws, Keyring::open);
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
