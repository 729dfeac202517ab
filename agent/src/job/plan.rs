//! Which stages run and why the others do not: a pure function of settings and flags.

use crate::config::{Settings, SharedCache};
use agent_types::error::{Error, Result};
use agent_types::events::Planned;

use agent_types::stage::Stage;

/// `--only` and `--skip`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Empty: all.
    pub only: Vec<Stage>,
    pub skip: Vec<Stage>,
}

/// The stages in their order, each "run" or "skip, because …".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub stages: Vec<Planned>,
}

/// What the job does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// The first step of the check stage. It needs nothing but the layer's files, so it comes before the checkout:
    /// a hopeless change fails in the first second.
    Preflight,
    Stage(&'a Planned),
}

impl Plan {
    /// All that the job does, in its order. The report stage is not among it: who listens to the job's events
    /// makes the reports, when there are no more events. A skipped one is: nobody else would say so.
    pub fn steps(&self, settings: &Settings) -> Vec<Step<'_>> {
        let preflight = self.runs(Stage::Check) && settings.check.yocto_check_layer;
        let stages =
            self.stages.iter().filter(|planned| planned.stage != Stage::Report || planned.skip.is_some());
        preflight.then_some(Step::Preflight).into_iter().chain(stages.map(Step::Stage)).collect()
    }

    /// # Errors
    /// Usage, when nothing would be done that could pass or fail: an empty job must not be green.
    pub fn new(settings: &Settings, selection: &Selection) -> Result<Plan> {
        let stages: Vec<Planned> = Stage::ALL
            .into_iter()
            .map(|stage| Planned { stage, skip: why_skipped(stage, settings, selection) })
            .collect();
        for Planned { stage, skip } in &stages {
            if let Some(why) = skip.as_ref().filter(|_| selection.only.contains(stage)) {
                return Err(Error::usage(format!("--only {stage}: there is nothing to do, because {why}")));
            }
        }
        let plan = Plan { stages };
        // The caches alone are nothing that a job is for.
        let publishes = plan.runs(Stage::Publish) && !settings.artifacts.rules.is_empty();
        let works =
            publishes || [Stage::Check, Stage::Build, Stage::Test].into_iter().any(|stage| plan.runs(stage));
        if selection.only.is_empty() && !works {
            let reasons: Vec<String> = plan
                .stages
                .iter()
                .filter_map(|planned| Some(format!("{}: {}", planned.stage, planned.skip.as_ref()?)))
                .collect();
            return Err(Error::usage(format!(
                "nothing would be checked, built or published ({})",
                reasons.join("; ")
            ))
            .hint("let the manifest ask for a check or a target; a job that did nothing is never a pass"));
        }
        Ok(plan)
    }

    pub fn runs(&self, stage: Stage) -> bool {
        self.stages.iter().any(|planned| planned.stage == stage && planned.skip.is_none())
    }

    /// Whether a stage runs BitBake.
    pub fn runs_bitbake(&self) -> bool {
        [Stage::Check, Stage::Build, Stage::Test].into_iter().any(|stage| self.runs(stage))
    }
}

/// Whether the job builds anything, for itself or for the tests.
pub fn builds(settings: &Settings) -> bool {
    !settings.build.targets.is_empty() || settings.build.changed || settings.test.is_wanted()
}

/// Whether a build has anything to do with the share: publish to it, or count what it used.
pub fn uses_share(settings: &Settings) -> bool {
    let reads = |shared: &SharedCache| !shared.reads().is_empty();
    let builds = builds(settings);
    builds && settings.cache.share.as_ref().is_some_and(reads)
}

fn why_skipped(stage: Stage, settings: &Settings, selection: &Selection) -> Option<String> {
    if selection.skip.contains(&stage) {
        return Some(Planned::skipped_by_flag(stage));
    }
    // What a stage needs from the ones before it runs although --only does not name it, and a
    // report is always written.
    let needed = match stage {
        Stage::Checkout => selection
            .only
            .iter()
            .any(|only| matches!(only, Stage::Configure | Stage::Check | Stage::Build | Stage::Test)),
        Stage::Configure => {
            selection.only.iter().any(|only| matches!(only, Stage::Check | Stage::Build | Stage::Test))
        }
        Stage::Report => true,
        _ => false,
    };
    if !selection.only.is_empty() && !selection.only.contains(&stage) && !needed {
        return Some(Planned::NOT_NAMED.into());
    }
    match stage {
        Stage::Check if !settings.check.is_wanted() => Some("[check] asks for nothing".into()),
        Stage::Build if settings.build.targets.is_empty() && !settings.build.changed => {
            Some("[build] names no targets".into())
        }
        Stage::Test if !settings.test.is_wanted() && settings.device.is_none() => {
            Some("[test] names no images and no ptests".into())
        }
        Stage::Publish if settings.artifacts.rules.is_empty() && !uses_share(settings) => {
            Some(settings.why_no_artifacts())
        }
        _ => None,
    }
}
