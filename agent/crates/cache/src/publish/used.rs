//! Finds what BitBake used from the share. For each file from a `file://` mirror, it creates a symbolic link
//! in the local directory (`ensure_symlink` in `fetch2/__init__.py`).

use std::io;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::local::{Area, Object};
use super::target::Target;
use crate::names;
use agent_fs::tree::Tree;
use agent_types::tiers::Tier;

/// Minimum time between two marks of a use. A prune counts in days.
const NOTED: Duration = Duration::from_secs(24 * 60 * 60);

/// The target of a link: a tier, as index in the list, and the path below its root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Used {
    pub tier: usize,
    pub path: PathBuf,
}

/// Parses a link. `None`, if its target is in no tier; other users may write links.
pub fn used(text: &Path, area: Area, tiers: &[Tier]) -> Option<Used> {
    let below = |(tier, one): (usize, &Tier)| Some((tier, text.strip_prefix(one.share.root()).ok()?));
    // The tier of a pull request is below the share's directory.
    let (tier, path) =
        tiers.iter().enumerate().filter_map(below).min_by_key(|(_, path)| path.components().count())?;
    if !path.components().all(|component| matches!(component, Component::Normal(_))) {
        return None;
    }
    let known = match area {
        Area::Sstate => {
            let mut components = path.strip_prefix("sstate").ok()?.components();
            components.next()?;
            names::sstate(components.as_path()).is_some()
        }
        Area::Downloads => {
            let file = names::download(path.strip_prefix("downloads").ok()?)?;
            file.part == names::DownloadPart::Whole
        }
    };
    known.then(|| Used { tier, path: path.to_owned() })
}

/// A used object: its bytes and its tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    pub tier: usize,
    pub bytes: u64,
}

/// Reads the object that the links point to. If `note` is a tier, marks the use there.
///
/// # Errors
/// If the share fails. A missing object is `None`.
pub fn read(
    local: &Tree,
    object: &Object,
    (tiers, targets): (&[Tier], &[Option<Target>]),
    note: Option<usize>,
) -> io::Result<Option<Read>> {
    let mut read = None;
    for name in std::iter::once(&object.primary).chain(&object.sidecars) {
        let Ok(text) = local.link(&object.from.join(name)) else { continue };
        let Some(Used { tier, path }) = used(Path::new(&text), object.area, tiers) else { continue };
        let (Some(target), Some(name)) = (&targets[tier], path.file_name().and_then(|name| name.to_str()))
        else {
            continue;
        };
        let directory = match target.directory(path.parent().unwrap_or(Path::new(""))) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            directory => directory?,
        };
        let Some(facts) = target.look(&directory, name)? else { continue };
        // The newest file of an object decides its age, so one mark is enough.
        let first = read.is_none();
        read.get_or_insert(Read { tier, bytes: 0 }).bytes += facts.size;
        let old = SystemTime::now().duration_since(facts.modified_at()).is_ok_and(|age| age > NOTED);
        if first && old && note == Some(tier) {
            // Without the mark the object is pruned early, which only costs time.
            let _ = target.touch(&directory, name);
        }
    }
    Ok(read)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use agent_types::tiers::TieredShare;

    use super::*;
    use agent_types::share::Share;
    use agent_types::tiers::TierKind;

    const OBJECT: &str = "sstate:zlib:core2-64-poky-linux:1.3.1:r0:core2-64:12:\
                          ab12000000000000000000000000000000000000000000000000000000000000_compile.tar.zst";

    #[test]
    fn links_resolve_to_a_tier_or_none() {
        let share = Share::new("/s");
        let tiers = [
            Tier { kind: TierKind::PullRequest, share: share.pull_request(7) },
            Tier { kind: TierKind::Shared, share },
        ];
        let object = format!("ab/12/{OBJECT}");
        let sstate = |start: &str| format!("{start}/{object}");
        let table = [
            (Area::Sstate, sstate("/s/sstate/scarthgap"), Some(1)),
            (Area::Sstate, sstate("/s//sstate/scarthgap/universal"), Some(1)),
            (Area::Sstate, sstate("/s/pr/7/sstate/scarthgap"), Some(0)),
            (Area::Sstate, sstate("/s/pr/8/sstate/scarthgap"), None),
            (Area::Sstate, sstate("/other/sstate/scarthgap"), None),
            (Area::Sstate, sstate("/sstate/scarthgap"), None),
            (Area::Sstate, sstate("/s/sstate/scarthgap/../scarthgap"), None),
            (Area::Sstate, sstate("../../../s/sstate/scarthgap"), None),
            (Area::Sstate, "/s/sstate/scarthgap/ab/12/notes.txt".into(), None),
            (Area::Sstate, "/s/downloads/zlib.tar.gz".into(), None),
            (Area::Downloads, "/s/downloads/zlib.tar.gz".into(), Some(1)),
            (Area::Downloads, "/s/pr/7/downloads/zlib.tar.gz".into(), Some(0)),
            (Area::Downloads, "/s/downloads/zlib.tar.gz.done".into(), None),
            (Area::Downloads, "/s/downloads".into(), None),
            (Area::Downloads, "/etc/passwd".into(), None),
            (Area::Downloads, String::new(), None),
        ];
        for (area, text, tier) in table {
            let found = used(Path::new(&text), area, &tiers);
            assert_eq!(found.as_ref().map(|used| used.tier), tier, "{text}: {found:?}");
        }
    }
}
