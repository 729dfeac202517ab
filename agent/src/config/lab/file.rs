//! A lab's file (`lab.toml`) as users write it. These types are the only definition of its keys.
//!
//! Every field is optional for serde, also those that the schema requires: an error in one key must not hide errors in
//! others.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::super::manifest::schema_of;

// Patterns are for editors; the agent's own checks decide.
const NAME: &str = "^[A-Za-z0-9_][A-Za-z0-9._-]{0,99}$";
const SIZE: &str = "^[0-9]+ *[KMGT]iB *$";
const DURATION: &str = "^ *[0-9].*[A-Za-zµ] *$";

/// The JSON Schema of `lab.toml`, for editors and for `build-agent schema --lab`.
pub fn schema() -> Value {
    schema_of::<UnvalidatedLab>()
}

/// A lab host of build-agent: its devices, how each is controlled, and where requests come from.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "lab.toml")]
pub struct UnvalidatedLab {
    /// Version of the file's format.
    #[schemars(required, extend("const" = 1))]
    #[allow(dead_code, reason = "the walk along the schema checks it")]
    pub version: Option<i64>,
    /// The name of this lab, unique among the labs of the store.
    #[schemars(required, extend("pattern" = NAME))]
    pub name: Option<String>,
    /// Where requests come from and results go: the artifact destination of the jobs, s3://bucket/prefix or a directory.
    #[schemars(required)]
    pub store: Option<String>,
    /// Local directory of the lab, such as "/var/lib/build-agent-lab"; not on a network file system.
    #[schemars(required)]
    pub state: Option<String>,
    /// The user that runs exported tests, which are layer code; needed if the lab runs as root.
    pub build_user: Option<String>,
    /// Times and sizes.
    #[serde(default)]
    pub limits: UnvalidatedLabLimits,
    /// The devices, each with a name that is unique among the devices of the store.
    #[schemars(required, extend("minProperties" = 1, "propertyNames" = json!({ "pattern": NAME })))]
    pub devices: Option<BTreeMap<String, UnvalidatedDevice>>,
    /// Installations of AWS IoT Device Tester, by the suite that requests name.
    pub testers: Option<BTreeMap<String, UnvalidatedTester>>,
}

/// Times and sizes.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "LabLimits")]
pub struct UnvalidatedLabLimits {
    /// A lease ends this long after its last renewal; default "60s".
    #[schemars(extend("pattern" = DURATION))]
    pub lease: Option<String>,
    /// Between two looks for requests; default "10s".
    #[schemars(extend("pattern" = DURATION))]
    pub poll: Option<String>,
    /// For writing the image to a device; default "30m".
    #[schemars(extend("pattern" = DURATION))]
    pub flash: Option<String>,
    /// From power on to ssh; default "5m".
    #[schemars(extend("pattern" = DURATION))]
    pub boot: Option<String>,
    /// Console output that is kept of one attempt; default "16MiB".
    #[schemars(extend("pattern" = SIZE))]
    pub console: Option<String>,
    /// Attempts of one request, 1 to 100; default 3.
    #[schemars(extend("minimum" = 1, "maximum" = 100))]
    pub attempts: Option<i64>,
}

/// A device, with one table that says what controls it: labgrid, lava, ssh or qemu.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Device")]
pub struct UnvalidatedDevice {
    /// Requests name a pool; any device of it can run them.
    #[schemars(required, extend("pattern" = NAME))]
    pub pool: Option<String>,
    /// Features that requests can ask for, such as "wifi".
    #[schemars(extend("uniqueItems" = true))]
    pub features: Option<Vec<String>>,
    /// Whether images of untrusted sources may run here; false by default.
    pub untrusted: Option<bool>,
    /// Which file of a request is written to the device, as a glob such as "*.wic.bz2".
    pub image: Option<String>,
    /// An image that boots for certain; it tells a bad device from a bad image.
    pub known_good: Option<String>,
    /// A place of labgrid.
    pub labgrid: Option<UnvalidatedLabgrid>,
    /// A server of LAVA.
    pub lava: Option<UnvalidatedLava>,
    /// A device that is simply there.
    pub ssh: Option<UnvalidatedSsh>,
    /// A guest of QEMU, started from the built image.
    pub qemu: Option<UnvalidatedQemu>,
}

/// A place of labgrid.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Labgrid")]
pub struct UnvalidatedLabgrid {
    /// The coordinator, HOST:PORT; default "127.0.0.1:20408".
    pub coordinator: Option<String>,
    /// The place.
    #[schemars(required)]
    pub place: Option<String>,
    /// The program; default "labgrid-client".
    pub client: Option<String>,
    /// An environment file of labgrid, if the place needs drivers of its own.
    pub environment: Option<String>,
    /// A program and its arguments that write the image, whose path is added; default: labgrid-client write-image.
    #[schemars(extend("minItems" = 1))]
    pub write: Option<Vec<String>>,
    /// Host name or address of the device; default: that of the place's NetworkService.
    pub host: Option<String>,
    /// Port of the device's ssh server; default 22.
    #[schemars(extend("minimum" = 1, "maximum" = 65535))]
    pub port: Option<i64>,
    /// A private key that the device accepts for root.
    pub ssh_key: Option<String>,
}

/// A server of LAVA. It leases, flashes, boots and tests devices.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Lava")]
pub struct UnvalidatedLava {
    /// The server, such as "https://lava.example.org".
    #[schemars(required)]
    pub url: Option<String>,
    /// A file with the token.
    #[schemars(required)]
    pub token_file: Option<String>,
    /// A job definition with placeholders.
    #[schemars(required)]
    pub job: Option<String>,
    /// Where the server downloads files of requests: an address that ends before the digest.
    #[schemars(required)]
    pub files: Option<String>,
}

/// A device that is simply there.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Ssh")]
pub struct UnvalidatedSsh {
    /// Host name or address of the device.
    #[schemars(required)]
    pub host: Option<String>,
    /// Port of its ssh server; default 22.
    #[schemars(extend("minimum" = 1, "maximum" = 65535))]
    pub port: Option<i64>,
    /// A private key that the device accepts for root.
    pub ssh_key: Option<String>,
    /// A program and its arguments that write the image, whose path is added.
    #[schemars(extend("minItems" = 1))]
    pub write: Option<Vec<String>>,
    /// A program and its arguments that restart the device.
    #[schemars(extend("minItems" = 1))]
    pub restart: Option<Vec<String>>,
}

/// A guest of QEMU.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Qemu")]
pub struct UnvalidatedQemu {
    /// Memory in MiB; default: what the image says (QB_MEM).
    #[schemars(extend("minimum" = 32, "maximum" = 1048576))]
    pub memory: Option<i64>,
}

/// An installation of AWS IoT Device Tester.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "DeviceTester")]
pub struct UnvalidatedTester {
    /// Where its zip is unpacked, on a local disk; without it the agent downloads it.
    pub directory: Option<String>,
    /// Whether you accept AWS's licence of Device Tester; it must be true.
    #[schemars(required, extend("const" = true))]
    pub accept_license: Option<bool>,
    /// A profile of the AWS configuration with a role of its own.
    pub profile: Option<String>,
    /// The AWS region of the tests.
    #[schemars(required)]
    pub region: Option<String>,
    /// Test groups that must be in the report.
    #[schemars(extend("uniqueItems" = true))]
    pub groups: Option<Vec<String>>,
    /// The features of the devices for device.json, such as arch = "aarch64".
    pub features: Option<BTreeMap<String, String>>,
    /// A template of userdata.json.
    pub userdata: Option<String>,
    /// Without output for this long it is stopped; default "20m".
    #[schemars(extend("pattern" = DURATION))]
    pub stall: Option<String>,
}
