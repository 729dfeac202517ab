//! One bucket, with retries, and with a meter that counts every request.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt;
use object_store::path::Path;
use object_store::{
    Error, GetOptions, GetResult, ObjectMeta, ObjectStore, ObjectStoreExt, PutMode, PutOptions, Result,
};

use crate::keys::{ListKeys, ListedObject, Page, PageRequest, StoreKeys, Upload};
use crate::meter::{Meter, RequestClass};
use crate::retry::{Retries, is_transient};

/// Whether a new object was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    New,
    /// One with this content was there.
    Equal,
    /// One with other content was there; it stays.
    Different,
}

/// A bucket.
#[derive(Clone, Debug)]
pub struct Objects {
    store: Arc<dyn ObjectStore>,
    keys: Arc<dyn ListKeys>,
    retries: Retries,
    meter: Arc<Meter>,
}

impl Objects {
    pub fn new(store: Arc<dyn ObjectStore>, retries: Retries) -> Objects {
        let keys = Arc::new(StoreKeys(Arc::clone(&store)));
        Objects { store, keys, retries, meter: Arc::default() }
    }

    /// Lists with `keys`, which finds every key, also those that `object_store` cannot express.
    #[must_use]
    pub fn listed_by(self, keys: Arc<dyn ListKeys>) -> Objects {
        Objects { keys, ..self }
    }

    /// The same bucket and meter, with other retries.
    #[must_use]
    pub fn with_retries(&self, retries: Retries) -> Objects {
        Objects { retries, ..self.clone() }
    }

    pub fn meter(&self) -> &Meter {
        &self.meter
    }

    /// The bucket without retries and meter.
    pub fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }

    /// What is known of the object; `None`, if it does not exist. S3 also says "forbidden" for what does not exist
    /// to a role that may not list: that stays an error.
    pub async fn head(&self, key: &Path) -> Result<Option<ObjectMeta>> {
        there(self.retries.run(|| self.counted(RequestClass::Read, self.store.head(key))).await)
    }

    /// Starts to read an object, or the part of it that the options name; `None`, if it does not exist. The caller
    /// counts the bytes with [`Meter::read`].
    pub async fn get(&self, key: &Path, options: GetOptions) -> Result<Option<GetResult>> {
        let get = || self.counted(RequestClass::Read, self.store.get_opts(key, options.clone()));
        there(self.retries.run(get).await)
    }

    /// Reads a whole object of at most `limit` bytes; `None`, if it does not exist.
    pub async fn read(&self, key: &Path, limit: u64) -> Result<Option<Bytes>> {
        let read = || async {
            let got = self.counted(RequestClass::Read, self.store.get(key)).await?;
            if got.meta.size > limit {
                let words = format!("{key} has {} bytes, more than {limit}", got.meta.size);
                return Err(Error::NotSupported { source: words.into() });
            }
            let size = got.meta.size;
            let bytes = got.bytes().await?;
            if bytes.len() as u64 != size {
                let words = format!("{key} has {size} bytes, but {} came", bytes.len());
                return Err(Error::Generic { store: "S3", source: words.into() });
            }
            Ok(bytes)
        };
        let found = there(self.retries.run(read).await)?;
        self.meter.read(found.as_ref().map_or(0, |bytes| bytes.len() as u64));
        Ok(found)
    }

    /// Writes a new object (`If-None-Match: *`); one that is there stays.
    ///
    /// The answer to a successful request may get lost. So what is there is read before a retry.
    pub async fn create(&self, key: &Path, content: Bytes) -> Result<Created> {
        let mut retry = self.retries.begin();
        loop {
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            let put = self.store.put_opts(key, content.clone().into(), options);
            let Err(error) = self.counted(RequestClass::WriteOrList, put).await else {
                self.meter.wrote(content.len() as u64);
                return Ok(Created::New);
            };
            let exists = matches!(error, Error::AlreadyExists { .. });
            if !exists && !is_transient(&error) {
                return Err(error);
            }
            match self.read(key, content.len() as u64).await {
                Ok(Some(there)) if there == content => return Ok(Created::Equal),
                Ok(Some(_)) | Err(Error::NotSupported { .. }) => return Ok(Created::Different),
                // It existed for a moment and is gone again, or never got there.
                Ok(None) => {}
                Err(other) if exists => return Err(other),
                Err(_) => {}
            }
            if !retry.delay().await {
                return Err(error);
            }
        }
    }

    /// Writes the object, whatever was there.
    pub async fn replace(&self, key: &Path, content: Bytes) -> Result<()> {
        let put = || self.counted(RequestClass::WriteOrList, self.store.put(key, content.clone().into()));
        self.retries.run(put).await?;
        self.meter.wrote(content.len() as u64);
        Ok(())
    }

    /// Deletes up to a thousand objects with one request. Gives the keys that may still exist, each with its error;
    /// an object that is already gone counts as deleted.
    pub async fn delete_batch(&self, keys: Vec<Path>) -> Vec<(Path, Arc<Error>)> {
        let mut retry = self.retries.begin();
        let (mut left, mut refused) = (keys, Vec::new());
        loop {
            let waiting = self.meter.request(RequestClass::Delete);
            let request = futures_util::stream::iter(left.clone()).map(Ok).boxed();
            let answers: Vec<Result<Path>> = self.store.delete_stream(request).collect().await;
            drop(waiting);
            let answered = answers.len() == left.len();
            let mut errors = answers.into_iter().map(|answer| answer.err().map(Arc::new));
            let failed: Vec<(Path, Arc<Error>)> = if answered {
                left.into_iter().zip(errors).filter_map(|(key, error)| Some((key, error?))).collect()
            } else if let Some(error) = errors.find_map(|error| error) {
                // The request failed as a whole.
                left.into_iter().map(|key| (key, Arc::clone(&error))).collect()
            } else {
                return refused;
            };
            let failed = failed.into_iter().filter(|(_, error)| !matches!(**error, Error::NotFound { .. }));
            let (again, permanent): (Vec<_>, Vec<_>) = failed.partition(|(_, error)| is_transient(error));
            refused.extend(permanent);
            if again.is_empty() || !retry.delay().await {
                refused.extend(again);
                return refused;
            }
            left = again.into_iter().map(|(key, _)| key).collect();
        }
    }

    /// One page of a list of keys.
    pub async fn page(&self, request: &PageRequest) -> Result<Page> {
        let page = || self.counted(RequestClass::WriteOrList, self.keys.page(request.clone()));
        self.retries.run(page).await
    }

    /// The objects and prefixes directly below a prefix, which is empty or ends with a slash. Stops after about `most`
    /// of them, and then has a token: strangers write as many keys as they like.
    pub async fn level(&self, prefix: &str, most: usize) -> Result<Page> {
        let mut level = Page::default();
        let mut request = PageRequest { prefix: prefix.to_owned(), one_level: true, token: None };
        loop {
            let page = self.page(&request).await?;
            level.objects.extend(page.objects);
            level.prefixes.extend(page.prefixes);
            level.token.clone_from(&page.token);
            request.token = page.token;
            if request.token.is_none() || level.objects.len() + level.prefixes.len() >= most {
                return Ok(level);
            }
        }
    }

    /// Passes the first `most` objects below a prefix to `take`, in the order of their keys. The prefix is empty or ends
    /// with a slash. A thousand cost one request.
    pub async fn each_below(
        &self,
        prefix: &str,
        most: usize,
        mut take: impl FnMut(ListedObject),
    ) -> Result<()> {
        let mut request = PageRequest { prefix: prefix.to_owned(), ..PageRequest::default() };
        let mut left = most;
        loop {
            let page = self.page(&request).await?;
            let some = left.min(page.objects.len());
            page.objects.into_iter().take(some).for_each(&mut take);
            left -= some;
            request.token = page.token;
            if request.token.is_none() || left == 0 {
                return Ok(());
            }
        }
    }

    /// The first `most` objects below a prefix, see [`each_below`](Objects::each_below).
    pub async fn below(&self, prefix: &str, most: usize) -> Result<Vec<ListedObject>> {
        let mut objects = Vec::new();
        self.each_below(prefix, most, |object| objects.push(object)).await?;
        Ok(objects)
    }

    /// The first thousand unfinished multipart uploads below a prefix.
    pub async fn uploads(&self, prefix: &str) -> Result<Vec<Upload>> {
        let uploads = || self.counted(RequestClass::WriteOrList, self.keys.uploads(prefix.to_owned()));
        self.retries.run(uploads).await
    }

    /// Removes what an unfinished multipart upload left behind. One that is gone is no error.
    pub async fn abort(&self, upload: &Upload) -> Result<()> {
        let abort = || self.counted(RequestClass::Delete, self.keys.abort(upload.clone()));
        there(self.retries.run(abort).await).map(|_| ())
    }

    /// How long failed requests are retried.
    pub fn retries(&self) -> &Retries {
        &self.retries
    }

    pub(crate) async fn counted<T>(
        &self,
        class: RequestClass,
        request: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let _waiting = self.meter.request(class);
        request.await
    }
}

fn there<T>(answer: Result<T>) -> Result<Option<T>> {
    match answer {
        Ok(found) => Ok(Some(found)),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use async_trait::async_trait;
    use futures_util::stream::BoxStream;
    use object_store::memory::InMemory;
    use object_store::{
        CopyOptions, GetResultPayload, ListResult, MultipartUpload, PutMultipartOptions, PutPayload,
        PutResult,
    };

    use super::*;

    #[tokio::test]
    async fn a_new_object_never_replaces_another() {
        let objects = Objects::new(Arc::new(InMemory::new()), Retries::within(Duration::ZERO));
        let key = Path::from("a/b");
        assert_eq!(objects.read(&key, 9).await.unwrap(), None);
        assert_eq!(objects.head(&key).await.unwrap(), None);
        for (content, wanted) in [
            ("one", Created::New),
            ("one", Created::Equal),
            ("two", Created::Different),
            ("2", Created::Different),
        ] {
            assert_eq!(objects.create(&key, content.into()).await.unwrap(), wanted, "{content}");
        }
        assert_eq!(objects.read(&key, 9).await.unwrap().unwrap(), "one");
        assert!(objects.read(&key, 2).await.is_err());
        let counted = objects.meter().so_far();
        assert_eq!((counted.writes_and_lists, counted.bytes_written), (4, 3));
    }

    /// Sends only half of the bytes that it announces, this many times.
    #[derive(Debug)]
    struct Truncating {
        memory: InMemory,
        times: AtomicU64,
    }

    impl std::fmt::Display for Truncating {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("truncating")
        }
    }

    #[async_trait]
    impl ObjectStore for Truncating {
        async fn put_opts(&self, key: &Path, content: PutPayload, options: PutOptions) -> Result<PutResult> {
            self.memory.put_opts(key, content, options).await
        }

        async fn put_multipart_opts(
            &self,
            key: &Path,
            options: PutMultipartOptions,
        ) -> Result<Box<dyn MultipartUpload>> {
            self.memory.put_multipart_opts(key, options).await
        }

        async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
            let mut got = self.memory.get_opts(key, options).await?;
            let left = self.times.load(Ordering::Relaxed);
            if left > 0 {
                self.times.store(left - 1, Ordering::Relaxed);
                let half = Bytes::from(vec![b'x'; got.meta.size as usize / 2]);
                got.payload = GetResultPayload::Stream(futures_util::stream::iter([Ok(half)]).boxed());
            }
            Ok(got)
        }

        fn delete_stream(&self, keys: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
            self.memory.delete_stream(keys)
        }

        fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
            self.memory.list(prefix)
        }

        async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
            self.memory.list_with_delimiter(prefix).await
        }

        async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
            self.memory.copy_opts(from, to, options).await
        }
    }

    #[tokio::test]
    async fn a_part_is_never_taken_for_the_whole() {
        for (times, within) in [(u64::MAX, Duration::ZERO), (1, Duration::from_secs(60))] {
            let store = Arc::new(Truncating { memory: InMemory::new(), times: AtomicU64::new(times) });
            let retries = Retries { within, delay: Duration::from_millis(1) };
            let objects = Objects::new(store, retries);
            let key = Path::from("a");
            objects.replace(&key, "content".into()).await.unwrap();
            let read = objects.read(&key, 9).await;
            assert_eq!(read.ok(), (times == 1).then(|| Some("content".into())), "it is read again");
        }
    }

    #[tokio::test]
    async fn lists_and_deletes_below_a_prefix() {
        let objects = Objects::new(Arc::new(InMemory::new()), Retries::within(Duration::ZERO));
        for key in ["a/1", "a/b/2", "a/b/3", "ab/4", "5"] {
            objects.create(&Path::from(key), "x".into()).await.unwrap();
        }
        let keys = |objects: &[ListedObject]| objects.iter().map(|o| o.key.clone()).collect::<Vec<_>>();
        assert_eq!(keys(&objects.below("a/", 9).await.unwrap()), ["a/1", "a/b/2", "a/b/3"]);
        assert_eq!(objects.below("", 9).await.unwrap().len(), 5);
        let level = objects.level("a/", 9).await.unwrap();
        assert_eq!((keys(&level.objects), level.prefixes), (vec!["a/1".to_owned()], vec!["a/b/".to_owned()]));
        let level = objects.level("", 9).await.unwrap();
        assert_eq!((keys(&level.objects), level.prefixes.len()), (vec!["5".to_owned()], 2));
        let gone = ["a/1", "a/b/2", "never"].map(Path::from).to_vec();
        assert!(objects.delete_batch(gone).await.is_empty());
        assert_eq!(keys(&objects.below("", 9).await.unwrap()), ["5", "a/b/3", "ab/4"]);
        assert_eq!(keys(&objects.below("", 2).await.unwrap()), ["5", "a/b/3"]);
    }
}
