//! The queries that commands, reports, dashboards and programs share.

pub(crate) mod event;
pub(crate) mod received;
