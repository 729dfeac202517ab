//! Types and pure functions that all crates of the agent share.

#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))] // they panic if the reader is gone

pub mod affected;
pub mod artifact;
pub mod base_result;
pub mod bucket_share;
pub mod credentials;
pub mod diagnostic;
pub mod error;
pub mod events;
pub mod job_id;
pub mod listing;
pub mod machine_use;
pub mod outcome;
pub mod prices;
pub mod release;
pub mod reproduction;
pub mod s3_address;
pub mod sanitize;
pub mod secret;
pub mod secrets;
pub mod share;
pub mod source;
pub mod stage;
pub mod tiers;
pub mod traffic;
pub mod truncate;
pub mod words;
