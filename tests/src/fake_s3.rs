//! A small S3 server on loopback, with faults: connections that break, refusals, delays, wrong lengths.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::socket::{setsockopt, sockopt};

/// The name of its only bucket.
const BUCKET: &str = "bucket";

/// The fault of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    No,
    /// The connection is reset, and the request is not executed.
    Before,
    /// The request is executed, and the connection is reset instead of a reply.
    After,
    /// The object of another writer replaces it, and the connection is reset.
    Taken,
    /// The request is not executed; the reply has this status and error code.
    Refused(u16, &'static str),
    /// The reply comes after this time.
    Late(Duration),
    /// The body of the reply ends in the middle.
    Truncated,
    /// As a server that does not know `If-None-Match`.
    Unconditional,
}

/// A request to the bucket.
#[derive(Clone, Debug)]
pub struct S3Request {
    pub method: String,
    /// Decoded, without the bucket.
    pub key: String,
    pub query: BTreeMap<String, String>,
    pub only_new: bool,
    pub body: Vec<u8>,
    /// Who signed it.
    pub access_key: String,
    range: Option<(usize, usize)>,
}

impl S3Request {
    /// Whether it writes or deletes something.
    pub fn is_write(&self) -> bool {
        !matches!(self.method.as_str(), "GET" | "HEAD")
    }
}

struct Object {
    tag: u64,
    written: SystemTime,
    content: Vec<u8>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Object>,
    uploads: BTreeMap<String, BTreeMap<u32, Vec<u8>>>,
    requests: Vec<(String, String)>,
    /// Seconds by which the server's clock is wrong.
    clock: i64,
}

type Judge = Box<dyn FnMut(u64, &S3Request) -> Fault + Send>;

/// The server; it ends with the process.
#[derive(Clone)]
pub struct FakeS3 {
    port: u16,
    state: Arc<Mutex<State>>,
    judge: Arc<Mutex<Judge>>,
}

impl FakeS3 {
    #[expect(clippy::new_without_default)] // it starts a server
    pub fn new() -> FakeS3 {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let judge: Judge = Box::new(|_, _| Fault::No);
        let server = FakeS3 { port, state: Arc::default(), judge: Arc::new(Mutex::new(judge)) };
        let started = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = started.clone();
                std::thread::spawn(move || server.serve(stream));
            }
        });
        server
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Gives a command of the agent the address of this server and keys.
    pub fn configure(&self, command: &mut Command) {
        command.env("AWS_ENDPOINT_URL_S3", format!("http://127.0.0.1:{}", self.port));
        command.envs([
            ("AWS_REGION", "us-east-1"),
            ("AWS_ACCESS_KEY_ID", "AKIATEST"),
            ("AWS_SECRET_ACCESS_KEY", "secret-of-tests"),
        ]);
    }

    /// Sets the faults from now on; counts requests from 0.
    pub fn faults(&self, judge: impl FnMut(u64, &S3Request) -> Fault + Send + 'static) {
        self.state().requests.clear();
        *lock(&self.judge) = Box::new(judge);
    }

    pub fn object(&self, key: &str) -> Option<Vec<u8>> {
        self.state().objects.get(key).map(|object| object.content.clone())
    }

    /// All objects whose keys begin with this text.
    pub fn objects(&self, prefix: &str) -> BTreeMap<String, Vec<u8>> {
        let state = self.state();
        let found = state.objects.iter().filter(|(key, _)| key.starts_with(prefix));
        found.map(|(key, object)| (key.clone(), object.content.clone())).collect()
    }

    /// Writes an object without a request.
    pub fn put(&self, key: &str, content: &[u8]) {
        self.state().insert(key, 0, content.to_vec());
    }

    /// Writes an object, as if it had been written at that time.
    pub fn put_at(&self, key: &str, content: &[u8], written: SystemTime) {
        self.state().objects.insert(key.to_owned(), Object { tag: 0, written, content: content.to_vec() });
    }

    /// From now on the server's clock is wrong by so many seconds.
    pub fn shift_clock(&self, seconds: i64) {
        self.state().clock = seconds;
    }

    /// Deletes all objects and uploads.
    pub fn clear(&self) {
        let mut state = self.state();
        state.objects.clear();
        state.uploads.clear();
    }

    /// Whether there is an unfinished multipart upload.
    pub fn has_uploads(&self) -> bool {
        !self.state().uploads.is_empty()
    }

    /// As a lifecycle rule of a bucket does.
    pub fn clear_uploads(&self) {
        self.state().uploads.clear();
    }

    /// Method and key of each request since the last [`FakeS3::faults`].
    pub fn requests(&self) -> Vec<(String, String)> {
        self.state().requests.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn serve(&self, stream: TcpStream) {
        let Ok(copy) = stream.try_clone() else { return };
        let _ = stream.set_nodelay(true);
        let mut reader = BufReader::new(copy);
        let mut stream = stream;
        while let Some(request) = read_request(&mut reader) {
            let number = {
                let mut state = self.state();
                state.requests.push((request.method.clone(), request.key.clone()));
                state.requests.len() as u64 - 1
            };
            let fault = (lock(&self.judge))(number, &request);
            let mut state = self.state();
            let answer = match &fault {
                Fault::No | Fault::After | Fault::Late(_) | Fault::Truncated => {
                    state.answer(&request, number)
                }
                Fault::Unconditional => {
                    let request = S3Request { only_new: false, ..request };
                    state.answer(&request, number)
                }
                Fault::Refused(status, code) => error(*status, code, request.method == "HEAD"),
                Fault::Before => Vec::new(),
                Fault::Taken => {
                    state.insert(&request.key, number, b"somebody else's".into());
                    Vec::new()
                }
            };
            drop(state);
            if let Fault::Late(delay) = fault {
                std::thread::sleep(delay);
            }
            let written = match fault {
                Fault::Before | Fault::After | Fault::Taken => return reset(&stream),
                Fault::Truncated => {
                    let _ = stream.write_all(&answer[..answer.len() - answer.len() / 4]);
                    return reset(&stream);
                }
                _ => stream.write_all(&answer),
            };
            if written.is_err() {
                return;
            }
        }
    }
}

/// If the socket is closed without a delay, the kernel sends a reset.
fn reset(stream: &TcpStream) {
    let now = nix::libc::linger { l_onoff: 1, l_linger: 0 };
    let _ = setsockopt(stream, sockopt::Linger, &now);
}

fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<S3Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (mut length, mut only_new, mut range, mut access_key) = (0, false, None, String::new());
    loop {
        let mut header = String::new();
        reader.read_line(&mut header).ok().filter(|length| *length > 0)?;
        let Some((name, value)) = header.trim().split_once(':') else { break };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.parse().ok()?,
            "if-none-match" => only_new = true,
            "authorization" => {
                let credential = value.split_once("Credential=").map_or("", |(_, rest)| rest);
                access_key = credential.split('/').next().unwrap_or_default().to_owned();
            }
            "range" => {
                let (from, to) = value.strip_prefix("bytes=")?.split_once('-')?;
                range = Some((from.parse().ok()?, to.parse().unwrap_or(usize::MAX)));
            }
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(name), decoded(value))
    };
    let query: BTreeMap<String, String> = pairs.map(pair).collect();
    let signer = query.get("X-Amz-Credential").and_then(|credential| credential.split('/').next());
    let access_key = signer.map_or(access_key, str::to_owned);
    let key = path.strip_prefix(&format!("/{BUCKET}")).unwrap_or_default();
    let key = decoded(key.trim_start_matches('/'));
    Some(S3Request { method, key, query, only_new, body, access_key, range })
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, others)) = rest.split_first() {
        let escaped = others.get(..2).filter(|_| *first == b'%');
        let digits = escaped.and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &others[2..];
            }
            None => {
                bytes.push(*first);
                rest = others;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl State {
    fn insert(&mut self, key: &str, tag: u64, content: Vec<u8>) {
        let wrong = Duration::from_secs(self.clock.unsigned_abs());
        let now = SystemTime::now();
        let written = if self.clock < 0 { now - wrong } else { now + wrong };
        self.objects.insert(key.to_owned(), Object { tag, written, content });
    }

    fn answer(&mut self, request: &S3Request, number: u64) -> Vec<u8> {
        let S3Request { key, body, .. } = request;
        let id = request.query.get("uploadId");
        let taken = request.only_new && self.objects.contains_key(key);
        match (request.method.as_str(), id) {
            ("GET", _) if key.is_empty() => self.list(&request.query),
            ("HEAD" | "GET", _) => self.get(request),
            ("PUT", Some(id)) => match self.uploads.get_mut(id) {
                Some(parts) => {
                    let part = request.query.get("partNumber").and_then(|part| part.parse().ok());
                    parts.insert(part.unwrap_or_default(), body.clone());
                    answer(200, number, b"", false)
                }
                None => error(404, "NoSuchUpload", false),
            },
            ("PUT", None) | ("POST", Some(_)) if taken => error(412, "PreconditionFailed", false),
            ("PUT", None) => {
                self.insert(key, number, body.clone());
                answer(200, number, b"", false)
            }
            ("POST", None) if request.query.contains_key("delete") => self.delete(body),
            ("POST", None) => {
                self.uploads.insert(format!("upload-{number}"), BTreeMap::new());
                let xml = format!(
                    "<InitiateMultipartUploadResult><UploadId>upload-{number}</UploadId>\
                     </InitiateMultipartUploadResult>"
                );
                answer(200, number, xml.as_bytes(), false)
            }
            ("POST", Some(id)) => match self.uploads.remove(id) {
                Some(parts) => {
                    self.insert(key, number, parts.into_values().flatten().collect());
                    let xml = format!(
                        "<CompleteMultipartUploadResult><ETag>\"{number}\"</ETag>\
                         </CompleteMultipartUploadResult>"
                    );
                    answer(200, number, xml.as_bytes(), false)
                }
                None => error(404, "NoSuchUpload", false),
            },
            ("DELETE", Some(id)) => {
                self.uploads.remove(id);
                answer(204, number, b"", false)
            }
            ("DELETE", None) => {
                self.objects.remove(key);
                answer(204, number, b"", false)
            }
            _ => error(400, "InvalidRequest", false),
        }
    }

    fn get(&self, request: &S3Request) -> Vec<u8> {
        let head_only = request.method == "HEAD";
        let Some(object) = self.objects.get(&request.key) else {
            return error(404, "NoSuchKey", head_only);
        };
        let whole = object.content.len();
        let headers = format!("Last-Modified: {}\r\n", http_date(object.written));
        match request.range {
            Some((from, _)) if from >= whole => error(416, "InvalidRange", head_only),
            Some((from, to)) => {
                let to = to.min(whole - 1);
                let headers = format!("{headers}Content-Range: bytes {from}-{to}/{whole}\r\n");
                reply(206, object.tag, &headers, &object.content[from..=to], head_only)
            }
            None => reply(200, object.tag, &headers, &object.content, head_only),
        }
    }

    /// `ListObjectsV2`, a thousand keys at a time.
    fn list(&self, query: &BTreeMap<String, String>) -> Vec<u8> {
        let parameter = |name: &str| query.get(name).map_or("", String::as_str);
        if query.contains_key("uploads") {
            let upload = |id: &String| {
                format!(
                    "<Upload><Key>unknown</Key><UploadId>{id}</UploadId>\
                     <Initiated>{}</Initiated></Upload>",
                    iso_date(SystemTime::now())
                )
            };
            let uploads: String = self.uploads.keys().map(upload).collect();
            let xml = format!("<ListMultipartUploadsResult>{uploads}</ListMultipartUploadsResult>");
            return answer(200, 0, xml.as_bytes(), false);
        }
        let (prefix, delimiter) = (parameter("prefix"), parameter("delimiter"));
        let after = [parameter("continuation-token"), parameter("start-after")];
        let after = after.into_iter().find(|after| !after.is_empty()).unwrap_or("");
        let most = parameter("max-keys").parse().unwrap_or(1000).min(1000);
        let encodes = parameter("encoding-type") == "url";
        let shown = |key: &str| if encodes { encoded(key) } else { escaped(key) };
        let (mut listed, mut token) = (Vec::<(String, bool)>::new(), None);
        for key in self.objects.keys().filter(|key| key.starts_with(prefix)) {
            let level = key[prefix.len()..].split_once('/').filter(|_| delimiter == "/");
            let name = level.map_or_else(|| key.clone(), |(level, _)| format!("{prefix}{level}/"));
            if name.as_str() <= after
                || key.as_str() <= after
                || after.ends_with('/') && key.starts_with(after)
            {
                continue;
            }
            if listed.last().is_some_and(|(last, _)| *last == name) {
                continue;
            }
            if listed.len() == most {
                token = listed.last().map(|(last, _)| last.clone());
                break;
            }
            listed.push((name, level.is_some()));
        }
        let entry = |(name, is_prefix): &(String, bool)| match self.objects.get(name) {
            Some(object) if !is_prefix => format!(
                "<Contents><Key>{}</Key><LastModified>{}</LastModified><ETag>&quot;{}&quot;</ETag>\
                 <Size>{}</Size></Contents>",
                shown(name),
                iso_date(object.written),
                object.tag,
                object.content.len()
            ),
            _ => format!("<CommonPrefixes><Prefix>{}</Prefix></CommonPrefixes>", shown(name)),
        };
        let entries: String = listed.iter().map(entry).collect();
        let encoding = if encodes { "<EncodingType>url</EncodingType>" } else { "" };
        let more = token
            .as_deref()
            .map(|token| format!("<NextContinuationToken>{}</NextContinuationToken>", escaped(token)));
        let xml = format!(
            "<ListBucketResult><IsTruncated>{}</IsTruncated>{encoding}{}{entries}</ListBucketResult>",
            more.is_some(),
            more.unwrap_or_default()
        );
        answer(200, 0, xml.as_bytes(), false)
    }

    /// `DeleteObjects`
    fn delete(&mut self, body: &[u8]) -> Vec<u8> {
        let text = String::from_utf8_lossy(body);
        let keys = text.split("<Key>").skip(1).filter_map(|rest| rest.split_once("</Key>"));
        let mut deleted = String::new();
        for (key, _) in keys {
            self.objects.remove(&unescaped(key));
            deleted.push_str(&format!("<Deleted><Key>{key}</Key></Deleted>"));
        }
        answer(200, 0, format!("<DeleteResult>{deleted}</DeleteResult>").as_bytes(), false)
    }
}

fn answer(status: u16, tag: u64, body: &[u8], head_only: bool) -> Vec<u8> {
    reply(status, tag, &format!("Last-Modified: {}\r\n", http_date(SystemTime::now())), body, head_only)
}

fn reply(status: u16, tag: u64, headers: &str, body: &[u8], head_only: bool) -> Vec<u8> {
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status} Said\r\nContent-Length: {length}\r\nETag: \"{tag}\"\r\n{headers}\r\n");
    [head.as_bytes(), if head_only { b"" } else { body }].concat()
}

fn error(status: u16, code: &str, head_only: bool) -> Vec<u8> {
    let body = format!("<Error><Code>{code}</Code></Error>");
    answer(status, 0, body.as_bytes(), head_only)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn unescaped(text: &str) -> String {
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&amp;", "&")
}

fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    let encode = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(encode).collect()
}

/// Year, month, day, day of the week from Thursday on, and the second of the day, in UTC.
fn calendar(time: SystemTime) -> (u64, u64, u64, u64, u64) {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let is_leap = |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let (mut year, mut day) = (1970, seconds / 86400);
    while day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let february = 28 + u64::from(is_leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    (year, month, day + 1, seconds / 86400 % 7, seconds % 86400)
}

fn iso_date(time: SystemTime) -> String {
    let (year, month, day, _, second) = calendar(time);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.000Z")
}

fn http_date(time: SystemTime) -> String {
    let (year, month, day, weekday, second) = calendar(time);
    let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][weekday as usize];
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = months[month as usize - 1];
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{weekday}, {day:02} {month} {year} {hour:02}:{minute:02}:{second:02} GMT")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (seconds, iso, http) in [
            (0, "1970-01-01T00:00:00.000Z", "Thu, 01 Jan 1970 00:00:00 GMT"),
            (951_782_400, "2000-02-29T00:00:00.000Z", "Tue, 29 Feb 2000 00:00:00 GMT"),
            (1_767_225_599, "2025-12-31T23:59:59.000Z", "Wed, 31 Dec 2025 23:59:59 GMT"),
        ] {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!((iso_date(time), http_date(time)), (iso.into(), http.into()));
        }
    }
}
