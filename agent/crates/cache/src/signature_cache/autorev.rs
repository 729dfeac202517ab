//! Whether BitBake had to ask a server which revision to use (AUTOREV, tags, branches): then the same
//! inputs may give another answer tomorrow.
//!
//! It cannot be seen in the recipes' text, where AUTOREV stands in conditions that never hold
//! (linux-yocto-dev). But BitBake keeps what it was told (`latest_revision` in fetch2): up to styhead in
//! the table BB_URI_HEADREVS of `bb_persist_data.sqlite3`, from walnascar on in
//! `local_srcrevisions.dat`, which exists only when there is something in it.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use super::{CacheResult, NotCacheable};
use agent_fs::read;

/// What the keys of the table begin with (`_revision_key` of the fetchers).
const FETCHERS: [&[u8]; 5] = [b"git:", b"svn:", b"hg:", b"p4:", b"bzr:"];

/// How a BitBake keeps revisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Records {
    Table,
    File,
}

/// Looks at what the BitBake in `bitbake` left in `build`, before another run clears it.
///
/// # Errors
/// When it asked, and when that cannot be told.
pub fn asked_nobody(bitbake: &Path, build: &Path) -> CacheResult<()> {
    let invocation =
        || NotCacheable("a recipe asks a server for its revision (AUTOREV, a tag or a branch)".into());
    match records_of(bitbake)? {
        Records::Table => {
            let mut known = false;
            for path in caches(build).iter().map(|cache| cache.join("bb_persist_data.sqlite3")) {
                known |= path.symlink_metadata().is_ok();
                let log = path.with_extension("sqlite3-wal");
                if holds_revision(&path)? || holds_revision(&log)? {
                    return Err(invocation());
                }
            }
            if known { Ok(()) } else { Err(untold("there is no bb_persist_data.sqlite3")) }
        }
        Records::File => {
            // BB_CACHEDIR, which also holds this after every parsing.
            let cache = build.join("cache");
            if cache.join("bb_codeparser.dat").symlink_metadata().is_err() {
                return Err(untold("there is no cache/bb_codeparser.dat"));
            }
            for entry in fs::read_dir(&cache)? {
                let name = entry?.file_name();
                let name = name.as_encoded_bytes();
                if name.starts_with(b"local_srcrevisions.dat")
                    && !name.starts_with(b"local_srcrevisions.dat.lock")
                {
                    return Err(invocation());
                }
            }
            Ok(())
        }
    }
}

fn untold(why: &str) -> NotCacheable {
    NotCacheable(format!("cannot tell whether a recipe asks a server for its revision: {why}"))
}

fn records_of(bitbake: &Path) -> CacheResult<Records> {
    let holds = |path: &str, words: &str| {
        let text = read::whole(&bitbake.join("lib/bb").join(path), 4 << 20).unwrap_or_default();
        text.windows(words.len()).any(|window| window == words.as_bytes())
    };
    if holds("checksum.py", "local_srcrevisions.dat") {
        Ok(Records::File)
    } else if holds("fetch2/__init__.py", "BB_URI_HEADREVS") {
        Ok(Records::Table)
    } else {
        Err(untold("this BitBake keeps no record that is known"))
    }
}

/// PERSISTENT_DIR is `cache/`, and was below TMPDIR once.
fn caches(build: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(build).into_iter().flatten().flatten();
    let temporary = entries.filter(|entry| entry.file_name().as_encoded_bytes().starts_with(b"tmp"));
    let mut caches: Vec<PathBuf> = temporary.map(|entry| entry.path().join(OsStr::new("cache"))).collect();
    caches.push(build.join("cache"));
    caches
}

/// Whether the database or its log holds a key of the table. Rows that were deleted may still be found.
fn holds_revision(path: &Path) -> CacheResult<bool> {
    if path.symlink_metadata().is_err() {
        return Ok(false);
    }
    let (file, _) = read::open(path)?;
    let mut bytes = Vec::new();
    file.take(256 << 20).read_to_end(&mut bytes)?;
    Ok(FETCHERS.iter().any(|fetcher| bytes.windows(fetcher.len()).any(|window| window == *fetcher)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;

    fn file(path: PathBuf, content: &str) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    #[test]
    fn a_server_that_was_asked_is_seen() {
        // Where BitBake's source says how it keeps records, what it left, and whether that is fine.
        let table = ("lib/bb/fetch2/__init__.py", "persist('BB_URI_HEADREVS', d)");
        let dat = ("lib/bb/checksum.py", "cache_file_name = \"local_srcrevisions.dat\"");
        let parsed = ("cache/bb_codeparser.dat", "x");
        type Case<'a> = ((&'a str, &'a str), &'a [(&'a str, &'a str)], bool);
        let cases: [Case; 11] = [
            (table, &[("cache/bb_persist_data.sqlite3", "SQLite format 3")], true),
            (table, &[("tmp-glibc/cache/bb_persist_data.sqlite3", "SQLite format 3")], true),
            (table, &[("cache/bb_persist_data.sqlite3", "SQLite git:example.org.x")], false),
            (
                table,
                &[
                    ("cache/bb_persist_data.sqlite3", "SQLite"),
                    ("cache/bb_persist_data.sqlite3-wal", "x svn:y"),
                ],
                false,
            ),
            (
                table,
                &[("cache/bb_persist_data.sqlite3", "SQLite"), ("tmp/cache/bb_persist_data.sqlite3", "hg:y")],
                false,
            ),
            (table, &[], false),
            (dat, &[parsed], true),
            (dat, &[parsed, ("cache/local_srcrevisions.dat.lock", "")], true),
            (dat, &[parsed, ("cache/local_srcrevisions.dat", "x")], false),
            (dat, &[], false),
            (("lib/bb/checksum.py", "something new"), &[parsed], false),
        ];
        for ((source, text), left, fine) in cases {
            let place = tempfile::tempdir().unwrap();
            file(place.path().join("bitbake").join(source), text);
            fs::create_dir(place.path().join("build")).unwrap();
            for (path, content) in left {
                file(place.path().join("build").join(path), content);
            }
            let told = asked_nobody(&place.path().join("bitbake"), &place.path().join("build"));
            assert_eq!(told.is_ok(), fine, "{source} {left:?}: {told:?}");
        }
    }
}
