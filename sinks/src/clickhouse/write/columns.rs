//! Whether a table has the columns that this release's rows need.
//!
//! The migrations make them so. But a person may change a table while a sink writes to it, and then the server refuses
//! every row as if the rows were to blame.

use clickhouse::{Client, Row};
use headrace_runtime::fault::Fault;
use serde::Deserialize;

use crate::clickhouse::classify::fault;

/// The columns of an [`EventRow`](super::row::EventRow).
pub(super) const EVENTS: &[(&str, &str)] = &[
    ("id", "String"),
    ("key", "UInt64"),
    ("content", "UInt64"),
    ("tenant", "LowCardinality(String)"),
    ("source", "LowCardinality(String)"),
    ("kind", "LowCardinality(String)"),
    ("action", "LowCardinality(String)"),
    ("audit_action", "LowCardinality(String)"),
    ("category", "LowCardinality(String)"),
    ("outcome", "LowCardinality(String)"),
    ("ocsf_class", "UInt32"),
    ("event_time", "DateTime64(6, 'UTC')"),
    ("occurred_at", "DateTime64(6, 'UTC')"),
    ("received_at", "DateTime64(6, 'UTC')"),
    ("stored_at", "DateTime64(6, 'UTC')"),
    ("actor_id", "Int64"),
    ("actor", "LowCardinality(String)"),
    ("actor_kind", "LowCardinality(String)"),
    ("target_kind", "LowCardinality(String)"),
    ("target_id", "String"),
    ("target_name", "String"),
    ("target_url", "String"),
    ("organization_id", "Int64"),
    ("organization", "LowCardinality(String)"),
    ("repository_id", "Int64"),
    ("repository", "LowCardinality(String)"),
    ("visibility", "LowCardinality(String)"),
    ("default_branch", "LowCardinality(String)"),
    ("changes.field", "Array(LowCardinality(String))"),
    ("changes.before", "Array(String)"),
    ("changes.after", "Array(String)"),
    ("changes.told", "Array(UInt8)"),
    ("attributes", "Map(LowCardinality(String), String)"),
    ("ip", "String"),
    ("country", "LowCardinality(String)"),
    ("user_agent", "LowCardinality(String)"),
    ("raw_sequence", "UInt64"),
    ("raw_sha256", "String"),
    ("raw_bytes", "UInt64"),
    ("assets", "Array(LowCardinality(String))"),
    ("asset_owner", "LowCardinality(String)"),
    ("asset_criticality", "LowCardinality(String)"),
    ("asset_labels", "Array(LowCardinality(String))"),
    ("risk", "UInt8"),
    ("severity", "LowCardinality(String)"),
    ("rules", "Array(LowCardinality(String))"),
    ("rule_titles", "Array(LowCardinality(String))"),
    ("techniques", "Array(LowCardinality(String))"),
    ("controls", "Array(LowCardinality(String))"),
    ("evidence", "Array(String)"),
    ("reasons.code", "Array(LowCardinality(String))"),
    ("reasons.points", "Array(Int32)"),
    ("reasons.text", "Array(String)"),
    ("matches", "String"),
    ("told", "UInt32"),
    ("held_until", "DateTime64(6, 'UTC')"),
];

/// The columns of a [`RawRow`](super::row::RawRow).
pub(super) const RAW: &[(&str, &str)] = &[
    ("id", "String"),
    ("key", "UInt64"),
    ("tenant", "LowCardinality(String)"),
    ("source", "LowCardinality(String)"),
    ("event", "LowCardinality(String)"),
    ("event_time", "DateTime64(6, 'UTC')"),
    ("received_at", "DateTime64(6, 'UTC')"),
    ("sequence", "UInt64"),
    ("headers", "Map(LowCardinality(String), String)"),
    ("body", "String"),
    ("sha256", "String"),
    ("content_1", "UInt64"),
    ("content_2", "UInt64"),
    ("held_until", "DateTime64(6, 'UTC')"),
];

/// How many columns a message names.
const TOLD_MAX: usize = 3;

/// A column as the server has it.
#[derive(Clone, Debug, PartialEq, Eq, Row, Deserialize)]
pub(super) struct Column {
    database: String,
    name: String,
    kind: String,
}

/// The columns of `table`; none when there is no such table.
pub(super) async fn of(client: &Client, table: &str) -> Result<Vec<Column>, Fault> {
    let query = client.query(
        "SELECT database, name, type AS kind FROM system.columns WHERE database = currentDatabase() AND table = ? \
         ORDER BY position",
    );
    query.bind(table).fetch_all::<Column>().await.map_err(|error| {
        let fault = fault(error).fault;
        Fault { source: fault.source.context(format!("cannot read the columns of `{table}`")), ..fault }
    })
}

/// What is wrong with the columns `found` of `table`, if anything is, and how to put it right.
pub(super) fn problem(found: &[Column], table: &str, needed: &[(&str, &str)]) -> Option<String> {
    let database = &found.first()?.database;
    let wrong = |&(name, kind): &(&str, &str)| {
        let column = found.iter().find(|column| column.name == name);
        match column {
            Some(column) if on_the_wire(&column.kind) == on_the_wire(kind) => None,
            Some(column) => Some(format!(
                "expected the column `{name}` of `{database}.{table}` as {kind}, found {}: \
                 ALTER TABLE {database}.{table} MODIFY COLUMN `{name}` {kind}",
                column.kind
            )),
            None => Some(format!(
                "expected the column `{name}` of `{database}.{table}` as {kind}, found none: was it renamed or dropped?"
            )),
        }
    };
    let mut wrong: Vec<String> = needed.iter().filter_map(wrong).collect();
    let more = wrong.len().saturating_sub(TOLD_MAX);
    wrong.truncate(TOLD_MAX);
    if more > 0 {
        wrong.push(format!("and {more} columns more"));
    }
    let advice = "put the table right, and the sink goes on by itself";
    (!wrong.is_empty()).then(|| format!("{}; {advice}", wrong.join("; ")))
}

/// The type as it is written in an insert. How the server stores texts, and in which zone it shows a time, make no
/// difference there.
fn on_the_wire(kind: &str) -> String {
    match kind.strip_prefix("DateTime64(").and_then(|precision| precision.split_once(',')) {
        Some((precision, _)) => format!("DateTime64({precision})"),
        None => kind.replace("LowCardinality(String)", "String"),
    }
}

#[cfg(test)]
mod tests {
    use headrace_runtime::message::payload::RawDelivery;
    use headrace_schemas::event::Event;

    use super::*;
    use crate::clickhouse::write::insert::Rows;

    #[test]
    fn every_field_of_a_row_has_its_column() {
        let names = |columns: &[(&'static str, &str)]| columns.iter().map(|(name, _)| *name).collect::<Vec<_>>();
        assert_eq!(names(<Event as Rows>::COLUMNS), <<Event as Rows>::Row as Row>::COLUMN_NAMES);
        assert_eq!(names(<RawDelivery as Rows>::COLUMNS), <<RawDelivery as Rows>::Row as Row>::COLUMN_NAMES);
    }

    /// The columns of `raw`, of which some are otherwise.
    fn found(changes: &[(&str, &str)]) -> Vec<Column> {
        let changed = |name: &str| changes.iter().find(|(changed, _)| *changed == name).map(|(_, kind)| *kind);
        let column = |&(name, kind): &(&str, &str)| Column {
            database: "headrace".to_owned(),
            name: name.to_owned(),
            kind: changed(name).unwrap_or(kind).to_owned(),
        };
        RAW.iter().map(column).filter(|column| column.kind != "gone").collect()
    }

    #[test]
    fn a_column_of_another_type_is_named_with_its_remedy() {
        for fine in [
            &[][..],
            &[("tenant", "String"), ("sha256", "LowCardinality(String)"), ("headers", "Map(String, String)")],
            &[("received_at", "DateTime64(6)"), ("held_until", "DateTime64(6, 'Europe/Berlin')")],
        ] {
            assert_eq!(problem(&found(fine), "raw", RAW), None, "{fine:?}");
        }
        assert_eq!(problem(&[], "raw", RAW), None, "another error tells that the table is not there");
        for (changes, told) in [
            (&[("sequence", "String")][..], "expected the column `sequence` of `headrace.raw` as UInt64, found String"),
            (&[("sequence", "String")], "ALTER TABLE headrace.raw MODIFY COLUMN `sequence` UInt64"),
            (&[("received_at", "DateTime64(3, 'UTC')")], "found DateTime64(3, 'UTC')"),
            (&[("tenant", "Nullable(String)")], "found Nullable(String)"),
            (&[("body", "gone")], "the column `body` of `headrace.raw` as String, found none"),
            (&[("id", "UUID"), ("tenant", "UUID"), ("event", "UUID"), ("body", "UUID")], "and 1 columns more"),
        ] {
            let problem = problem(&found(changes), "raw", RAW).unwrap();
            assert!(problem.contains(told), "no `{told}` in {problem}");
        }
    }
}
