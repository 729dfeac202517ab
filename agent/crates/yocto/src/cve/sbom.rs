//! The input of sbom-cve-check: the recipes as an SBOM in SPDX 2.2, as OE-Core's `create-spdx-2.2` would name them, but
//! with nothing else in it; and the statements of `vex.bbclass`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::Report;

/// The databases that it can read, with the directory of each in the prepared one.
const DATABASES: [(&str, &str); 2] = [("cve-db-nvd-fkie", "nvd-fkie"), ("cve-db-cvelist", "cvelist")];

/// The files of the SBOM, by their names in its directory.
pub fn files(reports: &[Report]) -> Vec<(String, String)> {
    let of_recipe = |report: &Report| {
        let name = &report.recipe;
        let namespace = format!("http://spdx.org/spdxdocs/build-agent/recipe-{name}");
        let cpes: Vec<Value> = report.cpes.iter().map(|cpe| cpe_reference(cpe)).collect();
        let recipe = json!({
            "documentNamespace": namespace,
            "packages": [{
                "SPDXID": format!("SPDXRef-Recipe-{name}"),
                "name": name,
                "versionInfo": report.version,
                "externalRefs": cpes,
            }],
        });
        let package = json!({
            "externalDocumentRefs": [{ "spdxDocument": namespace }],
            "packages": [{ "name": name, "versionInfo": report.version }],
        });
        // A package has the name of its recipe here; the prefix "package-" avoids the names that the tool skips.
        [(format!("recipe-{name}.spdx.json"), recipe), (format!("package-{name}.spdx.json"), package)]
    };
    reports.iter().flat_map(of_recipe).map(|(name, value)| (name, value.to_string())).collect()
}

fn cpe_reference(cpe: &str) -> Value {
    json!({
        "referenceCategory": "SECURITY",
        "referenceType": "http://spdx.org/rdf/references/cpe23Type",
        "referenceLocator": cpe,
    })
}

/// The reports of all recipes as one manifest, as `vex.bbclass` writes it for an image.
pub fn manifest(reports: &[Value]) -> String {
    let packages: Vec<&Value> =
        reports.iter().filter_map(|report| report["package"].as_array()).flatten().collect();
    json!({ "version": "1", "package": packages }).to_string()
}

/// The configuration: the prepared databases are only read, so that locks and indexes are in `scratch`.
///
/// # Errors
/// If there is none of them.
pub fn config(database: &Path, scratch: &Path) -> Result<String, String> {
    // TOML and JSON quote such a string in the same way.
    let quoted = |path: &Path| json!(path.to_string_lossy()).to_string();
    let mut text = format!("databases-lockdir = {}\n", quoted(scratch));
    let there = DATABASES.iter().filter(|(_, directory)| database.join(directory).is_dir());
    // The tool itself would clone one that is missing.
    let count = there
        .map(|(kind, directory)| {
            let (path, index) = (database.join(directory), scratch.join(format!("{directory}.json")));
            text += &format!(
                "\n[databases.{directory}]\ntype = \"{kind}\"\npath = {}\ncache_index_path = {}\n",
                quoted(&path),
                quoted(&index)
            );
        })
        .count();
    match count {
        0 => Err(format!("`{}` holds neither nvd-fkie nor cvelist", database.display())),
        _ => Ok(text),
    }
}

/// The git clones of the prepared database.
pub fn databases(database: &Path) -> Vec<PathBuf> {
    DATABASES.iter().map(|(_, directory)| database.join(directory)).filter(|path| path.is_dir()).collect()
}

/// The name of the report in the output directory.
pub const REPORT: &str = "report.json";

/// The arguments. `input` holds the configuration, the statements, and the [`files`] in `sbom`.
pub fn arguments(input: &Path, output: &Path) -> Vec<OsString> {
    let at = |name: &str| input.join(name).into_os_string();
    let mut words: Vec<OsString> =
        vec!["--ignore-default-config".into(), "--config".into(), at("config.toml")];
    words.extend(["--sbom-type", "spdx2", "--ignore-sbom-annotations", "--sbom-path"].map(OsString::from));
    words.extend([at("sbom"), "--yocto-vex-manifest".into(), at("vex.json")]);
    words.extend(
        ["--offline-mode", "--disable-auto-updates", "--export-process-native", "both"].map(OsString::from),
    );
    words.extend(["--export-type", "yocto-cve-check-manifest", "--export-path"].map(OsString::from));
    words.push(output.join(REPORT).into_os_string());
    words
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    #[test]
    fn a_recipe_is_a_document_with_its_cpes_and_one_with_its_package() {
        let cpe = "cpe:2.3:*:*:greeting:1.0:*:*:*:*:*:*:*";
        let report = Report {
            recipe: "greeting".into(),
            version: "1.0".into(),
            cpes: vec![cpe.into()],
            ..Report::default()
        };
        let files = files(&[report]);
        let names: Vec<_> = files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["recipe-greeting.spdx.json", "package-greeting.spdx.json"]);
        let [recipe, package] = [0, 1].map(|index| serde_json::from_str::<Value>(&files[index].1).unwrap());
        assert_eq!(recipe["packages"][0]["externalRefs"][0]["referenceLocator"], cpe);
        assert_eq!(recipe["documentNamespace"], package["externalDocumentRefs"][0]["spdxDocument"]);
    }

    #[test]
    fn manifests_are_joined_by_their_packages() {
        let one = |name: &str| json!({ "version": "1", "package": [{ "name": name }] });
        let joined: Value = serde_json::from_str(&manifest(&[one("a"), json!({}), one("b")])).unwrap();
        assert_eq!(joined, json!({ "version": "1", "package": [{ "name": "a" }, { "name": "b" }] }));
    }

    #[test]
    fn the_databases_that_are_there_are_read_and_nothing_is_written_there() {
        let top = tempfile::tempdir().unwrap();
        assert!(config(top.path(), Path::new("/s")).unwrap_err().contains("neither"));
        fs_err::create_dir(top.path().join("nvd-fkie")).unwrap();
        let text = config(top.path(), Path::new("/s")).unwrap();
        let path = format!("path = \"{}/nvd-fkie\"\n", top.path().display());
        assert!(text.starts_with("databases-lockdir = \"/s\"\n") && text.contains(&path), "{text}");
        assert!(
            text.contains("cache_index_path = \"/s/nvd-fkie.json\"\n") && !text.contains("cvelist"),
            "{text}"
        );
    }
}
