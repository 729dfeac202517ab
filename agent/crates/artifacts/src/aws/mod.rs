//! The only module that uses AWS: credentials, S3 buckets, secrets, signed requests.
//!
//! `aws-config` finds credentials, region and endpoints as all AWS SDKs do: in the process environment
//! (`AWS_*`), the shared profile files, SSO's cache and the container endpoint. This is the only exception to
//! the rule that only `config::environment` reads the environment: the agent must find what the `aws` command
//! finds. Keys that the agent was given in another way ([`use_keys`]) come before all of these.

mod credentials;
mod keys;
mod objects;
mod secrets;
pub mod signed;

pub use keys::BucketKeys;
pub use objects::{bucket, is_loopback, read_object, share_bucket, upstream};
pub use secrets::secret;

use std::sync::OnceLock;

use aws_config::{BehaviorVersion, SdkConfig};
use aws_credential_types::Credentials as Keys;
use aws_types::service_config::ServiceConfigKey;

/// Keys that are not in the process environment.
static KEYS: OnceLock<Keys> = OnceLock::new();

/// From now on uses these keys instead of those that the SDK finds. Only the first call counts.
pub fn use_keys(access_key_id: &str, secret_access_key: &str, session_token: Option<&str>) {
    let token = session_token.map(str::to_owned);
    let _ = KEYS.set(Keys::new(access_key_id, secret_access_key, token, None, "build-agent"));
}

/// Loads the SDK's configuration from environment, profile and container.
async fn sdk() -> SdkConfig {
    let loader = aws_config::defaults(BehaviorVersion::latest());
    match KEYS.get() {
        Some(keys) => loader.credentials_provider(keys.clone()).load().await,
        None => loader.load().await,
    }
}

/// The configured endpoint of a service, e.g. of `s3`: `AWS_ENDPOINT_URL_S3`, else `AWS_ENDPOINT_URL`, or the profile's
/// keys for them: <https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html>.
fn endpoint(sdk: &SdkConfig, service_id: &str) -> Option<String> {
    let key = ServiceConfigKey::builder()
        .service_id(service_id)
        .env("AWS_ENDPOINT_URL")
        .profile("endpoint_url")
        .build()
        .ok()?;
    let own = sdk.service_config().and_then(|service| service.load_config(key));
    own.or_else(|| sdk.endpoint_url().map(str::to_owned)).filter(|endpoint| !endpoint.is_empty())
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
