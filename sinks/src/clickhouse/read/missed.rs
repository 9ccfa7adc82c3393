//! What a sink has missed, out of the table `events`: a slice of the stream EVENTS by the times at which it was stored.

use headrace_runtime::aside::feeder::{Page, Slice};
use headrace_runtime::fault::Fault;
use headrace_runtime::message::payload::{Payload as _, Product as _};
use headrace_schemas::event::Event;

use super::event::{EventTable, StoredEvent};
use crate::clickhouse::classify::fault;

/// The hand-over of finished events.
const SCORED: &str = "scored";

impl EventTable {
    /// The events of `slice`, in the order in which they were stored. Rows that a replay added are not among them: they
    /// were made from RAW, and nobody noted when EVENTS stored them.
    ///
    /// # Errors
    /// Transient when the server is away, broken when a person must act.
    pub async fn stored(&self, slice: &Slice<'_>) -> Result<Page, Fault> {
        let query = self
            .client
            .query(
                "SELECT ?fields FROM events WHERE events.stored_at >= fromUnixTimestamp64Micro(?) \
                 AND events.stored_at < fromUnixTimestamp64Micro(?) \
                 AND match(concat('events.scored.', tenant, '.', category, '.', severity), ?) \
                 ORDER BY stored_at, tenant, id LIMIT ?",
            )
            // Rows of no message have the time 0.
            .bind(slice.since.as_micros().max(1))
            .bind(slice.until.as_micros())
            .bind(pattern(slice.filters))
            // One more tells whether there are more.
            .bind(slice.events_max.saturating_add(1))
            .with_setting("use_query_condition_cache", "0");
        let mut rows = query.fetch::<StoredEvent>().map_err(|error| fault(error).fault)?;
        let (mut page, mut bytes) = (Page::default(), 0_usize);
        while let Some(row) = rows.next().await.map_err(|error| fault(error).fault)? {
            if page.events.len() == slice.events_max || bytes >= slice.bytes_max {
                page.is_cut = true;
                break;
            }
            let stored_at = row.stored_at();
            let event = row.into_event().map_err(Fault::broken)?;
            let written = event.write(SCORED)?.payload.len();
            bytes = bytes.saturating_add(Event::decoded_bytes(written));
            page.events.push((stored_at, event));
        }
        Ok(page)
    }
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
