//! How BitBake is told to look into a share: `SSTATE_MIRRORS` and `PREMIRRORS`, from the tiers that a
//! build reads.
//!
//! Confirmed in `mirror_from_string`, `uri_replace` and `build_mirroruris` of
//! `bitbake/lib/bb/fetch2/__init__.py` and `own-mirrors.bbclass` of OE-Core, dunfell to master:
//! - a list of mirrors is read as pairs of words; the literal `\n` of older texts counts as a blank;
//! - `PATH` is the object's path below `SSTATE_DIR`; a `file://` mirror needs no `downloadfilename`,
//!   because BitBake links to the object from its own place of that path;
//! - of a download the mirror holds what `DL_DIR` holds, by its name alone: archives, and mirror tarballs
//!   of repositories.

use std::fmt::Write;

use agent_types::error::{Error, Result};
use agent_types::tiers::Tiers;

use super::path::plain_path;
use agent_types::release::Release;

/// All schemes of `own-mirrors.bbclass` of any release; a scheme that a release does not know matches
/// nothing there. The npm pattern differs: its addresses may have no path.
const PREMIRROR_PATTERNS: [&str; 2] =
    ["(cvs|svn|git|gitsm|hg|bzr|p4|osc|https?|ftp|s3|crate|gs)://.*/.*", "npm://.*/?.*"];

/// The lines for `local.conf`; empty, if no tier is read. They come before the mirrors of the manifest and
/// the distro, which still work.
///
/// # Errors
/// If a path has characters that a list of mirrors does not support.
pub fn render(tiers: &Tiers, release: &Release) -> Result<String> {
    if tiers.read.is_empty() {
        return Ok(String::new());
    }
    let separator = release.overrides.separator();
    let mut sstate = String::new();
    let mut downloads = String::new();
    for tier in &tiers.read {
        let directory = mirror_path(&tier.share.sstate(release.name))?;
        let _ = writeln!(sstate, "    file://.* file://{directory}/PATH \\");
        let directory = mirror_path(&tier.share.downloads())?;
        for pattern in PREMIRROR_PATTERNS {
            let _ = writeln!(downloads, "    {pattern} file://{directory}/ \\");
        }
    }
    let mut text = format!(
        "\n# The share is read as a mirror; what is new stays local until it is published.\n\
         SSTATE_MIRRORS{separator}prepend = \"\\\n{sstate}\"\n\
         PREMIRRORS{separator}prepend = \"\\\n{downloads}\"\n"
    );
    if tiers.write.is_some() {
        text.push_str(
            "# Repositories can be published as tarballs only.\nBB_GENERATE_MIRROR_TARBALLS = \"1\"\n",
        );
    }
    Ok(text)
}

/// The path as text, if neither the configuration nor a URL changes its meaning.
fn mirror_path(path: &std::path::Path) -> Result<String> {
    let text = plain_path(path)?;
    match text.chars().find(|c| !c.is_ascii_alphanumeric() && !"/._-".contains(*c)) {
        Some(c) => Err(Error::usage(format!("BitBake cannot use `{text}` as a mirror: it holds {c:?}"))),
        None => Ok(text.to_owned()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use agent_types::share::Share;
    use agent_types::tiers::{Access, Trust};

    fn tiers(pull_request: Option<u64>, access: Access) -> Tiers {
        let trust = match pull_request {
            Some(_) => Trust::Untrusted { why: String::new(), pull_request },
            None => Trust::Trusted { why: String::new() },
        };
        Tiers::new(&Share::new("/efs"), access, &trust)
    }

    #[test]
    fn own_tier_comes_first_in_the_syntax_of_the_release() {
        let text = render(&tiers(Some(7), Access::ReadWrite), Release::find("scarthgap").unwrap()).unwrap();
        let wanted = r#"
# The share is read as a mirror; what is new stays local until it is published.
SSTATE_MIRRORS:prepend = "\
    file://.* file:///efs/pr/7/sstate/scarthgap/PATH \
    file://.* file:///efs/sstate/scarthgap/PATH \
"
PREMIRRORS:prepend = "\
    (cvs|svn|git|gitsm|hg|bzr|p4|osc|https?|ftp|s3|crate|gs)://.*/.* file:///efs/pr/7/downloads/ \
    npm://.*/?.* file:///efs/pr/7/downloads/ \
    (cvs|svn|git|gitsm|hg|bzr|p4|osc|https?|ftp|s3|crate|gs)://.*/.* file:///efs/downloads/ \
    npm://.*/?.* file:///efs/downloads/ \
"
# Repositories can be published as tarballs only.
BB_GENERATE_MIRROR_TARBALLS = "1"
"#;
        assert_eq!(text, wanted);
        for (release, wanted) in [("dunfell", "_prepend"), ("honister", ":prepend"), ("master", ":prepend")] {
            let text = render(&tiers(None, Access::ReadWrite), Release::find(release).unwrap()).unwrap();
            assert_eq!(text.matches(wanted).count(), 2, "{release}: {text}");
            assert!(text.contains(&format!("file:///efs/sstate/{release}/PATH")), "{text}");
        }
    }

    #[test]
    fn writes_tarballs_and_mirrors_only_if_the_share_is_used() {
        let release = Release::find("kirkstone").unwrap();
        let text = render(&tiers(None, Access::ReadOnly), release).unwrap();
        assert!(text.contains("SSTATE_MIRRORS") && !text.contains("TARBALLS"), "{text}");
        assert_eq!(render(&tiers(Some(1), Access::Off), release).unwrap(), "");
    }

    #[test]
    fn rejects_paths_with_special_meaning() {
        for bad in ["/a b", "/a;b=c", "/a\\1", "/a\"\nX = \"1", "/a${X}", "/a(b)"] {
            let mut tiers = tiers(None, Access::ReadWrite);
            tiers.read[0].share = Share::new(bad);
            assert!(render(&tiers, Release::find("scarthgap").unwrap()).is_err(), "{bad:?}");
        }
    }
}
