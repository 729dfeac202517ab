//! What metadata can learn of a git repository besides the files: commit, branch, tags, remotes.
//!
//! OE-Core's `buildcfg` asks for the branch, the commit, `git describe --tags` and the remotes' addresses.
//! Whether something is uncommitted follows from the commit and the files, which are inputs anyway;
//! the index and the objects are git's own business.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::listing::Listing;
use super::{CacheResult, NotCacheable};
use agent_fs::read;

/// None of the files read here is larger.
const LONGEST: u64 = 64 << 20;

/// Adds the state of the repository whose work tree is `directory`, below `root`.
///
/// # Errors
/// When `.git` is nothing that git makes, or cannot be read.
pub fn add(listing: &mut Listing, root: &Path, directory: &Path) -> CacheResult<()> {
    let dot_git = directory.join(".git");
    let name = directory.strip_prefix(root).unwrap_or(directory).join(".git");
    let private = private_directory(&dot_git)?;
    let shared = match optional(&private.join("commondir"))? {
        Some(text) => private.join(path_of(&text)),
        None => private.clone(),
    };
    let Some(head) = optional(&private.join("HEAD"))? else {
        return Err(NotCacheable(format!("{} is no git repository", dot_git.display())));
    };
    listing.add_value(&name.join("HEAD"), &head);
    for file in ["packed-refs", "config", "shallow"] {
        if let Some(content) = optional(&shared.join(file))? {
            listing.add_value(&name.join(file), &content);
        }
    }
    if shared.join("reftable").symlink_metadata().is_ok() {
        return Err(NotCacheable(format!(
            "{} keeps its branches in a form that is not read here",
            dot_git.display()
        )));
    }
    let refs = shared.join("refs");
    for entry in WalkDir::new(&refs) {
        let entry = entry.map_err(|error| NotCacheable(format!("cannot read a repository: {error}")))?;
        if entry.file_type().is_file() {
            let reference = entry.path().strip_prefix(&refs).unwrap_or(entry.path());
            listing.add_value(&name.join("refs").join(reference), &read::whole(entry.path(), LONGEST)?);
        }
    }
    Ok(())
}

/// `.git` itself, or what it points to in work trees and submodules.
fn private_directory(dot_git: &Path) -> CacheResult<PathBuf> {
    if fs::metadata(dot_git)?.is_dir() {
        return Ok(dot_git.to_owned());
    }
    let text = read::whole(dot_git, LONGEST)?;
    let target = text
        .strip_prefix(b"gitdir: ")
        .ok_or_else(|| NotCacheable(format!("{} is nothing that git makes", dot_git.display())))?;
    let base = dot_git.parent().unwrap_or(dot_git);
    Ok(base.join(path_of(target)))
}

fn path_of(text: &[u8]) -> PathBuf {
    PathBuf::from(OsStr::from_bytes(text.trim_ascii_end()))
}

fn optional(path: &Path) -> CacheResult<Option<Vec<u8>>> {
    if path.symlink_metadata().is_err() {
        return Ok(None);
    }
    Ok(Some(read::whole(path, LONGEST)?))
}
