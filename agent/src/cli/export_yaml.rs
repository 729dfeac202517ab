//! Texts as YAML has them.

/// A string of JSON is one of YAML.
pub fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A text of several lines as a block, where YAML keeps each of its characters.
pub fn block(text: &str, indent: usize) -> String {
    let is_plain = |line: &str| !line.chars().any(|c| c.is_control()) && !line.ends_with(' ');
    let first = text.lines().next().unwrap_or_default();
    if !text.lines().all(is_plain) || first.is_empty() || first.starts_with(' ') || text.contains('\u{feff}')
    {
        return quoted(text);
    }
    let lines = text.trim_end_matches('\n').lines().map(|line| match line.is_empty() {
        true => String::new(),
        false => format!("{:indent$}{line}", ""),
    });
    let end = if text.ends_with('\n') { "|" } else { "|-" };
    format!("{end}\n{}", lines.collect::<Vec<_>>().join("\n"))
}
