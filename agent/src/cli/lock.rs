//! `build-agent lock`: pins each repo to its current commit.

use std::path::Path;

use futures_util::{StreamExt, stream};

use crate::config::lock::{Lock, Locked, floats};
use crate::config::{self, AgentEnvironment, Cell, GitSource, RepoSource, Request, Settings, Wanted};
use crate::report;
use crate::stages::cleanup::after;
use agent_fs::untrusted;
use agent_git::{Access, Git};
use agent_process::Runner;
use agent_types::error::{Class, Error, Result};
use agent_types::outcome::ExitStatus;

use super::arguments;
use super::cells::{load_cells, matrix_cells};
use super::current_dir::current_dir;
use super::diff;
use super::job::{load_request, request};
use super::limited_reading::limit_reading;
use super::print;
use super::servers::{Servers, servers};
use super::unrecorded::UnrecordedRun;

/// Maximum number of servers that are asked in parallel.
const PARALLEL: usize = 4;

/// Writes the lock: adds missing pins, and with `--update` replaces pins.
pub async fn command(args: arguments::Lock, environment: &AgentEnvironment) -> Result<ExitStatus> {
    let request = request(&args.manifest).await?;
    limit_reading(&request, environment)?;
    let path = config::lock_path(&request, environment, &current_dir()?)?;
    // Without names, a comparison is with the newest commits of all repositories.
    let update = args.update.clone().or_else(|| args.diff.then(Vec::new));
    let all = update.as_ref().is_some_and(Vec::is_empty);
    let previous = match untrusted::read_named(&path, untrusted::PAGE) {
        Ok(bytes) => match config::lock::parse(&path.display().to_string(), &bytes) {
            // Every pin is replaced, so the old file need not be valid.
            Err(_) if all => Lock::default(),
            parsed => parsed.map_err(|error| error.hint("`build-agent lock --update` replaces it"))?,
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Lock::default(),
        Err(error) => return Err(error.into()),
    };
    if let Some(cell) = &request.cell {
        return Err(Error::usage(format!("--cell {cell}: a lock pins the repositories of all cells"))
            .hint("remove --cell"));
    }
    // `--update` alone replaces all pins; without it, only repos that have no pin get one.
    let moved = match &update {
        None => Some(&[][..]),
        Some(names) if names.is_empty() => None,
        Some(names) => Some(&names[..]),
    };
    let kept_pins = previous.of_repos(|name| moved.is_some_and(|moved| !moved.iter().any(|one| one == name)));
    let request = Request { ignore_lock: true, kept_pins, ..request };
    let jobs = match matrix_cells(&request, environment).await? {
        Some(cells) => load_cells(cells, &request, environment)
            .await?
            .into_iter()
            .map(|(_, settings)| settings)
            .collect(),
        None => vec![load_request(&request, environment).await?],
    };
    let Some(first) = jobs.first() else { return Err(Error::internal("a matrix without cells")) };
    let servers = servers(first, environment).await?;
    let access = servers.access.for_source(first.cache.trust.is_trusted());
    let sources = sources(&jobs)?;
    let pins = pins(&sources, first, &servers, moved, &previous).await?;
    let mut lock = Lock::default();
    for pin in &pins {
        lock.insert(&pin.name, Locked::new(&pin.source, &pin.commit));
    }
    if args.diff {
        diff::show(&diff::of_lock(&previous), &diff::of_lock(&lock), false, &access, environment).await?;
        return Ok(ExitStatus::Passed);
    }
    for pin in &pins {
        let old = previous.find(&pin.name, &pin.source).or(match previous.pins(&pin.name) {
            [only] if lock.pins(&pin.name).len() == 1 => Some(only),
            _ => None,
        });
        let several = lock.pins(&pin.name).len() > 1;
        let name = if several { format!("{} ({})", pin.name, wanted(&pin.source)) } else { pin.name.clone() };
        print::line(format_args!("{name:<20} {}", change(old.map(|old| old.commit.as_str()), &pin.commit)))?;
    }
    report::replace(&path, config::lock::render(&lock).as_bytes())?;
    print::line(format_args!("wrote {}", path.display()))?;
    Ok(ExitStatus::Passed)
}

/// The commits of all repositories of all cells: what is not pinned is resolved now, once.
///
/// # Errors
/// As [`resolve`]; also if two cells were loaded with different commits of one branch.
pub async fn resolve_cells(cells: &[(Cell, Settings)], environment: &AgentEnvironment) -> Result<Lock> {
    let Some((_, first)) = cells.first() else { return Ok(Lock::default()) };
    let sources = sources(cells.iter().map(|(_, settings)| settings))?;
    let mut lock = Lock::default();
    if sources.iter().all(|(_, source)| source.locked.is_some() || !floats(source)) {
        for (name, source) in &sources {
            let commit = source.locked.clone().or_else(|| source.wanted.commit().map(str::to_owned));
            lock.insert(name, Locked::new(source, &commit.unwrap_or_default()));
        }
        return Ok(lock);
    }
    let servers = servers(first, environment).await?;
    for pin in pins(&sources, first, &servers, Some(&[]), &Lock::default()).await? {
        lock.insert(&pin.name, Locked::new(&pin.source, &pin.commit));
    }
    Ok(lock)
}

/// The branch, tag or commit, for people.
fn wanted(source: &GitSource) -> &str {
    let wanted = &source.wanted;
    wanted.branch().or(wanted.tag()).or(wanted.commit()).unwrap_or_default()
}

/// The git repositories of all jobs, each once.
///
/// # Errors
/// Upstream, if jobs that want the same were loaded with different commits: a branch has moved in between.
fn sources<'a>(jobs: impl IntoIterator<Item = &'a Settings>) -> Result<Vec<(String, GitSource)>> {
    let mut sources: Vec<(String, GitSource)> = Vec::new();
    for repo in jobs.into_iter().flat_map(|job| &job.repos) {
        let RepoSource::Git(source) = &repo.source else { continue };
        let is_same = |(name, known): &&mut (String, GitSource)| {
            *name == repo.name && known.url == source.url && known.wanted == source.wanted
        };
        match sources.iter_mut().find(is_same) {
            None => sources.push((repo.name.clone(), source.clone())),
            Some((_, known)) => match (&known.locked, &source.locked) {
                (Some(one), Some(other)) if one != other => {
                    return Err(moved_meanwhile(&repo.name, one, other));
                }
                (None, Some(_)) => known.locked.clone_from(&source.locked),
                _ => {}
            },
        }
    }
    Ok(sources)
}

fn moved_meanwhile(name: &str, one: &str, other: &str) -> Error {
    Error::new(
        Class::Upstream,
        format!("{name} moved from {one} to {other} while the cells of the matrix were read"),
    )
    .hint("run the command again, or pin the branch: build-agent lock")
}

/// Resolves the sources outside of a job.
pub(super) async fn pins(
    sources: &[(String, GitSource)],
    settings: &Settings,
    servers: &Servers,
    moved: Option<&[String]>,
    previous: &Lock,
) -> Result<Vec<Pin>> {
    let access = servers.access.for_source(settings.cache.trust.is_trusted());
    let unrecorded = UnrecordedRun::new(settings, servers.redactor(settings))?;
    if let Some(notice) = &servers.notice {
        unrecorded.runner.events.info(notice).await;
    }
    let kept = |name: &str, source: &GitSource| Some(previous.find(name, source)?.commit.clone());
    let pins = resolve(sources, &settings.checkout, &unrecorded.runner, &access, moved, kept).await;
    after(pins, unrecorded.end().await)
}

/// The change of a pin, for people.
pub(super) fn change(old: Option<&str>, new: &str) -> String {
    match old {
        Some(old) if old == new => format!("{new} (unchanged)"),
        Some(old) => format!("{old} -> {new}"),
        None => format!("{new} (new)"),
    }
}

/// The lock entry of one repo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pin {
    pub name: String,
    /// The source in the manifest. Its URL may contain credentials, see [`agent_git::display_url`].
    pub source: GitSource,
    pub commit: String,
}

/// Finds the commit of each repo, in the manifest's order. Local directories have none.
///
/// `names`: the repos to update; `None` updates all. The other repos keep their `previous` commit, and get
/// one if they have none. `previous` returns the commit of the current lock for a repo whose URL and branch,
/// tag or commit are unchanged.
///
/// # Errors
/// Usage, if a name is not a repo with a `url`, the server does not have a branch, tag or commit, or an object
/// is not a commit. Upstream, if a server does not answer.
pub async fn resolve(
    repos: &[(String, GitSource)],
    checkout: &Path,
    runner: &Runner,
    access: &Access,
    names: Option<&[String]>,
    previous: impl Fn(&str, &GitSource) -> Option<String>,
) -> Result<Vec<Pin>> {
    let known: Vec<&str> = repos.iter().map(|(name, _)| name.as_str()).collect();
    if let Some(unknown) = names.unwrap_or_default().iter().find(|name| !known.contains(&name.as_str())) {
        return Err(unknown_name(unknown, &known));
    }
    let pins = repos.iter().map(|(name, source)| {
        let moves = names.is_none_or(|names| names.iter().any(|moved| moved == name));
        let kept = if moves { None } else { previous(name, source) };
        async move {
            // Files were included from this commit.
            let commit = match kept.or_else(|| source.locked.clone()) {
                Some(commit) => commit,
                None => pin(checkout, runner, access, name, source).await?,
            };
            Ok(Pin { name: name.to_string(), source: source.clone(), commit })
        }
    });
    let answers: Vec<Result<Pin>> = stream::iter(pins).buffered(PARALLEL).collect().await;
    answers.into_iter().collect()
}

/// Finds the current commit of a source. The tip of a branch is always a commit; other objects are verified.
async fn pin(
    checkout: &Path,
    runner: &Runner,
    access: &Access,
    name: &str,
    source: &GitSource,
) -> Result<String> {
    if matches!(source.wanted, Wanted::Branch(_)) {
        let git = Git::new(runner, access, name, Some(&source.url), &[])?;
        return agent_git::resolve(&git, name, &source.url, &source.wanted, checkout).await;
    }
    let scratch = tempfile::Builder::new()
        .prefix("build-agent-lock-")
        .tempdir()
        .map_err(|error| Error::machine("cannot create a temporary directory").because(&error))?;
    let place = scratch.path().join(name);
    let git = Git::new(runner, access, name, Some(&source.url), std::slice::from_ref(&place))?;
    agent_git::verify(&git, &place, name, source).await
}

fn unknown_name(name: &str, known: &[&str]) -> Error {
    let message = format!("--update {name}: the manifest has no repo `{name}` with a `url`");
    Error::usage(message).hint(known_names(name, known))
}

/// The hint for an unknown name.
pub(super) fn known_names(name: &str, known: &[&str]) -> String {
    match agent_git::nearest(name, known.iter().copied(), 1).into_iter().next() {
        Some(nearest) => format!("did you mean `{nearest}`?"),
        None => format!("repos with a `url` are: {}", known.join(", ")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::stages::checkout::tests::{repo, settings};
    use agent_git::fixture::Bench;

    #[tokio::test]
    async fn updates_only_the_named_repos() {
        let bench = Bench::new();
        let one = bench.upstream("one", &[("a", "")]).await;
        let two = bench.upstream("two", &[("a", "")]).await;
        let main = || Wanted::Branch("main".into());
        let repos = vec![
            repo("one", RepoSource::Git(one.source(main())), &[]),
            repo("two", RepoSource::Git(two.source(main())), &[]),
            repo("local", RepoSource::Path(one.path.clone()), &[]),
        ];
        let job = settings(&bench, "scarthgap", repos);
        let lock = async |names: Option<&[String]>, previous: &[String]| {
            let previous = |name: &str, _: &GitSource| previous.get(usize::from(name == "two")).cloned();
            let pins = resolve(
                &sources([&job]).unwrap(),
                &job.checkout,
                &bench.runner,
                &bench.access,
                names,
                previous,
            )
            .await?;
            let commits = pins.iter().map(|pin| (pin.name.clone(), pin.commit.clone())).collect::<Vec<_>>();
            Ok::<_, Error>(commits)
        };
        let old = [one.git(&["rev-parse", "HEAD"]).await, two.git(&["rev-parse", "HEAD"]).await];
        let new = [one.commit(&[("b", "")]).await, two.commit(&[("c", "")]).await];
        let named = Some(vec!["two".to_string()]);
        for (names, previous, wanted) in [
            (None, &old[..], [&new[0], &new[1]]),
            (named, &old[..], [&old[0], &new[1]]),
            (Some(vec![]), &old[..], [&old[0], &old[1]]),
            // A repo without a pin gets one, even if it is not named.
            (Some(vec![]), &old[..1], [&old[0], &new[1]]),
        ] {
            let wanted = [("one".to_string(), wanted[0].clone()), ("two".to_string(), wanted[1].clone())];
            assert_eq!(lock(names.as_deref(), previous).await.unwrap(), wanted, "{names:?}");
        }
        let unknown = lock(Some(&["twoo".to_string()]), &old).await.unwrap_err();
        assert_eq!(unknown.class, Class::Usage);
        assert_eq!(unknown.hint.as_deref(), Some("did you mean `two`?"));
        assert_eq!(lock(Some(&["local".to_string()]), &old).await.unwrap_err().class, Class::Usage);
    }

    #[tokio::test]
    async fn rejects_objects_that_are_not_commits() {
        let bench = Bench::new();
        let up = bench.upstream("up", &[("a", "")]).await;
        let commit = up.git(&["rev-parse", "HEAD"]).await;
        let blob = up.git(&["rev-parse", "HEAD:a"]).await;
        up.git(&["tag", "-a", "-m", "x", "v1"]).await;
        up.git(&["tag", "blob", &blob]).await;
        let tag_id = up.git(&["rev-parse", "v1"]).await;
        let on = |commit: &str| Wanted::CommitOnBranch { commit: commit.into(), branch: "main".into() };
        for (wanted, good) in [
            (Wanted::Tag("v1".into()), true),
            (Wanted::Commit(commit.clone()), true),
            (on(&commit), true),
            (Wanted::Tag("blob".into()), false),
            (Wanted::Commit(tag_id), false),
            (Wanted::Commit(blob.clone()), false),
            (Wanted::Commit("1".repeat(40)), false),
            (on(&blob), false),
        ] {
            let repos = vec![repo("up", RepoSource::Git(up.source(wanted.clone())), &[])];
            let job = settings(&bench, "scarthgap", repos);
            let pins = resolve(
                &sources([&job]).unwrap(),
                &job.checkout,
                &bench.runner,
                &bench.access,
                None,
                |_, _| None,
            )
            .await;
            match good {
                true => assert_eq!(pins.unwrap()[0].commit, commit, "{wanted:?}"),
                false => assert_eq!(pins.unwrap_err().class, Class::Usage, "{wanted:?}"),
            }
        }
    }
}
