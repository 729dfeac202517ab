//! Validates `[repos.*]`: git repositories and local directories.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use agent_yocto::path_rules::PathUse;

use super::address;
use super::codebuild::CodeBuild;
use super::manifest::{UnvalidatedManifest, UnvalidatedRepo};
use super::patches;
use super::paths::ProjectRoot;
use super::problem::{Diagnostic, KeyPath};
use super::repo_files::RepoFiles;
use super::settings::{GitSource, Patch, Repo, RepoSource, Secret, Signer, Wanted};
use super::signers;
use super::validator::Validator;
use super::values;
use super::variable_secrets::url_secrets;

/// The context of the validation.
pub struct Surroundings<'a> {
    /// Relative paths of the manifest start in its `base`.
    pub project_root: &'a ProjectRoot,
    /// Relative paths of `--set` start here.
    pub cwd: &'a Path,
    pub codebuild: Option<&'a CodeBuild>,
}

/// The repositories, with notices.
#[derive(Debug, Default)]
pub struct Repos {
    pub repos: Vec<Repo>,
    /// The layers that the manifest gives another priority than 0, by the name of the repository.
    pub priorities: BTreeMap<(String, PathBuf), i64>,
    pub secrets: Vec<Secret>,
    pub notices: Vec<String>,
}

/// All repositories, in the order of the manifest.
pub fn validate(check: &mut Validator, manifest: &UnvalidatedManifest, around: &Surroundings) -> Repos {
    let top = KeyPath::root().key("repos");
    let mut all = Repos::default();
    let Some(raw) = &manifest.repos else { return all };
    let names: Vec<String> = check
        .tree
        .get(&top)
        .into_iter()
        .flat_map(|node| node.entries())
        .map(|entry| entry.key.clone())
        .collect();
    // The checkout may hold BitBake and OE-Core itself.
    if names.is_empty() && !around.project_root.checkout.join("oe-init-build-env").is_file() {
        let hint = "name the repositories that BitBake and OE-Core come from, such as [repos.poky]";
        check.value(&top, Diagnostic::new("names no repository").hint(hint));
    }
    let files = RepoFiles { project_root: around.project_root, local: local(check, raw, around), names };
    for name in &files.names {
        let Some(raw) = raw.get(name) else { continue };
        let path = top.key(name);
        if let Err(mistake) = values::name(name) {
            check.key(&path, mistake);
        }
        if let Some(text) = &raw.url {
            all.secrets.extend(url_secrets(text, &format!("{} url", path.as_table())));
        }
        let mut one = One { check, raw, path: &path, release: manifest.release.as_deref() };
        let mut source = one.source(around);
        if let Some((id, directory)) = around.codebuild.and_then(|build| build.secondary_source(name)) {
            all.notices.push(format!(
                "[repos.{name}] is the secondary source `{id}` of this CodeBuild build: {} is used as it is",
                directory.display()
            ));
            source = source.map(|_| RepoSource::Path(directory.clone()));
            if let Err(mistake) = values::layer_path(directory).and_then(|()| holds_usable_core(directory)) {
                one.check.key(&path, mistake);
            }
        }
        let layers = one.layers(match &source {
            Some(RepoSource::Path(directory)) => Some(directory),
            _ => None,
        });
        let patches = one.patches(&files);
        let signers = one.signers(name, &files);
        let of_this = layers.iter().filter(|(_, priority)| *priority != 0);
        all.priorities.extend(of_this.map(|(layer, priority)| ((name.clone(), layer.clone()), *priority)));
        let layers = layers.into_iter().map(|(layer, _)| layer).collect();
        if let Some(source) = source {
            let (submodules, lfs) = (raw.submodules.unwrap_or(true), raw.lfs.unwrap_or(true));
            all.repos.push(Repo { name: name.clone(), source, layers, patches, signers, submodules, lfs });
        }
    }
    all
}

/// The repositories that are local directories, with their paths. Mistakes are reported elsewhere.
fn local(
    check: &Validator,
    raw: &BTreeMap<String, UnvalidatedRepo>,
    around: &Surroundings,
) -> BTreeMap<String, PathBuf> {
    let directory = |(name, raw): (&String, &UnvalidatedRepo)| {
        if let Some((_, directory)) = around.codebuild.and_then(|build| build.secondary_source(name)) {
            return Some((name.clone(), directory.clone()));
        }
        let path = KeyPath::root().key("repos").key(name).key("path");
        let directory = address::local(raw.path.as_ref()?, base_of(check, &path, around)).ok()?;
        Some((name.clone(), directory))
    };
    raw.iter().filter_map(directory).collect()
}

/// Where a relative path starts.
fn base_of<'a>(check: &Validator, path: &KeyPath, around: &Surroundings<'a>) -> &'a Path {
    if check.place(path).is_flag() { around.cwd } else { &around.project_root.base }
}

struct One<'a, 'c> {
    check: &'a mut Validator<'c>,
    raw: &'a UnvalidatedRepo,
    path: &'a KeyPath,
    release: Option<&'a str>,
}

impl One<'_, '_> {
    /// The layers of a local directory can be checked now.
    fn layers(&mut self, directory: Option<&Path>) -> Vec<(PathBuf, i64)> {
        let path = self.path.key("layers");
        let raw = self.raw.layers.as_ref();
        self.check.not_empty(&path, raw, "omit `layers` if the repository has none (BitBake's own)");
        self.check.layers(&path, raw, |text| {
            let layer = values::inner_path(text, "the repository")?;
            values::layer_path(&layer)?;
            match directory.map(|directory| directory.join(&layer)) {
                Some(found) if !found.join("conf/layer.conf").is_file() => Err(Diagnostic::new(format!(
                    "`{text}` is not a layer: {} has no conf/layer.conf",
                    found.display()
                ))),
                _ => Ok(layer),
            }
        })
    }

    /// The patches; those beside the manifest are read now, where the rules come from.
    fn patches(&mut self, files: &RepoFiles) -> Vec<Patch> {
        let path = self.path.key("patches");
        self.check.list(&path, self.raw.patches.as_ref(), |text| patches::patch(text, files))
    }

    fn signers(&mut self, own: &str, files: &RepoFiles) -> Vec<Signer> {
        let path = self.path.key("signers");
        let raw = self.raw.signers.as_ref();
        self.check.not_empty(&path, raw, "omit `signers` if the repository need not be signed");
        signers::signers(self.check, &path, raw, own, files)
    }

    fn source(&mut self, around: &Surroundings) -> Option<RepoSource> {
        let [url, path] = ["url", "path"].map(|key| self.path.key(key));
        match (self.check.has(&url), self.check.has(&path)) {
            (true, true) => {
                let hint = "a flag can replace the whole table: --set 'repos.NAME={ path = \"…\", layers = [\"…\"] }'";
                self.exclude(&["url", "path"], hint);
                None
            }
            (false, false) => {
                let hint = "a git repository needs `url`, a local directory `path`";
                self.check.value(self.path, Diagnostic::new("has neither `url` nor `path`").hint(hint));
                None
            }
            (true, false) => self.git(),
            (false, true) => {
                const GIT: [&str; 7] = ["branch", "tag", "commit", "patches", "signers", "submodules", "lfs"];
                for key in GIT.map(|key| self.path.key(key)) {
                    if self.check.has(&key) {
                        let mistake = Diagnostic::new("does not go with `path`");
                        self.check.key(
                            &key,
                            mistake.hint("a local directory is used without a checkout: remove this key"),
                        );
                    }
                }
                let base = base_of(self.check, &path, around);
                self.check
                    .one(&path, self.raw.path.as_ref(), |text| local_directory(text, base))
                    .map(RepoSource::Path)
            }
        }
    }

    fn git(&mut self) -> Option<RepoSource> {
        let url = self.check.one(&self.path.key("url"), self.raw.url.as_ref(), address::git);
        let branch = self.reference("branch", self.raw.branch.as_ref());
        let tag = self.reference("tag", self.raw.tag.as_ref());
        let commit = self.check.one(&self.path.key("commit"), self.raw.commit.as_ref(), values::commit);
        let [has_branch, has_tag, has_commit] =
            ["branch", "tag", "commit"].map(|key| self.check.has(&self.path.key(key)));
        match (has_branch, has_tag, has_commit) {
            (false, false, false) => {
                let branch = self.release.unwrap_or("scarthgap");
                let mistake = Diagnostic::new("has none of `branch`, `tag` and `commit`");
                self.check.value(self.path, mistake.hint(format!("such as branch = \"{branch}\"")));
            }
            (true, true, _) => self.exclude(&["branch", "tag"], "keep one of them"),
            _ => {}
        }
        let wanted = match (branch, tag, commit) {
            (Some(branch), None, Some(commit)) => Wanted::CommitOnBranch { commit, branch },
            (Some(branch), None, None) => Wanted::Branch(branch),
            (None, Some(tag), Some(commit)) => Wanted::CommitOfTag { commit, tag },
            (None, Some(tag), None) => Wanted::Tag(tag),
            (None, None, Some(commit)) => Wanted::Commit(commit),
            _ => return None,
        };
        Some(RepoSource::Git(GitSource { url: url?, wanted, locked: None }))
    }

    fn reference(&mut self, key: &str, text: Option<&String>) -> Option<String> {
        self.check.one(&self.path.key(key), text, |text| values::git_ref(text).map(|()| text.to_owned()))
    }

    /// Reports mutually exclusive keys at the position of the last one.
    fn exclude(&mut self, keys: &[&str], hint: &str) {
        let written_last =
            keys.iter().map(|key| self.path.key(key)).max_by_key(|path| self.check.tree.key_place(path));
        if let Some(path) = written_last {
            let message = format!("`{}` exclude one another", keys.join("` and `"));
            self.check.key(&path, Diagnostic::new(message).hint(hint));
        }
    }
}

/// OE-Core restricts its own path more than BitBake restricts a layer's path.
fn holds_usable_core(directory: &Path) -> Result<(), Diagnostic> {
    if !directory.join("oe-init-build-env").is_file() {
        return Ok(());
    }
    values::usable_path(directory, PathUse::OeCore).map_err(|mistake| {
        mistake.hint("move it, or name a symbolic link to it whose own path has no such character")
    })
}

fn local_directory(text: &str, base: &Path) -> Result<PathBuf, Diagnostic> {
    let directory = address::local(text, base)?;
    values::layer_path(&directory)?;
    if directory.is_dir() {
        holds_usable_core(&directory)?;
        Ok(directory)
    } else {
        Err(Diagnostic::new(format!("`{}` is not a directory on this machine", directory.display())))
    }
}
