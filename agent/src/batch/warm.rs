//! What the build `warm` does for the caches: a pure function of the cells.

use std::fmt;

use serde::Serialize;

use crate::config::Repo;

/// What a cell has that `warm` needs.
#[derive(Clone, Copy, Debug)]
pub struct WarmCell<'a> {
    pub id: &'a str,
    pub release: &'a str,
    pub repos: &'a [Repo],
    /// `[build] targets`
    pub targets: &'a [String],
    /// Whether the other machines get what `warm` publishes.
    pub shares: bool,
    pub is_trusted: bool,
}

/// One job of `warm`, with the configuration of a cell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WarmStep {
    pub cell: String,
    pub work: Work,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// Fetch the repositories.
    Checkout,
    /// Fetch the sources of these targets, and of all that they need.
    Fetch(Vec<String>),
    /// Build these targets.
    Build(Vec<String>),
}

impl fmt::Display for WarmStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.work {
            Work::Checkout => write!(f, "fetch the repositories of {}", self.cell),
            Work::Fetch(targets) => write!(f, "fetch the sources of {} as {}", targets.join(" "), self.cell),
            Work::Build(targets) => write!(f, "build {} as {}", targets.join(" "), self.cell),
        }
    }
}

/// The jobs, in their order. The sources of targets are fetched once for each release that has them, and `build` is built
/// once for each release: cells with other machines share most of it. A checkout alone is for a cell with other
/// repositories than all before.
pub fn steps(cells: &[WarmCell], build: &[String], fetch: bool) -> Vec<WarmStep> {
    let mut steps = Vec::new();
    for (place, cell) in cells.iter().enumerate() {
        let mut before = cells[..place].iter();
        let same_release = |other: &WarmCell| other.release == cell.release;
        let is_fetched =
            before.clone().any(|other| other.shares && same_release(other) && other.targets == cell.targets);
        let is_built = before.clone().any(|other| other.shares && other.is_trusted && same_release(other));
        let fetches = fetch && cell.shares && !cell.targets.is_empty() && !is_fetched;
        let builds = !build.is_empty() && cell.shares && cell.is_trusted && !is_built;
        let mut add = |work| steps.push(WarmStep { cell: cell.id.to_owned(), work });
        if fetches {
            add(Work::Fetch(cell.targets.to_vec()));
        }
        if builds {
            add(Work::Build(build.to_vec()));
        }
        if !fetches && !builds && !before.any(|other| other.repos == cell.repos) {
            add(Work::Checkout);
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(cells: &[WarmCell], build: &[&str], fetch: bool) -> Vec<String> {
        let build: Vec<String> = build.iter().map(|target| (*target).to_owned()).collect();
        steps(cells, &build, fetch).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_release_is_warmed_once() {
        let (image, sdk) = (["image".to_owned()], ["sdk".to_owned()]);
        let cell = |id, release, targets| WarmCell {
            id,
            release,
            repos: &[],
            targets,
            shares: true,
            is_trusted: true,
        };
        let cells = [
            cell("s_a", "scarthgap", &image[..]),
            cell("s_b", "scarthgap", &image[..]),
            cell("s_sdk", "scarthgap", &sdk[..]),
            cell("k_a", "kirkstone", &image[..]),
            cell("check", "styhead", &[]),
        ];
        assert_eq!(
            shown(&cells, &["quilt-native"], true),
            [
                "fetch the sources of image as s_a",
                "build quilt-native as s_a",
                "fetch the sources of sdk as s_sdk",
                "fetch the sources of image as k_a",
                "build quilt-native as k_a",
                "build quilt-native as check",
            ]
        );
        assert_eq!(shown(&cells, &[], false), ["fetch the repositories of s_a"]);
    }

    #[test]
    fn without_a_share_only_repositories_are_fetched() {
        let image = ["image".to_owned()];
        let cell = |shares, is_trusted| WarmCell {
            id: "a",
            release: "scarthgap",
            repos: &[],
            targets: &image,
            shares,
            is_trusted,
        };
        assert_eq!(shown(&[cell(false, true)], &["x"], true), ["fetch the repositories of a"]);
        assert_eq!(shown(&[cell(true, false)], &["x"], true), ["fetch the sources of image as a"]);
        // A cell that cannot share does not stand for one that can.
        assert_eq!(
            shown(&[cell(false, true), cell(true, true)], &["x"], true),
            ["fetch the repositories of a", "fetch the sources of image as a", "build x as a"]
        );
    }
}
