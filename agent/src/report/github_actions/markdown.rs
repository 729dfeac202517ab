//! Untrusted text in Markdown. A layer or a tool wrote it, so it is always shown as code: it cannot contain links, HTML,
//! `@name` or `#123`.

use agent_types::sanitize::sanitize_line;

/// One line as code.
pub fn code(text: &str) -> String {
    let text = sanitize_line(text);
    let text = text.trim();
    if text.is_empty() {
        return String::new();
    }
    let fence = "`".repeat(longest_run(text) + 1);
    // GitHub removes one space on each side; without them a backtick at the edge would be part of the fence.
    let space = if text.starts_with('`') || text.ends_with('`') { " " } else { "" };
    format!("{fence}{space}{text}{space}{fence}")
}

/// One line as code in a cell of a table.
pub fn cell(text: &str) -> String {
    code(text).replace('|', "\\|")
}

/// Lines as a block of code.
pub fn block<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    let lines: Vec<String> = lines.map(|line| sanitize_line(line).into_owned()).collect();
    let longest = lines.iter().map(|line| longest_run(line)).max().unwrap_or(0);
    let fence = "`".repeat((longest + 1).max(3));
    format!("{fence}text\n{}\n{fence}\n", lines.join("\n"))
}

fn longest_run(text: &str) -> usize {
    text.split(|c| c != '`').map(str::len).max().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn untrusted_text_is_never_markdown() {
        for (text, wanted) in [
            ("plain", "`plain`"),
            ("a `b` c", "``a `b` c``"),
            ("`", "`` ` ``"),
            ("<img src=x> @user #1 [x](javascript:y)", "`<img src=x> @user #1 [x](javascript:y)`"),
            ("two\nlines", "`two lines`"),
            ("  ", ""),
        ] {
            assert_eq!(code(text), wanted, "{text:?}");
        }
        assert_eq!(cell("a|b"), "`a\\|b`");
        assert_eq!(block(["a", "````", "</details>"].into_iter()), "`````text\na\n````\n</details>\n`````\n");
        assert_eq!(block(std::iter::empty()), "```text\n\n```\n");
    }
}
