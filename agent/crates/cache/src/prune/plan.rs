//! Decides which units to remove: a pure function of the units, the rules and the leases.

use serde::Serialize;

/// The data of a unit that the decision needs; a million of them fit into memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// The key to its other data.
    pub key: u64,
    /// Bytes.
    pub size: u64,
    /// Time of the last use, in nanoseconds since 1970.
    pub used: i64,
    /// Index of its [`Group`].
    pub group: u32,
    /// Why it is removed, if it is.
    pub goes: Option<Why>,
}

/// Units with the same rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Group {
    /// Units whose last use was before this time are too old, without leases.
    pub too_old: Option<i64>,
    /// The same at the start of the oldest build that has a lease on the group.
    pub too_old_by_leases: Option<i64>,
    /// Units that were used at this time or later stay, whatever the other rules say.
    pub kept_since: Option<i64>,
    /// Whether a lease protects the group from the size rule.
    pub leased: bool,
    /// Index of the limit that its units count against.
    pub limit: Option<usize>,
}

/// Why a unit is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    Age,
    Size,
}

/// Number of units and their bytes.
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
    /// Units to remove, least recently used first.
    pub take: Vec<Candidate>,
    /// Units that would be removed without leases.
    pub held: Sum,
    /// Units that would be removed if they had not been used so recently.
    pub held_by_grace: Sum,
}

/// Makes the plan. Units that are too old are removed. If the rest is above a limit, the least recently used
/// units are removed as well.
///
/// Units protected by leases count as removed: no unit that was used later is removed in their place. So the
/// rest may exceed the limit by what leases protect.
pub fn plan(mut candidates: Vec<Candidate>, groups: &[Group], limits: &[u64]) -> Plan {
    candidates.sort_unstable_by_key(|unit| (unit.used, unit.key));
    let (mut held, mut held_by_grace) = (Sum::default(), Sum::default());
    let older = |unit: &Candidate, than: Option<i64>| than.is_some_and(|time| unit.used < time);
    let mut left: Vec<u128> = vec![0; limits.len()];
    let group = |unit: &Candidate| &groups[unit.group as usize];
    for unit in &mut candidates {
        let group = group(unit);
        if older(unit, group.too_old) {
            match () {
                () if recent(unit, group) => held_by_grace.add(unit.size),
                () if older(unit, group.too_old_by_leases) => unit.goes = Some(Why::Age),
                () => held.add(unit.size),
            }
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
        match () {
            () if recent(unit, group) => held_by_grace.add(unit.size),
            () if group.leased => held.add(unit.size),
            () => unit.goes = Some(Why::Size),
        }
    }
    // Works in place, because there may be a million units.
    candidates.retain(|unit| unit.goes.is_some());
    Plan { take: candidates, held, held_by_grace }
}

fn recent(unit: &Candidate, group: &Group) -> bool {
    group.kept_since.is_some_and(|time| unit.used >= time)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
