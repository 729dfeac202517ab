//! Values without quotes in YAML 1.1 and JSON.

use std::sync::LazyLock;

use regex::Regex;

use super::super::tree::Value;

/// A scalar of JSON without quotes.
///
/// # Errors
/// Why it is none.
pub fn json_scalar(text: &str) -> std::result::Result<Value, &'static str> {
    Ok(match text {
        "null" => Value::Null,
        "true" => Value::Boolean(true),
        "false" => Value::Boolean(false),
        _ => match text.parse() {
            Ok(integer) => Value::Integer(integer),
            Err(_) => Value::Float(text.parse().map_err(|_| "is not a number")?),
        },
    })
}

/// A scalar of YAML without quotes, by the rules of PyYAML (`yaml/resolver.py`, `yaml/constructor.py`).
///
/// # Errors
/// Why it is none.
pub fn yaml_scalar(text: &str) -> std::result::Result<Value, &'static str> {
    let is =
        |pattern: &LazyLock<Option<Regex>>| pattern.as_ref().is_some_and(|pattern| pattern.is_match(text));
    Ok(match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => Value::Boolean(true),
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => Value::Boolean(false),
        _ if is(&FLOAT) => Value::Float(float(text)),
        _ if is(&INT) => Value::Integer(integer(text).ok_or("is too large")?),
        _ if is(&TIMESTAMP) => Value::Datetime,
        _ => Value::String(text.to_owned()),
    })
}

static FLOAT: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r"^(?:[-+]?(?:[0-9][0-9_]*)\.[0-9_]*(?:[eE][-+][0-9]+)?|\.[0-9][0-9_]*(?:[eE][-+][0-9]+)?|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+\.[0-9_]*|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
    )
    .ok()
});
static INT: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r"^(?:[-+]?0b[0-1_]+|[-+]?0[0-7_]+|[-+]?(?:0|[1-9][0-9_]*)|[-+]?0x[0-9a-fA-F_]+|[-+]?[1-9][0-9_]*(?::[0-5]?[0-9])+)$",
    )
    .ok()
});
static TIMESTAMP: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r"^(?:[0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{4}-[0-9][0-9]?-[0-9][0-9]?(?:[Tt]|[ \t]+)[0-9][0-9]?:[0-9]{2}:[0-9]{2}(?:\.[0-9]*)?(?:[ \t]*(?:Z|[-+][0-9][0-9]?(?::[0-9]{2})?))?)$",
    )
    .ok()
});

fn integer(text: &str) -> Option<i64> {
    let text = text.replace('_', "");
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, text.strip_prefix('+').unwrap_or(&text)),
    };
    let value = if let Some(binary) = digits.strip_prefix("0b") {
        i64::from_str_radix(binary, 2).ok()?
    } else if let Some(hexadecimal) = digits.strip_prefix("0x") {
        i64::from_str_radix(hexadecimal, 16).ok()?
    } else if digits.len() > 1 && digits.starts_with('0') {
        i64::from_str_radix(digits, 8).ok()?
    } else {
        // `1:30` is 90.
        digits
            .split(':')
            .try_fold(0_i64, |value, part| value.checked_mul(60)?.checked_add(part.parse().ok()?))?
    };
    Some(sign * value)
}

fn float(text: &str) -> f64 {
    let text = text.replace('_', "").to_lowercase();
    let number = text.replace(".inf", "inf").replace(".nan", "nan");
    let sexagesimal =
        || number.split(':').try_fold(0.0, |value, part| Some(value * 60.0 + part.parse::<f64>().ok()?));
    number.parse().ok().or_else(sexagesimal).unwrap_or(f64::NAN)
}
