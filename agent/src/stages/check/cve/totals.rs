//! The outcome of each recipe and of the whole check, in numbers and words.

use std::collections::BTreeSet;

use agent_types::outcome::Outcome;
use agent_types::words::count;
use agent_yocto::cve::Compared;

/// The outcome of one recipe.
pub fn recipe_outcome(has_report: bool, is_broken: bool, compared: Option<&Compared>) -> Outcome {
    match compared {
        _ if is_broken => Outcome::NotRun("its task failed".into()),
        _ if !has_report => Outcome::Skipped(
            "it has no report: its CVE_PRODUCT is empty, or it is in CVE_CHECK_SKIP_RECIPE".into(),
        ),
        Some(compared) if !compared.new.is_empty() => {
            Outcome::Failed(format!("new: {}", list(&compared.new)))
        }
        _ => Outcome::Passed,
    }
}

fn list(ids: &BTreeSet<String>) -> String {
    ids.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// `new: …; as in the base: …; fixed: …`
pub fn sentence(compared: &Compared) -> String {
    let parts =
        [("new", &compared.new), ("unpatched as before", &compared.known), ("fixed", &compared.fixed)];
    let parts = parts.iter().filter(|(_, ids)| !ids.is_empty());
    parts.map(|(word, ids)| format!("{word}: {}", list(ids))).collect::<Vec<_>>().join("; ")
}

/// The numbers of the whole check.
#[derive(Debug, Default)]
pub struct Totals {
    checked: u64,
    new: u64,
    known: u64,
    fixed: u64,
    /// The first recipe with new CVEs.
    first: Option<String>,
    broken: Option<String>,
}

impl Totals {
    pub fn add(&mut self, recipe: &str, has_report: bool, is_broken: bool, compared: Option<&Compared>) {
        self.checked += u64::from(has_report);
        if is_broken {
            self.broken.get_or_insert_with(|| recipe.to_owned());
        }
        let Some(compared) = compared else { return };
        self.new += compared.new.len() as u64;
        self.known += compared.known.len() as u64;
        self.fixed += compared.fixed.len() as u64;
        if let Some(id) = compared.new.first() {
            self.first.get_or_insert_with(|| format!("{recipe} has {id}"));
        }
    }

    pub fn sentence(&self, has_base: bool) -> String {
        let checked = count(self.checked, "recipe");
        match has_base {
            true => format!(
                "{checked} checked for CVEs: {} new, {} as in the base, {} fixed",
                self.new, self.known, self.fixed
            ),
            false => format!(
                "{checked} checked for CVEs: {} unpatched; none counts as new, because the base is not known",
                self.known
            ),
        }
    }

    pub fn outcome(&self, wanted: usize) -> Outcome {
        match (&self.first, &self.broken) {
            (Some(first), _) => {
                let more = if self.new > 1 { format!(" and {} more", self.new - 1) } else { String::new() };
                Outcome::Failed(format!("new CVEs: {first}{more}"))
            }
            (None, Some(broken)) => {
                Outcome::NotRun(format!("{broken} could not be checked: its task failed"))
            }
            (None, None) if self.checked == 0 => {
                Outcome::Failed(format!("no recipe was checked for CVEs, of {wanted} that should have been"))
            }
            (None, None) => Outcome::Passed,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn only_new_cves_fail_and_an_empty_check_does_not_pass() {
        let compared = |new: &[&str], known: &[&str]| Compared {
            new: set(new),
            known: set(known),
            ..Compared::default()
        };
        type Row<'a> = (&'a [(&'a str, Option<Compared>, bool)], &'a str);
        let table: [Row; 6] = [
            (&[("a", Some(compared(&[], &[])), false)], "passed"),
            (&[("a", Some(compared(&[], &["C-1"])), false), ("b", None, false)], "passed"),
            (&[("a", Some(compared(&["C-2"], &["C-1"])), false)], "failed"),
            (&[("a", None, false)], "failed"),
            (&[("a", Some(compared(&[], &[])), false), ("b", None, true)], "not-run"),
            (&[("a", Some(compared(&["C-2"], &[])), false), ("b", None, true)], "failed"),
        ];
        for (recipes, wanted) in table {
            let mut totals = Totals::default();
            for (name, compared, broken) in recipes {
                totals.add(name, compared.is_some(), *broken, compared.as_ref());
            }
            assert_eq!(totals.outcome(recipes.len()).word(), wanted, "{recipes:?}");
        }
    }

    #[test]
    fn the_outcome_of_a_recipe_says_why() {
        let compared = Compared { new: set(&["C-1", "C-2"]), known: set(&["C-3"]), fixed: set(&["C-4"]) };
        assert_eq!(recipe_outcome(true, false, Some(&compared)), Outcome::Failed("new: C-1, C-2".into()));
        assert_eq!(sentence(&compared), "new: C-1, C-2; unpatched as before: C-3; fixed: C-4");
        assert_eq!(recipe_outcome(true, false, Some(&Compared::default())), Outcome::Passed);
        assert_eq!(recipe_outcome(false, false, None).word(), "skipped");
        assert_eq!(recipe_outcome(false, true, None).word(), "not-run");
    }
}
