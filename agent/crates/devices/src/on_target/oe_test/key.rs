//! Lends the key of a device to exported tests. They are layer code, so they never see the key itself: an `ssh-agent`
//! holds it for as long as the tests run.

use std::path::{Path, PathBuf};
use std::time::Duration;

use agent_process::{Command, CommandOutcome, Interrupt, Runner, User};
use agent_types::error::{Error, Result};
use agent_yocto::environment::HOST_PATH;
use tokio::task::JoinHandle;

/// Until `ssh-agent` listens.
const START: Duration = Duration::from_secs(30);

/// Time limit of `ssh-add`.
const ADD: Duration = Duration::from_secs(30);

/// An `ssh-agent` with one key.
#[derive(Debug)]
pub struct KeyAgent {
    /// For `SSH_AUTH_SOCK`.
    pub socket: PathBuf,
    interrupt: Interrupt,
    running: JoinHandle<Result<CommandOutcome>>,
}

impl KeyAgent {
    /// Starts it as the user who runs the tests. `directory`: an empty one of that user.
    ///
    /// # Errors
    /// If it does not start, or the key cannot be used without a passphrase.
    pub async fn start(
        key: &Path,
        directory: &Path,
        user: Option<&User>,
        runner: &Runner,
    ) -> Result<KeyAgent> {
        let socket = directory.join("ssh-agent");
        let interrupt = runner.interrupt.child();
        let mut command = Command::new("ssh-agent", directory, "ssh-agent").args(["-D", "-a"]).arg(&socket);
        command.environment.set("PATH", HOST_PATH);
        command.user = user.cloned();
        command.stall = Some(Duration::MAX);
        let own = Runner { interrupt: interrupt.clone(), ..runner.clone() };
        let running = tokio::spawn(async move { own.run(command, &mut ()).await });
        let agent = KeyAgent { socket, interrupt, running };
        match agent.add(key, runner).await {
            Ok(()) => Ok(agent),
            Err(error) => {
                agent.stop().await;
                Err(error)
            }
        }
    }

    async fn add(&self, key: &Path, runner: &Runner) -> Result<()> {
        let until = tokio::time::Instant::now() + START;
        while !self.socket.exists() {
            if self.running.is_finished() || tokio::time::Instant::now() > until {
                return Err(Error::machine("ssh-agent does not start")
                    .hint("install openssh-client; exported tests reach the device with a key through it"));
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let work = self.socket.parent().unwrap_or(Path::new("/"));
        // As the lab itself, who can read the key. Without a terminal, it does not ask for a passphrase.
        let mut command = Command::new("ssh-add", work, "ssh-add").arg("-q").arg(key);
        command.environment.set("PATH", HOST_PATH).set("SSH_AUTH_SOCK", &self.socket);
        command.timeout = Some(ADD);
        let finished = runner.run(command, &mut ()).await?;
        match finished.success() {
            true => Ok(()),
            false => Err(Error::machine(format!(
                "ssh-add cannot use the key `{}`: {}",
                key.display(),
                finished.tail.last().map_or("without a message", String::as_str)
            ))
            .hint("the key of a device must have no passphrase, mode 0600, and belong to the lab's user")),
        }
    }

    /// Ends it: from now on nobody has the key.
    pub async fn stop(self) {
        self.interrupt.signal();
        if let Ok(Err(error)) = self.running.await {
            tracing::warn!(%error, "ssh-agent");
        }
    }
}
