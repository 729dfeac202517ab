//! `build-agent check [LAYER]…` without a manifest. A manifest is generated from the release, the layers' own
//! declarations and the table of well-known layers, and then read like any other.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use agent_fs::untrusted;
use agent_types::error::{Error, Result};
use agent_types::release::Release;
use agent_types::release::{RELEASES, Sources};
use agent_yocto::conf_syntax::Word;
use agent_yocto::layer_conf::LayerConf;

use super::collections;
use super::environment::AgentEnvironment;
use super::load::load;
use super::manifest;
use super::paths;
use super::request::{OnlyLayers, Request};
use super::rules::Rules;
use super::settings::Settings;
use super::whole_manifest::Loaded;

/// Settings to check only these layers; without layers, the current directory. A `build-agent.toml` in or
/// above the first layer is used if it is for the same release.
///
/// # Errors
/// If a path is not a layer, or no release can be chosen; and those of [`load`].
pub fn for_layers(
    layers: &[PathBuf],
    release: Option<&str>,
    request: &Request,
    env: &AgentEnvironment,
    cwd: &Path,
    now: SystemTime,
) -> Result<Loaded<Settings>> {
    let cwd = fs_err::canonicalize(cwd)?;
    let layers = Layers::find(layers, env, &cwd)?;
    let release = release.map(known_release).transpose()?;
    let (request, env) = grounded(request, env, &cwd, &layers);
    let mut notices = Vec::new();
    if let Some(file) = layers.manifest(&request, &cwd) {
        let said = format!("sources and configuration are from {}", file.display());
        let request = Request {
            manifest: Some(file.display().to_string()),
            layers: Some(OnlyLayers { layers: layers.layers.clone(), built_in: None }),
            notices: [vec![said], request.notices.clone()].concat(),
            ..request.clone()
        };
        let settings = match load(&request, &env, &cwd, now)? {
            Loaded::Needs(repos) => return Ok(Loaded::Needs(repos)),
            Loaded::Ready(settings) => settings,
        };
        if release.is_none_or(|release| release == settings.release) {
            return Ok(Loaded::Ready(settings));
        }
        notices.push(format!("{} is for {}, so it is ignored", file.display(), settings.release.name));
    }
    if let Rules::OfBase(base) = &request.rules
        && let Some(file) = layers.files_above().find(|file| file.is_file() && !request.rules.has(file))
    {
        let shown = file.strip_prefix(&layers.checkout).unwrap_or(&file).display();
        notices.push(format!(
            "this change adds `{shown}`, which is ignored: the base {} has no such file",
            base.shown()
        ));
    }
    let release = match release {
        Some(release) => release,
        None => {
            let (release, why) = choose_release(&layers, &env)?;
            notices.push(format!("release {}: {why}; --release chooses another", release.name));
            release
        }
    };
    let text = make_manifest(&layers, release, &mut notices)?;
    let name = format!("the built-in manifest for {}", release.name);
    let only = OnlyLayers { built_in: Some(reproduce(&layers, release)), layers: layers.layers.clone() };
    let request = Request {
        manifest: None,
        manifest_text: Some((name, text)),
        layers: Some(only),
        notices: [notices, request.notices.clone()].concat(),
        ..request.clone()
    };
    load(&request, &env, &layers.checkout, now)
}

/// The request and environment with absolute paths, and with the layers' checkout.
fn grounded(
    request: &Request,
    env: &AgentEnvironment,
    cwd: &Path,
    layers: &Layers,
) -> (Request, AgentEnvironment) {
    let out = request.out.as_deref().unwrap_or(Path::new("build-agent-out"));
    let request = Request {
        work_dir: request.work_dir.as_ref().map(|directory| cwd.join(directory)),
        out: Some(cwd.join(out)),
        ..request.clone()
    };
    let mut env = env.clone();
    env.work_dir = env.work_dir.map(|directory| cwd.join(directory));
    env.retain_source_dir(|directory| layers.checkout.starts_with(directory));
    (request, env)
}

/// The layers under test, absolute and without links.
#[derive(Debug)]
struct Layers {
    checkout: PathBuf,
    layers: Vec<PathBuf>,
    confs: Vec<LayerConf>,
}

impl Layers {
    fn find(given: &[PathBuf], env: &AgentEnvironment, cwd: &Path) -> Result<Layers> {
        let here = [PathBuf::from(".")];
        let given = if given.is_empty() { &here } else { given };
        let mut layers: Vec<PathBuf> = Vec::new();
        let mut confs = Vec::new();
        for layer in given {
            let path = cwd.join(layer);
            let conf = path.join("conf/layer.conf");
            // What is there and cannot be read is a layer that fails its check.
            if fs_err::symlink_metadata(&conf).is_err_and(|error| error.kind() != ErrorKind::PermissionDenied)
            {
                return Err(no_layer(layer, &path));
            }
            let path = fs_err::canonicalize(path)?;
            paths::is_text("the layer", &path)?;
            if !layers.contains(&path) {
                confs.push(LayerConf::read(&path).unwrap_or_default());
                layers.push(path);
            }
        }
        let checkout = match paths::service_checkout(env)? {
            Some(checkout) if layers.iter().all(|layer| layer.starts_with(&checkout)) => checkout,
            _ => common(layers.iter().map(|layer| paths::work_tree(layer))),
        };
        Ok(Layers { checkout, layers, confs })
    }

    /// The manifest of the command line, else the nearest one above the first layer.
    fn manifest(&self, request: &Request, cwd: &Path) -> Option<PathBuf> {
        if let Some(given) = &request.manifest {
            return Some(cwd.join(given));
        }
        self.files_above().find(|file| request.rules.has(file))
    }

    /// Where a manifest could be: above the first layer, in the checkout.
    fn files_above(&self) -> impl Iterator<Item = PathBuf> {
        let above = self.layers.first().into_iter().flat_map(|layer| layer.ancestors());
        above
            .take_while(|above| above.starts_with(&self.checkout))
            .map(|above| above.join(manifest::FILE_NAME))
    }

    /// The series that all layers support.
    fn series(&self) -> BTreeSet<String> {
        let mut all = self.confs.iter().map(|conf| conf.series().collect::<BTreeSet<_>>());
        let first = all.next().unwrap_or_default();
        all.fold(first, |common, series| common.intersection(&series).cloned().collect())
    }
}

fn no_layer(given: &Path, path: &Path) -> Error {
    let error = Error::usage(format!("`{}` is not a layer: it has no conf/layer.conf", given.display()));
    let entries = fs_err::read_dir(path).into_iter().flatten().flatten();
    let below = entries.filter(|entry| entry.path().join("conf/layer.conf").is_file());
    let mut names: Vec<_> = below.map(|entry| given.join(entry.file_name()).display().to_string()).collect();
    names.sort();
    names.truncate(8);
    error.hint(match names.is_empty() {
        true => "name the directory that contains conf/layer.conf".to_owned(),
        false => format!("name one or more of the layers below it: {}", names.join(", ")),
    })
}

/// The directory that contains all of them.
fn common(paths: impl Iterator<Item = PathBuf>) -> PathBuf {
    paths
        .reduce(|common, path| {
            common.ancestors().find(|above| path.starts_with(above)).unwrap_or(Path::new("/")).to_owned()
        })
        .unwrap_or_default()
}

/// The release of `--release`.
///
/// # Errors
/// If no release has that name.
pub fn known_release(name: &str) -> Result<&'static Release> {
    Release::find(name).ok_or_else(|| {
        let names: Vec<_> = Release::names().collect();
        let error = Error::usage(format!("--release {name:?} is not one of {}", names.join(", ")));
        match super::structure::nearest(name, Release::names()) {
            Some(nearest) => error.hint(format!("did you mean `{nearest}`?")),
            None => error,
        }
    })
}

/// The most likely release of the layers, and why.
fn choose_release(layers: &Layers, env: &AgentEnvironment) -> Result<(&'static Release, String)> {
    let series = layers.series();
    let names_it = |release: &Release| release.series.iter().any(|name| series.contains(*name));
    let by_codebuild = || env.codebuild.as_ref()?.base_branch.clone();
    let by_github = env.github_actions.as_ref().and_then(|run| run.base_branch());
    let base = by_github.map(str::to_owned).or_else(by_codebuild);
    let branches = [
        (git_branch(&layers.checkout), "the checkout is on the branch of this name"),
        (base, "the pull request targets the branch of this name"),
    ];
    for (branch, why) in branches {
        // Every new repository has a branch `master`, so it says nothing about its layers.
        let release =
            branch.as_deref().and_then(Release::find).filter(|one| one.name != "master" || names_it(one));
        if let Some(release) = release {
            return Ok((release, why.into()));
        }
    }
    let newest =
        RELEASES.iter().rev().filter(|release| release.name != "master").find(|release| names_it(release));
    // Layers that support only the next release are for master.
    match newest.or_else(|| RELEASES.iter().rev().find(|release| names_it(release))) {
        Some(release) => Ok((release, "the newest one that LAYERSERIES_COMPAT names".into())),
        // Its check fails whatever the release.
        None if layers.layers.iter().any(|layer| LayerConf::read(layer).is_err()) => {
            Ok((Release::newest_stable(), "conf/layer.conf cannot be read, so this is the newest".into()))
        }
        None => {
            let said = series.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" and ");
            let said = if series.is_empty() { "nothing".into() } else { said };
            let names: Vec<_> = Release::names().collect();
            Err(Error::usage(format!("no release can be chosen: LAYERSERIES_COMPAT of the layers has {said} in common that is known"))
                .hint(format!("give --release, one of {}", names.join(", "))))
        }
    }
}

/// The branch of the work tree, read from git's file.
fn git_branch(checkout: &Path) -> Option<String> {
    let mut git = checkout.join(".git");
    if git.is_file() {
        // A linked work tree or a submodule: the file names the directory.
        let text = untrusted::read_text(&git, untrusted::PAGE).ok()?;
        git = checkout.join(text.strip_prefix("gitdir:")?.trim());
    }
    let head = untrusted::read_text(&git.join("HEAD"), untrusted::PAGE).ok()?;
    head.trim().strip_prefix("ref: refs/heads/").map(str::to_owned)
}

/// The manifest that a user would write for these layers.
fn make_manifest(layers: &Layers, release: &Release, notices: &mut Vec<String>) -> Result<String> {
    let mut repos = Repos::default();
    match release.sources {
        Sources::Poky => {
            repos.git("poky", "https://git.yoctoproject.org/poky", release.name, &["meta", "meta-poky"]);
        }
        Sources::Separate { bitbake_branch } => {
            repos.git("bitbake", "https://git.openembedded.org/bitbake", bitbake_branch, &[]);
            repos.git(
                "openembedded-core",
                "https://git.openembedded.org/openembedded-core",
                release.name,
                &["meta"],
            );
        }
    }
    dependencies(layers, release, &mut repos, notices)?;
    let directory = layers.layers.first().and_then(|layer| layer.file_name()).unwrap_or_default();
    let mut text = format!(
        "version = 1\nname = {}\nrelease = {}\n",
        quoted(&paths::sanitised(&directory.to_string_lossy())),
        quoted(release.name)
    );
    for (name, repo) in repos.0 {
        // Writing into a String cannot fail.
        let _ = write!(text, "\n[repos.{}]\n{}", quoted(&name), repo.source);
        if !repo.layers.is_empty() {
            let layers: Vec<_> = repo.layers.iter().map(|layer| quoted(layer)).collect();
            let _ = writeln!(text, "layers = [{}]", layers.join(", "));
        }
    }
    let paths = layers.layers.iter().map(|path| text_of(path)).collect::<Result<Vec<_>>>()?;
    let paths: Vec<_> = paths.into_iter().map(quoted).collect();
    let _ = writeln!(text, "\n[layer]\npaths = [{}]", paths.join(", "));
    Ok(text)
}

/// Repositories by name.
#[derive(Default)]
struct Repos(BTreeMap<String, RepoText>);

struct RepoText {
    /// Lines of the manifest with the source.
    source: String,
    layers: Vec<String>,
}

impl Repos {
    fn git(&mut self, name: &str, url: &str, branch: &str, layers: &[&str]) {
        self.add(name, format!("url = {}\nbranch = {}\n", quoted(url), quoted(branch)), layers);
    }

    fn add(&mut self, name: &str, source: String, layers: &[&str]) {
        let repo = self.0.entry(name.into()).or_insert_with(|| RepoText { source, layers: Vec::new() });
        for layer in layers {
            if !repo.layers.iter().any(|other| other == layer) {
                repo.layers.push((*layer).to_owned());
            }
        }
    }
}

/// Adds the dependencies of the layers, transitively: from the checkout itself, else from the table. Unknown
/// ones are reported; the check will then fail for them.
fn dependencies(
    layers: &Layers,
    release: &Release,
    repos: &mut Repos,
    notices: &mut Vec<String>,
) -> Result<()> {
    let siblings = siblings(&layers.checkout);
    let mut there = BTreeSet::from(["core".to_owned()]);
    if release.sources == Sources::Poky {
        there.insert("yocto".into());
    }
    there.extend(layers.confs.iter().flat_map(LayerConf::names).map(str::to_owned));
    let mut wanted: Vec<Word> = layers.confs.iter().flat_map(LayerConf::depends_on).collect();
    let mut unknown = Vec::new();
    while let Some(Word { text: collection, is_certain }) = wanted.pop() {
        if !there.insert(collection.clone()) {
            continue;
        }
        if let Some((path, conf)) = siblings.iter().find(|(_, conf)| conf.collection(&collection).is_some()) {
            let source = format!("path = {}\n", quoted(text_of(&layers.checkout)?));
            repos.add("checkout", source, &[text_of(path)?]);
            wanted.extend(conf.depends_on());
        } else if let Some(known) = collections::find(&collection) {
            repos.git(known.repo, known.url, &known.branch(release), &[known.layer]);
            let word = |name: &&str| Word { text: (*name).to_owned(), is_certain };
            wanted.extend(known.depends.iter().map(word));
        } else if is_certain {
            unknown.push(collection);
        }
    }
    unknown.sort();
    notices.extend(unknown.iter().flat_map(|collection| lines_to_write(collection, release)));
    Ok(())
}

/// The manifest lines that a user has to complete for a collection that the table does not have.
fn lines_to_write(collection: &str, release: &Release) -> [String; 5] {
    let name = collection.strip_suffix("-layer").unwrap_or(collection);
    let name = if name.starts_with("meta-") { name.to_owned() } else { format!("meta-{name}") };
    [
        format!(
            "no repository is known for the layer collection `{collection}`, which LAYERDEPENDS names; \
             add these lines to {}, complete them, and call `build-agent run`:",
            manifest::FILE_NAME
        ),
        // A dot would split the key.
        format!("    [repos.{}]", paths::sanitised(&name).replace('.', "-")),
        "    url = \"https://…\"".into(),
        format!("    branch = {}", quoted(release.name)),
        "    layers = [\".\"]".into(),
    ]
}

/// The layers of the checkout, relative to it, with their declarations. Deeper nesting does not occur in
/// practice.
fn siblings(checkout: &Path) -> Vec<(PathBuf, LayerConf)> {
    let walk = walkdir::WalkDir::new(checkout).max_depth(5).sort_by_file_name();
    let no_git = |entry: &walkdir::DirEntry| entry.file_name() != ".git";
    let files = walk.into_iter().filter_entry(no_git).flatten().map(walkdir::DirEntry::into_path);
    let confs = files.filter(|file| file.ends_with("conf/layer.conf"));
    confs
        .filter_map(|conf| {
            let directory = conf.parent()?.parent()?;
            let layer = directory.strip_prefix(checkout).ok()?;
            let layer = if layer.as_os_str().is_empty() { Path::new(".") } else { layer };
            Some((layer.to_owned(), LayerConf::read(directory).ok()?))
        })
        .collect()
}

fn reproduce(layers: &Layers, release: &Release) -> Vec<String> {
    let mut command = vec!["build-agent".to_owned(), "check".to_owned()];
    for layer in &layers.layers {
        let inner = layer.strip_prefix(&layers.checkout).unwrap_or(layer).display().to_string();
        command.push(if inner.is_empty() { ".".into() } else { inner });
    }
    command.extend(["--release".to_owned(), release.name.to_owned()]);
    command
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.into()).to_string()
}

fn text_of(path: &Path) -> Result<&str> {
    paths::is_text("the layer", path)?;
    Ok(path.to_str().unwrap_or_default())
}
