//! Chooses the base layers of a check: those without which BitBake cannot read its configuration.
//!
//! yocto-check-layer compares the world before and after the layer is added, and adds the layer's
//! dependencies itself. So the base layers are OE-Core, the layer with the distro, the layer with the
//! machine, and their dependencies. More layers would hide differences from the comparison.

use std::path::{Path, PathBuf};

use super::layer_conf::LayerConf;

/// A layer of the repos, with the data that the choice needs.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub path: PathBuf,
    pub conf: LayerConf,
    /// Dependencies that only BitBake could evaluate.
    pub computed: Vec<String>,
}

impl Candidate {
    fn has(&self, kind: &str, name: &str) -> bool {
        self.path.join("conf").join(kind).join(format!("{name}.conf")).is_file()
    }

    fn provides(&self, collection: &str) -> bool {
        self.conf.collection(collection).is_some()
    }
}

/// The base layers of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseLayers {
    /// In the order of the candidates.
    pub layers: Vec<PathBuf>,
    pub machine: String,
    pub distro: String,
    /// What was chosen instead of the manifest's values, and why.
    pub notices: Vec<String>,
}

/// The machine that every OE-Core has.
const CORE_MACHINE: &str = "qemux86-64";
/// OE-Core's own distro (meta/conf/distro/defaultsetup.conf), which needs no configuration file.
const CORE_DISTRO: &str = "nodistro";

/// Chooses the base layers from the repos' layers. `core` is OE-Core's `meta`.
pub fn base_layers(core: &Path, candidates: &[Candidate], machine: &str, distro: &str) -> BaseLayers {
    let mut notices = Vec::new();
    let mut wanted: Vec<&Candidate> = candidates.iter().filter(|layer| layer.path == core).collect();

    let machine_layer = candidates.iter().find(|layer| layer.has("machine", machine));
    let machine = match machine_layer {
        Some(layer) => {
            wanted.push(layer);
            machine
        }
        None if machine == CORE_MACHINE => machine,
        None => {
            notices.push(format!(
                "no repo has the machine {machine}, so it must be in the layer under test; the check \
                 starts with {CORE_MACHINE}, because that layer must not be added yet"
            ));
            CORE_MACHINE
        }
    };
    let distro_layer = candidates.iter().find(|layer| layer.has("distro", distro));
    let distro = match distro_layer {
        Some(layer) => {
            wanted.push(layer);
            distro
        }
        None if distro == CORE_DISTRO => distro,
        None => {
            notices.push(format!(
                "no repo has the distro {distro}, so it must be in the layer under test; the check \
                 starts with {CORE_DISTRO}, because that layer must not be added yet"
            ));
            CORE_DISTRO
        }
    };

    // Adds dependencies of dependencies until none is new. BitBake reports a dependency that no repo has.
    let mut next = 0;
    while let Some(layer) = wanted.get(next).copied() {
        next += 1;
        let plain = layer.conf.depends_on().map(|word| word.text);
        for dependency in plain.chain(layer.computed.iter().cloned()) {
            let provider = candidates.iter().find(|candidate| candidate.provides(&dependency));
            if let Some(provider) = provider.filter(|new| !wanted.iter().any(|old| old.path == new.path)) {
                wanted.push(provider);
            }
        }
    }
    let layers = candidates
        .iter()
        .filter(|candidate| wanted.iter().any(|layer| layer.path == candidate.path))
        .map(|candidate| candidate.path.clone())
        .collect();
    BaseLayers { layers, machine: machine.into(), distro: distro.into(), notices }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    /// Creates a layer directory with this collection, its dependencies and configuration files.
    fn layer(root: &Path, name: &str, depends: &str, files: &[&str]) -> Candidate {
        let path = root.join(name);
        let conf = format!("BBFILE_COLLECTIONS += \"{name}\"\nLAYERDEPENDS_{name} = \"{depends}\"\n");
        fs_err::create_dir_all(path.join("conf")).unwrap();
        for file in files {
            let file = path.join("conf").join(file);
            fs_err::create_dir_all(file.parent().unwrap()).unwrap();
            fs_err::write(file, "").unwrap();
        }
        Candidate { path, conf: LayerConf::parse(&conf), computed: Vec::new() }
    }

    #[test]
    fn unknown_parts_do_not_hide_plain_dependencies() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let mut candidates = [
            layer(root, "meta", "", &["machine/qemux86-64.conf"]),
            layer(root, "meta-oe", "core", &[]),
            layer(root, "meta-distro", "core ${@also(d)}", &["distro/ours.conf"]),
        ];
        let (core, machine) = (root.join("meta"), "qemux86-64");
        let without = [root.join("meta"), root.join("meta-distro")];
        assert_eq!(base_layers(&core, &candidates, machine, "ours").layers, without);
        candidates[2].computed = vec!["core".into(), "meta-oe".into()];
        let all = ["meta", "meta-oe", "meta-distro"].map(|name| root.join(name));
        assert_eq!(base_layers(&core, &candidates, machine, "ours").layers, all);
    }

    #[test]
    fn base_layers_are_only_those_that_bitbake_needs_to_start() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let candidates = [
            layer(root, "meta", "", &["machine/qemux86-64.conf"]),
            layer(root, "meta-oe", "core", &[]),
            layer(root, "meta-distro", "core meta-base", &["distro/ours.conf"]),
            layer(root, "meta-base", "core", &[]),
            layer(root, "meta-bsp", "core", &["machine/board.conf"]),
        ];
        let core = root.join("meta");
        // (machine, distro, layers, machine and distro of the check, notices)
        let table = [
            ("qemux86-64", "nodistro", &["meta"][..], ("qemux86-64", "nodistro"), 0),
            ("qemux86-64", "ours", &["meta", "meta-distro", "meta-base"], ("qemux86-64", "ours"), 0),
            ("board", "nodistro", &["meta", "meta-bsp"], ("board", "nodistro"), 0),
            ("new-board", "new-distro", &["meta"], ("qemux86-64", "nodistro"), 2),
        ];
        for (machine, distro, layers, (check_machine, check_distro), notices) in table {
            let found = base_layers(&core, &candidates, machine, distro);
            let layers: Vec<PathBuf> = layers.iter().map(|name| root.join(name)).collect();
            assert_eq!(found.layers, layers, "{machine} {distro}");
            assert_eq!((found.machine.as_str(), found.distro.as_str()), (check_machine, check_distro));
            assert_eq!(found.notices.len(), notices, "{:?}", found.notices);
        }
    }
}
