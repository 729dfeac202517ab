//! `build-agent publish DIR DESTINATION`: uploads artifacts without a job.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::{AgentEnvironment, ArtifactRule, Destination};
use crate::job::StopNotice;
use crate::report::{self, Plain};
use crate::stages;
use agent_artifacts::store::Publication;
use agent_process::{Interrupt, Redactor};
use agent_types::error::{Error, Result};
use agent_types::events::{self, Emitter, EventKind, Unit};
use agent_types::outcome::{ExitStatus, Outcome};
use agent_types::s3_address::S3Address;
use agent_types::stage::Stage;

use super::arguments;
use super::job::{listen_for_signals, style};

/// How long failed requests are retried: the manifest's default for `[limits] grace`.
const GRACE: Duration = Duration::from_secs(60);

/// How long uploads in progress may run after a signal.
pub const LAST_WAIT: Duration = Duration::from_secs(15);

/// Publishes and prints the outcome.
pub async fn command(args: arguments::Publish, environment: &AgentEnvironment) -> Result<ExitStatus> {
    let (emitter, receiver) = events::channel();
    let interrupt = Interrupt::new(None).with_grace(LAST_WAIT);
    listen_for_signals(&interrupt)?;
    let notice = StopNotice::watch(&interrupt, &emitter, LAST_WAIT);
    let console = Box::new(Plain::new(std::io::stdout(), style(environment)));
    let redactor = Redactor::new(environment.secrets());
    let listener = tokio::spawn(report::show(receiver, redactor, console));
    let published =
        publish(&args.dir, &args.destination, args.kms_key_id.as_deref(), &emitter, &interrupt).await;
    let exit = published.as_ref().map_or_else(|error| error.class.exit_status(), ExitStatus::of);
    // Emitted here, because otherwise the listener would derive a verdict for a job.
    let outcome = published.as_ref().cloned().unwrap_or_else(|error| Outcome::NotRun(error.message.clone()));
    emitter.emit(EventKind::JobFinished { exit, outcome }).await;
    drop((notice, emitter));
    listener.await.map_err(|error| Error::internal("the event listener panicked").because(&error))?;
    published.map(|_| exit)
}

/// Publishes all files below `directory` to the destination: a directory, or an `s3://` URL whose prefix is
/// used unchanged.
///
/// # Errors
/// Usage, if the directory does not exist, the destination is invalid or inside the directory, or something
/// was published there already. Machine or upstream, if reading or writing fails.
async fn publish(
    directory: &Path,
    destination: &str,
    kms_key_id: Option<&str>,
    events: &Emitter,
    interrupt: &Interrupt,
) -> Result<Outcome> {
    // A user who names a symbolic link means its target.
    let root = fs_err::canonicalize(directory).map_err(|error| {
        Error::usage(format!("`{}` cannot be published", directory.display())).because(&error)
    })?;
    if !root.is_dir() {
        return Err(Error::usage(format!("`{}` is not a directory", directory.display()))
            .hint("name the directory that contains the file"));
    }
    let destination = parse(destination, &root)?;
    let everything = [ArtifactRule { include: "**".into(), exclude: Vec::new(), required: true }];
    let publication = Publication {
        unit: Unit::new(Stage::Publish, "publish"),
        root: &root,
        rules: &everything,
        destination: &destination,
        below: String::new(),
        kms_key_id,
        job: None,
        incomplete: None,
        grace: GRACE,
    };
    stages::publish::publish(&publication, events, interrupt).await
}

fn parse(text: &str, root: &Path) -> Result<Destination> {
    let destination = destination(text)?;
    if let Destination::Directory(path) = &destination
        && real(path).starts_with(root)
    {
        return Err(Error::usage(format!("the destination `{text}` is inside the published directory"))
            .hint("choose a directory outside; otherwise the next publication would include this one"));
    }
    Ok(destination)
}

/// The destination that a command line names.
///
/// # Errors
/// Usage, if it is neither an `s3://` URL nor a path.
pub fn destination(text: &str) -> Result<Destination> {
    if text.starts_with("s3://") {
        let S3Address { bucket, key } = S3Address::parse(text)?;
        return Ok(Destination::S3 { bucket, prefix: key });
    }
    if text.contains("://") {
        return Err(Error::usage(format!("`{text}` is not a valid destination"))
            .hint("use s3://BUCKET/PREFIX or a directory"));
    }
    let path = std::path::absolute(text)
        .map_err(|error| Error::usage(format!("`{text}` is not a valid destination")).because(&error))?;
    Ok(Destination::Directory(path))
}

/// Resolves the symbolic links in the existing part of the path.
fn real(path: &Path) -> PathBuf {
    let mut missing = Vec::new();
    let mut at = path;
    loop {
        if let Ok(found) = fs_err::canonicalize(at) {
            return missing.iter().rev().fold(found, |path, name| path.join(name));
        }
        match (at.parent(), at.file_name()) {
            (Some(parent), Some(name)) => {
                missing.push(name);
                at = parent;
            }
            _ => return path.to_owned(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn parses_destinations() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path().canonicalize().unwrap();
        let beside = root.with_file_name("beside");
        assert_eq!(
            parse("s3://bucket/a/b/", &root).unwrap(),
            Destination::S3 { bucket: "bucket".into(), prefix: "a/b".into() }
        );
        assert_eq!(parse(beside.to_str().unwrap(), &root).unwrap(), Destination::Directory(beside));
        let inside = root.join("out/deeper");
        for wrong in ["https://example.org/x", "s3://", root.to_str().unwrap(), inside.to_str().unwrap()] {
            assert!(parse(wrong, &root).is_err(), "{wrong}");
        }
    }
}
