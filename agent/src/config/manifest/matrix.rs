//! `[matrix]` as users write it. Only the JSON Schema needs it: a matrix is read before the manifest.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::CONF_NAME;
use agent_types::release::Release;

/// One job for each combination of the values of these axes. Any other axis is a key of the manifest in quotes, such as
/// "repos.meta-x.branch".
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[schemars(rename = "Matrix")]
#[allow(dead_code, reason = "only the schema needs the fields")]
pub struct UnvalidatedMatrix {
    /// Values of the only element of [config] machines.
    #[schemars(extend("minItems" = 1, "uniqueItems" = true, "items" = super::words(CONF_NAME)))]
    pub machine: Option<Vec<String>>,
    /// Values of release.
    #[schemars(extend("minItems" = 1, "uniqueItems" = true, "items" = releases()))]
    pub release: Option<Vec<String>>,
    /// Values of [config] distro.
    #[schemars(extend("minItems" = 1, "uniqueItems" = true, "items" = super::words(CONF_NAME)))]
    pub distro: Option<Vec<String>>,
    /// Values of the only element of [build] targets.
    #[schemars(extend("minItems" = 1, "uniqueItems" = true))]
    pub target: Option<Vec<String>>,
    /// Values of cells that are removed: a cell that has all values of an element.
    pub exclude: Option<Vec<BTreeMap<String, Value>>>,
    /// Keys that are added to the cells that have an element's values of the axes. An element that fits no cell is a new one.
    pub include: Option<Vec<BTreeMap<String, Value>>>,
    /// The time limit of all cells together, when they run on one machine.
    #[schemars(extend("pattern" = super::DURATION))]
    pub limit: Option<String>,
    #[serde(flatten)]
    pub other: BTreeMap<String, Vec<Value>>,
}

fn releases() -> Value {
    serde_json::json!({ "type": "string", "enum": Release::names().collect::<Vec<_>>() })
}
