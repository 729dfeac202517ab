//! What S3 charges. The results are estimates for people, not a bill.

use crate::meter::Requests;

/// Bytes in a GB of S3's price list: <https://aws.amazon.com/s3/faqs/#Billing> (binary gigabytes).
const GB: f64 = (1u64 << 30) as f64;

/// Prices in USD.
///
/// The default is S3 Standard in us-east-1: <https://aws.amazon.com/s3/pricing/>, first 50 TB. Traffic between
/// S3 and machines of the same region costs nothing there, and neither does DELETE.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prices {
    /// Of 1,000 PUT, COPY, POST or LIST requests.
    pub thousand_writes: f64,
    /// Of 1,000 GET or HEAD requests.
    pub thousand_reads: f64,
    /// Of one GB that is stored for a month.
    pub gb_month: f64,
}

impl Default for Prices {
    fn default() -> Prices {
        Prices { thousand_writes: 0.005, thousand_reads: 0.0004, gb_month: 0.023 }
    }
}

impl Prices {
    /// The price of these requests.
    pub fn money(&self, requests: &Requests) -> f64 {
        let thousand = |number: u64, price: f64| number as f64 / 1000. * price;
        thousand(requests.writes_and_lists, self.thousand_writes)
            + thousand(requests.reads, self.thousand_reads)
    }

    /// The price of a month in which this many bytes are stored.
    pub fn month(&self, bytes: u64) -> f64 {
        bytes as f64 / GB * self.gb_month
    }
}

/// An amount for people: in cents, or with two digits if it is less than one cent.
pub fn usd(amount: f64) -> String {
    if amount >= 0.01 || amount <= 0. {
        return format!("{amount:.2} USD");
    }
    // 0.0012 USD: two digits after the zeros.
    let zeros = (-amount.log10()).floor().clamp(0., 9.) as usize;
    format!("{amount:.digits$} USD", digits = zeros + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_bytes_have_their_price() {
        let requests =
            Requests { writes_and_lists: 2000, reads: 10_000, deletes: 1_000_000, ..Requests::default() };
        assert!((Prices::default().money(&requests) - (0.01 + 0.004)).abs() < 1e-12);
        assert!((Prices::default().month(500 << 30) - 11.5).abs() < 1e-9);
        let other = Prices { thousand_writes: 1., thousand_reads: 0., gb_month: 0. };
        assert!((other.money(&requests) - 2.).abs() < 1e-12);
        assert!(other.month(u64::MAX).abs() < 1e-12);
    }

    #[test]
    fn small_amounts_keep_two_digits() {
        for (amount, wanted) in [
            (1234.567, "1234.57 USD"),
            (1.0, "1.00 USD"),
            (0.014, "0.01 USD"),
            (0.0, "0.00 USD"),
            (0.0047, "0.0047 USD"),
            (0.000_123, "0.00012 USD"),
        ] {
            assert_eq!(usd(amount), wanted);
        }
    }
}
