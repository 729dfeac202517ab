//! Stored parse caches with real BitBake: it parses only what changed, and the verdict is that of a plain run.

use std::path::Path;

use build_agent_tests::fake_s3::FakeS3;
use build_agent_tests::{Running, agent, is_left_to_the_long_run};
use serde_json::Value;

use crate::fixture::TIMEOUT;
use crate::signature_cache::{Narrow, test_results};
use crate::{BITBAKE, OE_CORE, POKY};

/// With the same handler for all queries, BitBake treats them as one configuration.
const HANDLER: &str = "BB_SIGNATURE_HANDLER = \"OEBasicHash\"\n";

const RECIPES: [&str; 2] =
    ["recipes-fixture/deploy-files/deploy-files_1.0.bb", "recipes-fixture/deploy-image/deploy-image_1.0.bb"];

/// For each query, the numbers of recipes that BitBake took from its cache and that it parsed.
fn counts(result: &Value) -> Vec<Option<(u64, u64)>> {
    let units = result["units"].as_array().unwrap();
    let queries = units.iter().filter_map(|unit| unit["memo"].as_array()).flatten();
    let count =
        |query: &Value| Some((query["recipes"]["cached"].as_u64()?, query["recipes"]["parsed"].as_u64()?));
    queries.map(count).collect()
}

/// The queries in the report.
fn reasons(result: &Value) -> String {
    let units = result["units"].as_array().unwrap();
    units.iter().map(|unit| format!("{:#}", unit["memo"])).collect()
}

fn change(narrow: &Narrow, file: &str, text: &str) {
    narrow.change(file, Path::new(&narrow.layer("")), |old| old + text);
}

/// Changes the content, but nothing except the size that any BitBake release compares.
fn change_behind_the_back(narrow: &Narrow, file: &str, text: &str) {
    let time = std::fs::metadata(narrow.layer(file)).unwrap().modified().unwrap();
    change(narrow, file, text);
    let file = std::fs::File::options().write(true).open(narrow.layer(file)).unwrap();
    file.set_modified(time).unwrap();
}

type Change = fn(&Narrow);

#[test]
fn only_changed_recipes_are_parsed_again() {
    let test = "only_changed_recipes_are_parsed_again";
    if is_left_to_the_long_run(test) {
        return;
    }
    let Some(narrow) = Narrow::new(test) else { return };
    // Only trusted sources store parse caches for other versions of a layer.
    narrow.write_manifest(HANDLER);
    std::fs::write(narrow.layer("recipes-fixture/shared.inc"), "A = \"1\"\n").unwrap();
    std::fs::create_dir_all(narrow.layer("classes")).unwrap();
    std::fs::create_dir_all(narrow.layer("lib/fixture")).unwrap();
    std::fs::write(narrow.layer("classes/fixture.bbclass"), "B = \"1\"\n").unwrap();
    std::fs::write(narrow.layer("lib/fixture/__init__.py"), "C = 1\n").unwrap();
    for recipe in RECIPES {
        change(&narrow, recipe, "\nrequire recipes-fixture/shared.inc\ninherit fixture\n");
    }
    let first = narrow.run(&["--trusted"], 0);
    // Nothing is cached at first: the world without the layer, then with it. `-p` comes between them, and BitBake
    // takes the recipes from the world's cache.
    let [Some((0, 1)), None, Some((0, of)), ..] = counts(&first)[..] else { panic!("{}", reasons(&first)) };
    // The change, the number of recipes that BitBake parses for the world with the layer and with the class (all of
    // them if the cache is not used, for the given reason), and whether the plain tool runs as well.
    type Case = (&'static str, Change, Result<u64, &'static str>, bool);
    let table: [Case; 5] = [
        ("recipe", |n| change(n, RECIPES[0], "X = \"1\"\n"), Ok(1), false),
        ("include", |n| change(n, "recipes-fixture/shared.inc", "X = \"1\"\n"), Ok(2), true),
        ("class", |n| change(n, "classes/fixture.bbclass", "X = \"1\"\n"), Err(""), false),
        ("Python", |n| change(n, "lib/fixture/__init__.py", "X = 1\n"), Err(""), false),
        (
            "behind the back",
            |n| change_behind_the_back(n, RECIPES[1], "Y = \"1\"\n"),
            Err("without a new time"),
            true,
        ),
    ];
    for (name, change, expected, plainly) in table {
        println!("{name}");
        change(&narrow);
        let fast = narrow.run(&["--trusted"], 0);
        let counts = counts(&fast);
        assert_eq!(counts[0], None, "{name}: the world without the layer is known");
        for question in [2, 4] {
            let parsed = expected.unwrap_or(of);
            let reasons = reasons(&fast);
            assert_eq!(
                counts[question],
                Some((of - parsed, parsed)),
                "{name}, question {question}: {reasons}"
            );
            assert!(reasons.contains(expected.err().unwrap_or_default()), "{name}: {reasons}");
        }
        if plainly {
            assert_eq!(
                test_results(&fast),
                test_results(&narrow.run(&["--no-signature-cache"], 0)),
                "{name}"
            );
        }
    }
}

/// Copies what was cloned, so that every file has another inode and another time. Also the layer under test.
fn clone_again(narrow: &Narrow) {
    let directory = narrow.0.directory.path();
    for name in ["work/layers", "meta-deploy", "meta-base"] {
        let (path, old) = (directory.join(name), directory.join("old"));
        std::fs::rename(&path, &old).unwrap();
        let mut copy = std::process::Command::new("cp");
        copy.args(["-r", "--preserve=mode,ownership,links", "--"]).arg(&old).arg(&path);
        assert!(copy.status().unwrap().success());
        let removed = std::process::Command::new("rm").arg("-rf").arg(&old).status();
        assert!(removed.unwrap().success());
    }
}

/// BitBake's parse caches are rebased: a fresh clone costs no parsing, and what changed is parsed as always.
fn assert_fresh_clone_parses_only_what_changed(test: &str, releases: &[&str]) {
    for release in releases {
        let Some(narrow) = Narrow::with(test, &[POKY, OE_CORE, BITBAKE]) else { return };
        println!("{release}");
        narrow.write_manifest_for(release, HANDLER, "");
        std::fs::write(narrow.layer("recipes-fixture/shared.inc"), "A = \"1\"\n").unwrap();
        for recipe in RECIPES {
            change(&narrow, recipe, "\nrequire recipes-fixture/shared.inc\n");
        }
        let first = narrow.run(&["--trusted"], 0);
        let parsed =
            |result: &Value| -> Vec<u64> { counts(result).into_iter().flatten().map(|it| it.1).collect() };
        assert!(parsed(&first).iter().any(|parsed| *parsed > 2), "{release}: {}", reasons(&first));
        // The answers are keyed by content.
        clone_again(&narrow);
        let unchanged = narrow.run(&["--trusted"], 0);
        let hits = reasons(&unchanged).matches("\"outcome\": \"hit\"").count();
        assert_eq!((hits, parsed(&unchanged).len()), (5, 0), "{release}: {}", reasons(&unchanged));
        assert_eq!(test_results(&unchanged), test_results(&first), "{release}");
        type Case = (&'static str, Change, u64);
        let short = is_left_to_the_long_run(&format!("{test}: rows beyond the short table"));
        let table: [Case; 3] = [
            ("recipe", |n| change(n, RECIPES[0], "X = \"1\"\n"), 1),
            ("include", |n| change(n, "recipes-fixture/shared.inc", "X = \"1\"\n"), 2),
            ("same size", |n| n.change(RECIPES[1], &n.0.layer(), |old| old.replace("sparse", "SPARSE")), 1),
        ];
        for (number, (name, change, expected)) in table.into_iter().enumerate() {
            if short && number == 1 {
                continue;
            }
            clone_again(&narrow);
            change(&narrow);
            assert_parses(&narrow, release, name, expected);
        }
        // The size and the time that the file had when BitBake parsed it, and other content.
        let file = narrow.layer(RECIPES[1]);
        let time = std::fs::metadata(&file).unwrap().modified().unwrap();
        clone_again(&narrow);
        narrow.change(RECIPES[1], &narrow.0.layer(), |old| old.replace("SPARSE", "Sparse"));
        std::fs::File::options().write(true).open(&file).unwrap().set_modified(time).unwrap();
        // The newest cache is refused. In the one before it the file has another time.
        assert_parses(&narrow, release, "same size and time", 1);
    }
}

/// Runs a trusted job. Checks how many recipes BitBake parses for each world, and that the verdict is that of a plain run.
#[track_caller]
fn assert_parses(narrow: &Narrow, release: &str, name: &str, expected: u64) {
    let fast = narrow.run(&["--trusted"], 0);
    let (counts, reasons) = (counts(&fast), reasons(&fast));
    // BitBake from 2.12 on hashes the code that it keeps in `bb_codeparser.dat` otherwise than code that it has just read.
    // So the query that only parses does not find the caches that the world of the same directory left.
    let only_worlds = release == "master";
    let queries = counts.into_iter().enumerate().filter(|(query, _)| !only_worlds || *query != 1);
    let parsed: Vec<u64> =
        queries.filter_map(|(_, count)| count.map(|it| it.1)).filter(|it| *it > 0).collect();
    assert!(parsed.len() >= 2, "{release}, {name}: {reasons}");
    assert!(parsed.iter().all(|parsed| *parsed == expected), "{release}, {name}: {parsed:?} {reasons}");
    assert_eq!(test_results(&fast), test_results(&narrow.run(&["--no-signature-cache"], 0)), "{name}");
}

/// BitBake of scarthgap compares the time in nanoseconds, the size and the inode.
#[test]
fn a_fresh_clone_parses_only_what_changed() {
    assert_fresh_clone_parses_only_what_changed("a_fresh_clone_parses_only_what_changed", &["scarthgap"]);
}

/// BitBake of mickledore compares seconds.
#[test]
fn a_fresh_clone_parses_only_what_changed_in_other_releases() {
    let test = "a_fresh_clone_parses_only_what_changed_in_other_releases";
    if is_left_to_the_long_run(test) {
        return;
    }
    assert_fresh_clone_parses_only_what_changed(test, &["kirkstone", "mickledore", "master"]);
}

/// A machine with an empty disk that has only a share in a bucket: nothing is cloned and nothing is parsed that another
/// machine parsed.
#[test]
fn a_fresh_machine_with_a_share_in_a_bucket_parses_only_what_changed() {
    let test = "a_fresh_machine_with_a_share_in_a_bucket_parses_only_what_changed";
    if is_left_to_the_long_run(test) {
        return;
    }
    let Some(narrow) = Narrow::new(test) else { return };
    let s3 = FakeS3::new();
    narrow.write_manifest(HANDLER);
    let directory = narrow.0.directory.path();
    let run = |words: &[&str]| -> Value {
        let mut command = agent();
        command.current_dir(narrow.0.layer()).arg("run").args(words);
        command.args(["--set", "cache.share=s3://bucket/share"]);
        command.arg("--work-dir").arg(directory.join("work")).arg("--out").arg(narrow.0.out());
        s3.configure(&mut command);
        Running::start(command, directory).wait_for(TIMEOUT).assert_code(&[0]);
        narrow.0.result()
    };
    let fresh_machine = || {
        clone_again(&narrow);
        let removed = std::process::Command::new("rm").arg("-rf").arg(directory.join("work")).status();
        assert!(removed.unwrap().success());
    };
    let first = run(&["--trusted"]);
    let parse_caches = s3.objects("share/signatures/parses/").len();
    assert!(parse_caches > 0, "{:?}", s3.objects("").keys());
    fresh_machine();
    let unchanged = run(&[]);
    let hits = reasons(&unchanged).matches("\"outcome\": \"hit\"").count();
    assert_eq!((hits, test_results(&unchanged)), (5, test_results(&first)), "{}", reasons(&unchanged));
    let events = std::fs::read_to_string(narrow.0.out().join("events.jsonl")).unwrap();
    assert!(
        events.contains("\"how\":\"stored\"") && !events.contains("\"how\":\"cloned\""),
        "poky was cloned"
    );
    // A pull request that changes a recipe.
    fresh_machine();
    change(&narrow, RECIPES[0], "X = \"1\"\n");
    let changed = run(&[]);
    let counts: Vec<(u64, u64)> = counts(&changed).into_iter().flatten().collect();
    let parsed = counts.iter().filter(|(_, parsed)| *parsed > 0).count();
    assert!(
        parsed >= 2 && counts.iter().all(|(cached, parsed)| *parsed <= 1 && *cached > 1),
        "{}",
        reasons(&changed)
    );
    assert_eq!(
        s3.objects("share/signatures/parses/").len(),
        parse_caches,
        "only trusted jobs add parse caches"
    );
    assert_eq!(test_results(&changed), test_results(&narrow.run(&["--no-signature-cache"], 0)));
}

/// Without prefetching, the query that only parses comes before the world, in the same build directory.
#[test]
fn parse_caches_also_serve_a_check_without_prefetching() {
    let test = "parse_caches_also_serve_a_check_without_prefetching";
    if is_left_to_the_long_run(test) {
        return;
    }
    let Some(narrow) = Narrow::new(test) else { return };
    narrow.write_manifest(HANDLER);
    let first = narrow.run(&["--trusted", "--no-prefetch"], 0);
    let [_, Some((0, of)), ..] = counts(&first)[..] else { panic!("{}", reasons(&first)) };
    change(&narrow, RECIPES[0], "SUMMARY = \"changed\"\n");
    let fast = narrow.run(&["--trusted", "--no-prefetch"], 0);
    let reasons = reasons(&fast);
    // The world without the layer is known; then `-p`, and the world with the layer.
    assert_eq!(counts(&fast)[..3], [None, Some((of - 1, 1)), Some((of - 1, 1))], "{reasons}");
    assert!(!reasons.contains("\"repeat\""), "{reasons}");
}
