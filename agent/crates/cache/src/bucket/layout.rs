//! Finds the areas of a share in a bucket, and how its failures are told.

use std::collections::BTreeSet;
use std::path::Path;

use object_store::Error as StoreError;

use super::walk::{MOST, shown};
use crate::areas::{Area, AreaKind, pull_request};
use crate::names;
use crate::units::{self, Contents, Folder};
use agent_fs::walk::Entry;
use agent_objects::Objects;
use agent_types::bucket_share::BucketShare;
use agent_types::error::{Error, Result};
use agent_types::tiers::TieredShare;

/// The prefixes of a tier without an area.
const KNOWN: [&str; 3] = ["usage", "leases", "index"];

/// The areas and tiers of a share.
#[derive(Debug, Default)]
pub struct Layout {
    /// Those of the share itself.
    pub areas: Vec<Area>,
    /// The tiers of pull requests.
    pub pull_requests: Vec<u64>,
    /// Unknown keys and prefixes, for people.
    pub unknown: Vec<String>,
    /// Releases with shared state, an index or usage records.
    pub releases: BTreeSet<String>,
}

impl Layout {
    /// Lists the upper prefixes of a share.
    ///
    /// # Errors
    /// See [`failed`].
    pub async fn read(objects: &Objects, share: &BucketShare) -> Result<Layout> {
        let mut layout = Layout::default();
        let area = |kind| Area { pull_request: None, kind };
        for name in layout.level(objects, share, "").await? {
            match name.as_str() {
                "downloads" => layout.areas.push(area(AreaKind::Downloads)),
                "layers" => layout.areas.push(area(AreaKind::Layers)),
                "signatures" => layout.areas.push(area(AreaKind::Signatures)),
                "results" => layout.areas.push(area(AreaKind::Results)),
                "leases" => {}
                "sstate" | "usage" | "index" => {
                    for release in layout.level(objects, share, &name).await? {
                        if !names::is_release(&release) {
                            layout.unknown.push(shown(&format!("{name}/{release}/")));
                            continue;
                        }
                        if name == "sstate" {
                            layout.areas.push(area(AreaKind::Sstate(release.clone())));
                        }
                        layout.releases.insert(release);
                    }
                }
                "pr" => {
                    for tier in layout.level(objects, share, "pr").await? {
                        match pull_request(&tier) {
                            Some(number) => layout.pull_requests.push(number),
                            None => layout.unknown.push(shown(&format!("pr/{tier}/"))),
                        }
                    }
                }
                _ => layout.unknown.push(shown(&format!("{name}/"))),
            }
        }
        layout.areas.sort();
        layout.pull_requests.sort_unstable();
        Ok(layout)
    }

    /// The names of the prefixes directly below one. Objects there are unknown.
    async fn level(&mut self, objects: &Objects, share: &BucketShare, below: &str) -> Result<Vec<String>> {
        let prefix = directory(&share.key(below));
        let listed = objects.level(&prefix, MOST).await;
        let page = listed.map_err(|error| failed(format!("cannot list {share}"), &error, "s3:ListBucket"))?;
        let root = directory(share.root());
        let relative = |key: &str| shown(key.strip_prefix(&root).unwrap_or(key));
        self.unknown.extend(page.objects.iter().map(|object| relative(&object.key)));
        if page.token.is_some() {
            self.unknown.push(format!("more below {}", shown(&prefix)));
        }
        let name = |key: &String| key.strip_prefix(&prefix)?.strip_suffix('/').map(str::to_owned);
        Ok(page.prefixes.iter().filter_map(name).collect())
    }
}

/// A key as a prefix, with a slash at its end.
pub fn directory(key: &str) -> String {
    match key.trim_end_matches('/') {
        "" => String::new(),
        key => format!("{key}/"),
    }
}

/// The share of a tier.
pub fn tier(share: &BucketShare, pull_request: Option<u64>) -> BucketShare {
    pull_request.map_or_else(|| share.clone(), |number| share.pull_request(number))
}

/// The prefix of an area, with a slash at its end.
pub fn prefix(share: &BucketShare, area: &Area) -> String {
    directory(&share.key(&area.to_string()))
}

/// The area that a key below a tier of a pull request is in, and the rest of the key.
pub fn area_of(number: u64, below: &str) -> Option<(Area, &str)> {
    let (first, rest) = below.split_once('/')?;
    let (kind, rest) = match first {
        "downloads" => (AreaKind::Downloads, rest),
        "layers" => (AreaKind::Layers, rest),
        "signatures" => (AreaKind::Signatures, rest),
        "results" => (AreaKind::Results, rest),
        "sstate" => {
            let (release, rest) = rest.split_once('/').filter(|(release, _)| names::is_release(release))?;
            (AreaKind::Sstate(release.to_owned()), rest)
        }
        _ => return None,
    };
    Some((Area { pull_request: Some(number), kind }, rest))
}

/// The units in a folder of an area.
pub fn contents(kind: &AreaKind, path: &Path, entries: &[Entry]) -> Contents {
    let folder = Folder::in_bucket(path, entries);
    match kind {
        AreaKind::Sstate(_) => units::sstate_in(&folder),
        AreaKind::Downloads => units::downloads_in(&folder),
        AreaKind::Layers => units::packed_layers_in(&folder),
        AreaKind::Signatures => units::signatures_in(&folder),
        AreaKind::Results => units::results_in(&folder),
    }
}

/// Whether the agent keeps notes below this prefix of a tier: leases, usage records, an index.
pub fn is_note(below: &str) -> bool {
    below.split_once('/').is_some_and(|(first, _)| KNOWN.contains(&first))
}

/// The error of a failed request, which needs the IAM action.
pub fn failed(message: String, error: &StoreError, action: &str) -> Error {
    if error.to_string().contains("NoSuchBucket") {
        return Error::usage(message)
            .because(error)
            .hint("create the bucket, or fix its name in the share's address");
    }
    if is_denied(error) {
        return Error::machine(message)
            .because(error)
            .hint(format!("allow {action} on the share to the role of these credentials"));
    }
    Error::upstream(message)
        .because(error)
        .hint("check credentials, region, endpoint and network; the next run continues")
}

/// Whether S3 knows the request and does not allow it.
pub fn is_denied(error: &StoreError) -> bool {
    matches!(error, StoreError::PermissionDenied { .. }) || error.to_string().contains("AccessDenied")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use object_store::memory::InMemory;

    use super::*;
    use agent_objects::retry::Retries;
    use agent_types::s3_address::S3Address;

    #[tokio::test]
    async fn finds_areas_and_tells_the_unknown() {
        for address in ["s3://b", "s3://b/a/c"] {
            let share = BucketShare::new(S3Address::parse(address).unwrap());
            let objects = Objects::new(Arc::new(InMemory::new()), Retries::within(Duration::ZERO));
            for key in [
                "README",
                "downloads/x",
                "sstate/scarthgap/x",
                "sstate/no release/x",
                "sstate/x",
                "index/kirkstone/x",
                "leases/x",
                "signatures/answers/x",
                "trash/x",
                "pr/7/x",
                "pr/12/pr/8/x",
                "pr/007/x",
                "pr/x",
            ] {
                objects.create(&object_store::path::Path::from(share.key(key)), "x".into()).await.unwrap();
            }
            objects.create(&object_store::path::Path::from("outside/downloads/x"), "x".into()).await.unwrap();
            let layout = Layout::read(&objects, &share).await.unwrap();
            let areas: Vec<_> = layout.areas.iter().map(ToString::to_string).collect();
            assert_eq!(areas, ["sstate/scarthgap", "downloads", "signatures"]);
            assert_eq!(layout.pull_requests, [7, 12]);
            assert_eq!(layout.releases.iter().collect::<Vec<_>>(), ["kirkstone", "scarthgap"]);
            let mut unknown = layout.unknown;
            unknown.retain(|key| key != "outside/");
            unknown.sort();
            assert_eq!(unknown, ["README", "pr/007/", "pr/x", "sstate/no release/", "sstate/x", "trash/"]);
        }
    }

    #[test]
    fn keys_of_a_pull_request_have_an_area() {
        for (below, wanted) in [
            ("sstate/scarthgap/ab/12/x", Some(("pr/7/sstate/scarthgap", "ab/12/x"))),
            ("downloads/git2/x", Some(("pr/7/downloads", "git2/x"))),
            ("sstate/a b/x", None),
            ("sstate/x", None),
            ("downloads", None),
            ("other/x", None),
        ] {
            let found = area_of(7, below).map(|(area, rest)| (area.to_string(), rest));
            assert_eq!(found.as_ref().map(|(area, rest)| (area.as_str(), *rest)), wanted, "{below}");
        }
    }
}
