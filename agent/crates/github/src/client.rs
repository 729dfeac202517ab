//! Sends requests to GitHub's REST API, within a deadline.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Method, redirect};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::{Instant, sleep};
use url::{Host, Url};

use super::failure::{Failure, Result};
use super::retry::{self, Answered, Next};

/// The API of github.com. Another server has `https://HOST/api/v3`.
pub const DEFAULT_API: &str = "https://api.github.com";

/// The version of the API: <https://docs.github.com/en/rest/about-the-rest-api/api-versions>.
const API_VERSION: &str = "2022-11-28";

/// Time limit of one attempt.
const ATTEMPT: Duration = Duration::from_secs(10);

/// Maximum bytes of an answer. The changed files of a large pull request are the longest.
const ANSWER: usize = 32 << 20;

/// Maximum elements of one page.
pub(crate) const PAGE: usize = 100;

/// Sends requests with one token.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    api: Url,
    authorization: HeaderValue,
    deadline: Instant,
}

/// The token must not be printed.
impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("api", &self.api.as_str()).finish_non_exhaustive()
    }
}

/// One request.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    method: Method,
    path: Vec<String>,
    query: Vec<(&'a str, String)>,
    body: Option<Value>,
    /// Whether it may be sent again without a lookup.
    repeatable: bool,
}

impl<'a> Call<'a> {
    pub fn get(path: &[&str]) -> Call<'a> {
        Call {
            method: Method::GET,
            path: path.iter().map(|&part| part.to_owned()).collect(),
            query: Vec::new(),
            body: None,
            repeatable: true,
        }
    }

    /// Replaces something; a second request makes no difference.
    pub fn patch(path: &[&str], body: Value) -> Call<'a> {
        Call { method: Method::PATCH, body: Some(body), ..Call::get(path) }
    }

    pub fn delete(path: &[&str]) -> Call<'a> {
        Call { method: Method::DELETE, ..Call::get(path) }
    }

    /// Creates something.
    pub fn post(path: &[&str], body: Value) -> Call<'a> {
        Call { method: Method::POST, body: Some(body), repeatable: false, ..Call::get(path) }
    }

    /// A second request would add to the first.
    pub fn once(self) -> Call<'a> {
        Call { repeatable: false, ..self }
    }

    /// A second object does no harm.
    pub fn repeatable(self) -> Call<'a> {
        Call { repeatable: true, ..self }
    }

    pub fn query(mut self, name: &'a str, value: impl ToString) -> Call<'a> {
        self.query.push((name, value.to_string()));
        self
    }
}

/// Whether the agent sends a token to this address: only `https`, or `http` on this machine.
pub fn is_api_url(url: &Url) -> bool {
    let is_loopback = match url.host() {
        Some(Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
        Some(Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    url.host().is_some() && (url.scheme() == "https" || (url.scheme() == "http" && is_loopback))
}

impl Client {
    /// A client for this API. All its requests together end before the deadline.
    ///
    /// # Errors
    /// If the address is not safe for a token, the token is invalid, or TLS cannot be set up.
    pub fn new(api: &Url, token: &str, deadline: Instant) -> Result<Client> {
        if !is_api_url(api) {
            return Err(Failure::Input(format!("{api} is not an https:// address")));
        }
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", token.trim()))
            .map_err(|_| Failure::Input("the token has characters that no token has".to_owned()))?;
        authorization.set_sensitive(true);
        let http = reqwest::Client::builder()
            // A redirect leads to another repository, and turns a POST into a GET.
            .redirect(redirect::Policy::none())
            .user_agent(concat!("build-agent/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| Failure::Input(format!("cannot set up https: {}", chain(&error))))?;
        Ok(Client { http, api: api.clone(), authorization, deadline })
    }

    /// The same with another token.
    ///
    /// # Errors
    /// If the token is invalid.
    pub fn with_token(&self, token: &str) -> Result<Client> {
        let mut authorization = HeaderValue::from_str(&format!("Bearer {}", token.trim()))
            .map_err(|_| Failure::Input("the token has characters that no token has".to_owned()))?;
        authorization.set_sensitive(true);
        Ok(Client { authorization, ..self.clone() })
    }

    /// The same until another deadline.
    pub fn until(&self, deadline: Instant) -> Client {
        Client { deadline, ..self.clone() }
    }

    /// Sends a request and reads its answer.
    pub(crate) async fn json<T: DeserializeOwned>(&self, call: &Call<'_>) -> Result<T> {
        let bytes = self.send(call).await?;
        serde_json::from_slice(&bytes).map_err(|error| Failure::Unreadable(error.to_string()))
    }

    /// Sends a request; its answer does not matter.
    pub(crate) async fn done(&self, call: &Call<'_>) -> Result<()> {
        self.send(call).await.map(drop)
    }

    /// All elements of a list, page by page, until `is_enough`.
    pub(crate) async fn pages<T: DeserializeOwned>(
        &self,
        call: impl Fn() -> Call<'static>,
        most: usize,
        mut is_enough: impl FnMut(&[T]) -> bool,
    ) -> Result<Vec<T>> {
        let mut all = Vec::new();
        for page in 1..=most {
            let call = call().query("per_page", PAGE).query("page", page);
            let mut found: Vec<T> = self.json(&call).await?;
            let is_last = found.len() < PAGE;
            all.append(&mut found);
            if is_last || is_enough(&all) {
                break;
            }
        }
        Ok(all)
    }

    /// Waits, for a lookup or a retry.
    ///
    /// # Errors
    /// If the deadline comes first.
    pub(crate) async fn pause(&self, wait: Duration, why: &str) -> Result<()> {
        if Instant::now() + wait >= self.deadline {
            return Err(Failure::OutOfTime(why.to_owned()));
        }
        sleep(wait).await;
        Ok(())
    }

    async fn send(&self, call: &Call<'_>) -> Result<Vec<u8>> {
        let url = self.url(call)?;
        let mut attempt = 0;
        loop {
            match self.attempt(call, url.clone(), attempt).await {
                Attempt::Ended(answer) => return answer,
                Attempt::Again { wait, why, limited } => {
                    tracing::debug!(?wait, %why, method = %call.method, path = url.path(), "again");
                    if Instant::now() + wait >= self.deadline {
                        return Err(if limited {
                            Failure::RateLimited(wait)
                        } else {
                            Failure::OutOfTime(why)
                        });
                    }
                    sleep(wait).await;
                    attempt += 1;
                }
            }
        }
    }

    fn url(&self, call: &Call<'_>) -> Result<Url> {
        let mut url = self.api.clone();
        url.path_segments_mut()
            .map_err(|()| Failure::Input(format!("{} is not the address of an API", self.api)))?
            .pop_if_empty()
            .extend(&call.path);
        if !call.query.is_empty() {
            url.query_pairs_mut().extend_pairs(&call.query);
        }
        Ok(url)
    }

    async fn attempt(&self, call: &Call<'_>, url: Url, attempt: u32) -> Attempt {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Attempt::Ended(Err(Failure::OutOfTime("nothing was sent any more".to_owned())));
        }
        let mut request = self
            .http
            .request(call.method.clone(), url.clone())
            .timeout(ATTEMPT.min(left))
            .header(ACCEPT, "application/vnd.github+json")
            .header("X-GitHub-Api-Version", API_VERSION)
            .header(AUTHORIZATION, self.authorization.clone());
        if let Some(body) = &call.body {
            request = request.header("Content-Type", "application/json").body(body.to_string());
        }
        let answer = match request.send().await {
            Ok(answer) => answer,
            // Without a connection, nothing was sent.
            Err(error) if error.is_connect() => {
                return Attempt::Again { wait: backoff(attempt), why: chain(&error), limited: false };
            }
            Err(error) => return unclear(call, chain(&error), attempt),
        };
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let body = match read(answer).await {
            Ok(body) => body,
            Err(why) => return unclear(call, why, attempt),
        };
        let message = message(&body);
        let said = answered(status, &headers, &message);
        tracing::debug!(method = %call.method, path = url.path(), status, "answered");
        match retry::next(&said, attempt, SystemTime::now()) {
            Next::Done => Attempt::Ended(Ok(body)),
            Next::Wait(wait) => Attempt::Again { wait, why: format!("{status}: {message}"), limited: true },
            Next::Repeat(wait) if call.repeatable => {
                Attempt::Again { wait, why: format!("the server answered {status}"), limited: false }
            }
            Next::Repeat(_) => Attempt::Ended(Err(Failure::Unclear(format!("the server answered {status}")))),
            Next::Refused => Attempt::Ended(Err(Failure::of(status, &message))),
        }
    }
}

/// What came of one attempt.
enum Attempt {
    Ended(Result<Vec<u8>>),
    Again { wait: Duration, why: String, limited: bool },
}

/// The request was sent, and no whole answer came.
fn unclear(call: &Call<'_>, why: String, attempt: u32) -> Attempt {
    match call.repeatable {
        true => Attempt::Again { wait: backoff(attempt), why, limited: false },
        false => Attempt::Ended(Err(Failure::Unclear(why))),
    }
}

fn backoff(attempt: u32) -> Duration {
    Duration::from_millis(500).saturating_mul(1 << attempt.min(6))
}

async fn read(mut answer: reqwest::Response) -> Result<Vec<u8>, String> {
    let mut whole = Vec::new();
    while let Some(chunk) = answer.chunk().await.map_err(|error| chain(&error))? {
        if whole.len() + chunk.len() > ANSWER {
            return Err(format!("the answer is larger than {ANSWER} bytes"));
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole)
}

fn answered<'a>(status: u16, headers: &'a HeaderMap, message: &'a str) -> Answered<'a> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    Answered {
        status,
        retry_after: text(RETRY_AFTER.as_str()),
        remaining: text("x-ratelimit-remaining"),
        reset: text("x-ratelimit-reset"),
        message,
    }
}

/// GitHub's explanation of an error.
fn message(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Explained {
        message: Option<String>,
        #[serde(default)]
        errors: Vec<Value>,
    }
    let Ok(explained) = serde_json::from_slice::<Explained>(body) else { return String::new() };
    let errors = explained.errors.iter().filter_map(|error| match error {
        Value::String(text) => Some(text.clone()),
        other => other.get("message").or(other.get("code")).and_then(Value::as_str).map(str::to_owned),
    });
    explained.message.into_iter().chain(errors).collect::<Vec<_>>().join("; ")
}

/// An error with its causes, without the address.
fn chain(error: &reqwest::Error) -> String {
    let mut text = Vec::new();
    let mut next: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(error);
    if error.is_timeout() {
        text.push("no answer in time".to_owned());
    }
    while let Some(cause) = next {
        text.push(cause.to_string());
        next = cause.source();
    }
    if text.is_empty() { "the request failed".to_owned() } else { text.join(": ") }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_sent_only_to_safe_addresses() {
        for (text, is_safe) in [
            (DEFAULT_API, true),
            ("https://ghe.example.org/api/v3", true),
            ("http://127.0.0.1:8080", true),
            ("http://localhost:8080/api", true),
            ("http://[::1]:8080", true),
            ("http://api.github.com", false),
            ("http://127.0.0.1.example.org", false),
            ("ftp://api.github.com", false),
            ("file:///tmp/x", false),
            ("data:text/plain,x", false),
        ] {
            assert_eq!(is_api_url(&Url::parse(text).unwrap()), is_safe, "{text}");
        }
    }

    #[test]
    fn names_in_a_path_stay_one_part_of_it() {
        let api = Url::parse("https://ghe.example.org/api/v3/").unwrap();
        let client = Client::new(&api, "x", Instant::now()).unwrap();
        let call = Call::get(&["repos", "o", "a/../b?c#d"]).query("head", "o:x&y=1 z");
        assert_eq!(
            client.url(&call).unwrap().as_str(),
            "https://ghe.example.org/api/v3/repos/o/a%2F..%2Fb%3Fc%23d?head=o%3Ax%26y%3D1+z"
        );
        assert!(!format!("{client:?}").contains("Bearer"));
        assert!(Client::new(&api, "two\nlines", Instant::now()).is_err());
    }

    #[test]
    fn an_explanation_of_github_has_its_errors() {
        for (body, wanted) in [
            (r#"{"message":"Not Found"}"#, "Not Found"),
            (
                r#"{"message":"Validation Failed","errors":[{"message":"No commit found"},{"code":"custom"}]}"#,
                "Validation Failed; No commit found; custom",
            ),
            (r#"{"message":"x","errors":["y"]}"#, "x; y"),
            ("<html>", ""),
            ("", ""),
        ] {
            assert_eq!(message(body.as_bytes()), wanted, "{body}");
        }
    }
}
