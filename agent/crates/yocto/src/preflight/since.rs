//! The first release of each rule of yocto-check-layer, and of what other checks depend on.
//!
//! Source: `scripts/lib/checklayer/cases/common.py` and `scripts/yocto-check-layer` of the release branches
//! of OE-Core.

use agent_types::release::RELEASES;
use agent_types::release::Release;

/// `test_readme` checks the README's content: maintainer, patches, an e-mail address.
pub const README_CONTENT: &str = "kirkstone";
/// `test_readme` finds the address anywhere; before, only at the first `@` of the file.
pub const EMAIL_ANYWHERE: &str = "wrynose";
/// `test_patches_upstream_status` exists, as an expected failure.
pub const UPSTREAM_STATUS_KNOWN: &str = "mickledore";
/// `test_patches_upstream_status` is a normal test.
pub const UPSTREAM_STATUS_FAILS: &str = "whinlatter";
/// `Upstream-Status: Accepted` is no longer a status.
pub const NO_ACCEPTED: &str = "nanbield";
/// `test_security`
pub const SECURITY: &str = "walnascar";
/// `sanity_check_layers`: each collection name exists once.
pub const DUPLICATE_COLLECTIONS: &str = "kirkstone";
/// `cve-check.bbclass` no longer exists.
pub const NO_CVE_CHECK: &str = "wrynose";

/// Whether the release is the named one or a later one.
pub fn since(release: &Release, first: &str) -> bool {
    let place = |name: &str| RELEASES.iter().position(|known| known.name == name);
    place(release.name) >= place(first)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_in_order_and_exist() {
        for first in [
            README_CONTENT,
            EMAIL_ANYWHERE,
            UPSTREAM_STATUS_KNOWN,
            UPSTREAM_STATUS_FAILS,
            NO_ACCEPTED,
            SECURITY,
            DUPLICATE_COLLECTIONS,
            NO_CVE_CHECK,
        ] {
            let first_release = Release::find(first).unwrap();
            assert!(since(first_release, first));
            assert!(since(Release::find("master").unwrap(), first));
            assert!(!since(Release::find("dunfell").unwrap(), first));
        }
    }
}
