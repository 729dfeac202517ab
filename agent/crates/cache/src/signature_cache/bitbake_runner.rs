//! Runs BitBake for the queries of yocto-check-layer: for a query that came in the check's own build directory, while
//! nobody else uses it, and for a prefetched one in a [`ScratchBuildDir`], where it does not disturb the check.
//!
//! A [`ScratchBuildDir`] has a copy of the check's configuration, and BitBake sees it at the path of the check's build
//! directory. A recipe that uses TOPDIR has the same signature there.

use std::ffi::OsString;
use std::fs::File;
use std::num::NonZeroUsize;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use fs_err as fs;
use tokio::task::spawn_blocking;

use agent_fs::remove;
use agent_process::{
    ActivityClock, Command, CommandOutcome, ExitReason, Interrupt, LineHandler, MARKER, Mount,
    MountNamespace, Runner, User, cgroup,
};
use agent_types::events::{EventKind, Phase, Progress, Unit};
use agent_types::stage::Stage;
use agent_yocto::bitbake_events::{Follower, NO_EVENTS, NONE_RECEIVED};
use agent_yocto::server;
use agent_yocto::starter::{Addition, Starter, can_discard_signature_files, can_tell_events};

use super::bitbake_shim::SIGNATURES;
use super::concurrency::{Concurrency, at_once};
use super::protocol::{BitbakeOutcome, LONGEST};
use super::{CacheResult, Invocation, NotCacheable, Place, WrittenConf};
use agent_fs::read;

/// BitBake's server writes its caches when its last client has gone.
const SERVER: Duration = Duration::from_secs(10);

/// For a server whose build directory is thrown away.
const STOP_GRACE: Duration = Duration::from_secs(1);

/// Longer output is cut. A run that is well prints some kilobytes.
const OUTPUT: usize = 64 << 20;

const CUT: &[u8] = b"\nbuild-agent: BitBake printed more, see its log\n";

/// For copying some files of configuration.
const COPY: Duration = Duration::from_secs(60);

/// For a rebase, which takes seconds.
const REBASE: Duration = Duration::from_secs(5 * 60);

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
    /// The stage of the check, and its name, for people: `yocto-check-layer meta-x`.
    stage: Stage,
    check: String,
    /// The query for tasks that it answers instead of one for signatures, and the file with the answer.
    tasks: Option<TaskFiles>,
    /// How many BitBakes the manifest allows in parallel.
    most: Option<NonZeroUsize>,
    /// The clock of the tool that waits for BitBake's answers.
    tool: ActivityClock,
    number: AtomicUsize,
    /// Held while BitBake runs in the check's own build directory.
    build_dir: tokio::sync::Mutex<()>,
    /// The script that starts BitBake; otherwise why it could not be written.
    starter: Result<Starter, String>,
    /// Why BitBake does not tell its events.
    no_events: Option<String>,
    /// Whether the notice about missing events was emitted; it comes once.
    warned_of_no_events: AtomicBool,
    /// Whether BitBake leaves its signature files empty.
    discards_signature_files: bool,
}

/// The files of a query for tasks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskFiles {
    pub query: PathBuf,
    /// The name in the build directory.
    pub answer: &'static str,
}

/// What a BitBake gave that the agent started.
#[derive(Clone, Debug, PartialEq)]
pub struct Ran {
    pub outcome: BitbakeOutcome,
    /// Whether its output was not truncated.
    pub whole: bool,
    pub seconds: f64,
}

/// The beginning of a child's output as it was printed, with a word where it was cut; beside it how far BitBake is.
struct Capture {
    bytes: Vec<u8>,
    is_cut: bool,
    follower: Follower,
}

impl LineHandler for Capture {
    fn line(&mut self, _: &str) -> Vec<EventKind> {
        Vec::new()
    }

    fn event(&mut self, line: &str) -> Vec<EventKind> {
        self.follower.take(line).into_iter().collect()
    }

    fn progress(&mut self) -> Option<EventKind> {
        self.follower.progress().map(EventKind::Progress)
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
        let starter = Starter::write(&work).map_err(|error| error.to_string());
        let script = place.bitbake.join("bin/bitbake");
        let no_events = starter.as_ref().err().cloned().or_else(|| can_tell_events(&script).err());
        BitbakeRunner {
            runner,
            place,
            user,
            scratch_root,
            work,
            log,
            stage: Stage::Check,
            check,
            tasks: None,
            most,
            tool: ActivityClock::default(),
            number: AtomicUsize::new(0),
            build_dir: tokio::sync::Mutex::default(),
            starter,
            no_events,
            warned_of_no_events: AtomicBool::new(false),
            discards_signature_files: false,
        }
    }

    /// Counts what each BitBake does as activity of the tool with this clock.
    pub fn on_behalf_of(self, tool: &ActivityClock) -> BitbakeRunner {
        BitbakeRunner { tool: tool.clone(), ..self }
    }

    /// For a query for tasks, under this name, as a step of this stage.
    pub fn for_tasks(self, unit: &Unit, log: &str, files: TaskFiles) -> BitbakeRunner {
        BitbakeRunner { tasks: Some(files), ..self.for_unit(unit, log) }
    }

    /// Works for this unit; the names of its logs begin with `log`.
    pub fn for_unit(self, unit: &Unit, log: &str) -> BitbakeRunner {
        let (check, log) = (unit.name.clone(), log.to_owned());
        BitbakeRunner { stage: unit.stage, check, log, ..self }
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
        self.starter.as_ref().map_err(|reason| NotCacheable(reason.clone()))?;
        can_discard_signature_files(&self.bitbake_script()).map_err(NotCacheable)?;
        self.discards_signature_files = true;
        Ok(())
    }

    /// Whether BitBake leaves its signature files empty.
    pub fn discards_signature_files(&self) -> bool {
        self.discards_signature_files
    }

    /// Waits until no BitBake runs in the check's own build directory, and keeps others away from there.
    pub async fn lock_build_dir(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.build_dir.lock().await
    }

    fn bitbake_script(&self) -> PathBuf {
        self.place.bitbake.join("bin/bitbake")
    }

    /// What starts BitBake, and the arguments before BitBake's own.
    fn program(&self) -> (PathBuf, Vec<OsString>) {
        let mut additions = Vec::new();
        additions.extend(self.no_events.is_none().then_some(Addition::Events));
        additions.extend(self.discards_signature_files.then_some(Addition::DiscardSignatureFiles));
        additions.extend(self.tasks.as_ref().map(|files| Addition::Tasks(files.query.clone())));
        match &self.starter {
            Ok(starter) if !additions.is_empty() => starter.command(&self.bitbake_script(), &additions),
            _ => (self.bitbake_script(), Vec::new()),
        }
    }

    /// For a part of the work that can be stopped alone.
    pub fn interrupt(&self) -> Interrupt {
        self.runner.interrupt.child()
    }

    /// Whether the job has to stop.
    pub fn job_stops(&self) -> bool {
        self.runner.interrupt.state().is_some()
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
        let mut mounts = self.place.mounts_of_replaced();
        mounts.push(Mount { directory: scratch_dir.0.clone(), over: self.place.build.clone() });
        MountNamespace { mounts }
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

    /// A scratch directory with this configuration.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn scratch_dir_with(&self, written: &WrittenConf) -> CacheResult<ScratchBuildDir> {
        let scratch_dir = self.empty_scratch_dir()?;
        let conf = scratch_dir.path().join("conf");
        fs::create_dir(&conf)?;
        let files =
            [(conf.join("bblayers.conf"), &written.bblayers), (conf.join("local.conf"), &written.local)];
        for (path, text) in &files {
            fs::write(path, text)?;
        }
        if let Some(user) = &self.user {
            for path in [&files[0].0, &files[1].0, &conf] {
                chown(path, Some(user.uid), Some(user.gid))?;
            }
        }
        Ok(scratch_dir)
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
        let (program, before) = self.program();
        let log = format!("{}-{}", self.log, if scratch_dir.is_some() { "ahead" } else { "bitbake" });
        let mut command = Command::new(program, &invocation.cwd, log)
            .args(before)
            .args(&invocation.argv)
            .on_behalf_of(&self.tool);
        let mut no_events = self.no_events.clone();
        if no_events.is_none() {
            no_events = command.listen_to_events().err().map(|error| error.to_string());
        }
        let when = if scratch_dir.is_some() && self.tasks.is_none() { ", prefetching" } else { "" };
        command.status = Some(format!("{}{when}: {query}", self.check));
        for (name, value) in invocation.environment.iter().filter(|(name, _)| name != MARKER) {
            command.environment.set(name, value);
        }
        command.user = self.user.clone();
        command.mount_namespace = scratch_dir.map(|scratch_dir| self.mount_namespace(scratch_dir));
        let result = at.join(self.tasks.as_ref().map_or(SIGNATURES, |files| files.answer));
        let clear = || remove::remove_file(&result, at).map_err(|error| NotCacheable(error.message));
        // An earlier query may have left one, and this one none.
        clear()?;
        let runner = Runner { interrupt: stop.child(), ..self.runner.clone() };
        let unit = Unit::new(self.stage, &*self.check);
        let part = format!("{query}{when}");
        let follower = Follower::new(&unit, &part);
        let mut output = Capture { bytes: Vec::new(), is_cut: false, follower };
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
        let progress = Progress::new(&unit, &part, Phase::Ended);
        self.runner.events.emit(EventKind::Progress(progress)).await;
        let finished = ended.map_err(|error| NotCacheable(error.message))?;
        if no_events.is_none() && finished.success() && !output.follower.is_heard() {
            no_events = Some(NONE_RECEIVED.into());
        }
        if let Some(why) = no_events
            && !self.warned_of_no_events.swap(true, Ordering::Relaxed)
        {
            let check = &self.check;
            let message = format!("{check}: {NO_EVENTS} ({why}); its progress is not shown");
            self.runner.events.info(message).await;
        }
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

    /// Lets the build user's Python rebase a parse cache for the build directory `at`: it reads the input, and creates
    /// the target.
    ///
    /// # Errors
    /// What it said.
    pub async fn rebase(
        &self,
        invocation: &Invocation,
        at: &Path,
        input: File,
        target: &Path,
    ) -> CacheResult<()> {
        let starter = self.starter.as_ref().map_err(|reason| NotCacheable(reason.clone()))?;
        let (program, arguments) = starter.rebase_command(&self.place.bitbake.join("lib"), target);
        let mut command = Command::new(program, at, format!("{}-rebase", self.log))
            .args(arguments)
            .status(format!("{}: rebases BitBake's parse cache", self.check))
            .on_behalf_of(&self.tool);
        for (name, value) in invocation.environment.iter().filter(|(name, _)| name != MARKER) {
            command.environment.set(name, value);
        }
        // BitBake's checkout must not change.
        command.environment.set("PYTHONDONTWRITEBYTECODE", "1");
        command.user = self.user.clone();
        command.timeout = Some(REBASE);
        command.stdin = Some(Arc::new(input.into()));
        let finished =
            self.runner.run(command, &mut ()).await.map_err(|error| NotCacheable(error.message))?;
        if finished.success() { Ok(()) } else { Err(NotCacheable(last_line(&finished))) }
    }

    async fn stop_server(&self, at: &Path) {
        let grace = STOP_GRACE.min(self.runner.grace_left());
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
