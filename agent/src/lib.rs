//! `build-agent`: from a job manifest to a verdict on a Yocto layer that can be trusted.
//!
//! Data flows one way: `cli → job → stages → {artifacts cache yocto} → git → process → fs → types`, never
//! back. `types` are the words that all of them share.
//!
//! Single doors: `config::environment` reads the environment, `process` starts processes,
//! `artifacts::aws` talks to AWS, `fs::remove` deletes files, `cli::say` prints.

#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))] // they panic when nobody can read

pub mod artifacts;
pub mod cache;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod fs;
pub mod git;
pub mod job;
pub mod process;
pub mod report;
pub mod stages;
pub mod types;
pub mod yocto;
