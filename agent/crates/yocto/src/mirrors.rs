//! How BitBake is told to look into a share: `SSTATE_MIRRORS` and `PREMIRRORS`, from the tiers that a
//! build reads.
//!
//! Confirmed in `mirror_from_string`, `uri_replace`, `encodeurl` and `build_mirroruris` of
//! `bitbake/lib/bb/fetch2/__init__.py`, `own-mirrors.bbclass` and `uninative.bbclass` of OE-Core, dunfell to master:
//! - a list of mirrors is read as pairs of words; the literal `\n` of older texts counts as a blank;
//! - `PATH` is the object's path below `SSTATE_DIR`; a `file://` mirror needs no `downloadfilename`,
//!   because BitBake links to the object from its own place of that path; an `http://` mirror does;
//! - of a download the mirror holds what `DL_DIR` holds, by its name alone: archives, and mirror tarballs
//!   of repositories. The class uninative looks for `uninative/<hash>/` only below mirrors whose pattern begins with
//!   `http`.
//!
//! A bucket is read through the agent's HTTP server on the loopback address. Who asks, in all releases:
//! - BitBake's server, with HEAD and one connection for each of `BB_NUMBER_THREADS` threads (`sstate_checkhashes` in
//!   `sstate.bbclass`), without a look at `BB_NO_NETWORK`;
//! - `do_*_setscene`, with HEAD and wget (`pstaging_fetch`), which needs `SSTATE_MIRROR_ALLOW_NETWORK` if
//!   `BB_NO_NETWORK` is set. These tasks have the flag `network` (kirkstone and later: `sstate.bbclass`, python
//!   function at its top), so they see the loopback device;
//! - `do_fetch`, with wget. With `BB_NO_NETWORK`, one http mirror in PREMIRRORS makes it fail (`check_network_access`
//!   raises, and `try_mirror_url` does not go on to the next mirror), so then there is none;
//! - `trusted_network` skips mirrors that `BB_ALLOWED_NETWORKS` does not name.
//!
//! None of these variables is part of a task's hash. All are part of BitBake's configuration hash, unexpanded
//! (`get_hash` in `bb/data_smart.py`), so the text must be the same in every job: it has no name of a share and no path of
//! a machine. The port is in a variable that does not count.

use std::fmt::Write;

use agent_types::error::{Error, Result};
use agent_types::tiers::{TierKind, Tiers};

use super::path::plain_path;
use agent_types::release::Release;

/// All schemes of `own-mirrors.bbclass` of any release; a scheme that a release does not know matches
/// nothing there. The first pattern begins with `http` because uninative.bbclass looks for that. The npm pattern
/// differs: its addresses may have no path.
const PREMIRROR_PATTERNS: [&str; 3] =
    ["https?://.*/.*", "(cvs|svn|git|gitsm|hg|bzr|p4|osc|ftp|s3|crate|gs)://.*/.*", "npm://.*/?.*"];

/// The host of the agent's server. It has no name that could be resolved to something else.
pub const LOOPBACK: &str = "127.0.0.1";

/// The variable of BitBake that holds the port of the agent's server.
const PORT: &str = "BUILD_AGENT_PORT";

/// Whether BitBake checks certificates. It makes an SSL context for each question about an object, also without SSL, and
/// reads all certificate authorities for it: about 17 ms of processor time (`checkstatus` in
/// `bitbake/lib/bb/fetch2/wget.py`, kirkstone to master). While it looks for shared state, `DL_DIR` is `SSTATE_DIR`, and
/// `PREMIRRORS` are the mirrors of shared state (`sstate_checkhashes` and `pstaging_fetch` in `sstate.bbclass`). If none
/// of these can have a certificate, there is none to check. Elsewhere `PREMIRRORS` has the pattern `https?`.
const CHECK_CERTIFICATES: &str = "${@'0' if d.getVar('DL_DIR') == d.getVar('SSTATE_DIR') and 's://' not in \
    d.getVar('PREMIRRORS') and 'https' not in d.getVar('PREMIRRORS') else '1'}";

/// The agent's server, from which BitBake reads a share in a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointMirrors {
    pub port: u16,
    /// In lookup order.
    pub tiers: Vec<TierKind>,
    /// Whether a tier is written.
    pub writes: bool,
}

/// The lines for `local.conf`; empty, if no tier is read. They come before the mirrors of the manifest and
/// the distro, which still work. `endpoint` takes the place of `tiers`, if the share is in a bucket.
///
/// # Errors
/// If a path has characters that a list of mirrors does not support.
pub fn render(tiers: &Tiers, endpoint: Option<&EndpointMirrors>, release: &Release) -> Result<String> {
    match endpoint {
        Some(endpoint) => Ok(of_endpoint(endpoint, release)),
        None => of_directories(tiers, release),
    }
}

fn of_directories(tiers: &Tiers, release: &Release) -> Result<String> {
    if tiers.read.is_empty() {
        return Ok(String::new());
    }
    let separator = release.overrides.separator();
    let mut sstate = String::new();
    let mut downloads = String::new();
    for tier in &tiers.read {
        let directory = mirror_path(&tier.share.sstate(release.name))?;
        let _ = writeln!(sstate, "    file://.* file://{directory}/PATH \\");
        downloads += &premirrors(&format!("file://{}/", mirror_path(&tier.share.downloads())?));
    }
    let text = format!(
        "\n# The share is read as a mirror; what is new stays local until it is published.\n\
         SSTATE_MIRRORS{separator}prepend = \"\\\n{sstate}\"\n\
         PREMIRRORS{separator}prepend = \"\\\n{downloads}\"\n"
    );
    Ok(text + tarballs(tiers.write.is_some()))
}

fn of_endpoint(endpoint: &EndpointMirrors, release: &Release) -> String {
    if endpoint.tiers.is_empty() {
        return String::new();
    }
    let separator = release.overrides.separator();
    let mut sstate = String::new();
    let mut downloads = String::new();
    for tier in &endpoint.tiers {
        let base = format!("http://{LOOPBACK}:${{{PORT}}}/{}", tier.word());
        let _ =
            writeln!(sstate, "    file://.* {base}/sstate/{}/PATH;downloadfilename=PATH \\", release.name);
        downloads += &premirrors(&format!("{base}/downloads/"));
    }
    let text = format!(
        "\n# The share is a bucket. The agent reads it and serves it here; what is new stays local until it is \
         published.\n\
         {PORT} = \"{port}\"\n\
         # With another port, BitBake need not parse all recipes again.\n\
         {ignored}{separator}append = \" {PORT}\"\n\
         SSTATE_MIRRORS{separator}prepend = \"\\\n{sstate}\"\n\
         SSTATE_MIRROR_ALLOW_NETWORK ?= \"1\"\n\
         BUILD_AGENT_PREMIRRORS = \"\\\n{downloads}\"\n\
         # Without a network, a mirror by http makes a fetch fail.\n\
         PREMIRRORS{separator}prepend = \"${{@'' if bb.utils.to_boolean(d.getVar('BB_NO_NETWORK')) else \
         d.getVar('BUILD_AGENT_PREMIRRORS')}} \"\n\
         # Otherwise BitBake reads all certificate authorities for each question about shared state. Mirrors with \
         certificates are still checked.\n\
         BB_CHECK_SSL_CERTS ?= \"{certificates}\"\n\
         # If it has a value, it must name this server, too.\n\
         BB_ALLOWED_NETWORKS{separator}append = \"{allowed}\"\n",
        port = endpoint.port,
        ignored = release.hash_config_ignore_vars(),
        certificates = CHECK_CERTIFICATES,
        allowed = allowed_networks(),
    );
    text + tarballs(endpoint.writes)
}

/// Adds the loopback address to a list that has other text than this: the expression compares the length of the
/// unexpanded value with its own.
fn allowed_networks() -> String {
    let text = |length: usize| {
        format!(
            "${{@' {LOOPBACK}' if len(d.getVar('BB_ALLOWED_NETWORKS', False) or '') > {length:02} else ''}}"
        )
    };
    text(text(0).len())
}

/// The pairs of a mirror of downloads.
fn premirrors(mirror: &str) -> String {
    PREMIRROR_PATTERNS.map(|pattern| format!("    {pattern} {mirror} \\\n")).concat()
}

fn tarballs(writes: bool) -> &'static str {
    if writes {
        "# Repositories can be published as tarballs only.\nBB_GENERATE_MIRROR_TARBALLS = \"1\"\n"
    } else {
        ""
    }
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
        let text =
            render(&tiers(Some(7), Access::ReadWrite), None, Release::find("scarthgap").unwrap()).unwrap();
        let wanted = r#"
# The share is read as a mirror; what is new stays local until it is published.
SSTATE_MIRRORS:prepend = "\
    file://.* file:///efs/pr/7/sstate/scarthgap/PATH \
    file://.* file:///efs/sstate/scarthgap/PATH \
"
PREMIRRORS:prepend = "\
    https?://.*/.* file:///efs/pr/7/downloads/ \
    (cvs|svn|git|gitsm|hg|bzr|p4|osc|ftp|s3|crate|gs)://.*/.* file:///efs/pr/7/downloads/ \
    npm://.*/?.* file:///efs/pr/7/downloads/ \
    https?://.*/.* file:///efs/downloads/ \
    (cvs|svn|git|gitsm|hg|bzr|p4|osc|ftp|s3|crate|gs)://.*/.* file:///efs/downloads/ \
    npm://.*/?.* file:///efs/downloads/ \
"
# Repositories can be published as tarballs only.
BB_GENERATE_MIRROR_TARBALLS = "1"
"#;
        assert_eq!(text, wanted);
        for (release, wanted) in [("dunfell", "_prepend"), ("honister", ":prepend"), ("master", ":prepend")] {
            let text =
                render(&tiers(None, Access::ReadWrite), None, Release::find(release).unwrap()).unwrap();
            assert_eq!(text.matches(wanted).count(), 2, "{release}: {text}");
            assert!(text.contains(&format!("file:///efs/sstate/{release}/PATH")), "{text}");
        }
    }

    #[test]
    fn writes_tarballs_and_mirrors_only_if_the_share_is_used() {
        let release = Release::find("kirkstone").unwrap();
        let text = render(&tiers(None, Access::ReadOnly), None, release).unwrap();
        assert!(text.contains("SSTATE_MIRRORS") && !text.contains("TARBALLS"), "{text}");
        assert_eq!(render(&tiers(Some(1), Access::Off), None, release).unwrap(), "");
    }

    #[test]
    fn a_bucket_is_read_through_the_endpoint() {
        let tiers = vec![TierKind::PullRequest, TierKind::Shared];
        let endpoint = EndpointMirrors { port: 28463, tiers, writes: false };
        let none = Tiers::default();
        let of = |release: &str| {
            let (endpoint, release) = (Some(&endpoint), Release::find(release).unwrap());
            render(&none, endpoint, release).unwrap()
        };
        let wanted = r#"
# The share is a bucket. The agent reads it and serves it here; what is new stays local until it is published.
BUILD_AGENT_PORT = "28463"
# With another port, BitBake need not parse all recipes again.
BB_HASHCONFIG_IGNORE_VARS:append = " BUILD_AGENT_PORT"
SSTATE_MIRRORS:prepend = "\
    file://.* http://127.0.0.1:${BUILD_AGENT_PORT}/pull-request/sstate/scarthgap/PATH;downloadfilename=PATH \
    file://.* http://127.0.0.1:${BUILD_AGENT_PORT}/shared/sstate/scarthgap/PATH;downloadfilename=PATH \
"
SSTATE_MIRROR_ALLOW_NETWORK ?= "1"
BUILD_AGENT_PREMIRRORS = "\
    https?://.*/.* http://127.0.0.1:${BUILD_AGENT_PORT}/pull-request/downloads/ \
    (cvs|svn|git|gitsm|hg|bzr|p4|osc|ftp|s3|crate|gs)://.*/.* http://127.0.0.1:${BUILD_AGENT_PORT}/pull-request/downloads/ \
    npm://.*/?.* http://127.0.0.1:${BUILD_AGENT_PORT}/pull-request/downloads/ \
    https?://.*/.* http://127.0.0.1:${BUILD_AGENT_PORT}/shared/downloads/ \
    (cvs|svn|git|gitsm|hg|bzr|p4|osc|ftp|s3|crate|gs)://.*/.* http://127.0.0.1:${BUILD_AGENT_PORT}/shared/downloads/ \
    npm://.*/?.* http://127.0.0.1:${BUILD_AGENT_PORT}/shared/downloads/ \
"
# Without a network, a mirror by http makes a fetch fail.
PREMIRRORS:prepend = "${@'' if bb.utils.to_boolean(d.getVar('BB_NO_NETWORK')) else d.getVar('BUILD_AGENT_PREMIRRORS')} "
# Otherwise BitBake reads all certificate authorities for each question about shared state. Mirrors with certificates are still checked.
BB_CHECK_SSL_CERTS ?= "${@'0' if d.getVar('DL_DIR') == d.getVar('SSTATE_DIR') and 's://' not in d.getVar('PREMIRRORS') and 'https' not in d.getVar('PREMIRRORS') else '1'}"
# If it has a value, it must name this server, too.
BB_ALLOWED_NETWORKS:append = "${@' 127.0.0.1' if len(d.getVar('BB_ALLOWED_NETWORKS', False) or '') > 82 else ''}"
"#;
        assert_eq!(of("scarthgap"), wanted);
        assert_eq!(of("dunfell").matches("_prepend = ").count(), 2);
        for words in ["BB_ALLOWED_NETWORKS_append", "BB_HASHCONFIG_WHITELIST_append = \" BUILD_AGENT_PORT\""]
        {
            assert!(of("dunfell").contains(words), "{words}: {}", of("dunfell"));
        }
        let writes = EndpointMirrors { writes: true, ..endpoint.clone() };
        let text = render(&none, Some(&writes), Release::find("master").unwrap()).unwrap();
        assert!(text.contains("/sstate/master/PATH") && text.contains("TARBALLS"), "{text}");
        let empty = EndpointMirrors { tiers: Vec::new(), ..writes };
        assert_eq!(render(&none, Some(&empty), Release::find("master").unwrap()).unwrap(), "");
    }

    /// The expression, as Python evaluates it.
    #[test]
    fn certificates_are_left_unchecked_only_where_there_can_be_none() {
        let ours = "file://.* http://127.0.0.1:28463/shared/sstate/x/PATH;downloadfilename=PATH";
        let table = [
            ("/sstate", ours.to_owned(), "0"),
            ("/sstate", format!("{ours} file://.* file:///other/PATH"), "0"),
            ("/sstate", format!("{ours} file://.* https://example.org/PATH"), "1"),
            ("/sstate", format!("{ours} file://.* ftps://example.org/PATH"), "1"),
            ("/downloads", ours.to_owned(), "1"),
            // The same directory for both: the mirrors of downloads.
            ("/sstate", "https?://.*/.* http://127.0.0.1:28463/shared/downloads/".to_owned(), "1"),
        ];
        let expression = CHECK_CERTIFICATES.strip_prefix("${@").unwrap().strip_suffix('}').unwrap();
        for (downloads, mirrors, wanted) in table {
            let program = format!(
                "import sys\nclass D:\n  def getVar(self, n): return dict(DL_DIR=sys.argv[1], SSTATE_DIR='/sstate', \
                 PREMIRRORS=sys.argv[2])[n]\nd = D()\nprint({expression})"
            );
            let ran =
                std::process::Command::new("python3").args(["-c", &program, downloads, &mirrors]).output();
            let ran = ran.unwrap();
            assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
            assert_eq!(String::from_utf8_lossy(&ran.stdout).trim(), wanted, "{downloads} {mirrors}");
        }
    }

    #[test]
    fn rejects_paths_with_special_meaning() {
        for bad in ["/a b", "/a;b=c", "/a\\1", "/a\"\nX = \"1", "/a${X}", "/a(b)"] {
            let mut tiers = tiers(None, Access::ReadWrite);
            tiers.read[0].share = Share::new(bad);
            assert!(render(&tiers, None, Release::find("scarthgap").unwrap()).is_err(), "{bad:?}");
        }
    }
}
