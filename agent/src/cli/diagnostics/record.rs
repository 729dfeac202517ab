//! One diagnostic record: what was recorded, and how it is written, without secrets and control characters.

use std::fmt::{self, Write};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use serde::Serialize;
use serde_json::{Map, Value as Json};
use tracing::Level;
use tracing::field::{Field, Visit};

use agent_process::Redactor;
use agent_types::sanitize::sanitize;
use agent_types::secrets::{self, REPLACEMENT};
use agent_types::truncate;

/// A longer value is not written at all: a secret that is cut in two cannot be recognized.
const LONGEST: usize = 64 * 1024;

/// The longest value that is written whole.
const SHOWN: usize = 8 * 1024;

/// The longest line on a console.
const LINE: usize = 4 * 1024;

/// What a library's value shows when headers or a body are in it: they may hold secrets that nobody knows.
const WIRE: [&str; 7] = ["headers:", "HeaderMap", "HeaderValue", "SdkBody", "body:", "b\"", "HttpResponse"];

/// A value of a field.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Text(String),
    /// Too long: its least number of bytes.
    TooLong,
    Plain(Json),
}

/// The fields of an event or a span, in order.
#[derive(Clone, Debug, Default)]
pub struct Fields(Vec<(&'static str, Value)>);

impl Fields {
    fn set(&mut self, name: &'static str, value: Value) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => self.0.push((name, value)),
        }
    }

    /// Adds these, in the place of those that have the same name.
    pub fn extend(&mut self, others: Fields) {
        others.0.into_iter().for_each(|(name, value)| self.set(name, value));
    }

    pub fn add(&mut self, name: &'static str, value: impl Into<Json>) {
        self.set(name, Value::Plain(value.into()));
    }

    pub fn take_message(&mut self) -> Value {
        match self.0.iter().position(|(name, _)| *name == "message") {
            Some(at) => self.0.remove(at).1,
            None => Value::Text(String::new()),
        }
    }

    fn bytes(&self) -> usize {
        let size = |value: &Value| match value {
            Value::Text(text) => text.len(),
            Value::TooLong | Value::Plain(_) => 8,
        };
        self.0.iter().map(|(name, value)| name.len() + size(value)).sum()
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut text = Bounded(String::new());
        let value = match write!(text, "{value:?}") {
            Ok(()) => Value::Text(text.0),
            Err(_) => Value::TooLong,
        };
        self.set(field.name(), value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        let text = if value.len() > LONGEST { Value::TooLong } else { Value::Text(value.to_owned()) };
        self.set(field.name(), text);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field.name(), Value::Plain(value.into()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field.name(), Value::Plain(value.into()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field.name(), Value::Plain(value.into()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field.name(), Value::Plain(value.into()));
    }
}

/// Stops whoever writes more than a value may have.
struct Bounded(String);

impl Write for Bounded {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > LONGEST {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

/// A span, as far as it is known.
#[derive(Clone, Debug)]
pub struct SpanData {
    pub name: &'static str,
    /// Of the program's own crates.
    pub is_own: bool,
    pub fields: Fields,
    pub started: Instant,
}

/// Something that was recorded. Not redacted.
#[derive(Clone, Debug)]
pub struct Record {
    pub time: SystemTime,
    pub level: Level,
    pub target: &'static str,
    /// Of the program's own crates.
    pub is_own: bool,
    /// The span that begins or ends here.
    pub span: Option<&'static str>,
    pub message: Value,
    pub fields: Fields,
    /// In which it happened, the outermost first.
    pub spans: Vec<Arc<SpanData>>,
}

/// A line of `agent.log`.
#[derive(Serialize)]
struct Line<'a> {
    time: String,
    level: &'a str,
    target: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    span: Option<&'a str>,
    message: Json,
    #[serde(skip_serializing_if = "Map::is_empty")]
    fields: Map<String, Json>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    spans: Vec<Map<String, Json>>,
}

impl Record {
    /// What the writer itself has to say.
    pub fn own(level: Level, message: String) -> Record {
        Record {
            time: SystemTime::now(),
            level,
            target: module_path!(),
            is_own: true,
            span: None,
            message: Value::Text(message),
            fields: Fields::default(),
            spans: Vec::new(),
        }
    }

    /// About how much memory it takes.
    pub fn bytes(&self) -> usize {
        let message = if let Value::Text(text) = &self.message { text.len() } else { 0 };
        size_of::<Record>() + message + self.fields.bytes()
    }

    /// One line of JSON with its end.
    pub fn json(&self, redactor: &Redactor) -> String {
        let spans = self.spans.iter().map(|span| {
            let mut all = Map::new();
            all.insert("span".into(), span.name.into());
            all.extend(clear_fields(&span.fields, span.is_own, redactor));
            all
        });
        let line = Line {
            time: self.time(),
            level: level_word(self.level),
            target: self.target,
            span: self.span,
            message: clear("message", &self.message, self.is_own, redactor),
            fields: clear_fields(&self.fields, self.is_own, redactor).collect(),
            spans: spans.collect(),
        };
        // Texts and numbers alone: nothing that JSON could not hold.
        serde_json::to_string(&line).unwrap_or_default() + "\n"
    }

    /// One line for people with its end.
    pub fn text(&self, redactor: &Redactor) -> String {
        let mut line = format!("{} {:<5} {}", self.time(), level_word(self.level), self.target);
        for span in &self.spans {
            let _ = write!(line, " {}", span.name);
            if let Some((_, value)) = clear_fields(&span.fields, span.is_own, redactor).next() {
                let _ = write!(line, "({})", plain(&value));
            }
        }
        line.push(':');
        if let Some(span) = self.span {
            let _ = write!(line, " {span}");
        }
        let message = plain(&clear("message", &self.message, self.is_own, redactor));
        if !message.is_empty() {
            let _ = write!(line, " {message}");
        }
        for (name, value) in clear_fields(&self.fields, self.is_own, redactor) {
            let _ = write!(line, " {name}={}", plain(&value));
        }
        truncate::middle(&mut line, LINE);
        line + "\n"
    }

    fn time(&self) -> String {
        humantime::format_rfc3339_millis(self.time).to_string()
    }
}

fn level_word(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

fn plain(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn clear_fields<'a>(
    fields: &'a Fields,
    is_own: bool,
    redactor: &'a Redactor,
) -> impl Iterator<Item = (String, Json)> + 'a {
    fields.0.iter().map(move |(name, value)| ((*name).to_owned(), clear(name, value, is_own, redactor)))
}

/// The value as it may be written.
fn clear(name: &str, value: &Value, is_own: bool, redactor: &Redactor) -> Json {
    let text = match value {
        Value::TooLong => return format!("[longer than {LONGEST} bytes: not recorded]").into(),
        Value::Plain(value) => {
            let text = value.to_string();
            return if redactor.redact(&text) == text { value.clone() } else { REPLACEMENT.into() };
        }
        Value::Text(text) => text,
    };
    if secrets::is_secret(name, text) {
        return REPLACEMENT.into();
    }
    if !is_own && WIRE.iter().any(|sign| text.contains(sign)) {
        return "[not recorded: it may contain headers or a body]".into();
    }
    let mut clear = redactor.redact(text);
    // A secret in JSON in a value that `Debug` has quoted: `{\"token\": \"…\"}`.
    let unquoted = without_escaped_quotes(&clear);
    let found = redactor.redact(&unquoted);
    if found != unquoted {
        clear = found.into_owned().into();
    }
    let mut clear = sanitize(&clear).into_owned();
    truncate::middle(&mut clear, SHOWN);
    clear.into()
}

/// The text with `"` for each `\"`, however often it was quoted.
fn without_escaped_quotes(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '"' {
            plain.truncate(plain.trim_end_matches('\\').len());
        }
        plain.push(c);
    }
    plain
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use agent_types::secret::Secret;

    use super::*;

    fn redactor() -> Redactor {
        Redactor::new(&[Secret { origin: "test".into(), value: "hunter22".into() }])
    }

    fn record(name: &'static str, value: &str) -> Record {
        let mut fields = Fields::default();
        fields.set(name, Value::Text(value.into()));
        let span = SpanData { name: "step", is_own: true, fields: fields.clone(), started: Instant::now() };
        Record { fields, spans: vec![Arc::new(span)], ..Record::own(Level::INFO, value.into()) }
    }

    /// In the message, in a field and in a field of a span; in JSON and in text.
    #[test]
    fn nothing_secret_is_written() {
        for (name, value) in [
            ("argv", r#"["git", "clone", "https://me:swordfish9@host/x"]"#),
            ("argv", r#"["curl", "--header", "Authorization: Bearer swordfish9"]"#),
            ("argv", "hunter22 swordfish9=1"),
            ("note", "hun\u{1b}[31mter22"),
            ("note", r"hun\u{1b}[31mter22"),
            ("url", "https://host/x?X-Amz-Signature=swordfish9&X-Amz-Security-Token=swordfish9"),
            ("answer", r#""{\"SecretString\":\"swordfish9\",\"Name\":\"x\"}""#),
            ("answer", r#""\"{\\\"token\\\": \\\"swordfish9\\\"}\"""#),
            ("header", "x-amz-security-token:swordfish9"),
            ("ends", "aHVudGVyMjI="),
        ] {
            let record = record(name, value);
            for text in [record.json(&redactor()), record.text(&redactor())] {
                let is_clear = |secret: &str| !text.contains(secret);
                assert!(is_clear("hunter22") && is_clear("aHVudGVyMjI"), "{text}");
                assert!(is_clear("swordfish9") || value.starts_with("hunter22"), "{text}");
                assert!(text.contains(REPLACEMENT), "{text}");
            }
        }
        // By the name of the field.
        let mut fields = Fields::default();
        fields.set("session_token", Value::Text("swordfish9".into()));
        let text = Record { fields, ..Record::own(Level::INFO, String::new()) }.json(&redactor());
        assert!(text.contains(r#""session_token":"[redacted]""#), "{text}");
        // Digits can be a secret, too.
        let digits = Redactor::new(&[Secret { origin: "test".into(), value: "4711004711".into() }]);
        let mut fields = Fields::default();
        fields.add("number", 4_711_004_711_u64);
        fields.add("other", 17);
        let text = Record { fields, ..Record::own(Level::INFO, String::new()) }.json(&digits);
        assert!(text.contains(r#""fields":{"number":"[redacted]","other":17}"#), "{text}");
    }

    #[test]
    fn headers_and_bodies_of_libraries_are_not_written() {
        for value in [
            r#"Request { method: GET, headers: {"x-secret-thing": "swordfish9"} }"#,
            r#"SdkBody { inner: Once(Some(b"swordfish9")) }"#,
            r#"chunk b"swordfish9""#,
        ] {
            let record = Record { is_own: false, target: "aws_smithy_runtime", ..record("request", value) };
            let record = Record { spans: Vec::new(), ..record };
            assert!(!record.json(&redactor()).contains("swordfish9"), "{value}");
            assert!(!record.text(&redactor()).contains("swordfish9"), "{value}");
        }
    }

    #[test]
    fn hostile_text_is_one_harmless_line() {
        let value = "a\u{1b}[2Jb\r\n::error::c\u{202e}d\0 ##[group]e";
        let record = record("path", value);
        for text in [record.json(&redactor()), record.text(&redactor())] {
            assert_eq!(text.matches('\n').count(), 1, "{text:?}");
            assert!(!text.trim_end().chars().any(|c| c.is_control() || c == '\u{202e}'), "{text:?}");
            assert!(!text.contains("##[") && !text.contains("[2J") && !text.contains("\\u001b"), "{text:?}");
        }
        let json: Json = serde_json::from_str(&record.json(&redactor())).unwrap();
        assert_eq!(json["fields"]["path"], "ab  ::error::c\u{fffd}d\u{fffd} # #[group]e");
        assert_eq!(json["spans"][0]["span"], "step");
    }

    #[test]
    fn what_is_too_long_is_cut_after_it_was_redacted() {
        let long = format!("{}hunter22{}", "x".repeat(SHOWN / 2 - 40), "y".repeat(SHOWN));
        let text = record("value", &long).json(&redactor());
        assert!(!text.contains("hunt") && text.contains("bytes cut out"), "{text}");
        let mut bounded = Bounded(String::new());
        assert!(bounded.write_str(&"x".repeat(LONGEST)).is_ok() && bounded.write_str("x").is_err());
        let too_long = Record { message: Value::TooLong, ..Record::own(Level::INFO, String::new()) };
        assert!(too_long.json(&redactor()).contains("not recorded"));
        assert!(record("value", &"é".repeat(LONGEST)).text(&redactor()).len() <= LINE + 1);
    }
}
