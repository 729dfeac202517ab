//! What each operation has to go through: its delay, its fault, and the books kept about it.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::sleep;
use std::time::Duration;

use nix::errno::Errno;

/// A request of the kernel that a server on the network would be asked, too.
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
        named.ok_or_else(|| format!("`{word}` is no operation; there are {}", known()))
    }
}

/// How long an answer takes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delays {
    pub metadata: Duration,
    /// Of what makes a new file, directory or symbolic link.
    pub create: Duration,
    pub read: Duration,
}

impl Delays {
    /// Writing costs nothing by itself: an NFS client gathers what is written, and waits for the
    /// server when the file is synced or closed.
    fn of(&self, operation: Operation) -> Duration {
        match operation {
            Create | Mkdir | Mknod | Symlink => self.create,
            Read => self.read,
            Write => Duration::ZERO,
            _ => self.metadata,
        }
    }
}

/// `OP:ERRNO[:every=N|:after=N|:first=N]`
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
    /// Whether the operation's `number`th request, counted from 1, is one of them.
    fn holds(self, number: u64) -> bool {
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
    known.find(|errno| format!("{errno:?}") == name).ok_or_else(|| format!("`{name}` is no error of Linux"))
}

/// `OP:MS[:ERRNO]`: it is done, and the answer comes late; with an error, the answer is that.
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

/// All that may befall a request.
#[derive(Debug, Default)]
pub struct Forecast {
    pub delays: Delays,
    pub faults: Vec<Fault>,
    pub hangs: Vec<Operation>,
    pub late: Vec<Late>,
}

/// What befalls each, and the books about it. Counts are of what was asked, answered well or not.
#[derive(Debug)]
pub struct Weather {
    forecast: Forecast,
    calm: AtomicBool,
    asked: [AtomicU64; OPERATIONS.len()],
    broken: [AtomicU64; OPERATIONS.len()],
    in_flight: AtomicU64,
    most_in_flight: AtomicU64,
}

impl Weather {
    /// While it is calm, operations are slow, but nothing else.
    pub fn new(forecast: Forecast, calm: bool) -> Weather {
        Weather {
            forecast,
            calm: AtomicBool::new(calm),
            asked: Default::default(),
            broken: Default::default(),
            in_flight: AtomicU64::new(0),
            most_in_flight: AtomicU64::new(0),
        }
    }

    /// Ends the calm.
    pub fn break_out(&self) {
        self.calm.store(false, Relaxed);
    }

    /// Does the work as the weather lets it. `None` when it shall never be answered.
    pub fn pass<T>(
        &self,
        operation: Operation,
        work: impl FnOnce() -> io::Result<T>,
    ) -> Option<io::Result<T>> {
        self.asked[operation as usize].fetch_add(1, Relaxed);
        let now = self.in_flight.fetch_add(1, Relaxed) + 1;
        self.most_in_flight.fetch_max(now, Relaxed);
        let answer = self.answer(operation, work);
        self.in_flight.fetch_sub(1, Relaxed);
        answer
    }

    fn answer<T>(&self, operation: Operation, work: impl FnOnce() -> io::Result<T>) -> Option<io::Result<T>> {
        let calm = self.calm.load(Relaxed);
        if !calm && self.forecast.hangs.contains(&operation) {
            return None;
        }
        wait(self.forecast.delays.of(operation));
        if calm {
            return Some(work());
        }
        if let Some(errno) = self.fault(operation) {
            return Some(Err(errno.into()));
        }
        let result = work();
        let Some(late) = self.forecast.late.iter().find(|late| late.operation == operation) else {
            return Some(result);
        };
        wait(late.delay);
        Some(match (result, late.answer) {
            (Ok(_), Some(errno)) => Err(errno.into()),
            (result, _) => result,
        })
    }

    fn fault(&self, operation: Operation) -> Option<Errno> {
        let mut faults = self.forecast.faults.iter().filter(|fault| fault.operation == operation).peekable();
        faults.peek()?;
        let number = self.broken[operation as usize].fetch_add(1, Relaxed) + 1;
        faults.find(|fault| fault.when.holds(number)).map(|fault| fault.errno)
    }
}

/// The books as one line of JSON: operations by kind, those that never came left out, and how many
/// were on their way at once at most.
impl fmt::Display for Weather {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{{\"most_at_once\": {}, \"operations\": {{", self.most_in_flight.load(Relaxed))?;
        let counts = OPERATIONS.map(|operation| (operation, self.asked[operation as usize].load(Relaxed)));
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
        let weather =
            Weather::new(Forecast { faults: vec![fault.parse().unwrap()], ..Forecast::default() }, false);
        let ask = |_| weather.pass(Rename, || Ok(())).unwrap();
        (0..requests).map(ask).map(|answer| if answer.is_ok() { '.' } else { 'x' }).collect()
    }

    #[test]
    fn faults_come_when_they_are_told_to() {
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
    fn mistakes_in_options_are_told() {
        for (text, expected) in [
            ("renam:EIO", "`renam` is no operation"),
            ("rename", "an error is missing"),
            ("rename:EOI", "`EOI` is no error of Linux"),
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
    fn a_late_answer_comes_after_the_deed() {
        let weather = Weather::new(
            Forecast { late: vec!["rename:0:ENOENT".parse().unwrap()], ..Forecast::default() },
            false,
        );
        let mut done = false;
        let answer = weather.pass(Rename, || {
            done = true;
            Ok(())
        });
        assert_eq!(answer.unwrap().unwrap_err().raw_os_error(), Some(Errno::ENOENT as i32));
        assert!(done);
    }

    #[test]
    fn calm_holds_until_it_breaks() {
        let weather = Weather::new(Forecast { hangs: vec![Statfs], ..Forecast::default() }, true);
        assert!(weather.pass(Statfs, || Ok(())).is_some());
        weather.break_out();
        assert!(weather.pass(Statfs, || Ok(())).is_none());
        assert_eq!(weather.to_string(), r#"{"most_at_once": 1, "operations": {"statfs": 2}}"#);
    }
}
