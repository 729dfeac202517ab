//! Lists everything below a prefix, in parallel, and groups it by directory.
//!
//! S3 answers a thousand keys per request, one request after another. So a prefix with many keys is divided into the
//! prefixes below it, which are listed at the same time.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use object_store::Result;

use crate::stamp::nanoseconds;
use agent_fs::dir::{FileMeta, Kind};
use agent_fs::pool::Ended;
use agent_fs::walk::Entry;
use agent_objects::keys::PageRequest;
use agent_objects::{ListedObject, Objects};

/// Number of pages of one prefix that are read before it is divided.
const PAGES: usize = 8;

/// No prefix of a share has as many objects and prefixes directly in it. Strangers may fill theirs; the rest is not
/// looked at.
pub const MOST: usize = 200_000;

/// Whether it is a regular file; the permissions mean nothing in a bucket.
const FILE_MODE: u32 = 0o100_644;

/// Lists everything below `prefix`, which ends with a slash. `each` gets all objects of one or more directories at a
/// time, in no order.
///
/// # Errors
/// The first of the bucket.
pub async fn walk(
    objects: &Objects,
    prefix: String,
    width: usize,
    stop: &(dyn Fn() -> bool + Sync),
    mut each: impl FnMut(Vec<ListedObject>),
) -> Result<Ended> {
    let (mut waiting, mut running) = (vec![prefix], FuturesUnordered::new());
    loop {
        if stop() {
            return Ok(Ended::Early);
        }
        while running.len() < width.max(1)
            && let Some(prefix) = waiting.pop()
        {
            running.push(read(objects, prefix));
        }
        let Some(part) = running.next().await else { return Ok(Ended::Complete) };
        let (found, prefixes) = part?;
        waiting.extend(prefixes);
        each(found);
    }
}

/// All objects below a prefix; or those directly in it, and the prefixes below.
async fn read(objects: &Objects, prefix: String) -> Result<(Vec<ListedObject>, Vec<String>)> {
    let mut found = Vec::new();
    let mut request = PageRequest { prefix, ..PageRequest::default() };
    for _ in 0..PAGES {
        let page = objects.page(&request).await?;
        found.extend(page.objects);
        request.token = page.token;
        if request.token.is_none() {
            return Ok((found, Vec::new()));
        }
    }
    let level = objects.level(&request.prefix, MOST).await?;
    Ok((level.objects, level.prefixes))
}

/// The objects of a prefix by the directories that they are in.
#[derive(Debug, Default)]
pub struct Folders {
    /// Paths relative to the prefix, with their files.
    pub folders: BTreeMap<PathBuf, Vec<Entry>>,
    /// Keys that the agent never writes, without control characters.
    pub odd: Vec<String>,
}

impl Folders {
    /// `prefix` ends with a slash. `used`: when an object was used that was not changed since.
    pub fn new(
        prefix: &str,
        objects: Vec<ListedObject>,
        used: impl Fn(&ListedObject) -> Option<i64>,
    ) -> Folders {
        let mut all = Folders::default();
        for object in objects {
            let exact = agent_objects::key::exact(&object.key).is_ok();
            match object.key.strip_prefix(prefix).filter(|rest| exact && !rest.is_empty()) {
                Some(rest) => {
                    let (path, name) = rest.rsplit_once('/').unwrap_or(("", rest));
                    let facts = facts(&object, used(&object));
                    let entry = Entry { name: OsString::from(name), kind: Kind::File, facts: Some(facts) };
                    all.folders.entry(PathBuf::from(path)).or_default().push(entry);
                }
                None => all.odd.push(shown(&object.key)),
            }
        }
        all
    }
}

fn facts(object: &ListedObject, used: Option<i64>) -> FileMeta {
    let modified = nanoseconds(object.modified);
    let used = used.unwrap_or(modified).max(modified);
    FileMeta {
        size: object.size,
        modified: used,
        changed: used,
        device: 0,
        inode: identity(object.tag.as_deref(), modified),
        mode: FILE_MODE,
        owner: 0,
        group: 0,
        links: 1,
    }
}

/// Distinguishes an object from a later one with its key, like a file's inode.
pub fn identity(tag: Option<&str>, modified: i64) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    // Lists and single answers may have different fractions of a second.
    (tag.map(|tag| tag.trim_matches('"')), modified.div_euclid(1_000_000_000)).hash(&mut hasher);
    hasher.finish()
}

/// A key for people, without control characters: strangers choose some.
pub fn shown(key: &str) -> String {
    key.as_bytes().escape_ascii().to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::{Duration, SystemTime};

    use futures_util::future::BoxFuture;
    use object_store::memory::InMemory;

    use super::*;
    use agent_objects::keys::Page;
    use agent_objects::retry::Retries;
    use agent_objects::{ListKeys, Upload};

    fn object(key: &str) -> ListedObject {
        ListedObject { key: key.into(), size: 5, modified: SystemTime::UNIX_EPOCH, tag: None }
    }

    /// A bucket with pages of two keys.
    #[derive(Debug, Default)]
    struct SmallPages {
        keys: Vec<String>,
        asked: Mutex<Vec<PageRequest>>,
    }

    impl ListKeys for SmallPages {
        fn page(&self, request: PageRequest) -> BoxFuture<'_, Result<Page>> {
            self.asked.lock().unwrap().push(request.clone());
            let mut page = Page::default();
            for key in self.keys.iter().filter(|key| key.starts_with(&request.prefix)) {
                match key[request.prefix.len()..].split_once('/') {
                    Some((next, _)) if request.one_level => {
                        let prefix = format!("{}{next}/", request.prefix);
                        if page.prefixes.last() != Some(&prefix) {
                            page.prefixes.push(prefix);
                        }
                    }
                    _ => page.objects.push(object(key)),
                }
            }
            if !request.one_level {
                let from = request.token.map_or(0, |token| token.parse().unwrap());
                let all = page.objects.len();
                page.objects = page.objects.into_iter().skip(from).take(2).collect();
                page.token = (from + 2 < all).then(|| (from + 2).to_string());
            }
            Box::pin(std::future::ready(Ok(page)))
        }

        fn uploads(&self, _: String) -> BoxFuture<'_, Result<Vec<Upload>>> {
            Box::pin(std::future::ready(Ok(Vec::new())))
        }

        fn abort(&self, _: Upload) -> BoxFuture<'_, Result<()>> {
            Box::pin(std::future::ready(Ok(())))
        }
    }

    #[tokio::test]
    async fn finds_every_object_once_however_many_there_are() {
        for number in [0, 1, 2, 15, 16, 17, 100] {
            let mut keys: Vec<String> = (0..number)
                .map(|n| format!("p/{:02}/{n:03}", n % 7))
                .chain(["p/x".into(), "q/y".into()])
                .collect();
            keys.sort();
            let lister = Arc::new(SmallPages { keys: keys.clone(), ..SmallPages::default() });
            let objects = Objects::new(Arc::new(InMemory::new()), Retries::within(Duration::ZERO));
            let objects = objects.listed_by(lister.clone());
            let mut found = Vec::new();
            let ended = walk(&objects, "p/".into(), 3, &|| false, |part| {
                found.extend(part.into_iter().map(|object| object.key));
            });
            assert_eq!(ended.await.unwrap(), Ended::Complete);
            found.sort();
            keys.retain(|key| key.starts_with("p/"));
            assert_eq!(found, keys);
            let divided = lister.asked.lock().unwrap().iter().any(|request| request.one_level);
            assert_eq!(divided, number + 1 > 16, "{number}");
        }
    }

    #[test]
    fn groups_by_directory_and_tells_odd_keys() {
        let keys = [
            "p/a/1",
            "p/b/1",
            "p/2",
            "p/a//3",
            "p/a/../4",
            "p/",
            "p/a/",
            "p/a/\u{1b}[31m",
            "p/a/./5",
            "p/ä b",
        ];
        let found = Folders::new("p/", keys.map(object).to_vec(), |_| None);
        let folders: Vec<String> = found
            .folders
            .iter()
            .map(|(path, entries)| {
                let names: Vec<_> = entries.iter().filter_map(|entry| entry.name.to_str()).collect();
                format!("{}:{}", path.display(), names.join(","))
            })
            .collect();
        assert_eq!(folders, [":2,ä b", "a:1", "b:1"]);
        assert_eq!(found.odd, ["p/a//3", "p/a/../4", "p/", "p/a/", "p/a/\\x1b[31m", "p/a/./5"]);
    }

    #[test]
    fn an_object_was_used_when_it_was_written_or_later() {
        let used = |used: Option<i64>| {
            let mut object = object("p/a");
            object.modified += Duration::from_secs(10);
            let folders = Folders::new("p/", vec![object], |_| used).folders;
            folders.values().next().unwrap()[0].facts.unwrap().used() / 1_000_000_000
        };
        assert_eq!([used(None), used(Some(5_000_000_000)), used(Some(15_000_000_000))], [10, 10, 15]);
    }
}
