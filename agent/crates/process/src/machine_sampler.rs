//! What the machine is doing at a moment: memory, CPU, load, disk, network, and the programs that use most memory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::sys::statvfs::statvfs;

use agent_types::machine_use::{MachineSample, ProgramUse};
use agent_types::sanitize::clean;

use super::cgroup::{self, CpuTime};

/// Programs of a sample.
const PROGRAMS: usize = 3;

/// Interfaces through which only this machine talks to itself.
const INTERNAL: [&str; 7] = ["lo", "docker", "veth", "br-", "virbr", "cni", "podman"];

/// Takes samples of one machine. Blocks for some milliseconds; more if the disk hangs.
#[derive(Debug)]
pub struct MachineSampler {
    /// `/`, or a copy of its files for tests.
    root: PathBuf,
    /// The file system whose free space counts.
    work: PathBuf,
    last: Option<(CpuTime, Instant)>,
    /// The count of bytes at the first sample.
    network: Option<u64>,
}

impl MachineSampler {
    pub fn new(root: impl Into<PathBuf>, work: impl Into<PathBuf>) -> MachineSampler {
        MachineSampler { root: root.into(), work: work.into(), last: None, network: None }
    }

    /// The machine now. What cannot be found out is zero.
    pub fn sample(&mut self) -> MachineSample {
        let memory = cgroup::memory_use(&self.root);
        let network = network_bytes(&self.root);
        let first = *self.network.get_or_insert(network);
        MachineSample {
            memory_used: memory.map_or(0, |memory| memory.used),
            memory_limit: memory.map_or(0, |memory| memory.limit),
            cpu_percent: self.cpu_percent(Instant::now()),
            load: load(&self.root).unwrap_or(0.0),
            disk_free: statvfs(&self.work)
                .map_or(0, |found| found.blocks_available().saturating_mul(found.fragment_size()).max(1)),
            // An interface may be gone.
            network_bytes: network.saturating_sub(first),
            largest: largest(&self.root),
        }
    }

    /// Of all processors since the last call; 0 at the first one.
    fn cpu_percent(&mut self, now: Instant) -> f64 {
        let Some(time) = cgroup::cpu_time(&self.root) else { return 0.0 };
        let last = self.last.replace((time, now));
        let Some((before, then)) = last else { return 0.0 };
        let possible = now.saturating_duration_since(then).as_secs_f64() * time.processors;
        let percent = 100.0 * (time.seconds - before.seconds) / possible;
        // Clocks differ by some ticks.
        if percent.is_finite() { (percent.clamp(0.0, 100.0) * 10.0).round() / 10.0 } else { 0.0 }
    }
}

/// Of one minute.
fn load(root: &Path) -> Option<f64> {
    let text = std::fs::read_to_string(root.join("proc/loadavg")).ok()?;
    text.split_whitespace().next()?.parse().ok().filter(|load: &f64| load.is_finite())
}

/// Received and sent since the machine started.
fn network_bytes(root: &Path) -> u64 {
    let text = std::fs::read_to_string(root.join("proc/net/dev")).unwrap_or_default();
    // `eth0: BYTES packets errs drop fifo frame compressed multicast BYTES …`
    let bytes = text.lines().filter_map(|line| {
        let (name, fields) = line.split_once(':')?;
        let name = name.trim();
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let number = |place: usize| fields.get(place)?.parse::<u64>().ok();
        let outside = !INTERNAL.iter().any(|internal| name.starts_with(internal));
        outside.then(|| Some(number(0)?.saturating_add(number(8)?)))?
    });
    bytes.fold(0, u64::saturating_add)
}

/// The programs with most memory, the largest first.
fn largest(root: &Path) -> Vec<ProgramUse> {
    let mut programs: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for entry in std::fs::read_dir(root.join("proc")).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if !name.to_str().is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit())) {
            continue;
        }
        // It may have ended.
        let Ok(status) = std::fs::read(entry.path().join("status")) else { continue };
        let status = String::from_utf8_lossy(&status);
        let field = |key: &str| status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        let resident = field("VmRSS:").and_then(|text| text.strip_suffix("kB")?.trim().parse::<u64>().ok());
        // Those of the kernel have none.
        let (Some(name), Some(kib)) = (field("Name:"), resident) else { continue };
        let (processes, memory) = programs.entry(clean(name).into_owned()).or_default();
        *processes += 1;
        *memory = memory.saturating_add(kib.saturating_mul(1024));
    }
    let programs = programs.into_iter();
    let mut programs: Vec<ProgramUse> =
        programs.map(|(name, (processes, memory))| ProgramUse { name, processes, memory }).collect();
    programs.sort_by(|one, other| other.memory.cmp(&one.memory).then_with(|| one.name.cmp(&other.name)));
    programs.truncate(PROGRAMS);
    programs
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, text).unwrap();
    }

    #[test]
    fn a_sample_of_a_machine() {
        let root = tempfile::tempdir().unwrap();
        let top = root.path();
        let process = |pid: u32, name: &str, kib: u64| {
            write(
                top,
                &format!("proc/{pid}/status"),
                &format!("Name:\t{name}\nVmPeak:\t 9 kB\nVmRSS:\t  {kib} kB\n"),
            );
        };
        process(1, "init", 10);
        process(20, "cc1plus", 300);
        process(21, "cc1plus", 400);
        process(30, "evil\u{1b}[2J", 500);
        process(40, "python3", 600);
        write(top, "proc/50/status", "Name:\tkworker\n");
        write(top, "proc/self/status", "Name:\tself\nVmRSS:\t 99999 kB\n");
        write(top, "proc/loadavg", "1.50 0.40 0.30 1/99 1234\n");
        write(top, "proc/meminfo", "MemTotal: 8000 kB\nMemAvailable: 3000 kB\n");
        write(top, "proc/stat", "cpu  100 0 0 50\ncpu0 1\ncpu1 1\n");
        let net = |received: u64| {
            format!(
                "Inter-| Receive\n face |bytes\n    lo: 999 1 0 0 0 0 0 0 999 1\n  eth0: {received} 1 0 0 0 0 0 0 50 1\n\
                 docker0: 777 1 0 0 0 0 0 0 777 1\n"
            )
        };
        write(top, "proc/net/dev", &net(1000));
        let mut sampler = MachineSampler::new(top, top);
        let first = sampler.sample();
        let program =
            |name: &str, processes, kib: u64| ProgramUse { name: name.into(), processes, memory: kib * 1024 };
        let wanted = MachineSample {
            memory_used: 5000 * 1024,
            memory_limit: 8000 * 1024,
            cpu_percent: 0.0,
            load: 1.5,
            disk_free: first.disk_free,
            network_bytes: 0,
            largest: vec![program("cc1plus", 2, 700), program("python3", 1, 600), program("evil", 1, 500)],
        };
        assert_eq!(first, wanted);
        assert!(first.disk_free > 0);
        write(top, "proc/net/dev", &net(4000));
        assert_eq!(sampler.sample().network_bytes, 3000);
    }

    #[test]
    fn cpu_is_in_percent_of_the_processors() {
        let root = tempfile::tempdir().unwrap();
        let mut sampler = MachineSampler::new(root.path(), root.path());
        let start = Instant::now();
        let mut at = |seconds: u64, ticks: u64| {
            write(root.path(), "proc/stat", &format!("cpu  {ticks} 0 0 50\ncpu0 1\ncpu1 1\n"));
            sampler.cpu_percent(start + Duration::from_secs(seconds))
        };
        // Two processors. In no time nothing can be measured.
        let found =
            [at(0, 0), at(10, 1000), at(20, 3000), at(30, 3000), at(40, 9000), at(40, 9100), at(50, 9000)];
        assert_eq!(found, [0.0, 50.0, 100.0, 0.0, 100.0, 0.0, 0.0]);
    }

    #[test]
    fn what_is_not_known_is_zero_and_this_machine_can_be_read() {
        let nothing = MachineSampler::new("/nonexistent", "/nonexistent").sample();
        assert_eq!(nothing, MachineSample::default());
        let here = MachineSampler::new("/", "/").sample();
        assert!(here.memory_used > 0 && here.memory_used <= here.memory_limit, "{here:?}");
        assert!(!here.largest.is_empty() && here.disk_free > 0, "{here:?}");
    }
}
