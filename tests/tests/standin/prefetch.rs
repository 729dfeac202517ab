//! The prefetch: which BitBake calls are made before yocto-check-layer makes them, where they run, and what happens
//! to their results.

use std::process::Command;

use build_agent_tests::{cases, commit, repository, skip};
use nix::sys::signal::Signal;

use crate::signature_cache::{CHANGED, COLD, CheckJob, outcomes, queries};

const SERIAL: [&str; 5] = ["miss", "miss", "ahead", "ahead", "miss"];

const WORLD: &str = "-S lockedsigs world";
/// The same query, as it is prefetched.
const LENIENT: &str = "-k -S lockedsigs world";
const CLASS: &str = "-S lockedsigs world yocto-check-layer";

impl CheckJob {
    /// The arguments of each call, and the build directory that it saw.
    fn build_dirs(&self) -> Vec<(String, String)> {
        let build_dirs = std::fs::read_to_string(self.note("places")).unwrap_or_default();
        let parts = build_dirs.lines().map(|line| line.split_once(' ').unwrap());
        parts.map(|(directory, words)| (words.to_owned(), directory.to_owned())).collect()
    }

    fn arguments(&self) -> Vec<String> {
        self.build_dirs().into_iter().map(|(words, _)| words).collect()
    }

    /// `build-agent run`, started by another program.
    fn run_by(&self, program: Command) -> build_agent_tests::Ran {
        let mut program = program;
        let run = self.0.run_command();
        program.arg(run.get_program()).args(run.get_args()).current_dir(self.0.layer());
        self.0.start(program).wait()
    }

    #[track_caller]
    fn assert_gone(&self) {
        self.0.assert_nothing_runs();
        assert!(!self.work_dir().join("ahead/meta-tested").exists(), "the scratch directories are gone");
    }
}

#[test]
fn the_world_and_the_class_are_prefetched_in_scratch_build_dirs() {
    let Some(check) = CheckJob::new("the_world_and_the_class_are_prefetched_in_scratch_build_dirs") else {
        return;
    };
    let result = check.run(0);
    assert_eq!(outcomes(&result), COLD);
    let build_dirs = check.build_dirs();
    let [first, rest @ ..] = build_dirs.as_slice() else { panic!("no BitBake call") };
    assert_eq!(first.0, WORLD);
    let of = |words: &str| &rest.iter().find(|(other, _)| other == words).unwrap().1;
    assert_eq!(of(LENIENT), of("-p"), "it finds what the world has parsed: {build_dirs:#?}");
    assert!(rest.len() == 3 && rest.iter().all(|(_, place)| *place != first.1), "{build_dirs:#?}");
    assert!(rest.iter().position(|one| one.0 == LENIENT) < rest.iter().position(|one| one.0 == "-p"));
    let saved: Vec<f64> = result["units"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|unit| unit["memo"].as_array())
        .flatten()
        .map(|query| query["seconds_saved"].as_f64().unwrap_or(0.0))
        .collect();
    assert_eq!(saved[..2], [0.0; 2], "what was waited for saves nothing");
    check.assert_gone();
}

#[test]
fn a_running_prefetch_is_awaited_and_not_repeated() {
    let Some(check) = CheckJob::new("a_running_prefetch_is_awaited_and_not_repeated") else { return };
    std::fs::write(check.note("hold yocto-check-layer"), "").unwrap();
    let mut running = check.0.start(check.0.run_command());
    running.wait_until("four queries", || check.build_dirs().len() == 4);
    std::fs::remove_file(check.note("hold yocto-check-layer")).unwrap();
    running.wait().assert_code(&[0]);
    assert_eq!(outcomes(&check.0.result()), COLD);
    assert_eq!(check.build_dirs().len(), 4);
    check.assert_gone();
}

#[test]
fn only_cache_misses_are_prefetched() {
    let Some(check) = CheckJob::new("only_cache_misses_are_prefetched") else { return };
    check.run(0);
    for (left, expected, calls) in [
        ("with INHERIT", ["hit", "hit", "hit", "hit", "miss"], vec![CLASS]),
        ("all recipes parse", ["hit", "miss", "hit", "hit", "hit"], vec!["-p"]),
    ] {
        for answer in check.cached_results() {
            if std::fs::read_to_string(answer.join("answer.json")).unwrap().contains(left) {
                std::fs::remove_dir_all(answer).unwrap();
            }
        }
        std::fs::remove_file(check.note("places")).unwrap();
        assert_eq!(outcomes(&check.run(0)), expected, "{left}");
        assert_eq!(check.arguments(), calls, "{left}");
    }
}

#[test]
fn without_namespaces_the_world_is_prefetched_serially() {
    let test = "without_namespaces_the_world_is_prefetched_serially";
    let Some(check) = CheckJob::new(test) else { return };
    if !["x86_64", "aarch64"].contains(&std::env::consts::ARCH) {
        return skip(test, "the stand-in for a refusing kernel does not know this processor");
    }
    let ran = check.run_by(Command::new(repository().join("tests/stand-ins/without-unshare.py")));
    ran.assert_code(&[0]);
    ran.assert_says(&["not in parallel: build-agent-sandbox: the kernel refuses namespaces"]);
    assert_eq!(outcomes(&check.0.result()), SERIAL);
    assert_eq!(check.arguments(), [WORLD, LENIENT, "-p", CLASS]);
    let build_dirs = check.build_dirs();
    assert!(build_dirs.iter().all(|(_, place)| *place == build_dirs[0].1), "{build_dirs:#?}");
    check.assert_gone();
}

/// As root in a container without permission to mount: the agent uses a user namespace if the kernel allows it.
#[test]
fn root_without_permission_to_mount_prefetches_in_a_user_namespace() {
    let test = "root_without_permission_to_mount_prefetches_in_a_user_namespace";
    let Some(check) = CheckJob::new(test) else { return };
    let mut attempt = Command::new("setpriv");
    let drop = ["--inh-caps=-sys_admin", "--bounding-set=-sys_admin"];
    attempt.args(drop).args(["setpriv", "--reuid=1", "--regid=1", "--clear-groups"]);
    attempt.args(["unshare", "--user", "--mount", "--map-root-user", "true"]);
    if !attempt.output().is_ok_and(|output| output.status.success()) {
        return skip(test, "this is not root, there is no setpriv, or ordinary users have no namespaces");
    }
    let mut setpriv = Command::new("setpriv");
    setpriv.args(drop);
    check.run_by(setpriv).assert_code(&[0]);
    assert_eq!(outcomes(&check.0.result()), COLD);
    check.assert_gone();
}

#[test]
fn with_little_memory_the_world_is_prefetched_serially() {
    let test = "with_little_memory_the_world_is_prefetched_serially";
    let Some(check) = CheckJob::new(test) else { return };
    let meminfo = check.0.path().join("meminfo");
    std::fs::write(&meminfo, "MemTotal: 16000000 kB\nMemAvailable: 4000000 kB\n").unwrap();
    let mut unshare = Command::new("unshare");
    let mount = format!("mount --bind '{}' /proc/meminfo", meminfo.display());
    unshare.args(["--mount", "sh", "-c", &format!("{mount} && exec \"$@\""), "sh"]);
    let mut attempt = Command::new("unshare");
    attempt.args(["--mount", "sh", "-c", &mount]);
    if !attempt.output().is_ok_and(|output| output.status.success()) {
        return skip(test, "this user cannot put another file over /proc/meminfo");
    }
    let ran = check.run_by(unshare);
    ran.assert_code(&[0]);
    ran.assert_says(&["3.8 GiB of memory are free"]);
    assert_eq!(outcomes(&check.0.result()), SERIAL);
    assert_eq!(check.arguments(), [WORLD, LENIENT, "-p", CLASS]);
}

/// BitBake failed in this run, and the query is not repeated.
#[test]
fn a_failed_prefetch_gives_the_verdict_of_this_run() {
    let Some(check) = CheckJob::new("a_failed_prefetch_gives_the_verdict_of_this_run") else { return };
    std::fs::write(check.in_layer("recipes-hello/hello/broken_1.0.bb"), "BROKEN\n").unwrap();
    let fast = check.run(1);
    let reported = queries(&fast);
    assert_eq!(outcomes(&fast), COLD);
    for (_, why) in &reported[1..] {
        assert!(why.contains("not stored: BitBake failed"), "{reported:#?}");
    }
    let mut words = check.arguments();
    assert_eq!(words[0], WORLD);
    words.sort();
    assert_eq!(words, [WORLD, WORLD, CLASS, LENIENT, "-p"], "as often as the plain tool asks");
    assert_eq!(cases(&fast), cases(&check.run_without_cache(1)));
    assert_eq!(check.arguments().len(), 10);
    check.assert_gone();
    // The failure is never used in a later run.
    let again = check.run(1);
    assert_eq!(outcomes(&again), CHANGED);
    assert_eq!(check.arguments().len(), 14);
}

/// Beside other processes, BitBake has less memory than alone.
#[test]
fn a_failed_prefetch_that_the_machine_may_have_caused_is_repeated() {
    let Some(check) = CheckJob::new("a_failed_prefetch_that_the_machine_may_have_caused_is_repeated") else {
        return;
    };
    std::fs::write(check.note("starve"), "").unwrap();
    let result = check.run(0);
    let reported = queries(&result);
    // Either of the parallel queries can be the first, and a third one waits for it.
    let failed = |why: &str| why.contains("prefetch failed: BitBake failed");
    assert!(reported.iter().any(|(_, why)| failed(why)), "{reported:#?}");
    check.assert_gone();
}

#[test]
fn an_unpredicted_query_runs_bitbake() {
    let Some(check) = CheckJob::new("an_unpredicted_query_runs_bitbake") else { return };
    let script = check.0.upstream().join("scripts/yocto-check-layer");
    let text = std::fs::read_to_string(&script).unwrap();
    std::fs::write(&script, text.replace(" INHERIT\" INHERIT=", " INHERIT\" EXTRA=1 INHERIT=")).unwrap();
    commit(&check.0.upstream(), "Ask with another variable");
    let ran = check.0.run();
    ran.assert_code(&[0]);
    ran.assert_says(&["environment EXTRA is new"]);
    assert_eq!(outcomes(&check.0.result()), ["miss", "ahead", "ahead", "ahead", "miss"]);
    check.assert_gone();
}

#[test]
fn machines_of_a_bsp_layer_are_prefetched_in_parallel() {
    let Some(check) = CheckJob::new("machines_of_a_bsp_layer_are_prefetched_in_parallel") else { return };
    check.0.change_manifest("[check]", "[check]\nmachines = [\"qemux86-64\", \"qemuarm64\"]");
    let result = check.run(0);
    let expected = [&["miss"][..], &["ahead"; 8]].concat();
    assert_eq!(outcomes(&result), expected, "{:#?}", queries(&result));
    let mut words = check.arguments();
    words.sort();
    let machines = ["qemuarm64", "qemux86-64"].map(|machine| format!("-k {WORLD} {machine}"));
    assert_eq!(words, [WORLD, CLASS, LENIENT, &machines[0], &machines[1], "-p"]);
    check.assert_gone();
}

/// The job is cancelled, and killed: nothing stays behind, or the next job removes it.
#[test]
fn running_prefetches_end_with_the_job() {
    let Some(check) = CheckJob::new("running_prefetches_end_with_the_job") else { return };
    check.run(0);
    std::fs::write(check.in_layer("recipes-hello/hello/hello_1.0.bb"), "A = \"2\"\n").unwrap();
    let holds = ["hold world", "hold yocto-check-layer"].map(|name| check.note(name));
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        holds.iter().for_each(|hold| std::fs::write(hold, "").unwrap());
        std::fs::remove_file(check.note("places")).unwrap();
        let mut running = check.0.start(check.0.run_command());
        running.wait_until("both lanes", || {
            let words = check.arguments();
            words.iter().any(|one| one == LENIENT) && words.iter().any(|one| one == CLASS)
        });
        let before = check.arguments();
        running.signal(signal);
        let ran = running.wait();
        if signal == Signal::SIGINT {
            ran.assert_code(&[130]);
            assert_eq!(check.arguments(), before, "nothing is asked after the signal");
            check.assert_gone();
        }
        holds.iter().for_each(|hold| std::fs::remove_file(hold).unwrap());
    }
    assert_eq!(outcomes(&check.run(0)), CHANGED);
    check.assert_gone();
}

/// No code of the layer may run beside the world without the layer.
#[test]
fn the_world_without_the_layer_runs_alone() {
    let Some(check) = CheckJob::with_bitbakes("the_world_without_the_layer_runs_alone", 3) else { return };
    let hold = check.note("hold 2 layers");
    std::fs::write(&hold, "").unwrap();
    let mut running = check.0.start(check.0.run_command());
    running.wait_until("the first query", || check.build_dirs().len() == 1);
    std::fs::remove_file(hold).unwrap();
    running.wait().assert_code(&[0]);
    assert_eq!(outcomes(&check.0.result()), COLD);
    check.assert_gone();
}

/// The agent knows too little about such results to store them.
#[test]
fn results_are_not_stored_if_the_tool_adds_the_layer_in_another_way() {
    let test = "results_are_not_stored_if_the_tool_adds_the_layer_in_another_way";
    let Some(check) = CheckJob::new(test) else { return };
    let init = check.0.upstream().join("scripts/lib/checklayer/__init__.py");
    let text = std::fs::read_to_string(&init).unwrap();
    let known = "        f.write(\"\\nBBLAYERS += \\\"%s\\\"\\n\" % path)\n";
    assert!(text.contains(known));
    std::fs::write(&init, text.replace(known, &format!("{known}        f.write(\"# with the layer\\n\")\n")))
        .unwrap();
    commit(&check.0.upstream(), "Add layers in another way");
    for expected in [COLD, CHANGED] {
        let result = check.run(0);
        assert_eq!(outcomes(&result), expected);
        assert!(queries(&result)[2].1.contains("conf/bblayers.conf is not as"), "{:#?}", queries(&result));
    }
    assert_eq!(check.cached_results().len(), 1);
    check.assert_gone();
}

#[test]
fn one_bitbake_at_a_time_prefetches_serially() {
    let Some(check) = CheckJob::with_bitbakes("one_bitbake_at_a_time_prefetches_serially", 1) else { return };
    let ran = check.0.run();
    ran.assert_code(&[0]);
    ran.assert_says(&["not in parallel: [check] max_parallel_bitbakes is 1"]);
    assert_eq!(outcomes(&check.0.result()), SERIAL);
    assert_eq!(check.arguments(), [WORLD, LENIENT, "-p", CLASS]);
}
