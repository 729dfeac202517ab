//! Answers that BitBake gave before: used for the same question alone, never for a failing verdict.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use build_agent_tests::{Sandbox, cases, commit, no_rooms, skip, well_formed_xml};
use nix::sys::signal::Signal;
use serde_json::Value;

/// A job whose yocto-check-layer asks its questions.
pub struct Asking(pub Sandbox);

impl Asking {
    pub fn new(test: &str) -> Option<Asking> {
        Asking::side_by_side(test, 2)
    }

    /// So many BitBakes may run in parallel, whatever this machine has.
    pub fn side_by_side(test: &str, bitbakes: u64) -> Option<Asking> {
        if let Some(reason) = no_rooms(bitbakes) {
            skip(test, &reason);
            return None;
        }
        let sandbox = Sandbox::new(test)?;
        let recipe = sandbox.upstream().join("meta/recipes-core/zlib/zlib_1.0.bb");
        std::fs::create_dir_all(recipe.parent().unwrap()).unwrap();
        std::fs::write(recipe, "SUMMARY = \"zlib\"\n").unwrap();
        sandbox.change_manifest("[check]", &format!("[check]\nside_by_side = {bitbakes}"));
        let asking = Asking(sandbox);
        std::fs::create_dir(asking.note("")).unwrap();
        std::fs::set_permissions(asking.note(""), std::fs::Permissions::from_mode(0o777)).unwrap();
        asking.0.behaviour(&format!("yocto-check-layer ask\nbitbake notes {}", asking.note("").display()));
        Some(asking)
    }

    /// Runs the job; the exit status must be this.
    #[track_caller]
    pub fn run(&self, code: i32) -> Value {
        self.0.run().assert_code(&[code]);
        self.0.result()
    }

    #[track_caller]
    pub fn run_plainly(&self, code: i32) -> Value {
        let mut command = self.0.run_command();
        command.arg("--no-memo");
        self.0.start(command).wait().assert_code(&[code]);
        self.0.result()
    }

    pub fn job(&self) -> PathBuf {
        self.0.work().join("meta-tested-scarthgap")
    }

    /// Where the stand-in for BitBake takes notes and finds orders.
    pub fn note(&self, name: &str) -> PathBuf {
        self.0.path().join("notes").join(name)
    }

    /// How many signature files each BitBake left that was asked for signatures, and how many of them are not empty.
    pub fn signature_files(&self) -> Vec<(usize, usize)> {
        let notes = std::fs::read_to_string(self.note("signature-files")).unwrap_or_default();
        let number = |text: &str| text.split(' ').next().unwrap().parse().unwrap();
        let pair =
            |line: &str| line.split_once(", ").map(|(files, written)| (number(files), number(written)));
        notes.lines().map(|line| pair(line).unwrap()).collect()
    }

    /// How often the stand-in for BitBake was asked for signatures, from the first run on.
    pub fn calls(&self) -> Vec<String> {
        let calls = std::fs::read_to_string(self.note("calls")).unwrap_or_default();
        calls.lines().map(str::to_owned).collect()
    }

    pub fn in_layer(&self, path: &str) -> PathBuf {
        self.0.layer().join(path)
    }

    pub fn answers(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.job().join("signatures/answers")).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

/// The outcomes when nothing is known, and when the layer alone has changed.
pub const COLD: [&str; 5] = ["miss", "ahead", "ahead", "ahead", "ahead"];
pub const CHANGED: [&str; 5] = ["hit", "ahead", "ahead", "ahead", "ahead"];

/// The outcomes of the questions and why, in their order.
pub fn memo(result: &Value) -> Vec<(String, String)> {
    let units = result["units"].as_array().unwrap();
    let memo = units.iter().filter_map(|unit| unit["memo"].as_array()).flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    memo.map(|memo| (text(&memo["outcome"]), text(&memo["why"]))).collect()
}

pub fn outcomes(result: &Value) -> Vec<String> {
    memo(result).into_iter().map(|(outcome, _)| outcome).collect()
}

#[test]
fn the_second_check_of_the_same_asks_bitbake_nothing() {
    let Some(asking) = Asking::new("the_second_check_of_the_same_asks_bitbake_nothing") else { return };
    let first = asking.run(0);
    assert_eq!(outcomes(&first), COLD);
    let calls = asking.calls();
    assert_eq!(calls.len(), 4);
    assert!(
        calls.iter().all(|call| !call.contains(&format!("{}/", asking.job().display()))),
        "BitBake sees nothing of the agent's on the PATH: {calls:#?}"
    );
    // Whatever BitBake would say now, nobody asks it.
    std::fs::write(asking.note("refuse"), "").unwrap();
    let second = asking.run(0);
    assert_eq!(outcomes(&second), ["hit"; 5], "{:#?}", memo(&second));
    assert_eq!(asking.calls().len(), 4);
    assert_eq!(cases(&first), cases(&second));
    let unit = second["units"].as_array().unwrap().iter().find(|unit| unit["memo"].is_array()).unwrap();
    assert!(unit["memo"][0]["seconds_saved"].is_number(), "{unit:#}");
    well_formed_xml(&asking.0.out().join("junit.xml"), "testcase");
    let junit = std::fs::read_to_string(asking.0.out().join("junit.xml")).unwrap();
    assert!(junit.contains("5 of 5 used"), "{junit}");
    assert!(!asking.job().join("shim").exists(), "the shim is gone");
    asking.0.assert_nothing_runs();
}

#[test]
fn no_memo_is_plain() {
    let Some(asking) = Asking::new("no_memo_is_plain") else { return };
    let plain = asking.run_plainly(0);
    assert_eq!((memo(&plain).len(), asking.calls().len()), (0, 5));
    let with = asking.run(0);
    assert_eq!(outcomes(&with), COLD);
    assert_eq!(cases(&plain), cases(&with));
    let calls = asking.calls();
    let (plain, with) = calls.split_at(5);
    assert!(
        with.len() == 4 && with.iter().all(|call| plain.contains(call)),
        "the real one sees the same PATH and variables either way: {calls:#?}"
    );
    assert_eq!(outcomes(&asking.run_plainly(0)).len(), 0);
    assert_eq!(asking.calls().len(), 14);
}

/// Nobody reads the signature files of a check that passes.
#[test]
fn signature_files_are_written_when_somebody_may_read_them() {
    let test = "signature_files_are_written_when_somebody_may_read_them";
    let Some(asking) = Asking::new(test) else { return };
    let recipes = |files: &[(usize, usize)]| files.iter().map(|(files, _)| *files).collect::<Vec<_>>();
    let begin = || std::fs::remove_file(asking.note("signature-files")).ok();
    asking.run_plainly(0);
    let plain = asking.signature_files();
    assert!(
        plain.len() == 4 && plain.iter().all(|(files, written)| files == written && *files > 0),
        "{plain:?}"
    );
    begin();
    asking.run(0);
    let fast = asking.signature_files();
    // Each world once, and those with the layer in parallel.
    assert_eq!(recipes(&fast), [recipes(&plain)[0], recipes(&plain)[1], recipes(&plain)[3]]);
    assert!(fast.iter().all(|(_, written)| *written == 0), "{fast:?}");
    begin();
    std::fs::write(asking.in_layer("recipes-hello/zlib_%.bbappend"), "A = \"1\"\n").unwrap();
    asking.run(1);
    let [world, class, base_again, world_again] = asking.signature_files()[..] else { panic!() };
    assert_eq!((world.1, class.1), (0, 0));
    assert_eq!((base_again.1, world_again.1), (base_again.0, world_again.0), "both worlds are compared");
    begin();
    std::fs::write(asking.in_layer("recipes-hello/zlib_%.bbappend"), "A = \"2\"\n").unwrap();
    let mut command = asking.0.run_command();
    command.arg("--write-signatures");
    asking.0.start(command).wait().assert_code(&[1]);
    let written = asking.signature_files();
    assert!(!written.is_empty() && written.iter().all(|(files, written)| files == written), "{written:?}");
    asking.0.assert_nothing_runs();
}

/// The old way works as well.
#[test]
fn a_bitbake_that_the_starter_does_not_know_writes_its_signature_files() {
    let test = "a_bitbake_that_the_starter_does_not_know_writes_its_signature_files";
    let Some(asking) = Asking::new(test) else { return };
    let program = asking.0.upstream().join("bitbake/bin/bitbake");
    let text = std::fs::read_to_string(&program).unwrap();
    std::fs::write(&program, text.replacen("#!/usr/bin/env python3", "#!/usr/bin/env -S python3", 1))
        .unwrap();
    commit(&asking.0.upstream(), "Start BitBake in another way");
    let ran = asking.0.run();
    ran.assert_code(&[0]);
    ran.assert_says(&["BitBake writes its signature files, which takes longer: the first line of"]);
    assert_eq!(outcomes(&asking.0.result()), COLD);
    let files = asking.signature_files();
    assert!(files.len() == 3 && files.iter().all(|(files, written)| files == written), "{files:?}");
}

#[test]
fn without_prefetching_bitbake_is_asked_when_the_tool_asks() {
    let test = "without_prefetching_bitbake_is_asked_when_the_tool_asks";
    let Some(asking) = Asking::new(test) else { return };
    for wanted in [["miss", "miss", "miss", "hit", "miss"], ["hit"; 5]] {
        let mut command = asking.0.run_command();
        command.arg("--no-prefetch");
        asking.0.start(command).wait().assert_code(&[0]);
        assert_eq!(outcomes(&asking.0.result()), wanted);
    }
    assert_eq!(asking.calls().len(), 4);
}

type Change = fn(&Asking);

/// After each change the fast verdict is the plain one; which questions were answered is told as well.
#[test]
fn every_change_gives_the_plain_verdict() {
    let Some(asking) = Asking::new("every_change_gives_the_plain_verdict") else { return };
    let hello = "recipes-hello/hello/hello_1.0.bb";
    // The name, the change, the verdict, and whether the world without the layer was known.
    let table: [(&str, Change, i32, bool); 12] = [
        ("nothing", |_| {}, 0, true),
        (
            "recipe",
            |a| std::fs::write(a.in_layer("recipes-hello/hello/hello_1.0.bb"), "A = \"2\"\n").unwrap(),
            0,
            true,
        ),
        (
            "recipe added",
            |a| std::fs::write(a.in_layer("recipes-hello/hello/new_1.0.bb"), "").unwrap(),
            0,
            true,
        ),
        (
            "recipe removed",
            |a| std::fs::remove_file(a.in_layer("recipes-hello/hello/new_1.0.bb")).unwrap(),
            0,
            true,
        ),
        (
            "mode",
            |a| {
                let path = a.in_layer("recipes-hello/hello/hello_1.0.bb");
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
            },
            0,
            true,
        ),
        (
            "link",
            |a| symlink("hello_1.0.bb", a.in_layer("recipes-hello/hello/link_1.0.bb")).unwrap(),
            0,
            true,
        ),
        (
            "layer.conf",
            |a| {
                let path = a.in_layer("conf/layer.conf");
                let text = std::fs::read_to_string(&path).unwrap();
                std::fs::write(path, text + "X = \"1\"\n").unwrap();
            },
            0,
            true,
        ),
        (
            "a bbappend that changes a signature",
            |a| {
                std::fs::write(a.in_layer("recipes-hello/zlib_%.bbappend"), "A = \"1\"\n").unwrap();
            },
            1,
            true,
        ),
        (
            "without it",
            |a| std::fs::remove_file(a.in_layer("recipes-hello/zlib_%.bbappend")).unwrap(),
            0,
            true,
        ),
        (
            "a class that changes all signatures",
            |a| {
                std::fs::create_dir(a.in_layer("classes")).unwrap();
                std::fs::write(a.in_layer("classes/x.bbclass"), "A = \"1\"\n").unwrap();
            },
            1,
            true,
        ),
        (
            "a recipe that does not parse",
            |a| {
                std::fs::remove_dir_all(a.in_layer("classes")).unwrap();
                std::fs::write(a.in_layer("recipes-hello/hello/broken_1.0.bb"), "BROKEN\n").unwrap();
            },
            1,
            true,
        ),
        (
            "a dependency",
            |a| {
                std::fs::remove_file(a.in_layer("recipes-hello/hello/broken_1.0.bb")).unwrap();
                std::fs::write(a.0.upstream().join("meta/recipes-core/zlib/zlib_1.0.bb"), "A = \"2\"\n")
                    .unwrap();
                commit(&a.0.upstream(), "Change zlib");
            },
            0,
            false,
        ),
    ];
    asking.run(0);
    for (name, change, code, base_known) in table {
        change(&asking);
        let fast = asking.run(code);
        let first = &memo(&fast)[0];
        assert_eq!(first.0 == "hit", base_known, "{name}: {first:?}");
        let plain = asking.run_plainly(code);
        assert_eq!(cases(&fast), cases(&plain), "{name}");
        assert_eq!(fast["outcome"], plain["outcome"], "{name}");
    }
    assert!(asking.in_layer(hello).exists());
}

#[test]
fn what_changed_is_named() {
    let Some(asking) = Asking::new("what_changed_is_named") else { return };
    asking.run(0);
    std::fs::write(asking.in_layer("recipes-hello/hello/hello_1.0.bb"), "A = \"2\"\n").unwrap();
    let result = asking.run(0);
    let why = &memo(&result)[3].1;
    assert!(why.contains("recipes-hello/hello/hello_1.0.bb"), "{why}");
    asking.0.change_manifest("[check]", "[config]\nlocal_conf = 'SALT = \"1\"'\n\n[check]");
    let ran = asking.0.run();
    ran.assert_code(&[0]);
    ran.assert_says(&["conf/local.conf changed"]);
    assert_eq!(outcomes(&asking.0.result()), COLD);
}

#[test]
fn after_a_damaged_answer_bitbake_runs() {
    let Some(asking) = Asking::new("after_a_damaged_answer_bitbake_runs") else { return };
    asking.run(0);
    for answer in asking.answers() {
        std::fs::write(answer.join("signatures"), "SIGGEN_LOCKEDSIGS_t-x = \"\"").unwrap();
    }
    let result = asking.run(0);
    assert_eq!(outcomes(&result), COLD);
    assert!(memo(&result).iter().all(|(_, why)| why.contains("damaged")), "{:#?}", memo(&result));
    assert_eq!(asking.calls().len(), 8);
    assert_eq!(outcomes(&asking.run(0)), ["hit"; 5]);
}

#[test]
fn after_a_recipe_that_asks_a_server_nothing_is_stored() {
    let test = "after_a_recipe_that_asks_a_server_nothing_is_stored";
    let Some(asking) = Asking::new(test) else { return };
    std::fs::write(asking.in_layer("recipes-hello/hello/hello_1.0.bb"), "SRCREV = \"${AUTOREV}\"\n").unwrap();
    for _ in 0..2 {
        let memo = memo(&asking.run(0));
        let told: Vec<_> =
            memo.iter().map(|(outcome, why)| (outcome.as_str(), why.contains("asks a server"))).collect();
        assert_eq!(told[1..], [("off", true); 4], "{memo:#?}");
    }
    assert_eq!(asking.answers().len(), 1, "only the world without the layer is known");
}

#[test]
fn what_reaches_outside_turns_it_off() {
    let Some(asking) = Asking::new("what_reaches_outside_turns_it_off") else { return };
    asking.0.change_manifest("[check]", "[config]\nlocal_conf = 'require /etc/hostname'\n\n[check]");
    for _ in 0..2 {
        let memo = memo(&asking.run(0));
        assert!(
            memo.iter().all(|(outcome, why)| outcome == "off" && why.contains("/etc/hostname")),
            "{memo:#?}"
        );
    }
    assert_eq!((asking.answers().len(), asking.calls().len()), (0, 10));
}

#[test]
fn a_kill_while_bitbake_runs_leaves_no_answer() {
    let Some(asking) = Asking::new("a_kill_while_bitbake_runs_leaves_no_answer") else { return };
    asking.run(0);
    let known = asking.answers().len();
    std::fs::write(asking.in_layer("recipes-hello/hello/hello_1.0.bb"), "A = \"2\"\n").unwrap();
    std::fs::write(asking.note("hang"), "").unwrap();
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let before = asking.calls().len();
        let mut running = asking.0.start(asking.0.run_command());
        running.wait_until("a question to BitBake", || asking.calls().len() > before);
        running.signal(signal);
        running.wait();
        assert_eq!(asking.answers().len(), known);
        if signal == Signal::SIGTERM {
            asking.0.assert_nothing_runs();
            assert!(!asking.job().join("ahead/meta-tested").exists());
        }
    }
    std::fs::remove_file(asking.note("hang")).unwrap();
    assert_eq!(outcomes(&asking.run(0)), CHANGED);
    assert_eq!(outcomes(&asking.run(0)), ["hit"; 5]);
    asking.0.assert_nothing_runs();
    assert!(!asking.job().join("ahead/meta-tested").exists());
}

/// Where layer code runs as another user, it can neither read nor write the store.
#[test]
fn the_store_is_closed_to_layer_code() {
    let Some(asking) = Asking::new("the_store_is_closed_to_layer_code") else { return };
    asking.run(0);
    let mode = std::fs::metadata(asking.job().join("signatures")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

/// An answer is a verdict in the making: none goes from an untrusted build to a trusted one.
#[test]
fn answers_on_the_share_follow_the_rules_of_trust() {
    let Some(asking) = Asking::new("answers_on_the_share_follow_the_rules_of_trust") else { return };
    let share = asking.0.path().join("share");
    std::fs::create_dir(&share).unwrap();
    asking.0.change_manifest("[check]", &format!("[cache]\nshare = {share:?}\n\n[check]"));
    let run = |trusted: bool| {
        let mut command = asking.0.run_command();
        if trusted {
            command.arg("--trusted");
        } else {
            command.env("CODEBUILD_BUILD_ID", "p:1").env("CODEBUILD_SRC_DIR", asking.0.layer());
            command.env("CODEBUILD_WEBHOOK_EVENT", "PULL_REQUEST_UPDATED");
            command.env("CODEBUILD_WEBHOOK_TRIGGER", "pr/12");
        }
        asking.0.start(command).wait().assert_code(&[0]);
        outcomes(&asking.0.result())
    };
    let count = |part: &str| {
        let answers = std::fs::read_dir(share.join(part).join("signatures/answers"));
        answers.map_or(0, Iterator::count)
    };
    // The first one puts the checkouts on the share, where all later ones use them: paths are inputs.
    assert_eq!(run(true), COLD);
    run(true);
    let shared = count("");
    assert!(shared >= 4 && count("pr/12") == 0);
    assert_eq!(run(false), ["hit"; 5], "a pull request reads what trusted builds left");
    std::fs::write(asking.in_layer("recipes-hello/hello/hello_1.0.bb"), "A = \"2\"\n").unwrap();
    assert_eq!(run(false), CHANGED);
    assert_eq!((count(""), count("pr/12")), (shared, 3), "and writes its own part");
    // Another machine has no local answers.
    std::fs::remove_dir_all(asking.job()).unwrap();
    assert_eq!(run(false), ["hit"; 5]);
    assert_eq!(run(true), CHANGED, "a trusted build reads nothing of a pull request");
    assert_eq!((count(""), count("pr/12")), (shared + 3, 3));
}
