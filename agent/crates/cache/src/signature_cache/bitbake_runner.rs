//! Runs BitBake for the queries of yocto-check-layer: for a query that came in the check's own build directory, while
//! nobody else uses it, and for a prefetched one in a [`ScratchBuildDir`], where it does not disturb the check.
//!
//! A [`ScratchBuildDir`] has a copy of the check's configuration, and BitBake sees it at the path of the check's build
//! directory. A recipe that uses TOPDIR has the same signature there.

use std::num::NonZeroUsize;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use fs_err as fs;
use tokio::task::spawn_blocking;

use agent_fs::remove;
use agent_process::{
    ActivityClock, Command, CommandOutcome, ExitReason, Interrupt, LineHandler, MARKER, MountNamespace,
    Runner, User, cgroup,
};
use agent_types::events::EventKind;
use agent_yocto::server;
use agent_yocto::starter::{Addition, Starter, can_discard_signature_files};

use super::bitbake_shim::SIGNATURES;
use super::protocol::{BitbakeOutcome, LONGEST};
use super::{CacheResult, Invocation, NotCacheable, Place};
use agent_fs::read;

/// What BitBake takes for the world of OE-Core and some layers, its parsers counted: 2 GiB, and some
/// more for large layers.
const MEMORY: u64 = 3 << 30;

/// BitBake's server writes its caches when its last client has gone.
const SERVER: Duration = Duration::from_secs(10);

/// For a server whose build directory is thrown away.
const HURRY: Duration = Duration::from_secs(1);

/// Longer output is cut. A run that is well prints some kilobytes.
const OUTPUT: usize = 64 << 20;

const CUT: &[u8] = b"\nbuild-agent: BitBake printed more, see its log\n";

/// For copying some files of configuration.
const COPY: Duration = Duration::from_secs(60);

/// How queries can be prefetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Concurrency {
    /// So many at once.
    Parallel(usize),
    /// Because of this.
    Serial(String),
}

/// Runs BitBake for one run of yocto-check-layer.
#[derive(Debug)]
pub struct BitbakeRunner {
    runner: Runner,
    place: Place,
    /// `None`: as the agent itself.
    user: Option<User>,
    /// Where scratch directories are made. Nobody but the agent can write there.
    scratch_root: PathBuf,
    /// The agent's work directory.
    work: PathBuf,
    log: String,
    /// Its name, for people: `yocto-check-layer meta-x`.
    check: String,
    /// How many BitBakes the manifest allows in parallel.
    most: Option<NonZeroUsize>,
    /// The clock of the tool that waits for BitBake's answers.
    tool: ActivityClock,
    number: AtomicUsize,
    /// Held while BitBake runs in the check's own build directory.
    build_dir: tokio::sync::Mutex<()>,
    /// Starts BitBake so that it leaves its signature files empty; `None`: BitBake writes them.
    discarding: Option<Starter>,
}

/// What a BitBake gave that the agent started.
#[derive(Clone, Debug, PartialEq)]
pub struct Ran {
    pub outcome: BitbakeOutcome,
    /// Whether its output was not truncated.
    pub whole: bool,
    pub seconds: f64,
}

/// The beginning of a child's output as it was printed, with a word where it was cut.
#[derive(Default)]
struct Capture {
    bytes: Vec<u8>,
    is_cut: bool,
}

impl LineHandler for Capture {
    fn line(&mut self, _: &str) -> Vec<EventKind> {
        Vec::new()
    }

    fn raw(&mut self, bytes: &[u8]) {
        if self.is_cut {
            return;
        }
        let left = OUTPUT - self.bytes.len();
        self.bytes.extend_from_slice(&bytes[..bytes.len().min(left)]);
        if bytes.len() > left {
            self.is_cut = true;
            self.bytes.extend_from_slice(CUT);
        }
    }
}

/// A build directory beside the check's own.
#[derive(Debug)]
pub struct ScratchBuildDir(PathBuf);

impl ScratchBuildDir {
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl BitbakeRunner {
    /// For the check of the layer of that name. `scratch_root` lies below `work`; `most` BitBakes run in parallel,
    /// one for each processor when nothing is said.
    ///
    /// # Errors
    /// When what is left of an earlier run there cannot be removed.
    pub fn new(
        runner: &Runner,
        place: &Place,
        user: Option<&User>,
        scratch_root: PathBuf,
        work: &Path,
        layer: &str,
        most: Option<NonZeroUsize>,
    ) -> BitbakeRunner {
        let (runner, place, user, work) = (runner.clone(), place.clone(), user.cloned(), work.to_owned());
        let (check, log) = (format!("yocto-check-layer {layer}"), format!("yocto-check-layer-{layer}"));
        let (tool, number, discarding) = (ActivityClock::default(), AtomicUsize::new(0), None);
        let build_dir = tokio::sync::Mutex::default();
        BitbakeRunner {
            runner,
            place,
            user,
            scratch_root,
            work,
            log,
            check,
            most,
            tool,
            number,
            build_dir,
            discarding,
        }
    }

    /// Counts what each BitBake does as activity of the tool with this clock.
    pub fn on_behalf_of(self, tool: &ActivityClock) -> BitbakeRunner {
        BitbakeRunner { tool: tool.clone(), ..self }
    }

    /// The agent did something for the tool that waits.
    pub fn touch(&self) {
        self.tool.touch();
    }

    /// From now on BitBake leaves its signature files empty. Tens of thousands of them cost more than all else
    /// but parsing, and nobody reads one unless the check fails.
    ///
    /// # Errors
    /// Why this BitBake writes them all the same.
    pub fn discard_signature_files(&mut self) -> CacheResult<()> {
        can_discard_signature_files(&self.bitbake_script()).map_err(NotCacheable)?;
        self.discarding = Some(Starter::write(&self.work)?);
        Ok(())
    }

    /// Whether BitBake leaves its signature files empty.
    pub fn discards_signature_files(&self) -> bool {
        self.discarding.is_some()
    }

    /// Waits until no BitBake runs in the check's own build directory, and keeps others away from there.
    pub async fn lock_build_dir(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.build_dir.lock().await
    }

    fn bitbake_script(&self) -> PathBuf {
        self.place.bitbake.join("bin/bitbake")
    }

    /// For a part of the work that can be stopped alone.
    pub fn interrupt(&self) -> Interrupt {
        self.runner.interrupt.child()
    }

    /// What the machine allows now to so many BitBakes.
    pub async fn concurrency(&self, wanted: usize) -> Concurrency {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let memory = cgroup::free_memory(Path::new("/")).unwrap_or(0);
        match at_once(wanted, self.most, processors, memory) {
            Ok(most) => match self.probe().await {
                Ok(()) => Concurrency::Parallel(most),
                Err(reason) => Concurrency::Serial(reason.0),
            },
            Err(why) => Concurrency::Serial(why),
        }
    }

    /// Whether the kernel allows scratch directories: found out by trying.
    async fn probe(&self) -> CacheResult<()> {
        let scratch_dir = self.empty_scratch_dir()?;
        let mut command = Command::new("/bin/true", &self.place.build, format!("{}-ahead-probe", self.log))
            .status(format!("{}: looks whether BitBake can run beside the check", self.check));
        command.user = self.user.clone();
        command.mount_namespace = Some(self.mount_namespace(&scratch_dir));
        command.timeout = Some(COPY);
        let tried = self.runner.run(command, &mut ()).await;
        self.clear(scratch_dir).await;
        let finished = tried.map_err(|error| NotCacheable(error.message))?;
        if finished.success() { Ok(()) } else { Err(NotCacheable(last_line(&finished))) }
    }

    fn mount_namespace(&self, scratch_dir: &ScratchBuildDir) -> MountNamespace {
        MountNamespace { directory: scratch_dir.0.clone(), over: self.place.build.clone() }
    }

    fn empty_scratch_dir(&self) -> CacheResult<ScratchBuildDir> {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let scratch_dir = ScratchBuildDir(self.scratch_root.join(number.to_string()));
        fs::create_dir_all(scratch_dir.path())?;
        if let Some(user) = &self.user {
            chown(scratch_dir.path(), Some(user.uid), Some(user.gid))?;
        }
        Ok(scratch_dir)
    }

    /// A scratch directory with the configuration of the check.
    pub async fn scratch_dir(&self) -> CacheResult<ScratchBuildDir> {
        let scratch_dir = self.empty_scratch_dir()?;
        // Layer code may have put links there, so the copy is made by the one who runs it.
        let mut copy = Command::new("/bin/cp", &self.place.build, format!("{}-ahead-conf", self.log))
            .args(["-a", "--", "conf"])
            .arg(scratch_dir.path())
            .status(format!("{}: copies the configuration for BitBake beside the check", self.check));
        copy.user = self.user.clone();
        copy.timeout = Some(COPY);
        let copied = self.runner.run(copy, &mut ()).await.map_err(|error| NotCacheable(error.message));
        match copied {
            Ok(finished) if finished.success() => Ok(scratch_dir),
            copied => {
                self.clear(scratch_dir).await;
                let why = copied.map_or_else(|reason| reason.0, |finished| last_line(&finished));
                Err(NotCacheable(format!("cannot copy the configuration: {why}")))
            }
        }
    }

    /// What BitBake gives to the query of that name, and the seconds that it took: in the scratch directory, or
    /// in the check's own build directory while nobody else uses it. `stop` ends it at once.
    ///
    /// The agent starts it and reads its result by itself, so that nobody can tell what BitBake never gave.
    ///
    /// # Errors
    /// When it was stopped, or could not be started.
    pub async fn ask(
        &self,
        invocation: &Invocation,
        query: &str,
        scratch_dir: Option<&ScratchBuildDir>,
        stop: &Interrupt,
    ) -> CacheResult<Ran> {
        let at = scratch_dir.map_or(self.place.build.as_path(), ScratchBuildDir::path);
        let script = self.bitbake_script();
        let (program, before) = match &self.discarding {
            Some(starter) => starter.command(&script, &[Addition::DiscardSignatureFiles]),
            None => (script, Vec::new()),
        };
        let log = format!("{}-{}", self.log, if scratch_dir.is_some() { "ahead" } else { "bitbake" });
        let mut command = Command::new(program, &invocation.cwd, log)
            .args(before)
            .args(&invocation.argv)
            .on_behalf_of(&self.tool);
        let when = if scratch_dir.is_some() { ", prefetching" } else { "" };
        command.status = Some(format!("{}{when}: {query}", self.check));
        for (name, value) in invocation.environment.iter().filter(|(name, _)| name != MARKER) {
            command.environment.set(name, value);
        }
        command.user = self.user.clone();
        command.mount_namespace = scratch_dir.map(|scratch_dir| self.mount_namespace(scratch_dir));
        let result = at.join(SIGNATURES);
        let clear = || remove::remove_file(&result, at).map_err(|error| NotCacheable(error.message));
        // An earlier query may have left one, and this one none.
        clear()?;
        let runner = Runner { interrupt: stop.child(), ..self.runner.clone() };
        let mut output = Capture::default();
        let ended = {
            let mut running = pin!(runner.run(command, &mut output));
            tokio::select! {
                ended = &mut running => ended,
                _ = stop.interrupted() => {
                    // Its client ends with it. Without this it would be taken for a daemon that stayed behind.
                    self.stop_server(at).await;
                    runner.interrupt.signal();
                    runner.interrupt.signal();
                    running.await
                }
            }
        };
        let finished = ended.map_err(|error| NotCacheable(error.message))?;
        if !matches!(finished.end, ExitReason::Exited(_) | ExitReason::Signalled(_)) {
            return Err(NotCacheable(format!("BitBake did not come to its end: {}", finished.end)));
        }
        let signatures = read::whole(&result, LONGEST as u64).ok();
        // The shim writes it, as the same user.
        clear()?;
        let outcome =
            BitbakeOutcome { end: finished.end, stdout: output.bytes, stderr: Vec::new(), signatures };
        Ok(Ran { outcome, whole: !output.is_cut, seconds: finished.elapsed.as_secs_f64() })
    }

    async fn stop_server(&self, at: &Path) {
        let grace = HURRY.min(self.runner.grace_left());
        let known_as = &self.place.build;
        if let Err(error) = server::stop_server_apart(at, known_as, self.user.as_ref(), grace).await {
            self.runner.events.warn(error.message, error.hint).await;
        }
    }

    /// Ends what is left in the scratch directory and removes it.
    pub async fn clear(&self, scratch_dir: ScratchBuildDir) {
        // A job that has to stop needs no caches of it.
        let stops = self.runner.interrupt.state().is_some();
        if stops || !server::server_gone(scratch_dir.path(), SERVER.min(self.runner.grace)).await {
            self.stop_server(scratch_dir.path()).await;
        }
        let work = self.work.clone();
        let removed = spawn_blocking(move || remove::remove_tree(scratch_dir.path(), &work)).await;
        if let Ok(Err(error)) = removed {
            self.runner.events.warn(error.message, error.hint).await;
        }
    }

    /// Removes all scratch directories: before the first one is made, those of an earlier run that was killed.
    ///
    /// # Errors
    /// When something of them cannot be removed.
    pub async fn remove_scratch_dirs(&self) -> CacheResult<()> {
        let (scratch_root, work) = (self.scratch_root.clone(), self.work.clone());
        let removed = agent_process::blocking(move || remove::remove_tree(&scratch_root, &work)).await;
        removed.map_err(|error| NotCacheable(error.message))
    }
}

fn last_line(finished: &CommandOutcome) -> String {
    finished.tail.last().cloned().unwrap_or_else(|| finished.end.to_string())
}

/// How many BitBakes may run in parallel; otherwise why not as many as are `wanted`.
fn at_once(
    wanted: usize,
    most: Option<NonZeroUsize>,
    processors: usize,
    free_memory: u64,
) -> Result<usize, String> {
    let allowed = most.map_or(processors, usize::from);
    if allowed < wanted {
        return Err(match (most, processors) {
            (Some(most), _) => format!("[check] side_by_side is {most}"),
            (None, 0 | 1) => "there is one processor".into(),
            (None, processors) => format!("there are {processors} processors"),
        });
    }
    let fitting = usize::try_from(free_memory / MEMORY).unwrap_or(usize::MAX);
    if fitting < wanted {
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        let (free, takes) = (gib(free_memory), gib(MEMORY * wanted as u64));
        return Err(format!("{free:.1} GiB of memory are free, and {wanted} BitBakes take {takes}"));
    }
    Ok(allowed.min(fitting))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_at_once_need_processors_and_memory() {
        for (wanted, most, processors, gib, allowed) in [
            (2, None, 2, 6, Ok(2)),
            (2, None, 2, 64, Ok(2)),
            (2, None, 8, 9, Ok(3)),
            (2, None, 64, 13, Ok(4)),
            (2, None, 1, 64, Err("there is one processor")),
            (2, None, 0, 0, Err("there is one processor")),
            (2, None, 16, 5, Err("5.0 GiB of memory are free, and 2 BitBakes take 6")),
            (3, None, 2, 64, Err("there are 2 processors")),
            (3, None, 3, 9, Ok(3)),
            (3, None, 8, 8, Err("8.0 GiB of memory are free, and 3 BitBakes take 9")),
            (3, Some(3), 2, 9, Ok(3)),
            (3, Some(3), 2, 8, Err("8.0 GiB of memory are free, and 3 BitBakes take 9")),
            (2, Some(1), 64, 64, Err("[check] side_by_side is 1")),
            (2, Some(2), 1, 64, Ok(2)),
            (3, Some(2), 64, 64, Err("[check] side_by_side is 2")),
            (2, Some(5), 64, 64, Ok(5)),
        ] {
            let most = most.and_then(NonZeroUsize::new);
            let found = at_once(wanted, most, processors, gib << 30);
            assert_eq!(found, allowed.map_err(str::to_owned), "{wanted} {most:?} {processors} {gib}");
        }
    }
}
