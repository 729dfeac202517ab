//! SARIF for GitHub's code scanning: <https://docs.github.com/en/rest/code-scanning/code-scanning>.

use std::io::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde::Deserialize;
use serde_json::json;

use super::client::{Call, Client};
use super::create::{Sent, create};
use super::failure::{Failure, Result};
use super::repository::Repository;

/// Maximum bytes of a compressed upload.
const LIMIT: usize = 10_000_000;

/// Where the findings belong.
#[derive(Clone, Debug)]
pub struct Analysis<'a> {
    pub commit: &'a str,
    /// `refs/heads/NAME`, `refs/pull/NUMBER/head`
    pub git_ref: &'a str,
    /// The name of the tool in the SARIF.
    pub tool: &'a str,
    /// The category in the SARIF: an analysis replaces the earlier one of the same category.
    pub category: &'a str,
}

/// Uploads SARIF. GitHub reads it later.
///
/// # Errors
/// If it is too large, GitHub does not accept it, or the deadline comes first.
pub async fn upload(
    client: &Client,
    repository: &Repository,
    analysis: &Analysis<'_>,
    sarif: &str,
) -> Result<()> {
    let compressed = compress(sarif)?;
    let body = json!({
        "commit_sha": analysis.commit,
        "ref": analysis.git_ref,
        "sarif": STANDARD.encode(compressed),
        "tool_name": analysis.tool,
    });
    let path = ["repos", &repository.owner, &repository.name, "code-scanning", "sarifs"];
    let call = Call::post(&path, body);
    let send = || -> Sent<'_, _> { Box::pin(async { client.done(&call).await }) };
    let look_up = || -> Sent<'_, _> {
        Box::pin(async { is_known(client, repository, analysis).await.map(|known| known.then_some(())) })
    };
    create(client, send, look_up).await
}

/// Whether GitHub has read an analysis of this commit and category.
async fn is_known(client: &Client, repository: &Repository, analysis: &Analysis<'_>) -> Result<bool> {
    #[derive(Deserialize)]
    struct Known {
        commit_sha: String,
        #[serde(default)]
        category: Option<String>,
    }
    let path = ["repos", &repository.owner, &repository.name, "code-scanning", "analyses"];
    let call = Call::get(&path).query("ref", analysis.git_ref).query("tool_name", analysis.tool);
    match client.json::<Vec<Known>>(&call).await {
        Ok(known) => Ok(known.iter().any(|known| {
            known.commit_sha == analysis.commit && known.category.as_deref() == Some(analysis.category)
        })),
        // GitHub's answer if there is no analysis yet.
        Err(Failure::NotFound(_)) => Ok(false),
        Err(failure) => Err(failure),
    }
}

fn compress(sarif: &str) -> Result<Vec<u8>> {
    let failed = |error: std::io::Error| Failure::Input(format!("cannot compress the SARIF: {error}"));
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(sarif.as_bytes()).map_err(failed)?;
    let compressed = encoder.finish().map_err(failed)?;
    match compressed.len() {
        0..=LIMIT => Ok(compressed),
        bytes => {
            Err(Failure::Input(format!("the SARIF has {bytes} compressed bytes, and GitHub accepts {LIMIT}")))
        }
    }
}
