//! Finds kernel panics and out-of-memory kills in the log of a serial console or in `dmesg`.

/// Parts of the first line of a kernel panic.
const PANICS: [&str; 6] = [
    "Kernel panic - not syncing",
    "Unable to handle kernel",
    "BUG: kernel NULL pointer dereference",
    "BUG: unable to handle",
    "Oops: ",
    "watchdog: BUG: soft lockup",
];

/// The kernel's messages when it kills a process for lack of memory.
const OUT_OF_MEMORY: [&str; 2] = ["Out of memory: Kill", "Memory cgroup out of memory: Kill"];

/// The faults, as the kernel reports them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConsoleFaults {
    /// The first line of a panic.
    pub panic: Option<String>,
    /// The lines about processes that were killed for lack of memory, at most [`MOST`].
    pub out_of_memory: Vec<String>,
}

const MOST: usize = 10;
const LONGEST: usize = 300;

/// Reads the text of a console. It comes from the guest, so it is only shown to people.
pub fn faults(text: &str) -> ConsoleFaults {
    let mut found = ConsoleFaults::default();
    for line in text.lines() {
        let has = |signs: &[&str]| signs.iter().any(|sign| line.contains(sign));
        if found.panic.is_none() && has(&PANICS) {
            found.panic = Some(message(line));
        }
        if found.out_of_memory.len() < MOST && has(&OUT_OF_MEMORY) {
            found.out_of_memory.push(message(line));
        }
    }
    found
}

/// The line without the kernel's time stamp, which differs in each run.
fn message(line: &str) -> String {
    let line = line.trim();
    let after = line.strip_prefix('[').and_then(|rest| rest.split_once("] ")).filter(|(time, _)| {
        time.trim().chars().all(|char| char.is_ascii_digit() || char == '.') && !time.trim().is_empty()
    });
    let line = after.map_or(line, |(_, message)| message);
    line[..line.floor_char_boundary(LONGEST)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_and_kills_are_recognized() {
        let text = "[    0.000000] Linux version 6.1.0\nlogin: root\n\
            [   12.345678] Out of memory: Killed process 212 (hog) total-vm:1048576kB\n\
            oom-kill:constraint=CONSTRAINT_NONE,task=hog\n\
            [   20.1] Kernel panic - not syncing: sysrq triggered crash\r\n\
            [   20.2] Kernel panic - not syncing: again\n";
        let found = faults(text);
        assert_eq!(found.panic.as_deref(), Some("Kernel panic - not syncing: sysrq triggered crash"));
        assert_eq!(found.out_of_memory, ["Out of memory: Killed process 212 (hog) total-vm:1048576kB"]);
    }

    #[test]
    fn a_console_without_errors_has_no_faults() {
        for text in ["", "login: ", "[x] starting\n", "memory: 8M\npanic=1 on the command line\n"] {
            assert_eq!(faults(text), ConsoleFaults::default(), "{text}");
        }
        let flood = "Out of memory: Killed process 1\n".repeat(1000) + &"x".repeat(1_000_000);
        assert_eq!(faults(&flood).out_of_memory.len(), MOST);
        let long = format!("[ 1.0] Oops: {}", "ü".repeat(1000));
        assert!(faults(&long).panic.is_some_and(|panic| panic.len() <= LONGEST && panic.starts_with("Oops")));
    }
}
