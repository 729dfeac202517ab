//! `repos` of kas in the words of the manifest.

use std::path::Path;

use super::super::super::problem::{Diagnostic, Place, Problems};
use super::super::super::tree::{Entry, Node, Value};
use super::super::super::values;
use super::super::build::{self, Table};
use super::super::{Surroundings, address};

/// Layers of one repository: their paths, priorities and positions.
pub type Layers = Vec<(String, i64, Place)>;

/// The repositories of a definition.
#[derive(Debug)]
pub struct Repos {
    /// `[repos]`
    pub table: Table,
    /// The layers of the checkout itself.
    pub under_test: Layers,
    /// The name of the checkout among the repositories.
    pub checkout: Option<String>,
    /// Their names in the manifest, by their keys.
    pub names: Vec<(String, String)>,
    pub notices: Vec<String>,
}

/// Reads `repos` with `defaults` and `overrides`.
pub fn read(config: &Node, around: &Surroundings, problems: &mut Problems) -> Repos {
    let entries = config.child("repos").map(Node::entries).unwrap_or_default();
    let name_of =
        |entry: &Entry| entry.node.child("name").and_then(Node::as_text).unwrap_or(&entry.key).to_owned();
    let names: Vec<_> = entries.iter().map(|entry| (entry.key.clone(), name_of(entry))).collect();
    let place = config.child("repos").map_or(&config.place, |repos| &repos.place);
    let mut repos = Repos {
        table: Table::new(place),
        under_test: Vec::new(),
        checkout: None,
        names,
        notices: Vec::new(),
    };
    for entry in entries {
        Reader { config, entry, around, problems }.read(&mut repos);
    }
    repos
}

struct Reader<'a> {
    config: &'a Node,
    entry: &'a Entry,
    around: &'a Surroundings<'a>,
    problems: &'a mut Problems,
}

/// A reference: the value that counts, and where it is written. Nothing in a repository takes a default away.
struct References<'a> {
    url: Option<&'a Node>,
    commit: Option<&'a Node>,
    tag: Option<&'a Node>,
    branch: Option<&'a Node>,
    refspec: Option<&'a Node>,
    /// Whether the repository has a reference without `overrides`: with a URL, it must have one.
    has_own: bool,
}

impl<'a> Reader<'a> {
    fn fault(&mut self, place: &Place, key: &str, mistake: Diagnostic) {
        let key = format!("repos.{}{}{key}", self.entry.key, if key.is_empty() { "" } else { "." });
        self.problems.add(place.clone(), Some(key), mistake);
    }

    fn own(&self, key: &str) -> Option<&'a Node> {
        self.entry.node.child(key)
    }

    /// As `Repo.factory` of kas decides.
    fn references(&self) -> References<'a> {
        let defaults = self.config.child("defaults").and_then(|defaults| defaults.child("repos"));
        let default = |key: &str| defaults.and_then(|defaults| defaults.child(key));
        let overrides = self.config.child("overrides").and_then(|overrides| overrides.child("repos"));
        let overrides = overrides.and_then(|repos| repos.child(&self.entry.key));
        let over = |key: &str| overrides.and_then(|over| over.child(key));
        let value = |node: Option<&'a Node>| node.filter(|node| !node.is_null());
        let with_default = |key: &str| value(self.own(key).or_else(|| default(key)));
        let mut found = References {
            url: value(self.own("url")),
            commit: value(self.own("commit")),
            tag: with_default("tag"),
            branch: with_default("branch"),
            refspec: with_default("refspec"),
            has_own: true,
        };
        let own = [found.commit, found.tag, found.branch, found.refspec];
        found.has_own = found.url.is_none() || own.iter().any(Option::is_some);
        if found.refspec.is_none() {
            found.commit = value(over("commit").or(found.commit));
            found.branch = value(over("branch").or(found.branch));
            found.url = value(over("url").or(found.url));
        } else {
            found.refspec = value(over("commit").or(found.refspec));
        }
        found
    }

    fn read(&mut self, repos: &mut Repos) {
        let entry = self.entry;
        let name = repos
            .names
            .iter()
            .find(|(key, _)| *key == entry.key)
            .map_or(entry.key.clone(), |(_, name)| name.clone());
        if let Some((other, _)) = repos.names.iter().find(|(key, known)| *key != entry.key && *known == name)
        {
            let mistake = Diagnostic::new(format!("`{name}` is also the name of repos.{other}"));
            self.fault(&entry.place, "name", mistake.hint("give each repository a name of its own"));
        }
        self.refuse();
        let layers = self.layers(repos);
        let references = self.references();
        let Some(url) = references.url else { return self.local(&name, layers, repos) };
        let mut table = Table::new(&entry.place);
        table.add("url", address::from_kas(url));
        self.git(&references, &mut table, repos);
        if !layers.is_empty() {
            table.add("layers", layer_list(&layers, &entry.place));
        }
        self.patches(repos, &mut table);
        self.signers(repos, &mut table);
        repos.table.add(&name, with_place(table, &entry.place));
    }

    /// What this agent does not do.
    fn refuse(&mut self) {
        if let Some(kind) = self.own("type").filter(|kind| kind.as_text() == Some("hg")) {
            let mistake = Diagnostic::new("Mercurial repositories are not supported");
            self.fault(&kind.place, "type", mistake.hint("use a git mirror of it"));
        }
    }

    /// A directory: the checkout itself, or one in the work directory.
    fn local(&mut self, name: &str, layers: Layers, repos: &mut Repos) {
        let entry = self.entry;
        self.reject_signed();
        let directory = match self.own("path").and_then(Node::as_text) {
            None => self.around.top.to_owned(),
            Some(path) => values::normal(&self.around.work_dir.join(path)),
        };
        let is_checkout =
            |path: &Path| fs_err::canonicalize(path).is_ok_and(|real| real == self.around.checkout);
        // A second repository that is the checkout is a directory like any other.
        if repos.checkout.is_none() && (directory == self.around.checkout || is_checkout(&directory)) {
            repos.under_test.extend(layers);
            repos.checkout = Some(name.to_owned());
            return;
        }
        let mut table = Table::new(&entry.place);
        let place = self.own("path").map_or(&entry.place, |path| &path.place);
        table.add("path", build::text(directory.display().to_string(), place));
        if !layers.is_empty() {
            table.add("layers", layer_list(&layers, &entry.place));
        }
        repos.table.add(name, with_place(table, &entry.place));
    }

    fn git(&mut self, references: &References<'_>, table: &mut Table, repos: &mut Repos) {
        let entry = self.entry;
        let References { commit, tag, branch, refspec, .. } = *references;
        if let Some(refspec) = refspec {
            if let Some(other) = commit.or(tag).or(branch) {
                let mistake =
                    Diagnostic::new("`refspec` cannot be combined with `commit`, `tag` or `branch`");
                return self.fault(&other.place, "refspec", mistake.hint("remove the old `refspec`"));
            }
            let text = refspec.as_text().unwrap_or_default();
            let (key, value) = self.refspec(text);
            repos.notices.push(format!(
                "{}: repos.{}.refspec is an old word of kas; it is read as `{key}: {value}`",
                refspec.place, entry.key
            ));
            return table.add(key, build::text(value, &refspec.place));
        }
        if !references.has_own || commit.or(tag).or(branch).is_none() {
            let mistake = Diagnostic::new("has none of `commit`, `tag` and `branch`");
            return self.fault(&entry.place, "", mistake.hint("a repository with a `url` needs one of them"));
        }
        let plain =
            |node: &Node| build::text(plain_reference(node.as_text().unwrap_or_default()), &node.place);
        match (tag, branch) {
            (Some(tag), Some(_)) => {
                let mistake = Diagnostic::new("`tag` and `branch` exclude each other");
                self.fault(&tag.place, "tag", mistake.hint("a default is taken away by `branch: null`"));
            }
            _ => {
                table.add_some("branch", branch.map(plain));
                table.add_some("tag", tag.map(plain));
                table.add_some("commit", commit.cloned());
            }
        }
    }

    /// What the old word means: a commit, or what the server has.
    fn refspec(&self, text: &str) -> (&'static str, String) {
        if matches!(text.len(), 40 | 64) && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return ("commit", text.to_owned());
        }
        let is_tag = text.starts_with("refs/tags/")
            || self.around.tags.contains(&(self.entry.key.clone(), text.to_owned()));
        (if is_tag { "tag" } else { "branch" }, plain_reference(text))
    }

    /// No `layers`: the repository itself is the layer. An empty table: it has none.
    fn layers(&mut self, repos: &mut Repos) -> Layers {
        let Some(layers) = self.own("layers") else { return vec![(".".into(), 0, self.entry.place.clone())] };
        let mut found = Vec::new();
        for layer in layers.entries() {
            let priority = match &layer.node.value {
                Value::Null => 0,
                Value::Table(_) => match layer.node.child("prio").map(|prio| (&prio.value, &prio.place)) {
                    None => 0,
                    Some((Value::Integer(prio), _)) if (-99..=99).contains(prio) => *prio,
                    Some((_, place)) => {
                        let key = format!("layers.{}.prio", layer.key);
                        self.fault(place, &key, Diagnostic::new("must be an integer from -99 to 99"));
                        continue;
                    }
                },
                Value::String(word) if word == "disabled" => continue,
                Value::String(_) | Value::Boolean(false) | Value::Integer(0) => {
                    repos.notices.push(format!(
                        "{}: `{}` is an old word for a layer that is left out; kas wants `disabled`",
                        layer.node.place, layer.node.text
                    ));
                    continue;
                }
                _ => {
                    let mistake = Diagnostic::new(format!(
                        "`{}` is neither nothing, `disabled` nor a table",
                        layer.node.text
                    ));
                    self.fault(&layer.node.place, &format!("layers.{}", layer.key), mistake);
                    continue;
                }
            };
            let path = if layer.key.is_empty() { "." } else { layer.key.as_str() };
            found.push((path.to_owned(), priority, layer.place.clone()));
        }
        found
    }

    /// Sorted by their keys, as kas applies them.
    fn patches(&mut self, repos: &Repos, table: &mut Table) {
        let Some(patches) = self.own("patches") else { return };
        let default = self.config.child("defaults").and_then(|defaults| defaults.child("repos"));
        let default =
            default.and_then(|repos| repos.child("patches")).and_then(|patches| patches.child("repo"));
        let mut sorted: Vec<&Entry> =
            patches.entries().iter().filter(|entry| !entry.node.is_null()).collect();
        sorted.sort_by(|a, b| a.key.cmp(&b.key));
        let mut items = Vec::new();
        for entry in sorted {
            let key = format!("patches.{}", entry.key);
            let Some(path) = entry.node.child("path").and_then(Node::as_text) else {
                self.fault(&entry.node.place, &key, Diagnostic::new("has no `path`"));
                continue;
            };
            let repo = entry.node.child("repo").or(default).and_then(Node::as_text);
            let Some(repo) = repo else {
                let mistake =
                    Diagnostic::new("has no `repo`").hint("name the repository that holds the patch");
                self.fault(&entry.node.place, &key, mistake);
                continue;
            };
            let Some((_, name)) = repos.names.iter().find(|(key, _)| key == repo) else {
                self.fault(
                    &entry.node.place,
                    &key,
                    Diagnostic::new(format!("`{repo}` is not one of `repos`")),
                );
                continue;
            };
            // The checkout is no repository of the manifest; its patches are named by their path alone.
            let text = match self.holder_is_checkout(repo) {
                true => path.to_owned(),
                false => format!("{name}:{path}"),
            };
            items.push(build::text(text, &entry.node.place));
        }
        if !items.is_empty() {
            table.add("patches", build::list(items, &patches.place));
        }
    }

    /// The key `signed`, if the repository must be signed.
    fn signed(&self) -> Option<&'a Node> {
        self.own("signed").filter(|signed| signed.value == Value::Boolean(true))
    }

    /// Reports a local directory that must be signed.
    fn reject_signed(&mut self) {
        if let Some(signed) = self.signed() {
            let mistake = Diagnostic::new("signatures of a local directory are not verified");
            self.fault(&signed.place, "signed", mistake.hint("name its repository by `url`"));
        }
    }

    /// The keys of `allowed_signers`, if the repository must be signed.
    fn signers(&mut self, repos: &Repos, table: &mut Table) {
        let Some(signed) = self.signed() else { return };
        let named = match self.own("allowed_signers").map(|node| &node.value) {
            Some(Value::Array(named)) if !named.is_empty() => named.as_slice(),
            _ => {
                let mistake = Diagnostic::new("is true, but no `allowed_signers` are named");
                return self.fault(&signed.place, "signed", mistake);
            }
        };
        let mut items = Vec::new();
        for item in named {
            let name = item.as_text().unwrap_or_default();
            match self.signer(name, repos) {
                Ok((key, fingerprint)) => {
                    let mut signer = Table::new(&item.place);
                    signer.add("key", build::text(key, &item.place));
                    signer.add_some("fingerprint", fingerprint.cloned());
                    items.push(signer.node());
                }
                Err(mistake) => self.fault(&item.place, "allowed_signers", mistake),
            }
        }
        table.add("signers", build::list(items, &signed.place));
    }

    /// The key of a signer, and the fingerprint that it must have.
    fn signer(&self, name: &str, repos: &Repos) -> Result<(String, Option<&'a Node>), Diagnostic> {
        let signer = self.config.child("signers").and_then(|signers| signers.child(name));
        let signer = signer.ok_or_else(|| Diagnostic::new(format!("`{name}` is not one of `signers`")))?;
        let Some(path) = signer.child("path").and_then(Node::as_text) else {
            let mistake = Diagnostic::new(format!("the key of `{name}` would come from a key server"));
            return Err(
                mistake.hint("keys are not fetched: put it into a file, and name it by `repo` and `path`")
            );
        };
        let repo = signer.child("repo").and_then(Node::as_text).unwrap_or_default();
        let Some((_, holder)) = repos.names.iter().find(|(key, _)| key == repo) else {
            return Err(Diagnostic::new(format!("signers.{name}: `{repo}` is not one of `repos`")));
        };
        let key = match self.holder_is_checkout(repo) {
            true => path.to_owned(),
            false => format!("{holder}:{path}"),
        };
        Ok((key, signer.child("fingerprint")))
    }

    fn holder_is_checkout(&self, key: &str) -> bool {
        let Some(repo) = self.config.child("repos").and_then(|repos| repos.child(key)) else { return false };
        let has = |key: &str| repo.child(key).is_some_and(|node| !node.is_null());
        let directory = match repo.child("path").and_then(Node::as_text) {
            Some(path) => values::normal(&self.around.work_dir.join(path)),
            None => self.around.top.to_owned(),
        };
        let real = fs_err::canonicalize(&directory).unwrap_or(directory);
        !has("url") && real == self.around.checkout
    }
}

fn with_place(table: Table, place: &Place) -> Node {
    Node { place: place.clone(), ..table.node() }
}

/// `[layer] paths` or `layers` of a repository.
pub fn layer_list(layers: &Layers, place: &Place) -> Node {
    let item = |(path, priority, place): &(String, i64, Place)| {
        if *priority == 0 {
            return build::text(path.as_str(), place);
        }
        let mut table = Table::new(place);
        table.add("path", build::text(path.as_str(), place));
        table.add("priority", build::integer(*priority, place));
        table.node()
    };
    build::list(layers.iter().map(item).collect(), place)
}

/// kas accepts a reference with its kind.
fn plain_reference(text: &str) -> String {
    let text = text.strip_prefix("refs/").unwrap_or(text);
    let text = text.strip_prefix("heads/").or_else(|| text.strip_prefix("tags/")).unwrap_or(text);
    text.to_owned()
}
