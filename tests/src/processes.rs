//! What still runs.

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

/// The processes whose command line contains the path. All stand-in tools lie below the sandbox, so
/// that it marks them and what they fork.
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

/// Fails when something of the sandbox still runs. Processes that were just killed get the time to
/// vanish.
pub fn assert_none(marker: &Path) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !survivors(marker).is_empty() {
        assert!(Instant::now() < deadline, "left behind: {:#?}", survivors(marker));
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Ends what a test left behind, by process id.
pub fn end_all(marker: &Path) {
    for survivor in survivors(marker) {
        let _ = kill(Pid::from_raw(survivor.pid), Signal::SIGKILL);
    }
}

/// The largest resident size that the process ever had, in KiB; `None` when it is gone.
pub fn peak_kib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}
