use std::os::unix::fs::{PermissionsExt, symlink};

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::signature_cache::Key;
use agent_yocto::conf;

/// A build directory, two repositories and a PATH, all small.
struct Scene {
    top: TempDir,
    invocation: Invocation,
    place: Place,
}

impl Scene {
    fn new() -> Scene {
        let top = tempfile::tempdir().unwrap();
        let base = top.path().canonicalize().unwrap();
        for directory in [
            "poky/bitbake/bin",
            "poky/meta/conf",
            "poky/.git/refs",
            "x/meta-x/conf",
            "tools",
            "work",
            "work/out",
        ] {
            fs::create_dir_all(base.join(directory)).unwrap();
        }
        fs::create_dir_all(base.join("work/build/conf")).unwrap();
        fs::create_dir_all(base.join("work/build/cache")).unwrap();
        for (path, text) in [
            ("poky/.git/HEAD", "ref: refs/heads/scarthgap\n"),
            ("poky/bitbake/bin/bitbake", "#!/usr/bin/env python3\n"),
            ("poky/meta/conf/layer.conf", "BBPATH .= \":${LAYERDIR}\"\n"),
            ("poky/meta/zlib_1.0.bb", "A = \"1\"\n"),
            ("x/meta-x/conf/layer.conf", "BBPATH .= \":${LAYERDIR}\"\n"),
            ("x/meta-x/x_1.0.bb", "A = \"1\"\n"),
            ("tools/gcc", "gcc"),
            ("work/build/conf/local.conf", "MACHINE ?= \"qemux86-64\"\n"),
            ("work/build/bitbake.lock", ""),
        ] {
            fs::write(base.join(path), text).unwrap();
        }
        let bblayers = conf::bblayers(&[base.join("poky/meta"), base.join("x/meta-x")]).unwrap();
        fs::write(base.join("work/build/conf/bblayers.conf"), bblayers).unwrap();
        let path = format!("{}:{}", base.join("poky/bitbake/bin").display(), base.join("tools").display());
        let invocation = Invocation {
            argv: ["-S", "none", "world"].map(Into::into).to_vec(),
            cwd: base.join("work/build"),
            umask: 0o22,
            joined: true,
            environment: vec![
                ("PATH".into(), path.into()),
                ("BB_SIGNATURE_HANDLER".into(), "OEBasicHash".into()),
                ("BUILD_AGENT_COMMAND".into(), "1".into()),
            ],
        };
        let invocation =
            safe_directories(invocation, &[&base.join("poky"), Path::new("/codebuild/output/src1/src/x")]);
        let user = User { name: "builder".into(), uid: 1000, gid: 1000, home: "/home/builder".into() };
        let place = Place {
            build: base.join("work/build"),
            bitbake: base.join("poky/bitbake"),
            oe_core: base.join("poky"),
            user,
            own: vec![base.join("work")],
            immutable: Vec::new(),
            replaced: None,
        };
        Scene { top, invocation, place }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.top.path().canonicalize().unwrap().join(path)
    }

    fn write(&self, path: &str, text: &str) {
        fs::write(self.at(path), text).unwrap();
    }

    fn inputs(&self) -> CacheResult<Inputs> {
        collect_at(&self.place.build, &self.place, &self.invocation, &StatCache::default())
    }

    fn key(&self) -> Key {
        self.inputs().unwrap().key()
    }
}

/// As `git::safe_directories` names them.
fn safe_directories(mut invocation: Invocation, directories: &[&Path]) -> Invocation {
    for (number, directory) in directories.iter().enumerate() {
        invocation.environment.push((format!("GIT_CONFIG_KEY_{number}").into(), "safe.directory".into()));
        invocation.environment.push((format!("GIT_CONFIG_VALUE_{number}").into(), directory.into()));
    }
    invocation
}

type Change = fn(&mut Scene);

#[test]
fn any_single_changed_input_changes_the_key() {
    let table: [(&str, Change); 27] = [
        ("a repository that git may not read", |s| {
            let value = s.invocation.environment.iter_mut().find(|(name, _)| name == "GIT_CONFIG_VALUE_0");
            value.unwrap().1 = "/elsewhere".into();
        }),
        ("another setting of git", |s| {
            let key = s.invocation.environment.iter_mut().find(|(name, _)| name == "GIT_CONFIG_KEY_1");
            key.unwrap().1 = "user.name".into();
        }),
        ("words", |s| s.invocation.argv[1] = "lockedsigs".into()),
        ("machine", |s| s.invocation.environment.push(("MACHINE".into(), "qemuarm".into()))),
        ("a value", |s| s.invocation.environment[1].1 = "Other".into()),
        ("an empty variable", |s| s.invocation.environment.push(("X".into(), "".into()))),
        ("umask", |s| s.invocation.umask = 0o77),
        ("streams", |s| s.invocation.joined = false),
        ("user", |s| s.place.user.uid = 1001),
        ("home", |s| s.place.user.home = "/home/other".into()),
        ("local.conf", |s| s.write("work/build/conf/local.conf", "MACHINE ?= \"qemuarm\"\n")),
        ("site.conf", |s| s.write("work/build/conf/site.conf", "")),
        ("auto.conf", |s| s.write("work/build/conf/auto.conf", "X = \"1\"\n")),
        ("multiconfig", |s| {
            fs::create_dir(s.at("work/build/conf/multiconfig")).unwrap();
            s.write("work/build/conf/multiconfig/a.conf", "");
        }),
        ("layers", |s| {
            let only = conf::bblayers(&[s.at("poky/meta")]).unwrap();
            fs::write(s.at("work/build/conf/bblayers.conf"), only).unwrap();
        }),
        ("layers' order", |s| {
            let turned = conf::bblayers(&[s.at("x/meta-x"), s.at("poky/meta")]).unwrap();
            fs::write(s.at("work/build/conf/bblayers.conf"), turned).unwrap();
        }),
        ("recipe", |s| s.write("x/meta-x/x_1.0.bb", "A = \"2\"\n")),
        ("recipe added", |s| s.write("x/meta-x/y_1.0.bb", "")),
        ("recipe removed", |s| fs::remove_file(s.at("x/meta-x/x_1.0.bb")).unwrap()),
        ("core recipe", |s| s.write("poky/meta/zlib_1.0.bb", "A = \"2\"\n")),
        ("layer.conf", |s| s.write("x/meta-x/conf/layer.conf", "BBPATH .= \"\"\n")),
        ("class", |s| s.write("poky/meta/base.bbclass", "")),
        ("BitBake", |s| s.write("poky/bitbake/bin/bitbake", "#!/usr/bin/python3\n")),
        ("branch", |s| s.write("poky/.git/HEAD", "ref: refs/heads/master\n")),
        ("mode", |s| {
            fs::set_permissions(s.at("x/meta-x/x_1.0.bb"), PermissionsExt::from_mode(0o755)).unwrap();
        }),
        ("link", |s| symlink("x_1.0.bb", s.at("x/meta-x/z_1.0.bb")).unwrap()),
        ("host program", |s| s.write("tools/git", "git")),
    ];
    let mut names = Vec::new();
    for (name, change) in table {
        let mut scene = Scene::new();
        let before = scene.inputs().unwrap();
        assert_eq!(before, scene.inputs().unwrap(), "{name}: nothing changed");
        change(&mut scene);
        assert_ne!(scene.key(), before.key(), "{name}");
        names.push(name);
    }
}

/// What becomes of a path below a repository, or a layer in none.
#[derive(Clone, Debug)]
enum Edit {
    Write(PathBuf, &'static str),
    Mode(PathBuf, u32),
    Directory(PathBuf),
    Link(PathBuf, PathBuf),
    Move(PathBuf, PathBuf),
    Remove(PathBuf),
}

impl Edit {
    /// Where it makes no sense, nothing happens.
    fn make(&self, scene: &Scene) {
        let _ = match self {
            Edit::Write(path, text) => fs::write(scene.at("").join(path), text),
            Edit::Mode(path, mode) => {
                let path = scene.at("").join(path);
                if path.is_file() {
                    fs::set_permissions(path, PermissionsExt::from_mode(*mode))
                } else {
                    Ok(())
                }
            }
            Edit::Directory(path) => fs::create_dir(scene.at("").join(path)),
            Edit::Link(path, name) => symlink(name.file_name().unwrap(), scene.at("").join(path)),
            Edit::Move(from, to) => fs::rename(scene.at("").join(from), scene.at("").join(to)),
            Edit::Remove(path) => {
                let path = scene.at("").join(path);
                fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path))
            }
        };
    }
}

fn edit() -> impl Strategy<Value = Edit> {
    let directory = prop_oneof![Just("poky/meta"), Just("x/meta-x"), Just("x/meta-x/sub"), Just("poky")];
    let name = prop_oneof![Just("x_1.0.bb"), Just("zlib_1.0.bb"), Just("z.inc"), Just("sub")];
    let path = (directory, name).prop_map(|(directory, name)| Path::new(directory).join(name)).boxed();
    // Two of the same length: written at once, size and time alone do not tell them apart.
    let text = prop_oneof![Just("A = \"1\"\n"), Just("A = \"2\"\n"), Just("")];
    prop_oneof![
        4 => (path.clone(), text).prop_map(|(path, text)| Edit::Write(path, text)),
        1 => (path.clone(), prop_oneof![Just(0o644), Just(0o755)]).prop_map(|(path, mode)| Edit::Mode(path, mode)),
        1 => path.clone().prop_map(Edit::Directory),
        1 => (path.clone(), path.clone()).prop_map(|(path, name)| Edit::Link(path, name)),
        2 => (path.clone(), path.clone()).prop_map(|(from, to)| Edit::Move(from, to)),
        1 => path.prop_map(Edit::Remove),
    ]
}

/// All that is in the repositories: names, modes, and contents or targets.
fn files(scene: &Scene) -> Vec<(PathBuf, u32, Vec<u8>)> {
    let mut files = Vec::new();
    for repository in ["poky", "x/meta-x"] {
        for entry in walkdir::WalkDir::new(scene.at(repository)).sort_by_file_name() {
            let entry = entry.unwrap();
            let content = if entry.file_type().is_symlink() {
                fs::read_link(entry.path()).unwrap().into_os_string().into_encoded_bytes()
            } else if entry.file_type().is_file() {
                fs::read(entry.path()).unwrap()
            } else {
                Vec::new()
            };
            files.push((entry.path().to_owned(), entry.metadata().unwrap().permissions().mode(), content));
        }
    }
    files
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// With the digests that were remembered on the way.
    #[test]
    fn two_keys_are_the_same_exactly_when_all_files_are(edits in proptest::collection::vec(edit(), 1..16)) {
        let scene = Scene::new();
        let cache = StatCache::default();
        let mut seen: Vec<(_, Key)> = Vec::new();
        for edit in edits {
            let Ok(inputs) = collect_at(&scene.place.build, &scene.place, &scene.invocation, &cache) else {
                // A link that leads nowhere, a list of layers that is not there.
                edit.make(&scene);
                continue;
            };
            let (files, key) = (files(&scene), inputs.key());
            for (other_files, other_key) in &seen {
                prop_assert_eq!(*other_files == files, *other_key == key, "{:#?}\n{:#?}", other_files, files);
            }
            seen.push((files, key));
            edit.make(&scene);
        }
    }
}

/// The same files elsewhere are other inputs: paths enter signatures.
#[test]
fn another_place_is_another_key() {
    assert_ne!(Scene::new().key(), Scene::new().key());
}

#[test]
fn what_says_nothing_about_a_build_changes_nothing() {
    let table: [(&str, Change); 6] = [
        ("a foreign directory that git may read", |s| {
            // The second of three lies elsewhere.
            let value = s.invocation.environment.iter_mut().find(|(name, _)| name == "GIT_CONFIG_VALUE_1");
            value.unwrap().1 = "/codebuild/output/src2/src/x".into();
        }),
        ("marker", |s| s.invocation.environment[2].1 = "2".into()),
        ("order of variables", |s| s.invocation.environment.reverse()),
        ("the agent's own", |s| s.write("work/out/log", "")),
        ("BitBake's own", |s| s.write("work/build/cache/bb_cache.dat", "x")),
        ("byte code", |s| s.write("poky/meta/x.pyc", "x")),
    ];
    for (name, change) in table {
        let mut scene = Scene::new();
        let before = scene.key();
        change(&mut scene);
        assert_eq!(scene.key(), before, "{name}");
    }
}

#[test]
fn what_no_key_covers_is_refused() {
    let table: [(&str, Change); 15] = [
        ("a variable twice", |s| s.invocation.environment.push(("PATH".into(), "/elsewhere".into()))),
        ("another directory", |s| s.invocation.cwd = s.at("work")),
        ("no PATH", |s| drop(s.invocation.environment.remove(0))),
        ("absolute include", |s| s.write("work/build/conf/site.conf", "require /etc/passwd\n")),
        ("include that is not there", |s| s.write("work/build/conf/site.conf", "include /nowhere/x.conf\n")),
        ("include from home", |s| s.write("work/build/conf/local.conf", "include ${HOME}/x.conf\n")),
        ("path in a value", |s| s.write("work/build/conf/local.conf", "X = \"/etc/passwd\"\n")),
        ("linked configuration", |s| symlink("/etc/passwd", s.at("work/build/conf/site.conf")).unwrap()),
        ("classes in the build directory", |s| fs::create_dir(s.at("work/build/classes")).unwrap()),
        ("odd bblayers.conf", |s| s.write("work/build/conf/bblayers.conf", "BBLAYERS:append = \" /x\"\n")),
        ("no bblayers.conf", |s| fs::remove_file(s.at("work/build/conf/bblayers.conf")).unwrap()),
        ("layer that is not there", |s| fs::rename(s.at("x"), s.at("y")).unwrap()),
        ("recipe that reaches out", |s| s.write("x/meta-x/x_1.0.bb", "require /elsewhere/x.inc\n")),
        ("link out of a layer", |s| symlink("/etc", s.at("x/meta-x/files")).unwrap()),
        ("pipe in conf", |s| {
            nix::unistd::mkfifo(&s.at("work/build/conf/x.conf"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        }),
    ];
    for (name, change) in table {
        let mut scene = Scene::new();
        change(&mut scene);
        assert!(scene.inputs().is_err(), "{name}");
    }
    let scene = Scene::new();
    let own = format!("DL_DIR ?= \"{}\"\nBBMASK = \"/meta/x\"\n", scene.at("work/build/cache").display());
    scene.write("work/build/conf/local.conf", &own);
    scene.inputs().unwrap();
}

#[test]
fn a_directory_that_bitbake_makes_for_itself_is_no_change() {
    let scene = Scene::new();
    let own = format!("DL_DIR ?= \"{}\"\n", scene.at("work/build/downloads").display());
    scene.write("work/build/conf/local.conf", &own);
    let before = scene.key();
    fs::create_dir(scene.at("work/build/downloads")).unwrap();
    assert_eq!(scene.key(), before);
    fs::remove_dir(scene.at("work/build/downloads")).unwrap();
    symlink("cache", scene.at("work/build/downloads")).unwrap();
    assert_ne!(scene.key(), before, "a link is nothing that it makes");
}

/// The work directory may lie in the checkout, with the repositories in it.
#[test]
fn repositories_in_a_skipped_directory_count() {
    let mut scene = Scene::new();
    fs::create_dir_all(scene.at("x/.git/refs")).unwrap();
    scene.write("x/.git/HEAD", "0123\n");
    fs::create_dir_all(scene.at("x/work/repos/meta-y/conf")).unwrap();
    scene.write("x/work/repos/meta-y/conf/layer.conf", "");
    scene.place.own = vec![scene.at("x/work")];
    let layers = [scene.at("poky/meta"), scene.at("x/meta-x"), scene.at("x/work/repos/meta-y")];
    // Not a repository of its own, so that its root is the checkout that skips it.
    let text = conf::bblayers(&layers).unwrap();
    fs::write(scene.at("work/build/conf/bblayers.conf"), text).unwrap();
    let before = scene.key();
    scene.write("x/work/repos/meta-y/conf/layer.conf", "X = \"1\"\n");
    assert_ne!(scene.key(), before);
}

/// Builds see checkouts through links that stay where they are.
#[test]
fn layers_behind_links_count_as_what_they_are() {
    let scene = Scene::new();
    fs::create_dir(scene.at("work/repos")).unwrap();
    let link = scene.at("work/repos/x");
    symlink("../../x", &link).unwrap();
    let layers = [scene.at("poky/meta"), link.join("meta-x")];
    fs::write(scene.at("work/build/conf/bblayers.conf"), conf::bblayers(&layers).unwrap()).unwrap();
    let before = scene.key();
    scene.write("x/meta-x/x_1.0.bb", "A = \"2\"\n");
    let changed = scene.key();
    assert_ne!(changed, before);
    // The same files at another place.
    fs::rename(scene.at("x"), scene.at("z")).unwrap();
    fs::remove_file(&link).unwrap();
    symlink("../../z", &link).unwrap();
    assert_ne!(scene.key(), changed);
}

#[test]
fn only_checkouts_that_never_change_are_read_once() {
    let mut scene = Scene::new();
    let cache = StatCache::default();
    let key = |scene: &Scene| {
        collect_at(&scene.place.build, &scene.place, &scene.invocation, &cache).unwrap().key()
    };
    scene.place.immutable = vec![scene.at("poky")];
    let before = key(&scene);
    scene.write("poky/meta/zlib_1.0.bb", "A = \"2\"\n");
    assert_eq!(key(&scene), before);
    scene.write("x/meta-x/x_1.0.bb", "A = \"2\"\n");
    assert_ne!(key(&scene), before);
}

/// Going on after errors changes nothing where there is none.
#[test]
fn an_answer_with_and_without_k_is_the_same() {
    let mut scene = Scene::new();
    let key = scene.key();
    scene.invocation.argv.insert(0, "-k".into());
    assert_eq!(scene.key(), key);
    scene.invocation.argv.insert(0, "-k".into());
    assert_ne!(scene.key(), key);
}
