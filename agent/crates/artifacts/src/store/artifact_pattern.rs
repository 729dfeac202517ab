//! Validates the globs of artifact rules before a build: a pattern must be able to match a file of the build
//! directory, and must not lead out of it.

use agent_types::diagnostic::Diagnostic;

type Result<T> = std::result::Result<T, Diagnostic>;

/// Maximum number of alternatives in braces to check. A pattern with more is accepted.
const ALTERNATIVES: usize = 256;

/// Maximum length of a file name on all file systems.
const LONGEST_NAME: usize = 255;

/// Checks a pattern and returns it without a leading `./`.
///
/// # Errors
/// If it can never match; the hint says what to write instead.
pub fn artifact_pattern(text: &str) -> Result<&str> {
    const EXAMPLE: &str = "patterns are relative to the build directory, such as tmp/deploy/images/**";
    if text.is_empty() {
        return Err(Diagnostic::new("is empty").hint(EXAMPLE));
    }
    if let Some(c) = text.chars().find(|c| c.is_control()) {
        return Err(Diagnostic::new(format!("contains the control character {c:?}")).hint(EXAMPLE));
    }
    if text.contains("${") {
        return Err(Diagnostic::new(format!("`{text}` can never match: BitBake variables are not expanded"))
            .hint(EXAMPLE));
    }
    if let Err(error) = globset::GlobBuilder::new(text).literal_separator(true).build() {
        return Err(Diagnostic::new(format!("`{text}` is not a glob: {}", error.kind())));
    }
    let alternatives = alternatives(text);
    let mut faults = alternatives.iter().map(|one| fault(one));
    let first = faults.next().flatten();
    // The rule is accepted if one alternative can match.
    match first {
        Some((why, hint)) if alternatives.len() < ALTERNATIVES && faults.all(|fault| fault.is_some()) => {
            Err(Diagnostic::new(format!("`{text}` can never match: {why}"))
                .hint(hint.unwrap_or_else(|| EXAMPLE.into())))
        }
        _ => Ok(without_dot(text)),
    }
}

/// Whether the `exclude` pattern excludes everything that `include` matches.
pub fn excludes_all(include: &str, exclude: &str) -> bool {
    let (include, exclude) = (without_dot(include), without_dot(exclude));
    exclude == include || ["**", "**/*", "**/**"].contains(&exclude)
}

fn without_dot(text: &str) -> &str {
    let mut text = text;
    while let Some(rest) = text.strip_prefix("./") {
        text = rest;
    }
    text
}

/// Why a pattern without braces can never match, with the correct form if there is one.
fn fault(pattern: &str) -> Option<(String, Option<String>)> {
    let plain = literal(without_dot(pattern));
    if plain.is_empty() || plain == "." {
        let why = "it names the build directory itself, but rules match files";
        return Some((why.into(), Some("write `**` for all files in it".into())));
    }
    if plain.starts_with('/') {
        return Some(("it is absolute".into(), None));
    }
    let parts: Vec<&str> = plain.split('/').collect();
    if parts.contains(&"..") {
        return Some(("it leads out of the build directory".into(), None));
    }
    let clean: Vec<&str> = parts.iter().copied().filter(|part| !part.is_empty() && *part != ".").collect();
    let clean = clean.join("/");
    if plain.ends_with('/') || plain.ends_with("/.") {
        let why = "it ends like a directory, but rules match files";
        return Some((why.into(), Some(format!("write `{clean}/**` for all files below it"))));
    }
    if parts.iter().any(|part| part.is_empty() || *part == ".") {
        return Some(("it contains an empty part or a `.`".into(), Some(format!("write `{clean}`"))));
    }
    if parts.iter().any(|part| !part.contains(['*', '?', '[']) && part.len() > LONGEST_NAME) {
        return Some((format!("a name has more than {LONGEST_NAME} bytes"), None));
    }
    None
}

/// Replaces escapes and classes of one plain character by that character.
fn literal(pattern: &str) -> String {
    let pattern = pattern.replace("[.]", ".").replace("[/]", "/");
    let mut plain = String::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            // An escaped wildcard becomes a wildcard here, which does not matter for these checks.
            '\\' => plain.extend(chars.next()),
            c => plain.push(c),
        }
    }
    plain
}

/// Expands braces into the list of patterns.
fn alternatives(pattern: &str) -> Vec<String> {
    let mut open = vec![pattern.to_owned()];
    let mut closed = Vec::new();
    while let Some(pattern) = open.pop() {
        if closed.len() + open.len() >= ALTERNATIVES {
            closed.push(pattern);
            break;
        }
        match braces(&pattern) {
            None => closed.push(pattern),
            Some((before, choices, after)) => {
                open.extend(choices.iter().rev().map(|choice| format!("{before}{choice}{after}")));
            }
        }
    }
    closed
}

/// The text before the first braces, their alternatives, and the text after them.
fn braces(pattern: &str) -> Option<(&str, Vec<&str>, &str)> {
    let mut depth = 0;
    let (mut begin, mut escaped, mut class) = (0, false, false);
    let mut choices = Vec::new();
    let mut from = 0;
    for (at, c) in pattern.char_indices() {
        if std::mem::take(&mut escaped) {
            continue;
        }
        match c {
            '\\' => escaped = true,
            ']' if class => class = false,
            _ if class => {}
            '[' => class = true,
            '{' => {
                depth += 1;
                if depth == 1 {
                    (begin, from) = (at, at + 1);
                }
            }
            ',' if depth == 1 => {
                choices.push(&pattern[from..at]);
                from = at + 1;
            }
            '}' if depth > 0 => {
                depth -= 1;
                if depth == 0 {
                    choices.push(&pattern[from..at]);
                    return Some((&pattern[..begin], choices, &pattern[at + 1..]));
                }
            }
            _ => {}
        }
    }
    None
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn accepts_patterns_that_can_match() {
        for (text, plain) in [
            ("tmp/deploy/images/**", "tmp/deploy/images/**"),
            ("./tmp/*.log", "tmp/*.log"),
            ("././a", "a"),
            ("**", "**"),
            ("**/*.{wic,bmap}", "**/*.{wic,bmap}"),
            ("**/*.wic{,.gz}", "**/*.wic{,.gz}"),
            ("a..b", "a..b"),
            (".hidden", ".hidden"),
            ("..a/b", "..a/b"),
            ("a/...", "a/..."),
            ("d/[[]x[]]", "d/[[]x[]]"),
            ("a/\\*b", "a/\\*b"),
            ("{..,tmp}/x", "{..,tmp}/x"),
            ("two words/ü", "two words/ü"),
        ] {
            assert_eq!(artifact_pattern(text).unwrap(), plain, "{text}");
        }
        let many = format!("{}/x", "{a,b}".repeat(12));
        assert!(artifact_pattern(&many).is_ok());
    }

    #[test]
    fn rejects_patterns_that_can_never_match_with_the_correct_form() {
        for (text, why, hint) in [
            ("", "empty", "relative"),
            (".", "the build directory itself", "`**`"),
            ("./", "the build directory itself", "`**`"),
            ("././", "the build directory itself", "`**`"),
            ("./.", "the build directory itself", "`**`"),
            ("\\.", "the build directory itself", "`**`"),
            ("/", "absolute", "relative"),
            ("/x", "absolute", "relative"),
            ("//x", "absolute", "relative"),
            (".//x", "absolute", "relative"),
            ("[/]x", "absolute", "relative"),
            ("..", "leads out", "relative"),
            ("../x", "leads out", "relative"),
            ("./../x", "leads out", "relative"),
            ("a/../b", "leads out", "relative"),
            ("a/..", "leads out", "relative"),
            ("\\.\\./x", "leads out", "relative"),
            ("[.][.]/x", "leads out", "relative"),
            ("{..,../a}/x", "leads out", "relative"),
            ("{/a,/b}", "absolute", "relative"),
            ("tmp/deploy/", "ends like a directory", "`tmp/deploy/**`"),
            ("tmp/deploy//", "ends like a directory", "`tmp/deploy/**`"),
            ("tmp/deploy/.", "ends like a directory", "`tmp/deploy/**`"),
            ("**/", "ends like a directory", "`**/**`"),
            ("a//b", "an empty part", "`a/b`"),
            ("a/./b", "an empty part", "`a/b`"),
            ("${DEPLOY_DIR}/images/**", "variables are not expanded", "relative"),
            ("a\nb", "control character", "relative"),
            ("a\0b", "control character", "relative"),
            ("a\u{7f}", "control character", "relative"),
            ("a\u{85}", "control character", "relative"),
        ] {
            let mistake = artifact_pattern(text).unwrap_err();
            assert!(mistake.message.contains(why), "{text:?}: {mistake:?}");
            assert!(mistake.hint.as_ref().unwrap().contains(hint), "{text:?}: {mistake:?}");
        }
        assert!(artifact_pattern(&format!("a/{}", "x".repeat(256))).is_err());
        assert!(artifact_pattern(&format!("a/{}", "x".repeat(255))).is_ok());
        for text in ["a[", "{a", "a{b,c"] {
            assert!(artifact_pattern(text).unwrap_err().message.contains("not a glob"), "{text}");
        }
    }

    #[test]
    fn excludes_all_detects_rules_that_exclude_themselves() {
        for (include, exclude, all) in [
            ("a/**", "a/**", true),
            ("./a/**", "a/**", true),
            ("a/**", "**", true),
            ("a/**", "a/b/**", false),
            ("a", "b", false),
        ] {
            assert_eq!(excludes_all(include, exclude), all, "{include} {exclude}");
        }
    }
}
