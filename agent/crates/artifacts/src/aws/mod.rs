//! The only module that uses AWS: credentials, S3 buckets, secrets.
//!
//! `aws-config` finds credentials, region and endpoints as all AWS SDKs do: in the process environment
//! (`AWS_*`), the shared profile files, SSO's cache and the container endpoint. This is the only exception to
//! the rule that only `config::environment` reads the environment: the agent must find what the `aws` command
//! finds.

mod credentials;
mod keys;
mod objects;
mod secrets;

pub use keys::BucketKeys;
pub use objects::{bucket, is_loopback, read_object, share_bucket, upstream};
pub use secrets::secret;

use aws_config::{BehaviorVersion, SdkConfig};

/// Loads the SDK's configuration from environment, profile and container.
async fn sdk() -> SdkConfig {
    aws_config::load_defaults(BehaviorVersion::latest()).await
}

/// The hint for an error code in AWS's answer; `action` is the IAM action that the request needs.
/// Codes: <https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html>.
pub fn refusal_hint(answer: &str, action: &str) -> String {
    let known: [(&str, &str); 12] = [
        ("RequestTimeTooSkewed", "set this machine's clock: it is more than 15 minutes off"),
        ("NoSuchBucket", "create the bucket, or fix its name in the manifest"),
        ("PermanentRedirect", "set AWS_REGION to the bucket's region"),
        ("incorrectly configured region", "set AWS_REGION to the bucket's region"),
        ("AuthorizationHeaderMalformed", "set AWS_REGION to the bucket's region"),
        (
            "InvalidAccessKeyId",
            "AWS does not know the access key: renew the credentials and check the endpoint",
        ),
        (
            "UnrecognizedClient",
            "AWS does not know the access key: renew the credentials and check the endpoint",
        ),
        ("SignatureDoesNotMatch", "the secret key does not belong to the access key: renew the credentials"),
        ("ExpiredToken", "the credentials have expired: renew them (`aws sso login`)"),
        ("InvalidToken", "the session token is not valid: renew the credentials"),
        ("KMS.", "allow kms:GenerateDataKey and kms:Decrypt on the key to this role"),
        ("SlowDown", "AWS throttles requests to the bucket: retry later"),
    ];
    known
        .iter()
        .find(|(code, _)| answer.contains(code))
        .map(|(_, hint)| (*hint).to_owned())
        .unwrap_or_else(|| format!("check the network, and that the role allows {action}"))
}

#[cfg(test)]
mod tests {
    use super::refusal_hint;

    #[test]
    fn refusal_hint_names_the_fix() {
        let skewed = "<Error><Code>RequestTimeTooSkewed</Code></Error>";
        assert!(refusal_hint(skewed, "s3:PutObject").contains("clock"));
        let denied = "<Error><Code>AccessDenied</Code></Error>";
        assert!(refusal_hint(denied, "s3:PutObject").contains("s3:PutObject"));
    }
}
