//! What the sources hold: found by content, because names and layouts differ between releases.

use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use crate::config::Repo;
use agent_types::error::{Error, Result};
use agent_types::release::Release;
use agent_types::release::Sources;
use agent_yocto::layer_conf::LayerConf;
use agent_yocto::path_rules;

use super::ReadyRepo;

/// Where BitBake and OE-Core are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub bitbake: PathBuf,
    pub oe_core: PathBuf,
}

/// Finds BitBake and OE-Core among the repos, and in the checkout under test where no repo has them.
///
/// # Errors
/// Usage when one of them is nowhere or in two places.
pub fn find(release: &Release, repos: &[ReadyRepo], checkout: &Path) -> Result<Found> {
    let bitbake = one("BitBake (`bin/bitbake`)", bitbake_in, release, repos, checkout)?;
    let oe_core = one("OE-Core (`oe-init-build-env` and `meta/`)", oe_core_in, release, repos, checkout)?;
    path_rules::usable_core(&oe_core)?;
    Ok(Found { bitbake, oe_core })
}

/// BitBake's own repository has `bin/` at the top, poky has it below `bitbake/`.
fn bitbake_in(directory: &Path) -> Option<PathBuf> {
    [directory.to_path_buf(), directory.join("bitbake")]
        .into_iter()
        .find(|top| top.join("bin/bitbake").is_file())
}

fn oe_core_in(directory: &Path) -> Option<PathBuf> {
    let whole = directory.join("oe-init-build-env").is_file() && is_layer(&directory.join("meta"));
    whole.then(|| directory.to_path_buf())
}

fn one(
    what: &str,
    holds: fn(&Path) -> Option<PathBuf>,
    release: &Release,
    repos: &[ReadyRepo],
    checkout: &Path,
) -> Result<PathBuf> {
    let mut paths: Vec<(String, PathBuf)> = Vec::new();
    let sources = repos.iter().map(|repo| (format!("repo {}", repo.name), repo.path.as_path()));
    for (name, place) in sources.filter_map(|(name, path)| Some((name, holds(path)?))) {
        // Two repos may be the same directory.
        if !paths.iter().any(|(_, other)| same(other, &place)) {
            paths.push((name, place));
        }
    }
    if paths.is_empty() {
        paths.extend(holds(checkout).map(|place| ("the checkout under test".to_string(), place)));
    }
    match paths.as_slice() {
        [(_, place)] => Ok(place.clone()),
        [] => {
            let looked: Vec<&str> = repos.iter().map(|repo| repo.name.as_str()).collect();
            let looked = if looked.is_empty() { "there are none".into() } else { looked.join(", ") };
            let message = format!("none of the repos ({looked}) holds {what}");
            Err(Error::usage(message).hint(sources_hint(release)))
        }
        several => {
            let names: Vec<String> =
                several.iter().map(|(name, place)| format!("{name} ({})", place.display())).collect();
            let message = format!("more than one source holds {what}: {}", names.join(", "));
            Err(Error::usage(message).hint("keep one of them in [repos]"))
        }
    }
}

/// Checks that OE-Core is of the release that the manifest names: caches and artifacts carry its name. A
/// message where nobody can tell.
///
/// # Errors
/// Usage when OE-Core is of another release.
pub fn is_of_release(release: &Release, oe_core: &Path) -> Result<Option<String>> {
    let file = oe_core.join("meta/conf/layer.conf");
    let conf = LayerConf::read(&oe_core.join("meta")).map_err(|unreadable| unreadable.of_dependency())?;
    let names = conf.core_names.unwrap_or_default();
    let words = names.words();
    // `master` moves from one name to the next.
    if release.name == "master" || words.iter().any(|word| word.is_certain && word.text == release.name) {
        return Ok(None);
    }
    if !names.is_known() || !conf.is_understood {
        let file = file.display();
        return Ok(Some(format!(
            "{file}: only BitBake can evaluate LAYERSERIES_CORENAMES; whether it is {} is not known",
            release.name
        )));
    }
    let series: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
    let (what, line) = match series.is_empty() {
        true => ("names no release".to_owned(), String::new()),
        false => (format!("is {}", series.join(", ")), format!(":{}", names.line)),
    };
    let message = format!(
        "`release` is \"{}\", but OE-Core {what} (LAYERSERIES_CORENAMES, {}{line})",
        release.name,
        file.display()
    );
    let of_core = series.iter().find_map(|name| Release::find(name));
    Err(Error::usage(message).hint(match of_core {
        Some(other) => format!(
            "set `release = \"{}\"`, or take the branch `{}` for the repo with OE-Core",
            other.name, release.name
        ),
        None => format!("take the branch `{}` for the repo with OE-Core", release.name),
    }))
}

fn same(one: &Path, other: &Path) -> bool {
    match (fs_err::canonicalize(one), fs_err::canonicalize(other)) {
        (Ok(one), Ok(other)) => one == other,
        _ => one == other,
    }
}

/// The tables of the manifest that bring the release's sources.
fn sources_hint(release: &Release) -> String {
    let name = release.name;
    match release.sources {
        Sources::Poky => format!(
            "{name} comes with poky: [repos.poky] url = \"https://git.yoctoproject.org/poky\", \
             branch = \"{name}\", layers = [\"meta\", \"meta-poky\"]"
        ),
        Sources::Separate { bitbake_branch } => format!(
            "{name} comes in parts: [repos.bitbake] url = \"https://git.openembedded.org/bitbake\", \
             branch = \"{bitbake_branch}\"; [repos.openembedded-core] url = \
             \"https://git.openembedded.org/openembedded-core\", branch = \"{name}\", layers = [\"meta\"]; \
             [repos.meta-yocto] url = \"https://git.yoctoproject.org/meta-yocto\", branch = \"{name}\", \
             layers = [\"meta-poky\"]"
        ),
    }
}

/// The layers of a repo, absolute.
///
/// # Errors
/// Usage when one has no `conf/layer.conf`; the directories that have one are told.
pub fn layers(repo: &Repo, path: &Path, release: &Release) -> Result<Vec<PathBuf>> {
    let mut layers = Vec::new();
    let mut missing = Vec::new();
    for layer in &repo.layers {
        // `components` drops the `.` of a repo that is a layer itself.
        let place: PathBuf = path.join(layer).components().collect();
        if is_layer(&place) {
            layers.push(place);
        } else {
            missing.push(layer.display().to_string());
        }
    }
    let Some(first) = missing.first() else { return Ok(layers) };
    let message = format!("`repos.{}.layers`: no conf/layer.conf in `{}`", repo.name, missing.join("`, `"));
    let there = layers_below(path);
    let near = agent_git::nearest(first, there.iter().map(String::as_str), 5);
    let told = if near.is_empty() { there.into_iter().take(10).collect() } else { near };
    Err(Error::usage(message).hint(match told.is_empty() {
        // Such as the rest of poky after its last release.
        true => format!("{} holds no layer at all; {}", path.display(), sources_hint(release)),
        false => format!("layers there are: {}", told.join(", ")),
    }))
}

fn is_layer(directory: &Path) -> bool {
    directory.join("conf/layer.conf").is_file()
}

/// Directories with a `conf/layer.conf`, relative, not deep: real repos have theirs at the top or
/// one below.
fn layers_below(path: &Path) -> Vec<String> {
    let mut found: Vec<String> = WalkDir::new(path)
        .max_depth(3)
        .into_iter()
        .filter_entry(|entry| entry.file_name() != ".git")
        .filter_map(|entry| entry.ok())
        .filter(|entry| entry.file_type().is_dir() && is_layer(entry.path()))
        .filter_map(|entry| Some(entry.path().strip_prefix(path).ok()?.to_string_lossy().into_owned()))
        .map(|name| if name.is_empty() { ".".to_string() } else { name.escape_debug().to_string() })
        .collect();
    found.sort();
    found
}
