//! Tables beside `events`, with the same columns, for what a replay computes.

use clickhouse::Client;
use headrace_runtime::fault::Fault;

use crate::clickhouse::classify::fault;

/// Makes the table `name` when it is not there. Refuses a table with another comment.
pub(crate) async fn create(client: &Client, database: &str, name: &str, comment: &str) -> Result<(), Fault> {
    let made = client.query("CREATE TABLE IF NOT EXISTS ? AS events COMMENT ?");
    let made = made.bind(clickhouse::sql::Identifier(name)).bind(comment).execute().await;
    made.map_err(|error| fault(error).fault)?;
    let query = client.query("SELECT comment FROM system.tables WHERE database = ? AND name = ?");
    let found = query.bind(database).bind(name).fetch_one::<String>().await.map_err(|error| fault(error).fault)?;
    if found == comment {
        return Ok(());
    }
    Err(Fault::broken(anyhow::anyhow!(
        "expected no table `{name}`, or that of this replay when it was interrupted; found one with the comment \
         `{found}`. Choose another name, or drop the table"
    )))
}
