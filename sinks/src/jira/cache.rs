//! What this process knows about the tickets of recent alerts. Jira's search lags behind, so it is asked only about
//! alerts whose ticket this process has not seen.

use std::collections::{HashMap, VecDeque};

use headrace_schemas::alert::Alert;
use tokio::time::Instant;

/// How many alerts are remembered. The oldest is forgotten first, and is then found by search.
const ALERTS_MAX: usize = 10_000;

/// A ticket and what was last said in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    /// Jira's id of the issue.
    pub(super) issue: String,
    /// The alert's count when the ticket last changed.
    pub(super) said_count: i64,
    /// The alert's risk then.
    pub(super) said_risk: i32,
}

impl Ticket {
    /// Whether the alert has grown so much that the ticket should say so: the count has doubled, or
    /// the risk has risen. A flood of a million events makes twenty comments.
    pub(super) fn is_outgrown_by(&self, alert: &Alert) -> bool {
        alert.count >= self.said_count.saturating_mul(2).max(2) || alert.risk > self.said_risk
    }
}

/// What is known about an alert's ticket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// It exists.
    Ticket(Ticket),
    /// It may exist. A search that begins after this moment would find it.
    Unclear { searchable_from: Instant },
}

/// The bounded memory.
#[derive(Default)]
pub(super) struct TicketCache {
    known: HashMap<String, Known>,
    order: VecDeque<String>,
}

impl TicketCache {
    pub(super) fn get(&self, alert: &str) -> Option<&Known> {
        self.known.get(alert)
    }

    pub(super) fn set(&mut self, alert: &str, known: Known) {
        if self.known.insert(alert.to_owned(), known).is_none() {
            self.order.push_back(alert.to_owned());
        }
        while self.known.len() > ALERTS_MAX {
            let Some(oldest) = self.order.pop_front() else { break };
            self.known.remove(&oldest);
        }
    }

    pub(super) fn forget(&mut self, alert: &str) {
        if self.known.remove(alert).is_some() {
            self.order.retain(|other| other != alert);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(issue: usize) -> Known {
        Known::Ticket(Ticket { issue: issue.to_string(), said_count: 1, said_risk: 50 })
    }

    #[test]
    fn the_oldest_is_forgotten_first() {
        let mut cache = TicketCache::default();
        (0..=ALERTS_MAX).for_each(|number| cache.set(&number.to_string(), ticket(number)));
        assert_eq!(cache.get("0"), None);
        assert_eq!(cache.get("1"), Some(&ticket(1)));
        cache.forget("1");
        cache.set("new", ticket(9));
        assert_eq!(cache.get("2"), Some(&ticket(2)));
        assert_eq!(cache.known.len(), cache.order.len());
    }
}
