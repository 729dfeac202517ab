//! Long lists in files: a line for each element, where a pretty printer would make many.

use serde::Serialize;
use serde::ser::{Error, Serializer};
use serde_json::value::RawValue;

/// Serializes a list with a line for each element.
pub fn one_a_line<T: Serialize, S: Serializer>(rows: &[T], to: S) -> Result<S::Ok, S::Error> {
    let mut text = String::from("[");
    for (number, row) in rows.iter().enumerate() {
        text.push_str(if number == 0 { "\n" } else { ",\n" });
        text.push_str(&serde_json::to_string(row).map_err(S::Error::custom)?);
    }
    text.push_str(if rows.is_empty() { "]" } else { "\n    ]" });
    raw(text, to)
}

/// Serializes a list on one line.
pub fn on_one_line<T: Serialize, S: Serializer>(rows: &[T], to: S) -> Result<S::Ok, S::Error> {
    raw(serde_json::to_string(rows).map_err(S::Error::custom)?, to)
}

fn raw<S: Serializer>(text: String, to: S) -> Result<S::Ok, S::Error> {
    RawValue::from_string(text).map_err(S::Error::custom)?.serialize(to)
}
