//! `docker/run` and `docker/seed` with a stand-in for the engine.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod devcontainer;
mod fixture;
mod run;
mod run_options;
mod seed;
