//! Patches of repositories: where each comes from. A patch can change what a check says, so those beside the manifest are
//! read where the manifest comes from.

use std::path::Path;

use agent_fs::untrusted;

use super::problem::Diagnostic;
use super::repo_files::{RepoFile, RepoFiles};
use super::settings::{Patch, PatchSource};
use super::values;

type Result<T> = std::result::Result<T, Diagnostic>;

/// The largest patch, in bytes.
pub const LARGEST: u64 = 16 << 20;

/// The patch that a text names: `REPO:PATH`, or a path relative to the manifest.
pub fn patch(text: &str, files: &RepoFiles) -> Result<Patch> {
    let source = match files.find(text)? {
        RepoFile::Repo { repo, path } => PatchSource::Repo { repo, path },
        RepoFile::Checkout(path) => {
            let root = files.project_root;
            let texts = texts(&root.rules_file(&path)).map_err(|why| {
                Diagnostic::new(format!("cannot read the patch `{text}`: {why}"))
                    .hint("name a patch file, or a directory with a quilt `series`")
            })?;
            PatchSource::Checkout { path: root.in_checkout(&path), texts }
        }
    };
    Ok(Patch { name: text.to_owned(), source })
}

/// The texts of a patch file, or of the files that the `series` of a directory names.
///
/// # Errors
/// Why it is not a patch.
pub fn texts(path: &Path) -> std::result::Result<Vec<Vec<u8>>, String> {
    let read = |path: &Path| untrusted::read_named(path, LARGEST).map_err(|error| error.to_string());
    if !path.is_dir() {
        return Ok(vec![read(path)?]);
    }
    let series = read(&path.join("series"))?;
    let series = String::from_utf8_lossy(&series);
    let names = series.lines().filter(|line| !line.starts_with('#'));
    let names = names.map(|line| line.split(" #").next().unwrap_or_default().trim_end());
    let inner = |name: &str| values::inner_path(name, "the directory").map_err(|mistake| mistake.message);
    names.filter(|name| !name.is_empty()).map(|name| read(&path.join(inner(name)?))).collect()
}
