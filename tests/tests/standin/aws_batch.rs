//! The jobs of cloudformation/aws_batch.yml, each as a process: its commands with the real agent and real git. Their order is
//! that of the state machine, which tests/cloudformation/aws_batch_test.py checks.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use build_agent_tests::{Ran, Sandbox, agent, commit, git, json, repository};
use serde_json::Value;

/// The commands of the job, as the template has them.
fn commands() -> String {
    let template = std::fs::read_to_string(repository().join("cloudformation/aws_batch.yml")).unwrap();
    let (_, after) =
        template.split_once("          - /bin/bash\n          - -c\n          - |\n").expect("the job");
    let lines = after.lines().take_while(|line| line.is_empty() || line.starts_with("            "));
    lines.map(|line| line.strip_prefix("            ").unwrap_or_default().to_owned() + "\n").collect()
}

/// A queue of AWS Batch that runs a job at once.
struct Jobs {
    sandbox: Sandbox,
    input: Value,
}

impl Jobs {
    fn new(test: &str) -> Option<Jobs> {
        let sandbox = Sandbox::new(test)?;
        let text = sandbox.manifest_text().replace("yocto_check_layer = true", "yocto_check_layer = false");
        sandbox.write_manifest(&(text + "\n[matrix]\nmachine = [\"board-a\", \"board-b\"]\n"));
        commit(&sandbox.layer(), "Add the manifest");
        for directory in ["bin", "share"] {
            std::fs::create_dir(sandbox.path().join(directory)).unwrap();
        }
        symlink(agent().get_program(), sandbox.path().join("bin/build-agent")).unwrap();
        let printed = sandbox.start(sandbox.command(["batch", "--print-jobs"])).wait();
        printed.assert_code(&[0]);
        let input = serde_json::from_str(&printed.stdout).expect("JSON");
        Some(Jobs { sandbox, input })
    }

    /// The command of a job. Its directories are those of this test.
    fn job(&self, step: &str, cell: Option<&str>) -> Command {
        let here = |path: &Path| path.to_str().unwrap().to_owned();
        let place = self.sandbox.path().join(cell.unwrap_or(step));
        let script = commands()
            .replace("https://github.com/$REPOSITORY.git", &here(&self.sandbox.layer()))
            .replace("/tmp/checkout", &here(&place.join("checkout")))
            .replace("/tmp/build-agent-out", &here(&place.join("out")));
        let mut command = Command::new("bash");
        command.args(["-c", &script]).env("BUILD_AGENT_WORK_DIR", place.join("work"));
        let path = format!("{}:{}", here(&self.sandbox.path().join("bin")), std::env::var("PATH").unwrap());
        let name = here(Path::new(self.sandbox.layer().file_name().unwrap()));
        command.envs([
            ("PATH", path.as_str()),
            ("CI", "true"),
            ("KIND", "builds"),
            ("REPOSITORY", &format!("example/{name}")),
            ("BRANCHES", "main"),
            ("MANIFEST", "build-agent.toml"),
            ("DESTINATION", &here(&self.sandbox.artifacts())),
            ("SHARE", &here(&self.sandbox.path().join("share"))),
            ("STEP", step),
            ("CELL", cell.unwrap_or_default()),
            ("AWS_BATCH_JOB_ID", &format!("job-{}", cell.unwrap_or(step))),
            ("AWS_BATCH_JOB_ATTEMPT", "1"),
        ]);
        for (variable, key) in
            [("BATCH", "batch"), ("COMMIT", "commit"), ("BASE", "base"), ("PULL_REQUEST", "pull_request")]
        {
            command.env(variable, self.input[key].as_str().unwrap());
        }
        command
    }

    fn run(&self, step: &str, cell: Option<&str>) -> Ran {
        self.sandbox.start(self.job(step, cell)).wait()
    }

    fn merged(&self) -> Vec<(String, String)> {
        let all = json(&self.sandbox.path().join("merge/out/results.json"))["jobs"].clone();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        all.as_array().unwrap().iter().map(|job| (text(&job["job"]["cell"]), text(&job["outcome"]))).collect()
    }
}

fn outcomes(all: [&str; 2]) -> Vec<(String, String)> {
    ["board_a", "board_b"]
        .iter()
        .zip(all)
        .map(|(cell, outcome)| ((*cell).to_owned(), outcome.to_owned()))
        .collect()
}

#[test]
fn the_jobs_of_aws_batch_make_one_result() {
    let Some(jobs) = Jobs::new("the_jobs_of_aws_batch_make_one_result") else { return };
    assert_eq!(
        jobs.input["commit"].as_str().unwrap(),
        git(&jobs.sandbox.layer(), ["rev-parse", "HEAD"]).trim()
    );
    let cells: Vec<String> = jobs.input["cells"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cell| cell["id"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(cells, ["board_a", "board_b"]);
    // A cell before `warm` has no pins, and a batch with a cell that did not run is red.
    jobs.run("cell", Some("board_a")).assert_code(&[4]);
    jobs.run("warm", None).assert_code(&[0]);
    jobs.run("cell", Some("board_a")).assert_code(&[0]);
    let lost = jobs.run("merge", None);
    assert_ne!(lost.code, Some(0), "{}", lost.output());
    assert_eq!(jobs.merged(), outcomes(["passed", "not-run"]));
    jobs.run("cell", Some("board_b")).assert_code(&[0]);
    jobs.run("merge", None).assert_code(&[0]);
    assert_eq!(jobs.merged(), outcomes(["passed", "passed"]));
    jobs.sandbox.assert_nothing_runs();
}
