//! The caches on the share: shared state, downloads and layer checkouts on a file system that all
//! build machines mount, where each operation costs milliseconds and other machines read while
//! this one writes.
//!
//! BitBake writes only to local disk and reads the share as a mirror. What is new is published
//! back: a reader sees the old state or the new, never a part. Nothing that an untrusted source
//! wrote is ever read by a trusted one ([`tiers`]).
//!
//! This module knows directories and names. It starts no process and reads no manifest.

#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))] // they panic when nobody can read

pub mod areas;
pub mod dangling;
pub mod layers;
pub mod lease;
pub mod names;
pub mod probe;
pub mod prune;
pub mod publish;
pub mod signature_cache;
pub mod stamp;
pub mod stats;
pub mod units;
pub mod usage;
pub mod verify;

pub use lease::Lease;
pub use usage::Usage;
