//! The proof that a host is gone, as a file beside the lane's logs. Decides nothing.

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::provider::{HostId, Residue};
use crate::world::fs;

/// What was destroyed, and how that is known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// Version of this form.
    pub format_version: u32,
    /// The lane's name.
    pub lane: String,
    /// The lane's lineage.
    pub lineage: String,
    /// The name under which the host was known to the cloud.
    pub label: String,
    /// Provider's name.
    pub provider: String,
    /// Hosts that were destroyed, and what went with them as far as it was seen.
    pub destroyed: Vec<Object>,
    /// Twice nothing, the listing lag apart.
    pub empty_listings: Vec<EmptyListing>,
    /// How long the provider's listing may hide a fresh host, in seconds.
    pub listing_lag_seconds: f64,
    /// When the oldest of the hosts was made.
    pub created_at: Option<Timestamp>,
    /// When the second empty listing was seen.
    pub gone_at: Timestamp,
    /// By the spec or the dated price table; `None` where there is no price.
    pub spend_estimate: Option<String>,
}

/// One thing in a cloud.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Object {
    /// `host`, `disk`, `address`, …
    pub kind: String,
    /// The provider's id of it.
    pub id: String,
}

impl Object {
    pub(super) fn of_host(id: &HostId) -> Self {
        Self { kind: "host".to_owned(), id: id.to_string() }
    }

    pub(super) fn of_residue(residue: &Residue) -> Self {
        Self { kind: residue.kind.clone(), id: residue.id.clone() }
    }
}

/// A look at the cloud that found nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmptyListing {
    /// When.
    pub at: Timestamp,
    /// Hosts that were listed: none.
    pub hosts: usize,
    /// Other things that were listed: none.
    pub residue: usize,
}

/// Where a receipt is, and the digest of its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filed {
    /// The receipt.
    pub path: PathBuf,
    /// SHA-256 of its bytes, in hexadecimal; also in the file of that name and `.sha256`, for `sha256sum --check`.
    pub sha256: String,
}

impl Receipt {
    /// Writes it into a folder, and its digest beside it.
    pub fn file(&self, folder: &Path) -> io::Result<Filed> {
        fs::create_dir_private(folder)?;
        let mut bytes = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        bytes.push(b'\n');
        // A cloud's id may be a path.
        let label = self.label.replace(['/', '\\'], "_");
        let name = format!("receipt-{label}-{}.json", self.gone_at.strftime("%Y%m%dT%H%M%SZ"));
        let path = folder.join(&name);
        let sha256 =
            Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
        fs::write_atomic(&path, &bytes, fs::Mode::Private)?;
        let line = format!("{sha256}  {name}\n");
        fs::write_atomic(&folder.join(format!("{name}.sha256")), line.as_bytes(), fs::Mode::Private)?;
        Ok(Filed { path, sha256 })
    }
}
