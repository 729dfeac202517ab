use std::ffi::OsString;
use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::*;
use agent_process::User;
use agent_types::events;
use agent_types::stage::Stage;
use agent_yocto::conf;

/// A desk with a build directory in which BitBake would parse one layer.
struct Scene {
    top: TempDir,
    desk: Desk,
    events: tokio::sync::mpsc::Receiver<events::Event>,
    environment: Vec<(OsString, OsString)>,
}

impl Scene {
    fn new() -> Scene {
        let top = tempfile::tempdir().unwrap();
        let at = |path: &str| top.path().join(path);
        for directory in ["bitbake/lib/bb/fetch2", "meta/conf", "work/build/conf", "work/build/cache"] {
            fs::create_dir_all(at(directory)).unwrap();
        }
        fs::write(at("bitbake/lib/bb/fetch2/__init__.py"), "BB_URI_HEADREVS").unwrap();
        fs::write(at("work/build/cache/bb_persist_data.sqlite3"), "SQLite").unwrap();
        fs::write(at("meta/x.bb"), "A = \"1\"\n").unwrap();
        fs::write(at("work/build/conf/bblayers.conf"), conf::bblayers(&[at("meta")]).unwrap()).unwrap();
        let (emitter, events) = events::channel();
        let desk = Scene::open(top.path(), Again::default(), &emitter);
        let environment =
            vec![("PATH".into(), "".into()), ("BB_SIGNATURE_HANDLER".into(), "OEBasicHash".into())];
        Scene { top, desk, events, environment }
    }

    fn open(top: &Path, again: Again, emitter: &Emitter) -> Desk {
        let at = |path: &str| top.join(path);
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let place = Place {
            build: at("work/build"),
            bitbake: at("bitbake"),
            oe_core: at("meta"),
            user: User { name: "me".into(), uid, gid, home: "/".into() },
            own: vec![at("work")],
            immutable: Vec::new(),
        };
        let listener = UnixListener::bind(at("desk")).unwrap();
        let store = Store::local(at("store"));
        let stores = Stores { read: vec![store.clone()], write: vec![store] };
        let unit = Unit::new(Stage::Check, "yocto-check-layer x");
        let course = Course { schedule: None, again };
        Desk::open(listener, place, stores, at("stat-cache"), course, &unit, emitter)
    }

    /// The desk of the next run of the tool, in a fresh build directory.
    async fn open_again(&mut self, again: Again) {
        let top = self.top.path().to_owned();
        fs::remove_file(top.join("desk")).unwrap();
        let next = Scene::open(&top, again, &self.desk.shared.events.clone());
        std::mem::replace(&mut self.desk, next).close().await;
    }

    fn build(&self) -> PathBuf {
        self.top.path().canonicalize().unwrap().join("work/build")
    }

    fn asked(&self, cwd: &Path) -> Asked {
        let argv = ["-S", "lockedsigs", "world"].map(Into::into).to_vec();
        Asked { argv, cwd: cwd.into(), umask: 0o22, joined: true, environment: self.environment.clone() }
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.top.path().join("desk")).await.unwrap()
    }

    async fn ask(&self, asked: &Asked) -> (UnixStream, io::Result<Reply>) {
        let mut stream = self.connect().await;
        say(&mut stream, &Call::Ask(asked.clone())).await;
        let reply = receive(&mut stream).await.and_then(|message| Reply::unpack(&message));
        (stream, reply)
    }

    async fn memo(&mut self) -> Memo {
        loop {
            if let What::Memo(memo) = self.events.recv().await.unwrap().what {
                return memo;
            }
        }
    }
}

async fn say(stream: &mut UnixStream, call: &Call) {
    let message = call.pack();
    stream.write_all(&length_of(&message).unwrap()).await.unwrap();
    stream.write_all(&message).await.unwrap();
}

fn good() -> Ran {
    Ran {
        status: Some(0),
        stdout: Some(b"NOTE: done\n".to_vec()),
        stderr: Some(Vec::new()),
        signatures: Some(b"SIGGEN_LOCKEDSIGS_t-x = \"x:do_build:1\"".to_vec()),
    }
}

#[tokio::test]
async fn what_bitbake_gave_is_given_again() {
    let mut scene = Scene::new();
    let asked = scene.asked(&scene.build());
    let (mut stream, reply) = scene.ask(&asked).await;
    assert_eq!(reply.unwrap(), Reply::Run);
    say(&mut stream, &Call::Ran(good())).await;
    receive(&mut stream).await.unwrap();
    assert_eq!(scene.memo().await.outcome, MemoOutcome::Miss);
    let (_, reply) = scene.ask(&asked).await;
    let answer =
        Answer { stdout: good().stdout.unwrap(), stderr: Vec::new(), signatures: good().signatures.unwrap() };
    assert_eq!(reply.unwrap(), Reply::Answer(answer));
    assert_eq!(scene.memo().await.outcome, MemoOutcome::Hit);
    fs::write(scene.top.path().join("meta/x.bb"), "A = \"2\"\n").unwrap();
    assert_eq!(scene.ask(&asked).await.1.unwrap(), Reply::Run);
    assert_eq!(scene.desk.close().await, Kinds::new(), "what BitBake gave in this very run is plain");
}

/// A recipe changed: BitBake is asked, and finds what it parsed of the others. That counts as stored.
#[tokio::test]
async fn bitbake_finds_what_it_parsed_before() {
    let mut scene = Scene::new();
    let recipe = |name: &str| scene.top.path().join("meta/recipes-x").join(name);
    fs::create_dir(scene.top.path().join("meta/recipes-x")).unwrap();
    fs::write(recipe("a.bb"), "A = \"1\"\n").unwrap();
    fs::write(recipe("b.bb"), "B = \"1\"\n").unwrap();
    let old = std::time::SystemTime::now() - Duration::from_secs(100);
    fs::File::options().write(true).open(recipe("a.bb")).unwrap().set_modified(old).unwrap();
    let changed = recipe("a.bb");
    let cache = scene.build().join("tmp/cache");
    let name = format!("bb_cache.dat.{:032}", 1);
    fs::create_dir_all(&cache).unwrap();
    fs::write(cache.join(&name), "core").unwrap();
    fs::write(cache.join(name.replace(".dat", "_SiggenRecipeInfo.dat")), "siggen").unwrap();
    std::os::unix::fs::symlink(&name, cache.join("bb_cache.dat")).unwrap();
    let asked = scene.asked(&scene.build());
    let (mut stream, reply) = scene.ask(&asked).await;
    assert_eq!(reply.unwrap(), Reply::Run);
    say(&mut stream, &Call::Ran(good())).await;
    receive(&mut stream).await.unwrap();
    assert_eq!(scene.memo().await.why.unwrap(), "it was not asked of these layers before");
    // The next run begins with an empty build directory.
    fs::remove_dir_all(scene.build().join("tmp")).unwrap();
    fs::write(&changed, "A = \"2\"\n").unwrap();
    let (mut stream, reply) = scene.ask(&asked).await;
    assert_eq!(reply.unwrap(), Reply::Run);
    assert_eq!(fs::read_to_string(cache.join(&name)).unwrap(), "core");
    let said = b"Parsing of 2 .bb files complete (1 cached, 1 parsed). 2 targets".to_vec();
    say(&mut stream, &Call::Ran(Ran { stdout: Some(said), ..good() })).await;
    receive(&mut stream).await.unwrap();
    assert_eq!(scene.memo().await.recipes, Some(events::Recipes { cached: 1, parsed: 1 }));
    assert_eq!(scene.desk.close().await, Kinds::from(Kind::ALL));
}

/// What failed rests on the first world: BitBake is asked for it, once, and finds nothing parsed.
#[tokio::test]
async fn what_failed_rests_on_no_stored_answer() {
    let mut scene = Scene::new();
    let asked = scene.asked(&scene.build());
    let other = Asked {
        environment: [scene.environment.clone(), vec![("INHERIT".into(), "x".into())]].concat(),
        ..asked.clone()
    };
    for asked in [&asked, &other] {
        let (mut stream, _) = scene.ask(asked).await;
        say(&mut stream, &Call::Ran(good())).await;
        receive(&mut stream).await.unwrap();
        scene.memo().await;
    }
    let again = Again { runs: 1, anew: Kinds::from([Kind::Base]), lost: Duration::from_secs(7) };
    scene.open_again(again).await;
    let (mut stream, reply) = scene.ask(&asked).await;
    assert_eq!(reply.unwrap(), Reply::Run);
    say(&mut stream, &Call::Ran(good())).await;
    receive(&mut stream).await.unwrap();
    let memo = scene.memo().await;
    assert_eq!((memo.outcome, memo.repeat), (MemoOutcome::Miss, 1), "{memo:?}");
    for (asked, given) in [(&asked, Kinds::new()), (&other, Kinds::from([Kind::Class]))] {
        assert!(matches!(scene.ask(asked).await.1.unwrap(), Reply::Answer(_)));
        let memo = scene.memo().await;
        assert_eq!((memo.outcome, memo.seconds_saved), (MemoOutcome::Hit, Some(0.0)), "it made good nothing");
        assert_eq!(lock(&scene.desk.shared.ledger).given(), given);
    }
}

/// Something on which an answer depends is not known: nothing more is given or kept.
#[tokio::test]
async fn another_answer_than_before_ends_it() {
    let mut scene = Scene::new();
    let asked = scene.asked(&scene.build());
    let (mut stream, _) = scene.ask(&asked).await;
    say(&mut stream, &Call::Ran(good())).await;
    receive(&mut stream).await.unwrap();
    scene.memo().await;
    let again = Again { runs: 1, anew: Kinds::from([Kind::Base]), ..Again::default() };
    scene.open_again(again).await;
    let (mut stream, _) = scene.ask(&asked).await;
    let other = Some(b"SIGGEN_LOCKEDSIGS_t-x = \"x:do_build:2\"".to_vec());
    say(&mut stream, &Call::Ran(Ran { signatures: other, ..good() })).await;
    receive(&mut stream).await.unwrap();
    assert!(scene.memo().await.why.unwrap().contains("another answer to the same question"));
    assert_eq!(scene.ask(&asked).await.1.unwrap(), Reply::Pass);
    assert_eq!(fs::read_dir(scene.top.path().join("store/answers")).unwrap().count(), 0);
}

type Spoil = fn(&Scene, &mut Ran);

#[tokio::test]
async fn what_may_not_come_again_is_not_kept() {
    let table: [(&str, Spoil, &str); 13] = [
        ("failed", |_, ran| ran.status = Some(1), "BitBake failed"),
        ("signal", |_, ran| ran.status = None, "BitBake failed"),
        ("no file", |_, ran| ran.signatures = None, "wrote no signatures"),
        ("empty file", |_, ran| ran.signatures = Some(Vec::new()), "wrote no signatures"),
        ("too much output", |_, ran| ran.stdout = None, "printed too much"),
        (
            "basehash",
            |_, ran| ran.stdout = Some(b"the basehash value changed from".to_vec()),
            "basehash value",
        ),
        (
            "taskhash",
            |_, ran| ran.stderr = Some(b"Bitbake: taskhash mismatch 1".to_vec()),
            "taskhash mismatch",
        ),
        (
            "a choice that was left out",
            |_, ran| ran.stdout = Some(b"NOTE: Runtime target 'x' is unbuildable, removing...".to_vec()),
            "unbuildable",
        ),
        ("error", |_, ran| ran.stdout = Some(b"ERROR: x\n".to_vec()), "ERROR:"),
        (
            "server asked",
            |scene, _| fs::write(scene.build().join("cache/bb_persist_data.sqlite3"), "git:x").unwrap(),
            "asks a server",
        ),
        (
            "no record of servers",
            |scene, _| fs::remove_file(scene.build().join("cache/bb_persist_data.sqlite3")).unwrap(),
            "cannot tell",
        ),
        (
            "changed meanwhile",
            |scene, _| fs::write(scene.top.path().join("meta/y.bb"), "").unwrap(),
            "while BitBake ran",
        ),
        (
            "configuration changed meanwhile",
            |scene, _| fs::write(scene.build().join("conf/site.conf"), "").unwrap(),
            "while BitBake ran",
        ),
    ];
    for (name, spoil, wanted) in table {
        let mut scene = Scene::new();
        let asked = scene.asked(&scene.build());
        let (mut stream, reply) = scene.ask(&asked).await;
        assert_eq!(reply.unwrap(), Reply::Run, "{name}");
        let mut ran = good();
        spoil(&scene, &mut ran);
        say(&mut stream, &Call::Ran(ran)).await;
        receive(&mut stream).await.unwrap();
        let why = scene.memo().await.why.unwrap();
        assert!(why.contains("not kept") && why.contains(wanted), "{name}: {why}");
        assert!(!scene.top.path().join("store/answers").exists(), "{name}");
    }
}

/// Layer code may talk to the desk as well.
#[tokio::test]
async fn nonsense_gets_no_answer_and_harms_nobody() {
    let scene = Scene::new();
    for bytes in [&b"GET / HTTP/1.0\r\n\r\n"[..], &[0xff; 64], &[0, 0, 0, 1, b'x'], &[0, 0, 0, 0]] {
        let mut stream = scene.connect().await;
        stream.write_all(bytes).await.unwrap();
        let _ = stream.shutdown().await;
        let mut reply = Vec::new();
        let _ = stream.read_to_end(&mut reply).await;
        assert!(reply.is_empty(), "{bytes:?}");
    }
    let mut stream = scene.connect().await;
    say(&mut stream, &Call::Ran(good())).await;
    assert!(receive(&mut stream).await.is_err(), "nobody asked for a result");
    let silent: Vec<UnixStream> = {
        let mut silent = Vec::new();
        for _ in 0..MOST_CALLERS / 2 {
            silent.push(scene.connect().await);
        }
        silent
    };
    let elsewhere = scene.asked(Path::new("/"));
    assert_eq!(scene.ask(&elsewhere).await.1.unwrap(), Reply::Pass);
    let mut other = scene.asked(&scene.build());
    other.argv = vec!["-e".into()];
    assert_eq!(scene.ask(&other).await.1.unwrap(), Reply::Pass);
    assert_eq!(scene.ask(&scene.asked(&scene.build())).await.1.unwrap(), Reply::Run);
    drop(silent);
    assert_eq!(scene.desk.close().await, Kinds::new());
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_nothing() {
    let mut scene = Scene::new();
    let (stream, reply) = scene.ask(&scene.asked(&scene.build())).await;
    assert_eq!(reply.unwrap(), Reply::Run);
    drop(stream);
    assert!(scene.memo().await.why.unwrap().contains("did not come to its end"));
    assert!(!scene.top.path().join("store/answers").exists());
}
