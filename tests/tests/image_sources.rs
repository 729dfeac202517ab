//! What the Dockerfile copies: no engine is needed for these tests.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use build_agent_tests::repository;

fn lines(file: &str) -> Vec<String> {
    std::fs::read_to_string(repository().join(file)).unwrap().lines().map(str::to_owned).collect()
}

/// The sources of `COPY` that are in the build context, not in another stage.
fn copied() -> Vec<String> {
    let copies = lines("docker/Dockerfile")
        .into_iter()
        .filter(|line| line.starts_with("COPY ") && !line.contains("--from="));
    let words: Vec<Vec<String>> =
        copies.map(|line| line.split_whitespace().skip(1).map(str::to_owned).collect()).collect();
    words.into_iter().flat_map(|words| words[..words.len() - 1].to_vec()).collect()
}

#[test]
fn everything_that_is_copied_is_there_and_in_the_build_context() {
    let sent: Vec<String> =
        lines(".dockerignore").iter().filter_map(|line| line.strip_prefix('!')).map(str::to_owned).collect();
    let copied = copied();
    assert!(copied.len() > 5, "{copied:?}");
    for path in &copied {
        assert!(repository().join(path).exists(), "{path}");
        assert!(sent.contains(path), "{path} is not in .dockerignore");
    }
    for path in &sent {
        assert!(copied.contains(path), "{path} is sent and not copied");
    }
}

/// The layer of the dependencies sees the code of no crate: else each edit would compile all of them again.
#[test]
fn an_edit_does_not_change_the_layer_of_the_dependencies() {
    let all = lines("docker/Dockerfile").join("\n");
    let stage = |name: &str| {
        let (_, rest) = all.split_once(&format!(" AS {name}\n")).expect(name);
        rest.split("\nFROM ").next().unwrap().to_owned()
    };
    let first = stage("agent").split_once("cargo build").unwrap().0.to_owned();
    let copies: Vec<&str> = first.lines().filter(|line| line.starts_with("COPY ")).collect();
    assert_eq!(copies, ["COPY --from=manifests /build ./"]);

    // What the stage `manifests` makes of the sources, before and after an edit.
    let script = stage("manifests");
    let script = script.split_once("\nRUN ").unwrap().1.replace("\\\n", " ");
    let made = |edit: &str| {
        let top = tempfile::tempdir().unwrap();
        for path in ["Cargo.toml", "Cargo.lock", "agent", "tests"] {
            let (from, to) = (repository().join(path), top.path().join(path));
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            if from.is_dir() {
                build_agent_tests::copy_tree(&from, &to);
            } else {
                std::fs::copy(from, to).unwrap();
            }
        }
        std::fs::write(top.path().join("agent/src/main.rs"), edit).unwrap();
        std::fs::write(top.path().join("agent/src/new.rs"), edit).unwrap();
        let output =
            std::process::Command::new("sh").args(["-ec", &script]).current_dir(top.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let list = "find . -type f | sort | xargs sha256sum";
        let list =
            std::process::Command::new("sh").args(["-c", list]).current_dir(top.path()).output().unwrap();
        String::from_utf8(list.stdout).unwrap()
    };
    let before = made("fn main() {}");
    assert_eq!(before, made("fn main() { todo!() }"));
    let names: Vec<&str> = before.lines().map(|line| line.split("  ./").nth(1).unwrap()).collect();
    for name in [
        "Cargo.lock",
        "agent/Cargo.toml",
        "agent/crates/types/Cargo.toml",
        "agent/src/bin/build-agent-shim.rs",
    ] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    // Without one of them, cargo refuses the workspace.
    let tracked = build_agent_tests::git(repository(), ["ls-files", "Cargo.toml", "*/Cargo.toml"]);
    assert!(tracked.lines().count() > 5, "{tracked}");
    for manifest in tracked.lines() {
        assert!(names.contains(&manifest), "{manifest} in {names:?}");
    }
    assert!(names.iter().all(|name| !name.ends_with(".py") && !name.ends_with("new.rs")), "{names:?}");
}
