//! The binary `headrace` as its users have it: started, asked, stopped, killed.
//!
//! [`process`] starts it and waits for its ready file, [`hook`] sends it what GitHub sends, [`load`] does so
//! without a pause, [`stored`] looks at what became of it in ClickHouse and NATS, [`admin`] at what it
//! says of itself.

pub mod admin;
pub mod hook;
pub mod load;
pub mod process;
pub mod stored;
