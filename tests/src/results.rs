//! The agent's reports and logs.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// Reads a JSON file.
#[track_caller]
pub fn json(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}\n{text}", path.display()))
}

/// The names and outcomes of all test cases of a result, at any level.
pub fn cases(result: &Value) -> Vec<(String, String)> {
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let mut found = Vec::new();
    let mut left = vec![result];
    while let Some(value) = left.pop() {
        if let (Some(_), Some(name), Some(outcome)) =
            (text(value, "class"), text(value, "name"), text(value, "outcome"))
        {
            found.push((name, outcome));
        }
        match value {
            Value::Array(values) => left.extend(values),
            Value::Object(values) => left.extend(values.values()),
            _ => {}
        }
    }
    found.sort();
    found
}

/// Fails unless the whole file is well-formed XML; returns how often an element starts.
#[track_caller]
pub fn well_formed_xml(path: &Path, element: &str) -> usize {
    use quick_xml::events::Event;
    let mut reader =
        quick_xml::Reader::from_file(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let (mut buffer, mut count) = (Vec::new(), 0);
    loop {
        match reader.read_event_into(&mut buffer) {
            Ok(Event::Eof) => return count,
            Ok(Event::Start(start) | Event::Empty(start)) if start.name().as_ref() == element.as_bytes() => {
                count += 1
            }
            Ok(_) => {}
            Err(error) => panic!("{}: {error} at byte {}", path.display(), reader.error_position()),
        }
        buffer.clear();
    }
}

/// The files below `directory` that contain one of these texts.
pub fn leaks_of(texts: &[String], directory: &Path) -> Vec<PathBuf> {
    let mut leaks = Vec::new();
    let mut left = vec![directory.to_path_buf()];
    while let Some(path) = left.pop() {
        let Ok(kind) = path.symlink_metadata() else { continue };
        if kind.is_dir() {
            left.extend(std::fs::read_dir(&path).into_iter().flatten().flatten().map(|entry| entry.path()));
        } else if kind.is_file() {
            let bytes = std::fs::read(&path).unwrap_or_default();
            if texts.iter().any(|text| bytes.windows(text.len()).any(|window| window == text.as_bytes())) {
                leaks.push(path);
            }
        }
    }
    leaks
}
