//! `build-agent publish` to a bucket whose connections break: a small S3 server on loopback resets them before or
//! after it executes a request.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Output;
use std::sync::{Arc, Mutex};

use nix::sys::socket::{setsockopt, sockopt};

/// The fault of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    No,
    /// The connection is reset, and the request is not executed.
    Before,
    /// The request is executed, and the connection is reset instead of a reply.
    After,
    /// The object of another writer replaces it.
    Taken,
}

struct Request {
    method: String,
    /// Percent-encoded, without the bucket.
    key: String,
    query: String,
    only_new: bool,
    body: Vec<u8>,
}

#[derive(Default)]
struct Bucket {
    objects: BTreeMap<String, (u64, Vec<u8>)>,
    uploads: BTreeMap<String, BTreeMap<u32, Vec<u8>>>,
    requests: u64,
}

type Judge = Box<dyn FnMut(u64, &Request) -> Fault + Send>;

/// The server; it ends with the process.
struct Server {
    port: u16,
    bucket: Arc<Mutex<Bucket>>,
    judge: Arc<Mutex<Judge>>,
}

impl Server {
    fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let bucket = Arc::new(Mutex::new(Bucket::default()));
        let judge: Arc<Mutex<Judge>> = Arc::new(Mutex::new(Box::new(|_, _| Fault::No)));
        let shared = (bucket.clone(), judge.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (bucket, judge) = shared.clone();
                std::thread::spawn(move || serve(stream.unwrap(), &bucket, &judge));
            }
        });
        Server { port, bucket, judge }
    }

    /// Sets the faults from now on; counts requests from 0.
    fn faults(&self, judge: impl FnMut(u64, &Request) -> Fault + Send + 'static) {
        self.bucket.lock().unwrap().requests = 0;
        *self.judge.lock().unwrap() = Box::new(judge);
    }

    fn publish(&self, tree: &Path, prefix: &str) -> Output {
        let mut command = build_agent_tests::agent();
        command.env("AWS_ENDPOINT_URL_S3", format!("http://127.0.0.1:{}", self.port));
        command.envs([
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "AKIATEST"),
            ("AWS_SECRET_ACCESS_KEY", "secret-of-tests"),
        ]);
        command.arg("publish").arg(tree).arg(format!("s3://bucket/{prefix}")).output().unwrap()
    }

    fn object(&self, key: &str) -> Option<Vec<u8>> {
        self.bucket.lock().unwrap().objects.get(key).map(|(_, content)| content.clone())
    }

    fn requests(&self) -> u64 {
        self.bucket.lock().unwrap().requests
    }

    /// Fails unless every file of the tree is stored once and listed in the index.
    #[track_caller]
    fn assert_published(&self, tree: &Path, prefix: &str) {
        let index = self.object(&format!("{prefix}/index.json")).expect("an index");
        let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
        let objects = index["objects"].as_array().unwrap();
        let files: Vec<_> = std::fs::read_dir(tree).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(objects.len(), files.len());
        for file in files {
            let name = file.file_name().unwrap().to_str().unwrap();
            let there = self.object(&format!("{prefix}/{name}"));
            assert!(there == Some(std::fs::read(&file).unwrap()), "{name} differs");
        }
        assert!(self.bucket.lock().unwrap().uploads.is_empty(), "a multipart upload was left behind");
    }
}

fn serve(stream: TcpStream, bucket: &Mutex<Bucket>, judge: &Mutex<Judge>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut stream = stream;
    while let Some(request) = read_request(&mut reader) {
        let number = {
            let mut bucket = bucket.lock().unwrap();
            bucket.requests += 1;
            bucket.requests - 1
        };
        let fault = (judge.lock().unwrap())(number, &request);
        if fault == Fault::Taken {
            bucket.lock().unwrap().objects.insert(request.key.clone(), (number, b"somebody else's".into()));
        }
        let answer = match fault {
            Fault::No | Fault::After => Some(bucket.lock().unwrap().answer(&request, number)),
            Fault::Before | Fault::Taken => None,
        };
        match answer.filter(|_| fault == Fault::No) {
            Some(answer) => stream.write_all(&answer).unwrap(),
            None => {
                // If the socket is closed without a delay, the kernel sends a reset.
                let now = nix::libc::linger { l_onoff: 1, l_linger: 0 };
                setsockopt(&stream, sockopt::Linger, &now).unwrap();
                return;
            }
        }
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (mut length, mut only_new) = (0, false);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok().filter(|length| *length > 0)?;
        let header = header.trim().to_ascii_lowercase();
        match header.split_once(':') {
            None => break,
            Some(("content-length", value)) => length = value.trim().parse().unwrap(),
            Some(("if-none-match", _)) => only_new = true,
            Some(_) => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let key = path.strip_prefix("/bucket/").unwrap_or_default().to_owned();
    Some(Request { method, key, query: query.to_owned(), only_new, body })
}

impl Bucket {
    fn answer(&mut self, request: &Request, number: u64) -> Vec<u8> {
        let parameter = |name: &str| {
            let mut all = request.query.split('&').map(|one| one.split_once('=').unwrap_or((one, "")));
            all.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
        };
        let id = parameter("uploadId");
        let key = request.key.clone();
        match (request.method.as_str(), id) {
            ("HEAD" | "GET", _) => match self.objects.get(&key) {
                Some((tag, content)) => answer(200, *tag, content, request.method == "HEAD"),
                None => error(404, "NoSuchKey", request.method == "HEAD"),
            },
            ("PUT", Some(id)) => match self.uploads.get_mut(&id) {
                Some(parts) => {
                    let part = parameter("partNumber").unwrap().parse().unwrap();
                    parts.insert(part, request.body.clone());
                    answer(200, number, b"", false)
                }
                None => error(404, "NoSuchUpload", false),
            },
            ("PUT", None) if request.only_new && self.objects.contains_key(&key) => {
                error(412, "PreconditionFailed", false)
            }
            ("PUT", None) => {
                self.objects.insert(key, (number, request.body.clone()));
                answer(200, number, b"", false)
            }
            ("POST", None) => {
                self.uploads.insert(format!("upload-{number}"), BTreeMap::new());
                let xml = format!(
                    "<InitiateMultipartUploadResult><UploadId>upload-{number}</UploadId>\
                     </InitiateMultipartUploadResult>"
                );
                answer(200, number, xml.as_bytes(), false)
            }
            ("POST", Some(id)) => match self.uploads.remove(&id) {
                Some(parts) => {
                    self.objects.insert(key, (number, parts.into_values().flatten().collect()));
                    let xml = format!(
                        "<CompleteMultipartUploadResult><ETag>\"{number}\"</ETag>\
                         </CompleteMultipartUploadResult>"
                    );
                    answer(200, number, xml.as_bytes(), false)
                }
                None => error(404, "NoSuchUpload", false),
            },
            ("DELETE", Some(id)) => {
                self.uploads.remove(&id);
                answer(204, number, b"", false)
            }
            _ => error(400, "InvalidRequest", false),
        }
    }
}

fn answer(status: u16, tag: u64, body: &[u8], head_only: bool) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status} Said\r\nContent-Length: {}\r\nETag: \"{tag}\"\r\n\
         Last-Modified: Fri, 02 Jan 2026 03:04:05 GMT\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), if head_only { b"" } else { body }].concat()
}

fn error(status: u16, code: &str, head_only: bool) -> Vec<u8> {
    let body = format!("<Error><Code>{code}</Code></Error>");
    answer(status, 0, body.as_bytes(), head_only)
}

/// Files of these sizes, all different.
fn tree(sizes: impl IntoIterator<Item = usize>) -> tempfile::TempDir {
    let tree = tempfile::tempdir().unwrap();
    for (n, size) in sizes.into_iter().enumerate() {
        let content: Vec<u8> = (0..size).map(|at| (at.wrapping_mul(31) ^ at >> 8 ^ n) as u8).collect();
        std::fs::write(tree.path().join(format!("file-{n:03}")), content).unwrap();
    }
    tree
}

#[track_caller]
fn ended(output: &Output, status: i32) {
    let output_text = [&output.stdout[..], &output.stderr].concat();
    assert_eq!(output.status.code(), Some(status), "{}", String::from_utf8_lossy(&output_text));
}

#[test]
fn a_reset_of_the_indexs_write_loses_nothing() {
    let server = Server::start();
    let tree = tree([100, 0, 7]);
    for (prefix, fault) in [("before", Fault::Before), ("after", Fault::After)] {
        let mut first = true;
        server.faults(move |_, request| {
            let is_index = request.method == "PUT" && request.key.ends_with("/index.json");
            if is_index && std::mem::take(&mut first) { fault } else { Fault::No }
        });
        ended(&server.publish(tree.path(), prefix), 0);
        server.assert_published(tree.path(), prefix);
    }
    // Published objects are still never overwritten.
    server.faults(|_, request| {
        let is_index = request.method == "PUT" && request.key.ends_with("/index.json");
        if is_index { Fault::Taken } else { Fault::No }
    });
    ended(&server.publish(tree.path(), "taken"), 2);
    assert_eq!(server.object("taken/index.json").unwrap(), b"somebody else's");
}

/// Each request of a publication in turn, including those of a multipart upload.
#[test]
fn a_reset_of_any_one_request_loses_nothing() {
    let server = Server::start();
    let tree = tree([100, 17 << 20]);
    server.faults(|_, _| Fault::No);
    ended(&server.publish(tree.path(), "calm"), 0);
    server.assert_published(tree.path(), "calm");
    let requests = server.requests();
    assert!(requests >= 8, "{requests}");
    for fault in [Fault::Before, Fault::After] {
        for faulty in 0..requests {
            let prefix = format!("{fault:?}-{faulty}");
            server.faults(move |number, _| if number == faulty { fault } else { Fault::No });
            ended(&server.publish(tree.path(), &prefix), 0);
            // A multipart upload whose reply is lost is started again; the bucket removes the first one itself.
            server.bucket.lock().unwrap().uploads.clear();
            server.assert_published(tree.path(), &prefix);
        }
    }
}

#[test]
fn one_fault_in_five_loses_nothing() {
    let server = Server::start();
    let tree = tree((0..200).map(|n| n * 37));
    let mut state = 20_u64;
    server.faults(move |_, _| {
        // Knuth's generator: the same faults each time.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        match (state >> 33) % 10 {
            0 => Fault::Before,
            1 => Fault::After,
            _ => Fault::No,
        }
    });
    ended(&server.publish(tree.path(), "storm"), 0);
    server.assert_published(tree.path(), "storm");
    assert!(server.requests() > 220, "{} requests: there were no faults", server.requests());
}
