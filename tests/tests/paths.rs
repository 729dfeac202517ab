//! Paths that BitBake accepts, paths that it does not, and paths that are not UTF-8.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use build_agent_tests::{Ran, Sandbox, copy_tree, git};

/// A copy of the layer under test below this directory of the sandbox, with the same manifest.
fn layer_below(sandbox: &Sandbox, directory: &str) -> PathBuf {
    let layer = sandbox.path().join(directory).join("meta-tested");
    copy_tree(&sandbox.layer(), &layer);
    layer
}

/// Runs `build-agent COMMAND` on the manifest of a layer.
fn call(sandbox: &Sandbox, command: &str, layer: &Path, work: &Path) -> Ran {
    let mut agent = sandbox.command([command]);
    agent.current_dir(layer).arg("--work-dir").arg(work);
    if command == "run" {
        agent.arg("--out").arg(sandbox.out());
    }
    sandbox.start(agent).wait()
}

/// Jenkins' name for the second workspace of a job, and other characters that occur in paths.
#[test]
fn a_layer_can_be_at_any_path_that_bitbake_can_read() {
    let Some(sandbox) = Sandbox::new("a_layer_can_be_at_any_path_that_bitbake_can_read") else { return };
    for directory in ["workspace/job@2", "~user/a,b;c", "100%/label=x", "\u{fc}/{a}#&"] {
        let layer = layer_below(&sandbox, directory);
        call(&sandbox, "plan", &layer, &sandbox.work()).assert_code(&[0]);
        call(&sandbox, "run", &layer, &sandbox.work()).assert_code(&[0]);
        assert_eq!(sandbox.result()["outcome"], "passed", "{directory}");
    }
}

#[test]
fn plan_reports_paths_that_bitbake_cannot_read_before_any_clone() {
    let Some(sandbox) = Sandbox::new("plan_reports_paths_that_bitbake_cannot_read_before_any_clone") else {
        return;
    };
    for (directory, words) in [("a:b", "has ':', which separates the parts of BBPATH"), ("a b", "has ' '")] {
        let layer = layer_below(&sandbox, directory);
        for command in ["plan", "run"] {
            let ran = call(&sandbox, command, &layer, &sandbox.work());
            ran.assert_code(&[2]);
            ran.assert_says(&["[layer] paths", words, "hint: move it"]);
        }
    }
    // The agent chooses the work directory, and OE-Core has stricter rules for it.
    let link = sandbox.path().join("link");
    let odd = sandbox.path().join("job@2/work");
    std::fs::create_dir_all(&odd).unwrap();
    std::os::unix::fs::symlink(&odd, &link).unwrap();
    for work in [&odd, &link] {
        for command in ["plan", "run"] {
            let ran = call(&sandbox, command, &sandbox.layer(), work);
            ran.assert_code(&[2]);
            ran.assert_says(&[
                "(--work-dir)",
                "has '@', which OE-Core rejects in TMPDIR",
                "hint: choose another",
            ]);
        }
    }
    assert_eq!(std::fs::read_dir(&odd).unwrap().count(), 0);
    assert!(!sandbox.work().exists() && !sandbox.out().exists());
}

/// OE-Core as a local directory.
#[test]
fn a_path_that_oe_core_rejects_is_reported() {
    let Some(sandbox) = Sandbox::new("a_path_that_oe_core_rejects_is_reported") else { return };
    let poky = sandbox.path().join("job@2/poky");
    copy_tree(&sandbox.upstream(), &poky);
    let link = sandbox.path().join("poky");
    std::os::unix::fs::symlink(&poky, &link).unwrap();
    let text = sandbox.manifest_text();
    let (before, after) = text.split_once("url = ").unwrap();
    let after = after.split_once("branch = \"scarthgap\"\n").unwrap().1;
    for (path, code) in [(&poky, 2), (&link, 0)] {
        sandbox.write_manifest(&format!("{before}path = {path:?}\n{after}"));
        for command in ["plan", "run"] {
            let ran = call(&sandbox, command, &sandbox.layer(), &sandbox.work());
            ran.assert_code(&[code]);
            if code == 2 {
                ran.assert_says(&["[repos.poky] path", "has '@', which OE-Core rejects in COREBASE"]);
            }
        }
    }
}

#[test]
fn a_pattern_that_the_path_breaks_is_reported() {
    let Some(sandbox) = Sandbox::new("a_pattern_that_the_path_breaks_is_reported") else { return };
    let conf = "BBFILE_COLLECTIONS += \"x\"\nBBFILE_PATTERN_x = \"^${LAYERDIR}/\"\n";
    for (directory, code) in [("c+a", 0), ("a(b", 2)] {
        let layer = layer_below(&sandbox, directory);
        std::fs::write(layer.join("conf/layer.conf"), conf).unwrap();
        let ran = call(&sandbox, "plan", &layer, &sandbox.work());
        ran.assert_code(&[code]);
        ran.assert_says(&["BBFILE_PATTERN_x", "write ${LAYERDIR_RE} instead of ${LAYERDIR}"]);
    }
}

#[test]
fn a_path_that_is_not_utf8_is_reported() {
    let Some(sandbox) = Sandbox::new("a_path_that_is_not_utf8_is_reported") else { return };
    let bad = sandbox.path().join(OsStr::from_bytes(b"bad\xff"));
    copy_tree(&sandbox.layer(), &bad);
    let linked = sandbox.path().join("linked");
    std::os::unix::fs::symlink(&bad, &linked).unwrap();
    let manifest = sandbox.manifest();
    let words = |words: &[&OsStr]| words.iter().map(OsString::from).collect::<Vec<_>>();
    let [run, plan, check] = ["run", "plan", "check"].map(OsStr::new);
    let [work, out, release] = ["--work-dir", "--out", "--release"].map(OsStr::new);
    let bad_manifest = bad.join("build-agent.toml");
    let table = [
        words(&[run, bad_manifest.as_os_str()]),
        words(&[plan, bad_manifest.as_os_str()]),
        words(&[plan, linked.as_os_str()]),
        words(&[run, manifest.as_os_str(), work, bad.as_os_str()]),
        words(&[plan, manifest.as_os_str(), work, bad.as_os_str()]),
        words(&[run, manifest.as_os_str(), out, bad.as_os_str()]),
        words(&[check, bad.as_os_str(), release, OsStr::new("scarthgap")]),
        words(&[check, linked.as_os_str(), release, OsStr::new("scarthgap")]),
    ];
    let reported = |ran: Ran| {
        ran.assert_code(&[2]);
        ran.assert_says(&["is not valid UTF-8"]);
        assert!(!ran.output().contains("is not there"), "{}", ran.output());
    };
    for words in &table {
        reported(sandbox.call(words));
    }
    for words in [&["plan"][..], &["run"], &["check", "."], &["lock"]] {
        let mut command = sandbox.command(words);
        reported(
            sandbox
                .start({
                    command.current_dir(&bad);
                    command
                })
                .wait(),
        );
    }
    let mut command = sandbox.command(["plan"]);
    command.env("BUILD_AGENT_WORK_DIR", &bad);
    reported(sandbox.start(command).wait());
    let mut command = sandbox.command(["plan"]);
    command.env("CODEBUILD_SRC_DIR", &bad).env("CODEBUILD_BUILD_ID", "p:1");
    reported(sandbox.start(command).wait());
}

/// A tag can name any object, and so can an id.
#[test]
fn a_revision_that_is_not_a_commit_is_status_2_in_run_and_lock() {
    let Some(sandbox) = Sandbox::new("a_revision_that_is_not_a_commit_is_status_2_in_run_and_lock") else {
        return;
    };
    let upstream = sandbox.upstream();
    let of = |name: &str| git(&upstream, ["rev-parse", name]);
    let [blob, tree] = ["HEAD:oe-init-build-env", "HEAD^{tree}"].map(of);
    git(&upstream, ["tag", "blob", &blob]);
    git(&upstream, ["tag", "-a", "-m", "x", "tree", &tree]);
    git(&upstream, ["tag", "-a", "-m", "x", "v1"]);
    let tag_id = of("v1");
    let gone = "1".repeat(40);
    let good = sandbox.manifest_text();
    for (key, value, code) in [
        ("tag", "blob", 2),
        ("tag", "tree", 2),
        ("commit", blob.as_str(), 2),
        ("commit", tree.as_str(), 2),
        ("commit", tag_id.as_str(), 2),
        ("commit", gone.as_str(), 2),
        ("tag", "v1", 0),
    ] {
        sandbox.write_manifest(&good.replace("branch = \"scarthgap\"", &format!("{key} = \"{value}\"")));
        for words in [&["lock"][..], &["run"]] {
            let mut command = sandbox.command(words);
            command.arg("--work-dir").arg(sandbox.work()).arg("--out").arg(sandbox.out());
            let ran = sandbox.start(command).wait();
            ran.assert_code(&[code]);
            if code == 2 {
                ran.assert_says(&["repos.poky", value]);
                assert!(!sandbox.layer().join("build-agent.lock").exists(), "{key} {value}");
            }
        }
    }
}
