//! Which units go: a pure function of what is there, the rules and the leases.

use serde::Serialize;

/// A unit, as far as the decision needs it: a million of them fit into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Finds the rest of it again.
    pub key: u64,
    /// Bytes.
    pub size: u64,
    /// When it was used last, nanoseconds since 1970.
    pub used: i64,
    /// Index of its [`Group`].
    pub group: u32,
    /// Why it goes, if it does.
    pub goes: Option<Why>,
}

/// Units under the same rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// What was used last before this is too old, were there no leases.
    pub too_old: Option<i64>,
    /// The same as of the start of the oldest build that has a lease on the group.
    pub too_old_by_leases: Option<i64>,
    /// Whether a lease keeps the group from the rule of size.
    pub leased: bool,
    /// Index of the limit that its units count against.
    pub limit: Option<usize>,
}

/// Why a unit goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Age,
    Size,
}

/// Units and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sum {
    pub units: u64,
    pub bytes: u64,
}

impl Sum {
    pub fn add(&mut self, bytes: u64) {
        self.units += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Least recently used first; all of them go.
    pub take: Vec<Candidate>,
    /// What would go, too, were there no leases.
    pub held: Sum,
}

/// Decides. What is too old goes; then, where the rest of a limit's units is above it, the least
/// recently used of them.
///
/// What leases hold counts as if it were gone: others, which were used later, do not go in its place.
/// So the rest may be above the limit by what is held.
pub fn plan(mut candidates: Vec<Candidate>, groups: &[Group], limits: &[u64]) -> Plan {
    candidates.sort_unstable_by_key(|unit| (unit.used, unit.key));
    let mut held = Sum::default();
    let older = |unit: &Candidate, than: Option<i64>| than.is_some_and(|time| unit.used < time);
    let mut left: Vec<u128> = vec![0; limits.len()];
    let group = |unit: &Candidate| &groups[unit.group as usize];
    for unit in &mut candidates {
        let group = group(unit);
        if older(unit, group.too_old_by_leases) {
            unit.goes = Some(Why::Age);
        } else if older(unit, group.too_old) {
            held.add(unit.size);
        } else if let Some(limit) = group.limit {
            left[limit] += u128::from(unit.size);
        }
    }
    let mut excess: Vec<u128> =
        left.iter().zip(limits).map(|(left, limit)| left.saturating_sub(u128::from(*limit))).collect();
    for unit in &mut candidates {
        let group = group(unit);
        let Some(limit) = group.limit.filter(|limit| excess[*limit] > 0 && !older(unit, group.too_old))
        else {
            continue;
        };
        excess[limit] = excess[limit].saturating_sub(u128::from(unit.size));
        match group.leased {
            true => held.add(unit.size),
            false => unit.goes = Some(Why::Size),
        }
    }
    // In place: there may be a million of them.
    candidates.retain(|unit| unit.goes.is_some());
    Plan { take: candidates, held }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
