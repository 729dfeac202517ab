//! Reads the summary that Device Tester prints at the end of a run.

use std::collections::BTreeMap;

use agent_process::LineHandler;
use agent_types::events::EventKind;

/// More groups than these are not kept.
const MOST_GROUPS: usize = 1000;

/// What the console says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Whether the block was printed.
    pub is_there: bool,
    pub passed: Option<u64>,
    pub failed: Option<u64>,
    /// The groups and their words: `PASSED`, `FAILED` …
    pub groups: BTreeMap<String, String>,
    /// The last `executionId=` of the log, which names the directory of the results.
    pub execution: Option<String>,
    /// What runs now.
    running: Option<String>,
    part: Part,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Part {
    #[default]
    Before,
    Numbers,
    Groups,
    Rest,
}

impl LineHandler for Summary {
    fn line(&mut self, line: &str) -> Vec<EventKind> {
        self.read(line);
        Vec::new()
    }

    fn status(&self) -> Option<String> {
        self.running.clone()
    }
}

impl Summary {
    /// Reads one line.
    pub fn read(&mut self, line: &str) {
        let line = line.trim();
        if line.contains("= Test Summary =") {
            let execution = self.execution.take();
            *self = Summary { is_there: true, execution, part: Part::Numbers, ..Summary::default() };
            return;
        }
        match self.part {
            Part::Before => self.log_line(line),
            _ if line.starts_with("Test Groups:") => self.part = Part::Groups,
            _ if line.starts_with("Failed Tests:") => self.part = Part::Rest,
            Part::Numbers => match line.split_once(':') {
                Some(("Tests Passed", number)) => self.passed = number.trim().parse().ok(),
                Some(("Tests Failed", number)) => self.failed = number.trim().parse().ok(),
                _ => {}
            },
            Part::Groups => match line.rsplit_once(':') {
                Some((name, word)) if self.groups.len() < MOST_GROUPS => {
                    self.groups.insert(name.trim().to_owned(), word.trim().to_owned());
                }
                _ => self.part = Part::Rest,
            },
            Part::Rest => {}
        }
    }

    /// A line in the form of logfmt: `time=… level=info msg=… suiteId=… groupId=… testCaseId=… executionId=…`.
    fn log_line(&mut self, line: &str) {
        let field = |name: &str| {
            let value =
                line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='))?;
            let is_plain = |value: &&str| {
                let plain = |char: char| char.is_ascii_alphanumeric() || "._-".contains(char);
                !value.is_empty() && value.len() <= 200 && value.chars().all(plain) && !value.starts_with('.')
            };
            Some(value.trim_matches('"')).filter(is_plain)
        };
        if let Some(execution) = field("executionId") {
            self.execution = Some(execution.to_owned());
        }
        if let Some(case) = field("testCaseId") {
            let group = field("groupId").map(|group| format!("{group}/")).unwrap_or_default();
            self.running = Some(format!("Device Tester: {group}{case}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONSOLE: &str = r#"
time="2026-11-30T02:00:00Z" level=info msg=Using suite: GGV2Q_2.5.4
time="2026-11-30T02:00:01Z" level=info msg=Running test case... suiteId=GGV2Q groupId=mqtt testCaseId=pubsub deviceId=d1 executionId=5f3c-11
time="2026-11-30T02:00:02Z" level=info msg=hostile executionId=../../etc

========== Test Summary ==========
Execution Time: 		5m00s
Tests Completed: 		4
Tests Passed: 			3
Tests Failed: 			1
Tests Skipped: 			0
----------------------------------
Test Groups:
    coredependencies: 	PASSED
    mqtt: 		FAILED
----------------------------------
Failed Tests:
    Group Name: mqtt
        Test Name: pubsub
            Reason: Something bad happened
----------------------------------
Path to AWS IoT Device Tester Report: /idt/results/5f3c-11/awsiotdevicetester_report.xml
Path to Test Execution Logs: /idt/results/5f3c-11/logs
Path to Aggregated JUnit Report: /idt/results/5f3c-11/GGV2Q_Report.xml
"#;

    #[test]
    fn the_summary_and_the_execution_are_read() {
        let mut summary = Summary::default();
        let (log, rest) = CONSOLE.split_once("=====").unwrap_or_default();
        log.lines().for_each(|line| summary.read(line));
        assert_eq!(summary.status().as_deref(), Some("Device Tester: mqtt/pubsub"));
        rest.lines().for_each(|line| summary.read(line));
        let groups: Vec<(&str, &str)> =
            summary.groups.iter().map(|(name, word)| (name.as_str(), word.as_str())).collect();
        assert_eq!(groups, [("coredependencies", "PASSED"), ("mqtt", "FAILED")]);
        assert_eq!((summary.passed, summary.failed, summary.is_there), (Some(3), Some(1), true));
        assert_eq!(summary.execution.as_deref(), Some("5f3c-11"));
    }

    #[test]
    fn a_console_without_a_summary_has_none() {
        let mut summary = Summary::default();
        for line in ["Tests Failed: 3", "[INFO] [2026]: done", "Test Groups:", "x: PASSED"] {
            summary.read(line);
        }
        assert!(!summary.is_there && summary.failed.is_none() && summary.groups.is_empty());
    }
}
