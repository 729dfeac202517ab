//! Loads kas's files: each with its lock and its includes, in the order in which they are merged.

use std::path::{Path, PathBuf};

use agent_fs::untrusted;

use super::super::super::problem::{Diagnostic, Place, Problems};
use super::super::super::tree::{Node, Value};
use super::super::lock::{LockFile, LockFormat, is_replaced};
use super::super::{Fetched, Tree, merge, shape, yaml};
use super::{NEWEST, format};

/// The deepest chain of includes, and the most files.
const DEEPEST: usize = 32;
const MOST: usize = 1000;

/// The files of a definition, merged.
#[derive(Debug)]
pub struct Loaded {
    pub config: Node,
    /// Repositories whose files are included and that are not there yet, in order.
    pub missing: Vec<String>,
    /// All texts, to find secrets in them.
    pub text: Vec<u8>,
    pub notices: Vec<String>,
    /// That of the first file comes first, also if it does not exist.
    pub locks: Vec<LockFile>,
    /// The files in the checkout.
    pub files: Vec<PathBuf>,
}

struct Loader<'a> {
    fetched: &'a Fetched,
    problems: &'a mut Problems,
    /// The pins that are being replaced.
    updates: Option<&'a [String]>,
    locks: Vec<LockFile>,
    files: Vec<PathBuf>,
    notices: Vec<String>,
    missing: Vec<String>,
    configs: Vec<Node>,
    text: Vec<u8>,
    /// The files that are being loaded, from the outermost.
    chain: Vec<PathBuf>,
    count: usize,
}

/// Loads the files of the command line, which lie in `top`. `None`: they cannot be used, which was reported.
pub fn load(
    files: &[PathBuf],
    top: &Tree,
    fetched: &Fetched,
    updates: Option<&[String]>,
    problems: &mut Problems,
) -> Option<Loaded> {
    let mut loader = Loader {
        fetched,
        problems,
        updates,
        locks: Vec::new(),
        files: Vec::new(),
        notices: Vec::new(),
        missing: Vec::new(),
        configs: Vec::new(),
        text: Vec::new(),
        chain: Vec::new(),
        count: 0,
    };
    if let Some(lock) = files.first().map(|file| lock_of(file)) {
        let named = top.named(&lock);
        loader.locks.push(LockFile::new(LockFormat::Kas, named, top.shown(&lock)));
    }
    for file in files {
        let start = Place::File { file: top.shown(file).into(), line: 1, column: 1 };
        match top.inside(file) {
            Ok(real) => loader.file(&real, top, &start, false),
            Err(why) => loader.problems.add(start, None, Diagnostic::new(why)),
        }
    }
    let Loader { configs, missing, text, mut notices, problems, locks, files, .. } = loader;
    if !problems.is_empty() {
        return None;
    }
    notices.dedup();
    let config = configs.into_iter().reduce(merge::merge)?;
    Some(Loaded { config, missing, text, notices, locks, files })
}

impl Loader<'_> {
    /// Adds the configurations of the file: those of its lock, those of its includes, its own.
    fn file(&mut self, file: &Path, tree: &Tree, at: &Place, is_lock: bool) {
        let shown = tree.shown(file);
        self.count += 1;
        let fault = if self.chain.iter().any(|outer| outer == file) {
            Some(format!("`{shown}` includes itself"))
        } else if self.chain.len() >= DEEPEST {
            Some(format!("`{shown}` is included through more than {DEEPEST} files"))
        } else if self.count > MOST {
            Some(format!("includes more than {MOST} files"))
        } else {
            None
        };
        if let Some(fault) = fault {
            return self.problems.add(at.clone(), Some("header.includes".into()), Diagnostic::new(fault));
        }
        let Some(mut config) = self.read(file, &shown, at) else { return };
        let is_external = !tree.prefix.is_empty();
        if !is_external || tree.is_of_base() {
            self.files.push(tree.named(file));
        }
        if is_lock {
            self.lock(LockFile {
                tree: config.clone(),
                is_external,
                ..LockFile::new(LockFormat::Kas, tree.named(file), shown)
            });
            remove_pins(&mut config, self.updates);
        }
        self.chain.push(file.to_owned());
        let lock = lock_of(file);
        if !lock.exists() {
            if !is_external && !is_lock {
                self.files.push(tree.named(&lock));
            }
        } else {
            match tree.inside(&lock) {
                Ok(real) => self.file(&real, tree, at, true),
                Err(why) => self.problems.add(at.clone(), None, Diagnostic::new(why)),
            }
        }
        let includes = config.child("header").and_then(|header| header.child("includes"));
        if let Some(Node { value: Value::Array(includes), .. }) = includes {
            for include in includes {
                self.include(include, file, tree);
            }
        }
        self.chain.pop();
        self.configs.push(config);
    }

    /// Remembers a lock; that of the first file is known before it is read.
    fn lock(&mut self, lock: LockFile) {
        match self.locks.iter_mut().find(|known| known.path == lock.path) {
            Some(known) => *known = lock,
            None => self.locks.push(lock),
        }
    }

    fn include(&mut self, include: &Node, from: &Path, tree: &Tree) {
        let of_repo =
            include.child("repo").and_then(Node::as_text).zip(include.child("file").and_then(Node::as_text));
        let found = match (include.as_text(), of_repo) {
            (Some(path), _) => tree.inside(&tree.top.join(path)).map(|real| {
                if real.exists() {
                    return real;
                }
                // Older files name includes relative to themselves.
                let beside = from.parent().unwrap_or(&tree.top).join(path);
                tree.inside(&beside).ok().filter(|beside| beside.exists()).unwrap_or(real)
            }),
            (None, Some((repo, path))) => match self.fetched.get(repo) {
                Some(found) => {
                    let tree = found.tree(repo);
                    match tree.inside(&tree.top.join(path)) {
                        Ok(real) => return self.file(&real, &tree, &include.place, false),
                        Err(why) => Err(why),
                    }
                }
                None => {
                    if !self.missing.iter().any(|known| known == repo) {
                        self.missing.push(repo.to_owned());
                    }
                    return;
                }
            },
            // The keys were checked.
            (None, None) => Err("needs `repo` and `file`".into()),
        };
        match found {
            Ok(real) => self.file(&real, tree, &include.place, false),
            Err(why) => {
                self.problems.add(include.place.clone(), Some("header.includes".into()), Diagnostic::new(why))
            }
        }
    }

    fn read(&mut self, file: &Path, shown: &str, at: &Place) -> Option<Node> {
        let bytes = match untrusted::read_named(file, untrusted::PAGE) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.problems.add(
                    at.clone(),
                    None,
                    Diagnostic::new(format!("cannot read `{shown}`: {error}")),
                );
                return None;
            }
        };
        let syntax = match file.extension().and_then(|end| end.to_str()) {
            Some("yml" | "yaml") => yaml::Syntax::Yaml,
            Some("json") => yaml::Syntax::Json,
            _ => {
                let mistake = Diagnostic::new(format!("`{shown}` is neither .yml, .yaml nor .json"));
                self.problems.add(at.clone(), None, mistake);
                return None;
            }
        };
        let config = yaml::parse(shown, &bytes, syntax, self.problems, &mut self.notices)?;
        self.text.extend(bytes);
        self.text.push(b'\n');
        let version = config.child("header").and_then(|header| header.child("version"));
        let number = match version.map(|version| &version.value) {
            Some(Value::Integer(number)) => *number,
            Some(Value::String(text)) if text == "0.10" => 1,
            _ => {
                let mistake = Diagnostic::new("is not a file of kas: it has no `header` with a `version`");
                let place = version.map_or(&config.place, |version| &version.place);
                self.problems.add(place.clone(), Some("header.version".into()), mistake);
                return None;
            }
        };
        if number < 1 {
            let place = version.map_or(config.place.clone(), |version| version.place.clone());
            let mistake = Diagnostic::new(format!("is {number}; the first format is 1"));
            self.problems.add(place, Some("header.version".into()), mistake);
            return None;
        }
        let is_newer = number > NEWEST;
        if is_newer {
            self.notices.push(format!(
                "{shown} has format version {number}; this agent knows the formats of kas up to {NEWEST}, and ignores \
                 what it does not know"
            ));
        }
        let mut unknown = Vec::new();
        shape::check(&config, &format::FILE, "", self.problems, is_newer.then_some(&mut unknown));
        self.notices.extend(unknown);
        Some(config)
    }
}

/// Removes the pins that are being replaced from a lock.
fn remove_pins(config: &mut Node, updates: Option<&[String]>) {
    let pins = config.child_mut("overrides").and_then(|overrides| overrides.child_mut("repos"));
    if let Some(Value::Table(pins)) = pins.map(|pins| &mut pins.value) {
        pins.retain(|pin| !is_replaced(updates, &pin.key));
    }
}

/// `kas.lock.yml` beside `kas.yml`.
pub fn lock_of(file: &Path) -> PathBuf {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let end = file.extension().map(|end| format!(".{}", end.to_string_lossy())).unwrap_or_default();
    file.with_file_name(format!("{stem}.lock{end}"))
}
