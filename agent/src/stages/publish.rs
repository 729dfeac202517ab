//! Publish: what the artifact rules select, to the destination of the manifest, and what the local
//! caches hold, to the share.

pub mod cache;

use std::path::Path;

use tracing::Instrument;

use crate::config::Settings;
use agent_artifacts::store::{Publication, layout};
use agent_process::Interrupt;
use agent_types::error::Result;
use agent_types::events::{Emitter, EventKind, JobIdentity, Unit};
use agent_types::outcome::Outcome;
use agent_types::stage::Stage;

use super::retry;

/// Publishes from `root`, the build directory; once more, if an upstream server failed. `incomplete` says why not all
/// may be there, after an earlier stage did not pass. `job` is the interrupt of the whole job, `saving` that of work
/// that saves what is done.
///
/// # Errors
/// When the destination cannot be written, or something was published there already; see
/// [`Publication::run`].
pub async fn run(
    settings: &Settings,
    identity: &JobIdentity,
    root: &Path,
    events: &Emitter,
    (job, saving): (&Interrupt, &Interrupt),
    incomplete: Option<&str>,
) -> Result<Outcome> {
    let unit = Unit::new(Stage::Publish, "publish");
    let mut rules = settings.artifacts.rules.clone();
    if settings.build.changed {
        // What the change does not affect is not built.
        rules.iter_mut().for_each(|rule| rule.required = false);
    }
    let publication = Publication {
        unit: unit.clone(),
        root,
        rules: &rules,
        destination: &settings.artifacts.destination,
        below: layout(identity),
        kms_key_id: settings.artifacts.kms_key_id.as_deref(),
        job: Some(identity),
        incomplete,
        grace: settings.limits.grace,
    };
    as_unit(&unit, events, retry::once(&unit, events, job, async || publication.run(events, saving).await))
        .await
}

/// Runs a publication as one unit of its stage.
///
/// # Errors
/// As [`Publication::run`].
pub async fn publish(
    publication: &Publication<'_>,
    events: &Emitter,
    interrupt: &Interrupt,
) -> Result<Outcome> {
    as_unit(&publication.unit, events, publication.run(events, interrupt)).await
}

async fn as_unit(
    unit: &Unit,
    events: &Emitter,
    publishing: impl Future<Output = Result<Outcome>>,
) -> Result<Outcome> {
    events.emit(EventKind::UnitStarted { unit: unit.clone() }).await;
    let result = publishing.instrument(super::step(unit)).await;
    let outcome = match &result {
        Ok(outcome) => outcome.clone(),
        Err(error) => Outcome::NotRun(error.message.clone()),
    };
    let unit = unit.clone();
    events.emit(EventKind::UnitFinished { unit, outcome, log: None, excerpt: Vec::new() }).await;
    result
}
