//! From the message of a failed test to one line for people.

use crate::python::is_exception;

/// Characters of a reason; the whole is in the message.
const LONGEST: usize = 300;

/// Tasks that are named; more are counted.
const TASKS: usize = 3;

/// One line for people out of a test's message: what the assertion says, and BitBake's first error.
pub fn reason(message: &str) -> String {
    let said = message.lines().find(|line| is_exception(line)).map(|line| {
        let words = line.split_once(": ").map_or(line, |(_, words)| words);
        // `assertTrue` and its kin put the values before the words: `2 != 0 : words`.
        let after = words.split_once(" : ").filter(|(values, _)| values.len() <= 40);
        after.map_or(words, |(_, words)| words)
    });
    let error = message.lines().find_map(|line| line.split_once("ERROR: ").map(|(_, rest)| rest));
    let whole = match (said, error) {
        (Some(said), _) if message.contains("signatures changed, initial differences") => {
            format!("{} {}", said.trim_end_matches('.'), changed_tasks(message))
        }
        (Some(said), Some(error)) if !said.contains(error) => format!("{said} {error}"),
        (Some(one), _) | (None, Some(one)) => one.to_owned(),
        (None, None) => message.lines().next().unwrap_or("no reason given").to_owned(),
    };
    match whole.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &whole[..end]),
        None => whole,
    }
}

/// The tasks at which a change of signatures begins (`compare_signatures` of OE-Core's checklayer
/// lists them as `recipe:task: before -> after`), and how many changed in all.
fn changed_tasks(message: &str) -> String {
    let is_hash = |text: &str| text.len() >= 32 && text.chars().all(|c| c.is_ascii_hexdigit());
    let task = |line: &str| {
        let (before, after) = line.trim().split_once(" -> ")?;
        let (task, hash) = before.rsplit_once(": ")?;
        (is_hash(hash) && is_hash(after)).then(|| task.to_owned())
    };
    let tasks: Vec<String> = message.lines().filter_map(task).collect();
    let all = message
        .lines()
        .find_map(|line| line.split_once(" signatures changed, initial"))
        .map_or("", |(n, _)| n);
    let more = match tasks.len().saturating_sub(TASKS) {
        0 => String::new(),
        n => format!(" and {n} more"),
    };
    let named = tasks.iter().take(TASKS).map(String::as_str).collect::<Vec<_>>().join(", ");
    format!("of {named}{more} ({} in all, with what depends on them)", all.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_signatures_is_named_by_where_it_begins() {
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        let message = format!(
            "Traceback (most recent call last):\n\
             AssertionError: Adding layer meta-x changed signatures.\n\
             11111 signatures changed, initial differences (first hash before, second after):\n   \
             zlib-native:do_configure: {a} -> {b}\n      \
             bitbake-diffsigs --task zlib-native do_configure --signature {a} {b}\n"
        );
        assert_eq!(
            reason(&message),
            "Adding layer meta-x changed signatures of zlib-native:do_configure (11111 in all, with what depends on them)"
        );
    }

    #[test]
    fn reasons_are_one_line_for_people() {
        let table = [
            ("", "no reason given"),
            ("just words\nmore", "just words"),
            ("Traceback\nAssertionError: False is not true : No README.", "No README."),
            (
                "RuntimeError: It failed.\nOutput:\nx...ERROR: ParseError at /a:1: y",
                "It failed. ParseError at /a:1: y",
            ),
            (
                "AssertionError: 'patch' not found in 'a very long text that has a colon in it : here'",
                "'patch' not found in 'a very long text that has a colon in it : here'",
            ),
            ("ERROR: only BitBake spoke", "only BitBake spoke"),
        ];
        for (message, wanted) in table {
            assert_eq!(reason(message), wanted, "{message}");
        }
        assert_eq!(reason(&"é".repeat(1000)).chars().count(), LONGEST + 1);
    }
}
