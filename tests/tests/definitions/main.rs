//! Definitions of other tools: `build-agent plan` understands them as their own tools do.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod agreement;
mod kas;
mod random;
mod repo;
mod runs;
mod setup;
mod signatures;
