//! What a killed agent left running.
//!
//! SIGKILL takes the agent and nobody else: git goes on fetching, BitBake goes on building. The next
//! agent that holds the same work directory ends them before it touches anything there. Most bear a marker in their
//! environment. One that cleared its environment is found in the killed agent's control group, which is recorded in
//! the work directory. Where there are no control groups, such a process is not found.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::getpid;

use super::Interrupt;
use super::blocking::blocking;
use super::control_group;
use super::kill_report::KillReport;
use super::processes::{Process, Processes};
use super::running::MARKER;
use super::stop::{Find, ShutdownTimeouts, end_leftovers};

/// What became of the orphans, as labels for people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Orphans {
    pub ended: Vec<String>,
    /// Not even SIGKILL helped, or they belong to another user.
    pub still_there: Vec<String>,
}

/// Ends the processes that bear the marker of an agent that is gone and that work below `work`, with
/// all below them. `grace` lies between SIGTERM and SIGKILL. The caller holds the directory, so that
/// none of them can belong to a job that goes on.
pub async fn end_orphans(work: &Path, grace: Duration, interrupt: &Interrupt) -> Orphans {
    let below = work.to_owned();
    let find: Find = Arc::new(move |processes| orphans(processes, &below));
    let timeouts = ShutdownTimeouts { grace: Duration::ZERO, term_grace: grace };
    Orphans::from(end_leftovers(find, timeouts, interrupt).await)
}

/// Ends whoever is in the control group of an earlier agent in `work`, at once, and records the group of this
/// agent there from now on. The caller holds the directory, and has ended those that can be asked to go.
pub async fn end_orphan_group(work: &Path) -> Orphans {
    let work = work.to_owned();
    let (killed, still_there) = blocking(move || control_group::take_over(&work)).await;
    let mut ended = KillReport { still_there, ..KillReport::default() };
    ended.add(&killed);
    Orphans::from(ended)
}

impl From<KillReport> for Orphans {
    fn from(ended: KillReport) -> Orphans {
        let labels = |processes: &[Process]| processes.iter().map(Process::label).collect();
        Orphans { ended: labels(&ended.processes), still_there: labels(&ended.still_there) }
    }
}

fn orphans(processes: &Processes, work: &Path) -> Vec<Process> {
    let is_orphan = |one: &&Process| {
        let marker = one.variable(MARKER);
        marker.is_some_and(|marker| agent_is_gone(&marker, processes)) && works_below(one, work)
    };
    let roots = processes.alive().filter(is_orphan).map(|one| one.pid);
    // A marker is easily forged, so whoever would be hit must not be the agent or stand above it.
    let above = processes.ancestors(getpid().as_raw());
    let found = processes.descendants(roots).into_iter().filter(|pid| *pid > 1 && !above.contains(pid));
    found.filter_map(|pid| processes.get(pid)).filter(|one| !one.is_dead()).cloned().collect()
}

/// Whether the agent that a marker (`PID-STARTED-…`) names has ended.
fn agent_is_gone(marker: &str, processes: &Processes) -> bool {
    let mut numbers = marker.split('-');
    let mut number = || numbers.next()?.parse::<u64>().ok();
    let (Some(pid), Some(started)) = (number(), number()) else { return false };
    let agent = i32::try_from(pid).ok().and_then(|pid| processes.get(pid));
    !agent.is_some_and(|agent| agent.started == started && !agent.is_dead())
}

fn works_below(process: &Process, work: &Path) -> bool {
    process.directory().is_some_and(|directory| directory.starts_with(work))
        || process.arguments().iter().any(|argument| Path::new(argument).starts_with(work))
        || process.open_files().iter().any(|file| file.starts_with(work))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn sleeper(directory: &Path, marker: Option<&str>) -> Child {
        let mut sleep = Command::new("sleep");
        sleep.arg("600").current_dir(directory).env_clear();
        sleep.envs(marker.map(|marker| (MARKER, marker)));
        sleep.spawn().unwrap()
    }

    #[tokio::test]
    async fn only_marked_processes_of_a_dead_agent_in_this_place_are_ended() {
        let place = tempfile::tempdir().unwrap();
        let work = place.path().canonicalize().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let own = Process::find(getpid().as_raw()).unwrap();
        let alive = format!("{}-{}-7-x", own.pid, own.started);
        // The number was given to somebody else, who started at another time.
        let gone = format!("{}-{}-7-x", own.pid, own.started - 1);
        let mut orphan = sleeper(&work, Some(&gone));
        let mut others = [
            sleeper(&work, None),
            sleeper(&work, Some(&alive)),
            sleeper(elsewhere.path(), Some(&gone)),
            sleeper(&work, Some("no marker")),
        ];
        let found = loop {
            // A child bears its environment only once its program has started.
            let found = orphans(&Processes::now(), &work);
            if !found.is_empty() {
                break found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        assert_eq!(found.iter().map(|one| one.pid).collect::<Vec<_>>(), [orphan.id() as i32]);
        let done = end_orphans(&work, Duration::from_secs(60), &Interrupt::new(None)).await;
        assert!(done.still_there.is_empty() && done.ended.len() == 1, "{done:?}");
        orphan.wait().unwrap();
        for other in &mut others {
            assert!(other.try_wait().unwrap().is_none());
            other.kill().unwrap();
            other.wait().unwrap();
        }
    }
}
