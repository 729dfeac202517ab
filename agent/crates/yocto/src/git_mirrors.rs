//! The mirrors of a site for BitBake's fetchers: lines of `PREMIRRORS`.
//!
//! Confirmed in `uri_replace` and `decodeurl` of `bitbake/lib/bb/fetch2/__init__.py`, dunfell to master: each part of a
//! pattern is a regular expression that must match the start of the same part of an address; the replacement may name its
//! groups; its parameters replace those of the address. If a mirror fails, BitBake asks the address itself.

use std::fmt::Write;

use url::Url;

use agent_types::release::Release;

/// The lines for `local.conf`; empty without mirrors. Each pair: addresses that begin with the first, begin with the second.
pub fn render(mirrors: &[(Url, Url)], release: &Release) -> String {
    let mut lines = String::new();
    let mut sorted: Vec<_> = mirrors.iter().collect();
    // The first line that fits is tried first.
    sorted.sort_by_key(|(from, _)| std::cmp::Reverse(from.as_str().len()));
    for (from, to) in sorted {
        let pattern = format!("{}{}(.*)", host_pattern(from), escaped(from.path()));
        let place = format!("{}{}\\1", user_and_host(to), to.path());
        for scheme in ["git", "gitsm"] {
            // Writing into a String cannot fail.
            let _ =
                writeln!(lines, "    {scheme}://{pattern} {scheme}://{place};protocol={} \\", to.scheme());
        }
        if [from, to].iter().all(|url| matches!(url.scheme(), "http" | "https")) {
            let _ = writeln!(lines, "    https?://{pattern} {}://{place} \\", to.scheme());
        }
    }
    match lines.is_empty() {
        true => lines,
        false => format!(
            "\n# The mirrors of this site. Without a network, a mirror by http makes a fetch fail.\n\
             BUILD_AGENT_GIT_MIRRORS = \"\\\n{lines}\"\n\
             PREMIRRORS{}prepend = \"${{@'' if bb.utils.to_boolean(d.getVar('BB_NO_NETWORK')) else \
             d.getVar('BUILD_AGENT_GIT_MIRRORS')}} \"\n",
            release.overrides.separator()
        ),
    }
}

fn host_pattern(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    // The expression need not match the whole host otherwise.
    url.host_str().map(|host| format!("{}{port}$", escaped(host))).unwrap_or_default()
}

fn user_and_host(url: &Url) -> String {
    let user = Some(url.username()).filter(|user| !user.is_empty()).map(|user| format!("{user}@"));
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}{}{port}", user.unwrap_or_default(), url.host_str().unwrap_or_default())
}

/// A text as a regular expression. It must have no backslash before a quote, and a URL has no quotes.
fn escaped(text: &str) -> String {
    let special = |c: char| ".+*?()[]{}|^$".contains(c);
    text.chars().flat_map(|c| special(c).then_some('\\').into_iter().chain([c])).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn addresses_begin_with_the_mirror_the_longest_prefix_first() {
        let url = |text: &str| Url::parse(text).unwrap();
        let mirrors = [
            (url("https://github.com/"), url("https://m.example:8443/gh/")),
            (url("https://github.com/my.group/"), url("file:///srv/git/")),
            (url("ssh://git@h.example:29418/"), url("ssh://me@m.example/x/")),
        ];
        let text = render(&mirrors, Release::find("scarthgap").unwrap());
        assert_eq!(
            text,
            "\n# The mirrors of this site. Without a network, a mirror by http makes a fetch fail.\n\
             BUILD_AGENT_GIT_MIRRORS = \"\\\n\
             \x20   git://github\\.com$/my\\.group/(.*) git:///srv/git/\\1;protocol=file \\\n\
             \x20   gitsm://github\\.com$/my\\.group/(.*) gitsm:///srv/git/\\1;protocol=file \\\n\
             \x20   git://h\\.example:29418$/(.*) git://me@m.example/x/\\1;protocol=ssh \\\n\
             \x20   gitsm://h\\.example:29418$/(.*) gitsm://me@m.example/x/\\1;protocol=ssh \\\n\
             \x20   git://github\\.com$/(.*) git://m.example:8443/gh/\\1;protocol=https \\\n\
             \x20   gitsm://github\\.com$/(.*) gitsm://m.example:8443/gh/\\1;protocol=https \\\n\
             \x20   https?://github\\.com$/(.*) https://m.example:8443/gh/\\1 \\\n\"\n\
             PREMIRRORS:prepend = \"${@'' if bb.utils.to_boolean(d.getVar('BB_NO_NETWORK')) else \
             d.getVar('BUILD_AGENT_GIT_MIRRORS')} \"\n"
        );
        assert_eq!(render(&[], Release::find("dunfell").unwrap()), "");
    }
}
