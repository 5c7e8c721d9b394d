//! Plans and events as text, JSON and drawings. Touches neither state nor a run, and decides nothing.

pub mod graph;
pub mod lease;
pub mod plan_json;
pub mod plan_text;
pub mod progress;
pub mod reason;
