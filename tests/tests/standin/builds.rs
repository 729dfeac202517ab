//! Builds and what they publish.

use build_agent_tests::{Sandbox, commit, json};
use serde_json::Value;

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

/// The events of a job, as `--output json` prints them.
fn told(sandbox: &Sandbox) -> Vec<Value> {
    let mut command = sandbox.run_command();
    command.args(["--output", "json"]);
    let ran = sandbox.start(command).wait();
    let lines = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

fn of_kind<'a>(events: &'a [Value], kind: &str) -> Vec<&'a Value> {
    events.iter().filter(|event| event["event"] == kind).collect()
}

/// Phase, done and total of each progress event.
fn progress(events: &[Value]) -> Vec<(String, u64, u64)> {
    let build = of_kind(events, "progress").into_iter().filter(|event| event["unit"]["stage"] == "build");
    let number = |value: &Value| value.as_u64().unwrap();
    build
        .map(|event| {
            (event["phase"].as_str().unwrap().into(), number(&event["done"]), number(&event["total"]))
        })
        .collect()
}

/// The tasks that ended, each with its outcome.
fn ended(events: &[Value]) -> Vec<(String, String)> {
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    of_kind(events, "task-finished")
        .iter()
        .map(|event| (word(&event["task"]), word(&event["outcome"])))
        .collect()
}

fn notices<'a>(events: &'a [Value], words: &str) -> Vec<&'a str> {
    let messages = of_kind(events, "notice").into_iter().filter_map(|event| event["message"].as_str());
    messages.filter(|message| message.contains(words)).collect()
}

#[test]
fn bitbakes_own_events_tell_how_far_a_build_is() {
    let Some(sandbox) = builder("bitbakes_own_events_tell_how_far_a_build_is") else { return };
    let passed = |task: &str| (task.to_owned(), "passed".to_owned());
    let all = [passed("do_fetch"), passed("do_compile"), passed("do_deploy")];
    let events = told(&sandbox);
    assert_eq!(sandbox.result()["outcome"], "passed");
    assert_eq!(ended(&events), all);
    let started: Vec<&Value> = of_kind(&events, "task-started").iter().map(|event| &event["task"]).collect();
    assert_eq!(started, ["do_fetch", "do_compile", "do_deploy"]);
    assert!(notices(&events, "events cannot be read").is_empty());
    let all_progress = progress(&events);
    // Progress is a sample: a short phase may lie between two of them.
    assert!(
        all_progress.iter().all(|(phase, _, total)| phase != "parsing" || *total == 7),
        "{all_progress:?}"
    );
    assert_eq!(all_progress.last(), Some(&("tasks".to_owned(), 3, 3)));
    // Nothing of it is kept.
    assert!(!std::fs::read_to_string(sandbox.out().join("events.jsonl")).unwrap().contains("\"progress\""));
    // The console of BitBake knows nothing of it.
    assert!(!sandbox.logs().contains("Unknown event"));

    sandbox.behaviour("bitbake fail do_compile");
    let events = told(&sandbox);
    assert_eq!(ended(&events), [passed("do_fetch"), ("do_compile".into(), "failed".into())]);
    let result = sandbox.result();
    assert_eq!(result["outcome"], "failed");
    let failed = result["failed_tasks"].as_array().unwrap();
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert_eq!((&failed[0]["recipe"], &failed[0]["task"]), (&"hello-1.0-r0".into(), &"do_compile".into()));
    assert!(failed[0]["log"].is_string(), "the log is found: {}", failed[0]);
}

/// Layer code can fire events as well.
#[test]
fn events_that_layer_code_makes_up_decide_nothing() {
    let Some(sandbox) = builder("events_that_layer_code_makes_up_decide_nothing") else { return };
    let log = |sandbox: &Sandbox| {
        let log = std::fs::read_to_string(sandbox.out().join("logs/build-qemux86-64.log")).unwrap();
        log.replace(|char: char| char.is_ascii_digit(), "0")
    };
    sandbox.run().assert_code(&[0]);
    let plain = log(&sandbox);
    sandbox.behaviour("bitbake fake-events");
    let ran = sandbox.run();
    ran.assert_code(&[0]);
    assert!(!ran.output().contains('\u{1b}'), "{}", ran.output());
    let result = sandbox.result();
    assert_eq!(result["outcome"], "passed");
    assert_eq!(result["failed_tasks"], serde_json::json!([]));
    assert_eq!(log(&sandbox), plain);
}

/// The old way: from what BitBake prints.
#[test]
fn without_events_the_output_tells_of_the_tasks() {
    let Some(sandbox) = builder("without_events_the_output_tells_of_the_tasks") else { return };
    let console = sandbox.upstream().join("bitbake/lib/bb/ui/knotty.py");
    let text = std::fs::read_to_string(&console).unwrap();
    std::fs::write(
        &console,
        text.replace("def main(server, eventHandler, params", "def main(server, queue, params"),
    )
    .unwrap();
    let text = std::fs::read_to_string(&console).unwrap();
    std::fs::write(&console, text.replace("eventHandler.", "queue.")).unwrap();
    commit(&sandbox.upstream(), "Another console");
    let events = told(&sandbox);
    assert_eq!(sandbox.result()["outcome"], "passed");
    assert_eq!(ended(&events).len(), 3);
    assert_eq!(notices(&events, "events cannot be read").len(), 1, "{events:?}");
    assert_eq!(progress(&events).last().map(|(phase, ..)| phase.as_str()), Some("tasks"));
}

/// Unit and outcome with its reason, in the order of the reports.
fn units(sandbox: &Sandbox) -> Vec<(String, String)> {
    let result = sandbox.result();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
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
