//! The annotations of a check run: the most important first. GitHub takes fifty in one request.

use std::collections::HashSet;

use agent_github::checks::{Annotation, AnnotationLevel};
use agent_github::pulls::Diff;
use agent_types::events::{Finding, Level};
use agent_types::sanitize::sanitize_line;
use agent_types::truncate;

use crate::report::comparison::Comparison;
use crate::report::github_actions::relative;
use crate::report::summary::Summary;

/// Maximum annotations of a run: more requests would not fit into the deadline.
const MOST: usize = 250;

/// Maximum bytes of a message.
const MESSAGE: usize = 4096;

/// The annotations, and the number of findings that have none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotations {
    pub shown: Vec<Annotation>,
    pub left: usize,
}

/// Those of the summary's findings that are in a file: the worst first, of these the ones that the change shows, of these
/// the new ones. The order is always the same, so that a repeated step can continue.
pub fn annotations(summary: &Summary, comparison: Option<&Comparison>, diff: &Diff) -> Annotations {
    let new: HashSet<usize> =
        comparison.iter().flat_map(|known| known.new_findings.iter().copied()).collect();
    let mut ranked: Vec<_> = summary
        .findings
        .iter()
        .enumerate()
        .filter_map(|(at, finding)| {
            let path = relative(finding.file.as_deref()?)?;
            let line = finding.line.unwrap_or(1).max(1);
            let is_shown = diff.has(&path, line);
            Some(((level(finding.level), !is_shown, !new.contains(&at), at), path, line, finding))
        })
        .collect();
    ranked.sort_by_key(|(rank, ..)| *rank);
    ranked.truncate(MOST);
    let shown: Vec<Annotation> =
        ranked.into_iter().map(|(_, path, line, finding)| annotation(path, line, finding)).collect();
    Annotations { left: summary.findings.len() - shown.len(), shown }
}

fn level(level: Level) -> AnnotationLevel {
    match level {
        Level::Error => AnnotationLevel::Failure,
        Level::Warning => AnnotationLevel::Warning,
        Level::Info => AnnotationLevel::Notice,
    }
}

/// GitHub shows the texts of an annotation as plain text.
fn annotation(path: String, line: u32, finding: &Finding) -> Annotation {
    let hint = finding.hint.iter().map(|hint| format!("\nhint: {hint}")).collect::<String>();
    let text = finding.message.clone() + &hint;
    let mut message = text.lines().map(sanitize_line).collect::<Vec<_>>().join("\n");
    truncate::middle(&mut message, MESSAGE);
    Annotation {
        path,
        start_line: line,
        end_line: line,
        annotation_level: level(finding.level),
        title: sanitize_line(&finding.rule).into_owned(),
        message,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::report::sample::preflight;

    fn finding(level: Level, file: Option<&str>, line: Option<u32>, message: &str) -> Finding {
        Finding {
            unit: preflight(),
            level,
            rule: "rule".into(),
            message: message.into(),
            file: file.map(Into::into),
            line,
            hint: None,
        }
    }

    fn summary(findings: Vec<Finding>) -> Summary {
        Summary { findings, ..Summary::default() }
    }

    #[test]
    fn the_worst_on_changed_lines_come_first() {
        let summary = summary(vec![
            finding(Level::Warning, Some("a.bb"), Some(2), "warning in the change"),
            finding(Level::Error, Some("b.bb"), Some(9), "error elsewhere"),
            finding(Level::Error, Some("b.bb"), Some(10), "new error elsewhere"),
            finding(Level::Error, Some("./a.bb"), Some(2), "error in the change"),
            finding(Level::Error, None, None, "no file"),
            finding(Level::Error, Some("/etc/passwd"), Some(1), "outside"),
            finding(Level::Error, Some("../x"), Some(1), "outside"),
            finding(Level::Info, Some("a.bb"), None, "no line"),
        ]);
        let mut diff = Diff::default();
        diff.add("a.bb", "@@ -0,0 +1,2 @@\n+a\n+b");
        let comparison = Comparison { new_findings: vec![2], ..Comparison::default() };
        let found = annotations(&summary, Some(&comparison), &diff);
        let said: Vec<_> = found.shown.iter().map(|one| (one.message.as_str(), one.start_line)).collect();
        assert_eq!(
            said,
            [
                ("error in the change", 2),
                ("new error elsewhere", 10),
                ("error elsewhere", 9),
                ("warning in the change", 2),
                ("no line", 1),
            ]
        );
        assert_eq!((found.left, found.shown[0].path.as_str()), (3, "a.bb"));
    }

    #[test]
    fn a_hundred_thousand_findings_are_counted() {
        let many = (0..100_000).map(|at| finding(Level::Error, Some("a.bb"), Some(at), "m")).collect();
        let found = annotations(&summary(many), None, &Diff::default());
        assert_eq!((found.shown.len(), found.left), (MOST, 100_000 - MOST));
        let hostile =
            finding(Level::Error, Some("a\nb.bb"), Some(1), &"\u{1b}[31m::error::\n".repeat(1 << 20));
        let found = annotations(&summary(vec![hostile]), None, &Diff::default());
        assert!(found.shown[0].message.len() <= MESSAGE && !found.shown[0].message.contains('\u{1b}'));
        assert!(!found.shown[0].path.contains('\n'), "{:?}", found.shown[0].path);
    }
}
