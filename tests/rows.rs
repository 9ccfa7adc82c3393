//! Rows in ClickHouse: each event once, whatever fails, and made again by `headrace replay`.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod clickhouse;
mod replay;
