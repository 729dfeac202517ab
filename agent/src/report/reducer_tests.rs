//! Tests of the reducer.

use std::path::PathBuf;

use super::*;
use crate::report::sample::{self, at, case, check_layer, failing_job, image, reduce};
use agent_types::events::{Artifact, Event};
use agent_types::machine_use::MachineSample;

#[test]
fn a_whole_job_folds_into_its_parts() {
    let summary = reduce(&failing_job());
    assert!(summary.complete);
    assert_eq!(summary.exit, ExitStatus::Upstream);
    assert_eq!(summary.seconds, 154.0);
    let stages: Vec<_> =
        summary.stages.iter().map(|s| (s.stage, s.outcome.as_ref().unwrap().word(), s.seconds)).collect();
    let wanted = [
        (Stage::Checkout, "passed", Some(12.0)),
        (Stage::Configure, "passed", Some(0.3)),
        (Stage::Check, "failed", Some(110.7)),
        (Stage::Build, "failed", Some(28.0)),
        (Stage::Test, "skipped", None),
        (Stage::Publish, "not-run", Some(2.0)),
    ];
    assert_eq!(stages, wanted);
    let check = summary.units.iter().find(|unit| unit.is(&check_layer())).unwrap();
    assert_eq!((check.cases.len(), check.seconds), (2, Some(110.0)));
    let build = summary.units.iter().find(|unit| unit.is(&image())).unwrap();
    assert_eq!((build.tasks, build.sstate.unwrap().missed), (2, 50));
    let command = &summary.commands[0];
    assert_eq!((command.end.as_deref(), command.seconds), (Some("exit status 1"), Some(110.0)));
    assert_eq!(summary.bytes_cut, 0);
}

#[test]
fn what_ends_in_any_order_is_by_name() {
    let repo = |name: &str, how: &str| {
        EventKind::Repo(RepoReady {
            name: name.into(),
            url: None,
            commit: None,
            wanted: None,
            path: PathBuf::new(),
            how: how.into(),
            patches: Vec::new(),
            patches_sha256: None,
        })
    };
    let artifact = |path: &str| {
        EventKind::Artifact(Artifact { path: path.into(), key: None, bytes: 1, sha256: None, link: None })
    };
    let finished = |stage| EventKind::StageFinished { stage, outcome: Outcome::Passed };
    let events = [
        repo("b", "cloned"),
        repo("a", "cloned"),
        repo("c", "cloned"),
        repo("b", "patched"),
        finished(Stage::Checkout),
        artifact("z/1"),
        artifact("a/2"),
        artifact("m"),
        finished(Stage::Publish),
    ];
    let summary = reduce(&events.map(|event| at(1, event)));
    let repos: Vec<_> = summary.repos.iter().map(|repo| (repo.name.as_str(), repo.how.as_str())).collect();
    assert_eq!(repos, [("a", "cloned"), ("b", "patched"), ("c", "cloned")]);
    let artifacts: Vec<_> =
        summary.artifacts.iter().map(|artifact| artifact.path.display().to_string()).collect();
    assert_eq!(artifacts, ["a/2", "m", "z/1"]);
}

#[test]
fn samples_of_a_long_job_are_thinned_and_keep_their_peaks() {
    let sample = |number: u64| MachineSample {
        memory_used: if number == 1234 { 99_999 } else { number % 10 },
        network_bytes: number,
        ..MachineSample::default()
    };
    let mut summary = Summary::default();
    for number in 0..12_960 {
        summary.apply(&at(number * 10_000, EventKind::MachineSample(sample(number))));
        assert!(summary.machine.len() < SAMPLES_KEPT);
    }
    let used = |at: &MachineAt| at.sample.memory_used;
    assert_eq!(summary.machine.iter().map(used).max(), Some(99_999));
    assert!(summary.machine.iter().is_sorted_by_key(|at| at.milliseconds));
    let ends = [summary.machine.first(), summary.machine.last()].map(|at| at.unwrap().sample.network_bytes);
    assert_eq!(ends, [0, 12_959]);
    assert!(summary.machine.len() >= SAMPLES_KEPT / 3, "{}", summary.machine.len());
}

#[test]
fn what_the_tasks_of_a_unit_used_is_one_list_with_a_limit() {
    let usage = |recipe: &str| TaskUsage {
        recipe: recipe.into(),
        task: "do_x".into(),
        cpu_seconds: 1.0,
        peak_memory: 2,
        bytes_read: 3,
        bytes_written: 4,
    };
    let used =
        |unit: &Unit, tasks: Vec<TaskUsage>| at(1000, EventKind::TaskUsage { unit: unit.clone(), tasks });
    let other = Unit::new(Stage::Build, "other");
    let events = [
        used(&image(), vec![usage("a")]),
        used(&other, vec![usage("b")]),
        used(&image(), vec![usage("c"); USAGES_KEPT]),
    ];
    let summary = reduce(&events);
    let kept: Vec<(u32, usize)> =
        summary.task_usage.iter().map(|unit| (unit.unit, unit.tasks.len())).collect();
    assert_eq!(kept, [(0, USAGES_KEPT - 1), (1, 1)]);
}

#[test]
fn the_reason_of_a_killed_job_has_the_last_sample() {
    let mut events = failing_job()[..9].to_vec();
    let sample = MachineSample { memory_used: 71 << 30, memory_limit: 72 << 30, ..Default::default() };
    events.push(at(72_000, EventKind::MachineSample(sample)));
    let mut summary = reduce(&events);
    summary.interrupted();
    let wanted = "the agent was killed; the last event is from 2026-01-02T03:05:17.000Z; 71.0 of 72.0 GiB of \
                  memory used";
    assert_eq!(summary.outcome.reason(), Some(wanted));
}

#[test]
fn a_killed_job_is_never_a_pass_wherever_it_was_killed() {
    for events in [failing_job(), sample::passing_job()] {
        let last = events.iter().position(|event| matches!(event.what, EventKind::JobFinished { .. }));
        for end in 0..last.unwrap_or(events.len()) {
            let mut summary = reduce(&events[..end]);
            summary.interrupted();
            assert!(!summary.complete);
            assert!(matches!(summary.outcome, Outcome::NotRun(_)), "{:?}", summary.outcome);
            assert_ne!(summary.exit, ExitStatus::Passed);
            assert!(summary.stages.iter().all(|stage| stage.outcome.is_some()));
            assert!(summary.units.iter().all(|unit| unit.outcome.is_some()));
        }
    }
}

#[test]
fn a_killed_job_says_when_and_what_ran() {
    let events = failing_job();
    let silent = |event: &Event| matches!(event.what, EventKind::Heartbeat { .. });
    let killed_at = events.iter().position(silent).unwrap();
    let mut summary = reduce(&events[..=killed_at]);
    summary.interrupted();
    let killed = "the agent was killed; the last event is from 2026-01-02T03:05:17.320Z";
    assert_eq!(summary.outcome, Outcome::NotRun(killed.into()));
    let unit = summary.units.last().unwrap();
    assert!(unit.is(&check_layer()));
    assert_eq!(unit.outcome, Some(Outcome::NotRun(format!("it did not finish: {killed}"))));
    assert_eq!(unit.seconds, Some(60.0), "until the last event, a heartbeat");
    let reasons: Vec<_> = summary.stages.iter().map(|s| s.outcome.as_ref().unwrap().reason()).collect();
    let not_reached = format!("not reached: {killed}");
    let unfinished = format!("it did not finish: {killed}");
    let wanted = [
        None,
        None,
        Some(unfinished.as_str()),
        Some(&not_reached),
        Some("nothing asks for test"),
        Some(&not_reached),
    ];
    assert_eq!(reasons, wanted);
}

#[test]
fn the_end_of_a_finished_job_stays_as_it_is() {
    let mut summary = reduce(&failing_job());
    let before = summary.clone();
    summary.interrupted();
    assert_eq!(summary, before);
}

#[test]
fn over_long_texts_are_cut_and_counted() {
    let long = "x".repeat(truncate::TEXT + 1000);
    let summary = reduce(&[at(0, case(&check_layer(), "test_a", Outcome::Failed(long.clone()), &long))]);
    let case = &summary.units[0].cases[0];
    assert!(case.message.len() <= truncate::TEXT && case.message.contains("bytes cut out"));
    assert!(case.outcome.reason().unwrap().len() <= truncate::TEXT);
    // Both were truncated, and lost as many characters more as the mark of the truncation takes.
    assert_eq!(summary.bytes_cut, 2 * (1000 + 64));
}

/// The wall clock jumps by three days, forth and back, while things run.
#[test]
fn durations_follow_the_clock_that_nobody_sets() {
    let three_days = std::time::Duration::from_secs(3 * 24 * 3600);
    let on_clock = |clock: bool| {
        let mut events = failing_job();
        let first = events[0].time;
        let jump = events.len() / 2;
        for (index, event) in events.iter_mut().enumerate() {
            event.clock = event.time.duration_since(first).ok().filter(|_| clock);
            if clock && index >= jump {
                event.time += three_days;
            }
        }
        if clock && let Some(last) = events.last_mut() {
            last.time -= three_days * 2;
        }
        reduce(&events)
    };
    let seconds = |summary: &Summary| {
        let stages = summary.stages.iter().map(|stage| stage.seconds);
        let units = summary.units.iter().map(|unit| unit.seconds);
        (summary.seconds, stages.collect::<Vec<_>>(), units.collect::<Vec<_>>())
    };
    assert_eq!(seconds(&on_clock(true)), seconds(&on_clock(false)));
    assert_eq!(on_clock(true).seconds, 154.0);
}

#[test]
fn a_clock_that_was_set_back_gives_no_negative_times() {
    let unit = check_layer();
    let summary = reduce(&[
        at(5000, sample::unit_started(&unit)),
        at(1000, sample::unit_finished(&unit, Outcome::Passed, None)),
    ]);
    assert_eq!((summary.seconds, summary.units[0].seconds), (0.0, Some(0.0)));
}
