//! Prints the result of a replay, for a person or for scripts.

use anyhow::Context as _;

use super::record::Totals;
use crate::cli::{exit, output, plain};

/// The table that a replay writes to if none is named.
const EVENTS: &str = "events";

/// Prints the totals to stdout, and what failed to stderr.
pub(super) fn tell(totals: &Totals, into: Option<&str>) -> anyhow::Result<()> {
    let Totals { computed, kept, filtered, bodies, dead_before, failures, .. } = totals;
    let table = into.unwrap_or(EVENTS);
    let mut text = format!("{computed} deliveries replayed into {table}");
    if into.is_none() {
        text.push_str(&format!(", {bodies} bodies added to raw"));
    }
    if *kept > 0 {
        text.push_str(&format!(", {kept} left unchanged because another delivery of their event has the row"));
    }
    if *filtered > 0 {
        text.push_str(&format!(", {filtered} left out by a filter"));
    }
    if *dead_before > 0 {
        text.push_str(&format!(", {dead_before} failed again and were dead letters before"));
    }
    output::line(text)?;
    for failure in failures {
        let [id, detail] = [&failure.id, &failure.detail].map(|text| plain::line(text));
        output::note(format_args!("{} {id} is unchanged: {}: {detail}", failure.origin, failure.reason));
    }
    let failed = totals.failed();
    if failed > failures.len() as u64 {
        output::note(format_args!("and {} more", failed - failures.len() as u64));
    }
    Ok(())
}

/// Prints the totals to stdout as JSON, with the first failures.
pub(super) fn tell_json(totals: &Totals, into: Option<&str>) -> anyhow::Result<()> {
    let mut told = serde_json::to_value(totals).context("cannot write the totals as JSON")?;
    told["table"] = into.unwrap_or(EVENTS).into();
    output::line(told)?;
    Ok(())
}

/// Fails if anything failed that was not a dead letter before.
pub(super) fn ensure_all_computed(totals: &Totals) -> anyhow::Result<()> {
    let failed = totals.failed();
    if failed == 0 {
        return Ok(());
    }
    let reasons: Vec<String> = totals.failed.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    Err(exit::missing(format!(
        "{failed} deliveries cannot be computed ({}); their rows, if any, are unchanged",
        reasons.join(", ")
    )))
}
