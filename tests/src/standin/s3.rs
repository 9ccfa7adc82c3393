//! A stand-in for S3: ListObjectsV2 and GetObject, addressed by path.
//!
//! It follows the pages "ListObjectsV2", "GetObject", "Error responses" and "Authenticating Requests (AWS Signature
//! Version 4)" of the Amazon S3 API Reference. It checks each signature, and refuses what S3 refuses.

mod signature;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, Response, StatusCode, Uri, header};
use axum::response::IntoResponse as _;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use flate2::Compression;
use flate2::write::GzEncoder;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use percent_encoding::percent_decode_str;
use sha2::{Digest as _, Sha256};

use super::server::{Protocol, Server};

type Answer = axum::response::Response;

/// The bucket that it has.
pub const BUCKET: &str = "logs";
/// The bucket's region.
pub const REGION: &str = "eu-central-1";
/// The access key's id that it knows.
pub const ACCESS_KEY_ID: &str = "AKIAIOSFODNN7EXAMPLE";
/// The secret of that access key.
pub const SECRET_ACCESS_KEY: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
/// The most names of an answer to ListObjectsV2.
const KEYS_MAX: usize = 1_000;

/// An object.
#[derive(Clone, Debug)]
struct Object {
    body: Bytes,
    tag: String,
    modified: Timestamp,
}

/// How the bucket is listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Listing {
    /// As the protocol says.
    #[default]
    Sound,
    /// With the last names first.
    Unordered,
    /// Parts without names follow one another, each with the same continuation token.
    SameToken,
    /// Parts without names follow one another, each with another continuation token.
    Endless,
    /// With blanks at its end, more than anybody should read.
    Large,
    /// Not at all: somebody answers with a page of theirs.
    Page,
}

/// The stand-in's data and settings.
#[derive(Default)]
pub struct Bucket {
    objects: BTreeMap<String, Object>,
    /// How it is listed.
    pub listing: Listing,
    /// Sizes that the listing tells in place of the true ones.
    pub listed_sizes: BTreeMap<String, i64>,
    /// How far the service's clock is ahead of this machine's, in seconds.
    pub clock_ahead_s: i64,
    /// Objects that the key may not read.
    pub denied: BTreeSet<String>,
    /// Objects that must be restored before they can be read.
    pub archived: BTreeSet<String>,
    /// How long each answer with a piece of these objects takes.
    pub slow: BTreeMap<String, Duration>,
    /// Objects whose reading always ends in a failure of the service.
    pub failing: BTreeSet<String>,
    /// Whether the key may list the bucket.
    pub is_listing_denied: bool,
    /// The bucket was removed.
    pub is_gone: bool,
}

impl Bucket {
    /// Stores an object, as PutObject does.
    pub fn put(&mut self, key: &str, body: impl Into<Bytes>) {
        self.put_at(key, body, self.now().as_second());
    }

    /// Stores an object that S3 says was last modified at `modified`, in seconds since the epoch.
    pub fn put_at(&mut self, key: &str, body: impl Into<Bytes>, modified: i64) {
        let body = body.into();
        // A tag is opaque. S3's own are of MD5, or of the parts of an upload.
        let tag = format!("\"{}\"", hex::encode(&Sha256::digest(&body)[..16]));
        let modified = Timestamp::from_second(modified).expect("a time of these centuries");
        self.objects.insert(key.to_owned(), Object { body, tag, modified });
    }

    /// The service's time.
    fn now(&self) -> Timestamp {
        Timestamp::from_second(Timestamp::now().as_second() + self.clock_ahead_s).expect("a time of these centuries")
    }

    /// Removes an object.
    pub fn remove(&mut self, key: &str) {
        self.objects.remove(key);
    }
}

/// `text` as gzip packs it.
#[must_use]
pub fn packed(text: &str) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(text.as_bytes()).expect("memory takes it");
    packed.finish().expect("memory takes it")
}

type Shared = Arc<Mutex<Bucket>>;

/// The running stand-in.
pub struct S3 {
    server: Server<Rest>,
    bucket: Shared,
}

/// S3's protocol for the server.
pub struct Rest;

impl Protocol for Rest {
    /// The reading of an object.
    fn is_delivery(&self, _: &Method, uri: &Uri) -> bool {
        uri.path().strip_prefix(&format!("/{BUCKET}/")).is_some_and(|key| !key.is_empty())
    }

    fn error_body(&self, status: u16) -> String {
        match status {
            403 => error("AccessDenied", "Access Denied"),
            503 => error("SlowDown", "Please reduce your request rate."),
            _ => error("InternalError", "We encountered an internal error. Please try again."),
        }
    }
}

impl Deref for S3 {
    type Target = Server<Rest>;
    fn deref(&self) -> &Self::Target {
        &self.server
    }
}

impl S3 {
    /// Starts the stand-in on a free port.
    pub async fn start() -> Self {
        let bucket = Shared::default();
        let router = Router::new().fallback(answer).with_state(Arc::clone(&bucket));
        Self { server: Server::start(Rest, router).await, bucket }
    }

    /// The stand-in's data and settings.
    pub fn bucket(&self) -> MutexGuard<'_, Bucket> {
        lock(&self.bucket)
    }

    /// The names of the objects that were read so far, in order, once for each request.
    #[must_use]
    pub fn read(&self) -> Vec<String> {
        let prefix = format!("GET /{BUCKET}/");
        let key =
            |line: String| line.strip_prefix(&prefix).map(|key| percent_decode_str(key).decode_utf8_lossy().into());
        self.recorded().into_iter().filter_map(|request| key(request.line)).collect()
    }

    /// How often the bucket was listed so far.
    #[must_use]
    pub fn listed(&self) -> usize {
        self.recorded().iter().filter(|request| request.line.contains("list-type=2")).count()
    }
}

fn lock(bucket: &Shared) -> MutexGuard<'_, Bucket> {
    bucket.lock().unwrap_or_else(PoisonError::into_inner)
}

fn error(code: &str, message: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message>\
         <RequestId>656c76696e6727732072657175657374</RequestId></Error>"
    )
}

fn refuse(status: StatusCode, code: &str, message: &str) -> Answer {
    (status, [(header::CONTENT_TYPE, "application/xml")], error(code, message)).into_response()
}

async fn answer(State(bucket): State<Shared>, method: Method, uri: Uri, headers: HeaderMap) -> Answer {
    if method != Method::GET {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", "The specified method is not allowed.");
    }
    if let Err((status, code, message)) = signature::check(&method, &uri, &headers) {
        return refuse(status, code, &message);
    }
    let path = uri.path().trim_start_matches('/');
    let (name, key) = path.split_once('/').unwrap_or((path, ""));
    let slow = lock(&bucket).slow.get(&*percent_decode_str(key).decode_utf8_lossy()).copied();
    if let Some(slow) = slow {
        tokio::time::sleep(slow).await;
    }
    let bucket = lock(&bucket);
    let mut answer = answer_of(&bucket, name, key, &uri, &headers);
    let date = last_modified(bucket.now()).parse().expect("a date is a header's value");
    answer.headers_mut().insert(header::DATE, date);
    answer
}

fn answer_of(bucket: &Bucket, name: &str, key: &str, uri: &Uri, headers: &HeaderMap) -> Answer {
    if name != BUCKET || bucket.is_gone {
        return refuse(StatusCode::NOT_FOUND, "NoSuchBucket", "The specified bucket does not exist");
    }
    if key.is_empty() {
        return list(bucket, uri.query().unwrap_or_default());
    }
    let key = percent_decode_str(key).decode_utf8_lossy();
    get(bucket, &key, headers)
}

/// ListObjectsV2.
fn list(bucket: &Bucket, query: &str) -> Answer {
    let invalid = |what: &str| refuse(StatusCode::BAD_REQUEST, "InvalidArgument", what);
    let mut asked: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        const KNOWN: [&str; 5] = ["list-type", "prefix", "start-after", "continuation-token", "max-keys"];
        if !KNOWN.contains(&&*name) || asked.insert(name.into(), value.into()).is_some() {
            return invalid("an argument is not known, or given twice");
        }
    }
    let asked = |name: &str| asked.get(name).map(String::as_str);
    if asked("list-type") != Some("2") {
        return invalid("this is not ListObjectsV2");
    }
    if bucket.is_listing_denied {
        return refuse(StatusCode::FORBIDDEN, "AccessDenied", "not authorized to perform: s3:ListBucket");
    }
    let Ok(keys_max) = asked("max-keys").map_or(Ok(KEYS_MAX), str::parse) else { return invalid("max-keys") };
    let token = match asked("continuation-token").map(|token| URL_SAFE_NO_PAD.decode(token).map(String::from_utf8)) {
        None => None,
        Some(Ok(Ok(key))) => Some(key),
        Some(_) => return invalid("The continuation token provided is incorrect"),
    };
    // With a token, `start-after` is ignored.
    let after = token.as_deref().or(asked("start-after")).unwrap_or_default();
    let prefix = asked("prefix").unwrap_or_default();
    if bucket.listing == Listing::Page {
        let page = "<html xmlns=\"http://www.w3.org/1999/xhtml\"><body>Sign in</body></html>";
        return ([(header::CONTENT_TYPE, "application/xhtml+xml")], page).into_response();
    }
    let mut found = bucket.objects.iter().filter(|(key, _)| key.as_str() > after && key.starts_with(prefix));
    let mut page: Vec<_> = found.by_ref().take(keys_max.min(KEYS_MAX)).collect();
    let is_truncated = found.next().is_some();
    let next = page.last().filter(|_| is_truncated).map(|(last, _)| (*last).clone());
    let next = match bucket.listing {
        Listing::SameToken => Some("same".to_owned()),
        Listing::Endless => Some(format!("{}!", token.as_deref().unwrap_or_default())),
        Listing::Sound | Listing::Unordered | Listing::Large | Listing::Page => next,
    };
    match bucket.listing {
        Listing::SameToken | Listing::Endless => page.clear(),
        Listing::Unordered => page.reverse(),
        Listing::Sound | Listing::Large | Listing::Page => {}
    }
    listed(bucket, prefix, keys_max, &page, next.as_deref())
}

/// An answer to ListObjectsV2, which goes on behind the name `next`.
fn listed(bucket: &Bucket, prefix: &str, keys_max: usize, page: &[(&String, &Object)], next: Option<&str>) -> Answer {
    let is_truncated = next.is_some();
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
         <Name>{BUCKET}</Name><Prefix>{}</Prefix><KeyCount>{}</KeyCount><MaxKeys>{keys_max}</MaxKeys>\
         <IsTruncated>{is_truncated}</IsTruncated>",
        escape(prefix),
        page.len()
    );
    for (key, object) in page {
        let _ = write!(
            xml,
            "<Contents><Key>{}</Key><LastModified>{}</LastModified><ETag>{}</ETag><Size>{}</Size>\
             <StorageClass>STANDARD</StorageClass></Contents>",
            escape(key),
            object.modified,
            escape(&object.tag),
            bucket.listed_sizes.get(*key).map_or_else(|| object.body.len().to_string(), i64::to_string)
        );
    }
    if let Some(next) = next {
        let _ = write!(xml, "<NextContinuationToken>{}</NextContinuationToken>", URL_SAFE_NO_PAD.encode(next));
    }
    xml.push_str("</ListBucketResult>");
    if bucket.listing == Listing::Large {
        xml.push_str(&" ".repeat(17 << 20));
    }
    ([(header::CONTENT_TYPE, "application/xml")], xml).into_response()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// GetObject.
fn get(bucket: &Bucket, key: &str, headers: &HeaderMap) -> Answer {
    if bucket.denied.contains(key) {
        return refuse(StatusCode::FORBIDDEN, "AccessDenied", "not authorized to perform: s3:GetObject");
    }
    if bucket.archived.contains(key) {
        let message = "The operation is not valid for the object's storage class";
        return refuse(StatusCode::FORBIDDEN, "InvalidObjectState", message);
    }
    if bucket.failing.contains(key) {
        return refuse(StatusCode::INTERNAL_SERVER_ERROR, "InternalError", "We encountered an internal error.");
    }
    let Some(object) = bucket.objects.get(key) else {
        return refuse(StatusCode::NOT_FOUND, "NoSuchKey", "The specified key does not exist.");
    };
    let header = |name| headers.get(name).map(|value: &header::HeaderValue| value.to_str().unwrap_or_default());
    if header(header::IF_MATCH).is_some_and(|tag| tag != object.tag) {
        let message = "At least one of the pre-conditions you specified did not hold";
        return refuse(StatusCode::PRECONDITION_FAILED, "PreconditionFailed", message);
    }
    let size = object.body.len();
    let response = Response::builder()
        .header(header::ETAG, &object.tag)
        .header(header::LAST_MODIFIED, last_modified(object.modified))
        .header(header::ACCEPT_RANGES, "bytes")
        .header(header::CONTENT_TYPE, "binary/octet-stream");
    let Some(range) = header(header::RANGE) else {
        return built(response.body(object.body.clone().into()));
    };
    let bounds = range.strip_prefix("bytes=").and_then(|range| range.split_once('-'));
    let bounds = bounds.and_then(|(begin, last)| Some((begin.parse().ok()?, last.parse().ok()?)));
    match bounds {
        Some((begin, last)) if begin <= last && begin < size => {
            let end = size.min(last + 1);
            let response = response
                .status(StatusCode::PARTIAL_CONTENT)
                .header(header::CONTENT_RANGE, format!("bytes {begin}-{}/{size}", end - 1));
            built(response.body(object.body.slice(begin..end).into()))
        }
        _ => refuse(StatusCode::RANGE_NOT_SATISFIABLE, "InvalidRange", "The requested range is not satisfiable"),
    }
}

fn built(response: Result<Answer, axum::http::Error>) -> Answer {
    response.expect("each header is one")
}

fn last_modified(at: Timestamp) -> String {
    DateTimePrinter::new().timestamp_to_rfc9110_string(&at).expect("a time of these centuries")
}
