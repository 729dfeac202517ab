use super::failures::FAILURES_KEPT;
use super::*;
use crate::bitbake_recipes::Recipe;
use agent_types::stage::Stage;

fn follow(text: &str) -> (Build, Vec<EventKind>) {
    let mut build = Build::new(Unit::new(Stage::Build, "x"));
    let events = text.lines().flat_map(|line| build.line(line)).collect();
    (build, events)
}

#[test]
fn a_failed_task_is_reported_once_with_its_log() {
    let (build, events) = follow(
        "NOTE: recipe hello-1.0-r0: task do_compile: Started\n\
         ERROR: hello-1.0-r0 do_compile: Execution of 'run.do_compile' failed with exit code 1\n\
         ERROR: Logfile of failure stored in: /w/build/tmp/work/hello/1.0/temp/log.do_compile.7\n\
         NOTE: recipe hello-1.0-r0: task do_compile: Failed\n\
         ERROR: Task (/w/meta-x/recipes/hello/hello_1.0.bb:do_compile) failed with exit code '1'\n\
         NOTE: Tasks Summary: Attempted 12 tasks of which 3 didn't need to be rerun and 1 failed.\n",
    );
    assert_eq!(
        build.text_failures.list,
        [Failure {
            recipe: "hello-1.0-r0".into(),
            task: "do_compile".into(),
            log: Some("/w/build/tmp/work/hello/1.0/temp/log.do_compile.7".into()),
            id: Some("/w/meta-x/recipes/hello/hello_1.0.bb:do_compile".into()),
        }]
    );
    assert_eq!(build.text_failures.total, 1);
    assert_eq!(build.summary, Some(TasksSummary { attempted: 12, not_needed: 3, failed: 1 }));
    let task = Task::new(Unit::new(Stage::Build, "x"), "hello-1.0-r0", "do_compile");
    let outcome = Outcome::Failed(REPORTED_AS_FAILED.into());
    let end = TaskFinished { task: task.clone(), outcome, log: None };
    assert_eq!(events, [EventKind::TaskStarted(task.into()), EventKind::TaskFinished(end)]);
}

#[test]
fn a_failure_is_known_from_the_last_line_alone() {
    let (build, _) = follow("ERROR: Task (/m/hello_1.0.bb:do_fetch) failed with exit code '1'\n");
    assert_eq!(build.text_failures.list.len(), 1);
    assert_eq!(build.text_failures.list[0].recipe, "hello_1.0");
}

#[test]
fn the_sstate_line_of_every_release_is_understood() {
    let table = [
        ("Found 7", "dunfell, gatesgarth", 7, 0),
        ("Local 4 Network 3", "hardknott, honister", 4, 3),
        ("Local 4 Mirrors 3", "kirkstone to master", 4, 3),
    ];
    for (found, releases, local, mirrors) in table {
        let wanted = Sstate { wanted: 10, local, mirrors, missed: 3, current: 2 };
        for before in ["", "Initialising tasks..."] {
            let line = format!(
                "{before}Sstate summary: Wanted 10 {found} Missed 3 Current 2 (70% match, 75% complete)"
            );
            let (_, events) = follow(&line);
            assert!(
                matches!(&events[..], [EventKind::Sstate { summary, .. }] if *summary == wanted),
                "{releases}: {events:?}"
            );
        }
    }
}

#[test]
fn progress_names_what_runs() {
    let (mut build, _) = follow(
        "NOTE: Running task 5 of 9 (/m/a_1.bb:do_compile)\n\
         NOTE: recipe a-1-r0: task do_compile: Started\n\
         NOTE: recipe b-1-r0: task do_fetch: Started\n\
         NOTE: recipe a-1-r0: task do_compile: Succeeded\n",
    );
    let Some(EventKind::Progress(progress)) = build.progress() else { panic!() };
    let running = [Running { name: "b-1-r0:do_fetch".into(), seconds: 0 }];
    assert_eq!((progress.done, progress.total, &progress.running[..]), (4, 9, &running[..]));
    assert_eq!(build.progress(), None, "nothing has changed since");
}

/// The same failure in both: the console prints text for what the events tell.
#[test]
fn events_replace_what_the_text_says_of_tasks() {
    let task = |what: &str, more: &str| {
        let name = r#""pn":"hello","pf":"hello-1.0-r0","task":"do_compile""#;
        format!(r#"{{"e":"task","what":"{what}","id":"/m/hello_1.0.bb:do_compile",{name}{more}}}"#)
    };
    let mut build = Build::new(Unit::new(Stage::Build, "x"));
    assert_eq!((build.event(r#"{"e":"hello"}"#), build.has_events()), (vec![], true));
    assert!(matches!(&build.event(&task("started", ""))[..], [EventKind::TaskStarted(_)]));
    assert_eq!(build.line("NOTE: recipe hello-1.0-r0: task do_compile: Started"), []);
    assert_eq!(build.line("NOTE: Running task 5 of 9 (/m/hello_1.0.bb:do_compile)"), []);
    build.event(r#"{"e":"queue","what":"started","id":"/m/hello_1.0.bb:do_compile","tasks":[3,0,9]}"#);
    let Some(EventKind::Progress(progress)) = build.progress() else { panic!() };
    assert_eq!((progress.done, progress.total, &*progress.running[0].name), (3, 9, "hello:do_compile"));
    let events = build.event(&task("failed", r#","log":"/w/log.do_compile.7""#));
    let [EventKind::TaskFinished(TaskFinished { outcome: Outcome::Failed(_), .. })] = &events[..] else {
        panic!("{events:?}")
    };
    let text = "ERROR: Logfile of failure stored in: /w/log.do_compile.7\n\
        NOTE: recipe hello-1.0-r0: task do_compile: Failed\n\
        ERROR: Task (/m/hello_1.0.bb:do_compile) failed with exit code '1'";
    assert!(text.lines().all(|line| build.line(line).is_empty()));
    let failure = Failure {
        recipe: "hello-1.0-r0".into(),
        task: "do_compile".into(),
        log: Some("/w/log.do_compile.7".into()),
        id: Some("/m/hello_1.0.bb:do_compile".into()),
    };
    assert_eq!(build.failed_tasks(false), (&[failure][..], 1));
    // A setscene task that fails is no failure.
    let mut build = Build::new(Unit::new(Stage::Build, "x"));
    build.event(&task("failed", "").replace("do_compile", "do_deploy_setscene"));
    assert_eq!(build.failed_tasks(false).1, 0);
}

/// Tasks that succeed while BitBake is stopped count; the others fail because of the stop.
#[test]
fn only_success_counts_while_bitbake_is_stopped() {
    let task = |what: &str, name: &str| {
        format!(
            r#"{{"e":"task","what":"{what}","id":"/m/{name}_1.bb:do_build","pn":"{name}","pf":"{name}-1-r0","task":"do_build","mc":null}}"#
        )
    };
    for has_events in [true, false] {
        let mut build = Build::new(Unit::new(Stage::Build, "x"));
        for name in ["a", "b"] {
            if has_events {
                build.event(&task("started", name));
            }
            build.line(&format!("NOTE: recipe {name}-1-r0: task do_build: Started"));
        }
        build.stop();
        let mut events = Vec::new();
        for (name, what, word) in [("a", "succeeded", "Succeeded"), ("b", "failed", "Failed")] {
            if has_events {
                events.extend(build.event(&task(what, name)));
            }
            events.extend(build.line(&format!("NOTE: recipe {name}-1-r0: task do_build: {word}")));
        }
        let text = "ERROR: Task (/m/b_1.bb:do_build) failed with exit code '1'\n\
            NOTE: Running noexec task 2 of 3 (/m/c_1.bb:do_build)\n\
            Execution was interrupted, returning a non-zero exit code.";
        events.extend(text.lines().flat_map(|line| build.line(line)));
        let [EventKind::TaskFinished(TaskFinished { task, outcome: Outcome::Passed, .. })] = &events[..]
        else {
            panic!("{has_events}: {events:?}")
        };
        assert_eq!(task.recipe, "a-1-r0");
        assert_eq!((build.failed_tasks(false).1, build.recipes().all_failures().count()), (0, 0));
        assert!(build.errors.is_empty() && build.admits_failure.is_none());
        let c = Recipe { name: "c".into(), file: None };
        assert!(build.recipes().has_reached(&c, "do_build"));
    }
}

#[test]
fn what_is_kept_of_a_flood_is_bounded() {
    let mut build = Build::new(Unit::new(Stage::Build, "x"));
    let long = "é".repeat(30_000);
    for number in 0..100_000 {
        let events = build.line(&format!("NOTE: recipe x{number}: task do_y: Started"));
        assert!(number < RUNNING_KEPT || events.is_empty(), "{events:?}");
        build.line(&format!("NOTE: recipe {number}{}: task do_y: Started", &long[..400]));
        build.line("NOTE: recipe same: task do_y: Started");
    }
    for number in 0..1000 {
        build.line(&format!("ERROR: {number} {long}"));
        build.line(&format!("ERROR: Logfile of failure stored in: /{number}"));
        build.line(&format!("ERROR: Task (/m/a_{number}.bb:do_x{number}) failed with exit code '1'"));
    }
    let Some(EventKind::Progress(Progress { running, .. })) = build.progress() else { panic!() };
    assert_eq!(running.len(), RUNNING_KEPT);
    assert!(running.iter().all(|running| running.name.len() <= NAME_BYTES));
    assert_eq!((build.errors.len(), build.text_failures.list.len()), (ERRORS_KEPT, FAILURES_KEPT));
    assert!(build.errors.iter().all(|error| error.len() <= ERROR_BYTES));
    assert!(build.status().unwrap().len() < 5 * NAME_BYTES);
}

#[test]
fn the_summary_is_a_line_of_its_own() {
    let good = "NOTE: Tasks Summary: Attempted 5 tasks of which 0 didn't need to be rerun and all succeeded.";
    assert_eq!(follow(good).0.summary.map(|summary| summary.attempted), Some(5));
    for line in [
        format!("NOTE: x-1-r0 do_y: {good}"),
        format!("the recipe says {good}"),
        good.trim_start_matches("NOTE: ").to_owned(),
        format!("{good} Or not."),
    ] {
        assert_eq!(follow(&line).0.summary, None, "{line}");
    }
}

#[test]
fn closing_lines_admit_a_failure() {
    for (line, wanted) in [
        ("Summary: There was 1 ERROR message shown, returning a non-zero exit code.", true),
        ("Summary: There were 2 ERROR messages, returning a non-zero exit code.", true),
        ("Summary: 1 task failed:", true),
        ("Summary: 12 tasks failed:", true),
        ("Execution was interrupted, returning a non-zero exit code.", true),
        ("NOTE: Tasks Summary: Attempted 5 tasks of which 0 didn't need to be rerun and 1 failed.", true),
        (
            "NOTE: Tasks Summary: Attempted 5 tasks of which 0 didn't need to be rerun and all succeeded.",
            false,
        ),
        ("Summary: There was 1 WARNING message.", false),
        ("Summary: There were 2 WARNING messages shown.", false),
        ("ERROR: a recipe prints this", false),
        ("NOTE: x: Summary: 1 task failed:", false),
    ] {
        assert_eq!(follow(line).0.admits_failure.is_some(), wanted, "{line}");
    }
}

#[test]
fn setscene_failures_are_counted_apart() {
    let (build, _) = follow(
        "WARNING: Setscene task (/m/a_1.bb:do_deploy_setscene) failed with exit code '1' - real task will be run instead\n",
    );
    assert_eq!((build.setscene_failures, build.text_failures.total), (1, 0));
}
