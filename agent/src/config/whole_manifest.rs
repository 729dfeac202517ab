//! The whole manifest: the file that was asked for, what it includes, and what the flags override.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use agent_fs::untrusted;
use agent_types::error::{Error, Result};

use super::cell;
use super::definition::Translated;
use super::environment::AgentEnvironment;
use super::include::{self, Included, Missing};
use super::included_repo::IncludedRepo;
use super::manifest::UnvalidatedManifest;
use super::paths::ProjectRoot;
use super::problem::{Diagnostic, KeyPath, Problems};
use super::repos::{self, Repos, Surroundings};
use super::request::Request;
use super::settings::{GitSource, RepoSource, Secret};
use super::tree::{self, Node};
use super::validator::Validator;
use super::{flags, lock_file, matrix, old_keys, placeholders, render, structure};

/// What was read; or the repositories that have to be fetched first, because the manifest includes files of them.
#[derive(Debug)]
pub enum Loaded<T> {
    Ready(T),
    Needs(Vec<RepoToInclude>),
}

impl<T> Loaded<T> {
    /// # Errors
    /// Internal, if repositories are needed.
    pub fn ready(self) -> Result<T> {
        match self {
            Loaded::Ready(ready) => Ok(ready),
            Loaded::Needs(_) => Err(Error::internal("a manifest was read without its included repositories")),
        }
    }
}

/// A repository that the manifest includes files from.
#[derive(Clone, Debug)]
pub struct RepoToInclude {
    pub name: String,
    pub source: GitSource,
    /// Those in its address.
    pub secrets: Vec<Secret>,
}

/// A manifest with its included files.
#[derive(Debug)]
pub struct Whole {
    /// All files, merged, with the flags.
    pub tree: Node,
    /// Each file's own tree. Later ones win; the last is the manifest's.
    pub parts: Vec<Node>,
    /// Without included files, the manifest's own text, else one that says the same.
    pub text: Vec<u8>,
    /// The texts of all files, by their names in messages.
    pub texts: Vec<(String, Vec<u8>)>,
    /// The included files of the checkout under test, absolute.
    pub local: Vec<PathBuf>,
    /// The repositories that files were included from.
    pub repos: Vec<IncludedRepo>,
}

/// Reads the request's manifest. `None`, if it is not TOML, which is a problem.
///
/// # Errors
/// Usage, if its file cannot be read.
pub fn read(
    request: &Request,
    env: &AgentEnvironment,
    cwd: &Path,
    project_root: &ProjectRoot,
    problems: &mut Problems,
) -> Result<Option<Loaded<Whole>>> {
    if let Some(definition) = &request.definition {
        if let Some(id) = &request.cell {
            return Err(cell::no_matrix(id));
        }
        return Ok(Some(Loaded::Ready(of_definition(definition, project_root))));
    }
    let bytes = text(request, project_root)?;
    let Some(top) = parse(&bytes, project_root, problems) else { return Ok(None) };
    let around = Surroundings { project_root, cwd, codebuild: env.codebuild.as_ref() };
    let mut available = request.included.clone();
    loop {
        let mut found = Problems::default();
        let mut included = include::read(top.clone(), project_root, &available, &mut found);
        if !available.is_empty() {
            let mut foreign = Problems::default();
            cell::reject_foreign_matrix(&top, &included.tree, project_root, &mut foreign);
            if !foreign.is_empty() {
                problems.append(foreign);
                return Ok(None);
            }
        }
        let mut tree = included.tree.clone();
        let cell = cell::of_request(&tree, request, &mut found)?;
        if let Some(cell) = &cell {
            matrix::overlay(&mut tree, cell, &mut found);
            let mut values = Node::table(tree.place.clone());
            matrix::overlay(&mut values, cell, &mut Problems::default());
            included.parts.push(values);
        }
        flags::apply(&mut tree, &request.set, &mut found);
        if let Some(cell) = &cell {
            matrix::reject_flags(&tree, cell, &mut found);
        }
        include::reject_flags(&tree, &mut found);
        matrix::take(&mut tree);
        placeholders::fill(&mut tree, &mut found);
        // With other problems, nothing is fetched.
        let wanted = match found.is_empty() {
            true => wanted(&tree, &included.missing, request, project_root, &around, &mut found),
            false => Wanted::default(),
        };
        if !wanted.git.is_empty() {
            return Ok(Some(Loaded::Needs(wanted.git)));
        }
        if wanted.local.is_empty() {
            problems.append(found);
            return Ok(Some(Loaded::Ready(whole(bytes, project_root, included, tree, available))));
        }
        available.extend(wanted.local);
    }
}

/// The text of the request's manifest.
///
/// # Errors
/// Usage, if its file cannot be read.
pub(super) fn text(request: &Request, project_root: &ProjectRoot) -> Result<Vec<u8>> {
    match (&request.manifest_text, &project_root.manifest) {
        (Some((_, text)), _) => Ok(text.clone().into_bytes()),
        (None, Some(file)) => untrusted::read_named(file, untrusted::PAGE)
            .map_err(|error| Error::usage("cannot read the manifest").because(&error)),
        (None, None) => Err(Error::internal("a manifest without text and without file")),
    }
}

/// The tree of the manifest's own file. `None`, if it is not TOML, which is a problem.
pub(super) fn parse(bytes: &[u8], project_root: &ProjectRoot, problems: &mut Problems) -> Option<Node> {
    let mut top = tree::parse_bytes(&project_root.manifest_name, bytes, problems)?;
    old_keys::rename(&mut top);
    Some(top)
}

/// The manifest that a definition of another tool means.
fn of_definition(definition: &Translated, project_root: &ProjectRoot) -> Whole {
    let (tree, name) = (definition.tree.clone(), project_root.manifest_name.clone());
    Whole {
        parts: vec![tree.clone()],
        text: definition.manifest_text(&BTreeSet::new()).into_bytes(),
        texts: vec![(name, definition.text.clone())],
        local: definition.files.clone(),
        repos: Vec::new(),
        tree,
    }
}

fn whole(
    bytes: Vec<u8>,
    project_root: &ProjectRoot,
    included: Included,
    tree: Node,
    repos: Vec<IncludedRepo>,
) -> Whole {
    let Included { tree: merged, parts, local, texts, .. } = included;
    let text = match texts.is_empty() {
        true => bytes.clone(),
        false => {
            let name = &project_root.manifest_name;
            let names: Vec<&str> = texts.iter().map(|(name, _)| name.as_str()).collect();
            let head = format!("# {name} with the files that it includes: {}\n", names.join(", "));
            (head.replace(char::is_control, " ").trim_end().to_owned() + "\n" + &render::toml(&merged))
                .into_bytes()
        }
    };
    let own = (project_root.manifest_name.clone(), bytes);
    Whole { tree, parts, text, texts: [vec![own], texts].concat(), local, repos }
}

/// The definitions of the repositories that files are included from.
#[derive(Default)]
struct Wanted {
    /// Local directories need no fetch.
    local: Vec<IncludedRepo>,
    git: Vec<RepoToInclude>,
}

fn wanted(
    tree: &Node,
    missing: &[Missing],
    request: &Request,
    project_root: &ProjectRoot,
    around: &Surroundings,
    problems: &mut Problems,
) -> Wanted {
    let mut wanted = Wanted::default();
    if missing.is_empty() {
        return wanted;
    }
    // Problems elsewhere are reported when the manifest is complete.
    let mut elsewhere = Problems::default();
    let (raw, meant): (UnvalidatedManifest, _) = structure::read(tree, &mut elsewhere);
    let mut check = Validator { tree, problems: &mut elsewhere, meant };
    let mut defined = repos::validate(&mut check, &raw, around);
    match request.ignore_lock {
        false => lock_file::apply(request, project_root, tree, &mut defined, &mut elsewhere),
        true => keep_pins(&mut defined, request),
    }
    let mut is_undefined = false;
    for Missing { repo: name, place } in missing {
        let is_new = !wanted.local.iter().any(|repo| repo.name == *name)
            && !wanted.git.iter().any(|repo| repo.name == *name);
        match defined.repos.iter().find(|repo| repo.name == *name).map(|repo| repo.source.clone()) {
            Some(_) if !is_new => {}
            Some(RepoSource::Path(path)) => wanted.local.push(IncludedRepo {
                name: name.clone(),
                root: path.clone(),
                source: RepoSource::Path(path),
                commit: None,
            }),
            Some(RepoSource::Git(source)) => wanted.git.push(RepoToInclude {
                name: name.clone(),
                source,
                secrets: defined.secrets.clone(),
            }),
            None => {
                let path = KeyPath::root().key("repos").key(name);
                let mistake = Diagnostic::new(format!("no valid {} is defined", path.as_table()));
                let hint = "define the repository in the manifest, or in a file that is included before";
                problems.add(place.clone(), Some("include".into()), mistake.hint(hint));
                is_undefined = true;
            }
        }
    }
    if is_undefined {
        // They say why a definition is not valid.
        problems.append(elsewhere);
        return Wanted::default();
    }
    wanted
}

/// Pins the repositories that `build-agent lock` does not update.
fn keep_pins(repos: &mut Repos, request: &Request) {
    for repo in &mut repos.repos {
        let RepoSource::Git(source) = &mut repo.source else { continue };
        source.locked = request.kept_pins.find(&repo.name, source).map(|kept| kept.commit.clone());
    }
}

/// Pins the repositories that files were included from to the commits of these files: both must be of one commit.
/// A file must not change the repository that it comes from.
pub fn pin_included(included: &[IncludedRepo], tree: &Node, repos: &mut Repos, problems: &mut Problems) {
    for used in included {
        let Some(repo) = repos.repos.iter_mut().find(|repo| repo.name == used.name) else { continue };
        let is_same = match (&repo.source, &used.source) {
            (RepoSource::Git(now), RepoSource::Git(then)) => {
                (&now.url, &now.wanted) == (&then.url, &then.wanted)
            }
            (now, then) => now == then,
        };
        let path = KeyPath::root().key("repos").key(&used.name);
        if !is_same {
            let message = "is changed by a file that is included from it, or after it was read";
            let hint = "define the repository in the manifest alone";
            problems.add(tree.place(&path), Some(path.as_table()), Diagnostic::new(message).hint(hint));
        }
        if let RepoSource::Git(source) = &mut repo.source {
            source.locked = source.locked.take().or_else(|| used.commit.clone());
        }
    }
}
