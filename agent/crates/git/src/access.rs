//! The environment of git's processes. It starts empty, so git sees only what is listed here.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use url::Url;

use agent_process::{Environment, User};
use agent_types::secret::Secret;

use super::address;
use super::sites::Sites;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const SSH: &str = "ssh -o BatchMode=yes -o ConnectTimeout=30 -o ServerAliveInterval=30";

/// What git needs besides URLs to reach servers.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Variables that are passed on from the agent's environment; see [`Access::PASSED`].
    pub variables: Vec<(OsString, OsString)>,
    /// Token for `https://github.com/` URLs that contain no credentials.
    pub github_token: Option<Secret>,
    /// The mirrors and credentials of this site.
    pub sites: Sites,
    /// The user whose rights apply when an untrusted source names a local directory and the agent is root.
    /// `None`: the agent's own rights.
    pub reader: Option<User>,
}

impl Access {
    /// The variables that affect the connection to a server: proxies, certificates, the SSH agent.
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

    /// The complete environment of a git process that connects to `url`, or uses only work trees.
    ///
    /// `home` comes from the passwd entry; the site's global configuration is there. `safe` lists the work
    /// trees that git may use although another user owns them. `stall` is the longest silence of a transfer.
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
            // UTF-8 names and English messages: failures are classified by the messages.
            ("LANG", "C.UTF-8"),
            ("LC_ALL", "C.UTF-8"),
            // Never prompt. An empty GIT_ASKPASS disables SSH_ASKPASS as well.
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ASKPASS", ""),
            // `status` must not write the index of another user's work tree.
            ("GIT_OPTIONAL_LOCKS", "0"),
            // A clone has the commit's own files; the filter would ask a server that the clone does not know.
            ("GIT_LFS_SKIP_SMUDGE", "1"),
            // Ignore refs/replace/: a commit always has its own tree.
            ("GIT_NO_REPLACE_OBJECTS", "1"),
            // The code that reads stored clones expects this format.
            ("GIT_DEFAULT_REF_FORMAT", "files"),
        ];
        for (name, value) in fixed {
            environment.set(name, value);
        }
        environment.set("GIT_SSH_COMMAND", format!("{SSH}{}", self.sites.ssh_options()));
        environment.set("HOME", home);
        for (name, value) in as_variables(self.configuration(url, safe, stall)) {
            environment.set(name, value);
        }
        environment
    }

    /// Settings that override the site's configuration.
    fn configuration(&self, url: Option<&Url>, safe: &[PathBuf], stall: Duration) -> Vec<(String, OsString)> {
        let mut pairs: Vec<(String, OsString)> = [
            // Never run code of a repository: hooks, file system monitors, external transports.
            ("core.hooksPath", "/dev/null"),
            ("core.fsmonitor", "false"),
            ("protocol.ext.allow", "never"),
            ("submodule.recurse", "false"),
            ("fetch.recurseSubmodules", "false"),
            // A clone is the commit's tree, independent of this site's line ending settings.
            ("core.autocrlf", "false"),
            ("core.sparseCheckout", "false"),
            // No background processes after git has ended.
            ("gc.auto", "0"),
            ("maintenance.auto", "false"),
            ("advice.detachedHead", "false"),
            ("init.defaultBranch", "main"),
            // Busy servers send a few bytes every five seconds; less is a stall.
            ("http.lowSpeedLimit", "1"),
        ]
        .map(|(key, value)| (key.to_string(), value.into()))
        .into();
        pairs.push(("http.lowSpeedTime".into(), stall.as_secs().max(1).to_string().into()));
        if let Some(url) = url {
            pairs.extend(self.sites.configuration().map(|(key, value)| (key, value.into())));
            let mirrored = self.sites.mirrored(url);
            let used = mirrored.as_ref().unwrap_or(url);
            if used.scheme() == "file" {
                pairs.push(("protocol.file.allow".into(), "always".into()));
            }
            // A mirror gets no credentials of the address that it replaces.
            if let Some(header) = self.authorization(used) {
                // The header applies to this URL only; curl does not send it to another host after a redirect.
                // The empty value first removes a header of the site's configuration, because servers
                // reject two.
                let key = format!("http.{}.extraHeader", address::bare(used));
                pairs.push((key.clone(), OsString::new()));
                pairs.push((key, format!("Authorization: {header}").into()));
            }
        }
        pairs.extend(safe.iter().map(|path| ("safe.directory".to_string(), path.into())));
        pairs
    }

    /// The access for a source: a trusted source is read with the agent's own rights.
    pub fn for_source(&self, is_trusted: bool) -> Access {
        let reader = self.reader.clone().filter(|_| !is_trusted);
        Access { reader, ..self.clone() }
    }

    /// The shell command that serves a local repository with the rights of the reader; git appends the path.
    /// Objects that the repository borrows from others (alternates) are read with these rights, too.
    pub(super) fn upload_pack(&self, url: Option<&Url>) -> Option<String> {
        let (reader, _) = (self.reader.as_ref()?, url.filter(|url| url.scheme() == "file")?);
        let User { uid, gid, home, .. } = reader;
        let home = home.display().to_string().replace('\'', "'\\''");
        // The environment starts empty, because the agent's may contain proxy passwords. `upload-pack` runs
        // nothing of the repository, so its owner does not matter.
        Some(format!(
            "setpriv --reuid={uid} --regid={gid} --clear-groups --no-new-privs env -i PATH={PATH} HOME='{home}' \
             LC_ALL=C.UTF-8 GIT_PROTOCOL=\"$GIT_PROTOCOL\" git -c 'safe.directory=*' upload-pack"
        ))
    }

    fn authorization(&self, url: &Url) -> Option<String> {
        address::authorization(url).or_else(|| self.sites.authorization(url)).or_else(|| {
            let github =
                url.scheme() == "https" && url.host_str() == Some("github.com") && url.port().is_none();
            let token = self.github_token.as_ref().filter(|_| github)?;
            Some(address::basic(b"x-access-token", token.value.as_bytes()))
        })
    }
}

/// Variables that make exactly these work trees safe for git, whatever their owner. BitBake's git calls need
/// this, because the sources belong to another user.
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
    fn sends_token_to_github_only_and_prefers_credentials_of_the_url() {
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
    fn a_mirror_gets_its_own_credentials_only() {
        let token = Secret { origin: String::new(), value: "t0k".into() };
        let mirror = |to: &str| super::super::sites::Mirror {
            from: "https://github.com/".into(),
            to: Url::parse(to).unwrap(),
        };
        let access = |to: &str, prefix: &str| Access {
            github_token: Some(token.clone()),
            sites: Sites {
                mirrors: vec![mirror(to)],
                credentials: vec![super::super::sites::Credential {
                    prefix: prefix.into(),
                    user: "u".into(),
                    password: token.clone(),
                }],
                ..Sites::default()
            },
            ..Access::default()
        };
        for (to, prefix, header) in [
            (
                "https://m.example/gh/",
                "https://m.example/",
                Some("http.https://m.example/gh/a/b.extraHeader"),
            ),
            ("https://m.example/gh/", "https://github.com/", None),
            ("file:///srv/gh/", "https://github.com/", None),
        ] {
            let access = access(to, prefix);
            let found = configuration(&access, "https://u:p@github.com/a/b");
            let rewrite = (format!("url.{to}.insteadOf"), "https://github.com/".to_owned());
            assert!(found.contains(&rewrite), "{found:?}");
            let key =
                found.iter().rfind(|(key, _)| key.ends_with("extraHeader")).map(|(key, _)| key.as_str());
            assert_eq!(key, header, "{to} {prefix}");
            assert_eq!(found.iter().any(|(key, _)| key == "protocol.file.allow"), to.starts_with("file"));
        }
    }

    #[test]
    fn allows_file_transport_for_file_urls_only_and_lists_safe_paths() {
        let access = Access::default();
        let allow = ("protocol.file.allow".to_string(), "always".to_string());
        assert!(configuration(&access, "file:///srv/r").contains(&allow));
        let web = configuration(&access, "https://h.example/r");
        assert!(!web.contains(&allow));
        let safe: Vec<_> = web.iter().filter(|(key, _)| key == "safe.directory").collect();
        assert_eq!(safe, [&("safe.directory".to_string(), "/src/a".to_string())]);
    }

    /// If git-lfs is installed for all users, its filter asks a server that a clone does not know, and the
    /// clone fails.
    #[test]
    fn disables_the_git_lfs_filter() {
        let environment = Access::default().environment(Path::new("/h"), None, &[], Duration::from_secs(1));
        assert_eq!(environment.get("GIT_LFS_SKIP_SMUDGE"), Some(OsStr::new("1")));
    }

    #[test]
    fn safe_directories_sets_the_count() {
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
