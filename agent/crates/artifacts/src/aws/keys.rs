//! Lists a bucket by S3's own API, which gives every key: see [`agent_objects::keys`].

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::future::BoxFuture;
use object_store::aws::AmazonS3;
use object_store::multipart::MultipartStore;
use object_store::path::Path;
use object_store::signer::{SignedUrlOptions, Signer};
use object_store::{Error, Result};
use percent_encoding::percent_decode_str;
use serde::Deserialize;

use agent_objects::keys::{Page, PageRequest};
use agent_objects::{ListKeys, ListedObject, Upload};

/// Time limit of one request; the signature is valid longer.
const REQUEST: Duration = Duration::from_secs(60);
const VALID: Duration = Duration::from_secs(15 * 60);

/// Maximum bytes of an answer: a thousand keys of 1,024 characters, each of them encoded, with what surrounds them.
const LARGEST: usize = 16 << 20;

/// Lists one bucket.
#[derive(Debug)]
pub struct BucketKeys {
    bucket: Arc<AmazonS3>,
    client: reqwest::Client,
}

/// `ListBucketResult`: <https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListObjectsV2.html>.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ListAnswer {
    #[serde(default)]
    contents: Vec<Content>,
    #[serde(default)]
    common_prefixes: Vec<CommonPrefix>,
    next_continuation_token: Option<String>,
    encoding_type: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Content {
    key: String,
    size: u64,
    last_modified: String,
    #[serde(rename = "ETag")]
    tag: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CommonPrefix {
    prefix: String,
}

/// `ListMultipartUploadsResult`: <https://docs.aws.amazon.com/AmazonS3/latest/API/API_ListMultipartUploads.html>.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UploadsAnswer {
    #[serde(default)]
    upload: Vec<UploadAnswer>,
    encoding_type: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct UploadAnswer {
    key: String,
    upload_id: String,
    initiated: String,
}

impl BucketKeys {
    /// # Errors
    /// If this machine has no trusted certificates.
    pub fn new(bucket: Arc<AmazonS3>) -> Result<BucketKeys> {
        let client = reqwest::Client::builder().timeout(REQUEST).build().map_err(generic)?;
        Ok(BucketKeys { bucket, client })
    }

    /// GET of the bucket itself, with these parameters.
    async fn get(&self, query: Vec<(&'static str, String)>) -> Result<Vec<u8>> {
        let options = SignedUrlOptions::new().with_query(query);
        let url =
            self.bucket.signed_url_opts(reqwest::Method::GET, &Path::default(), VALID, &options).await?;
        let mut answer = self.client.get(url).send().await.map_err(|error| generic(error.without_url()))?;
        let status = answer.status();
        let mut body = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(|error| generic(error.without_url()))? {
            body.extend_from_slice(&part);
            if body.len() > LARGEST {
                return Err(generic(format!("the answer has more than {LARGEST} bytes")));
            }
        }
        if status.is_success() {
            return Ok(body);
        }
        let text = String::from_utf8_lossy(&body[..body.len().min(1000)]).into_owned();
        // As the client words it: `is_transient` and the hints read it.
        let source = format!("Server returned non-2xx status code: {status}: {text}").into();
        Err(match status.as_u16() {
            403 => Error::PermissionDenied { path: String::new(), source },
            404 => Error::NotFound { path: String::new(), source },
            _ => Error::Generic { store: "S3", source },
        })
    }
}

impl ListKeys for BucketKeys {
    fn page(&self, request: PageRequest) -> BoxFuture<'_, Result<Page>> {
        Box::pin(async move {
            let mut query = vec![("list-type", "2".to_owned()), ("encoding-type", "url".into())];
            query.extend(Some(request.prefix).filter(|prefix| !prefix.is_empty()).map(|p| ("prefix", p)));
            query.extend(request.one_level.then(|| ("delimiter", "/".to_owned())));
            query.extend(request.token.map(|token| ("continuation-token", token)));
            page(&self.get(query).await?)
        })
    }

    fn uploads(&self, prefix: String) -> BoxFuture<'_, Result<Vec<Upload>>> {
        Box::pin(async move {
            let mut query = vec![("uploads", String::new()), ("encoding-type", "url".into())];
            query.extend(Some(prefix).filter(|prefix| !prefix.is_empty()).map(|p| ("prefix", p)));
            uploads(&self.get(query).await?)
        })
    }

    fn abort(&self, upload: Upload) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let key = agent_objects::key::exact(&upload.key).map_err(generic)?;
            self.bucket.abort_multipart(&key, &upload.id).await
        })
    }
}

fn page(answer: &[u8]) -> Result<Page> {
    let answer: ListAnswer = quick_xml::de::from_reader(answer).map_err(generic)?;
    let encoded = answer.encoding_type.as_deref() == Some("url");
    let object = |content: Content| {
        Ok(ListedObject {
            key: decode(content.key, encoded),
            size: content.size,
            modified: time(&content.last_modified)?,
            tag: content.tag,
        })
    };
    Ok(Page {
        objects: answer.contents.into_iter().map(object).collect::<Result<_>>()?,
        prefixes: answer.common_prefixes.into_iter().map(|one| decode(one.prefix, encoded)).collect(),
        token: answer.next_continuation_token.filter(|token| !token.is_empty()),
    })
}

fn uploads(answer: &[u8]) -> Result<Vec<Upload>> {
    let answer: UploadsAnswer = quick_xml::de::from_reader(answer).map_err(generic)?;
    let encoded = answer.encoding_type.as_deref() == Some("url");
    let upload = |one: UploadAnswer| {
        Ok(Upload { key: decode(one.key, encoded), id: one.upload_id, begun: time(&one.initiated)? })
    };
    answer.upload.into_iter().map(upload).collect()
}

/// S3 writes a space as `+`, and a plus as `%2B`.
fn decode(key: String, encoded: bool) -> String {
    if !encoded {
        return key;
    }
    percent_decode_str(&key.replace('+', "%20")).decode_utf8_lossy().into_owned()
}

fn time(text: &str) -> Result<SystemTime> {
    humantime::parse_rfc3339(text).map_err(|error| generic(format!("`{text}` is not a time: {error}")))
}

fn generic(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Generic { store: "S3", source: source.into() }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn reads_any_key() {
        let answer = br#"<?xml version="1.0" encoding="UTF-8"?>
<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>b</Name><EncodingType>url</EncodingType>
<KeyCount>3</KeyCount><NextContinuationToken>to/ken==</NextContinuationToken><IsTruncated>true</IsTruncated>
<Contents><Key>pr/7//..%01%0A+%2B/</Key><LastModified>2026-01-02T03:04:05.678Z</LastModified><ETag>&quot;x&quot;</ETag>
<Size>5</Size><StorageClass>STANDARD</StorageClass></Contents>
<CommonPrefixes><Prefix>pr//</Prefix></CommonPrefixes>
<Contents><Key>%E2%82%AC&amp;</Key><LastModified>2026-01-02T03:04:05Z</LastModified><Size>0</Size></Contents>
</ListBucketResult>"#;
        let page = page(answer).unwrap();
        let keys: Vec<_> = page.objects.iter().map(|object| (object.key.as_str(), object.size)).collect();
        assert_eq!(keys, [("pr/7//..\u{1}\n +/", 5), ("\u{20ac}&", 0)]);
        assert_eq!(page.objects[0].tag.as_deref(), Some("\"x\""));
        let at = humantime::parse_rfc3339("2026-01-02T03:04:05.678Z").unwrap();
        assert_eq!(page.objects[0].modified, at);
        assert_eq!((page.prefixes, page.token.as_deref()), (vec!["pr//".to_owned()], Some("to/ken==")));
    }

    #[test]
    fn decodes_only_what_the_server_encoded() {
        let answer =
            b"<ListBucketResult><Contents><Key>a+b%20</Key><LastModified>2026-01-02T03:04:05Z</LastModified>\
                       <Size>1</Size></Contents></ListBucketResult>";
        assert_eq!(page(answer).unwrap().objects[0].key, "a+b%20");
        assert_eq!(page(b"<ListBucketResult></ListBucketResult>").unwrap(), Page::default());
        for torn in [&b"<ListBucketResult><Contents>"[..], b"", b"<html>"] {
            assert!(page(torn).is_err(), "{torn:?}");
        }
    }

    #[test]
    fn reads_unfinished_uploads() {
        let answer = b"<ListMultipartUploadsResult><EncodingType>url</EncodingType><Upload><Key>a%2Bb</Key>\
                       <UploadId>id+1</UploadId><Initiated>2026-01-02T03:04:05.000Z</Initiated></Upload>\
                       </ListMultipartUploadsResult>";
        let found = uploads(answer).unwrap();
        assert_eq!((found.len(), found[0].key.as_str(), found[0].id.as_str()), (1, "a+b", "id+1"));
        assert_eq!(uploads(b"<ListMultipartUploadsResult/>").unwrap(), []);
    }
}
