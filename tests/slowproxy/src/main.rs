//! `slowproxy SERVER-PORT DELAY-MS`: a proxy on a free port of 127.0.0.1, for a server on 127.0.0.1. Prints its port,
//! and ends with its standard input.
//!
//! Each byte of a client reaches the server the delay later. So each request takes this much longer, however large it
//! is, as on a network with this round-trip time; answers come back without a delay. A connection of a client is
//! accepted at once, as the server's would be one round trip later.

use std::process::ExitCode;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

/// Bytes of one read.
const PIECE: usize = 64 * 1024;

/// Maximum number of pieces on their way: more than a connection sends in 15 ms at 1 GB/s.
const ON_THE_WAY: usize = 256;

#[tokio::main]
async fn main() -> ExitCode {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let &[port, delay] = numbers.as_slice() else {
        eprintln!("usage: slowproxy SERVER-PORT DELAY-MS");
        return ExitCode::from(2);
    };
    match run(u16::try_from(port).unwrap_or(0), Duration::from_millis(delay)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("slowproxy: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(server: u16, delay: Duration) -> std::io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?.port());
    let mut end = Vec::new();
    let mut input = tokio::io::stdin();
    let ended = input.read_to_end(&mut end);
    tokio::pin!(ended);
    loop {
        tokio::select! {
            ended = &mut ended => return ended.map(|_| ()),
            accepted = listener.accept() => {
                let (client, _) = accepted?;
                tokio::spawn(connection(client, server, delay));
            }
        }
    }
}

async fn connection(client: TcpStream, server: u16, delay: Duration) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
    if client.set_nodelay(true).and_then(|()| server.set_nodelay(true)).is_err() {
        return;
    }
    let ((from_client, mut to_client), (mut from_server, to_server)) =
        (client.into_split(), server.into_split());
    let requests = tokio::spawn(delayed(from_client, to_server, delay));
    // Either side may end first.
    let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
    let _ = to_client.shutdown().await;
    requests.abort();
}

/// Forwards everything the delay later, in order.
async fn delayed(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay: Duration) {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(ON_THE_WAY);
    let writing = async move {
        while let Some((due, piece)) = receiver.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
        }
        let _ = to.shutdown().await;
    };
    let reading = async move {
        loop {
            let mut piece = Vec::with_capacity(PIECE);
            match from.read_buf(&mut piece).await {
                Ok(read) if read > 0 => {}
                _ => return,
            }
            if sender.send((Instant::now() + delay, piece)).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(reading, writing);
}
