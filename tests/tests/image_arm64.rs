//! The image for arm64, built and started by emulation on another architecture. Takes an hour or more, so it needs
//! `BUILD_AGENT_TEST_ARM64`: options of `docker build`, e.g. `--network=host`, or `--target=host` for the stage with
//! Debian's packages alone.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::process::{Command, Output};

use build_agent_tests::{Part, repository, skip_without};

const IMAGE: &str = "build-agent-test-arm64";

fn docker(words: &[&str]) -> Output {
    Command::new("docker").args(words).output().expect("docker starts")
}

fn output_text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat()
}

/// The options of the build, or the reason why the test cannot run.
fn options() -> Result<String, &'static str> {
    let options = std::env::var("BUILD_AGENT_TEST_ARM64")
        .map_err(|_| "BUILD_AGENT_TEST_ARM64 names no options of `docker build`")?;
    if !Command::new("docker").arg("version").output().is_ok_and(|output| output.status.success()) {
        return Err("no container engine answers to `docker version`");
    }
    let emulates = Path::new("/proc/sys/fs/binfmt_misc/qemu-aarch64").exists();
    if !emulates && std::env::consts::ARCH != "aarch64" {
        return Err(
            "this machine does not emulate arm64 (apt-get install -y qemu-user-static binfmt-support)",
        );
    }
    Ok(options)
}

struct Remove;

impl Drop for Remove {
    fn drop(&mut self) {
        docker(&["image", "rm", "--force", IMAGE]);
    }
}

/// In the image, without network.
fn run(words: &[&str]) -> Output {
    let start = ["run", "--rm", "--network", "none", "--platform", "linux/arm64", IMAGE];
    docker(&[&start[..], words].concat())
}

#[test]
fn the_image_builds_and_starts_on_arm64() {
    let options = match options() {
        Ok(options) => options,
        Err(reason) => return skip_without(Part::Docker, "the_image_builds_and_starts_on_arm64", reason),
    };
    let mut build = Command::new(repository().join("docker/build"));
    build.env("BUILD_AGENT_ENGINE", "docker").args([IMAGE, "--platform", "linux/arm64"]);
    let output = build.args(options.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "{}", output_text(&output));
    let _remove = Remove;
    let architecture = docker(&["image", "inspect", "--format", "{{.Architecture}}", IMAGE]);
    assert_eq!(output_text(&architecture), "arm64\n");
    // The host packages work, and there is the locale that BitBake needs.
    let script = "set -e; test $(uname -m) = aarch64; echo 'int main(void) { return 0; }' >/tmp/x.c; \
                  gcc -o /tmp/x /tmp/x.c; /tmp/x; \
                  for program in bzip2 chrpath cpio diffstat gawk git lz4c make patch perl python3 rpcgen socat wget xz zstd; \
                  do command -v $program >/dev/null || { echo no $program; exit 1; }; done; \
                  python3 -c 'import distutils, git, jinja2, pexpect, subunit, websockets'; \
                  locale -a | grep -i en_US.utf; stat -c %a /var/lib/extrausers/passwd";
    let output = run(&["sh", "-c", script]);
    assert_eq!(output_text(&output), "en_US.utf8\n664\n");
    if options.contains("--target") {
        return;
    }
    let label = "{{index .Config.Labels \"build-agent.releases\"}}";
    let releases = output_text(&docker(&["image", "inspect", "--format", label, IMAGE]));
    for release in releases.split_whitespace() {
        let output = run(&["doctor", "--release", release]);
        assert_eq!(output.status.code(), Some(0), "{release}\n{}", output_text(&output));
    }
}
