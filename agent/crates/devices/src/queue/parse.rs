//! Checks a request that somebody wrote to the store, before anything uses it.

use std::time::Duration;

use agent_types::error::{Error, Result};

use super::LARGEST_REQUEST;
use crate::request::{DeviceRequest, SCHEMA};

/// The longest time that a request waits or runs.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 3600);

const MOST_FILES: usize = 500;
const MOST_WORDS: usize = 1_000;
const LONGEST_COMMAND: usize = 8 << 10;
const LONGEST_NAME: usize = 200;

/// Whether a request may have this id. It is a part of paths.
pub fn is_id(text: &str) -> bool {
    let known = |char: char| char.is_ascii_alphanumeric() || char == '-';
    (8..=80).contains(&text.len()) && text.chars().all(known) && !text.starts_with('-')
}

/// Whether a device may have this name. It is a part of paths.
pub fn is_device(text: &str) -> bool {
    let known = |char: char| char.is_ascii_alphanumeric() || "._-".contains(char);
    (1..=100).contains(&text.len()) && text.chars().all(known) && !text.starts_with(['.', '-'])
}

/// Parses the request of this id.
///
/// # Errors
/// Usage: it is not valid, or is that of another id.
pub fn parse_request(content: &[u8], id: &str) -> Result<DeviceRequest> {
    let invalid = |why: String| {
        Error::usage(format!("the device request `{}` is not valid: {why}", short(id)))
            .hint("cancel it, and submit it with the same version of build-agent as the lab's")
    };
    if content.len() as u64 > LARGEST_REQUEST {
        return Err(invalid(format!("it has more than {LARGEST_REQUEST} bytes")));
    }
    let parsed: serde_json::Value =
        serde_json::from_slice(content).map_err(|error| invalid(error.to_string()))?;
    match parsed.get("schema").and_then(|schema| schema.as_str()) {
        Some(SCHEMA) => {}
        other => return Err(invalid(format!("its schema is {other:?}, and not {SCHEMA:?}"))),
    }
    let request: DeviceRequest =
        serde_json::from_value(parsed).map_err(|error| invalid(error.to_string()))?;
    match problem(&request, id) {
        Some(why) => Err(invalid(why)),
        None => Ok(request),
    }
}

fn problem(request: &DeviceRequest, id: &str) -> Option<String> {
    if !is_id(id) {
        return Some("its id is not 8 to 80 letters, digits and `-`".into());
    }
    if request.id != id {
        return Some(format!("its id is `{}`", short(&request.id)));
    }
    let names = [("pool", &request.pool), ("machine", &request.machine), ("image", &request.image)];
    if let Some((what, _)) = names.iter().find(|(_, name)| !is_name(name)) {
        return Some(format!("`{what}` is not a name"));
    }
    if let Some(feature) = request.features.iter().find(|feature| !is_name(feature)) {
        return Some(format!("the feature `{}` is not a name", short(feature)));
    }
    if request.tests.is_empty() {
        return Some("it has no tests".into());
    }
    let lists = [request.tests.len(), request.features.len(), request.suites.len(), request.commands.len()];
    if lists.iter().any(|length| *length > MOST_WORDS) || request.files.len() > MOST_FILES {
        return Some("a list is too long".into());
    }
    let lines = request.commands.iter().chain(&request.suites);
    if lines.clone().any(|line| line.len() > LONGEST_COMMAND || line.trim().is_empty() || line.contains('\0'))
    {
        return Some("a command or suite is empty or too long".into());
    }
    let mut names: Vec<&str> = Vec::new();
    for file in &request.files {
        if !is_file_name(&file.name) || names.contains(&file.name.as_str()) {
            return Some(format!("`{}` is not the name of a file, or is there twice", short(&file.name)));
        }
        if !is_sha256(&file.sha256) {
            return Some(format!("the digest of `{}` is not a SHA-256", file.name));
        }
        names.push(&file.name);
    }
    let times = [("queue_limit", request.queue_limit()), ("run_limit", request.run_limit())];
    let wrong = times.iter().find(|(_, time)| time.is_zero() || *time > LONGEST);
    wrong.map(|(what, _)| format!("`{what}` is not between a second and 30 days"))
}

fn is_name(text: &str) -> bool {
    !text.trim().is_empty() && text.len() <= LONGEST_NAME && !text.chars().any(char::is_control)
}

/// It becomes a file in a directory of the lab.
fn is_file_name(text: &str) -> bool {
    is_name(text) && !text.contains('/') && !text.starts_with('.') && !text.starts_with('-')
}

fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn short(text: &str) -> String {
    text.chars().take(100).collect()
}
