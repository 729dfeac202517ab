//! The whole resolved manifest, for people and other programs: one text that needs no other file.

use std::path::Path;

use serde_json::Value as Json;

use agent_types::error::Result;

use super::environment::AgentEnvironment;
use super::paths;
use super::problem::Problems;
use super::render;
use super::request::Request;
use super::settings::{Repo, RepoSource};
use super::tree::{Entry, Node, Value};
use super::whole_manifest::{Loaded, read};

/// A manifest with its included files, the flags, and the commits of its repositories as far as they are known.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved(Node);

/// Resolves the request's manifest. `repos` are those of its settings.
///
/// # Errors
/// Those of reading it.
pub fn resolved(
    request: &Request,
    env: &AgentEnvironment,
    cwd: &Path,
    repos: &[Repo],
) -> Result<Loaded<Resolved>> {
    let project_root = paths::find(request, env, cwd)?;
    let mut problems = Problems::default();
    let mut tree = match read(request, env, cwd, &project_root, &mut problems)? {
        Some(Loaded::Ready(whole)) if problems.is_empty() => whole.tree,
        Some(Loaded::Needs(repos)) => return Ok(Loaded::Needs(repos)),
        _ => return Err(problems.into()),
    };
    for repo in repos {
        let RepoSource::Git(source) = &repo.source else { continue };
        if let (Some(commit), Some(table)) = (&source.locked, table(&mut tree, &["repos", &repo.name])) {
            pin(table, commit);
        }
    }
    Ok(Loaded::Ready(Resolved(tree)))
}

fn table<'t>(tree: &'t mut Node, path: &[&str]) -> Option<&'t mut Node> {
    path.iter().try_fold(tree, |node, key| match &mut node.value {
        Value::Table(entries) => {
            entries.iter_mut().find(|entry| entry.key == *key).map(|entry| &mut entry.node)
        }
        _ => None,
    })
}

/// A tag may move, so only its commit stays. With signers it stays, too: the tag is signed, and not the commit.
fn pin(table: &mut Node, commit: &str) {
    let place = table.place.clone();
    let Value::Table(entries) = &mut table.value else { return };
    let is_signed = entries.iter().any(|entry| entry.key == "signers");
    entries.retain(|entry| entry.key != "commit" && (is_signed || entry.key != "tag"));
    let node = Node { place: place.clone(), text: String::new(), value: Value::String(commit.to_owned()) };
    entries.push(Entry { key: "commit".into(), place, node });
}

impl Resolved {
    pub fn toml(&self) -> String {
        render::toml(&self.0)
    }

    pub fn json(&self) -> Json {
        render::json(&self.0)
    }
}
