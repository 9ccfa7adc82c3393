//! The binary `headrace` as its users have it: started, asked, stopped, killed.
//!
//! [`process`] starts it and waits for its ready file, [`hook`] sends it what GitHub sends, [`stored`]
//! looks at what became of it in ClickHouse and NATS, [`load`] does all of that without a pause.

pub mod hook;
pub mod load;
pub mod process;
pub mod stored;
