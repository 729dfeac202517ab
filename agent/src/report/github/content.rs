//! From a summary to what is posted.

use agent_devices::request::Verdict;
use agent_github::checks::{Conclusion, Output};
use agent_github::statuses::{State, Status};
use agent_types::error::Error;
use agent_types::outcome::{ExitStatus, Outcome};
use agent_types::sanitize::sanitize_line;
use agent_types::stage::Stage;

use super::place::Place;
use crate::report::comparison::Comparison;
use crate::report::console::{duration, failures, job_name, plain_verdict};
use crate::report::markdown::{self, Options};
use crate::report::summary::{StageError, Summary};
use crate::report::totals::suites;

/// The stages whose outcome is a status of its own.
const DECIDING: [Stage; 4] = [Stage::Check, Stage::Build, Stage::Test, Stage::Publish];

/// Maximum bytes of the summary of a check run, and of the section of a comment.
const CHECK: usize = 60_000;
const COMMENT: usize = 20_000;

/// The verdict in one line, without the job's name.
pub fn title(summary: &Summary, comparison: Option<&Comparison>) -> String {
    let failures = failures(summary, &suites(summary));
    let (word, about) = plain_verdict(summary, &failures);
    let about = about.strip_prefix(&format!("{}: ", job_name(&summary.job))).unwrap_or(&about).to_owned();
    let changes = comparison.map(changes).unwrap_or_default();
    if changes.is_empty() { format!("{word}: {about}") } else { format!("{word}: {changes}; {about}") }
}

/// `2 new failures, 1 still failing`; empty if nothing failed.
fn changes(comparison: &Comparison) -> String {
    let part = |number: usize, one: &str, many: &str| match number {
        0 => None,
        1 => Some(format!("1 {one}")),
        _ => Some(format!("{number} {many}")),
    };
    let parts = [
        part(comparison.new_failures.len(), "new failure", "new failures"),
        part(comparison.still_failing.len(), "still failing", "still failing"),
        part(comparison.vanished.len(), "test vanished", "tests vanished"),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// The prefix of contexts, and the name of the check run.
pub fn context(name: &str) -> String {
    format!("build-agent: {name}")
}

/// One status for the job, and one for each stage that decides.
pub fn statuses(summary: &Summary, comparison: Option<&Comparison>, place: &Place) -> Vec<Status> {
    let status = |context: String, state: State, description: String| Status {
        state,
        context,
        description: sanitize_line(&description).into_owned(),
        target_url: link(summary, place),
    };
    let mut all = vec![status(context(&place.name), state(summary), title(summary, comparison))];
    let planned = summary.plan.iter().filter(|planned| planned.skip.is_none());
    for stage in planned.map(|planned| planned.stage).filter(|stage| DECIDING.contains(stage)) {
        let result = summary.stages.iter().find(|result| result.stage == stage);
        let outcome = result.and_then(|result| result.outcome.clone());
        let outcome = outcome.unwrap_or_else(|| Outcome::NotRun("the job ended before it".to_owned()));
        let took = result.and_then(|result| result.seconds).map(duration);
        let about = outcome.reason().and_then(|why| why.lines().next()).map(str::to_owned).or(took);
        let description = match about {
            Some(about) => format!("{}: {about}", outcome.word()),
            None => outcome.word().to_owned(),
        };
        all.push(status(format!("{} / {stage}", context(&place.name)), stage_state(&outcome), description));
    }
    all
}

/// The status of a job that has not ended.
pub fn pending(place: &Place, what: &str) -> Status {
    Status {
        state: State::Pending,
        context: context(&place.name),
        description: what.to_owned(),
        target_url: place.link.clone(),
    }
}

fn state(summary: &Summary) -> State {
    match summary.exit {
        ExitStatus::Passed if summary.complete => State::Success,
        ExitStatus::Failed if summary.complete => State::Failure,
        _ => State::Error,
    }
}

fn stage_state(outcome: &Outcome) -> State {
    match outcome {
        Outcome::Passed | Outcome::Flaky(_) | Outcome::Skipped(_) => State::Success,
        Outcome::Failed(_) => State::Failure,
        Outcome::NotRun(_) | Outcome::TimedOut(_) | Outcome::Cancelled(_) => State::Error,
    }
}

/// The conclusion of the check run. An error of the agent or the machine is a failure, too: the change is not verified.
pub fn conclusion(summary: &Summary) -> Conclusion {
    match summary.exit {
        ExitStatus::Passed if summary.complete => Conclusion::Success,
        ExitStatus::OutOfTime => Conclusion::TimedOut,
        ExitStatus::Cancelled => Conclusion::Cancelled,
        _ => Conclusion::Failure,
    }
}

/// The page of the check run. `left`: findings without an annotation.
pub fn output(summary: &Summary, comparison: Option<&Comparison>, place: &Place, left: usize) -> Output {
    let more = match left {
        0 => String::new(),
        1 => "\n1 finding has no annotation.\n".to_owned(),
        _ => format!("\n{left} findings have no annotation.\n"),
    };
    let text = body(summary, place, CHECK - more.len());
    Output { title: title(summary, comparison), summary: text + &more }
}

/// The section of the comment.
pub fn comment(summary: &Summary, place: &Place) -> String {
    body(summary, place, COMMENT)
}

/// Whether a pull request without a comment needs one.
pub fn is_problem(summary: &Summary) -> bool {
    state(summary) != State::Success
}

/// The short report. All text of layers and tools is escaped.
fn body(summary: &Summary, place: &Place, limit: usize) -> String {
    markdown::render(summary, &Options { link: link(summary, place), limit })
}

/// The stored report, else what the place names.
pub fn link(summary: &Summary, place: &Place) -> Option<String> {
    summary.report_url().map(str::to_owned).or_else(|| place.link.clone())
}

/// The summary in place of a result that is missing, damaged or not to be believed.
pub fn unreadable_result(why: &str, place: &Place) -> Summary {
    let error = Error::internal(format!("there is no result that can be used: {why}"))
        .hint("look at the log of the build; it may have been killed");
    let outcome = Outcome::NotRun(error.message.clone());
    let mut summary = Summary { complete: true, exit: ExitStatus::Internal, outcome, ..Summary::default() };
    summary.job.name.clone_from(&place.name);
    summary.job.release = "this commit".to_owned();
    summary.job.commit = Some(place.commit.clone());
    summary.errors.push(StageError { stage: None, error });
    summary
}

/// The summary of a request that no device tested.
pub fn device_without_result(verdict: &Verdict, place: &Place) -> Summary {
    let why = verdict.outcome.reason().unwrap_or("it gave no reason");
    let error = Error::upstream(format!("no device tested the image: {why}"))
        .hint("look at the labs: build-agent lab devices");
    let mut summary = Summary {
        complete: true,
        exit: verdict.exit,
        outcome: verdict.outcome.clone(),
        ..Summary::default()
    };
    if verdict.exit == ExitStatus::Passed {
        // Nothing was tested.
        (summary.exit, summary.outcome) = (ExitStatus::Internal, Outcome::NotRun(error.message.clone()));
    }
    summary.job.name.clone_from(&place.name);
    summary.job.release = "this commit".to_owned();
    summary.job.commit = Some(place.commit.clone());
    summary.errors.push(StageError { stage: None, error });
    summary
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::CommentWhen;
    use crate::report::markdown::outside_of_code::outside_of_code;
    use crate::report::sample::{at, failing_job, passing_job, reduce};
    use agent_types::base_result::TestId;
    use agent_types::events::EventKind;

    fn place() -> Place {
        Place {
            repository: "example/meta-x".parse().unwrap(),
            commit: "1".repeat(40),
            git_ref: None,
            pull_request: Some(7),
            no_comment: None,
            name: "meta-x scarthgap".into(),
            job: "job-1".into(),
            link: Some("https://example.org/report".into()),
            comment: CommentWhen::OnFailure,
        }
    }

    fn passed() -> Summary {
        let mut events = passing_job();
        events.push(at(9000, EventKind::JobFinished { exit: ExitStatus::Passed, outcome: Outcome::Passed }));
        reduce(&events)
    }

    #[test]
    fn each_stage_that_decides_has_a_status() {
        let found = statuses(&reduce(&failing_job()), None, &place());
        let short: Vec<_> = found.iter().map(|one| (one.state, one.context.as_str())).collect();
        assert_eq!(
            short,
            [
                (State::Error, "build-agent: meta-x scarthgap"),
                (State::Failure, "build-agent: meta-x scarthgap / check"),
                (State::Failure, "build-agent: meta-x scarthgap / build"),
                (State::Error, "build-agent: meta-x scarthgap / publish"),
            ]
        );
        assert!(found[0].description.starts_with("ERROR: upstream"), "{}", found[0].description);
        assert!(found.iter().all(|one| one.target_url.as_deref() == Some("https://example.org/report")));
        let found = statuses(&passed(), None, &place());
        assert!(found.len() > 1 && found.iter().all(|one| one.state == State::Success), "{found:#?}");
    }

    /// Nothing that has not ended, and no error, is green.
    #[test]
    fn only_a_job_that_passed_is_green() {
        for exit in ExitStatus::ALL {
            for complete in [true, false] {
                let summary = Summary { exit, complete, ..passed() };
                let is_green = exit == ExitStatus::Passed && complete;
                assert_eq!(state(&summary) == State::Success, is_green, "{exit:?} {complete}");
                assert_eq!(conclusion(&summary) == Conclusion::Success, is_green, "{exit:?} {complete}");
                assert_eq!(is_problem(&summary), !is_green);
            }
        }
        let missing = unreadable_result("it does not exist", &place());
        assert_eq!((state(&missing), conclusion(&missing)), (State::Error, Conclusion::Failure));
        assert!(title(&missing, None).contains("it does not exist"), "{}", title(&missing, None));
    }

    #[test]
    fn the_title_counts_what_is_new() {
        let id = |name: &str| TestId { suite: "s".into(), class: String::new(), name: name.into() };
        let comparison = Comparison {
            new_failures: vec![id("a"), id("b")],
            still_failing: vec![id("c")],
            vanished: vec![id("d")],
            ..Comparison::default()
        };
        let text = title(&reduce(&failing_job()), Some(&comparison));
        assert!(
            text.starts_with("ERROR: 2 new failures, 1 still failing, 1 test vanished; upstream"),
            "{text}"
        );
    }

    #[test]
    fn hostile_text_is_escaped_and_bounded() {
        let hostile = "</details><img src=x onerror=alert(1)> @everyone #1 ![x](https://evil.example/p.png) [a](javascript:b) \
                       <!-- build-agent:end meta-x scarthgap --> `x` | ``` \n# heading\n";
        let mut summary = reduce(&failing_job());
        summary.outcome = Outcome::Failed(hostile.into());
        summary.errors.clear();
        summary.exit = ExitStatus::Failed;
        for finding in &mut summary.findings {
            finding.message = hostile.repeat(20_000);
        }
        for unit in &mut summary.units {
            unit.excerpt = vec![hostile.to_owned(); 200];
            for case in &mut unit.cases {
                case.message = hostile.repeat(100);
                case.name = hostile.to_owned();
            }
        }
        let output = output(&summary, None, &place(), 3);
        assert!(output.summary.len() <= CHECK && comment(&summary, &place()).len() <= COMMENT);
        assert!(output.summary.contains("3 findings have no annotation."));
        assert!(output.summary.contains("[The whole report](<https://example.org/report>)"));
        // Outside of code there is nothing of it.
        let outside = outside_of_code(&output.summary);
        for bad in ["<img", "@everyone", "javascript", "<!--", "evil.example", "# heading"] {
            assert!(!outside.contains(bad), "{bad} in {outside}");
        }
    }
}
