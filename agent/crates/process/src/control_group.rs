//! A control group of the agent's own, in which all of its children are, where the kernel and the
//! container allow one.
//!
//! A process cannot leave it without the agent's rights, so that what a command left behind is found and
//! ended there whatever it did to its session, its environment and its name, and however fast it forks.
//! Without it there are only the process table and signals: see `forkers`.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::{geteuid, getpid};

use super::processes::Process;
use super::signals::signal;
use agent_fs::dir::DirHandle;

/// The kernel freezes within milliseconds, unless a process waits for a disk or a file server.
const FROZEN: Duration = Duration::from_millis(500);

/// Where the kernel shows the groups.
const MOUNTED: &str = "/sys/fs/cgroup";

/// What the names of the groups begin with; the agent's pid and start time follow.
const NAME: &str = "build-agent-";

/// The file in a work directory that names the group of the agent that works there.
const RECORD: &str = "control-group";

/// The longest path that a record can hold.
const LONGEST: u64 = 4096;

/// How long those may take to go that were killed.
const KILLED: Duration = Duration::from_secs(10);

/// The work directory of this agent.
static WORK: Mutex<Option<PathBuf>> = Mutex::new(None);

#[derive(Default)]
enum State {
    #[default]
    Unknown,
    /// It cannot be had here.
    Refused,
    There(Group),
}

static GROUP: Mutex<State> = Mutex::new(State::Unknown);

fn group() -> MutexGuard<'static, State> {
    // A panic elsewhere leaves it whole.
    GROUP.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Puts a child that has just been started into the group. What it starts is there from its beginning.
pub(super) fn join(pid: i32) {
    let mut state = group();
    if matches!(*state, State::Unknown) {
        *state = Group::make(Path::new(MOUNTED)).map_or(State::Refused, State::There);
        if let State::There(group) = &*state {
            group.record();
        }
    }
    if let State::There(group) = &*state {
        // A child that has ended already needs no group.
        let _ = std::fs::write(group.directory.join("cgroup.procs"), pid.to_string());
    }
}

/// The processes in the group that still run.
pub(super) fn members() -> Vec<Process> {
    match &*group() {
        State::There(group) => group.members(),
        _ => Vec::new(),
    }
}

/// Ends all that is in the group. Nothing happens where there is none.
pub(super) fn kill_all() {
    if let State::There(group) = &*group() {
        group.kill();
    }
}

/// Removes the group, when it is empty; the next command makes another one.
pub(super) fn remove() {
    let mut state = group();
    if let State::There(group) = &*state
        && group.members().is_empty()
        && group.remove()
    {
        *state = State::Unknown;
    }
}

/// Ends what is in the group of an earlier agent in this work directory, and records the group of this one there
/// from now on. The caller holds the directory, so that the earlier agent is gone: whoever is still in its group
/// was left behind, whatever it did to its environment. Nothing is ended while that agent runs, which happens when
/// the directory is a copy. Who was ended, and who is still there. Blocks.
pub(super) fn take_over(work: &Path) -> (Vec<Process>, Vec<Process>) {
    let left = recorded(work, Path::new(MOUNTED)).map(|group| group.end());
    *WORK.lock().unwrap_or_else(PoisonError::into_inner) = Some(work.to_owned());
    if let State::There(group) = &*self::group() {
        group.record();
    }
    left.unwrap_or_default()
}

/// The group that the record in this work directory names. Layer code may have written there.
fn recorded(work: &Path, mounted: &Path) -> Option<Group> {
    use std::os::unix::fs::MetadataExt;
    let (file, metadata) = agent_fs::read::open(&work.join(RECORD)).ok()?;
    if metadata.uid() != geteuid().as_raw() {
        return None;
    }
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text).ok()?;
    let directory = PathBuf::from(text);
    let name = directory.file_name()?.to_str()?;
    let (pid, started) = name.strip_prefix(NAME)?.split_once('-')?;
    let (pid, started): (i32, u64) = (pid.parse().ok()?, started.parse().ok()?);
    let is_running = Process::find(pid).is_some_and(|agent| agent.started == started && !agent.is_dead());
    let is_plain = directory.components().all(|part| !matches!(part, std::path::Component::ParentDir));
    let is_group = is_plain && directory.starts_with(mounted) && directory.join("cgroup.procs").is_file();
    (!is_running && is_group).then_some(Group { directory })
}

/// The name of this agent's group.
fn own_name() -> Option<String> {
    let agent = Process::find(getpid().as_raw())?;
    Some(format!("{NAME}{}-{}", agent.pid, agent.started))
}

/// As on a machine where no control group can be made.
#[cfg(test)]
pub(super) fn refuse() {
    *group() = State::Refused;
}

/// A directory of a control group file system.
#[derive(Debug)]
struct Group {
    directory: PathBuf,
}

impl Group {
    /// Below the group that this process is in: in version 2, or in the freezer of version 1.
    fn make(mounted: &Path) -> Option<Group> {
        let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let name = own_name()?;
        let places = places(&own, mounted).into_iter().filter(|place| is_own(place));
        places
            .map(|place| place.join(&name))
            .find(|group| std::fs::create_dir(group).is_ok())
            .map(|directory| Group { directory })
    }

    /// So that the next agent finds what a killed one leaves behind. Without the record it finds less.
    fn record(&self) {
        use std::os::unix::ffi::OsStrExt;
        let work = WORK.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(work) = &*work else { return };
        let (file, beside) = (work.join(RECORD), work.join(format!("{RECORD}.new")));
        let _ = agent_fs::remove::remove_file(&beside, work);
        let written = std::fs::File::create_new(&beside).and_then(|mut new| {
            new.write_all(self.directory.as_os_str().as_bytes())?;
            std::fs::rename(&beside, &file)
        });
        let _ = written;
    }

    /// Kills all members and removes the group. Who they were, and who is still there.
    fn end(&self) -> (Vec<Process>, Vec<Process>) {
        let (ended, until) = (self.members(), Instant::now() + KILLED);
        loop {
            self.kill();
            let left = self.members();
            if left.is_empty() || Instant::now() >= until {
                self.remove();
                return (ended, left);
            }
            sleep(Duration::from_millis(10));
        }
    }

    fn members(&self) -> Vec<Process> {
        let pids = std::fs::read_to_string(self.directory.join("cgroup.procs")).unwrap_or_default();
        let found =
            pids.lines().filter_map(|pid| Process::find(pid.trim().parse().ok().filter(|pid| *pid > 1)?));
        found.filter(|one| !one.is_dead()).collect()
    }

    fn kill(&self) {
        // Linux 5.14, version 2: all at once, and whoever is forking just then, too.
        if std::fs::write(self.directory.join("cgroup.kill"), "1").is_ok() {
            return;
        }
        self.freeze(true);
        for process in self.members() {
            signal(&process, Signal::SIGKILL);
        }
        self.freeze(false);
    }

    /// In a group that is frozen nobody forks. Waits until all are.
    fn freeze(&self, freeze: bool) {
        let (first, second) = (self.directory.join("freezer.state"), self.directory.join("cgroup.freeze"));
        let (file, on, off) = if first.exists() { (first, "FROZEN", "THAWED") } else { (second, "1", "0") };
        let until = Instant::now() + FROZEN;
        let _ = std::fs::write(&file, if freeze { on } else { off });
        while freeze && Instant::now() < until && !self.is_frozen() {
            sleep(Duration::from_millis(1));
        }
    }

    fn is_frozen(&self) -> bool {
        let read = |file: &str| std::fs::read_to_string(self.directory.join(file)).unwrap_or_default();
        read("freezer.state").trim() == "FROZEN" || read("cgroup.events").contains("frozen 1")
    }

    fn remove(&self) -> bool {
        let (Some(parent), Some(name)) = (self.directory.parent(), self.directory.file_name()) else {
            return false;
        };
        DirHandle::open(parent).and_then(|parent| parent.remove_dir(name)).is_ok()
    }
}

/// Where the group of this process may be, given its `/proc/self/cgroup`; the best first.
fn places(own: &str, mounted: &Path) -> Vec<PathBuf> {
    let (mut second, mut first) = (Vec::new(), Vec::new());
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        // In a container the path may be the host's, and the own group is at the top.
        let add = |places: &mut Vec<PathBuf>, mount: PathBuf| {
            places.extend([mount.join(path.trim_start_matches('/')), mount]);
        };
        if controllers.is_empty() {
            // Beside version 1 it is mounted at `unified`.
            ["", "unified"].into_iter().for_each(|mount| add(&mut second, mounted.join(mount)));
        } else if controllers.split(',').any(|controller| controller == "freezer") {
            add(&mut first, mounted.join("freezer"));
        }
    }
    second.into_iter().chain(first).collect()
}

/// Whether this process is in the group.
fn is_own(place: &Path) -> bool {
    let pids = std::fs::read_to_string(place.join("cgroup.procs")).unwrap_or_default();
    let own = getpid().to_string();
    pids.lines().any(|pid| pid.trim() == own)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn only_the_group_of_an_earlier_agent_is_taken_over() {
        let base = tempfile::tempdir().unwrap();
        let (work, mounted) = (base.path().join("work"), base.path().join("mounted"));
        std::fs::create_dir(&work).unwrap();
        // This process is a running agent.
        let own = own_name().unwrap();
        // An earlier process that had the same number.
        let earlier = format!("{}-1", own.rsplit_once('-').unwrap().0);
        let others = ["build-agent-7-8", "build-agent-7", "build-agent-7-8-9", "build-agent-x-8", "system"];
        for name in others.into_iter().chain([&*own, &*earlier]) {
            std::fs::create_dir_all(mounted.join(name)).unwrap();
            std::fs::write(mounted.join(name).join("cgroup.procs"), "").unwrap();
        }
        std::fs::create_dir_all(mounted.join("empty/build-agent-7-8")).unwrap();
        let at = |name: &str| format!("{}/{name}", mounted.display());
        for (text, wanted) in [
            (at("build-agent-7-8"), true),
            (at("build-agent-7"), false),
            (at("build-agent-7-8-9"), false),
            (at("build-agent-x-8"), false),
            (at("system"), false),
            (at(&own), false),
            (at(&earlier), true),
            (at("gone/build-agent-7-8"), false),
            (at("empty/build-agent-7-8"), false),
            (at("system/../build-agent-7-8"), false),
            ("/elsewhere/build-agent-7-8".into(), false),
            (String::new(), false),
            ("\0".into(), false),
            (at(&"x".repeat(5000)), false),
        ] {
            std::fs::write(work.join(RECORD), &text).unwrap();
            assert_eq!(recorded(&work, &mounted).is_some(), wanted, "{text:?}");
        }
        std::fs::remove_file(work.join(RECORD)).unwrap();
        std::fs::write(base.path().join("other"), at("build-agent-7-8")).unwrap();
        std::os::unix::fs::symlink(base.path().join("other"), work.join(RECORD)).unwrap();
        assert!(recorded(&work, &mounted).is_none(), "by way of a link");
        assert!(recorded(base.path(), &mounted).is_none());
    }

    #[test]
    fn places_of_both_versions_are_known() {
        let places = |own| {
            places(own, Path::new("/m")).into_iter().map(|p| p.display().to_string()).collect::<Vec<_>>()
        };
        let own = "4:freezer:/a/b\n3:memory:/c\n0::/d\nrubbish\n";
        let wanted = ["/m/d", "/m/", "/m/unified/d", "/m/unified", "/m/freezer/a/b", "/m/freezer"];
        assert_eq!(places(own), wanted);
        assert_eq!(places(""), [""; 0]);
    }

    #[test]
    fn all_in_a_group_are_ended_however_they_fork() {
        let Some(group) = Group::make(Path::new("/sys/fs/cgroup")) else {
            eprintln!("SKIPPED all_in_a_group_are_ended_however_they_fork: no control group can be made");
            return;
        };
        let mut shell = std::process::Command::new("sh");
        let script = "read go; while :; do (setsid sh -c 'sleep 0.01; sleep 100' &) ; done";
        let mut child = shell.arg("-c").arg(script).stdin(std::process::Stdio::piped()).spawn().unwrap();
        std::fs::write(group.directory.join("cgroup.procs"), child.id().to_string()).unwrap();
        drop(child.stdin.take());
        while group.members().len() < 5 {
            sleep(Duration::from_millis(1));
        }
        group.kill();
        child.wait().unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        while !group.members().is_empty() {
            assert!(Instant::now() < until, "{:?}", group.members());
            sleep(Duration::from_millis(1));
        }
        while !group.remove() {
            assert!(Instant::now() < until, "the empty group stays");
            sleep(Duration::from_millis(1));
        }
    }
}
