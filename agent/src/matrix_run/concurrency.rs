//! How many cells run in parallel.

use std::num::NonZeroUsize;
use std::str::FromStr;

/// `--jobs`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Jobs {
    /// As processors and memory allow.
    #[default]
    Auto,
    Number(NonZeroUsize),
}

impl FromStr for Jobs {
    type Err = String;

    fn from_str(text: &str) -> Result<Jobs, String> {
        match text {
            "auto" => Ok(Jobs::Auto),
            _ => text.parse().map(Jobs::Number).map_err(|_| "write a number above 0, or auto".to_owned()),
        }
    }
}

/// With fewer processors for each cell, parallel cells are slower than serial ones: BitBake parses with all processors.
const PROCESSORS_PER_CELL: usize = 4;

/// The memory of a cell that has not run yet, in bytes: BitBake and the tasks of four processors.
pub const MEMORY_PER_CELL: u64 = 6 << 30;

/// How many of `cells` cells run in parallel. `free`: the free memory, if it is known; `need`: the memory of one cell.
pub fn parallel_cells(jobs: Jobs, cells: usize, processors: usize, free: Option<u64>, need: u64) -> usize {
    let limit = match jobs {
        Jobs::Number(number) => number.get(),
        Jobs::Auto => {
            let by_memory = free.map_or(usize::MAX, |free| usize::try_from(free / need.max(1)).unwrap_or(1));
            by_memory.min(processors / PROCESSORS_PER_CELL)
        }
    };
    limit.clamp(1, cells.max(1))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn processors_and_memory_limit_parallel_cells() {
        let number = |number: usize| Jobs::Number(NonZeroUsize::new(number).unwrap());
        let gib = |gib: u64| Some(gib << 30);
        for (jobs, cells, processors, free, wanted) in [
            (Jobs::Auto, 6, 2, gib(24), 1),
            (Jobs::Auto, 6, 16, gib(64), 4),
            (Jobs::Auto, 3, 64, gib(512), 3),
            (Jobs::Auto, 6, 64, gib(13), 2),
            (Jobs::Auto, 6, 64, gib(1), 1),
            (Jobs::Auto, 6, 8, None, 2),
            (number(3), 6, 2, gib(1), 3),
            (number(30), 6, 2, gib(1), 6),
        ] {
            assert_eq!(
                parallel_cells(jobs, cells, processors, free, MEMORY_PER_CELL),
                wanted,
                "{jobs:?} {processors} {free:?}"
            );
        }
        assert_eq!("auto".parse(), Ok(Jobs::Auto));
        assert_eq!("2".parse(), Ok(number(2)));
        assert!("0".parse::<Jobs>().is_err() && "x".parse::<Jobs>().is_err());
    }
}
