//! The loopback endpoint: an HTTP server of the agent from which BitBake reads a share in a bucket.
//!
//! BitBake has no credentials and needs none: the agent asks the bucket. Whoever runs on this machine can speak to the
//! endpoint while the job runs, layer code above all. So it only reads, serves exactly the objects that BitBake may
//! use (see [`target`]), and only the tiers that this job reads. It verifies nothing that BitBake verifies itself.
//! Every failure is an answer that makes BitBake build or download by itself.

mod body;
mod breaker;
mod connections;
mod limits;
mod range;
mod served;
mod service;
mod target;
mod tier;

use std::convert::Infallible;
use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::resource::{Resource, getrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::BucketTiers;
use super::index::{self, Filling, Index};
use connections::{Connections, Slot, TimedStream};
use limits::Limits;
use service::Service;

pub use served::{Served, Totals};
pub use target::Area;
pub use tier::ReadTier;

/// The default port. It is below the range from which Linux takes ports for outgoing connections.
pub const PORT: u16 = 28463;

/// Ports that are tried, from the wanted one on, if others use them.
pub const PORTS: u16 = 8;

/// Maximum number of open connections. Each needs up to two of the agent's file descriptors.
const CONNECTIONS: u64 = 512;

const MAX_HEADERS: usize = 64;
const MAX_HEADER_BYTES: usize = 16 << 10;

/// A running endpoint. It ends when it is dropped.
#[derive(Debug)]
pub struct Endpoint {
    port: u16,
    service: Arc<Service>,
    connections: Arc<Connections>,
    accepting: JoinHandle<()>,
    _filling: Vec<Filling>,
}

/// Binds the wanted port on the loopback address, or the next free one of [`PORTS`].
///
/// # Errors
/// If all of them are used.
pub async fn bind(wanted: u16) -> io::Result<(TcpListener, u16)> {
    let mut refused = io::Error::from(io::ErrorKind::AddrInUse);
    for port in (0..PORTS).filter_map(|more| wanted.checked_add(more)) {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
            Ok(listener) => {
                let port = listener.local_addr()?.port();
                return Ok((listener, port));
            }
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

impl Endpoint {
    /// Serves the tiers that are read, and starts to fill their indexes.
    pub fn start(bound: (TcpListener, u16), tiers: &BucketTiers, release: &str) -> Endpoint {
        Endpoint::with_limits(bound, tiers, release, Limits::default())
    }

    fn with_limits(
        (listener, port): (TcpListener, u16),
        tiers: &BucketTiers,
        release: &str,
        limits: Limits,
    ) -> Endpoint {
        let indexes: Vec<_> =
            tiers.read.iter().map(|tier| Arc::new(Index::new(tier.clone(), release))).collect();
        let writes = |index: &Index| tiers.write.as_ref().is_some_and(|write| write.kind == index.kind());
        let fill = |index: &Arc<Index>| index::fill_in_background(index, index::MAX_AGE, writes(index));
        let filling = indexes.iter().map(fill).collect();
        let read = tiers.read.iter().zip(indexes);
        let tiers = read.map(|(tier, index)| Arc::new(ReadTier::new(tier.clone(), index))).collect();
        let service = Arc::new(Service::new(tiers, release, port, limits));
        let open_files = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
        let limit = usize::try_from((open_files / 4).clamp(16, CONNECTIONS)).unwrap_or(16);
        let connections = Connections::new(limit);
        let accepting =
            tokio::spawn(accept(listener, Arc::clone(&service), Arc::clone(&connections), limits));
        Endpoint { port, service, connections, accepting, _filling: filling }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The tiers with their indexes and what was served of them, in lookup order.
    pub fn tiers(&self) -> &[Arc<ReadTier>] {
        &self.service.tiers
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.accepting.abort();
        self.connections.close_all();
    }
}

async fn accept(listener: TcpListener, service: Arc<Service>, connections: Arc<Connections>, limits: Limits) {
    loop {
        connections.room().await;
        match listener.accept().await {
            Ok((stream, _)) => {
                let service = Arc::clone(&service);
                connections.spawn(|slot| serve(stream, slot, service, limits));
            }
            // The client is gone, or the agent has no file descriptor left.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// Serves one connection to its end. Its errors are the client's.
async fn serve(stream: TcpStream, slot: Arc<Slot>, service: Arc<Service>, limits: Limits) {
    let _ = stream.set_nodelay(true);
    let stream = TokioIo::new(TimedStream::new(stream, Arc::clone(&slot), limits));
    let answer = service_fn(move |request| {
        let (service, busy) = (Arc::clone(&service), slot.request());
        async move { Ok::<_, Infallible>(service.answer(&request, busy).await) }
    });
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.idle)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEADER_BYTES)
        .serve_connection(stream, answer)
        .await;
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
