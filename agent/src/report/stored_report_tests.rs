use super::*;
use crate::report::sample::{at, case, check_layer, passing_job, reduce, unit_finished};
use agent_types::base_result::{ChangeScope, KnownFinding};
use agent_types::events::{EventKind, Planned, Unit};
use agent_types::outcome::Outcome;
use agent_types::prices::{JobPrices, MachinePrice};
use agent_types::stage::Stage;

const COMMIT: &str = "3f2a1b4c5d6e7f8091a2b3c4d5e6f708192a3b4c";

/// A job that ended, with these further cases.
fn job(cases: &[(&str, Outcome)]) -> Summary {
    let mut events = passing_job();
    events.extend(
        cases.iter().map(|(name, outcome)| at(3500, case(&check_layer(), name, outcome.clone(), ""))),
    );
    events.push(at(9000, EventKind::JobFinished { exit: ExitStatus::Passed, outcome: Outcome::Passed }));
    reduce(&events)
}

fn known(suite: &str, name: &str, outcome: OutcomeWord, signature: Option<&str>) -> KnownTest {
    KnownTest {
        id: TestId { suite: suite.into(), class: String::new(), name: name.into() },
        outcome,
        signature: signature.map(str::to_owned),
        reason: None,
    }
}

async fn read_back(root: &Path, path: &str) -> Option<Vec<u8>> {
    let store = results::open(&Destination::Directory(root.to_owned()), false, None).await.unwrap();
    store.read(path, LARGEST).await.unwrap()
}

#[tokio::test]
async fn reports_are_stored_by_commit_and_found_again() {
    let place = tempfile::tempdir().unwrap();
    let (root, out) = (place.path().join("store"), place.path().join("out"));
    fs_err::create_dir(&out).unwrap();
    fs_err::write(out.join("junit.xml"), "<x/>").unwrap();
    let store = results::open(&Destination::Directory(root.clone()), false, None).await.unwrap();
    let summary = job(&[]);
    store_all(&store, "pr/7", &out, &summary).await.unwrap();
    let directory = format!("pr/7/results/v1/meta-x/scarthgap/qemux86-64/{COMMIT}/17");
    assert_eq!(read_back(&root, &format!("{directory}/junit.xml")).await.unwrap(), b"<x/>");
    assert_eq!(read_back(&root, &format!("{directory}/report.html")).await, None);
    let result = read_back(&root, &format!("{directory}/result.json")).await.unwrap();
    assert_eq!(String::from_utf8(result).unwrap(), result::render(&summary).unwrap());
    let index = read_back(&root, &format!("pr/7/{}", results::index(&summary.job, COMMIT))).await.unwrap();
    let stored = StoredResult::parse(&index, COMMIT).unwrap();
    assert_eq!((stored.directory.as_str(), stored.tests), (directory.as_str(), known::tests(&summary)));
    assert_eq!(stored.recent, [RecentJob { seconds: summary.seconds, usd: None }]);
    // The price of its requests alone is not that of the job.
    let minutes = (summary.seconds / 60.0).ceil().max(1.0);
    let machine = MachinePrice { compute_type: "desk".into(), usd_per_minute: 0.5, source: "test".into() };
    let priced =
        Summary { prices: Some(JobPrices { machine: Some(machine), ..JobPrices::default() }), ..summary };
    let stored = stored_result(&priced, COMMIT, directory, None);
    assert_eq!(stored.recent[0].usd, Some(minutes * 0.5));
}

/// What later jobs are compared with is the verdict on a commit.
#[tokio::test]
async fn only_a_verdict_on_a_commit_is_compared_with() {
    type Change = fn(&mut Summary);
    let changes: [(Change, bool); 7] = [
        (|_| {}, true),
        (|summary| summary.exit = ExitStatus::Failed, true),
        (|summary| summary.exit = ExitStatus::Upstream, false),
        (|summary| summary.exit = ExitStatus::Cancelled, false),
        (|summary| summary.job.dirty = true, false),
        (|summary| summary.job.commit = None, false),
        (|summary| summary.complete = false, false),
    ];
    for (number, (change, wanted)) in changes.into_iter().enumerate() {
        let place = tempfile::tempdir().unwrap();
        let store = results::open(&Destination::Directory(place.path().into()), false, None).await.unwrap();
        let mut summary = job(&[]);
        change(&mut summary);
        store_all(&store, "", place.path(), &summary).await.unwrap();
        let index = results::index(&summary.job, COMMIT);
        assert_eq!(read_back(place.path(), &index).await.is_some(), wanted, "{number}");
        // For people there is a report all the same.
        let result = format!("{}/result.json", results::directory(&summary.job));
        assert!(read_back(place.path(), &result).await.is_some(), "{number}");
    }
}

#[test]
fn another_run_with_another_outcome_marks_a_test_as_flaky() {
    let (same, other) = (Some("s"), Some("t"));
    let (passed, failed, flaky) = (OutcomeWord::Passed, OutcomeWord::Failed, OutcomeWord::Flaky);
    for (before, signature, now, wanted) in [
        (failed, same, passed, flaky),
        (passed, same, failed, flaky),
        (flaky, same, passed, flaky),
        (passed, same, passed, passed),
        (failed, same, failed, failed),
        (failed, other, passed, passed),
        (failed, None, passed, passed),
        (OutcomeWord::Skipped, same, passed, passed),
    ] {
        let mut tests = [known("check.a", "a", now, same)];
        mark_flaky(&mut tests, &[known("check.a", "a", before, signature)]);
        assert_eq!(tests[0].outcome, wanted, "{before:?} {signature:?} {now:?}");
    }
}

/// A job that builds only what changed keeps what is known of all else.
#[test]
fn what_a_job_did_not_look_for_keeps_its_earlier_result() {
    let mut summary = job(&[]);
    summary.change_scope =
        ChangeScope { build: true, checks: vec!["oelint-adv".into()], ..ChangeScope::default() };
    let unit = Unit::new(Stage::Build, "hello (m)");
    summary.apply(&at(8000, unit_finished(&unit, Outcome::Passed, None)));
    let test = summary.plan.iter_mut().find(|planned| planned.stage == Stage::Test).unwrap();
    test.skip = Some(Planned::NOT_NAMED.into());
    let finding = |suite: &str| KnownFinding {
        suite: suite.into(),
        rule: "x".into(),
        file: None,
        message: "bad".into(),
    };
    let (passed, failed) = (OutcomeWord::Passed, OutcomeWord::Failed);
    summary.base = Some(BaseResult {
        tests: vec![
            known("build.hello (m)", "hello (m)", failed, None),
            known("build.other (m)", "other (m)", failed, None),
            known("check.oelint-adv", "oelint-adv", passed, None),
            known("test.img (m)", "img (m)", failed, None),
            known("check.gone", "gone", failed, None),
        ],
        findings: vec![finding("test.img (m)"), finding("check.gone")],
        recent: vec![RecentJob { seconds: 5.0, usd: Some(0.1) }; 30],
        ..BaseResult::default()
    });
    let earlier = StoredResult {
        tests: vec![known("test.img (m)", "img (m)", passed, None)],
        ..StoredResult::default()
    };
    let stored = stored_result(&summary, COMMIT, "d".into(), Some(&earlier));
    let of = |suite: &str| {
        let found = stored.tests.iter().filter(|test| test.id.suite == suite);
        found.map(|test| test.outcome).collect::<Vec<_>>()
    };
    assert_eq!(of("build.hello (m)"), [passed]);
    assert_eq!(of("build.other (m)"), [failed]);
    assert_eq!(of("check.oelint-adv"), [passed]);
    // The same commit is nearer than the base.
    assert_eq!(of("test.img (m)"), [passed]);
    assert_eq!(of("check.gone"), []);
    assert_eq!(stored.recent.len(), RECENT);
    assert_eq!(stored.recent[1].usd, Some(0.1));
    let alone = stored_result(&summary, COMMIT, "d".into(), None);
    assert_eq!(alone.findings, [finding("test.img (m)")]);
}

#[test]
fn a_result_of_any_size_is_stored_and_says_that_it_was_cut() {
    let mut summary = job(&[]);
    summary.units[1].cases = (0..MOST_TESTS + 10)
        .map(|number| crate::report::CaseResult {
            class: "c".into(),
            name: format!("test_{number}"),
            outcome: Outcome::Failed("x".repeat(60_000)),
            message: String::new(),
            seconds: None,
        })
        .collect();
    let stored = stored_result(&summary, COMMIT, "d".into(), None);
    assert!(stored.truncated && stored.tests.len() == MOST_TESTS);
    let bytes = serde_json::to_vec(&stored).unwrap();
    assert!((bytes.len() as u64) < LARGEST, "{}", bytes.len());
    assert_eq!(StoredResult::parse(&bytes, COMMIT).unwrap(), stored);
}
