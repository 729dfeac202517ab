//! The build directory outlives its job: a person can inspect a failed build, and the next build continues there.

use std::process::Command;

use build_agent_tests::Sandbox;

use crate::builds::builder;

/// A job whose build has failed, on a machine without `CI`, with a file of a person in its TMPDIR.
fn failed(test: &str) -> Option<Sandbox> {
    let sandbox = builder(test)?;
    sandbox.behaviour("bitbake fail do_compile");
    sandbox.run().assert_code(&[1]);
    std::fs::write(build(&sandbox).join("tmp/marker"), "of the failed build\n").unwrap();
    Some(sandbox)
}

fn build(sandbox: &Sandbox) -> std::path::PathBuf {
    sandbox.work().join("meta-tested-scarthgap/build")
}

fn is_kept(sandbox: &Sandbox) -> bool {
    build(sandbox).join("tmp/marker").exists()
}

fn shell(sandbox: &Sandbox, options: &[&str], words: &[&str]) -> Command {
    let mut command = sandbox.command(["shell"]);
    command.arg(sandbox.manifest()).arg("--work-dir").arg(sandbox.work()).args(options);
    command.arg("--").args(words);
    command
}

#[test]
fn a_shell_opens_the_build_directory_of_a_failed_build() {
    let Some(sandbox) = failed("a_shell_opens_the_build_directory_of_a_failed_build") else { return };
    let look = ["cat", "tmp/marker"];
    // In CI, too: whoever opens a shell there wants to see what failed.
    for ci in [false, true] {
        let mut command = shell(&sandbox, &[], &look);
        command.envs(ci.then_some(("CI", "true")));
        let ran = sandbox.start(command).wait();
        ran.assert_code(&[0]);
        ran.assert_says(&["of the failed build"]);
    }
    // The changes of a person are still there in the next shell.
    let change = ["sh", "-c", "echo 'EXTRA = \"1\"' >> conf/local.conf"];
    sandbox.start(shell(&sandbox, &[], &change)).wait().assert_code(&[0]);
    sandbox.start(shell(&sandbox, &[], &["grep", "EXTRA", "conf/local.conf"])).wait().assert_code(&[0]);
    // But not in a job.
    let ran = sandbox.run();
    ran.assert_says(&["was changed since the agent wrote it"]);
    let conf = std::fs::read_to_string(build(&sandbox).join("conf/local.conf")).unwrap();
    assert!(is_kept(&sandbox) && !conf.contains("EXTRA"), "{conf}");
    sandbox.start(shell(&sandbox, &["--fresh"], &look)).wait().assert_code(&[1]);
    assert!(!is_kept(&sandbox));
    sandbox.assert_nothing_runs();
}

#[test]
fn a_second_run_continues_unless_the_directory_does_not_match() {
    let Some(sandbox) = failed("a_second_run_continues_unless_the_directory_does_not_match") else { return };
    sandbox.behaviour("bitbake pass");
    let codebuild = ("CODEBUILD_BUILD_ID", "p:1");
    type Variables<'a> = &'a [(&'a str, &'a str)];
    let table: [(&[&str], Variables, bool); 8] = [
        (&[], &[], true),
        // Another configuration: TMPDIR stays, the configuration does not.
        (&["--set", "config.local_conf=NEW = \"1\""], &[], true),
        (&["--set", "config.machines=[\"qemuarm64\"]"], &[], true),
        (&["--fresh"], &[], false),
        (&[], &[("CI", "true")], false),
        (&[], &[("GITHUB_ACTIONS", "true")], false),
        (&[], &[codebuild], false),
        (&["--trusted"], &[], false),
    ];
    for (options, variables, kept) in table {
        std::fs::create_dir_all(build(&sandbox).join("tmp")).unwrap();
        std::fs::write(build(&sandbox).join("tmp/marker"), "x").unwrap();
        let mut command = sandbox.run_command();
        command.args(options).envs(variables.iter().copied());
        sandbox.start(command).wait().assert_code(&[0]);
        assert_eq!(is_kept(&sandbox), kept, "{options:?} {variables:?}");
        let conf = std::fs::read_to_string(build(&sandbox).join("conf/local.conf")).unwrap();
        assert_eq!(conf.contains("NEW = \"1\""), options.iter().any(|option| option.contains("NEW")));
    }
}
