//! A lane's own key pairs: one for its user, one for its host, both made before the host. Knows no ssh program.
//!
//! A pair is kept as one private file, from which its public half is derived: there is no half-written pair.

use std::path::{Path, PathBuf};

use ssh_key::rand_core::OsRng;
use ssh_key::{Algorithm, LineEnding, PrivateKey};

use super::TransportError;
use crate::world::fs::{self, Mode};

/// The key pair by which a host proves that it is the one that `lane` made.
#[derive(Clone, PartialEq, Eq)]
pub struct HostKeys {
    /// Private half, in OpenSSH's form; goes into the user-data and nowhere else.
    pub private_pem: String,
    /// Public half: `ssh-ed25519 AAAA…`.
    pub public: String,
}

impl std::fmt::Debug for HostKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HostKeys").field("public", &self.public).finish_non_exhaustive()
    }
}

/// The keys of one lane.
#[derive(Debug, Clone)]
pub struct LaneKeys {
    /// File of the user's private key, for `IdentityFile`.
    pub identity: PathBuf,
    /// The user's public key: `ssh-ed25519 AAAA… lane-demo-1a2b3c4d`.
    pub user_public: String,
    /// The host's key pair.
    pub host: HostKeys,
}

impl LaneKeys {
    /// Tells whether both pairs are in a folder; makes none.
    pub fn are_there(dir: &Path) -> bool {
        ["id_ed25519", "host_ed25519"].iter().all(|name| fs::exists(&dir.join(name)))
    }

    /// Returns the keys in a folder, and makes those that are missing; `label` becomes their comment.
    ///
    /// A file that holds something else is an error: a key that a host may have been made with is never replaced.
    pub fn load_or_create(dir: &Path, label: &str) -> Result<Self, TransportError> {
        fs::create_dir_private(dir).map_err(|source| local(dir, source))?;
        let identity = dir.join("id_ed25519");
        let (_, user_public) = pair(&identity, label)?;
        // For people and other programs only; lane derives it anew each time.
        let shown = dir.join("id_ed25519.pub");
        let line = format!("{user_public}\n");
        if fs::read_optional(&shown).map_err(|source| local(&shown, source))?.as_deref()
            != Some(line.as_bytes())
        {
            fs::write_atomic(&shown, line.as_bytes(), Mode::Public)
                .map_err(|source| local(&shown, source))?;
        }
        let (private_pem, public) = pair(&dir.join("host_ed25519"), label)?;
        Ok(Self { identity, user_public, host: HostKeys { private_pem, public } })
    }
}

/// Returns the line of a `known_hosts` file that pins a host's key to an alias.
pub(super) fn known_host(alias: &str, public: &str) -> String {
    let key: Vec<&str> = public.split_whitespace().take(2).collect();
    format!("{alias} {}\n", key.join(" "))
}

fn pair(path: &Path, label: &str) -> Result<(String, String), TransportError> {
    let bad =
        |error: ssh_key::Error| local(path, std::io::Error::new(std::io::ErrorKind::InvalidData, error));
    if let Some(bytes) = fs::read_optional(path).map_err(|source| local(path, source))? {
        let key = PrivateKey::from_openssh(&bytes).map_err(bad)?;
        let public = key.public_key().to_openssh().map_err(bad)?;
        return Ok((String::from_utf8_lossy(&bytes).into_owned(), public));
    }
    let mut key = PrivateKey::random(&mut OsRng, Algorithm::Ed25519).map_err(bad)?;
    key.set_comment(label);
    let pem = key.to_openssh(LineEnding::LF).map_err(bad)?.to_string();
    fs::write_atomic(path, pem.as_bytes(), Mode::Private).map_err(|source| local(path, source))?;
    Ok((pem, key.public_key().to_openssh().map_err(bad)?))
}

fn local(path: &Path, source: std::io::Error) -> TransportError {
    TransportError::Local { what: format!("cannot use {}", path.display()), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn keys_are_made_once_and_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("keys");
        let first = LaneKeys::load_or_create(&dir, "lane-demo-1a2b3c4d").unwrap();
        let second = LaneKeys::load_or_create(&dir, "lane-demo-1a2b3c4d").unwrap();
        assert_eq!(first.host, second.host);
        assert_eq!(first.user_public, second.user_public);
        assert_ne!(first.user_public, first.host.public);
        assert!(
            first.user_public.starts_with("ssh-ed25519 ")
                && first.user_public.ends_with(" lane-demo-1a2b3c4d")
        );
        for name in ["id_ed25519", "host_ed25519"] {
            assert_eq!(fs::metadata(&dir.join(name)).unwrap().mode() & 0o777, 0o600, "{name}");
        }
        assert_eq!(fs::metadata(&dir).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_crash_between_the_files_leaves_usable_keys() {
        let dir = tempfile::tempdir().unwrap();
        let first = LaneKeys::load_or_create(dir.path(), "l").unwrap();
        fs::remove_file(&dir.path().join("host_ed25519")).unwrap();
        fs::remove_file(&dir.path().join("id_ed25519.pub")).unwrap();
        let second = LaneKeys::load_or_create(dir.path(), "l").unwrap();
        assert_eq!(first.user_public, second.user_public);
        assert_ne!(first.host, second.host);
        assert_eq!(
            fs::read(&dir.path().join("id_ed25519.pub")).unwrap(),
            format!("{}\n", first.user_public).as_bytes()
        );
    }

    #[test]
    fn a_damaged_key_is_named_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("id_ed25519");
        fs::write_atomic(&file, b"garbage", Mode::Private).unwrap();
        let error = LaneKeys::load_or_create(dir.path(), "l").unwrap_err();
        assert!(error.to_string().contains("id_ed25519"), "{error}");
        assert_eq!(fs::read(&file).unwrap(), b"garbage");
    }

    #[test]
    fn the_private_half_is_not_in_debug_output() {
        let dir = tempfile::tempdir().unwrap();
        let keys = LaneKeys::load_or_create(dir.path(), "l").unwrap();
        assert!(!format!("{keys:?}").contains("PRIVATE"));
    }

    #[test]
    fn known_host_drops_the_comment() {
        assert_eq!(known_host("lane-a-1", "ssh-ed25519 AAAA some comment"), "lane-a-1 ssh-ed25519 AAAA\n");
    }
}
