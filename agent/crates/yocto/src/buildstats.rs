//! What each task used, as OE's class `buildstats` writes it: a directory for each build, in it one for each recipe,
//! and in that a file for each task. Layer code writes in the same place, so all of it is only for display.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use agent_fs::dir::DirHandle;
use agent_types::machine_use::TaskUsage;
use agent_types::sanitize::clean;

/// Files that are read; a large world has 40,000 tasks.
const FILES_READ: usize = 100_000;
/// Bytes of a file; a task that ran twice has two parts of about 1 KiB.
const FILE_BYTES: u64 = 64 << 10;
/// How long all of it may take.
const TIME: Duration = Duration::from_secs(20);
/// Directories of builds that are looked at.
const BUILDS: usize = 10_000;
/// The event of the beginning may come some time after the directory was made.
const CLOCKS: Duration = Duration::from_secs(5);
/// Bytes of a name.
const NAME_BYTES: usize = 250;
/// Clock ticks a second in `/proc`.
const TICKS: f64 = 100.0;

/// Where BitBake wrote the statistics of a build, by its own events. Layer code can forge all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatsSource {
    /// When the build began. No event has the name of its directory, which is its time by default.
    pub began: SystemTime,
    /// BUILDSTATS_BASE of the default multiconfig.
    pub base: Option<PathBuf>,
    /// The log of a task of each multiconfig: it lies in the multiconfig's TMPDIR.
    pub logs: BTreeMap<Option<String>, PathBuf>,
}

impl StatsSource {
    /// Reads what the tasks used. Only below the build directory, through no link, and within limits. Blocks.
    pub fn read(&self, build_dir: &Path) -> Vec<TaskUsage> {
        let Ok(top) = DirHandle::open(build_dir) else { return Vec::new() };
        let mut reader = Reader { left: FILES_READ, until: Instant::now() + TIME, found: Vec::new() };
        for (place, mc) in self.places(build_dir, &top) {
            let directory = top.open_dir(&place).and_then(|builds| self.newest(&builds));
            // What cannot be read has no numbers.
            let _ = directory.and_then(|directory| reader.build(&directory, mc.as_deref()));
        }
        reader.found
    }

    /// The directory of this build: the last one that got a recipe, unless that was before this build.
    fn newest(&self, builds: &DirHandle) -> io::Result<DirHandle> {
        let mut newest: Option<(SystemTime, DirHandle)> = None;
        for entry in builds.entries()?.take(BUILDS) {
            let name = entry?.name;
            let Ok(directory) = builds.open_dir(Path::new(&name)) else { continue };
            let changed = directory.own_metadata()?.modified_at();
            if newest.as_ref().is_none_or(|(known, _)| *known < changed) {
                newest = Some((changed, directory));
            }
        }
        let newest = newest
            .filter(|(changed, _)| changed.checked_add(CLOCKS).is_some_and(|changed| changed >= self.began));
        newest.map(|(_, directory)| directory).ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// Directories with statistics relative to the build directory, each with its multiconfig.
    fn places(&self, build_dir: &Path, top: &DirHandle) -> BTreeMap<PathBuf, Option<String>> {
        let mut places = BTreeMap::new();
        for (mc, log) in &self.logs {
            let Ok(log) = log.strip_prefix(build_dir) else { continue };
            // TMPDIR is a directory above the log; nothing else there has this name.
            let above = log.ancestors().map(|directory| directory.join("buildstats"));
            let place = above.filter(|place| top.open_dir(place).is_ok()).last();
            if let Some(place) = place {
                // Multiconfigs with one TMPDIR overwrite each other: the default one comes first here.
                places.entry(place).or_insert_with(|| mc.clone());
            }
        }
        let base = self.base.as_ref().and_then(|base| base.strip_prefix(build_dir).ok());
        if let Some(base) = base {
            places.entry(base.components().collect()).or_insert(None);
        }
        places
    }
}

struct Reader {
    left: usize,
    until: Instant,
    found: Vec<TaskUsage>,
}

impl Reader {
    fn build(&mut self, directory: &DirHandle, mc: Option<&str>) -> io::Result<()> {
        for recipe in directory.entries()? {
            let name = recipe?.name;
            // Beside the recipes there are files.
            let Ok(tasks) = directory.open_dir(Path::new(&name)) else { continue };
            let recipe = name.to_string_lossy();
            let recipe = match mc {
                None => recipe.into_owned(),
                Some(mc) => format!("mc:{mc}:{recipe}"),
            };
            for task in tasks.entries()? {
                let task = task?.name;
                if self.left == 0 || Instant::now() > self.until {
                    return Err(ErrorKind::QuotaExceeded.into());
                }
                self.left -= 1;
                let Ok(text) = tasks.read(&task, FILE_BYTES) else { continue };
                let usage = parse(&recipe, &task.to_string_lossy(), &String::from_utf8_lossy(&text));
                self.found.extend(usage);
            }
        }
        Ok(())
    }
}

/// The numbers of a task's file; `None` if the task has not ended. A task that ran several times has all of its runs
/// there, the last one at the end.
pub fn parse(recipe: &str, task: &str, text: &str) -> Option<TaskUsage> {
    let mut numbers = BTreeMap::new();
    for line in text.lines() {
        if line.starts_with("Event: TaskStarted") {
            numbers.clear();
        }
        if let Some((key, value)) = line.split_once(": ") {
            numbers.insert(key, value.trim());
        }
    }
    let number = |key: &str| numbers.get(key)?.parse::<f64>().ok().filter(|it| it.is_finite() && *it >= 0.0);
    let sum = |keys: [&str; 4]| keys.into_iter().filter_map(number).reduce(|one, other| one + other);
    let cpu = sum(["rusage ru_utime", "rusage ru_stime", "Child rusage ru_utime", "Child rusage ru_stime"]);
    let cpu = cpu.or_else(|| Some(sum(["utime", "stime", "cutime", "cstime"])? / TICKS));
    let whole = |number: f64| number as u64;
    let peak = ["rusage ru_maxrss", "Child rusage ru_maxrss"].into_iter().filter_map(number).reduce(f64::max);
    let bytes = |key: &str| number(key).map_or(0, whole);
    Some(TaskUsage {
        recipe: name(recipe),
        task: name(task),
        // To the millisecond, as all times in the reports.
        cpu_seconds: (cpu? * 1000.0).round() / 1000.0,
        // KiB: getrusage(2).
        peak_memory: peak.map_or(0, |kib| whole(kib).saturating_mul(1024)),
        bytes_read: bytes("IO read_bytes"),
        bytes_written: bytes("IO write_bytes"),
    })
}

/// A sanitized name of bounded length.
fn name(text: &str) -> String {
    let text = clean(text);
    text[..text.floor_char_boundary(NAME_BYTES)].to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const FILE: &str = "Event: TaskStarted \nStarted: 1700000000.12 \nzlib-1.3.1-r0: do_compile\n\
        Elapsed time: 12.34 seconds\nutime: 100\nstime: 20\ncutime: 900\ncstime: 80\n\
        IO rchar: 999\nIO wchar: 998\nIO read_bytes: 4096\nIO write_bytes: 8192\nIO cancelled_write_bytes: 5\n\
        rusage ru_utime: 1.5\nrusage ru_stime: 0.25\nrusage ru_maxrss: 60000\nrusage ru_minflt: 7\n\
        Child rusage ru_utime: 9.125\nChild rusage ru_stime: 0.0004\nChild rusage ru_maxrss: 123456\n\
        Status: PASSED \nEnded: 1700000012.46 \n";

    #[test]
    fn the_numbers_of_a_file() {
        let usage = |cpu_seconds, peak_kib: u64, bytes_read, bytes_written| TaskUsage {
            recipe: "zlib-1.3.1-r0".into(),
            task: "do_compile".into(),
            cpu_seconds,
            peak_memory: peak_kib * 1024,
            bytes_read,
            bytes_written,
        };
        let running = "Event: TaskStarted \nStarted: 1700000000.12 \n";
        let again = FILE.replace("ru_utime: 9.125", "ru_utime: 1.25").replace("123456", "5");
        for (text, wanted) in [
            (FILE.to_owned(), Some(usage(10.875, 123_456, 4096, 8192))),
            (format!("{FILE}{again}"), Some(usage(3.0, 60_000, 4096, 8192))),
            ("utime: 100\nstime: 20\ncutime: 900\ncstime: 80\n".into(), Some(usage(11.0, 0, 0, 0))),
            (running.into(), None),
            // Killed in its second run.
            (format!("{FILE}{running}"), None),
            (String::new(), None),
            ("rusage ru_utime: NaN\nrusage ru_stime: -1\nChild rusage ru_utime: inf\n".into(), None),
            ("rusage ru_utime: 1\nrusage ru_maxrss: 1e300\n".into(), Some(usage(1.0, u64::MAX / 1024, 0, 0))),
        ] {
            let found = parse("zlib-1.3.1-r0", "do_compile", &text);
            let close =
                |usage: TaskUsage| TaskUsage { peak_memory: usage.peak_memory / 1024 * 1024, ..usage };
            assert_eq!(found.map(close), wanted, "{text}");
        }
        let hostile = parse(&"x\u{1b}[2J".repeat(1000), "do_x", FILE).unwrap();
        assert!(hostile.recipe.len() <= NAME_BYTES && !hostile.recipe.contains('\u{1b}'));
    }

    fn read(source: &StatsSource, build_dir: &Path) -> Vec<String> {
        let found = source.read(build_dir).into_iter();
        let mut names: Vec<String> = found.map(|one| format!("{}:{}", one.recipe, one.task)).collect();
        names.sort();
        names
    }

    #[test]
    fn each_multiconfig_has_its_place_and_no_link_is_followed() {
        let (top, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let build_dir = top.path().join("build");
        let write = |path: &str| {
            let path = build_dir.join(path);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, FILE).unwrap();
        };
        let began = SystemTime::now();
        let made = |build: &str, seconds: u64| {
            let at = if seconds == 0 { began } else { began - Duration::from_secs(seconds) };
            fs_err::File::open(build_dir.join(build)).unwrap().set_modified(at).unwrap();
        };
        write("tmp/buildstats/20250101/old-1/do_compile");
        made("tmp/buildstats/20250101", 60);
        write("tmp-old/buildstats/20250101/old-1/do_compile");
        made("tmp-old/buildstats/20250101", 60);
        write("tmp/buildstats/20260102/zlib-1/do_compile");
        write("tmp/buildstats/20260102/build_stats");
        write("tmp-musl/buildstats/20260102/zlib-1/do_compile_setscene");
        write("tmp-musl/buildstats/20260102/zlib-1/more/file");
        fs_err::create_dir_all(outside.path().join("secret-1")).unwrap();
        fs_err::write(outside.path().join("secret-1/do_compile"), FILE).unwrap();
        let link = |to: &Path, path: &str| symlink(to, build_dir.join(path)).unwrap();
        link(&outside.path().join("secret-1"), "tmp/buildstats/20260102/linked-1");
        link(&outside.path().join("secret-1/do_compile"), "tmp/buildstats/20260102/zlib-1/do_linked");
        link(outside.path(), "tmp/buildstats/20270101");
        link(outside.path(), "tmp-linked");
        nix::unistd::mkfifo(
            &build_dir.join("tmp/buildstats/20260102/zlib-1/do_pipe"),
            nix::sys::stat::Mode::S_IRWXU,
        )
        .unwrap();
        fs_err::File::create(build_dir.join("tmp/buildstats/20260102/zlib-1/do_huge"))
            .unwrap()
            .set_len(10 << 30)
            .unwrap();

        let log = |tmp: &str| build_dir.join(tmp).join("work/x/zlib/1/temp/log.do_compile.7");
        let source = StatsSource {
            began,
            base: Some(build_dir.join("tmp/buildstats/")),
            logs: [(None, log("tmp")), (Some("musl".to_owned()), log("tmp-musl"))].into(),
        };
        let wanted = ["mc:musl:zlib-1:do_compile_setscene", "zlib-1:do_compile"];
        assert_eq!(read(&source, &build_dir), wanted);
        // Only the base is known, or only logs.
        let only = |base: Option<&str>, logs: &[(Option<&str>, &str)]| StatsSource {
            began,
            base: base.map(|base| build_dir.join(base)),
            logs: logs.iter().map(|(mc, tmp)| (mc.map(str::to_owned), log(tmp))).collect(),
        };
        let table: [(StatsSource, &[&str]); 8] = [
            (only(Some("tmp/buildstats"), &[]), &["zlib-1:do_compile"]),
            (only(None, &[(None, "tmp")]), &["zlib-1:do_compile"]),
            // They share a TMPDIR.
            (only(None, &[(None, "tmp"), (Some("a"), "tmp")]), &["zlib-1:do_compile"]),
            // Only an earlier build is there.
            (only(None, &[(None, "tmp-old")]), &[]),
            (only(Some("tmp-linked"), &[]), &[]),
            (only(Some("/etc"), &[]), &[]),
            (only(Some("../x"), &[(None, "tmp-linked")]), &[]),
            (only(None, &[]), &[]),
        ];
        for (source, wanted) in table {
            assert_eq!(read(&source, &build_dir), wanted, "{source:?}");
        }
        assert_eq!(read(&source, Path::new("/nonexistent")), [""; 0]);
    }
}
