//! `[device]`: tests on a device of a lab, or on a guest in QEMU.

use std::time::Duration;

use agent_devices::request::DeviceTest;
use agent_types::artifact::ArtifactRule;

/// The pool of which the job itself is the lab: it starts a guest in QEMU from the built image.
pub const QEMU_POOL: &str = "qemu";

/// `[device]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceTests {
    pub pool: String,
    pub image: String,
    pub machine: String,
    /// At least one.
    pub tests: Vec<DeviceTest>,
    /// Empty: those of the image.
    pub suites: Vec<String>,
    pub commands: Vec<String>,
    pub features: Vec<String>,
    /// Globs in the deploy directory of the machine.
    pub files: Vec<String>,
    pub priority: i32,
    pub required: bool,
    /// Whether changes of untrusted sources may run on devices that a lab marked for them.
    pub untrusted: bool,
    pub wait: DeviceWait,
    pub queue_limit: Duration,
    pub run_limit: Duration,
    pub route: DeviceRoute,
}

/// How the tests get to the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceRoute {
    /// The job starts a guest in QEMU.
    Guest,
    /// The job submits a request to the store of the artifacts.
    Submit,
    /// The job publishes the files, as those of untrusted sources do. A trusted step submits the request: `build-agent lab request`.
    Publish,
    /// No device tests this source: why.
    Closed(String),
}

/// Whether the job waits for the result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceWait {
    No,
    AtMost(Duration),
}

impl DeviceTests {
    /// Whether the job itself tests, on a guest in QEMU.
    pub fn is_guest(&self) -> bool {
        self.pool == QEMU_POOL
    }

    /// The same with the route for a source. `publishes`: another step makes the requests of all builds. `closed`: why the manifest's rules are not those that apply.
    pub(in crate::config) fn routed(
        self,
        is_trusted: bool,
        publishes: bool,
        closed: Option<&str>,
    ) -> DeviceTests {
        let route = match closed {
            _ if self.is_guest() => DeviceRoute::Guest,
            Some(why) => DeviceRoute::Closed(why.to_owned()),
            None if !is_trusted && !self.untrusted => DeviceRoute::Closed(UNTRUSTED.to_owned()),
            None if is_trusted && !publishes => DeviceRoute::Submit,
            None => DeviceRoute::Publish,
        };
        DeviceTests { route, ..self }
    }

    /// What is published, so that a trusted step can submit the request.
    pub(in crate::config) fn artifact_rules(&self) -> Vec<ArtifactRule> {
        if self.route != DeviceRoute::Publish {
            return Vec::new();
        }
        // TMPDIR is not always `tmp`: distros without a name have `tmp-glibc`.
        let files = self.files.iter().map(|file| format!("*/deploy/images/{}/{file}", self.machine));
        let rule = |include, required| ArtifactRule { include, exclude: Vec::new(), required };
        let export = self.needs_export().then(|| rule(self.export(), true));
        files.map(|include| rule(include, false)).chain(export).collect()
    }

    /// Whether the tests of OE-Core are exported: only they need it.
    pub fn needs_export(&self) -> bool {
        self.tests.iter().any(|test| matches!(test, DeviceTest::Runtime | DeviceTest::Ptest))
    }

    /// The archive of the exported tests, in the build directory.
    pub fn export(&self) -> String {
        format!("testexport-{}-{}.tar", self.image, self.machine)
    }
}

const UNTRUSTED: &str = "the source is not trusted, and [device] untrusted is \"no\"";
