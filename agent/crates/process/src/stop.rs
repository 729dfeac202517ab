//! Ends processes: politely, then less so, and always within a bounded time.

use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::process::Child;
use tokio::time::{Instant, sleep, timeout_at};

use agent_types::error::{Error, Result};

use super::Interrupt;
use super::blocking::blocking;
use super::forkers;
use super::kill_report::KillReport;
use super::processes::{Process, Processes};
use super::running::{Group, give_up, reap, unclaimed};
use super::signals::signal;

/// Between two looks at the process table.
const LOOK: Duration = Duration::from_millis(50);

/// After SIGKILL a process is gone at once, unless the kernel holds it: a lost NFS server, a sick
/// disk.
const KILLED: Duration = Duration::from_secs(10);

/// How the grace is divided between the signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// A quarter for each SIGINT, half for SIGTERM.
    Even,
    /// Three quarters for the first SIGINT, so that BitBake can finish the running tasks. A signal to the job ends
    /// this wait.
    FinishRunning,
    /// As `Even`. A second signal to the job is passed on, and has a quarter of the grace before SIGKILL.
    Agent,
}

impl Pace {
    /// The signals, each with the time until the next one, counted from the first.
    fn steps(self, grace: Duration) -> [(Signal, Duration); 3] {
        let (first, second) = match self {
            Pace::Even | Pace::Agent => (grace / 4, grace / 2),
            Pace::FinishRunning => (grace * 3 / 4, grace * 7 / 8),
        };
        [(Signal::SIGINT, first), (Signal::SIGINT, second), (Signal::SIGTERM, grace)]
    }
}

/// Stops a command's whole process group: SIGINT, SIGINT (BitBake takes the first as "finish the
/// running tasks" and the second as "stop now"), SIGTERM, SIGKILL, with the grace time divided
/// between them. A second signal to the job goes straight to SIGKILL, except for an agent, which first
/// gets it, too. Members get the rest of the sequence also when their leader is gone.
///
/// # Errors
/// When something of the group is still there after SIGKILL.
pub(super) async fn stop_group(
    child: &mut Child,
    group: &Group,
    grace: Duration,
    pace: Pace,
    interrupt: &Interrupt,
) -> Result<()> {
    let start = Instant::now();
    let mut is_patient = pace == Pace::FinishRunning;
    for (signal, until) in pace.steps(grace) {
        signal_group(group, signal).await;
        let hurry = async {
            if std::mem::take(&mut is_patient) {
                interrupt.cancelled().await
            } else {
                std::future::pending().await
            }
        };
        tokio::select! {
            biased;
            () = interrupt.force_kill() => break,
            () = hurry => {}
            gone = group_gone(child, group, start + until, None) => if gone { return Ok(()) },
        }
    }
    if pace == Pace::Agent && interrupt.is_urgent() {
        // Not SIGINT: if the first one is still pending, the second would be lost.
        signal_group(group, Signal::SIGTERM).await;
        if group_gone(child, group, Instant::now() + grace / 4, None).await {
            return Ok(());
        }
    }
    signal_group(group, Signal::SIGKILL).await;
    if group_gone(child, group, Instant::now() + KILLED, Some(Signal::SIGKILL)).await {
        return Ok(());
    }
    let left: Vec<String> = members(group)
        .await
        .into_iter()
        .map(|one| format!("{} in state {}", one.label(), one.state))
        .collect();
    Err(Error::machine(format!("cannot end {}, not even by SIGKILL", left.join(", "))).hint(
        "state D means that the kernel waits for a disk or a file server: look at the mounts of this machine",
    ))
}

async fn signal_group(group: &Group, signal: Signal) {
    let group = group.clone();
    blocking(move || group.signal(signal)).await;
}

async fn members(group: &Group) -> Vec<Process> {
    let group = group.clone();
    blocking(move || group.members(&Processes::now()).cloned().collect()).await
}

/// Waits until the leader has ended and nobody else of the group runs; `false` at `until`. Those that run on
/// are sent the signal again and again.
async fn group_gone(child: &mut Child, group: &Group, until: Instant, each: Option<Signal>) -> bool {
    if timeout_at(until, child.wait()).await.is_err() {
        return false;
    }
    loop {
        let left = members(group).await;
        if left.is_empty() {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        if let Some(each) = each {
            left.iter().for_each(|process| _ = signal(process, each));
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

/// Looks for processes in the table of all. Blocks.
pub(super) type Find = Arc<dyn Fn(&Processes) -> Vec<Process> + Send + Sync>;

/// Waits for processes to go by themselves, ends them when they don't, and says which were ended.
/// `find` looks who is there; it is asked again and again, because the children of the ended turn
/// up late.
pub(super) async fn end_leftovers(
    find: Find,
    timeouts: ShutdownTimeouts,
    interrupt: &Interrupt,
) -> KillReport {
    let mut ended = KillReport::default();
    if terminate(&find, timeouts, interrupt, &mut ended).await {
        return ended;
    }
    let mut at_once = |left: &[Process]| {
        left.iter().for_each(|process| _ = signal(process, Signal::SIGKILL));
        ended.add(left);
    };
    // No second signal can make this any faster.
    let never = Interrupt::new(None);
    if !wait_gone(&find, FAMILY_KILLED, &never, &mut at_once).await {
        ended.still_there = look(&find).await;
        give_up(&ended.still_there);
    }
    ended
}

/// Ends what all commands together left behind, unless one of them still runs.
pub(super) async fn end_daemons(timeouts: ShutdownTimeouts, interrupt: &Interrupt) -> KillReport {
    let mut ended = KillReport::default();
    let find: Find = Arc::new(unclaimed);
    terminate(&find, timeouts, interrupt, &mut ended).await;
    forkers::end(&mut ended, KILLED).await;
    give_up(&ended.still_there);
    ended
}

async fn look(find: &Find) -> Vec<Process> {
    let find = find.clone();
    blocking(move || {
        reap();
        find(&Processes::now())
    })
    .await
}

/// Waits for processes to go by themselves, then asks them to go. Whether they have gone.
async fn terminate(
    find: &Find,
    timeouts: ShutdownTimeouts,
    interrupt: &Interrupt,
    ended: &mut KillReport,
) -> bool {
    if wait_gone(find, timeouts.grace, interrupt, &mut |_| {}).await {
        return true;
    }
    let mut send_term = |left: &[Process]| {
        for process in left.iter().filter(|one| !ended.knows(one)) {
            signal(process, Signal::SIGTERM);
        }
        ended.add(left);
    };
    wait_gone(find, timeouts.term_grace, interrupt, &mut send_term).await
}

/// Does `act` to those that are there until there are none (`true`) or the time is over. A second
/// signal to the job ends the wait.
async fn wait_gone(
    find: &Find,
    time: Duration,
    interrupt: &Interrupt,
    act: &mut (dyn FnMut(&[Process]) + Send),
) -> bool {
    let until = Instant::now() + time;
    loop {
        let left = look(find).await;
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::thread;

    use super::*;

    #[test]
    fn the_grace_is_divided_between_the_signals() {
        let seconds = |pace: Pace| pace.steps(Duration::from_secs(80)).map(|(_, until)| until.as_secs());
        assert_eq!(seconds(Pace::Even), [20, 40, 80]);
        assert_eq!(seconds(Pace::FinishRunning), [60, 70, 80]);
    }

    /// Reading the process table takes long on a large machine. A thread of the runtime drives nothing else meanwhile.
    #[tokio::test]
    async fn the_process_table_is_read_on_a_thread_that_may_block() {
        let (sender, readers) = channel();
        let find: Find = Arc::new(move |_| {
            let _ = sender.send(thread::current().id());
            Vec::new()
        });
        let timeouts = ShutdownTimeouts { grace: Duration::ZERO, term_grace: Duration::ZERO };
        end_leftovers(find, timeouts, &Interrupt::new(None)).await;
        // This runtime has one thread, which is the test's.
        let readers: Vec<_> = readers.try_iter().collect();
        assert!(!readers.is_empty() && !readers.contains(&thread::current().id()), "{readers:?}");
    }
}
