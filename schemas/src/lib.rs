//! What all parts of Headrace agree on: the event model, its Avro form, subjects, headers and the catalog of event
//! kinds.
//!
//! This crate must do no I/O, and knows nothing of NATS, HTTP or any sink. Start at [`event::Event`]. [`codec`],
//! [`subject`] and [`header`] say how it travels. What GitHub's event kinds mean is data, and [`catalog`] reads it.

pub mod alert;
pub mod catalog;
pub mod codec;
pub mod event;
pub mod header;
pub mod id;
pub mod json;
pub mod subject;
pub mod time;
pub mod token;
