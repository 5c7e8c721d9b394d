//! The one way to digest anything: BLAKE3 over length-prefixed fields, so that no two inputs share a digest.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A BLAKE3 digest, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Digest(String);

impl Digest {
    /// Digests bytes as one field.
    pub fn of(bytes: &[u8]) -> Self {
        Self(blake3::hash(bytes).to_hex().to_string())
    }

    /// Digests what a reader gives, to the same value as [`Digest::of`] over all of it.
    pub fn of_reader(reader: impl std::io::Read) -> std::io::Result<Self> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(reader)?;
        Ok(Self(hasher.finalize().to_hex().to_string()))
    }

    /// Wraps the 32 raw bytes of a digest.
    pub fn from_raw(raw: [u8; 32]) -> Self {
        Self(blake3::Hash::from_bytes(raw).to_hex().to_string())
    }

    /// Returns the raw bytes; `None` for a text that is no digest.
    pub fn raw(&self) -> Option<[u8; 32]> {
        blake3::Hash::from_hex(&self.0).ok().map(|hash| *hash.as_bytes())
    }

    /// Takes the text of a digest out of a record; what is none never names a stored text.
    pub fn from_text(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Returns all 64 hexadecimal characters.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the first 12 characters, for people.
    pub fn short(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}

/// Collects fields, each prefixed with its length, under a version.
#[derive(Debug)]
pub struct Digester(blake3::Hasher);

impl Digester {
    /// Starts a digest; `what` keeps digests of different things apart.
    pub fn new(what: &str) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(b"lane/1\0");
        let mut this = Self(hasher);
        this.field(what.as_bytes());
        this
    }

    /// Adds one field.
    pub fn field(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update(&(bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// Ends the digest.
    pub fn finish(&self) -> Digest {
        Digest(self.0.finalize().to_hex().to_string())
    }
}
