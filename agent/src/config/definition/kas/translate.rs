//! kas's configuration in the words of the manifest.

use super::super::super::bitbake_variables::name_of_variable;
use super::super::super::problem::{Diagnostic, Place, Problems};
use super::super::super::tree::{Node, Value};
use super::super::Surroundings;
use super::super::build::{self, Table};
use super::buildtools;
use super::repos::{self, layer_list};

/// kas's own defaults.
const MACHINE: &str = "qemux86-64";
const DISTRO: &str = "nodistro";
const TARGET: &str = "core-image-minimal";

/// The manifest's tree without `release`, and what there is to say about it.
pub fn translate(config: &Node, around: &Surroundings, problems: &mut Problems) -> (Node, Vec<String>) {
    let mut notices = Vec::new();
    refuse(config, problems);
    let repos = repos::read(config, around, problems);
    notices.extend(repos.notices);
    let place = &config.place;
    let mut manifest = Table::new(place);
    manifest.add("version", build::integer(1, place));
    manifest.add("name", build::text(job_name(around, repos.checkout.as_deref()), place));
    manifest.add("repos", repos.table.node());
    let mut layer = Table::new(place);
    layer.add("paths", layer_list(&repos.under_test, place));
    layer.add_some("name", repos.checkout.map(|name| build::text(name, place)));
    manifest.add("layer", layer.node());
    manifest.add("config", configuration(config, around, &mut notices, problems));
    if let Some(buildtools) = config.child("buildtools") {
        manifest.add("buildtools", buildtools::translate(buildtools, problems));
    }
    let mut check = Table::new(place);
    check.add("yocto_check_layer", build::flag(false, place));
    manifest.add("check", check.node());
    notices.push(
        "a definition of kas says what is built; --set check.yocto_check_layer=true also checks the layers of the checkout"
            .into(),
    );
    let mut build = Table::new(place);
    build.add("targets", targets(config, around));
    build.add_some("task", value(config, around, "task", "KAS_TASK", None));
    manifest.add("build", build.node());
    if let Some(artifacts) = config.child("artifacts").filter(|artifacts| !artifacts.entries().is_empty()) {
        let mut table = Table::new(&artifacts.place);
        let rules = artifacts.entries().iter().map(|entry| {
            let mut rule = Table::new(&entry.place);
            rule.add("include", entry.node.clone());
            rule.add("required", build::flag(true, &entry.place));
            rule.node()
        });
        table.add("rules", build::list(rules.collect(), &artifacts.place));
        manifest.add("artifacts", table.node());
    }
    (manifest.node(), notices)
}

/// What this agent does not do.
fn refuse(config: &Node, problems: &mut Problems) {
    let build_system = config
        .child("build_system")
        .filter(|node| node.as_text().is_some_and(|text| text.starts_with("isar")));
    let table = [
        (build_system, "build_system", "Isar is not supported", "kas itself builds it"),
        (
            config.child("menu_configuration"),
            "menu_configuration",
            "the result of `kas menu` is not supported",
            "name the files that the menu chose: a.yml:b.yml",
        ),
        (
            config.child("_source_dir"),
            "_source_dir",
            "the result of `kas menu` is not supported",
            "name its files: a.yml:b.yml",
        ),
    ];
    for (node, key, message, hint) in table {
        if let Some(node) = node {
            problems.add(node.place.clone(), Some(key.into()), Diagnostic::new(message).hint(hint));
        }
    }
}

/// The checkout and the files: `meta-x`, `meta-x-base-board` for `base.yml:board.yml`.
fn job_name(around: &Surroundings, checkout: Option<&str>) -> String {
    let directory = around.top.file_name().map(|name| name.to_string_lossy().into_owned());
    let top = checkout.map(str::to_owned).or(directory).unwrap_or_default();
    let stems = around
        .files
        .iter()
        .filter_map(|file| file.file_stem())
        .map(|stem| stem.to_string_lossy().into_owned());
    let stems = stems.filter(|stem| stem != "kas" && *stem != top);
    let name =
        std::iter::once(top.clone()).filter(|top| !top.is_empty()).chain(stems).collect::<Vec<_>>().join("-");
    super::super::super::paths::sanitised(&name)
}

/// A string of the file, or of the variable that comes first.
fn value(
    config: &Node,
    around: &Surroundings,
    key: &str,
    variable: &str,
    default: Option<&str>,
) -> Option<Node> {
    let node = config.child(key);
    let place = node.map_or(&config.place, |node| &node.place);
    match around.variables.get(variable).filter(|value| !value.is_empty()) {
        Some(value) => Some(build::text(value.as_str(), place)),
        None => node.cloned().or_else(|| default.map(|default| build::text(default, place))),
    }
}

fn targets(config: &Node, around: &Surroundings) -> Node {
    let node = config.child("target");
    let place = node.map_or(&config.place, |node| &node.place);
    let words = around.variables.get("KAS_TARGET").map(|text| text.split_whitespace().collect::<Vec<_>>());
    if let Some(words) = words.filter(|words| !words.is_empty()) {
        return build::list(words.into_iter().map(|word| build::text(word, place)).collect(), place);
    }
    match node {
        Some(node) if matches!(node.value, Value::Array(_)) => node.clone(),
        Some(node) => build::list(vec![node.clone()], place),
        None => build::list(vec![build::text(TARGET, place)], place),
    }
}

fn configuration(
    config: &Node,
    around: &Surroundings,
    notices: &mut Vec<String>,
    problems: &mut Problems,
) -> Node {
    let place = &config.place;
    let mut table = Table::new(place);
    if let Some(machine) = value(config, around, "machine", "KAS_MACHINE", Some(MACHINE)) {
        table.add("machines", build::list(vec![machine.clone()], &machine.place));
    }
    let distro = value(config, around, "distro", "KAS_DISTRO", None);
    if distro.is_none() {
        notices.push(format!(
            "no file names a `distro`: it is `{DISTRO}`, as in kas from 4.8 on; older versions of kas built `poky`"
        ));
    }
    table.add_some("distro", distro.or_else(|| Some(build::text(DISTRO, place))));
    table.add_some("local_conf", header(config, "local_conf_header"));
    table.add_some("bblayers_conf", header(config, "bblayers_conf_header"));
    table.add("layer_order", build::text("name", place));
    if let Some(env) = config.child("env") {
        let mut variables = Table::new(&env.place);
        for entry in env.entries() {
            if let Err(mistake) = name_of_variable(&entry.key) {
                problems.add(entry.place.clone(), Some(format!("env.{}", entry.key)), mistake);
                continue;
            }
            match around.variables.get(&entry.key) {
                Some(value) => {
                    notices
                        .push(format!("env {}: the value is that of this machine's environment", entry.key));
                    variables.add(&entry.key, build::text(value.as_str(), &entry.place));
                }
                None if entry.node.is_null() => {}
                None => variables.add(&entry.key, entry.node.clone()),
            }
        }
        table.add_table("env", variables);
    }
    table.node()
}

/// The parts, sorted by their keys, each with its key as a comment.
fn header(config: &Node, key: &str) -> Option<Node> {
    let node = config.child(key)?;
    let mut parts: Vec<(&str, &str)> =
        node.entries().iter().filter_map(|entry| Some((entry.key.as_str(), entry.node.as_text()?))).collect();
    parts.sort_unstable();
    let text: String = parts.into_iter().map(|(key, value)| format!("# {key}\n{value}\n")).collect();
    let place: &Place = &node.place;
    (!text.is_empty()).then(|| build::text(text, place))
}
