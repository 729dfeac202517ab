//! Servers of `tests/stand-ins` that are Python programs: they read `config.json` in a directory, and write their `port` there.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::repository;

/// A running server.
pub struct StandIn {
    pub child: Child,
    pub port: u16,
}

impl StandIn {
    /// Starts `tests/stand-ins/NAME/server.py` in a directory. `more` adds to the configuration.
    pub fn start(python: PathBuf, name: &str, directory: &Path, mut config: Value, more: &Value) -> StandIn {
        let added = more.as_object().expect("an object").clone();
        config.as_object_mut().expect("an object").extend(added);
        std::fs::write(directory.join("config.json"), config.to_string()).expect("the configuration");
        let server = repository().join("tests/stand-ins").join(name).join("server.py");
        let child = Command::new(python).arg(server).arg(directory).spawn().expect("python3");
        let deadline = Instant::now() + Duration::from_secs(60);
        let port = loop {
            if let Ok(port) = std::fs::read_to_string(directory.join("port")) {
                break port.parse().expect("a port");
            }
            assert!(Instant::now() < deadline, "the stand-in of {name} does not start");
            std::thread::sleep(Duration::from_millis(20));
        };
        StandIn { child, port }
    }

    /// The body of the answer to a request.
    pub fn request(&self, method: &str, path: &str, body: &str) -> String {
        let (_, answer) = request(self.port, method, path, body.as_bytes()).expect("an answer");
        String::from_utf8(answer).expect("text")
    }
}

/// Status and body of a request to a server of this machine; `None` without an answer.
pub fn request(port: u16, method: &str, path: &str, content: &[u8]) -> Option<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    // HTTP 1.0: the body ends with the connection.
    let length = content.len();
    let head =
        format!("{method} {path} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {length}\r\n\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(content).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let head = answer.windows(4).position(|w| w == b"\r\n\r\n")?;
    let status = std::str::from_utf8(answer.get(9..12)?).ok()?.parse().ok()?;
    Some((status, answer.split_off(head + 4)))
}
