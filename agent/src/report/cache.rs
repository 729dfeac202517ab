//! What a job had to do with the caches: the share folded by tier, and words and numbers for the reports.

use agent_types::events::{CacheCounts, CacheTier, Sstate};
use agent_types::tiers::TierKind;
use agent_types::traffic::Traffic;

use super::summary::{Summary, TierResult, whole_milliseconds};

impl Summary {
    pub(super) fn cache_tier(&mut self, found: &CacheTier) {
        let tier = self.tier(found.tier);
        tier.path = Some(found.path.clone());
        tier.state = Some(found.state);
        tier.reason.clone_from(&found.reason);
    }

    pub(super) fn cache_traffic(&mut self, tier: TierKind, traffic: Traffic) {
        let sum = &mut self.tier(tier).traffic;
        *sum += traffic;
        sum.seconds_waited = whole_milliseconds(sum.seconds_waited);
        sum.usd = whole_micros(sum.usd);
    }

    pub(super) fn cache_published(&mut self, tier: TierKind, counts: CacheCounts) {
        *self.tier(tier).published.get_or_insert_default() += counts;
    }

    fn tier(&mut self, kind: TierKind) -> &mut TierResult {
        let known = self.cache.iter().position(|tier| tier.tier == kind);
        let index = known.unwrap_or_else(|| {
            self.cache.push(TierResult {
                tier: kind,
                path: None,
                state: None,
                reason: None,
                traffic: Traffic::default(),
                published: None,
            });
            self.cache.len() - 1
        });
        &mut self.cache[index]
    }
}

/// Money in millionths; a sum of binary fractions has more digits.
fn whole_micros(usd: f64) -> f64 {
    (usd * 1e6).round() / 1e6
}

/// BitBake's numbers as pairs of name and number.
pub fn sstate_numbers(sstate: &Sstate) -> [(&'static str, u64); 5] {
    let Sstate { wanted, local, mirrors, missed, current } = *sstate;
    [
        ("sstate.wanted", wanted),
        ("sstate.local", local),
        ("sstate.mirrors", mirrors),
        ("sstate.missed", missed),
        ("sstate.current", current),
    ]
}

/// All that is known of a tier, as pairs of name and text.
pub fn tier_words(tier: &TierResult) -> Vec<(String, String)> {
    let Traffic { objects_read, bytes_read, objects_written, bytes_written, operations, seconds_waited, usd } =
        tier.traffic;
    let mut words = Vec::new();
    let mut say = |name: &str, text: String| words.push((format!("cache.{}.{name}", tier.tier.word()), text));
    if let Some(state) = tier.state {
        say("state", state.to_string());
    }
    for (name, number) in [
        ("objects_read", objects_read),
        ("bytes_read", bytes_read),
        ("objects_written", objects_written),
        ("bytes_written", bytes_written),
        ("operations", operations),
    ] {
        say(name, number.to_string());
    }
    say("seconds_waited", format!("{seconds_waited:.3}"));
    if usd > 0.0 {
        say("usd", format!("{usd:.6}"));
    }
    if let Some(counts) = &tier.published {
        for (name, number) in counts_by_name(counts) {
            say(name, number.to_string());
        }
    }
    words
}

/// The counts that are numbers of objects.
pub fn counts_by_name(counts: &CacheCounts) -> [(&'static str, u64); 5] {
    let CacheCounts { published, present, differing, failed, left, bytes: _ } = *counts;
    [
        ("published", published),
        ("present", present),
        ("differing", differing),
        ("failed", failed),
        ("left", left),
    ]
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::report::sample::{at, reduce, with_share};
    use agent_types::events::EventKind;
    use agent_types::tiers::State;

    #[test]
    fn the_parts_of_a_job_add_up_by_tier() {
        let summary = reduce(&with_share());
        let tiers: Vec<_> = summary.cache.iter().map(|tier| (tier.tier, tier.state)).collect();
        let wanted =
            [(TierKind::PullRequest, Some(State::ReadWrite)), (TierKind::Shared, Some(State::ReadOnly))];
        assert_eq!(tiers, wanted);
        let [own, shared] = summary.cache.as_slice() else { panic!("{:?}", summary.cache) };
        assert_eq!(shared.traffic.objects_read, 33, "layers and objects");
        assert_eq!(shared.traffic.operations, 12);
        assert!((shared.traffic.seconds_waited - 0.3).abs() < f64::EPSILON, "to the millisecond");
        assert_eq!(own.published.unwrap().published, 5);
        assert_eq!(shared.published, None);
    }

    #[test]
    fn traffic_of_a_tier_that_was_not_looked_at_is_not_lost() {
        let traffic = Traffic { operations: 1, ..Traffic::default() };
        let summary = reduce(&[at(0, EventKind::CacheTraffic { tier: TierKind::Shared, traffic })]);
        assert_eq!(summary.cache[0].traffic.operations, 1);
        assert_eq!((summary.cache[0].state, &summary.cache[0].path), (None, &None));
    }

    #[test]
    fn names_of_a_tier() {
        let summary = reduce(&with_share());
        let words = tier_words(&summary.cache[0]);
        let value = |name: &str| words.iter().find(|(known, _)| known == name).map(|(_, text)| text.as_str());
        assert_eq!(value("cache.pull-request.state"), Some("read-write"));
        assert_eq!(value("cache.pull-request.published"), Some("5"));
        assert_eq!(value("cache.pull-request.bytes_written"), Some("5000"));
        assert_eq!(value("cache.pull-request.seconds_waited"), Some("1.500"));
        assert!(tier_words(&summary.cache[1]).iter().all(|(name, _)| !name.ends_with("published")));
    }
}
