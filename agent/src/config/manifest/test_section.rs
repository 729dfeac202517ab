//! The keys of `[test]`.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{CONF_NAME, DURATION, words};

/// Tests on a running system: a guest in QEMU, or any system that answers ssh.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Test")]
pub struct UnvalidatedTest {
    /// Images that are tested with testimage, for each machine.
    #[schemars(extend("uniqueItems" = true, "items" = words(CONF_NAME)))]
    pub images: Option<Vec<String>>,
    /// Suites of tests, such as "ping", "ssh", "parselogs", "ptest"; default: those of each image (TEST_SUITES).
    #[schemars(extend("uniqueItems" = true, "items" = words("^[a-z0-9_]+(\\.[A-Za-z0-9_]+)*$")))]
    pub suites: Option<Vec<String>>,
    /// "off", "changed" (the ptests of the recipes that a change affects), or a list of recipes; "off" by default.
    pub ptest: Option<UnvalidatedPtest>,
    /// "qemu" or "ssh://root@HOST:PORT"; "qemu" by default.
    #[schemars(extend("pattern" = "^(qemu|ssh://.+)$"))]
    pub target: Option<String>,
    /// What runs the tests of an ssh target; "bitbake" by default.
    pub runner: Option<TestRunner>,
    /// The ssh server that images for QEMU get; "dropbear" by default.
    pub ssh_server: Option<SshServerWord>,
    /// The tests of one image; default "30m".
    #[schemars(extend("pattern" = DURATION))]
    pub timeout: Option<String>,
    /// A ptest that prints nothing for this long is stopped, and the others go on; default "10m".
    #[schemars(extend("pattern" = DURATION))]
    pub silence: Option<String>,
    /// How often the tests of an image are run again after a failure; 0 by default, 5 at most.
    #[schemars(extend("minimum" = 0, "maximum" = 5))]
    pub reruns: Option<i64>,
    /// What happens if a test failed and passed in a rerun: the image passes or fails; "pass" by default.
    pub flaky: Option<FlakyTests>,
}

/// Which ptests run.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(rename = "Ptest")]
pub enum UnvalidatedPtest {
    Word(PtestWord),
    Recipes(Vec<String>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PtestWord {
    /// None.
    Off,
    /// Those of the recipes that a change affects.
    Changed,
}

/// What runs the tests of a system that answers ssh.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TestRunner {
    /// BitBake's task testimage.
    #[default]
    Bitbake,
    /// BitBake only exports the tests (testexport), and `oe-test runtime` runs them.
    OeTest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum SshServerWord {
    /// Small.
    Dropbear,
    /// For images that already have it: the two servers conflict.
    Openssh,
    /// The images bring their own.
    None,
}

/// What happens to an image if a test failed and passed in a rerun. The test is always reported as flaky.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FlakyTests {
    /// The image passes, with a warning for each flaky test.
    #[default]
    Pass,
    /// The image fails.
    Fail,
}
