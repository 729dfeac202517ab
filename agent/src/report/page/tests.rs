//! Whole pages: what is on them, in which order, and what hostile text cannot do.

use serde_json::{Value, json};

use super::*;
use crate::report::comparison::{Comparison, SizeChange};
use crate::report::sample::{self, at, check_layer, failing_job, image, passing_job, reduce};
use agent_types::affected::{Affected, AffectedRecipe, Change, Root};
use agent_types::base_result::{BaseResult, KnownArtifact, KnownFinding, TASK, TestId};
use agent_types::error::Error;
use agent_types::events::{Event, EventKind, Finding, Level, Task, TaskFinished};
use agent_types::machine_use::{MachineSample, ProgramUse, TaskUsage};
use agent_types::outcome::{ExitStatus, Outcome};

fn failed(why: &str) -> Outcome {
    Outcome::Failed(why.to_owned())
}

/// The events of a job, with others before its end.
fn with(mut events: Vec<Event>, others: Vec<EventKind>) -> Vec<Event> {
    let end = events.pop().unwrap();
    events.extend(others.into_iter().map(|what| at(152_500, what)));
    events.push(end);
    events
}

fn ended(mut events: Vec<Event>, exit: ExitStatus, outcome: Outcome) -> Summary {
    events.retain(|event| !matches!(event.what, EventKind::JobFinished { .. } | EventKind::Error { .. }));
    events.push(at(154_000, EventKind::JobFinished { exit, outcome }));
    reduce(&events)
}

fn task_events(recipe: &str, task: &str, start: u64, end: u64) -> [Event; 2] {
    let task = Task::new(image(), recipe, task);
    [
        at(start, EventKind::TaskStarted(task.clone().into())),
        at(end, EventKind::TaskFinished(TaskFinished { task, outcome: Outcome::Passed, log: None })),
    ]
}

/// A job of a pull request that has something in each part of the page.
pub(in crate::report) fn rich() -> Summary {
    let sample = |percent: f64| MachineSample {
        memory_used: 20 << 30,
        memory_limit: 72 << 30,
        cpu_percent: percent,
        load: 4.0,
        disk_free: 100 << 30,
        network_bytes: 0,
        largest: vec![ProgramUse { name: "cc1plus".into(), processes: 9, memory: 8 << 30 }],
    };
    let usage = TaskUsage {
        recipe: "zlib-1.3.1-r0".into(),
        task: "do_compile".into(),
        cpu_seconds: 61.5,
        peak_memory: 300 << 20,
        bytes_read: 1,
        bytes_written: 2,
    };
    let finding = |level, rule: &str, file: &str, line| {
        EventKind::Finding(Finding {
            unit: sample::preflight(),
            level,
            rule: rule.into(),
            message: format!("{rule} is wrong"),
            file: Some(file.into()),
            line: Some(line),
            hint: None,
        })
    };
    let mut events = with(
        failing_job(),
        vec![
            EventKind::TaskUsage { unit: image(), tasks: vec![usage] },
            EventKind::MachineSample(sample(40.0)),
            EventKind::MachineSample(sample(95.0)),
            finding(Level::Error, "license-missing", "recipes-x/x/x_1.0.bb", 7),
            finding(Level::Warning, "style", "recipes-x/x/x_1.0.bb", 3),
            EventKind::Affected(Box::new(Affected {
                base: "0123456789abcdef0123456789abcdef01234567".into(),
                tasks: 12,
                recipes: vec![AffectedRecipe {
                    name: "zlib".into(),
                    file: Some("recipes-core/zlib/zlib_1.3.1.bb".into()),
                    layer: "x".into(),
                    change: Change::Changed,
                    tasks: vec!["do_compile".into(), "do_fetch".into()],
                    machines: Vec::new(),
                }],
                roots: vec![Root {
                    recipe: "zlib".into(),
                    task: "do_fetch".into(),
                    cause: "the variable `SRCREV` changed".into(),
                    tasks: 12,
                }],
                removed: vec!["old-recipe".into()],
                ..Affected::default()
            })),
            EventKind::BaseResult(Box::new(BaseResult {
                merge_base: "0123456789abcdef0123456789abcdef01234567".into(),
                commit: "89abcdef0123456789abcdef0123456789abcdef".into(),
                distance: 3,
                address: "https://results.example.org/89ab/result.json".into(),
                artifacts: vec![
                    KnownArtifact { path: "zlib.ipk".into(), bytes: 1024 },
                    KnownArtifact { path: "gone.ipk".into(), bytes: 1 },
                ],
                ..BaseResult::default()
            })),
        ],
    );
    events.extend(task_events("zlib-1.3.1-r0", "do_compile", 125_000, 150_000));
    events.extend(task_events("zlib-1.3.1-r0", "do_package_setscene", 124_000, 124_500));
    ended(events, ExitStatus::Failed, failed("check: yocto-check-layer meta-x failed"))
}

fn test_id(suite: &str, class: &str, name: &str) -> TestId {
    TestId { suite: suite.into(), class: class.into(), name: name.into() }
}

fn readme() -> TestId {
    test_id("check.yocto-check-layer meta-x", "common.CommonCheckLayer", "test_readme")
}

fn build() -> TestId {
    test_id("build.core-image-minimal", TASK, "zlib:do_compile")
}

fn compared() -> Comparison {
    Comparison {
        new_failures: vec![build()],
        still_failing: vec![readme()],
        fixed: vec![test_id("check.yocto-check-layer meta-x", "common.CommonCheckLayer", "test_parse")],
        vanished: vec![test_id("test.ptest", "zlib", "minigzip")],
        new_findings: vec![1],
        fixed_findings: vec![KnownFinding {
            suite: String::new(),
            rule: "old".into(),
            file: None,
            message: "it was wrong".into(),
        }],
        sizes: vec![
            SizeChange {
                before: Some(KnownArtifact { path: "zlib.ipk".into(), bytes: 1024 }),
                after: Some(2048),
                path: "zlib.ipk".into(),
            },
            SizeChange {
                before: Some(KnownArtifact { path: "gone.ipk".into(), bytes: 1 }),
                after: None,
                path: "gone.ipk".into(),
            },
        ],
        ..Comparison::default()
    }
}

/// Fails unless the page has these texts in this order.
#[track_caller]
fn assert_order(page: &str, texts: &[&str]) {
    let body = page.split_once("<body>").map_or(page, |(_, body)| body);
    let mut from = 0;
    for text in texts {
        match body[from..].find(text) {
            Some(found) => from += found + text.len(),
            None => panic!(
                "no {text:?} after\n{}",
                &body[body.floor_char_boundary(from.saturating_sub(2000))..from]
            ),
        }
    }
}

#[test]
fn the_verdict_is_first_and_the_parts_follow_in_the_order_of_the_questions() {
    let summary = rich();
    let page = render_job(&Job::new(&summary, None).compared(compared()));
    assert_order(
        &page,
        &[
            "<h1><span class=\"badge bad\">FAILED</span> This change breaks zlib:do_compile; 1 failed before it, too.</h1>",
            "What broke",
            ">zlib:do_compile</a>, ",
            "This change",
            "1 new failure</strong>, <strong class=\"\">1 failing before</strong>, <strong class=\"good\">1 fixed",
            "3 commits before the change began",
            "What to do",
            "log lines of zlib:do_compile",
            "<h2>Failures</h2>",
            "New in this change <span class=\"count\">1</span>",
            "<mark>zlib.c:3:1: error: expected &#39;;&#39;</mark>",
            "href=\"logs/zlib-do_compile.log\"",
            "Failing before this change",
            "README is empty",
            "Vanished",
            "test.ptest: zlib.minigzip",
            "Fixed by this change",
            "<h2>Findings</h2>",
            "recipes-x/x/x_1.0.bb",
            "1 error, 1 warning",
            "1 new</span>",
            "<h2>What changed</h2>",
            "zlib:do_fetch</strong> changed because the variable `SRCREV` changed",
            "old-recipe",
            "<h2>Tests</h2>",
            "<h2>Timeline</h2>",
            "2 tasks in 2m34s",
            "Peak memory 20.0 GiB of 72.0 GiB",
            "<h2>Slowest tasks</h2>",
            "zlib-1.3.1-r0:do_compile",
            "1m01s",
            "300.0 MiB",
            "<h2>Caches and costs</h2>",
            "20 %</strong> local (20)",
            "30 %</strong> from the share (30)",
            "<h2>Artifacts</h2>",
            "+1.0 KiB (+100.0 %)",
            "gone.ipk",
            "<h2>Sources</h2>",
            "build-agent run &#39;it&#39;\\&#39;&#39;s here.toml&#39;",
            "https://git.yoctoproject.org/poky",
            "aaaabbbbccccddddeeeeffff0000111122223333",
        ]
        .map(|text| text.replace("&#39;", "'"))
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>(),
    );
}

#[test]
fn the_verdict_is_one_sentence() {
    let passed = || ended(passing_job(), ExitStatus::Passed, Outcome::Passed);
    let broken = || ended(failing_job(), ExitStatus::Failed, failed("check: one failed"));
    let mut killed = reduce(&passing_job()[..3]);
    killed.interrupted();
    let none = || None;
    let some = |new: &[TestId], before: &[TestId]| {
        Some(Comparison {
            new_failures: new.to_vec(),
            still_failing: before.to_vec(),
            ..Comparison::default()
        })
    };
    let first = "common.CommonCheckLayer.test_readme";
    let table: [(Summary, Option<Comparison>, &str, String); 9] = [
        (passed(), none(), "PASSED", "4 tests passed, 2 skipped.".into()),
        (broken(), none(), "FAILED", format!("{first} and 1 more failed.")),
        (broken(), some(&[readme(), build()], &[]), "FAILED", format!("This change breaks {first} and 1 more.")),
        (
            broken(),
            some(&[readme()], &[build()]),
            "FAILED",
            format!("This change breaks {first}; 1 failed before it, too."),
        ),
        (
            broken(),
            some(&[], &[readme(), build()]),
            "FAILED",
            format!("{first} and 1 more failed before this change, too; nothing new is broken."),
        ),
        (
            Summary { exit: ExitStatus::Passed, outcome: Outcome::Passed, ..broken() },
            some(&[], &[readme(), build()]),
            "PASSED",
            "4 tests passed, 1 skipped; 2 tests failed before this change, too, and nothing new is broken.".into(),
        ),
        (
            reduce(&failing_job()),
            none(),
            "ERROR",
            "No verdict on the layer: upstream (git, mirror, AWS) not reachable: cannot upload `index.json` to s3://bucket/builds".into(),
        ),
        (
            ended(failing_job(), ExitStatus::OutOfTime, Outcome::TimedOut("build: 4h are over".into())),
            none(),
            "TIMED OUT",
            "The time was over: build: 4h are over".into(),
        ),
        (
            killed,
            none(),
            "INTERRUPTED",
            "The job did not end: the agent was killed; the last event is from 2026-01-02T03:04:06.000Z".into(),
        ),
    ];
    for (summary, comparison, word, sentence) in table {
        let mut job = Job::new(&summary, None);
        if let Some(comparison) = comparison {
            job = job.compared(comparison);
        }
        let verdict = Verdict::of(&job);
        assert_eq!((verdict.word, verdict.sentence), (word, sentence));
    }
}

#[test]
fn an_error_of_the_agent_says_what_to_do() {
    let page = render(&reduce(&failing_job()));
    let hint = "Run the job again; what was uploaded is not uploaded twice.";
    assert_order(&page, &["ERROR", "What to do", hint, "<h2>Failures</h2>", "connection reset"]);
    let errors = [
        (Error::machine("x"), "build-agent doctor"),
        (Error::usage("x"), "Fix the manifest"),
        (Error::internal("x"), "report it with events.jsonl"),
        (Error::upstream("x"), "when the server can be reached"),
    ];
    for (error, wanted) in errors {
        let exit = error.class.exit_status();
        let mut summary = reduce(&with(passing_job(), vec![EventKind::Error { stage: None, error }]));
        (summary.exit, summary.complete) = (exit, true);
        assert_order(&render(&summary), &["What to do", wanted]);
    }
}

#[test]
fn a_job_of_which_nothing_is_known_has_a_page() {
    for mut summary in [Summary::default(), reduce(&passing_job()[..1])] {
        for _ in 0..2 {
            let page = render(&summary);
            assert!(page.contains("INTERRUPTED") && page.ends_with("</html>"), "{page}");
            summary.interrupted();
        }
    }
}

/// The tags of a page with the names of their attributes, without texts and values.
fn skeleton(page: &str) -> Vec<String> {
    let mut tags = Vec::new();
    let mut rest = page;
    while let Some((_, after)) = rest.split_once('<') {
        let mut tag = String::new();
        let mut quoted = false;
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next() {
                None => break after.len(),
                Some((at, '>')) if !quoted => break at,
                Some((_, '"')) => quoted = !quoted,
                Some((_, char)) if !quoted => tag.push(char),
                Some(_) => {}
            }
        };
        rest = &after[end..];
        // Code and data have their own tests.
        for name in ["script", "style"] {
            if tag.starts_with(name) {
                let close = format!("</{name}");
                rest = &rest[rest.find(&close).unwrap()..];
            }
        }
        tags.push(tag);
    }
    tags
}

/// Replaces every text that may come from a layer.
fn replace_texts(value: &mut Value, key: &str, text: &str) {
    let words = [
        "outcome",
        "exit",
        "stage",
        "level",
        "tier",
        "state",
        "change",
        "by",
        "time",
        "started",
        "last_event",
        "schema",
        "reachable",
    ];
    match value {
        Value::String(old) if !words.contains(&key) => *old = text.to_owned(),
        Value::Array(values) => values.iter_mut().for_each(|value| replace_texts(value, key, text)),
        Value::Object(values) => values.iter_mut().for_each(|(key, value)| replace_texts(value, key, text)),
        _ => {}
    }
}

/// The page has the same elements and attributes for all texts.
#[test]
fn hostile_text_is_only_text() {
    let attacks = [
        "<script>alert(1)</script>",
        "</script><script>alert(1)</script>",
        "\"><img src=x onerror=alert(1)>",
        "' onmouseover='alert(1)",
        "\" onfocus=\"alert(1)\" autofocus=\"",
        "<!--",
        "--><svg/onload=alert(1)>",
        "]]><b>",
        "</title></style><iframe srcdoc=x>",
        "&lt;img src=x&gt;",
        "javascript:alert(1)",
        "{{constructor.constructor('alert(1)')()}}",
        "\0\u{1b}[31m\u{202e}<b>",
    ];
    let with_text = |text: &str| {
        let mut value = serde_json::to_value(rich()).unwrap();
        replace_texts(&mut value, "", text);
        let summary: Summary = serde_json::from_value(value).unwrap();
        let job = |place| {
            Job::new(&summary, place).compared(Comparison { new_findings: vec![0], ..Comparison::default() })
        };
        let several = render_all(&[(&summary, "a".into()), (&summary, "b".into())]);
        [render_job(&job(None)), several]
    };
    let harmless = with_text("harmless").map(|page| skeleton(&page));
    assert!(harmless[0].len() > 200, "{harmless:?}");
    for attack in attacks {
        for (page, harmless) in with_text(attack).iter().zip(&harmless) {
            assert_eq!(skeleton(page), *harmless, "{attack}");
            assert!(
                !page.contains('\0') && !page.contains('\u{1b}') && !page.contains('\u{202e}'),
                "{attack}"
            );
        }
    }
}

#[test]
fn links_never_leave_the_directory_or_run_a_script() {
    let unit = check_layer();
    let mut events = failing_job();
    events.retain(
        |event| !matches!(&event.what, EventKind::UnitFinished { unit: found, .. } if *found == unit),
    );
    for log in ["javascript:alert(1)", "/etc/passwd", "../../x"] {
        let mut events = events.clone();
        events.push(at(122_320, sample::unit_finished(&unit, failed("x"), Some(log))));
        let page = render(&reduce(&events));
        let addresses: Vec<&str> =
            page.split("href=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        for address in &addresses {
            let good = address.starts_with("https://") || address.starts_with('#');
            assert!(
                good || !address.contains([':']) && !address.contains("..") && !address.starts_with('/'),
                "{address}"
            );
        }
        assert!(page.contains(log), "the path is shown: {log}");
    }
}

/// 100,000 findings, 10 MB of text in one message, 100,000 tests, failures and artifacts.
#[test]
fn a_flood_has_bounds() {
    let mut summary = rich();
    let text = "<&\"'x".repeat(2 << 20);
    let finding = summary.findings[0].clone();
    summary.findings = (0..100_000)
        .map(|n| Finding {
            file: Some(format!("f{}", n % 999).into()),
            message: n.to_string(),
            ..finding.clone()
        })
        .collect();
    summary.findings[0].message.clone_from(&text);
    summary.errors = vec![summary.errors.first().cloned().unwrap_or(crate::report::summary::StageError {
        stage: None,
        error: Error::internal(text.clone()).hint(text.clone()),
    })];
    let unit = summary.units.iter_mut().find(|unit| !unit.cases.is_empty()).unwrap();
    let case = unit.cases[0].clone();
    unit.cases = (0..100_000)
        .map(|n| crate::report::CaseResult { name: format!("test{n}"), ..case.clone() })
        .collect();
    unit.cases[0].message = text.clone();
    unit.cases[1].name = text.clone();
    let artifact = summary.artifacts[0].clone();
    summary.artifacts = vec![artifact; 100_000];
    let base = summary.base.as_mut().unwrap();
    base.address = text.clone();
    summary.job.reproduce = vec![text.clone()];
    let failed = summary.failed_tasks[0].clone();
    summary.failed_tasks = vec![failed; 1000];
    summary.failed_tasks[0].excerpt = vec![text; 50];
    let page = render(&summary);
    assert!(page.len() < 6_000_000, "{}", page.len());
    assert!(page.contains("in result.json"));
}

/// The values of a data block.
fn data(page: &str, class: &str) -> Value {
    let start = format!("<script class=\"{class}\" type=\"application/json\">");
    let (_, rest) = page.split_once(&start).unwrap();
    serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
}

#[test]
fn the_timeline_has_every_task_with_its_times() {
    let page = render(&rich());
    let data = data(&page, "timeline-data");
    assert_eq!(data["recipes"], json!(["zlib-1.3.1-r0"]));
    assert_eq!(data["tasks"], json!(["do_package_setscene", "do_compile"]));
    assert_eq!((&data["r"], &data["t"]), (&json!([0, 0]), &json!([0, 1])));
    assert_eq!((&data["s"], &data["d"]), (&json!([12_400, 100]), &json!([50, 2500])));
    assert_eq!((&data["c"], &data["m"]), (&json!([0, 615]), &json!([0, 300])));
    assert_eq!(data["u"].as_array().map(Vec::len), Some(1), "both are of one build");
    assert_eq!((&data["o"], &data["critical"]), (&json!([]), &json!([])));
    assert_eq!(data["machine"]["cpu"], json!([40, 95]));
    assert_eq!(data["machine"]["limit"], json!(72 << 10));
    assert_eq!(data["stages"][0], json!(["checkout", 0, 1200]));
}

#[test]
fn the_table_of_tests_begins_with_what_needs_eyes() {
    let summary = rich();
    let page = render_job(&Job::new(&summary, None).compared(compared()));
    let data = data(&page, "tests-data");
    let rows = data["rows"].as_array().unwrap();
    let change =
        |row: &Value| data["changes"][row[3].as_u64().unwrap() as usize].as_str().unwrap().to_owned();
    let first: Vec<(String, String)> =
        rows.iter().take(3).map(|row| (row[0].as_str().unwrap().to_owned(), change(row))).collect();
    let wanted = [
        ("core-image-minimal", "new"),
        ("common.CommonCheckLayer.test_readme", "before"),
        ("common.CommonCheckLayer.test_parse", "fixed"),
    ];
    assert_eq!(first.len(), 3);
    let publish = rows.iter().position(|row| row[0] == "stages.publish");
    for (name, word) in wanted {
        assert!(
            rows.iter().take(4).any(|row| row[0] == name && change(row) == word),
            "{name} {word} in {first:?}, publish at {publish:?}"
        );
    }
    assert_order(&page, &["option value=\"all\"", "value=\"bad\"", "new failures (1)", "fixed (1)"]);
}

#[test]
fn several_jobs_have_a_table_on_top() {
    let release = |mut summary: Summary, release: &str, machine: &str| {
        summary.job.release = release.into();
        summary.job.machines = vec![machine.into()];
        summary
    };
    let passed = || ended(passing_job(), ExitStatus::Passed, Outcome::Passed);
    let jobs = [
        release(passed(), "scarthgap", "qemux86-64"),
        release(rich(), "scarthgap", "qemuarm64"),
        release(passed(), "walnascar", "qemux86-64"),
    ];
    let places: Vec<(&Summary, PathBuf)> = jobs.iter().map(|job| (job, "../x y".into())).collect();
    let page = render_all(&places);
    assert_order(
        &page,
        &[
            "3 configurations",
            "<h1><span class=\"badge bad\">FAILED</span> 1 of 3 did not pass.</h1>",
            "<th scope=\"col\">scarthgap</th><th scope=\"col\">walnascar</th>",
            "<th scope=\"row\">qemux86-64</th>",
            "href=\"#job1-top\"",
            "passed",
            "href=\"#job3-top\"",
            "<th scope=\"row\">qemuarm64</th>",
            "href=\"#job2-top\"",
            "failed",
            "id=\"job2-top\"",
            "id=\"job2-failures\"",
            "id=\"job1-top\"",
            "<h2><span class=\"badge good\">PASSED",
            "id=\"job3-top\"",
        ],
    );
    let ids: Vec<&str> = page.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    let different: std::collections::BTreeSet<&str> = ids.iter().copied().collect();
    assert_eq!(ids.len(), different.len(), "{ids:?}");
    assert!(page.contains("href=\"../x%20y/logs/zlib-do_compile.log\""), "{page}");
    let table = [("/a/b", "/a/c/d", "../c/d"), ("/a", "/a/b", "b"), ("/a/b", "/a", ".."), ("/a", "/a", "")];
    for (from, to, wanted) in table {
        assert_eq!(way(Path::new(from), Path::new(to)), Path::new(wanted), "{from} {to}");
    }
}

/// 10,000 executed and 30,000 covered tasks. The benchmark measures more.
#[test]
fn a_large_world_fits_into_one_and_a_half_megabytes() {
    let mut events = passing_job();
    events.truncate(events.len() - 2);
    let mut usage = Vec::new();
    for number in 0..40_000_u64 {
        let recipe = format!("component-with-a-long-name{}-1.{}.3-r0", number / 10, number / 10 % 9);
        let task = if number < 30_000 {
            format!("do_task{}_setscene", number % 10)
        } else {
            format!("do_task{}", number % 10)
        };
        let start = 5000 + number * 97;
        events.extend(task_events(&recipe, &task, start, start + 1000 + number * 7919 % 300_000));
        usage.push(TaskUsage {
            recipe,
            task,
            cpu_seconds: (number * 31 % 3000) as f64 / 7.0,
            peak_memory: number * 7_919_777 % (4 << 30),
            bytes_read: 0,
            bytes_written: 0,
        });
    }
    events.push(at(5_000_000, EventKind::TaskUsage { unit: image(), tasks: usage }));
    let page = render(&ended(events, ExitStatus::Passed, Outcome::Passed));
    println!("{} bytes", page.len());
    assert!(page.len() <= 1_500_000, "{}", page.len());
}
