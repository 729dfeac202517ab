//! Finds out whether a directory of the share can be read and written.
//!
//! [`look`] runs in a child process with a time limit, because access to a lost `hard` mount blocks in
//! uninterruptible sleep. [`judge`] is pure.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use fs_err as fs;
use serde::{Deserialize, Serialize};

use agent_types::tiers::{State, Tier, TierKind};

/// The result of one probe.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// Why it cannot be read, in the system's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreadable: Option<String>,
    pub missing: bool,
    pub empty: bool,
    /// Whether it is on the same device as `/`.
    pub on_root_disk: bool,
    /// File system of the mount, e.g. `nfs4`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_system: Option<String>,
    pub writing: Writing,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Writing {
    #[default]
    NotTried,
    Works,
    NoHardLinks(String),
    Fails(String),
}

/// The judgement about a tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    pub state: State,
    /// Why it can be used less than requested.
    pub reason: Option<String>,
    /// The fix. If set, the reason is a warning.
    pub fix: Option<String>,
}

/// Probes the directory `part` of the share `root`; `.` is the share itself. Blocks, and may never return.
/// Writing is tried in a temporary directory, which is removed.
pub fn look(root: &Path, part: &Path, write: bool) -> Look {
    let mut look = Look::default();
    let directory = match way(root, part, write) {
        Ok(directory) => directory,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Look { missing: true, unreadable: Some(error.to_string()), ..look };
        }
        Err(error) => return Look { unreadable: Some(error.to_string()), ..look },
    };
    match fs::read_dir(&directory).and_then(|mut entries| entries.next().transpose()) {
        Ok(first) => look.empty = first.is_none(),
        Err(error) => look.unreadable = Some(error.to_string()),
    }
    let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev()).ok();
    look.on_root_disk = device(&directory).is_some() && device(&directory) == device(Path::new("/"));
    look.file_system = file_system(&directory);
    if write {
        look.writing = match try_writing(&directory) {
            Ok(writing) => writing,
            Err(error) => Writing::Fails(error.to_string()),
        };
    }
    look
}

/// Opens the way to the directory. Other users may write there and create links, so no link is followed.
/// Creates a missing directory if it is to be written.
fn way(root: &Path, part: &Path, make: bool) -> io::Result<PathBuf> {
    let is_directory = |path: &Path, meta: std::fs::Metadata| match meta.is_dir() {
        true => Ok(()),
        false => Err(io::Error::other(format!("`{}` is not a directory", path.display()))),
    };
    is_directory(root, fs::metadata(root)?)?;
    let mut directory = root.to_path_buf();
    for component in part.components() {
        match component {
            Component::CurDir => continue,
            Component::Normal(name) => directory.push(name),
            _ => return Err(io::Error::other(format!("`{}` leads out of the share", part.display()))),
        }
        match fs::symlink_metadata(&directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound && make => {
                match fs::create_dir(&directory) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    made => made?,
                }
            }
            found => is_directory(&directory, found?)?,
        }
    }
    Ok(directory)
}

/// Tries every operation that publishing needs.
fn try_writing(directory: &Path) -> io::Result<Writing> {
    let place = tempfile::Builder::new().prefix(".build-agent.probe-").tempdir_in(directory)?.keep();
    let tried = try_in(&place);
    let removed = agent_fs::remove::remove_tree(&place, directory).map_err(io::Error::other);
    let writing = tried?;
    removed.map(|()| writing)
}

fn try_in(place: &Path) -> io::Result<Writing> {
    let [part, object, renamed] = ["part", "object", "renamed"].map(|name| place.join(name));
    let file = fs::File::create_new(&part)?;
    io::Write::write_all(&mut &file, b"build-agent\n")?;
    file.sync_all()?;
    drop(file);
    // Some network file systems report success but copy the file, so the link count must prove the link.
    if let Err(error) = fs::hard_link(&part, &object) {
        return Ok(Writing::NoHardLinks(error.to_string()));
    }
    let links = fs::metadata(&object)?.nlink();
    if links != 2 {
        return Ok(Writing::NoHardLinks(format!("a linked file has {links} names instead of 2")));
    }
    fs::rename(&object, &renamed)?;
    fs::symlink_metadata(&renamed)?;
    Ok(Writing::Works)
}

/// The file system type of a path, from `/proc/self/mountinfo` (proc(5)).
fn file_system(path: &Path) -> Option<String> {
    let path = fs::canonicalize(path).ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let mount = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let point = left.split(' ').nth(4)?.replace("\\040", " ");
        let kind = right.split(' ').next()?.to_owned();
        path.starts_with(&point).then_some((point.len(), kind))
    };
    // Of two mounts on one directory, the later one is visible.
    mounts.lines().filter_map(mount).max_by_key(|(length, _)| *length).map(|(_, kind)| kind)
}

/// Judges a tier. `agent` is the probe of the user who publishes, `builder` that of the user who runs
/// BitBake; an error says why a probe failed. `wanted` says whether the trust rules allow writing.
pub fn judge(
    tier: &Tier,
    wanted: bool,
    agent: &Result<Look, String>,
    builder: &Result<Look, String>,
) -> Judgement {
    let path = tier.share.root().display();
    let unusable =
        |reason: String, fix: Option<String>| Judgement { state: State::Unusable, reason: Some(reason), fix };
    let readers = match builder {
        Ok(look) => look,
        Err(why) => {
            let fix = "check whether its server is reachable: `df PATH` should return at once";
            return unusable(why.clone(), Some(fix.replace("PATH", &path.to_string())));
        }
    };
    if tier.kind == TierKind::PullRequest && readers.missing && !wanted {
        return unusable("it does not exist yet".into(), None);
    }
    if let Some(why) = &readers.unreadable {
        let fix = match readers.missing {
            true => format!("mount the share at {path}, or fix `[cache] share`"),
            false => format!("give the build user read access to {path}"),
        };
        return unusable(why.clone(), Some(fix));
    }
    let read_only = |reason: String, fix: String| Judgement {
        state: State::ReadOnly,
        reason: Some(reason),
        fix: Some(fix),
    };
    if wanted {
        let rights = format!("give the agent's user write access to {path}, or set `access = \"read-only\"`");
        match agent.as_ref().map(|look| &look.writing) {
            Ok(Writing::Works) => {}
            Ok(Writing::NoHardLinks(why)) => {
                let fix = "use a file system with hard links, such as EFS; nothing is published here";
                return read_only(format!("it has no hard links: {why}"), fix.into());
            }
            Ok(Writing::Fails(why)) => return read_only(why.clone(), rights),
            Ok(Writing::NotTried) => {
                return read_only("it is unknown whether it can be written".into(), rights);
            }
            Err(why) => return read_only(why.clone(), rights),
        }
    }
    let state = if wanted { State::ReadWrite } else { State::ReadOnly };
    // A mount point without its mount looks like this, and so does a new share of a single machine.
    let unmounted = tier.kind == TierKind::Shared && readers.empty && readers.on_root_disk;
    Judgement {
        state,
        reason: unmounted
            .then(|| "it is empty and on the file system of `/`, so it may not be mounted".into()),
        fix: unmounted.then(|| format!("if {path} should be a mount, mount it; otherwise ignore this")),
    }
}

#[cfg(test)]
#[path = "probe_tests.rs"]
mod tests;
