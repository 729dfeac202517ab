//! Ends processes: politely, then less so, and always within a bounded time.

use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::Child;
use tokio::time::{Instant, sleep, timeout_at};

use agent_types::error::{Error, Result};

use super::Interrupt;
use super::forkers;
use super::kill_report::{self, KillReport, signal};
use super::processes::{Process, Processes};
use super::running::{Running, give_up, reap, unclaimed};

/// Between two looks at the process table.
const LOOK: Duration = Duration::from_millis(50);

/// After SIGKILL a process is gone at once, unless the kernel holds it: a lost NFS server, a sick
/// disk.
const KILLED: Duration = Duration::from_secs(10);

/// Stops a command's whole process group: SIGINT, SIGINT (BitBake takes the first as "finish the
/// running tasks" and the second as "stop now"), SIGTERM, SIGKILL, with the grace time divided
/// between them. A second signal to the job goes straight to SIGKILL. Members get the rest of the
/// sequence also when their leader is gone.
///
/// # Errors
/// When something of the group is still there after SIGKILL.
pub(super) async fn stop_group(
    child: &mut Child,
    running: &Running,
    grace: Duration,
    interrupt: &Interrupt,
) -> Result<()> {
    let start = Instant::now();
    let steps = [(Signal::SIGINT, grace / 4), (Signal::SIGINT, grace / 2), (Signal::SIGTERM, grace)];
    for (signal, until) in steps {
        signal_group(child, running, signal);
        tokio::select! {
            biased;
            () = interrupt.force_kill() => break,
            gone = group_gone(child, running, start + until) => if gone { return Ok(()) },
        }
    }
    signal_group(child, running, Signal::SIGKILL);
    if group_gone(child, running, Instant::now() + KILLED).await {
        return Ok(());
    }
    let processes = Processes::now();
    let left: Vec<String> =
        running.members(&processes).map(|one| format!("{} in state {}", one.label(), one.state)).collect();
    Err(Error::machine(format!("cannot end {}, not even by SIGKILL", left.join(", "))).hint(
        "state D means that the kernel waits for a disk or a file server: look at the mounts of this machine",
    ))
}

fn signal_group(child: &Child, running: &Running, signal: Signal) {
    let processes = Processes::now();
    if running.members(&processes).next().is_some() {
        let _ = killpg(Pid::from_raw(running.group), signal);
    }
    // A leader that went over to another group is still the one to end.
    let leader = child.id().and_then(|pid| processes.get(pid as i32));
    if let Some(leader) = leader.filter(|leader| leader.group != running.group) {
        kill_report::signal(leader, signal);
    }
}

/// Waits until the leader has ended and nobody else of the group runs; `false` at `until`.
async fn group_gone(child: &mut Child, running: &Running, until: Instant) -> bool {
    if timeout_at(until, child.wait()).await.is_err() {
        return false;
    }
    loop {
        if running.members(&Processes::now()).next().is_none() {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        sleep(LOOK).await;
    }
}

/// How long what is left of a command may take to go by itself, and then after SIGTERM.
#[derive(Clone, Copy, Debug)]
pub(super) struct ShutdownTimeouts {
    pub grace: Duration,
    pub term_grace: Duration,
}

/// Between SIGKILL to the family of a command and what is done about those that fork too fast for it.
const FAMILY_KILLED: Duration = Duration::from_secs(3);

/// Waits for processes to go by themselves, ends them when they don't, and says which were ended.
/// `find` looks who is there; it is asked again and again, because the children of the ended turn
/// up late.
pub(super) async fn end_leftovers(
    find: impl Fn(&Processes) -> Vec<Process>,
    timeouts: ShutdownTimeouts,
    interrupt: &Interrupt,
) -> KillReport {
    let mut ended = KillReport::default();
    let leftovers = || {
        reap();
        find(&Processes::now())
    };
    if terminate(&leftovers, timeouts, interrupt, &mut ended).await {
        return ended;
    }
    let mut at_once = |left: &[Process]| {
        left.iter().for_each(|process| signal(process, Signal::SIGKILL));
        ended.add(left);
    };
    // No second signal can make this any faster.
    let never = Interrupt::new(None);
    if !wait_gone(&leftovers, FAMILY_KILLED, &never, &mut at_once).await {
        ended.still_there = leftovers();
        give_up(&ended.still_there);
    }
    ended
}

/// Ends what all commands together left behind, unless one of them still runs.
pub(super) async fn end_daemons(timeouts: ShutdownTimeouts, interrupt: &Interrupt) -> KillReport {
    let mut ended = KillReport::default();
    let leftovers = || {
        reap();
        unclaimed(&Processes::now())
    };
    terminate(&leftovers, timeouts, interrupt, &mut ended).await;
    forkers::end(&mut ended, KILLED).await;
    give_up(&ended.still_there);
    ended
}

/// Waits for processes to go by themselves, then asks them to go. Whether they have gone.
async fn terminate(
    leftovers: &impl Fn() -> Vec<Process>,
    timeouts: ShutdownTimeouts,
    interrupt: &Interrupt,
    ended: &mut KillReport,
) -> bool {
    if wait_gone(leftovers, timeouts.grace, interrupt, &mut |_| {}).await {
        return true;
    }
    let mut send_term = |left: &[Process]| {
        for process in left.iter().filter(|one| !ended.knows(one)) {
            signal(process, Signal::SIGTERM);
        }
        ended.add(left);
    };
    wait_gone(leftovers, timeouts.term_grace, interrupt, &mut send_term).await
}

/// Does `act` to those that are there until there are none (`true`) or the time is over. A second
/// signal to the job ends the wait.
async fn wait_gone(
    leftovers: &impl Fn() -> Vec<Process>,
    time: Duration,
    interrupt: &Interrupt,
    act: &mut (dyn FnMut(&[Process]) + Send),
) -> bool {
    let until = Instant::now() + time;
    loop {
        let left = leftovers();
        if left.is_empty() {
            return true;
        }
        act(&left);
        if Instant::now() >= until {
            return false;
        }
        tokio::select! {
            biased;
            () = interrupt.force_kill() => return false,
            () = sleep(LOOK.min(time)) => {}
        }
    }
}
