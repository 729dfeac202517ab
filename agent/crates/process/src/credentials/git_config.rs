//! Tokens in the configuration of git's work trees. `actions/checkout` leaves one there for later steps, and whoever
//! reads the checkout can read it.

use std::path::{Path, PathBuf};

use super::facts::{Clue, Place};
use super::files;

/// Directories of submodules in submodules that are looked at.
const DEPTH: usize = 4;

/// The configuration of these work trees and their submodules.
pub fn in_checkouts(checkouts: &[PathBuf]) -> Vec<Clue> {
    let mut clues: Vec<Clue> = checkouts.iter().flat_map(|checkout| in_checkout(checkout)).collect();
    clues.sort_by(|one, other| one.place.cmp(&other.place));
    clues.dedup();
    clues
}

fn in_checkout(checkout: &Path) -> Vec<Clue> {
    let git = git_directory(checkout);
    let common = files::text(&git.join("commondir")).map(|path| git.join(path.trim()));
    let mut configs: Vec<PathBuf> =
        [Some(&git), common.as_ref()].into_iter().flatten().flat_map(|git| configs_of(git)).collect();
    of_submodules(&common.unwrap_or(git).join("modules"), DEPTH, &mut configs);
    let with_included = configs.into_iter().flat_map(|config| {
        let included = files::text(&config).map(|text| included(&text, &config)).unwrap_or_default();
        [config].into_iter().chain(included)
    });
    let has_token = |config: &PathBuf| files::text(config).is_some_and(|text| has_token(&text));
    let clue = |config: PathBuf| Clue {
        place: config.display().to_string(),
        kind: Place::GitConfig,
        holds: vec!["a token of git".into()],
    };
    with_included.filter(has_token).map(clue).collect()
}

/// `.git`, or the directory that the file `.git` of a linked work tree or submodule names.
fn git_directory(checkout: &Path) -> PathBuf {
    let dot_git = checkout.join(".git");
    match files::text(&dot_git) {
        Some(text) => checkout.join(text.strip_prefix("gitdir:").unwrap_or_default().trim()),
        None => dot_git,
    }
}

fn configs_of(git: &Path) -> [PathBuf; 2] {
    ["config", "config.worktree"].map(|name| git.join(name))
}

fn of_submodules(directory: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    for path in files::below(directory) {
        if path.join("HEAD").is_file() {
            found.extend(configs_of(&path));
            of_submodules(&path.join("modules"), depth.saturating_sub(1), found);
        } else if depth > 0 {
            of_submodules(&path, depth - 1, found);
        }
    }
}

/// The values of a file of git, with their keys in lower case.
fn entries(text: &str) -> impl Iterator<Item = (String, &str)> {
    text.lines().filter_map(|line| {
        // A section and a key can be in one line.
        let line = line.trim();
        let line = match line.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((_, rest)) => rest.trim(),
            None => line,
        };
        let (key, value) = line.split_once('=')?;
        Some((key.trim().to_ascii_lowercase(), value.trim().trim_matches('"')))
    })
}

fn has_token(text: &str) -> bool {
    entries(text).any(|(key, value)| match key.as_str() {
        "extraheader" => value.to_ascii_lowercase().starts_with("authorization:"),
        "url" | "pushurl" | "insteadof" | "pushinsteadof" => has_password(value),
        "helper" => value.starts_with('!') && value.contains("password="),
        "proxy" => has_password(value),
        _ => false,
    }) || text.lines().any(|line| line.trim_start().starts_with("[url ") && has_password(line))
}

/// `https://TOKEN@host` or `scheme://user:password@host`. A user alone is none for ssh.
fn has_password(text: &str) -> bool {
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let authority = rest.split(['/', '"', ' ']).next().unwrap_or_default();
    let Some((user, _)) = authority.rsplit_once('@') else { return false };
    let is_http = scheme.ends_with("https") || scheme.ends_with("http");
    user.contains(':') || (is_http && user != "git")
}

/// The files that an `[include]` or `[includeIf]` names.
fn included(text: &str, config: &Path) -> Vec<PathBuf> {
    let directory = config.parent().unwrap_or(config);
    let mut in_include = false;
    let mut paths = Vec::new();
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            in_include = line.to_ascii_lowercase().starts_with("[include");
        }
        let path = entries(line).find(|(key, _)| in_include && key == "path");
        paths.extend(path.map(|(_, path)| directory.join(path)));
    }
    paths
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn tokens_are_recognized_in_every_form() {
        for (text, wanted) in [
            ("[http \"https://github.com/\"]\n\textraheader = AUTHORIZATION: basic eA==\n", true),
            ("[http]\n\textraHeader = \"Authorization: bearer x\"", true),
            ("[http] extraheader=authorization: x", true),
            ("[http]\n\textraheader = X-Trace: 1", false),
            ("[remote \"origin\"]\n\turl = https://github.com/o/r\n", false),
            ("[remote \"origin\"]\n\turl = https://ghs_x@github.com/o/r\n", true),
            ("[remote \"origin\"]\n\turl = https://x-access-token:ghs_x@github.com/o/r\n", true),
            ("[remote \"origin\"]\n\turl = ssh://git@github.com/o/r\n\turl = git@github.com:o/r\n", false),
            ("[remote \"origin\"]\n\turl = https://git@github.com/o/r@x\n", false),
            ("[url \"https://ghs_x@github.com/\"]\n\tinsteadOf = https://github.com/", true),
            ("[url \"https://github.com/\"]\n\tinsteadOf = git@github.com:", false),
            ("[credential]\n\thelper = \"!f() { echo password=x; }; f\"", true),
            ("[credential]\n\thelper = store", false),
            ("[http]\n\tproxy = http://me:x@proxy:3128", true),
            ("", false),
        ] {
            assert_eq!(has_token(text), wanted, "{text}");
        }
    }

    #[test]
    fn submodules_linked_work_trees_and_included_files_count() {
        let top = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = top.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        let token = "[http]\n\textraheader = AUTHORIZATION: basic eA==\n";
        let found = |checkout: &str| -> Vec<String> {
            let clues = in_checkouts(&[top.path().join(checkout)]);
            let name =
                |clue: Clue| Path::new(&clue.place).strip_prefix(top.path()).unwrap().display().to_string();
            clues.into_iter().map(name).collect()
        };
        write("a/.git/HEAD", "ref: refs/heads/main\n");
        write("a/.git/config", "[core]\n\tbare = false\n");
        assert_eq!(found("a"), [""; 0]);
        assert_eq!(found("gone"), [""; 0]);
        write("a/.git/modules/deep/sub/HEAD", "x");
        write("a/.git/modules/deep/sub/config", token);
        assert_eq!(found("a"), ["a/.git/modules/deep/sub/config"]);
        fs::remove_dir_all(top.path().join("a/.git/modules")).unwrap();
        let secret = top.path().join("temp/git-credentials-1.config");
        let include = format!("[includeIf \"gitdir:/x/.git\"]\n\tpath = {}\n", secret.display());
        write("a/.git/config", &include);
        assert_eq!(found("a"), [""; 0], "the file is not there");
        write("temp/git-credentials-1.config", token);
        assert_eq!(found("a"), ["temp/git-credentials-1.config"]);
        write("a/.git/config", token);
        write("a/.git/worktrees/b/commondir", "../..\n");
        write("b/.git", &format!("gitdir: {}/a/.git/worktrees/b\n", top.path().display()));
        let shared = found("b");
        assert!(shared.len() == 1 && shared[0].ends_with("config"), "{shared:?}");
    }
}
