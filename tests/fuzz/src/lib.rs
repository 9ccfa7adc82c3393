//! Fuzz targets: functions that take any bytes and panic when a promise is broken.
//!
//! `cargo run --bin seeds` writes the corpora. `cargo +nightly fuzz run normalize` in `tests/` then runs a target under
//! libFuzzer. In every `cargo test`, `tests/fuzz/stable.rs` runs the same functions on a stable toolchain, without
//! coverage.

pub mod seeds;
pub mod targets;
