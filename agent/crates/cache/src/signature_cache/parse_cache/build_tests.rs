use std::fs;
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};

use tempfile::TempDir;

use super::*;

const ONE: &str = "00000000000000000000000000000001";
const TWO: &str = "0000000000000000000000000000000000000000000000000000000000000002";

/// A build directory after BitBake ran, which belongs to the user that runs the tests.
struct Build {
    top: TempDir,
    user: User,
}

impl Build {
    fn new(cache: &str) -> Build {
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let user = User { name: "me".into(), uid, gid, home: "/".into() };
        let build = Build { top: tempfile::tempdir().unwrap(), user };
        build.parse(cache, ONE);
        build.write("cache/bb_codeparser.dat", "code");
        build.write("cache/local_file_checksum_cache.dat", "checksums");
        build.write("cache/bb_persist_data.sqlite3", "SQLite");
        build
    }

    /// As after another configuration was parsed.
    fn parse(&self, cache: &str, hash: &str) {
        self.write(&format!("{cache}/bb_cache.dat.{hash}"), "core");
        self.write(&format!("{cache}/bb_cache_SiggenRecipeInfo.dat.{hash}"), "siggen");
        let link = self.at(&format!("{cache}/bb_cache.dat"));
        let _ = fs::remove_file(&link);
        symlink(format!("bb_cache.dat.{hash}"), link).unwrap();
    }

    fn at(&self, path: &str) -> PathBuf {
        self.top.path().join(path)
    }

    fn write(&self, path: &str, content: &str) {
        fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
        fs::write(self.at(path), content).unwrap();
    }

    fn found(&self) -> CacheResult<Vec<String>> {
        self.found_of(Kinds::RecipesAndSignatures)
    }

    fn found_of(&self, kinds: Kinds) -> CacheResult<Vec<String>> {
        let caches = find(self.top.path(), &self.user, kinds)?;
        Ok(caches.iter().map(|cache| cache.path.display().to_string()).collect())
    }
}

fn wanted(cache: &str, hash: &str) -> Vec<String> {
    let caches = ["bb_cache.dat", "bb_cache_SiggenRecipeInfo.dat"];
    let mut paths: Vec<String> = caches.map(|name| format!("{cache}/{name}.{hash}")).to_vec();
    paths.push(CODE.to_owned());
    paths
}

#[test]
fn the_configuration_that_was_parsed_last_is_found() {
    for cache in ["tmp/cache", "tmp-glibc/cache", "tmp/cache/default-glibc/qemux86-64/x86_64"] {
        let build = Build::new(cache);
        assert_eq!(build.found().unwrap(), wanted(cache, ONE));
        build.parse(cache, TWO);
        assert_eq!(build.found().unwrap(), wanted(cache, TWO));
        assert!(build.found().unwrap().iter().all(|path| is_cache(Path::new(path))));
    }
}

#[test]
fn half_a_cache_is_none() {
    let build = Build::new("tmp/cache");
    fs::remove_file(build.at(&format!("tmp/cache/bb_cache_SiggenRecipeInfo.dat.{ONE}"))).unwrap();
    assert!(build.found().unwrap().is_empty());
    let core = [format!("tmp/cache/bb_cache.dat.{ONE}"), CODE.to_owned()];
    assert_eq!(build.found_of(Kinds::Recipes).unwrap(), core);
    let build = Build::new("tmp/cache");
    fs::remove_file(build.at(&format!("tmp/cache/bb_cache.dat.{ONE}"))).unwrap();
    for kinds in [Kinds::Recipes, Kinds::RecipesAndSignatures] {
        assert!(build.found_of(kinds).unwrap().is_empty());
    }
    let build = Build::new("tmp/cache");
    fs::remove_file(build.at("tmp/cache/bb_cache.dat")).unwrap();
    assert!(build.found().unwrap().is_empty());
}

/// Up to langdale, BitBake has one file.
#[test]
fn bitbake_says_which_kinds_it_has() {
    let bitbake = tempfile::tempdir().unwrap();
    assert_eq!(Kinds::of(bitbake.path()), Kinds::RecipesAndSignatures);
    fs::create_dir_all(bitbake.path().join("lib/bb")).unwrap();
    let core = "class CoreRecipeInfo(RecipeInfoCommon):\n    cachefile = \"bb_cache.dat\"\n";
    let signatures = "class SiggenRecipeInfo(RecipeInfoCommon):\n";
    let table = [
        ("", Kinds::RecipesAndSignatures),
        (core, Kinds::Recipes),
        (&format!("{core}\n{signatures}"), Kinds::RecipesAndSignatures),
    ];
    for (code, kinds) in table {
        fs::write(bitbake.path().join("lib/bb/cache.py"), code).unwrap();
        assert_eq!(Kinds::of(bitbake.path()), kinds, "{code}");
    }
}

type Spoil = fn(&Build, &Path);

#[test]
fn what_bitbake_did_not_make_is_refused() {
    let table: [(&str, Spoil); 6] = [
        ("link", |b, p| symlink(b.at("cache/bb_codeparser.dat"), p).unwrap()),
        ("pipe", |_, p| nix::unistd::mkfifo(p, Mode::S_IRWXU).unwrap()),
        ("directory", |_, p| fs::create_dir(p).unwrap()),
        ("second name of another file", |b, p| fs::hard_link(b.at("cache/bb_codeparser.dat"), p).unwrap()),
        ("giant", |_, p| fs::File::create(p).unwrap().set_len(LARGEST + 1).unwrap()),
        ("nothing that can be read", |b, p| {
            symlink(b.at("nowhere"), p).unwrap();
        }),
    ];
    for (name, spoil) in table {
        let build = Build::new("tmp/cache");
        let path = build.at(&format!("tmp/cache/bb_cache.dat.{ONE}"));
        fs::remove_file(&path).unwrap();
        spoil(&build, &path);
        assert!(build.found().is_err(), "{name}");
    }
    // A directory that is a link is none at all.
    let build = Build::new("tmp/cache");
    let elsewhere = tempfile::tempdir().unwrap();
    fs::rename(build.at("tmp/cache"), elsewhere.path().join("cache")).unwrap();
    symlink(elsewhere.path().join("cache"), build.at("tmp/cache")).unwrap();
    assert!(build.found().unwrap().is_empty());
    // As many directories as layer code likes.
    let build = Build::new("tmp/cache");
    for number in 0..=MOST_DIRECTORIES {
        fs::create_dir(build.at(&format!("tmp/cache/{number}"))).unwrap();
    }
    assert!(build.found().is_err());
}

#[test]
fn files_of_others_are_not_read() {
    if !geteuid().is_root() {
        return;
    }
    let build = Build::new("tmp/cache");
    let user = User { name: "other".into(), uid: 65_000, gid: 65_000, home: "/".into() };
    fs::set_permissions(build.top.path(), PermissionsExt::from_mode(0o755)).unwrap();
    assert!(find(build.top.path(), &user, Kinds::Recipes).is_err());
}

#[test]
fn nothing_is_read_while_bitbake_is_at_it() {
    let build = Build::new("tmp/cache");
    build.write("bitbake.lock", "123");
    // A lock that nobody holds was left behind.
    assert_eq!(build.found().unwrap(), wanted("tmp/cache", ONE));
    let lock = fs::File::open(build.at("bitbake.lock")).unwrap();
    let held = Flock::lock(lock, FlockArg::LockExclusiveNonblock).unwrap();
    let found = std::thread::scope(|scope| {
        let asking = scope.spawn(|| build.found());
        std::thread::sleep(Duration::from_millis(50));
        assert!(!asking.is_finished());
        build.parse("tmp/cache", TWO);
        fs::remove_file(build.at("bitbake.lock")).unwrap();
        asking.join().unwrap()
    });
    drop(held);
    assert_eq!(found.unwrap(), wanted("tmp/cache", TWO), "what it wrote at last");
}

fn fill(places: &mut [Place]) {
    places.iter_mut().for_each(|place| place.file.write_all(b"restored").unwrap());
}

#[test]
fn caches_come_to_their_places_and_belong_to_the_build_user() {
    let top = tempfile::tempdir().unwrap();
    fs::set_permissions(top.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let mut user = Build::new("tmp/cache").user;
    if geteuid().is_root() {
        user = User { name: "other".into(), uid: 65_000, gid: 65_001, home: "/".into() };
        std::os::unix::fs::chown(top.path(), Some(user.uid), Some(user.gid)).unwrap();
    }
    let paths = wanted("tmp/cache/a", ONE);
    let paths: Vec<&Path> = paths.iter().map(Path::new).collect();
    let mut places = make_room(top.path(), &paths, &user).unwrap().unwrap();
    fill(&mut places);
    put(places, &user).unwrap();
    for path in &paths {
        assert_eq!(fs::read(top.path().join(path)).unwrap(), b"restored");
        for made in path.ancestors().filter(|made| !made.as_os_str().is_empty()) {
            let metadata = top.path().join(made).symlink_metadata().unwrap();
            assert_eq!((metadata.uid(), metadata.gid()), (user.uid, user.gid), "{}", made.display());
        }
    }
    assert_eq!(fs::read_dir(top.path().join("tmp/cache/a")).unwrap().count(), 2, "nothing else is left");
    assert!(make_room(top.path(), &paths, &user).unwrap().is_none(), "they are there by now");
}

#[test]
fn what_is_there_stays() {
    let build = Build::new("tmp/cache");
    let two = wanted("tmp/cache", TWO);
    let paths: Vec<&Path> = two.iter().map(Path::new).collect();
    let mut places = make_room(build.top.path(), &paths, &build.user).unwrap().unwrap();
    assert_eq!(places.len(), 2, "the codes are there");
    fill(&mut places);
    build.write(&two[1], "newer");
    assert!(put(places, &build.user).is_err());
    assert_eq!(fs::read(build.at(&two[1])).unwrap(), b"newer");
    assert_eq!(fs::read(build.at(CODE)).unwrap(), b"code");
    let build = Build::new("tmp/cache");
    let places = make_room(build.top.path(), &paths, &build.user).unwrap().unwrap();
    give_up(&places, &build.user);
    assert_eq!(fs::read_dir(build.at("tmp/cache")).unwrap().count(), 3);
}

#[test]
fn no_link_leads_elsewhere() {
    let build = Build::new("tmp/cache");
    let elsewhere = tempfile::tempdir().unwrap();
    symlink(elsewhere.path(), build.at("tmp-x")).unwrap();
    let path = format!("tmp-x/cache/bb_cache.dat.{ONE}");
    assert!(make_room(build.top.path(), &[Path::new(&path)], &build.user).is_err());
    symlink(elsewhere.path().join("x"), build.at(&format!("tmp/cache/bb_cache.dat.{TWO}"))).unwrap();
    let path = format!("tmp/cache/bb_cache.dat.{TWO}");
    assert!(make_room(build.top.path(), &[Path::new(&path)], &build.user).unwrap().is_none());
    assert_eq!(fs::read_dir(elsewhere.path()).unwrap().count(), 0);
}

#[test]
fn only_caches_of_parsing_are_named_so() {
    let names = [format!("tmp/cache/bb_cache.dat.{ONE}"), format!("tmp/cache/bb_cache.dat.mc1.{TWO}")];
    for path in names.iter().map(String::as_str).chain([CODE]) {
        assert!(is_cache(Path::new(path)), "{path}");
    }
    for path in [
        format!("../tmp/cache/bb_cache.dat.{ONE}"),
        format!("tmp/../bb_cache.dat.{ONE}"),
        format!("/tmp/cache/bb_cache.dat.{ONE}"),
        format!("conf/bb_cache.dat.{ONE}"),
        format!("tmp/cache/other.dat.{ONE}"),
        "tmp/cache/bb_cache.dat".into(),
        "tmp/cache/bb_cache.dat.0123".into(),
        "cache/bb_persist_data.sqlite3".into(),
        "cache/hashserv.db".into(),
        "cache/local_file_checksum_cache.dat".into(),
        String::new(),
    ] {
        assert!(!is_cache(Path::new(&path)), "{path}");
    }
}
