//! kas: `build-agent run kas.yml`, `base.yml:board.yml`. The semantics are those of kas itself (`includehandler.py`,
//! `config.py`, `repos.py`, `libcmds.py`); the tests compare the two.

mod buildtools;
mod files;
mod format;
mod repos;
mod translate;

use std::path::PathBuf;

use super::super::problem::Problems;
use super::super::tree::Node;
use super::super::values;
use super::{Fetched, Missing, MissingPlace, Parts, Question, Surroundings, Tree};

/// The newest format of files whose keys are all known.
pub const NEWEST: i64 = 23;

/// Reads the files of the command line.
pub fn read(
    files: &[PathBuf],
    tree: &Tree,
    around: &Surroundings,
    fetched: &Fetched,
    problems: &mut Problems,
) -> Parts {
    let Some(loaded) = files::load(files, tree, fetched, around.updates, problems) else {
        return Parts::default();
    };
    let (manifest, mut notices) = translate::translate(&loaded.config, around, problems);
    notices.splice(0..0, loaded.notices);
    let missing = loaded.missing.iter().map(|key| missing(key, &loaded.config, around)).collect();
    let questions = questions(&loaded.config);
    let repos = loaded.config.child("repos").map(Node::entries).unwrap_or_default();
    let keys = repos.iter().map(|entry| (entry.key.clone(), name_of(&loaded.config, &entry.key).to_owned()));
    let keys = keys.collect();
    let files::Loaded { text, locks, files, .. } = loaded;
    Parts { manifest: Some(manifest), notices, text, missing, questions, locks, keys, files }
}

/// The name in the manifest of a repository.
fn name_of<'a>(config: &'a Node, key: &'a str) -> &'a str {
    let repo = config.child("repos").and_then(|repos| repos.child(key));
    repo.and_then(|repo| repo.child("name")).and_then(Node::as_text).unwrap_or(key)
}

fn missing(key: &str, config: &Node, around: &Surroundings) -> Missing {
    let repo = config.child("repos").and_then(|repos| repos.child(key));
    let place = repo.map(|repo| {
        if repo.child("url").is_some_and(|url| !url.is_null()) {
            return MissingPlace::Repo(name_of(config, key).to_owned());
        }
        MissingPlace::Directory(match repo.child("path").and_then(Node::as_text) {
            Some(path) => values::normal(&around.work_dir.join(path)),
            None => around.top.to_owned(),
        })
    });
    Missing { key: key.to_owned(), place }
}

/// The old word `refspec` may mean a tag.
fn questions(config: &Node) -> Vec<Question> {
    let default = config.child("defaults").and_then(|defaults| defaults.child("repos"));
    let default = default.and_then(|repos| repos.child("refspec"));
    let repos = config.child("repos").map(Node::entries).unwrap_or_default();
    let question = |entry: &super::super::tree::Entry| {
        let text = entry.node.child("refspec").or(default).and_then(Node::as_text)?;
        let name = name_of(config, &entry.key).to_owned();
        (!text.starts_with("refs/")).then(|| Question { key: entry.key.clone(), name, text: text.to_owned() })
    };
    repos.iter().filter_map(question).collect()
}
