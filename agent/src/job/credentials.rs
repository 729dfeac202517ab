//! Isolates the build's credentials from layer code, and reports whether layer code can reach them.

use std::path::PathBuf;

use tokio::task::JoinHandle;

use crate::config::{self, RepoSource, Settings};
use crate::stages::configure::remove_recipe_credentials;
use agent_process::credentials::{CredentialSources, try_access};
use agent_process::{CredentialIsolation, Environment, JobRules, Prober, Runner, User};
use agent_types::credentials::{CredentialAccess, Reachable};
use agent_types::events::{Emitter, EventKind, Level};
use agent_types::stage::Stage;
use agent_yocto::environment::HOST_PATH;

/// Root closes the credentials to the build user, who then tries to reach them. No layer code may run before the result:
/// it could reach credentials, or disturb the test.
pub struct CredentialCheck(JoinHandle<(CredentialAccess, JobRules)>);

/// Closes the credentials to the build user, if the agent is root. No layer code may run before.
pub async fn isolate_credentials(
    settings: &Settings,
    sources: &CredentialSources,
    runner: &Runner,
) -> JobRules {
    isolate(build_user(settings).as_ref(), sources, needed(settings), &prober(settings, runner)).await
}

/// Removes the rules that [`isolate_credentials`] added for this job alone, and the credentials of recipes, after all layer
/// code has ended.
pub async fn end_isolation(rules: JobRules, settings: &Settings, runner: &Runner) {
    rules.remove(&prober(settings, runner)).await;
    if let Err(error) = remove_recipe_credentials(settings) {
        runner.events.warn(format!("the credentials of recipes are not removed: {error}"), error.hint).await;
    }
}

async fn isolate(
    user: Option<&User>,
    sources: &CredentialSources,
    needed: Vec<PathBuf>,
    prober: &Prober,
) -> JobRules {
    match user {
        Some(user) => CredentialIsolation { user, sources, needed }.set_up(prober).await,
        None => JobRules::default(),
    }
}

/// Starts the isolation and the test, in parallel with the first steps of the job.
pub fn start_check(settings: &Settings, sources: &CredentialSources, runner: &Runner) -> CredentialCheck {
    let (prober, user, needed) = (prober(settings, runner), build_user(settings), needed(settings));
    let sources = sources.with_homes(user.as_ref()).with_checkouts(checkouts(settings));
    CredentialCheck(tokio::spawn(async move {
        let rules = isolate(user.as_ref(), &sources, needed, &prober).await;
        (try_access(&prober, user.as_ref(), &sources).await, rules)
    }))
}

impl CredentialCheck {
    /// Waits for the result and reports it: as a warning if the source is not trusted. Returns the rules that end with the
    /// job.
    pub async fn report(self, settings: &Settings, runner: &Runner) -> JobRules {
        let Ok((access, rules)) = self.0.await else { return JobRules::default() };
        // A job that is being stopped runs no layer code.
        if runner.interrupt.state().is_none() {
            report(access, settings.cache.trust.is_trusted(), &runner.events).await;
        }
        rules
    }
}

async fn report(access: CredentialAccess, trusted: bool, events: &Emitter) {
    let (message, hint) = (access.message(), access.hint.clone());
    let warns = access.reachable != Reachable::No && !trusted;
    events.emit(EventKind::CredentialAccess(access)).await;
    let (level, message) = match warns {
        true => (Level::Warning, format!("{message}; this source is not trusted")),
        false => (Level::Info, message),
    };
    events.emit(EventKind::Notice { level, message, hint }).await;
}

/// The user that runs layer code, if it is not the agent's own. The stage configure reports that there is none.
fn build_user(settings: &Settings) -> Option<User> {
    agent_process::build_user(settings.build_user.as_deref(), &settings.checkout).ok().flatten()
}

/// The directories that the build user needs.
fn needed(settings: &Settings) -> Vec<PathBuf> {
    let paths = &settings.paths;
    let own = [&settings.checkout, &paths.work, &paths.caches, &paths.out];
    let all = own.into_iter().chain(&settings.layers);
    all.flat_map(|path| [Some(path.clone()), path.canonicalize().ok()]).flatten().collect()
}

/// Work trees whose configuration of git may have a token.
fn checkouts(settings: &Settings) -> Vec<PathBuf> {
    let of_repos = settings.repos.iter().filter_map(|repo| match &repo.source {
        RepoSource::Path(path) => Some(path),
        RepoSource::Git(_) => None,
    });
    let all = [&settings.checkout].into_iter().chain(&settings.layers).chain(of_repos);
    all.map(|path| config::work_tree(path)).collect()
}

fn prober(settings: &Settings, runner: &Runner) -> Prober {
    let mut environment = Environment::default();
    for (name, value) in &settings.network {
        environment.set(name, value);
    }
    environment.set("PATH", HOST_PATH).set("LC_ALL", "C");
    Prober { runner: runner.for_stage(Stage::Checkout), environment, log: "probe" }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_an_untrusted_source_that_may_reach_credentials_is_a_warning() {
        for (reachable, trusted, level) in [
            (Reachable::Yes, false, Level::Warning),
            (Reachable::Unknown, false, Level::Warning),
            (Reachable::No, false, Level::Info),
            (Reachable::Yes, true, Level::Info),
            (Reachable::Unknown, true, Level::Info),
            (Reachable::No, true, Level::Info),
        ] {
            let (emitter, mut events) = agent_types::events::channel();
            let reasons = vec!["/x/env.sh can be read".to_owned()];
            let access = CredentialAccess { reachable, reasons, hint: Some("close it".into()) };
            report(access.clone(), trusted, &emitter).await;
            assert_eq!(events.recv().await.unwrap().what, EventKind::CredentialAccess(access));
            let EventKind::Notice { level: reported, message, hint } = events.recv().await.unwrap().what
            else {
                panic!("no notice")
            };
            assert_eq!((reported, hint.as_deref()), (level, Some("close it")), "{reachable:?} {trusted}");
            assert!(message.contains("/x/env.sh"), "{message}");
            assert_eq!(message.contains("not trusted"), level == Level::Warning, "{message}");
        }
    }
}
