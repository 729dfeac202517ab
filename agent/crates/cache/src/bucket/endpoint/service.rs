//! Answers one request.

use std::sync::Arc;
use std::time::Instant;

use hyper::header::{
    ACCEPT_RANGES, ALLOW, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HOST, HeaderValue, IF_RANGE, RANGE,
};
use hyper::{Method, Request, Response, StatusCode};
use object_store::path::Path;
use object_store::{Error, GetOptions, GetRange, GetResult};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::body::{ReplyBody, Source};
use super::connections::Busy;
use super::limits::Limits;
use super::range::{Wanted, wanted};
use super::target::{self, Area, Target};
use super::tier::ReadTier;
use agent_objects::key;

/// Objects that are downloaded in parallel.
const DOWNLOADS: usize = 64;

/// What the endpoint serves.
#[derive(Debug)]
pub struct Service {
    pub tiers: Vec<Arc<ReadTier>>,
    release: String,
    /// The values of `Host` that mean this server. Others come from web pages that try to reach it by a name of
    /// their own.
    hosts: [String; 2],
    downloads: Arc<Semaphore>,
    limits: Limits,
}

/// An answer without the object's bytes.
struct Refused(StatusCode);

const NOT_FOUND: Refused = Refused(StatusCode::NOT_FOUND);

/// What is known of an object before its bytes are asked for.
struct Found<'a> {
    tier: &'a Arc<ReadTier>,
    target: Target,
    key: Path,
    limits: Limits,
}

impl Service {
    pub fn new(tiers: Vec<Arc<ReadTier>>, release: &str, port: u16, limits: Limits) -> Service {
        Service {
            tiers,
            release: release.to_owned(),
            hosts: ["127.0.0.1", "localhost"].map(|host| format!("{host}:{port}")),
            downloads: Arc::new(Semaphore::new(DOWNLOADS)),
            limits,
        }
    }

    pub async fn answer<B>(&self, request: &Request<B>, busy: Busy) -> Response<ReplyBody> {
        let answered = match *request.method() {
            Method::GET => self.get(request).await,
            Method::HEAD => self.head(request).await,
            _ => Err(Refused(StatusCode::METHOD_NOT_ALLOWED)),
        };
        match answered {
            Ok(reply) => reply.response(busy),
            Err(Refused(status)) => {
                let mut response = Response::new(ReplyBody::empty(busy));
                *response.status_mut() = status;
                response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(0));
                if status == StatusCode::METHOD_NOT_ALLOWED {
                    response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
                }
                response
            }
        }
    }

    async fn head<B>(&self, request: &Request<B>) -> Result<Reply, Refused> {
        let found = self.find(request)?;
        let size = match found.target.area {
            Area::Sstate => {
                self.indexed(&found).await?;
                let is_open = found.tier.breaker.is_open(Instant::now());
                found.tier.index.size(&found.target.name).filter(|_| !is_open).ok_or(NOT_FOUND)?
            }
            Area::Downloads => found.size().await?,
        };
        Ok(Reply::head(size))
    }

    async fn get<B>(&self, request: &Request<B>) -> Result<Reply, Refused> {
        let found = self.find(request)?;
        if found.target.area == Area::Sstate {
            self.indexed(&found).await?;
            if !found.tier.index.contains(&found.target.name) {
                return Err(NOT_FOUND);
            }
        }
        let permit = timeout(self.limits.bucket, Arc::clone(&self.downloads).acquire_owned());
        let Ok(Ok(permit)) = permit.await else { return Err(Refused(StatusCode::SERVICE_UNAVAILABLE)) };
        // `If-Range` compares with an ETag, and none is ever sent.
        let range = request.headers().get(RANGE).filter(|_| !request.headers().contains_key(IF_RANGE));
        let part = match range.and_then(|range| range.to_str().ok()) {
            None => None,
            Some(range) => {
                let size = found.size().await?;
                match wanted(range, size) {
                    Wanted::Whole => None,
                    Wanted::Part(part) => Some(part),
                    Wanted::Unsatisfiable => return Ok(Reply::unsatisfiable(size)),
                }
            }
        };
        let options = GetOptions { range: part.clone().map(GetRange::Bounded), ..GetOptions::default() };
        let result = found.ask(found.tier.bucket.objects.get(&found.key, options)).await?;
        let expected = part.clone().unwrap_or(0..result.meta.size);
        if result.range != expected {
            found.tier.failed(format!("{}: the bucket sent other bytes than asked for", found.target.name));
            return Err(Refused(StatusCode::BAD_GATEWAY));
        }
        let Found { tier, target, .. } = found;
        let source = Source { tier: Arc::clone(tier), target, _permit: permit, limits: self.limits };
        Ok(Reply::object(result, part.is_some(), source))
    }

    /// The object that the request names, without a look at the bucket.
    fn find<B>(&self, request: &Request<B>) -> Result<Found<'_>, Refused> {
        let uri = request.uri();
        let host = request.headers().get(HOST).and_then(|host| host.to_str().ok());
        let is_for_us =
            host.is_some_and(|host| self.hosts.iter().any(|ours| ours.eq_ignore_ascii_case(host)));
        if uri.scheme().is_some() || uri.authority().is_some() || uri.query().is_some() || !is_for_us {
            return Err(NOT_FOUND);
        }
        let target = target::parse(uri.path(), &self.release).ok_or(NOT_FOUND)?;
        let tier = self.tiers.iter().find(|tier| tier.bucket.kind == target.tier).ok_or(NOT_FOUND)?;
        let key = key::exact(&tier.key(target.area, &target.name, &self.release)).map_err(|_| NOT_FOUND)?;
        Ok(Found { tier, target, key, limits: self.limits })
    }

    /// Waits for the index.
    async fn indexed(&self, found: &Found<'_>) -> Result<(), Refused> {
        match found.tier.index.is_ready() || found.tier.index.ready(self.limits.index).await {
            true => Ok(()),
            false => Err(NOT_FOUND),
        }
    }
}

impl Found<'_> {
    async fn size(&self) -> Result<u64, Refused> {
        Ok(self.ask(self.tier.bucket.objects.head(&self.key)).await?.size)
    }

    /// Sends one request to the bucket.
    async fn ask<T>(
        &self,
        request: impl Future<Output = object_store::Result<Option<T>>>,
    ) -> Result<T, Refused> {
        if !self.tier.breaker.lets_through(Instant::now()) {
            return Err(Refused(StatusCode::SERVICE_UNAVAILABLE));
        }
        let (why, status) = match timeout(self.limits.bucket, request).await {
            Ok(Ok(Some(answer))) => {
                self.tier.breaker.succeeded();
                return Ok(answer);
            }
            // S3 says "forbidden" for what does not exist, to a role that may not list.
            Ok(Ok(None) | Err(Error::PermissionDenied { .. } | Error::Unauthenticated { .. })) => {
                self.tier.breaker.succeeded();
                if self.target.area == Area::Sstate {
                    self.tier.index.forget(&self.target.name);
                }
                return Err(NOT_FOUND);
            }
            Ok(Err(error)) => (error.to_string(), StatusCode::BAD_GATEWAY),
            Err(_) => {
                (format!("no answer within {} s", self.limits.bucket.as_secs()), StatusCode::GATEWAY_TIMEOUT)
            }
        };
        self.tier.failed(format!("{}: {why}", self.target.name));
        Err(Refused(status))
    }
}

/// An answer about an object.
struct Reply {
    response: Response<()>,
    content: Option<Box<dyn FnOnce(Busy) -> ReplyBody + Send>>,
}

impl Reply {
    fn new(status: StatusCode) -> Reply {
        let mut response = Response::new(());
        *response.status_mut() = status;
        response.headers_mut().insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        Reply { response, content: None }
    }

    fn head(size: u64) -> Reply {
        let mut reply = Reply::new(StatusCode::OK);
        let headers = reply.response.headers_mut();
        headers.insert(CONTENT_LENGTH, HeaderValue::from(size));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        reply
    }

    fn unsatisfiable(size: u64) -> Reply {
        let mut reply = Reply::new(StatusCode::RANGE_NOT_SATISFIABLE);
        reply.content_range(&format!("bytes */{size}"));
        reply
    }

    fn object(result: GetResult, is_part: bool, source: Source) -> Reply {
        let (size, range) = (result.meta.size, result.range.clone());
        let length = range.end - range.start;
        let mut reply = Reply::head(length);
        if is_part {
            *reply.response.status_mut() = StatusCode::PARTIAL_CONTENT;
            reply.content_range(&format!("bytes {}-{}/{size}", range.start, range.end - 1));
        }
        let completes = (range.end == size).then_some(size);
        let stream = result.into_stream();
        let body = move |busy| ReplyBody::stream(stream, length, completes, source, busy);
        reply.content = Some(Box::new(body));
        reply
    }

    fn content_range(&mut self, value: &str) {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.response.headers_mut().insert(CONTENT_RANGE, value);
        }
    }

    fn response(self, busy: Busy) -> Response<ReplyBody> {
        let body = match self.content {
            Some(content) => content(busy),
            None => ReplyBody::empty(busy),
        };
        self.response.map(|()| body)
    }
}
