//! Builds of what a change affects, with the stand-in for BitBake.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use fs_err as fs;

use super::*;
use crate::stages::checkout::{self, tests as fixture};
use crate::stages::configure::{self, Reuse};
use crate::stages::share::OpenShare;
use agent_git::fixture::{Bench, write};
use agent_types::affected::{AffectedRecipe, Change, SkippedRecipe};
use agent_types::source::RepoSource;

/// A job whose layer has the recipes `a`, `b` and `c`.
struct Job {
    bench: Bench,
    settings: Settings,
    configured: BuildEnvironment,
}

impl Job {
    /// `None`, if there is no user for layer code on this machine.
    async fn new(behaviour: &str) -> Option<Job> {
        let bench = Bench::new();
        fs::set_permissions(bench.root.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
        let stand_ins = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/stand-ins");
        for (from, to) in [("poky", "poky"), ("layer", "layer")] {
            let (from, to) = (stand_ins.join(from), bench.path(to));
            let copied = Command::new("cp").arg("-r").arg(&from).arg(&to).status().unwrap();
            assert!(copied.success());
        }
        write(&bench.path("poky/behaviour"), &format!("bitbake {behaviour}\n"));
        for name in ["a", "b", "c"] {
            write(&bench.path(&format!("layer/recipes-x/{name}/{name}_1.0.bb")), "");
        }
        let source = RepoSource::Path(bench.path("poky"));
        let repos = vec![fixture::repo("poky", source, &["meta", "meta-poky"])];
        let mut settings = fixture::settings(&bench, "scarthgap", repos);
        settings.build.changed = true;
        fs::create_dir_all(&settings.paths.work).unwrap();
        if agent_process::build_user(None, &settings.checkout).is_err() {
            return None;
        }
        let share = OpenShare::default();
        let runner = &bench.runner;
        let checkout = checkout::run(&settings, &share, runner, &bench.access).await.unwrap();
        let configured =
            configure::run(&settings, &checkout, &share, Reuse::AsConfigured, runner).await.unwrap();
        Some(Job { bench, settings, configured })
    }

    /// Builds, and gives the outcomes of all units with their reasons, in their order.
    async fn build(&self, affected: &Affected) -> (Result<Builds>, Vec<String>) {
        let built = run(&self.settings, &self.configured, Some(affected), &self.bench.runner).await;
        let finished = |event: EventKind| match event {
            EventKind::UnitFinished { unit, outcome, .. } if unit.stage == Stage::Build => {
                Some(match outcome.reason() {
                    Some(why) => format!("{}: {}: {why}", unit.name, outcome.word()),
                    None => format!("{}: {}", unit.name, outcome.word()),
                })
            }
            _ => None,
        };
        let units = self.bench.events().await.into_iter().filter_map(finished).collect();
        (built, units)
    }
}

fn recipe(name: &str) -> AffectedRecipe {
    AffectedRecipe {
        name: name.into(),
        file: Some(format!("recipes-x/{name}/{name}_1.0.bb").into()),
        layer: "tested".into(),
        change: Change::Changed,
        tasks: vec!["do_fetch".into()],
        machines: Vec::new(),
    }
}

fn affected(names: &[&str]) -> Affected {
    Affected { tasks: 3, recipes: names.iter().map(|name| recipe(name)).collect(), ..Affected::default() }
}

/// What BitBake does, the units, the outcome of the stage, and the class of its error.
#[tokio::test]
async fn each_recipe_is_a_unit_with_its_own_outcome() {
    let skipped = "b was skipped: incompatible with machine m (not in COMPATIBLE_MACHINE)";
    let dead = "do_fetch: the server of its source does not answer: wget: unable to resolve host address 'example.org'";
    let no_memory = "do_compile: memory ran out: virtual memory exhausted: Cannot allocate memory";
    type Case<'a> = (&'a str, Vec<String>, &'a str, Option<Class>);
    let table: [Case; 8] = [
        (
            "pass",
            lines(&["fetch (m): passed", "a (m): passed", "b (m): passed", "changed recipes (m): passed"]),
            "passed",
            None,
        ),
        (
            "fail do_compile b",
            lines(&[
                "fetch (m): passed",
                "a (m): passed",
                "b (m): failed: do_compile failed",
                "changed recipes (m): failed: b-1.0-r0:do_compile failed",
            ]),
            "failed",
            None,
        ),
        (
            "unbuildable b",
            lines(&[
                "fetch (m): passed",
                &format!("b (m): skipped: {skipped}"),
                "a (m): passed",
                "changed recipes (m): passed",
            ]),
            "passed",
            None,
        ),
        (
            "unbuildable a b",
            lines(&[
                "fetch (m): passed",
                "a (m): skipped: a was skipped: incompatible with machine m (not in COMPATIBLE_MACHINE)",
                &format!("b (m): skipped: {skipped}"),
                "changed recipes (m): skipped: nothing is left to build for this machine",
            ]),
            "skipped",
            None,
        ),
        (
            "no-fetch a",
            lines(&["fetch (m): passed", "a (m): passed", "b (m): passed", "changed recipes (m): passed"]),
            "passed",
            None,
        ),
        (
            "not-found 9 b",
            lines(&[
                "fetch (m): failed: do_fetch failed",
                "b (m): failed: do_fetch failed",
                "a (m): passed",
                "changed recipes (m): passed",
            ]),
            "failed",
            None,
        ),
        (
            "dead-server 9 b",
            lines(&[
                &format!("fetch (m): not-run: {dead}"),
                &format!("b (m): not-run: {dead}"),
                "a (m): passed",
                "changed recipes (m): passed",
            ]),
            "not-run",
            Some(Class::Upstream),
        ),
        (
            "no-memory 9 b",
            lines(&[
                "fetch (m): passed",
                "a (m): passed",
                &format!("b (m): not-run: {no_memory}"),
                "changed recipes (m): not-run: memory ran out: b-1.0-r0:do_compile: virtual memory exhausted: Cannot allocate memory",
            ]),
            "error",
            Some(Class::Machine),
        ),
    ];
    for (behaviour, wanted, outcome, class) in table {
        let Some(job) = Job::new(behaviour).await else {
            eprintln!("SKIPPED each_recipe_is_a_unit_with_its_own_outcome: no build user");
            return;
        };
        let (built, units) = job.build(&affected(&["a", "b"])).await;
        assert_eq!(units, wanted, "{behaviour}");
        let word = built.as_ref().map_or("error", |builds| builds.outcome.word());
        assert_eq!(word, outcome, "{behaviour}: {built:?}");
        let emitted = job.bench.events().await.into_iter().find_map(|event| match event {
            EventKind::Error { error, .. } => Some(error.class),
            _ => None,
        });
        assert_eq!(built.err().map(|error| error.class).or(emitted), class, "{behaviour}");
    }
}

fn lines(lines: &[&str]) -> Vec<String> {
    lines.iter().map(|&line| line.to_owned()).collect()
}

/// A server that answers at the second or third try costs only time.
#[tokio::test]
async fn a_fetch_is_retried_twice_with_what_failed() {
    for (failures, passes) in [(1, true), (2, true), (3, false)] {
        let Some(job) = Job::new(&format!("dead-server {failures} b")).await else { return };
        let (built, units) = job.build(&affected(&["a", "b", "c"])).await;
        assert_eq!(built.unwrap().outcome == Outcome::Passed, passes, "{failures}: {units:?}");
        let events = job.bench.events().await;
        let retries = events.iter().filter(|event| matches!(event, EventKind::Retry(_))).count();
        assert_eq!(retries, failures.min(2), "{failures}");
        let asked = events.iter().filter_map(|event| match event {
            EventKind::CommandStarted { argv, .. } => Some(argv.join(" ")),
            _ => None,
        });
        let again = asked.filter(|argv| argv.ends_with(" -k b:do_fetch")).count();
        assert_eq!(again, failures.min(2), "only what failed is fetched again");
    }
}

#[tokio::test]
async fn nothing_runs_if_nothing_changed() {
    let not_buildable = SkippedRecipe { name: "b".into(), reason: "incompatible".into(), machine: None };
    let nothing = Affected::default();
    let elsewhere = Affected { tasks: 5, elsewhere: vec![recipe("x")], ..Affected::default() };
    let skipped = Affected { tasks: 5, not_buildable: vec![not_buildable], ..affected(&["b"]) };
    for (affected, wanted) in [
        (&nothing, lines(&["changed recipes (m): skipped: the change affects 0 tasks"])),
        (
            &elsewhere,
            lines(&[
                "changed recipes (m): skipped: the change affects nothing that is built for this machine",
            ]),
        ),
        (
            &skipped,
            lines(&[
                "b (m): skipped: incompatible",
                "changed recipes (m): skipped: the change affects nothing that is built for this machine",
            ]),
        ),
    ] {
        let Some(job) = Job::new("fail").await else { return };
        let (built, units) = job.build(affected).await;
        assert_eq!(units, wanted);
        assert!(matches!(built.unwrap().outcome, Outcome::Skipped(_)));
        let ran = |event: &EventKind| matches!(event, EventKind::CommandStarted { argv, .. } if argv.join(" ").contains("bitbake"));
        assert!(!job.bench.events().await.iter().any(ran));
    }
}

/// The failure of one machine does not stop the next one.
#[tokio::test]
async fn each_machine_is_built() {
    let Some(mut job) = Job::new("fail do_compile b").await else { return };
    job.settings.config.machines = vec!["m".into(), "n".into()];
    let only_m = AffectedRecipe { machines: vec!["m".into()], ..recipe("b") };
    let affected = Affected { recipes: vec![recipe("a"), only_m], ..affected(&[]) };
    let (built, units) = job.build(&affected).await;
    assert_eq!(built.unwrap().outcome.word(), "failed");
    let wanted = lines(&[
        "fetch (m): passed",
        "a (m): passed",
        "b (m): failed: do_compile failed",
        "changed recipes (m): failed: b-1.0-r0:do_compile failed",
        "fetch (n): passed",
        "a (n): passed",
        "changed recipes (n): passed",
    ]);
    assert_eq!(units, wanted);
}
