//! Reads a serial port on the network, and connects again when the connection ends: a device that is off may have none.

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::board::console::Console;

/// Between two connections.
const PAUSE: Duration = Duration::from_millis(100);

/// For a connection.
const CONNECT: Duration = Duration::from_secs(10);

/// Reads until it is dropped.
pub async fn read<T>(host: &str, port: u16, is_rfc2217: bool, console: &Console) -> T {
    let mut buffer = vec![0; 64 << 10];
    loop {
        if let Ok(Ok(mut stream)) = tokio::time::timeout(CONNECT, TcpStream::connect((host, port))).await {
            let mut telnet = Telnet::default();
            while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                match is_rfc2217 {
                    true => console.feed(&telnet.strip(&buffer[..length])),
                    false => console.feed(&buffer[..length]),
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Takes the commands of the telnet protocol out of the bytes (RFC 854). The agent only listens, so it answers none.
#[derive(Default)]
struct Telnet {
    state: State,
}

#[derive(Clone, Copy, Default)]
enum State {
    #[default]
    Data,
    /// After 255.
    Command,
    /// After WILL, WON'T, DO or DON'T.
    Option,
    /// Between SB and SE.
    Negotiation,
    /// After 255 in a negotiation.
    NegotiationCommand,
}

const INTERPRET_AS_COMMAND: u8 = 255;
const NEGOTIATION: u8 = 250;
const END_OF_NEGOTIATION: u8 = 240;

impl Telnet {
    fn strip(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut data = Vec::with_capacity(bytes.len());
        for byte in bytes {
            self.state = match (self.state, *byte) {
                (State::Data, INTERPRET_AS_COMMAND) => State::Command,
                (State::Command, 251..=254) => State::Option,
                (State::Command, NEGOTIATION) => State::Negotiation,
                (State::Negotiation, INTERPRET_AS_COMMAND) => State::NegotiationCommand,
                (State::Negotiation, _) => State::Negotiation,
                (State::NegotiationCommand, END_OF_NEGOTIATION) => State::Data,
                (State::NegotiationCommand, _) => State::Negotiation,
                (State::Data, _) | (State::Command, INTERPRET_AS_COMMAND) => {
                    data.push(*byte);
                    State::Data
                }
                (State::Command | State::Option, _) => State::Data,
            };
        }
        data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_of_telnet_are_no_output() {
        let bytes = [
            b"a".as_slice(),
            &[255, 251, 44],
            b"b",
            &[255, 255],
            &[255, 250, 44, 1, 255, 255, 9, 255, 240],
            b"c",
            &[255, 241],
            b"d",
        ]
        .concat();
        for size in [1, 2, 3, 100] {
            let mut telnet = Telnet::default();
            let data: Vec<u8> = bytes.chunks(size).flat_map(|piece| telnet.strip(piece)).collect();
            assert_eq!(data, [b"ab".as_slice(), &[255], b"cd"].concat(), "by {size}");
        }
    }
}
