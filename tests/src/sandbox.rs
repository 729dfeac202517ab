//! The directories of one test: a layer under test, a stand-in upstream, work and reports.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::{Ran, Running, agent, json, processes, repository, skip};

/// The user that runs layer code if the tests run as root; `.ci/run` creates it.
pub const BUILD_USER: &str = "builder";

/// Below /var/tmp and readable by all users, because the build user must be able to enter it.
pub struct Sandbox {
    directory: TempDir,
}

impl Sandbox {
    /// `None`, with a SKIPPED line, if the agent cannot run on this machine.
    pub fn new(test: &str) -> Option<Sandbox> {
        if let Some(reason) = unmet_requirement() {
            skip(test, &reason);
            return None;
        }
        let directory =
            tempfile::Builder::new().prefix("build-agent-test-").tempdir_in("/var/tmp").expect("a sandbox");
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(directory.path(), open).expect("a readable sandbox");
        let sandbox = Sandbox { directory };
        let stand_ins = repository().join("tests/stand-ins");
        copy_tree(&stand_ins.join("poky"), &sandbox.upstream());
        repository_of(&sandbox.upstream(), "scarthgap");
        copy_tree(&stand_ins.join("layer"), &sandbox.layer());
        repository_of(&sandbox.layer(), "main");
        sandbox.write_manifest(&sandbox.manifest_text());
        Some(sandbox)
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The stand-in for poky's repository.
    pub fn upstream(&self) -> PathBuf {
        self.path().join("upstream/poky")
    }

    /// The layer under test, in its own git repository.
    pub fn layer(&self) -> PathBuf {
        self.path().join("meta-tested")
    }

    pub fn manifest(&self) -> PathBuf {
        self.layer().join("build-agent.toml")
    }

    pub fn work(&self) -> PathBuf {
        self.path().join("work")
    }

    pub fn out(&self) -> PathBuf {
        self.path().join("out")
    }

    pub fn artifacts(&self) -> PathBuf {
        self.path().join("artifacts")
    }

    /// A manifest that passes; tests change its text.
    pub fn manifest_text(&self) -> String {
        format!(
            r#"version = 1
name = "meta-tested"
release = "scarthgap"

[repos.poky]
url = "file://{upstream}"
branch = "scarthgap"
layers = ["meta", "meta-poky"]

[check]
bitbake_layers = ["show-layers"]
yocto_check_layer = true

[artifacts]
destination = "{artifacts}"

[limits]
job = "5m"
stall = "1m"
grace = "2s"
"#,
            upstream = self.upstream().display(),
            artifacts = self.artifacts().display()
        )
    }

    pub fn write_manifest(&self, text: &str) {
        std::fs::write(self.manifest(), text).expect("the manifest");
    }

    /// Replaces text of the manifest; fails if it is not there.
    #[track_caller]
    pub fn change_manifest(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.manifest()).expect("the manifest");
        assert!(text.contains(from), "{from:?} is not in the manifest");
        self.write_manifest(&text.replace(from, to));
    }

    /// Sets what the stand-in tools do, in a commit of the upstream.
    pub fn behaviour(&self, text: &str) {
        std::fs::write(self.upstream().join("behaviour"), format!("{text}\n")).expect("the behaviour");
        commit(&self.upstream(), "Change what the stand-ins do");
    }

    /// `build-agent ARGUMENTS…` in the layer under test.
    pub fn command<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Command {
        let mut command = agent();
        command.current_dir(self.layer()).args(words);
        command
    }

    /// `build-agent run` with the directories of the sandbox.
    pub fn run_command(&self) -> Command {
        let mut command = self.command(["run"]);
        command.arg(self.manifest()).arg("--work-dir").arg(self.work()).arg("--out").arg(self.out());
        command
    }

    pub fn start(&self, command: Command) -> Running {
        Running::start(command, self.path())
    }

    /// Runs `build-agent run` until it ends.
    pub fn run(&self) -> Ran {
        self.start(self.run_command()).wait()
    }

    /// Runs any other command line until it ends.
    pub fn call<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Ran {
        self.start(self.command(words)).wait()
    }

    pub fn result(&self) -> Value {
        json(&self.out().join("result.json"))
    }

    /// The content of all logs of children.
    pub fn logs(&self) -> String {
        let entries = std::fs::read_dir(self.out().join("logs")).into_iter().flatten().flatten();
        let text =
            |path: PathBuf| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
        entries.map(|entry| text(entry.path())).collect()
    }

    /// Waits, while the agent runs, until a child has written this to its log.
    pub fn wait_for_log(&self, running: &mut Running, words: &str) {
        running.wait_until(&format!("{words:?} in a log"), || self.logs().contains(words));
    }

    /// Fails if a process of the sandbox is still running.
    #[track_caller]
    pub fn assert_nothing_runs(&self) {
        processes::assert_none(self.path());
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        processes::end_all(self.path());
    }
}

/// Why the agent cannot run on this machine.
pub fn unmet_requirement() -> Option<String> {
    let on_path = |program: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
    };
    if let Some(program) = ["git", "python3"].into_iter().find(|program| !on_path(program)) {
        return Some(format!("there is no {program}"));
    }
    let locales = Command::new("locale").arg("-a").output().map(|output| output.stdout).unwrap_or_default();
    if !String::from_utf8_lossy(&locales).to_lowercase().contains("en_us.utf") {
        return Some(
            "the locale en_US.UTF-8 is not installed (localedef -i en_US -f UTF-8 en_US.UTF-8)".into(),
        );
    }
    let builder = nix::unistd::User::from_name(BUILD_USER).ok().flatten();
    (nix::unistd::geteuid().is_root() && builder.is_none()).then(|| {
        format!("run by root, and there is no user `{BUILD_USER}` (useradd --create-home {BUILD_USER})")
    })
}

/// Copies files, modes and symbolic links.
pub fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory to copy") {
        let entry = entry.expect("an entry");
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().expect("a type");
        if entry.file_name() == "__pycache__" {
            continue;
        } else if kind.is_dir() {
            copy_tree(&from, &to);
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(&from).expect("a link"), &to).expect("a link");
        } else {
            std::fs::copy(&from, &to).expect("a copy");
        }
    }
}

/// Makes a directory a git repository.
fn repository_of(directory: &Path, branch: &str) {
    git(directory, ["init", "--quiet", "--initial-branch", branch]);
    commit(directory, "Begin");
}

/// Commits everything.
pub fn commit(directory: &Path, message: &str) {
    git(directory, ["add", "--all"]);
    git(directory, ["commit", "--quiet", "--allow-empty", "--message", message]);
}

/// Runs git without the machine's configuration; returns its output.
#[track_caller]
pub fn git<S: AsRef<OsStr>>(directory: &Path, words: impl IntoIterator<Item = S>) -> String {
    let mut git = Command::new("git");
    git.arg("-C").arg(directory).args(words);
    git.envs([
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_CONFIG_SYSTEM", "/dev/null"),
        ("GIT_AUTHOR_NAME", "Nobody"),
        ("GIT_AUTHOR_EMAIL", "nobody@example.org"),
        ("GIT_COMMITTER_NAME", "Nobody"),
        ("GIT_COMMITTER_EMAIL", "nobody@example.org"),
    ]);
    let output = git.output().expect("git starts");
    assert!(output.status.success(), "{git:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
