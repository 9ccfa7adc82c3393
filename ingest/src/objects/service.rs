//! The client of a bucket's service, and what its failures mean.
//!
//! The library's errors do not always say which status the service gave. So each answer's status is noted as it comes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use async_trait::async_trait;
use axum::http::{StatusCode, header};
use headrace_runtime::fault::Fault;
use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::{ClientOptions, Error, ObjectStore, RetryConfig};

use super::config::{Bucket, Config, Service};

/// The longest request. It brings a piece of an object, or a page of a listing.
const REQUEST_MAX: Duration = Duration::from_secs(20);
const CONNECT_MAX: Duration = Duration::from_secs(5);

/// What a failure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// What was asked for is not there.
    Missing,
    /// It is not what it was.
    Replaced,
    /// We may not, or the service does not understand us.
    Refused,
    /// It may go well the next time.
    Away,
}

/// The status of an answer, and for how long it asks to wait.
type Told = (StatusCode, Option<Duration>);

/// What the last answer told.
#[derive(Clone, Debug, Default)]
pub(super) struct Answers(Arc<Mutex<Option<Told>>>);

impl Answers {
    fn note(&self, answer: Option<Told>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = answer;
    }

    fn last(&self) -> Option<Told> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What `error` means, which came of the last request.
    pub(super) fn class(&self, error: &Error) -> Class {
        match error {
            Error::NotFound { .. } => return Class::Missing,
            Error::Precondition { .. } | Error::NotModified { .. } => return Class::Replaced,
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } | Error::InvalidPath { .. } => {
                return Class::Refused;
            }
            _ => {}
        }
        match self.last().map(|(status, _)| status) {
            Some(StatusCode::NOT_FOUND) => Class::Missing,
            Some(StatusCode::PRECONDITION_FAILED | StatusCode::RANGE_NOT_SATISFIABLE) => Class::Replaced,
            Some(StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT) => Class::Away,
            Some(status) if status.is_client_error() || status.is_redirection() => Class::Refused,
            _ => Class::Away,
        }
    }

    /// The fault of a request that was to `operation`, and failed with `error`.
    pub(super) fn fault(&self, error: Error, operation: &str) -> Fault {
        if let Error::InvalidPath { .. } = error {
            return Fault::broken(anyhow::Error::new(error).context(format!(
                "cannot {operation}: expected names without empty parts, `.` and `..`, found another; rename it, or set `url` \
                 to a folder without it"
            )));
        }
        let class = self.class(&error);
        let wish = self.last().and_then(|(_, wish)| wish);
        let error = anyhow::Error::new(error);
        match class {
            Class::Away => Fault::transient_after(wish, error.context(format!("cannot {operation}"))),
            Class::Missing => Fault::broken(error.context(format!(
                "cannot {operation}: expected a bucket of this name, found none; create it, or correct the `url`, the region \
                 and the endpoint"
            ))),
            Class::Refused | Class::Replaced => Fault::broken(error.context(format!(
                "cannot {operation}: expected credentials that may list and read it, and the bucket's own region; correct \
                 them, or give them these rights"
            ))),
        }
    }
}

#[derive(Debug)]
struct Noting {
    client: HttpClient,
    answers: Answers,
}

#[async_trait]
impl HttpService for Noting {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.answers.note(None);
        let response = self.client.execute(request).await?;
        let wish = response.headers().get(header::RETRY_AFTER);
        let wish = wish.and_then(|wish| wish.to_str().ok()?.parse().ok()).map(Duration::from_secs);
        self.answers.note(Some((response.status(), wish)));
        Ok(response)
    }
}

impl HttpConnector for Answers {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let client = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Noting { client, answers: self.clone() }))
    }
}

/// The client of `bucket`. It does not touch the network.
pub(super) fn build(bucket: &Bucket, config: &Config) -> anyhow::Result<(Arc<dyn ObjectStore>, Answers)> {
    let answers = Answers::default();
    let is_plain = config.endpoint.as_ref().is_some_and(|url| url.starts_with("http://"));
    let options = ClientOptions::new()
        .with_timeout(REQUEST_MAX)
        .with_connect_timeout(CONNECT_MAX)
        .with_allow_http(is_plain || std::env::var("AWS_ALLOW_HTTP").is_ok_and(|value| value == "true"));
    // The runtime alone decides when to try again.
    let retry = RetryConfig { max_retries: 0, ..RetryConfig::default() };
    let store: anyhow::Result<Arc<dyn ObjectStore>> = match bucket.service {
        Service::S3 => s3(config)
            .with_bucket_name(&bucket.name)
            .with_client_options(options)
            .with_retry(retry)
            .with_http_connector(answers.clone())
            .build()
            .map(|store| Arc::new(store) as _)
            .map_err(Into::into),
        Service::Google => google(config)
            .with_bucket_name(&bucket.name)
            .with_client_options(options)
            .with_retry(retry)
            .with_http_connector(answers.clone())
            .build()
            .map(|store| Arc::new(store) as _)
            .map_err(Into::into),
        Service::Azure => azure(config)
            .with_container_name(&bucket.name)
            .with_client_options(options)
            .with_retry(retry)
            .with_http_connector(answers.clone())
            .build()
            .map(|store| Arc::new(store) as _)
            .map_err(Into::into),
    };
    let store =
        store.with_context(|| format!("cannot make a client for {} of the settings of its bucket", bucket.told()))?;
    Ok((store, answers))
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
