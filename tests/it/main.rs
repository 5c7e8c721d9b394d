//! Tests of the program as a user runs it; those named `real_host_*` boot hosts on this machine and need root.
#![expect(clippy::disallowed_methods, reason = "tests make and read their own files")]

mod boundaries;
mod cli;
mod real_host;
mod support;
