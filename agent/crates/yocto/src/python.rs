//! What Python prints.

/// `AssertionError: words`, `bb.BBHandledException`, at the start of a line.
pub fn is_exception(line: &str) -> bool {
    let kind = line.split(':').next().unwrap_or(line);
    let dotted = kind.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '.');
    let last = kind.rsplit('.').next().unwrap_or(kind);
    let raised = ["Error", "Exception", "Exit", "Interrupt", "Warning", "Expired"];
    dotted && raised.iter().any(|end| last.ends_with(end)) && !last.is_empty()
}
