//! The lock beside a manifest: finds it, reads it and applies it.

use std::path::{Path, PathBuf};

use agent_fs::untrusted;
use agent_types::error::{Error, Result};

use super::environment::AgentEnvironment;
use super::lock;
use super::paths::{self, ProjectRoot};
use super::problem::{Diagnostic, Problems};
use super::repos::Repos;
use super::request::{Pins, Request};
use super::tree::Node;

/// Pins the repositories, if there is a lock, or pins of the command line in its place.
pub fn apply(
    request: &Request,
    project_root: &ProjectRoot,
    tree: &Node,
    repos: &mut Repos,
    problems: &mut Problems,
) {
    if let Some(Pins { name, text }) = &request.pins {
        if let Some(written) = lock::read(name, text, problems) {
            lock::pin_all(&written, name, tree, &mut repos.repos, problems);
        }
        return;
    }
    let Some(file) = lock_file(project_root) else { return };
    let of_rules = project_root.rules_file(&file);
    // A dangling link is not a lock, but must not disable pinning either.
    if fs_err::symlink_metadata(&of_rules).is_err() {
        return;
    }
    let name = beside(project_root, &file);
    let written = match untrusted::read_named(&of_rules, untrusted::PAGE) {
        Ok(bytes) => lock::read(&name, &bytes, problems),
        Err(error) => {
            let mistake = Diagnostic::new(format!("cannot read {name}: {error}"));
            problems.add(
                tree.place.clone(),
                None,
                mistake.hint("fix or delete it, then run build-agent lock"),
            );
            None
        }
    };
    if let Some(written) = written {
        let named = (project_root.manifest_name.as_str(), tree);
        lock::apply(&written, named, &mut repos.repos, problems, &mut repos.notices);
    }
}

/// The path of a file near the manifest, as messages show it.
pub fn beside(project_root: &ProjectRoot, file: &Path) -> String {
    let directory = Path::new(&project_root.manifest_name).parent().unwrap_or(Path::new(""));
    match file.strip_prefix(&project_root.base) {
        Ok(relative) => directory.join(relative).display().to_string(),
        Err(_) => file.display().to_string(),
    }
}

/// The path of a manifest's lock; a downloaded manifest has none.
pub fn lock_file(project_root: &ProjectRoot) -> Option<PathBuf> {
    project_root.manifest.as_ref().map(|_| project_root.base.join(lock::FILE_NAME))
}

/// The path of the lock for this request, whether it exists or not.
///
/// # Errors
/// If there is no manifest, or it was downloaded.
pub fn lock_path(request: &Request, env: &AgentEnvironment, cwd: &Path) -> Result<PathBuf> {
    let project_root = paths::find(request, env, cwd)?;
    lock_file(&project_root).ok_or_else(|| {
        Error::usage(format!(
            "`{}` is not on this machine, so it has no directory for a lock",
            project_root.manifest_name
        ))
        .hint("use a manifest that is a local file")
    })
}
