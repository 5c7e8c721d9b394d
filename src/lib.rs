//! `lane`: a declarative spec and a reconciler for ephemeral KVM hosts.
//!
//! The way of a spec, and the module that owns each part of it:
//!
//! 1. [`cli`] reads arguments, builds the [`world::World`] and takes the lane's lock.
//! 2. [`spec`] turns YAML into a checked [`spec::Spec`], or into every complaint at once.
//! 3. [`inputs`] reads what the spec names on this machine: unit files, templates, source trees.
//! 4. [`state`] replays the journal over the last record; an intent without an outcome is *in doubt*.
//! 5. [`apply::refresh`] asks the provider and the host what really is: the [`plan::Observed`].
//! 6. [`plan`] compares, purely: desired, recorded, observed → a DAG of steps with actions and reasons.
//! 7. [`report`] shows plans and events to people and machines.
//! 8. [`apply`] runs the steps: intent (fsync) → effect → outcome (fsync) → event.
//! 9. [`provider`] is one cloud behind one trait; [`transport`] is one host behind another.
//!
//! `ARCHITECTURE.md` has the decisions and the arrows that are allowed between these modules.

// The emulators speak of `lane::…`, in the unit tests too.
#[cfg(test)]
extern crate self as lane;

#[cfg(test)]
#[path = "../tests/emulators/mod.rs"]
mod emulators;

pub mod apply;
pub mod cli;
pub mod error;
pub mod inputs;
pub mod plan;
pub mod provider;
pub mod report;
#[cfg(test)]
mod sim;
pub mod spec;
pub mod state;
pub mod transport;
pub mod user_data;
pub mod world;
