//! `test_patches_upstream_status`: every patch states its upstream status.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use agent_fs::untrusted;
use agent_types::events::Level;
use agent_types::release::Release;

use super::PreflightCase;
use super::since::{self, since};
use crate::unreadable::reason;

const TEST: &str = "common.CommonCheckLayer.test_patches_upstream_status";
const HINT: &str = "add a line like `Upstream-Status: Backport [address]` to its header; the others are \
                    Pending, Submitted, Denied, Inappropriate and Inactive-Upstream";

pub fn check(layer: &Path, release: &Release) -> Vec<PreflightCase> {
    let found: Vec<(PathBuf, Status)> = patches(layer)
        .filter_map(|path| {
            let mut status = match untrusted::read_named(&path, untrusted::SOURCE) {
                Ok(bytes) => status(&bytes, release),
                // The tool reads files of any size; pipes and devices have a rule of their own.
                Err(error) if matches!(error.kind(), ErrorKind::FileTooLarge | ErrorKind::InvalidInput) => {
                    return None;
                }
                Err(error) => Status::Unreadable(reason(&path, &error)),
            };
            if let Status::Malformed { text, .. } = &mut status
                && leads_out(&path, layer)
            {
                // The agent may have more rights than the layer's author, so a link must not reveal a file.
                *text = "…".into();
            }
            (status != Status::Fine).then_some((path, status))
        })
        .collect();
    if since(release, since::UPSTREAM_STATUS_FAILS) {
        return found.into_iter().map(|(path, status)| case(&path, &status, Level::Error)).collect();
    }
    // In this release it does not matter how the test fails.
    let readable = |(_, status): &&(PathBuf, Status)| !matches!(status, Status::Unreadable(_));
    let found: Vec<_> = found.iter().filter(readable).collect();
    // One finding for all: in this release they cause no failure.
    let Some((first, status)) = found.first() else { return Vec::new() };
    let mut one = case(first, status, Level::Warning);
    let why = if since(release, since::UPSTREAM_STATUS_KNOWN) {
        "expected to fail in this release"
    } else {
        "not checked in this release"
    };
    let others = match found.len() - 1 {
        0 => String::new(),
        1 => " and 1 other patch like it".to_owned(),
        n => format!(" and {n} other patches like it"),
    };
    one.message =
        format!("{}{others} ({why}, an error from {} on)", one.message, since::UPSTREAM_STATUS_FAILS);
    vec![one]
}

/// All files below the layer that `os.walk` lists as `*.patch`, in a stable order: also those in `.git` and
/// through links to files, but not through links to directories.
fn patches(layer: &Path) -> impl Iterator<Item = PathBuf> {
    WalkDir::new(layer)
        .sort_by_file_name()
        .into_iter()
        .filter_map(Result::ok)
        .map(walkdir::DirEntry::into_path)
        .filter(|path| path.as_os_str().as_encoded_bytes().ends_with(b".patch") && !path.is_dir())
}

fn leads_out(path: &Path, layer: &Path) -> bool {
    path.canonicalize().map_or(true, |real| !real.starts_with(layer))
}

fn case(path: &Path, status: &Status, level: Level) -> PreflightCase {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let case = match status {
        Status::Malformed { text, line } => {
            let message = format!("`{name}` has a malformed Upstream-Status: `{text}`");
            PreflightCase::new("upstream-status-malformed", TEST, level, message).line(*line)
        }
        Status::Unreadable(why) => {
            let message = format!("`{name}` cannot be read: {why}");
            let case = PreflightCase::new("patch-unreadable", TEST, level, message);
            return case.at(path).hint("make it a regular file that the build user can read");
        }
        Status::Missing | Status::Fine => {
            let message = format!("`{name}` has no Upstream-Status");
            PreflightCase::new("upstream-status-missing", TEST, level, message)
        }
    };
    case.at(path).hint(HINT)
}

#[derive(Debug, PartialEq, Eq)]
enum Status {
    Fine,
    Missing,
    Malformed { text: String, line: u32 },
    Unreadable(String),
}

/// Parses the status as `oe.qa.check_upstream_status` does: bytes that are not text are skipped, and all
/// three kinds of line endings count.
fn status(bytes: &[u8], release: &Release) -> Status {
    let text: String = bytes.utf8_chunks().map(|chunk| chunk.valid()).collect();
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    if text.split('\n').any(|line| is_upstream_status(line, release)) {
        return Status::Fine;
    }
    let kinda = text.split('\n').zip(1u32..).find(|(line, _)| {
        let lower = line.to_lowercase();
        lower.find("upstream").is_some_and(|at| lower[at + "upstream".len()..].contains("status"))
    });
    match kinda {
        Some((line, number)) => {
            Status::Malformed { text: line.trim().chars().take(120).collect(), line: number }
        }
        None => Status::Missing,
    }
}

/// Whether the line is `Upstream-Status: WORD( .+)?`.
pub fn is_upstream_status(line: &str, release: &Release) -> bool {
    const WORDS: [&str; 6] =
        ["Pending", "Submitted", "Denied", "Inappropriate", "Backport", "Inactive-Upstream"];
    let Some(rest) = line.strip_prefix("Upstream-Status: ") else { return false };
    let accepted = (!since(release, since::NO_ACCEPTED)).then_some("Accepted");
    WORDS
        .into_iter()
        .chain(accepted)
        .filter_map(|word| rest.strip_prefix(word))
        .any(|after| after.is_empty() || after.strip_prefix(' ').is_some_and(|comment| !comment.is_empty()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn parses_statuses_as_the_tool_does() {
        let malformed = |text: &str, line| Status::Malformed { text: text.into(), line };
        let table: [(&[u8], Status); 16] = [
            (b"Upstream-Status: Pending\n", Status::Fine),
            (b"Upstream-Status: Backport [https://x]\n", Status::Fine),
            (b"Upstream-Status: Inactive-Upstream [since: 2001]", Status::Fine),
            (b"From: x\r\nUpstream-Status: Denied\r\n\r\n", Status::Fine),
            (b"a\rUpstream-Status: Submitted\rb", Status::Fine),
            // Undecodable bytes are dropped before the pattern is applied.
            (b"\xff\nUpstream-Status: Pend\xffing\n", Status::Fine),
            (b"bad\nUpstream-Status: Foo\nUpstream-Status: Pending\n", Status::Fine),
            (b"", Status::Missing),
            (b"diff --git a b\n", Status::Missing),
            (b"status upstream\n", Status::Missing),
            (b"x\nUpstream-Status: Pending \n", malformed("Upstream-Status: Pending", 2)),
            (b"Upstream-Status: Backport[https://x]\n", malformed("Upstream-Status: Backport[https://x]", 1)),
            (b"Upstream-status: Pending\n", malformed("Upstream-status: Pending", 1)),
            (b"+Upstream-Status: Pending\n", malformed("+Upstream-Status: Pending", 1)),
            (b"Upstream-Status:Pending\n", malformed("Upstream-Status:Pending", 1)),
            (b"Upstream-Status: Accepted\n", malformed("Upstream-Status: Accepted", 1)),
        ];
        let master = Release::find("master").unwrap();
        for (bytes, wanted) in table {
            assert_eq!(status(bytes, master), wanted, "{}", bytes.escape_ascii());
        }
        let mickledore = Release::find("mickledore").unwrap();
        assert_eq!(status(b"Upstream-Status: Accepted\n", mickledore), Status::Fine);
    }
}
