//! `include`: reads the files that a manifest includes, and merges them.
//!
//! Later files win: a file overrides the files that it includes, and these override the files before them in the list.
//! Tables are merged. Everything else is replaced, also lists.

use std::path::{Component, Path, PathBuf};

use agent_fs::untrusted;

use super::included_repo::IncludedRepo;
use super::paths::{self, ProjectRoot};
use super::problem::{Diagnostic, Place, Problems};
use super::settings::RepoSource;
use super::tree::{self, Node, Value};
use super::{manifest, old_keys, values};

/// How deep files may include one another. Deeper is a mistake or an attack.
const MAX_DEPTH: usize = 16;

/// How many files one manifest may include. A file that is included twice counts twice.
const MAX_FILES: usize = 100;

/// The key.
const INCLUDE: &str = "include";

/// A manifest with its included files.
#[derive(Debug)]
pub struct Included {
    /// All files, merged.
    pub tree: Node,
    /// Each file's own tree. Later ones win; the last is the manifest's.
    pub parts: Vec<Node>,
    /// The included files of the checkout under test, absolute.
    pub local: Vec<PathBuf>,
    /// The texts of the included files, by their names in messages.
    pub texts: Vec<(String, Vec<u8>)>,
    /// The repositories from which files are included and that are not there yet.
    pub missing: Vec<Missing>,
}

/// An `include` of a file in a repository that is not there yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    pub repo: String,
    pub place: Place,
}

/// Reads all files that `top` includes, the manifest's own tree, and merges them.
pub fn read(
    top: Node,
    project_root: &ProjectRoot,
    repos: &[IncludedRepo],
    problems: &mut Problems,
) -> Included {
    let tree = Node::table(top.place.clone());
    let (parts, local, texts, missing) = Default::default();
    let included = Included { tree, parts, local, texts, missing };
    let mut reader = Reader { project_root, repos, problems, included, stack: Vec::new() };
    let origin = match &project_root.manifest {
        None => Origin { within: Within::Nothing, directory: PathBuf::new(), shown: PathBuf::new() },
        Some(file) => {
            let shown = Path::new(&project_root.manifest_name).parent().unwrap_or(Path::new(""));
            let name = file.file_name().unwrap_or_default();
            reader.stack.push(project_root.base.join(name));
            let (directory, shown) = (project_root.base.clone(), shown.to_owned());
            Origin { within: Within::Checkout, directory, shown }
        }
    };
    reader.add(&origin, top);
    reader.included
}

/// Overrides the values of a tree.
pub fn merge(under: &mut Node, over: Node) {
    let Node { place, text, value } = over;
    match (&mut under.value, value) {
        (Value::Table(entries), Value::Table(over)) => {
            for entry in over {
                match entries.iter_mut().find(|known| known.key == entry.key) {
                    Some(known) => {
                        known.place = entry.place;
                        merge(&mut known.node, entry.node);
                    }
                    None => entries.push(entry),
                }
            }
            under.place = place;
        }
        (_, value) => *under = Node { place, text, value },
    }
}

/// What contains a file: its includes must not lead out of it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Within {
    /// The checkout under test, or the work tree with the manifest.
    Checkout,
    /// A repository, by its index.
    Repo(usize),
    /// The manifest was downloaded.
    Nothing,
}

/// Where a file is.
#[derive(Clone, Debug)]
struct Origin {
    within: Within,
    /// Its directory: absolute in a checkout, relative in a repository.
    directory: PathBuf,
    /// The same directory in messages.
    shown: PathBuf,
}

/// A file to read.
struct Found {
    /// In a checkout or in the directory of a repository, before the base of a change replaces it.
    path: PathBuf,
    /// The file to read, and the directory that must contain it after links are resolved.
    real: PathBuf,
    boundary: PathBuf,
    name: String,
    origin: Origin,
}

struct Reader<'a> {
    project_root: &'a ProjectRoot,
    repos: &'a [IncludedRepo],
    problems: &'a mut Problems,
    included: Included,
    /// The files that are being read: each includes the next.
    stack: Vec<PathBuf>,
}

impl Reader<'_> {
    /// Adds what the file includes, and then the file itself.
    fn add(&mut self, origin: &Origin, mut file: Node) {
        for (text, place) in self.take_includes(&mut file) {
            match self.locate(origin, &text, &place) {
                Ok(Some(found)) => self.add_file(found, &place),
                Ok(None) => {}
                Err(mistake) => self.problem(&place, mistake),
            }
        }
        self.included.parts.push(file.clone());
        merge(&mut self.included.tree, file);
    }

    fn add_file(&mut self, found: Found, place: &Place) {
        if self.stack.contains(&found.path) {
            let mistake = Diagnostic::new(format!("`{}` includes itself", found.name));
            return self.problem(place, mistake.hint("remove one `include` of this circle"));
        }
        if self.stack.len() > MAX_DEPTH || self.included.texts.len() >= MAX_FILES {
            let message = format!("more than {MAX_DEPTH} levels or {MAX_FILES} files are included");
            return self.problem(place, Diagnostic::new(message).hint("merge some of the files"));
        }
        let bytes = match read_file(&found) {
            Ok(bytes) => bytes,
            Err(mistake) => return self.problem(place, mistake),
        };
        let tree = tree::parse_bytes(&found.name, &bytes, self.problems);
        self.included.texts.push((found.name, bytes));
        if found.origin.within == Within::Checkout {
            self.included.local.push(found.path.clone());
        }
        let Some(mut tree) = tree else { return };
        old_keys::rename(&mut tree);
        self.check_version(&tree);
        self.stack.push(found.path);
        self.add(&found.origin, tree);
        self.stack.pop();
    }

    /// The manifest's own version would hide another one.
    fn check_version(&mut self, tree: &Node) {
        let version = tree.entries().iter().find(|entry| entry.key == "version");
        if let Some(version) = version.filter(|version| version.node.value != Value::Integer(1)) {
            let text = &version.node.text;
            let mistake = Diagnostic::new(format!("is {text}, but this agent supports only 1"));
            self.problems.add(version.node.place.clone(), Some("version".into()), mistake);
        }
    }

    fn problem(&mut self, place: &Place, mistake: Diagnostic) {
        self.problems.add(place.clone(), Some(INCLUDE.into()), mistake);
    }

    /// Removes the key `include`, and returns its elements.
    fn take_includes(&mut self, file: &mut Node) -> Vec<(String, Place)> {
        let Value::Table(entries) = &mut file.value else { return Vec::new() };
        let Some(at) = entries.iter().position(|entry| entry.key == INCLUDE) else { return Vec::new() };
        let node = entries.remove(at).node;
        let Value::Array(items) = node.value else {
            let mistake = Diagnostic::new(format!("must be a list of strings, not {}", node.kind()));
            self.problem(&node.place, mistake.hint(format!("put it in brackets: [{}]", node.text)));
            return Vec::new();
        };
        let mut includes = Vec::new();
        for item in items {
            match item.value {
                Value::String(text) => includes.push((text, item.place)),
                _ => {
                    let mistake = Diagnostic::new(format!("must be a string, not {}", item.kind()));
                    self.problem(&item.place, mistake);
                }
            }
        }
        includes
    }

    /// The file that an `include` names; `None`, if its repository is not there yet.
    fn locate(&mut self, from: &Origin, text: &str, place: &Place) -> Result<Option<Found>, Diagnostic> {
        if text.contains("://") {
            return Err(Diagnostic::new(format!("`{text}` is an address"))
                .hint("name a repository in [repos], and include \"REPO:path\""));
        }
        if let Some((name, inner)) = text.split_once(':').filter(|(name, _)| !name.contains('/')) {
            if values::name(name).is_err() {
                return Err(Diagnostic::new(format!("`{name}` is not the name of a repository"))
                    .hint("write \"REPO:path\", or \"./file\" for a file whose name contains a colon"));
            }
            let Some(index) = self.repos.iter().position(|repo| repo.name == name) else {
                self.included.missing.push(Missing { repo: name.to_owned(), place: place.clone() });
                return Ok(None);
            };
            return self.in_repo(index, Path::new(""), inner).map(Some);
        }
        match &from.within {
            Within::Repo(index) => self.in_repo(*index, &from.directory, text).map(Some),
            Within::Checkout => self.in_checkout(from, text).map(Some),
            Within::Nothing => {
                Err(Diagnostic::new(format!("`{text}` is a local file, and the manifest was downloaded"))
                    .hint("name a repository in [repos], and include \"REPO:path\""))
            }
        }
    }

    fn in_checkout(&self, from: &Origin, text: &str) -> Result<Found, Diagnostic> {
        let root = self.project_root;
        // A manifest may be outside of the checkout under test.
        let top = match root.base.starts_with(&root.checkout) {
            true => root.checkout.clone(),
            false => paths::work_tree(&root.base),
        };
        let inner = from.directory.strip_prefix(&top).unwrap_or(Path::new("")).join(relative(text)?);
        let inner = values::inner_path(&inner.display().to_string(), "the repository of the manifest")?;
        let path = top.join(&inner);
        let real = root.rules_file(&path);
        let boundary = match real.starts_with(&top) {
            true => top,
            // The base of a change is in a directory of its own.
            false => root.rules.roots().find(|tree| real.starts_with(tree)).unwrap_or(&top).to_owned(),
        };
        let shown = shown_path(&from.shown.join(relative(text)?));
        let origin = Origin { within: Within::Checkout, directory: parent(&path), shown: parent(&shown) };
        Ok(Found { path, real, boundary, name: shown.display().to_string(), origin })
    }

    fn in_repo(&self, index: usize, directory: &Path, text: &str) -> Result<Found, Diagnostic> {
        let repo = &self.repos[index];
        let inner = directory.join(relative(text)?);
        let inner =
            values::inner_path(&inner.display().to_string(), &format!("the repository `{}`", repo.name))?;
        let path = repo.root.join(&inner);
        // A local directory may be a part of the checkout, and then the base of a change has its rules.
        let real = match &repo.source {
            RepoSource::Path(_) => self.project_root.rules_file(&path),
            RepoSource::Git(_) => path.clone(),
        };
        let in_base = self.project_root.rules.roots().find(|tree| real.starts_with(tree));
        let boundary = in_base.map_or_else(|| repo.root.clone(), Path::to_owned);
        let name = format!("{}:{}", repo.name, inner.display());
        let origin = Origin { within: Within::Repo(index), directory: parent(&inner), shown: PathBuf::new() };
        Ok(Found { path, real, boundary, name, origin })
    }
}

/// The path without `.` and, as far as that is clear, without `..`.
fn shown_path(path: &Path) -> PathBuf {
    let mut shown = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir if matches!(shown.components().next_back(), Some(Component::Normal(_))) => {
                shown.pop();
            }
            other => shown.push(other),
        }
    }
    shown
}

fn parent(path: &Path) -> PathBuf {
    path.parent().unwrap_or(Path::new("")).to_owned()
}

fn relative(text: &str) -> Result<&Path, Diagnostic> {
    match text {
        "" => Err(Diagnostic::new("is empty").hint("name a TOML file")),
        text if text.starts_with('/') => Err(Diagnostic::new(format!("`{text}` is an absolute path"))
            .hint("write it relative to the file that includes it")),
        text => Ok(Path::new(text)),
    }
}

/// The file's content. It must be in the repository, also after links are resolved.
fn read_file(found: &Found) -> Result<Vec<u8>, Diagnostic> {
    let name = &found.name;
    let real = match fs_err::canonicalize(&found.real) {
        Ok(real) => real,
        Err(_) => return Err(Diagnostic::new(format!("`{name}`: no such file"))),
    };
    let boundary = fs_err::canonicalize(&found.boundary).unwrap_or_else(|_| found.boundary.clone());
    if !real.starts_with(&boundary) {
        return Err(Diagnostic::new(format!("`{name}` is a link that leads out of its repository")));
    }
    untrusted::read_named(&real, untrusted::PAGE)
        .map_err(|error| Diagnostic::new(format!("cannot read `{name}`: {error}")))
}

/// Reports an `include` that is not from a file: `--set` comes after all files.
pub fn reject_flags(tree: &Node, problems: &mut Problems) {
    if let Some(entry) = tree.entries().iter().find(|entry| entry.key == INCLUDE) {
        let mistake = Diagnostic::new("a flag cannot include files");
        let hint = format!("write `include` into {}", manifest::FILE_NAME);
        problems.add(entry.place.clone(), Some(INCLUDE.into()), mistake.hint(hint));
    }
}

#[cfg(test)]
#[path = "include_tests.rs"]
mod tests;
