//! The names of the NATS headers on Headrace's messages. Other modules use these constants.
//!
//! On RAW, the original headers `X-Hub-Signature-256`, `X-GitHub-*` and `Content-Type` travel beside these, so that
//! anybody with the secret can verify the signature again.

/// JetStream's deduplication key.
pub const MESSAGE_ID: &str = "Nats-Msg-Id";
/// The W3C trace context of the request that brought the event.
pub const TRACEPARENT: &str = "traceparent";
/// The event's stable id, [`crate::id::EventId`].
pub const ID: &str = "Headrace-Id";
/// The source that took the event in: `github`, `ndjson`.
pub const SOURCE: &str = "Headrace-Source";
/// The source's name of the event kind: `push`.
pub const EVENT: &str = "Headrace-Event";
/// The time that the source gave with the id: microseconds since the Unix epoch, decimal. It depends on nothing but what
/// was delivered, so it is the same whenever that is delivered again. Absent when the source gave none, or when the id tells
/// it itself ([`crate::id::EventId::created_at`]).
pub const EVENT_TIME: &str = "Headrace-Event-Time";
/// When the gateway received it: microseconds since the Unix epoch, decimal.
pub const RECEIVED_AT: &str = "Headrace-Received-At";
/// The object in the bucket `bodies` that holds the body (claim check). Absent when the payload is the body.
pub const BODY_OBJECT: &str = "Headrace-Body-Object";
/// The size of that body in bytes, decimal. So a reader knows how much it will hold before it fetches the body.
pub const BODY_BYTES: &str = "Headrace-Body-Bytes";
/// SHA-256 of the body, as 64 lower-case hexadecimal digits.
pub const BODY_SHA256: &str = "Headrace-Body-Sha256";
/// On DEAD: which component gave the message up.
pub const DEAD_COMPONENT: &str = "Headrace-Dead-Component";
/// On DEAD: the reason's stable code.
pub const DEAD_REASON: &str = "Headrace-Dead-Reason";
/// On DEAD: the reason in words, with its chain of causes.
pub const DEAD_DETAIL: &str = "Headrace-Dead-Detail";
/// On DEAD: how often the message had been tried.
pub const DEAD_ATTEMPTS: &str = "Headrace-Dead-Attempts";
/// On DEAD: the subject that the message had.
pub const DEAD_SUBJECT: &str = "Headrace-Dead-Subject";
/// On DEAD: the stream and sequence that the message had, as `RAW:42`.
pub const DEAD_ORIGIN: &str = "Headrace-Dead-Origin";
/// On a message that was redriven from DEAD: how often that was done. Effects of the message may exist already.
pub const REDRIVES: &str = "Headrace-Redrives";
/// On a message that was redriven from DEAD: how often it had been tried before.
pub const ATTEMPTS_BEFORE: &str = "Headrace-Attempts-Before";
/// The prefix of the headers that a message has only on DEAD.
pub const DEAD_PREFIX: &str = "Headrace-Dead-";

/// GitHub's header with the event kind.
pub const GITHUB_EVENT: &str = "X-GitHub-Event";
/// GitHub's header with the delivery GUID.
pub const GITHUB_DELIVERY: &str = "X-GitHub-Delivery";
/// GitHub's header with `sha256=<hex HMAC>`.
pub const GITHUB_SIGNATURE: &str = "X-Hub-Signature-256";
/// Why a line can never be read, on the record that stands for it. It stays with the body, in the table `raw` too, so it
/// is none of the headers `Headrace-*`, which the gateway makes anew.
pub const UNREADABLE: &str = "X-Unreadable";
/// The media type of a body. It distinguishes JSON from a form.
pub const CONTENT_TYPE: &str = "Content-Type";
