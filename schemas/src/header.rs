//! Names of the NATS headers that Headrace's messages carry.
//!
//! On RAW the original `X-Hub-Signature-256`, `X-GitHub-*` and `Content-Type` headers travel beside
//! these, so that the signature can be verified again at any time.

/// JetStream's deduplication key.
pub const MESSAGE_ID: &str = "Nats-Msg-Id";
/// W3C trace context of the request that brought the event.
pub const TRACEPARENT: &str = "traceparent";
/// The event's stable id, [`crate::id::EventId`].
pub const ID: &str = "Headrace-Id";
/// The source that took the event in: `github`.
pub const SOURCE: &str = "Headrace-Source";
/// The source's name of the event kind: `push`.
pub const EVENT: &str = "Headrace-Event";
/// When the gateway received it: microseconds since the Unix epoch, decimal.
pub const RECEIVED_AT: &str = "Headrace-Received-At";
/// The name of the object in the bucket `bodies` that holds the body (claim check); absent when the
/// body is the payload.
pub const BODY_OBJECT: &str = "Headrace-Body-Object";
/// The size of that body in bytes, decimal: who takes the message knows what it will hold before reading it.
pub const BODY_BYTES: &str = "Headrace-Body-Bytes";
/// SHA-256 of the body, as 64 lower-case hexadecimal digits.
pub const BODY_SHA256: &str = "Headrace-Body-Sha256";
/// On DEAD: which component gave the message up.
pub const DEAD_COMPONENT: &str = "Headrace-Dead-Component";
/// On DEAD: the reason's stable code.
pub const DEAD_REASON: &str = "Headrace-Dead-Reason";
/// On DEAD: the reason in words, with its chain of causes.
pub const DEAD_DETAIL: &str = "Headrace-Dead-Detail";
/// On DEAD: how many times the message had been tried.
pub const DEAD_ATTEMPTS: &str = "Headrace-Dead-Attempts";
/// On DEAD: the subject the message had.
pub const DEAD_SUBJECT: &str = "Headrace-Dead-Subject";
/// On DEAD: stream and sequence the message had, as `RAW:42`.
pub const DEAD_ORIGIN: &str = "Headrace-Dead-Origin";
/// On a message that was taken out of DEAD and published again: how many times that was done. Effects of
/// it may exist already.
pub const REDRIVES: &str = "Headrace-Redrives";
/// On a message that was taken out of DEAD: how many times it had been tried before that.
pub const ATTEMPTS_BEFORE: &str = "Headrace-Attempts-Before";
/// What the names of the headers begin with that a message has on DEAD alone.
pub const DEAD_PREFIX: &str = "Headrace-Dead-";

/// GitHub's header with the event kind.
pub const GITHUB_EVENT: &str = "X-GitHub-Event";
/// GitHub's header with the delivery GUID.
pub const GITHUB_DELIVERY: &str = "X-GitHub-Delivery";
/// GitHub's header with `sha256=<hex HMAC>`.
pub const GITHUB_SIGNATURE: &str = "X-Hub-Signature-256";
/// The media type of a body, which tells JSON from a form.
pub const CONTENT_TYPE: &str = "Content-Type";
