//! The report of one recipe, in the JSON of cve-check, of vex and of sbom-cve-check, and the comparison with the base.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

/// The CVE report of one recipe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// `PN`
    pub recipe: String,
    pub version: String,
    /// For the database.
    pub cpes: Vec<String>,
    /// By their number: `CVE-2024-1234`. Also those that are patched or ignored.
    pub issues: BTreeMap<String, Issue>,
}

/// A CVE of a recipe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issue {
    pub is_unpatched: bool,
    /// The newest score that there is; `None`: unknown.
    pub score: Option<String>,
    pub summary: String,
}

#[derive(Deserialize)]
struct Document {
    package: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    #[serde(default)]
    version: String,
    #[serde(default)]
    cpes: Vec<String>,
    #[serde(default)]
    issue: Vec<RawIssue>,
}

#[derive(Deserialize)]
struct RawIssue {
    id: String,
    #[serde(default)]
    status: String,
    #[serde(default)]
    summary: Option<String>,
    #[serde(default)]
    scorev2: Option<String>,
    #[serde(default)]
    scorev3: Option<String>,
    #[serde(default)]
    scorev4: Option<String>,
}

impl Report {
    /// The recipes of a document. Reports of several recipes are never joined: each keeps its own issues.
    ///
    /// # Errors
    /// What is wrong with the text.
    pub fn parse(text: &str) -> Result<Vec<Report>, String> {
        let document: Document = serde_json::from_str(text).map_err(|error| error.to_string())?;
        Ok(document.package.into_iter().map(Report::from).collect())
    }

    pub fn unpatched(&self) -> BTreeSet<&str> {
        let unpatched = self.issues.iter().filter(|(_, issue)| issue.is_unpatched);
        unpatched.map(|(id, _)| id.as_str()).collect()
    }
}

impl From<Package> for Report {
    fn from(package: Package) -> Report {
        let issues = package.issue.into_iter().map(|issue| (issue.id.clone(), Issue::from(issue))).collect();
        Report { recipe: package.name, version: package.version, cpes: package.cpes, issues }
    }
}

impl From<RawIssue> for Issue {
    fn from(raw: RawIssue) -> Issue {
        let scores = [raw.scorev4, raw.scorev3, raw.scorev2];
        let score =
            scores.into_iter().flatten().find(|score| score.parse::<f64>().is_ok_and(|score| score > 0.0));
        Issue { is_unpatched: raw.status == "Unpatched", score, summary: raw.summary.unwrap_or_default() }
    }
}

/// The unpatched CVEs of one recipe, compared with those of the base.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Compared {
    /// That the base does not have.
    pub new: BTreeSet<String>,
    /// That the base has, too.
    pub known: BTreeSet<String>,
    /// That only the base has.
    pub fixed: BTreeSet<String>,
}

/// Compares a recipe with its version in the base; `None`: the base has no such recipe.
pub fn compare(head: &Report, base: Option<&Report>) -> Compared {
    let (now, before) = (head.unpatched(), base.map(Report::unpatched).unwrap_or_default());
    let owned = |ids: &mut dyn Iterator<Item = &&str>| ids.map(|id| (*id).to_owned()).collect();
    Compared {
        new: owned(&mut now.difference(&before)),
        known: owned(&mut now.intersection(&before)),
        fixed: owned(&mut before.difference(&now)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn report(recipe: &str, issues: &[(&str, &str)]) -> Report {
        let issues: Vec<_> =
            issues.iter().map(|(id, status)| format!(r#"{{"id": "{id}", "status": "{status}"}}"#)).collect();
        let text = format!(
            r#"{{"version": "1", "package": [{{"name": "{recipe}", "layer": "m", "version": "1.0", "issue": [{}]}}]}}"#,
            issues.join(",")
        );
        Report::parse(&text).unwrap().remove(0)
    }

    #[test]
    fn each_recipe_keeps_its_own_issues() {
        let text = r#"{"version": "1", "package": [
            {"name": "a", "version": "1", "products": [{"product": "a", "cvesInRecord": "Yes"}], "issue": [
                {"id": "CVE-2024-1", "summary": "bad", "scorev2": "0.0", "scorev3": "9.8", "status": "Unpatched"},
                {"id": "CVE-2024-2", "scorev3": "0.0", "status": "Patched"}]},
            {"name": "b", "version": "2", "cpes": ["cpe:2.3:*:*:b:2:*:*:*:*:*:*:*"], "issue": [
                {"id": "CVE-2024-3", "summary": null, "status": "Ignored"}]}]}"#;
        let reports = Report::parse(text).unwrap();
        let [a, b] = &reports[..] else { panic!("{reports:?}") };
        assert_eq!((a.recipe.as_str(), a.unpatched()), ("a", BTreeSet::from(["CVE-2024-1"])));
        assert_eq!(a.issues["CVE-2024-1"].score.as_deref(), Some("9.8"));
        assert_eq!(a.issues["CVE-2024-2"].score, None);
        assert_eq!((b.unpatched(), b.cpes.len()), (BTreeSet::new(), 1));
        for bad in ["", "{}", "[]", r#"{"package": [{"version": "1"}]}"#, r#"{"package": {}}"#] {
            assert!(Report::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(Report::parse(r#"{"package": []}"#).unwrap(), []);
    }

    #[test]
    fn only_unpatched_cves_that_the_base_has_not_are_new() {
        let head = report(
            "a",
            &[("C-1", "Unpatched"), ("C-2", "Unpatched"), ("C-3", "Patched"), ("C-4", "Ignored")],
        );
        let base = report("a", &[("C-1", "Unpatched"), ("C-2", "Patched"), ("C-3", "Unpatched")]);
        let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<BTreeSet<_>>();
        let compared = compare(&head, Some(&base));
        assert_eq!(compared, Compared { new: ids(&["C-2"]), known: ids(&["C-1"]), fixed: ids(&["C-3"]) });
        assert_eq!(compare(&head, None).new, ids(&["C-1", "C-2"]), "the recipe is new");
        assert_eq!(compare(&base, Some(&base)).new, ids(&[]));
    }
}
