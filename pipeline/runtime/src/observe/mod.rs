//! The signals of a process: metrics, health, trace context.

pub mod component;
pub mod health;
pub mod metrics;
pub mod trace;
