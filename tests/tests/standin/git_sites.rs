//! The variables of a site for git: mirrors, and mistakes in them.

use build_agent_tests::Sandbox;

#[test]
fn a_mirror_is_used_and_the_reports_name_the_address() {
    let Some(sandbox) = Sandbox::new("a_mirror_is_used_and_the_reports_name_the_address") else { return };
    let upstream = sandbox.upstream().parent().unwrap().display().to_string();
    sandbox.change_manifest(&format!("file://{upstream}/"), "https://git.invalid/group/");
    let run = |mirrors: &str| {
        let mut command = sandbox.run_command();
        command.env("BUILD_AGENT_GIT_MIRRORS", mirrors);
        sandbox.start(command).wait()
    };
    run(&format!(
        "https://git.invalid/=https://nowhere.invalid/ https://git.invalid/group/=file://{upstream}/"
    ))
    .assert_code(&[0]);
    let result = sandbox.result();
    assert_eq!(result["repos"][0]["url"], "https://git.invalid/group/poky");
    let conf =
        std::fs::read_to_string(sandbox.work().join("meta-tested-scarthgap/build/conf/local.conf")).unwrap();
    let line = format!("git://git\\.invalid$/group/(.*) git://{upstream}/\\1;protocol=file");
    assert!(conf.contains(&line), "{conf}");

    let ran = run("https://git.invalid=https://m.example/");
    ran.assert_code(&[2]);
    ran.assert_says(&["BUILD_AGENT_GIT_MIRRORS", "does not end with `/`", "write pairs such as"]);
}

/// Only a trusted source gets the credentials of recipes, and only while its job runs.
#[test]
fn recipes_of_a_trusted_source_get_credentials() {
    let Some(sandbox) = Sandbox::new("recipes_of_a_trusted_source_get_credentials") else { return };
    sandbox.behaviour("bitbake-layers environment");
    let home = sandbox.work().join("meta-tested-scarthgap/recipe-home");
    for (trusted, says) in [
        (true, "layer code gets the credentials of BUILD_AGENT_RECIPE_CREDENTIALS"),
        (false, "the source is not trusted, so recipes get no credentials"),
    ] {
        let mut command = sandbox.run_command();
        command.args(trusted.then_some("--trusted"));
        command.env("BUILD_AGENT_RECIPE_CREDENTIALS", "https://gitlab.invalid/=ci:hunter22hunter22");
        let ran = sandbox.start(command).wait();
        ran.assert_code(&[0]);
        ran.assert_says(&[says]);
        let logs = sandbox.logs();
        assert!(logs.contains("environment HOME=") && !logs.contains("hunter22"), "{logs}");
        assert_eq!(logs.contains(&format!("environment HOME={}", home.display())), trusted, "{logs}");
        assert!(!home.exists());
        std::fs::remove_dir_all(sandbox.out()).unwrap();
    }
}
