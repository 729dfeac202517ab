//! URLs in the manifest: of git repositories and of the artifact destination.

use std::path::Path;

use url::Url;

use super::problem::Diagnostic;
use super::repo_notation::{self, SCHEMES};
use super::settings::Destination;
use super::values;

type Result<T> = std::result::Result<T, Diagnostic>;

/// Parses the URL of a git repository. Allows only schemes that fetch, because git's `ext::` runs commands.
pub fn git(text: &str) -> Result<Url> {
    if text.is_empty() {
        return Err(Diagnostic::new("is empty"));
    }
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(Diagnostic::new("contains a space or a control character"));
    }
    if let Some(mistake) = repo_notation::foreign(text) {
        return Err(mistake);
    }
    let url = match Url::parse(text) {
        Ok(url) => url,
        Err(url::ParseError::RelativeUrlWithoutBase) => {
            return Err(Diagnostic::new(format!("`{text}` is not a URL")).hint(
                "write it with its scheme, such as https://git.yoctoproject.org/poky; use `path` for a local directory",
            ));
        }
        // The text may contain a password, so the message does not repeat it.
        Err(error) => return Err(Diagnostic::new(format!("is not a URL: {error}"))),
    };
    if !SCHEMES.contains(&url.scheme()) {
        return Err(Diagnostic::new(format!("`{}:` is not a scheme for a git repository", url.scheme()))
            .hint(format!("known schemes: {}; for ssh write ssh://user@host/path", SCHEMES.join(", "))));
    }
    let host = url.host_str().unwrap_or_default();
    if url.scheme() != "file" && host.is_empty() {
        return Err(Diagnostic::new("names no host"));
    }
    // ssh would interpret these as options.
    if host.starts_with('-') || url.username().starts_with('-') || url.path().starts_with("/-") {
        return Err(Diagnostic::new("has a part that starts with `-`"));
    }
    if url.path().trim_matches('/').is_empty() {
        return Err(Diagnostic::new("names no repository on the host"));
    }
    Ok(url)
}

/// The address of a web page that people open, without a slash at its end.
pub fn web_page(text: &str) -> Result<String> {
    let hint = "write an https address, such as https://reports.example.org";
    let url = Url::parse(text)
        .ok()
        .filter(|url| ["https", "http"].contains(&url.scheme()) && url.host_str().is_some())
        .ok_or_else(|| Diagnostic::new("is not the address of a web page").hint(hint))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Diagnostic::new("contains a user or a password, which the reports would show").hint(hint));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(
            Diagnostic::new("has a part after `?` or `#`, so nothing can be appended to it").hint(hint)
        );
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// Parses `s3://bucket/prefix`, or a directory relative to `base`.
pub fn destination(text: &str, base: &Path) -> Result<Destination> {
    if text.is_empty() {
        return Err(Diagnostic::new("is empty").hint("write s3://bucket/prefix or a directory"));
    }
    if let Some(place) = text.strip_prefix("s3://") {
        return s3(place);
    }
    if let Some(path) = text.strip_prefix("file://") {
        return Err(Diagnostic::new(format!("`{text}` is not a destination"))
            .hint(format!("write the directory without a scheme: `{path}`")));
    }
    if text.contains("://") || text.starts_with("s3:") {
        return Err(Diagnostic::new(format!("`{text}` is not a destination"))
            .hint("write s3://bucket/prefix or a directory"));
    }
    local(text, base).map(Destination::Directory)
}

fn s3(place: &str) -> Result<Destination> {
    let (bucket, prefix) = place.split_once('/').unwrap_or((place, ""));
    // https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '.' || c == '-';
    let ends = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if !(3..=63).contains(&bucket.len())
        || !bucket.chars().all(good)
        || !bucket.starts_with(ends)
        || !bucket.ends_with(ends)
        || bucket.contains("..")
    {
        return Err(Diagnostic::new(format!("`{bucket}` is not a valid name of an S3 bucket"))
            .hint("use 3 to 63 lower-case letters, digits, `-` and `.`"));
    }
    let prefix = prefix.trim_matches('/');
    let bad = |part: &str| part.is_empty() || part == "." || part == "..";
    if !prefix.is_empty() && prefix.split('/').any(bad) || prefix.contains(char::is_control) {
        return Err(Diagnostic::new(format!("`{prefix}` is not a valid key prefix"))
            .hint("use parts separated by a single `/`"));
    }
    Ok(Destination::S3 { bucket: bucket.into(), prefix: prefix.into() })
}

/// A local directory, made absolute.
pub fn local(text: &str, base: &Path) -> Result<std::path::PathBuf> {
    if text.is_empty() {
        return Err(Diagnostic::new("is empty"));
    }
    if text == "~" || text.starts_with("~/") || text.contains('$') {
        return Err(Diagnostic::new(format!("`{text}` would need a shell"))
            .hint("write the full path: ~ and $ are not expanded"));
    }
    Ok(values::normal(&base.join(text)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn parses_git_urls() {
        let good = [
            "https://git.yoctoproject.org/poky",
            "https://user:pass@host/x.git",
            "ssh://git@github.com/a/b.git",
            "git://git.openembedded.org/bitbake",
            "file:///srv/git/poky.git",
            "http://10.0.0.1:8080/x",
            "ssh://[::1]/a/b",
            "ssh://git@[fe80::1]:2222/a/b",
        ];
        for text in good {
            assert!(git(text).is_ok(), "{text}: {:?}", git(text));
        }
        let bad = [
            ("", "empty"),
            ("poky", "not a URL"),
            ("../poky", "not a URL"),
            ("/srv/git/poky", "not a URL"),
            ("https://", "not a URL"),
            ("https://host", "no repository"),
            ("https://host/", "no repository"),
            ("https://ho st/x", "space"),
            ("https://host:port/x", "mixture"),
            ("ftp://host/x", "not a scheme"),
            ("ext::sh -c x", "space"),
            ("ext::sh", "not a scheme"),
            ("s3://bucket/x", "not a scheme"),
            ("ssh://-oProxyCommand=x/y", "`-`"),
            ("ssh://-x@host/y", "`-`"),
        ];
        for (text, wanted) in bad {
            let mistake = git(text).unwrap_err();
            assert!(mistake.message.contains(wanted), "{text}: {mistake:?}");
        }
        let mistake = git("git@github.com:a/b.git").unwrap_err();
        assert_eq!(mistake.hint.unwrap(), "write `ssh://git@github.com/a/b.git`");
    }

    #[test]
    fn messages_never_repeat_a_password() {
        for text in
            ["https://user:hunter22@host:port/x", "https://user:hunter22@host", "https://u:hunter22@ho st/x"]
        {
            assert!(!format!("{:?}", git(text).unwrap_err()).contains("hunter22"), "{text}");
        }
    }

    #[test]
    fn parses_destinations() {
        let base = Path::new("/base");
        let s3 =
            |bucket: &str, prefix: &str| Destination::S3 { bucket: bucket.into(), prefix: prefix.into() };
        let good = [
            ("s3://my-bucket/builds", s3("my-bucket", "builds")),
            ("s3://my-bucket", s3("my-bucket", "")),
            ("s3://my.bucket/a/b/", s3("my.bucket", "a/b")),
            ("out", Destination::Directory("/base/out".into())),
            ("../out", Destination::Directory("/out".into())),
            ("/srv/out", Destination::Directory("/srv/out".into())),
        ];
        for (text, wanted) in good {
            assert_eq!(destination(text, base).unwrap(), wanted, "{text}");
        }
        let bad = [
            "",
            "s3://",
            "s3://B",
            "s3://ab",
            "s3://bucket/a//b",
            "s3://bucket/../x",
            "s3:bucket",
            "https://x/y",
            "~/out",
            "$HOME/x",
        ];
        for text in bad {
            assert!(destination(text, base).is_err(), "{text}");
        }
        assert_eq!(
            destination("file:///srv/x", base).unwrap_err().hint.unwrap(),
            "write the directory without a scheme: `/srv/x`"
        );
    }
}
