//! The limits that a container's control group sets, version 1 and 2.
//!
//! `nproc` does not know a CPU quota and `/proc/meminfo` shows the host, so that a build takes its
//! parallelism from a machine that it does not have. What is still free of the memory is told as well.

mod usage;

use std::path::{Path, PathBuf};

pub use usage::{CpuTime, MemoryUse, cpu_time, memory_use};

/// What the control groups allow; `None`: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Limits {
    pub bytes: Option<u64>,
    pub cores: Option<f64>,
}

impl Limits {
    /// Reads the limits of this process. `root` is `/`, or a copy of the files for tests.
    pub fn read(root: &Path) -> Limits {
        Limits::gather(root, version_1, version_2)
    }

    fn gather(root: &Path, version_1: fn(&Path) -> Limits, version_2: fn(&Path) -> Limits) -> Limits {
        let own = fs_err::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
        let mounted = root.join("sys/fs/cgroup");
        let of_line = |line| of_line(line, &mounted, version_1, version_2);
        own.lines().map(of_line).fold(Limits::default(), Limits::tighter)
    }

    fn tighter(self, other: Limits) -> Limits {
        let bytes = [self.bytes, other.bytes].into_iter().flatten().min();
        let cores = [self.cores, other.cores].into_iter().flatten().reduce(f64::min);
        Limits { bytes, cores }
    }
}

/// Memory that programs can still take, in bytes: of the host, less what the groups on the way up
/// leave of their limits. `None` when nothing tells it. `root` as in [`Limits::read`].
pub fn free_memory(root: &Path) -> Option<u64> {
    let meminfo = fs_err::read_to_string(root.join("proc/meminfo")).unwrap_or_default();
    let host = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let host = host.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    let groups = Limits::gather(
        root,
        |group| left_of(group, version_1(group), "memory.usage_in_bytes", "total_inactive_file"),
        |group| left_of(group, version_2(group), "memory.current", "inactive_file"),
    );
    [host.map(|kib| kib * 1024), groups.bytes].into_iter().flatten().min()
}

/// The memory of the host, in bytes. `root` as in [`Limits::read`].
pub fn host_memory(root: &Path) -> Option<u64> {
    let meminfo = fs_err::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}

/// How many processes the kernel has killed because memory ran out: in the group of this process and below it, or on
/// the whole host where the group does not count them. `None` when nothing tells it. `root` as in [`Limits::read`].
pub fn memory_kills(root: &Path) -> Option<u64> {
    let own = fs_err::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mounted = root.join("sys/fs/cgroup");
    let of_groups = own.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?);
        // In a container the path may be the host's, while its own group is mounted at the top.
        let count = |mounted: &Path, file: &str| {
            let groups = [mounted.join(path.trim_start_matches('/')), mounted.to_owned()];
            groups.iter().find_map(|group| counter(&value(group, file)?))
        };
        match controllers {
            "" => count(&mounted, "memory.events"),
            names if names.split(',').any(|name| name == "memory") => {
                count(&mounted.join("memory"), "memory.oom_control")
            }
            _ => None,
        }
    });
    of_groups.or_else(|| counter(&fs_err::read_to_string(root.join("proc/vmstat")).ok()?))
}

/// The line `oom_kill N`.
fn counter(text: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok())
}

/// What a group leaves of its limit. Pages of files that nobody uses are given back when memory is short.
fn left_of(group: &Path, limits: Limits, usage: &str, idle: &str) -> Limits {
    let number = |text: String| text.parse::<u64>().ok();
    let used = value(group, usage).and_then(number).unwrap_or(0);
    let statistics = value(group, "memory.stat").unwrap_or_default();
    let idle = statistics.lines().find_map(|line| line.strip_prefix(idle)?.trim().parse::<u64>().ok());
    let bytes = limits.bytes.map(|limit| limit.saturating_sub(used.saturating_sub(idle.unwrap_or(0))));
    Limits { bytes, cores: None }
}

/// A line of `/proc/self/cgroup`: `0::/path` (version 2) or `4:memory:/path` (version 1).
fn of_line(
    line: &str,
    mounted: &Path,
    version_1: fn(&Path) -> Limits,
    version_2: fn(&Path) -> Limits,
) -> Limits {
    let mut parts = line.splitn(3, ':');
    let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
        return Limits::default();
    };
    if controllers.is_empty() {
        // Beside version 1 it may be mounted at `unified`, without these controllers.
        return tightest(mounted, path, version_2);
    }
    controllers.split(',').fold(Limits::default(), |limits, controller| match controller {
        "memory" => limits.tighter(tightest(&mounted.join("memory"), path, version_1)),
        // The two share a directory; its name has both or one of them.
        "cpu" => ["cpu", "cpu,cpuacct"]
            .map(|name| tightest(&mounted.join(name), path, version_1))
            .into_iter()
            .fold(limits, Limits::tighter),
        _ => limits,
    })
}

/// A limit holds for all groups below, so the tightest on the way up counts. In a container the
/// path is the host's while its own group is mounted at the top: the top is always looked at.
fn tightest(mounted: &Path, path: &str, read: fn(&Path) -> Limits) -> Limits {
    let relative = PathBuf::from(path.trim_start_matches('/'));
    relative.ancestors().map(|group| read(&mounted.join(group))).fold(Limits::default(), Limits::tighter)
}

fn version_2(group: &Path) -> Limits {
    let bytes = value(group, "memory.max").and_then(|text| text.parse().ok());
    let cores = value(group, "cpu.max").and_then(|text| {
        let (quota, period) = text.split_once(' ')?;
        share(quota, period)
    });
    Limits { bytes, cores }
}

fn version_1(group: &Path) -> Limits {
    // "No limit" is the largest number of whole pages, about 2^63.
    let bytes =
        value(group, "memory.limit_in_bytes").and_then(|text| text.parse().ok()).filter(|n| *n < 1 << 62);
    let cores = match (value(group, "cpu.cfs_quota_us"), value(group, "cpu.cfs_period_us")) {
        (Some(quota), Some(period)) => share(&quota, &period),
        _ => None,
    };
    Limits { bytes, cores }
}

/// `max` and `-1` mean no quota.
fn share(quota: &str, period: &str) -> Option<f64> {
    let (quota, period) = (quota.parse::<i64>().ok()?, period.parse::<i64>().ok()?);
    (quota > 0 && period > 0).then(|| quota as f64 / period as f64)
}

fn value(group: &Path, file: &str) -> Option<String> {
    let text = fs_err::read_to_string(group.join(file)).ok()?;
    Some(text.trim().to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(files: &[(&str, &str)]) -> Limits {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, text).unwrap();
        }
        Limits::read(root.path())
    }

    #[test]
    fn version_2_counts_the_tightest_group_on_the_way_up() {
        let limits = read(&[
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/memory.max", "1000\n"),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("sys/fs/cgroup/a/cpu.max", "max 100000\n"),
            ("sys/fs/cgroup/a/b/cpu.max", "150000 100000\n"),
        ]);
        assert_eq!(limits, Limits { bytes: Some(1000), cores: Some(1.5) });
    }

    #[test]
    fn version_1_in_a_container_has_its_group_at_the_top() {
        let limits = read(&[
            ("proc/self/cgroup", "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n2:cpuset:/\n0::/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "2048\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "400000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
        ]);
        assert_eq!(limits, Limits { bytes: Some(2048), cores: Some(4.0) });
    }

    #[test]
    fn no_limit_has_many_forms() {
        let table: [&[(&str, &str)]; 4] = [
            &[],
            &[("proc/self/cgroup", "rubbish\n::\n0:\n")],
            &[
                ("proc/self/cgroup", "0::/\n"),
                ("sys/fs/cgroup/memory.max", "max\n"),
                ("sys/fs/cgroup/cpu.max", "0 0"),
            ],
            &[
                ("proc/self/cgroup", "4:memory:/\n3:cpu:/\n"),
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
                ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
                ("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
            ],
        ];
        for files in table {
            assert_eq!(read(files), Limits::default(), "{files:?}");
        }
    }

    #[test]
    fn kills_are_counted_where_the_kernel_counts_them() {
        let host = ("proc/vmstat", "nr_free_pages 7\noom_kill 9\n");
        type Case<'a> = (&'a [(&'a str, &'a str)], Option<u64>);
        let tables: [Case; 6] = [
            (
                &[
                    host,
                    ("proc/self/cgroup", "0::/a\n"),
                    (
                        "sys/fs/cgroup/a/memory.events",
                        "low 0\nhigh 1\nmax 5\noom 2\noom_kill 3\noom_group_kill 0\n",
                    ),
                    ("sys/fs/cgroup/memory.events", "oom_kill 4\n"),
                ],
                Some(3),
            ),
            (
                &[
                    host,
                    ("proc/self/cgroup", "0::/of/the/host\n"),
                    ("sys/fs/cgroup/memory.events", "oom_kill 4\n"),
                ],
                Some(4),
            ),
            (
                &[
                    host,
                    ("proc/self/cgroup", "4:cpu:/x\n5:memory:/x\n"),
                    (
                        "sys/fs/cgroup/memory/x/memory.oom_control",
                        "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n",
                    ),
                ],
                Some(5),
            ),
            (&[host, ("proc/self/cgroup", "0::/\n")], Some(9)),
            (&[host], Some(9)),
            (&[("proc/self/cgroup", "0::/\n")], None),
        ];
        for (files, wanted) in tables {
            let root = tempfile::tempdir().unwrap();
            for (path, text) in files {
                let path = root.path().join(path);
                fs_err::create_dir_all(path.parent().unwrap()).unwrap();
                fs_err::write(path, text).unwrap();
            }
            assert_eq!(memory_kills(root.path()), wanted, "{files:?}");
        }
    }

    #[test]
    fn free_memory_is_what_host_and_groups_leave() {
        let host = ("proc/meminfo", "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n");
        let groups: [&[(&str, &str)]; 3] = [
            &[
                ("proc/self/cgroup", "0::/a/b\n"),
                ("sys/fs/cgroup/a/memory.max", "1000000\n"),
                ("sys/fs/cgroup/a/memory.current", "900000\n"),
                ("sys/fs/cgroup/a/memory.stat", "active_file 9\ninactive_file 400000\n"),
                ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ],
            &[
                ("proc/self/cgroup", "4:memory:/x\n"),
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", "600000\n"),
                ("sys/fs/cgroup/memory/memory.usage_in_bytes", "700000\n"),
            ],
            &[],
        ];
        for (files, wanted) in groups.into_iter().zip([500_000, 0, 8000 * 1024]) {
            let root = tempfile::tempdir().unwrap();
            for (path, text) in files.iter().chain([&host]) {
                let path = root.path().join(path);
                fs_err::create_dir_all(path.parent().unwrap()).unwrap();
                fs_err::write(path, text).unwrap();
            }
            assert_eq!(free_memory(root.path()), Some(wanted), "{files:?}");
        }
        assert_eq!(free_memory(Path::new("/nonexistent")), None);
        let root = tempfile::tempdir().unwrap();
        fs_err::create_dir_all(root.path().join("proc")).unwrap();
        fs_err::write(root.path().join(host.0), host.1).unwrap();
        assert_eq!(host_memory(root.path()), Some(9000 * 1024));
        assert_eq!(host_memory(Path::new("/nonexistent")), None);
    }
}
