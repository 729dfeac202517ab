//! What is asked before yocto-check-layer asks it: which calls of BitBake there are, where they run,
//! and what becomes of them.

use std::process::Command;

use build_agent_tests::{cases, commit, repository, skip};
use nix::sys::signal::Signal;

use crate::memo::{Asking, CHANGED, COLD, memo, outcomes};

const ONE_AFTER_ANOTHER: [&str; 5] = ["miss", "miss", "ahead", "ahead", "miss"];

const WORLD: &str = "-S lockedsigs world";
/// As it is prefetched.
const LENIENT: &str = "-k -S lockedsigs world";
const CLASS: &str = "-S lockedsigs world yocto-check-layer";

impl Asking {
    /// The words of each call, and the build directory that it saw.
    fn places(&self) -> Vec<(String, String)> {
        let places = std::fs::read_to_string(self.note("places")).unwrap_or_default();
        let parts = places.lines().map(|line| line.split_once(' ').unwrap());
        parts.map(|(place, words)| (words.to_owned(), place.to_owned())).collect()
    }

    fn words(&self) -> Vec<String> {
        self.places().into_iter().map(|(words, _)| words).collect()
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
        assert!(!self.job().join("ahead/meta-tested").exists(), "the scratch directories are gone");
    }
}

#[test]
fn the_world_and_the_class_are_asked_in_rooms_of_their_own() {
    let Some(asking) = Asking::new("the_world_and_the_class_are_asked_in_rooms_of_their_own") else { return };
    let result = asking.run(0);
    assert_eq!(outcomes(&result), COLD);
    let places = asking.places();
    let [first, rest @ ..] = places.as_slice() else { panic!("nobody was asked") };
    assert_eq!(first.0, WORLD);
    let of = |words: &str| &rest.iter().find(|(other, _)| other == words).unwrap().1;
    assert_eq!(of(LENIENT), of("-p"), "it finds what the world has parsed: {places:#?}");
    assert!(rest.len() == 3 && rest.iter().all(|(_, place)| *place != first.1), "{places:#?}");
    assert!(rest.iter().position(|one| one.0 == LENIENT) < rest.iter().position(|one| one.0 == "-p"));
    let saved: Vec<f64> = result["units"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|unit| unit["memo"].as_array())
        .flatten()
        .map(|memo| memo["seconds_saved"].as_f64().unwrap_or(0.0))
        .collect();
    assert_eq!(saved[..2], [0.0; 2], "what was waited for saves nothing");
    asking.assert_gone();
}

#[test]
fn what_is_under_way_is_waited_for_and_not_asked_again() {
    let Some(asking) = Asking::new("what_is_under_way_is_waited_for_and_not_asked_again") else { return };
    std::fs::write(asking.note("hold yocto-check-layer"), "").unwrap();
    let mut running = asking.0.start(asking.0.run_command());
    running.wait_until("four questions", || asking.places().len() == 4);
    std::fs::remove_file(asking.note("hold yocto-check-layer")).unwrap();
    running.wait().assert_code(&[0]);
    assert_eq!(outcomes(&asking.0.result()), COLD);
    assert_eq!(asking.places().len(), 4);
    asking.assert_gone();
}

#[test]
fn only_what_is_not_known_is_prefetched() {
    let Some(asking) = Asking::new("only_what_is_not_known_is_prefetched") else { return };
    asking.run(0);
    for (left, wanted, calls) in [
        ("with INHERIT", ["hit", "hit", "hit", "hit", "miss"], vec![CLASS]),
        ("all recipes parse", ["hit", "miss", "hit", "hit", "hit"], vec!["-p"]),
    ] {
        for answer in asking.answers() {
            if std::fs::read_to_string(answer.join("answer.json")).unwrap().contains(left) {
                std::fs::remove_dir_all(answer).unwrap();
            }
        }
        std::fs::remove_file(asking.note("places")).unwrap();
        assert_eq!(outcomes(&asking.run(0)), wanted, "{left}");
        assert_eq!(asking.words(), calls, "{left}");
    }
}

#[test]
fn without_namespaces_the_world_comes_before_the_question() {
    let test = "without_namespaces_the_world_comes_before_the_question";
    let Some(asking) = Asking::new(test) else { return };
    if !["x86_64", "aarch64"].contains(&std::env::consts::ARCH) {
        return skip(test, "the stand-in for a refusing kernel does not know this processor");
    }
    let ran = asking.run_by(Command::new(repository().join("tests/stand-ins/without-unshare.py")));
    ran.assert_code(&[0]);
    ran.assert_says(&["not in parallel: build-agent-apart: the kernel refuses namespaces"]);
    assert_eq!(outcomes(&asking.0.result()), ONE_AFTER_ANOTHER);
    assert_eq!(asking.words(), [WORLD, LENIENT, "-p", CLASS]);
    let places = asking.places();
    assert!(places.iter().all(|(_, place)| *place == places[0].1), "{places:#?}");
    asking.assert_gone();
}

/// As root in a container without the right to mount: a user namespace serves, where there are any.
#[test]
fn root_without_the_right_to_mount_has_rooms_as_well() {
    let test = "root_without_the_right_to_mount_has_rooms_as_well";
    let Some(asking) = Asking::new(test) else { return };
    let mut attempt = Command::new("setpriv");
    let drop = ["--inh-caps=-sys_admin", "--bounding-set=-sys_admin"];
    attempt.args(drop).args(["setpriv", "--reuid=1", "--regid=1", "--clear-groups"]);
    attempt.args(["unshare", "--user", "--mount", "--map-root-user", "true"]);
    if !attempt.output().is_ok_and(|output| output.status.success()) {
        return skip(test, "this is not root, there is no setpriv, or ordinary users have no namespaces");
    }
    let mut setpriv = Command::new("setpriv");
    setpriv.args(drop);
    asking.run_by(setpriv).assert_code(&[0]);
    assert_eq!(outcomes(&asking.0.result()), COLD);
    asking.assert_gone();
}

#[test]
fn with_little_memory_the_world_comes_before_the_question() {
    let test = "with_little_memory_the_world_comes_before_the_question";
    let Some(asking) = Asking::new(test) else { return };
    let meminfo = asking.0.path().join("meminfo");
    std::fs::write(&meminfo, "MemTotal: 16000000 kB\nMemAvailable: 4000000 kB\n").unwrap();
    let mut unshare = Command::new("unshare");
    let mount = format!("mount --bind '{}' /proc/meminfo", meminfo.display());
    unshare.args(["--mount", "sh", "-c", &format!("{mount} && exec \"$@\""), "sh"]);
    let mut attempt = Command::new("unshare");
    attempt.args(["--mount", "sh", "-c", &mount]);
    if !attempt.output().is_ok_and(|output| output.status.success()) {
        return skip(test, "this user cannot put another file over /proc/meminfo");
    }
    let ran = asking.run_by(unshare);
    ran.assert_code(&[0]);
    ran.assert_says(&["3.8 GiB of memory are free"]);
    assert_eq!(outcomes(&asking.0.result()), ONE_AFTER_ANOTHER);
    assert_eq!(asking.words(), [WORLD, LENIENT, "-p", CLASS]);
}

/// BitBake failed in this very run, and is not asked twice.
#[test]
fn a_failure_ahead_is_the_verdict_of_this_run() {
    let Some(asking) = Asking::new("a_failure_ahead_is_the_verdict_of_this_run") else { return };
    std::fs::write(asking.in_layer("recipes-hello/hello/broken_1.0.bb"), "BROKEN\n").unwrap();
    let fast = asking.run(1);
    let told = memo(&fast);
    assert_eq!(outcomes(&fast), COLD);
    for (_, why) in &told[1..] {
        assert!(why.contains("not stored: BitBake failed"), "{told:#?}");
    }
    let mut words = asking.words();
    assert_eq!(words[0], WORLD);
    words.sort();
    assert_eq!(words, [WORLD, WORLD, CLASS, LENIENT, "-p"], "as often as the plain tool asks");
    assert_eq!(cases(&fast), cases(&asking.run_plainly(1)));
    assert_eq!(asking.words().len(), 10);
    asking.assert_gone();
    // It is never an answer later.
    let again = asking.run(1);
    assert_eq!(outcomes(&again), CHANGED);
    assert_eq!(asking.words().len(), 14);
}

/// Beside others BitBake has less memory than alone.
#[test]
fn a_failure_ahead_that_may_be_the_machines_is_asked_again() {
    let Some(asking) = Asking::new("a_failure_ahead_that_may_be_the_machines_is_asked_again") else { return };
    std::fs::write(asking.note("starve"), "").unwrap();
    let result = asking.run(0);
    let told = memo(&result);
    // Whichever of those that run in parallel comes first, and what waits for it.
    assert!(told.iter().any(|(_, why)| why.contains("prefetch failed: BitBake failed")), "{told:#?}");
    asking.assert_gone();
}

#[test]
fn a_question_that_was_not_foreseen_is_asked_plainly() {
    let Some(asking) = Asking::new("a_question_that_was_not_foreseen_is_asked_plainly") else { return };
    let script = asking.0.upstream().join("scripts/yocto-check-layer");
    let text = std::fs::read_to_string(&script).unwrap();
    std::fs::write(&script, text.replace(" INHERIT\" INHERIT=", " INHERIT\" EXTRA=1 INHERIT=")).unwrap();
    commit(&asking.0.upstream(), "Ask with another variable");
    let ran = asking.0.run();
    ran.assert_code(&[0]);
    ran.assert_says(&["environment EXTRA is new"]);
    assert_eq!(outcomes(&asking.0.result()), ["miss", "ahead", "ahead", "ahead", "miss"]);
    asking.assert_gone();
}

#[test]
fn the_machines_of_a_bsp_layer_are_asked_side_by_side() {
    let Some(asking) = Asking::new("the_machines_of_a_bsp_layer_are_asked_side_by_side") else { return };
    asking.0.change_manifest("[check]", "[check]\nmachines = [\"qemux86-64\", \"qemuarm64\"]");
    let result = asking.run(0);
    let wanted = [&["miss"][..], &["ahead"; 8]].concat();
    assert_eq!(outcomes(&result), wanted, "{:#?}", memo(&result));
    let mut words = asking.words();
    words.sort();
    let machines = ["qemuarm64", "qemux86-64"].map(|machine| format!("-k {WORLD} {machine}"));
    assert_eq!(words, [WORLD, CLASS, LENIENT, &machines[0], &machines[1], "-p"]);
    asking.assert_gone();
}

/// The job is cancelled, and killed: nothing stays behind, or the next job removes it.
#[test]
fn what_is_under_way_ends_with_the_job() {
    let Some(asking) = Asking::new("what_is_under_way_ends_with_the_job") else { return };
    asking.run(0);
    std::fs::write(asking.in_layer("recipes-hello/hello/hello_1.0.bb"), "A = \"2\"\n").unwrap();
    let holds = ["hold world", "hold yocto-check-layer"].map(|name| asking.note(name));
    for signal in [Signal::SIGINT, Signal::SIGKILL] {
        holds.iter().for_each(|hold| std::fs::write(hold, "").unwrap());
        std::fs::remove_file(asking.note("places")).unwrap();
        let mut running = asking.0.start(asking.0.run_command());
        running.wait_until("both lanes", || {
            let words = asking.words();
            words.iter().any(|one| one == LENIENT) && words.iter().any(|one| one == CLASS)
        });
        let before = asking.words();
        running.signal(signal);
        let ran = running.wait();
        if signal == Signal::SIGINT {
            ran.assert_code(&[130]);
            assert_eq!(asking.words(), before, "nothing is asked after the signal");
            asking.assert_gone();
        }
        holds.iter().for_each(|hold| std::fs::remove_file(hold).unwrap());
    }
    assert_eq!(outcomes(&asking.run(0)), CHANGED);
    asking.assert_gone();
}

/// Beside the world without the layer no code of the layer may run.
#[test]
fn the_world_without_the_layer_is_asked_alone() {
    let Some(asking) = Asking::side_by_side("the_world_without_the_layer_is_asked_alone", 3) else { return };
    let hold = asking.note("hold 2 layers");
    std::fs::write(&hold, "").unwrap();
    let mut running = asking.0.start(asking.0.run_command());
    running.wait_until("the first question", || asking.places().len() == 1);
    std::fs::remove_file(hold).unwrap();
    running.wait().assert_code(&[0]);
    assert_eq!(outcomes(&asking.0.result()), COLD);
    asking.assert_gone();
}

/// Nothing is known of such answers but what BitBake said now.
#[test]
fn answers_of_a_layer_that_is_added_in_another_way_are_not_stored() {
    let test = "answers_of_a_layer_that_is_added_in_another_way_are_not_stored";
    let Some(asking) = Asking::new(test) else { return };
    let init = asking.0.upstream().join("scripts/lib/checklayer/__init__.py");
    let text = std::fs::read_to_string(&init).unwrap();
    let known = "        f.write(\"\\nBBLAYERS += \\\"%s\\\"\\n\" % path)\n";
    assert!(text.contains(known));
    std::fs::write(&init, text.replace(known, &format!("{known}        f.write(\"# with the layer\\n\")\n")))
        .unwrap();
    commit(&asking.0.upstream(), "Add layers in another way");
    for wanted in [COLD, CHANGED] {
        let result = asking.run(0);
        assert_eq!(outcomes(&result), wanted);
        assert!(memo(&result)[2].1.contains("conf/bblayers.conf is not as"), "{:#?}", memo(&result));
    }
    assert_eq!(asking.answers().len(), 1);
    asking.assert_gone();
}

#[test]
fn one_side_by_side_is_one_after_another() {
    let Some(asking) = Asking::side_by_side("one_side_by_side_is_one_after_another", 1) else { return };
    let ran = asking.0.run();
    ran.assert_code(&[0]);
    ran.assert_says(&["not in parallel: [check] side_by_side is 1"]);
    assert_eq!(outcomes(&asking.0.result()), ONE_AFTER_ANOTHER);
    assert_eq!(asking.words(), [WORLD, LENIENT, "-p", CLASS]);
}
