//! The caches on the share: shared state, downloads and layer checkouts.
//!
//! The share is a file system that all build machines mount. Each operation on it takes milliseconds, and
//! other machines read while this one writes. BitBake writes only to local disk and reads the share as a
//! mirror. New objects are published back: a reader sees the old state or the new one, never a part of it. A
//! trusted build never reads what an untrusted source wrote ([`tiers`]).
//!
//! This crate knows directories and names. It starts no processes and reads no manifests.

#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))] // they panic if the reader is gone

pub mod areas;
pub mod bucket;
pub mod dangling;
mod first_names;
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
