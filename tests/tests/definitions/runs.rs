//! Whole jobs of definitions, with a stand-in for BitBake.

use std::fs;
use std::path::Path;

use serde_json::Value;

use build_agent_tests::{Ran, Sandbox, commit, git};

/// A repository on a branch `main`.
fn repository(top: &Path, files: &[(&str, &str)]) -> String {
    for (name, text) in files {
        let file = top.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    }
    if !top.join(".git").exists() {
        git(top, ["init", "--quiet", "--initial-branch", "main"]);
    }
    commit(top, "Files");
    git(top, ["rev-parse", "HEAD"]).trim().to_owned()
}

const LAYER_CONF: &str = "BBPATH .= \":${LAYERDIR}\"\nBBFILE_COLLECTIONS += \"extra\"\nBBFILE_PATTERN_extra = \"^${LAYERDIR_RE}/\"\n\
                          LAYERSERIES_COMPAT_extra = \"scarthgap\"\n";

/// A definition of the stand-in's sources, with an include of another repository.
fn kas_job(sandbox: &Sandbox) -> String {
    fs::remove_file(sandbox.manifest()).unwrap();
    let extra = sandbox.path().join("upstream/meta-extra");
    fs::create_dir_all(&extra).unwrap();
    let patch = "--- a/conf/layer.conf\n+++ b/conf/layer.conf\n@@ -1,2 +1,3 @@\n BBPATH .= \":${LAYERDIR}\"\n+# patched\n BBFILE_COLLECTIONS += \"extra\"\n";
    let included =
        "header:\n  version: 14\nmachine: qemuarm\nlocal_conf_header:\n  b: |\n    FROM_EXTRA = \"1\"\n";
    repository(
        &extra,
        &[("conf/layer.conf", LAYER_CONF), ("kas/board.yml", included), ("fixes/0001.patch", patch)],
    );
    let text = format!(
        "header:\n  version: 14\n  includes:\n    - repo: aa-extra\n      file: kas/board.yml\n\
         distro: poky\ntarget: core-image-minimal\nrepos:\n  meta-tested:\n    layers:\n      .:\n        prio: 5\n  \
         poky:\n    url: file://{poky}\n    branch: scarthgap\n    layers:\n      meta:\n      meta-poky:\n  \
         aa-extra:\n    url: file://{extra}\n    branch: main\n    patches:\n      one:\n        repo: aa-extra\n        path: fixes/0001.patch\n\
         local_conf_header:\n  a: |\n    FROM_TOP = \"1\"\n",
        poky = sandbox.upstream().display(),
        extra = extra.display(),
    );
    fs::write(sandbox.layer().join("kas.yml"), &text).unwrap();
    commit(&sandbox.layer(), "A definition of kas");
    text
}

fn call(sandbox: &Sandbox, command: &str, more: &[&str]) -> Ran {
    let file = sandbox.layer().join("kas.yml").display().to_string();
    let (work, out) = (sandbox.work().display().to_string(), sandbox.out().display().to_string());
    let words = [&[command, &file, "--work-dir", &work, "--out", &out], more].concat();
    sandbox.call(words)
}

/// The configuration that the job left.
fn conf(sandbox: &Sandbox, name: &str) -> String {
    let mut found = Vec::new();
    for job in fs::read_dir(sandbox.work()).unwrap() {
        let file = job.unwrap().path().join("build/conf").join(name);
        found.extend(fs::read_to_string(file).ok());
    }
    assert_eq!(found.len(), 1, "one build directory");
    found.remove(0)
}

#[test]
fn a_definition_of_kas_is_a_job() {
    let Some(sandbox) = Sandbox::new("a_definition_of_kas_is_a_job") else { return };
    kas_job(&sandbox);
    let ran = call(&sandbox, "run", &[]);
    ran.assert_code(&[0]);
    let result = sandbox.result();
    assert_eq!(result["job"]["release"], "scarthgap", "of the branch of poky: {result}");
    assert_eq!(result["job"]["machines"][0], "qemuarm", "of the included file");
    let local = conf(&sandbox, "local.conf");
    let at = |text: &str| local.find(text).unwrap_or_else(|| panic!("no {text} in {local}"));
    assert!(at("FROM_TOP") < at("FROM_EXTRA") && at("FROM_EXTRA") < at("MACHINE ??= \"qemuarm\""), "{local}");
    let bblayers = conf(&sandbox, "bblayers.conf");
    let names: Vec<&str> = bblayers
        .lines()
        .filter(|line| line.starts_with("  /"))
        .map(|line| line.trim_end_matches(" \\"))
        .collect();
    let ends = ["/meta-tested", "/aa-extra", "/poky/meta", "/poky/meta-poky"];
    assert_eq!(names.len(), ends.len(), "{bblayers}");
    for (name, end) in names.iter().zip(ends) {
        assert!(name.ends_with(end), "{end} of {bblayers}");
    }
    let patched = fs::read_to_string(Path::new(names[1].trim()).join("conf/layer.conf")).unwrap();
    assert!(patched.contains("# patched"), "{patched}");
    let repos = result["repos"].as_array().unwrap();
    let extra = repos.iter().find(|repo| repo["name"] == "aa-extra").unwrap();
    assert_eq!(extra["how"], "patched");
    assert_eq!(extra["patches"][0], "aa-extra:fixes/0001.patch");
    assert_eq!(extra["patches_sha256"].as_str().unwrap().len(), 64);
    // The next job finds the patched work tree.
    call(&sandbox, "run", &[]).assert_code(&[0]);
}

#[test]
fn errors_of_a_definition_have_their_line() {
    let Some(sandbox) = Sandbox::new("errors_of_a_definition_have_their_line") else { return };
    let text = kas_job(&sandbox);
    let file = sandbox.layer().join("kas.yml");
    for (from, to, said) in [
        ("target: core", "targt: core", "kas.yml:7:1: targt: unknown key\n  hint: did you mean `target`?"),
        ("version: 14\n  inc", "version: 99\n  inc", "has format version 99"),
        (
            "branch: scarthgap",
            "branch: scarthgap\n    type: hg",
            "type: Mercurial repositories are not supported",
        ),
        (
            "distro: poky",
            "distro: poky\nbuild_system: isar",
            "kas.yml:7:15: build_system: Isar is not supported",
        ),
        ("file: kas/board.yml", "file: ../../x.yml", "lies outside of"),
        ("path: fixes/0001.patch", "path: fixes/none.patch", "cannot read `aa-extra:fixes/none.patch`"),
        ("meta-poky:", "meta-gone:", "no conf/layer.conf in `meta-gone`"),
        ("distro: poky", "distro: poky\nenv:\n  GITHUB_TOKEN:", "is the name of a credential"),
        (
            "distro: poky",
            "distro: poky\nbuildtools:\n  version: \"5.2\"",
            "kas.yml:8:3: buildtools: has no `sha256sum`\n  hint: the checksum of the installer",
        ),
        ("repo: aa-extra\n      file", "repo: nobody\n      file", "files of nobody are included"),
    ] {
        assert!(text.contains(from), "{from}");
        fs::write(&file, text.replace(from, to)).unwrap();
        let ran = call(&sandbox, "run", &["--only", "checkout"]);
        if said.contains("99") {
            ran.assert_code(&[0]);
        } else {
            ran.assert_code(&[2]);
        }
        ran.assert_says(&[said]);
    }
    fs::write(
        sandbox.path().join("upstream/meta-extra/fixes/0001.patch"),
        "--- a/none\n+++ b/none\n@@ -1 +1 @@\n-a\n+b\n",
    )
    .unwrap();
    commit(&sandbox.path().join("upstream/meta-extra"), "A patch of nothing");
    fs::write(&file, &text).unwrap();
    let ran = call(&sandbox, "run", &["--only", "checkout"]);
    assert_eq!(ran.code, Some(2));
    ran.assert_says(&["repos.aa-extra: the patch `aa-extra:fixes/0001.patch` does not apply"]);
}

fn plan(sandbox: &Sandbox, file: &str) -> Value {
    let file = sandbox.layer().join(file).display().to_string();
    let work = sandbox.work().display().to_string();
    let output = sandbox.command(["plan", &file, "--json", "--work-dir", &work]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What a job is, besides the texts of its configuration.
fn essence(plan: &Value) -> Value {
    let settings = &plan["settings"];
    let mut essence = serde_json::json!({ "bblayers": settings["bblayers"], "build": settings["build"], "buildtools": settings["buildtools"], "release": plan["release"] });
    for key in ["machines", "distro", "bblayers_conf", "multiconfigs", "env"] {
        essence[key] = settings["config"][key].clone();
    }
    let mut repos = settings["repos"].as_array().unwrap().clone();
    repos.sort_by_key(|repo| repo["name"].to_string());
    essence["repos"] = Value::Array(repos);
    essence
}

#[test]
fn import_and_export_mean_the_same_job() {
    let Some(sandbox) = Sandbox::new("import_and_export_mean_the_same_job") else { return };
    let buildtools = format!("buildtools:\n  version: \"5.2\"\n  sha256sum: {}\n", "a1".repeat(32));
    let text = kas_job(&sandbox) + &buildtools;
    fs::write(sandbox.layer().join("kas.yml"), text).unwrap();
    let head = git(&sandbox.upstream(), ["rev-parse", "HEAD"]);
    let lock =
        format!("header:\n  version: 14\noverrides:\n  repos:\n    poky:\n      commit: {}\n", head.trim());
    fs::write(sandbox.layer().join("kas.lock.yml"), lock).unwrap();
    let of_kas = plan(&sandbox, "kas.yml");
    let url = of_kas["settings"]["buildtools"]["url"].as_str().unwrap();
    assert!(
        url.starts_with("https://downloads.yoctoproject.org/releases/yocto/yocto-5.2/buildtools/"),
        "{url}"
    );
    call(&sandbox, "import", &[]).assert_code(&[0]);
    let manifest = fs::read_to_string(sandbox.manifest()).unwrap();
    assert!(
        manifest.starts_with("# Written by build-agent, from ")
            && manifest.contains("layer_order = \"name\""),
        "{manifest}"
    );
    let pins = fs::read_to_string(sandbox.layer().join("build-agent.lock")).unwrap();
    assert!(pins.contains(head.trim()), "{pins}");
    let of_manifest = plan(&sandbox, "build-agent.toml");
    assert_eq!(essence(&of_kas), essence(&of_manifest));
    call(&sandbox, "import", &[]).assert_code(&[2]);

    let back = sandbox.layer().join("back.yml").display().to_string();
    let manifest = sandbox.manifest().display().to_string();
    sandbox.call(["export", manifest.as_str(), "--kas", back.as_str()]).assert_code(&[0]);
    assert!(sandbox.layer().join("back.lock.yml").is_file());
    assert_eq!(essence(&of_manifest), essence(&plan(&sandbox, "back.yml")));
}

/// The file of a layer for its own check, with a chosen configuration; fixed revisions are its lock.
#[test]
fn a_configuration_of_bitbake_setup_is_a_job() {
    let Some(sandbox) = Sandbox::new("a_configuration_of_bitbake_setup_is_a_job") else { return };
    fs::remove_file(sandbox.manifest()).unwrap();
    let head = git(&sandbox.upstream(), ["rev-parse", "HEAD"]).trim().to_owned();
    let text = format!(
        r#"{{"description": "d", "version": "1.0", "sources": {{"core": {{"path": "oe", "git-remote": {{"rev": "scarthgap",
        "branch": "scarthgap", "remotes": {{"origin": {{"uri": "file://{}"}}}}}}}}}}, "bitbake-setup": {{"configurations": [
        {{"bb-layers": ["oe/meta", "oe/meta-poky"], "bb-layers-file-relative": ["../../../another-name"],
        "oe-fragments-one-of": {{"machine": {{"description": "m", "options": ["machine/qemuarm", {{"name": "machine/qemux86-64"}}]}},
        "distro": {{"description": "d", "options": ["distro/poky"]}}}}, "configurations": [{{"name": "plain", "description": "p",
        "install-buildtools": {{"url": "https://x.example/tools.sh", "sha256sum": "{}"}}}},
        {{"name": "fast", "description": "f", "oe-fragments": ["core/yocto/sstate-mirror-cdn"]}}]}}]}}}}"#,
        sandbox.upstream().display(),
        "a1".repeat(32)
    );
    let directory = sandbox.layer().join(".github/workflows");
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("check.conf.json"), text).unwrap();
    let fixed = format!(r#"{{"sources": {{"core": {{"git-remote": {{"rev": "{head}"}}}}}}}}"#);
    fs::write(directory.join("sources-fixed-revisions.json"), fixed).unwrap();
    commit(&sandbox.layer(), "A configuration");
    let file = directory.join("check.conf.json").display().to_string();
    let (work, out) = (sandbox.work().display().to_string(), sandbox.out().display().to_string());
    let call = |command: &str, choose: &str| {
        sandbox.call([
            command,
            &file,
            "--choose",
            choose,
            "--work-dir",
            &work,
            "--out",
            &out,
            "--release",
            "scarthgap",
        ])
    };
    for (choose, said) in [
        ("none", "`none` is not one of the configurations plain, fast"),
        ("plain", "no machine is chosen: machine/qemuarm, machine/qemux86-64"),
        ("plain,machine/qemuarm,distro/poky,x", "`x` is neither a configuration nor a fragment"),
    ] {
        let ran = call("run", choose);
        ran.assert_code(&[2]);
        ran.assert_says(&[said, "--choose"]);
    }
    let ran = call("plan", "plain,distro/poky,machine/qemuarm");
    ran.assert_code(&[0]);
    ran.assert_says(&["buildtools\n  https://x.example/tools.sh", "--set buildtools.enabled=false"]);
    let ran = call("run", "fast,distro/poky,machine/qemuarm");
    ran.assert_code(&[0]);
    let result = sandbox.result();
    assert_eq!(result["job"]["machines"][0], "qemuarm");
    assert_eq!(result["repos"][0]["commit"], head.as_str());
    let local = conf(&sandbox, "local.conf");
    assert!(
        local.contains("OE_FRAGMENTS += \"core/yocto/sstate-mirror-cdn\"") && local.contains("DISTRO ?"),
        "{local}"
    );
    let bblayers = conf(&sandbox, "bblayers.conf");
    assert!(bblayers.contains("/core/meta \\\n") && bblayers.contains("/meta-tested \\\n"), "{bblayers}");
}

/// A change cannot change the definition that judges it, neither its files nor its patches.
#[test]
fn the_definition_of_a_change_is_that_of_its_base() {
    let Some(sandbox) = Sandbox::new("the_definition_of_a_change_is_that_of_its_base") else { return };
    let text = kas_job(&sandbox);
    let file = sandbox.layer().join("kas.yml");
    git(&sandbox.layer(), ["checkout", "--quiet", "-b", "change"]);
    fs::write(&file, text.replace("distro: poky", "distro: other\nmachine: other")).unwrap();
    fs::write(sandbox.layer().join("kas.lock.yml"), "header:\n  version: 14\n  includes: [none.yml]\n")
        .unwrap();
    commit(&sandbox.layer(), "Another definition");
    let file = file.display().to_string();
    let work = sandbox.work().display().to_string();
    let plan = |more: &[&str]| {
        let words = [&["plan", &file, "--json", "--work-dir", &work], more].concat();
        sandbox.command(words).output().unwrap()
    };
    let of_base = plan(&["--base", "main"]);
    assert!(of_base.status.success(), "{of_base:?}");
    let of_base: Value = serde_json::from_slice(&of_base.stdout).unwrap();
    assert_eq!(of_base["settings"]["config"]["distro"], "poky");
    assert_eq!(of_base["settings"]["config"]["machines"][0], "qemuarm");
    let ran = call(&sandbox, "run", &["--base", "main", "--only", "checkout"]);
    ran.assert_code(&[0]);
    ran.assert_says(&["this change edits its own rules: kas.yml, kas.lock.yml; the rules of the base main"]);
    let own = plan(&[]);
    assert_eq!(own.status.code(), Some(2), "{own:?}");
    assert!(String::from_utf8_lossy(&own.stderr).contains("kas.lock.yml:3:"), "{own:?}");
}

/// What `build-agent lock` writes is what kas would write and read.
#[test]
fn the_lock_of_a_definition_is_written() {
    let Some(sandbox) = Sandbox::new("the_lock_of_a_definition_is_written") else { return };
    kas_job(&sandbox);
    let (poky, extra) = (sandbox.upstream(), sandbox.path().join("upstream/meta-extra"));
    let head = |top: &Path| git(top, ["rev-parse", "HEAD"]).trim().to_owned();
    let first = [head(&poky), head(&extra)];
    let lock = |words: &[&str]| {
        let file = sandbox.layer().join("kas.yml").display().to_string();
        let work = sandbox.work().display().to_string();
        sandbox.call([&["lock", &file, "--work-dir", &work], words].concat())
    };
    let file = sandbox.layer().join("kas.lock.yml");
    let text = |poky: &str, extra: &str| {
        format!(
            "header:\n  version: 14\noverrides:\n  repos:\n    poky:\n      commit: \"{poky}\"\n    \
             aa-extra:\n      commit: \"{extra}\"\n"
        )
    };
    let ran = lock(&[]);
    ran.assert_code(&[0]);
    ran.assert_says(&["(new)", "kas.lock.yml"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), text(&first[0], &first[1]));
    lock(&[]).assert_says(&["nothing to write"]);

    commit(&poky, "Fix the world");
    commit(&extra, "Fix the layer");
    let second = [head(&poky), head(&extra)];
    let ran = lock(&["--diff"]);
    ran.assert_code(&[0]);
    ran.assert_says(&["Fix the world", "Fix the layer"]);
    assert_eq!(fs::read_to_string(&file).unwrap(), text(&first[0], &first[1]), "--diff writes nothing");
    let ran = lock(&["--update", "pokyy"]);
    ran.assert_code(&[2]);
    ran.assert_says(&["did you mean `poky`?"]);
    let ran = lock(&["--update", "poky"]);
    ran.assert_code(&[0]);
    ran.assert_says(&[&format!("{} -> {}", first[0], second[0])]);
    assert_eq!(fs::read_to_string(&file).unwrap(), text(&second[0], &first[1]));
    lock(&["--update"]).assert_code(&[0]);
    assert_eq!(fs::read_to_string(&file).unwrap(), text(&second[0], &second[1]));
    let plan = plan(&sandbox, "kas.yml");
    let repos = plan["settings"]["repos"].as_array().unwrap();
    let commits: Vec<&Value> = repos.iter().map(|repo| &repo["commit"]).collect();
    assert_eq!(commits, [&second[0], &second[1]]);
}

#[test]
fn a_job_of_a_definition_is_repeated() {
    let Some(sandbox) = Sandbox::new("a_job_of_a_definition_is_repeated") else { return };
    kas_job(&sandbox);
    let mut command = sandbox.command(["run", "kas.yml", "--work-dir"]);
    command.arg(sandbox.work()).arg("--out").arg(sandbox.out()).current_dir(sandbox.layer());
    command.env("CODEBUILD_BUILD_ID", "p:1").env("CODEBUILD_SRC_DIR", sandbox.layer());
    command.env("CODEBUILD_SOURCE_REPO_URL", format!("file://{}", sandbox.layer().display()));
    command.env("BUILD_AGENT_METRICS", "off");
    sandbox.start(command).wait().assert_code(&[0]);
    let first = sandbox.result();
    // The branches went on.
    commit(&sandbox.upstream(), "Break the world");
    fs::remove_file(sandbox.path().join("upstream/meta-extra/kas/board.yml")).unwrap();
    commit(&sandbox.path().join("upstream/meta-extra"), "Remove the included file");
    let mut command = sandbox.command(["reproduce"]);
    command.arg(sandbox.out()).args(["--run", "--no-container", "--dir", "again"]);
    command.current_dir(sandbox.path()).env("BUILD_AGENT_WORK_DIR", sandbox.path().join("work-again"));
    sandbox.start(command).wait().assert_code(&[0]);
    let again = build_agent_tests::json(&sandbox.path().join("again/source/build-agent-out/result.json"));
    for key in ["name", "release", "machines", "commit"] {
        assert_eq!(again["job"][key], first["job"][key], "{key}");
    }
    for key in ["name", "commit", "patches_sha256"] {
        for at in 0..2 {
            assert_eq!(again["repos"][at][key], first["repos"][at][key], "{key}");
        }
    }
}
