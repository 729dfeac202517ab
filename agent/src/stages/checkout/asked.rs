//! Layers that only BitBake knows of: where `layer.conf` computes its dependencies, the built-in manifest
//! cannot name their repos, so that BitBake is asked once it is there.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

use crate::config::{GitSource, Repo, RepoSource, Settings, Wanted, collections};
use agent_process::{Environment, Prober, Runner};
use agent_types::error::Result;
use agent_yocto::environment::HOST_PATH;
use agent_yocto::layer_conf::LayerConf;

use super::ReadyRepo;

/// Reads `layer.conf` as yocto-check-layer does, with BitBake's own parser.
const SCRIPT: &str = include_str!("layer_depends.py");
/// Before each answer; layer code may print, too.
const ANSWER: &str = "build-agent-answer ";
/// A `layer.conf` is read in a moment.
const LIMIT: Duration = Duration::from_secs(60);

/// What BitBake says of one layer.
#[derive(Debug, Deserialize)]
struct Answer {
    layer: PathBuf,
    #[serde(default)]
    depends: std::collections::BTreeMap<String, Vec<String>>,
    error: Option<String>,
}

/// The layers of the job that may depend on more than their text tells, other than `asked`.
fn unclear(settings: &Settings, repos: &[ReadyRepo], asked: &BTreeSet<PathBuf>) -> Vec<PathBuf> {
    let layers = settings.layers.iter().chain(repos.iter().flat_map(|repo| &repo.layers));
    let may_need_more = |layer: &&PathBuf| {
        !asked.contains(*layer) && LayerConf::read(layer).is_ok_and(|conf| conf.may_depend_on_more())
    };
    layers.filter(may_need_more).cloned().collect()
}

/// Asks BitBake for the dependencies of all layers whose text does not tell them, and says which sources
/// bring them: those that are new, and layers of repos that are there. `asked` remembers the layers.
pub async fn more(
    settings: &Settings,
    repos: &[ReadyRepo],
    bitbake: &Path,
    asked: &mut BTreeSet<PathBuf>,
    runner: &Runner,
) -> Result<Vec<Repo>> {
    let layers = unclear(settings, repos, asked);
    if layers.is_empty() {
        return Ok(Vec::new());
    }
    asked.extend(layers.iter().cloned());
    let mut wanted = Vec::new();
    for answer in ask(settings, bitbake, &layers, runner).await? {
        if let Some(error) = &answer.error {
            // The check itself says so, with the file and the line.
            let place = answer.layer.join("conf/layer.conf");
            let first = error.lines().next().unwrap_or_default();
            runner.events.warn(format!("BitBake cannot read {}: {first}", place.display()), None).await;
        }
        wanted.extend(answer.depends.into_values().flatten());
    }
    let (more, unknown) = sources(settings, repos, wanted);
    let names: Vec<&str> = more.iter().map(|repo| repo.name.as_str()).collect();
    if !names.is_empty() {
        let message =
            format!("BitBake was asked for computed dependencies; they are in {}", names.join(", "));
        runner.events.info(message).await;
    }
    for collection in unknown {
        let message = format!(
            "no repository is known for the layer collection `{collection}` that LAYERDEPENDS computes: write a \
             build-agent.toml that names it under [repos]"
        );
        runner.events.warn(message, None).await;
    }
    Ok(more)
}

async fn ask(
    settings: &Settings,
    bitbake: &Path,
    layers: &[PathBuf],
    runner: &Runner,
) -> Result<Vec<Answer>> {
    // Where there is no build user, configure says what is wrong; nothing of a layer runs as root.
    let Ok(user) = agent_process::build_user(settings.build_user.as_deref(), &settings.checkout) else {
        return Ok(Vec::new());
    };
    let mut environment = Environment::default();
    environment.set("PATH", HOST_PATH).set("LC_ALL", "en_US.UTF-8").set("PYTHONDONTWRITEBYTECODE", "1");
    let prober = Prober { runner: runner.clone(), environment, log: "ask" };
    let paths = [bitbake].into_iter().chain(layers.iter().map(PathBuf::as_path));
    let words: Vec<String> = paths.map(|path| path.to_string_lossy().into_owned()).collect();
    let mut argv = vec!["python3", "-c", SCRIPT];
    argv.extend(words.iter().map(String::as_str));
    let said = prober.ask("layer-depends", &argv, user.as_ref(), &prober.environment, LIMIT).await;
    let Some(lines) = said.lines() else {
        let message = format!("BitBake could not be asked for dependencies: {}", said.complaint());
        runner.events.warn(message, None).await;
        return Ok(Vec::new());
    };
    let answers = lines.iter().filter_map(|line| serde_json::from_str(line.strip_prefix(ANSWER)?).ok());
    Ok(answers.collect())
}

/// The sources of the collections that no layer has, by the table of well-known layers; and the collections
/// that are in no table.
fn sources(
    settings: &Settings,
    repos: &[ReadyRepo],
    mut wanted: Vec<String>,
) -> (Vec<Repo>, BTreeSet<String>) {
    let layers = settings.layers.iter().chain(repos.iter().flat_map(|repo| &repo.layers));
    let confs = layers.filter_map(|layer| LayerConf::read(layer).ok());
    let mut there: BTreeSet<String> =
        confs.flat_map(|conf| conf.names().map(str::to_owned).collect::<Vec<_>>()).collect();
    there.insert("core".to_owned());
    let (mut more, mut unknown): (Vec<Repo>, _) = (Vec::new(), BTreeSet::new());
    while let Some(collection) = wanted.pop() {
        if !there.insert(collection.clone()) {
            continue;
        }
        let Some(known) = collections::find(&collection) else {
            unknown.insert(collection);
            continue;
        };
        wanted.extend(known.depends.iter().map(|name| (*name).to_owned()));
        let layer = PathBuf::from(known.layer);
        if let Some(repo) = more.iter_mut().find(|repo| repo.name == known.repo) {
            repo.layers.push(layer);
        } else if let Ok(url) = known.url.parse() {
            let wanted = Wanted::Branch(settings.release.name.to_owned());
            let source = RepoSource::Git(GitSource { url, wanted, locked: None });
            let (name, layers) = (known.repo.to_owned(), vec![layer]);
            more.push(Repo {
                name,
                source,
                layers,
                patches: Vec::new(),
                signers: Vec::new(),
                submodules: true,
                lfs: true,
            });
        }
    }
    (more, unknown)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::tests::settings;
    use super::*;
    use agent_git::fixture::Bench;

    fn ready(name: &str, path: &Path) -> ReadyRepo {
        ReadyRepo {
            name: name.into(),
            path: path.into(),
            layers: vec![path.into()],
            commit: None,
            is_stored: false,
            shared_entry: None,
        }
    }

    #[tokio::test]
    async fn computed_dependencies_bring_their_repos_and_what_these_need() {
        let bench = Bench::new();
        let there = bench.path("there");
        fs_err::create_dir_all(there.join("conf")).unwrap();
        fs_err::write(there.join("conf/layer.conf"), "BBFILE_COLLECTIONS = \"openembedded-layer\"\n")
            .unwrap();
        let settings = settings(&bench, "scarthgap", vec![]);
        let wanted = ["core", "openembedded-layer", "networking-layer", "security", "nobody-knows"];
        let wanted = wanted.map(str::to_owned).to_vec();
        let (more, unknown) = sources(&settings, &[ready("meta-openembedded", &there)], wanted);
        let mut brief: Vec<_> = more
            .iter()
            .map(|repo| {
                let mut layers: Vec<_> = repo.layers.iter().map(|layer| layer.to_str().unwrap()).collect();
                layers.sort_unstable();
                (repo.name.as_str(), layers)
            })
            .collect();
        brief.sort();
        // meta-networking needs meta-python; meta-oe is there.
        assert_eq!(
            brief,
            [("meta-openembedded", vec!["meta-networking", "meta-python"]), ("meta-security", vec!["."])]
        );
        assert_eq!(unknown, BTreeSet::from(["nobody-knows".to_owned()]));
        let branch = Wanted::Branch("scarthgap".into());
        assert!(more.iter().all(|repo| matches!(&repo.source, RepoSource::Git(git) if git.wanted == branch)));
    }

    #[tokio::test]
    async fn only_layers_whose_text_does_not_tell_are_asked_about_and_once() {
        let bench = Bench::new();
        let mut repos = Vec::new();
        for (name, depends) in [("plain", "core"), ("computed", "core ${@x(d)}")] {
            let path = bench.path(name);
            fs_err::create_dir_all(path.join("conf")).unwrap();
            let text = format!("BBFILE_COLLECTIONS = \"{name}\"\nLAYERDEPENDS_{name} = \"{depends}\"\n");
            fs_err::write(path.join("conf/layer.conf"), text).unwrap();
            repos.push(ready(name, &path));
        }
        let settings = settings(&bench, "scarthgap", vec![]);
        let mut asked = BTreeSet::new();
        assert_eq!(unclear(&settings, &repos, &asked), [bench.path("computed")]);
        asked.insert(bench.path("computed"));
        assert_eq!(unclear(&settings, &repos, &asked), Vec::<PathBuf>::new());
    }
}
