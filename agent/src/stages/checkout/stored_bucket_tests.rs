//! Checkouts in a bucket against repositories in a temporary directory.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;
use std::time::Duration;

use fs_err as fs;

use agent_cache::bucket::BucketTiers;
use agent_git::fixture::Bench;
use agent_objects::retry::Retries;
use agent_objects::{ObjectPath, Objects};
use agent_types::bucket_share::BucketShare;
use agent_types::s3_address::S3Address;
use agent_types::tiers::{Access as ShareAccess, Tiers, Trust};
use object_store::memory::InMemory;

use super::tests::{job_with, main_of, other, pinned, two_files};
use super::*;

/// A bucket that lives as long as the test.
struct Bucket(Arc<InMemory>);

impl Bucket {
    fn new() -> Bucket {
        Bucket(Arc::new(InMemory::new()))
    }

    fn objects(&self) -> Objects {
        Objects::new(self.0.clone(), Retries::within(Duration::ZERO))
    }

    fn share(&self, trust: &Trust) -> OpenShare {
        let share = BucketShare::new(S3Address::parse("s3://b/share").unwrap());
        let tiers = Tiers::new(&share, ShareAccess::ReadWrite, trust);
        OpenShare { bucket: BucketTiers::new(&tiers, || self.objects()), ..OpenShare::default() }
    }

    fn trusted(&self) -> OpenShare {
        self.share(&Trust::Trusted { why: "a test".into() })
    }

    fn pull_request(&self) -> OpenShare {
        self.share(&Trust::Untrusted { why: String::new(), pull_request: Some(7) })
    }

    async fn keys(&self) -> Vec<String> {
        let listed = self.objects().below("", usize::MAX).await.unwrap();
        listed.into_iter().map(|object| object.key).collect()
    }

    /// The only packed checkout.
    async fn packed(&self) -> ObjectPath {
        let keys = self.keys().await;
        let packed: Vec<_> = keys.iter().filter(|key| key.ends_with(".tar.zst")).collect();
        let [key] = packed[..] else { panic!("{keys:?}") };
        ObjectPath::from(key.as_str())
    }
}

#[tokio::test]
async fn a_trusted_job_stores_a_checkout_that_fresh_machines_then_fetch() {
    let bench = Bench::new();
    let up = two_files(&bench).await;
    let bucket = Bucket::new();
    let source = pinned(&up).await;
    // A pull request clones, and leaves nothing.
    let (clone, traffic) = job_with(&bench, "zero", &bucket.pull_request(), other(), &source).await;
    assert_eq!((clone.unwrap().how, traffic.objects_written), (Origin::Cloned, 0));
    assert_eq!(bucket.keys().await, Vec::<String>::new());

    let (first, traffic) = job_with(&bench, "one", &bucket.trusted(), other(), &source).await;
    assert_eq!((first.unwrap().how, traffic.objects_written), (Origin::Cloned, 1));
    assert!(traffic.bytes_written > 100, "{traffic:?}");
    let key = bucket.packed().await;
    let commit = source.locked.clone().unwrap();
    let (repo, name) = (RepoName::of(&source.url), format!("{commit}.tar.zst"));
    assert_eq!(key.as_ref(), format!("share/layers/{}/{name}", repo.directory()));

    // The git server is not needed any more.
    fs::rename(bench.path("up"), bench.path("gone")).unwrap();
    for (machine, share) in [("two", bucket.trusted()), ("three", bucket.pull_request())] {
        let (fetched, traffic) = job_with(&bench, machine, &share, other(), &source).await;
        let fetched = fetched.unwrap();
        assert_eq!((fetched.how, fetched.is_shared), (Origin::Stored, false));
        assert_eq!((traffic.objects_read, traffic.objects_written), (1, 0));
        assert!(fetched.entry.tree().starts_with(bench.path(machine)));
        assert_eq!(layers::verify(&fetched.entry.directory(), Witness::CommitAlone), Ok(()));
        let git = bench.git(None, &[fetched.entry.tree()]);
        assert_eq!(git.local(&fetched.entry.tree(), ["status", "--porcelain"]).await.unwrap(), "");
        assert_eq!(git.commit_of(&fetched.entry.tree(), "HEAD").await.unwrap(), commit);
        // The next time it is there.
        let (again, traffic) = job_with(&bench, machine, &share, other(), &source).await;
        assert_eq!((again.unwrap().how, traffic.objects_read), (Origin::Stored, 0));
    }
}

#[tokio::test]
async fn a_checkout_of_this_machine_is_stored_by_the_next_trusted_job() {
    let bench = Bench::new();
    let up = two_files(&bench).await;
    let bucket = Bucket::new();
    let source = main_of(&up);
    job_with(&bench, "one", &OpenShare::default(), other(), &source).await.0.unwrap();
    let (stored, traffic) = job_with(&bench, "one", &bucket.trusted(), other(), &source).await;
    assert_eq!((stored.unwrap().how, traffic.objects_written), (Origin::Stored, 1));
    bucket.packed().await;
}

/// That a commit lies on its branch is known from the bucket, too: the branch is gone by now.
#[tokio::test]
async fn a_fresh_machine_knows_the_branches_of_a_checkout() {
    let bench = Bench::new();
    let up = two_files(&bench).await;
    let bucket = Bucket::new();
    let commit = pinned(&up).await.locked.unwrap();
    let on =
        |branch: &str| up.source(Wanted::CommitOnBranch { branch: branch.into(), commit: commit.clone() });
    job_with(&bench, "one", &bucket.trusted(), other(), &on("main")).await.0.unwrap();
    fs::rename(bench.path("up"), bench.path("gone")).unwrap();
    job_with(&bench, "two", &bucket.pull_request(), other(), &on("main")).await.0.unwrap();
    let unknown = job_with(&bench, "two", &bucket.pull_request(), other(), &on("other")).await.0;
    assert!(unknown.is_err(), "nobody has seen it there");
}

#[tokio::test]
async fn what_is_wrong_with_an_object_costs_a_clone() {
    let bench = Bench::new();
    let up = two_files(&bench).await;
    let source = pinned(&up).await;
    let bucket = Bucket::new();
    job_with(&bench, "one", &bucket.trusted(), other(), &source).await.0.unwrap();
    let (key, objects) = (bucket.packed().await, bucket.objects());
    let whole = objects.read(&key, 1 << 30).await.unwrap().unwrap();
    // The checkout of another repository under this name.
    let foreign = {
        let up = bench.upstream("foreign", &[("README", "x\n")]).await;
        let bucket = Bucket::new();
        job_with(&bench, "foreign-machine", &bucket.trusted(), other(), &main_of(&up)).await.0.unwrap();
        bucket.objects().read(&bucket.packed().await, 1 << 30).await.unwrap().unwrap()
    };
    let half = whole.slice(..whole.len() / 2);
    for (number, content) in [half, "no archive".into(), "".into(), foreign].into_iter().enumerate() {
        objects.replace(&key, content).await.unwrap();
        let machine = format!("machine-{number}");
        let (made, _) = job_with(&bench, &machine, &bucket.pull_request(), other(), &source).await;
        let made = made.unwrap();
        assert_eq!(made.how, Origin::Cloned, "{number}");
        assert_eq!(layers::verify(&made.entry.directory(), Witness::CommitAlone), Ok(()));
    }
    // A trusted job replaces it.
    job_with(&bench, "two", &bucket.trusted(), other(), &source).await.0.unwrap();
    let (fetched, _) = job_with(&bench, "three", &bucket.pull_request(), other(), &source).await;
    assert_eq!(fetched.unwrap().how, Origin::Stored);
}
