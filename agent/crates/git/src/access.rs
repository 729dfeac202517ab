//! What git may see of this machine: the environment of its children, made from nothing.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

use agent_process::{Environment, User};
use agent_types::secret::Secret;

use super::address;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What git needs to reach servers, besides the addresses.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Variables of the agent's environment that are passed on; see [`Access::PASSED`].
    pub variables: Vec<(OsString, OsString)>,
    /// For `https://github.com/`, where the address has no credentials of its own.
    pub github_token: Option<Secret>,
    /// Whose rights count where an untrusted source names a directory of this machine, because the agent is
    /// root. `None`: the agent's own.
    pub reader: Option<User>,
}

impl Access {
    /// The variables that have to do with the way to a server: proxies, certificates, the SSH agent.
    pub const PASSED: [&'static str; 13] = [
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "no_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "NO_PROXY",
        "GIT_SSL_CAINFO",
        "CURL_CA_BUNDLE",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
        "SSH_AUTH_SOCK",
    ];

    /// The whole environment of a git that talks to `url`, or only to work trees.
    ///
    /// `home` comes from the passwd entry: the site's global configuration is there. `safe` are the
    /// work trees that git may use although they belong to somebody else. `stall` is how long a
    /// transfer may be silent.
    pub(super) fn environment(
        &self,
        home: &Path,
        url: Option<&Url>,
        safe: &[PathBuf],
        stall: Duration,
    ) -> Environment {
        let mut environment = Environment::default();
        for (name, value) in &self.variables {
            environment.set(name, value);
        }
        let fixed = [
            ("PATH", PATH),
            // UTF-8 names, and messages in English: failures are told apart by them.
            ("LANG", "C.UTF-8"),
            ("LC_ALL", "C.UTF-8"),
            // Nobody is there to answer. An empty GIT_ASKPASS also switches SSH_ASKPASS off.
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ASKPASS", ""),
            ("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o ConnectTimeout=30 -o ServerAliveInterval=30"),
            // `status` must not write the index of somebody else's work tree.
            ("GIT_OPTIONAL_LOCKS", "0"),
            // A clone is the commit's own files; a filter would ask a server that the clone does not know.
            ("GIT_LFS_SKIP_SMUDGE", "1"),
            // A commit means its own tree, whatever refs/replace/ says.
            ("GIT_NO_REPLACE_OBJECTS", "1"),
            // Stored clones are looked at as files, in this form.
            ("GIT_DEFAULT_REF_FORMAT", "files"),
        ];
        for (name, value) in fixed {
            environment.set(name, value);
        }
        environment.set("HOME", home);
        for (name, value) in as_variables(self.configuration(url, safe, stall)) {
            environment.set(name, value);
        }
        environment
    }

    /// Settings that go over the site's configuration.
    fn configuration(&self, url: Option<&Url>, safe: &[PathBuf], stall: Duration) -> Vec<(String, OsString)> {
        let mut pairs: Vec<(String, OsString)> = [
            // No code of a repository runs: hooks, file system monitors, odd transports.
            ("core.hooksPath", "/dev/null"),
            ("core.fsmonitor", "false"),
            ("protocol.ext.allow", "never"),
            ("submodule.recurse", "false"),
            ("fetch.recurseSubmodules", "false"),
            // A clone is the commit's tree, not this site's idea of line ends.
            ("core.autocrlf", "false"),
            ("core.sparseCheckout", "false"),
            // Nothing goes on in the background after git has ended.
            ("gc.auto", "0"),
            ("maintenance.auto", "false"),
            ("advice.detachedHead", "false"),
            ("init.defaultBranch", "main"),
            // Servers that work on an answer send a few bytes every five seconds; less is a stall.
            ("http.lowSpeedLimit", "1"),
        ]
        .map(|(key, value)| (key.to_string(), value.into()))
        .into();
        pairs.push(("http.lowSpeedTime".into(), stall.as_secs().max(1).to_string().into()));
        if let Some(url) = url {
            if url.scheme() == "file" {
                pairs.push(("protocol.file.allow".into(), "always".into()));
            }
            if let Some(header) = self.authorization(url) {
                // For this very address; curl does not carry it to another host after a redirect.
                // The empty value first drops a header that the site's configuration has for it:
                // servers refuse two.
                let key = format!("http.{}.extraHeader", address::bare(url));
                pairs.push((key.clone(), OsString::new()));
                pairs.push((key, format!("Authorization: {header}").into()));
            }
        }
        pairs.extend(safe.iter().map(|path| ("safe.directory".to_string(), path.into())));
        pairs
    }

    /// The same for a source: where somebody vouches for it, the agent's own rights count.
    pub fn for_source(&self, is_trusted: bool) -> Access {
        let reader = self.reader.clone().filter(|_| !is_trusted);
        Access { reader, ..self.clone() }
    }

    /// The program that gives out a repository of this machine, with the rights of the reader; also what the
    /// repository borrows from others (alternates) is read with them. A command line of the shell, to which git
    /// adds the path.
    pub(super) fn upload_pack(&self, url: Option<&Url>) -> Option<String> {
        let (reader, _) = (self.reader.as_ref()?, url.filter(|url| url.scheme() == "file")?);
        let User { uid, gid, home, .. } = reader;
        let home = home.display().to_string().replace('\'', "'\\''");
        // The agent's environment may hold passwords of proxies. Who owns the repository does not matter to
        // somebody who runs nothing of it.
        Some(format!(
            "setpriv --reuid={uid} --regid={gid} --clear-groups --no-new-privs env -i PATH={PATH} HOME='{home}' \
             LC_ALL=C.UTF-8 GIT_PROTOCOL=\"$GIT_PROTOCOL\" git -c 'safe.directory=*' upload-pack"
        ))
    }

    fn authorization(&self, url: &Url) -> Option<String> {
        address::authorization(url).or_else(|| {
            let github =
                url.scheme() == "https" && url.host_str() == Some("github.com") && url.port().is_none();
            let token = self.github_token.as_ref().filter(|_| github)?;
            Some(address::basic(b"x-access-token", token.value.as_bytes()))
        })
    }
}

/// Variables that make exactly these work trees safe for any git started with them, whoever owns
/// them; BitBake's own git calls need this, because the sources belong to another user.
pub fn safe_directories(paths: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Vec<(OsString, OsString)> {
    as_variables(paths.into_iter().map(|path| ("safe.directory".to_string(), path.as_ref().to_os_string())))
}

/// Configuration as `GIT_CONFIG_COUNT`, `GIT_CONFIG_KEY_<n>`, `GIT_CONFIG_VALUE_<n>` (git-config(1)).
fn as_variables(pairs: impl IntoIterator<Item = (String, OsString)>) -> Vec<(OsString, OsString)> {
    let mut variables = Vec::new();
    let mut count = 0;
    for (key, value) in pairs {
        variables.push((format!("GIT_CONFIG_KEY_{count}").into(), key.into()));
        variables.push((format!("GIT_CONFIG_VALUE_{count}").into(), value));
        count += 1;
    }
    variables.push(("GIT_CONFIG_COUNT".into(), count.to_string().into()));
    variables
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn configuration(access: &Access, url: &str) -> Vec<(String, String)> {
        let url = Url::parse(url).unwrap();
        access
            .configuration(Some(&url), &["/src/a".into()], Duration::from_secs(1200))
            .into_iter()
            .map(|(key, value)| (key, value.into_string().unwrap()))
            .collect()
    }

    fn headers(access: &Access, url: &str) -> Vec<(String, String)> {
        configuration(access, url).into_iter().filter(|(key, _)| key.ends_with("extraHeader")).collect()
    }

    #[test]
    fn a_token_goes_to_github_alone_and_yields_to_the_addresss_own_credentials() {
        let token = Secret { origin: "variable GITHUB_TOKEN".into(), value: "t0k".into() };
        let access = Access { github_token: Some(token), ..Access::default() };
        // `printf x-access-token:t0k | base64` and `printf u:p | base64`
        for (url, header) in [
            ("https://github.com/a/b", Some("Authorization: Basic eC1hY2Nlc3MtdG9rZW46dDBr")),
            ("https://u:p@github.com/a/b", Some("Authorization: Basic dTpw")),
            ("http://github.com/a/b", None),
            ("https://github.com:8443/a/b", None),
            ("https://github.com.evil.example/a/b", None),
            ("https://gitlab.com/a/b", None),
            ("ssh://git@github.com/a/b", None),
        ] {
            let found = headers(&access, url);
            assert_eq!(found.last().map(|(_, value)| value.as_str()), header, "{url}");
            assert!(
                found.iter().all(|(key, _)| key == "http.https://github.com/a/b.extraHeader"),
                "{found:?}"
            );
        }
    }

    #[test]
    fn file_transport_only_for_file_addresses_and_safe_means_the_named_paths() {
        let access = Access::default();
        let allow = ("protocol.file.allow".to_string(), "always".to_string());
        assert!(configuration(&access, "file:///srv/r").contains(&allow));
        let web = configuration(&access, "https://h.example/r");
        assert!(!web.contains(&allow));
        let safe: Vec<_> = web.iter().filter(|(key, _)| key == "safe.directory").collect();
        assert_eq!(safe, [&("safe.directory".to_string(), "/src/a".to_string())]);
    }

    /// Where git-lfs is installed for all users, its filter would look for a server that a clone does not know,
    /// and the clone would fail.
    #[test]
    fn git_lfs_leaves_pointers_as_they_are() {
        let environment = Access::default().environment(Path::new("/h"), None, &[], Duration::from_secs(1));
        assert_eq!(environment.get("GIT_LFS_SKIP_SMUDGE"), Some(OsStr::new("1")));
    }

    #[test]
    fn safe_directories_count_themselves() {
        let made = safe_directories(["/a", "/b c"]);
        let made: Vec<_> = made.iter().map(|(n, v)| (n.to_str().unwrap(), v.to_str().unwrap())).collect();
        assert_eq!(
            made,
            [
                ("GIT_CONFIG_KEY_0", "safe.directory"),
                ("GIT_CONFIG_VALUE_0", "/a"),
                ("GIT_CONFIG_KEY_1", "safe.directory"),
                ("GIT_CONFIG_VALUE_1", "/b c"),
                ("GIT_CONFIG_COUNT", "2"),
            ]
        );
    }
}
