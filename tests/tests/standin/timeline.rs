//! The times of tasks, the job's id, and the reports of the report stage.

use std::path::{Path, PathBuf};

use build_agent_tests::{Sandbox, json};
use nix::sys::signal::Signal;
use serde_json::Value;

fn events(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The event of a step of the report stage, with its outcome.
fn report_steps(events: &[Value], kind: &str) -> Vec<(String, String)> {
    let of_report = |event: &&Value| event["event"] == kind && event["unit"]["stage"] == "report";
    let words = |event: &Value| {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        (word(&event["unit"]["name"]), word(&event["outcome"]))
    };
    events.iter().filter(of_report).map(words).collect()
}

/// The limits in the documentation.
#[test]
fn a_world_of_40000_tasks_fits_into_the_limits() {
    const TASKS: usize = 40_000;
    let Some(sandbox) = Sandbox::new("a_world_of_40000_tasks_fits_into_the_limits") else { return };
    let text = sandbox.manifest_text().replace("yocto_check_layer = true", "yocto_check_layer = false");
    sandbox.write_manifest(&format!("{text}\n[build]\ntargets = [\"world\"]\n"));
    sandbox.behaviour(&format!("bitbake world {TASKS}"));
    let ran = sandbox.run();
    ran.assert_code(&[0]);
    let path = sandbox.out().join("result.json");
    let size = std::fs::metadata(&path).unwrap().len();
    println!("result.json: {size} bytes; agent: {} KiB", ran.peak_kib);
    assert!(size <= 10_000_000, "{size} bytes");
    assert!(ran.peak_kib <= 64 * 1024, "{} KiB", ran.peak_kib);
    let page = std::fs::metadata(sandbox.out().join("report.html")).unwrap().len();
    assert!(page <= 1_500_000, "report.html: {page} bytes");

    let result = json(&path);
    assert_eq!(result["totals"]["tasks"], TASKS);
    let timeline = &result["timeline"];
    assert_eq!(timeline["outcomes"], serde_json::json!([{"outcome": "passed"}]));
    assert_eq!(timeline["recipes"].as_array().unwrap().len(), TASKS / 10);
    let runs = timeline["runs"].as_array().unwrap();
    assert_eq!(runs.len(), TASKS);
    let unit = result["units"].as_array().unwrap().iter().position(|unit| unit["tasks"] == TASKS).unwrap();
    let all = (result["seconds"].as_f64().unwrap() * 1000.0).round() as u64;
    for run in runs {
        let [of, recipe, task, start, end, outcome] = run.as_array().unwrap().as_slice() else { panic!() };
        assert_eq!(of.as_u64(), Some(unit as u64));
        assert!(timeline["recipes"][recipe.as_u64().unwrap() as usize].is_string());
        assert!(timeline["tasks"][task.as_u64().unwrap() as usize].is_string());
        let (start, end) = (start.as_u64().unwrap(), end.as_u64().unwrap());
        assert!(start <= end && end <= all, "{run}");
        assert_eq!(outcome.as_u64(), Some(0));
    }
    // Each event has its job's id and its number.
    let events = events(&sandbox.out().join("events.jsonl"));
    assert!(events.iter().all(|event| event["job_id"] == result["job"]["id"]));
    assert!(events.is_sorted_by(|one, next| one["seq"].as_u64() < next["seq"].as_u64()));
    for kind in ["task-started", "task-finished"] {
        assert_eq!(events.iter().filter(|event| event["event"] == kind).count(), TASKS, "{kind}");
    }
    // The reports can be rebuilt from them.
    let read = |name: &str| std::fs::read(sandbox.out().join(name)).unwrap();
    let before = ["result.json", "junit.xml", "report.html"].map(read);
    sandbox.call([Path::new("report"), &sandbox.out().join("events.jsonl")]).assert_code(&[0]);
    assert!(before == ["result.json", "junit.xml", "report.html"].map(read), "they differ");
}

/// A task that was running when BitBake was stopped has a start, no end, and the outcome of the stop.
#[test]
fn a_task_that_was_stopped_has_no_end() {
    let Some(sandbox) = Sandbox::new("a_task_that_was_stopped_has_no_end") else { return };
    let text = sandbox.manifest_text().replace("yocto_check_layer = true", "yocto_check_layer = false");
    sandbox.write_manifest(&format!("{text}\n[build]\ntargets = [\"hello\"]\n"));
    sandbox.behaviour("bitbake slow 20000");
    let mut running = sandbox.start(sandbox.run_command());
    sandbox.wait_for_log(&mut running, "task do_fetch: Started");
    running.signal(Signal::SIGTERM);
    running.wait().assert_code(&[130]);
    let timeline = &sandbox.result()["timeline"];
    let [run] = timeline["runs"].as_array().unwrap().as_slice() else { panic!("{timeline}") };
    assert!(run[3].is_u64() && run[4].is_null(), "{timeline}");
    assert_eq!(timeline["outcomes"][run[5].as_u64().unwrap() as usize]["outcome"], "cancelled");
}

/// Something else is at the path of a report: the other reports are made, and the job does not pass.
#[test]
fn a_job_that_loses_a_report_does_not_pass() {
    for lost in ["junit.xml", "result.json"] {
        let Some(sandbox) = Sandbox::new("a_job_that_loses_a_report_does_not_pass") else { return };
        sandbox.behaviour("yocto-check-layer slow 300");
        let mut running = sandbox.start(sandbox.run_command());
        sandbox.wait_for_log(&mut running, "Detected layers");
        std::fs::create_dir(sandbox.out().join(format!("{lost}.new"))).unwrap();
        let ran = running.wait();
        ran.assert_code(&[3]);
        ran.assert_says(&[lost, "a report of this job is missing"]);
        let events = events(&sandbox.out().join("events.jsonl"));
        let ends = report_steps(&events, "unit-finished");
        let starts: Vec<String> =
            report_steps(&events, "unit-started").into_iter().map(|(name, _)| name).collect();
        assert_eq!(starts, ["events.jsonl", "the console", "junit.xml", "report.html", "result.json"]);
        for (name, outcome) in ends {
            assert_eq!(outcome, if name == lost { "not-run" } else { "passed" }, "{name}");
        }
        let end = events.last().unwrap();
        assert_eq!(
            (&end["event"], &end["exit"], &end["outcome"]),
            (&"job-finished".into(), &"machine".into(), &"passed".into())
        );
        let result = sandbox.result();
        if lost == "junit.xml" {
            assert_eq!((&result["outcome"], &result["exit"]), (&"passed".into(), &"machine".into()));
            assert_eq!(result["errors"][0]["stage"], "report");
        } else {
            // The content that the job wrote at its start.
            assert_eq!((&result["outcome"], &result["complete"]), (&"not-run".into(), &false.into()));
            let junit = std::fs::read_to_string(sandbox.out().join("junit.xml")).unwrap();
            assert!(!junit.contains("the job has not ended"), "{junit}");
        }
    }
}

/// The events of two jobs in one file, sorted by time as a log service does it.
#[test]
fn merged_events_of_two_jobs_produce_both_reports() {
    let Some(sandbox) = Sandbox::new("merged_events_of_two_jobs_produce_both_reports") else { return };
    let start = |number: u32| {
        let mut command = sandbox.command(["run"]);
        command.arg(sandbox.manifest());
        command.arg("--work-dir").arg(sandbox.path().join(format!("work-{number}")));
        command.arg("--out").arg(out(&sandbox, number));
        sandbox.start(command)
    };
    sandbox.behaviour("yocto-check-layer slow 50");
    let (first, second) = (start(1), start(2));
    first.wait().assert_code(&[0]);
    second.wait().assert_code(&[0]);
    let mut merged: Vec<Value> =
        [1, 2].iter().flat_map(|number| events(&out(&sandbox, *number).join("events.jsonl"))).collect();
    merged.sort_by_key(|event| event["time"].to_string());
    let path = sandbox.path().join("merged.jsonl");
    let lines: String = merged.iter().map(|event| format!("{event}\n")).collect();
    std::fs::write(&path, lines).unwrap();

    let report = |words: &[&str]| {
        let mut command = sandbox.command(["report"]);
        command.arg(&path).args(words);
        sandbox.start(command).wait()
    };
    let ids = [1, 2].map(|number| json(&out(&sandbox, number).join("result.json"))["job"]["id"].clone());
    assert_ne!(ids[0], ids[1]);
    let ran = report(&[]);
    ran.assert_code(&[2]);
    ran.assert_says(&["choose one: --job", ids[0].as_str().unwrap(), ids[1].as_str().unwrap()]);
    for number in [1, 2] {
        let id = ids[number as usize - 1].as_str().unwrap();
        let again = sandbox.path().join(format!("again-{number}"));
        report(&["--job", id, "--out", &again.display().to_string()]).assert_code(&[0]);
        for name in ["result.json", "junit.xml"] {
            let read = |directory: &Path| std::fs::read_to_string(directory.join(name)).unwrap();
            assert_eq!(read(&again), read(&out(&sandbox, number)), "{name} of {number}");
        }
    }
    report(&["--job", "another"]).assert_code(&[2]);
}

fn out(sandbox: &Sandbox, number: u32) -> PathBuf {
    sandbox.path().join(format!("out-{number}"))
}
