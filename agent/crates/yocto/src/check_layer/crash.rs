//! A run of yocto-check-layer that broke before it could judge: whose fault that is.

use std::path::Path;

use crate::layer_fault::{KnownLayers, LayerFault};
use agent_process::ExitReason;
use agent_types::error::{Class, Error};
use agent_types::events::{Finding, Level, Unit};
use agent_types::outcome::Outcome;

use super::output::Parsed;
use super::verdict::Verdict;

/// The layer whose files stopped the tool, if any did: the tool's own traceback is no contradiction then.
pub fn fault(
    verdict: &Verdict,
    parsed: &Parsed,
    end: ExitReason,
    layers: &KnownLayers,
) -> Option<LayerFault> {
    let said = parsed.before_the_layer.text();
    match &verdict.outcome {
        // The machine is known to be at fault.
        Err(error) if error.class == Class::Machine => None,
        // Its tests agree about the verdict: a traceback in between is what one of them printed.
        _ if verdict.by_cases => None,
        _ if end == ExitReason::Exited(1) && !parsed.traceback.is_empty() => {
            layers.fault_of_any_file(&format!("{said}\n{}", parsed.traceback.text()))
        }
        // A layer that is there before the layer under test.
        Ok(Outcome::Failed(_)) if verdict.tool_verdict.starts_with("FAIL (Generating world signatures)") => {
            layers.fault_of_conf(&said)
        }
        _ => None,
    }
}

/// The verdict on a run that this fault stopped: a layer under test fails, a dependency is the manifest's.
pub fn blame(verdict: Verdict, fault: &LayerFault, checkout: &Path) -> Verdict {
    let outcome = if fault.is_under_test {
        Ok(Outcome::Failed(format!("{}: {}; no test ran", fault.place(checkout), fault.why)))
    } else {
        Err(dependency_error(fault, checkout))
    };
    Verdict { outcome, by_cases: false, ..verdict }
}

/// The error for a layer that the manifest names.
pub fn dependency_error(fault: &LayerFault, checkout: &Path) -> Error {
    let message = format!("{} stops BitBake: {}", fault.place(checkout), fault.why);
    Error::usage(message).hint("check the branch of the dependency's repo, or leave the layer out of [repos]")
}

/// The place of the fault as a finding.
pub fn finding(fault: &LayerFault, unit: &Unit, checkout: &Path) -> Finding {
    Finding {
        unit: unit.clone(),
        level: Level::Error,
        rule: "layer-fault".to_owned(),
        message: fault.why.clone(),
        file: fault.file.as_ref().map(|file| below(file, checkout)),
        line: fault.line,
        hint: None,
    }
}

impl LayerFault {
    /// `meta-x/conf/layer.conf:3`; files below the checkout are named relative to it.
    pub fn place(&self, checkout: &Path) -> String {
        let Some(file) = &self.file else { return "conf/layer.conf of a dependency".to_owned() };
        let file = below(file, checkout);
        let whose = if self.is_under_test { "" } else { " of a dependency" };
        match self.line {
            Some(line) => format!("{}:{line}{whose}", file.display()),
            None => format!("{}{whose}", file.display()),
        }
    }
}

fn below(file: &Path, checkout: &Path) -> std::path::PathBuf {
    let real = fs_err::canonicalize(checkout);
    let checkouts = [Some(checkout), real.as_deref().ok()];
    let inside = checkouts.into_iter().flatten().find_map(|top| file.strip_prefix(top).ok());
    inside.unwrap_or(file).to_path_buf()
}
