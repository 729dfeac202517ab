//! The keys of `[device]`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{CONF_NAME, DURATION, NAME, words};

const TEST: &str = "^(runtime|ptest|commands|idt:[A-Za-z0-9_][A-Za-z0-9._-]*)$";

/// Tests on a device of a lab, or on a guest in QEMU that the job starts from the built image.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Device")]
pub struct UnvalidatedDevice {
    /// The devices that can run the tests, by the name that labs give them; "qemu" is a guest that the job starts.
    #[schemars(required, extend("pattern" = NAME))]
    pub pool: Option<String>,
    /// The image that is tested; [build] must name it.
    #[schemars(required, extend("pattern" = CONF_NAME))]
    pub image: Option<String>,
    /// The machine of the image; default: the first of [config] machines.
    #[schemars(extend("pattern" = CONF_NAME))]
    pub machine: Option<String>,
    /// "runtime" (OE-Core's runtime tests), "ptest", "commands", "idt:SUITE" (AWS IoT Device Tester); default ["runtime"].
    #[schemars(extend("uniqueItems" = true, "items" = words(TEST)))]
    pub tests: Option<Vec<String>>,
    /// Suites of OE-Core's runtime tests, such as "ping", "ssh"; default: those of the image (TEST_SUITES).
    #[schemars(extend("uniqueItems" = true, "items" = words("^[a-z0-9_]+(\\.[A-Za-z0-9_]+)*$")))]
    pub suites: Option<Vec<String>>,
    /// Shell commands that must end with exit status 0 on the device; they are the test "commands".
    pub commands: Option<Vec<String>>,
    /// Features that the device must have, as the lab names them.
    #[schemars(extend("uniqueItems" = true, "items" = words(NAME)))]
    pub features: Option<Vec<String>>,
    /// Globs of the files that the device needs, in the deploy directory of the machine; default: the image's disk images
    /// and the kernel.
    #[schemars(extend("uniqueItems" = true))]
    pub files: Option<Vec<String>>,
    /// Requests with larger numbers run first; default 0.
    #[schemars(extend("minimum" = -100, "maximum" = 100))]
    pub priority: Option<i64>,
    /// Whether a failure fails the job; default true. If not, it is a warning.
    pub required: Option<bool>,
    /// Whether changes of untrusted sources run on devices that a lab marked for them: "yes" or "no"; default "no".
    pub untrusted: Option<YesOrNo>,
    /// "no": the result is posted when there is one; or how long the job waits for it, such as "2h"; default "no".
    #[schemars(extend("pattern" = DURATION_OR_NO))]
    pub wait: Option<String>,
    /// How long a request may wait for a device; default "1d".
    #[schemars(extend("pattern" = DURATION))]
    pub queue_limit: Option<String>,
    /// How long the tests may take, with flashing and boot; default "1h".
    #[schemars(extend("pattern" = DURATION))]
    pub run_limit: Option<String>,
}

const DURATION_OR_NO: &str = "^(no| *[0-9].*[A-Za-zµ] *)$";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum YesOrNo {
    Yes,
    #[default]
    No,
}
