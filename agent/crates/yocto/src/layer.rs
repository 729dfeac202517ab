//! Inspects a layer directory as yocto-check-layer does: `_detect_layer` of OE-Core's `checklayer`.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use std::io::ErrorKind;

use super::layer_conf::LayerConf;
use super::unreadable::Unreadable;
use agent_types::release::Release;

/// The type of a layer in yocto-check-layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerType {
    Bsp,
    Distro,
    Software,
    /// OE-Core itself; the tool knows it from kirkstone on.
    Core,
    /// Both a BSP and a distribution: the tool rejects it.
    BspAndDistro,
    NoLayerConf,
}

/// A layer directory in yocto-check-layer's view.
#[derive(Clone, Debug)]
pub struct Layer {
    /// The directory's name with links resolved: the name in the tool's summary.
    pub name: String,
    /// With links resolved.
    pub path: PathBuf,
    pub kind: LayerType,
    /// The names of `conf/machine/*.conf`, sorted.
    pub machines: Vec<String>,
    /// The names of `conf/distro/*.conf`, sorted.
    pub distros: Vec<String>,
    /// Empty, if there is no `conf/layer.conf`.
    pub conf: LayerConf,
}

impl Layer {
    /// Inspects the directory.
    ///
    /// # Errors
    /// If the directory or its `conf` cannot be read.
    pub fn detect(dir: &Path, release: &Release) -> Result<Layer, Unreadable> {
        let path = fs_err::canonicalize(dir).map_err(|error| Unreadable::new(dir, error))?;
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let file = path.join("conf/layer.conf");
        // What is there and is no file is not the same as nothing.
        if fs_err::symlink_metadata(&file).is_err_and(|error| is_missing(&error)) {
            let kind = LayerType::NoLayerConf;
            let conf = LayerConf::default();
            return Ok(Layer { name, path, kind, machines: Vec::new(), distros: Vec::new(), conf });
        }
        let machines = configurations(&path.join("conf/machine"))?;
        let distros = configurations(&path.join("conf/distro"))?;
        let conf = LayerConf::read(&path)?;
        let knows_core = !matches!(release.name, "dunfell" | "gatesgarth" | "hardknott" | "honister");
        let kind = match (machines.is_empty(), distros.is_empty()) {
            _ if knows_core && name == "meta" && conf.collection("core").is_some() => LayerType::Core,
            (false, false) => LayerType::BspAndDistro,
            (false, true) => LayerType::Bsp,
            (true, false) => LayerType::Distro,
            (true, true) => LayerType::Software,
        };
        Ok(Layer { name, path, kind, machines, distros, conf })
    }
}

fn is_missing(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn configurations(dir: &Path) -> Result<Vec<String>, Unreadable> {
    let unreadable = |error| Unreadable::new(dir, error);
    match fs_err::metadata(dir) {
        Ok(metadata) if metadata.is_dir() => {}
        // The tool looks into directories only.
        Ok(_) => return Ok(Vec::new()),
        Err(error) if is_missing(&error) => return Ok(Vec::new()),
        Err(error) => return Err(unreadable(error)),
    }
    let mut names = Vec::new();
    for entry in fs_err::read_dir(dir).map_err(unreadable)? {
        let entry = entry.map_err(unreadable)?;
        let name = entry.file_name();
        if let Some(stem) = name.as_bytes().strip_suffix(b".conf")
            && entry.path().is_file()
        {
            names.push(String::from_utf8_lossy(stem).into_owned());
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn detects_the_type_by_the_files() {
        let scarthgap = Release::find("scarthgap").unwrap();
        let dunfell = Release::find("dunfell").unwrap();
        let table: [(&str, &[&str], &Release, LayerType); 8] = [
            ("meta-a", &["conf/layer.conf"], scarthgap, LayerType::Software),
            ("meta-b", &["conf/layer.conf", "conf/machine/m.conf"], scarthgap, LayerType::Bsp),
            ("meta-c", &["conf/layer.conf", "conf/distro/d.conf"], scarthgap, LayerType::Distro),
            ("meta-d", &["conf/layer.conf", "conf/machine/m.inc"], scarthgap, LayerType::Software),
            (
                "meta-e",
                &["conf/layer.conf", "conf/machine/m.conf", "conf/distro/d.conf"],
                scarthgap,
                LayerType::BspAndDistro,
            ),
            ("meta-f", &["conf/machine/m.conf"], scarthgap, LayerType::NoLayerConf),
            ("meta", &["conf/layer.conf"], scarthgap, LayerType::Core),
            ("meta", &["conf/layer.conf"], dunfell, LayerType::Software),
        ];
        for (name, files, release, wanted) in table {
            let top = tempfile::tempdir().unwrap();
            for file in files {
                let path = top.path().join(name).join(file);
                fs_err::create_dir_all(path.parent().unwrap()).unwrap();
                fs_err::write(path, "BBFILE_COLLECTIONS = \"core\"\n").unwrap();
            }
            let layer = Layer::detect(&top.path().join(name), release).unwrap();
            assert_eq!(layer.kind, wanted, "{name} {}", release.name);
            assert_eq!(layer.name, name);
        }
    }
}
