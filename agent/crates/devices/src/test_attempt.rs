//! An attempt for the tests of this crate: its directories, its device, and the events that it emits.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agent_process::{Interrupt, Redactor, Runner, User};
use agent_types::artifact::Destination;
use agent_types::events::{Emitter, Event, channel};
use agent_types::stage::Stage;
use tokio::task::JoinHandle;

use crate::fence::{Fence, LeaseName};
use crate::lab::{Control, Device, Lab, LabLimits, SshDevice};
use crate::provider::Attempt;
use crate::request::DeviceRequest;
use crate::test_request::request;

/// The parts of an attempt.
pub struct TestAttempt {
    place: tempfile::TempDir,
    pub lab: Lab,
    pub device: Device,
    pub request: DeviceRequest,
    pub fence: Fence,
    pub runner: Runner,
    events: JoinHandle<Vec<Event>>,
}

impl TestAttempt {
    /// An attempt on a device that answers nowhere.
    pub fn new() -> TestAttempt {
        let place = tempfile::tempdir().unwrap();
        open(place.path());
        let at = |name: &str| place.path().join(name);
        for name in ["work", "files", "out", "out/logs", "state"] {
            fs_err::create_dir(at(name)).unwrap();
        }
        let ssh = SshDevice { host: "127.0.0.1".into(), port: 9, ssh_key: None, write: None, restart: None };
        let device = Device {
            name: "board-1".into(),
            pool: "boards".into(),
            features: Vec::new(),
            untrusted: false,
            control: Control::Ssh(ssh),
            image: None,
            known_good: None,
        };
        let lab = Lab {
            name: "lab".into(),
            store: Destination::Directory(at("store")),
            state: at("state"),
            build_user: None,
            limits: LabLimits { poll: Duration::from_millis(50), ..LabLimits::default() },
            devices: Vec::new(),
            testers: Vec::new(),
        };
        let (emitter, mut received) = channel();
        let events = tokio::spawn(async move {
            let mut all = Vec::new();
            while let Some(event) = received.recv().await {
                all.push(event);
            }
            all
        });
        let name = LeaseName { device: device.name.clone(), number: 1, nonce: "n".into() };
        let runner = runner(emitter, &at("out/logs"));
        TestAttempt { lab, device, request: request(), fence: Fence::new(name), runner, events, place }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// The attempt, in an empty work directory of its own.
    pub fn attempt<'a>(&'a self, work: &'a Path) -> Attempt<'a> {
        fs_err::create_dir_all(work).unwrap();
        open(work);
        Attempt {
            lab: &self.lab,
            device: &self.device,
            request: &self.request,
            number: 1,
            fence: &self.fence,
            // Nothing but the tests of exports reads files, and those make their own.
            files: work,
            work,
            runner: &self.runner,
        }
    }

    /// Everything that was emitted.
    pub async fn events(self) -> Vec<Event> {
        drop(self.runner);
        self.events.await.unwrap()
    }
}

/// Another user passes through.
fn open(directory: &Path) {
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs_err::set_permissions(directory, mode).unwrap();
}

fn runner(events: Emitter, logs: &Path) -> Runner {
    Runner {
        stage: Stage::Test,
        events,
        interrupt: Interrupt::new(None),
        redactor: Redactor::new(&[]),
        logs: logs.to_owned(),
        stall: Duration::from_secs(60),
        grace: Duration::from_secs(4),
        log_limit: agent_process::LOG_LIMIT,
        commands: Arc::default(),
    }
}

/// The user whom tests give files to, if they run as root: Device Tester and exported tests never run as root. `None` in
/// the outer option: there is no such user.
pub fn other_user() -> Option<Option<User>> {
    if !nix::unistd::geteuid().is_root() {
        return Some(None);
    }
    User::find("builder").unwrap().map(Some)
}
