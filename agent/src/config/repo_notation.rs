//! Recognizes git URLs in the notation of other tools, so that the error can name the correct form: BitBake's
//! `;branch=`, pip's `git+https`, Terraform's `git::`, a `#fragment`, git's short form of ssh URLs, and pages
//! of web servers.

use std::net::Ipv6Addr;

use url::Url;

use super::problem::Diagnostic;

/// The protocols that git and the manifest support.
pub(super) const SCHEMES: [&str; 5] = ["https", "http", "ssh", "git", "file"];

/// The meaning of the notation in terms of the manifest.
#[derive(Debug, Default)]
struct Parts {
    /// The URL alone.
    address: String,
    /// `branch`, `tag` or `commit`, and its value.
    wanted: Vec<(&'static str, String)>,
    /// The name of the notation; empty, if none was recognized.
    notations: Vec<String>,
    /// A remark after the correct form.
    remark: Option<String>,
}

/// The diagnostic with the correct form, if the text is in another notation.
pub fn foreign(text: &str) -> Option<Diagnostic> {
    if holds_password_without_scheme(text) {
        return Some(
            Diagnostic::new("is not a URL, and contains a password")
                .hint("write ssh://user@host/path: ssh ignores a password in a URL"),
        );
    }
    let mut parts = Parts { address: text.to_owned(), ..Parts::default() };
    parts.prefix();
    parts.fragment();
    parts.parameters();
    parts.at_revision(text);
    parts.short_form();
    parts.query();
    parts.authority();
    parts.web_page();
    parts.into_mistake(text)
}

impl Parts {
    fn found(&mut self, notation: impl Into<String>) {
        self.notations.push(notation.into());
    }

    /// `git::https://`, `git+https://`, `gitsm://`, `github:owner/name`.
    fn prefix(&mut self) {
        if let Some(rest) = self.address.strip_prefix("git::") {
            self.address = rest.to_owned();
            self.found("Terraform's notation `git::`");
        }
        if let Some((scheme, rest)) = self.address.split_once("://") {
            let scheme = scheme.to_ascii_lowercase();
            if scheme == "gitsm" {
                self.address = format!("git://{rest}");
                self.found("BitBake's scheme `gitsm`");
                self.remark = Some("add the submodules' content as separate repos".into());
            } else if let Some((one, other)) = scheme.split_once('+') {
                let real = if one == "git" { other } else { one };
                if SCHEMES.contains(&real) {
                    self.address = format!("{real}://{rest}");
                    self.found(format!("the scheme `{scheme}` of other tools"));
                }
            }
        }
        for (short, host) in
            [("github", "github.com"), ("gitlab", "gitlab.com"), ("bitbucket", "bitbucket.org")]
        {
            if let Some(path) = self.address.strip_prefix(short).and_then(|rest| rest.strip_prefix(':'))
                && path.contains('/')
                && !path.starts_with('/')
            {
                self.address = format!("https://{host}/{path}");
                self.found(format!("the abbreviation `{short}:`"));
            }
        }
    }

    fn fragment(&mut self) {
        let Some((address, fragment)) = self.address.split_once('#') else { return };
        let (address, fragment) = (address.to_owned(), fragment.to_owned());
        self.address = address;
        self.found("a URL with a `#` part, which git does not support");
        let pairs: Vec<_> = fragment.split('&').filter_map(|pair| pair.split_once('=')).collect();
        if pairs.is_empty() {
            // docker's `#branch:directory`
            self.revision(fragment.split(':').next().unwrap_or_default());
        }
        for (key, value) in pairs {
            self.keyed(key, value);
        }
    }

    /// BitBake's `;protocol=https;branch=x`.
    fn parameters(&mut self) {
        let Some((address, parameters)) = self.address.split_once(';') else { return };
        let pairs: Vec<(String, String)> = parameters
            .split(';')
            .filter_map(|pair| pair.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        if pairs.is_empty() {
            return;
        }
        self.address = address.to_owned();
        self.found("BitBake's notation with `;`");
        for (key, value) in pairs {
            match key.as_str() {
                "protocol" => self.protocol(&value),
                _ => self.keyed(&key, &value),
            }
        }
    }

    fn protocol(&mut self, protocol: &str) {
        let protocol = protocol.to_ascii_lowercase();
        if let Some((_, rest)) = self.address.split_once("://")
            && SCHEMES.contains(&protocol.as_str())
        {
            self.address = format!("{protocol}://{rest}");
        }
    }

    /// pip's `git+https://host/path@revision`.
    fn at_revision(&mut self, text: &str) {
        let is_pip = text.split_once("://").is_some_and(|(scheme, _)| scheme.contains('+'));
        let path = self.address.split_once("://").and_then(|(_, rest)| rest.split_once('/'));
        let revision =
            path.and_then(|(_, path)| path.rsplit_once('@')).map(|(_, revision)| revision.to_owned());
        if let Some(revision) = revision.filter(|_| is_pip) {
            self.address.truncate(self.address.len() - revision.len() - 1);
            self.revision(&revision);
        }
    }

    /// `[user@]host:path`, as git takes it for ssh (git-fetch(1)).
    fn short_form(&mut self) {
        let Some((place, path)) = short_form(&self.address) else { return };
        let port = path.split_once('/').map(|(first, _)| first).filter(|first| first.parse::<u16>().is_ok());
        if let Some(port) = port {
            let rest = &path[port.len() + 1..];
            self.remark = Some(format!("or `ssh://{place}:{port}/{rest}`, if {port} is the port"));
        }
        self.address = format!("ssh://{place}/{}", path.trim_start_matches('/'));
        self.found("the short form of an ssh URL");
    }

    /// `?ref=x` of Terraform, `?h=x` of cgit. Other queries belong to the server.
    fn query(&mut self) {
        let Some((address, query)) = self.address.split_once('?') else { return };
        let known = ["ref", "branch", "tag", "commit", "rev", "h", "id"];
        let pair =
            query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| known.contains(key));
        let Some((key, value)) = pair.map(|(key, value)| (key.to_owned(), value.to_owned())) else { return };
        self.address = address.to_owned();
        self.found(format!("a URL with `?{key}=`"));
        self.keyed(&key, &value);
    }

    /// `ssh://host:path`, `ssh://::1/path`, `ssh://[user@host:22]/path`: the part before the path is invalid.
    fn authority(&mut self) {
        let Some((scheme, rest)) = self.address.split_once("://") else { return };
        if scheme == "file" || Url::parse(&self.address).is_ok() {
            return;
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (format!("{user}@"), host),
            None => (String::new(), authority),
        };
        let (repaired, notation) = if host.parse::<Ipv6Addr>().is_ok() {
            (format!("{scheme}://{user}[{host}]/{path}"), "an IPv6 address without its brackets")
        } else if authority.contains('[') {
            let plain = authority.replace(['[', ']'], "");
            (format!("{scheme}://{plain}/{path}"), "a host in brackets, which are for IPv6 addresses")
        } else if let Some((host, first)) = host.split_once(':') {
            (format!("{scheme}://{user}{host}/{first}/{path}"), "a mixture of a URL and its short form")
        } else {
            return;
        };
        let repaired = repaired.trim_end_matches('/').to_owned();
        if Url::parse(&repaired).is_ok() {
            self.address = repaired;
            self.found(notation);
        }
    }

    /// The page of a branch or a commit: `/tree/x`, `/-/tree/x`, `/commit/x`.
    fn web_page(&mut self) {
        if !self.address.starts_with("http") {
            return;
        }
        for page in ["/-/tree/", "/-/commit/", "/-/blob/", "/tree/", "/commit/", "/blob/"] {
            let Some((address, rest)) = self.address.split_once(page) else { continue };
            // `https://host/tree/x` may be a repository.
            let owner_and_name = address.split_once("://").map_or(0, |(_, place)| place.matches('/').count());
            if owner_and_name < 2 || rest.is_empty() {
                continue;
            }
            let (address, rest) = (address.to_owned(), rest.trim_end_matches('/').to_owned());
            self.address = address;
            self.found("the page of a web server, not a repository");
            let revision =
                if page.contains("blob") { rest.split('/').next().unwrap_or_default() } else { &rest };
            self.revision(revision);
            return;
        }
    }

    fn keyed(&mut self, key: &str, value: &str) {
        let key = key.to_ascii_lowercase();
        match key.as_str() {
            "branch" => self.want("branch", value),
            "tag" => self.want("tag", value),
            "rev" | "srcrev" | "commit" | "id" | "ref" | "h" => self.revision(value),
            "subpath" | "subdirectory" => {
                self.remark = Some(format!("and layers = [{:?}] for the directory", printable(value)));
            }
            _ => {}
        }
    }

    /// A branch, a tag or a commit; only a commit can be recognized.
    fn revision(&mut self, text: &str) {
        let is_commit = text.len() == 40 && text.bytes().all(|b| b.is_ascii_hexdigit());
        self.want(if is_commit { "commit" } else { "branch" }, text);
        if !is_commit && !text.is_empty() {
            self.remark = Some(format!("or tag = {:?}, if it is a tag", printable(text)));
        }
    }

    fn want(&mut self, key: &'static str, value: &str) {
        if !value.is_empty() && !self.wanted.iter().any(|(other, _)| *other == key) {
            self.wanted.push((key, value.to_owned()));
        }
    }

    fn into_mistake(self, text: &str) -> Option<Diagnostic> {
        if self.notations.is_empty() {
            return None;
        }
        let what = self.notations.join(" and ");
        let mistake = Diagnostic::new(match public(text) {
            Some(text) => format!("`{text}` is {what}"),
            None => format!("is {what}"),
        });
        let address = match Url::parse(&self.address) {
            Ok(url) => without_credentials(url),
            Err(_) => {
                return Some(mistake.hint("write it as scheme://host/path, and `branch` as a separate key"));
            }
        };
        let mut hint = if self.wanted.is_empty() {
            format!("write `{address}`")
        } else {
            let keys: Vec<String> =
                self.wanted.iter().map(|(key, value)| format!("{key} = {:?}", printable(value))).collect();
            format!("write url = {address:?} and {}", keys.join(" and "))
        };
        if let Some(remark) = self.remark {
            hint = format!("{hint} ({remark})");
        }
        Some(mistake.hint(hint))
    }
}

/// Host (`user@host`, `[::1]`, `host:port`) and path of git's short form.
fn short_form(text: &str) -> Option<(String, String)> {
    if text.contains("://") {
        return None;
    }
    let (user, rest) = match text.split_once('@') {
        // `[user@host:port]:path`
        Some((user, rest)) if user.starts_with('[') && rest.contains(']') => {
            (format!("{}@", &user[1..]), format!("[{rest}"))
        }
        Some((user, rest)) if !user.contains(['/', ':', '[']) => (format!("{user}@"), rest.to_owned()),
        _ => (String::new(), text.to_owned()),
    };
    let (host, path) = if let Some(inner) = rest.strip_prefix('[') {
        let (inner, path) = inner.split_once(']')?;
        let host = if inner.parse::<Ipv6Addr>().is_ok() { format!("[{inner}]") } else { inner.to_owned() };
        (host, path.strip_prefix(':')?.to_owned())
    } else {
        let ipv6 = rest.rsplit_once(':').filter(|(host, _)| host.parse::<Ipv6Addr>().is_ok());
        match ipv6 {
            Some((host, path)) => (format!("[{host}]"), path.to_owned()),
            None => {
                let (host, path) = rest.split_once(':')?;
                // Without a user it may be an unknown scheme.
                let is_host = !user.is_empty() || host.contains('.') || host == "localhost";
                if !is_host || host.contains('/') {
                    return None;
                }
                (host.to_owned(), path.to_owned())
            }
        }
    };
    let fits = !host.is_empty() && !path.trim_matches('/').is_empty() && !path.starts_with("//");
    fits.then(|| (format!("{user}{host}"), path))
}

/// `user:password@host:path`.
fn holds_password_without_scheme(text: &str) -> bool {
    let before = text.split('/').next().unwrap_or_default();
    let user = before.rsplit_once('@').map(|(user, _)| user);
    !text.contains("://") && user.is_some_and(|user| user.contains(':') && !user.starts_with('['))
}

/// The text for display: `None`, if it contains a password or a token.
fn public(text: &str) -> Option<&str> {
    let authority = text.split_once("://").map_or(text, |(_, rest)| rest).split(['/', '#', ';']).next()?;
    let user = authority.rsplit_once('@').map(|(user, _)| user);
    let is_ssh = text.contains("ssh:") || !text.contains("://");
    let hides = user.is_some_and(|user| user.contains(':') || !is_ssh);
    (!hides && !text.contains('?')).then_some(text)
}

/// The URL without credentials; the user of an ssh URL is not secret.
fn without_credentials(mut url: Url) -> String {
    // This fails only for URLs without a host.
    let _ = url.set_password(None);
    if matches!(url.scheme(), "http" | "https") {
        let _ = url.set_username("");
    }
    url.set_query(None);
    url.to_string()
}

fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

#[cfg(test)]
#[path = "repo_notation_tests.rs"]
mod tests;
