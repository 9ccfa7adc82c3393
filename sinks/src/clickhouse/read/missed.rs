//! What a sink has missed, out of the table `events`: a slice of the stream EVENTS by the times at which it was stored. Rows
//! that were not made from there have no such time. Who asks for all gets these by the time of reception.

use headrace_runtime::aside::history::{Order, Page, Row, Slice, Wanted};
use headrace_runtime::fault::Fault;
use headrace_runtime::message::payload::{Payload as _, Product as _};
use headrace_schemas::event::Event;
use headrace_schemas::time::Timestamp;

use super::event::{EventTable, StoredEvent};
use crate::clickhouse::classify::fault;

/// The hand-over of finished events.
const SCORED: &str = "scored";

impl EventTable {
    /// The events of `slice`, in order.
    ///
    /// # Errors
    /// Transient when the server is away, broken when a person must act.
    pub async fn stored(&self, slice: &Slice<'_>) -> Result<Page, Fault> {
        let parts = match slice.wanted {
            Wanted::Streamed => vec![part(slice, "stored_at", "")],
            // Two parts, because ClickHouse passes over granules by one index or the other, and by none for an OR.
            Wanted::All => vec![
                part(slice, "stored_at", ""),
                part(slice, "received_at", "stored_at = fromUnixTimestamp64Micro(0) AND "),
            ],
        };
        let sql = format!(
            "SELECT ?fields FROM ({}) ORDER BY if(toUnixTimestamp64Micro(stored_at) = 0, received_at, stored_at), tenant, id, \
             event_time LIMIT {}",
            parts.join(" UNION ALL "),
            // One more tells whether there are more.
            slice.events_max.saturating_add(1)
        );
        let mut query = self.client.query(&sql).with_setting("use_query_condition_cache", "0");
        for _ in &parts {
            query = query.bind(pattern(slice.filters));
            if let Some(Order { tenant, id, .. }) = slice.after {
                query = query.bind(tenant).bind(id);
            }
        }
        let mut rows = query.fetch::<StoredEvent>().map_err(|error| fault(error).fault)?;
        let (mut page, mut bytes) = (Page::default(), 0_usize);
        while let Some(row) = rows.next().await.map_err(|error| fault(error).fault)? {
            if page.rows.len() == slice.events_max || bytes >= slice.bytes_max {
                page.is_cut = true;
                break;
            }
            let (at, order) = (row.moment(), row.order());
            let event = row.into_event().and_then(|event| {
                let written = event.write(SCORED).map_err(|fault| fault.source)?.payload.len();
                bytes = bytes.saturating_add(Event::decoded_bytes(written));
                Ok(event)
            });
            page.rows.push(Row { at, order, event });
        }
        Ok(page)
    }

    /// When the first delivery was received of which the table has a row. It asks for what parts say of themselves.
    ///
    /// # Errors
    /// Transient when the server is away, broken when a person must act.
    pub async fn begins_at(&self) -> Result<Option<Timestamp>, Fault> {
        let query = self.client.query("SELECT count(), toUnixTimestamp64Micro(min(received_at)) FROM events");
        let (rows, first) = query.fetch_one::<(u64, i64)>().await.map_err(|error| fault(error).fault)?;
        Ok((rows > 0).then(|| Timestamp::from_micros(first)))
    }

    /// Whether the table has a row of a message that was stored before `at`. An index passes over the granules that have
    /// none.
    ///
    /// # Errors
    /// As above.
    pub async fn has_before(&self, at: Timestamp) -> Result<bool, Fault> {
        let query = self.client.query(
            "SELECT count() FROM (SELECT 1 FROM events WHERE stored_at > fromUnixTimestamp64Micro(0) \
             AND stored_at < fromUnixTimestamp64Micro(?) LIMIT 1)",
        );
        let query = query.with_setting("use_query_condition_cache", "0").bind(at.as_micros());
        Ok(query.fetch_one::<u64>().await.map_err(|error| fault(error).fault)? > 0)
    }
}

/// The query for the rows of `slice` by the time `column`, where `condition` holds. It binds the pattern of the filters, and
/// then tenant and id of what it comes after.
fn part(slice: &Slice<'_>, column: &str, condition: &str) -> String {
    // Rows of no message have the time 0.
    let (since, until) = (slice.since.as_micros().max(1), slice.until.as_micros());
    let after = slice.after.map_or_else(String::new, |Order { event_time, .. }| {
        format!(
            " AND ({column}, tenant, id, event_time) > (fromUnixTimestamp64Micro({since}, 'UTC'), ?, ?, \
             fromUnixTimestamp64Micro({}, 'UTC'))",
            event_time.as_micros()
        )
    });
    format!(
        "SELECT * FROM events WHERE {condition}{column} >= fromUnixTimestamp64Micro({since}) \
         AND {column} < fromUnixTimestamp64Micro({until}) \
         AND match(concat('events.scored.', tenant, '.', category, '.', severity), ?){after}"
    )
}

/// The regular expression for the subjects that one of `filters` takes.
fn pattern(filters: &[String]) -> String {
    if filters.is_empty() {
        return String::new();
    }
    // A backslash before a letter, a digit or `_` would be an error.
    let is_plain = |char: char| char.is_alphanumeric() || char == '_';
    let escaped = |char: char| if is_plain(char) { char.to_string() } else { format!("\\{char}") };
    let token = |token: &str| match token {
        "*" => "[^.]+".to_owned(),
        ">" => ".+".to_owned(),
        own => own.chars().map(escaped).collect(),
    };
    let filter = |filter: &String| filter.split('.').map(token).collect::<Vec<_>>().join("\\.");
    format!("^({})$", filters.iter().map(filter).collect::<Vec<_>>().join("|"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_become_one_expression() {
        assert_eq!(pattern(&[]), "");
        let filters = ["events.scored.>", "events.scored.octo_2eeu.*.high"].map(str::to_owned);
        assert_eq!(pattern(&filters), r"^(events\.scored\..+|events\.scored\.octo_2eeu\.[^.]+\.high)$");
    }
}
