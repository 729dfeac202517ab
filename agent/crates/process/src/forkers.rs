//! Ends what the commands left behind when it goes on forking.
//!
//! Whoever forks and exits faster than the process table can be read is never seen alive. But each that
//! loses its parent becomes the agent's child and is buried by the agent, so that its trace is a burial.
//! Means, in this order: the control group; all processes of the build user at once, where they are all
//! the agent's; and stopping (SIGSTOP) one after the other until nobody is left who could fork.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::{geteuid, getpid};
use tokio::time::{Instant, sleep};

use agent_fs::read::NO_FOLLOW;

use super::blocking::blocking;
use super::control_group;
use super::kill_report::KillReport;
use super::processes::{Process, Processes};
use super::running::{burials, idle, is_given_up, is_leftover, reap, unclaimed, while_idle};
use super::signals;

/// So many looks without anybody and without a burial.
const CALM: u32 = 3;

/// Burials in so many looks: those are not the last ones that end by themselves.
const RESTLESS: u32 = 6;

/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// One round of stopping.
const ROUND: Duration = Duration::from_millis(300);

/// After so much of the time stopping has not helped: somebody lets the stopped go on.
const STOPPING: u32 = 2;

/// A user that commands ran as.
struct Known {
    gid: u32,
    /// Shared by all agents that run commands as this user; `None` where it cannot be had.
    lock: Option<File>,
}

static USERS: Mutex<BTreeMap<u32, Known>> = Mutex::new(BTreeMap::new());

fn users() -> MutexGuard<'static, BTreeMap<u32, Known>> {
    USERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes note of a user that runs layer code, before a command is started as that user.
pub(super) fn runs_as(uid: u32, gid: u32) {
    users().entry(uid).or_insert_with(|| {
        // Only root can write there.
        let path = format!("/run/build-agent-{uid}.lock");
        let mut options = File::options();
        options.write(true).create(true).truncate(false).mode(0o600).custom_flags(NO_FOLLOW);
        let lock = options.open(path).ok().filter(|lock| lock.lock_shared().is_ok());
        Known { gid, lock }
    });
}

/// Ends all that the commands left, within the time; nothing while a command runs. Adds to `ended` who
/// was seen, and whether somebody goes on forking.
pub(super) async fn end(ended: &mut KillReport, time: Duration) {
    let start = Instant::now();
    let mut signal = Signal::SIGSTOP;
    while !is_over(ended).await {
        ended.kept_forking = true;
        if start.elapsed() >= time {
            ended.still_there = left().await;
            // Otherwise the kernel holds them, or they belong to somebody else.
            let before = burials();
            sleep(ROUND).await;
            reap();
            ended.outlived = ended.still_there.is_empty() || burials() != before;
            return;
        }
        if start.elapsed() > time / STOPPING {
            signal = Signal::SIGKILL;
        }
        // Not while a command is being started: it would be in the group.
        let all_at_once = || {
            while_idle(control_group::kill_all);
            kill_users();
        };
        blocking(all_at_once).await;
        ended.add(&blocking(move || stop_all(signal)).await);
        let left = left().await;
        left.iter().for_each(|process| _ = signals::signal(process, Signal::SIGKILL));
        ended.add(&left);
        sleep(LOOK).await;
        reap();
    }
    blocking(control_group::remove).await;
}

async fn left() -> Vec<Process> {
    blocking(|| unclaimed(&Processes::now())).await
}

/// Whether nobody is left, or a command runs that they may belong to.
///
/// A look at the process table can miss a process whose parent ends just then. So it is over when nobody
/// is seen in several looks and nobody was buried meanwhile.
async fn is_over(ended: &mut KillReport) -> bool {
    let (mut number, mut calm, mut changes) = (burials(), 0, 0);
    loop {
        reap();
        if !idle() {
            return true;
        }
        let look = || {
            let mut left = unclaimed(&Processes::now());
            // Not the members of a command that starts just now.
            while_idle(|| left.extend(control_group::members().into_iter().filter(|one| !is_given_up(one))));
            left
        };
        let left = blocking(look).await;
        if !left.is_empty() {
            ended.add(&left);
            return false;
        }
        reap();
        calm += 1;
        if burials() != number {
            (number, calm) = (burials(), 0);
            changes += 1;
        }
        if calm == CALM {
            return true;
        }
        if changes == RESTLESS {
            return false;
        }
        sleep(LOOK).await;
    }
}

/// Stops those who are left, newest first and each as soon as it is seen, until nobody is seen who runs. Who
/// they were. Blocks.
fn stop_all(signal: Signal) -> Vec<Process> {
    let until = Instant::now() + ROUND;
    // Others than those who are left, and those who are stopped already: looking at them again takes
    // longer than a fork.
    let mut known = BTreeSet::new();
    let mut stopped = Vec::new();
    let mut calm = 0;
    while calm < CALM && Instant::now() < until {
        calm += 1;
        for pid in
            Processes::newest_first().into_iter().filter(|pid| !known.contains(pid)).collect::<Vec<_>>()
        {
            let Some(process) = Process::find(pid).filter(|one| !one.is_dead()) else { continue };
            let mut hit = false;
            while_idle(|| hit = is_leftover(&process) && signals::signal(&process, signal));
            if hit {
                stopped.push(process);
                calm = 0;
            }
            known.insert(pid);
        }
        reap();
    }
    stopped
}

/// Kills all processes of the users that commands ran as, where all of them are the agent's: in one call
/// of the kernel, so that no fork can escape. Only root can, and it never touches a session of somebody
/// who happens to have the same user.
fn kill_users() {
    if !geteuid().is_root() {
        return;
    }
    let known: Vec<_> = users().iter().map(|(uid, user)| (*uid, user.gid)).collect();
    for (uid, gid) in known.into_iter().filter(|(uid, _)| *uid != 0) {
        // While this is held, no command starts.
        while_idle(|| only_agent(uid, || kill_all_of(uid, gid)));
    }
}

/// Does the work if no other agent on this machine has the same user, and nobody else either.
fn only_agent(uid: u32, work: impl FnOnce()) {
    let users = users();
    let Some(lock) = users.get(&uid).and_then(|user| user.lock.as_ref()) else { return };
    if lock.try_lock().is_ok() && is_exclusive(uid, &Processes::now()) {
        work();
    }
    // The others wait with their first command until this is shared again.
    let _ = lock.lock_shared();
}

/// Whether all processes of the user descend from the agent. Nobody else's are in sight then, in this
/// container or on this machine.
fn is_exclusive(uid: u32, processes: &Processes) -> bool {
    let own = processes.descendants([getpid().as_raw()]);
    let others = processes.alive().filter(|one| !own.contains(&one.pid));
    let mut of_user = others.filter(|one| one.uids().is_some_and(|uids| uids.contains(&uid)));
    // Its parent may have ended while the table was read.
    of_user.all(|one| !one.is_alive() || is_leftover(one))
}

fn kill_all_of(uid: u32, gid: u32) {
    let mut shell = Command::new("/bin/sh");
    // To all that the user may signal, but not to the caller.
    shell.args(["-c", "kill -KILL -1"]).uid(uid).gid(gid).env_clear().current_dir("/");
    shell.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let Ok(mut child) = shell.spawn() else { return };
    let process = Process::find(child.id() as i32);
    for _ in 0..200 {
        match child.try_wait() {
            Ok(None) => std::thread::sleep(LOOK),
            // Somebody else may have buried it.
            _ => return,
        }
    }
    process.iter().for_each(|process| _ = signals::signal(process, Signal::SIGKILL));
}
