//! The known-failures file: tests that may fail until a day, each with a reason.
//!
//! ```toml
//! [[failure]]
//! test = "common.CommonCheckLayer.test_readme"   # or test_readme
//! stage = "check"                                # optional: check (default) or test
//! layer = "meta-x"                               # optional: the layer directory's name; not with stage = "test"
//! reason = "waits for https://example.org/1"
//! expires = "2026-06-30"                         # from this day on it fails again
//! ```

use schemars::JsonSchema;
use serde::Deserialize;

use agent_types::stage::Stage;

use super::problem::{Diagnostic, KeyPath, Problems};
use super::settings::KnownFailure;
use super::validator::Validator;
use super::{structure, tree, values};

/// Tests that may fail for a while.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct UnvalidatedFile {
    /// One table for each test.
    failure: Option<Vec<UnvalidatedFailure>>,
}

/// A test that may fail for a while.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct UnvalidatedFailure {
    /// The test, as class.test_name or test_name.
    #[schemars(required)]
    test: Option<String>,
    /// The stage whose test it is; check by default.
    stage: Option<FailureStage>,
    /// The layer directory's name, if it applies to one layer only.
    layer: Option<String>,
    /// Why it fails and who will fix it.
    #[schemars(required)]
    reason: Option<String>,
    /// The day from which it fails again, YYYY-MM-DD.
    #[schemars(required)]
    expires: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum FailureStage {
    /// A test of yocto-check-layer.
    Check,
    /// A test on a running system, such as parselogs.ParseLogsTest.test_parselogs or ptest.zlib.run-ptest.
    Test,
}

/// Reads the file; `today` is `YYYY-MM-DD` in UTC.
pub fn read(file: &str, bytes: &[u8], today: &str, problems: &mut Problems) -> Vec<KnownFailure> {
    let Some(tree) = tree::parse_bytes(file, bytes, problems) else { return Vec::new() };
    let (raw, meant): (UnvalidatedFile, _) = structure::read(&tree, problems);
    let mut check = Validator { tree: &tree, problems, meant };
    let mut known: Vec<KnownFailure> = Vec::new();
    for (index, raw) in raw.failure.iter().flatten().enumerate() {
        let path = KeyPath::root().key("failure").index(index);
        let Some(failure) = failure(&mut check, &path, raw, today) else { continue };
        let same = |other: &&KnownFailure| {
            other.stage == failure.stage
                && other.layer == failure.layer
                && same_test(&other.test, &failure.test)
        };
        if let Some(other) = known.iter().find(same) {
            let as_what = if other.test == failure.test {
                String::new()
            } else {
                format!(", the first time as `{}`", other.test)
            };
            let mistake = Diagnostic::new(format!("`{}` is listed twice{as_what}", failure.test));
            check.value(&path.key("test"), mistake.hint("remove one of the two entries"));
        }
        known.push(failure);
    }
    known
}

fn failure(
    check: &mut Validator,
    path: &KeyPath,
    raw: &UnvalidatedFailure,
    today: &str,
) -> Option<KnownFailure> {
    let stage = match raw.stage {
        None | Some(FailureStage::Check) => Stage::Check,
        Some(FailureStage::Test) => Stage::Test,
    };
    if stage == Stage::Test && raw.layer.is_some() {
        let mistake =
            Diagnostic::new("has no effect with `stage = \"test\"`: such a test does not belong to a layer");
        check.value(&path.key("layer"), mistake.hint("remove it"));
    }
    let rule: fn(&str) -> Result<String, Diagnostic> =
        if stage == Stage::Test { running_test_id } else { test_id };
    let test = check.one(&path.key("test"), raw.test.as_ref(), rule);
    let layer = check.one(&path.key("layer"), raw.layer.as_ref(), directory_name);
    let reason = check.one(&path.key("reason"), raw.reason.as_ref(), |text| match text.trim() {
        "" => Err(Diagnostic::new("is empty").hint("say why the test fails and who will fix it")),
        reason => Ok(reason.to_owned()),
    });
    let expires = check
        .one(&path.key("expires"), raw.expires.as_ref(), |text| values::day(text).map(|()| text.to_owned()));
    if raw.layer.is_some() && layer.is_none() {
        return None;
    }
    let expires = expires?;
    // Days in this format sort as text.
    let expired = today >= expires.as_str();
    Some(KnownFailure { test: test?, stage, layer, reason: reason?, expires, expired })
}

/// One test has several spellings: `test_x`, `Class.test_x` and `module.Class.test_x`.
fn same_test(one: &str, other: &str) -> bool {
    let (short, long) = if one.len() < other.len() { (one, other) } else { (other, one) };
    long.strip_suffix(short).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

fn test_id(text: &str) -> Result<String, Diagnostic> {
    let good = |c: char| c.is_alphanumeric() || "._-:".contains(c);
    if !text.is_empty() && text.chars().all(good) {
        Ok(text.to_owned())
    } else {
        Err(Diagnostic::new(format!("`{text}` is not a test"))
            .hint("write test_name or class.test_name, such as common.CommonCheckLayer.test_readme"))
    }
}

/// The name of a test on a running system. A ptest can choose any names for its tests.
fn running_test_id(text: &str) -> Result<String, Diagnostic> {
    let bad = |c: char| c.is_whitespace() || c.is_control();
    match text.is_empty() || text.contains(bad) {
        true => Err(Diagnostic::new(format!("{text:?} is not a test")).hint(
            "write it as the reports do, such as ptest.zlib.run-ptest; they have `_` in the place of blanks",
        )),
        false => Ok(text.to_owned()),
    }
}

fn directory_name(text: &str) -> Result<String, Diagnostic> {
    if text.is_empty() || text.contains('/') || text == "." || text == ".." {
        Err(Diagnostic::new(format!("`{text}` is not the name of a directory"))
            .hint("write the last part of the layer's path"))
    } else {
        Ok(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failures(text: &str, today: &str) -> (Vec<KnownFailure>, String) {
        let mut problems = Problems::default();
        let known = read("known.toml", text.as_bytes(), today, &mut problems);
        (known, problems.to_string())
    }

    #[test]
    fn entry_expires_on_its_day() {
        let text = "[[failure]]\ntest = 'test_readme'\nreason = 'x'\nexpires = '2026-03-01'\n";
        for (today, expired) in [("2026-02-28", false), ("2026-03-01", true), ("2027-01-01", true)] {
            let (known, said) = failures(text, today);
            assert_eq!(known.len(), 1, "{said}");
            assert_eq!(known[0].expired, expired, "{today}");
        }
        assert!(failures("", "2026-01-01").0.is_empty());
    }

    #[test]
    fn rejects_one_test_under_two_spellings() {
        let entry = |test: &str, layer: &str| {
            format!("[[failure]]\ntest = '{test}'\nlayer = '{layer}'\nreason = 'r'\nexpires = '2026-03-01'\n")
        };
        let spellings =
            ["test_readme", "CommonCheckLayer.test_readme", "common.CommonCheckLayer.test_readme"];
        for one in spellings {
            for other in spellings {
                let (_, said) = failures(&(entry(one, "a") + &entry(other, "a")), "2026-01-01");
                assert!(
                    said.contains(&format!("known.toml:7:8: [[failure]] test: `{other}` is listed twice")),
                    "{said}"
                );
                assert_eq!(said.contains(&format!("the first time as `{one}`")), one != other, "{said}");
            }
        }
        for (one, other) in [
            (entry("test_readme", "a"), entry("test_readme", "b")),
            (entry("test_readme", "a"), entry("readme", "a")),
            (entry("A.test_x", "a"), entry("B.test_x", "a")),
        ] {
            assert_eq!(
                failures(&(one + &other), "2026-01-01").1,
                "0 problems; nothing was run",
                "different tests"
            );
        }
    }

    #[test]
    fn an_entry_is_for_one_stage() {
        let entry = |test: &str, more: &str| {
            format!("[[failure]]\ntest = '{test}'\nreason = 'r'\nexpires = '2026-03-01'\n{more}\n")
        };
        let text = entry("test_x", "")
            + &entry("test_x", "stage = 'test'")
            + &entry("ptest.a/b[1]", "stage = 'test'");
        let (known, said) = failures(&text, "2026-01-01");
        let stages: Vec<_> = known.iter().map(|entry| entry.stage).collect();
        assert_eq!(stages, [Stage::Check, Stage::Test, Stage::Test], "{said}");
        for (text, wanted) in [
            (entry("a/b", ""), "`a/b` is not a test"),
            (entry("a b", "stage = 'test'"), "\"a b\" is not a test"),
            (entry("test_x", "stage = 'test'\nlayer = 'meta-x'"), "layer: has no effect with `stage"),
            (entry("test_x", "stage = 'build'"), "`build` is not one of check, test"),
        ] {
            let (_, said) = failures(&text, "2026-01-01");
            assert!(said.contains(wanted), "{wanted} not in {said}");
        }
    }

    #[test]
    fn reports_all_problems_with_their_positions() {
        let text = "[[failure]]\ntest = 'a b'\nreasn = 'x'\nexpires = '2026-02-30'\n\
                    [[failure]]\ntest = 'test_x'\nreason = ' '\nexpires = 2026-01-01\nlayer = 'a/b'\n\
                    [[failure]]\ntest = 'test_y'\nreason = 'r'\nexpires = '2026-01-01'\n\
                    [[failure]]\ntest = 'test_y'\nreason = 'r'\nexpires = '2026-01-01'\n[failures]\n";
        let (_, said) = failures(text, "2026-01-01");
        for wanted in [
            "known.toml:2:8: [[failure]] test: `a b` is not a test",
            "known.toml:3:1: [[failure]] reasn: unknown key\n  hint: did you mean `reason`?",
            "known.toml:4:11: [[failure]] expires: `2026-02-30` is not a day",
            "known.toml:7:10: [[failure]] reason: is empty",
            "known.toml:8:11: [[failure]] expires: must be a string, not a date or time\n  hint: put it in quotes: \"2026-01-01\"",
            "known.toml:9:9: [[failure]] layer: `a/b` is not the name of a directory",
            "known.toml:15:8: [[failure]] test: `test_y` is listed twice",
            "known.toml:18:2: [failures]: unknown key\n  hint: did you mean `failure`?",
        ] {
            assert!(said.contains(wanted), "{wanted}\n--- not in:\n{said}");
        }
        assert!(said.contains("8 problems"), "{said}");
    }
}
