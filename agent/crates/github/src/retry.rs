//! What to do after an answer of GitHub:
//! <https://docs.github.com/en/rest/using-the-rest-api/rate-limits-for-the-rest-api>. A pure function.

use std::time::{Duration, SystemTime};

/// Added to the time of a reset, because clocks differ.
const RESET_MARGIN: Duration = Duration::from_secs(5);

/// The first wait without a header that says how long. GitHub asks for at least a minute, doubled each time.
const UNSPECIFIED: Duration = Duration::from_secs(60);

/// The first wait after an error of the server.
const SERVER_ERROR: Duration = Duration::from_secs(1);

/// What an answer says, besides its content.
#[derive(Clone, Copy, Debug, Default)]
pub struct Answered<'a> {
    pub status: u16,
    pub retry_after: Option<&'a str>,
    pub remaining: Option<&'a str>,
    pub reset: Option<&'a str>,
    /// GitHub's `message`.
    pub message: &'a str,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Done,
    /// A rate limit: the request had no effect, and may be sent again after this time.
    Wait(Duration),
    /// An error of the server: the request may have had an effect.
    Repeat(Duration),
    Refused,
}

/// Decides after the answer to attempt number `attempt`, which counts from 0.
pub fn next(answer: &Answered, attempt: u32, now: SystemTime) -> Next {
    let doubled = |first: Duration| first.saturating_mul(1_u32.checked_shl(attempt).unwrap_or(u32::MAX));
    match answer.status {
        200..300 => Next::Done,
        403 | 429 => match stated_wait(answer, now) {
            Some(wait) => Next::Wait(wait),
            None if answer.status == 429 || is_secondary(answer.message) => Next::Wait(doubled(UNSPECIFIED)),
            // Without any of these, 403 is a missing permission.
            None => Next::Refused,
        },
        408 | 500.. => Next::Repeat(stated_wait(answer, now).unwrap_or(doubled(SERVER_ERROR))),
        _ => Next::Refused,
    }
}

/// The wait that the headers ask for.
fn stated_wait(answer: &Answered, now: SystemTime) -> Option<Duration> {
    if let Some(seconds) = answer.retry_after.and_then(|text| text.trim().parse().ok()) {
        return Some(Duration::from_secs(seconds));
    }
    if answer.remaining?.trim() != "0" {
        return None;
    }
    let reset =
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(answer.reset?.trim().parse().ok()?))?;
    Some(reset.duration_since(now).unwrap_or_default() + RESET_MARGIN)
}

fn is_secondary(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    message.contains("secondary rate limit") || message.contains("abuse detection")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_as_github_asks() {
        let seconds = Duration::from_secs;
        let now = SystemTime::UNIX_EPOCH + seconds(1_000_000);
        let plain = |status| Answered { status, ..Answered::default() };
        let limited = |status, reset| Answered {
            status,
            remaining: Some("0"),
            reset: Some(reset),
            ..Answered::default()
        };
        let after =
            |status, retry_after| Answered { status, retry_after: Some(retry_after), ..Answered::default() };
        let says = |status, message| Answered { status, message, ..Answered::default() };
        let secondary = "You have exceeded a secondary rate limit. Please wait a few minutes";
        let table = [
            (plain(200), 0, Next::Done),
            (plain(201), 3, Next::Done),
            (plain(202), 0, Next::Done),
            (plain(204), 0, Next::Done),
            (plain(301), 0, Next::Refused),
            (plain(401), 0, Next::Refused),
            (plain(403), 0, Next::Refused),
            (says(403, "Resource not accessible by integration"), 0, Next::Refused),
            (says(403, secondary), 0, Next::Wait(seconds(60))),
            (says(403, secondary), 2, Next::Wait(seconds(240))),
            (plain(404), 0, Next::Refused),
            (plain(422), 0, Next::Refused),
            (plain(429), 0, Next::Wait(seconds(60))),
            (plain(429), 1, Next::Wait(seconds(120))),
            (after(429, "7"), 3, Next::Wait(seconds(7))),
            (after(403, "7"), 0, Next::Wait(seconds(7))),
            (after(403, "soon"), 0, Next::Refused),
            (Answered { retry_after: Some("7"), ..limited(403, "1000100") }, 0, Next::Wait(seconds(7))),
            (limited(403, "1000100"), 0, Next::Wait(seconds(105))),
            (limited(429, "999999"), 0, Next::Wait(seconds(5))),
            (limited(403, "later"), 0, Next::Refused),
            (Answered { remaining: Some("12"), ..limited(403, "1000100") }, 0, Next::Refused),
            (limited(200, "1000100"), 0, Next::Done),
            (plain(500), 0, Next::Repeat(seconds(1))),
            (plain(502), 1, Next::Repeat(seconds(2))),
            (plain(503), 2, Next::Repeat(seconds(4))),
            (after(503, "9"), 0, Next::Repeat(seconds(9))),
            (plain(408), 0, Next::Repeat(seconds(1))),
        ];
        for (answer, attempt, wanted) in table {
            assert_eq!(next(&answer, attempt, now), wanted, "{answer:?}, attempt {attempt}");
        }
        // No number of attempts and no header overflows.
        assert!(matches!(next(&plain(500), u32::MAX, now), Next::Repeat(_)));
        assert!(matches!(next(&after(429, "18446744073709551615"), 0, now), Next::Wait(_)));
        assert_eq!(next(&limited(403, "18446744073709551615"), 0, now), Next::Refused);
    }
}
