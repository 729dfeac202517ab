//! The verdict: only proven success passes.

use build_agent_tests::{Sandbox, cases, well_formed_xml};

#[test]
fn a_good_layer_passes_and_every_test_is_reported() {
    let Some(sandbox) = Sandbox::new("a_good_layer_passes_and_every_test_is_reported") else { return };
    sandbox.run().assert_code(&[0]);
    let result = sandbox.result();
    assert_eq!(result["schema"], "build-agent/result/v1");
    assert_eq!(result["outcome"], "passed");
    let cases = cases(&result);
    for test in ["test_readme", "test_parse", "test_world", "test_signatures", "test_layerseries_compat"] {
        assert!(cases.contains(&(test.to_owned(), "passed".to_owned())), "{test}: {cases:?}");
    }
    let skipped = cases.iter().filter(|(_, outcome)| outcome == "skipped").count();
    assert_eq!(skipped, 6, "all tests of the BSP and distro classes: {cases:?}");
    assert!(well_formed_xml(&sandbox.out().join("junit.xml"), "testcase") >= cases.len());
    assert!(sandbox.out().join("events.jsonl").is_file());
    sandbox.assert_nothing_runs();
}

#[test]
fn a_failing_test_is_named_with_its_message() {
    let Some(sandbox) = Sandbox::new("a_failing_test_is_named_with_its_message") else { return };
    sandbox.behaviour("yocto-check-layer fail test_signatures test_world");
    let ran = sandbox.run();
    ran.assert_code(&[1]);
    ran.assert_says(&["test_signatures", "test_world"]);
    let result = sandbox.result();
    assert_eq!(result["outcome"], "failed");
    let cases = cases(&result);
    for (test, outcome) in [("test_signatures", "failed"), ("test_world", "failed"), ("test_parse", "passed")]
    {
        assert!(cases.contains(&(test.to_owned(), outcome.to_owned())), "{test}: {cases:?}");
    }
    assert!(result.to_string().contains("test_world was told to go wrong"));
}

/// The behavior of a tool, the right exit statuses, and the text that must be printed. None of them passes.
#[test]
fn an_empty_run_never_passes() {
    let table: [(&str, &[i32], &[&str]); 13] = [
        ("error test_parse", &[1], &["test_parse"]),
        // The tool says that it passed, but proved nothing: not passed, and not the agent's fault.
        ("skip-all", &[1], &["skipped"]),
        ("no-tests", &[1, 70], &["meta-tested"]),
        ("already", &[1, 70], &["BBLAYERS"]),
        ("no-summary", &[1, 70], &["meta-tested"]),
        ("no-verdict", &[1, 70], &["meta-tested"]),
        ("other-layer", &[1, 70], &["meta-tested"]),
        // Exit status and output contradict each other.
        ("lie-pass", &[70], &["exit status 1"]),
        ("lie-fail", &[70], &["test_world"]),
        ("lie-tests", &[70], &["test_world"]),
        // The tool crashed.
        ("crash", &[1, 70], &["told to"]),
        ("memory", &[1, 70], &["MemoryError"]),
        ("kill", &[1, 3, 70], &["SIGKILL"]),
    ];
    let Some(sandbox) = Sandbox::new("an_empty_run_never_passes") else { return };
    for (behaviour, codes, words) in table {
        println!("yocto-check-layer {behaviour}");
        sandbox.behaviour(&format!("yocto-check-layer {behaviour}"));
        let ran = sandbox.run();
        ran.assert_code(codes);
        ran.assert_says(words);
        let result = sandbox.result();
        assert_ne!(result["outcome"], "passed", "{behaviour}");
        assert_ne!(result["outcome"], "skipped", "{behaviour}");
        well_formed_xml(&sandbox.out().join("junit.xml"), "testcase");
        sandbox.assert_nothing_runs();
    }
}

/// The tool exits with status 0 and prints PASS, but other output contradicts that.
#[test]
fn a_contradiction_is_the_agents_error_and_never_a_pass() {
    let test = "a_contradiction_is_the_agents_error_and_never_a_pass";
    let Some(sandbox) = Sandbox::new(test) else { return };
    let twists = ["failed", "failed-one-line", "ran", "two-summaries", "ok-then-fail", "expected-failures"];
    let more = ["traceback", "heading"];
    let behaviours = twists.iter().chain(&more).map(|twist| format!("yocto-check-layer twist {twist}"));
    let others = ["yocto-check-layer outlived", "bitbake-layers silent", "bitbake-layers traceback"];
    for behaviour in behaviours.chain(others.map(str::to_owned)) {
        println!("{behaviour}");
        sandbox.behaviour(&behaviour);
        sandbox.run().assert_code(&[70]);
        assert_ne!(sandbox.result()["outcome"], "passed", "{behaviour}");
        sandbox.assert_nothing_runs();
    }
}

#[test]
fn output_of_a_layer_does_not_fail_a_good_run() {
    let Some(sandbox) = Sandbox::new("output_of_a_layer_does_not_fail_a_good_run") else { return };
    for behaviour in [
        "yocto-check-layer twist plain",
        "yocto-check-layer say ERROR: only printed",
        "bitbake-layers say ERROR: only printed",
    ] {
        println!("{behaviour}");
        sandbox.behaviour(behaviour);
        sandbox.run().assert_code(&[0]);
        assert_eq!(sandbox.result()["outcome"], "passed", "{behaviour}");
    }
}

/// Two tests fail, and the message of the first one imitates a run in which only that test fails.
#[test]
fn a_forged_log_excuses_no_failure() {
    let Some(sandbox) = Sandbox::new("a_forged_log_excuses_no_failure") else { return };
    sandbox.change_manifest("[check]", "[check]\nknown_failures = \"known-failures.toml\"");
    let entry =
        "[[failure]]\ntest = \"test_world\"\nreason = \"upstream fixes it\"\nexpires = \"9999-12-31\"\n";
    std::fs::write(sandbox.layer().join("known-failures.toml"), entry).unwrap();
    sandbox.behaviour("yocto-check-layer forge");
    let ran = sandbox.run();
    ran.assert_code(&[70]);
    ran.assert_says(&["contradicts"]);
}

#[test]
fn a_layer_without_content_is_an_empty_run() {
    let Some(sandbox) = Sandbox::new("a_layer_without_content_is_an_empty_run") else { return };
    std::fs::rename(sandbox.layer().join("recipes-hello"), sandbox.path().join("gone")).unwrap();
    let ran = sandbox.run();
    ran.assert_code(&[1]);
    ran.assert_says(&["nothing to check", "layer-empty"]);
    // A class is enough content.
    std::fs::create_dir(sandbox.layer().join("classes")).unwrap();
    std::fs::write(sandbox.layer().join("classes/x.bbclass"), "").unwrap();
    sandbox.run().assert_code(&[0]);
}

/// One failing test, however long its list; `result.json` has all entries, and the console the first ones.
#[test]
fn a_test_that_lists_hundreds_of_files_is_one_case() {
    let Some(sandbox) = Sandbox::new("a_test_that_lists_hundreds_of_files_is_one_case") else { return };
    sandbox.change_manifest("release = \"scarthgap\"", "release = \"whinlatter\"");
    let files = sandbox.layer().join("recipes-hello/files");
    std::fs::create_dir_all(&files).unwrap();
    for number in 0..789 {
        std::fs::write(files.join(format!("{number:03}.patch")), "--- a\n+++ b\n").unwrap();
    }
    let ran = sandbox.run();
    ran.assert_code(&[1]);
    let result = sandbox.result();
    let patches = cases(&result).into_iter().filter(|(test, _)| test == "test_patches_upstream_status");
    assert_eq!(patches.collect::<Vec<_>>(), [("test_patches_upstream_status".into(), "failed".into())]);
    let findings = result["findings"].as_array().unwrap();
    let missing = findings.iter().filter(|finding| finding["rule"] == "upstream-status-missing");
    assert_eq!(missing.count(), 789, "all are in result.json");
    let xml = std::fs::read_to_string(sandbox.out().join("junit.xml")).unwrap();
    assert!(well_formed_xml(&sandbox.out().join("junit.xml"), "testcase") < 10);
    assert!(xml.contains("019.patch") && !xml.contains("020.patch"), "the first twenty");
    assert!(xml.contains("… and 769 more"), "{xml}");
    assert!(ran.output().lines().count() < 120, "{} lines", ran.output().lines().count());
}

#[test]
fn a_failing_bitbake_layers_command_fails_the_check() {
    let Some(sandbox) = Sandbox::new("a_failing_bitbake_layers_command_fails_the_check") else { return };
    sandbox.behaviour("bitbake-layers fail");
    let ran = sandbox.run();
    ran.assert_code(&[1]);
    ran.assert_says(&["show-layers"]);
}

#[test]
fn a_check_without_commands_does_not_pass() {
    let Some(sandbox) = Sandbox::new("a_check_without_commands_does_not_pass") else { return };
    sandbox.change_manifest("[\"show-layers\"]", "[]");
    sandbox.change_manifest("yocto_check_layer = true", "yocto_check_layer = false");
    let mut command = sandbox.run_command();
    command.args(["--only", "check"]);
    let ran = sandbox.start(command).wait();
    ran.assert_code(&[2]);
    ran.assert_says(&["[check] asks for nothing"]);
}

#[test]
fn the_preflight_fails_before_any_tool_runs() {
    let Some(sandbox) = Sandbox::new("the_preflight_fails_before_any_tool_runs") else { return };
    std::fs::remove_file(sandbox.layer().join("README.md")).unwrap();
    let ran = sandbox.run();
    ran.assert_code(&[1]);
    ran.assert_says(&["README"]);
    assert!(
        !sandbox.logs().contains("Detected layers"),
        "yocto-check-layer ran for a layer that cannot pass"
    );
}

#[test]
fn a_missing_upstream_is_status_4() {
    let Some(sandbox) = Sandbox::new("a_missing_upstream_is_status_4") else { return };
    // No server listens on this port.
    let here = format!("file://{}", sandbox.upstream().display());
    sandbox.change_manifest(&here, "https://somebody:hunter2secret@127.0.0.1:1/poky");
    let ran = sandbox.run();
    ran.assert_code(&[4]);
    ran.assert_says(&["127.0.0.1"]);
    assert!(!ran.output().contains("hunter2secret"), "{}", ran.output());
    assert_ne!(sandbox.result()["outcome"], "passed");
}

#[test]
fn a_missing_branch_never_runs() {
    let Some(sandbox) = Sandbox::new("a_missing_branch_never_runs") else { return };
    sandbox.change_manifest("branch = \"scarthgap\"", "branch = \"no-such-branch\"");
    let ran = sandbox.run();
    ran.assert_code(&[2, 4]);
    ran.assert_says(&["no-such-branch"]);
}

#[test]
fn a_known_failure_is_accepted_until_it_expires() {
    let Some(sandbox) = Sandbox::new("a_known_failure_is_accepted_until_it_expires") else { return };
    sandbox.change_manifest("[check]", "[check]\nknown_failures = \"known-failures.toml\"");
    sandbox.behaviour("yocto-check-layer fail test_world");
    std::fs::remove_file(sandbox.layer().join("README.md")).unwrap();
    for (expires, code, word) in [("9999-12-31", 0, "known failure until"), ("2020-01-01", 1, "test_readme")]
    {
        let entry = |test: &str| {
            format!(
                "[[failure]]\ntest = \"{test}\"\nreason = \"upstream mends it\"\nexpires = \"{expires}\"\n"
            )
        };
        let text = entry("test_world") + &entry("test_readme");
        std::fs::write(sandbox.layer().join("known-failures.toml"), text).unwrap();
        let ran = sandbox.run();
        ran.assert_code(&[code]);
        ran.assert_says(&[word]);
    }
}
