//! Keeps layer code from the build's credentials, and reports whether it can reach them.

use std::path::PathBuf;

use tokio::task::JoinHandle;

use crate::config::Settings;
use agent_process::credentials::{CredentialSources, try_access};
use agent_process::{Environment, Fence, Prober, Runner, User};
use agent_types::credentials::{CredentialAccess, Reachable};
use agent_types::events::{Emitter, EventKind, Level};
use agent_types::stage::Stage;
use agent_yocto::environment::HOST_PATH;

/// The fence goes up, and then the build user tries it. Nothing of a layer may run before the answer is there: it could
/// reach credentials, or disturb the trial.
pub struct CredentialCheck(JoinHandle<CredentialAccess>);

/// Sets up the fence, if the agent is root. Nothing of a layer may run before.
pub async fn set_up_fence(settings: &Settings, sources: &CredentialSources, runner: &Runner) {
    let Some(user) = build_user(settings) else { return };
    fence(&user, sources, kept(settings), &prober(settings, runner)).await;
}

async fn fence(user: &User, sources: &CredentialSources, keep: Vec<PathBuf>, prober: &Prober) {
    // What could not be closed matters only if it can be reached, and then the answer says so.
    Fence { user, sources, keep }.set_up(prober).await;
}

/// Starts both, beside what else the job does first.
pub fn start_check(settings: &Settings, sources: &CredentialSources, runner: &Runner) -> CredentialCheck {
    let (prober, user, keep) = (prober(settings, runner), build_user(settings), kept(settings));
    let sources = sources.with_homes(user.as_ref());
    CredentialCheck(tokio::spawn(async move {
        if let Some(user) = &user {
            fence(user, &sources, keep, &prober).await;
        }
        try_access(&prober, user.as_ref(), &sources).await
    }))
}

impl CredentialCheck {
    /// Waits for the answer and reports it: as a warning if nobody vouches for the source.
    pub async fn report(self, settings: &Settings, runner: &Runner) {
        let Ok(access) = self.0.await else { return };
        // A job that is being stopped runs no layer code.
        if runner.interrupt.state().is_none() {
            report(access, settings.cache.trust.is_trusted(), &runner.events).await;
        }
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

/// What the build user has to reach.
fn kept(settings: &Settings) -> Vec<PathBuf> {
    let own = [&settings.checkout, &settings.paths.work, &settings.paths.out];
    let all = own.into_iter().chain(&settings.layers);
    all.flat_map(|path| [Some(path.clone()), path.canonicalize().ok()]).flatten().collect()
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
            let EventKind::Notice { level: told, message, hint } = events.recv().await.unwrap().what else {
                panic!("no notice")
            };
            assert_eq!((told, hint.as_deref()), (level, Some("close it")), "{reachable:?} {trusted}");
            assert!(message.contains("/x/env.sh"), "{message}");
            assert_eq!(message.contains("not trusted"), level == Level::Warning, "{message}");
        }
    }
}
