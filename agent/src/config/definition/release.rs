//! The release of a definition: no other format names one, but OE-Core's layer does.

use std::path::Path;

use agent_types::release::Release;
use agent_yocto::layer_conf::LayerConf;

use super::super::settings::{Repo, RepoSource};

/// A repository that may tell the release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReleaseFrom {
    pub name: String,
    pub source: RepoSource,
    /// The release that the branch or the tag of OE-Core has in its name; the checkout verifies it.
    pub named: Option<&'static str>,
}

/// The repositories that may hold OE-Core, the most probable first. BitBake's and other layers' tell nothing.
pub fn candidates(repos: &[Repo]) -> Vec<ReleaseFrom> {
    let rank = |repo: &Repo| {
        let has_core = repo.layers.iter().any(|layer| layer.ends_with("meta"));
        let known = ["poky", "openembedded-core", "oe-core", "oecore", "yocto"];
        let address = match &repo.source {
            RepoSource::Git(source) => source.url.path().to_owned(),
            RepoSource::Path(path) => path.display().to_string(),
        };
        let is_known = known.iter().any(|name| address.contains(name) || repo.name.contains(name));
        match (has_core, is_known) {
            (true, true) => 0,
            (true, false) => 1,
            (false, true) => 2,
            (false, false) => 3,
        }
    };
    let mut ranked: Vec<(u8, &Repo)> = repos.iter().map(|repo| (rank(repo), repo)).collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    let candidate = |(rank, repo): (u8, &Repo)| ReleaseFrom {
        name: repo.name.clone(),
        source: repo.source.clone(),
        named: if rank == 0 { named(&repo.source) } else { None },
    };
    ranked.into_iter().filter(|(rank, _)| *rank < 3).map(candidate).collect()
}

/// `scarthgap`, `scarthgap-5.0.3`, `yocto-5.0.3`.
fn named(source: &RepoSource) -> Option<&'static str> {
    let RepoSource::Git(source) = source else { return None };
    let text = source.wanted.branch().or(source.wanted.tag())?;
    let of_version = |text: &str| {
        let version = text.strip_prefix("yocto-")?;
        let mut releases =
            Release::names().filter_map(Release::find).filter(|release| release.name != "master");
        releases.find(|release| {
            version == release.version || version.starts_with(&format!("{}.", release.version))
        })
    };
    let first = text.split('-').next().unwrap_or(text);
    Release::find(first).or_else(|| of_version(text)).map(|release| release.name)
}

/// The release of OE-Core in this directory; `None`, if it holds none, or one that this agent does not know.
pub fn release_in(directory: &Path) -> Option<&'static str> {
    let meta = directory.join("meta");
    if !directory.join("oe-init-build-env").is_file() {
        return None;
    }
    let names = LayerConf::read(&meta).ok()?.core_names?;
    let words: Vec<String> = names.words().iter().map(|word| word.text.clone()).collect();
    let exact = |release: &&'static Release| {
        release.name != "master" && words.iter().any(|word| word == release.name)
    };
    let releases = Release::names().filter_map(Release::find).filter(exact);
    let newest = releases.last();
    // The newest series has no release yet: it is that of the development branch.
    let is_next = |word: &String| Release::find(word).is_none();
    let master = Release::find("master");
    let of_master =
        |master: &&Release| words.iter().any(|word| is_next(word) && master.series.contains(&word.as_str()));
    master.filter(of_master).or(newest).map(|release| release.name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::settings::{GitSource, Wanted};

    #[test]
    fn branches_and_tags_of_oe_core_name_releases() {
        for (wanted, release) in [
            (Wanted::Branch("scarthgap".into()), Some("scarthgap")),
            (Wanted::Branch("scarthgap-next".into()), Some("scarthgap")),
            (Wanted::Tag("kirkstone-4.0.5".into()), Some("kirkstone")),
            (Wanted::Tag("yocto-4.0.1".into()), Some("kirkstone")),
            (Wanted::Tag("yocto-5.0".into()), Some("scarthgap")),
            (Wanted::Tag("yocto-50.1".into()), None),
            (Wanted::Branch("main".into()), None),
            (Wanted::Commit("0".repeat(40)), None),
        ] {
            let url = "https://git.yoctoproject.org/poky".parse().unwrap();
            let source = RepoSource::Git(GitSource { url, wanted: wanted.clone(), locked: None });
            let repo = Repo {
                name: "poky".into(),
                source,
                layers: vec!["meta".into()],
                patches: Vec::new(),
                signers: Vec::new(),
                submodules: true,
                lfs: true,
            };
            assert_eq!(candidates(&[repo])[0].named, release, "{wanted:?}");
        }
    }
}
