//! `build-agent`: from a job manifest to a verdict on a Yocto layer that can be trusted.
//!
//! This crate is the program: `cli → job → stages → config`, with `report`, `batch`, `lab` and `doctor` at `cli`'s
//! side. What it is made of are libraries below `agent/crates/`, each with one story. Data flows one way, and the
//! compiler sees to it, because crates cannot use each other in a circle:
//!
//! ```text
//! agent ─┬─ artifacts   artifacts and their destinations; the only crate with the AWS SDK
//!        ├─ devices     devices under test: requests, leases, providers, what runs on them
//!        ├─ cache       the share, and the answers that BitBake gave before
//!        ├─ yocto       BitBake, OE-Core and layers: what they print and what they want
//!        └─ git         sources from git
//!             └─ process   starts, watches and stops processes; users, redaction
//!                  └─ fs      files and directories in which others may write
//!                       └─ types   the words that all of them share: events, outcomes, errors …
//! ```
//!
//! `cache` uses `yocto` and `git` as well. Within a crate the modules at the top have no cycle either
//! (`tests/tests/structure.rs`).
//!
//! Two ways to tell what happens:
//!
//! - *Events* (`agent_types::events`) are for users and for other programs: what a job does, finds and decides. Consoles,
//!   reports, verdict and exit status are made of them. Whatever a user must know is an event.
//! - *Diagnostics* (the macros of `tracing`) are for whoever looks for a fault: how the agent does it, and how long it
//!   takes. Nothing is made of them, they may be dropped, and nobody reads them in a job that went well. Any crate uses
//!   the macros; only `cli::diagnostics` sets up a subscriber, which redacts all.
//!
//! Single doors: `config::environment` reads the environment, `process` starts processes,
//! `artifacts::aws` talks to AWS, `fs::remove` deletes files, `cli::say` prints.

#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))] // they panic when nobody can read

pub mod batch;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod job;
pub mod lab;
pub mod matrix_run;
pub mod report;
pub mod shim;
pub mod stages;
