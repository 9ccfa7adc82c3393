//! Everything that writes to ClickHouse: inserts, each event once; tables and their migrations; rows that are replaced.

mod columns;
pub(crate) mod earlier;
pub(crate) mod gaps;
pub(crate) mod insert;
mod lookup;
pub(crate) mod migrate;
pub(crate) mod rewrite;
pub(crate) mod row;
pub(crate) mod side;
