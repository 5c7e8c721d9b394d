//! Effects: looks at the cloud and the host ([`refresh`]), walks a plan ([`executor`]), does each step ([`steps`]).

pub mod cloud;
pub mod event;
pub mod executor;
pub mod lease;
pub mod receipt;
pub mod refresh;
pub mod step_log;
pub mod steps;
pub mod sweep;
