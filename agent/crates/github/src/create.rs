//! Creates something at GitHub exactly once, although a failed request may have created it.

use std::pin::Pin;
use std::time::Duration;

use super::client::Client;
use super::failure::{Failure, Result};

/// Lookups and repetitions before it is given up.
const TRIES: u32 = 4;

/// GitHub shows a new object after a moment.
const SETTLE: Duration = Duration::from_secs(1);

/// A request in progress.
pub type Sent<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// Sends a request that creates something. If it is not clear whether it did, looks for it before the request is sent
/// again.
pub async fn create<'a, T>(
    client: &Client,
    send: impl Fn() -> Sent<'a, T> + Send + Sync,
    look_up: impl Fn() -> Sent<'a, Option<T>> + Send + Sync,
) -> Result<T> {
    let mut tries = 0;
    loop {
        match send().await {
            Err(Failure::Unclear(why)) if tries < TRIES => {
                tries += 1;
                client.pause(SETTLE, &why).await?;
                if let Some(known) = look_up().await? {
                    return Ok(known);
                }
            }
            ended => return ended,
        }
    }
}
