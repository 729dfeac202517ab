//! Checks the layer against the other layers and the OE-Core in use.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use crate::conf_syntax::Value;
use crate::layer::{Layer, LayerType};
use crate::layer_conf::{Collection, LayerConf};
use agent_fs::untrusted;
use agent_types::error::Error;
use agent_types::events::Level;
use agent_types::release::Release;

use super::since::{self, since};
use super::{PreflightCase, WHOLE_RUN, hopeless, relative};

/// The rules that need the other repositories.
///
/// `repo_layers` are all layers that yocto-check-layer gets as dependencies; `core_series` is
/// `LAYERSERIES_CORENAMES` of the OE-Core in use; `machines` is `[check] machines`.
pub fn against_repos(
    layer: &Path,
    checkout: &Path,
    release: &Release,
    repo_layers: &[PathBuf],
    core_series: &[String],
    machines: &[String],
) -> Vec<PreflightCase> {
    let Ok(layer) = Layer::detect(layer, release) else { return Vec::new() };
    if hopeless(layer.kind) {
        return Vec::new();
    }
    let beside: Option<Vec<Layer>> = repo_layers.iter().map(|dir| Layer::detect(dir, release).ok()).collect();
    let Some(mut beside) = beside else { return Vec::new() };
    // The tool skips them, too.
    beside.retain(|other| other.kind != LayerType::NoLayerConf);

    let mut cases = machines_named(&layer, &beside, machines);
    if layer.conf.is_understood {
        cases.extend(incompatible(&layer, &beside, core_series));
    }
    // A layer with unknown collections may have any collection.
    if beside.iter().chain([&layer]).all(|one| one.conf.knows_all_collections) {
        cases.extend(unsatisfied(&layer, &beside));
    }
    if since(release, since::DUPLICATE_COLLECTIONS) {
        cases.extend(duplicates(&layer, &beside));
    }
    for case in &mut cases {
        case.file = case.file.take().map(|file| relative(&file, checkout));
    }
    cases
}

/// The names that others may depend on: without collections it is the directory's name.
fn names(layer: &Layer) -> Vec<&str> {
    if layer.conf.collections.is_empty() {
        return vec![&layer.name];
    }
    layer.conf.collections.iter().map(|collection| collection.name.as_str()).collect()
}

fn conf_of(layer: &Layer) -> PathBuf {
    layer.path.join("conf/layer.conf")
}

/// BitBake stops if a layer names series and none of them is one of the core layer's.
fn incompatible(layer: &Layer, beside: &[Layer], core_series: &[String]) -> Vec<PreflightCase> {
    let mut cases = Vec::new();
    for collection in &layer.conf.collections {
        let series = collection.series();
        let shared = series.iter().any(|one| core_series.iter().any(|core| core == one));
        let is_known = collection.compat.as_ref().is_some_and(Value::is_known);
        if !is_known || series.is_empty() || core_series.is_empty() || shared {
            continue;
        }
        let variable = format!("LAYERSERIES_COMPAT_{}", collection.name);
        // A layer can set this variable for another one, so BitBake may see another value.
        let set_elsewhere = beside.iter().filter(|other| other.path != layer.path).any(|other| {
            untrusted::read_named(&conf_of(other), untrusted::PAGE)
                .map_or(true, |text| String::from_utf8_lossy(&text).contains(&variable))
        });
        if set_elsewhere {
            continue;
        }
        let message = format!(
            "{variable} names {}, but the OE-Core in use has {}",
            series.join(", "),
            core_series.join(", ")
        );
        cases.push(
            PreflightCase::new(
                "compat-mismatch",
                "common.CommonCheckLayer.test_parse",
                Level::Error,
                message,
            )
            .at(conf_of(layer))
            .line(collection.compat.as_ref().map_or(collection.line, |compat| compat.line))
            .hint("add the series if the layer works with it, or check another branch of the layer"),
        );
    }
    cases
}

/// Checks `LAYERDEPENDS` of the layer and of its dependencies against the available layers. `core` is always
/// available. As in `get_layer_dependencies`, one that is missing anywhere stops the whole check.
fn unsatisfied(layer: &Layer, beside: &[Layer]) -> Vec<PreflightCase> {
    let mut cases = Vec::new();
    let mut seen: BTreeSet<&Path> = BTreeSet::from([layer.path.as_path()]);
    let mut missing: BTreeSet<String> = BTreeSet::new();
    let mut waiting = VecDeque::from([layer]);
    while let Some(one) = waiting.pop_front() {
        for collection in &one.conf.collections {
            for wanted in collection.depends_on() {
                if wanted.text == "core" || !wanted.is_certain {
                    continue;
                }
                let wanted = wanted.text;
                let provider =
                    beside.iter().chain([layer]).find(|other| names(other).contains(&wanted.as_str()));
                match provider {
                    Some(provider) if seen.insert(&provider.path) => waiting.push_back(provider),
                    Some(_) => {}
                    None if missing.insert(wanted.clone()) => {
                        let line = collection.depends.as_ref().map_or(collection.line, |value| value.line);
                        cases.push(missing_dependency(layer, one, &wanted).line(line));
                    }
                    None => {}
                }
            }
        }
    }
    cases
}

fn missing_dependency(layer: &Layer, asking: &Layer, wanted: &str) -> PreflightCase {
    let through =
        if asking.path == layer.path { String::new() } else { format!(" through `{}`", asking.name) };
    let message = format!(
        "`{}` depends{through} on the collection `{wanted}`, which no available layer has",
        layer.name
    );
    let hint = format!(
        "add the repository with `{wanted}` to [repos], and its layer directory to that repo's `layers`"
    );
    PreflightCase::new("depends-unsatisfied", WHOLE_RUN, Level::Error, message).at(conf_of(asking)).hint(hint)
}

/// A layer that has a collection, with its pattern and the line of its name.
type Holder<'a> = (&'a Layer, Option<String>, u32);

/// One collection name with different patterns: the tool rejects this.
fn duplicates(layer: &Layer, beside: &[Layer]) -> Vec<PreflightCase> {
    let mut holders: BTreeMap<&str, Vec<Holder>> = BTreeMap::new();
    for one in beside.iter().chain([layer]).filter(|one| one.conf.is_understood) {
        for collection in &one.conf.collections {
            if collection.pattern.as_ref().is_some_and(|pattern| !pattern.is_known()) {
                continue;
            }
            // The tool knows only LAYERDIR while it reads the file, not LAYERDIR_RE.
            let directory = one.path.to_string_lossy();
            let pattern =
                collection.pattern.as_ref().map(|value| value.text.replace("${LAYERDIR}", &directory));
            holders.entry(&collection.name).or_default().push((one, pattern, collection.line));
        }
    }
    let mut cases = Vec::new();
    for (name, holders) in holders {
        let patterns: BTreeSet<_> = holders.iter().map(|(_, pattern, _)| pattern).collect();
        let Some((last, _, line)) = holders.last() else { continue };
        if patterns.len() < 2 {
            continue;
        }
        let places: BTreeSet<_> =
            holders.iter().map(|(holder, ..)| format!("`{}`", holder.path.display())).collect();
        let places = places.into_iter().collect::<Vec<_>>().join(", ");
        let message = format!("the collection `{name}` exists more than once: {places}");
        cases.push(
            PreflightCase::new("collection-duplicate", WHOLE_RUN, Level::Error, message)
                .at(conf_of(last))
                .line(*line)
                .hint("remove one of the layers from [repos], or rename the collection"),
        );
    }
    cases
}

/// A dependency with version conditions that yocto-check-layer cannot parse: it ends with a traceback.
pub fn unreadable_dependency(repo_layers: &[PathBuf]) -> Option<Error> {
    repo_layers.iter().find_map(|path| {
        let conf = LayerConf::read(path).ok()?;
        let error = conf.is_understood.then(|| conf.collections.iter().find_map(Collection::version_error));
        let (variable, line, error) =
            error.flatten().filter(|(variable, ..)| variable.starts_with("LAYERDEPENDS_"))?;
        let file = path.join("conf/layer.conf");
        let message = format!("{}:{line}: {variable}: {}", file.display(), error.0);
        Some(Error::usage(message).hint("check the branch of its repo, or remove the layer"))
    })
}

/// BSP tests need existing machines.
fn machines_named(layer: &Layer, beside: &[Layer], machines: &[String]) -> Vec<PreflightCase> {
    const TEST: &str = "bsp.BSPCheckLayer.test_machine_world";
    if layer.kind == LayerType::Bsp && machines.is_empty() {
        let message = format!("`{}` is a BSP layer, and its machines will not be tested", layer.name);
        let hint = format!("add `machines = [\"{}\"]` to [check]", layer.machines.join("\", \""));
        return vec![PreflightCase::new("bsp-machines", TEST, Level::Warning, message).hint(hint)];
    }
    machines
        .iter()
        .filter(|machine| !beside.iter().chain([layer]).any(|one| one.machines.contains(machine)))
        .map(|machine| {
            let message = format!("no available layer has the machine `{machine}` of [check] machines");
            let hint = "correct the name, or add the layer that has conf/machine/NAME.conf";
            PreflightCase::new("bsp-machines", TEST, Level::Warning, message).hint(hint)
        })
        .collect()
}
