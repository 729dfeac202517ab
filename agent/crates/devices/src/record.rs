//! The small JSON files of the store.

use serde::Serialize;
use serde::de::DeserializeOwned;

use agent_artifacts::records::RecordStore;
use agent_types::error::{Error, Result};

/// Maximum bytes of one.
pub const LARGEST: u64 = 64 << 10;

/// The content of a file.
///
/// # Errors
/// Internal, if the value cannot be written.
pub fn to_json(value: &impl Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| Error::internal("cannot write JSON").because(&error))
}

/// Reads a file; `None`, if there is none.
///
/// # Errors
/// Usage, if its content is not valid; else if it cannot be read.
pub async fn read<T: DeserializeOwned>(store: &RecordStore, path: &str) -> Result<Option<T>> {
    let Some(content) = store.read(path, LARGEST).await? else { return Ok(None) };
    serde_json::from_slice(&content).map(Some).map_err(|error| {
        Error::usage(format!("{} is not valid", store.shown(path)))
            .because(&error)
            .hint("remove it, if no lab uses it")
    })
}
