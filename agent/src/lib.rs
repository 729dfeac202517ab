//! `build-agent`: from a job manifest to a verdict on a Yocto layer that can be trusted.
//!
//! Data flows one way: `cli → config → job → stages → {git yocto cache store aws report} → exec`, never
//! back. `events`, `outcome` and `error` are the words that all of them share.
//!
//! Single doors: `config::environment` reads the environment, `exec` starts processes, `aws` talks
//! to AWS, `exec::remove` deletes files, `cli::say` prints.

#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))] // they panic when nobody can read

pub mod aws;
pub mod cache;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod error;
pub mod events;
pub mod exec;
pub mod git;
pub mod job;
pub mod listing;
pub mod memo;
pub mod outcome;
pub mod report;
pub mod secrets;
pub mod stages;
pub mod store;
pub mod untrusted;
pub mod yocto;
