//! A stand-in of CodeBuild's batches (`tests/stand-ins/codebuild/server.py`), whose builds are processes of this machine.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::stand_in::StandIn;
use crate::{Sandbox, agent, processes};

/// The name of its only project.
pub const PROJECT: &str = "meta-tested-batch";

/// The server; stopped with all its builds when the value is dropped.
pub struct CodeBuild {
    server: StandIn,
    directory: PathBuf,
}

impl CodeBuild {
    /// Serves builds of the sandbox's layer. `more` adds to the configuration: `faults`, `environment` …
    pub fn start(sandbox: &Sandbox, more: &Value) -> CodeBuild {
        let directory = sandbox.path().join("codebuild");
        let bin = directory.join("bin");
        std::fs::create_dir_all(&bin).expect("a directory");
        std::os::unix::fs::symlink(agent().get_program(), bin.join("build-agent")).expect("a link");
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&directory, open).expect("a readable directory");
        let config = json!({
            "project": {
                "name": PROJECT,
                "environment": { "computeType": "BUILD_GENERAL1_LARGE" },
                "buildBatchConfig": { "serviceRole": "arn:aws:iam::123456789012:role/batch" },
            },
            "source": sandbox.layer(),
            "store": sandbox.artifacts(),
            "path": [bin],
        });
        let server = StandIn::start(python(), "codebuild", &directory, config, more);
        CodeBuild { server, directory }
    }

    /// Gives a command of the agent the address of this server and keys.
    pub fn configure(&self, command: &mut Command) {
        command.envs([
            ("AWS_ENDPOINT_URL_CODEBUILD", format!("http://127.0.0.1:{}", self.server.port).as_str()),
            ("AWS_REGION", "eu-west-1"),
            ("AWS_ACCESS_KEY_ID", "AKIATEST"),
            ("AWS_SECRET_ACCESS_KEY", "secret-of-tests"),
        ]);
    }

    /// All batches as BatchGetBuildBatches returns them, and all requests.
    pub fn state(&self) -> Value {
        serde_json::from_str(&self.server.request("GET", "/_state", "")).expect("JSON")
    }

    /// How often an operation was called.
    pub fn calls(&self, operation: &str) -> usize {
        let state = self.state();
        let requests = state["requests"].as_array().expect("a list").iter();
        requests.filter(|request| request["operation"] == operation).count()
    }

    /// Refuses so many of the next requests.
    pub fn throttle(&self, times: u32) {
        self.server.request("POST", "/_throttle", &json!({ "times": times, "drop": false }).to_string());
    }

    /// Closes the connections of so many of the next requests.
    pub fn disconnect(&self, times: u32) {
        self.server.request("POST", "/_throttle", &json!({ "times": times, "drop": true }).to_string());
    }

    /// Runs the failed builds of a batch again.
    pub fn retry(&self, batch: &str) {
        self.server.request("POST", "/_retry", &json!({ "id": batch }).to_string());
    }

    /// Waits until a batch has ended, and returns it.
    pub fn wait(&self, batch: &str) -> Value {
        let deadline = Instant::now() + Duration::from_secs(180);
        loop {
            let state = self.state();
            let mut batches = state["batches"].as_array().expect("a list").iter();
            let found = batches.find(|known| known["id"] == batch).expect("the batch");
            if found["buildBatchStatus"] != "IN_PROGRESS" {
                return found.clone();
            }
            assert!(Instant::now() < deadline, "{batch} does not end: {found}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The output of all builds, for messages.
    pub fn logs(&self) -> String {
        let builds = std::fs::read_dir(self.directory.join("builds")).into_iter().flatten().flatten();
        let log =
            |path: PathBuf| String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
        builds.map(|build| log(build.path().join("log"))).collect()
    }
}

impl Drop for CodeBuild {
    fn drop(&mut self) {
        let _ = kill(Pid::from_raw(self.server.child.id() as i32), Signal::SIGTERM);
        let _ = self.server.child.wait();
        processes::end_all(&self.directory);
    }
}

/// A Python that has PyYAML, with which the stand-in reads buildspecs.
fn python() -> PathBuf {
    let venv = std::env::var_os("BUILD_AGENT_TEST_VENV").map(|venv| Path::new(&venv).join("bin/python3"));
    venv.filter(|python| python.is_file()).unwrap_or_else(|| "python3".into())
}

/// Why the stand-in cannot run.
pub fn unmet_by_codebuild() -> Option<String> {
    let ran = Command::new(python()).args(["-c", "import yaml"]).stderr(Stdio::null()).status();
    let has_yaml = ran.is_ok_and(|status| status.success());
    (!has_yaml).then(|| "no PyYAML for the stand-in of CodeBuild (pip install PyYAML)".to_owned())
}
