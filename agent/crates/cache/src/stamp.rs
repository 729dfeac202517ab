//! Creates unique names that sort by time: `20251122T173500Z-<16 hexadecimal digits>`.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::{Duration, SystemTime};

/// A name for the time `now`.
pub fn stamp(now: SystemTime) -> String {
    let time = humantime::format_rfc3339_seconds(now).to_string().replace(['-', ':'], "");
    format!("{time}-{}", random())
}

/// The time in a name of [`stamp`], to the second.
pub fn time_of(stamp: &str) -> Option<SystemTime> {
    let (time, random) = stamp.split_once('-')?;
    let hex = random.len() == 16 && random.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let digits = time.len() == 16 && time.is_ascii();
    if !hex || !digits {
        return None;
    }
    let (date, clock) = (&time[..8], time[8..].strip_prefix('T')?.strip_suffix('Z')?);
    let text = format!(
        "{}-{}-{}T{}:{}:{}Z",
        &date[..4],
        &date[4..6],
        &date[6..],
        &clock[..2],
        &clock[2..4],
        &clock[4..]
    );
    humantime::parse_rfc3339(&text).ok()
}

/// 16 random hexadecimal digits that are unique among processes; not a secret.
pub fn random() -> String {
    // The operating system seeds each `RandomState`, and it is counted up.
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    format!("{:016x}", hasher.finish())
}

/// Nanoseconds since 1970, the unit of file times here.
pub fn nanoseconds(time: SystemTime) -> i64 {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |before| -before),
    }
}

/// Converts nanoseconds since 1970 to a time.
pub fn time(nanoseconds: i64) -> SystemTime {
    let distance = Duration::from_nanos(nanoseconds.unsigned_abs());
    let epoch = SystemTime::UNIX_EPOCH;
    let time = if nanoseconds < 0 { epoch.checked_sub(distance) } else { epoch.checked_add(distance) };
    time.unwrap_or(epoch)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn stamp_contains_its_time_and_is_unique() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_763_832_900);
        let (one, other) = (stamp(now), stamp(now));
        assert!(one.starts_with("20251122T173500Z-"), "{one}");
        assert_ne!(one, other);
        assert_eq!(time_of(&one), Some(now));
        for wrong in [
            "",
            "-",
            "20251122T173500Z",
            "20251122T173500Z-x",
            "20251322T173500Z-0123456789abcdef",
            "2025112xT173500Z-0123456789abcdef",
            "ääääT173500Z-0123456789abcdef",
            "20251122T173500Z-0123456789abcdeF",
        ] {
            assert_eq!(time_of(wrong), None, "{wrong}");
        }
        assert_eq!(time(nanoseconds(now)), now);
        assert_eq!(nanoseconds(time(-5)), -5);
    }
}
