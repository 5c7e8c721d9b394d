//! From a YAML file to a checked [`Spec`], or to every complaint at once.
//!
//! `load` reads and walks the text, `raw` is what a user may write (and the source of the schema), `resolve` fills
//! defaults and checks across fields, `model` is the result: an invalid [`Spec`] cannot be built.

mod load;
mod model;
mod raw;
mod resolve;
mod schema;
mod source_map;

pub use load::{LoadError, load};
pub use model::{
    Access, AllowFrom, Build, FileTemplate, GenerateAs, KvmNeed, Lease, LocalFile, Name, Probe, ProbeKind, ProviderSpec,
    Run, Secret, Service, Source, Spec, Timeouts,
};
pub use schema::json_schema;
pub use source_map::{Complaint, SourceMap};
