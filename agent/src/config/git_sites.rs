//! The variables with which a site sets how git reaches servers. A mistake in them is an error: without a mirror, the agent
//! would ask the public server.

use std::path::Path;

use agent_git::{Credential, Mirror, Sites};
use agent_types::error::{Error, Result};
use agent_types::secret::Secret;
use url::Url;

use super::address;
use super::settings::RecipeCredential;
use super::variables::Variables;

/// `https://github.com/=https://mirror.example/github/ …`
pub const MIRRORS: &str = "BUILD_AGENT_GIT_MIRRORS";

/// `https://gitlab.example.org/=USER:TOKEN …`
pub const CREDENTIALS: &str = "BUILD_AGENT_GIT_CREDENTIALS";

/// The same for the private sources of recipes.
pub const RECIPE_CREDENTIALS: &str = "BUILD_AGENT_RECIPE_CREDENTIALS";

/// The file of a private key.
pub const SSH_KEY: &str = "BUILD_AGENT_SSH_KEY_FILE";

/// The file with the public keys of servers.
pub const SSH_KNOWN_HOSTS: &str = "BUILD_AGENT_SSH_KNOWN_HOSTS_FILE";

/// Reads the variables.
///
/// # Errors
/// Usage, with the variable. No message contains a credential.
pub fn read(variables: &Variables) -> Result<Sites> {
    let words = |name: &str| variables.text(name).unwrap_or_default();
    let mirrors = words(MIRRORS).split_whitespace().map(mirror).collect::<Result<_>>()?;
    let credentials = words(CREDENTIALS);
    let credentials =
        credentials.split_whitespace().enumerate().map(|(index, word)| credential(CREDENTIALS, index, word));
    let file = |name: &str| {
        let path = variables.path(name);
        match path {
            Some(path) if !path.is_absolute() || !path.is_file() => Err(Error::usage(format!(
                "the variable {name} is `{}`, which is not the absolute path of a file",
                path.display()
            ))),
            path => Ok(path),
        }
    };
    Ok(Sites {
        mirrors,
        credentials: credentials.collect::<Result<_>>()?,
        ssh_key: file(SSH_KEY)?,
        ssh_known_hosts: file(SSH_KNOWN_HOSTS)?,
    })
}

/// Reads the credentials for layer code. Programs choose them by the host alone.
///
/// # Errors
/// Usage. No message contains a credential.
pub fn for_recipes(variables: &Variables) -> Result<Vec<RecipeCredential>> {
    let text = variables.text(RECIPE_CREDENTIALS).unwrap_or_default();
    let read = |(index, word): (usize, &str)| {
        let Credential { prefix, user, password } = credential(RECIPE_CREDENTIALS, index, word)?;
        let url = Url::parse(&prefix).ok().filter(|url| url.path() == "/" && !user.is_empty());
        let host = url.and_then(|url| url.host_str().map(str::to_owned)).ok_or_else(|| {
            Error::usage(format!(
                "the variable {RECIPE_CREDENTIALS}: word {} has a path, or no user",
                index + 1
            ))
            .hint("write words such as https://gitlab.example.org/=USER:TOKEN, with blanks between them")
        })?;
        Ok(RecipeCredential { host, user, password })
    };
    text.split_whitespace().enumerate().map(read).collect()
}

fn mirror(word: &str) -> Result<Mirror> {
    let bad = |why: &str| {
        Error::usage(format!("the variable {MIRRORS}: `{word}` {why}"))
            .hint("write pairs such as https://github.com/=https://mirror.example.org/github/, with blanks between them")
    };
    let (from, to) = word.split_once('=').ok_or_else(|| bad("has no `=`"))?;
    for prefix in [from, to] {
        if let Err(mistake) = prefix_of_addresses(prefix) {
            return Err(bad(&format!("has `{prefix}`, which {mistake}")));
        }
    }
    let url = |text: &str| Url::parse(text).map_err(|error| bad(&error.to_string()));
    Ok(Mirror { from: url(from)?.into(), to: url(to)? })
}

fn credential(variable: &str, index: usize, word: &str) -> Result<Credential> {
    let bad = |why: &str| {
        Error::usage(format!("the variable {variable}: word {} {why}", index + 1))
            .hint("write words such as https://gitlab.example.org/=USER:TOKEN, with blanks between them")
    };
    let (prefix, rest) = word.split_once('=').ok_or_else(|| bad("has no `=`"))?;
    let (user, password) =
        rest.split_once(':').ok_or_else(|| bad("has no `:` between a user and a token"))?;
    prefix_of_addresses(prefix).map_err(|mistake| bad(&format!("has an address that {mistake}")))?;
    let url = Url::parse(prefix).map_err(|error| bad(&error.to_string()))?;
    let is_local = url.scheme() == "http" && agent_artifacts::aws::is_loopback(&url);
    if url.scheme() != "https" && !is_local {
        return Err(bad("has an address that is not https"));
    }
    if password.is_empty() {
        return Err(bad("has no token"));
    }
    let password = Secret { origin: format!("variable {variable}"), value: password.to_owned() };
    Ok(Credential { prefix: url.into(), user: user.to_owned(), password })
}

/// Addresses can begin with this text: a whole host, or a directory on it.
fn prefix_of_addresses(text: &str) -> Result<(), String> {
    if !text.ends_with('/') {
        return Err("does not end with `/`".into());
    }
    // With a repository, it must be the address of one.
    let url = address::git(&format!("{text}x")).map_err(|mistake| mistake.message)?;
    match url.password().is_some() || (url.scheme() != "ssh" && !url.username().is_empty()) {
        true => Err(format!("contains credentials: write them into {CREDENTIALS}")),
        false => Ok(()),
    }
}

/// The files that hold credentials.
pub fn credential_files(sites: &Sites) -> impl Iterator<Item = (String, &Path)> {
    sites.ssh_key.iter().map(|path| (SSH_KEY.to_owned(), path.as_path()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read_from(pairs: &[(&str, &str)]) -> Result<Sites> {
        let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).into()));
        read(&Variables::new(pairs.collect()))
    }

    #[test]
    fn reads_pairs() {
        let sites = read_from(&[
            (MIRRORS, "https://github.com/=https://m.example/gh/  ssh://git@h/=file:///srv/"),
            (CREDENTIALS, "https://gitlab.example/=oauth2:t0ken http://127.0.0.1:8080/x/=:only"),
        ])
        .unwrap();
        let mirrors: Vec<_> = sites.mirrors.iter().map(|one| format!("{} {}", one.from, one.to)).collect();
        assert_eq!(mirrors, ["https://github.com/ https://m.example/gh/", "ssh://git@h/ file:///srv/"]);
        let credentials: Vec<_> = sites.credentials.iter().map(|one| (&*one.prefix, &*one.user)).collect();
        assert_eq!(credentials, [("https://gitlab.example/", "oauth2"), ("http://127.0.0.1:8080/x/", "")]);
        assert_eq!(read_from(&[]).unwrap(), Sites::default());
    }

    #[test]
    fn recipes_get_credentials_by_host() {
        let read = |value: &str| {
            let pairs = [(RECIPE_CREDENTIALS.to_owned(), value.into())];
            for_recipes(&Variables::new(pairs.into_iter().collect()))
        };
        let found = read("https://gitlab.example/=ci:hunter22").unwrap();
        assert_eq!((&*found[0].host, &*found[0].user), ("gitlab.example", "ci"));
        for value in ["https://gitlab.example/group/=ci:hunter22", "https://gitlab.example/=:hunter22", "x"] {
            let error = read(value).unwrap_err();
            assert!(
                error.message.contains(RECIPE_CREDENTIALS) && !error.to_string().contains("hunter22"),
                "{error}"
            );
        }
    }

    #[test]
    fn rejects_mistakes_without_showing_credentials() {
        for (name, value, wanted) in [
            (MIRRORS, "https://github.com/", "has no `=`"),
            (MIRRORS, "https://github.com=https://m/", "does not end with `/`"),
            (MIRRORS, "https://github.com/=https://u:hunter22@m/", "contains credentials"),
            (MIRRORS, "ext::sh/=https://m/", "which"),
            (CREDENTIALS, "hunter22", "word 1 has no `=`"),
            (CREDENTIALS, "https://h/=hunter22", "has no `:`"),
            (
                CREDENTIALS,
                "https://h/=u:hunter22 http://h/=u:hunter22",
                "word 2 has an address that is not https",
            ),
            (CREDENTIALS, "https://h/=u:", "has no token"),
            (SSH_KEY, "relative", "not the absolute path of a file"),
            (SSH_KNOWN_HOSTS, "/gone", "not the absolute path of a file"),
        ] {
            let error = read_from(&[(name, value)]).unwrap_err();
            assert!(error.message.contains(wanted), "{value}: {error}");
            assert!(name == MIRRORS || !error.to_string().contains("hunter22"), "{error}");
        }
    }
}
