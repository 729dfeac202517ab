//! A lab host with a directory as its store: submits requests as files, and reads what became of them.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use build_agent_tests::{Ran, Running, json, survivors};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use build_agent_tests::guest;

/// A lab host; what it left running is ended when the value is dropped.
pub struct LabHost {
    directory: tempfile::TempDir,
}

/// What became of a request.
pub struct Verdict {
    /// `verdict.json`.
    pub verdict: Value,
    /// The attempt's `result.json`.
    pub result: Value,
    /// The attempt's reports.
    pub reports: PathBuf,
}

impl LabHost {
    pub fn new() -> LabHost {
        let directory = tempfile::tempdir().unwrap();
        // The build user starts guests there.
        let anyone = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(directory.path(), anyone).unwrap();
        std::fs::create_dir(directory.path().join("store")).unwrap();
        LabHost { directory }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Writes lab.toml with these devices.
    pub fn write_lab(&self, devices: &str) {
        let text = format!(
            "version = 1\nname = \"lab\"\nstore = \"store\"\nstate = \"state\"\n\
             [limits]\nlease = \"10s\"\npoll = \"200ms\"\nboot = \"100s\"\nconsole = \"1MiB\"\nattempts = 2\n{devices}"
        );
        std::fs::write(self.path().join("lab.toml"), text).unwrap();
    }

    /// Changes the limit for booting.
    pub fn limit_boot(&self, limit: &str) {
        let file = self.path().join("lab.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(file, text.replace("boot = \"100s\"", &format!("boot = \"{limit}\""))).unwrap();
    }

    /// The program `build-agent` with this lab's directory.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = build_agent_tests::agent();
        command.current_dir(self.path()).args(words);
        command
    }

    pub fn serve(&self) -> Running {
        Running::start(self.command(&["lab", "serve", "lab.toml"]), self.path())
    }

    /// Puts a request into the store.
    pub fn submit(&self, id: &str, images: &[PathBuf], changes: &Value) {
        let store = self.path().join("store/devices/v1");
        let files: Vec<Value> = images
            .iter()
            .map(|file| {
                let bytes = std::fs::read(file).unwrap();
                let sha256: String =
                    Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
                std::fs::create_dir_all(store.join("files")).unwrap();
                std::fs::write(store.join("files").join(&sha256), &bytes).unwrap();
                let name = file.file_name().unwrap().to_str().unwrap();
                json!({ "role": "image", "name": name, "bytes": bytes.len(), "sha256": sha256 })
            })
            .collect();
        let mut request = json!({
            "schema": "build-agent/device-request/v1",
            "id": id,
            "created": "2026-01-01T00:00:00Z",
            "job": { "name": "meta-x", "release": "scarthgap", "build": "1", "layer": "/layer", "manifest": "build-agent.toml" },
            "trust": "trusted",
            "pool": "boards",
            "machine": "qemux86-64",
            "image": guest::IMAGE,
            "tests": ["commands"],
            "commands": ["uname -a"],
            "files": files,
            "queue_limit": 600,
            "run_limit": 600,
            "required": true,
        });
        for (key, value) in changes.as_object().into_iter().flatten() {
            request[key] = value.clone();
        }
        let directory = store.join("requests").join(id);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("request.json"), request.to_string()).unwrap();
        // Labs look for requests here.
        std::fs::create_dir_all(store.join("open")).unwrap();
        std::fs::write(store.join("open").join(id), "").unwrap();
    }

    fn request(&self, id: &str) -> PathBuf {
        self.path().join("store/devices/v1/requests").join(id)
    }

    /// Waits for the verdict on the request.
    pub fn verdict(&self, lab: &mut Running, id: &str) -> Verdict {
        let file = self.request(id).join("verdict.json");
        lab.wait_until(&format!("the verdict on {id}"), || file.exists());
        let verdict = json(&file);
        let attempt = verdict["attempt"].as_u64().unwrap_or(1);
        Verdict { verdict, ..self.attempt(lab, id, attempt) }
    }

    /// Waits for the reports of an attempt that led to no verdict.
    pub fn attempt(&self, lab: &mut Running, id: &str, number: u64) -> Verdict {
        let reports = self.request(id).join("reports").join(number.to_string());
        let file = reports.join("result.json");
        lab.wait_until(&format!("the reports of {id}"), || file.exists());
        Verdict { verdict: Value::Null, result: json(&file), reports }
    }

    pub fn has_verdict(&self, id: &str) -> bool {
        self.request(id).join("verdict.json").exists()
    }

    /// Ends the lab, and fails if something of it still runs.
    pub fn stop(&self, lab: Running) -> Ran {
        lab.signal(Signal::SIGTERM);
        let ran = lab.wait_for(Duration::from_secs(120));
        let state = self.path().join("state");
        let left = survivors(&state);
        assert!(left.is_empty(), "{left:?}\n{}", ran.output());
        ran
    }
}

impl Verdict {
    /// Fails unless the unit has this outcome, with these words in its reason.
    #[track_caller]
    pub fn assert_unit(&self, unit: &str, outcome: &str, reason: &str) {
        let units = self.result["units"].as_array().unwrap();
        let Some(found) = units.iter().find(|found| found["name"] == unit) else {
            panic!("no unit {unit} in {:#}", self.result)
        };
        let why = found["reason"].as_str().unwrap_or_default();
        assert_eq!(found["outcome"], outcome, "{unit}: {found:#}");
        assert!(why.contains(reason), "{unit}: {reason:?} not in {why:?}");
    }

    /// The excerpt of a unit.
    pub fn excerpt(&self, unit: &str) -> String {
        let units = self.result["units"].as_array().unwrap();
        let unit = units.iter().find(|found| found["name"] == unit).unwrap();
        let lines = unit["excerpt"].as_array().cloned().unwrap_or_default();
        lines.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n")
    }

    /// The log of the device's console.
    pub fn console(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(self.reports.join("logs/console.log")).unwrap()).into_owned()
    }
}
