//! When each BitBake task of a job ran: one row of numbers for each task, with all names in tables beside it.
//! 40,000 tasks take about 2 MB, here and in `result.json`.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use agent_types::events::{Task, TaskStarted};
use agent_types::outcome::Outcome;

use super::rows::{on_one_line, one_a_line};

/// Rows that are kept. Layer code can print as many ends of tasks as it likes; a large world has 40,000.
const RUNS_KEPT: usize = 200_000;
/// Bytes of different names that are kept, and of each name.
const NAMES_KEPT: usize = 4 << 20;
const NAME_BYTES: usize = 250;

/// The runs of all tasks of a job.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Timeline {
    /// Recipes with their versions; `mc:NAME:` before those of a multiconfig.
    recipes: Vec<String>,
    tasks: Vec<String>,
    /// All outcomes that a task had.
    outcomes: Vec<Outcome>,
    /// In the order of their first events.
    #[serde(serialize_with = "one_a_line")]
    runs: Vec<Run>,
    /// For each row the row of the task for which it waited: of the tasks that it depends on and that ran, the one that
    /// ended last. `null`: it waited for no task. Empty if BitBake did not report it; rows at the end may be missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty", serialize_with = "on_one_line")]
    after: Vec<Option<u32>>,
    /// Tasks that finished and have no row here.
    #[serde(default, skip_serializing_if = "is_zero")]
    omitted: u64,
    #[serde(skip)]
    index: Index,
}

/// One run of one task. In JSON `[unit, recipe, task, start, end, outcome]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Row", into = "Row")]
struct Run {
    /// Indexes into the summary's units and into the tables above.
    unit: u32,
    recipe: u32,
    task: u32,
    /// Milliseconds since the job's start; `None` if BitBake did not report it.
    start: Option<u32>,
    end: Option<u32>,
    /// `None` while it runs.
    outcome: Option<u32>,
}

/// One run of one task, with its names.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TaskRun<'a> {
    /// Index into the summary's units.
    pub unit: usize,
    /// With its version; `mc:NAME:` before that of a multiconfig.
    pub recipe: &'a str,
    pub task: &'a str,
    /// Milliseconds since the job's start; `None` if BitBake did not report it.
    pub start: Option<u32>,
    pub end: Option<u32>,
    /// `None` while it runs.
    pub outcome: Option<&'a Outcome>,
    /// The place of the run for which this one waited.
    pub after: Option<usize>,
}

type Row = (u32, u32, u32, Option<u32>, Option<u32>, Option<u32>);

impl From<Row> for Run {
    fn from((unit, recipe, task, start, end, outcome): Row) -> Run {
        Run { unit, recipe, task, start, end, outcome }
    }
}

impl From<Run> for Row {
    fn from(Run { unit, recipe, task, start, end, outcome }: Run) -> Row {
        (unit, recipe, task, start, end, outcome)
    }
}

/// Finds what is in the tables already. Only needed while events come in.
#[derive(Clone, Debug, Default)]
struct Index {
    recipes: HashMap<String, u32>,
    tasks: HashMap<String, u32>,
    name_bytes: usize,
    /// The rows of tasks that run, by unit, recipe and task.
    running: HashMap<(u32, u32, u32), usize>,
    /// The rows of the tasks of the last run of BitBake, by unit and BitBake's number.
    numbers: HashMap<(u32, u32), u32>,
}

/// The same runs; how they are found does not matter.
impl PartialEq for Timeline {
    fn eq(&self, other: &Timeline) -> bool {
        (&self.recipes, &self.tasks, &self.outcomes, &self.runs, &self.after, self.omitted)
            == (&other.recipes, &other.tasks, &other.outcomes, &other.runs, &other.after, other.omitted)
    }
}

impl Timeline {
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty() && self.omitted == 0
    }

    /// Tasks that finished and are not among the runs.
    pub fn omitted(&self) -> u64 {
        self.omitted
    }

    /// All runs, in the order of their first events. Other numbers of a run are places in this list.
    pub fn runs(&self) -> impl ExactSizeIterator<Item = TaskRun<'_>> {
        self.runs.iter().enumerate().map(|(place, run)| self.named(place, run))
    }

    fn named(&self, place: usize, run: &Run) -> TaskRun<'_> {
        TaskRun {
            unit: run.unit as usize,
            recipe: name(&self.recipes, run.recipe),
            task: name(&self.tasks, run.task),
            start: run.start,
            end: run.end,
            outcome: run.outcome.and_then(|outcome| self.outcomes.get(outcome as usize)),
            after: self.after.get(place).copied().flatten().map(|after| after as usize),
        }
    }

    /// A task of this unit started so many milliseconds after the job.
    pub fn started(&mut self, unit: usize, start: &TaskStarted, at: u64) {
        let Some(key) = self.key(unit, &start.task) else { return };
        let Some(row) = self.add(key, Some(milliseconds(at))) else { return };
        let Some(number) = start.number else { return };
        let (unit, ..) = key;
        let after = start.after.and_then(|after| self.index.numbers.get(&(unit, after)).copied());
        self.index.numbers.insert((unit, number), index(row));
        if after.is_some() {
            self.after.resize(row, None);
            self.after.push(after);
        }
    }

    /// It finished, whether its start was heard of or not.
    pub fn finished(&mut self, unit: usize, task: &Task, at: u64, outcome: &Outcome) {
        let row = self.key(unit, task).and_then(|key| match self.index.running.remove(&key) {
            Some(row) => Some(row),
            None => {
                let row = self.add(key, None);
                self.index.running.remove(&key);
                row
            }
        });
        let Some(row) = row else {
            self.omitted += 1;
            return;
        };
        let outcome = self.outcome(outcome);
        if let Some(run) = self.runs.get_mut(row) {
            run.end = Some(milliseconds(at));
            run.outcome = Some(outcome);
        }
    }

    /// Nobody will tell how the tasks that still run ended: of one unit, or of all. Their ends stay unknown.
    pub fn settle(&mut self, unit: Option<usize>, outcome: &Outcome) {
        let unit = unit.map(index);
        let is_meant = |found: u32| unit.is_none_or(|unit| unit == found);
        let mut rows = Vec::new();
        self.index.running.retain(|(unit, ..), row| {
            let ends = is_meant(*unit);
            rows.extend(ends.then_some(*row));
            !ends
        });
        if rows.is_empty() {
            return;
        }
        let outcome = self.outcome(outcome);
        for row in rows {
            if let Some(run) = self.runs.get_mut(row) {
                run.outcome = Some(outcome);
            }
        }
    }

    fn add(&mut self, key: (u32, u32, u32), start: Option<u32>) -> Option<usize> {
        if self.runs.len() >= RUNS_KEPT {
            return None;
        }
        let (unit, recipe, task) = key;
        self.runs.push(Run { unit, recipe, task, start, end: None, outcome: None });
        let row = self.runs.len() - 1;
        // A task that starts again without an end is a new run; the old one keeps no end.
        if let Some(old) = self.index.running.insert(key, row) {
            let outcome = self.outcome(&Outcome::NotRun("it started again before it finished".into()));
            if let Some(run) = self.runs.get_mut(old) {
                run.outcome = Some(outcome);
            }
        }
        Some(row)
    }

    fn key(&mut self, unit: usize, task: &Task) -> Option<(u32, u32, u32)> {
        let recipe = match &task.mc {
            None => cut(&task.recipe).to_owned(),
            Some(mc) => cut(&format!("mc:{mc}:{}", task.recipe)).to_owned(),
        };
        let Index { recipes, tasks, name_bytes, .. } = &mut self.index;
        let recipe = intern(&recipe, &mut self.recipes, recipes, name_bytes)?;
        let task = intern(cut(&task.task), &mut self.tasks, tasks, name_bytes)?;
        Some((index(unit), recipe, task))
    }

    fn outcome(&mut self, outcome: &Outcome) -> u32 {
        let known = self.outcomes.iter().position(|known| known == outcome);
        index(known.unwrap_or_else(|| {
            // A layer can make each reason different.
            let full = self.outcomes.len() >= OUTCOMES_KEPT;
            let outcome = if full { without_reason(outcome) } else { outcome.clone() };
            match self.outcomes.iter().position(|known| *known == outcome) {
                Some(known) => known,
                None => {
                    self.outcomes.push(outcome);
                    self.outcomes.len() - 1
                }
            }
        }))
    }
}

/// Outcomes with reasons of their own; the failed tasks are listed with more elsewhere.
const OUTCOMES_KEPT: usize = 50;

fn without_reason(outcome: &Outcome) -> Outcome {
    outcome.map_reason(|_| "its log says why".to_owned())
}

/// The name's place in its table; `None` if the table is full.
fn intern(
    name: &str,
    table: &mut Vec<String>,
    known: &mut HashMap<String, u32>,
    bytes: &mut usize,
) -> Option<u32> {
    if let Some(found) = known.get(name) {
        return Some(*found);
    }
    if *bytes + name.len() > NAMES_KEPT {
        return None;
    }
    *bytes += name.len();
    let place = index(table.len());
    table.push(name.to_owned());
    known.insert(name.to_owned(), place);
    Some(place)
}

/// The name at this place. A file may have any numbers.
fn name(names: &[String], place: u32) -> &str {
    names.get(place as usize).map_or("?", String::as_str)
}

fn cut(name: &str) -> &str {
    &name[..name.floor_char_boundary(NAME_BYTES)]
}

fn index(place: usize) -> u32 {
    u32::try_from(place).unwrap_or(u32::MAX)
}

/// Fits 49 days.
fn milliseconds(at: u64) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use agent_types::events::Unit;
    use agent_types::stage::Stage;

    fn task(recipe: &str, task: &str) -> Task {
        Task::new(Unit::new(Stage::Build, "x"), recipe, task)
    }

    fn start(recipe: &str, name: &str) -> TaskStarted {
        task(recipe, name).into()
    }

    /// A run with its names: recipe, task, start, end, and the word of its outcome.
    type Named<'a> = (&'a str, &'a str, Option<u32>, Option<u32>, Option<&'a str>);

    fn named<'a>(timeline: &'a Timeline) -> Vec<Named<'a>> {
        let outcome = |run: &TaskRun<'a>| run.outcome.map(Outcome::word);
        timeline.runs().map(|run| (run.recipe, run.task, run.start, run.end, outcome(&run))).collect()
    }

    #[test]
    fn starts_and_ends_are_paired_and_none_is_invented() {
        let mut timeline = Timeline::default();
        let musl = Task { mc: Some("musl".into()), ..task("a-1-r0", "do_fetch") };
        timeline.started(0, &start("a-1-r0", "do_fetch"), 10);
        timeline.started(0, &musl.clone().into(), 11);
        timeline.started(0, &start("b-1-r0", "do_fetch"), 12);
        timeline.finished(0, &task("a-1-r0", "do_fetch"), 20, &Outcome::Passed);
        timeline.finished(0, &task("c-1-r0", "do_fetch"), 21, &Outcome::Failed("exit code 1".into()));
        timeline.finished(0, &musl, 22, &Outcome::Passed);
        timeline.started(0, &start("a-1-r0", "do_fetch"), 30);
        timeline.started(0, &start("a-1-r0", "do_fetch"), 31);
        timeline.started(1, &start("a-1-r0", "do_fetch"), 32);
        let before = named(&timeline).last().copied();
        assert_eq!(before, Some(("a-1-r0", "do_fetch", Some(32), None, None)));
        timeline.settle(Some(0), &Outcome::Cancelled("SIGTERM".into()));
        timeline.settle(None, &Outcome::NotRun("killed".into()));
        let wanted = [
            ("a-1-r0", "do_fetch", Some(10), Some(20), Some("passed")),
            ("mc:musl:a-1-r0", "do_fetch", Some(11), Some(22), Some("passed")),
            ("b-1-r0", "do_fetch", Some(12), None, Some("cancelled")),
            ("c-1-r0", "do_fetch", None, Some(21), Some("failed")),
            ("a-1-r0", "do_fetch", Some(30), None, Some("not-run")),
            ("a-1-r0", "do_fetch", Some(31), None, Some("cancelled")),
            ("a-1-r0", "do_fetch", Some(32), None, Some("not-run")),
        ];
        assert_eq!(named(&timeline), wanted);
        let text = serde_json::to_string_pretty(&timeline).unwrap();
        assert!(text.contains("\n[0,0,0,10,20,0],\n[0,1,0,11,22,0],\n[0,2,0,12,null,"), "{text}");
        assert_eq!(serde_json::from_str::<Timeline>(&text).unwrap(), timeline);
    }

    /// Numbers belong to one run of BitBake in one unit; unknown ones are ignored.
    #[test]
    fn a_run_names_the_run_for_which_it_waited() {
        let mut timeline = Timeline::default();
        let numbered = |recipe: &str, number: u32, after: Option<u32>| TaskStarted {
            number: Some(number),
            after,
            ..start(recipe, "do_x")
        };
        for (unit, start) in [
            (0, numbered("a", 1, None)),
            (0, numbered("b", 2, Some(1))),
            (0, start("text", "do_x")),
            (0, numbered("c", 3, Some(9))),
            (0, numbered("d", 4, Some(2))),
            (1, numbered("a", 1, Some(4))),
            // The same unit again.
            (0, numbered("a", 1, None)),
            (0, numbered("b", 2, Some(1))),
            (0, numbered("loop", 5, Some(5))),
        ] {
            timeline.started(unit, &start, 1);
        }
        let after: Vec<_> = timeline.runs().map(|run| run.after).collect();
        let wanted = [None, Some(0), None, None, Some(1), None, None, Some(6), None];
        assert_eq!(after, wanted);
        let text = serde_json::to_string_pretty(&timeline).unwrap();
        assert!(text.contains("\"after\": [null,0,null,null,1,null,null,6]"), "{text}");
        assert_eq!(serde_json::from_str::<Timeline>(&text).unwrap(), timeline);
        let forged = text.replace("[0,0,0,1,", "[7,77,777,1,");
        let forged = serde_json::from_str::<Timeline>(&forged).unwrap();
        assert_eq!(forged.runs().next().map(|run| (run.recipe, run.task)), Some(("?", "?")));
    }

    /// A layer may print that tasks ran until the job's time is over.
    #[test]
    fn a_flood_of_tasks_has_bounds() {
        let mut timeline = Timeline::default();
        let ends = RUNS_KEPT + 1000;
        for number in 0..ends {
            let why = Outcome::Failed(number.to_string());
            timeline.finished(0, &task(&number.to_string(), "do_x"), 4_000_000_000, &why);
        }
        assert_eq!((timeline.runs.len(), timeline.omitted), (RUNS_KEPT, 1000));
        assert!(timeline.outcomes.len() <= OUTCOMES_KEPT + 1);
        let text = serde_json::to_string_pretty(&timeline).unwrap();
        assert!(text.len() < 16_000_000, "{}", text.len());

        let mut timeline = Timeline::default();
        for number in 0..40_000 {
            let name = format!("{number}{}", "é".repeat(200));
            timeline.started(0, &start(&name, "do_x"), 1);
        }
        let bytes: usize = timeline.recipes.iter().map(String::len).sum();
        assert!(bytes <= NAMES_KEPT && timeline.recipes.iter().all(|name| name.len() <= NAME_BYTES));
    }
}
