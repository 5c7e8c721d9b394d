//! What was last known of a lane, kept so that `kill -9` at any instant loses nothing.
//!
//! `state/<lane>/`: `state.json` (the record), `journal.jsonl` (since the record), `lock` and `holder.json`,
//! `plan.json`, `logs/`, `content/` (texts by digest), `keys/`. Knows no cloud.

mod error;
mod journal;
mod lock;
mod record;
mod repair;
mod store;

pub use error::StateError;
pub use journal::{Entry, JournalEvent, read_journal, replay};
pub use lock::{Holder, LockGuard};
pub use record::{HostRecord, InDoubt, Outcome, Record, RunId, StepRecord};
pub use repair::Findings;
pub use store::{LaneDir, SharedSession, read_plan, read_record};
