//! The lists in the messages of failed tests: patches without a status, tasks with other signatures.

use std::path::PathBuf;

use agent_types::listing;

/// Lines that a message keeps of its beginning and of its end.
const ENDS: usize = 200;

/// An entry of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The rule's name, as findings have it.
    pub rule: &'static str,
    pub message: String,
    pub file: Option<PathBuf>,
    /// Where it begins, counted in lines of the message.
    line: usize,
}

/// What the message of a failed test lists, one by one.
pub fn entries(test: &str, message: &str) -> Vec<Entry> {
    let lines = message.lines().enumerate();
    match test {
        "test_patches_upstream_status" => patches(message),
        "test_signatures" => lines.filter_map(|(line, text)| changed(line, text)).collect(),
        "test_machine_signatures" => lines.filter_map(|(line, text)| conflicting(line, text)).collect(),
        _ => Vec::new(),
    }
}

/// The paths below `Found following patches with malformed or missing upstream status:`.
fn patches(message: &str) -> Vec<Entry> {
    let mut lines = message.lines().enumerate();
    if !lines.any(|(_, line)| line.ends_with("malformed or missing upstream status:")) {
        return Vec::new();
    }
    let paths = lines.take_while(|(_, line)| line.starts_with('/'));
    let entry = |(line, path): (usize, &str)| {
        let name = path.rsplit('/').next().unwrap_or(path);
        let message = format!("`{name}` has a malformed or missing Upstream-Status");
        Entry { rule: "upstream-status", message, file: Some(path.into()), line }
    };
    paths.map(entry).collect()
}

/// `   recipe:task: before -> after`
fn changed(line: usize, text: &str) -> Option<Entry> {
    let (before, after) = text.strip_prefix("   ")?.split_once(" -> ")?;
    let (task, hash) = before.rsplit_once(": ")?;
    (is_hash(hash) && is_hash(after) && task.contains(':')).then(|| Entry {
        rule: "signature-changed",
        message: format!("the layer changes the signature of {task}"),
        file: None,
        line,
    })
}

/// `   tune recipe:task: hash (machine) != hash (machine, machine)`
fn conflicting(line: usize, text: &str) -> Option<Entry> {
    let (before, after) = text.strip_prefix("   ")?.split_once(" != ")?;
    let (task, one) = before.rsplit_once(": ")?;
    let (_, task) = task.split_once(' ')?;
    let has_hash = |side: &str| side.split_once(" (").is_some_and(|(hash, _)| is_hash(hash));
    (has_hash(one) && has_hash(after) && task.contains(':')).then(|| Entry {
        rule: "signature-conflict",
        message: format!("the machines have different signatures of {task}"),
        file: None,
        line,
    })
}

fn is_hash(text: &str) -> bool {
    text.len() >= 32 && text.chars().all(|c| c.is_ascii_hexdigit())
}

/// The message as reports show it: of a list its first entries and the count of the rest, of any other long text
/// both ends.
pub fn shortened(test: &str, message: &str) -> String {
    let entries = entries(test, message);
    let mut lines: Vec<String> = message.lines().map(str::to_owned).collect();
    if let (Some(first), Some(last)) = (entries.get(listing::SHOWN), entries.last()) {
        // Behind a changed signature stands what differs, to the end of the message.
        let end = if last.rule == "signature-changed" { lines.len() } else { last.line + 1 };
        lines.splice(first.line..end, [listing::more(entries.len() - listing::SHOWN)]);
    }
    if lines.len() > 2 * ENDS {
        let (head, tail) = (ENDS, lines.len() - ENDS);
        let gap = format!("… {} lines omitted, see the log …", tail - head);
        lines.splice(head..tail, [gap]);
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_are_listed_by_file() {
        let mut message =
            "Traceback (most recent call last):\nAssertionError: 789 != 0 : Found following patches with \
                           malformed or missing upstream status:\n"
                .to_owned();
        (0..789).for_each(|n| message += &format!("/src/meta-x/recipes-x/{n}.patch\n"));
        let found = entries("test_patches_upstream_status", &message);
        assert_eq!(found.len(), 789);
        assert_eq!(found[788].file, Some("/src/meta-x/recipes-x/788.patch".into()));
        assert_eq!(found[788].message, "`788.patch` has a malformed or missing Upstream-Status");
        let short = shortened("test_patches_upstream_status", &message);
        assert_eq!(short.lines().count(), 2 + listing::SHOWN + 1, "{short}");
        assert!(short.ends_with("/19.patch\n… and 769 more; result.json lists all of them"), "{short}");
        assert_eq!(entries("test_readme", &message), []);
    }

    #[test]
    fn signatures_are_listed_by_task() {
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        let mut message = "AssertionError: Adding layer meta-x changed signatures.\n\
                           60 signatures changed, initial differences (first hash before, second after):\n"
            .to_owned();
        for n in 0..30 {
            message += &format!(
                "   r{n}:do_fetch: {a} -> {b}\n      bitbake-diffsigs --task r{n}\n      x -> y\n\n"
            );
        }
        let found = entries("test_signatures", &message);
        assert_eq!(found.len(), 30);
        assert_eq!(found[29].message, "the layer changes the signature of r29:do_fetch");
        let short = shortened("test_signatures", &message);
        assert!(short.contains("r19:do_fetch") && !short.contains("r20:do_fetch"), "{short}");
        assert!(short.ends_with("… and 10 more; result.json lists all of them"), "{short}");
    }

    #[test]
    fn conflicts_of_machines_are_listed_by_task() {
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        let head = "AssertionError: The machines have conflicting signatures for some shared tasks:\n";
        let line = format!("   core2-64 zlib:do_fetch: {a} (m1, m2) != {b} (m3)\n");
        let message = format!("{head}{}\nTo investigate, run bitbake-diffsigs\n", line.repeat(25));
        assert_eq!(
            entries("test_machine_signatures", &message)[24].message,
            "the machines have different signatures of zlib:do_fetch"
        );
        let short = shortened("test_machine_signatures", &message);
        assert!(short.ends_with(
            "… and 5 more; result.json lists all of them\n\nTo investigate, run bitbake-diffsigs"
        ));
    }

    #[test]
    fn other_texts_keep_both_ends() {
        let text: Vec<String> = (0..1000).map(|n| format!("line {n}")).collect();
        let short = shortened("test_world", &text.join("\n"));
        assert!(short.starts_with("line 0\n") && short.ends_with("\nline 999"), "{short}");
        assert!(short.contains("line 199\n… 600 lines omitted, see the log …\nline 800\n"), "{short}");
        assert_eq!(shortened("test_world", "short\n\ntext"), "short\n\ntext");
    }
}
