#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::atomic::{AtomicU64, Ordering};

use object_store::memory::InMemory;

use super::*;
use agent_objects::Objects;
use agent_objects::retry::Retries;
use agent_types::bucket_share::BucketShare;
use agent_types::s3_address::S3Address;

const RELEASE: &str = "scarthgap";

/// A tier in an empty bucket.
fn tier() -> BucketTier {
    let objects = Objects::new(Arc::new(InMemory::new()), Retries::within(Duration::ZERO));
    let share = BucketShare::new(S3Address::parse("s3://bucket/some/prefix").unwrap());
    BucketTier { kind: TierKind::Shared, share, objects }
}

/// The path of an object; each number has its own.
fn file(number: u64) -> String {
    let hash = format!("{:02x}{:062x}", number % 256, number);
    format!("{}/{}/sstate:a:b:1:r0:c:12:{hash}_compile.tar.zst", &hash[..2], &hash[2..4])
}

async fn put(tier: &BucketTier, key: &str, content: impl Into<Bytes>) {
    tier.objects.replace(&Path::parse(tier.share.key(key)).unwrap(), content.into()).await.unwrap();
}

async fn put_file(tier: &BucketTier, number: u64) {
    put(tier, &format!("sstate/{RELEASE}/{}", file(number)), vec![b'x'; number as usize]).await;
}

/// Publishes files by numbers: their sizes.
async fn additions(tier: &BucketTier, numbers: std::ops::Range<u64>) {
    let files: Vec<(String, u64)> = numbers.map(|number| (file(number), number)).collect();
    let files = files.iter().map(|(path, size)| (path.as_str(), *size));
    publish_additions(tier, RELEASE, files).await.unwrap();
}

fn known(index: &Index, numbers: std::ops::Range<u64>) -> Vec<u64> {
    numbers.filter(|number| index.size(&file(*number)) == Some(*number)).collect()
}

#[tokio::test]
async fn concurrent_publishers_lose_no_names() {
    let tier = tier();
    let publish = |part: u64| {
        let tier = tier.clone();
        tokio::spawn(async move { additions(&tier, part * 100..part * 100 + 100).await })
    };
    futures_util::future::join_all((0..20).map(publish)).await.into_iter().for_each(|done| done.unwrap());
    let before = tier.objects.meter().so_far();
    let index = Index::load(&tier, RELEASE).await.unwrap();
    assert_eq!(known(&index, 0..2100).len(), 2000);
    assert_eq!((index.len(), index.trouble()), (2000, None));
    assert!(!index.contains("ab/12/other"));
    let after = tier.objects.meter().so_far();
    let requests = (after.writes_and_lists - before.writes_and_lists, after.reads - before.reads);
    assert_eq!(requests, (1, 20), "one list, and one request for each publisher");
    assert_eq!(publish_additions(&tier, RELEASE, []).await.unwrap(), None);
    assert!(Index::load(&tier, "kirkstone").await.unwrap().is_empty());
}

#[tokio::test]
async fn a_missing_or_old_base_is_replaced_by_a_listing() {
    let tier = tier();
    for number in 1..4 {
        put_file(&tier, number).await;
    }
    put(&tier, "sstate/scarthgap/README", "").await;
    put(&tier, "sstate/kirkstone/x", "").await;
    additions(&tier, 3..6).await;

    // 4 and 5 were pruned; 1 and 2 were published by a build that was killed.
    let index = Index::new(tier.clone(), RELEASE);
    assert!(!index.is_ready());
    index.insert(&file(9), 9);
    index.fill(MAX_AGE, true).await;
    assert!(index.is_ready());
    assert_eq!(known(&index, 0..10), [1, 2, 3, 9], "what was published while it was listed stays");
    assert_eq!(index.len(), 4);
    index.insert(&file(8), 8);
    assert_eq!(known(&index, 8..9), [8]);
    assert!(index.write().published.is_empty(), "names cost no memory when no listing comes any more");

    // The next reader needs no listing: the base is there. Additions of about the same time are read with it,
    // because clocks differ.
    put_file(&tier, 7).await;
    let index = Index::new(tier.clone(), RELEASE);
    index.fill(MAX_AGE, true).await;
    assert_eq!(known(&index, 0..10), [1, 2, 3, 4, 5]);
    // It is too old for a reader with another limit, who may not write.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let index = Index::new(tier.clone(), RELEASE);
    let objects = tier.objects.below("some/prefix/index/", usize::MAX).await.unwrap().len();
    index.fill(Duration::from_millis(1), false).await;
    assert_eq!(known(&index, 0..10), [1, 2, 3, 7]);
    assert_eq!(tier.objects.below("some/prefix/index/", usize::MAX).await.unwrap().len(), objects);
}

#[tokio::test]
async fn a_newer_base_makes_others_obsolete() {
    let tier = tier();
    let now = SystemTime::now();
    let base = |age: Duration, number: u64| {
        let tier = tier.clone();
        async move {
            let path = file(number);
            let mut base = BaseWriter::new(&tier, RELEASE, now - age).unwrap();
            base.add(&path, number).unwrap();
            base.finish().await.unwrap()
        }
    };
    let day = 24 * CLOCK_SKEW;
    let first = base(2 * day, 1).await;
    let mut encoder = Encoder::new().unwrap();
    encoder.add(&file(2), 2).unwrap();
    let old = create(&tier, RELEASE, Kind::Additions, now - 2 * day, encoder).await.unwrap();
    assert_eq!(obsolete(&tier, RELEASE).await.unwrap(), []);
    assert_eq!(known(&Index::load(&tier, RELEASE).await.unwrap(), 0..9), [1, 2]);
    base(Duration::ZERO, 3).await;
    additions(&tier, 4..5).await;
    assert_eq!(known(&Index::load(&tier, RELEASE).await.unwrap(), 0..9), [3, 4]);
    let mut obsolete = obsolete(&tier, RELEASE).await.unwrap();
    obsolete.sort();
    let mut wanted = vec![first, old];
    wanted.sort();
    assert_eq!(obsolete, wanted);
}

#[tokio::test]
async fn a_base_that_is_too_large_for_one_object_has_parts() {
    let tier = tier();
    let since = SystemTime::now();
    let mut base = BaseWriter::new(&tier, RELEASE, since).unwrap();
    base.part_bytes = 20_000;
    for number in 0..20_000 {
        base.add(&file(number), number).unwrap();
    }
    assert_eq!(
        Index::load(&tier, RELEASE).await.unwrap().len(),
        0,
        "without the base, its parts do not count"
    );
    base.finish().await.unwrap();
    let objects = tier.objects.below("some/prefix/index/", usize::MAX).await.unwrap();
    assert!((3..100).contains(&objects.len()), "{}", objects.len());
    assert!(objects.iter().all(|object| object.size < 100_000), "{objects:?}");
    let index = Index::load(&tier, RELEASE).await.unwrap();
    assert_eq!((index.len(), index.trouble()), (20_000, None));
    assert_eq!(known(&index, 0..20_001).len(), 20_000);

    // A newer base replaces all of them.
    let later = since + Duration::from_secs(1);
    BaseWriter::new(&tier, RELEASE, later).unwrap().finish().await.unwrap();
    assert_eq!(Index::load(&tier, RELEASE).await.unwrap().len(), 0);
}

/// More files than readers accept do not make a prune impossible, which needs a new base.
#[tokio::test]
async fn files_beyond_the_limit_are_left_out() {
    let tier = tier();
    let mut base = BaseWriter::new(&tier, RELEASE, SystemTime::now()).unwrap();
    (base.part_bytes, base.left) = (20_000, PART_MARGIN + 60_000);
    for number in 0..20_000 {
        base.add(&file(number), number).unwrap();
    }
    base.finish().await.unwrap();
    let known = known(&Index::load(&tier, RELEASE).await.unwrap(), 0..20_000);
    assert!(known.len() > 1000 && known.len() < 20_000, "{}", known.len());
    assert!(known.iter().copied().eq(0..known.len() as u64), "the first files");
}

/// A pull request writes anything into its own index.
#[tokio::test]
async fn hostile_objects_do_not_hide_others() {
    let tier = tier();
    additions(&tier, 1..3).await;
    let stamp = |name: &str| format!("index/{RELEASE}/{name}");
    put(&tier, &stamp("20200101T000000Z-0123456789abcdef.base.zst"), "no index").await;
    put(&tier, &stamp("29990101T000000Z-0123456789abcdef.base.zst"), "from the future").await;
    put(&tier, &stamp("20250101T000000Z-0123456789abcdef.add.zst"), vec![0; 1000]).await;
    put(&tier, &stamp("deep/20250101T000000Z-0123456789abcdef.add.zst"), "x").await;
    put(&tier, &stamp("x.add.zst"), "x").await;
    put(&tier, &stamp("..."), "x").await;
    let index = Index::load(&tier, RELEASE).await.unwrap();
    assert_eq!(known(&index, 0..9), [1, 2]);
    assert!(index.trouble().is_some_and(|why| why.contains("of its index cannot be read")));
    index.forget(&file(1));
    assert_eq!(known(&index, 0..9), [2]);
}

/// A bucket that fails after some requests.
#[derive(Debug)]
struct Failing {
    left: AtomicU64,
}

impl agent_objects::ListKeys for Failing {
    fn page(
        &self,
        _: agent_objects::keys::PageRequest,
    ) -> futures_util::future::BoxFuture<'_, Result<agent_objects::keys::Page>> {
        let left = self.left.fetch_sub(1, Ordering::Relaxed);
        let failed = Err(generic(io::Error::other("status code: 503")));
        Box::pin(std::future::ready(if left == 0 {
            failed
        } else {
            Ok(agent_objects::keys::Page::default())
        }))
    }

    fn uploads(&self, _: String) -> futures_util::future::BoxFuture<'_, Result<Vec<agent_objects::Upload>>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn abort(&self, _: agent_objects::Upload) -> futures_util::future::BoxFuture<'_, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

#[tokio::test]
async fn without_a_list_the_index_says_missing_and_why() {
    for (answers, word) in [(0, "its index cannot be read"), (1, "its shared state cannot be listed")] {
        let mut tier = tier();
        tier.objects = tier.objects.listed_by(Arc::new(Failing { left: AtomicU64::new(answers) }));
        let index = Index::new(tier, RELEASE);
        index.fill(MAX_AGE, true).await;
        assert!(index.ready(Duration::ZERO).await && index.is_empty());
        assert!(index.trouble().is_some_and(|why| why.contains(word)), "{:?}", index.trouble());
    }
}

#[tokio::test]
async fn a_question_waits_for_the_index_but_not_forever() {
    let index = Arc::new(Index::new(tier(), RELEASE));
    assert!(!index.ready(Duration::from_millis(10)).await);
    let filling = fill_in_background(&index, MAX_AGE, false);
    assert!(index.ready(Duration::from_secs(20)).await);
    drop(filling);
}
