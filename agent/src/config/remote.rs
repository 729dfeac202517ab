//! Downloads manifests from `https://` and `s3://` URLs.

use std::time::Duration;

use bytes::BytesMut;
use futures_util::StreamExt;
use reqwest::redirect;
use sha2::{Digest, Sha256};
use url::Url;

use agent_artifacts::aws;
use agent_fs::untrusted;
use agent_types::error::{Error, Result};
use agent_types::words::hexadecimal;

/// Maximum size in bytes. A manifest is a page of text.
const LIMIT: usize = untrusted::PAGE as usize;
/// Time limit for the whole answer.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
const REDIRECTS: usize = 5;

/// A downloaded manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// The URL without secrets.
    pub name: String,
    pub text: String,
    /// SHA-256 of the received bytes, lower-case hexadecimal.
    pub sha256: String,
    /// A notice: without `--manifest-sha256` nothing verifies the manifest.
    pub notice: Option<String>,
}

/// Whether a manifest's name is a URL that [`fetch`] accepts, or rejects with a reason.
pub fn is_address(manifest: &str) -> bool {
    let scheme = manifest.split_once("://").map(|(scheme, _)| scheme);
    scheme.is_some_and(|scheme| !scheme.is_empty() && scheme.chars().all(|c| c.is_ascii_alphanumeric()))
}

/// Downloads a manifest. `sha256` is `--manifest-sha256`.
///
/// # Errors
/// Usage, if the URL is invalid, does not exist, or has another content than expected; upstream, if the
/// server does not answer.
pub async fn fetch(address: &str, sha256: Option<&str>) -> Result<Remote> {
    let wanted = sha256.map(digest).transpose()?;
    let bytes = if address.starts_with("s3://") {
        let read = aws::read_object(address, LIMIT);
        tokio::time::timeout(READ_TIMEOUT, read).await.map_err(|_| too_slow(address))??.to_vec()
    } else {
        download(address).await?
    };
    let shown = shown(address);
    let sha256 = hexadecimal(&Sha256::digest(&bytes));
    if let Some(wanted) = &wanted
        && *wanted != sha256
    {
        return Err(Error::usage(format!(
            "{shown} does not match --manifest-sha256: expected {wanted}, got {sha256}"
        ))
        .hint("check what changed; if the change is correct, use the new digest"));
    }
    let text = String::from_utf8(bytes).map_err(|source| {
        Error::usage(format!(
            "{shown} is not a manifest: byte {} is not UTF-8",
            source.utf8_error().valid_up_to()
        ))
    })?;
    let notice =
        wanted.is_none().then(|| format!("{shown} was not verified; pin it with --manifest-sha256 {sha256}"));
    Ok(Remote { name: shown, text, sha256, notice })
}

async fn download(address: &str) -> Result<Vec<u8>> {
    let url = Url::parse(address)
        .map_err(|source| Error::usage(format!("`{address}` is not a URL")).because(&source))?;
    if url.scheme() != "https" && !(url.scheme() == "http" && aws::is_loopback(&url)) {
        return Err(Error::usage(format!("{} is not https://", shown(address)))
            .hint("its content could be changed in transit; use https:// or s3://"));
    }
    let failed = |source: reqwest::Error| {
        if source.is_timeout() {
            return too_slow(address);
        }
        // Redirect errors show the whole URL, which may contain a signature.
        let source = source.without_url();
        Error::upstream(format!("cannot fetch {}", shown(address)))
            .because(&source)
            .hint("check the URL and the network (HTTPS_PROXY)")
    };
    let client = reqwest::Client::builder()
        .timeout(READ_TIMEOUT)
        .redirect(redirect::Policy::custom(follow))
        .user_agent(concat!("build-agent/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|source| {
            Error::machine("cannot set up https")
                .because(&source)
                .hint("install ca-certificates, or set SSL_CERT_FILE")
        })?;
    let answer = client.get(url).send().await.map_err(failed)?;
    let status = answer.status();
    if !status.is_success() {
        let message = format!("{} answered {status}", shown(address));
        return Err(match status.as_u16() {
            404 | 410 => Error::usage(message).hint("check the address"),
            401 | 403 => Error::usage(message).hint("use a URL that needs no credentials"),
            _ => Error::upstream(message).hint("try again later"),
        });
    }
    let mut whole = BytesMut::new();
    let mut stream = answer.bytes_stream();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(failed)?;
        if whole.len() + chunk.len() > LIMIT {
            return Err(Error::usage(format!("{} is larger than {LIMIT} bytes", shown(address)))
                .hint("it is probably not a manifest"));
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.to_vec())
}

fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    if attempt.previous().len() > REDIRECTS {
        attempt.error("too many redirects")
    } else if attempt.url().scheme() != "https" {
        attempt.error("it redirects to a URL that is not https://")
    } else {
        attempt.follow()
    }
}

fn too_slow(address: &str) -> Error {
    Error::upstream(format!(
        "{} did not answer within {}",
        shown(address),
        humantime::format_duration(READ_TIMEOUT)
    ))
    .hint("check the network (HTTPS_PROXY)")
}

/// The URL without secrets: user, password, and the query with its signatures.
fn shown(address: &str) -> String {
    match Url::parse(address) {
        Ok(mut url) => {
            // Both fail only for URLs without a host, which have nothing to hide.
            let _ = url.set_username("");
            let _ = url.set_password(None);
            url.set_query(None);
            url.set_fragment(None);
            url.into()
        }
        Err(_) => address.to_owned(),
    }
}

fn digest(text: &str) -> Result<String> {
    let text = text.trim().to_ascii_lowercase();
    if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        Ok(text)
    } else {
        Err(Error::usage(format!("--manifest-sha256 `{text}` is not a SHA-256: 64 hexadecimal digits")))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use agent_types::error::Class;

    /// Answers every connection on loopback with the same bytes.
    async fn server(answer: Vec<u8>) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}/m.toml", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(&answer).await;
            }
        });
        address
    }

    fn ok(body: &[u8]) -> Vec<u8> {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        [head.as_bytes(), body].concat()
    }

    #[tokio::test]
    async fn downloads_a_manifest_and_its_digest() {
        // `printf 'version = 1\n' | sha256sum`
        let sha = "dbab12665d98aef021ba64953c61b0ed8a908cfb56a1c01e2fcb4b052b71a2a1";
        let address = server(ok(b"version = 1\n")).await;
        let got = fetch(&address, None).await.unwrap();
        assert_eq!((got.text.as_str(), got.sha256.as_str()), ("version = 1\n", sha));
        assert!(got.notice.unwrap().contains(sha));
        let pinned = fetch(&address, Some(&sha.to_uppercase())).await.unwrap();
        assert_eq!(pinned.notice, None);
        let other = "0".repeat(64);
        let error = fetch(&address, Some(&other)).await.unwrap_err();
        assert_eq!(error.class, Class::Usage);
        assert!(error.message.contains(&other) && error.message.contains(sha), "{error}");
    }

    #[tokio::test]
    async fn rejects_bad_answers() {
        let table: [(&str, Vec<u8>, Class); 7] = [
            ("too large", ok(&vec![b'#'; LIMIT + 1]), Class::Usage),
            ("not UTF-8", ok(b"name = \"\xff\""), Class::Usage),
            ("gone", b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec(), Class::Usage),
            ("sick", b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n".to_vec(), Class::Upstream),
            (
                "to plain http",
                b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n".to_vec(),
                Class::Upstream,
            ),
            (
                "cut",
                b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\nversion".to_vec(),
                Class::Upstream,
            ),
            ("not HTTP", b"hello\r\n".to_vec(), Class::Upstream),
        ];
        for (name, answer, class) in table {
            let error = fetch(&server(answer).await, None).await.unwrap_err();
            assert_eq!(error.class, class, "{name}: {error}");
        }
    }

    #[tokio::test]
    async fn rejects_urls_without_a_request() {
        for address in ["http://example.org/m.toml", "ftp://example.org/m", "s3://", "https://"] {
            assert_eq!(fetch(address, None).await.unwrap_err().class, Class::Usage, "{address}");
        }
        assert!(is_address("HTTPS://example.org/m") && is_address("file:///m"));
        assert!(!is_address("m.toml") && !is_address("a/b://c") && !is_address("://c"));
        let error = fetch("https://example.org/m.toml", Some("abc")).await.unwrap_err();
        assert!(error.message.contains("--manifest-sha256"), "{error}");
    }

    #[test]
    fn hides_secrets_in_urls() {
        let address = "https://me:pw@example.org/a%20b/m.toml?X-Amz-Signature=abc#frag";
        assert_eq!(shown(address), "https://example.org/a%20b/m.toml");
    }
}
