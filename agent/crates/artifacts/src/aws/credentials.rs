//! Provides credentials of the SDK's default chain to `object_store`.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use tokio::sync::Mutex;

/// How long before their expiry credentials are renewed. They must outlive the retries of a request, because
/// these use the credentials of its first attempt.
const RENEW_MARGIN: Duration = Duration::from_secs(5 * 60);

/// How long old credentials are used after a failed or useless renewal, so that not every request waits for a
/// failing endpoint.
const RETRY_DELAY: Duration = Duration::from_secs(30);

/// Caches the chain's credentials and renews them in time. A build may run longer than they are valid.
#[derive(Debug)]
pub struct Credentials {
    chain: SharedCredentialsProvider,
    cached: Mutex<Option<Cached>>,
}

#[derive(Clone, Debug)]
struct Cached {
    credential: Arc<AwsCredential>,
    expires: Option<SystemTime>,
    renew: Option<SystemTime>,
}

impl Credentials {
    pub fn new(chain: SharedCredentialsProvider) -> Credentials {
        Credentials { chain, cached: Mutex::new(None) }
    }

    async fn fetch(&self, now: SystemTime) -> Result<Cached, object_store::Error> {
        let found = self.chain.provide_credentials().await.map_err(no_credentials)?;
        let expires = found.expiry();
        Ok(Cached {
            credential: Arc::new(AwsCredential {
                key_id: found.access_key_id().to_owned(),
                secret_key: found.secret_access_key().to_owned(),
                token: found.session_token().map(str::to_owned),
            }),
            expires,
            renew: expires.map(|at| at.checked_sub(RENEW_MARGIN).unwrap_or(at).max(now + RETRY_DELAY)),
        })
    }

    async fn get(&self, now: SystemTime) -> Result<Arc<AwsCredential>, object_store::Error> {
        // The lock is held during the fetch, so that many waiting requests fetch once.
        let mut cached = self.cached.lock().await;
        if let Some(cached) = cached.as_ref().filter(|cached| cached.renew.is_none_or(|at| now < at)) {
            return Ok(cached.credential.clone());
        }
        let renewed = match (self.fetch(now).await, cached.take()) {
            (Ok(new), _) => new,
            (Err(_), Some(old)) if old.expires.is_some_and(|at| now < at) => {
                Cached { renew: Some(now + RETRY_DELAY), ..old }
            }
            (Err(error), _) => return Err(error),
        };
        Ok(cached.insert(renewed).credential.clone())
    }
}

#[async_trait]
impl CredentialProvider for Credentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        self.get(SystemTime::now()).await
    }
}

fn no_credentials(source: aws_credential_types::provider::error::CredentialsError) -> object_store::Error {
    object_store::Error::Unauthenticated { path: NO_CREDENTIALS.into(), source: Box::new(source) }
}

/// Marks the errors of this file among those of `object_store`.
pub const NO_CREDENTIALS: &str = "(no AWS credentials)";

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use aws_credential_types::Credentials as Found;
    use aws_credential_types::provider::{error::CredentialsError, future};

    use super::*;

    /// Returns `key-1`, `key-2` …, with these expiry times; fails after the last one.
    #[derive(Debug)]
    struct Chain {
        asked: Arc<AtomicU32>,
        expires: Vec<Option<SystemTime>>,
    }

    impl ProvideCredentials for Chain {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            let n = self.asked.fetch_add(1, Ordering::SeqCst) as usize;
            future::ProvideCredentials::ready(match self.expires.get(n) {
                Some(expires) => Ok(Found::new(format!("key-{}", n + 1), "secret", None, *expires, "test")),
                None => Err(CredentialsError::not_loaded("endpoint gone")),
            })
        }
    }

    fn credentials(expires: Vec<Option<SystemTime>>) -> (Credentials, Arc<AtomicU32>) {
        let asked = Arc::new(AtomicU32::new(0));
        let chain = Chain { asked: asked.clone(), expires };
        (Credentials::new(SharedCredentialsProvider::new(chain)), asked)
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn renews_credentials_five_minutes_before_expiry() {
        let start = SystemTime::UNIX_EPOCH + 1000 * MINUTE;
        let (given, asked) = credentials(vec![Some(start + 60 * MINUTE), Some(start + 120 * MINUTE)]);
        for (minute, key, times) in [(0, "key-1", 1), (54, "key-1", 1), (55, "key-2", 2), (114, "key-2", 2)] {
            let got = given.get(start + minute * MINUTE).await.unwrap();
            assert_eq!((got.key_id.as_str(), asked.load(Ordering::SeqCst)), (key, times), "minute {minute}");
        }
    }

    #[tokio::test]
    async fn never_renews_credentials_without_expiry() {
        let start = SystemTime::UNIX_EPOCH + MINUTE;
        let (given, asked) = credentials(vec![None]);
        given.get(start).await.unwrap();
        given.get(start + 100_000 * MINUTE).await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn uses_old_credentials_until_expiry_if_renewal_fails() {
        let start = SystemTime::UNIX_EPOCH + 1000 * MINUTE;
        let (given, asked) = credentials(vec![Some(start + 60 * MINUTE)]);
        given.get(start).await.unwrap();
        assert_eq!(given.get(start + 56 * MINUTE).await.unwrap().key_id, "key-1");
        // No renewal within the delay.
        given.get(start + 56 * MINUTE + Duration::from_secs(10)).await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        let error = given.get(start + 60 * MINUTE).await.unwrap_err();
        assert!(error.to_string().contains(NO_CREDENTIALS), "{error}");
    }

    #[tokio::test]
    async fn waits_between_renewals_of_nearly_expired_credentials() {
        let start = SystemTime::UNIX_EPOCH + 1000 * MINUTE;
        let (given, asked) = credentials(vec![Some(start + MINUTE), Some(start + 90 * MINUTE)]);
        given.get(start).await.unwrap();
        given.get(start + Duration::from_secs(10)).await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        assert_eq!(given.get(start + RETRY_DELAY).await.unwrap().key_id, "key-2");
    }
}
