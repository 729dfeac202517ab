//! What lies between two locks and two results, and the whole resolved manifest.

use build_agent_tests::{Sandbox, commit, git};

#[test]
fn differences_between_locks_and_results() {
    let Some(sandbox) = Sandbox::new("differences_between_locks_and_results") else { return };
    let manifest = sandbox.manifest().display().to_string();
    sandbox.call(["lock", &manifest]).assert_code(&[0]);
    let (lock, first) = (sandbox.layer().join("build-agent.lock"), sandbox.path().join("first.lock"));
    std::fs::copy(&lock, &first).unwrap();
    sandbox.run().assert_code(&[0]);
    let result = sandbox.path().join("old");
    std::fs::create_dir(&result).unwrap();
    std::fs::copy(sandbox.out().join("result.json"), result.join("result.json")).unwrap();

    commit(&sandbox.upstream(), "Fix the world");
    let head = git(&sandbox.upstream(), ["rev-parse", "HEAD"]);
    let before = std::fs::read(&lock).unwrap();
    let news = sandbox.call(["lock", &manifest, "--diff"]);
    news.assert_code(&[0]);
    news.assert_says(&[
        "poky  ",
        &format!(" -> {}", &head[..12]),
        &format!("  + {} Fix the world", &head[..12]),
    ]);
    assert_eq!(std::fs::read(&lock).unwrap(), before, "nothing is written");

    sandbox.call(["lock", &manifest, "--update"]).assert_code(&[0]);
    let (first, second) = (first.display().to_string(), lock.display().to_string());
    let diff = sandbox.call(["diff", &first, &second]);
    diff.assert_code(&[0]);
    diff.assert_says(&["+ ", "Fix the world"]);
    let back = sandbox.command(["diff", &second, &first, "--json"]).output().unwrap();
    let back: serde_json::Value = serde_json::from_slice(&back.stdout).unwrap();
    assert_eq!(back["repos"][0]["removed"][0], format!("{} Fix the world", &head[..12]), "{back}");
    sandbox.call(["diff", &first, &first]).assert_says(&["no difference"]);
    sandbox.call(["diff", &first, "/gone"]).assert_code(&[2]);

    commit(&sandbox.layer(), "Change the layer");
    sandbox.run().assert_code(&[0]);
    let (old, new) = (result.display().to_string(), sandbox.out().display().to_string());
    let diff = sandbox.call(["diff", &old, &new]);
    diff.assert_code(&[0]);
    diff.assert_says(&[
        "layer under test  ",
        "no log: its repository is not known",
        "poky  ",
        "Fix the world",
    ]);
}

#[test]
fn the_whole_resolved_manifest() {
    let Some(sandbox) = Sandbox::new("the_whole_resolved_manifest") else { return };
    let manifest = sandbox.manifest().display().to_string();
    let own = std::fs::read_to_string(sandbox.manifest()).unwrap();
    sandbox.write_manifest(&own.replacen("release =", "include = [\"base.toml\"]\nrelease =", 1));
    std::fs::write(sandbox.layer().join("base.toml"), "[config]\nmachines = [\"qemuarm\"]\n").unwrap();
    sandbox.call(["lock", &manifest]).assert_code(&[0]);
    let head = git(&sandbox.upstream(), ["rev-parse", "HEAD"]);
    let dump = |words: &[&str]| {
        let output = sandbox
            .command([&["dump", &manifest, "--set", "limits.job=1h"], words].concat())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let json: serde_json::Value = serde_json::from_str(&dump(&["--json"])).unwrap();
    assert_eq!(json["config"]["machines"][0], "qemuarm");
    assert_eq!(
        (&json["limits"]["job"], &json["repos"]["poky"]["commit"]),
        (&"1h".into(), &head.as_str().into())
    );
    // It says the same alone, without the lock and the included file.
    let text = dump(&[]);
    for file in ["build-agent.lock", "base.toml"] {
        std::fs::remove_file(sandbox.layer().join(file)).unwrap();
    }
    sandbox.write_manifest(&text);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&dump(&["--json"])).unwrap(), json, "{text}");
    let plan = sandbox.command(["plan", &manifest, "--json"]).output().unwrap();
    let plan: serde_json::Value = serde_json::from_slice(&plan.stdout).unwrap();
    let settings = &plan["settings"];
    assert_eq!(settings["config"]["machines"][0], "qemuarm", "{plan}");
    assert_eq!(
        (&settings["repos"][0]["commit"], &settings["limits"]["job_seconds"]),
        (&head.as_str().into(), &3600.into())
    );
}
