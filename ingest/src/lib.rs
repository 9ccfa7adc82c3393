//! The gateway: verifies each request and stores it in JetStream before it answers.
//!
//! It reads as little of a body as it can and never changes one. A 2xx answer means that the body is stored, byte for
//! byte. Any other answer means that the sender still has the only copy.
//!
//! [`gateway`] is the server, with the registry of sources. Every source's requests go through `receive`. Each source
//! has a folder, such as [`github`]. [`github::recovery`] asks GitHub for deliveries that did not arrive. To add a
//! source, add a folder and a line in the registry.

pub mod config;
pub mod gateway;
pub mod github;
mod receive;
