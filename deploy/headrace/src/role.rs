//! The roles of a process, and the names that processes, users' rights and commands share.

use clap::ValueEnum;

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

/// The component that keeps every event, in the installation's own ClickHouse.
pub(crate) const CLICKHOUSE: &str = "clickhouse";
/// The component that keeps every body there.
pub(crate) const CLICKHOUSE_RAW: &str = "clickhouse-raw";
/// The key of the lease of who moves the rows of an earlier release in the ClickHouse of the sink `store`, in the bucket
/// `state`. The first release with such a lease had it for [`CLICKHOUSE`].
pub(crate) fn earlier_tables_lease(store: &str) -> String {
    let key = "lease.earlier_tables";
    if store == CLICKHOUSE { key.to_owned() } else { format!("{key}.{store}") }
}
