//! Decides what a change is compared with: a pure function of the request and of the service's variables.

use url::Url;

use agent_types::error::{Error, Result};

use super::change::{BaseOfChange, ChangeBase, NO_BASE};
use super::environment::AgentEnvironment;
use super::load::evidence;
use super::request::Request;
use super::trust;

/// The base whose rules apply to a change: that of `--base` or of a pull request. `own_url` is the repository of the
/// checkout, where git knows one.
///
/// # Errors
/// Usage, if `--base` is not a revision.
pub fn base_of_change(
    request: &Request,
    env: &AgentEnvironment,
    own_url: impl FnOnce() -> Option<Url>,
) -> Result<Option<BaseOfChange>> {
    if let Some(revision) = &request.base {
        return named(revision).map(Some);
    }
    let (branch, url) = match (&env.github_actions, &env.codebuild) {
        (Some(run), _) => (run.base_branch().map(str::to_owned), run.repository_url()),
        (None, Some(build)) => (build.base_branch.clone(), build.source_url.clone().or_else(own_url)),
        (None, None) => (None, None),
    };
    Ok(branch.map(|branch| BaseOfChange {
        name: branch.clone(),
        // A local branch of the checkout could be the change's own.
        local: vec![format!("refs/remotes/origin/{branch}")],
        remote: url.map(|url| (url, branch)),
        commit: None,
    }))
}

/// What to compare the checkout with.
///
/// # Errors
/// Usage, if `--base` is not a revision.
pub fn change_base(
    request: &Request,
    env: &AgentEnvironment,
    own_url: impl FnOnce() -> Option<Url> + Clone,
) -> Result<ChangeBase> {
    let is_change = trust::is_pull_request(&evidence(request, env))
        || env.github_actions.as_ref().is_some_and(|run| !run.is_of_repository());
    if request.base.is_some() || is_change {
        let base = base_of_change(request, env, own_url)?;
        let unknown = || ChangeBase::Unknown(NO_BASE.to_owned());
        return Ok(base.map_or_else(unknown, ChangeBase::Base));
    }
    Ok(push(env, own_url))
}

/// The commit of the branch before a push.
fn push(env: &AgentEnvironment, own_url: impl FnOnce() -> Option<Url>) -> ChangeBase {
    let (before, url, branch) = match (&env.github_actions, &env.codebuild) {
        (Some(run), _) => {
            let branch = run.git_ref.as_deref().and_then(|name| name.strip_prefix("refs/heads/"));
            (run.payload.before.clone(), run.repository_url(), branch.map(str::to_owned))
        }
        (None, Some(build)) => {
            (build.previous_commit.clone(), build.source_url.clone().or_else(own_url), build.branch())
        }
        (None, None) => (None, None, None),
    };
    let Some(before) = before else { return ChangeBase::Previous };
    // Git's notation for no commit.
    if before.bytes().all(|digit| digit == b'0') {
        return ChangeBase::Unknown("the branch is new".to_owned());
    }
    ChangeBase::Base(BaseOfChange {
        name: "the commit before the push".to_owned(),
        local: vec![before.clone()],
        remote: url.zip(branch),
        commit: Some(before),
    })
}

/// `--base`
fn named(revision: &str) -> Result<BaseOfChange> {
    let bad = |c: char| c.is_control() || c.is_whitespace() || "?*[\\".contains(c);
    if revision.is_empty() || revision.starts_with('-') || revision.contains(bad) || revision.contains("..") {
        return Err(Error::usage(format!("--base {revision:?} is not a branch or commit"))
            .hint("write a name that git knows in the checkout, such as origin/main"));
    }
    Ok(BaseOfChange {
        name: revision.to_owned(),
        local: vec![format!("refs/remotes/origin/{revision}"), revision.to_owned()],
        remote: None,
        commit: None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::github_actions::EventPayload;
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
    const NONE: &str = "0000000000000000000000000000000000000000";

    /// `previous`, `unknown`, or the name of the base with its commit or branch.
    fn word(variables: &[(&str, &str)], before: Option<&str>, base: Option<&str>) -> String {
        let mut env = AgentEnvironment::from_map(variables.iter().copied());
        if let Some(run) = &mut env.github_actions {
            run.payload = EventPayload { before: before.map(str::to_owned), ..EventPayload::default() };
        }
        let request = Request { base: base.map(str::to_owned), ..Request::default() };
        match change_base(&request, &env, || None).unwrap() {
            ChangeBase::Previous => "previous".into(),
            ChangeBase::Unknown(_) => "unknown".into(),
            ChangeBase::Base(base) => {
                let branch = base.remote.map(|(url, branch)| format!("{branch} of {url}"));
                format!("{} ({})", base.commit.unwrap_or(base.name), branch.unwrap_or("here".into()))
            }
        }
    }

    #[test]
    fn a_change_is_compared_with_its_target_branch_and_a_push_with_the_commit_before() {
        let url = ("CODEBUILD_SOURCE_REPO_URL", "https://github.com/o/meta-x.git");
        let event = |name| ("CODEBUILD_WEBHOOK_EVENT", name);
        let trigger = |name| ("CODEBUILD_WEBHOOK_TRIGGER", name);
        let base = ("CODEBUILD_WEBHOOK_BASE_REF", "refs/heads/main");
        let previous = |commit| ("CODEBUILD_WEBHOOK_PREV_COMMIT", commit);
        let github = [
            ("GITHUB_EVENT_NAME", "push"),
            ("GITHUB_REF", "refs/heads/main"),
            ("GITHUB_SERVER_URL", "https://github.com"),
            ("GITHUB_REPOSITORY", "o/meta-x"),
        ];
        let pull = [("GITHUB_EVENT_NAME", "pull_request"), ("GITHUB_REF", "refs/pull/7/merge")];
        let at_url = "main of https://github.com/o/meta-x.git";
        // Variables, the previous commit in GitHub's event, `--base`, and the expected base.
        type Case<'a> = (&'a [(&'a str, &'a str)], Option<&'a str>, Option<&'a str>, String);
        let table: [Case; 12] = [
            (&[], None, None, "previous".into()),
            (&[], None, Some("origin/main"), "origin/main (here)".into()),
            (&github, Some(COMMIT), Some("x"), "x (here)".into()),
            (&github, Some(COMMIT), None, format!("{COMMIT} (main of https://github.com/o/meta-x)")),
            (&github, Some(NONE), None, "unknown".into()),
            (&github, None, None, "previous".into()),
            (&pull, None, None, "unknown".into()),
            (&[("CODEBUILD_BUILD_ID", "p:1")], None, None, "previous".into()),
            (&[("CODEBUILD_SOURCE_VERSION", "pr/7")], None, None, "unknown".into()),
            (
                &[event("PULL_REQUEST_UPDATED"), trigger("pr/7"), base, url],
                None,
                None,
                format!("main ({at_url})"),
            ),
            (
                &[event("PUSH"), trigger("branch/main"), previous(COMMIT), url],
                None,
                None,
                format!("{COMMIT} ({at_url})"),
            ),
            (&[event("PUSH"), trigger("branch/new"), previous(NONE), url], None, None, "unknown".into()),
        ];
        for (variables, before, base, wanted) in table {
            assert_eq!(word(variables, before, base), wanted, "{variables:?} {before:?} {base:?}");
        }
    }
}
