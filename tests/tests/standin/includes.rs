//! Manifests that include files: of the checkout, of a repository, and of the base of a change.

use build_agent_tests::{Sandbox, commit, git, json};

/// Moves a part of the manifest to a file of its own.
fn split(sandbox: &Sandbox, include: &str) -> String {
    let text = sandbox.manifest_text();
    let (poky, rest) = (text.find("[repos.poky]").unwrap(), text.find("[artifacts]").unwrap());
    let own = format!("{}include = [\"{include}\"]\n{}", &text[..poky], &text[rest..]);
    sandbox.write_manifest(&own);
    text[poky..rest].to_owned()
}

#[test]
fn a_job_with_files_of_the_checkout() {
    let Some(sandbox) = Sandbox::new("a_job_with_files_of_the_checkout") else { return };
    let rules = split(&sandbox, "ci/base.toml");
    std::fs::create_dir(sandbox.layer().join("ci")).unwrap();
    let file = sandbox.layer().join("ci/base.toml");
    std::fs::write(&file, format!("{rules}[chek]\n")).unwrap();
    let ran = sandbox.run();
    ran.assert_code(&[2]);
    ran.assert_says(&["ci/base.toml:", "[chek]: unknown key", "did you mean `check`?"]);

    std::fs::write(&file, &rules).unwrap();
    sandbox.run().assert_code(&[0]);
    let manifest = sandbox.result()["reproduction"]["manifest"].as_str().unwrap().to_owned();
    assert!(manifest.contains("[repos.poky]") && !manifest.contains("include ="), "{manifest}");

    let explained =
        sandbox.call(["plan", "--explain", "check.bitbake_layers", "--set", "check.bitbake_layers=[]"]);
    explained.assert_code(&[0]);
    explained.assert_says(&[
        "is         []",
        "at --set",
        "overrides  [\"show-layers\"]",
        "at ci/base.toml:7:",
    ]);
}

/// `BUILD_AGENT_CACHE` moves the store of checkouts, also for files that are read before the job starts.
#[test]
fn a_repository_of_included_files_is_in_the_store_of_the_job() {
    let test = "a_repository_of_included_files_is_in_the_store_of_the_job";
    let Some(sandbox) = Sandbox::new(test) else { return };
    let rules = split(&sandbox, "rules:base.toml");
    let upstream = sandbox.path().join("upstream/rules");
    std::fs::create_dir_all(&upstream).unwrap();
    git(&upstream, ["init", "--quiet", "--initial-branch", "main"]);
    std::fs::write(upstream.join("base.toml"), rules).unwrap();
    commit(&upstream, "Begin");
    let own = std::fs::read_to_string(sandbox.manifest()).unwrap();
    let url = upstream.display();
    sandbox.write_manifest(&format!("{own}\n[repos.rules]\nurl = \"file://{url}\"\nbranch = \"main\"\n"));
    let (store, beside) = (sandbox.path().join("cache/layers"), sandbox.work().join("layers"));
    let run = |cache: &std::path::Path| {
        let mut command = sandbox.run_command();
        command.env("BUILD_AGENT_CACHE", cache);
        let ran = sandbox.start(command).wait();
        ran.assert_code(&[0]);
        ran
    };
    run(store.parent().unwrap());
    assert_eq!(std::fs::read_dir(&store).unwrap().count(), 2, "poky, and the rules");
    assert!(!beside.exists(), "one store is enough");
    let rules = sandbox.result()["repos"][1].clone();
    assert_eq!((&rules["name"], &rules["how"]), (&"rules".into(), &"stored".into()), "it was fetched once");
    // Caches that cannot be used cost a job only time.
    let file = sandbox.path().join("file");
    std::fs::write(&file, "").unwrap();
    run(&file).assert_says(&["does not use the caches of your other jobs"]);
    assert_eq!(std::fs::read_dir(&beside).unwrap().count(), 2);
}

/// The commit of the file is the commit of the job, with a lock and without one.
#[test]
fn a_job_with_a_file_of_a_repository() {
    let Some(sandbox) = Sandbox::new("a_job_with_a_file_of_a_repository") else { return };
    let rules = split(&sandbox, "rules:ci/base.toml");
    let upstream = sandbox.path().join("upstream/rules");
    std::fs::create_dir_all(upstream.join("ci")).unwrap();
    git(&upstream, ["init", "--quiet", "--initial-branch", "main"]);
    std::fs::write(upstream.join("ci/base.toml"), format!("include = [\"../machine.toml\"]\n{rules}"))
        .unwrap();
    std::fs::write(upstream.join("machine.toml"), "[config]\nmachines = [\"qemuarm\"]\n").unwrap();
    commit(&upstream, "Begin");
    let first = git(&upstream, ["rev-parse", "HEAD"]);
    let own = std::fs::read_to_string(sandbox.manifest()).unwrap();
    let url = upstream.display().to_string();
    sandbox.write_manifest(&format!("{own}\n[repos.rules]\nurl = \"file://{url}\"\nbranch = \"main\"\n"));
    sandbox.run().assert_code(&[0]);
    let result = sandbox.result();
    assert_eq!(result["job"]["machines"][0], "qemuarm");
    let work = sandbox.work().display().to_string();
    let manifest = sandbox.manifest().display().to_string();
    let lock = |more: &[&str]| {
        let words = [&["lock", &manifest, "--work-dir", &work], more].concat();
        sandbox.call(words).assert_code(&[0]);
        std::fs::read_to_string(sandbox.layer().join("build-agent.lock")).unwrap()
    };
    assert!(lock(&[]).contains(&first));

    std::fs::write(upstream.join("machine.toml"), "[config]\nmachines = [\"qemumips\"]\n").unwrap();
    commit(&upstream, "Another machine");
    let second = git(&upstream, ["rev-parse", "HEAD"]);
    let plan = || {
        let words = ["plan", &manifest, "--json", "--work-dir", &work];
        let output = sandbox.command(words).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()["job"]["machines"][0].clone()
    };
    assert_eq!(plan(), "qemuarm", "the lock pins the file, too");
    assert!(lock(&["--update", "poky"]).contains(&first), "only the named pin moves");
    assert!(lock(&["--update"]).contains(&second));
    assert_eq!(plan(), "qemumips");
    // A mistake has its place in the file of the repository.
    std::fs::write(upstream.join("machine.toml"), "[config]\nmachines = 7\n").unwrap();
    commit(&upstream, "A mistake");
    std::fs::remove_file(sandbox.layer().join("build-agent.lock")).unwrap();
    let ran = sandbox.run();
    ran.assert_code(&[2]);
    ran.assert_says(&["rules:machine.toml:2:12: [config] machines: must be a list of strings"]);
}

/// A change cannot change the rules that its manifest includes.
#[test]
fn included_files_of_a_change_are_those_of_its_base() {
    let Some(sandbox) = Sandbox::new("included_files_of_a_change_are_those_of_its_base") else { return };
    let rules = split(&sandbox, "ci/base.toml");
    std::fs::create_dir(sandbox.layer().join("ci")).unwrap();
    let file = sandbox.layer().join("ci/base.toml");
    std::fs::write(&file, &rules).unwrap();
    commit(&sandbox.layer(), "Rules");
    git(&sandbox.layer(), ["checkout", "--quiet", "-b", "change"]);
    std::fs::write(&file, rules.replace("yocto_check_layer = true", "yocto_check_layer = false")).unwrap();
    commit(&sandbox.layer(), "Weaker rules");
    let mut command = sandbox.run_command();
    command.args(["--base", "main"]);
    let ran = sandbox.start(command).wait();
    ran.assert_code(&[0]);
    ran.assert_says(&["this change edits its own rules: ci/base.toml", "the rules of the base main"]);
    let checked = json(&sandbox.out().join("result.json")).to_string();
    assert!(checked.contains("yocto-check-layer"), "{checked}");
}
