use super::*;
use crate::bitbake_recipes::Recipe;
use agent_types::stage::Stage;

fn follower() -> Follower {
    Follower::new(&Unit::new(Stage::Build, "x"), "")
}

fn started(id: &str, pn: &str) -> String {
    format!(
        r#"{{"e":"task","what":"started","id":"{id}:do_compile","pn":"{pn}","pf":"{pn}-1-r0","task":"do_compile","mc":null}}"#
    )
}

#[test]
fn reached_tasks_and_names_of_recipes_are_recorded() {
    let mut follower = follower();
    follower.take(&started("/m/a_1.bb", "own-name"));
    let queue = |what: &str, task: &str| {
        format!(r#"{{"e":"queue","what":"{what}","id":"/m/a_1.bb:{task}","tasks":[1,0,2],"exit":1}}"#)
    };
    follower.take(&queue("failed", "do_compile"));
    assert_eq!(follower.failed_id(), Some("/m/a_1.bb:do_compile"));
    let recipe = Recipe { name: "own-name".into(), file: None };
    assert!(!follower.recipes.has_reached(&recipe, "do_build"));
    follower.take(&queue("started", "do_build"));
    assert!(!follower.recipes.has_reached(&recipe, "do_build"), "it may still fail");
    follower.take(&queue("skipped", "do_build"));
    assert!(follower.recipes.has_reached(&recipe, "do_build"));
    assert_eq!(follower.recipes.name_of("/m/a_1.bb:do_x"), "own-name");
    follower.take(r#"{"e":"variables","values":{"PARALLEL_MAKE":"-j 4"}}"#);
    assert_eq!((follower.variable("PARALLEL_MAKE"), follower.variable("X")), (Some("-j 4"), None));
}

#[test]
fn every_line_gives_its_phase_and_numbers() {
    let mut follower = follower();
    assert!(!follower.is_heard());
    assert_eq!(follower.progress(), None);
    for (line, phase, done, total, failed) in [
        (r#"{"e":"hello"}"#, Phase::Starting, 0, 0, 0),
        (r#"{"e":"cache","n":3,"of":9}"#, Phase::LoadingCache, 3, 9, 0),
        (r#"{"e":"parse","n":512,"of":920}"#, Phase::Parsing, 512, 920, 0),
        (r#"{"e":"parsed","cached":900,"parsed":20}"#, Phase::Parsing, 920, 920, 0),
        (r#"{"e":"process","name":"Initialising tasks","n":44}"#, Phase::Preparing, 44, 100, 0),
        (r#"{"e":"process","name":"something else","n":4}"#, Phase::Preparing, 44, 100, 0),
        (
            r#"{"e":"process","name":"Checking sstate mirror object availability","n":7}"#,
            Phase::CheckingSstate,
            7,
            100,
            0,
        ),
        (
            r#"{"e":"queue","what":"started","id":"a:do_x_setscene","scene":[1,8]}"#,
            Phase::SetsceneTasks,
            1,
            8,
            0,
        ),
        (r#"{"e":"queue","what":"started","id":"a:do_x","tasks":[4,0,10]}"#, Phase::Tasks, 4, 10, 0),
        (r#"{"e":"queue","what":"completed","id":"a:do_y_setscene","scene":[2,8]}"#, Phase::Tasks, 4, 10, 0),
        (r#"{"e":"queue","what":"skipped","id":"b:do_x","tasks":[5,0,10]}"#, Phase::Tasks, 5, 10, 0),
        (r#"{"e":"queue","what":"failed","id":"a:do_x","tasks":[5,1,10],"exit":1}"#, Phase::Tasks, 6, 10, 1),
        // Made up.
        (
            r#"{"e":"queue","what":"failed","id":"a:do_x","tasks":[99,99,10],"exit":1}"#,
            Phase::Tasks,
            10,
            10,
            10,
        ),
        (r#"{"e":"signatures"}"#, Phase::WritingSignatures, 0, 0, 10),
    ] {
        assert_eq!(follower.take(line), None, "{line}");
        let progress = follower.progress().unwrap();
        let found = (progress.phase, progress.done, progress.total, progress.failed);
        assert_eq!(found, (phase, done, total, failed), "{line}");
        assert_eq!(follower.progress(), None, "nothing has changed since");
    }
    assert!(follower.is_heard());
}

#[test]
fn tasks_have_a_start_and_an_end() {
    let mut follower = follower();
    let zlib = Task::new(Unit::new(Stage::Build, "x"), "zlib-1-r0", "do_compile");
    let musl = Task { mc: Some("musl".into()), ..zlib.clone() };
    let ended = |task: &Task, outcome, log: Option<&str>| {
        let (task, log) = (task.clone(), log.map(PathBuf::from));
        Some(EventKind::TaskFinished(TaskFinished { task, outcome, log }))
    };
    let start = EventKind::TaskStarted(zlib.clone().into());
    assert_eq!(follower.take(&started("/z.bb", "zlib")), Some(start));
    let other = started("mc:musl:/z.bb", "zlib").replace("null", r#""musl","n":7,"after":3"#);
    let start = TaskStarted { task: musl.clone(), number: Some(7), after: Some(3) };
    assert_eq!(follower.take(&other), Some(EventKind::TaskStarted(start)));
    let running = follower.progress().unwrap().running;
    assert_eq!(running, vec![Running { name: "zlib:do_compile".into(), seconds: 0 }; 2]);
    let end = |what: &str| started("/z.bb", "zlib").replace("started", what);
    assert_eq!(follower.take(&end("succeeded")), ended(&zlib, Outcome::Passed, None));
    // The queue's own event comes after it.
    assert_eq!(
        follower.take(r#"{"e":"queue","what":"completed","id":"/z.bb:do_compile","tasks":[1,0,2]}"#),
        None
    );
    assert_eq!(follower.progress().unwrap().running.len(), 1);
    // One that was killed.
    let killed =
        r#"{"e":"queue","what":"failed","id":"mc:musl:/z.bb:do_compile","tasks":[1,1,2],"exit":137}"#;
    let why = Outcome::Failed("exit code 137".into());
    assert_eq!(follower.take(killed), ended(&musl, why, None));
    assert_eq!(follower.progress().unwrap().running, []);
    // One whose start was lost.
    let failed = end("failed").replace(r#""mc""#, r#""log":"/w/log.do_compile.1","mc""#);
    let why = Outcome::Failed(REPORTED_AS_FAILED.into());
    assert_eq!(follower.take(&failed), ended(&zlib, why, Some("/w/log.do_compile.1")));
}

#[test]
fn the_source_of_statistics_is_known_when_a_build_has_begun() {
    let mut follower = follower();
    let with_log = |mc: &str, log: &str| {
        let line = started(&format!("{mc}/z.bb"), "zlib");
        follower_line(&line, mc, log)
    };
    follower.take(r#"{"e":"variables","values":{"BUILDSTATS_BASE":"/b/tmp/buildstats/"}}"#);
    assert_eq!(follower.stats_source(), None, "no build has begun");
    follower.take(r#"{"e":"build"}"#);
    follower.take(&with_log("", "/b/tmp/work/z/temp/log.do_compile.1"));
    follower.take(&with_log("musl", "/b/tmp-musl/work/z/temp/log.do_compile.1"));
    follower.take(&with_log("musl", "/elsewhere"));
    let logs = [
        (None, "/b/tmp/work/z/temp/log.do_compile.1"),
        (Some("musl"), "/b/tmp-musl/work/z/temp/log.do_compile.1"),
    ];
    let wanted = |began| StatsSource {
        began,
        base: Some("/b/tmp/buildstats/".into()),
        logs: logs.map(|(mc, log)| (mc.map(str::to_owned), log.into())).into(),
    };
    assert_eq!(follower.stats_source(), Some(wanted(follower.stats_source().unwrap().began)));
}

fn follower_line(line: &str, mc: &str, log: &str) -> String {
    let mc = if mc.is_empty() { "null".to_owned() } else { format!("{mc:?}") };
    line.replace("null", &format!(r#"{mc},"log":{log:?}"#))
}

#[test]
fn what_makes_no_sense_is_ignored() {
    let mut follower = follower();
    for line in [
        "",
        "x",
        "[]",
        "{}",
        r#"{"e":"unknown"}"#,
        r#"{"e":"parse"}"#,
        r#"{"e":"parse","n":-1,"of":2}"#,
        r#"{"e":"parse","n":1.5,"of":2}"#,
        r#"{"e":"parse","n":99999999999999999999999,"of":2}"#,
        r#"{"e":"task","what":"started"}"#,
        r#"{"e":"task","what":"exploded","id":"a","task":"b"}"#,
        r#"{"e":"task","what":"started","id":"a","task":null}"#,
    ] {
        assert_eq!(follower.take(line), None, "{line}");
        assert!(!follower.is_heard(), "{line}");
    }
}

#[test]
fn a_flood_is_bounded_and_harmless() {
    let mut follower = follower();
    let long = "é".repeat(600);
    for number in 0..10_000 {
        follower.take(&started(&number.to_string(), &format!("\\u001b[2J{number}{long}")));
    }
    follower.take(r#"{"e":"dropped","n":3}"#);
    follower.take(&format!(r#"{{"e":"dropped","n":{}}}"#, u64::MAX));
    assert_eq!(follower.dropped(), u64::MAX);
    let running = follower.progress().unwrap().running;
    assert_eq!(running.len(), RUNNING_KEPT);
    assert!(running.iter().all(|one| one.name.len() <= 2 * NAME_BYTES && !one.name.contains('\u{1b}')));
    assert!(follower.status().unwrap().len() < 10 * NAME_BYTES);
}
