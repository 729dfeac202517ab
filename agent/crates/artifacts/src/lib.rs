//! Publishes artifacts. This is the only crate that uses AWS.

#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))] // they panic if the reader is gone

pub mod aws;
pub mod records;
pub mod results;
pub mod store;
