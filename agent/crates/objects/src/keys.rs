//! Lists the keys of a bucket as the server has them.
//!
//! `object_store` fails for a whole page if one of its keys has an empty segment, the segment `..` or a control
//! character, and it removes slashes from a key's ends. Strangers may write such keys, and they must not hide
//! other objects.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::SystemTime;

use futures_util::TryStreamExt;
use futures_util::future::BoxFuture;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, Result};

/// An object in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedObject {
    /// Any text; [`exact`](crate::key::exact) says whether it can be used.
    pub key: String,
    pub size: u64,
    /// By the server's clock.
    pub modified: SystemTime,
    pub tag: Option<String>,
}

impl From<ObjectMeta> for ListedObject {
    fn from(meta: ObjectMeta) -> ListedObject {
        ListedObject {
            key: meta.location.to_string(),
            size: meta.size,
            modified: meta.last_modified.into(),
            tag: meta.e_tag,
        }
    }
}

/// Which part of a list is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageRequest {
    /// The keys begin with this text; it is empty or ends with a slash.
    pub prefix: String,
    /// Whether keys with another slash are replaced by their prefix up to it.
    pub one_level: bool,
    /// Of the page before.
    pub token: Option<String>,
}

/// A part of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub objects: Vec<ListedObject>,
    /// With the slashes at their ends.
    pub prefixes: Vec<String>,
    /// Asks for the next page; `None` in the last one.
    pub token: Option<String>,
}

/// A multipart upload that was begun and neither completed nor aborted. Its parts cost as much as an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    pub key: String,
    pub id: String,
    pub begun: SystemTime,
}

/// Lists a bucket. Makes one request per call, without retries.
pub trait ListKeys: Debug + Send + Sync {
    fn page(&self, request: PageRequest) -> BoxFuture<'_, Result<Page>>;

    /// Unfinished multipart uploads; at most the first thousand.
    fn uploads(&self, prefix: String) -> BoxFuture<'_, Result<Vec<Upload>>>;

    fn abort(&self, upload: Upload) -> BoxFuture<'_, Result<()>>;
}

/// Lists any store of `object_store`, with its limits: for tests in memory.
#[derive(Debug)]
pub struct StoreKeys(pub Arc<dyn ObjectStore>);

impl ListKeys for StoreKeys {
    fn page(&self, request: PageRequest) -> BoxFuture<'_, Result<Page>> {
        Box::pin(async move {
            let prefix = Path::parse(&request.prefix)?;
            if request.one_level {
                let level = self.0.list_with_delimiter(Some(&prefix)).await?;
                return Ok(Page {
                    objects: level.objects.into_iter().map(ListedObject::from).collect(),
                    prefixes: level.common_prefixes.iter().map(|prefix| format!("{prefix}/")).collect(),
                    token: None,
                });
            }
            let mut objects: Vec<ListedObject> =
                self.0.list(Some(&prefix)).map_ok(ListedObject::from).try_collect().await?;
            objects.sort_by(|one, other| one.key.cmp(&other.key));
            Ok(Page { objects, ..Page::default() })
        })
    }

    fn uploads(&self, _: String) -> BoxFuture<'_, Result<Vec<Upload>>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn abort(&self, _: Upload) -> BoxFuture<'_, Result<()>> {
        Box::pin(std::future::ready(Ok(())))
    }
}
