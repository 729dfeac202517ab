//! Stored parse caches with real BitBake: it parses only what changed, and the verdict is that of a plain run.

use std::path::Path;

use build_agent_tests::is_left_to_the_long_run;
use serde_json::Value;

use crate::signature_cache::{Narrow, test_results};

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

/// Without prefetching, the query that only parses comes before the world, in the same build directory.
#[test]
fn parse_caches_also_serve_a_check_without_prefetching() {
    let Some(narrow) = Narrow::new("parse_caches_also_serve_a_check_without_prefetching") else { return };
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
