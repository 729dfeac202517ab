//! What files alone say about a layer, in milliseconds and without BitBake.
//!
//! The rules are those that yocto-check-layer has itself, so that a hopeless change fails in second
//! one. yocto-check-layer keeps the last word: an [`Error`](Level::Error) is given only where the
//! tool of that release fails for certain; where a text reader cannot be certain, nothing is said or
//! a [`Warning`](Level::Warning). Facts are from `scripts/lib/checklayer` of OE-Core's release
//! branches and `lib/bb/cookerdata.py` of BitBake's.

mod conf;
pub mod empty;
mod patches;
mod readme;
mod repos;
mod security;
mod since;
mod special;

use std::path::{Path, PathBuf};

use agent_types::events::{Finding, Level, Unit};

use super::layer::{Layer, LayerType};
use super::unreadable::Unreadable;
use agent_types::release::Release;

pub use repos::{against_repos, unreadable_dependency};

/// What [`PreflightCase::predicts`] holds when the run ends before its first test.
pub const WHOLE_RUN: &str = "yocto-check-layer";

/// Something that yocto-check-layer will complain about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreflightCase {
    /// A short stable name, e.g. `readme-missing`.
    pub rule: &'static str,
    /// The test that will fail, e.g. `common.CommonCheckLayer.test_readme`, or [`WHOLE_RUN`].
    pub predicts: &'static str,
    /// `Error`: this release's tool fails for it. `Warning`: a later one does, or it is only unwise.
    pub level: Level,
    /// Relative to the checkout where it lies inside.
    pub file: Option<PathBuf>,
    /// Counts from 1.
    pub line: Option<u32>,
    pub message: String,
    pub hint: Option<String>,
}

impl PreflightCase {
    fn new(
        rule: &'static str,
        predicts: &'static str,
        level: Level,
        message: impl Into<String>,
    ) -> PreflightCase {
        PreflightCase { rule, predicts, level, file: None, line: None, message: message.into(), hint: None }
    }

    fn at(mut self, file: impl Into<PathBuf>) -> PreflightCase {
        self.file = Some(file.into());
        self
    }

    fn line(mut self, line: u32) -> PreflightCase {
        self.line = Some(line);
        self
    }

    fn hint(mut self, hint: impl Into<String>) -> PreflightCase {
        self.hint = Some(hint.into());
        self
    }

    /// The same as an event of the unit.
    pub fn finding(&self, unit: &Unit) -> Finding {
        Finding {
            unit: unit.clone(),
            level: self.level,
            rule: self.rule.to_owned(),
            message: self.message.clone(),
            file: self.file.clone(),
            line: self.line,
            hint: self.hint.clone(),
        }
    }
}

/// The rules that need the layer only; they run before the other repositories are there.
///
/// The agent reads with no more rights than the user who runs the tool, or with root's: what it cannot read, the
/// tool cannot read either.
pub fn layer_alone(layer: &Path, checkout: &Path, release: &Release) -> Vec<PreflightCase> {
    let detected = match Layer::detect(layer, release) {
        Ok(detected) => detected,
        Err(unreadable) => {
            let file = relative(&unreadable.path, checkout);
            return vec![PreflightCase { file: Some(file), ..unreadable_file(&unreadable) }];
        }
    };
    let mut cases = conf::check(&detected, release);
    if !hopeless(detected.kind) {
        let maybe_core = maybe_core(&detected);
        if !maybe_core {
            cases.extend(readme::check(&detected.path, release));
            cases.extend(security::check(&detected.path, release));
        }
        cases.extend(patches::check(&detected.path, release));
        cases.extend(special::check(&detected.path, release));
    }
    for case in &mut cases {
        case.file = case.file.take().map(|file| relative(&file, checkout));
    }
    cases
}

/// A file or directory without which the tool can tell nothing of the layer.
fn unreadable_file(unreadable: &Unreadable) -> PreflightCase {
    let name = unreadable.path.file_name().unwrap_or_default().display();
    let message = format!("`{name}` cannot be read: {}", unreadable.reason());
    PreflightCase::new("file-unreadable", WHOLE_RUN, Level::Error, message)
        .at(&unreadable.path)
        .hint("make it a regular file or a directory that the build user can read")
}

/// The run ends before any test: what the tests would say is of no use yet.
fn hopeless(kind: LayerType) -> bool {
    matches!(kind, LayerType::NoLayerConf | LayerType::BspAndDistro)
}

/// OE-Core's own `meta` is spared some tests; a file that cannot be read for certain may make it so.
fn maybe_core(layer: &Layer) -> bool {
    layer.kind == LayerType::Core
        || (layer.name == "meta"
            && (!layer.conf.knows_all_collections || layer.conf.collection("core").is_some()))
}

/// Below the checkout if it lies there, else as it is. Both may have been named through links.
fn relative(file: &Path, checkout: &Path) -> PathBuf {
    let real = checkout.canonicalize();
    let bases = [Some(checkout), real.as_deref().ok()];
    match bases.into_iter().flatten().find_map(|base| file.strip_prefix(base).ok()) {
        // The checkout itself.
        Some(inside) if inside.as_os_str().is_empty() => ".".into(),
        Some(inside) => inside.to_path_buf(),
        None => file.to_path_buf(),
    }
}

/// Whether Python's `glob` would take a part of the path for a pattern: then what it finds is not
/// what lies there.
fn glob_would_misread(path: &Path) -> bool {
    path.to_string_lossy().contains(['*', '?', '['])
}

#[cfg(test)]
mod tests;
