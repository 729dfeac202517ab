//! Signers in the manifest.

use schemars::JsonSchema;
use serde::Deserialize;

/// A signer: the file of a public key, or a table with more.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum UnvalidatedSigner {
    Key(String),
    Table(UnvalidatedSignerTable),
}

/// A signer with the fingerprint of its key.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Signer")]
pub struct UnvalidatedSignerTable {
    /// The file of the public key.
    #[schemars(required)]
    pub key: Option<String>,
    /// The fingerprint that the key must have: 40 hexadecimal digits of OpenPGP, or "SHA256:…" of ssh.
    pub fingerprint: Option<String>,
}
