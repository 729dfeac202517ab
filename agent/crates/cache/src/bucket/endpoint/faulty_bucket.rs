//! A bucket in memory whose responses to GET have faults.

use std::fmt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, stream};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

/// How the bucket answers a GET.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    #[default]
    No,
    Error,
    /// The connection breaks in the middle.
    Breaks,
    /// It ends early, without an error.
    Truncated,
    /// More bytes than announced.
    Longer,
    /// Another range than the requested one.
    OtherRange,
    /// No response.
    Silent,
    /// Half of the bytes, and then nothing.
    Stalls,
    /// Role without the right to list.
    Forbidden,
}

/// A bucket in memory with faults.
#[derive(Debug, Default)]
pub struct FaultyBucket {
    pub memory: InMemory,
    fault: Mutex<Fault>,
    gets: AtomicU64,
}

impl FaultyBucket {
    pub fn set_fault(&self, fault: Fault) {
        *self.fault.lock().unwrap() = fault;
    }

    /// The number of GET requests so far.
    pub fn gets(&self) -> u64 {
        self.gets.load(Ordering::Relaxed)
    }
}

impl fmt::Display for FaultyBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty")
    }
}

fn broken() -> Error {
    Error::Generic { store: "S3", source: "connection reset by peer".into() }
}

#[async_trait]
impl ObjectStore for FaultyBucket {
    async fn put_opts(&self, key: &Path, content: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.memory.put_opts(key, content, options).await
    }

    async fn put_multipart_opts(
        &self,
        key: &Path,
        o: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.memory.put_multipart_opts(key, o).await
    }

    async fn get_opts(&self, key: &Path, options: GetOptions) -> Result<GetResult> {
        let fault = *self.fault.lock().unwrap();
        let head = options.head;
        self.gets.fetch_add(u64::from(!head), Ordering::Relaxed);
        match fault {
            Fault::Error => return Err(broken()),
            Fault::Silent => std::future::pending().await,
            Fault::Forbidden => {
                return Err(Error::PermissionDenied { path: key.to_string(), source: "403".into() });
            }
            _ => {}
        }
        let got = self.memory.get_opts(key, options).await?;
        if head || fault == Fault::No {
            return Ok(got);
        }
        let (meta, attributes, extensions) =
            (got.meta.clone(), got.attributes.clone(), got.extensions.clone());
        let mut range = got.range.clone();
        let content = got.bytes().await?;
        let half = content.slice(..content.len() / 2);
        let parts: BoxStream<'static, Result<Bytes>> = match fault {
            Fault::Breaks => stream::iter([Ok(half), Err(broken())]).boxed(),
            Fault::Truncated => stream::iter([Ok(half)]).boxed(),
            Fault::Longer => stream::iter([Ok(content), Ok(Bytes::from_static(b"more"))]).boxed(),
            Fault::Stalls => stream::iter([Ok(half)]).chain(stream::pending()).boxed(),
            _ => {
                range = range.start + 1..range.end;
                stream::iter([Ok(content.slice(1..))]).boxed()
            }
        };
        Ok(GetResult { payload: GetResultPayload::Stream(parts), meta, range, attributes, extensions })
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
