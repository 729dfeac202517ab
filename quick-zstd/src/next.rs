//! The `zstd` that would have run without this one.

use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const NAME: &str = "zstd";

/// Looked into last: tasks of BitBake have nothing on their PATH but `tmp/hosttools`, where `zstd` is a link to
/// this program.
const USUAL: &str = "/usr/local/bin:/usr/bin:/bin";

/// Becomes it. Comes back only with the reason why it could not.
pub fn become_it(words: &[OsString]) -> io::Error {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    path.push(":");
    path.push(USUAL);
    match std::env::current_exe().map(|own| on(&path, &own)) {
        Ok(Some(program)) => Command::new(program).arg0(NAME).args(words).exec(),
        Ok(None) => io::Error::new(ErrorKind::NotFound, "there is no other zstd on the PATH"),
        Err(error) => error,
    }
}

/// The first program behind `own` on the PATH; where that is not on it, the first of all. Never one before
/// it: two copies of this program would call each other for ever. Empty entries, which mean the current
/// directory, are left out.
fn on(path: &OsStr, own: &Path) -> Option<PathBuf> {
    let own = own.canonicalize().ok()?;
    let entries = std::env::split_paths(path).filter(|entry| !entry.as_os_str().is_empty());
    let programs: Vec<PathBuf> = entries.map(|entry| entry.join(NAME)).collect();
    let is_own = |program: &PathBuf| program.canonicalize().is_ok_and(|real| real == own);
    let behind = programs.iter().position(is_own).map_or(0, |own| own + 1);
    programs[behind..].iter().find(|program| is_program(program) && !is_own(program)).cloned()
}

fn is_program(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_next_one_is_found_and_never_this_one() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        for directory in ["quick", "link", "real", "later", "text", "empty"] {
            std::fs::create_dir(at(directory)).unwrap();
        }
        for (program, mode) in
            [("own", 0o755), ("real/zstd", 0o755), ("later/zstd", 0o755), ("text/zstd", 0o644)]
        {
            std::fs::write(at(program), "").unwrap();
            std::fs::set_permissions(at(program), std::fs::Permissions::from_mode(mode)).unwrap();
        }
        symlink(at("own"), at("quick/zstd")).unwrap();
        // As tmp/hosttools of BitBake has it.
        symlink(at("quick/zstd"), at("link/zstd")).unwrap();
        for (path, wanted) in [
            (&["quick", "real", "later"][..], Some("real")),
            (&["quick", "empty", "text", "later", "real"], Some("later")),
            (&["real", "quick", "later"], Some("later")),
            (&["link", "quick", "real"], Some("real")),
            (&["real", "later"], Some("real")),
            (&["real", "quick"], None),
            (&["quick", "link"], None),
            (&[], None),
        ] {
            let joined = std::env::join_paths(path.iter().map(|name| at(name))).unwrap();
            assert_eq!(on(&joined, &at("own")), wanted.map(|name| at(name).join(NAME)), "{path:?}");
        }
    }
}
