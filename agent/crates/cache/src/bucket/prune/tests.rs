#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::future::BoxFuture;
use object_store::memory::InMemory;

use super::*;
use crate::bucket::index as bucket_index;
use crate::bucket::usage::UsageRecord;
use crate::usage::Usage;
use agent_objects::keys::{Page, PageRequest, StoreKeys};
use agent_objects::retry::Retries;
use agent_objects::{ListKeys, Upload};
use agent_types::s3_address::S3Address;

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Lists a store in memory, and can do what a real bucket does meanwhile.
#[derive(Debug)]
struct Keys {
    store: StoreKeys,
    /// Keys that `object_store` cannot express, with the rest as it is.
    hostile: Vec<String>,
    uploads: Mutex<Vec<Upload>>,
}

impl ListKeys for Keys {
    fn page(&self, request: PageRequest) -> BoxFuture<'_, object_store::Result<Page>> {
        Box::pin(async move {
            let mut page = self.store.page(request.clone()).await?;
            for key in self.hostile.iter().filter(|key| key.starts_with(&request.prefix)) {
                match key[request.prefix.len()..].split_once('/') {
                    Some((name, _)) if request.one_level => {
                        let prefix = format!("{}{name}/", request.prefix);
                        if !page.prefixes.contains(&prefix) {
                            page.prefixes.push(prefix);
                        }
                    }
                    _ => page.objects.push(ListedObject {
                        key: key.clone(),
                        size: 3,
                        modified: SystemTime::UNIX_EPOCH,
                        tag: None,
                    }),
                }
            }
            Ok(page)
        })
    }

    fn uploads(&self, _: String) -> BoxFuture<'_, object_store::Result<Vec<Upload>>> {
        let uploads = self.uploads.lock().unwrap().clone();
        Box::pin(std::future::ready(Ok(uploads)))
    }

    fn abort(&self, upload: Upload) -> BoxFuture<'_, object_store::Result<()>> {
        self.uploads.lock().unwrap().retain(|one| one.id != upload.id);
        Box::pin(std::future::ready(Ok(())))
    }
}

struct Bucket {
    tier: BucketTier,
    keys: Arc<Keys>,
}

impl Bucket {
    fn new() -> Bucket {
        Bucket::hostile(&[])
    }

    fn hostile(keys: &[&str]) -> Bucket {
        let store = Arc::new(InMemory::new());
        let keys = Arc::new(Keys {
            store: StoreKeys(store.clone()),
            hostile: keys.iter().map(|key| format!("p/{key}")).collect(),
            uploads: Mutex::default(),
        });
        let objects = Objects::new(store, Retries::within(Duration::ZERO)).listed_by(keys.clone());
        let share = BucketShare::new(S3Address::parse("s3://b/p").unwrap());
        Bucket { tier: BucketTier { kind: TierKind::Shared, share, objects }, keys }
    }

    async fn write(&self, key: &str, size: usize) {
        let key = Path::from(self.tier.share.key(key));
        self.tier.objects.replace(&key, vec![b'x'; size].into()).await.unwrap();
    }

    /// Writes an object of shared state with its siginfo; returns the key of its archive.
    async fn object(&self, below: &str, number: u8, size: usize) -> String {
        let key = format!("{below}/{}", object(number));
        self.write(&(key.clone() + ".siginfo"), 1).await;
        self.write(&key, size).await;
        key
    }

    async fn used(&self, keys: &[&str]) {
        let mut record = UsageRecord::new(Usage::default());
        keys.iter().for_each(|key| record.add(key));
        record.write(&self.tier, "scarthgap", SystemTime::now()).await.unwrap();
    }

    /// All keys below the share, without the index.
    async fn all(&self) -> BTreeSet<String> {
        let found = self.tier.objects.below("p/", usize::MAX).await.unwrap();
        let keys = found.into_iter().map(|object| object.key["p/".len()..].to_owned());
        keys.filter(|key| !key.starts_with("index/") && !self.keys.hostile.contains(&format!("p/{key}")))
            .collect()
    }

    async fn prune(&self, options: &Options, now: SystemTime) -> Pruned {
        prune(&self.tier.objects, &self.tier.share, options, &Interrupt::new(None), now).await.unwrap()
    }
}

fn object(number: u8) -> String {
    let name =
        format!("sstate:zlib:core2-64-poky-linux:1.3.1:r0:core2-64:12:ab12{number:060x}_package.tar.zst");
    format!("ab/12/{name}")
}

fn set<const N: usize>(keys: [&String; N]) -> BTreeSet<String> {
    keys.iter().flat_map(|key| [(*key).clone(), format!("{key}.siginfo")]).collect()
}

/// Waits until the clock of the store in memory, which counts whole milliseconds or less, has moved.
async fn moment() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

fn no_grace() -> Options {
    Options { grace: Duration::ZERO, ..Options::default() }
}

#[tokio::test]
async fn only_objects_go_that_no_build_used_for_long() {
    let bucket = Bucket::new();
    let old = bucket.object("sstate/scarthgap", 1, 10).await;
    let used = bucket.object("sstate/scarthgap", 2, 10).await;
    bucket.write("downloads/old.tar.gz", 5).await;
    bucket.write("downloads/used.tar.gz", 5).await;
    moment().await;
    let between = SystemTime::now();
    moment().await;
    bucket.used(&[&used, "downloads/used.tar.gz"]).await;
    // What was used before `between` is too old.
    let age = 40 * DAY;
    let options = Options { sstate_max_age: age, downloads_max_age: age, ..no_grace() };
    let dry_run = bucket.prune(&Options { dry_run: true, ..options.clone() }, between + age).await;
    assert_eq!((dry_run.taken, bucket.all().await.len()), (Sum { units: 2, bytes: 16 }, 7));
    let pruned = bucket.prune(&options, between + age).await;
    assert_eq!((pruned.taken, pruned.failures.len()), (dry_run.taken, 0));
    let mut left = bucket.all().await;
    left.retain(|key| !key.starts_with("usage/"));
    assert_eq!(left, set([&used]).into_iter().chain(["downloads/used.tar.gz".into()]).collect(), "{old}");
}

#[tokio::test]
async fn least_recently_used_go_first_above_the_limit() {
    let bucket = Bucket::new();
    let mut objects = Vec::new();
    for number in 1..=4 {
        objects.push(bucket.object("sstate/scarthgap", number, 99).await);
        moment().await;
    }
    bucket.used(&[&objects[0]]).await;
    let now = SystemTime::now() + DAY;
    // 400 bytes; the second and third are the least recently used.
    let pruned = bucket.prune(&Options { max_size: Some(200), ..no_grace() }, now).await;
    assert_eq!((pruned.taken, pruned.failures), (Sum { units: 2, bytes: 200 }, vec![]));
    let mut left = bucket.all().await;
    left.retain(|key| key.starts_with("sstate"));
    assert_eq!(left, set([&objects[0], &objects[3]]));
    // The index has what is left.
    let index = bucket_index::Index::load(&bucket.tier, "scarthgap").await.unwrap();
    let below = |key: &str| key["sstate/scarthgap/".len()..].to_owned();
    assert_eq!(index.len(), 4);
    assert!(index.contains(&below(&objects[0])) && !index.contains(&below(&objects[1])));
}

#[tokio::test]
async fn recently_used_objects_stay_whatever_the_limit() {
    let bucket = Bucket::new();
    bucket.object("sstate/scarthgap", 1, 99).await;
    let options = Options { max_size: Some(0), sstate_max_age: Duration::ZERO, ..Options::default() };
    let pruned = bucket.prune(&options, SystemTime::now() + DAY / 2).await;
    assert_eq!((pruned.taken.units, pruned.held_by_grace), (0, Sum { units: 1, bytes: 100 }));
    let pruned = bucket.prune(&options, SystemTime::now() + 2 * DAY).await;
    assert_eq!((pruned.taken.units, pruned.held_by_grace.units), (1, 0));
    assert!(bucket.all().await.is_empty());
}

#[tokio::test]
async fn leases_protect_what_builds_use() {
    let lease = |end: SystemTime| {
        let seconds = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let commit = "0".repeat(40);
        serde_json::json!({"schema": "build-agent/lease/v1", "release": "scarthgap", "start": seconds(end - DAY),
            "end": seconds(end), "layers": [format!("poky-0a/{commit}")]})
        .to_string()
    };
    let bucket = Bucket::new();
    let kept = bucket.object("sstate/scarthgap", 1, 99).await;
    let other = bucket.object("sstate/kirkstone", 2, 99).await;
    let layers = ["0", "1"].map(|digit| format!("layers/poky-0a/{}.tar.zst", digit.repeat(40)));
    for layer in &layers {
        bucket.write(layer, 9).await;
    }
    let now = SystemTime::now();
    let key = Path::from("p/leases/scarthgap.host-1-0123456789abcdef");
    bucket.tier.objects.replace(&key, lease(now + DAY).into()).await.unwrap();
    let options = Options { max_size: Some(0), layers_max_age: Duration::ZERO, ..no_grace() };
    let later = now + Duration::from_secs(60);
    let pruned = bucket.prune(&options, later).await;
    let mut left = bucket.all().await;
    left.retain(|key| !key.starts_with("leases/"));
    // The lease names one layer. The other one was used shortly before the build began.
    assert_eq!(left, set([&kept]).into_iter().chain(layers).collect(), "{pruned:?} {other}");
    assert_eq!((pruned.leases.len(), pruned.held_by_leases.units), (1, 3));
    // It ends, and a prune removes it with what it protected.
    let pruned = bucket.prune(&options, now + 2 * DAY).await;
    assert_eq!((pruned.leases.len(), pruned.taken.units), (0, 3));
    assert!(bucket.all().await.is_empty());
}

#[tokio::test]
async fn results_of_jobs_are_pruned_by_their_age() {
    let bucket = Bucket::new();
    let job = "results/v1/meta-x/scarthgap/qemux86-64/c0ffee";
    bucket.write(&format!("{job}/latest.json"), 5).await;
    bucket.write(&format!("pr/7/{job}/17/report.html"), 5).await;
    bucket.write("results/other", 5).await;
    let now = SystemTime::now();
    let pruned = bucket.prune(&no_grace(), now + 179 * DAY).await;
    assert!(bucket.all().await.contains(&format!("{job}/latest.json")), "{pruned:?}");
    let pruned = bucket.prune(&no_grace(), now + 181 * DAY).await;
    assert_eq!(bucket.all().await, ["results/other".to_owned()].into(), "{pruned:?}");
}

#[tokio::test]
async fn tiers_of_pull_requests_are_kept_apart() {
    let bucket = Bucket::hostile(&[
        "pr/7//x",
        "pr/7/sstate/scarthgap/../../x",
        "pr/\u{1b}[2J/x",
        "pr/8/a\nb",
        "pr/7/",
    ]);
    let own = bucket.object("sstate/scarthgap", 1, 9).await;
    let theirs = bucket.object("pr/7/sstate/scarthgap", 2, 99).await;
    bucket.write("pr/7/README", 5).await;
    bucket.write("pr/8/leases/scarthgap.host-1-0123456789abcdef", 5).await;
    bucket.write("pr/8/anything/../else", 5).await;
    let now = SystemTime::now() + Duration::from_secs(3600);
    let options = Options { pull_requests_max_size: Some(0), ..no_grace() };
    let pruned = bucket.prune(&options, now).await;
    assert_eq!(pruned.taken, Sum { units: 1, bytes: 100 }, "{pruned:?}");
    let left = bucket.all().await;
    assert!(left.contains(&own) && !left.contains(&theirs) && left.contains("pr/7/README"), "{left:?}");
    let mut unknown = pruned.unknown.first.clone();
    unknown.sort();
    assert!(unknown.iter().all(|name| !name.chars().any(char::is_control)), "{unknown:?}");
    for wanted in ["pr/7/README", "pr/7//x", "pr/8/a\\nb", "pr/\\x1b[2J/"] {
        assert!(unknown.iter().any(|name| name == wanted), "{wanted} {unknown:?}");
    }
    // A tier in which nothing changed goes as a whole; the lease of the other one is over by then.
    let pruned = bucket.prune(&no_grace(), now + 15 * DAY).await;
    assert_eq!(pruned.failures, Vec::<String>::new());
    let left = bucket.all().await;
    assert!(left.iter().all(|key| !key.starts_with("pr/")), "{left:?}");
    assert!(left.contains(&own));
}

#[tokio::test]
async fn what_is_written_or_used_meanwhile_stays() {
    let bucket = Bucket::new();
    let written = bucket.object("sstate/scarthgap", 1, 99).await;
    let gone = bucket.object("sstate/scarthgap", 3, 99).await;
    let objects = &bucket.tier.objects;
    let options = Options { max_size: Some(0), ..no_grace() };
    let now = SystemTime::now() + DAY;
    // As `all` does it, with other machines between the plan and the deletion.
    let layout = Layout::read(objects, &bucket.tier.share).await.unwrap();
    let mut uses = LastUses::default();
    let leases = Vec::new();
    let rules = Rules { options: &options, now, leases: &leases, kept_for: None };
    let scanner = Scanner { objects, share: &bucket.tier.share, rules, uses: &uses, stop: &|| false };
    let scan = scanner.run(&layout).await.unwrap();
    let found = scan.gathering;
    let groups: Vec<_> = found.groups.iter().map(|found| found.rules).collect();
    let plan = plan::plan(found.candidates, &groups, &[0, 0]);
    assert_eq!(plan.take.len(), 2);
    bucket.write(&written, 50).await;
    bucket.tier.objects.delete_batch(vec![Path::from(format!("p/{gone}"))]).await;
    bucket.tier.objects.delete_batch(vec![Path::from(format!("p/{gone}.siginfo"))]).await;
    let releases = vec!["scarthgap".to_owned()];
    let spilled = found.name_spill.done().unwrap();
    let apply = Apply {
        objects,
        share: &bucket.tier.share,
        spilled: &spilled,
        whose: &scan.whose,
        rules,
        releases: &releases,
        stop: &|| false,
    };
    let (applied, _) = apply.run(plan.take.clone(), &mut uses).await.unwrap();
    assert_eq!((applied.used, applied.gone, applied.taken.units), (1, 1, 0), "{applied:?}");
    assert_eq!(bucket.all().await, set([&written]));
    // A build that uses it meanwhile keeps it.
    moment().await;
    bucket.used(&[&written]).await;
    let (applied, _) = apply.run(plan.take, &mut uses).await.unwrap();
    assert_eq!((applied.used, applied.gone, applied.taken.units), (1, 1, 0), "{applied:?}");
}

#[tokio::test]
async fn leftovers_go() {
    let bucket = Bucket::new();
    let now = SystemTime::now();
    let upload = |id: &str, begun| Upload { key: "p/downloads/x".into(), id: id.into(), begun };
    *bucket.keys.uploads.lock().unwrap() = vec![upload("old", now - 2 * DAY), upload("new", now)];
    for _ in 0..3 {
        bucket.used(&["x"]).await;
    }
    bucket.write("leases/scarthgap.host-1-0123456789abcdef", 5).await;
    let pruned = bucket.prune(&Options { dry_run: true, ..no_grace() }, now).await;
    assert_eq!((pruned.unreadable_leases.len(), bucket.keys.uploads.lock().unwrap().len()), (1, 2));
    bucket.prune(&no_grace(), now + 3 * DAY).await;
    let ids: Vec<String> = bucket.keys.uploads.lock().unwrap().iter().map(|one| one.id.clone()).collect();
    assert!(ids.is_empty(), "both are old by then: {ids:?}");
    // Records are kept for statistics, and dead leases are not.
    let left = bucket.all().await;
    assert_eq!(left.len(), 3, "{left:?}");
    assert!(left.iter().all(|key| key.starts_with("usage/scarthgap/")));
}

#[tokio::test]
async fn an_interrupt_before_the_plan_is_complete_deletes_nothing() {
    let bucket = Bucket::new();
    bucket.object("sstate/scarthgap", 1, 99).await;
    let interrupt = Interrupt::new(None);
    interrupt.signal();
    let now = SystemTime::now() + 60 * DAY;
    let pruned = prune(&bucket.tier.objects, &bucket.tier.share, &no_grace(), &interrupt, now).await.unwrap();
    assert_eq!(pruned.stopped, Some("cancelled"));
    assert_eq!(bucket.all().await.len(), 2);
}

/// A tier of a pull request whose listing has no end: prefixes with three objects each, and leases.
#[derive(Debug, Default)]
struct Flooded {
    pages: AtomicU64,
}

impl ListKeys for Flooded {
    fn page(&self, request: PageRequest) -> BoxFuture<'_, object_store::Result<Page>> {
        self.pages.fetch_add(1, Ordering::Relaxed);
        let number: u64 = request.token.as_deref().map_or(0, |token| token.parse().unwrap());
        let prefix = request.prefix.as_str();
        let many = || (0..1000).map(|below| format!("{prefix}{number}-{below}"));
        let object = |key| ListedObject { key, size: 3, modified: SystemTime::UNIX_EPOCH, tag: None };
        let next = Some((number + 1).to_string());
        let page = match (prefix, request.one_level) {
            ("p/", true) => Page { prefixes: vec!["p/pr/".into()], ..Page::default() },
            ("p/pr/", true) => Page { prefixes: vec!["p/pr/7/".into()], ..Page::default() },
            ("p/pr/7/", true) => {
                Page { prefixes: many().map(|key| key + "/").collect(), token: next, ..Page::default() }
            }
            ("p/pr/7/" | "p/pr/7/leases/", false) => Page {
                objects: many().map(|key| object(key + "/x")).collect(),
                token: next,
                ..Page::default()
            },
            (below, false) if below.starts_with("p/pr/7/") => {
                Page { objects: many().take(3).map(object).collect(), ..Page::default() }
            }
            _ => Page::default(),
        };
        Box::pin(std::future::ready(Ok(page)))
    }

    fn uploads(&self, _: String) -> BoxFuture<'_, object_store::Result<Vec<Upload>>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn abort(&self, _: Upload) -> BoxFuture<'_, object_store::Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

#[tokio::test]
async fn a_flooded_tier_costs_a_bounded_number_of_requests() {
    let (bucket, keys) = (Bucket::new(), Arc::new(Flooded::default()));
    let objects = bucket.tier.objects.clone().listed_by(keys.clone());
    let (options, interrupt) = (Options { dry_run: true, ..no_grace() }, Interrupt::new(None));
    let pruned = prune(&objects, &bucket.tier.share, &options, &interrupt, SystemTime::now()).await.unwrap();
    assert!(pruned.stopped.is_none(), "{pruned:?}");
    let trouble = format!("{:?}", pruned.trouble);
    assert!(trouble.contains("pr/7: too many objects"), "{trouble}");
    // 200,000 objects, in prefixes of three; 200 pages for the prefixes, and as many for leases.
    let pages = keys.pages.load(Ordering::Relaxed);
    assert!(pages < 70_000, "{pages}");
}
