//! Closes an installation: no layer code changes the tools of later jobs.

use std::collections::HashSet;
use std::io::{Error as IoError, Result as IoResult};
use std::os::fd::AsFd;
use std::path::Path;

use agent_fs::dir::{Access, DirHandle, Kind, Links};
use agent_types::error::{Error, Result};
use nix::fcntl::AtFlags;
use nix::sys::stat::{Mode, fchmod, futimens};
use nix::sys::time::TimeSpec;
use nix::unistd::{fchown, fchownat, getegid, geteuid};

/// No installation has more levels.
const DEEPEST: usize = 100;

/// The time of all files: 2020-01-01. Installers give each file the time of the installation, and the signature cache
/// recognises programs by their size and time.
const TIME: i64 = 1_577_836_800;

/// Gives everything to the agent, if that is root. From the top down: what lies in a directory that others can no longer
/// write stays there. `installed_by` is the user that ran the installer. Blocks.
///
/// # Errors
/// Machine, if something cannot be changed, or if another user owns it.
pub fn seal(directory: &Path, installed_by: u32) -> Result<()> {
    let mut seal = Seal { is_root: geteuid().is_root(), installed_by, closed: HashSet::new() };
    let closed =
        DirHandle::open_with(directory, Links::Refuse, Access::Read).and_then(|top| seal.close(&top, 0));
    closed.map_err(|error| {
        Error::machine(format!("the buildtools in {} cannot be made read-only", directory.display()))
            .because(&error)
    })
}

struct Seal {
    is_root: bool,
    installed_by: u32,
    /// Device and inode of files with several names: they come once for each name.
    closed: HashSet<(u64, u64)>,
}

impl Seal {
    fn close(&mut self, directory: &DirHandle, depth: usize) -> IoResult<()> {
        if depth > DEEPEST {
            return Err(IoError::other("the directories are nested too deep"));
        }
        if self.is_root {
            own(directory, 0o755)?;
        }
        for entry in directory.entries()? {
            let name = entry?.name;
            match directory.metadata(&name)?.kind() {
                Kind::Directory => self.close(&directory.open_dir(&name)?, depth + 1)?,
                Kind::File => {
                    let (file, facts) = directory.open_file(&name)?;
                    let identity = (facts.device, facts.inode);
                    if self.is_root && !self.closed.contains(&identity) {
                        // Another user's file with a second name here: it must not become readable for all.
                        if facts.owner != self.installed_by {
                            return Err(IoError::other(format!("{name:?} belongs to uid {}", facts.owner)));
                        }
                        own(&file, if facts.mode & 0o111 == 0 { 0o644 } else { 0o755 })?;
                        if facts.links > 1 {
                            self.closed.insert(identity);
                        }
                    }
                    let time = TimeSpec::new(TIME, 0);
                    futimens(&file, &time, &time)?;
                }
                Kind::Link if self.is_root => {
                    let (user, group) = (Some(geteuid()), Some(getegid()));
                    fchownat(directory, name.as_os_str(), user, group, AtFlags::AT_SYMLINK_NOFOLLOW)?;
                }
                Kind::Link => {}
                _ => return Err(IoError::other(format!("{name:?} is neither file, directory nor link"))),
            }
        }
        Ok(())
    }
}

fn own(file: impl AsFd, mode: u32) -> IoResult<()> {
    fchown(&file, Some(geteuid()), Some(getegid()))?;
    Ok(fchmod(&file, Mode::from_bits_truncate(mode))?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs::Permissions;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use fs_err as fs;

    use super::*;

    #[test]
    fn an_installation_is_closed_and_has_one_time() {
        let top = tempfile::tempdir().unwrap();
        let at = |name: &str| top.path().join("tools").join(name);
        fs::create_dir_all(at("bin")).unwrap();
        for (name, mode) in [("bin/python3", 0o4777), ("bin/data", 0o666)] {
            fs::write(at(name), name).unwrap();
            fs::set_permissions(at(name), Permissions::from_mode(mode)).unwrap();
        }
        let outside = top.path().join("outside");
        fs::write(&outside, "x").unwrap();
        fs::set_permissions(&outside, Permissions::from_mode(0o666)).unwrap();
        symlink(&outside, at("bin/link")).unwrap();
        fs::hard_link(at("bin/data"), at("bin/data-of-two-names")).unwrap();
        let uid = geteuid().as_raw();
        seal(&top.path().join("tools"), uid).unwrap();
        let metadata = |name: &str| fs::metadata(at(name)).unwrap();
        assert_eq!([metadata("bin/python3").mtime(), metadata("bin/data").mtime()], [TIME, TIME]);
        assert_ne!(fs::metadata(&outside).unwrap().mtime(), TIME, "links are not followed");
        assert_eq!(fs::metadata(&outside).unwrap().mode() & 0o7777, 0o666);
        if geteuid().is_root() {
            let modes = ["bin", "bin/python3", "bin/data"].map(|name| metadata(name).mode() & 0o7777);
            assert_eq!(modes, [0o755, 0o755, 0o644]);
        }
        let second_name = ["bin/data", "bin/data-of-two-names"].map(|name| metadata(name).ino());
        assert_eq!(second_name[0], second_name[1]);
        assert!(seal(&at("bin/link"), uid).is_err());
        nix::unistd::mkfifo(&at("bin/pipe"), Mode::from_bits_truncate(0o600)).unwrap();
        assert!(seal(&top.path().join("tools"), uid).is_err());
    }

    /// An installer may give a file of another user a second name.
    #[test]
    fn a_file_of_another_user_stays_as_it_is() {
        if !geteuid().is_root() {
            return;
        }
        let top = tempfile::tempdir().unwrap();
        let (tools, secret) = (top.path().join("tools"), top.path().join("secret"));
        fs::create_dir(&tools).unwrap();
        std::os::unix::fs::chown(&tools, Some(65_432), Some(65_432)).unwrap();
        fs::write(&secret, "x").unwrap();
        fs::set_permissions(&secret, Permissions::from_mode(0o600)).unwrap();
        fs::hard_link(&secret, tools.join("data")).unwrap();
        let error = seal(&tools, 65_432).unwrap_err();
        assert!(error.to_string().contains("belongs to uid 0"), "{error}");
        assert_eq!(fs::metadata(&secret).unwrap().mode() & 0o7777, 0o600);
    }
}
