#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use fs_err as fs;

use super::*;
use crate::areas::Layout;
use crate::prune::Options;
use crate::prune::scan::{Scan, Scanner};
use agent_fs::walk::Walk;

const DAY: Duration = Duration::from_secs(24 * 3600);

struct Scene {
    base: tempfile::TempDir,
    operations: AtomicU64,
}

impl Scene {
    /// Creates downloads that are all too old, each with its stamp.
    fn new(names: &[&str]) -> Scene {
        let base = tempfile::tempdir().unwrap();
        fs::create_dir_all(base.path().join("downloads/git2/clone/objects")).unwrap();
        fs::write(base.path().join("downloads/git2/clone/objects/pack"), "x").unwrap();
        let scene = Scene { base, operations: AtomicU64::new(0) };
        for name in names {
            for name in [(*name).to_owned(), format!("{name}.done")] {
                fs::write(scene.at(&name), "xy").unwrap();
            }
        }
        for path in ["git2/clone/objects/pack", "git2/clone/objects", "git2/clone"] {
            scene.age(path);
        }
        names
            .iter()
            .for_each(|name| [name, &*format!("{name}.done")].iter().for_each(|name| scene.age(name)));
        scene
    }

    fn at(&self, path: &str) -> PathBuf {
        self.base.path().join("downloads").join(path)
    }

    fn age(&self, path: &str) {
        let time = SystemTime::now() - 100 * DAY;
        std::fs::File::open(self.at(path)).unwrap().set_modified(time).unwrap();
    }

    fn share(&self) -> DirHandle {
        DirHandle::open(self.base.path()).unwrap()
    }

    fn scan(&self) -> Scan {
        let (share, options) = (self.share(), Options::default());
        let walk = Walk { width: 2, facts: true, operations: &self.operations, stop: &|| false };
        let layout = Layout::read(&share, &walk);
        let now = SystemTime::now();
        Scanner { share: &share, options: &options, now, leases: &Vec::new(), walk }.run(layout).unwrap()
    }

    fn apply(&self, scan: &Scan, delete: bool) -> Applied {
        let share = self.share();
        let trash = Trashes::begin(&share, SystemTime::now()).unwrap();
        let apply = Apply {
            share: &share,
            spilled: &scan.spilled,
            trash: &trash,
            delete,
            width: 2,
            operations: &self.operations,
            stop: &|| false,
        };
        let (applied, ended) = apply.run(scan.candidates.clone());
        assert_eq!(ended, Ended::Complete);
        applied
    }
}

#[test]
fn keeps_units_that_are_used_after_the_plan() {
    let scene = Scene::new(&["touched", "replaced", "stamped", "vanished", "unused"]);
    let scan = scene.scan();
    assert_eq!(scan.candidates.len(), 6);
    let now =
        |path: &str| std::fs::File::open(scene.at(path)).unwrap().set_modified(SystemTime::now()).unwrap();
    now("touched");
    now("stamped.done");
    now("git2/clone");
    // Another file with the same name and age.
    fs::write(scene.at("other"), "xy").unwrap();
    scene.age("other");
    fs::rename(scene.at("other"), scene.at("replaced")).unwrap();
    for name in ["vanished", "vanished.done"] {
        fs::remove_file(scene.at(name)).unwrap();
    }
    let applied = scene.apply(&scan, false);
    assert_eq!((applied.taken, applied.used, applied.gone), (Sum { units: 1, bytes: 4 }, 4, 1));
    assert_eq!((applied.failed, applied.failures), (0, Vec::new()));
    for kept in ["touched", "touched.done", "replaced", "stamped", "git2/clone/objects/pack"] {
        assert!(scene.at(kept).exists(), "{kept}");
    }
    assert!(!scene.at("unused").exists() && !scene.at("unused.done").exists());
}

#[test]
fn does_not_follow_a_directory_that_became_a_link() {
    let scene = Scene::new(&[]);
    let scan = scene.scan();
    let elsewhere = scene.base.path().join("elsewhere");
    fs::rename(scene.at("git2"), &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, scene.at("git2")).unwrap();
    for delete in [false, true] {
        let applied = scene.apply(&scan, delete);
        assert_eq!((applied.taken.units, applied.failed), (0, 1), "{:?}", applied.failures);
    }
    assert!(elsewhere.join("clone/objects/pack").exists());
}

#[test]
fn removes_read_only_directories_and_deletes_files_without_grace() {
    let scene = Scene::new(&["unused"]);
    for directory in ["git2/clone/objects", "git2/clone"] {
        fs::set_permissions(scene.at(directory), PermissionsExt::from_mode(0o555)).unwrap();
    }
    let scan = scene.scan();
    let applied = scene.apply(&scan, true);
    assert_eq!((applied.taken.units, applied.failed), (2, 0), "{:?}", applied.failures);
    assert!(!scene.at("git2/clone").exists() && !scene.at("unused").exists());
    let runs: Vec<_> =
        fs::read_dir(scene.base.path().join("trash")).unwrap().map(|run| run.unwrap()).collect();
    assert!(runs[0].path().join("downloads/git2/clone/objects/pack").exists());
    assert!(!runs[0].path().join("downloads/unused").exists());
    // And out of the trash.
    let walk = Walk { width: 2, facts: false, operations: &scene.operations, stop: &|| false };
    let (emptied, _) =
        crate::prune::trash::empty(&scene.share(), scene.base.path(), "trash", &runs[0].file_name(), &walk);
    assert_eq!((emptied.files, emptied.failed), (1, Vec::new()));
    assert_eq!(fs::read_dir(scene.base.path().join("trash")).unwrap().count(), 0);
}

#[test]
fn counts_a_rename_whose_answer_was_lost_by_its_result() {
    let scene = Scene::new(&["done", "gone"]);
    let share = scene.share();
    let trash = super::super::Trash::begin(&share, SystemTime::now()).unwrap();
    let (downloads, place) = (share.open_dir("downloads").unwrap(), Path::new("downloads"));
    assert!(trash.take(&downloads, place, OsStr::new("done")).unwrap());
    // The server did it; the repeated request does not find the file.
    assert!(trash.take(&downloads, place, OsStr::new("done")).unwrap());
    fs::remove_file(scene.at("gone")).unwrap();
    assert!(!trash.take(&downloads, place, OsStr::new("gone")).unwrap());
}
