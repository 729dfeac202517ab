//! `docker/seed`: the order of its calls, and what never appears on a command line.

use std::path::Path;

use crate::fixture::{ScriptFixture, current_commit, output_text, position};

#[test]
fn seed_moves_stable_only_after_build_test_and_push() {
    let fixture = ScriptFixture::new();
    let output = fixture.seed().output().unwrap();
    assert!(output.status.success(), "{}", output_text(&output));
    let (notes, commit) = (fixture.notes(), current_commit(&fixture.sources()));
    let order = [
        format!("build --tag build-agent:{commit} "),
        "doctor --release dunfell".into(),
        "doctor --release scarthgap".into(),
        format!("push localhost:5000/build-agent:{commit}-20"),
        "--entrypoint python3".into(),
        format!("attach localhost:5000/build-agent sha256:{:064} ", 7),
        "push localhost:5000/build-agent:stable".into(),
    ];
    let places: Vec<usize> = order.iter().map(|words| position(&notes, words)).collect();
    assert!(places.is_sorted(), "{notes:#?}");
    assert!(notes[places[0]].contains(&format!("SOURCE_COMMIT={commit} ")), "{}", notes[places[0]]);
    assert!(output_text(&output).contains("no login to Docker Hub"), "{}", output_text(&output));
}

#[test]
fn seed_pushes_nothing_if_a_step_fails() {
    type Variables = &'static [(&'static str, &'static str)];
    let table: [(&str, Variables, &str); 6] = [
        ("smoke test", &[("ENGINE_FAILS", "doctor --release scarthgap")], "the smoke test failed"),
        ("mount helper", &[("ENGINE_FAILS", "mount.efs --version")], "mount.efs does not start"),
        ("build", &[("ENGINE_FAILS", "build --tag")], "the stand-in engine fails"),
        ("size", &[("ENGINE_SIZE", "99000000000")], "more than its budget"),
        (
            "login",
            &[("ENGINE_FAILS", "login"), ("REGISTRY_USERNAME", "me"), ("REGISTRY_PASSWORD", "hunter22")],
            "the login to localhost:5000 as me failed",
        ),
        ("no way to ECR", &[("IMAGE_REPOSITORY", "123456789012.dkr.ecr.eu-west-1.amazonaws.com/x")], "ECR"),
    ];
    for (name, variables, words) in table {
        let fixture = ScriptFixture::new();
        let output = fixture.seed().envs(variables.iter().copied()).output().unwrap();
        assert!(!output.status.success(), "{name}: {}", output_text(&output));
        assert!(output_text(&output).contains(words), "{name}: {}", output_text(&output));
        assert_eq!(fixture.calls("push"), [""; 0], "{name}");
        assert_eq!(fixture.calls("tag"), [""; 0], "{name}");
    }
}

#[test]
fn seed_does_not_move_stable_when_the_push_of_the_commit_fails() {
    let fixture = ScriptFixture::new();
    let commit = current_commit(&fixture.sources());
    let failing = format!("push localhost:5000/build-agent:{commit}");
    let output = fixture.seed().env("ENGINE_FAILS", failing).output().unwrap();
    assert!(!output.status.success());
    assert!(fixture.notes().iter().all(|note| !note.contains(":stable")), "{:#?}", fixture.notes());
}

#[test]
fn seed_does_not_move_stable_to_an_image_without_its_documents() {
    for (name, variables, words) in [
        ("SBOM", ("ENGINE_FAILS", "--entrypoint python3"), "the SBOM cannot be made"),
        ("registry", ("ATTACH_STATUS", "1"), "nothing or not everything is attached"),
    ] {
        let fixture = ScriptFixture::new();
        let output = fixture.seed().env(variables.0, variables.1).output().unwrap();
        assert!(!output.status.success(), "{name}: {}", output_text(&output));
        assert!(output_text(&output).contains(words), "{name}: {}", output_text(&output));
        assert!(fixture.notes().iter().all(|note| !note.contains(":stable")), "{:#?}", fixture.notes());
    }
}

/// The attachments' program gets the options of the build, of which it publishes only those that pin a source.
#[test]
fn seed_passes_the_options_of_the_build_on() {
    let fixture = ScriptFixture::new();
    let output = fixture.seed().args(["--build-arg", "BASE_IMAGE=x@sha256:1"]).output().unwrap();
    assert!(output.status.success(), "{}", output_text(&output));
    let [call] = fixture.calls("attach ").try_into().unwrap();
    let commit = current_commit(&fixture.sources());
    assert!(call.contains(&format!("/sbom.json {commit} 20")), "{call}");
    assert!(call.ends_with("Z --build-arg BASE_IMAGE=x@sha256:1"), "{call}");
}

#[test]
fn seed_rejects_a_work_tree_that_differs_from_the_commit() {
    let fixture = ScriptFixture::new();
    std::fs::write(fixture.sources().join("new"), "x").unwrap();
    let output = fixture.seed().output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(
        output_text(&output).contains("not clean") && output_text(&output).contains("?? new"),
        "{}",
        output_text(&output)
    );
    assert_eq!(fixture.notes(), [""; 0]);

    let fixture = ScriptFixture::new();
    let output = fixture.command("seed").output().unwrap();
    assert!(
        !output.status.success() && output_text(&output).contains("IMAGE_REPOSITORY"),
        "{}",
        output_text(&output)
    );
    assert_eq!(fixture.notes(), [""; 0]);
}

#[test]
fn passwords_reach_the_engine_on_standard_input_and_are_removed_at_the_end() {
    for fails in ["", "doctor"] {
        let fixture = ScriptFixture::new();
        let mut seed = fixture.seed();
        seed.env("DOCKERHUB_USERNAME", "hub").env("DOCKERHUB_PASSWORD", "hub-password");
        seed.env("REGISTRY_USERNAME", "own").env("REGISTRY_PASSWORD", "own-password");
        let output = seed.env("ENGINE_FAILS", fails).output().unwrap();
        assert_eq!(output.status.success(), fails.is_empty(), "{}", output_text(&output));
        assert!(!output_text(&output).contains("-password"), "{}", output_text(&output));
        let (read, called): (Vec<_>, Vec<_>) =
            fixture.notes().into_iter().partition(|note| note.starts_with("password "));
        assert!(called.iter().all(|note| !note.contains("hub-password") && !note.contains("own-password")));
        assert!(read[0].starts_with("password hub-password kept in "), "{read:?}");
        assert_eq!(fixture.calls("login")[0], "login --username hub --password-stdin docker.io");
        let configuration = Path::new(read[0].rsplit(' ').next().unwrap());
        assert!(configuration.starts_with(fixture.0.path()), "not in the user's home: {configuration:?}");
        assert!(!configuration.exists(), "left behind: {configuration:?}");
    }
}

#[test]
fn an_image_of_another_architecture_has_its_own_stable_tag() {
    let fixture = ScriptFixture::new();
    let output = fixture.seed().env("ENGINE_ARCHITECTURE", "arm64").output().unwrap();
    assert!(output.status.success(), "{}", output_text(&output));
    assert_eq!(
        fixture.calls("push localhost:5000/build-agent:stable"),
        ["push localhost:5000/build-agent:stable-arm64"]
    );
}
