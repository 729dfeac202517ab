//! The failed tasks of a build: their logs, and why they failed.

use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use agent_fs::tree::Tree;
use agent_process::Runner;
use agent_types::error::Result;
use agent_types::events::{EventKind, TaskFailed, Unit};
use agent_yocto::bitbake::Failure;
use agent_yocto::excerpt::relevant_lines;
use agent_yocto::task_failure::{TaskFailure, task_failure};

use super::bitbake::Ran;

/// Lines of a failed task's log that a report shows.
const EXCERPT_LINES: usize = 60;
/// Bytes of a failed task's log that are copied and read, from its end.
const TASK_LOG_LIMIT: u64 = 4 << 20;

/// A failed task.
pub struct FailedTask {
    pub failure: Failure,
    pub cause: TaskFailure,
    log: Option<PathBuf>,
    excerpt: Vec<String>,
}

impl FailedTask {
    #[cfg(test)]
    pub fn new(failure: Failure, cause: TaskFailure) -> FailedTask {
        FailedTask { failure, cause, log: None, excerpt: Vec::new() }
    }

    /// For people: `zlib-1.3.1-r0:do_compile`.
    pub fn name(&self) -> String {
        format!("{}:{}", self.failure.recipe, self.failure.task)
    }
}

/// The first failed tasks of a run, with the ends of their logs, which are copied to the output directory.
pub fn failed_tasks(ran: &Ran, build_dir: &Path, runner: &Runner) -> Vec<FailedTask> {
    let (failures, _) = ran.build.failed_tasks(ran.finished.success());
    failures.iter().map(|failure| failed_task(ran, failure, build_dir, runner)).collect()
}

/// The log's path comes from output that layer code can write, so it is read only below the build directory and
/// through no link.
fn failed_task(ran: &Ran, failure: &Failure, build_dir: &Path, runner: &Runner) -> FailedTask {
    let failure = failure.clone();
    let text =
        failure.log.as_deref().and_then(|log| read_end(build_dir, log.strip_prefix(build_dir).ok()?).ok());
    let text = text.map(|bytes| runner.redactor.redact(&String::from_utf8_lossy(&bytes)).into_owned());
    let exit = ran.build.recipes().all_failures().find(|(id, _)| Some(*id) == failure.id.as_deref());
    let cause = task_failure(
        &failure.task,
        exit.map(|(_, exit)| exit),
        text.as_deref().unwrap_or_default(),
        ran.has_killed,
    );
    let (log, excerpt) = match text {
        None => (None, Vec::new()),
        Some(text) => {
            let name = format!("{}-{}", failure.recipe, failure.task).replace('/', "_");
            let copy = runner.keep_text(&format!("task-{name}"), &text).ok();
            (copy, relevant_lines(&mut text.as_bytes(), EXCERPT_LINES).unwrap_or_default())
        }
    };
    FailedTask { failure, cause, log, excerpt }
}

/// Reports them.
pub async fn report(tasks: impl IntoIterator<Item = &FailedTask>, unit: &Unit, runner: &Runner) {
    for FailedTask { failure, log, excerpt, .. } in tasks {
        let failed = TaskFailed {
            unit: unit.clone(),
            recipe: failure.recipe.clone(),
            task: failure.task.clone(),
            log: log.clone(),
            excerpt: excerpt.clone(),
        };
        runner.events.emit(EventKind::TaskFailed(failed)).await;
    }
}

/// The last bytes of a file below `root`, reached through no link.
fn read_end(root: &Path, relative: &Path) -> Result<Vec<u8>> {
    let tree = Tree::open(root)?;
    let seen = tree.metadata(relative)?.identity();
    let (mut file, found) = tree.open_file(relative, seen)?;
    file.seek(SeekFrom::Start(found.size.saturating_sub(TASK_LOG_LIMIT)))?;
    let mut bytes = Vec::new();
    file.take(TASK_LOG_LIMIT).read_to_end(&mut bytes)?;
    Ok(bytes)
}
