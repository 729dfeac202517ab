//! Definitions in the formats of other tools, translated into the tree of a manifest: every value keeps its position in
//! the file that it comes from. What a format says and this agent does not do is an error with the line.

mod address;
mod build;
mod kas;
mod merge;
mod release;
mod shape;
mod yaml;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use agent_types::error::{Error, Result};

use super::environment::AgentEnvironment;
use super::paths::{self, ProjectRoot};
use super::problem::Problems;
use super::repos as manifest_repos;
use super::request::Request;
use super::rules::Rules;
use super::settings::{GitSource, Repo, RepoSource};
use super::tree::Node;
use super::validator::Validator;
use super::{flags, structure, values};

pub use release::{ReleaseFrom, release_in};

/// A definition as a manifest.
#[derive(Clone, Debug, PartialEq)]
pub struct Translated {
    pub project_root: ProjectRoot,
    pub tree: Node,
    /// The texts of its files.
    pub text: Vec<u8>,
    pub notices: Vec<String>,
}

impl Eq for Translated {}

/// The result of reading a definition.
#[derive(Debug)]
pub enum Reading {
    /// Files of these repositories are included; read again when they are there.
    Needs(Vec<(String, RepoSource)>),
    /// Old references of which only the server knows whether they are tags or branches: key, source, text.
    Asks(Vec<(String, GitSource, String)>),
    /// Done; the release may be in one of these places.
    Done(Box<Translated>, Vec<ReleaseFrom>),
}

/// What was found out between two readings.
#[derive(Clone, Debug, Default)]
pub struct Fetched {
    repos: BTreeMap<String, FetchedRepo>,
    /// Old references that are tags.
    tags: BTreeSet<(String, String)>,
    branches: BTreeSet<(String, String)>,
}

#[derive(Clone, Debug)]
struct FetchedRepo {
    path: PathBuf,
    source: RepoSource,
    commit: Option<String>,
}

impl Fetched {
    pub fn add(&mut self, key: String, source: RepoSource, path: PathBuf, commit: Option<String>) {
        self.repos.insert(key, FetchedRepo { path, source, commit });
    }

    /// Remembers what an old reference is.
    pub fn answer(&mut self, key: String, text: String, is_tag: bool) {
        let known = if is_tag { &mut self.tags } else { &mut self.branches };
        known.insert((key, text));
    }

    fn get(&self, key: &str) -> Option<&FetchedRepo> {
        self.repos.get(key)
    }
}

impl FetchedRepo {
    fn tree(&self, key: &str) -> Tree {
        Tree { top: self.path.clone(), prefix: format!("{key}:") }
    }
}

/// A directory whose files may include one another.
#[derive(Clone, Debug)]
pub struct Tree {
    top: PathBuf,
    /// Before the names of its files in messages.
    prefix: String,
}

impl Tree {
    /// The path without links, if it stays in the directory.
    fn inside(&self, path: &Path) -> std::result::Result<PathBuf, String> {
        let top = fs_err::canonicalize(&self.top).map_err(|error| error.to_string())?;
        let plain = values::normal(path);
        let real = fs_err::canonicalize(&plain).unwrap_or_else(|_| match plain.strip_prefix(&self.top) {
            Ok(inner) => top.join(inner),
            Err(_) => plain.clone(),
        });
        match real.starts_with(&top) {
            true => Ok(real),
            false => Err(format!("`{}` lies outside of {}", self.shown(path), top.display())),
        }
    }

    fn shown(&self, file: &Path) -> String {
        let real = fs_err::canonicalize(&self.top).unwrap_or_else(|_| self.top.clone());
        let inner = file.strip_prefix(&self.top).or_else(|_| file.strip_prefix(&real));
        format!("{}{}", self.prefix, inner.unwrap_or(file).display())
    }
}

/// What the translation knows of this machine.
#[derive(Debug)]
pub struct Surroundings<'a> {
    /// The repository of the files.
    pub top: &'a Path,
    /// The checkout under test, without links.
    pub checkout: &'a Path,
    /// Where relative paths of repositories start.
    pub work_dir: &'a Path,
    pub files: &'a [PathBuf],
    pub variables: &'a BTreeMap<String, String>,
    /// Old references that are tags.
    pub tags: &'a BTreeSet<(String, String)>,
}

/// Whether the request names a definition and not a manifest: by the names of its files.
pub fn is_definition(request: &Request) -> bool {
    let Some(manifest) = &request.manifest else { return false };
    let is_other = |file: &str| [".yml", ".yaml", ".json"].iter().any(|end| file.ends_with(end));
    manifest.split(':').all(is_other)
}

/// Reads the definition that the request names. `variables` is the whole environment.
///
/// # Errors
/// Usage, with all problems.
pub fn read(
    request: &Request,
    env: &AgentEnvironment,
    variables: &BTreeMap<String, String>,
    cwd: &Path,
    fetched: &Fetched,
) -> Result<Reading> {
    let named = request.manifest.clone().unwrap_or_default();
    let names: Vec<&str> = named.split(':').collect();
    let first = Request { manifest: names.first().map(|name| (*name).to_owned()), ..request.clone() };
    let found = paths::find(&first, env, cwd)?;
    let cwd = fs_err::canonicalize(cwd)?;
    // The repository of the files, and where they are read: the base's, if the rules come from there.
    let top = if found.base.starts_with(&found.checkout) { found.checkout.clone() } else { paths::work_tree(&found.base) };
    let read_in = match &found.rules {
        Rules::OfBase(base) => base.trees.first().map_or_else(|| top.clone(), |tree| tree.root.clone()),
        Rules::OfCheckout | Rules::NoBase { .. } => top.clone(),
    };
    let files: Vec<PathBuf> = names.iter().map(|name| found.rules_file(&values::normal(&cwd.join(name)))).collect();
    let work_dir = variables.get("KAS_WORK_DIR").map_or_else(|| cwd.clone(), |dir| values::normal(&cwd.join(dir)));
    let around = Surroundings {
        top: &top,
        checkout: &found.checkout,
        work_dir: &work_dir,
        files: &files,
        variables,
        tags: &fetched.tags,
    };
    let tree = Tree { top: read_in, prefix: String::new() };
    let mut problems = Problems::default();
    let loaded = kas::files::load(&files, &tree, fetched, &mut problems).ok_or_else(|| Error::from(problems.clone()))?;
    let (mut manifest, mut notices) = kas::translate(&loaded.config, &around, &mut problems);
    flags::apply(&mut manifest, &request.set, &mut problems);
    let project_root = ProjectRoot { base: top.clone(), manifest: None, manifest_name: named, ..found };
    let repos = sources(&manifest, &project_root, &cwd, env);
    if !loaded.missing.is_empty() {
        let wanted = wanted(&loaded.missing, &loaded.config, &repos, &top, &work_dir);
        return match wanted.is_empty() && problems.is_empty() {
            true => {
                let message = format!("files of {} are included, but no file defines it", loaded.missing.join(", "));
                Err(Error::usage(message).hint("define the repository in `repos`"))
            }
            false if wanted.is_empty() => Err(problems.into()),
            false => Ok(Reading::Needs(wanted)),
        };
    }
    let questions = questions(&loaded.config, &repos, fetched);
    if !questions.is_empty() {
        return Ok(Reading::Asks(questions));
    }
    if !problems.is_empty() {
        return Err(problems.into());
    }
    pin_fetched(&mut manifest, &loaded.config, &repos, fetched);
    notices.splice(0..0, loaded.notices);
    let release = release::candidates(&repos);
    let translated = Translated { project_root, tree: manifest, text: loaded.text, notices };
    Ok(Reading::Done(Box::new(translated), release))
}

impl Translated {
    /// The same with a release, unless a flag names one.
    #[must_use]
    pub fn with_release(mut self, release: &str) -> Translated {
        let place = self.tree.place.clone();
        if let super::tree::Value::Table(entries) = &mut self.tree.value
            && !entries.iter().any(|entry| entry.key == "release")
        {
            let node = build::text(release, &place);
            entries.push(super::tree::Entry { key: "release".into(), place, node });
        }
        self
    }

    pub fn has_release(&self) -> bool {
        self.tree.child("release").is_some()
    }
}

/// The repositories of the manifest, as far as they are valid: problems are reported when it is read as a whole.
fn sources(manifest: &Node, project_root: &ProjectRoot, cwd: &Path, env: &AgentEnvironment) -> Vec<Repo> {
    let mut problems = Problems::default();
    let (raw, meant): (super::manifest::UnvalidatedManifest, _) = structure::read(manifest, &mut problems);
    let mut check = Validator { tree: manifest, problems: &mut problems, meant };
    let around = manifest_repos::Surroundings { project_root, cwd, codebuild: env.codebuild.as_ref() };
    manifest_repos::validate(&mut check, &raw, &around).repos
}

/// The name in the manifest of a repository of kas.
fn name_of<'a>(config: &'a Node, key: &'a str) -> &'a str {
    let repo = config.child("repos").and_then(|repos| repos.child(key));
    repo.and_then(|repo| repo.child("name")).and_then(Node::as_text).unwrap_or(key)
}

/// The sources of missing repositories.
fn wanted(missing: &[String], config: &Node, repos: &[Repo], top: &Path, work_dir: &Path) -> Vec<(String, RepoSource)> {
    let mut wanted = Vec::new();
    for key in missing {
        let Some(repo) = config.child("repos").and_then(|repos| repos.child(key)) else { continue };
        let is_local = repo.child("url").is_none_or(Node::is_null);
        let source = match is_local {
            true => Some(RepoSource::Path(match repo.child("path").and_then(Node::as_text) {
                Some(path) => values::normal(&work_dir.join(path)),
                None => top.to_owned(),
            })),
            false => {
                let name = name_of(config, key);
                repos.iter().find(|repo| repo.name == name).map(|repo| repo.source.clone())
            }
        };
        wanted.extend(source.map(|source| (key.clone(), source)));
    }
    wanted
}

/// Old references that may be tags.
fn questions(config: &Node, repos: &[Repo], fetched: &Fetched) -> Vec<(String, GitSource, String)> {
    let mut questions = Vec::new();
    let default = config.child("defaults").and_then(|defaults| defaults.child("repos"));
    let default = default.and_then(|repos| repos.child("refspec"));
    for entry in config.child("repos").map(Node::entries).unwrap_or_default() {
        let refspec = entry.node.child("refspec").or(default).and_then(Node::as_text);
        let Some(text) = refspec.filter(|text| !text.starts_with("refs/")) else { continue };
        let known = (entry.key.clone(), text.to_owned());
        if fetched.tags.contains(&known) || fetched.branches.contains(&known) {
            continue;
        }
        let name = name_of(config, &entry.key);
        let repo = repos.iter().find(|repo| repo.name == name);
        if let Some(Repo { source: RepoSource::Git(source), .. }) = repo
            && matches!(&source.wanted, super::settings::Wanted::Branch(_))
        {
            questions.push((entry.key.clone(), source.clone(), text.to_owned()));
        }
    }
    questions
}

/// A branch whose files were included stays at the commit that they were read from.
fn pin_fetched(manifest: &mut Node, config: &Node, repos: &[Repo], fetched: &Fetched) {
    for (key, found) in &fetched.repos {
        let name = name_of(config, key);
        let same = repos.iter().any(|repo| repo.name == name && repo.source == found.source);
        let is_branch =
            matches!(&found.source, RepoSource::Git(source) if matches!(source.wanted, super::settings::Wanted::Branch(_)));
        let Some(commit) = found.commit.as_ref().filter(|_| same && is_branch) else { continue };
        let super::tree::Value::Table(entries) = &mut manifest.value else { return };
        let tables = entries.iter_mut().filter(|entry| entry.key == "repos").map(|entry| &mut entry.node.value);
        for table in tables {
            let super::tree::Value::Table(repos) = table else { continue };
            for repo in repos.iter_mut().filter(|repo| repo.key == name) {
                let place = repo.node.place.clone();
                if let super::tree::Value::Table(keys) = &mut repo.node.value {
                    let node = build::text(commit.as_str(), &place);
                    keys.push(super::tree::Entry { key: "commit".into(), place, node });
                }
            }
        }
    }
}
