//! Files that only root may read: a manifest of an untrusted source cannot make root read them.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use build_agent_tests::{Sandbox, copy_tree, git, leaks_of, skip};

const CANARY: &str = "a-canary-of-roots-own-files";

/// `None` if the agent cannot run children as another user.
fn sandbox(test: &str) -> Option<Sandbox> {
    if !nix::unistd::geteuid().is_root() {
        skip(test, "the agent has no other user's rights to read with unless it is root");
        return None;
    }
    let sandbox = Sandbox::new(test)?;
    // A complete copy of the upstream that the build user cannot enter.
    let private = sandbox.path().join("private");
    copy_tree(&sandbox.upstream(), &private);
    std::fs::write(private.join("canary"), CANARY).unwrap();
    build_agent_tests::commit(&private, "Add a canary");
    std::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o700)).unwrap();
    Some(sandbox)
}

/// The job ends with an error, and layer code cannot read the content of private files anywhere.
#[track_caller]
fn assert_refused(sandbox: &Sandbox, codes: &[i32]) {
    let ran = sandbox.run();
    ran.assert_code(codes);
    assert!(!ran.output().contains(CANARY), "{}", ran.output());
    for place in [sandbox.work(), sandbox.out()] {
        let leaks = leaks_of(&[CANARY.to_owned()], &place);
        assert!(leaks.is_empty(), "{leaks:?}");
    }
}

#[test]
fn a_repository_that_the_build_user_cannot_read_is_not_cloned() {
    let Some(sandbox) = sandbox("a_repository_that_the_build_user_cannot_read_is_not_cloned") else { return };
    sandbox.change_manifest("upstream/poky\"", "private\"");
    assert_refused(&sandbox, &[4]);
    // With `--trusted`, the repository is cloned, and the tools of the copy find no fault.
    let mut command = sandbox.run_command();
    command.arg("--trusted");
    sandbox.start(command).wait().assert_code(&[0]);
}

#[test]
fn a_repository_with_private_alternates_is_not_cloned() {
    let Some(sandbox) = sandbox("a_repository_with_private_alternates_is_not_cloned") else { return };
    let private = sandbox.path().join("private");
    let words = ["clone", "--quiet", "--bare", "--shared"].map(std::ffi::OsString::from);
    let borrower = sandbox.path().join("borrower");
    let paths = [private.into_os_string(), borrower.into_os_string()];
    git(sandbox.path(), words.into_iter().chain(paths));
    sandbox.change_manifest("upstream/poky\"", "borrower\"");
    assert_refused(&sandbox, &[2, 4]);
}

#[test]
fn a_directory_that_the_build_user_cannot_enter_is_not_used() {
    let Some(sandbox) = sandbox("a_directory_that_the_build_user_cannot_enter_is_not_used") else { return };
    let private = sandbox.path().join("private").display().to_string();
    let url = format!("url = \"file://{}\"\nbranch = \"scarthgap\"", sandbox.upstream().display());
    sandbox.change_manifest(&url, &format!("path = \"{private}\""));
    assert_refused(&sandbox, &[2]);
}

#[test]
fn files_of_the_manifest_are_read_with_the_build_users_permissions() {
    const TEST: &str = "files_of_the_manifest_are_read_with_the_build_users_permissions";
    let Some(sandbox) = sandbox(TEST) else { return };
    let secret = sandbox.path().join("secret.toml");
    std::fs::write(&secret, format!("[[{CANARY}]]\n\"{CANARY}\" = 1\n")).unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let linked = |name: &str| {
        let path = sandbox.layer().join(name);
        symlink(Path::new("../secret.toml"), &path).unwrap();
        path
    };
    let lock = linked("build-agent.lock");
    assert_refused(&sandbox, &[2]);
    std::fs::remove_file(lock).unwrap();
    linked("known.toml");
    sandbox.change_manifest(
        "yocto_check_layer = true",
        "yocto_check_layer = true\nknown_failures = \"known.toml\"",
    );
    assert_refused(&sandbox, &[2]);
}
