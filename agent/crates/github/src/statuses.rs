//! Commit statuses: <https://docs.github.com/en/rest/commits/statuses>.

use serde::{Deserialize, Serialize};

use super::client::{Call, Client};
use super::create::{Sent, create};
use super::failure::{Failure, Result};
use super::repository::Repository;

/// Maximum characters of a description.
const DESCRIPTION: usize = 140;

/// Maximum characters of a context.
const CONTEXT: usize = 255;

/// The state of a status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Pending,
    Success,
    Failure,
    Error,
}

/// One status of a commit. A newer one with the same context replaces it on GitHub's pages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    pub state: State,
    pub context: String,
    #[serde(default)]
    pub description: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_url: Option<String>,
}

impl Status {
    /// The same, as GitHub accepts it.
    #[must_use]
    pub fn fitting(mut self) -> Status {
        shorten(&mut self.context, CONTEXT);
        shorten(&mut self.description, DESCRIPTION);
        self
    }
}

/// Cuts the end of a text that has too many characters.
pub(crate) fn shorten(text: &mut String, limit: usize) {
    if text.chars().count() > limit {
        *text = text.chars().take(limit.saturating_sub(1)).chain(['…']).collect();
    }
}

/// Posts one status.
///
/// # Errors
/// If GitHub does not accept it, or the deadline comes first.
pub async fn post(client: &Client, repository: &Repository, commit: &str, status: &Status) -> Result<()> {
    let status = status.clone().fitting();
    let body =
        serde_json::to_value(&status).map_err(|error| Failure::Input(format!("no status: {error}")))?;
    let path = ["repos", &repository.owner, &repository.name, "statuses", commit];
    let call = Call::post(&path, body);
    let send = || -> Sent<'_, _> { Box::pin(async { client.done(&call).await }) };
    let look_up = || -> Sent<'_, _> {
        Box::pin(async {
            // The newest comes first.
            let path = ["repos", &repository.owner, &repository.name, "commits", commit, "statuses"];
            let known: Vec<Status> = client.json(&Call::get(&path).query("per_page", 100)).await?;
            let newest = known.into_iter().find(|known| known.context == status.context);
            Ok(newest.filter(|newest| *newest == status).map(drop))
        })
    };
    create(client, send, look_up).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_texts_are_cut_between_characters() {
        let status = Status {
            state: State::Failure,
            context: "x".repeat(300),
            description: "€".repeat(141),
            target_url: None,
        };
        let fitting = status.fitting();
        assert_eq!(fitting.context.chars().count(), 255);
        assert_eq!(fitting.description.chars().count(), 140);
        assert!(fitting.description.ends_with("€…"));
        let mut exact = "y".repeat(140);
        shorten(&mut exact, 140);
        assert_eq!(exact, "y".repeat(140));
    }
}
