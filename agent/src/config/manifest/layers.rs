//! Layers in the manifest, and their order.

use schemars::JsonSchema;
use serde::Deserialize;

/// A layer: its path, or a table with more.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum UnvalidatedLayerPath {
    Path(String),
    Table(UnvalidatedLayerTable),
}

/// A layer with its place among the others.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "LayerPath")]
pub struct UnvalidatedLayerTable {
    /// The layer's directory.
    #[schemars(required)]
    pub path: Option<String>,
    /// Layers with a higher priority come earlier in BBLAYERS; default 0. It is not BBFILE_PRIORITY.
    #[schemars(range(min = -99, max = 99))]
    pub priority: Option<i64>,
    /// Whether the layer is left out; default false.
    pub disabled: Option<bool>,
}

/// The order of BBLAYERS among layers of one priority.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LayerOrderWord {
    /// OE-Core, the repositories in the manifest's order, the layers under test.
    #[default]
    Manifest,
    /// By the name of the repository, then by the layer's path, as kas orders them.
    Name,
}
