//! The machine for a cell: the smallest compute type that has the memory that the cell's last run needed.

use std::fmt;

use super::memory::MemoryUse;

/// CodeBuild's on-demand machines, the smallest first:
/// <https://docs.aws.amazon.com/codebuild/latest/userguide/build-env-ref-compute-types.html>.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ComputeType {
    Small,
    Medium,
    Large,
    XLarge,
    XxLarge,
}

const GIB: u64 = 1 << 30;

impl ComputeType {
    pub const ALL: [ComputeType; 5] = [
        ComputeType::Small,
        ComputeType::Medium,
        ComputeType::Large,
        ComputeType::XLarge,
        ComputeType::XxLarge,
    ];

    pub fn name(self) -> &'static str {
        match self {
            ComputeType::Small => "BUILD_GENERAL1_SMALL",
            ComputeType::Medium => "BUILD_GENERAL1_MEDIUM",
            ComputeType::Large => "BUILD_GENERAL1_LARGE",
            ComputeType::XLarge => "BUILD_GENERAL1_XLARGE",
            ComputeType::XxLarge => "BUILD_GENERAL1_2XLARGE",
        }
    }

    /// `None` for machines of fleets and of Lambda, which cannot be ordered by size.
    pub fn from_name(name: &str) -> Option<ComputeType> {
        ComputeType::ALL.into_iter().find(|known| known.name() == name)
    }

    /// Bytes of memory of the machine for x86-64; that for Arm has at least as much.
    pub fn memory(self) -> u64 {
        GIB * match self {
            ComputeType::Small => 3,
            ComputeType::Medium => 7,
            ComputeType::Large => 15,
            ComputeType::XLarge => 70,
            ComputeType::XxLarge => 145,
        }
    }
}

impl fmt::Display for ComputeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The machine for a cell: `base`, or a larger one if the last run needed more memory than `base` has. `allowed` are the
/// types that the project allows; empty: all.
pub fn choose(base: ComputeType, last: Option<MemoryUse>, allowed: &[ComputeType]) -> ComputeType {
    let Some(last) = last else { return base };
    let may = |kind: &ComputeType| *kind == base || allowed.is_empty() || allowed.contains(kind);
    let larger = ComputeType::ALL.into_iter().filter(|kind| *kind >= base).filter(may);
    let needed = needed(last);
    larger.clone().find(|kind| kind.memory() >= needed).or_else(|| larger.max()).unwrap_or(base)
}

/// The memory that a run needs so that a quarter more than its peak fits. A run that used up its machine may need any
/// amount, so it gets a larger machine.
pub fn needed(last: MemoryUse) -> u64 {
    let with_reserve = last.peak.saturating_add(last.peak / 4);
    match last.is_used_up() {
        true => with_reserve.max(last.limit.saturating_add(1)),
        // The machine was large enough.
        false => with_reserve.min(last.limit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ComputeType::{Large, Medium, Small, XLarge, XxLarge};

    #[test]
    fn the_last_run_decides() {
        let used = |peak, limit| Some(MemoryUse { peak: peak * GIB, limit: limit * GIB });
        for (base, last, allowed, wanted) in [
            (Large, None, vec![], Large),
            (Large, used(2, 15), vec![], Large),
            (Medium, used(8, 15), vec![], Large),
            (Small, used(13, 15), vec![], Large),
            (Large, used(15, 15), vec![], XLarge),
            (Large, used(60, 70), vec![], XLarge),
            (Large, used(70, 70), vec![], XxLarge),
            (XxLarge, used(145, 145), vec![], XxLarge),
            (Large, used(15, 15), vec![Medium, XxLarge], XxLarge),
            (Large, used(145, 145), vec![Large, XLarge], XLarge),
            (Large, used(15, 15), vec![Small], Large),
            (Large, Some(MemoryUse { peak: u64::MAX, limit: u64::MAX }), vec![], XxLarge),
            (Large, Some(MemoryUse { peak: 0, limit: 0 }), vec![], Large),
        ] {
            assert_eq!(choose(base, last, &allowed), wanted, "{base} {last:?} {allowed:?}");
        }
    }

    #[test]
    fn names_are_those_of_codebuild() {
        for kind in ComputeType::ALL {
            assert_eq!(ComputeType::from_name(kind.name()), Some(kind));
        }
        assert_eq!(ComputeType::from_name("BUILD_LAMBDA_1GB"), None);
    }
}
