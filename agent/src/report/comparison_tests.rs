use super::*;
use crate::report::sample::{
    self, at, case, check_layer, failing_job, finished, image, job_started, passing_job, preflight, reduce,
    started, unit_finished, unit_started,
};
use agent_types::affected::Affected;
use agent_types::base_result::FailOn;
use agent_types::events::{Artifact, Event, EventKind, Finding, Planned, TaskFailed, Unit};
use agent_types::outcome::{ExitStatus, Outcome};

use crate::report::verdict;

fn failed(why: &str) -> Outcome {
    Outcome::Failed(why.into())
}

/// A job whose layer check has these cases. The step itself is passed if all are.
fn check(cases: &[(&str, Outcome)]) -> Vec<Event> {
    let unit = check_layer();
    let good = cases.iter().all(|(_, outcome)| outcome.is_success());
    let end = || if good { Outcome::Passed } else { failed("it failed") };
    let mut events = vec![
        at(0, job_started(&[Stage::Build, Stage::Test, Stage::Publish])),
        at(0, started(Stage::Checkout)),
        at(0, finished(Stage::Checkout, Outcome::Passed)),
        at(0, finished(Stage::Configure, Outcome::Passed)),
        at(0, started(Stage::Check)),
        at(0, unit_started(&unit)),
    ];
    events.extend(cases.iter().map(|(name, outcome)| at(1, case(&unit, name, outcome.clone(), ""))));
    events.extend([at(2, unit_finished(&unit, end(), None)), at(2, finished(Stage::Check, end()))]);
    events
}

/// The result of a job as another one is compared with it.
pub fn as_base(summary: &Summary) -> BaseResult {
    BaseResult {
        merge_base: "b".repeat(40),
        commit: "b".repeat(40),
        tests: known::tests(summary),
        findings: summary.findings.iter().map(known::finding).collect(),
        artifacts: known::artifacts(summary),
        ..BaseResult::default()
    }
}

fn compared(before: &[Event], now: &[Event]) -> Comparison {
    let mut summary = reduce(now);
    summary.base = Some(as_base(&reduce(before)));
    Comparison::of(&summary).unwrap()
}

fn names(ids: &[TestId]) -> Vec<&str> {
    ids.iter().map(|id| id.name.as_str()).collect()
}

#[test]
fn without_a_base_there_is_no_comparison() {
    assert_eq!(Comparison::of(&reduce(&failing_job())), None);
}

#[test]
fn a_job_equals_itself() {
    for events in [failing_job(), passing_job(), sample::with_share()] {
        let compared = compared(&events, &events);
        let still = compared.still_failing.clone();
        assert_eq!(compared, Comparison { still_failing: still, ..Comparison::default() });
    }
}

#[test]
fn each_test_is_in_the_list_of_its_change() {
    let bad = || failed("bad");
    let skipped = || Outcome::Skipped("no".into());
    let passed = || Outcome::Passed;
    let flaky = || Outcome::Flaky("once".into());
    let stopped = || Outcome::Cancelled("SIGTERM".into());
    // Before, now, and the list.
    type Row = (Option<Outcome>, Option<Outcome>, &'static str);
    let table: [Row; 20] = [
        (None, None, ""),
        (None, Some(passed()), ""),
        (None, Some(bad()), "new"),
        (None, Some(skipped()), ""),
        (Some(passed()), Some(passed()), ""),
        (Some(passed()), Some(bad()), "new"),
        (Some(passed()), Some(skipped()), "skipped"),
        (Some(passed()), None, "vanished"),
        (Some(passed()), Some(stopped()), "not run"),
        (Some(bad()), Some(bad()), "still"),
        (Some(bad()), Some(failed("for another reason")), "still"),
        (Some(bad()), Some(passed()), "fixed"),
        (Some(bad()), Some(flaky()), "fixed"),
        (Some(bad()), Some(skipped()), "skipped"),
        (Some(bad()), None, "vanished"),
        (Some(skipped()), Some(bad()), "new"),
        (Some(skipped()), None, ""),
        (Some(stopped()), Some(bad()), "new"),
        (Some(flaky()), Some(bad()), "new"),
        (Some(flaky()), Some(passed()), ""),
    ];
    for (before, now, wanted) in table {
        let cases = |outcome: &Option<Outcome>| {
            let other = ("test_other", Outcome::Passed);
            let one = outcome.clone().map(|outcome| ("test_it", outcome));
            check(&one.into_iter().chain([other]).collect::<Vec<_>>())
        };
        let compared = compared(&cases(&before), &cases(&now));
        let lists = [
            ("new", &compared.new_failures),
            ("still", &compared.still_failing),
            ("fixed", &compared.fixed),
            ("vanished", &compared.vanished),
            ("skipped", &compared.newly_skipped),
            ("not run", &compared.not_run),
            ("flaky", &compared.flaky),
        ];
        for (name, list) in lists {
            let found = list.iter().any(|id| id.name == "test_it");
            assert_eq!(found, name == wanted, "{before:?} → {now:?}: {name} {list:?}");
        }
    }
}

/// A build of an image that fails because of these tasks.
fn build(tasks: &[(&str, &str)]) -> Vec<Event> {
    let end = || if tasks.is_empty() { Outcome::Passed } else { failed("a task failed") };
    let mut events =
        vec![at(0, job_started(&[Stage::Check, Stage::Test, Stage::Publish])), at(0, started(Stage::Build))];
    events.push(at(0, unit_started(&image())));
    events.extend(tasks.iter().map(|(recipe, task)| {
        let failed = TaskFailed {
            unit: image(),
            recipe: (*recipe).into(),
            task: (*task).into(),
            log: None,
            excerpt: Vec::new(),
        };
        at(1, EventKind::TaskFailed(failed))
    }));
    events.extend([at(2, unit_finished(&image(), end(), None)), at(2, finished(Stage::Build, end()))]);
    events
}

/// An image that failed before because of one recipe must not hide that it fails because of another.
#[test]
fn a_build_is_compared_by_its_failed_tasks() {
    let zlib = ("zlib-1.3.1-r0", "do_compile");
    let newer = ("zlib-1.3.2-r1", "do_compile");
    let hello = ("hello-1.0-r0", "do_compile");
    // Before, now; new, still failing, fixed.
    type Row<'a> = (&'a [(&'a str, &'a str)], &'a [(&'a str, &'a str)], [&'a [&'a str]; 3]);
    let table: [Row; 5] = [
        (&[zlib], &[newer], [&[], &["zlib:do_compile"], &[]]),
        (&[zlib], &[zlib, hello], [&["hello:do_compile"], &["zlib:do_compile"], &[]]),
        // The old failure may come after the new one.
        (&[zlib], &[hello], [&["hello:do_compile"], &[], &[]]),
        (&[zlib], &[], [&[], &[], &["zlib:do_compile"]]),
        (&[], &[hello], [&["hello:do_compile"], &[], &[]]),
    ];
    for (before, now, [new, still, fixed]) in table {
        let compared = compared(&build(before), &build(now));
        assert_eq!(names(&compared.new_failures), new, "{before:?} → {now:?}");
        assert_eq!(names(&compared.still_failing), still, "{before:?} → {now:?}");
        assert_eq!(names(&compared.fixed), fixed, "{before:?} → {now:?}");
        assert_eq!(compared.vanished, [], "{before:?} → {now:?}");
    }
}

/// A step without tests stands for anything that goes wrong in it.
#[test]
fn another_reason_of_a_step_is_a_new_failure() {
    let unit = Unit::new(Stage::Check, "parse for qemuarm");
    let job = |why: &str| {
        let mut events = check(&[("test_other", Outcome::Passed)]);
        let at_end = events.len() - 1;
        events.insert(at_end, at(1, unit_finished(&unit, failed(why), None)));
        events
    };
    for (before, now, is_new) in [
        ("a_1.bb:3: bad", "a_1.bb:3: bad", false),
        ("a_1.bb:3: bad", "a_2.bb:17: bad", false),
        ("a_1.bb:3: bad", "b_1.bb:3: bad", true),
        ("2 of 5 tests failed", "12 of 50 tests failed", false),
    ] {
        let compared = compared(&job(before), &job(now));
        assert_eq!(!compared.new_failures.is_empty(), is_new, "{before} → {now}: {compared:?}");
        assert_eq!(compared.still_failing.is_empty(), is_new, "{before} → {now}: {compared:?}");
    }
}

fn finding(rule: &str, message: &str, line: u32) -> Event {
    at(
        1,
        EventKind::Finding(Finding {
            unit: preflight(),
            level: Level::Warning,
            rule: rule.into(),
            message: message.into(),
            file: Some("a.bb".into()),
            line: Some(line),
            hint: None,
        }),
    )
}

fn with_findings(findings: &[Event]) -> Vec<Event> {
    let mut events = check(&[("test_a", Outcome::Passed)]);
    let place = events.len() - 1;
    let unit = preflight();
    events.insert(place, at(1, unit_finished(&unit, Outcome::Passed, None)));
    events.splice(place..place, findings.iter().cloned());
    events
}

#[test]
fn findings_are_compared_without_their_lines_and_by_their_number() {
    let a = |line| finding("x", "bad", line);
    let b = |line| finding("y", "worse", line);
    // Places of new findings, and the number of fixed ones.
    type Row<'a> = (&'a [Event], &'a [Event], &'a [usize], usize);
    let table: [Row; 6] = [
        (&[], &[a(1)], &[0], 0),
        (&[a(1)], &[a(17)], &[], 0),
        (&[a(1)], &[a(1), a(5)], &[1], 0),
        (&[a(1), a(5)], &[a(2)], &[], 1),
        (&[a(1)], &[b(1)], &[0], 1),
        (&[a(1), b(2)], &[b(1), a(1)], &[], 0),
    ];
    for (before, now, new, fixed) in table {
        let compared = compared(&with_findings(before), &with_findings(now));
        assert_eq!(compared.new_findings, new, "{before:?} → {now:?}");
        assert_eq!(compared.fixed_findings.len(), fixed, "{before:?} → {now:?}");
    }
    // A step that did not run fixed nothing.
    let compared = compared(&with_findings(&[a(1)]), &check(&[("test_a", Outcome::Passed)]));
    assert_eq!(compared.fixed_findings, []);
}

#[test]
fn cves_are_compared_by_their_number_whatever_else_changes() {
    let unit = Unit::new(Stage::Check, "cve");
    let job = |findings: &[(&str, &str)], message: &str| {
        let mut events = check(&[("test_a", Outcome::Passed)]);
        let place = events.len() - 1;
        let found = findings.iter().map(|(rule, message)| {
            let finding = Finding::warning(&unit, rule, (*message).into(), "upgrade");
            at(1, EventKind::Finding(finding))
        });
        let case = agent_types::events::Case {
            unit: unit.clone(),
            class: "cve".into(),
            name: "zlib".into(),
            outcome: Outcome::Passed,
            message: message.into(),
            seconds: None,
        };
        let rest = [at(1, EventKind::Case(case)), at(1, unit_finished(&unit, Outcome::Passed, None))];
        let found: Vec<Event> = found.chain(rest).collect();
        events.splice(place..place, found);
        events
    };
    let before = job(
        &[("cve-new", "zlib 1.3 has CVE-2024-1 (CVSS 5.0): bad"), ("cve-known", "zlib 1.3 has CVE-2024-2")],
        "",
    );
    let now = job(
        &[
            ("cve-known", "zlib 1.3.1 has CVE-2024-1 (CVSS 9.8): very bad"),
            ("cve-new", "zlib 1.3.1 has CVE-2024-3"),
        ],
        "new: CVE-2024-3; unpatched as before: CVE-2024-1; fixed: CVE-2024-2, CVE-2024-4",
    );
    let compared = compared(&before, &now);
    assert_eq!(compared.new_cves, ["zlib CVE-2024-3"]);
    assert_eq!(compared.fixed_cves, ["zlib CVE-2024-2", "zlib CVE-2024-4"]);
    assert_eq!(compared.new_findings, [1]);
}

#[test]
fn sizes_are_compared_without_the_time_of_the_build() {
    let job = |files: &[(&str, u64)]| {
        let mut events = check(&[("test_a", Outcome::Passed)]);
        events.extend(files.iter().map(|(path, bytes)| {
            let artifact = Artifact { path: path.into(), key: None, bytes: *bytes, sha256: None, link: None };
            at(3, EventKind::Artifact(artifact))
        }));
        events
    };
    let compared = compared(
        &job(&[("img-20260101120000.wic", 10), ("same.ipk", 5), ("gone.ipk", 7)]),
        &job(&[("img-20260202130000.wic", 12), ("same.ipk", 5), ("new.ipk", 3)]),
    );
    let found: Vec<_> = compared
        .sizes
        .iter()
        .map(|change| {
            (change.path.to_str().unwrap(), change.before.as_ref().map(|old| old.bytes), change.after)
        })
        .collect();
    let wanted = [
        ("img-20260202130000.wic", Some(10), Some(12)),
        ("new.ipk", None, Some(3)),
        ("gone.ipk", Some(7), None),
    ];
    assert_eq!(found, wanted);
    // A job that publishes nothing has no sizes.
    let nothing = super::tests::compared(&job(&[("a", 1)]), &job(&[]));
    assert_eq!(nothing.sizes, []);
}

/// What a job did not look for has not vanished.
#[test]
fn only_what_the_job_looked_for_can_vanish() {
    let test = |suite: &str, class: &str| KnownTest {
        id: TestId { suite: suite.into(), class: class.into(), name: "x".into() },
        outcome: OutcomeWord::Passed,
        signature: None,
        reason: None,
    };
    let other = TestId { suite: "test.ptests (m)".into(), class: "ptest.zlib".into(), name: "y".into() };
    let scope = |checks: &[&str], build, ptests| ChangeScope {
        checks: checks.iter().map(|&name| name.to_owned()).collect(),
        build,
        ptests,
    };
    let flag = |stage| Some(Planned::skipped_by_flag(stage));
    let manifest = |_| Some("[build] names no targets".to_owned());
    type Skip = fn(Stage) -> Option<String>;
    let none: Skip = |_| None;
    let table: [(KnownTest, ChangeScope, Skip, bool); 12] = [
        (test("build.img (m)", ""), scope(&[], false, false), none, true),
        (test("build.img (m)", ""), scope(&[], false, false), flag, false),
        (test("build.img (m)", ""), scope(&[], false, false), manifest, true),
        (test("build.hello (m)", ""), scope(&[], true, false), none, false),
        (test("check.oelint-adv", ""), scope(&["oelint-adv"], false, false), none, false),
        (test("check.oelint-adv", ""), scope(&["cve"], false, false), none, true),
        (test("test.ptests (m)", "ptest.curl"), scope(&[], false, true), none, false),
        // The recipe's tests ran, and this one is missing.
        (test("test.ptests (m)", "ptest.zlib"), scope(&[], false, true), none, true),
        (test("test.img (m)", "ssh.SSHTest"), scope(&[], true, true), none, true),
        (test("build-agent", "stages"), scope(&[], false, false), none, false),
        (test("build-agent", "errors"), scope(&[], false, false), none, false),
        (test("check.yocto-check-layer meta-y", "a"), scope(&[], true, true), none, true),
    ];
    for (old, change_scope, skip, vanished) in table {
        let mut summary = reduce(&check(&[("test_a", Outcome::Passed)]));
        for stage in [Stage::Build, Stage::Check, Stage::Test] {
            let planned = summary.plan.iter_mut().find(|planned| planned.stage == stage).unwrap();
            planned.skip = skip(stage).filter(|_| stage == Stage::Build);
        }
        let unit = Unit::new(Stage::Test, "ptests (m)");
        let one = agent_types::events::Case {
            unit: unit.clone(),
            class: other.class.clone(),
            name: other.name.clone(),
            outcome: Outcome::Passed,
            message: String::new(),
            seconds: None,
        };
        summary.apply(&at(5, EventKind::Case(one)));
        summary.apply(&at(5, unit_finished(&unit, Outcome::Passed, None)));
        summary.change_scope = change_scope;
        let base = BaseResult { tests: vec![old.clone()], ..BaseResult::default() };
        summary.base = Some(base);
        let found = Comparison::of(&summary).unwrap().vanished;
        assert_eq!(!found.is_empty(), vanished, "{old:?} {:?}", summary.change_scope);
    }
}

/// A job of these files of the layer, with a case that passed or failed.
fn of_tree(tree: &str, outcome: Outcome) -> Summary {
    let mut summary = reduce(&check(&[("test_it", outcome)]));
    summary.job.tree = Some(tree.into());
    summary.repos = vec![agent_types::events::RepoReady {
        name: "poky".into(),
        url: None,
        commit: Some("c".repeat(40)),
        wanted: None,
        path: "/w".into(),
        how: "cloned".into(),
        patches: Vec::new(),
        patches_sha256: None,
    }];
    summary
}

#[test]
fn equal_signatures_with_other_outcomes_prove_that_a_test_is_flaky() {
    let compare = |before: &Summary, mut now: Summary| {
        now.base = Some(as_base(before));
        Comparison::of(&now).unwrap()
    };
    let bad = || failed("bad");
    for (before, now) in [(Outcome::Passed, bad()), (bad(), Outcome::Passed)] {
        let found = compare(&of_tree("t", before.clone()), of_tree("t", now.clone()));
        assert_eq!(names(&found.flaky), ["test_it"], "{before:?} {now:?}");
        assert!(found.new_failures.is_empty() && found.fixed.is_empty(), "{found:?}");
        let other = compare(&of_tree("t", before), of_tree("u", now));
        assert_eq!(other.flaky, []);
    }
    // What is not known to be the same proves nothing.
    let changes: [fn(&mut Summary); 5] = [
        |summary| summary.job.dirty = true,
        |summary| summary.job.tree = None,
        |summary| summary.repos[0].how = "local".into(),
        |summary| summary.repos[0].commit = None,
        |summary| summary.job.machines.push("qemuarm".into()),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut now = of_tree("t", bad());
        change(&mut now);
        assert_eq!(compare(&of_tree("t", Outcome::Passed), now).flaky, [], "{number}");
    }
}

/// BitBake's signatures show that the change does not reach any task.
#[test]
fn a_change_that_affects_no_task_cannot_break_a_build() {
    let mut now = reduce(&build(&[("zlib-1.3-r0", "do_compile")]));
    let mut base = as_base(&reduce(&build(&[])));
    base.tests.push(KnownTest {
        id: TestId {
            suite: "build.core-image-minimal".into(),
            class: TASK.into(),
            name: "zlib:do_compile".into(),
        },
        outcome: OutcomeWord::Passed,
        signature: None,
        reason: None,
    });
    now.affected = Some(Affected { base: base.commit.clone(), ..Affected::default() });
    now.base = Some(base);
    assert_eq!(names(&Comparison::of(&now).unwrap().flaky), ["zlib:do_compile"]);
    now.affected = Some(Affected { base: "another".into(), ..Affected::default() });
    assert_eq!(names(&Comparison::of(&now).unwrap().new_failures), ["zlib:do_compile"]);
}

#[test]
fn with_fail_on_new_only_new_failures_fail_a_job() {
    let bad = || failed("bad");
    let passed = || Outcome::Passed;
    let verdict_of = |before: &[(&str, Outcome)], now: &[(&str, Outcome)], fail_on| {
        let mut summary = reduce(&check(now));
        summary.base = Some(as_base(&reduce(&check(before))));
        summary.fail_on = fail_on;
        verdict::outcome(&summary)
    };
    // Tests before and now, and the exit status with "new".
    type Row<'a> = (&'a [(&'a str, Outcome)], &'a [(&'a str, Outcome)], ExitStatus);
    let table: [Row; 7] = [
        (&[("a", bad())], &[("a", bad())], ExitStatus::Passed),
        (&[("a", bad()), ("b", passed())], &[("a", bad()), ("b", passed())], ExitStatus::Passed),
        (&[("a", passed())], &[("a", bad())], ExitStatus::Failed),
        (&[("a", bad())], &[("a", bad()), ("b", bad())], ExitStatus::Failed),
        // Whatever vanished may be what failed.
        (&[("a", bad()), ("b", passed())], &[("a", bad())], ExitStatus::Failed),
        (&[("a", bad()), ("b", bad())], &[("a", bad())], ExitStatus::Failed),
        (&[("a", bad())], &[("a", passed())], ExitStatus::Passed),
    ];
    for (before, now, wanted) in table {
        let (outcome, exit) = verdict_of(before, now, FailOn::New);
        assert_eq!(exit, wanted, "{before:?} → {now:?}");
        assert_eq!(outcome == Outcome::Passed, wanted == ExitStatus::Passed);
        let fails = now.iter().any(|(_, outcome)| !outcome.is_success());
        let all = if fails { ExitStatus::Failed } else { ExitStatus::Passed };
        assert_eq!(verdict_of(before, now, FailOn::All).1, all, "{before:?} → {now:?}");
    }
    // Without a base every failure counts.
    let mut summary = reduce(&check(&[("a", bad())]));
    summary.fail_on = FailOn::New;
    assert_eq!(verdict::outcome(&summary).1, ExitStatus::Failed);
}

/// The same test may list another patch.
#[test]
fn a_new_error_counts_although_its_test_failed_before() {
    let job = |files: &[&str]| {
        let mut events = check(&[("test_patches", failed("patches without a status"))]);
        let place = events.len() - 2;
        let found = files.iter().map(|file| {
            let mut finding =
                Finding::warning(&check_layer(), "patch-status", "no Upstream-Status".into(), "add it");
            finding.level = Level::Error;
            finding.file = Some(file.into());
            at(1, EventKind::Finding(finding))
        });
        let found: Vec<Event> = found.collect();
        events.splice(place..place, found);
        events
    };
    for (before, now, truncated, wanted) in [
        (&["a.patch"][..], &["a.patch"][..], false, ExitStatus::Passed),
        (&["a.patch"], &["a.patch", "b.patch"], false, ExitStatus::Failed),
        (&["a.patch", "b.patch"], &["b.patch"], false, ExitStatus::Passed),
        // What the base has is not known.
        (&["a.patch"], &["a.patch"], true, ExitStatus::Failed),
    ] {
        let mut summary = reduce(&job(now));
        let base = BaseResult { truncated, ..as_base(&reduce(&job(before))) };
        (summary.base, summary.fail_on) = (Some(base), FailOn::New);
        assert_eq!(verdict::outcome(&summary).1, wanted, "{before:?} → {now:?}");
    }
}

/// What is not a failure of the layer is never forgiven.
#[test]
fn errors_and_stops_count_with_fail_on_new() {
    let mut summary = reduce(&failing_job());
    summary.base = Some(as_base(&summary));
    summary.fail_on = FailOn::New;
    assert_eq!(verdict::outcome(&summary).1, ExitStatus::Upstream);
    summary.errors.clear();
    let publish = summary.stages.iter_mut().find(|stage| stage.stage == Stage::Publish).unwrap();
    publish.outcome = Some(Outcome::Cancelled("SIGTERM".into()));
    assert_eq!(verdict::outcome(&summary).1, ExitStatus::Cancelled);
}

/// 100,000 findings take no quadratic time.
#[test]
fn many_findings_are_compared_in_time() {
    let mut summary = reduce(&check(&[("test_a", Outcome::Passed)]));
    summary.findings = (0..100_000)
        .map(|number| Finding::warning(&preflight(), "x", format!("message {number}"), "hint"))
        .collect();
    let mut base = as_base(&summary);
    base.findings.truncate(50_000);
    summary.base = Some(base);
    assert_eq!(Comparison::of(&summary).unwrap().new_findings.len(), 50_000);
}

#[test]
fn names_are_the_same_in_all_jobs() {
    for (recipe, wanted) in [
        ("zlib-1.3.1-r0", "zlib"),
        ("linux-yocto-6.6.21+git0+abc-r0", "linux-yocto"),
        ("hello-r", "hello-r"),
        ("zlib", "zlib"),
        ("meta-x_1.0", "meta-x_1.0"),
    ] {
        assert_eq!(known::recipe_name(recipe), wanted);
    }
    for (path, wanted) in [
        ("img-qemux86-64.rootfs-20260101120000.wic.gz", "img-qemux86-64.rootfs-*.wic.gz"),
        ("a/20260101120000/b", "a/*/b"),
        ("x-120260101120000.bin", "x-120260101120000.bin"),
        ("zlib_1.3.1-r0.ipk", "zlib_1.3.1-r0.ipk"),
    ] {
        assert_eq!(known::artifact_key(path.as_ref()), std::path::Path::new(wanted));
    }
}
