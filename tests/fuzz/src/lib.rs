//! Fuzz targets: functions that take any bytes and panic when a promise is broken.
//!
//! `cargo +nightly fuzz run normalize` in `tests/` runs one under libFuzzer; `cargo run --bin seeds` writes
//! its corpus first. `tests/fuzz/stable.rs` runs the same functions on a stable toolchain, without
//! coverage, in every `cargo test`.

pub mod seeds;
pub mod targets;
