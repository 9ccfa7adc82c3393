//! Rows of the store of which no event can be made: another release wrote them, or a person. They go to DEAD, so that what
//! comes after them is brought all the same.
//!
//! The dead letter only names its row, which stays in the store. It was never a message, so it cannot be redriven.

use async_nats::HeaderMap;
use headrace_schemas::{header, subject};
use serde_json::json;

use crate::aside::history::{Order, Row};
use crate::aside::record::Range;
use crate::fault::{DeadReason, Fault};
use crate::message::payload::RawDelivery;
use crate::observe::component::ComponentMetrics;
use crate::publish::Publisher;
use crate::settle::dead_letters::ROW_ORIGIN;
use crate::settle::settler::one_line;

/// What a person can do about it.
const REMEDY: &str = "mend the row, or run the release that wrote it; then `headrace sinks rewind` brings it";

/// Sends to DEAD those of `rows` that make no event, and waits until DEAD has them.
///
/// # Errors
/// Transient, when DEAD does not take them.
pub(super) async fn give_up(
    publisher: &Publisher,
    metrics: &ComponentMetrics,
    component: &str,
    range: &Range,
    rows: &[Row],
) -> Result<(), Fault> {
    let mut told = None;
    for row in rows {
        let Err(why) = &row.event else { continue };
        let Order { tenant, id, .. } = &row.order;
        let payload = json!({ "table": "events", "tenant": tenant, "id": id, "at": row.at }).to_string();
        let dead = publisher.send_headers(
            subject::dead(component, tenant),
            headers(component, range, row, why),
            payload.into(),
        );
        dead.await?.confirmed_or_cut_off().await?;
        metrics.dead(DeadReason::Malformed.code());
        let (count, _) = told.get_or_insert((0_u64, (id, why)));
        *count += 1;
    }
    if let Some((count, (id, why))) = told {
        tracing::error!(
            component,
            count,
            id,
            cause = format!("{why:#}"),
            remedy = REMEDY,
            "rows of ClickHouse make no events, so this sink is not brought them; each is named in DEAD, and `id` and `cause` \
             are of the first"
        );
    }
    Ok(())
}

fn headers(component: &str, range: &Range, row: &Row, why: &anyhow::Error) -> HeaderMap {
    let Order { tenant, id, event_time } = &row.order;
    // An id may be longer than a header should be.
    let (made_at, event_time, hash) = (range.made_at, event_time.as_micros(), RawDelivery::sha256_of(id.as_bytes()));
    let message_id = format!("{component}/{}/row/{tenant}/{event_time}/{hash}", made_at.as_micros());
    let mut headers = HeaderMap::new();
    for (name, value) in [
        (header::MESSAGE_ID, message_id),
        (header::ID, id.clone()),
        (header::DEAD_COMPONENT, component.to_owned()),
        (header::DEAD_REASON, DeadReason::Malformed.code().to_owned()),
        (header::DEAD_DETAIL, format!("{why:#}; {REMEDY}")),
        (header::DEAD_ATTEMPTS, "1".to_owned()),
        (header::DEAD_ORIGIN, format!("{ROW_ORIGIN}{}", row.at)),
    ] {
        headers.insert(name, one_line(&value).as_str());
    }
    headers
}
