//! The agent's side of the socket during one yocto-check-layer run: accepts callers, reads a query from each, and sends
//! the reply of the [`QueryHandler`].

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::{JoinHandle, JoinSet};

use agent_types::events::{Emitter, EventKind, Unit};

use super::bitbake_runner::BitbakeRunner;
use super::bucket_store::Published;
use super::cache::SignatureCache;
use super::protocol::{Reply, length_of};
use super::query_handler::QueryHandler;
use super::{Invocation, ProvenanceSummary, QueryPlan};

/// The tool makes one query after the other. More concurrent callers can only be layer code.
const MAX_CALLERS: usize = 4;

/// The longest query: some words and an environment. A BitBake with more than this is started by its caller.
const MAX_QUERY_BYTES: usize = 1 << 20;

/// The pauses between two tries to accept a caller while the kernel refuses, for want of file descriptors or
/// memory: they grow from the first to the second of these.
const ACCEPT_BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// A caller that sends or takes nothing for so long is hung up on.
const CALLER_TIMEOUT: Duration = Duration::from_secs(60);

/// Open during one run.
#[derive(Debug)]
pub struct CacheServer {
    serving: JoinHandle<()>,
    handler: Arc<QueryHandler>,
    cache: Arc<SignatureCache>,
    events: Emitter,
}

impl CacheServer {
    /// Serves the queries of one run. Without a `plan` nothing is prefetched.
    pub fn open(
        listener: UnixListener,
        cache: Arc<SignatureCache>,
        bitbake: BitbakeRunner,
        plan: Option<QueryPlan>,
        unit: &Unit,
        events: &Emitter,
    ) -> CacheServer {
        let handler = Arc::new(QueryHandler::new(cache.clone(), bitbake, plan, unit, events));
        let serving = tokio::spawn(serve(listener, cache.user(), handler.clone()));
        CacheServer { serving, handler, cache, events: events.clone() }
    }

    /// Ends every BitBake of this run, and starts nothing more.
    pub fn stop(&self) {
        self.handler.stop();
    }

    /// Ends every BitBake of this run and hangs up on all callers; what the answers of this run depended on.
    pub async fn close(mut self) -> ProvenanceSummary {
        self.stop();
        self.handler.build_dir_is_free().await;
        self.serving.abort();
        let _ = (&mut self.serving).await;
        let discarded = self.handler.close().await;
        self.cache.close().await;
        self.publish().await;
        ProvenanceSummary { discarded, ..self.cache.provenance() }
    }

    /// Publishes in a bucket what this run stored, and reports what was done there.
    async fn publish(&self) {
        // A job that has to stop has no time for it. The next one publishes what it finds.
        if self.handler.job_stops() {
            return;
        }
        let Published { traffic, trouble } = self.cache.publish().await;
        for (tier, traffic) in traffic {
            self.events.emit(EventKind::CacheTraffic { tier, traffic }).await;
        }
        for why in trouble {
            let message = format!("the signature cache of the share was not used in full: {why}");
            self.events
                .warn(message, Some("run `build-agent cache stats` to see whether the share answers".into()))
                .await;
        }
    }
}

impl Drop for CacheServer {
    fn drop(&mut self) {
        self.serving.abort();
        self.stop();
    }
}

/// Until it is aborted, and all callers with it.
async fn serve(listener: UnixListener, user: u32, handler: Arc<QueryHandler>) {
    let mut callers = JoinSet::new();
    loop {
        let (stream, _) = next_caller(|| listener.accept()).await;
        while callers.try_join_next().is_some() {}
        let known = stream.peer_cred().is_ok_and(|peer| peer.uid() == user);
        if known && callers.len() < MAX_CALLERS {
            callers.spawn(caller(stream, handler.clone()));
        } else if known {
            // One that hears nothing would take it for the end.
            callers.spawn(turn_away(stream));
        }
    }
}

async fn next_caller<T, F: Future<Output = io::Result<T>>>(mut accept: impl FnMut() -> F) -> T {
    let (mut pause, longest) = ACCEPT_BACKOFF;
    loop {
        if let Ok(caller) = accept().await {
            return caller;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(longest);
    }
}

async fn caller(stream: UnixStream, handler: Arc<QueryHandler>) {
    // A caller that makes no sense, or hangs up, gets no answer and runs the real BitBake.
    let _ = answer(stream, &handler).await;
}

async fn turn_away(mut stream: UnixStream) {
    let _ = tokio::time::timeout(CALLER_TIMEOUT, send(&mut stream, &Reply::Pass)).await;
}

async fn answer(mut stream: UnixStream, handler: &QueryHandler) -> io::Result<()> {
    let reply = match tokio::time::timeout(CALLER_TIMEOUT, receive_query(&mut stream)).await?? {
        Some(message) => {
            let invocation = Invocation::decode(&message)?;
            drop(message);
            // The shim ends when it hears nothing.
            let Some(reply) = handler.answer(invocation, hung_up(&mut stream)).await else { return Ok(()) };
            reply
        }
        None => Reply::Pass,
    };
    // Whoever does not take it must not hold it in memory for ever.
    tokio::time::timeout(CALLER_TIMEOUT, send(&mut stream, &reply)).await?
}

/// Until the other side closes the connection, or says something although it is not its turn.
async fn hung_up(stream: &mut UnixStream) {
    let _ = stream.read(&mut [0]).await;
}

async fn send(stream: &mut UnixStream, reply: &Reply) -> io::Result<()> {
    let message = reply.encode();
    stream.write_all(&length_of(&message)?).await?;
    stream.write_all(&message).await
}

/// A query; `None` when it is too long to be one. Memory grows with what comes and not with what is promised.
async fn receive_query(stream: &mut UnixStream) -> io::Result<Option<Vec<u8>>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    let length = u32::from_be_bytes(length) as usize;
    let mut from = stream.take(length as u64);
    let mut message = Vec::new();
    let received = if length <= MAX_QUERY_BYTES {
        from.read_to_end(&mut message).await?
    } else {
        // The caller hears the reply only when it has said all.
        tokio::io::copy(&mut from, &mut tokio::io::sink()).await? as usize
    };
    if received < length {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok((length <= MAX_QUERY_BYTES).then_some(message))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
#[path = "server_tests.rs"]
mod tests;
