#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::processes::Processes;
use crate::{UntilStopped, User, prepare_process};
use agent_types::error::Class;
use agent_types::events::{Event, Level, channel};
use agent_types::secret::Secret;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

/// A runner with short times, and what it told.
pub(super) struct Bench {
    pub(super) base: tempfile::TempDir,
    pub(super) runner: Runner,
    received: mpsc::Receiver<Event>,
}

#[derive(Default)]
struct Collect(Vec<String>);

impl LineHandler for Collect {
    fn line(&mut self, line: &str) -> Vec<EventKind> {
        self.0.push(line.to_owned());
        Vec::new()
    }
}

pub(super) const QUICK: Times = Times {
    heartbeat: Duration::from_secs(60),
    output: Duration::from_millis(300),
    daemons: Duration::from_millis(300),
    term_grace: Duration::from_millis(300),
};

impl Bench {
    pub(super) fn new() -> Bench {
        prepare_process().unwrap();
        // As the agent does. A shell cannot trap what its parent ignores, as under `nohup` and `&`.
        let _ = signal(SignalKind::interrupt()).unwrap();
        let base = tempfile::tempdir().unwrap();
        let (events, received) = channel();
        let runner = Runner {
            stage: Stage::Check,
            events,
            interrupt: Interrupt::new(None),
            redactor: Redactor::new(&[Secret { origin: "test".into(), value: "hunter2-hunter2".into() }]),
            logs: base.path().join("out/logs"),
            stall: Duration::from_secs(600),
            grace: Duration::from_millis(800),
            log_limit: LOG_LIMIT,
            commands: Arc::default(),
        };
        Bench { base, runner, received }
    }

    pub(super) fn sh(&self, script: &str) -> Command {
        let mut command = Command::new("sh", self.base.path(), "test").arg("-c").arg(script);
        command.environment.set("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        command
    }

    async fn run(&self, command: Command) -> CommandOutcome {
        self.runner.run_with(command, &mut (), QUICK).await.unwrap()
    }

    async fn lines(&self, script: &str) -> Vec<String> {
        let mut lines = Collect::default();
        self.runner.run_with(self.sh(script), &mut lines, QUICK).await.unwrap();
        lines.0
    }

    /// Everything that was told.
    fn events(&mut self) -> Vec<EventKind> {
        std::iter::from_fn(|| self.received.try_recv().ok()).map(|event| event.what).collect()
    }

    fn warnings(&mut self) -> String {
        let warning = |what| match what {
            EventKind::Notice { level: Level::Warning, message, .. } => Some(message),
            _ => None,
        };
        self.events().into_iter().filter_map(warning).collect::<Vec<_>>().join("\n")
    }

    /// The processes whose pids the script wrote into `pids` and that still run.
    fn survivors(&self) -> BTreeSet<i32> {
        let pids = std::fs::read_to_string(self.base.path().join("pids")).unwrap();
        let pids = pids.lines().map(|pid| pid.trim().parse().unwrap());
        pids.filter(|pid| Process::find(*pid).is_some_and(|process| !process.is_dead())).collect()
    }
}

pub(super) fn warnings_of(bench: &mut Bench) -> String {
    bench.warnings()
}

/// Calls back for each line.
struct OnLine<F>(F);

impl<F: FnMut(&str) + Send> LineHandler for OnLine<F> {
    fn line(&mut self, line: &str) -> Vec<EventKind> {
        (self.0)(line);
        Vec::new()
    }
}

#[tokio::test]
async fn the_end_of_a_child_is_told_as_it_was() {
    let bench = Bench::new();
    for (script, end, words) in [
        ("exit 0", ExitReason::Exited(0), "exit status 0"),
        ("exit 7", ExitReason::Exited(7), "exit status 7"),
        ("kill -KILL $$", ExitReason::Signalled(9), "signal 9 (SIGKILL)"),
        ("kill -SEGV $$", ExitReason::Signalled(11), "signal 11 (SIGSEGV)"),
        ("exec >&- 2>&-; exit 3", ExitReason::Exited(3), "exit status 3"),
    ] {
        let finished = bench.run(bench.sh(script)).await;
        assert_eq!((finished.end, finished.end.to_string().as_str()), (end, words), "{script}");
    }
    assert_eq!(ExitReason::Stalled(Duration::from_secs(1200)).to_string(), "stalled for 20m");
}

#[tokio::test]
async fn both_streams_come_in_order_and_the_environment_is_the_commands() {
    let mut bench = Bench::new();
    assert_eq!(bench.lines("echo 1; echo 2 >&2; echo 3; cat; printf 4").await, ["1", "2", "3", "4"]);
    let mut command = bench.sh("env; umask; echo hunter2-hunter2");
    command.environment.set("A", "b");
    let finished = bench.run(command.arg("hunter2-hunter2")).await;
    let log = std::fs::read_to_string(&finished.log).unwrap();
    let names: BTreeSet<&str> = log.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    // `PWD` and the like are the shell's own doing.
    assert!(names.contains("A") && !names.contains("CARGO") && !names.contains("HOME"), "{log}");
    assert!(log.contains("0022") && log.ends_with("[redacted]\n"), "{log}");
    assert_eq!(finished.bytes as usize, log.len() + "hunter2-hunter2".len() - "[redacted]".len());
    let events = bench.events();
    let started = events.iter().filter_map(|what| match what {
        EventKind::CommandStarted { command, argv, log, .. } => Some((*command, argv.join(" "), log.clone())),
        _ => None,
    });
    let script = "env; umask; echo [redacted]";
    let wanted = [
        (1, "sh -c echo 1; echo 2 >&2; echo 3; cat; printf 4".to_owned(), "logs/test.log".into()),
        (2, format!("sh -c {script} [redacted]"), PathBuf::from("logs/test-2.log")),
    ];
    assert_eq!(started.collect::<Vec<_>>(), wanted);
}

#[tokio::test]
async fn what_cannot_be_started_is_an_error_that_names_it() {
    let bench = Bench::new();
    let run = async |command: Command| bench.runner.run(command, &mut ()).await.unwrap_err();
    let mut missing = bench.sh("");
    missing.argv[0] = "no-such-program".into();
    let error = run(missing.clone()).await;
    assert_eq!(error.class, Class::Machine);
    let text = error.to_string();
    assert!(text.contains("`no-such-program`") && text.contains("PATH=/usr/sbin:"), "{text}");

    let mut nowhere = bench.sh("");
    nowhere.cwd = bench.base.path().join("nowhere");
    let text = run(nowhere).await.to_string();
    assert!(text.contains("nowhere does not exist"), "{text}");

    let script = bench.base.path().join("script");
    std::fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    missing.argv[0] = script.clone().into();
    let text = run(missing.clone()).await.to_string();
    assert!(text.contains("may not be executed"), "{text}");
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let text = run(missing).await.to_string();
    assert!(text.contains("interpreter"), "{text}");
    assert_eq!(std::fs::read_dir(&bench.runner.logs).unwrap().count(), 0, "logs of what never ran");
}

#[tokio::test]
async fn as_root_a_child_becomes_its_user_without_roots_groups() {
    let bench = Bench::new();
    let Some(nobody) = User::find("nobody").unwrap() else { return };
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let mut command =
        bench.sh("id -u; id -G; kill -0 $PPID || echo refused; cat /proc/$PPID/environ || echo closed");
    command.user = Some(nobody.clone());
    command.cwd = "/".into();
    let tail = bench.run(command.clone()).await.tail;
    assert_eq!(tail[..2], [nobody.uid.to_string(), nobody.gid.to_string()]);
    assert!(tail.contains(&"refused".to_owned()) && tail.contains(&"closed".to_owned()), "{tail:?}");

    // It is stopped all the same, and a directory that is closed to it is named.
    command.argv[2] = "trap '' INT TERM; while :; do sleep 1; done".into();
    command.timeout = Some(Duration::from_millis(50));
    assert_eq!(bench.run(command.clone()).await.end, ExitReason::TimedOut);
    let closed = bench.base.path().join("closed");
    std::fs::create_dir(&closed).unwrap();
    for directory in [bench.base.path(), closed.as_path()] {
        std::fs::set_permissions(directory, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    std::fs::set_permissions(&closed, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    command.cwd = closed.join("inner");
    std::fs::create_dir(&command.cwd).unwrap();
    let text = bench.runner.run(command, &mut ()).await.unwrap_err().to_string();
    assert!(text.contains(&format!("{} lets user nobody not in", closed.display())), "{text}");
}

#[tokio::test]
async fn an_ignorant_group_is_killed_after_the_grace() {
    let bench = Bench::new();
    let mut command = bench.sh(
        "trap '' INT TERM; echo $$ > pids; (trap '' INT TERM; sh -c 'echo $$ >> pids; sleep 100') & sleep 100; sleep 100",
    );
    command.timeout = Some(Duration::from_millis(200));
    assert_eq!(bench.run(command).await.end, ExitReason::TimedOut);
    assert_eq!(bench.survivors(), BTreeSet::new());
}

#[tokio::test]
async fn the_sequence_is_interrupt_twice_and_terminate() {
    let mut bench = Bench::new();
    bench.runner.grace = Duration::from_secs(8);
    let interrupt = bench.runner.interrupt.clone();
    let mut lines = OnLine(|line: &str| {
        if line == "ready" {
            interrupt.signal();
        }
    });
    let script =
        "trap 'echo int' INT; trap 'echo term; exit 0' TERM; echo ready; while :; do sleep 0.05; done";
    let finished = bench.runner.run_with(bench.sh(script), &mut lines, QUICK).await.unwrap();
    assert_eq!(finished.end, ExitReason::Cancelled);
    // The shell has its own words about the `sleep` that the signals ended.
    let told: Vec<_> = finished.tail.iter().filter(|line| ["int", "term"].contains(&line.as_str())).collect();
    assert_eq!(told, ["int", "int", "term"]);
}

/// At the end of the job's time a command that may finish has nearly all of the grace, unless somebody is in a hurry.
#[tokio::test]
async fn a_signal_ends_the_wait_for_running_work() {
    let mut bench = Bench::new();
    // Without the signals this would outlast every timeout.
    bench.runner.grace = Duration::from_secs(3600);
    let mut command = bench.sh("trap 'echo int' INT; trap '' TERM; echo ready; while :; do sleep 0.05; done");
    command.finish_running = true;
    // The command is started before the end of the time.
    let interrupt = Interrupt::new(Some(Instant::now() + Duration::from_secs(3)));
    bench.runner.interrupt = interrupt.clone();
    let mut lines = OnLine(|line: &str| {
        if line == "int" {
            interrupt.signal();
        }
    });
    let finished = bench.runner.run_with(command, &mut lines, QUICK).await.unwrap();
    assert_eq!(finished.end, ExitReason::TimedOut);
    let told = finished.tail.iter().filter(|line| *line == "int").count();
    assert_eq!(told, 2, "{:?}", finished.tail);
}

#[tokio::test]
async fn members_get_the_sequence_though_their_leader_is_gone() {
    let bench = Bench::new();
    // The shell goes at SIGINT; what it started in the background ignores it.
    let mut command = bench.sh("sh -c 'echo $$ > pids; sleep 100' >/dev/null 2>&1 & wait");
    command.timeout = Some(Duration::from_millis(200));
    assert_eq!(bench.run(command).await.end, ExitReason::TimedOut);
    assert_eq!(bench.survivors(), BTreeSet::new());
}

#[tokio::test]
async fn a_second_signal_means_now() {
    let mut bench = Bench::new();
    // Without the second signal this would outlast every timeout.
    bench.runner.grace = Duration::from_secs(3600);
    let interrupt = bench.runner.interrupt.clone();
    let mut lines = OnLine(|line: &str| {
        if matches!(line, "ready" | "int") {
            interrupt.signal();
        }
    });
    let script = "trap 'echo int' INT; trap '' TERM; echo ready; while :; do sleep 0.05; done";
    let finished = bench.runner.run_with(bench.sh(script), &mut lines, QUICK).await.unwrap();
    assert_eq!(finished.end, ExitReason::Cancelled);
}

/// An agent writes its reports after the second signal, and SIGKILL ends one that does not.
#[tokio::test]
async fn an_agent_gets_the_second_signal() {
    for (on_second, grace, wanted) in [
        ("sleep 0.2; echo reports; exit 130", Duration::from_secs(3600), true),
        ("true", Duration::from_secs(1), false),
    ] {
        let mut bench = Bench::new();
        bench.runner.grace = grace;
        let interrupt = bench.runner.interrupt.clone();
        let mut lines = OnLine(|line: &str| {
            if matches!(line, "ready" | "int") {
                interrupt.signal();
            }
        });
        let script =
            format!("trap 'echo int' INT; trap '{on_second}' TERM; echo ready; while :; do sleep 0.05; done");
        let mut command = bench.sh(&script);
        command.is_agent = true;
        let finished = bench.runner.run_with(command, &mut lines, QUICK).await.unwrap();
        assert_eq!(finished.end, ExitReason::Cancelled);
        assert_eq!(finished.tail.iter().any(|line| line == "reports"), wanted, "{:?}", finished.tail);
    }
}

#[tokio::test]
async fn nothing_starts_when_the_job_has_to_stop() {
    let mut bench = Bench::new();
    bench.runner.interrupt.signal();
    let finished = bench.run(bench.sh("echo > started")).await;
    assert_eq!(finished.end, ExitReason::Cancelled);
    bench.runner.interrupt = Interrupt::new(Some(Instant::now()));
    assert_eq!(bench.run(bench.sh("echo > started")).await.end, ExitReason::TimedOut);
    assert!(!bench.base.path().join("started").exists());
    assert_eq!(bench.events().len(), 4, "started and finished of each");
}

#[tokio::test]
async fn the_jobs_deadline_ends_a_child() {
    let mut bench = Bench::new();
    bench.runner.interrupt = Interrupt::new(Some(Instant::now() + Duration::from_millis(200)));
    assert_eq!(bench.run(bench.sh("sleep 100")).await.end, ExitReason::TimedOut);
}

#[tokio::test]
async fn silence_is_told_then_pictured_then_ended() {
    let mut bench = Bench::new();
    let mut command = bench.sh("echo begin; sleep 100 hunter2-hunter2 || sleep 100; true");
    command.stall = Some(Duration::from_millis(600));
    let times = Times { heartbeat: Duration::from_millis(200), ..QUICK };
    let finished = bench.runner.run_with(command, &mut (), times).await.unwrap();
    assert!(matches!(finished.end, ExitReason::Stalled(_)), "{:?}", finished.end);
    let events = bench.events();
    let running = |what: &EventKind| match what {
        EventKind::Heartbeat { running, .. } => Some(running.clone()),
        _ => None,
    };
    let heartbeats: Vec<String> = events.iter().filter_map(running).collect();
    assert!(heartbeats.iter().any(|running| running.starts_with("sh -c echo begin;")), "{heartbeats:?}");
    let told = serde_json::to_string(&events).unwrap();
    assert!(told.contains("was silent for") && told.contains("sleep 100"), "{told}");
    assert!(!told.contains("hunter2"), "{told}");
}

/// A tool waits for a program that the agent runs for it. What that one prints is no silence of the tool, its own
/// silence ends the tool, and it has no limit of its own.
#[tokio::test]
async fn who_waits_for_a_busy_command_is_not_silent() {
    let mut bench = Bench::new();
    let mut tool = bench.sh("while ! [ -e done ]; do sleep 0.05; done");
    tool.stall = Some(Duration::from_secs(1));
    // Silent for less than the limit, and busy for much longer.
    let busy = "for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do echo $n; sleep 0.2; done; : >done";
    let busy = bench.sh(busy).on_behalf_of(&tool.activity);
    let (ended, _) = tokio::join!(bench.run(tool), bench.run(busy));
    assert_eq!(ended.end, ExitReason::Exited(0));

    let mut tool = bench.sh("sleep 100");
    tool.stall = Some(Duration::from_secs(1));
    let mut hanging = bench.sh("echo begin; sleep 101; true").on_behalf_of(&tool.activity);
    hanging.status = Some("hanging".into());
    let other = bench.sh("sleep 102; true");
    let stopping = tool.stopping.clone();
    let part = Runner { interrupt: bench.runner.interrupt.child(), ..bench.runner.clone() };
    let stop = async {
        stopping.cancelled().await;
        part.interrupt.signal();
    };
    let (mut first, mut second) = ((), ());
    let (ended, worked, _, ()) = tokio::join!(
        bench.run(tool),
        part.run_with(hanging, &mut first, QUICK),
        part.run_with(other, &mut second, QUICK),
        stop
    );
    assert!(matches!(ended.end, ExitReason::Stalled(_)), "{:?}", ended.end);
    assert_eq!(worked.unwrap().end, ExitReason::Cancelled, "it is ended by whoever ends the tool");
    let told = bench.warnings();
    assert!(told.contains("sleep 100") && told.contains("sleep 101"), "{told}");
    assert!(!told.contains("sleep 102"), "another command is none of its business: {told}");
}

/// Events that come another way than the output are signs of life, too.
#[tokio::test]
async fn whoever_sees_a_command_work_may_say_so() {
    let bench = Bench::new();
    let mut command = bench.sh("sleep 3");
    command.stall = Some(Duration::from_secs(1));
    let clock = command.activity.clone();
    let touch = async {
        loop {
            clock.touch();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        ended = bench.run(command) => assert_eq!(ended.end, ExitReason::Exited(0)),
        () = touch => {}
    }
}

/// Neither a path of a store nor a process id means anything to people.
#[tokio::test]
async fn a_word_about_silence_says_what_is_being_done() {
    struct Doing(Option<&'static str>);
    impl LineHandler for Doing {
        fn line(&mut self, _: &str) -> Vec<EventKind> {
            Vec::new()
        }
        fn status(&self) -> Option<String> {
            self.0.map(str::to_owned)
        }
    }
    let store = "/efs/layers/openembedded-core/1d54d1c4736a0000000000000000000000000000";
    // What the listener knows before the first line counts most, then what the command is for.
    for (listener, command, wanted) in [
        (Some("yocto-check-layer meta-x: test_world"), Some("y"), "yocto-check-layer meta-x: test_world"),
        (None, Some("meta-x: BitBake parses"), "meta-x: BitBake parses"),
        (None, None, "sleep 100"),
    ] {
        let mut bench = Bench::new();
        std::os::unix::fs::symlink("/bin/sleep", bench.base.path().join("sleep")).unwrap();
        let mut sleep = Command::new(bench.base.path().join("sleep"), bench.base.path(), "test").arg("100");
        sleep.environment.set("STORE", store);
        sleep.stall = Some(Duration::from_millis(600));
        sleep.status = command.map(str::to_owned);
        let times = Times { heartbeat: Duration::from_millis(200), ..QUICK };
        bench.runner.run_with(sleep, &mut Doing(listener), times).await.unwrap();
        let events = bench.events();
        let told = events.iter().find_map(|what| match what {
            EventKind::Heartbeat { running, .. } => Some(running.as_str()),
            _ => None,
        });
        assert_eq!(told, Some(wanted));
    }
}

/// As `systemctl stop` and some CI services have it: the child may be gone before the agent has noticed.
#[tokio::test]
async fn a_child_that_the_jobs_own_signal_ended_is_cancelled() {
    let bench = Bench::new();
    for (script, wanted) in [("kill -TERM $$", 15), ("kill -SEGV $$", 11)] {
        assert_eq!(
            bench.run(bench.sh(script)).await.end,
            ExitReason::Signalled(wanted),
            "there is no signal to the job"
        );
    }
    // The end of the output is the end of the child.
    let (sender, ended) = tokio::sync::oneshot::channel();
    let mut sender = Some(sender);
    let mut lines = OnLine(|_: &str| sender.take().into_iter().for_each(|sender| sender.send(()).unwrap()));
    let signal = async {
        ended.await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        bench.runner.interrupt.received("SIGTERM");
    };
    let run = bench.runner.run_with(bench.sh("echo dying; kill -TERM $$"), &mut lines, QUICK);
    let ((), finished) = tokio::join!(signal, run);
    assert_eq!(finished.unwrap().end, ExitReason::Cancelled);
}

#[tokio::test]
async fn what_comes_after_a_stop_is_not_listened_to() {
    let bench = Bench::new();
    let interrupt = bench.runner.interrupt.clone();
    let command = bench.sh("trap 'echo broken; exit 1' INT; echo good; while :; do sleep 0.05; done");
    let mut heard = Vec::new();
    let lines = OnLine(|line: &str| {
        heard.push(line.to_owned());
        interrupt.received("SIGTERM");
    });
    let mut lines = UntilStopped::new(lines, &command.stopping);
    let finished = bench.runner.run_with(command, &mut lines, QUICK).await.unwrap();
    assert_eq!((finished.end, heard), (ExitReason::Cancelled, vec!["good".to_owned()]));
    assert!(finished.tail.contains(&"broken".to_owned()), "it is in the log all the same");
}

/// The stop of a whole job has one grace, and a part of it is for what comes after this command.
#[tokio::test]
async fn a_stopped_job_does_not_give_all_its_grace_to_a_command() {
    let tenths = |tenths: u64| Duration::from_millis(100 * tenths);
    for (own, from, to) in [(None, tenths(30), tenths(40)), (Some(tenths(4)), tenths(4), tenths(30))] {
        let mut bench = Bench::new();
        bench.runner.grace = tenths(40);
        let interrupt = bench.runner.interrupt.clone();
        let mut lines = OnLine(|_: &str| interrupt.received("SIGTERM"));
        let mut command = bench.sh("trap '' INT TERM; echo ready; while :; do sleep 0.05; done");
        command.grace = own;
        let finished = bench.runner.run_with(command, &mut lines, QUICK).await.unwrap();
        assert_eq!(finished.end, ExitReason::Cancelled);
        assert!(finished.elapsed >= from && finished.elapsed < to, "{own:?}: {:?}", finished.elapsed);
    }
}

#[tokio::test]
async fn a_background_process_that_holds_the_pipe_is_named_and_ended() {
    let mut bench = Bench::new();
    let finished = bench.run(bench.sh("sleep 100 & echo $! > pids; echo done; exit 4")).await;
    assert_eq!((finished.end, finished.tail), (ExitReason::Exited(4), vec!["done".to_owned()]));
    assert_eq!(bench.survivors(), BTreeSet::new());
    let warnings = bench.warnings();
    assert!(
        warnings.contains("left sleep (pid ") && warnings.contains("holding its output open"),
        "{warnings}"
    );
}

#[tokio::test]
async fn daemons_are_named_and_ended() {
    for script in [
        // In a session of its own, still with the pipe, and without.
        "setsid sh -c 'echo $$ >> pids; sleep 100 & echo $! >> pids; wait' & while ! [ -s pids ]; do sleep 0.01; done",
        "setsid sh -c 'echo $$ >> pids; trap \"\" TERM; sleep 100; sleep 100' >/dev/null 2>&1 & \
         while ! [ -s pids ]; do sleep 0.01; done",
    ] {
        let mut bench = Bench::new();
        assert_eq!(bench.run(bench.sh(script)).await.end, ExitReason::Exited(0));
        assert_eq!(bench.survivors(), BTreeSet::new());
        let warnings = bench.warnings();
        assert!(warnings.contains("sh (pid "), "{warnings}");
    }
}

#[tokio::test]
async fn what_goes_by_itself_is_no_news() {
    let mut bench = Bench::new();
    bench.run(bench.sh("setsid sh -c 'sleep 0.05' >/dev/null 2>&1 & sleep 0.05 & true")).await;
    assert_eq!(bench.warnings(), "");
}

#[tokio::test]
async fn parallel_commands_leave_each_other_alone() {
    let bench = Bench::new();
    let slow = "setsid sh -c 'sleep 1; echo daemon' & sleep 1.2; echo slow";
    let quick = async {
        for _ in 0..8 {
            assert!(bench.run(bench.sh("(setsid sleep 0.01 &)")).await.success());
        }
    };
    let ((), finished) = tokio::join!(quick, bench.run(bench.sh(slow)));
    assert_eq!(
        (finished.end, finished.tail),
        (ExitReason::Exited(0), vec!["daemon".to_owned(), "slow".to_owned()])
    );
}

/// BitBake cleans its environment before it starts its server, so that the server bears no marker:
/// only a process without other commands can tell whose it is. Hence a process of its own.
#[test]
fn a_daemon_that_forgot_its_environment_is_ended() {
    const ALONE: &str = "BUILD_AGENT_TEST_ALONE";
    const NAME: &str = "runner::tests::a_daemon_that_forgot_its_environment_is_ended";
    if std::env::var_os(ALONE).is_none() {
        let own = std::env::current_exe().unwrap();
        let done = std::process::Command::new(own).args(["--exact", NAME]).env(ALONE, "1").output().unwrap();
        let said = String::from_utf8_lossy(&done.stdout);
        assert!(done.status.success() && said.contains("1 passed"), "{done:?}");
        return;
    }
    let body = async {
        let mut bench = Bench::new();
        let script = "env -i setsid /bin/sh -c 'echo $$ >> pids; /bin/sleep 100; :' >/dev/null 2>&1 & \
                      while ! [ -s pids ]; do sleep 0.01; done";
        assert!(bench.run(bench.sh(script)).await.success());
        assert_eq!(bench.survivors(), BTreeSet::new());
        let warnings = bench.warnings();
        assert!(warnings.contains("running as a daemon"), "{warnings}");
        // Neither is anything left for the process table.
        assert_eq!(Processes::now().descendants([std::process::id() as i32]).len(), 1);
    };
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(body);
}

#[tokio::test]
async fn a_runner_that_is_dropped_leaves_nothing() {
    let bench = Bench::new();
    let (sender, mut ready) = mpsc::unbounded_channel();
    let mut lines = OnLine(move |_: &str| sender.send(()).unwrap());
    let run = bench.runner.run_with(bench.sh("echo $$ > pids; echo ready; sleep 100; :"), &mut lines, QUICK);
    tokio::select! {
        _ = run => panic!("it sleeps"),
        _ = ready.recv() => {}
    }
    while !bench.survivors().is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_flood_comes_through_whole() {
    let bench = Bench::new();
    let finished = bench
        .run(bench.sh("head -c 30000000 /dev/zero | tr '\\0' x; echo; yes 0123456789 | head -c 3300000"))
        .await;
    assert_eq!(finished.bytes, 30_000_001 + 3_300_000);
    assert_eq!(std::fs::metadata(&finished.log).unwrap().len(), finished.bytes);
    assert_eq!(finished.tail.last().unwrap(), "0123456789");
}
