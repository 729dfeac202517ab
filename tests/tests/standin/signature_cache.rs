//! Cached results of BitBake: used only for the same query, and never for a failing verdict.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

use build_agent_tests::{Sandbox, cannot_run_parallel, cases, commit, skip, well_formed_xml};
use nix::sys::signal::Signal;
use serde_json::Value;

/// A job whose yocto-check-layer sends its queries.
pub struct CheckJob(pub Sandbox);

impl CheckJob {
    pub fn new(test: &str) -> Option<CheckJob> {
        CheckJob::with_bitbakes(test, 2)
    }

    /// Allows this number of parallel BitBake processes, whatever this machine has.
    pub fn with_bitbakes(test: &str, bitbakes: u64) -> Option<CheckJob> {
        if let Some(reason) = cannot_run_parallel(bitbakes) {
            skip(test, &reason);
            return None;
        }
        let sandbox = Sandbox::new(test)?;
        let recipe = sandbox.upstream().join("meta/recipes-core/zlib/zlib_1.0.bb");
        std::fs::create_dir_all(recipe.parent().unwrap()).unwrap();
        std::fs::write(recipe, "SUMMARY = \"zlib\"\n").unwrap();
        sandbox.change_manifest("[check]", &format!("[check]\nside_by_side = {bitbakes}"));
        let check = CheckJob(sandbox);
        std::fs::create_dir(check.note("")).unwrap();
        std::fs::set_permissions(check.note(""), std::fs::Permissions::from_mode(0o777)).unwrap();
        check.0.behaviour(&format!("yocto-check-layer ask\nbitbake notes {}", check.note("").display()));
        Some(check)
    }

    /// Runs the job; fails unless it exits with this status.
    #[track_caller]
    pub fn run(&self, code: i32) -> Value {
        self.0.run().assert_code(&[code]);
        self.0.result()
    }

    #[track_caller]
    pub fn run_without_cache(&self, code: i32) -> Value {
        let mut command = self.0.run_command();
        command.arg("--no-signature-cache");
        self.0.start(command).wait().assert_code(&[code]);
        self.0.result()
    }

    pub fn work_dir(&self) -> PathBuf {
        self.0.work().join("meta-tested-scarthgap")
    }

    /// The notes directory, where the BitBake stand-in records its calls and finds its instructions.
    pub fn note(&self, name: &str) -> PathBuf {
        self.0.path().join("notes").join(name)
    }

    /// For each BitBake that computed signatures: the number of its signature files, and how many of them are not
    /// empty.
    pub fn signature_files(&self) -> Vec<(usize, usize)> {
        let notes = std::fs::read_to_string(self.note("signature-files")).unwrap_or_default();
        let number = |text: &str| text.split(' ').next().unwrap().parse().unwrap();
        let pair =
            |line: &str| line.split_once(", ").map(|(files, written)| (number(files), number(written)));
        notes.lines().map(|line| pair(line).unwrap()).collect()
    }

    /// The calls of the BitBake stand-in for signatures, from the first run on.
    pub fn calls(&self) -> Vec<String> {
        let calls = std::fs::read_to_string(self.note("calls")).unwrap_or_default();
        calls.lines().map(str::to_owned).collect()
    }

    pub fn in_layer(&self, path: &str) -> PathBuf {
        self.0.layer().join(path)
    }

    pub fn cached_results(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.0.work().join("signatures/answers")).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }
}

/// The outcomes with an empty cache, and after a change of only the layer.
pub const COLD: [&str; 5] = ["miss", "ahead", "ahead", "ahead", "ahead"];
pub const CHANGED: [&str; 5] = ["hit", "ahead", "ahead", "ahead", "ahead"];

/// The outcomes of the queries with their reasons, in order.
pub fn queries(result: &Value) -> Vec<(String, String)> {
    let units = result["units"].as_array().unwrap();
    let queries = units.iter().filter_map(|unit| unit["memo"].as_array()).flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    queries.map(|queries| (text(&queries["outcome"]), text(&queries["why"]))).collect()
}

pub fn outcomes(result: &Value) -> Vec<String> {
    queries(result).into_iter().map(|(outcome, _)| outcome).collect()
}

#[test]
fn the_second_check_of_the_same_layer_does_not_run_bitbake() {
    let Some(check) = CheckJob::new("the_second_check_of_the_same_layer_does_not_run_bitbake") else {
        return;
    };
    let first = check.run(0);
    assert_eq!(outcomes(&first), COLD);
    let calls = check.calls();
    assert_eq!(calls.len(), 4);
    assert!(
        calls.iter().all(|call| !call.contains(&format!("{}/", check.work_dir().display()))),
        "BitBake sees nothing of the agent's on the PATH: {calls:#?}"
    );
    // BitBake would fail now, but it is not called.
    std::fs::write(check.note("refuse"), "").unwrap();
    let second = check.run(0);
    assert_eq!(outcomes(&second), ["hit"; 5], "{:#?}", queries(&second));
    assert_eq!(check.calls().len(), 4);
    assert_eq!(cases(&first), cases(&second));
    let unit = second["units"].as_array().unwrap().iter().find(|unit| unit["memo"].is_array()).unwrap();
    assert!(unit["memo"][0]["seconds_saved"].is_number(), "{unit:#}");
    well_formed_xml(&check.0.out().join("junit.xml"), "testcase");
    let junit = std::fs::read_to_string(check.0.out().join("junit.xml")).unwrap();
    assert!(junit.contains("5 of 5 used"), "{junit}");
    assert!(!check.work_dir().join("shim").exists(), "the shim is gone");
    check.0.assert_nothing_runs();
}

#[test]
fn no_memo_disables_the_cache() {
    let Some(check) = CheckJob::new("no_memo_disables_the_cache") else { return };
    let plain = check.run_without_cache(0);
    assert_eq!((queries(&plain).len(), check.calls().len()), (0, 5));
    let with = check.run(0);
    assert_eq!(outcomes(&with), COLD);
    assert_eq!(cases(&plain), cases(&with));
    let calls = check.calls();
    let (plain, with) = calls.split_at(5);
    assert!(
        with.len() == 4 && with.iter().all(|call| plain.contains(call)),
        "the real one sees the same PATH and variables either way: {calls:#?}"
    );
    assert_eq!(outcomes(&check.run_without_cache(0)).len(), 0);
    assert_eq!(check.calls().len(), 14);
}

/// Nobody reads the signature files of a check that passes.
#[test]
fn signature_files_are_written_when_they_are_needed() {
    let test = "signature_files_are_written_when_they_are_needed";
    let Some(check) = CheckJob::new(test) else { return };
    let recipes = |files: &[(usize, usize)]| files.iter().map(|(files, _)| *files).collect::<Vec<_>>();
    let begin = || std::fs::remove_file(check.note("signature-files")).ok();
    check.run_without_cache(0);
    let plain = check.signature_files();
    assert!(
        plain.len() == 4 && plain.iter().all(|(files, written)| files == written && *files > 0),
        "{plain:?}"
    );
    begin();
    check.run(0);
    let fast = check.signature_files();
    // Each world once, those with the layer in parallel.
    assert_eq!(recipes(&fast), [recipes(&plain)[0], recipes(&plain)[1], recipes(&plain)[3]]);
    assert!(fast.iter().all(|(_, written)| *written == 0), "{fast:?}");
    begin();
    std::fs::write(check.in_layer("recipes-hello/zlib_%.bbappend"), "A = \"1\"\n").unwrap();
    check.run(1);
    let [world, class, base_again, world_again] = check.signature_files()[..] else { panic!() };
    assert_eq!((world.1, class.1), (0, 0));
    assert_eq!((base_again.1, world_again.1), (base_again.0, world_again.0), "both worlds are compared");
    begin();
    std::fs::write(check.in_layer("recipes-hello/zlib_%.bbappend"), "A = \"2\"\n").unwrap();
    let mut command = check.0.run_command();
    command.arg("--write-signatures");
    check.0.start(command).wait().assert_code(&[1]);
    let written = check.signature_files();
    assert!(!written.is_empty() && written.iter().all(|(files, written)| files == written), "{written:?}");
    check.0.assert_nothing_runs();
}

/// The fallback works as well.
#[test]
fn a_bitbake_that_the_starter_does_not_know_writes_its_signature_files() {
    let test = "a_bitbake_that_the_starter_does_not_know_writes_its_signature_files";
    let Some(check) = CheckJob::new(test) else { return };
    let program = check.0.upstream().join("bitbake/bin/bitbake");
    let text = std::fs::read_to_string(&program).unwrap();
    std::fs::write(&program, text.replacen("#!/usr/bin/env python3", "#!/usr/bin/env -S python3", 1))
        .unwrap();
    commit(&check.0.upstream(), "Start BitBake in another way");
    let ran = check.0.run();
    ran.assert_code(&[0]);
    ran.assert_says(&["BitBake writes its signature files, which takes longer: the first line of"]);
    assert_eq!(outcomes(&check.0.result()), COLD);
    let files = check.signature_files();
    assert!(files.len() == 3 && files.iter().all(|(files, written)| files == written), "{files:?}");
}

#[test]
fn without_prefetch_bitbake_runs_when_the_tool_asks() {
    let test = "without_prefetch_bitbake_runs_when_the_tool_asks";
    let Some(check) = CheckJob::new(test) else { return };
    for expected in [["miss", "miss", "miss", "hit", "miss"], ["hit"; 5]] {
        let mut command = check.0.run_command();
        command.arg("--no-prefetch");
        check.0.start(command).wait().assert_code(&[0]);
        assert_eq!(outcomes(&check.0.result()), expected);
    }
    assert_eq!(check.calls().len(), 4);
}

type Change = fn(&CheckJob);

/// After each change, the fast verdict is the plain one; also tests which queries were hits.
#[test]
fn every_change_gives_the_plain_verdict() {
    let Some(check) = CheckJob::new("every_change_gives_the_plain_verdict") else { return };
    let hello = "recipes-hello/hello/hello_1.0.bb";
    // The name, the change, the verdict, and whether the world without the layer was a hit.
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
    check.run(0);
    for (name, change, code, base_known) in table {
        change(&check);
        let fast = check.run(code);
        let first = &queries(&fast)[0];
        assert_eq!(first.0 == "hit", base_known, "{name}: {first:?}");
        let plain = check.run_without_cache(code);
        assert_eq!(cases(&fast), cases(&plain), "{name}");
        assert_eq!(fast["outcome"], plain["outcome"], "{name}");
    }
    assert!(check.in_layer(hello).exists());
}

#[test]
fn a_miss_names_the_change() {
    let Some(check) = CheckJob::new("a_miss_names_the_change") else { return };
    check.run(0);
    std::fs::write(check.in_layer("recipes-hello/hello/hello_1.0.bb"), "A = \"2\"\n").unwrap();
    let result = check.run(0);
    let why = &queries(&result)[3].1;
    assert!(why.contains("recipes-hello/hello/hello_1.0.bb"), "{why}");
    check.0.change_manifest("[check]", "[config]\nlocal_conf = 'SALT = \"1\"'\n\n[check]");
    let ran = check.0.run();
    ran.assert_code(&[0]);
    ran.assert_says(&["conf/local.conf changed"]);
    assert_eq!(outcomes(&check.0.result()), COLD);
}

#[test]
fn a_damaged_entry_is_computed_again() {
    let Some(check) = CheckJob::new("a_damaged_entry_is_computed_again") else { return };
    check.run(0);
    for answer in check.cached_results() {
        std::fs::write(answer.join("signatures"), "SIGGEN_LOCKEDSIGS_t-x = \"\"").unwrap();
    }
    let result = check.run(0);
    assert_eq!(outcomes(&result), COLD);
    assert!(queries(&result).iter().all(|(_, why)| why.contains("damaged")), "{:#?}", queries(&result));
    assert_eq!(check.calls().len(), 8);
    assert_eq!(outcomes(&check.run(0)), ["hit"; 5]);
}

#[test]
fn a_recipe_that_asks_a_server_disables_the_cache() {
    let test = "a_recipe_that_asks_a_server_disables_the_cache";
    let Some(check) = CheckJob::new(test) else { return };
    std::fs::write(check.in_layer("recipes-hello/hello/hello_1.0.bb"), "SRCREV = \"${AUTOREV}\"\n").unwrap();
    for _ in 0..2 {
        let queries = queries(&check.run(0));
        let reported: Vec<_> =
            queries.iter().map(|(outcome, why)| (outcome.as_str(), why.contains("asks a server"))).collect();
        assert_eq!(reported[1..], [("off", true); 4], "{queries:#?}");
    }
    assert_eq!(check.cached_results().len(), 1, "only the world without the layer is known");
}

#[test]
fn a_reference_outside_the_inputs_disables_the_cache() {
    let Some(check) = CheckJob::new("a_reference_outside_the_inputs_disables_the_cache") else { return };
    check.0.change_manifest("[check]", "[config]\nlocal_conf = 'require /etc/hostname'\n\n[check]");
    for _ in 0..2 {
        let queries = queries(&check.run(0));
        assert!(
            queries.iter().all(|(outcome, why)| outcome == "off" && why.contains("/etc/hostname")),
            "{queries:#?}"
        );
    }
    assert_eq!((check.cached_results().len(), check.calls().len()), (0, 10));
}

#[test]
fn a_kill_while_bitbake_runs_stores_no_result() {
    let Some(check) = CheckJob::new("a_kill_while_bitbake_runs_stores_no_result") else { return };
    check.run(0);
    let known = check.cached_results().len();
    std::fs::write(check.in_layer("recipes-hello/hello/hello_1.0.bb"), "A = \"2\"\n").unwrap();
    std::fs::write(check.note("hang"), "").unwrap();
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let before = check.calls().len();
        let mut running = check.0.start(check.0.run_command());
        running.wait_until("a query to BitBake", || check.calls().len() > before);
        running.signal(signal);
        running.wait();
        assert_eq!(check.cached_results().len(), known);
        if signal == Signal::SIGTERM {
            check.0.assert_nothing_runs();
            assert!(!check.work_dir().join("ahead/meta-tested").exists());
        }
    }
    std::fs::remove_file(check.note("hang")).unwrap();
    assert_eq!(outcomes(&check.run(0)), CHANGED);
    assert_eq!(outcomes(&check.run(0)), ["hit"; 5]);
    check.0.assert_nothing_runs();
    assert!(!check.work_dir().join("ahead/meta-tested").exists());
}

/// If layer code runs as another user, it can neither read nor write the store.
#[test]
fn the_store_is_closed_to_layer_code() {
    let Some(check) = CheckJob::new("the_store_is_closed_to_layer_code") else { return };
    check.run(0);
    let mode = std::fs::metadata(check.0.work().join("signatures")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

/// A result decides a verdict, so no result goes from an untrusted build to a trusted one.
#[test]
fn results_on_the_share_follow_the_rules_of_trust() {
    let Some(check) = CheckJob::new("results_on_the_share_follow_the_rules_of_trust") else { return };
    let share = check.0.path().join("share");
    std::fs::create_dir(&share).unwrap();
    check.0.change_manifest("[check]", &format!("[cache]\nshare = {share:?}\n\n[check]"));
    let run = |trusted: bool| {
        let mut command = check.0.run_command();
        if trusted {
            command.arg("--trusted");
        } else {
            command.env("CODEBUILD_BUILD_ID", "p:1").env("CODEBUILD_SRC_DIR", check.0.layer());
            command.env("CODEBUILD_WEBHOOK_EVENT", "PULL_REQUEST_UPDATED");
            command.env("CODEBUILD_WEBHOOK_TRIGGER", "pr/12");
        }
        check.0.start(command).wait().assert_code(&[0]);
        outcomes(&check.0.result())
    };
    let count = |part: &str| {
        let answers = std::fs::read_dir(share.join(part).join("signatures/answers"));
        answers.map_or(0, Iterator::count)
    };
    // The first run stores the checkouts on the share, and all later runs use them there, because paths are inputs.
    assert_eq!(run(true), COLD);
    run(true);
    let shared = count("");
    assert!(shared >= 4 && count("pr/12") == 0);
    assert_eq!(run(false), ["hit"; 5], "a pull request reads what trusted builds left");
    std::fs::write(check.in_layer("recipes-hello/hello/hello_1.0.bb"), "A = \"2\"\n").unwrap();
    assert_eq!(run(false), CHANGED);
    assert_eq!((count(""), count("pr/12")), (shared, 3), "and writes its own part");
    // Another machine has no local results.
    std::fs::remove_dir_all(check.0.work()).unwrap();
    assert_eq!(run(false), ["hit"; 5]);
    assert_eq!(run(true), CHANGED, "a trusted build reads nothing of a pull request");
    assert_eq!((count(""), count("pr/12")), (shared + 3, 3));
}
