//! `test_readme`: the layer has a README with the information that contributors need.

use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use agent_fs::untrusted;
use agent_types::events::Level;
use agent_types::release::Release;

use super::since::{self, since};
use super::{PreflightCase, glob_would_misread};
use crate::unreadable::reason;

const TEST: &str = "common.CommonCheckLayer.test_readme";

pub fn check(layer: &Path, release: &Release) -> Vec<PreflightCase> {
    if glob_would_misread(layer) {
        return Vec::new();
    }
    let Some(candidates) = candidates(layer) else { return Vec::new() };
    let Some(readme) = candidates.first() else {
        let message = "the layer has no README in its top directory";
        let hint = "add a README that names the maintainer, an e-mail address and how to send patches";
        return vec![PreflightCase::new("readme-missing", TEST, Level::Error, message).at(layer).hint(hint)];
    };
    let broken = |rule, message: String, hint: &str| {
        vec![PreflightCase::new(rule, TEST, Level::Error, message).at(readme).hint(hint)]
    };
    if readme.is_dir() {
        let what = format!("`{}` is a directory; the first name in sorted order is read", name(readme));
        return broken("readme-unreadable", what, "rename it, or make it a file");
    }
    let bytes = match untrusted::read_named(readme, untrusted::SOURCE) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let what = format!("`{}` is a dangling link", name(readme));
            return broken("readme-unreadable", what, "link to a README inside the layer");
        }
        // A pipe or device: a read may block forever, return nothing, or never end.
        Err(error) if error.kind() == ErrorKind::InvalidInput => {
            let what = format!("`{}` is not a file or a link to one", name(readme));
            return broken("readme-unreadable", what, "make it a text file");
        }
        // Another user may be able to read it, and the tool reads files of any size.
        // The tool reads files of any size.
        Err(error) if error.kind() == ErrorKind::FileTooLarge => return Vec::new(),
        Err(error) => {
            let what = format!("`{}` cannot be read: {}", name(readme), reason(readme, &error));
            return broken("readme-unreadable", what, "let the build user read it");
        }
    };
    if bytes.is_empty() {
        return broken(
            "readme-empty",
            format!("`{}` is empty", name(readme)),
            "describe the purpose of the layer",
        );
    }
    match std::str::from_utf8(&bytes) {
        Ok(text) => judge_content(readme, text, release),
        Err(error) => {
            let line = line_of(&bytes, error.valid_up_to());
            let what = format!("`{}` is not UTF-8 text", name(readme));
            let mut cases = broken("readme-unreadable", what, "save it as UTF-8");
            cases.iter_mut().for_each(|case| case.line = Some(line));
            cases
        }
    }
}

/// The names that `glob("[Rr][Ee][Aa][Dd][Mm][Ee]*")` finds, sorted. `None`, if Python would sort them
/// differently (names that are not UTF-8), or the directory cannot be read.
fn candidates(layer: &Path) -> Option<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(layer).ok()? {
        let entry = entry.ok()?;
        let name = entry.file_name();
        if name.as_bytes().get(..6).is_some_and(|start| start.eq_ignore_ascii_case(b"readme")) {
            name.to_str()?;
            found.push(entry.path());
        }
    }
    found.sort();
    Some(found)
}

fn judge_content(readme: &Path, text: &str, release: &Release) -> Vec<PreflightCase> {
    let lower = text.to_lowercase();
    // A README that mentions a README may refer to another one: the tool checks no further.
    if lower.contains("readme") {
        return Vec::new();
    }
    let (level, from) = if since(release, since::README_CONTENT) {
        (Level::Error, String::new())
    } else {
        (Level::Warning, format!(" (checked from {} on)", since::README_CONTENT))
    };
    let found = if since(release, since::EMAIL_ANYWHERE) || level == Level::Warning {
        address_anywhere(text)
    } else {
        address_at_the_first_at_sign(text)
    };
    let rules = [
        (
            "readme-maintainer",
            lower.contains("maintainer"),
            "does not name the maintainer",
            "write the name after `Maintainer:`",
        ),
        (
            "readme-patch",
            lower.contains("patch"),
            "does not say how to send patches",
            "add a sentence with the word `patch` on where to send them",
        ),
        (
            "readme-email",
            found,
            "has no e-mail address where the tool searches for one",
            "add one like `name@example.com`; before wrynose, text and no other `@` must come before it",
        ),
    ];
    rules
        .into_iter()
        .filter(|(_, fine, _, _)| !fine)
        .map(|(rule, _, what, hint)| {
            let message = format!("`{}` {what}{from}", name(readme));
            PreflightCase::new(rule, TEST, level, message).at(readme).hint(hint)
        })
        .collect()
}

/// Whether `[^@]+@[^@]+` matches at the start of the file.
fn address_at_the_first_at_sign(text: &str) -> bool {
    text.split_once('@')
        .is_some_and(|(before, after)| !before.is_empty() && !after.is_empty() && !after.starts_with('@'))
}

/// Whether `[^@]+@[^@]+` matches anywhere in the file.
fn address_anywhere(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.windows(3).any(|three| three[0] != b'@' && three[1] == b'@' && three[2] != b'@')
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn line_of(bytes: &[u8], offset: usize) -> u32 {
    let ends = bytes[..offset].iter().filter(|byte| **byte == b'\n').count();
    u32::try_from(ends + 1).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_addresses_as_the_tool_does() {
        // (text, found from the start, found anywhere)
        let table = [
            ("mail a@b", true, true),
            ("", false, false),
            ("no address", false, false),
            ("@handle and a@b", false, true),
            ("x @", false, false),
            ("a @@ b", false, false),
            ("a @@ b, c@d", false, true),
            ("a\n@\nb", true, true),
            ("é@ü", true, true),
        ];
        for (text, start, anywhere) in table {
            assert_eq!(address_at_the_first_at_sign(text), start, "{text:?}");
            assert_eq!(address_anywhere(text), anywhere, "{text:?}");
        }
    }
}
