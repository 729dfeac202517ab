use std::fs;

use tempfile::TempDir;

use super::*;

const LIST: &str = "BB_ENV_PASSTHROUGH_ADDITIONS";

/// A check of the layer `x` over `core`, and a query in it.
struct Scene {
    top: TempDir,
    admission: Admission,
    invocation: Invocation,
}

impl Scene {
    fn new() -> Scene {
        let top = tempfile::tempdir().unwrap();
        let at = |path: &str| top.path().canonicalize().unwrap().join(path);
        for directory in ["core", "x", "dep", "other", "build/conf", "oe/scripts/lib/checklayer"] {
            fs::create_dir_all(at(directory)).unwrap();
        }
        fs::write(
            at("oe/scripts/lib/checklayer/__init__.py"),
            format!("cmd += 'bitbake -S lockedsigs world'\n{ADDS}"),
        )
        .unwrap();
        let bblayers = format!("BBLAYERS ?= \"{}\"\n", at("core").display());
        let conf = WrittenConf { bblayers, local: "A = \"1\"\n".into() };
        let given = [("PATH", "/bin"), (LIST, "HOME SSH")];
        let admission = Admission {
            layer: at("x"),
            conf: conf.clone(),
            may_add: BTreeSet::from([at("x"), at("dep")]),
            environment: given.map(|(name, value)| (name.into(), value.into())).into(),
            oe_core: at("oe"),
            machines: vec!["qemux86".into()],
            trees: BTreeMap::from([("files of /x".into(), Digest::of(b"1"))]),
            ..Admission::default()
        };
        let mut environment: Vec<(OsString, OsString)> = admission.environment.clone().into_iter().collect();
        environment.push(("BB_SIGNATURE_HANDLER".into(), "OEBasicHash".into()));
        let argv = ["-S", "lockedsigs", "world"].map(Into::into).to_vec();
        let invocation = Invocation { argv, cwd: at("build"), umask: 0o22, joined: true, environment };
        fs::write(at("build/conf/bblayers.conf"), &conf.bblayers).unwrap();
        fs::write(at("build/conf/local.conf"), &conf.local).unwrap();
        Scene { top, admission, invocation }
    }

    fn at(&self, path: &str) -> PathBuf {
        self.top.path().canonicalize().unwrap().join(path)
    }

    fn add(&self, layer: &str) {
        let path = self.at("build/conf/bblayers.conf");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, format!("{text}\nBBLAYERS += \"{}\"\n", self.at(layer).display())).unwrap();
    }

    fn set(&mut self, name: &str, value: &str) {
        self.invocation.environment.retain(|(known, _)| known != name);
        self.invocation.environment.push((name.into(), value.into()));
    }

    fn check(&self, is_first: bool) -> CacheResult<()> {
        let mut inputs = Inputs::default();
        for entry in fs::read_dir(self.at("build/conf")).unwrap().map(Result::unwrap) {
            let name = format!("conf/{}", entry.file_name().to_string_lossy());
            inputs.add(name, &fs::read(entry.path()).unwrap());
        }
        inputs.add("files of /x", b"1");
        self.admission.check(is_first, &self.at("build"), &self.invocation, &inputs)
    }
}

type Change = fn(&mut Scene);

/// What yocto-check-layer asks itself.
#[test]
fn honest_queries_are_admitted() {
    let table: [(&str, bool, Change); 7] = [
        ("the first", true, |_| {}),
        ("with a dependency", true, |s| s.add("dep")),
        ("with the layer", false, |s| s.add("x")),
        ("the copy of the configuration", false, |s| {
            s.add("x");
            let text = s.admission.conf.bblayers.clone();
            fs::write(s.at("build/conf/bblayers.conf.backup"), text).unwrap();
        }),
        ("the class", false, |s| {
            s.add("x");
            s.set(LIST, "HOME SSH BB_SIGNATURE_HANDLER INHERIT");
            s.set("INHERIT", "yocto-check-layer");
        }),
        ("a machine, through a shell", false, |s| {
            s.add("x");
            s.set("MACHINE", "qemux86");
            let build = s.invocation.cwd.display().to_string();
            s.set("PWD", &build);
            s.set("SHLVL", "1");
            s.set("_", "/p/bin/bitbake");
        }),
        ("code in layer.conf of the layer itself, which is part of the query", false, |s| {
            s.admission.runs_early = vec![(s.at("x"), "line 1".into())];
            s.add("x");
        }),
    ];
    for (name, is_first, change) in table {
        let mut scene = Scene::new();
        change(&mut scene);
        assert_eq!(scene.check(is_first), Ok(()), "{name}");
    }
}

/// What layer code could ask.
#[test]
fn everything_else_is_refused() {
    let part = "not part of the query";
    let conf = "is not as the agent and yocto-check-layer write it";
    let variable = "is not as yocto-check-layer sets it";
    let table: [(&str, bool, Change, &str); 17] = [
        ("without the layer, later", false, |_| {}, part),
        ("with a dependency alone", false, |s| s.add("dep"), part),
        (
            "a layer that nobody named",
            false,
            |s| {
                s.add("x");
                s.add("other")
            },
            conf,
        ),
        ("another local.conf", true, |s| fs::write(s.at("build/conf/local.conf"), "B = 1").unwrap(), conf),
        ("a third file", true, |s| fs::write(s.at("build/conf/auto.conf"), "").unwrap(), conf),
        ("another copy", true, |s| fs::write(s.at("build/conf/bblayers.conf.backup"), "").unwrap(), conf),
        (
            "a line of its own",
            false,
            |s| {
                s.add("x");
                let path = s.at("build/conf/bblayers.conf");
                let text = fs::read_to_string(&path).unwrap();
                fs::write(path, text + "BBFILES ?= \"\"\n").unwrap();
            },
            conf,
        ),
        (
            "the agent's part changed",
            false,
            |s| {
                fs::write(
                    s.at("build/conf/bblayers.conf"),
                    format!("BBLAYERS = \"{}\"\n", s.at("x").display()),
                )
                .unwrap();
            },
            conf,
        ),
        ("a variable", true, |s| s.set("LD_PRELOAD", "/tmp/x.so"), variable),
        ("another value", true, |s| s.set("PATH", "/tmp"), variable),
        ("more let through", true, |s| s.set(LIST, "HOME SSH BBPATH"), variable),
        ("another machine", true, |s| s.set("MACHINE", "mine"), variable),
        ("another class", true, |s| s.set("INHERIT", "mine"), variable),
        ("one less", true, |s| s.invocation.environment.retain(|(name, _)| name != "PATH"), "is missing"),
        (
            "code before the first query",
            true,
            |s| {
                s.admission.runs_early = vec![(s.at("x"), "line 1".into())];
            },
            "runs code before the first query (line 1)",
        ),
        (
            "not alone",
            false,
            |s| {
                s.admission.not_alone = Some("something ran".into());
                s.add("x");
            },
            "something ran",
        ),
        (
            "another version of the layer",
            false,
            |s| {
                s.admission.trees = BTreeMap::from([("files of /x".into(), Digest::of(b"2"))]);
                s.add("x");
            },
            "changed since the job began",
        ),
    ];
    for (name, is_first, change, wanted) in table {
        let mut scene = Scene::new();
        change(&mut scene);
        let reason = scene.check(is_first).expect_err(name);
        assert!(reason.0.contains(wanted), "{name}: {reason}");
    }
    let scene = Scene::new();
    fs::write(scene.at("oe/scripts/lib/checklayer/__init__.py"), "").unwrap();
    assert!(scene.check(true).is_err(), "a tool that asks in another way");
}

#[test]
fn code_in_layer_conf_is_found() {
    let quiet = [
        "",
        "# a comment with ${@x} and an e-mail@address\nBBPATH .= \":${LAYERDIR}\"\n",
        "BBFILES += \"${LAYERDIR}/recipes-*/*/*.bb \\\n    ${LAYERDIR}/x.bbappend\"\nLAYERDEPENDS_x = 'core'\n",
        "BBFILE_PATTERN_x := \"^${LAYERDIR}/\"\nINHERIT += \"sanity-x\"\nA[vardeps] = \"B\"\nA:append:b = \" c\"\n",
        // meta-aws
        "BBFILES += \"${@bb.utils.contains(\"G\", \"Y\", \"${LAYERDIR}/x.bb\", \"\", d)}\"\n\
         BBFILES += \"${@' '.join('${LAYERDIR}/%s/*.bb' % layer \\\n  for layer in BBFILE_COLLECTIONS.split())}\"\n\
         LICENSE_PATH += \"${LAYERDIR}/licenses\"\n",
        "A = \"${${B}}\"\n",
    ];
    for text in quiet {
        assert_eq!(runs_code(text), None, "{text}");
    }
    let table = [
        ("LAYERDEPENDS_x = \"${@f()}\"\n", 1),
        ("\nBBFILES := \"${@f()}\"\n", 2),
        ("A = \"1\"\nrequire x.inc\n", 2),
        ("include conf/${A}.inc\n", 1),
        ("addpylib ${LAYERDIR}/lib x\n", 1),
        ("inherit x\n", 1),
        ("python () {\n", 1),
        ("def f(d):\n", 1),
        ("BBFILES = \"${@f()}\"\nLAYERDEPENDS_x = \"${BBFILES}\"\n", 2),
        ("BBFILES = \"${@f()}\"\nB = \"BBF\"\nLAYERDEPENDS_x = \"${${B}ILES}\"\n", 3),
        ("BBFILES = \"${@f()}\"\nB = \"$\"\nC = \"${B}{x}\"\n", 2),
        ("B = \"$\"\nC = \"${B}{@f()}\"\n", 2),
        ("A_${@f()} = \"1\"\n", 1),
        ("A = \"1\" \\\n# B \\\nC = \"${@f()}\"\n", 2),
        ("# A \\\nB = \"1\"\n", 1),
        ("A[f()] = 1\n", 1),
    ];
    for (text, line) in table {
        assert_eq!(runs_code(text), Some(format!("line {line}")), "{text}");
    }
}
