//! Removes local links to objects that no longer exist on the share.
//!
//! For an object from a `file://` mirror, BitBake creates a link in its own directories. After the object is
//! pruned, the link blocks a new object of that name: `os.link` in `sstate.bbclass` assumes that another
//! process has just created it.

use std::io::ErrorKind;
use std::path::{Component, Path};

use walkdir::WalkDir;

use agent_types::error::Result;

use agent_types::share::Share;
use agent_types::tiers::Tiers;

/// Removes the links below `local` that point into the share but to no existing file. Returns their number.
/// Links to a tier that `tiers` does not read are removed without a check: that tier may hang, and the link
/// is useless. Other links are not touched. Blocks.
///
/// # Errors
/// If a link cannot be removed.
pub fn sweep(local: &Path, share: &Share, tiers: &Tiers) -> Result<u64> {
    let mut swept = 0;
    // Unreadable directories are skipped; BitBake will report them.
    let links = WalkDir::new(local).into_iter().flatten().filter(|entry| entry.path_is_symlink());
    for entry in links {
        let Ok(target) = std::fs::read_link(entry.path()) else { continue };
        if target.starts_with(share.root()) && leads_nowhere(&target, share, tiers) {
            agent_fs::remove::remove_file(entry.path(), local)?;
            swept += 1;
        }
    }
    Ok(swept)
}

fn leads_nowhere(target: &Path, share: &Share, tiers: &Tiers) -> bool {
    // The tiers of pull requests are below the share's directory, but do not belong to the shared tier.
    let part = match target.strip_prefix(share.pull_requests()) {
        Ok(inside) => {
            share.pull_requests().join(inside.components().next().map_or("".as_ref(), Component::as_os_str))
        }
        Err(_) => share.root().to_path_buf(),
    };
    let is_read = tiers.read.iter().any(|tier| tier.share.root() == part);
    let missing = || {
        let found = std::fs::symlink_metadata(target);
        found.is_err_and(|error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory))
    };
    !is_read || missing()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::os::unix::fs::symlink;

    use fs_err as fs;

    use super::*;
    use agent_types::tiers::{Access, Trust};

    #[test]
    fn removes_only_dangling_links_into_the_share() {
        let (local, share) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = &share.path().join("pr/x/share");
        let trust = Trust::Untrusted { why: String::new(), pull_request: Some(7) };
        let all = Tiers::new(&Share::new(root), Access::ReadOnly, &trust);
        for directory in ["sstate/ab", "pr/7/sstate", "pr/8/sstate"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        for object in ["sstate/ab/there", "pr/7/sstate/there", "pr/8/sstate/there"] {
            fs::write(root.join(object), "").unwrap();
        }
        let links = [
            ("there", root.join("sstate/ab/there")),
            ("gone", root.join("sstate/ab/gone")),
            ("gone-with-its-directory", root.join("sstate/ff/gone")),
            ("under-a-file", root.join("sstate/ab/there/gone")),
            ("own", root.join("pr/7/sstate/there")),
            ("own-gone", root.join("pr/7/sstate/gone")),
            ("of-another", root.join("pr/8/sstate/there")),
            ("elsewhere", "/nowhere/at/all".into()),
            ("relative", "gone".into()),
            ("new\nline", root.join("sstate/ab/gone")),
        ];
        let deep = local.path().join("universal/ab");
        let make = || {
            fs::create_dir_all(&deep).unwrap();
            for (name, target) in &links {
                let _ = fs::remove_file(deep.join(name));
                symlink(target, deep.join(name)).unwrap();
            }
            fs::write(deep.join("object"), "").unwrap();
        };
        let left = || {
            let names = fs::read_dir(&deep).unwrap().map(|entry| entry.unwrap().file_name());
            let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
            names.sort();
            names
        };
        make();
        assert_eq!(sweep(local.path(), &Share::new(root), &all).unwrap(), 6);
        assert_eq!(left(), ["elsewhere", "object", "own", "relative", "there"]);
        assert!(root.join("pr/8/sstate/there").exists(), "the target of a link is not touched");
        make();
        let shared_alone = Tiers { read: vec![all.read[1].clone()], write: None };
        sweep(local.path(), &Share::new(root), &shared_alone).unwrap();
        assert_eq!(left(), ["elsewhere", "object", "relative", "there"], "its own tier is not read");
        make();
        sweep(local.path(), &Share::new(root), &Tiers::default()).unwrap();
        assert_eq!(left(), ["elsewhere", "object", "relative"], "the share does not exist");
    }

    #[test]
    fn missing_local_directory_is_not_an_error() {
        let share = Share::new("/efs");
        assert_eq!(sweep(Path::new("/nowhere/at/all"), &share, &Tiers::default()).unwrap(), 0);
    }
}
