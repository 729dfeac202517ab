//! Real BitBake gives the same results in a scratch build directory as in the check's own build directory.

use std::path::Path;

use serde_json::Value;

use crate::signature_cache::{Narrow, outcomes, test_results};

/// A recipe whose signature depends on the path of the build directory.
const TOPDIR: &str = "\ndo_deploy:append() {\n    : ${TOPDIR}/somewhere\n}\n";

#[test]
fn signatures_in_a_scratch_build_directory_are_the_same() {
    let Some(narrow) = Narrow::new("signatures_in_a_scratch_build_directory_are_the_same") else { return };
    narrow.recipe(TOPDIR);
    let fast = narrow.run(&[], 0);
    assert_eq!(outcomes(&fast), ["miss", "ahead", "ahead", "ahead", "ahead"]);
    let job = narrow.0.directory.path().join("work/meta-deploy-scarthgap");
    let job = if job.is_dir() { job } else { narrow.0.directory.path().join("work") };
    let stored = signatures_with_the_class(&narrow.0.directory.path().join("work"));
    let plain = narrow.run(&["--no-signature-cache"], 0);
    assert_eq!(test_results(&fast), test_results(&plain));
    // The last query is the world with the class.
    let left = std::fs::read_to_string(job.join("check/meta-deploy/locked-sigs.inc")).unwrap();
    assert!(left.contains("deploy-files:do_deploy:"), "{left}");
    assert_eq!(stored, left);
    assert!(!job.join("ahead/meta-deploy").exists());
}

fn signatures_with_the_class(caches: &Path) -> String {
    let signatures = ["signatures", "trusted/signatures"].map(|path| caches.join(path).join("answers"));
    let answers = signatures.iter().filter_map(|path| std::fs::read_dir(path).ok()).flatten().flatten();
    let of_the_class = answers.map(|entry| entry.path()).find(|answer| {
        let text = std::fs::read_to_string(answer.join("answer.json")).unwrap();
        let description: Value = serde_json::from_str(&text).unwrap();
        description["question"].as_str().unwrap().contains("INHERIT")
    });
    std::fs::read_to_string(of_the_class.expect("an answer").join("signatures")).unwrap()
}
