//! Recognizes output of Python.

/// Whether the line starts with an exception, such as `AssertionError: words` or `bb.BBHandledException`.
pub fn is_exception(line: &str) -> bool {
    let kind = line.split(':').next().unwrap_or(line);
    let dotted = kind.chars().all(|c| c.is_alphanumeric() || c == '_' || c == '.');
    let last = kind.rsplit('.').next().unwrap_or(kind);
    let raised = ["Error", "Exception", "Exit", "Interrupt", "Warning", "Expired"];
    dotted && raised.iter().any(|end| last.ends_with(end)) && !last.is_empty()
}
