//! Definitions that exist: those of kas's own tests, and public ones. They are read from git repositories in the directory
//! `BUILD_AGENT_TEST_DEFINITIONS`, which has `OWNER+NAME/repo` for each; nothing of them is in this repository.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use build_agent_tests::{git, skip};

use super::kas::{Agreement, Case, compare, make_local, plan, python, views};

/// Files that only make sense together.
const TOGETHER: [(&str, &str); 6] = [
    ("qualcomm-linux+meta-qcom", "ci/qcs6490-rb3gen2-core-kit.yml:ci/qcom-distro.yml"),
    ("qualcomm-linux+meta-qcom", "ci/qcom-armv8a.yml:ci/qcom-distro.yml:ci/linux-yocto-dev.yml"),
    ("qualcomm-linux+meta-qcom", "ci/base.yml:ci/mirror.yml"),
    ("jonmason+meta-arm", "ci/qemuarm64-secureboot.yml:ci/testimage.yml"),
    ("jonmason+meta-arm", "ci/fvp-base.yml:ci/clang.yml:ci/meta-openembedded.yml"),
    ("Igalia+meta-wpe-image", "kas.yml"),
];

pub fn definitions(test: &str) -> Option<Vec<PathBuf>> {
    let Some(top) = std::env::var_os("BUILD_AGENT_TEST_DEFINITIONS") else {
        skip(test, "BUILD_AGENT_TEST_DEFINITIONS names no directory with git repositories of definitions");
        return None;
    };
    let mut all: Vec<PathBuf> = std::fs::read_dir(top).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.retain(|path| path.join("repo").is_dir());
    all.sort();
    Some(all)
}

/// The definitions and patches of the repository's newest commit, as a work tree of its own.
pub fn export(repository: &Path, target: &Path) {
    std::fs::create_dir_all(target).unwrap();
    let git_dir = format!("--git-dir={}", repository.display());
    let newest = newest(&git_dir);
    let listed =
        Command::new("git").args([&git_dir, "ls-tree", "-r", "--name-only", &newest]).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let ends = [".yml", ".yaml", ".json", ".asc", ".pub", ".patch", "/series", ".xml", "/oe-init-build-env"];
    // File by file: a snapshot may lack its largest files.
    for name in listed.lines().filter(|name| ends.iter().any(|end| name.ends_with(end))) {
        let shown =
            Command::new("git").args([&git_dir, "show", &format!("{newest}:{name}")]).output().unwrap();
        let file = target.join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, shown.stdout).unwrap();
    }
    git(target, ["init", "--quiet"]);
}

/// The newest commit of a repository.
pub fn newest(git_dir: &str) -> String {
    let newest = Command::new("git").args([git_dir, "rev-list", "-1", "--all"]).output().unwrap();
    String::from_utf8(newest.stdout).unwrap().trim().to_owned()
}

/// Files that look like definitions of kas.
fn kas_files(top: &Path, directory: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() && !path.is_symlink() {
            kas_files(top, &path, found);
            continue;
        }
        let is_yaml = path.extension().is_some_and(|end| end == "yml" || end == "yaml");
        let text = if is_yaml { std::fs::read_to_string(&path).unwrap_or_default() } else { String::new() };
        let has = |line: &str| text.lines().any(|other| other.trim_end() == line);
        if has("header:") && text.contains("version:") && !path.to_string_lossy().contains(".lock.") {
            found.push(path.strip_prefix(top).unwrap().to_str().unwrap().to_owned());
        }
    }
}

/// Compares all, two at a time.
fn judge(python: &Path, cases: &[Case]) -> Vec<(Case, Agreement)> {
    let views = views(python, cases);
    let all: Vec<(Case, serde_json::Value)> = cases.iter().cloned().zip(views).collect();
    for (case, view) in &all {
        make_local(view, &case.dir);
    }
    let half = all.len().div_ceil(2);
    let judge = |part: &[(Case, serde_json::Value)]| -> Vec<(Case, Agreement)> {
        part.iter().map(|(case, view)| (case.clone(), compare(case, view, &plan(case)))).collect()
    };
    std::thread::scope(|scope| {
        let parts: Vec<_> = all.chunks(half.max(1)).map(|part| scope.spawn(move || judge(part))).collect();
        parts.into_iter().flat_map(|part| part.join().unwrap()).collect()
    })
}

fn assert_agreement(judged: &[(Case, Agreement)], at_least: usize) {
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    let mut differences = Vec::new();
    for (case, agreement) in judged {
        let name = match agreement {
            Agreement::Same => "the same".to_owned(),
            Agreement::BothRefuse => "both refuse".to_owned(),
            Agreement::ByDesign(what) => format!("the agent refuses {what}"),
            Agreement::NeedsServer => "needs a server".to_owned(),
            Agreement::Differs(why) => {
                differences.push(format!("{} {}: {why}", case.dir.display(), case.files));
                "differs".to_owned()
            }
        };
        *count.entry(name).or_default() += 1;
    }
    println!("{} definitions: {count:?}", judged.len());
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n"));
    let same = count.get("the same").copied().unwrap_or_default();
    assert!(same >= at_least, "only {same} definitions are the same: {count:?}");
}

#[test]
fn the_definitions_of_kass_own_tests_mean_the_same() {
    let name = "the_definitions_of_kass_own_tests_mean_the_same";
    let (Some(python), Some(all)) = (python(name), definitions(name)) else { return };
    let Some(kas) = all.iter().find(|path| path.ends_with("siemens+kas")) else {
        return skip(name, "BUILD_AGENT_TEST_DEFINITIONS has no siemens+kas");
    };
    let directory = tempfile::tempdir().unwrap();
    let top = directory.path().canonicalize().unwrap();
    let source = top.join("source");
    export(&kas.join("repo"), &source);
    let mut cases = Vec::new();
    // Each directory of tests is a project of its own.
    for entry in std::fs::read_dir(source.join("tests"))
        .unwrap()
        .chain([std::fs::read_dir(&source).unwrap()].into_iter().flatten())
    {
        let from = entry.unwrap().path();
        if !from.is_dir() || from.ends_with("tests") || from.ends_with(".git") || from.ends_with(".github") {
            continue;
        }
        let dir = top.join(from.file_name().unwrap());
        std::fs::rename(&from, &dir).unwrap();
        git(&dir, ["init", "--quiet"]);
        let mut files = Vec::new();
        kas_files(&dir, &dir, &mut files);
        cases.extend(files.into_iter().map(|files| Case { dir: dir.clone(), files }));
    }
    assert_agreement(&judge(&python, &cases), 20);
}

#[test]
fn public_definitions_mean_the_same() {
    let name = "public_definitions_mean_the_same";
    let (Some(python), Some(all)) = (python(name), definitions(name)) else { return };
    let directory = tempfile::tempdir().unwrap();
    let top = directory.path().canonicalize().unwrap();
    let mut cases = Vec::new();
    for repository in all.iter().filter(|path| !path.ends_with("siemens+kas")) {
        let key = repository.file_name().unwrap().to_str().unwrap();
        let dir = top.join(key.split('+').next_back().unwrap());
        export(&repository.join("repo"), &dir);
        let mut files = Vec::new();
        kas_files(&dir, &dir, &mut files);
        let together =
            TOGETHER.iter().filter(|(other, _)| *other == key).map(|(_, files)| (*files).to_owned());
        let is_there = |files: &String| files.split(':').all(|file| dir.join(file).is_file());
        files.extend(together.filter(is_there));
        cases.extend(files.into_iter().map(|files| Case { dir: dir.clone(), files }));
    }
    assert_agreement(&judge(&python, &cases), 30);
}
