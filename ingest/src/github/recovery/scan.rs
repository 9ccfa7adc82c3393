//! One pass over a hook's deliveries, newest first: what became of each, and which to ask for again.
//!
//! A scan only lists; `worker.rs` asks GitHub to send again. `classify.rs` decides about each delivery.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use anyhow::anyhow;
use headrace_schemas::time::Timestamp;

use super::answer::ApiError;
use super::api::{Api, Row};
use super::classify::{Attempts, DeliveryState, RedeliveryRequest, Times, classify};
use super::lookup::{DeliveryKey, Reader};
use super::proof::{Slot, SlotState};

/// Most redeliveries of a list that are remembered until the first attempt is listed. The others are taken for deliveries
/// that nobody asked for again; each may cost one needless request.
pub(super) const AGAIN_MAX: usize = 50_000;
/// What remembering one takes, in bytes: a GUID of 36 bytes and a time, in a map that may be half empty.
pub(super) const AGAIN_BYTES: usize = 256;

/// What a scan needs to know.
pub(super) struct Criteria<'a> {
    /// The times to classify by; `now` is when the run began.
    pub(super) times: Times,
    /// Deliveries of earlier slots are accounted for already.
    pub(super) floor: Slot,
    /// Most deliveries to ask for.
    pub(super) budget: usize,
    /// The redeliveries that this process asked for, by GUID.
    pub(super) asked: &'a HashMap<String, RedeliveryRequest>,
}

/// A delivery to ask for.
pub(super) struct MissingDelivery {
    pub(super) guid: String,
    pub(super) id: u64,
    pub(super) slot: Slot,
    pub(super) was_refused: bool,
}

/// What a scan found.
pub(super) struct Scan {
    /// What became of the deliveries of each slot.
    pub(super) slots: BTreeMap<Slot, SlotState>,
    /// The oldest of the deliveries that are due, oldest first: they have the least time left.
    pub(super) due: VecDeque<MissingDelivery>,
}

/// Lists deliveries down to the floor and classifies them.
///
/// It holds a page, at most [`AGAIN_MAX`] redeliveries and `budget` deliveries that are due.
pub(super) async fn scan(api: &mut Api, reader: &mut Reader<'_>, criteria: &Criteria<'_>) -> Result<Scan, ApiError> {
    let mut found = Scan { slots: BTreeMap::new(), due: VecDeque::new() };
    // A redelivery is newer than its first attempt, so the list shows it earlier.
    let mut again = Redeliveries::default();
    let mut listed_before: HashSet<u64> = HashSet::new();
    let mut cursor = None;
    loop {
        let page = api.page(cursor.as_deref()).await.map_err(|error| explain(error, api))?;
        let ids: HashSet<u64> = page.rows.iter().map(|row| row.id).collect();
        let newest = page.rows.iter().map(|row| row.delivered_at).max();
        let mut first_attempts = Vec::new();
        // Two pages may overlap by the row that the cursor names.
        for row in page.rows.into_iter().filter(|row| !listed_before.contains(&row.id)) {
            if row.redelivery {
                again.add(row);
            } else if Slot::of(row.delivered_at) >= criteria.floor {
                first_attempts.push(row);
            }
        }
        found.classify_all(first_attempts, &mut again, reader, criteria).await;
        let is_past = newest.is_none_or(|newest| Slot::of(newest) < criteria.floor);
        if is_past || page.next.is_none() || page.next == cursor {
            break;
        }
        (cursor, listed_before) = (page.next, ids);
    }
    Ok(found)
}

/// The redeliveries of a list whose first attempts are not listed yet, by GUID.
#[derive(Default)]
struct Redeliveries {
    of: HashMap<String, Redelivered>,
    count: usize,
}

/// The redeliveries of one delivery.
#[derive(Default)]
struct Redelivered {
    at: Vec<Timestamp>,
    succeeded: bool,
}

impl Redeliveries {
    fn add(&mut self, row: Row) {
        if self.count == AGAIN_MAX {
            return;
        }
        self.count += 1;
        let succeeded = row.succeeded();
        let redelivered = self.of.entry(row.guid).or_default();
        redelivered.at.push(row.delivered_at);
        redelivered.succeeded |= succeeded;
    }

    fn take(&mut self, guid: &str) -> Redelivered {
        let redelivered = self.of.remove(guid).unwrap_or_default();
        self.count -= redelivered.at.len();
        redelivered
    }
}

/// A person must mend a hook that cannot be listed.
fn explain(error: ApiError, api: &Api) -> ApiError {
    match error {
        ApiError::Refused(status, message) => ApiError::Broken(anyhow!(
            "GitHub does not list the deliveries of {} ({status}: {message}); is the hook there, and may the token or App see it?",
            api.hook().name
        )),
        other => other,
    }
}

impl Scan {
    async fn classify_all(
        &mut self,
        rows: Vec<Row>,
        again: &mut Redeliveries,
        reader: &mut Reader<'_>,
        criteria: &Criteria<'_>,
    ) {
        let times = || rows.iter().map(|row| row.delivered_at);
        let (Some(first), Some(last)) = (times().min(), times().max()) else { return };
        let sought: Vec<DeliveryKey> = rows.iter().map(Row::key).collect();
        let stored = reader.read(&sought, first, last, criteria.times.now).await;
        for (row, sought) in rows.into_iter().zip(sought) {
            let Redelivered { at, succeeded } = again.take(&row.guid);
            let attempts = Attempts { first: row.delivered_at, again: at, succeeded: row.succeeded() || succeeded };
            let sent_last = attempts.again.iter().copied().fold(attempts.first, Timestamp::max);
            let record = reader.record(&stored, &sought, sent_last);
            let asked = criteria.asked.get(&row.guid);
            let state = classify(&attempts, record, asked, criteria.times);
            self.count(row, state, asked.is_some_and(|asked| asked.refused), criteria);
        }
    }

    fn count(&mut self, row: Row, state: DeliveryState, was_refused: bool, criteria: &Criteria<'_>) {
        let slot = Slot::of(row.delivered_at);
        let slot_state = self.slots.entry(slot).or_default();
        slot_state.counts.delivered += 1;
        match state {
            DeliveryState::Seen => slot_state.counts.seen += 1,
            DeliveryState::Recovered => slot_state.counts.recovered += 1,
            DeliveryState::Waiting(until) => {
                slot_state.counts.waiting += 1;
                slot_state.look_again(until);
            }
            DeliveryState::Missing(at) => {
                slot_state.counts.missing += 1;
                if at > criteria.times.now {
                    slot_state.counts.refused += u64::from(was_refused);
                    slot_state.look_again(at);
                    return;
                }
                self.due.push_front(MissingDelivery { guid: row.guid, id: row.id, slot, was_refused });
                if self.due.len() > criteria.budget
                    && let Some(newest) = self.due.pop_back()
                {
                    self.leave(&newest, criteria.times.now);
                }
            }
        }
    }

    /// Leaves to the next run a delivery that is due.
    pub(super) fn leave(&mut self, due: &MissingDelivery, now: Timestamp) {
        let slot_state = self.slots.entry(due.slot).or_default();
        slot_state.counts.refused += u64::from(due.was_refused);
        slot_state.look_again(now);
    }

    /// Notes that a delivery was asked for, and when to check what became of it.
    pub(super) fn asked(&mut self, due: &MissingDelivery, refused: bool, look_again_at: Timestamp) {
        let slot_state = self.slots.entry(due.slot).or_default();
        slot_state.counts.refused += u64::from(refused);
        slot_state.look_again(look_again_at);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn redelivery(number: usize, status_code: u16) -> Row {
        Row {
            id: number as u64,
            guid: format!("guid-{number}"),
            delivered_at: Timestamp::from_micros(number as i64),
            redelivery: true,
            event: "push".to_owned(),
            status_code: Some(status_code),
        }
    }

    #[test]
    fn no_more_redeliveries_are_remembered_than_there_is_room_for() {
        let mut again = Redeliveries::default();
        (0..AGAIN_MAX + 10).for_each(|number| again.add(redelivery(number, 502)));
        assert_eq!((again.of.len(), again.count), (AGAIN_MAX, AGAIN_MAX));
        assert!(again.take(&format!("guid-{AGAIN_MAX}")).at.is_empty(), "it came when there was no room");
        let first = again.take("guid-0");
        assert_eq!((first.at, first.succeeded, again.count), (vec![Timestamp::from_micros(0)], false, AGAIN_MAX - 1));
        // Each attempt counts, also several of one delivery.
        let several = [redelivery(AGAIN_MAX, 502), redelivery(AGAIN_MAX, 202)];
        several.into_iter().for_each(|row| again.add(row));
        let found = again.take(&format!("guid-{AGAIN_MAX}"));
        assert_eq!((found.at.len(), found.succeeded, again.count), (1, false, AGAIN_MAX - 1));
        [502, 202].into_iter().for_each(|status| again.add(redelivery(1, status)));
        let found = again.take("guid-1");
        assert_eq!((found.at.len(), found.succeeded), (2, false), "there was room for one of the two");
    }
}
