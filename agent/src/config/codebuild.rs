//! CodeBuild's variables, typed. Which exist, and when:
//! <https://docs.aws.amazon.com/codebuild/latest/userguide/build-env-ref-env-vars.html>
//!
//! A manual start sets none of the webhook variables, so their absence says nothing about trust.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use url::Url;

use super::values;
use super::variables::{Typed, Variables};

/// The build of CodeBuild that runs the agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CodeBuild {
    /// `project:uuid`; not suitable for file names.
    pub build_id: Option<String>,
    /// The name of the repository of the primary source. CodeBuild knows it from the project, so no pull request can
    /// change it.
    pub repository: Option<String>,
    /// Absent in batch builds.
    pub build_number: Option<u64>,
    /// The checkout of the primary source.
    pub src_dir: Option<PathBuf>,
    /// The secondary sources by identifier: `CODEBUILD_SRC_DIR_<id>`.
    pub secondary: BTreeMap<String, PathBuf>,
    /// The repository of the primary source.
    pub source_url: Option<Url>,
    /// What was requested: `pr/N`, a branch, a tag, a commit, an S3 ARN.
    pub source_version: Option<String>,
    /// The commit that CodeBuild resolved; for `pr/N` it may differ from HEAD.
    pub resolved_commit: Option<String>,
    /// The commit that git finds checked out in `src_dir`; no variable has it. `None`: unknown.
    pub checked_out: Option<String>,
    /// Whether any webhook variable is set, valid or not: then no person started this build.
    pub webhook: bool,
    pub trigger: Option<Trigger>,
    /// `PUSH`, `PULL_REQUEST_CREATED` …
    pub event: Option<String>,
    /// The target branch of a pull request.
    pub base_branch: Option<String>,
    /// The branch of a pull request in the fork: untrusted text.
    pub head_branch: Option<String>,
    /// The tag that was pushed, if it is not a branch.
    pub head_tag: Option<String>,
    /// The branch's commit before the push; only zeros for a new branch.
    pub previous_commit: Option<String>,
    pub started: Option<SystemTime>,
    pub log_path: Option<String>,
    pub public_url: Option<Url>,
}

/// What started the build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trigger {
    PullRequest(u64),
    Branch(String),
    Tag(String),
}

impl CodeBuild {
    pub(super) fn from_variables(variables: &Variables, notices: &mut Vec<String>) -> Option<CodeBuild> {
        let webhook = variables.iter().any(|(name, _)| name.starts_with("CODEBUILD_WEBHOOK_"));
        let others = ["CODEBUILD_BUILD_ID", "CODEBUILD_SRC_DIR", "CODEBUILD_SOURCE_VERSION"];
        if !webhook && others.iter().all(|name| variables.text(name).is_none()) {
            return None;
        }
        let mut typed = Typed { variables, notices, service: "CodeBuild" };
        let base = typed.read("CODEBUILD_WEBHOOK_BASE_REF", reference);
        let head = typed.read("CODEBUILD_WEBHOOK_HEAD_REF", reference);
        Some(CodeBuild {
            build_id: variables.text("CODEBUILD_BUILD_ID"),
            repository: variables.text("CODEBUILD_SOURCE_REPO_URL").as_deref().and_then(repository),
            build_number: typed.read("CODEBUILD_BUILD_NUMBER", |text| text.parse().ok()),
            src_dir: variables.path("CODEBUILD_SRC_DIR"),
            secondary: variables.paths_of("CODEBUILD_SRC_DIR_"),
            // Other kinds of sources have other texts here, so this is not an error.
            source_url: variables.text("CODEBUILD_SOURCE_REPO_URL").and_then(|text| Url::parse(&text).ok()),
            source_version: variables.text("CODEBUILD_SOURCE_VERSION"),
            // S3 sources have another kind of version here, so this is not an error.
            resolved_commit: variables
                .text("CODEBUILD_RESOLVED_SOURCE_VERSION")
                .and_then(|text| values::commit(&text).ok()),
            checked_out: None,
            webhook,
            trigger: typed.read("CODEBUILD_WEBHOOK_TRIGGER", trigger),
            event: typed.read("CODEBUILD_WEBHOOK_EVENT", |text| {
                text.chars().all(|c| c.is_ascii_uppercase() || c == '_').then(|| text.to_owned())
            }),
            base_branch: base.as_ref().and_then(Reference::branch),
            head_branch: head.as_ref().and_then(Reference::branch),
            head_tag: head.as_ref().and_then(Reference::tag),
            previous_commit: typed.read("CODEBUILD_WEBHOOK_PREV_COMMIT", |text| values::commit(text).ok()),
            started: typed.read("CODEBUILD_START_TIME", |text| {
                SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(text.parse().ok()?))
            }),
            log_path: variables.text("CODEBUILD_LOG_PATH"),
            public_url: typed.read("CODEBUILD_PUBLIC_BUILD_URL", |text| {
                Url::parse(text).ok().filter(|url| url.scheme() == "https")
            }),
        })
    }

    /// The project that runs the build.
    pub fn project(&self) -> Option<&str> {
        self.build_id.as_deref()?.split(':').next()
    }

    /// The branch that was pushed to.
    pub fn branch(&self) -> Option<String> {
        match &self.trigger {
            Some(Trigger::Branch(branch)) => Some(branch.clone()),
            _ => None,
        }
    }

    /// The secondary source for a repository. Identifiers have only letters, digits and `_`, so `meta_aws` is
    /// the one of `meta-aws`.
    pub fn secondary_source(&self, repo: &str) -> Option<(&str, &PathBuf)> {
        let id: String = repo.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
        self.secondary
            .get_key_value(repo)
            .or_else(|| self.secondary.get_key_value(&id))
            .map(|(id, dir)| (id.as_str(), dir))
    }
}

fn trigger(text: &str) -> Option<Trigger> {
    let (kind, rest) = text.split_once('/')?;
    match kind {
        "pr" => rest.parse().ok().map(Trigger::PullRequest),
        "branch" => values::git_ref(rest).ok().map(|()| Trigger::Branch(rest.into())),
        "tag" => values::git_ref(rest).ok().map(|()| Trigger::Tag(rest.into())),
        _ => None,
    }
}

/// `meta-aws` of `https://github.com/aws4embeddedlinux/meta-aws.git`.
fn repository(url: &str) -> Option<String> {
    let url = Url::parse(url).ok()?;
    let name = url.path().trim_end_matches('/').rsplit('/').next()?;
    Some(name.strip_suffix(".git").unwrap_or(name).to_owned()).filter(|name| !name.is_empty())
}

/// The target of a webhook's reference.
enum Reference {
    Branch(String),
    Tag(String),
}

impl Reference {
    fn branch(&self) -> Option<String> {
        match self {
            Reference::Branch(name) => Some(name.clone()),
            Reference::Tag(_) => None,
        }
    }

    fn tag(&self) -> Option<String> {
        match self {
            Reference::Branch(_) => None,
            Reference::Tag(name) => Some(name.clone()),
        }
    }
}

/// Parses `refs/heads/x`, `refs/tags/x`, or a branch name.
fn reference(text: &str) -> Option<Reference> {
    let (make, name): (fn(String) -> Reference, &str) = match text.strip_prefix("refs/tags/") {
        Some(name) => (Reference::Tag, name),
        None => (Reference::Branch, text.strip_prefix("refs/heads/").unwrap_or(text)),
    };
    values::git_ref(name).ok().map(|()| make(name.to_owned()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::AgentEnvironment;
    use super::*;

    fn read(variables: &[(&str, &str)]) -> (CodeBuild, Vec<String>) {
        let id = ("CODEBUILD_BUILD_ID", "project:0f5d7e0c");
        let environment = AgentEnvironment::from_map(variables.iter().copied().chain([id]));
        (environment.codebuild.unwrap(), environment.notices)
    }

    #[test]
    fn parses_a_pull_request() {
        let (build, notices) = read(&[
            ("CODEBUILD_BUILD_NUMBER", "17"),
            ("CODEBUILD_SRC_DIR", "/codebuild/output/src1/src"),
            ("CODEBUILD_SRC_DIR_meta_aws", "/codebuild/output/src2"),
            ("CODEBUILD_RESOLVED_SOURCE_VERSION", "0123456789abcdef0123456789abcdef01234567"),
            ("CODEBUILD_WEBHOOK_TRIGGER", "pr/12"),
            ("CODEBUILD_WEBHOOK_EVENT", "PULL_REQUEST_UPDATED"),
            ("CODEBUILD_WEBHOOK_BASE_REF", "refs/heads/scarthgap"),
            ("CODEBUILD_WEBHOOK_HEAD_REF", "refs/heads/fix/it"),
            ("CODEBUILD_START_TIME", "1767323045000"),
            ("CODEBUILD_PUBLIC_BUILD_URL", "https://eu-west-1.codebuild.aws.amazon.com/project/x"),
        ]);
        assert!(notices.is_empty(), "{notices:?}");
        assert_eq!(build.build_number, Some(17));
        assert_eq!(build.trigger, Some(Trigger::PullRequest(12)));
        assert_eq!(build.base_branch.as_deref(), Some("scarthgap"));
        assert_eq!(build.head_branch.as_deref(), Some("fix/it"));
        assert!(build.resolved_commit.is_some());
        let started = humantime::format_rfc3339_seconds(build.started.unwrap()).to_string();
        assert_eq!(started, "2026-01-02T03:04:05Z", "milliseconds since 1970");
        assert_eq!(build.secondary_source("meta-aws").unwrap().0, "meta_aws");
        assert_eq!(build.secondary_source("poky"), None);
    }

    #[test]
    fn names_the_project_and_the_repository() {
        for (url, wanted) in [
            ("https://github.com/aws4embeddedlinux/meta-aws", Some("meta-aws")),
            ("https://github.com/aws4embeddedlinux/meta-aws.git", Some("meta-aws")),
            ("https://git-codecommit.eu-west-1.amazonaws.com/v1/repos/meta-x/", Some("meta-x")),
            ("https://github.com", None),
            ("bucket/key.zip", None),
            ("", None),
        ] {
            let (build, notices) = read(&[("CODEBUILD_SOURCE_REPO_URL", url)]);
            assert_eq!((build.repository.as_deref(), build.project()), (wanted, Some("project")), "{url}");
            assert!(notices.is_empty(), "{notices:?}");
        }
    }

    #[test]
    fn ignores_and_reports_unexpected_values() {
        let (build, notices) = read(&[
            ("CODEBUILD_BUILD_NUMBER", "many"),
            ("CODEBUILD_WEBHOOK_TRIGGER", "pr/x"),
            ("CODEBUILD_WEBHOOK_EVENT", "PUSH\n::error::"),
            ("CODEBUILD_WEBHOOK_HEAD_REF", "refs/heads/$(rm -rf ~)"),
            ("CODEBUILD_PUBLIC_BUILD_URL", "javascript:alert(1)"),
            ("CODEBUILD_START_TIME", "18446744073709551616"),
            ("CODEBUILD_RESOLVED_SOURCE_VERSION", "arn:aws:s3:::bucket/key"),
        ]);
        let only_id = CodeBuild { build_id: build.build_id.clone(), webhook: true, ..CodeBuild::default() };
        assert_eq!(build, only_id);
        assert_eq!(notices.len(), 6, "{notices:?}");
        assert!(notices.iter().all(|notice| !notice.contains('\n')), "{notices:?}");
    }

    #[test]
    fn parses_a_pushed_tag() {
        let (build, notices) = read(&[
            ("CODEBUILD_WEBHOOK_TRIGGER", "tag/v1.2"),
            ("CODEBUILD_WEBHOOK_EVENT", "PUSH"),
            ("CODEBUILD_WEBHOOK_HEAD_REF", "refs/tags/v1.2"),
            ("CODEBUILD_WEBHOOK_BASE_REF", "refs/tags/v1.2"),
        ]);
        assert!(notices.is_empty(), "{notices:?}");
        assert_eq!(build.trigger, Some(Trigger::Tag("v1.2".into())));
        assert_eq!(
            (build.head_tag.as_deref(), build.head_branch, build.base_branch),
            (Some("v1.2"), None, None)
        );
        for text in ["refs/tags/", "refs/tags/-x", "refs/tags/a b", "refs/pull/1/../x"] {
            let (build, notices) = read(&[("CODEBUILD_WEBHOOK_HEAD_REF", text)]);
            assert_eq!((build.head_tag, build.head_branch, notices.len()), (None, None, 1), "{text}");
        }
    }

    #[test]
    fn parses_triggers() {
        for (text, wanted) in [
            ("branch/feature/x", Some(Trigger::Branch("feature/x".into()))),
            ("tag/v1", Some(Trigger::Tag("v1".into()))),
            ("branch/--x", None),
            ("scarthgap", None),
        ] {
            assert_eq!(trigger(text), wanted, "{text}");
        }
    }
}
