//! What the control groups of this process use (version 1 and 2), or the host if there are no groups.

use std::path::{Path, PathBuf};

use super::{host_memory, value, version_1, version_2};

/// Clock ticks a second in `/proc/stat`.
const TICKS: f64 = 100.0;

/// Memory in use, and the most that there can be, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryUse {
    /// Without the page cache, which the kernel gives back when memory is short.
    pub used: u64,
    pub limit: u64,
}

/// CPU time since some moment in the past.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CpuTime {
    pub seconds: f64,
    /// How many processors' time it may take.
    pub processors: f64,
}

/// The memory of the group with the lowest limit on the way up, or of the host if none has a lower limit. `root` is `/`,
/// or a copy of the files for tests.
pub fn memory_use(root: &Path) -> Option<MemoryUse> {
    let groups = groups(root, &["memory"]);
    let limited = groups.iter().filter_map(Group::memory).min_by_key(|memory| memory.limit);
    match (host_use(root), limited) {
        (Some(host), Some(group)) if group.limit >= host.limit => Some(host),
        (host, group) => group.or(host),
    }
}

/// The CPU time of the group with the lowest quota on the way up. Without a quota, that of the topmost group that can be
/// seen, or of the host. `root` as in [`memory_use`].
pub fn cpu_time(root: &Path) -> Option<CpuTime> {
    let groups = groups(root, &["cpu", "cpu,cpuacct"]);
    let with_quota = groups.iter().filter_map(|group| {
        let processors = group.limits().cores?;
        Some(CpuTime { seconds: group.cpu_seconds()?, processors })
    });
    let lowest = with_quota.min_by(|one, other| one.processors.total_cmp(&other.processors));
    let (host, processors) = host_cpu(root);
    let top = || groups.iter().filter_map(Group::cpu_seconds).next_back();
    lowest.or_else(|| top().or(host).map(|seconds| CpuTime { seconds, processors }))
}

/// A group of this process.
struct Group {
    is_version_2: bool,
    directory: PathBuf,
}

impl Group {
    fn limits(&self) -> super::Limits {
        if self.is_version_2 { version_2(&self.directory) } else { version_1(&self.directory) }
    }

    fn memory(&self) -> Option<MemoryUse> {
        let limit = self.limits().bytes?;
        let (usage, cached): (_, &[&str]) = match self.is_version_2 {
            true => ("memory.current", &["inactive_file", "active_file", "slab_reclaimable"]),
            false => ("memory.usage_in_bytes", &["total_inactive_file", "total_active_file"]),
        };
        let used: u64 = value(&self.directory, usage)?.parse().ok()?;
        let statistics = value(&self.directory, "memory.stat").unwrap_or_default();
        let given_back = statistics.lines().filter_map(|line| {
            let (name, bytes) = line.split_once(' ')?;
            cached.contains(&name).then(|| bytes.trim().parse::<u64>().ok())?
        });
        Some(MemoryUse { used: used.saturating_sub(given_back.sum()), limit })
    }

    fn cpu_seconds(&self) -> Option<f64> {
        if !self.is_version_2 {
            return Some(value(&self.directory, "cpuacct.usage")?.parse::<f64>().ok()? / 1e9);
        }
        let statistics = value(&self.directory, "cpu.stat")?;
        let usage = statistics.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
        Some(usage.trim().parse::<f64>().ok()? / 1e6)
    }
}

/// The groups of this process from its own up to the top. `mounts`: where version 1 may show the controller. In a container
/// the path may be the host's, while its own group is mounted at the top.
fn groups(root: &Path, mounts: &[&str]) -> Vec<Group> {
    let own = fs_err::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let mounted = root.join("sys/fs/cgroup");
    let mut groups = Vec::new();
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let is_version_2 = controllers.is_empty();
        let has_controller =
            controllers.split(',').any(|one| mounts.iter().any(|mount| mount.split(',').any(|it| it == one)));
        let tops = match is_version_2 {
            true => vec![mounted.clone()],
            false if has_controller => mounts.iter().map(|mount| mounted.join(mount)).collect(),
            false => Vec::new(),
        };
        for top in tops {
            let relative = Path::new(path.trim_start_matches('/'));
            groups
                .extend(relative.ancestors().map(|group| Group { is_version_2, directory: top.join(group) }));
        }
    }
    groups
}

/// Memory of the host that cannot be had without more.
fn host_use(root: &Path) -> Option<MemoryUse> {
    let limit = host_memory(root)?;
    let meminfo = fs_err::read_to_string(root.join("proc/meminfo")).ok()?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let available = line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.saturating_mul(1024);
    Some(MemoryUse { used: limit.saturating_sub(available), limit })
}

/// CPU seconds of the host, and its processors.
fn host_cpu(root: &Path) -> (Option<f64>, f64) {
    let stat = fs_err::read_to_string(root.join("proc/stat")).unwrap_or_default();
    let is_processor = |line: &&str| line.starts_with("cpu") && !line.starts_with("cpu ");
    let processors = stat.lines().filter(is_processor).count().max(1);
    // user nice system idle iowait irq softirq steal …; guests are in `user` already.
    let ticks = stat.lines().find_map(|line| line.strip_prefix("cpu ")).map(|line| {
        let fields: Vec<u64> = line.split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
        [0, 1, 2, 5, 6].into_iter().filter_map(|field| fields.get(field)).sum::<u64>()
    });
    (ticks.map(|ticks| ticks as f64 / TICKS), processors as f64)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    type Files<'a> = &'a [(&'a str, &'a str)];

    fn machine(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, text).unwrap();
        }
        root
    }

    const HOST: [(&str, &str); 2] = [
        ("proc/meminfo", "MemTotal: 8000 kB\nMemFree: 1 kB\nMemAvailable:    3000 kB\n"),
        ("proc/stat", "cpu  100 50 25 9999 9999 10 15 7 100 0\ncpu0 1 1\ncpu1 1 1\ncpu2 1 1\nctxt 5\n"),
    ];

    #[test]
    fn memory_is_that_of_the_group_with_the_lowest_limit_without_its_page_cache() {
        let version_2: Files = &[
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/a/memory.max", "1000000\n"),
            ("sys/fs/cgroup/a/memory.current", "900000\n"),
            (
                "sys/fs/cgroup/a/memory.stat",
                "anon 1\nactive_file 100000\ninactive_file 200000\nshmem 7\nslab_reclaimable 50000\n",
            ),
            ("sys/fs/cgroup/a/b/memory.max", "max\n"),
            ("sys/fs/cgroup/a/b/memory.current", "5\n"),
        ];
        let version_1: Files = &[
            ("proc/self/cgroup", "5:cpu:/x\n4:memory:/docker/abc\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "600000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "500000\n"),
            (
                "sys/fs/cgroup/memory/memory.stat",
                "inactive_file 9\ntotal_inactive_file 100000\ntotal_active_file 50000\n",
            ),
        ];
        let more_than_the_host: Files = &[
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/memory.max", "99999999999\n"),
            ("sys/fs/cgroup/memory.current", "5\n"),
        ];
        let more_cache_than_use: Files = &[
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/memory.max", "1000\n"),
            ("sys/fs/cgroup/memory.current", "5\n"),
            ("sys/fs/cgroup/memory.stat", "inactive_file 100\n"),
        ];
        let host = (5000 * 1024, 8000 * 1024);
        for (files, wanted) in [
            (version_2, (550_000, 1_000_000)),
            (version_1, (350_000, 600_000)),
            (more_than_the_host, host),
            (more_cache_than_use, (0, 1000)),
            (&[][..], host),
        ] {
            let root = machine(&[files, &HOST].concat());
            let found = memory_use(root.path()).map(|memory| (memory.used, memory.limit));
            assert_eq!(found, Some(wanted), "{files:?}");
        }
        assert_eq!(memory_use(Path::new("/nonexistent")), None);
    }

    #[test]
    fn cpu_time_is_that_of_the_group_with_a_quota() {
        let version_2: Files = &[
            ("proc/self/cgroup", "0::/a/b\n"),
            ("sys/fs/cgroup/cpu.stat", "usage_usec 9000000\n"),
            ("sys/fs/cgroup/a/cpu.max", "150000 100000\n"),
            ("sys/fs/cgroup/a/cpu.stat", "usage_usec 2500000\nuser_usec 1\n"),
            ("sys/fs/cgroup/a/b/cpu.max", "max 100000\n"),
            ("sys/fs/cgroup/a/b/cpu.stat", "usage_usec 1\n"),
        ];
        let version_1: Files = &[
            ("proc/self/cgroup", "3:cpu,cpuacct:/docker/abc\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "400000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpuacct.usage", "7500000000\n"),
        ];
        let without_quota: Files = &[
            ("proc/self/cgroup", "0::/a\n"),
            ("sys/fs/cgroup/cpu.stat", "usage_usec 9000000\n"),
            ("sys/fs/cgroup/a/cpu.stat", "usage_usec 1\n"),
        ];
        for (files, seconds, processors) in [
            (version_2, 2.5, 1.5),
            (version_1, 7.5, 4.0),
            (without_quota, 9.0, 3.0),
            // 200 ticks: no idle, no waiting for disks, nothing that the host took.
            (&[][..], 2.0, 3.0),
        ] {
            let root = machine(&[files, &HOST].concat());
            assert_eq!(cpu_time(root.path()), Some(CpuTime { seconds, processors }), "{files:?}");
        }
        assert_eq!(cpu_time(Path::new("/nonexistent")), None);
    }
}
