//! The chain of tasks that decided how long a build took.

use super::summary::Summary;
use super::timeline::TaskRun;

/// The critical paths of all units, as places in [`Timeline::runs`](super::timeline::Timeline::runs): for each unit the
/// task that ended last, the one for which it waited, and so on, in the order of time. Empty for a unit whose BitBake
/// did not report for what its tasks waited.
pub fn critical_path(summary: &Summary) -> Vec<usize> {
    let runs: Vec<TaskRun<'_>> = summary.timeline.runs().collect();
    let mut path = Vec::new();
    for unit in 0..summary.units.len() {
        let of_unit = || runs.iter().enumerate().filter(|(_, run)| run.unit == unit);
        if !of_unit().any(|(_, run)| run.after.is_some()) {
            continue;
        }
        let last = of_unit().filter(|(_, run)| run.end.is_some()).max_by_key(|(_, run)| run.end);
        let mut chain = Vec::new();
        let mut next = last.map(|(place, _)| place);
        while let Some(place) = next {
            chain.push(place);
            // A task starts after those for which it waits. A file may say something else, and must not make a circle.
            next = runs.get(place).and_then(|run| run.after).filter(|after| *after < place);
        }
        path.extend(chain.into_iter().rev());
    }
    path
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::report::sample::{at, image, reduce, unit_started};
    use agent_types::events::{Event, EventKind, Task, TaskFinished, TaskStarted, Unit};
    use agent_types::outcome::Outcome;
    use agent_types::stage::Stage;

    /// A task with its number, the number for which it waited, its start and its end.
    type Given<'a> = (&'a str, u32, Option<u32>, u64, Option<u64>);

    fn events(unit: &Unit, tasks: &[Given<'_>]) -> Vec<Event> {
        let mut events = vec![at(0, unit_started(unit))];
        for (name, number, after, start, end) in tasks {
            let task = Task::new(unit.clone(), *name, "do_x");
            let started = TaskStarted { task: task.clone(), number: Some(*number), after: *after };
            events.push(at(*start, EventKind::TaskStarted(started)));
            let finished = TaskFinished { task, outcome: Outcome::Passed, log: None };
            events.extend(end.map(|end| at(end, EventKind::TaskFinished(finished))));
        }
        events.sort_by_key(|event| event.time);
        events
    }

    fn names(summary: &Summary) -> Vec<String> {
        let runs: Vec<_> = summary.timeline.runs().collect();
        critical_path(summary).into_iter().map(|place| runs[place].recipe.to_owned()).collect()
    }

    #[test]
    fn the_path_goes_from_the_last_end_back_to_a_task_that_waited_for_none() {
        let table: &[(&[Given<'_>], &[&str])] = &[
            (&[], &[]),
            // BitBake reported no dependencies.
            (&[("a", 1, None, 0, Some(5)), ("b", 2, None, 5, Some(9))], &[]),
            (&[("a", 1, None, 0, Some(5)), ("b", 2, Some(1), 5, Some(9))], &["a", "b"]),
            // The long task is not on it, because nothing waited for it.
            (
                &[
                    ("a", 1, None, 0, Some(2)),
                    ("long", 2, None, 0, Some(80)),
                    ("b", 3, Some(1), 2, Some(50)),
                    ("c", 4, Some(3), 50, Some(90)),
                ],
                &["a", "b", "c"],
            ),
            // What did not end is on no path.
            (
                &[
                    ("a", 1, None, 0, Some(5)),
                    ("b", 2, Some(1), 5, Some(9)),
                    ("stopped", 3, Some(2), 9, None),
                ],
                &["a", "b"],
            ),
            (&[("a", 1, None, 0, None), ("b", 2, Some(1), 5, None)], &[]),
        ];
        for (tasks, wanted) in table {
            assert_eq!(names(&reduce(&events(&image(), tasks))), *wanted, "{tasks:?}");
        }
    }

    #[test]
    fn each_unit_has_its_own_path() {
        let other = Unit::new(Stage::Build, "another image");
        let mut all = events(&image(), &[("a", 1, None, 0, Some(5)), ("b", 2, Some(1), 5, Some(9))]);
        all.extend(events(&other, &[("c", 1, None, 10, Some(15)), ("d", 2, Some(1), 15, Some(19))]));
        assert_eq!(names(&reduce(&all)), ["a", "b", "c", "d"]);
    }

    #[test]
    fn a_forged_file_makes_no_circle() {
        let tasks =
            [("a", 1, None, 0, Some(5)), ("b", 2, Some(1), 5, Some(9)), ("c", 3, Some(2), 9, Some(12))];
        let summary = reduce(&events(&image(), &tasks));
        let text = serde_json::to_string(&summary).unwrap();
        for forged in ["[1,2,1]", "[2,0,1]", "[0,1,2]", "[9,99,999]"] {
            let forged = text.replace("[null,0,1]", forged);
            assert_ne!(forged, text);
            let summary: Summary = serde_json::from_str(&forged).unwrap();
            assert!(critical_path(&summary).len() <= 3);
        }
    }
}
