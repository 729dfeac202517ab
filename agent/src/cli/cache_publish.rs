//! `build-agent cache publish`: publishes local caches to a share.

use std::path::{Path, PathBuf};

use crate::config::{AgentEnvironment, ShareLocation};
use crate::job::StopNotice;
use crate::report::{self, Plain};
use crate::stages;
use crate::stages::share::{OpenShare, bucket};
use agent_cache::publish::{Published, Sources};
use agent_process::{Interrupt, Interrupted, Redactor};
use agent_types::error::{Error, Result};
use agent_types::events::{self, EventKind};
use agent_types::outcome::{ExitStatus, Outcome};
use agent_types::release::Release;
use agent_types::share::Share;
use agent_types::tiers::{Access, TieredShare, Tiers, Trust};

use super::arguments;
use super::job::{listen_for_signals, style};
use super::publish::LAST_WAIT;

/// Publishes and prints the outcome. Unlike in a job, an incomplete publication is an error: the user asked
/// for nothing else.
pub async fn command(
    args: arguments::CachePublish,
    share: &ShareLocation,
    environment: &AgentEnvironment,
) -> Result<ExitStatus> {
    let sources = sources(&args)?;
    let share = match share {
        ShareLocation::Directory(_) => {
            let share = Share::new(directory(&args.share)?);
            OpenShare { tiers: tiers(&share), ..OpenShare::default() }
        }
        ShareLocation::Bucket(share) => {
            let bucket = bucket::open(share.bucket(), &tiers(share)).await?;
            OpenShare { bucket, ..OpenShare::default() }
        }
    };
    let (emitter, receiver) = events::channel();
    let interrupt = Interrupt::new(None).with_grace(LAST_WAIT);
    listen_for_signals(&interrupt)?;
    let notice = StopNotice::watch(&interrupt, &emitter, LAST_WAIT);
    let console = Box::new(Plain::new(std::io::stdout(), style(environment)));
    let listener = tokio::spawn(report::show(receiver, Redactor::new(environment.secrets()), console));
    let published = stages::publish::cache::run(sources, &share, &[], &emitter, &interrupt).await;
    let outcome = outcome(&published, &interrupt);
    let exit = match &outcome {
        Outcome::NotRun(_) => ExitStatus::Machine,
        outcome => ExitStatus::of(outcome),
    };
    emitter.emit(EventKind::JobFinished { exit, outcome }).await;
    drop((notice, emitter));
    listener.await.map_err(|error| Error::internal("the event listener panicked").because(&error))?;
    Ok(exit)
}

/// A user who publishes by hand is trusted.
fn tiers<S: TieredShare>(share: &S) -> Tiers<S> {
    let trust = Trust::Trusted { why: "`cache publish` was run by hand".into() };
    Tiers::new(share, Access::ReadWrite, &trust)
}

fn outcome(published: &Published, interrupt: &Interrupt) -> Outcome {
    let rest = published.counts.failed + published.counts.left;
    let unfinished = rest > 0 || !published.complete;
    match (interrupt.state(), &published.trouble) {
        (Some(Interrupted::Cancelled), _) if unfinished => Outcome::Cancelled("a signal stopped it".into()),
        (_, Some(trouble)) => Outcome::NotRun(trouble.reason.clone()),
        _ if unfinished => Outcome::NotRun(format!("not everything is published ({rest} objects)")),
        _ => Outcome::Passed,
    }
}

/// Resolves the directories and their symbolic links: a user who names a link means its target. A directory
/// that is not given becomes an empty path, which has no files.
fn sources(args: &arguments::CachePublish) -> Result<Sources> {
    let release = Release::find(&args.release).ok_or_else(|| {
        let known: Vec<_> = Release::names().collect();
        Error::usage(format!("unknown release `{}`", args.release))
            .hint(format!("use one of {}", known.join(", ")))
    })?;
    let local = |path: &Option<PathBuf>| path.as_deref().map(directory).transpose();
    let (sstate, downloads) = (local(&args.sstate)?, local(&args.downloads)?);
    Ok(Sources {
        sstate: sstate.unwrap_or_default(),
        downloads: downloads.unwrap_or_default(),
        release: release.name.into(),
    })
}

fn directory(path: &Path) -> Result<PathBuf> {
    let found = fs_err::canonicalize(path)
        .map_err(|error| Error::usage(format!("`{}` cannot be used", path.display())).because(&error))?;
    match found.is_dir() {
        true => Ok(found),
        false => Err(Error::usage(format!("`{}` is not a directory", path.display()))),
    }
}
