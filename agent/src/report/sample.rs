//! A simulated job for the tests of reports: a layer whose check fails and whose build breaks.

use std::time::{Duration, SystemTime};

use agent_types::base_result::{ChangeScope, FailOn};
use agent_types::error::Error;
use agent_types::events::{
    Artifact, CacheCounts, CacheTier, Case, Event, EventKind, Finding, JobIdentity, JobStarted, Level, Phase,
    Planned, Progress, REPORTED_AS_FAILED, RepoReady, Running, SCHEMA, Sstate, Task, TaskFailed,
    TaskFinished, Unit,
};
use agent_types::job_id::JobId;
use agent_types::outcome::{ExitStatus, Outcome};
use agent_types::stage::Stage;
use agent_types::tiers::State;
use agent_types::tiers::TierKind;
use agent_types::traffic::Traffic;

use super::summary::Summary;

/// 2026-01-02T03:04:05Z
pub fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_045)
}

/// The id of the sample's job.
pub fn job_id() -> JobId {
    "20260102T030405Z-0f5d7e0c91b2a3d4".into()
}

/// The summary of [`passing_job`] that has ended.
pub fn passed() -> Summary {
    let mut events = passing_job();
    events.push(at(9000, EventKind::JobFinished { exit: ExitStatus::Passed, outcome: Outcome::Passed }));
    reduce(&events)
}

/// An event so many milliseconds after the start.
pub fn at(milliseconds: u64, what: EventKind) -> Event {
    Event::at(start() + Duration::from_millis(milliseconds), None, what)
}

pub fn reduce(events: &[Event]) -> Summary {
    let mut summary = Summary::default();
    events.iter().for_each(|event| summary.apply(event));
    summary
}

pub fn job_started(left_out: &[Stage]) -> EventKind {
    let plan = Stage::ALL.into_iter().map(|stage| Planned {
        stage,
        skip: left_out.contains(&stage).then(|| format!("nothing asks for {stage}")),
    });
    EventKind::JobStarted(Box::new(JobStarted {
        schema: SCHEMA.into(),
        agent: "0.1.0".into(),
        job: JobIdentity {
            id: job_id(),
            name: "meta-x".into(),
            release: "scarthgap".into(),
            machines: vec!["qemux86-64".into()],
            cell: None,
            commit: Some("3f2a1b4c5d6e7f8091a2b3c4d5e6f708192a3b4c".into()),
            tree: None,
            dirty: false,
            build: "17".into(),
            codebuild: None,
            layer: "/src/meta-x".into(),
            manifest: "build-agent.toml".into(),
            reproduce: ["build-agent", "run", "it's here.toml"].map(str::to_owned).to_vec(),
            url: None,
        },
        plan: plan.collect(),
        fail_on: FailOn::All,
        change_scope: ChangeScope::default(),
        prices: None,
        reproduction: None,
    }))
}

pub fn started(stage: Stage) -> EventKind {
    EventKind::StageStarted { stage }
}

pub fn finished(stage: Stage, outcome: Outcome) -> EventKind {
    EventKind::StageFinished { stage, outcome }
}

pub fn unit_started(unit: &Unit) -> EventKind {
    EventKind::UnitStarted { unit: unit.clone() }
}

pub fn unit_finished(unit: &Unit, outcome: Outcome, log: Option<&str>) -> EventKind {
    EventKind::UnitFinished { unit: unit.clone(), outcome, log: log.map(Into::into), excerpt: Vec::new() }
}

pub fn case(unit: &Unit, name: &str, outcome: Outcome, message: &str) -> EventKind {
    EventKind::Case(Case {
        unit: unit.clone(),
        class: "common.CommonCheckLayer".into(),
        name: name.into(),
        outcome,
        message: message.into(),
        seconds: None,
    })
}

pub fn poky() -> Unit {
    Unit::new(Stage::Checkout, "poky")
}

pub fn preflight() -> Unit {
    Unit::new(Stage::Check, "preflight meta-x")
}

pub fn check_layer() -> Unit {
    Unit::new(Stage::Check, "yocto-check-layer meta-x")
}

pub fn image() -> Unit {
    Unit::new(Stage::Build, "core-image-minimal")
}

/// The whole job: checkout and configure pass, one test of yocto-check-layer fails, a task of the
/// build fails, and publishing finds AWS out of reach.
pub fn failing_job() -> Vec<Event> {
    let failed = |why: &str| Outcome::Failed(why.to_owned());
    let task = |task: &str, outcome| {
        EventKind::TaskFinished(TaskFinished { task: Task::new(image(), "zlib", task), outcome, log: None })
    };
    vec![
        at(0, job_started(&[Stage::Test])),
        at(0, started(Stage::Checkout)),
        at(0, unit_started(&poky())),
        at(
            11_000,
            EventKind::Repo(RepoReady {
                name: "poky".into(),
                url: Some("https://git.yoctoproject.org/poky".into()),
                commit: Some("aaaabbbbccccddddeeeeffff0000111122223333".into()),
                wanted: Some("scarthgap".into()),
                path: "/w/repos/poky".into(),
                how: "cloned".into(),
                patches: Vec::new(),
                patches_sha256: None,
            }),
        ),
        at(12_000, unit_finished(&poky(), Outcome::Passed, None)),
        at(12_000, finished(Stage::Checkout, Outcome::Passed)),
        at(12_000, started(Stage::Configure)),
        at(12_300, finished(Stage::Configure, Outcome::Passed)),
        at(12_300, started(Stage::Check)),
        at(12_300, unit_started(&preflight())),
        at(
            12_310,
            EventKind::Finding(Finding {
                unit: preflight(),
                level: Level::Warning,
                rule: "upstream-status".into(),
                message: "the patch has no Upstream-Status".into(),
                file: Some("recipes-x/x/files/fix.patch".into()),
                line: Some(1),
                hint: Some("add a line like `Upstream-Status: Pending`".into()),
            }),
        ),
        at(12_320, unit_finished(&preflight(), Outcome::Passed, None)),
        at(12_320, unit_started(&check_layer())),
        at(
            12_320,
            EventKind::CommandStarted {
                stage: Stage::Check,
                command: 1,
                argv: ["yocto-check-layer", "/src/meta-x"].map(str::to_owned).to_vec(),
                log: "logs/check-meta-x.log".into(),
            },
        ),
        at(72_320, EventKind::Heartbeat { silent_seconds: 60, running: "yocto-check-layer meta-x".into() }),
        at(
            120_000,
            case(
                &check_layer(),
                "test_readme",
                failed("AssertionError: README is empty"),
                "Traceback (most recent call last):\n  File \"common.py\", line 30, in test_readme\nAssertionError: README is empty",
            ),
        ),
        at(120_000, case(&check_layer(), "test_parse", Outcome::Passed, "")),
        at(
            122_320,
            EventKind::CommandFinished {
                command: 1,
                end: "exit status 1".into(),
                seconds: 110.0004,
                bytes: 4096,
            },
        ),
        at(
            122_320,
            unit_finished(&check_layer(), failed("1 of 2 tests failed"), Some("logs/check-meta-x.log")),
        ),
        at(123_000, finished(Stage::Check, failed("yocto-check-layer meta-x failed"))),
        at(123_000, started(Stage::Build)),
        at(123_000, unit_started(&image())),
        at(
            124_000,
            EventKind::Sstate {
                unit: image(),
                summary: Sstate { wanted: 100, local: 20, mirrors: 30, missed: 50, current: 10 },
            },
        ),
        at(
            130_000,
            EventKind::Progress(Progress {
                done: 1,
                total: 50,
                running: vec![Running { name: "zlib:do_compile".into(), seconds: 2 }],
                ..Progress::new(&image(), "", Phase::Tasks)
            }),
        ),
        at(140_000, task("do_configure", Outcome::Passed)),
        at(150_000, task("do_compile", failed(REPORTED_AS_FAILED))),
        at(
            150_000,
            EventKind::TaskFailed(TaskFailed {
                unit: image(),
                recipe: "zlib".into(),
                task: "do_compile".into(),
                log: Some("logs/zlib-do_compile.log".into()),
                excerpt: ["zlib.c:3:1: error: expected ';'", "make: *** [Makefile:9: zlib.o] Error 1"]
                    .map(str::to_owned)
                    .to_vec(),
            }),
        ),
        at(
            151_000,
            unit_finished(&image(), failed("1 task failed: zlib:do_compile"), Some("logs/build.log")),
        ),
        at(151_000, finished(Stage::Build, failed("core-image-minimal failed"))),
        at(151_000, started(Stage::Publish)),
        at(
            151_500,
            EventKind::Notice {
                level: Level::Warning,
                message: "the bucket has no lifecycle rule for unfinished uploads".into(),
                hint: None,
            },
        ),
        at(
            152_000,
            EventKind::Artifact(Artifact {
                path: "zlib.ipk".into(),
                key: Some("builds/zlib.ipk".into()),
                bytes: 2048,
                sha256: Some("00".repeat(32)),
                link: None,
            }),
        ),
        at(
            153_000,
            EventKind::Error {
                stage: Some(Stage::Publish),
                error: Error::upstream("cannot upload `index.json` to s3://bucket/builds")
                    .because(&std::io::Error::other("connection reset"))
                    .hint("run the job again; what was uploaded is not uploaded twice"),
            },
        ),
        at(153_000, finished(Stage::Publish, Outcome::NotRun("AWS was not reachable".into()))),
        at(
            154_000,
            EventKind::JobFinished {
                exit: ExitStatus::Upstream,
                outcome: failed("check: yocto-check-layer meta-x failed"),
            },
        ),
    ]
}

/// A job that passes: one unit in checkout, a layer check with one case, a published artifact.
pub fn passing_job() -> Vec<Event> {
    let passed = || Outcome::Passed;
    vec![
        at(0, job_started(&[Stage::Build, Stage::Test])),
        at(0, started(Stage::Checkout)),
        at(1000, unit_started(&poky())),
        at(2000, unit_finished(&poky(), passed(), None)),
        at(2000, finished(Stage::Checkout, passed())),
        at(2000, started(Stage::Configure)),
        at(2000, finished(Stage::Configure, passed())),
        at(2000, started(Stage::Check)),
        at(2000, unit_started(&check_layer())),
        at(3000, case(&check_layer(), "test_parse", passed(), "")),
        at(4000, unit_finished(&check_layer(), passed(), None)),
        at(4000, finished(Stage::Check, passed())),
        at(4000, started(Stage::Publish)),
        at(
            5000,
            EventKind::Published {
                destination: "s3://bucket/builds".into(),
                index: "s3://bucket/builds/index.json".into(),
                objects: 1,
                bytes: 3 << 30,
                links: 2,
            },
        ),
        at(5000, finished(Stage::Publish, passed())),
    ]
}

/// A job with a share in a bucket.
pub fn with_bucket() -> Vec<Event> {
    let (tier, path) = (TierKind::Shared, "s3://bucket/yocto".to_owned());
    let found = CacheTier { tier, path, state: State::ReadWrite, reason: None };
    let traffic = |usd| Traffic { operations: 7, seconds_waited: 0.5, usd, ..Traffic::default() };
    let mut events = passing_job();
    events.extend([
        at(6000, EventKind::CacheTier(found)),
        at(6100, EventKind::CacheTraffic { tier, traffic: traffic(0.000_1) }),
        at(6200, EventKind::CacheTraffic { tier, traffic: traffic(0.000_2) }),
    ]);
    events
}

/// A job of a pull request that reads two tiers and publishes to its own.
pub fn with_share() -> Vec<Event> {
    let found = |tier: TierKind, path: &str, state: State| {
        EventKind::CacheTier(CacheTier { tier, path: path.into(), state, reason: None })
    };
    let traffic = |tier, traffic| EventKind::CacheTraffic { tier, traffic };
    let counts = CacheCounts { published: 5, present: 2, differing: 1, failed: 0, left: 0, bytes: 5000 };
    let none = Traffic::default();
    let layers = Traffic { objects_read: 3, operations: 2, seconds_waited: 0.1, ..none };
    let used = Traffic { objects_read: 30, bytes_read: 3 << 20, operations: 10, seconds_waited: 0.2, ..none };
    let written =
        Traffic { objects_written: 5, bytes_written: 5000, operations: 20, seconds_waited: 1.5, ..none };
    let mut events = passing_job();
    events.extend([
        at(6000, found(TierKind::PullRequest, "/efs/pr/12", State::ReadWrite)),
        at(6000, found(TierKind::Shared, "/efs", State::ReadOnly)),
        at(6100, traffic(TierKind::Shared, layers)),
        at(6200, traffic(TierKind::Shared, used)),
        at(6300, traffic(TierKind::PullRequest, written)),
        at(6400, EventKind::CachePublished { tier: TierKind::PullRequest, counts }),
    ]);
    events
}
