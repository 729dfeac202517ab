//! Reads the `result.json` of another machine, which is untrusted.

use std::path::Path;

use crate::report::LARGEST_RESULT;
use agent_artifacts::aws;
use agent_fs::untrusted;
use agent_types::error::Result;

/// Reads a result from a path or an `s3://` URL.
///
/// # Errors
/// If it cannot be read, or is too large.
pub async fn read_result(address: &str) -> Result<Vec<u8>> {
    if address.starts_with("s3://") {
        let limit = usize::try_from(LARGEST_RESULT).unwrap_or(usize::MAX);
        return Ok(aws::read_object(address, limit).await?.to_vec());
    }
    Ok(untrusted::read(Path::new(address), LARGEST_RESULT)?)
}
