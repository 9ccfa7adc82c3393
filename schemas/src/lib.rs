//! What every part of Headrace agrees on: the event model, its Avro form, subjects, headers and the
//! catalog of event kinds.
//!
//! This crate does no I/O and knows nothing of NATS, HTTP or any sink. Start at [`event::Event`];
//! how it travels is in [`codec`], [`subject`] and [`header`]; what GitHub's event kinds mean is
//! data, read by [`catalog`].

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
