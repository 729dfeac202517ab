//! From `[cache]` and the trust of the source to what a build may do with the share; and what there is
//! to say about it.

use std::path::PathBuf;

use crate::cache::{Access, Share, Tiers, Trust};

use super::codebuild::CodeBuild;
use super::settings::{Cache, Places, Settings, SharedCache};
use super::trust;
use super::validate::CacheWords;

/// The caches of a job, and sentences about them. `layers` is the local store of layer checkouts.
pub fn cache(
    words: &CacheWords,
    trust: Trust,
    codebuild: Option<&CodeBuild>,
    layers: PathBuf,
    places: &Places,
) -> (Cache, Vec<String>) {
    let root = words.share.as_ref().filter(|_| words.access != Access::Off);
    let share = root.map(|root| SharedCache {
        share: Share::new(root),
        access: words.access,
        trust: trust.clone(),
        tiers: Tiers::default(),
        // A commit of a source that is not under test says nothing about the layers that are.
        commit: codebuild
            .filter(|build| build.src_dir.is_some())
            .and_then(|build| build.resolved_commit.clone()),
    });
    let cache = Cache {
        downloads: places.work.join("downloads"),
        sstate: places.work.join("sstate"),
        layers,
        share,
        downloads_max_age: words.downloads_max_age,
        sstate_max_age: words.sstate_max_age,
        hash_server: words.hash_server.clone(),
    }
    .judged(trust, places);
    let notices = cache.share.iter().map(|shared| sentence(shared, words.asks_to_write)).collect();
    (cache, notices)
}

/// What the source may do with the share, and why.
fn sentence(shared: &SharedCache, asks_to_write: bool) -> String {
    let may = match (&shared.tiers.write, &shared.trust) {
        (Some(tier), Trust::Trusted { .. }) => format!("reads and writes {}", tier.share.root().display()),
        (Some(tier), Trust::Untrusted { .. }) => {
            format!("reads {} and writes only {}", shared.share.root().display(), tier.share.root().display())
        }
        (None, _) => format!("reads {} and writes nothing there", shared.share.root().display()),
    };
    match &shared.trust {
        Trust::Trusted { why } => format!("the source is trusted ({why}): the build {may}"),
        Trust::Untrusted { why, .. } if asks_to_write => format!(
            "the source is not trusted ({why}): the build {may}; `access = \"read-write\"` changes nothing in that"
        ),
        Trust::Untrusted { why, .. } => format!("the source is not trusted ({why}): the build {may}"),
    }
}

impl Settings {
    /// The settings as the commit that is checked out leaves them: with another one than CodeBuild
    /// resolved, the trust is gone, and the sentence says so.
    #[must_use]
    pub fn confirmed(mut self, head: Option<&str>) -> (Settings, Option<String>) {
        let Some(shared) = &self.cache.share else { return (self, None) };
        let trust = trust::confirmed(&shared.trust, shared.commit.as_deref(), head);
        if trust == shared.trust {
            return (self, None);
        }
        self.cache = self.cache.judged(trust, &self.places);
        let said = self.cache.share.as_ref().map(|shared| sentence(shared, false));
        (self, said)
    }
}
