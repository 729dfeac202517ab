//! The image itself; needs a container engine and the image: `docker/build build-agent`.
//!
//! Containers have no network; stand-ins are mounted as upstreams. `BUILD_AGENT_TEST_IMAGE` names another image.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use build_agent_tests::{
    Part, Running, Sandbox, agent, commit, json, repository, skip, skip_without, well_formed_xml,
};

/// A uid that exists neither on this machine nor in the image.
const STRANGER: u32 = 48_611;

fn image() -> String {
    std::env::var("BUILD_AGENT_TEST_IMAGE").unwrap_or_else(|_| "build-agent".into())
}

fn docker<S: AsRef<std::ffi::OsStr>>(words: impl IntoIterator<Item = S>) -> Output {
    Command::new("docker").args(words).output().expect("docker starts")
}

fn output_text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat()
}

/// The reason why the tests cannot run here.
fn missing() -> Option<String> {
    let works =
        |words: &[&str]| Command::new("docker").args(words).output().is_ok_and(|it| it.status.success());
    if !works(&["version"]) {
        return Some("no container engine answers to `docker version`".into());
    }
    let image = image();
    (!works(&["image", "inspect", &image]))
        .then(|| format!("there is no image `{image}` (docker/build {image})"))
}

macro_rules! need_image {
    ($test:literal) => {
        if let Some(reason) = missing() {
            skip_without(Part::Docker, $test, &reason);
            return;
        }
    };
}

mod credentials;

/// `docker run` of the image with these options and arguments.
fn run(options: &[&str], words: &[&str]) -> Output {
    let mut all = vec!["run", "--rm", "--network", "none"];
    all.extend(options);
    let image = image();
    all.push(&image);
    all.extend(words);
    docker(all)
}

/// Changes the owner of the tree, if the tests may do that.
fn chown(directory: &Path, owner: u32) {
    if nix::unistd::geteuid().is_root() {
        let status = Command::new("chown").arg("-R").arg(format!("{owner}:{owner}")).arg(directory).status();
        assert!(status.unwrap().success());
    }
}

/// A layer and a stand-in upstream, at the same paths in the container.
struct Mounted {
    sandbox: Sandbox,
    volume: String,
    owner: u32,
}

impl Mounted {
    /// `owner` gets the layer, if the tests may change owners, and the upstream too, because git reads no local
    /// repository of another user.
    fn new(test: &str, owner: u32) -> Option<Mounted> {
        let sandbox = Sandbox::new(test)?;
        let text = sandbox.manifest_text();
        let artifacts = format!("\n[artifacts]\ndestination = \"{}\"\n", sandbox.artifacts().display());
        sandbox.write_manifest(&text.replace(&artifacts, ""));
        commit(&sandbox.layer(), "Add a manifest");
        let root = nix::unistd::geteuid().is_root();
        let owner = if root { owner } else { nix::unistd::geteuid().as_raw() };
        let mounted =
            Mounted { volume: format!("build-agent-test-{}-{test}", std::process::id()), sandbox, owner };
        chown(&mounted.sandbox.layer(), owner);
        chown(&mounted.sandbox.upstream(), owner);
        Some(mounted)
    }

    /// Sets what the stand-ins do.
    fn behaviour(&self, text: &str) {
        chown(&self.sandbox.upstream(), nix::unistd::geteuid().as_raw());
        self.sandbox.behaviour(text);
        chown(&self.sandbox.upstream(), self.owner);
    }

    fn options(&self) -> Vec<String> {
        let bind = |path: &Path| format!("{0}:{0}", path.display());
        ["--volume".into(), bind(&self.sandbox.upstream()), "--volume".into()]
            .into_iter()
            .chain([format!("{}:/src", self.sandbox.layer().display()), "--workdir".into(), "/src".into()])
            .chain(["--volume".into(), format!("{}:/work", self.volume)])
            .collect()
    }

    fn run(&self, options: &[&str], words: &[&str]) -> Output {
        let own = self.options();
        let mut all: Vec<&str> = own.iter().map(String::as_str).collect();
        all.extend(options);
        run(&all, words)
    }

    fn out(&self) -> PathBuf {
        self.sandbox.layer().join("build-agent-out")
    }

    /// Fails if a file in the layer belongs to another user.
    #[track_caller]
    fn assert_owned(&self) {
        let mut left = vec![self.sandbox.layer()];
        while let Some(path) = left.pop() {
            let metadata = path.symlink_metadata().unwrap();
            assert_eq!(metadata.uid(), self.owner, "{}", path.display());
            if metadata.is_dir() {
                left.extend(std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            }
        }
    }

    #[track_caller]
    fn assert_outcome(&self, outcome: &str, output: &str) {
        assert_eq!(json(&self.out().join("result.json"))["outcome"], outcome, "{output}");
        well_formed_xml(&self.out().join("junit.xml"), "testcase");
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        docker(["volume", "rm", "--force", &self.volume]);
    }
}

/// The Dockerfile's label, which the smoke test of `docker/seed` reads. Needs no engine.
#[test]
fn the_image_names_all_releases_of_the_agent() {
    let dockerfile = std::fs::read_to_string(repository().join("docker/Dockerfile")).unwrap();
    let label = dockerfile.split_once("build-agent.releases=\"").unwrap().1.split('"').next().unwrap();
    let layer = repository().join("layers-fixtures/meta-good");
    let refused = agent().args(["check", "--release", "none-such"]).arg(layer).output().unwrap();
    let names = output_text(&refused);
    let names = names.split_once("is not one of ").unwrap().1.lines().next().unwrap().replace(", ", " ");
    assert_eq!(label, names);
}

#[test]
fn the_doctor_finds_the_image_fit_for_every_release() {
    need_image!("the_doctor_finds_the_image_fit_for_every_release");
    let inspect = docker([
        "image",
        "inspect",
        "--format",
        "{{index .Config.Labels \"build-agent.releases\"}}",
        &image(),
    ]);
    let releases = output_text(&inspect);
    assert!(releases.contains("scarthgap"), "{releases}");
    for release in releases.split_whitespace() {
        let output = run(&[], &["doctor", "--release", release]);
        assert_eq!(output.status.code(), Some(0), "{release}\n{}", output_text(&output));
    }
}

#[test]
fn commands_and_flags_start_the_agent_and_others_are_executed() {
    need_image!("commands_and_flags_start_the_agent_and_others_are_executed");
    let table: [(&[&str], i32, &str); 13] = [
        (&[], 0, "Usage: build-agent"),
        (&["--version"], 0, "build-agent 0"),
        (&["schema"], 0, "\"$schema\""),
        (&["help", "check"], 0, "yocto"),
        (&["check", "--no-such-flag"], 2, "--no-such-flag"),
        (&["/bin/sh", "-c", "echo $0 is $(id -u); exit 7"], 7, "/bin/sh is 0"),
        (&["sh", "-c", "echo \"$1\"", "sh", "two  words"], 0, "two  words"),
        (&["build-agent", "--version"], 0, "build-agent 0"),
        (&["kas", "--version"], 0, "kas 5"),
        (&["oelint-adv", "--version"], 0, "oelint-adv 9"),
        (&["sbom-cve-check", "--version"], 0, "sbom-cve-check 1"),
        (&["no-such-program"], 127, "no-such-program"),
        // Byte code contains the time of its creation, but every build must make the same files.
        (&["sh", "-c", "find /opt /usr/sbin -name '*.pyc' | grep . || echo none"], 0, "none"),
    ];
    for (words, code, text) in table {
        let output = run(&[], words);
        assert_eq!(output.status.code(), Some(code), "{words:?}\n{}", output_text(&output));
        assert!(output_text(&output).contains(text), "{words:?}\n{}", output_text(&output));
    }
}

#[test]
fn shells_of_every_user_complete_and_the_man_pages_are_there() {
    need_image!("shells_of_every_user_complete_and_the_man_pages_are_there");
    // Interactive shells read /etc/bash.bashrc. `_completion_loader` finds what bash finds when Tab is pressed.
    let script = "_completion_loader build-agent; COMP_WORDS=(build-agent chec) COMP_CWORD=1; \
                  _build__agent build-agent chec build-agent; echo \"<${COMPREPLY[*]}>\"";
    for options in [&[][..], &["--user", "builder"], &["--user", "48611"]] {
        let output = output_text(&run(options, &["bash", "-ic", script]));
        assert!(output.contains("<check>"), "{options:?}\n{output}");
    }
    let files = [
        "/usr/share/zsh/vendor-completions/_build-agent",
        "/usr/share/fish/vendor_completions.d/build-agent.fish",
        "/usr/share/man/man1/build-agent.1",
        "/usr/share/man/man1/build-agent-check.1",
    ];
    let output = run(&[], &[&["grep", "--files-without-match", "build-agent"][..], &files[..]].concat());
    assert_eq!(output_text(&output), "", "each file is there and is about the agent");
}

#[test]
fn orphans_are_reaped() {
    need_image!("orphans_are_reaped");
    // The inner shell ends before its child, so PID 1 becomes the child's parent.
    let script = "sh -c 'sleep 0.1 & exit 0'; sleep 0.5; grep -l '^State:.Z' /proc/[0-9]*/status; echo done";
    let output = run(&[], &["sh", "-c", script]);
    assert_eq!(output_text(&output), "done\n");
}

#[test]
fn a_job_leaves_no_files_of_root_on_a_workstation() {
    need_image!("a_job_leaves_no_files_of_root_on_a_workstation");
    let Some(mounted) = Mounted::new("a_job_leaves_no_files_of_root_on_a_workstation", STRANGER) else {
        return;
    };
    let output = mounted.run(&[], &["run"]);
    assert_eq!(output.status.code(), Some(0), "{}", output_text(&output));
    mounted.assert_outcome("passed", &output_text(&output));
    mounted.assert_owned();
    let again = mounted.run(&[], &["check"]);
    assert_eq!(again.status.code(), Some(0), "with the volume that is there now: {}", output_text(&again));
    mounted.assert_owned();
}

#[test]
fn any_user_works() {
    need_image!("any_user_works");
    let Some(mounted) = Mounted::new("any_user_works", STRANGER) else { return };
    let (user, group) = (mounted.owner.to_string(), format!("{0}:{0}", mounted.owner));
    // Like CodeBuild's `run-as`, HOME has another value.
    let output = mounted.run(&["--user", &user, "--env", "HOME=/root"], &["run"]);
    assert_eq!(output.status.code(), Some(0), "{}", output_text(&output));
    mounted.assert_owned();
    let python = "import getpass, os, pwd; e = pwd.getpwuid(os.getuid()); print(e.pw_uid, os.access(e.pw_dir, os.W_OK))";
    for options in [&["--user", &*user][..], &["--user", &group, "--group-add", "0"]] {
        let output = run(options, &["python3", "-c", python]);
        assert_eq!(output_text(&output), format!("{} True\n", mounted.owner), "{options:?}");
    }
    let output = run(&["--user", &group], &["python3", "-c", python]);
    assert_eq!(output.status.code(), Some(3), "{}", output_text(&output));
    assert!(
        output_text(&output).contains(&format!("--user {user} without a group")),
        "{}",
        output_text(&output)
    );
}

/// In CodeBuild, the image's entrypoint does not run.
#[test]
fn without_the_entrypoint_layer_code_writes_to_no_file_of_the_image() {
    need_image!("without_the_entrypoint_layer_code_writes_to_no_file_of_the_image");
    let shell = |script: &str| output_text(&run(&["--entrypoint", "sh"], &["-c", script]));
    assert_eq!(shell("stat -c '%a %U:%G' /var/lib/extrausers/passwd"), "664 root:root\n");
    let find = "find / -xdev \\( -type f -o -type d ! -perm -1000 \\) -perm -0002 2>/dev/null; echo done";
    assert_eq!(shell(find), "done\n", "no file, and only sticky directories");
    assert_eq!(shell("find / -xdev -type f -perm /6000; echo done"), "done\n", "no setuid program");
    let builder = "setpriv --reuid builder --regid builder --init-groups sh -c";
    let write = format!(
        "{builder} 'echo \"new:*:4711:4711::/:/bin/sh\" >>/var/lib/extrausers/passwd; getent passwd 4711; id -Gn'"
    );
    let output = shell(&write);
    assert!(output.contains("Permission denied") && output.starts_with("builder\n"), "{output}");
}

#[test]
fn the_second_passwd_database_gives_nobody_more_rights() {
    need_image!("the_second_passwd_database_gives_nobody_more_rights");
    let write = "echo 'evil:*:0:0::/:/bin/sh' >>/var/lib/extrausers/passwd && getent passwd evil; echo $?";
    assert_eq!(output_text(&run(&["--user", "48611"], &["sh", "-c", write])), "2\n", "served no system user");
    let write =
        "setpriv --reuid builder --regid builder --clear-groups sh -c 'echo >>/var/lib/extrausers/passwd'";
    assert_ne!(run(&[], &["sh", "-c", write]).status.code(), Some(0), "below root nobody writes it");
}

#[test]
fn root_stays_root_in_its_own_directory_and_layer_code_runs_as_builder() {
    need_image!("root_stays_root_in_its_own_directory_and_layer_code_runs_as_builder");
    if !nix::unistd::geteuid().is_root() {
        skip("root_stays_root_in_its_own_directory_and_layer_code_runs_as_builder", "not run by root");
        return;
    }
    let test = "root_stays_root_in_its_own_directory_and_layer_code_runs_as_builder";
    let Some(mounted) = Mounted::new(test, 0) else { return };
    mounted.behaviour("yocto-check-layer outside /src/written /src/build-agent-out/result.json");
    let output = mounted.run(&[], &["run"]);
    assert_eq!(output.status.code(), Some(0), "{}", output_text(&output));
    assert!(!mounted.sandbox.layer().join("written").exists());
    mounted.assert_outcome("passed", &output_text(&output));
}

#[test]
fn a_stopped_container_ends_in_time_and_reports() {
    need_image!("a_stopped_container_ends_in_time_and_reports");
    let test = "a_stopped_container_ends_in_time_and_reports";
    for shell in [false, true] {
        let Some(mounted) = Mounted::new(test, STRANGER) else { return };
        mounted.behaviour("yocto-check-layer stubborn");
        let name = format!("{}-{shell}", mounted.volume);
        let mut command = Command::new("docker");
        command.args(["run", "--rm", "--network", "none", "--name", &name]).args(mounted.options());
        if shell {
            command.args([
                "--user",
                &mounted.owner.to_string(),
                &image(),
                "sh",
                "-c",
                "exec build-agent run",
            ]);
        } else {
            command.args([&image(), "run"]);
        }
        let mut running = Running::start(command, mounted.sandbox.path());
        let logs = mounted.out().join("logs");
        running.wait_until("the check hangs", || {
            let files = std::fs::read_dir(&logs).into_iter().flatten().flatten();
            files
                .map(|entry| std::fs::read(entry.path()).unwrap_or_default())
                .any(|bytes| String::from_utf8_lossy(&bytes).contains("hanging"))
        });
        let begin = Instant::now();
        assert!(docker(["stop", "--time", "60", &name]).status.success());
        // The manifest's grace is 2 s for each of three signals; after 60 s docker kills the container.
        assert!(begin.elapsed() < Duration::from_secs(45), "{:?}", begin.elapsed());
        let ran = running.wait();
        ran.assert_code(&[130]);
        mounted.assert_outcome("cancelled", &ran.output());
        mounted.assert_owned();
        assert!(!docker(["container", "inspect", &name]).status.success(), "the container is gone");
    }
}

/// A real mount needs EFS: `tests/efs/mount-target` replaces everything around it, up to the system call.
#[test]
fn the_share_is_mounted_with_the_builds_credentials_from_a_verified_server() {
    need_image!("the_share_is_mounted_with_the_builds_credentials_from_a_verified_server");
    let name = "fs-0123456789abcdef0.efs.eu-west-1.amazonaws.com";
    let tools = format!("{}:/tests/efs:ro", repository().join("tests/efs").display());
    let host = format!("{name}:127.0.0.1");
    let options = ["--cap-add", "NET_ADMIN", "--add-host", &host, "--volume", &tools];
    for known in [true, false] {
        let target = if known { "known" } else { "stranger" };
        let output = output_text(&run(&options, &["timeout", "120", "/tests/efs/mount-target", target]));
        // Only root in a privileged container may mount.
        assert!(output.contains("mount.nfs4: Operation not permitted"), "{output}");
        assert!(output.contains("cannot be mounted at /efs") && output.contains("ended with 1"), "{output}");
        let asked = ["GET /v2/credentials", "fsap-0123456789abcdef0", "AKIAEXAMPLE", "verify = 2"];
        for words in asked.iter().copied().chain([&*format!("checkHost = {name}"), "watchdog, version 3"]) {
            assert!(output.contains(words), "{words}\n{output}");
        }
        assert_eq!(output.contains("from the kernel"), known, "{output}");
        assert_eq!(output.contains("unknown ca"), !known, "{output}");
    }
    let elsewhere = run(
        &options[..2],
        &["mount", "-t", "efs", "-o", "tls,stunnel,region=eu-west-1", "fs-0123456789abcdef0", "/mnt"],
    );
    assert_ne!(elsewhere.status.code(), Some(0));
    assert!(
        output_text(&elsewhere).contains(&format!("Failed to resolve \"{name}\"")),
        "{}",
        output_text(&elsewhere)
    );
}

/// The phases of the buildspecs, run as in CodeBuild: `tests/codebuild`.
#[test]
fn buildspecs_run_as_in_codebuild() {
    need_image!("buildspecs_run_as_in_codebuild");
    for buildspec in ["check-layer.yml", "build.yml"] {
        for user in ["root", "builder"] {
            let Some(mounted) = Mounted::new("buildspecs_run_as_in_codebuild", 0) else { return };
            // A clone with the full history has the base of the pull request.
            build_agent_tests::git(
                &mounted.sandbox.layer(),
                ["update-ref", "refs/remotes/origin/main", "HEAD"],
            );
            // root owns CodeBuild's checkout; the stand-in for the server must belong to the caller.
            chown(&mounted.sandbox.upstream(), if user == "root" { 0 } else { 1000 });
            let tools = repository().join("tests/codebuild");
            let specs = repository().join("buildspecs");
            let tools = format!("{}:/tests/codebuild:ro", tools.display());
            let specs = format!("{}:/tests/buildspecs:ro", specs.display());
            let source = format!("{}:/codebuild/output/src1/src/layer", mounted.sandbox.layer().display());
            let options = ["--volume", &tools, "--volume", &specs, "--volume", &source];
            let spec = format!("/tests/buildspecs/{buildspec}");
            let words =
                ["/opt/kas/bin/python", "/tests/codebuild", &spec, "/codebuild/output/src1/src/layer", user];
            let output = mounted.run(&options, &words);
            assert_eq!(output.status.code(), Some(0), "{buildspec} as {user}\n{}", output_text(&output));
            for words in ["report junit.xml", "artifact result.json", "passed"] {
                assert!(
                    output_text(&output).contains(words),
                    "{words}: {buildspec} as {user}\n{}",
                    output_text(&output)
                );
            }
        }
    }
}
