//! The rules of OE-Core's `scripts/contrib/patchreview.py` for one patch, the same in every release: the script of
//! an older release accepts any text after `Upstream-Status:`, and yocto-check-layer looks at it only from mickledore on.

use std::sync::LazyLock;

use regex::Regex;

use agent_types::events::Level;
use agent_types::release::Release;

use super::preflight::is_upstream_status;

/// Something to fix in a patch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remark {
    pub rule: &'static str,
    /// `Error` for the upstream status, `Warning` for the other tags.
    pub level: Level,
    pub message: String,
    /// Counts from 1.
    pub line: Option<u32>,
    pub hint: &'static str,
}

/// The statuses of patchreview, in lower case.
const STATUSES: [&str; 7] =
    ["accepted", "pending", "inappropriate", "backport", "submitted", "denied", "inactive-upstream"];

const STATUS_HINT: &str = "add a line like `Upstream-Status: Backport [address]` to its header; the others are \
                           Pending, Submitted, Denied, Inappropriate and Inactive-Upstream";
const SIGNED_OFF_HINT: &str = "add a line `Signed-off-by: NAME <ADDRESS>` to its header";
const CVE_HINT: &str = "add a line `CVE: CVE-YYYY-NNNN` to its header: the CVE checks look for it";

static STATUS: LazyLock<Regex> =
    LazyLock::new(|| regex(r"(?im)^[\t ]*(Upstream[-_ ]Status:?)[\t ]*([\w-]*)"));
static SIGNED_OFF: LazyLock<Regex> =
    LazyLock::new(|| regex(r"(?im)^[\t ]*(Signed[-_ ]off[-_ ]by:?)[\t ]*(.+)"));
static CVE_TAG: LazyLock<Regex> = LazyLock::new(|| regex(r"(?im)^[\t ]*CVE:"));
static CVE: LazyLock<Regex> = LazyLock::new(|| regex(r"(?i)cve-[0-9]{4}-[0-9]{4,6}"));

#[allow(
    clippy::expect_used,
    reason = "the patterns are constants of this file, and the tests use each of them"
)]
fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).expect("a valid pattern")
}

/// Reviews a patch by the rules of patchreview. `path`: as the report names it; patchreview looks for a CVE in it.
pub fn review(path: &str, bytes: &[u8], release: &Release) -> Vec<Remark> {
    // As Python reads it: other bytes are skipped, and all three kinds of line endings count.
    let ascii: Vec<u8> = bytes.iter().copied().filter(u8::is_ascii).collect();
    let text = String::from_utf8_lossy(&ascii).replace("\r\n", "\n").replace('\r', "\n");
    let name = path.rsplit('/').next().unwrap_or(path);
    let mut remarks: Vec<Remark> = status(name, &text, release).into_iter().collect();
    remarks.extend(signed_off(name, &text));
    if (CVE.is_match(path) || CVE.is_match(&text)) && !CVE_TAG.is_match(&text) {
        let message = format!("`{name}` names a CVE and has no CVE tag");
        remarks.push(Remark {
            rule: "patch-cve-tag",
            level: Level::Warning,
            message,
            line: None,
            hint: CVE_HINT,
        });
    }
    remarks
}

fn status(name: &str, text: &str, release: &Release) -> Option<Remark> {
    let error =
        |rule, message, line| Some(Remark { rule, level: Level::Error, message, line, hint: STATUS_HINT });
    let Some(found) = STATUS.captures(text) else {
        return error("upstream-status-missing", format!("`{name}` has no Upstream-Status"), None);
    };
    let at = found.get(1).map_or(0, |tag| tag.start());
    let line = line_of(text, at);
    if !text.split('\n').any(|line| is_upstream_status(line, release)) {
        let shown: String = text[at..].lines().next().unwrap_or_default().trim().chars().take(120).collect();
        let message = format!("`{name}` has a malformed Upstream-Status: `{shown}`");
        return error("upstream-status-malformed", message, Some(line));
    }
    let word = found.get(2).map_or("", |word| word.as_str());
    // An older tag above the right one.
    if !STATUSES.contains(&word.to_lowercase().as_str()) {
        let message = format!("`{name}` has an unknown Upstream-Status: `{word}`");
        return error("upstream-status-unknown", message, Some(line));
    }
    None
}

fn signed_off(name: &str, text: &str) -> Option<Remark> {
    let warning = |rule, message, line| {
        Some(Remark { rule, level: Level::Warning, message, line, hint: SIGNED_OFF_HINT })
    };
    let Some(tag) = SIGNED_OFF.captures(text).and_then(|found| found.get(1)) else {
        return warning("signed-off-by-missing", format!("`{name}` has no Signed-off-by"), None);
    };
    if tag.as_str() == "Signed-off-by:" {
        return None;
    }
    let message = format!("`{name}` has a malformed Signed-off-by: `{}`", tag.as_str());
    warning("signed-off-by-malformed", message, Some(line_of(text, tag.start())))
}

fn line_of(text: &str, at: usize) -> u32 {
    u32::try_from(text[..at].matches('\n').count()).map_or(u32::MAX, |lines| lines.saturating_add(1))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn rules(path: &str, text: &str, release: &str) -> Vec<(&'static str, Option<u32>)> {
        let release = Release::find(release).unwrap();
        review(path, text.as_bytes(), release).into_iter().map(|one| (one.rule, one.line)).collect()
    }

    /// `tests/tests/real/more_checks.rs` compares the same with the script itself.
    #[test]
    fn the_upstream_status_is_judged_as_by_patchreview() {
        const SOB: &str = "Signed-off-by: A <a@example.org>\n";
        for (text, wanted) in [
            ("Upstream-Status: Pending\n", None),
            ("Upstream-Status: Backport [https://x]\n", None),
            ("Upstream-Status: Inactive-Upstream [since: 2001]\n", None),
            ("", Some(("upstream-status-missing", None))),
            ("+Upstream-Status: Pending\n", Some(("upstream-status-missing", None))),
            ("x\n\tUpstream Status: Pending\n", Some(("upstream-status-malformed", Some(3)))),
            ("upstream-status: Pending\n", Some(("upstream-status-malformed", Some(2)))),
            ("Upstream-Status: Backport[https://x]\n", Some(("upstream-status-malformed", Some(2)))),
            ("Upstream-Status: Foo\n", Some(("upstream-status-malformed", Some(2)))),
            ("a\r\nUpstream-Status:\r\n", Some(("upstream-status-malformed", Some(3)))),
            ("Upstream-Status: Foo\nUpstream-Status: Pending\n", Some(("upstream-status-unknown", Some(2)))),
        ] {
            for release in ["dunfell", "kirkstone", "scarthgap", "master"] {
                let found = rules("x.patch", &format!("{SOB}{text}"), release);
                assert_eq!(found, wanted.into_iter().collect::<Vec<_>>(), "{release}: {text:?}");
            }
        }
        // Removed in nanbield.
        let accepted = format!("{SOB}Upstream-Status: Accepted\n");
        assert_eq!(rules("x.patch", &accepted, "mickledore"), []);
        assert_eq!(rules("x.patch", &accepted, "nanbield"), [("upstream-status-malformed", Some(2))]);
    }

    #[test]
    fn other_tags_are_warnings() {
        const STATUS: &str = "Upstream-Status: Pending\n";
        let signed = format!("{STATUS}Signed-off-by: A <a@example.org>\n");
        for (path, text, wanted) in [
            ("x.patch", STATUS.to_owned(), vec![("signed-off-by-missing", None)]),
            ("x.patch", format!("{STATUS}Signed off by: A\n"), vec![("signed-off-by-malformed", Some(2))]),
            ("CVE-2024-1234.patch", signed.clone(), vec![("patch-cve-tag", None)]),
            ("x.patch", format!("{signed}fixes cve-2024-123456\n"), vec![("patch-cve-tag", None)]),
            ("CVE-2024-1234.patch", format!("{signed}CVE: CVE-2024-1234\n"), vec![]),
        ] {
            assert_eq!(rules(path, &text, "scarthgap"), wanted, "{path} {text:?}");
        }
        let found = review("x.patch", b"", Release::find("scarthgap").unwrap());
        let levels: Vec<_> = found.iter().map(|remark| remark.level).collect();
        assert_eq!(levels, [Level::Error, Level::Warning]);
    }
}
