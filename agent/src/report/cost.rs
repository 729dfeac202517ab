//! What a job cost, as far as its prices are known: an estimate for people, not a bill.

use serde::Serialize;

use agent_objects::prices::usd;
use agent_types::prices::JobPrices;
use agent_types::sanitize::sanitize_line;
use agent_types::words::count;

use super::summary::Summary;

/// Bytes of a GB in the price lists.
const GB: f64 = (1u64 << 30) as f64;

/// Jobs of the branch without which there is no median.
const JOBS_OF_A_MEDIAN: usize = 3;

/// The costs of a job in USD.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Cost {
    /// The sum of the parts.
    pub usd: f64,
    /// Minutes that have begun, up to the report stage.
    pub minutes: u64,
    /// The machine; `None` if its price is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compute_type: Option<String>,
    /// Where the machine's price comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Reading and writing a share on EFS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub efs: Option<f64>,
    /// Requests to a share in S3.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub s3: Option<f64>,
    /// An upper bound: all bytes of the network interfaces, except those of the share and the artifacts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nat: Option<f64>,
    /// Of the latest jobs of the branch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub median: Option<f64>,
}

impl Cost {
    /// `None` if nothing has a price.
    pub fn of(summary: &Summary, prices: &JobPrices) -> Option<Cost> {
        let minutes = minutes(summary.seconds);
        let machine = prices.machine.as_ref().map(|price| minutes as f64 * price.usd_per_minute);
        let is_bucket = |path: &Option<String>| path.as_ref().is_some_and(|path| path.starts_with("s3://"));
        let (buckets, directories): (Vec<_>, Vec<_>) =
            summary.cache.iter().partition(|tier| is_bucket(&tier.path));
        let efs = prices.efs_read_gb.zip(prices.efs_write_gb).filter(|_| !directories.is_empty());
        let efs = efs.map(|(read, write)| {
            let gb = |bytes: u64, price: f64| bytes as f64 / GB * price;
            let tiers = directories.iter().map(|tier| tier.traffic);
            tiers.map(|traffic| gb(traffic.bytes_read, read) + gb(traffic.bytes_written, write)).sum()
        });
        let requests: f64 = buckets.iter().map(|tier| tier.traffic.usd).sum();
        let s3 = (!buckets.is_empty()).then_some(requests);
        let nat = prices.nat_gb.zip(through_nat(summary)).map(|(price, bytes)| bytes as f64 / GB * price);
        let parts = [machine, efs, s3, nat];
        if parts.iter().all(Option::is_none) {
            return None;
        }
        Some(Cost {
            usd: parts.into_iter().flatten().sum(),
            minutes,
            machine,
            compute_type: prices.machine.as_ref().map(|price| price.compute_type.clone()),
            source: prices.machine.as_ref().map(|price| price.source.clone()),
            efs,
            s3,
            nat,
            median: machine.and_then(|_| median(summary)),
        })
    }

    /// With the prices that applied when the job ran.
    pub fn of_job(summary: &Summary) -> Option<Cost> {
        Cost::of(summary, summary.prices.as_ref().unwrap_or(&JobPrices::default()))
    }

    /// `0.42 USD: 21 minutes of BUILD_GENERAL1_LARGE 0.42 USD, …; the median of this branch is 0.40 USD`, sanitized.
    pub fn line(&self) -> String {
        let minutes = count(self.minutes, "minute");
        let machine = self.machine.map(|amount| {
            let of = self.compute_type.as_deref().map(|name| format!(" of {}", sanitize_line(name)));
            format!("{minutes}{} {}", of.unwrap_or_default(), usd(amount))
        });
        let part = |name: &str, amount: Option<f64>| amount.map(|amount| format!("{name}{}", usd(amount)));
        let parts =
            [machine, part("EFS ", self.efs), part("S3 requests ", self.s3), part("NAT at most ", self.nat)];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        let known = if self.machine.is_some() { "" } else { "; the price of the machine is not known" };
        let median = self.median.map(|median| format!("; the median of this branch is {}", usd(median)));
        format!("{}: {}{known}{}", usd(self.usd), parts.join(", "), median.unwrap_or_default())
    }
}

/// CodeBuild bills each minute that has begun.
fn minutes(seconds: f64) -> u64 {
    (seconds / 60.0).ceil().max(1.0) as u64
}

/// Bytes of the network that went neither to the share nor to the artifacts; `None` if there is no measurement.
fn through_nat(summary: &Summary) -> Option<u64> {
    let all = summary.machine.iter().map(|at| at.sample.network_bytes).max()?;
    let share = summary.cache.iter().map(|tier| tier.traffic);
    let share = share.map(|traffic| traffic.bytes_read.saturating_add(traffic.bytes_written));
    let artifacts = summary.published.as_ref().map_or(0, |published| published.bytes);
    Some(all.saturating_sub(share.fold(artifacts, u64::saturating_add)))
}

/// Of the jobs with a price.
fn median(summary: &Summary) -> Option<f64> {
    let recent = summary.base.iter().flat_map(|base| &base.recent);
    let mut prices: Vec<f64> = recent.filter_map(|job| job.usd).filter(|usd| usd.is_finite()).collect();
    prices.sort_by(f64::total_cmp);
    if prices.len() < JOBS_OF_A_MEDIAN {
        return None;
    }
    let (below, above) = (prices.get((prices.len() - 1) / 2)?, prices.get(prices.len() / 2)?);
    Some((below + above) / 2.0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::report::sample::{at, passing_job, reduce, with_bucket, with_share};
    use agent_types::base_result::{BaseResult, RecentJob};
    use agent_types::events::EventKind;
    use agent_types::machine_use::MachineSample;
    use agent_types::prices::MachinePrice;

    fn large() -> JobPrices {
        let machine = MachinePrice {
            compute_type: "BUILD_GENERAL1_LARGE".into(),
            usd_per_minute: 0.02,
            source: "a table".into(),
        };
        JobPrices { machine: Some(machine), ..JobPrices::default() }
    }

    fn assert_close(found: Option<f64>, wanted: Option<f64>) {
        match (found, wanted) {
            (Some(found), Some(wanted)) => assert!((found - wanted).abs() < 1e-9, "{found}, not {wanted}"),
            (found, wanted) => assert_eq!(found, wanted),
        }
    }

    #[test]
    fn each_minute_that_has_begun_is_paid() {
        for (seconds, minutes, wanted) in
            [(0.0, 1, 0.02), (59.0, 1, 0.02), (60.0, 1, 0.02), (60.1, 2, 0.04), (3600.0, 60, 1.2)]
        {
            let summary = Summary { seconds, ..Summary::default() };
            let cost = Cost::of(&summary, &large()).unwrap();
            assert_eq!(cost.minutes, minutes);
            assert_close(Some(cost.usd), Some(wanted));
        }
    }

    #[test]
    fn the_parts_of_the_cost() {
        let prices =
            JobPrices { efs_read_gb: Some(0.03), efs_write_gb: Some(0.06), nat_gb: Some(0.045), ..large() };
        // A share in a directory: 3 MiB are read, 5000 bytes are written. 9 GiB went through the network.
        let mut events = with_share();
        let sample =
            |network_bytes| EventKind::MachineSample(MachineSample { network_bytes, ..Default::default() });
        events.extend([at(6500, sample(1)), at(6600, sample(9 << 30))]);
        let cost = Cost::of(&reduce(&events), &prices).unwrap();
        let (read, written) = ((3u64 << 20) as f64, 5000.0);
        assert_close(cost.machine, Some(0.02));
        assert_close(cost.efs, Some(read / GB * 0.03 + written / GB * 0.06));
        assert_eq!(cost.s3, None);
        // Without the share, and 3 GiB of artifacts.
        assert_close(cost.nat, Some(((6u64 << 30) as f64 - read - written) / GB * 0.045));
        assert_close(Some(cost.usd), Some(0.02 + cost.efs.unwrap() + cost.nat.unwrap()));
        // A bucket, of which the requests have their price already.
        let cost = Cost::of(&reduce(&with_bucket()), &prices).unwrap();
        assert_eq!((cost.efs, cost.nat), (None, None));
        assert_close(cost.s3, Some(0.0003));
    }

    #[test]
    fn nothing_has_a_price_where_none_is_known() {
        let none = JobPrices::default();
        assert_eq!(Cost::of(&reduce(&passing_job()), &none), None);
        assert_eq!(Cost::of_job(&reduce(&with_share())), None, "a directory that is not EFS");
        let cost = Cost::of(&reduce(&with_bucket()), &none).unwrap();
        assert_eq!(
            cost.line(),
            "0.00030 USD: S3 requests 0.00030 USD; the price of the machine is not known"
        );
    }

    #[test]
    fn the_line_compares_with_the_median_of_the_branch() {
        let job = |usd| RecentJob { seconds: 60.0, usd };
        for (recent, wanted) in [
            (vec![], None),
            (vec![job(Some(0.5)), job(Some(0.1)), job(None)], None),
            (vec![job(Some(0.5)), job(Some(0.1)), job(Some(0.2))], Some(0.2)),
            (vec![job(Some(0.5)), job(Some(0.1)), job(Some(0.2)), job(Some(0.4))], Some(0.3)),
            (vec![job(Some(f64::NAN)), job(Some(0.1)), job(Some(0.2))], None),
        ] {
            let summary = Summary {
                seconds: 1234.0,
                base: Some(BaseResult { recent, ..BaseResult::default() }),
                ..Summary::default()
            };
            let cost = Cost::of(&summary, &large()).unwrap();
            assert_close(cost.median, wanted);
            let median = wanted.map(|usd| format!("; the median of this branch is {usd:.2} USD"));
            let wanted = format!(
                "0.42 USD: 21 minutes of BUILD_GENERAL1_LARGE 0.42 USD{}",
                median.unwrap_or_default()
            );
            assert_eq!(cost.line(), wanted);
        }
    }
}
