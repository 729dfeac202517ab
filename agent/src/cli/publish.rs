//! `build-agent publish DIR DESTINATION`: the artifact upload by itself.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::config::{AgentEnvironment, ArtifactRule, Destination};
use crate::job::StopNotice;
use crate::report::{self, Plain};
use crate::stages;
use agent_artifacts::aws::S3Address;
use agent_artifacts::store::Publication;
use agent_process::{Interrupt, Redactor};
use agent_types::error::{Error, Result};
use agent_types::events::{self, Emitter, EventKind, Unit};
use agent_types::outcome::{ExitStatus, Outcome};
use agent_types::stage::Stage;

use super::arguments;
use super::job::{listen_for_signals, style};

/// For how long a request that failed is tried again: the manifest's default for `[limits] grace`.
const GRACE: Duration = Duration::from_secs(60);

/// What is under way when a signal comes gets this time to end.
pub const LAST_WAIT: Duration = Duration::from_secs(15);

/// Publishes and says what came of it.
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
    // Said here, or the listener would judge a job that was none.
    let outcome = published.as_ref().cloned().unwrap_or_else(|error| Outcome::NotRun(error.message.clone()));
    emitter.emit(EventKind::JobFinished { exit, outcome }).await;
    drop((notice, emitter));
    listener.await.map_err(|error| Error::internal("the listener of events broke").because(&error))?;
    published.map(|_| exit)
}

/// Publishes everything below `directory` to the destination: an `s3://` address, whose prefix is
/// used as it is, or a directory.
///
/// # Errors
/// Usage, when there is no such directory, the destination is no destination or lies inside the
/// directory, or something was published there already; machine or upstream, when it cannot be read
/// or written.
async fn publish(
    directory: &Path,
    destination: &str,
    kms_key_id: Option<&str>,
    events: &Emitter,
    interrupt: &Interrupt,
) -> Result<Outcome> {
    // The person who names a link here means what it leads to.
    let root = fs_err::canonicalize(directory).map_err(|error| {
        Error::usage(format!("`{}` cannot be published", directory.display())).because(&error)
    })?;
    if !root.is_dir() {
        return Err(Error::usage(format!("`{}` is not a directory", directory.display()))
            .hint("name the directory that holds the file"));
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
    if text.starts_with("s3://") {
        let S3Address { bucket, key } = S3Address::parse(text)?;
        return Ok(Destination::S3 { bucket, prefix: key });
    }
    if text.contains("://") {
        return Err(Error::usage(format!("`{text}` is no destination"))
            .hint("write s3://BUCKET/PREFIX or a directory"));
    }
    let path = std::path::absolute(text)
        .map_err(|error| Error::usage(format!("`{text}` is no destination")).because(&error))?;
    if real(&path).starts_with(root) {
        return Err(Error::usage(format!("the destination `{text}` lies inside the published directory"))
            .hint("the next publication would publish this one; choose a place outside"));
    }
    Ok(Destination::Directory(path))
}

/// The path with the links of what exists of it resolved.
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
    fn destinations() {
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
