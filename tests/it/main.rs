//! Tests of the program as a user runs it; those named `real_host_*` boot hosts on this machine and need root.
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests make their own files and fail loudly"
)]

mod boundaries;
mod chaos;
mod cli;
mod clouds;
#[path = "../emulators/mod.rs"]
mod emulators;
mod examples;
mod fuzz;
mod hostile;
mod leases;
mod moto;
mod one_file;
mod real_host;
mod refusals;
mod secrets;
mod state;
mod support;
