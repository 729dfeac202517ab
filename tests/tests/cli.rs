//! The command line, as far as it needs no tools: exit statuses, invalid manifests, plan, lock, schema.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::process::Output;

use build_agent_tests::{Sandbox, agent, git, json, repository};

fn call(words: &[&str]) -> Output {
    agent().args(words).current_dir("/").output().expect("the agent starts")
}

fn printed(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat()
}

#[test]
fn help_names_every_command_and_every_exit_status() {
    let output = call(&["--help"]);
    assert_eq!(output.status.code(), Some(0));
    let text = printed(&output);
    for command in ["run", "check", "plan", "lock", "doctor", "cache", "report", "schema"] {
        assert!(text.contains(&format!("  {command}")), "{command}\n{text}");
    }
    for status in ["0", "1", "2", "3", "4", "5", "70", "130"] {
        assert!(
            text.split_whitespace().any(|word| word.trim_matches(['`', ':', ',']) == status),
            "{status}\n{text}"
        );
    }
}

#[test]
fn a_wrong_command_line_is_status_2() {
    let table: [&[&str]; 10] = [
        &["fly"],
        &["run", "--no-such-option"],
        &["run", "--only", "chekout"],
        &["run", "/no/such/manifest.toml"],
        &["run", "--set", "no-equals-sign"],
        &["check", "/no/such/layer"],
        &["check", "/", "--release", "no-such-release"],
        &["doctor", "--release", "no-such-release"],
        &["doctor", "build-agent.toml", "--release", "scarthgap"],
        &["report", "/no/such/events.jsonl"],
    ];
    for words in table {
        let output = call(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}\n{}", printed(&output));
        assert!(!output.stderr.is_empty(), "{words:?} said nothing");
    }
}

#[test]
fn a_missing_release_names_the_nearest() {
    let layer = repository().join("layers-fixtures/meta-good");
    let output = call(&["check", &layer.display().to_string(), "--release", "scarthgab"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(printed(&output).contains("scarthgap"), "{}", printed(&output));
}

#[test]
fn the_schema_is_json_and_knows_the_manifests_tables() {
    let output = call(&["schema"]);
    assert_eq!(output.status.code(), Some(0));
    let schema: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    for key in
        ["version", "name", "release", "repos", "layer", "config", "check", "build", "artifacts", "limits"]
    {
        assert!(schema["properties"].get(key).is_some(), "{key}");
    }
}

/// All mistakes are reported at once, each with its position, and nothing is changed.
#[test]
fn invalid_manifests_are_status_2_and_create_no_files() {
    let Some(sandbox) = Sandbox::new("invalid_manifests_are_status_2_and_create_no_files") else { return };
    let good = sandbox.manifest_text();
    let branch = "branch = \"scarthgap\"";
    let url = |url: &str| good.replace(&format!("file://{}", sandbox.upstream().display()), url);
    let rule = |include: &str| format!("{good}\n[[artifacts.rules]]\ninclude = {include:?}\n");
    let table: [(String, &[&str]); 25] = [
        ("this is no TOML".into(), &["build-agent.toml:1"]),
        (String::new(), &["release"]),
        (good.replace("[check]", "[chekc]"), &["chekc", "check"]),
        (good.replace("stall =", "stal ="), &["stal", "stall"]),
        (good.replace("\"1m\"", "\"soon\""), &["stall", "soon"]),
        (good.replace("version = 1", "version = 99"), &["version", "99"]),
        (good.replace("version = 1", "version = \"one\""), &["version"]),
        (good.replace("release = \"scarthgap\"", "release = \"scarthgab\""), &["scarthgab", "scarthgap"]),
        (good.replace(branch, "branch = \"a\"\ntag = \"b\""), &["branch", "tag"]),
        (good.replace(branch, ""), &["branch", "tag", "commit"]),
        (good.replace("file://", "not an address "), &["url"]),
        (format!("{good}\n[layer]\npaths = []\n"), &["paths"]),
        (format!("{good}\n[layer]\npaths = [\"../../..\"]\n"), &["paths"]),
        // Addresses in the notation of other tools.
        (
            url("https://h.example/poky#x"),
            &["[repos.poky] url", "url = \"https://h.example/poky\" and", "branch = \"x\""],
        ),
        (
            url("git://h.example/poky;protocol=https;branch=x"),
            &["[repos.poky] url", "url = \"https://h.example/poky\" and", "branch = \"x\""],
        ),
        (url("git+https://h.example/poky"), &["[repos.poky] url", "write `https://h.example/poky`"]),
        (url("git@h.example:poky;branch=x"), &["[repos.poky] url", "url = \"ssh://git@h.example/poky\" and"]),
        (url("[::1]:poky"), &["[repos.poky] url", "write `ssh://[::1]/poky`"]),
        (
            url("https://u:hunter22@h.example/poky#x"),
            &["[repos.poky] url", "url = \"https://h.example/poky\" and"],
        ),
        // Rules that can never match.
        (rule("./"), &["[[artifacts.rules]] include: `./` can never match", "write `**`"]),
        (rule("/x"), &["[[artifacts.rules]] include: `/x` can never match"]),
        (rule("a/../../x"), &["[[artifacts.rules]] include", "leads out"]),
        (rule("tmp/deploy/"), &["[[artifacts.rules]] include", "write `tmp/deploy/**`"]),
        (rule(""), &["[[artifacts.rules]] include: is empty"]),
        // Two mistakes, both reported.
        (good.replace("stall =", "stal =").replace("grace =", "grase ="), &["stal", "grase"]),
    ];
    for (text, words) in table {
        sandbox.write_manifest(&text);
        let ran = sandbox.run();
        ran.assert_code(&[2]);
        ran.assert_says(words);
        ran.assert_says(&["build-agent.toml"]);
        assert!(!ran.output().contains("hunter22"), "{}", ran.output());
        for made in [sandbox.work(), sandbox.out(), sandbox.artifacts()] {
            assert!(!made.exists(), "{} was made for\n{text}", made.display());
        }
    }
}

#[test]
fn a_manifest_that_is_not_utf8_is_status_2() {
    let Some(sandbox) = Sandbox::new("a_manifest_that_is_not_utf8_is_status_2") else { return };
    std::fs::write(sandbox.manifest(), b"name = \"caf\xe9\"\n").unwrap();
    let ran = sandbox.run();
    ran.assert_code(&[2]);
    ran.assert_says(&["build-agent.toml"]);
}

#[test]
fn settings_of_the_command_line_are_checked_like_the_manifest() {
    let Some(sandbox) = Sandbox::new("settings_of_the_command_line_are_checked_like_the_manifest") else {
        return;
    };
    for (set, words) in
        [("repos.poky.brunch=master", ["brunch", "branch"]), ("limits.stall=soon", ["stall", "soon"])]
    {
        let mut command = sandbox.run_command();
        command.args(["--set", set]);
        let ran = sandbox.start(command).wait();
        ran.assert_code(&[2]);
        ran.assert_says(&words);
        assert!(!sandbox.work().exists());
    }
}

#[test]
fn plan_changes_nothing_and_says_why_stages_are_skipped() {
    let Some(sandbox) = Sandbox::new("plan_changes_nothing_and_says_why_stages_are_skipped") else { return };
    let manifest = sandbox.manifest();
    let ran = sandbox.call([Path::new("plan"), &manifest]);
    ran.assert_code(&[0]);
    ran.assert_says(&[
        "checkout",
        "configure",
        "check",
        "build",
        "test",
        "publish",
        "report",
        "[build] names no targets",
    ]);
    let ran = sandbox.call([Path::new("plan"), &manifest, Path::new("--json")]);
    ran.assert_code(&[0]);
    serde_json::from_str::<serde_json::Value>(&ran.stdout).expect("JSON");
    assert!(!sandbox.work().exists() && !sandbox.out().exists());
    assert_eq!(git(&sandbox.layer(), ["status", "--porcelain"]), "?? build-agent.toml");
}

#[test]
fn a_lock_file_requires_a_commit_for_each_repository() {
    let Some(sandbox) = Sandbox::new("a_lock_file_requires_a_commit_for_each_repository") else { return };
    let manifest = sandbox.manifest();
    let first = git(&sandbox.upstream(), ["rev-parse", "HEAD"]);
    sandbox.call([Path::new("lock"), &manifest]).assert_code(&[0]);
    let lock = sandbox.layer().join("build-agent.lock");
    assert!(std::fs::read_to_string(&lock).unwrap().contains(&first));

    // The upstream moves to a commit that fails; the lock keeps the job at the commit that passes.
    sandbox.behaviour("yocto-check-layer fail test_world");
    sandbox.run().assert_code(&[0]);
    assert!(sandbox.result().to_string().contains(&first));

    sandbox.call([Path::new("lock"), &manifest, Path::new("--update"), Path::new("poky")]).assert_code(&[0]);
    let second = git(&sandbox.upstream(), ["rev-parse", "HEAD"]);
    assert!(std::fs::read_to_string(&lock).unwrap().contains(&second));
    sandbox.run().assert_code(&[1]);
}

#[test]
fn doctor_finding_has_a_fix() {
    let Some(sandbox) = Sandbox::new("doctor_finding_has_a_fix") else { return };
    sandbox.change_manifest("/upstream/poky", "/upstream/gone");
    let ran = sandbox.call([Path::new("doctor"), &sandbox.manifest(), Path::new("--json")]);
    // Other things that this machine lacks decide between the two.
    ran.assert_code(&[3, 4]);
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(report["schema"], "build-agent/doctor/v1");
    let findings = report["findings"].as_array().unwrap();
    let remote =
        findings.iter().find(|finding| finding["name"] == "remote poky").expect("the remote was tried");
    assert_eq!(remote["state"], "failed");
    assert!(
        findings.iter().all(|finding| finding["state"] == "ok" || finding["fix"].is_string()),
        "{report:#}"
    );
    assert!(!sandbox.work().exists(), "the doctor makes nothing");
}

#[test]
fn doctor_prints_one_document_for_all_releases_of_a_matrix() {
    let Some(sandbox) = Sandbox::new("doctor_prints_one_document_for_all_releases_of_a_matrix") else {
        return;
    };
    sandbox.change_manifest("release = \"scarthgap\"", "[matrix]\nrelease = [\"kirkstone\", \"scarthgap\"]");
    let manifest = sandbox.manifest();
    let ran = sandbox.call([Path::new("doctor"), &manifest, Path::new("--json")]);
    ran.assert_code(&[0, 3, 4]);
    let report: serde_json::Value = serde_json::from_str(&ran.stdout).expect("one JSON document");
    let exit =
        ["passed", "machine", "upstream"][[0, 3, 4].iter().position(|code| ran.code == Some(*code)).unwrap()];
    assert_eq!(report["exit"], exit);
    let findings = report["findings"].as_array().unwrap();
    for release in ["kirkstone", "scarthgap"] {
        assert!(findings.iter().any(|finding| finding["release"] == release), "{release}: {report:#}");
    }
    assert!(findings.iter().all(|finding| finding["release"].is_string()));
    let text = sandbox.call([Path::new("doctor"), &manifest]);
    text.assert_says(&["kirkstone:\n", "\nscarthgap:\n"]);
}

/// A verdict belongs to one job: a caller of another job must not find it.
#[test]
fn a_wrong_command_line_invalidates_the_last_verdict() {
    let Some(sandbox) = Sandbox::new("a_wrong_command_line_invalidates_the_last_verdict") else { return };
    sandbox.run().assert_code(&[0]);
    let out = sandbox.out().display().to_string();
    let with_equals = format!("--out={out}");
    let before = std::fs::read(sandbox.out().join("result.json")).unwrap();
    let leave: [&[&str]; 4] = [
        &["--help"],
        &["run", "--help", "--out", &out],
        &["plan", "--out", &out, "--no-such-option"],
        &["report", "--out", &out, "--format", "xml", "events.jsonl"],
    ];
    for words in leave {
        sandbox.call(words).assert_code(&[0, 2]);
        assert_eq!(std::fs::read(sandbox.out().join("result.json")).unwrap(), before, "{words:?}");
    }
    let mistakes: [&[&str]; 8] = [
        &["run", "--out", &out, "--no-such-option"],
        &["run", "--no-such-option", &with_equals],
        &["run", "--only", "chekout", "--out", &out],
        &["check", "--out", &out, "--output", "xml"],
        &["run", "--out", &out, "--out", "/nonexistent"],
        &["rnu", "--out", &out],
        &["run", "a.toml", "b.toml", "--out", &out],
        &["run", "/no/such/manifest.toml", "--out", &out],
    ];
    for words in mistakes {
        std::fs::write(sandbox.out().join("result.json"), &before).unwrap();
        sandbox.call(words).assert_code(&[2]);
        assert_eq!(sandbox.result()["outcome"], "not-run", "{words:?}");
    }
    // If there was no verdict, no file is created.
    let fresh = sandbox.path().join("fresh");
    sandbox.call(["run", "--no-such-option", "--out", &fresh.display().to_string()]).assert_code(&[2]);
    assert!(!fresh.exists());
}

/// The last line is not trusted, and an event file has only one job.
#[test]
fn report_computes_the_verdict_again() {
    let Some(sandbox) = Sandbox::new("report_computes_the_verdict_again") else { return };
    let path = sandbox.out().join("events.jsonl");
    sandbox.run().assert_code(&[0]);
    let good = std::fs::read_to_string(&path).unwrap();
    sandbox.behaviour("yocto-check-layer fail test_world");
    sandbox.run().assert_code(&[1]);
    let bad = std::fs::read_to_string(&path).unwrap();
    let last = |text: &str| text.trim_end().rsplit_once('\n').unwrap().1.to_owned();
    let lied = bad.replace(&last(&bad), &last(&good));
    let inserted = bad.replace(
        &last(&bad),
        &format!("{}\n{}", r#"{"time":"2026-01-01T00:00:00.000Z","event":"stage-finished","stage":"check","outcome":"passed"}"#, last(&good)),
    );
    let half = bad.split_inclusive('\n').take(12).collect::<String>();
    let table = [
        ("as it was", bad.clone(), 1, "FAILED"),
        ("a lie at the end", lied, 70, "the events contradict themselves: it says passed"),
        ("lines before the end", inserted, 70, "the stage check has finished twice"),
        ("two jobs", format!("{bad}{good}"), 2, "a second job begins here"),
        ("a killed one and another", format!("{half}{good}"), 2, "a second job begins here"),
        ("two ends", format!("{bad}{}\n", last(&good)), 2, "comes after the end of the job"),
        ("a killed one", half.clone(), 70, "INTERRUPTED"),
        ("a killed one, torn", half[..half.len() - 20].to_owned(), 70, "INTERRUPTED"),
    ];
    for (what, text, code, output_text) in table {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("events.jsonl");
        std::fs::write(&path, text).unwrap();
        let ran = sandbox.call([Path::new("report"), &path]);
        println!("{what}");
        ran.assert_code(&[code]);
        ran.assert_says(&[output_text]);
        let result = place.path().join("result.json");
        assert_eq!(result.exists(), code != 2, "{what}");
        assert!(code == 2 || json(&result)["outcome"] != "passed", "{what}");
    }
    // A result that contradicts its stages is not accepted either.
    let result = sandbox.out().join("result.json");
    let mut forged = json(&result);
    for (key, value) in [("exit", "passed"), ("outcome", "passed")] {
        forged[key] = value.into();
    }
    forged.as_object_mut().unwrap().remove("reason");
    let path = sandbox.path().join("result.json");
    std::fs::write(&path, format!("{forged:#}")).unwrap();
    let ran = sandbox.call([Path::new("report"), &path]);
    ran.assert_code(&[70]);
    ran.assert_says(&["the result contradicts itself: it says passed"]);
}

#[test]
fn report_rebuilds_identical_files() {
    let Some(sandbox) = Sandbox::new("report_rebuilds_identical_files") else { return };
    sandbox.run().assert_code(&[0]);
    let result = sandbox.out().join("result.json");
    let before = json(&result);
    std::fs::remove_file(&result).unwrap();
    sandbox.call([Path::new("report"), &sandbox.out().join("events.jsonl")]).assert_code(&[0]);
    assert_eq!(json(&result), before);
}

#[test]
fn shells_get_completion_and_man_gets_pages() {
    for (shell, marker) in [
        ("bash", "-o default build-agent"),
        ("zsh", "#compdef build-agent"),
        ("fish", "complete -c build-agent"),
    ] {
        let output = call(&["completion", shell]);
        assert_eq!(output.status.code(), Some(0));
        let text = printed(&output);
        assert!(text.contains(marker) && text.contains("devtool"), "{shell}\n{text}");
        assert!(!text.contains("probe-share"), "{shell} offers a hidden command");
    }
    assert_eq!(call(&["completion", "cmd.exe"]).status.code(), Some(2));
    let directory = tempfile::tempdir().unwrap();
    let pages = directory.path().join("man/man1");
    let output = call(&["man", &pages.display().to_string()]);
    assert_eq!(output.status.code(), Some(0), "{}", printed(&output));
    for page in ["build-agent.1", "build-agent-run.1", "build-agent-cache-prune.1"] {
        let text = std::fs::read_to_string(pages.join(page)).unwrap();
        assert!(text.starts_with(".ie") || text.contains(".TH build-agent"), "{page}\n{text}");
    }
    assert!(!pages.join("build-agent-probe-share.1").exists());
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let output = call(&["man", &file.display().to_string()]);
    assert_ne!(output.status.code(), Some(0));
    assert!(printed(&output).contains("error:"), "{}", printed(&output));
}
