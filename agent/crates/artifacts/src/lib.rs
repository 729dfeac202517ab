//! Artifacts and where they go. The only part that talks to AWS.

#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))] // they panic when nobody can read

pub mod aws;
pub mod store;
