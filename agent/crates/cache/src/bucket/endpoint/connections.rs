//! Bounds what clients can use up: connections, and the time of each.
//!
//! More clients than connections is normal (a machine with many processors); they wait in the kernel's queue. A client
//! that holds a connection without a request in progress loses it if another client waits. Otherwise it keeps it for a
//! long time.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::{Sleep, sleep};

use super::limits::Limits;

/// A connection that has waited for a request for this long can be closed in favour of another client.
const MIN_IDLE: Duration = Duration::from_secs(1);

/// The state of one connection.
#[derive(Debug)]
pub struct Slot {
    begun: Instant,
    /// The number of requests so far.
    requests: AtomicU64,
    /// Milliseconds from `begun` to the end of the last request; [`Slot::BUSY`] during a request.
    idle_since: AtomicU64,
}

impl Slot {
    const BUSY: u64 = u64::MAX;

    fn new() -> Slot {
        Slot { begun: Instant::now(), requests: AtomicU64::new(0), idle_since: AtomicU64::new(0) }
    }

    /// Begins a request. It ends when the result is dropped.
    pub fn request(self: &Arc<Slot>) -> Busy {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.idle_since.store(Slot::BUSY, Ordering::Relaxed);
        Busy(Arc::clone(self))
    }

    /// How long it has had no request; `None` during one.
    fn idle(&self) -> Option<Duration> {
        let since = self.idle_since.load(Ordering::Relaxed);
        (since != Slot::BUSY).then(|| self.begun.elapsed().saturating_sub(Duration::from_millis(since)))
    }
}

/// A request in progress.
#[derive(Debug)]
pub struct Busy(Arc<Slot>);

impl Drop for Busy {
    fn drop(&mut self) {
        let now = u64::try_from(self.0.begun.elapsed().as_millis()).unwrap_or(0);
        self.0.idle_since.store(now, Ordering::Relaxed);
    }
}

/// All open connections.
#[derive(Debug)]
pub struct Connections {
    limit: usize,
    open: Mutex<Open>,
    closed: Notify,
}

#[derive(Debug, Default)]
struct Open {
    next: u64,
    connections: HashMap<u64, (Arc<Slot>, AbortHandle)>,
}

impl Connections {
    pub fn new(limit: usize) -> Arc<Connections> {
        Arc::new(Connections { limit, open: Mutex::default(), closed: Notify::new() })
    }

    /// Waits until there is room for one more.
    pub async fn room(&self) {
        while !self.make_room() {
            // Also looks again for connections that became idle.
            let _ = tokio::time::timeout(MIN_IDLE / 10, self.closed.notified()).await;
        }
    }

    /// Serves a connection in a task of its own.
    pub fn spawn<F>(self: &Arc<Connections>, serve: impl FnOnce(Arc<Slot>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let slot = Arc::new(Slot::new());
        let mut open = self.lock();
        let number = open.next;
        open.next += 1;
        let (served, closes) = (serve(Arc::clone(&slot)), Closes { all: Arc::clone(self), number });
        let task = tokio::spawn(async move {
            let _closes = closes;
            served.await;
        });
        open.connections.insert(number, (slot, task.abort_handle()));
    }

    pub fn close_all(&self) {
        let open = std::mem::take(&mut self.lock().connections);
        open.values().for_each(|(_, task)| task.abort());
    }

    /// Whether there is room, after the connection that was idle for the longest time was closed.
    fn make_room(&self) -> bool {
        let mut open = self.lock();
        if open.connections.len() < self.limit {
            return true;
        }
        let idle = open.connections.iter().filter_map(|(number, (slot, _))| Some((slot.idle()?, *number)));
        let Some((_, number)) = idle.max().filter(|(idle, _)| *idle >= MIN_IDLE) else { return false };
        let closed = open.connections.remove(&number);
        drop(open);
        if let Some((_, task)) = closed {
            task.abort();
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Removes a connection when its task ends, in whatever way.
struct Closes {
    all: Arc<Connections>,
    number: u64,
}

impl Drop for Closes {
    fn drop(&mut self) {
        self.all.lock().connections.remove(&self.number);
        self.all.closed.notify_one();
    }
}

/// A client's stream with time limits for headers and answers.
#[derive(Debug)]
pub struct TimedStream {
    stream: TcpStream,
    slot: Arc<Slot>,
    limits: Limits,
    /// The end of the time for a header, and the number of requests before it.
    header: Option<(u64, Pin<Box<Sleep>>)>,
    write: Option<Pin<Box<Sleep>>>,
}

impl TimedStream {
    pub fn new(stream: TcpStream, slot: Arc<Slot>, limits: Limits) -> TimedStream {
        TimedStream { stream, slot, limits, header: None, write: None }
    }

    /// The result of a write, or an error if the client has accepted nothing for too long.
    fn written<T>(&mut self, written: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.write = None;
            return written;
        }
        let limit = self.write.get_or_insert_with(|| Box::pin(sleep(self.limits.write)));
        limit.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for TimedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(context, buffer);
        let requests = this.slot.requests.load(Ordering::Relaxed);
        let in_header = this.slot.idle().is_some();
        if !in_header || this.header.as_ref().is_some_and(|(number, _)| *number != requests) {
            this.header = None;
        }
        if in_header && read.is_ready() && buffer.filled().len() > before && this.header.is_none() {
            this.header = Some((requests, Box::pin(sleep(this.limits.header))));
        }
        match &mut this.header {
            Some((_, limit)) if read.is_pending() => {
                limit.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
            }
            _ => read,
        }
    }
}

impl AsyncWrite for TimedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.written(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.written(flushed, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    const SHORT: Duration = Duration::from_millis(50);

    fn limits() -> Limits {
        Limits { header: SHORT, write: SHORT, ..Limits::default() }
    }

    #[tokio::test]
    async fn a_header_has_a_time_limit_and_an_idle_connection_has_none() {
        let (mut client, served) = pair().await;
        let mut served = TimedStream::new(served, Arc::new(Slot::new()), limits());
        let mut bytes = [0; 3];
        // Nothing yet: it waits longer than for a header.
        assert!(tokio::time::timeout(4 * SHORT, served.read(&mut bytes)).await.is_err());
        client.write_all(b"GET").await.unwrap();
        served.read_exact(&mut bytes).await.unwrap();
        let error = served.read(&mut bytes).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn after_a_request_the_next_header_has_its_own_time() {
        let (mut client, served) = pair().await;
        let slot = Arc::new(Slot::new());
        let mut served = TimedStream::new(served, Arc::clone(&slot), limits());
        client.write_all(b"1").await.unwrap();
        let mut byte = [0];
        served.read_exact(&mut byte).await.unwrap();
        drop(slot.request());
        assert!(
            tokio::time::timeout(4 * SHORT, served.read(&mut byte)).await.is_err(),
            "idle, not in a header"
        );
        client.write_all(b"2").await.unwrap();
        served.read_exact(&mut byte).await.unwrap();
        assert_eq!(served.read(&mut byte).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_loses_its_connection() {
        let (_client, served) = pair().await;
        let mut served = TimedStream::new(served, Arc::new(Slot::new()), limits());
        let content = vec![0; 64 << 20];
        let error = served.write_all(&content).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn only_idle_connections_make_room() {
        let all = Connections::new(2);
        let (busy, idle) = (Arc::new(Mutex::new(None)), Arc::new(Notify::new()));
        let (kept, ends) = (Arc::clone(&busy), Arc::clone(&idle));
        all.spawn(move |slot| async move {
            *kept.lock().unwrap() = Some(slot.request());
            std::future::pending().await
        });
        all.spawn(move |_slot| async move {
            // Tells when it is dropped.
            let _tells = Tells(ends);
            std::future::pending().await
        });
        while busy.lock().unwrap().is_none() {
            tokio::task::yield_now().await;
        }
        all.room().await;
        idle.notified().await;
        assert_eq!(all.lock().connections.len(), 1, "the one with a request stays");
        all.spawn(|slot| async move {
            let _busy = slot.request();
            std::future::pending().await
        });
        assert!(tokio::time::timeout(2 * MIN_IDLE, all.room()).await.is_err(), "both have requests");
        all.close_all();
        all.room().await;
    }

    struct Tells(Arc<Notify>);

    impl Drop for Tells {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
}
