//! The one door to AWS: credentials, S3 buckets, secrets.
//!
//! Where credentials, region and endpoints come from is the contract of the AWS SDKs and not ours:
//! `aws-config` reads the process environment (`AWS_*`), the shared profile files, SSO's cache and
//! the container endpoint by itself. It is the one exception to the rule that only
//! `config::environment` reads the environment, so that the agent finds what the `aws` command finds.

mod credentials;
mod objects;
mod secrets;

pub use objects::{S3Address, bucket, is_loopback, read_object, upstream};
pub use secrets::secret;

use aws_config::{BehaviorVersion, SdkConfig};

/// What the SDK finds in environment, profile and container.
async fn sdk() -> SdkConfig {
    aws_config::load_defaults(BehaviorVersion::latest()).await
}

/// What to do when AWS refuses, from the error codes in its answer; `action` is the IAM action that
/// the request needs. The codes: <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>.
pub fn refusal_hint(answer: &str, action: &str) -> String {
    let known: [(&str, &str); 12] = [
        ("RequestTimeTooSkewed", "set this machine's clock: it is more than 15 minutes off"),
        ("NoSuchBucket", "create the bucket, or mend its name in [artifacts] destination"),
        ("PermanentRedirect", "set AWS_REGION to the bucket's region"),
        ("incorrectly configured region", "set AWS_REGION to the bucket's region"),
        ("AuthorizationHeaderMalformed", "set AWS_REGION to the bucket's region"),
        (
            "InvalidAccessKeyId",
            "the access key is unknown here: renew the credentials and check the endpoint",
        ),
        (
            "UnrecognizedClient",
            "the access key is unknown here: renew the credentials and check the endpoint",
        ),
        ("SignatureDoesNotMatch", "the secret key does not belong to the access key: renew the credentials"),
        ("ExpiredToken", "the credentials have expired: renew them (`aws sso login`)"),
        ("InvalidToken", "the session token is not valid: renew the credentials"),
        ("KMS.", "allow kms:GenerateDataKey and kms:Decrypt on the key to this role"),
        ("SlowDown", "the bucket is throttled: try again later"),
    ];
    known
        .iter()
        .find(|(code, _)| answer.contains(code))
        .map(|(_, hint)| (*hint).to_owned())
        .unwrap_or_else(|| format!("check the network, and that the role may do {action}"))
}

#[cfg(test)]
mod tests {
    use super::refusal_hint;

    #[test]
    fn a_refusal_names_its_mend() {
        let skewed = "<Error><Code>RequestTimeTooSkewed</Code></Error>";
        assert!(refusal_hint(skewed, "s3:PutObject").contains("clock"));
        let denied = "<Error><Code>AccessDenied</Code></Error>";
        assert!(refusal_hint(denied, "s3:PutObject").contains("s3:PutObject"));
    }
}
