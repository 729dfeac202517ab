//! The body of an answer: bytes of an object, straight from the bucket.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep};

use super::connections::Busy;
use super::limits::Limits;
use super::target::Target;
use super::tier::ReadTier;

/// Bytes per second that every client can read.
const SLOWEST: u64 = 64 << 10;

/// The body of an answer. The request ends when it is dropped.
pub struct ReplyBody {
    content: Option<Content>,
    _busy: Busy,
}

/// Where the bytes come from.
pub struct Source {
    pub tier: Arc<ReadTier>,
    pub target: Target,
    /// Limits how many objects are downloaded in parallel.
    pub _permit: OwnedSemaphorePermit,
    pub limits: Limits,
}

/// Bytes that are still to come.
struct Content {
    stream: BoxStream<'static, object_store::Result<Bytes>>,
    left: u64,
    source: Source,
    /// Whether the last poll of the stream returned no bytes. `stall` is the deadline for the next ones.
    waits: bool,
    stall: Pin<Box<Sleep>>,
    end: Instant,
    /// The size of the object, if this answer ends where the object ends.
    completes: Option<u64>,
}

impl ReplyBody {
    pub fn empty(busy: Busy) -> ReplyBody {
        ReplyBody { content: None, _busy: busy }
    }

    /// Sends `length` bytes of the stream. `completes`: the size of the object, if they are its last bytes.
    pub fn stream(
        stream: BoxStream<'static, object_store::Result<Bytes>>,
        length: u64,
        completes: Option<u64>,
        source: Source,
        busy: Busy,
    ) -> ReplyBody {
        let end = Instant::now() + source.limits.answer + Duration::from_secs(length / SLOWEST);
        let stall = Box::pin(sleep(source.limits.stall));
        let content = Content { stream, left: length, source, waits: false, stall, end, completes };
        ReplyBody { content: Some(content), _busy: busy }
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = io::Error;

    /// An error resets the connection, so that a client never takes a part for the whole.
    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        let Some(content) = &mut self.content else { return Poll::Ready(None) };
        let polled = content.poll(context);
        match &polled {
            Poll::Ready(Some(Ok(_))) if content.left > 0 => {}
            Poll::Ready(Some(Ok(_)) | None) => {
                content.is_complete();
                self.content = None;
            }
            Poll::Ready(Some(Err(_))) => self.content = None,
            Poll::Pending => {}
        }
        polled.map_ok(Frame::data)
    }

    fn is_end_stream(&self) -> bool {
        self.content.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.content.as_ref().map_or(0, |content| content.left))
    }
}

impl Content {
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        if Instant::now() > self.end {
            // The client's fault, not the bucket's.
            let error = io::Error::new(io::ErrorKind::TimedOut, "the client reads too slowly");
            return Poll::Ready(Some(Err(error)));
        }
        let answer = loop {
            match self.stream.as_mut().poll_next(context) {
                Poll::Ready(Some(Ok(bytes))) if bytes.is_empty() => {}
                Poll::Ready(answer) => break answer,
                Poll::Pending => {
                    // Only the time in which the client waits for the bucket counts.
                    if !std::mem::replace(&mut self.waits, true) {
                        self.stall.as_mut().reset(Instant::now() + self.source.limits.stall);
                    }
                    let stalled = self.stall.as_mut().poll(context);
                    return stalled.map(|()| Some(Err(self.failed("it sent no more bytes"))));
                }
            }
        };
        self.waits = false;
        Poll::Ready(Some(match answer {
            Some(Ok(mut bytes)) => {
                // A server may send more than it announced.
                bytes.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= bytes.len() as u64;
                self.source.tier.bucket.objects.meter().read(bytes.len() as u64);
                Ok(bytes)
            }
            Some(Err(error)) => Err(self.failed(&error.to_string())),
            None => Err(self.failed(&format!("it ended {} bytes early", self.left))),
        }))
    }

    fn is_complete(&self) {
        if let Some(size) = self.completes {
            let Source { tier, target, .. } = &self.source;
            tier.served.complete(target.area, &target.name, size);
        }
    }

    /// The bucket did not send all bytes.
    fn failed(&self, why: &str) -> io::Error {
        let Source { tier, target, .. } = &self.source;
        tier.failed(format!("{}: {why}", target.name));
        io::Error::other(why.to_owned())
    }
}
