//! A GitHub App's identity: a signed statement, and a token for one repository in exchange for it.

use std::time::{Duration, SystemTime};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair;
use aws_lc_rs::signature::RSA_PKCS1_SHA256;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use serde::Deserialize;
use serde_json::json;

use super::client::{Call, Client};
use super::failure::{Failure, Result};
use super::repository::Repository;

/// Clocks differ.
const BACKDATED: Duration = Duration::from_secs(60);

/// GitHub accepts at most ten minutes.
const VALID: Duration = Duration::from_secs(9 * 60);

/// What a token may do. A token has one of these rights and no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Permission {
    Statuses,
    Checks,
    PullRequests,
    CodeScanning,
    /// Only reads pull requests.
    ReadPullRequests,
    /// Only reads commits.
    ReadContents,
}

impl Permission {
    /// As the API names it.
    fn pair(self) -> (&'static str, &'static str) {
        match self {
            Permission::Statuses => ("statuses", "write"),
            Permission::Checks => ("checks", "write"),
            Permission::PullRequests => ("pull_requests", "write"),
            Permission::CodeScanning => ("security_events", "write"),
            Permission::ReadPullRequests => ("pull_requests", "read"),
            Permission::ReadContents => ("contents", "read"),
        }
    }
}

/// As GitHub's pages name it: `Checks: write`.
impl std::fmt::Display for Permission {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Permission::Statuses => "Commit statuses: write",
            Permission::Checks => "Checks: write",
            Permission::PullRequests => "Pull requests: write",
            Permission::CodeScanning => "Code scanning alerts: write",
            Permission::ReadPullRequests => "Pull requests: read",
            Permission::ReadContents => "Contents: read",
        })
    }
}

/// A GitHub App with its key.
pub struct App {
    /// The client id, or the number of the App.
    id: String,
    key: KeyPair,
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App").field("id", &self.id).finish_non_exhaustive()
    }
}

impl App {
    /// `pem` is the key file that GitHub offers for download. In JSON, its line ends may be written as `\n`.
    ///
    /// # Errors
    /// If it is not an RSA key. The message never contains the text.
    pub fn new(id: &str, pem: &str) -> Result<App> {
        let bad = || {
            Failure::Input(
                "the key of the GitHub App is not an RSA key in PEM: store the whole .pem file of GitHub in the secret"
                    .to_owned(),
            )
        };
        let pem = match pem.trim().contains('\n') {
            true => pem.to_owned(),
            false => pem.replace("\\n", "\n"),
        };
        let key = match PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|_| bad())? {
            PrivateKeyDer::Pkcs1(key) => KeyPair::from_der(key.secret_pkcs1_der()),
            PrivateKeyDer::Pkcs8(key) => KeyPair::from_pkcs8(key.secret_pkcs8_der()),
            _ => return Err(bad()),
        };
        Ok(App { id: id.to_owned(), key: key.map_err(|_| bad())? })
    }

    /// The signed statement (JWT, RS256) that this is the App.
    ///
    /// # Errors
    /// If it cannot be signed.
    pub fn statement(&self, now: SystemTime) -> Result<String> {
        let seconds =
            |at: SystemTime| at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
        let issued = now.checked_sub(BACKDATED).unwrap_or(now);
        let claims = json!({ "iat": seconds(issued), "exp": seconds(now + VALID), "iss": self.id });
        let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(json!({ "alg": "RS256", "typ": "JWT" })), part(claims));
        let mut signature = vec![0; self.key.public_modulus_len()];
        self.key
            .sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
            .map_err(|_| Failure::Input("the key of the GitHub App cannot sign".to_owned()))?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }

    /// A token with one permission in one repository, for an hour. The client's own token does not matter.
    ///
    /// # Errors
    /// If the App is not installed there, or does not have the permission.
    pub async fn token(
        &self,
        client: &Client,
        repository: &Repository,
        permission: Permission,
    ) -> Result<String> {
        #[derive(Deserialize)]
        struct Installation {
            id: u64,
        }
        #[derive(Deserialize)]
        struct Token {
            token: String,
        }
        let client = client.with_token(&self.statement(SystemTime::now())?)?;
        let call = Call::get(&["repos", &repository.owner, &repository.name, "installation"]);
        let installation: Installation = client.json(&call).await.map_err(|failure| match failure {
            Failure::NotFound(_) => {
                Failure::Input(format!("the GitHub App {} is not installed in {repository}", self.id))
            }
            other => other,
        })?;
        let (name, access) = permission.pair();
        let body = json!({ "repositories": [repository.name], "permissions": { name: access } });
        let path = ["app", "installations", &installation.id.to_string(), "access_tokens"];
        // A second token does no harm.
        let call = Call::post(&path, body).repeatable();
        let token: Token = client.json(&call).await.map_err(|failure| match failure {
            Failure::Refused { status: 422, .. } => Failure::Forbidden(format!(
                "the GitHub App {} lacks the permission `{permission}` in {repository}",
                self.id
            )),
            other => other,
        })?;
        Ok(token.token)
    }
}
