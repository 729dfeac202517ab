//! How many BitBakes the machine and the manifest allow in parallel.

use std::num::NonZeroUsize;

/// What BitBake takes for the world of OE-Core and some layers, its parsers counted: 2 GiB, and some
/// more for large layers.
const MEMORY: u64 = 3 << 30;

/// How queries can be prefetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Concurrency {
    /// So many at once.
    Parallel(usize),
    /// Because of this.
    Serial(String),
}

/// How many BitBakes may run in parallel; otherwise why not as many as are `wanted`.
pub fn at_once(
    wanted: usize,
    most: Option<NonZeroUsize>,
    processors: usize,
    free_memory: u64,
) -> Result<usize, String> {
    let allowed = most.map_or(processors, usize::from);
    if allowed < wanted {
        return Err(match (most, processors) {
            (Some(most), _) => format!("[check] max_parallel_bitbakes is {most}"),
            (None, 0 | 1) => "there is one processor".into(),
            (None, processors) => format!("there are {processors} processors"),
        });
    }
    let fitting = usize::try_from(free_memory / MEMORY).unwrap_or(usize::MAX);
    if fitting < wanted {
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        let (free, takes) = (gib(free_memory), gib(MEMORY * wanted as u64));
        return Err(format!("{free:.1} GiB of memory are free, and {wanted} BitBakes take {takes}"));
    }
    Ok(allowed.min(fitting))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_at_once_need_processors_and_memory() {
        for (wanted, most, processors, gib, allowed) in [
            (2, None, 2, 6, Ok(2)),
            (2, None, 2, 64, Ok(2)),
            (2, None, 8, 9, Ok(3)),
            (2, None, 64, 13, Ok(4)),
            (2, None, 1, 64, Err("there is one processor")),
            (2, None, 0, 0, Err("there is one processor")),
            (2, None, 16, 5, Err("5.0 GiB of memory are free, and 2 BitBakes take 6")),
            (3, None, 2, 64, Err("there are 2 processors")),
            (3, None, 3, 9, Ok(3)),
            (3, None, 8, 8, Err("8.0 GiB of memory are free, and 3 BitBakes take 9")),
            (3, Some(3), 2, 9, Ok(3)),
            (3, Some(3), 2, 8, Err("8.0 GiB of memory are free, and 3 BitBakes take 9")),
            (2, Some(1), 64, 64, Err("[check] max_parallel_bitbakes is 1")),
            (2, Some(2), 1, 64, Ok(2)),
            (3, Some(2), 64, 64, Err("[check] max_parallel_bitbakes is 2")),
            (2, Some(5), 64, 64, Ok(5)),
        ] {
            let most = most.and_then(NonZeroUsize::new);
            let found = at_once(wanted, most, processors, gib << 30);
            assert_eq!(found, allowed.map_err(str::to_owned), "{wanted} {most:?} {processors} {gib}");
        }
    }
}
