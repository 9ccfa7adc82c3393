//! The signals of a process: metrics, health, trace context, and lines of the log that recur.

pub mod component;
pub mod health;
pub mod metrics;
pub mod recurring;
pub mod trace;
