//! Work that blocks, away from the few threads that drive everything else.

use tokio::task::spawn_blocking;

/// Does the work on a thread that may block. Reading `/proc` does on a large machine, as long as a stop
/// waits for it.
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
