//! Talks to a LAVA server by its REST API.

use std::time::{Duration, Instant};

use agent_process::Interrupt;
use agent_types::error::{Class, Error, Result};
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::lab::Lava;

/// Time limit of one request.
const REQUEST: Duration = Duration::from_secs(60);

/// A server that has not answered for this long is down.
const DOWN: Duration = Duration::from_secs(5 * 60);

/// Pauses between tries: they double up to the second.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

/// Bytes of an answer, and of a log.
const ANSWER_LIMIT: usize = 32 << 20;

/// A LAVA server.
pub struct Client {
    api: String,
    token: HeaderValue,
    http: reqwest::Client,
    down: Duration,
}

/// A job, as the server describes it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Job {
    pub id: u64,
    pub state: String,
    #[serde(default)]
    pub health: String,
    #[serde(default)]
    pub description: Option<String>,
    #[serde(default)]
    pub failure_comment: Option<String>,
    #[serde(default)]
    pub actual_device: Option<String>,
}

#[derive(Deserialize)]
struct Submitted {
    job_ids: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct Page<T> {
    results: Vec<T>,
}

#[derive(Deserialize)]
struct Suite {
    id: u64,
    name: String,
}

#[derive(Deserialize)]
struct Test {
    name: String,
    /// YAML as text, or an object.
    #[serde(default)]
    metadata: serde_json::Value,
}

/// Why there is no answer.
enum Trouble {
    /// The request did not reach the server.
    NotSent(Error),
    /// The server may have done what was asked.
    Unknown(Error),
    /// The server refused.
    Refused(StatusCode, Error),
}

impl From<Trouble> for Error {
    fn from(trouble: Trouble) -> Error {
        match trouble {
            Trouble::NotSent(error) | Trouble::Unknown(error) | Trouble::Refused(_, error) => error,
        }
    }
}

impl Client {
    /// # Errors
    /// If the token cannot be read.
    pub fn open(lava: &Lava, down: Option<Duration>) -> Result<Client> {
        let token = agent_fs::untrusted::read_text(&lava.token_file, 4096)?;
        let token = HeaderValue::from_str(&format!("Token {}", token.trim())).map(|mut value| {
            value.set_sensitive(true);
            value
        });
        let token = token.map_err(|_| {
            Error::usage(format!("`{}` is not a token of LAVA", lava.token_file.display()))
                .hint("a token is one line of letters and digits")
        })?;
        let http = reqwest::Client::builder()
            .timeout(REQUEST)
            // The token is for this server only.
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| Error::machine("cannot set up HTTPS").because(&error))?;
        let api = format!("{}/api/v0.2", lava.url.trim_end_matches('/'));
        Ok(Client { api, token, http, down: down.unwrap_or(DOWN) })
    }

    /// The id of the new job. `name`: the job's name, which is unique: if the answer is lost, the job is found by it.
    ///
    /// # Errors
    /// Usage, if the server refuses the definition; upstream, if it does not answer.
    pub async fn submit(&self, definition: &str, name: &str, interrupt: &Interrupt) -> Result<u64> {
        let body = serde_json::json!({ "definition": definition }).to_string();
        let (began, mut pause) = (Instant::now(), FIRST_PAUSE);
        loop {
            let error = match self.once(Method::POST, "jobs/", Some(&body)).await {
                Ok(answer) => {
                    let submitted: Submitted = parsed(&answer)?;
                    return match submitted.job_ids.as_slice() {
                        [id] => id_of(id),
                        many => {
                            Err(Error::usage(format!("the job template makes {} jobs of LAVA", many.len()))
                                .hint("multinode jobs are not supported: write one job for one device"))
                        }
                    };
                }
                Err(Trouble::Refused(status, error)) if status == StatusCode::BAD_REQUEST => {
                    return Err(error.hint("fix the job template of the lab (lab.toml, `job`)"));
                }
                Err(Trouble::Refused(status, error)) if is_final(status) => return Err(error),
                Err(Trouble::NotSent(error)) => error,
                Err(Trouble::Unknown(error) | Trouble::Refused(_, error)) => {
                    // The job may be there although the answer is not.
                    if let Some(id) = self.find(name, interrupt).await? {
                        return Ok(id);
                    }
                    error
                }
            };
            self.wait(began, &mut pause, error, interrupt).await?;
        }
    }

    /// The job with this name, among the newest.
    async fn find(&self, name: &str, interrupt: &Interrupt) -> Result<Option<u64>> {
        let page: Page<Job> = self.get("jobs/?ordering=-id&limit=50", interrupt).await?;
        let found = page.results.into_iter().find(|job| job.description.as_deref() == Some(name));
        Ok(found.map(|job| job.id))
    }

    /// # Errors
    /// Upstream, if the server does not answer as documented.
    pub async fn job(&self, id: u64, interrupt: &Interrupt) -> Result<Job> {
        self.get(&format!("jobs/{id}/"), interrupt).await
    }

    /// The results of the job, like JUnit's.
    ///
    /// # Errors
    /// Upstream, if the server does not answer.
    pub async fn junit(&self, id: u64, interrupt: &Interrupt) -> Result<String> {
        self.text(&format!("jobs/{id}/junit/"), interrupt).await
    }

    /// The log of the job, in lines of YAML.
    ///
    /// # Errors
    /// Upstream, if the server does not answer.
    pub async fn log(&self, id: u64, interrupt: &Interrupt) -> Result<String> {
        self.text(&format!("jobs/{id}/logs/"), interrupt).await
    }

    /// Whose fault it is that the job is incomplete, in LAVA's words: `Infrastructure`, `Test` …
    ///
    /// # Errors
    /// Upstream, if the server does not answer.
    pub async fn error_type(&self, id: u64, interrupt: &Interrupt) -> Result<Option<String>> {
        let suites: Page<Suite> = self.get(&format!("jobs/{id}/suites/"), interrupt).await?;
        let Some(own) = suites.results.into_iter().find(|suite| suite.name == "lava") else {
            return Ok(None);
        };
        let path = format!("jobs/{id}/suites/{}/tests/?limit=1000", own.id);
        let tests: Page<Test> = self.get(&path, interrupt).await?;
        let job = tests.results.into_iter().find(|test| test.name == "job");
        Ok(job.and_then(|test| error_type(&test.metadata)))
    }

    /// Whether the server answers, and knows the token.
    ///
    /// # Errors
    /// Upstream, if it does not.
    pub async fn check(&self) -> Result<()> {
        let answer = self.once(Method::GET, "jobs/?limit=1", None).await?;
        parsed::<Page<serde_json::Value>>(&answer).map(|_| ())
    }

    /// Ends a job. One that has ended stays as it is.
    ///
    /// # Errors
    /// Upstream, if the server does not do it.
    pub async fn cancel(&self, id: u64) -> Result<()> {
        let path = format!("jobs/{id}/cancel/");
        match self.once(Method::POST, &path, None).await {
            // Older servers have it as a GET.
            Err(Trouble::Refused(StatusCode::METHOD_NOT_ALLOWED, _)) => {
                self.once(Method::GET, &path, None).await.map(|_| ()).map_err(Error::from)
            }
            done => done.map(|_| ()).map_err(Error::from),
        }
    }

    /// Ends the job with this name, if there is one.
    ///
    /// # Errors
    /// Upstream, if the server does not do it.
    pub async fn cancel_named(&self, name: &str) -> Result<()> {
        match self.find(name, &Interrupt::new(None)).await? {
            Some(id) => self.cancel(id).await,
            None => Ok(()),
        }
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, interrupt: &Interrupt) -> Result<T> {
        parsed(&self.text(path, interrupt).await?)
    }

    /// Reads, with retries.
    async fn text(&self, path: &str, interrupt: &Interrupt) -> Result<String> {
        let (began, mut pause) = (Instant::now(), FIRST_PAUSE);
        loop {
            let error = match self.once(Method::GET, path, None).await {
                Ok(answer) => return Ok(answer),
                Err(Trouble::Refused(status, error)) if is_final(status) => return Err(error),
                Err(trouble) => Error::from(trouble),
            };
            self.wait(began, &mut pause, error, interrupt).await?;
        }
    }

    /// Waits before the next try, or gives up.
    async fn wait(
        &self,
        began: Instant,
        pause: &mut Duration,
        error: Error,
        interrupt: &Interrupt,
    ) -> Result<()> {
        if began.elapsed() >= self.down {
            return Err(error);
        }
        tracing::warn!(%error, "LAVA");
        let stopped = |_| Error::new(Class::Cancelled, "stopped while LAVA did not answer");
        interrupt.or(tokio::time::sleep(*pause)).await.map_err(stopped)?;
        *pause = (*pause * 2).min(LONGEST_PAUSE);
        Ok(())
    }

    async fn once(&self, method: Method, path: &str, body: Option<&str>) -> Result<String, Trouble> {
        let url = format!("{}/{path}", self.api);
        let failed = |error: reqwest::Error| {
            let is_unsent = error.is_connect() || error.is_builder();
            let made = Error::upstream(format!("LAVA does not answer: {url}")).because(&error.without_url());
            let made = made.hint("check the server, and `url` in lab.toml");
            if is_unsent { Trouble::NotSent(made) } else { Trouble::Unknown(made) }
        };
        let mut request = self.http.request(method, &url).header(AUTHORIZATION, self.token.clone());
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_owned());
        }
        let mut response = request.send().await.map_err(failed)?;
        let status = response.status();
        let mut text = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if text.len() + chunk.len() > ANSWER_LIMIT {
                let error =
                    Error::upstream(format!("an answer of LAVA is larger than {ANSWER_LIMIT} bytes: {url}"));
                return Err(Trouble::Refused(StatusCode::PAYLOAD_TOO_LARGE, error));
            }
            text.extend_from_slice(&chunk);
        }
        let text = String::from_utf8_lossy(&text).into_owned();
        if status.is_success() {
            return Ok(text);
        }
        let shown: String = text.chars().take(300).collect::<String>().escape_debug().to_string();
        let error = Error::upstream(format!("LAVA answers {} with {status}: {shown}", url));
        let error = match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                error.hint("check the token (lab.toml, `token_file`) and its permissions")
            }
            _ => error.hint("check the server, and `url` in lab.toml"),
        };
        Err(Trouble::Refused(status, error))
    }
}

/// Whether a second try has the same answer.
fn is_final(status: StatusCode) -> bool {
    status.is_redirection() || status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS
}

fn parsed<T: DeserializeOwned>(answer: &str) -> Result<T> {
    serde_json::from_str(answer).map_err(|error| {
        Error::upstream("an answer of LAVA is not as documented")
            .because(&error)
            .hint("the agent needs the REST API v0.2")
    })
}

/// An id, which servers write as a number or as text.
fn id_of(value: &serde_json::Value) -> Result<u64> {
    let id = value.as_u64().or_else(|| value.as_str()?.parse().ok());
    id.ok_or_else(|| Error::upstream(format!("LAVA names the job `{value}`, which is not a number")))
}

/// `error_type: Infrastructure` in a text of YAML, or the same field of an object.
fn error_type(metadata: &serde_json::Value) -> Option<String> {
    let word = match metadata {
        serde_json::Value::String(text) => {
            let line = text.lines().find_map(|line| line.trim().strip_prefix("error_type:"))?;
            line.trim().trim_matches(['\'', '"']).to_owned()
        }
        other => other.get("error_type")?.as_str()?.to_owned(),
    };
    Some(word).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_type_of_an_error_is_found_in_text_and_in_objects() {
        for (metadata, wanted) in [
            (json!("case: job\nerror_type: Infrastructure\nresult: fail\n"), Some("Infrastructure")),
            (json!("  error_type: 'Test'"), Some("Test")),
            (json!({ "error_type": "Job" }), Some("Job")),
            (json!("error_type:"), None),
            (json!({ "other": 1 }), None),
            (json!(null), None),
        ] {
            assert_eq!(error_type(&metadata).as_deref(), wanted, "{metadata}");
        }
        assert_eq!(id_of(&json!("17")).ok(), Some(17));
        assert_eq!(id_of(&json!(17)).ok(), Some(17));
        assert!(id_of(&json!("17.0")).is_err());
    }
}
