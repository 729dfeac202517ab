//! The store of results by commit: small files in a bucket or a directory, each written as a whole.
//!
//! ```text
//! results/v1/<name>/<release>/<machines>/<commit>/<build>/    the reports of one job
//! results/v1/<name>/<release>/<machines>/<commit>/latest.json what later jobs are compared with; written last
//! ```

use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nix::sys::stat::{Mode, fchmod};
use object_store::path::Path as Key;
use object_store::{Attribute, Attributes, ObjectStore, PutOptions};
use sha2::{Digest, Sha256};

use crate::aws;
use crate::store::{join, segment};
use agent_fs::dir::{Access, DirHandle, Links};
use agent_objects::Objects;
use agent_objects::key::exact;
use agent_objects::retry::Retries;
use agent_types::artifact::Destination;
use agent_types::error::{Error, Result};
use agent_types::events::JobIdentity;

/// How long failed requests are retried: a job goes on without the store.
const RETRIES: Retries = Retries { within: Duration::from_secs(10), delay: Duration::from_millis(250) };

/// The part of the store for this layout.
const TOP: &str = "results/v1";

/// A longer list of machines becomes a digest.
const LONGEST: usize = 80;

const INDEX: &str = "latest.json";

const DIRECTORY: Mode = Mode::from_bits_truncate(0o755);
const FILE: Mode = Mode::from_bits_truncate(0o644);

/// The results of all commits of a job.
pub fn of_job(job: &JobIdentity) -> String {
    let machines = match job.machines.join("+") {
        long if long.len() > LONGEST => {
            let digest: String =
                Sha256::digest(&long).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            format!("{}-machines-{digest}", job.machines.len())
        }
        machines => machines,
    };
    let parts = [&job.name, &job.release, &machines].map(|part| segment(part));
    format!("{TOP}/{}", parts.join("/"))
}

/// What later jobs are compared with.
pub fn index(job: &JobIdentity, commit: &str) -> String {
    format!("{}/{}/{INDEX}", of_job(job), segment(commit))
}

/// The directory for the reports of this job.
pub fn directory(job: &JobIdentity) -> String {
    let mut commit = job.commit.clone().unwrap_or_else(|| "unversioned".into());
    if job.dirty {
        commit.push_str("-dirty");
    }
    format!("{}/{}/{}", of_job(job), segment(&commit), segment(&job.build))
}

/// A path below another one; either may be empty.
pub fn joined(one: &str, other: &str) -> String {
    join(one, other)
}

/// An open store.
#[derive(Debug)]
pub struct ResultStore {
    place: Place,
    /// Whether S3 refused to read an object. It says the same of objects that do not exist to a role that may not list.
    refused: AtomicBool,
}

#[derive(Debug)]
enum Place {
    Bucket { objects: Objects, name: String, prefix: String },
    Directory(PathBuf),
}

impl ResultStore {
    /// Opens the share or the destination. `is_share`: its directory must exist, because it is mounted.
    ///
    /// # Errors
    /// Usage, if the region is unknown or the endpoint is not a URL; machine, if the share is not there.
    pub async fn open(root: &Destination, is_share: bool, kms_key_id: Option<&str>) -> Result<ResultStore> {
        let place = match root {
            Destination::S3 { bucket, prefix } => {
                let store = match is_share {
                    true => aws::share_bucket(bucket).await?,
                    false => aws::bucket(bucket, kms_key_id, INDEX).await?,
                };
                Place::Bucket {
                    objects: Objects::new(Arc::new(store), RETRIES),
                    name: bucket.clone(),
                    prefix: prefix.clone(),
                }
            }
            Destination::Directory(path) => {
                let looked = path.clone();
                // On a file server that hangs, this does not return.
                if is_share && !blocking(move || Ok(looked.is_dir())).await? {
                    return Err(Error::machine(format!("the share `{}` is not there", path.display()))
                        .hint("mount it, or remove [cache] share"));
                }
                Place::Directory(path.clone())
            }
        };
        Ok(ResultStore::at(place))
    }

    fn at(place: Place) -> ResultStore {
        ResultStore { place, refused: AtomicBool::new(false) }
    }

    /// A store in this bucket, for tests.
    #[cfg(test)]
    fn in_bucket(store: Arc<dyn ObjectStore>, prefix: &str) -> ResultStore {
        let retries = Retries::within(Duration::ZERO);
        let objects = Objects::new(store, retries);
        ResultStore::at(Place::Bucket { objects, name: "b".into(), prefix: prefix.into() })
    }

    /// A path as people and their tools write it.
    pub fn shown(&self, path: &str) -> String {
        match &self.place {
            Place::Bucket { name, prefix, .. } => format!("s3://{name}/{}", join(prefix, path)),
            Place::Directory(root) => root.join(path).display().to_string(),
        }
    }

    /// Whether S3 refused to read an object, which may not exist.
    pub fn was_refused(&self) -> bool {
        self.refused.load(Ordering::Relaxed)
    }

    /// The content of a file of at most `limit` bytes; `None`, if there is none.
    ///
    /// # Errors
    /// If it cannot be read, or is larger.
    pub async fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        match &self.place {
            Place::Bucket { objects, prefix, .. } => {
                let key = exact(&join(prefix, path)).map_err(Error::usage)?;
                match objects.read(&key, limit).await {
                    Ok(content) => Ok(content.map(Vec::from)),
                    Err(object_store::Error::PermissionDenied { .. }) => {
                        self.refused.store(true, Ordering::Relaxed);
                        Ok(None)
                    }
                    Err(error) => Err(aws::upstream(
                        format!("cannot read {}", self.shown(path)),
                        &error,
                        "s3:GetObject",
                    )),
                }
            }
            Place::Directory(root) => {
                let (root, below, shown) = (root.clone(), path.to_owned(), self.shown(path));
                blocking(move || match read_file(&root, &below, limit) {
                    Ok(content) => Ok(Some(content)),
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
                    Err(error) => Err(Error::machine(format!("cannot read {shown}")).because(&error)),
                })
                .await
            }
        }
    }

    /// Writes a whole file, and replaces an older one. A reader sees the old one or the new one.
    ///
    /// # Errors
    /// If it cannot be written.
    pub async fn write(&self, path: &str, content: Vec<u8>) -> Result<()> {
        match &self.place {
            Place::Bucket { objects, prefix, .. } => {
                let key = exact(&join(prefix, path)).map_err(Error::usage)?;
                let content = bytes::Bytes::from(content);
                let put = || put(objects.store(), &key, content.clone());
                let failed = |error| {
                    aws::upstream(format!("cannot write {}", self.shown(path)), &error, "s3:PutObject")
                };
                objects.retries().run(put).await.map_err(failed)
            }
            Place::Directory(root) => {
                let (root, below, shown) = (root.clone(), path.to_owned(), self.shown(path));
                blocking(move || {
                    write_file(&root, &below, &content)
                        .map_err(|error| Error::machine(format!("cannot write {shown}")).because(&error))
                })
                .await
            }
        }
    }
}

async fn put(store: &Arc<dyn ObjectStore>, key: &Key, content: bytes::Bytes) -> object_store::Result<()> {
    let kind = content_type(key.as_ref());
    let attributes = Attributes::from_iter([(Attribute::ContentType, kind)]);
    let options = PutOptions { attributes, ..PutOptions::default() };
    store.put_opts(key, content.into(), options).await.map(|_| ())
}

/// A browser shows a page only if its content type says so.
fn content_type(key: &str) -> &'static str {
    match key.rsplit_once('.').map(|(_, kind)| kind) {
        Some("html") => "text/html; charset=utf-8",
        Some("json" | "sarif") => "application/json",
        Some("xml") => "application/xml",
        _ => "application/octet-stream",
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let broken = |error| Error::internal("access to the stored results broke").because(&error);
    tokio::task::spawn_blocking(work).await.map_err(broken)?
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn read_file(root: &std::path::Path, path: &str, limit: u64) -> std::io::Result<Vec<u8>> {
    let (parents, name) = split(path);
    let root = DirHandle::open_with(root, Links::Follow, Access::PathOnly)?;
    root.open_dir_with(parents, Access::PathOnly)?.read(name, limit)
}

fn write_file(root: &std::path::Path, path: &str, content: &[u8]) -> std::io::Result<()> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let (parents, name) = split(path);
    fs_err::create_dir_all(root)?;
    let directory = DirHandle::open(root)?.create_dirs(parents, DIRECTORY)?;
    // Jobs of several machines may write the same file.
    let machine = nix::unistd::gethostname().unwrap_or_default();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let temporary =
        format!(".{:.40}-{}-{count}.part", machine.to_string_lossy().replace('/', "_"), std::process::id());
    // Of a job that was killed, and that had this process id.
    let _ = directory.remove_file(&temporary);
    let written = (|| {
        let mut file = directory.create_file(&temporary, FILE)?;
        fchmod(&file, FILE)?;
        file.write_all(content)?;
        file.sync_all()?;
        directory.rename(&temporary, &directory, name)
    })();
    if written.is_err() {
        let _ = directory.remove_file(&temporary);
    }
    written
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;

    use super::*;

    fn job() -> JobIdentity {
        JobIdentity {
            name: "meta-x".into(),
            release: "scarthgap".into(),
            machines: vec!["a".into(), "b".into()],
            commit: Some("0123".into()),
            build: "17".into(),
            ..JobIdentity::default()
        }
    }

    #[test]
    fn each_job_has_a_place_of_its_own() {
        let many: Vec<String> = (0..40).map(|number| format!("machine-{number}")).collect();
        let hostile = ["..", "a/b", ""].map(str::to_owned).to_vec();
        for (job, wanted) in [
            (job(), "results/v1/meta-x/scarthgap/a+b/0123/17"),
            (JobIdentity { dirty: true, ..job() }, "results/v1/meta-x/scarthgap/a+b/0123-dirty/17"),
            (JobIdentity { commit: None, ..job() }, "results/v1/meta-x/scarthgap/a+b/unversioned/17"),
            (JobIdentity { machines: Vec::new(), ..job() }, "results/v1/meta-x/scarthgap/_/0123/17"),
            (
                JobIdentity { machines: hostile, name: "..".into(), ..job() },
                "results/v1/%2E%2E/scarthgap/..+a%2Fb+/0123/17",
            ),
        ] {
            assert_eq!(directory(&job), wanted);
        }
        let one = of_job(&JobIdentity { machines: many.clone(), ..job() });
        let other = of_job(&JobIdentity { machines: many[1..].to_vec(), ..job() });
        assert!(one.len() < 120 && one.contains("/40-machines-") && one != other, "{one}");
        assert_eq!(index(&job(), "0123"), "results/v1/meta-x/scarthgap/a+b/0123/latest.json");
    }

    #[tokio::test]
    async fn files_are_replaced_as_a_whole_in_a_bucket_and_in_a_directory() {
        let place = tempfile::tempdir().unwrap();
        let bucket = Arc::new(InMemory::new());
        let in_bucket = ResultStore::in_bucket(bucket.clone(), "p");
        let in_directory = ResultStore::at(Place::Directory(place.path().join("store")));
        for store in [&in_bucket, &in_directory] {
            assert_eq!(store.read("a/b/latest.json", 10).await.unwrap(), None);
            for content in ["one", "two"] {
                store.write("a/b/latest.json", content.into()).await.unwrap();
                assert_eq!(store.read("a/b/latest.json", 10).await.unwrap().unwrap(), content.as_bytes());
            }
            assert!(store.read("a/b/latest.json", 2).await.is_err(), "it is larger");
            assert!(store.write("a/../b", Vec::new()).await.is_err());
        }
        assert_eq!(in_bucket.shown("a/x"), "s3://b/p/a/x");
        let page = Key::from("p/a/report.html");
        in_bucket.write("a/report.html", b"x".to_vec()).await.unwrap();
        let got = bucket.get(&page).await.unwrap();
        assert_eq!(got.attributes.get(&Attribute::ContentType).unwrap().as_ref(), "text/html; charset=utf-8");
        let directory = place.path().join("store/a/b");
        let names: Vec<_> =
            fs_err::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["latest.json"]);
        let mode = fs_err::metadata(directory.join("latest.json")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o644);
    }

    #[tokio::test]
    async fn links_in_a_directory_are_not_followed() {
        let place = tempfile::tempdir().unwrap();
        let (root, outside) = (place.path().join("store"), place.path().join("outside"));
        fs_err::create_dir_all(root.join("a")).unwrap();
        fs_err::create_dir(&outside).unwrap();
        fs_err::write(outside.join("x"), "secret").unwrap();
        symlink(&outside, root.join("a/b")).unwrap();
        symlink(outside.join("x"), root.join("a/x")).unwrap();
        let store = ResultStore::at(Place::Directory(root.clone()));
        for path in ["a/b/x", "a/x"] {
            assert!(store.read(path, 10).await.is_err(), "{path}");
        }
        assert!(store.write("a/b/y", b"z".to_vec()).await.is_err());
        assert!(!outside.join("y").exists());
        store.write("a/x", b"own".to_vec()).await.unwrap();
        assert_eq!(fs_err::read(outside.join("x")).unwrap(), b"secret");
    }

    #[tokio::test]
    async fn a_share_that_is_not_mounted_is_not_made() {
        let place = tempfile::tempdir().unwrap();
        let missing = Destination::Directory(place.path().join("efs"));
        assert!(ResultStore::open(&missing, true, None).await.is_err());
        assert!(ResultStore::open(&missing, false, None).await.is_ok());
        assert!(!place.path().join("efs").exists());
    }
}
