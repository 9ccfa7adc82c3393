//! The client of a bucket's service: the two requests that we make of it.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use futures::TryStreamExt as _;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;
use object_store::{ClientOptions, Error, GetOptions, GetRange, ObjectStore, RetryConfig};

use super::answers::{Call, Class, Connector, Failure};
use super::config::{Bucket, Config, Service};
use super::position::Object;

/// The longest request. It brings a piece of an object, or a page of a listing.
const REQUEST_MAX: Duration = Duration::from_secs(20);
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// A bucket that is listed page by page.
trait Store: ObjectStore + PaginatedListStore {}
impl<S: ObjectStore + PaginatedListStore> Store for S {}

/// Asks the service. One request for each call.
#[derive(Clone, Debug)]
pub(super) struct Client {
    store: Arc<dyn Store>,
    /// What the names of the folder begin with. `None` for the whole bucket.
    prefix: Option<String>,
}

/// A part of a listing.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) objects: Vec<Object>,
    /// By which it goes on. `None` at the end.
    pub(super) token: Option<String>,
    /// The service's clock, in seconds since the epoch.
    pub(super) clock: Option<i64>,
}

/// Where a part of a listing begins.
#[derive(Clone, Copy, Debug)]
pub(super) enum Start<'a> {
    /// At the first name.
    Beginning,
    /// Behind this name.
    Behind(&'a str),
    /// Where another part ended.
    Token(&'a str),
}

impl Client {
    /// The client of `bucket`. It does not touch the network.
    pub(super) fn new(bucket: &Bucket, config: &Config) -> anyhow::Result<Self> {
        let cannot = || format!("cannot make a client for {} of the settings of its bucket", bucket.told());
        let store = build(bucket, config).with_context(cannot)?;
        Ok(Self { store, prefix: Some(format!("{}/", bucket.folder)).filter(|_| !bucket.folder.as_ref().is_empty()) })
    }

    /// At most `max` names of the folder, and perhaps none although there are more.
    pub(super) async fn list(&self, from: Start<'_>, max: usize) -> Result<Part, Failure> {
        let (offset, page_token) = match from {
            Start::Beginning => (None, None),
            Start::Behind(name) => (Some(name.to_owned()), None),
            Start::Token(token) => (None, Some(token.to_owned())),
        };
        let call = Call::of_listing();
        let options = PaginatedListOptions {
            offset,
            page_token,
            max_keys: Some(max),
            extensions: call.extensions(),
            ..PaginatedListOptions::default()
        };
        let listed = call.run(self.store.list_paginated(self.prefix.as_deref(), options)).await?;
        let objects = listed.result.objects.into_iter().map(Object::new).collect();
        let token = listed.page_token.filter(|token| !token.is_empty());
        Ok(Part { objects, token, clock: call.clock() })
    }

    /// The bytes of `object` in `range`, which lies in it.
    pub(super) async fn read(&self, object: &Object, range: Range<u64>) -> Result<Bytes, Failure> {
        let (call, expected) = (Call::default(), range.end - range.start);
        let path = call.run(async { Ok(Path::parse(&object.path)?) }).await?;
        let options = GetOptions {
            if_match: object.tag.clone(),
            range: Some(GetRange::Bounded(range)),
            extensions: call.extensions(),
            ..GetOptions::default()
        };
        let got = call.run(self.store.get_opts(&path, options)).await?;
        if got.meta.size != object.size {
            let why = format!("expected {} bytes, as it is listed with, found {}", object.size, got.meta.size);
            return Err(Failure::new(Class::Replaced, why));
        }
        let mut chunks = got.into_stream();
        let read = async {
            // Nothing more than was asked for is kept, whatever comes.
            let mut bytes = BytesMut::with_capacity(usize::try_from(expected).unwrap_or_default());
            while bytes.len() as u64 <= expected
                && let Some(chunk) = chunks.try_next().await?
            {
                bytes.extend_from_slice(&chunk);
            }
            Ok::<_, Error>(bytes)
        };
        let bytes = call.run(read).await?;
        if bytes.len() as u64 != expected {
            let more = if bytes.len() as u64 > expected { "more" } else { "only" };
            let why = format!("expected {expected} bytes of it in an answer, found {more} {}", bytes.len());
            return Err(Failure::new(Class::Garbled, why));
        }
        Ok(bytes.freeze())
    }
}

fn build(bucket: &Bucket, config: &Config) -> object_store::Result<Arc<dyn Store>> {
    let is_plain = config.endpoint.as_ref().is_some_and(|url| url.starts_with("http://"));
    let options = ClientOptions::new()
        .with_timeout(REQUEST_MAX)
        .with_connect_timeout(CONNECT_MAX)
        .with_allow_http(is_plain || std::env::var("AWS_ALLOW_HTTP").is_ok_and(|value| value == "true"));
    // The runtime alone decides when to try again.
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    // Their builders have methods of the same names, but no trait.
    macro_rules! built {
        ($builder:expr) => {
            $builder.with_client_options(options).with_retry(retry).with_http_connector(Connector).build()?
        };
    }
    Ok(match bucket.service {
        Service::S3 => Arc::new(built!(s3(config).with_bucket_name(&bucket.name))),
        Service::Google => Arc::new(built!(google(config).with_bucket_name(&bucket.name))),
        Service::Azure => Arc::new(built!(azure(config).with_container_name(&bucket.name))),
    })
}

fn s3(config: &Config) -> AmazonS3Builder {
    let mut builder = match &config.access_key_id {
        None => AmazonS3Builder::from_env(),
        // Not from the environment: a session token there belongs to other keys.
        Some(id) => {
            AmazonS3Builder::new().with_access_key_id(id).with_secret_access_key(config.secret_access_key.expose())
        }
    };
    let region = config.region.clone().or_else(|| std::env::var("AWS_REGION").ok());
    if let Some(region) = region {
        builder = builder.with_region(region);
    }
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    builder
}

fn google(config: &Config) -> GoogleCloudStorageBuilder {
    let mut builder = GoogleCloudStorageBuilder::from_env();
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_base_url(endpoint);
    }
    if !config.service_account_key.is_empty() {
        builder = builder.with_service_account_key(config.service_account_key.expose());
    }
    builder
}

fn azure(config: &Config) -> MicrosoftAzureBuilder {
    let mut builder = MicrosoftAzureBuilder::from_env();
    if let Some(account) = &config.account {
        builder = builder.with_account(account);
    }
    if let Some(endpoint) = &config.endpoint {
        builder = builder.with_endpoint(endpoint.clone());
    }
    if !config.account_key.is_empty() {
        builder = builder.with_access_key(config.account_key.expose());
    }
    builder
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use headrace_tests::standin::s3::{BUCKET, REGION, S3};
    use headrace_tests::standin::server::{Failure as Fail, When, Which};
    use object_store::aws::AmazonS3ConfigKey;
    use tempfile::NamedTempFile;

    use super::*;

    #[tokio::test]
    async fn a_refusal_of_those_who_give_credentials_is_not_taken_for_the_services() {
        let s3 = S3::start().await;
        let mut token = NamedTempFile::new().unwrap();
        token.write_all(b"token").unwrap();
        let store = AmazonS3Builder::new()
            .with_endpoint(s3.url())
            .with_region(REGION)
            .with_bucket_name(BUCKET)
            .with_config(AmazonS3ConfigKey::ContainerCredentialsFullUri, format!("{}/credentials", s3.url()))
            .with_config(AmazonS3ConfigKey::ContainerAuthorizationTokenFile, token.path().display().to_string())
            .with_client_options(ClientOptions::new().with_allow_http(true))
            .with_retry(RetryConfig { max_retries: 0, ..RetryConfig::default() })
            .with_http_connector(Connector);
        let client = Client { store: Arc::new(store.build().unwrap()), prefix: None };
        for (status, expected) in [(404, Class::NoCredentials), (403, Class::NoCredentials), (503, Class::Away)] {
            s3.fail_next(1, Fail::Status(status), When::Before, Which::Any);
            let failure = client.list(Start::Beginning, 1).await.unwrap_err();
            assert_eq!(failure.class, expected, "{status}: {failure}");
            let fault = failure.fault("list the bucket s3://logs/").to_string();
            assert!(!fault.contains("expected a bucket of this name"), "{fault}");
        }
        assert_eq!((s3.failures_left(), s3.listed()), (0, 0));
    }
}
