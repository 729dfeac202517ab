//! Why a task failed, by its log: a layer is at fault, unless the log names a dead server, no memory or a full disk.
//!
//! Layer code writes these logs. What it writes can make a failed task an error of the machine or of a server, but
//! never a pass.

use std::sync::LazyLock;

use regex::{Regex, RegexSet};

/// Why a task failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskFailure {
    /// The recipe, its sources or its code.
    Layer,
    /// A server did not answer, or with an error of its own. The line that says so.
    Upstream(String),
    /// A process was killed because memory ran out, or got no memory. The line that says so.
    Memory(String),
    /// The disk is full. The line that says so.
    Disk(String),
}

/// The exit code of a task whose own process was killed: 128 and SIGKILL, as BitBake's worker has it.
const KILLED: i64 = 128 + 9;

/// The tasks that run or export the tests of an image. Messages about memory and disks in their logs are
/// those of the system under test.
pub const TEST_TASKS: [&str; 2] = ["do_testimage", "do_testexport"];

/// A full disk ends a task at once, so the message is at the end of the log. Further up, texts of programs may have it.
const END_BYTES: usize = 64 << 10;

/// How a message shows that a process was killed by SIGKILL: only the kernel's out-of-memory killer does that to a
/// compiler. Sources: gcc's driver, make, ninja, rustc, cargo, bash, LLVM.
static KILLED_SIGNS: LazyLock<RegexSet> = LazyLock::new(|| {
    set(&[
        r"(?i)fatal error: Killed signal terminated program",
        r"internal compiler error: Killed",
        r"(?:terminated with signal 9 \[Killed\]|collect2: fatal error: .* terminated with signal 9)",
        r"\(signal: 9, SIGKILL",
        r"^(?:make|gmake)(?:\[\d+\])?: \*\*\* \[.*\] (?:Killed|Error 137)\s*$",
        r"^(?:/bin/)?(?:sh|bash): (?:line )?\d*:?\s*\d+ Killed\b",
        r"\b\d+ Killed {5,}",
        r"^Killed\s*$",
        r"failed with exit code '?(?:137|-9)'?\b",
        r"exit status (?:137|-9)\b|returned non-zero exit status (?:137|-9)\b|died with <Signals\.SIGKILL",
        r"FAILED: \[code=137\]",
    ])
});

/// Messages of programs that got no memory.
static NO_MEMORY_SIGNS: LazyLock<RegexSet> = LazyLock::new(|| {
    set(&[
        r"(?i)virtual memory exhausted",
        r"(?i)\bcannot allocate memory\b",
        r"(?i)\bmemory exhausted\b",
        r"LLVM ERROR: out of memory",
        r"(?i)fatal error: .*out of memory",
        r"cc1(?:plus)?: out of memory allocating",
        r"terminate called after throwing an instance of 'std::bad_alloc'",
        r"^MemoryError\b",
        r"memory allocation of \d+ bytes failed",
        r"java\.lang\.OutOfMemoryError",
        r"JavaScript heap out of memory",
    ])
});

static DISK_SIGNS: LazyLock<RegexSet> =
    LazyLock::new(|| set(&[r"No space left on device", r"Disk quota exceeded", r"\[Errno 28\]"]));

/// Messages of the programs of BitBake's fetchers if a server gave no answer, or an error that does not depend on the
/// request. Sources: wget, curl, git, ssh, Subversion, Mercurial, npm, OpenSSL.
static SERVER_SIGNS: LazyLock<RegexSet> = LazyLock::new(|| {
    set(&[
        r"(?i)unable to resolve host|could not resolve (?:host|proxy)|name or service not known",
        r"(?i)temporary failure in name resolution|no address associated with hostname|EAI_AGAIN|ENOTFOUND",
        r"(?i)(?:connection|operation|request|read|handshake) timed? ?out|ETIMEDOUT",
        r"(?i)connection (?:reset|refused|closed|aborted)|ECONNRE(?:SET|FUSED)",
        r"(?i)(?:failed|couldn't|unable) (?:to )?connect\b",
        r"(?i)no route to host|network is unreachable",
        r"(?i)early EOF|unexpected disconnect|the remote end hung up|RPC failed|bad pack header",
        r"(?i)returned error: (?:408|429|5\d\d)\b",
        r"(?i)ERROR (?:408|429|5\d\d)[:.]",
        r"(?i)HTTP (?:code |error )?(?:408|429|5\d\d)\b",
        r"(?i)empty reply from server|transfer closed|operation too slow|no data received",
        r"(?i)unable to establish SSL connection|gnutls_handshake|SSL_ERROR_SYSCALL|SSL_read|TLS connect error",
        r"(?i)cannot verify .*'s certificate|server certificate verification failed|SSL certificate problem",
        r"(?i)certificate has expired",
        r"kex_exchange_identification|E170013|E175002|E670002",
    ])
});

/// Messages of servers that do not have the source, or deny access: the recipe names the wrong source.
static REFUSAL_SIGNS: LazyLock<RegexSet> = LazyLock::new(|| {
    set(&[
        r"(?i)ERROR (?:400|401|403|404|405|406|410|451)[:.]",
        r"(?i)returned error: (?:400|401|403|404|410|451)\b",
        r"(?i)repository .*not found|does not appear to be a git repository|repository .* does not exist",
        r"(?i)could not read (?:Username|Password)|Authentication failed|Permission denied \(",
        r"(?i)couldn't find remote ref|Remote branch .* not found|not our ref|unadvertised object",
        r"(?i)unable to find revision|unable to resolve '.*' in upstream git repository",
        r"npm ERR! code E40[0-9]",
    ])
});

/// Errors of BitBake's fetcher if no server sent the source (`FetchError` of `lib/bb/fetch2`). All its other errors are
/// faults of the recipe: checksums, malformed addresses, missing parameters, no network allowed.
const NO_SERVER: [&str; 2] = ["Unable to fetch URL from any source", "Fetch command "];

static OTHER_FETCH_ERROR: LazyLock<RegexSet> = LazyLock::new(|| {
    set(&[
        r"(?:ChecksumError|NoChecksumError|MalformedUrl|NoMethodError|MissingParameterError|ParameterError)\(",
        r"(?:UntrustedUrl|NetworkAccess|UnpackError)\(",
        r"Checksum failure fetching |Missing SRC_URI checksum",
    ])
});

/// wget's own exit codes: 4 for the network, 5 for TLS. Its messages may be in any language.
static WGET_EXIT: LazyLock<Regex> = LazyLock::new(|| one(r"\bwget .* failed with exit code [45],"));

static LEVEL: LazyLock<Regex> = LazyLock::new(|| one(r"^(?:DEBUG|NOTE|WARNING|ERROR): "));

#[allow(
    clippy::expect_used,
    reason = "the patterns are constants of this file, and the tests use each of them"
)]
fn set(patterns: &[&str]) -> RegexSet {
    RegexSet::new(patterns).expect("valid patterns")
}

#[allow(clippy::expect_used, reason = "a constant of this file that the tests use")]
fn one(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a valid pattern")
}

/// Why the task failed. `exit` is its exit code, where BitBake named it. `has_killed` says whether the kernel killed a
/// process for its memory while the task ran; `None`: unknown.
pub fn task_failure(task: &str, exit: Option<i64>, log: &str, has_killed: Option<bool>) -> TaskFailure {
    if TEST_TASKS.contains(&task) {
        return match has_killed {
            Some(true) => TaskFailure::Memory("this machine killed a process while the tests ran".into()),
            _ => TaskFailure::Layer,
        };
    }
    let sign_in =
        |log: &str, signs: &RegexSet| log.lines().rev().find(|line| signs.is_match(line)).map(brief);
    let sign = |signs: &RegexSet| sign_in(log, signs);
    let end = &log[log.ceil_char_boundary(log.len().saturating_sub(END_BYTES))..];
    if let Some(line) = sign_in(end, &DISK_SIGNS) {
        return TaskFailure::Disk(line);
    }
    if let Some(line) = sign(&NO_MEMORY_SIGNS) {
        return TaskFailure::Memory(line);
    }
    // If the kernel killed nothing, the cause is another one.
    if has_killed != Some(false) {
        if let Some(line) = sign(&KILLED_SIGNS) {
            return TaskFailure::Memory(line);
        }
        if exit == Some(KILLED) || exit == Some(-9) {
            return TaskFailure::Memory("the process of the task was killed".into());
        }
    }
    if task == "do_fetch" { fetch_failure(log) } else { TaskFailure::Layer }
}

/// The same for a fetch, or for an error of the fetcher while recipes are parsed.
pub fn fetch_failure(log: &str) -> TaskFailure {
    let is_in_vain = NO_SERVER.iter().any(|words| log.contains(words));
    if !is_in_vain || log.lines().any(|line| OTHER_FETCH_ERROR.is_match(line)) {
        return TaskFailure::Layer;
    }
    let upstream = of_upstream(log);
    if upstream.iter().any(|line| REFUSAL_SIGNS.is_match(line)) {
        return TaskFailure::Layer;
    }
    let sign = upstream.iter().find(|line| SERVER_SIGNS.is_match(line));
    let sign = sign.or_else(|| upstream.iter().find(|line| WGET_EXIT.is_match(line)));
    sign.map_or(TaskFailure::Layer, |line| TaskFailure::Upstream(brief(line)))
}

/// The lines about the addresses that the recipe names. What mirrors answer does not matter: most do not have most
/// sources.
fn of_upstream(log: &str) -> Vec<&str> {
    let mut lines = Vec::new();
    let mut is_mirror = false;
    for line in log.lines() {
        let message = LEVEL.find(line).map_or(line, |level| &line[level.end()..]);
        if message.starts_with("Trying PREMIRRORS") || message.starts_with("Trying MIRRORS") {
            is_mirror = true;
        } else if message.starts_with("Trying Upstream") || line.starts_with("ERROR: ") {
            // The error at the end is that of upstream.
            is_mirror = false;
        }
        if !is_mirror {
            lines.push(line);
        }
    }
    lines
}

/// A line for people.
fn brief(line: &str) -> String {
    const MOST: usize = 200;
    let line = line.trim();
    match line.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEAD: &str = "DEBUG: Executing python function base_do_fetch\n\
        DEBUG: Trying PREMIRRORS\n\
        DEBUG: Fetcher failure: Fetch command export X; /usr/bin/env wget -t 2 -T 30 'http://127.0.0.1:28463/a.tgz' failed with exit code 8, output:\n\
        2026-01-01 00:00:00 ERROR 404: Not Found.\n\
        DEBUG: Trying Upstream\n\
        DEBUG: Fetching https://example.org/a.tgz using command '/usr/bin/env wget -t 2 -T 30'\n\
        WARNING: Failed to fetch URL https://example.org/a.tgz, attempting MIRRORS if available\n\
        DEBUG: Fetcher failure: Fetch command /usr/bin/env wget -t 2 -T 30 failed with exit code EXIT, output:\n\
        SAYS\n\
        DEBUG: Trying MIRRORS\n\
        DEBUG: Mirror fetch failure for url https://mirror.example.org/a.tgz (original url: https://example.org/a.tgz)\n\
        DEBUG: Fetcher failure: Fetch command /usr/bin/env wget failed with exit code 8, output:\n\
        2026-01-01 00:00:00 ERROR 404: Not Found.\n\
        ERROR: Fetcher failure: Fetch command /usr/bin/env wget -t 2 -T 30 failed with exit code EXIT, output:\n\
        SAYS\n\
        ERROR: Bitbake Fetcher Error: FetchError('Unable to fetch URL from any source.', 'https://example.org/a.tgz')\n";

    fn kind(failure: &TaskFailure) -> &'static str {
        match failure {
            TaskFailure::Layer => "layer",
            TaskFailure::Upstream(_) => "upstream",
            TaskFailure::Memory(_) => "memory",
            TaskFailure::Disk(_) => "disk",
        }
    }

    #[test]
    fn a_dead_server_is_no_fault_of_the_layer() {
        for (exit, says, wanted) in [
            ("4", "wget: unable to resolve host address 'example.org'", "upstream"),
            ("4", "Connecting to example.org... failed: Connection refused.", "upstream"),
            ("4", "Read error (Connection timed out) in headers.", "upstream"),
            ("4", "something in another language", "upstream"),
            ("5", "Unable to establish SSL connection.", "upstream"),
            ("8", "2026-01-01 00:00:00 ERROR 503: Service Unavailable.", "upstream"),
            ("8", "2026-01-01 00:00:00 ERROR 429: Too Many Requests.", "upstream"),
            ("8", "2026-01-01 00:00:00 ERROR 404: Not Found.", "layer"),
            ("8", "2026-01-01 00:00:00 ERROR 403: Forbidden.", "layer"),
            (
                "128",
                "fatal: unable to access 'https://example.org/a/': Could not resolve host: example.org",
                "upstream",
            ),
            ("128", "error: RPC failed; curl 92 HTTP/2 stream 5 was not closed cleanly", "upstream"),
            (
                "128",
                "fatal: unable to access 'https://example.org/a/': The requested URL returned error: 502",
                "upstream",
            ),
            ("128", "fatal: repository 'https://example.org/a/' not found", "layer"),
            (
                "128",
                "fatal: could not read Username for 'https://github.com': terminal prompts disabled",
                "layer",
            ),
            ("128", "fatal: couldn't find remote ref main", "layer"),
            ("1", "svn: E170013: Unable to connect to a repository at URL 'https://example.org'", "upstream"),
            ("1", "no idea", "layer"),
        ] {
            let log = DEAD.replace("EXIT", exit).replace("SAYS", says);
            if let TaskFailure::Upstream(line) = task_failure("do_fetch", Some(1), &log, None) {
                assert!(line == says || says.contains("another language"), "the program's own words: {line}");
            }
            assert_eq!(kind(&task_failure("do_fetch", Some(1), &log, Some(false))), wanted, "{exit} {says}");
            // In the log of another task, the same message is not about a server.
            assert_eq!(task_failure("do_compile", Some(1), &log, Some(false)), TaskFailure::Layer, "{says}");
        }
    }

    #[test]
    fn errors_of_the_fetcher_without_a_server_are_the_layers() {
        for log in [
            "",
            "ERROR: Checksum failure fetching https://example.org/a.tgz\nERROR: Bitbake Fetcher Error: ChecksumError('Checksum mismatch!', 'https://example.org/a.tgz')",
            "ERROR: Missing SRC_URI checksum, please add those to the recipe",
            "ERROR: Bitbake Fetcher Error: MalformedUrl('${SOURCEFORGE_URL}')",
            "ERROR: Bitbake Fetcher Error: NetworkAccess('https://example.org', 'git ls-remote')",
            "ERROR: Bitbake Fetcher Error: FetchError('Unable to find revision 1 in branch main even from upstream', 'git://x')\nConnection refused",
            "ERROR: Fetcher failure for URL: 'https://x'. URL https://x doesn't work",
        ] {
            assert_eq!(task_failure("do_fetch", Some(1), log, Some(false)), TaskFailure::Layer, "{log}");
        }
        // A server that did not answer, and then a file with another checksum from a mirror.
        let log = DEAD.replace("EXIT", "4").replace("SAYS", "Connection refused")
            + "ERROR: Bitbake Fetcher Error: ChecksumError('Checksum mismatch!', 'https://example.org/a.tgz')\n";
        assert_eq!(task_failure("do_fetch", Some(1), &log, None), TaskFailure::Layer);
    }

    #[test]
    fn tasks_that_lacked_memory_are_distinguished_from_wrong_ones() {
        let killed = [
            "x86_64-poky-linux-g++: fatal error: Killed signal terminated program cc1plus",
            "aarch64-poky-linux-g++: internal compiler error: Killed (program cc1plus)",
            "collect2: fatal error: ld terminated with signal 9 [Killed]",
            "make[3]: *** [Makefile:12: x.o] Killed",
            "make: *** [Makefile:12: x.o] Error 137",
            "process didn't exit successfully: `rustc --crate-name x` (signal: 9, SIGKILL: kill)",
            "/w/temp/run.do_compile.7: line 120: 4711 Killed                  ninja -j 8",
            "Killed",
            "subprocess.CalledProcessError: Command 'x' died with <Signals.SIGKILL: 9>.",
            "ERROR: Execution of '/w/temp/run.do_compile.7' failed with exit code 137",
        ];
        for line in killed {
            let log = format!("a line\n{line}\nERROR: oe_runmake failed\n");
            for (has_killed, wanted) in [(None, "memory"), (Some(true), "memory"), (Some(false), "layer")] {
                let found = task_failure("do_compile", Some(1), &log, has_killed);
                assert_eq!(kind(&found), wanted, "{line} {has_killed:?}");
            }
        }
        for line in [
            "virtual memory exhausted: Cannot allocate memory",
            "cc1plus: out of memory allocating 65536 bytes after a total of 4 bytes",
            "terminate called after throwing an instance of 'std::bad_alloc'",
            "LLVM ERROR: out of memory",
            "OSError: [Errno 12] Cannot allocate memory",
            "memory allocation of 4096 bytes failed",
            "ld: final link failed: memory exhausted",
            "MemoryError",
            "FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory",
            "java.lang.OutOfMemoryError: Java heap space",
        ] {
            assert_eq!(
                task_failure("do_x", Some(1), line, Some(false)),
                TaskFailure::Memory(line.into()),
                "{line}"
            );
        }
        assert_eq!(kind(&task_failure("do_x", Some(137), "", None)), "memory");
        assert_eq!(kind(&task_failure("do_x", Some(137), "", Some(false))), "layer");
        for line in [
            "hello.c:3: error: expected ';'",
            "make: *** [Makefile:2: hello] Error 1",
            "test_Killed: ok",
            "1 Killed test",
        ] {
            assert_eq!(task_failure("do_x", Some(1), line, Some(true)), TaskFailure::Layer, "{line}");
        }
    }

    #[test]
    fn what_a_system_under_test_prints_is_no_fault_of_this_machine() {
        let log = "Out of memory: Killed process 7 (x)\nKilled\nsh: write error: No space left on device\n";
        for task in TEST_TASKS {
            for (has_killed, wanted) in [(None, "layer"), (Some(false), "layer"), (Some(true), "memory")] {
                let found = task_failure(task, Some(1), log, has_killed);
                assert_eq!(kind(&found), wanted, "{task} {has_killed:?}");
            }
        }
    }

    #[test]
    fn a_full_disk_is_reported_first() {
        for line in
            ["ld: final link failed: No space left on device", "OSError: [Errno 28] No space left on device"]
        {
            let log = format!("{line}\nKilled\n");
            assert_eq!(task_failure("do_x", Some(1), &log, Some(true)), TaskFailure::Disk(line.into()));
        }
        let early = format!("x: No space left on device\n{}", "a line\n".repeat(END_BYTES / 7 + 1));
        assert_eq!(task_failure("do_x", Some(1), &early, Some(false)), TaskFailure::Layer);
        let long = format!("{} No space left on device", "é".repeat(500));
        let TaskFailure::Disk(line) = task_failure("do_x", None, &long, None) else { panic!() };
        assert_eq!(line.chars().count(), 201);
    }
}
