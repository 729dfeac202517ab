//! The findings of several jobs as one list: what several jobs found is there once.

use std::collections::HashMap;
use std::path::Path;

use agent_types::events::{Finding, JobIdentity};
use agent_types::words::count;

use super::merged::label;
use super::summary::Summary;

/// Maximum number of findings, as in [`super::sarif`].
const MOST: usize = 25_000;

/// Maximum bytes of all texts of findings, so that the result can be read again.
const BYTES: usize = 16 << 20;

/// Maximum number of cells that a finding names.
const NAMES: usize = 5;

/// The findings of several jobs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CombinedFindings {
    pub list: Vec<Finding>,
    /// How many did not fit; the least important ones.
    pub omitted: usize,
}

/// What makes two findings of different jobs the same, with a number for equal ones of one job.
type Key<'a> = (u8, &'a str, Option<&'a Path>, Option<u32>, &'a str, usize);

/// The findings of all jobs, in the order of the jobs. A finding that only some of them have names them in its hint.
pub fn combined_findings(jobs: &[Summary]) -> CombinedFindings {
    let mut places: HashMap<Key, usize> = HashMap::new();
    let mut all: Vec<(&Finding, Vec<&JobIdentity>)> = Vec::new();
    for job in jobs {
        let mut numbers: HashMap<Key, usize> = HashMap::new();
        for finding in &job.findings {
            let number = numbers.entry(key(finding, 0)).or_default();
            let key = key(finding, *number);
            *number += 1;
            match places.get(&key) {
                Some(place) => all[*place].1.push(&job.job),
                None => {
                    places.insert(key, all.len());
                    all.push((finding, vec![&job.job]));
                }
            }
        }
    }
    let number = all.len();
    all.sort_by_key(|(finding, _)| std::cmp::Reverse(finding.level));
    let mut bytes = 0;
    let list: Vec<Finding> = all
        .into_iter()
        .take(MOST)
        .map(|(finding, of)| named(finding, &of, jobs.len()))
        .take_while(|finding| {
            bytes += size(finding);
            bytes <= BYTES
        })
        .collect();
    CombinedFindings { omitted: number - list.len(), list }
}

fn key(finding: &Finding, number: usize) -> Key<'_> {
    let level = finding.level as u8;
    (level, &finding.rule, finding.file.as_deref(), finding.line, &finding.message, number)
}

/// The finding, with the names of the jobs that have it unless all have.
fn named(finding: &Finding, of: &[&JobIdentity], jobs: usize) -> Finding {
    let mut finding = finding.clone();
    if of.len() < jobs {
        let mut names: Vec<String> = of.iter().take(NAMES).map(|job| label(job)).collect();
        if let Some(more) = of.len().checked_sub(NAMES).filter(|more| *more > 0) {
            names.push(count(more as u64, "other job"));
        }
        let only = format!("only in {}", names.join(", "));
        finding.hint = Some(finding.hint.map_or_else(|| only.clone(), |hint| format!("{hint}\n{only}")));
    }
    finding
}

fn size(finding: &Finding) -> usize {
    let file = finding.file.as_deref().map_or(0, |file| file.as_os_str().len());
    let texts = [&finding.unit.name, &finding.rule, &finding.message].map(|text| text.len());
    texts.iter().sum::<usize>() + file + finding.hint.as_ref().map_or(0, String::len)
}

#[cfg(test)]
mod tests {
    use agent_types::events::Level;

    use super::*;
    use crate::report::sample::check_layer;

    fn finding(level: Level, line: u32, message: &str) -> Finding {
        Finding {
            unit: check_layer(),
            level,
            rule: "rule".into(),
            message: message.into(),
            file: Some("a.bb".into()),
            line: Some(line),
            hint: None,
        }
    }

    fn job(cell: &str, findings: Vec<Finding>) -> Summary {
        let job = JobIdentity { name: "x".into(), cell: Some(cell.into()), ..JobIdentity::default() };
        Summary { job, findings, ..Summary::default() }
    }

    #[test]
    fn what_several_jobs_found_is_there_once() {
        let both = finding(Level::Warning, 1, "both");
        let twice = finding(Level::Warning, 2, "twice in a");
        let only = finding(Level::Error, 3, "only b");
        let jobs = [
            job("a", vec![both.clone(), twice.clone(), twice.clone()]),
            job("b", vec![only.clone(), twice.clone(), both.clone()]),
        ];
        let found = combined_findings(&jobs);
        let said: Vec<_> = found.list.iter().map(|one| (one.message.as_str(), one.hint.as_deref())).collect();
        assert_eq!(
            said,
            [
                ("only b", Some("only in x b")),
                ("both", None),
                ("twice in a", None),
                ("twice in a", Some("only in x a"))
            ]
        );
        assert_eq!(found.omitted, 0);
        assert_eq!(combined_findings(&[]), CombinedFindings::default());
    }

    #[test]
    fn jobs_are_named_up_to_a_limit_and_hints_stay() {
        let mut hinted = finding(Level::Error, 1, "m");
        hinted.hint = Some("fix it".into());
        let mut jobs: Vec<Summary> =
            (0..8).map(|number| job(&format!("c{number}"), vec![hinted.clone()])).collect();
        jobs.push(job("other", Vec::new()));
        let hint = combined_findings(&jobs).list[0].hint.clone().unwrap_or_default();
        assert_eq!(hint, "fix it\nonly in x c0, x c1, x c2, x c3, x c4, 3 other jobs");
    }

    #[test]
    fn the_number_and_the_bytes_are_bounded_and_errors_come_first() {
        let mut many: Vec<Finding> =
            (0..MOST as u32 + 5).map(|line| finding(Level::Warning, line, "w")).collect();
        many.push(finding(Level::Error, 1, "the error"));
        let found = combined_findings(&[job("a", many)]);
        assert_eq!((found.list.len(), found.omitted), (MOST, 6));
        assert_eq!(found.list[0].message, "the error");
        let large = (0..40).map(|line| finding(Level::Error, line, &"x".repeat(1 << 20))).collect();
        let found = combined_findings(&[job("a", large)]);
        assert_eq!((found.list.len(), found.omitted), (15, 25));
    }
}
