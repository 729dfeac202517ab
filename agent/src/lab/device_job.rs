//! An attempt as a job of its own: events, a recorder, an output directory with the reports.

use std::os::unix::fs::PermissionsExt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use agent_artifacts::records::FileDigest;
use agent_devices::fence::Fence;
use agent_devices::lab::{Device, Lab};
use agent_devices::provider::{Attempt, AttemptEnd, Provider};
use agent_devices::queue::Queue;
use agent_devices::request::{DeviceRequest, layout};
use agent_process::{Interrupt, Redactor, Runner};
use agent_types::error::{Error, Result};
use agent_types::events::{self, EventKind, JobIdentity, JobStarted, Planned, SCHEMA};
use agent_types::job_id::JobId;
use agent_types::outcome::{ExitStatus, Outcome};
use agent_types::secret::Secret;
use agent_types::stage::Stage;
use agent_types::words::hexadecimal;

use crate::report::{self, Recorded, Recording, Reports, ThreadedSink};

/// From a polite signal to SIGKILL. A lease that was lost leaves little time.
pub const GRACE: Duration = Duration::from_secs(10);

/// Maximum bytes of the log of one command.
const LOG_LIMIT: u64 = 64 << 20;

/// Maximum bytes of one report that is uploaded, and number of them.
const LARGEST_REPORT: u64 = 128 << 20;
const MOST_REPORTS: usize = 2_000;

/// What an attempt works with.
pub struct DeviceJob<'a> {
    pub lab: &'a Lab,
    pub device: &'a Device,
    pub request: &'a DeviceRequest,
    /// Of the attempt.
    pub number: u32,
    pub fence: &'a Fence,
    pub queue: &'a Queue,
    /// Its own; emptied before.
    pub directory: PathBuf,
    pub interrupt: &'a Interrupt,
    /// Says why the work had to stop, if it had to.
    pub stop: &'a (dyn Fn() -> Option<Outcome> + Send + Sync),
}

/// What came of the job.
pub struct JobEnd {
    /// What the provider said.
    pub end: Result<AttemptEnd>,
    pub outcome: Outcome,
    pub exit: ExitStatus,
    /// Of `result.json`.
    pub result_sha256: Option<String>,
}

impl DeviceJob<'_> {
    /// Runs the request on the device, and makes the reports.
    ///
    /// # Errors
    /// If the directory cannot be used.
    pub async fn run(&self, provider: &dyn Provider) -> Result<JobEnd> {
        let (files, work, out) = self.prepare().await?;
        report::prepare_out(&out)?;
        let events_file = report::begin(&out)?;
        // Reports are made in full, also after a stop.
        let reporting = Interrupt::new(None);
        let events_file =
            ThreadedSink::new(Box::new(events_file), reporting.clone()).with_deadline(report::FILE_DEADLINE);
        let redactor = redactor(self.request);
        let (events, receiver) = events::channel();
        let recording = Recording {
            redactor: redactor.clone(),
            sinks: vec![Box::new(events_file)],
            reports: Reports::files(&out),
            interrupt: reporting,
            over: CancellationToken::new(),
        };
        let over = recording.over.clone();
        let recorder = tokio::spawn(report::record(receiver, recording));
        let runner = Runner {
            stage: Stage::Test,
            events,
            interrupt: self.interrupt.clone(),
            redactor,
            logs: out.join("logs"),
            stall: self.request.run_limit(),
            grace: GRACE,
            log_limit: LOG_LIMIT,
            commands: Arc::default(),
        };
        runner.events.emit(EventKind::JobStarted(Box::new(self.started()))).await;
        runner.events.emit(EventKind::StageStarted { stage: Stage::Test }).await;
        let work = AssertUnwindSafe(self.on_device(provider, &files, &work, &runner)).catch_unwind();
        let end = work.await.unwrap_or_else(|_| {
            over.cancel();
            Err(Error::internal("the agent broke").hint("please report it with the log of the lab"))
        });
        let outcome = self.stage_end(&end, &runner).await;
        runner.events.emit(EventKind::StageFinished { stage: Stage::Test, outcome }).await;
        drop(runner);
        let Recorded { summary, exit, lost } = recorder
            .await
            .map_err(|error| Error::internal("the recorder of events broke").because(&error))?;
        for error in lost {
            tracing::warn!("a report of {} is missing: {error}", self.request.id);
        }
        let result = out.join("result.json");
        let content =
            agent_process::blocking(move || agent_fs::read::whole(&result, LARGEST_REPORT)).await.ok();
        let result_sha256 = content.map(|content| hexadecimal(&Sha256::digest(content)));
        Ok(JobEnd { end, outcome: summary.outcome, exit, result_sha256 })
    }

    /// Empties the directory of the attempt.
    async fn prepare(&self) -> Result<(PathBuf, PathBuf, PathBuf)> {
        let directory = self.directory.clone();
        agent_process::blocking(move || {
            if let Some(parent) = directory.parent() {
                agent_fs::remove::clear(&directory, parent)?;
            }
            let parts = ["files", "work", "out"].map(|name| directory.join(name));
            for part in [&directory].into_iter().chain(&parts) {
                fs_err::create_dir_all(part)?;
                // The build user passes through.
                fs_err::set_permissions(part, std::fs::Permissions::from_mode(0o711))?;
            }
            Ok(parts.into())
        })
        .await
    }

    fn started(&self) -> JobStarted {
        let job = JobIdentity {
            id: JobId::new(SystemTime::now()),
            machines: vec![self.request.machine.clone()],
            reproduce: Vec::new(),
            ..self.request.job.clone()
        };
        JobStarted {
            schema: SCHEMA.into(),
            agent: env!("CARGO_PKG_VERSION").into(),
            job,
            plan: [Stage::Test, Stage::Report].map(|stage| Planned { stage, skip: None }).into(),
            fail_on: Default::default(),
            change_scope: Default::default(),
            prices: None,
            reproduction: None,
        }
    }

    async fn on_device(
        &self,
        provider: &dyn Provider,
        files: &Path,
        work: &Path,
        runner: &Runner,
    ) -> Result<AttemptEnd> {
        let (attempt, device) = (self.number, &self.device.name);
        let about = format!("attempt {attempt} on the device {device} of the lab {}", self.lab.name);
        runner.events.info(&about).await;
        for file in &self.request.files {
            let digest = FileDigest { bytes: file.bytes, sha256: file.sha256.clone() };
            let to = files.join(&file.name);
            let fetched = self.interrupt.or(self.queue.fetch_file(&digest, &to)).await;
            match fetched {
                Ok(fetched) => fetched?,
                Err(_) => return Ok(AttemptEnd::Tested(Outcome::Cancelled("stopped".into()))),
            }
        }
        let attempt = Attempt {
            lab: self.lab,
            device: self.device,
            request: self.request,
            number: self.number,
            fence: self.fence,
            files,
            work,
            runner,
        };
        provider.run(attempt).await
    }

    /// The outcome of the stage. What a stop broke off is no result.
    async fn stage_end(&self, end: &Result<AttemptEnd>, runner: &Runner) -> Outcome {
        let stopped = (self.stop)();
        let error = match (end, stopped) {
            (Ok(AttemptEnd::Tested(outcome)), None) => return outcome.clone(),
            // What failed may have failed because of the stop.
            (Ok(AttemptEnd::Tested(outcome)), _) if outcome.is_success() => return outcome.clone(),
            (_, Some(stopped)) => return stopped,
            (Ok(AttemptEnd::DeviceFault(why)), None) => {
                Error::machine(format!("the device {} does not work: {why}", self.device.name))
            }
            (Err(error), None) => error.clone(),
        };
        let outcome = Outcome::NotRun(error.message.clone());
        runner.events.emit(EventKind::Error { stage: Some(Stage::Test), error }).await;
        outcome
    }

    /// Stores the reports of the attempt.
    ///
    /// # Errors
    /// If one cannot be stored.
    pub async fn store_reports(&self) -> Result<()> {
        let out = self.directory.join("out");
        let found = {
            let out = out.clone();
            agent_process::blocking(move || files_below(&out)).await
        };
        let below = layout::reports(&self.request.id, self.number);
        for path in found {
            let from = out.join(&path);
            let read = agent_process::blocking(move || agent_fs::read::whole(&from, LARGEST_REPORT)).await;
            match read {
                Ok(content) => self.queue.store().write(&format!("{below}/{path}"), content).await?,
                Err(error) => tracing::warn!("cannot store the report {path}: {error}"),
            }
        }
        Ok(())
    }
}

/// The files below a directory, as relative paths. Hidden ones and names that are not UTF-8 do not count.
fn files_below(out: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut directories = vec![String::new()];
    while let Some(below) = directories.pop() {
        let entries = fs_err::read_dir(out.join(&below)).into_iter().flatten().flatten();
        for entry in entries {
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            if name.starts_with('.') || name.chars().any(char::is_control) {
                continue;
            }
            let path = if below.is_empty() { name } else { format!("{below}/{name}") };
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && path.matches('/').count() < 8 => directories.push(path),
                Ok(kind) if kind.is_file() && found.len() < MOST_REPORTS => found.push(path),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

/// A task token lets its holder decide about an execution.
fn redactor(request: &DeviceRequest) -> Redactor {
    let token = request.task_token.clone();
    let secret = token.map(|value| Secret { origin: "the task token".into(), value });
    Redactor::new(secret.as_slice())
}
