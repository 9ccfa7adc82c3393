//! The statements of a rewriting but its inserts: they look rows up and delete them.

use std::collections::{HashMap, HashSet};

use clickhouse::sql::Identifier;
use clickhouse::{Client, Row};
use headrace_runtime::fault::Fault;
use headrace_runtime::message::payload::{Content, Identity};
use headrace_schemas::time::Timestamp;
use serde::{Deserialize, Serialize, Serializer};

use crate::clickhouse::classify::fault;
use crate::clickhouse::write::insert::{Rows, Table, tenants};

/// Room for a statement with [`ITEMS_MAX`](super::ITEMS_MAX) identities, in bytes.
const STATEMENT_BYTES_MAX: &str = "4194304";
/// How long the server may take to look up or delete rows. A statement that is late does no harm.
const STATEMENT_LIMIT_S: &str = "600";
/// Later than any event.
pub(super) const END_OF_TIME: Timestamp = Timestamp::from_micros(4_102_444_800_000_000);

/// Looks up and deletes rows of one table.
pub(super) struct Statements {
    client: Client,
    table: String,
    /// Rows that were inserted then or later are fresh.
    since: Timestamp,
    /// Of the rows that were inserted before, those that were received from the first time on and before the second
    /// are older; the others are elsewhere.
    window: (Timestamp, Timestamp),
}

/// How many rows an identity has, and what the first of them was made of. If any were inserted before the rewriting,
/// the first is the one of those that was received first.
#[derive(Debug, Row, Deserialize)]
pub(super) struct Found {
    tenant: String,
    id: String,
    // Not under the name of a column, because GROUP BY would then use these instead of the column.
    #[serde(rename = "first_kind")]
    kind: String,
    #[serde(rename = "first_sha256")]
    sha256: String,
    /// Inserted since the rewriting began.
    pub(super) fresh: u64,
    /// Inserted before, received in the window.
    pub(super) older: u64,
    /// Inserted before, received at another time.
    elsewhere: i64,
    /// When the first of the rows that were inserted before was received, in microseconds since the Unix epoch.
    pub(super) first: i64,
}

impl Found {
    pub(super) const fn has_older(&self) -> bool {
        self.older > 0 || self.elsewhere > 0
    }

    pub(super) fn delivery(&self) -> Identity<&str> {
        let content = Content { kind: self.kind.as_str(), sha256: self.sha256.as_str() };
        Identity { tenant: &self.tenant, id: &self.id, content }
    }
}

/// An identity as the tuple of its columns.
struct Columns<'a>(Identity<&'a str>);

impl Serialize for Columns<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Identity { tenant, id, content } = self.0;
        if content == Content::default() {
            return (tenant, id).serialize(serializer);
        }
        (tenant, id, content.kind, content.sha256).serialize(serializer)
    }
}

impl Statements {
    pub(super) fn new(table: &Table, since: Timestamp, window: (Timestamp, Timestamp)) -> Self {
        let client = table
            .client()
            .clone()
            .with_setting("max_execution_time", STATEMENT_LIMIT_S)
            .with_setting("max_query_size", STATEMENT_BYTES_MAX)
            // Return when the rows are gone, on all replicas.
            .with_setting("lightweight_deletes_sync", "2");
        Self { client, table: table.name().to_owned(), since, window }
    }

    /// The identities that have several rows, among the tenants and ids of `names`, and when the latest row of each was
    /// inserted.
    pub(super) async fn twice<T: Rows>(
        &self,
        names: &HashSet<Identity<&str>>,
        from: Timestamp,
    ) -> Result<Vec<(Identity<String>, Timestamp)>, Fault> {
        let (identity, [kind, sha256]) = (T::IDENTITY, T::CONTENT.map(Identifier));
        let query = self
            .client
            .query(&format!(
                "SELECT tenant, id, any(?), any(?), toUnixTimestamp64Micro(max(inserted_at)) FROM ? \
                 WHERE tenant IN ? AND id IN ? AND received_at >= fromUnixTimestamp64Micro(?) \
                 GROUP BY {identity} HAVING count() > 1"
            ))
            .bind(kind)
            .bind(sha256)
            .bind(Identifier(&self.table))
            .bind(tenants(names.iter().copied()))
            .bind(names.iter().map(|name| name.id).collect::<Vec<_>>())
            .bind(from.as_micros());
        let rows = query.fetch_all::<(String, String, String, String, i64)>().await;
        let rows = rows.map_err(|error| fault(error).fault)?.into_iter().map(|(tenant, id, kind, sha256, latest)| {
            let content = Content { kind: kind.as_str(), sha256: sha256.as_str() };
            (owned(T::identity_of(Identity { tenant: &tenant, id: &id, content })), Timestamp::from_micros(latest))
        });
        Ok(rows.collect())
    }

    /// The rows of `names` that were received from `from` to `to`. For identities that have none, also the later ones.
    pub(super) async fn look_up<T: Rows>(
        &self,
        names: &[Identity<&str>],
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<Found>, Fault> {
        let mut found = self.look_up_within::<T>(names, from, to).await?;
        let there = by_identity::<T>(&found);
        let absent: Vec<Identity<&str>> = names.iter().copied().filter(|name| !there.contains_key(name)).collect();
        if !absent.is_empty() {
            let later = Timestamp::from_micros(to.as_micros() + 1);
            found.extend(self.look_up_within::<T>(&absent, later, END_OF_TIME).await?);
        }
        Ok(found)
    }

    async fn look_up_within<T: Rows>(
        &self,
        names: &[Identity<&str>],
        from: Timestamp,
        to: Timestamp,
    ) -> Result<Vec<Found>, Fault> {
        let (inside_from, inside_to) = self.window;
        let (identity, [kind, sha256]) = (T::IDENTITY, T::CONTENT);
        // Rows that were inserted before the rewriting come first.
        let of_first = "(inserted_at >= fromUnixTimestamp64Micro(?), received_at)";
        let query = self
            .client
            .query(&format!(
                "SELECT tenant, id, toString(argMin({kind}, {of_first})) AS first_kind, \
                 toString(argMin({sha256}, {of_first})) AS first_sha256, \
                 countIf(inserted_at >= fromUnixTimestamp64Micro(?)) AS fresh, \
                 countIf(inserted_at < fromUnixTimestamp64Micro(?) AND received_at >= fromUnixTimestamp64Micro(?) \
                 AND received_at < fromUnixTimestamp64Micro(?)) AS older, count() - fresh - older AS elsewhere, \
                 toUnixTimestamp64Micro(minIf(received_at, inserted_at < fromUnixTimestamp64Micro(?))) AS first \
                 FROM ? WHERE tenant IN ? AND id IN ? AND received_at >= fromUnixTimestamp64Micro(?) \
                 AND received_at <= fromUnixTimestamp64Micro(?) GROUP BY {identity}"
            ))
            .bind(self.since.as_micros())
            .bind(self.since.as_micros())
            .bind(self.since.as_micros())
            .bind(self.since.as_micros())
            .bind(inside_from.as_micros())
            .bind(inside_to.as_micros())
            .bind(self.since.as_micros())
            .bind(Identifier(&self.table))
            .bind(tenants(names.iter().copied()))
            .bind(names.iter().map(|name| name.id).collect::<Vec<_>>())
            .bind(from.as_micros())
            .bind(to.as_micros());
        query.fetch_all::<Found>().await.map_err(|error| fault(error).fault)
    }

    /// Deletes the rows of `names` that were received from `from` to `to` and inserted before `before`. A late
    /// statement of a process that was stopped does no harm, because later rows are newer.
    pub(super) async fn remove_before<T: Rows>(
        &self,
        names: &[Identity<&str>],
        from: Timestamp,
        to: Timestamp,
        before: Timestamp,
    ) -> Result<(), Fault> {
        let identity = T::IDENTITY;
        // Also name tenants and ids by themselves, so that ClickHouse can skip parts and granules by them.
        let query = self
            .client
            .query(&format!(
                "DELETE FROM ? WHERE tenant IN ? AND id IN ? AND ({identity}) IN ? \
                 AND inserted_at < fromUnixTimestamp64Micro(?) AND received_at >= fromUnixTimestamp64Micro(?) \
                 AND received_at <= fromUnixTimestamp64Micro(?)"
            ))
            .bind(Identifier(&self.table))
            .bind(tenants(names.iter().copied()))
            .bind(names.iter().map(|name| name.id).collect::<Vec<_>>())
            .bind(names.iter().copied().map(Columns).collect::<Vec<_>>())
            .bind(before.as_micros())
            .bind(from.as_micros())
            .bind(to.as_micros());
        query.execute().await.map_err(|error| fault(error).fault)
    }
}

/// The found rows, by identity.
pub(super) fn by_identity<T: Rows>(found: &[Found]) -> HashMap<Identity<&str>, &Found> {
    found.iter().map(|found| (T::identity_of(found.delivery()), found)).collect()
}

pub(super) fn owned(name: Identity<&str>) -> Identity<String> {
    let Identity { tenant, id, content: Content { kind, sha256 } } = name;
    let content = Content { kind: kind.to_owned(), sha256: sha256.to_owned() };
    Identity { tenant: tenant.to_owned(), id: id.to_owned(), content }
}
