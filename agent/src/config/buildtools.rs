//! `[buildtools]`: an installer of host tools, pinned by its checksum.

use url::Url;

use super::manifest::UnvalidatedManifest;
use super::problem::{Diagnostic, KeyPath};
use super::settings::Buildtools;
use super::validator::Validator;

type Result<T> = std::result::Result<T, Diagnostic>;

/// The buildtools, if there are any and they are used.
pub fn validate(check: &mut Validator, raw: &UnvalidatedManifest) -> Option<Buildtools> {
    let raw = raw.buildtools.as_ref()?;
    let path = KeyPath::root().key("buildtools");
    let url = check.one(&path.key("url"), raw.url.as_ref(), address);
    let sha256 = check.one(&path.key("sha256"), raw.sha256.as_ref(), checksum);
    let (url, sha256) = (url?, sha256?);
    raw.enabled.unwrap_or(true).then_some(Buildtools { url, sha256 })
}

fn address(text: &str) -> Result<Url> {
    let hint = "write the address of the installer, such as \
                https://downloads.yoctoproject.org/releases/yocto/yocto-5.0/buildtools/NAME.sh";
    let url = Url::parse(text).ok().filter(|url| url.host_str().is_some() && url.path().len() > 1);
    // The text may contain a password, so no message repeats it.
    let url = url.ok_or_else(|| Diagnostic::new("is not the address of a file").hint(hint))?;
    if !["https", "http"].contains(&url.scheme()) {
        return Err(Diagnostic::new(format!("`{}:` is neither https nor http", url.scheme())).hint(hint));
    }
    if !url.username().is_empty() || url.password().is_some() {
        let mistake = Diagnostic::new("contains a user or a password");
        return Err(mistake.hint("use an address that needs no credentials"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        let mistake = Diagnostic::new("has a part after `?` or `#`");
        return Err(mistake.hint("use an address without it: reports show the address"));
    }
    Ok(url)
}

fn checksum(text: &str) -> Result<String> {
    let digest = text.trim().to_ascii_lowercase();
    let is_sha256 = digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_sha256.then_some(digest).ok_or_else(|| {
        Diagnostic::new("is not a SHA-256: 64 hexadecimal digits").hint("`sha256sum INSTALLER` prints it")
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::values::tests::accepts;

    #[test]
    fn installers_have_an_address_and_a_checksum() {
        accepts(
            address,
            &["https://x.example/a/y.sh", "http://127.0.0.1:8080/y.sh"],
            &[
                "",
                "y.sh",
                "/y.sh",
                "file:///y.sh",
                "ftp://x.example/y",
                "https://u:p@x.example/y",
                "https://x.example/y?v=1",
                "https://x",
            ],
        );
        let good = "a1".repeat(32);
        accepts(checksum, &[&good, &good.to_uppercase()], &["", "a1", &"g1".repeat(32), &"a1".repeat(33)]);
        assert!(!address("https://u:hunter2@x.example/y").unwrap_err().message.contains("hunter2"));
    }
}
