//! A store, labs that serve it, and requests.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use build_agent_tests::fake_s3::FakeS3;
use build_agent_tests::{Ran, Running, SeaweedFs, agent};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::devices::Devices;

/// For anything that must happen some time; other tests use the machine as well.
pub const LONG: Duration = Duration::from_secs(240);

/// Where requests and results are.
pub enum Store {
    Directory(PathBuf),
    /// A server with faults.
    S3(FakeS3),
    /// A real server.
    Weed(SeaweedFs),
}

/// Which store a test uses.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Directory,
    S3,
    Weed,
}

const TOP: &str = "devices/v1";

impl Store {
    /// As lab.toml and the command line name it.
    pub fn address(&self) -> String {
        match self {
            Store::Directory(path) => path.display().to_string(),
            Store::S3(_) | Store::Weed(_) => "s3://bucket/builds".into(),
        }
    }

    fn configure(&self, command: &mut Command) {
        match self {
            Store::Directory(_) => {}
            Store::S3(server) => server.configure(command),
            Store::Weed(server) => server.configure(command),
        }
    }

    pub fn put(&self, path: &str, content: &[u8]) {
        match self {
            Store::Directory(root) => {
                let file = root.join(TOP).join(path);
                std::fs::create_dir_all(file.parent().unwrap()).unwrap();
                std::fs::write(file, content).unwrap();
            }
            Store::S3(server) => server.put(&format!("builds/{TOP}/{path}"), content),
            Store::Weed(server) => server.put("bucket", &format!("builds/{TOP}/{path}"), content),
        }
    }

    pub fn get(&self, path: &str) -> Option<Vec<u8>> {
        match self {
            Store::Directory(root) => std::fs::read(root.join(TOP).join(path)).ok(),
            Store::S3(server) => server.object(&format!("builds/{TOP}/{path}")),
            Store::Weed(server) => server.get("bucket", &format!("builds/{TOP}/{path}")),
        }
    }

    pub fn json(&self, path: &str) -> Option<Value> {
        let content = self.get(path)?;
        Some(serde_json::from_slice(&content).unwrap_or_else(|error| panic!("{path}: {error}")))
    }

    /// The names directly below a path.
    pub fn names(&self, path: &str) -> Vec<String> {
        match self {
            Store::Directory(root) => {
                let entries = std::fs::read_dir(root.join(TOP).join(path)).into_iter().flatten().flatten();
                let mut names: Vec<String> = entries
                    .map(|entry| entry.file_name().to_string_lossy().into_owned())
                    .filter(|name| !name.starts_with('.'))
                    .collect();
                names.sort();
                names
            }
            Store::S3(server) => {
                let prefix = format!("builds/{TOP}/{path}/");
                next_names(server.objects(&prefix).into_keys(), &prefix)
            }
            Store::Weed(server) => {
                let prefix = format!("builds/{TOP}/{path}/");
                next_names(server.keys("bucket", &prefix), &prefix)
            }
        }
    }

    pub fn verdict(&self, id: &str) -> Option<Value> {
        self.json(&format!("requests/{id}/verdict.json"))
    }
}

/// The names after the prefix, without what lies below them.
fn next_names(keys: impl IntoIterator<Item = String>, prefix: &str) -> Vec<String> {
    let name = |key: String| key[prefix.len()..].split('/').next().map(str::to_owned);
    let mut names: Vec<String> = keys.into_iter().filter_map(name).collect();
    names.dedup();
    names
}

/// A store with devices.
pub struct Bench {
    pub store: Store,
    pub devices: Devices,
    pub home: tempfile::TempDir,
}

impl Bench {
    /// `None`, with a SKIPPED line, if the machine lacks something.
    pub fn new(test: &str, kind: Kind, names: &[&str]) -> Option<Bench> {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join("devices");
        std::fs::create_dir(&directory).unwrap();
        let devices = Devices::start(test, &directory, names)?;
        let store = match kind {
            Kind::Directory => Store::Directory(home.path().join("store")),
            Kind::S3 => Store::S3(FakeS3::new()),
            Kind::Weed => Store::Weed(SeaweedFs::start(test)?),
        };
        Some(Bench { store, devices, home })
    }

    /// Writes the file of a lab that has all devices. `limits` are lines of its table `limits`, `more` of each device.
    pub fn lab(&self, name: &str, limits: &str, more: &str) -> PathBuf {
        let file = self.home.path().join(format!("{name}.toml"));
        let state = self.home.path().join(format!("state-{name}"));
        let text = format!(
            "version = 1\nname = \"{name}\"\nstore = \"{}\"\nstate = \"{}\"\n[limits]\n{limits}\n{}",
            self.store.address(),
            state.display(),
            self.devices.tables(more)
        );
        std::fs::write(&file, text).unwrap();
        file
    }

    /// Starts a lab.
    pub fn serve(&self, file: &Path) -> Running {
        let mut command = agent();
        self.store.configure(&mut command);
        command.args(["lab", "serve"]).arg(file);
        Running::start(command, self.home.path())
    }

    /// Runs `build-agent lab` with these words and the store.
    pub fn command(&self, words: &[&str]) -> Ran {
        let mut command = agent();
        self.store.configure(&mut command);
        command.arg("lab").args(words).args(["--store", &self.store.address()]);
        Running::start(command, self.home.path()).wait()
    }

    /// Submits a request that runs these commands. `change` changes it before.
    pub fn submit(&self, id: &str, commands: &[&str], change: impl FnOnce(&mut Value)) {
        let image = format!("image of {id}");
        let digest: String = Sha256::digest(&image).iter().map(|byte| format!("{byte:02x}")).collect();
        let mut request = json!({
            "schema": "build-agent/device-request/v1",
            "id": id,
            "created": "2026-01-02T03:04:05Z",
            "job": { "name": "meta-x", "release": "scarthgap", "commit": "0123456789abcdef", "build": "7",
                     "layer": "/layer", "manifest": "build-agent.toml" },
            "trust": "trusted",
            "pool": "stand-in",
            "machine": "stand-in",
            "image": "core-image-minimal",
            "tests": ["commands"],
            "commands": commands,
            "files": [{ "role": "image", "name": "core.img", "bytes": image.len(), "sha256": digest }],
            "queue_limit": 3600,
            "run_limit": 600,
            "required": true,
        });
        change(&mut request);
        self.store.put(&format!("files/{digest}"), image.as_bytes());
        self.store.put(&format!("requests/{id}/request.json"), request.to_string().as_bytes());
        self.store.put(&format!("open/{id}"), b"");
    }

    /// Waits for the verdict on a request.
    pub fn verdict(&self, lab: &mut Running, id: &str) -> Value {
        lab.wait_until(&format!("the verdict on {id}"), || self.store.verdict(id).is_some());
        self.store.verdict(id).unwrap()
    }

    /// Fails unless the verdict is that of the attempt's own result, and nothing of the request is left in the queue.
    #[track_caller]
    pub fn assert_consistent(&self, id: &str) {
        let verdict = self.store.verdict(id).unwrap_or_else(|| panic!("{id} has no verdict"));
        let attempt = verdict["attempt"].as_u64().unwrap_or_else(|| panic!("{id}: {verdict}"));
        let record = self.store.json(&format!("requests/{id}/attempts/{attempt}.json")).unwrap();
        assert_eq!((&record["lab"], &record["device"]), (&verdict["lab"], &verdict["device"]), "{id}");
        let result = self.store.get(&format!("requests/{id}/reports/{attempt}/result.json")).unwrap();
        let digest: String = Sha256::digest(&result).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(verdict["result_sha256"], digest, "{id}");
    }
}

/// Waits until something is true.
#[track_caller]
pub fn eventually(what: &str, is_true: impl Fn() -> bool) {
    let deadline = Instant::now() + LONG;
    while !is_true() {
        assert!(Instant::now() < deadline, "{what} never happened");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Ends a lab with a signal, which it must obey as soon as it serves.
pub fn stop(lab: Running) -> Ran {
    eventually("a lab that serves", || lab.stdout().contains(" serves "));
    lab.signal(nix::sys::signal::Signal::SIGTERM);
    lab.wait()
}
