//! Opens S3 buckets with `object_store`, and reads single objects.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use object_store::aws::{AmazonS3, AmazonS3Builder, Checksum};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use object_store::path::Path;
use object_store::{BackoffConfig, ClientOptions, HeaderValue, ObjectStoreExt, RetryConfig};
use url::{Host, Url};

use super::credentials::{Credentials, NO_CREDENTIALS};
use agent_types::error::{Error, Result};
use agent_types::s3_address::S3Address;

/// Time limit of one request. A part has at most 64 MiB, unless the file is larger than 600 GiB, so this
/// allows about 1 Mbit/s for each of a few parallel parts.
const REQUEST: Duration = Duration::from_secs(10 * 60);

/// Time limit for the next bytes of a server, in addition to [`REQUEST`].
const SILENCE: Duration = Duration::from_secs(120);

/// Opens a bucket with the credentials, region and endpoint that the SDK finds. Objects stay private: no ACL
/// is sent. Every request has a SHA-256 that S3 verifies and stores as the object's checksum. An upload in parts never
/// replaces an object whose key ends with the name `kept`.
///
/// # Errors
/// Usage, if the region is unknown or the endpoint is not a URL.
pub async fn bucket(name: &str, kms_key_id: Option<&str>, kept: &'static str) -> Result<AmazonS3> {
    let builder = AmazonS3Builder::new()
        .with_client_options(ClientOptions::new().with_timeout(REQUEST))
        .with_checksum_algorithm(Checksum::SHA256)
        .with_retry(retries())
        .with_http_connector(CreateOnly::Named(kept));
    open(builder, name, kms_key_id).await
}

/// Opens the bucket of a share. A job goes on without its share, so failures are reported sooner than by
/// [`bucket`]. Uploads in parts never replace an object. S3 verifies the SHA-256 in the signature of each
/// request; a second one for the same bytes would cost time on both sides.
///
/// # Errors
/// As [`bucket`].
pub async fn share_bucket(name: &str) -> Result<AmazonS3> {
    let options = ClientOptions::new().with_timeout(REQUEST).with_read_timeout(SILENCE);
    let builder = AmazonS3Builder::new()
        .with_client_options(options)
        .with_retry(RetryConfig {
            backoff: BackoffConfig {
                init_backoff: Duration::from_millis(100),
                max_backoff: Duration::from_secs(1),
                base: 2.,
            },
            max_retries: 4,
            retry_timeout: Duration::from_secs(10),
        })
        .with_http_connector(CreateOnly::All);
    open(builder, name, None).await
}

async fn open(builder: AmazonS3Builder, name: &str, kms_key_id: Option<&str>) -> Result<AmazonS3> {
    let sdk = super::sdk().await;
    let mut builder = builder.with_bucket_name(name);
    if let Some(chain) = sdk.credentials_provider() {
        builder = builder.with_credentials(Arc::new(Credentials::new(chain)));
    }
    if let Some(key) = kms_key_id {
        builder = builder.with_sse_kms_encryption(key);
    }
    let region = sdk.region().map(|region| region.as_ref().to_owned());
    let builder = match super::endpoint(&sdk, "s3") {
        Some(endpoint) => {
            let url = Url::parse(&endpoint).map_err(|source| {
                Error::usage(format!("the S3 endpoint `{endpoint}` is not a URL"))
                    .because(&source)
                    .hint("fix AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL or endpoint_url of the profile")
            })?;
            // Plain HTTP is used only if the endpoint says so; S3's own endpoints are HTTPS. Other servers
            // rarely have a host name per bucket, so the bucket goes into the path. Any region works there.
            builder
                .with_allow_http(url.scheme() == "http")
                .with_endpoint(endpoint.trim_end_matches('/'))
                .with_virtual_hosted_style_request(false)
                .with_region(region.unwrap_or_else(|| "us-east-1".into()))
        }
        None => {
            let region = region.ok_or_else(|| {
                Error::usage(format!("the AWS region of s3://{name} is unknown"))
                    .hint("set AWS_REGION to the bucket's region")
            })?;
            // A name with a dot does not match the wildcard in S3's certificate.
            builder.with_region(region).with_virtual_hosted_style_request(!name.contains('.'))
        }
    };
    builder.build().map_err(|source| Error::usage(format!("cannot use s3://{name}")).because(&source))
}

/// Completes an upload in parts only if the object does not exist: for all objects, or for those with this name.
/// `object_store` has no option for that. S3 accepts headers that are not signed.
#[derive(Clone, Copy, Debug)]
enum CreateOnly {
    All,
    Named(&'static str),
}

impl CreateOnly {
    fn concerns(self, request: &HttpRequest) -> bool {
        let query = request.uri().query().unwrap_or_default();
        let completes = query.split('&').any(|parameter| parameter.starts_with("uploadId="));
        let last = request.uri().path().rsplit('/').next().unwrap_or_default();
        let is_named = match self {
            CreateOnly::All => true,
            CreateOnly::Named(name) => last == name,
        };
        request.method().as_str() == "POST" && completes && is_named
    }
}

impl HttpConnector for CreateOnly {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(CreateOnlyClient(*self, client)))
    }
}

#[derive(Debug)]
struct CreateOnlyClient(CreateOnly, HttpClient);

#[async_trait]
impl HttpService for CreateOnlyClient {
    async fn call(&self, mut request: HttpRequest) -> std::result::Result<HttpResponse, HttpError> {
        if self.0.concerns(&request) {
            request.headers_mut().insert("if-none-match", HeaderValue::from_static("*"));
        }
        self.1.execute(request).await
    }
}

/// Reads one object completely.
///
/// # Errors
/// Usage, if the URL is invalid, or the object does not exist or is larger than `limit` bytes; upstream, if
/// it cannot be read.
#[tracing::instrument(name = "s3", skip_all, fields(call = "get", address))]
pub async fn read_object(address: &str, limit: usize) -> Result<Bytes> {
    let S3Address { bucket: name, key } = S3Address::parse(address)?;
    let path = Path::parse(&key)
        .ok()
        .filter(|path| path.as_ref() == key && !key.is_empty())
        .ok_or_else(|| Error::usage(format!("`{address}` is not the URL of an object")))?;
    let builder = AmazonS3Builder::new()
        .with_client_options(ClientOptions::new().with_timeout(REQUEST))
        .with_retry(retries());
    let store = open(builder, &name, None).await?;
    let failed = |source: object_store::Error| match source {
        object_store::Error::NotFound { .. } => Error::usage(format!("{address} does not exist"))
            .because(&source)
            .hint("check bucket, key and account"),
        _ => upstream(format!("cannot read {address}"), &source, "s3:GetObject"),
    };
    let got = store.get(&path).await.map_err(failed)?;
    let mut stream = got.into_stream();
    let mut whole = BytesMut::new();
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(failed)?;
        if whole.len() + chunk.len() > limit {
            return Err(Error::usage(format!("{address} is larger than {limit} bytes")));
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.freeze())
}

/// The error for a failed request to S3, with S3's answer and a hint. `action` is the IAM action that the
/// request needs.
pub fn upstream(message: String, source: &object_store::Error, action: &str) -> Error {
    let text = source.to_string();
    let hint = if text.contains(NO_CREDENTIALS) {
        "set credentials: a role for the build, AWS_PROFILE, or AWS_ACCESS_KEY_ID and \
         AWS_SECRET_ACCESS_KEY"
            .to_owned()
    } else {
        super::refusal_hint(&text, action)
    };
    Error::upstream(message).because(source).hint(hint)
}

/// Whether the host of the URL is this machine.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => IpAddr::V4(ip).is_loopback(),
        Some(Host::Ipv6(ip)) => IpAddr::V6(ip).is_loopback(),
        None => false,
    }
}

/// Retries for ten seconds to a minute (random): long enough for a server that restarts or throttles.
fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(500),
            max_backoff: Duration::from_secs(10),
            base: 3.,
        },
        max_retries: 8,
        retry_timeout: Duration::from_secs(120),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_of_an_upload_is_conditional() {
        let request = |method: &str, uri: &str| {
            let mut request = HttpRequest::new(Vec::new().into());
            *request.method_mut() = method.parse().unwrap();
            *request.uri_mut() = uri.parse().unwrap();
            request
        };
        let named = CreateOnly::Named("index.json");
        for (method, uri, of_all, of_named) in [
            ("POST", "https://b.s3.amazonaws.com/builds/1/oci/index.json?uploadId=x", true, true),
            ("POST", "https://b.s3.amazonaws.com/builds/1/an-index.json?uploadId=x", true, false),
            ("POST", "https://b.s3.amazonaws.com/builds/1/index.json/a?uploadId=x", true, false),
            (
                "PUT",
                "https://b.s3.amazonaws.com/builds/1/oci/index.json?partNumber=1&uploadId=x",
                false,
                false,
            ),
            ("POST", "https://b.s3.amazonaws.com/builds/1/oci/index.json?uploads", false, false),
            ("POST", "https://b.s3.amazonaws.com/?delete", false, false),
        ] {
            let request = request(method, uri);
            assert_eq!(CreateOnly::All.concerns(&request), of_all, "{method} {uri}");
            assert_eq!(named.concerns(&request), of_named, "{method} {uri}");
        }
    }

    #[test]
    fn is_loopback_accepts_only_this_machine() {
        let table = [
            ("http://localhost:1/", true),
            ("http://127.8.9.1/", true),
            ("http://[::1]:80/", true),
            ("http://localhost.example.org/", false),
            ("http://10.0.0.1/", false),
            ("http://127.0.0.1.example.org/", false),
        ];
        for (given, wanted) in table {
            assert_eq!(is_loopback(&Url::parse(given).unwrap()), wanted, "{given}");
        }
    }
}
