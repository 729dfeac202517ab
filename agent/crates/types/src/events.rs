//! The one vocabulary in which stages tell what happens. How the agent does it is told with `tracing`.
//!
//! Stages emit [`EventKind`] on an [`Emitter`]; listeners (console, `events.jsonl`, the fold behind all
//! reports) see the same [`Event`]s in the same order. A stage never formats a report; a listener
//! never asks a stage anything. `events.jsonl` is one [`Event`] a line, written while the job runs,
//! so that the reports can be rebuilt after the machine was killed.

use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use crate::affected::Affected;
use crate::base_result::{BaseResult, ReportAddress};
use crate::credentials::CredentialAccess;
use crate::error::Error;
use crate::job_id::JobId;
use crate::machine_use::{MachineSample, TaskUsage};
use crate::outcome::{ExitStatus, Outcome};
use crate::stage::Stage;
use crate::tiers::TierKind;
use crate::traffic::Traffic;

mod cache;
mod channel;
mod job;
mod progress;
mod task;

pub use cache::{CacheCounts, CacheOutcome, CacheQuery, CacheTier, Recipes, Sstate};
pub use channel::{Emitter, WhatRuns, channel};
pub use job::{JobIdentity, JobStarted, Planned};
pub use progress::{Phase, Progress, Running};
pub use task::{REPORTED_AS_FAILED, Task, TaskFinished, TaskStarted};

/// Names the layout of `events.jsonl`; raised when a reader of the old layout would go wrong.
pub const SCHEMA: &str = "build-agent/events/v1";

/// Something that happened, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    #[serde(with = "time")]
    pub time: SystemTime,
    /// Since the agent started, by a clock that nobody sets: durations are differences of these, and not of
    /// the times. Older files do not have it.
    #[serde(default, with = "clock", skip_serializing_if = "Option::is_none")]
    pub clock: Option<Duration>,
    /// The job that it belongs to, so that the streams of several jobs can be merged. The recorder sets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<JobId>,
    /// Counts up from 1 within the job, in the order in which all listeners see the events, whatever the clocks say.
    /// The recorder sets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seq: Option<u64>,
    #[serde(flatten)]
    pub what: EventKind,
}

/// When the agent made its first event.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The present [`Event::clock`].
pub fn clock_now() -> Duration {
    START.elapsed()
}

impl Event {
    pub fn at(time: SystemTime, clock: Option<Duration>, what: EventKind) -> Event {
        Event { time, clock, job_id: None, seq: None, what }
    }

    pub fn now(what: EventKind) -> Event {
        Event::at(SystemTime::now(), Some(clock_now()), what)
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum EventKind {
    JobStarted(Box<JobStarted>),
    StageStarted {
        stage: Stage,
    },
    StageFinished {
        stage: Stage,
        #[serde(flatten)]
        outcome: Outcome,
    },
    /// What the checkout under test is; completes the job's identity.
    UnderTest {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        commit: Option<String>,
        dirty: bool,
        /// Git's id of all files of the commit.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tree: Option<String>,
    },
    /// A unit of a stage: a repo, a check, a target, an artifact upload.
    UnitStarted {
        unit: Unit,
    },
    UnitFinished {
        unit: Unit,
        #[serde(flatten)]
        outcome: Outcome,
        /// The whole output, relative to the output directory.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        log: Option<PathBuf>,
        /// The lines that matter, for people.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        excerpt: Vec<String>,
    },
    /// A test case inside a unit.
    Case(Case),
    /// Something to fix, at a place in a file where there is one.
    Finding(Finding),
    /// A sentence for people: a default that was chosen, a key without effect, a warning.
    Notice {
        level: Level,
        message: String,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        hint: Option<String>,
    },
    /// What the change under test affects.
    Affected(Box<Affected>),
    /// The result that the change is compared with; comes before the report stage.
    BaseResult(Box<BaseResult>),
    /// Where the report stage stores the reports for other people; comes before it.
    ReportAddress(ReportAddress),
    /// A lab is to test the image of the job.
    DeviceRequested(DeviceRequested),
    /// The machine, every ten seconds.
    MachineSample(MachineSample),
    /// What the tasks of a unit used; comes in several events if they are many.
    TaskUsage {
        unit: Unit,
        tasks: Vec<TaskUsage>,
    },
    /// Whether layer code can reach the build's credentials; comes before any layer code runs.
    CredentialAccess(CredentialAccess),
    /// A source that lies ready.
    Repo(RepoReady),
    /// A step failed, not because of the layer. The agent retries it.
    Retry(Retry),
    CommandStarted {
        stage: Stage,
        /// Counts up from 1 within the job; ties the finish to the start.
        command: u32,
        argv: Vec<String>,
        log: PathBuf,
    },
    CommandFinished {
        command: u32,
        /// `exit status 1`, `signal 9 (SIGKILL)`, `stalled for 20m` …
        end: String,
        seconds: f64,
        /// Bytes of output.
        bytes: u64,
    },
    /// How far a long step is.
    Progress(Progress),
    /// A BitBake task started. Only if BitBake said so: a start is never guessed.
    TaskStarted(TaskStarted),
    /// A BitBake task finished. Older agents called the event `task`.
    #[serde(alias = "task")]
    TaskFinished(TaskFinished),
    /// Nothing was heard for `silent_seconds`, and the job still lives.
    Heartbeat {
        silent_seconds: u64,
        running: String,
    },
    /// More on a BitBake task that failed: the relevant lines of its log. Its end is an event of its own.
    TaskFailed(TaskFailed),
    /// What became of a query of yocto-check-layer to BitBake.
    #[serde(rename = "memo")]
    CacheQuery {
        unit: Unit,
        #[serde(flatten)]
        query: CacheQuery,
    },
    /// BitBake's line about its shared state.
    Sstate {
        unit: Unit,
        #[serde(flatten)]
        summary: Sstate,
    },
    /// A tier of the share, after it was looked at.
    CacheTier(CacheTier),
    /// What the job did on a tier; comes once for each part of the job that did something.
    CacheTraffic {
        tier: TierKind,
        traffic: Traffic,
    },
    /// What became of the objects that were to be published to a tier.
    CachePublished {
        tier: TierKind,
        #[serde(flatten)]
        counts: CacheCounts,
    },
    /// One published object.
    Artifact(Artifact),
    /// The index was written: a reader may rely on the whole.
    Published {
        destination: String,
        index: String,
        objects: u64,
        bytes: u64,
        links: u64,
    },
    /// The agent or the machine could not do its part in `stage`.
    Error {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stage: Option<Stage>,
        #[serde(flatten)]
        error: Error,
    },
    JobFinished {
        exit: ExitStatus,
        #[serde(flatten)]
        outcome: Outcome,
    },
}

/// Names a unit within its stage, e.g. check / `yocto-check-layer meta-aws`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Unit {
    pub stage: Stage,
    pub name: String,
}

impl Unit {
    pub fn new(stage: Stage, name: impl Into<String>) -> Unit {
        Unit { stage, name: name.into() }
    }
}

/// A test case: the smallest thing with an outcome of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Case {
    pub unit: Unit,
    /// Groups cases in JUnit, e.g. `common.CommonCheckLayer`.
    pub class: String,
    pub name: String,
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The tool's own words; may be long.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    Info,
    Warning,
    Error,
}

/// Something to fix. Findings of level `Error` fail their unit; others only tell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    pub unit: Unit,
    pub level: Level,
    /// A short stable name of the rule, e.g. `readme-missing`.
    pub rule: String,
    pub message: String,
    /// Relative to the checkout under test where it lies inside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Counts from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// What to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Finding {
    /// A warning that belongs to no file.
    pub fn warning(unit: &Unit, rule: &str, message: String, hint: &str) -> Finding {
        Finding {
            unit: unit.clone(),
            level: Level::Warning,
            rule: rule.to_owned(),
            message,
            file: None,
            line: None,
            hint: Some(hint.to_owned()),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RepoReady {
    pub name: String,
    /// Without credentials; `None` for a local directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// `None` for a local directory that is not a git work tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The branch or tag that led to the commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<String>,
    pub path: PathBuf,
    /// `cloned`, `stored`, `local`, `patched`.
    pub how: String,
    /// The patches that were applied to it, as the manifest names them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub patches: Vec<String>,
    /// Of the commit and the patches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patches_sha256: Option<String>,
}

/// A retry of a step, before it starts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retry {
    pub unit: Unit,
    #[serde(default, skip_serializing_if = "RetryCause::is_upstream")]
    pub cause: RetryCause,
    /// Why the first attempt failed.
    pub reason: String,
    /// Duration of the first attempt, in seconds.
    pub seconds: f64,
    /// Pause before the retry, in seconds.
    pub pause: f64,
}

/// What a step is retried for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RetryCause {
    /// A server failed.
    #[default]
    Upstream,
    /// A task was killed because memory ran out. The retry does less at the same time.
    Memory,
}

impl RetryCause {
    fn is_upstream(&self) -> bool {
        *self == RetryCause::Upstream
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskFailed {
    pub unit: Unit,
    pub recipe: String,
    pub task: String,
    /// The task's log, copied below the output directory where it could be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<PathBuf>,
    pub excerpt: Vec<String>,
}

/// A request to a lab to test the image of the job on a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRequested {
    pub id: String,
    pub pool: String,
    pub image: String,
    /// The directory of the request: a path, or `s3://BUCKET/KEY`.
    pub address: String,
    /// Whether the job waits for the result. If not, the result is posted when there is one.
    pub waits: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Artifact {
    /// Relative to the published directory.
    pub path: PathBuf,
    /// The whole key or path at the destination; `None` for a link, which is only recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    pub bytes: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Where a symbolic link points, as it is written in the tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
}

/// Seconds, to the millisecond.
mod clock {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(clock: &Option<Duration>, to: S) -> Result<S::Ok, S::Error> {
        match clock {
            Some(clock) => to.serialize_f64(clock.as_millis() as f64 / 1000.0),
            None => to.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
        // Whatever is no duration is none: the wall clock is left.
        let seconds = Option::<f64>::deserialize(from)?;
        let duration = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        Ok(duration.map(|duration| Duration::from_millis((duration.as_secs_f64() * 1000.0).round() as u64)))
    }
}

/// RFC 3339 with milliseconds.
pub mod time {
    use std::time::SystemTime;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(time: &SystemTime, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&humantime::format_rfc3339_millis(*time))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<SystemTime, D::Error> {
        let text = String::deserialize(from)?;
        humantime::parse_rfc3339(&text).map_err(D::Error::custom)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_and_comes_back_the_same() {
        let unit = Unit::new(Stage::Check, "yocto-check-layer meta-x");
        let what = EventKind::UnitFinished {
            unit,
            outcome: Outcome::Failed("line one\nline two".into()),
            log: Some("logs/1.log".into()),
            excerpt: vec!["a".into()],
        };
        let time = humantime::parse_rfc3339("2026-01-02T03:04:05.678Z").unwrap();
        let event = Event {
            job_id: Some("20260102T030405Z-0f5d7e0c91b2a3d4".into()),
            seq: Some(7),
            ..Event::at(time, Some(Duration::from_millis(61_007)), what)
        };
        let line = serde_json::to_string(&event).unwrap();
        assert!(!line.contains('\n'), "{line}");
        let stamp = r#""clock":61.007,"job_id":"20260102T030405Z-0f5d7e0c91b2a3d4","seq":7,"#;
        let head = format!(r#"{{"time":"2026-01-02T03:04:05.678Z",{stamp}"event":"unit-finished""#);
        assert!(line.starts_with(&head), "{line}");
        assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event);
        // Files of older agents have neither such a clock nor ids.
        let older = line.replace(stamp, "");
        assert_eq!(serde_json::from_str::<Event>(&older).unwrap(), Event::at(time, None, event.what));
    }
}
