//! The machinery under every stage and sink: the only code that consumes JetStream or settles a
//! message.
//!
//! Components ([`chain::Stage`], [`delivery::Sink`]) are called by the loops here and return values;
//! [`settle::settle`] alone decides what becomes of a message. Start with [`chain`] for stages,
//! [`delivery`] and [`sink_loop`] for sinks, [`broker`] for what is in NATS.

mod address;
pub mod admin;
pub mod batch;
mod bodies;
pub mod broker;
pub mod chain;
pub mod config;
pub mod consumer;
mod copies;
pub mod crash;
pub mod dead;
pub mod delivery;
pub mod epoch;
mod failures;
pub mod fault;
pub mod health;
mod hold;
pub mod http;
pub mod lease;
pub mod message;
pub mod metrics;
mod panics;
mod part;
pub mod past;
pub mod patience;
pub mod payload;
pub mod progress;
pub mod publisher;
mod pull;
mod read;
pub mod recreate;
pub mod retention;
pub mod secret;
pub mod settle;
pub mod settler;
pub mod sink_loop;
pub mod state;
pub mod store_health;
pub mod supervisor;
mod topology;
pub mod trace;
