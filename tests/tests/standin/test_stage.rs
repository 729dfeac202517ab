//! The test stage: OE-Core's task and its results, and the agent's verdict on them.

use build_agent_tests::{Sandbox, commit, git};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

/// A job that tests the image `img`, and does nothing else.
fn tester(test: &str, section: &str) -> Option<Sandbox> {
    let sandbox = Sandbox::new(test)?;
    let text = sandbox.manifest_text().replace("yocto_check_layer = true", "yocto_check_layer = false");
    let text = text.replace("bitbake_layers = [\"show-layers\"]\n", "");
    sandbox.write_manifest(&format!("{text}\n[test]\n{section}\n"));
    Some(sandbox)
}

const IMAGE: &str = "images = [\"img\"]\n";

/// What `bitbake img:do_testimage` does, one run after another, and what recipes there are.
fn behave(sandbox: &Sandbox, runs: Value, recipes: Value) {
    std::fs::write(sandbox.upstream().join("testimage.json"), runs.to_string()).unwrap();
    std::fs::write(sandbox.upstream().join("recipes.json"), recipes.to_string()).unwrap();
    commit(&sandbox.upstream(), "Change what tests do");
}

fn ssh() -> Value {
    json!({"ssh.SSHTest.test_ssh": {"status": "PASSED", "duration": 1.5}})
}

fn with(mut results: Value, more: Value) -> Value {
    let results_map = results.as_object_mut().unwrap();
    results_map.extend(more.as_object().unwrap().clone());
    results
}

/// The outcome and the reason of the only unit that tests.
fn unit(sandbox: &Sandbox) -> (String, String) {
    let result = sandbox.result();
    let tests = |unit: &&Value| unit["stage"] == "test" && unit["name"] != "what the change affects";
    let units = result["units"].as_array().unwrap().iter().filter(tests);
    let units: Vec<&Value> = units.collect();
    assert_eq!(units.len(), 1, "{units:#?}");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&units[0]["outcome"]), text(&units[0]["reason"]))
}

/// `class.name: outcome` of all cases of the test stage.
fn tests(sandbox: &Sandbox) -> Vec<String> {
    let result = sandbox.result();
    let units = result["units"].as_array().unwrap().iter().filter(|unit| unit["stage"] == "test");
    let cases = units.flat_map(|unit| unit["cases"].as_array().cloned().unwrap_or_default());
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    cases
        .map(|case| format!("{}.{}: {}", text(&case["class"]), text(&case["name"]), text(&case["outcome"])))
        .collect()
}

fn findings(sandbox: &Sandbox) -> Vec<String> {
    let result = sandbox.result();
    let findings = result["findings"].as_array().unwrap().iter();
    findings.map(|finding| finding["rule"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn an_image_is_built_and_tested_and_each_test_is_a_case() {
    let Some(sandbox) = tester("an_image_is_built_and_tested_and_each_test_is_a_case", IMAGE) else { return };
    let results = with(ssh(), json!({"a.B.test_c": {"status": "SKIPPED", "log": "no python3"}}));
    behave(&sandbox, json!([{"result": results}]), json!({}));
    sandbox.run().assert_code(&[0]);
    assert_eq!(unit(&sandbox), ("passed".into(), String::new()));
    assert_eq!(tests(&sandbox), ["a.B.test_c: skipped", "ssh.SSHTest.test_ssh: passed"]);
    let conf =
        std::fs::read_to_string(sandbox.work().join("meta-tested-scarthgap/test/conf/local.conf")).unwrap();
    assert!(conf.contains("IMAGE_CLASSES:append = \" testimage\""), "{conf}");
    assert!(conf.contains("IMAGE_FEATURES:append:pn-img"), "{conf}");
    // The images of the job's build stay as they are.
    let conf =
        std::fs::read_to_string(sandbox.work().join("meta-tested-scarthgap/build/conf/local.conf")).unwrap();
    assert!(!conf.contains("testimage") && !conf.contains("IMAGE_FEATURES"), "{conf}");
    let junit = std::fs::read_to_string(sandbox.out().join("junit.xml")).unwrap();
    assert!(junit.contains("classname=\"test.img (qemux86-64).ssh.SSHTest\" time=\"1.500\""), "{junit}");
    sandbox.assert_nothing_runs();
}

/// Each row: what the task does, the exit status, and a part of the reason. None of them passes.
#[test]
fn malformed_and_contradicting_results_never_pass() {
    let test = "malformed_and_contradicting_results_never_pass";
    let Some(sandbox) = tester(test, IMAGE) else { return };
    let section = |fields: Value| with(ssh(), json!({"ptestresult.sections": {"zlib": fields}}));
    let one = |status: &str| json!({"ptestresult.zlib.one": {"status": status}});
    let expectfail =
        json!({"ptest.PtestRunnerTest.test_ptestrunner_expectfail": {"status": "EXPECTEDFAIL", "log": "x"}});
    let table: Vec<(&str, Value, i32, &str)> = vec![
        ("no results", json!({}), 70, "there are no results"),
        ("no results, and it failed", json!({"exit": 1}), 1, "there are no results of its tests"),
        ("no JSON", json!({"raw": "PASSED"}), 70, "cannot be read: it is not JSON"),
        ("another image's", json!({"result": ssh(), "image": "other"}), 70, "there are no results"),
        ("0 tests", json!({"result": {}}), 1, "not a single test ran"),
        (
            "never reached",
            json!({"result": with(ssh(), json!({"a.B.test_c": {"status": "UNKNOWN"}}))}),
            1,
            "never reached",
        ),
        ("failed with status 0", json!({"result": {"a.B.test_c": {"status": "FAILED"}}}), 70, "contradict"),
        ("passed with status 1", json!({"result": ssh(), "exit": 1}), 1, "although no test failed"),
        (
            "failed",
            json!({"result": {"a.B.test_c": {"status": "FAILED", "log": "AssertionError: no"}}, "exit": 1}),
            1,
            "a.B.test_c: AssertionError: no",
        ),
        (
            "a failed ptest, hidden",
            json!({"result": with(with(section(json!({"log": ""})), one("FAILED")), expectfail.clone())}),
            1,
            "ptest.zlib.one",
        ),
        ("no ptest, hidden", json!({"result": with(ssh(), expectfail)}), 1, "PTEST_EXPECT_FAILURE"),
        (
            "a section without results",
            json!({"result": section(json!({"log": ""}))}),
            1,
            "without the result of a single test",
        ),
        (
            "a panic on the console",
            json!({"result": ssh(), "console": "[ 1.0] Kernel panic - not syncing: x\n"}),
            1,
            "Kernel panic - not syncing: x",
        ),
    ];
    for (what, run, code, words) in table {
        println!("{what}");
        behave(&sandbox, json!([run]), json!({}));
        let ran = sandbox.run();
        ran.assert_code(&[code]);
        let (outcome, reason) = unit(&sandbox);
        assert_ne!(outcome, "passed", "{what}");
        assert!(reason.contains(words), "{what}: {words} not in {reason}");
        assert_ne!(sandbox.result()["outcome"], "passed", "{what}");
    }
    sandbox.assert_nothing_runs();
}

/// Results that an earlier run left are not those of this one.
#[test]
fn results_of_an_earlier_run_do_not_count() {
    let Some(sandbox) = tester("results_of_an_earlier_run_do_not_count", &format!("{IMAGE}reruns = 1\n"))
    else {
        return;
    };
    // The rerun writes nothing.
    let failed = json!({"result": with(ssh(), json!({"a.B.test_c": {"status": "FAILED"}})), "exit": 1});
    behave(&sandbox, json!([failed, {}]), json!({}));
    sandbox.run().assert_code(&[70]);
    let (outcome, reason) = unit(&sandbox);
    assert_eq!(outcome, "not-run");
    assert!(reason.contains("there are no results"), "{reason}");
}

#[test]
fn a_test_that_passes_in_a_rerun_is_flaky_in_every_report() {
    let test = "a_test_that_passes_in_a_rerun_is_flaky_in_every_report";
    let failed = json!({"result": with(ssh(), json!({"a.B.test_c": {"status": "FAILED"}})), "exit": 1});
    let passed = json!({"result": with(ssh(), json!({"a.B.test_c": {"status": "PASSED"}}))});
    for (policy, code, outcome) in [("pass", 0, "passed"), ("fail", 1, "failed")] {
        let section = format!("{IMAGE}reruns = 2\nflaky = \"{policy}\"\n");
        let Some(sandbox) = tester(test, &section) else { return };
        behave(&sandbox, json!([failed, passed]), json!({}));
        let ran = sandbox.run();
        ran.assert_code(&[code]);
        ran.assert_says(&["flaky"]);
        assert_eq!(unit(&sandbox).0, outcome);
        assert_eq!(tests(&sandbox), ["a.B.test_c: flaky", "ssh.SSHTest.test_ssh: passed"]);
        assert_eq!(findings(&sandbox), ["flaky-test"]);
        assert_eq!(sandbox.result()["totals"]["flaky"], 1);
        let junit = std::fs::read_to_string(sandbox.out().join("junit.xml")).unwrap();
        assert!(junit.contains("<flakyFailure"), "{junit}");
    }
    // What fails each time fails.
    let Some(sandbox) = tester(test, &format!("{IMAGE}reruns = 1\n")) else { return };
    behave(&sandbox, json!([failed]), json!({}));
    sandbox.run().assert_code(&[1]);
    assert_eq!(tests(&sandbox)[0], "a.B.test_c: failed");
}

#[test]
fn known_failures_of_the_test_stage_are_skipped() {
    let Some(sandbox) = tester("known_failures_of_the_test_stage_are_skipped", IMAGE) else { return };
    sandbox.change_manifest("[check]", "[check]\nknown_failures = \"known.toml\"");
    let entry = |stage: &str| {
        let text = format!(
            "[[failure]]\ntest = \"a.B.test_c\"\nreason = \"waits\"\nexpires = \"2999-01-01\"\n{stage}"
        );
        std::fs::write(sandbox.layer().join("known.toml"), text).unwrap();
    };
    let failed = json!({"result": with(ssh(), json!({"a.B.test_c": {"status": "FAILED"}})), "exit": 1});
    behave(&sandbox, json!([failed]), json!({}));
    entry("stage = \"test\"\n");
    sandbox.run().assert_code(&[0]);
    assert_eq!(tests(&sandbox), ["a.B.test_c: skipped", "ssh.SSHTest.test_ssh: passed"]);
    // An entry of the check stage.
    entry("");
    sandbox.run().assert_code(&[1]);
}

/// A change that does not want its tests, or wants them less strict.
#[test]
fn a_change_is_tested_as_its_base_wants() {
    let Some(sandbox) = tester("a_change_is_tested_as_its_base_wants", IMAGE) else { return };
    commit(&sandbox.layer(), "Add the manifest");
    let failed = json!({"result": with(ssh(), json!({"a.B.test_c": {"status": "FAILED"}})), "exit": 1});
    let passed = json!({"result": with(ssh(), json!({"a.B.test_c": {"status": "PASSED"}}))});
    behave(&sandbox, json!([failed, passed]), json!({}));
    for section in ["", "[test]\nimages = [\"img\"]\nreruns = 1\nflaky = \"pass\"\n"] {
        git(&sandbox.layer(), ["switch", "--quiet", "-C", "change", "main"]);
        let text = std::fs::read_to_string(sandbox.manifest()).unwrap();
        let (rest, _) = text.split_once("[test]").unwrap();
        sandbox.write_manifest(&format!("{rest}{section}"));
        commit(&sandbox.layer(), "Want other tests");
        let mut command = sandbox.run_command();
        command.args(["--base", "main"]);
        let ran = sandbox.start(command).wait();
        ran.assert_code(&[1]);
        ran.assert_says(&["this change edits its own rules: build-agent.toml"]);
        assert_eq!(tests(&sandbox), ["a.B.test_c: failed", "ssh.SSHTest.test_ssh: passed"], "{section}");
    }
}

/// Recipes with ptests: which images, which suite, and what is missing.
#[test]
fn ptests_of_recipes_run_in_as_few_images_as_conflicts_allow() {
    let test = "ptests_of_recipes_run_in_as_few_images_as_conflicts_allow";
    let Some(sandbox) = tester(test, "ptest = [\"aws-a\", \"aws-b\", \"zlib\"]\n") else { return };
    let recipe = |name: &str, conflicts: &str| {
        json!({
            "PACKAGES": format!("{name} {name}-ptest"), "INHERITS": "ptest", "PROVIDES": name,
            "PTEST_PATH": format!("/usr/lib/{name}/ptest"),
            format!("RDEPENDS:{name}-ptest"): name, format!("RCONFLICTS:{name}"): conflicts,
        })
    };
    let recipes = json!({"aws-a": recipe("aws-a", "aws-b (>= 1)"), "aws-b": recipe("aws-b", ""), "zlib": recipe("zlib", "")});
    let section = |names: &[&str]| {
        let sections: serde_json::Map<String, Value> =
            names.iter().map(|name| ((*name).to_owned(), json!({"log": "l", "duration": "2"}))).collect();
        let mut results = json!({"ptestresult.sections": sections, "build_agent_ptest.PtestTest.test_ptests": {"status": "PASSED"}});
        for name in names {
            results[format!("ptestresult.{name}.one")] = json!({"status": "PASSED"});
        }
        json!({"result": results})
    };
    behave(&sandbox, json!([section(&["aws-a", "zlib"]), section(&["aws-b"])]), recipes.clone());
    sandbox.run().assert_code(&[0]);
    let layer = sandbox.work().join("meta-tested-scarthgap/test-layer/recipes-tests");
    let image = |number: u32| {
        let path = layer.join(format!("build-agent-ptests-{number}.bb"));
        std::fs::read_to_string(path).unwrap_or_default()
    };
    assert!(image(1).contains("ptest-runner aws-a-ptest zlib-ptest\""), "{}", image(1));
    assert!(image(2).contains("ptest-runner aws-b-ptest\""), "{}", image(2));
    assert_eq!(image(3), "");
    let wanted = [
        "ptest.aws-a.run-ptest: passed",
        "ptest.aws-a.one: passed",
        "ptest.zlib.run-ptest: passed",
        "ptest.zlib.one: passed",
        "build_agent_ptest.PtestTest.test_ptests: passed",
        "ptest.aws-b.run-ptest: passed",
        "ptest.aws-b.one: passed",
        "build_agent_ptest.PtestTest.test_ptests: passed",
    ];
    assert_eq!(tests(&sandbox), wanted);

    // A package without a section. A guest that crashed is restarted for the remaining ptests, if it had any results.
    behave(&sandbox, json!([section(&["aws-a"]), section(&["aws-a"]), section(&["aws-b"])]), recipes.clone());
    sandbox.run().assert_code(&[1]);
    assert!(
        unit(&sandbox).1.contains("zlib-ptest is there, but its ptest did not run"),
        "{:?}",
        unit(&sandbox)
    );

    for (broken, code, words) in [
        (json!({"PACKAGES": "zlib"}), 1, "zlib has no ptests"),
        (json!({"PACKAGES": "zlib", "INHERITS": "ptest"}), 1, "DISTRO_FEATURES has no `ptest`"),
        (json!({"BROKEN": "ParseError at /x"}), 1, "BitBake cannot read zlib"),
    ] {
        let mut recipes = recipes.clone();
        recipes["zlib"] = broken;
        behave(&sandbox, json!([section(&["aws-a", "zlib"]), section(&["aws-b"])]), recipes);
        sandbox.run().assert_code(&[code]);
        assert!(unit(&sandbox).1.contains(words), "{words}: {:?}", unit(&sandbox));
    }
}

/// A changed recipe, and then a change that affects nothing: BitBake is not queried.
#[test]
fn the_ptests_of_a_changed_recipe_run() {
    let Some(sandbox) = tester("the_ptests_of_a_changed_recipe_run", "ptest = \"changed\"\n") else { return };
    commit(&sandbox.layer(), "Add the manifest");
    let append = |name: &str| {
        let path = sandbox.layer().join(name);
        let text = std::fs::read_to_string(&path).unwrap() + "\n# More.\n";
        std::fs::write(path, text).unwrap();
        commit(&sandbox.layer(), "Change");
    };
    append("recipes-hello/hello/hello_1.0.bb");
    let hello =
        json!({"PACKAGES": "hello hello-ptest", "INHERITS": "ptest", "PTEST_PATH": "/usr/lib/hello/ptest"});
    let results = json!({
        "ptestresult.sections": {"hello": {"log": "l", "duration": "2"}},
        "ptestresult.hello.one": {"status": "PASSED"},
    });
    behave(&sandbox, json!([{"result": results}]), json!({"hello": hello}));
    sandbox.run().assert_code(&[0]);
    assert_eq!(tests(&sandbox), ["ptest.hello.run-ptest: passed", "ptest.hello.one: passed"]);
    append("README.md");
    sandbox.run().assert_code(&[0]);
    assert_eq!(unit(&sandbox), ("skipped".into(), "the change affects 0 tasks".into()));
}

/// Those that this machine builds are tested, and the others are reported as skipped.
/// With `[build] changed`, an image is tested if the change affects it.
#[test]
fn an_image_that_the_change_does_not_affect_is_not_tested() {
    let test = "an_image_that_the_change_does_not_affect_is_not_tested";
    let Some(sandbox) = tester(test, &format!("{IMAGE}\n[build]\nchanged = true\n")) else { return };
    behave(&sandbox, json!([{"result": ssh()}]), json!({}));
    commit(&sandbox.layer(), "Add a manifest");
    for (file, outcome, reason) in [
        ("README.md", "skipped", "the change does not affect this image"),
        ("lib/oeqa/runtime/cases/x.py", "passed", ""),
        ("recipes-hello/hello/hello_1.0.bb", "passed", ""),
    ] {
        let path = sandbox.layer().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        std::fs::write(&path, format!("{text}\n# changed\n")).unwrap();
        commit(&sandbox.layer(), "Change a file");
        sandbox.run().assert_code(&[0]);
        assert_eq!(unit(&sandbox), (outcome.into(), reason.into()), "{file}");
    }
}

#[test]
fn a_recipe_that_the_machine_does_not_build_does_not_skip_the_others() {
    let test = "a_recipe_that_the_machine_does_not_build_does_not_skip_the_others";
    let Some(sandbox) = tester(test, "ptest = [\"aws-a\", \"zlib\"]\n") else { return };
    let skipped = json!({"SKIPPED": "incompatible with machine qemux86-64"});
    let zlib =
        json!({"PACKAGES": "zlib zlib-ptest", "INHERITS": "ptest", "PTEST_PATH": "/usr/lib/zlib/ptest"});
    let results = json!({
        "ptestresult.sections": {"zlib": {"log": "l", "duration": "2"}},
        "ptestresult.zlib.one": {"status": "PASSED"},
    });
    behave(&sandbox, json!([{"result": results}]), json!({"aws-a": skipped, "zlib": zlib}));
    sandbox.run().assert_code(&[0]);
    let wanted = ["ptest.zlib.run-ptest: passed", "ptest.zlib.one: passed", "ptest.aws-a.run-ptest: skipped"];
    assert_eq!(tests(&sandbox), wanted);
    behave(&sandbox, json!([{"result": results}]), json!({"aws-a": skipped, "zlib": skipped}));
    let ran = sandbox.run();
    ran.assert_code(&[1]);
    ran.assert_says(&["no machine tested ptests: aws-a: incompatible with machine qemux86-64"]);
}

#[test]
fn an_image_that_no_machine_builds_fails() {
    let Some(sandbox) = tester("an_image_that_no_machine_builds_fails", IMAGE) else { return };
    let skipped =
        json!({"img": {"SKIPPED": "incompatible with machine qemux86-64 (not in COMPATIBLE_MACHINE)"}});
    behave(&sandbox, json!([{"result": ssh()}]), skipped);
    let ran = sandbox.run();
    ran.assert_code(&[1]);
    ran.assert_says(&["no machine tested img: incompatible with machine qemux86-64"]);
    assert_eq!(unit(&sandbox).0, "skipped");
}

#[test]
fn a_failed_build_is_distinguished_from_a_failed_test() {
    let Some(sandbox) = tester("a_failed_build_is_distinguished_from_a_failed_test", IMAGE) else { return };
    sandbox.behaviour("bitbake fail do_compile");
    behave(&sandbox, json!([{"result": ssh()}]), json!({}));
    sandbox.run().assert_code(&[1]);
    assert!(
        unit(&sandbox).1.contains("img could not be built: img-1.0-r0:do_compile failed"),
        "{:?}",
        unit(&sandbox)
    );
}

#[test]
fn a_stop_ends_the_guest_and_is_no_failure() {
    let Some(sandbox) = tester("a_stop_ends_the_guest_and_is_no_failure", IMAGE) else { return };
    let results = with(ssh(), json!({"a.B.test_c": {"status": "UNKNOWN"}}));
    behave(&sandbox, json!([{"result": results, "guest": true, "hang": true}]), json!({}));
    let mut running = sandbox.start(sandbox.run_command());
    sandbox.wait_for_log(&mut running, "hanging");
    running.signal(Signal::SIGTERM);
    running.wait().assert_code(&[130]);
    assert_eq!(unit(&sandbox).0, "cancelled");
    assert_eq!(tests(&sandbox), ["a.B.test_c: cancelled", "ssh.SSHTest.test_ssh: passed"]);
    sandbox.assert_nothing_runs();
}
