//! What the agent does to itself before it starts anything.

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};

use tokio::signal::unix::SignalKind;

use agent_types::error::{Error, Result};

/// More open files than this make pseudo and old Pythons slow: they close every possible descriptor
/// one by one at each start of a program.
const OPEN_FILES: u64 = 65_536;

/// Whether the process that started the agent wanted this signal ignored, as `nohup` does. To be
/// asked before somebody listens for the signal.
pub fn is_ignored(signal: Signal) -> bool {
    // proc(5): the signals as a hexadecimal mask, the first in the lowest bit.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    mask >> (signal as i32 - 1) & 1 == 1
}

/// Keeps SIGXFSZ (a file has become as large as `ulimit -f` allows) from ending the agent: the write that
/// was too much fails instead, and is told. The children's own handling stays the usual one. SIGPIPE is
/// ignored by every Rust program. Needs the runtime.
pub fn survive_signals() {
    // Once there is a listener, the signal is caught for ever.
    let _ = tokio::signal::unix::signal(SignalKind::from_raw(Signal::SIGXFSZ as i32));
}

/// Closes all descriptors but the standard streams. The process that started the agent may have left open what layer code
/// must not read: a descriptor needs no permission any more, and all children would inherit it. To be called before the
/// agent opens anything.
pub fn close_inherited_descriptors() {
    let open = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let numbers: Vec<i32> = open.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|number| *number > 2) {
        // One of them was that of the directory, which is closed already.
        let _ = nix::unistd::close(number);
    }
}

/// Prepares this process, and through it all of its children: to be called once, at the start.
///
/// - umask 0022, which BitBake's sanity check wants.
/// - Not dumpable: layer code that runs as the same user can neither trace the agent nor read its
///   environment in `/proc`. Children become dumpable again when they start their program.
/// - Subreaper: descendants that lose their parent come to the agent, where they are found and
///   ended, instead of to whatever is process 1.
/// - At most 65536 open files.
///
/// # Errors
/// When the kernel refuses one of these.
pub fn prepare_process() -> Result<()> {
    umask(Mode::from_bits_truncate(0o022));
    let refused = |what: &str, errno: nix::errno::Errno| {
        Error::machine(format!("the kernel refuses {what}")).because(&errno)
    };
    prctl::set_dumpable(false)
        .map_err(|errno| refused("to protect the agent's memory (PR_SET_DUMPABLE)", errno))?;
    prctl::set_child_subreaper(true)
        .map_err(|errno| refused("to hand orphans to the agent (PR_SET_CHILD_SUBREAPER)", errno))?;
    let limit = Resource::RLIMIT_NOFILE;
    let (soft, hard) = getrlimit(limit).map_err(|errno| refused("to tell the limit of open files", errno))?;
    if soft > OPEN_FILES {
        setrlimit(limit, OPEN_FILES, hard)
            .map_err(|errno| refused("to lower the limit of open files", errno))?;
    }
    Ok(())
}
