//! The check run while the job runs: what runs now, at most every twenty seconds. It never keeps the job waiting.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use agent_github::checks::{self, Output, RunStatus};
use agent_github::{Failure, Permission};
use agent_types::events::{Event, EventKind};

use super::access::Access;
use super::claim::claim;
use super::place::Place;
use crate::report::console::JobProgress;
use crate::report::markdown::text::code;
use crate::report::sink::Sink;
use crate::report::summary::At;

/// Between two updates. GitHub asks for at most 500 such requests an hour.
const PAUSE: Duration = Duration::from_secs(20);

/// Time for one update.
const UPDATE: Duration = Duration::from_secs(8);

/// How long the end of the job waits for an update in progress. An update that is dropped could arrive after the end of the
/// run.
const LAST: Duration = Duration::from_secs(9);

/// What is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Shown {
    /// The commit is known, so that there may be a run.
    began: bool,
    /// A stage runs.
    runs: bool,
    line: String,
    over: bool,
}

/// Updates the check run of a job in the background.
pub struct LiveCheck {
    shown: watch::Sender<Shown>,
    task: Mutex<Option<JoinHandle<Option<u64>>>>,
}

impl LiveCheck {
    /// Starts, and returns the listener of the job's events.
    pub fn start(access: Access, place: Place) -> (Arc<LiveCheck>, Box<dyn Sink>) {
        let (shown, receiver) = watch::channel(Shown::default());
        let commit = place.commit.clone();
        let task = Handle::current().spawn(update(access, place, receiver));
        let live = Arc::new(LiveCheck { shown: shown.clone(), task: Mutex::new(Some(task)) });
        let sink = Listener { shown, commit, progress: JobProgress::default(), last: None };
        (live, Box::new(sink))
    }

    /// Ends the updates. Returns the id of the run, if there is one.
    pub async fn end(&self) -> Option<u64> {
        self.shown.send_modify(|shown| shown.over = true);
        let mut task = self.task.lock().await.take()?;
        match timeout(LAST, &mut task).await {
            Ok(ended) => ended.ok().flatten(),
            Err(_) => {
                task.abort();
                None
            }
        }
    }
}

/// Creates the run, then updates it whenever something else runs.
async fn update(access: Access, place: Place, mut shown: watch::Receiver<Shown>) -> Option<u64> {
    if shown.wait_for(|shown| shown.began || shown.over).await.ok()?.over {
        return None;
    }
    let mut sent = shown.borrow_and_update().clone();
    let status = |shown: &Shown| if shown.runs { RunStatus::InProgress } else { RunStatus::Queued };
    let claimed = async {
        let client = access.client(&place.repository, Permission::Checks, Instant::now() + UPDATE).await?;
        claim(&client, &place, status(&sent)).await
    };
    let id = match claimed.await {
        Ok(run) => run.id,
        Err(failure) => {
            // The report at the end of the job retries, and reports a failure.
            tracing::warn!(%failure, "there is no check run while the job runs");
            return None;
        }
    };
    loop {
        let changed = shown.wait_for(|shown| shown.over || *shown != sent).await;
        let Ok(now) = changed.map(|now| now.clone()) else { return Some(id) };
        if now.over {
            return Some(id);
        }
        sent = now;
        let output = Output { title: title(&sent.line), summary: format!("Running: {}\n", code(&sent.line)) };
        let progressed = async {
            let client =
                access.client(&place.repository, Permission::Checks, Instant::now() + UPDATE).await?;
            checks::progress(&client, &place.repository, id, status(&sent), &output).await
        };
        match progressed.await {
            // A newer job has taken the run over.
            Ok(run) if !run.is_of(&place.job) => return Some(id),
            Ok(_) => {}
            Err::<_, Failure>(failure) => tracing::info!(%failure, "the check run was not updated"),
        }
        let mut end = shown.clone();
        tokio::select! {
            () = tokio::time::sleep(PAUSE) => {}
            _ = end.wait_for(|shown| shown.over) => return Some(id),
        }
    }
}

fn title(line: &str) -> String {
    if line.is_empty() { "in progress".to_owned() } else { line.to_owned() }
}

/// Turns events into what is shown.
struct Listener {
    shown: watch::Sender<Shown>,
    commit: String,
    progress: JobProgress,
    last: Option<At>,
}

impl Sink for Listener {
    fn name(&self) -> &'static str {
        "progress on github"
    }

    fn event(&mut self, event: &Event) -> io::Result<()> {
        self.progress.take(event);
        let now = At::of(event);
        match &event.what {
            // Another commit is checked out: there is nothing to show for this one.
            EventKind::UnderTest { commit: Some(commit), .. } if *commit == self.commit => {
                self.shown.send_modify(|shown| shown.began = true);
            }
            EventKind::StageStarted { .. } => self.show(now),
            _ if self.last.is_none_or(|last| last.seconds_until(now) >= 5.0) => self.show(now),
            _ => {}
        }
        Ok(())
    }
}

impl Listener {
    fn show(&mut self, now: At) {
        self.last = Some(now);
        let Some(line) = self.progress.line(now) else { return };
        self.shown.send_modify(|shown| {
            shown.runs = true;
            shown.line = line;
        });
    }
}
