//! Which stages run and why the others do not: a pure function of settings and flags.

use crate::config::Settings;
use crate::events::Planned;

use super::Stage;

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

impl Plan {
    pub fn new(settings: &Settings, selection: &Selection) -> Plan {
        let stages = Stage::ALL
            .into_iter()
            .map(|stage| Planned { stage, skip: why_skipped(stage, settings, selection) })
            .collect();
        Plan { stages }
    }

    pub fn runs(&self, stage: Stage) -> bool {
        self.stages.iter().any(|planned| planned.stage == stage && planned.skip.is_none())
    }
}

fn why_skipped(stage: Stage, settings: &Settings, selection: &Selection) -> Option<String> {
    if selection.skip.contains(&stage) {
        return Some(format!("--skip {stage}"));
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
        return Some("not named by --only".into());
    }
    match stage {
        Stage::Check if !settings.check.yocto_check_layer && settings.check.bitbake_layers.is_empty() => {
            Some("[check] asks for nothing".into())
        }
        Stage::Build if settings.build.targets.is_empty() => Some("[build] names no targets".into()),
        // Tests in images and on devices are later work; the stage keeps its place in the order.
        Stage::Test => Some("nothing asks for tests".into()),
        Stage::Publish if settings.artifacts.rules.is_empty() => Some("[artifacts] has no rules".into()),
        _ => None,
    }
}
