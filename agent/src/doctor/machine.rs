//! Checks memory, cores, and kernel settings.

use std::path::Path;

use nix::sys::resource::{Resource, getrlimit};

use agent_process::cgroup::{Limits, host_memory};
use agent_types::release::Release;

use super::finding::Finding;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct MachineFacts {
    /// `MemTotal`, in bytes.
    pub host_bytes: Option<u64>,
    /// Online processors.
    pub host_cores: Option<u64>,
    /// Processors that this process may run on.
    pub own_cores: Option<u64>,
    pub limits: Limits,
    /// The soft limit of open files.
    pub open_files: Option<u64>,
    pub inotify_watches: Option<u64>,
    pub mmap_min_addr: Option<u64>,
}

const GIB: u64 = 1 << 30;

/// Below this, BitBake's parser alone may run out of memory.
const MEMORY_TO_CHECK: u64 = 4 * GIB;
/// What the reference manual requires.
const MEMORY_TO_BUILD: u64 = 8 * GIB;
/// From this limit on, builds are slow: Python and pseudo loop over all possible descriptors to close them.
const MANY_FILES: u64 = 1_048_576;
const FEW_FILES: u64 = 1024;
/// BitBake up to mickledore watches each directory of each layer.
const FEW_WATCHES: u64 = 65_536;
/// QEMU's user emulation maps low addresses; OE-Core's sanity check has the same limit.
const HIGH_MMAP: u64 = 65_536;

pub fn gather() -> MachineFacts {
    let number = |path: &str| fs_err::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let online = fs_err::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    MachineFacts {
        host_bytes: host_memory(Path::new("/")),
        host_cores: count_of_list(&online),
        own_cores: std::thread::available_parallelism().ok().map(|cores| cores.get() as u64),
        limits: Limits::read(Path::new("/")),
        open_files: getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft),
        inotify_watches: number("/proc/sys/fs/inotify/max_user_watches"),
        mmap_min_addr: number("/proc/sys/vm/mmap_min_addr"),
    }
}

/// Counts the numbers in a list of the kernel, such as `0-3,8,10-11`.
fn count_of_list(list: &str) -> Option<u64> {
    let count = |range: &str| match range.split_once('-') {
        Some((first, last)) => Some(last.parse::<u64>().ok()?.checked_sub(first.parse().ok()?)? + 1),
        None => range.parse::<u64>().ok().map(|_| 1),
    };
    list.trim().split(',').map(count).sum()
}

pub fn judge(release: &Release, builds: bool, facts: &MachineFacts) -> Vec<Finding> {
    let mut findings =
        vec![judge_cores(facts), judge_memory(builds, facts), judge_open_files(facts.open_files)];
    if watches_files(release) {
        findings.extend(facts.inotify_watches.map(judge_watches));
    }
    findings.extend(facts.mmap_min_addr.and_then(judge_mmap));
    findings
}

fn judge_cores(facts: &MachineFacts) -> Finding {
    let host = facts.host_cores.map_or("an unknown number of".to_owned(), |cores| cores.to_string());
    let quota = match facts.limits.cores {
        Some(cores) => format!("cgroup quota {cores:.1}"),
        None => "no cgroup quota".to_owned(),
    };
    // The standard library already takes the quota and the affinity into account.
    let usable = facts.own_cores.map_or("?".to_owned(), |cores| cores.to_string());
    Finding::ok("cores", format!("{usable} usable; the host has {host}, {quota}"))
}

fn judge_memory(builds: bool, facts: &MachineFacts) -> Finding {
    let Some(usable) = [facts.host_bytes, facts.limits.bytes].into_iter().flatten().min() else {
        return Finding::warning("memory", "neither /proc/meminfo nor a cgroup reports it", "mount /proc");
    };
    let limited = match (facts.limits.bytes, facts.host_bytes) {
        (Some(limit), Some(host)) if limit < host => format!("cgroup limit; the host has {}", gib(host)),
        _ => "no lower cgroup limit".to_owned(),
    };
    let found = format!("{} usable ({limited})", gib(usable));
    let wanted = if builds { MEMORY_TO_BUILD } else { MEMORY_TO_CHECK };
    // A machine sold with 8 GiB reports a little less.
    if usable < wanted / 10 * 9 {
        let fix = format!("use at least {} (docker run --memory, CodeBuild compute type)", gib(wanted));
        Finding::warning("memory", found, fix)
    } else {
        Finding::ok("memory", found)
    }
}

fn judge_open_files(soft: Option<u64>) -> Finding {
    const FIX: &str = "ulimit -n 65536, or `docker run --ulimit nofile=65536:65536`";
    const NAME: &str = "open files";
    match soft {
        None => Finding::ok(NAME, "the limit is unknown"),
        Some(soft) if soft >= MANY_FILES => {
            let found =
                format!("limit {soft}: pseudo and Python close each possible descriptor and get slow");
            Finding::warning(NAME, found, FIX)
        }
        Some(soft) if soft < FEW_FILES => {
            Finding::warning(NAME, format!("limit {soft} is too low for BitBake's workers"), FIX)
        }
        Some(soft) => Finding::ok(NAME, format!("limit {soft}")),
    }
}

/// Whether this BitBake uses inotify: up to 2.4 it does, from 2.6 on it does not.
fn watches_files(release: &Release) -> bool {
    let mut numbers = release.bitbake.split('.').map(|n| n.parse::<u32>().unwrap_or(u32::MAX));
    let version = (numbers.next().unwrap_or(u32::MAX), numbers.next().unwrap_or(0));
    version <= (2, 4)
}

fn judge_watches(watches: u64) -> Finding {
    const NAME: &str = "inotify watches";
    if watches < FEW_WATCHES {
        let found = format!("{watches} may be too few: this BitBake watches every directory of the layers");
        Finding::warning(NAME, found, "on the host: sysctl -w fs.inotify.max_user_watches=524288")
    } else {
        Finding::ok(NAME, watches.to_string())
    }
}

fn judge_mmap(address: u64) -> Option<Finding> {
    (address > HIGH_MMAP).then(|| {
        let found = format!("vm.mmap_min_addr is {address}: QEMU's user emulation needs at most {HIGH_MMAP}");
        Finding::warning(
            "mmap_min_addr",
            found,
            format!("on the host: sysctl -w vm.mmap_min_addr={HIGH_MMAP}"),
        )
    })
}

/// Formats bytes as GiB, for people.
pub fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / GIB as f64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::doctor::State::{Ok as Fine, Warning};

    #[test]
    fn parses_cpu_lists() {
        let lists = [
            ("0-3\n", Some(4)),
            ("0", Some(1)),
            ("0-1,4,6-7", Some(5)),
            ("", None),
            ("3-1", None),
            ("x", None),
        ];
        for (list, count) in lists {
            assert_eq!(count_of_list(list), count, "{list:?}");
        }
    }

    #[test]
    fn usable_memory_is_the_smaller_of_host_and_cgroup() {
        // (host, cgroup limit, builds)
        let table = [
            (Some(64 * GIB), None, true, Fine),
            (Some(64 * GIB), Some(4 * GIB), true, Warning),
            (Some(64 * GIB), Some(4 * GIB), false, Fine),
            (Some(2 * GIB), Some(64 * GIB), false, Warning),
            (Some(8 * GIB - 300_000_000), None, true, Fine),
            (None, None, false, Warning),
        ];
        for (host_bytes, bytes, builds, state) in table {
            let limits = Limits { bytes, cores: None };
            let facts = MachineFacts { host_bytes, limits, ..MachineFacts::default() };
            assert_eq!(judge_memory(builds, &facts).state, state, "{facts:?}");
        }
    }

    #[test]
    fn shows_usable_cores_host_cores_and_quota() {
        let limits = Limits { bytes: None, cores: Some(1.5) };
        let facts =
            MachineFacts { host_cores: Some(64), own_cores: Some(2), limits, ..MachineFacts::default() };
        assert_eq!(judge_cores(&facts).found, "2 usable; the host has 64, cgroup quota 1.5");
    }

    #[test]
    fn warns_of_too_low_and_too_high_open_files_limit() {
        let table =
            [(1_048_576, Warning), (u64::MAX, Warning), (1_048_575, Fine), (1024, Fine), (256, Warning)];
        for (soft, state) in table {
            assert_eq!(judge_open_files(Some(soft)).state, state, "{soft}");
        }
    }

    #[test]
    fn warns_of_few_inotify_watches_only_for_old_bitbake() {
        let facts = MachineFacts { inotify_watches: Some(8192), ..MachineFacts::default() };
        let complains = |name: &str| {
            let findings = judge(Release::find(name).unwrap(), true, &facts);
            findings.iter().any(|finding| finding.name == "inotify watches" && finding.state == Warning)
        };
        let table = [
            ("dunfell", true),
            ("mickledore", true),
            ("nanbield", false),
            ("styhead", false),
            ("master", false),
        ];
        for (name, wanted) in table {
            assert_eq!(complains(name), wanted, "{name}");
        }
    }

    #[test]
    fn warns_of_high_mmap_min_addr() {
        assert_eq!(judge_mmap(65_536), None);
        assert_eq!(judge_mmap(65_537).unwrap().state, Warning);
    }
}
