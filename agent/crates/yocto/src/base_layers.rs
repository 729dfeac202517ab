//! Which layers a check starts from: those that BitBake cannot even read its configuration without.
//!
//! yocto-check-layer compares the world before and after the layer is added, and adds the layer's
//! dependencies itself. So the starting point is OE-Core, the layer with the distro, the layer with
//! the machine, and what these depend on; nothing else, or the comparison would hide differences.

use std::path::{Path, PathBuf};

use super::layer_conf::LayerConf;

/// A layer of the repos, as far as the choice needs it.
#[derive(Clone, Debug)]
pub struct Candidate {
    pub path: PathBuf,
    pub conf: LayerConf,
    /// Dependencies that only BitBake could tell.
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

/// The starting point of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseLayers {
    /// In the order of the candidates.
    pub layers: Vec<PathBuf>,
    pub machine: String,
    pub distro: String,
    /// What was chosen instead of the manifest's words, and why.
    pub notices: Vec<String>,
}

/// The machine that every OE-Core has.
const CORE_MACHINE: &str = "qemux86-64";
/// OE-Core's own distro (meta/conf/distro/defaultsetup.conf), which needs no file.
const CORE_DISTRO: &str = "nodistro";

/// Chooses the foundation from the repos' layers. `core` is OE-Core's `meta`.
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
                "no repo has the machine {machine}, so it must come from the layer under test; the check \
                 starts with {CORE_MACHINE}, because the layer must not be there yet"
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
                "no repo has the distro {distro}, so it must come from the layer under test; the check \
                 starts with {CORE_DISTRO}, because the layer must not be there yet"
            ));
            CORE_DISTRO
        }
    };

    // Dependencies of dependencies, until nothing new comes up. A dependency that no repo has is
    // BitBake's to complain about.
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

    /// A layer directory with the collection and what it depends on, and with configuration files.
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
    fn what_bitbake_computes_counts_like_plain_words() {
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
    fn only_what_bitbake_cannot_start_without_is_there_from_the_beginning() {
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
        // machine, distro, layers, machine and distro of the check, notices
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
