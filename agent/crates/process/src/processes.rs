//! The table of processes, as `/proc` shows it. Reads only; see `signals` for signals. Reading the whole table
//! takes long on a large machine: not to be done on a thread of the runtime.
//!
//! Everything here is a snapshot of something that changes under the reader, and names and command
//! lines are whatever the processes chose: facts for decisions are the numbers alone.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

use super::proc_files;

/// Clock ticks a second in `/proc`: `USER_HZ`, part of Linux' interface to programs and 100 on
/// every architecture that BitBake runs on.
const TICKS: u64 = 100;

/// One process. A pid alone may be given to another process at any time; together with the start
/// time it names one for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    pub group: i32,
    pub session: i32,
    /// `R`, `S`, `D`, `Z` … of proc(5).
    pub state: char,
    /// Clock ticks after boot.
    pub started: u64,
    /// The name that the process gave itself, cut to 15 bytes by the kernel.
    pub name: String,
}

impl Process {
    /// The process of that number, if there is one.
    pub fn find(pid: i32) -> Option<Process> {
        Process::parse(&read(pid, "stat")?)
    }

    /// Reads a line of `/proc/PID/stat`: `pid (name) state parent group session …`. The name may
    /// hold anything, also spaces and parentheses; the last `)` ends it.
    fn parse(stat: &[u8]) -> Option<Process> {
        let stat = String::from_utf8_lossy(stat);
        let (pid, rest) = stat.split_once(" (")?;
        let (name, rest) = rest.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse().ok();
        Some(Process {
            pid: pid.parse().ok()?,
            parent: number(1)?,
            group: number(2)?,
            session: number(3)?,
            state: fields.first()?.chars().next()?,
            started: fields.get(19)?.parse().ok()?,
            name: name.to_owned(),
        })
    }

    /// Ended, and only waits for its parent to notice.
    pub fn is_dead(&self) -> bool {
        matches!(self.state, 'Z' | 'X' | 'x')
    }

    /// Whether this very process still runs.
    pub fn is_alive(&self) -> bool {
        Process::find(self.pid).is_some_and(|now| now.started == self.started && !now.is_dead())
    }

    /// What the kernel reads from the process's own memory: that may take a while.
    fn read_memory(&self, file: &str) -> Option<Vec<u8>> {
        proc_files::read((self.pid, self.started), file)
    }

    /// The arguments, as the process shows them; empty for the dead and for kernel threads. Blocks, for a
    /// bounded time.
    pub fn arguments(&self) -> Vec<std::ffi::OsString> {
        let bytes = self.read_memory("cmdline").unwrap_or_default();
        let bytes = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
        if bytes.is_empty() {
            return Vec::new();
        }
        bytes.split(|byte| *byte == 0).map(|arg| OsStr::from_bytes(arg).to_owned()).collect()
    }

    /// The arguments for people: on one line, without control characters.
    pub fn command_line(&self) -> String {
        let words: Vec<String> =
            self.arguments().iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let line = if words.is_empty() { format!("[{}]", self.name) } else { words.join(" ") };
        line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
    }

    /// The environment that it was started with, as `NAME=value` entries that end in a zero byte; empty if it may not
    /// be read. Blocks, for a bounded time.
    pub fn environment(&self) -> Vec<u8> {
        self.read_memory("environ").unwrap_or_default()
    }

    /// The value of a variable of the environment that it was started with; `None` also when that
    /// may not be read. Blocks, for a bounded time.
    pub fn variable(&self, name: &str) -> Option<String> {
        let environment = self.read_memory("environ")?;
        let mut entries = environment.split(|byte| *byte == 0);
        let value = entries.find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
        Some(String::from_utf8_lossy(value).into_owned())
    }

    /// Whether it was started with this `NAME=value` in its environment. `false` also when the
    /// environment may not be read. Blocks, for a bounded time.
    pub fn was_started_with(&self, entry: &str) -> bool {
        let environment = self.read_memory("environ").unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|one| one == entry.as_bytes())
    }

    /// Real, effective, saved and file-system user ids.
    pub fn uids(&self) -> Option<[u32; 4]> {
        let status = read(self.pid, "status")?;
        let status = String::from_utf8_lossy(&status);
        let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        let mut numbers = line.split_ascii_whitespace().map(|number| number.parse().ok());
        Some([numbers.next()??, numbers.next()??, numbers.next()??, numbers.next()??])
    }

    /// Where it works; `None` when that may not be read.
    pub fn directory(&self) -> Option<PathBuf> {
        std::fs::read_link(format!("/proc/{}/cwd", self.pid)).ok()
    }

    /// What its file descriptors are open on, e.g. `pipe:[4711]` or a path. Empty when that may
    /// not be read.
    pub fn open_files(&self) -> Vec<PathBuf> {
        let Ok(entries) = std::fs::read_dir(format!("/proc/{}/fd", self.pid)) else { return Vec::new() };
        entries.flatten().filter_map(|entry| std::fs::read_link(entry.path()).ok()).collect()
    }

    /// How long it has been running, to the second.
    fn age(&self, uptime: u64) -> Duration {
        Duration::from_secs(uptime.saturating_sub(self.started / TICKS))
    }

    /// `sleep (pid 4711)`, for messages.
    pub fn label(&self) -> String {
        let name: String = self.name.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        format!("{name} (pid {})", self.pid)
    }
}

fn read(pid: i32, file: &str) -> Option<Vec<u8>> {
    std::fs::read(format!("/proc/{pid}/{file}")).ok()
}

/// All processes of one moment, by pid.
pub struct Processes(BTreeMap<i32, Process>);

impl Processes {
    pub fn now() -> Processes {
        let Ok(entries) = std::fs::read_dir("/proc") else { return Processes(BTreeMap::new()) };
        let pids = entries.flatten().filter_map(|entry| {
            String::from_utf8(entry.file_name().into_vec()).ok().and_then(|name| name.parse::<i32>().ok())
        });
        let mut all: BTreeMap<i32, Process> =
            pids.filter_map(Process::find).map(|process| (process.pid, process)).collect();
        // Whose parent ended during the reading has another one by now.
        let lost = |one: &&Process| one.parent > 0 && !all.contains_key(&one.parent);
        let lost: Vec<i32> = all.values().filter(lost).map(|one| one.pid).collect();
        for pid in lost {
            match Process::find(pid) {
                Some(process) => all.insert(pid, process),
                None => all.remove(&pid),
            };
        }
        Processes(all)
    }

    /// The numbers of all processes, those first that were probably started last.
    pub fn newest_first() -> Vec<i32> {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let mut pids: Vec<i32> = entries
            .filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok()))
            .collect();
        pids.sort_unstable_by(|one, other| other.cmp(one));
        pids
    }

    pub fn get(&self, pid: i32) -> Option<&Process> {
        self.0.get(&pid)
    }

    /// Those that still run.
    pub fn alive(&self) -> impl Iterator<Item = &Process> {
        self.0.values().filter(|process| !process.is_dead())
    }

    /// `roots` and all that descend from them.
    pub fn descendants(&self, roots: impl IntoIterator<Item = i32>) -> BTreeSet<i32> {
        let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
        for process in self.0.values() {
            children.entry(process.parent).or_default().push(process.pid);
        }
        let mut found = BTreeSet::new();
        let mut open: Vec<i32> = roots.into_iter().collect();
        while let Some(pid) = open.pop() {
            if found.insert(pid) {
                open.extend(children.get(&pid).into_iter().flatten());
            }
        }
        found
    }

    /// The processes that `pid` descends from, itself included.
    pub fn ancestors(&self, pid: i32) -> BTreeSet<i32> {
        let mut found = BTreeSet::new();
        let mut next = pid;
        while found.insert(next) {
            match self.get(next) {
                Some(process) => next = process.parent,
                None => break,
            }
        }
        found
    }

    /// A picture of these processes, one line each, at most `limit` lines: children below their
    /// parents, with pid, state, age and command line.
    pub fn tree(&self, pids: &BTreeSet<i32>, limit: usize) -> Vec<String> {
        let uptime = uptime();
        let mut lines = Vec::new();
        let is_root = |pid: &&i32| self.get(**pid).is_some_and(|process| !pids.contains(&process.parent));
        let mut open: Vec<(i32, usize)> = pids.iter().rev().filter(is_root).map(|pid| (*pid, 0)).collect();
        while let Some((pid, depth)) = open.pop() {
            let Some(process) = self.get(pid) else { continue };
            let age = humantime::format_duration(process.age(uptime));
            let command: String = process.command_line().chars().take(160).collect();
            lines.push(format!("{:indent$}{pid} {} {age} {command}", "", process.state, indent = depth * 2));
            let children =
                pids.iter().rev().filter(|child| self.get(**child).is_some_and(|c| c.parent == pid));
            open.extend(children.map(|child| (*child, depth + 1)));
        }
        if lines.len() > limit {
            let left_out = lines.len() - limit;
            lines.truncate(limit);
            lines.push(format!("… and {left_out} more"));
        }
        lines
    }
}

/// Whole seconds after boot.
fn uptime() -> u64 {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split('.').next().and_then(|seconds| seconds.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn names_with_parentheses_spaces_and_bad_bytes_do_not_confuse() {
        let tail = " S 10 20 30 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 4711 0 0";
        for (name, wanted) in
            [("sh", "sh"), (") R 1 1 1", ") R 1 1 1"), ("a (b) c", "a (b) c"), ("x\u{fffd}", "x\u{fffd}")]
        {
            let process = Process::parse(format!("7 ({name}){tail}").as_bytes()).unwrap();
            assert_eq!(
                (process.pid, process.parent, process.group, process.session),
                (7, 10, 20, 30),
                "{name}"
            );
            assert_eq!((process.name.as_str(), process.state, process.started), (wanted, 'S', 4711));
        }
        assert!(Process::parse(b"7 (\xff\xfe) Z 1 2 3").is_none(), "cut short");
        assert!(Process::parse(b"").is_none());
    }

    #[test]
    fn the_own_process_is_seen() {
        let own = std::process::id() as i32;
        let processes = Processes::now();
        let process = processes.get(own).unwrap();
        assert!(process.is_alive());
        assert!(processes.descendants([process.parent]).contains(&own));
        assert!(processes.ancestors(own).contains(&process.parent));
        assert_eq!(process.directory().unwrap(), std::env::current_dir().unwrap());
        assert_eq!(process.uids().unwrap()[1], nix::unistd::geteuid().as_raw());
    }

    #[test]
    fn a_tree_is_indented_and_limited() {
        let process = |pid, parent| Process {
            pid,
            parent,
            group: 1,
            session: 1,
            state: 'S',
            started: 0,
            name: format!("p{pid}"),
        };
        // Numbers above the kernel's largest pid, so that no real command line interferes.
        let base = 1 << 29;
        let all = [(1, 0), (2, 1), (3, 2), (4, 1)].map(|(pid, parent)| process(base + pid, base + parent));
        let processes = Processes(all.into_iter().map(|p| (p.pid, p)).collect());
        let pids = (1..=4).map(|n| base + n).collect();
        let lines = processes.tree(&pids, 10);
        let shape: Vec<(usize, &str)> = lines
            .iter()
            .map(|line| (line.len() - line.trim_start().len(), line.rsplit(' ').next().unwrap()))
            .collect();
        let names = (1..=4).map(|n| format!("[p{}]", base + n)).collect::<Vec<_>>();
        assert_eq!(shape, [(0, &*names[0]), (2, &*names[1]), (4, &*names[2]), (2, &*names[3])]);
        assert_eq!(processes.tree(&pids, 2).last().unwrap(), "… and 2 more");
    }
}
