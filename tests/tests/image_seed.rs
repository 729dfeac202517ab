//! `docker/seed` with a real engine and a real registry that requires a password: Debian's docker-registry.
//!
//! The built image is a copy of the one in `image.rs`, or a broken copy, so a build takes seconds.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use build_agent_tests::{Part, Running, commit, copy_tree, git, repository, skip_without};
use tempfile::TempDir;

/// The output of `htpasswd -Bbn me hunter22secret`, and the same login as an HTTP client sends it.
const PASSWORD: &str = "hunter22secret";
const HTPASSWD: &str = "me:$2y$05$wd6Nhi.RUEo6vSipHqySX.5xJMYcW/pEkqMwOPF0lHJrDyOPKt0OS\n";
const BASIC: &str = "bWU6aHVudGVyMjJzZWNyZXQ=";

fn docker(words: &[&str]) -> Option<Output> {
    Command::new("docker").args(words).output().ok().filter(|output| output.status.success())
}

fn output_text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat()
}

/// The image, or the reason why the test cannot run here.
fn image() -> Result<String, String> {
    let image = std::env::var("BUILD_AGENT_TEST_IMAGE").unwrap_or_else(|_| "build-agent".into());
    docker(&["version"]).ok_or("no container engine answers to `docker version`")?;
    docker(&["image", "inspect", &image])
        .ok_or(format!("there is no image `{image}` (docker/build {image})"))?;
    let registry = Command::new("docker-registry").arg("--version").output();
    registry.map_err(|_| "there is no docker-registry (apt-get install -y docker-registry)")?;
    Ok(image)
}

/// A registry on the loopback, and sources whose image is made from `image`.
struct SeedFixture {
    directory: TempDir,
    port: u16,
    _registry: Running,
}

impl SeedFixture {
    fn new(image: &str) -> SeedFixture {
        let directory = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let top = directory.path().display().to_string();
        std::fs::write(directory.path().join("htpasswd"), HTPASSWD).unwrap();
        let configuration = format!(
            "version: 0.1\nhttp: {{addr: '127.0.0.1:{port}'}}\n\
             storage: {{filesystem: {{rootdirectory: {top}/registry}}}}\n\
             auth: {{htpasswd: {{realm: test, path: {top}/htpasswd}}}}\n"
        );
        std::fs::write(directory.path().join("registry.yml"), configuration).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(directory.path().join("registry.yml"));
        let mut registry = Running::start(command, directory.path());
        registry.wait_until("the registry answers", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        let fixture = SeedFixture { directory, port, _registry: registry };
        copy_tree(&repository().join("docker"), &fixture.sources().join("docker"));
        std::fs::copy(repository().join("Cargo.toml"), fixture.sources().join("Cargo.toml")).unwrap();
        git(&fixture.sources(), ["init", "--quiet", "--initial-branch", "main"]);
        fixture.change(&format!("FROM {image}\nLABEL build-agent.releases=scarthgap\n"));
        fixture
    }

    fn sources(&self) -> PathBuf {
        self.directory.path().join("sources")
    }

    /// Commits another Dockerfile.
    fn change(&self, dockerfile: &str) -> String {
        std::fs::write(self.sources().join("docker/Dockerfile"), dockerfile).unwrap();
        commit(&self.sources(), "Change the image");
        git(&self.sources(), ["rev-parse", "HEAD"])
    }

    fn repository(&self) -> String {
        format!("127.0.0.1:{}/build-agent", self.port)
    }

    fn seed(&self, password: &str) -> Output {
        let mut command = Command::new(self.sources().join("docker/seed"));
        command.env("IMAGE_REPOSITORY", self.repository()).env("TMPDIR", self.directory.path());
        command.env("REGISTRY_USERNAME", "me").env("REGISTRY_PASSWORD", password);
        command.env("BUILD_AGENT_ENGINE", "docker").env_remove("DOCKERHUB_USERNAME").output().unwrap()
    }

    /// The registry's reply, with its headers.
    fn asked(&self, what: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        let accept = "application/vnd.docker.distribution.manifest.v2+json";
        write!(
            stream,
            "GET /v2/build-agent/{what} HTTP/1.0\r\nAccept: {accept}\r\nAuthorization: Basic {BASIC}\r\n\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// The digest that a tag names.
    fn digest(&self, tag: &str) -> Option<String> {
        let answer = self.asked(&format!("manifests/{tag}"));
        let line = answer.lines().find(|line| line.to_lowercase().starts_with("docker-content-digest: "))?;
        line.split_once(": ").map(|(_, digest)| digest.to_owned())
    }

    fn tags(&self) -> Vec<String> {
        let answer = self.asked("tags/list");
        let (_, list) = answer.split_once("\"tags\":[").unwrap_or_default();
        let list = list.split(']').next().unwrap_or_default();
        list.split(',').filter(|tag| !tag.is_empty()).map(|tag| tag.trim_matches('"').to_owned()).collect()
    }
}

impl Drop for SeedFixture {
    fn drop(&mut self) {
        let commits =
            Command::new("git").args(["log", "--format=%H"]).current_dir(self.sources()).output().unwrap();
        let own =
            String::from_utf8_lossy(&commits.stdout).lines().map(|it| format!("build-agent:{it}")).collect();
        let pushed: Vec<String> =
            self.tags().iter().map(|tag| format!("{}:{tag}", self.repository())).collect();
        for name in [own, pushed].concat() {
            docker(&["image", "rm", &name]);
        }
    }
}

fn left(directory: &Path, start: &str) -> usize {
    let names = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name());
    names.filter(|name| name.to_string_lossy().starts_with(start)).count()
}

#[test]
fn seed_pushes_with_a_password_and_moves_stable_only_to_a_good_image() {
    let test = "seed_pushes_with_a_password_and_moves_stable_only_to_a_good_image";
    let image = match image() {
        Ok(image) => image,
        Err(reason) => return skip_without(Part::Docker, test, &reason),
    };
    let fixture = SeedFixture::new(&image);

    let output = fixture.seed("wrong");
    assert!(
        !output.status.success() && output_text(&output).contains("login to"),
        "{}",
        output_text(&output)
    );
    assert_eq!(fixture.tags(), [""; 0]);

    let output = fixture.seed(PASSWORD);
    assert!(output.status.success(), "{}", output_text(&output));
    assert!(!output_text(&output).contains(PASSWORD), "{}", output_text(&output));
    let good = git(&fixture.sources(), ["rev-parse", "HEAD"]);
    let tags = fixture.tags();
    let own = tags.iter().find(|tag| tag.starts_with(&format!("{good}-20"))).expect("the commit's tag");
    let stable = tags.iter().find(|tag| tag.starts_with("stable")).expect("stable");
    let digest = fixture.digest(stable).expect("what stable names");
    assert_eq!(fixture.digest(own).as_ref(), Some(&digest));
    assert!(output_text(&output).contains(&digest), "it is told: {}", output_text(&output));

    // An image whose doctor finds a missing program.
    let sick = fixture.sources().join("sick");
    std::fs::write(&sick, "#!/bin/sh\necho 'no gawk here'\nexit 3\n").unwrap();
    std::fs::set_permissions(&sick, std::fs::Permissions::from_mode(0o755)).unwrap();
    fixture.change(&format!("FROM {image}\nCOPY sick /usr/local/bin/build-agent\n"));
    let output = fixture.seed(PASSWORD);
    assert!(
        !output.status.success() && output_text(&output).contains("the smoke test failed"),
        "{}",
        output_text(&output)
    );
    assert_eq!(fixture.tags(), tags, "nothing was pushed");
    assert_eq!(fixture.digest(stable), Some(digest), "stable stays where it is");
    assert_eq!(left(fixture.directory.path(), "tmp."), 0, "no configuration with a password is left");
}
