//! The machinery under every stage and sink. No other code consumes JetStream or settles a message.
//!
//! | room | what is in it |
//! |---|---|
//! | [`component`] | the contracts: stage, sink, what they are given |
//! | [`consume`] | takes messages and runs components on them; [`consume::stream_reader`] reads what RAW still holds |
//! | [`aside`] | keeps streams from filling up: sets sinks aside that are far behind, and lets them catch up |
//! | [`settle`] | decides what becomes of a message and carries it out; dead letters, trials |
//! | [`limit`] | when calls to a receiver may be made: its rate, its wish, a circuit breaker |
//! | [`publish`] | publishes messages, and knows which of them the broker has stored |
//! | [`message`] | what travels: a message that was delivered, and what it carries |
//! | [`state`] | small values in JetStream KV; leases |
//! | [`broker`] | the connection to NATS; its streams and buckets, made, watched and kept from filling up |
//! | [`memory`] | what a process may hold: its budget, and how that is divided |
//! | [`observe`] | metrics, health, traces, lines of the log that recur |
//! | [`http`] | the HTTP server under the gateway and under the operators' port |
//!
//! Each room uses only rooms below it; a test fails on a circle. Components ([`component::stage::Stage`],
//! [`component::sink::Sink`]) return values. [`settle::settle`] alone decides what becomes of a message.

pub mod aside;
pub mod broker;
pub mod certificate;
pub mod component;
pub mod config;
pub mod consume;
pub mod crash;
mod every;
pub mod fault;
pub mod http;
pub mod limit;
pub mod memory;
pub mod message;
mod moment;
pub mod observe;
pub mod publish;
pub mod retry;
pub mod secret;
pub mod settle;
pub mod state;
pub mod supervisor;
