//! Ends processes: politely, then less so, and always within a bounded time.

use std::time::Duration;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::process::Child;
use tokio::time::{Instant, sleep, timeout_at};

use agent_types::error::{Error, Result};

use super::Interrupt;
use super::processes::{Process, Processes};
use super::running::{Running, give_up, reap};

/// Between two looks at the process table.
const LOOK: Duration = Duration::from_millis(50);

/// After SIGKILL a process is gone at once, unless the kernel holds it: a lost NFS server, a sick
/// disk.
const KILLED: Duration = Duration::from_secs(10);

/// Sends the signal to exactly this process, not to another that was given its number. Errors are
/// of no interest: it is gone, or may not be signalled, and the caller looks again anyway.
pub fn signal(process: &Process, signal: Signal) {
    if process.pid > 1 && process.is_alive() {
        let _ = kill(Pid::from_raw(process.pid), signal);
    }
}

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
            () = interrupt.now() => break,
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
        self::signal(leader, signal);
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
pub(super) struct Patience {
    pub by_itself: Duration,
    pub politely: Duration,
}

/// Waits for processes to go by themselves, ends them when they don't, and says which were ended.
/// `find` looks who is there; it is asked again and again, because the children of the ended turn
/// up late.
pub(super) async fn end_leftovers(
    find: impl Fn(&Processes) -> Vec<Process>,
    patience: Patience,
    interrupt: &Interrupt,
) -> Ended {
    let mut ended = Ended::default();
    let leftovers = || {
        reap();
        find(&Processes::now())
    };
    if wait_gone(&leftovers, patience.by_itself, interrupt, &mut |_| {}).await {
        return ended;
    }
    let mut politely = |left: &[Process]| {
        for process in left.iter().filter(|one| !ended.knows(one)) {
            signal(process, Signal::SIGTERM);
        }
        ended.add(left);
    };
    if wait_gone(&leftovers, patience.politely, interrupt, &mut politely).await {
        return ended;
    }
    let mut at_once = |left: &[Process]| {
        left.iter().for_each(|process| signal(process, Signal::SIGKILL));
        ended.add(left);
    };
    // No second signal can make this any faster.
    let never = Interrupt::new(None);
    if !wait_gone(&leftovers, KILLED, &never, &mut at_once).await {
        ended.still_there = leftovers();
        give_up(&ended.still_there);
    }
    ended
}

/// What [`end_leftovers`] did.
#[derive(Debug, Default)]
pub(super) struct Ended {
    pub processes: Vec<Process>,
    /// Not even SIGKILL helped, or the signal is not allowed.
    pub still_there: Vec<Process>,
}

impl Ended {
    fn add(&mut self, left: &[Process]) {
        for process in left {
            if !self.knows(process) {
                self.processes.push(process.clone());
            }
        }
    }

    fn knows(&self, process: &Process) -> bool {
        self.processes.iter().any(|one| (one.pid, one.started) == (process.pid, process.started))
    }
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
            () = interrupt.now() => return false,
            () = sleep(LOOK.min(time)) => {}
        }
    }
}
