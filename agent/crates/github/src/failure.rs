//! Why a request to GitHub failed.

use std::time::Duration;

use agent_types::sanitize::sanitize_line;

pub type Result<T, E = Failure> = std::result::Result<T, E>;

/// A failed request. Texts of GitHub are sanitized.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    #[error("GitHub does not accept the credential (401): {0}")]
    Unauthorized(String),
    #[error("the credential does not allow it (403): {0}")]
    Forbidden(String),
    #[error("GitHub answers 404 ({0}): it does not exist, or the credential cannot see it")]
    NotFound(String),
    /// GitHub understood the request and does not accept it.
    #[error("GitHub refuses it ({status}): {message}")]
    Refused { status: u16, message: String },
    #[error("GitHub's rate limit is reached; it asks to wait {}", humantime::format_duration(*.0))]
    RateLimited(Duration),
    /// Nothing happened at GitHub.
    #[error("GitHub does not answer: {0}")]
    Unavailable(String),
    /// The request may have had an effect. Only a lookup shows it.
    #[error("GitHub did not confirm it: {0}")]
    Unclear(String),
    #[error("the time for GitHub is over; last: {0}")]
    OutOfTime(String),
    /// The answer is not what GitHub documents.
    #[error("GitHub's answer cannot be read: {0}")]
    Unreadable(String),
    /// The key of the App, or another input, is wrong.
    #[error("{0}")]
    Input(String),
}

impl Failure {
    /// The failure for an answer that is neither a success nor worth a retry.
    pub(crate) fn of(status: u16, message: &str) -> Failure {
        let message = sanitize_line(message).into_owned();
        match status {
            401 => Failure::Unauthorized(message),
            403 => Failure::Forbidden(message),
            404 | 410 => Failure::NotFound(message),
            300..=399 => Failure::Refused {
                status,
                message: "it redirects; the repository has another name or address now".to_owned(),
            },
            _ => Failure::Refused { status, message },
        }
    }

    /// Whether the credential, and not the request, is the reason.
    pub fn is_about_credential(&self) -> bool {
        matches!(self, Failure::Unauthorized(_) | Failure::Forbidden(_) | Failure::NotFound(_))
    }
}
