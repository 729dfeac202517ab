//! Processes that are still running.

use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A process whose command line names a path of the sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survivor {
    pub pid: i32,
    pub command: String,
}

/// The processes whose command line contains the path. All stand-in tools are below the sandbox, so the path marks
/// them and their children.
pub fn survivors(marker: &Path) -> Vec<Survivor> {
    let marker = marker.to_string_lossy();
    let entries = std::fs::read_dir("/proc").expect("/proc");
    let survivor = |entry: std::io::Result<std::fs::DirEntry>| {
        let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let command = String::from_utf8_lossy(&words).replace('\0', " ");
        (command.contains(&*marker) && pid != std::process::id() as i32).then_some(Survivor { pid, command })
    };
    entries.filter_map(survivor).collect()
}

/// Fails if a process of the sandbox is still running. Killed processes get some time to end.
pub fn assert_none(marker: &Path) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !survivors(marker).is_empty() {
        assert!(Instant::now() < deadline, "left behind: {:#?}", survivors(marker));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Kills the processes that a test left behind, by process id.
pub fn end_all(marker: &Path) {
    for survivor in survivors(marker) {
        let _ = kill(Pid::from_raw(survivor.pid), Signal::SIGKILL);
    }
}

/// The most memory that the process has used until now, in KiB; `None` if it has ended. Pages of its program file do not
/// count: in a debug build they are half of the resident size, and grow with each line of code.
pub fn peak_kib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let kib = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse().ok()
    };
    Some(kib("VmHWM:")?.saturating_sub(kib("RssFile:")?))
}
