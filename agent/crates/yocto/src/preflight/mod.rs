//! Checks the files of a layer in milliseconds, without BitBake.
//!
//! The rules are those of yocto-check-layer, so that a bad change fails in the first second.
//! yocto-check-layer still decides: an [`Error`](Level::Error) is given only if the tool of that release
//! certainly fails. If a parser cannot be certain, the result is nothing or a [`Warning`](Level::Warning).
//! The facts come from `scripts/lib/checklayer` of OE-Core's release branches and `lib/bb/cookerdata.py` of
//! BitBake's.

mod conf;
pub mod empty;
mod patches;
mod readme;
mod repos;
mod security;
pub(crate) mod since;
mod special;

use std::path::{Path, PathBuf};

use agent_types::events::{Finding, Level, Unit};

use super::layer::{Layer, LayerType};
use super::unreadable::Unreadable;
use agent_types::release::Release;

pub(crate) use patches::is_upstream_status;
pub use repos::{against_repos, unreadable_dependency};

/// The value of [`PreflightCase::predicts`] if the run ends before its first test.
pub const WHOLE_RUN: &str = "yocto-check-layer";

/// A problem that yocto-check-layer will report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreflightCase {
    /// A short stable name, e.g. `readme-missing`.
    pub rule: &'static str,
    /// The test that will fail, e.g. `common.CommonCheckLayer.test_readme`, or [`WHOLE_RUN`].
    pub predicts: &'static str,
    /// `Error`: this release's tool fails for it. `Warning`: a later release fails, or it is only bad
    /// practice.
    pub level: Level,
    /// Relative to the checkout, if it is inside.
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

/// The rules that need only the layer; they run before the other repositories are available.
///
/// The agent reads with the rights of root, or of a user who has no more rights than the tool's user: what the
/// agent cannot read, the tool cannot read either.
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

/// A file or directory without which the tool cannot inspect the layer.
fn unreadable_file(unreadable: &Unreadable) -> PreflightCase {
    let name = unreadable.path.file_name().unwrap_or_default().display();
    let message = format!("`{name}` cannot be read: {}", unreadable.reason());
    PreflightCase::new("file-unreadable", WHOLE_RUN, Level::Error, message)
        .at(&unreadable.path)
        .hint("make it a regular file or a directory that the build user can read")
}

/// Whether the run ends before any test, so that the results of tests do not matter yet.
fn hopeless(kind: LayerType) -> bool {
    matches!(kind, LayerType::NoLayerConf | LayerType::BspAndDistro)
}

/// Whether it may be OE-Core's own `meta`, for which some tests are skipped. A file that cannot be evaluated
/// may make it so.
fn maybe_core(layer: &Layer) -> bool {
    layer.kind == LayerType::Core
        || (layer.name == "meta"
            && (!layer.conf.knows_all_collections || layer.conf.collection("core").is_some()))
}

/// Relative to the checkout, if it is inside. Both paths may contain links.
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

/// Whether Python's `glob` would interpret a part of the path as a pattern, and so find other files.
fn glob_would_misread(path: &Path) -> bool {
    path.to_string_lossy().contains(['*', '?', '['])
}

#[cfg(test)]
mod tests;
