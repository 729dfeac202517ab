//! The tasks of BitBake: their names, their start and their end.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::outcome::Outcome;

use super::Unit;

/// A BitBake task, by BitBake's own names. The text may come from layer code.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Task {
    /// The step that runs BitBake.
    pub unit: Unit,
    /// The recipe with its version (PF), e.g. `zlib-1.3.1-r0`.
    pub recipe: String,
    /// E.g. `do_compile`; `do_package_setscene` if the output comes from shared state.
    pub task: String,
    /// The multiconfig; `None` for the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mc: Option<String>,
}

impl Task {
    /// A task of the default multiconfig.
    pub fn new(unit: Unit, recipe: impl Into<String>, task: impl Into<String>) -> Task {
        Task { unit, recipe: recipe.into(), task: task.into(), mc: None }
    }
}

/// The start of a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskStarted {
    #[serde(flatten)]
    pub task: Task,
    /// Counts up from 1 in one run of BitBake; `None` if BitBake did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<u32>,
    /// The number of the task for which this one waited: of all tasks that it depends on and that ran, the one that
    /// ended last. `None` if it waited for no task.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u32>,
}

impl From<Task> for TaskStarted {
    /// Without a number.
    fn from(task: Task) -> TaskStarted {
        TaskStarted { task, number: None, after: None }
    }
}

/// The end of a task. Its start is the [`TaskStarted`](super::EventKind::TaskStarted) of the same [`Task`] before
/// it; without one the start is unknown.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "AnyTaskFinished")]
pub struct TaskFinished {
    #[serde(flatten)]
    pub task: Task,
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The log of the task, where BitBake wrote it. It may be gone with the build directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<PathBuf>,
}

/// The event as it is now, and as it was when it was called `task` and had only `ok`.
#[derive(Deserialize)]
struct AnyTaskFinished {
    #[serde(flatten)]
    task: Task,
    #[serde(flatten)]
    outcome: Option<Outcome>,
    #[serde(default)]
    ok: Option<bool>,
    #[serde(default)]
    log: Option<PathBuf>,
}

impl From<AnyTaskFinished> for TaskFinished {
    fn from(any: AnyTaskFinished) -> TaskFinished {
        let outcome = any.outcome.unwrap_or_else(|| match any.ok {
            Some(true) => Outcome::Passed,
            Some(false) => Outcome::Failed(REPORTED_AS_FAILED.to_owned()),
            None => Outcome::NotRun("the event does not say how the task ended".to_owned()),
        });
        TaskFinished { task: any.task, outcome, log: any.log }
    }
}

/// The reason of a failed task if BitBake gives no other.
pub const REPORTED_AS_FAILED: &str = "BitBake reported the task as failed";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::events::EventKind;
    use crate::stage::Stage;

    #[test]
    fn both_forms_of_the_event_are_read() {
        let task = Task::new(Unit::new(Stage::Build, "x"), "zlib-1.3.1-r0", "do_compile");
        let finished =
            |outcome| EventKind::TaskFinished(TaskFinished { task: task.clone(), outcome, log: None });
        let line = |event: &str, end: &str| {
            format!(
                r#"{{"event":"{event}","unit":{{"stage":"build","name":"x"}},"recipe":"zlib-1.3.1-r0","task":"do_compile",{end}}}"#
            )
        };
        let failed = |why: &str| finished(Outcome::Failed(why.into()));
        for (json, wanted) in [
            (line("task-finished", r#""outcome":"passed""#), finished(Outcome::Passed)),
            (line("task-finished", r#""outcome":"failed","reason":"exit code 1""#), failed("exit code 1")),
            (line("task", r#""ok":true"#), finished(Outcome::Passed)),
            (line("task", r#""ok":false"#), failed(REPORTED_AS_FAILED)),
        ] {
            let read: EventKind = serde_json::from_str(&json).unwrap();
            assert_eq!(read, wanted, "{json}");
            let again = serde_json::to_string(&read).unwrap();
            assert_eq!(serde_json::from_str::<EventKind>(&again).unwrap(), wanted, "{again}");
        }
        let start = TaskStarted::from(Task { mc: Some("musl".into()), ..task });
        let numbered = TaskStarted { number: Some(7), after: Some(3), ..start.clone() };
        for (start, wanted) in
            [(start, r#""mc":"musl"}"#), (numbered, r#""mc":"musl","number":7,"after":3}"#)]
        {
            let start = EventKind::TaskStarted(start);
            let json = serde_json::to_string(&start).unwrap();
            assert!(
                json.starts_with(r#"{"event":"task-started","unit":"#) && json.ends_with(wanted),
                "{json}"
            );
            assert_eq!(serde_json::from_str::<EventKind>(&json).unwrap(), start);
        }
    }
}
