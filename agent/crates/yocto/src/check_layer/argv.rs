//! The command line of yocto-check-layer.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// The arguments after the program's name; all releases understand them. Paths are absolute.
///
/// `-n`: the layer and the dependencies are what is named, not what is found below them.
/// `--no-auto-dependency`: dependencies are added, but not tested. `--dependency` and `--machines`
/// take all words up to the next option, so that `--` has to come before the layer (argparse's `nargs="+"`;
/// OE-Core's own example in `cases/bsp.py` is written so).
pub fn arguments(layer: &Path, dependencies: &[PathBuf], machines: &[String]) -> Vec<OsString> {
    let mut argv: Vec<OsString> = vec!["-n".into(), "--no-auto-dependency".into()];
    if !dependencies.is_empty() {
        argv.push("--dependency".into());
        argv.extend(dependencies.iter().map(|path| path.as_os_str().to_owned()));
    }
    if !machines.is_empty() {
        argv.push("--machines".into());
        argv.extend(machines.iter().map(OsString::from));
    }
    argv.extend(["--".into(), layer.as_os_str().to_owned()]);
    argv
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn words(dependencies: &[&str], machines: &[&str]) -> Vec<String> {
        let dependencies: Vec<PathBuf> = dependencies.iter().map(PathBuf::from).collect();
        let machines: Vec<String> = machines.iter().map(|name| (*name).to_owned()).collect();
        arguments(Path::new("/l/meta-x"), &dependencies, &machines)
            .into_iter()
            .map(|word| word.into_string().unwrap())
            .collect()
    }

    #[test]
    fn lists_end_before_the_layer() {
        assert_eq!(words(&[], &[]), ["-n", "--no-auto-dependency", "--", "/l/meta-x"]);
        assert_eq!(
            words(&["/a", "/b"], &["m"]),
            ["-n", "--no-auto-dependency", "--dependency", "/a", "/b", "--machines", "m", "--", "/l/meta-x"]
        );
    }
}
