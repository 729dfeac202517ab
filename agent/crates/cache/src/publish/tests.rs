use std::ffi::OsString;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::time::{Duration, SystemTime};

use fs_err as fs;

use super::*;
use agent_types::events::CacheCounts;
use agent_types::share::Share;
use agent_types::tiers::{Access, TierKind, Trust};

const HASH: &str = "ab12000000000000000000000000000000000000000000000000000000000000";
const PLACE: &str = "sstate/scarthgap/ab/12";

fn archive(task: &str) -> String {
    format!("sstate:zlib:core2-64-poky-linux:1.3.1:r0:core2-64:12:{HASH}_{task}.tar.zst")
}

/// A share and the local directories of a build.
struct Place {
    base: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let place = Place { base: tempfile::tempdir().unwrap() };
        for directory in ["share", "local/sstate/ab/12", "local/downloads"] {
            fs::create_dir_all(place.base.path().join(directory)).unwrap();
        }
        place
    }

    fn share(&self, path: &str) -> PathBuf {
        self.base.path().join("share").join(path)
    }

    fn sstate(&self, name: &str) -> PathBuf {
        self.base.path().join("local/sstate/ab/12").join(name)
    }

    fn downloads(&self, name: &str) -> PathBuf {
        self.base.path().join("local/downloads").join(name)
    }

    /// Creates a file with its stamp.
    fn download(&self, name: &str, content: &str) {
        fs::write(self.downloads(name), content).unwrap();
        fs::write(self.downloads(&format!("{name}.done")), "").unwrap();
    }

    fn publish(&self) -> Published {
        self.publish_as(None, &Interrupt::new(None))
    }

    fn publish_for(&self, pull_request: u64) -> Published {
        self.publish_as(Some(pull_request), &Interrupt::new(None))
    }

    fn publish_as(&self, pull_request: Option<u64>, interrupt: &Interrupt) -> Published {
        let trust = match pull_request {
            None => Trust::Trusted { why: String::new() },
            pull_request => Trust::Untrusted { why: String::new(), pull_request },
        };
        let tiers = Tiers::new(&Share::new(self.share("")), Access::ReadWrite, &trust);
        let sources = Sources {
            sstate: self.base.path().join("local/sstate"),
            downloads: self.base.path().join("local/downloads"),
            release: "scarthgap".into(),
        };
        let tally = Tally::default();
        publish(&sources, &tiers, interrupt, &tally);
        tally.so_far()
    }

    fn read(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.share(path)).ok()
    }

    /// All names in a directory of the share.
    fn names(&self, path: &str) -> Vec<OsString> {
        let mut names: Vec<_> =
            fs::read_dir(self.share(path)).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    }
}

fn counts(published: &Published) -> (u64, u64, u64, u64, u64) {
    let CacheCounts { published, present, differing, failed, left, .. } = published.counts;
    (published, present, differing, failed, left)
}

#[test]
fn publishes_complete_objects_and_finds_them_in_a_second_run() {
    let place = Place::new();
    let name = archive("compile");
    fs::write(place.sstate(&name), "archive").unwrap();
    fs::write(place.sstate(&format!("{name}.siginfo")), "siginfo").unwrap();
    fs::write(place.sstate(&format!("{}.siginfo", archive("fetch"))), "alone").unwrap();
    place.download("zlib.tar.xz", "source");
    let published = place.publish();
    assert_eq!(counts(&published), (3, 0, 0, 0, 0), "{published:?}");
    assert_eq!(published.counts.bytes, 7 + 7 + 5 + 6);
    let traffic = published.traffic[&TierKind::Shared];
    assert_eq!((traffic.objects_written, traffic.bytes_written), (3, 25));
    assert_eq!(place.read(&format!("{PLACE}/{name}")).unwrap(), "archive");
    assert_eq!(place.read(&format!("{PLACE}/{name}.siginfo")).unwrap(), "siginfo");
    // No temporary files and no stamps.
    assert_eq!(place.names(PLACE).len(), 3);
    assert_eq!(place.names("downloads"), ["zlib.tar.xz"]);
    let mode = |path: &str| place.share(path).metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(PLACE), 0o755);
    assert_eq!(mode(&format!("{PLACE}/{name}")), 0o644);
    let inode = place.share(&format!("{PLACE}/{name}")).metadata().unwrap().ino();
    assert_eq!(counts(&place.publish()), (0, 3, 0, 0, 0));
    assert_eq!(place.share(&format!("{PLACE}/{name}")).metadata().unwrap().ino(), inode);
}

/// The limit that makes a share usable: one check for each existing object.
#[test]
fn existing_object_costs_two_operations() {
    let place = Place::new();
    for number in 0..50 {
        fs::write(place.sstate(&archive(&format!("t{number}"))), "archive").unwrap();
    }
    place.publish();
    let published = place.publish();
    assert_eq!(counts(&published), (0, 50, 0, 0, 0));
    let operations = published.traffic[&TierKind::Shared].operations;
    assert!(operations <= 2 * 50 + 10, "{operations}");
}

#[test]
fn keeps_and_reports_objects_that_differ() {
    let place = Place::new();
    fs::create_dir_all(place.share(PLACE)).unwrap();
    fs::create_dir_all(place.share("downloads")).unwrap();
    let (shorter, same_size) = (archive("shorter"), archive("same_size"));
    for (name, theirs) in [(&shorter, "arch"), (&same_size, "ARCHIVE")] {
        fs::write(place.sstate(name), "archive").unwrap();
        fs::write(place.share(PLACE).join(name), theirs).unwrap();
    }
    for (name, theirs) in
        [("equal.tar.gz", "source"), ("other.tar.gz", "SOURCE"), ("git2_a.git.tar.gz", "older clone")]
    {
        place.download(name, "source");
        fs::write(place.share("downloads").join(name), theirs).unwrap();
    }
    fs::create_dir(place.share("downloads/directory.tar.gz")).unwrap();
    place.download("directory.tar.gz", "source");
    let published = place.publish();
    assert_eq!(counts(&published), (0, 2, 4, 0, 0), "{published:?}");
    assert_eq!(place.read(&format!("{PLACE}/{shorter}")).unwrap(), "arch");
    assert_eq!(place.read("downloads/other.tar.gz").unwrap(), "SOURCE");
    // Clones grow, so their tarballs may differ; sources with one name must not.
    let mut alarming = published.alarming.clone();
    alarming.sort();
    assert_eq!(alarming, ["downloads/directory.tar.gz", "downloads/other.tar.gz"]);
    assert_eq!(published.alarms, 2);
}

/// A publisher that was killed after the sidecar files has left them; a signature fits one archive only.
#[test]
fn sidecars_belong_to_the_existing_archive() {
    let place = Place::new();
    let name = archive("package");
    fs::create_dir_all(place.share(PLACE)).unwrap();
    for (suffix, content) in [("", "archive"), (".siginfo", "siginfo"), (".sig", "signature")] {
        fs::write(place.sstate(&format!("{name}{suffix}")), content).unwrap();
    }
    fs::write(place.share(PLACE).join(format!("{name}.sig")), "of another").unwrap();
    assert_eq!(counts(&place.publish()), (1, 0, 0, 0, 0));
    assert_eq!(place.read(&format!("{PLACE}/{name}.sig")).unwrap(), "signature");
    assert_eq!(place.names(PLACE).len(), 3);
    // If another archive is there, its sidecar files stay, too.
    let other = archive("other");
    fs::write(place.sstate(&other), "archive").unwrap();
    fs::write(place.sstate(&format!("{other}.sig")), "signature").unwrap();
    fs::write(place.share(PLACE).join(&other), "ARCHIVE").unwrap();
    assert_eq!(counts(&place.publish()), (0, 2, 0, 0, 0));
    assert_eq!(place.read(&format!("{PLACE}/{other}.sig")), None);
}

#[test]
fn rejects_a_file_that_is_newer_than_its_stamp() {
    let place = Place::new();
    place.download("old.tar.gz", "source");
    let later = SystemTime::now() + Duration::from_secs(5);
    fs::File::options().write(true).open(place.downloads("old.tar.gz")).unwrap().set_modified(later).unwrap();
    let published = place.publish();
    assert_eq!(counts(&published), (0, 0, 0, 1, 0));
    assert!(published.refused[0].contains("old.tar.gz: it is newer than its"), "{published:?}");
    assert_eq!(place.read("downloads/old.tar.gz"), None);
}

#[test]
fn counts_used_objects_by_tier_and_updates_their_time() {
    let place = Place::new();
    let old = SystemTime::now() - Duration::from_secs(3 * 24 * 60 * 60);
    let recent = SystemTime::now() - Duration::from_secs(60 * 60);
    let put = |path: &str, content: &str, time: SystemTime| {
        fs::create_dir_all(place.share(path).parent().unwrap()).unwrap();
        fs::write(place.share(path), content).unwrap();
        fs::File::options().write(true).open(place.share(path)).unwrap().set_modified(time).unwrap();
    };
    let (shared, own, gone) = (archive("shared"), archive("own"), archive("gone"));
    put(&format!("{PLACE}/{shared}"), "archive", old);
    put(&format!("{PLACE}/{shared}.siginfo"), "siginfo", old);
    put("downloads/source.tar.gz", "source", recent);
    put(&format!("pr/7/{PLACE}/{own}"), "four", old);
    put("elsewhere/source2.tar.gz", "source", old);
    for name in [format!("{PLACE}/{shared}"), format!("{PLACE}/{shared}.siginfo"), format!("{PLACE}/{gone}")]
    {
        let link = place.sstate(Path::new(&name).file_name().unwrap().to_str().unwrap());
        symlink(place.share(&name), link).unwrap();
    }
    symlink(place.share(&format!("pr/7/{PLACE}/{own}")), place.sstate(&own)).unwrap();
    symlink(place.share("downloads/source.tar.gz"), place.downloads("source.tar.gz")).unwrap();
    symlink(place.share("elsewhere/source2.tar.gz"), place.downloads("source2.tar.gz")).unwrap();
    symlink("/etc/passwd", place.downloads("passwd")).unwrap();
    let age = |path: &str| {
        let modified = place.share(path).metadata().unwrap().modified().unwrap();
        SystemTime::now().duration_since(modified).unwrap_or_default().as_secs()
    };
    let read = |published: &Published, kind| {
        let traffic = published.traffic[&kind];
        (traffic.objects_read, traffic.bytes_read)
    };

    // The build of a pull request reads both tiers and writes its own; it marks no use in the other one.
    let published = place.publish_for(7);
    assert_eq!(read(&published, TierKind::Shared), (2, 14 + 6));
    assert_eq!(read(&published, TierKind::PullRequest), (1, 4));
    assert_eq!(counts(&published), (0, 0, 0, 0, 0));
    assert!(age(&format!("pr/7/{PLACE}/{own}")) < 600, "not marked");
    assert!(age(&format!("{PLACE}/{shared}")) > 86_400, "marked in a tier that it may not write");

    let published = place.publish();
    assert_eq!(read(&published, TierKind::Shared), (2, 20));
    assert_eq!(published.traffic.len(), 1);
    assert!(age(&format!("{PLACE}/{shared}")) < 600, "not marked");
    assert!(age("downloads/source.tar.gz") >= 3600, "marked twice a day");
    assert!(age("elsewhere/source2.tar.gz") > 86_400);
}

#[test]
fn creates_the_tier_of_a_pull_request_but_never_the_mount_point() {
    let place = Place::new();
    fs::write(place.sstate(&archive("compile")), "archive").unwrap();
    let published = place.publish_for(7);
    assert_eq!(counts(&published), (1, 0, 0, 0, 0));
    assert_eq!(place.read(&format!("pr/7/{PLACE}/{}", archive("compile"))).unwrap(), "archive");
    assert_eq!(published.traffic[&TierKind::PullRequest].objects_written, 1);
    assert_eq!(published.traffic[&TierKind::Shared].objects_written, 0);
    assert!(place.read(PLACE).is_none());

    fs::rename(place.share(""), place.base.path().join("unmounted")).unwrap();
    let published = place.publish();
    assert_eq!(counts(&published), (0, 0, 0, 0, 1));
    let trouble = published.trouble.unwrap();
    assert!(trouble.reason.contains("No such file or directory"), "{trouble:?}");
    assert!(!place.share("").exists());
}

/// Other users write in the tiers of pull requests; their links are not followed.
#[test]
fn does_not_follow_links_in_the_share() {
    let place = Place::new();
    let (name, linked) = (archive("compile"), archive("linked"));
    fs::create_dir_all(place.base.path().join("outside")).unwrap();
    fs::create_dir_all(place.share("pr/7/sstate/scarthgap/ab")).unwrap();
    symlink(place.base.path().join("outside"), place.share(&format!("pr/7/{PLACE}"))).unwrap();
    fs::write(place.sstate(&name), "archive").unwrap();
    let published = place.publish_for(7);
    assert_eq!(counts(&published), (0, 0, 0, 1, 0), "{published:?}");
    assert_eq!(fs::read_dir(place.base.path().join("outside")).unwrap().count(), 0);

    fs::remove_file(place.share(&format!("pr/7/{PLACE}"))).unwrap();
    fs::create_dir(place.share(&format!("pr/7/{PLACE}"))).unwrap();
    symlink("/etc/passwd", place.share(&format!("pr/7/{PLACE}/{linked}"))).unwrap();
    fs::write(place.sstate(&linked), "archive").unwrap();
    assert_eq!(counts(&place.publish_for(7)), (1, 0, 1, 0, 0));
}

#[test]
fn stop_counts_the_objects_that_remain() {
    let place = Place::new();
    for number in 0..20 {
        fs::write(place.sstate(&archive(&format!("t{number}"))), "archive").unwrap();
    }
    let over = Interrupt::new(Some(Instant::now()));
    assert_eq!(counts(&place.publish_as(None, &over)), (0, 0, 0, 0, 20));
    assert_eq!(counts(&place.publish()), (20, 0, 0, 0, 0));
}

/// Deferred objects are published at the end.
#[test]
fn publishes_large_files_last() {
    let place = Place::new();
    let large = fs::File::create(place.sstate(&archive("large"))).unwrap();
    large.set_len(LARGE).unwrap();
    fs::write(place.sstate(&archive("small")), "archive").unwrap();
    let published = place.publish();
    assert_eq!(counts(&published), (2, 0, 0, 0, 0));
    assert_eq!(place.share(&format!("{PLACE}/{}", archive("large"))).metadata().unwrap().len(), LARGE);
}

#[test]
fn concurrent_publishers_publish_each_object_once() {
    let place = Place::new();
    for number in 0..300 {
        let name = archive(&format!("t{number}"));
        fs::write(place.sstate(&name), format!("archive {number}")).unwrap();
        fs::write(place.sstate(&format!("{name}.siginfo")), "siginfo").unwrap();
    }
    let (one, two) = std::thread::scope(|scope| {
        let other = scope.spawn(|| place.publish());
        (place.publish(), other.join().unwrap())
    });
    assert_eq!(one.counts.published + two.counts.published, 300);
    assert_eq!(one.counts.present + two.counts.present, 300);
    assert_eq!(one.counts.failed + two.counts.failed, 0, "{one:?} {two:?}");
    assert_eq!(place.names(PLACE).len(), 600);
}
