//! The fixtures against real BitBake and OE-Core, where their addresses answer.
//!
//! Nothing here stands in for anything: the manifests are unmodified, git clones upstream, and
//! yocto-check-layer computes the signatures of the whole world. One job at a time, because each
//! takes all cores.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use build_agent_tests::{Ran, Running, agent, cases, commit, copy_tree, git, json, repository, skip, unfit};
use serde_json::Value;
use tempfile::TempDir;

const POKY: &str = "https://git.yoctoproject.org/poky";
const OE_CORE: &str = "https://git.openembedded.org/openembedded-core";
const BITBAKE: &str = "https://git.openembedded.org/bitbake";

/// A whole check takes minutes, and on a slow machine many.
const PATIENCE: Duration = Duration::from_secs(45 * 60);

/// A world of a few recipes: what is wrong with the other 900 is not asked here, and each of the
/// tool's runs takes a fraction of the time. One test of the whole world stays.
const SMALL_WORLD: &str = "EXCLUDE_FROM_WORLD = \"1\"\n\
    EXCLUDE_FROM_WORLD:pn-zlib = \"\"\n\
    EXCLUDE_FROM_WORLD:pn-base-files = \"\"\n\
    EXCLUDE_FROM_WORLD:pn-greeting = \"\"\n\
    EXCLUDE_FROM_WORLD:pn-broken = \"\"\n";

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A fixture as a checkout of its own, and places for its job.
struct Fixture {
    name: &'static str,
    place: TempDir,
    _turn: MutexGuard<'static, ()>,
}

impl Fixture {
    /// `None`, said aloud, where one of the addresses does not answer or the machine is not fit.
    fn new(test: &str, name: &'static str, addresses: &[&str]) -> Option<Fixture> {
        let silent = addresses.iter().find(|address| !answers(address));
        let reason = unfit().or_else(|| silent.map(|address| format!("{address} does not answer")));
        if let Some(reason) = reason.or_else(missing_tools) {
            skip(test, &reason);
            return None;
        }
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let place = tempfile::Builder::new().prefix("build-agent-real-").tempdir_in("/var/tmp").unwrap();
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let fixture = Fixture { name, place, _turn: turn };
        copy_tree(&repository().join("layers-fixtures").join(name), &fixture.layer());
        git(&fixture.layer(), ["init", "--quiet", "--initial-branch", "main"]);
        commit(&fixture.layer(), "Begin");
        Some(fixture)
    }

    fn layer(&self) -> PathBuf {
        self.place.path().join(self.name)
    }

    fn out(&self) -> PathBuf {
        self.place.path().join("out")
    }

    fn call(&self, words: &[&str]) -> Ran {
        let mut command = agent();
        command.current_dir(self.layer()).args(words);
        command.arg("--work-dir").arg(self.place.path().join("work")).arg("--out").arg(self.out());
        Running::start(command, self.place.path()).wait_for(PATIENCE)
    }

    /// The fixture's own manifest, in a small world.
    fn run_in_small_world(&self) -> Ran {
        self.call(&["run", "--set", &format!("config.local_conf={SMALL_WORLD}")])
    }

    fn result(&self) -> Value {
        json(&self.out().join("result.json"))
    }

    /// Fails unless the report says of every test what yocto-check-layer's own log says.
    fn assert_reported_as_the_tool_said(&self) {
        let log = self.out().join(format!("logs/yocto-check-layer-{}.log", self.name));
        let said = said_by_the_tool(&std::fs::read_to_string(log).unwrap());
        assert!(said.len() >= 7, "the tool ran its tests: {said:?}");
        let reported: BTreeMap<String, String> = cases(&self.result()).into_iter().collect();
        for (test, outcome) in &said {
            assert_eq!(reported.get(test), Some(outcome), "{test} in {reported:?}");
        }
    }
}

/// Whether git finds the branches of the address.
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

/// The tests and their outcomes as the log has them: `test_x (class…)`, then ` ... word` on the same
/// line or the next one. Deliberately simple and apart from the agent's own reader.
fn said_by_the_tool(log: &str) -> BTreeMap<String, String> {
    let mut said = BTreeMap::new();
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
            said.insert(test.to_owned(), outcome.to_owned());
        }
    }
    said
}

#[test]
fn a_good_layer_passes_on_scarthgap() {
    let Some(fixture) = Fixture::new("a_good_layer_passes_on_scarthgap", "meta-good", &[POKY]) else {
        return;
    };
    fixture.call(&["run"]).assert_code(&[0]);
    assert_eq!(fixture.result()["outcome"], "passed");
    fixture.assert_reported_as_the_tool_said();
}

/// Without a manifest, and with BitBake and OE-Core as repositories of their own.
#[test]
fn a_good_layer_passes_on_master() {
    let Some(fixture) = Fixture::new("a_good_layer_passes_on_master", "meta-good", &[OE_CORE, BITBAKE])
    else {
        return;
    };
    std::fs::remove_file(fixture.layer().join("build-agent.toml")).unwrap();
    let small_world = format!("config.local_conf={SMALL_WORLD}");
    fixture.call(&["check", ".", "--release", "master", "--set", &small_world]).assert_code(&[0]);
    fixture.assert_reported_as_the_tool_said();
}

#[test]
fn a_layer_without_readme_fails_before_anything_is_cloned() {
    let test = "a_layer_without_readme_fails_before_anything_is_cloned";
    let Some(fixture) = Fixture::new(test, "meta-no-readme", &[POKY]) else { return };
    let ran = fixture.call(&["run"]);
    ran.assert_code(&[1]);
    ran.assert_says(&["readme-missing", "test_readme"]);
    assert!(!fixture.place.path().join("work/layers").exists());
}

#[test]
fn a_recipe_that_does_not_parse_is_named_with_its_line() {
    let test = "a_recipe_that_does_not_parse_is_named_with_its_line";
    let Some(fixture) = Fixture::new(test, "meta-parse-error", &[POKY]) else { return };
    let ran = fixture.run_in_small_world();
    ran.assert_code(&[1]);
    ran.assert_says(&["test_parse", "broken_1.0.bb:"]);
    fixture.assert_reported_as_the_tool_said();
}

#[test]
fn a_changed_signature_of_a_core_recipe_fails() {
    let test = "a_changed_signature_of_a_core_recipe_fails";
    let Some(fixture) = Fixture::new(test, "meta-signature-change", &[POKY]) else { return };
    let ran = fixture.run_in_small_world();
    ran.assert_code(&[1]);
    ran.assert_says(&["test_signatures", "changed signatures"]);
    let failed: Vec<String> = cases(&fixture.result())
        .into_iter()
        .filter(|(_, outcome)| outcome == "failed")
        .map(|(test, _)| test)
        .collect();
    assert_eq!(failed, ["test_signatures"]);
    fixture.assert_reported_as_the_tool_said();
}

#[test]
fn a_bsp_layer_passes_with_its_machine() {
    let test = "a_bsp_layer_passes_with_its_machine";
    let Some(fixture) = Fixture::new(test, "meta-bsp", &[POKY]) else { return };
    fixture.run_in_small_world().assert_code(&[0]);
    let cases = cases(&fixture.result());
    for test in ["test_machine_world", "test_machine_signatures", "test_bsp_defines_machines"] {
        assert!(cases.contains(&(test.to_owned(), "passed".to_owned())), "{test}: {cases:?}");
    }
    fixture.assert_reported_as_the_tool_said();
}

#[test]
fn recipes_build_publish_and_build_again_from_sstate() {
    let test = "recipes_build_publish_and_build_again_from_sstate";
    let Some(fixture) = Fixture::new(test, "meta-deploy", &[POKY]) else { return };
    fixture.call(&["run", "--set", "check.bitbake_layers=[\"show-layers\"]"]).assert_code(&[0]);
    let first = sstate(fixture.result());
    assert!(first["missed"].as_u64() > Some(0) && first["local"] == 0, "{first}");

    let result = fixture.result();
    let published = &result["published"];
    let index = json(Path::new(published["index"].as_str().unwrap()));
    let objects = index["objects"].as_array().unwrap();
    assert!(objects.iter().any(|object| object["link"].is_string()), "{index}");
    assert!(
        objects.iter().any(|object| object["bytes"].as_u64() > Some(1 << 20)),
        "the sparse image: {index}"
    );

    fixture.call(&["run", "--only", "build"]).assert_code(&[0]);
    let second = sstate(fixture.result());
    assert_eq!(second["missed"], 0, "{second}");
    assert_eq!(second["local"], first["wanted"], "{second}");
}

/// The one sstate line of the result.
fn sstate(result: Value) -> Value {
    let units = result["units"].as_array().unwrap();
    let line = units.iter().map(|unit| &unit["sstate"]).find(|sstate| sstate.is_object());
    line.expect("an sstate line").clone()
}
