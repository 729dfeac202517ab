//! The environment of all processes that run layer code. It starts empty.
//!
//! BitBake's own filter gives no protection: it keeps the complete original environment in `BB_ORIGENV`,
//! which the Python of every recipe can read. So only variables that are listed here are set.

use std::borrow::Cow;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use agent_process::{Environment, User};

use super::mirrors::LOOPBACK;
use agent_types::release::Release;

/// The directories of the job's tools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tools {
    /// Contains `bin/bitbake`.
    pub bitbake: PathBuf,
    /// `bb.__version__` of that tree.
    pub bitbake_version: String,
    /// Contains `scripts/` and `meta/`.
    pub oe_core: PathBuf,
    /// Where BitBake finds the other programs.
    pub host: HostTools,
}

/// Where BitBake finds host tools: on the machine, or first in buildtools, which need variables of their own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostTools {
    /// The search path.
    pub path: String,
    /// Variables that buildtools set.
    pub variables: Vec<(String, String)>,
    /// Those of them that BitBake hands on to tasks.
    pub passthrough: Vec<String>,
}

impl Default for HostTools {
    /// Those of the machine.
    fn default() -> HostTools {
        HostTools { path: HOST_PATH.to_owned(), variables: Vec::new(), passthrough: Vec::new() }
    }
}

/// The search path for host tools. It is constant, because PATH is part of BitBake's configuration hash.
pub const HOST_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The variables that `oe-init-build-env` passes through (scripts/oe-buildenv-internal). Tools such as
/// yocto-check-layer set some of them for BitBake.
const PASSTHROUGH: [&str; 31] = [
    "MACHINE",
    "DISTRO",
    "TCMODE",
    "TCLIBC",
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "FTPS_PROXY",
    "ftps_proxy",
    "ALL_PROXY",
    "all_proxy",
    "NO_PROXY",
    "no_proxy",
    "SSH_AGENT_PID",
    "SSH_AUTH_SOCK",
    "BB_SRCREV_POLICY",
    "SDKMACHINE",
    "BB_NUMBER_THREADS",
    "BB_NO_NETWORK",
    "PARALLEL_MAKE",
    "GIT_PROXY_COMMAND",
    "SOCKS5_PASSWD",
    "SOCKS5_USER",
    "SCREENDIR",
    "STAMPS_DIR",
    "BBPATH_EXTRA",
    "BB_SETSCENE_ENFORCE",
    "BB_LOGCONFIG",
];

/// The environment of a program that needs no BitBake.
pub fn host_environment(user: &User, network: &[(String, String)]) -> Environment {
    let mut environment = Environment::default();
    environment
        .set("PATH", HOST_PATH)
        .set("HOME", &user.home)
        .set("USER", &user.name)
        .set("LOGNAME", &user.name)
        .set("SHELL", "/bin/bash")
        // No terminal: tools must not draw or prompt.
        .set("TERM", "dumb")
        .set("LANG", "en_US.UTF-8")
        .set("LC_ALL", "en_US.UTF-8");
    for (name, value) in network {
        environment.set(name, value);
    }
    environment
}

/// The environment of BitBake and its tools in `build_dir`.
///
/// `network` has the variables for server access (proxies, certificates). `git` (`GIT_CONFIG_COUNT` and the
/// like) lets git read checkouts of another owner. It must reach git calls in BitBake, too; otherwise
/// revisions silently become `<unknown>`. `own` are the manifest's own variables.
pub fn bitbake_environment(
    tools: &Tools,
    build_dir: &Path,
    user: &User,
    network: &[(String, String)],
    git: &[(OsString, OsString)],
    own: &[(String, String)],
) -> Environment {
    let mut environment = host_environment(user, network);
    let HostTools { path, variables, passthrough } = &tools.host;
    for (name, value) in variables {
        environment.set(name, value);
    }
    let path =
        format!("{}:{}:{path}", tools.oe_core.join("scripts").display(), tools.bitbake.join("bin").display());
    environment
        .set("PATH", path)
        .set("PYTHONPATH", tools.bitbake.join("lib"))
        .set("BUILDDIR", build_dir)
        .set("BBPATH", build_dir);
    for (name, value) in git {
        environment.set(name, value);
    }
    for (name, value) in own {
        environment.set(name, value);
    }
    let git_names = git.iter().map(|(name, _)| name.to_string_lossy());
    let is_new = |name: &&str| !PASSTHROUGH.contains(name);
    let own_names = own.iter().map(|(name, _)| name.as_str()).filter(is_new);
    let more = passthrough.iter().map(String::as_str).filter(is_new).chain(own_names);
    let names: Vec<_> = PASSTHROUGH.into_iter().chain(more).map(Cow::from).chain(git_names).collect();
    environment.set(Release::environment_allow_list(&tools.bitbake_version), names.join(" "));
    environment
}

/// The variables for server access of a job that reads a share in a bucket: no proxy is asked for the agent's own
/// server. Both spellings, because wget knows only the one in lower case. BitBake's configuration hash ignores them
/// (`BB_HASHCONFIG_IGNORE_VARS`, dunfell to master).
pub fn with_direct_loopback(network: &[(String, String)]) -> Vec<(String, String)> {
    const NAMES: [&str; 2] = ["no_proxy", "NO_PROXY"];
    let value = |name: &str| network.iter().find(|(given, _)| given == name).map(|(_, value)| value.as_str());
    // An empty element would match every host in wget.
    let given = NAMES.iter().find_map(|name| value(name)).unwrap_or_default();
    let hosts = given.split(',').map(str::trim).filter(|host| !host.is_empty() && *host != LOOPBACK);
    let mut hosts: Vec<&str> = hosts.collect();
    // Python understands "all hosts" only if nothing else is there.
    if hosts != ["*"] {
        hosts.push(LOOPBACK);
    }
    let others = network.iter().filter(|(name, _)| !NAMES.contains(&name.as_str())).cloned();
    others.chain(NAMES.map(|name| (name.to_owned(), hosts.join(",")))).collect()
}

/// Finds `__version__` in the text of `lib/bb/__init__.py`.
pub fn bitbake_version(init_py: &str) -> Option<&str> {
    let assignment = init_py.lines().find_map(|line| line.strip_prefix("__version__"))?;
    let value = assignment.trim_start().strip_prefix('=')?.trim();
    let version = value.trim_matches(['"', '\'']);
    (!version.is_empty() && version.len() < value.len()).then_some(version)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_is_asked_for_the_loopback_address() {
        let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        for (given, wanted) in [
            (vec![], "127.0.0.1"),
            (vec![("no_proxy", "")], "127.0.0.1"),
            (vec![("no_proxy", "a.example,127.0.0.1,, b.example ,")], "a.example,b.example,127.0.0.1"),
            (vec![("NO_PROXY", "c")], "c,127.0.0.1"),
            (vec![("NO_PROXY", "c"), ("no_proxy", "d")], "d,127.0.0.1"),
            (vec![("no_proxy", "*")], "*"),
        ] {
            let all = [vec![("http_proxy", "http://p:3128")], given].concat();
            let wanted = [("http_proxy", "http://p:3128"), ("no_proxy", wanted), ("NO_PROXY", wanted)];
            assert_eq!(with_direct_loopback(&pairs(&all)), pairs(&wanted), "{all:?}");
        }
    }

    fn environment(version: &str) -> Environment {
        let tools = Tools {
            bitbake: "/r/poky/bitbake".into(),
            bitbake_version: version.into(),
            oe_core: "/r/poky".into(),
            host: HostTools::default(),
        };
        let user = User { name: "builder".into(), uid: 1000, gid: 1000, home: "/home/builder".into() };
        let git = [("GIT_CONFIG_COUNT".into(), "0".into())];
        bitbake_environment(&tools, Path::new("/w/build"), &user, &[], &git, &[])
    }

    #[test]
    fn passthrough_variable_has_the_name_of_this_bitbake() {
        for (version, known, unknown) in [
            ("1.46.0", "BB_ENV_EXTRAWHITE", "BB_ENV_PASSTHROUGH_ADDITIONS"),
            ("2.8.1", "BB_ENV_PASSTHROUGH_ADDITIONS", "BB_ENV_EXTRAWHITE"),
            ("2.19.0", "BB_ENV_PASSTHROUGH_ADDITIONS", "BB_ENV_EXTRAWHITE"),
        ] {
            let environment = environment(version);
            let list = environment.get(known).unwrap().to_str().unwrap();
            assert!(list.starts_with("MACHINE ") && list.ends_with(" GIT_CONFIG_COUNT"), "{version}: {list}");
            assert_eq!(environment.get(unknown), None, "{version}");
        }
    }

    #[test]
    fn has_only_listed_variables() {
        let environment = environment("2.8.1");
        let names: Vec<_> = environment.iter().map(|(name, _)| name.to_str().unwrap()).collect();
        let wanted = [
            "BBPATH",
            "BB_ENV_PASSTHROUGH_ADDITIONS",
            "BUILDDIR",
            "GIT_CONFIG_COUNT",
            "HOME",
            "LANG",
            "LC_ALL",
            "LOGNAME",
            "PATH",
            "PYTHONPATH",
            "SHELL",
            "TERM",
            "USER",
        ];
        assert_eq!(names, wanted);
        assert_eq!(environment.get("HOME").unwrap(), "/home/builder");
    }

    #[test]
    fn buildtools_come_after_the_tools_of_the_job_and_below_its_own_variables() {
        let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        };
        let tools = Tools {
            bitbake: "/r/bitbake".into(),
            bitbake_version: "2.8.1".into(),
            oe_core: "/r/core".into(),
            host: HostTools {
                path: "/t/usr/bin:/usr/bin".into(),
                variables: pairs(&[("OPENSSL_CONF", "/t/openssl.cnf"), ("OWN", "theirs"), ("BBPATH", "/t")]),
                passthrough: vec!["OPENSSL_CONF".into(), "http_proxy".into()],
            },
        };
        let user = User { name: "builder".into(), uid: 1000, gid: 1000, home: "/home/builder".into() };
        let environment =
            bitbake_environment(&tools, Path::new("/w/build"), &user, &[], &[], &pairs(&[("OWN", "ours")]));
        for (name, wanted) in [
            ("PATH", "/r/core/scripts:/r/bitbake/bin:/t/usr/bin:/usr/bin"),
            ("OPENSSL_CONF", "/t/openssl.cnf"),
            ("OWN", "ours"),
            ("BBPATH", "/w/build"),
        ] {
            assert_eq!(environment.get(name).unwrap(), wanted, "{name}");
        }
        let list = environment.get("BB_ENV_PASSTHROUGH_ADDITIONS").unwrap().to_str().unwrap();
        assert!(list.ends_with(" BB_LOGCONFIG OPENSSL_CONF OWN"), "{list}");
    }

    #[test]
    fn parses_the_version_of_bitbake() {
        for (text, wanted) in [
            ("# x\n\n__version__ = \"2.8.1\"\n", Some("2.8.1")),
            ("__version__ = '1.46.0'", Some("1.46.0")),
            ("__version__ = version()", None),
            ("__version__ = \"\"", None),
            ("import sys\n", None),
        ] {
            assert_eq!(bitbake_version(text), wanted, "{text}");
        }
    }
}
