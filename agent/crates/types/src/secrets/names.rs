//! Recognizes variables that contain secrets, by their names and values.

use url::Url;

/// Mark a secret anywhere in a name.
const ANYWHERE: [&str; 7] = ["TOKEN", "PASSWORD", "PASSWD", "PASSPHRASE", "SECRET", "CREDENTIAL", "COOKIE"];

/// Mark a secret as a word of a name. Some have other meanings, too, so the value is checked as well.
const WORDS: [&str; 19] = [
    "PWD",
    "PW",
    "PASS",
    "KEY",
    "KEYS",
    "APIKEY",
    "AUTH",
    "AUTHORIZATION",
    "BEARER",
    "PAT",
    "CRED",
    "CREDS",
    "JWT",
    "SAS",
    "OTP",
    "HMAC",
    "PSK",
    "PSWD",
    "SESSIONID",
];

/// Words that contain one of the above but have another meaning. `CACHE_KEY` is two words.
const OTHER_WORDS: [&str; 22] = [
    "PASSTHROUGH",
    "PASSTHRU",
    "BYPASS",
    "ASKPASS",
    "COMPASS",
    "PASSIVE",
    "PASSED",
    "PASSING",
    "PASSENGER",
    "PASSPORT",
    "TOKENIZER",
    "TOKENIZERS",
    "SECRETARY",
    "PUBLIC_KEY",
    "CACHE_KEY",
    "HOST_KEY",
    "SORT_KEY",
    "PRIMARY_KEY",
    "PARTITION_KEY",
    "GPG_KEY",
    "OBJECT_KEY",
    "FOREIGN_KEY",
];

/// Words for data about a secret, which is not secret itself.
const ABOUT: [&str; 40] = [
    "ID",
    "ARN",
    "NAME",
    "NAMES",
    "FILE",
    "FILES",
    "PATH",
    "PATHS",
    "DIR",
    "URL",
    "URI",
    "SOCK",
    "TYPE",
    "VERSION",
    "REGION",
    "HEADER",
    "LENGTH",
    "SIZE",
    "COUNT",
    "TTL",
    "EXPIRY",
    "EXPIRES",
    "EXPIRATION",
    "TIMEOUT",
    "ALGORITHM",
    "METHOD",
    "FORMAT",
    "ENABLED",
    "USER",
    "USERNAME",
    "HOST",
    "PORT",
    "ENDPOINT",
    "HELPER",
    "PROVIDER",
    "PREFIX",
    "SCOPE",
    "ISSUER",
    "AUDIENCE",
    "REQUIRED",
];

/// Whether the variable contains a secret.
pub fn is_secret(name: &str, value: &str) -> bool {
    // A URL that returns AWS credentials to any process in the container.
    if name == "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI" {
        return true;
    }
    is_named_secret(name) && !says_nothing(value) && !is_path(value) && !is_file_name(value)
}

fn is_named_secret(name: &str) -> bool {
    let name = words(name).join("_");
    // The current and the previous working directory.
    if ["PWD", "OLDPWD"].contains(&name.as_str()) {
        return false;
    }
    let name = OTHER_WORDS.iter().fold(name, |name, word| name.replace(word, "X"));
    // `API_KEY_2` and `API_KEY2` are numbered variants.
    let numbered = |word: &str| word.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned();
    let words: Vec<String> = name.split('_').map(numbered).filter(|word| !word.is_empty()).collect();
    if words.last().is_none_or(|last| ABOUT.contains(&last.as_str())) {
        return false;
    }
    let ends = |word: &str| ["PASS", "PWD", "APIKEY"].iter().any(|end| word.ends_with(end));
    // A name that begins with KEY is about keys: KEY_SERVER, KEY_MAP.
    let is_word =
        |(at, word): (usize, &String)| WORDS.contains(&word.as_str()) && (at > 0 || !word.starts_with("KEY"));
    ANYWHERE.iter().any(|word| name.contains(word))
        || name.contains("PASS")
        || words.iter().any(|word| ends(word))
        || words.iter().enumerate().any(is_word)
}

/// Splits a name into upper-case words: `npm_token`, `npm-token`, `npm.token` and `npmToken` give the same.
fn words(name: &str) -> Vec<String> {
    let mut split = String::new();
    let mut before = ' ';
    for c in name.chars() {
        if before.is_ascii_lowercase() && c.is_ascii_uppercase() {
            split.push('_');
        }
        split.push(if c.is_alphanumeric() { c.to_ascii_uppercase() } else { '_' });
        before = c;
    }
    split.split('_').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Whether the value is a switch or a small number. Hiding it everywhere would only garble the output.
fn says_nothing(value: &str) -> bool {
    const SWITCHES: [&str; 22] = [
        "true", "false", "yes", "no", "none", "null", "nil", "on", "off", "y", "n", "t", "f", "auto",
        "always", "never", "default", "enabled", "disabled", "required", "optional", "unset",
    ];
    let value = value.trim().to_ascii_lowercase();
    SWITCHES.contains(&value.as_str())
        || (value.len() < 6 && value.chars().all(|c| c.is_ascii_digit() || c == '.'))
        || value.is_empty()
}

/// Whether the value is a path, or several separated by colons. A password or base64 may begin with `/`, too,
/// so a path has two parts or more, and no part that looks random.
fn is_path(value: &str) -> bool {
    let one = |path: &str| {
        let Some(rest) = ["/", "~/", "./", "../"].iter().find_map(|start| path.strip_prefix(start)) else {
            return false;
        };
        let parts: Vec<&str> = rest.split('/').collect();
        let is_deep = parts.len() > 1 || !path.starts_with('/');
        is_deep && !parts.iter().any(|part| is_random(part)) && !path.contains(['=', '\n', '@'])
    };
    value.split(':').all(one)
}

/// Whether it mixes upper case, lower case and digits, and is longer than usual names.
fn is_random(part: &str) -> bool {
    part.len() > 12
        && part.contains(|c: char| c.is_ascii_uppercase())
        && part.contains(|c: char| c.is_ascii_lowercase())
        && part.contains(|c: char| c.is_ascii_digit())
}

fn is_file_name(value: &str) -> bool {
    const ENDS: [&str; 20] = [
        "pem", "key", "crt", "cer", "der", "pub", "gpg", "asc", "p12", "pfx", "jks", "json", "yaml", "yml",
        "toml", "txt", "conf", "cfg", "ini", "csr",
    ];
    let end = value.rsplit_once('.').filter(|(stem, _)| !stem.is_empty() && !is_random(stem));
    end.is_some_and(|(_, end)| ENDS.contains(&end)) && !value.contains(char::is_whitespace)
}

/// The secret in the URL of a webhook: with it, anyone can post there. Recognized by the variable's name or
/// by the host.
pub fn webhook_parts(name: &str, value: &str) -> Vec<String> {
    const HOSTS: [&str; 6] = [
        "hooks.slack.com",
        "discord.com",
        "discordapp.com",
        "webhook.office.com",
        "outlook.office.com",
        "chat.googleapis.com",
    ];
    let Ok(url) = Url::parse(value) else { return Vec::new() };
    let host = url.host_str().unwrap_or_default();
    let by_host = HOSTS.iter().any(|known| host == *known || host.ends_with(&format!(".{known}")));
    let by_name = words(name).iter().any(|word| ["WEBHOOK", "WEBHOOKS", "HOOK"].contains(&word.as_str()));
    let path = url.path().trim_matches('/');
    if !matches!(url.scheme(), "http" | "https") || !(by_host || by_name) || path.len() < 8 {
        return Vec::new();
    }
    let query = url.query().map(|query| format!("{path}?{query}"));
    [Some(value.to_owned()), Some(path.to_owned()), query].into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recognizes_names_of_secrets() {
        let names = "AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN GITHUB_TOKEN DB_PASSWORD SOCKS5_PASSWD SSHPASS \
            PGPASSWORD DB_PWD MYSQL_PWD ADMIN_PW PASS PASSWORT_1 KEYSTORE_PASS KEYSTOREPASS PASS_PHRASE \
            AUTHORIZATION HTTP_AUTHORIZATION PROXY_AUTHORIZATION BASIC_AUTH COOKIE SESSION_COOKIE COOKIES \
            API_KEY API_KEY_2 API_KEY2 APIKEY MY_APIKEY_1 NVD_API_KEY_PROD SIGNING_KEY GITHUB_TOKEN_2 TOKEN \
            MY_TOKEN_PROD GH_TOKEN_RELEASE TOKENS CLIENT_SECRET SECRET_SAUCE SECRETS CREDENTIALS AWS_CREDS \
            GITLAB_PAT ID_JWT BLOB_SAS npm_token npmToken npm-token twine.password DEPLOY_KEYS \
            ORG_GRADLE_PROJECT_SONATYPEPASSWORD";
        for name in names.split_whitespace() {
            assert!(is_secret(name, "hunter22"), "{name}");
        }
    }

    #[test]
    fn recognizes_names_without_secrets() {
        let names = "PWD OLDPWD PATH AWS_ACCESS_KEY_ID CODEBUILD_KMS_KEY_ID AWS_WEB_IDENTITY_TOKEN_FILE SECRET_ARN \
            GPG_KEY SSH_AUTH_SOCK KEYMAP MONKEY KEY_SERVER BB_ENV_PASSTHROUGH BB_ENV_PASSTHROUGH_ADDITIONS GIT_ASKPASS \
            SSH_ASKPASS BYPASS_CHECK PASSIVE_FTP TOKENIZERS_PARALLELISM AUTHOR GIT_AUTHOR_NAME PATCHES COMPATIBLE \
            CACHE_KEY PUBLIC_KEY TOKEN_TYPE TOKEN_TTL PASSWORD_LENGTH AUTH_METHOD KEYBOARD HOME PWDX_VERSION \
            CODEBUILD_WEBHOOK_TRIGGER COMPASS_HOME SAASX BB_SIGNATURE_HANDLER";
        for name in names.split_whitespace() {
            assert!(!is_secret(name, "hunter22"), "{name}");
        }
    }

    #[test]
    fn checks_the_value_as_well() {
        let table = [
            ("USE_TOKEN", "true", false),
            ("SORT_BY_KEY", "1", false),
            ("MAX_TOKENS", "4096", false),
            ("VERIFY_PASS", "Off", false),
            ("SIGNING_KEY", "/etc/keys/module-signing.pem", false),
            ("SIGNING_KEY", "keys/module.pem", false),
            ("SIGNING_KEY", "../keys/module", false),
            ("BUILD_PWD", "/codebuild/output/src", false),
            ("KEY_DIRS_PASS", "/usr/bin:/usr/share/keys", false),
            ("GOOGLE_APPLICATION_CREDENTIALS", "/root/.config/gcloud/key.json", false),
            // A password or base64 may begin like this, too.
            ("DB_PASSWORD", "/hunter22", true),
            ("AWS_SECRET_ACCESS_KEY", "/JalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", true),
            ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", true),
            ("DB_PWD", "12345678", true),
            ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/credentials/0f5d7e0c", true),
        ];
        for (name, value, wanted) in table {
            assert_eq!(is_secret(name, value), wanted, "{name}={value}");
        }
    }

    #[test]
    fn webhook_urls_are_secrets() {
        let slack = "https://hooks.slack.com/services/T000/B000/XXXXXXXX";
        assert_eq!(webhook_parts("NOTIFY_URL", slack), [slack, "services/T000/B000/XXXXXXXX"]);
        let own = "https://ci.example.org/hooks/abcdefgh?k=v";
        assert_eq!(webhook_parts("CI_WEBHOOK_URL", own), [own, "hooks/abcdefgh", "hooks/abcdefgh?k=v"]);
        for (name, value) in [
            ("CODEBUILD_WEBHOOK_TRIGGER", "branch/main"),
            ("HOMEPAGE", "https://example.org/hooks/abcdefgh"),
            ("WEBHOOK_HOST", "https://example.org/"),
        ] {
            assert!(webhook_parts(name, value).is_empty(), "{name}={value}");
        }
    }
}
