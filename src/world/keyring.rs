//! The operating system's keyring, in which `lane login` keeps credentials; what is kept there is found by variable name.

use std::fmt;
use std::sync::Arc;

use keyring::{CredentialPersistence, CredentialStore, Entry, Error};

use super::World;

/// Under which all of ours is kept.
const SERVICE: &str = "lane";

/// Why the keyring did not do what it was asked; never holds what is kept there.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct KeyringError(String);

impl From<Error> for KeyringError {
    fn from(error: Error) -> Self {
        let mut text = error.to_string();
        let cause = std::error::Error::source(&error).map(ToString::to_string);
        if let Some(cause) = cause.filter(|cause| !text.contains(cause)) {
            text.extend([format!(": {cause}")]);
        }
        Self(text)
    }
}

/// A keyring that can be asked.
#[derive(Clone)]
pub struct Keyring(Arc<CredentialStore>);

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Keyring").field(&self.0.vendor()).finish()
    }
}

impl Keyring {
    /// Opens the keyring of this machine; `LANE_KEYRING=none` says that there is none.
    pub fn open(world: &World) -> Result<Self, KeyringError> {
        if world.var("LANE_KEYRING") == Some("none") {
            return Err(KeyringError("LANE_KEYRING=none switches it off".to_owned()));
        }
        let keyring = Self(platform()?);
        // Some are there and still let nobody in: a container's process has no session keyring.
        keyring.entry("LANE_KEYRING")?;
        Ok(keyring)
    }

    /// Takes another store for the keyring, for tests.
    pub fn over(store: Arc<CredentialStore>) -> Self {
        Self(store)
    }

    fn entry(&self, variable: &str) -> Result<Entry, KeyringError> {
        Ok(self.0.build(SERVICE, variable, None)?)
    }

    /// Returns what is kept for a variable.
    pub fn get(&self, variable: &str) -> Result<Option<String>, KeyringError> {
        match self.entry(variable)?.get_password() {
            Ok(value) => Ok(Some(value)),
            Err(Error::NoEntry) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Keeps a variable's value.
    pub fn set(&self, variable: &str, value: &str) -> Result<(), KeyringError> {
        Ok(self.entry(variable)?.set_password(value)?)
    }

    /// Forgets a variable; tells whether it was there.
    pub fn remove(&self, variable: &str) -> Result<bool, KeyringError> {
        match self.entry(variable)?.delete_credential() {
            Ok(()) => Ok(true),
            Err(Error::NoEntry) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Says which keyring it is and how long it keeps things.
    pub fn about(&self) -> String {
        let vendor = self.0.vendor();
        let name = vendor.split(',').next().unwrap_or_default();
        match self.0.persistence() {
            CredentialPersistence::UntilDelete => name.to_owned(),
            CredentialPersistence::UntilReboot => {
                format!("{name}, which forgets when the machine restarts or days go by unused")
            }
            _ => format!("{name}, which forgets when the session ends"),
        }
    }
}

#[cfg(target_os = "linux")]
fn platform() -> Result<Arc<CredentialStore>, KeyringError> {
    #[cfg(feature = "secret-service")]
    if let Ok(store) = zbus_secret_service_keyring_store::Store::new() {
        return Ok(store);
    }
    Ok(linux_keyutils_keyring_store::Store::new()?)
}

#[cfg(target_os = "macos")]
fn platform() -> Result<Arc<CredentialStore>, KeyringError> {
    Ok(apple_native_keyring_store::keychain::Store::new()?)
}

#[cfg(not(any(target_os = "linux", target_os = "macos")))]
fn platform() -> Result<Arc<CredentialStore>, KeyringError> {
    Err(KeyringError("lane knows no keyring of this system".to_owned()))
}

#[cfg(test)]
pub(crate) mod testing {
    use super::Keyring;

    /// A keyring in memory.
    pub(crate) fn in_memory() -> Keyring {
        Keyring::over(keyring::mock::Store::new().unwrap())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_found_until_it_is_removed() {
        let keyring = testing::in_memory();
        assert_eq!(keyring.get("TOKEN").unwrap(), None);
        keyring.set("TOKEN", "a b\"c").unwrap();
        assert_eq!(keyring.get("TOKEN").unwrap().as_deref(), Some("a b\"c"));
        assert_eq!(keyring.get("OTHER").unwrap(), None);
        assert!(keyring.remove("TOKEN").unwrap() && !keyring.remove("TOKEN").unwrap());
        assert_eq!(keyring.get("TOKEN").unwrap(), None);
    }

    #[test]
    fn no_error_shows_what_is_kept() {
        let error = KeyringError::from(Error::BadEncoding(b"hunter2\xff".to_vec()));
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    }
}
