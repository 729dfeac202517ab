//! The line of metrics: where it is printed, and what a layer cannot do to it.

use build_agent_tests::{Ran, Sandbox};
use serde_json::Value;

const CODEBUILD: [(&str, &str); 3] = [
    ("CODEBUILD_BUILD_ID", "check-meta-tested:0f5d7e0c"),
    ("CODEBUILD_SOURCE_REPO_URL", "https://github.com/example/meta-tested.git"),
    ("CODEBUILD_SOURCE_VERSION", "pr/7"),
];

fn run(sandbox: &Sandbox, variables: &[(&str, &str)], words: &[&str]) -> Ran {
    let mut command = sandbox.run_command();
    command.args(words).envs(variables.iter().copied());
    sandbox.start(command).wait()
}

/// The lines that CloudWatch would take for metrics.
fn metrics(text: &str) -> Vec<Value> {
    let objects = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    objects.filter(|object| object.get("_aws").is_some()).collect()
}

#[test]
fn a_job_in_codebuild_prints_one_line_of_metrics() {
    let Some(sandbox) = Sandbox::new("a_job_in_codebuild_prints_one_line_of_metrics") else { return };
    let ran = run(&sandbox, &CODEBUILD, &[]);
    ran.assert_code(&[0]);
    let [line] = metrics(&ran.output()).try_into().unwrap();
    for (name, wanted) in [
        ("Project", "check-meta-tested"),
        ("Layer", "meta-tested"),
        ("Release", "scarthgap"),
        ("Trust", "untrusted"),
        ("Exit", "passed"),
    ] {
        assert_eq!(line[name], wanted, "{name}");
    }
    let result = sandbox.result();
    assert_eq!(line["Passed"], 1.0);
    assert_eq!(line["JobSeconds"], result["seconds"], "it agrees with the result");
    let check = result["stages"].as_array().unwrap().iter().find(|stage| stage["stage"] == "check").unwrap();
    assert_eq!(line["CheckSeconds"], check["seconds"]);
    assert_eq!(line["Job"], result["job"]["id"]);
}

#[test]
fn metrics_are_printed_by_request_and_not_among_the_events() {
    let Some(sandbox) = Sandbox::new("metrics_are_printed_by_request_and_not_among_the_events") else {
        return;
    };
    let asked = ("BUILD_AGENT_METRICS", "emf");
    let off: [(&str, &str); 4] = [CODEBUILD[0], CODEBUILD[1], CODEBUILD[2], ("BUILD_AGENT_METRICS", "off")];
    type Variables<'a> = &'a [(&'a str, &'a str)];
    let table: [(Variables, &[&str], usize, usize); 4] =
        [(&[], &[], 0, 0), (&off, &[], 0, 0), (&[asked], &[], 1, 0), (&[asked], &["--output", "json"], 0, 1)];
    for (variables, words, on_stdout, on_stderr) in table {
        let ran = run(&sandbox, variables, words);
        ran.assert_code(&[0]);
        let found = (metrics(&ran.stdout).len(), metrics(&ran.stderr).len());
        assert_eq!(found, (on_stdout, on_stderr), "{variables:?} {words:?}\n{}", ran.output());
    }
}

/// AWS bills a new metric for each new dimension value.
#[test]
fn a_pull_request_makes_no_metrics_of_its_own() {
    let Some(sandbox) = Sandbox::new("a_pull_request_makes_no_metrics_of_its_own") else { return };
    sandbox.change_manifest("name = \"meta-tested\"", "name = \"meta-evil-1\"");
    let line = r#"{"_aws":{"Timestamp":1,"CloudWatchMetrics":[{"Namespace":"BuildAgent","Dimensions":[[]],"Metrics":[{"Name":"Evil"}]}]},"Evil":1}"#;
    sandbox.behaviour(&format!("yocto-check-layer fail test_world\nbitbake-layers say {line}"));
    let ran = run(&sandbox, &CODEBUILD, &[]);
    let [own] = metrics(&ran.output()).try_into().expect("one line of metrics");
    assert_eq!(own["Layer"], "meta-tested");
    assert_eq!(own["Evil"], Value::Null);
    assert_eq!(own["Passed"], 0.0);
}
