//! `docker/seed` with a real engine and a real registry that requires a password: Debian's docker-registry.
//!
//! The built image is a copy of the one in `image/`, or a broken copy, so a build takes seconds.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use build_agent_tests::{Part, Running, commit, copy_tree, git, repository, skip_without};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// The media types of manifests.
const MANIFESTS: &str = "application/vnd.docker.distribution.manifest.v2+json, \
                         application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json";

/// The output of `htpasswd -Bbn me hunter22secret`, and the same login as an HTTP client sends it.
const PASSWORD: &str = "hunter22secret";
const HTPASSWD: &str = "me:$2y$05$wd6Nhi.RUEo6vSipHqySX.5xJMYcW/pEkqMwOPF0lHJrDyOPKt0OS\n";
/// A commit, which the provenance names.
const EFS_UTILS: &str = "def6e74fbbe891d07212b5bcd82109d5e5b59be7";

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
        for name in ["Cargo.toml", "Cargo.lock"] {
            std::fs::copy(repository().join(name), fixture.sources().join(name)).unwrap();
        }
        git(&fixture.sources(), ["init", "--quiet", "--initial-branch", "main"]);
        let pinned = "a".repeat(64);
        fixture.change(&format!(
            "ARG BASE_IMAGE=docker.io/library/debian:12@sha256:{pinned}\nFROM {image}\n\
             ARG EFS_UTILS_COMMIT={EFS_UTILS}\nLABEL build-agent.releases=scarthgap\n"
        ));
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
        self.seed_with(password, &self.key("key.pem", "prime256v1"))
    }

    /// The same with another signing key.
    fn seed_with(&self, password: &str, key: &Path) -> Output {
        let mut command = Command::new(self.sources().join("docker/seed"));
        command.env("IMAGE_REPOSITORY", self.repository()).env("TMPDIR", self.directory.path());
        command.env("REGISTRY_USERNAME", "me").env("REGISTRY_PASSWORD", password);
        command.env("BUILD_AGENT_ENGINE", "docker").env_remove("DOCKERHUB_USERNAME");
        let path =
            format!("{}:{}", self.directory.path().join("bin").display(), std::env::var("PATH").unwrap());
        command.env("IMAGE_SIGNING_KEY", key).env("PATH", path).output().unwrap()
    }

    /// The signature layer of the image that `stable` names, if its signature is right.
    #[track_caller]
    fn signature(&self) -> (String, Value) {
        let tags = self.tags();
        let stable = tags.iter().find(|tag| tag.starts_with("stable")).expect("stable");
        let digest = self.digest(stable).expect("what stable names");
        let signed = self.manifest(&format!("{}.sig", digest.replace(':', "-")))["layers"][0].clone();
        let payload = self.blob(&signed);
        let critical = &serde_json::from_str::<Value>(&payload).unwrap()["critical"];
        assert_eq!(critical["image"]["docker-manifest-digest"], digest.as_str());
        assert_eq!(critical["identity"]["docker-reference"], self.repository());
        assert_eq!(critical["type"], "cosign container image signature");
        let signature = signed["annotations"]["dev.cosignproject.cosign/signature"].as_str().unwrap();
        assert!(self.verifies(payload.as_bytes(), signature));
        assert!(!self.verifies(payload.replace("sha256:", "sha256:0").as_bytes(), signature));
        (digest, signed)
    }

    /// `aws kms sign` with the fixture's key.
    fn stand_in_for_kms(&self) {
        let script = r#"#!/bin/sh
set -eu
[ "$1 $2 $3 $4" = "kms sign --key-id alias/build-agent" ]
case "$*" in *"--message-type DIGEST --signing-algorithm ECDSA_SHA_256"*) ;; *) exit 1 ;; esac
cd "$TMPDIR"
while [ "$1" != --message ]; do shift; done
openssl pkeyutl -sign -inkey key.pem -in "${2#fileb://}" -pkeyopt digest:sha256 | openssl base64 -A
"#;
        let bin = self.directory.path().join("bin");
        std::fs::create_dir(&bin).unwrap();
        // pyenv's `python3` would look for `aws` in its own directory first.
        let python = ["-c", "import sys; print(sys.executable)"];
        let python = Command::new("python3").args(python).output().unwrap().stdout;
        std::os::unix::fs::symlink(String::from_utf8(python).unwrap().trim(), bin.join("python3")).unwrap();
        std::fs::write(bin.join("aws"), script).unwrap();
        std::fs::set_permissions(bin.join("aws"), std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A private key on this curve; made if it is not there.
    fn key(&self, name: &str, curve: &str) -> PathBuf {
        let path = self.directory.path().join(name);
        if !path.exists() {
            self.openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", &format!("ec_paramgen_curve:{curve}")])
                .args(["-out".as_ref(), path.as_os_str()])
                .status()
                .unwrap();
        }
        path
    }

    fn openssl(&self, words: &[&str]) -> Command {
        let mut command = Command::new("openssl");
        command.args(words).current_dir(self.directory.path()).stderr(std::process::Stdio::null());
        command
    }

    /// Whether the public half of the key accepts the signature (base64).
    fn verifies(&self, content: &[u8], signature: &str) -> bool {
        let top = self.directory.path();
        std::fs::write(top.join("content"), content).unwrap();
        std::fs::write(top.join("signature.txt"), signature).unwrap();
        let all = "openssl pkey -in key.pem -pubout -out pub.pem && openssl base64 -d -A -in signature.txt -out signature \
                   && openssl dgst -sha256 -verify pub.pem -signature signature content";
        Command::new("sh").args(["-c", all]).current_dir(top).output().unwrap().status.success()
    }

    /// The JSON of a manifest.
    fn manifest(&self, reference: &str) -> Value {
        serde_json::from_str(self.asked(&format!("manifests/{reference}")).split_once("\r\n\r\n").unwrap().1)
            .unwrap()
    }

    /// The content of a layer. Fails unless the size and the digest are right.
    fn blob(&self, descriptor: &Value) -> String {
        let digest = descriptor["digest"].as_str().unwrap();
        let answer = self.asked(&format!("blobs/{digest}"));
        let content = answer.split_once("\r\n\r\n").unwrap().1.to_owned();
        assert_eq!(descriptor["size"], content.len());
        let hex: String = Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(digest, format!("sha256:{hex}"));
        content
    }

    /// The registry's reply, with its headers.
    fn asked(&self, what: &str) -> String {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        write!(
            stream,
            "GET /v2/build-agent/{what} HTTP/1.0\r\nAccept: {MANIFESTS}\r\nAuthorization: Basic {BASIC}\r\n\r\n"
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

#[test]
fn the_image_has_an_sbom_a_provenance_and_a_signature() {
    let test = "the_image_has_an_sbom_a_provenance_and_a_signature";
    let image = match image() {
        Ok(image) => image,
        Err(reason) => return skip_without(Part::Docker, test, &reason),
    };
    let fixture = SeedFixture::new(&image);
    git(&fixture.sources(), ["remote", "add", "origin", "https://me:hunter22@git.example/build-agent.git"]);
    let output = fixture.seed(PASSWORD);
    assert!(output.status.success(), "{}", output_text(&output));
    let tags = fixture.tags();
    let stable = tags.iter().find(|tag| tag.starts_with("stable")).expect("stable");
    let digest = fixture.digest(stable).unwrap();
    let tag = digest.replace(':', "-");

    // The list of referrers, where the registry has none of its own.
    let index = fixture.manifest(&tag);
    let documents: Vec<&Value> = index["manifests"].as_array().unwrap().iter().collect();
    let kinds: Vec<&str> = documents.iter().map(|entry| entry["artifactType"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["application/spdx+json", "application/vnd.in-toto+json"]);
    let contents: Vec<String> = documents
        .iter()
        .map(|entry| {
            let manifest = fixture.manifest(entry["digest"].as_str().unwrap());
            assert_eq!(manifest["subject"]["digest"], digest.as_str());
            assert_eq!(manifest["artifactType"], entry["artifactType"]);
            fixture.blob(&manifest["config"]);
            fixture.blob(&manifest["layers"][0])
        })
        .collect();

    let sbom: Value = serde_json::from_str(&contents[0]).unwrap();
    assert_eq!(sbom["spdxVersion"], "SPDX-2.3");
    let packages = sbom["packages"].as_array().unwrap();
    let purl = |start: &str| {
        packages
            .iter()
            .any(|one| one["externalRefs"][0]["referenceLocator"].as_str().unwrap().starts_with(start))
    };
    let oci = format!("pkg:oci/build-agent@{}", digest.replace(':', "%3A"));
    let efs_utils = format!("pkg:github/aws/efs-utils@{EFS_UTILS}");
    for start in [
        oci.as_str(),
        "pkg:deb/debian/git@",
        "pkg:cargo/tokio@",
        "pkg:cargo/agent-types@",
        "pkg:pypi/kas@",
        &efs_utils,
    ] {
        assert!(purl(start), "{start}");
    }
    assert!(!purl("pkg:cargo/fuser@"), "only the tests need it");
    let mut ids: Vec<&str> = packages.iter().map(|one| one["SPDXID"].as_str().unwrap()).collect();
    let all = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((ids.len(), sbom["relationships"].as_array().unwrap().len()), (all, all), "ids are unique");

    let statement: Value = serde_json::from_str(&contents[1]).unwrap();
    let commit = git(&fixture.sources(), ["rev-parse", "HEAD"]);
    assert_eq!(statement["subject"][0]["digest"]["sha256"], digest["sha256:".len()..]);
    let build = &statement["predicate"]["buildDefinition"];
    let source = json!({"uri": "git+https://git.example/build-agent.git", "digest": {"gitCommit": commit}});
    let base = json!({"uri": "docker://docker.io/library/debian:12", "digest": {"sha256": "a".repeat(64)}});
    assert_eq!(build["externalParameters"]["source"], source);
    assert_eq!(build["resolvedDependencies"].as_array().unwrap()[..2], [source, base]);
    assert!(!contents.concat().contains("hunter22"), "the password of the address is not published");

    // What `cosign verify --key` checks: the payload names the image, and the key has signed the payload.
    let (signed_digest, signed) = fixture.signature();
    assert_eq!(signed_digest, digest);
    assert_eq!(signed["mediaType"], "application/vnd.dev.cosign.simplesigning.v1+json");

    // And `cosign verify-attestation`: DSSE envelopes of the same documents.
    let attestations = fixture.manifest(&format!("{tag}.att"));
    for (layer, predicate) in attestations["layers"]
        .as_array()
        .unwrap()
        .iter()
        .zip(["https://spdx.dev/Document", "https://slsa.dev/provenance/v1"])
    {
        let envelope: Value = serde_json::from_str(&fixture.blob(layer)).unwrap();
        let decode =
            fixture.openssl(&["base64", "-d", "-A"]).stdin(file_of(&fixture, &envelope["payload"])).output();
        let payload = decode.unwrap().stdout;
        let encoded =
            [format!("DSSEv1 28 application/vnd.in-toto+json {} ", payload.len()).as_bytes(), &payload]
                .concat();
        assert!(fixture.verifies(&encoded, envelope["signatures"][0]["sig"].as_str().unwrap()));
        assert_eq!(serde_json::from_slice::<Value>(&payload).unwrap()["predicateType"], predicate);
        assert_eq!(layer["annotations"]["predicateType"], predicate);
    }

    // A key in KMS, which is a stand-in with the same key.
    fixture.change(&format!("FROM {image}\nLABEL build-agent.releases=scarthgap kms=1\n"));
    fixture.stand_in_for_kms();
    let output = fixture.seed_with(PASSWORD, Path::new("awskms:///alias/build-agent"));
    assert!(output.status.success(), "{}", output_text(&output));
    let (by_kms, _) = fixture.signature();
    assert_ne!(by_kms, digest);

    // A key that cosign cannot read signs nothing.
    fixture.change(&format!("FROM {image}\nLABEL build-agent.releases=scarthgap again=1\n"));
    std::fs::copy(fixture.key("other.pem", "secp384r1"), fixture.directory.path().join("key.pem")).unwrap();
    let output = fixture.seed(PASSWORD);
    assert!(!output.status.success(), "{}", output_text(&output));
    assert!(
        output_text(&output).contains("is not a PEM file with an ECDSA P-256 key"),
        "{}",
        output_text(&output)
    );
    assert_eq!(fixture.digest(stable), Some(by_kms), "stable stays where it is");
}

fn file_of(fixture: &SeedFixture, text: &Value) -> std::fs::File {
    let path = fixture.directory.path().join("text");
    std::fs::write(&path, text.as_str().unwrap()).unwrap();
    std::fs::File::open(path).unwrap()
}
