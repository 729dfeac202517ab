//! Definitions in the formats of other tools, translated into the tree of a manifest: every value keeps its position in
//! the file that it comes from. What a format says and this agent does not do is an error with the line.

mod address;
mod build;
mod kas;
mod lock;
mod merge;
mod release;
mod repo;
mod scalar;
mod setup;
mod shape;
mod translated;
mod write;
mod yaml;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use agent_fs::untrusted;
use agent_types::error::{Error, Result};

use super::environment::AgentEnvironment;
use super::paths::{self, ProjectRoot};
use super::problem::Problems;
use super::repos as manifest_repos;
use super::request::Request;
use super::rules::Rules;
use super::settings::{GitSource, Repo, RepoSource, Wanted};
use super::tree::Node;
use super::validator::Validator;
use super::{flags, structure, values};

use lock::LockFile;

pub use lock::{Float, Locks};
pub use release::{ReleaseFrom, release_in};
pub use translated::Translated;

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
    /// The address of the repository that holds the files.
    origin: Option<String>,
}

#[derive(Clone, Debug)]
struct FetchedRepo {
    path: PathBuf,
    /// Where its files are read: those of the checkout are rules, which may come from a base.
    read_in: PathBuf,
    source: RepoSource,
    commit: Option<String>,
}

impl Fetched {
    pub fn add(&mut self, key: String, source: RepoSource, path: PathBuf, commit: Option<String>) {
        self.repos.insert(key, FetchedRepo { read_in: path.clone(), path, source, commit });
    }

    /// The same with the files of local directories as the rules have them.
    fn by_rules(&self, project_root: &ProjectRoot) -> Fetched {
        let mut fetched = self.clone();
        for repo in fetched.repos.values_mut() {
            if matches!(repo.source, RepoSource::Path(_)) {
                repo.read_in = project_root.rules_file(&repo.path);
            }
        }
        fetched
    }

    /// What is known of the repository that holds the files.
    pub fn with_origin(origin: Option<String>) -> Fetched {
        Fetched { origin, ..Fetched::default() }
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
        Tree { top: self.read_in.clone(), named: self.path.clone(), prefix: format!("{key}:") }
    }
}

/// A directory whose files may include one another.
#[derive(Clone, Debug)]
pub struct Tree {
    /// Where its files are read.
    top: PathBuf,
    /// Where they are in the checkout: rules of a base are read elsewhere.
    named: PathBuf,
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

    /// Whether its files are those of the base of a change.
    fn is_of_base(&self) -> bool {
        self.top != self.named
    }

    /// The path in the checkout.
    fn named(&self, file: &Path) -> PathBuf {
        let real = fs_err::canonicalize(&self.top).unwrap_or_else(|_| self.top.clone());
        let inner = file.strip_prefix(&self.top).or_else(|_| file.strip_prefix(&real));
        inner.map_or_else(|_| file.to_owned(), |inner| self.named.join(inner))
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
    /// `--choose`
    pub choice: &'a [String],
    /// Old references that are tags.
    pub tags: &'a BTreeSet<(String, String)>,
    /// The pins of locks that are being replaced.
    pub updates: Option<&'a [String]>,
}

/// What a format says.
#[derive(Debug, Default)]
struct Parts {
    /// Without `release`; `None`: there is none, because of problems.
    manifest: Option<Node>,
    notices: Vec<String>,
    text: Vec<u8>,
    /// The repositories whose files are included and that are not there yet, with their sources in the format.
    missing: Vec<Missing>,
    questions: Vec<Question>,
    /// The locks, the one that gets new pins first; none: the format has no lock.
    locks: Vec<LockFile>,
    /// The names of the repositories in the manifest, by their keys.
    keys: Vec<(String, String)>,
    /// The files that were read, in the checkout.
    files: Vec<PathBuf>,
}

/// A repository that has to be there first.
#[derive(Debug)]
struct Missing {
    key: String,
    /// The name in the manifest, or a local directory; `None`: nothing defines it.
    place: Option<MissingPlace>,
}

#[derive(Debug)]
enum MissingPlace {
    Repo(String),
    Directory(PathBuf),
}

/// A reference that is a branch or a tag.
#[derive(Debug)]
struct Question {
    key: String,
    /// The name in the manifest.
    name: String,
    text: String,
}

/// Whether the request names a definition and not a manifest: by the names of its files.
pub fn is_definition(request: &Request) -> bool {
    request.definition_files().is_some()
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
    let is_inside = found.base.starts_with(&found.checkout);
    let top = if is_inside { found.checkout.clone() } else { paths::work_tree(&found.base) };
    let read_in = match &found.rules {
        Rules::OfBase(base) => base.trees.first().map_or_else(|| top.clone(), |tree| tree.root.clone()),
        Rules::OfCheckout | Rules::NoBase { .. } => top.clone(),
    };
    let files: Vec<PathBuf> =
        names.iter().map(|name| found.rules_file(&values::normal(&cwd.join(name)))).collect();
    let work_dir = variables.get("KAS_WORK_DIR").map_or_else(|| cwd.clone(), |dir| cwd.join(dir));
    let around = Surroundings {
        top: &top,
        checkout: &found.checkout,
        work_dir: &values::normal(&work_dir),
        files: &files,
        variables,
        choice: &request.choice,
        tags: &fetched.tags,
        updates: request.lock_updates.as_deref(),
    };
    let fetched = &fetched.by_rules(&found);
    let tree = Tree { top: read_in, named: top.clone(), prefix: String::new() };
    let mut problems = Problems::default();
    let parts = parts(&files, &tree, &around, fetched, &mut problems);
    let Some(mut manifest) = parts.manifest else { return Err(problems.into()) };
    flags::apply(&mut manifest, &request.set, &mut problems);
    let project_root = ProjectRoot { base: top.clone(), manifest: None, manifest_name: named, ..found };
    let repos = sources(&manifest, &project_root, &cwd, env);
    if !parts.missing.is_empty() {
        return needs(parts.missing, &repos, problems);
    }
    let questions = questions(parts.questions, &repos, fetched);
    if !questions.is_empty() {
        return Ok(Reading::Asks(questions));
    }
    if !problems.is_empty() {
        return Err(problems.into());
    }
    let floats = lock::floats(&parts.keys, &repos, fetched);
    pin_fetched(&mut manifest, &repos, fetched);
    let release = release::candidates(&repos);
    let locks = Locks { files: parts.locks, floats };
    let Parts { text, notices, files, .. } = parts;
    let translated = Translated { project_root, tree: manifest, text, notices, files, locks };
    Ok(Reading::Done(Box::new(translated), release))
}

/// Reads the files by the format of the first.
fn parts(
    files: &[PathBuf],
    tree: &Tree,
    around: &Surroundings,
    fetched: &Fetched,
    problems: &mut Problems,
) -> Parts {
    if let [file] = files
        && repo::is_manifest(file)
    {
        return repo::translate(file, tree, around, fetched.origin.as_deref(), problems);
    }
    if let [file] = files
        && let Some((root, text, notices)) = setup_file(file, tree)
    {
        let mut parts = setup::translate(file, &root, tree, around, problems);
        parts.notices.splice(0..0, notices);
        parts.text = text;
        return parts;
    }
    kas::read(files, tree, around, fetched, problems)
}

/// The content of a file of bitbake-setup.
fn setup_file(file: &Path, tree: &Tree) -> Option<(Node, Vec<u8>, Vec<String>)> {
    let is_json = file.extension().is_some_and(|end| end == "json");
    let bytes = untrusted::read_named(&tree.inside(file).ok().filter(|_| is_json)?, untrusted::PAGE).ok()?;
    // kas reports what is wrong in a file of its own.
    let (mut problems, mut notices) = (Problems::default(), Vec::new());
    let root = yaml::parse(&tree.shown(file), &bytes, yaml::Syntax::Json, &mut problems, &mut notices)?;
    setup::is_setup(&root).then_some((root, bytes, notices))
}

/// The repositories of the manifest, as far as they are valid: problems are reported when it is read as a whole.
fn sources(manifest: &Node, project_root: &ProjectRoot, cwd: &Path, env: &AgentEnvironment) -> Vec<Repo> {
    let mut problems = Problems::default();
    let (raw, meant): (super::manifest::UnvalidatedManifest, _) = structure::read(manifest, &mut problems);
    let mut check = Validator { tree: manifest, problems: &mut problems, meant };
    let around = manifest_repos::Surroundings { project_root, cwd, codebuild: env.codebuild.as_ref() };
    manifest_repos::validate(&mut check, &raw, &around).repos
}

/// The sources of missing repositories.
fn needs(missing: Vec<Missing>, repos: &[Repo], problems: Problems) -> Result<Reading> {
    let keys: Vec<String> = missing.iter().map(|missing| missing.key.clone()).collect();
    let source = |missing: Missing| {
        let source = match missing.place? {
            MissingPlace::Directory(path) => RepoSource::Path(path),
            MissingPlace::Repo(name) => repos.iter().find(|repo| repo.name == name)?.source.clone(),
        };
        Some((missing.key, source))
    };
    let wanted: Vec<_> = missing.into_iter().filter_map(source).collect();
    if !wanted.is_empty() {
        return Ok(Reading::Needs(wanted));
    }
    if !problems.is_empty() {
        return Err(problems.into());
    }
    let message = format!("files of {} are included, but no file defines it", keys.join(", "));
    Err(Error::usage(message).hint("define the repository in `repos`, with a URL and a reference"))
}

/// The questions that are still open, with their sources.
fn questions(
    questions: Vec<Question>,
    repos: &[Repo],
    fetched: &Fetched,
) -> Vec<(String, GitSource, String)> {
    let open = questions.into_iter().filter_map(|Question { key, name, text }| {
        let known = (key.clone(), text.clone());
        if fetched.tags.contains(&known) || fetched.branches.contains(&known) {
            return None;
        }
        match &repos.iter().find(|repo| repo.name == name)?.source {
            RepoSource::Git(source) if matches!(source.wanted, Wanted::Branch(_)) => {
                Some((key, source.clone(), text))
            }
            _ => None,
        }
    });
    open.collect()
}

/// A branch whose files were included stays at the commit that they were read from.
fn pin_fetched(manifest: &mut Node, repos: &[Repo], fetched: &Fetched) {
    for found in fetched.repos.values() {
        let is_branch =
            matches!(&found.source, RepoSource::Git(git) if matches!(git.wanted, Wanted::Branch(_)));
        let same = repos.iter().find(|repo| repo.source == found.source).filter(|_| is_branch);
        let (Some(commit), Some(repo)) = (&found.commit, same) else { continue };
        let tables = manifest.child_mut("repos").and_then(|repos| repos.child_mut(&repo.name));
        if let Some(table) = tables {
            let node = build::text(commit.as_str(), &table.place.clone());
            table.insert("commit", node);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests;
