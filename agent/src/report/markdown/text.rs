//! Untrusted text in Markdown. A layer or a tool wrote it, so it is always shown as code: it cannot contain links, HTML,
//! `@name` or `#123`.

use std::borrow::Cow;

use agent_types::sanitize::sanitize_line;

/// One line as code.
pub fn code(text: &str) -> String {
    let text = sanitize_line(text);
    let text = &*without_comment(text.trim());
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
    let lines: Vec<String> = lines.map(|line| without_comment(&sanitize_line(line)).into_owned()).collect();
    let longest = lines.iter().map(|line| longest_run(line)).max().unwrap_or(0);
    let fence = "`".repeat((longest + 1).max(3));
    format!("{fence}text\n{}\n{fence}\n", lines.join("\n"))
}

/// The agent finds its own comments by a mark that is an HTML comment. Nothing else may look like one.
fn without_comment(text: &str) -> Cow<'_, str> {
    match text.contains("<!--") {
        true => text.replace("<!--", "<! --").into(),
        false => text.into(),
    }
}

/// An address as a link; `None` if a browser must not follow it.
pub fn link(words: &str, address: &str) -> Option<String> {
    let url = url::Url::parse(address).ok().filter(|url| ["https", "http"].contains(&url.scheme()))?;
    let url = url.as_str().replace('(', "%28").replace(')', "%29").replace('<', "%3C").replace('>', "%3E");
    Some(format!("[{words}](<{url}>)"))
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
            ("<!-- build-agent:x -->", "`<! -- build-agent:x -->`"),
        ] {
            assert_eq!(code(text), wanted, "{text:?}");
        }
        assert_eq!(cell("a|b"), "`a\\|b`");
        assert_eq!(block(["a", "````", "</details>"].into_iter()), "`````text\na\n````\n</details>\n`````\n");
        assert_eq!(block(std::iter::empty()), "```text\n\n```\n");
        assert_eq!(block(["<!-- x"].into_iter()), "```text\n<! -- x\n```\n");
    }

    #[test]
    fn only_web_addresses_are_links() {
        for (address, wanted) in [
            ("https://x.example/a/b?c=d", Some("[report](<https://x.example/a/b?c=d>)")),
            ("https://x.example/a)b <c>", Some("[report](<https://x.example/a%29b%20%3Cc%3E>)")),
            ("javascript:alert(1)", None),
            ("s3://bucket/key", None),
            ("/out/report.html", None),
        ] {
            assert_eq!(link("report", address).as_deref(), wanted, "{address}");
        }
    }
}
