//! From the artifacts in a result to the files of a request. The result is untrusted: it names files, and the digests of
//! what is there decide.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

use agent_artifacts::records::FileDigest;
use agent_devices::request::FileRole;
use agent_types::artifact::Destination;
use agent_types::error::Result;
use agent_types::events::Artifact;

use super::files::globs;
use crate::config::DeviceTests;

/// Maximum bytes of all files of a request.
const MOST: u64 = 64 << 30;

/// A published file that the request needs.
#[derive(Debug, PartialEq, Eq)]
pub struct PublishedFile {
    pub role: FileRole,
    pub name: String,
    /// Below the destination of the artifacts.
    pub path: String,
    pub digest: FileDigest,
}

/// Chooses the files; the inner error is the reason why there are none that can be used.
pub fn published(
    device: &DeviceTests,
    artifacts: &[Artifact],
    destination: &Destination,
) -> Result<std::result::Result<Vec<PublishedFile>, String>> {
    let globs = globs(&device.files)?;
    let deploy = Path::new("deploy/images").join(&device.machine);
    let in_deploy = |path: &Path| {
        let mut parts = path.components();
        parts.next().is_some() && parts.as_path().parent() == Some(&deploy)
    };
    let export = device.export();
    // From the file to its shortest name.
    let mut chosen: BTreeMap<&Path, &str> = BTreeMap::new();
    for artifact in artifacts.iter().filter(|artifact| in_deploy(&artifact.path)) {
        let Some(name) = artifact.path.file_name().and_then(|name| name.to_str()) else { continue };
        if !globs.is_match(name) {
            continue;
        }
        let file = match &artifact.link {
            None => artifact.path.as_path(),
            Some(link) => match artifacts.iter().find(|other| is_target(artifact, link, other)) {
                Some(target) => target.path.as_path(),
                None => continue,
            },
        };
        let known = chosen.entry(file).or_insert(name);
        if (name.len(), name) < (known.len(), *known) {
            *known = name;
        }
    }
    if chosen.is_empty() {
        return Ok(Err(format!("the build published no file that matches {}", device.files.join(", "))));
    }
    let mut wanted: Vec<(FileRole, &Path, &str)> =
        chosen.into_iter().map(|(file, name)| (FileRole::Image, file, name)).collect();
    if device.needs_export() {
        wanted.push((FileRole::TestExport, Path::new(&export), &export));
    }
    let files: std::result::Result<Vec<PublishedFile>, String> = wanted
        .into_iter()
        .map(|(role, file, name)| of_artifact(role, file, name, artifacts, destination))
        .collect();
    let too_large = |files: &[PublishedFile]| {
        files
            .iter()
            .try_fold(0_u64, |sum, file| sum.checked_add(file.digest.bytes))
            .is_none_or(|sum| sum > MOST)
    };
    Ok(match files {
        Ok(files) if too_large(&files) => Err(format!("the files have more than {MOST} bytes")),
        files => files,
    })
}

/// Whether a link in the same directory leads to the other one.
fn is_target(artifact: &Artifact, link: &str, other: &Artifact) -> bool {
    let parent = artifact.path.parent().unwrap_or(Path::new(""));
    !link.contains('/') && other.link.is_none() && other.path == parent.join(link)
}

fn of_artifact(
    role: FileRole,
    file: &Path,
    name: &str,
    artifacts: &[Artifact],
    destination: &Destination,
) -> std::result::Result<PublishedFile, String> {
    let missing = || format!("the build did not publish {}", file.display());
    let artifact = artifacts
        .iter()
        .find(|artifact| artifact.path == file && artifact.link.is_none())
        .ok_or_else(missing)?;
    let (key, sha256) = artifact.key.as_ref().zip(artifact.sha256.as_ref()).ok_or_else(missing)?;
    let root = match destination {
        Destination::Directory(root) => root.clone(),
        Destination::S3 { prefix, .. } => PathBuf::from(prefix),
    };
    let below = Path::new(key).strip_prefix(&root).ok();
    let is_plain = |path: &&Path| path.components().all(|part| matches!(part, Component::Normal(_)));
    let below = below.filter(is_plain).and_then(Path::to_str).filter(|path| !path.is_empty());
    let Some(path) = below else {
        return Err(format!("{} is not where builds publish their artifacts", file.display()));
    };
    let is_digest =
        sha256.len() == 64 && sha256.chars().all(|char| char.is_ascii_digit() || ('a'..='f').contains(&char));
    if !is_digest {
        return Err(format!("{} has no digest", file.display()));
    }
    let digest = FileDigest { bytes: artifact.bytes, sha256: sha256.clone() };
    Ok(PublishedFile { role, name: name.to_owned(), path: path.to_owned(), digest })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::config::{DeviceRoute, DeviceWait};
    use agent_devices::request::DeviceTest;
    use std::time::Duration;

    fn device(tests: &[DeviceTest]) -> DeviceTests {
        DeviceTests {
            pool: "pi".into(),
            image: "img".into(),
            machine: "m".into(),
            tests: tests.to_vec(),
            suites: Vec::new(),
            commands: Vec::new(),
            features: Vec::new(),
            files: vec!["img*.wic".into()],
            priority: 0,
            required: true,
            untrusted: true,
            wait: DeviceWait::No,
            queue_limit: Duration::from_secs(1),
            run_limit: Duration::from_secs(1),
            route: DeviceRoute::Publish,
        }
    }

    fn artifact(path: &str) -> Artifact {
        Artifact {
            path: path.into(),
            key: Some(format!("pr/x/{path}")),
            bytes: 3,
            sha256: Some("a".repeat(64)),
            link: None,
        }
    }

    fn link(path: &str, to: &str) -> Artifact {
        Artifact { key: None, sha256: None, link: Some(to.into()), ..artifact(path) }
    }

    #[test]
    fn only_published_files_of_the_machine_are_used() {
        let bucket = Destination::S3 { bucket: "b".into(), prefix: "pr".into() };
        let images = "tmp/deploy/images";
        let good = [
            artifact(&format!("{images}/m/img-1.wic")),
            link(&format!("{images}/m/img.wic"), "img-1.wic"),
            link(&format!("{images}/m/img-x.wic"), "../m/img-1.wic"),
            artifact(&format!("{images}/other/img-1.wic")),
            artifact(&format!("{images}/m/sub/img-1.wic")),
            artifact("testexport-img-m.tar"),
        ];
        let found = published(&device(&[DeviceTest::Runtime]), &good, &bucket).unwrap().unwrap();
        let names: Vec<(&str, &str)> =
            found.iter().map(|file| (file.name.as_str(), file.path.as_str())).collect();
        assert_eq!(
            names,
            [
                ("img.wic", "x/tmp/deploy/images/m/img-1.wic"),
                ("testexport-img-m.tar", "x/testexport-img-m.tar")
            ]
        );
        let commands = device(&[DeviceTest::Commands]);
        assert_eq!(published(&commands, &good, &bucket).unwrap().unwrap().len(), 1, "no export is needed");

        let with = |change: fn(&mut Artifact)| {
            let mut all = good.clone();
            change(&mut all[0]);
            all.to_vec()
        };
        for (artifacts, wanted) in [
            (Vec::new(), "published no file that matches img*.wic"),
            (good[..5].to_vec(), "did not publish testexport-img-m.tar"),
            (with(|file| file.key = Some("secret/x".into())), "not where builds publish"),
            (with(|file| file.key = Some("pr/../secret/x".into())), "not where builds publish"),
            (with(|file| file.key = Some("pr".into())), "not where builds publish"),
            (with(|file| file.key = None), "did not publish"),
            (with(|file| file.sha256 = None), "did not publish"),
            (with(|file| file.sha256 = Some("A".repeat(64))), "no digest"),
            (with(|file| file.sha256 = Some("../x".into())), "no digest"),
            (with(|file| file.bytes = u64::MAX), "more than"),
        ] {
            let error = published(&device(&[DeviceTest::Ptest]), &artifacts, &bucket).unwrap().unwrap_err();
            assert!(error.contains(wanted), "wanted {wanted}, got {error}");
        }
    }
}
