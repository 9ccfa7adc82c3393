//! What the service answered to a request, and what a failure means.
//!
//! The library's errors do not always say which status the service gave. And the library asks others besides, such as those
//! who give credentials. So each of our requests carries a [`Call`], on which the answer to that very request is noted.
//! What is noted never depends on other requests.

use std::error::Error as StdError;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use axum::http::{HeaderMap, StatusCode, header};
use futures::StreamExt as _;
use headrace_runtime::fault::Fault;
use http_body_util::{BodyExt as _, Limited};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
    ReqwestConnector,
};
use object_store::{ClientOptions, Error, Extensions};

/// The largest answer. A page of a listing with the longest names has some 2 MiB.
pub(super) const ANSWER_BYTES_MAX: usize = 16 << 20;
/// So much of a refusal is read. The rest would only make messages longer.
const REFUSAL_BYTES_MAX: usize = 4 << 10;
/// The codes of an object whose content must be restored before it can be read: S3's, and two of Azure.
const ARCHIVED: [&str; 3] = ["InvalidObjectState", "BlobArchived", "BlobBeingRehydrated"];
/// What a listing of S3 and Google begins with, and one of Azure.
const LISTINGS: [&[u8]; 2] = [b"ListBucketResult", b"EnumerationResults"];
/// That is within so many bytes.
const LISTING_HEAD_BYTES: usize = 4 << 10;
/// S3's code for a request whose time is too far from the service's.
const SKEWED: &str = "RequestTimeTooSkewed";

/// What a failure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// What was asked for is not there.
    Missing,
    /// It is not what it was.
    Replaced,
    /// We may not.
    Denied,
    /// Those who give credentials refuse us.
    NoCredentials,
    /// Our clock is wrong.
    Skewed,
    /// It must be restored before it can be read.
    Archived,
    /// The service does not understand us.
    Refused,
    /// It has a name that cannot be asked for.
    BadName,
    /// The service does not answer as its protocol says.
    Garbled,
    /// It does not come in the time of a page.
    Slow,
    /// It may go well the next time.
    Away,
}

/// What was told of a request.
#[derive(Debug, Default)]
struct Told {
    /// It asks for a listing.
    is_listing: bool,
    status: Option<StatusCode>,
    /// The service's own code of a refusal, such as `AccessDenied`.
    code: Option<String>,
    /// For how long it asks to wait.
    retry_after: Option<Duration>,
    /// The service's clock, in seconds since the epoch.
    clock: Option<i64>,
    /// How those refused who give credentials.
    credentials: Option<StatusCode>,
}

tokio::task_local! {
    /// The request that is under way.
    static UNDER_WAY: Call;
}

/// A request of ours.
#[derive(Clone, Debug, Default)]
pub(super) struct Call(Arc<Mutex<Told>>);

impl Call {
    /// A request for a listing.
    pub(super) fn of_listing() -> Self {
        Self(Arc::new(Mutex::new(Told { is_listing: true, ..Told::default() })))
    }

    /// By what the request is known as ours.
    pub(super) fn extensions(&self) -> Extensions {
        let mut extensions = Extensions::new();
        extensions.insert(self.clone());
        extensions
    }

    /// Runs `request`, which carries [`Self::extensions`].
    ///
    /// # Errors
    /// What the request's failure means.
    pub(super) async fn run<T>(&self, request: impl Future<Output = Result<T, Error>>) -> Result<T, Failure> {
        UNDER_WAY.scope(self.clone(), request).await.map_err(|error| self.failure(error))
    }

    /// The service's clock, in seconds since the epoch, if it told it.
    pub(super) fn clock(&self) -> Option<i64> {
        self.told().clock
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, status: StatusCode, headers: &HeaderMap) {
        let header = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let mut told = self.told();
        told.status = Some(status);
        told.retry_after = header(header::RETRY_AFTER).and_then(|wish| wish.parse().ok()).map(Duration::from_secs);
        let clock = header(header::DATE).and_then(|date| httpdate::parse_http_date(date).ok());
        let since = clock.and_then(|clock| clock.duration_since(std::time::UNIX_EPOCH).ok());
        told.clock = since.and_then(|since| i64::try_from(since.as_secs()).ok());
    }

    fn failure(&self, error: Error) -> Failure {
        let told = self.told();
        Failure { class: told.class(&error), retry_after: told.retry_after, source: error.into() }
    }
}

impl Told {
    fn class(&self, error: &Error) -> Class {
        if matches!(error, Error::InvalidPath { .. }) {
            return Class::BadName;
        }
        let Some(status) = self.status else {
            // It was not sent.
            let is_refused = self.credentials.is_some_and(|status| status.is_client_error());
            return if is_refused { Class::NoCredentials } else { Class::Away };
        };
        let code = self.code.as_deref().unwrap_or_default();
        match status {
            _ if ARCHIVED.contains(&code) => Class::Archived,
            StatusCode::FORBIDDEN if code == SKEWED => Class::Skewed,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Class::Denied,
            StatusCode::NOT_FOUND => Class::Missing,
            StatusCode::PRECONDITION_FAILED | StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::NOT_MODIFIED => {
                Class::Replaced
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => Class::Away,
            _ if status.is_client_error() || status.is_redirection() => Class::Refused,
            _ if status.is_success() && !is_broken_off(error) => Class::Garbled,
            _ => Class::Away,
        }
    }
}

/// Whether the answer did not come to its end, so that nothing can be said of what is in it.
fn is_broken_off(error: &(dyn StdError + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| (*error).source());
    causes.any(|error| error.downcast_ref::<HttpError>().is_some_and(|error| !is_ours(error)))
}

/// Whether it is an error that is made here, of what came.
fn is_ours(error: &(dyn StdError + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| (*error).source());
    causes.any(|error| error.is::<TooLarge>() || error.is::<NoListing>())
}

/// A request that failed, and what that means.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) class: Class,
    retry_after: Option<Duration>,
    source: Box<dyn StdError + Send + Sync>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)
    }
}

impl StdError for Failure {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.source()
    }
}

impl Failure {
    /// One that no answer of the service tells of.
    pub(super) fn new(class: Class, why: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self { class, retry_after: None, source: why.into() }
    }

    /// The fault of a request that was to `operation`.
    pub(super) fn fault(self, operation: &str) -> Fault {
        let (class, retry_after) = (self.class, self.retry_after);
        let expected = match class {
            Class::Away | Class::Slow => {
                let error = anyhow::Error::new(self).context(format!("cannot {operation}"));
                return Fault::transient_after(retry_after, error);
            }
            Class::BadName => {
                "expected names without empty parts, `.` and `..`, found another; rename it, or set `url` to a folder \
                 without it"
            }
            Class::Missing => {
                "expected a bucket of this name, found none; create it, or correct the `url`, the region and the endpoint"
            }
            Class::NoCredentials => {
                "expected credentials from where this machine or the environment says, was refused there; correct that, or \
                 set a key beside the bucket"
            }
            Class::Skewed => "expected the service's time, found another; set this machine's clock",
            Class::Garbled => {
                "expected what the service's protocol says, found something else; is the endpoint that of the bucket's \
                 service, with nothing before it that answers in its place?"
            }
            Class::Archived => "expected an object that can be read, found one that is archived; restore it",
            Class::Denied | Class::Refused | Class::Replaced => {
                "expected credentials that may list and read it, and the bucket's own region; correct them, or give them \
                 these rights"
            }
        };
        Fault::broken(anyhow::Error::new(self).context(format!("cannot {operation}: {expected}")))
    }
}

/// An answer is too large.
#[derive(Debug, thiserror::Error)]
#[error("expected an answer of at most {max} bytes, found more", max = ANSWER_BYTES_MAX)]
struct TooLarge;

/// An answer is something else than what was asked for.
#[derive(Debug, thiserror::Error)]
#[error("expected a listing, found another document")]
struct NoListing;

/// Makes clients that note answers.
#[derive(Debug, Default)]
pub(super) struct Connector;

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(Noting(ReqwestConnector::default().connect(options)?)))
    }
}

#[derive(Debug)]
struct Noting(HttpClient);

#[async_trait]
impl HttpService for Noting {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let own = request.extensions().get::<Call>().cloned();
        let response = self.0.execute(request).await?;
        let status = response.status();
        match &own {
            Some(call) => call.note(status, response.headers()),
            // Outside of our requests nobody wants to know.
            None => _ = UNDER_WAY.try_with(|call| call.told().credentials = Some(status)),
        }
        if status.is_client_error() || status.is_server_error() {
            let (parts, body) = response.into_parts();
            let text = beginning(body).await;
            if let Some(call) = own {
                let code = parts.headers.get("x-ms-error-code").and_then(|code| code.to_str().ok());
                call.told().code = code.or_else(|| code_of(&text)).map(str::to_owned);
            }
            return Ok(HttpResponse::from_parts(parts, text.into()));
        }
        let response = response.map(limited);
        if own.is_some_and(|call| call.told().is_listing) { listing(response).await } else { Ok(response) }
    }
}

/// The beginning of a refusal. Its status has come, so a body that breaks off does no harm.
async fn beginning(body: HttpResponseBody) -> String {
    let (mut bytes, mut chunks) = (Vec::new(), body.bytes_stream());
    while bytes.len() < REFUSAL_BYTES_MAX
        && let Some(Ok(chunk)) = chunks.next().await
    {
        bytes.extend_from_slice(&chunk[..chunk.len().min(REFUSAL_BYTES_MAX - bytes.len())]);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The code in a refusal.
fn code_of(text: &str) -> Option<&str> {
    let (_, after) = text.split_once("<Code>")?;
    after.split_once("</Code>").map(|(code, _)| code)
}

/// The listing in `response`. The library takes any XML for one, also a page that somebody answers with in the service's
/// place, and then the bucket seems to be empty.
async fn listing(response: HttpResponse) -> Result<HttpResponse, HttpError> {
    let (parts, body) = response.into_parts();
    let bytes = body.bytes().await?;
    let head = &bytes[..bytes.len().min(LISTING_HEAD_BYTES)];
    if LISTINGS.iter().any(|root| memchr::memmem::find(head, root).is_some()) {
        return Ok(HttpResponse::from_parts(parts, bytes.into()));
    }
    Err(HttpError::new(HttpErrorKind::Decode, NoListing))
}

/// `body`, up to the largest answer.
fn limited(body: HttpResponseBody) -> HttpResponseBody {
    HttpResponseBody::new(Limited::new(body, ANSWER_BYTES_MAX).map_err(|error| match error.downcast::<HttpError>() {
        Ok(error) => *error,
        Err(_) => HttpError::new(HttpErrorKind::Decode, TooLarge),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_failure_means_is_told_by_the_answer_to_that_very_request() {
        let generic = || Error::Generic { store: "bucket", source: "failed".into() };
        let told = |status: u16, code: Option<&str>| Told {
            status: Some(StatusCode::from_u16(status).unwrap()),
            code: code.map(str::to_owned),
            ..Told::default()
        };
        for (status, code, expected) in [
            (403, Some("AccessDenied"), Class::Denied),
            (403, Some("InvalidObjectState"), Class::Archived),
            (409, Some("BlobArchived"), Class::Archived),
            (403, Some("RequestTimeTooSkewed"), Class::Skewed),
            (401, None, Class::Denied),
            (404, None, Class::Missing),
            (412, None, Class::Replaced),
            (400, Some("AuthorizationHeaderMalformed"), Class::Refused),
            (301, None, Class::Refused),
            (429, None, Class::Away),
            (503, Some("SlowDown"), Class::Away),
            (200, None, Class::Garbled),
        ] {
            assert_eq!(told(status, code).class(&generic()), expected, "{status} {code:?}");
        }
        // Those who give credentials answered, and the request was never sent.
        let of_credentials = |status| Told { credentials: Some(status), ..Told::default() };
        assert_eq!(of_credentials(StatusCode::NOT_FOUND).class(&generic()), Class::NoCredentials);
        assert_eq!(of_credentials(StatusCode::SERVICE_UNAVAILABLE).class(&generic()), Class::Away);
        assert_eq!(Told::default().class(&generic()), Class::Away);
        let broken_off = || HttpError::new(HttpErrorKind::Interrupted, std::io::Error::other("reset"));
        let error = Error::Generic { store: "bucket", source: Box::new(broken_off()) };
        assert_eq!(told(200, None).class(&error), Class::Away);
        let error =
            Error::Generic { store: "bucket", source: Box::new(HttpError::new(HttpErrorKind::Decode, TooLarge)) };
        assert_eq!(told(200, None).class(&error), Class::Garbled);
    }
}
