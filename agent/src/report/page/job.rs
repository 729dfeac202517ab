//! What the parts of the page know about a job.

use std::collections::HashMap;
use std::path::{Component, Path};

use maud::Markup;

use agent_types::base_result::TestId;

use super::text::{encoded, file_address};
use crate::report::comparison::Comparison;
use crate::report::console::{Failure, failures};
use crate::report::summary::Summary;
use crate::report::totals::{Suite, Totals, suites};

/// A job with all that is computed from it.
pub struct Job<'a> {
    pub summary: &'a Summary,
    pub suites: Vec<Suite<'a>>,
    pub failures: Vec<Failure<'a>>,
    pub totals: Totals,
    pub comparison: Option<Comparison>,
    changes: HashMap<TestId, TestChange>,
    /// Its number on a page of several jobs, from 1.
    place: Option<usize>,
    /// In front of the addresses of its files: empty, or the way from the page to them, with a `/` at its end.
    files: String,
}

/// What the change under test did to a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TestChange {
    /// It fails, and did not fail before.
    New,
    /// It fails, and failed before.
    Before,
    Fixed,
    /// It failed and passed with equal signatures.
    Flaky,
}

impl<'a> Job<'a> {
    pub fn new(summary: &'a Summary, place: Option<usize>) -> Job<'a> {
        let suites = suites(summary);
        let failures = failures(summary, &suites);
        let comparison = Comparison::of(summary);
        let changes = comparison.as_ref().map(changes).unwrap_or_default();
        let (totals, files) = (Totals::of(summary), String::new());
        Job { summary, suites, failures, totals, comparison, changes, place, files }
    }

    /// The same job, whose files lie in this directory, seen from the page.
    pub fn in_directory(self, directory: &Path) -> Job<'a> {
        let names = directory.components().map(|component| match component {
            Component::ParentDir => "../".to_owned(),
            other => format!("{}/", encoded(other.as_os_str())),
        });
        Job { files: names.collect(), ..self }
    }

    /// The address of a file in the output directory of the job. `None` if it would lead out of the directory.
    pub fn file_address(&self, path: &Path) -> Option<String> {
        Some(format!("{}{}", self.files, file_address(path)?))
    }

    /// The same job with another comparison.
    #[cfg(test)]
    pub fn compared(self, comparison: Comparison) -> Job<'a> {
        Job { changes: changes(&comparison), comparison: Some(comparison), ..self }
    }

    pub fn change_of(&self, test: &TestId) -> Option<TestChange> {
        self.changes.get(test).copied()
    }

    /// The failures with this change, each with its number.
    pub fn failures_with(&self, change: Option<TestChange>) -> impl Iterator<Item = (usize, &Failure<'a>)> {
        let all = self.failures.iter().enumerate();
        all.filter(move |(_, failure)| self.change_of(&failure.id) == change)
    }

    /// The id of an element, different for each job of a page.
    pub fn element(&self, name: &str) -> String {
        match self.place {
            None => name.to_owned(),
            Some(place) => format!("job{place}-{name}"),
        }
    }

    /// The level of the heading of the job itself.
    pub fn level(&self) -> u8 {
        if self.place.is_some() { 2 } else { 1 }
    }
}

fn changes(comparison: &Comparison) -> HashMap<TestId, TestChange> {
    let lists = [
        (&comparison.fixed, TestChange::Fixed),
        (&comparison.still_failing, TestChange::Before),
        (&comparison.new_failures, TestChange::New),
        // A test that is flaky is in one of the others as well.
        (&comparison.flaky, TestChange::Flaky),
    ];
    let all = lists.into_iter().flat_map(|(tests, change)| tests.iter().map(move |test| (test, change)));
    all.map(|(test, change)| (test.clone(), change)).collect()
}

/// A part of a job's page.
pub struct Section {
    /// Of its element, without the job's number.
    pub name: &'static str,
    pub title: &'static str,
    /// For the links at the top.
    pub count: Option<u64>,
    pub body: Markup,
}
