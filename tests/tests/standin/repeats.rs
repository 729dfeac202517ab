//! What becomes of a failure when answers were stored: no verdict but a pass depends on them.

use serde_json::Value;

use crate::memo::{Asking, COLD, memo, outcomes};

/// How many runs of the tool came before the one that asked.
fn repeats(result: &Value) -> Vec<u64> {
    let units = result["units"].as_array().unwrap();
    let memo = units.iter().filter_map(|unit| unit["memo"].as_array()).flatten();
    memo.map(|memo| memo["repeat"].as_u64().unwrap_or(0)).collect()
}

#[test]
fn a_failing_verdict_never_rests_on_a_stored_answer() {
    let Some(asking) = Asking::new("a_failing_verdict_never_rests_on_a_stored_answer") else { return };
    std::fs::write(asking.in_layer("recipes-hello/zlib_%.bbappend"), "A = \"1\"\n").unwrap();
    let again = ["miss", "hit", "miss", "hit", "hit"];
    // Of a cold run the answers are fresh, and what is missing are files to compare.
    let on = ["signature files that were not written", "cached answers"];
    for ((first, calls), on) in [(COLD, 4 + 2), (["hit"; 5], 4 + 2 + 2)].into_iter().zip(on) {
        let ran = asking.0.run();
        ran.assert_code(&[1]);
        ran.assert_says(&[
            &format!(
                "test_signatures depends on {on}; it runs again, and BitBake itself answers the world \
             without the layer and the world with the layer"
            ),
            "signatures of the world, again: asked BitBake, because what failed depends on it",
        ]);
        let result = asking.0.result();
        assert_eq!(outcomes(&result), [first, again].concat());
        assert_eq!(repeats(&result), [[0; 5], [1; 5]].concat());
        assert_eq!(asking.calls().len(), calls, "those two worlds again, and nothing else");
        let junit = std::fs::read_to_string(asking.0.out().join("junit.xml")).unwrap();
        assert!(junit.contains("3 of 5 used"), "{junit}");
    }
    assert!(asking.0.out().join("logs/yocto-check-layer-meta-tested-again.log").is_file());
}

/// BitBake's answers were plain all the same: what is missing is only what it says of the difference.
#[test]
fn a_difference_is_explained_from_files_that_are_whole() {
    let test = "a_difference_is_explained_from_files_that_are_whole";
    let Some(asking) = Asking::side_by_side(test, 1) else { return };
    std::fs::write(asking.in_layer("recipes-hello/zlib_%.bbappend"), "A = \"1\"\n").unwrap();
    let ran = asking.0.run();
    ran.assert_code(&[1]);
    ran.assert_says(&["test_signatures depends on signature files that were not written; it runs again"]);
    let result = asking.0.result();
    assert_eq!(repeats(&result), [[0; 5], [1; 5]].concat());
    assert_eq!(outcomes(&result)[5..], ["miss", "hit", "miss", "hit", "hit"]);
}

/// Of each test alone; the answers themselves are well.
#[test]
fn only_what_a_failure_depends_on_is_asked_again() {
    let Some(asking) = Asking::new("only_what_a_failure_depends_on_is_asked_again") else { return };
    let table = [
        ("test_parse", [1].as_slice()),
        ("test_signatures", &[0, 2]),
        // The world with the layer is asked twice; the second time it is answered already.
        ("test_world", &[2]),
        ("test_world_inherit_class", &[4]),
        ("test_world_inherit_class test_parse", &[1, 4]),
    ];
    for (tests, anew) in table {
        let notes = asking.note("").display().to_string();
        // A commit of the upstream, so that nothing is known at first.
        asking.0.behaviour(&format!("yocto-check-layer ask {tests}\nbitbake notes {notes}"));
        let again: Vec<_> = (0..5).map(|n| if anew.contains(&n) { "miss" } else { "hit" }).collect();
        for (first, asked) in [(COLD, 4), (["hit"; 5], 0)] {
            // What BitBake said in this very run is good enough, but for files of signatures.
            let repeats = asked == 0 || tests == "test_signatures";
            let (again, anew) = if repeats { (again.as_slice(), anew.len()) } else { (&[][..], 0) };
            let before = asking.calls().len();
            let result = asking.run(1);
            assert_eq!(outcomes(&result), [&first[..], again].concat(), "{tests}: {:#?}", memo(&result));
            assert_eq!(asking.calls().len() - before, asked + anew, "{tests}");
        }
    }
}

/// What the first question shows holds for all: in vain is slower than plain.
#[test]
fn nothing_is_prefetched_after_a_first_answer_that_was_not_stored() {
    let test = "nothing_is_prefetched_after_a_first_answer_that_was_not_stored";
    let Some(asking) = Asking::new(test) else { return };
    std::fs::write(asking.note("doubt"), "").unwrap();
    let ran = asking.0.run();
    ran.assert_code(&[0]);
    ran.assert_says(&["prefetch stopped: the first answer was not stored", "basehash value changed"]);
    assert_eq!(outcomes(&asking.0.result()), ["miss"; 5]);
    assert_eq!(asking.calls().len(), 5);
}

/// What has nothing to do with BitBake's answers stands as it is.
#[test]
fn a_failure_without_the_world_is_not_repeated() {
    let Some(asking) = Asking::new("a_failure_without_the_world_is_not_repeated") else { return };
    let notes = asking.note("").display().to_string();
    asking.0.behaviour(&format!("yocto-check-layer ask test_layerseries_compat\nbitbake notes {notes}"));
    for wanted in [COLD, ["hit"; 5]] {
        let ran = asking.0.run();
        ran.assert_code(&[1]);
        ran.assert_says(&["test_layerseries_compat"]);
        assert_eq!(outcomes(&asking.0.result()), wanted);
        assert_eq!(asking.calls().len(), 4);
    }
    assert!(!asking.0.out().join("logs/yocto-check-layer-meta-tested-again.log").exists());
    // One of each: what the one depends on.
    std::fs::write(asking.in_layer("recipes-hello/zlib_%.bbappend"), "A = \"1\"\n").unwrap();
    let ran = asking.0.run();
    ran.assert_says(&["meta-tested: test_signatures depends on", "test_layerseries_compat", "it runs again"]);
}

/// A stored answer that makes a layer fail which would pass: BitBake decides, and the answer is gone.
#[test]
fn a_wrong_failure_is_mended_by_the_plain_run() {
    let Some(asking) = Asking::new("a_wrong_failure_is_mended_by_the_plain_run") else { return };
    asking.run(0);
    // The agent's user alone could do this: all digests fit.
    for answer in asking.answers() {
        let text = std::fs::read_to_string(answer.join("answer.json")).unwrap();
        let mut description: Value = serde_json::from_str(&text).unwrap();
        let has_layer =
            description["parts"].get(format!("files of {}", asking.0.layer().display())).is_some();
        if description["question"] == "signatures of the world" && has_layer {
            let signatures = std::fs::read_to_string(answer.join("signatures")).unwrap();
            let wrong = signatures.replace("zlib:do_build:", "zlib:do_build:f");
            description["files"]["signatures"] = sha256(wrong.as_bytes()).into();
            std::fs::write(answer.join("signatures"), wrong).unwrap();
            std::fs::write(answer.join("answer.json"), description.to_string()).unwrap();
        }
    }
    let result = asking.run(0);
    let again = ["miss", "hit", "miss", "off", "off"];
    assert_eq!(outcomes(&result), [["hit"; 5], again].concat(), "{:#?}", memo(&result));
    assert!(memo(&result)[7].1.contains("another answer to the same query"), "{:#?}", memo(&result));
    assert_eq!(asking.calls().len(), 4 + 4);
    assert_eq!(outcomes(&asking.run(0)), ["hit", "hit", "miss", "hit", "hit"]);
}

fn sha256(bytes: &[u8]) -> String {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let mut child =
        Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("sha256sum");
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()[..64].to_owned()
}
