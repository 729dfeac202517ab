//! The file with the agent's secrets, for machines on which layer code runs as the agent's user. Layer code could read
//! a secret in the environment of any process of that user, such as a container's first one, in `/proc`.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use agent_types::error::{Error, Result};

/// The variable that names the file.
pub const VARIABLE: &str = "BUILD_AGENT_SECRETS_FILE";

/// Maximum size of the file.
const LIMIT: u64 = 1 << 20;

/// The variables that the AWS SDK would read from the environment. The agent passes their values to the SDK.
const AWS: [&str; 3] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];

/// Keys of AWS.
#[derive(Clone, PartialEq, Eq)]
pub struct AwsKeys {
    pub access_key_id: String,
    pub secret_access_key: String,
    pub session_token: Option<String>,
}

/// Reads the file and deletes it. It has one `NAME=value` before each zero byte, as `/proc/PID/environ`. It can also
/// be a pipe, or an inherited descriptor: `/proc/self/fd/N`. A descriptor is closed, so that no child gets it.
///
/// # Errors
/// Usage, if it cannot be read or deleted, or is not in this form. No message contains a value.
pub fn take(path: &Path) -> Result<BTreeMap<String, String>> {
    let failed = |what: &str, error: &std::io::Error| {
        let message = format!("{}: {} cannot be {what}", VARIABLE, path.display());
        Error::usage(message)
            .because(error)
            .hint("the agent reads this file once and deletes it: write it again for each command")
    };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| failed("read", &error))?;
    file.take(LIMIT).read_to_end(&mut bytes).map_err(|error| failed("read", &error))?;
    match descriptor(path) {
        // Descriptors 0 to 2 are the standard streams.
        Some(..=2) => {}
        Some(number) => nix::unistd::close(number).map_err(|errno| failed("closed", &errno.into()))?,
        None => std::fs::remove_file(path).map_err(|error| failed("deleted", &error))?,
    }
    let text = String::from_utf8(bytes).map_err(|_| bad("text that is not UTF-8"))?;
    text.split('\0').filter(|entry| !entry.trim().is_empty()).map(variable).collect()
}

/// `N` of `/dev/fd/N` and `/proc/self/fd/N`.
fn descriptor(path: &Path) -> Option<i32> {
    let number = path.strip_prefix("/dev/fd").or_else(|_| path.strip_prefix("/proc/self/fd")).ok()?;
    number.to_str()?.parse().ok()
}

fn bad(what: &str) -> Error {
    Error::usage(format!("{} has {what}", VARIABLE))
        .hint("write NAME=value and a zero byte for each secret: printf 'GITHUB_TOKEN=%s\\0' \"$token\"")
}

fn variable(entry: &str) -> Result<(String, String)> {
    let is_name =
        |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    match entry.split_once('=').filter(|(name, _)| is_name(name)) {
        None => Err(bad("an entry that is not NAME=value")),
        // The SDK would not see it.
        Some((name, _)) if name.starts_with("AWS_") && !AWS.contains(&name) => {
            Err(bad(&format!("the variable {name}, which is not a secret: leave it in the environment")))
        }
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
    }
}

/// The keys of AWS among the secrets.
///
/// # Errors
/// Usage, if only one of the two keys is set.
pub fn aws_keys(secrets: &BTreeMap<String, String>) -> Result<Option<AwsKeys>> {
    let [id, secret, token] = AWS.map(|name| secrets.get(name).filter(|value| !value.is_empty()).cloned());
    match (id, secret) {
        (Some(access_key_id), Some(secret_access_key)) => {
            Ok(Some(AwsKeys { access_key_id, secret_access_key, session_token: token }))
        }
        (None, None) => Ok(None),
        (None, Some(_)) => Err(bad("AWS_SECRET_ACCESS_KEY without AWS_ACCESS_KEY_ID")),
        (Some(_), None) => Err(bad("AWS_ACCESS_KEY_ID without AWS_SECRET_ACCESS_KEY")),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::fd::{AsRawFd, IntoRawFd};

    fn taken(text: &str) -> Result<BTreeMap<String, String>> {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("secrets");
        std::fs::write(&path, text).unwrap();
        let taken = take(&path);
        assert!(!path.exists(), "{text:?}: still there");
        taken
    }

    #[test]
    fn entries_end_in_a_zero_byte() {
        let secrets = taken("GITHUB_TOKEN=a=b c\nd\0DB_PASSWORD=x\0\n").unwrap();
        assert_eq!(
            secrets.into_iter().collect::<Vec<_>>(),
            [("DB_PASSWORD".into(), "x".into()), ("GITHUB_TOKEN".to_owned(), "a=b c\nd".to_owned())]
        );
        assert!(taken("").unwrap().is_empty());
    }

    #[test]
    fn an_entry_that_is_not_a_secret_is_an_error_without_its_value() {
        for (text, words) in [
            ("hunter22", "not NAME=value"),
            ("=hunter22", "not NAME=value"),
            ("A B=hunter22", "not NAME=value"),
            ("AWS_PROFILE=hunter22", "AWS_PROFILE"),
        ] {
            let error = taken(text).unwrap_err();
            assert!(error.message.contains(words), "{error}");
            assert!(!error.to_string().contains("hunter22"), "{error}");
        }
        assert!(take(Path::new("/nonexistent")).is_err());
    }

    #[test]
    fn half_of_the_keys_is_an_error() {
        let keys = |text: &str| aws_keys(&taken(text).unwrap());
        assert!(keys("GITHUB_TOKEN=x").unwrap().is_none());
        let both = "AWS_ACCESS_KEY_ID=a\0AWS_SECRET_ACCESS_KEY=b";
        assert_eq!(keys(both).unwrap().unwrap().session_token, None);
        let all = keys(&format!("{both}\0AWS_SESSION_TOKEN=c")).unwrap().unwrap();
        assert_eq!((all.access_key_id.as_str(), all.session_token.as_deref()), ("a", Some("c")));
        assert!(keys("AWS_ACCESS_KEY_ID=a").is_err() && keys("AWS_SECRET_ACCESS_KEY=b").is_err());
    }

    #[test]
    fn a_descriptor_is_read_and_closed() {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(b"GITHUB_TOKEN=x\0").unwrap();
        drop(writer);
        let number = reader.as_raw_fd();
        assert!(number > 2);
        // The function closes it.
        let _ = reader.into_raw_fd();
        let path = format!("/proc/self/fd/{number}");
        assert_eq!(take(path.as_ref()).unwrap().len(), 1);
        assert_eq!(descriptor(path.as_ref()), Some(number));
        assert_eq!(descriptor(Path::new("/dev/fd/0")), Some(0));
        assert_eq!(descriptor(Path::new("/tmp/3")), None);
    }
}
