//! Failures and cached results: only a pass may depend on a cached result.

use serde_json::Value;

use crate::signature_cache::{COLD, CheckJob, outcomes, queries};

/// For each query, the number of earlier runs of the tool.
fn repeats(result: &Value) -> Vec<u64> {
    let units = result["units"].as_array().unwrap();
    let queries = units.iter().filter_map(|unit| unit["memo"].as_array()).flatten();
    queries.map(|query| query["repeat"].as_u64().unwrap_or(0)).collect()
}

#[test]
fn a_failure_never_depends_on_a_cached_result() {
    let Some(check) = CheckJob::new("a_failure_never_depends_on_a_cached_result") else { return };
    std::fs::write(check.in_layer("recipes-hello/zlib_%.bbappend"), "A = \"1\"\n").unwrap();
    let again = ["miss", "hit", "miss", "hit", "hit"];
    // In a cold run the results are fresh; only the files to compare are missing.
    let on = ["signature files that were not written", "cached answers"];
    for ((first, calls), on) in [(COLD, 4 + 2), (["hit"; 5], 4 + 2 + 2)].into_iter().zip(on) {
        let ran = check.0.run();
        ran.assert_code(&[1]);
        ran.assert_says(&[
            &format!(
                "test_signatures depends on {on}; it runs again, and BitBake itself answers the world \
             without the layer and the world with the layer"
            ),
            "signatures of the world, in a rerun: cache miss, because what failed depends on it",
        ]);
        let result = check.0.result();
        assert_eq!(outcomes(&result), [first, again].concat());
        assert_eq!(repeats(&result), [[0; 5], [1; 5]].concat());
        assert_eq!(check.calls().len(), calls, "those two worlds again, and nothing else");
        let junit = std::fs::read_to_string(check.0.out().join("junit.xml")).unwrap();
        assert!(junit.contains("3 of 5 used"), "{junit}");
    }
    assert!(check.0.out().join("logs/yocto-check-layer-meta-tested-again.log").is_file());
}

/// BitBake's results were fresh; only its explanation of the difference is missing.
#[test]
fn a_signature_change_is_explained_from_complete_files() {
    let test = "a_signature_change_is_explained_from_complete_files";
    let Some(check) = CheckJob::with_bitbakes(test, 1) else { return };
    std::fs::write(check.in_layer("recipes-hello/zlib_%.bbappend"), "A = \"1\"\n").unwrap();
    let ran = check.0.run();
    ran.assert_code(&[1]);
    ran.assert_says(&["test_signatures depends on signature files that were not written; it runs again"]);
    let result = check.0.result();
    assert_eq!(repeats(&result), [[0; 5], [1; 5]].concat());
    assert_eq!(outcomes(&result)[5..], ["miss", "hit", "miss", "hit", "hit"]);
}

/// For each test separately; the results themselves are correct.
#[test]
fn only_the_queries_of_a_failed_test_are_repeated() {
    let Some(check) = CheckJob::new("only_the_queries_of_a_failed_test_are_repeated") else { return };
    let table = [
        ("test_parse", [1].as_slice()),
        ("test_signatures", &[0, 2]),
        // The tool queries the world with the layer twice; the second query is a cache hit.
        ("test_world", &[2]),
        ("test_world_inherit_class", &[4]),
        ("test_world_inherit_class test_parse", &[1, 4]),
    ];
    for (tests, repeated) in table {
        let notes = check.note("").display().to_string();
        // A commit of the upstream, so that the cache has no entry at first.
        check.0.behaviour(&format!("yocto-check-layer ask {tests}\nbitbake notes {notes}"));
        let again: Vec<_> = (0..5).map(|n| if repeated.contains(&n) { "miss" } else { "hit" }).collect();
        for (first, asked) in [(COLD, 4), (["hit"; 5], 0)] {
            // Results of this run are good enough, except for signature files.
            let repeats = asked == 0 || tests == "test_signatures";
            let (again, repeated) = if repeats { (again.as_slice(), repeated.len()) } else { (&[][..], 0) };
            let before = check.calls().len();
            let result = check.run(1);
            assert_eq!(outcomes(&result), [&first[..], again].concat(), "{tests}: {:#?}", queries(&result));
            assert_eq!(check.calls().len() - before, asked + repeated, "{tests}");
        }
    }
}

/// If the first result cannot be stored, no other can: a useless prefetch is slower than a plain run.
#[test]
fn prefetch_stops_if_the_first_result_cannot_be_stored() {
    let test = "prefetch_stops_if_the_first_result_cannot_be_stored";
    let Some(check) = CheckJob::new(test) else { return };
    std::fs::write(check.note("doubt"), "").unwrap();
    let ran = check.0.run();
    ran.assert_code(&[0]);
    ran.assert_says(&["prefetch stopped: the first answer was not stored", "basehash value changed"]);
    assert_eq!(outcomes(&check.0.result()), ["miss"; 5]);
    assert_eq!(check.calls().len(), 5);
}

/// A failure that depends on no query causes no rerun.
#[test]
fn a_failure_without_queries_causes_no_rerun() {
    let Some(check) = CheckJob::new("a_failure_without_queries_causes_no_rerun") else { return };
    let notes = check.note("").display().to_string();
    check.0.behaviour(&format!("yocto-check-layer ask test_layerseries_compat\nbitbake notes {notes}"));
    for expected in [COLD, ["hit"; 5]] {
        let ran = check.0.run();
        ran.assert_code(&[1]);
        ran.assert_says(&["test_layerseries_compat"]);
        assert_eq!(outcomes(&check.0.result()), expected);
        assert_eq!(check.calls().len(), 4);
    }
    assert!(!check.0.out().join("logs/yocto-check-layer-meta-tested-again.log").exists());
    // One failure of each kind: the message names what one of them depends on.
    std::fs::write(check.in_layer("recipes-hello/zlib_%.bbappend"), "A = \"1\"\n").unwrap();
    let ran = check.0.run();
    ran.assert_says(&["meta-tested: test_signatures depends on", "test_layerseries_compat", "it runs again"]);
}

/// A wrong cached result fails a layer that should pass: BitBake decides, and the entry is removed.
#[test]
fn a_wrong_cached_failure_is_fixed_by_the_rerun() {
    let Some(check) = CheckJob::new("a_wrong_cached_failure_is_fixed_by_the_rerun") else { return };
    check.run(0);
    // Only the agent's user could do this: all digests match.
    for answer in check.cached_results() {
        let text = std::fs::read_to_string(answer.join("answer.json")).unwrap();
        let mut description: Value = serde_json::from_str(&text).unwrap();
        let has_layer = description["parts"].get(format!("files of {}", check.0.layer().display())).is_some();
        if description["question"] == "signatures of the world" && has_layer {
            let signatures = std::fs::read_to_string(answer.join("signatures")).unwrap();
            let wrong = signatures.replace("zlib:do_build:", "zlib:do_build:f");
            description["files"]["signatures"] = sha256(wrong.as_bytes()).into();
            std::fs::write(answer.join("signatures"), wrong).unwrap();
            std::fs::write(answer.join("answer.json"), description.to_string()).unwrap();
        }
    }
    let result = check.run(0);
    let again = ["miss", "hit", "miss", "off", "off"];
    assert_eq!(outcomes(&result), [["hit"; 5], again].concat(), "{:#?}", queries(&result));
    assert!(queries(&result)[7].1.contains("another answer to the same query"), "{:#?}", queries(&result));
    assert_eq!(check.calls().len(), 4 + 4);
    assert_eq!(outcomes(&check.run(0)), ["hit", "hit", "miss", "hit", "hit"]);
}

fn sha256(bytes: &[u8]) -> String {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut child =
        Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sha256sum");
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()[..64].to_owned()
}
