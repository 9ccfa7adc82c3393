//! The queries that commands, reports, dashboards and programs share.

pub(crate) mod received;
