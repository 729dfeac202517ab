//! Keeps the results of a batch below a limit together: a result that is larger than its part loses details.

use std::io::Write;

use crate::report::{Notice, Summary, Timeline};
use agent_types::error::{Error, Result};
use agent_types::events::Level;

/// Maximum bytes of the results of all cells together, as JSON.
const ALL_RESULTS: usize = 64 << 20;

/// Maximum number of findings, failed tasks and notices of a shortened result.
const MOST: usize = 200;

/// The part of one of so many cells.
pub fn part_of(cells: usize) -> usize {
    ALL_RESULTS / cells.max(1)
}

/// The result, if it is within the limit; else without what the verdict, the failures and the findings do not need. If that is
/// not enough, it has fewer findings, and says that some are missing.
///
/// # Errors
/// If it is too large without details.
pub fn shortened(mut summary: Summary, limit: usize) -> Result<Summary> {
    if size(&summary)? <= limit {
        return Ok(summary);
    }
    remove_details(&mut summary);
    let message =
        "details are only in the report of the cell: the results of all cells are too large".to_owned();
    summary.notices.truncate(MOST);
    summary.notices.push(Notice { level: Level::Warning, message, hint: None });
    if size(&summary)? <= limit {
        return Ok(summary);
    }
    if summary.findings.len() > MOST {
        // GitHub would take the others for fixed.
        summary.unchecked_jobs = 1;
    }
    summary.findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    summary.findings.truncate(MOST);
    summary.failed_tasks.truncate(MOST);
    match size(&summary)? {
        bytes if bytes > limit => {
            Err(Error::usage(format!("its result is too large: {bytes} bytes without details, of {limit}")))
        }
        _ => Ok(summary),
    }
}

fn remove_details(summary: &mut Summary) {
    summary.timeline = Timeline::default();
    // The next batch chooses the machine by the peak.
    let peak = summary.machine.iter().max_by_key(|at| at.sample.memory_used).cloned();
    summary.machine = peak.into_iter().collect();
    summary.task_usage.clear();
    summary.commands.clear();
    summary.artifacts.clear();
    summary.affected = None;
    summary.base = None;
    for unit in &mut summary.units {
        unit.cases.retain(|case| !case.outcome.is_success());
        unit.cache_queries.clear();
    }
}

/// Bytes as JSON.
fn size(summary: &Summary) -> Result<usize> {
    struct Counter(usize);
    impl Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    serde_json::to_writer(&mut counter, summary)
        .map_err(|error| Error::internal("cannot measure a result").because(&error))?;
    Ok(counter.0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::report::CaseResult;
    use crate::report::sample::{failing_job, reduce};

    #[test]
    fn a_large_result_keeps_its_verdict_and_failures() {
        let mut summary = reduce(&failing_job());
        assert_eq!(shortened(summary.clone(), part_of(2)).unwrap(), summary);
        let passed = summary.units.iter().map(|unit| unit.cases.len()).sum::<usize>();
        assert!(summary.has_checked());
        let one = summary.artifacts.first().cloned();
        let mut finding = summary.findings[0].clone();
        finding.message = "x".repeat(1000);
        summary.findings = vec![finding; 2000];
        let short = shortened(summary.clone(), 1 << 20).unwrap();
        assert_eq!(
            (short.exit, &short.outcome, &short.stages),
            (summary.exit, &summary.outcome, &summary.stages)
        );
        assert_eq!((short.findings.len(), short.artifacts.len()), (MOST, 0), "{one:?}");
        let failed = short.units.iter().flat_map(|unit| &unit.cases);
        assert!(short.units.iter().map(|unit| unit.cases.len()).sum::<usize>() < passed);
        assert!(failed.clone().count() > 0 && failed.clone().all(|case| !case.outcome.is_success()));
        assert!(short.notices.last().unwrap().message.starts_with("details are only"));
        assert!(size(&short).unwrap() < 1 << 20);
        assert!(!short.has_checked(), "some findings are missing");
    }

    #[test]
    fn details_are_removed_before_findings() {
        let mut summary = reduce(&failing_job());
        summary.findings = vec![summary.findings[0].clone(); MOST + 1];
        let passed = |case: &&mut CaseResult| case.outcome.is_success();
        let case = summary.units.iter_mut().flat_map(|unit| &mut unit.cases).find(passed).unwrap();
        case.message = "x".repeat(1 << 20);
        let short = shortened(summary, 1 << 20).unwrap();
        assert!(short.findings.len() == MOST + 1 && short.has_checked(), "{} findings", short.findings.len());
    }

    #[test]
    fn what_stays_too_large_is_refused() {
        let mut summary = reduce(&failing_job());
        summary.units[0].name = "x".repeat(1 << 20);
        let error = shortened(summary, 1 << 20).unwrap_err();
        assert!(error.message.contains("too large"), "{error}");
        assert!(part_of(0) > 0 && part_of(100) * 100 <= ALL_RESULTS);
    }
}
