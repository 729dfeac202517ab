//! Finds secrets by their form: passwords in URLs, tokens in queries, headers, and tokens of well-known
//! services.
//!
//! Text without a secret may look like one (`a:b@c`) and is then hidden as well. That is better than a missed
//! secret.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use super::REPLACEMENT;
use super::names::is_secret;

/// Replaces everything that looks like a secret.
pub fn redact(text: &str) -> Cow<'_, str> {
    let found = find(text, Reading::Text);
    if found.is_empty() {
        return Cow::Borrowed(text);
    }
    let mut clear = String::with_capacity(text.len());
    let mut from = 0;
    for range in found {
        clear.push_str(&text[from..range.start]);
        clear.push_str(REPLACEMENT);
        from = range.end;
    }
    clear.push_str(&text[from..]);
    Cow::Owned(clear)
}

/// The secrets in a text, as written and percent-decoded, so that they can be hidden elsewhere, too. Values
/// that are only assigned to a name are not included: `UBOOT_KEY = "dev"` must not hide `dev` everywhere.
pub fn values(text: &str) -> Vec<String> {
    with_decoded(find(text, Reading::Values).into_iter().map(|range| &text[range]))
}

/// [`values`] of one command-line word, in which a password may contain spaces.
pub fn values_of_word(word: &str) -> Vec<String> {
    with_decoded(find(word, Reading::Word).into_iter().map(|range| &word[range]))
}

/// How the text is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    Text,
    Values,
    /// As values; a URL continues to the end of the text.
    Word,
}

fn with_decoded<'a>(found: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut values: Vec<String> = Vec::new();
    let mut add = |value: &str| {
        if !value.is_empty() && value != REPLACEMENT && !values.iter().any(|known| known == value) {
            values.push(value.to_owned());
        }
    };
    for value in found {
        let decoded = percent_encoding::percent_decode_str(value).decode_utf8_lossy();
        add(&decoded);
        add(value);
    }
    values
}

/// The positions of secrets, sorted and without overlaps.
fn find(text: &str, reading: Reading) -> Vec<Range<usize>> {
    // Every form contains one of these characters.
    if !text.contains(['@', '=', '%', ':', '_', '.', '-', ' ', '+']) {
        return Vec::new();
    }
    let whole = reading == Reading::Word;
    let mut found = Vec::new();
    let begun = addresses(text, whole, &mut found);
    short_addresses(text, whole, &begun, &mut found);
    parameters(text, &mut found);
    if reading == Reading::Text {
        assignments(text, &mut found);
    }
    headers(text, &mut found);
    tokens(text, &mut found);
    found.retain(|range| !range.is_empty());
    found.sort_by_key(|range| (range.start, range.end));
    let mut disjoint: Vec<Range<usize>> = Vec::new();
    for range in found {
        match disjoint.last_mut() {
            Some(last) if range.start < last.end => last.end = last.end.max(range.end),
            _ => disjoint.push(range),
        }
    }
    disjoint
}

fn pattern(text: &str) -> Option<Regex> {
    Regex::new(text).ok()
}

/// All matches of a pattern. A test checks that every pattern compiles.
fn matches<'t>(
    pattern: &'static LazyLock<Option<Regex>>,
    text: &'t str,
) -> impl Iterator<Item = regex::Captures<'t>> {
    pattern.iter().flat_map(move |pattern| pattern.captures_iter(text))
}

/// The end of the URL that begins at `from`.
fn end_of_address(text: &str, from: usize, whole: bool) -> usize {
    if whole {
        return text.len();
    }
    let limit = text.floor_char_boundary(from.saturating_add(LONGEST));
    let ends = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '"' | '<' | '>' | '`');
    text[from..limit].find(ends).map_or(limit, |at| from + at)
}

/// Maximum length of a URL, so that a hostile line is not read again for each possible URL in it.
const LONGEST: usize = 4096;

/// The first of these signs in the range, literal or percent-encoded.
fn first_of(text: &str, range: &Range<usize>, signs: &[&str]) -> Option<Range<usize>> {
    let lower = text[range.clone()].to_ascii_lowercase();
    let found = signs.iter().filter_map(|sign| lower.find(sign).map(|at| (at, sign.len())));
    found.min().map(|(at, length)| range.start + at..range.start + at + length)
}

fn last_of(text: &str, range: &Range<usize>, signs: &[&str]) -> Option<Range<usize>> {
    let lower = text[range.clone()].to_ascii_lowercase();
    let found = signs.iter().filter_map(|sign| lower.rfind(sign).map(|at| (at, sign.len())));
    found.max().map(|(at, length)| range.start + at..range.start + at + length)
}

const AT: [&str; 3] = ["@", "%40", "%2540"];
const COLON: [&str; 3] = [":", "%3a", "%253a"];

static SCHEME: LazyLock<Option<Regex>> = LazyLock::new(|| {
    pattern(concat!(
        // https:// also as JSON escapes it, and percent-encoded once or twice.
        r"(?i)(?:([a-z][a-z0-9+.-]{0,30})(?::(?:\\?/|\\){2,}|%(?:25)?3a(?:%(?:25)?2f){2,})",
        // Forms that programs accept as well: `https:host`, `https:/host`.
        r"|\b(?:https?|ftps?|ssh|git|wss?):[/\\]?)"
    ))
});

/// Finds `scheme://user:password@host`, also if a stray `/`, `#` or `@` in the password makes the URL invalid
/// or different.
///
/// Returns the positions after the schemes.
fn addresses(text: &str, whole: bool, found: &mut Vec<Range<usize>>) -> Vec<usize> {
    let mut begun = Vec::new();
    for scheme in matches(&SCHEME, text) {
        let Some(all) = scheme.get(0) else { continue };
        let name = scheme.get(1).map_or(all.as_str(), |name| name.as_str());
        let name = name.split(':').next().unwrap_or(name).to_ascii_lowercase();
        let run = all.end()..end_of_address(text, all.end(), whole);
        begun.push(run.start);
        let is_encoded = all.as_str().contains('%');
        let ends: &[&str] = if is_encoded {
            &["/", "?", "#", "\\", "%2f", "%3f", "%23", "%252f", "%253f"]
        } else {
            &["/", "?", "#", "\\"]
        };
        let at_signs: &[&str] = if is_encoded { &AT } else { &AT[..1] };
        let end = first_of(text, &run, ends).map_or(run.end, |end| end.start);
        let Some(user_info) = user_info(text, run.clone(), run.start..end, at_signs) else { continue };
        secret_of(text, &name, user_info, found);
    }
    begun
}

/// The part of a URL before the `@`.
fn user_info(
    text: &str,
    run: Range<usize>,
    authority: Range<usize>,
    at_signs: &[&str],
) -> Option<Range<usize>> {
    let last = last_of(text, &run, at_signs)?;
    let Some(at) = last_of(text, &authority, at_signs) else {
        // No `@` in the authority: `user:pass/word@host` has a password if the text after `:` is not a port.
        let colon = first_of(text, &authority, &COLON)?;
        let port = &text[colon.end..authority.end];
        let is_port = !port.is_empty() && port.chars().all(|c| c.is_ascii_digit());
        let is_ipv6 = text[authority.start..].starts_with('[');
        return (!is_port && !is_ipv6).then_some(run.start..last.start);
    };
    // `user:p@ss/word@host.example`: the text after the first `@` is not a host name.
    let host = &text[at.end..authority.end];
    let goes_on = last.start > at.start && !host.contains(['.', ':', '[']) && host != "localhost";
    let end = if goes_on { last.start } else { at.start };
    let is_digest = ["sha256:", "sha512:", "sha256%3a"].iter().any(|name| text[at.end..].starts_with(name));
    (!is_digest).then_some(run.start..end)
}

/// Adds the secret part before the `@`.
fn secret_of(text: &str, scheme: &str, user_info: Range<usize>, found: &mut Vec<Range<usize>>) {
    const NAMES: [&str; 9] =
        ["ssh", "git+ssh", "svn+ssh", "git", "rsync", "sftp", "scp", "hg+ssh", "bzr+ssh"];
    match first_of(text, &user_info, &COLON) {
        Some(colon) => {
            let (user, password) = (user_info.start..colon.start, colon.end..user_info.end);
            // Tokens occur as user and as password.
            if matches!(&text[password.clone()], "" | "x-oauth-basic") {
                found.push(user);
            } else {
                found.push(password);
            }
        }
        // A user alone is the token in `https://TOKEN@host`; with ssh it is a user name.
        None if NAMES.contains(&scheme) || matches!(&text[user_info.clone()], "git" | "anonymous") => {}
        None => found.push(user_info),
    }
}

static SHORT: LazyLock<Option<Regex>> = LazyLock::new(|| {
    pattern(concat!(
        r#"(?i)(?:^|[\s"'`=(\[,<>{;|/\\])([a-z0-9._~+%-]*[a-z0-9._~+-])(:|%3a)"#,
        r#"([^\s"'`<>@:]*[^\s"'`<>@%:])(@|%40)([a-z0-9\[])"#
    ))
});

static SHORT_WORD: LazyLock<Option<Regex>> =
    LazyLock::new(|| pattern(r"(?is)(?:^|=)([a-z0-9._~+-]+)(:)([^/].*)(@)([a-z0-9\[])"));

/// Finds `user:password@host` without a scheme. `begun` has the positions of URLs with a scheme.
fn short_addresses(text: &str, whole: bool, begun: &[usize], found: &mut Vec<Range<usize>>) {
    let pattern = if whole { &SHORT_WORD } else { &SHORT };
    for short in matches(pattern, text) {
        let (Some(name), Some(password), Some(host)) = (short.get(1), short.get(3), short.get(5)) else {
            continue;
        };
        let rest = &text[host.start()..];
        let is_other = ["mailto", "sip", "sips", "acct", "xmpp"].contains(&name.as_str())
            || ["sha256:", "sha512:"].iter().any(|start| rest.starts_with(start))
            // A path, or a branch of `host.example:group/repository`.
            || password.as_str().starts_with('/')
            || (password.as_str().contains('/') && name.as_str().contains('.'));
        if !is_other && !begun.iter().any(|start| *start == name.start() || *start == password.start()) {
            found.push(password.range());
        }
    }
}

static PARAMETER: LazyLock<Option<Regex>> = LazyLock::new(|| {
    pattern(r#"(?i)(?:[?&;#]|%3f|%26|%3b)([a-z0-9_.\[\]-]+)(?:=([^\s"'`<>&;#]*)|%3d([^\s"'`<>&;#]*))"#)
});

/// Finds `?token=…`, `&X-Amz-Signature=…`, and BitBake's `;pswd=…` and `;user=name:password`.
fn parameters(text: &str, found: &mut Vec<Range<usize>>) {
    const NAMES: [&str; 23] = [
        "sig",
        "signature",
        "x-amz-signature",
        "x-amz-security-token",
        "x-amz-credential",
        "awsaccesskeyid",
        "x-goog-signature",
        "x-goog-credential",
        "auth",
        "key",
        "apikey",
        "pass",
        "pswd",
        "pwd",
        "password",
        "token",
        "jwt",
        "secret",
        "hmac",
        "ticket",
        "session",
        "sessionid",
        "sas",
    ];
    for parameter in matches(&PARAMETER, text) {
        let Some(name) = parameter.get(1) else { continue };
        let Some(value) = parameter.get(2).or(parameter.get(3)) else { continue };
        let mut range = value.range();
        if parameter.get(3).is_some()
            && let Some(end) = first_of(text, &range, &["%26", "%3b", "%23"])
        {
            range.end = end.start;
        }
        let lower = name.as_str().to_ascii_lowercase();
        if lower == "user" {
            if let Some(colon) = first_of(text, &range, &COLON) {
                found.push(colon.end..range.end);
            }
        } else if NAMES.contains(&lower.as_str()) || is_secret(name.as_str(), &text[range.clone()]) {
            found.push(range);
        }
    }
}

static ASSIGNMENT: LazyLock<Option<Regex>> = LazyLock::new(|| {
    pattern(concat!(
        r#"(?i)([a-z_][a-z0-9_.-]*)(?:["']?\s?[=:]\s?"([^"]*)"|["']?\s?[=:]\s?'([^']*)'"#,
        r#"|=([^\s"'`<>,;&=]+))"#
    ))
});

/// Finds `GITHUB_TOKEN=…`, `github.token = "…"`, `"password": "…"`.
fn assignments(text: &str, found: &mut Vec<Range<usize>>) {
    let Some(pattern) = &*ASSIGNMENT else { return };
    let mut at = 0;
    while let Some(assignment) = pattern.captures_at(text, at) {
        let (Some(name), Some(value)) = (assignment.get(1), (2..=4).find_map(|group| assignment.get(group)))
        else {
            return;
        };
        let last = name.as_str().rsplit('.').next().unwrap_or_default();
        // The manifest's key has the name of a secret, not its value.
        let is_name = last == "token_secret" && !value.as_str().contains('{');
        // URLs have their own rule, and an expression is not a value.
        let is_other = value.as_str().contains("://") || value.as_str().starts_with(['$', '=', '{', '[']);
        if !is_name && !is_other && is_secret(last, value.as_str()) {
            let end = text[value.end()..].find(|c: char| c.is_whitespace() || "\"'`<>,;&".contains(c));
            // Padding, or other text after a `=` in the value.
            let end = if assignment.get(4).is_some() { end.unwrap_or(text.len() - value.end()) } else { 0 };
            at = value.end() + end;
            found.push(value.start()..at);
        } else {
            // `--set KEY=NAME=VALUE`: the value may be an assignment as well.
            at = value.start();
        }
    }
}

static HEADER: LazyLock<Option<Regex>> = LazyLock::new(|| {
    pattern(concat!(
        r"(?i)\b(?:(?:proxy-)?authorization|(?:set-)?cookie|(?:private|job|deploy)-token|api-?key",
        r"|x-[a-z-]*(?:token|key|auth|secret|signature)[a-z-]*)",
        r#"(?:\s*:\s*([^\s"'`][^"'`\r\n]*)|%3a(?:%20|\+)*([^\s"'`&]+))"#
    ))
});

static CREDENTIAL: LazyLock<Option<Regex>> =
    LazyLock::new(|| pattern(r"(?i)\b(?:bearer|basic)(?:\s+|%20|\+)([a-z0-9+/=._~%-]{8,})"));

/// Finds `Authorization: …` and similar headers, up to the end of the line or of the quotes.
fn headers(text: &str, found: &mut Vec<Range<usize>>) {
    for header in matches(&HEADER, text) {
        found.extend(header.get(1).or(header.get(2)).map(|value| value.range()));
    }
    for credential in matches(&CREDENTIAL, text) {
        let Some(value) = credential.get(1) else { continue };
        // Not a normal word: it has digits, padding, or upper case after lower case.
        let text = value.as_str();
        let mut pairs = text.chars().zip(text.chars().skip(1));
        let is_mixed = pairs.any(|(one, next)| one.is_ascii_lowercase() && next.is_ascii_uppercase());
        if is_mixed || text.contains(|c: char| c.is_ascii_digit() || c == '=') {
            found.push(value.range());
        }
    }
}

static TOKEN: LazyLock<Option<Regex>> = LazyLock::new(|| {
    pattern(concat!(
        r"\b(?:gh[pousr]_[A-Za-z0-9]{16,}|github_pat_[A-Za-z0-9_]{16,}|gl(?:pat|dt|rt|cbt|ptt)-[A-Za-z0-9_-]{16,}",
        r"|xox[abeoprs]-[A-Za-z0-9-]{10,}|npm_[A-Za-z0-9]{30,}|hf_[A-Za-z0-9]{30,}|AIza[A-Za-z0-9_-]{30,}",
        r"|dckr_pat_[A-Za-z0-9_-]{16,}|eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*)",
    ))
});

static WEBHOOK: LazyLock<Option<Regex>> = LazyLock::new(|| {
    pattern(concat!(
        r#"(?i)(?:hooks\.slack\.com/(?:services|workflows|triggers)/|discord(?:app)?\.com/api/webhooks/"#,
        r#"|webhook\.office\.com/webhookb?2?/|outlook\.office\.com/webhook/)([^\s"'`<>]+)"#
    ))
});

/// Finds tokens with the prefixes of well-known services, and the secret part of their webhooks.
fn tokens(text: &str, found: &mut Vec<Range<usize>>) {
    found.extend(matches(&TOKEN, text).filter_map(|token| token.get(0)).map(|token| token.range()));
    found.extend(matches(&WEBHOOK, text).filter_map(|hook| hook.get(1)).map(|part| part.range()));
}

#[cfg(test)]
#[path = "forms_tests.rs"]
mod tests;
