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
