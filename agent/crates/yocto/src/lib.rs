//! What there is to know about BitBake, OE-Core and layers. Pure where it can be: texts in, facts
//! out; what must run a tool goes through the crate `process`.

#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))] // they panic when nobody can read

pub mod base_layers;
pub mod bitbake;
pub mod bitbake_events;
pub mod bitbake_layers;
pub mod check_layer;
pub mod conf;
pub mod conf_syntax;
pub mod dependency_versions;
pub mod environment;
pub mod excerpt;
pub mod hash_server;
pub mod host;
pub mod layer;
pub mod layer_conf;
pub mod layer_fault;
pub mod mirrors;
mod path;
pub mod path_rules;
pub mod preflight;
mod python;
pub mod server;
pub mod starter;
