//! Addresses in S3: `s3://bucket/key`.

use std::fmt;

use crate::error::{Error, Result};

/// The parts of an `s3://bucket/key` URL. The key may be empty.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct S3Address {
    pub bucket: String,
    /// Without slashes at its ends; not percent-decoded.
    pub key: String,
}

impl S3Address {
    /// # Errors
    /// Usage, if it is not an `s3://` URL or the bucket's name is invalid.
    pub fn parse(address: &str) -> Result<S3Address> {
        let rest = address
            .strip_prefix("s3://")
            .ok_or_else(|| Error::usage(format!("`{address}` is not an s3:// URL")))?;
        let (bucket, key) = rest.split_once('/').unwrap_or((rest, ""));
        // https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html; old buckets
        // also have upper-case letters and underscores.
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if bucket.is_empty() || !bucket.chars().all(fits) {
            return Err(
                Error::usage(format!("`{address}` has no valid bucket name")).hint("use s3://BUCKET/PREFIX")
            );
        }
        Ok(S3Address { bucket: bucket.to_owned(), key: key.trim_matches('/').to_owned() })
    }
}

impl fmt::Display for S3Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key.as_str() {
            "" => write!(f, "s3://{}", self.bucket),
            key => write!(f, "s3://{}/{key}", self.bucket),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_s3_urls() {
        let table = [
            ("s3://b", Some(("b", ""))),
            ("s3://b/", Some(("b", ""))),
            ("s3://my-bucket/builds/x/", Some(("my-bucket", "builds/x"))),
            ("s3://my.bucket/a b%20c+d", Some(("my.bucket", "a b%20c+d"))),
            ("s3:///key", None),
            ("s3://user@host/key", None),
            ("https://b/key", None),
        ];
        for (given, wanted) in table {
            let got = S3Address::parse(given).ok();
            let got = got.as_ref().map(|a| (a.bucket.as_str(), a.key.as_str()));
            assert_eq!(got, wanted, "{given}");
        }
    }
}
