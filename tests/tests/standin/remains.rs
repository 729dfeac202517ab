//! What layer code leaves behind: processes, deep trees, full disks, floods. The job ends in bounded time,
//! and the next one works.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use build_agent_tests::{Sandbox, skip};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The file of that name in the work directory.
pub fn look_for(sandbox: &Sandbox, name: &str) -> Option<PathBuf> {
    let found = Command::new("find").arg(sandbox.work()).args(["-name", name]).output().unwrap();
    let found = String::from_utf8(found.stdout).unwrap();
    found.lines().next().map(PathBuf::from)
}

/// The file that a stand-in tool left in its build directory.
#[track_caller]
fn find(sandbox: &Sandbox, name: &str) -> PathBuf {
    let all = || Command::new("find").arg(sandbox.work()).args(["-maxdepth", "4"]).output().unwrap();
    let missing = || panic!("no {name} in\n{}", String::from_utf8_lossy(&all().stdout));
    look_for(sandbox, name).unwrap_or_else(missing)
}

#[test]
fn forty_daemons_of_all_kinds_are_ended() {
    let Some(sandbox) = Sandbox::new("forty_daemons_of_all_kinds_are_ended") else { return };
    sandbox.behaviour("yocto-check-layer daemons 40");
    sandbox.run().assert_code(&[0]);
    let pids = std::fs::read_to_string(find(&sandbox, "pids")).unwrap();
    assert_eq!(pids.lines().count(), 40);
    let alive = |pid: &&str| kill(Pid::from_raw(pid.parse().unwrap()), None).is_ok();
    assert_eq!(pids.lines().filter(alive).collect::<Vec<_>>(), [""; 0]);
    sandbox.assert_nothing_runs();
}

#[test]
fn processes_that_fork_without_end_do_not_outlive_their_job() {
    let Some(sandbox) = Sandbox::new("processes_that_fork_without_end_do_not_outlive_their_job") else {
        return;
    };
    sandbox.behaviour("yocto-check-layer forker 3");
    for _ in 0..3 {
        let ran = sandbox.run();
        ran.assert_code(&[0]);
        ran.assert_says(&["; ended"]);
        let beat = find(&sandbox, "beat");
        let beats = || std::fs::metadata(&beat).unwrap().len();
        let before = beats();
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(beats(), before, "it goes on");
        sandbox.assert_nothing_runs();
    }
}

#[test]
fn a_deep_tree_does_not_stop_the_next_job() {
    let Some(sandbox) = Sandbox::new("a_deep_tree_does_not_stop_the_next_job") else { return };
    sandbox.behaviour("yocto-check-layer deep 3000");
    for _ in 0..2 {
        // With few open files, or the tree would have to be deeper.
        let mut command = Command::new("sh");
        let job = sandbox.run_command();
        command.env_clear().current_dir(sandbox.layer());
        command.envs(job.get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.args(["-c", "ulimit -n 256; exec \"$@\"", "sh"]).arg(job.get_program()).args(job.get_args());
        sandbox.start(command).wait().assert_code(&[0]);
    }
    // For the sandbox, which would need as many open files.
    sandbox.behaviour("yocto-check-layer pass");
    sandbox.run().assert_code(&[0]);
}

/// A build whose BitBake prints without end that tasks start.
fn flooded(test: &str) -> Option<Sandbox> {
    let sandbox = Sandbox::new(test)?;
    let text = sandbox.manifest_text().replace("yocto_check_layer = true", "yocto_check_layer = false");
    sandbox.write_manifest(&format!("{text}log = \"1MiB\"\n\n[build]\ntargets = [\"hello\"]\n"));
    sandbox.behaviour("bitbake started");
    Some(sandbox)
}

#[test]
fn a_signal_is_heeded_in_a_flood_of_tasks() {
    let Some(sandbox) = flooded("a_signal_is_heeded_in_a_flood_of_tasks") else { return };
    let mut running = sandbox.start(sandbox.run_command());
    sandbox.wait_for_log(&mut running, "recipe x20000-1.0-r0");
    std::thread::sleep(Duration::from_secs(2));
    let start = Instant::now();
    running.signal(Signal::SIGTERM);
    let ran = running.wait();
    ran.assert_code(&[130]);
    // The grace is 2 s; the rest is what a busy machine takes.
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert!(ran.peak_kib <= 64 * 1024, "{} KiB", ran.peak_kib);
    println!("after {:?}, at most {} KiB", start.elapsed(), ran.peak_kib);
    sandbox.assert_nothing_runs();
}

#[test]
fn the_jobs_limit_is_heeded_in_a_flood_of_tasks_and_the_log_is_cut() {
    let Some(sandbox) = flooded("the_jobs_limit_is_heeded_in_a_flood_of_tasks_and_the_log_is_cut") else {
        return;
    };
    sandbox.change_manifest("job = \"5m\"", "job = \"10s\"");
    let start = Instant::now();
    let ran = sandbox.run();
    ran.assert_code(&[5]);
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    ran.assert_says(&["longer than its limit", "`[limits] log` is the limit"]);
    let logs = sandbox.out().join("logs");
    let log = std::fs::read(logs.join("build-qemux86-64.log")).unwrap();
    assert!(log.len() <= 1024 * 1024 + 200, "{} bytes", log.len());
    let log = String::from_utf8(log).unwrap();
    assert!(log.starts_with("NOTE: recipe x0-1.0-r0: task do_y: Started\n"));
    assert_eq!(log.matches("bytes were cut out here").count(), 1);
    let rest = std::fs::read_dir(&logs)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().contains("rest"));
    assert_eq!(rest.count(), 0);
}

#[test]
fn signals_about_pipes_and_files_do_not_end_the_agent() {
    let Some(sandbox) = Sandbox::new("signals_about_pipes_and_files_do_not_end_the_agent") else { return };
    sandbox.behaviour("yocto-check-layer slow 100");
    let mut running = sandbox.start(sandbox.run_command());
    sandbox.wait_for_log(&mut running, "Detected layers");
    running.signal(Signal::SIGXFSZ);
    running.signal(Signal::SIGPIPE);
    running.wait().assert_code(&[0]);
}

/// The log cannot be written any more, and the outcome counts all the same.
#[test]
fn files_that_may_not_grow_lose_the_log_only() {
    let Some(sandbox) = Sandbox::new("files_that_may_not_grow_lose_the_log_only") else { return };
    sandbox.behaviour("yocto-check-layer flood 8");
    let job = sandbox.run_command();
    let mut command = Command::new("sh");
    command.env_clear().current_dir(sandbox.layer());
    command.envs(job.get_envs().filter_map(|(name, value)| Some((name, value?))));
    // 4 MiB in blocks of 512 bytes.
    command.args(["-c", "ulimit -f 8192; exec \"$@\"", "sh"]).arg(job.get_program()).args(job.get_args());
    let ran = sandbox.start(command).wait();
    ran.assert_code(&[0]);
    ran.assert_says(&["is incomplete", "bytes of output are missing"]);
    assert_eq!(sandbox.result()["outcome"], "passed");
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing_running() {
    let Some(sandbox) = Sandbox::new("a_full_disk_is_told_and_leaves_nothing_running") else { return };
    std::fs::create_dir(sandbox.out()).unwrap();
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(sandbox.out()).output();
    if !mounted.is_ok_and(|mounted| mounted.status.success()) {
        return skip("a_full_disk_is_told_and_leaves_nothing_running", "mount is refused");
    }
    sandbox.behaviour("yocto-check-layer flood 8");
    let ran = sandbox.run();
    let unmounted = Command::new("umount").arg("-l").arg(sandbox.out()).output().unwrap();
    assert!(unmounted.status.success(), "{unmounted:?}");
    // The reports may have found no room either, which is the machine's fault.
    ran.assert_code(&[0, 3]);
    ran.assert_says(&["is incomplete"]);
    sandbox.assert_nothing_runs();
}
