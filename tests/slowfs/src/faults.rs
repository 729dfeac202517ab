//! Delays and faults of operations, and their counters.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::sleep;
use std::time::Duration;

use nix::errno::Errno;

/// A request of the kernel that a network server would get, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Lookup,
    Getattr,
    Setattr,
    Readlink,
    Readdir,
    Open,
    Create,
    Mkdir,
    Mknod,
    Symlink,
    Link,
    Rename,
    Unlink,
    Rmdir,
    Read,
    Write,
    Flush,
    Fsync,
    Statfs,
}

use Operation::*;

const OPERATIONS: [Operation; 19] = [
    Lookup, Getattr, Setattr, Readlink, Readdir, Open, Create, Mkdir, Mknod, Symlink, Link, Rename, Unlink,
    Rmdir, Read, Write, Flush, Fsync, Statfs,
];

impl fmt::Display for Operation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", format!("{self:?}").to_lowercase())
    }
}

impl FromStr for Operation {
    type Err = String;

    fn from_str(word: &str) -> Result<Operation, String> {
        let known = || OPERATIONS.map(|operation| operation.to_string()).join(" ");
        let named = OPERATIONS.into_iter().find(|operation| operation.to_string() == word);
        named.ok_or_else(|| format!("`{word}` is not an operation; there are {}", known()))
    }
}

/// Delays of operations.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delays {
    pub metadata: Duration,
    /// For a new file, directory or symbolic link.
    pub create: Duration,
    pub read: Duration,
}

impl Delays {
    /// A write costs nothing: an NFS client collects written data, and waits for the server when the file is
    /// synced or closed.
    fn of(&self, operation: Operation) -> Duration {
        match operation {
            Create | Mkdir | Mknod | Symlink => self.create,
            Read => self.read,
            Write => Duration::ZERO,
            _ => self.metadata,
        }
    }
}

/// A fault option: `OP:ERRNO[:every=N|:after=N|:first=N]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    operation: Operation,
    errno: Errno,
    when: When,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Every(u64),
    After(u64),
    First(u64),
}

impl When {
    /// Whether the fault applies to the operation's `number`th request, counted from 1.
    fn applies(self, number: u64) -> bool {
        match self {
            When::Every(n) => number.is_multiple_of(n),
            When::After(n) => number > n,
            When::First(n) => number <= n,
        }
    }
}

impl FromStr for Fault {
    type Err = String;

    fn from_str(text: &str) -> Result<Fault, String> {
        let mut words = text.splitn(3, ':');
        let operation = words.next().unwrap_or_default().parse()?;
        let errno = errno(words.next().ok_or("an error is missing, as in `rename:EIO`")?)?;
        let when = words.next().map_or(Ok(When::Every(1)), when)?;
        Ok(Fault { operation, errno, when })
    }
}

fn when(text: &str) -> Result<When, String> {
    let wrong = || format!("`{text}` is none of every=N, after=N, first=N");
    let (word, number) = text.split_once('=').ok_or_else(wrong)?;
    let number: u64 = number.parse().map_err(|_| wrong())?;
    match word {
        "every" if number > 0 => Ok(When::Every(number)),
        "after" => Ok(When::After(number)),
        "first" => Ok(When::First(number)),
        _ => Err(wrong()),
    }
}

fn errno(name: &str) -> Result<Errno, String> {
    let mut known = (1..=133).map(Errno::from_raw).filter(|errno| *errno != Errno::UnknownErrno);
    known
        .find(|errno| format!("{errno:?}") == name)
        .ok_or_else(|| format!("`{name}` is not an error of Linux"))
}

/// A late option, `OP:MS[:ERRNO]`: the operation is done, and its reply comes late, with an error if one is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Late {
    operation: Operation,
    delay: Duration,
    answer: Option<Errno>,
}

impl FromStr for Late {
    type Err = String;

    fn from_str(text: &str) -> Result<Late, String> {
        let mut words = text.splitn(3, ':');
        let operation = words.next().unwrap_or_default().parse()?;
        let delay = words.next().and_then(|word| word.parse().ok());
        let delay = Duration::from_millis(delay.ok_or("milliseconds are missing, as in `rename:50`")?);
        Ok(Late { operation, delay, answer: words.next().map(errno).transpose()? })
    }
}

/// All configured delays and faults.
#[derive(Debug, Default)]
pub struct FaultPlan {
    pub delays: Delays,
    pub faults: Vec<Fault>,
    pub hangs: Vec<Operation>,
    pub late: Vec<Late>,
}

/// Injects the faults and counts requests, successful or not.
#[derive(Debug)]
pub struct FaultInjector {
    plan: FaultPlan,
    disabled: AtomicBool,
    requests: [AtomicU64; OPERATIONS.len()],
    faulty: [AtomicU64; OPERATIONS.len()],
    in_flight: AtomicU64,
    max_in_flight: AtomicU64,
}

impl FaultInjector {
    /// If `disabled`, operations are slow but have no faults.
    pub fn new(plan: FaultPlan, disabled: bool) -> FaultInjector {
        FaultInjector {
            plan,
            disabled: AtomicBool::new(disabled),
            requests: Default::default(),
            faulty: Default::default(),
            in_flight: AtomicU64::new(0),
            max_in_flight: AtomicU64::new(0),
        }
    }

    /// Enables the faults.
    pub fn enable(&self) {
        self.disabled.store(false, Relaxed);
    }

    /// Does the work with its delay and fault. `None`, if there is never a reply.
    pub fn run<T>(
        &self,
        operation: Operation,
        work: impl FnOnce() -> io::Result<T>,
    ) -> Option<io::Result<T>> {
        self.requests[operation as usize].fetch_add(1, Relaxed);
        let now = self.in_flight.fetch_add(1, Relaxed) + 1;
        self.max_in_flight.fetch_max(now, Relaxed);
        let answer = self.answer(operation, work);
        self.in_flight.fetch_sub(1, Relaxed);
        answer
    }

    fn answer<T>(&self, operation: Operation, work: impl FnOnce() -> io::Result<T>) -> Option<io::Result<T>> {
        let disabled = self.disabled.load(Relaxed);
        if !disabled && self.plan.hangs.contains(&operation) {
            return None;
        }
        wait(self.plan.delays.of(operation));
        if disabled {
            return Some(work());
        }
        if let Some(errno) = self.fault(operation) {
            return Some(Err(errno.into()));
        }
        let result = work();
        let Some(late) = self.plan.late.iter().find(|late| late.operation == operation) else {
            return Some(result);
        };
        wait(late.delay);
        Some(match (result, late.answer) {
            (Ok(_), Some(errno)) => Err(errno.into()),
            (result, _) => result,
        })
    }

    fn fault(&self, operation: Operation) -> Option<Errno> {
        let mut faults = self.plan.faults.iter().filter(|fault| fault.operation == operation).peekable();
        faults.peek()?;
        let number = self.faulty[operation as usize].fetch_add(1, Relaxed) + 1;
        faults.find(|fault| fault.when.applies(number)).map(|fault| fault.errno)
    }
}

/// The counters as one line of JSON: operations by kind, without zeros, and the maximum number in flight.
impl fmt::Display for FaultInjector {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{{\"max_in_flight\": {}, \"operations\": {{", self.max_in_flight.load(Relaxed))?;
        let counts = OPERATIONS.map(|operation| (operation, self.requests[operation as usize].load(Relaxed)));
        for (at, (operation, count)) in counts.into_iter().filter(|(_, count)| *count > 0).enumerate() {
            let comma = if at > 0 { ", " } else { "" };
            write!(out, "{comma}\"{operation}\": {count}")?;
        }
        write!(out, "}}}}")
    }
}

fn wait(delay: Duration) {
    if !delay.is_zero() {
        sleep(delay);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn broken(fault: &str, requests: usize) -> String {
        let injector = FaultInjector::new(
            FaultPlan { faults: vec![fault.parse().unwrap()], ..FaultPlan::default() },
            false,
        );
        let ask = |_| injector.run(Rename, || Ok(())).unwrap();
        (0..requests).map(ask).map(|answer| if answer.is_ok() { '.' } else { 'x' }).collect()
    }

    #[test]
    fn injects_faults_when_configured() {
        for (fault, expected) in [
            ("rename:EIO", "xxxxxx"),
            ("rename:EIO:every=3", "..x..x"),
            ("rename:ENOSPC:after=4", "....xx"),
            ("rename:ESTALE:first=2", "xx...."),
            ("link:EIO", "......"),
        ] {
            assert_eq!(broken(fault, 6), expected, "{fault}");
        }
    }

    #[test]
    fn rejects_invalid_options() {
        for (text, expected) in [
            ("renam:EIO", "`renam` is not an operation"),
            ("rename", "an error is missing"),
            ("rename:EOI", "`EOI` is not an error of Linux"),
            ("rename:EIO:3", "`3` is none of"),
            ("rename:EIO:every=0", "`every=0` is none of"),
        ] {
            let mistake = text.parse::<Fault>().unwrap_err();
            assert!(mistake.contains(expected), "{text}: {mistake}");
        }
        for text in ["rename", "rename:EIO", "rename:5:EOI"] {
            assert!(text.parse::<Late>().is_err(), "{text}");
        }
    }

    #[test]
    fn late_answer_comes_after_the_operation() {
        let injector = FaultInjector::new(
            FaultPlan { late: vec!["rename:0:ENOENT".parse().unwrap()], ..FaultPlan::default() },
            false,
        );
        let mut done = false;
        let answer = injector.run(Rename, || {
            done = true;
            Ok(())
        });
        assert_eq!(answer.unwrap().unwrap_err().raw_os_error(), Some(Errno::ENOENT as i32));
        assert!(done);
    }

    #[test]
    fn disabled_faults_start_when_enabled() {
        let injector = FaultInjector::new(FaultPlan { hangs: vec![Statfs], ..FaultPlan::default() }, true);
        assert!(injector.run(Statfs, || Ok(())).is_some());
        injector.enable();
        assert!(injector.run(Statfs, || Ok(())).is_none());
        assert_eq!(injector.to_string(), r#"{"max_in_flight": 1, "operations": {"statfs": 2}}"#);
    }
}
