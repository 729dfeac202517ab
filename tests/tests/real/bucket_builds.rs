//! Builds with a share in a bucket of a real S3 server: downloads, missing objects, pull requests, and a prune.

use std::collections::BTreeSet;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use build_agent_tests::{Ran, Running, SeaweedFs, commit, git, is_left_to_the_long_run};
use sha2::{Digest, Sha256};

use crate::bucket::{Machine, fixture, machine};
use crate::fixture::{Fixture, NARROW_BUILD, TIMEOUT, WITHOUT_PATCH_TOOLS, WITHOUT_TOOLCHAIN};

/// An HTTP server for sources. Stopped when it is dropped.
struct Upstream {
    server: Child,
    port: u16,
}

impl Upstream {
    fn start(directory: &Path) -> Upstream {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut python = Command::new("python3");
        python.args(["-m", "http.server", &port.to_string(), "--bind", "127.0.0.1", "--directory"]);
        python.arg(directory).stdout(Stdio::null()).stderr(Stdio::null());
        let server = python.spawn().unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "the server for sources does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        Upstream { server, port }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// Sources in an archive and in a git repository.
const FETCHED: &str = r#"
SRC_URI = "http://127.0.0.1:PORT/fetched-1.0.tar.gz;name=archive \
    git://127.0.0.1:PORT/source.git;protocol=http;branch=main;name=repository;destsuffix=source"
SRC_URI[archive.sha256sum] = "SHA256"
SRCREV_repository = "COMMIT"
SRCREV_FORMAT = "repository"
S = "${WORKDIR}/fetched-1.0"
deltask do_compile
do_deploy() {
    cat ${S}/a.txt ${WORKDIR}/source/b.txt > ${DEPLOYDIR}/fetched.txt
}
addtask deploy after do_unpack before do_build
"#;

/// Adds the recipe to the layer, with its sources on a server.
fn add_fetched(fixture: &Fixture) -> Upstream {
    let sources = fixture.directory.path().join("sources");
    let (archive, repository) = (sources.join("fetched-1.0"), fixture.directory.path().join("repository"));
    std::fs::create_dir_all(&archive).unwrap();
    std::fs::create_dir(&repository).unwrap();
    std::fs::write(archive.join("a.txt"), "from an archive\n").unwrap();
    let mut tar = Command::new("tar");
    tar.args(["-czf", "fetched-1.0.tar.gz", "fetched-1.0"]).current_dir(&sources);
    assert!(tar.status().unwrap().success());
    git(&repository, ["init", "--quiet", "--initial-branch=main"]);
    std::fs::write(repository.join("b.txt"), "from a repository\n").unwrap();
    commit(&repository, "Begin");
    git(&repository, ["clone", "--quiet", "--bare", ".", "../sources/source.git"]);
    git(&sources.join("source.git"), ["update-server-info"]);
    let upstream = Upstream::start(&sources);
    let sha256 = Sha256::digest(std::fs::read(sources.join("fetched-1.0.tar.gz")).unwrap());
    let sha256: String = sha256.iter().map(|byte| format!("{byte:02x}")).collect();
    let recipe = FETCHED
        .replace("PORT", &upstream.port.to_string())
        .replace("SHA256", &sha256)
        .replace("COMMIT", git(&repository, ["rev-parse", "HEAD"]).trim());
    let directory = fixture.layer().join("recipes-fixture/fetched");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(
        directory.join("fetched_1.0.bb"),
        format!("{WITHOUT_TOOLCHAIN}{WITHOUT_PATCH_TOOLS}{recipe}"),
    )
    .unwrap();
    let manifest = fixture.layer().join("build-agent.toml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    let changed = text.replace("\"deploy-image\"]", "\"deploy-image\", \"fetched\"]");
    assert_ne!(text, changed);
    std::fs::write(&manifest, changed).unwrap();
    commit(&fixture.layer(), "Fetch sources");
    upstream
}

/// Makes the bucket.
fn server(fixture: &Fixture, test: &str) -> Option<SeaweedFs> {
    let server = SeaweedFs::start(test)?;
    let first = fixture.directory.path().join("first");
    std::fs::create_dir(&first).unwrap();
    std::fs::write(first.join("a"), "a").unwrap();
    let mut publish = server.agent();
    publish.arg("publish").arg(first).arg("s3://share/first").stdout(Stdio::null());
    assert!(publish.status().unwrap().success());
    Some(server)
}

/// Three machines: everything comes from the bucket; if an indexed object is missing, its sources come from the bucket.
#[test]
fn shared_state_and_downloads_come_from_a_real_server() {
    let test = "shared_state_and_downloads_come_from_a_real_server";
    let Some(fixture) = fixture(test) else { return };
    let Some(server) = server(&fixture, test) else { return };
    let upstream = add_fetched(&fixture);
    // Without a network there would be no downloads.
    let conf = format!("{NARROW_BUILD}BB_NO_NETWORK = \"0\"\n");
    let machine = |name: &str| {
        let directory = fixture.directory.path().join(format!("machine-{name}"));
        Machine::new(&fixture.layer(), directory, &conf, &server)
    };
    let first = machine("first");
    first.build(&["--trusted"]).assert_code(&[0]);
    let summary = first.sstate();
    assert_eq!(summary["missed"], summary["wanted"], "{summary}");
    let downloads = server.keys("share", "cache/downloads/");
    let repository = format!("cache/downloads/git2_127.0.0.1.{}.source.git.tar.gz", upstream.port);
    let expected = BTreeSet::from(["cache/downloads/fetched-1.0.tar.gz".to_owned(), repository]);
    assert_eq!(downloads, expected);

    drop(upstream);
    let second = machine("second");
    second.build(&[]).assert_code(&[0]);
    second.assert_all_from_the_mirror();

    // The index still has the deleted object.
    let objects = server.keys("share", "cache/sstate/");
    let is_deployed = |key: &&String| key.contains("sstate:fetched:") && key.ends_with("_deploy.tar.zst");
    let deployed: Vec<_> = objects.iter().filter(is_deployed).collect();
    let [deployed] = deployed[..] else { panic!("{objects:?}") };
    server.delete("share", deployed);
    let third = machine("third");
    third.build(&["--trusted"]).assert_code(&[0]);
    let summary = third.sstate();
    assert_eq!(summary["mirrors"], summary["wanted"], "the index has it: {summary}");
    let ran = third.tasks();
    let of_fetched = |task: &&String| task.starts_with("fetched-") && !task.ends_with("_setscene");
    let ran: Vec<_> = ran.iter().filter(of_fetched).filter_map(|task| task.split_once(' ')).collect();
    let ran: BTreeSet<_> = ran.into_iter().map(|(_, task)| task).collect();
    assert_eq!(ran, BTreeSet::from(["do_deploy", "do_fetch", "do_unpack"]), "{}", third.log());
    assert_eq!(third.files(|name| name == "fetched.txt").len(), 1, "{}", third.log());
    // Only the bucket has the sources now.
    let fetched = third.files(|name| {
        (name == "fetched-1.0.tar.gz" || name.starts_with("git2_")) && name.ends_with(".tar.gz")
    });
    assert_eq!(
        fetched.iter().map(|name| format!("cache/downloads/{name}")).collect::<BTreeSet<_>>(),
        expected
    );
    // The deleted object is there again, and no object is there twice.
    assert_eq!(server.keys("share", "cache/sstate/"), objects);
    assert_eq!(server.keys("share", "cache/downloads/"), expected);
    let published = &third.result()["cache"][0]["published"];
    assert_eq!((&published["failed"], &published["differing"]), (&0.into(), &0.into()), "{published}");
}

/// The server has two roles; that of the pull request may write only its own tier.
#[test]
fn a_pull_request_reads_the_shared_tier_and_writes_its_own() {
    let test = "a_pull_request_reads_the_shared_tier_and_writes_its_own";
    if is_left_to_the_long_run(test) {
        return;
    }
    let Some(fixture) = fixture(test) else { return };
    let Some(server) = server(&fixture, test) else { return };
    machine(&fixture, "trusted", &server).build(&["--trusted"]).assert_code(&[0]);
    let shared = server.keys("share", "cache/");
    let append = fixture.layer().join("recipes-fixture/deploy-files/deploy-files_1.0.bbappend");
    std::fs::write(append, "do_deploy:append() {\n    echo changed > ${DEPLOYDIR}/changed.txt\n}\n").unwrap();
    commit(&fixture.layer(), "Change a recipe");

    let first = machine(&fixture, "first-push", &server);
    first.start(of_pull_request(&fixture, &server, &first)).wait_for(TIMEOUT).assert_code(&[0]);
    let summary = first.sstate();
    assert!(summary["missed"].as_u64() > Some(0) && summary["mirrors"].as_u64() > Some(0), "{summary}");
    let own = server.keys("share", "cache/pr/");
    assert!(own.iter().all(|key| key.starts_with("cache/pr/7/")), "{own:?}");
    assert!(own.iter().any(|key| key.starts_with("cache/pr/7/sstate/")), "{own:?}");
    assert_eq!(&server.keys("share", "cache/") - &own, shared);

    let second = machine(&fixture, "second-push", &server);
    second.start(of_pull_request(&fixture, &server, &second)).wait_for(TIMEOUT).assert_code(&[0]);
    second.assert_all_from_the_mirror();

    // The agent trusts the source, and S3 refuses to write.
    let misled = machine(&fixture, "misled", &server);
    let mut command = misled.command(&["--trusted"]);
    server.configure_for_pull_request(&mut command);
    misled.start(command).wait_for(TIMEOUT).assert_code(&[0]);
    assert_eq!(misled.result()["cache"][0]["state"], "read-only", "{:#}", misled.result()["cache"]);
    assert_eq!(&server.keys("share", "cache/") - &server.keys("share", "cache/pr/"), shared);

    // After the merge, everything that the pull request had changed is built again.
    let merged = machine(&fixture, "merged", &server);
    merged.build(&["--trusted"]).assert_code(&[0]);
    assert_eq!(merged.sstate()["missed"], summary["missed"]);
}

/// Like a start by CodeBuild's webhook for pull request 7, with that role.
fn of_pull_request(fixture: &Fixture, server: &SeaweedFs, machine: &Machine<SeaweedFs>) -> Command {
    let mut command = machine.command(&[]);
    server.configure_for_pull_request(&mut command);
    command.env("CODEBUILD_BUILD_ID", "checks:1").env("CODEBUILD_SRC_DIR", fixture.layer());
    command.env("CODEBUILD_SOURCE_VERSION", "pr/7").env("CODEBUILD_WEBHOOK_TRIGGER", "pr/7");
    command.env("CODEBUILD_WEBHOOK_EVENT", "PULL_REQUEST_UPDATED");
    command.env("HOME", std::env::var_os("HOME").unwrap_or_default());
    command
}

#[test]
fn two_builds_survive_a_prune_of_the_bucket() {
    let test = "two_builds_survive_a_prune_of_the_bucket";
    if is_left_to_the_long_run(test) {
        return;
    }
    let Some(fixture) = fixture(test) else { return };
    let Some(server) = server(&fixture, test) else { return };
    machine(&fixture, "first", &server).build(&["--trusted"]).assert_code(&[0]);
    let objects = server.keys("share", "cache/sstate/");

    // Everything is too old, but a build with a lease is running.
    let (leasing, reading) = (machine(&fixture, "leasing", &server), machine(&fixture, "reading", &server));
    let mut one = leasing.start(leasing.command(&["--trusted"]));
    let mut other = reading.start(reading.command(&[]));
    one.wait_until("the build with a lease", || leasing.builds());
    other.wait_until("the build without", || reading.builds());
    prune(&fixture, &server, &[]).assert_code(&[0]);
    one.wait_for(TIMEOUT).assert_code(&[0]);
    other.wait_for(TIMEOUT).assert_code(&[0]);
    leasing.assert_all_from_the_mirror();
    reading.assert_all_from_the_mirror();
    assert_eq!(server.keys("share", "cache/sstate/"), objects);

    // Without a lease, a prune may remove objects during a build, which still passes.
    let late = machine(&fixture, "late", &server);
    let mut build = late.start(late.command(&[]));
    build.wait_until("the build", || late.builds());
    prune(&fixture, &server, &["--ignore-leases"]).assert_code(&[0]);
    build.wait_for(TIMEOUT).assert_code(&[0]);
    assert_eq!(server.keys("share", "cache/sstate/"), BTreeSet::new());

    // The next build fills it again.
    let next = machine(&fixture, "next", &server);
    next.build(&["--trusted"]).assert_code(&[0]);
    assert_eq!(server.keys("share", "cache/sstate/"), objects);
}

/// A prune that removes objects of any age.
fn prune(fixture: &Fixture, server: &SeaweedFs, words: &[&str]) -> Ran {
    let mut command = server.agent();
    command.args(["cache", "prune", "--sstate-max-age", "0s", "--downloads-max-age", "0s", "--grace", "0s"]);
    command.args(["--share", "s3://share/cache"]).args(words);
    Running::start(command, fixture.directory.path()).wait()
}
