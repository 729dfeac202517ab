//! The address of a request: which object of which tier it names. Everything else does not exist.
//!
//! ```text
//! /<tier>/sstate/<release>/ab/12/NAME      also with the directory of a host: universal/ab/12/NAME
//! /<tier>/downloads/NAME                   also uninative/<hash>/NAME and npm2/NAME
//! ```
//!
//! `<tier>` is `shared` or `pull-request`, so that the text of BitBake's configuration is the same on every machine.

use std::path::Path;

use percent_encoding::percent_decode_str;

use crate::names::{self, DownloadKind, DownloadPart};
use agent_types::tiers::TierKind;

/// Maximum length of a path, before it is decoded: S3's longest key with every byte escaped.
const MAX_PATH: usize = 3 * 1024;

/// The two kinds of files that BitBake reads from a mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Area {
    Sstate,
    Downloads,
}

/// An object that a request names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    pub tier: TierKind,
    pub area: Area,
    /// The path below `sstate/<release>/` or `downloads/`.
    pub name: String,
}

/// Parses the path of a request. `None`, if it is not exactly the path of an object that BitBake could have written
/// to a share of this release.
pub fn parse(path: &str, release: &str) -> Option<Target> {
    if path.len() > MAX_PATH {
        return None;
    }
    let parts: Vec<String> = path.strip_prefix('/')?.split('/').map(decode).collect::<Option<_>>()?;
    let (tier, rest) = parts.split_first()?;
    let tier = [TierKind::Shared, TierKind::PullRequest].into_iter().find(|kind| kind.word() == tier)?;
    let (area, name) = match rest {
        [area, of, name @ ..] if area == "sstate" && of == release => (Area::Sstate, name.join("/")),
        [area, name @ ..] if area == "downloads" => (Area::Downloads, name.join("/")),
        _ => return None,
    };
    let is_known = match area {
        Area::Sstate => names::sstate(Path::new(&name)).is_some(),
        Area::Downloads => is_download(&name),
    };
    is_known.then_some(Target { tier, area, name })
}

/// Whether it is the name of a file that is published. Stamps are never served: BitBake would load them as code.
fn is_download(name: &str) -> bool {
    names::download(Path::new(name)).is_some_and(|download| {
        let is_file = matches!(
            download.kind,
            DownloadKind::File | DownloadKind::GitTarball | DownloadKind::ShallowTarball
        );
        is_file && download.part == DownloadPart::Whole
    })
}

/// Decodes one part of a path, once. `None`, if its meaning is not a plain name.
fn decode(part: &str) -> Option<String> {
    let mut escapes = part.split('%').skip(1);
    let is_escape = |rest: &str| rest.len() >= 2 && rest.bytes().take(2).all(|b| b.is_ascii_hexdigit());
    if !escapes.all(is_escape) {
        return None;
    }
    let name = percent_decode_str(part).decode_utf8().ok()?.into_owned();
    let is_plain = !matches!(name.as_str(), "" | "." | "..") && !name.contains(['/', '\\']);
    (is_plain && !name.chars().any(char::is_control)).then_some(name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const OBJECT: &str = "sstate:zlib:core2-64-poky-linux:1.3.1:r0:core2-64:12:\
                          ab12000000000000000000000000000000000000000000000000000000000000_compile.tar.zst";

    fn name(path: &str) -> Option<String> {
        parse(path, "scarthgap")
            .map(|target| format!("{} {:?} {}", target.tier.word(), target.area, target.name))
    }

    #[test]
    fn finds_the_objects_that_bitbake_asks_for() {
        // `encodeurl` of bb.fetch2 quotes everything but letters, digits, `_.-~` and slashes.
        let quoted = OBJECT.replace(':', "%3A");
        for (path, wanted) in [
            (format!("/shared/sstate/scarthgap/ab/12/{OBJECT}"), format!("shared Sstate ab/12/{OBJECT}")),
            (format!("/shared/sstate/scarthgap/ab/12/{quoted}"), format!("shared Sstate ab/12/{OBJECT}")),
            (
                format!("/pull-request/sstate/scarthgap/universal/ab/12/{quoted}.siginfo"),
                format!("pull-request Sstate universal/ab/12/{OBJECT}.siginfo"),
            ),
            ("/shared/downloads/gtk%2B-3.0~rc1.tar.xz".into(), "shared Downloads gtk+-3.0~rc1.tar.xz".into()),
            ("/shared/downloads/a%20b%25c.zip".into(), "shared Downloads a b%c.zip".into()),
            ("/shared/downloads/a;b=c".into(), "shared Downloads a;b=c".into()),
            (
                format!("/shared/downloads/uninative/{}/x86_64-nativesdk-libc.tar.xz", "0a".repeat(32)),
                format!("shared Downloads uninative/{}/x86_64-nativesdk-libc.tar.xz", "0a".repeat(32)),
            ),
            (
                "/shared/downloads/git2_example.com.a.git.tar.gz".into(),
                "shared Downloads git2_example.com.a.git.tar.gz".into(),
            ),
        ] {
            assert_eq!(name(&path), Some(wanted), "{path}");
        }
    }

    #[test]
    fn nothing_else_exists() {
        let object = format!("ab/12/{OBJECT}");
        for path in [
            String::new(),
            "/".into(),
            "*".into(),
            "/shared".into(),
            "/shared/".into(),
            "/shared/sstate".into(),
            "/shared/sstate/scarthgap/".into(),
            "/shared/downloads/".into(),
            "/shared/leases/x".into(),
            "/shared/signatures/answers/x".into(),
            "/shared/index/scarthgap/x".into(),
            format!("/other/sstate/scarthgap/{object}"),
            format!("/Shared/sstate/scarthgap/{object}"),
            format!("/pr/7/sstate/scarthgap/{object}"),
            format!("/shared/sstate/kirkstone/{object}"),
            format!("shared/sstate/scarthgap/{object}"),
            format!("//shared/sstate/scarthgap/{object}"),
            format!("/shared//sstate/scarthgap/{object}"),
            format!("/shared/sstate/scarthgap//{object}"),
            format!("/shared/sstate/scarthgap/{object}/"),
            format!("/shared/./sstate/scarthgap/{object}"),
            format!("/shared/../shared/sstate/scarthgap/{object}"),
            format!("/shared/sstate/scarthgap/%2e%2e/scarthgap/{object}"),
            format!("/shared/sstate/scarthgap/%2E./{object}"),
            format!("/shared/sstate%2fscarthgap/{object}"),
            format!("/shared/sstate/scarthgap/ab%2f12/{OBJECT}"),
            format!("/shared/sstate/scarthgap/ab/12%5c{OBJECT}"),
            format!("/shared/sstate/scarthgap/{object}%00"),
            format!("/shared/sstate/scarthgap/{object}.done"),
            format!("/shared/sstate/scarthgap/cd/12/{OBJECT}"),
            "/shared/downloads/..".into(),
            "/shared/downloads/%2e%2e%2fleases%2fx".into(),
            "/shared/downloads/../leases/x".into(),
            "/shared/downloads/.hidden".into(),
            "/shared/downloads/a.tar.gz.done".into(),
            "/shared/downloads/a.tar.gz.lock".into(),
            "/shared/downloads/a%0a.tar.gz".into(),
            "/shared/downloads/a%.tar.gz".into(),
            "/shared/downloads/a%4".into(),
            "/shared/downloads/a%zz".into(),
            "/shared/downloads/%ff".into(),
            "/shared/downloads/git2/example.com.a.git/HEAD".into(),
            "/shared/downloads/deep/er/file".into(),
            format!("/shared/downloads/{}", "a".repeat(4000)),
            "http://elsewhere/shared/downloads/a".into(),
        ] {
            assert_eq!(name(&path), None, "{path}");
        }
    }

    proptest! {
        /// Whatever the path, the object lies below the area and its name is in normal form.
        #[test]
        fn never_leaves_the_prefix(
            parts in proptest::collection::vec(
                prop_oneof![
                    Just("..".to_owned()), Just(".".to_owned()), Just(String::new()), Just("shared".to_owned()),
                    Just("pull-request".to_owned()), Just("sstate".to_owned()), Just("downloads".to_owned()),
                    Just("scarthgap".to_owned()), Just("ab".to_owned()), Just("12".to_owned()),
                    Just(OBJECT.to_owned()), Just("%2e%2e".to_owned()), Just("%2f".to_owned()),
                    Just("%252e%252e".to_owned()), Just("%5c..".to_owned()), "[ -~]{0,12}", "\\PC{0,4}",
                ],
                0..8,
            ),
            start in prop_oneof![Just("/shared/downloads/"), Just("/shared/sstate/scarthgap/"), Just("/"), Just("")],
        ) {
            let path = format!("{start}{}", parts.join("/"));
            if let Some(target) = parse(&path, "scarthgap") {
                let name = Path::new(&target.name);
                prop_assert!(name.is_relative());
                prop_assert!(name.components().all(|part| matches!(part, std::path::Component::Normal(_))));
                prop_assert_eq!(name.components().count(), target.name.split('/').count());
                prop_assert!(!target.name.contains(['\\', '\0', '\n']));
            }
        }
    }
}
