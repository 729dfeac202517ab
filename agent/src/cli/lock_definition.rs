//! `build-agent lock kas.yml`: pins the repositories of a definition in the lock of its own tool.

use crate::config::lock::{Lock, Locked};
use crate::config::{self, AgentEnvironment, Float, GitSource, Request};
use crate::report;
use agent_types::error::{Error, Result};
use agent_types::outcome::ExitStatus;

use super::arguments;
use super::definition::with_definition;
use super::diff;
use super::job::{load_request, request};
use super::lock::{self, change};
use super::print;
use super::servers::servers;

/// Writes the locks of a definition: adds missing pins, and replaces those that `--update` names by their keys. A manifest
/// has a lock of its own.
pub async fn command(args: arguments::Lock, environment: &AgentEnvironment) -> Result<ExitStatus> {
    let named = Request { manifest: args.manifest.manifest.clone(), ..Request::default() };
    if !config::is_definition(&named) {
        return lock::command(args, environment).await;
    }
    let is_diff = args.diff;
    // Without names, a comparison is with the newest commits of all repositories.
    let lock_updates = args.update.clone().or_else(|| is_diff.then(Vec::new));
    let request = Request { lock_updates, ..request(&args.manifest).await? };
    let request = with_definition(request, environment).await?;
    let Some(definition) = &request.definition else {
        return Err(Error::internal("a definition was not read"));
    };
    let locks = &definition.locks;
    if locks.files.is_empty() {
        return Err(Error::usage("this format has no lock that build-agent could write")
            .hint("turn it into a manifest, which has one: build-agent import"));
    }
    let keys = locks.keys();
    let named = request.lock_updates.iter().flatten();
    if let Some(unknown) = named.into_iter().find(|name| !keys.contains(&name.as_str())) {
        return Err(unknown_key(unknown, &keys));
    }
    let settings = load_request(&request, environment).await?;
    let servers = servers(&settings, environment).await?;
    // The commit of which files were included stays.
    let source = |float: &Float| {
        (float.name.clone(), GitSource { locked: float.commit.clone(), ..float.source.clone() })
    };
    let sources: Vec<(String, GitSource)> = locks.floats.iter().map(source).collect();
    let pins = lock::pins(&sources, &settings, &servers, None, &Lock::default()).await?;
    let pins: Vec<(&Float, &str)> =
        locks.floats.iter().zip(pins.iter().map(|pin| pin.commit.as_str())).collect();
    if is_diff {
        let access = servers.access.for_source(settings.cache.trust.is_trusted());
        let (mut old, mut new) = (Lock::default(), Lock::default());
        for (float, commit) in &pins {
            if let Some(pinned) = locks.pinned(&float.key) {
                old.insert(&float.name, Locked::new(&float.source, pinned));
            }
            new.insert(&float.name, Locked::new(&float.source, commit));
        }
        diff::show(&diff::of_lock(&old), &diff::of_lock(&new), false, &access, environment).await?;
        return Ok(ExitStatus::Passed);
    }
    let commits: Vec<(&str, &str)> =
        pins.iter().map(|(float, commit)| (float.key.as_str(), *commit)).collect();
    let written = locks.updated(&commits);
    for (key, commit) in commits {
        let place = written.external.iter().find(|(external, _)| external == key);
        match place {
            Some((_, file)) => print::line(format_args!(
                "{key:<20} is pinned by {file}, a file of another repository: not changed"
            ))?,
            None => print::line(format_args!("{key:<20} {}", change(locks.pinned(key), commit)))?,
        }
    }
    for (path, text) in &written.files {
        report::replace(path, text.as_bytes())?;
        print::line(format_args!("wrote {}", path.display()))?;
    }
    if written.files.is_empty() {
        print::line(format_args!(
            "nothing to write: each repository has its pin, or a commit in the definition"
        ))?;
    }
    Ok(ExitStatus::Passed)
}

fn unknown_key(unknown: &str, known: &[&str]) -> Error {
    let message =
        format!("--update {unknown}: the definition has no repository `{unknown}` with a branch or a tag");
    Error::usage(message).hint(lock::known_names(unknown, known))
}
