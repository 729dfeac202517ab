//! Runs the `git` program: collects its output, classifies failures, and retries transient ones.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::Instrument;
use url::Url;

use agent_process::{Command, Environment, ExitReason, LineHandler, Runner, User, agent_user, lesser_owner};
use agent_types::error::{Class, Error};
use agent_types::events::EventKind;
use agent_types::source::is_commit;

use super::access::Access;
use super::failure::{Failure, Kind, classify, relevant_output};

/// Runs git for one source. It runs as the agent's user; the build user only reads the clones.
#[derive(Clone)]
pub struct Git<'a> {
    pub runner: &'a Runner,
    environment: Environment,
    /// Names the source in logs and messages.
    label: String,
    /// `None`: the agent's user.
    user: Option<User>,
    /// The command that serves a local repository, see [`Access::upload_pack`].
    upload_pack: Option<String>,
    /// Delays before the retries of a transient failure.
    pub(super) retry_delays: [Duration; 2],
}

/// Maximum output of one git command. More can only be an error or an attack.
const OUTPUT_LIMIT: usize = 64 << 20;

impl<'a> Git<'a> {
    /// `safe` lists the work trees that git may use whatever their owner.
    ///
    /// # Errors
    /// If the agent's user has no passwd entry, or the user database cannot be read.
    pub fn new(
        runner: &'a Runner,
        access: &Access,
        label: impl Into<String>,
        url: Option<&Url>,
        safe: &[PathBuf],
    ) -> Result<Git<'a>, Error> {
        // Not the variable HOME: CodeBuild sets it to root's home for every user.
        let home = agent_user()?.home;
        Ok(Git {
            runner,
            environment: access.environment(&home, url, safe, runner.stall),
            label: label.into(),
            user: None,
            upload_pack: access.upload_pack(url),
            retry_delays: [Duration::from_secs(2), Duration::from_secs(8)],
        })
    }

    /// A git that only reads the work tree `top`.
    ///
    /// Git obeys that repository's configuration, in which the owner can set commands, for example filters.
    /// Root must not run these, so git runs as the owner or as the `reader`.
    ///
    /// # Errors
    /// As [`Git::new`].
    pub fn for_inspection(
        runner: &'a Runner,
        label: impl Into<String>,
        top: &Path,
        safe: &[PathBuf],
        reader: Option<&User>,
    ) -> Result<Git<'a>, Error> {
        // No access to servers, and no secrets (proxies).
        let access = Access::default();
        let mut git = Git::new(runner, &access, label, None, safe)?;
        let dot_git = top.join(".git");
        let config = dot_git.join("config");
        let user = match reader {
            Some(reader) => Some(reader.clone()),
            None => lesser_owner([config.as_path(), &dot_git, top])?,
        };
        if let Some(user) = user {
            git.environment = access.environment(&user.home, None, safe, runner.stall);
            git.user = Some(user);
        }
        Ok(git)
    }

    /// The same with another variable.
    pub(super) fn with_variable(&self, name: &str, value: impl Into<OsString>) -> Git<'a> {
        let mut git = self.clone();
        git.environment.set(name, value);
        git
    }

    /// Runs a git command that uses only local files, and returns its output.
    pub async fn local<S: Into<OsString>>(
        &self,
        cwd: &Path,
        args: impl IntoIterator<Item = S>,
    ) -> Result<String, Failure> {
        let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
        self.once(cwd, &args, false).await
    }

    /// Runs a git command whose exit status is the answer. Any failure of git counts as false.
    pub async fn succeeds<S: Into<OsString>>(
        &self,
        cwd: &Path,
        args: impl IntoIterator<Item = S>,
    ) -> Result<bool, Error> {
        match self.local(cwd, args).await {
            Ok(_) => Ok(true),
            Err(Failure::Git { .. }) => Ok(false),
            Err(Failure::Error(error)) => Err(error),
        }
    }

    /// Resolves a name to a commit id.
    pub async fn commit_of(&self, path: &Path, name: &str) -> Result<String, Failure> {
        self.object_of(path, &format!("{name}^{{commit}}")).await
    }

    /// Resolves a name to an object id.
    pub async fn object_of(&self, path: &Path, name: &str) -> Result<String, Failure> {
        let answer = self.local(path, ["rev-parse", "--verify", name]).await?;
        answer.lines().map(str::trim).find(|line| is_commit(line)).map(str::to_string).ok_or_else(|| {
            Failure::Error(Error::internal(format!(
                "git rev-parse {name} printed no id in {}",
                path.display()
            )))
        })
    }

    /// Runs a git command that connects to a server. Retries transient failures twice.
    pub async fn network<S: Into<OsString>>(
        &self,
        cwd: &Path,
        args: impl IntoIterator<Item = S>,
    ) -> Result<String, Failure> {
        let mut args: Vec<OsString> = args.into_iter().map(Into::into).collect();
        if let Some(upload_pack) = &self.upload_pack {
            // `fetch` and `ls-remote` both have this option.
            args.insert(args.len().min(1), format!("--upload-pack={upload_pack}").into());
        }
        self.retried(cwd, &args).await
    }

    /// The same for a command other than `fetch` and `ls-remote`.
    pub(super) async fn server<S: Into<OsString>>(
        &self,
        cwd: &Path,
        args: impl IntoIterator<Item = S>,
    ) -> Result<String, Failure> {
        let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
        self.retried(cwd, &args).await
    }

    /// Waits before a second attempt, with a warning.
    pub(super) async fn pause(&self, why: &str) {
        let delay = self.retry_delays[1] + jitter(self.retry_delays[1]);
        let message = format!("{}: {why}; one more attempt in {:.1} s", self.label, delay.as_secs_f64());
        self.runner.events.warn(message, None).await;
        tokio::select! {
            () = tokio::time::sleep(delay) => {}
            // The next attempt ends at once and reports the reason.
            _ = self.runner.interrupt.interrupted() => {}
        }
    }

    async fn retried(&self, cwd: &Path, args: &[OsString]) -> Result<String, Failure> {
        for (attempt, delay) in self.retry_delays.into_iter().enumerate() {
            let failure = match self.once(cwd, args, true).await {
                Err(failure) if failure.kind() == Some(Kind::Transient) => failure,
                other => return other,
            };
            let delay = delay + jitter(delay);
            self.runner
                .events
                .warn(
                    format!(
                        "{}: {}; retrying in {:.1} s (attempt {} of {})",
                        self.label,
                        failure.brief(),
                        delay.as_secs_f64(),
                        attempt + 2,
                        self.retry_delays.len() + 1
                    ),
                    None,
                )
                .await;
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                // The next attempt ends at once and reports the reason.
                _ = self.runner.interrupt.interrupted() => {}
            }
        }
        self.once(cwd, args, true).await
    }

    async fn once(&self, cwd: &Path, args: &[OsString], remote: bool) -> Result<String, Failure> {
        let settings =
            args.chunks(2).take_while(|pair| pair.first().is_some_and(|word| word == "-c")).count();
        let verb = args.get(2 * settings).map(|verb| verb.to_string_lossy().into_owned()).unwrap_or_default();
        let mut command = Command::new("git", cwd, format!("git-{}-{verb}", self.label)).args(args);
        command.status = Some(format!("{}: git {verb}", self.label));
        command.environment = self.environment.clone();
        command.user = self.user.clone();
        let mut output = Output::default();
        let span = tracing::info_span!("git", source = &*self.label, verb, remote);
        let finished = self.runner.run(command, &mut output).instrument(span).await?;
        let git =
            |kind, said| Failure::Git { kind, verb: verb.clone(), remote, said, log: finished.log.clone() };
        let end = |class, why: &str| {
            Failure::Error(Error::new(class, format!("git {verb} of {} was stopped: {why}", self.label)))
        };
        match finished.end {
            ExitReason::Exited(0) if output.overflow => {
                Err(git(Kind::Other, vec![format!("git {verb} printed more than {OUTPUT_LIMIT} bytes")]))
            }
            ExitReason::Exited(0) => Ok(output.text),
            ExitReason::Exited(_) => {
                let said = relevant_output(output.text.split(['\n', '\r']));
                Err(git(classify(&said), said))
            }
            ExitReason::Signalled(signal) => {
                Err(git(Kind::Other, vec![format!("git {verb} was killed by signal {signal}")]))
            }
            // A run that was silent for so long is not repeated: that could take the time of the whole job.
            ExitReason::Stalled(silent) => {
                let class = if remote { Class::Upstream } else { Class::Machine };
                let hint = "the server or the disk does not answer; `limits.stall` is the limit";
                Err(match end(class, &format!("it was silent for {} s", silent.as_secs())) {
                    Failure::Error(error) => Failure::Error(error.hint(hint)),
                    other => other,
                })
            }
            ExitReason::Cancelled => Err(end(Class::Cancelled, "the job was cancelled")),
            ExitReason::TimedOut => Err(end(Class::OutOfTime, "the job's time limit was reached")),
        }
    }
}

/// Collects output up to the limit. Standard output and standard error are one stream.
#[derive(Default)]
struct Output {
    text: String,
    overflow: bool,
}

impl LineHandler for Output {
    fn line(&mut self, line: &str) -> Vec<EventKind> {
        if self.text.len() + line.len() < OUTPUT_LIMIT {
            self.text.push_str(line);
            self.text.push('\n');
        } else {
            self.overflow = true;
        }
        Vec::new()
    }
}

/// A random delay of up to half the given one, so that machines that failed together retry at different times.
fn jitter(delay: Duration) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let spread = now.subsec_nanos().wrapping_add(std::process::id().wrapping_mul(7919)) % 1000;
    delay * spread / 2000
}
