//! The store of one machine against repositories in a temporary directory.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::ffi::OsStr;
use std::fs::Permissions;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use fs_err as fs;
use walkdir::WalkDir;

use crate::config::GitSource;
use agent_git::fixture::{Bench, Upstream, write};
use agent_types::tiers::Tiers;

use super::*;

/// Somebody else than the agent, so that entries are safe from layer code.
pub(super) fn other() -> Option<User> {
    Some(User { name: "other".into(), uid: 65_432, gid: 65_432, home: "/".into() })
}

/// The two situations: layer code runs as the agent's own user, and as somebody else.
fn users() -> [Option<User>; 2] {
    [None, other()]
}

pub(super) fn main_of(up: &Upstream<'_>) -> GitSource {
    up.source(Wanted::Branch("main".into()))
}

pub(super) async fn pinned(up: &Upstream<'_>) -> GitSource {
    GitSource { locked: Some(up.git(&["rev-parse", "HEAD"]).await), ..main_of(up) }
}

pub(super) async fn two_files(bench: &Bench) -> Upstream<'_> {
    bench.upstream("up", &[("conf/layer.conf", "one\n"), ("README", "read\n")]).await
}

/// One job's checkout of one repo, with the local store `<bench>/<machine>`.
pub(super) async fn job(
    bench: &Bench,
    machine: &str,
    tiers: &Tiers,
    user: Option<User>,
    source: &GitSource,
) -> (Result<ResolvedRepo>, Traffic) {
    let share = OpenShare { tiers: tiers.clone(), ..OpenShare::default() };
    job_with(bench, machine, &share, user, source).await
}

pub(super) async fn job_with(
    bench: &Bench,
    machine: &str,
    share: &OpenShare,
    user: Option<User>,
    source: &GitSource,
) -> (Result<ResolvedRepo>, Traffic) {
    let stores = Stores::new(bench.path(machine), share, user).unwrap();
    let obtained = stores.obtain(&bench.runner, &bench.access, "x", source).await;
    (obtained, stores.into_traffic())
}

pub(super) async fn get(bench: &Bench, user: Option<User>, source: &GitSource) -> Result<ResolvedRepo> {
    job(bench, "layers", &Tiers::default(), user, source).await.0
}

/// All below a directory: name, mode, size, time and inode.
pub(super) fn state(top: &Path) -> Vec<String> {
    let walk = WalkDir::new(top).sort_by_file_name().into_iter().map(|entry| entry.unwrap());
    walk.map(|entry| {
        let meta = entry.metadata().unwrap();
        format!("{:?} {:o} {} {:?} {}", entry.path(), meta.mode(), meta.len(), meta.modified(), meta.ino())
    })
    .collect()
}

/// Names of unfinished entries.
pub(super) fn parts(store: &Path) -> usize {
    WalkDir::new(store)
        .into_iter()
        .flatten()
        .filter(|entry| entry.path().extension() == Some(OsStr::new("part")))
        .count()
}

/// Changes a sealed entry and seals it again.
pub(super) fn change(directory: &Path, how: impl FnOnce(&Path)) {
    let each = |mode: fn(&std::fs::Metadata) -> u32, leaves_first: bool| {
        for entry in
            WalkDir::new(directory).contents_first(leaves_first).into_iter().map(|entry| entry.unwrap())
        {
            let meta = entry.metadata().unwrap();
            if meta.is_dir() || meta.is_file() {
                fs::set_permissions(entry.path(), Permissions::from_mode(mode(&meta))).unwrap();
            }
        }
    };
    each(|meta| meta.mode() | 0o200, false);
    how(directory);
    if directory.is_dir() && !directory.is_symlink() {
        each(|meta| if meta.is_dir() || meta.mode() & 0o100 != 0 { 0o555 } else { 0o444 }, true);
    }
}

#[tokio::test]
async fn a_commit_lies_at_one_place_and_never_changes() {
    for user in users() {
        let bench = Bench::new();
        let up = two_files(&bench).await;
        let source = main_of(&up);
        let first = get(&bench, user.clone(), &source).await.unwrap();
        assert_eq!((first.how, first.is_shared), (Origin::Cloned, false));
        assert_eq!(fs::read_to_string(first.entry.tree().join("README")).unwrap(), "read\n");
        let before = state(&first.entry.directory());
        let writable = |line: &String| {
            line.split(' ').nth(1).is_some_and(|mode| {
                !mode.starts_with("12") && u32::from_str_radix(mode, 8).unwrap() & 0o222 != 0
            })
        };
        assert!(!before.iter().any(writable), "{before:#?}");

        let again = get(&bench, user.clone(), &source).await.unwrap();
        assert_eq!((again.how, again.entry.tree()), (Origin::Stored, first.entry.tree()));
        up.commit(&[("README", "other\n")]).await;
        let second = get(&bench, user.clone(), &source).await.unwrap();
        assert_eq!(second.how, Origin::Cloned);
        assert_eq!(fs::read_to_string(second.entry.tree().join("README")).unwrap(), "other\n");
        up.git(&["reset", "-q", "--hard", "HEAD~1"]).await;
        let back = get(&bench, user, &source).await.unwrap();
        assert_eq!((back.how, back.entry.tree()), (Origin::Stored, first.entry.tree()));
        assert_eq!(state(&first.entry.directory()), before);
        assert_eq!(parts(&bench.path("layers")), 0);
    }
}

#[tokio::test]
async fn a_stored_commit_needs_no_server_and_a_branch_does() {
    let bench = Bench::new();
    let up = two_files(&bench).await;
    let source = pinned(&up).await;
    get(&bench, other(), &source).await.unwrap();
    fs::remove_dir_all(&up.path).unwrap();
    assert_eq!(get(&bench, other(), &source).await.unwrap().how, Origin::Stored);
    let error = get(&bench, other(), &main_of(&up)).await.unwrap_err();
    assert_eq!(error.class, Class::Upstream, "{error}");
    // A commit that is not there leaves nothing behind, and the rest as it was.
    let missing = GitSource { locked: Some("1".repeat(40)), ..source.clone() };
    assert!(get(&bench, other(), &missing).await.is_err());
    assert_eq!(parts(&bench.path("layers")), 0);
    assert_eq!(get(&bench, other(), &source).await.unwrap().how, Origin::Stored);
}

pub(super) type Harm = (&'static str, fn(&Path));

/// What may have happened to an entry. The path is the work tree.
pub(super) const HARM: [Harm; 24] = [
    ("a changed byte", |tree| fs::write(tree.join("README"), "daer\n").unwrap()),
    ("a file more", |tree| fs::write(tree.join("conf/site.conf"), "").unwrap()),
    ("a byte-code file", |tree| write(&tree.join("lib/__pycache__/a.pyc"), "")),
    ("an empty directory", |tree| fs::create_dir(tree.join("empty")).unwrap()),
    ("a nested repository", |tree| write(&tree.join("conf/.git/config"), "")),
    ("a file less", |tree| fs::remove_file(tree.join("README")).unwrap()),
    ("another name", |tree| fs::rename(tree.join("README"), tree.join("readme")).unwrap()),
    ("executable", |tree| fs::set_permissions(tree.join("README"), Permissions::from_mode(0o755)).unwrap()),
    ("a link for a file", |tree| {
        fs::rename(tree.join("README"), tree.with_file_name("README")).unwrap();
        symlink("../README", tree.join("README")).unwrap();
    }),
    ("a pipe for a file", |tree| {
        fs::remove_file(tree.join("README")).unwrap();
        nix::unistd::mkfifo(&tree.join("README"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    }),
    ("a broken pack", |tree| flip(&file_of(tree, "pack"), 20)),
    ("a broken pack index", |tree| flip(&file_of(tree, "idx"), 1100)),
    ("no pack", |tree| fs::remove_file(file_of(tree, "pack")).unwrap()),
    ("a broken index", |tree| flip(&tree.join(".git/index"), 40)),
    ("no index", |tree| fs::remove_file(tree.join(".git/index")).unwrap()),
    ("HEAD elsewhere", |tree| fs::write(tree.join(".git/HEAD"), "ref: refs/heads/main\n").unwrap()),
    ("a reference", |tree| fs::write(tree.join(".git/refs/replace"), "").unwrap()),
    ("a hook", |tree| write(&tree.join(".git/hooks/post-checkout"), "#!/bin/sh\ntouch PROOF\n")),
    ("other objects", |tree| write(&tree.join(".git/objects/info/alternates"), "/tmp\n")),
    ("attributes", |tree| write(&tree.join(".git/info/attributes"), "* filter=x\n")),
    ("commands in the configuration", |tree| {
        let proof = tree.ancestors().nth(4).unwrap().join("proof");
        let run = format!("touch {}", proof.display());
        let text =
            format!("[core]\n\tfsmonitor = {run}\n\tsshCommand = {run}\n[filter \"x\"]\n\tclean = {run}\n");
        fs::write(tree.join(".git/config"), text).unwrap();
    }),
    ("git elsewhere", |tree| {
        fs::rename(tree.join(".git"), tree.with_file_name("git")).unwrap();
        fs::write(tree.join(".git"), "gitdir: ../git\n").unwrap();
    }),
    ("git by a link", |tree| {
        fs::rename(tree.join(".git"), tree.with_file_name("git")).unwrap();
        symlink("../git", tree.join(".git")).unwrap();
    }),
    ("no record", |tree| fs::remove_file(tree.with_file_name("entry.json")).unwrap()),
];

/// Git's file with this end.
fn file_of(tree: &Path, end: &str) -> PathBuf {
    let packs = fs::read_dir(tree.join(".git/objects/pack")).unwrap().map(|entry| entry.unwrap().path());
    packs.into_iter().find(|path| path.extension() == Some(OsStr::new(end))).unwrap()
}

fn flip(path: &Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[tokio::test]
async fn whatever_happened_to_an_entry_it_is_found_and_made_anew() {
    let bench = Bench::new();
    let up = two_files(&bench).await;
    let source = pinned(&up).await;
    let users = users();
    for (number, (name, harm)) in HARM.into_iter().enumerate() {
        let user = &users[number % users.len()];
        let entry = get(&bench, user.clone(), &source).await.unwrap().entry;
        change(&entry.directory(), |_| harm(&entry.tree()));
        let mended =
            get(&bench, user.clone(), &source).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((mended.how, mended.entry.tree()), (Origin::Cloned, entry.tree()), "{name}");
        assert_eq!(fs::read_to_string(entry.tree().join("README")).unwrap(), "read\n", "{name}");
        let notices = bench.notices().await;
        let told = notices.iter().filter(|notice| notice.contains("is damaged and is made again")).count();
        assert_eq!(told, number + 1, "{name}: {notices:#?}");
    }
    assert_eq!(get(&bench, other(), &source).await.unwrap().how, Origin::Stored);
    assert!(!bench.path("proof").exists(), "nothing of an entry is run");
    assert_eq!(parts(&bench.path("layers")), 0);
}

/// Not sealed again: the modes are the harm.
#[tokio::test]
async fn an_entry_that_could_be_written_or_is_a_link_is_made_anew() {
    let bench = Bench::new();
    let up = two_files(&bench).await;
    let source = pinned(&up).await;
    let open = |path: PathBuf, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    for (below, mode) in
        [("", 0o755), ("up", 0o755), ("up/README", 0o644), ("up/conf", 0o777), ("up/.git/HEAD", 0o664)]
    {
        let entry = get(&bench, other(), &source).await.unwrap().entry;
        open(entry.directory().join(below), mode);
        assert_eq!(get(&bench, other(), &source).await.unwrap().how, Origin::Cloned, "{below}");
    }
    let entry = get(&bench, other(), &source).await.unwrap().entry;
    open(entry.directory(), 0o755);
    fs::rename(entry.directory(), bench.path("away")).unwrap();
    symlink(bench.path("away"), entry.directory()).unwrap();
    assert_eq!(get(&bench, other(), &source).await.unwrap().how, Origin::Cloned);
    assert!(bench.path("away/up/README").exists(), "what a link points to is left alone");
}

/// Layer code that could write an entry could write its record as well.
#[tokio::test]
async fn a_forged_record_does_not_help_where_only_the_commit_is_believed() {
    type Forge = fn(&mut serde_json::Value, &[String; 3]);
    let forges: [Forge; 2] = [
        // The file is said to be one that attributes change.
        |record, [right, wrong, _]| {
            record["altered"] = serde_json::json!({ "README": { "committed": right, "written": wrong } });
        },
        // The commit's text is said not to be known, so that any tree will do.
        |record, [_, _, tree]| {
            record.as_object_mut().unwrap().remove("object");
            record["tree"] = tree.as_str().into();
        },
    ];
    let bench = Bench::new();
    let up = two_files(&bench).await;
    let source = pinned(&up).await;
    let right = up.git(&["rev-parse", "HEAD:README"]).await;
    up.commit(&[("README", "daer\n")]).await;
    let ids =
        [right, up.git(&["rev-parse", "HEAD:README"]).await, up.git(&["rev-parse", "HEAD^{tree}"]).await];
    for forge in forges {
        let entry = get(&bench, None, &source).await.unwrap().entry;
        change(&entry.directory(), |directory| {
            fs::write(entry.tree().join("README"), "daer\n").unwrap();
            let path = directory.join("entry.json");
            let mut record: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            forge(&mut record, &ids);
            fs::write(&path, record.to_string()).unwrap();
        });
        assert_eq!(layers::verify(&entry.directory(), Witness::CommitAndRecord), Ok(()), "it is forged well");
        assert_eq!(get(&bench, None, &source).await.unwrap().how, Origin::Cloned);
        assert_eq!(fs::read_to_string(entry.tree().join("README")).unwrap(), "read\n");
    }
}

#[tokio::test]
async fn hostile_trees_are_stored_as_they_are() {
    let bench = Bench::new();
    let names: [&[u8]; 10] = [
        b"with\nnewline",
        b"\"quoted\" $(name)",
        "grün 日本".as_bytes(),
        b"latin-\xe9",
        b"-rf",
        b"%41 100%",
        // Git's order of names is not the one of paths.
        b"a/b",
        b"a.b",
        b"a0",
        b"a-",
    ];
    let up = bench.upstream("up", &[("conf/layer.conf", "")]).await;
    for name in names {
        let path = up.path.join(OsStr::from_bytes(name));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, name).unwrap();
    }
    write(&up.path.join("run.sh"), "#!/bin/sh\n");
    fs::set_permissions(up.path.join("run.sh"), Permissions::from_mode(0o755)).unwrap();
    for (link, target) in [("absolute", "/etc/passwd"), ("dangling", "nowhere/at all"), ("up", "../../..")] {
        symlink(target, up.path.join(link)).unwrap();
    }
    up.commit(&[]).await;
    for user in users() {
        let source = main_of(&up);
        let entry = get(&bench, user.clone(), &source).await.unwrap().entry;
        for name in names {
            assert_eq!(fs::read(entry.tree().join(OsStr::from_bytes(name))).unwrap(), name);
        }
        assert_eq!(fs::read_link(entry.tree().join("absolute")).unwrap(), Path::new("/etc/passwd"));
        assert_eq!(fs::metadata(entry.tree().join("run.sh")).unwrap().mode() & 0o777, 0o555);
        assert_eq!(get(&bench, user, &source).await.unwrap().how, Origin::Stored);
        let record = fs::read_to_string(entry.directory().join("entry.json")).unwrap();
        assert!(record.contains("object") && !record.contains("altered"), "the commit proves all: {record}");
    }
}

/// What the commit's id cannot prove has only the record's word. Where layer code could have written
/// that, the checkout is made again each time.
#[tokio::test]
async fn attributes_submodules_and_odd_commits_are_kept_on_the_records_word() {
    let bench = Bench::new();
    let plain = bench.upstream("plain", &[("a", "1\n")]).await;
    let sub = plain.git(&["rev-parse", "HEAD"]).await;
    plain.git(&["update-index", "--add", "--cacheinfo", &format!("160000,{sub},sub/module")]).await;
    plain.git(&["commit", "-q", "-m", "with a submodule"]).await;

    let text = "one\ntwo\n";
    let crlf = bench.upstream("crlf", &[("dos.txt", text), ("also\ndos.txt", text), ("unix", text)]).await;
    crlf.commit(&[(".gitattributes", "*.txt text eol=crlf\n")]).await;

    let latin = bench.upstream("latin", &[("a", "1\n")]).await;
    fs::write(bench.path("message"), b"caf\xe9\n").unwrap();
    let message = bench.path("message");
    let words = ["-c", "i18n.commitEncoding=ISO-8859-1", "commit", "-q", "--allow-empty", "-F"];
    latin.git(&[&words[..], &[message.to_str().unwrap()]].concat()).await;

    for (up, is_proven) in [(&plain, true), (&crlf, false), (&latin, false)] {
        let source = pinned(up).await;
        for (user, how) in
            [(other(), Origin::Stored), (None, if is_proven { Origin::Stored } else { Origin::Cloned })]
        {
            get(&bench, user.clone(), &source).await.unwrap();
            assert_eq!(get(&bench, user.clone(), &source).await.unwrap().how, how, "{:?} {user:?}", up.path);
        }
    }
    let entry = get(&bench, other(), &pinned(&crlf).await).await.unwrap().entry;
    assert_eq!(fs::read_to_string(entry.tree().join("dos.txt")).unwrap(), "one\r\ntwo\r\n");
    change(&entry.directory(), |_| fs::write(entry.tree().join("dos.txt"), text).unwrap());
    assert_eq!(get(&bench, other(), &pinned(&crlf).await).await.unwrap().how, Origin::Cloned);
    // The place of a submodule has to stay empty.
    let entry = get(&bench, other(), &pinned(&plain).await).await.unwrap().entry;
    assert!(entry.tree().join("sub/module").is_dir());
    change(&entry.directory(), |_| write(&entry.tree().join("sub/module/x"), ""));
    assert_eq!(get(&bench, other(), &pinned(&plain).await).await.unwrap().how, Origin::Cloned);
}

/// Filters are the site's: those that give the same each time are obeyed.
#[tokio::test]
async fn a_filter_that_gives_something_else_each_time_is_told() {
    for (smudge, is_steady) in [("tr a-z A-Z", true), ("cat /proc/sys/kernel/random/uuid", false)] {
        let mut bench = Bench::new();
        let parameters = format!("'filter.site.smudge'='{smudge}'");
        bench.access.variables.push(("GIT_CONFIG_PARAMETERS".into(), parameters.into()));
        let up = bench.upstream("up", &[("a", "small\n"), (".gitattributes", "a filter=site\n")]).await;
        let obtained = get(&bench, other(), &main_of(&up)).await;
        assert_eq!(parts(&bench.path("layers")), 0);
        if is_steady {
            assert_eq!(fs::read_to_string(obtained.unwrap().entry.tree().join("a")).unwrap(), "SMALL\n");
            assert_eq!(get(&bench, other(), &main_of(&up)).await.unwrap().how, Origin::Stored);
        } else {
            let error = obtained.unwrap_err();
            assert!(
                error.class == Class::Machine && error.message.contains("git writes `a` differently"),
                "{error}"
            );
        }
    }
}

#[tokio::test]
async fn two_jobs_at_once_make_one_entry() {
    let bench = Bench::new();
    let up = two_files(&bench).await;
    let source = main_of(&up);
    let both = futures_util::future::join_all((0..4).map(|_| get(&bench, other(), &source))).await;
    let paths: Vec<PathBuf> = both.into_iter().map(|obtained| obtained.unwrap().entry.tree()).collect();
    assert!(paths.iter().all(|path| *path == paths[0]));
    assert_eq!(layers::verify(paths[0].parent().unwrap(), Witness::CommitAlone), Ok(()));
    assert_eq!(parts(&bench.path("layers")), 0);
    assert_eq!(get(&bench, other(), &source).await.unwrap().how, Origin::Stored);
}

#[tokio::test]
async fn what_a_killed_job_left_is_cleared_away_and_what_a_living_one_makes_is_not() {
    let bench = Bench::new();
    let up = two_files(&bench).await;
    let repo = RepoName::of(&up.url());
    let store = LayerStore::new(bench.path("layers"));
    let living = StagingEntry::begin(&store, &repo).unwrap();
    write(&living.path().join("half"), "");
    let killed = bench.path("layers").join(repo.directory()).join(".build-agent.killed.part");
    write(&killed.join("up/conf/half"), "");
    fs::set_permissions(killed.join("up/conf"), Permissions::from_mode(0o555)).unwrap();
    get(&bench, other(), &main_of(&up)).await.unwrap();
    assert!(!killed.exists());
    assert!(living.path().join("half").exists());
    drop(living);
    assert_eq!(parts(&bench.path("layers")), 0);
}

#[tokio::test]
async fn a_proof_of_the_branch_is_made_once() {
    let bench = Bench::new();
    let up = two_files(&bench).await;
    let commit = up.git(&["rev-parse", "HEAD"]).await;
    up.commits(3).await;
    up.git(&["branch", "older", "HEAD~1"]).await;
    up.git(&["checkout", "-q", "--orphan", "island"]).await;
    up.commit(&[("x", "")]).await;
    get(&bench, other(), &up.source(Wanted::Commit(commit.clone()))).await.unwrap();
    let on = |branch: &str| {
        up.source(Wanted::CommitOnBranch { commit: commit.to_uppercase(), branch: branch.into() })
    };
    let error = get(&bench, other(), &on("island")).await.unwrap_err();
    assert!(error.class == Class::Usage && error.message.contains("is not on branch `island`"), "{error}");
    for branch in ["main", "older"] {
        assert_eq!(get(&bench, other(), &on(branch)).await.unwrap().how, Origin::Stored);
    }
    fs::remove_dir_all(&up.path).unwrap();
    for (branch, known) in [("main", true), ("older", true), ("island", false)] {
        assert_eq!(get(&bench, other(), &on(branch)).await.is_ok(), known, "{branch}");
    }
    assert_eq!(parts(&bench.path("layers")), 0);
}

#[tokio::test]
async fn unused_entries_go_and_all_else_stays() {
    let bench = Bench::new();
    let up = two_files(&bench).await;
    let old = get(&bench, other(), &main_of(&up)).await.unwrap().entry;
    up.commit(&[("README", "new\n")]).await;
    let new = get(&bench, other(), &main_of(&up)).await.unwrap().entry;
    let home = old.directory().parent().unwrap().to_owned();
    let used = home.join(format!("{}.used", old.commit));
    let day = Duration::from_secs(24 * 3600);
    let now = SystemTime::now();
    fs::File::options().write(true).open(&used).unwrap().set_modified(now - 31 * day).unwrap();
    write(&home.join("notes/of a person"), "");
    write(&home.join(".build-agent.killed.part/x"), "");
    let root = bench.path("layers");
    assert_eq!(layers::expire(&root, 32 * day, now).unwrap(), 0);
    assert_eq!(layers::expire(&root, 30 * day, now).unwrap(), 1);
    assert!(!old.directory().exists() && !used.exists());
    assert!(new.directory().exists() && home.join("notes/of a person").exists());
    assert_eq!(parts(&root), 0);
    let left = fs::read_dir(&home).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(!left.into_iter().any(|name| name.contains(&old.commit)));
    // A use makes it young again, and one in the future does not keep it for ever.
    let used = home.join(format!("{}.used", new.commit));
    for time in [now - 40 * day, now + 400 * day] {
        fs::File::options().write(true).open(&used).unwrap().set_modified(time).unwrap();
        new.mark_used().unwrap();
        let noted = fs::metadata(&used).unwrap().modified().unwrap();
        assert!(noted >= now - day && noted <= SystemTime::now(), "{noted:?}");
    }
}
