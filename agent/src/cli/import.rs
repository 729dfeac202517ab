//! `build-agent import`: writes the manifest and the lock that a definition of another tool means.

use std::collections::BTreeSet;

use crate::config::lock::{Lock, Locked};
use crate::config::{self, AgentEnvironment, RepoSource, Wanted};
use crate::report;
use agent_types::error::{Error, Result};
use agent_types::outcome::ExitStatus;

use super::arguments;
use super::definition::with_definition;
use super::job::{load_request, request, with_release};
use super::print;

pub async fn command(args: arguments::Import, environment: &AgentEnvironment) -> Result<ExitStatus> {
    let request = with_release(request(&args.manifest).await?, &args.release);
    let request = with_definition(request, environment).await?;
    let Some(definition) = request.definition.clone() else {
        return Err(Error::usage("import needs a definition of another tool")
            .hint("such as build-agent import kas.yml, or FILE.conf.json --choose CONFIGURATION,…"));
    };
    // Everything that is wrong with it is said now.
    let settings = load_request(&request, environment).await?;
    let directory = definition.project_root.base.clone();
    let (manifest, lock) = (directory.join(config::FILE_NAME), directory.join(config::lock::FILE_NAME));
    if !args.force
        && let Some(old) = [&manifest, &lock].into_iter().find(|path| path.exists())
    {
        return Err(Error::usage(format!("{} exists", old.display())).hint("--force replaces it"));
    }
    let pinned: BTreeSet<String> = definition.pinned_by_locks();
    let text = definition.manifest_text(&pinned);
    report::replace(&manifest, text.as_bytes())?;
    print::line(format_args!("wrote {}", manifest.display()))?;
    if pinned.is_empty() {
        print::line(format_args!("its branches are not pinned: `build-agent lock` writes a lock"))?;
        return Ok(ExitStatus::Passed);
    }
    let mut pins = Lock::default();
    for repo in settings.repos.iter().filter(|repo| pinned.contains(&repo.name)) {
        if let RepoSource::Git(source) = &repo.source
            && let Wanted::CommitOnBranch { commit, branch } = &source.wanted
        {
            let mut floating = source.clone();
            floating.wanted = Wanted::Branch(branch.clone());
            pins.insert(&repo.name, Locked::new(&floating, commit));
        }
    }
    report::replace(&lock, config::lock::render(&pins).as_bytes())?;
    // A lock pins all repositories: those that the definition does not pin get their newest commit.
    let manifest_args = arguments::ManifestArgs {
        manifest: Some(manifest.display().to_string()),
        manifest_sha256: None,
        cell: None,
        choose: Vec::new(),
        common: arguments::CommonArgs { set: Vec::new(), ..args.manifest.common },
    };
    let lock = arguments::Lock { manifest: manifest_args, update: None, diff: false };
    super::lock::command(lock, environment).await
}
