//! Watches a batch until it ends: a line for each build whose state changes.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use agent_process::Interrupt;
use agent_types::error::{Class, Error, Result};

use super::codebuild::{self, Batch, BuildStatus, CellBuild};

/// Time limit without an answer of CodeBuild. The batch continues without this program.
const NO_ANSWER_LIMIT: Duration = Duration::from_secs(30 * 60);

/// Time limit for the builds of a batch that has ended, or is being stopped.
const STOP_LIMIT: Duration = Duration::from_secs(5 * 60);

/// Maximum messages of a batch that are shown.
const MOST_MESSAGES: usize = 20;

/// A batch to watch.
pub struct Follow<'a> {
    pub batch: &'a str,
    /// The builds in the order in which they are shown.
    pub nodes: &'a [String],
    /// The time between two requests.
    pub pause: Duration,
    pub interrupt: &'a Interrupt,
    /// Shows a line.
    pub print: &'a (dyn Fn(&str) + Sync),
}

/// A batch that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchOutcome {
    pub batch: Batch,
    /// Whether a signal to this program stopped it.
    pub cancelled: bool,
}

/// Waits until the batch ends. A signal stops it, and with it all its builds.
///
/// # Errors
/// Upstream, if CodeBuild does not answer for half an hour; usage, if it refuses the request; cancelled, by a second signal.
pub async fn follow(follow: &Follow<'_>) -> Result<BatchOutcome> {
    let mut shown = Shown::default();
    let mut last_answer = Instant::now();
    let mut stopped = false;
    let mut ended: Option<Instant> = None;
    let mut is_retrying = false;
    loop {
        match codebuild::batch(follow.batch).await {
            Ok(batch) => {
                (last_answer, is_retrying) = (Instant::now(), false);
                shown.changes(&batch, follow.nodes).iter().for_each(|line| (follow.print)(line));
                if stopped || batch.status.has_ended() {
                    let since = *ended.get_or_insert_with(Instant::now);
                    let runs = |build: &CellBuild| build.status == BuildStatus::InProgress;
                    let is_over = batch.status.has_ended() && !batch.builds.values().any(runs);
                    if is_over || since.elapsed() > STOP_LIMIT {
                        return Ok(BatchOutcome { batch, cancelled: stopped });
                    }
                }
            }
            Err(error) if error.class != Class::Upstream || last_answer.elapsed() > NO_ANSWER_LIMIT => {
                return Err(
                    error.hint("the batch continues; `build-agent merge --batch ID` reports it later")
                );
            }
            Err(error) => {
                if !is_retrying {
                    (follow.print)(&format!("{}; retrying", error.message));
                }
                is_retrying = true;
            }
        }
        if !stopped {
            tokio::select! {
                () = tokio::time::sleep(follow.pause) => continue,
                () = follow.interrupt.cancelled() => {}
            }
            (follow.print)("cancelled by a signal: stopping the batch");
            stopped = true;
            codebuild::stop(follow.batch).await?;
        } else {
            tokio::select! {
                () = tokio::time::sleep(follow.pause) => {}
                () = follow.interrupt.force_kill() => {
                    return Err(Error::new(Class::Cancelled, "cancelled by a second signal; the batch is being stopped"));
                }
            }
        }
    }
}

/// The state of a batch that was shown last.
#[derive(Debug, Default)]
struct Shown {
    builds: BTreeMap<String, CellBuild>,
    messages: usize,
}

impl Shown {
    /// The lines for what changed since the last time.
    fn changes(&mut self, batch: &Batch, nodes: &[String]) -> Vec<String> {
        let width = nodes.iter().map(String::len).max().unwrap_or(0);
        let mut lines = Vec::new();
        for node in nodes {
            let Some(build) = batch.builds.get(node) else { continue };
            if self.builds.get(node) == Some(build) {
                continue;
            }
            let is_retry =
                self.builds.get(node).is_some_and(|known| known.id.is_some() && known.id != build.id);
            self.builds.insert(node.clone(), build.clone());
            if build.status == BuildStatus::Waiting {
                continue;
            }
            let retry = if is_retry { " (retried)" } else { "" };
            let page = build.page().map(|page| format!("  {page}")).unwrap_or_default();
            lines.push(format!("{node:<width$}  {}{retry}{page}", word(build.status)));
        }
        let known = self.messages.min(batch.messages.len());
        let more = batch.messages.iter().skip(known).take(MOST_MESSAGES.saturating_sub(known));
        lines.extend(more.map(|message| format!("CodeBuild: {message}")));
        self.messages = batch.messages.len();
        lines
    }
}

fn word(status: BuildStatus) -> &'static str {
    match status {
        BuildStatus::Waiting => "waiting",
        BuildStatus::InProgress => "running",
        BuildStatus::Succeeded => "succeeded",
        BuildStatus::Failed => "failed",
        BuildStatus::Fault => "lost (FAULT)",
        BuildStatus::TimedOut => "timed out",
        BuildStatus::Stopped => "stopped",
        BuildStatus::Unknown => "in an unknown state",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_one_line() {
        let nodes = ["warm", "scarthgap_a"].map(str::to_owned);
        let build = |status, id: &str| CellBuild {
            status,
            id: Some(id.into()),
            arn: Some(format!("arn:aws:codebuild:eu-west-1:1:build/p:{id}")),
        };
        let batch = |builds: &[(&str, CellBuild)], messages: &[&str]| Batch {
            id: "p:1".into(),
            status: BuildStatus::InProgress,
            builds: builds.iter().map(|(id, build)| ((*id).to_owned(), build.clone())).collect(),
            messages: messages.iter().map(|text| (*text).to_owned()).collect(),
        };
        let mut shown = Shown::default();
        let running = build(BuildStatus::InProgress, "u1");
        let waiting = CellBuild { status: BuildStatus::Waiting, id: None, arn: None };
        let first =
            batch(&[("warm", running.clone()), ("scarthgap_a", waiting), ("unexpected", running)], &[]);
        let page = "https://console.aws.amazon.com/codesuite/codebuild/1/projects/p/build/p:";
        assert_eq!(
            shown.changes(&first, &nodes),
            [format!("warm         running  {page}u1/?region=eu-west-1")]
        );
        assert!(shown.changes(&first, &nodes).is_empty());
        let second = batch(
            &[
                ("warm", build(BuildStatus::Succeeded, "u1")),
                ("scarthgap_a", build(BuildStatus::Fault, "u2")),
            ],
            &["a machine was lost"],
        );
        assert_eq!(
            shown.changes(&second, &nodes),
            [
                format!("warm         succeeded  {page}u1/?region=eu-west-1"),
                format!("scarthgap_a  lost (FAULT)  {page}u2/?region=eu-west-1"),
                "CodeBuild: a machine was lost".to_owned(),
            ]
        );
        let third = batch(&[("scarthgap_a", build(BuildStatus::InProgress, "u3"))], &["a machine was lost"]);
        assert_eq!(
            shown.changes(&third, &nodes),
            [format!("scarthgap_a  running (retried)  {page}u3/?region=eu-west-1")]
        );
    }
}
