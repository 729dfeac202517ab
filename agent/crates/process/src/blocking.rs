//! Runs work that blocks on threads of its own.

use tokio::task::spawn_blocking;

/// Does the work on a thread that may block, so that the runtime's few threads stay free. On a large machine, reading
/// `/proc` takes long.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going away, and with it whoever waits here.
            Err(_) => std::future::pending().await,
        },
    }
}
