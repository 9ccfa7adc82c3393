//! One pass over a hook's deliveries, newest first: what became of each, and which to ask for again.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use anyhow::anyhow;
use headrace_schemas::time::Timestamp;

use super::answer::Trouble;
use super::api::{Api, Row};
use super::judge::{Asked, Attempts, Times, Verdict, judge};
use super::ledger::{Reader, Sought};
use super::proof::{Slot, Tally};

/// What a run asks of a survey.
pub(super) struct Terms<'a> {
    /// By what everything is judged; the present is the run's beginning.
    pub(super) times: Times,
    /// Deliveries of earlier slots are accounted for.
    pub(super) floor: Slot,
    /// Most deliveries to ask for.
    pub(super) budget: usize,
    /// What was asked for before, by GUID.
    pub(super) asked: &'a HashMap<String, Asked>,
}

/// A delivery to ask for.
pub(super) struct Due {
    pub(super) guid: String,
    pub(super) id: u64,
    pub(super) slot: Slot,
    pub(super) was_refused: bool,
}

/// What was found.
pub(super) struct Survey {
    /// What became of the deliveries of each slot.
    pub(super) tallies: BTreeMap<Slot, Tally>,
    /// The oldest of those that are due, oldest first: they have the least time left.
    pub(super) due: VecDeque<Due>,
}

/// Lists deliveries down to the floor and judges them.
///
/// What is held at once: a page, the redeliveries in the list (as many as the budget of the hours it
/// covers) and `budget` deliveries that are due.
pub(super) async fn survey(api: &mut Api, reader: &mut Reader<'_>, terms: &Terms<'_>) -> Result<Survey, Trouble> {
    let mut found = Survey { tallies: BTreeMap::new(), due: VecDeque::new() };
    // A redelivery is newer than what it repeats, so that the list shows it before.
    let mut again: HashMap<String, Vec<Row>> = HashMap::new();
    let mut listed_before: HashSet<u64> = HashSet::new();
    let mut cursor = None;
    loop {
        let page = api.page(cursor.as_deref()).await.map_err(|trouble| explain(trouble, api))?;
        let ids: HashSet<u64> = page.rows.iter().map(|row| row.id).collect();
        let newest = page.rows.iter().map(|row| row.delivered_at).max();
        let mut first_attempts = Vec::new();
        // Pages may overlap by the row that the cursor stands for.
        for row in page.rows.into_iter().filter(|row| !listed_before.contains(&row.id)) {
            if row.redelivery {
                again.entry(row.guid.clone()).or_default().push(row);
            } else if Slot::of(row.delivered_at) >= terms.floor {
                first_attempts.push(row);
            }
        }
        found.judge_all(first_attempts, &mut again, reader, terms).await;
        let is_past = newest.is_none_or(|newest| Slot::of(newest) < terms.floor);
        if is_past || page.next.is_none() || page.next == cursor {
            break;
        }
        (cursor, listed_before) = (page.next, ids);
    }
    Ok(found)
}

/// A hook that cannot be listed is for a person to mend.
fn explain(trouble: Trouble, api: &Api) -> Trouble {
    match trouble {
        Trouble::Refused(status, message) => Trouble::Broken(anyhow!(
            "GitHub does not list the deliveries of {} ({status}: {message}); is the hook there, and may the token or App see it?",
            api.hook().name
        )),
        other => other,
    }
}

impl Survey {
    async fn judge_all(
        &mut self,
        rows: Vec<Row>,
        again: &mut HashMap<String, Vec<Row>>,
        reader: &mut Reader<'_>,
        terms: &Terms<'_>,
    ) {
        let times = || rows.iter().map(|row| row.delivered_at);
        let (Some(first), Some(last)) = (times().min(), times().max()) else { return };
        let sought: Vec<Sought> = rows.iter().map(Row::sought).collect();
        let stored = reader.read(&sought, first, last, terms.times.now).await;
        for (row, sought) in rows.into_iter().zip(sought) {
            let repeats = again.remove(&row.guid).unwrap_or_default();
            let attempts = Attempts {
                first: row.delivered_at,
                again: repeats.iter().map(|repeat| repeat.delivered_at).collect(),
                succeeded: row.succeeded() || repeats.iter().any(Row::succeeded),
            };
            let sent_last = attempts.again.iter().copied().fold(attempts.first, Timestamp::max);
            let record = reader.record(&stored, &sought, sent_last);
            let asked = terms.asked.get(&row.guid);
            let verdict = judge(&attempts, record, asked, terms.times);
            self.count(row, verdict, asked.is_some_and(|asked| asked.refused), terms);
        }
    }

    fn count(&mut self, row: Row, verdict: Verdict, was_refused: bool, terms: &Terms<'_>) {
        let slot = Slot::of(row.delivered_at);
        let tally = self.tallies.entry(slot).or_default();
        tally.counts.delivered += 1;
        match verdict {
            Verdict::Seen => tally.counts.seen += 1,
            Verdict::Recovered => tally.counts.recovered += 1,
            Verdict::Waiting(until) => {
                tally.counts.waiting += 1;
                tally.look_again(until);
            }
            Verdict::Missing(at) => {
                tally.counts.missing += 1;
                if at > terms.times.now {
                    tally.counts.refused += u64::from(was_refused);
                    tally.look_again(at);
                    return;
                }
                self.due.push_front(Due { guid: row.guid, id: row.id, slot, was_refused });
                if self.due.len() > terms.budget
                    && let Some(newest) = self.due.pop_back()
                {
                    self.leave(&newest, terms.times.now);
                }
            }
        }
    }

    /// Leaves a delivery that is due to the next run.
    pub(super) fn leave(&mut self, due: &Due, now: Timestamp) {
        let tally = self.tallies.entry(due.slot).or_default();
        tally.counts.refused += u64::from(due.was_refused);
        tally.look_again(now);
    }

    /// Notes that a delivery was asked for, and when to look what became of it.
    pub(super) fn asked(&mut self, due: &Due, refused: bool, look_again_at: Timestamp) {
        let tally = self.tallies.entry(due.slot).or_default();
        tally.counts.refused += u64::from(refused);
        tally.look_again(look_again_at);
    }
}
