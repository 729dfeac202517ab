//! Checks `conf/layer.conf` and the directories next to it.

use std::path::Path;

use crate::layer::{Layer, LayerType};
use crate::layer_conf::Collection;
use agent_types::events::Level;
use agent_types::release::OverrideSyntax;
use agent_types::release::Release;

use super::{PreflightCase, WHOLE_RUN};

const COMPAT_TEST: &str = "common.CommonCheckLayer.test_layerseries_compat";

const PARSE_TEST: &str = "common.CommonCheckLayer.test_parse";

pub fn check(layer: &Layer, release: &Release) -> Vec<PreflightCase> {
    let old_syntax = layer.conf.old_syntax().filter(|_| release.overrides == OverrideSyntax::Colon);
    if let Some((line, variable)) = old_syntax {
        let message = format!("{variable} has the override syntax of old releases, which BitBake rejects");
        return vec![
            PreflightCase::new("override-syntax", WHOLE_RUN, Level::Error, message)
                .at(layer.path.join("conf/layer.conf"))
                .line(*line)
                .hint(
                    "write `:append`, `:prepend`, `:remove`; BitBake's script convert-overrides.py converts them",
                ),
        ];
    }
    match layer.kind {
        LayerType::NoLayerConf => vec![no_layer_conf(layer)],
        LayerType::BspAndDistro => vec![bsp_and_distro(layer)],
        _ if layer.conf.is_understood => collections(layer),
        // Unknown parts: BitBake may see another value.
        _ => Vec::new(),
    }
}

fn no_layer_conf(layer: &Layer) -> PreflightCase {
    let below = layers_below(&layer.path);
    let hint = if below.is_empty() {
        "set [layer] paths to the directory that contains conf/layer.conf".to_owned()
    } else {
        format!("set [layer] paths to the layers below it: {}", below.join(", "))
    };
    let message = format!("`{}` has no conf/layer.conf, so it is not a layer", layer.name);
    PreflightCase::new("layer-conf-missing", WHOLE_RUN, Level::Error, message).at(&layer.path).hint(hint)
}

/// Directories directly below that are layers, for the hint.
fn layers_below(dir: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .filter_map(Result::ok)
        .filter(|entry| entry.path().join("conf/layer.conf").is_file())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names.truncate(8);
    names
}

fn bsp_and_distro(layer: &Layer) -> PreflightCase {
    let message = format!(
        "`{}` is both a BSP layer (machine {}) and a distribution layer (distro {})",
        layer.name,
        layer.machines.join(", "),
        layer.distros.join(", ")
    );
    PreflightCase::new("bsp-and-distro", WHOLE_RUN, Level::Error, message)
        .at(layer.path.join("conf"))
        .hint("move conf/machine and conf/distro into separate layers")
}

fn collections(layer: &Layer) -> Vec<PreflightCase> {
    let file = layer.path.join("conf/layer.conf");
    if layer.conf.collections.is_empty() && layer.conf.knows_all_collections {
        let message = "BBFILE_COLLECTIONS names no collection; tools use the directory's name instead";
        let hint = format!("add `BBFILE_COLLECTIONS += \"{}\"` and the variables with its name", layer.name);
        return vec![
            PreflightCase::new("layer-conf-collections", COMPAT_TEST, Level::Warning, message)
                .at(file)
                .hint(hint),
        ];
    }
    let has_no_series = |collection: &&Collection| {
        collection.compat.as_ref().is_none_or(|compat| compat.is_known() && compat.text.is_empty())
    };
    let mut cases: Vec<PreflightCase> = layer
        .conf
        .collections
        .iter()
        .filter(has_no_series)
        .map(|collection| {
            let name = &collection.name;
            let message = format!("LAYERSERIES_COMPAT_{name} is not set");
            let hint =
                format!("add `LAYERSERIES_COMPAT_{name} = \"…\"` with the series that the layer supports");
            PreflightCase::new("compat-missing", COMPAT_TEST, Level::Error, message)
                .at(&file)
                .line(collection.compat.as_ref().map_or(collection.line, |compat| compat.line))
                .hint(hint)
        })
        .collect();
    cases.extend(version_errors(layer));
    cases
}

/// Invalid version conditions: yocto-check-layer ends with a traceback for `LAYERDEPENDS`, and BitBake stops
/// for `LAYERRECOMMENDS`.
fn version_errors(layer: &Layer) -> Vec<PreflightCase> {
    let errors = layer.conf.collections.iter().filter_map(Collection::version_error);
    errors
        .map(|(variable, line, error)| {
            let predicts = if variable.starts_with("LAYERDEPENDS_") { WHOLE_RUN } else { PARSE_TEST };
            let message = format!("{variable}: {}", error.0);
            PreflightCase::new("depends-version", predicts, Level::Error, message)
                .at(layer.path.join("conf/layer.conf"))
                .line(line)
                .hint("write version conditions as `NAME (>= NUMBER)`; the operators are = < <= > >=")
        })
        .collect()
}
