//! The gateway: verifies what comes in and stores it in JetStream before it answers.
//!
//! It reads as little of a body as it can and never changes one. A 2xx answer means that the body is
//! stored, byte for byte; anything else means that the sender still has the only copy.
//!
//! [`gateway`] is the server and has the registry of sources; `receive` is what every source's requests go through.
//! Each source has a folder: [`github`], with [`github::recovery`], which asks GitHub for what did not arrive. A new
//! source is a folder and a line in the registry.

pub mod config;
pub mod gateway;
pub mod github;
mod receive;
