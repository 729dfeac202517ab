#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Instant;

use bytes::Bytes;
use object_store::path::Path;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};

use faulty_bucket::{Fault, FaultyBucket};

use super::*;
use crate::bucket::BucketTier;
use agent_objects::Objects;
use agent_objects::retry::Retries;
use agent_types::bucket_share::BucketShare;
use agent_types::s3_address::S3Address;
use agent_types::tiers::{TierKind, TieredShare};

mod faulty_bucket;

const RELEASE: &str = "scarthgap";

const OBJECT: &str = "sstate/scarthgap/ab/12/sstate:zlib:x:1.3:r0:x:12:\
                      ab12000000000000000000000000000000000000000000000000000000000000_compile.tar.zst";

/// An endpoint and the bucket behind it.
struct Bench {
    store: Arc<FaultyBucket>,
    endpoint: Endpoint,
}

impl Bench {
    /// With objects below the share's prefix.
    async fn new(objects: &[(&str, &[u8])], pull_request: bool) -> Bench {
        Bench::with_limits(objects, pull_request, Limits::default()).await
    }

    async fn with_limits(objects: &[(&str, &[u8])], pull_request: bool, limits: Limits) -> Bench {
        let store = Arc::new(FaultyBucket::default());
        let share = BucketShare::new(S3Address::parse("s3://bucket/prefix").unwrap());
        let open = || Objects::new(Arc::clone(&store) as _, Retries::within(Duration::ZERO));
        for (key, content) in objects {
            let key = Path::parse(share.key(key)).unwrap();
            open().replace(&key, Bytes::copy_from_slice(content)).await.unwrap();
        }
        let shared = BucketTier { kind: TierKind::Shared, share: share.clone(), objects: open() };
        let own =
            || BucketTier { kind: TierKind::PullRequest, share: share.pull_request(7), objects: open() };
        let read = pull_request.then(own).into_iter().chain([shared]).collect();
        let tiers = BucketTiers { read, write: None };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let endpoint = Endpoint::with_limits((listener, port), &tiers, RELEASE, limits);
        for tier in endpoint.tiers() {
            assert!(tier.index.ready(Duration::from_secs(30)).await);
        }
        Bench { store, endpoint }
    }

    fn fault(&self, fault: Fault) {
        self.store.set_fault(fault);
    }

    fn gets(&self) -> u64 {
        self.store.gets()
    }

    fn tier(&self, kind: TierKind) -> &ReadTier {
        self.endpoint.tiers().iter().find(|tier| tier.bucket.kind == kind).unwrap()
    }

    fn totals(&self) -> (u64, u64) {
        let totals = self.tier(TierKind::Shared).served.totals();
        (totals.objects, totals.bytes)
    }

    async fn connect(&self) -> Client {
        let stream = TcpStream::connect(("127.0.0.1", self.endpoint.port())).await.unwrap();
        Client { stream: BufReader::new(stream), port: self.endpoint.port() }
    }

    /// Requests an object; `None`, if the connection breaks before the end. The bytes before that do not matter: wget
    /// continues after them.
    async fn whole(&self, path: &str) -> Option<(u16, Vec<u8>)> {
        let reply = self.connect().await.ask("GET", path, "").await.ok()?;
        Some((reply.status, reply.body?))
    }

    /// One request on a connection of its own; status and body.
    async fn ask(&self, method: &str, path: &str, headers: &str) -> (u16, Vec<u8>) {
        let reply = self.connect().await.ask(method, path, headers).await.unwrap();
        (reply.status, reply.body.unwrap_or_default())
    }
}

/// A simple client, independent of the server's library.
struct Client {
    stream: BufReader<TcpStream>,
    port: u16,
}

struct Reply {
    status: u16,
    headers: String,
    /// `None`: the connection broke before the announced length.
    body: Option<Vec<u8>>,
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        let is_it = |line: &&str| line.to_ascii_lowercase().starts_with(&format!("{name}: "));
        self.headers.lines().find(is_it).map(|line| line[name.len() + 2..].trim())
    }
}

impl Client {
    async fn ask(&mut self, method: &str, path: &str, headers: &str) -> std::io::Result<Reply> {
        let text = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n{headers}\r\n", self.port);
        self.stream.write_all(text.as_bytes()).await?;
        self.reply(method == "HEAD").await
    }

    async fn reply(&mut self, is_head: bool) -> std::io::Result<Reply> {
        let mut headers = Vec::new();
        while !headers.ends_with(b"\r\n\r\n") {
            headers.push(self.stream.read_u8().await?);
        }
        let headers = String::from_utf8(headers).unwrap();
        let status = headers.split(' ').nth(1).unwrap().parse().unwrap();
        let mut reply = Reply { status, headers, body: None };
        let length = reply.header("content-length").expect("a length").parse().unwrap();
        let mut body = vec![0; if is_head { 0 } else { length }];
        reply.body = self.stream.read_exact(&mut body).await.is_ok().then_some(body);
        Ok(reply)
    }
}

const CONTENT: &[u8] = b"0123456789";

async fn bench() -> Bench {
    Bench::new(&[(OBJECT, CONTENT), ("downloads/a+b.tar.gz", b"archive")], false).await
}

fn shared(key: &str) -> String {
    format!("/shared/{}", key.replace(':', "%3A").replace('+', "%2B"))
}

#[tokio::test(flavor = "multi_thread")]
async fn serves_objects_to_head_get_and_ranges_on_one_connection() {
    let bench = bench().await;
    let mut client = bench.connect().await;
    let reply = client.ask("HEAD", &shared(OBJECT), "").await.unwrap();
    assert_eq!((reply.status, reply.header("content-length")), (200, Some("10")));
    assert_eq!(bench.totals(), (0, 0));
    for (headers, status, body, range) in [
        ("Range: bytes=3-4\r\n", 206, &b"34"[..], Some("bytes 3-4/10")),
        ("Range: bytes=-1\r\n", 206, b"9", Some("bytes 9-9/10")),
        ("Range: bytes=10-\r\n", 416, b"", Some("bytes */10")),
        ("Range: bytes=0-1,3-4\r\n", 200, CONTENT, None),
        ("Range: bytes=3-4\r\nIf-Range: \"x\"\r\n", 200, CONTENT, None),
        ("", 200, CONTENT, None),
    ] {
        let reply = client.ask("GET", &shared(OBJECT), headers).await.unwrap();
        assert_eq!((reply.status, reply.header("content-range")), (status, range), "{headers}");
        assert_eq!(reply.body.unwrap(), body, "{headers}");
    }
    assert_eq!(bench.totals(), (1, 10), "one object, however often it is read");

    let reply = client.ask("HEAD", &shared("downloads/a+b.tar.gz"), "").await.unwrap();
    assert_eq!((reply.status, reply.header("content-length")), (200, Some("7")));
    let reply = client.ask("GET", &shared("downloads/a+b.tar.gz"), "").await.unwrap();
    assert_eq!((reply.status, reply.body.unwrap()), (200, b"archive".to_vec()));
    for path in ["downloads/other.tar.gz", &OBJECT.replace("compile", "install"), "leases/x"] {
        for method in ["GET", "HEAD"] {
            assert_eq!(client.ask(method, &shared(path), "").await.unwrap().status, 404, "{path}");
        }
    }
    let (served, name) =
        (&bench.tier(TierKind::Shared).served, OBJECT.strip_prefix("sstate/scarthgap/").unwrap());
    assert!(served.contains(Area::Sstate, name) && served.contains(Area::Downloads, "a+b.tar.gz"));
    assert_eq!(served.names().len(), 2);
    assert_eq!(served.totals(), Totals { objects: 2, bytes: 17, failures: 0 });
}

#[tokio::test(flavor = "multi_thread")]
async fn existence_costs_no_request_and_missing_objects_neither() {
    let bench = bench().await;
    let meter = bench.tier(TierKind::Shared).bucket.objects.meter();
    let before = meter.so_far();
    let mut client = bench.connect().await;
    for _ in 0..100 {
        assert_eq!(client.ask("HEAD", &shared(OBJECT), "").await.unwrap().status, 200);
        let missing = shared(&OBJECT.replace("_compile", "_install"));
        assert_eq!(client.ask("HEAD", &missing, "").await.unwrap().status, 404);
        assert_eq!(client.ask("GET", &missing, "").await.unwrap().status, 404);
    }
    assert_eq!(meter.so_far(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pruned_object_is_missing_from_then_on() {
    let bench = bench().await;
    let key = Path::parse(format!("prefix/{OBJECT}")).unwrap();
    object_store::ObjectStoreExt::delete(&bench.store.memory, &key).await.unwrap();
    assert_eq!(bench.ask("HEAD", &shared(OBJECT), "").await.0, 200, "the index has it");
    assert_eq!(bench.ask("GET", &shared(OBJECT), "").await.0, 404);
    assert_eq!(bench.ask("HEAD", &shared(OBJECT), "").await.0, 404);
    assert_eq!(bench.tier(TierKind::Shared).served.totals(), Totals::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_tiers_of_the_job_exist_and_are_kept_apart() {
    let own = format!("pr/7/{OBJECT}");
    let objects = [(OBJECT, CONTENT), (own.as_str(), b"own"), ("pr/8/downloads/x.tar.gz", b"other")];
    for with_pull_request in [false, true] {
        let bench = Bench::new(&objects, with_pull_request).await;
        assert_eq!(bench.ask("GET", &shared(OBJECT), "").await, (200, CONTENT.to_vec()));
        let (status, body) = bench.ask("GET", &format!("/pull-request/{OBJECT}"), "").await;
        let wanted = if with_pull_request { (200, b"own".to_vec()) } else { (404, Vec::new()) };
        assert_eq!((status, body), wanted);
        for path in ["/pull-request/downloads/x.tar.gz", "/pull-request/../8/downloads/x.tar.gz"] {
            assert_eq!(bench.ask("GET", path, "").await.0, 404, "{path}");
        }
        if with_pull_request {
            assert_eq!(bench.tier(TierKind::PullRequest).served.totals().bytes, 3);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_else_is_refused() {
    let secrets: &[(&str, &[u8])] =
        &[(OBJECT, CONTENT), ("leases/x", b"secret"), ("index/scarthgap/x", b"secret"), ("x", b"secret")];
    let bench = Bench::new(secrets, false).await;
    let port = bench.endpoint.port();
    let path = shared(OBJECT);
    let ours = format!("Host: 127.0.0.1:{port}\r\n");
    for (request, status) in [
        (format!("POST {path} HTTP/1.1\r\n{ours}Content-Length: 5\r\n\r\nhello"), 405),
        (format!("PUT {path} HTTP/1.1\r\n{ours}Content-Length: 99999999999\r\n\r\n"), 405),
        (format!("DELETE {path} HTTP/1.1\r\n{ours}\r\n"), 405),
        (format!("OPTIONS * HTTP/1.1\r\n{ours}\r\n"), 405),
        (format!("CONNECT elsewhere:443 HTTP/1.1\r\n{ours}\r\n"), 405),
        (format!("NOTHING {path} HTTP/1.1\r\n{ours}\r\n"), 405),
        (format!("GET http://127.0.0.1:{port}{path} HTTP/1.1\r\n{ours}\r\n"), 404),
        (format!("GET http://169.254.169.254/latest HTTP/1.1\r\n{ours}\r\n"), 404),
        (format!("GET {path}?x=1 HTTP/1.1\r\n{ours}\r\n"), 404),
        (format!("GET {path} HTTP/1.1\r\nHost: evil.example:{port}\r\n\r\n"), 404),
        (format!("GET {path} HTTP/1.1\r\n\r\n"), 404),
        (format!("GET /shared/leases/x HTTP/1.1\r\n{ours}\r\n"), 404),
        (format!("GET /shared/downloads/../leases/x HTTP/1.1\r\n{ours}\r\n"), 404),
        (format!("GET /shared/downloads/%2e%2e/leases/x HTTP/1.1\r\n{ours}\r\n"), 404),
        (format!("GET /shared/downloads/..%2fleases%2fx HTTP/1.1\r\n{ours}\r\n"), 404),
        (format!("GET //shared/downloads/x HTTP/1.1\r\n{ours}\r\n"), 404),
        (format!("GET /shared//x HTTP/1.1\r\n{ours}\r\n"), 404),
        (format!("GET /shared/downloads/%00 HTTP/1.1\r\n{ours}\r\n"), 404),
        (format!("GET {path} HTTP/9.9\r\n{ours}\r\n"), 400),
        ("GET / \r\n\r\n".into(), 400),
        (format!("GET {path} HTTP/1.1\r\n{ours}X: {}\r\n\r\n", "x".repeat(100_000)), 431),
        (format!("GET {path} HTTP/1.1\r\n{ours}{}\r\n", "X: y\r\n".repeat(200)), 431),
        (format!("GET /{} HTTP/1.1\r\n{ours}\r\n", "x/".repeat(50_000)), 431),
    ] {
        let mut client = bench.connect().await;
        // The server may answer and close before all was sent.
        let _ = client.stream.write_all(request.as_bytes()).await;
        let start: String = request.chars().take(100).collect();
        match client.reply(false).await {
            Ok(reply) => {
                assert!(
                    reply.status == status || status == 431 && reply.status >= 400,
                    "{} {start}",
                    reply.status
                );
                assert_eq!(reply.body.unwrap_or_default(), b"", "{start}");
            }
            Err(error) => assert_eq!(status, 431, "{error}: {start}"),
        }
    }
    assert_eq!(bench.gets(), 0, "nothing reached the bucket");
    assert_eq!(bench.ask("GET", &path, "").await, (200, CONTENT.to_vec()));
}

#[test]
fn survives_any_bytes() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let bench = runtime.block_on(bench());
    let part = prop_oneof![
        Just(b"GET ".to_vec()),
        Just(b"HEAD /shared/".to_vec()),
        Just(shared(OBJECT).into_bytes()),
        Just(b" HTTP/1.1\r\n".to_vec()),
        Just(b"Host: 127.0.0.1\r\n".to_vec()),
        Just(b"Range: bytes=".to_vec()),
        Just(b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n".to_vec()),
        Just(b"Content-Length: -1\r\n".to_vec()),
        Just(b"\r\n\r\n".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..40),
    ];
    let mut runner =
        proptest::test_runner::TestRunner::new(ProptestConfig { cases: 300, ..Default::default() });
    let fuzzed = runner.run(&proptest::collection::vec(part, 0..8), |parts| {
        runtime.block_on(async {
            let mut client = bench.connect().await;
            let _ = client.stream.write_all(&parts.concat()).await;
            let _ = client.stream.get_mut().shutdown().await;
            let mut answer = Vec::new();
            let read = client.stream.read_to_end(&mut answer);
            let read = tokio::time::timeout(Duration::from_secs(30), read).await;
            prop_assert!(read.is_ok(), "the connection stays open");
            Ok(())
        })
    });
    fuzzed.unwrap();
    let reply = runtime.block_on(bench.ask("GET", &shared(OBJECT), ""));
    assert_eq!(reply, (200, CONTENT.to_vec()));
}

/// Clients and server are one process here.
fn many_open_files() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    nix::sys::resource::setrlimit(Resource::RLIMIT_NOFILE, hard.min(65536), hard).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_clients_at_once_get_everything() {
    many_open_files();
    let large = vec![b'x'; 100_000];
    let bench = Arc::new(Bench::new(&[(OBJECT, &large), ("downloads/a.tar.gz", b"archive")], false).await);
    let clients = (0..1000).map(|number: u32| {
        let (bench, size) = (Arc::clone(&bench), large.len());
        tokio::spawn(async move {
            // Each keeps its connection until it has all answers.
            let mut client = bench.connect().await;
            for _ in 0..3 {
                let reply = client.ask("HEAD", &shared(OBJECT), "").await.unwrap();
                assert_eq!(reply.status, 200);
                let path = if number.is_multiple_of(2) { OBJECT } else { "downloads/a.tar.gz" };
                let reply = client.ask("GET", &shared(path), "").await.unwrap();
                let wanted = if number.is_multiple_of(2) { size } else { 7 };
                assert_eq!((reply.status, reply.body.unwrap().len()), (200, wanted));
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    assert_eq!(bench.totals(), (2, 100_007));
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_send_or_read_slowly_do_not_stop_others() {
    many_open_files();
    let large = vec![b'x'; 16 << 20];
    let bench = Bench::new(&[(OBJECT, CONTENT), ("downloads/large.tar.gz", &large)], false).await;
    let mut held = Vec::new();
    for number in 0..CONNECTIONS + 100 {
        let mut client = bench.connect().await;
        let port = bench.endpoint.port();
        let text = match number % 20 {
            // Reads nothing of a large answer.
            0 => format!("GET /shared/downloads/large.tar.gz HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n"),
            // Half a header.
            1..10 => "GET /shared/downloads/a HTTP/1.1\r\nHost: 127".into(),
            // Nothing.
            _ => String::new(),
        };
        client.stream.write_all(text.as_bytes()).await.unwrap();
        held.push(client);
    }
    let begun = Instant::now();
    for _ in 0..3 {
        let path = shared(OBJECT);
        let asked = bench.ask("GET", &path, "");
        let reply = tokio::time::timeout(Duration::from_secs(60), asked).await.unwrap();
        assert_eq!(reply, (200, CONTENT.to_vec()), "{:?}", begun.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_the_bucket_are_answers_that_bitbake_survives() {
    for (fault, wanted) in [
        (Fault::Error, Some((502, &b""[..]))),
        (Fault::OtherRange, Some((502, b""))),
        (Fault::Forbidden, Some((404, b""))),
        (Fault::Breaks, None),
        (Fault::Truncated, None),
        (Fault::Longer, Some((200, CONTENT))),
    ] {
        let bench = bench().await;
        bench.fault(fault);
        let wanted = wanted.map(|(status, body)| (status, body.to_vec()));
        assert_eq!(bench.whole(&shared(OBJECT)).await, wanted, "{fault:?}");
        let totals = bench.tier(TierKind::Shared).served.totals();
        let is_failure = !matches!(fault, Fault::Longer | Fault::Forbidden);
        assert_eq!(totals.failures, u64::from(is_failure), "{fault:?}");
        assert_eq!(totals.objects, u64::from(fault == Fault::Longer), "{fault:?}");
        let told = bench.tier(TierKind::Shared).served.first_failure();
        assert_eq!(told.is_some_and(|why| why.contains("compile.tar.zst")), is_failure, "{fault:?}");
    }
}

/// wget continues where the connection broke.
#[tokio::test(flavor = "multi_thread")]
async fn a_download_that_broke_can_be_continued() {
    let bench = bench().await;
    bench.fault(Fault::Breaks);
    assert_eq!(bench.whole(&shared(OBJECT)).await, None);
    assert_eq!(bench.totals(), (0, 0));
    bench.fault(Fault::No);
    assert_eq!(bench.ask("GET", &shared(OBJECT), "Range: bytes=5-\r\n").await, (206, b"56789".to_vec()));
    assert_eq!(bench.totals(), (1, 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_bucket_costs_a_bounded_time() {
    let default = Limits::default();
    assert!(
        default.bucket.max(default.stall).max(default.index) < Duration::from_secs(30),
        "wget of dunfell"
    );
    let short = Duration::from_millis(50);
    for (fault, wanted) in [(Fault::Silent, Some((504, Vec::new()))), (Fault::Stalls, None)] {
        let limits = Limits { bucket: short, stall: short, ..default };
        let bench = Bench::with_limits(&[(OBJECT, CONTENT)], false, limits).await;
        bench.fault(fault);
        assert_eq!(bench.whole(&shared(OBJECT)).await, wanted, "{fault:?}");
    }
}

/// The time for an answer grows with its size.
#[tokio::test(flavor = "multi_thread")]
async fn a_whole_answer_has_a_time_limit() {
    let large = vec![b'x'; 32 << 20];
    let limits = Limits { answer: Duration::ZERO, ..Limits::default() };
    let bench = Bench::with_limits(&[(OBJECT, CONTENT), ("downloads/a.tar.gz", &large)], false, limits).await;
    for _ in 0..9 {
        assert_eq!(bench.whole(&shared(OBJECT)).await, None, "its time is over before it begins");
    }
    assert_eq!(bench.tier(TierKind::Shared).served.totals().failures, 0, "the bucket did not fail");
    let reply = bench.ask("GET", "/shared/downloads/a.tar.gz", "").await;
    assert_eq!((reply.0, reply.1.len()), (200, large.len()), "it has 512 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_down_is_not_asked_for_each_object() {
    let bench = bench().await;
    bench.fault(Fault::Error);
    for _ in 0..50 {
        assert!(bench.ask("GET", &shared(OBJECT), "").await.0 >= 500);
    }
    assert!(bench.gets() < 10, "{}", bench.gets());
    assert_eq!(bench.ask("HEAD", &shared(OBJECT), "").await.0, 404, "BitBake shall not count on it");
    assert_eq!(bench.ask("HEAD", &shared("downloads/a+b.tar.gz"), "").await.0, 503);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_port_is_passed_over_and_the_end_closes_everything() {
    let (first, port) = loop {
        let any = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = any.local_addr().unwrap().port();
        // The next one must be free, too.
        if port < u16::MAX - PORTS && TcpListener::bind(("127.0.0.1", port + 1)).await.is_ok() {
            break (any, port);
        }
    };
    let (_second, next) = bind(port).await.unwrap();
    assert!(next > port && next < port + PORTS);
    drop(first);
    let bench = bench().await;
    let mut client = bench.connect().await;
    client.ask("HEAD", &shared(OBJECT), "").await.unwrap();
    let address = ("127.0.0.1", bench.endpoint.port());
    drop(bench);
    assert!(client.ask("HEAD", &shared(OBJECT), "").await.is_err());
    let begun = Instant::now();
    while TcpStream::connect(address).await.is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(30), "it still listens");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
