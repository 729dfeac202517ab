//! What is ended after a command of BitBake. An error here is no verdict: it neither replaces nor hides the
//! outcome, which is reported first.

use std::path::Path;

use agent_process::{Runner, User};
use agent_types::error::{Error, Result};
use agent_types::events::{Emitter, EventKind, Unit};
use agent_types::outcome::Outcome;
use agent_yocto::server;

/// The end of a BitBake server: an error that is still to be reported.
#[derive(Debug, Default)]
#[must_use = "report it after the outcome"]
pub struct ServerEnd(Option<Error>);

impl ServerEnd {
    /// Ends the server of the build directory: it has left the process group on purpose, and must not outlive
    /// the directory.
    pub async fn stop(build: &Path, user: Option<&User>, runner: &Runner) -> ServerEnd {
        ServerEnd(server::stop_server(build, user, runner.grace_left()).await.err())
    }

    /// Reports what went wrong.
    pub async fn report(self, events: &Emitter) {
        let Some(error) = self.0 else { return };
        let causes = error.causes.iter().map(|cause| format!(": {cause}"));
        let message = format!("{}{}", error.message, causes.collect::<String>());
        events.warn(message, error.hint).await;
    }
}

/// How a unit ended.
#[derive(Debug)]
pub struct UnitEnd {
    pub unit: Unit,
    pub outcome: Outcome,
    pub log: Option<std::path::PathBuf>,
    pub excerpt: Vec<String>,
}

impl UnitEnd {
    /// A unit that could not do its part.
    pub fn error(unit: Unit, error: &Error) -> UnitEnd {
        UnitEnd { unit, outcome: super::error_outcome(error), log: None, excerpt: Vec::new() }
    }

    /// Reports the outcome, and only then the end of the server.
    pub async fn report(self, server: ServerEnd, events: &Emitter) {
        let UnitEnd { unit, outcome, log, excerpt } = self;
        events.emit(EventKind::UnitFinished { unit, outcome, log, excerpt }).await;
        server.report(events).await;
    }
}

/// The first error of the two results, the work's before the cleanup's.
///
/// # Errors
/// That error.
pub fn after<T>(work: Result<T>, cleanup: Result<()>) -> Result<T> {
    let done = work?;
    cleanup.map(|()| done)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use agent_types::events::channel;
    use agent_types::stage::Stage;

    #[tokio::test]
    async fn a_server_that_does_not_end_is_reported_after_the_outcome_and_changes_nothing_in_it() {
        let (events, mut received) = channel();
        let unit = Unit::new(Stage::Build, "image (qemux86-64)");
        let outcome = Outcome::Failed("a_1:do_compile failed".into());
        let end = UnitEnd { unit: unit.clone(), outcome: outcome.clone(), log: None, excerpt: Vec::new() };
        let stuck =
            Error::machine("cannot end BitBake's server of /b: pid 7 in state D").hint("look at mounts");
        end.report(ServerEnd(Some(stuck)), &events).await;
        drop(events);
        let first = received.recv().await.unwrap().what;
        assert_eq!(first, EventKind::UnitFinished { unit, outcome, log: None, excerpt: Vec::new() });
        let EventKind::Notice { message, hint, .. } = received.recv().await.unwrap().what else { panic!() };
        assert_eq!(message, "cannot end BitBake's server of /b: pid 7 in state D");
        assert_eq!(hint.as_deref(), Some("look at mounts"));
        // An event of kind error would change the exit status of the job.
        assert!(received.recv().await.is_none());
    }

    #[test]
    fn an_error_of_the_cleanup_never_replaces_the_works() {
        let error = |message: &str| Error::machine(message);
        for (work, cleanup, wanted) in [
            (Ok(1), Ok(()), Ok(1)),
            (Ok(1), Err(error("cleanup")), Err(error("cleanup"))),
            (Err(error("work")), Ok(()), Err(error("work"))),
            (Err(error("work")), Err(error("cleanup")), Err(error("work"))),
        ] {
            assert_eq!(after(work, cleanup), wanted);
        }
    }
}
