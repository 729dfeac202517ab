//! `boot` and `devtool` in the kept build directory, with stand-ins for runqemu and devtool.

use std::path::PathBuf;
use std::process::Command;

use build_agent_tests::{Ran, Sandbox};

use crate::builds::builder;

fn build(sandbox: &Sandbox) -> PathBuf {
    sandbox.work().join("meta-tested-scarthgap/build")
}

fn command(sandbox: &Sandbox, name: &str, options: &[&str], words: &[&str]) -> Command {
    let mut command = sandbox.command([name]);
    command.arg(sandbox.manifest()).arg("--work-dir").arg(sandbox.work()).args(options);
    command.arg("--").args(words);
    command
}

fn call(sandbox: &Sandbox, name: &str, options: &[&str], words: &[&str]) -> Ran {
    sandbox.start(command(sandbox, name, options, words)).wait()
}

/// An image in the build directory, for a processor that is not the one of this machine.
fn image(sandbox: &Sandbox, name: &str, machine: &str) -> PathBuf {
    let directory = build(sandbox).join("tmp/deploy/images").join(machine);
    std::fs::create_dir_all(&directory).unwrap();
    let settings = directory.join(format!("{name}-{machine}.qemuboot.conf"));
    let text = "[config_bsp]\nqb_system_name = qemu-system-mips\nqb_cpu_kvm = -cpu host\n";
    std::fs::write(&settings, text).unwrap();
    settings
}

#[test]
fn a_built_image_is_started_with_its_console_on_the_terminal() {
    let Some(sandbox) = builder("a_built_image_is_started_with_its_console_on_the_terminal") else { return };
    let ran = call(&sandbox, "boot", &[], &[]);
    ran.assert_code(&[2]);
    ran.assert_says(&["has no image that QEMU can start", "build one: `build-agent run`"]);
    assert!(!build(&sandbox).exists(), "boot builds nothing");
    sandbox.run().assert_code(&[0]);
    call(&sandbox, "boot", &[], &[]).assert_code(&[2]);

    let settings = image(&sandbox, "core-image-x", "qemux86-64");
    image(&sandbox, "core-image-y", "qemumips");
    let ran = call(&sandbox, "boot", &[], &["qemuparams=-m 64"]);
    ran.assert_code(&[0]);
    let arguments = format!("runqemu nographic slirp snapshot {} qemuparams=-m 64 as ", settings.display());
    ran.assert_says(&[&arguments, "starting core-image-x for qemux86-64; Ctrl-A X ends QEMU"]);
    ran.assert_says(&[&format!("in {} with", build(&sandbox).display())]);
    let ran = call(&sandbox, "boot", &["--machine", "qemumips", "--keep-changes"], &["gtk"]);
    ran.assert_code(&[0]);
    ran.assert_says(&["runqemu serialstdio slirp /", "core-image-y-qemumips.qemuboot.conf gtk as "]);

    image(&sandbox, "core-image-z", "qemux86-64");
    let ran = call(&sandbox, "boot", &[], &[]);
    ran.assert_code(&[2]);
    ran.assert_says(&["several images for qemux86-64: core-image-x, core-image-z"]);
    let ran = call(&sandbox, "boot", &["--image", "core-image-z"], &[]);
    ran.assert_code(&[0]);
    ran.assert_says(&["core-image-z-qemux86-64.qemuboot.conf as "]);

    // What another job made is neither used nor deleted. In CI it is the same.
    for ci in [false, true] {
        let mut command = command(&sandbox, "boot", &["--image", "core-image-z", "--trusted"], &[]);
        command.envs(ci.then_some(("CI", "true")));
        let ran = sandbox.start(command).wait();
        ran.assert_code(&[2]);
        ran.assert_says(&["the trust in the source was untrusted and is trusted"]);
    }
    assert!(settings.is_file());
    sandbox.assert_nothing_runs();
}

/// A job builds what the manifest says, and what a person works on survives it.
#[test]
fn the_workspace_of_devtool_survives_jobs_that_do_not_use_it() {
    let Some(sandbox) = builder("the_workspace_of_devtool_survives_jobs_that_do_not_use_it") else { return };
    let ran = call(&sandbox, "devtool", &[], &["modify", "hello"]);
    ran.assert_code(&[0]);
    ran.assert_says(&["devtool modify hello as "]);
    if nix::unistd::geteuid().is_root() {
        ran.assert_says(&["cannot write to", "meta-tested"]);
    }
    call(&sandbox, "devtool", &[], &["fail", "3"]).assert_code(&[1]);
    let source = build(&sandbox).join("workspace/sources/hello/main.c");
    let is_layer = || {
        let conf = std::fs::read_to_string(build(&sandbox).join("conf/bblayers.conf")).unwrap();
        conf.contains("build/workspace \\\n  \"")
    };
    assert!(is_layer() && source.is_file());
    for options in [&[][..], &["--fresh"]] {
        let mut command = sandbox.run_command();
        command.args(options);
        let ran = sandbox.start(command).wait();
        ran.assert_code(&[0]);
        assert!(!ran.output().contains("was changed since the agent wrote it"), "{}", ran.output());
        assert!(!is_layer() && source.is_file(), "{options:?}");
        let ran = call(&sandbox, "shell", &[], &["cat", "conf/bblayers.conf"]);
        ran.assert_code(&[0]);
        ran.assert_says(&["build/workspace \\\n  \""]);
    }
    let ran = sandbox.run();
    ran.assert_says(&["are not part of this job"]);
    let mut command = sandbox.run_command();
    command.arg("--trusted");
    let ran = sandbox.start(command).wait();
    ran.assert_code(&[2]);
    ran.assert_says(&["may have changes that are nowhere else", "workspace"]);
    assert!(source.is_file());
    sandbox.assert_nothing_runs();
}
