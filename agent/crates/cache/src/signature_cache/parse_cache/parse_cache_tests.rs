use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::*;
use crate::signature_cache::{Store, Stores, admission, tree};

const HASH: &str = "00000000000000000000000000000001";

/// A layer, a build directory and a store.
struct Scene {
    top: TempDir,
    parse_caches: ParseCaches,
}

impl Scene {
    fn new() -> Scene {
        let top = tempfile::tempdir().unwrap();
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let user = User { name: "me".into(), uid, gid, home: "/".into() };
        let store = Store::local(top.path().join("store"));
        let stores = Stores::new(store, Vec::new(), None);
        let scene = Scene { parse_caches: stores.parse_caches(top.path().join("own"), &user), top };
        for name in ["a", "b", "c", "d"] {
            scene.write(&format!("layer/recipes-x/{name}.bb"), name);
            scene.age(&format!("layer/recipes-x/{name}.bb"), 100);
        }
        scene.write("layer/conf/layer.conf", "1");
        scene
    }

    fn at(&self, path: &str) -> PathBuf {
        self.top.path().canonicalize().unwrap().join(path)
    }

    fn write(&self, path: &str, content: &str) {
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        fs::write(self.at(path), content).unwrap();
    }

    fn age(&self, path: &str, seconds: u64) {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 - seconds);
        fs::File::options().write(true).open(self.at(path)).unwrap().set_modified(time).unwrap();
    }

    fn inputs(&self) -> Inputs {
        let root = self.at("layer");
        let around = tree::Surroundings { skip: &[], trees: std::slice::from_ref(&root) };
        let mut inputs = Inputs::default();
        inputs.add_tree(
            admission::part_of_tree(&root),
            tree::read(&root, &around, &Default::default()).unwrap(),
        );
        inputs
    }

    /// What BitBake leaves.
    fn parse(&self, build: &str, content: &str) {
        for name in ["bb_cache.dat", "bb_cache_SiggenRecipeInfo.dat"] {
            self.write(&format!("{build}/tmp/cache/{name}.{HASH}"), content);
        }
        let link = self.at(&format!("{build}/tmp/cache/bb_cache.dat"));
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(format!("bb_cache.dat.{HASH}"), link).unwrap();
        self.write(&format!("{build}/cache/bb_codeparser.dat"), "code");
    }

    fn insert(&self, build: &str) -> CacheResult<()> {
        self.insert_for(build, Users { later_jobs: true, reruns: true })
    }

    fn insert_for(&self, build: &str, of_use: Users) -> CacheResult<()> {
        self.parse_caches.insert(&self.inputs(), Path::new("/nowhere"), &self.at(build), of_use)
    }

    fn restore_own(&self, build: &str) -> Restored {
        fs::create_dir_all(self.at(build)).unwrap();
        self.parse_caches.restore_own(&self.inputs(), &self.at(build), Keeps::RecipesAndSignatures)
    }

    fn unpack(&self, build: &str) -> Unpacking {
        self.unpack_for(build, Keeps::RecipesAndSignatures)
    }

    fn unpack_for(&self, build: &str, keeps: Keeps) -> Unpacking {
        fs::create_dir_all(self.at(build)).unwrap();
        self.parse_caches.unpack(&self.inputs(), &self.at(build), keeps)
    }

    fn restore(&self, build: &str) -> Restored {
        self.restore_for(build, Keeps::RecipesAndSignatures)
    }

    fn restore_for(&self, build: &str, keeps: Keeps) -> Restored {
        match self.unpack_for(build, keeps) {
            Unpacking::Done(restored) => restored,
            Unpacking::Unpacked(mut unpacked) => {
                assert_eq!(unpacked.take_rebases().len(), 0);
                unpacked.put()
            }
        }
    }

    #[track_caller]
    fn assert_refused(&self, build: &str, wanted: &str) {
        match self.restore(build) {
            Restored::Refused(reason) => assert!(reason.0.contains(wanted), "{reason}"),
            other => panic!("{other:?}"),
        }
        let left = walkdir::WalkDir::new(self.at(build)).into_iter().flatten();
        assert_eq!(left.filter(|entry| entry.file_type().is_file()).count(), 0);
    }

    fn restored(&self, build: &str) -> String {
        let path = format!("{build}/tmp/cache/bb_cache_SiggenRecipeInfo.dat.{HASH}");
        fs::read_to_string(self.at(&path)).unwrap()
    }
}

#[test]
fn what_one_run_parsed_the_next_one_finds() {
    let scene = Scene::new();
    assert_eq!(scene.restore("one"), Restored::Nothing);
    scene.parse("one", "first");
    scene.insert("one").unwrap();
    assert_eq!(scene.restore("one"), Restored::Nothing, "its own cache is newer");
    assert_eq!(scene.restore("two"), Restored::Put);
    assert_eq!(scene.restored("two"), "first");
    assert_eq!(fs::read_to_string(scene.at("two/cache/bb_codeparser.dat")).unwrap(), "code");
    // BitBake will see this.
    scene.write("layer/recipes-x/a.bb", "changed");
    assert_eq!(scene.restore("three"), Restored::Put);
    scene.write("layer/conf/layer.conf", "2");
    assert_eq!(scene.restore("four"), Restored::Nothing);
}

/// BitBake that only parses (`-p`) leaves an old file of signature data as it is, beside a newer file of recipes. Seen
/// with scarthgap on meta-aws: "Basehash mismatch" in the next query.
#[test]
fn signature_data_is_never_older_than_the_recipes() {
    let scene = Scene::new();
    scene.parse("one", "first");
    scene.insert("one").unwrap();
    scene.write("layer/recipes-x/a.bb", "changed");
    assert_eq!(scene.restore_for("two", Keeps::Recipes), Restored::Put);
    let file = |name: &str| scene.at(&format!("two/tmp/cache/{name}.{HASH}"));
    let (recipes, signatures) = (file("bb_cache.dat"), file("bb_cache_SiggenRecipeInfo.dat"));
    assert!(recipes.exists() && !signatures.exists());
    // What BitBake leaves is not whole, so no other job gets it.
    fs::write(&recipes, "second").unwrap();
    let link = scene.at("two/tmp/cache/bb_cache.dat");
    std::os::unix::fs::symlink(format!("bb_cache.dat.{HASH}"), link).unwrap();
    assert!(scene.insert("two").unwrap_err().0.contains("no whole parse cache"));
    // The next query gets a whole one.
    scene.parse_caches.take_away(&scene.at("two")).unwrap();
    assert!(!recipes.exists());
    assert_eq!(scene.restore("two"), Restored::Put);
    assert_eq!(scene.restored("two"), "first");
}

#[test]
fn the_entry_that_fits_best_is_taken() {
    let scene = Scene::new();
    scene.parse("one", "first");
    scene.insert("one").unwrap();
    for name in ["a", "b"] {
        scene.write(&format!("layer/recipes-x/{name}.bb"), "changed");
    }
    scene.parse("two", "second");
    scene.insert("two").unwrap();
    scene.write("layer/recipes-x/c.bb", "changed as well");
    assert_eq!(scene.restore("three"), Restored::Put);
    assert_eq!(scene.restored("three"), "second");
}

#[test]
fn what_would_be_wrong_or_useless_is_refused_with_its_reason() {
    let scene = Scene::new();
    scene.parse("one", "first");
    scene.insert("one").unwrap();
    scene.write("layer/recipes-x/a.bb", "x");
    scene.age("layer/recipes-x/a.bb", 100);
    scene.assert_refused("two", "a.bb changed without a new time");
    scene.age("layer/recipes-x/a.bb", 50);
    assert_eq!(scene.restore("three"), Restored::Put);
    scene.write("layer/recipes-x/new.inc", "x");
    scene.assert_refused("four", "new.inc is new");
    fs::remove_file(scene.at("layer/recipes-x/new.inc")).unwrap();
    for name in ["b", "c", "d"] {
        scene.write(&format!("layer/recipes-x/{name}.bb"), "changed");
    }
    scene.assert_refused("five", "most recipes are other ones");
}

/// As after a fresh clone. What the program makes of it is tested with real BitBake.
#[test]
fn a_cache_of_moved_files_is_rebased_and_only_the_core_cache_is() {
    let scene = Scene::new();
    scene.parse("one", "first");
    scene.insert("one").unwrap();
    for name in ["b", "c", "d"] {
        scene.age(&format!("layer/recipes-x/{name}.bb"), 20);
    }
    scene.write("layer/recipes-x/a.bb", "changed");
    let Unpacking::Unpacked(mut unpacked) = scene.unpack("two") else { panic!("nothing was unpacked") };
    let [rebase] = &mut unpacked.take_rebases()[..] else { panic!("one cache is rebased") };
    let mut input = String::new();
    std::io::Read::read_to_string(&mut rebase.input, &mut input).unwrap();
    let lines: Vec<&str> = input.lines().collect();
    assert_eq!((lines[0], lines.len(), lines[4]), ("3", 5, "first"));
    for (line, name) in lines[1..4].iter().zip(["b", "c", "d"]) {
        let old = 1_700_000_000 - 100;
        let path = scene.at(&format!("layer/recipes-x/{name}.bb"));
        assert!(line.starts_with(&format!("{old} 0 1 ")) && line.ends_with(path.to_str().unwrap()), "{line}");
        assert!(line.contains(&format!(" {} 0 1 ", 1_700_000_000 - 20)), "{line}");
    }
    fs::write(&rebase.target, "rebased").unwrap();
    assert_eq!(unpacked.put(), Restored::Put);
    assert_eq!(scene.restored("two"), "first");
    let core = scene.at(&format!("two/tmp/cache/bb_cache.dat.{HASH}"));
    assert_eq!(fs::read_to_string(core).unwrap(), "rebased");
}

#[test]
fn a_damaged_cache_is_told_and_gone_and_leaves_nothing() {
    let scene = Scene::new();
    scene.parse("one", "first");
    scene.insert("one").unwrap();
    let entry = fs::read_dir(scene.at("store/parses")).unwrap().next().unwrap().unwrap().path();
    fs::write(entry.join("1"), zstd::encode_all(&b"other"[..], 1).unwrap()).unwrap();
    scene.assert_refused("two", "damaged");
    assert!(!entry.exists());
    assert_eq!(scene.restore("three"), Restored::Nothing);
}

#[test]
fn nothing_is_kept_where_bitbake_left_no_whole_cache() {
    let scene = Scene::new();
    scene.parse("one", "first");
    fs::remove_file(scene.at(&format!("one/tmp/cache/bb_cache.dat.{HASH}"))).unwrap();
    assert!(scene.insert("one").is_err());
    assert!(!scene.at("store/parses").exists());
}

#[test]
fn bitbake_is_believed_how_much_it_parsed() {
    let ran = |text: &str| BitbakeOutcome {
        end: agent_process::ExitReason::Exited(0),
        stdout: text.as_bytes().to_vec(),
        stderr: Vec::new(),
        signatures: None,
    };
    let line = "Parsing recipes...done.\nParsing of 4012 .bb files complete (4009 cached, 3 parsed). 6000 targets, 1 skipped, 0 masked, 0 errors.\n";
    assert_eq!(count(&ran(line)), Some(Recipes { cached: 4009, parsed: 3 }));
    assert_eq!(count(&ran("Loaded 4012 entries from dependency cache.\n")), None);
}

/// A rerun gets what this check made, and nothing of an earlier job; a later job gets what may be stored for it.
#[test]
fn caches_serve_those_for_whom_they_are_of_use() {
    for (later_jobs, reruns) in [(true, true), (true, false), (false, true)] {
        let scene = Scene::new();
        scene.parse("one", "first");
        scene.insert_for("one", Users { later_jobs, reruns }).unwrap();
        let wanted = |is_there: bool, restored| if is_there { restored } else { Restored::Nothing };
        assert_eq!(scene.restore("two"), wanted(later_jobs, Restored::Put));
        assert_eq!(scene.restore_own("three"), wanted(reruns, Restored::Own));
        for (build, is_there) in [("two", later_jobs), ("three", reruns)] {
            let content = is_there.then(|| scene.restored(build));
            assert_eq!(content.as_deref(), is_there.then_some("first"));
        }
    }
}

/// The parse caches of a trusted run are found on a machine that has only the bucket, where the same files have other
/// stat data; an untrusted run cannot add any there.
#[tokio::test]
async fn a_fresh_machine_finds_a_parse_cache_in_the_bucket() {
    use crate::bucket::BucketTiers;
    use crate::signature_cache::BucketStore;
    use agent_objects::{Objects, retry::Retries};
    use agent_types::bucket_share::BucketShare;
    use agent_types::s3_address::S3Address;
    use agent_types::tiers::{Access, Tiers, Trust};

    let bucket = Arc::new(object_store::memory::InMemory::new());
    let objects = || Objects::new(bucket.clone(), Retries::within(Duration::ZERO));
    let stores = |scene: &Scene, machine: &str, trust: &Trust| {
        let share = BucketShare::new(S3Address::parse("s3://b/p").unwrap());
        let tiers = BucketTiers::new(&Tiers::new(&share, Access::ReadWrite, trust), objects);
        Stores::new(Store::local(scene.at(machine)), Vec::new(), BucketStore::new(tiers))
    };
    let keys = || async {
        objects().below("", usize::MAX).await.unwrap().into_iter().map(|it| it.key).collect::<Vec<_>>()
    };
    let trusted = Trust::Trusted { why: String::new() };
    let untrusted = Trust::Untrusted { why: String::new(), pull_request: Some(7) };
    let mut scene = Scene::new();
    let user = scene.parse_caches.user.clone();
    scene.parse("one", "first");
    // Whoever may not store parse caches for later jobs publishes none.
    for (trust, later_jobs, count) in [(&untrusted, false, 0), (&trusted, true, 1), (&trusted, true, 1)] {
        let stores = stores(&scene, &format!("machine of {trust:?}"), trust);
        let caches = stores.parse_caches(scene.at("own"), &user);
        let (inputs, build) = (scene.inputs(), scene.at("one"));
        let users = Users { later_jobs, reruns: false };
        let insert = move || caches.insert(&inputs, Path::new("/nowhere"), &build, users);
        tokio::task::spawn_blocking(insert).await.unwrap().unwrap();
        assert_eq!(stores.publish().await.trouble, Vec::<String>::new());
        assert_eq!(keys().await.len(), count, "{trust:?}");
        // As after a fresh clone: the same content has the same name.
        for name in ["a", "b", "c", "d"] {
            scene.age(&format!("layer/recipes-x/{name}.bb"), 50 + count as u64);
        }
    }
    scene.write("layer/recipes-x/a.bb", "changed");
    let fresh = stores(&scene, "fresh", &untrusted);
    let unpack = |stores: &Stores, scene: &Scene, build: &str| {
        let (caches, inputs, build) =
            (stores.parse_caches(scene.at("own"), &user), scene.inputs(), scene.at(build));
        fs::create_dir_all(&build).unwrap();
        tokio::task::spawn_blocking(move || caches.unpack(&inputs, &build, Keeps::RecipesAndSignatures))
    };
    let Unpacking::Unpacked(mut unpacked) = unpack(&fresh, &scene, "two").await.unwrap() else {
        panic!("none")
    };
    assert_eq!(unpacked.take_rebases().len(), 1);
    assert_eq!(fresh.publish().await.traffic[&agent_types::tiers::TierKind::Shared].objects_read, 1);
    // It is on this machine now.
    scene.parse_caches =
        Stores::new(Store::local(scene.at("fresh")), Vec::new(), None).parse_caches(scene.at("own"), &user);
    let Unpacking::Unpacked(_) = scene.unpack("three") else { panic!("none") };
    // Another configuration has none; a damaged object is told and leaves nothing.
    let key = agent_objects::ObjectPath::from(keys().await[0].as_str());
    let whole = objects().read(&key, 1 << 20).await.unwrap().unwrap();
    for (number, content) in
        [whole.slice(..whole.len() - 1024), "x".into(), "".into()].into_iter().enumerate()
    {
        let is_whole = content.len() + 1024 == whole.len();
        objects().replace(&key, content).await.unwrap();
        let machine = format!("machine {number}");
        match unpack(&stores(&scene, &machine, &untrusted), &scene, &format!("build {number}")).await.unwrap()
        {
            Unpacking::Done(Restored::Refused(reason)) => assert!(reason.0.contains("damaged"), "{reason}"),
            // The end of an archive is padding.
            Unpacking::Unpacked(_) if is_whole => continue,
            other => panic!("{number}: {other:?}"),
        }
        assert!(
            !scene.at(&machine).join("parses").exists()
                || fs::read_dir(scene.at(&machine).join("parses")).unwrap().next().is_none()
        );
    }
}
