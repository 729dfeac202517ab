//! Closed pipes, blocked pipes, servers that do not reply, full disks.

use std::io::Read;
use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

use build_agent_tests::{Sandbox, agent};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn a_closed_pipe_does_not_change_the_exit_status() {
    let Some(sandbox) = Sandbox::new("a_closed_pipe_does_not_change_the_exit_status") else { return };
    for output in ["plain", "json"] {
        let mut command = sandbox.run_command();
        command.args(["--output", output]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut running = command.spawn().unwrap();
        drop((running.stdout.take(), running.stderr.take()));
        assert_eq!(running.wait().unwrap().code(), Some(0), "{output}");
        assert_eq!(sandbox.result()["outcome"], "passed");
    }
    let mut schema = agent().arg("schema").stdout(Stdio::piped()).spawn().unwrap();
    drop(schema.stdout.take());
    assert_eq!(schema.wait().unwrap().code(), Some(0));
}

#[test]
fn a_blocked_pipe_does_not_block_a_cancelled_job() {
    let Some(sandbox) = Sandbox::new("a_blocked_pipe_does_not_block_a_cancelled_job") else {
        return;
    };
    sandbox.behaviour("yocto-check-layer hang");
    let mut command = sandbox.run_command();
    // Nobody reads, and the pipe is full before the job reaches the tool that hangs.
    let (mut reader, writer) = std::io::pipe().unwrap();
    nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    command.args(["--output", "json"]).stdout(writer).stdin(Stdio::null()).stderr(Stdio::null());
    let mut running = command.spawn().unwrap();
    drop(command);
    while !sandbox.logs().contains("hanging") {
        assert!(running.try_wait().unwrap().is_none(), "it ended before it hung");
        std::thread::sleep(Duration::from_millis(20));
    }
    let agent = Pid::from_raw(running.id() as i32);
    kill(agent, Signal::SIGINT).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    kill(agent, Signal::SIGINT).unwrap();
    assert_eq!(running.wait().unwrap().code(), Some(130));
    assert_eq!(sandbox.result()["outcome"], "cancelled");
    sandbox.assert_nothing_runs();
    reader.read_exact(&mut [0; 100]).unwrap();
}

/// A server that accepts connections and never replies.
fn silent_server() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (listener, address)
}

#[test]
fn a_git_server_that_never_replies_times_out() {
    let Some(sandbox) = Sandbox::new("a_git_server_that_never_replies_times_out") else { return };
    let (_listening, address) = silent_server();
    let here = format!("file://{}", sandbox.upstream().display());
    sandbox.change_manifest(&here, &format!("http://{address}/poky"));
    sandbox.change_manifest("job = \"5m\"", "job = \"4s\"");
    sandbox.run().assert_code(&[5]);
    assert_eq!(sandbox.result()["outcome"], "timed-out");
    sandbox.assert_nothing_runs();
}

#[test]
fn a_bucket_that_never_replies_ends_with_the_time_limit_or_a_signal() {
    const NAME: &str = "a_bucket_that_never_replies_ends_with_the_time_limit_or_a_signal";
    let Some(sandbox) = Sandbox::new(NAME) else { return };
    let (_listening, address) = silent_server();
    let rules = "\n[[artifacts.rules]]\ninclude = \"conf/**\"\n\n[limits]";
    sandbox.change_manifest("[limits]", rules);
    sandbox.change_manifest(&sandbox.artifacts().display().to_string(), "s3://bucket/prefix");
    let start = |job: &str| {
        let mut command = sandbox.run_command();
        command.args(["--set", &format!("limits.job={job}")]);
        command.env("AWS_ENDPOINT_URL_S3", format!("http://{address}")).env("AWS_REGION", "us-east-1");
        command.env("AWS_ACCESS_KEY_ID", "nobody").env("AWS_SECRET_ACCESS_KEY", "nothing-to-be-kept-secret");
        sandbox.start(command)
    };
    start("6s").wait().assert_code(&[5]);
    assert_eq!(sandbox.result()["outcome"], "timed-out");
    let events = sandbox.out().join("events.jsonl");
    std::fs::remove_file(&events).unwrap();
    let mut running = start("5m");
    running.wait_until("publish", || {
        let events = std::fs::read_to_string(&events).unwrap_or_default();
        events.contains("\"unit-started\",\"unit\":{\"stage\":\"publish\"")
    });
    running.signal(Signal::SIGTERM);
    let ran = running.wait();
    ran.assert_code(&[130]);
    ran.assert_says(&["SIGTERM: stopping, up to 2 s: publish"]);
    assert_eq!(sandbox.result()["outcome"], "cancelled");
}

/// `/dev/full` represents a console on a full disk.
#[test]
fn a_console_that_cannot_be_written_does_not_change_the_verdict() {
    const NAME: &str = "a_console_that_cannot_be_written_does_not_change_the_verdict";
    let Some(sandbox) = Sandbox::new(NAME) else { return };
    sandbox.behaviour("yocto-check-layer fail test_world");
    let mut command = sandbox.run_command();
    command.stdout(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap());
    command.stderr(Stdio::null()).stdin(Stdio::null());
    assert_eq!(command.status().unwrap().code(), Some(1));
    assert_eq!(sandbox.result()["outcome"], "failed");
}

#[test]
fn an_output_directory_has_one_job_at_a_time() {
    let Some(sandbox) = Sandbox::new("an_output_directory_has_one_job_at_a_time") else { return };
    sandbox.behaviour("yocto-check-layer hang");
    let mut first = sandbox.start(sandbox.run_command());
    sandbox.wait_for_log(&mut first, "hanging");
    let before = std::fs::read(sandbox.out().join("events.jsonl")).unwrap();
    let mut second = sandbox.command(["run"]);
    second.arg(sandbox.manifest()).arg("--work-dir").arg(sandbox.path().join("work-of-the-second"));
    second.arg("--out").arg(sandbox.out());
    let ran = sandbox.start(second).wait();
    ran.assert_code(&[3]);
    ran.assert_says(&[&format!("pid {}", first.pid()), "--out"]);
    let mut report = sandbox.command(["report"]);
    report.arg(sandbox.out().join("events.jsonl"));
    sandbox.start(report).wait().assert_code(&[3]);
    assert!(std::fs::read(sandbox.out().join("events.jsonl")).unwrap().starts_with(&before));
    first.signal(Signal::SIGINT);
    first.wait().assert_code(&[130]);
    assert_eq!(sandbox.result()["outcome"], "cancelled");
}
