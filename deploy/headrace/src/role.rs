//! The roles of a process, and the names of the sinks.

use clap::ValueEnum;
use headrace_runtime::broker::Stream;

/// A part of the pipeline that can be a process of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// The gateway.
    Ingest,
    /// The stages.
    Pipeline,
    /// The sinks.
    Sinks,
    /// Asks the sources that must be asked, if any is configured.
    Collect,
    /// The recovery of missed deliveries, if `[recover]` is configured.
    Recover,
}

pub(crate) const ALL_ROLES: [Role; 5] = [Role::Ingest, Role::Collect, Role::Pipeline, Role::Sinks, Role::Recover];

/// The sink that keeps every event.
pub(crate) const CLICKHOUSE: &str = "clickhouse";
/// The sink that keeps every body.
pub(crate) const CLICKHOUSE_RAW: &str = "clickhouse-raw";
pub(crate) const SPLUNK: &str = "splunk";
pub(crate) const JIRA: &str = "jira";
pub(crate) const FILE_EVENTS: &str = "file-events";
pub(crate) const FILE_ALERTS: &str = "file-alerts";
/// Every sink with the stream that it reads. The rights of the sinks' user follow from this.
pub(crate) const SINKS: [(&str, Stream); 6] = [
    (CLICKHOUSE, Stream::Events),
    (CLICKHOUSE_RAW, Stream::Raw),
    (SPLUNK, Stream::Events),
    (JIRA, Stream::Alerts),
    (FILE_EVENTS, Stream::Events),
    (FILE_ALERTS, Stream::Alerts),
];
