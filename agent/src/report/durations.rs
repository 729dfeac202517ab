//! How long the steps of a job took the last time: for the estimate of the time that is left. Kept in the work
//! directory; without it there is no estimate.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};

use agent_fs::read;
use agent_types::events::{JobIdentity, Unit};
use agent_types::outcome::Outcome;
use agent_types::stage::Stage;

use super::{Summary, output_file};

const NAME: &str = "durations.json";

/// Of all jobs of a work directory.
const LONGEST: u64 = 4 << 20;

/// Jobs that are kept.
const MOST_JOBS: usize = 200;

/// Seconds of the stages and steps of a job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Durations {
    stages: BTreeMap<Stage, f64>,
    /// By [`key`].
    units: BTreeMap<String, f64>,
}

/// The file: jobs by name and release.
#[derive(Debug, Default, Serialize, Deserialize)]
struct AllJobs {
    jobs: BTreeMap<String, Durations>,
}

impl AllJobs {
    /// Whatever cannot be read is not there.
    fn read(work: &Path) -> AllJobs {
        let text = read::whole(&work.join(NAME), LONGEST).ok();
        text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }
}

fn job_key(job: &JobIdentity) -> String {
    format!("{} on {}", job.name, job.release)
}

fn key(stage: Stage, name: &str) -> String {
    format!("{stage}/{name}")
}

impl Durations {
    /// Of the last run of the job in this work directory.
    pub fn of_last_run(work: &Path, job: &JobIdentity) -> Durations {
        AllJobs::read(work).jobs.remove(&job_key(job)).unwrap_or_default()
    }

    fn of(summary: &Summary) -> Durations {
        let ran = |outcome: &Option<Outcome>, seconds: Option<f64>| {
            seconds.filter(|_| matches!(outcome, Some(Outcome::Passed | Outcome::Failed(_))))
        };
        let stages = summary.stages.iter();
        let units = summary.units.iter();
        Durations {
            stages: stages
                .filter_map(|stage| Some((stage.stage, ran(&stage.outcome, stage.seconds)?)))
                .collect(),
            units: units
                .filter_map(|unit| Some((key(unit.stage, &unit.name), ran(&unit.outcome, unit.seconds)?)))
                .collect(),
        }
    }

    /// Keeps what the job took. Stages that did not run now stay as they were.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn keep(work: &Path, summary: &Summary) -> agent_types::error::Result<()> {
        let mut all = AllJobs::read(work);
        let key = job_key(&summary.job);
        let mut kept = all.jobs.remove(&key).unwrap_or_default();
        let now = Durations::of(summary);
        kept.units.retain(|unit, _| !now.stages.keys().any(|stage| unit.starts_with(&self::key(*stage, ""))));
        kept.stages.extend(now.stages);
        kept.units.extend(now.units);
        while all.jobs.len() >= MOST_JOBS {
            all.jobs.pop_first();
        }
        all.jobs.insert(key, kept);
        let text = serde_json::to_vec_pretty(&all).unwrap_or_default();
        output_file::replace(&work.join(NAME), &text)
    }

    /// Seconds until the end of the job: what the stages that follow took, and of the present one what its steps
    /// took that have not ended. `running`: the step that runs, and for how long. `None` when the last run says
    /// nothing of the present stage, or took less already.
    pub fn left(
        &self,
        stage: Stage,
        in_stage: f64,
        ended: &[Unit],
        running: Option<(&Unit, f64)>,
        following: &[Stage],
    ) -> Option<f64> {
        let prefix = key(stage, "");
        let is_left = |unit: &str| !ended.iter().any(|ended| key(ended.stage, &ended.name) == unit);
        let units = self.units.iter().filter(|(unit, _)| unit.starts_with(&prefix));
        let left: f64 = units.filter(|(unit, _)| is_left(unit)).map(|(_, seconds)| seconds).sum();
        let here = match running {
            Some((_, elapsed)) if left > 0.0 => left - elapsed,
            _ => self.stages.get(&stage)? - in_stage,
        };
        let later: f64 = following.iter().filter_map(|stage| self.stages.get(stage)).sum();
        Some(here.max(0.0) + later).filter(|left| *left >= 1.0)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::report::sample::{check_layer, failing_job, image, passing_job, preflight, reduce};

    /// The failing job: checkout 12 s; check 110 s, of which yocto-check-layer takes nearly all; build 28 s.
    #[test]
    fn the_time_left_is_what_the_last_run_took() {
        let work = tempfile::tempdir().unwrap();
        let summary = reduce(&failing_job());
        assert_eq!(Durations::of_last_run(work.path(), &summary.job), Durations::default());
        Durations::keep(work.path(), &summary).unwrap();
        let last = Durations::of_last_run(work.path(), &summary.job);
        let took = |unit: &Unit| last.units[&key(unit.stage, &unit.name)];
        let (check, build) = (last.stages[&Stage::Check], last.stages[&Stage::Build]);
        assert!(took(&check_layer()) > 60.0 && build > 20.0);
        let (ended, following) = ([preflight()], [Stage::Build, Stage::Publish]);
        for (stage, in_stage, running, following, wanted) in [
            (Stage::Checkout, 2.0, None, &[Stage::Check][..], Some(10.0 + check)),
            (
                Stage::Check,
                30.0,
                Some((&check_layer(), 30.0)),
                &following,
                Some(took(&check_layer()) - 30.0 + build),
            ),
            (Stage::Check, 900.0, Some((&check_layer(), 900.0)), &following, Some(build)),
            (Stage::Check, 900.0, Some((&check_layer(), 900.0)), &[], None),
            (Stage::Build, 900.0, Some((&image(), 1.0)), &[], Some(took(&image()) - 1.0)),
            (Stage::Test, 1.0, None, &[Stage::Publish], None),
        ] {
            let left = last.left(stage, in_stage, &ended, running, following);
            assert_eq!(left, wanted, "{stage} {in_stage}");
        }
        assert_eq!(Durations::default().left(Stage::Check, 0.0, &[], None, &following), None);
    }

    #[test]
    fn a_damaged_file_is_no_file_and_stages_that_did_not_run_stay() {
        let work = tempfile::tempdir().unwrap();
        std::fs::write(work.path().join(NAME), "{").unwrap();
        let (failing, passing) = (reduce(&failing_job()), reduce(&passing_job()));
        Durations::keep(work.path(), &failing).unwrap();
        Durations::keep(work.path(), &passing).unwrap();
        let last = Durations::of_last_run(work.path(), &passing.job);
        assert_eq!(last.stages[&Stage::Build], Durations::of(&failing).stages[&Stage::Build]);
        assert_eq!(last.stages[&Stage::Check], Durations::of(&passing).stages[&Stage::Check]);
    }
}
