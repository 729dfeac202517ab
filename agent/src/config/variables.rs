//! Lookup of environment variables.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

/// The environment's variables. An empty variable counts as absent. Only paths may contain bytes that are not
/// text.
pub(super) struct Variables(BTreeMap<String, OsString>);

impl Variables {
    pub fn new(variables: BTreeMap<String, OsString>) -> Variables {
        Variables(variables)
    }

    pub fn text(&self, name: &str) -> Option<String> {
        self.0.get(name).filter(|value| !value.is_empty()).map(|value| value.to_string_lossy().into_owned())
    }

    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.0.get(name).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    /// All variables that are not empty; invalid text is decoded lossily.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Cow<'_, str>)> {
        self.0
            .iter()
            .map(|(name, value)| (name.as_str(), value.to_string_lossy()))
            .filter(|(_, value)| !value.is_empty())
    }

    /// Paths in variables with this prefix, by the rest of the name.
    pub fn paths_of(&self, prefix: &str) -> BTreeMap<String, PathBuf> {
        let filled = self.0.iter().filter(|(_, value)| !value.is_empty());
        filled
            .filter_map(|(name, value)| Some((name.strip_prefix(prefix)?.to_owned(), value.into())))
            .collect()
    }

    /// Proxies and certificates, for programs that access the network.
    pub fn network(&self) -> BTreeMap<String, String> {
        const PROXIES: [&str; 5] = ["http_proxy", "https_proxy", "ftp_proxy", "all_proxy", "no_proxy"];
        const CERTIFICATES: [&str; 4] = ["GIT_SSL_CAINFO", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR"];
        let wanted = |name: &str| {
            PROXIES.contains(&name.to_ascii_lowercase().as_str()) || CERTIFICATES.contains(&name)
        };
        self.iter()
            .filter(|(name, _)| wanted(name))
            .map(|(name, value)| (name.into(), value.into_owned()))
            .collect()
    }
}

/// Reads variables with values of known types.
pub(super) struct Typed<'a> {
    pub variables: &'a Variables,
    pub notices: &'a mut Vec<String>,
    /// The service that sets the variables.
    pub service: &'static str,
}

impl Typed<'_> {
    /// Ignores a variable with an unexpected value, and reports it.
    pub fn read<T>(&mut self, name: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let text = self.variables.text(name)?;
        let value = parse(&text);
        if value.is_none() {
            self.notices.push(format!(
                "the variable {name} is ignored: {text:?} is not a value that {} documents",
                self.service
            ));
        }
        value
    }
}
