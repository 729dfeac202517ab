//! A request to test an image on a device, and the verdict on it.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use agent_types::events::{JobIdentity, time};
use agent_types::outcome::{ExitStatus, Outcome};

/// Names the layout of `request.json`; raised when a reader of the old layout would go wrong.
pub const SCHEMA: &str = "build-agent/device-request/v1";

/// A request; written once, and never changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceRequest {
    pub schema: String,
    /// Unique among all requests. Sorts by the time of the submitter; ages come from the store's clock.
    pub id: String,
    #[serde(with = "time")]
    pub created: SystemTime,
    /// The job that built the image.
    pub job: JobIdentity,
    pub trust: RequestTrust,
    /// Devices of this pool can run the request.
    pub pool: String,
    /// The Yocto machine of the image.
    pub machine: String,
    pub image: String,
    /// Features that the device must have (lab.toml `features`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
    pub tests: Vec<DeviceTest>,
    /// Suites of OE-Core's runtime tests.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub suites: Vec<String>,
    /// Shell commands that must end with exit status 0 on the device.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub commands: Vec<String>,
    pub files: Vec<RequestFile>,
    /// Larger numbers first; of equal ones the oldest request.
    #[serde(default)]
    pub priority: i32,
    /// From the submission to the start on a device, in seconds. A request that no device takes in this time ends
    /// as timed out.
    pub queue_limit: u64,
    /// From the start on a device to the verdict, in seconds.
    pub run_limit: u64,
    /// Whether the verdict decides about the change.
    pub required: bool,
    /// A Step Functions task token: the lab resumes the execution with the verdict.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task_token: Option<String>,
}

impl DeviceRequest {
    pub fn queue_limit(&self) -> Duration {
        Duration::from_secs(self.queue_limit)
    }

    pub fn run_limit(&self) -> Duration {
        Duration::from_secs(self.run_limit)
    }
}

/// Whether maintainers accepted the commit that is tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RequestTrust {
    Trusted,
    /// Runs only on devices that the lab marked for it.
    Untrusted,
}

/// What runs on the device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub enum DeviceTest {
    /// OE-Core's runtime tests, from the job's testexport.
    Runtime,
    /// The ptests of the image.
    Ptest,
    /// The commands of the manifest.
    Commands,
    /// A suite of AWS IoT Device Tester, e.g. `GGV2Q`.
    DeviceTester(String),
}

impl fmt::Display for DeviceTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceTest::Runtime => f.write_str("runtime"),
            DeviceTest::Ptest => f.write_str("ptest"),
            DeviceTest::Commands => f.write_str("commands"),
            DeviceTest::DeviceTester(suite) => write!(f, "idt:{suite}"),
        }
    }
}

impl From<DeviceTest> for String {
    fn from(test: DeviceTest) -> String {
        test.to_string()
    }
}

impl TryFrom<String> for DeviceTest {
    type Error = String;

    fn try_from(text: String) -> Result<DeviceTest, String> {
        text.parse()
    }
}

impl FromStr for DeviceTest {
    type Err = String;

    fn from_str(text: &str) -> Result<DeviceTest, String> {
        let suite = |name: &str| {
            !name.is_empty() && name.chars().all(|char| char.is_ascii_alphanumeric() || "._-".contains(char))
        };
        match text.strip_prefix("idt:") {
            Some(name) if suite(name) && !name.starts_with(['-', '.']) => {
                Ok(DeviceTest::DeviceTester(name.to_owned()))
            }
            Some(name) => Err(format!("`{name}` is not the name of a Device Tester suite, such as GGV2Q")),
            None => match text {
                "runtime" => Ok(DeviceTest::Runtime),
                "ptest" => Ok(DeviceTest::Ptest),
                "commands" => Ok(DeviceTest::Commands),
                _ => Err(format!("`{text}` is not a test; write runtime, ptest, commands or idt:SUITE")),
            },
        }
    }
}

/// A file of the request, stored under its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestFile {
    pub role: FileRole,
    /// The name in the deploy directory, without a directory.
    pub name: String,
    pub bytes: u64,
    /// Lower-case hexadecimal.
    pub sha256: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FileRole {
    /// Of the deploy directory: disk images, kernels, device trees, `*.qemuboot.conf`.
    Image,
    /// A tar archive of OE-Core's exported runtime tests (`testexport`).
    TestExport,
}

/// An attempt to run a request on a device. Its file is created for the attempt's number, so that each number exists
/// once. It lives as long as the lease of its device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptRecord {
    pub lab: String,
    pub device: String,
    /// The number of the device's lease.
    pub lease: u64,
    /// Distinguishes this record from that of another process with the same words.
    pub nonce: String,
    #[serde(with = "time")]
    pub started: SystemTime,
}

/// The verdict on a request. Its file is created once: the first verdict counts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The attempt that led to it; `None`, if the request never ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lab: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    pub exit: ExitStatus,
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The digest of the attempt's `result.json`, so that no other result is taken for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result_sha256: Option<String>,
    #[serde(with = "time")]
    pub time: SystemTime,
}

/// Files of the store, below its root.
pub mod layout {
    /// The part of the store for this layout.
    pub const TOP: &str = "devices/v1";

    /// Below it, one directory for each request.
    pub const REQUESTS: &str = "devices/v1/requests";

    /// Below it, an empty file for each request without a verdict. Its time is that of the submission.
    pub const OPEN: &str = "devices/v1/open";

    /// Below it, the files of requests, by their digests.
    pub const FILES: &str = "devices/v1/files";

    /// Below it, what each lab says about itself.
    pub const LABS: &str = "devices/v1/labs";

    /// The status page of all labs.
    pub const PAGE: &str = "devices/v1/lab.html";

    pub fn open(id: &str) -> String {
        format!("{OPEN}/{id}")
    }

    pub fn of_request(id: &str) -> String {
        format!("{REQUESTS}/{id}")
    }

    pub fn request(id: &str) -> String {
        format!("{REQUESTS}/{id}/request.json")
    }

    /// Exists, if somebody asked to end the request.
    pub fn cancel(id: &str) -> String {
        format!("{REQUESTS}/{id}/cancel.json")
    }

    pub fn attempt(id: &str, number: u32) -> String {
        format!("{REQUESTS}/{id}/attempts/{number}.json")
    }

    /// The reports of an attempt: `result.json`, `report.html`, `junit.xml`, `console.log` …
    pub fn reports(id: &str, attempt: u32) -> String {
        format!("{REQUESTS}/{id}/reports/{attempt}")
    }

    pub fn verdict(id: &str) -> String {
        format!("{REQUESTS}/{id}/verdict.json")
    }

    /// A file of requests, by its digest.
    pub fn file(sha256: &str) -> String {
        format!("{FILES}/{sha256}")
    }

    /// What a lab says about itself. Only that lab writes it.
    pub fn lab(name: &str) -> String {
        format!("{LABS}/{name}.json")
    }

    /// Below it, the leases of a device.
    pub fn leases(device: &str) -> String {
        format!("devices/v1/leases/{device}")
    }

    /// A lease. Its file is created once.
    pub fn lease(device: &str, number: u64) -> String {
        format!("{}/{number}.json", leases(device))
    }

    /// Replaced by the holder, with a counter.
    pub fn renewed(device: &str, number: u64) -> String {
        format!("{}/{number}.renewed.json", leases(device))
    }

    /// Created by the holder at the end.
    pub fn released(device: &str, number: u64) -> String {
        format!("{}/{number}.released.json", leases(device))
    }

    /// Failures of the device. Only the holder of its lease, and people, write it.
    pub fn health(device: &str) -> String {
        format!("devices/v1/devices/{device}/health.json")
    }

    /// Exists while the device gets no requests.
    pub fn drain(device: &str) -> String {
        format!("devices/v1/devices/{device}/drain.json")
    }
}

/// A valid request, for tests.
#[cfg(test)]
pub mod sample {
    use super::*;

    pub fn request() -> DeviceRequest {
        DeviceRequest {
            schema: SCHEMA.into(),
            id: "20260102T030405Z-0f5d7e0c91b2a3d4".into(),
            created: SystemTime::UNIX_EPOCH,
            job: JobIdentity::default(),
            trust: RequestTrust::Trusted,
            pool: "raspberrypi4".into(),
            machine: "raspberrypi4-64".into(),
            image: "core-image-minimal".into(),
            features: Vec::new(),
            tests: vec![DeviceTest::Runtime],
            suites: Vec::new(),
            commands: Vec::new(),
            files: vec![RequestFile {
                role: FileRole::Image,
                name: "image.wic.gz".into(),
                bytes: 3,
                sha256: "0".repeat(64),
            }],
            priority: 0,
            queue_limit: 60,
            run_limit: 60,
            required: true,
            task_token: None,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn tests_have_names() {
        for (text, wanted) in [
            ("runtime", DeviceTest::Runtime),
            ("ptest", DeviceTest::Ptest),
            ("commands", DeviceTest::Commands),
            ("idt:GGV2Q", DeviceTest::DeviceTester("GGV2Q".into())),
            ("idt:My_Suite-1.0", DeviceTest::DeviceTester("My_Suite-1.0".into())),
        ] {
            assert_eq!(text.parse::<DeviceTest>().unwrap(), wanted, "{text}");
            assert_eq!(wanted.to_string(), text);
        }
        for text in ["", "Runtime", "idt", "idt:", "idt:-x", "idt:a/b", "idt:..", "idt:a b", "testimage"] {
            assert!(text.parse::<DeviceTest>().is_err(), "{text}");
        }
    }
}
