//! What a job takes over from the `result.json` of a lab: the steps, their cases and findings.

use serde::Deserialize;
use sha2::{Digest, Sha256};

use agent_devices::request::Verdict;
use agent_types::error::{Error, Result};
use agent_types::events::{Case, Emitter, EventKind, Finding, Level, Unit};
use agent_types::outcome::{ExitStatus, Outcome};
use agent_types::stage::Stage;
use agent_types::words::hexadecimal;

/// Maximum bytes of a result.
pub const LIMIT: u64 = 64 << 20;

/// The layout of `result.json`.
const SCHEMA: &str = "build-agent/result/v1";

/// The result of an attempt.
#[derive(Debug, Deserialize)]
pub struct LabResult {
    schema: String,
    complete: bool,
    exit: ExitStatus,
    #[serde(flatten)]
    outcome: Outcome,
    units: Vec<LabUnit>,
    findings: Vec<Finding>,
}

#[derive(Debug, Deserialize)]
struct LabUnit {
    stage: Stage,
    name: String,
    #[serde(flatten)]
    outcome: Option<Outcome>,
    #[serde(default)]
    excerpt: Vec<String>,
    #[serde(default)]
    cases: Vec<LabCase>,
}

#[derive(Debug, Deserialize)]
struct LabCase {
    class: String,
    name: String,
    #[serde(flatten)]
    outcome: Outcome,
    #[serde(default)]
    message: String,
    #[serde(default)]
    seconds: Option<f64>,
}

impl LabResult {
    /// Reads the result to which the verdict belongs.
    ///
    /// # Errors
    /// If it is another one, or contradicts the verdict.
    pub fn parse(bytes: &[u8], verdict: &Verdict) -> Result<LabResult> {
        let wrong = |what: &str| {
            Error::upstream(format!("the result of the device run cannot be used: {what}"))
                .hint("the lab that wrote it has a log; start the job again for a new request")
        };
        let digest = hexadecimal(&Sha256::digest(bytes));
        if verdict.result_sha256.as_ref() != Some(&digest) {
            return Err(wrong("it is not the one of the verdict"));
        }
        let result: LabResult =
            serde_json::from_slice(bytes).map_err(|error| wrong("it is not valid").because(&error))?;
        if result.schema != SCHEMA {
            return Err(wrong(&format!("its schema is not {SCHEMA}")));
        }
        let says_the_same = result.exit == verdict.exit && result.outcome.word() == verdict.outcome.word();
        let bad = |unit: &LabUnit| {
            unit.outcome.as_ref().is_none_or(|outcome| !outcome.is_success())
                || unit.cases.iter().any(|case| !case.outcome.is_success())
        };
        let passed = verdict.exit == ExitStatus::Passed;
        let ran = result.units.iter().any(|unit| unit.stage == Stage::Test);
        if !result.complete || !says_the_same || passed && (!ran || result.units.iter().any(bad)) {
            return Err(wrong("it contradicts the verdict"));
        }
        Ok(result)
    }

    /// Emits what happened in the lab as steps of this job. What is not required does not fail the job: failures become
    /// warnings of `of`, the step that waited.
    pub async fn emit(self, required: bool, of: &Unit, events: &Emitter) {
        // The other stages of the lab's job tell about the lab.
        for unit in self.units.into_iter().filter(|unit| unit.stage == Stage::Test) {
            let name = Unit::new(Stage::Test, unit.name);
            events.emit(EventKind::UnitStarted { unit: name.clone() }).await;
            for case in unit.cases {
                let case = Case {
                    unit: name.clone(),
                    class: case.class,
                    name: case.name,
                    outcome: if required { case.outcome } else { not_required(case.outcome) },
                    message: case.message,
                    seconds: case.seconds,
                };
                events.emit(EventKind::Case(case)).await;
            }
            let outcome = unit.outcome.unwrap_or_else(|| Outcome::NotRun("it did not end".into()));
            let outcome = if required { outcome } else { not_required(outcome) };
            let finished = EventKind::UnitFinished { unit: name, outcome, log: None, excerpt: unit.excerpt };
            events.emit(finished).await;
        }
        for finding in self.findings {
            let unit = if finding.unit.stage == Stage::Test { finding.unit } else { of.clone() };
            let level = if required { finding.level } else { finding.level.min(Level::Warning) };
            // The lab has other files.
            events.emit(EventKind::Finding(Finding { unit, level, file: None, line: None, ..finding })).await;
        }
    }
}

/// The outcome of something that may fail.
pub fn not_required(outcome: Outcome) -> Outcome {
    match outcome.is_success() {
        true => outcome,
        false => {
            let (word, why) = (outcome.word(), outcome.reason().unwrap_or_default());
            Outcome::Skipped(format!("{word}, and [device] required is false: {why}"))
        }
    }
}
