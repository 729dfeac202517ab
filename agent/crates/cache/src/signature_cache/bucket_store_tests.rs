use std::sync::Arc;

use agent_objects::Objects;
use agent_objects::retry::Retries;
use agent_types::bucket_share::BucketShare;
use agent_types::s3_address::S3Address;
use agent_types::tiers::{Access, Tiers, Trust};
use object_store::memory::InMemory;
use tempfile::TempDir;

use super::super::key::Inputs;
use super::super::listing::Listing;
use super::super::protocol::Answer;
use super::super::store::Store;
use super::super::stores::Stores;
use super::*;

/// A bucket, and the local stores of machines.
struct Scene {
    bucket: Arc<InMemory>,
    top: TempDir,
}

fn inputs(value: &str) -> Inputs {
    let mut inputs = Inputs::default();
    inputs.add("conf/local.conf", value.as_bytes());
    inputs.add_tree("files of /l", Listing::parse(&format!("f 0644 0:0 {value} a b\n")).unwrap());
    inputs
}

fn answer(text: &str) -> Answer {
    Answer { stdout: text.into(), stderr: b"e".to_vec(), signatures: format!("sigs {text}").into_bytes() }
}

fn trusted() -> Trust {
    Trust::Trusted { why: String::new() }
}

fn pull_request(number: u64) -> Trust {
    Trust::Untrusted { why: String::new(), pull_request: Some(number) }
}

impl Scene {
    fn new() -> Scene {
        Scene { bucket: Arc::new(InMemory::new()), top: tempfile::tempdir().unwrap() }
    }

    fn objects(&self) -> Objects {
        Objects::new(self.bucket.clone(), Retries::within(Duration::ZERO))
    }

    fn tiers(&self, trust: &Trust) -> BucketTiers {
        let share = BucketShare::new(S3Address::parse("s3://b/p").unwrap());
        BucketTiers::new(&Tiers::new(&share, Access::ReadWrite, trust), || self.objects())
    }

    fn local(&self, machine: &str) -> Store {
        Store::local(self.top.path().join(machine))
    }

    /// The stores of one run.
    fn stores(&self, machine: &str, trust: &Trust) -> Stores {
        Stores::new(self.local(machine), Vec::new(), BucketStore::new(self.tiers(trust)))
    }

    async fn answers(&self) -> Vec<String> {
        self.keys().await.into_iter().filter(|key| key.contains("/answers/")).collect()
    }

    async fn keys(&self) -> Vec<String> {
        self.objects().below("", usize::MAX).await.unwrap().into_iter().map(|object| object.key).collect()
    }
}

/// A miss on a fresh machine says what changed since the last answer.
#[tokio::test]
async fn a_miss_is_explained_by_the_last_answer_in_the_bucket() {
    let scene = Scene::new();
    let of = |value: &str| {
        let mut inputs = inputs(value);
        inputs.add("the list of layers", b"/l");
        inputs
    };
    let stores = scene.stores("one", &trusted());
    let inserting = (stores.clone(), of("1"));
    on_thread(move || inserting.0.insert(&inserting.1, "world", &answer("one"), 3.0)).await.unwrap();
    stores.publish().await;
    let why = |query: &'static str, value: &str| {
        let (stores, inputs) = (scene.stores("two", &pull_request(7)), of(value));
        on_thread(move || stores.why_not(&inputs, query))
    };
    let wanted = "conf/local.conf changed; files of /l changed: a b";
    assert_eq!(why("world", "2").await.as_deref(), Some(wanted));
    assert_eq!(why("another query", "2").await, None);
    let latest = scene.keys().await.into_iter().find(|key| key.contains("/latest/")).unwrap();
    for content in ["", "x"] {
        scene.objects().replace(&Path::from(latest.as_str()), content.into()).await.unwrap();
        assert_eq!(why("world", "2").await, None, "it is only words");
    }
}

/// Lookups block.
async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    spawn_blocking(work).await.unwrap()
}

async fn find(stores: &Stores, value: &str) -> Result<Option<Answer>, String> {
    let (stores, key) = (stores.clone(), inputs(value).key());
    on_thread(move || stores.find(&key)).await.map(|found| found.map(|found| found.answer))
}

/// A run that inserts an answer and ends.
async fn add(scene: &Scene, machine: &str, trust: &Trust, value: &str, text: &'static str) -> Published {
    let stores = scene.stores(machine, trust);
    let (inserting, inputs) = (stores.clone(), inputs(value));
    on_thread(move || inserting.insert(&inputs, "world", &answer(text), 3.0)).await.unwrap();
    stores.publish().await
}

#[tokio::test]
async fn an_answer_of_one_machine_is_found_on_a_fresh_one() {
    let scene = Scene::new();
    let published = add(&scene, "one", &trusted(), "1", "one").await;
    assert_eq!(published.trouble, Vec::<String>::new());
    let traffic = published.traffic[&TierKind::Shared];
    assert_eq!(traffic.objects_written, 1);
    let key = format!("p/signatures/answers/{}.tar.zst", inputs("1").key().as_str());
    assert_eq!(scene.answers().await, [key]);

    for trust in [trusted(), pull_request(7)] {
        let machine = format!("{trust:?}");
        let stores = scene.stores(&machine, &trust);
        assert_eq!(find(&stores, "1").await, Ok(Some(answer("one"))));
        assert_eq!(find(&stores, "2").await, Ok(None));
        let traffic = stores.publish().await.traffic[&TierKind::Shared];
        assert_eq!((traffic.objects_read, traffic.objects_written), (1, 0));
        // From now on it is there without the bucket.
        let alone = Stores::new(scene.local(&machine), Vec::new(), None);
        assert_eq!(find(&alone, "1").await, Ok(Some(answer("one"))));
    }
    // Nothing was added for the pull request either: it can read the shared one.
    assert_eq!(scene.answers().await.len(), 1);
}

#[tokio::test]
async fn a_pull_request_adds_to_its_own_tier_alone_and_nobody_else_reads_that() {
    let scene = Scene::new();
    let published = add(&scene, "seven", &pull_request(7), "1", "seven").await;
    assert_eq!(published.traffic[&TierKind::PullRequest].objects_written, 1);
    let keys = scene.keys().await;
    assert!(keys.iter().all(|key| key.starts_with("p/pr/7/signatures/")), "{keys:?}");
    assert_eq!(scene.answers().await.len(), 1);
    for (machine, trust, wanted) in [
        ("a", pull_request(7), Some(answer("seven"))),
        ("b", pull_request(8), None),
        ("c", Trust::Untrusted { why: String::new(), pull_request: None }, None),
        ("d", trusted(), None),
    ] {
        assert_eq!(find(&scene.stores(machine, &trust), "1").await, Ok(wanted), "{machine}");
    }
    // Who has no tier to write publishes nothing.
    let nobody = Trust::Untrusted { why: String::new(), pull_request: None };
    add(&scene, "e", &nobody, "3", "e").await;
    assert_eq!(scene.keys().await, keys);
}

#[tokio::test]
async fn an_answer_that_was_found_before_there_was_a_bucket_is_published() {
    let scene = Scene::new();
    scene.local("one").insert(&inputs("1"), "world", &answer("one"), 1.0).unwrap();
    let stores = scene.stores("one", &trusted());
    assert_eq!(find(&stores, "1").await, Ok(Some(answer("one"))));
    assert_eq!(stores.publish().await.traffic[&TierKind::Shared].objects_written, 1);
    // And not again.
    assert_eq!(find(&stores, "1").await, Ok(Some(answer("one"))));
    assert_eq!(stores.publish().await.traffic[&TierKind::Shared].objects_written, 0);
}

/// Whatever lies under the name of an answer: it is said, never used, and does not stay on the machine.
#[tokio::test]
async fn a_damaged_or_foreign_object_is_no_answer() {
    let scene = Scene::new();
    add(&scene, "one", &trusted(), "1", "one").await;
    add(&scene, "one", &trusted(), "2", "two").await;
    let at =
        |value: &str| Path::from(format!("p/signatures/answers/{}.tar.zst", inputs(value).key().as_str()));
    let objects = scene.objects();
    let whole = objects.read(&at("1"), 1 << 20).await.unwrap().unwrap();
    let foreign = objects.read(&at("2"), 1 << 20).await.unwrap().unwrap();
    let plain = zstd::decode_all(&whole[..]).unwrap();
    let mut forged = plain.clone();
    let place = plain.windows(8).position(|bytes| bytes == b"sigs one").unwrap();
    forged[place] = b'S';
    let packed = |bytes: &[u8]| Bytes::from(zstd::encode_all(bytes, 1).unwrap());
    let huge = packed(&vec![0; 300 << 20]);
    for (number, content) in [
        foreign,
        whole.slice(..whole.len() - 1),
        whole.slice(..whole.len() / 2),
        packed(&plain[..plain.len() / 2]),
        packed(&forged),
        packed(b""),
        huge,
        Bytes::from_static(b"not compressed"),
        Bytes::new(),
    ]
    .into_iter()
    .enumerate()
    {
        objects.replace(&at("1"), content).await.unwrap();
        let machine = format!("machine-{number}");
        let stores = scene.stores(&machine, &pull_request(7));
        let found = find(&stores, "1").await;
        assert!(found.as_ref().is_err_and(|why| why.contains("damaged")), "{number}: {found:?}");
        let local = Stores::new(scene.local(&machine), Vec::new(), None);
        assert_eq!(find(&local, "1").await, Ok(None), "{number}");
        // One damaged object is no reason to give up the bucket.
        assert_eq!(find(&stores, "2").await, Ok(Some(answer("two"))), "{number}");
    }
}

/// The next trusted run that computes the answer puts it in the place of a damaged one.
#[tokio::test]
async fn a_damaged_answer_is_replaced() {
    let scene = Scene::new();
    add(&scene, "one", &trusted(), "1", "one").await;
    let key = Path::from(scene.answers().await[0].as_str());
    scene.objects().replace(&key, "damaged".into()).await.unwrap();
    let stores = scene.stores("two", &trusted());
    assert!(find(&stores, "1").await.is_err());
    let inserting = stores.clone();
    on_thread(move || inserting.insert(&inputs("1"), "world", &answer("one"), 3.0)).await.unwrap();
    stores.publish().await;
    assert_eq!(find(&scene.stores("three", &pull_request(7)), "1").await, Ok(Some(answer("one"))));
}

#[tokio::test]
async fn other_signatures_of_the_same_query_are_deleted_and_nothing_is_published() {
    let scene = Scene::new();
    add(&scene, "one", &trusted(), "1", "one").await;
    for (trust, gone) in [(pull_request(7), false), (trusted(), true)] {
        let stores = scene.stores("two", &trust);
        let (asking, key) = (stores.clone(), inputs("1").key());
        let inserting = (stores.clone(), inputs("9"));
        on_thread(move || inserting.0.insert(&inserting.1, "world", &answer("nine"), 3.0)).await.unwrap();
        assert!(
            !on_thread({
                let (asking, key) = (asking.clone(), key.clone());
                move || asking.contradicts(&key, &answer("one"))
            })
            .await
        );
        assert!(on_thread(move || asking.contradicts(&key, &answer("two"))).await);
        assert_eq!(scene.answers().await.is_empty(), gone);
        stores.publish().await;
        assert_eq!(scene.answers().await.is_empty(), gone, "nothing of this run is believed");
    }
}

/// A bucket that does not answer costs one request, and is told once.
#[tokio::test]
async fn a_bucket_that_fails_is_not_asked_again() {
    let scene = Scene::new();
    let mut tiers = scene.tiers(&trusted());
    let failing: Arc<dyn object_store::ObjectStore> = Arc::new(object_store::local::LocalFileSystem::new());
    // A path that leads through a file.
    let file = scene.top.path().join("file");
    std::fs::write(&file, "x").unwrap();
    let prefix = file.to_str().unwrap().trim_start_matches('/');
    let share = BucketShare::new(S3Address::parse(&format!("s3://b/{prefix}")).unwrap());
    for tier in tiers.read.iter_mut().chain(&mut tiers.write) {
        (tier.share, tier.objects) =
            (share.clone(), Objects::new(failing.clone(), Retries::within(Duration::ZERO)));
    }
    let requests = tiers.read[0].objects.clone();
    let stores = Stores::new(scene.local("one"), Vec::new(), BucketStore::new(tiers));
    for value in ["1", "2", "3"] {
        assert!(find(&stores, value).await.is_err());
    }
    assert_eq!(requests.meter().so_far().reads, 1);
    let inserting = stores.clone();
    on_thread(move || inserting.insert(&inputs("1"), "world", &answer("1"), 3.0)).await.unwrap();
    let published = stores.publish().await;
    assert_eq!((published.trouble.len(), requests.meter().so_far().writes_and_lists), (1, 0));
    assert_eq!(find(&stores, "1").await, Ok(Some(answer("1"))), "the local store is as always");
}
