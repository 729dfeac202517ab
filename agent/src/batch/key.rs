//! The paths of a batch in the store of artifacts.
//!
//! ```text
//! batches/v1/<name>/memory.json                                    peak memory of the last run of each cell
//! batches/v1/<name>/<commit>/<manifest>-<batch>/lock               the pins of all cells, written once
//! batches/v1/<name>/<commit>/<manifest>-<batch>/cells/<cell>/<attempt>/{started,result.json}
//! batches/v1/<name>/<commit>/<manifest>-<batch>/merged/            the reports of all cells together
//! ```

use std::time::SystemTime;

use agent_artifacts::results::part;
use agent_types::error::{Error, Result};
use agent_types::job_id::JobId;

const TOP: &str = "batches/v1";

/// Digits of the manifest's digest in the path.
const DIGITS: usize = 16;

/// The id of a new batch: the time and a random part.
pub fn new_id(now: SystemTime) -> String {
    JobId::new(now).as_str().to_owned()
}

/// Checks the id of a batch from the command line.
///
/// # Errors
/// Why it is not one.
pub fn parse_id(text: &str) -> Result<String, String> {
    let is_good = |c: char| c.is_ascii_alphanumeric() || c == '-';
    match !text.is_empty() && text.len() <= 64 && text.chars().all(is_good) {
        true => Ok(text.to_owned()),
        false => Err("use at most 64 letters, digits and `-`".into()),
    }
}

/// Identifies one batch. Each build computes it from its command line and from its own checkout, so that a build of another
/// commit, of another manifest or of another batch finds nothing of this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchKey {
    /// The name of the job in the manifest.
    pub name: String,
    /// The commit under test.
    pub commit: String,
    /// SHA-256 of the cells and the manifest, in hexadecimal.
    pub manifest: String,
    pub id: String,
}

impl BatchKey {
    /// # Errors
    /// Usage, if the checkout has no commit, or is not at it: other machines could not have it.
    pub fn new(name: &str, commit: Option<&str>, dirty: bool, manifest: &str, id: &str) -> Result<BatchKey> {
        let Some(commit) = commit else {
            return Err(Error::usage("the layer under test is not in git, so other machines cannot get it")
                .hint("commit it, and push the commit"));
        };
        if dirty {
            return Err(Error::usage(
                "the checkout has changes that are not committed; other machines do not have them",
            )
            .hint("commit and push them"));
        }
        Ok(BatchKey { name: name.into(), commit: commit.into(), manifest: manifest.into(), id: id.into() })
    }

    fn top(&self) -> String {
        format!("{TOP}/{}", part(&self.name))
    }

    pub fn directory(&self) -> String {
        let digest = self.manifest.get(..DIGITS).unwrap_or(&self.manifest);
        format!("{}/{}/{digest}-{}", self.top(), part(&self.commit), self.id)
    }

    pub fn memory(&self) -> String {
        format!("{}/memory.json", self.top())
    }

    pub fn lock(&self) -> String {
        format!("{}/lock", self.directory())
    }

    pub fn cells(&self) -> String {
        format!("{}/cells", self.directory())
    }

    pub fn merged(&self) -> String {
        format!("{}/merged", self.directory())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn another_commit_manifest_or_batch_is_another_directory() {
        let key = |name, commit, manifest, id| {
            BatchKey::new(name, Some(commit), false, manifest, id).unwrap().directory()
        };
        let (one, other) = ("0123456789abcdef0", "1123456789abcdef0");
        let first = key("meta-x", "c0ffee", one, "b-1");
        assert_eq!(first, "batches/v1/meta-x/c0ffee/0123456789abcdef-b-1");
        let others = [
            key("meta-y", "c0ffee", one, "b-1"),
            key("meta-x", "beef", one, "b-1"),
            key("meta-x", "c0ffee", other, "b-1"),
            key("meta-x", "c0ffee", one, "b-2"),
        ];
        assert!(!others.contains(&first));
        assert!(key("../x", "c", one, "b").starts_with("batches/v1/..%2Fx/c/"));
        assert!(BatchKey::new("x", None, false, one, "b").is_err());
        assert!(BatchKey::new("x", Some("c"), true, one, "b").is_err());
    }

    #[test]
    fn an_id_is_a_part_of_a_path() {
        assert!(parse_id(&new_id(SystemTime::now())).is_ok());
        for bad in ["", "a/b", "..", "a b", "a\n", &"a".repeat(65)] {
            assert!(parse_id(bad).is_err(), "{bad:?}");
        }
    }
}
