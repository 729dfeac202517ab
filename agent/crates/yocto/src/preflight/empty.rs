//! Detects a layer without anything that yocto-check-layer could check.

use std::path::Path;

use walkdir::WalkDir;

use crate::layer::{Layer, LayerType};
use agent_fs::untrusted;
use agent_types::events::Level;
use agent_types::release::Release;

use super::{PreflightCase, WHOLE_RUN, relative};

/// The rule's name. The tool itself passes such a layer, but an empty check proves nothing, and a known
/// failure does not change that.
pub const RULE: &str = "layer-empty";

/// One error, if the layer certainly has no recipe, append, class, machine or distro.
pub fn check(layer: &Path, checkout: &Path, release: &Release) -> Option<PreflightCase> {
    let layer = Layer::detect(layer, release).ok()?;
    let alone = layer.kind == LayerType::Software && recipes_lie_inside(&layer.path);
    if !alone || holds_something(&layer.path) {
        return None;
    }
    let message =
        format!("`{}` has nothing to check: no recipe, append, class, machine or distro", layer.name);
    let hint = "add its first recipe, or set [check] yocto_check_layer = false until there is one";
    Some(
        PreflightCase::new(RULE, WHOLE_RUN, Level::Error, message)
            .at(relative(&layer.path.join("conf/layer.conf"), checkout))
            .hint(hint),
    )
}

/// Whether everything that `layer.conf` may name is below the layer. Files that the text does not reveal may
/// be elsewhere.
fn recipes_lie_inside(layer: &Path) -> bool {
    let Ok(bytes) = untrusted::read(&layer.join("conf/layer.conf"), untrusted::PAGE) else { return false };
    let text = String::from_utf8_lossy(&bytes);
    let code = || text.lines().map(str::trim).filter(|line| !line.starts_with('#'));
    let reads_more = |line: &str| {
        ["include", "require", "inherit", "python", "def "].iter().any(|word| line.starts_with(word))
            || line.contains("${@")
    };
    let is_elsewhere = |word: &str| {
        let word = word.trim_matches(['"', '\'', '\\']);
        // In `BBFILES_DYNAMIC` a collection precedes the path.
        let path = word.rsplit_once(':').map_or(word, |(_, path)| path);
        (path.contains(".bb") && !path.starts_with("${LAYERDIR}")) || path.contains("/..")
    };
    !code().any(|line| reads_more(line) || line.split_whitespace().any(is_elsewhere))
}

fn holds_something(layer: &Path) -> bool {
    let configuration = |path: &Path| {
        let below = |dir: &str| path.starts_with(layer.join("conf").join(dir));
        path.extension().is_some_and(|end| end == "conf") && (below("machine") || below("distro"))
    };
    let counts = |path: &Path| {
        path.extension().is_some_and(|end| ["bb", "bbappend", "bbclass"].iter().any(|known| end == *known))
            || configuration(path)
    };
    WalkDir::new(layer)
        .follow_links(true)
        .into_iter()
        .filter_entry(|entry| entry.file_name() != ".git")
        // A directory that cannot be read may contain anything; a dangling link contains nothing.
        .any(|entry| match entry {
            Ok(entry) => !entry.file_type().is_dir() && counts(entry.path()),
            Err(error) => error.path().is_some_and(|path| path.is_dir()) && error.loop_ancestor().is_none(),
        })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    const CONF: &str = "BBPATH .= \":${LAYERDIR}\"\n# BBFILES += \"/x/*.bb\"\nBBFILES += \"${LAYERDIR}/recipes-*/*/*.bb \\\n \
                        ${LAYERDIR}/recipes-*/*/*.bbappend\"\nBBFILE_COLLECTIONS += \"x\"\n";

    #[test]
    fn reports_only_a_certainly_empty_layer() {
        let table: [(&str, &[&str], bool); 14] = [
            (CONF, &[], true),
            (CONF, &["README.md", "conf/x.inc", "recipes-x/x/files/a.patch", ".git/x.bb"], true),
            (CONF, &["conf/machine/include/x.inc", "classes/README"], true),
            (CONF, &["recipes-x/x/x_1.bb"], false),
            (CONF, &["recipes-x/x/x_%.bbappend"], false),
            (CONF, &["classes/x.bbclass"], false),
            (CONF, &["classes-recipe/x.bbclass"], false),
            (CONF, &["dynamic-layers/y/recipes-x/x/x.bb"], false),
            (CONF, &["conf/machine/m.conf"], false),
            (CONF, &["conf/distro/d.conf"], false),
            ("BBFILES += \"${LAYERDIR}/../recipes/*.bb\"\n", &[], false),
            ("BBFILES += \"/abs/*.bb\"\n", &[], false),
            ("require conf/more.conf\n", &[], false),
            ("BBFILES += \"${@files(d)}\"\n", &[], false),
        ];
        for (conf, files, wanted) in table {
            let top = tempfile::tempdir().unwrap();
            let layer = top.path().join("meta-x");
            for file in ["conf/layer.conf"].iter().chain(files) {
                let path = layer.join(file);
                fs_err::create_dir_all(path.parent().unwrap()).unwrap();
                fs_err::write(path, if *file == "conf/layer.conf" { conf } else { "" }).unwrap();
            }
            let found = check(&layer, top.path(), Release::find("scarthgap").unwrap());
            assert_eq!(found.is_some(), wanted, "{conf}\n{files:?}\n{found:?}");
            assert!(
                found.is_none_or(|case| case.file.as_deref() == Some(Path::new("meta-x/conf/layer.conf")))
            );
        }
    }

    #[test]
    fn follows_links_and_ends_at_loops() {
        let top = tempfile::tempdir().unwrap();
        let layer = top.path().join("meta-x");
        fs_err::create_dir_all(layer.join("conf")).unwrap();
        fs_err::write(layer.join("conf/layer.conf"), CONF).unwrap();
        std::os::unix::fs::symlink(&layer, layer.join("loop")).unwrap();
        std::os::unix::fs::symlink("nowhere", layer.join("dead")).unwrap();
        let scarthgap = Release::find("scarthgap").unwrap();
        assert!(check(&layer, top.path(), scarthgap).is_some());
        fs_err::create_dir_all(top.path().join("real")).unwrap();
        fs_err::write(top.path().join("real/x_1.bb"), "").unwrap();
        std::os::unix::fs::symlink("../real", layer.join("recipes-x")).unwrap();
        assert!(check(&layer, top.path(), scarthgap).is_none());
    }
}
