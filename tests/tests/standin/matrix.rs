//! Manifests with a matrix: cells that run on this machine, their results as one, and their lock.

use std::path::PathBuf;

use build_agent_tests::{GitHubServer, Ran, Running, Sandbox, commit, git, github, json};
use nix::sys::signal::Signal;
use serde_json::Value;

const CELLS: [&str; 3] = ["scarthgap_qemux86_64", "kirkstone_qemuarm", "scarthgap_qemuarm"];

/// A layer for two releases and two machines, without one combination.
fn sandbox(test: &str) -> Option<Sandbox> {
    let sandbox = Sandbox::new(test)?;
    let upstream = sandbox.upstream();
    git(&upstream, ["checkout", "--quiet", "-b", "kirkstone"]);
    for file in ["meta/conf/layer.conf", "meta-poky/conf/layer.conf", "bitbake/lib/bb/__init__.py"] {
        let text = std::fs::read_to_string(upstream.join(file)).unwrap();
        let text = text.replace("scarthgap", "kirkstone").replace("2.8.1", "2.0.0");
        std::fs::write(upstream.join(file), text).unwrap();
    }
    commit(&upstream, "Another release");
    git(&upstream, ["checkout", "--quiet", "scarthgap"]);
    let conf = sandbox.layer().join("conf/layer.conf");
    let text = std::fs::read_to_string(&conf).unwrap();
    std::fs::write(&conf, text.replace("= \"scarthgap\"", "= \"scarthgap kirkstone\"")).unwrap();
    sandbox.change_manifest("branch = \"scarthgap\"", "branch = \"{release}\"");
    sandbox.change_manifest(
        "release = \"scarthgap\"\n",
        "[matrix]\nmachine = [\"qemux86-64\", \"qemuarm\"]\nrelease = [\"kirkstone\", \"scarthgap\"]\n\
         exclude = [{ machine = \"qemux86-64\", release = \"kirkstone\" }]\n",
    );
    commit(&sandbox.layer(), "A matrix");
    Some(sandbox)
}

/// Changes what the tools of one release do.
fn behaviour(sandbox: &Sandbox, branch: &str, text: &str) {
    git(&sandbox.upstream(), ["checkout", "--quiet", branch]);
    sandbox.behaviour(text);
    git(&sandbox.upstream(), ["checkout", "--quiet", "scarthgap"]);
}

fn cell(sandbox: &Sandbox, id: &str) -> PathBuf {
    sandbox.out().join("cells").join(id)
}

fn results(sandbox: &Sandbox) -> Value {
    json(&sandbox.out().join("results.json"))
}

/// The outcome of each cell in the merged result.
fn outcomes(sandbox: &Sandbox) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let results = results(sandbox);
    let jobs = results["jobs"].as_array().unwrap().iter();
    jobs.map(|job| (text(&job["job"]["cell"]), text(&job["outcome"]))).collect()
}

fn with(sandbox: &Sandbox, words: &[&str]) -> Ran {
    let (manifest, work) = (sandbox.manifest(), sandbox.work());
    let (manifest, work) = (manifest.to_str().unwrap(), work.to_str().unwrap());
    sandbox.call([&[words[0], manifest, "--work-dir", work], &words[1..]].concat())
}

#[test]
fn the_results_of_all_cells_are_one() {
    let Some(sandbox) = sandbox("the_results_of_all_cells_are_one") else { return };
    let ran = sandbox.run();
    ran.assert_code(&[0]);
    ran.assert_says(&["3 cells of meta-tested, one after another", "PASSED  3 of 3 cells passed"]);
    let wanted: Vec<_> = CELLS.iter().map(|id| ((*id).to_owned(), "passed".to_owned())).collect();
    assert_eq!(outcomes(&sandbox).len(), 3);
    assert!(wanted.iter().all(|cell| outcomes(&sandbox).contains(cell)), "{:?}", outcomes(&sandbox));
    for id in CELLS {
        let result = json(&cell(&sandbox, id).join("result.json"));
        assert_eq!(result["job"]["cell"], id);
        let release = id.split('_').next().unwrap();
        assert_eq!(result["job"]["release"], release);
        let reproduce = result["job"]["reproduce"].as_array().unwrap();
        assert!(reproduce.windows(2).any(|two| two[0] == "--cell" && two[1] == id), "{reproduce:?}");
        assert!(sandbox.out().join(format!("logs/cell-{id}.log")).is_file());
        assert!(sandbox.work().join(format!("meta-tested-{id}/build")).is_dir(), "its own build directory");
    }
    for name in ["junit.xml", "report.html", "cells/build-agent.lock"] {
        assert!(sandbox.out().join(name).is_file(), "{name}");
    }

    // One release fails; the others still run, and what an earlier run left is gone.
    std::fs::create_dir(cell(&sandbox, "gone")).unwrap();
    behaviour(&sandbox, "kirkstone", "yocto-check-layer fail test_signatures");
    let ran = sandbox.run();
    ran.assert_code(&[1]);
    ran.assert_says(&["FAILED  2 of 3 cells passed", "test_signatures"]);
    let failed: Vec<_> = outcomes(&sandbox).into_iter().filter(|(_, outcome)| outcome != "passed").collect();
    assert_eq!(failed, [("kirkstone_qemuarm".to_owned(), "failed".to_owned())]);
    assert!(!cell(&sandbox, "gone").exists());
    let merged: Vec<String> =
        CELLS.iter().map(|id| cell(&sandbox, id).join("result.json").display().to_string()).collect();
    let merged = sandbox.call([&["report".to_owned(), "--format=text".to_owned()], &merged[..]].concat());
    merged.assert_code(&[1]);
    let out = sandbox.out().display().to_string();
    let merged = sandbox.call(["report", "--format=text", &out]);
    merged.assert_code(&[1]);
    merged.assert_says(&["meta-tested on kirkstone, cell kirkstone_qemuarm"]);
    let printed = sandbox.call(["reproduce", &format!("{out}/cells/kirkstone_qemuarm")]);
    printed.assert_code(&[0]);
    printed.assert_says(&["--cell kirkstone_qemuarm", "[[repos.poky]]"]);
    sandbox.call(["reproduce", &out]).assert_says(&["name one cell of the matrix"]);

    // One cell alone.
    let ran = sandbox.start({
        let mut command = sandbox.run_command();
        command.args(["--cell", "scarthgap_qemuarm"]);
        command
    });
    ran.wait().assert_code(&[0]);
    assert_eq!(sandbox.result()["job"]["cell"], "scarthgap_qemuarm");
    assert!(!sandbox.out().join("results.json").exists(), "the result of the matrix is gone");
}

#[test]
fn a_lock_pins_the_branch_of_each_cell() {
    let Some(sandbox) = sandbox("a_lock_pins_the_branch_of_each_cell") else { return };
    with(&sandbox, &["lock"]).assert_code(&[0]);
    let lock = std::fs::read_to_string(sandbox.layer().join("build-agent.lock")).unwrap();
    assert_eq!(lock.matches("[[repos.poky]]").count(), 2, "{lock}");
    behaviour(&sandbox, "kirkstone", "yocto-check-layer fail test_signatures");
    let diff = with(&sandbox, &["lock", "--diff"]);
    diff.assert_code(&[0]);
    diff.assert_says(&["poky (kirkstone)", "+ "]);
    assert!(!diff.output().contains("poky (scarthgap)"), "{}", diff.output());
    sandbox.run().assert_code(&[0]);
    with(&sandbox, &["lock", "--update", "poky"]).assert_code(&[0]);
    sandbox.run().assert_code(&[1]);
    // A branch of a cell that the lock does not know.
    sandbox.change_manifest("exclude =", "\"repos.poky.branch\" = [\"{release}\", \"other\"]\nexclude =");
    let ran = with(&sandbox, &["plan"]);
    ran.assert_code(&[2]);
    ran.assert_says(&["build-agent.lock does not pin it for branch `other` (cells "]);
}

#[test]
fn all_cells_are_validated_before_one_runs() {
    let Some(sandbox) = sandbox("all_cells_are_validated_before_one_runs") else { return };
    let plan = |words: &[&str]| {
        let ran = with(&sandbox, &[&["plan"], words].concat());
        (ran.output(), ran)
    };
    let (text, ran) = plan(&[]);
    ran.assert_code(&[0]);
    assert!(CELLS.iter().all(|id| text.contains(id)), "{text}");
    let output = sandbox.command(["plan", "--cells"]).output().unwrap();
    let matrix: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(matrix["include"][0]["cell"], "scarthgap_qemux86_64");
    assert_eq!(matrix["include"][0]["machine"], "qemux86-64");
    assert_eq!(output.stdout.iter().filter(|byte| **byte == b'\n').count(), 1);
    let output = sandbox.command(["plan", "--json"]).output().unwrap();
    let plans: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(plans["cells"].as_array().unwrap().len(), 3);
    assert_eq!(plans["cells"][1]["plan"]["settings"]["repos"][0]["branch"], "kirkstone");

    for (words, wanted) in [
        (&["plan", "--cell", "kirkstone_qemuarn"][..], "did you mean `kirkstone_qemuarm`?"),
        (&["plan", "--set", "release=kirkstone"], "the matrix sets `release`"),
        (&["plan", "--cells", "--set", "matrix.machine=[]"], "[matrix] machine: is empty"),
        (&["dump"], "add --cell ID with one of: "),
        (&["lock", "--cell", "kirkstone_qemuarm"], "a lock pins the repositories of all cells"),
    ] {
        let ran = with(&sandbox, words);
        ran.assert_code(&[2]);
        ran.assert_says(&[wanted]);
    }
    with(&sandbox, &["dump", "--cell", "kirkstone_qemuarm"])
        .assert_says(&["release = \"kirkstone\"", "machines = [\"qemuarm\"]"]);

    sandbox.change_manifest("exclude =", "distro = [\"poky\", \"a b\"]\nexclude =");
    sandbox.change_manifest("stall = \"1m\"", "stall = \"soon\"");
    let ran = sandbox.run();
    ran.assert_code(&[2]);
    let text = ran.output();
    assert_eq!(text.matches("[limits] stall").count(), 1, "each problem once: {text}");
    ran.assert_says(&["[config] distro: ", "(cells ", "2 problems; nothing was run"]);
    assert!(!sandbox.work().join("meta-tested-kirkstone_qemuarm_a_b").exists());
}

#[test]
fn a_cell_in_ci_does_not_resolve_a_branch() {
    let Some(sandbox) = sandbox("a_cell_in_ci_does_not_resolve_a_branch") else { return };
    let run = |words: &[&str]| {
        let mut command = sandbox.run_command();
        command.env("CI", "true").args(words);
        sandbox.start(command).wait()
    };
    let alone = run(&["--cell", "scarthgap_qemuarm"]);
    alone.assert_code(&[2]);
    alone.assert_says(&["would resolve the branches of poky alone", "--pins"]);
    // The parent resolves them for all.
    let ran = run(&["--jobs", "2", "--only", "checkout,configure"]);
    ran.assert_code(&[0]);
    ran.assert_says(&["2 in parallel", "scarthgap_qemuarm: started", "kirkstone_qemuarm: passed"]);
    let pins = sandbox.out().join("cells/build-agent.lock");
    let kept = sandbox.path().join("pins");
    std::fs::copy(pins, &kept).unwrap();
    let kept = kept.to_str().unwrap();
    run(&["--cell", "scarthgap_qemuarm", "--pins", kept, "--only", "configure"]).assert_code(&[0]);
    let other = run(&["--cell", "scarthgap_qemuarm", "--pins", kept, "--set", "repos.poky.branch=kirkstone"]);
    other.assert_code(&[2]);
    std::fs::write(kept, "version = 1\n").unwrap();
    let ran = run(&["--cell", "scarthgap_qemuarm", "--pins", kept]);
    ran.assert_code(&[2]);
    ran.assert_says(&["does not pin it for branch `scarthgap`"]);
}

/// The process of a running cell.
fn pid(sandbox: &Sandbox, id: &str) -> Option<i32> {
    let text = std::fs::read_to_string(cell(sandbox, id).join("lock")).ok()?;
    text.strip_prefix("pid ")?.trim().parse().ok()
}

fn wait_for_hanging(sandbox: &Sandbox, running: &mut Running, id: &str) {
    let logs = cell(sandbox, id).join("logs");
    running.wait_until(&format!("{id} hangs"), || {
        let entries = std::fs::read_dir(&logs).into_iter().flatten().flatten();
        let text = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default();
        entries.map(|entry| text(entry.path())).any(|text| text.contains("hanging"))
    });
}

#[test]
fn a_cell_that_is_killed_is_red() {
    let Some(sandbox) = sandbox("a_cell_that_is_killed_is_red") else { return };
    behaviour(&sandbox, "kirkstone", "yocto-check-layer hang");
    let mut running = sandbox.start(sandbox.run_command());
    wait_for_hanging(&sandbox, &mut running, "kirkstone_qemuarm");
    let pid = pid(&sandbox, "kirkstone_qemuarm").unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    let ran = running.wait();
    ran.assert_code(&[3]);
    ran.assert_says(&["kirkstone_qemuarm: ended with signal 9", "2 of 3 cells passed"]);
    let lost: Vec<_> = outcomes(&sandbox).into_iter().filter(|(_, outcome)| outcome != "passed").collect();
    assert_eq!(lost, [("kirkstone_qemuarm".to_owned(), "not-run".to_owned())]);
    sandbox.assert_nothing_runs();
}

#[test]
fn a_signal_cancels_all_cells() {
    let Some(sandbox) = sandbox("a_signal_cancels_all_cells") else { return };
    behaviour(&sandbox, "kirkstone", "yocto-check-layer hang");
    behaviour(&sandbox, "scarthgap", "yocto-check-layer hang");
    let mut command = sandbox.run_command();
    command.args(["--jobs", "2"]);
    let mut running = sandbox.start(command);
    wait_for_hanging(&sandbox, &mut running, "scarthgap_qemux86_64");
    wait_for_hanging(&sandbox, &mut running, "kirkstone_qemuarm");
    running.signal(Signal::SIGTERM);
    let ran = running.wait();
    ran.assert_code(&[130]);
    ran.assert_says(&["CANCELLED  0 of 3 cells passed", "scarthgap_qemuarm: not started"]);
    let outcomes = outcomes(&sandbox);
    assert!(outcomes.iter().all(|(_, outcome)| outcome == "cancelled"), "{outcomes:?}");
    sandbox.assert_nothing_runs();
}

/// The reports that a matrix has left of the cells that a stop reached, and of those that it did not.
fn assert_all_are_reported(sandbox: &Sandbox, code: i32, outcome: &str) {
    let result = sandbox.result();
    assert_eq!((&result["exit_code"], &result["complete"]), (&Value::from(code), &Value::from(true)));
    assert_eq!(result["units"].as_array().unwrap().len(), 3, "{result}");
    let again = sandbox.call(["report", "--format=text", &sandbox.out().display().to_string()]);
    again.assert_code(&[code]);
    for id in CELLS {
        again.assert_says(&[&format!("cell {id}")]);
    }
    let started = json(&cell(sandbox, "scarthgap_qemux86_64").join("result.json"));
    assert_eq!(started["outcome"], outcome, "{started}");
    assert_eq!(started["complete"], true);
    sandbox.assert_nothing_runs();
}

/// The timeout of the harness is shorter than the grace.
#[test]
fn after_a_second_signal_each_cell_still_has_its_reports() {
    let Some(sandbox) = sandbox("after_a_second_signal_each_cell_still_has_its_reports") else { return };
    sandbox.change_manifest("grace = \"2s\"", "grace = \"1h\"");
    sandbox.change_manifest("job = \"5m\"", "job = \"2h\"");
    commit(&sandbox.layer(), "A long grace");
    for branch in ["kirkstone", "scarthgap"] {
        behaviour(&sandbox, branch, "yocto-check-layer stubborn");
    }
    let mut command = sandbox.run_command();
    command.args(["--jobs", "2"]);
    let mut running = sandbox.start(command);
    wait_for_hanging(&sandbox, &mut running, "scarthgap_qemux86_64");
    wait_for_hanging(&sandbox, &mut running, "kirkstone_qemuarm");
    running.signal(Signal::SIGINT);
    let log = sandbox.out().join("logs/cell-kirkstone_qemuarm.log");
    running.wait_until("the cell has the first signal", || {
        std::fs::read_to_string(&log).is_ok_and(|text| text.contains("SIGINT: stopping"))
    });
    running.signal(Signal::SIGINT);
    let ran = running.wait();
    ran.assert_code(&[130]);
    ran.assert_says(&["SIGINT: the cells stop and save their reports", "CANCELLED  0 of 3 cells passed"]);
    let log = std::fs::read_to_string(sandbox.out().join("logs/cell-scarthgap_qemux86_64.log")).unwrap();
    assert!(log.contains("a second signal: stopping at once"), "{log}");
    assert_all_are_reported(&sandbox, 130, "cancelled");
}

#[test]
fn the_limit_of_the_matrix_stops_what_runs_and_starts_no_other_cell() {
    let test = "the_limit_of_the_matrix_stops_what_runs_and_starts_no_other_cell";
    let Some(sandbox) = sandbox(test) else { return };
    behaviour(&sandbox, "scarthgap", "yocto-check-layer hang");
    let mut command = sandbox.run_command();
    command.args(["--set", "matrix.limit=12s"]);
    let ran = sandbox.start(command).wait();
    ran.assert_code(&[5]);
    ran.assert_says(&[
        "scarthgap_qemux86_64: out of time",
        "kirkstone_qemuarm: not started, out of time",
        "it was not started: [matrix] limit is over",
    ]);
    let outcomes: Vec<String> = outcomes(&sandbox).into_iter().map(|(_, outcome)| outcome).collect();
    assert_eq!(outcomes, ["timed-out", "not-run", "not-run"]);
    let log = std::fs::read_to_string(sandbox.out().join("logs/cell-scarthgap_qemux86_64.log")).unwrap();
    assert!(log.contains("[matrix] limit leaves "), "{log}");
    assert_all_are_reported(&sandbox, 5, "timed-out");
    with(&sandbox, &["plan", "--set", "matrix.limit=90m"]).assert_says(&["3 cells, 1h 30m for all of them"]);
}

/// A push to a protected branch, in GitHub Actions.
#[test]
fn a_matrix_posts_once() {
    let Some(sandbox) = sandbox("a_matrix_posts_once") else { return };
    let github =
        "\n[github]\nrepository = \"example/meta-tested\"\nreport = [\"status\", \"check\", \"sarif\"]\n";
    let manifest = std::fs::read_to_string(sandbox.manifest()).unwrap();
    sandbox.write_manifest(&(manifest + github));
    commit(&sandbox.layer(), "Post");
    behaviour(&sandbox, "kirkstone", "yocto-check-layer fail test_world");
    let head = git(&sandbox.layer(), ["rev-parse", "HEAD"]);
    let server = GitHubServer::start(&serde_json::json!({ "commits": { &head: [] } }));
    let summary = sandbox.path().join("summary.md");
    let mut command = sandbox.run_command();
    command.envs(github::variables("push", &sandbox.layer(), &head)).args(["--jobs", "2"]);
    command.env("BUILD_AGENT_TRUSTED_BRANCHES", "main").env("GITHUB_TOKEN", "ghs_actions");
    command.env("GITHUB_API_URL", server.url()).env("GITHUB_STEP_SUMMARY", &summary);
    let ran = sandbox.start(command).wait();
    ran.assert_code(&[1]);
    let state = server.state();
    let runs = state["check_runs"].as_array().unwrap();
    assert_eq!(runs.len(), 1, "{runs:?}");
    let name = "build-agent: meta-tested";
    assert_eq!((&runs[0]["name"], &runs[0]["conclusion"]), (&name.into(), &"failure".into()));
    let text = runs[0]["output"]["summary"].as_str().unwrap();
    assert!(text.contains("kirkstone_qemuarm"), "{text}");
    let contexts = state["statuses"].as_array().unwrap().iter();
    let contexts: Vec<_> = contexts.map(|status| (&status["context"], &status["state"])).collect();
    assert_eq!(contexts, [(&name.into(), &"failure".into())]);
    assert_eq!(state["sarifs"].as_array().unwrap().len(), 1);
    let summary = std::fs::read_to_string(summary).unwrap();
    assert_eq!(summary.matches("### build-agent: **2 of 3 passed**").count(), 1, "{summary}");
    server.assert_as_described("a_matrix_posts_once");
}
