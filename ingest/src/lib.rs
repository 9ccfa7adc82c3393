//! The gateway: verifies what comes in and stores it in JetStream before it answers.
//!
//! It reads as little of a body as it can and never changes one. A 2xx answer means that the body is
//! stored, byte for byte; anything else means that the sender still has the only copy. One module per
//! source; a new source is a module and a line in the routes of [`gateway::Gateway`]. [`recover`] is the other half of the
//! source GitHub: it asks for what did not arrive.

mod admission;
pub mod config;
pub mod gateway;
pub mod github;
pub mod recover;
mod reply;
pub mod tenant;
