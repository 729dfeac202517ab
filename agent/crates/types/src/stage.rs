//! The list of stages. It defines their order, `--only` and `--skip`, log headers and reports.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// One named step of a job. The variants are in the order in which they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    Checkout,
    Configure,
    Check,
    Build,
    Test,
    Publish,
    Report,
}

impl Stage {
    pub const ALL: [Stage; 7] = [
        Stage::Checkout,
        Stage::Configure,
        Stage::Check,
        Stage::Build,
        Stage::Test,
        Stage::Publish,
        Stage::Report,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Stage::Checkout => "checkout",
            Stage::Configure => "configure",
            Stage::Check => "check",
            Stage::Build => "build",
            Stage::Test => "test",
            Stage::Publish => "publish",
            Stage::Report => "report",
        }
    }

    /// Whether the stage runs even after a failure or a cancel. Publish and report do, so that results and
    /// errors are not lost.
    pub const fn survives_failure(self) -> bool {
        matches!(self, Stage::Publish | Stage::Report)
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Stage {
    type Err = String;

    fn from_str(text: &str) -> Result<Stage, String> {
        Stage::ALL.into_iter().find(|stage| stage.name() == text).ok_or_else(|| {
            let names = Stage::ALL.map(Stage::name).join(", ");
            format!("`{text}` is not a stage; the stages are {names}")
        })
    }
}
