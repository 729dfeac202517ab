//! What a line of a device's console means: a crash of the kernel, a warning of the kernel, or nothing of both.

use agent_types::secrets;

/// Characters of a line that are kept.
const LONGEST: usize = 500;

/// How the kernel's messages about its own death start.
const CRASHES: [&str; 9] = [
    "Kernel panic - not syncing",
    "kernel BUG at ",
    "BUG: ",
    "watchdog: BUG: ",
    "Oops: ",
    "Oops - ",
    "Internal error: ",
    "Unable to handle kernel ",
    "general protection fault",
];

/// How the kernel's warnings start.
const WARNINGS: [&str; 8] = [
    "WARNING: ",
    "UBSAN: ",
    "INFO: task ",
    "rcu: INFO: ",
    "INFO: rcu",
    "Out of memory: ",
    "Memory cgroup out of memory: ",
    "EXT4-fs error ",
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The kernel, or a part of it, is dead.
    Crash,
    Warning,
}

/// The line as reports show it: without control sequences, not longer than a report can use.
pub fn clean(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    let text = secrets::strip(&text);
    let shown = text.chars().filter(|char| !char.is_control() || *char == '\t').take(LONGEST);
    shown.collect::<String>().trim_end().to_owned()
}

/// What a clean line means. Programs of the device print to the console as well, so the kernel's words must stand at
/// the start, behind its time.
pub fn meaning(line: &str) -> Option<Meaning> {
    let message = message(line);
    let starts = |words: &[&str]| words.iter().any(|word| message.starts_with(word));
    if starts(&CRASHES) {
        return Some(Meaning::Crash);
    }
    starts(&WARNINGS).then_some(Meaning::Warning)
}

/// The message of a kernel's line, without `<4>`, `[   12.345678]` and `[    T1]` before it.
pub fn message(line: &str) -> &str {
    let mut rest = line.trim_start();
    if let Some((level, after)) = rest.strip_prefix('<').and_then(|rest| rest.split_once('>'))
        && level.parse::<u8>().is_ok()
    {
        rest = after;
    }
    while let Some((inside, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']'))
        && is_time_or_task(inside.trim())
    {
        rest = after.trim_start();
    }
    rest
}

/// `12.345678`, `T1` (a task) or `C0` (a processor).
fn is_time_or_task(text: &str) -> bool {
    let number = text.strip_prefix(['T', 'C']).unwrap_or(text);
    !number.is_empty() && number.chars().all(|char| char.is_ascii_digit() || char == '.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crashes_and_warnings_stand_at_the_start() {
        use Meaning::{Crash, Warning};
        for (line, wanted) in [
            ("[    2.123456] Kernel panic - not syncing: VFS: Unable to mount root fs", Some(Crash)),
            ("[    2.123456][    T1] Kernel panic - not syncing: Attempted to kill init!", Some(Crash)),
            ("Kernel panic - not syncing: x", Some(Crash)),
            ("<0>[    1.0] kernel BUG at mm/slub.c:1", Some(Crash)),
            ("[   17.000001] BUG: unable to handle page fault for address: 0", Some(Crash)),
            ("[   17.000001] watchdog: BUG: soft lockup - CPU#0 stuck for 22s!", Some(Crash)),
            ("[   17.000001] Internal error: Oops: 96000004 [#1] SMP", Some(Crash)),
            ("[   17.000001] Oops: 0002 [#1] SMP", Some(Crash)),
            ("[   17.000001] Unable to handle kernel NULL pointer dereference", Some(Crash)),
            ("[    3.000000] WARNING: CPU: 0 PID: 1 at kernel/x.c:1 y+0x1/0x2", Some(Warning)),
            ("[  242.000000] INFO: task dd:123 blocked for more than 120 seconds.", Some(Warning)),
            ("[   42.000000] rcu: INFO: rcu_sched self-detected stall on CPU", Some(Warning)),
            ("[   42.000000] Out of memory: Killed process 1 (x)", Some(Warning)),
            ("[    1.000000] ACPI BIOS Error (bug): x", None),
            ("echo Kernel panic - not syncing", None),
            ("a test prints [1.0] BUG: x", None),
            ("[not a time] BUG: x", None),
            ("warning: x", None),
            ("", None),
        ] {
            assert_eq!(meaning(line), wanted, "{line}");
        }
    }

    #[test]
    fn lines_are_cleaned() {
        for (line, wanted) in [
            (&b"[    0.0] Linux\r"[..], "[    0.0] Linux"),
            (b"\x1b[32m  OK  \x1b[0m Started x", "  OK   Started x"),
            (b"a\x07b\x00c\xff", "abc\u{fffd}"),
            (b"", ""),
        ] {
            assert_eq!(clean(line), wanted, "{line:?}");
        }
        assert_eq!(clean(&[b'x'; 100_000]).len(), LONGEST);
    }
}
