//! The flight recorder: what is known of the machine after a kill, and what tasks used.

use build_agent_tests::{Ran, Running, Sandbox, json};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::leftovers::look_for;

const DIED: &str = "the last attempt of this job died at about";

fn killed(sandbox: &Sandbox) {
    sandbox.behaviour("yocto-check-layer hang");
    let mut running = sandbox.start(sandbox.run_command());
    sandbox.wait_for_log(&mut running, "hanging");
    // The first sample comes after the events of the beginning.
    running.wait_until("a sample", || look_for(sandbox, "flight-recorder.jsonl").is_some_and(has_sample));
    kill(running);
    sandbox.behaviour("yocto-check-layer pass");
}

fn has_sample(path: std::path::PathBuf) -> bool {
    std::fs::read_to_string(path).is_ok_and(|text| text.contains("\"memory_used\""))
}

fn kill(running: Running) {
    running.signal(Signal::SIGKILL);
    assert_eq!(running.wait().signal, Some(9), "the kill came after the end");
}

fn report(sandbox: &Sandbox) -> Ran {
    let mut command = sandbox.command(["report"]);
    command.arg(sandbox.out().join("events.jsonl")).env("BUILD_AGENT_WORK_DIR", sandbox.work());
    sandbox.start(command).wait()
}

#[test]
fn the_next_job_says_how_the_last_one_died() {
    let Some(sandbox) = Sandbox::new("the_next_job_says_how_the_last_one_died") else { return };
    killed(&sandbox);
    let ran = sandbox.run();
    ran.assert_code(&[0]);
    ran.assert_says(&[DIED, " UTC with ", " of memory used, most of it by "]);
    let notices = sandbox.result()["notices"].clone();
    let reported: Vec<&Value> = notices.as_array().unwrap().iter().filter(|it| says(it, DIED)).collect();
    assert_eq!(reported.len(), 1, "{notices}");
    assert!(reported[0]["hint"].is_string(), "{notices}");
    // A job that ended by itself did not die, also if it failed.
    sandbox.behaviour("yocto-check-layer fail test_world");
    let ran = sandbox.run();
    ran.assert_code(&[1]);
    assert!(!ran.output().contains(DIED), "{}", ran.output());
    assert!(!sandbox.run().output().contains(DIED));
}

fn says(notice: &Value, words: &str) -> bool {
    notice["message"].as_str().is_some_and(|message| message.contains(words))
}

#[test]
fn a_report_after_a_kill_has_the_last_sample_also_without_the_output_directory() {
    const NAME: &str = "a_report_after_a_kill_has_the_last_sample_also_without_the_output_directory";
    let Some(sandbox) = Sandbox::new(NAME) else { return };
    killed(&sandbox);
    // The samples did not become events: the agent had no time for it.
    let events = sandbox.out().join("events.jsonl");
    let text = std::fs::read_to_string(&events).unwrap();
    let kept = text.lines().filter(|line| !line.contains("machine-sample"));
    std::fs::write(&events, kept.map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    let ring = look_for(&sandbox, "flight-recorder.jsonl").unwrap();
    move_into_the_future(&ring);
    report(&sandbox).assert_code(&[70]);
    let result = sandbox.result();
    let reason = result["reason"].as_str().unwrap();
    assert!(reason.contains("the agent was killed") && reason.contains(" of memory used"), "{reason}");
    assert!(result["machine"].as_array().is_some_and(|samples| !samples.is_empty()), "{}", result["machine"]);

    std::fs::remove_dir_all(sandbox.out()).unwrap();
    let ran = report(&sandbox);
    ran.assert_code(&[2]);
    ran.assert_says(&["does not exist", "the flight recorder knows", DIED]);
}

/// Gives the samples a time after all events.
fn move_into_the_future(ring: &std::path::Path) {
    let text = std::fs::read_to_string(ring).unwrap();
    let moved = text.lines().map(|line| match line.split_once("\"time\":\"") {
        Some((before, after)) => format!("{before}\"time\":\"2099{}\n", after.get(4..).unwrap()),
        None => format!("{line}\n"),
    });
    std::fs::write(ring, moved.collect::<String>()).unwrap();
}

#[test]
fn a_build_has_samples_and_what_its_tasks_used_and_waited_for() {
    const NAME: &str = "a_build_has_samples_and_what_its_tasks_used_and_waited_for";
    let Some(sandbox) = Sandbox::new(NAME) else { return };
    let text = sandbox.manifest_text().replace("yocto_check_layer = true", "yocto_check_layer = false");
    sandbox.write_manifest(&format!("{text}\n[build]\ntargets = [\"hello\"]\n"));
    sandbox.run().assert_code(&[0]);
    let result = sandbox.result();
    let samples = result["machine"].as_array().unwrap();
    assert!(samples.len() >= 2, "the first and the last one: {samples:?}");
    for sample in samples {
        let number = |key: &str| sample[key].as_f64().unwrap_or_else(|| panic!("{key} in {sample}"));
        assert!(number("memory_used") > 0.0 && number("memory_used") <= number("memory_limit"), "{sample}");
        assert!((0.0..=100.0).contains(&number("cpu_percent")) && number("disk_free") > 0.0, "{sample}");
        assert!(sample["largest"][0]["name"].is_string(), "{sample}");
    }
    let unit = result["units"].as_array().unwrap().iter().position(|unit| unit["stage"] == "build").unwrap();
    let usage = |task: &str| {
        json!({
            "recipe": "hello-1.0-r0", "task": task, "cpu_seconds": 4.5, "peak_memory": 70_000 * 1024,
            "bytes_read": 4096, "bytes_written": 8192,
        })
    };
    let [used] = result["task_usage"].as_array().unwrap().as_slice() else {
        panic!("{}", result["task_usage"])
    };
    assert_eq!(used["unit"], unit);
    let mut tasks = used["tasks"].as_array().unwrap().clone();
    tasks.sort_by_key(|task| task["task"].as_str().map(str::to_owned));
    assert_eq!(tasks, ["do_compile", "do_deploy", "do_fetch"].map(usage));
    assert_eq!(result["timeline"]["after"], json!([null, 0, 1]));
    // It comes back from the events.
    let before = std::fs::read(sandbox.out().join("result.json")).unwrap();
    report(&sandbox).assert_code(&[0]);
    assert_eq!(std::fs::read(sandbox.out().join("result.json")).unwrap(), before);
    assert_eq!(json(&sandbox.out().join("result.json")), result);
}

/// CodeBuild does not say its compute type: what is known of the price is in each report.
#[test]
fn a_job_with_a_price_has_a_cost_line_in_every_report() {
    let Some(sandbox) = Sandbox::new("a_job_with_a_price_has_a_cost_line_in_every_report") else { return };
    let summary = sandbox.path().join("summary.md");
    std::fs::write(&summary, "").unwrap();
    let run = |variables: &[(&str, &str)]| {
        let mut command = sandbox.run_command();
        command.envs(variables.iter().copied()).env("GITHUB_STEP_SUMMARY", &summary);
        sandbox.start(command).wait()
    };
    let ran = run(&[("BUILD_AGENT_USD_PER_MINUTE", "0.05"), ("BUILD_AGENT_METRICS", "emf")]);
    ran.assert_code(&[0]);
    let wanted = "0.05 USD: 1 minute of this machine 0.05 USD";
    ran.assert_says(&[&format!("cost       {wanted}")]);
    let cost = sandbox.result()["cost"].clone();
    assert_eq!((&cost["usd"], &cost["minutes"]), (&json!(0.05), &json!(1)), "{cost}");
    assert_eq!(cost["source"], "variable BUILD_AGENT_USD_PER_MINUTE");
    let junit = std::fs::read_to_string(sandbox.out().join("junit.xml")).unwrap();
    assert!(junit.contains(&format!("name=\"cost\" value=\"{wanted}\"")), "{junit}");
    assert!(ran.output().contains("\"JobUsd\":0.05"), "{}", ran.output());
    // The same again from the events, on a machine without a price.
    let before = std::fs::read(sandbox.out().join("result.json")).unwrap();
    report(&sandbox).assert_code(&[0]);
    assert_eq!(std::fs::read(sandbox.out().join("result.json")).unwrap(), before);

    let ran = run(&[("BUILD_AGENT_USD_PER_MINUTE", "cheap")]);
    ran.assert_code(&[0]);
    ran.assert_says(&["BUILD_AGENT_USD_PER_MINUTE is ignored"]);
    assert_eq!(sandbox.result()["cost"], Value::Null);
    assert!(!ran.output().contains("cost       "), "{}", ran.output());
}
