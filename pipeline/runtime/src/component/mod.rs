//! The contracts of components: what a stage and a sink are, and what they are given.
//!
//! Components classify faults. They never retry, sleep, acknowledge or spawn. The loops in [`crate::consume`] call
//! them.

pub mod batch;
pub mod sink;
pub mod stage;
pub mod subscription;
