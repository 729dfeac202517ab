//! `[github]`: where results are posted, and what.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema};
use serde::Deserialize;
use serde_json::json;

/// Where results are posted.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "GitHub")]
pub struct UnvalidatedGitHub {
    /// "owner/name".
    #[schemars(required, extend("pattern" = "^[^/]+/[^/]+$"))]
    pub repository: Option<String>,
    /// Name or ARN of the token in Secrets Manager; locally the variable GITHUB_TOKEN.
    pub token_secret: Option<String>,
    /// What a trusted job posts: "status", "check", "sarif", "comment"; nothing by default.
    #[schemars(extend("uniqueItems" = true))]
    pub report: Option<Vec<GitHubReport>>,
    /// When a pull request without a comment gets one; default "on-failure".
    pub comment: Option<CommentWhen>,
    /// The name of the results on GitHub; default: the job's name and release.
    #[schemars(extend("pattern" = "^[A-Za-z0-9]([A-Za-z0-9 ._/+()-]*[A-Za-z0-9.)])?$"))]
    pub name: Option<String>,
    /// Client id or number of a GitHub App, which can write check runs.
    pub app_id: Option<UnvalidatedAppId>,
    /// Name or ARN of the App's private key (PEM) in Secrets Manager.
    pub app_key_secret: Option<String>,
}

/// What is posted to GitHub.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GitHubReport {
    /// Commit statuses: one for the job, and one for each stage that decides.
    Status,
    /// A check run with annotations. Needs a GitHub App, or the token of a workflow.
    Check,
    /// One comment on a pull request.
    Comment,
    /// Findings for code scanning.
    Sarif,
}

impl GitHubReport {
    pub const ALL: [GitHubReport; 4] =
        [GitHubReport::Status, GitHubReport::Check, GitHubReport::Comment, GitHubReport::Sarif];

    pub fn word(self) -> &'static str {
        match self {
            GitHubReport::Status => "status",
            GitHubReport::Check => "check",
            GitHubReport::Comment => "comment",
            GitHubReport::Sarif => "sarif",
        }
    }
}

impl fmt::Display for GitHubReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for GitHubReport {
    type Err = String;

    fn from_str(text: &str) -> Result<GitHubReport, String> {
        let known = GitHubReport::ALL.into_iter().find(|report| report.word() == text);
        known.ok_or_else(|| "write status, check, comment or sarif".to_owned())
    }
}

/// When a pull request without a comment gets one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum CommentWhen {
    /// If the job did not pass. A comment that exists is always updated.
    #[default]
    OnFailure,
    /// Always.
    Always,
}

impl FromStr for CommentWhen {
    type Err = String;

    fn from_str(text: &str) -> Result<CommentWhen, String> {
        match text {
            "on-failure" => Ok(CommentWhen::OnFailure),
            "always" => Ok(CommentWhen::Always),
            _ => Err("write on-failure or always".to_owned()),
        }
    }
}

/// The client id, or the number of the App.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum UnvalidatedAppId {
    Number(i64),
    ClientId(String),
}

impl JsonSchema for UnvalidatedAppId {
    fn schema_name() -> Cow<'static, str> {
        "AppId".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> Schema {
        let text = json!({ "type": "string", "pattern": "^[A-Za-z0-9._-]+$" });
        schemars::json_schema!({ "anyOf": [text, { "type": "integer", "minimum": 1 }] })
    }
}
