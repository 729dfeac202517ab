//! Whether the source of a build is trusted: a pure function of what CodeBuild and GitHub say, of the branches
//! that the account's owner names, and of a person's word. The manifest has no say: a pull request
//! brings its own.
//!
//! What is not known is not trusted.

use regex::Regex;

use agent_types::error::{Error, Result};
use agent_types::tiers::Trust;

use super::codebuild::{CodeBuild, Trigger};
use super::environment::TRUSTED_BRANCHES as BRANCHES;
use super::github_actions::GitHubActions;

mod github;

/// All that speaks for or against a source.
#[derive(Clone, Copy, Debug, Default)]
pub struct TrustInputs<'a> {
    /// Present in CodeBuild.
    pub codebuild: Option<&'a CodeBuild>,
    /// Present on a runner of GitHub Actions, also in CodeBuild.
    pub github: Option<&'a GitHubActions>,
    /// The regular expression of the trusted branches, as it is written.
    pub branches: Option<&'a str>,
    /// `--trusted`.
    pub trusted_flag: bool,
}

/// Judges the source.
///
/// # Errors
/// Usage, when the expression of the branches is none; and when `--trusted` stands for what no word can
/// make trusted, so that a flag in a buildspec does not open the share to everybody who asks for a pull.
pub fn judge(evidence: &TrustInputs) -> Result<Judgement> {
    let claimed = claimed(evidence)?;
    Ok(match not_established(evidence).filter(|_| claimed.is_trusted()) {
        Some(lost) => Judgement { trust: untrusted(lost.why.clone()), lost: Some(lost) },
        None => Judgement { trust: claimed, lost: None },
    })
}

/// The trust in a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    pub trust: Trust,
    /// For a source that would be trusted if the commit that the service resolved were checked out.
    pub lost: Option<Lost>,
}

/// Why a source lost its trust, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    pub why: String,
    pub hint: &'static str,
}

/// Whether the commit that is checked out could decide about trust or rules. Then the caller must read it.
pub fn depends_on_commit(evidence: &TrustInputs) -> bool {
    let known = match (evidence.github, evidence.codebuild) {
        (Some(run), _) => run.source_dir.is_some() && run.commit.is_some(),
        (None, Some(build)) => build.src_dir.is_some() && build.resolved_commit.is_some(),
        (None, None) => false,
    };
    // On GitHub it also decides about the rules.
    if evidence.github.is_some() {
        return known;
    }
    let claimed = |trusted_flag| claimed(&TrustInputs { trusted_flag, ..*evidence });
    known && [false, true].into_iter().any(|flag| claimed(flag).is_ok_and(|trust| trust.is_trusted()))
}

/// Whether any variable, or the event, indicates a pull request.
pub fn is_pull_request(evidence: &TrustInputs) -> bool {
    evidence.github.is_some_and(|run| github::pull_request(run).is_some())
        || evidence.codebuild.is_some_and(|build| pull_request(build).is_some())
}

/// The number of the pull request whose head this version of a source is: `pr/7`, `refs/pull/7/head`.
pub fn pull_request_of(version: &str) -> Option<u64> {
    proposed(version).flatten()
}

/// Whether a webhook, and not a person or a schedule, started the build.
pub fn is_started_by_webhook(evidence: &TrustInputs) -> bool {
    match (evidence.github, evidence.codebuild) {
        (Some(run), _) => !run.is_started_by_hand(),
        (None, build) => build.is_some_and(|build| build.webhook),
    }
}

/// How a build becomes trusted whose commit was not what CodeBuild resolved, or is not known.
const HINT: &str = "let CodeBuild clone the source with git (CodePipeline: `full clone`), and let no command before the \
     agent check out something else; if you vouch for what is there, pass --trusted in a build that no webhook starts";

/// The trust in the commit that the service resolved, or in a source that a person started with `--trusted`.
fn claimed(evidence: &TrustInputs) -> Result<Trust> {
    let branches = evidence.branches.map(trusted_branches).transpose()?;
    let flag = evidence.trusted_flag;
    match (evidence.github, evidence.codebuild) {
        (None, None) => Ok(by_word(flag, NOBODY)),
        (None, Some(build)) => by_codebuild(build, branches.as_ref(), flag),
        (Some(run), build) => {
            let trust = github::claimed(run, branches.as_ref(), flag)?;
            match build.and_then(|build| reduced_by_codebuild(build, &trust, branches.as_ref())) {
                Some(less) => refuse_word(less, flag),
                None => Ok(trust),
            }
        }
    }
}

fn by_codebuild(build: &CodeBuild, branches: Option<&Regex>, flag: bool) -> Result<Trust> {
    if let Some(trust) = pull_request(build) {
        return refuse_word(trust, flag);
    }
    if build.webhook {
        return refuse_word(by_webhook(build, branches), flag);
    }
    Ok(by_word(flag, "CodeBuild names no webhook event: started by hand, a schedule or a pipeline"))
}

/// On GitHub's runner in CodeBuild, GitHub's variables decide. CodeBuild's variables can only reduce the trust; `Some` if
/// they do.
fn reduced_by_codebuild(build: &CodeBuild, trust: &Trust, branches: Option<&Regex>) -> Option<Trust> {
    let by_github = match trust {
        Trust::Trusted { .. } => None,
        Trust::Untrusted { pull_request, .. } => Some(*pull_request),
    };
    if let Some(proposed) = pull_request(build) {
        let Trust::Untrusted { pull_request: number, .. } = &proposed else { return Some(proposed) };
        return match by_github {
            Some(known) if known.is_none() || known == *number => None,
            Some(_) => {
                Some(untrusted("it is a pull request, and CodeBuild and GitHub do not agree on its number"))
            }
            None => Some(proposed),
        };
    }
    let is_runner = build.event.as_deref() == Some("WORKFLOW_JOB_QUEUED");
    if build.webhook && !is_runner && by_github.is_none() {
        return Some(by_webhook(build, branches)).filter(|trust| !trust.is_trusted());
    }
    None
}

/// Why another commit than the one that the service resolved may be checked out. The trust is for the resolved commit
/// alone, not for one that a command before the agent has checked out. In CodeBuild, `--trusted` is also for a source
/// whose commit is not known, but not for another commit.
fn not_established(evidence: &TrustInputs) -> Option<Lost> {
    if let Some(run) = evidence.github {
        return github::not_established(run);
    }
    let lost = |why| Some(Lost { why, hint: HINT });
    let build = evidence.codebuild?;
    // A commit of a source that is not under test says nothing about the layers that are.
    let resolved = build.resolved_commit.as_ref().filter(|_| build.src_dir.is_some());
    match (resolved, &build.checked_out) {
        (Some(resolved), Some(head)) if resolved == head => None,
        (Some(resolved), Some(head)) => {
            lost(format!("CodeBuild resolved the source to {resolved}, and {head} is checked out"))
        }
        _ if evidence.trusted_flag => None,
        (Some(resolved), None) => lost(format!(
            "CodeBuild resolved the source to {resolved}, and git cannot tell which commit is checked out"
        )),
        (None, _) => lost(
            "CodeBuild does not name the commit of the source (CODEBUILD_RESOLVED_SOURCE_VERSION)".to_owned(),
        ),
    }
}

const NOBODY: &str = "nobody vouches for it; --trusted does";

fn untrusted(why: impl Into<String>) -> Trust {
    Trust::Untrusted { why: why.into(), pull_request: None }
}

fn by_word(word: bool, otherwise: &str) -> Trust {
    match word {
        true => Trust::Trusted { why: "a person vouches for it (--trusted)".into() },
        false => untrusted(otherwise),
    }
}

/// `--trusted` is only for builds that a person starts; in a webhook's build it is an error.
fn refuse_word(trust: Trust, word: bool) -> Result<Trust> {
    match &trust {
        Trust::Untrusted { why, .. } if word => Err(Error::usage(format!(
            "--trusted cannot make this source trusted: {why}"
        ))
        .hint(format!(
            "leave the flag out; the pushes that are trusted are those to the branches of the variable {BRANCHES}"
        ))),
        _ => Ok(trust),
    }
}

/// Whether anything at all says that this is a pull request, merged or not: its source is the head that
/// somebody proposed.
fn pull_request(build: &CodeBuild) -> Option<Trust> {
    let by_trigger = match build.trigger {
        Some(Trigger::PullRequest(number)) => Some(Some(number)),
        _ => None,
    };
    let by_event = build.event.as_ref().filter(|event| event.starts_with("PULL_REQUEST")).map(|_| None);
    let by_version = build.source_version.as_deref().and_then(proposed);
    let signs: Vec<Option<u64>> = [by_trigger, by_version, by_event].into_iter().flatten().collect();
    if signs.is_empty() {
        return None;
    }
    let number = agreed(&signs);
    let why = match number {
        Some(number) => format!("it is pull request {number}"),
        None => "it is a pull request, and CodeBuild's variables do not agree on its number".to_owned(),
    };
    Some(Trust::Untrusted { why, pull_request: number })
}

/// The number of the pull request, if all signs that have one have the same.
fn agreed(signs: &[Option<u64>]) -> Option<u64> {
    let mut numbers = signs.iter().copied().flatten();
    numbers.next().filter(|first| numbers.all(|other| other == *first))
}

/// `pr/N`, `refs/pull/N/head`, `pr/N^{COMMIT}` and the like of other hosts: `Some` with the number where
/// there is one.
fn proposed(version: &str) -> Option<Option<u64>> {
    let version = version.strip_prefix("refs/").unwrap_or(version);
    let (kind, rest) = version.split_once('/')?;
    ["pr", "pull", "pull-requests", "merge-requests"].contains(&kind).then(|| {
        let number = rest.split(['/', '^']).next().unwrap_or(rest);
        number.parse().ok()
    })
}

fn by_webhook(build: &CodeBuild, branches: Option<&Regex>) -> Trust {
    let (Some("PUSH"), Some(Trigger::Branch(branch))) = (build.event.as_deref(), &build.trigger) else {
        return untrusted("the webhook's event is no push to a branch");
    };
    if build.head_branch.as_ref().is_some_and(|head| head != branch) || build.head_tag.is_some() {
        return untrusted(format!("CodeBuild's variables do not agree on the branch `{branch}`"));
    }
    if build.src_dir.is_none() {
        return untrusted("the layers under test are not CodeBuild's primary source");
    }
    by_branch(branch, branches)
}

/// The trust in a push to this branch.
fn by_branch(branch: &str, branches: Option<&Regex>) -> Trust {
    match branches {
        None => untrusted(format!("no branch is trusted, because the variable {BRANCHES} is not set")),
        Some(trusted) if trusted.is_match(branch) => {
            Trust::Trusted { why: format!("push to the trusted branch `{branch}`") }
        }
        Some(_) => untrusted(format!("the variable {BRANCHES} does not name the branch `{branch}`")),
    }
}

/// The expression, made to match whole names only.
fn trusted_branches(text: &str) -> Result<Regex> {
    // By itself first: `a)|(b` would escape from the group that anchors it.
    let whole = || Regex::new(text).and_then(|_| Regex::new(&format!(r"\A(?:{text})\z")));
    whole().map_err(|error| {
        Error::usage(format!("the variable {BRANCHES} is no regular expression: {text:?}"))
            .because(&error)
            .hint("write the names of the protected branches, such as scarthgap|master")
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::AgentEnvironment;
    use super::*;
    use agent_types::error::Class;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    /// `trusted`, `untrusted`, `pr N`, or `refused`.
    fn judged(variables: &[(&str, &str)], branches: Option<&str>, word: bool) -> String {
        let resolved = ("CODEBUILD_RESOLVED_SOURCE_VERSION", COMMIT);
        let all: Vec<_> = variables.iter().copied().chain([resolved]).collect();
        judged_at(if variables.is_empty() { variables } else { &all }, branches, word, Some(COMMIT))
    }

    /// The same, with this commit checked out.
    fn judged_at(
        variables: &[(&str, &str)],
        branches: Option<&str>,
        word: bool,
        head: Option<&str>,
    ) -> String {
        let mut environment = AgentEnvironment::from_map(variables.iter().copied());
        if let Some(build) = &mut environment.codebuild {
            build.checked_out = head.map(str::to_owned);
        }
        let codebuild = environment.codebuild.as_ref();
        let judged = judge(&TrustInputs { codebuild, branches, trusted_flag: word, github: None });
        let lost = judged.as_ref().is_ok_and(|judged| judged.lost.is_some());
        assert!(!lost || judged.as_ref().is_ok_and(|judged| !judged.trust.is_trusted()), "{judged:?}");
        outcome(judged)
    }

    /// `trusted`, `untrusted`, `pr N`, or `refused`.
    pub fn outcome(judged: Result<Judgement>) -> String {
        match judged.map(|judged| judged.trust) {
            Ok(Trust::Trusted { .. }) => "trusted".into(),
            Ok(Trust::Untrusted { pull_request: Some(number), .. }) => format!("pr {number}"),
            Ok(Trust::Untrusted { .. }) => "untrusted".into(),
            Err(error) => {
                assert_eq!(error.class, Class::Usage, "{error}");
                "refused".into()
            }
        }
    }

    /// In CodeBuild, with these variables beside those that are always there.
    fn in_codebuild(more: &[(&str, &str)], word: bool) -> String {
        let always = [("CODEBUILD_BUILD_ID", "p:1"), ("CODEBUILD_SRC_DIR", "/src")];
        let variables: Vec<_> = always.iter().chain(more).copied().collect();
        judged(&variables, Some("scarthgap|release/.*"), word)
    }

    const TRIGGER: &str = "CODEBUILD_WEBHOOK_TRIGGER";
    const EVENT: &str = "CODEBUILD_WEBHOOK_EVENT";
    const VERSION: &str = "CODEBUILD_SOURCE_VERSION";
    const HEAD: &str = "CODEBUILD_WEBHOOK_HEAD_REF";

    #[test]
    fn a_push_to_a_trusted_branch_is_trusted_and_no_other_webhook() {
        let push = (EVENT, "PUSH");
        let table: [(&[(&str, &str)], &str); 18] = [
            (&[push, (TRIGGER, "branch/scarthgap"), (HEAD, "refs/tags/scarthgap")], "untrusted"),
            (&[push, (TRIGGER, "tag/scarthgap"), (HEAD, "refs/tags/scarthgap")], "untrusted"),
            (&[push, (TRIGGER, "branch/scarthgap"), (VERSION, COMMIT)], "trusted"),
            (&[push, (TRIGGER, "branch/release/1"), (HEAD, "refs/heads/release/1")], "trusted"),
            (&[push, (TRIGGER, "branch/scarthgap-next")], "untrusted"),
            (&[push, (TRIGGER, "branch/x/scarthgap")], "untrusted"),
            (&[push, (TRIGGER, "branch/scarthgap"), (HEAD, "refs/heads/other")], "untrusted"),
            (&[push, (TRIGGER, "tag/scarthgap")], "untrusted"),
            (&[push, (TRIGGER, "scarthgap")], "untrusted"),
            (&[push], "untrusted"),
            (&[(TRIGGER, "branch/scarthgap")], "untrusted"),
            (&[(EVENT, "RELEASED"), (TRIGGER, "branch/scarthgap")], "untrusted"),
            (&[(EVENT, "WORKFLOW_JOB_QUEUED"), (TRIGGER, "branch/scarthgap")], "untrusted"),
            (&[(EVENT, "push"), (TRIGGER, "branch/scarthgap")], "untrusted"),
            (&[(EVENT, "PUSH\n"), (TRIGGER, "branch/scarthgap")], "untrusted"),
            (&[push, (TRIGGER, "branch/scarthgap\nbranch/x")], "untrusted"),
            (&[push, (TRIGGER, "branch/$(id)")], "untrusted"),
            (&[("CODEBUILD_WEBHOOK_ACTOR_ACCOUNT_ID", "1")], "untrusted"),
        ];
        for (variables, wanted) in table {
            assert_eq!(in_codebuild(variables, false), wanted, "{variables:?}");
            let with_word = if wanted == "trusted" { "trusted" } else { "refused" };
            assert_eq!(in_codebuild(variables, true), with_word, "a person's word, {variables:?}");
        }
    }

    #[test]
    fn a_pull_request_is_never_trusted_whatever_else_is_said() {
        let table: [(&[(&str, &str)], &str); 14] = [
            (&[(VERSION, "pr/12^{0123456}")], "pr 12"),
            (&[(TRIGGER, "pr/12"), (EVENT, "PULL_REQUEST_UPDATED"), (VERSION, "pr/12")], "pr 12"),
            (&[(TRIGGER, "pr/12"), (EVENT, "PULL_REQUEST_MERGED")], "pr 12"),
            (&[(TRIGGER, "pr/12"), (EVENT, "PUSH")], "pr 12"),
            (&[(TRIGGER, "branch/scarthgap"), (EVENT, "PULL_REQUEST_MERGED")], "untrusted"),
            (&[(TRIGGER, "branch/scarthgap"), (EVENT, "PUSH"), (VERSION, "pr/7")], "pr 7"),
            (&[(TRIGGER, "pr/1"), (VERSION, "pr/2")], "untrusted"),
            (&[(TRIGGER, "pr/1"), (VERSION, "pr/x")], "pr 1"),
            (&[(VERSION, "pr/12")], "pr 12"),
            (&[(VERSION, "refs/pull/12/head")], "pr 12"),
            (&[(VERSION, "refs/pull/12/merge")], "pr 12"),
            (&[(VERSION, "pull/12/head")], "pr 12"),
            (&[(VERSION, "refs/merge-requests/3/head")], "pr 3"),
            (&[(VERSION, "pr/../../shared")], "untrusted"),
        ];
        for (variables, wanted) in table {
            assert_eq!(in_codebuild(variables, false), wanted, "{variables:?}");
            assert_eq!(in_codebuild(variables, true), "refused", "a person's word, {variables:?}");
        }
    }

    #[test]
    fn a_pull_request_that_cannot_be_read_is_no_start_by_hand() {
        for trigger in ["pr/99999999999999999999999", "pr/x", "\u{1b}[2J"] {
            assert_eq!(in_codebuild(&[(TRIGGER, trigger)], true), "refused", "{trigger:?}");
        }
        // Where the variables were handed on and CodeBuild's own names were not.
        assert_eq!(judged(&[(TRIGGER, "pr/12")], None, true), "refused");
        assert_eq!(judged(&[(VERSION, "pr/12")], None, true), "refused");
    }

    #[test]
    fn without_a_webhook_only_a_persons_word_counts() {
        for (variables, word, wanted) in [
            (&[][..], false, "untrusted"),
            (&[][..], true, "trusted"),
            (&[(VERSION, "scarthgap")][..], false, "untrusted"),
            (&[(VERSION, COMMIT)][..], true, "trusted"),
            (&[(VERSION, "arn:aws:s3:::bucket/key")][..], false, "untrusted"),
            (&[(TRIGGER, ""), (EVENT, "")][..], true, "trusted"),
        ] {
            assert_eq!(in_codebuild(variables, word), wanted, "{variables:?} {word}");
        }
        assert_eq!(judged(&[], Some("scarthgap"), false), "untrusted", "on a desk");
        assert_eq!(judged(&[], None, true), "trusted", "on a desk, by a person's word");
    }

    #[test]
    fn the_branches_match_whole_names_and_bad_ones_are_an_error() {
        let push = [
            ("CODEBUILD_BUILD_ID", "p:1"),
            ("CODEBUILD_SRC_DIR", "/s"),
            (EVENT, "PUSH"),
            (TRIGGER, "branch/ab"),
        ];
        for (branches, wanted) in [
            (None, "untrusted"),
            (Some("a|ab"), "trusted"),
            (Some("a|b"), "untrusted"),
            (Some("a"), "untrusted"),
            (Some("b"), "untrusted"),
            (Some("A."), "untrusted"),
            (Some("x)|(?:b"), "refused"),
            (Some("["), "refused"),
            (Some("(?x)ab#"), "refused"),
        ] {
            assert_eq!(judged(&push, branches, false), wanted, "{branches:?}");
        }
        assert_eq!(judged(&[], Some("["), false), "refused", "also where no branch is asked about");
    }

    #[test]
    fn layers_from_elsewhere_are_not_what_was_pushed() {
        let push = [("CODEBUILD_BUILD_ID", "p:1"), (EVENT, "PUSH"), (TRIGGER, "branch/ab")];
        assert_eq!(judged(&push, Some("ab"), false), "untrusted");
    }

    /// What cannot be established is not trusted; a person's word stands for what nobody knows.
    #[test]
    fn only_the_commit_that_codebuild_resolved_is_trusted() {
        let other = "f".repeat(40);
        let resolved = ("CODEBUILD_RESOLVED_SOURCE_VERSION", COMMIT);
        let archive = ("CODEBUILD_RESOLVED_SOURCE_VERSION", "arn:aws:s3:::bucket/key");
        let push = &[(EVENT, "PUSH"), (TRIGGER, "branch/scarthgap")][..];
        // variables, what git finds checked out, without --trusted, with it
        let table: [(&[_], _, _, _, _); 10] = [
            (push, Some(resolved), Some(COMMIT), "trusted", "trusted"),
            (push, Some(resolved), Some(other.as_str()), "untrusted", "untrusted"),
            (push, Some(resolved), None, "untrusted", "trusted"),
            (push, None, Some(COMMIT), "untrusted", "trusted"),
            (push, Some(archive), Some(COMMIT), "untrusted", "trusted"),
            (push, None, None, "untrusted", "trusted"),
            (&[], Some(resolved), Some(COMMIT), "untrusted", "trusted"),
            (&[], Some(resolved), Some(other.as_str()), "untrusted", "untrusted"),
            (&[], Some(resolved), None, "untrusted", "trusted"),
            (&[], None, None, "untrusted", "trusted"),
        ];
        for (variables, resolved, head, plain, by_word) in table {
            let always = [("CODEBUILD_BUILD_ID", "p:1"), ("CODEBUILD_SRC_DIR", "/src")];
            let all: Vec<_> = always.iter().chain(variables).copied().chain(resolved).collect();
            assert_eq!(judged_at(&all, Some("scarthgap"), false, head), plain, "{all:?} {head:?}");
            assert_eq!(judged_at(&all, Some("scarthgap"), true, head), by_word, "{all:?} {head:?}");
        }
        // Layers from elsewhere than the primary source: its commit is not theirs.
        let elsewhere = [("CODEBUILD_BUILD_ID", "p:1"), resolved];
        assert_eq!(judged_at(&elsewhere, None, true, Some(&other)), "trusted");
    }
}
