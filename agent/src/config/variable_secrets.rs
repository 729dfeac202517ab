//! Secret values in the environment's variables: by the name of the variable, or by the form of the value.

use agent_types::secrets;

use super::settings::Secret;
use super::variables::Variables;

/// Values of variables with the name of a secret, and values in the others that look like a secret.
pub fn secrets_of(variables: &Variables) -> Vec<Secret> {
    let mut all: Vec<Secret> = Vec::new();
    for (name, value) in variables.iter() {
        let origin = format!("variable {name}");
        let value: &str = &value;
        let mut found = Vec::new();
        if secrets::is_secret(name, value) {
            found.push(value.to_owned());
            found.extend(parts(value));
        } else {
            found.extend(secrets::webhook_parts(name, value));
            found.extend(url_secrets(value, &origin).into_iter().map(|secret| secret.value));
        }
        found.extend(secrets::values(value));
        for value in found {
            if !all.iter().any(|known| known.value == value) {
                all.push(Secret { origin: origin.clone(), value });
            }
        }
    }
    all
}

/// Parts of a secret value that are secrets, too: `Bearer TOKEN`, `user:password`, cookies, and the fields of
/// JSON.
fn parts(value: &str) -> Vec<String> {
    let value = value.trim();
    let mut parts: Vec<&str> = Vec::new();
    if let Ok(json) = serde_json::from_str::<serde_json::Value>(value) {
        return json_secrets("", &json);
    }
    let scheme = |word: &str| ["basic", "bearer", "token", "digest", "negotiate"].contains(&word);
    let rest = value.split_once(' ').filter(|(word, _)| scheme(&word.to_ascii_lowercase()));
    parts.extend(rest.map(|(_, rest)| rest.trim()));
    if value.contains(';') {
        parts.extend(value.split(';').filter_map(|cookie| Some(cookie.split_once('=')?.1.trim())));
    } else if let Some((user, password)) = value.split_once(':')
        && !user.contains(char::is_whitespace)
        && !password.starts_with("//")
    {
        parts.push(password);
    }
    // A shorter part cannot be hidden, and would cause a notice about a value that no variable names.
    parts.into_iter().filter(|part| part.len() >= MIN_LENGTH).map(str::to_owned).collect()
}

/// Minimum length of a part of a value that counts as a secret.
pub const MIN_LENGTH: usize = 8;

fn json_secrets(name: &str, json: &serde_json::Value) -> Vec<String> {
    use serde_json::Value;
    match json {
        Value::Object(fields) => fields.iter().flat_map(|(name, value)| json_secrets(name, value)).collect(),
        Value::Array(values) => values.iter().flat_map(|value| json_secrets(name, value)).collect(),
        Value::String(text) if text.len() >= MIN_LENGTH && secrets::is_secret(name, text) => {
            vec![text.clone()]
        }
        _ => Vec::new(),
    }
}

/// The user name or password in a URL, both as written and decoded.
pub fn url_secrets(text: &str, origin: &str) -> Vec<Secret> {
    let Ok(url) = url::Url::parse(text) else { return Vec::new() };
    // A user alone is the token in `https://TOKEN@host`; with ssh it is a user name.
    let name_is_secret =
        matches!(url.scheme(), "http" | "https") && matches!(url.password(), None | Some("x-oauth-basic"));
    let secret = if name_is_secret { Some(url.username()) } else { url.password() };
    let Some(written) = secret.filter(|secret| !secret.is_empty()) else { return Vec::new() };
    let decoded = percent_encoding::percent_decode_str(written).decode_utf8_lossy().into_owned();
    let mut values = vec![decoded];
    if values[0] != written {
        values.push(written.into());
    }
    values.into_iter().map(|value| Secret { origin: origin.into(), value }).collect()
}

#[cfg(test)]
mod tests {
    use super::super::AgentEnvironment;

    fn values(variables: &[(&str, &str)]) -> Vec<String> {
        let environment = AgentEnvironment::from_map(variables.iter().copied());
        environment.secrets().iter().map(|secret| secret.value.clone()).collect()
    }

    #[test]
    fn recognizes_secrets_by_variable_name() {
        let secret = [
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN",
            "GITHUB_TOKEN",
            "DB_PASSWORD",
            "SOCKS5_PASSWD",
            "CLIENT_SECRET",
            "SECRET_SAUCE",
            "NVD_API_KEY",
            "npm_token",
        ];
        for name in secret {
            assert_eq!(values(&[(name, "hunter22")]), ["hunter22"], "{name}");
        }
        let not_secret = [
            "AWS_ACCESS_KEY_ID",
            "CODEBUILD_KMS_KEY_ID",
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "SECRET_ARN",
            "GPG_KEY",
            "SSH_AUTH_SOCK",
            "PATH",
            "KEYMAP",
            "MONKEY",
        ];
        for name in not_secret {
            assert!(values(&[(name, "hunter22")]).is_empty(), "{name}");
        }
        // The same token under two names is listed once.
        assert_eq!(values(&[("GH_TOKEN", "hunter22"), ("GITHUB_TOKEN", "hunter22")]), ["hunter22"]);
        assert!(values(&[("USE_TOKEN", "true")]).is_empty(), "a word that says nothing");
    }

    #[test]
    fn finds_passwords_in_urls() {
        let table: [(&str, &[&str]); 6] = [
            ("http://user:p%40ss@proxy:3128", &["p@ss", "p%40ss"]),
            ("https://tokentoken@host/x", &["tokentoken"]),
            ("https://tokentoken:x-oauth-basic@host/x", &["tokentoken"]),
            ("https://oauth2:tokentoken@host/x", &["tokentoken"]),
            ("ssh://git@host/x", &[]),
            ("http://proxy:3128", &[]),
        ];
        for (address, wanted) in table {
            assert_eq!(values(&[("https_proxy", address)]), wanted, "{address}");
        }
    }

    #[test]
    fn finds_parts_of_secrets() {
        let table: [(&str, &str, &[&str]); 9] = [
            ("AUTHORIZATION", "Bearer hunter22", &["Bearer hunter22", "hunter22"]),
            ("BASIC_AUTH", "me:hunter22", &["me:hunter22", "hunter22"]),
            ("COOKIE", "a=b; session=hunter22", &["a=b; session=hunter22", "hunter22"]),
            (
                "DB_SECRET",
                r#"{"username":"someone-else","password":"hunter22"}"#,
                &[r#"{"username":"someone-else","password":"hunter22"}"#, "hunter22"],
            ),
            ("SLACK_WEBHOOK_URL", "https://h.example/hunter22", &["https://h.example/hunter22", "hunter22"]),
            ("MANIFEST", "https://h.example/m?token=hunter22", &["hunter22"]),
            ("PIP_EXTRA_INDEX_URL", "https://a:hunter22@x https://b:hunter33@y", &["hunter22", "hunter33"]),
            ("CURL_HEADER", "Authorization: token hunter22", &["token hunter22"]),
            ("OLDPWD", "/hunter22/hunter22", &[]),
        ];
        for (name, value, wanted) in table {
            let found = values(&[(name, value)]);
            for secret in wanted {
                assert!(found.iter().any(|value| value == secret), "{name}: {secret} in {found:?}");
            }
            assert!(!wanted.is_empty() || found.is_empty(), "{name}: {found:?}");
        }
    }
}
