//! What a job's machine and its traffic cost, in USD. Estimates for people, not a bill.

use serde::{Deserialize, Serialize};

/// The prices that apply to a job. What has no price is not counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JobPrices {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachinePrice>,
    /// One GB that is read from a share on EFS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub efs_read_gb: Option<f64>,
    /// One GB that is written to a share on EFS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub efs_write_gb: Option<f64>,
    /// One GB through a NAT gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nat_gb: Option<f64>,
}

/// The price of a machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MachinePrice {
    /// E.g. `BUILD_GENERAL1_LARGE`.
    pub compute_type: String,
    pub usd_per_minute: f64,
    /// Where the price comes from.
    pub source: String,
}
