//! A stand-in of GitHub's API (`tests/stand-ins/github/server.py`): state, permissions, faults, and all exchanges.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::stand_in::StandIn;
use crate::{npm_package, repository};

/// The package with GitHub's OpenAPI description, and its version.
const OPENAPI: (&str, &str) = ("@octokit/openapi", "23.0.2");

/// The server; stopped when the value is dropped.
pub struct GitHubServer {
    server: StandIn,
    directory: tempfile::TempDir,
}

impl GitHubServer {
    /// Serves the repository `example/meta-tested`. `more` adds to the configuration: `commits`, `pulls`, `app`, …
    pub fn start(more: &Value) -> GitHubServer {
        let directory = tempfile::tempdir().expect("a directory");
        let all = ["statuses", "checks", "pull_requests", "security_events", "contents"];
        let config = json!({
            "repository": "example/meta-tested",
            "commits": {},
            "tokens": {
                "ghp_robot": { "login": "robot", "permissions": ["statuses", "pull_requests", "security_events"] },
                "ghs_actions": { "login": "github-actions[bot]", "type": "Bot", "permissions": all },
                "ghp_reader": { "login": "reader", "permissions": [] },
            },
        });
        let server = StandIn::start("python3".into(), "github", directory.path(), config, more);
        GitHubServer { server, directory }
    }

    /// The address of the API.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.server.port)
    }

    /// Makes later requests fail; see the stand-in.
    pub fn faults(&self, faults: &Value) {
        self.server.request("POST", "/_faults", &faults.to_string());
    }

    /// Everything that was posted.
    pub fn state(&self) -> Value {
        serde_json::from_str(&self.server.request("GET", "/_state", "")).expect("JSON")
    }

    /// All requests with their answers.
    pub fn exchanges(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.record()).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    fn record(&self) -> PathBuf {
        self.directory.path().join("exchanges.jsonl")
    }

    /// Compares all requests and answers with GitHub's published description. Without that description, this is skipped with a line.
    #[track_caller]
    pub fn assert_as_described(&self, test: &str) {
        let Some(package) = npm_package(test, OPENAPI.0, OPENAPI.1) else { return };
        let description = package.join("generated/api.github.com.json");
        let script = repository().join("tests/stand-ins/github/openapi.py");
        let compared = Command::new("python3")
            .arg(script)
            .arg(description)
            .arg(self.record())
            .output()
            .expect("python3");
        assert!(
            compared.status.success(),
            "{}{}",
            String::from_utf8_lossy(&compared.stdout),
            String::from_utf8_lossy(&compared.stderr)
        );
    }
}

impl Drop for GitHubServer {
    fn drop(&mut self) {
        let _ = self.server.child.kill();
        let _ = self.server.child.wait();
    }
}

/// Makes an RSA key as GitHub offers it for download (PKCS #1), and its public part; `None` without openssl.
pub fn app_key(directory: &Path) -> Option<(String, PathBuf)> {
    let (key, public) = (directory.join("app.pem"), directory.join("app.pub"));
    let run = |words: &[&str]| {
        let ran = Command::new("openssl").args(words).stdout(Stdio::null()).stderr(Stdio::null()).status();
        ran.is_ok_and(|status| status.success())
    };
    let key_path = key.display().to_string();
    let public_path = public.display().to_string();
    let made = run(&["genrsa", "-traditional", "-out", &key_path, "2048"])
        && run(&["rsa", "-in", &key_path, "-pubout", "-out", &public_path]);
    made.then(|| (std::fs::read_to_string(&key).expect("the key"), public))
}
