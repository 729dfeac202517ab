//! What a manifest's share, CodeBuild's variables and a person's word become together.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};

use super::tests::{Checkout, good_and};
use super::*;
use agent_types::error::{Class, Error};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const SHARE: &str = "[cache]\nshare = '/efs'\n";

/// `GOOD` with `[cache]` in CodeBuild's own checkout.
fn in_codebuild(cache: &str, trusted: bool, variables: &[(&str, &str)]) -> Result<Settings, Error> {
    in_codebuild_at(cache, trusted, variables, Some(COMMIT))
}

/// The same, with this commit checked out.
fn in_codebuild_at(
    cache: &str,
    trusted: bool,
    variables: &[(&str, &str)],
    head: Option<&str>,
) -> Result<Settings, Error> {
    let checkout = Checkout::new(&[("build-agent.toml", &good_and(cache))]);
    let source = checkout.path().display().to_string();
    let always = [
        ("CODEBUILD_BUILD_ID", "p:1"),
        ("CODEBUILD_SRC_DIR", source.as_str()),
        ("CODEBUILD_RESOLVED_SOURCE_VERSION", COMMIT),
    ];
    let variables: Vec<_> = always.iter().chain(variables).copied().collect();
    let mut environment = Checkout::environment(&variables);
    environment.codebuild.as_mut().unwrap().checked_out = head.map(str::to_owned);
    checkout.load_in(&Request { trusted, ..Request::default() }, &environment)
}

const PUSH: [(&str, &str); 3] = [
    ("CODEBUILD_WEBHOOK_EVENT", "PUSH"),
    ("CODEBUILD_WEBHOOK_TRIGGER", "branch/scarthgap"),
    ("BUILD_AGENT_TRUSTED_BRANCHES", "scarthgap"),
];
const PULL_REQUEST: [(&str, &str); 2] =
    [("CODEBUILD_WEBHOOK_EVENT", "PULL_REQUEST_UPDATED"), ("CODEBUILD_WEBHOOK_TRIGGER", "pr/12")];

#[test]
fn what_a_source_may_write_and_where_it_works_follow_from_its_trust() {
    let work = "/home/me/.cache/build-agent/meta-x-scarthgap";
    let table = [
        (&PUSH[..], false, Some("/efs"), "/trusted"),
        (&[], true, Some("/efs"), "/trusted"),
        (&PULL_REQUEST[..], false, Some("/efs/pr/12"), "/pr/12"),
        (&PUSH[..2], false, None, ""),
        (&[], false, None, ""),
    ];
    for (variables, trusted, write, local) in table {
        let settings = in_codebuild(SHARE, trusted, variables).unwrap();
        let written = settings.cache.share.as_ref().unwrap().writes().map(|(_, place)| place);
        assert_eq!(written.as_deref(), write, "{variables:?}");
        assert_eq!(
            settings.cache.sstate,
            PathBuf::from(format!("{work}{local}/sstate/scarthgap")),
            "{variables:?}"
        );
        assert_eq!(settings.cache.downloads, PathBuf::from(format!("{work}{local}/downloads")));
        assert_eq!(settings.cache.layers, Path::new("/home/me/.cache/build-agent/layers"));
    }
}

#[test]
fn access_only_takes_away() {
    let access = |word: &str| format!("{SHARE}access = '{word}'");
    let writes = |settings: &Settings| settings.cache.share.as_ref().map(|share| share.writes().is_some());
    for (word, of_push, of_pull_request) in [
        ("auto", Some(true), Some(true)),
        ("read-write", Some(true), Some(true)),
        ("read-only", Some(false), Some(false)),
        ("off", None, None),
    ] {
        let push = in_codebuild(&access(word), false, &PUSH).unwrap();
        assert_eq!(writes(&push), of_push, "{word}");
        let pull_request = in_codebuild(&access(word), false, &PULL_REQUEST).unwrap();
        assert_eq!(writes(&pull_request), of_pull_request, "{word}");
        let said = pull_request.notices.iter().any(|notice| notice.contains("does not change that"));
        assert_eq!(said, word == "read-write", "{:?}", pull_request.notices);
    }
    let off = in_codebuild(&access("off"), false, &PUSH).unwrap();
    assert!(
        off.notices.is_empty() && off.cache.sstate.ends_with("meta-x-scarthgap/trusted/sstate/scarthgap"),
        "{off:?}"
    );
}

#[test]
fn a_word_for_a_pull_request_and_a_bad_expression_end_the_reading() {
    for (variables, trusted, wanted) in [
        (&PULL_REQUEST[..], true, "pull request 12"),
        (&[("BUILD_AGENT_TRUSTED_BRANCHES", "(")][..], false, "no regular expression"),
    ] {
        let error = in_codebuild(SHARE, trusted, variables).unwrap_err();
        assert_eq!(error.class, Class::Usage);
        assert!(error.message.contains(wanted) && error.hint.is_some(), "{error}");
    }
}

#[test]
fn another_commit_than_the_trusted_one_takes_the_trust_and_the_place() {
    let other = "f".repeat(40);
    for (head, lost) in [
        (Some(COMMIT), None),
        (Some(other.as_str()), Some("is checked out")),
        (None, Some("git cannot tell")),
    ] {
        let settings = in_codebuild_at(SHARE, false, &PUSH, head).unwrap();
        let place =
            if lost.is_none() { "trusted/sstate/scarthgap" } else { "meta-x-scarthgap/sstate/scarthgap" };
        assert_eq!(settings.cache.share.unwrap().writes().is_some(), lost.is_none(), "{head:?}");
        assert!(settings.cache.sstate.ends_with(place), "{:?}", settings.cache.sstate);
        let (said, hint) = settings.warnings.into_iter().next().unzip();
        assert_eq!(said.is_some(), lost.is_some());
        assert!(lost.is_none_or(|lost| said.unwrap().contains(lost) && hint.unwrap().contains("--trusted")));
    }
    // A person vouches for a source without a commit.
    let settings = in_codebuild_at(SHARE, true, &[], None).unwrap();
    assert!(settings.cache.trust.is_trusted() && settings.warnings.is_empty());
    // What nobody called trusted has lost nothing.
    let settings = in_codebuild_at(SHARE, false, &[], None).unwrap();
    assert!(!settings.cache.trust.is_trusted() && settings.warnings.is_empty());
}
