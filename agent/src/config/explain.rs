//! `plan --explain KEY`: where a value of the manifest comes from, and what it overrides.

use std::path::Path;

use serde_json::{Value as Json, json};

use agent_types::error::{Error, Result};

use super::environment::AgentEnvironment;
use super::flags;
use super::problem::{KeyPath, Place, Problems};
use super::render;
use super::request::Request;
use super::structure;
use super::tree::{Node, Value};
use super::whole_manifest::{Loaded, Whole, read};
use super::{manifest, paths};

/// Where the values at or below a key come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    key: String,
    /// What the key means.
    meaning: String,
    /// In the order of the manifest; empty if nothing sets it.
    values: Vec<Explained>,
}

/// A value that is not a table.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Explained {
    key: KeyPath,
    /// What applies, and what it overrides, the nearest first.
    said: Vec<Said>,
}

/// A value as a file or a flag has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    value: String,
    json: Json,
    place: Place,
}

/// Explains a key of the request's manifest.
///
/// # Errors
/// Usage, if it is not a key of manifests, or if a file cannot be read.
pub fn explain(
    request: &Request,
    env: &AgentEnvironment,
    cwd: &Path,
    key: &str,
) -> Result<Loaded<Explanation>> {
    let project_root = paths::find(request, env, cwd)?;
    let mut problems = Problems::default();
    let whole = match read(request, env, cwd, &project_root, &mut problems)? {
        Some(Loaded::Ready(whole)) if problems.is_empty() => whole,
        Some(Loaded::Needs(repos)) => return Ok(Loaded::Needs(repos)),
        _ => return Err(problems.into()),
    };
    of_whole(&whole, key).map(Loaded::Ready)
}

fn of_whole(whole: &Whole, key: &str) -> Result<Explanation> {
    let path = path(&whole.tree, key)?;
    let schema = manifest::schema();
    let meaning = structure::description(&schema, &path).ok_or_else(|| {
        Error::usage(format!("--explain {key}: a manifest has no such key"))
            .hint("docs/manifest.md describes all keys, and build-agent schema prints them")
    })?;
    let mut values = Vec::new();
    if let Some(node) = whole.tree.get(&path) {
        leaves(node, &path, &mut |path, node| {
            let said = |node: &Node| Said {
                value: render::inline(node),
                json: render::json(node),
                place: node.place.clone(),
            };
            let flag = Some(node).filter(|node| node.place.is_flag()).map(said);
            let files = whole.parts.iter().rev().filter_map(|part| part.get(path)).map(said);
            values.push(Explained { key: path.clone(), said: flag.into_iter().chain(files).collect() });
        });
    }
    Ok(Explanation { key: key.to_owned(), meaning, values })
}

/// The path of a dotted key.
fn path(tree: &Node, key: &str) -> Result<KeyPath> {
    let steps = flags::steps(key).map_err(|mistake| {
        Error::usage(format!("--explain {}", mistake.message)).hint(mistake.hint.unwrap_or_default())
    })?;
    Ok(steps.iter().fold(KeyPath::root(), |path, step| {
        let index = step.parse().ok();
        let is_list = tree.get(&path).is_some_and(|node| matches!(node.value, Value::Array(_)));
        match index {
            Some(index) if is_list => path.index(index),
            _ => path.key(step),
        }
    }))
}

/// Visits every value at or below `node` that is not a table.
fn leaves(node: &Node, path: &KeyPath, visit: &mut impl FnMut(&KeyPath, &Node)) {
    match &node.value {
        Value::Table(entries) => {
            for entry in entries {
                leaves(&entry.node, &path.key(&entry.key), visit);
            }
        }
        _ => visit(path, node),
    }
}

impl Explanation {
    pub fn text(&self) -> String {
        let mut text = String::new();
        for Explained { key, said } in &self.values {
            text += &format!("{key}\n");
            for (index, Said { value, place, .. }) in said.iter().enumerate() {
                let word = if index == 0 { "is" } else { "overrides" };
                let value = value.replace('\n', "\n             ");
                text += &format!("  {word:<10} {value}\n             at {place}\n");
            }
        }
        if self.values.is_empty() {
            text += &format!("{} is not set\n", self.key);
        }
        format!("{text}\n{}\n", self.meaning)
    }

    pub fn json(&self) -> Json {
        let said = |said: &Said| json!({ "value": said.json, "at": said.place.to_string() });
        let value = |Explained { key, said: all }: &Explained| {
            json!({
                "key": key.to_string(),
                "value": all.first().map(|first| &first.json),
                "at": all.first().map(|first| first.place.to_string()),
                "overrides": all.iter().skip(1).map(said).collect::<Vec<_>>(),
            })
        };
        json!({
            "schema": "build-agent/explain/v1",
            "key": self.key,
            "meaning": self.meaning,
            "values": self.values.iter().map(value).collect::<Vec<_>>(),
        })
    }
}
