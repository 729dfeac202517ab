//! The program that stands before `bitbake` on the PATH of one yocto-check-layer run: the agent's
//! shim under another name.
//!
//! It becomes the real BitBake for everything but a recognised query, and whenever nobody is there
//! to ask. The real BitBake sees neither its directory on the PATH nor any other trace of it.

use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::sys::stat::fstat;

use agent_process::{ExecSpec, ExitReason};

use super::protocol::{BitbakeOutcome, Reply, receive, send};
use super::{CacheableQuery, Invocation};

/// The name under which it runs.
pub const NAME: &str = "bitbake";

/// The socket, in the same directory.
pub const SOCKET: &str = "agent.sock";

/// What BitBake writes and yocto-check-layer reads.
pub const SIGNATURES: &str = "locked-sigs.inc";

/// A file in the same directory that is made when the job has to stop: from then on nothing is started.
pub const STOPPING: &str = "stopping";

/// The exit status of what was not started because of that: cancelled, as the agent has it.
const NOT_STARTED: i32 = 130;

/// Whether the process was called by this name.
pub fn is_called(own_name: Option<&OsStr>) -> bool {
    own_name.is_some_and(|name| Path::new(name).file_name() == Some(OsStr::new(NAME)))
}

/// Runs to the end of the process. `argv` begins with its own name.
pub fn main(argv: Vec<OsString>, mut environment: Vec<(OsString, OsString)>) -> ! {
    let path = environment.iter().find(|(name, _)| name == "PATH").map(|(_, value)| value.clone());
    let ways = Ways::on(path.as_deref().unwrap_or_default(), std::env::current_exe().ok().as_deref());
    let Some(program) = ways.real else {
        let _ = writeln!(io::stderr(), "bitbake: not found on the PATH");
        std::process::exit(127);
    };
    for (name, value) in &mut environment {
        if name == "PATH" {
            value.clone_from(&ways.rest);
        } else if name == "_" {
            // Some shells tell a program its own path.
            *value = program.clone().into_os_string();
        }
    }
    let real = ExecSpec { program, argv, environment };
    let unless_stopping = || {
        if ways.shim_dir.as_deref().is_some_and(|shim_dir| shim_dir.join(STOPPING).exists()) {
            let _ = writeln!(io::stderr(), "bitbake: not started, because the job is being stopped");
            std::process::exit(NOT_STARTED);
        }
    };
    unless_stopping();
    let invocation = ways.shim_dir.as_deref().and_then(|shim_dir| ask(shim_dir, &real));
    unless_stopping();
    let error = match invocation {
        Some((invocation, Ok(Reply::Outcome(outcome)))) => give(&invocation, &outcome, &real),
        // The cache server is gone: the check is being stopped, and nothing new may start.
        Some((_, Err(_))) => agent_process::exit_like(ExitReason::Cancelled),
        Some((_, Ok(Reply::Pass))) | None => real.replace(),
    };
    let _ = writeln!(io::stderr(), "bitbake: {}: {error}", real.program.display());
    std::process::exit(126);
}

/// Where the shim and the real BitBake lie on the PATH.
#[derive(Debug, PartialEq, Eq)]
struct Ways {
    /// The directory of the shim.
    shim_dir: Option<PathBuf>,
    real: Option<PathBuf>,
    /// The PATH as it was before.
    rest: OsString,
}

impl Ways {
    fn on(path: &OsStr, own: Option<&Path>) -> Ways {
        let own = own.and_then(|own| own.canonicalize().ok());
        let is_own = |directory: &&[u8]| {
            let program = Path::new(OsStr::from_bytes(directory)).join(NAME);
            own.is_some() && program.canonicalize().ok() == own
        };
        // Byte for byte: what is not removed must stay as it was, empty entries and all.
        let entries: Vec<&[u8]> = path.as_bytes().split(|byte| *byte == b':').collect();
        let (shim_dir, rest): (Vec<&[u8]>, Vec<&[u8]>) = entries.iter().partition(|entry| is_own(entry));
        let program = |directory: &&[u8]| Path::new(OsStr::from_bytes(directory)).join(NAME);
        Ways {
            shim_dir: shim_dir.first().map(|shim_dir| PathBuf::from(OsStr::from_bytes(shim_dir))),
            real: rest.iter().map(program).find(|program| program.is_file()),
            rest: OsString::from_vec(rest.join(&b':')),
        }
    }
}

/// Asks the cache server; `None` when this is nothing to ask, or nobody answers. The server starts the real BitBake
/// where it has no answer, so that this may take as long as that does.
fn ask(shim_dir: &Path, real: &ExecSpec) -> Option<(Invocation, io::Result<Reply>)> {
    // A person's terminal gets BitBake's own display.
    if io::stdout().is_terminal() || io::stderr().is_terminal() {
        return None;
    }
    let invocation = Invocation {
        argv: real.argv.iter().skip(1).cloned().collect(),
        cwd: std::env::current_dir().ok()?,
        umask: umask()?,
        joined: one_stream(),
        environment: real.environment.clone(),
    };
    CacheableQuery::recognise(&invocation)?;
    let mut server = UnixStream::connect(shim_dir.join(SOCKET)).ok()?;
    send(&mut server, &invocation.encode()).ok()?;
    let reply = receive(&mut server).and_then(|message| Reply::decode(&message));
    Some((invocation, reply))
}

/// Leaves what BitBake left, and ends as it ended. Comes back only when the real one was wanted and failed.
fn give(invocation: &Invocation, outcome: &BitbakeOutcome, real: &ExecSpec) -> io::Error {
    // Better the real one than half an answer.
    if let Some(signatures) = &outcome.signatures
        && fs_err::write(invocation.cwd.join(SIGNATURES), signatures).is_err()
    {
        return real.replace();
    }
    let printed = io::stderr().write_all(&outcome.stderr).and_then(|()| {
        io::stdout().write_all(&outcome.stdout)?;
        io::stdout().flush()
    });
    // Nobody reads: BitBake would have met the same pipe.
    agent_process::exit_like(if printed.is_ok() || outcome.end != ExitReason::Exited(0) {
        outcome.end
    } else {
        ExitReason::Exited(1)
    })
}

/// Whether standard output and standard error are the same pipe or file.
fn one_stream() -> bool {
    let identity = |stream: &dyn AsFd| fstat(stream.as_fd()).map(|stat| (stat.st_dev, stat.st_ino));
    matches!((identity(&io::stdout()), identity(&io::stderr())), (Ok(out), Ok(error)) if out == error)
}

/// Linux tells it without a change (proc(5), since 4.7).
fn umask() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let umask = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(umask.trim(), 8).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_the_name_counts() {
        for (name, wanted) in
            [("bitbake", true), ("/x/bitbake", true), ("bitbake-layers", false), ("build-agent", false)]
        {
            assert_eq!(is_called(Some(OsStr::new(name))), wanted, "{name}");
        }
        assert!(!is_called(None));
    }

    #[test]
    fn the_stand_in_is_taken_from_the_path_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| place.path().join(name);
        for directory in ["front", "real", "later", "empty"] {
            std::fs::create_dir(at(directory)).unwrap();
        }
        for program in ["build-agent", "real/bitbake", "later/bitbake"] {
            std::fs::write(at(program), "").unwrap();
        }
        symlink(at("build-agent"), at("front/bitbake")).unwrap();
        let [shim_dir, real, later, empty] =
            ["front", "real", "later", "empty"].map(|name| at(name).display().to_string());
        let table = [
            (
                format!("{shim_dir}:{empty}:{real}:{later}"),
                Some(&shim_dir),
                Some(&real),
                format!("{empty}:{real}:{later}"),
            ),
            (format!("{real}:{shim_dir}:"), Some(&shim_dir), Some(&real), format!("{real}:")),
            (format!("{shim_dir}::{later}:{shim_dir}"), Some(&shim_dir), Some(&later), format!(":{later}")),
            (format!("{real}:{empty}"), None, Some(&real), format!("{real}:{empty}")),
            (shim_dir.clone(), Some(&shim_dir), None, String::new()),
            (String::new(), None, None, String::new()),
        ];
        for (path, shim_dir, real, rest) in table {
            let ways = Ways::on(OsStr::new(&path), Some(&at("build-agent")));
            assert_eq!(ways.shim_dir, shim_dir.map(PathBuf::from), "{path}");
            assert_eq!(ways.real, real.map(|real| Path::new(real).join("bitbake")), "{path}");
            assert_eq!(ways.rest, OsString::from(rest), "{path}");
        }
    }
}
