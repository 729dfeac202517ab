//! A check with real BitBake in the image, without network. `BUILD_AGENT_TEST_POKY` is a clone of poky on this
//! machine, which replaces the manifest's address.
//!
//! Takes minutes on all cores; the image is that of `image/`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use build_agent_tests::{Part, cases, commit, copy_tree, git, json, repository, skip_without};

/// A uid that exists neither on this machine nor in the image.
const STRANGER: u32 = 48_611;

/// Settings of the fixture's manifest for machines without network, and a world of three recipes.
const SMALL_WORLD: &str = "CONNECTIVITY_CHECK_URIS = \"\"\n\
    INHERIT:remove = \"uninative\"\n\
    BB_NO_NETWORK = \"1\"\n\
    EXCLUDE_FROM_WORLD = \"1\"\n\
    EXCLUDE_FROM_WORLD:pn-zlib = \"\"\n\
    EXCLUDE_FROM_WORLD:pn-base-files = \"\"\n\
    EXCLUDE_FROM_WORLD:pn-greeting = \"\"\n";

fn docker<S: AsRef<std::ffi::OsStr>>(words: impl IntoIterator<Item = S>) -> Output {
    Command::new("docker").args(words).output().expect("docker starts")
}

fn output_text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat()
}

/// The image and the clone of poky, or the reason why the test cannot run.
fn expected() -> Result<(String, PathBuf), String> {
    let poky =
        std::env::var_os("BUILD_AGENT_TEST_POKY").ok_or("BUILD_AGENT_TEST_POKY names no clone of poky")?;
    let image = std::env::var("BUILD_AGENT_TEST_IMAGE").unwrap_or_else(|_| "build-agent".into());
    if !Command::new("docker").arg("version").output().is_ok_and(|output| output.status.success()) {
        return Err("no container engine answers to `docker version`".into());
    }
    if !docker(["image", "inspect", &image]).status.success() {
        return Err(format!("there is no image `{image}` (docker/build {image})"));
    }
    if !nix::unistd::geteuid().is_root() {
        return Err("not run by root, who alone can give a layer away".into());
    }
    Ok((image, PathBuf::from(poky)))
}

struct Volume(String);

impl Drop for Volume {
    fn drop(&mut self) {
        docker(["volume", "rm", "--force", &self.0]);
    }
}

/// Runs the good fixture as `docker run` with these options. Fails unless it passes and all its files belong to the
/// owner.
fn passes(image: &str, poky: &Path, owner: u32, options: &[&str]) {
    let place = tempfile::Builder::new().prefix("build-agent-image-").tempdir_in("/var/tmp").unwrap();
    let layer = place.path().join("meta-good");
    copy_tree(&repository().join("layers-fixtures/meta-good"), &layer);
    git(&layer, ["init", "--quiet", "--initial-branch", "main"]);
    commit(&layer, "Begin");
    assert!(
        Command::new("chown")
            .arg("-R")
            .arg(format!("{owner}:{owner}"))
            .arg(&layer)
            .status()
            .unwrap()
            .success()
    );
    let configuration = place.path().join("gitconfig");
    let text = "[safe]\n\tdirectory = *\n[url \"file:///upstream/poky\"]\n\tinsteadOf = https://git.yoctoproject.org/poky\n";
    std::fs::write(&configuration, text).unwrap();

    let volume = Volume(format!("build-agent-test-{}-real", std::process::id()));
    let bind = |from: &Path, to: &str| format!("--volume={}:{to}", from.display());
    let output = Command::new("docker")
        .args([
            "run",
            "--rm",
            "--network=none",
            "--security-opt=seccomp=unconfined",
            "--workdir=/src/meta-good",
        ])
        .args([bind(&layer, "/src/meta-good"), bind(poky, "/upstream/poky:ro")])
        .args([bind(&configuration, "/etc/gitconfig:ro"), format!("--volume={}:/work", volume.0)])
        .args(options)
        .args([image, "run", "--set", &format!("config.local_conf={SMALL_WORLD}")])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", output_text(&output));
    let result = json(&layer.join("build-agent-out/result.json"));
    assert_eq!(result["outcome"], "passed", "{}", output_text(&output));
    let passed: Vec<String> =
        cases(&result).into_iter().filter(|(_, outcome)| outcome == "passed").map(|(test, _)| test).collect();
    for test in ["test_parse", "test_signatures", "test_world", "test_show_environment"] {
        assert!(passed.iter().any(|name| name == test), "{test}: {passed:?}");
    }
    for entry in walkdir(&layer) {
        assert_eq!(entry.symlink_metadata().unwrap().uid(), owner, "{}", entry.display());
    }
}

fn walkdir(top: &Path) -> Vec<PathBuf> {
    let mut found = vec![top.to_owned()];
    let mut next = 0;
    while let Some(path) = found.get(next).cloned() {
        next += 1;
        if path.symlink_metadata().unwrap().is_dir() {
            found.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    found
}

/// One after another, because each run uses all cores.
#[test]
fn a_good_layer_passes_in_the_image_as_any_user() {
    let (image, poky) = match expected() {
        Ok(expected) => expected,
        Err(reason) => {
            return skip_without(Part::Docker, "a_good_layer_passes_in_the_image_as_any_user", &reason);
        }
    };
    // As in CodeBuild: the agent stays root and runs layer code as another user.
    passes(&image, &poky, 0, &[]);
    passes(&image, &poky, STRANGER, &["--user", &STRANGER.to_string()]);
}
