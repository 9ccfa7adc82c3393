//! The binary `headrace` as its users have it: started, asked, stopped, killed.
//!
//! [`process`] starts it and waits for its ready file. [`hook`] sends to it what GitHub sends, and [`load`] does so
//! without a pause. [`stored`] shows what became of it in ClickHouse and NATS, [`admin`] what the process reports about
//! itself.

pub mod admin;
pub mod hook;
pub mod load;
pub mod process;
pub mod stored;
