//! Knowledge about BitBake, OE-Core and layers. Mostly pure functions from texts to facts; tools run through
//! the crate `process`.

#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))] // they panic if the reader is gone

pub mod base_layers;
pub mod bitbake;
pub mod bitbake_events;
pub mod bitbake_layers;
pub mod bitbake_recipes;
pub mod buildstats;
pub mod changed_lines;
pub mod check_layer;
pub mod conf;
pub mod conf_syntax;
pub mod cve;
pub mod dependency_versions;
pub mod environment;
pub mod excerpt;
mod git_mirrors;
pub mod hash_server;
pub mod host;
pub mod layer;
pub mod layer_conf;
pub mod layer_fault;
pub mod mirrors;
pub mod oelint;
pub mod parallelism;
pub mod parse_output;
pub mod patch_review;
mod path;
pub mod path_rules;
pub mod preflight;
mod python;
pub mod runqemu;
pub mod server;
pub mod signatures;
pub mod starter;
pub mod task_failure;
pub mod testimage;
pub mod unreadable;
