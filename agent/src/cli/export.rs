//! `build-agent export --kas`: writes the manifest as a definition of kas, with comments about what kas does not have.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use crate::config::{self, AgentEnvironment, Buildtools, PatchSource, Repo, RepoSource, Settings};
use crate::report;
use agent_types::error::{Error, Result};
use agent_types::outcome::ExitStatus;

use super::arguments;
use super::current_dir::current_dir;
use super::export_signers::Keys;
use super::export_yaml::{block, quoted};
use super::job::load;
use super::print;

/// The format that has all that is written.
const VERSION: u32 = 21;

pub async fn command(args: arguments::Export, environment: &AgentEnvironment) -> Result<ExitStatus> {
    let settings = load(&args.manifest, environment).await?;
    let file = current_dir()?.join(&args.kas);
    if !file.extension().is_some_and(|end| end == "yml" || end == "yaml") {
        return Err(Error::usage(format!("`{}` is not a name for a file of kas", args.kas.display()))
            .hint("such as --kas kas.yml"));
    }
    report::replace(&file, definition(&settings).as_bytes())?;
    print::line(format_args!("wrote {}", file.display()))?;
    if let Some(lock) = lock(&settings) {
        let path =
            file.with_extension(format!("lock.{}", file.extension().unwrap_or_default().to_string_lossy()));
        report::replace(&path, lock.as_bytes())?;
        print::line(format_args!("wrote {}", path.display()))?;
    }
    Ok(ExitStatus::Passed)
}

/// The file of kas.
fn definition(settings: &Settings) -> String {
    let keys = Keys::of(settings);
    let mut text = String::from("# Written by build-agent export --kas.\n");
    for without in without_equal(settings).into_iter().chain(keys.notes(settings)) {
        text += &format!("# {without}\n");
    }
    // Writing into a String cannot fail.
    let _ = write!(text, "header:\n  version: {VERSION}\n\n");
    let config = &settings.config;
    if let Some(machine) = config.machines.first() {
        let _ = writeln!(text, "machine: {}", quoted(machine));
    }
    let _ = writeln!(text, "distro: {}", quoted(&config.distro));
    if !settings.build.targets.is_empty() {
        text += "target:\n";
        for target in &settings.build.targets {
            let _ = writeln!(text, "  - {}", quoted(target));
        }
    }
    text += "\nrepos:\n";
    let ranks = ranks(settings);
    let checkout = &settings.layer_order.checkout;
    let inner =
        |layer: &std::path::PathBuf| layer.strip_prefix(&settings.checkout).unwrap_or(layer).to_owned();
    let under_test: Vec<_> = settings.layers.iter().map(inner).collect();
    let _ = writeln!(text, "  {}:", quoted(checkout));
    layers(checkout, &under_test, &ranks, &mut text);
    for repo in &settings.repos {
        let _ = writeln!(text, "  {}:", quoted(&repo.name));
        source(repo, &mut text);
        keys.of_repo(repo, &mut text);
        patches(repo, checkout, &mut text);
        layers(&repo.name, &repo.layers, &ranks, &mut text);
    }
    keys.write(&mut text);
    let local_conf = match multiconfigs(settings) {
        None => config.local_conf.clone(),
        Some(line) => format!("{}\n{line}\n", config.local_conf.trim_end()).trim_start().to_owned(),
    };
    for (key, value) in [("local_conf_header", &local_conf), ("bblayers_conf_header", &config.bblayers_conf)]
    {
        if !value.trim().is_empty() {
            let _ = writeln!(text, "\n{key}:\n  build-agent: {}", block(value, 4));
        }
    }
    if !config.env.is_empty() {
        text += "\nenv:\n";
        for (name, value) in &config.env {
            let _ = writeln!(text, "  {}: {}", quoted(name), quoted(value));
        }
    }
    if let Some(buildtools) = &settings.buildtools {
        text += &self::buildtools(buildtools).unwrap_or_default();
    }
    if !settings.artifacts.rules.is_empty() {
        text += "\nartifacts:\n";
        for (number, rule) in settings.artifacts.rules.iter().enumerate() {
            let _ = writeln!(text, "  rule-{}: {}", number + 1, quoted(&rule.include));
        }
    }
    text
}

/// The line for local.conf, if kas does not find them in the targets.
fn multiconfigs(settings: &Settings) -> Option<String> {
    let set = |names: &[String]| names.iter().cloned().collect::<BTreeSet<_>>();
    let wanted = &settings.config.multiconfigs;
    let is_found = set(wanted) == set(&config::multiconfigs_of(&settings.build.targets));
    (!is_found).then(|| format!("BBMULTICONFIG = \"{}\"", wanted.join(" ")))
}

fn source(repo: &Repo, text: &mut String) {
    let mut line = |key: &str, value: &str| {
        let _ = writeln!(text, "    {key}: {}", quoted(value));
    };
    match &repo.source {
        RepoSource::Path(path) => line("path", &path.display().to_string()),
        RepoSource::Git(git) => {
            line("url", git.url.as_str());
            let wanted = &git.wanted;
            for (key, value) in
                [("branch", wanted.branch()), ("tag", wanted.tag()), ("commit", wanted.commit())]
            {
                if let Some(value) = value {
                    line(key, value);
                }
            }
        }
    }
}

/// kas applies them in the order of their names.
fn patches(repo: &Repo, checkout: &str, text: &mut String) {
    if repo.patches.is_empty() {
        return;
    }
    *text += "    patches:\n";
    for (number, patch) in repo.patches.iter().enumerate() {
        let (holder, path) = match &patch.source {
            PatchSource::Repo { repo, path } => (repo.as_str(), path.display().to_string()),
            PatchSource::Checkout { path, .. } => (checkout, path.display().to_string()),
        };
        let _ = writeln!(
            text,
            "      patch-{:04}:\n        repo: {}\n        path: {}",
            number + 1,
            quoted(holder),
            quoted(&path)
        );
    }
}

/// The priority of each layer in kas, if its order by names is not the manifest's.
type Ranks = Vec<(String, std::path::PathBuf, i64)>;

fn ranks(settings: &Settings) -> Ranks {
    let order = &settings.layer_order;
    let of_repos = settings.repos.iter().flat_map(|repo| {
        repo.layers.iter().map(|layer| (order.of_repo(&repo.name, layer), repo.name.clone(), layer.clone()))
    });
    let under_test = settings.layers.iter().map(|layer| {
        let inner = layer.strip_prefix(&settings.checkout).unwrap_or(layer);
        (order.of_checkout(layer, inner), order.checkout.clone(), inner.to_owned())
    });
    let mut all: Vec<_> = of_repos.chain(under_test).collect();
    if order.by_name {
        return all.into_iter().map(|(rank, repo, layer)| (repo, layer, rank.priority())).collect();
    }
    // OE-Core's layer comes first.
    if let Some(core) = all.iter().position(|(_, _, layer)| layer == Path::new("meta")) {
        let core = all.remove(core);
        all.insert(0, core);
    }
    all.sort_by(|(one, ..), (other, ..)| one.cmp(other));
    let count = i64::try_from(all.len()).unwrap_or(i64::MAX);
    all.into_iter().zip((1..=count).rev()).map(|((_, repo, layer), rank)| (repo, layer, rank)).collect()
}

fn layers(name: &str, layers: &[std::path::PathBuf], ranks: &Ranks, text: &mut String) {
    if layers.is_empty() {
        *text += "    layers: {}\n";
        return;
    }
    *text += "    layers:\n";
    for layer in layers {
        let shown = if layer.as_os_str().is_empty() { ".".into() } else { layer.display().to_string() };
        let rank = ranks.iter().find(|(repo, path, _)| repo == name && path == layer).map(|(.., rank)| *rank);
        let _ = match rank.filter(|rank| *rank != 0) {
            Some(rank) => writeln!(text, "      {}:\n        prio: {rank}", quoted(&shown)),
            None => writeln!(text, "      {}:", quoted(&shown)),
        };
    }
}

/// `kas.lock.yml`, if the manifest has a lock.
fn lock<'a>(settings: &'a Settings) -> Option<String> {
    let pin = |repo: &'a Repo| match &repo.source {
        RepoSource::Git(git) => Some((repo.name.as_str(), git.locked.as_deref()?)),
        RepoSource::Path(_) => None,
    };
    let pins: Vec<(&str, &str)> = settings.repos.iter().filter_map(pin).collect();
    if pins.is_empty() {
        return None;
    }
    let mut text = String::from("header:\n  version: 14\noverrides:\n  repos:\n");
    for (name, commit) in pins {
        let _ = writeln!(text, "    {}:\n      commit: {}", quoted(name), quoted(commit));
    }
    Some(text)
}

/// What kas does not have.
fn without_equal(settings: &Settings) -> Vec<String> {
    let mut found = vec![format!("kas names no release; it is {}.", settings.release.name)];
    let machines: Vec<&str> = settings.config.machines.iter().skip(1).map(String::as_str).collect();
    if !machines.is_empty() {
        found.push(format!("kas builds for one machine; the others are {}.", machines.join(", ")));
    }
    let parts = [
        (settings.check.is_wanted(), "[check]"),
        (settings.test.is_wanted(), "[test]"),
        (settings.device.is_some(), "[device]"),
        (settings.build.changed, "[build] changed"),
        (!settings.hooks.is_empty(), "[[hooks]]"),
        (settings.github.is_some(), "[github]"),
        (settings.cache.share.is_some(), "[cache]"),
        (settings.templateconf.is_some(), "[config] templateconf"),
        (settings.repos.iter().any(|repo| repo.submodules), "[repos] submodules"),
        (settings.repos.iter().any(|repo| repo.lfs), "[repos] lfs"),
    ];
    let parts: Vec<&str> =
        parts.into_iter().filter_map(|(is_there, part)| is_there.then_some(part)).collect();
    if !parts.is_empty() {
        found.push(format!("kas has nothing like {}.", parts.join(", ")));
    }
    if settings.buildtools.as_ref().is_some_and(|tools| buildtools(tools).is_none()) {
        found.push("kas cannot have the address of the buildtools, so they are missing here.".to_owned());
    }
    if settings.artifacts.rules.iter().any(|rule| !rule.exclude.is_empty()) {
        found.push("Artifacts of kas have no exclude.".to_owned());
    }
    found
}

/// The parts of the address, as kas joins them; `None`, if kas would make another address.
fn buildtools(buildtools: &Buildtools) -> Option<String> {
    let (base, file) = buildtools.url.as_str().rsplit_once('/')?;
    if file.contains(['%', '?', '#']) {
        return None;
    }
    // kas installs again if this is not the version that the installation names.
    let stem = file.strip_suffix(".sh").unwrap_or(file);
    let version =
        stem.rsplit_once("-standalone-").or_else(|| stem.rsplit_once('-')).map_or(stem, |(_, end)| end);
    let parts =
        [("version", version), ("sha256sum", &buildtools.sha256), ("base_url", base), ("filename", file)];
    let lines = parts.map(|(key, value)| format!("  {key}: {}\n", quoted(value)));
    Some(format!("\nbuildtools:\n{}", lines.concat()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn buildtools_have_the_parts_that_kas_joins() {
        let of = |url: &str| buildtools(&Buildtools { url: url.parse().unwrap(), sha256: "ab".into() });
        let section = |version: &str, base: &str, file: &str| {
            Some(format!(
                "\nbuildtools:\n  version: \"{version}\"\n  sha256sum: \"ab\"\n  base_url: \"{base}\"\n  filename: \"{file}\"\n"
            ))
        };
        let base = "https://x.example/t";
        for (file, wanted) in [
            ("x86_64-buildtools-extended-nativesdk-standalone-5.0.8.sh", Some("5.0.8")),
            ("x86_64-buildtools-nativesdk-standalone-5.3-snapshot.sh", Some("5.3-snapshot")),
            ("tools-beta-1.0.0.sh", Some("1.0.0")),
            ("tools", Some("tools")),
            ("a%20b.sh", None),
            ("tools.sh?x=1", None),
        ] {
            let wanted = wanted.and_then(|version| section(version, base, file));
            assert_eq!(of(&format!("{base}/{file}")), wanted, "{file}");
        }
    }
}
