//! Checks the work directory (path, file system, free space) and `/tmp`.
//!
//! The limits on paths and file systems come from OE-Core's `sanity.bbclass`.

use std::path::Path;

use super::finding::{Finding, State};
use super::machine::gib;
use agent_process::{Answer, Prober};
use agent_yocto::conf::SPACE_TO_BUILD;
use agent_yocto::path_rules::{self, PathUse};

#[derive(Clone, Debug)]
pub struct WorkdirFacts {
    /// What [`SCRIPT`] printed.
    pub answer: Answer,
    /// `/proc/self/mountinfo`: names the file systems without accessing them.
    pub mounts: String,
}

/// Finds the closest existing parent, then tests in a temporary directory there what TMPDIR needs.
const SCRIPT: &str = r#"
directory=$1
while [ ! -d "$directory" ]; do
  [ -e "$directory" ] && { echo 'blocked yes'; exit 0; }
  directory=$(dirname -- "$directory")
done
cd -P -- "$directory" || exit 1
printf 'physical %s\n' "$(pwd -P)"
printf 'space %s\n' "$(stat -f -c '%a %S %d %c' .)"
printf 'mode %s\n' "$(stat -c '%a' .)"
trial=$(mktemp -d ./.build-agent-doctor.XXXXXX 2>/dev/null) || { echo 'writable no'; exit 0; }
echo 'writable yes'
long=$(printf '%0200d' 0)
trap 'rm -f -- "$trial/a" "$trial/b" "$trial/$long"; rmdir -- "$trial"' EXIT
: > "$trial/a"
ln -- "$trial/a" "$trial/b" 2>/dev/null && echo 'links yes' || echo 'links no'
[ -e "$trial/A" ] && echo 'case ignored' || echo 'case kept'
(: > "$trial/$long") 2>/dev/null && echo 'long yes' || echo 'long no'
"#;

pub async fn gather(prober: &Prober, work: &Path) -> WorkdirFacts {
    let answer = prober.script("workdir", SCRIPT, &[&work.to_string_lossy()], None).await;
    let mounts = fs_err::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    WorkdirFacts { answer, mounts }
}

pub fn judge(work: &Path, builds: bool, facts: &WorkdirFacts) -> Vec<Finding> {
    let mut findings = vec![judge_work_path(work)];
    // The script got a lossy copy of the path, so its answer is about another path.
    if work.to_str().is_none() {
        return findings;
    }
    if let Some(unusable) = judge_usable(work, &facts.answer) {
        findings.push(unusable.about(work));
        return findings;
    }
    let mounts = mounts(&facts.mounts);
    findings.extend(judge_space(work, builds, facts.answer.value("space")));
    if let Some(physical) = facts.answer.value("physical") {
        findings.push(judge_file_system(work, mount_of(&mounts, physical), &facts.answer).about(work));
    }
    findings.extend(judge_setgid(facts.answer.value("physical"), facts.answer.value("mode")));
    findings.push(judge_tmp(mount_of(&mounts, "/tmp")).about(Path::new("/tmp")));
    findings
}

/// Checks the path as it is written and as its symbolic links resolve.
fn judge_work_path(work: &Path) -> Finding {
    const FIX: &str = "choose another directory with --work-dir, such as /var/tmp/build-agent";
    let real = path_rules::resolved(work);
    for path in [work, &real] {
        let finding = judge_path("work directory", path, PathUse::Build, FIX);
        let length = path.as_os_str().len();
        if finding.state != State::Ok {
            return finding.about(work);
        } else if length > path_rules::LONGEST_WORK {
            let found = format!(
                "{} has {length} bytes; above {} bytes, TMPDIR below it is too long for OE-Core",
                path.display(),
                path_rules::LONGEST_WORK
            );
            return Finding::failed("work directory", found, FIX).about(work);
        }
    }
    Finding::ok("work directory", work.display().to_string()).about(work)
}

/// Checks whether BitBake can use the path for this purpose.
pub fn judge_path(name: &str, path: &Path, purpose: PathUse, fix: &str) -> Finding {
    let finding = match path_rules::fault(path, purpose) {
        None => Finding::ok(name, path.display().to_string()),
        Some(fault) => Finding::failed(name, format!("{:?} {fault}", path.display().to_string()), fix),
    };
    finding.about(path)
}

fn judge_usable(work: &Path, answer: &Answer) -> Option<Finding> {
    const NAME: &str = "work directory";
    let work = work.display();
    if matches!(answer, Answer::Nothing(_)) {
        let found = format!("{work} does not answer: {}", answer.complaint());
        return Some(Finding::failed(NAME, found, "restore its file system, or choose another --work-dir"));
    }
    if answer.value("blocked").is_some() {
        let found = format!("{work}: part of this path is not a directory");
        return Some(Finding::failed(NAME, found, "choose another --work-dir"));
    }
    if answer.value("writable") != Some("yes") {
        let found = format!("{work} is not writable");
        return Some(Finding::failed(NAME, found, format!("install -d -o \"$(id -u)\" {work}")));
    }
    None
}

/// BitBake starts no task with less (`BB_DISKMON_DIRS`).
const SPACE_FOR_A_TASK: u64 = 1 << 30;
/// A check only parses.
pub const SPACE_TO_CHECK: u64 = 5_000_000_000;
/// What frees space.
pub const PRUNE: &str = "build-agent cache prune --local --max-size 50GiB --work-max-age 7d";
/// An image build leaves several million files, a check several ten thousand.
const INODES_TO_BUILD: u64 = 3_000_000;
const INODES_TO_CHECK: u64 = 200_000;

/// `space` has the form `blocks-free block-size inodes-free inodes-total`.
fn judge_space(work: &Path, builds: bool, space: Option<&str>) -> Vec<Finding> {
    let numbers: Vec<u64> = space.unwrap_or_default().split(' ').filter_map(|n| n.parse().ok()).collect();
    let [blocks, block_size, inodes, inodes_total] = numbers[..] else {
        let fix = format!("stat -f {}", work.display());
        return vec![Finding::warning("disk space", "`stat -f` does not report it", fix)];
    };
    let (purpose, bytes_wanted, inodes_wanted) = if builds {
        ("a build", SPACE_TO_BUILD, INODES_TO_BUILD)
    } else {
        ("a check", SPACE_TO_CHECK, INODES_TO_CHECK)
    };
    let bytes = blocks.saturating_mul(block_size);
    let free = format!("{} free", gib(bytes));
    let mut findings = vec![if builds && bytes < SPACE_FOR_A_TASK {
        let found = format!("{free}; BitBake starts no task with less than {}", gib(SPACE_FOR_A_TASK));
        Finding::failed("disk space", found, format!("{PRUNE}, or use a larger volume"))
    } else if bytes < bytes_wanted {
        let found = format!("{free}; {purpose} needs about {}", gib(bytes_wanted));
        Finding::warning(
            "disk space",
            found,
            format!("{PRUNE}, use a larger volume, or INHERIT += \"rm_work\""),
        )
    } else {
        Finding::ok("disk space", free)
    }];
    // btrfs and others create inodes on demand and report 0 of 0.
    if inodes_total > 0 {
        findings.push(if inodes < inodes_wanted {
            let found = format!("{inodes} inodes free; {purpose} needs about {inodes_wanted}");
            Finding::warning(
                "inodes",
                found,
                "delete old builds, or create the file system with more inodes (mkfs.ext4 -N)",
            )
        } else {
            Finding::ok("inodes", format!("{inodes} free"))
        });
    }
    findings
}

fn judge_file_system(work: &Path, mount: Option<&Mount>, answer: &Answer) -> Finding {
    const NAME: &str = "file system";
    const FIX: &str = "mount a local volume (ext4, xfs) there, or choose another --work-dir";
    let kind = mount.map_or("of an unknown type", |mount| mount.kind.as_str());
    let work = work.display();
    let failed = |why: &str| Finding::failed(NAME, format!("{work} is {kind}: {why}"), FIX);
    if answer.value("links") == Some("no") {
        failed("hard links do not work, and writing shared state needs them")
    } else if answer.value("case") == Some("ignored") {
        failed("names are case-insensitive, which OE-Core rejects")
    } else if answer.value("long") == Some("no") {
        failed("file names of 200 bytes do not work, and OE-Core needs them")
    } else if kind.starts_with("nfs") {
        failed("OE-Core rejects a TMPDIR on NFS")
    } else if mount.is_some_and(|mount| mount.has("noexec")) {
        failed("it is mounted noexec, and a build runs programs that it built")
    } else if kind == "overlay" {
        let found = format!("{work} is on overlay: slow, and hard links may break when a file is copied up");
        Finding::warning(NAME, found, "mount a volume there: docker run --volume NAME:DIRECTORY")
    } else {
        Finding::ok(NAME, format!("{kind}, hard links work"))
    }
}

/// Warns of a setgid bit: subdirectories inherit it, and OE-Core rejects a TMPDIR that has it.
fn judge_setgid(physical: Option<&str>, mode: Option<&str>) -> Option<Finding> {
    let mode = u32::from_str_radix(mode?, 8).ok()?;
    (mode & 0o6000 != 0).then(|| {
        let directory = physical.unwrap_or("the directory");
        let found = format!(
            "{directory} has mode {mode:04o}: subdirectories inherit setgid, which OE-Core rejects in TMPDIR"
        );
        Finding::warning("mode", found, format!("chmod u-s,g-s {directory}"))
    })
}

fn judge_tmp(mount: Option<&Mount>) -> Finding {
    if mount.is_some_and(|mount| mount.has("noexec")) {
        let fix = "mount -o remount,exec /tmp; in docker: --tmpfs /tmp:exec";
        Finding::failed("/tmp", "it is mounted noexec, and recipes run scripts there", fix)
    } else {
        Finding::ok("/tmp", "programs can run there")
    }
}

/// One line of `/proc/self/mountinfo`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    point: String,
    kind: String,
    options: String,
}

impl Mount {
    fn has(&self, option: &str) -> bool {
        self.options.split(',').any(|one| one == option)
    }
}

/// Parses proc_pid_mountinfo(5): `… … … … POINT OPTIONS [tags] - TYPE SOURCE SUPER-OPTIONS`.
fn mounts(mountinfo: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(4);
        let (point, options) = (before.next()?, before.next()?);
        // Spaces are escaped in octal. A path with any other escaped character fails `judge_path`.
        let point = point.replace("\\040", " ");
        Some(Mount { point, options: options.to_owned(), kind: after.split(' ').next()?.to_owned() })
    };
    mountinfo.lines().filter_map(mount).collect()
}

/// Finds the mount of a path: the deepest mount point, and the last mount on it.
fn mount_of<'a>(mounts: &'a [Mount], path: &str) -> Option<&'a Mount> {
    let holds = |mount: &&Mount| Path::new(path).starts_with(&mount.point);
    mounts.iter().filter(holds).max_by_key(|mount| Path::new(&mount.point).components().count())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::doctor::Findings;
    use crate::doctor::State::{self, Failed, Ok as Fine, Warning};

    const MOUNTS: &str = "\
22 1 254:0 / / rw,relatime shared:1 - overlay overlay rw,lowerdir=/a
23 22 0:21 / /proc rw - proc proc rw
24 22 0:22 / /tmp rw,nosuid,noexec - tmpfs tmpfs rw
25 22 0:23 / /vol rw,relatime - ext4 /dev/vdb rw
26 25 0:24 / /build/share rw - nfs4 server:/x rw
27 22 0:25 / /build/my\\040dir rw - xfs /dev/vdc rw
28 22 0:26 / /run2 rw - ext4 /dev/vdd rw
29 22 0:27 / /run2 rw,noexec - xfs /dev/vde rw
rubbish
";

    fn said(lines: &[&str]) -> Answer {
        Answer::Said { ok: true, lines: lines.iter().map(|&line| line.to_owned()).collect() }
    }

    #[test]
    fn mount_of_takes_the_deepest_and_last_mount() {
        let mounts = mounts(MOUNTS);
        let table = [
            ("/vol/build", "ext4"),
            ("/build/share/x", "nfs4"),
            ("/build/my dir/x", "xfs"),
            ("/volume", "overlay"),
            ("/run2", "xfs"),
            ("/", "overlay"),
        ];
        for (path, kind) in table {
            assert_eq!(mount_of(&mounts, path).unwrap().kind, kind, "{path}");
        }
        assert_eq!(mount_of(&[], "/"), None);
    }

    #[test]
    fn rejects_paths_that_tools_would_split() {
        let long = format!("/{}", "x".repeat(path_rules::LONGEST_WORK));
        let table: [(&str, State); 8] = [
            ("/var/lib/build-agent/meta_x-1.0", Fine),
            ("/with space", Failed),
            ("/a+b", Failed),
            ("/a@b", Failed),
            ("/codebuild:1", Failed),
            ("/new\nline", Failed),
            ("/ümlaut", Failed),
            (&long, Failed),
        ];
        for (path, state) in table {
            assert_eq!(judge_work_path(Path::new(path)).state, state, "{path:?}");
        }
    }

    #[test]
    fn failed_work_directory_has_no_ok_finding() {
        let work = Path::new("/vol/work");
        let table: [(&[&str], &str); 3] = [
            (&["physical /vol", "writable no"], "not writable"),
            (&["blocked yes"], "not a directory"),
            (&["physical /vol", "writable yes", "links no", "case kept", "long yes"], "hard links"),
        ];
        for (lines, words) in table {
            let facts = WorkdirFacts { answer: said(lines), mounts: MOUNTS.into() };
            let Findings(findings) = Findings::new(judge(work, false, &facts));
            let about: Vec<_> =
                findings.iter().filter(|finding| finding.directory.as_deref() == Some(work)).collect();
            assert!(about.len() == 1 && about[0].state == Failed, "{about:?}");
            assert!(about[0].found.contains(words), "{about:?}");
        }
    }

    #[test]
    fn judges_file_systems() {
        let good = ["links yes", "case kept", "long yes"];
        let table: [(&str, &[&str], State, &str); 8] = [
            ("/vol/build", &good, Fine, "ext4"),
            ("/build/share", &good, Failed, "NFS"),
            ("/elsewhere", &good, Warning, "overlay"),
            ("/tmp/x", &good, Failed, "noexec"),
            ("/vol", &["links no", "case kept", "long yes"], Failed, "hard links"),
            ("/vol", &["links yes", "case ignored", "long yes"], Failed, "case"),
            ("/vol", &["links yes", "case kept", "long no"], Failed, "200 bytes"),
            ("/build/share", &["links no"], Failed, "hard links"),
        ];
        let mounts = mounts(MOUNTS);
        for (path, lines, state, words) in table {
            let finding = judge_file_system(Path::new(path), mount_of(&mounts, path), &said(lines));
            assert_eq!(finding.state, state, "{path} {lines:?}");
            assert!(finding.found.contains(words), "{finding:?}");
        }
    }

    #[test]
    fn space_and_inode_limits_differ_for_builds_and_checks() {
        // (answer, builds, states)
        let table: [(&str, bool, &[State]); 8] = [
            ("262143 4096 9000000 9900000", true, &[Failed, Fine]),
            ("262143 4096 9000000 9900000", false, &[Warning, Fine]),
            ("10000000 4096 9000000 9900000", false, &[Fine, Fine]),
            ("10000000 4096 9000000 9900000", true, &[Warning, Fine]),
            ("90000000 4096 100 9900000", true, &[Fine, Warning]),
            ("90000000 4096 0 0", true, &[Fine]),
            ("18446744073709551615 4096 0 0", true, &[Fine]),
            ("? 4096", true, &[Warning]),
        ];
        for (space, builds, states) in table {
            let findings = judge_space(Path::new("/w"), builds, Some(space));
            assert_eq!(findings.iter().map(|f| f.state).collect::<Vec<_>>(), states, "{space}");
        }
    }

    #[test]
    fn unusable_directory_skips_later_checks() {
        let table = [
            (Answer::Nothing("`sh` gave no answer within 10s".into()), "does not answer"),
            (said(&["blocked yes"]), "not a directory"),
            (said(&["physical /x", "writable no"]), "not writable"),
            (said(&[]), "not writable"),
        ];
        for (answer, words) in table {
            let facts = WorkdirFacts { answer, mounts: MOUNTS.into() };
            let findings = judge(Path::new("/x"), true, &facts);
            let last = findings.last().unwrap();
            assert_eq!(last.state, Failed);
            assert!(last.found.contains(words), "{last:?}");
        }
    }

    #[test]
    fn warns_of_setgid() {
        assert_eq!(judge_setgid(Some("/w"), Some("755")), None);
        assert_eq!(judge_setgid(Some("/w"), Some("1777")), None);
        assert_eq!(judge_setgid(Some("/w"), Some("2775")).unwrap().state, Warning);
        assert_eq!(judge_setgid(None, None), None);
    }

    #[test]
    fn rejects_noexec_tmp() {
        let mounts = mounts(MOUNTS);
        assert_eq!(judge_tmp(mount_of(&mounts, "/tmp")).state, Failed);
        assert_eq!(judge_tmp(mount_of(&mounts, "/vol")).state, Fine);
    }
}
