//! Reads what a spec names on this machine: unit files, templates, cloud-init, source trees.
//!
//! Decides nothing: a missing file is a [`Complaint`] here and the verb says whether that matters.

mod cache;
mod tree;

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::plan::Digest;
use crate::spec::{Complaint, Name, Spec};
use crate::world::World;

pub use tree::{Tree, TreeEntry, TreeKind};

/// Everything that a spec names on this machine, as it is now.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// Texts of unit files, templates and the cloud-init file, by absolute path; a missing one is not in here.
    pub texts: BTreeMap<PathBuf, String>,
    /// Source trees by name; a missing one is not in here.
    pub trees: BTreeMap<Name, Tree>,
    /// What is missing or cannot be read, at its place in the spec.
    pub missing: Vec<Complaint>,
}

impl Inputs {
    /// Returns a text's digest, or `None` for 'unknown until apply'.
    pub fn text_digest(&self, path: &std::path::Path) -> Option<Digest> {
        self.texts.get(path).map(|text| Digest::of(text.as_bytes()))
    }
}

/// Reads all inputs; trees are digested with the cache in `cache_dir` (by path, size, mtime and inode).
pub fn read(world: &World, spec: &Spec, cache_dir: &std::path::Path) -> Inputs {
    tree::read_inputs(world, spec, cache_dir)
}
