use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use tempfile::TempDir;

use super::super::protocol::{BitbakeOutcome, length_from};
use super::super::{Admission, CacheOptions, Place, Rerun, Store, Stores, WrittenConf};
use super::*;
use agent_process::{ActivityClock, ExitReason, Interrupt, Redactor, Runner, User};
use agent_types::events::{self, CacheOutcome, CacheQuery, EventKind};
use agent_types::stage::Stage;
use agent_yocto::check_layer::{Kind, Kinds};
use agent_yocto::conf;

/// What the stand-in for BitBake writes.
const SIGNATURES: &str = "SIGGEN_LOCKEDSIGS_t-x = \"x:do_build:1\"";

/// A cache server with a build directory in which BitBake would parse one layer.
struct Scene {
    top: TempDir,
    server: CacheServer,
    emitter: Emitter,
    events: tokio::sync::mpsc::Receiver<events::Event>,
    environment: Vec<(OsString, OsString)>,
    /// The clock of the tool that asks.
    tool: ActivityClock,
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
        fs::create_dir_all(at("bitbake/bin")).unwrap();
        fs::create_dir_all(at("meta/scripts/lib/checklayer")).unwrap();
        let tool = r#"f.write("\nBBLAYERS += \"%s\"\n" % path) 'bitbake -S lockedsigs world'"#;
        fs::write(at("meta/scripts/lib/checklayer/__init__.py"), tool).unwrap();
        let orders = at("orders");
        let program = format!(
            "#!/bin/sh\necho 'NOTE: done'\necho '{SIGNATURES}' >locked-sigs.inc\n\
             if [ -e {0} ]; then . {0}; fi\nexit 0\n",
            orders.display()
        );
        fs::write(at("bitbake/bin/bitbake"), program).unwrap();
        fs::set_permissions(at("bitbake/bin/bitbake"), fs::Permissions::from_mode(0o755)).unwrap();
        let (emitter, events) = events::channel();
        let tool = ActivityClock::default();
        let server = Scene::open(top.path(), Rerun::default(), &emitter, &tool);
        let environment =
            vec![("PATH".into(), "".into()), ("BB_SIGNATURE_HANDLER".into(), "OEBasicHash".into())];
        Scene { top, server, emitter, events, environment, tool }
    }

    fn open(top: &Path, rerun: Rerun, emitter: &Emitter, tool: &ActivityClock) -> CacheServer {
        let at = |path: &str| top.join(path);
        let (uid, gid) = (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw());
        let place = Place {
            build: at("work/build"),
            bitbake: at("bitbake"),
            oe_core: at("meta"),
            user: User { name: "me".into(), uid, gid, home: "/".into() },
            own: vec![at("work")],
            immutable: Vec::new(),
            replaced: None,
        };
        let listener = UnixListener::bind(at("agent.sock")).unwrap();
        let store = Store::local(at("store"));
        let stores = Stores::new(store, Vec::new(), None);
        let unit = Unit::new(Stage::Check, "yocto-check-layer x");
        let runner = Runner {
            stage: Stage::Check,
            events: emitter.clone(),
            interrupt: Interrupt::new(None),
            redactor: Redactor::new(&[]),
            logs: at("work/logs"),
            stall: Duration::from_secs(60),
            grace: Duration::from_secs(4),
            log_limit: agent_process::LOG_LIMIT,
            commands: Arc::default(),
        };
        let bitbake = BitbakeRunner::new(&runner, &place, None, at("work/scratch"), &at("work"), "x", None);
        let bitbake = bitbake.on_behalf_of(tool);
        let admission = Admission {
            layer: at("meta"),
            conf: WrittenConf { bblayers: conf::bblayers(&[at("meta")]).unwrap(), local: String::new() },
            environment: [("PATH".into(), "".into())].into(),
            oe_core: at("meta"),
            ..Admission::default()
        };
        let own_parse_caches = at("own");
        let options = CacheOptions { rerun, admission, store_parse_caches: true, own_parse_caches };
        let cache = Arc::new(SignatureCache::open(place, stores, at("stat-cache"), options));
        CacheServer::open(listener, cache, bitbake, None, &unit, emitter)
    }

    /// The cache server of the next run of the tool, in a fresh build directory.
    async fn open_again(&mut self, rerun: Rerun) {
        let top = self.top.path().to_owned();
        fs::remove_file(top.join("agent.sock")).unwrap();
        let next = Scene::open(&top, rerun, &self.emitter.clone(), &self.tool);
        std::mem::replace(&mut self.server, next).close().await;
    }

    fn build(&self) -> PathBuf {
        self.top.path().canonicalize().unwrap().join("work/build")
    }

    fn invocation(&self, cwd: &Path) -> Invocation {
        let argv = ["-S", "lockedsigs", "world"].map(Into::into).to_vec();
        Invocation { argv, cwd: cwd.into(), umask: 0o22, joined: true, environment: self.environment.clone() }
    }

    async fn connect(&self) -> UnixStream {
        UnixStream::connect(self.top.path().join("agent.sock")).await.unwrap()
    }

    async fn ask(&self, invocation: &Invocation) -> io::Result<Reply> {
        let mut stream = self.connect().await;
        say(&mut stream, invocation).await;
        receive(&mut stream).await.and_then(|message| Reply::decode(&message))
    }

    /// What the stand-in for BitBake does at its end, as a shell script.
    fn order(&self, plan: &str) {
        fs::write(self.top.path().join("orders"), plan).unwrap();
    }

    /// Asks, and BitBake gives what it gives when nothing is wrong.
    async fn ask_well(&self, invocation: &Invocation) {
        assert_eq!(self.ask(invocation).await.unwrap(), good());
    }

    async fn query_report(&mut self) -> CacheQuery {
        loop {
            if let EventKind::CacheQuery { query, .. } = self.events.recv().await.unwrap().what {
                return query;
            }
        }
    }
}

async fn say(stream: &mut UnixStream, invocation: &Invocation) {
    let message = invocation.encode();
    stream.write_all(&length_of(&message).unwrap()).await.unwrap();
    stream.write_all(&message).await.unwrap();
}

/// A reply.
async fn receive(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    let mut message = vec![0; length_from(length)?];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

fn good() -> Reply {
    Reply::Outcome(BitbakeOutcome {
        end: ExitReason::Exited(0),
        stdout: b"NOTE: done\n".to_vec(),
        stderr: Vec::new(),
        signatures: Some(format!("{SIGNATURES}\n").into_bytes()),
    })
}

#[tokio::test]
async fn what_bitbake_gave_is_given_again() {
    let mut scene = Scene::new();
    let invocation = scene.invocation(&scene.build());
    scene.ask_well(&invocation).await;
    assert_eq!(scene.query_report().await.outcome, CacheOutcome::Miss);
    scene.order("exit 1");
    scene.ask_well(&invocation).await;
    assert_eq!(scene.query_report().await.outcome, CacheOutcome::Hit);
    fs::write(scene.top.path().join("meta/x.bb"), "A = \"2\"\n").unwrap();
    let Reply::Outcome(failed) = scene.ask(&invocation).await.unwrap() else { panic!() };
    assert_eq!((failed.end, failed.signatures.is_some()), (ExitReason::Exited(1), true), "byte for byte");
    assert_eq!(
        scene.server.close().await,
        ProvenanceSummary::default(),
        "what BitBake gave in this very run is fresh"
    );
}

/// Whatever came over the socket, nothing but what the agent's own BitBake wrote is believed.
#[tokio::test]
async fn what_bitbake_gave_is_read_by_the_agent() {
    let mut scene = Scene::new();
    let invocation = scene.invocation(&scene.build());
    fs::write(scene.build().join("locked-sigs.inc"), "SIGGEN_LOCKEDSIGS_t-x = \"\"").unwrap();
    scene.order("/bin/rm locked-sigs.inc; /bin/ln -s /etc/hostname locked-sigs.inc");
    let Reply::Outcome(outcome) = scene.ask(&invocation).await.unwrap() else { panic!() };
    assert_eq!(outcome.signatures, None, "what lay there before, and where a link leads, is not BitBake's");
    assert!(scene.query_report().await.why.unwrap().contains("wrote no signatures"));
    assert!(!scene.top.path().join("store/answers").exists());
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
    let invocation = scene.invocation(&scene.build());
    scene.ask_well(&invocation).await;
    assert_eq!(scene.query_report().await.why.unwrap(), "no answer for these layers is stored yet");
    // The next run begins with an empty build directory.
    fs::remove_dir_all(scene.build().join("tmp")).unwrap();
    scene.open_again(Rerun::default()).await;
    fs::write(&changed, "A = \"2\"\n").unwrap();
    scene.order("echo 'Parsing of 2 .bb files complete (1 cached, 1 parsed). 2 targets'");
    scene.ask(&invocation).await.unwrap();
    assert_eq!(fs::read_to_string(cache.join(&name)).unwrap(), "core");
    assert_eq!(scene.query_report().await.recipes, Some(events::Recipes { cached: 1, parsed: 1 }));
    assert_eq!(scene.server.close().await.stored, Kinds::from(Kind::ALL));
}

/// What failed depends on the first world: BitBake is asked for it, once, and finds nothing parsed.
#[tokio::test]
async fn what_failed_depends_on_no_stored_answer() {
    let mut scene = Scene::new();
    let invocation = scene.invocation(&scene.build());
    let class = ("INHERIT".into(), "yocto-check-layer".into());
    let other =
        Invocation { environment: [scene.environment.clone(), vec![class]].concat(), ..invocation.clone() };
    for invocation in [&invocation, &other] {
        scene.ask_well(invocation).await;
        scene.query_report().await;
    }
    let rerun = Rerun { attempt: 1, bypass: Kinds::from([Kind::Base]), wasted: Duration::from_secs(7) };
    scene.open_again(rerun).await;
    scene.ask_well(&invocation).await;
    let query_report = scene.query_report().await;
    assert_eq!((query_report.outcome, query_report.rerun), (CacheOutcome::Miss, 1), "{query_report:?}");
    for (invocation, given) in [(&invocation, Kinds::new()), (&other, Kinds::from([Kind::Class]))] {
        scene.ask_well(invocation).await;
        let query_report = scene.query_report().await;
        assert_eq!(
            (query_report.outcome, query_report.seconds_saved),
            (CacheOutcome::Hit, Some(0.0)),
            "it made good nothing"
        );
        let wanted = ProvenanceSummary { stored: given.clone(), elsewhere: given, discarded: false };
        assert_eq!(scene.server.cache.provenance(), wanted);
    }
}

/// Something on which an answer depends is not known: nothing more is looked up or stored.
#[tokio::test]
async fn another_answer_than_before_ends_it() {
    let mut scene = Scene::new();
    let invocation = scene.invocation(&scene.build());
    scene.ask_well(&invocation).await;
    scene.query_report().await;
    let rerun = Rerun { attempt: 1, bypass: Kinds::from([Kind::Base]), ..Rerun::default() };
    scene.open_again(rerun).await;
    scene.order("echo 'SIGGEN_LOCKEDSIGS_t-x = \"x:do_build:2\"' >locked-sigs.inc");
    scene.ask(&invocation).await.unwrap();
    assert!(scene.query_report().await.why.unwrap().contains("another answer to the same query"));
    assert_eq!(scene.ask(&invocation).await.unwrap(), Reply::Pass);
    assert_eq!(fs::read_dir(scene.top.path().join("store/answers")).unwrap().count(), 0);
}

#[tokio::test]
async fn what_may_not_come_again_is_not_stored() {
    let table = [
        ("failed", "echo 'ERROR: x'; exit 1", "BitBake failed"),
        ("signal", "kill -KILL $$", "BitBake failed"),
        ("no file", "/bin/rm locked-sigs.inc", "wrote no signatures"),
        ("empty file", ": >locked-sigs.inc", "wrote no signatures"),
        ("too much output", "/usr/bin/head -c 70000000 /dev/zero", "printed too much"),
        ("basehash", "echo 'the basehash value changed from'", "basehash value"),
        ("taskhash", "echo 'Bitbake: taskhash mismatch 1' >&2", "taskhash mismatch"),
        (
            "a choice that was omitted",
            "echo \"NOTE: Runtime target 'x' is unbuildable, removing...\"",
            "unbuildable",
        ),
        ("error", "echo 'ERROR: x'", "ERROR:"),
        ("server asked", "echo git:x >cache/bb_persist_data.sqlite3", "asks a server"),
        ("no record of servers", "/bin/rm cache/bb_persist_data.sqlite3", "cannot tell"),
        ("changed meanwhile", ": >TOP/meta/y.bb", "while BitBake ran"),
        ("configuration changed meanwhile", ": >conf/site.conf", "while BitBake ran"),
    ];
    for (name, plan, wanted) in table {
        let mut scene = Scene::new();
        let invocation = scene.invocation(&scene.build());
        scene.order(&plan.replace("TOP", &scene.top.path().display().to_string()));
        scene.ask(&invocation).await.unwrap();
        let why = scene.query_report().await.why.unwrap();
        assert!(why.contains("not stored") && why.contains(wanted), "{name}: {why}");
        assert!(!scene.top.path().join("store/answers").exists(), "{name}");
    }
}

/// Layer code that puts the configuration into the state that a later job will have, and asks for the world without
/// the layer: BitBake itself answers, and its answer is not stored.
#[tokio::test]
async fn what_layer_code_asks_is_not_stored() {
    let mut scene = Scene::new();
    let invocation = scene.invocation(&scene.build());
    let path = scene.build().join("conf/bblayers.conf");
    let honest = fs::read_to_string(&path).unwrap();
    scene.ask_well(&invocation).await;
    scene.query_report().await;
    let table = [
        ("another layer", honest.replace("meta", "meta/scripts"), Vec::new(), "conf/bblayers.conf"),
        ("an option", honest.clone() + "BBFILES ?= \"\"\n", Vec::new(), "conf/bblayers.conf"),
        ("a variable", honest.clone(), vec![("LD_PRELOAD".into(), "/x".into())], "LD_PRELOAD"),
    ];
    for (name, text, more, wanted) in table {
        fs::write(&path, text).unwrap();
        let environment: Vec<(OsString, OsString)> = [scene.environment.clone(), more].concat();
        scene.ask(&Invocation { environment, ..invocation.clone() }).await.unwrap();
        let why = scene.query_report().await.why.unwrap();
        assert!(why.contains("not stored") && why.contains(wanted), "{name}: {why}");
        assert_eq!(fs::read_dir(scene.top.path().join("store/answers")).unwrap().count(), 1, "{name}");
    }
}

/// Layer code may talk to the cache server as well.
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
    // A result, as the shim once sent it.
    let mut stream = scene.connect().await;
    let message = good().encode();
    stream.write_all(&length_of(&message).unwrap()).await.unwrap();
    stream.write_all(&message).await.unwrap();
    assert!(receive(&mut stream).await.is_err(), "nobody asked for a result");
    let silent: Vec<UnixStream> = {
        let mut silent = Vec::new();
        for _ in 0..MAX_CALLERS / 2 {
            silent.push(scene.connect().await);
        }
        silent
    };
    let elsewhere = scene.invocation(Path::new("/"));
    assert_eq!(scene.ask(&elsewhere).await.unwrap(), Reply::Pass);
    let mut other = scene.invocation(&scene.build());
    other.argv = vec!["-e".into()];
    assert_eq!(scene.ask(&other).await.unwrap(), Reply::Pass);
    for strange in [
        Invocation { joined: false, ..scene.invocation(&scene.build()) },
        Invocation { umask: 0, ..scene.invocation(&scene.build()) },
    ] {
        assert_eq!(scene.ask(&strange).await.unwrap(), Reply::Pass);
    }
    scene.ask_well(&scene.invocation(&scene.build())).await;
    drop(silent);
    assert_eq!(scene.server.close().await, ProvenanceSummary::default());
}

/// The tool prints nothing while the agent reads the layers for it.
#[tokio::test]
async fn an_answer_is_activity_of_the_tool() {
    let scene = Scene::new();
    let invocation = scene.invocation(&scene.build());
    scene.ask_well(&invocation).await;
    std::thread::sleep(Duration::from_millis(200));
    assert!(scene.tool.silent() >= Duration::from_millis(200));
    let since = Instant::now();
    // A hit: no BitBake runs that could be heard.
    scene.ask_well(&invocation).await;
    let silent = scene.tool.silent();
    assert!(silent <= since.elapsed() + Duration::from_millis(1), "{silent:?}");
}

/// It is not held in memory: all callers together could promise and send gigabytes.
#[tokio::test]
async fn what_is_too_long_for_a_query_is_not_taken() {
    let scene = Scene::new();
    let invocation = scene.invocation(&scene.build());
    let long = |length: usize| {
        let words = vec!["-S".into(), OsString::from("x".repeat(length))];
        Invocation { argv: words, ..invocation.clone() }
    };
    let rest = long(0).encode().len();
    for (length, is_taken) in [(MAX_QUERY_BYTES, true), (MAX_QUERY_BYTES + 1, false), (64 << 20, false)] {
        let message = long(length - rest).encode();
        assert_eq!(message.len(), length);
        let (mut own, mut other) = UnixStream::pair().unwrap();
        let send = async {
            own.write_all(&length_of(&message).unwrap()).await.unwrap();
            own.write_all(&message).await.unwrap();
        };
        let (taken, ()) = tokio::join!(receive_query(&mut other), send);
        assert_eq!(taken.unwrap(), is_taken.then_some(message), "{length} bytes");
        // The caller starts BitBake itself.
        assert_eq!(scene.ask(&long(length - rest)).await.unwrap(), Reply::Pass, "{length} bytes");
    }
    scene.ask_well(&invocation).await;
}

/// Without a pause it would take a processor until a descriptor is free, and the job needs that.
#[tokio::test]
async fn a_caller_that_the_kernel_does_not_give_is_waited_for() {
    let (mut tries, since) = (0, Instant::now());
    let accept = || {
        tries += 1;
        let emfile = io::Error::from_raw_os_error(nix::errno::Errno::EMFILE as i32);
        std::future::ready(if tries <= 5 { Err(emfile) } else { Ok("caller") })
    };
    assert_eq!(next_caller(accept).await, "caller");
    assert_eq!(tries, 6);
    assert!(since.elapsed() >= ACCEPT_BACKOFF.0 * (1 + 2 + 4 + 8 + 16), "{:?}", since.elapsed());
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_nothing() {
    let mut scene = Scene::new();
    let started = scene.top.path().join("started");
    scene.order(&format!(": >{}; /bin/sleep 600", started.display()));
    let mut stream = scene.connect().await;
    say(&mut stream, &scene.invocation(&scene.build())).await;
    while !started.exists() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(stream);
    assert!(scene.query_report().await.why.unwrap().contains("did not come to its end"));
    assert!(!scene.top.path().join("store/answers").exists());
}
