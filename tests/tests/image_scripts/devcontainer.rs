//! `docker/devcontainer.json` uses the paths and the user that the image has.

use build_agent_tests::repository;
use serde_json::Value;

#[test]
fn the_devcontainer_fits_the_image() {
    let read = |name: &str| std::fs::read_to_string(repository().join("docker").join(name)).unwrap();
    let container: Value = serde_json::from_str(&read("devcontainer.json")).unwrap();
    let dockerfile = read("Dockerfile");
    let text = |key: &str| container[key].as_str().unwrap_or_else(|| panic!("no {key}: {container:#}"));

    let user = text("remoteUser");
    let adds_user =
        |line: &str| line.contains("useradd ") && line.split_whitespace().any(|word| word == user);
    assert!(dockerfile.lines().any(adds_user), "{user}");
    let mounts: Vec<&str> =
        container["mounts"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let volume = dockerfile.lines().find_map(|line| line.strip_prefix("VOLUME ")).unwrap();
    assert!(matches!(mounts[..], [one] if one.ends_with(&format!(",target={volume}"))), "{mounts:?}");
    assert!(dockerfile.contains(&format!("BUILD_AGENT_WORK_DIR={volume}\n")));
    let folder = text("workspaceFolder");
    assert!(text("workspaceMount").ends_with(&format!(",target={folder}")), "{folder}");
    let sources = dockerfile.lines().rfind(|line| line.starts_with("WORKDIR ")).unwrap();
    assert!(folder.starts_with(&format!("{}/", &sources["WORKDIR ".len()..])), "{folder}");
    // The program that starts first in the image is replaced, so another one has to reap processes.
    assert_eq!(container["init"], true);
    assert!(text("postCreateCommand").starts_with("build-agent "));
}
