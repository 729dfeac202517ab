//! What a job used of its machine.

use serde::{Deserialize, Serialize};

use crate::sanitize::clean;
use crate::words::bytes;

/// The machine at one moment of the job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct MachineSample {
    /// In use by the control group (or the machine, if it has no limit), without the page cache. Bytes.
    pub memory_used: u64,
    /// What it may use. Bytes.
    pub memory_limit: u64,
    /// CPU time since the last sample, in percent of all processors that the job may use.
    pub cpu_percent: f64,
    /// Load average of one minute.
    pub load: f64,
    /// Free bytes of the work directory's file system, at least 1; 0 if they are not known.
    pub disk_free: u64,
    /// Bytes that the network interfaces of the machine have received and sent since the first sample.
    #[serde(default)]
    pub network_bytes: u64,
    /// The programs that use most memory, the largest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub largest: Vec<ProgramUse>,
}

/// Less free memory than this part of the limit is a danger.
const SHORT_OF_MEMORY: f64 = 0.05;

/// Less free disk space than this is a danger. Bytes.
const SHORT_OF_DISK: u64 = 1 << 30;

impl MachineSample {
    /// Whether the memory is nearly used up.
    pub fn is_short_of_memory(&self) -> bool {
        let free = self.memory_limit.saturating_sub(self.memory_used);
        self.memory_limit > 0 && (free as f64) < SHORT_OF_MEMORY * self.memory_limit as f64
    }

    /// Whether the disk is nearly full.
    pub fn is_short_of_disk(&self) -> bool {
        (1..SHORT_OF_DISK).contains(&self.disk_free)
    }

    /// `71.8 of 72.0 GiB of memory used, most of it by 9 × cc1plus (54.2 GiB)`, with the free disk space if it is little.
    pub fn describe(&self) -> String {
        let gib = |bytes: u64| bytes as f64 / (1u64 << 30) as f64;
        let (used, limit) = (self.memory_used, self.memory_limit);
        let mut text = match limit < 1 << 30 {
            true => format!("{} of {} of memory used", bytes(used), bytes(limit)),
            false => format!("{:.1} of {:.1} GiB of memory used", gib(used), gib(limit)),
        };
        if let Some(program) = self.largest.first() {
            let number = match program.processes {
                1 => String::new(),
                number => format!("{number} × "),
            };
            text += &format!(", most of it by {number}{} ({})", clean(&program.name), bytes(program.memory));
        }
        if self.is_short_of_disk() {
            text += &format!(", {} of disk space free", bytes(self.disk_free));
        }
        text
    }
}

/// All processes with one name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProgramUse {
    pub name: String,
    pub processes: u64,
    /// Resident bytes of all of them.
    pub memory: u64,
}

/// What a BitBake task used, from OE's buildstats.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskUsage {
    /// With its version, as in the events of the task; `mc:NAME:` before that of a multiconfig.
    pub recipe: String,
    pub task: String,
    /// User and system time of the task and its children.
    pub cpu_seconds: f64,
    /// Peak resident bytes of its largest process.
    pub peak_memory: u64,
    pub bytes_read: u64,
    pub bytes_written: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_sample_in_words() {
        let program = |name: &str, processes, memory| ProgramUse { name: name.into(), processes, memory };
        let sample = |used, limit, disk_free, largest| MachineSample {
            memory_used: used,
            memory_limit: limit,
            disk_free,
            largest,
            ..MachineSample::default()
        };
        let mib = |number: u64| number << 20;
        let compilers = vec![program("cc1plus", 9, 54 * GIB), program("ld", 1, GIB)];
        for (sample, wanted, is_short) in [
            (
                sample(mib(73_523), 72 * GIB, 9 * GIB, compilers),
                "71.8 of 72.0 GiB of memory used, most of it by 9 × cc1plus (54.0 GiB)",
                true,
            ),
            (
                sample(2 * GIB, 8 * GIB, mib(10), vec![program("python3\u{7}", 1, GIB)]),
                "2.0 of 8.0 GiB of memory used, most of it by python3\u{fffd} (1.0 GiB), 10.0 MiB of disk space free",
                false,
            ),
            (sample(mib(500), mib(512), GIB, Vec::new()), "500.0 MiB of 512.0 MiB of memory used", true),
            (sample(0, 0, 0, Vec::new()), "0 bytes of 0 bytes of memory used", false),
        ] {
            assert_eq!((sample.describe().as_str(), sample.is_short_of_memory()), (wanted, is_short));
        }
    }
}
