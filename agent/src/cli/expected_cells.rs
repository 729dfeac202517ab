//! `report --cells`: the cells that must have a result, as `plan --cells` prints them for a workflow.

use serde::Deserialize;

use crate::report::{self, Summary, merged};
use agent_types::error::{Error, Result};
use agent_types::events::JobIdentity;
use agent_types::sanitize::sanitize_line;

/// The matrix of a workflow.
#[derive(Debug, Deserialize)]
pub struct ExpectedCells {
    include: Vec<ExpectedCell>,
}

#[derive(Debug, Deserialize)]
struct ExpectedCell {
    cell: String,
    #[serde(default)]
    release: String,
    #[serde(default)]
    machine: String,
}

impl ExpectedCells {
    /// # Errors
    /// Usage, if the text is not such a matrix, or has no cell.
    pub fn parse(text: &str) -> Result<ExpectedCells> {
        let hint = "give what `build-agent plan --cells` prints";
        let cells: ExpectedCells = serde_json::from_str(text)
            .map_err(|error| Error::usage("--cells is not a matrix").because(&error).hint(hint))?;
        match cells.include.is_empty() {
            true => Err(Error::usage("--cells has no cell").hint(hint)),
            false => Ok(cells),
        }
    }

    /// The results in the order of the cells; a cell without one is an error.
    ///
    /// # Errors
    /// Usage, if a result is that of no expected cell.
    pub fn complete(&self, mut jobs: Vec<Summary>) -> Result<Vec<Summary>> {
        let (name, commit) =
            jobs.first().map(|job| (job.job.name.clone(), job.job.commit.clone())).unwrap_or_default();
        let mut all = Vec::new();
        for expected in &self.include {
            let found = jobs.iter().position(|job| job.job.cell.as_ref() == Some(&expected.cell));
            all.push(match found {
                Some(place) => jobs.remove(place),
                None => expected.lost(&name, commit.as_ref()),
            });
        }
        match jobs.first() {
            None => Ok(all),
            Some(other) => {
                let label = merged::label(&other.job);
                Err(Error::usage(format!("the result of {label} is that of no cell of the matrix"))
                    .hint("name only the results of the cells of one run"))
            }
        }
    }
}

impl ExpectedCell {
    fn lost(&self, name: &str, commit: Option<&String>) -> Summary {
        let machines = self.machine.split_whitespace().map(str::to_owned).collect();
        let job = JobIdentity {
            name: name.to_owned(),
            release: self.release.clone(),
            machines,
            cell: Some(self.cell.clone()),
            commit: commit.cloned(),
            ..JobIdentity::default()
        };
        let message = sanitize_line(&format!("the cell {} has no result", self.cell)).into_owned();
        report::without_run(job, Error::machine(message).hint("read the log of its job"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::report::sample;
    use agent_types::outcome::ExitStatus;

    fn passed(cell: Option<&str>) -> Summary {
        let mut summary = sample::passed();
        summary.job.cell = cell.map(str::to_owned);
        summary
    }

    /// Every subset of four results.
    #[test]
    fn only_all_cells_together_pass() {
        let ids = ["a", "b", "c", "d"];
        let cells: Vec<String> =
            ids.iter().map(|id| format!(r#"{{"cell":"{id}","machine":"m n"}}"#)).collect();
        let expected = ExpectedCells::parse(&format!(r#"{{"include":[{}]}}"#, cells.join(","))).unwrap();
        for subset in 0..16_u32 {
            let there = |place: usize| subset & (1 << place) != 0;
            let jobs = (0..4).rev().filter(|place| there(*place)).map(|place| passed(Some(ids[place])));
            let all = expected.complete(jobs.collect()).unwrap();
            let found: Vec<&str> = all.iter().map(|job| job.job.cell.as_deref().unwrap()).collect();
            assert_eq!(found, ids);
            assert_eq!(merged::exit(&all) == ExitStatus::Passed, subset == 15, "{subset:04b}");
        }
    }

    #[test]
    fn other_results_and_other_texts_are_rejected() {
        let expected = ExpectedCells::parse(r#"{"include":[{"cell":"a"}]}"#).unwrap();
        assert!(expected.complete(vec![passed(Some("a")), passed(Some("b"))]).is_err());
        assert!(expected.complete(vec![passed(None)]).is_err());
        for text in ["", "[]", r#"{"include":[]}"#, r#"{"include":[{"machine":"a"}]}"#] {
            assert!(ExpectedCells::parse(text).is_err(), "{text}");
        }
    }
}
