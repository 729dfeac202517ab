//! Buildtools in the manifest.

use schemars::JsonSchema;
use serde::Deserialize;

/// Programs that BitBake finds before those of the machine: an installer as OE-Core's buildtools-tarball makes it.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Buildtools")]
pub struct UnvalidatedBuildtools {
    /// The address of the installer: https or http.
    #[schemars(required, extend("pattern" = "^https?://[^ ]+$"))]
    pub url: Option<String>,
    /// The SHA-256 of the installer: 64 hexadecimal digits.
    #[schemars(required, extend("pattern" = "^[0-9A-Fa-f]{64}$"))]
    pub sha256: Option<String>,
    /// Whether they are used; true by default.
    pub enabled: Option<bool>,
}
