//! The lines of the live consoles: one for each finished step, failures and findings at once.

use std::collections::HashMap;

use crate::report::summary::At;
use agent_types::events::{
    CacheOutcome, CacheQuery, Event, EventKind, Finding, JobIdentity, JobStarted, RepoReady, RetryCause,
    TaskFailed, Unit,
};
use agent_types::listing;
use agent_types::outcome::Outcome;
use agent_types::stage::Stage;

use super::format::{Style, duration, finding_line, level_word, offset, short_commit};
use agent_types::sanitize::sanitize_line;
use agent_types::words::count;

/// Lines of a task's log that are shown as soon as it has failed; the end shows more.
const FIRST_LOOK: usize = 10;

/// Turns events into lines. Knows only what it needs to say how long a step took.
pub struct Steps {
    style: Style,
    job: Option<At>,
    stages: HashMap<Stage, At>,
    units: HashMap<Unit, Running>,
    /// Why the last unit did not pass; its stage mostly says the same.
    told: Option<String>,
}

struct Running {
    started: At,
    cases: u64,
    skipped: u64,
    not_fine: u64,
    /// How many findings there were of each rule, in order.
    findings: Vec<(String, usize)>,
}

impl Steps {
    pub fn new(style: Style) -> Steps {
        Steps { style, job: None, stages: HashMap::new(), units: HashMap::new(), told: None }
    }

    /// The lines for an event, sanitized, without line ends.
    pub fn lines(&mut self, event: &Event) -> Vec<String> {
        self.job.get_or_insert(At::of(event));
        match &event.what {
            EventKind::JobStarted(job) => self.head(event, job),
            EventKind::StageStarted { stage } => {
                self.stages.insert(*stage, At::of(event));
                Vec::new()
            }
            EventKind::StageFinished { stage, outcome } => {
                let took = self.stages.remove(stage).map(|started| started.seconds_until(At::of(event)));
                let mut text = format!("{stage:<9}  {}", self.ended(outcome, took, ""));
                if let (Some(told), Some(why)) = (self.told.take(), first_line(outcome)) {
                    let again = format!(": {why}");
                    if told == why && text.ends_with(&again) {
                        text.truncate(text.len() - again.len());
                    }
                }
                vec![self.stamped(event, &text)]
            }
            EventKind::UnderTest { commit: Some(commit), dirty, .. } => {
                let and = if *dirty { ", with uncommitted changes" } else { "" };
                let text =
                    format!("{:<9}  under test: commit {}{and}", Stage::Checkout, short_commit(commit));
                vec![self.stamped(event, &text)]
            }
            EventKind::UnitStarted { unit } => {
                let fresh = Running {
                    started: At::of(event),
                    cases: 0,
                    skipped: 0,
                    not_fine: 0,
                    findings: Vec::new(),
                };
                self.units.insert(unit.clone(), fresh);
                Vec::new()
            }
            EventKind::UnitFinished { unit, outcome, .. } => {
                let mut lines = self.more_findings(unit);
                // Each job writes the same reports; only one that is missing is news.
                if unit.stage == Stage::Report && outcome.is_success() {
                    return lines;
                }
                lines.push(self.unit_line(event, unit, outcome));
                lines
            }
            EventKind::Case(case) => {
                if let Some(running) = self.units.get_mut(&case.unit) {
                    running.cases += 1;
                    running.skipped += u64::from(matches!(case.outcome, Outcome::Skipped(_)));
                    running.not_fine += u64::from(!case.outcome.is_success());
                }
                // Whole classes are skipped for most layers; the reports have the reasons.
                if case.outcome.is_success() {
                    return Vec::new();
                }
                let name = match case.class.as_str() {
                    "" => case.name.clone(),
                    class => format!("{class}.{}", case.name),
                };
                let ended = self.ended(&case.outcome, case.seconds, "");
                let text = format!("{:<9}  {}: {ended}", case.unit.stage, sanitize_line(&name));
                vec![self.stamped(event, &text)]
            }
            EventKind::Finding(finding) => self.finding(finding),
            EventKind::Notice { level, message, hint } => {
                let word = self.style.level(*level, level_word(*level));
                let mut lines = vec![self.stamped(event, &format!("{word}: {}", sanitize_line(message)))];
                lines.extend(hint.as_deref().map(hint_line));
                lines
            }
            EventKind::Affected(affected) => {
                let lines = super::affected::lines(affected).into_iter();
                lines.map(|line| self.stamped(event, &line)).collect()
            }
            EventKind::Repo(repo) => vec![self.stamped(event, &repo_line(repo))],
            EventKind::Retry(retry) => {
                let what = format!("{:<9}  {}", retry.unit.stage, sanitize_line(&retry.unit.name));
                let reason = sanitize_line(&retry.reason);
                let text = match retry.cause {
                    RetryCause::Upstream => format!(
                        "{what}: {} in {}, because an upstream server failed: {reason}",
                        self.style.warn("retrying once"),
                        duration(retry.pause)
                    ),
                    RetryCause::Memory => format!(
                        "{what}: {} with half the parallelism, because memory ran out: {reason}",
                        self.style.warn("retrying once")
                    ),
                };
                vec![self.stamped(event, &text)]
            }
            EventKind::TaskFailed(failed) => self.task_failed(event, failed),
            EventKind::CacheQuery { unit, query } => {
                let text =
                    format!("{:<9}  {}: {}", unit.stage, sanitize_line(&unit.name), query_words(query));
                vec![self.stamped(event, &text)]
            }
            EventKind::Published { destination, objects, bytes, .. } => {
                let size = agent_types::words::bytes(*bytes);
                let text = format!(
                    "publish    {} ({size}) to {}",
                    count(*objects, "object"),
                    sanitize_line(destination)
                );
                vec![self.stamped(event, &text)]
            }
            EventKind::DeviceRequested(requested) => {
                let text = format!(
                    "test       requested {} on {} from the labs, as {}",
                    sanitize_line(&requested.image),
                    sanitize_line(&requested.pool),
                    sanitize_line(&requested.id)
                );
                vec![self.stamped(event, &text)]
            }
            EventKind::Error { stage, error } => {
                let word = self.style.bad("ERROR");
                let stage = stage.map_or("job", Stage::name);
                let mut lines = vec![
                    self.stamped(event, &format!("{stage:<9}  {word}: {}", sanitize_line(&error.message))),
                ];
                lines.extend(
                    error.causes.iter().map(|cause| format!("    because: {}", sanitize_line(cause))),
                );
                lines.extend(error.hint.as_deref().map(hint_line));
                lines
            }
            EventKind::CommandStarted { .. }
            | EventKind::CommandFinished { .. }
            | EventKind::Progress { .. }
            | EventKind::TaskStarted(_)
            | EventKind::TaskFinished(_)
            | EventKind::Heartbeat { .. }
            | EventKind::Sstate { .. }
            | EventKind::CacheTier(_)
            | EventKind::CredentialAccess(_)
            | EventKind::BaseResult(_)
            | EventKind::ReportAddress(_)
            | EventKind::MachineSample(_)
            | EventKind::TaskUsage { .. }
            | EventKind::CacheTraffic { .. }
            | EventKind::CachePublished { .. }
            | EventKind::Artifact(_)
            | EventKind::UnderTest { commit: None, .. }
            | EventKind::JobFinished { .. } => Vec::new(),
        }
    }

    /// The text with the time since the job's start before it.
    pub fn stamped(&self, event: &Event, text: &str) -> String {
        self.stamped_at(At::of(event), text)
    }

    pub fn stamped_at(&self, at: At, text: &str) -> String {
        let since = self.job.map_or(0.0, |job| job.seconds_until(at));
        format!("{} {text}", self.style.dim(&offset(since)))
    }

    fn head(&self, event: &Event, job: &JobStarted) -> Vec<String> {
        let JobIdentity { name, release, build, .. } = &job.job;
        let what =
            format!("{} on {}, build {}", sanitize_line(name), sanitize_line(release), sanitize_line(build));
        let mut lines =
            vec![self.stamped(event, &format!("build-agent {}: {what}", sanitize_line(&job.agent)))];
        let runs: Vec<_> = job
            .plan
            .iter()
            .filter(|planned| planned.skip.is_none())
            .map(|planned| planned.stage.name())
            .collect();
        lines.push(self.stamped(event, &format!("will run: {}", runs.join(", "))));
        for planned in &job.plan {
            if let Some(why) = &planned.skip {
                lines.push(
                    self.stamped(event, &format!("{:<9}  skipped: {}", planned.stage, sanitize_line(why))),
                );
            }
        }
        lines
    }

    fn more_findings(&self, unit: &Unit) -> Vec<String> {
        let findings = self.units.get(unit).map_or(&[][..], |running| &running.findings);
        let more = findings.iter().filter_map(|(rule, count)| {
            let rest = count.checked_sub(listing::SHOWN).filter(|rest| *rest > 0)?;
            Some(format!("{} [{}]", listing::more(rest), sanitize_line(rule)))
        });
        more.collect()
    }

    fn unit_line(&mut self, event: &Event, unit: &Unit, outcome: &Outcome) -> String {
        let running = self.units.remove(unit);
        let took = running.as_ref().map(|running| running.started.seconds_until(At::of(event)));
        let cases = match running {
            Some(Running { cases, skipped: 0, not_fine: 0, .. }) if cases > 0 => {
                format!(", {}", count(cases, "test"))
            }
            Some(Running { cases, skipped, not_fine: 0, .. }) if cases > 0 => {
                format!(", {}, {skipped} of them skipped", count(cases, "test"))
            }
            Some(Running { cases, not_fine, .. }) if cases > 0 => {
                format!(", {not_fine} of {} not passed", count(cases, "test"))
            }
            _ => String::new(),
        };
        let ended = self.ended(outcome, took, &cases);
        self.told = first_line(outcome);
        self.stamped(event, &format!("{:<9}  {}: {ended}", unit.stage, sanitize_line(&unit.name)))
    }

    /// `passed (12s, 8 tests)`, `FAILED (2m03s): why`.
    fn ended(&self, outcome: &Outcome, seconds: Option<f64>, more: &str) -> String {
        let word = match outcome {
            Outcome::Passed | Outcome::Skipped(_) => outcome.word().to_owned(),
            _ => outcome.word().to_uppercase(),
        };
        let mut text = self.style.outcome(outcome, &word);
        if let Some(seconds) = seconds {
            text += &format!(" ({}{more})", duration(seconds));
        }
        if let Some(reason) = first_line(outcome) {
            text += &format!(": {reason}");
        }
        text
    }

    /// The first of a rule; the others are counted, and told at the end of their unit.
    fn finding(&mut self, finding: &Finding) -> Vec<String> {
        if let Some(running) = self.units.get_mut(&finding.unit) {
            let seen = running.findings.iter().position(|(rule, _)| *rule == finding.rule);
            let seen = seen.unwrap_or_else(|| {
                running.findings.push((finding.rule.clone(), 0));
                running.findings.len() - 1
            });
            let count = &mut running.findings[seen].1;
            *count += 1;
            if *count > listing::SHOWN {
                return Vec::new();
            }
        }
        let word = self.style.level(finding.level, level_word(finding.level));
        let mut lines = vec![finding_line(finding, &word)];
        lines.extend(finding.hint.as_deref().map(hint_line));
        lines
    }

    fn task_failed(&self, event: &Event, failed: &TaskFailed) -> Vec<String> {
        let name = format!("{}:{}", failed.recipe, failed.task);
        let word = self.style.bad("FAILED");
        let mut lines =
            vec![self.stamped(event, &format!("{:<9}  {}: {word}", failed.unit.stage, sanitize_line(&name)))];
        let skipped = failed.excerpt.len().saturating_sub(FIRST_LOOK);
        lines.extend(failed.excerpt[skipped..].iter().map(|line| format!("    | {}", sanitize_line(line))));
        lines
    }
}

/// `signatures of the world: cache hit (4m51s saved)`, `…, in a rerun: cache miss, because …`.
fn query_words(query: &CacheQuery) -> String {
    let mut text = sanitize_line(&query.query).into_owned();
    if query.rerun > 0 {
        text += ", in a rerun";
    }
    text += match query.outcome {
        CacheOutcome::Hit => ": cache hit",
        CacheOutcome::Prefetched => ": prefetched",
        CacheOutcome::Miss => ": cache miss",
        CacheOutcome::Off => ": BitBake ran without the cache",
    };
    if let Some(recipes) = query.recipes {
        text += &format!(" ({} of {} recipes parsed)", recipes.parsed, recipes.cached + recipes.parsed);
    }
    if let Some(saved) = query.seconds_saved {
        text += &format!(" ({} saved)", duration(saved));
    }
    if let Some(why) = &query.why {
        text += &format!(", because {}", sanitize_line(why));
    }
    text
}

/// The first line of the reason, sanitized.
fn first_line(outcome: &Outcome) -> Option<String> {
    outcome.reason()?.lines().next().map(|why| sanitize_line(why).into_owned())
}

fn hint_line(hint: &str) -> String {
    format!("    hint: {}", sanitize_line(hint))
}

fn repo_line(repo: &RepoReady) -> String {
    let mut text = format!("checkout   {}: {}", sanitize_line(&repo.name), sanitize_line(&repo.how));
    if let Some(wanted) = &repo.wanted {
        text += &format!(" {}", sanitize_line(wanted));
    }
    match &repo.commit {
        Some(commit) => text += &format!(" at {}", short_commit(commit)),
        None => text += &format!(" from {}", sanitize_line(&repo.path.to_string_lossy())),
    }
    if !repo.patches.is_empty() {
        text += &format!(" with {}", sanitize_line(&repo.patches.join(", ")));
    }
    text
}
