use super::*;

/// As in AWS's documentation, with its stray characters.
const SUITE: &str = r#"<testsuites name="GGV2Q results" time="299" tests="4" failures="1" errors="1" disabled="0">
    <testsuite name="coredependencies" package="" tests="2" failures="0" time="266" disabled="0" errors="0" skipped="0">
        <testcase classname="coredependencies" name="javaversion" attempts="1" time="0.5"></testcase>>
        <testcase classname="coredependencies" name="systemlibs" attempts="2"/>
    </testsuite>
    <testsuite name="mqtt" package="" tests="2" failures="1" time="33" disabled="0" errors="1" skipped="0">
        <testcase classname="mqtt" name="pubsub" attempts="1">
            <failure type="Failure">expected &lt;1&gt;
but got 2</failure>
            <error>Reason: x</error>
        </testcase>
        <testcase classname="mqtt" name="retain"><skipped/></testcase>
    </testsuite>
</testsuites>"#;

#[test]
fn the_report_of_a_suite_is_read_leniently() {
    let report = parse_suite(SUITE).unwrap();
    assert_eq!(report.totals, Counts { tests: Some(4), failures: Some(1), errors: Some(1) });
    let names: Vec<(&str, usize)> =
        report.groups.iter().map(|group| (&*group.name, group.cases.len())).collect();
    assert_eq!(names, [("coredependencies", 2), ("mqtt", 2)]);
    let pubsub = &report.groups[1].cases[0];
    assert_eq!(pubsub.failure.as_deref(), Some("Failure: expected <1>\nbut got 2"));
    assert_eq!(pubsub.error.as_deref(), Some("Reason: x"));
    assert!(report.groups[1].cases[1].skipped && report.groups[0].cases[0].passed());
    assert_eq!(report.groups[0].cases[0].seconds, Some(0.5));
}

#[test]
fn what_is_no_report_says_why() {
    let (cut, _) = SUITE.split_once("<failure").unwrap();
    let deep = "<a>".repeat(100);
    for (text, why) in [
        ("", "empty"),
        ("  \n", "empty"),
        ("no XML", "empty"),
        ("<testsuites", "not XML"),
        (cut, "it ends inside of"),
        ("<testsuites><testsuite name='a'></testsuites>", "not XML"),
        ("<testsuites tests='many'/>", "which is not a number"),
        ("<testsuites tests='-1'/>", "which is not a number"),
        (
            "<testsuites><testsuite name='a'><testcase name='x' time='NaN'/></testsuite></testsuites>",
            "seconds",
        ),
        ("<testsuites><testsuite/></testsuites>", "no name"),
        ("<testsuites><testsuite name='a'><testcase/></testsuite></testsuites>", "no name"),
        ("<testsuites><testcase name='a'/></testsuites>", "has no group"),
        ("<testsuites/><testsuites/>", "second top element"),
        ("<testsuites><x><testsuites/></x></testsuites>", "twice"),
        ("<html/>", "top element is `html`"),
        ("<!DOCTYPE x [<!ENTITY a 'b'>]><testsuites/>", "document type"),
        (&deep, "nested too deeply"),
    ] {
        let error = parse_suite(text).unwrap_err();
        assert!(error.contains(why), "{text}: {error}");
    }
}
