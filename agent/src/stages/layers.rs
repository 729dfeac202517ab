//! The layers of a check: their names, and which of them a failure may be the fault of.

use std::path::{Path, PathBuf};

use agent_yocto::layer_fault::KnownLayers;

use super::configure::BuildEnvironment;
use crate::config::Settings;

/// The layers that may be at fault when BitBake stops.
pub fn known_layers(settings: &Settings, configured: &BuildEnvironment) -> KnownLayers {
    let tools = [configured.tools.bitbake.clone(), configured.tools.oe_core.clone()];
    KnownLayers::read(&settings.layers, &configured.repo_layers, &tools)
}

/// All layers but OE-Core's and the one under test.
pub fn dependencies(settings: &Settings, configured: &BuildEnvironment, layer: &Path) -> Vec<PathBuf> {
    let siblings = settings.layers.iter().filter(|other| *other != layer);
    let repos = configured.repo_layers.iter().filter(|path| **path != configured.core);
    repos.chain(siblings).cloned().collect()
}

/// The layers by name: `meta-a, meta-b`.
pub fn names(layers: &[PathBuf]) -> String {
    layers.iter().map(|layer| name(layer)).collect::<Vec<_>>().join(", ")
}

/// The layer's directory name, which is also what yocto-check-layer calls it.
pub fn name(layer: &Path) -> String {
    layer.file_name().map_or_else(|| "layer".into(), |name| name.to_string_lossy().into_owned())
}
