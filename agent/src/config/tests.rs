//! Whole manifests: what a good one becomes. What is wrong with others: `mistakes_tests`.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use super::*;
use agent_objects::Prices;
use agent_types::error::{Class, Error};

/// 2026-01-02T03:04:05Z
pub fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_045)
}

/// A checkout with files in it.
pub struct Checkout(TempDir);

impl Checkout {
    pub fn new(files: &[(&str, &str)]) -> Checkout {
        let checkout = Checkout(tempfile::tempdir().unwrap());
        fs_err::create_dir(checkout.path().join(".git")).unwrap();
        for (name, text) in files {
            checkout.write(name, text);
        }
        checkout
    }

    pub fn path(&self) -> PathBuf {
        self.0.path().canonicalize().unwrap()
    }

    pub fn write(&self, name: &str, text: &str) {
        let file = self.path().join(name);
        fs_err::create_dir_all(file.parent().unwrap()).unwrap();
        fs_err::write(file, text).unwrap();
    }

    pub fn load_with(&self, request: &Request, variables: &[(&str, &str)]) -> Result<Settings, Error> {
        self.load_in(request, &Checkout::environment(variables))
    }

    pub fn environment(variables: &[(&str, &str)]) -> AgentEnvironment {
        let home = [("HOME", "/home/me")];
        AgentEnvironment::from_map(home.iter().chain(variables).copied())
    }

    pub fn load_in(&self, request: &Request, env: &AgentEnvironment) -> Result<Settings, Error> {
        load(request, env, &self.path(), now()).and_then(Loaded::ready)
    }

    pub fn load(&self, set: &[&str]) -> Result<Settings, Error> {
        let set = set.iter().map(ToString::to_string).collect();
        self.load_with(&Request { set, ..Request::default() }, &[])
    }
}

pub const GOOD: &str = r#"version = 1
name = "meta-x"
release = "scarthgap"

[repos.poky]
url = "https://git.yoctoproject.org/poky"
branch = "scarthgap"
layers = ["meta", "meta-poky"]
"#;

/// GOOD has 8 lines; what is added begins on line 9.
pub fn good_and(more: &str) -> String {
    format!("{GOOD}{more}\n")
}

/// The problems of a manifest as lines; hints follow their problem after ` | `.
pub fn problems(manifest: &str) -> Vec<String> {
    let checkout = Checkout::new(&[("build-agent.toml", manifest)]);
    problems_of(checkout.load(&[]))
}

pub fn problems_of(result: Result<Settings, Error>) -> Vec<String> {
    let error = result.expect_err("it is wrong, and nobody noticed");
    assert_eq!(error.class, Class::Usage, "{error}");
    let text = error.message.replace("\n  hint: ", " | ");
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let count = lines.pop().unwrap();
    let noun = if lines.len() == 1 { "problem" } else { "problems" };
    assert_eq!(count, format!("{} {noun}; nothing was run", lines.len()), "{text}");
    lines
}

#[test]
fn flags_override_any_key() {
    let checkout = Checkout::new(&[("build-agent.toml", GOOD)]);
    let settings = checkout
        .load(&[
            "release=master",
            "repos.poky.branch=2.8",
            "repos.\"my.repo\".url=https://host/x",
            "repos.\"my.repo\".branch=x",
            "build.targets=[\"a\"]",
            "limits.job=1h",
            "artifacts.destination=out",
        ])
        .unwrap();
    assert_eq!(settings.release.name, "master");
    let names: Vec<_> = settings.repos.iter().map(|repo| repo.name.as_str()).collect();
    assert_eq!(names, ["poky", "my.repo"]);
    let RepoSource::Git(poky) = &settings.repos[0].source else { panic!() };
    assert_eq!(poky.wanted, Wanted::Branch("2.8".into()), "no quotes are needed where a string is wanted");
    assert_eq!(settings.build.targets, ["a"]);
    assert_eq!(settings.limits.job, Duration::from_secs(3600));
    assert_eq!(settings.artifacts.destination, Destination::Directory(checkout.path().join("out")));
}

#[test]
fn defaults() {
    let checkout = Checkout::new(&[("build-agent.toml", GOOD)]);
    let settings = checkout.load(&[]).unwrap();
    let top = checkout.path();
    assert_eq!(settings.checkout, top);
    assert_eq!(settings.layers, std::slice::from_ref(&top));
    assert_eq!(settings.config.machines, ["qemux86-64"]);
    assert_eq!(settings.config.distro, "poky");
    assert_eq!(settings.limits.job, Duration::from_secs(4 * 3600));
    assert_eq!(settings.limits.stall, Duration::from_secs(20 * 60));
    assert_eq!(settings.limits.grace, Duration::from_secs(60));
    assert_eq!(settings.limits.log, 2 << 30);
    assert!(settings.check.yocto_check_layer && settings.check.bitbake_layers.is_empty());
    assert_eq!(settings.check.max_parallel_bitbakes, None);
    assert_eq!(settings.paths.work, Path::new("/home/me/.cache/build-agent/meta-x-scarthgap"));
    assert_eq!(settings.paths.out, top.join("build-agent-out"));
    assert_eq!(settings.artifacts.destination, Destination::Directory(top.join("build-agent-out")));
    let (time, chance) = settings.job.build.split_once('-').unwrap();
    assert_eq!((time, chance.len()), ("20260102T030405Z", 8));
    assert_eq!((settings.job.commit, settings.job.dirty), (None, false));
    assert_eq!(settings.job.reproduce, ["build-agent", "run", "build-agent.toml"]);
    assert!(settings.notices.is_empty(), "{:?}", settings.notices);
    let days = |days: u64| Duration::from_secs(days * 86400);
    assert_eq!((settings.cache.downloads_max_age, settings.cache.sstate_max_age), (days(60), days(30)));
    assert_eq!((settings.cache.share, settings.cache.hash_server), (None, HashServer::Off));
    assert_eq!(settings.cache.endpoint_port, 28463);
    assert_eq!(settings.cache.prices, Prices::default());
    let separate = checkout.load(&["repos.poky.layers=[\"meta\"]"]).unwrap();
    assert_eq!(separate.config.distro, "nodistro", "without meta-poky");
}

#[test]
fn the_manifest_of_the_design_is_good() {
    let manifest = r#"
version = 1
name    = "meta-aws"
release = "scarthgap"
[repos.poky]
url    = "https://git.yoctoproject.org/poky"
branch = "scarthgap"
commit = "0123456789abcdef0123456789abcdef01234567"
layers = ["meta", "meta-poky"]
[layer]
paths = ["."]
[config]
machines   = ["qemux86-64"]
distro     = "poky"
local_conf = 'INHERIT += "rm_work"'
[check]
bitbake_layers    = ["show-layers", "show-overlayed", "show-cross-depends"]
yocto_check_layer = true
machines          = []
max_parallel_bitbakes      = 3
known_failures    = "known-failures.toml"
[build]
targets = ["core-image-minimal"]
changed = true
reverse_dependencies = 20
[cache]
share     = "/efs"
access    = "auto"
downloads_max_age = "60d"
sstate_max_age    = "30d"
hash_server       = "off"
endpoint_port     = 20000
prices            = { thousand_writes = 0.01, thousand_reads = 0 }
[artifacts]
destination = "s3://my-bucket/builds"
[[artifacts.rules]]
include  = "tmp/deploy/images/**"
exclude  = ["**/*.testdata.json"]
required = true
[github]
repository   = "aws4embeddedlinux/meta-aws"
token_secret = "build-agent/github"
report       = ["check", "status", "check"]
comment      = "always"
name         = "meta-aws scarthgap (qemux86-64)"
app_id       = 123456
app_key_secret = "build-agent/app-key"
[limits]
job = "4h"
stall = "20m"
grace = "60s"
log = "500MiB"
"#;
    let known = "[[failure]]\ntest = 'test_readme'\nreason = 'x'\nexpires = '2026-01-02'\n";
    let checkout = Checkout::new(&[("build-agent.toml", manifest), ("known-failures.toml", known)]);
    let settings = checkout.load(&[]).unwrap();
    let RepoSource::Git(poky) = &settings.repos[0].source else { panic!() };
    assert!(matches!(&poky.wanted, Wanted::CommitOnBranch { branch, .. } if branch == "scarthgap"));
    assert!(settings.check.known_failures[0].expired, "today is the day");
    assert_eq!(settings.check.max_parallel_bitbakes.map(usize::from), Some(3));
    assert_eq!(settings.limits.log, 500 << 20);
    assert_eq!(settings.cache.endpoint_port, 20000);
    let prices = Prices { thousand_writes: 0.01, thousand_reads: 0.0, ..Prices::default() };
    assert_eq!(settings.cache.prices, prices);
    assert_eq!(
        settings.artifacts.destination,
        Destination::S3 { bucket: "my-bucket".into(), prefix: "builds".into() }
    );
    let github = settings.github.unwrap();
    assert_eq!(github.token_secret.as_deref(), Some("build-agent/github"));
    assert_eq!(github.report, [GitHubReport::Check, GitHubReport::Status]);
    assert_eq!(
        (github.comment, github.name.as_deref()),
        (CommentWhen::Always, Some("meta-aws scarthgap (qemux86-64)"))
    );
    assert_eq!(github.app, Some(GitHubApp { id: "123456".into(), key_secret: "build-agent/app-key".into() }));
    assert!(settings.build.changed);
    assert_eq!(settings.build.reverse_dependencies, ReverseDependencies::AtMost(20));
    assert!(settings.notices[0].contains("the source is not trusted"), "{:?}", settings.notices);
    assert_eq!(settings.notices.len(), 1, "{:?}", settings.notices);
}

#[test]
fn mistakes_of_all_files_are_told_together() {
    let checkout = Checkout::new(&[
        ("build-agent.toml", &good_and("[check]\nknown_failures = 'known.toml'\n[limits]\njob = 'x'")),
        ("known.toml", "[[failure]]\ntest = 'x'\nreason = 'y'\nexpires = 'never'\n"),
        (
            "build-agent.lock",
            "version = 1\n[repos.poky]\nurl = 'https://other/poky'\nbranch = 'scarthgap'\ncommit = 'x'\n",
        ),
    ]);
    let found = problems_of(checkout.load(&[]));
    let wanted = [
        "build-agent.lock:3:7: [repos.poky] url: ",
        "build-agent.lock:5:10: [repos.poky] commit: ",
        "build-agent.toml:12:7: [limits] job: ",
        "known.toml:4:11: [[failure]] expires: ",
    ];
    assert_eq!(found.len(), wanted.len(), "{found:#?}");
    for (found, wanted) in found.iter().zip(wanted) {
        assert!(found.starts_with(wanted), "wanted {wanted}\nfound {found}");
    }
}

#[test]
fn the_lock_pins_unless_it_is_being_made_or_a_flag_says_otherwise() {
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let lock = format!(
        "version = 1\n[repos.poky]\nurl = 'https://git.yoctoproject.org/poky'\nbranch = 'scarthgap'\ncommit = '{commit}'\n"
    );
    let checkout = Checkout::new(&[("build-agent.toml", GOOD), ("build-agent.lock", &lock)]);
    let locked = |settings: &Settings| match &settings.repos[0].source {
        RepoSource::Git(source) => source.locked.clone(),
        RepoSource::Path(_) => panic!(),
    };
    assert_eq!(locked(&checkout.load(&[]).unwrap()).as_deref(), Some(commit));
    let request = Request { ignore_lock: true, ..Request::default() };
    assert_eq!(locked(&checkout.load_with(&request, &[]).unwrap()), None);
    let flagged = checkout.load(&["repos.poky.branch=master"]).unwrap();
    assert_eq!(locked(&flagged), None);
    assert!(flagged.notices[0].contains("build-agent.lock does not pin it"), "{:?}", flagged.notices);
    let env = AgentEnvironment::default();
    let path = lock_path(&Request::default(), &env, &checkout.path()).unwrap();
    assert_eq!(path, checkout.path().join("build-agent.lock"));
}

#[test]
fn a_manifest_below_the_top_speaks_of_its_own_directory() {
    let checkout = Checkout::new(&[("layers/meta-x/build-agent.toml", GOOD)]);
    let request = Request { manifest: Some("layers/meta-x/build-agent.toml".into()), ..Request::default() };
    let settings = checkout.load_with(&request, &[]).unwrap();
    assert_eq!(settings.checkout, checkout.path(), "the top of the work tree");
    assert_eq!(settings.layers, [checkout.path().join("layers/meta-x")]);
    let directory = Request { manifest: Some("layers/meta-x".into()), ..Request::default() };
    assert_eq!(checkout.load_with(&directory, &[]).unwrap().layers, settings.layers);
    checkout.write("layers/meta-x/build-agent.toml", &good_and("[layer]\npaths = ['../../..']"));
    let found = problems_of(checkout.load_with(&request, &[]));
    assert!(found[0].starts_with("layers/meta-x/build-agent.toml:10:10: "), "{found:?}");
}

#[test]
fn a_link_out_of_the_checkout_is_outside() {
    let elsewhere = tempfile::tempdir().unwrap();
    let checkout = Checkout::new(&[("build-agent.toml", &good_and("[layer]\npaths = ['link']"))]);
    fs_err::os::unix::fs::symlink(elsewhere.path(), checkout.path().join("link")).unwrap();
    let found = problems_of(checkout.load(&[]));
    assert!(found[0].contains("link that leads out of the checkout"), "{found:?}");
}

#[test]
fn local_repositories_may_lie_outside_and_must_hold_their_layers() {
    let other = Checkout::new(&[("meta/conf/layer.conf", "")]);
    let path = other.path();
    let repo = |layers: &str| good_and(&format!("[repos.local]\npath = {path:?}\nlayers = {layers}"));
    let checkout = Checkout::new(&[("build-agent.toml", &repo("['meta']"))]);
    let settings = checkout.load(&[]).unwrap();
    assert_eq!(settings.repos[1].source, RepoSource::Path(path.clone()));
    checkout.write("build-agent.toml", &repo("['meta', 'meta-y']"));
    let found = problems_of(checkout.load(&[]));
    assert!(
        found[0].starts_with("build-agent.toml:11:19: [repos.local] layers: `meta-y` is not a layer"),
        "{found:?}"
    );
}

#[test]
fn no_manifest_is_told_with_the_way_out() {
    let checkout = Checkout::new(&[]);
    let error = checkout.load(&[]).unwrap_err();
    assert_eq!(error.class, Class::Usage);
    assert!(error.message.contains("build-agent.toml") && error.hint.unwrap().contains("check LAYER"));
}

#[test]
fn codebuild_names_the_checkout_the_build_and_the_secondary_sources() {
    let checkout = Checkout::new(&[("build-agent.toml", GOOD)]);
    let poky = Checkout::new(&[("meta/conf/layer.conf", ""), ("meta-poky/conf/layer.conf", "")]);
    let elsewhere = tempfile::tempdir().unwrap();
    let (source, secondary) = (checkout.path().display().to_string(), poky.path().display().to_string());
    let env = AgentEnvironment::from_map([
        ("HOME", "/root"),
        ("CODEBUILD_BUILD_ID", "project:0f5d7e0c"),
        ("CODEBUILD_BUILD_NUMBER", "17"),
        ("CODEBUILD_SRC_DIR", &source),
        ("CODEBUILD_SRC_DIR_poky", &secondary),
        ("CODEBUILD_PUBLIC_BUILD_URL", "https://example.org/b"),
        ("CODEBUILD_WEBHOOK_TRIGGER", "nonsense"),
    ]);
    let settings = load(&Request::default(), &env, elsewhere.path(), now()).and_then(Loaded::ready).unwrap();
    assert_eq!(settings.checkout, checkout.path());
    assert_eq!(settings.job.build, "17");
    assert_eq!(settings.job.url.as_deref(), Some("https://example.org/b"));
    assert_eq!(settings.repos[0].source, RepoSource::Path(poky.path()));
    let said = |word: &str| settings.notices.iter().any(|notice| notice.contains(word));
    assert!(said("secondary source `poky`") && said("CODEBUILD_WEBHOOK_TRIGGER"), "{:?}", settings.notices);
    let gone = AgentEnvironment::from_map([("CODEBUILD_SRC_DIR", "/nowhere/at/all")]);
    let error = load(&Request::default(), &gone, elsewhere.path(), now()).unwrap_err();
    assert_eq!(error.class, Class::Machine);
}

#[test]
fn a_manifest_from_elsewhere_speaks_of_the_checkout() {
    let checkout = Checkout::new(&[("meta-x/conf/layer.conf", "")]);
    let text = good_and("[layer]\npaths = ['meta-x']");
    let name = "https://example.org/job.toml".to_owned();
    let request =
        |text: &str| Request { manifest_text: Some((name.clone(), text.to_owned())), ..Request::default() };
    let settings = checkout.load_with(&request(&text), &[]).unwrap();
    assert_eq!(settings.layers, [checkout.path().join("meta-x")]);
    assert_eq!(settings.job.manifest, name);
    let found = problems_of(checkout.load_with(&request("version = 1\n"), &[]));
    assert!(found.iter().all(|line| line.starts_with("https://example.org/job.toml:1:1: ")), "{found:?}");
    assert!(lock_path(&request(&text), &AgentEnvironment::default(), &checkout.path()).is_err());
}

#[test]
fn builds_of_one_second_have_ids_of_their_own() {
    let ids: std::collections::BTreeSet<String> = (0..100).map(|_| super::load::build_id(now())).collect();
    assert_eq!(ids.len(), 100);
    let plain = |id: &String| id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    assert!(ids.iter().all(plain), "{ids:?}");
}

#[test]
fn secrets_of_manifest_and_environment_are_known() {
    let manifest = GOOD.replace("https://git", "https://oauth2:hunter22@git");
    let checkout = Checkout::new(&[("build-agent.toml", &manifest)]);
    let settings = checkout.load_with(&Request::default(), &[("GITHUB_TOKEN", "tokentoken")]).unwrap();
    let values: Vec<_> = settings.secrets.iter().map(|s| (s.origin.as_str(), s.value.as_str())).collect();
    assert_eq!(values, [("variable GITHUB_TOKEN", "tokentoken"), ("[repos.poky] url", "hunter22")]);
}

#[test]
fn checks_and_hooks_are_off_by_default_and_read_as_written() {
    let plain = Checkout::new(&[("build-agent.toml", GOOD)]).load(&[]).unwrap();
    let scopes = |settings: &Settings| [settings.check.oelint, settings.check.patches, settings.check.cve];
    assert_eq!(scopes(&plain), [CheckScope::Off; 3]);
    assert!(plain.hooks.is_empty() && plain.hooks_closed.is_none() && !plain.check.needs_base());
    let text = good_and(
        "[check]\nyocto_check_layer = false\noelint = 'changed'\npatches = 'all'\ncve = 'changed'\n\
         cve_database = '/efs/x.db'\nparse_machines = ['a', 'b']\n\
         [[hooks]]\nargv = ['ci/x.sh', '--all']\nbefore = 'build'\ntimeout = '5m'\n\
         [[hooks]]\nname = 'other'\nargv = ['ci/x.sh']\nafter = 'publish'",
    );
    let settings = Checkout::new(&[("build-agent.toml", &text)]).load(&[]).unwrap();
    assert_eq!(scopes(&settings), [CheckScope::Changed, CheckScope::All, CheckScope::Changed]);
    assert_eq!(settings.check.parse_machines, ["a", "b"]);
    assert_eq!(settings.check.cve_database.as_deref(), Some(Path::new("/efs/x.db")));
    assert!(settings.check.is_wanted() && settings.check.needs_base());
    let [first, second] = &settings.hooks[..] else { panic!("{:?}", settings.hooks) };
    assert_eq!((first.name.as_str(), first.moment.to_string()), ("x.sh", "before build".into()));
    assert_eq!(
        (&first.argv[..], first.timeout),
        (&["ci/x.sh".into(), "--all".into()][..], Some(Duration::from_secs(300)))
    );
    assert_eq!((second.name.as_str(), second.moment.to_string()), ("other", "after publish".into()));
}

/// Hooks run if the source is trusted, or the manifest is not the source's, or a person accepts it.
#[test]
fn hooks_of_an_untrusted_source_do_not_run() {
    let text = good_and("[[hooks]]\nargv = ['true']\nbefore = 'check'");
    let checkout = Checkout::new(&[("build-agent.toml", &text)]);
    let remote = Some(("s3://b/m.toml".to_owned(), text.clone()));
    for (request, open) in [
        (Request::default(), false),
        (Request { trusted: true, ..Request::default() }, true),
        (Request { accept_manifest: true, ..Request::default() }, true),
        (Request { manifest_text: remote, ..Request::default() }, true),
    ] {
        let settings = checkout.load_with(&request, &[]).unwrap();
        assert_eq!(settings.hooks_closed.is_none(), open, "{request:?}");
        let warned = settings.warnings.iter().any(|(warning, _)| warning.contains("no hook runs"));
        assert_eq!(warned, !open, "{request:?}");
        assert_eq!(settings.hooks.len(), 1, "its unit says why it does not run");
    }
}
