//! The stage against repositories in a temporary directory.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use fs_err as fs;

use crate::config::{
    Artifacts, Build, BuildConfig, Cache, ChangeBase, Check, CheckScope, Destination, HashServer, Limits,
    Paths, ReverseDependencies,
};
use agent_git::fixture::{Bench, Upstream, write};
use agent_types::release::Release;
use agent_types::source::Wanted;
use agent_types::tiers::Trust;

use super::*;

/// Settings of a job with these repos, whose checkout under test is `<root>/layer`.
pub(crate) fn settings(bench: &Bench, release: &str, repos: Vec<Repo>) -> Settings {
    let checkout = bench.path("layer");
    fs::create_dir_all(&checkout).unwrap();
    Settings {
        release: Release::find(release).unwrap(),
        job: Default::default(),
        layers: vec![checkout.clone()],
        repos,
        completes_repos: false,
        config: BuildConfig { machines: vec!["m".into()], distro: "poky".into(), ..BuildConfig::default() },
        layer_order: Default::default(),
        templateconf: None,
        buildtools: None,
        check: Check {
            bitbake_layers: Vec::new(),
            yocto_check_layer: true,
            machines: Vec::new(),
            known_failures: Vec::new(),
            templateconf: false,
            parse_machines: Vec::new(),
            oelint: CheckScope::Off,
            patches: CheckScope::Off,
            cve: CheckScope::Off,
            cve_database: None,
            keep_going: false,
            max_parallel_bitbakes: None,
            signature_cache: true,
            prefetch: true,
            write_signatures: false,
        },
        build: Build {
            fetch_only: false,
            targets: Vec::new(),
            changed: false,
            reverse_dependencies: ReverseDependencies::Layer,
            fresh: false,
            keeps_workspace: true,
        },
        test: crate::config::Test::default(),
        device: None,
        change_base: ChangeBase::Previous,
        has_rules_of_base: false,
        cache: Cache {
            downloads: bench.path("d"),
            sstate: bench.path("s"),
            hash_database: bench.path("h"),
            layers: bench.path("layers"),
            trust: Trust::Untrusted { why: String::new(), pull_request: None },
            commit: None,
            share: None,
            downloads_max_age: Duration::from_secs(1),
            sstate_max_age: Duration::from_secs(1),
            hash_server: HashServer::Off,
            prices: Default::default(),
            endpoint_port: 0,
        },
        artifacts: Artifacts {
            destination: Destination::Directory(bench.path("a")),
            rules: Vec::new(),
            kms_key_id: None,
        },
        report: crate::config::Report::default(),
        github: None,
        cost: Default::default(),
        reproduction: Default::default(),
        limits: Limits {
            job: Duration::from_secs(600),
            stall: Duration::from_secs(60),
            grace: Duration::from_secs(1),
            log: 2 << 30,
        },
        hooks: Vec::new(),
        hooks_closed: None,
        paths: Paths {
            work: bench.path("work"),
            caches: bench.path("work"),
            out: checkout.join("build-agent-out"),
        },
        build_user: None,
        machine_share: 1,
        program_path: None,
        network: Vec::new(),
        git_mirrors: Vec::new(),
        recipe_credentials: Vec::new(),
        secrets: Vec::new(),
        notices: Vec::new(),
        warnings: Vec::new(),
        artifacts_closed: None,
        checkout,
    }
}

pub(crate) fn repo(name: &str, source: RepoSource, layers: &[&str]) -> Repo {
    Repo {
        name: name.into(),
        source,
        layers: layers.iter().map(PathBuf::from).collect(),
        patches: Vec::new(),
        signers: Vec::new(),
        submodules: true,
        lfs: true,
    }
}

fn main_of(upstream: &Upstream<'_>) -> RepoSource {
    RepoSource::Git(upstream.source(Wanted::Branch("main".into())))
}

/// Where a repo of the job lies: in the store, by its commit, under its own name.
fn stored(settings: &Settings, checkout: &Checkout, index: usize) -> PathBuf {
    let repo = &checkout.repos[index];
    assert!(repo.path.starts_with(&settings.cache.layers), "{:?}", repo.path);
    assert!(
        repo.path.ends_with(Path::new(repo.commit.as_ref().unwrap()).join(&repo.name)),
        "{:?}",
        repo.path
    );
    repo.path.clone()
}

const POKY: [(&str, &str); 4] = [
    ("bitbake/bin/bitbake", ""),
    ("oe-init-build-env", ""),
    ("meta/conf/layer.conf", "LAYERSERIES_CORENAMES = \"scarthgap\"\n"),
    ("meta-poky/conf/layer.conf", ""),
];

#[tokio::test]
async fn repos_come_into_place_and_bitbake_is_found_in_them() {
    let bench = Bench::new();
    let poky = bench.upstream("poky", &POKY).await;
    let commit = poky.git(&["rev-parse", "HEAD"]).await;
    let local = bench.path("local");
    write(&local.join("conf/layer.conf"), "");
    let repos = vec![
        repo("poky", main_of(&poky), &["meta", "meta-poky"]),
        repo("local", RepoSource::Path(local.clone()), &["."]),
    ];
    let settings = settings(&bench, "scarthgap", repos);
    let checkout = run(&settings, &OpenShare::default(), &bench.runner, &bench.access).await.unwrap();
    let clone = stored(&settings, &checkout, 0);
    assert_eq!(checkout.bitbake, clone.join("bitbake"));
    assert_eq!(checkout.oe_core, clone);
    assert_eq!(checkout.repos[0].layers, [clone.join("meta"), clone.join("meta-poky")]);
    assert_eq!(checkout.repos[0].commit.as_deref(), Some(commit.as_str()));
    let plain = ReadyRepo {
        name: "local".into(),
        path: local.clone(),
        layers: vec![local],
        commit: None,
        is_stored: false,
        shared_entry: None,
    };
    assert_eq!(checkout.repos[1], plain);

    let events = bench.events().await;
    let ready: Vec<_> = events
        .iter()
        .filter_map(|what| match what {
            EventKind::Repo(ready) => Some((ready.name.as_str(), ready.how.as_str())),
            _ => None,
        })
        .collect();
    assert_eq!(ready.len(), 2);
    assert!(ready.contains(&("poky", "cloned")) && ready.contains(&("local", "local")), "{ready:?}");
    let finished =
        |what: &&EventKind| matches!(what, EventKind::UnitFinished { outcome: Outcome::Passed, .. });
    assert_eq!(events.iter().filter(finished).count(), 2);
    look(&settings, &bench.runner).await.unwrap();
    assert!(bench.notices().await.iter().any(|notice| notice.contains("no git commit")));
}

#[tokio::test]
async fn the_parts_of_a_release_may_be_repositories_of_their_own() {
    let bench = Bench::new();
    let bitbake = bench.upstream("bitbake", &[("bin/bitbake", "")]).await;
    let names = "LAYERSERIES_CORENAMES = \"wrynose blacksail\"\n";
    let core = bench.upstream("core", &[("oe-init-build-env", ""), ("meta/conf/layer.conf", names)]).await;
    let repos = vec![repo("bitbake", main_of(&bitbake), &[]), repo("core", main_of(&core), &["meta"])];
    let settings = settings(&bench, "wrynose", repos);
    let checkout = run(&settings, &OpenShare::default(), &bench.runner, &bench.access).await.unwrap();
    assert_eq!(checkout.bitbake, stored(&settings, &checkout, 0));
    assert_eq!(checkout.oe_core, stored(&settings, &checkout, 1));
}

#[tokio::test]
async fn bitbake_nowhere_or_twice_is_the_manifests_fault() {
    let bench = Bench::new();
    let poky = bench.upstream("poky", &POKY).await;
    let core = bench.upstream("core", &[("oe-init-build-env", ""), ("meta/conf/layer.conf", "")]).await;
    for (release, repos, said, hint) in [
        (
            "scarthgap",
            vec![],
            "none of the repos (there are none) holds BitBake",
            "git.yoctoproject.org/poky",
        ),
        (
            "wrynose",
            vec![repo("core", main_of(&core), &[])],
            "none of the repos (core) holds BitBake",
            "branch = \"2.18\"",
        ),
        (
            "scarthgap",
            vec![repo("poky", main_of(&poky), &[]), repo("core", main_of(&core), &[])],
            "more than one source holds OE-Core",
            "keep one",
        ),
    ] {
        let settings = settings(&bench, release, repos);
        let error = run(&settings, &OpenShare::default(), &bench.runner, &bench.access).await.unwrap_err();
        assert_eq!(error.class, Class::Usage);
        assert!(error.message.contains(said), "{error}");
        assert!(error.hint.as_ref().unwrap().contains(hint), "{error}");
    }
    // The same directory by two names is one place.
    let path = || RepoSource::Path(poky.path.clone());
    let twice = settings(&bench, "scarthgap", vec![repo("a", path(), &[]), repo("b", path(), &[])]);
    assert!(run(&twice, &OpenShare::default(), &bench.runner, &bench.access).await.is_ok());
}

#[tokio::test]
async fn oe_core_is_of_the_release_that_the_manifest_names() {
    // release, lines of OE-Core's layer.conf, words of the error
    let table = [
        ("scarthgap", "LAYERSERIES_CORENAMES = \"scarthgap\"", None),
        ("wrynose", "LAYERSERIES_CORENAMES = \"wrynose blacksail\"", None),
        ("master", "LAYERSERIES_CORENAMES = \"wrynose blacksail\"", None),
        ("master", "LAYERSERIES_CORENAMES = \"walnascar\"", None),
        ("kirkstone", "A = \"b\"\nLAYERSERIES_CORENAMES = \"scarthgap\"", Some("OE-Core is scarthgap")),
        ("scarthgap", "LAYERSERIES_CORENAMES = \"wrynose blacksail\"", Some("OE-Core is wrynose, blacksail")),
        ("scarthgap", "", Some("OE-Core names no release")),
        // Only BitBake knows.
        ("kirkstone", "LAYERSERIES_CORENAMES = \"${@name(d)}\"", None),
    ];
    for (release, lines, wanted) in table {
        let bench = Bench::new();
        let poky = bench.path("poky");
        for (file, text) in POKY {
            write(&poky.join(file), if file == "meta/conf/layer.conf" { lines } else { text });
        }
        let repos = vec![repo("poky", RepoSource::Path(poky.clone()), &["meta"])];
        let settings = settings(&bench, release, repos);
        let found = run(&settings, &OpenShare::default(), &bench.runner, &bench.access).await;
        match wanted {
            None => assert!(found.is_ok(), "{release} {lines}: {found:?}"),
            Some(words) => {
                let error = found.unwrap_err();
                assert_eq!(error.class, Class::Usage);
                assert!(error.message.contains(words), "{error}");
                assert!(error.message.contains(&format!("`release` is \"{release}\"")), "{error}");
                assert!(error.hint.is_some());
            }
        }
    }
}

#[tokio::test]
async fn all_mistakes_are_told_at_once_with_what_is_there() {
    let bench = Bench::new();
    let poky = bench.upstream("poky", &POKY).await;
    let repos = vec![
        repo("poky", main_of(&poky), &["meta-pokey", "meta"]),
        repo("away", RepoSource::Path(bench.path("away")), &[]),
    ];
    let settings = settings(&bench, "scarthgap", repos);
    let error = run(&settings, &OpenShare::default(), &bench.runner, &bench.access).await.unwrap_err();
    assert_eq!(error.class, Class::Usage);
    assert!(error.message.contains("no conf/layer.conf in `meta-pokey`"), "{error}");
    assert!(error.hint.as_ref().unwrap().starts_with("layers there are: meta-poky"), "{error}");
    assert!(error.causes[0].contains("`repos.away.path`"), "{error}");
    let not_run =
        |what: &&EventKind| matches!(what, EventKind::UnitFinished { outcome: Outcome::NotRun(_), .. });
    assert_eq!(bench.events().await.iter().filter(not_run).count(), 2);
}

/// As CodePipeline hands it over.
#[tokio::test]
async fn without_git_the_commit_is_the_one_that_codebuild_resolved() {
    let bench = Bench::new();
    let mut settings = settings(&bench, "scarthgap", vec![]);
    write(&settings.checkout.join("conf/layer.conf"), "");
    settings.cache.commit = Some("c".repeat(40));
    let found = look(&settings, &bench.runner).await.unwrap();
    assert_eq!(found, UnderTest { commit: Some("c".repeat(40)), ..UnderTest::default() });
    assert!(bench.notices().await.iter().any(|notice| notice.contains("reports name the build service's")));
    // Where git knows better, it does.
    let layer = bench.upstream("layer", &[("a", "")]).await;
    let head = layer.git(&["rev-parse", "HEAD"]).await;
    assert_eq!(look(&settings, &bench.runner).await.unwrap().commit, Some(head));
}

#[tokio::test]
async fn pointers_of_git_lfs_are_told() {
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n";
    let files = [(".gitattributes", "*.bin filter=lfs\n"), ("a.bin", pointer)];
    let bench = Bench::new();
    let poky = bench.upstream("poky", &[&POKY[..], &files].concat()).await;
    let local = bench.upstream("local", &files).await;
    bench.upstream("layer", &files).await;
    let fetched = Repo { lfs: false, ..repo("poky", main_of(&poky), &["meta"]) };
    let repos = vec![fetched, repo("local", RepoSource::Path(local.path.clone()), &[])];
    let settings = settings(&bench, "scarthgap", repos);
    run(&settings, &OpenShare::default(), &bench.runner, &bench.access).await.unwrap();
    look(&settings, &bench.runner).await.unwrap();
    let notices = bench.notices().await;
    for whose in ["repo poky has Git LFS pointers", "repo local has", "the checkout under test"] {
        let told = |notice: &&String| notice.contains(whose) && notice.contains("`a.bin`");
        assert_eq!(notices.iter().filter(told).count(), 1, "{whose}: {notices:?}");
    }
    // Another job finds it stored, and it still holds pointers.
    run(&settings, &OpenShare::default(), &bench.runner, &bench.access).await.unwrap();
    assert_eq!(bench.notices().await.iter().filter(|notice| notice.starts_with("repo poky")).count(), 2);
}

#[tokio::test]
async fn the_checkout_under_test_is_described() {
    let bench = Bench::new();
    let layer = bench.upstream("layer", &[("conf/layer.conf", "")]).await;
    let commit = layer.git(&["rev-parse", "HEAD"]).await;
    let poky = bench.upstream("poky", &POKY).await;
    let settings = settings(&bench, "scarthgap", vec![repo("poky", main_of(&poky), &[])]);
    write(&settings.paths.out.join("events.jsonl"), "");
    let tree = Some(layer.git(&["rev-parse", "HEAD^{tree}"]).await);
    let mut wanted = UnderTest { commit: Some(commit), tree, dirty: false, branch: Some("main".into()) };
    let found = look(&settings, &bench.runner).await.unwrap();
    assert_eq!(found, wanted);
    write(&layer.path.join("conf/layer.conf"), "changed");
    wanted.dirty = true;
    assert_eq!(look(&settings, &bench.runner).await.unwrap(), wanted);
}
