//! Runs of the stand-in for Device Tester (`tests/stand-ins/idt`).

use std::time::Instant;

use agent_types::events::{EventKind, Unit};
use agent_types::stage::Stage;
use serde_json::{Value, json};

use super::*;
use crate::board::SshAddress;
use crate::fixtures::attempt::{TestAttempt, other_user};

const STAND_IN: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../../tests/stand-ins/idt/bin/devicetester_linux_x86-64");

/// An installation of the stand-in in the attempt's directory.
fn install(attempt: &mut TestAttempt, plan: &Value) -> Option<PathBuf> {
    let user = other_user()?;
    let root = attempt.path("idt");
    for part in ["bin", "configs", "results/old", "tests/GGV2Q_2.5.4", "tests/GGV2Q_2.5.3"] {
        fs_err::create_dir_all(root.join(part)).unwrap();
    }
    fs_err::copy(STAND_IN, root.join(PROGRAM)).unwrap();
    fs_err::write(root.join("configs/device.json"), "[\"the lab's own\"]").unwrap();
    // A run that passed long ago.
    let old = "<testsuites><testsuite name='mqtt'><testcase name='pubsub'/></testsuite></testsuites>";
    fs_err::write(root.join("results/old/Suite_Report.xml"), old).unwrap();
    fs_err::write(root.join("stand-in.json"), plan.to_string()).unwrap();
    if let Some(user) = user {
        let owner = format!("{}:{}", user.uid, user.gid);
        let done = std::process::Command::new("chown").args(["-R", &owner]).arg(&root).status().unwrap();
        assert!(done.success());
    }
    attempt.lab.testers = vec![DeviceTester {
        suite: "GGV2Q".into(),
        directory: Some(root.clone()),
        accept_license: true,
        profile: None,
        region: "eu-central-1".into(),
        groups: vec!["mqtt".into(), "lambda".into()],
        features: vec![("arch".into(), "x86_64".into())],
        userdata: None,
        stall: Duration::from_secs(30),
    }];
    Some(root)
}

fn address(key: Option<PathBuf>) -> SshAddress {
    SshAddress { host: "127.0.0.1".into(), port: 2222, key }
}

async fn tested(attempt: &TestAttempt, name: &str, key: Option<PathBuf>) -> Result<TestEnd> {
    let (unit, address) = (Unit::new(Stage::Test, "idt:GGV2Q image on board-1"), address(key));
    let work = attempt.path(&format!("work/{name}"));
    super::run(TestRun { attempt: attempt.attempt(&work), address: &address, unit: &unit }, "GGV2Q").await
}

fn good() -> Value {
    json!({
        "groups": { "mqtt": ["pubsub:p", "retain:s"], "lambda": ["one:p"], "ml": ["two:p"] },
        "features": { "core": "supported" },
    })
}

#[tokio::test]
async fn a_suite_runs_with_the_words_of_the_lab_and_the_request() {
    let mut attempt = TestAttempt::new();
    let Some(root) = install(&mut attempt, &good()) else { return };
    let key = attempt.path("state/key");
    fs_err::write(&key, "a private key").unwrap();
    let template = attempt.path("state/userdata.json");
    fs_err::write(&template, r#"{"image": "{{request.image}}"}"#).unwrap();
    attempt.lab.testers[0].userdata = Some(template);
    let end = tested(&attempt, "good", Some(key)).await.unwrap();
    assert_eq!(end.outcome, Outcome::Passed);
    let names: Vec<String> = end.tests.iter().map(agent_yocto::testimage::verdict::JudgedTest::id).collect();
    assert_eq!(names, ["lambda.one", "mqtt.pubsub", "mqtt.retain", "features.core"]);
    let seen: Value = serde_json::from_slice(&fs_err::read(root.join("seen.json")).unwrap()).unwrap();
    assert_eq!(
        seen["argv"],
        json!([
            "run-suite",
            "--suite-id",
            "GGV2Q_2.5.4",
            "--pool-id",
            "board-1",
            "--group-id",
            "mqtt,lambda",
            "--userdata",
            USERDATA,
            "--update-idt",
            "n"
        ])
    );
    assert_eq!(seen["stdin"], "", "it could not ask anything");
    assert_ne!(seen["uid"], 0, "it never runs as root");
    let environment = seen["environment"].as_array().unwrap();
    assert!(!environment.iter().any(|name| name.as_str().unwrap().contains("KEY")), "{environment:?}");
    assert_eq!(seen["userdata"]["image"], attempt.request.image);
    let connectivity = &seen["device.json"][0]["devices"][0]["connectivity"];
    assert_eq!(connectivity["port"], 2222);
    let lent = connectivity["auth"]["credentials"]["privKeyPath"].as_str().unwrap();
    assert_eq!(fs_err::read_to_string(lent).unwrap(), "a private key");
    assert_eq!(seen["config.json"]["awsRegion"], "eu-central-1");
    assert_eq!(fs_err::read_to_string(root.join("configs/device.json.orig")).unwrap(), "[\"the lab's own\"]");
    // Again, over its own files.
    assert_eq!(tested(&attempt, "again", None).await.unwrap().outcome, Outcome::Passed);
    assert_eq!(fs_err::read_to_string(root.join("configs/device.json.orig")).unwrap(), "[\"the lab's own\"]");
}

/// Each row runs the stand-in with status 0, and most of them with a summary that looks well.
#[tokio::test]
async fn no_false_green_of_device_tester_is_green() {
    let mut attempt = TestAttempt::new();
    let Some(root) = install(&mut attempt, &good()) else { return };
    let all = json!({ "mqtt": ["pubsub:p"], "lambda": ["one:p"] });
    let table: [(&str, Value, Value, &str); 15] = [
        ("no test", json!([]), json!({}), "no test of the group `mqtt` ran"),
        (
            "a group is left out",
            json!([]),
            json!({ "mqtt": ["pubsub:p"] }),
            "no test of the group `lambda` ran",
        ),
        ("a failure", json!([]), json!({ "mqtt": ["pubsub:f"], "lambda": ["one:p"] }), "mqtt.pubsub"),
        ("an error", json!([]), json!({ "mqtt": ["pubsub:e"], "lambda": ["one:p"] }), "error in the test"),
        (
            "all skipped",
            json!([]),
            json!({ "mqtt": ["pubsub:s"], "lambda": ["one:s"] }),
            "no test of the group",
        ),
        ("no report", json!(["no-report"]), all.clone(), "left no report"),
        ("one report", json!(["one-report"]), all.clone(), "left no report"),
        ("an old report", json!(["stale"]), all.clone(), "no results of this run"),
        ("half a report", json!(["cut"]), all.clone(), "the suite's report"),
        ("two suites", json!(["second-suite"]), all.clone(), "2 reports of suites"),
        ("bytes", json!(["bytes", "flat", "silent"]), all.clone(), "no test of the group `mqtt` ran"),
        ("a pipe", json!(["fifo"]), all.clone(), "left no report"),
        ("a link", json!(["link"]), all.clone(), "left no report"),
        ("a huge report", json!(["huge"]), all.clone(), "left no report"),
        ("another suite", json!(["other-suite"]), all.clone(), "is about the suite `GGV2Q_2.0.0`"),
    ];
    for (index, (case, modes, groups, why)) in table.into_iter().enumerate() {
        let plan = json!({ "modes": modes, "groups": groups, "features": { "core": "supported" } });
        fs_err::write(root.join("stand-in.json"), plan.to_string()).unwrap();
        match tested(&attempt, &index.to_string(), None).await.unwrap().outcome {
            Outcome::Failed(reason) => assert!(reason.contains(why), "{case}: {reason}"),
            other => panic!("{case}: {other:?}"),
        }
    }
    // A required feature that is not supported.
    let plan = json!({ "groups": all, "features": { "core": "not-supported" } });
    fs_err::write(root.join("stand-in.json"), plan.to_string()).unwrap();
    let end = tested(&attempt, "feature", None).await.unwrap();
    assert!(end.outcome.reason().unwrap().contains("`not-supported`"), "{:?}", end.outcome);
}

#[tokio::test]
async fn a_contradiction_and_a_bad_end_are_told_apart() {
    let mut attempt = TestAttempt::new();
    let Some(root) = install(&mut attempt, &good()) else { return };
    let plan = |modes: Value, word: &str| {
        let groups = json!({ "mqtt": [format!("pubsub:{word}")], "lambda": ["one:p"] });
        let plan =
            json!({ "modes": modes, "exit": 3, "groups": groups, "features": { "core": "supported" } });
        fs_err::write(root.join("stand-in.json"), plan.to_string()).unwrap();
    };
    for (modes, why) in [(json!(["lie"]), "its console says"), (json!(["other-nested"]), "its two reports")] {
        plan(modes, "f");
        let end = tested(&attempt, why, None).await.unwrap();
        assert!(matches!(&end.outcome, Outcome::Failed(reason) if reason.contains(why)), "{:?}", end.outcome);
    }
    // The exit status is no evidence, in neither direction.
    plan(json!([]), "p");
    assert_eq!(tested(&attempt, "status", None).await.unwrap().outcome, Outcome::Passed);
    plan(json!(["kill"]), "p");
    let end = tested(&attempt, "kill", None).await.unwrap();
    assert!(matches!(&end.outcome, Outcome::Failed(why) if why.contains("signal 9")), "{:?}", end.outcome);
    attempt.lab.testers[0].stall = Duration::from_secs(1);
    plan(json!(["hang"]), "p");
    let end = tested(&attempt, "hang", None).await.unwrap();
    assert!(matches!(&end.outcome, Outcome::TimedOut(why) if why.contains("silent")), "{:?}", end.outcome);
}

#[tokio::test]
async fn an_interrupt_stops_device_tester() {
    let mut attempt = TestAttempt::new();
    let mut plan = good();
    plan["modes"] = json!(["hang"]);
    let Some(root) = install(&mut attempt, &plan) else { return };
    let interrupt = attempt.runner.interrupt.clone();
    let seen = root.join("seen.json");
    let stop = async {
        let until = Instant::now() + Duration::from_secs(60);
        while !seen.exists() && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        interrupt.signal();
    };
    let (end, ()) = tokio::join!(tested(&attempt, "stop", None), stop);
    assert!(matches!(end.unwrap().outcome, Outcome::Cancelled(_)));
}

#[tokio::test]
async fn one_run_at_a_time_uses_an_installation() {
    let mut attempt = TestAttempt::new();
    let Some(root) = install(&mut attempt, &good()) else { return };
    let held = Installation::open(&root, &attempt.runner).await.unwrap();
    let release = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert!(!root.join("seen.json").exists(), "it ran although the installation was in use");
        drop(held);
    };
    let (end, ()) = tokio::join!(tested(&attempt, "waits", None), release);
    assert_eq!(end.unwrap().outcome, Outcome::Passed);
    let waited = |event: agent_types::events::Event| matches!(event.what, EventKind::Notice { message, .. } if message.contains("waiting for its end"));
    assert!(attempt.events().await.into_iter().any(waited));
}

#[tokio::test]
async fn what_must_not_run_does_not_run() {
    let mut attempt = TestAttempt::new();
    let Some(root) = install(&mut attempt, &good()) else { return };
    attempt.request.trust = RequestTrust::Untrusted;
    let end = tested(&attempt, "untrusted", None).await.unwrap();
    assert!(matches!(&end.outcome, Outcome::NotRun(why) if why.contains("untrusted")), "{:?}", end.outcome);
    attempt.request.trust = RequestTrust::Trusted;
    attempt.lab.testers[0].accept_license = false;
    let error = tested(&attempt, "licence", None).await.unwrap_err();
    assert!(error.hint.unwrap().contains("accept_license"));
    attempt.lab.testers[0].accept_license = true;
    attempt.lab.testers[0].suite = "Other".into();
    let end = tested(&attempt, "suite", None).await.unwrap();
    assert!(
        matches!(&end.outcome, Outcome::NotRun(why) if why.contains("no Device Tester")),
        "{:?}",
        end.outcome
    );
    attempt.lab.testers[0].suite = "GGV2Q".into();
    fs_err::remove_dir_all(root.join("tests")).unwrap();
    assert!(tested(&attempt, "none", None).await.unwrap_err().message.contains("has no suite GGV2Q"));
    fs_err::remove_file(root.join(PROGRAM)).unwrap();
    assert!(tested(&attempt, "program", None).await.unwrap_err().message.contains("is not there"));
    assert!(!root.join("seen.json").exists());
}
