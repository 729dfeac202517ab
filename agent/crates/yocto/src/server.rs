//! Ends BitBake's memory-resident server.
//!
//! The server leaves the process group of the `bitbake` that starts it on purpose (two forks and
//! `setsid`, `bitbake/lib/bb/daemonize.py`) and may outlive it. It writes `PID` or `PID HOST:PORT`
//! into `bitbake.lock` of its build directory (`lib/bb/server/process.py`; the same from dunfell to
//! master). From BitBake 1.52 on it is a program of its own, `bitbake-server decafbad …` with the
//! lock's path among its arguments; before, it is a fork of `bitbake` that keeps its command line
//! and works in the build directory.
//!
//! Layer code can write anything into that file, so it only says where to look: what is signalled
//! must be a BitBake of the build user in that very directory.

use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::{geteuid, getpid};
use tokio::time::{Instant, sleep};

use agent_process::processes::{Process, Processes};
use agent_process::{User, blocking, reap, signal};
use agent_types::error::{Error, Result};

use super::starter;

const LOCK: &str = "bitbake.lock";

/// Between two looks.
const LOOK: Duration = Duration::from_millis(50);

/// After SIGKILL a process is gone at once, unless the kernel holds it.
const KILLED: Duration = Duration::from_secs(10);

/// What became of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// There is no lock file, or nobody has its number.
    NotRunning,
    /// The lock file does not name a server that may be ended, because of this.
    NotOurs(String),
    /// It was ended politely (SIGTERM).
    Ended { pid: i32 },
    /// It did not go within the grace and was killed (SIGKILL): the build directory's caches and
    /// pseudo databases may be damaged.
    Killed { pid: i32 },
}

/// Ends the BitBake server of that build directory, if one runs, with all below it. `user` is the
/// build user; `None`: the agent's own. `grace` lies between SIGTERM and SIGKILL.
///
/// # Errors
/// When it is still there after SIGKILL.
pub async fn stop_server(build_dir: &Path, user: Option<&User>, grace: Duration) -> Result<Stopped> {
    stop_server_apart(build_dir, build_dir, user, grace).await
}

/// The same for a server that knows its build directory by another path: see [`agent_process::Apart`].
///
/// # Errors
/// As [`stop_server`].
pub async fn stop_server_apart(
    build_dir: &Path,
    known_as: &Path,
    user: Option<&User>,
    grace: Duration,
) -> Result<Stopped> {
    let Some(pid) = read_lock(&build_dir.join(LOCK)) else { return Ok(Stopped::NotRunning) };
    let uid = user.map_or(geteuid().as_raw(), |user| user.uid);
    let known_as = known_as.to_owned();
    let look = move || {
        let processes = Processes::now();
        let server = processes.get(pid).filter(|server| !server.is_dead())?;
        Some(verify(server, &processes, &known_as, uid).map(|()| server.clone()))
    };
    let server = match blocking(look).await {
        None => return Ok(Stopped::NotRunning),
        Some(Err(why)) => return Ok(Stopped::NotOurs(why)),
        Some(Ok(server)) => server,
    };
    let mut family = Family { uid, server, members: Vec::new() };
    family.look().await;
    // Its workers end with it, and have their own ways to stop their tasks.
    signal(&family.server, Signal::SIGTERM);
    if family.gone(grace, None).await {
        return Ok(Stopped::Ended { pid });
    }
    if family.gone(KILLED, Some(Signal::SIGKILL)).await {
        return Ok(Stopped::Killed { pid });
    }
    let left: Vec<String> =
        family.members.iter().map(|one| format!("{} in state {}", one.label(), one.state)).collect();
    let message = format!("cannot end BitBake's server of {}: {}", build_dir.display(), left.join(", "));
    Err(Error::machine(message).hint(
        "state D means that the kernel waits for a disk or a file server: look at the mounts of this machine",
    ))
}

/// Waits until the server of that build directory has gone by itself, as it does soon after its last
/// client: it writes its caches then. `false` when it is still there after `timeout`.
pub async fn server_gone(build_dir: &Path, timeout: Duration) -> bool {
    let Some(server) = read_lock(&build_dir.join(LOCK)).and_then(Process::find) else { return true };
    let until = Instant::now() + timeout;
    loop {
        reap();
        if !server.is_alive() {
            return true;
        }
        if Instant::now() >= until {
            return false;
        }
        sleep(LOOK).await;
    }
}

/// The number in the lock file. Whoever writes it may have put a link, a pipe or gigabytes in its
/// place.
fn read_lock(lock: &Path) -> Option<i32> {
    let (file, _) = agent_fs::read::open(lock).ok()?;
    let mut bytes = Vec::new();
    file.take(64).read_to_end(&mut bytes).ok()?;
    parse_lock(&bytes)
}

fn parse_lock(bytes: &[u8]) -> Option<i32> {
    let text = std::str::from_utf8(bytes).ok()?;
    let pid = text.split_ascii_whitespace().next()?;
    // `parse` alone would take a sign.
    if !pid.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    pid.parse().ok().filter(|pid| *pid > 1)
}

/// Whether the process is the build user's BitBake server of that directory; if not, why.
fn verify(server: &Process, processes: &Processes, build_dir: &Path, uid: u32) -> Result<(), String> {
    let refused =
        |why: &str| Err(format!("{} names {}, which {why}", build_dir.join(LOCK).display(), server.label()));
    if processes.ancestors(getpid().as_raw()).contains(&server.pid) {
        return refused("is the agent or started it");
    }
    if uid == 0 || server.uids() != Some([uid; 4]) {
        return refused("does not belong to the build user");
    }
    let arguments = server.arguments();
    let is_bitbake = |argument: &std::ffi::OsString| {
        Path::new(argument).file_name().is_some_and(|name| name == "bitbake" || name == "bitbake-server")
    };
    // `bitbake …`, `python3 …/bitbake …`, `python3 …/bitbake-server decafbad …`, or the last two with the
    // starter script in front.
    if !starter::without(&arguments).iter().take(3).any(is_bitbake) {
        return refused("is no BitBake");
    }
    let Ok(build_dir) = build_dir.canonicalize() else { return refused("has no build directory any more") };
    let lock = build_dir.join(LOCK);
    let names_lock = arguments.iter().any(|argument| Path::new(argument) == lock);
    let works_there = server.directory().is_some_and(|directory| directory == build_dir);
    if names_lock || works_there || server.open_files().contains(&lock) {
        return Ok(());
    }
    refused("serves another build directory")
}

/// The server and what descends from it, also after the server itself is gone.
struct Family {
    uid: u32,
    server: Process,
    members: Vec<Process>,
}

impl Family {
    /// Drops the dead and adds the new.
    async fn look(&mut self) {
        reap();
        let processes = blocking(Processes::now).await;
        if self.server.is_alive() && self.members.is_empty() {
            self.members.push(self.server.clone());
        }
        self.members.retain(Process::is_alive);
        let known: BTreeSet<i32> = self.members.iter().map(|one| one.pid).collect();
        let born =
            processes.descendants(known.iter().copied()).into_iter().filter(|pid| !known.contains(pid));
        let born = born.filter_map(|pid| processes.get(pid).cloned());
        // A program of another user among them is not for the agent to end.
        self.members.extend(born.filter(|one| !one.is_dead() && one.uids() == Some([self.uid; 4])));
    }

    /// Waits until all are gone, and sends them the signal meanwhile; `false` after `time`.
    async fn gone(&mut self, time: Duration, each: Option<Signal>) -> bool {
        let until = Instant::now() + time;
        loop {
            self.look().await;
            if self.members.is_empty() {
                return true;
            }
            if let Some(each) = each {
                self.members.iter().for_each(|one| _ = signal(one, each));
            }
            if Instant::now() >= until {
                return false;
            }
            sleep(LOOK.min(time)).await;
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    #[test]
    fn locks_of_all_releases_are_read_and_nothing_else() {
        for (text, pid) in [
            ("4711\n", Some(4711)),
            ("4711 localhost:8765\n", Some(4711)),
            ("", None),
            ("\n", None),
            ("-1\n", None),
            ("+7\n", None),
            ("0\n", None),
            ("1\n", None),
            ("99999999999\n", None),
            ("pid 4711\n", None),
            ("\u{661}\n", None),
        ] {
            assert_eq!(parse_lock(text.as_bytes()), pid, "{text:?}");
        }
        assert_eq!(parse_lock(b"\xff\xfe"), None);
        let base = tempfile::tempdir().unwrap();
        let lock = base.path().join(LOCK);
        nix::unistd::mkfifo(&lock, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(read_lock(&lock), None, "a pipe that nobody writes");
    }

    /// A build directory with a shell that looks like its server, run by a user that is not root.
    struct Build {
        base: tempfile::TempDir,
        user: User,
        server: Process,
        /// The server's parent. Were it this process, commands of other tests would take the server
        /// for an adopted daemon.
        parent: Child,
    }

    impl Build {
        /// `script` is what the server does; `None` as a whole where this machine has no such user.
        fn new(program: &str, script: &str) -> Option<Build> {
            let base = tempfile::tempdir().unwrap();
            let is_root = geteuid().is_root();
            let user =
                if is_root { User::find("nobody").unwrap()? } else { agent_process::agent_user().unwrap() };
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            std::fs::set_permissions(base.path(), mode).unwrap();
            std::fs::write(base.path().join(program), script).unwrap();
            let switch = match is_root {
                true => format!("setpriv --reuid={} --regid={} --clear-groups", user.uid, user.gid),
                false => String::new(),
            };
            let line = format!("{switch} sh {program} decafbad $PWD/{LOCK} & echo $! > {LOCK}; echo r; wait");
            let mut command = Command::new("sh");
            command.args(["-c", &line]).current_dir(base.path()).stdout(std::process::Stdio::piped());
            let mut parent = command.spawn().unwrap();
            // Each says `r` when it is ready: the server for signals, its parent with the lock.
            parent.stdout.take().unwrap().read_exact(&mut [0; 4]).unwrap();
            let pid = read_lock(&base.path().join(LOCK)).unwrap();
            Some(Build { base, user, server: Process::find(pid).unwrap(), parent })
        }

        fn lock(&self, pid: u32) {
            std::fs::write(self.base.path().join(LOCK), format!("{pid}\n")).unwrap();
        }

        async fn stop(&self) -> Stopped {
            stop_server(self.base.path(), Some(&self.user), Duration::from_millis(500)).await.unwrap()
        }
    }

    impl Drop for Build {
        fn drop(&mut self) {
            signal(&self.server, Signal::SIGKILL);
            let _ = self.parent.wait();
        }
    }

    #[tokio::test]
    async fn a_server_ends_politely_and_its_workers_with_it() {
        let Some(build) = Build::new("bitbake", "echo r; while :; do sleep 0.05; done") else { return };
        assert_eq!(build.stop().await, Stopped::Ended { pid: build.server.pid });
        assert!(!build.server.is_alive());
        assert_eq!(build.stop().await, Stopped::NotRunning);

        // A worker that does not notice that its server is gone.
        let Some(build) = Build::new("bitbake-server", "sleep 100 & echo r; wait") else { return };
        let workers = Processes::now().descendants([build.server.pid]);
        assert_eq!(workers.len(), 2);
        let stopped = build.stop().await;
        assert!(matches!(stopped, Stopped::Killed { .. } | Stopped::Ended { .. }), "{stopped:?}");
        assert!(workers.into_iter().all(|pid| Process::find(pid).is_none_or(|worker| worker.is_dead())));
    }

    #[tokio::test]
    async fn a_deaf_server_is_killed() {
        let script = "trap '' TERM; echo r; while :; do sleep 1; done";
        let Some(build) = Build::new("bitbake-server", script) else { return };
        assert_eq!(build.stop().await, Stopped::Killed { pid: build.server.pid });
        assert!(!build.server.is_alive());
    }

    #[tokio::test]
    async fn whom_a_lock_may_not_name() {
        let script = "echo r; while :; do sleep 1; done";
        let Some(build) = Build::new("bitbake-server", script) else { return };
        let server = build.server.pid;
        let own = std::process::id();
        for pid in [own, std::os::unix::process::parent_id()] {
            build.lock(pid);
            let Stopped::NotOurs(why) = build.stop().await else { panic!("{pid}") };
            assert!(why.contains("agent"), "{why}");
        }
        // Another user's.
        build.lock(server.unsigned_abs());
        let build_dir = build.base.path().to_owned();
        let other = User { uid: build.user.uid + 1, ..build.user.clone() };
        for user in [other, User { uid: 0, ..build.user.clone() }] {
            let stopped = stop_server(&build_dir, Some(&user), Duration::ZERO).await.unwrap();
            assert!(matches!(stopped, Stopped::NotOurs(_)), "{stopped:?}");
        }
        // Another directory's.
        let elsewhere = tempfile::tempdir().unwrap();
        std::fs::write(elsewhere.path().join(LOCK), format!("{server}\n")).unwrap();
        let stopped = stop_server(elsewhere.path(), Some(&build.user), Duration::ZERO).await.unwrap();
        assert!(
            matches!(&stopped, Stopped::NotOurs(why) if why.contains("another build directory")),
            "{stopped:?}"
        );
        // No BitBake.
        let Some(shell) = Build::new("innocent", script) else { return };
        assert!(matches!(shell.stop().await, Stopped::NotOurs(why) if why.contains("no BitBake")));
        assert!(shell.server.is_alive() && build.server.is_alive());
    }
}
