//! The grammar of an artifact rule's globs: patterns that can never match a file of the build directory, or that
//! lead out of it, are mistakes before anything is built.

use agent_types::diagnostic::Diagnostic;

type Result<T> = std::result::Result<T, Diagnostic>;

/// So many alternatives in braces are looked at; a pattern with more is not refused for one of them.
const ALTERNATIVES: usize = 256;

/// Longer names than this no file system has.
const LONGEST_NAME: usize = 255;

/// Checks a pattern and gives it without `./` at its beginning.
///
/// # Errors
/// Says why it can never match, and what to write instead.
pub fn artifact_pattern(text: &str) -> Result<&str> {
    const EXAMPLE: &str = "patterns are relative to the build directory, such as tmp/deploy/images/**";
    if text.is_empty() {
        return Err(Diagnostic::new("is empty").hint(EXAMPLE));
    }
    if let Some(c) = text.chars().find(|c| c.is_control()) {
        return Err(Diagnostic::new(format!("holds the control character {c:?}")).hint(EXAMPLE));
    }
    if text.contains("${") {
        return Err(Diagnostic::new(format!(
            "`{text}` can never match: BitBake's variables are not replaced"
        ))
        .hint(EXAMPLE));
    }
    if let Err(error) = globset::GlobBuilder::new(text).literal_separator(true).build() {
        return Err(Diagnostic::new(format!("`{text}` is no glob: {}", error.kind())));
    }
    let alternatives = alternatives(text);
    let mut faults = alternatives.iter().map(|one| fault(one));
    let first = faults.next().flatten();
    // One alternative that can match makes the rule of use.
    match first {
        Some((why, hint)) if alternatives.len() < ALTERNATIVES && faults.all(|fault| fault.is_some()) => {
            Err(Diagnostic::new(format!("`{text}` can never match: {why}"))
                .hint(hint.unwrap_or_else(|| EXAMPLE.into())))
        }
        _ => Ok(without_dot(text)),
    }
}

/// Whether a rule leaves out everything that it names.
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

/// Why a pattern without braces can never match, and the right form where there is one.
fn fault(pattern: &str) -> Option<(String, Option<String>)> {
    let plain = literal(without_dot(pattern));
    if plain.is_empty() || plain == "." {
        let why = "it names the build directory itself, and rules match files";
        return Some((why.into(), Some("write `**` for all that lies in it".into())));
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
        let why = "it ends as a directory does, and rules match files";
        return Some((why.into(), Some(format!("write `{clean}/**` for all that lies below it"))));
    }
    if parts.iter().any(|part| part.is_empty() || *part == ".") {
        return Some(("it has an empty part or a `.` in it".into(), Some(format!("write `{clean}`"))));
    }
    if parts.iter().any(|part| !part.contains(['*', '?', '[']) && part.len() > LONGEST_NAME) {
        return Some((format!("a name has more than {LONGEST_NAME} bytes"), None));
    }
    None
}

/// The pattern with escapes and classes of one plain character written out.
fn literal(pattern: &str) -> String {
    let pattern = pattern.replace("[.]", ".").replace("[/]", "/");
    let mut plain = String::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            // An escaped wildcard stays one here: that is no fault.
            '\\' => plain.extend(chars.next()),
            c => plain.push(c),
        }
    }
    plain
}

/// The patterns that braces stand for.
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

/// What stands before the first braces, their choices, and what stands behind.
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
    fn what_can_match_is_taken() {
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
    fn what_can_never_match_is_refused_with_the_right_form() {
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
            ("tmp/deploy/", "ends as a directory", "`tmp/deploy/**`"),
            ("tmp/deploy//", "ends as a directory", "`tmp/deploy/**`"),
            ("tmp/deploy/.", "ends as a directory", "`tmp/deploy/**`"),
            ("**/", "ends as a directory", "`**/**`"),
            ("a//b", "an empty part", "`a/b`"),
            ("a/./b", "an empty part", "`a/b`"),
            ("${DEPLOY_DIR}/images/**", "variables are not replaced", "relative"),
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
            assert!(artifact_pattern(text).unwrap_err().message.contains("no glob"), "{text}");
        }
    }

    #[test]
    fn a_rule_may_not_exclude_all_of_itself() {
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
