//! The commands that run now, in the whole process: who of the agent's children is whose.
//!
//! The agent is a subreaper: a descendant that loses its parent becomes the agent's own child,
//! whichever command it came from. The commands are distinguished like this:
//!
//! - A process of a command's process group is that command's.
//! - A process whose environment holds the command's marker (`BUILD_AGENT_COMMAND=…`, set for every
//!   child at its start and inherited by all below) is that command's, also after `setsid`.
//! - BitBake cleans its environment before it starts its server, so the server bears no marker. An
//!   adopted process that nobody can claim is ended when the *last* of the commands that run side by
//!   side is over; before, it might be another's.
//!
//! Children that a library started (`aws-config` runs credential programs) stay in the agent's own
//! process group with the agent's user: those are never touched.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, geteuid, getpgrp, getpid};

use super::processes::{Process, Processes};
use super::{ActivityClock, control_group, signals};

/// The variable that marks a command's descendants.
pub const MARKER: &str = "BUILD_AGENT_COMMAND";

/// The clock of each command that runs, by its process group (the pid of its leader). Held while a child
/// is being started, so that nobody mistakes it for an adopted one before its group is known.
static RUNNING: Mutex<BTreeMap<i32, ActivityClock>> = Mutex::new(BTreeMap::new());

fn running() -> MutexGuard<'static, BTreeMap<i32, ActivityClock>> {
    // A panic elsewhere leaves the map whole.
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Pid and start time of processes that not even SIGKILL ends: they wait for a lost file server, or
/// belong to somebody else. No later command waits for them again.
static GIVEN_UP: Mutex<BTreeSet<(i32, u64)>> = Mutex::new(BTreeSet::new());

fn given_up() -> MutexGuard<'static, BTreeSet<(i32, u64)>> {
    GIVEN_UP.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(super) fn is_given_up(process: &Process) -> bool {
    given_up().contains(&(process.pid, process.started))
}

/// Adopted processes that have ended and were waited for.
static BURIALS: AtomicU64 = AtomicU64::new(0);

/// How many adopted processes have ended.
pub(super) fn burials() -> u64 {
    BURIALS.load(Ordering::Relaxed)
}

/// Whether no command runs.
pub(super) fn idle() -> bool {
    running().is_empty()
}

/// Does the work unless a command runs. None is started before it is done.
pub(super) fn while_idle(work: impl FnOnce()) {
    let running = running();
    if running.is_empty() {
        work();
    }
}

/// Whether the process descends from the agent and belongs to no library, as [`unclaimed`], but by itself:
/// the process table need not be read for it. Only to be asked while no command runs.
pub(super) fn is_leftover(process: &Process) -> bool {
    let own = getpid().as_raw();
    if process.pid == own || is_given_up(process) {
        return false;
    }
    // While parents end, the way up may break off: then it is another one by now.
    for _ in 0..10 {
        let Some(mut above) = Process::find(process.pid) else { return false };
        for _ in 0..1000 {
            if above.parent == own {
                return !is_librarys(&above);
            }
            match Process::find(above.parent) {
                Some(parent) => above = parent,
                None if above.parent == 0 => return false,
                None => break,
            }
        }
    }
    false
}

/// From now on nobody asks for these processes.
pub(super) fn give_up<'a>(processes: impl IntoIterator<Item = &'a Process>) {
    given_up().extend(processes.into_iter().map(|one| (one.pid, one.started)));
}

/// How the processes of one command are told from all others.
#[derive(Clone, Debug)]
pub(super) struct Group {
    /// The process group: the pid of its leader, the command's child.
    pub number: i32,
    /// When the leader was started.
    started: u64,
    /// `BUILD_AGENT_COMMAND=…`
    marker: String,
    clock: ActivityClock,
}

impl Group {
    /// Those of the process group that still run. A group of this number in another session is
    /// another group: the number was given away again.
    pub fn members<'a>(&self, processes: &'a Processes) -> impl Iterator<Item = &'a Process> {
        let session = processes.get(getpid().as_raw()).map(|agent| agent.session);
        let group = self.number;
        processes.alive().filter(move |one| one.group == group && Some(one.session) == session)
    }

    /// All that is certainly this command's and still runs: its group, those with its marker, and
    /// what descends from them. Blocks.
    pub fn family(&self, processes: &Processes) -> Vec<Process> {
        let marked = processes
            .alive()
            .filter(|one| one.started >= self.started && one.was_started_with(&self.marker))
            .map(|one| one.pid);
        let roots: Vec<i32> = self.members(processes).map(|one| one.pid).chain(marked).collect();
        alive(processes, roots)
    }

    /// Sends the signal to all members. Blocks when the leader is gone.
    pub fn signal(&self, signal: Signal) {
        let own = getpid().as_raw();
        let leader = Process::find(self.number)
            .filter(|leader| leader.started == self.started && leader.parent == own);
        match leader {
            // It was not waited for, so that neither its number nor the group's is given away.
            Some(leader) => {
                let _ = killpg(Pid::from_raw(self.number), signal);
                // A leader that went over to another group is still the one to end.
                if leader.group != self.number {
                    signals::signal(&leader, signal);
                }
            }
            None => {
                for member in self.members(&Processes::now()) {
                    signals::signal(member, signal);
                }
            }
        }
    }
}

/// A command that runs, until it is dropped or has left.
#[derive(Debug)]
pub(super) struct Running {
    pub group: Group,
    over: bool,
}

impl Running {
    /// Starts the child in a process group of its own.
    pub fn start(
        command: &mut tokio::process::Command,
        number: u32,
        clock: &ActivityClock,
    ) -> std::io::Result<(tokio::process::Child, Running)> {
        // Pid and start time of the agent make it unique on this machine, the number within the job.
        let agent = Process::find(getpid().as_raw()).map_or(0, |agent| agent.started);
        let value = format!("{}-{agent}-{number}-{:p}", getpid(), command);
        command.env(MARKER, &value).process_group(0);
        let mut running = running();
        let child = command.spawn()?;
        // A child that was not waited for has a pid.
        let number = child.id().map_or(0, |pid| pid as i32);
        running.insert(number, clock.clone());
        control_group::join(number);
        let started = Process::find(number).map_or(0, |leader| leader.started);
        let group = Group { number, started, marker: format!("{MARKER}={value}"), clock: clock.clone() };
        Ok((child, Running { group, over: false }))
    }

    /// Those that hold `pipe` (`pipe:[4711]`) open, besides the agent. Blocks.
    pub fn holders(processes: &Processes, pipe: &std::path::Path) -> Vec<Process> {
        let own = getpid().as_raw();
        let holds = |one: &&Process| {
            one.pid != own && !is_librarys(one) && one.open_files().iter().any(|f| f == pipe)
        };
        processes.alive().filter(holds).cloned().collect()
    }

    /// The group has been ended. From now on [`unclaimed`] may find what is left.
    pub fn leave(mut self) {
        self.over = true;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Whoever waited for the command is gone, by a panic or because it took too long: it must not go
        // on unseen, nor hold up others.
        if !self.over {
            self.group.signal(Signal::SIGKILL);
            give_up(self.group.members(&Processes::now()));
        }
        running().remove(&self.group.number);
    }
}

/// The adopted processes that nobody claims, with all below them; none while commands run. Blocks.
pub(super) fn unclaimed(processes: &Processes) -> Vec<Process> {
    let running = running();
    if !running.is_empty() {
        return Vec::new();
    }
    let own = getpid().as_raw();
    let given_up = given_up();
    let is_orphan = |one: &&Process| {
        one.parent == own && !is_librarys(one) && !given_up.contains(&(one.pid, one.started))
    };
    alive(processes, processes.alive().filter(is_orphan).map(|one| one.pid))
}

/// What runs below the agent and in no group of another command, except for those that work for this one: the
/// picture for people of what a silent command is doing, BitBake's server included.
pub(super) fn below(processes: &Processes, command: &Group) -> Vec<Process> {
    let running = running();
    let own = getpid().as_raw();
    let others = |one: &Process| {
        let clock = running.get(&one.group).filter(|_| one.group != command.number);
        clock.is_some_and(|clock| !clock.works_for(&command.clock))
    };
    let roots = processes.alive().filter(|one| one.parent == own && !is_librarys(one) && !others(one));
    alive(processes, roots.map(|one| one.pid))
}

fn alive(processes: &Processes, roots: impl IntoIterator<Item = i32>) -> Vec<Process> {
    let found = processes.descendants(roots);
    let own = getpid().as_raw();
    found
        .into_iter()
        .filter(|pid| *pid > 1 && *pid != own)
        .filter_map(|pid| processes.get(pid).filter(|one| !one.is_dead()).cloned())
        .collect()
}

/// A child of a library's, not of ours: in the agent's own group and with its user.
fn is_librarys(process: &Process) -> bool {
    process.group == getpgrp().as_raw()
        && process.uids().is_none_or(|uids| uids.iter().all(|uid| *uid == geteuid().as_raw()))
}

/// Takes note of the adopted processes that have ended, so that they do not fill the process table.
/// Waits for one known pid at a time: all others belong to tokio.
pub fn reap() {
    let running = running();
    let peek = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    // The kernel shows the same one again until it is taken, so one of tokio's ends the round; the
    // next round comes soon.
    while let Ok(status) = waitid(Id::All, peek) {
        let Some(pid) = status.pid().filter(|_| status != WaitStatus::StillAlive) else { return };
        let ours = Process::find(pid.as_raw()).is_some_and(|one| !is_librarys(&one));
        if running.contains_key(&pid.as_raw()) || !ours || take(pid).is_err() {
            return;
        }
        BURIALS.fetch_add(1, Ordering::Relaxed);
    }
}

/// Whether no process runs that this one or any process below it started. The agent is a subreaper, so
/// whatever loses its parent becomes the agent's own child: without a child there is nothing below it. The
/// kernel answers in one step, so that a process which forks and ends all the time cannot be missed.
pub fn nothing_runs() -> bool {
    reap();
    let any_child = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT | WaitPidFlag::__WALL;
    waitid(Id::All, any_child) == Err(Errno::ECHILD)
}

fn take(pid: Pid) -> Result<WaitStatus, Errno> {
    waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG)
}
