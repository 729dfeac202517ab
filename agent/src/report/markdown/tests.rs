use super::outside_of_code::outside_of_code;
use super::*;
use crate::report::sample::{at, check_layer, failing_job, passing_job, reduce};
use agent_types::affected::{AffectedRecipe, Change, Root};
use agent_types::base_result::{KnownArtifact, OutcomeWord};
use agent_types::events::{Artifact, EventKind, Finding};
use agent_types::outcome::{ExitStatus, Outcome};

fn passed() -> Summary {
    let mut events = passing_job();
    events.push(at(9000, EventKind::JobFinished { exit: ExitStatus::Passed, outcome: Outcome::Passed }));
    reduce(&events)
}

/// In this order.
#[track_caller]
fn assert_has(text: &str, wanted: &[&str]) {
    let mut from = 0;
    for words in wanted {
        let found =
            text[from..].find(words).unwrap_or_else(|| panic!("no {words:?} after {from} in\n{text}"));
        from += found + words.len();
    }
}

#[test]
fn without_a_base_all_failures_are_told() {
    let text = render(&reduce(&failing_job()), &Options::default());
    assert_has(
        &text,
        &[
            "### build-agent: **ERROR**\n\n",
            "**Error in publish**\n\n```text\ncannot upload `index.json`",
            "**2 failures**\n\n- `check / yocto-check-layer meta-x / common.CommonCheckLayer.test_readme`: `AssertionError: README is empty`",
            "- `build / core-image-minimal / zlib:do_compile`\n\n  ```text\n  zlib.c:3:1: error: expected ';'\n",
        ],
    );
    assert!(!text.contains("Compared with"), "{text}");
}

#[test]
fn what_is_new_comes_before_what_failed_before() {
    let mut summary = reduce(&failing_job());
    let mut base = BaseResult {
        commit: "abcdef0123456789abcdef0123456789abcdef01".into(),
        distance: 2,
        ..BaseResult::default()
    };
    base.tests = known::tests(&summary);
    base.tests.retain(|test| test.id.class != TASK);
    for test in &mut base.tests {
        if test.id.suite == "build.core-image-minimal" {
            test.outcome = OutcomeWord::Passed;
        }
    }
    base.tests.push(KnownTest {
        id: TestId {
            suite: "check.yocto-check-layer meta-x".into(),
            class: "a.B".into(),
            name: "test_gone".into(),
        },
        outcome: OutcomeWord::Passed,
        signature: None,
        reason: None,
    });
    base.artifacts = vec![KnownArtifact { path: "zlib.ipk".into(), bytes: 1024 }];
    summary.base = Some(base);
    summary.affected = Some(Affected {
        tasks: 3,
        recipes: vec![AffectedRecipe {
            name: "zlib".into(),
            file: None,
            layer: "x".into(),
            change: Change::Changed,
            tasks: vec!["do_compile".into()],
            machines: Vec::new(),
        }],
        roots: vec![Root {
            recipe: "zlib".into(),
            task: "do_unpack".into(),
            cause: "the file `fix.patch` changed".into(),
            tasks: 3,
        }],
        ..Affected::default()
    });
    let options = Options { link: Some("https://r.example/x/report.html".into()), ..Options::default() };
    let text = render(&summary, &options);
    assert_has(
        &text,
        &[
            "[The whole report](<https://r.example/x/report.html>)",
            "Compared with `abcdef012345`, 2 commits before this change began: 1 new failure, 1 failing before, 1 vanished test.",
            "**New in this change**\n\n- `build / core-image-minimal / zlib:do_compile`",
            "zlib.c:3:1: error: expected ';'",
            "**New findings** (1, of which 0 of level error)\n\n- `recipes-x/x/files/fix.patch:1: warning: the patch has no Upstream-Status [upstream-status]`",
            "**Vanished tests: they ran before and are missing now** (1)\n\n- `check / yocto-check-layer meta-x / a.B.test_gone`",
            "<details><summary>Failing before this change (1)</summary>\n\n- `check / yocto-check-layer meta-x / common.CommonCheckLayer.test_readme`",
            "**Affected recipes** (1): `zlib`\n\nCause: ``zlib:do_unpack: the file `fix.patch` changed``",
            "Size of published files: +1.0 KiB (1 differ)</summary>\n\n- `zlib.ipk`: 1.0 KiB → 2.0 KiB (+1.0 KiB)",
        ],
    );
}

#[test]
fn a_passing_job_is_told_in_a_few_lines() {
    let mut summary = passed();
    assert!(render(&summary, &Options::default()).lines().count() < 5);
    summary.base =
        Some(BaseResult { commit: "ab".repeat(20), tests: known::tests(&summary), ..BaseResult::default() });
    let text = render(&summary, &Options::default());
    assert_has(&text, &["**PASSED**", "where this change began: 0 new failures."]);
    assert!(text.lines().count() < 8, "{text}");
}

/// Whatever a layer prints, nothing outside of code spans and blocks comes from it.
#[test]
fn text_of_layers_is_only_code() {
    let attacks = [
        "@everyone #1 <img src=x onerror=alert(1)> [x](javascript:alert(1)) ![](https://evil.example/x.png)",
        "`` ` ``` ```` </details> <!-- build-agent:meta-x -->",
        "a\n```\n@user\n\n# heading\n<script>alert(1)</script>",
        "| a | b |\n|---|---|",
        "https://evil.example www.evil.example owner/repo#1 GH-1",
    ];
    for attack in attacks {
        let mut events = failing_job();
        let last = events.len() - 1;
        let finding = Finding {
            unit: check_layer(),
            level: Level::Error,
            rule: attack.into(),
            message: attack.into(),
            file: Some(attack.into()),
            line: Some(1),
            hint: None,
        };
        let artifact = Artifact { path: attack.into(), key: None, bytes: 5, sha256: None, link: None };
        let case = agent_types::events::Case {
            unit: check_layer(),
            class: attack.into(),
            name: attack.into(),
            outcome: Outcome::Failed(attack.into()),
            message: attack.into(),
            seconds: None,
        };
        events.splice(
            last..last,
            [EventKind::Finding(finding), EventKind::Artifact(artifact), EventKind::Case(case)]
                .map(|what| at(153_500, what)),
        );
        let mut summary = reduce(&events);
        summary.job.name = attack.into();
        for with_base in [false, true] {
            summary.base = with_base.then(|| BaseResult {
                commit: attack.into(),
                artifacts: vec![KnownArtifact { path: "x".into(), bytes: 1 }],
                ..BaseResult::default()
            });
            let text = render(&summary, &Options::default());
            let outside = outside_of_code(&text);
            for bad in
                ["@", "#1", "<img", "<script", "javascript", "evil", "<!--", "GH-1", "](", "|", "owner"]
            {
                assert!(!outside.contains(bad), "{bad} is outside of code:\n{outside}\n\nin\n{text}");
            }
        }
    }
}

#[test]
fn a_report_never_exceeds_its_limit_and_ends_between_parts() {
    let mut summary = reduce(&failing_job());
    for number in 0..500 {
        let mut copy = summary.units[2].cases[0].clone();
        (copy.name, copy.message) = (format!("test_{number}"), "x\n".repeat(5000));
        summary.units[2].cases.push(copy);
    }
    for limit in [200, 1000, 4000, 65_000] {
        let text = render(&summary, &Options { link: None, limit });
        assert!(text.len() <= limit, "{} > {limit}", text.len());
        outside_of_code(&text);
    }
    assert_eq!(render(&summary, &Options { link: None, limit: 10 }), "");
}
