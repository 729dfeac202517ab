//! The digest by which contents are compared.

use std::fmt;

use agent_types::words::hexadecimal;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A SHA-256 in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(String);

impl Digest {
    pub fn of(bytes: &[u8]) -> Digest {
        Digest::from(Sha256::digest(bytes).as_slice())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `None` unless it is written as [`Digest`] writes it. Digests become names of files.
    pub fn parse(text: &str) -> Option<Digest> {
        let plain = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (text.len() == 64 && text.bytes().all(plain)).then(|| Digest(text.to_owned()))
    }
}

impl From<&[u8]> for Digest {
    fn from(hash: &[u8]) -> Digest {
        Digest(hexadecimal(hash))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
