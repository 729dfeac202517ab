use agent_types::stage::Stage;

use super::super::reports::parse_qualification;
use super::*;
use crate::junit::parse_suite;

/// A suite's report: groups with their cases, each `name:word` with p(assed), f(ailed), e(rror), b(oth), s(kipped).
fn suite_xml(groups: &[(&str, &[&str])]) -> String {
    let mut text = String::new();
    let (mut tests, mut failures, mut errors) = (0, 0, 0);
    for (group, cases) in groups {
        text += &format!("<testsuite name=\"{group}\" tests=\"{}\">", cases.len());
        for case in *cases {
            let (name, word) = case.split_once(':').unwrap();
            let (failed, error) = (matches!(word, "f" | "b"), matches!(word, "e" | "b"));
            tests += 1;
            failures += usize::from(failed);
            errors += usize::from(error);
            text += &format!("<testcase name=\"{name}\">");
            text += if failed { "<failure type=\"Failure\">it broke</failure>" } else { "" };
            text += if error { "<error>Reason: x</error>" } else { "" };
            text += if word == "s" { "<skipped/>" } else { "" };
            text += "</testcase>>";
        }
        text += "</testsuite>";
    }
    format!("<testsuites tests=\"{tests}\" failures=\"{failures}\" errors=\"{errors}\">{text}</testsuites>")
}

const SUPPORTED: &str = r#"<feature name="core" value="supported" type="required"/>"#;

fn qualification_xml(suite: &str, features: &str, version: &str) -> String {
    format!(
        "<apnreport><testsuiteversion>{version}</testsuiteversion><signature>s</signature><awsproduct>\
         <features>{features}</features></awsproduct><report>{suite}</report></apnreport>"
    )
}

fn console(lines: &[&str]) -> Summary {
    let mut summary = Summary::default();
    lines.iter().for_each(|line| summary.read(line));
    summary
}

fn judged_as(qualification: &str, suite: &str, console: Summary, groups: &[&str]) -> Judgement {
    let groups: Vec<String> = groups.iter().map(|group| (*group).to_owned()).collect();
    let reports = parse_qualification(qualification).and_then(|first| Ok((first, parse_suite(suite)?)));
    let evidence = Evidence { console, reports, bad_end: None };
    let asked = Asked { suite: "GGV2Q_2.5.4", groups: &groups };
    judge(&asked, &evidence, &Unit::new(Stage::Test, "idt:GGV2Q"))
}

const BLOCK: &str = "========== Test Summary ==========";

#[test]
fn a_run_passes_if_all_evidence_says_so() {
    let suite = suite_xml(&[("mqtt", &["pubsub:p", "retain:s"]), ("lambda", &["one:p"])]);
    let all = qualification_xml(&suite, SUPPORTED, "GGV2Q_2.5.4");
    let summary = console(&[BLOCK, "Tests Passed: 2", "Tests Failed: 0", "Test Groups:", "mqtt: PASSED"]);
    for console in [summary, Summary::default()] {
        let judgement = judged_as(&all, &suite, console, &["mqtt", "lambda"]);
        assert_eq!(judgement.outcome, Outcome::Passed);
        assert_eq!(judgement.tests.len(), 4, "the required feature is a case, too");
        assert_eq!(judgement.findings, []);
    }
    // The version alone, and only the report beside it.
    let short = qualification_xml("", SUPPORTED, "2.5.4");
    assert_eq!(judged_as(&short, &suite, Summary::default(), &[]).outcome, Outcome::Passed);
}

#[test]
fn each_false_green_is_red() {
    let good = suite_xml(&[("mqtt", &["pubsub:p"])]);
    let empty = suite_xml(&[]);
    let empty_group = suite_xml(&[("mqtt", &["pubsub:p"]), ("lambda", &[])]);
    let skipped_group = suite_xml(&[("mqtt", &["pubsub:p"]), ("lambda", &["one:s"])]);
    let all_skipped = suite_xml(&[("mqtt", &["pubsub:s"])]);
    let failed = suite_xml(&[("mqtt", &["pubsub:f", "retain:p"])]);
    let error = suite_xml(&[("mqtt", &["pubsub:e"])]);
    let both = suite_xml(&[("mqtt", &["pubsub:b"])]);
    let features = |features: &str| qualification_xml("", features, "GGV2Q_2.5.4");
    let supported = features(SUPPORTED);
    let table: [(&str, String, &str, &[&str], &str); 14] = [
        ("no test", supported.clone(), &empty, &[], "not a single test ran"),
        (
            "no test, and a group was asked for",
            supported.clone(),
            &empty,
            &["mqtt"],
            "no test of the group `mqtt`",
        ),
        ("a group was left out", supported.clone(), &good, &["mqtt", "ml"], "no test of the group `ml`"),
        ("a group is empty", supported.clone(), &empty_group, &["lambda"], "no test of the group `lambda`"),
        (
            "a group was skipped",
            supported.clone(),
            &skipped_group,
            &["lambda"],
            "no test of the group `lambda`",
        ),
        ("all was skipped", supported.clone(), &all_skipped, &[], "every test was skipped"),
        ("a failure", supported.clone(), &failed, &[], "mqtt.pubsub: Failure: it broke"),
        ("an error", supported.clone(), &error, &[], "error in the test: Reason: x"),
        ("a failure and an error", supported.clone(), &both, &[], "mqtt.pubsub: Failure: it broke"),
        (
            "a required feature",
            features(r#"<feature name="core" value="not-supported" type="required"/>"#),
            &good,
            &[],
            "features.core: this required feature is `not-supported`",
        ),
        (
            "a feature without a value",
            features(r#"<feature name="core" type="required"/>"#),
            &good,
            &[],
            "does not say",
        ),
        (
            "a feature without a type",
            features(r#"<feature name="core" value="partial"/>"#),
            &good,
            &[],
            "is `partial`",
        ),
        ("no required feature", features(""), &good, &[], "names no required feature"),
        (
            "another suite",
            qualification_xml("", SUPPORTED, "GGV2Q_2.0.0"),
            &good,
            &[],
            "is about the suite `GGV2Q_2.0.0`",
        ),
    ];
    for (case, qualification, suite, groups, why) in table {
        match judged_as(&qualification, suite, Summary::default(), groups).outcome {
            Outcome::Failed(reason) => assert!(reason.contains(why), "{case}: {reason}"),
            other => panic!("{case}: {other:?}"),
        }
    }
}

#[test]
fn evidence_that_excludes_each_other_is_red() {
    let good = suite_xml(&[("mqtt", &["pubsub:p"])]);
    let failed = suite_xml(&[("mqtt", &["pubsub:f"])]);
    let other = suite_xml(&[("mqtt", &["pubsub:p", "more:p"])]);
    let with = |suite: &str| qualification_xml(suite, SUPPORTED, "GGV2Q_2.5.4");
    let none = || Summary::default();
    let table: [(&str, String, String, Summary, &str); 10] = [
        ("two reports", with(&good), failed.clone(), none(), "two reports"),
        ("the other way round", with(&failed), good.clone(), none(), "two reports"),
        ("different tests", with(&good), other, none(), "two reports"),
        (
            "failed on the console",
            with(""),
            good.clone(),
            console(&[BLOCK, "Tests Failed: 1"]),
            "1 tests failed",
        ),
        (
            "passed on the console",
            with(""),
            failed.clone(),
            console(&[BLOCK, "Tests Failed: 0"]),
            "0 tests failed",
        ),
        ("more passed", with(""), good.clone(), console(&[BLOCK, "Tests Passed: 9"]), "9 tests passed"),
        (
            "a group's word",
            with(""),
            good.clone(),
            console(&[BLOCK, "Test Groups:", "mqtt: FAILED"]),
            "`FAILED` of the group mqtt",
        ),
        (
            "hidden failures",
            with(""),
            good.replace("failures=\"0\"", "failures=\"2\""),
            none(),
            "failures=\"2\"",
        ),
        (
            "a number too small",
            with(""),
            failed.replace("failures=\"1\"", "failures=\"0\""),
            none(),
            "failures=\"0\"",
        ),
        ("missing cases", with(""), good.replace("tests=\"1\"", "tests=\"7\""), none(), "tests=\"7\""),
    ];
    for (case, qualification, suite, console, why) in table {
        match judged_as(&qualification, &suite, console, &[]).outcome {
            Outcome::Failed(reason) => {
                assert!(reason.contains("contradicts itself") && reason.contains(why), "{case}: {reason}");
            }
            other => panic!("{case}: {other:?}"),
        }
    }
}

#[test]
fn a_bad_end_is_never_green() {
    let good = suite_xml(&[("mqtt", &["pubsub:p"])]);
    let reports =
        || Ok((parse_qualification(&qualification_xml("", SUPPORTED, "GGV2Q_2.5.4"))?, parse_suite(&good)?));
    let asked = Asked { suite: "GGV2Q_2.5.4", groups: &[] };
    let unit = Unit::new(Stage::Test, "idt:GGV2Q");
    let silent = Outcome::TimedOut("silent".into());
    let unreadable = || Err("it ends inside of `testsuite`".to_owned());
    for (reports, bad_end, wanted) in [
        (reports(), Some(silent.clone()), silent.clone()),
        (unreadable(), Some(silent.clone()), silent),
        (
            unreadable(),
            None,
            Outcome::Failed("Device Tester left no report: it ends inside of `testsuite`".into()),
        ),
    ] {
        let evidence = Evidence { console: Summary::default(), reports, bad_end };
        assert_eq!(judge(&asked, &evidence, &unit).outcome, wanted);
    }
}

#[test]
fn a_suite_that_aws_does_not_sign_is_named() {
    let suite = suite_xml(&[("a", &["b:p"])]);
    let unit = Unit::new(Stage::Test, "idt");
    for (name, signature, rule) in [
        ("GGQ_1.3.1", "s", Some("Greengrass V1")),
        ("FRQ_1.6.2", "s", Some("October 2022")),
        ("GGV2Q_2.5.4", "", Some("no signature")),
        ("GGV2Q_2.5.4", "s", None),
        ("Mine_1.0.0", "", None),
    ] {
        let xml = qualification_xml("", SUPPORTED, name)
            .replace("<signature>s<", &format!("<signature>{signature}<"));
        let reports = Ok((parse_qualification(&xml).unwrap(), parse_suite(&suite).unwrap()));
        let evidence = Evidence { console: Summary::default(), reports, bad_end: None };
        let judgement = judge(&Asked { suite: name, groups: &[] }, &evidence, &unit);
        assert_eq!(judgement.outcome, Outcome::Passed, "{name}");
        let message = judgement.findings.first().map(|finding| finding.message.as_str());
        assert_eq!(message.is_some(), rule.is_some(), "{name}: {message:?}");
        assert!(rule.is_none_or(|rule| message.unwrap().contains(rule)), "{name}: {message:?}");
    }
}
