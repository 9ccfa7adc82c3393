//! The stages: normalize → enrich → score, and alert behind them.
//!
//! A stage turns values into values. It never sees NATS; alert keeps its state through the runtime's store. A new stage
//! is a folder here and a line in [`chains::ORDER`].

pub mod alert;
pub mod chains;
pub mod enrich;
#[cfg(test)]
mod fixture;
pub mod normalize;
pub mod score;
