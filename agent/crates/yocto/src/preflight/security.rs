//! `test_security`: a SECURITY file in the layer or at the top of its git work tree.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use agent_fs::untrusted;
use agent_types::events::Level;
use agent_types::release::Release;

use super::since::{self, since};
use super::{PreflightCase, glob_would_misread};

const TEST: &str = "common.CommonCheckLayer.test_security";

pub fn check(layer: &Path, release: &Release) -> Vec<PreflightCase> {
    let Some(places) = places(layer) else { return Vec::new() };
    let (level, from) = if since(release, since::SECURITY) {
        (Level::Error, String::new())
    } else {
        (Level::Warning, format!(" (checked from {} on)", since::SECURITY))
    };
    let mut found = Vec::new();
    for place in &places {
        match security_file(place) {
            Ok(file) => found.extend(file),
            Err(_) => return Vec::new(),
        }
    }
    let Some(file) = found.first() else {
        let message = format!("neither the layer nor the top of its repository has a SECURITY file{from}");
        let hint = "add a SECURITY.md that describes how to report a vulnerability";
        return vec![PreflightCase::new("security-missing", TEST, level, message).at(layer).hint(hint)];
    };
    let empty = match std::fs::metadata(file) {
        Ok(metadata) => metadata.len() == 0,
        Err(error) => error.kind() == ErrorKind::NotFound,
    };
    // With several git work trees above the layer, git chooses; only a file in the layer itself is certain.
    if !empty || (found.len() > 1 && !file.starts_with(layer)) {
        return Vec::new();
    }
    let message = format!("`{}` is empty{from}", file.display());
    let hint = "describe how to report a vulnerability";
    vec![PreflightCase::new("security-empty", TEST, level, message).at(file).hint(hint)]
}

/// Where the tool searches: the layer, then the top of the git work tree. All directories with a `.git` above
/// the layer count, because git may reject the nearest. `None`, if it is unknown.
fn places(layer: &Path) -> Option<Vec<PathBuf>> {
    if glob_would_misread(layer) {
        return None;
    }
    let mut places = vec![layer.to_path_buf()];
    for above in layer.ancestors() {
        let git = above.join(".git");
        if !git.exists() {
            continue;
        }
        // `core.worktree` can set any top.
        if untrusted::read_text(&git.join("config"), untrusted::PAGE)
            .is_ok_and(|text| text.contains("worktree"))
        {
            return None;
        }
        if above != layer {
            places.push(above.to_path_buf());
        }
    }
    Some(places)
}

/// `SECURITY`, else the first of `SECURITY.*`. A dangling link counts as found.
fn security_file(dir: &Path) -> std::io::Result<Option<PathBuf>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name();
        let text = name.to_string_lossy();
        if text == "SECURITY" || text.starts_with("SECURITY.") {
            names.push(name);
        }
    }
    names.sort();
    Ok(names.first().map(|name| dir.join(name)))
}
