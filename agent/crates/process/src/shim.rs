//! The program that the agent starts in its own place, under another name.

use std::io;
use std::path::{Path, PathBuf};

/// Installed beside the agent: its binary without what makes that large.
const NAME: &str = "build-agent-shim";

/// The small program beside the agent's own binary, else that binary, which can do the same.
///
/// # Errors
/// When the agent's binary is not to be found.
pub fn shim() -> io::Result<PathBuf> {
    Ok(beside(&fs_err::canonicalize(std::env::current_exe()?)?))
}

fn beside(own: &Path) -> PathBuf {
    let shim = own.with_file_name(NAME);
    if shim.is_file() { shim } else { own.to_owned() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_lies_alone_is_its_own_shim() {
        let place = tempfile::tempdir().unwrap();
        let own = place.path().join("build-agent");
        fs_err::write(&own, "").unwrap();
        assert_eq!(beside(&own), own);
        fs_err::create_dir(place.path().join(NAME)).unwrap();
        assert_eq!(beside(&own), own);
        fs_err::remove_dir(place.path().join(NAME)).unwrap();
        fs_err::write(place.path().join(NAME), "").unwrap();
        assert_eq!(beside(&own), place.path().join(NAME));
    }
}
