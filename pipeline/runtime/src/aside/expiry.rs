//! Writes down what a sink will miss because the messages become too old, and what it missed while nobody looked.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::stream;
use headrace_schemas::time::Timestamp;

use crate::aside::Asides;
use crate::aside::record::{Cause, Range, Seen};
use crate::aside::retention::{Position, Reader, Readers, note_taken, purge, write_down};
use crate::broker::{Broker, Stream};

/// The longest time before their end at which messages are set aside.
const MARGIN_MAX: Duration = Duration::from_secs(3_600);

/// When messages of a stream become too old.
struct Ages {
    now: Timestamp,
    max: Duration,
    margin: Duration,
}

impl Ages {
    fn of(handle: &stream::Stream) -> Option<Self> {
        let max = handle.cached_info().config.max_age;
        (!max.is_zero()).then(|| Self { now: Timestamp::now(), max, margin: (max / 10).min(MARGIN_MAX) })
    }

    /// What was stored before this has less than the margin left.
    fn ends_soon(&self) -> Timestamp {
        self.now.minus(self.max.saturating_sub(self.margin))
    }

    /// If something ends soon, everything before this is set aside. Otherwise each look would find a little more.
    fn set_aside_until(&self) -> Timestamp {
        self.now.minus(self.max.saturating_sub(self.margin * 2))
    }
}

/// Looks at each sink that can catch up. What it has not settled and will soon be too old is written down, and what is
/// too old already.
pub(super) async fn note(broker: &Broker, handle: &stream::Stream, readers: &Readers) -> anyhow::Result<()> {
    let Some(ages) = Ages::of(handle) else { return Ok(()) };
    let Some(by_firm) = readers.settled_by_firm() else { return Ok(()) };
    let sinks: Vec<&Reader> = readers.all.iter().filter(|reader| reader.catches_up()).collect();
    if sinks.is_empty() {
        return Ok(());
    }
    let asides = Asides::open(broker).await?;
    for reader in &sinks {
        note_lost(&asides, handle, reader, &ages, broker.clock_skew()).await?;
    }
    let ends_soon = |reader: &&Reader| reader.oldest.is_some_and(|oldest| oldest.stored_at < ages.ends_soon());
    if !sinks.iter().any(ends_soon) {
        return Ok(());
    }
    let keep_from = first_stored_since(handle, ages.set_aside_until()).await?;
    let passed = readers.set_aside(broker, handle, keep_from, Cause::Age).await?;
    let keep_from = keep_from.min(by_firm.saturating_add(1));
    if keep_from <= handle.cached_info().state.first_sequence {
        // A consumer that cannot catch up needs them. The sink may get them from both places.
        return Ok(());
    }
    purge(Stream::Events, handle, keep_from).await?;
    note_taken(broker, &passed).await
}

/// Writes down what was removed because of its age before the sink had settled it. Notes how far the sink has come.
async fn note_lost(
    asides: &Asides,
    handle: &stream::Stream,
    reader: &Reader,
    ages: &Ages,
    skew: Duration,
) -> anyhow::Result<()> {
    let (name, info) = (reader.info.name.as_str(), &reader.info);
    let state = &handle.cached_info().state;
    // A stream that was made anew gives out the same sequences again.
    let seen = asides.record(name).await?.seen.filter(|seen| seen.sequence <= state.last_sequence);
    // Messages that were delivered may be unsettled, unless none is.
    let delivered = if info.num_ack_pending == 0 { info.delivered.stream_sequence } else { 0 };
    let known = seen.map_or(0, |seen| seen.sequence);
    // The broker also counts as settled what expired while it was delivered. If somebody looked within the margin, that was
    // written down before.
    let is_looked_after = seen.is_some_and(|seen| ages.now.since(seen.at) < ages.margin);
    let settled = if is_looked_after { info.ack_floor.stream_sequence.max(delivered) } else { 0 };
    let reached = settled.max(known);
    // Without a note, nobody knows whether what is gone was ever meant for this sink.
    let since = seen.filter(|_| reached + 1 < state.first_sequence).map(|seen| seen.stored_at);
    if let Some(since) = since {
        let until = Position::at(handle, state.first_sequence).await?.map_or(ages.now, |first| first.stored_at);
        let sequences = Some((reached + 1, state.first_sequence - 1));
        let (since, until) = (since.minus(skew), until.plus(skew).max(since));
        let range = Range { since, until, from: since, sequences, made_at: ages.now, cause: Cause::Age };
        write_down(asides, name, range, ages.now).await?;
    }
    let now = match reader.oldest {
        Some(oldest) => Seen { sequence: oldest.sequence.saturating_sub(1), stored_at: oldest.stored_at, at: ages.now },
        None => Seen { sequence: state.last_sequence, stored_at: ages.now, at: ages.now },
    };
    // Once in a while is enough: a note that is too old makes a range larger, never smaller. But one of a stream that was empty
    // would make a range begin before the store, which then seems to lack something.
    let is_due = |seen: Seen| {
        let was_empty = seen.sequence == 0 && state.last_sequence > 0 && seen.stored_at < now.stored_at;
        was_empty || ages.now.since(seen.at) >= ages.margin / 4
    };
    if seen.is_none_or(is_due) {
        let last = state.last_sequence;
        asides.change(name, |record| record.seen = Some(Seen { at: now.at, ..later(record.seen, now, last) })).await?;
    }
    Ok(())
}

/// The later of `known` and `now`. What is known beyond the `last` sequence of the stream is of one before it, as above.
fn later(known: Option<Seen>, now: Seen, last: u64) -> Seen {
    known.filter(|known| (now.sequence + 1..=last).contains(&known.sequence)).unwrap_or(now)
}

/// The sequence of the first message that was stored at `since` or later; behind the last one if none was.
async fn first_stored_since(handle: &stream::Stream, since: Timestamp) -> anyhow::Result<u64> {
    let state = &handle.cached_info().state;
    let (mut low, mut high) = (state.first_sequence, state.last_sequence + 1);
    // Sequences and times grow together.
    while low < high {
        let middle = low + (high - low) / 2;
        match Position::at(handle, middle).await.context("cannot look for the messages that end soon")? {
            Some(found) if found.stored_at < since => low = found.sequence + 1,
            _ => high = middle,
        }
    }
    Ok(low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_of_a_stream_that_was_made_anew_since_is_not_kept() {
        let seen = |sequence| Seen { sequence, stored_at: Timestamp::from_seconds(1), at: Timestamp::from_seconds(1) };
        let kept = |known: Option<u64>| later(known.map(seen), seen(5), 9).sequence;
        // Another process may have written down since what is missed.
        assert_eq!([None, Some(4), Some(6), Some(9)].map(kept), [5, 5, 6, 9]);
        assert_eq!(kept(Some(10)), 5);
    }

    #[test]
    fn what_ends_within_a_tenth_of_the_age_or_an_hour_is_due() {
        let now = Timestamp::from_seconds(1_000_000);
        for (max, margin) in [(600, 60), (72 * 3_600, 3_600)] {
            let max = Duration::from_secs(max);
            let ages = Ages { now, max, margin: (max / 10).min(MARGIN_MAX) };
            assert_eq!(ages.margin, Duration::from_secs(margin));
            assert_eq!(ages.ends_soon().since(now.minus(max)), ages.margin);
            assert_eq!(ages.set_aside_until().since(now.minus(max)), ages.margin * 2);
        }
    }
}
