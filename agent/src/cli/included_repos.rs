//! Fetches the repositories that a manifest includes files from, before the manifest is complete.

use std::time::{Duration, SystemTime};

use crate::config::{self, AgentEnvironment, IncludedRepo, Loaded, RepoSource, RepoToInclude, Request};
use crate::stages::checkout;
use agent_process::{Redactor, Runner};
use agent_types::error::Result;

use super::head::unrecorded_runner;
use super::layer_store::layer_store;
use super::print;
use super::servers::access;

/// Time limit of git, for all repositories together.
const LIMIT: Duration = Duration::from_secs(600);

/// Loads something that needs the whole manifest. `load` says which repositories it needs; each round can need more.
///
/// # Errors
/// Those of `load`, and of git.
pub async fn with_included_repos<T>(
    request: &Request,
    environment: &AgentEnvironment,
    load: impl Fn(&Request) -> Result<Loaded<T>>,
) -> Result<T> {
    let mut request = request.clone();
    let mut runner = None;
    loop {
        let needed = match load(&request)? {
            Loaded::Ready(ready) => return Ok(ready),
            Loaded::Needs(needed) => needed,
        };
        for repo in needed {
            print::hide(&repo.secrets);
            let secrets = [environment.secrets(), &repo.secrets].concat();
            let (git, _) = match &mut runner {
                Some(runner) => runner,
                none => none.insert(unrecorded_runner(Redactor::new(environment.secrets()), LIMIT)?),
            };
            let git = Runner { redactor: Redactor::new(&secrets), ..git.clone() };
            let fetched = fetch(&repo, &request, environment, &git).await?;
            request.included.push(fetched);
        }
    }
}

/// Gets the files of the repository into this machine's layer store, where the job finds them.
async fn fetch(
    repo: &RepoToInclude,
    request: &Request,
    environment: &AgentEnvironment,
    runner: &Runner,
) -> Result<IncludedRepo> {
    let name = repo.name.clone();
    let store = layer_store(request, environment)?;
    let access = access(request, environment).for_source(config::is_trusted(request, environment));
    let began = SystemTime::now();
    let (root, commit) = checkout::one(store, runner, &access, &name, &repo.source).await?;
    if began.elapsed().is_ok_and(|spent| spent > Duration::from_secs(3)) {
        print::diagnostic(format_args!(
            "note: fetched {name} ({commit}), which the manifest includes files from"
        ));
    }
    Ok(IncludedRepo { name, source: RepoSource::Git(repo.source.clone()), root, commit: Some(commit) })
}
