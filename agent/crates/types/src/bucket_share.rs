//! The layout of a share in S3.

use std::fmt;

use crate::s3_address::S3Address;
use crate::tiers::TieredShare;

/// The prefix of a bucket that all build machines share, or the tier of one pull request below it. It has the
/// layout of a [`Share`](crate::share::Share) in a directory; `index/<release>` lists the shared state, so that
/// nobody has to ask for each object whether it exists.
///
/// All keys are without a slash at their ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BucketShare {
    address: S3Address,
}

impl BucketShare {
    pub fn new(address: S3Address) -> BucketShare {
        BucketShare { address }
    }

    pub fn bucket(&self) -> &str {
        &self.address.bucket
    }

    /// The prefix of everything in the share; empty if the share is the whole bucket.
    pub fn root(&self) -> &str {
        &self.address.key
    }

    /// The key of something below the share.
    pub fn key(&self, below: &str) -> String {
        match self.address.key.as_str() {
            "" => below.to_owned(),
            root => format!("{root}/{below}"),
        }
    }

    /// `release` is a code name.
    pub fn sstate(&self, release: &str) -> String {
        self.key(&format!("sstate/{release}"))
    }

    pub fn index(&self, release: &str) -> String {
        self.key(&format!("index/{release}"))
    }

    pub fn downloads(&self) -> String {
        self.key("downloads")
    }

    pub fn layers(&self) -> String {
        self.key("layers")
    }

    pub fn signatures(&self) -> String {
        self.key("signatures")
    }

    pub fn usage(&self, release: &str) -> String {
        self.key(&format!("usage/{release}"))
    }

    pub fn leases(&self) -> String {
        self.key("leases")
    }

    /// The tiers of all pull requests.
    pub fn pull_requests(&self) -> String {
        self.key("pr")
    }
}

impl TieredShare for BucketShare {
    fn pull_request(&self, number: u64) -> BucketShare {
        let key = self.key(&format!("pr/{number}"));
        BucketShare { address: S3Address { bucket: self.address.bucket.clone(), key } }
    }
}

impl fmt::Display for BucketShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(f)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn keys_lie_below_the_prefix() {
        for (address, sstate, own) in [
            ("s3://b", "sstate/scarthgap", "pr/7/downloads"),
            ("s3://b/a/b/", "a/b/sstate/scarthgap", "a/b/pr/7/downloads"),
        ] {
            let share = BucketShare::new(S3Address::parse(address).unwrap());
            assert_eq!(share.sstate("scarthgap"), sstate);
            assert_eq!(share.pull_request(7).downloads(), own);
            assert_eq!(share.to_string(), address.trim_end_matches('/'));
        }
    }
}
