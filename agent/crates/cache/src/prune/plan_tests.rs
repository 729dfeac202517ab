#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const NONE: Group =
    Group { too_old: None, too_old_by_leases: None, kept_since: None, leased: false, limit: None };

fn unit(key: u64, used: i64, size: u64, group: u32) -> Candidate {
    Candidate { key, size, used, group, goes: None }
}

fn taken(plan: &Plan) -> Vec<(u64, Why)> {
    plan.take.iter().map(|unit| (unit.key, unit.goes.unwrap())).collect()
}

#[test]
fn removes_by_age_and_then_the_least_recently_used() {
    let group = Group { too_old: Some(10), too_old_by_leases: Some(10), limit: Some(0), ..NONE };
    let units = || vec![unit(1, 30, 5, 0), unit(2, 9, 5, 0), unit(3, 10, 5, 0), unit(4, 20, 5, 0)];
    let table: [(u64, &[(u64, Why)]); 5] = [
        (u64::MAX, &[(2, Why::Age)]),
        (15, &[(2, Why::Age)]),
        (14, &[(2, Why::Age), (3, Why::Size)]),
        (5, &[(2, Why::Age), (3, Why::Size), (4, Why::Size)]),
        (0, &[(2, Why::Age), (3, Why::Size), (4, Why::Size), (1, Why::Size)]),
    ];
    for (limit, wanted) in table {
        let plan = plan(units(), &[group], &[limit]);
        assert_eq!((taken(&plan), plan.held), (wanted.to_vec(), Sum::default()), "limit {limit}");
    }
}

#[test]
fn removes_nothing_without_rules() {
    assert_eq!(plan(vec![unit(1, i64::MIN, u64::MAX, 0)], &[NONE], &[]), Plan::default());
}

#[test]
fn leases_protect_units_without_cost_for_others() {
    let leased =
        Group { too_old: Some(100), too_old_by_leases: Some(50), leased: true, limit: Some(0), ..NONE };
    let free = Group { leased: false, too_old_by_leases: Some(100), ..leased };
    let units = vec![
        unit(1, 40, 1, 0),
        unit(2, 60, 4, 0),
        unit(3, 110, 4, 0),
        unit(4, 120, 4, 1),
        unit(5, 130, 4, 1),
    ];
    let plan = plan(units, &[leased, free], &[8]);
    // 1 was too old before the build began; 2 is too old and 3 is above the size; 4 and 5 are the 8 bytes.
    assert_eq!(taken(&plan), [(1, Why::Age)]);
    assert_eq!(plan.held, Sum { units: 2, bytes: 8 });
}

#[test]
fn each_limit_applies_to_its_own_groups() {
    let groups = [Group { limit: Some(0), ..NONE }, Group { limit: Some(1), ..NONE }, NONE];
    let units = vec![unit(1, 1, 10, 0), unit(2, 2, 10, 1), unit(3, 3, 10, 1), unit(4, 0, 99, 2)];
    assert_eq!(taken(&plan(units, &groups, &[10, 10])), [(2, Why::Size)]);
}

#[test]
fn recently_used_units_stay_whatever_the_rules_say() {
    let group = Group {
        too_old: Some(100),
        too_old_by_leases: Some(100),
        kept_since: Some(60),
        limit: Some(0),
        ..NONE
    };
    let units = vec![unit(1, 50, 1, 0), unit(2, 60, 2, 0), unit(3, 110, 4, 0)];
    let plan = plan(units, &[group], &[0]);
    assert_eq!(taken(&plan), [(1, Why::Age)]);
    assert_eq!((plan.held, plan.held_by_grace), (Sum::default(), Sum { units: 2, bytes: 6 }));
}

fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
    let one = (0i64..1000, 0u64..1 << 40, 0u32..4);
    prop::collection::vec(one, 0..200).prop_map(|units| {
        let numbered = units.into_iter().zip(0..);
        numbered.map(|((used, size, group), key)| unit(key, used, size, group)).collect()
    })
}

fn group() -> impl Strategy<Value = Group> {
    (prop::option::of(0i64..1000), 0i64..500, any::<bool>(), prop::option::of(0usize..2)).prop_map(
        |(too_old, earlier, leased, limit)| Group {
            too_old,
            too_old_by_leases: too_old.map(|time| if leased { time - earlier } else { time }),
            leased,
            limit,
            ..NONE
        },
    )
}

fn keys(plan: &Plan) -> BTreeSet<u64> {
    plan.take.iter().map(|unit| unit.key).collect()
}

proptest! {
    #[test]
    fn plan_follows_the_rules(units in candidates(), groups in prop::collection::vec(group(), 4), limits in [0u64..1 << 46, 0u64..1 << 46]) {
        let plan = plan(units.clone(), &groups, &limits);
        prop_assert_eq!(keys(&plan).len(), plan.take.len());
        for unit in &plan.take {
            let group = groups[unit.group as usize];
            match unit.goes.unwrap() {
                // No unit younger than the maximum age at the oldest lease.
                Why::Age => prop_assert!(unit.used < group.too_old_by_leases.unwrap()),
                Why::Size => prop_assert!(!group.leased && group.limit.is_some()),
            }
        }
        // All units that are too old are removed.
        let gone = keys(&plan);
        for unit in &units {
            let too_old = groups[unit.group as usize].too_old_by_leases.is_some_and(|time| unit.used < time);
            prop_assert!(!too_old || gone.contains(&unit.key));
        }
        for (index, limit) in limits.iter().enumerate() {
            let of_limit = |unit: &&Candidate| groups[unit.group as usize].limit == Some(index);
            let left = || units.iter().filter(of_limit).filter(|unit| !gone.contains(&unit.key));
            let bytes: u64 = left().map(|unit| unit.size).sum();
            // The rest is at or below the limit, except for protected units,
            prop_assert!(bytes <= limit + plan.held.bytes);
            // no unit is removed before one of the same groups that was used earlier,
            let by_size = plan.take.iter().filter(|unit| unit.goes == Some(Why::Size)).filter(of_limit);
            let latest = by_size.clone().map(|unit| unit.used).max();
            let unheld = left().filter(|unit| !groups[unit.group as usize].leased);
            prop_assert!(unheld.map(|unit| unit.used).min().is_none_or(|first| latest.is_none_or(|latest| latest <= first)));
            // and no more units than needed are removed.
            let last = by_size.max_by_key(|unit| (unit.used, unit.key)).map_or(0, |unit| unit.size);
            prop_assert!(last == 0 || bytes + last > *limit);
        }
    }

    /// A larger limit, a longer age or one more lease never removes more.
    #[test]
    fn the_plan_is_monotone(
        units in candidates(),
        groups in prop::collection::vec(group(), 4),
        limits in [0u64..1 << 46, 0u64..1 << 46],
        more in 0u64..1 << 46,
        longer in 0i64..1000,
        lease in 0usize..4,
    ) {
        let all = keys(&plan(units.clone(), &groups, &limits));
        let roomier = limits.map(|limit| limit + more);
        prop_assert!(keys(&plan(units.clone(), &groups, &roomier)).is_subset(&all));
        let earlier = |time: Option<i64>| time.map(|time| time - longer);
        let patient: Vec<Group> = groups
            .iter()
            .map(|group| Group { too_old: earlier(group.too_old), too_old_by_leases: earlier(group.too_old_by_leases), ..*group })
            .collect();
        // What is no longer removed by age may be removed by size, so this checks age only.
        let endless = [u64::MAX; 2];
        let by_age = keys(&plan(units.clone(), &groups, &endless));
        prop_assert!(keys(&plan(units.clone(), &patient, &endless)).is_subset(&by_age));
        let mut held = groups.clone();
        held[lease].leased = true;
        held[lease].too_old_by_leases = earlier(held[lease].too_old_by_leases);
        prop_assert!(keys(&plan(units, &held, &limits)).is_subset(&all));
    }
}
