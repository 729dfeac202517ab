//! The reports that are made once, of the whole result, when the verdict is known. Each has a deadline of its own,
//! and none can take another one with it.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::timeout;

use agent_process::Interrupt;
use agent_types::error::{Error, Result};
use agent_types::outcome::Outcome;

use super::summary::Summary;

/// A report: a file, and later a page, a comment, an upload.
pub trait Report: Send + Sync {
    /// Names its step in the report stage, e.g. `junit.xml`.
    fn name(&self) -> &'static str;

    /// How long it may take.
    fn deadline(&self) -> Duration;

    /// Whether a job that passed ends with an error if it cannot be made.
    fn is_required(&self) -> bool {
        true
    }

    /// Makes it.
    fn write(&self, summary: Arc<Summary>) -> BoxFuture<'static, Result<()>>;
}

/// The reports of a job; by default none.
#[derive(Default)]
pub struct Reports {
    /// Made in parallel. They know the verdict, but not what becomes of other reports.
    pub reports: Vec<Box<dyn Report>>,
    /// Made after these, in parallel: they store them where other people read them.
    pub uploads: Vec<Box<dyn Report>>,
    /// Made after the uploads, in parallel: they link to them.
    pub posts: Vec<Box<dyn Report>>,
    /// Made last, of everything: what became of the other reports as well.
    pub result: Option<Box<dyn Report>>,
}

/// Why a report was not made.
#[derive(Debug)]
pub struct NotMade {
    pub outcome: Outcome,
    pub error: Error,
}

impl From<Error> for NotMade {
    fn from(error: Error) -> NotMade {
        NotMade { outcome: Outcome::NotRun(error.message.clone()), error }
    }
}

/// Makes the reports in parallel and hands over each outcome as soon as it is known, with the report's place.
pub async fn make(
    reports: &[Box<dyn Report>],
    summary: &Arc<Summary>,
    interrupt: &Interrupt,
    mut each: impl FnMut(usize, Result<(), NotMade>),
) {
    let making = reports.iter().enumerate();
    let mut making: FuturesUnordered<_> =
        making.map(async |(place, report)| (place, make_one(&**report, summary, interrupt).await)).collect();
    while let Some((place, made)) = making.next().await {
        each(place, made);
    }
}

/// Makes one report, within its deadline.
pub async fn make_one(
    report: &dyn Report,
    summary: &Arc<Summary>,
    interrupt: &Interrupt,
) -> Result<(), NotMade> {
    // A job that has to stop gives its reports what is left of the grace.
    let deadline = match interrupt.state() {
        None => report.deadline(),
        Some(_) => interrupt.last_wait(report.deadline()),
    };
    let name = report.name();
    let began = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| report.write(summary.clone())));
    let writing = match began {
        Ok(writing) => writing,
        Err(panic) => return Err(broke(name, &*panic).into()),
    };
    // A task of its own, so that neither a panic nor a wait without end comes here.
    let mut task = tokio::spawn(writing);
    match timeout(deadline, &mut task).await {
        Ok(Ok(made)) => Ok(made?),
        Ok(Err(broken)) => Err(match broken.try_into_panic() {
            Ok(panic) => broke(name, &*panic).into(),
            Err(error) => Error::internal(format!("{name} was not written")).because(&error).into(),
        }),
        Err(_) => {
            task.abort();
            let limit = humantime::format_duration(deadline);
            let error = Error::machine(format!("{name} was not written within {limit}"))
                .hint("look at the disk or the server that it goes to; `build-agent report` can make it from events.jsonl");
            Err(NotMade { outcome: Outcome::TimedOut(error.message.clone()), error })
        }
    }
}

/// The error for a panic in `what`.
pub fn broke(what: &str, panic: &(dyn Any + Send)) -> Error {
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("it gives no reason");
    Error::internal(format!("{what} broke: {text}"))
        .hint("this is a fault of build-agent; please report it with events.jsonl")
}
