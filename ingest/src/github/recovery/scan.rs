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
/// It holds a page, the redeliveries in the list (as many as the budget of the hours that it covers) and `budget`
/// deliveries that are due.
pub(super) async fn scan(api: &mut Api, reader: &mut Reader<'_>, criteria: &Criteria<'_>) -> Result<Scan, ApiError> {
    let mut found = Scan { slots: BTreeMap::new(), due: VecDeque::new() };
    // A redelivery is newer than its first attempt, so the list shows it earlier.
    let mut again: HashMap<String, Vec<Row>> = HashMap::new();
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
                again.entry(row.guid.clone()).or_default().push(row);
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
        again: &mut HashMap<String, Vec<Row>>,
        reader: &mut Reader<'_>,
        criteria: &Criteria<'_>,
    ) {
        let times = || rows.iter().map(|row| row.delivered_at);
        let (Some(first), Some(last)) = (times().min(), times().max()) else { return };
        let sought: Vec<DeliveryKey> = rows.iter().map(Row::key).collect();
        let stored = reader.read(&sought, first, last, criteria.times.now).await;
        for (row, sought) in rows.into_iter().zip(sought) {
            let repeats = again.remove(&row.guid).unwrap_or_default();
            let attempts = Attempts {
                first: row.delivered_at,
                again: repeats.iter().map(|repeat| repeat.delivered_at).collect(),
                succeeded: row.succeeded() || repeats.iter().any(Row::succeeded),
            };
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
