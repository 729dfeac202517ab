//! One place that runs the `git` program: what it prints, why it fails, when it is asked again.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use url::Url;

use agent_process::{Command, Environment, ExitReason, LineHandler, Runner, User, agent_user, lesser_owner};
use agent_types::error::{Class, Error};
use agent_types::events::EventKind;
use agent_types::source::is_commit;

use super::access::Access;
use super::failure::{Failure, Kind, classify, words};

/// Runs git for one source, as the agent's own user: the build user only reads what it makes.
pub struct Git<'a> {
    pub runner: &'a Runner,
    environment: Environment,
    /// Names the source in logs and messages.
    label: String,
    /// `None`: as the agent itself.
    user: Option<User>,
    /// Gives out a repository of this machine.
    upload_pack: Option<String>,
    /// Between the tries of a transient failure.
    pub(super) pauses: [Duration; 2],
}

/// More output than this of one git is a mistake or an attack, not an answer.
const OUTPUT_LIMIT: usize = 64 << 20;

impl<'a> Git<'a> {
    /// `safe` are the work trees that git may use whoever owns them.
    ///
    /// # Errors
    /// When the agent's user has no passwd entry, or its database cannot be read.
    pub fn new(
        runner: &'a Runner,
        access: &Access,
        label: impl Into<String>,
        url: Option<&Url>,
        safe: &[PathBuf],
    ) -> Result<Git<'a>, Error> {
        // The variable HOME points to root's in CodeBuild, whoever runs.
        let home = agent_user()?.home;
        Ok(Git {
            runner,
            environment: access.environment(&home, url, safe, runner.stall),
            label: label.into(),
            user: None,
            upload_pack: access.upload_pack(url),
            pauses: [Duration::from_secs(2), Duration::from_secs(8)],
        })
    }

    /// A git that only looks at the work tree `top`.
    ///
    /// It obeys the configuration of the repository there, in which filters, for one, are commands of
    /// the owner's choice. For root that would be somebody else's word, so it looks as the owner, or as the
    /// `reader` whose rights count.
    ///
    /// # Errors
    /// As [`Git::new`].
    pub fn to_look_at(
        runner: &'a Runner,
        label: impl Into<String>,
        top: &Path,
        safe: &[PathBuf],
        reader: Option<&User>,
    ) -> Result<Git<'a>, Error> {
        // Neither a way to servers nor what may be secret in it (proxies).
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

    /// Runs a git that works on this machine's files only; gives its output.
    pub async fn local<S: Into<OsString>>(
        &self,
        cwd: &Path,
        args: impl IntoIterator<Item = S>,
    ) -> Result<String, Failure> {
        let args: Vec<OsString> = args.into_iter().map(Into::into).collect();
        self.once(cwd, &args, false).await
    }

    /// Asks a question that git answers with its exit status; any failure of git itself is a no.
    pub async fn agrees<S: Into<OsString>>(
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

    /// The commit that a name stands for.
    pub async fn commit_of(&self, path: &Path, name: &str) -> Result<String, Failure> {
        self.object_of(path, &format!("{name}^{{commit}}")).await
    }

    /// The id of the object that a name stands for.
    pub async fn object_of(&self, path: &Path, name: &str) -> Result<String, Failure> {
        let answer = self.local(path, ["rev-parse", "--verify", name]).await?;
        answer.lines().map(str::trim).find(|line| is_commit(line)).map(str::to_string).ok_or_else(|| {
            Failure::Error(Error::internal(format!("git rev-parse {name} gave no id in {}", path.display())))
        })
    }

    /// Runs a git that talks to a server: three tries when the failure may pass.
    pub async fn network<S: Into<OsString>>(
        &self,
        cwd: &Path,
        args: impl IntoIterator<Item = S>,
    ) -> Result<String, Failure> {
        let mut args: Vec<OsString> = args.into_iter().map(Into::into).collect();
        if let Some(upload_pack) = &self.upload_pack {
            // `fetch` and `ls-remote` both have it.
            args.insert(args.len().min(1), format!("--upload-pack={upload_pack}").into());
        }
        for (tried, pause) in self.pauses.into_iter().enumerate() {
            let failure = match self.once(cwd, &args, true).await {
                Err(failure) if failure.kind() == Some(Kind::Transient) => failure,
                other => return other,
            };
            let pause = pause + jitter(pause);
            self.runner
                .events
                .warn(
                    format!(
                        "{}: {}; trying again in {:.1} s ({} of {})",
                        self.label,
                        failure.brief(),
                        pause.as_secs_f64(),
                        tried + 2,
                        self.pauses.len() + 1
                    ),
                    None,
                )
                .await;
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                // The next try ends at once and says why.
                _ = self.runner.interrupt.interrupted() => {}
            }
        }
        self.once(cwd, &args, true).await
    }

    async fn once(&self, cwd: &Path, args: &[OsString], remote: bool) -> Result<String, Failure> {
        let verb = args.first().map(|verb| verb.to_string_lossy().into_owned()).unwrap_or_default();
        let mut command = Command::new("git", cwd, format!("git-{}-{verb}", self.label)).args(args);
        command.status = Some(format!("{}: git {verb}", self.label));
        command.environment = self.environment.clone();
        command.user = self.user.clone();
        let mut output = Output::default();
        let finished = self.runner.run(command, &mut output).await?;
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
                let said = words(output.text.split(['\n', '\r']));
                Err(git(classify(&said), said))
            }
            ExitReason::Signalled(signal) => {
                Err(git(Kind::Other, vec![format!("git {verb} died of signal {signal}")]))
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
            ExitReason::TimedOut => Err(end(Class::OutOfTime, "the job's time is over")),
        }
    }
}

/// Collects output up to the limit. Standard output and error arrive as one stream.
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

/// Up to half the pause: machines that failed together do not come back together.
fn jitter(pause: Duration) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let spread = now.subsec_nanos().wrapping_add(std::process::id().wrapping_mul(7919)) % 1000;
    pause * spread / 2000
}
