//! The text of the manifest that a definition means.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::super::problem::Place;
use super::super::render;
use super::super::tree::{Node, Value};
use super::translated::Translated;

/// Parts of the names of files that pin commits.
const LOCKS: [&str; 2] = [".lock.", "sources-fixed-revisions.json"];

impl Translated {
    /// The repositories with a branch whose commit comes from a lock of the definition.
    pub fn pinned_by_locks(&self) -> BTreeSet<String> {
        let is_pinned = |repo: &Node| {
            let commit = repo.child("commit").filter(|_| repo.child("branch").is_some());
            commit.is_some_and(|commit| match &commit.place {
                Place::File { file, .. } => LOCKS.iter().any(|lock| file.contains(lock)),
                Place::Flag(_) => false,
            })
        };
        let repos = self.tree.child("repos").map(Node::entries).unwrap_or_default();
        repos.iter().filter(|entry| is_pinned(&entry.node)).map(|entry| entry.key.clone()).collect()
    }

    /// The manifest, without the commits of the repositories that the lock pins.
    pub fn manifest_text(&self, pinned: &BTreeSet<String>) -> String {
        let mut tree = self.tree.clone();
        if let Some(Value::Table(repos)) = tree.child_mut("repos").map(|repos| &mut repos.value) {
            for repo in repos.iter_mut().filter(|repo| pinned.contains(&repo.key)) {
                if let Value::Table(keys) = &mut repo.node.value {
                    keys.retain(|entry| entry.key != "commit");
                }
            }
        }
        let mut text =
            format!("# Written by build-agent, from {}.\n", comment(&self.project_root.manifest_name));
        for notice in self.notices.iter().chain(&self.without_equal()) {
            // Writing into a String cannot fail.
            let _ = writeln!(text, "# {}", comment(notice));
        }
        text.push('\n');
        text + &render::toml(&tree)
    }

    /// What a manifest says in another way.
    fn without_equal(&self) -> Vec<String> {
        let config = self.tree.child("config");
        let local = config.and_then(|config| config.child("local_conf")).and_then(Node::as_text);
        let Some(local) = local else { return Vec::new() };
        let mut found = Vec::new();
        for variable in ["MACHINE", "DISTRO", "BBMULTICONFIG"] {
            let weak = local.lines().any(|line| {
                let rest = line.trim_start().strip_prefix(variable).map(str::trim_start);
                rest.is_some_and(|rest| rest.starts_with("?=") || rest.starts_with("??="))
            });
            if weak {
                found.push(format!(
                    "local_conf gives {variable} a default. In kas it counts; here the value of [config] does, which comes first."
                ));
            }
        }
        found
    }
}

/// One line without control characters.
fn comment(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
