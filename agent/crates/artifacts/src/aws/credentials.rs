//! Credentials of the SDK's default chain, in the form that `object_store` asks for.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use tokio::sync::Mutex;

/// Credentials are renewed this long before they expire: a request is retried with the credentials
/// that it began with, so they have to outlive its retries.
const MARGIN: Duration = Duration::from_secs(5 * 60);

/// When renewing failed or brought nothing younger, the old ones are used for this long before the
/// next try, so that every request does not wait for a sick endpoint.
const PAUSE: Duration = Duration::from_secs(30);

/// Caches the chain's credentials and renews them in time; builds outlive them.
#[derive(Debug)]
pub struct Credentials {
    chain: SharedCredentialsProvider,
    held: Mutex<Option<Held>>,
}

#[derive(Clone, Debug)]
struct Held {
    credential: Arc<AwsCredential>,
    expires: Option<SystemTime>,
    renew: Option<SystemTime>,
}

impl Credentials {
    pub fn new(chain: SharedCredentialsProvider) -> Credentials {
        Credentials { chain, held: Mutex::new(None) }
    }

    async fn ask(&self, now: SystemTime) -> Result<Held, object_store::Error> {
        let found = self.chain.provide_credentials().await.map_err(no_credentials)?;
        let expires = found.expiry();
        Ok(Held {
            credential: Arc::new(AwsCredential {
                key_id: found.access_key_id().to_owned(),
                secret_key: found.secret_access_key().to_owned(),
                token: found.session_token().map(str::to_owned),
            }),
            expires,
            renew: expires.map(|at| at.checked_sub(MARGIN).unwrap_or(at).max(now + PAUSE)),
        })
    }

    async fn get(&self, now: SystemTime) -> Result<Arc<AwsCredential>, object_store::Error> {
        // Held while asking, so that many waiting requests ask once.
        let mut held = self.held.lock().await;
        if let Some(held) = held.as_ref().filter(|held| held.renew.is_none_or(|at| now < at)) {
            return Ok(held.credential.clone());
        }
        let renewed = match (self.ask(now).await, held.take()) {
            (Ok(new), _) => new,
            (Err(_), Some(old)) if old.expires.is_some_and(|at| now < at) => {
                Held { renew: Some(now + PAUSE), ..old }
            }
            (Err(error), _) => return Err(error),
        };
        Ok(held.insert(renewed).credential.clone())
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

    /// Gives `key-1`, `key-2` …, each valid for `valid` from `start` on; fails from the `fail`th on.
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
    async fn renewed_five_minutes_before_they_expire() {
        let start = SystemTime::UNIX_EPOCH + 1000 * MINUTE;
        let (given, asked) = credentials(vec![Some(start + 60 * MINUTE), Some(start + 120 * MINUTE)]);
        for (minute, key, times) in [(0, "key-1", 1), (54, "key-1", 1), (55, "key-2", 2), (114, "key-2", 2)] {
            let got = given.get(start + minute * MINUTE).await.unwrap();
            assert_eq!((got.key_id.as_str(), asked.load(Ordering::SeqCst)), (key, times), "minute {minute}");
        }
    }

    #[tokio::test]
    async fn kept_for_ever_when_they_never_expire() {
        let start = SystemTime::UNIX_EPOCH + MINUTE;
        let (given, asked) = credentials(vec![None]);
        given.get(start).await.unwrap();
        given.get(start + 100_000 * MINUTE).await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_sick_endpoint_is_survived_while_the_old_ones_live_and_no_longer() {
        let start = SystemTime::UNIX_EPOCH + 1000 * MINUTE;
        let (given, asked) = credentials(vec![Some(start + 60 * MINUTE)]);
        given.get(start).await.unwrap();
        assert_eq!(given.get(start + 56 * MINUTE).await.unwrap().key_id, "key-1");
        // Within the pause nobody is asked.
        given.get(start + 56 * MINUTE + Duration::from_secs(10)).await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 2);
        let error = given.get(start + 60 * MINUTE).await.unwrap_err();
        assert!(error.to_string().contains(NO_CREDENTIALS), "{error}");
    }

    #[tokio::test]
    async fn ones_that_come_nearly_expired_do_not_ask_at_every_request() {
        let start = SystemTime::UNIX_EPOCH + 1000 * MINUTE;
        let (given, asked) = credentials(vec![Some(start + MINUTE), Some(start + 90 * MINUTE)]);
        given.get(start).await.unwrap();
        given.get(start + Duration::from_secs(10)).await.unwrap();
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        assert_eq!(given.get(start + PAUSE).await.unwrap().key_id, "key-2");
    }
}
