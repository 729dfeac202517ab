//! Work on layer stores that blocks.

use agent_types::error::{Error, Result};

/// Work that waits for files, out of the way of everything else.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(Error::internal("work on the layer store broke").because(&error)))
}
