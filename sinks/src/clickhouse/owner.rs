//! Whose a database is: that of one sink, by its name, in however many processes. The comment of its table `owner` says it.
//!
//! Two sinks that write one table do not see each other's first deliveries, and each event gets two rows. The
//! configuration cannot always tell: a server has many addresses, and two processes may have two configurations. Only the
//! sinks look at the owner. A replay and the commands write for it, whoever it is.

use clickhouse::Client;
use headrace_runtime::fault::Fault;

use super::classify::fault;

/// The table that says whose the database is. It holds no rows.
const TABLE: &str = "owner";

/// Makes `sink` the owner of a database that has none. Of two that try, one succeeds.
///
/// # Errors
/// Broken when another sink is the owner.
pub(super) async fn claim(client: &Client, database: &str, sink: &str) -> Result<(), Fault> {
    if found(client, database).await?.is_none() {
        let sql = "CREATE TABLE IF NOT EXISTS ? (note String COMMENT 'no row is ever here: the comment of this table names \
                   the sink that writes this database') ENGINE = MergeTree ORDER BY note COMMENT ?";
        let made = client.query(sql).bind(clickhouse::sql::Identifier(TABLE)).bind(sink).execute().await;
        made.map_err(|error| {
            let fault = fault(error).fault;
            Fault { source: fault.source.context("cannot note in ClickHouse which sink writes the database"), ..fault }
        })?;
    }
    verify(client, database, sink).await
}

/// Refuses the database of another sink. One without an owner is nobody else's.
///
/// # Errors
/// Broken when another sink is the owner.
pub(super) async fn verify(client: &Client, database: &str, sink: &str) -> Result<(), Fault> {
    match found(client, database).await? {
        Some(owner) if owner != sink => Err(Fault::broken(anyhow::anyhow!(
            "expected a database that only the sink `{sink}` writes, found that `{database}` there is that of the sink \
             `{owner}`, as the comment of its table `{TABLE}` says: with two sinks each event would have two rows. Give one of \
             them another `database`. If `{owner}` is gone or has another name now, hand the database over with \
             `DROP TABLE {database}.{TABLE}`; the sink that looks next takes it"
        ))),
        _ => Ok(()),
    }
}

async fn found(client: &Client, database: &str) -> Result<Option<String>, Fault> {
    let query = client.query("SELECT comment FROM system.tables WHERE database = ? AND name = ?");
    let found = query.bind(database).bind(TABLE).fetch_optional::<String>().await;
    found.map_err(|error| fault(error).fault)
}
