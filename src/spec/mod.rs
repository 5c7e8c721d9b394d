//! From a YAML file to a checked [`Spec`], or to every complaint at once.
//!
//! `load` runs it: `tree` keeps places, `walk` holds the tree against the `schema` that `raw` and `text` describe,
//! `cross` looks across keys, `resolve` fills defaults, `model` is the result: an invalid [`Spec`] cannot be built.

mod cross;
mod env;
mod load;
mod model;
#[cfg(test)]
pub(crate) mod positions;
mod raw;
mod resolve;
mod schema;
mod source_map;
mod text;
mod tree;
mod walk;

pub use env::{MissingVar, resolve_env, resolve_env_json};
pub use load::{LoadError, load, load_text};
pub use model::{
    Access, AllowFrom, Build, FileTemplate, GenerateAs, KvmNeed, Lease, LocalFile, Name, Probe, ProbeKind,
    ProviderSpec, Run, Secret, Service, Source, Spec, Timeouts, price,
};
pub use schema::json_schema;
pub use source_map::{Complaint, SourceMap};
pub use walk::closest;
