//! The store of a lab: whether it can be read and written, and how far this machine's clock is from its own.

use std::time::{Duration, SystemTime};

use agent_devices::lab::Lab;
use agent_devices::queue::Queue;
use agent_devices::request::layout;
use agent_types::error::{Class, Result};

use super::super::finding::Finding;

/// Signed requests to AWS fail beyond this difference.
const MOST_SKEW: Duration = Duration::from_secs(5 * 60);

/// Records below `labs` that are read at most.
const MOST_LABS: usize = 10_000;

pub async fn check(lab: &Lab) -> Vec<Finding> {
    match probe(lab).await {
        Ok(skew) => vec![Finding::ok("store", "it can be read and written"), judge_clock(skew)],
        Err(error) => {
            let fix = error.hint.clone().unwrap_or_else(|| {
                "give the lab the rights of cloudformation/lab.yml, or correct `store` in lab.toml".into()
            });
            let finding = Finding::failed("store", error.to_string().replace('\n', " "), fix);
            vec![if error.class == Class::Upstream { finding.upstream() } else { finding }]
        }
    }
}

/// Writes a small file where labs may write, and removes it. How far the clock of this machine is ahead; negative: behind.
async fn probe(lab: &Lab) -> Result<Option<i64>> {
    let queue = Queue::open(&lab.store, None).await?;
    let store = queue.store();
    let name = format!("{}.doctor", lab.name);
    let path = format!("{}/{name}", layout::LABS);
    let before = SystemTime::now();
    store.write(&path, b"{}".to_vec()).await?;
    let after = SystemTime::now();
    let records = store.list(layout::LABS, MOST_LABS).await;
    // A lab may not be allowed to remove it; it is small, and there is one for each lab.
    let _ = store.remove(&path).await;
    let written = records?.into_iter().find(|record| record.path.rsplit('/').next() == Some(&*name));
    Ok(written.map(|record| skew(record.modified, before, after)))
}

/// Seconds by which this machine's clock is ahead of a time between these two moments.
fn skew(modified: SystemTime, before: SystemTime, after: SystemTime) -> i64 {
    let seconds = |from: SystemTime, to: SystemTime| match to.duration_since(from) {
        Ok(ahead) => i64::try_from(ahead.as_secs()).unwrap_or(i64::MAX),
        Err(behind) => -i64::try_from(behind.duration().as_secs()).unwrap_or(i64::MAX),
    };
    let (earliest, latest) = (seconds(modified, before), seconds(modified, after));
    if earliest <= 0 && latest >= 0 {
        0
    } else if earliest > 0 {
        earliest
    } else {
        latest
    }
}

/// Only information: leases do not depend on clocks.
fn judge_clock(skew: Option<i64>) -> Finding {
    const NAME: &str = "clock";
    match skew {
        None => Finding::ok(NAME, "the store does not tell its time"),
        Some(skew) if skew.unsigned_abs() > MOST_SKEW.as_secs() => Finding::warning(
            NAME,
            format!(
                "it is {} s {} that of the store",
                skew.abs(),
                if skew > 0 { "ahead of" } else { "behind" }
            ),
            "let the machine set its clock (timedatectl set-ntp true): AWS refuses requests with a wrong time",
        ),
        Some(skew) => Finding::ok(NAME, format!("it differs by {} s from that of the store", skew.abs())),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::finding::State;
    use super::*;

    #[test]
    fn a_clock_may_be_wrong_a_little() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        for (modified, before, after, wanted) in
            [(1000, 1000, 1001, 0), (1001, 1000, 1003, 0), (1000, 1010, 1011, 10), (1000, 900, 901, -99)]
        {
            assert_eq!(skew(at(modified), at(before), at(after)), wanted);
        }
        for (skew, state) in [
            (None, State::Ok),
            (Some(-10), State::Ok),
            (Some(600), State::Warning),
            (Some(-600), State::Warning),
        ] {
            assert_eq!(judge_clock(skew).state, state, "{skew:?}");
        }
    }
}
