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

/// Bytes that are still to come.
struct Content {
    stream: BoxStream<'static, object_store::Result<Bytes>>,
    left: u64,
    limits: Limits,
    stall: Pin<Box<Sleep>>,
    end: Instant,
    tier: Arc<ReadTier>,
    target: Target,
    /// The size of the object, if this answer ends where the object ends.
    completes: Option<u64>,
    _permit: OwnedSemaphorePermit,
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
        tier: Arc<ReadTier>,
        target: Target,
        permit: OwnedSemaphorePermit,
        limits: Limits,
        busy: Busy,
    ) -> ReplyBody {
        let end = Instant::now() + limits.answer + Duration::from_secs(length / SLOWEST);
        let stall = Box::pin(sleep(limits.stall));
        let (left, _permit) = (length, permit);
        let content = Content { stream, left, limits, stall, end, tier, target, completes, _permit };
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
            Poll::Ready(Some(Err(error))) => {
                content.failed(error);
                self.content = None;
            }
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
            return Poll::Ready(Some(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "the client reads too slowly",
            ))));
        }
        loop {
            match self.stream.as_mut().poll_next(context) {
                Poll::Ready(Some(Ok(bytes))) if bytes.is_empty() => {}
                Poll::Ready(Some(Ok(mut bytes))) => {
                    self.stall.as_mut().reset(Instant::now() + self.limits.stall);
                    // A server may send more than it announced.
                    bytes.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
                    self.left -= bytes.len() as u64;
                    self.tier.bucket.objects.meter().read(bytes.len() as u64);
                    return Poll::Ready(Some(Ok(bytes)));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(io::Error::other(error)))),
                Poll::Ready(None) => {
                    let words = format!("it ended {} bytes early", self.left);
                    return Poll::Ready(Some(Err(io::Error::new(io::ErrorKind::UnexpectedEof, words))));
                }
                Poll::Pending => {
                    let stalled = || Some(Err(io::Error::new(io::ErrorKind::TimedOut, "no bytes came")));
                    return self.stall.as_mut().poll(context).map(|()| stalled());
                }
            }
        }
    }

    fn is_complete(&self) {
        if let Some(size) = self.completes {
            self.tier.served.complete(self.target.area, &self.target.name, size);
        }
    }

    fn failed(&self, error: &io::Error) {
        self.tier.failed(format!("{}: {error}", self.target.name));
    }
}
