//! The gateway: verifies each request and stores it in JetStream before it answers.
//!
//! It reads as little of a body as it can and never changes one. A 2xx answer means that the body is stored, byte for
//! byte. Any other answer means that the sender still has the only copy.
//!
//! [`source`] is the contract of a source, [`sources`] their registry, and each has a folder, [`github`] and [`ndjson`].
//! [`gateway`] is the server. Every source's requests go through `receive`, and all that comes in goes through `store`.
//! [`collect`] asks the sources that must be asked, and [`github::recovery`] asks GitHub for deliveries that did not
//! arrive. `lines` and [`objects`] are for sources that read files and buckets.

pub mod collect;
pub mod config;
mod digest;
pub mod gateway;
pub mod github;
mod lines;
pub mod ndjson;
pub mod objects;
mod receive;
pub mod source;
pub mod sources;
mod store;
pub mod tenant;
