//! Results by commit: what a trusted job stores, what a change is compared with, and `[report] fail_on`.

use std::path::{Path, PathBuf};

use build_agent_tests::{Ran, Sandbox, commit, git, json};
use serde_json::Value;

/// A job of a clean checkout; its results are stored below `artifacts`.
fn sandbox(test: &str, section: &str) -> Option<Sandbox> {
    let sandbox = Sandbox::new(test)?;
    let text = sandbox.manifest_text().replace("bitbake_layers = [\"show-layers\"]\n", "");
    sandbox.write_manifest(&format!("{text}\n{section}\n"));
    commit(&sandbox.layer(), "Add the manifest");
    Some(sandbox)
}

fn head(sandbox: &Sandbox) -> String {
    git(&sandbox.layer(), ["rev-parse", "HEAD"])
}

fn change(sandbox: &Sandbox, text: &str) {
    let file = sandbox.layer().join("README.md");
    let old = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, old + text + "\n").unwrap();
    commit(&sandbox.layer(), text);
}

fn run(sandbox: &Sandbox, words: &[&str], variables: &[(&str, &str)]) -> Ran {
    let mut command = sandbox.run_command();
    command.args(words).envs(variables.iter().copied());
    sandbox.start(command).wait()
}

fn stored(sandbox: &Sandbox, part: &str, commit: &str) -> PathBuf {
    let below = "results/v1/meta-tested/scarthgap/qemux86-64";
    sandbox.artifacts().join(part).join(below).join(commit).join("latest.json")
}

fn files(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The names of tests with this outcome in a stored result.
fn tests(stored: &Value, outcome: &str) -> Vec<String> {
    let tests = stored["tests"].as_array().unwrap().iter();
    let found = tests.filter(|test| test["outcome"] == outcome && test["class"].is_string());
    found.map(|test| test["name"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_trusted_job_stores_its_result_and_a_change_is_compared_with_it() {
    let test = "a_trusted_job_stores_its_result_and_a_change_is_compared_with_it";
    let Some(sandbox) = sandbox(test, "[report]\nurl = \"https://r.example/x\"") else { return };
    let first = head(&sandbox);
    run(&sandbox, &["--trusted"], &[]).assert_code(&[0]);
    let index = json(&stored(&sandbox, "", &first));
    assert_eq!(index["schema"], "build-agent/stored-result/v1");
    assert_eq!(index["commit"], first.as_str());
    assert!(tests(&index, "passed").contains(&"test_readme".into()), "{index:#}");
    let directory = sandbox.artifacts().join(index["directory"].as_str().unwrap());
    let names = files(&directory);
    assert!(
        ["junit.xml", "report.html", "result.json"].iter().all(|name| names.contains(&(*name).to_owned())),
        "{names:?}"
    );
    let result = sandbox.result();
    let url = result["report"]["url"].as_str().unwrap();
    assert!(url.starts_with("https://r.example/x/results/v1/meta-tested/"), "{url}");
    assert!(url.ends_with("/report.html"), "{url}");
    assert_eq!(json(&directory.join("result.json"))["job"], result["job"]);

    // Two commits later, a test fails. Nobody vouches for this job, so it writes nothing.
    change(&sandbox, "One");
    change(&sandbox, "Two");
    sandbox.behaviour("yocto-check-layer fail test_readme");
    let ran = run(&sandbox, &[], &[]);
    ran.assert_code(&[1]);
    ran.assert_says(&["this change is compared with the result of", "1 commit before it began"]);
    let result = sandbox.result();
    let parent = git(&sandbox.layer(), ["rev-parse", "HEAD^"]);
    assert_eq!(result["base"]["commit"], first.as_str());
    assert_eq!(result["base"]["merge_base"], parent.as_str());
    assert_eq!(result["base"]["distance"], 1);
    assert!(result["report"].is_null());
    assert_eq!(files(stored(&sandbox, "", &first).ancestors().nth(2).unwrap()), [first.as_str()]);
    assert!(!sandbox.artifacts().join("pr").exists());

    // The reports show what is new, from the result alone.
    let short =
        sandbox.call(["report", "--format", "markdown", sandbox.out().join("result.json").to_str().unwrap()]);
    short.assert_code(&[1]);
    short.assert_says(&["1 new failure", "**New in this change**", "test_readme"]);
}

/// Each row: what fails in the base and in the change, and the exit status with "new".
#[test]
fn only_new_failures_fail_a_layer_that_starts_red() {
    let test = "only_new_failures_fail_a_layer_that_starts_red";
    let Some(sandbox) = sandbox(test, "[report]\nfail_on = \"new\"") else { return };
    sandbox.behaviour("yocto-check-layer fail test_readme");
    let ran = run(&sandbox, &["--trusted"], &[]);
    ran.assert_code(&[1]);
    ran.assert_says(&["every failure counts, because there is no earlier result to compare with"]);
    assert_eq!(tests(&json(&stored(&sandbox, "", &head(&sandbox))), "failed"), ["test_readme"]);

    for (failing, code) in [("test_readme", 0), ("test_readme test_parse", 1), ("test_parse", 1)] {
        println!("{failing}");
        git(&sandbox.layer(), ["reset", "--quiet", "--hard", "HEAD~0"]);
        change(&sandbox, failing);
        git(&sandbox.layer(), ["update-ref", "refs/remotes/origin/main", "HEAD^"]);
        sandbox.behaviour(&format!("yocto-check-layer fail {failing}"));
        let ran = run(&sandbox, &[], &[]);
        ran.assert_code(&[code]);
        let result = sandbox.result();
        assert_eq!(result["outcome"], if code == 0 { "passed" } else { "failed" }, "{failing}");
        // The failure is reported all the same.
        assert!(result["totals"]["failed"].as_u64().unwrap() > 0, "{failing}");
        let stages = result["stages"].as_array().unwrap();
        let check = stages.iter().find(|stage| stage["stage"] == "check").unwrap();
        assert_eq!(check["outcome"], "failed", "{failing}");
        if code == 0 {
            ran.assert_says(&["PASSED", "1 failing as before the change"]);
        }
        // The reports can be made again from the events, with the same verdict.
        let events = sandbox.out().join("events.jsonl");
        sandbox.call([Path::new("report"), &events]).assert_code(&[code]);
        git(&sandbox.layer(), ["reset", "--quiet", "--hard", "HEAD^"]);
    }
}

/// What is compared with is written only by trusted jobs; a pull request has a part of its own, and the rule comes from
/// its base.
#[test]
fn a_pull_request_writes_its_own_part_and_cannot_choose_what_counts() {
    let test = "a_pull_request_writes_its_own_part_and_cannot_choose_what_counts";
    let Some(sandbox) = sandbox(test, "[report]\nfail_on = \"all\"") else { return };
    sandbox.behaviour("yocto-check-layer fail test_readme");
    let first = head(&sandbox);
    run(&sandbox, &["--trusted"], &[]).assert_code(&[1]);
    let server = sandbox.path().join("server");
    git(
        sandbox.path(),
        ["clone", "--quiet", "--bare", sandbox.layer().to_str().unwrap(), server.to_str().unwrap()],
    );
    sandbox.change_manifest("fail_on = \"all\"", "fail_on = \"new\"");
    commit(&sandbox.layer(), "Choose another rule");
    let url = format!("file://{}", server.display());
    let (change, layer) = (head(&sandbox), sandbox.layer().display().to_string());
    let variables = [
        ("CODEBUILD_BUILD_ID", "p:1"),
        ("CODEBUILD_WEBHOOK_EVENT", "PULL_REQUEST_UPDATED"),
        ("CODEBUILD_WEBHOOK_TRIGGER", "pr/7"),
        ("CODEBUILD_WEBHOOK_BASE_REF", "refs/heads/main"),
        ("CODEBUILD_SOURCE_REPO_URL", url.as_str()),
        ("CODEBUILD_RESOLVED_SOURCE_VERSION", change.as_str()),
        ("CODEBUILD_SRC_DIR", layer.as_str()),
    ];
    let ran = run(&sandbox, &[], &variables);
    ran.assert_code(&[1]);
    ran.assert_says(&["this change edits its own rules: build-agent.toml"]);
    let result = sandbox.result();
    assert_eq!(result["base"]["commit"], first.as_str());
    assert!(result["fail_on"].is_null(), "that of the base");
    assert!(stored(&sandbox, "pr/7", &change).is_file(), "{}", ran.output());
    assert!(!stored(&sandbox, "", &change).exists());
    // The next job of a trusted source is not compared with what the pull request wrote.
    let ran = run(&sandbox, &["--trusted"], &[]);
    ran.assert_code(&[0, 1]);
    assert_eq!(sandbox.result()["base"]["commit"], first.as_str());
}

#[test]
fn a_damaged_store_costs_a_warning_and_no_verdict() {
    let test = "a_damaged_store_costs_a_warning_and_no_verdict";
    let Some(sandbox) = sandbox(test, "") else { return };
    run(&sandbox, &["--trusted"], &[]).assert_code(&[0]);
    let index = stored(&sandbox, "", &head(&sandbox));
    change(&sandbox, "One");
    for (text, words) in [
        ("", "it is damaged"),
        ("{\"schema\":\"build-agent/stored-result/v9\"}", "its schema is `build-agent/stored-result/v9`"),
    ] {
        std::fs::write(&index, text).unwrap();
        let ran = run(&sandbox, &[], &[]);
        ran.assert_code(&[0]);
        ran.assert_says(&["is not used", words, "compared with no earlier result"]);
        assert!(sandbox.result()["base"].is_null());
    }
    // A directory in the place of the store's file.
    let next = stored(&sandbox, "", &head(&sandbox));
    std::fs::create_dir_all(&next).unwrap();
    let ran = run(&sandbox, &["--trusted"], &[]);
    ran.assert_code(&[0]);
    let result = sandbox.result();
    let units = result["units"].as_array().unwrap();
    let unit = units.iter().find(|unit| unit["name"] == "stored report").unwrap();
    assert_eq!(unit["outcome"], "not-run", "{unit:#}");
}

/// The same commit again, with another outcome.
#[test]
fn a_test_that_fails_and_passes_with_equal_signatures_is_flaky() {
    let test = "a_test_that_fails_and_passes_with_equal_signatures_is_flaky";
    let Some(sandbox) = sandbox(test, "") else { return };
    // The job's own limit decides: the files of the stand-in stay the same.
    let flag = sandbox.path().join("flaky");
    std::fs::write(&flag, "").unwrap();
    sandbox.behaviour(&format!("yocto-check-layer fail-if {} test_readme", flag.display()));
    run(&sandbox, &["--trusted"], &[]).assert_code(&[1]);
    std::fs::remove_file(&flag).unwrap();
    run(&sandbox, &["--trusted"], &[]).assert_code(&[0]);
    let index = json(&stored(&sandbox, "", &head(&sandbox)));
    assert_eq!(tests(&index, "flaky"), ["test_readme"], "{index:#}");
}

/// Machines and releases of one change are one page.
#[test]
fn several_results_are_reported_as_one() {
    let test = "several_results_are_reported_as_one";
    let Some(sandbox) = sandbox(test, "") else { return };
    let mut results = Vec::new();
    for (machine, behaviour, code) in [("qemux86-64", "pass", 0), ("qemuarm", "fail test_readme", 1)] {
        sandbox.behaviour(&format!("yocto-check-layer {behaviour}"));
        let set = format!("config.machines=[\"{machine}\"]");
        run(&sandbox, &["--set", &set], &[]).assert_code(&[code]);
        let kept = sandbox.path().join(machine);
        std::fs::create_dir(&kept).unwrap();
        std::fs::copy(sandbox.out().join("result.json"), kept.join("result.json")).unwrap();
        results.push(kept.join("result.json").display().to_string());
    }
    let out = sandbox.path().join("merged").display().to_string();
    let ran = sandbox.call([
        "report",
        &results[0],
        &results[1],
        "--out",
        &out,
        "--format",
        "json,junit,html,sarif,text,markdown",
    ]);
    ran.assert_code(&[1]);
    ran.assert_says(&[
        "qemux86-64  PASSED",
        "qemuarm     FAILED",
        "**1 of 2 passed**",
        "| `qemuarm` | FAILED |",
    ]);
    let merged = json(&sandbox.path().join("merged/results.json"));
    assert_eq!(merged["schema"], "build-agent/results/v1");
    assert_eq!((merged["exit_code"].as_u64(), merged["jobs"].as_array().unwrap().len()), (Some(1), 2));
    assert!(merged["reason"].as_str().unwrap().starts_with("meta-tested scarthgap qemuarm: "), "{merged}");
    let junit = std::fs::read_to_string(sandbox.path().join("merged/junit.xml")).unwrap();
    assert!(
        junit.contains("name=\"meta-tested scarthgap qemuarm: check.yocto-check-layer meta-tested\""),
        "{junit}"
    );
    let page = std::fs::read_to_string(sandbox.path().join("merged/report.html")).unwrap();
    assert!(page.contains("qemuarm") && page.contains("1 of 2 did not pass"), "{page}");
    let sarif = json(&sandbox.path().join("merged/results.sarif"));
    assert_eq!(sarif["runs"].as_array().unwrap().len(), 2);
    // They would overwrite one of their sources.
    sandbox.call(["report", &results[0], &results[1]]).assert_code(&[2]);
    sandbox.call(["report", &results[0], &results[0], "--format", "text"]).assert_code(&[2]);
}
