//! Everything that asks ClickHouse: the queries that commands, reports, dashboards and programs share belong here.

pub(crate) mod received;
