//! `lane whoami`: as whom a provider sees us.

use clap::Args;
use serde_json::json;

use super::inventory::KeyArgs;
use super::lane::{connect_over, entry_of};
use super::login::{Found, start_over};
use super::{Context, Format};
use crate::error::Failure;
use crate::provider::{Account, Link, ProviderError};
use crate::report::reason::printable_lines;

/// Ask a provider who you are, by one cheap request; shows where the credentials were found, never what they are.
#[derive(Debug, Args)]
pub(super) struct WhoamiArgs {
    /// The provider's name.
    #[arg(value_name = "PROVIDER")]
    provider: String,
    #[command(flatten)]
    keys: KeyArgs,
    /// What to write.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

pub(super) async fn run(context: &Context, args: &WhoamiArgs) -> Result<u8, Failure> {
    let entry = entry_of(&args.provider)?;
    let (provider, found) = connect_over(&context.world, entry, &args.keys.config(), Link::Network)?;
    let account = provider.whoami().await.map_err(|error| {
        let kept = matches!((&error, &found), (ProviderError::Auth { .. }, Some(Found::Keyring(_))));
        let failure = Failure::from(error);
        if kept { failure.hint(start_over(entry)) } else { failure }
    })?;
    let text = match args.format {
        Format::Json => {
            let json = json!({
                "format_version": 1, "provider": entry.name, "account": account.account, "project": account.project,
                "credentials": account.credentials, "keyring": matches!(found, Some(Found::Keyring(_))),
            });
            serde_json::to_string_pretty(&json).unwrap_or_default() + "\n"
        }
        Format::Text => text(&account, found.as_ref()),
    };
    context.ui.out(&text);
    Ok(0)
}

fn text(account: &Account, found: Option<&Found>) -> String {
    let project = account.project.as_deref().unwrap_or("-");
    let kept = if matches!(found, Some(Found::Keyring(_))) { ", from the keyring" } else { "" };
    printable_lines(&format!(
        "account      {}\nproject      {project}\ncredentials  {}{kept}\n",
        account.account, account.credentials
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;
    use std::sync::Arc;

    use super::*;
    use crate::emulators;
    use crate::provider;
    use crate::world::{SystemClock, World};

    fn world(variables: &[(&str, &str)]) -> World {
        let mut variables: BTreeMap<_, _> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        variables.insert("LANE_KEYRING".to_owned(), "none".to_owned());
        World::fixed(Arc::new(SystemClock), variables, PathBuf::from("/"))
    }

    async fn ask(world: &World, name: &str) -> Result<(Account, Option<Found>), ProviderError> {
        let nspawn = provider::by_name("nspawn").unwrap();
        let hosts = Arc::from((nspawn.connect)(world, &json!({}), Link::Network).unwrap());
        let wire = emulators::over(name, hosts).unwrap();
        let sent = Arc::<dyn emulators::Emulator>::clone(&wire);
        let entry = provider::by_name(name).unwrap();
        let (provider, found) = connect_over(world, entry, &emulators::keys(name), Link::Wire(sent)).unwrap();
        let account = provider.whoami().await?;
        assert_eq!(
            (wire.requests().len(), wire.complaints()),
            (2, vec![]),
            "the project, and whose the token is"
        );
        Ok((account, found))
    }

    #[tokio::test]
    async fn the_account_and_where_its_credentials_are_found_but_not_what_they_are() {
        let set = world(&[("CLOUDSDK_AUTH_ACCESS_TOKEN", "hunter2")]);
        let (account, found) = ask(&set, "gcp").await.unwrap();
        assert_eq!(found, Some(Found::Environment("CLOUDSDK_AUTH_ACCESS_TOKEN")));
        insta::assert_snapshot!(text(&account, found.as_ref()), @"
        account      operator@example.com
        project      my-project
        credentials  CLOUDSDK_AUTH_ACCESS_TOKEN
        ");
        let kept = text(&account, Some(&Found::Keyring("CLOUDSDK_AUTH_ACCESS_TOKEN")));
        assert!(kept.ends_with("CLOUDSDK_AUTH_ACCESS_TOKEN, from the keyring\n"), "{kept}");
    }

    #[tokio::test]
    async fn a_file_of_credentials_that_is_not_there_is_named() {
        let set = world(&[("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere/key.json")]);
        let error = ask(&set, "gcp").await.unwrap_err().to_string();
        assert!(error.contains("/nowhere/key.json"), "{error}");
    }
}
