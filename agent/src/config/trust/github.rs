//! The trust that GitHub's variables and event give.
//!
//! On GitHub, every user can start a run: by a pull request, by a comment on it, by another run that they started
//! (`workflow_run`). `pull_request_target` and these have the rights of the repository, regardless of what they check
//! out. So only two kinds of runs can be trusted: a push to a protected branch, and a run that a person or a schedule
//! starts with `--trusted`.

use regex::Regex;

use agent_types::error::Result;
use agent_types::tiers::Trust;

use super::super::github_actions::GitHubActions;
use super::{Lost, agreed, by_branch, by_word, proposed, refuse_word, untrusted};

/// The hint for a run whose commit is not that of the event.
const HINT: &str = "let actions/checkout check out the event's own commit (no `ref:`), and let no step before the agent check \
     out something else";

/// The trust in the commit of the run.
pub fn claimed(run: &GitHubActions, branches: Option<&Regex>, flag: bool) -> Result<Trust> {
    if let Some(trust) = pull_request(run) {
        return refuse_word(trust, flag);
    }
    match run.event.as_deref() {
        Some("push") => refuse_word(by_push(run, branches), flag),
        Some(event) if run.is_started_by_hand() => {
            Ok(by_word(flag, &format!("the event is `{event}`, which is trusted only with --trusted")))
        }
        Some(event) => {
            refuse_word(untrusted(format!("the event `{event}` is not a push to a protected branch")), flag)
        }
        None => refuse_word(untrusted("the event is not known (GITHUB_EVENT_NAME)"), flag),
    }
}

/// Whether any variable, or the event, indicates a pull request. One of them is enough.
pub fn pull_request(run: &GitHubActions) -> Option<Trust> {
    let by_event = run.event.as_ref().filter(|event| event.starts_with("pull_request")).map(|_| None);
    let by_ref = run.git_ref.as_deref().and_then(proposed);
    // A pull request of another repository has no number in this one.
    let is_here = match (&run.payload.repository, &run.repository) {
        (Some(one), Some(other)) => one.eq_ignore_ascii_case(other),
        _ => true,
    };
    let by_payload = run.payload.pull_request.map(|number| number.filter(|_| is_here));
    let by_branches = run.has_base_or_head.then_some(None);
    let signs: Vec<Option<u64>> = [by_ref, by_payload, by_event, by_branches].into_iter().flatten().collect();
    if signs.is_empty() {
        return None;
    }
    let number = agreed(&signs);
    let why = match number {
        Some(number) => format!("it is pull request {number}"),
        None => {
            "it is a pull request, and GitHub's variables and event do not agree on its number".to_owned()
        }
    };
    Some(Trust::Untrusted { why, pull_request: number })
}

fn by_push(run: &GitHubActions, branches: Option<&Regex>) -> Trust {
    let Some(branch) = run.git_ref.as_deref().and_then(|name| name.strip_prefix("refs/heads/")) else {
        return untrusted("the event is not a push to a branch");
    };
    if run.payload.git_ref.as_ref().is_some_and(|pushed| Some(pushed) != run.git_ref.as_ref()) {
        return untrusted(format!("GITHUB_REF and the event do not agree on the branch `{branch}`"));
    }
    if run.source_dir.is_none() {
        return untrusted("the layers under test are not in GITHUB_WORKSPACE");
    }
    if !run.ref_is_protected {
        return untrusted(format!("the branch `{branch}` is not protected (GITHUB_REF_PROTECTED)"));
    }
    by_branch(branch, branches)
}

/// Why another commit than that of the run may be checked out.
pub fn not_established(run: &GitHubActions) -> Option<Lost> {
    let resolved = run.commit.as_ref().filter(|_| run.source_dir.is_some());
    let why = match (resolved, &run.checked_out) {
        (Some(resolved), Some(head)) if resolved == head => return None,
        (Some(resolved), Some(head)) => format!("the run is for {resolved}, and {head} is checked out"),
        (Some(resolved), None) => {
            format!("the run is for {resolved}, and git cannot tell which commit is checked out")
        }
        (None, _) => {
            "GitHub does not name the commit of the source (GITHUB_SHA, GITHUB_WORKSPACE)".to_owned()
        }
    };
    Some(Lost { why, hint: HINT })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::super::AgentEnvironment;
    use super::super::super::github_actions::EventPayload;
    use super::super::tests::outcome;
    use super::super::{TrustInputs, judge};

    type Variables<'a> = &'a [(&'a str, &'a str)];

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
    const EVENT: &str = "GITHUB_EVENT_NAME";
    const REF: &str = "GITHUB_REF";
    const PROTECTED: (&str, &str) = ("GITHUB_REF_PROTECTED", "true");
    const BRANCHES: Option<&str> = Some("main|release/.*");
    const MAIN: (&str, &str) = (REF, "refs/heads/main");

    /// `trusted`, `untrusted`, `pr N`, or `refused`.
    fn judged(
        variables: &[(&str, &str)],
        payload: &str,
        branches: Option<&str>,
        flag: bool,
        head: Option<&str>,
    ) -> String {
        let mut environment = AgentEnvironment::from_map(variables.iter().copied());
        environment.set_checked_out(head.map(str::to_owned));
        if let Some(run) = &mut environment.github_actions {
            run.payload = EventPayload::parse(payload.as_bytes()).unwrap_or_default();
        }
        let (github, codebuild) = (environment.github_actions.as_ref(), environment.codebuild.as_ref());
        let judged = judge(&TrustInputs { codebuild, github, branches, trusted_flag: flag });
        outcome(judged)
    }

    const ALWAYS: [(&str, &str); 4] = [
        ("GITHUB_ACTIONS", "true"),
        ("GITHUB_WORKSPACE", "/w"),
        ("GITHUB_SHA", COMMIT),
        ("GITHUB_REPOSITORY", "owner/meta-x"),
    ];

    fn on_github(more: &[(&str, &str)], payload: &str, flag: bool) -> String {
        let variables: Vec<_> = ALWAYS.iter().chain(more).copied().collect();
        judged(&variables, payload, BRANCHES, flag, Some(COMMIT))
    }

    #[test]
    fn a_push_to_a_protected_branch_is_trusted_and_no_other_event() {
        let push = (EVENT, "push");
        let table: [(Variables, &str, &str); 16] = [
            (&[push, MAIN, PROTECTED], "{}", "trusted"),
            (&[push, MAIN, PROTECTED], r#"{"ref":"refs/heads/main"}"#, "trusted"),
            (&[push, (REF, "refs/heads/release/1"), PROTECTED], "{}", "trusted"),
            (&[push, MAIN, PROTECTED], r#"{"ref":"refs/heads/other"}"#, "untrusted"),
            (&[push, MAIN], "{}", "untrusted"),
            (&[push, MAIN, ("GITHUB_REF_PROTECTED", "false")], "{}", "untrusted"),
            (&[push, MAIN, ("GITHUB_REF_PROTECTED", "yes")], "{}", "untrusted"),
            (&[push, (REF, "refs/heads/main-next"), PROTECTED], "{}", "untrusted"),
            (&[push, (REF, "refs/tags/main"), PROTECTED], "{}", "untrusted"),
            (&[push, (REF, "main"), PROTECTED], "{}", "untrusted"),
            (&[push, PROTECTED], "{}", "untrusted"),
            (&[MAIN, PROTECTED], "{}", "untrusted"),
            (&[(EVENT, "workflow_run"), MAIN, PROTECTED], r#"{"workflow_run":{}}"#, "untrusted"),
            (&[(EVENT, "issue_comment"), MAIN, PROTECTED], r#"{"issue":{"number":3}}"#, "untrusted"),
            (
                &[(EVENT, "merge_group"), (REF, "refs/heads/gh-readonly-queue/main/pr-7-x"), PROTECTED],
                "{}",
                "untrusted",
            ),
            (&[(EVENT, "something_new"), MAIN, PROTECTED], "{}", "untrusted"),
        ];
        for (variables, payload, wanted) in table {
            assert_eq!(on_github(variables, payload, false), wanted, "{variables:?} {payload}");
            let with_flag = if wanted == "trusted" { "trusted" } else { "refused" };
            assert_eq!(on_github(variables, payload, true), with_flag, "--trusted, {variables:?} {payload}");
        }
        for (branches, wanted) in [(None, "untrusted"), (Some("x"), "untrusted"), (Some("main"), "trusted")] {
            let variables: Vec<_> = ALWAYS.iter().chain(&[push, MAIN, PROTECTED]).copied().collect();
            assert_eq!(judged(&variables, "{}", branches, false, Some(COMMIT)), wanted, "{branches:?}");
        }
    }

    #[test]
    fn a_pull_request_is_never_trusted_regardless_of_other_variables() {
        let seven = r#"{"number":7,"pull_request":{"number":7},"repository":{"full_name":"Owner/meta-x"}}"#;
        let merge = (REF, "refs/pull/7/merge");
        let table: [(Variables, &str, &str); 15] = [
            (&[(EVENT, "pull_request"), merge], seven, "pr 7"),
            (&[(EVENT, "pull_request"), merge], "{}", "pr 7"),
            (&[(EVENT, "pull_request"), merge], "no JSON", "pr 7"),
            (&[(EVENT, "pull_request"), MAIN, PROTECTED], "{}", "untrusted"),
            (&[(EVENT, "pull_request_target"), MAIN, PROTECTED], seven, "pr 7"),
            (&[(EVENT, "pull_request_review"), merge], seven, "pr 7"),
            (&[(EVENT, "pull_request"), (REF, "refs/pull/8/merge")], seven, "untrusted"),
            (&[(EVENT, "push"), MAIN, PROTECTED], seven, "pr 7"),
            (&[(EVENT, "push"), merge, PROTECTED], "{}", "pr 7"),
            (&[(EVENT, "push"), MAIN, PROTECTED, ("GITHUB_HEAD_REF", "fix")], "{}", "untrusted"),
            (&[(EVENT, "push"), MAIN, PROTECTED, ("GITHUB_BASE_REF", "$(id) x")], "{}", "untrusted"),
            (&[(EVENT, "workflow_dispatch"), MAIN, PROTECTED], seven, "pr 7"),
            (
                &[(EVENT, "issue_comment"), MAIN, PROTECTED],
                r#"{"issue":{"number":7,"pull_request":{}}}"#,
                "pr 7",
            ),
            (&[(EVENT, "pull_request"), merge], r#"{"pull_request":{"number":"7"}}"#, "pr 7"),
            (
                &[(EVENT, "pull_request_target"), MAIN],
                r#"{"number":7,"pull_request":{},"repository":{"full_name":"fork/meta-x"}}"#,
                "untrusted",
            ),
        ];
        for (variables, payload, wanted) in table {
            assert_eq!(on_github(variables, payload, false), wanted, "{variables:?} {payload}");
            assert_eq!(on_github(variables, payload, true), "refused", "--trusted, {variables:?} {payload}");
        }
    }

    #[test]
    fn the_flag_counts_for_runs_that_a_person_or_a_schedule_starts() {
        for event in ["workflow_dispatch", "schedule"] {
            assert_eq!(on_github(&[(EVENT, event), MAIN], "{}", false), "untrusted", "{event}");
            assert_eq!(on_github(&[(EVENT, event), MAIN], "{}", true), "trusted", "{event}");
        }
    }

    #[test]
    fn only_the_commit_of_the_run_is_trusted() {
        let other = "f".repeat(40);
        for (event, flag) in [("push", false), ("push", true), ("schedule", true)] {
            let variables: Vec<_> =
                ALWAYS.iter().chain(&[(EVENT, event), MAIN, PROTECTED]).copied().collect();
            let at = |variables: &[_], head| judged(variables, "{}", BRANCHES, flag, head);
            assert_eq!(at(&variables, Some(COMMIT)), "trusted", "{event}");
            assert_eq!(at(&variables, Some(&other)), "untrusted", "{event}");
            assert_eq!(at(&variables, None), "untrusted", "{event}");
            for absent in ["GITHUB_SHA", "GITHUB_WORKSPACE"] {
                let less: Vec<_> = variables.iter().filter(|(name, _)| *name != absent).copied().collect();
                let found = at(&less, Some(COMMIT));
                assert!(
                    ["untrusted", "refused"].contains(&found.as_str()),
                    "{event} without {absent}: {found}"
                );
            }
        }
    }

    /// CodeBuild as GitHub's runner sets both; CodeBuild's variables never grant more.
    #[test]
    fn in_codebuild_github_decides_and_codebuild_only_takes_away() {
        let codebuild = [
            ("CODEBUILD_BUILD_ID", "p:1"),
            ("CODEBUILD_SRC_DIR", "/src"),
            ("CODEBUILD_RESOLVED_SOURCE_VERSION", "f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0"),
        ];
        let queued = ("CODEBUILD_WEBHOOK_EVENT", "WORKFLOW_JOB_QUEUED");
        let push = ("CODEBUILD_WEBHOOK_EVENT", "PUSH");
        let trigger = |text| ("CODEBUILD_WEBHOOK_TRIGGER", text);
        let version = |text| ("CODEBUILD_SOURCE_VERSION", text);
        let good = [(EVENT, "push"), MAIN, PROTECTED];
        let pull = [(EVENT, "pull_request"), (REF, "refs/pull/7/merge"), PROTECTED];
        let table: [(Variables, Variables, &str); 11] = [
            (&good, &[queued], "trusted"),
            (&good, &[], "trusted"),
            (&good, &[queued, version("pr/7")], "pr 7"),
            (&good, &[trigger("pr/7"), queued], "pr 7"),
            (&good, &[push, trigger("branch/other")], "untrusted"),
            (&good, &[push, trigger("branch/main")], "trusted"),
            (&good, &[("CODEBUILD_WEBHOOK_EVENT", "RELEASED")], "untrusted"),
            (&pull, &[queued], "pr 7"),
            (&pull, &[push, trigger("branch/main")], "pr 7"),
            (&pull, &[trigger("pr/7")], "pr 7"),
            (&pull, &[trigger("pr/8")], "untrusted"),
        ];
        for (github, more, wanted) in table {
            let all: Vec<_> = codebuild.iter().chain(github).chain(more).copied().collect();
            assert_eq!(on_github(&all, "{}", false), wanted, "{github:?} {more:?}");
            let with_flag = if wanted == "trusted" { "trusted" } else { "refused" };
            assert_eq!(on_github(&all, "{}", true), with_flag, "--trusted, {github:?} {more:?}");
        }
        // Without GitHub's variables, a runner's build is not a push.
        let all: Vec<_> = codebuild.iter().copied().chain([queued, trigger("branch/main")]).collect();
        assert_eq!(judged(&all, "{}", BRANCHES, false, Some(COMMIT)), "untrusted");
        assert_eq!(judged(&all, "{}", BRANCHES, true, Some(COMMIT)), "refused");
    }
}
