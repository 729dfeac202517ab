//! A fixture of `layers-fixtures` in its own checkout, and directories for its jobs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use build_agent_tests::{
    Part, Ran, Running, agent, cases, commit, copy_tree, git, is_left_to_the_long_run, json, repository,
    skip_without, unmet_requirement,
};
use serde_json::Value;
use tempfile::TempDir;

/// A whole check takes minutes, and many minutes on a slow machine.
pub const TIMEOUT: Duration = Duration::from_secs(45 * 60);

/// A world of a few recipes. The other 900 recipes do not matter here, and each run of the tool takes a fraction of
/// the time. One test still uses the whole world.
pub const SMALL_WORLD: &str = "EXCLUDE_FROM_WORLD = \"1\"\n\
    EXCLUDE_FROM_WORLD:pn-zlib = \"\"\n\
    EXCLUDE_FROM_WORLD:pn-base-files = \"\"\n\
    EXCLUDE_FROM_WORLD:pn-greeting = \"\"\n\
    EXCLUDE_FROM_WORLD:pn-broken = \"\"\n";

/// Masks what the recipes of meta-deploy do not need: a build takes seconds instead of minutes. What a build keeps does not
/// depend on the disk of the machine.
pub const NARROW_BUILD: &str = "BBMASK = \"/meta/recipes- /meta-poky/recipes-\"\n\
    ASSUME_PROVIDED += \"virtual/fakeroot-native quilt-native\"\n\
    CONNECTIVITY_CHECK_URIS = \"\"\n\
    INHERIT:remove = \"uninative rm_work\"\n\
    BB_NO_NETWORK = \"1\"\n";

/// A part of recipes that need no toolchain and make no packages, in the syntax of every release.
pub const WITHOUT_TOOLCHAIN: &str = r#"
SUMMARY = "A fixture"
LICENSE = "MIT"
LIC_FILES_CHKSUM = "file://${COMMON_LICENSE_DIR}/MIT;md5=0835ade698e0bcf8506ecda2f7b4f302"
INHIBIT_DEFAULT_DEPS = "1"
PACKAGE_ARCH = "${MACHINE_ARCH}"
deltask do_configure
deltask do_install
deltask do_populate_sysroot
inherit deploy nopackages
"#;

/// Lets do_patch need no native tool. The syntax is that of honister and later.
pub const WITHOUT_PATCH_TOOLS: &str = r#"
PATCHDEPENDENCY = ""
PATCHDEPENDENCY:remove = "patch-replacement-native:do_populate_sysroot"
"#;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A fixture in its own checkout, and directories for its jobs.
pub struct Fixture {
    name: &'static str,
    pub directory: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Fixture {
    /// `None`, with a SKIPPED line, if an address does not reply or the machine does not meet the requirements.
    pub fn new(test: &str, name: &'static str, addresses: &[&str]) -> Option<Fixture> {
        let silent = addresses.iter().find(|address| !answers(address));
        let reason =
            unmet_requirement().or_else(|| silent.map(|address| format!("{address} does not answer")));
        if let Some(reason) = reason.or_else(missing_tools) {
            skip_without(Part::BitBake, test, &reason);
            return None;
        }
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = tempfile::Builder::new().prefix("build-agent-real-").tempdir_in("/var/tmp").unwrap();
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let fixture = Fixture { name, directory, _turn: turn };
        copy_tree(&repository().join("layers-fixtures").join(name), &fixture.layer());
        git(&fixture.layer(), ["init", "--quiet", "--initial-branch", "main"]);
        commit(&fixture.layer(), "Begin");
        Some(fixture)
    }

    /// Like [`Fixture::new`], for a test that takes minutes.
    pub fn long(test: &str, name: &'static str, addresses: &[&str]) -> Option<Fixture> {
        if is_left_to_the_long_run(test) { None } else { Fixture::new(test, name, addresses) }
    }

    pub fn layer(&self) -> PathBuf {
        self.directory.path().join(self.name)
    }

    pub fn out(&self) -> PathBuf {
        self.directory.path().join("out")
    }

    pub fn call(&self, words: &[&str]) -> Ran {
        self.call_in(&self.layer(), words)
    }

    /// Like [`Fixture::new`], with another path of the layer.
    pub fn call_in(&self, layer: &Path, words: &[&str]) -> Ran {
        self.start_in(layer, words).wait_for(TIMEOUT)
    }

    pub fn start(&self, words: &[&str]) -> Running {
        self.start_in(&self.layer(), words)
    }

    fn start_in(&self, layer: &Path, words: &[&str]) -> Running {
        Running::start(self.command_in(layer, words), self.directory.path())
    }

    /// A call in the layer, with the directories of the fixture.
    pub fn command(&self, words: &[&str]) -> Command {
        self.command_in(&self.layer(), words)
    }

    fn command_in(&self, layer: &Path, words: &[&str]) -> Command {
        let mut command = agent();
        let (own, of_program) =
            words.split_at(words.iter().position(|word| *word == "--").unwrap_or(words.len()));
        command.current_dir(layer).args(own);
        command.arg("--work-dir").arg(self.directory.path().join("work")).arg("--out").arg(self.out());
        command.args(of_program);
        command
    }

    /// The fixture's own manifest, with a small world.
    pub fn run_in_small_world(&self) -> Ran {
        self.call(&["run", "--set", &format!("config.local_conf={SMALL_WORLD}")])
    }

    pub fn result(&self) -> Value {
        json(&self.out().join("result.json"))
    }

    /// Fails unless the report agrees for every test with the log of yocto-check-layer's last run.
    pub fn assert_reported_as_the_tool_said(&self) {
        self.assert_reported_as_the_tool_said_of(self.name);
    }

    /// Likewise of another layer.
    pub fn assert_reported_as_the_tool_said_of(&self, layer: &str) {
        let log = |run: &str| self.out().join(format!("logs/yocto-check-layer-{layer}{run}.log"));
        let last = Some(log("-again")).filter(|log| log.is_file()).unwrap_or_else(|| log(""));
        let output_text = said_by_the_tool(&std::fs::read_to_string(last).unwrap());
        assert!(output_text.len() >= 7, "the tool ran its tests: {output_text:?}");
        let reported: BTreeMap<String, String> = cases(&self.result()).into_iter().collect();
        for (test, outcome) in &output_text {
            assert_eq!(reported.get(test), Some(outcome), "{test} in {reported:?}");
        }
    }
}

/// Whether git finds the branches of the repository.
fn answers(address: &str) -> bool {
    let mut git = Command::new("timeout");
    git.args(["30", "git", "ls-remote", "--quiet", "--exit-code", "--heads", address]);
    git.env("GIT_TERMINAL_PROMPT", "0")
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null());
    git.status().is_ok_and(|status| status.success())
}

/// BitBake refuses to start without these.
fn missing_tools() -> Option<String> {
    let missing =
        |tool: &&&str| !Path::new("/usr/bin").join(tool).exists() && !Path::new("/bin").join(tool).exists();
    let tool = ["chrpath", "diffstat", "gawk", "lz4c", "zstd", "makeinfo", "wget"].iter().find(missing)?;
    Some(format!("BitBake's host tool {tool} is not installed"))
}

/// The tests and their outcomes in the log: `test_x (class…)`, then ` ... word` on the same line or the next one.
/// Deliberately simple, and independent of the agent's own parser.
fn said_by_the_tool(log: &str) -> BTreeMap<String, String> {
    let mut output_text = BTreeMap::new();
    let mut test = None;
    for line in log.lines() {
        let line = line.strip_prefix("INFO: ").unwrap_or(line);
        if line.starts_with("test_") && line.contains(" (") {
            test = line.split(' ').next();
        }
        let Some((_, word)) = line.split_once("... ") else { continue };
        let outcome = match word.trim() {
            "ok" | "unexpected success" => "passed",
            "FAIL" | "ERROR" => "failed",
            "expected failure" => "skipped",
            skipped if skipped.starts_with("skipped") => "skipped",
            _ => continue,
        };
        if let Some(test) = test.take() {
            output_text.insert(test.to_owned(), outcome.to_owned());
        }
    }
    output_text
}

/// The only sstate summary of the result.
pub fn sstate(result: Value) -> Value {
    let units = result["units"].as_array().unwrap();
    let line = units.iter().map(|unit| &unit["sstate"]).find(|sstate| sstate.is_object());
    line.expect("an sstate line").clone()
}
