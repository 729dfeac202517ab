//! The fold of a job's events: all that the reports know. `result.json` is this, with a schema id
//! and the totals before it.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use agent_types::affected::Affected;
use agent_types::base_result::{BaseResult, ChangeScope, FailOn, ReportAddress};
use agent_types::credentials::CredentialAccess;
use agent_types::error::Error;
use agent_types::events::{
    Artifact, CacheCounts, CacheQuery, DeviceRequested, Event, Finding, JobIdentity, Level, Planned,
    RepoReady, Retry, Sstate, TaskFailed, Unit,
};
use agent_types::machine_use::{MachineSample, TaskUsage};
use agent_types::outcome::{ExitStatus, Outcome};
use agent_types::prices::JobPrices;
use agent_types::reproduction::Reproduction;
use agent_types::stage::Stage;
use agent_types::tiers::{State, TierKind};
use agent_types::traffic::Traffic;

use super::rows::one_a_line;
use super::timeline::Timeline;

/// A point in time; RFC 3339 with milliseconds in files.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct At {
    #[serde(with = "agent_types::events::time")]
    time: SystemTime,
    /// See [`Event::clock`]; lost on the way through a file.
    #[serde(skip)]
    clock: Option<Duration>,
}

impl At {
    pub fn of(event: &Event) -> At {
        At { time: event.time, clock: event.clock }
    }

    pub fn now() -> At {
        At { time: SystemTime::now(), clock: Some(agent_types::events::clock_now()) }
    }

    /// Seconds until `later`, to the millisecond, whatever happened to the wall clock in between. Without
    /// another clock 0 when it was set back.
    pub fn seconds_until(self, later: At) -> f64 {
        whole_milliseconds(self.until(later).as_secs_f64())
    }

    /// The same in milliseconds.
    pub fn milliseconds_until(self, later: At) -> u64 {
        (self.until(later).as_secs_f64() * 1000.0).round() as u64
    }

    pub fn time(self) -> SystemTime {
        self.time
    }

    /// Milliseconds since 1970.
    pub fn unix_milliseconds(self) -> u64 {
        let since = self.time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn until(self, later: At) -> Duration {
        let took = match (self.clock, later.clock) {
            (Some(from), Some(to)) => to.checked_sub(from),
            _ => later.time.duration_since(self.time).ok(),
        };
        took.unwrap_or(Duration::ZERO)
    }
}

/// The same point in time, as a file has it.
impl PartialEq for At {
    fn eq(&self, other: &At) -> bool {
        self.time == other.time
    }
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", humantime::format_rfc3339_millis(self.time))
    }
}

/// Rounds seconds to milliseconds, so that a number is the same after a trip through a file.
pub fn whole_milliseconds(seconds: f64) -> f64 {
    (seconds * 1000.0).round() / 1000.0
}

/// The step of the report stage that stores the reports for other people.
pub const STORED_REPORT: &str = "stored report";

/// All that is known about a job, made from its events by [`Summary::apply`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Whether the job came to its own end; `false`: it runs still, or was killed.
    pub complete: bool,
    pub exit: ExitStatus,
    #[serde(flatten)]
    pub outcome: Outcome,
    /// Version of the agent.
    pub agent: String,
    pub job: JobIdentity,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<At>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_event: Option<At>,
    /// From the first event to the last before the report stage: reports that know nothing later agree with this.
    pub seconds: f64,
    pub plan: Vec<Planned>,
    #[serde(default, skip_serializing_if = "FailOn::is_all")]
    pub fail_on: FailOn,
    #[serde(default, skip_serializing_if = "ChangeScope::is_empty")]
    pub change_scope: ChangeScope,
    /// In the plan's order. The report stage is here only when it has something to tell.
    pub stages: Vec<StageResult>,
    /// In the order in which they were first heard of.
    pub units: Vec<UnitResult>,
    pub findings: Vec<Finding>,
    /// How many jobs of this result have no findings, because they checked nothing, or only a part of them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unchecked_jobs: u64,
    pub failed_tasks: Vec<TaskFailed>,
    /// When the BitBake tasks of all units ran.
    #[serde(default, skip_serializing_if = "Timeline::is_empty")]
    pub timeline: Timeline,
    pub errors: Vec<StageError>,
    pub notices: Vec<Notice>,
    /// Whether layer code could reach the build's credentials; `None` if the job ran none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<CredentialAccess>,
    /// What the change affects; `None` if nothing asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affected: Option<Affected>,
    /// What the change is compared with; `None` if there is no earlier result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<BaseResult>,
    /// Where the reports are stored for other people; `None` if they are not stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<ReportAddress>,
    /// The request to a lab to test the image on a device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceRequested>,
    /// In the order of time. Of a long job some are dropped, those with less memory in use first.
    #[serde(default, skip_serializing_if = "Vec::is_empty", serialize_with = "one_a_line")]
    pub machine: Vec<MachineAt>,
    /// What the BitBake tasks used, by unit.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub task_usage: Vec<UnitUsage>,
    /// What the machine and its traffic cost; `None` if the prices are not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prices: Option<JobPrices>,
    /// What repeats the job elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reproduction: Option<Reproduction>,
    /// The steps that were retried because an upstream server failed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub retries: Vec<Retry>,
    /// By name.
    pub repos: Vec<RepoReady>,
    pub commands: Vec<CommandResult>,
    /// By path, once their stage has ended.
    pub artifacts: Vec<Artifact>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<Published>,
    /// The tiers of the share, in the order in which they are read; empty without a share.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cache: Vec<TierResult>,
    /// Bytes that were cut out of over-long texts, here and in every report.
    pub bytes_cut: u64,
}

/// A job of which nothing was heard yet.
impl Default for Summary {
    fn default() -> Summary {
        Summary {
            complete: false,
            exit: ExitStatus::Internal,
            outcome: Outcome::NotRun("the job has not ended; its events are in events.jsonl".into()),
            agent: String::new(),
            job: JobIdentity::default(),
            started: None,
            last_event: None,
            seconds: 0.0,
            plan: Vec::new(),
            fail_on: FailOn::All,
            change_scope: ChangeScope::default(),
            stages: Vec::new(),
            units: Vec::new(),
            findings: Vec::new(),
            unchecked_jobs: 0,
            failed_tasks: Vec::new(),
            timeline: Timeline::default(),
            errors: Vec::new(),
            notices: Vec::new(),
            credentials: None,
            affected: None,
            base: None,
            report: None,
            device: None,
            machine: Vec::new(),
            task_usage: Vec::new(),
            prices: None,
            reproduction: None,
            retries: Vec::new(),
            repos: Vec::new(),
            commands: Vec::new(),
            artifacts: Vec::new(),
            published: None,
            cache: Vec::new(),
            bytes_cut: 0,
        }
    }
}

/// The machine at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MachineAt {
    /// Since the start of the job.
    pub milliseconds: u64,
    #[serde(flatten)]
    pub sample: MachineSample,
}

/// What the BitBake tasks of a unit used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UnitUsage {
    /// Index into the summary's units.
    pub unit: u32,
    #[serde(serialize_with = "one_a_line")]
    pub tasks: Vec<TaskUsage>,
}

/// One tier of the share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TierResult {
    pub tier: TierKind,
    /// A directory, or `s3://bucket/prefix`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// `None` when it was not looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// Why it is less than was hoped for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The sum of all parts of the job.
    pub traffic: Traffic,
    /// `None` when nothing was to be published there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<CacheCounts>,
}

impl Summary {
    /// The outcome of a stage that has ended.
    pub fn stage_outcome(&self, stage: Stage) -> Option<&Outcome> {
        self.stages.iter().find(|known| known.stage == stage)?.outcome.as_ref()
    }

    /// Whether its findings are those of a check that ran to its end. Without one, no findings do not mean that there are none.
    pub fn has_checked(&self) -> bool {
        let checked = self.stage_outcome(Stage::Check);
        let has_ended = matches!(checked, Some(Outcome::Passed | Outcome::Failed(_) | Outcome::Flaky(_)));
        self.complete && self.unchecked_jobs == 0 && has_ended
    }

    /// The page with the stored report, if people can open it in a browser.
    pub fn report_url(&self) -> Option<&str> {
        self.stored_report()?.url.as_deref()
    }

    /// The directory with the stored reports: a path, or `s3://BUCKET/KEY`.
    pub fn report_address(&self) -> Option<&str> {
        Some(self.stored_report()?.address.as_str())
    }

    /// Where the reports are stored, unless that failed.
    fn stored_report(&self) -> Option<&ReportAddress> {
        let failed = |unit: &UnitResult| {
            unit.stage == Stage::Report
                && unit.name == STORED_REPORT
                && unit.outcome.as_ref().is_some_and(|outcome| !outcome.is_success())
        };
        self.report.as_ref().filter(|_| !self.units.iter().any(failed))
    }

    /// The units that have not finished.
    pub fn open_units(&self) -> impl Iterator<Item = Unit> {
        let open = self.units.iter().filter(|unit| unit.outcome.is_none());
        open.map(|unit| Unit::new(unit.stage, unit.name.clone()))
    }

    pub fn units_of(&self, stage: Stage) -> impl Iterator<Item = &UnitResult> {
        self.units.iter().filter(move |unit| unit.stage == stage)
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageResult {
    pub stage: Stage,
    /// `None` while it runs or waits.
    #[serde(flatten)]
    pub outcome: Option<Outcome>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<At>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UnitResult {
    pub stage: Stage,
    pub name: String,
    /// `None` while it runs.
    #[serde(flatten)]
    pub outcome: Option<Outcome>,
    pub started: At,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    /// Relative to the output directory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub excerpt: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cases: Vec<CaseResult>,
    /// BitBake tasks that ran, the failed ones with them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tasks: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sstate: Option<Sstate>,
    /// Queries of yocto-check-layer that the signature cache may answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty", rename = "memo")]
    pub cache_queries: Vec<CacheQuery>,
}

impl UnitResult {
    pub fn is(&self, unit: &Unit) -> bool {
        self.stage == unit.stage && self.name == unit.name
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaseResult {
    pub class: String,
    pub name: String,
    #[serde(flatten)]
    pub outcome: Outcome,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CommandResult {
    pub command: u32,
    pub stage: Stage,
    pub argv: Vec<String>,
    pub log: PathBuf,
    /// `None` while it runs, or when the agent was killed with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Published {
    pub destination: String,
    pub index: String,
    pub objects: u64,
    pub bytes: u64,
    pub links: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Notice {
    pub level: Level,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// What the agent or the machine could not do, and in which stage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StageError {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<Stage>,
    #[serde(flatten)]
    pub error: Error,
}
