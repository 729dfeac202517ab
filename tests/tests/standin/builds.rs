//! Builds and what they publish.

use build_agent_tests::{Sandbox, json};

/// A job that builds `hello` and publishes what it deploys, without the checks.
pub fn builder(test: &str) -> Option<Sandbox> {
    let sandbox = Sandbox::new(test)?;
    let text = sandbox.manifest_text().replace(
        "[limits]",
        "[[artifacts.rules]]\ninclude = \"tmp/deploy/images/**\"\nrequired = true\n\n[limits]",
    );
    sandbox.write_manifest(&format!("{text}\n[build]\ntargets = [\"hello\"]\n"));
    Some(sandbox)
}

#[test]
fn what_is_deployed_is_published_and_the_index_names_it() {
    let Some(sandbox) = builder("what_is_deployed_is_published_and_the_index_names_it") else { return };
    sandbox.run().assert_code(&[0]);
    let result = sandbox.result();
    assert_eq!(result["outcome"], "passed");
    let index = find(&sandbox.artifacts(), "index.json").expect("an index");
    let text = json(&index).to_string();
    assert!(text.contains("hello-qemux86-64-20260101000000.bin"), "{text}");
    let published = find(&sandbox.artifacts(), "hello-qemux86-64-20260101000000.bin").expect("the file");
    assert_eq!(std::fs::read_to_string(published).unwrap(), "the deployed hello\n");
    // The link is recorded and its target not published twice.
    assert!(text.contains("\"hello-qemux86-64.bin\"") || text.contains("/hello-qemux86-64.bin\""), "{text}");
    sandbox.assert_nothing_runs();
}

#[test]
fn a_failed_task_is_named_with_the_lines_that_matter() {
    let Some(sandbox) = builder("a_failed_task_is_named_with_the_lines_that_matter") else { return };
    sandbox.behaviour("bitbake fail do_compile");
    let ran = sandbox.run();
    ran.assert_code(&[1]);
    ran.assert_says(&["do_compile", "hello.c:3:1: error: expected"]);
    let result = sandbox.result();
    assert_eq!(result["outcome"], "failed");
    assert!(result.to_string().contains("do_compile"));
}

/// What BitBake does, and the right statuses. None is green.
#[test]
fn a_build_that_proved_nothing_is_not_green() {
    let Some(sandbox) = builder("a_build_that_proved_nothing_is_not_green") else { return };
    let table: [(&str, &[i32]); 4] =
        [("lie-pass", &[1, 70]), ("nothing", &[1, 70]), ("crash", &[1, 70]), ("kill", &[1, 3, 70])];
    for (behaviour, codes) in table {
        println!("bitbake {behaviour}");
        sandbox.behaviour(&format!("bitbake {behaviour}"));
        sandbox.run().assert_code(codes);
        assert_ne!(sandbox.result()["outcome"], "passed", "{behaviour}");
        sandbox.assert_nothing_runs();
    }
}

#[test]
fn a_required_rule_that_matches_nothing_fails() {
    let Some(sandbox) = builder("a_required_rule_that_matches_nothing_fails") else { return };
    sandbox.change_manifest("tmp/deploy/images/**", "tmp/deploy/sdk/**");
    let ran = sandbox.run();
    ran.assert_code(&[1]);
    ran.assert_says(&["tmp/deploy/sdk/**"]);
    assert_ne!(sandbox.result()["outcome"], "passed");
}

/// Unit and outcome with its reason, in the order of the reports.
fn units(sandbox: &Sandbox) -> Vec<(String, String)> {
    let result = sandbox.result();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let units = result["units"].as_array().expect("units").iter();
    units
        .map(|unit| {
            let outcome = [text(&unit["outcome"]), text(&unit["reason"])].join(": ");
            (format!("{} {}", text(&unit["stage"]), text(&unit["name"])), outcome)
        })
        .collect()
}

#[test]
fn machines_after_the_first_that_failed_are_not_run() {
    let Some(sandbox) = builder("machines_after_the_first_that_failed_are_not_run") else { return };
    sandbox.behaviour("bitbake fail do_compile");
    let mut command = sandbox.run_command();
    command.args(["--set", "config.machines=[\"qemux86-64\", \"qemuarm64\", \"qemuriscv64\"]"]);
    let ran = sandbox.start(command).wait();
    ran.assert_code(&[1]);
    ran.assert_says(&["hello (qemuarm64)", "hello (qemuriscv64)"]);
    let builds: Vec<_> = units(&sandbox).into_iter().filter(|(name, _)| name.starts_with("build")).collect();
    let failed = "hello-1.0-r0:do_compile failed";
    let not_run = || format!("not-run: not started: {failed}");
    let wanted = [
        ("build hello (qemux86-64)".to_owned(), format!("failed: {failed}")),
        ("build hello (qemuarm64)".to_owned(), not_run()),
        ("build hello (qemuriscv64)".to_owned(), not_run()),
    ];
    assert_eq!(builds, wanted);
    let junit = std::fs::read_to_string(sandbox.out().join("junit.xml")).unwrap();
    assert_eq!(junit.matches("<skipped message=\"not started: ").count(), 2, "{junit}");
    assert_eq!(junit.matches("<failure").count(), 1, "{junit}");
    assert!(!junit.contains("<error"), "{junit}");
}

/// Whatever ends the checks: each check and each build that the manifest asks for has an outcome.
#[test]
fn checks_and_builds_that_were_not_reached_are_not_run() {
    const NAME: &str = "checks_and_builds_that_were_not_reached_are_not_run";
    let layers = |sandbox: &Sandbox| {
        for layer in ["meta-a", "meta-b"] {
            build_agent_tests::copy_tree(
                &build_agent_tests::repository().join("tests/stand-ins/layer"),
                &sandbox.layer().join(layer),
            );
            let conf = sandbox.layer().join(layer).join("conf/layer.conf");
            let text = std::fs::read_to_string(&conf).unwrap().replace("tested", layer);
            std::fs::write(conf, text).unwrap();
        }
        let text = std::fs::read_to_string(sandbox.manifest()).unwrap();
        sandbox.write_manifest(&format!("{text}\n[layer]\npaths = [\"meta-a\", \"meta-b\"]\n"));
    };
    // what the tool does, exit status, units that are not run
    let table = [
        ("yocto-check-layer fail test_world", 1, &["build hello (qemux86-64)"][..]),
        (
            "yocto-check-layer lie-fail",
            70,
            &["check yocto-check-layer meta-a", "check yocto-check-layer meta-b", "build hello (qemux86-64)"],
        ),
        (
            "bitbake-layers traceback",
            70,
            &[
                "check bitbake-layers show-layers",
                "check yocto-check-layer meta-a",
                "check yocto-check-layer meta-b",
                "build hello (qemux86-64)",
            ],
        ),
        (
            "no README",
            1,
            &[
                "check bitbake-layers show-layers",
                "check yocto-check-layer meta-a",
                "check yocto-check-layer meta-b",
                "build hello (qemux86-64)",
            ],
        ),
    ];
    for (behaviour, code, wanted) in table {
        let Some(sandbox) = builder(NAME) else { return };
        layers(&sandbox);
        match behaviour {
            "no README" => std::fs::remove_file(sandbox.layer().join("meta-a/README.md")).unwrap(),
            behaviour => sandbox.behaviour(behaviour),
        }
        sandbox.run().assert_code(&[code]);
        let units = units(&sandbox);
        let not_run: Vec<&str> = units
            .iter()
            .filter(|(name, outcome)| !name.starts_with("publish") && outcome.starts_with("not-run: "))
            .map(|(name, _)| name.as_str())
            .collect();
        assert_eq!(not_run, wanted, "{behaviour}: {units:?}");
    }
}

fn find(directory: &std::path::Path, name: &str) -> Option<std::path::PathBuf> {
    let mut left = vec![directory.to_path_buf()];
    while let Some(path) = left.pop() {
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            if entry.file_name() == name {
                return Some(entry.path());
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                left.push(entry.path());
            }
        }
    }
    None
}
