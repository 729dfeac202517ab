//! A guest of QEMU as a device. Each attempt has a new one: what it writes is lost.

mod conf;
pub mod files;
mod kvm;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use agent_process::{ActivityClock, Command, Interrupt, LineHandler, Runner, User};
use agent_types::error::{Error, Result};
use agent_types::events::EventKind;
use agent_yocto::environment::HOST_PATH;
use futures_util::future::BoxFuture;
use nix::unistd::{Gid, Uid, chown};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::board::boot::has_ssh_server;
use crate::board::console::Console;
use crate::board::qemu::files::Guest;
use crate::board::{Board, SshAddress};
use crate::fence::Fence;
use conf::GuestOptions;

/// QEMU's own log; the console has another one.
const LOG_LIMIT: u64 = 1 << 20;

/// For a guest to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);

/// A guest with KVM in which no kernel runs after this time does not run.
const KVM_LIMIT: Duration = Duration::from_secs(30);

/// Bytes that firmware, boot loader and QEMU itself print at most.
const FIRMWARE_OUTPUT: u64 = 2048;

/// Between two looks at a guest that starts.
const LOOK: Duration = Duration::from_millis(100);

/// A guest that runs forever is silent sometimes; the attempt's limits end it.
const TOUCH: Duration = Duration::from_secs(5);

/// A guest of QEMU.
pub struct QemuBoard {
    guest: Guest,
    /// Memory in MiB that the lab gives it.
    memory: Option<u32>,
    /// The guest reaches nothing but its ssh port.
    isolated: bool,
    /// Runs QEMU; `None`: the lab's own user.
    user: Option<User>,
    work: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    disk: Option<PathBuf>,
    port: Option<u16>,
    running: Option<RunningGuest>,
}

/// A guest that was started.
struct RunningGuest {
    interrupt: Interrupt,
    task: JoinHandle<()>,
    /// Why QEMU ended.
    ended: watch::Receiver<Option<String>>,
}

impl QemuBoard {
    /// A guest whose QEMU works in `work` as this user.
    pub fn new(
        guest: Guest,
        memory: Option<u32>,
        isolated: bool,
        user: Option<User>,
        work: &Path,
    ) -> QemuBoard {
        let state = Mutex::new(State::default());
        QemuBoard { guest, memory, isolated, user, work: work.to_owned(), state }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves the state whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The directory of QEMU's temporary files: what the guest writes.
    fn scratch(&self) -> Result<PathBuf> {
        let directory = self.work.join("qemu");
        fs_err::create_dir_all(&directory)?;
        if let Some(user) = &self.user {
            chown(&directory, Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid))).map_err(
                |errno| {
                    Error::machine(format!("cannot give {} to {}", directory.display(), user.name))
                        .because(&errno)
                },
            )?;
        }
        Ok(directory)
    }

    /// Starts the guest, with KVM where it runs guests.
    async fn start(&self, console: &Console, runner: &Runner) -> Result<()> {
        let scratch = self.scratch()?;
        let conf = &self.guest.conf;
        let is_installed = std::env::split_paths(HOST_PATH).any(|one| one.join(&conf.program).is_file());
        if !is_installed {
            return Err(Error::machine(format!("{} is not there, and the image needs it", conf.program))
                .hint("install QEMU for this architecture on the lab host"));
        }
        if kvm::works(conf, &scratch, self.user.as_ref(), runner).await {
            self.start_with(true, &scratch, console, runner).await?;
            if self.runs(console, runner).await {
                return Ok(());
            }
            self.stop().await;
        }
        let hint = "the guest is slow; give the user that runs QEMU access to a /dev/kvm that works";
        runner.events.emit(info(format!("{} runs without KVM", conf.program), hint)).await;
        self.start_with(false, &scratch, console, runner).await
    }

    /// Whether a kernel runs soon: it prints more than firmware and QEMU do, or the guest answers ssh.
    async fn runs(&self, console: &Console, runner: &Runner) -> bool {
        let before = console.bytes();
        let prints = || console.bytes() >= before + FIRMWARE_OUTPUT;
        let printed = async {
            while !prints() {
                tokio::time::sleep(LOOK).await;
            }
        };
        let answered = async {
            let Ok(address) = self.address() else { return std::future::pending().await };
            while !has_ssh_server(&address).await {
                tokio::time::sleep(LOOK).await;
            }
        };
        tokio::select! {
            () = printed => true,
            () = answered => true,
            // Then it has to stop in any case.
            _ = runner.interrupt.interrupted() => true,
            _ = self.off() => prints(),
            () = tokio::time::sleep(KVM_LIMIT) => false,
        }
    }

    async fn start_with(&self, kvm: bool, scratch: &Path, console: &Console, runner: &Runner) -> Result<()> {
        let conf = &self.guest.conf;
        let port = free_port().await?;
        let mut files = self.guest.files.clone();
        if let Some(disk) = self.state().disk.clone() {
            files.disk = files.disk.is_some().then_some(disk);
        }
        let options = GuestOptions { port, kvm, isolated: self.isolated };
        let mut command = Command::new(&conf.program, scratch, "qemu")
            .args(conf::arguments(conf, &files, options, self.memory))
            .status(format!("{} runs the guest", conf.program));
        command.environment.set("PATH", HOST_PATH).set("LC_ALL", "C.UTF-8").set("TMPDIR", scratch);
        command.user = self.user.clone();
        command.stall = Some(Duration::MAX);
        command.grace = Some(GRACE);
        let interrupt = runner.interrupt.child();
        let mut own = runner.clone();
        own.interrupt = interrupt.clone();
        own.log_limit = LOG_LIMIT;
        let (tell, ended) = watch::channel(None);
        let (activity, mut lines) = (command.activity.clone(), ToConsole(console.clone()));
        let task = tokio::spawn(async move {
            let ended = tokio::select! {
                ended = own.run(command, &mut lines) => ended,
                never = touch(activity) => never,
            };
            let why = match ended {
                Ok(ended) if ended.success() => "QEMU ended".to_owned(),
                Ok(ended) => {
                    let last = ended.tail.last().map(|line| format!(": {line}")).unwrap_or_default();
                    format!("QEMU ended: {}{last}", ended.end)
                }
                Err(error) => error.to_string(),
            };
            let _ = tell.send(Some(why));
        });
        let mut state = self.state();
        state.port = Some(port);
        state.running = Some(RunningGuest { interrupt, task, ended });
        Ok(())
    }

    async fn stop(&self) {
        let Some(running) = self.state().running.take() else { return };
        running.interrupt.signal();
        // The runner's own limits end it.
        let _ = running.task.await;
    }
}

impl Drop for QemuBoard {
    fn drop(&mut self) {
        if let Some(running) = self.state().running.take() {
            running.interrupt.signal();
            running.task.abort();
        }
    }
}

/// Never ends.
async fn touch<T>(activity: ActivityClock) -> T {
    loop {
        activity.touch();
        tokio::time::sleep(TOUCH).await;
    }
}

fn info(message: String, hint: &str) -> EventKind {
    EventKind::Notice { level: agent_types::events::Level::Info, message, hint: Some(hint.into()) }
}

/// A port of loopback that nobody uses now.
async fn free_port() -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    Ok(listener.local_addr()?.port())
}

/// What the guest prints on its serial console.
struct ToConsole(Console);

impl LineHandler for ToConsole {
    fn line(&mut self, _: &str) -> Vec<EventKind> {
        Vec::new()
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.0.feed(bytes);
    }
}

impl Board for QemuBoard {
    fn acquire<'a>(&'a self, fence: &'a Fence, _: &'a Runner) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { fence.check() })
    }

    fn flash<'a>(&'a self, image: &'a Path, fence: &'a Fence, _: &'a Runner) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            fence.check()?;
            self.state().disk = Some(image.to_owned());
            Ok(())
        })
    }

    fn power_on<'a>(
        &'a self,
        console: &'a Console,
        fence: &'a Fence,
        runner: &'a Runner,
    ) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            fence.check()?;
            self.start(console, runner).await
        })
    }

    fn power_off<'a>(&'a self, _: &'a Fence, _: &'a Runner) -> BoxFuture<'a, Result<()>> {
        // Nobody else can drive this guest, so that it ends whatever became of the lease.
        Box::pin(async move {
            self.stop().await;
            Ok(())
        })
    }

    fn address(&self) -> Result<SshAddress> {
        let port = self.state().port.ok_or_else(|| Error::internal("the guest was not started"))?;
        Ok(SshAddress { host: "127.0.0.1".into(), port, key: None })
    }

    fn off(&self) -> BoxFuture<'_, String> {
        let ended = self.state().running.as_ref().map(|running| running.ended.clone());
        Box::pin(async move {
            let Some(mut ended) = ended else { return std::future::pending().await };
            let why = match ended.wait_for(Option::is_some).await {
                Ok(why) => why.clone(),
                Err(_) => None,
            };
            why.unwrap_or_else(|| "QEMU ended".into())
        })
    }

    fn release<'a>(&'a self, _: &'a Fence, _: &'a Runner) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move { Ok(()) })
    }
}
