//! Definitions of bitbake-setup that exist: its default registry, its own tests' input, and public ones. The view of
//! bitbake-setup itself is compared with the agent's plan. They come from git repositories, as those of kas do.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::kas::settings;
use build_agent_tests::{agent, git, skip};

use super::agreement::{definitions, export, newest};

/// `bin`, `lib` and the registry of BitBake's branch with bitbake-setup.
fn bitbake(all: &[PathBuf], target: &Path) -> bool {
    let Some(repository) = all.iter().find(|path| path.ends_with("openembedded+bitbake")) else {
        return false;
    };
    let git_dir = format!("--git-dir={}", repository.join("repo").display());
    let mut archive = Command::new("git")
        .args([&git_dir, "archive", "master", "bin/bitbake-setup", "lib/bb", "default-registry"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut tar = Command::new("tar");
    tar.args(["-x", "-C"]).arg(target).stdin(archive.stdout.take().unwrap());
    tar.status().unwrap().success() && archive.wait().unwrap().success()
}

/// What bitbake-setup makes of the files, each with several choices.
fn views(bitbake: &Path, files: &[PathBuf]) -> Vec<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/definitions/setup_view.py");
    let mut child = Command::new("python3")
        .arg(script)
        .arg(bitbake)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(serde_json::to_string(files).unwrap().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The agent's plan, or its error.
pub fn plan(top: &Path, file: &Path, more: &[&str]) -> Result<Value, String> {
    let output = agent()
        .arg("plan")
        .arg(file)
        .args(["--json", "--release", "scarthgap", "--set", "build.targets=[\"x\"]", "--work-dir"])
        .arg(top.join(".work"))
        .args(more)
        .current_dir(top)
        .output()
        .unwrap();
    settings(&output, &(file, more))
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().unwrap().iter().map(|one| one.as_str().unwrap().to_owned()).collect()
}

/// Differences of the plan from the view of bitbake-setup.
fn differences(view: &Value, plan: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut same = |what: &str, setup: String, agent: String| {
        if setup != agent {
            found.push(format!("{what}: bitbake-setup {setup}, agent {agent}"));
        }
    };
    let sources = view["sources"].as_object().unwrap();
    let repos = plan["repos"].as_array().unwrap();
    let names = |names: Vec<&str>| {
        let mut names = names;
        names.sort_unstable();
        names.join(" ")
    };
    same(
        "sources",
        names(sources.keys().map(String::as_str).collect()),
        names(repos.iter().map(|repo| repo["name"].as_str().unwrap()).collect()),
    );
    for repo in repos {
        let Some(source) = sources.get(repo["name"].as_str().unwrap()) else { continue };
        same("url", source["url"].to_string(), repo["url"].to_string());
        let wanted =
            ["commit", "tag", "branch"].map(|key| &repo[key]).into_iter().find(|value| !value.is_null());
        same("rev", source["rev"].to_string(), wanted.unwrap().to_string());
    }
    // A layer of the agent, where bitbake-setup has it. Those of the checkout are relative to the file.
    let layers = plan["bblayers"].as_array().unwrap().iter();
    let (of_sources, of_checkout): (Vec<&Value>, Vec<&Value>) =
        layers.partition(|layer| sources.contains_key(layer["repo"].as_str().unwrap()));
    let place = |layer: &&Value| {
        let source = sources[layer["repo"].as_str().unwrap()]["path"].as_str().unwrap();
        let inner = layer["layer"].as_str().unwrap();
        [source, inner].iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join("/")
    };
    let of_sources: Vec<String> = of_sources.iter().map(place).collect();
    same("layers", texts(&view["layers"]).join(" "), of_sources.join(" "));
    let relative = view["relative"].as_array().unwrap().len();
    same("layers of the checkout", relative.to_string(), of_checkout.len().to_string());
    let fragments = texts(&view["fragments"]);
    let last = |kind: &str| fragments.iter().rev().find_map(|fragment| fragment.strip_prefix(kind));
    if let Some(machine) = last("machine/") {
        same("machine", format!("[{machine:?}]"), plan["config"]["machines"].to_string());
    }
    same(
        "distro",
        format!("{:?}", last("distro/").unwrap_or("nodistro")),
        plan["config"]["distro"].to_string(),
    );
    let is_other = |fragment: &&String| !fragment.starts_with("machine/") && !fragment.starts_with("distro/");
    let others =
        fragments.iter().filter(is_other).map(|fragment| format!("OE_FRAGMENTS += \"{fragment}\"\n"));
    same("fragments", others.collect(), plan["config"]["local_conf"].as_str().unwrap_or_default().to_owned());
    found
}

/// The input of bitbake-setup's own tests, with sources for the layers that it names: its tests need none.
fn input_of_tests(bitbake: &Path) -> String {
    let test = std::fs::read_to_string(bitbake.join("lib/bb/tests/setup.py")).unwrap();
    let template = test.split("config = \"\"\"").nth(1).unwrap().split("\"\"\" %").next().unwrap();
    let source = |name: &str| {
        let url = format!("https://setup.invalid/{name}");
        format!(
            r#""{name}": {{"git-remote": {{"remotes": {{"origin": {{"uri": "{url}"}}}}, "branch": "master", "rev": "master"}}}}"#
        )
    };
    let sources = ["test-repo", "layerA", "layerB", "layerC", "layerD"].map(source).join(", ");
    template
        .replacen("%s", &sources, 1)
        .replace("file://%s/%s", "https://setup.invalid/x.sh")
        .replace("%s", &"0".repeat(64))
}

/// What the agent refuses on purpose.
const BY_DESIGN: [&str; 1] = ["a configuration of templates alone is not supported"];

fn conf_files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            conf_files(&path, found);
        } else if path.to_string_lossy().ends_with(".conf.json") {
            found.push(path);
        }
    }
}

#[test]
fn definitions_of_bitbake_setup_mean_the_same() {
    let name = "definitions_of_bitbake_setup_mean_the_same";
    let Some(all) = definitions(name) else { return };
    let directory = tempfile::tempdir().unwrap();
    let top = directory.path().canonicalize().unwrap();
    let setup = top.join("bitbake");
    std::fs::create_dir(&setup).unwrap();
    if !bitbake(&all, &setup) {
        return skip(name, "BUILD_AGENT_TEST_DEFINITIONS has no openembedded+bitbake with bitbake-setup");
    }
    let own = setup.join("own");
    std::fs::create_dir_all(own.join("layerE/meta-layer/conf")).unwrap();
    std::fs::write(own.join("layerE/meta-layer/conf/layer.conf"), "").unwrap();
    std::fs::write(own.join("test-config.conf.json"), input_of_tests(&setup)).unwrap();
    git(&own, ["init", "--quiet"]);
    let mut files = Vec::new();
    for repository in all.iter().map(|path| path.join("repo")).filter(|path| has_definitions(path)) {
        let key = repository.parent().unwrap().file_name().unwrap().to_str().unwrap();
        let dir = top.join(key.split('+').next_back().unwrap());
        if !key.ends_with("+bitbake") {
            export(&repository, &dir);
            conf_files(&dir, &mut files);
        }
    }
    conf_files(&setup, &mut files);
    files.sort();
    // One that bitbake-setup of today cannot read.
    let is_old = |file: &PathBuf| {
        let text: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        text["bitbake-setup"]["configurations"].is_null()
    };
    let (old, files): (Vec<PathBuf>, Vec<PathBuf>) = files.into_iter().partition(is_old);
    let (mut same, mut refused, mut by_design, mut server) = (0, 0, 0, 0);
    let mut differ = Vec::new();
    for file in &old {
        let said = plan(file.parent().unwrap(), file, &[]).unwrap_err();
        assert!(said.contains("bitbake-setup: has no `configurations`"), "{said}");
    }
    // Each attempt to reach a server takes seconds.
    let mut unreachable = BTreeSet::new();
    for view in views(&setup, &files) {
        let file = Path::new(view["file"].as_str().unwrap());
        if unreachable.contains(file) {
            server += 1;
            continue;
        }
        let words = texts(&view["words"]).join(",");
        let planned = plan(file.parent().unwrap(), file, &["--choose", &words]);
        match (view.get("error"), planned) {
            (Some(_), Err(_)) => refused += 1,
            (_, Err(said)) if said.starts_with("server: ") => {
                server += 1;
                unreachable.insert(file.to_owned());
            }
            (None, Err(said)) if BY_DESIGN.iter().any(|words| said.contains(words)) => by_design += 1,
            (Some(why), Ok(_)) => differ.push(format!("{file:?} {words}: only bitbake-setup refuses: {why}")),
            (None, Err(said)) => differ.push(format!("{file:?} {words}: only the agent refuses: {said}")),
            (None, Ok(plan)) => match differences(&view, &plan) {
                found if found.is_empty() => same += 1,
                found => differ.push(format!("{file:?} {words}: {}", found.join("; "))),
            },
        }
    }
    println!(
        "{} files ({} of an old format): {same} choices are the same, {refused} refused by both, {by_design} by the agent alone, {server} need a server",
        files.len() + old.len(),
        old.len()
    );
    assert!(differ.is_empty(), "{} differ:\n{}", differ.len(), differ.join("\n"));
    assert!(same >= 20, "only {same} are the same");
}

fn has_definitions(repository: &Path) -> bool {
    let git_dir = format!("--git-dir={}", repository.display());
    let newest = newest(&git_dir);
    let listed =
        Command::new("git").args([&git_dir, "ls-tree", "-r", "--name-only", &newest]).output().unwrap();
    String::from_utf8_lossy(&listed.stdout).lines().any(|name| name.ends_with(".conf.json"))
}

/// A checkout with one file.
fn checkout(name: &str, text: &str) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().canonicalize().unwrap().join(name);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, text).unwrap();
    git(directory.path(), ["init", "--quiet"]);
    (directory, file)
}

#[test]
fn oe_setup_layers_names_branches_of_remotes() {
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let text = format!(
        r#"{{"version": "1.0", "sources": {{
        "detached": {{"git-remote": {{"branch": "HEAD", "rev": "{commit}", "remotes": {{"origin": {{"uri": "https://a.invalid/x"}}}}}}}},
        "mirrored": {{"git-remote": {{"branch": "HEAD", "rev": "mirror/my/branch", "remotes": {{
            "origin": {{"uri": "https://a.invalid/y"}}, "mirror": {{"uri": "https://b.invalid/y"}}}}}}}}}}}}"#
    );
    let (directory, file) = checkout("setup-layers.json", &text);
    let planned = plan(directory.path(), &file, &[]).unwrap();
    let repo = |number: usize| {
        let repo = &planned["repos"][number];
        ["url", "branch", "commit"].map(|key| repo[key].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(repo(0), ["https://a.invalid/x", "", commit]);
    assert_eq!(repo(1), ["https://b.invalid/y", "my/branch", ""]);
}

#[test]
fn a_directory_of_bitbake_setup_keeps_what_was_chosen_there() {
    let text = r#"{"name": "poky", "type": "local", "path": "/somewhere/poky.conf.json",
        "non-interactive-cmdline-options": ["poky.conf.json", "outer-inner", "distro/poky"], "skip-selection": ["machine"],
        "data": {"version": "1.0", "description": "d", "expires": "2099-12-31",
        "sources": {"core": {"git-remote": {"branch": "main", "rev": "main", "uri": "https://a.invalid/core"}}},
        "bitbake-setup": {"configurations": [{"name": "outer-", "description": "d", "bb-layers": ["core/meta"],
            "oe-fragments-one-of": {"machine": {"description": "m", "options": ["machine/a"]},
                                    "distro": {"description": "d", "options": ["distro/poky", "distro/other"]}},
            "configurations": [{"name": "inner", "description": "i", "oe-fragments": ["x/y"]}]}]}}}"#;
    let (directory, file) = checkout("config/config-upstream.json", text);
    let planned = plan(directory.path(), &file, &[]).unwrap();
    assert_eq!(planned["config"]["distro"], "poky", "{planned}");
    assert_eq!(planned["config"]["local_conf"], "OE_FRAGMENTS += \"x/y\"\n");
    let other = text.replace("\"skip-selection\": [\"machine\"],", "");
    std::fs::write(&file, other).unwrap();
    let said = plan(directory.path(), &file, &[]).unwrap_err();
    assert!(said.contains("no machine is chosen: machine/a"), "{said}");
    let old = text.replace("configurations", "configuration");
    std::fs::write(&file, old).unwrap();
    let said = plan(directory.path(), &file, &[]).unwrap_err();
    assert!(said.contains("has no `configurations`") && said.contains("older bitbake-setup"), "{said}");
}
