//! The queries that commands, reports, dashboards and programs share.

pub(crate) mod event;
mod missed;
pub(crate) mod received;
