//! The flight recorder: samples of the machine while a job runs, as events and in a file of the work directory. The file is
//! there after the agent was killed, also if the output directory is lost.

mod last_attempt;
mod ring;

use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use agent_process::MachineSampler;
use agent_types::error::Result;
use agent_types::events::{Emitter, EventKind, WhatRuns};
use agent_types::job_id::JobId;
use agent_types::machine_use::MachineSample;

pub use last_attempt::LastAttempt;
use ring::{Head, Ring};

/// Time between two samples.
const INTERVAL: Duration = Duration::from_secs(10);

/// A hanging disk must not hold the end of the job.
const LAST_SAMPLE: Duration = Duration::from_secs(5);

/// Samples that wait for slow listeners; later ones are only in the file.
const WAITING: usize = 16;

/// The recorder of one job.
#[derive(Debug)]
pub struct FlightRecorder {
    head: Head,
    work: std::path::PathBuf,
    /// The job before this one in the work directory, if it was killed.
    pub last_attempt: Option<LastAttempt>,
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    /// Dropping it ends the thread, after a last sample.
    stop: Sender<()>,
    events: JoinHandle<()>,
}

impl FlightRecorder {
    /// For a job in this work directory, which the caller holds. Nothing is recorded yet.
    pub fn new(work: &Path, job: JobId, out: &Path) -> FlightRecorder {
        FlightRecorder {
            head: Head::new(job, out),
            work: work.to_owned(),
            last_attempt: LastAttempt::of(work),
            running: None,
        }
    }

    /// Begins to record. The first sample is taken now.
    ///
    /// # Errors
    /// If the file cannot be written; the events come all the same.
    pub fn start(&mut self, events: &Emitter) -> Result<()> {
        let ring = Ring::create(&self.work, &self.head);
        let (stop, stopped) = channel();
        let (to, samples) = mpsc::channel(WAITING);
        let (sampler, running) = (MachineSampler::new("/", &self.work), events.watch());
        let made = ring.as_ref().map(|_| ()).map_err(Clone::clone);
        // A thread of its own: it goes on when the runtime is busy, and it may block.
        let thread = std::thread::Builder::new().name("flight recorder".into());
        let wait = move || match stopped.recv_timeout(INTERVAL) {
            Err(RecvTimeoutError::Timeout) => true,
            Ok(()) | Err(RecvTimeoutError::Disconnected) => false,
        };
        let spawned = thread.spawn(move || record(sampler, ring.ok(), &running, &to, wait));
        if let Err(error) = spawned {
            return Err(agent_types::error::Error::machine("cannot start a thread").because(&error));
        }
        self.running = Some(Running { stop, events: tokio::spawn(emit(samples, events.clone())) });
        made
    }

    /// Ends the events, with a last sample.
    pub async fn stop(&mut self) {
        let Some(Running { stop, mut events }) = self.running.take() else { return };
        drop(stop);
        if timeout(LAST_SAMPLE, &mut events).await.is_err() {
            events.abort();
        }
    }

    /// Notes that the job came to its own end, and its reports are made.
    pub fn job_ended(&self) {
        if let Ok(ring) = Ring::open(&self.work) {
            // The next job would say that this one died; nothing else depends on it.
            let _ = ring.head(&self.head.at_the_end());
        }
    }
}

/// Takes samples until `wait` says that it is over, and then one more.
fn record(
    mut sampler: MachineSampler,
    mut ring: Option<Ring>,
    running: &WhatRuns,
    to: &mpsc::Sender<MachineSample>,
    wait: impl Fn() -> bool,
) {
    loop {
        let goes_on = take(&mut sampler, &mut ring, running, to) && wait();
        if !goes_on {
            take(&mut sampler, &mut ring, running, to);
            return;
        }
    }
}

/// Whether there is still a listener.
fn take(
    sampler: &mut MachineSampler,
    ring: &mut Option<Ring>,
    running: &WhatRuns,
    to: &mpsc::Sender<MachineSample>,
) -> bool {
    let sample = sampler.sample();
    if let Some(ring) = ring {
        // A full disk is a reason to go on with the events.
        let _ = ring.write(SystemTime::now(), running.in_words(), &sample);
    }
    !matches!(to.try_send(sample), Err(mpsc::error::TrySendError::Closed(_)))
}

/// Emits the samples, and a warning when memory or disk space get short: the log of a build service is there when
/// everything else of the machine is lost.
async fn emit(mut samples: mpsc::Receiver<MachineSample>, events: Emitter) {
    let mut warned = false;
    while let Some(sample) = samples.recv().await {
        let short = sample.is_short_of_memory() || sample.is_short_of_disk();
        if short && !warned {
            events.warn(format!("the machine is nearly full: {}", sample.describe()), None).await;
        }
        // Once for each time.
        warned = short;
        events.emit(EventKind::MachineSample(sample)).await;
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use agent_types::events::{self, Level};
    use agent_types::stage::Stage;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_job_has_a_first_and_a_last_sample_and_its_end_is_noted() {
        let work = tempfile::tempdir().unwrap();
        let (emitter, mut received) = events::channel();
        let mut recorder = FlightRecorder::new(work.path(), "job-1".into(), Path::new("/out"));
        assert_eq!(recorder.last_attempt, None);
        emitter.emit(EventKind::StageStarted { stage: Stage::Build }).await;
        recorder.start(&emitter).unwrap();
        recorder.stop().await;
        drop(emitter);
        let mut samples = 0;
        while let Some(event) = received.recv().await {
            samples += usize::from(matches!(event.what, EventKind::MachineSample(_)));
        }
        assert_eq!(samples, 2);
        // Killed now, the next job knows.
        let next = FlightRecorder::new(work.path(), "job-2".into(), Path::new("/out"));
        let last = next.last_attempt.unwrap();
        assert_eq!(last.job, JobId::from("job-1"));
        assert!(last.message().contains(", while build ran"), "{}", last.message());
        recorder.job_ended();
        assert_eq!(FlightRecorder::new(work.path(), "job-3".into(), Path::new("/out")).last_attempt, None);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn without_a_place_for_the_file_there_are_events() {
        let (emitter, mut received) = events::channel();
        let mut recorder = FlightRecorder::new(Path::new("/nonexistent"), "x".into(), Path::new("/out"));
        recorder.start(&emitter).unwrap_err();
        recorder.stop().await;
        recorder.job_ended();
        assert!(matches!(received.recv().await.unwrap().what, EventKind::MachineSample(_)));
    }

    #[tokio::test]
    async fn a_shortage_is_told_once_for_each_time() {
        let (to, samples) = mpsc::channel(10);
        let (emitter, mut received) = events::channel();
        let short = |memory_used| MachineSample {
            memory_used,
            memory_limit: 1000,
            disk_free: 1 << 40,
            ..MachineSample::default()
        };
        for used in [100, 990, 991, 100, 999] {
            to.send(short(used)).await.unwrap();
        }
        drop(to);
        emit(samples, emitter).await;
        let mut warnings = Vec::new();
        while let Some(event) = received.recv().await {
            if let EventKind::Notice { level: Level::Warning, message, .. } = event.what {
                warnings.push(message);
            }
        }
        assert_eq!(warnings.len(), 2, "{warnings:?}");
        assert!(
            warnings[0].starts_with("the machine is nearly full: 990 bytes of 1000 bytes"),
            "{warnings:?}"
        );
    }
}
