//! A machine whose `/dev/shm` cannot be used: nothing runs, and `doctor` reports it.

use std::process::Command;

use build_agent_tests::{Sandbox, skip};

/// Runs the command in its own mount namespace, with this mounted over `/dev/shm`.
fn with_shared_memory(mount: &str, inner: &Command) -> Command {
    let mut command = Command::new("unshare");
    let script = format!("mount {mount} /dev/shm && exec \"$0\" \"$@\"");
    command.args(["--mount", "sh", "-c", &script]).arg(inner.get_program()).args(inner.get_args());
    command.env_clear();
    for (name, value) in inner.get_envs() {
        if let Some(value) = value {
            command.env(name, value);
        }
    }
    if let Some(directory) = inner.get_current_dir() {
        command.current_dir(directory);
    }
    command
}

fn can_mount() -> bool {
    let words = ["--mount", "mount", "-t", "tmpfs", "none", "/dev/shm"];
    Command::new("unshare").args(words).output().is_ok_and(|output| output.status.success())
}

#[test]
fn shared_memory_that_cannot_be_written_ends_the_job_before_anything_runs() {
    let test = "shared_memory_that_cannot_be_written_ends_the_job_before_anything_runs";
    let Some(sandbox) = Sandbox::new(test) else { return };
    if !can_mount() {
        skip(test, "it needs the right to mount");
        return;
    }
    let read_only = "-t tmpfs -o ro none";
    let ran = sandbox.start(with_shared_memory(read_only, &sandbox.run_command())).wait();
    ran.assert_code(&[3]);
    ran.assert_says(&["/dev/shm cannot be written", "mount -t tmpfs"]);
    assert!(!sandbox.work().join("layers").exists(), "nothing was cloned");

    let mut doctor = sandbox.command(["doctor"]);
    doctor.arg(sandbox.manifest()).arg("--work-dir").arg(sandbox.work());
    let ran = sandbox.start(with_shared_memory(read_only, &doctor)).wait();
    ran.assert_code(&[3]);
    ran.assert_says(&["/dev/shm cannot be written"]);
}
