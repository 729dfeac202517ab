use agent_types::error::Class;

use super::*;
use crate::junit::parse_suite;

fn job(health: &str) -> Job {
    Job {
        id: 7,
        state: "Finished".into(),
        health: health.into(),
        description: None,
        failure_comment: Some("no power\nmore".into()),
        actual_device: None,
    }
}

/// Results: `suite:case:word` with p(assed), f(ailed), u(nknown), s(kipped).
fn results(cases: &[&str]) -> Result<SuiteReport, String> {
    let case = |text: &&str| {
        let parts: Vec<&str> = text.split(':').collect();
        let inner = match parts[2] {
            "f" => "<failure type='failed'>no</failure>",
            "u" => "<error type='unknown'/>",
            "s" => "<skipped/>",
            _ => "",
        };
        format!("<testsuite name='{}'><testcase name='{}'>{inner}</testcase></testsuite>", parts[0], parts[1])
    };
    parse_suite(&format!("<testsuites>{}</testsuites>", cases.iter().map(case).collect::<String>()))
}

const BOOT: &str = "lava:login-action:p";

#[test]
fn complete_is_no_verdict() {
    let asked = [DeviceTest::Runtime, DeviceTest::DeviceTester("GGV2Q".into())];
    let table: [(&str, &[&str], &str); 9] = [
        ("all passed", &[BOOT, "0_runtime:ssh:p", "1_idt-GGV2Q:mqtt:p"], ""),
        ("one failed", &[BOOT, "0_runtime:ssh:f", "1_idt-GGV2Q:mqtt:p"], "0_runtime.ssh: failed"),
        ("no test at all", &[BOOT], "no results of a test definition named `runtime`"),
        ("nothing", &[], "no results of a test definition named `runtime`"),
        ("one test is missing", &[BOOT, "0_runtime:ssh:p"], "named `idt-GGV2Q`"),
        ("all skipped", &[BOOT, "0_runtime:ssh:s", "1_idt-GGV2Q:mqtt:p"], "every test was skipped"),
        (
            "a result that LAVA does not know",
            &[BOOT, "0_runtime:ssh:u", "1_idt-GGV2Q:mqtt:p"],
            "does not know",
        ),
        (
            "a failure in a test that nobody asked for",
            &[BOOT, "0_runtime:ssh:p", "1_idt-GGV2Q:mqtt:p", "2_smoke:x:f"],
            "2_smoke.x",
        ),
        (
            "a failed step of LAVA itself",
            &["lava:login-action:f", "0_runtime:ssh:p", "1_idt-GGV2Q:mqtt:p"],
            "lava.login-action",
        ),
    ];
    for (case, cases, why) in table {
        let judgement = judge(&asked, &job("Complete"), None, results(cases)).unwrap();
        match judgement.end {
            AttemptEnd::Tested(Outcome::Passed) => assert_eq!(why, "", "{case}"),
            AttemptEnd::Tested(Outcome::Failed(reason) | Outcome::NotRun(reason)) => {
                assert!(!why.is_empty() && reason.contains(why), "{case}: {reason}");
            }
            other => panic!("{case}: {other:?}"),
        }
    }
}

#[test]
fn the_fault_of_an_incomplete_job_is_lava_s_or_the_image_s() {
    let asked = [DeviceTest::Runtime];
    for (kind, is_fault) in [
        (Some("Infrastructure"), true),
        (Some("Bug"), true),
        (Some("Configuration"), true),
        (Some("Test"), false),
        (Some("Job"), false),
        (Some("Timeout"), false),
        (None, false),
    ] {
        let end = judge(&asked, &job("Incomplete"), kind, results(&["0_runtime:ssh:p"])).unwrap().end;
        match end {
            AttemptEnd::DeviceFault(why) => assert!(is_fault && why.contains("no power"), "{kind:?}: {why}"),
            AttemptEnd::Tested(Outcome::Failed(why)) => {
                assert!(!is_fault && why.ends_with(": no power"), "{kind:?}: {why}");
            }
            other => panic!("{kind:?}: {other:?}"),
        }
    }
    let end = judge(&asked, &job("Canceled"), None, results(&[])).unwrap().end;
    assert!(matches!(end, AttemptEnd::Tested(Outcome::Cancelled(_))), "{end:?}");
}

#[test]
fn what_lava_does_not_say_clearly_is_not_green() {
    let asked = [DeviceTest::Runtime];
    let end = judge(&asked, &job("Complete"), None, Err("it ends".into())).unwrap().end;
    assert!(matches!(&end, AttemptEnd::Tested(Outcome::Failed(why)) if why.contains("it ends")), "{end:?}");
    for health in ["Unknown", "", "complete"] {
        let error = judge(&asked, &job(health), None, results(&["0_runtime:ssh:p"])).unwrap_err();
        assert_eq!(error.class, Class::Upstream, "{health}");
    }
    let miscounted = parse_suite(
        "<testsuites tests='2' failures='1'><testsuite name='0_runtime'><testcase name='a'/></testsuite></testsuites>",
    );
    let end = judge(&asked, &job("Complete"), None, miscounted).unwrap().end;
    assert!(
        matches!(&end, AttemptEnd::Tested(Outcome::Failed(why)) if why.contains("contradict")),
        "{end:?}"
    );
}
