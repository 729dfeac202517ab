//! The credentials for GitHub, each as narrow as it can be.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use url::Url;

use agent_artifacts::aws;
use agent_github::{App, Client, Failure, Permission, Repository};
use agent_types::secret::Secret;

/// A token is valid for an hour.
const TOKEN_LIFE: Duration = Duration::from_secs(50 * 60);

/// What can be used to post.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub api: Url,
    /// Used if there is no App.
    pub token: Option<Secret>,
    pub app: Option<AppKey>,
}

/// A GitHub App and the name of its key in Secrets Manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppKey {
    pub id: String,
    pub secret: String,
}

/// Makes clients for single permissions.
#[derive(Clone)]
pub struct Access {
    credentials: Credentials,
    app: Arc<Mutex<Option<Arc<App>>>>,
    tokens: Arc<Mutex<HashMap<Permission, (String, Instant)>>>,
}

impl Access {
    pub fn new(credentials: Credentials) -> Access {
        Access { credentials, app: Arc::default(), tokens: Arc::default() }
    }

    /// A client that may do this, until the deadline.
    ///
    /// # Errors
    /// If there is no credential, its secret cannot be read, or GitHub does not give the permission.
    pub async fn client(
        &self,
        repository: &Repository,
        permission: Permission,
        deadline: Instant,
    ) -> Result<Client, Failure> {
        let plain = |token: &str| Client::new(&self.credentials.api, token, deadline.into());
        let Some(key) = &self.credentials.app else {
            return match &self.credentials.token {
                Some(token) => plain(&token.value),
                None => Err(Failure::Input("there is no credential for GitHub".to_owned())),
            };
        };
        let app = self.app(key).await?;
        // Held during the request, so that two reports do not ask twice.
        let mut tokens = self.tokens.lock().await;
        if let Some((token, since)) = tokens.get(&permission)
            && since.elapsed() < TOKEN_LIFE
        {
            return plain(token);
        }
        let token = app.token(&plain("none")?, repository, permission).await?;
        let client = plain(&token);
        tokens.insert(permission, (token, Instant::now()));
        client
    }

    async fn app(&self, key: &AppKey) -> Result<Arc<App>, Failure> {
        let mut known = self.app.lock().await;
        if let Some(app) = &*known {
            return Ok(app.clone());
        }
        let pem = aws::secret(&key.secret, None).await.map_err(|error| {
            let hint = error.hint.map(|hint| format!("; {hint}")).unwrap_or_default();
            Failure::Input(format!("{}{hint}", error.message))
        })?;
        let app = Arc::new(App::new(&key.id, &pem)?);
        *known = Some(app.clone());
        Ok(app)
    }
}
