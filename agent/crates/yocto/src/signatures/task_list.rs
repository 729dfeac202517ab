//! The tasks of a query and their signatures, as `bitbake_tasks.py` writes them.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use agent_types::error::{Error, Result};

/// The targets besides `world`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Query {
    /// All recipes of these layers, and those to which they append, are targets.
    pub layers: Vec<PathBuf>,
    /// The manifest's.
    pub targets: Vec<String>,
    /// The file in the build directory that gets the answer.
    pub output: String,
}

/// All recipes and tasks of one side of a change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TaskList {
    pub recipes: Vec<Recipe>,
    pub skipped: Vec<Skipped>,
    pub tasks: Vec<Task>,
    /// Targets of the query, each with its recipe.
    pub targets: Vec<(String, usize)>,
    /// By recipe.
    pub variables: HashMap<usize, Variables>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// `PN`, with the multiconfig in front: `mc:x:zlib`.
    pub name: String,
    pub file: PathBuf,
    /// A layer of the query has its file, or appends to it.
    pub is_own: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    pub name: String,
    pub file: PathBuf,
    pub reason: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    pub recipe: usize,
    pub name: String,
    pub hash: String,
    /// The hash of its variables, without dependencies.
    pub basehash: String,
    /// Numbers of tasks.
    pub depends: Vec<usize>,
    /// Local files with their checksums.
    pub files: Vec<(String, String)>,
}

/// The variables of a recipe: digests of their values, and which of them each task uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Variables {
    pub names: Vec<String>,
    pub digests: Vec<String>,
    pub tasks: HashMap<String, Vec<usize>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Recipe(String, String, String, bool),
    Skipped(String, String, String, String),
    Task(usize, String, String, String, Vec<usize>, Vec<(String, String)>),
    Target(String, usize),
    Variables(usize, Vec<String>, Vec<String>, HashMap<String, Vec<usize>>),
    End(usize),
}

impl TaskList {
    /// Parses the output.
    ///
    /// # Errors
    /// When it is incomplete: its last line counts the others.
    pub fn parse(bytes: &[u8]) -> Result<TaskList> {
        let bad = |number: usize, what: &str| {
            Error::internal(format!("line {number} of BitBake's task list {what}"))
        };
        let mut list = TaskList::default();
        let mut ended = false;
        for (number, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            if line.is_empty() {
                continue;
            }
            if ended {
                return Err(bad(number + 1, "comes after its end"));
            }
            let line: Line = serde_json::from_slice(line)
                .map_err(|error| bad(number + 1, "makes no sense").because(&error))?;
            match line {
                Line::Recipe(context, name, file, is_own) => {
                    list.recipes.push(Recipe { name: full(&context, &name), file: path_in(&file), is_own });
                }
                Line::Skipped(context, name, file, reason) => {
                    let (name, file) = (full(&context, &name), path_in(&file));
                    list.skipped.push(Skipped { name, file, reason });
                }
                Line::Task(recipe, name, hash, basehash, depends, files) => {
                    list.tasks.push(Task { recipe, name, hash, basehash, depends, files });
                }
                Line::Target(word, recipe) => list.targets.push((word, recipe)),
                Line::Variables(recipe, names, digests, tasks) => {
                    list.variables.insert(recipe, Variables { names, digests, tasks });
                }
                Line::End(count) if count == number => ended = true,
                Line::End(_) => return Err(bad(number + 1, "counts other lines than there are")),
            }
        }
        match ended && list.is_consistent() {
            true => Ok(list),
            false => Err(Error::internal("BitBake's task list is not whole")),
        }
    }

    /// Whether all numbers name something.
    fn is_consistent(&self) -> bool {
        let (recipes, tasks) = (self.recipes.len(), self.tasks.len());
        let is_task = |task: &Task| task.recipe < recipes && task.depends.iter().all(|one| *one < tasks);
        self.tasks.iter().all(is_task)
            && self.targets.iter().all(|(_, recipe)| *recipe < recipes)
            && self.variables.keys().all(|recipe| *recipe < recipes)
    }

    /// The recipes whose own file lies in one of these layers, each once, by name.
    pub fn recipes_in<'a>(&'a self, layers: &'a [PathBuf]) -> BTreeMap<&'a str, &'a Recipe> {
        let is_in = |recipe: &&Recipe| layers.iter().any(|layer| recipe.file.starts_with(layer));
        self.recipes.iter().filter(is_in).map(|recipe| (recipe.name.as_str(), recipe)).collect()
    }

    pub fn has_recipe(&self, name: &str) -> bool {
        self.recipes.iter().any(|recipe| recipe.name == name)
    }
}

fn full(context: &str, name: &str) -> String {
    if context.is_empty() { name.to_owned() } else { format!("mc:{context}:{name}") }
}

/// The path in `mc:NAME:virtual:CLASS:PATH`.
fn path_in(name: &str) -> PathBuf {
    Path::new(name.find('/').map_or(name, |start| &name[start..])).to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const WHOLE: [&str; 6] = [
        r#"{"recipe":["","foo-native","virtual:native:/l/recipes/foo_1.0.bb",true]}"#,
        r#"{"recipe":["x","bar","mc:x:/l/recipes/bar.bb",false]}"#,
        r#"{"skipped":["","baz","/l/recipes/baz.bb","incompatible with machine m"]}"#,
        r#"{"task":[0,"do_fetch","aa","bb",[],[["/l/recipes/foo/a.patch","cc"]]]}"#,
        r#"{"task":[1,"do_fetch","dd","ee",[0],[]]}"#,
        r#"{"target":["bar:do_fetch",1]}"#,
    ];

    fn text(lines: &[&str], end: usize) -> Vec<u8> {
        format!("{}\n{{\"end\":{end}}}\n", lines.join("\n")).into_bytes()
    }

    #[test]
    fn a_complete_list_is_read() {
        let list = TaskList::parse(&text(&WHOLE, 6)).unwrap();
        assert_eq!(list.recipes[0].file, Path::new("/l/recipes/foo_1.0.bb"));
        assert_eq!((list.recipes[1].name.as_str(), list.recipes[1].is_own), ("mc:x:bar", false));
        assert_eq!(list.skipped[0].reason, "incompatible with machine m");
        assert_eq!(list.tasks[1].depends, [0]);
        assert_eq!(list.targets, [("bar:do_fetch".to_owned(), 1)]);
    }

    #[test]
    fn an_incomplete_list_is_refused() {
        let mut after = text(&WHOLE, 6);
        after.extend(b"{\"target\":[\"x\",0]}\n");
        let dangling = [WHOLE[0], r#"{"task":[0,"do_fetch","aa","bb",[1],[]]}"#];
        for bytes in [
            b"".to_vec(),
            text(&WHOLE, 5),
            text(&WHOLE, 7),
            WHOLE.join("\n").into_bytes(),
            text(&["{\"task\":[0]}"], 1),
            text(&dangling, 2),
            after,
        ] {
            assert!(TaskList::parse(&bytes).is_err(), "{}", String::from_utf8_lossy(&bytes));
        }
    }
}
