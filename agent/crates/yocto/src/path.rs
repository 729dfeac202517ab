//! Paths in configuration files.

use std::path::Path;

use agent_types::error::{Error, Result};

/// The path as text, when BitBake can take it in a configuration file.
pub(super) fn plain_path(path: &Path) -> Result<&str> {
    let fits = |text: &&str| {
        !text.contains(|c: char| c.is_whitespace() || c.is_control() || "\"'$\\@%~+".contains(c))
    };
    path.to_str().filter(fits).ok_or_else(|| {
        Error::usage(format!("BitBake cannot work with the path `{}`", path.display()))
            .hint("use a directory without spaces and without any of \" ' $ \\ @ % ~ + in its path")
    })
}
