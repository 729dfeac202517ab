//! Unreadable files, and who is responsible: the layer, a dependency, or the machine.

use std::os::unix::fs::symlink;
use std::path::Path;

use build_agent_tests::{Sandbox, copy_tree};

/// Replaces a file by something that is not a regular file.
fn put(kind: &str, path: &Path) {
    if path.is_dir() {
        std::fs::remove_dir_all(path).unwrap();
    } else {
        let _ = std::fs::remove_file(path);
    }
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    match kind {
        "directory" => std::fs::create_dir(path).unwrap(),
        "pipe" => nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
        "loop" => symlink(path.file_name().unwrap(), path).unwrap(),
        "dangling" => symlink("nowhere", path).unwrap(),
        "long" => symlink("x".repeat(300), path).unwrap(),
        "sparse" => std::fs::File::create(path).unwrap().set_len(10 << 30).unwrap(),
        "device" => symlink("/dev/zero", path).unwrap(),
        kind => panic!("{kind}"),
    }
}

/// The findings of level error: rule and file.
fn errors(sandbox: &Sandbox) -> Vec<(String, String)> {
    let result = sandbox.result();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let findings = result["findings"].as_array().expect("findings").iter();
    let errors = findings.filter(|finding| finding["level"] == "error");
    errors.map(|finding| (text(&finding["rule"]), text(&finding["file"]))).collect()
}

/// The same for `run` with a manifest and for `check` without one.
#[test]
fn a_file_of_the_layer_that_cannot_be_read_fails_the_check_and_is_named() {
    const NAME: &str = "a_file_of_the_layer_that_cannot_be_read_fails_the_check_and_is_named";
    let table = [
        ("conf/layer.conf", &["directory", "pipe", "loop", "dangling", "long", "sparse", "device"][..]),
        ("conf/machine", &["loop"]),
        ("README.md", &["directory", "pipe", "loop", "dangling", "device"]),
        ("recipes-hello/hello/x_1.bb", &["pipe", "device"]),
    ];
    for (file, kinds) in table {
        for kind in kinds {
            let Some(sandbox) = Sandbox::new(NAME) else { return };
            put(kind, &sandbox.layer().join(file));
            let mut check = sandbox.command(["check"]);
            check.arg(sandbox.layer()).arg("--work-dir").arg(sandbox.work()).arg("--out").arg(sandbox.out());
            check.args(["--release", "scarthgap"]);
            for command in [sandbox.run_command(), check] {
                let ran = sandbox.start(command).wait();
                ran.assert_code(&[1]);
                assert_eq!(sandbox.result()["outcome"], "failed", "{file} {kind}");
                let errors = errors(&sandbox);
                assert!(errors.iter().any(|(_, named)| named == file), "{file} {kind}: {errors:?}");
                ran.assert_says(&[file]);
            }
        }
    }
}

/// A layer whose release is unknown still fails its check.
#[test]
fn a_layer_conf_that_cannot_be_read_needs_no_release() {
    let Some(sandbox) = Sandbox::new("a_layer_conf_that_cannot_be_read_needs_no_release") else { return };
    std::fs::remove_file(sandbox.manifest()).unwrap();
    put("pipe", &sandbox.layer().join("conf/layer.conf"));
    let mut check = sandbox.command(["check"]);
    check.arg(sandbox.layer()).arg("--work-dir").arg(sandbox.work()).arg("--out").arg(sandbox.out());
    sandbox.start(check).wait().assert_code(&[1]);
    assert_eq!(errors(&sandbox), [("file-unreadable".to_owned(), "conf/layer.conf".to_owned())]);
    // A directory without any layer is a wrong command line.
    std::fs::remove_file(sandbox.layer().join("conf/layer.conf")).unwrap();
    let mut check = sandbox.command(["check"]);
    check.arg(sandbox.layer()).arg("--work-dir").arg(sandbox.work()).arg("--out").arg(sandbox.out());
    sandbox.start(check).wait().assert_code(&[2]);
}

/// The manifest names a repository that cannot be used.
#[test]
fn a_file_of_a_dependency_that_cannot_be_read_is_the_manifests_fault() {
    const NAME: &str = "a_file_of_a_dependency_that_cannot_be_read_is_the_manifests_fault";
    let table = [
        ("meta/conf/layer.conf", &["directory", "pipe", "loop", "sparse", "device"][..]),
        ("meta-poky/conf/layer.conf", &["directory", "pipe", "loop", "sparse", "device"]),
        ("bitbake/lib/bb/__init__.py", &["directory", "pipe", "loop", "dangling", "sparse"]),
        ("scripts/lib/checklayer/cases", &["dangling", "loop"]),
        ("scripts/lib/checklayer/cases/common.py", &["pipe", "loop", "sparse"]),
    ];
    for (file, kinds) in table {
        for kind in kinds {
            let Some(sandbox) = Sandbox::new(NAME) else { return };
            // A local directory, because git stores no pipes.
            let local = sandbox.path().join("poky-here");
            copy_tree(&sandbox.upstream(), &local);
            put(kind, &local.join(file));
            let url = format!("url = \"file://{}\"\nbranch = \"scarthgap\"", sandbox.upstream().display());
            sandbox.change_manifest(&url, &format!("path = \"{}\"", local.display()));
            let ran = sandbox.run();
            assert_eq!(ran.code, Some(2), "{file} {kind}\n{}", ran.output());
            ran.assert_says(&[file.rsplit('/').next().unwrap()]);
        }
    }
}
