//! Objects in a bucket: keys, retries, conditional writes, counted requests.
//!
//! This crate knows `object_store` and no AWS: whoever has the credentials opens the bucket and hands it over.

#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))] // they panic if the reader is gone

pub mod key;
pub mod keys;
pub mod meter;
pub mod objects;
pub mod parts;
pub mod prices;
pub mod retry;

pub use keys::{ListKeys, ListedObject, Upload};
pub use meter::{Meter, Requests};
pub use object_store::Error;
pub use object_store::path::Path as ObjectPath;
pub use objects::{Created, Objects};
pub use prices::Prices;
