use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use agent_objects::retry::Retries;
use agent_objects::{ListedObject, Objects};
use agent_types::bucket_share::BucketShare;
use agent_types::events::CacheCounts;
use agent_types::s3_address::S3Address;
use agent_types::tiers::{Access, TierKind, Tiers, Trust};
use async_trait::async_trait;
use fs_err as fs;
use futures_util::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path as Key;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};

use super::*;
use crate::bucket::index::{BaseWriter, Index};
use crate::publish::{Published, TroubleKind};

const HASH: &str = "ab12000000000000000000000000000000000000000000000000000000000000";

fn archive(task: &str) -> String {
    format!("sstate:zlib:core2-64-poky-linux:1.3.1:r0:core2-64:12:{HASH}_{task}.tar.zst")
}

/// The key of a file of shared state in the shared tier.
fn key(name: &str) -> String {
    format!("p/sstate/scarthgap/ab/12/{name}")
}

/// A share in memory, and the local directories of a build.
struct Place {
    base: tempfile::TempDir,
    store: Arc<InMemory>,
}

impl Place {
    fn new() -> Place {
        let place = Place { base: tempfile::tempdir().unwrap(), store: Arc::default() };
        fs::create_dir_all(place.base.path().join("sstate/ab/12")).unwrap();
        fs::create_dir_all(place.base.path().join("downloads")).unwrap();
        place
    }

    fn sstate(&self, name: &str) -> PathBuf {
        self.base.path().join("sstate/ab/12").join(name)
    }

    /// Creates a file with its stamp.
    fn download(&self, name: &str, content: &str) {
        let path = self.base.path().join("downloads").join(name);
        fs::write(&path, content).unwrap();
        fs::write(path.with_file_name(format!("{name}.done")), "").unwrap();
    }

    fn objects(&self) -> Objects {
        Objects::new(self.store.clone(), Retries::within(Duration::ZERO))
    }

    fn tiers(&self, pull_request: Option<u64>) -> BucketTiers {
        let trust = match pull_request {
            None => Trust::Trusted { why: String::new() },
            pull_request => Trust::Untrusted { why: String::new(), pull_request },
        };
        let share = BucketShare::new(S3Address::parse("s3://bucket/p").unwrap());
        BucketTiers::new(&Tiers::new(&share, Access::ReadWrite, &trust), || self.objects())
    }

    async fn publish(&self) -> Published {
        self.publish_to(&self.tiers(None), &Interrupt::new(None)).await
    }

    async fn publish_to(&self, tiers: &BucketTiers, interrupt: &Interrupt) -> Published {
        let sources = Sources {
            sstate: self.base.path().join("sstate"),
            downloads: self.base.path().join("downloads"),
            release: "scarthgap".into(),
        };
        let tally = Arc::new(Tally::default());
        publish(&sources, tiers, &[], interrupt, &tally).await;
        tally.so_far()
    }

    /// All objects but those of the index, by key.
    async fn all(&self) -> BTreeMap<String, ListedObject> {
        let listed = self.objects().below("p/", usize::MAX).await.unwrap();
        let named = listed.into_iter().map(|object| (object.key.clone(), object));
        named.filter(|(key, _)| !key.contains("/index/")).collect()
    }

    async fn read(&self, key: &str) -> String {
        let read = self.objects().read(&Key::parse(key).unwrap(), 1000).await.unwrap();
        String::from_utf8(read.unwrap_or_else(|| panic!("no {key}")).to_vec()).unwrap()
    }

    async fn write(&self, key: &str, content: &'static str) {
        self.objects().replace(&Key::parse(key).unwrap(), content.into()).await.unwrap();
    }
}

fn counts(published: &Published) -> (u64, u64, u64, u64, u64) {
    let CacheCounts { published, present, differing, failed, left, .. } = published.counts;
    (published, present, differing, failed, left)
}

#[tokio::test]
async fn publishes_whole_objects_and_sends_nothing_the_second_time() {
    let place = Place::new();
    let name = archive("compile");
    fs::write(place.sstate(&name), "archive").unwrap();
    fs::write(place.sstate(&format!("{name}.siginfo")), "siginfo").unwrap();
    let alone = format!("{}.siginfo", archive("fetch"));
    fs::write(place.sstate(&alone), "alone").unwrap();
    place.download("zlib.tar.xz", "source");
    let published = place.publish().await;
    assert_eq!(counts(&published), (3, 0, 0, 0, 0), "{published:?}");
    assert!(published.complete);
    assert_eq!(published.counts.bytes, 7 + 7 + 5 + 6);
    let traffic = published.traffic[&TierKind::Shared];
    assert_eq!((traffic.objects_written, traffic.bytes_written), (3, 25));
    let all = place.all().await;
    let siginfo = key(&format!("{name}.siginfo"));
    let wanted = [key(&name), siginfo.clone(), key(&alone), "p/downloads/zlib.tar.xz".into()];
    assert_eq!(all.keys().cloned().collect::<Vec<_>>(), {
        let mut wanted = wanted.to_vec();
        wanted.sort();
        wanted
    });
    assert_eq!(place.read(&key(&name)).await, "archive");
    assert!(all[&siginfo].modified <= all[&key(&name)].modified);
    // The next job finds the files in the index.
    let index = Index::load(&place.tiers(None).read[0], "scarthgap").await.unwrap();
    let path = |name: &str| format!("ab/12/{name}");
    let sizes = [path(&name), format!("{}.siginfo", path(&name)), path(&alone)].map(|path| index.size(&path));
    assert_eq!(sizes, [Some(7), Some(7), Some(5)]);

    let tiers = place.tiers(None);
    let published = place.publish_to(&tiers, &Interrupt::new(None)).await;
    assert_eq!(counts(&published), (0, 3, 0, 0, 0), "{published:?}");
    assert_eq!(tiers.read[0].objects.meter().so_far().bytes_written, 0);
    assert_eq!(place.all().await, all, "nothing was written");
}

/// Without an index and without the right to list, the bucket says what it has.
#[tokio::test]
async fn an_object_that_is_not_in_the_index_is_found() {
    let place = Place::new();
    let (same, other) = (archive("compile"), archive("install"));
    fs::write(place.sstate(&same), "archive").unwrap();
    fs::write(place.sstate(&other), "archive").unwrap();
    place.publish().await;
    let index = place.objects().below("p/index/", usize::MAX).await.unwrap();
    assert!(!index.is_empty());
    // A new base without the files is believed: they may have been pruned.
    let since = std::time::SystemTime::now();
    let base = BaseWriter::new(&place.tiers(None).read[0], "scarthgap", since).unwrap();
    base.finish().await.unwrap();
    let additions = index.into_iter().map(|object| Key::parse(object.key).unwrap()).collect();
    assert!(place.objects().delete_batch(additions).await.is_empty());
    fs::write(place.sstate(&other), "another size").unwrap();
    let published = place.publish().await;
    assert_eq!(counts(&published), (0, 1, 1, 0, 0), "{published:?}");
    assert_eq!(place.read(&key(&other)).await, "archive");
    // What was found there is in the index from now on.
    let index = Index::load(&place.tiers(None).read[0], "scarthgap").await.unwrap();
    assert!(index.contains(&format!("ab/12/{same}")) && !index.contains(&format!("ab/12/{other}")));
}

#[tokio::test]
async fn different_content_stays_and_only_downloads_are_alarming() {
    let place = Place::new();
    for (name, content) in [("same", "1234"), ("larger", "1234"), ("other", "1234")] {
        fs::write(place.sstate(&archive(name)), content).unwrap();
        place.download(&format!("{name}.tar.gz"), content);
    }
    place.publish().await;
    for (name, content) in [("same", "1234"), ("larger", "12345"), ("other", "abcd")] {
        fs::write(place.sstate(&archive(name)), content).unwrap();
        place.download(&format!("{name}.tar.gz"), content);
    }
    let published = place.publish().await;
    // Equivalent builds differ in some bytes.
    assert_eq!(counts(&published), (0, 3, 3, 0, 0), "{published:?}");
    assert_eq!(published.alarms, 2);
    assert!(published.alarming.contains(&"downloads/larger.tar.gz".to_owned()), "{published:?}");
    assert_eq!(place.read("p/downloads/other.tar.gz").await, "1234");
    assert_eq!(place.read(&key(&archive("larger"))).await, "1234");
}

/// A killed publisher leaves sidecar files. Those of the next one belong to its archive.
#[tokio::test]
async fn the_publisher_of_the_archive_decides_about_its_sidecars() {
    let place = Place::new();
    let name = archive("compile");
    place.write(&key(&format!("{name}.sig")), "of another archive").await;
    place.write(&key(&format!("{name}.siginfo")), "same").await;
    for (suffix, content) in [("", "archive"), (".sig", "signature"), (".siginfo", "same")] {
        fs::write(place.sstate(&format!("{name}{suffix}")), content).unwrap();
    }
    let published = place.publish().await;
    assert_eq!(counts(&published), (1, 0, 0, 0, 0), "{published:?}");
    assert_eq!(place.read(&key(&format!("{name}.sig"))).await, "signature");

    // If the archive is somebody else's, so are they.
    let other = archive("install");
    for (suffix, content) in [("", "theirs!"), (".sig", "their signature")] {
        place.write(&key(&format!("{other}{suffix}")), content).await;
    }
    for (suffix, content) in [("", "archive"), (".sig", "signature")] {
        fs::write(place.sstate(&format!("{other}{suffix}")), content).unwrap();
    }
    let published = place.publish().await;
    assert_eq!(counts(&published), (0, 2, 0, 0, 0), "{published:?}");
    assert_eq!(place.read(&key(&format!("{other}.sig"))).await, "their signature");
}

/// A prune that deletes an archive deletes its sidecar files a moment later, when the archive may be there again.
#[derive(Debug)]
struct Pruning(Arc<InMemory>);

impl std::fmt::Display for Pruning {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("pruning")
    }
}

#[async_trait]
impl ObjectStore for Pruning {
    async fn put_opts(
        &self,
        key: &Key,
        content: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        let put = self.0.put_opts(key, content, options).await;
        if key.as_ref().ends_with(".tar.zst") {
            self.0.delete(&Key::parse(format!("{key}.siginfo"))?).await?;
        }
        put
    }

    async fn put_multipart_opts(
        &self,
        key: &Key,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(key, options).await
    }

    async fn get_opts(&self, key: &Key, options: GetOptions) -> object_store::Result<GetResult> {
        self.0.get_opts(key, options).await
    }

    fn delete_stream(
        &self,
        keys: BoxStream<'static, object_store::Result<Key>>,
    ) -> BoxStream<'static, object_store::Result<Key>> {
        self.0.delete_stream(keys)
    }

    fn list(&self, prefix: Option<&Key>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.0.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Key>) -> object_store::Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Key, to: &Key, options: CopyOptions) -> object_store::Result<()> {
        self.0.copy_opts(from, to, options).await
    }
}

#[tokio::test]
async fn an_archive_has_its_sidecars_although_a_prune_deletes_those_that_were_there() {
    let place = Place::new();
    let name = archive("compile");
    let siginfo = format!("{name}.siginfo");
    place.write(&key(&siginfo), "same").await;
    fs::write(place.sstate(&name), "archive").unwrap();
    fs::write(place.sstate(&siginfo), "same").unwrap();
    let mut tiers = place.tiers(None);
    let pruning = Arc::new(Pruning(place.store.clone()));
    let objects = Objects::new(pruning, Retries::within(Duration::ZERO));
    tiers.read[0].objects = objects.clone();
    tiers.write.as_mut().unwrap().objects = objects;
    let published = place.publish_to(&tiers, &Interrupt::new(None)).await;
    assert_eq!(counts(&published), (1, 0, 0, 0, 0), "{published:?}");
    assert_eq!(
        (place.read(&key(&name)).await, place.read(&key(&siginfo)).await),
        ("archive".into(), "same".into())
    );
}

#[tokio::test]
async fn a_pull_request_publishes_only_what_the_share_lacks_and_only_to_its_tier() {
    let place = Place::new();
    fs::write(place.sstate(&archive("compile")), "archive").unwrap();
    place.download("zlib.tar.xz", "source");
    place.publish().await;
    let shared = place.all().await;
    fs::write(place.sstate(&archive("install")), "new").unwrap();
    place.download("zlib.tar.xz", "other!");
    let published = place.publish_to(&place.tiers(Some(7)), &Interrupt::new(None)).await;
    assert_eq!(counts(&published), (2, 1, 0, 0, 0), "{published:?}");
    assert_eq!(published.traffic[&TierKind::PullRequest].objects_written, 2);
    let all = place.all().await;
    let own: Vec<_> = all.keys().filter(|key| !shared.contains_key(*key)).map(String::as_str).collect();
    let installed = format!("p/pr/7/sstate/scarthgap/ab/12/{}", archive("install"));
    assert_eq!(own, ["p/pr/7/downloads/zlib.tar.xz", installed.as_str()]);
    assert!(shared.iter().all(|(key, object)| all.get(key) == Some(object)));
    // Without a pull request nothing may be written.
    let mut none = place.tiers(Some(8));
    none.write = None;
    assert_eq!(counts(&place.publish_to(&none, &Interrupt::new(None)).await), (0, 0, 0, 0, 0));
}

#[tokio::test]
async fn large_objects_come_in_parts() {
    let place = Place::new();
    let name = archive("compile");
    let large = vec![7; usize::try_from(MAX_SINGLE_PUT).unwrap() + 1];
    fs::write(place.sstate(&name), &large).unwrap();
    fs::write(place.sstate(&format!("{name}.siginfo")), "siginfo").unwrap();
    // A sidecar of this size cannot be BitBake's.
    fs::write(place.sstate(&archive("install")), "archive").unwrap();
    fs::write(place.sstate(&format!("{}.siginfo", archive("install"))), &large).unwrap();
    let published = place.publish().await;
    assert_eq!(counts(&published), (1, 0, 0, 1, 0), "{published:?}");
    assert_eq!(published.refusals, 1);
    let all = place.all().await;
    assert_eq!(all.len(), 2);
    assert_eq!(all[&key(&name)].size, large.len() as u64);
    assert!(all[&key(&format!("{name}.siginfo"))].modified <= all[&key(&name)].modified);
    assert_eq!(counts(&place.publish().await), (0, 1, 0, 1, 0));
}

#[tokio::test]
async fn after_a_stop_everything_is_left_and_counted() {
    let place = Place::new();
    for number in 0..20 {
        fs::write(place.sstate(&archive(&format!("t{number}"))), "archive").unwrap();
    }
    let interrupt = Interrupt::new(None);
    interrupt.signal();
    let published = place.publish_to(&place.tiers(None), &interrupt).await;
    assert_eq!(counts(&published), (0, 0, 0, 0, 20));
    assert!(published.complete);
    assert!(place.all().await.is_empty());
    assert_eq!(counts(&place.publish().await), (20, 0, 0, 0, 0));
}

/// Names with characters that mean something in URLs, and a name that no key can have.
#[tokio::test]
async fn odd_names_are_published_or_refused_but_never_changed() {
    let place = Place::new();
    let odd = ["a b+c%20d#e.tar.gz", "ä~é.tar.gz", "q?x=1&y.tar.gz"];
    for name in odd {
        place.download(name, name);
    }
    let published = place.publish().await;
    assert_eq!(counts(&published), (3, 0, 0, 0, 0), "{published:?}");
    for name in odd {
        assert_eq!(place.read(&format!("p/downloads/{name}")).await, name);
    }
    assert_eq!(counts(&place.publish().await), (0, 3, 0, 0, 0));
}

#[test]
fn a_refused_write_ends_the_publication() {
    let denied = Error::PermissionDenied { path: "x".into(), source: "AccessDenied".into() };
    let tally = Tally::default();
    tally.add("x", false, Err(share_failure(denied)));
    assert!(tally.has_ended());
    assert_eq!(tally.so_far().trouble.unwrap().kind, TroubleKind::Denied);
    // Other failures end it only if nothing works.
    let tally = Tally::default();
    tally.add(
        "x",
        false,
        Err(share_failure(Error::NotImplemented { operation: "x".into(), implementer: "x".into() })),
    );
    assert!(!tally.has_ended());
}
