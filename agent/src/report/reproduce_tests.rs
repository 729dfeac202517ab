//! Tests of what repeats a job.

use super::*;
use crate::report::sample::{failing_job, reduce};

const COMMIT: &str = "3f2a1b4c5d6e7f8091a2b3c4d5e6f708192a3b4c";
const BASE: &str = "00112233445566778899aabbccddeeff00112233";

fn summary(words: &[&str]) -> Summary {
    let mut summary = reduce(&failing_job());
    summary.job.reproduce = words.iter().map(ToString::to_string).collect();
    summary.reproduction = Some(Reproduction {
        image: Some("registry.example/build-agent@sha256:0123".into()),
        source: Some("https://github.com/owner/meta-x.git".into()),
        pull_request: Some(7),
        base: Some(BASE.into()),
        accepts_manifest: false,
        manifest_path: Some("ci/x.toml".into()),
        manifest: Some("version = 1\nname = 'x'\n".into()),
        lock: None,
    });
    summary
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

#[test]
fn a_pull_request_is_repeated_with_its_commits_and_without_the_share() {
    let plan = ReproducePlan::of(&summary(&[
        "build-agent",
        "run",
        "ci/x.toml",
        "--manifest-sha256",
        "00",
        "--set",
        "build.targets=[\"a\"]",
        "--set",
        "artifacts.destination=s3://b/x",
        "--set",
        "cache.share=/efs",
        "--set",
        "repos.x.url=https://[redacted]@h/x",
        "--only",
        "check",
        "--trusted",
    ]))
    .unwrap();
    let poky = "repos.\"poky\".commit=aaaabbbbccccddddeeeeffff0000111122223333";
    let mut wanted = words("run ci/x.toml --set");
    wanted.push("build.targets=[\"a\"]".into());
    let rest = format!("--only check --set {poky} --base {BASE} --set cache.access=off --skip publish");
    wanted.extend(words(&rest));
    assert_eq!(plan.arguments, wanted);
    let checkout = Checkout {
        url: "https://github.com/owner/meta-x.git".into(),
        fetch: Some("refs/pull/7/head".into()),
        commit: COMMIT.into(),
    };
    assert_eq!(plan.checkout, Some(checkout));
    assert_eq!(plan.files, [("ci/x.toml".into(), "version = 1\nname = 'x'\n".to_owned())]);
    assert_eq!(plan.name, "meta-x");
    for note in
        ["original machine: --set artifacts.destination", "secret: --set repos.x.url", "removed: --trusted"]
    {
        assert!(plan.notes.iter().any(|said| said.contains(note)), "{note}: {:?}", plan.notes);
    }
}

#[test]
fn the_lock_and_what_the_manifest_fixes_are_left_as_they_are() {
    let mut with_lock = summary(&["build-agent", "run", "x.toml"]);
    with_lock.reproduction.as_mut().unwrap().lock = Some("version = 1\n".into());
    let plan = ReproducePlan::of(&with_lock).unwrap();
    assert!(!plan.arguments.iter().any(|word| word.contains("commit=")), "{:?}", plan.arguments);
    assert_eq!(plan.files[1], ("ci/build-agent.lock".into(), "version = 1\n".to_owned()));
    assert!(plan.arguments.ends_with(&words("--skip publish")), "{:?}", plan.arguments);
    let mut with_tag = summary(&["build-agent", "run", "x.toml"]);
    with_tag.reproduction.as_mut().unwrap().manifest = Some("[repos.poky]\ntag = 'yocto-5.0'\n".into());
    let plan = ReproducePlan::of(&with_tag).unwrap();
    assert!(!plan.arguments.iter().any(|word| word.contains("commit=")), "{:?}", plan.arguments);
}

#[test]
fn nothing_is_published() {
    for (given, only) in [
        ("", None),
        ("--only build,publish", Some("build")),
        ("--only build --only publish,check", Some("build,check")),
    ] {
        let given = words(&format!("build-agent run x.toml {given}"));
        let given: Vec<&str> = given.iter().map(String::as_str).filter(|word| !word.is_empty()).collect();
        let plan = ReproducePlan::of(&summary(&given)).unwrap();
        assert!(plan.arguments.ends_with(&words("--skip publish")), "{:?}", plan.arguments);
        let at = plan.arguments.iter().position(|word| word == "--only");
        assert_eq!(at.map(|at| plan.arguments[at + 1].as_str()), only);
    }
}

#[test]
fn a_check_needs_no_manifest() {
    let mut check = summary(&["build-agent", "check", "meta-a", ".", "--release", "scarthgap"]);
    let known = check.reproduction.as_mut().unwrap();
    (known.manifest, known.manifest_path, known.base) = (None, None, None);
    let plan = ReproducePlan::of(&check).unwrap();
    assert!(plan.arguments.starts_with(&words("check meta-a . --release scarthgap --set")), "{plan:?}");
    assert!(plan.files.is_empty());
}

#[test]
fn the_script_is_one_that_a_shell_reads() {
    let mut hostile = summary(&["build-agent", "run", "x.toml", "--set", "name=it's; rm -rf /"]);
    let known = hostile.reproduction.as_mut().unwrap();
    // The end of the text must not appear when control characters are removed.
    known.manifest = Some("a\nEND_\u{1b}OF_FILE\nrm -rf /\n\u{1b}[2J$(id)\n".into());
    hostile.job.name = "x\nrm -rf /".into();
    let script = ReproducePlan::of(&hostile).unwrap().script();
    for wanted in [
        "#!/bin/sh\n# Repeats the job 20260102T030405Z-0f5d7e0c91b2a3d4: x rm -rf / on scarthgap, commit 3f2a",
        "\ngit clone https://github.com/owner/meta-x.git source\ngit -C source fetch origin refs/pull/7/head\n",
        "\nmkdir -p source/ci\ncat >source/ci/x.toml <<'END_OF_FILE_'\na\nEND_OF_FILE\nrm -rf /\n[2J$(id)\nEND_OF_FILE_\n",
        "--mount type=bind,source=\"$PWD\"/source,target=/src/meta-x --mount type=volume,",
        " registry.example/build-agent@sha256:0123 run ci/x.toml --set 'name=it'\\''s; rm -rf /' --set ",
    ] {
        assert!(script.contains(wanted), "{wanted}\nin\n{script}");
    }
    assert!(!script.contains('\u{1b}'));
}

#[test]
fn a_forged_result_becomes_no_option_and_no_path_elsewhere() {
    type Change = fn(&mut Summary);
    fn known(summary: &mut Summary) -> &mut Reproduction {
        summary.reproduction.as_mut().unwrap()
    }
    let table: [(Change, &str); 10] = [
        (|it| known(it).image = Some("--privileged".into()), "is not the name of a container image"),
        (|it| known(it).image = Some("x -v /:/host".into()), "is not the name of a container image"),
        (|it| known(it).source = Some("ext::sh -c id".into()), "is not the URL of a git repository"),
        (|it| known(it).source = Some("--upload-pack=id".into()), "is not the URL of a git repository"),
        (|it| known(it).manifest_path = Some("../../.bashrc".into()), "does not lie in the checkout"),
        (|it| known(it).manifest_path = Some("/etc/x.toml".into()), "does not lie in the checkout"),
        (|it| known(it).manifest = None, "does not have the manifest"),
        (|it| it.job.reproduce = vec!["sh".into(), "-c".into(), "id".into()], "which command"),
        (|it| it.job.reproduce = words("build-agent run x.toml --only publish"), "only published"),
        (|it| it.job.reproduce = words("build-agent check /etc"), "does not lie in the checkout"),
    ];
    for (change, wanted) in table {
        let mut forged = summary(&["build-agent", "run", "x.toml"]);
        change(&mut forged);
        let error = ReproducePlan::of(&forged).unwrap_err();
        assert!(error.message.contains(wanted), "{error}");
    }
    let mut forged = summary(&["build-agent", "run", "x.toml", "--build-user", "root", "--work-dir", "/"]);
    forged.job.commit = Some("--upload-pack=id".into());
    forged.job.layer = "/x/-v,target=y".into();
    let plan = ReproducePlan::of(&forged).unwrap();
    assert_eq!((plan.checkout.as_ref(), plan.name.as_str()), (None, "layer"));
    assert!(!plan.arguments.iter().any(|word| word.contains("user") || word.contains("work")), "{plan:?}");
}
