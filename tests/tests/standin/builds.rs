//! Builds and what they publish.

use build_agent_tests::{Sandbox, json};

/// A job that builds `hello` and publishes what it deploys, without the checks.
fn builder(test: &str) -> Option<Sandbox> {
    let sandbox = Sandbox::new(test)?;
    let text = sandbox.manifest_text().replace(
        "[limits]",
        "[[artifacts.rules]]\ninclude = \"tmp/deploy/images/**\"\nrequired = true\n\n[limits]",
    );
    sandbox.write_manifest(&format!("{text}\n[build]\ntargets = [\"hello\"]\n"));
    Some(sandbox)
}

#[test]
fn what_is_deployed_is_published_and_the_index_names_it() {
    let Some(sandbox) = builder("what_is_deployed_is_published_and_the_index_names_it") else { return };
    sandbox.run().assert_code(&[0]);
    let result = sandbox.result();
    assert_eq!(result["outcome"], "passed");
    let index = find(&sandbox.artifacts(), "index.json").expect("an index");
    let text = json(&index).to_string();
    assert!(text.contains("hello-qemux86-64-20260101000000.bin"), "{text}");
    let published = find(&sandbox.artifacts(), "hello-qemux86-64-20260101000000.bin").expect("the file");
    assert_eq!(std::fs::read_to_string(published).unwrap(), "the deployed hello\n");
    // The link is recorded and its target not published twice.
    assert!(text.contains("\"hello-qemux86-64.bin\"") || text.contains("/hello-qemux86-64.bin\""), "{text}");
    sandbox.assert_nothing_runs();
}

#[test]
fn a_failed_task_is_named_with_the_lines_that_matter() {
    let Some(sandbox) = builder("a_failed_task_is_named_with_the_lines_that_matter") else { return };
    sandbox.behaviour("bitbake fail do_compile");
    let ran = sandbox.run();
    ran.assert_code(&[1]);
    ran.assert_says(&["do_compile", "hello.c:3:1: error: expected"]);
    let result = sandbox.result();
    assert_eq!(result["outcome"], "failed");
    assert!(result.to_string().contains("do_compile"));
}

/// What BitBake does, and the right statuses. None is green.
#[test]
fn a_build_that_proved_nothing_is_not_green() {
    let Some(sandbox) = builder("a_build_that_proved_nothing_is_not_green") else { return };
    let table: [(&str, &[i32]); 4] =
        [("lie-pass", &[1, 70]), ("nothing", &[1, 70]), ("crash", &[1, 70]), ("kill", &[1, 3, 70])];
    for (behaviour, codes) in table {
        println!("bitbake {behaviour}");
        sandbox.behaviour(&format!("bitbake {behaviour}"));
        sandbox.run().assert_code(codes);
        assert_ne!(sandbox.result()["outcome"], "passed", "{behaviour}");
        sandbox.assert_nothing_runs();
    }
}

#[test]
fn a_required_rule_that_matches_nothing_fails() {
    let Some(sandbox) = builder("a_required_rule_that_matches_nothing_fails") else { return };
    sandbox.change_manifest("tmp/deploy/images/**", "tmp/deploy/sdk/**");
    let ran = sandbox.run();
    ran.assert_code(&[1]);
    ran.assert_says(&["tmp/deploy/sdk/**"]);
    assert_ne!(sandbox.result()["outcome"], "passed");
}

fn find(directory: &std::path::Path, name: &str) -> Option<std::path::PathBuf> {
    let mut left = vec![directory.to_path_buf()];
    while let Some(path) = left.pop() {
        for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
            if entry.file_name() == name {
                return Some(entry.path());
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                left.push(entry.path());
            }
        }
    }
    None
}
