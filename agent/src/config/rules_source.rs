//! Decides the source of a job's rules: a pure function of the request and of the service's variables.

use std::path::PathBuf;

use url::Url;

use agent_types::error::{Error, Result};

use super::change::BaseOfChange;
use super::change_base::base_of_change;
use super::environment::AgentEnvironment;
use super::load::evidence;
use super::request::Request;
use super::trust;

/// The source that the rules must come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RulesSource {
    /// The checkout under test; with a notice, if `--accept-manifest` was given.
    Checkout(Option<String>),
    Base(BaseOfChange),
    /// The source is, or may be, a change whose base is not known.
    NoBase,
}

/// What to do if the base of a change is not known.
pub const NO_BASE_HINT: &str =
    "name the target branch with --base, or start the build by the webhook of the pull request";

/// Decides for a request. `own_url` is the repository of the checkout, where git knows one.
///
/// # Errors
/// Usage, if `--base` is not a revision, or if `--accept-manifest` would apply to every pull request.
pub fn rules_source(
    request: &Request,
    env: &AgentEnvironment,
    own_url: impl FnOnce() -> Option<Url>,
) -> Result<RulesSource> {
    let evidence = evidence(request, env);
    let may_be_change =
        env.github_actions.as_ref().is_some_and(|run| !run.is_of_repository() || run.has_other_commit());
    let is_change = request.base.is_some() || trust::is_pull_request(&evidence) || may_be_change;
    if request.accept_manifest {
        return accepted(is_change, is_change && trust::is_started_by_webhook(&evidence));
    }
    // A manifest from elsewhere is not the change's; its known failures are in the checkout.
    if !is_change || (request.manifest_text.is_some() && !names_known_failures(request)) {
        return Ok(RulesSource::Checkout(None));
    }
    let base = base_of_change(request, env, own_url)?;
    Ok(base.map_or(RulesSource::NoBase, RulesSource::Base))
}

fn accepted(is_change: bool, by_webhook: bool) -> Result<RulesSource> {
    if by_webhook {
        return Err(Error::usage("--accept-manifest is not allowed in a build that a webhook starts").hint(
            "a flag in a buildspec or a workflow would apply the own rules of every pull request; remove it, and use it in a \
            build of this pull request that you start by hand",
        ));
    }
    Ok(RulesSource::Checkout(Some(match is_change {
        true => {
            "the rules are the change's own, because a person accepts them (--accept-manifest)".to_owned()
        }
        false => "the rules come from the checkout, with or without --accept-manifest".to_owned(),
    })))
}

/// Whether a manifest from elsewhere, or a flag, names known failures.
fn names_known_failures(request: &Request) -> bool {
    let text = request.manifest_text.iter().map(|(_, text)| text.as_str());
    text.chain(request.set.iter().map(String::as_str)).any(|text| text.contains("known_failures"))
}

/// The directory whose work tree is the change, as far as it is known before the manifest is found.
pub fn change_dir(
    request: &Request,
    layers: &[PathBuf],
    env: &AgentEnvironment,
    cwd: &std::path::Path,
) -> PathBuf {
    if let Some((_, directory)) = env.source_dir() {
        return directory.to_owned();
    }
    let manifest = request.first_file().map(|path| cwd.join(path));
    let of_manifest = manifest.and_then(|path| match path.is_dir() {
        true => Some(path),
        false => path.parent().map(std::path::Path::to_owned),
    });
    of_manifest.or_else(|| layers.first().map(|layer| cwd.join(layer))).unwrap_or_else(|| cwd.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::github_actions::EventPayload;
    use super::*;

    const PULL: [(&str, &str); 5] = [
        ("GITHUB_EVENT_NAME", "pull_request"),
        ("GITHUB_REF", "refs/pull/7/merge"),
        ("GITHUB_BASE_REF", "release/1"),
        ("GITHUB_SERVER_URL", "https://github.com"),
        ("GITHUB_REPOSITORY", "owner/meta-x"),
    ];
    const IN_CODEBUILD: [(&str, &str); 4] = [
        ("CODEBUILD_WEBHOOK_EVENT", "PULL_REQUEST_UPDATED"),
        ("CODEBUILD_WEBHOOK_TRIGGER", "pr/7"),
        ("CODEBUILD_WEBHOOK_BASE_REF", "refs/heads/main"),
        ("CODEBUILD_SOURCE_REPO_URL", "https://github.com/owner/meta-x.git"),
    ];

    fn source(variables: &[(&str, &str)], request: &Request) -> Result<RulesSource> {
        let env = AgentEnvironment::from_map(variables.iter().copied());
        rules_source(request, &env, || Url::parse("https://own.example/x").ok())
    }

    /// `checkout`, `no base`, `refused`, or `NAME from URL`.
    fn word(source: Result<RulesSource>) -> String {
        match source {
            Ok(RulesSource::Checkout(_)) => "checkout".into(),
            Ok(RulesSource::NoBase) => "no base".into(),
            Ok(RulesSource::Base(base)) => {
                let url = base.remote.map_or("the checkout".into(), |(url, _)| url.to_string());
                format!("{} from {url}", base.name)
            }
            Err(_) => "refused".into(),
        }
    }

    #[test]
    fn the_rules_of_a_pull_request_come_from_its_base() {
        let plain = Request::default();
        let by_hand = [("CODEBUILD_BUILD_ID", "p:1"), ("CODEBUILD_SOURCE_VERSION", "pr/7")];
        let comment = [("GITHUB_EVENT_NAME", "issue_comment"), ("GITHUB_REF", "refs/pull/7/head")];
        let push = [("GITHUB_EVENT_NAME", "push"), ("GITHUB_REF", "refs/heads/main")];
        let after_another = [("GITHUB_EVENT_NAME", "workflow_run"), ("GITHUB_REF", "refs/heads/main")];
        let release = [("GITHUB_EVENT_NAME", "release"), ("GITHUB_REF", "refs/tags/v1")];
        let table: [(&[(&str, &str)], &str); 10] = [
            (&after_another, "no base"),
            (&[("GITHUB_ACTIONS", "true")], "no base"),
            (&release, "checkout"),
            (&PULL, "release/1 from https://github.com/owner/meta-x"),
            (&IN_CODEBUILD, "main from https://github.com/owner/meta-x.git"),
            (&IN_CODEBUILD[..3], "main from https://own.example/x"),
            (&by_hand, "no base"),
            (&comment, "no base"),
            (&push, "checkout"),
            (&[], "checkout"),
        ];
        for (variables, wanted) in table {
            assert_eq!(word(source(variables, &plain)), wanted, "{variables:?}");
            // A person who names the base decides.
            let request = Request { base: Some("origin/x".into()), ..Request::default() };
            assert_eq!(word(source(variables, &request)), "origin/x from the checkout", "{variables:?}");
        }
    }

    #[test]
    fn variable_and_event_have_to_agree_on_the_base() {
        let mut env = AgentEnvironment::from_map(PULL);
        let run = env.github_actions.as_mut().unwrap();
        run.payload = EventPayload { base_branch: Some("other".into()), ..EventPayload::default() };
        let found = rules_source(&Request::default(), &env, || None);
        assert_eq!(word(found), "no base");
    }

    #[test]
    fn a_manifest_from_elsewhere_is_applied_and_its_known_failures_come_from_the_base() {
        let remote = |text: &str| Request {
            manifest_text: Some(("s3://b/m.toml".into(), text.into())),
            ..Request::default()
        };
        assert_eq!(word(source(&IN_CODEBUILD, &remote("version = 1"))), "checkout");
        let with_list = remote("[check]\nknown_failures = 'k.toml'");
        assert!(word(source(&IN_CODEBUILD, &with_list)).starts_with("main from"));
        let by_flag = Request { set: vec!["check.known_failures=k".into()], ..remote("version = 1") };
        assert!(word(source(&IN_CODEBUILD, &by_flag)).starts_with("main from"));
    }

    /// A dispatch or a push whose workflow checks out a pull request.
    #[test]
    fn another_commit_than_the_runs_may_be_a_change() {
        let (sha, other) = ("0".repeat(40), "f".repeat(40));
        for (event, head, wanted) in [
            ("repository_dispatch", &sha, "checkout"),
            ("repository_dispatch", &other, "no base"),
            ("push", &other, "no base"),
            ("release", &other, "no base"),
            ("workflow_dispatch", &other, "checkout"),
            ("schedule", &other, "checkout"),
        ] {
            let mut env = AgentEnvironment::from_map([
                ("GITHUB_EVENT_NAME", event),
                ("GITHUB_REF", "refs/heads/main"),
                ("GITHUB_SHA", sha.as_str()),
                ("GITHUB_WORKSPACE", "/w"),
            ]);
            assert_eq!(
                super::super::load::commit_to_confirm(&env),
                Some(std::path::Path::new("/w")),
                "{event}"
            );
            env.set_checked_out(Some(head.clone()));
            let found = rules_source(&Request::default(), &env, || None);
            assert_eq!(word(found), wanted, "{event} {head}");
        }
    }

    /// A merge group consists of pull requests, so their rules do not apply there, either.
    #[test]
    fn the_rules_of_a_merge_group_come_from_its_base() {
        let variables = [
            ("GITHUB_EVENT_NAME", "merge_group"),
            ("GITHUB_REF", "refs/heads/gh-readonly-queue/main/pr-7-x"),
            ("GITHUB_SERVER_URL", "https://github.com"),
            ("GITHUB_REPOSITORY", "owner/meta-x"),
        ];
        assert_eq!(word(source(&variables, &Request::default())), "no base");
        let mut env = AgentEnvironment::from_map(variables);
        let event = br#"{"merge_group":{"base_ref":"refs/heads/main"}}"#;
        env.github_actions.as_mut().unwrap().payload = EventPayload::parse(event).unwrap();
        let found = rules_source(&Request::default(), &env, || None);
        assert_eq!(word(found), "main from https://github.com/owner/meta-x");
        let accept = Request { accept_manifest: true, ..Request::default() };
        assert_eq!(word(rules_source(&accept, &env, || None)), "refused");
    }

    /// As for `--trusted`: a flag in a buildspec would apply to every pull request.
    #[test]
    fn accept_manifest_is_refused_in_a_build_of_a_webhook() {
        let accept = Request { accept_manifest: true, ..Request::default() };
        let by_hand = [("CODEBUILD_BUILD_ID", "p:1"), ("CODEBUILD_SOURCE_VERSION", "pr/7")];
        let dispatch = [("GITHUB_EVENT_NAME", "workflow_dispatch"), ("GITHUB_REF", "refs/heads/fix")];
        let table: [(&[(&str, &str)], &str); 5] = [
            (&PULL, "refused"),
            (&IN_CODEBUILD, "refused"),
            (&by_hand, "checkout"),
            (&dispatch, "checkout"),
            (&[], "checkout"),
        ];
        for (variables, wanted) in table {
            assert_eq!(word(source(variables, &accept)), wanted, "{variables:?}");
        }
    }

    #[test]
    fn the_base_is_a_revision_and_not_an_option_of_git() {
        for bad in ["", "--all", "-x", "a b", "a..b", "a\nb", "x*"] {
            let request = Request { base: Some(bad.into()), ..Request::default() };
            assert_eq!(word(source(&[], &request)), "refused", "{bad:?}");
        }
    }
}
