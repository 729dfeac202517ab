//! Places in files, and the entries of lists, out of the messages of failing tests.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::bitbake_layers::{bitbake_message, locate};
use agent_types::events::{Finding, Level, Unit};
use agent_types::outcome::Outcome;

use super::lists::entries;
use super::verdict::Verdict;

/// One finding for each place that BitBake complains about in a failing test, and once only: many
/// tests read the same broken recipe; then one for each entry that a failing test lists. Files below
/// `checkout` are named relative to it.
pub fn findings(verdict: &Verdict, unit: &Unit, checkout: &Path) -> Vec<Finding> {
    let mut seen = BTreeSet::new();
    let failed = || verdict.cases.iter().filter(|case| matches!(case.outcome, Outcome::Failed(_)));
    let relative = |file: PathBuf| file.strip_prefix(checkout).map(Path::to_path_buf).unwrap_or(file);
    let listed = failed().flat_map(|case| entries(&case.name, &case.message)).map(|entry| Finding {
        unit: unit.clone(),
        level: Level::Error,
        rule: entry.rule.to_owned(),
        message: entry.message,
        file: entry.file.map(relative),
        line: None,
        hint: None,
    });
    let complaints = failed().flat_map(|case| case.message.lines().filter_map(bitbake_message));
    complaints
        .filter(|(level, _)| *level == Level::Error)
        .filter_map(|(level, text)| Some((level, text, locate(text)?)))
        .filter(|(_, _, place)| seen.insert(place.clone()))
        .map(|(level, text, (file, line))| Finding {
            unit: unit.clone(),
            level,
            rule: "bitbake-error".to_owned(),
            message: text.to_owned(),
            file: Some(relative(file)),
            line: Some(line),
            hint: None,
        })
        .chain(listed)
        .collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::super::verdict::JudgedCase;
    use super::*;
    use agent_types::stage::Stage;

    #[test]
    fn one_place_is_told_once_and_only_for_failures() {
        let case = |outcome: Outcome, message: &str| JudgedCase {
            class: "common.CommonCheckLayer".into(),
            name: "test".into(),
            outcome,
            message: message.into(),
        };
        let broken = "RuntimeError: x\nOutput:\nParsing recipes...ERROR: ParseError at /src/meta-x/a.bb:3: no\n\
                      WARNING: /src/meta-x/b.bb:4 warns\nERROR: nowhere";
        let failed = || Outcome::Failed("x".into());
        let verdict = Verdict {
            outcome: Ok(failed()),
            cases: vec![
                case(failed(), broken),
                case(failed(), broken),
                case(Outcome::Passed, "ERROR: ParseError at /src/meta-x/c.bb:5: printed"),
                case(failed(), "ERROR: ParseError at /oe/meta/d.bb:6: no"),
            ],
            tool_verdict: String::new(),
            by_cases: true,
        };
        let found = findings(&verdict, &Unit::new(Stage::Check, "u"), Path::new("/src"));
        let places: Vec<_> = found
            .iter()
            .map(|one| (one.file.as_ref().unwrap().to_str().unwrap(), one.line.unwrap()))
            .collect();
        assert_eq!(places, [("meta-x/a.bb", 3), ("/oe/meta/d.bb", 6)]);
        assert_eq!(found[0].message, "ParseError at /src/meta-x/a.bb:3: no");
    }
}
